//! Exact inference over codes: the marginal loss and Bayes' posterior, computed from the objective under every code.
//!
//! With l_k the loss of a pair under code k and p the prior, the loss is
//! `L = -lambda ln sum_k p_k e^(-l_k / lambda)`, and the posterior `q_k = p_k e^(-l_k / lambda) / sum`. L is the least
//! value of `E_q[l] + lambda KL(q || p)` over all q, reached at this one: no network can do better, nothing is sampled,
//! and what is written as the posterior is the posterior. Pairs that share a code add up their losses under it.
//!
//! # Source
//! The bound is Eq. 9 of Gong et al. 2025; its least value over q is the free energy identity of Neal and Hinton 1998.
//! MiCRo (Shen et al. 2025, arXiv 2505.24846) trains a mixture of reward models by the case lambda = 1; one latent for
//! several comparisons is what makes it identifiable (arXiv 2510.15716).

use std::ops::Range;

use candle_core::{D, Tensor};

use super::network::log_softmax;
use crate::error::Result;
use crate::nn::segment;

/// Marginal loss and posterior of a batch.
#[derive(Debug, Clone)]
pub struct Marginal {
    /// Loss of every group (G), differentiable.
    pub losses: Tensor,
    /// ln p of every group (G,K), differentiable.
    pub log_prior: Tensor,
    /// ln q of every group (G,K), a constant.
    pub log_posterior: Tensor,
}

/// The marginal loss over codes, `weight` being lambda.
///
/// # Shapes
/// log_prior, losses (B,K) · groups: G ranges of pairs, which cover the batch; the pairs of each share a prompt.
///
/// # Units
/// Losses, the marginal and `weight` in those of the objective.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lpc_pipe::lpc::bayes::marginal;
///
/// # fn main() -> lpc_pipe::Result<()> {
/// // One pair, two codes: p = (3/4, 1/4), and losses with e^-l = (1/3, 1).
/// let log_prior = Tensor::new(&[[0.75f64.ln(), 0.25f64.ln()]], &Device::Cpu)?;
/// let losses = Tensor::new(&[[3f64.ln(), 0.0]], &Device::Cpu)?;
/// let found = marginal(&log_prior, &losses, 1.0, &[0..1])?;
/// // -ln(1/4 + 1/4) = ln 2, and both codes explain the pair equally well.
/// assert!((found.losses.to_vec1::<f64>()?[0] - 2f64.ln()).abs() < 1e-12);
/// assert!((found.log_posterior.exp()?.to_vec2::<f64>()?[0][0] - 0.5).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn marginal(log_prior: &Tensor, losses: &Tensor, weight: f64, groups: &[Range<usize>]) -> Result<Marginal> {
    let pairs = log_prior.dim(0)?;
    let (log_prior, losses) = if groups.len() == pairs {
        (log_prior.clone(), losses.clone())
    } else {
        let first: Vec<u32> = groups.iter().map(|group| group.start as u32).collect();
        let first = Tensor::from_vec(first, groups.len(), log_prior.device())?;
        (log_prior.index_select(&first, 0)?, segment::sum(losses, groups.to_vec())?)
    };
    let joint = (&log_prior - (losses / weight)?)?;
    let log_posterior = log_softmax(&joint)?;
    // ln sum e^x = x_k - ln softmax(x)_k for every k; the first will do.
    let total = (joint.narrow(D::Minus1, 0, 1)? - log_posterior.narrow(D::Minus1, 0, 1)?)?.squeeze(D::Minus1)?;
    Ok(Marginal { losses: (total * -weight)?, log_prior, log_posterior: log_posterior.detach() })
}

/// Bayes' posterior of one group, `q_k` proportional to `p_k e^(-l_k / lambda)`, from the probabilities of the prior
/// and the summed losses under each code (K each); `weight` is lambda.
pub fn posterior(prior: &[f32], losses: &[f64], weight: f64) -> Vec<f32> {
    let joint: Vec<f64> = prior.iter().zip(losses).map(|(&p, l)| f64::from(p).max(1e-300).ln() - l / weight).collect();
    let top = joint.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<f64> = joint.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = terms.iter().sum();
    terms.into_iter().map(|t| (t / total) as f32).collect()
}

