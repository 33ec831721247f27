//! Latent variables over an objective: codes, their variants, and controls without codes.
//!
//! Reads hidden states (after the final norm, taken without z) and writes one
//! vector z for each pair, which is added to every response position's hidden
//! state before the head. Because the head is linear, z is a vocabulary-sized
//! bias W z, the same at every position of both responses.
//!
//! | latent | z in training | z in evaluation |
//! |---|---|---|
//! | `lpc`, `lpc-reliable` | relaxed mixture of codes | `sum_k p_k e_k` of the prior |
//! | `lpc-hard` | one code, straight-through | the same |
//! | `gaussian` | reparameterised sample | the prior's mean |
//! | `mlp` | MLP of the prompt | the same |
//! | `bias` | one learned vector | the same |
//!
//! # Source
//! Gong, Guan, Wu, Zhang, Zhao 2025, "Latent Preference Coding" (ICML), Eq. 7 to 13;
//! choices that the paper leaves open are named options.

pub mod codes;
pub mod collapse;
pub mod config;
mod effects;
pub mod flips;
pub mod gaussian;
pub mod gumbel;
mod network;
pub mod point;
pub mod size;
pub mod usage;

use candle_core::{Tensor, Var};

use crate::error::Result;
use crate::seed::Seed;
pub use codes::{Codebook, Codes, balance, entropy};
pub use collapse::{Advice, Cause, CollapseSigns, diagnose};
pub use config::{Features, LatentKind, LpcConfig, Mixture, Pooling, Schedule};
pub use gaussian::{Gaussian, Normals};
pub use gumbel::gumbel_noise;
pub use point::Point;
pub use size::{parameters, shapes};
pub use usage::Usage;

/// Names of the latent part's tensors in `lpc_model.safetensors`.
pub mod names {
    #![allow(missing_docs, reason = "the name says it")]
    pub const CODEBOOK: &str = "lpc.codebook";
    pub const PRIOR: &str = "lpc.prior";
    pub const POSTERIOR: &str = "lpc.posterior";
    pub const FLIP_LOGITS: &str = "lpc.flip_logits";
    pub const DIRECTIONS: &str = "lpc.directions";
    pub const MLP: &str = "lpc.mlp";
    pub const BIAS: &str = "lpc.bias";
}

/// The latent part of a policy.
#[derive(Debug, Clone)]
pub struct Lpc {
    /// Resolved options.
    pub config: LpcConfig,
    /// Its parameters.
    pub part: Part,
}

/// Parameters of a latent part, by its kind.
#[derive(Debug, Clone)]
pub enum Part {
    /// `lpc`, `lpc-hard`, `lpc-reliable`.
    Codes(Codebook),
    /// `gaussian`.
    Gaussian(Gaussian),
    /// `mlp`, `bias`.
    Point(Point),
}

/// What the networks read of the backbone, one row for each pair.
#[derive(Debug, Clone)]
pub struct Context {
    /// Last prompt token (B,H).
    pub prompt: Tensor,
    /// Pooled responses, observed chosen and rejected, (B,H) each; left out for latents without a posterior.
    pub responses: Option<(Tensor, Tensor)>,
}

/// What a latent part makes of a batch.
#[derive(Debug, Clone)]
pub enum Inferred {
    /// Prior and posterior over codes.
    Codes(Codes),
    /// Normal prior and posterior.
    Normals(Normals),
    /// z itself (B,H): there is nothing to infer.
    Point(Tensor),
}

/// State of the schedules at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Share of the prior's z in training (paper Eq. 11).
    pub g: f64,
    /// Temperature of the relaxed samples.
    pub tau: f64,
    /// Weight of the divergence.
    pub kl_weight: f64,
}

/// Where the noise of a batch comes from: a function of (seed, occasion, id), never of position.
#[derive(Debug, Clone, Copy)]
pub struct Noise<'a> {
    /// The run's seed.
    pub seed: Seed,
    /// Names the step, so that an example seen twice gets fresh noise.
    pub occasion: &'a str,
    /// The pairs' ids.
    pub ids: &'a [&'a str],
}

/// One z for every pair in a training step.
#[derive(Debug, Clone, Default)]
pub struct Draw {
    /// z (B,H); none without a latent.
    pub z: Option<Tensor>,
    /// Weight of each pair's loss (B); none: 1.
    pub weight: Option<Tensor>,
    /// Flip rate of each pair's label (B), where the latent has its own.
    pub flips: Option<Tensor>,
}

/// z of evaluation, without sampling (B,H).
#[derive(Debug, Clone)]
pub struct Expected {
    /// Under the prior.
    pub prior: Tensor,
    /// Under the posterior, which has seen the label; none where there is no posterior.
    pub posterior: Option<Tensor>,
}

