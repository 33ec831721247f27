//! Latent variables over an objective: codes, their variants, and controls without codes.
//!
//! A latent part reads a prompt (its tokens, or hidden states computed without z) and gives one z for each pair: a
//! vector that is added to the hidden state of every response position before the head, or a bias on the logits of some
//! tokens. Because the head is linear, the vector is a bias W z on the vocabulary, the same at every position of both
//! responses.
//!
//! | latent | z in training | z in evaluation |
//! |---|---|---|
//! | `lpc`, `lpc-reliable` | every code, weighted by Bayes' posterior | `sum_k p_k e_k` of the prior |
//! | the same, `inference = "amortised"` | relaxed mixture of codes | the same |
//! | `lpc-hard` | one code, straight-through | the same |
//! | `gaussian` | reparameterised sample | the prior's mean |
//! | `mlp` | MLP of the prompt | the same |
//! | `bias` | one learned z | the same |
//! | `noise` | random | 0 |
//!
//! # Source
//! Gong, Guan, Wu, Zhang, Zhao 2025, "Latent Preference Coding" (ICML), Eq. 7 to 13;
//! choices that the paper leaves open are named options.

pub mod basis;
pub mod bayes;
pub mod codes;
pub mod collapse;
pub mod config;
mod faults;
pub mod flips;
pub mod gaussian;
pub mod gumbel;
pub mod names;
mod network;
pub mod point;
pub mod size;
mod step;
pub mod usage;

use std::ops::Range;

use candle_core::{Tensor, Var};
use rand::Rng;

use crate::error::Result;
pub use basis::Basis;
pub use codes::{Codebook, Codes, balance, entropy};
pub use collapse::{Advice, Cause, CollapseSigns, diagnose};
pub use config::{
    CodeSpace, Features, Grouping, Inference, LAST_LAYER, LatentKind, LpcConfig, Mixture, Normalise, Pooling, Preset,
    PriorInput, Schedule,
};
pub use gaussian::{Gaussian, Normals};
pub use gumbel::gumbel_noise;
pub use point::Point;
pub use size::{parameters, shapes};
pub use step::{Context, Draw, Moment, Noise};
pub use usage::Usage;

/// The latent part of a policy.
#[derive(Debug, Clone)]
pub struct Lpc {
    /// Resolved options.
    pub config: LpcConfig,
    /// What it takes from the training data.
    pub basis: Basis,
    /// Its parameters.
    pub parameters: LatentParameters,
    /// Row of the prior's table by token; [`UNKNOWN`] for tokens that it does not know.
    table_rows: Vec<u32>,
}

/// Row of a token that the prior does not know.
const UNKNOWN: u32 = u32::MAX;

/// Parameters of a latent part, by its kind.
#[derive(Debug, Clone)]
pub enum LatentParameters {
    /// `lpc`, `lpc-hard`, `lpc-reliable`.
    Codes(Codebook),
    /// `gaussian`.
    Gaussian(Gaussian),
    /// `mlp`, `bias`.
    Point(Point),
    /// `noise`: nothing is learned.
    Noise,
}

/// What a latent part makes of a batch.
#[derive(Debug, Clone)]
pub enum Inferred {
    /// ln p over codes (B,K); the posterior is Bayes' own, and comes from the losses.
    Prior(Tensor),
    /// Prior and amortised posterior over codes.
    Codes(Codes),
    /// Normal prior and posterior.
    Normals(Normals),
    /// z itself (B,H) or (B,C): there is nothing to infer.
    Point(Tensor),
    /// z is random in training.
    Noise(usize),
}

/// z of evaluation, without sampling: (B,H), or (B,C) for biases of C tokens.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Under the prior; none where there is no z in evaluation.
    pub prior: Option<Tensor>,
    /// Under an amortised posterior, which has seen the label; none where there is no such posterior.
    pub posterior: Option<Tensor>,
}

