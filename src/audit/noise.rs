//! How many labels are wrong, and how likely each is, from evidence about each pair that was not fitted to it.
//!
//! Evidence is the log-odds m of the observed order by models that were trained without the pair. It may be too sure or
//! too little: its slope a is learned. A label is wrong with a rate e of its source, independent of the pair:
//!
//! ```text
//! P(observed order | m) = (1 - e) sigmoid(a m) + e sigmoid(-a m)
//! P(wrong | observed order, m) = e sigmoid(-a m) / P(observed order | m)
//! ```
//!
//! Slope and rates maximise the likelihood of the observed orders, so that no label has to be known to be right. The
//! rate is what the surest evidence is contradicted by; where no evidence is sure, rate and slope can hardly be
//! told apart, and the interval is wide.
//!
//! Source: the noise model of Natarajan et al. 2013, "Learning with noisy labels" (class-independent rates), with the
//! slope as in Platt scaling (Platt 1999).

use std::collections::BTreeMap;

use rand::Rng;
use rayon::prelude::*;

use crate::seed::Seed;

/// Rows whose weight the common rate has in the rate of a source.
const PRIOR_ROWS: f64 = 50.0;
/// Largest rate: beyond it the labels say the opposite of what is preferred.
const LARGEST_RATE: f64 = 0.499;
const LEAST_RATE: f64 = 1e-6;
/// Slopes of the grid, as logarithms.
const SLOPES: (f64, f64) = (-5.0, 4.0);
/// How far the slope is looked for around a first one, and how exactly; in its logarithm.
const REACH: f64 = 1.0;
const PRECISION: f64 = 0.005;
/// Most steps of the search for a rate, and the change below which it ends.
const STEPS: usize = 40;
const TOLERANCE: f64 = 1e-7;
/// Resamples of the prompts for the interval of the rate.
const RESAMPLES: usize = 200;

/// What is known of one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Log-odds of the observed order, nats.
    pub log_odds: f64,
    /// Source tag.
    pub source: String,
    /// Prompt: pairs of one prompt are resampled together.
    pub prompt_id: String,
}

/// Slope and rates that fit the evidence best.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseModel {
    /// Factor a of the log-odds.
    pub slope: f64,
    /// Rate of wrong labels over all pairs.
    pub rate: f64,
    /// Its 95 % bootstrap interval over prompts.
    pub interval: (f64, f64),
    /// Rates by source; each is drawn towards the common rate with the weight of 50 pairs.
    pub by_source: BTreeMap<String, f64>,
}

impl NoiseModel {
    /// The model of largest likelihood. Without evidence the rate is 0.
    pub fn fit(evidence: &[Evidence], seed: Seed) -> NoiseModel {
        let weights = vec![1.0; evidence.len()];
        let log_odds: Vec<f64> = evidence.iter().map(|e| e.log_odds).collect();
        let (slope, rate) = pooled(&log_odds, &weights);
        let mut sources: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        evidence.iter().for_each(|e| sources.entry(&e.source).or_default().push(e.log_odds));
        let by_source = sources.into_iter().map(|(source, log_odds)| {
            let ones = vec![1.0; log_odds.len()];
            (source.to_string(), best_rate(&log_odds, &ones, slope, Some(rate)))
        });
        NoiseModel {
            slope,
            rate,
            interval: interval(evidence, &log_odds, (slope, rate), seed),
            by_source: by_source.collect(),
        }
    }

