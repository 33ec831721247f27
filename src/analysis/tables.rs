//! Tables of a run, from the frame of its `posteriors.parquet`.

use std::collections::BTreeMap;

use polars::prelude::*;

use super::agreement::{ami, chi_square, contingency, cramers_v, nmi};
use super::intervals::wilson;
use super::ranking::auroc;
use crate::error::{Error, Result};
use crate::schema::codes::{CODE, USAGE_POSTERIOR, USAGE_PRIOR, by_source};
use crate::schema::{accuracy, col, posterior};

/// A text column without nulls.
///
/// # Errors
/// [`Error::Frame`] where it is missing or no text, [`Error::Run`] where a value is missing.
pub fn texts(frame: &DataFrame, name: &str) -> Result<Vec<String>> {
    whole(name, frame.column(name)?.str()?.iter().map(|v| v.map(str::to_string)))
}

/// A column of codes, of any integer type, without nulls or negative values.
///
/// # Errors
/// As [`texts`].
pub fn codes(frame: &DataFrame, name: &str) -> Result<Vec<u32>> {
    whole(name, frame.column(name)?.strict_cast(&DataType::UInt32)?.u32()?.iter())
}

/// A column of flags without nulls.
///
/// # Errors
/// As [`texts`].
pub fn flags(frame: &DataFrame, name: &str) -> Result<Vec<bool>> {
    whole(name, frame.column(name)?.bool()?.iter())
}

