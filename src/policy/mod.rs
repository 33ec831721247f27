//! The policy: decoder and latent part over packed batches, in training and in evaluation.
//!
//! One path computes log-probabilities for training, evaluation, the reference
//! and `score`, so that they cannot disagree.

pub mod basis;
pub mod evaluate;
mod exact;
pub mod flips;
pub mod hidden_cache;
mod hidden_states;
mod prompts;
pub mod saved;

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use crate::batch::{PairBatch, Sides};
use crate::error::Result;
use crate::lpc::{Basis, Context, Inferred, LAST_LAYER, Lpc, LpcConfig, Pooling};
use crate::model::decoder::shifted::Shifts;
use crate::model::init::normal;
use crate::model::{Decoder, Gradients, Group, LlamaConfig, Loaded, Lora, PackedTokens, Param, Params, Place};
use crate::nn::{Real, segment};
use crate::seed::Seed;
use crate::token_file::TokenRow;
use crate::weights::latent::Base;

pub use evaluate::{Example, evaluate};
pub use exact::CodeLogps;
pub use hidden_cache::Keeping;
pub use hidden_states::{HiddenStates, States};
pub use prompts::{PromptLatent, PromptPrior};

/// Decoder, latent part, and the parameters of both.
#[derive(Debug)]
pub struct Policy<T> {
    /// All parameters, sorted by name.
    pub params: Params,
    /// The backbone.
    pub decoder: Decoder<T>,
    /// The latent part, where there is one.
    pub lpc: Option<Lpc>,
    /// The adapter among the parameters, where there is one.
    pub adapter: Option<Lora>,
    /// The model that it is trained over, where that never changes and is not written again.
    pub base: Option<Base>,
    /// Hidden states that are kept, where the backbone is frozen.
    pub states: Option<HiddenStates>,
}

/// Sequence log-probabilities of a batch.
///
/// # Shapes
/// Each (B).
///
/// # Units
/// Nats, summed over response tokens.
#[derive(Debug, Clone)]
pub struct SequenceLogps {
    /// Chosen.
    pub chosen: Tensor,
    /// Rejected; absent in a batch for SFT.
    pub rejected: Option<Tensor>,
}

impl<T: Real> Policy<T> {
    /// A policy on a loaded model, with the adapter that is among its parameters if any; the latent part is new, from
    /// the seed.
    ///
    /// # Errors
    /// As [`Policy::over`].
    pub fn new(
        loaded: Loaded,
        adapter: Option<Lora>,
        lpc: &LpcConfig,
        basis: Basis,
        seed: Seed,
        longest: usize,
    ) -> Result<Policy<T>> {
        let Loaded { config, mut params } = loaded;
        if lpc.active() {
            let mut push = |name: String, values: Vec<T>, shape: Vec<usize>, trainable: bool| -> Result<()> {
                let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
                params.push(Param { name, var, trainable, group: Group::Latent });
                Ok(())
            };
            for (name, shape, deviation) in crate::lpc::shapes(lpc, &basis) {
                let n: usize = shape.iter().product();
                let values: Vec<T> = normal(seed, &name, n).map(|x| T::of(x * deviation)).collect();
                push(name, values, shape, true)?;
            }
            for (name, shape) in crate::lpc::size::constants(lpc, &basis) {
                let start = if name == crate::lpc::names::PROMPT_DEVIATION { T::one() } else { T::zero() };
                push(name, vec![start; shape.iter().product()], shape, false)?;
            }
        }
        Policy::over(config, Params::new(params)?, adapter, lpc, basis, longest)
    }

    /// A policy over parameters that exist already, those of its latent part and its adapter among them; sequences may
    /// be up to `longest` tokens.
    ///
    /// # Errors
    /// [`crate::Error::Run`] naming a parameter that is missing; [`crate::Error::Config`] where the latent part reads a
    /// layer that the model does not have.
    pub fn over(
        config: LlamaConfig,
        params: Params,
        adapter: Option<Lora>,
        lpc: &LpcConfig,
        basis: Basis,
        longest: usize,
    ) -> Result<Policy<T>> {
        if lpc.reads_states() && lpc.prompt_layer > config.num_hidden_layers as i64 {
            let message = format!("layer {}: the model has {}", lpc.prompt_layer, config.num_hidden_layers);
            return Err(crate::Error::config("train.lpc.prompt_layer", message));
        }
        let decoder = Decoder::new(config, &params, adapter.as_ref(), longest)?;
        let lpc = if lpc.active() {
            Some(Lpc::new(lpc.clone(), basis, |name| Ok(params.get(params.position(name)?).var.clone()))?)
        } else {
            None
        };
        Ok(Policy { params, decoder, lpc, adapter, base: None, states: None })
    }

