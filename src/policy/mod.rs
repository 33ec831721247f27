//! The policy: decoder and latent part over packed batches, in training and in evaluation.
//!
//! One path computes log-probabilities for training, evaluation, the reference
//! and `score`, so that they cannot disagree.

mod each;
pub mod examine;
pub mod flips;
pub mod folder;
pub mod states;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use crate::batch::PairBatch;
use crate::error::Result;
use crate::lpc::{Context, Inferred, Lpc, LpcConfig, Pooling};
use crate::model::decoder::Packed;
use crate::model::load::{Loaded, normal};
use crate::model::{Decoder, Gradients, Group, Lora, Param, Params, Place};
use crate::nn::{Real, segment};
use crate::seed::Seed;

pub use examine::{Example, examine};
pub use states::{HiddenStates, Keeping};

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
    /// Hidden states that are known, where the backbone is frozen.
    pub states: Option<HiddenStates>,
}

/// Sequence log-probabilities of a batch.
///
/// # Shapes
/// Each (B). # Units: nats, summed over response tokens.
#[derive(Debug, Clone)]
pub struct SequenceLogps {
    /// Chosen.
    pub chosen: Tensor,
    /// Rejected; absent in a batch for SFT.
    pub rejected: Option<Tensor>,
}

impl<T: Real> Policy<T> {
    /// A policy on a loaded model, its latent part new from the seed.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn new(loaded: Loaded, lpc: &LpcConfig, seed: Seed, longest: usize) -> Result<Policy<T>> {
        Policy::adapted(loaded, None, lpc, seed, longest)
    }

    /// [`Policy::new`] with the adapter that is among the loaded parameters.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn adapted(
        loaded: Loaded,
        adapter: Option<Lora>,
        lpc: &LpcConfig,
        seed: Seed,
        longest: usize,
    ) -> Result<Policy<T>> {
        let Loaded { config, mut params } = loaded;
        if lpc.active() {
            let head = if config.tie_word_embeddings {
                crate::model::decoder::names::EMBEDDING
            } else {
                crate::model::decoder::names::HEAD
            };
            let head = params.iter().find(|p| p.name == head);
            let norm = head.map_or(Ok(1.0), |p| row_norm(p.var.as_tensor()))?;
            for (name, shape, deviation) in crate::lpc::shapes(lpc, config.hidden_size, norm) {
                let n: usize = shape.iter().product();
                let values: Vec<T> = normal(seed, &name, n).map(|x| T::of(x * deviation)).collect();
                let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
                params.push(Param { name, var: Var::from_tensor(&tensor)?, trainable: true, group: Group::Latent });
            }
        }
        Policy::joined(config, Params::new(params)?, adapter, lpc, longest)
    }

    /// A policy over parameters that are already there.
    ///
    /// # Errors
    /// [`crate::Error::Run`] naming a parameter that is missing.
    pub fn over(
        config: crate::model::LlamaConfig,
        params: Params,
        lpc: &LpcConfig,
        longest: usize,
    ) -> Result<Policy<T>> {
        Policy::joined(config, params, None, lpc, longest)
    }

    fn joined(
        config: crate::model::LlamaConfig,
        params: Params,
        adapter: Option<Lora>,
        lpc: &LpcConfig,
        longest: usize,
    ) -> Result<Policy<T>> {
        let decoder = Decoder::adapted(config, &params, adapter.as_ref(), longest)?;
        let lpc = if lpc.active() {
            Some(Lpc::new(lpc.clone(), |name| Ok(params.get(params.position(name)?).var.clone()))?)
        } else {
            None
        };
        Ok(Policy { params, decoder, lpc, adapter, states: None })
    }

    /// The same policy with its backbone elsewhere, from composed operations. What is trained keeps values of type `T`
    /// there; what is frozen has the compute type alone. The latent part stays in memory.
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
            let tensor = param.var.as_detached_tensor().to_dtype(if wide { T::KIND } else { place.compute })?;
            let tensor = tensor.to_device(&place.device)?;
            Ok(Param { var: Var::from_tensor(&tensor)?, ..param.clone() })
        };
        let params = Params::new(self.params.iter().map(moved).collect::<Result<_>>()?)?;
        let decoder = Decoder::adapted(self.decoder.config, &params, self.adapter.as_ref(), longest)?;
        let decoder = decoder.composed(place, &params)?;
        Ok(Policy { params, decoder, ..self })
    }

    /// Hidden states of a batch, without z.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn hidden(&self, batch: &PairBatch, gradients: Option<&Arc<Gradients>>) -> Result<Tensor> {
        let packed = Packed { ids: &batch.ids, positions: &batch.positions, segments: &batch.segments };
        self.decoder.hidden(packed, gradients)
    }

    /// What the latent part makes of a batch, where there is one.
    ///
    /// # Shapes
    /// h (N,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, h: &Tensor, batch: &PairBatch) -> Result<Option<Inferred>> {
        let Some(lpc) = &self.lpc else { return Ok(None) };
        lpc.infer(&self.context(h, batch, &lpc.config)?).map(Some)
    }

    /// What the latent part's networks read.
    ///
    /// # Shapes
    /// h (N,H) -> up to three (B,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn context(&self, h: &Tensor, batch: &PairBatch, config: &LpcConfig) -> Result<Context> {
        let rows = |get: fn(&crate::batch::PairRows) -> usize| -> Result<Tensor> {
            let rows: Vec<u32> = batch.pairs.iter().map(|p| get(p) as u32).collect();
            Ok(h.index_select(&Tensor::from_vec(rows, batch.len(), &Device::Cpu)?, 0)?)
        };
        let prompt = rows(|p| p.prompt.end - 1)?;
        if !config.latent.inferred() {
            return Ok(Context { prompt, responses: None });
        }
        let responses = match config.pooling {
            Pooling::Last => (rows(|p| p.chosen.end - 1)?, rows(|p| p.rejected.end - 1)?),
            Pooling::Mean => (
                segment::mean(h, batch.pairs.iter().map(|p| p.chosen.clone()).collect())?,
                segment::mean(h, batch.pairs.iter().map(|p| p.rejected.clone()).collect())?,
            ),
        };
        Ok(Context { prompt, responses: Some(responses) })
    }

    /// Log-probabilities of both responses, with z added at every response position.
    ///
    /// # Shapes
    /// h (N,H) · z (B,H) -> two (B).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn logps(
        &self,
        h: &Tensor,
        batch: &PairBatch,
        z: Option<&Tensor>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<SequenceLogps> {
        let index = |rows: &[u32]| Tensor::from_slice(rows, rows.len(), &Device::Cpu);
        let mut rows = h.index_select(&index(&batch.predicting)?, 0)?;
        let tokens = match gradients {
            Some(gradients) if !h.track_op() && self.decoder.place().is_none() => {
                let shifts = z.map(|z| (z, batch.pair_of.as_slice()));
                self.decoder.token_logps_of_constants(&rows, shifts, &batch.targets, gradients)?
            }
            _ => {
                if let Some(z) = z {
                    rows = (rows + z.index_select(&index(&batch.pair_of)?, 0)?)?;
                }
                self.decoder.token_logps(&rows, &batch.targets, gradients)?
            }
        };
        let sums = segment::sum(&tokens, batch.responses.clone())?;
        let pairs = batch.len();
        Ok(SequenceLogps {
            chosen: sums.narrow(0, 0, pairs)?,
            rejected: if batch.responses.len() > pairs { Some(sums.narrow(0, pairs, pairs)?) } else { None },
        })
    }
}

/// Root mean square norm of a matrix' rows.
fn row_norm(w: &Tensor) -> Result<f64> {
    let mean = w.detach().sqr()?.sum(1)?.mean(0)?.to_dtype(DType::F64)?.to_vec0::<f64>()?;
    Ok(mean.sqrt())
}
