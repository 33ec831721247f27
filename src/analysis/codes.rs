//! What each code means: how well it orders pairs alone, and which codes say the same (their margins correlate).
//!
//! Read from the column `code_margins` of `posteriors.parquet`. Files without that column, and latents
//! without codes, have nothing to read: the functions then give `None`, which is no error.

use std::collections::BTreeSet;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::intervals::{Interval, wilson};
use super::tables::{clean_correct, flags, texts};
use crate::error::{Error, Result};
use crate::schema::col;

/// Correlation of two codes' margins above which the codes are called duplicates.
pub const DUPLICATE_CORRELATION: f64 = 0.95;

/// Least number of pairs for which correlations are computed: among fewer, codes correlate by chance.
pub const DUPLICATE_MIN_PAIRS: usize = 16;

/// Which label each row of a frame has, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Names of the labels, in the order in which they are shown.
    pub names: Vec<String>,
    /// Index into `names` for every row; rows without a label are left out of all figures.
    pub rows: Vec<Option<usize>>,
}

impl Labels {
    /// One label for each distinct text, in alphabetical order.
    pub fn of_texts(values: &[String]) -> Labels {
        let names: BTreeSet<&String> = values.iter().collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let rows = values.iter().map(|v| names.binary_search(v).ok()).collect();
        Labels { names, rows }
    }

    /// One label for all rows.
    pub fn one(name: &str, rows: usize) -> Labels {
        Labels { names: vec![name.into()], rows: vec![Some(0); rows] }
    }
}

/// Accuracies on the rows of one label, against the clean labels; a tie is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelAccuracy {
    /// Name of the label.
    pub label: String,
    /// Rows behind every figure.
    pub n: u64,
    /// The prior's choice (column `margin`), for comparison. `None` without rows.
    pub prior: Option<Interval>,
    /// The code with the highest accuracy, the lowest of equals. It was chosen on the rows on which its
    /// accuracy was measured: with many codes and few rows that accuracy is too high. `None` without rows.
    pub best: Option<u32>,
    /// Each code alone, by code; empty without rows.
    pub codes: Vec<Interval>,
}

/// Accuracy of each code alone, by label.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CodeAccuracy {
    /// Split of the rows.
    pub split: String,
    /// The labels in the order of [`Labels::names`].
    pub labels: Vec<LabelAccuracy>,
}

/// Two codes that say the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Duplicate {
    /// The code.
    pub code: u32,
    /// The lowest code that says the same; it is lower than `code`.
    pub duplicate_of: u32,
    /// Pearson's correlation of their margins.
    pub correlation: f64,
}

impl std::fmt::Display for Duplicate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "codes {} and {} say the same: correlation {:.2}", self.duplicate_of, self.code, self.correlation)
    }
}

/// The margins that each code alone gives the pairs of one split, in the clean order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodeMargins {
    /// Split of the rows.
    pub split: String,
    /// Rows of the frame in that split.
    pub rows: Vec<usize>,
    /// `margins[code][i]`: the margin of the pair in row `rows[i]`, clean chosen minus clean rejected.
    pub margins: Vec<Vec<f32>>,
    /// Whether the prior's choice orders the pair as its clean label does.
    prior: Vec<bool>,
}

impl CodeMargins {
    /// Reads the margins of one split; `None` where the file has no such column or the latent no codes.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing or of another type; [`Error::Run`] where a value is
    /// missing, or rows differ in the number of codes.
    pub fn read(posteriors: &DataFrame, split: &str) -> Result<Option<CodeMargins>> {
        let Ok(column) = posteriors.column(col::CODE_MARGINS) else { return Ok(None) };
        let lists = column.list()?;
        let width = |row: usize| lists.get_as_series(row).map_or(0, |values| values.len());
        let codes = if lists.is_empty() { 0 } else { width(0) };
        if codes == 0 {
            return match (0..lists.len()).find(|&row| width(row) > 0) {
                Some(row) => Err(uneven(row, width(row), 0)),
                None => Ok(None),
            };
        }
        let (splits, flipped) = (texts(posteriors, col::SPLIT)?, flags(posteriors, col::FLIPPED)?);
        let correct = clean_correct(posteriors)?;
        let rows: Vec<usize> = (0..splits.len()).filter(|&row| splits[row] == split).collect();
        let mut margins = vec![Vec::with_capacity(rows.len()); codes];
        for &row in &rows {
            let values = lists.get_as_series(row).map(|values| values.cast(&DataType::Float32)).transpose()?;
            let found = values.as_ref().map_or(0, |values| values.len());
            let Some(values) = values.filter(|_| found == codes) else { return Err(uneven(row, found, codes)) };
            for (margins, value) in margins.iter_mut().zip(values.f32()?.iter()) {
                let value = value.unwrap_or(f32::NAN);
                margins.push(if flipped[row] { -value } else { value });
            }
        }
        let prior = rows.iter().map(|&row| correct[row]).collect();
        Ok(Some(CodeMargins { split: split.into(), rows, margins, prior }))
    }

