//! The decoder on any candle device, from composed operations.
//!
//! Tokens go to the device and hidden states come back; the latent part and the losses stay in memory, so that nothing
//! outside this module knows of devices. The residual stream, norms, softmax and log-probabilities have the parameters'
//! wide type; products have the compute type. A parameter that is trained keeps its wide values (the master), and
//! products read a rounded copy of it, which is refreshed after every step.
//!
//! Each layer is a stage with a graph of its own: the backward pass frees what one layer needs before it begins the
//! next.

mod head;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, Var};

pub(super) use head::CodeShifts;

use super::layer::LayerWeights;
use super::linear::{Linear, Weight};
use super::packed::PackedTokens;
use super::params::{Gradients, Group, Params};
use crate::nn::Real;
use crate::nn::attention::Heads;
use crate::nn::composed::attention::{self, Visible};
use crate::nn::composed::{self, Angles};
use crate::nn::custom_op::lock;

/// Where the decoder computes, and in which type.
#[derive(Debug, Clone)]
pub struct Place {
    /// Device of the backbone's parameters.
    pub device: Device,
    /// Type of the products' operands.
    pub compute: DType,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = match &self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        write!(f, "{device}, composed operations, {}", self.compute.as_str())
    }
}

/// Copies of trained parameters in the compute type, by position.
#[derive(Debug, Clone, Default)]
pub struct Copies(HashMap<usize, Var>);

impl Copies {
    /// Copies of the matrices that are trained and of another type than `compute`; none of the parameter at `lookup`,
    /// which no product reads.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn new(params: &Params, compute: DType, lookup: Option<usize>) -> Result<Copies> {
        let matrices = params.iter().enumerate().filter(|(i, p)| {
            Some(*i) != lookup
                && p.group != Group::Latent
                && p.trainable
                && p.var.dtype() != compute
                && p.var.rank() == 2
        });
        let copies = matrices.map(|(i, p)| Ok((i, Var::from_tensor(&p.var.as_detached_tensor().to_dtype(compute)?)?)));
        Ok(Copies(copies.collect::<Result<_>>()?))
    }

    /// Rounds the masters into the copies again.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn refresh(&self, params: &Params) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(&i, copy)| copy.set(&params.get(i).var.as_detached_tensor().to_dtype(copy.dtype())?))
    }

    /// A parameter as products read it: its copy, or itself where it has none.
    fn read<'a>(&'a self, weight: &'a Weight) -> &'a Tensor {
        self.0.get(&weight.position).map_or(&weight.tensor, |v| v.as_tensor())
    }
}

/// A decoder as the operations below read it.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub place: Place,
    pub copies: Arc<Copies>,
    pub embedding: Weight,
    pub layers: Arc<Vec<LayerWeights>>,
    pub norm: Weight,
    pub head: Weight,
    pub heads: Heads,
    pub eps: f64,
    pub frequencies: Vec<f64>,
    /// How many positions a row of each layer sees, itself included; 0 for all before it.
    pub windows: Vec<usize>,
    pub recompute: bool,
}

/// What all layers of a pass share.
struct Shared {
    angles: Angles,
    /// Which rows see which, for each window in use.
    visible: BTreeMap<usize, Visible>,
}

/// A layer or the final norm in one pass: its input as the leaf of a graph of its own, and what the backward pass reads
/// of it where that is kept (without it the backward pass computes it again).
struct Stage<M = Tensor> {
    input: Var,
    made: Option<M>,
}

/// One layer in one pass. Attention itself has no graph: one graph ends with its inputs, another begins with its
/// result.
struct Layer {
    /// q, k and v (N, heads * D), as functions of the layer's input.
    reads: [Tensor; 3],
    /// The result of attention, as the leaf of the second graph.
    attended: Tensor,
    /// The layer's output, as a function of its input and `attended`.
    output: Tensor,
}

