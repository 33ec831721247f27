//! Ranks training pairs by the evidence that their label is wrong.
//!
//! 1. [`signals`]: what models that were trained without a pair, the audited run and the data say of it.
//! 2. `evidence`: log-odds and margin over the epochs of the models that were trained without the pair, in one number.
//! 3. [`noise`]: how many labels are wrong, and a probability for each, without a label known to be right. It is calibrated
//!    as far as the labels tell the rate: an interval of it that is wide says that they do not.
//!    It is computed from the models that were trained without the pair alone. Whoever has trained on a label agrees
//!    with it more than it deserves, by an amount that is known only where it is known which labels are wrong; such
//!    signals (margin of the run, area under the margin) are shown beside the probability and named as reasons.
//! 4. [`rank`]: the table, with reasons in words.
//! 5. [`verdicts`]: a person's decisions, which stand above the probability.

mod evidence;
pub mod noise;
pub mod reasons;
pub mod signals;
pub mod verdicts;

use std::collections::HashMap;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::analysis::{auroc, average_precision, expected_auroc, precision_at};
use crate::error::Result;
use crate::objective::hoelder_suspects;
use crate::schema::{audit, col, posterior};
use crate::seed::Seed;
use noise::{Evidence, NoiseModel, sigmoid};
use signals::PairSignals;

/// Hoelder-DPO's gamma in the estimate of the noise rate: its paper's default.
const HOELDER_GAMMA: f64 = 2.0;

/// A pair with what was concluded of it.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditedPair {
    /// What is known of it.
    pub signals: PairSignals,
    /// What the models that were trained without it say of its label, in one number: log-odds and margin over the
    /// epochs.
    pub evidence: f64,
    /// Probability that its observed label is wrong; too high where the rate is [uncertain](NoiseModel::uncertain).
    pub p_wrong: f64,
    /// 1 for the pair whose label is most likely wrong.
    pub rank: u32,
    /// Share of the other held-out pairs of its code whose labels the models contradict, mean over the repeats.
    pub code_contradicted: f64,
    /// RE-PO's probability that the label is right, with one less the estimated rate as its share of right labels.
    pub clean_probability: f64,
    /// Whether Hoelder-DPO's estimate counts it among the wrong ones.
    pub suspect: bool,
    /// Why, in words.
    pub reasons: Vec<String>,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// In the order of the training pairs.
    pub pairs: Vec<AuditedPair>,
    /// Rates of wrong labels.
    pub noise: NoiseModel,
    /// Share that the margin over the epochs has in the evidence; none where it is not known.
    pub epochs_share: Option<f64>,
    /// Hoelder-DPO's estimate of the rate.
    pub hoelder_rate: f64,
}

/// How well an audit finds flips that are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Pairs with a flipped label.
    pub flipped: u64,
    /// Area under the ROC curve of `p_wrong`.
    pub auroc: f64,
    /// Share of the pairs whose evidence is for the true label.
    pub accuracy: f64,
    /// AUROC that such an accuracy lets expect: [`expected_auroc`].
    pub expected_auroc: f64,
    /// Average precision.
    pub average_precision: f64,
    /// Share of flipped labels among as many of the highest ranks as labels were flipped.
    pub precision_at_flipped: f64,
    /// Mean of `p_wrong` minus the share of flipped labels, absolute, over ten bins of equal size.
    pub calibration_error: f64,
}

