//! Codes against planted preferences: the rows of a run's posteriors, labelled with the preference that decided them.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;

use crate::analysis::reading::SPLIT;
use crate::analysis::tables::texts;
use crate::analysis::{CodeAccuracy, Labels, code_accuracy};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::schema::{attribute, col, fact};
use crate::synth::{CeilingRow, Ceilings};

/// Names of the planted preferences by id, as the corpus' own manifest lists them; none where it does not.
pub(super) fn names(truth_dir: &Path) -> Vec<String> {
    let listed = Manifest::read(truth_dir).ok().and_then(|mut manifest| manifest.facts.remove(fact::PREFERENCES));
    listed.and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default()
}

/// The planted label of each row of the posteriors, by `id`; `None` for rows that the truth does not know.
fn labels(
    best: &Ceilings,
    planted: fn(&CeilingRow) -> u32,
    names: &[String],
    unnamed: &str,
    posteriors: &DataFrame,
) -> Result<Labels> {
    let planted: HashMap<&str, usize> = best.rows.iter().map(|r| (r.id.as_str(), planted(r) as usize)).collect();
    let rows: Vec<Option<usize>> =
        texts(posteriors, col::ID)?.iter().map(|id| planted.get(id.as_str()).copied()).collect();
    let occurring = rows.iter().flatten().max().map_or(0, |&largest| largest + 1);
    let name = |id: usize| names.get(id).cloned().unwrap_or_else(|| format!("{unnamed} {id}"));
    Ok(Labels { names: (0..occurring.max(names.len())).map(name).collect(), rows })
}

/// The planted preference of each row of the posteriors, and its factor, each with the name of its attribute.
pub(super) fn both(best: &Ceilings, names: &[String], posteriors: &DataFrame) -> Result<Vec<(String, Labels)>> {
    // A preference is named FACTOR=DIRECTION.
    let mut factors: Vec<String> = Vec::new();
    for row in &best.rows {
        let (factor, name) = (row.factor as usize, names.get(row.preference as usize));
        if factors.len() <= factor {
            factors.resize_with(factor + 1, String::new);
        }
        if let Some((name, _)) = name.and_then(|name| name.split_once('=')) {
            factors[factor] = name.to_string();
        }
    }
    let unnamed = |(at, name): (usize, String)| if name.is_empty() { format!("factor {at}") } else { name };
    let factors: Vec<String> = factors.into_iter().enumerate().map(unnamed).collect();
    let preference = labels(best, |row| row.preference, names, attribute::PREFERENCE, posteriors)?;
    let factor = labels(best, |row| row.factor, &factors, attribute::FACTOR, posteriors)?;
    Ok(vec![(attribute::PREFERENCE.into(), preference), (attribute::FACTOR.into(), factor)])
}

/// Accuracy of each code alone on the test pairs of each planted preference, by preference id. Rows that the truth
/// does not know are left out; `None` where `posteriors` has no margins of single codes.
pub(super) fn accuracy(best: &Ceilings, names: &[String], posteriors: &DataFrame) -> Result<Option<CodeAccuracy>> {
    let labels = labels(best, |row| row.preference, names, attribute::PREFERENCE, posteriors)?;
    code_accuracy(posteriors, &labels, SPLIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::*;

    #[test]
    fn rows_are_joined_by_id_and_named() {
        let row = |id: &str, preference: u32| CeilingRow {
            id: id.into(),
            split: "test".into(),
            source: "s".into(),
            shown: true,
            flipped: false,
            factor: preference / 2,
            preference,
            prior_code: 0,
            posterior_code: Some(0),
            label_code: 0,
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
        let [preference, factor] = both(&best, &names, &posteriors).unwrap().try_into().unwrap();
        assert_eq!((preference.0.as_str(), factor.0.as_str()), ("preference", "factor"));
        assert_eq!(preference.1.rows, [Some(2), Some(0), Some(2), None]);
        // Factor 0 is named by its preference, factor 1 has none with a name.
        assert_eq!(
            (factor.1.names, factor.1.rows),
            (vec!["length".to_string(), "factor 1".into()], vec![Some(1), Some(0), Some(1), None])
        );
    }
}