/// What the backward pass reads of the forward pass.
struct Tape {
    ids: Tensor,
    shared: Shared,
    layers: Vec<Stage<Layer>>,
    last: Stage,
}

impl Parts {
    /// `x W^T + b + s (x A^T) B^T`, computed in the type that products read, returned in the type of `x`.
    fn map(&self, x: &Tensor, linear: &Linear, gradients: Option<&Gradients>) -> Result<Tensor> {
        let product = |x: &Tensor, weight: &Weight| -> Result<Tensor> {
            let w = self.copies.read(weight);
            let x = x.to_dtype(w.dtype())?;
            match gradients {
                None => composed::linear(&x, &w.detach()),
                Some(g) if g.wants(weight.position) => composed::linear(&x, w),
                Some(_) => composed::linear_frozen(&x, w),
            }
        };
        let wide = x.dtype();
        let mut y = product(x, &linear.weight)?.to_dtype(wide)?;
        if let Some(bias) = &linear.bias {
            y = y.broadcast_add(&self.vector(bias, gradients, wide)?)?;
        }
        if let Some(adapter) = &linear.adapter {
            let u = (product(x, &adapter.a)? * adapter.scale)?;
            y = (y + product(&u, &adapter.b)?.to_dtype(wide)?)?;
        }
        Ok(y)
    }

    /// A norm's weight or a bias, a leaf where it is trained.
    fn vector(&self, weight: &Weight, gradients: Option<&Gradients>, wide: DType) -> Result<Tensor> {
        let leaf = gradients.is_some_and(|g| g.wants(weight.position));
        let values = if leaf { weight.tensor.clone() } else { weight.tensor.detach() };
        values.to_dtype(wide)
    }

    fn layer(&self, i: usize, x: &Tensor, shared: &Shared, gradients: Option<&Gradients>) -> Result<Layer> {
        let w = &self.layers[i];
        let wide = x.dtype();
        let norm = |x: &Tensor, weight: &Weight| composed::norm(x, &self.vector(weight, gradients, wide)?, self.eps);
        let normed = norm(x, &w.input_layernorm)?;
        let q = shared.angles.rotate(&self.map(&normed, &w.q_proj, gradients)?)?;
        let k = shared.angles.rotate(&self.map(&normed, &w.k_proj, gradients)?)?;
        let reads = [q, k, self.map(&normed, &w.v_proj, gradients)?];
        let [q, k, v] = self.narrow(&reads)?;
        let attended = attention::attention(&q, &k, &v, self.visible(i, shared)?, self.heads)?.to_dtype(wide)?;
        let attended = match gradients {
            Some(_) => Var::from_tensor(&attended)?.as_tensor().clone(),
            None => attended,
        };
        let middle = (x + self.map(&attended, &w.o_proj, gradients)?)?;
        let normed = norm(&middle, &w.post_attention_layernorm)?;
        let (gate, up) = (self.map(&normed, &w.gate_proj, gradients)?, self.map(&normed, &w.up_proj, gradients)?);
        let output = (middle + self.map(&composed::swiglu(&gate, &up)?, &w.down_proj, gradients)?)?;
        Ok(Layer { reads, attended, output })
    }

    /// q, k and v in the type of the products, without a graph.
    fn narrow(&self, [q, k, v]: &[Tensor; 3]) -> Result<[Tensor; 3]> {
        let of = |x: &Tensor| x.detach().to_dtype(self.place.compute);
        Ok([of(q)?, of(k)?, of(v)?])
    }

