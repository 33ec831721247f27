//! The posterior of slope and common rate, on a grid.
//!
//! A priori the logarithm of the slope is normal around 0, and every rate is as likely as every other. The posterior is
//! computed on a grid that is drawn closer around it in a few rounds. The rate's interval is that of the posteriors of
//! bootstrap resamples of the prompts together: it holds where pairs of one prompt are alike, and where the noise
//! model fits the evidence only roughly, at the price of being wider than needed elsewhere.
//!
//! Source: Huggins and Miller 2019, "Robust inference and model criticism using bagged posteriors" (BayesBag).

use std::collections::BTreeMap;

use rand::Rng;
use rayon::prelude::*;

use super::{Evidence, LARGEST_RATE, LEAST_RATE, sigmoid};
use crate::seed::Seed;

/// Standard deviation of the logarithm of the slope a priori: within a factor of e = 2.7 of 1 with 95 %.
const SLOPE_DEVIATION: f64 = 0.5;
/// The slopes that are looked at, in deviations from 1 to either side.
const SLOPE_REACH: f64 = 5.0;
/// Cells of the grid in each direction.
const CELLS: usize = 40;
/// Times that the grid is drawn closer.
const ROUNDS: usize = 4;
/// Standard deviations of the posterior that the grid reaches to either side, and the least cells that it then has there.
/// A resample's posterior lies about as far from the posterior as that is wide.
const REACH: f64 = 8.0;
const LEAST_CELLS: f64 = 1.5;
/// Pairs with nearly the same log-odds count as the same: neighbours, as many as make so many groups of all, which differ by
/// at most this share of the root mean square of all.
const GROUPS: usize = 256;
const GROUP_WIDTH: f64 = 0.05;
/// Resamples of the prompts.
const RESAMPLES: usize = 200;

/// What is estimated of all pairs together.
pub(super) struct Estimate {
    pub slope: f64,
    pub rate: f64,
    pub interval: (f64, f64),
}

/// Equal steps over a range, by the middles of its cells.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn step(self) -> f64 {
        (self.high - self.low) / CELLS as f64
    }

    fn middle(self, cell: usize) -> f64 {
        self.low + self.step() * (cell as f64 + 0.5)
    }

    /// The range around what weights of the cells say, within `bounds`.
    fn around(self, weights: &[f64], bounds: Axis) -> Axis {
        let mean = self.mean(weights);
        let of_cell = |(cell, w): (usize, &f64)| w * (self.middle(cell) - mean).powi(2);
        let deviation = weights.iter().enumerate().map(of_cell).sum::<f64>().sqrt();
        let reach = (REACH * deviation).max(LEAST_CELLS * self.step());
        Axis { low: (mean - reach).max(bounds.low), high: (mean + reach).min(bounds.high) }
    }

    fn mean(self, weights: &[f64]) -> f64 {
        weights.iter().enumerate().map(|(cell, w)| w * self.middle(cell)).sum()
    }

    /// The value below which a share of the weights lies.
    fn quantile(self, weights: &[f64], share: f64) -> f64 {
        let mut below = 0.0;
        for (cell, w) in weights.iter().enumerate() {
            if below + w >= share && *w > 0.0 {
                return self.low + self.step() * (cell as f64 + (share - below) / w);
            }
            below += w;
        }
        self.high
    }
}

/// Log-likelihoods of an observed order, for each cell and each group of pairs.
struct Grid {
    ln_slopes: Axis,
    rates: Axis,
    /// (slope, rate, group), the last one fastest.
    logs: Vec<f64>,
}

impl Grid {
    fn new(ln_slopes: Axis, rates: Axis, log_odds: &[f64]) -> Grid {
        let of_slope = |cell: usize| {
            let slope = ln_slopes.middle(cell).exp();
            let right: Vec<f64> = log_odds.iter().map(|m| sigmoid(slope * m)).collect();
            let of_rate = |cell: usize| {
                let e = rates.middle(cell);
                let log = move |p: &f64| ((1.0 - e) * p + e * (1.0 - p)).max(f64::MIN_POSITIVE).ln();
                right.iter().map(log).collect::<Vec<f64>>()
            };
            (0..CELLS).flat_map(of_rate).collect::<Vec<f64>>()
        };
        let logs: Vec<Vec<f64>> = (0..CELLS).into_par_iter().map(of_slope).collect();
        Grid { ln_slopes, rates, logs: logs.concat() }
    }

