//! How well two labellings of the same examples agree: codes against planted factors, codes against sources.
//!
//! All logarithms are natural; information is in nats.

use std::collections::{BTreeMap, BTreeSet};

use statrs::function::gamma::ln_gamma;

use crate::information::entropy;

/// Counts of two labellings, rows and columns in ascending order of their labels.
struct CrossTable {
    /// `counts[row][column]`.
    counts: Vec<Vec<u64>>,
    /// Sums of the rows.
    rows: Vec<u64>,
    /// Sums of the columns.
    columns: Vec<u64>,
    /// All examples.
    total: u64,
}

impl CrossTable {
    /// The table of two labellings; examples beyond the shorter slice are ignored.
    fn of(a: &[u32], b: &[u32]) -> CrossTable {
        let positions = |labels: &[u32]| -> BTreeMap<u32, usize> {
            let labels: BTreeSet<u32> = labels.iter().copied().collect();
            labels.into_iter().zip(0..).collect()
        };
        let n = a.len().min(b.len());
        let (of_rows, of_columns) = (positions(&a[..n]), positions(&b[..n]));
        let (mut rows, mut columns) = (vec![0; of_rows.len()], vec![0; of_columns.len()]);
        let mut counts = vec![vec![0; columns.len()]; rows.len()];
        for (x, y) in a.iter().zip(b) {
            let (row, column) = (of_rows[x], of_columns[y]);
            counts[row][column] += 1;
            rows[row] += 1;
            columns[column] += 1;
        }
        CrossTable { counts, rows, columns, total: n as u64 }
    }

    /// Mutual information of the two labellings, in nats.
    fn mutual_information(&self) -> f64 {
        let n = self.total as f64;
        let mut sum = 0.0;
        for (row, of_row) in self.counts.iter().zip(&self.rows) {
            for (&count, of_column) in row.iter().zip(&self.columns).filter(|(count, _)| **count > 0) {
                let joint = count as f64;
                sum += joint / n * (joint * n / (*of_row as f64 * *of_column as f64)).ln();
            }
        }
        // Rounding can leave -1e-17 where the labellings are independent.
        sum.max(0.0)
    }

    /// Mean of the labellings' entropies, in nats.
    fn mean_entropy(&self) -> f64 {
        let of_counts = |counts: &[u64]| entropy(&counts.iter().map(|&c| c as f64).collect::<Vec<_>>());
        0.5 * (of_counts(&self.rows) + of_counts(&self.columns))
    }
}

/// Normalised mutual information, 2 I(a; b) / (H(a) + H(b)): the arithmetic mean, as scikit-learn's default.
///
/// 1 where the labellings are the same up to names, 0 where they are independent. Two constant labellings
/// (or no examples) give 1, one constant labelling gives 0, as in scikit-learn.
///
/// # Source
/// N. X. Vinh, J. Epps, J. Bailey, "Information theoretic measures for clusterings comparison", JMLR 11 (2010).
pub fn nmi(a: &[u32], b: &[u32]) -> f64 {
    let table = CrossTable::of(a, b);
    if table.rows.len() <= 1 && table.columns.len() <= 1 {
        return 1.0;
    }
    (table.mutual_information() / table.mean_entropy()).clamp(0.0, 1.0)
}

/// Adjusted mutual information, (I - E\[I\]) / ((H(a) + H(b)) / 2 - E\[I\]): NMI corrected for chance.
///
/// E\[I\] is over all tables with the same margins (hypergeometric). About 0 for random labels, also where
/// there are many codes and few examples. The cases without information are those of [`nmi`].
///
/// # Source
/// As [`nmi`]; arithmetic mean, as scikit-learn's default.
pub fn ami(a: &[u32], b: &[u32]) -> f64 {
    let table = CrossTable::of(a, b);
    if table.rows.len() == table.columns.len() && table.rows.len() <= 1 {
        return 1.0;
    }
    let expected = expected_information(&table.rows, &table.columns, table.total);
    let (above, room) = (table.mutual_information() - expected, table.mean_entropy() - expected);
    if room.abs() < f64::EPSILON { if above.abs() < 1e-12 { 0.0 } else { 1.0 } } else { above / room }
}

