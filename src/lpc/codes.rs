//! Discrete codes: `lpc`, `lpc-hard` and `lpc-reliable`.
//!
//! Prior and posterior are categorical distributions over K codes; z is a mixture of the codes' vectors. With
//! `lpc-reliable` every code also has a flip rate: codes can differ in how often their labels are wrong.

use candle_core::{D, Tensor};

use super::config::{LatentKind, LpcConfig};
use super::network::{self, Mlp, PromptNet, blend, log_softmax};
use super::step::{Context, Draw, Moment, Noise};
use super::{flips, gumbel, names};
use crate::error::Result;

/// Codebook and inference networks.
#[derive(Debug, Clone)]
pub struct Codebook {
    vectors: Tensor,
    prior: PromptNet,
    /// Where the posterior is amortised.
    posterior: Option<Mlp>,
    flip_logits: Option<Tensor>,
}

/// Prior and posterior of a batch.
#[derive(Debug, Clone)]
pub struct Codes {
    /// ln p(z|x) (B,K).
    pub log_prior: Tensor,
    /// ln q(z|x, chosen > rejected) (B,K).
    pub log_posterior: Tensor,
}

impl Codebook {
    pub(super) fn find(config: &LpcConfig, find: &dyn Fn(&str) -> Result<Tensor>) -> Result<Codebook> {
        let reliable = config.latent == LatentKind::LpcReliable;
        Ok(Codebook {
            vectors: find(names::CODEBOOK)?,
            prior: PromptNet::find(config, names::PRIOR, find)?,
            posterior: if config.amortised() { Some(Mlp::find(names::POSTERIOR, find)?) } else { None },
            flip_logits: if reliable { Some(find(names::FLIP_LOGITS)?) } else { None },
        })
    }

