//! Relaxed samples of a categorical distribution, from noise that the caller gives.
//!
//! candle's own `gumbel_softmax` draws its noise itself, and returns an argmax.

use candle_core::{D, Tensor};
use rand::Rng;

use crate::error::Result;
use crate::seed::Seed;

/// `n` standard Gumbel numbers, `-ln(-ln u)`, a function of (seed, purpose, key).
pub fn gumbel_noise(seed: Seed, purpose: &str, key: &str, n: usize) -> Vec<f64> {
    let mut rng = seed.rng(purpose, key);
    (0..n)
        .map(|_| {
            // Strictly inside (0, 1).
            let u = (rng.random::<u64>() >> 12) as f64 + 0.5;
            -(-(u / (1u64 << 52) as f64).ln()).ln()
        })
        .collect()
}

/// `softmax((logits + noise) / tau)`; with `hard` the forward value is one-hot and the gradient that of the
/// relaxed sample (straight-through).
///
/// # Shapes
/// logits, noise (B,K) -> (B,K).
///
/// # Source
/// Jang, Gu, Poole 2017, Eq. 2.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn gumbel_softmax(logits: &Tensor, noise: &Tensor, tau: f64, hard: bool) -> Result<Tensor> {
    let relaxed = super::network::log_softmax(&((logits + noise)? / tau)?)?.exp()?;
    if !hard {
        return Ok(relaxed);
    }
    let best = relaxed.argmax_keepdim(D::Minus1)?;
    let one_hot = relaxed.zeros_like()?.scatter_add(&best, &best.ones_like()?.to_dtype(relaxed.dtype())?, D::Minus1)?;
    Ok(((one_hot - relaxed.detach())? + relaxed)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn noise_has_the_gumbel_mean_and_variance() {
        let x = gumbel_noise(Seed(5), "t", "k", 200_000);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        // Euler's constant; pi^2 / 6.
        assert!((mean - 0.577_216).abs() < 0.015, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.04, "{variance}");
        assert_eq!(x[..3], gumbel_noise(Seed(5), "t", "k", 3));
    }

    #[test]
    fn relaxed_and_hard_samples() {
        let logits = Var::new(&[[0f64, 1.0, 2.0]], &Device::Cpu).unwrap();
        let noise = Tensor::new(&[[2.5f64, 0.0, 0.0]], &Device::Cpu).unwrap();
        let soft = gumbel_softmax(logits.as_tensor(), &noise, 0.5, false).unwrap().to_vec2::<f64>().unwrap();
        // softmax(5, 2, 4) = (0.705385, 0.035119, 0.259496)
        assert!((soft[0][0] - 0.705_385).abs() < 1e-6 && (soft[0][2] - 0.259_496).abs() < 1e-6);
        let hard = gumbel_softmax(logits.as_tensor(), &noise, 0.5, true).unwrap();
        for (got, wanted) in hard.to_vec2::<f64>().unwrap()[0].iter().zip([1.0, 0.0, 0.0]) {
            assert!((got - wanted).abs() < 1e-12);
        }
        let pick = Tensor::new(&[[1f64, 0.0, 0.0]], &Device::Cpu).unwrap();
        let grad = |hard| {
            let y = gumbel_softmax(logits.as_tensor(), &noise, 0.5, hard).unwrap();
            let loss = (y * &pick).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f64>().unwrap()
        };
        assert_eq!(grad(true), grad(false));
        // d p0 / d logit0 = p0 (1 - p0) / tau
        assert!((grad(true)[0][0] - 0.705_385 * 0.294_615 / 0.5).abs() < 1e-5);
    }
}
