//! One decoder layer as one differentiable candle operation on the residual stream.
//!
//! `x + Wo attention(rope(Wq n), rope(Wk n), Wv n)` with `n = norm(x)`, then
//! `x + Wdown (silu(Wgate m) * Wup m)` with `m = norm(x)`. The backward pass reads
//! what the forward pass kept, and adds weight gradients to the shared sums.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::linear::{Linear, Weight};
use super::params::Gradients;
use crate::nn::attention::{self, Heads, Scheme, Segment};
use crate::nn::custom_op::{input, lock};
use crate::nn::real::with_slice;
use crate::nn::{Precision, Real, Rows, Stored, norm, rope, swiglu};

/// The nine weights of a layer.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in checkpoints")]
pub struct LayerWeights {
    pub input_layernorm: Weight,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub post_attention_layernorm: Weight,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

/// What all layers of a pass share.
#[derive(Debug)]
pub struct LayerPass<T> {
    /// Heads of the model.
    pub heads: Heads,
    /// I.
    pub intermediate: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Operands of the matrix products.
    pub precision: Precision,
    /// Rotary table.
    pub rope: Arc<rope::RotaryTable<T>>,
    /// Position of every packed row.
    pub positions: Vec<u32>,
    /// Which rows attend to which.
    pub segments: Vec<Segment>,
    /// Positions that a row sees; 0 = all.
    pub window: usize,
    /// Where gradients go; `None` in evaluation, where nothing is kept.
    pub gradients: Option<Arc<Gradients>>,
    /// Whether a layer keeps its input alone, and the backward pass computes the rest again.
    pub recompute: bool,
}

impl<T> LayerPass<T> {
    fn scheme(&self) -> Scheme<'_> {
        Scheme { segments: &self.segments, heads: self.heads, window: self.window, precision: self.precision }
    }
}

/// What the backward pass needs of the forward pass. Operands of products are kept in the products' precision; the
/// residual stream and what normalises are not rounded.
#[derive(Debug)]
struct Kept<T> {
    inverse1: Vec<T>,
    q: Stored<T>,
    k: Stored<T>,
    v: Stored<T>,
    attended: Stored<T>,
    lse: Vec<T>,
    middle: Vec<T>,
    inverse2: Vec<T>,
    gate: Stored<T>,
    up: Stored<T>,
}

impl<T: Real> Kept<T> {
    /// Bytes of memory.
    fn bytes(&self) -> usize {
        let Kept { inverse1, q, k, v, attended, lse, middle, inverse2, gate, up } = self;
        let whole: usize = [inverse1, lse, middle, inverse2].iter().map(|x| size_of_val(x.as_slice())).sum();
        whole + [q, k, v, attended, gate, up].iter().map(|x| x.bytes()).sum::<usize>()
    }
}

/// The operation of one layer in one pass.
#[derive(Debug)]
pub struct Layer<T> {
    weights: LayerWeights,
    pass: Arc<LayerPass<T>>,
    kept: Mutex<Option<Kept<T>>>,
}

fn zeros<T: Real>(n: usize) -> Vec<T> {
    vec![T::zero(); n]
}

impl<T: Real> Layer<T> {
    /// A layer for one pass.
    pub fn new(weights: LayerWeights, pass: Arc<LayerPass<T>>) -> Layer<T> {
        Layer { weights, pass, kept: Mutex::new(None) }
    }

