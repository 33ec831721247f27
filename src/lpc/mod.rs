//! Latent codes over an objective: prior, posterior, codebook, relaxed samples, divergence.
//!
//! Reads hidden states (after the final norm, taken without z) and writes one
//! vector z for each pair, which is added to every response position's hidden
//! state before the head. Because the head is linear, z is a vocabulary-sized
//! bias W z, the same at every position of both responses.
//!
//! # Source
//! Gong, Guan, Wu, Zhang, Zhao 2025, "Latent Preference Coding" (ICML), Eq. 7 to 13;
//! choices that the paper leaves open are named options.

pub mod config;
pub mod gumbel;
pub mod usage;

use candle_core::{D, Device, Tensor, Var};

use crate::error::Result;
use crate::seed::Seed;
pub use config::{Features, LatentKind, LpcConfig, Mixture, Pooling, Schedule};
pub use gumbel::gumbel_noise;
pub use usage::Usage;

/// Names of the latent part's tensors in `lpc_model.safetensors`.
pub mod names {
    #![allow(missing_docs, reason = "the name says it")]
    pub const CODEBOOK: &str = "lpc.codebook";
    pub const PRIOR: &str = "lpc.prior";
    pub const POSTERIOR: &str = "lpc.posterior";
}

/// The latent part of a policy: codebook and the two inference networks.
#[derive(Debug, Clone)]
pub struct Lpc {
    /// Resolved options.
    pub config: LpcConfig,
    codebook: Tensor,
    prior: Mlp,
    posterior: Mlp,
}

/// Linear - SiLU - Linear.
#[derive(Debug, Clone)]
struct Mlp {
    w0: Tensor,
    b0: Tensor,
    w2: Tensor,
    b2: Tensor,
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = x.matmul(&self.w0.t()?)?.broadcast_add(&self.b0)?;
        // silu composed: candle's own has a backward pass, but sigmoid times x is as exact and plain.
        let hidden = candle_nn::ops::silu(&hidden)?;
        Ok(hidden.matmul(&self.w2.t()?)?.broadcast_add(&self.b2)?)
    }
}

/// What the networks read of the backbone, one row for each pair.
#[derive(Debug, Clone)]
pub struct Context {
    /// Last prompt token (B,H).
    pub prompt: Tensor,
    /// Pooled observed-chosen response (B,H).
    pub chosen: Tensor,
    /// Pooled observed-rejected response (B,H).
    pub rejected: Tensor,
}

/// Prior and posterior of a batch.
#[derive(Debug, Clone)]
pub struct Codes {
    /// ln p(z|x) (B,K).
    pub log_prior: Tensor,
    /// ln q(z|x, chosen > rejected) (B,K).
    pub log_posterior: Tensor,
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

/// Shapes and initial values of the latent parameters: (name, shape, standard deviation).
///
/// `row_norm` is the root mean square norm of the head's rows: a code's effect on the logits,
/// W e_k, then has the standard deviation `code_init` whatever the model's width and scale.
pub fn shapes(config: &LpcConfig, hidden: usize, row_norm: f64) -> Vec<(String, Vec<usize>, f64)> {
    let k = config.codes;
    let features = match config.features {
        Features::Concat => 2 * hidden,
        Features::Difference => hidden,
    };
    let mut out = vec![(names::CODEBOOK.to_string(), vec![k, hidden], config.code_init / row_norm.max(1e-12))];
    for (name, inputs) in [(names::PRIOR, hidden), (names::POSTERIOR, features)] {
        out.push((format!("{name}.0.weight"), vec![hidden, inputs], (1.0 / inputs as f64).sqrt()));
        out.push((format!("{name}.0.bias"), vec![hidden], 0.0));
        out.push((format!("{name}.2.weight"), vec![k, hidden], config.head_init * (1.0 / hidden as f64).sqrt()));
        out.push((format!("{name}.2.bias"), vec![k], 0.0));
    }
    out
}

impl Lpc {
    /// The latent part over its variables.
    ///
    /// # Errors
    /// [`crate::Error::Run`] naming a parameter that `find` does not know.
    pub fn new(config: LpcConfig, find: impl Fn(&str) -> Result<Var>) -> Result<Lpc> {
        let tensor = |name: &str| -> Result<Tensor> { Ok(find(name)?.as_tensor().clone()) };
        let mlp = |name: &str| -> Result<Mlp> {
            Ok(Mlp {
                w0: tensor(&format!("{name}.0.weight"))?,
                b0: tensor(&format!("{name}.0.bias"))?,
                w2: tensor(&format!("{name}.2.weight"))?,
                b2: tensor(&format!("{name}.2.bias"))?,
            })
        };
        Ok(Lpc {
            codebook: tensor(names::CODEBOOK)?,
            prior: mlp(names::PRIOR)?,
            posterior: mlp(names::POSTERIOR)?,
            config,
        })
    }

    /// The codebook (K,H).
    pub fn codebook(&self) -> &Tensor {
        &self.codebook
    }

