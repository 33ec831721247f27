//! Metrics of the test split: means over its examples, and over those of each source.

use std::collections::BTreeMap;

use super::margins::of_pairs;
use super::split_examples::SplitExamples;
use crate::batch::Split;
use crate::error::Result;
use crate::objective::ObjectiveConfig;
use crate::policy::Example;
use crate::schema::metric;

/// Sources with metrics of their own, the largest first: a data set may have thousands.
const SOURCES: usize = 32;

/// Means over the test split, against the clean labels, with the prior's z: `eval_rewards/accuracies`,
/// `eval_rewards/margins` (each also as `.../SOURCE` where there are several sources), `eval_logps/{chosen,rejected}`
/// and `eval_lpc/kl`. Empty where the split has no examples.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn metrics(
    split: &Split,
    examples: &[Example],
    reference: &[(f64, f64)],
    objective: &ObjectiveConfig,
) -> Result<Vec<(String, f64)>> {
    if examples.is_empty() {
        return Ok(Vec::new());
    }
    let reference = objective.needs_reference().then_some(reference);
    let evaluated = SplitExamples { split: &split.name, rows: &split.rows, examples, reference };
    let margins: Vec<f64> = of_pairs(&evaluated, objective, |e| e.logps)?
        .into_iter()
        .zip(&split.rows)
        .map(|(margin, row)| if row.flipped { -margin } else { margin })
        .collect();
    let mean = |get: fn(&Example) -> f64| examples.iter().map(get).sum::<f64>() / examples.len() as f64;
    let key = |name: &str| format!("{}{name}", metric::EVAL_PREFIX);
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
    // With one source its metrics are those of the split.
    if sources.len() > 1 {
        let mut sources: Vec<(&str, Vec<f64>)> = sources.into_iter().collect();
        sources.sort_by_key(|(_, margins)| std::cmp::Reverse(margins.len()));
        for (source, margins) in sources.iter().take(SOURCES) {
            let (accuracy, margin) = accuracy_and_margin(margins);
            out.push((format!("{}/{source}", key(metric::REWARDS_ACCURACIES)), accuracy));
            out.push((format!("{}/{source}", key(metric::REWARDS_MARGINS)), margin));
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
    use crate::token_file::TokenRow;

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