    fn visible<'a>(&self, i: usize, shared: &'a Shared) -> Result<&'a Visible> {
        let found = shared.visible.get(&self.windows[i]);
        found.ok_or_else(|| candle_core::Error::Msg("a window that no layer has".into()))
    }

    fn last(&self, x: &Tensor, gradients: Option<&Gradients>) -> Result<Tensor> {
        composed::norm(x, &self.vector(&self.norm, gradients, x.dtype())?, self.eps)
    }

    fn begin<T: Real>(&self, packed: PackedTokens<'_>) -> Result<(Tensor, Tensor, Shared)> {
        let device = &self.place.device;
        let ids = Tensor::from_slice(packed.ids, packed.ids.len(), device)?;
        let x = self.embedding.tensor.detach().index_select(&ids, 0)?.to_dtype(T::KIND)?;
        let angles = Angles::new(&self.frequencies, packed.positions, T::KIND, device)?;
        let visible = BTreeSet::from_iter(&self.windows)
            .into_iter()
            .map(|&w| Ok((w, attention::visible(packed.segments, w, self.heads.query, T::KIND, device)?)))
            .collect::<Result<_>>()?;
        Ok((ids, x, Shared { angles, visible }))
    }

    /// Last hidden states, in memory; with `gradients`, part of candle's graph. Where a layer is given, also its output
    /// as a constant (0: the embeddings, n: the output of layer n).
    ///
    /// # Shapes
    /// N packed rows -> (N,H), and (N,H) where a layer is given.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn hidden<T: Real>(
        &self,
        packed: PackedTokens<'_>,
        layer: Option<usize>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (ids, mut x, shared) = self.begin::<T>(packed)?;
        let at = |n: usize, x: &Tensor| (layer == Some(n)).then(|| x.to_device(&Device::Cpu)).transpose();
        let mut beside = at(0, &x)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for i in 0..self.layers.len() {
            x = match gradients {
                None => self.layer(i, &x, &shared, None)?.output,
                Some(gradients) => {
                    let input = Var::from_tensor(&x)?;
                    let made = self.layer(i, input.as_tensor(), &shared, Some(gradients))?;
                    let output = made.output.detach();
                    layers.push(Stage { input, made: (!self.recompute).then_some(made) });
                    output
                }
            };
            if let Some(x) = at(i + 1, &x)? {
                beside = Some(x);
            }
        }
        let Some(gradients) = gradients else {
            return Ok((self.last(&x, None)?.to_device(&Device::Cpu)?, beside));
        };
        let (last, h) = self.stage(&x, |x| self.last(x, Some(gradients)))?;
        let tape = Tape { ids, shared, layers, last };
        let values = h.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?;
        let op = Backbone::<T> {
            parts: self.clone(),
            gradients: gradients.clone(),
            shape: h.shape().clone(),
            values: Mutex::new(values),
            tape: Mutex::new(Some(tape)),
        };
        // candle runs the backward pass of operations that depend on a variable only: this one has no other use.
        Ok((Var::zeros(1, T::KIND, &Device::Cpu)?.as_tensor().apply_op1(op)?, beside))
    }

    /// Runs a stage, and keeps its graph, or with `recompute` its input alone. Returns its output as a constant too.
    fn stage(&self, x: &Tensor, run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<(Stage, Tensor)> {
        let input = Var::from_tensor(&x.detach())?;
        let output = run(input.as_tensor())?;
        let value = output.detach();
        Ok((Stage { input, made: (!self.recompute).then_some(output) }, value))
    }

    /// Backward through one stage: adds the parameters' gradients to the sums and returns the input's.
    fn back<T: Real>(
        &self,
        stage: Stage,
        dy: &Tensor,
        weights: &[&Weight],
        gradients: &Gradients,
        run: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let output = match stage.made {
            Some(output) => output,
            None => run(stage.input.as_tensor())?,
        };
        let [dx] = self.pull::<T, 1, 1>([(&output, dy)], [stage.input.as_tensor()], weights, gradients)?;
        Ok(dx)
    }

    /// Backward from these outputs with their gradients: adds the parameters' gradients to the sums and returns those
    /// of `leaves`.
    fn pull<T: Real, const N: usize, const M: usize>(
        &self,
        outputs: [(&Tensor, &Tensor); N],
        leaves: [&Tensor; M],
        weights: &[&Weight],
        gradients: &Gradients,
    ) -> Result<[Tensor; M]> {
        // candle begins the backward pass with a gradient of ones, whatever the shape: no sum over all numbers is
        // needed, which would run on one core of a GPU.
        let parts = outputs.iter().map(|(y, dy)| *y * dy.to_dtype(y.dtype())?).collect::<Result<Vec<_>>>()?;
        let root = if let [one] = parts.as_slice() { one.clone() } else { Tensor::cat(&parts, D::Minus1)? };
        let mut store = root.backward()?;
        for weight in weights {
            for leaf in [&weight.tensor, self.copies.read(weight)] {
                if let Some(gradient) = store.remove(leaf) {
                    gradients.add_tensor::<T>(weight.position, &gradient)?;
                }
            }
        }
        let found: Vec<Tensor> = leaves.iter().filter_map(|leaf| store.remove(leaf)).collect();
        found.try_into().map_err(|_| candle_core::Error::Msg("a stage of the decoder has no gradient".into()))
    }

    /// Backward through one layer.
    fn back_layer<T: Real>(
        &self,
        i: usize,
        Stage { input, made }: Stage<Layer>,
        dy: &Tensor,
        shared: &Shared,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let x = input.as_tensor();
        let Layer { reads, attended, output } = match made {
            Some(made) => made,
            None => self.layer(i, x, shared, Some(gradients))?,
        };
        let weights = all(&self.layers[i]);
        let [around, dattended] = self.pull::<T, 1, 2>([(&output, dy)], [x, &attended], &weights, gradients)?;
        drop((output, attended));
        let [q, k, v] = self.narrow(&reads)?;
        let [dq, dk, dv] = attention::backward([&q, &k, &v], &dattended, self.visible(i, shared)?, self.heads)?;
        let [q, k, v] = &reads;
        let [through] = self.pull::<T, 3, 1>([(q, &dq), (k, &dk), (v, &dv)], [x], &weights, gradients)?;
        around + through
    }

    fn backward<T: Real>(&self, tape: Tape, dh: &Tensor, gradients: &Gradients) -> Result<()> {
        let Tape { ids, shared, layers, last } = tape;
        let mut dx = dh.to_device(&self.place.device)?;
        dx = self.back::<T>(last, &dx, &[&self.norm], gradients, |x| self.last(x, Some(gradients)))?;
        for (i, stage) in layers.into_iter().enumerate().rev() {
            dx = self.back_layer::<T>(i, stage, &dx, &shared, gradients)?;
        }
        if gradients.wants(self.embedding.position) {
            let table = Tensor::zeros(self.embedding.tensor.shape(), dx.dtype(), dx.device())?;
            gradients.add_tensor::<T>(self.embedding.position, &table.index_add(&ids, &dx.contiguous()?, 0)?)?;
        }
        Ok(())
    }

    /// Logits, in memory.
    ///
    /// # Shapes
    /// h (R,H) -> (R,V).
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn logits(&self, h: &Tensor) -> Result<Tensor> {
        let w = self.copies.read(&self.head).detach();
        let logits = composed::linear(&h.detach().to_device(&self.place.device)?.to_dtype(w.dtype())?, &w)?;
        logits.to_dtype(h.dtype())?.to_device(&Device::Cpu)
    }
}