impl Lpc {
    /// The latent part over its variables.
    ///
    /// # Errors
    /// [`crate::Error::Run`] naming a parameter that `find` does not know.
    pub fn new(config: LpcConfig, basis: Basis, find: impl Fn(&str) -> Result<Var>) -> Result<Lpc> {
        let tensor = |name: &str| -> Result<Tensor> { Ok(find(name)?.as_tensor().clone()) };
        let parameters = match config.latent {
            LatentKind::Gaussian => LatentParameters::Gaussian(Gaussian::find(&config, &tensor)?),
            LatentKind::Noise => LatentParameters::Noise,
            LatentKind::Mlp | LatentKind::Bias => LatentParameters::Point(Point::find(&config, &tensor)?),
            _ => LatentParameters::Codes(Codebook::find(&config, &tensor)?),
        };
        let mut table_rows = Vec::new();
        for (row, &token) in basis.prior_tokens.iter().enumerate() {
            if token as usize >= table_rows.len() {
                table_rows.resize(token as usize + 1, UNKNOWN);
            }
            table_rows[token as usize] = row as u32;
        }
        Ok(Lpc { config, basis, parameters, table_rows })
    }

    /// The known tokens of prompts, for [`Context::tokens`]; none where the prior reads no tokens.
    pub fn tokens<'a>(&self, prompts: impl Iterator<Item = &'a [u32]>) -> Option<(Vec<u32>, Vec<Range<usize>>)> {
        if !self.config.prior_input.tokens()
            || matches!(self.parameters, LatentParameters::Noise | LatentParameters::Point(Point::Bias(_)))
        {
            return None;
        }
        let (mut rows, mut ranges) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let start = rows.len();
            let known =
                basis::distinct(prompt).into_iter().filter_map(|token| self.table_rows.get(token as usize).copied());
            rows.extend(known.filter(|&row| row != UNKNOWN));
            ranges.push(start..rows.len());
        }
        Some((rows, ranges))
    }

    /// Leaves out known tokens of prompts for one training step, each with the probability `prior_dropout`: a function
    /// of seed, occasion, id and token.
    pub fn drop_tokens(&self, tokens: &mut Option<(Vec<u32>, Vec<Range<usize>>)>, noise: &Noise<'_>) {
        let share = self.config.prior_dropout;
        let Some((rows, ranges)) = tokens.as_mut().filter(|_| share > 0.0) else { return };
        let mut kept = Vec::with_capacity(rows.len());
        for (range, id) in ranges.iter_mut().zip(noise.ids) {
            let mut rng = noise.seed.rng("prior-dropout", &format!("{}:{id}", noise.occasion));
            let start = kept.len();
            kept.extend(rows[range.clone()].iter().filter(|_| rng.random::<f64>() >= share));
            *range = start..kept.len();
        }
        *rows = kept;
    }

    /// Codebook and networks, where there are codes.
    pub fn codes(&self) -> Option<&Codebook> {
        match &self.parameters {
            LatentParameters::Codes(codes) => Some(codes),
            _ => None,
        }
    }

    /// What z is a mixture of, and can be read as tokens: the codes (K,H) or (K,C), or the one z of `bias`.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn vectors(&self) -> Result<Option<Tensor>> {
        match &self.parameters {
            LatentParameters::Codes(codes) => Ok(Some(codes.vectors().clone())),
            LatentParameters::Point(Point::Bias(z)) => Ok(Some(z.unsqueeze(0)?)),
            _ => Ok(None),
        }
    }

    /// Prior and posterior of a batch, differentiable.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, context: &Context) -> Result<Inferred> {
        Ok(match &self.parameters {
            LatentParameters::Codes(codes) => match codes.infer(&self.config, context)? {
                Some(found) => Inferred::Codes(found),
                None => Inferred::Prior(codes.log_prior(&self.config, context)?),
            },
            LatentParameters::Gaussian(gaussian) => Inferred::Normals(gaussian.infer(&self.config, context)?),
            LatentParameters::Point(point) => Inferred::Point(point.z(&self.config, context)?),
            LatentParameters::Noise => Inferred::Noise(context.pairs),
        })
    }

    /// The z's, of type `kind`, over which a training step's loss is averaged: `g z_prior + (1-g) z_posterior`, one
    /// sample of each pair, or with exact sums one draw for every code.
    ///
    /// # Shapes
    /// z (B,H), or (B,C) for biases of C tokens.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn draws(
        &self,
        found: &Inferred,
        moment: Moment,
        noise: &Noise<'_>,
        kind: candle_core::DType,
    ) -> Result<Vec<Draw>> {
        match (&self.parameters, found) {
            (LatentParameters::Codes(codes), Inferred::Codes(found)) => codes.draws(&self.config, found, moment, noise),
            (LatentParameters::Gaussian(gaussian), Inferred::Normals(found)) => gaussian.draws(found, moment, noise),
            (_, Inferred::Point(z)) => Ok(vec![Draw { z: Some(z.clone()), ..Draw::default() }]),
            (_, Inferred::Noise(pairs)) => {
                let size = self.config.code_init * self.basis.unit;
                let like = Tensor::zeros((*pairs, self.basis.code_width()), kind, &candle_core::Device::Cpu)?;
                let z = (noise.tensor("noise", &like, gaussian::normal_noise)? * size)?;
                Ok(vec![Draw { z: Some(z), ..Draw::default() }])
            }
            _ => Err(mismatch()),
        }
    }

    /// Expected z under prior and posterior.
    ///
    /// # Shapes
    /// (B,H), or (B,C) for biases of C tokens.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn expected(&self, found: &Inferred) -> Result<Expected> {
        let (prior, posterior) = match (&self.parameters, found) {
            (LatentParameters::Codes(codes), Inferred::Codes(found)) => {
                (Some(codes.expected(&found.log_prior)?), Some(codes.expected(&found.log_posterior)?))
            }
            (LatentParameters::Codes(codes), Inferred::Prior(log_prior)) => (Some(codes.expected(log_prior)?), None),
            (LatentParameters::Gaussian(gaussian), Inferred::Normals(found)) => {
                (Some(gaussian.mixed(&found.prior.mean)?), Some(gaussian.mixed(&found.posterior.mean)?))
            }
            (_, Inferred::Point(z)) => (Some(z.clone()), None),
            (_, Inferred::Noise(_)) => (None, None),
            _ => return Err(mismatch()),
        };
        Ok(Expected { prior, posterior })
    }
}

