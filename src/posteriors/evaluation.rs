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

/// [`EvaluationSums`] of a whole split. Empty where it has no examples.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn metrics(
    split: &Split,
    examples: &[Example],
    reference: &[(f64, f64)],
    objective: &ObjectiveConfig,
) -> Result<Vec<(String, f64)>> {
    let reference = objective.needs_reference().then_some(reference);
    let evaluated = SplitExamples { split: &split.name, rows: &split.rows, examples, reference };
    let mut sums = EvaluationSums::default();
    sums.add(&evaluated, of_pairs(&evaluated, objective, |e| e.logps)?);
    Ok(sums.metrics())
}

/// Sums over examples of the test split, against the clean labels, with the prior's z.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationSums {
    margins: MarginSums,
    logps: (f64, f64),
    kl: f64,
    sources: BTreeMap<String, MarginSums>,
}

/// Sums over implicit reward margins.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct MarginSums {
    pairs: u64,
    /// Margins above 0; a tie is wrong.
    right: u64,
    margin: f64,
}

impl MarginSums {
    fn add(&mut self, margin: f64) {
        self.pairs += 1;
        self.right += u64::from(margin > 0.0);
        self.margin += margin;
    }

    /// Share of the right ones, and mean margin.
    fn means(&self) -> (f64, f64) {
        let n = self.pairs.max(1) as f64;
        (self.right as f64 / n, self.margin / n)
    }
}

impl EvaluationSums {
    /// Adds examples with log-probabilities and margins in the observed order, which are turned to the clean one.
    pub fn add(&mut self, evaluated: &SplitExamples<'_>, margins: impl IntoIterator<Item = f64>) {
        for ((row, example), margin) in evaluated.rows.iter().zip(evaluated.examples).zip(margins) {
            let margin = if row.flipped { -margin } else { margin };
            self.margins.add(margin);
            let (chosen, rejected) = example.logps;
            let (chosen, rejected) = if row.flipped { (rejected, chosen) } else { (chosen, rejected) };
            self.logps.0 += chosen;
            self.logps.1 += rejected;
            self.kl += example.kl;
            match self.sources.get_mut(row.source.as_str()) {
                Some(sums) => sums.add(margin),
                None => self.sources.entry(row.source.to_string()).or_default().add(margin),
            }
        }
    }

    /// Means: `eval_rewards/accuracies`, `eval_rewards/margins` (each also as `.../SOURCE` where there are several
    /// sources), `eval_logps/{chosen,rejected}` and `eval_lpc/kl`. Empty without examples.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        if self.margins.pairs == 0 {
            return Vec::new();
        }
        let key = |name: &str| format!("{}{name}", metric::EVAL_PREFIX);
        let n = self.margins.pairs as f64;
        let (accuracy, margin) = self.margins.means();
        let mut out = vec![
            (key(metric::REWARDS_ACCURACIES), accuracy),
            (key(metric::REWARDS_MARGINS), margin),
            (key(metric::LOGPS_CHOSEN), self.logps.0 / n),
            (key(metric::LOGPS_REJECTED), self.logps.1 / n),
            (key(metric::KL), self.kl / n),
        ];
        // With one source its metrics are those of the split.
        if self.sources.len() > 1 {
            let mut sources: Vec<_> = self.sources.iter().collect();
            sources.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.pairs));
            for (source, sums) in sources.into_iter().take(SOURCES) {
                let (accuracy, margin) = sums.means();
                out.push((format!("{}/{source}", key(metric::REWARDS_ACCURACIES)), accuracy));
                out.push((format!("{}/{source}", key(metric::REWARDS_MARGINS)), margin));
            }
        }
        out
    }
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
            chosen_ids: vec![1].into(),
            rejected_ids: vec![1].into(),
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
        // The third row's sides change places: (2 + 1 - 1 - 1) / 4 and (-1 - 1 + 1 - 1) / 4. Margins are half of their
        // difference without a reference's.
        assert_eq!((get("eval_logps/chosen"), get("eval_logps/rejected")), (0.25, -0.5));
        assert_eq!(get("eval_rewards/margins"), 0.5 * (get("eval_logps/chosen") - get("eval_logps/rejected")));
        let keys: Vec<&str> = found.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys[5], "eval_rewards/accuracies/a", "the largest source first");
        let alone = Split { name: "test".into(), rows: split.rows[1..].to_vec() };
        assert_eq!(metrics(&alone, &examples[1..], &[(0.0, 0.0); 3], &objective).unwrap().len(), 5);
        assert!(metrics(&Split::default(), &[], &[], &objective).unwrap().is_empty());
    }
}
