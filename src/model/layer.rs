//! One decoder layer as one differentiable candle operation on the residual stream.
//!
//! `x + Wo attention(rope(Wq n), rope(Wk n), Wv n)` with `n = norm(x)`, then
//! `x + Wdown (silu(Wgate m) * Wup m)` with `m = norm(x)`. The backward pass reads
//! what the forward pass kept, and adds weight gradients to the shared sums.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::params::Gradients;
use crate::nn::attention::{self, Heads, Segment};
use crate::nn::real::with_slice;
use crate::nn::{Real, linear, norm, rope, swiglu};

/// A weight: its values, and where its gradient goes.
#[derive(Debug, Clone)]
pub struct Weight {
    /// The values, contiguous.
    pub tensor: Tensor,
    /// Position in [`super::Params`].
    pub position: usize,
}

/// The nine weights of a layer.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in checkpoints")]
pub struct LayerWeights {
    pub input_layernorm: Weight,
    pub q_proj: Weight,
    pub k_proj: Weight,
    pub v_proj: Weight,
    pub o_proj: Weight,
    pub post_attention_layernorm: Weight,
    pub gate_proj: Weight,
    pub up_proj: Weight,
    pub down_proj: Weight,
}

/// What all layers share in one pass.
#[derive(Debug)]
pub struct Pass<T> {
    /// Heads of the model.
    pub heads: Heads,
    /// I.
    pub intermediate: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Rotary table.
    pub rope: Arc<rope::Table<T>>,
    /// Position of every packed row.
    pub positions: Vec<u32>,
    /// Who attends to whom.
    pub segments: Vec<Segment>,
    /// Where gradients go; `None` in evaluation, which then keeps nothing.
    pub gradients: Option<Arc<Gradients>>,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug)]
struct Kept<T> {
    inverse1: Vec<T>,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    attended: Vec<T>,
    lse: Vec<T>,
    middle: Vec<T>,
    inverse2: Vec<T>,
    gate: Vec<T>,
    up: Vec<T>,
}

/// The operation; made anew for every pass.
#[derive(Debug)]
pub struct Layer<T> {
    weights: LayerWeights,
    pass: Arc<Pass<T>>,
    kept: Mutex<Option<Kept<T>>>,
}

fn zeros<T: Real>(n: usize) -> Vec<T> {
    vec![T::zero(); n]
}

fn failed(error: crate::Error) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}

impl<T: Real> Layer<T> {
    /// A layer for one pass.
    pub fn new(weights: LayerWeights, pass: Arc<Pass<T>>) -> Layer<T> {
        Layer { weights, pass, kept: Mutex::new(None) }
    }

    /// `f` with a weight's values.
    fn with<R>(weight: &Weight, f: impl FnOnce(&[T]) -> R) -> candle_core::Result<R> {
        with_slice::<T, R>(&weight.tensor, f).map_err(failed)
    }

    fn forward(&self, x: &[T]) -> candle_core::Result<(Vec<T>, Kept<T>)> {
        let (w, p) = (&self.weights, &*self.pass);
        let n = p.positions.len();
        let (qw, kvw) = (p.heads.query * p.heads.size, p.heads.kv * p.heads.size);
        let (mut normed, mut inverse1) = (zeros(x.len()), zeros(n));
        Self::with(&w.input_layernorm, |w| norm::forward(x, w, p.eps, &mut normed, &mut inverse1))?;
        let (mut q, mut k, mut v) = (zeros(n * qw), zeros(n * kvw), zeros(n * kvw));
        Self::with(&w.q_proj, |w| linear::forward(&normed, w, &mut q, n, false))?;
        Self::with(&w.k_proj, |w| linear::forward(&normed, w, &mut k, n, false))?;
        Self::with(&w.v_proj, |w| linear::forward(&normed, w, &mut v, n, false))?;
        p.rope.turn(&mut q, &p.positions, false);
        p.rope.turn(&mut k, &p.positions, false);
        let (mut attended, mut lse) = (zeros(n * qw), zeros(n * p.heads.query));
        attention::forward(&q, &k, &v, &mut attended, &mut lse, &p.segments, p.heads);
        let mut middle = x.to_vec();
        Self::with(&w.o_proj, |w| linear::forward(&attended, w, &mut middle, n, true))?;
        let mut inverse2 = zeros(n);
        Self::with(&w.post_attention_layernorm, |w| {
            norm::forward(&middle, w, p.eps, &mut normed, &mut inverse2);
        })?;
        let size = n * p.intermediate;
        let (mut gate, mut up, mut gated) = (zeros(size), zeros(size), zeros(size));
        Self::with(&w.gate_proj, |w| linear::forward(&normed, w, &mut gate, n, false))?;
        Self::with(&w.up_proj, |w| linear::forward(&normed, w, &mut up, n, false))?;
        swiglu::forward(&gate, &up, &mut gated);
        let mut out = middle.clone();
        Self::with(&w.down_proj, |w| linear::forward(&gated, w, &mut out, n, true))?;
        Ok((out, Kept { inverse1, q, k, v, attended, lse, middle, inverse2, gate, up }))
    }

