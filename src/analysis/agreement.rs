//! How well two labellings of the same examples agree: codes against planted factors, codes against sources.
//!
//! All logarithms are natural; information is in nats.

use std::collections::BTreeMap;

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::ln_gamma;

use crate::information::entropy;

/// Counts of two labellings, rows and columns in ascending order of their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contingency {
    /// Labels of the rows.
    pub rows: Vec<u32>,
    /// Labels of the columns.
    pub columns: Vec<u32>,
    /// `counts[row][column]`.
    pub counts: Vec<Vec<u64>>,
}

impl Contingency {
    /// Sums of the rows.
    pub fn row_sums(&self) -> Vec<u64> {
        self.counts.iter().map(|r| r.iter().sum()).collect()
    }

    /// Sums of the columns.
    pub fn column_sums(&self) -> Vec<u64> {
        (0..self.columns.len()).map(|c| self.counts.iter().map(|r| r[c]).sum()).collect()
    }

    /// All examples.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Mutual information of the two labellings, in nats.
    fn mutual_information(&self) -> f64 {
        let (rows, columns, n) = (self.row_sums(), self.column_sums(), self.total() as f64);
        let mut sum = 0.0;
        for (r, line) in self.counts.iter().enumerate() {
            for (c, &count) in line.iter().enumerate().filter(|(_, count)| **count > 0) {
                let joint = count as f64;
                sum += joint / n * (joint * n / (rows[r] as f64 * columns[c] as f64)).ln();
            }
        }
        // Rounding can leave -1e-17 where the labellings are independent.
        sum.max(0.0)
    }
}

/// Cross table of two labellings; examples beyond the shorter slice are ignored.
pub fn contingency(a: &[u32], b: &[u32]) -> Contingency {
    let positions = |labels: &[u32]| -> BTreeMap<u32, usize> {
        let mut found: BTreeMap<u32, usize> = labels.iter().map(|&l| (l, 0)).collect();
        found.values_mut().enumerate().for_each(|(i, at)| *at = i);
        found
    };
    let n = a.len().min(b.len());
    let (rows, columns) = (positions(&a[..n]), positions(&b[..n]));
    let mut counts = vec![vec![0; columns.len()]; rows.len()];
    for (x, y) in a.iter().zip(b) {
        counts[rows[x]][columns[y]] += 1;
    }
    Contingency { rows: rows.into_keys().collect(), columns: columns.into_keys().collect(), counts }
}

fn entropy_of_counts(counts: &[u64]) -> f64 {
    entropy(&counts.iter().map(|&c| c as f64).collect::<Vec<_>>())
}

/// Normalised mutual information, 2 I(a; b) / (H(a) + H(b)): the arithmetic mean, as scikit-learn's default.
///
/// 1 where the labellings are the same up to names, 0 where they are independent. Two constant labellings
/// (or no examples) give 1, one constant labelling gives 0, as in scikit-learn.
///
/// # Source
/// N. X. Vinh, J. Epps, J. Bailey, "Information theoretic measures for clusterings comparison", JMLR 11 (2010).
pub fn nmi(a: &[u32], b: &[u32]) -> f64 {
    let table = contingency(a, b);
    if table.rows.len() <= 1 && table.columns.len() <= 1 {
        return 1.0;
    }
    let mean = 0.5 * (entropy_of_counts(&table.row_sums()) + entropy_of_counts(&table.column_sums()));
    (table.mutual_information() / mean).clamp(0.0, 1.0)
}