fn expected_information(rows: &[u64], columns: &[u64], total: u64) -> f64 {
    let n = total as f64;
    let ln_factorial = |k: u64| ln_gamma(k as f64 + 1.0);
    let mut sum = 0.0;
    for &a in rows {
        for &b in columns {
            let fixed = ln_factorial(a) + ln_factorial(b) + ln_factorial(total - a) + ln_factorial(total - b)
                - ln_factorial(total);
            for k in (a + b).saturating_sub(total).max(1)..=a.min(b) {
                let chance = fixed
                    - ln_factorial(k)
                    - ln_factorial(a - k)
                    - ln_factorial(b - k)
                    - ln_factorial(total + k - a - b);
                let joint = k as f64;
                sum += joint / n * (n * joint / (a as f64 * b as f64)).ln() * chance.exp();
            }
        }
    }
    sum
}

/// Purity of `codes` against `truth`: the share of examples that are right when each code predicts its most frequent
/// label.
///
/// At least the share of the most frequent label, and 1 with a code for each example: read it beside [`nmi`].
/// 0 without examples.
///
/// # Source
/// C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval" (2008), section 16.3.
pub fn purity(codes: &[u32], truth: &[u32]) -> f64 {
    let table = CrossTable::of(codes, truth);
    let right: u64 = table.counts.iter().filter_map(|r| r.iter().max()).sum();
    right as f64 / table.total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn tables_are_in_label_order() {
        let t = CrossTable::of(&[7, 2, 7, 2], &[1, 1, 0, 1]);
        assert_eq!(t.counts, [[0, 2], [1, 1]]);
        assert_eq!((t.rows, t.columns, t.total), (vec![2, 2], vec![1, 3], 4));
    }

    #[test]
    fn nmi_by_hand() {
        assert!(close(nmi(&[0, 0, 1, 1], &[5, 5, 3, 3]), 1.0), "names do not matter");
        assert!(close(nmi(&[0, 0, 1, 1], &[0, 1, 0, 1]), 0.0));
        // a = 0011, b = 0012: I = H(a) = ln 2, H(b) = 0.5 ln 2 + 0.5 ln 4 = 1.5 ln 2; 2 / (1 + 1.5) = 0.8.
        assert!(close(nmi(&[0, 0, 1, 1], &[0, 0, 1, 2]), 0.8));
        assert_eq!((nmi(&[1, 1], &[0, 0]), nmi(&[1, 1], &[0, 1]), nmi(&[], &[])), (1.0, 0.0, 1.0));
    }

    #[test]
    fn ami_by_hand() {
        assert!(close(ami(&[0, 0, 1, 1], &[1, 1, 0, 0]), 1.0));
        // a = 0011, b = 0101: margins 2, 2. A cell holds 0, 1 or 2 with chances 1/6, 4/6, 1/6; with 1 the
        // term 1/4 ln(4 * 1 / 4) is 0, with 2 it is 2/4 ln 2. E = 4 cells * 1/6 * 0.5 ln 2 = ln 2 / 3.
        // I = 0, mean entropy ln 2: (0 - 1/3) / (1 - 1/3) = -0.5.
        assert!(close(ami(&[0, 0, 1, 1], &[0, 1, 0, 1]), -0.5));
        assert!(ami(&[0, 0], &[0, 1]).abs() < 1e-9);
    }

    #[test]
    fn purity_by_hand() {
        // Code 0 has the labels 1, 1, 2 (2 right), code 1 the label 2 (1 right): 3 of 4.
        assert!(close(purity(&[0, 0, 0, 1], &[1, 1, 2, 2]), 0.75));
        assert_eq!(purity(&[], &[]), 0.0);
    }
}