impl Noise<'_> {
    /// Numbers of one kind, in the shape, type and place of `like` (B,N).
    fn tensor(&self, purpose: &str, like: &Tensor, of: fn(Seed, &str, &str, usize) -> Vec<f64>) -> Result<Tensor> {
        let (rows, n) = like.dims2()?;
        let key = |id: &str| format!("{}:{id}", self.occasion);
        let values: Vec<f64> = self.ids.iter().flat_map(|id| of(self.seed, purpose, &key(id), n)).collect();
        // Narrowed before it moves: not every device has f64.
        let host = Tensor::from_vec(values, (rows, n), &candle_core::Device::Cpu)?.to_dtype(like.dtype())?;
        Ok(host.to_device(like.device())?)
    }
}

impl Lpc {
    /// The latent part over its variables.
    ///
    /// # Errors
    /// [`crate::Error::Run`] naming a parameter that `find` does not know.
    pub fn new(config: LpcConfig, find: impl Fn(&str) -> Result<Var>) -> Result<Lpc> {
        let tensor = |name: &str| -> Result<Tensor> { Ok(find(name)?.as_tensor().clone()) };
        let part = match config.latent {
            LatentKind::Gaussian => Part::Gaussian(Gaussian::find(&tensor)?),
            LatentKind::Mlp | LatentKind::Bias => Part::Point(Point::find(&config, &tensor)?),
            _ => Part::Codes(Codebook::find(&config, &tensor)?),
        };
        Ok(Lpc { config, part })
    }

    /// Codebook and networks, where there are codes.
    pub fn codes(&self) -> Option<&Codebook> {
        match &self.part {
            Part::Codes(codes) => Some(codes),
            _ => None,
        }
    }

    /// The vectors that z is a mixture of, and that can be read as tokens: the codes (K,H), or the one z of `bias`.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn vectors(&self) -> Result<Option<Tensor>> {
        match &self.part {
            Part::Codes(codes) => Ok(Some(codes.vectors().clone())),
            Part::Point(Point::Bias(z)) => Ok(Some(z.unsqueeze(0)?)),
            _ => Ok(None),
        }
    }

    /// Prior and posterior of a batch, differentiable.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, context: &Context) -> Result<Inferred> {
        Ok(match &self.part {
            Part::Codes(codes) => Inferred::Codes(codes.infer(&self.config, context)?),
            Part::Gaussian(gaussian) => Inferred::Normals(gaussian.infer(&self.config, context)?),
            Part::Point(point) => Inferred::Point(point.z(&self.config, context)?),
        })
    }

    /// The z's over which a training step's loss is averaged: `g z_prior + (1-g) z_posterior`, one sample of each
    /// pair, or with exact sums one draw for every code.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn draws(&self, found: &Inferred, moment: Moment, noise: &Noise<'_>) -> Result<Vec<Draw>> {
        match (&self.part, found) {
            (Part::Codes(codes), Inferred::Codes(found)) => codes.draws(&self.config, found, moment, noise),
            (Part::Gaussian(gaussian), Inferred::Normals(found)) => gaussian.draws(found, moment, noise),
            (_, Inferred::Point(z)) => Ok(vec![Draw { z: Some(z.clone()), ..Draw::default() }]),
            _ => Err(mismatch()),
        }
    }

    /// Expected z under prior and posterior.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn expected(&self, found: &Inferred) -> Result<Expected> {
        let (prior, posterior) = match (&self.part, found) {
            (Part::Codes(codes), Inferred::Codes(found)) => {
                (codes.expected(&found.log_prior)?, Some(codes.expected(&found.log_posterior)?))
            }
            (Part::Gaussian(gaussian), Inferred::Normals(found)) => {
                (gaussian.mixed(&found.prior.mean)?, Some(gaussian.mixed(&found.posterior.mean)?))
            }
            (_, Inferred::Point(z)) => (z.clone(), None),
            _ => return Err(mismatch()),
        };
        Ok(Expected { prior, posterior })
    }
}

impl Inferred {
    /// Distributions over codes, where there are codes.
    pub fn codes(&self) -> Option<&Codes> {
        match self {
            Inferred::Codes(codes) => Some(codes),
            _ => None,
        }
    }

    /// KL(q || p) of each pair (B) in closed form, nats; none without a posterior.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn kl(&self) -> Result<Option<Tensor>> {
        match self {
            Inferred::Codes(codes) => codes.kl().map(Some),
            Inferred::Normals(normals) => normals.kl().map(Some),
            Inferred::Point(_) => Ok(None),
        }
    }
}

fn mismatch() -> crate::Error {
    crate::Error::run("what was inferred belongs to another latent")
}
