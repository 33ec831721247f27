//! Stand-in for the statistics of `crate::analysis`; to be replaced by them.

use rand::Rng;

use crate::seed::Seed;

/// Student t interval of the mean; none for fewer than two values.
pub(super) fn mean_interval_t(values: &[f64], level: f64) -> Option<(f64, f64)> {
    use statrs::distribution::{ContinuousCDF, StudentsT};
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let half =
        StudentsT::new(0.0, 1.0, (n - 1) as f64).ok()?.inverse_cdf(0.5 + level / 2.0) * sd(values)? / (n as f64).sqrt();
    Some((mean - half, mean + half))
}

/// Standard deviation with n - 1; none for fewer than two values.
pub(super) fn sd(values: &[f64]) -> Option<f64> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    Some((values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt())
}

/// Percentile interval of the mean of paired differences, resampled over examples.
pub(super) fn bootstrap_mean(
    differences: &[f64],
    level: f64,
    resamples: usize,
    seed: Seed,
    key: &str,
) -> Option<(f64, f64)> {
    let n = differences.len();
    if n == 0 || resamples == 0 {
        return None;
    }
    let mut rng = seed.rng("sweep-bootstrap", key);
    let mut means: Vec<f64> =
        (0..resamples).map(|_| (0..n).map(|_| differences[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[((resamples - 1) as f64 * q).round() as usize];
    Some((at(0.5 - level / 2.0), at(0.5 + level / 2.0)))
}