    /// The same policy with its backbone on another device, from composed operations. Trained parameters keep the type
    /// `T` there, frozen ones get the compute type. The latent part stays in memory.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn placed(self, place: Place) -> Result<Policy<T>> {
        let longest = self.decoder.longest();
        let moved = |param: &Param| -> Result<Param> {
            let wide = param.trainable || param.var.rank() < 2;
            if param.group == Group::Latent || (place.device.is_cpu() && (wide || place.compute == T::KIND)) {
                return Ok(param.clone());
            }
            let kind = if wide { T::KIND } else { place.compute };
            let tensor = param.var.as_detached_tensor().to_device(&place.device)?.to_dtype(kind)?;
            Ok(Param { var: Var::from_tensor(&tensor)?, ..param.clone() })
        };
        let params = Params::new(self.params.iter().map(moved).collect::<Result<_>>()?)?;
        let decoder = Decoder::new(self.decoder.config, &params, self.adapter.as_ref(), longest)?;
        let decoder = decoder.composed(place, &params)?;
        Ok(Policy { params, decoder, ..self })
    }

    /// Hidden states of a batch, without z.
    ///
    /// # Shapes
    /// N packed rows -> (N,H).
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn hidden(&self, batch: &PairBatch, gradients: Option<&Arc<Gradients>>) -> Result<Tensor> {
        self.decoder.hidden(packed(batch), gradients)
    }

    /// A batch and its hidden states, without z: those that are kept, else the backbone's.
    ///
    /// # Errors
    /// Those of packing, and as [`Decoder::hidden`].
    pub fn states(&self, rows: &[&TokenRow], sides: Sides, gradients: Option<&Arc<Gradients>>) -> Result<States> {
        let tokens = self.lpc.as_ref().and_then(|lpc| lpc.tokens(rows.iter().map(|row| &row.prompt_ids[..])));
        if let Some(states) = &self.states
            && let Some(kept) = states.of::<T>(rows, sides)?
        {
            return Ok(States { tokens, ..kept });
        }
        Ok(States { tokens, ..self.computed(rows, sides, gradients)? })
    }

    /// A batch and its hidden states from the backbone.
    fn computed(&self, rows: &[&TokenRow], sides: Sides, gradients: Option<&Arc<Gradients>>) -> Result<States> {
        let batch = PairBatch::pack(rows.iter().copied(), sides)?;
        let (h, beside) = self.decoder.hidden_at(packed(&batch), self.layer_beside(), gradients)?;
        let prompts = batch.pairs.iter().map(|p| p.prompt.clone()).collect();
        let prompt = self.pooled_prompts(&h, beside.as_ref(), prompts)?;
        Ok(States { batch, h, prompt, tokens: None, reach: None })
    }

    /// What the latent part infers for a batch; `None` without a latent part.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, states: &States) -> Result<Option<Inferred>> {
        let Some(lpc) = &self.lpc else { return Ok(None) };
        lpc.infer(&self.context(states, &lpc.config)?).map(Some)
    }

    /// What the latent part's networks read.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn context(&self, states: &States, config: &LpcConfig) -> Result<Context> {
        let (batch, h) = (&states.batch, &states.h);
        let responses = match (config.amortised(), config.pooling) {
            (false, _) => None,
            (true, Pooling::Last) => {
                Some((rows_at(h, batch, |p| p.chosen.end - 1)?, rows_at(h, batch, |p| p.rejected.end - 1)?))
            }
            (true, Pooling::Mean) => Some((
                segment::mean(h, batch.pairs.iter().map(|p| p.chosen.clone()).collect())?,
                segment::mean(h, batch.pairs.iter().map(|p| p.rejected.clone()).collect())?,
            )),
        };
        Ok(Context { pairs: batch.len(), prompt: states.prompt.clone(), tokens: states.tokens.clone(), responses })
    }

    /// The layer whose hidden states represent the prompts; `None` where the last layer's do, or none are read.
    fn layer_beside(&self) -> Option<usize> {
        let config = self.lpc.as_ref().map(|lpc| &lpc.config).filter(|config| config.reads_states())?;
        (config.prompt_layer != LAST_LAYER).then_some(config.prompt_layer as usize)
    }

    /// Hidden states that represent the prompts of a batch, which lie in these packed rows, where the latent part reads
    /// them.
    fn pooled_prompts(
        &self,
        h: &Tensor,
        beside: Option<&Tensor>,
        prompts: Vec<std::ops::Range<usize>>,
    ) -> Result<Option<Tensor>> {
        let Some(config) = self.lpc.as_ref().map(|lpc| &lpc.config).filter(|config| config.reads_states()) else {
            return Ok(None);
        };
        let h = beside.unwrap_or(h);
        Ok(Some(match config.prompt_pooling {
            Pooling::Last => {
                let last: Vec<u32> = prompts.iter().map(|rows| rows.end as u32 - 1).collect();
                h.index_select(&Tensor::from_vec(last, prompts.len(), &Device::Cpu)?, 0)?
            }
            Pooling::Mean => segment::mean(h, prompts)?,
        }))
    }

    /// Shifts of the logits as the decoder takes them, from z in the space of the codes.
    ///
    /// # Shapes
    /// z (B,H), or (B,C) for biases of C tokens.
    ///
    /// # Errors
    /// [`crate::Error::Run`] without a latent part.
    pub fn shifts<'a>(&'a self, z: &'a Tensor) -> Result<Shifts<'a>> {
        let lpc = self.lpc.as_ref().ok_or_else(|| crate::Error::run("z without a latent part"))?;
        Ok(match &lpc.basis.code_tokens {
            Some(tokens) => Shifts::Biases(z, tokens),
            None => Shifts::Hidden(z),
        })
    }

    /// Log-probabilities of both responses, with z at every response position.
    ///
    /// # Shapes
    /// z (B,H), or (B,C) for biases of C tokens -> two (B).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn logps(
        &self,
        states: &States,
        z: Option<&Tensor>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<SequenceLogps> {
        let (batch, h) = (&states.batch, &states.h);
        let index = |rows: &[u32]| Tensor::from_slice(rows, rows.len(), &Device::Cpu);
        let rows = h.index_select(&index(&batch.predicting)?, 0)?;
        let shifts = z.map(|z| self.shifts(z)).transpose()?;
        let tokens = match (shifts, gradients) {
            (Some(shifts @ Shifts::Biases(..)), _) => {
                let reach = states.reach.as_ref();
                self.decoder.token_logps_shifted(&rows, shifts, &batch.pair_of, &batch.targets, reach, gradients)?
            }
            (_, Some(gradients)) if !h.track_op() && self.decoder.place().is_none() => {
                let shifts = z.map(|z| (z, batch.pair_of.as_slice()));
                self.decoder.token_logps_of_frozen(&rows, shifts, &batch.targets, gradients)?
            }
            (Some(shifts), _) => {
                self.decoder.token_logps_shifted(&rows, shifts, &batch.pair_of, &batch.targets, None, gradients)?
            }
            (None, _) => self.decoder.token_logps(&rows, &batch.targets, gradients)?,
        };
        let sums = segment::sum(&tokens, batch.responses.clone())?;
        let pairs = batch.len();
        Ok(SequenceLogps {
            chosen: sums.narrow(0, 0, pairs)?,
            rejected: if batch.responses.len() > pairs { Some(sums.narrow(0, pairs, pairs)?) } else { None },
        })
    }
}

fn packed(batch: &PairBatch) -> PackedTokens<'_> {
    PackedTokens { ids: &batch.ids, positions: &batch.positions, segments: &batch.segments }
}

/// One packed row of each pair.
fn rows_at(h: &Tensor, batch: &PairBatch, get: fn(&crate::batch::PairRows) -> usize) -> Result<Tensor> {
    let rows: Vec<u32> = batch.pairs.iter().map(|p| get(p) as u32).collect();
    Ok(h.index_select(&Tensor::from_vec(rows, batch.len(), &Device::Cpu)?, 0)?)
}
