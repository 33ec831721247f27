//! Paired differences of two methods over the same examples, of which some belong together.

use std::collections::HashMap;
use std::hash::Hash;

use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::intervals::{Interval, TAIL, quantile};
use crate::seed::Seed;

/// A cluster whose differences sum to within this of 0 does not differ: fractions that cancel are rarely 0 to the last bit.
const ZERO: f64 = 1e-12;
/// Share of the sum of all absolute values by which two sums over the same clusters may differ and still count as equal.
const ROUNDING: f64 = 1e-10;

/// The paired differences of the examples of one cluster. Examples of a cluster may depend on each other, as the pairs of a
/// prompt do; those of two clusters do not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterDifference {
    /// Sum of the differences.
    pub sum: f64,
    /// Examples.
    pub n: usize,
}

/// Gathers differences by their clusters, in the order in which these first appear.
pub fn by_cluster<K: Eq + Hash>(differences: impl IntoIterator<Item = (K, f64)>) -> Vec<ClusterDifference> {
    let (mut places, mut clusters) = (HashMap::new(), Vec::new());
    for (cluster, difference) in differences {
        let place = *places.entry(cluster).or_insert(clusters.len());
        if place == clusters.len() {
            clusters.push(ClusterDifference { sum: 0.0, n: 0 });
        }
        clusters[place].sum += difference;
        clusters[place].n += 1;
    }
    clusters
}

/// The mean of paired differences, and whether it differs from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// The mean over the examples with its 95 % percentile bootstrap interval.
    pub interval: Interval,
    /// Two-sided p-value of a mean of 0.
    pub p: f64,
}

/// Mean of the paired differences of two methods over the same examples, with a 95 % percentile bootstrap interval and
/// the p-value of a sign-flip test.
///
/// Interval: clusters are drawn with replacement `resamples` times, each with all of its examples and both methods'
/// outcomes of them, so that what makes an example hard for both cancels. A resample's mean is the sum of its differences
/// by the number of its examples. The ends are NaN with fewer than two clusters.
///
/// p-value: if the methods do not differ, each cluster's summed difference is as likely with the other sign. Of m
/// assignments of signs to the clusters, b give an absolute sum of at least the observed one, and p = (1 + b) / (1 + m) with
/// m = `resamples`. Where all 2^d assignments to the d clusters with a difference are at most that many, they are
/// enumerated, and p is the share of them: with differences of 1 and -1, one a cluster, that of the exact sign test. It is
/// never 0.
///
/// Resample r and assignment r are functions of (seed, r) and of the order of the clusters: the same for any number of
/// threads. Interval and p are NaN without examples or resamples, and where a difference is no number.
///
/// # Source
/// Interval: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; of clusters: C. A. Field,
/// A. H. Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007). Signs: R. A. Fisher,
/// "The Design of Experiments" (1935), section 21; the added ones: B. Phipson, G. K. Smyth, "Permutation P-values should
/// never be zero", Statistical Applications in Genetics and Molecular Biology 9 (2010).
pub fn paired_difference(clusters: &[ClusterDifference], resamples: usize, seed: Seed) -> PairedDifference {
    let (sum, n) = clusters.iter().fold((0.0, 0), |(sum, n), cluster| (sum + cluster.sum, n + cluster.n));
    if n == 0 || resamples == 0 || clusters.len() > u32::MAX as usize || !sum.is_finite() {
        return PairedDifference { interval: Interval::unknown(n), p: f64::NAN };
    }
    let interval = match clusters.len() {
        1 => Interval { estimate: sum / n as f64, ..Interval::unknown(n) },
        _ => {
            let means = resampled_means(clusters, resamples, seed);
            let (low, high) = (quantile(&means, TAIL), quantile(&means, 1.0 - TAIL));
            Interval { estimate: sum / n as f64, low, high, n }
        }
    };
    PairedDifference { interval, p: sign_flip_p(clusters, resamples, seed) }
}

/// The means of resampled clusters, sorted.
fn resampled_means(clusters: &[ClusterDifference], resamples: usize, seed: Seed) -> Vec<f64> {
    let mean = |r: usize| {
        let mut rng = seed.rng("bootstrap", &r.to_string());
        let (mut sum, mut n) = (0.0, 0);
        for _ in 0..clusters.len() {
            let drawn = clusters[rng.random_range(0..clusters.len() as u32) as usize];
            sum += drawn.sum;
            n += drawn.n;
        }
        sum / n as f64
    };
    let mut means: Vec<f64> = (0..resamples).into_par_iter().map(mean).collect();
    means.sort_by(f64::total_cmp);
    means
}

/// The p-value of [`paired_difference`].
fn sign_flip_p(clusters: &[ClusterDifference], flips: usize, seed: Seed) -> f64 {
    let sums: Vec<f64> = clusters.iter().map(|cluster| cluster.sum).filter(|sum| sum.abs() > ZERO).collect();
    let (observed, absolute) = sums.iter().fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()));
    let least = f64::abs(observed) - ROUNDING * absolute;
    let all = 1usize.checked_shl(sums.len() as u32).filter(|all| *all <= flips);
    if let Some(all) = all {
        // The last sign stays: to turn all of them changes no absolute sum.
        let half = (all / 2).max(1);
        let reached = (0..half).filter(|signs| signed(&sums, *signs as u64).abs() >= least).count();
        return reached as f64 / half as f64;
    }
    let reaches = |r: &usize| {
        let mut rng = seed.rng("sign flips", &r.to_string());
        let sum: f64 = sums.chunks(u64::BITS as usize).map(|part| signed(part, rng.random())).sum();
        sum.abs() >= least
    };
    let reached = (0..flips).into_par_iter().filter(reaches).count();
    (reached + 1) as f64 / (flips + 1) as f64
}

/// The sum of at most 64 numbers, each with the sign that its bit says.
fn signed(sums: &[f64], signs: u64) -> f64 {
    sums.iter().enumerate().map(|(i, x)| if signs >> i & 1 == 1 { -x } else { *x }).sum()
}

#[cfg(test)]
mod tests;
