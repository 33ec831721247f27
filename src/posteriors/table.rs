//! The table of examined pairs, `posteriors.parquet`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Builder, Float64Array, ListBuilder, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::{LabelFindings, Margins, SplitExamples};
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::usage::hard_code;
use crate::objective::ObjectiveConfig;
use crate::schema::{col, posterior};

/// Rows of a row group.
const ROWS_PER_GROUP: usize = 16_384;

/// The columns of the table; the objective decides what is said of the labels.
///
/// # Errors
/// [`Error::Arrow`].
pub fn schema(objective: &ObjectiveConfig) -> Result<SchemaRef> {
    let none = SplitExamples { split: "", rows: &[], examples: &[], reference: None };
    Ok(batch(&none, &Margins { labels: LabelFindings::none(objective), ..Margins::default() })?.schema())
}

/// Writes rows that [`batch`] made, atomically, with key-value pairs in the file's metadata; the rows are counted before
/// the rename.
///
/// # Errors
/// [`Error::Io`], [`Error::Parquet`], and those of the rows.
pub fn write(
    path: &Path,
    schema: SchemaRef,
    marks: &[(String, String)],
    batches: impl IntoIterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    let marks = marks.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_key_value_metadata(Some(marks))
        .build();
    artifact::write_rows(
        path,
        |w| {
            let mut writer = ArrowWriter::try_new(w, schema, Some(properties))?;
            let mut rows = 0;
            for batch in batches {
                let batch = batch?;
                rows += batch.num_rows();
                writer.write(&batch)?;
            }
            writer.close()?;
            Ok(rows)
        },
        |staged| {
            let file = std::fs::File::open(staged).map_err(Error::io(path))?;
            Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows() as usize)
        },
    )?;
    Ok(())
}

/// Examined pairs as rows of `posteriors.parquet`.
///
/// # Errors
/// [`Error::Arrow`].
pub fn batch(split: &SplitExamples<'_>, found: &Margins) -> Result<RecordBatch> {
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