/// Concludes from what is known of the training pairs.
pub fn rank(signals: Vec<PairSignals>, seed: Seed) -> Audit {
    let (combined, epochs_share) = evidence::combined(&signals);
    let evidence: Vec<Evidence> = signals
        .iter()
        .zip(&combined)
        .map(|(s, &log_odds)| Evidence { log_odds, source: s.source.clone(), prompt_id: s.prompt_id.clone() })
        .collect();
    let noise = NoiseModel::fit(&evidence, seed);
    let p_wrong: Vec<f64> = evidence.iter().map(|e| noise.p_wrong(e)).collect();
    let mut order: Vec<usize> = (0..signals.len()).collect();
    // Ties in the order of the ids, which does not depend on the order of the rows.
    order.sort_by(|&a, &b| p_wrong[b].total_cmp(&p_wrong[a]).then_with(|| signals[a].id.cmp(&signals[b].id)));
    let mut ranks = vec![0; signals.len()];
    (1..).zip(&order).for_each(|(rank, &i)| ranks[i] = rank);

    let margins: Vec<f64> = signals.iter().map(|s| s.cross_margin).collect();
    let (hoelder_rate, suspects) = hoelder_suspects(&margins, HOELDER_GAMMA).unwrap_or_default();
    let contradicted = contradicted(&signals);
    let words = reasons::Reasons::of(&signals, &noise);
    let pairs = signals
        .into_iter()
        .enumerate()
        .map(|(i, signals)| {
            let (right, clean) = (sigmoid(signals.log_odds), 1.0 - noise.rate);
            AuditedPair {
                evidence: combined[i],
                p_wrong: p_wrong[i],
                rank: ranks[i],
                code_contradicted: contradicted[i],
                clean_probability: clean * right / (clean * right + noise.rate * (1.0 - right)),
                suspect: suspects[i],
                reasons: words.of_pair(&signals, contradicted[i]),
                signals,
            }
        })
        .collect();
    Audit { pairs, noise, epochs_share, hoelder_rate }
}

/// For each pair, the share of the other pairs of its code whose labels are contradicted; 0 where it is alone.
fn contradicted(signals: &[PairSignals]) -> Vec<f64> {
    let mut codes: HashMap<(usize, u32), (f64, f64)> = HashMap::new();
    let against = |pair: &PairSignals| f64::from(u8::from(pair.log_odds < 0.0));
    for pair in signals {
        for code in &pair.codes {
            let (n, sum) = codes.entry(*code).or_default();
            (*n, *sum) = (*n + 1.0, *sum + against(pair));
        }
    }
    let of = |pair: &PairSignals| -> f64 {
        let shares = pair.codes.iter().map(|code| {
            let (n, sum) = codes[code];
            if n > 1.0 { (sum - against(pair)) / (n - 1.0) } else { 0.0 }
        });
        shares.sum::<f64>() / pair.codes.len().max(1) as f64
    };
    signals.iter().map(of).collect()
}

impl Audit {
    /// `audit.parquet`: one row for each training pair, in the order of the pairs.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn frame(&self) -> Result<DataFrame> {
        let text = |name: &str, get: &dyn Fn(&AuditedPair) -> String| {
            Column::new(name.into(), self.pairs.iter().map(get).collect::<Vec<String>>())
        };
        let number = |name: &str, get: &dyn Fn(&AuditedPair) -> f64| {
            Column::new(name.into(), self.pairs.iter().map(get).collect::<Vec<f64>>())
        };
        let maybe = |name: &str, get: &dyn Fn(&AuditedPair) -> Option<f64>| {
            Column::new(name.into(), self.pairs.iter().map(get).collect::<Vec<Option<f64>>>())
        };
        let flag = |name: &str, get: &dyn Fn(&AuditedPair) -> bool| {
            Column::new(name.into(), self.pairs.iter().map(get).collect::<Vec<bool>>())
        };
        let columns = vec![
            text(col::ID, &|p| p.signals.id.clone()),
            text(col::PROMPT_ID, &|p| p.signals.prompt_id.clone()),
            text(col::SOURCE, &|p| p.signals.source.clone()),
            flag(col::FLIPPED, &|p| p.signals.flipped),
            number(audit::P_WRONG, &|p| p.p_wrong),
            Column::new(audit::RANK.into(), self.pairs.iter().map(|p| p.rank).collect::<Vec<u32>>()),
            text(audit::REASONS, &|p| p.reasons.join("; ")),
            number(audit::EVIDENCE, &|p| p.evidence),
            number(audit::LOG_ODDS, &|p| p.signals.log_odds),
            number(audit::CROSS_MARGIN, &|p| p.signals.cross_margin),
            maybe(audit::CROSS_AREA_UNDER_MARGIN, &|p| p.signals.cross_area),
            number(audit::CROSS_KL, &|p| p.signals.cross_kl),
            number(audit::CODE_CONTRADICTED, &|p| p.code_contradicted),
            number(posterior::CLEAN_PROBABILITY, &|p| p.clean_probability),
            flag(posterior::SUSPECT, &|p| p.suspect),
            maybe(audit::RUN_MARGIN, &|p| p.signals.margin),
            maybe(audit::RUN_KL, &|p| p.signals.kl),
            maybe(audit::AREA_UNDER_MARGIN, &|p| p.signals.area_under_margin),
            maybe(audit::REFERENCE_MARGIN, &|p| p.signals.reference_margin),
            maybe(audit::SCORE_MARGIN, &|p| p.signals.score_margin),
        ];
        Ok(DataFrame::new(self.pairs.len(), columns)?)
    }

    /// How well the flips are found that `prepare` made; none where it made none.
    pub fn detection(&self) -> Option<Detection> {
        let labels: Vec<bool> = self.pairs.iter().map(|p| p.signals.flipped).collect();
        let flipped = labels.iter().filter(|l| **l).count();
        if flipped == 0 || flipped == labels.len() {
            return None;
        }
        let p_wrong: Vec<f64> = self.pairs.iter().map(|p| p.p_wrong).collect();
        let right = self.pairs.iter().filter(|p| (p.evidence > 0.0) != p.signals.flipped).count();
        let accuracy = right as f64 / labels.len() as f64;
        Some(Detection {
            flipped: flipped as u64,
            auroc: auroc(&p_wrong, &labels),
            accuracy,
            expected_auroc: expected_auroc(accuracy),
            average_precision: average_precision(&p_wrong, &labels),
            precision_at_flipped: precision_at(&p_wrong, &labels, flipped),
            calibration_error: calibration_error(&p_wrong, &labels),
        })
    }
}