/// A column of numbers as float64; a null becomes NaN.
///
/// # Errors
/// [`Error::Frame`] where it is missing or not numeric.
pub fn numbers(frame: &DataFrame, name: &str) -> Result<Vec<f64>> {
    Ok(frame.column(name)?.cast(&DataType::Float64)?.f64()?.iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

fn whole<T>(name: &str, values: impl Iterator<Item = Option<T>>) -> Result<Vec<T>> {
    values
        .enumerate()
        .map(|(i, v)| v.ok_or_else(|| Error::run(format!("column `{name}`, row {}: no value", i + 1))))
        .collect()
}

/// Whether each row's CLEAN preference is predicted: margin > 0 in the clean order; a margin of 0 is wrong.
///
/// # Errors
/// As [`numbers`] and [`flags`].
pub fn clean_correct(posteriors: &DataFrame) -> Result<Vec<bool>> {
    let margins = numbers(posteriors, col::MARGIN)?;
    let flipped = flags(posteriors, col::FLIPPED)?;
    Ok(margins.iter().zip(&flipped).map(|(&m, &f)| if f { m < 0.0 } else { m > 0.0 }).collect())
}

/// Share of the rows on each code, by the prior's and by the posterior's most probable code.
///
/// Columns: `code`, `usage_prior`, `usage_posterior`, and `usage_prior/SOURCE`, `usage_posterior/SOURCE` for every
/// source in alphabetical order (shares of that source's rows). All K codes are listed, unused ones with 0,
/// where the column `prior` gives K; else those up to the largest used.
///
/// # Errors
/// [`Error::Frame`] where a column is missing or of another type, [`Error::Run`] where a value is.
pub fn code_usage(posteriors: &DataFrame) -> Result<DataFrame> {
    let sources = texts(posteriors, col::SOURCE)?;
    let kinds = [posterior::PRIOR_CODE, posterior::POSTERIOR_CODE].map(|name| codes(posteriors, name));
    let [prior, post] = kinds;
    let kinds = [(USAGE_PRIOR, prior?), (USAGE_POSTERIOR, post?)];
    let listed = posteriors
        .column(posterior::PRIOR)
        .ok()
        .and_then(|c| c.list().ok())
        .and_then(|lists| lists.get_as_series(0))
        .map_or(0, |first| first.len());
    let largest = kinds.iter().flat_map(|(_, codes)| codes).max().map_or(0, |&c| c as usize + 1);
    let k = listed.max(largest);
    if k > 1 << 20 {
        return Err(Error::run(format!("codes up to {k}: not a code column")));
    }
    let mut rows_of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    sources.iter().enumerate().for_each(|(i, s)| rows_of.entry(s).or_default().push(i));
    let shares = |codes: &[u32], rows: &mut dyn Iterator<Item = usize>| -> Vec<f64> {
        let mut counts = vec![0.0; k];
        let mut n = 0.0;
        for i in rows {
            counts[codes[i] as usize] += 1.0;
            n += 1.0;
        }
        counts.iter().map(|c| if n > 0.0 { c / n } else { 0.0 }).collect()
    };
    let mut columns = vec![Column::new(CODE.into(), (0..k as u32).collect::<Vec<_>>())];
    for (name, codes) in &kinds {
        columns.push(Column::new((*name).into(), shares(codes, &mut (0..codes.len()))));
    }
    for (name, codes) in &kinds {
        for (source, rows) in &rows_of {
            columns.push(Column::new(by_source(name, source).into(), shares(codes, &mut rows.iter().copied())));
        }
    }
    Ok(DataFrame::new(k, columns)?)
}

/// Preference accuracy against the clean labels, by split and source, with Wilson's 95 % intervals.
///
/// Columns: `split`, `source`, `n`, `correct`, `accuracy`, `low`, `high`; the source `all` sums each split up
/// (first of its split). The prior's margin is used: no leak of the label.
///
/// # Errors
/// As [`code_usage`].
pub fn accuracy_by_source(posteriors: &DataFrame) -> Result<DataFrame> {
    let (splits, sources) = (texts(posteriors, col::SPLIT)?, texts(posteriors, col::SOURCE)?);
    let correct = clean_correct(posteriors)?;
    // The empty source sorts before all tags and stands for all of them.
    let mut counts: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for ((split, source), &right) in splits.iter().zip(&sources).zip(&correct) {
        for key in [(split.as_str(), ""), (split.as_str(), source.as_str())] {
            let (n, hits) = counts.entry(key).or_default();
            *n += 1;
            *hits += u64::from(right);
            if key.1.is_empty() && source.is_empty() {
                break;
            }
        }
    }
    let name = |source: &str| if source.is_empty() { accuracy::ALL.to_string() } else { source.to_string() };
    let intervals: Vec<_> = counts.values().map(|&(n, hits)| wilson(hits, n, 0.95)).collect();
    let floats = |get: fn(&super::Interval) -> f64| intervals.iter().map(get).collect::<Vec<f64>>();
    Ok(DataFrame::new(
        counts.len(),
        vec![
            Column::new(col::SPLIT.into(), counts.keys().map(|k| k.0.to_string()).collect::<Vec<_>>()),
            Column::new(col::SOURCE.into(), counts.keys().map(|k| name(k.1)).collect::<Vec<_>>()),
            Column::new(accuracy::N.into(), counts.values().map(|c| c.0).collect::<Vec<_>>()),
            Column::new(accuracy::CORRECT.into(), counts.values().map(|c| c.1).collect::<Vec<_>>()),
            Column::new(accuracy::ACCURACY.into(), floats(|i| i.estimate)),
            Column::new(accuracy::LOW.into(), floats(|i| i.low)),
            Column::new(accuracy::HIGH.into(), floats(|i| i.high)),
        ],
    )?)
}

/// How well a low margin of the observed order finds flipped labels: AUROC of -margin against `flipped`.
///
/// 0.5 is chance; NaN where no row, or every row, is flipped.
///
/// # Errors
/// As [`code_usage`].
pub fn mislabel_auroc(posteriors: &DataFrame) -> Result<f64> {
    let doubt: Vec<f64> = numbers(posteriors, col::MARGIN)?.iter().map(|m| -m).collect();
    Ok(auroc(&doubt, &flags(posteriors, col::FLIPPED)?))
}

/// Whether codes go with sources: one row for the prior's code, one for the posterior's.
///
/// Columns: `code_of` (`prior`, `posterior`), `nmi`, `ami`, `cramers_v`, `chi_square`, `degrees`, `p`.
///
/// # Errors
/// As [`code_usage`].
pub fn code_source_association(posteriors: &DataFrame) -> Result<DataFrame> {
    let sources = texts(posteriors, col::SOURCE)?;
    let ordered: BTreeMap<&str, u32> = {
        let tags: std::collections::BTreeSet<&str> = sources.iter().map(String::as_str).collect();
        tags.into_iter().zip(0..).collect()
    };
    let sources: Vec<u32> = sources.iter().map(|s| ordered[s.as_str()]).collect();
    let mut figures: [Vec<f64>; 5] = Default::default();
    let mut degrees = Vec::new();
    for name in [posterior::PRIOR_CODE, posterior::POSTERIOR_CODE] {
        let codes = codes(posteriors, name)?;
        let table = contingency(&codes, &sources);
        let (statistic, freedom, p) = chi_square(&table);
        let row = [nmi(&codes, &sources), ami(&codes, &sources), cramers_v(&table), statistic, p];
        figures.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        degrees.push(freedom as u64);
    }
    let [nmi, ami, v, statistic, p] = figures;
    Ok(df!(
        "code_of" => ["prior", "posterior"],
        "nmi" => nmi,
        "ami" => ami,
        "cramers_v" => v,
        "chi_square" => statistic,
        "degrees" => degrees,
        "p" => p,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> DataFrame {
        df!(
            "split" => ["train", "train", "test", "test"],
            "source" => ["b", "a", "a", "a"],
            "flipped" => [false, true, false, false],
            "prior_code" => [0i32, 2, 2, 0],
            "posterior_code" => [0i64, 1, 1, 0],
            "margin" => [0.5f32, -0.25, 0.0, 2.0],
        )
        .unwrap()
    }

    #[test]
    fn usage_lists_unused_codes_and_sources() {
        let usage = code_usage(&frame()).unwrap();
        assert_eq!(usage.height(), 3);
        assert_eq!(numbers(&usage, "usage_prior").unwrap(), [0.5, 0.0, 0.5]);
        assert_eq!(numbers(&usage, "usage_posterior").unwrap(), [0.5, 0.5, 0.0]);
        // Source a: prior codes 2, 2, 0.
        assert_eq!(numbers(&usage, "usage_prior/a").unwrap(), [1.0 / 3.0, 0.0, 2.0 / 3.0]);
        assert_eq!(numbers(&usage, "usage_posterior/b").unwrap(), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn accuracy_is_against_clean_labels_and_ties_are_wrong() {
        let table = accuracy_by_source(&frame()).unwrap();
        assert_eq!(texts(&table, "split").unwrap(), ["test", "test", "train", "train", "train"]);
        assert_eq!(texts(&table, "source").unwrap(), ["all", "a", "all", "a", "b"]);
        // Test: a tie and a hit; train: the flipped row has margin -0.25, right in the clean order.
        assert_eq!(numbers(&table, "accuracy").unwrap(), [0.5, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(codes(&table, "n").unwrap(), [2, 2, 2, 1, 1]);
    }

    #[test]
    fn flips_are_found_by_low_margins() {
        // The flipped row has the lowest margin of all.
        assert_eq!(mislabel_auroc(&frame()).unwrap(), 1.0);
    }

    #[test]
    fn association_of_codes_and_sources() {
        let table = code_source_association(&frame()).unwrap();
        // Codes 0,1,1,0 against b,a,a,a: counts [[1, 1], [2, 0]] (a, b): expected [[1.5, .5], [1.5, .5]],
        // chi^2 = 0.25/1.5 * 2 + 0.25/0.5 * 2 = 4/3; V = sqrt(1/3).
        let v = numbers(&table, "cramers_v").unwrap();
        assert!((v[1] - (1.0f64 / 3.0).sqrt()).abs() < 1e-12 && v[0] == v[1], "{v:?}");
        assert_eq!(codes(&table, "degrees").unwrap(), [1, 1]);
    }

    #[test]
    fn a_missing_value_is_an_error() {
        let bad = df!("source" => [Some("a"), None], "prior_code" => [-1i32, 0]).unwrap();
        assert!(texts(&bad, "source").is_err());
        assert!(codes(&bad, "prior_code").is_err());
        assert!(codes(&bad, "absent").is_err());
    }
}