    /// Accuracy of each code alone on the rows of each label, with Wilson's 95 % intervals.
    ///
    /// # Errors
    /// [`Error::Run`] where `labels` are not those of the frame that was read.
    pub fn accuracy(&self, labels: &Labels) -> Result<CodeAccuracy> {
        let label_of = |row: usize| {
            let label = labels.rows.get(row).ok_or_else(|| Error::run(format!("row {} has no label", row + 1)))?;
            match label {
                Some(label) if *label >= labels.names.len() => Err(Error::run(format!("label {label} has no name"))),
                label => Ok(*label),
            }
        };
        let of_row = self.rows.iter().map(|&row| label_of(row)).collect::<Result<Vec<_>>>()?;
        let count = |right: &dyn Fn(usize) -> bool| -> Vec<u64> {
            let mut hits = vec![0; labels.names.len()];
            for (i, label) in of_row.iter().enumerate() {
                if let Some(label) = label.filter(|_| right(i)) {
                    hits[label] += 1;
                }
            }
            hits
        };
        let n = count(&|_| true);
        let prior = count(&|i| self.prior[i]);
        // A NaN is not above zero: wrong, as a tie is.
        let codes: Vec<Vec<u64>> = self.margins.iter().map(|margins| count(&|i| margins[i] > 0.0)).collect();
        let label = |(l, name): (usize, &String)| {
            let some = n[l] > 0;
            let best = (0..codes.len()).rev().max_by_key(|&k| codes[k][l]).filter(|_| some);
            LabelAccuracy {
                label: name.clone(),
                n: n[l],
                prior: some.then(|| wilson(prior[l], n[l])),
                best: best.map(|k| k as u32),
                codes: codes.iter().filter(|_| some).map(|hits| wilson(hits[l], n[l])).collect(),
            }
        };
        Ok(CodeAccuracy { split: self.split.clone(), labels: labels.names.iter().enumerate().map(label).collect() })
    }

    /// Codes whose margins correlate above `threshold` with those of a lower code, both of them `used`.
    ///
    /// A code is a duplicate of the lowest code with which it correlates so. Below [`DUPLICATE_MIN_PAIRS`]
    /// pairs there are none. The backbone's part of a margin is the same for all codes: where it outweighs theirs,
    /// all codes are reported as duplicates of each other, rightly, since the code then hardly matters.
    pub fn duplicates(&self, used: &[bool], threshold: f64) -> Vec<Duplicate> {
        if self.rows.len() < DUPLICATE_MIN_PAIRS {
            return Vec::new();
        }
        let kept: Vec<usize> = (0..self.margins.len()).filter(|&k| used.get(k) == Some(&true)).collect();
        let scores: Vec<Vec<f64>> = kept.iter().map(|&k| standard_scores(&self.margins[k])).collect();
        let mut found = Vec::new();
        for (i, &code) in kept.iter().enumerate() {
            for (j, &lower) in kept[..i].iter().enumerate() {
                let correlation = if self.margins[code] == self.margins[lower] {
                    // Equal margins say the same even where they are constant and have no correlation.
                    1.0
                } else {
                    dot(&scores[i], &scores[j])
                };
                if correlation > threshold {
                    found.push(Duplicate { code: code as u32, duplicate_of: lower as u32, correlation });
                    break;
                }
            }
        }
        found
    }
}

fn uneven(row: usize, found: usize, expected: usize) -> Error {
    let name = col::CODE_MARGINS;
    Error::run(format!("column `{name}`, row {}: {found} margins, expected {expected}", row + 1))
}

