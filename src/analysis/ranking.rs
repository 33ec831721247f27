//! How well a score ranks the positives before the negatives: mislabel scores against true flips.

use statrs::function::erf::{erfc, erfc_inv};

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

/// Indices by falling score; equal scores keep their order, NaN comes last.
fn falling(scores: &[f64]) -> Vec<usize> {
    let value = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    order
}

/// Mean over the positives of the share of positives among all that rank no lower. Equal scores rank together. NaN
/// without positives.
///
/// # Source
/// The step-wise area under the precision-recall curve, as scikit-learn's `average_precision_score`.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let positives = labels.iter().filter(|l| **l).count();
    let (mut seen, mut found, mut sum) = (0usize, 0usize, 0.0);
    for equal in falling(scores).chunk_by(|&a, &b| scores[a] == scores[b]) {
        let new = equal.iter().filter(|&&i| labels[i]).count();
        (seen, found) = (seen + equal.len(), found + new);
        sum += new as f64 * found as f64 / seen as f64;
    }
    sum / positives as f64
}

/// Share of positives among the `n` highest scores; of scores that are equal at the border, the mean share counts. NaN
/// for n = 0.
pub fn precision_at(scores: &[f64], labels: &[bool], n: usize) -> f64 {
    let (mut left, mut found) = (n.min(scores.len()) as f64, 0.0);
    for equal in falling(scores).chunk_by(|&a, &b| scores[a] == scores[b]) {
        let positives = equal.iter().filter(|&&i| labels[i]).count() as f64;
        let taken = left.min(equal.len() as f64);
        found += positives * taken / equal.len() as f64;
        left -= taken;
        if left <= 0.0 {
            break;
        }
    }
    found / n.min(scores.len()) as f64
}

/// AUROC that a margin can be expected to reach as a detector of wrong labels, where it ranks a share `accuracy` of the
/// pairs as their true labels do, its size in the true order is about normal, and labels are flipped independently of it:
/// `Phi(sqrt(2) Phi^-1(accuracy))`, whatever the share of flips.
///
/// With a margin of mean mu and deviation s in the true order, accuracy = Phi(mu / s). A wrong label has a margin of mean
/// -mu, a right one of mean mu; their difference has the deviation sqrt(2) s, so that AUROC = Phi(2 mu / (sqrt(2) s)).
pub fn expected_auroc(accuracy: f64) -> f64 {
    let quantile = -std::f64::consts::SQRT_2 * erfc_inv(2.0 * accuracy);
    // Phi(x) = erfc(-x / sqrt(2)) / 2.
    0.5 * erfc(-quantile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_by_hand() {
        let labels = [true, false, true, false];
        // Positives rank 1 and 3: (1/1 + 2/3) / 2.
        assert!((average_precision(&[0.9, 0.5, 0.4, 0.1], &labels) - 5.0 / 6.0).abs() < 1e-12);
        // All equal: both positives stand at 2 of 4.
        assert!((average_precision(&[1.0; 4], &labels) - 0.5).abs() < 1e-12);
        assert!(average_precision(&[1.0], &[false]).is_nan());
        assert_eq!(precision_at(&[0.9, 0.5, 0.4, 0.1], &labels, 1), 1.0);
        assert_eq!(precision_at(&[0.9, 0.5, 0.4, 0.1], &labels, 2), 0.5);
        // One of three equal scores, two of which are positives.
        assert!((precision_at(&[0.1, 0.5, 0.5, 0.5], &[false, true, true, false], 1) - 2.0 / 3.0).abs() < 1e-12);
        assert!(precision_at(&[0.5], &[true], 0).is_nan());
    }

    #[test]
    fn expected_auroc_by_hand() {
        // Phi^-1(0.8) = 0.841621; times sqrt(2) = 1.190232; Phi = 0.883022.
        assert!((expected_auroc(0.8) - 0.883_022).abs() < 1e-6);
        assert!((expected_auroc(0.5) - 0.5).abs() < 1e-12);
        assert_eq!(expected_auroc(1.0), 1.0);
    }

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
