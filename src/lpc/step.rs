//! What the latent part takes in a training step, and the z that it gives.

use std::ops::Range;

use candle_core::Tensor;

use crate::error::Result;
use crate::seed::Seed;

/// What the networks read of a batch, one row for each pair.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// B.
    pub pairs: usize,
    /// Hidden states that represent the prompt (B,H), where they are read.
    pub prompt: Option<Tensor>,
    /// Known tokens of the prompts by their row of the prior's table, and each pair's among them, where they are read.
    pub tokens: Option<(Vec<u32>, Vec<Range<usize>>)>,
    /// Pooled responses, observed chosen and rejected, (B,H) each, where the posterior is amortised.
    pub responses: Option<(Tensor, Tensor)>,
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
    /// Weight of the usage balance.
    pub balance: f64,
}

/// Where the noise of a batch comes from: a function of (seed, occasion, id), never of position.
#[derive(Debug, Clone, Copy)]
pub struct Noise<'a> {
    /// The run's seed.
    pub seed: Seed,
    /// Part of the seed: an example that is seen again gets other noise.
    pub occasion: &'a str,
    /// The pairs' ids.
    pub ids: &'a [&'a str],
}

/// One z for every pair in a training step.
#[derive(Debug, Clone, Default)]
pub struct Draw {
    /// z (B,H), or (B,C) for biases of C tokens; none without a latent.
    pub z: Option<Tensor>,
    /// Weight of each pair's loss (B); none: 1.
    pub weight: Option<Tensor>,
    /// Flip rate of each pair's label (B), where the latent has its own.
    pub flips: Option<Tensor>,
}

impl Noise<'_> {
    /// Numbers of one kind, in the shape, type and place of `like` (B,N).
    pub(super) fn tensor(
        &self,
        purpose: &str,
        like: &Tensor,
        of: fn(Seed, &str, &str, usize) -> Vec<f64>,
    ) -> Result<Tensor> {
        let (rows, n) = like.dims2()?;
        let key = |id: &str| format!("{}:{id}", self.occasion);
        let values: Vec<f64> = self.ids.iter().flat_map(|id| of(self.seed, purpose, &key(id), n)).collect();
        // Narrowed before it moves: not every device has f64.
        let host = Tensor::from_vec(values, (rows, n), &candle_core::Device::Cpu)?.to_dtype(like.dtype())?;
        Ok(host.to_device(like.device())?)
    }
}
