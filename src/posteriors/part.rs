//! Pairs are examined part by part. The parts of a long run are kept in files until all are there: a run that was stopped
//! goes on with the next one, and none needs the memory of all pairs.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, Float64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{LabelFindings, Margins, PosteriorContext, SplitExamples, add_posteriors, batch, write};
use crate::batch::runs;
use crate::error::{Error, Result};
use crate::policy::Example;
use crate::schema::{col, posterior};
use crate::token_file::TokenRow;

/// Rows of a part.
const ROWS: usize = 512;

/// Key of a part's metadata that says what it is a part of.
const MARK: &str = "lpc_pipe.examined";
/// Key of the metadata with the sum of the swap overlaps.
const OVERLAPS: &str = "lpc_pipe.swap_overlaps";

/// The parts of a split of so many rows. Neighbouring rows with the same key are in one part.
pub fn ranges(rows: usize, keys: Option<&[u64]>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    let ends: Vec<usize> = match keys {
        Some(keys) => runs(keys).into_iter().map(|run| run.end).collect(),
        None => (0..rows).step_by(ROWS).map(|at| rows.min(at + ROWS)).collect(),
    };
    for end in ends {
        if end - start >= ROWS || end == rows {
            out.push(start..end);
            start = end;
        }
    }
    out
}

/// What evaluation found of rows of one split that follow one another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExaminedPart {
    /// The examples, without their log-probabilities under single codes.
    pub examples: Vec<Example>,
    /// Their margins.
    pub margins: Margins,
    /// Sum of their swap overlaps, where the posterior is Bayes'.
    pub swap_overlaps: Option<f64>,
}

impl ExaminedPart {
    /// Adds to evaluated rows what follows from their log-probabilities.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn of(
        rows: &[TokenRow],
        mut examples: Vec<Example>,
        reference: Option<&[(f64, f64)]>,
        keys: Option<&[u64]>,
        context: PosteriorContext<'_>,
    ) -> Result<ExaminedPart> {
        let swap_overlaps = add_posteriors(rows, &mut examples, reference, keys, context)?;
        let margins = Margins::of(&SplitExamples { split: "", rows, examples: &examples, reference }, context)?;
        examples.iter_mut().for_each(|example| example.code_logps = Vec::new());
        Ok(ExaminedPart { examples, margins, swap_overlaps })
    }
}

/// The folder of the parts of one run.
#[derive(Debug)]
pub struct ExaminedParts {
    folder: PathBuf,
    /// What all parts are of: the trained policy and its data.
    of: String,
}

impl ExaminedParts {
    /// The parts in a folder. Those of another policy or other data do not count.
    pub fn in_folder(folder: PathBuf, of: String) -> ExaminedParts {
        ExaminedParts { folder, of }
    }

    fn path(&self, split: &str, rows: &Range<usize>) -> PathBuf {
        self.folder.join(format!("{split}-{:09}.parquet", rows.start))
    }

    /// Keeps a part.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Parquet`].
    pub fn write(&self, rows: &SplitExamples<'_>, range: &Range<usize>, part: &ExaminedPart) -> Result<()> {
        let table = batch(rows, &part.margins)?;
        let mut marks = vec![(MARK.to_string(), self.of.clone())];
        marks.extend(part.swap_overlaps.map(|sum| (OVERLAPS.to_string(), sum.to_bits().to_string())));
        write(&self.path(rows.split, range), table.schema(), &marks, [Ok(table)])
    }