impl Lpc {
    /// What the prior makes of prompts alone, where there are no responses: its weights over the codes, where there
    /// are codes, and the z of evaluation, the same as [`Lpc::expected`] gives.
    ///
    /// # Shapes
    /// Weights (B,K) · z (B,H), or (B,C) for biases of C tokens.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn prior(&self, context: &Context) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(match &self.parameters {
            LatentParameters::Codes(codes) => {
                let log_prior = codes.log_prior(&self.config, context)?;
                (Some(log_prior.exp()?), Some(codes.expected(&log_prior)?))
            }
            LatentParameters::Gaussian(gaussian) => {
                (None, Some(gaussian.mixed(&gaussian.prior(&self.config, context)?.mean)?))
            }
            LatentParameters::Point(point) => (None, Some(point.z(&self.config, context)?)),
            LatentParameters::Noise => (None, None),
        })
    }
}

impl Inferred {
    /// Distributions over codes, where they are amortised.
    pub fn codes(&self) -> Option<&Codes> {
        match self {
            Inferred::Codes(codes) => Some(codes),
            _ => None,
        }
    }

    /// KL(q || p) of each pair in closed form; none without a posterior of a network.
    ///
    /// # Shapes
    /// (B).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn kl(&self) -> Result<Option<Tensor>> {
        match self {
            Inferred::Codes(codes) => codes.kl().map(Some),
            Inferred::Normals(normals) => normals.kl().map(Some),
            Inferred::Point(_) | Inferred::Prior(_) | Inferred::Noise(_) => Ok(None),
        }
    }
}

fn mismatch() -> crate::Error {
    crate::Error::run("what was inferred belongs to another latent")
}
