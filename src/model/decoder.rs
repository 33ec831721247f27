//! The decoder: embedding, layers, final norm; and the head that scores given tokens.

mod head;
pub mod shifted;

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use head::Head;

use super::composed::{Copies, Parts, Place};
use super::config::LlamaConfig;
use super::frozen_rows::FrozenRows;
use super::layer::{Layer, LayerPass, LayerWeights};
use super::linear::{Adapter, Linear, Weight};
use super::lora::{self, Lora};
use super::names;
use super::packed::PackedTokens;
use super::params::{Gradients, Group, Param, Params};
use crate::error::{Error, Result};
use crate::nn::attention::Heads;
use crate::nn::custom_op::{input, lock};
use crate::nn::exponentials::{ROOM, Room};
use crate::nn::real::with_slice;
use crate::nn::{Precision, Real, norm, rope};

/// A Llama-family decoder over [`Params`].
#[derive(Debug)]
pub struct Decoder<T> {
    /// Shape.
    pub config: LlamaConfig,
    /// Operands of the matrix products; float32 until set.
    pub precision: Precision,
    /// Whether backward passes compute each layer again from its input, instead of keeping what they need.
    pub recompute: bool,
    /// Where composed operations run, and what their products read; `None` where the fused kernels run.
    composed: Option<(Place, Arc<Copies>)>,
    embedding: Weight,
    layers: Vec<LayerWeights>,
    norm: Weight,
    head: Weight,
    rope: Arc<rope::RotaryTable<T>>,
    longest: usize,
    /// Whether everything below the head is frozen.
    frozen: bool,
    /// Room for exponentials of logits, shared by all passes of a step.
    room: Arc<Room>,
}

