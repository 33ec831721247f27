//! The decoder for generation and scoring: no gradients, weights laid out once, a key-value cache for each sequence.
//!
//! Every number of a row depends on its own sequence alone, to the last bit: neither the other sequences of a batch nor
//! the number of threads change it. Operands of the products with weights are float32 or bfloat16; attention and
//! everything else is float32.
//!
//! Weights are in memory twice while the parameters that they come from are: as these have them, and laid out.
//! [`InferenceDecoder::of_own`] gives each parameter up as it is laid out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::config::LlamaConfig;
use super::names;
use super::packed::PackedTokens;
use super::params::{Group, Params};
use crate::error::{Error, Result};
use crate::nn::attention::{self, Heads, Scheme, Segment};
use crate::nn::cached_attention::{self, KeyValues};
use crate::nn::real::with_slice;
use crate::nn::{Precision, Prepacked, linear, norm, rope, swiglu, vector};

/// Rows whose logits over the whole vocabulary are in memory at once.
const LOGIT_ROWS: usize = 64;

/// What z of a prompt adds to the logits of every response position.
#[derive(Debug, Clone, PartialEq)]
pub enum LogitShift {
    /// A vector (H) that is added to the hidden states before the head.
    Hidden(Vec<f32>),
    /// Biases on the logits of some tokens.
    Biases {
        /// The tokens.
        tokens: Arc<Vec<u32>>,
        /// Their biases.
        values: Vec<f32>,
    },
}

/// Keys and values of one sequence in every layer.
#[derive(Debug, Clone)]
pub struct SequenceCache {
    layers: Vec<KeyValues<f32>>,
}

impl SequenceCache {
    /// Tokens whose keys and values are kept.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KeyValues::len)
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(KeyValues::bytes).sum()
    }
}

/// A linear map with its bias.
#[derive(Debug)]
struct Map {
    weight: Prepacked,
    bias: Option<Vec<f32>>,
}

impl Map {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; x.len() / self.weight.inner() * self.weight.outputs()];
        self.weight.forward(x, &mut y, false);
        if let Some(bias) = &self.bias {
            linear::add_bias(&mut y, bias);
        }
        y
    }

    fn add(&self, x: &[f32], y: &mut [f32]) {
        self.weight.forward(x, y, true);
        if let Some(bias) = &self.bias {
            linear::add_bias(y, bias);
        }
    }
}

/// One decoder layer.
#[derive(Debug)]
struct InferenceLayer {
    input_norm: Vec<f32>,
    q: Map,
    k: Map,
    v: Map,
    o: Map,
    post_norm: Vec<f32>,
    gate: Map,
    up: Map,
    down: Map,
    window: usize,
}

/// A decoder for inference.
#[derive(Debug)]
pub struct InferenceDecoder {
    config: LlamaConfig,
    precision: Precision,
    embedding: Tensor,
    layers: Vec<InferenceLayer>,
    norm: Vec<f32>,
    head: Prepacked,
    rope: rope::RotaryTable<f32>,
    longest: usize,
}

/// A layer's attention: layer, queries, keys, values -> output. Queries and keys are rotated.
type Attend<'a> = &'a mut dyn FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]);

/// Refuses adapters among the parameters.
fn without_adapters(params: &Params) -> Result<()> {
    match params.iter().any(|p| p.group == Group::Adapter) {
        true => Err(Error::run("an adapter must be merged before generation")),
        false => Ok(()),
    }
}

/// What is kept of a layer: layer, keys, values, and the segments in which they lie.
type Keep<'a> = &'a mut dyn FnMut(usize, &[f32], &[f32], &[Segment]);

impl InferenceDecoder {
    /// Lays out the weights of a decoder; sequences may be up to `longest` tokens.
    ///
    /// # Errors
    /// [`Error::Run`] naming a parameter that is missing, and where there are adapters among the parameters: they are
    /// merged when a model is opened for scoring.
    pub fn new(
        config: &LlamaConfig,
        params: &Params,
        longest: usize,
        precision: Precision,
    ) -> Result<InferenceDecoder> {
        without_adapters(params)?;
        let mut tensor = |name: &str| Ok(params.get(params.position(name)?).var.as_tensor().detach());
        InferenceDecoder::of_tensors(config, &mut tensor, longest, precision)
    }

