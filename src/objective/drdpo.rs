//! Dr.DPO: the pairs of a step joined by a soft minimum of their DPO losses.
//!
//! Among the objectives it alone is no mean over pairs, so that it must see the whole step: all passes of all ranks.

use candle_core::Tensor;

use crate::error::Result;

/// `ln sum_i m_i e^(-l_i / b)` over pairs, and `sum_i m_i`: all that Dr.DPO needs to know of the other pairs of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSum {
    /// Logarithm of the sum.
    pub log_sum: f64,
    /// Sum of the pairs' weights m.
    pub mass: f64,
}

impl Default for LogSum {
    fn default() -> LogSum {
        LogSum { log_sum: f64::NEG_INFINITY, mass: 0.0 }
    }
}

impl LogSum {
    /// The sum over pairs with these losses and weights.
    pub fn of(losses: &[f64], masses: &[f64], beta: f64) -> LogSum {
        let each = losses.iter().zip(masses).map(|(l, &mass)| LogSum { log_sum: mass.ln() - l / beta, mass });
        each.fold(LogSum::default(), LogSum::and)
    }

    /// The sum over the pairs of both.
    #[must_use]
    pub fn and(self, other: LogSum) -> LogSum {
        let (low, high) = (self.log_sum.min(other.log_sum), self.log_sum.max(other.log_sum));
        // Where both are sums over nothing their difference is not a number.
        let log_sum = if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() };
        LogSum { log_sum, mass: self.mass + other.mass }
    }

    /// Dr.DPO's loss of a pair, `-b ln mean_i e^(-l_i / b)`; 0 without pairs.
    pub fn loss(self, beta: f64) -> f64 {
        if self.mass > 0.0 { -beta * (self.log_sum - self.mass.ln()) } else { 0.0 }
    }
}