    /// Probability that the observed order is wrong.
    pub fn p_wrong(&self, evidence: &Evidence) -> f64 {
        let e = self.by_source.get(&evidence.source).copied().unwrap_or(self.rate);
        let x = self.slope * evidence.log_odds;
        let (right, wrong) = ((1.0 - e) * sigmoid(x), e * sigmoid(-x));
        // Both underflow only where x is not finite.
        if right + wrong > 0.0 { wrong / (right + wrong) } else { e }
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Mean log-likelihood of the observed orders.
fn likelihood(log_odds: &[f64], weights: &[f64], slope: f64, rate: f64) -> f64 {
    let each = log_odds.iter().zip(weights).map(|(m, w)| {
        let p = sigmoid(slope * m);
        w * ((1.0 - rate) * p + rate * (1.0 - p)).max(f64::MIN_POSITIVE).ln()
    });
    each.sum()
}

/// The rate of largest likelihood for a slope. The logarithm of the likelihood is concave in it, so that its
/// derivative has one root.
/// `towards` adds the likelihood of [`PRIOR_ROWS`] labels of which that share is wrong.
fn best_rate(log_odds: &[f64], weights: &[f64], slope: f64, towards: Option<f64>) -> f64 {
    let each: Vec<f64> = log_odds.iter().map(|m| sigmoid(slope * m)).collect();
    let derivatives = |e: f64| {
        let (mut first, mut second) = match towards {
            None => (0.0, -f64::MIN_POSITIVE),
            Some(t) => {
                let (of, others) = (t / e, (1.0 - t) / (1.0 - e));
                (PRIOR_ROWS * (of - others), -PRIOR_ROWS * (of / e + others / (1.0 - e)))
            }
        };
        for (p, w) in each.iter().zip(weights) {
            let x = (1.0 - 2.0 * p) / ((1.0 - e) * p + e * (1.0 - p));
            (first, second) = (first + w * x, second - w * x * x);
        }
        (first, second)
    };
    // Newton's steps, kept within the bounds that the sign of the derivative has shown.
    let (mut low, mut high) = (LEAST_RATE, LARGEST_RATE);
    let mut rate = towards.unwrap_or(0.2).clamp(low, high);
    for _ in 0..STEPS {
        let (first, second) = derivatives(rate);
        if first > 0.0 {
            low = rate
        } else {
            high = rate
        }
        let next = rate - first / second;
        let next = if low < next && next < high { next } else { 0.5 * (low + high) };
        let moved = (next - rate).abs();
        rate = next;
        if moved < TOLERANCE {
            break;
        }
    }
    rate
}

/// Slope and common rate: the best of a grid over the logarithm of the slope, then as [`near`].
fn pooled(log_odds: &[f64], weights: &[f64]) -> (f64, f64) {
    if log_odds.is_empty() {
        return (1.0, 0.0);
    }
    let grid = 18;
    let at = |i: usize| SLOPES.0 + (SLOPES.1 - SLOPES.0) * f64::from(i as u32) / f64::from(grid);
    let value = |i: &usize| profile(log_odds, weights, at(*i)).0;
    let values: Vec<f64> = (0..=grid as usize).collect::<Vec<_>>().par_iter().map(value).collect();
    let best = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or_default();
    near(log_odds, weights, at(best))
}

/// Log-likelihood, slope and rate at the logarithm of a slope, with the rate that is best for it.
fn profile(log_odds: &[f64], weights: &[f64], ln_slope: f64) -> (f64, f64, f64) {
    let slope = ln_slope.exp();
    let rate = best_rate(log_odds, weights, slope, None);
    (likelihood(log_odds, weights, slope, rate), slope, rate)
}

/// Slope and common rate by golden-section search around the logarithm of a slope.
fn near(log_odds: &[f64], weights: &[f64], ln_slope: f64) -> (f64, f64) {
    let golden = 0.5 * (5f64.sqrt() - 1.0);
    let (mut low, mut high) = (ln_slope - REACH, ln_slope + REACH);
    let at = |ln_slope: f64| profile(log_odds, weights, ln_slope).0;
    let (mut a, mut b) = (high - golden * (high - low), low + golden * (high - low));
    let (mut of_a, mut of_b) = (at(a), at(b));
    while high - low > PRECISION {
        if of_a > of_b {
            (high, b, of_b) = (b, a, of_a);
            a = high - golden * (high - low);
            of_a = at(a);
        } else {
            (low, a, of_a) = (a, b, of_b);
            b = low + golden * (high - low);
            of_b = at(b);
        }
    }
    let (_, slope, rate) = profile(log_odds, weights, 0.5 * (low + high));
    (slope, rate)
}

/// Percentile bootstrap interval of the rate: prompts are drawn with replacement, each with all of its pairs.
fn interval(evidence: &[Evidence], log_odds: &[f64], (slope, rate): (f64, f64), seed: Seed) -> (f64, f64) {
    let mut prompts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    evidence.iter().enumerate().for_each(|(i, e)| prompts.entry(&e.prompt_id).or_default().push(i));
    let prompts: Vec<Vec<usize>> = prompts.into_values().collect();
    if prompts.len() < 2 {
        return (0.0, LARGEST_RATE);
    }
    let mut rates: Vec<f64> = (0..RESAMPLES)
        .into_par_iter()
        .map(|draw| {
            let mut rng = seed.rng("noise rate", &draw.to_string());
            let mut weights = vec![0.0; evidence.len()];
            for _ in 0..prompts.len() {
                prompts[rng.random_range(0..prompts.len())].iter().for_each(|&i| weights[i] += 1.0);
            }
            near(log_odds, &weights, slope.ln()).1
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let at = |share: f64| rates[((rates.len() - 1) as f64 * share).round() as usize];
    (at(0.025).min(rate), at(0.975).max(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs whose clean order follows the log-odds times `truth`, with labels flipped at a rate.
    fn planted(n: usize, truth: f64, rates: &[(&str, f64)]) -> (Vec<Evidence>, Vec<bool>) {
        let seed = Seed(3);
        let each = (0..n).map(|i| {
            let key = i.to_string();
            let (source, rate) = rates[i % rates.len()];
            let strength = 6.0 * seed.unit("strength", &key) - 3.0;
            let clean = if seed.unit("clean", &key) < sigmoid(truth * strength) { strength } else { -strength };
            let flipped = seed.unit("flip", &key) < rate;
            let log_odds = if flipped { -clean } else { clean };
            (Evidence { log_odds, source: source.into(), prompt_id: key }, flipped)
        });
        each.unzip()
    }

    #[test]
    fn slope_and_rates_are_found() {
        for rate in [0.05, 0.2, 0.35] {
            let (evidence, _) = planted(8000, 2.0, &[("s", rate)]);
            let found = NoiseModel::fit(&evidence, Seed(1));
            assert!((found.rate - rate).abs() < 0.02, "{rate}: {found:?}");
            // The higher the rate, the less the labels say of the slope.
            assert!((found.slope / 2.0).ln().abs() < 0.4, "{rate}: {found:?}");
            let (low, high) = found.interval;
            assert!(low <= rate && rate <= high && high - low < 0.1, "{rate}: {found:?}");
        }
        let (evidence, _) = planted(8000, 2.0, &[("a", 0.05), ("b", 0.35)]);
        let found = NoiseModel::fit(&evidence, Seed(1));
        assert!((found.by_source["a"] - 0.05).abs() < 0.03 && (found.by_source["b"] - 0.35).abs() < 0.03, "{found:?}");
    }

    #[test]
    fn probabilities_are_calibrated() {
        let (evidence, flipped) = planted(10_000, 2.0, &[("s", 0.2)]);
        let model = NoiseModel::fit(&evidence, Seed(1));
        let p: Vec<f64> = evidence.iter().map(|e| model.p_wrong(e)).collect();
        for (low, high) in [(0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)] {
            let of: Vec<usize> = (0..p.len()).filter(|&i| low <= p[i] && p[i] < high).collect();
            let expected = of.iter().map(|&i| p[i]).sum::<f64>() / of.len() as f64;
            let wrong = of.iter().filter(|&&i| flipped[i]).count() as f64 / of.len() as f64;
            assert!(of.len() > 150 && (expected - wrong).abs() < 0.05, "{low}: {expected} and {wrong} of {}", of.len());
        }
    }

    #[test]
    fn bayes_by_hand_and_without_evidence() {
        let model = NoiseModel { slope: 1.0, rate: 0.2, interval: (0.1, 0.3), by_source: BTreeMap::new() };
        let of = |log_odds| Evidence { log_odds, source: "s".into(), prompt_id: String::new() };
        // At odds of 1 the label says nothing: the rate. At odds of 1 to 3 against it: 0.2 * 0.75 / (0.8 * 0.25 + 0.15).
        assert!((model.p_wrong(&of(0.0)) - 0.2).abs() < 1e-12);
        assert!((model.p_wrong(&of(-(3f64.ln()))) - 0.15 / 0.35).abs() < 1e-12);
        assert!((model.p_wrong(&of(-800.0)) - 1.0).abs() < 1e-12 && model.p_wrong(&of(800.0)) < 1e-12);
        let none = NoiseModel::fit(&[], Seed(1));
        assert_eq!((none.rate, none.interval), (0.0, (0.0, LARGEST_RATE)));
    }

    #[test]
    fn the_interval_is_a_function_of_the_seed() {
        let (evidence, _) = planted(500, 1.0, &[("s", 0.2)]);
        assert_eq!(NoiseModel::fit(&evidence, Seed(1)), NoiseModel::fit(&evidence, Seed(1)));
        assert_ne!(NoiseModel::fit(&evidence, Seed(1)).interval, NoiseModel::fit(&evidence, Seed(2)).interval);
    }
}
