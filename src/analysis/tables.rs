//! Tables of a run, from the frame of its `posteriors.parquet`.

use std::collections::BTreeMap;

use polars::prelude::*;

use super::ranking::auroc;
use crate::error::{Error, Result};
use crate::schema::codes::{CODE, USAGE_POSTERIOR, USAGE_PRIOR, by_source};
use crate::schema::{col, posterior};

/// Numbers equal keys: copies of a pair share an id, and are paired with another table's in their order.
#[derive(Debug, Default)]
pub struct CopyNumbers<K>(BTreeMap<K, usize>);

impl<K: Ord + Clone> CopyNumbers<K> {
    /// The key, and how many equal ones came before it.
    pub fn next(&mut self, key: K) -> (K, usize) {
        let seen = self.0.entry(key.clone()).or_default();
        *seen += 1;
        (key, *seen - 1)
    }
}

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

/// A column of distributions over codes: the weights, row by row (n,k), and k. `None` without rows, and for a latent
/// without codes, whose lists are empty.
///
/// # Errors
/// [`Error::Frame`] where it is missing or no list of numbers, [`Error::Run`] where a row holds no distribution over as
/// many codes as the others.
pub fn weights(frame: &DataFrame, name: &str) -> Result<Option<(Vec<f64>, usize)>> {
    let lists = frame.column(name)?.list()?;
    let k = lists.get_as_series(0).map_or(0, |first| first.len());
    let mut all = Vec::with_capacity(lists.len() * k);
    for row in 0..lists.len() {
        let values = lists.get_as_series(row).map(|values| values.cast(&DataType::Float64)).transpose()?;
        let before = all.len();
        if let Some(values) = &values {
            all.extend(values.f64()?.iter().map(|weight| weight.unwrap_or(f64::NAN)));
        }
        let own = &all[before..];
        let total: f64 = own.iter().sum();
        let sound = own.iter().all(|weight| *weight >= 0.0) && total > 0.0 && total.is_finite();
        if own.len() != k || (k > 0 && !sound) {
            return Err(Error::run(format!("column `{name}`, row {}: not a distribution over the codes", row + 1)));
        }
    }
    Ok((k > 0).then_some((all, k)))
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
/// [`Error::Frame`] where a column is missing or of another type, [`Error::Run`] where a value is missing.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> DataFrame {
        df!(
            "source" => ["b", "a", "a", "a"],
            "flipped" => [false, true, false, false],
            "prior_code" => [0i32, 2, 2, 0],
            "posterior_code" => [0i64, 1, 1, 0],
            "margin" => [0.5f32, -0.25, 0.0, 2.0],
        )
        .unwrap()
    }

    #[test]
    fn copies_are_numbered_in_their_order() {
        let mut copies = CopyNumbers::default();
        assert_eq!(["a", "b", "a", "a"].map(|key| copies.next(key)), [("a", 0), ("b", 0), ("a", 1), ("a", 2)]);
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
        // The flipped row has margin -0.25, right in the clean order; the third is a tie.
        assert_eq!(clean_correct(&frame()).unwrap(), [true, true, false, true]);
    }

    #[test]
    fn flips_are_found_by_low_margins() {
        // The flipped row has the lowest margin of all.
        assert_eq!(mislabel_auroc(&frame()).unwrap(), 1.0);
    }

    #[test]
    fn distributions_are_read_flat_and_others_refused() {
        let frame = |rows: &[&[f32]]| {
            let rows: Vec<Series> = rows.iter().map(|row| Series::new("".into(), *row)).collect();
            DataFrame::new(rows.len(), vec![Column::new("prior".into(), rows)]).unwrap()
        };
        assert_eq!(
            weights(&frame(&[&[0.25, 0.75], &[1.0, 0.0]]), "prior").unwrap(),
            Some((vec![0.25, 0.75, 1.0, 0.0], 2))
        );
        assert_eq!(weights(&frame(&[&[], &[]]), "prior").unwrap(), None);
        let bad: [&[f32]; 5] = [&[1.0], &[], &[0.0, 0.0], &[f32::NAN, 1.0], &[-0.5, 1.5]];
        for bad in bad {
            let error = weights(&frame(&[&[0.25, 0.75], bad]), "prior").unwrap_err().to_string();
            assert!(error.contains("row 2: not a distribution"), "{error}");
        }
    }

    #[test]
    fn a_missing_value_is_an_error() {
        let bad = df!("source" => [Some("a"), None], "prior_code" => [-1i32, 0]).unwrap();
        assert!(texts(&bad, "source").is_err());
        assert!(codes(&bad, "prior_code").is_err());
        assert!(codes(&bad, "absent").is_err());
    }
}
