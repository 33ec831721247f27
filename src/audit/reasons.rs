//! Why a label may be wrong, in words.

use std::collections::BTreeMap;

use super::noise::{NoiseModel, sigmoid};
use super::signals::PairSignals;

/// A source is named where its rate is so many times the common one.
const HIGH_RATE: f64 = 1.5;
/// A code is named where so many times the common share of its pairs is contradicted.
const HIGH_SHARE: f64 = 1.5;
/// Share of the pairs whose KL, or whose difference of scores, is far from the others'.
const TAIL: f64 = 0.05;

/// What a pair is compared with: the other training pairs.
#[derive(Debug)]
pub struct Reasons {
    /// Share of the pairs that are contradicted.
    contradicted: f64,
    /// KL that 95 % of the pairs do not exceed.
    high_kl: f64,
    /// Difference of scores that 5 % of the pairs do not exceed.
    small_score: f64,
    rate: f64,
    by_source: BTreeMap<String, f64>,
}

/// Value below which a share of the values lies; none without values.
fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(values[(last as f64 * share).floor() as usize])
}

impl Reasons {
    /// The comparison for these pairs.
    pub fn of(signals: &[PairSignals], noise: &NoiseModel) -> Reasons {
        let against = signals.iter().filter(|s| s.log_odds < 0.0).count() as f64;
        let scores = signals.iter().filter_map(|s| s.score_margin.map(f64::abs)).collect();
        Reasons {
            contradicted: against / signals.len().max(1) as f64,
            high_kl: quantile(signals.iter().map(|s| s.cross_kl).collect(), 1.0 - TAIL).unwrap_or(f64::INFINITY),
            small_score: quantile(scores, TAIL).unwrap_or(f64::NEG_INFINITY),
            rate: noise.rate,
            by_source: noise.by_source.clone(),
        }
    }

    /// The reasons that speak against the label of a pair, strongest first; empty where none does.
    pub fn of_pair(&self, pair: &PairSignals, code_contradicted: f64) -> Vec<String> {
        let mut words = Vec::new();
        if pair.log_odds < 0.0 {
            let sure = sigmoid(-pair.log_odds);
            words.push(format!("models trained without it prefer the rejected response ({:.0} %)", 100.0 * sure));
        }
        if let Some(margin) = pair.margin.filter(|margin| *margin < 0.0) {
            words.push(format!("the run, which trained on it, contradicts it too (margin {margin:.2})"));
        }
        if let Some(area) = pair.area_under_margin.filter(|area| *area < 0.0) {
            words.push(format!("models that train on it contradict it over their epochs (mean margin {area:.2})"));
        }
        if pair.cross_kl > self.high_kl {
            let kl = pair.cross_kl;
            words
                .push(format!("the label asks for another code than the prompt (KL {kl:.2} nats, of the highest 5 %)"));
        }
        if code_contradicted > HIGH_SHARE * self.contradicted {
            let (here, all) = (100.0 * code_contradicted, 100.0 * self.contradicted);
            words.push(format!("{here:.0} % of the labels in its code are contradicted ({all:.0} % in all)"));
        }
        if let Some(rate) = self.by_source.get(&pair.source).filter(|rate| **rate > HIGH_RATE * self.rate) {
            let (here, all) = (100.0 * rate, 100.0 * self.rate);
            words.push(format!("an estimated {here:.0} % of the labels of its source are wrong ({all:.0} % in all)"));
        }
        if let Some(margin) = pair.score_margin.filter(|margin| margin.abs() < self.small_score) {
            words.push(format!("its scores differ by {:.2} only", margin.abs()));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_words() {
        let clean: Vec<PairSignals> = (0..100)
            .map(|i| PairSignals {
                source: "fine".into(),
                log_odds: 2.0,
                cross_kl: f64::from(i) / 100.0,
                score_margin: Some(1.0 + f64::from(i)),
                margin: Some(1.0),
                area_under_margin: Some(0.5),
                ..PairSignals::default()
            })
            .collect();
        let noise = NoiseModel {
            slope: 1.0,
            rate: 0.1,
            interval: (0.05, 0.15),
            by_source: [("bad".to_string(), 0.3), ("fine".to_string(), 0.1)].into(),
        };
        let reasons = Reasons::of(&clean, &noise);
        assert!(reasons.of_pair(&clean[50], 0.0).is_empty());
        let wrong = PairSignals {
            source: "bad".into(),
            log_odds: -(3f64.ln()),
            cross_kl: 2.0,
            score_margin: Some(-0.5),
            margin: Some(-0.25),
            area_under_margin: Some(-0.75),
            ..PairSignals::default()
        };
        let words = reasons.of_pair(&wrong, 0.4);
        for (found, expected) in words.iter().zip([
            "(75 %)",
            "margin -0.25",
            "epochs (mean margin -0.75)",
            "KL 2.00",
            "40 %",
            "30 %",
            "0.50 only",
        ]) {
            assert!(found.contains(expected), "{found} without {expected}");
        }
        assert_eq!(words.len(), 7);
    }
}