    /// Backward of one linear: adds to the weight's sum, and writes or adds the input's gradient.
    fn linear_backward(
        &self,
        weight: &Weight,
        dy: &[T],
        x: &[T],
        dx: &mut [T],
        accumulate: bool,
    ) -> candle_core::Result<()> {
        let rows = self.pass.positions.len();
        if let Some(gradients) = &self.pass.gradients {
            gradients.add::<T>(weight.position, |dw| linear::backward_weight(dy, x, dw, rows))?;
        }
        Self::with(weight, |w| linear::backward_input(dy, w, dx, rows, accumulate))
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
            None => Self::with(weight, |w| norm::backward(x, w, inverse, dy, dx, None)),
            Some(gradients) => Self::with(weight, |w| {
                gradients.add::<T>(weight.position, |dw| norm::backward(x, w, inverse, dy, dx, Some(dw)))
            })?,
        }
    }

    fn backward(&self, x: &[T], dout: &[T], kept: Kept<T>) -> candle_core::Result<Vec<T>> {
        let (w, p) = (&self.weights, &*self.pass);
        let n = p.positions.len();
        let Kept { inverse1, mut q, mut k, v, attended, lse, middle, inverse2, mut gate, mut up } = kept;
        // Feed-forward.
        let (mut gated, mut dgated) = (zeros(gate.len()), zeros(gate.len()));
        swiglu::forward(&gate, &up, &mut gated);
        self.linear_backward(&w.down_proj, dout, &gated, &mut dgated, false)?;
        drop(gated);
        swiglu::backward(&mut gate, &mut up, &dgated);
        drop(dgated);
        let (mut normed, mut dnormed) = (zeros(x.len()), zeros(x.len()));
        Self::with(&w.post_attention_layernorm, |w| norm::again(&middle, w, &inverse2, &mut normed))?;
        self.linear_backward(&w.gate_proj, &gate, &normed, &mut dnormed, false)?;
        self.linear_backward(&w.up_proj, &up, &normed, &mut dnormed, true)?;
        drop((gate, up));
        let mut dmiddle = dout.to_vec();
        self.norm_backward(&w.post_attention_layernorm, &middle, &inverse2, &dnormed, &mut dmiddle)?;
        drop(middle);
        // Attention.
        let mut dattended = zeros(attended.len());
        self.linear_backward(&w.o_proj, &dmiddle, &attended, &mut dattended, false)?;
        let (mut dq, mut dk, mut dv) = (zeros(q.len()), zeros(k.len()), zeros(v.len()));
        let saved = attention::Saved { q: &q, k: &k, v: &v, out: &attended, lse: &lse, dout: &dattended };
        attention::backward(&saved, &mut dq, &mut dk, &mut dv, &p.segments, p.heads);
        q.clear();
        k.clear();
        p.rope.turn(&mut dq, &p.positions, true);
        p.rope.turn(&mut dk, &p.positions, true);
        Self::with(&w.input_layernorm, |w| norm::again(x, w, &inverse1, &mut normed))?;
        self.linear_backward(&w.q_proj, &dq, &normed, &mut dnormed, false)?;
        self.linear_backward(&w.k_proj, &dk, &normed, &mut dnormed, true)?;
        self.linear_backward(&w.v_proj, &dv, &normed, &mut dnormed, true)?;
        let mut dx = dmiddle;
        self.norm_backward(&w.input_layernorm, x, &inverse1, &dnormed, &mut dx)?;
        debug_assert_eq!(dx.len() % n.max(1), 0);
        Ok(dx)
    }
}

impl<T: Real> CustomOp1 for Layer<T> {
    fn name(&self) -> &'static str {
        "decoder-layer"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("decoder-layer needs a contiguous input")
        };
        let (out, kept) = self.forward(&T::cpu_storage_as_slice(storage)?[start..end])?;
        if self.pass.gradients.is_some() {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok((T::to_cpu_storage_owned(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(kept) = kept else { candle_core::bail!("decoder-layer: nothing was kept for a backward pass") };
        let grad = grad_res.contiguous()?;
        let dx = with_slice::<T, _>(arg, |x| with_slice::<T, _>(&grad, |dout| self.backward(x, dout, kept)))
            .and_then(|inner| inner)
            .map_err(failed)??;
        Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
    }
}