impl<T: Real> Decoder<T> {
    /// A decoder over these parameters, with the adapter that is among them if any; sequences may be up to `longest`
    /// tokens.
    ///
    /// # Errors
    /// [`Error::Run`] naming a parameter that is missing, and where there are adapters among the parameters but `lora`
    /// is `None`.
    pub fn new(config: LlamaConfig, params: &Params, lora: Option<&Lora>, longest: usize) -> Result<Decoder<T>> {
        if lora.is_none() && params.iter().any(|p| p.group == Group::Adapter) {
            return Err(Error::run("adapters without their settings"));
        }
        let weight = |name: &str| -> Result<Weight> {
            let position = params.position(name)?;
            Ok(Weight { tensor: params.get(position).var.as_tensor().clone(), position })
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let part = |part: &str| weight(&names::layer(i, part));
                let linear = |part: &str| -> Result<Linear> {
                    let name = names::layer(i, part);
                    let bias = config.biased(part).then(|| weight(&names::bias(i, part))).transpose()?;
                    let mut linear = Linear { bias, ..Linear::plain(weight(&name)?) };
                    if let Some(lora) = lora.filter(|lora| lora.covers(i, part)) {
                        let (a, b) = (weight(&lora::side(&name, 'A'))?, weight(&lora::side(&name, 'B'))?);
                        linear.adapter = Some(Adapter { a, b, scale: lora.scale() });
                    }
                    Ok(linear)
                };
                Ok(LayerWeights {
                    input_layernorm: part("input_layernorm")?,
                    q_proj: linear("self_attn.q_proj")?,
                    k_proj: linear("self_attn.k_proj")?,
                    v_proj: linear("self_attn.v_proj")?,
                    o_proj: linear("self_attn.o_proj")?,
                    post_attention_layernorm: part("post_attention_layernorm")?,
                    gate_proj: linear("mlp.gate_proj")?,
                    up_proj: linear("mlp.up_proj")?,
                    down_proj: linear("mlp.down_proj")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let head = if config.tie_word_embeddings { names::EMBEDDING } else { names::HEAD };
        let below = |p: &&Param| p.group != Group::Latent && (p.name != head || config.tie_word_embeddings);
        let frozen = params.iter().filter(below).all(|p| !p.trainable);
        Ok(Decoder {
            recompute: false,
            composed: None,
            frozen,
            embedding: weight(names::EMBEDDING)?,
            norm: weight(names::NORM)?,
            head: weight(head)?,
            layers,
            rope: Arc::new(rope::RotaryTable::new(&config.rope_frequencies(), longest.max(1))),
            longest,
            config,
            precision: Precision::F32,
            room: Arc::new(Room::new(ROOM)),
        })
    }

    /// The same decoder from composed operations, which run on any device; the parameters must be on `place` already.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn composed(mut self, place: Place, params: &Params) -> Result<Decoder<T>> {
        let lookup = (self.head.position != self.embedding.position).then_some(self.embedding.position);
        let copies = Copies::new(params, place.compute, lookup)?;
        self.composed = Some((place, Arc::new(copies)));
        Ok(self)
    }

    /// Computes again what is derived from the parameters: to be called after every step, and whenever their values
    /// were replaced.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn refresh(&self, params: &Params) -> Result<()> {
        match &self.composed {
            Some((_, copies)) => Ok(copies.refresh(params)?),
            None => Ok(()),
        }
    }

    /// Longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Where composed operations run; `None` for the fused kernels.
    pub fn place(&self) -> Option<&Place> {
        self.composed.as_ref().map(|(place, _)| place)
    }

    /// Room for what a pass over the head keeps: none where there is no backward pass, or where that computes again what
    /// it needs.
    fn room_of(&self, gradients: Option<&Arc<Gradients>>) -> Option<Arc<Room>> {
        gradients.filter(|_| !self.recompute).map(|_| self.room.clone())
    }

    fn heads(&self) -> Heads {
        Heads {
            query: self.config.num_attention_heads,
            kv: self.config.num_key_value_heads,
            size: self.config.head_dim,
        }
    }

    fn parts(&self) -> Option<Parts> {
        let (place, copies) = self.composed.as_ref()?;
        Some(Parts {
            place: place.clone(),
            copies: copies.clone(),
            embedding: self.embedding.clone(),
            layers: Arc::new(self.layers.clone()),
            norm: self.norm.clone(),
            head: self.head.clone(),
            heads: self.heads(),
            eps: self.config.rms_norm_eps,
            frequencies: self.config.rope_frequencies(),
            windows: (0..self.layers.len()).map(|i| self.config.window(i)).collect(),
            recompute: self.recompute,
        })
    }

    /// Last hidden states, after the final norm.
    ///
    /// With `gradients`, the result is part of candle's graph and weight gradients go there in
    /// `backward()`; without, or where nothing below the head is trained, nothing is kept.
    ///
    /// # Shapes
    /// N packed rows -> (N, H).
    ///
    /// # Errors
    /// [`Error::Run`] for a token outside the vocabulary or a position beyond the longest sequence.
    pub fn hidden(&self, packed: PackedTokens<'_>, gradients: Option<&Arc<Gradients>>) -> Result<Tensor> {
        Ok(self.hidden_at(packed, None, gradients)?.0)
    }

    /// [`Decoder::hidden`], and the hidden states of one layer (0: the embeddings, n: the output of layer n) as
    /// constants.
    ///
    /// # Shapes
    /// N packed rows -> (N,H), and (N,H) where a layer is given.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; [`Error::Run`] for a layer that is not there.
    pub fn hidden_at(
        &self,
        packed: PackedTokens<'_>,
        layer: Option<usize>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if let Some(layer) = layer.filter(|&layer| layer > self.layers.len()) {
            return Err(Error::run(format!("layer {layer}: the model has {}", self.layers.len())));
        }
        self.in_vocabulary(packed.ids)?;
        if let Some(p) = packed.positions.iter().find(|&&p| p as usize >= self.longest) {
            return Err(Error::run(format!("position {p} is beyond the longest sequence, {}", self.longest)));
        }
        let gradients = gradients.filter(|_| !self.frozen);
        if let Some(parts) = self.parts() {
            return Ok(parts.hidden::<T>(packed, layer, gradients)?);
        }
        let pass = |window: usize| {
            Arc::new(LayerPass {
                heads: self.heads(),
                intermediate: self.config.intermediate_size,
                eps: self.config.rms_norm_eps,
                precision: self.precision,
                rope: self.rope.clone(),
                positions: packed.positions.to_vec(),
                segments: packed.segments.to_vec(),
                window,
                gradients: gradients.cloned(),
                recompute: self.recompute,
            })
        };
        // Some models have windows in their upper layers only.
        let (open, windowed) = (pass(0), pass(self.config.sliding_window));
        let embed = Embed::<T> {
            ids: packed.ids.to_vec(),
            position: self.embedding.position,
            gradients: gradients.cloned(),
            kind: std::marker::PhantomData,
        };
        let last = Norm::<T> {
            weight: self.norm.clone(),
            eps: self.config.rms_norm_eps,
            gradients: gradients.cloned(),
            inverse: Mutex::new(Vec::new()),
        };
        let apply = |x: &Tensor, layer: Layer<T>| match gradients {
            Some(_) => x.apply_op1(layer),
            None => x.apply_op1_no_bwd(&layer),
        };
        let mut x = match gradients {
            Some(_) => self.embedding.tensor.apply_op1(embed)?,
            None => self.embedding.tensor.apply_op1_no_bwd(&embed)?,
        };
        let at = |n: usize, x: &Tensor| (layer == Some(n)).then(|| x.detach());
        let mut beside = at(0, &x);
        for (i, weights) in self.layers.iter().enumerate() {
            let pass = if self.config.window(i) > 0 { &windowed } else { &open };
            x = apply(&x, Layer::new(weights.clone(), pass.clone()))?;
            beside = beside.or_else(|| at(i + 1, &x));
        }
        let h = match gradients {
            Some(_) => x.apply_op1(last)?,
            None => x.apply_op1_no_bwd(&last)?,
        };
        Ok((h, beside))
    }

    /// Log-probability of each row's target under `log_softmax(W h)`.
    ///
    /// # Shapes
    /// h (R, H) · targets (R) -> (R).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`Error::Run`] for a target outside the vocabulary.
    pub fn token_logps(&self, h: &Tensor, targets: &[u32], gradients: Option<&Arc<Gradients>>) -> Result<Tensor> {
        self.in_vocabulary(targets)?;
        if let Some(parts) = self.parts() {
            return Ok(parts.token_logps::<T>(h, None, targets, gradients)?);
        }
        let op = Head::<T> {
            weight: self.head.clone(),
            targets: targets.to_vec(),
            precision: self.precision,
            gradients: gradients.cloned(),
            room: self.room_of(gradients),
            kept: Mutex::new(None),
        };
        let h = h.contiguous()?;
        Ok(match gradients {
            Some(_) => h.apply_op1(op)?,
            None => h.apply_op1_no_bwd(&op)?,
        })
    }

    /// [`Decoder::token_logps`] of frozen rows, each with the shift of its pair added: `log_softmax(W (h + z))`.
    ///
    /// # Shapes
    /// rows (R, H) · shifts: z (B, H) and the pair of every row · targets (R) -> (R).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// As [`Decoder::token_logps`].
    pub fn token_logps_of_frozen(
        &self,
        rows: &Tensor,
        shifts: Option<(&Tensor, &[u32])>,
        targets: &[u32],
        gradients: &Arc<Gradients>,
    ) -> Result<Tensor> {
        self.in_vocabulary(targets)?;
        let op = FrozenRows::<T> {
            rows: rows.detach().contiguous()?,
            pair_of: shifts.map(|(_, of)| of.to_vec()),
            targets: targets.to_vec(),
            head: self.head.clone(),
            precision: self.precision,
            gradients: gradients.clone(),
            room: self.room_of(Some(gradients)),
            kept: Mutex::new(None),
        };
        let z = match shifts {
            Some((z, _)) => z.contiguous()?,
            None => Tensor::zeros((0, self.config.hidden_size), T::KIND, &Device::Cpu)?,
        };
        Ok(self.head.tensor.apply_op2(&z, op)?)
    }

    fn in_vocabulary(&self, ids: &[u32]) -> Result<()> {
        let size = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= size) {
            Some(id) => Err(Error::run(format!("token {id} is outside the model's vocabulary of {size}"))),
            None => Ok(()),
        }
    }

