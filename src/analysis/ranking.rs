//! How well a score ranks the positives before the negatives: mislabel scores against true flips.

/// Area under the ROC curve: P(score of a positive > score of a negative) + P(equal) / 2.
///
/// Ties get mid-ranks. NaN scores rank last, together. The result is NaN where a class is empty: there is
/// nothing to rank.
///
/// # Source
/// H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947); AUROC = U / (n+ n-).
pub fn auroc(scores: &[f64], labels: &[bool]) -> f64 {
    let n = scores.len().min(labels.len());
    let value = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    let positives = labels[..n].iter().filter(|l| **l).count();
    if positives == 0 || positives == n {
        return f64::NAN;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    let mut below = n - positives;
    let mut wins = 0.0;
    for equal in order.chunk_by(|&a, &b| value(a) == value(b)) {
        let found = equal.iter().filter(|&&i| labels[i]).count();
        let others = equal.len() - found;
        below -= others;
        wins += found as f64 * (below as f64 + 0.5 * others as f64);
    }
    wins / (positives as f64 * (n - positives) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_by_hand() {
        let labels = [true, false, true, false];
        // Positives 0.9, 0.4; negatives 0.5, 0.1: three of four pairs are in order.
        assert_eq!(auroc(&[0.9, 0.5, 0.4, 0.1], &labels), 0.75);
        // Positives 0.9, 0.5; negatives 0.5, 0.1: 1 + 1 + 0.5 + 1 of 4.
        assert_eq!(auroc(&[0.9, 0.5, 0.5, 0.1], &labels), 0.875);
        assert_eq!(auroc(&[1.0; 4], &labels), 0.5);
        assert_eq!(auroc(&[f64::NAN, 0.0, f64::NAN, 0.0], &labels), 0.0);
        // Plus and minus zero are one score.
        assert_eq!(auroc(&[0.0, -0.0], &[false, true]), 0.5);
        assert!(auroc(&[1.0], &[true]).is_nan() && auroc(&[], &[]).is_nan());
    }
}