/// The overlap `sum_k sqrt(q_k q'_k)` of distributions given as logarithms, row by row: 1 where they are the same.
///
/// # Shapes
/// (B,K) each -> (B).
///
/// # Source
/// The Bhattacharyya coefficient; with q' the posterior of the swapped pair, what swap-guided preference learning
/// (arXiv 2603.12595) looks at: near 1 the posterior ignores the label.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn overlap(log_a: &Tensor, log_b: &Tensor) -> Result<Tensor> {
    Ok((((log_a + log_b)? * 0.5)?.exp()?).sum(D::Minus1)?)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one group")]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::lpc::Codes;

    fn rows(values: &[[f64; 3]]) -> Tensor {
        Tensor::from_vec(values.concat(), (values.len(), 3), &Device::Cpu).unwrap()
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    }

    #[test]
    fn worked_by_hand() {
        // p = (1/2, 1/4, 1/4), e^-l = (1/2, 1, 1/4), lambda 1: sum = 1/4 + 1/4 + 1/16 = 9/16.
        let p = rows(&[[0.5f64.ln(), 0.25f64.ln(), 0.25f64.ln()]]);
        let l = rows(&[[2f64.ln(), 0.0, 4f64.ln()]]);
        let got = marginal(&p, &l, 1.0, &[0..1]).unwrap();
        assert!((numbers(&got.losses)[0] - (16f64 / 9.0).ln()).abs() < 1e-12);
        for (got, wanted) in numbers(&got.log_posterior.exp().unwrap()).iter().zip([4.0 / 9.0, 4.0 / 9.0, 1.0 / 9.0]) {
            assert!((got - wanted).abs() < 1e-12);
        }
        // lambda 2: sqrt(e^-l) = (0.7071, 1, 1/2): -2 ln(0.35355 + 0.25 + 0.125) = 0.6334
        let got = marginal(&p, &l, 2.0, &[0..1]).unwrap();
        assert!((numbers(&got.losses)[0] + 2.0 * (0.5 * 0.5f64.sqrt() + 0.375).ln()).abs() < 1e-12);
        let q = posterior(&[0.5, 0.25, 0.25], &[2f64.ln(), 0.0, 4f64.ln()], 1.0);
        assert!((q[0] - 4.0 / 9.0).abs() < 1e-6 && (q[2] - 1.0 / 9.0).abs() < 1e-6);
    }

    #[test]
    fn it_is_the_bound_at_its_own_posterior_and_below_it_at_others() {
        let p = log_softmax(&rows(&[[0.3, -1.0, 0.8], [2.0, 0.1, -0.4]])).unwrap();
        let l = rows(&[[0.2, 1.7, 0.9], [3.0, 0.4, 0.5]]);
        for weight in [0.05, 0.7, 1.0] {
            let exact = marginal(&p, &l, weight, &[0..1, 1..2]).unwrap();
            let bound = |q: &Tensor| {
                let codes = Codes { log_prior: p.clone(), log_posterior: q.clone() };
                let expected = (q.exp().unwrap() * &l).unwrap().sum(1).unwrap();
                numbers(&(expected + (codes.kl().unwrap() * weight).unwrap()).unwrap())
            };
            for (a, b) in numbers(&exact.losses).iter().zip(bound(&exact.log_posterior)) {
                assert!((a - b).abs() < 1e-12);
            }
            let other = log_softmax(&rows(&[[0.0, 0.5, 0.1], [0.2, 0.0, 1.0]])).unwrap();
            assert!(numbers(&exact.losses).iter().zip(bound(&other)).all(|(a, b)| *a < b));
        }
        // One code is the plain loss.
        let one = marginal(
            &rows(&[[0.0; 3]]).narrow(1, 0, 1).unwrap(),
            &l.narrow(0, 0, 1).unwrap().narrow(1, 1, 1).unwrap(),
            0.3,
            &[0..1],
        );
        assert!((numbers(&one.unwrap().losses)[0] - 1.7).abs() < 1e-12);
    }

    #[test]
    fn a_group_is_one_example_whose_losses_are_summed() {
        let p = log_softmax(&rows(&[[0.3, -1.0, 0.8], [0.3, -1.0, 0.8], [2.0, 0.1, -0.4]])).unwrap();
        let l = rows(&[[0.2, 1.7, 0.9], [0.5, 0.1, 0.3], [3.0, 0.4, 0.5]]);
        let got = marginal(&p, &l, 1.0, &[0..2, 2..3]).unwrap();
        let sums = rows(&[[0.7, 1.8, 1.2], [3.0, 0.4, 0.5]]);
        let first = p.index_select(&Tensor::new(&[0u32, 2], &Device::Cpu).unwrap(), 0).unwrap();
        let alone = marginal(&first, &sums, 1.0, &[0..1, 1..2]).unwrap();
        assert_eq!(numbers(&got.losses), numbers(&alone.losses));
        assert_eq!(got.log_posterior.dims(), [2, 3]);
    }

    #[test]
    fn the_gradient_of_a_code_s_loss_is_its_posterior() {
        let p = Var::from_tensor(&rows(&[[0.3, -1.0, 0.8]])).unwrap();
        let l = Var::from_tensor(&rows(&[[0.2, 1.7, 0.9]])).unwrap();
        let got = marginal(&log_softmax(p.as_tensor()).unwrap(), l.as_tensor(), 0.7, &[0..1]).unwrap();
        let grads = got.losses.sum_all().unwrap().backward().unwrap();
        let q = numbers(&got.log_posterior.exp().unwrap());
        for (g, q) in numbers(grads.get(&l).unwrap()).iter().zip(&q) {
            assert!((g - q).abs() < 1e-12);
        }
        // d L / d logit_k = lambda (p_k - q_k).
        let prior = numbers(&log_softmax(p.as_tensor()).unwrap().exp().unwrap());
        for ((g, p), q) in numbers(grads.get(&p).unwrap()).iter().zip(prior).zip(q) {
            assert!((g - 0.7 * (p - q)).abs() < 1e-12);
        }
    }

    #[test]
    fn overlap_by_hand() {
        let a = rows(&[[0.5f64.ln(), 0.5f64.ln(), -1e3]]);
        let b = rows(&[[-1e3, 0.5f64.ln(), 0.5f64.ln()]]);
        assert!((numbers(&overlap(&a, &b).unwrap())[0] - 0.5).abs() < 1e-12);
        assert!((numbers(&overlap(&a, &a).unwrap())[0] - 1.0).abs() < 1e-12);
    }
}
