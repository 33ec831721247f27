//! Evaluation of the test split: means over its examples, and over those of each source.

use std::collections::BTreeMap;

use crate::batch::Split;
use crate::error::Result;
use crate::objective::ObjectiveConfig;
use crate::policy::{Example, Policy};
use crate::posteriors::{self, Part, Settings};
use crate::schema::metric;
use crate::train::{Metrics, Peers, TrainConfig, shares};

use super::latent;

/// Sources with metrics of their own, the largest first: a data set may have thousands.
const SOURCES: usize = 32;

/// Examines the test split and gives its [`metrics`]; none where it has no examples.
///
/// # Errors
/// As [`shares::examine`].
pub(super) fn evaluation(
    policy: &Policy<f32>,
    split: &Split,
    reference: &[(f64, f64)],
    keys: Option<&[u64]>,
    config: &TrainConfig,
    peers: &Peers,
) -> Result<Metrics> {
    let mut examples = shares::examine(policy, &split.rows, peers, |_| {})?;
    settled(policy, split, &mut examples, reference, keys, config)?;
    metrics(split, &examples, reference, &config.objective)
}

/// Gives examples the posteriors that come from their losses; the sum of their swap overlaps, where there are any.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub(super) fn settled(
    policy: &Policy<f32>,
    split: &Split,
    examples: &mut [Example],
    reference: &[(f64, f64)],
    keys: Option<&[u64]>,
    config: &TrainConfig,
) -> Result<Option<f64>> {
    let flips = latent::flip_rates(policy)?;
    let settings = Settings { objective: &config.objective, lpc: &config.lpc, flips: flips.as_deref() };
    let reference = config.objective.needs_reference().then_some(reference);
    posteriors::settle(&split.rows, examples, reference, keys, settings)
}

/// Means over the test split, against the clean labels, with the prior's z: `eval_rewards/accuracies`,
/// `eval_rewards/margins` (each also as `.../SOURCE`), `eval_logps/{chosen,rejected}`, `eval_lpc/kl`.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub(super) fn metrics(
    split: &Split,
    examples: &[Example],
    reference: &[(f64, f64)],
    objective: &ObjectiveConfig,
) -> Result<Metrics> {
    if examples.is_empty() {
        return Ok(Metrics::new());
    }
    let reference = objective.needs_reference().then_some(reference);
    let part = Part { split: &split.name, rows: &split.rows, examples, reference };
    let margins: Vec<f64> = posteriors::margins(&part, objective)?
        .into_iter()
        .zip(&split.rows)
        .map(|(m, row)| if row.flipped { -m.0 } else { m.0 })
        .collect();
    let mean = |get: fn(&Example) -> f64| examples.iter().map(get).sum::<f64>() / examples.len() as f64;
    let key = |name: &str| format!("eval_{name}");
    let (accuracy, margin) = accuracy_and_margin(&margins);
    let mut out = vec![
        (key(metric::REWARDS_ACCURACIES), accuracy),
        (key(metric::REWARDS_MARGINS), margin),
        (key(metric::LOGPS_CHOSEN), mean(|e| e.logps.0)),
        (key(metric::LOGPS_REJECTED), mean(|e| e.logps.1)),
        (key(metric::KL), mean(|e| e.kl)),
    ];
    let mut sources: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (row, margin) in split.rows.iter().zip(&margins) {
        sources.entry(&row.source).or_default().push(*margin);
    }
    // One source is the whole.
    if sources.len() > 1 {
        let mut sources: Vec<(&str, Vec<f64>)> = sources.into_iter().collect();
        sources.sort_by_key(|(_, margins)| std::cmp::Reverse(margins.len()));
        for (source, margins) in sources.iter().take(SOURCES) {
            let (accuracy, margin) = accuracy_and_margin(margins);
            out.push((format!("eval_{}/{source}", metric::REWARDS_ACCURACIES), accuracy));
            out.push((format!("eval_{}/{source}", metric::REWARDS_MARGINS), margin));
        }
    }
    Ok(out)
}

/// Share of margins above 0 (a tie is wrong), and their mean.
fn accuracy_and_margin(margins: &[f64]) -> (f64, f64) {
    let n = margins.len().max(1) as f64;
    (margins.iter().filter(|m| **m > 0.0).count() as f64 / n, margins.iter().sum::<f64>() / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::TokenRow;

    #[test]
    fn sources_are_told_apart_and_flips_are_turned_back() {
        let row = |source: &str, flipped| TokenRow {
            source: source.into(),
            flipped,
            chosen_ids: vec![1],
            rejected_ids: vec![1],
            ..TokenRow::default()
        };
        let rows = vec![row("b", false), row("a", false), row("a", true), row("a", false)];
        let split = Split { name: "test".into(), rows };
        let example = |chosen: f64| Example { logps: (chosen, -1.0), ..Example::default() };
        let examples = [2.0, 1.0, 1.0, -1.0].map(example);
        let objective = ObjectiveConfig { beta: 0.5, ..ObjectiveConfig::default() }.resolved();
        let found = metrics(&split, &examples, &[(0.0, 0.0); 4], &objective).unwrap();
        let get = |key: &str| found.iter().find(|(k, _)| k == key).unwrap().1;
        // Margins are half of chosen + 1: 1.5, 1, -1 (flipped), 0 (a tie).
        assert_eq!(get("eval_rewards/accuracies"), 0.5);
        assert_eq!(get("eval_rewards/accuracies/b"), 1.0);
        assert_eq!(get("eval_rewards/accuracies/a"), 1.0 / 3.0);
        assert_eq!((get("eval_rewards/margins/a"), get("eval_rewards/margins/b")), (0.0, 1.5));
        let keys: Vec<&str> = found.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys[5], "eval_rewards/accuracies/a", "the largest source first");
        let alone = Split { name: "test".into(), rows: split.rows[1..].to_vec() };
        assert_eq!(metrics(&alone, &examples[1..], &[(0.0, 0.0); 3], &objective).unwrap().len(), 5);
        assert!(metrics(&Split::default(), &[], &[], &objective).unwrap().is_empty());
    }
}
