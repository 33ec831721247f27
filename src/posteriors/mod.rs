//! Code posteriors of every pair under a trained policy (`posteriors.parquet`), and what each code does
//! (`codes.parquet`).
//!
//! `posteriors.parquet` has one row for each examined pair, in the order of the token files. The column `margin` is
//! computed with the prior's z. Columns of the posterior are computed from the observed label, and measure nothing
//! that is to be predicted from the prompt.

pub mod bayes;
pub mod codes;
pub mod evaluation;
mod margins;
mod split_examples;
pub mod usage;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Builder, Float64Array, ListBuilder, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use polars::prelude::{Column, DataFrame, NamedFrom, Series};

use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::usage::hard_code;
use crate::policy::Example;
use crate::schema::{col, posterior};
pub use bayes::{PosteriorContext, add_posteriors};
pub use margins::{LabelFindings, Margins};
pub use split_examples::SplitExamples;

/// Rows per record batch and row group.
const ROWS_PER_GROUP: usize = 16_384;

/// Writes the posteriors of all splits, atomically; the rows are counted before the rename.
///
/// # Errors
/// [`Error::Io`], [`Error::Parquet`].
pub fn write(path: &Path, splits: &[SplitExamples<'_>], margins: &[Margins]) -> Result<()> {
    let none = SplitExamples { split: "", rows: &[], examples: &[], reference: None };
    let labels = margins.first().map(|m| m.labels.slice(0..0)).unwrap_or_default();
    let schema = to_batch(&none, &Margins { labels, ..Margins::default() })?.schema();
    let total: usize = splits.iter().map(|s| s.rows.len()).sum();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    artifact::write_rows(
        path,
        |w| {
            let mut writer = ArrowWriter::try_new(w, schema, Some(properties))?;
            for (split, margins) in splits.iter().zip(margins) {
                for start in (0..split.rows.len()).step_by(ROWS_PER_GROUP) {
                    let end = split.rows.len().min(start + ROWS_PER_GROUP);
                    let chunk = SplitExamples {
                        split: split.split,
                        rows: &split.rows[start..end],
                        examples: &split.examples[start..end],
                        reference: split.reference.map(|r| &r[start..end]),
                    };
                    let margins = Margins {
                        of_pairs: margins.of_pairs[start..end].to_vec(),
                        of_codes: margins.of_codes[start..end].to_vec(),
                        labels: margins.labels.slice(start..end),
                    };
                    writer.write(&to_batch(&chunk, &margins)?)?;
                }
            }
            writer.close()?;
            Ok(total)
        },
        |staged| {
            let file = std::fs::File::open(staged).map_err(Error::io(path))?;
            Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows() as usize)
        },
    )?;
    Ok(())
}

fn to_batch(split: &SplitExamples<'_>, found: &Margins) -> Result<RecordBatch> {
    let (margins, code_margins) = (&found.of_pairs, &found.of_codes);
    let (rows, examples) = (split.rows, split.examples);
    let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let number = |get: &dyn Fn(usize) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from((0..rows.len()).map(get).collect::<Vec<f64>>()))
    };
    let whole = |get: &dyn Fn(usize) -> usize| -> ArrayRef {
        Arc::new(UInt32Array::from((0..rows.len()).map(|i| get(i) as u32).collect::<Vec<u32>>()))
    };
    let lists = |lists: &mut dyn Iterator<Item = &Vec<f32>>| -> ArrayRef {
        let item = Field::new("item", DataType::Float32, false);
        let mut builder = ListBuilder::new(Float32Builder::new()).with_field(item);
        for list in lists {
            builder.values().append_slice(list);
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let reference = |side: fn(&(f64, f64)) -> f64| -> ArrayRef {
        let values: Vec<Option<f64>> = match split.reference {
            Some(r) => r.iter().map(|r| Some(side(r))).collect(),
            None => vec![None; rows.len()],
        };
        Arc::new(Float64Array::from(values))
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        (col::ID, text(rows.iter().map(|r| r.id.as_str()).collect())),
        (col::PROMPT_ID, text(rows.iter().map(|r| r.prompt_id.as_str()).collect())),
        (col::SOURCE, text(rows.iter().map(|r| r.source.as_str()).collect())),
        (col::SPLIT, text(vec![split.split; rows.len()])),
        (col::FLIPPED, Arc::new(BooleanArray::from(rows.iter().map(|r| r.flipped).collect::<Vec<bool>>()))),
        (col::NOISE_KIND, text(rows.iter().map(|r| r.noise_kind.as_str()).collect())),
        (col::NOISE_P, number(&|i| rows[i].noise_p)),
        (posterior::PRIOR, lists(&mut examples.iter().map(|e| &e.prior))),
        (posterior::POSTERIOR, lists(&mut examples.iter().map(|e| &e.posterior))),
        (posterior::PRIOR_CODE, whole(&|i| hard_code(&examples[i].prior).unwrap_or(0))),
        (posterior::POSTERIOR_CODE, whole(&|i| hard_code(&examples[i].posterior).unwrap_or(0))),
        (posterior::KL, number(&|i| examples[i].kl)),
        (posterior::PRIOR_ENTROPY, number(&|i| examples[i].prior_entropy)),
        (posterior::POSTERIOR_ENTROPY, number(&|i| examples[i].posterior_entropy)),
        (posterior::LOGPS_CHOSEN, number(&|i| examples[i].logps.0)),
        (posterior::LOGPS_REJECTED, number(&|i| examples[i].logps.1)),
        (posterior::REF_CHOSEN, reference(|r| r.0)),
        (posterior::REF_REJECTED, reference(|r| r.1)),
        (col::MARGIN, number(&|i| margins[i].0)),
        (posterior::MARGIN_POSTERIOR, number(&|i| margins[i].1)),
        (col::N_CHOSEN, whole(&|i| rows[i].chosen_ids.len())),
        (col::N_REJECTED, whole(&|i| rows[i].rejected_ids.len())),
        (col::CODE_MARGINS, lists(&mut code_margins.iter())),
    ];
    match &found.labels {
        LabelFindings::Nothing => {}
        LabelFindings::Clean(clean) => {
            columns.push((posterior::CLEAN_PROBABILITY, Arc::new(Float64Array::from(clean.clone()))));
        }
        LabelFindings::Suspects(suspects) => {
            let of = |i: usize| suspects.as_ref().map(|(_, suspects)| suspects[i]);
            let suspects: Vec<Option<bool>> = (0..rows.len()).map(of).collect();
            columns.push((posterior::SUSPECT, Arc::new(BooleanArray::from(suspects))));
        }
    }
    let nullable = [posterior::REF_CHOSEN, posterior::REF_REJECTED, posterior::SUSPECT];
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, c)| (name, c, nullable.contains(&name))),
    )?)
}

