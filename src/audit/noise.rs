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
//! They are estimated from the observed orders, so that no label has to be known to be right. The rate is what the surest
//! evidence is contradicted by. Where no evidence is sure, rate and slope can hardly be told apart: a steeper slope with
//! more wrong labels explains the orders as well. There the largest likelihood is not a good estimate, and what is known
//! of the slope beforehand counts: the evidence is meant as log-odds, so that its slope is near 1. The estimates are means
//! of the posterior under that prior (`posterior`). That prior may be wrong: log-odds of few pairs are often too sure, and
//! the rate and the probabilities are then too high. A wide interval of the rate tells of it ([`NoiseModel::uncertain`]).
//!
//! Source: the noise model of Natarajan et al. 2013, "Learning with noisy labels" (class-independent rates), with the
//! slope as in Platt scaling (Platt 1999).

pub(super) mod posterior;

use std::collections::BTreeMap;

use crate::seed::Seed;

/// Rows whose weight the common rate has in the rate of a source.
const PRIOR_ROWS: f64 = 50.0;
/// Largest rate: beyond it the labels say the opposite of what is preferred.
const LARGEST_RATE: f64 = 0.499;
const LEAST_RATE: f64 = 1e-6;
/// Most steps of the search for the rate of a source, and the change below which it ends.
const STEPS: usize = 40;
const TOLERANCE: f64 = 1e-7;

/// Width of the rate's interval above which it says little: slope and rate then follow from the prior as much as from the
/// labels. With planted flips of 20 % the interval is 0.24 to 0.42 wide for 340 to 2,700 pairs, of which probabilities are
/// too high in most cases, and 0.04 to 0.05 for 10,800 pairs.
const WIDE: f64 = 0.2;

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

/// Slope and rates, given the evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseModel {
    /// Factor a of the log-odds: the exponential of the posterior mean of its logarithm.
    pub slope: f64,
    /// Rate of wrong labels over all pairs: its posterior mean.
    pub rate: f64,
    /// Its 95 % interval: of the posteriors of bootstrap resamples of the prompts, together.
    pub interval: (f64, f64),
    /// Rates by source; each is drawn towards the common rate with the weight of 50 pairs.
    pub by_source: BTreeMap<String, f64>,
}

impl NoiseModel {
    /// The estimates from these pairs. Without evidence the rate is 0.
    pub fn fit(evidence: &[Evidence], seed: Seed) -> NoiseModel {
        let posterior::Estimate { slope, rate, interval } = posterior::estimate(evidence, seed);
        let mut sources: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        evidence.iter().for_each(|e| sources.entry(&e.source).or_default().push(e.log_odds));
        let by_source =
            sources.into_iter().map(|(source, log_odds)| (source.to_string(), rate_of_source(&log_odds, slope, rate)));
        NoiseModel { slope, rate, interval, by_source: by_source.collect() }
    }

    /// Whether the interval of the rate is so wide that rate and probabilities follow from the prior as much as from the
    /// labels: the probabilities may then be too high.
    pub fn uncertain(&self) -> bool {
        self.interval.1 - self.interval.0 > WIDE
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

/// The rate of a source for a slope, drawn towards the common one: the largest likelihood of its labels and of
/// [`PRIOR_ROWS`] labels of which that share is wrong. Its logarithm is concave in the rate, so that the derivative has
/// one root.
fn rate_of_source(log_odds: &[f64], slope: f64, common: f64) -> f64 {
    let each: Vec<f64> = log_odds.iter().map(|m| sigmoid(slope * m)).collect();
    let derivatives = |e: f64| {
        let (of, others) = (common / e, (1.0 - common) / (1.0 - e));
        let start = (PRIOR_ROWS * (of - others), -PRIOR_ROWS * (of / e + others / (1.0 - e)));
        each.iter().fold(start, |(first, second), p| {
            let x = (1.0 - 2.0 * p) / ((1.0 - e) * p + e * (1.0 - p));
            (first + x, second - x * x)
        })
    };
    // Newton's steps, kept within the bounds that the sign of the derivative has shown.
    let (mut low, mut high) = (LEAST_RATE, LARGEST_RATE);
    let mut rate = common.clamp(low, high);
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
            // The higher the rate, the less the labels say of the slope, and the nearer it stays to 1.
            assert!((found.slope / 2.0).ln().abs() < 0.5, "{rate}: {found:?}");
            let (low, high) = found.interval;
            assert!(low <= rate && rate <= high && high - low < 0.13, "{rate}: {found:?}");
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
        assert!(none.uncertain());
    }

    #[test]
    fn few_pairs_that_models_tell_little_of_are_told_from_many() {
        // Half as sure as they say they are, as models of few pairs are.
        let wide = NoiseModel::fit(&planted(900, 0.5, &[("s", 0.2)]).0, Seed(1));
        assert!(wide.uncertain(), "{wide:?}");
        let narrow = NoiseModel::fit(&planted(10_000, 1.5, &[("s", 0.2)]).0, Seed(1));
        assert!(!narrow.uncertain(), "{narrow:?}");
    }

    #[test]
    fn the_interval_is_a_function_of_the_seed() {
        let (evidence, _) = planted(500, 1.0, &[("s", 0.2)]);
        assert_eq!(NoiseModel::fit(&evidence, Seed(1)), NoiseModel::fit(&evidence, Seed(1)));
        assert_ne!(NoiseModel::fit(&evidence, Seed(1)).interval, NoiseModel::fit(&evidence, Seed(2)).interval);
    }
}