/// Centred values divided by the root of their sum of squares, so that [`dot`] is Pearson's correlation; empty for
/// constant values and where one is not finite, which have no correlation.
fn standard_scores(values: &[f32]) -> Vec<f64> {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let apart: Vec<f64> = values.iter().map(|&v| f64::from(v) - mean).collect();
    let size = apart.iter().map(|d| d * d).sum::<f64>().sqrt();
    // Constant values keep a deviation of about this size from float32 rounding.
    let rounding = f64::from(f32::EPSILON) * mean.abs() * n.sqrt();
    if size.is_finite() && size > rounding { apart.into_iter().map(|d| d / size).collect() } else { Vec::new() }
}

/// Sum of products; not a number where one side is empty.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() { f64::NAN } else { a.iter().zip(b).map(|(a, b)| a * b).sum() }
}

/// Accuracy of each code alone on the rows of each label: codes x labels, on one split (`test` unless a caller
/// has a reason).
///
/// Code k is right on a pair where its own margin is above 0 in the clean order; a tie is wrong. `labels` has one
/// entry for each row of `posteriors`. `None` where the file holds no margins of single codes.
///
/// # Errors
/// As [`CodeMargins::read`] and [`CodeMargins::accuracy`].
///
/// # Source
/// The matrix of experts by preferences of MiCRo (arXiv 2505.24846), with intervals.
pub fn code_accuracy(posteriors: &DataFrame, labels: &Labels, split: &str) -> Result<Option<CodeAccuracy>> {
    if labels.rows.len() != posteriors.height() {
        let (labels, rows) = (labels.rows.len(), posteriors.height());
        return Err(Error::run(format!("{labels} labels for {rows} rows")));
    }
    CodeMargins::read(posteriors, split)?.map(|margins| margins.accuracy(labels)).transpose()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A list column from its rows.
    pub fn lists<R: AsRef<[f32]>>(name: &str, rows: &[R]) -> Column {
        let rows: Vec<Series> = rows.iter().map(|row| Series::new("".into(), row.as_ref())).collect();
        Column::new(name.into(), rows)
    }

    /// Five test pairs and one for training; the third is flipped, the fourth a tie for code 1.
    fn frame() -> DataFrame {
        let mut frame = df!(
            "split" => ["test", "test", "test", "test", "train", "test"],
            "source" => ["a", "a", "b", "b", "a", "a"],
            "flipped" => [false, false, true, false, false, false],
            "margin" => [1.0, -1.0, -0.5, 0.0, 1.0, 2.0],
        )
        .unwrap();
        let margins: [&[f32]; 6] =
            [&[1.0, -2.0], &[3.0, 1.0], &[0.5, -0.5], &[2.0, 0.0], &[-9.0, -9.0], &[-1.0, f32::NAN]];
        frame.with_column(lists(col::CODE_MARGINS, &margins)).unwrap();
        frame
    }

    #[test]
    fn each_code_alone_by_hand() {
        let frame = frame();
        let labels = Labels::of_texts(&texts(&frame, "source").unwrap());
        let table = code_accuracy(&frame, &labels, "test").unwrap().unwrap();
        let [a, b] = table.labels.as_slice() else { panic!("{table:?}") };
        // Source a, rows 1, 2, 6: code 0 has + + -, code 1 has - + NaN; the prior + - +.
        assert_eq!((a.label.as_str(), a.n, a.best), ("a", 3, Some(0)));
        let shares = |l: &LabelAccuracy| l.codes.iter().map(|i| i.estimate).collect::<Vec<_>>();
        assert_eq!((shares(a), a.prior.unwrap().estimate), (vec![2.0 / 3.0, 1.0 / 3.0], 2.0 / 3.0));
        assert_eq!(a.codes[0], wilson(2, 3));
        // Source b, the flipped row turned back and the tie: code 0 has - +, code 1 has + tie; the prior + tie.
        // Both codes are right once: the lower one is named.
        assert_eq!((shares(b), b.n, b.best, b.prior.unwrap().estimate), (vec![0.5, 0.5], 2, Some(0), 0.5));
    }

    #[test]
    fn labels_without_rows_and_rows_without_labels() {
        let frame = frame();
        let labels = Labels {
            names: ["seen", "unseen"].map(String::from).to_vec(),
            rows: vec![Some(0), None, Some(0), None, Some(1), None],
        };
        let table = code_accuracy(&frame, &labels, "test").unwrap().unwrap();
        // Rows 1 and 3: code 1 has - and, turned back, +.
        assert_eq!((table.labels[0].n, table.labels[0].codes[1].estimate), (2, 0.5));
        let unseen = &table.labels[1];
        assert_eq!((unseen.n, unseen.best, unseen.prior, unseen.codes.len()), (0, None, None, 0));
        assert!(code_accuracy(&frame, &Labels::one("all", 5), "test").is_err(), "a label is missing");
        let train = code_accuracy(&frame, &Labels::one("all", 6), "train").unwrap().unwrap();
        assert_eq!((train.labels[0].n, train.labels[0].codes[0].estimate), (1, 0.0));
    }

    #[test]
    fn files_without_margins_have_nothing_to_say() {
        let (mut old, labels) = (frame(), Labels::one("all", 6));
        old.drop_in_place(col::CODE_MARGINS).unwrap();
        assert_eq!(code_accuracy(&old, &labels, "test").unwrap(), None);
        // A latent without codes has empty lists.
        old.with_column(lists(col::CODE_MARGINS, &[&[] as &[f32]; 6])).unwrap();
        assert_eq!(code_accuracy(&old, &labels, "test").unwrap(), None);
        let mixed: [&[f32]; 6] = [&[1.0], &[1.0, 2.0], &[1.0], &[1.0], &[1.0], &[1.0]];
        old.with_column(lists(col::CODE_MARGINS, &mixed)).unwrap();
        let error = code_accuracy(&old, &labels, "test").unwrap_err().to_string();
        assert!(error.contains("row 2: 2 margins, expected 1"), "{error}");
        let late: [&[f32]; 6] = [&[], &[], &[1.0], &[1.0], &[1.0], &[1.0]];
        old.with_column(lists(col::CODE_MARGINS, &late)).unwrap();
        assert!(code_accuracy(&old, &labels, "test").is_err());
    }

    /// Margins of the given codes on 16 pairs, by a pattern of period four.
    fn patterns(codes: &[[f32; 4]]) -> CodeMargins {
        let margins = codes.iter().map(|p| p.iter().copied().cycle().take(16).collect()).collect();
        CodeMargins { split: "test".into(), rows: (0..16).collect(), margins, prior: vec![true; 16] }
    }

    #[test]
    fn codes_that_say_the_same_by_hand() {
        let margins = patterns(&[
            [1.0, 2.0, 3.0, 4.0],
            // 10 and ten times code 0: correlation 1, although no margin is equal.
            [20.0, 30.0, 40.0, 50.0],
            // The other way round: correlation -1.
            [4.0, 3.0, 2.0, 1.0],
            // About the mean 2.5: code 0 is -1.5 -0.5 0.5 1.5, this 0.5 -1.5 1.5 -0.5; (-0.75 + 0.75 + 0.75 - 0.75) / 5
            // = 0.
            [3.0, 1.0, 4.0, 2.0],
            // This -1.5 -0.5 1.5 0.5: (2.25 + 0.25 + 0.75 + 0.75) / 5 = 0.8.
            [1.0, 2.0, 4.0, 3.0],
        ]);
        let all = [true; 5];
        let found = margins.duplicates(&all, DUPLICATE_CORRELATION);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].code, found[0].duplicate_of), (1, 0));
        assert_eq!(found[0].to_string(), "codes 0 and 1 say the same: correlation 1.00");
        let low = margins.duplicates(&all, 0.79);
        // Code 4 and code 0: 0.8. Code 4 names the lower of codes 0 and 1.
        assert_eq!(low.iter().map(|d| (d.code, d.duplicate_of)).collect::<Vec<_>>(), [(1, 0), (4, 0)]);
        assert!((low[1].correlation - 0.8).abs() < 1e-12);
        // An unused code is no duplicate, and no code is a duplicate of it.
        assert!(margins.duplicates(&[false, true, true, true, true], 0.95).is_empty());
    }

    #[test]
    fn constant_margins_have_no_correlation() {
        let flat = 0.1f32;
        let margins = patterns(&[[flat; 4], [1.0, 2.0, 3.0, 4.0], [flat; 4], [0.2; 4], [f32::NAN, 2.0, 3.0, 4.0]]);
        let found = margins.duplicates(&[true; 5], 0.95);
        // Equal constants say the same; other constants, and what is no number, correlate with nothing.
        assert_eq!(found, [Duplicate { code: 2, duplicate_of: 0, correlation: 1.0 }]);
        let few = CodeMargins { rows: (0..15).collect(), ..margins };
        assert!(few.duplicates(&[true; 5], 0.95).is_empty(), "15 pairs are too few");
    }
}
