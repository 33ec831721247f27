//! Codes against planted preferences: the rows of a run's posteriors, labelled with the preference that decided them.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;

use crate::analysis::reading::SPLIT;
use crate::analysis::tables::texts;
use crate::analysis::{CodeAccuracy, Labels, code_accuracy};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::schema::{col, fact};
use crate::synth::Ceilings;

/// Names of the planted preferences by id, as the corpus' own manifest lists them; none where it does not.
pub(super) fn names(truth_dir: &Path) -> Vec<String> {
    let listed = Manifest::read(truth_dir).ok().and_then(|mut manifest| manifest.facts.remove(fact::PREFERENCES));
    listed.and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default()
}

/// Accuracy of each code alone on the test pairs of each planted preference, by preference id. Rows that the truth
/// does not know are left out; `None` where `posteriors` has no margins of single codes.
pub(super) fn accuracy(best: &Ceilings, names: &[String], posteriors: &DataFrame) -> Result<Option<CodeAccuracy>> {
    let planted: HashMap<&str, usize> = best.rows.iter().map(|r| (r.id.as_str(), r.preference as usize)).collect();
    let rows: Vec<Option<usize>> =
        texts(posteriors, col::ID)?.iter().map(|id| planted.get(id.as_str()).copied()).collect();
    let occurring = rows.iter().flatten().max().map_or(0, |&largest| largest + 1);
    let name = |id: usize| names.get(id).cloned().unwrap_or_else(|| format!("preference {id}"));
    let labels = Labels { names: (0..occurring.max(names.len())).map(name).collect(), rows };
    code_accuracy(posteriors, &labels, SPLIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::CeilingRow;
    use polars::prelude::*;

    #[test]
    fn rows_are_joined_by_id_and_named() {
        let row = |id: &str, preference: u32| CeilingRow {
            id: id.into(),
            split: "test".into(),
            source: "s".into(),
            shown: true,
            flipped: false,
            factor: 0,
            preference,
            prior_code: 0,
            posterior_code: 0,
            right: 1.0,
            expected: 1.0,
        };
        // The truth lists the pairs in another order, and does not know `d`.
        let rows = vec![row("c", 2), row("b", 0), row("a", 2)];
        let best = Ceilings { rows, cells: [0.0; 4], unmatched: 0, preferences_used: 2 };
        let margins: Vec<Series> = [[1.0f32, -1.0], [-1.0, 1.0], [2.0, 1.0], [-1.0, -1.0]]
            .iter()
            .map(|row| Series::new("".into(), row.as_slice()))
            .collect();
        let posteriors = df!(
            "id" => ["a", "b", "c", "d"], "split" => ["test"; 4], "flipped" => [false; 4],
            "margin" => [1.0, 1.0, 0.0, 1.0], "code_margins" => margins,
        )
        .unwrap();
        let names = ["length=short", "length=thorough"].map(String::from);
        let table = accuracy(&best, &names, &posteriors).unwrap().unwrap();
        let found: Vec<(&str, u64)> = table.labels.iter().map(|l| (l.label.as_str(), l.n)).collect();
        assert_eq!(found, [("length=short", 1), ("length=thorough", 0), ("preference 2", 2)]);
        // Preference 2, rows a and c: code 0 is right on both, code 1 on c, the prior on a (c is a tie).
        let shares: Vec<f64> = table.labels[2].codes.iter().map(|i| i.estimate).collect();
        assert_eq!((shares, table.labels[2].prior.unwrap().estimate), (vec![1.0, 0.5], 0.5));
        assert_eq!((table.labels[0].best, table.labels[2].best), (Some(1), Some(0)));
    }
}
