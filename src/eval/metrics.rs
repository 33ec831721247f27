//! Means over items with their standard errors.

use serde::{Deserialize, Serialize};

/// A metric of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// As lm-evaluation-harness names it: `acc`, `acc_norm`, `exact_match`.
    pub name: String,
    /// The filter of the text, as it names it: `none`, `strict-match`, `flexible-extract`.
    pub filter: String,
    /// The mean over items.
    pub value: f64,
    /// Its standard error: the deviation of a sample over the root of the number of items; NaN for fewer than two.
    pub stderr: f64,
    /// Items.
    pub n: usize,
}

/// The mean of one number of each item.
///
/// # Source
/// lm-evaluation-harness, `lm_eval/api/metrics.py`, `mean` and `mean_stderr`.
pub fn mean(name: &str, filter: &str, values: &[f64]) -> Metric {
    let n = values.len();
    let value = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
    let stderr = if n < 2 { f64::NAN } else { (squares / (n as f64 - 1.0) / n as f64).sqrt() };
    Metric { name: name.into(), filter: filter.into(), value, stderr, n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_by_hand() {
        // Three of four: mean 3/4, variance of the sample 1/4, over 4.
        let found = mean("acc", "none", &[1.0, 1.0, 0.0, 1.0]);
        assert_eq!((found.value, found.stderr, found.n), (0.75, 0.25, 4));
        assert!(mean("acc", "none", &[1.0]).stderr.is_nan() && mean("acc", "none", &[]).value.is_nan());
    }
}