/// Every parameter of a layer.
fn all(w: &LayerWeights) -> Vec<&Weight> {
    let mut out = vec![&w.input_layernorm, &w.post_attention_layernorm];
    for linear in [&w.q_proj, &w.k_proj, &w.v_proj, &w.o_proj, &w.gate_proj, &w.up_proj, &w.down_proj] {
        out.push(&linear.weight);
        out.extend(&linear.bias);
        out.extend(linear.adapter.iter().flat_map(|a| [&a.a, &a.b]));
    }
    out
}

/// The operation from tokens to hidden states in candle's graph.
struct Backbone<T> {
    parts: Parts,
    gradients: Arc<Gradients>,
    shape: Shape,
    values: Mutex<Vec<T>>,
    tape: Mutex<Option<Tape>>,
}

impl<T: Real> CustomOp1 for Backbone<T> {
    fn name(&self) -> &'static str {
        "composed-backbone"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = std::mem::take(&mut *lock(&self.values));
        Ok((T::to_cpu_storage_owned(values), self.shape.clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let Some(tape) = lock(&self.tape).take() else {
            candle_core::bail!("composed-backbone: a second backward pass")
        };
        self.parts.backward::<T>(tape, grad_res, &self.gradients)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Param;
    use crate::model::linear::Adapter;
    use crate::nn::{Precision, Rows, check};

    #[test]
    fn a_linear_map_with_bias_and_adapter_is_the_kernel_s() {
        let (rows, inputs, outputs, rank) = (5, 3, 4, 2);
        let shapes = [
            ("w", vec![outputs, inputs]),
            ("b", vec![outputs]),
            ("lora_a", vec![rank, inputs]),
            ("lora_b", vec![outputs, rank]),
        ];
        let tensor = |name: &str, shape: &[usize]| {
            Tensor::from_vec(check::numbers(name, shape.iter().product()), shape, &Device::Cpu).unwrap()
        };
        for frozen in [true, false] {
            let params = shapes.iter().map(|(name, shape)| Param {
                name: (*name).into(),
                var: Var::from_tensor(&tensor(name, shape)).unwrap(),
                trainable: *name != "w" || !frozen,
                group: Group::Backbone,
            });
            let params = Params::new(params.collect()).unwrap();
            let weight = |name: &str| {
                let position = params.position(name).unwrap();
                Weight { tensor: params.get(position).var.as_tensor().clone(), position }
            };
            let adapter = Adapter { a: weight("lora_a"), b: weight("lora_b"), scale: 0.7 };
            let linear = Linear { weight: weight("w"), bias: Some(weight("b")), adapter: Some(adapter) };
            let parts = Parts {
                place: Place { device: Device::Cpu, compute: DType::F64 },
                copies: Arc::default(),
                embedding: weight("w"),
                layers: Arc::default(),
                norm: weight("b"),
                head: weight("w"),
                heads: Heads { query: 1, kv: 1, size: 2 },
                eps: 1e-5,
                frequencies: Vec::new(),
                windows: Vec::new(),
                recompute: false,
            };
            let (x, dy) = (check::numbers("x", rows * inputs), check::numbers("dy", rows * outputs));
            let (wanted, found) = (Gradients::new(&params), Gradients::new(&params));
            let operand = |values| Rows::new(values, rows, Precision::F32);
            let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
            linear.forward(&operand(&x), &mut y, false).unwrap();
            linear.backward(Some(&wanted), &operand(&dy), &operand(&x), &mut dx, false).unwrap();
            let x = Tensor::from_vec(x, (rows, inputs), &Device::Cpu).unwrap();
            let dy = Tensor::from_vec(dy, (rows, outputs), &Device::Cpu).unwrap();
            let run = |x: &Tensor| parts.map(x, &linear, Some(&found));
            let (stage, value) = parts.stage(&x, run).unwrap();
            let weights = ["w", "b", "lora_a", "lora_b"].map(weight);
            let got = parts.back::<f64>(stage, &dy, &weights.each_ref(), &found, run).unwrap();
            let close = |what: &str, a: &Tensor, b: &[f64]| {
                let a = a.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert!(
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12),
                    "{what}: {a:?} {b:?}"
                );
            };
            close("y", &value, &y);
            close("dx", &got, &dx);
            for (position, param) in params.iter().enumerate() {
                match (found.tensor(position).unwrap(), wanted.tensor(position).unwrap()) {
                    (None, None) => assert!(frozen && param.name == "w"),
                    (Some(a), Some(b)) => close(&param.name, &a, &b.flatten_all().unwrap().to_vec1::<f64>().unwrap()),
                    _ => panic!("{}: a gradient on one side only", param.name),
                }
            }
        }
    }
}