/// Adjusted mutual information, (I - E\[I\]) / ((H(a) + H(b)) / 2 - E\[I\]): NMI with what chance alone gives taken
/// away.
///
/// E\[I\] is over all tables with the same margins (hypergeometric). About 0 for random labels, also where
/// there are many codes and few examples. The cases without information are those of [`nmi`].
///
/// # Source
/// As [`nmi`]; arithmetic mean, as scikit-learn's default.
pub fn ami(a: &[u32], b: &[u32]) -> f64 {
    let table = contingency(a, b);
    if table.rows.len() == table.columns.len() && table.rows.len() <= 1 {
        return 1.0;
    }
    let (rows, columns) = (table.row_sums(), table.column_sums());
    let expected = expected_information(&rows, &columns, table.total());
    let mean = 0.5 * (entropy_of_counts(&rows) + entropy_of_counts(&columns));
    let (above, room) = (table.mutual_information() - expected, mean - expected);
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

/// Purity of `codes` against `truth`: the share of examples right when each code stands for its most frequent label.
///
/// At least the share of the most frequent label, and 1 with a code for each example: read it beside [`nmi`].
/// 0 without examples.
///
/// # Source
/// C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval" (2008), section 16.3.
pub fn purity(codes: &[u32], truth: &[u32]) -> f64 {
    let table = contingency(codes, truth);
    let right: u64 = table.counts.iter().filter_map(|r| r.iter().max()).sum();
    right as f64 / table.total().max(1) as f64
}

/// Pearson's chi-square test of independence: (statistic, degrees of freedom, p value).
///
/// sum (observed - expected)^2 / expected, expected = row sum * column sum / n, df = (rows - 1)(columns - 1).
/// Without degrees of freedom the statistic is 0 and p is 1.
///
/// # Source
/// K. Pearson, Philosophical Magazine 50 (1900).
pub fn chi_square(table: &Contingency) -> (f64, usize, f64) {
    let (rows, columns, n) = (table.row_sums(), table.column_sums(), table.total() as f64);
    let freedom = rows.len().saturating_sub(1) * columns.len().saturating_sub(1);
    let mut statistic = 0.0;
    for (r, line) in table.counts.iter().enumerate() {
        for (c, &count) in line.iter().enumerate() {
            let expected = rows[r] as f64 * columns[c] as f64 / n;
            if expected > 0.0 {
                statistic += (count as f64 - expected).powi(2) / expected;
            }
        }
    }
    match ChiSquared::new(freedom as f64) {
        Ok(law) if freedom > 0 => (statistic, freedom, law.sf(statistic)),
        _ => (0.0, freedom, 1.0),
    }
}

/// Cramér's V, sqrt(chi^2 / (n min(rows - 1, columns - 1))): 0 independent, 1 fully determined; 0 where undefined.
///
/// # Source
/// H. Cramér, "Mathematical Methods of Statistics" (1946), chapter 21.
pub fn cramers_v(table: &Contingency) -> f64 {
    let shorter = table.rows.len().min(table.columns.len()).saturating_sub(1);
    let n = table.total() as f64;
    if shorter == 0 { 0.0 } else { (chi_square(table).0 / (n * shorter as f64)).sqrt().min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn tables_are_in_label_order() {
        let t = contingency(&[7, 2, 7, 2], &[1, 1, 0, 1]);
        assert_eq!((t.rows.clone(), t.columns.clone()), (vec![2, 7], vec![0, 1]));
        assert_eq!(t.counts, [[0, 2], [1, 1]]);
        assert_eq!((t.row_sums(), t.column_sums(), t.total()), (vec![2, 2], vec![1, 3], 4));
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
        // Code 0 holds labels 1, 1, 2 (2 right), code 1 holds 2 (1 right): 3 of 4.
        assert!(close(purity(&[0, 0, 0, 1], &[1, 1, 2, 2]), 0.75));
        assert_eq!(purity(&[], &[]), 0.0);
    }

    #[test]
    fn chi_square_by_hand() {
        // Rows (10, 20), (20, 10): expected 15 everywhere, 4 * 25 / 15 = 6.6667, df 1, p = 0.009823.
        let t = Contingency { rows: vec![0, 1], columns: vec![0, 1], counts: vec![vec![10, 20], vec![20, 10]] };
        let (statistic, freedom, p) = chi_square(&t);
        assert!(close(statistic, 20.0 / 3.0) && freedom == 1 && (p - 0.009_823).abs() < 1e-6, "{statistic} {p}");
        // V = sqrt(6.6667 / 60) = 1/3.
        assert!(close(cramers_v(&t), 1.0 / 3.0));
        let one = contingency(&[1, 1], &[0, 1]);
        assert_eq!((chi_square(&one), cramers_v(&one)), ((0.0, 0, 1.0), 0.0));
    }
}
