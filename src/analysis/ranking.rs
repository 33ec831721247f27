//! How well a score ranks the positives before the negatives: mislabel scores against true flips.

/// Indices by descending score, NaN last.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    order
}

/// Runs of equal scores in [`ranked`] order, as (positives, negatives).
fn groups(scores: &[f64], labels: &[bool]) -> Vec<(u64, u64)> {
    let n = scores.len().min(labels.len());
    let order = ranked(&scores[..n]);
    let value = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    order
        .chunk_by(|&a, &b| value(a) == value(b))
        .map(|run| {
            let positives = run.iter().filter(|&&i| labels[i]).count();
            (positives as u64, (run.len() - positives) as u64)
        })
        .collect()
}

/// Area under the ROC curve: P(score of a positive > score of a negative) + P(equal) / 2.
///
/// Ties get mid-ranks. NaN scores rank last, together. The result is NaN where a class is empty: there is
/// nothing to rank.
///
/// # Source
/// H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947); AUROC = U / (n+ n-).
pub fn auroc(scores: &[f64], labels: &[bool]) -> f64 {
    let groups = groups(scores, labels);
    let (positives, negatives) = groups.iter().fold((0, 0), |(p, n), g| (p + g.0, n + g.1));
    if positives == 0 || negatives == 0 {
        return f64::NAN;
    }
    let mut below = negatives;
    let mut wins = 0.0;
    for (p, n) in groups {
        below -= n;
        wins += p as f64 * (below as f64 + 0.5 * n as f64);
    }
    wins / (positives as f64 * negatives as f64)
}

/// Average precision: sum over thresholds of (recall gained) * precision, equal scores crossed together.
///
/// No interpolation, as scikit-learn's `average_precision_score`. NaN without positives.
///
/// # Source
/// C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval" (2008), section 8.4.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let groups = groups(scores, labels);
    let positives: u64 = groups.iter().map(|g| g.0).sum();
    if positives == 0 {
        return f64::NAN;
    }
    let (mut found, mut seen, mut sum) = (0, 0, 0.0);
    for (p, n) in groups {
        found += p;
        seen += p + n;
        sum += p as f64 / positives as f64 * found as f64 / seen as f64;
    }
    sum
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

    #[test]
    fn average_precision_by_hand() {
        // Right, wrong, right: 1/2 * 1/1 + 1/2 * 2/3 = 5/6.
        assert!((average_precision(&[0.9, 0.5, 0.4], &[true, false, true]) - 5.0 / 6.0).abs() < 1e-12);
        // All equal: one threshold, precision 2/3.
        assert!((average_precision(&[1.0; 3], &[true, false, true]) - 2.0 / 3.0).abs() < 1e-12);
        assert!(average_precision(&[1.0], &[false]).is_nan());
    }
}