    /// The codes.
    ///
    /// # Shapes
    /// Vectors (K,H), or biases of C tokens (K,C).
    pub fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// Every code's flip rate, for `lpc-reliable`; differentiable.
    ///
    /// # Shapes
    /// (K).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn flip_rates(&self) -> Result<Option<Tensor>> {
        self.flip_logits.as_ref().map(flips::rate).transpose()
    }

    /// ln p(z|x) of a batch, differentiable.
    ///
    /// # Shapes
    /// (B,K).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn log_prior(&self, config: &LpcConfig, context: &Context) -> Result<Tensor> {
        log_softmax(&self.prior.forward(config, context)?)
    }

    /// Prior and amortised posterior of a batch, differentiable; none where the posterior is Bayes' own.
    ///
    /// # Shapes
    /// (B,K) each.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn infer(&self, config: &LpcConfig, context: &Context) -> Result<Option<Codes>> {
        let Some(posterior) = &self.posterior else { return Ok(None) };
        Ok(Some(Codes {
            log_prior: self.log_prior(config, context)?,
            log_posterior: log_softmax(&posterior.forward(&network::features(config, context)?)?)?,
        }))
    }

    /// ln q of the pairs with their sides swapped; none where the posterior is Bayes' own.
    ///
    /// # Shapes
    /// (B,K).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn swapped(&self, config: &LpcConfig, context: &Context) -> Result<Option<Tensor>> {
        let (Some(posterior), Some((chosen, rejected))) = (&self.posterior, &context.responses) else {
            return Ok(None);
        };
        let swapped = Context { responses: Some((rejected.clone(), chosen.clone())), ..context.clone() };
        log_softmax(&posterior.forward(&network::features(config, &swapped)?)?).map(Some)
    }

    /// Code weights of a training step: `g w_prior + (1-g) w_posterior`, both of them relaxed samples.
    ///
    /// # Shapes
    /// noise of prior and posterior (B,K) -> (B,K).
    ///
    /// # Source
    /// Gong et al. 2025, Eq. 11.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn weights(codes: &Codes, moment: Moment, noise: (&Tensor, &Tensor), hard: bool) -> Result<Tensor> {
        let relaxed = |logits: &Tensor, noise: &Tensor| gumbel::gumbel_softmax(logits, noise, moment.tau, hard);
        blend(moment.g, || relaxed(&codes.log_prior, noise.0), || relaxed(&codes.log_posterior, noise.1))
    }

    /// `sum_k w_k e_k`, and for `lpc-reliable` the flip rates averaged by the same weights.
    ///
    /// # Shapes
    /// (B,K) -> (B,H) or (B,C), (B).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn mixed(&self, weights: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let flips = match self.flip_rates()? {
            Some(rates) => Some(weights.matmul(&rates.unsqueeze(1)?)?.squeeze(1)?),
            None => None,
        };
        Ok((weights.matmul(&self.vectors)?, flips))
    }

    /// The z's over which a training step's loss is averaged: one sample of each pair, or every code by its
    /// probability.
    pub(super) fn draws(
        &self,
        config: &LpcConfig,
        codes: &Codes,
        moment: Moment,
        noise: &Noise<'_>,
    ) -> Result<Vec<Draw>> {
        if config.exact {
            return self.every_code(codes, moment.g);
        }
        let gumbel = |purpose: &str| noise.tensor(purpose, &codes.log_prior, gumbel::gumbel_noise);
        let noise = (gumbel("gumbel-prior")?, gumbel("gumbel-posterior")?);
        let hard = config.latent == LatentKind::LpcHard;
        let (z, flips) = self.mixed(&Self::weights(codes, moment, (&noise.0, &noise.1), hard)?)?;
        Ok(vec![Draw { z: Some(z), weight: None, flips }])
    }

    /// A draw for every code, weighted by `g p + (1-g) q`: their mean is the expectation over the choice of a code.
    fn every_code(&self, codes: &Codes, g: f64) -> Result<Vec<Draw>> {
        let weights = blend(g, || Ok(codes.log_prior.exp()?), || Ok(codes.log_posterior.exp()?))?;
        let (pairs, k) = weights.dims2()?;
        let rates = self.flip_rates()?;
        (0..k)
            .map(|code| {
                let z = self.vectors.narrow(0, code, 1)?.broadcast_as((pairs, self.vectors.dim(1)?))?;
                let flips = match &rates {
                    Some(rates) => Some(rates.narrow(0, code, 1)?.broadcast_as(pairs)?.contiguous()?),
                    None => None,
                };
                let weight = weights.narrow(1, code, 1)?.squeeze(1)?;
                Ok(Draw { z: Some(z.contiguous()?), weight: Some(weight), flips })
            })
            .collect()
    }

    /// Expected z under a categorical given as log-probabilities: `sum_k p_k e_k`, no sampling.
    ///
    /// # Shapes
    /// (B,K) -> (B,H) or (B,C).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn expected(&self, log_weights: &Tensor) -> Result<Tensor> {
        Ok(log_weights.exp()?.matmul(&self.vectors)?)
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
}

/// The usage balance `sum_k m_k ln m_k` of a mean distribution m, lowest where all codes are used equally.
///
/// # Shapes
/// (K) -> a scalar.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn balance(mean: &Tensor) -> Result<Tensor> {
    // A code that underflows to 0 contributes 0, not NaN.
    Ok((mean * (mean + 1e-20)?.log()?)?.sum_all()?)
}

/// Entropy of each row of log-probabilities.
///
/// # Shapes
/// (B,K) -> (B).
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn entropy(log_weights: &Tensor) -> Result<Tensor> {
    Ok((log_weights.exp()? * log_weights)?.sum(D::Minus1)?.neg()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

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
        assert!(
            (balance(&uniform.log_prior.exp().unwrap().squeeze(0).unwrap()).unwrap().to_vec0::<f64>().unwrap()
                + 4f64.ln())
            .abs()
                < 1e-12
        );
    }
}