    /// One operand of this pass' products.
    fn rows<'a>(&self, values: &'a [T]) -> Rows<'a, T> {
        Rows::new(values, self.pass.positions.len(), self.pass.precision)
    }

    /// Bytes kept for the backward pass, besides the layer's input.
    pub fn kept_bytes(&self) -> usize {
        lock(&self.kept).as_ref().map_or(0, Kept::bytes)
    }

    /// The layer's output, and what the backward pass needs where it is wanted.
    fn forward(&self, x: &[T], keep: bool) -> candle_core::Result<(Vec<T>, Option<Kept<T>>)> {
        let (w, p) = (&self.weights, &*self.pass);
        let n = p.positions.len();
        let (qw, kvw) = (p.heads.query * p.heads.size, p.heads.kv * p.heads.size);
        let (mut normed, mut inverse1) = (zeros(x.len()), zeros(n));
        w.input_layernorm.with(|w| norm::forward(x, w, p.eps, &mut normed, &mut inverse1))?;
        let (mut q, mut k, mut v) = (zeros(n * qw), zeros(n * kvw), zeros(n * kvw));
        let input = self.rows(&normed);
        w.q_proj.forward(&input, &mut q, false)?;
        w.k_proj.forward(&input, &mut k, false)?;
        w.v_proj.forward(&input, &mut v, false)?;
        p.rope.rotate(&mut q, &p.positions, false);
        p.rope.rotate(&mut k, &p.positions, false);
        let (mut attended, mut lse) = (zeros(n * qw), zeros(n * p.heads.query));
        attention::forward(&q, &k, &v, &mut attended, &mut lse, &p.scheme());
        let mut middle = x.to_vec();
        w.o_proj.forward(&self.rows(&attended), &mut middle, true)?;
        let mut inverse2 = zeros(n);
        w.post_attention_layernorm.with(|w| {
            norm::forward(&middle, w, p.eps, &mut normed, &mut inverse2);
        })?;
        let size = n * p.intermediate;
        let (mut gate, mut up, mut gated) = (zeros(size), zeros(size), zeros(size));
        let input = self.rows(&normed);
        w.gate_proj.forward(&input, &mut gate, false)?;
        w.up_proj.forward(&input, &mut up, false)?;
        let gates = if keep {
            Some(swiglu::forward_keeping(gate, up, &mut gated, p.precision))
        } else {
            swiglu::forward(&gate, &up, &mut gated);
            None
        };
        let mut out = middle.clone();
        w.down_proj.forward(&self.rows(&gated), &mut out, true)?;
        let kept = gates.map(|[gate, up]| {
            let [q, k, v, attended] = [q, k, v, attended].map(|values| Stored::new(values, p.precision));
            Kept { inverse1, q, k, v, attended, lse, middle, inverse2, gate, up }
        });
        Ok((out, kept))
    }

    /// Backward of one norm: adds to `dx` and to the weight's sum.
    fn norm_backward(
        &self,
        weight: &Weight,
        x: &[T],
        inverse: &[T],
        dy: &[T],
        dx: &mut [T],
    ) -> candle_core::Result<()> {
        let gradients = self.pass.gradients.as_ref().filter(|g| g.wants(weight.position));
        match gradients {
            None => weight.with(|w| norm::backward(x, w, inverse, dy, dx, None)),
            Some(gradients) => weight
                .with(|w| gradients.add::<T>(weight.position, |dw| norm::backward(x, w, inverse, dy, dx, Some(dw))))?,
        }
    }

    fn backward(&self, x: &[T], dout: &[T], kept: Kept<T>) -> candle_core::Result<Vec<T>> {
        let (w, p) = (&self.weights, &*self.pass);
        let Kept { inverse1, q, k, v, attended, lse, middle, inverse2, gate, up } = kept;
        let sums = p.gradients.as_deref();
        // Feed-forward.
        let size = p.positions.len() * p.intermediate;
        let (mut gated, mut dgated) = (zeros(size), zeros(size));
        swiglu::again(&gate, &up, &mut gated);
        w.down_proj.backward(sums, &self.rows(dout), &self.rows(&gated), &mut dgated, false)?;
        drop(gated);
        let [gate, up] = swiglu::backward(gate, up, &dgated);
        drop(dgated);
        let (mut normed, mut dnormed) = (zeros(x.len()), zeros(x.len()));
        w.post_attention_layernorm.with(|w| norm::again(&middle, w, &inverse2, &mut normed))?;
        let input = self.rows(&normed);
        w.gate_proj.backward(sums, &self.rows(&gate), &input, &mut dnormed, false)?;
        w.up_proj.backward(sums, &self.rows(&up), &input, &mut dnormed, true)?;
        drop((gate, up));
        let mut dmiddle = dout.to_vec();
        self.norm_backward(&w.post_attention_layernorm, &middle, &inverse2, &dnormed, &mut dmiddle)?;
        drop(middle);
        // Attention.
        let [q, k, v, attended] = [q, k, v, attended].map(Stored::into_values);
        let mut dattended = zeros(attended.len());
        w.o_proj.backward(sums, &self.rows(&dmiddle), &self.rows(&attended), &mut dattended, false)?;
        let (mut dq, mut dk, mut dv) = (zeros(q.len()), zeros(k.len()), zeros(v.len()));
        let saved = attention::Saved { q: &q, k: &k, v: &v, out: &attended, lse: &lse, dout: &dattended };
        attention::backward(&saved, &mut dq, &mut dk, &mut dv, &p.scheme());
        p.rope.rotate(&mut dq, &p.positions, true);
        p.rope.rotate(&mut dk, &p.positions, true);
        w.input_layernorm.with(|w| norm::again(x, w, &inverse1, &mut normed))?;
        let input = self.rows(&normed);
        w.q_proj.backward(sums, &self.rows(&dq), &input, &mut dnormed, false)?;
        w.k_proj.backward(sums, &self.rows(&dk), &input, &mut dnormed, true)?;
        w.v_proj.backward(sums, &self.rows(&dv), &input, &mut dnormed, true)?;
        let mut dx = dmiddle;
        self.norm_backward(&w.input_layernorm, x, &inverse1, &dnormed, &mut dx)?;
        Ok(dx)
    }
}

