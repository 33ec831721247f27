//! `gaussian`: a variational autoencoder over a few directions.
//!
//! Instead of weights over codes there is a normal variable u of d dimensions, and instead of codes there are d
//! directions: z = sum_i u_i b_i. Prior and posterior are normals with diagonal covariance, from the same networks as
//! those over codes. d is chosen so that there are about as many parameters as `lpc` has with K codes: see `size`.
//!
//! # Source
//! Kingma and Welling 2014, "Auto-encoding variational Bayes", Eq. 10 and appendix B.

use candle_core::{D, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;

use super::config::LpcConfig;
use super::names;
use super::network::{self, Mlp, PromptNet, blend};
use super::step::{Context, Draw, Moment, Noise};
use crate::error::Result;
use crate::seed::Seed;

/// Bound of the log-variances: larger than training needs, and small enough for the divergence to stay finite.
const LOG_VARIANCE_BOUND: f64 = 6.0;

/// Directions and inference networks.
#[derive(Debug, Clone)]
pub struct Gaussian {
    directions: Tensor,
    prior: PromptNet,
    posterior: Mlp,
}

/// A diagonal normal for each pair.
#[derive(Debug, Clone)]
pub struct Normal {
    /// Means (B,d).
    pub mean: Tensor,
    /// Logarithms of the variances (B,d).
    pub log_variance: Tensor,
}

/// Prior and posterior of a batch.
#[derive(Debug, Clone)]
pub struct Normals {
    /// p(u|x).
    pub prior: Normal,
    /// q(u|x, chosen > rejected).
    pub posterior: Normal,
}

impl Normal {
    /// From a network's outputs: means, then log-variances before they are bounded.
    fn of(outputs: &Tensor) -> Result<Normal> {
        let d = outputs.dim(1)? / 2;
        let raw = outputs.narrow(1, d, d)?;
        Ok(Normal {
            mean: outputs.narrow(1, 0, d)?.contiguous()?,
            log_variance: ((raw / LOG_VARIANCE_BOUND)?.tanh()? * LOG_VARIANCE_BOUND)?,
        })
    }

    /// `mean + deviation * noise`.
    fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        Ok((&self.mean + ((&self.log_variance * 0.5)?.exp()? * noise)?)?)
    }
}

impl Normals {
    /// KL(q || p) in closed form: `sum_i [ln(s_p/s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2]`.
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
        let (p, q) = (&self.prior, &self.posterior);
        let logs = (&p.log_variance - &q.log_variance)?;
        let apart = ((&q.mean - &p.mean)?.sqr()? * p.log_variance.neg()?.exp()?)?;
        let terms = ((&logs + (logs.neg()?.exp()? + apart)?)? - 1.0)?;
        Ok((terms.sum(D::Minus1)? * 0.5)?)
    }
}

/// `n` standard normal numbers, a function of (seed, purpose, key).
pub fn normal_noise(seed: Seed, purpose: &str, key: &str, n: usize) -> Vec<f64> {
    seed.rng(purpose, key).sample_iter(StandardNormal).take(n).collect()
}

impl Gaussian {
    pub(super) fn find(config: &LpcConfig, find: &dyn Fn(&str) -> Result<Tensor>) -> Result<Gaussian> {
        Ok(Gaussian {
            directions: find(names::DIRECTIONS)?,
            prior: PromptNet::find(config, names::PRIOR, find)?,
            posterior: Mlp::find(names::POSTERIOR, find)?,
        })
    }