    /// The posterior where the groups have so many pairs.
    fn posterior(&self, counts: &[f64]) -> Posterior {
        let prior = |slope: usize| -0.5 * (self.ln_slopes.middle(slope) / SLOPE_DEVIATION).powi(2);
        let likelihoods =
            self.logs.chunks(counts.len()).map(|of| of.iter().zip(counts).map(|(l, n)| n * l).sum::<f64>());
        let logs: Vec<f64> = likelihoods.enumerate().map(|(cell, l)| l + prior(cell / CELLS)).collect();
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logs.iter().map(|l| (l - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (mut slopes, mut rates) = (vec![0.0; CELLS], vec![0.0; CELLS]);
        for (cell, w) in weights.iter().enumerate() {
            slopes[cell / CELLS] += w / total;
            rates[cell % CELLS] += w / total;
        }
        let cell = self.ln_slopes.step() * self.rates.step();
        Posterior { slopes, rates, log_evidence: largest + (total * cell).ln() }
    }
}

/// Weights of the slopes and of the rates of a grid, and the logarithm of the probability of the labels under both priors,
/// but for a constant.
struct Posterior {
    slopes: Vec<f64>,
    rates: Vec<f64>,
    log_evidence: f64,
}

/// A grid that is drawn closely around the posterior of pairs in groups.
fn around(log_odds: &[f64], counts: &[f64]) -> Grid {
    let reach = SLOPE_REACH * SLOPE_DEVIATION;
    let bounds = (Axis { low: -reach, high: reach }, Axis { low: LEAST_RATE, high: LARGEST_RATE });
    let mut grid = Grid::new(bounds.0, bounds.1, log_odds);
    for _ in 0..ROUNDS {
        let found = grid.posterior(counts);
        let slopes = grid.ln_slopes.around(&found.slopes, bounds.0);
        grid = Grid::new(slopes, grid.rates.around(&found.rates, bounds.1), log_odds);
    }
    grid
}

/// Logarithm of the probability of the observed labels given these log-odds, over all slopes and rates a priori; but for
/// a constant.
pub(in crate::audit) fn log_evidence(log_odds: &[f64]) -> f64 {
    let (means, group_of) = groups(log_odds);
    let counts = counts(&group_of, means.len());
    around(&means, &counts).posterior(&counts).log_evidence
}

/// Slope and rate of these pairs, and the rate's interval. Without evidence the rate is 0.
pub(super) fn estimate(evidence: &[Evidence], seed: Seed) -> Estimate {
    if evidence.is_empty() {
        return Estimate { slope: 1.0, rate: 0.0, interval: (0.0, LARGEST_RATE) };
    }
    let each: Vec<f64> = evidence.iter().map(|e| e.log_odds).collect();
    let (log_odds, group_of) = groups(&each);
    let counts = counts(&group_of, log_odds.len());
    let grid = around(&log_odds, &counts);
    let Posterior { slopes, rates, .. } = grid.posterior(&counts);
    let bagged = bagged(evidence, &group_of, &grid, log_odds.len(), seed);
    let interval = match bagged {
        Some(weights) => (grid.rates.quantile(&weights, 0.025), grid.rates.quantile(&weights, 0.975)),
        None => (0.0, LARGEST_RATE),
    };
    Estimate { slope: grid.ln_slopes.mean(&slopes).exp(), rate: grid.rates.mean(&rates), interval }
}

/// Mean log-odds of groups of neighbours, and the group of each pair.
fn groups(log_odds: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let n = log_odds.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| log_odds[a].total_cmp(&log_odds[b]));
    let mut group_of = vec![0; n];
    let mut means = Vec::new();
    let most = n.div_ceil(GROUPS).max(1);
    let width = GROUP_WIDTH * (log_odds.iter().map(|m| m * m).sum::<f64>() / n.max(1) as f64).sqrt();
    let mut rest = order.as_slice();
    while let Some(&first) = rest.first() {
        let near = rest.partition_point(|&i| log_odds[i] <= log_odds[first] + width);
        let (group, others) = rest.split_at(near.clamp(1, most));
        rest = others;
        group.iter().for_each(|&i| group_of[i] = means.len());
        means.push(group.iter().map(|&i| log_odds[i]).sum::<f64>() / group.len() as f64);
    }
    (means, group_of)
}

/// Pairs of each group.
fn counts(group_of: &[usize], groups: usize) -> Vec<f64> {
    let mut counts = vec![0.0; groups];
    group_of.iter().for_each(|&group| counts[group] += 1.0);
    counts
}

/// The rate's posterior, mean over resamples of the prompts: each is drawn with all of its pairs. None where there is
/// one prompt alone.
fn bagged(evidence: &[Evidence], group_of: &[usize], grid: &Grid, groups: usize, seed: Seed) -> Option<Vec<f64>> {
    let mut prompts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    evidence.iter().zip(group_of).for_each(|(e, group)| prompts.entry(&e.prompt_id).or_default().push(*group));
    let prompts: Vec<Vec<usize>> = prompts.into_values().collect();
    if prompts.len() < 2 {
        return None;
    }
    let of_draw = |draw: usize| {
        let mut rng = seed.rng("noise rate", &draw.to_string());
        let mut counts = vec![0.0; groups];
        for _ in 0..prompts.len() {
            prompts[rng.random_range(0..prompts.len())].iter().for_each(|&group| counts[group] += 1.0);
        }
        grid.posterior(&counts).rates
    };
    let all: Vec<Vec<f64>> = (0..RESAMPLES).into_par_iter().map(of_draw).collect();
    let mean = |cell: usize| all.iter().map(|rates| rates[cell]).sum::<f64>() / RESAMPLES as f64;
    Some((0..CELLS).map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(log_odds: impl Iterator<Item = f64>) -> Vec<Evidence> {
        let each = |(i, log_odds): (usize, f64)| Evidence { log_odds, source: "s".into(), prompt_id: i.to_string() };
        log_odds.enumerate().map(each).collect()
    }

    #[test]
    fn where_all_evidence_is_certain_the_posterior_is_that_of_a_share() {
        // Log-odds of 1000 are certain at every slope that is looked at: the rate is then the share of the contradicted
        // labels, with a uniform prior over 0 to 0.499, and the slope stays at its prior mean. 30 of 100: Beta(31, 71),
        // whose mean is 31 / 102.
        let found = estimate(&pairs((0..100).map(|i| if i < 30 { -1e3 } else { 1e3 })), Seed(1));
        assert!((found.rate - 31.0 / 102.0).abs() < 2e-3, "{}", found.rate);
        assert!((found.slope - 1.0).abs() < 1e-6, "{}", found.slope);
        // Both the resamples and each posterior have a deviation of about 0.046: 0.064 together.
        let (low, high) = found.interval;
        assert!(
            (low - (0.304 - 1.96 * 0.064)).abs() < 0.02 && (high - (0.304 + 1.96 * 0.064)).abs() < 0.02,
            "{low} {high}"
        );
    }

    #[test]
    fn evidence_that_says_nothing_leaves_the_prior() {
        let found = estimate(&pairs((0..50).map(|_| 0.0)), Seed(1));
        assert!(
            (found.slope - 1.0).abs() < 1e-6 && (found.rate - 0.2495).abs() < 1e-3,
            "{} {}",
            found.slope,
            found.rate
        );
        assert!(found.interval.0 < 0.02 && found.interval.1 > 0.48);
    }

    #[test]
    fn many_pairs_are_as_exact_as_they_allow() {
        let found = estimate(&pairs((0..20_000).map(|i| if i % 10 == 0 { -1e3 } else { 1e3 })), Seed(1));
        assert!((found.rate - 2001.0 / 20_002.0).abs() < 1e-4, "{}", found.rate);
        let (low, high) = found.interval;
        // A deviation of sqrt(0.1 * 0.9 / 20000) for the resamples, and the same for each posterior.
        let wanted = 2.0 * 1.96 * (0.1f64 * 0.9 / 20_000.0 * 2.0).sqrt();
        assert!((high - low - wanted).abs() < 1e-3, "{low} {high} {wanted}");
    }

    #[test]
    fn what_is_alike_is_grouped() {
        let (means, of) = groups(&[3.0, 1.0, 2.0]);
        assert_eq!((means, of), (vec![1.0, 2.0, 3.0], vec![2, 0, 1]));
        let (means, of) = groups(&(0..1025).map(f64::from).collect::<Vec<_>>());
        // 1025 pairs in groups of five.
        assert_eq!((means.len(), means[0], of[1024]), (205, 2.0, 204));
        // What differs much is never one group, whatever its number.
        let (means, of) = groups(&(0..1000).map(|i| if i < 101 { -5.0 } else { 5.0 }).collect::<Vec<_>>());
        assert!(means.iter().all(|m| m.abs() == 5.0) && (0..1000).all(|i| (means[of[i]] < 0.0) == (i < 101)));
    }
}
