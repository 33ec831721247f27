//! Confidence intervals: of a share, of a mean over seeds.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::erf::erfc_inv;

/// An estimate with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Observations behind it.
    pub n: usize,
}

impl Interval {
    /// NaN in place of what `n` observations do not tell.
    pub(super) fn unknown(n: usize) -> Interval {
        Interval { estimate: f64::NAN, low: f64::NAN, high: f64::NAN, n }
    }
}

/// Level of every interval.
const LEVEL: f64 = 0.95;
/// Probability outside of an interval, at each side.
pub(super) const TAIL: f64 = (1.0 - LEVEL) / 2.0;

/// Wilson's 95 % score interval of a share of `n` independent trials.
///
/// With p = successes / n and z the normal quantile: centre (p + z^2/2n) / (1 + z^2/n), half width
/// z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n). Never leaves \[0, 1\]; the estimate is p itself.
/// NaN where n = 0. Pairs of one prompt count as independent: where they depend on each other, it can be too narrow.
///
/// # Source
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
pub fn wilson(successes: u64, n: u64) -> Interval {
    if n == 0 {
        return Interval::unknown(0);
    }
    let (trials, z) = (n as f64, std::f64::consts::SQRT_2 * erfc_inv(2.0 * TAIL));
    let p = successes.min(n) as f64 / trials;
    let shrink = 1.0 + z * z / trials;
    let centre = (p + z * z / (2.0 * trials)) / shrink;
    let half = z * (p * (1.0 - p) / trials + z * z / (4.0 * trials * trials)).sqrt() / shrink;
    // At p = 0 and p = 1 an end is exact; rounding must not push it over the estimate.
    Interval { estimate: p, low: (centre - half).clamp(0.0, p), high: (centre + half).clamp(p, 1.0), n: n as usize }
}

/// Runs (seeds) from which on a mean has an interval. Two runs would give one of 12.7 standard errors to each side, with a
/// deviation from a single difference.
pub const LEAST_RUNS: usize = 3;

/// Mean of a few runs (seeds) with Student's 95 % t interval.
///
/// mean +- t_{n-1} s / sqrt(n), s with n - 1 in its denominator. Below [`LEAST_RUNS`] the ends are NaN.
///
/// # Source
/// Student, "The probable error of a mean", Biometrika 6 (1908).
pub fn mean_interval_t(values: &[f64]) -> Interval {
    let n = values.len();
    if n == 0 {
        return Interval::unknown(0);
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let student = StudentsT::new(0.0, 1.0, n as f64 - 1.0).ok().filter(|_| n >= LEAST_RUNS);
    let Some(student) = student else {
        return Interval { estimate: mean, ..Interval::unknown(n) };
    };
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0);
    let half = student.inverse_cdf(1.0 - TAIL) * (variance / n as f64).sqrt();
    Interval { estimate: mean, low: mean - half, high: mean + half, n }
}

/// Quantile of sorted values, linear between neighbours (type 7 of Hyndman and Fan, NumPy's default).
pub(super) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    sorted[below] + (at - below as f64) * (sorted[(below + 1).min(last)] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_by_hand() {
        // p = 8/10, z = 1.959964, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
        // half 1.959964 * sqrt(0.016 + 0.009604) / 1.384146 = 0.226577.
        let i = wilson(8, 10);
        assert_eq!((i.estimate, i.n), (0.8, 10));
        assert!((i.low - 0.490_162).abs() < 2e-6 && (i.high - 0.943_318).abs() < 2e-6, "{i:?}");
        let (none, all) = (wilson(0, 5), wilson(5, 5));
        assert!(none.low == 0.0 && none.high > 0.4 && all.high == 1.0 && all.low < 0.6);
        assert!(wilson(0, 0).estimate.is_nan());
    }

    #[test]
    fn t_interval_by_hand() {
        // Mean 2, s = 1, n = 3: t_2(0.975) = 4.302653, half 4.302653 / sqrt(3) = 2.484138.
        let i = mean_interval_t(&[1.0, 2.0, 3.0]);
        assert_eq!(i.estimate, 2.0);
        assert!((i.low + 0.484_138).abs() < 1e-5 && (i.high - 4.484_138).abs() < 1e-5, "{i:?}");
        // Mean 0.5, s = 0.5 sqrt(4 / 3), n = 4: t_3(0.975) = 3.182446, half 3.182446 / (2 sqrt(3)) = 0.918693.
        let four = mean_interval_t(&[0.0, 1.0, 0.0, 1.0]);
        assert!((four.high - 1.418_693).abs() < 1e-5, "{four:?}");
        // Many: the normal quantile. s = 0.5 sqrt(n / (n - 1)), half 1.95998 * 0.5 / sqrt(20000) = 0.00693.
        let many = mean_interval_t(&[0.0, 1.0].repeat(10_000));
        assert!((many.high - 0.506_93).abs() < 1e-5, "{many:?}");
        let (one, two) = (mean_interval_t(&[0.5]), mean_interval_t(&[0.0, 1.0]));
        assert!(one.estimate == 0.5 && one.low.is_nan() && one.high.is_nan());
        assert!(two.estimate == 0.5 && two.low.is_nan() && two.high.is_nan() && two.n == 2, "{two:?}");
        let same = mean_interval_t(&[0.5; 4]);
        assert_eq!((same.low, same.high), (0.5, 0.5));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        // Position 0.25 * 3 = 0.75 between 1 and 2.
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), 1.75);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
    }
}