/// The columns of `posteriors.parquet` that the tables of a run are made from, as a frame: split, source, flipped, both
/// codes, both margins, the prior, and the margins of single codes.
///
/// # Errors
/// [`Error::Frame`].
pub fn frame(splits: &[SplitExamples<'_>], margins: &[Margins]) -> Result<DataFrame> {
    let rows = || splits.iter().flat_map(|s| s.rows);
    let examples = || splits.iter().flat_map(|s| s.examples);
    let of_pairs = || margins.iter().flat_map(|m| &m.of_pairs);
    let code = |name: &str, get: fn(&Example) -> &Vec<f32>| {
        Column::new(name.into(), examples().map(|e| hard_code(get(e)).unwrap_or(0) as u32).collect::<Vec<u32>>())
    };
    let lists = |name: &str, lists: &mut dyn Iterator<Item = &Vec<f32>>| {
        Column::new(name.into(), lists.map(|list| Series::new("".into(), list.as_slice())).collect::<Vec<Series>>())
    };
    let split_of = splits.iter().flat_map(|s| std::iter::repeat_n(s.split, s.rows.len()));
    let columns = vec![
        Column::new(col::SOURCE.into(), rows().map(|r| r.source.as_str()).collect::<Vec<&str>>()),
        Column::new(col::SPLIT.into(), split_of.collect::<Vec<&str>>()),
        Column::new(col::FLIPPED.into(), rows().map(|r| r.flipped).collect::<Vec<bool>>()),
        lists(posterior::PRIOR, &mut examples().map(|e| &e.prior)),
        code(posterior::PRIOR_CODE, |e| &e.prior),
        code(posterior::POSTERIOR_CODE, |e| &e.posterior),
        Column::new(col::MARGIN.into(), of_pairs().map(|m| m.0).collect::<Vec<f64>>()),
        Column::new(posterior::MARGIN_POSTERIOR.into(), of_pairs().map(|m| m.1).collect::<Vec<f64>>()),
        lists(col::CODE_MARGINS, &mut margins.iter().flat_map(|m| &m.of_codes)),
    ];
    Ok(DataFrame::new(rows().count(), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpc::LpcConfig;
    use crate::objective::{ObjectiveConfig, ObjectiveKind};
    use crate::token_file::TokenRow;

    #[test]
    fn rows_are_written_with_margins_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posteriors.parquet");
        let rows = [TokenRow {
            id: "a".into(),
            prompt_id: "p".into(),
            prompt_ids: vec![1],
            chosen_ids: vec![1, 2],
            rejected_ids: vec![3],
            ..TokenRow::default()
        }];
        let examples = [Example {
            prior: vec![0.25, 0.75],
            posterior: vec![0.5, 0.5],
            logps: (-3.0, -4.0),
            logps_posterior: (-2.0, -4.0),
            ..Example::default()
        }];
        let split = SplitExamples { split: "test", rows: &rows, examples: &examples, reference: Some(&[(-3.5, -3.0)]) };
        let lpc = LpcConfig::default();
        let margins = |name| {
            let objective = ObjectiveConfig { name, ..ObjectiveConfig::default() }.resolved();
            Margins::of(&split, PosteriorContext { objective: &objective, lpc: &lpc, flips: None }).unwrap()
        };
        // beta 0.1: ((-3 + 3.5) - (-4 + 3)) * 0.1 = 0.15; with the posterior ((-2 + 3.5) + 1) * 0.1 = 0.25.
        let dpo = margins(ObjectiveKind::Dpo);
        let got = dpo.of_pairs[0];
        assert!((got.0 - 0.15).abs() < 1e-12 && (got.1 - 0.25).abs() < 1e-12);
        // beta 2: (-3/2 - -4/1) * 2 = 5.
        assert!((margins(ObjectiveKind::Simpo).of_pairs[0].0 - 5.0).abs() < 1e-12);
        let (splits, margins) = ([split], [dpo]);
        write(&path, &splits, &margins).unwrap();
        let file = artifact::read_parquet(&path).unwrap();
        assert_eq!(file.height(), 1);
        let code = file.column(posterior::PRIOR_CODE).unwrap().u32().unwrap().get(0);
        let tie = file.column(posterior::POSTERIOR_CODE).unwrap().u32().unwrap().get(0);
        assert_eq!((code, tie), (Some(1), Some(0)));
        assert_eq!(file.column(col::PROMPT_ID).unwrap().str().unwrap().get(0), Some("p"));
        // The frame has the values of the file.
        let frame = frame(&splits, &margins).unwrap();
        for column in frame.columns() {
            assert!(column.equals(file.column(column.name()).unwrap()), "{}", column.name());
        }
    }
}