impl<T: Real> CustomOp1 for Layer<T> {
    fn name(&self) -> &'static str {
        "decoder-layer"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let keep = self.pass.gradients.is_some() && !self.pass.recompute;
        let (out, kept) = self.forward(input::<T>(storage, layout, self.name())?, keep)?;
        *lock(&self.kept) = kept;
        Ok((T::to_cpu_storage_owned(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut kept = lock(&self.kept).take();
        if self.pass.recompute {
            kept = with_slice::<T, _>(arg, |x| self.forward(x, true))??.1;
        }
        let Some(kept) = kept else { candle_core::bail!("decoder-layer: nothing was kept for a backward pass") };
        let grad = grad_res.contiguous()?;
        let dx = with_slice::<T, _>(arg, |x| with_slice::<T, _>(&grad, |dout| self.backward(x, dout, kept)))???;
        if let Some(gradients) = &self.pass.gradients {
            gradients.completed(self.weights.input_layernorm.position);
        }
        Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::init::{normal, random};
    use crate::model::{LlamaConfig, Param, Params, names};
    use crate::seed::Seed;

    #[test]
    fn computing_again_keeps_nothing_and_gives_the_same_bits() {
        let config = LlamaConfig::tiny(32, 1, 20);
        let params = Params::new(random::<f32>(&config, 0.3, Seed(2)).unwrap()).unwrap();
        let weight = |part: &str| {
            let position = params.position(&names::layer(0, part)).unwrap();
            Weight { tensor: params.get(position).var.as_tensor().clone(), position }
        };
        let linear = |part: &str| Linear::plain(weight(part));
        let weights = LayerWeights {
            input_layernorm: weight("input_layernorm"),
            q_proj: linear("self_attn.q_proj"),
            k_proj: linear("self_attn.k_proj"),
            v_proj: linear("self_attn.v_proj"),
            o_proj: linear("self_attn.o_proj"),
            post_attention_layernorm: weight("post_attention_layernorm"),
            gate_proj: linear("mlp.gate_proj"),
            up_proj: linear("mlp.up_proj"),
            down_proj: linear("mlp.down_proj"),
        };
        let rows = 6;
        let x: Vec<f32> = normal(Seed(3), "x", rows * 32).map(|x| x as f32).collect();
        let dy: Vec<f32> = normal(Seed(3), "dy", rows * 32).map(|x| x as f32).collect();
        let [x, dy] = [x, dy].map(|v| Tensor::from_vec(v, (rows, 32), &Device::Cpu).unwrap());
        let run = |precision: Precision, recompute: bool| {
            let gradients = Arc::new(Gradients::new(&params));
            let pass = LayerPass {
                heads: Heads { query: 2, kv: 1, size: 16 },
                intermediate: config.intermediate_size,
                eps: 1e-5,
                precision,
                window: 0,
                rope: Arc::new(rope::RotaryTable::new(&config.rope_frequencies(), rows)),
                positions: (0..rows as u32).collect(),
                segments: vec![Segment { start: 0, len: rows, prefix_start: 0, prefix_len: 0, group: 0 }],
                gradients: Some(gradients.clone()),
                recompute,
            };
            let layer = Layer::<f32>::new(weights.clone(), Arc::new(pass));
            let y = x.apply_op1_no_bwd(&layer).unwrap();
            let kept = layer.kept_bytes();
            let dx = layer.bwd(&x, &y, &dy).unwrap().unwrap();
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let all: Vec<Vec<f32>> = params
                .iter()
                .enumerate()
                .filter(|(_, p): &(usize, &Param)| p.name.contains("layers"))
                .map(|(i, _)| bits(&gradients.tensor(i).unwrap().unwrap()))
                .collect();
            (kept, bits(&y), bits(&dx), all)
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let (kept, again) = (run(precision, false), run(precision, true));
            assert_eq!((&kept.1, &kept.2, &kept.3), (&again.1, &again.2, &again.3));
            assert_eq!(again.0, 0);
            // Operands: two queries' widths (q, attended), two half as wide (k, v), gate and up. Then middle, two
            // inverses, two lse.
            let operand = if precision.effective() == Precision::Bf16 { 2 } else { 4 };
            let operands = 2 * 32 + 2 * 16 + 2 * config.intermediate_size;
            assert_eq!(kept.0, rows * (operands * operand + (32 + 2 + 2) * 4));
        }
    }
}