    /// Logits `W h`, for tests, generation and reading codes: for few rows, as all logits are stored.
    ///
    /// # Shapes
    /// h (R,H) -> (R,V).
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn logits(&self, h: &Tensor) -> Result<Tensor> {
        if let Some(parts) = self.parts() {
            return Ok(parts.logits(h)?);
        }
        Ok(h.contiguous()?.detach().matmul(&self.head.tensor.detach().t()?)?)
    }
}

/// Rows of the embedding; the backward pass adds its gradient to the sums.
struct Embed<T> {
    ids: Vec<u32>,
    position: usize,
    gradients: Option<Arc<Gradients>>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Real> CustomOp1 for Embed<T> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let table = input::<T>(storage, layout, self.name())?;
        let hidden = layout.shape().dims2()?.1;
        let mut out = Vec::with_capacity(self.ids.len() * hidden);
        for &id in &self.ids {
            out.extend_from_slice(&table[id as usize * hidden..][..hidden]);
        }
        Ok((T::to_cpu_storage_owned(out), (self.ids.len(), hidden).into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(gradients) = &self.gradients else { candle_core::bail!("embedding: a backward pass in evaluation") };
        let hidden = arg.dim(1)?;
        let grad = grad_res.contiguous()?;
        with_slice::<T, _>(&grad, |dy| {
            gradients.add::<T>(self.position, |sum| {
                for (&id, dy) in self.ids.iter().zip(dy.chunks_exact(hidden)) {
                    let row = &mut sum[id as usize * hidden..][..hidden];
                    row.iter_mut().zip(dy).for_each(|(s, &d)| *s += d);
                }
            })
        })??;
        // The gradient is in the sums already; candle itself needs none for a variable.
        Ok(None)
    }
}

/// The final norm.
struct Norm<T> {
    weight: Weight,
    eps: f64,
    gradients: Option<Arc<Gradients>>,
    inverse: Mutex<Vec<T>>,
}

impl<T: Real> CustomOp1 for Norm<T> {
    fn name(&self) -> &'static str {
        "final-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = input::<T>(storage, layout, self.name())?;
        let (rows, _) = layout.shape().dims2()?;
        let (mut y, mut inverse) = (vec![T::zero(); x.len()], vec![T::zero(); rows]);
        with_slice::<T, _>(&self.weight.tensor, |w| norm::forward(x, w, self.eps, &mut y, &mut inverse))?;
        *lock(&self.inverse) = inverse;
        Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(gradients) = &self.gradients else { candle_core::bail!("final-norm: a backward pass in evaluation") };
        let grad = grad_res.contiguous()?;
        let inverse = lock(&self.inverse);
        let mut dx = vec![T::zero(); arg.elem_count()];
        gradients.with_sum::<T, ()>(self.weight.position, |dw| {
            with_slice::<T, _>(arg, |x| {
                with_slice::<T, _>(&grad, |dy| {
                    with_slice::<T, _>(&self.weight.tensor, |w| norm::backward(x, w, &inverse, dy, &mut dx, dw))
                })
            })??
        })?;
        Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
    }
}