    /// The same of parameters that nobody else needs: none is in memory any longer than it takes to lay it out, but for
    /// the embedding, which is read as it is.
    ///
    /// # Errors
    /// As [`InferenceDecoder::new`].
    pub fn of_own(
        config: &LlamaConfig,
        params: Params,
        longest: usize,
        precision: Precision,
    ) -> Result<InferenceDecoder> {
        without_adapters(&params)?;
        let mut own: HashMap<String, Tensor> =
            params.into_list().into_iter().map(|p| (p.name, p.var.into_inner().detach())).collect();
        let mut tensor = |name: &str| own.remove(name).ok_or_else(|| Error::run(format!("no parameter named {name}")));
        InferenceDecoder::of_tensors(config, &mut tensor, longest, precision)
    }

    /// Each tensor is asked for once.
    fn of_tensors(
        config: &LlamaConfig,
        tensor: &mut dyn FnMut(&str) -> Result<Tensor>,
        longest: usize,
        precision: Precision,
    ) -> Result<InferenceDecoder> {
        let packed = |weight: Tensor| -> Result<Prepacked> {
            let inner = weight.dim(1)?;
            with_slice::<f32, _>(&weight, |w| Prepacked::new(w, inner, precision))
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let input_norm = tensor(&names::layer(i, "input_layernorm"))?.to_vec1::<f32>()?;
            let post_norm = tensor(&names::layer(i, "post_attention_layernorm"))?.to_vec1::<f32>()?;
            let mut map = |part: &str| -> Result<Map> {
                let bias = match config.biased(part) {
                    true => Some(tensor(&names::bias(i, part))?.to_vec1::<f32>()?),
                    false => None,
                };
                Ok(Map { weight: packed(tensor(&names::layer(i, part))?)?, bias })
            };
            layers.push(InferenceLayer {
                input_norm,
                q: map("self_attn.q_proj")?,
                k: map("self_attn.k_proj")?,
                v: map("self_attn.v_proj")?,
                o: map("self_attn.o_proj")?,
                post_norm,
                gate: map("mlp.gate_proj")?,
                up: map("mlp.up_proj")?,
                down: map("mlp.down_proj")?,
                window: config.window(i),
            });
        }
        let embedding = tensor(names::EMBEDDING)?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { tensor(names::HEAD)? };
        Ok(InferenceDecoder {
            embedding,
            norm: tensor(names::NORM)?.to_vec1::<f32>()?,
            head: packed(head)?,
            layers,
            rope: rope::RotaryTable::new(&config.rope_frequencies(), longest.max(1)),
            longest,
            precision: precision.effective(),
            config: config.clone(),
        })
    }