    /// Prior and posterior of a batch, differentiable.
    ///
    /// # Shapes
    /// Means and log-variances (B,d).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, config: &LpcConfig, context: &Context) -> Result<Normals> {
        Ok(Normals {
            prior: self.prior(config, context)?,
            posterior: Normal::of(&self.posterior.forward(&network::features(config, context)?)?)?,
        })
    }

    /// The prior of a batch, for which no response is read, differentiable.
    ///
    /// # Shapes
    /// Means and log-variances (B,d).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn prior(&self, config: &LpcConfig, context: &Context) -> Result<Normal> {
        Normal::of(&self.prior.forward(config, context)?)
    }

    /// z of a training step, `g z_prior + (1-g) z_posterior`, each from a reparameterised sample.
    ///
    /// # Shapes
    /// noise of prior and posterior (B,d) -> (B,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn sample(&self, normals: &Normals, g: f64, noise: (&Tensor, &Tensor)) -> Result<Tensor> {
        let u = blend(g, || normals.prior.sample(noise.0), || normals.posterior.sample(noise.1))?;
        self.mixed(&u)
    }

    /// The z's over which a training step's loss is averaged: one sample of each pair.
    pub(super) fn draws(&self, normals: &Normals, moment: Moment, noise: &Noise<'_>) -> Result<Vec<Draw>> {
        let normal = |purpose: &str| noise.tensor(purpose, &normals.prior.mean, normal_noise);
        let noise = (normal("normal-prior")?, normal("normal-posterior")?);
        let z = self.sample(normals, moment.g, (&noise.0, &noise.1))?;
        Ok(vec![Draw { z: Some(z), weight: None, flips: None }])
    }

    /// `sum_i u_i b_i`: z of a sample, or of a mean.
    ///
    /// # Shapes
    /// (B,d) -> (B,H).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn mixed(&self, u: &Tensor) -> Result<Tensor> {
        Ok(u.matmul(&self.directions)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn normal(mean: &[f64], variance: &[f64]) -> Normal {
        let row = |x: Vec<f64>| Tensor::from_vec(x, (1, mean.len()), &Device::Cpu).unwrap();
        Normal { mean: row(mean.to_vec()), log_variance: row(variance.iter().map(|v| v.ln()).collect()) }
    }

    #[test]
    fn divergence_by_hand() {
        // One dimension, q = N(1, 4), p = N(0, 1): (4 + 1 - 1 - ln 4) / 2 = 1.3068528.
        let kl = |q: Normal, p: Normal| Normals { prior: p, posterior: q }.kl().unwrap().to_vec1::<f64>().unwrap()[0];
        let one = kl(normal(&[1.0], &[4.0]), normal(&[0.0], &[1.0]));
        assert!((one - 1.306_852_819_44).abs() < 1e-10, "{one}");
        // Second dimension, q = N(0, 1), p = N(2, 4): ln 2 + (1 + 4) / 8 - 1/2 = 0.8181472. Dimensions add up.
        let two = kl(normal(&[1.0, 0.0], &[4.0, 1.0]), normal(&[0.0, 2.0], &[1.0, 4.0]));
        assert!((two - one - 0.818_147_180_56).abs() < 1e-10, "{two}");
        assert_eq!(kl(normal(&[3.0], &[2.0]), normal(&[3.0], &[2.0])), 0.0);
    }

    #[test]
    fn samples_and_bounds_by_hand() {
        let noise = Tensor::new(&[[2.0f64, -1.0]], &Device::Cpu).unwrap();
        let sample = normal(&[1.0, 0.0], &[9.0, 0.25]).sample(&noise).unwrap().to_vec2::<f64>().unwrap();
        // 1 + 3 * 2, 0 - 0.5.
        assert!((sample[0][0] - 7.0).abs() < 1e-12 && (sample[0][1] + 0.5).abs() < 1e-12);
        let outputs = Tensor::new(&[[5.0f64, 0.0], [-5.0, 900.0]], &Device::Cpu).unwrap();
        let found = Normal::of(&outputs).unwrap().log_variance.to_vec2::<f64>().unwrap();
        assert_eq!((found[0][0], found[1][0]), (0.0, LOG_VARIANCE_BOUND));
    }

    #[test]
    fn noise_is_standard_normal() {
        let x = normal_noise(Seed(5), "t", "k", 200_000);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert_eq!(x[..3], normal_noise(Seed(5), "t", "k", 3));
    }
}