    /// Prior and posterior of a batch, differentiable.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, context: &Context) -> Result<Codes> {
        let stop = |t: &Tensor| if self.config.detach { t.detach() } else { t.clone() };
        let (chosen, rejected) = (stop(&context.chosen), stop(&context.rejected));
        let features = match self.config.features {
            Features::Concat => Tensor::cat(&[&chosen, &rejected], 1)?,
            Features::Difference => (chosen - rejected)?,
        };
        let scaled = |x: Tensor| if self.config.normalise { unit_scale(&x) } else { Ok(x) };
        Ok(Codes {
            log_prior: log_softmax(&self.prior.forward(&scaled(stop(&context.prompt))?)?)?,
            log_posterior: log_softmax(&self.posterior.forward(&scaled(features)?)?)?,
        })
    }

    /// z of a training step: `g z_prior + (1-g) z_posterior`, each from relaxed samples.
    ///
    /// # Shapes
    /// noise of prior and posterior (B,K) -> (B,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn sample(&self, codes: &Codes, moment: Moment, noise: (&Tensor, &Tensor)) -> Result<Tensor> {
        let hard = self.config.latent == LatentKind::LpcHard;
        let relaxed = |logits: &Tensor, noise: &Tensor| gumbel::gumbel_softmax(logits, noise, moment.tau, hard);
        // A side without weight is left out, so that fixed g costs no noise in the gradient.
        let weights = if moment.g <= 0.0 {
            relaxed(&codes.log_posterior, noise.1)?
        } else if moment.g >= 1.0 {
            relaxed(&codes.log_prior, noise.0)?
        } else {
            let prior = (relaxed(&codes.log_prior, noise.0)? * moment.g)?;
            (prior + (relaxed(&codes.log_posterior, noise.1)? * (1.0 - moment.g))?)?
        };
        Ok(weights.matmul(&self.codebook)?)
    }

    /// Expected z under a categorical given as log-probabilities: `sum_k p_k e_k`, no sampling.
    ///
    /// # Shapes
    /// (B,K) -> (B,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn expected(&self, log_weights: &Tensor) -> Result<Tensor> {
        Ok(log_weights.exp()?.matmul(&self.codebook)?)
    }

    /// Noise for both relaxed samples of a batch, a function of (seed, occasion, id).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn noise(&self, seed: Seed, occasion: &str, ids: &[&str], like: &Tensor) -> Result<(Tensor, Tensor)> {
        let of = |purpose: &str| -> Result<Tensor> {
            let values: Vec<f64> = ids
                .iter()
                .flat_map(|id| gumbel_noise(seed, purpose, &format!("{occasion}:{id}"), self.config.codes))
                .collect();
            Ok(Tensor::from_vec(values, (ids.len(), self.config.codes), &Device::Cpu)?.to_dtype(like.dtype())?)
        };
        Ok((of("gumbel-prior")?, of("gumbel-posterior")?))
    }
}

impl Codes {
    /// KL(q || p) in closed form.
    ///
    /// # Shapes
    /// (B).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn kl(&self) -> Result<Tensor> {
        Ok((self.log_posterior.exp()? * (&self.log_posterior - &self.log_prior)?)?.sum(D::Minus1)?)
    }

    /// `sum_k qbar_k ln qbar_k`, qbar being the posterior's mean over the batch: lowest when all codes are in use.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn balance(&self) -> Result<Tensor> {
        balance(&self.log_posterior.exp()?.mean(0)?)
    }
}

/// `sum_k m_k ln m_k` of a mean distribution: see [`Codes::balance`].
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn balance(mean: &Tensor) -> Result<Tensor> {
    // A code that underflows to 0 contributes 0, not NaN.
    Ok((mean * (mean + 1e-20)?.log()?)?.sum_all()?)
}

/// Rows divided by their root mean square.
fn unit_scale(x: &Tensor) -> Result<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(square + 1e-12)?.sqrt()?)?)
}

/// `x - ln sum e^x` over the last dimension, from candle's differentiable operations.
fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// Entropy of each row of log-probabilities, in nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn entropy(log_weights: &Tensor) -> Result<Tensor> {
    Ok((log_weights.exp()? * log_weights)?.sum(D::Minus1)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(prior: &[f64], posterior: &[f64]) -> Codes {
        let of = |x: &[f64]| log_softmax(&Tensor::new(x, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
        Codes { log_prior: of(prior), log_posterior: of(posterior) }
    }

    #[test]
    fn divergence_by_hand() {
        // q = (1/2, 1/2), p = (3/4, 1/4): KL = ln 2 - (ln 3)/2 = 0.1438410
        let c = codes(&[3f64.ln(), 0.0], &[0.0, 0.0]);
        assert!((c.kl().unwrap().to_vec1::<f64>().unwrap()[0] - 0.143_841_036).abs() < 1e-8);
        let same = codes(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
        assert_eq!(same.kl().unwrap().to_vec1::<f64>().unwrap()[0], 0.0);
        // Uniform over 4: entropy ln 4, balance -ln 4.
        let uniform = codes(&[0.0; 4], &[0.0; 4]);
        let h = entropy(&uniform.log_prior).unwrap().to_vec1::<f64>().unwrap()[0];
        assert!((h - 4f64.ln()).abs() < 1e-12);
        assert!((uniform.balance().unwrap().to_vec0::<f64>().unwrap() + 4f64.ln()).abs() < 1e-12);
    }
}