    /// A part that was kept; `None` where there is none of these rows.
    ///
    /// # Errors
    /// [`Error::Artifact`] where it is damaged.
    pub fn read(&self, split: &str, range: &Range<usize>, rows: &[TokenRow]) -> Result<Option<ExaminedPart>> {
        let path = self.path(split, range);
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let damaged = |what: &dyn std::fmt::Display| Error::artifact(&path, format!("damaged: {what}"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(&e))?;
        let marks = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let mark = |key: &str| marks.iter().find(|mark| mark.key == key).and_then(|mark| mark.value.clone());
        if mark(MARK).as_ref() != Some(&self.of) {
            return Ok(None);
        }
        let swap_overlaps = match mark(OVERLAPS) {
            Some(bits) => Some(f64::from_bits(bits.parse().map_err(|e| damaged(&e))?)),
            None => None,
        };
        let schema = reader.schema().clone();
        let batches: std::result::Result<Vec<_>, _> = reader.build().map_err(|e| damaged(&e))?.collect();
        let table = concat_batches(&schema, &batches.map_err(|e| damaged(&e))?)?;
        let ids = table.column_by_name(col::ID).and_then(|c| c.as_string_opt::<i32>());
        let same = ids.is_some_and(|ids| {
            ids.len() == rows.len() && ids.iter().zip(rows).all(|(id, row)| id == Some(row.id.as_str()))
        });
        if !same {
            return Ok(None);
        }
        part_of(&table, swap_overlaps, &path).map(Some)
    }

    /// Removes all parts. What cannot be removed does no harm.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What [`batch`] made of a part, read back.
fn part_of(table: &RecordBatch, swap_overlaps: Option<f64>, path: &Path) -> Result<ExaminedPart> {
    let lacks = |name: &str| Error::artifact(path, format!("damaged: no column `{name}` of this version"));
    let column = |name: &str| table.column_by_name(name).ok_or_else(|| lacks(name));
    let numbers = |name: &str| -> Result<Vec<f64>> {
        let column = column(name)?.as_primitive_opt::<Float64Type>().ok_or_else(|| lacks(name))?;
        Ok(column.values().to_vec())
    };
    let lists = |name: &str| -> Result<Vec<Vec<f32>>> {
        let lists = column(name)?.as_list_opt::<i32>().ok_or_else(|| lacks(name))?;
        let of = |i: usize| lists.value(i).as_primitive_opt::<Float32Type>().map(|list| list.values().to_vec());
        (0..lists.len()).map(|i| of(i).ok_or_else(|| lacks(name))).collect()
    };
    let pairs = |first: &str, second: &str| -> Result<Vec<(f64, f64)>> {
        Ok(numbers(first)?.into_iter().zip(numbers(second)?).collect())
    };
    let (priors, posteriors) = (lists(posterior::PRIOR)?, lists(posterior::POSTERIOR)?);
    let kl = numbers(posterior::KL)?;
    let entropies = pairs(posterior::PRIOR_ENTROPY, posterior::POSTERIOR_ENTROPY)?;
    let logps = pairs(posterior::LOGPS_CHOSEN, posterior::LOGPS_REJECTED)?;
    let examples = priors.into_iter().zip(posteriors).enumerate().map(|(i, (prior, posterior))| Example {
        prior,
        posterior,
        kl: kl[i],
        prior_entropy: entropies[i].0,
        posterior_entropy: entropies[i].1,
        logps: logps[i],
        ..Example::default()
    });
    let labels = if table.column_by_name(posterior::CLEAN_PROBABILITY).is_some() {
        LabelFindings::Clean(numbers(posterior::CLEAN_PROBABILITY)?)
    } else if table.column_by_name(posterior::SUSPECT).is_some() {
        LabelFindings::Suspects(None)
    } else {
        LabelFindings::Nothing
    };
    let margins = Margins {
        of_pairs: pairs(col::MARGIN, posterior::MARGIN_POSTERIOR)?,
        of_codes: lists(col::CODE_MARGINS)?,
        labels,
    };
    Ok(ExaminedPart { examples: examples.collect(), margins, swap_overlaps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_with_groups() {
        assert!(ranges(0, None).is_empty() && ranges(0, Some(&[])).is_empty());
        assert_eq!(ranges(ROWS + 1, None), [0..ROWS, ROWS..ROWS + 1]);
        // 200 groups of three: the part ends with the group that fills it.
        let keys: Vec<u64> = (0..600).map(|i| i / 3).collect();
        assert_eq!(ranges(600, Some(&keys)), [0..513, 513..600]);
        assert_eq!(ranges(2 * ROWS, Some(&vec![7; 2 * ROWS])).len(), 1);
    }

    #[test]
    fn a_part_comes_back_to_the_bit_and_another_runs_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let row = |id: &str| TokenRow { id: id.into(), ..TokenRow::default() };
        let rows = [row("a"), row("b")];
        let example = |p: f32| Example {
            prior: vec![p, 1.0 - p],
            posterior: vec![1.0 - p, p],
            kl: 0.1 + f64::from(p),
            prior_entropy: 0.2,
            posterior_entropy: 0.3,
            logps: (-1.0 / 3.0, -2.5),
            ..Example::default()
        };
        for labels in
            [LabelFindings::Nothing, LabelFindings::Clean(vec![0.25, 1.0 / 3.0]), LabelFindings::Suspects(None)]
        {
            let margins =
                Margins { of_pairs: vec![(0.1, 0.2), (0.3, -0.4)], of_codes: vec![vec![0.5, 0.25]; 2], labels };
            let examples = vec![example(0.25), example(0.1)];
            let part = ExaminedPart { examples, margins, swap_overlaps: Some(1.0 / 7.0) };
            let parts = ExaminedParts::in_folder(dir.path().join("parts"), "this run".into());
            let view = SplitExamples { split: "train", rows: &rows, examples: &part.examples, reference: None };
            parts.write(&view, &(3..5), &part).unwrap();
            assert_eq!(parts.read("train", &(3..5), &rows).unwrap(), Some(part));
            assert_eq!(parts.read("train", &(4..6), &rows).unwrap(), None);
            assert_eq!(parts.read("train", &(3..5), &[row("a"), row("c")]).unwrap(), None);
            let other = ExaminedParts::in_folder(dir.path().join("parts"), "another run".into());
            assert_eq!(other.read("train", &(3..5), &rows).unwrap(), None);
            std::fs::write(parts.path("train", &(3..5)), b"PAR1").unwrap();
            assert!(parts.read("train", &(3..5), &rows).unwrap_err().to_string().contains("damaged"));
            parts.remove();
            assert_eq!(parts.read("train", &(3..5), &rows).unwrap(), None);
        }
    }
}
