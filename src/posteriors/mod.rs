//! What a trained policy infers of every pair: `posteriors.parquet`, and `codes.parquet` on what each code does.
//!
//! `posteriors.parquet` has one row for each examined pair, in the order of the token files. The column `margin` is
//! computed with the prior's z. Columns of the posterior are computed from the observed label, and measure nothing
//! that is to be predicted from the prompt.

pub mod bayes;
pub mod codes;
pub mod evaluation;
mod margins;
pub mod usage;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Builder, Float64Array, ListBuilder, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
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
use crate::token_file::TokenRow;
pub use bayes::{PosteriorContext, add_posteriors};
pub use margins::Margins;

/// Rows per record batch and row group.
const ROWS_PER_GROUP: usize = 16_384;

/// One split's rows with what evaluation found of them.
#[derive(Debug)]
pub struct SplitExamples<'a> {
    /// Split name.
    pub split: &'a str,
    /// Token rows.
    pub rows: &'a [TokenRow],
    /// Evaluation, row by row.
    pub examples: &'a [Example],
    /// Reference log-probabilities, row by row; `None` where the objective has none.
    pub reference: Option<&'a [(f64, f64)]>,
}

fn schema() -> Schema {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let number = |name| Field::new(name, DataType::Float64, false);
    let whole = |name| Field::new(name, DataType::UInt32, false);
    let weights =
        |name| Field::new(name, DataType::List(Arc::new(Field::new("item", DataType::Float32, false))), false);
    Schema::new(vec![
        text(col::ID),
        text(col::PROMPT_ID),
        text(col::SOURCE),
        text(col::SPLIT),
        Field::new(col::FLIPPED, DataType::Boolean, false),
        text(col::NOISE_KIND),
        number(col::NOISE_P),
        weights(posterior::PRIOR),
        weights(posterior::POSTERIOR),
        whole(posterior::PRIOR_CODE),
        whole(posterior::POSTERIOR_CODE),
        number(posterior::KL),
        number(posterior::PRIOR_ENTROPY),
        number(posterior::POSTERIOR_ENTROPY),
        number(posterior::LOGPS_CHOSEN),
        number(posterior::LOGPS_REJECTED),
        Field::new(posterior::REF_CHOSEN, DataType::Float64, true),
        Field::new(posterior::REF_REJECTED, DataType::Float64, true),
        number(col::MARGIN),
        number(posterior::MARGIN_POSTERIOR),
        whole(col::N_CHOSEN),
        whole(col::N_REJECTED),
        weights(col::CODE_MARGINS),
    ])
}

/// Writes the posteriors of all splits, atomically; the rows are counted before the rename.
///
/// # Errors
/// [`Error::Io`], [`Error::Parquet`].
pub fn write(path: &Path, splits: &[SplitExamples<'_>], margins: &[Margins]) -> Result<()> {
    let schema = Arc::new(schema());
    let total: usize = splits.iter().map(|s| s.rows.len()).sum();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    artifact::write_verified(
        path,
        |w| {
            let mut writer = ArrowWriter::try_new(w, schema.clone(), Some(properties))?;
            for (split, margins) in splits.iter().zip(margins) {
                for start in (0..split.rows.len()).step_by(ROWS_PER_GROUP) {
                    let end = split.rows.len().min(start + ROWS_PER_GROUP);
                    let chunk = SplitExamples {
                        split: split.split,
                        rows: &split.rows[start..end],
                        examples: &split.examples[start..end],
                        reference: split.reference.map(|r| &r[start..end]),
                    };
                    let (of_pairs, of_codes) = (&margins.of_pairs[start..end], &margins.of_codes[start..end]);
                    writer.write(&to_batch(&schema, &chunk, of_pairs, of_codes)?)?;
                }
            }
            writer.close()?;
            Ok(())
        },
        |staged| {
            let file = std::fs::File::open(staged).map_err(Error::io(path))?;
            let found = ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows();
            if found != total as i64 {
                return Err(Error::artifact(path, format!("wrote {total} rows, read back {found}")));
            }
            Ok(())
        },
    )
}

fn to_batch(
    schema: &Arc<Schema>,
    split: &SplitExamples<'_>,
    margins: &[(f64, f64)],
    code_margins: &[Vec<f32>],
) -> Result<RecordBatch> {
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
    Ok(RecordBatch::try_new(
        schema.clone(),
        vec![
            text(rows.iter().map(|r| r.id.as_str()).collect()),
            text(rows.iter().map(|r| r.prompt_id.as_str()).collect()),
            text(rows.iter().map(|r| r.source.as_str()).collect()),
            text(vec![split.split; rows.len()]),
            Arc::new(BooleanArray::from(rows.iter().map(|r| r.flipped).collect::<Vec<bool>>())),
            text(rows.iter().map(|r| r.noise_kind.as_str()).collect()),
            number(&|i| rows[i].noise_p),
            lists(&mut examples.iter().map(|e| &e.prior)),
            lists(&mut examples.iter().map(|e| &e.posterior)),
            whole(&|i| hard_code(&examples[i].prior).unwrap_or(0)),
            whole(&|i| hard_code(&examples[i].posterior).unwrap_or(0)),
            number(&|i| examples[i].kl),
            number(&|i| examples[i].prior_entropy),
            number(&|i| examples[i].posterior_entropy),
            number(&|i| examples[i].logps.0),
            number(&|i| examples[i].logps.1),
            reference(|r| r.0),
            reference(|r| r.1),
            number(&|i| margins[i].0),
            number(&|i| margins[i].1),
            whole(&|i| rows[i].chosen_ids.len()),
            whole(&|i| rows[i].rejected_ids.len()),
            lists(&mut code_margins.iter()),
        ],
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
        // What the tables are made from is what the file says.
        let frame = frame(&splits, &margins).unwrap();
        for column in frame.columns() {
            assert!(column.equals(file.column(column.name()).unwrap()), "{}", column.name());
        }
    }
}
