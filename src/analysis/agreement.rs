//! How well two labellings of the same examples agree: codes against planted factors, codes against sources.
//!
//! All logarithms are natural; information is in nats.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rayon::prelude::*;
use statrs::function::gamma::ln_gamma;

use crate::information::entropy;
use crate::seed::Seed;

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

    /// Whether both labellings have more than one label, so that there is information that could agree.
    fn informative(&self) -> bool {
        self.rows.len() > 1 && self.columns.len() > 1
    }

    /// Whether the labellings are the same up to names: every row and every column has one cell.
    fn same_partition(&self) -> bool {
        let cells = self.counts.iter().flatten().filter(|count| **count > 0).count();
        cells == self.rows.len() && cells == self.columns.len()
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
    if table.same_partition() {
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
    if table.same_partition() {
        return 1.0;
    }
    let expected = expected_information(&table.rows, &table.columns, table.total);
    let (above, room) = (table.mutual_information() - expected, table.mean_entropy() - expected);
    if room.abs() < f64::EPSILON { if above.abs() < 1e-12 { 0.0 } else { 1.0 } } else { above / room }
}

fn expected_information(rows: &[u64], columns: &[u64], total: u64) -> f64 {
    let n = total as f64;
    // Every factorial that occurs, once: the sum below has up to `total` terms for every row.
    let ln_factorials: Vec<f64> = (0..=total).map(|k| ln_gamma(k as f64 + 1.0)).collect();
    let ln_factorial = |k: u64| ln_factorials[k as usize];
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

/// What two labellings of the same examples share, and how likely chance alone shares as much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dependence {
    /// [`nmi`].
    pub nmi: f64,
    /// [`ami`].
    pub ami: f64,
    /// p-value of the permutation test with the mutual information as its statistic.
    pub p: f64,
}

/// NMI, AMI and a permutation test of independence; `None` where one labelling has fewer than two labels, so that
/// there is no information that could agree.
///
/// One labelling is permuted `permutations` times; with b of them sharing as much information as observed or more,
/// p = (b + 1) / (permutations + 1), which is never 0. The draws are a function of (seed, `purpose`, number of the
/// permutation) and of how often each label occurs: not of the order of the examples, and not of threads.
///
/// # Source
/// P. Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses" (2005); B. Phipson, G. K. Smyth, "Permutation
/// P-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9 (2010).
pub fn dependence(a: &[u32], b: &[u32], permutations: usize, seed: Seed, purpose: &str) -> Option<Dependence> {
    let table = CrossTable::of(a, b);
    table.informative().then(|| Dependence {
        nmi: nmi(a, b),
        ami: ami(a, b),
        p: table.chance(permutations, seed, purpose),
    })
}

impl CrossTable {
    /// The p-value of [`dependence`].
    fn chance(&self, permutations: usize, seed: Seed, purpose: &str) -> f64 {
        // With fixed margins the information rises with the sum of n ln n over the cells.
        let largest = self.rows.iter().chain(&self.columns).max().copied().unwrap_or(0);
        let weights: Vec<f64> = (0..=largest).map(|n| if n > 0 { n as f64 * (n as f64).ln() } else { 0.0 }).collect();
        let observed: f64 = self.counts.iter().flatten().map(|&n| weights[n as usize]).sum();
        // Tables with the same information differ by rounding; they count as equal.
        let least = observed - 1e-12 * observed.abs().max(1.0);
        let labels: Vec<u32> =
            (0..).zip(&self.columns).flat_map(|(label, &n)| std::iter::repeat_n(label, n as usize)).collect();
        let as_much = |permutation: usize| -> bool {
            let mut rng = seed.rng(purpose, &permutation.to_string());
            let mut labels = labels.clone();
            for at in (1..labels.len()).rev() {
                labels.swap(at, rng.random_range(0..=at as u32) as usize);
            }
            let (mut sum, mut start) = (0.0, 0);
            let mut counts = vec![0u32; self.columns.len()];
            for &row in &self.rows {
                let end = start + row as usize;
                counts.fill(0);
                labels[start..end].iter().for_each(|&label| counts[label as usize] += 1);
                sum += counts.iter().map(|&n| weights[n as usize]).sum::<f64>();
                start = end;
            }
            sum >= least
        };
        let reached = (0..permutations).into_par_iter().filter(|&r| as_much(r)).count();
        (reached + 1) as f64 / (permutations + 1) as f64
    }
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

    /// `sklearn.metrics.adjusted_mutual_info_score` and `normalized_mutual_info_score`, scikit-learn 1.9.1.
    #[test]
    fn agreement_as_scikit_learn() {
        let labels = |n: u32, of: &dyn Fn(u32) -> u32| (0..n).map(of).collect::<Vec<u32>>();
        let a = labels(60, &|i| i * i % 7 % 3);
        let independent = labels(60, &|i| (i * i + i) % 5 % 4);
        let near = labels(60, &|i| if i % 4 == 0 { (a[i as usize] + 1) % 3 } else { a[i as usize] });
        let (wide, other) = (labels(600, &|i| i * i % 61 % 8), labels(600, &|i| (i * i % 61 + i % 3) % 5));
        for (a, b, known_ami, known_nmi) in [
            (&a, &independent, -0.03519423386623819, 0.0022738961643427704),
            (&a, &near, 0.441781436755955, 0.4625829652141666),
            (&wide, &other, 0.011417422976670137, 0.024316451452094896),
        ] {
            assert!((ami(a, b) - known_ami).abs() < 1e-12, "{} {known_ami}", ami(a, b));
            assert!((nmi(a, b) - known_nmi).abs() < 1e-12, "{} {known_nmi}", nmi(a, b));
            assert!(close(ami(a, b), ami(b, a)) && close(nmi(a, b), nmi(b, a)));
        }
        // The same labels under other names: exactly 1, also where every example has its own.
        for k in 2..40 {
            let (own, renamed) = (labels(97, &|i| i * i % k), labels(97, &|i| 90 - i * i % k));
            assert_eq!((ami(&own, &renamed), nmi(&own, &renamed)), (1.0, 1.0), "{k}");
        }
        assert_eq!(ami(&[0, 1, 2, 3], &[7, 6, 5, 4]), 1.0);
    }

    #[test]
    fn permutations_by_hand() {
        // Three of each: 20 ways to spread b. 2 of them give the observed table up to names, so that p is about 1/10.
        let (a, b) = ([0, 0, 0, 1, 1, 1], [4, 4, 4, 9, 9, 9]);
        let found = dependence(&a, &b, 9999, Seed(1), "test").unwrap();
        // Binomial with 9999 draws: standard deviation 0.003.
        assert!((found.p - 0.1).abs() < 0.015 && found.ami == 1.0, "{found:?}");
        // No table has less information than that of independent labels: every permutation reaches it.
        let even = dependence(&[0, 0, 1, 1], &[0, 1, 0, 1], 99, Seed(1), "test").unwrap();
        assert_eq!(even.p, 1.0);
        // 40 of each of two labels: no permutation comes near, and p is still not 0.
        let labels: Vec<u32> = (0..80).map(|i| i % 2).collect();
        assert_eq!(dependence(&labels, &labels, 99, Seed(1), "test").unwrap().p, 0.01);
        assert_eq!(dependence(&labels, &labels, 0, Seed(1), "test").unwrap().p, 1.0, "nothing was drawn");
        assert_eq!(dependence(&labels, &[3; 80], 99, Seed(1), "test"), None);
        assert_eq!(dependence(&[], &[], 99, Seed(1), "test"), None);
    }

    #[test]
    fn p_values_of_independent_labels_are_spread_evenly() {
        let draw = |what: &str, r: usize| -> Vec<u32> {
            (0..60).map(|i| Seed(9).index(what, &format!("{r} {i}"), 3) as u32).collect()
        };
        let p = |r: usize| dependence(&draw("a", r), &draw("b", r), 99, Seed(1), &r.to_string()).unwrap().p;
        let low = (0..400).filter(|&r| p(r) <= 0.2).count();
        // Binomial(400, 0.2): 80 with standard deviation 8.
        assert!((80 - 32..=80 + 32).contains(&low), "{low}");
    }

    #[test]
    fn permutations_depend_on_the_seed_alone() {
        let draw = |what: &str, labels: usize| -> Vec<u32> {
            (0..200).map(|i| Seed(5).index(what, &i.to_string(), labels) as u32).collect()
        };
        let (a, b) = (draw("a", 4), draw("b", 5));
        let p = |a: &[u32], b: &[u32], seed: u64, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| dependence(a, b, 999, Seed(seed), "test").unwrap().p)
        };
        let first = p(&a, &b, 1, 1);
        assert!(first > 0.01 && first < 0.99, "{first}");
        assert_eq!((first, first), (p(&a, &b, 1, 1), p(&a, &b, 1, 2)));
        let turned = |labels: &[u32]| labels.iter().rev().copied().collect::<Vec<_>>();
        assert_eq!(first, p(&turned(&a), &turned(&b), 1, 2), "the order of the examples does not matter");
        assert_ne!(first, p(&a, &b, 2, 2));
    }

    #[test]
    fn purity_by_hand() {
        // Code 0 has the labels 1, 1, 2 (2 right), code 1 the label 2 (1 right): 3 of 4.
        assert!(close(purity(&[0, 0, 0, 1], &[1, 1, 2, 2]), 0.75));
        assert_eq!(purity(&[], &[]), 0.0);
    }
}
