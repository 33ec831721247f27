//! Information of distributions, in nats.

/// Entropy of a distribution given by weights (counts or probabilities); 0 ln 0 = 0.
///
/// Weights that are not positive and finite count as 0; without any positive weight the entropy is 0.
///
/// # Units
/// Nats.
pub fn entropy(weights: &[f64]) -> f64 {
    let positive = || weights.iter().filter(|w| **w > 0.0 && w.is_finite());
    let total: f64 = positive().sum();
    if total > 0.0 { -positive().map(|w| w / total * (w / total).ln()).sum::<f64>() + 0.0 } else { 0.0 }
}

/// exp of the entropy: the number of equally used codes that have the same entropy; 1 to `weights.len()`.
pub fn perplexity(weights: &[f64]) -> f64 {
    entropy(weights).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_by_hand() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        // 1/2, 1/4, 1/4: 0.5 ln 2 + 0.5 ln 4 = 1.5 ln 2; perplexity 2^1.5.
        assert!(close(entropy(&[2.0, 1.0, 1.0, 0.0]), 1.5 * 2f64.ln()));
        assert!(close(perplexity(&[2.0, 1.0, 1.0, 0.0]), 2f64.powf(1.5)));
        assert_eq!((entropy(&[3.0]), entropy(&[]), perplexity(&[0.0])), (0.0, 0.0, 1.0));
    }
}
