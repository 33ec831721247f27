//! The headline numbers of a run, from the frame of its `posteriors.parquet`.

use std::collections::BTreeMap;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::intervals::{Interval, wilson};
use super::tables::{clean_correct, flags, mislabel_auroc, numbers, texts};
use crate::error::Result;
use crate::schema::{SPLITS, col, posterior};

/// Accuracy on one source of the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceAccuracy {
    /// Source tag.
    pub source: String,
    /// Test examples.
    pub n: u64,
    /// Share of right preferences.
    pub accuracy: f64,
    /// Lower end of Wilson's 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Results of a run on the test split, against the clean labels, and how well its margins find flips in the training
/// split.
#[derive(Debug, Clone, PartialEq)]
pub struct Headline {
    /// Preference accuracy with the prior's z, with Wilson's 95 % interval.
    pub accuracy: Interval,
    /// Preference accuracy with the posterior's z, which has seen the observed label; NaN without test pairs.
    pub accuracy_posterior: f64,
    /// Mean implicit reward margin with the prior's z; NaN without test pairs.
    pub margin: f64,
    /// Accuracy by source, with the prior's z.
    pub by_source: Vec<SourceAccuracy>,
    /// [`mislabel_auroc`] of the training split; none without flips.
    pub audit_auroc: Option<f64>,
}

/// Computes the headline numbers from the posteriors of a run.
///
/// # Errors
/// [`crate::Error::Frame`] where a column is missing or of another type; [`crate::Error::Run`] where a value is
/// missing.
pub fn headline(posteriors: &DataFrame) -> Result<Headline> {
    let split = |name: &str| posteriors.clone().lazy().filter(polars::prelude::col(col::SPLIT).eq(lit(name))).collect();
    let (train, test) = (split(SPLITS[0])?, split(SPLITS[1])?);
    let correct = clean_correct(&test)?;
    let right = correct.iter().filter(|c| **c).count() as u64;
    let flipped = flags(&test, col::FLIPPED)?;
    let clean = |name: &str| -> Result<Vec<f64>> {
        let margins = numbers(&test, name)?;
        Ok(margins.iter().zip(&flipped).map(|(m, f)| if *f { -m } else { *m }).collect())
    };
    let (margins, seen) = (clean(col::MARGIN)?, clean(posterior::MARGIN_POSTERIOR)?);
    let n = margins.len() as f64;
    let auroc = mislabel_auroc(&train)?;
    Ok(Headline {
        accuracy: wilson(right, correct.len() as u64),
        accuracy_posterior: seen.iter().filter(|m| **m > 0.0).count() as f64 / n,
        margin: margins.iter().sum::<f64>() / n,
        by_source: by_source(&texts(&test, col::SOURCE)?, &correct),
        audit_auroc: auroc.is_finite().then_some(auroc),
    })
}

/// Accuracy on each source of a split, in alphabetical order.
fn by_source(sources: &[String], correct: &[bool]) -> Vec<SourceAccuracy> {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (source, right) in sources.iter().zip(correct) {
        let (n, hits) = counts.entry(source).or_default();
        *n += 1;
        *hits += u64::from(*right);
    }
    // Rows without a source count in the overall accuracy only.
    let named = counts.into_iter().filter(|(source, _)| !source.is_empty());
    let of = |(source, (n, hits)): (&str, (u64, u64))| {
        let Interval { estimate: accuracy, low, high, .. } = wilson(hits, n);
        SourceAccuracy { source: source.to_string(), n, accuracy, low, high }
    };
    named.map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_on_their_own() {
        let sources = ["b", "a", "", "a", "all"].map(String::from);
        let found = by_source(&sources, &[true, false, true, true, true]);
        let found: Vec<_> = found.iter().map(|s| (s.source.as_str(), s.n, s.accuracy)).collect();
        assert_eq!(found, [("a", 2, 0.5), ("all", 1, 1.0), ("b", 1, 1.0)]);
    }
}