/// `-b M ln[sum_i m_i e^(-l_i / b) / M]`, M = sum_i m_i: Dr.DPO's loss, times the number of pairs as all sums of losses
/// are. Its gradient is that of the losses, each weighted by `M softmax_i(ln m - l / b)`: pairs of a high loss, whose
/// label may be wrong, count less. As b grows it becomes the sum of the losses.
///
/// Where these pairs are some of a step's, `whole` has the sum over all of them. The result is then
/// `M sum_i softmax_i l_i` with constant weights: these pairs' share of the same gradient, though not of the same value.
///
/// # Shapes
/// losses and masses (N) -> a scalar.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Wu et al. 2025, "Towards robust alignment of language models: distributionally robustifying direct preference
/// optimization" (ICLR), arXiv 2407.07880: the pairwise part, with beta' = b, as in the authors' trainer.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lpc_pipe::objective::drdpo;
///
/// # fn main() -> lpc_pipe::Result<()> {
/// // e^-l = 1/2 and 1/4, b = 1: -2 ln(3/8).
/// let losses = Tensor::new(&[2f64.ln(), 4f64.ln()], &Device::Cpu)?;
/// let loss = drdpo::joined(&losses, &[1.0, 1.0], 1.0, None)?.to_vec0::<f64>()?;
/// assert!((loss + 2.0 * (3f64 / 8.0).ln()).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn joined(losses: &Tensor, masses: &[f64], beta: f64, whole: Option<&LogSum>) -> Result<Tensor> {
    let column = |values: Vec<f64>| -> Result<Tensor> {
        let n = values.len();
        Ok(Tensor::from_vec(values, n, losses.device())?.to_dtype(losses.dtype())?)
    };
    let values = losses.detach().to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    let own = LogSum::of(&values, masses, beta);
    let all = whole.copied().unwrap_or(own);
    if all.mass == 0.0 {
        return Ok((losses.zeros_like()? * losses)?.sum_all()?);
    }
    let Some(whole) = whole else {
        let shift = values.iter().map(|l| -l / beta).fold(f64::NEG_INFINITY, f64::max);
        let terms = (losses * (-1.0 / beta))?.affine(1.0, -shift)?.exp()?.mul(&column(masses.to_vec())?)?;
        let log_mean = (terms.sum_all()? / all.mass)?.log()?.affine(1.0, shift)?;
        return Ok((log_mean * (-beta * all.mass))?);
    };
    let share = |(l, mass): (&f64, &f64)| whole.mass * mass * (-l / beta - whole.log_sum).exp();
    let shares = values.iter().zip(masses).map(share).collect();
    Ok((losses * column(shares)?)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    const LOSSES: [f64; 5] = [0.2, 3.0, 0.7, 0.05, 9.0];

    fn var() -> Var {
        Var::new(&LOSSES, &Device::Cpu).unwrap()
    }

    fn gradient(masses: &[f64], beta: f64, whole: Option<&LogSum>) -> Vec<f64> {
        let losses = var();
        let joined = joined(losses.as_tensor(), masses, beta, whole).unwrap();
        joined.backward().unwrap().get(&losses).unwrap().to_vec1().unwrap()
    }

    fn value(losses: &[f64], masses: &[f64], beta: f64) -> f64 {
        let losses = Tensor::new(losses, &Device::Cpu).unwrap();
        joined(&losses, masses, beta, None).unwrap().to_vec0().unwrap()
    }

    #[test]
    fn the_gradient_is_a_softmax_over_the_batch() {
        for beta in [0.3, 1.0, 5.0] {
            let found = gradient(&[1.0; 5], beta, None);
            let total: f64 = LOSSES.iter().map(|l| (-l / beta).exp()).sum();
            for (i, (g, l)) in found.iter().zip(LOSSES).enumerate() {
                assert!((g - 5.0 * (-l / beta).exp() / total).abs() < 1e-12, "beta {beta}");
                let moved = |by: f64| {
                    let mut losses = LOSSES;
                    losses[i] += by;
                    value(&losses, &[1.0; 5], beta)
                };
                assert!((g - (moved(1e-5) - moved(-1e-5)) / 2e-5).abs() < 1e-8);
            }
            let sum = LogSum::of(&LOSSES, &[1.0; 5], beta);
            assert!((value(&LOSSES, &[1.0; 5], beta) - 5.0 * sum.loss(beta)).abs() < 1e-12);
        }
        // Weights are times that a pair occurs.
        let twice = [LOSSES.as_slice(), &LOSSES[1..2]].concat();
        assert!((value(&LOSSES, &[1.0, 2.0, 1.0, 1.0, 1.0], 0.7) - value(&twice, &[1.0; 6], 0.7)).abs() < 1e-12);
        assert_eq!(gradient(&[1.0, 0.0, 1.0, 1.0, 1.0], 0.7, None)[1], 0.0);
    }

    #[test]
    fn a_large_beta_gives_the_sum() {
        assert!((value(&LOSSES, &[1.0; 5], 1e7) - LOSSES.iter().sum::<f64>()).abs() < 1e-5);
        assert!(gradient(&[1.0; 5], 1e7, None).iter().all(|g| (g - 1.0).abs() < 1e-5));
    }

    #[test]
    fn parts_of_a_step_add_up_to_its_gradient() {
        let masses = [1.0, 2.0, 0.5, 0.0, 1.0];
        let (first, second) =
            (LogSum::of(&LOSSES[..2], &masses[..2], 0.7), LogSum::of(&LOSSES[2..], &masses[2..], 0.7));
        let whole = first.and(second);
        assert!((whole.log_sum - LogSum::of(&LOSSES, &masses, 0.7).log_sum).abs() < 1e-12 && whole.mass == 4.5);
        for (a, b) in gradient(&masses, 0.7, None).iter().zip(gradient(&masses, 0.7, Some(&whole))) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn nothing_weighs_nothing() {
        assert_eq!(gradient(&[0.0; 5], 1.0, None), [0.0; 5]);
        assert_eq!(LogSum::default().loss(1.0), 0.0);
        assert_eq!(LogSum::default().and(LogSum::default()), LogSum::default());
        // Losses far apart neither overflow nor vanish.
        assert!((value(&[2000.0, -2000.0], &[1.0; 2], 1.0) - 2.0 * (2f64.ln() - 2000.0)).abs() < 1e-9);
    }
}
