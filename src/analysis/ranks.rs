//! Tests on ranks, and the correction for testing several times.

use serde::{Deserialize, Serialize};
use statrs::function::gamma::gamma_ur;

/// Kruskal and Wallis' test of whether groups differ in location.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KruskalWallis {
    /// H, corrected for ties.
    pub h: f64,
    /// Groups with a value, less one.
    pub degrees: u64,
    /// P(chi-square with that many degrees of freedom >= H): an approximation that wants about five values a group.
    pub p: f64,
    /// Effect size H / (n - 1): 0 where the groups' mean ranks are the same, 1 where the groups tell the ranks.
    pub epsilon_squared: f64,
    /// Values.
    pub n: u64,
}

/// Kruskal and Wallis' test of `values` by `groups`; values that are no number are left out.
///
/// With N values, R_j the mean rank of group j with n_j values, equal values at their mean rank, and t values in each
/// tie: H = 12 / (N (N + 1)) sum_j n_j (R_j - (N + 1) / 2)^2 / (1 - sum (t^3 - t) / (N^3 - N)). `None` with fewer than
/// two groups, and where all values are equal.
///
/// # Source
/// W. H. Kruskal, W. A. Wallis, "Use of ranks in one-criterion variance analysis", JASA 47 (1952). Effect size: M.
/// Tomczak, E. Tomczak, "The need to report effect size estimates revisited", Trends in Sport Sciences 1 (2014).
pub fn kruskal_wallis(groups: &[u32], values: &[f64]) -> Option<KruskalWallis> {
    let mut order: Vec<usize> = (0..groups.len().min(values.len())).filter(|&i| !values[i].is_nan()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let n = order.len() as f64;
    let mut of_group: std::collections::BTreeMap<u32, (f64, f64)> = std::collections::BTreeMap::new();
    let (mut below, mut tied) = (0usize, 0.0);
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let size = equal.len() as f64;
        let rank = below as f64 + (size + 1.0) / 2.0;
        for &i in equal {
            let (count, ranks) = of_group.entry(groups[i]).or_default();
            *count += 1.0;
            *ranks += rank;
        }
        below += equal.len();
        tied += size * size * size - size;
    }
    let untied = 1.0 - tied / (n * n * n - n);
    if of_group.len() < 2 || untied <= 0.0 {
        return None;
    }
    let middle = (n + 1.0) / 2.0;
    let spread: f64 = of_group.values().map(|(count, ranks)| count * (ranks / count - middle).powi(2)).sum();
    let h = 12.0 / (n * (n + 1.0)) * spread / untied;
    let degrees = of_group.len() as u64 - 1;
    let p = if h > 0.0 { gamma_ur(degrees as f64 / 2.0, h / 2.0) } else { 1.0 };
    Some(KruskalWallis { h, degrees, p, epsilon_squared: h / (n - 1.0), n: below as u64 })
}

/// p-values adjusted for testing all of them, in their order: those up to alpha reject with a family-wise error of at
/// most alpha, however the tests depend on each other.
///
/// With the p-values sorted, the i-th of m (from 1) becomes the largest of (m - j + 1) p_j for j up to i, at most 1. A
/// p-value that is no number stays so and does not count among the m.
///
/// # Source
/// S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).filter(|&i| !p_values[i].is_nan()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = p_values.to_vec();
    let mut least = 0.0f64;
    for (at, &i) in order.iter().enumerate() {
        least = least.max((order.len() - at) as f64 * p_values[i]).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn kruskal_wallis_by_hand() {
        // Ranks 1 2 3 against 4 5 6: mean ranks 2 and 5 about 3.5. H = 12 / 42 * (3 * 2.25 + 3 * 2.25) = 27 / 7.
        let found = kruskal_wallis(&[0, 0, 0, 7, 7, 7], &[1.0, 2.0, 2.5, 10.0, 11.0, 50.0]).unwrap();
        assert!(close(found.h, 27.0 / 7.0) && close(found.epsilon_squared, 27.0 / 35.0), "{found:?}");
        assert_eq!((found.degrees, found.n), (1, 6));
        // The same ranks in both groups.
        let none = kruskal_wallis(&[0, 1, 0, 1], &[1.0, 1.0, 2.0, 2.0]).unwrap();
        assert_eq!((none.h, none.p), (0.0, 1.0));
        assert_eq!(kruskal_wallis(&[0, 1], &[3.0, 3.0]), None, "all values are equal");
        assert_eq!(kruskal_wallis(&[4, 4], &[1.0, 2.0]), None, "one group");
        assert_eq!(kruskal_wallis(&[0, 1, 1], &[1.0, f64::NAN, f64::NAN]), None, "a group without a number is none");
        assert_eq!(kruskal_wallis(&[], &[]), None);
    }

    /// `scipy.stats.kruskal`, SciPy 1.17.1.
    #[test]
    fn kruskal_wallis_as_scipy() {
        let groups: Vec<u32> = (0..20).map(|i| i % 3).collect();
        let values: Vec<f64> = (0..20u32).map(|i| f64::from((i * 7) % 11 + 2 * (i % 3))).collect();
        let found = kruskal_wallis(&groups, &values).unwrap();
        assert!(close(found.h, 0.6668748868368533) && close(found.p, 0.7164567163211479), "{found:?}");
        let groups: Vec<u32> = (0..12).map(|i| i % 2).collect();
        let values: Vec<f64> = (0..12u32).map(|i| f64::from(i * i % 13)).collect();
        let found = kruskal_wallis(&groups, &values).unwrap();
        assert!(close(found.h, 0.006524317912224573) && close(found.p, 0.9356222819645114), "{found:?}");
    }

    #[test]
    fn holm_by_hand() {
        // Sorted 0.01 0.02 0.03 0.04, times 4 3 2 1: 0.04, 0.06, 0.06, and 0.04 raised to 0.06.
        let found = holm(&[0.04, 0.01, 0.03, 0.02]);
        assert!(found.iter().zip([0.06, 0.04, 0.06, 0.06]).all(|(a, b)| close(*a, b)), "{found:?}");
        // Two tests count: 0.4 times 2, then the larger of 0.8 and 0.9.
        let found = holm(&[f64::NAN, 0.9, 0.4]);
        assert!(found[0].is_nan() && close(found[1], 0.9) && close(found[2], 0.8), "{found:?}");
        assert_eq!(holm(&[0.7, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