    /// Shape of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Operands of the products with weights: what this processor computes with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    fn heads(&self) -> Heads {
        let config = &self.config;
        Heads { query: config.num_attention_heads, kv: config.num_key_value_heads, size: config.head_dim }
    }

    /// Hidden states of packed rows, after the final norm.
    ///
    /// # Shapes
    /// N packed rows -> (N,H).
    ///
    /// # Errors
    /// [`Error::Run`] for a token outside the vocabulary or a position beyond the longest sequence.
    pub fn hidden(&self, packed: PackedTokens<'_>) -> Result<Vec<f32>> {
        self.packed(packed, &mut |_, _, _, _| ())
    }

    /// Reads prompts: the hidden state of each prompt's last token, and the cache with which the sequence goes on.
    ///
    /// # Shapes
    /// B prompts -> (B,H), B caches.
    ///
    /// # Errors
    /// As [`InferenceDecoder::hidden`]; [`Error::Run`] for an empty prompt.
    pub fn read(&self, prompts: &[&[u32]]) -> Result<(Vec<f32>, Vec<SequenceCache>)> {
        let layers = || self.layers.iter().map(|_| KeyValues::new(self.heads())).collect();
        let mut caches: Vec<SequenceCache> = prompts.iter().map(|_| SequenceCache { layers: layers() }).collect();
        let ends = Prompts::pack(prompts)?;
        let width = self.config.num_key_value_heads * self.config.head_dim;
        let h = self.packed(ends.tokens(), &mut |layer, k, v, segments: &[Segment]| {
            for (cache, segment) in caches.iter_mut().zip(segments) {
                let rows = segment.start * width..(segment.start + segment.len) * width;
                cache.layers[layer].extend(&k[rows.clone()], &v[rows]);
            }
        })?;
        let hidden = self.config.hidden_size;
        let last = ends.ranges().flat_map(|rows| h[(rows.end - 1) * hidden..rows.end * hidden].iter().copied());
        Ok((last.collect(), caches))
    }

    /// Appends one token to each sequence: the hidden state of each.
    ///
    /// # Shapes
    /// B tokens, B caches -> (B,H).
    ///
    /// # Errors
    /// As [`InferenceDecoder::hidden`].
    pub fn step(&self, tokens: &[u32], caches: &mut [&mut SequenceCache]) -> Result<Vec<f32>> {
        let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
        let (heads, width) = (self.heads(), self.config.num_key_value_heads * self.config.head_dim);
        self.run(tokens, &positions, &mut |layer, q, k, v, out| {
            for (cache, (k, v)) in caches.iter_mut().zip(k.chunks_exact(width).zip(v.chunks_exact(width))) {
                cache.layers[layer].extend(k, v);
            }
            let kept: Vec<&KeyValues<f32>> = caches.iter().map(|cache| &cache.layers[layer]).collect();
            cached_attention::forward(q, &kept, out, heads, self.layers[layer].window);
        })
    }

    /// Packed rows with attention among themselves; `keep` is called with every layer's keys and values.
    fn packed(&self, packed: PackedTokens<'_>, keep: Keep<'_>) -> Result<Vec<f32>> {
        let heads = self.heads();
        self.run(packed.ids, packed.positions, &mut |layer, q, k, v, out| {
            keep(layer, k, v, packed.segments);
            let mut lse = vec![0f32; packed.ids.len() * heads.query];
            let window = self.layers[layer].window;
            let scheme = Scheme { segments: packed.segments, heads, window, precision: Precision::F32 };
            attention::forward(q, k, v, out, &mut lse, &scheme);
        })
    }

    fn run(&self, ids: &[u32], positions: &[u32], attend: Attend<'_>) -> Result<Vec<f32>> {
        let config = &self.config;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::run(format!("token {id} is outside the model's vocabulary of {}", config.vocab_size)));
        }
        if let Some(p) = positions.iter().find(|&&p| p as usize >= self.longest) {
            return Err(Error::run(format!("position {p} is beyond the longest sequence, {}", self.longest)));
        }
        let hidden = config.hidden_size;
        let mut x = Vec::with_capacity(ids.len() * hidden);
        with_slice::<f32, _>(&self.embedding, |table| {
            ids.iter().for_each(|&id| x.extend_from_slice(&table[id as usize * hidden..][..hidden]));
        })?;
        let (mut normed, mut inverse) = (vec![0f32; x.len()], vec![0f32; ids.len()]);
        for (i, layer) in self.layers.iter().enumerate() {
            norm::forward(&x, &layer.input_norm, config.rms_norm_eps, &mut normed, &mut inverse);
            let (mut q, mut k, v) = (layer.q.forward(&normed), layer.k.forward(&normed), layer.v.forward(&normed));
            self.rope.rotate(&mut q, positions, false);
            self.rope.rotate(&mut k, positions, false);
            let mut attended = vec![0f32; q.len()];
            attend(i, &q, &k, &v, &mut attended);
            layer.o.add(&attended, &mut x);
            norm::forward(&x, &layer.post_norm, config.rms_norm_eps, &mut normed, &mut inverse);
            let (gate, up) = (layer.gate.forward(&normed), layer.up.forward(&normed));
            let mut gated = vec![0f32; gate.len()];
            swiglu::forward(&gate, &up, &mut gated);
            layer.down.add(&gated, &mut x);
        }
        norm::forward(&x, &self.norm, config.rms_norm_eps, &mut normed, &mut inverse);
        Ok(normed)
    }

    /// Logits of hidden states, each with the shift of its sequence.
    ///
    /// # Shapes
    /// h (R,H) · R shifts -> (R,V).
    ///
    /// # Panics
    /// Where a shift is of another shape.
    pub fn logits(&self, h: &[f32], shifts: &[Option<&LogitShift>]) -> Vec<f32> {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        assert_eq!(h.len(), shifts.len() * hidden, "a shift for every row");
        let mut h = h.to_vec();
        for (h, shift) in h.chunks_exact_mut(hidden).zip(shifts) {
            if let Some(LogitShift::Hidden(z)) = shift {
                assert_eq!(z.len(), hidden, "a shift of another width");
                vector::add(h, z);
            }
        }
        let mut logits = vec![0f32; shifts.len() * vocabulary];
        self.head.forward(&h, &mut logits, false);
        for (logits, shift) in logits.chunks_exact_mut(vocabulary).zip(shifts) {
            if let Some(LogitShift::Biases { tokens, values }) = shift {
                assert_eq!(tokens.len(), values.len(), "a bias for every token");
                tokens.iter().zip(values).for_each(|(&token, &bias)| logits[token as usize] += bias);
            }
        }
        logits
    }

    /// What `log_softmax` gives each row's target, and whether the target has the largest logit (the first of them).
    ///
    /// # Shapes
    /// h (R,H) · R shifts · targets (R) -> R.
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`Error::Run`] for a target outside the vocabulary.
    pub fn token_logps(&self, h: &[f32], shifts: &[Option<&LogitShift>], targets: &[u32]) -> Result<Vec<(f32, bool)>> {
        use rayon::prelude::*;
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        if let Some(id) = targets.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::run(format!("token {id} is outside the model's vocabulary of {vocabulary}")));
        }
        let mut found = Vec::with_capacity(targets.len());
        let blocks = h.chunks(LOGIT_ROWS * hidden).zip(shifts.chunks(LOGIT_ROWS)).zip(targets.chunks(LOGIT_ROWS));
        for ((h, shifts), targets) in blocks {
            let logits = self.logits(h, shifts);
            found.par_extend(logits.par_chunks_exact(vocabulary).zip(targets).map(|(logits, &target)| {
                let largest = vector::max(f32::NEG_INFINITY, logits);
                let own = logits[target as usize];
                let first = || logits.iter().position(|&x| x == largest) == Some(target as usize);
                (own - largest - vector::exp_sum(logits, largest).ln(), own == largest && first())
            }));
        }
        Ok(found)
    }
}

/// Prompts that lie end to end.
#[derive(Debug, Default)]
pub struct Prompts {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
}

impl Prompts {
    /// Packs prompts.
    ///
    /// # Errors
    /// [`Error::Run`] for an empty prompt.
    pub fn pack(prompts: &[&[u32]]) -> Result<Prompts> {
        let mut packed = Prompts::default();
        for (group, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::run("an empty prompt: there is no token to go on from"));
            }
            let (start, len) = (packed.ids.len(), prompt.len());
            packed.ids.extend_from_slice(prompt);
            packed.positions.extend(0..len as u32);
            packed.segments.push(Segment { start, len, prefix_start: 0, prefix_len: 0, group });
        }
        Ok(packed)
    }

    /// The packed rows.
    pub fn tokens(&self) -> PackedTokens<'_> {
        PackedTokens { ids: &self.ids, positions: &self.positions, segments: &self.segments }
    }

    /// The rows of each prompt.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.segments.iter().map(|s| s.start..s.start + s.len)
    }
}

#[cfg(test)]
mod tests;