/// Expected calibration error over ten bins of equal size.
///
/// # Source
/// Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning", with bins of equal mass.
fn calibration_error(p: &[f64], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let gap = |bin: &[usize]| {
        let told: f64 = bin.iter().map(|&i| p[i]).sum();
        (told - bin.iter().filter(|&&i| labels[i]).count() as f64).abs()
    };
    order.chunks(p.len().div_ceil(10).max(1)).map(gap).sum::<f64>() / p.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: &str, log_odds: f64, code: u32, flipped: bool) -> PairSignals {
        PairSignals {
            id: id.into(),
            prompt_id: id.into(),
            source: "s".into(),
            log_odds,
            cross_margin: log_odds,
            codes: vec![(1, code)],
            flipped,
            ..PairSignals::default()
        }
    }

    #[test]
    fn the_most_contradicted_pair_comes_first() {
        let signals = vec![pair("a", 2.0, 0, false), pair("b", -3.0, 1, true), pair("c", 1.0, 1, false)];
        let audit = rank(signals, Seed(1));
        assert_eq!(audit.pairs.iter().map(|p| p.rank).collect::<Vec<_>>(), [3, 1, 2]);
        // Of the other pair with code 1, b is contradicted and c is not; a is alone with its code.
        assert_eq!(audit.pairs.iter().map(|p| p.code_contradicted).collect::<Vec<_>>(), [0.0, 0.0, 1.0]);
        let frame = audit.frame().unwrap();
        assert_eq!(frame.height(), 3);
        let found = audit.detection().unwrap();
        assert_eq!((found.flipped, found.auroc, found.accuracy, found.precision_at_flipped), (1, 1.0, 1.0, 1.0));
    }

    #[test]
    fn equal_evidence_is_ordered_by_id() {
        let ranks = |ids: [&str; 3]| -> HashMap<String, u32> {
            let audit = rank(ids.map(|id| pair(id, 0.0, 0, false)).to_vec(), Seed(1));
            audit.pairs.into_iter().map(|p| (p.signals.id, p.rank)).collect()
        };
        assert_eq!(ranks(["a", "b", "c"]), ranks(["c", "a", "b"]));
    }

    #[test]
    fn calibration_by_hand() {
        // Two bins' worth of ten: told 0.1 for five clean, 0.9 for five of which four are wrong.
        let p: Vec<f64> = (0..10).map(|i| if i < 5 { 0.1 } else { 0.9 }).collect();
        let labels: Vec<bool> = (0..10).map(|i| i > 5).collect();
        // Bins of one row: five gaps of 0.1, one of 0.9, four of 0.1.
        assert!((calibration_error(&p, &labels) - 0.18).abs() < 1e-12);
    }
}
