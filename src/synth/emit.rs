//! Writes rows: a line of JSON in raw UltraFeedback shape, and a row of the truth table, for each.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Builder, ListBuilder, RecordBatch, StringArray, UInt32Array, UInt32Builder,
    UInt64Array, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::row::{Completion, Row, text_hash};
use super::world::{self, SOURCES};
use super::{CHUNK, SynthConfig};
use crate::artifact;
use crate::error::{Error, Result};
use crate::message::USER;
use crate::schema::col;

/// Columns of `truth.parquet` beyond `prompt_id` and `source`.
pub(super) mod truth {
    /// Row of the corpus, from 0, in the order in which prompts were planted; its line where the corpus is one file.
    pub const ROW: &str = "row";
    /// Whether the prompt asks for what decides.
    pub const SHOWN: &str = "shown";
    /// The deciding factor.
    pub const FACTOR: &str = "factor";
    /// The liked style bit of that factor.
    pub const DIRECTION: &str = "direction";
    /// Preference id: factor and direction.
    pub const PREFERENCE: &str = "preference";
    /// The annotator who decided; null where the prompt asks for the preference.
    pub const ANNOTATOR: &str = "annotator";
    /// Style of each completion; bit f is factor f.
    pub const STYLES: &str = "styles";
    /// First 8 bytes, little endian, of the BLAKE3 of each response.
    pub const HASHES: &str = "response_hashes";
    /// Overall score of each completion.
    pub const SCORES: &str = "scores";
    /// Probability of every preference given the source.
    pub const PRIOR: &str = "prior";
    /// Real texts only: probability of every preference among those that can decide this row.
    pub const POSSIBLE: &str = "possible";
    /// Real texts only: value of every trait of each completion, completion after completion.
    pub const VALUES: &str = "trait_values";
    /// Real texts only: utility of each completion for every preference, completion after completion.
    pub const UTILITIES: &str = "utilities";
    /// Real texts only: temperature of the annotators.
    pub const TEMPERATURE: &str = "temperature";
}

#[derive(Serialize)]
struct Line<'a, A> {
    source: &'a str,
    instruction: &'a str,
    models: Vec<Option<&'a str>>,
    completions: Vec<A>,
    correct_answers: [&'a str; 1],
    incorrect_answers: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    annotator: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    response: &'a str,
    annotations: Annotations<'a>,
    overall_score: f64,
    #[serde(rename = "fine-grained_score")]
    fine_grained_score: f64,
}

#[derive(Serialize)]
struct Annotations<'a> {
    instruction_following: Aspect<'a>,
    honesty: Aspect<'a>,
    truthfulness: Aspect<'a>,
    helpfulness: Aspect<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aspect<'a> {
    rating: &'a str,
    rationale: &'a str,
}

fn aspect(rating: Option<u8>) -> Aspect<'static> {
    let (rating, rationale) = match rating {
        Some(5) => ("5", "Fully meets the aim."),
        Some(4) => ("4", "Meets the aim with a small gap."),
        Some(3) => ("3", "Meets the aim in part."),
        Some(2) => ("2", "Misses most of the aim."),
        Some(_) => ("1", "Misses the aim."),
        None => ("N/A", "Does not apply here."),
    };
    Aspect { rating, rationale }
}

fn answer(completion: &Completion) -> Answer<'_> {
    let [a, b, c, d] = completion.ratings.map(aspect);
    let rated: Vec<f64> = completion.ratings.iter().flatten().map(|&r| f64::from(r)).collect();
    Answer {
        model: completion.model,
        response: &completion.response,
        annotations: Annotations { instruction_following: a, honesty: b, truthfulness: c, helpfulness: d },
        overall_score: completion.overall,
        // The mean of the rated aspects, or the middle of the scale where none was rated.
        fine_grained_score: if rated.is_empty() { 3.0 } else { rated.iter().sum::<f64>() / rated.len() as f64 },
    }
}

/// The row as one line of JSON, with its end of line.
pub(super) fn line(row: &Row, config: &SynthConfig) -> Result<Vec<u8>> {
    let models = row.completions.iter().map(|c| Some(c.model)).collect();
    let completions = row.completions.iter().map(answer).collect();
    line_of(SOURCES[row.source].name, &row.instruction, models, completions, row.annotator, config)
}

/// A prompt and its completions as one line of JSON in raw UltraFeedback shape, with its end of line.
pub(super) fn line_of<A: Serialize>(
    source: &str,
    instruction: &str,
    models: Vec<Option<&str>>,
    completions: Vec<A>,
    annotator: Option<u32>,
    config: &SynthConfig,
) -> Result<Vec<u8>> {
    let annotator = annotator.filter(|_| config.annotators).map(|a| format!("annotator-{a}"));
    // As in UltraFeedback for a question without fixed answers.
    let (correct_answers, incorrect_answers) = (["None"], ["None"]);
    let line = Line { source, instruction, models, completions, correct_answers, incorrect_answers, annotator };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Appends lines to the corpus; `path` is for errors only.
pub(super) fn write_lines(path: &Path, out: &mut impl Write, lines: &[Vec<u8>]) -> Result<()> {
    lines.iter().try_for_each(|line| out.write_all(line)).map_err(Error::io(path))
}

/// Writes the truth table, a chunk of rows at a time.
pub(super) struct TruthWriter<'a, 'f> {
    writer: ArrowWriter<&'a mut BufWriter<&'f mut File>>,
    /// The columns.
    pub schema: Arc<Schema>,
}

/// A column of lists without nulls.
pub(super) fn list(name: &str, kind: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", kind, false))), false)
}

/// Columns of a truth table: those that every one has, then its own.
pub(super) fn schema_with(own: impl IntoIterator<Item = Field>) -> Schema {
    let shared = [
        Field::new(col::PROMPT_ID, DataType::Utf8, false),
        Field::new(truth::ROW, DataType::UInt64, false),
        Field::new(col::SOURCE, DataType::Utf8, false),
        Field::new(truth::SHOWN, DataType::Boolean, false),
        Field::new(truth::FACTOR, DataType::UInt32, false),
        Field::new(truth::DIRECTION, DataType::UInt32, false),
        Field::new(truth::PREFERENCE, DataType::UInt32, false),
        Field::new(truth::ANNOTATOR, DataType::UInt32, true),
    ];
    Schema::new(shared.into_iter().chain(own).collect::<Vec<_>>())
}

pub(super) fn schema() -> Schema {
    schema_with([
        list(truth::STYLES, DataType::UInt32),
        list(truth::HASHES, DataType::UInt64),
        list(truth::SCORES, DataType::Float64),
        list(truth::PRIOR, DataType::Float64),
    ])
}

/// Writes the truth table at `path`: `fill` gets a writer, calls it chunk by chunk and returns the number of
/// rows, which is read back before the file appears.
pub(super) fn write_truth(
    path: &Path,
    schema: Schema,
    fill: impl FnOnce(&mut TruthWriter<'_, '_>) -> Result<u64>,
) -> Result<()> {
    artifact::write_rows(
        path,
        |out| {
            let schema = Arc::new(schema);
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
                .set_max_row_group_row_count(Some(8 * CHUNK as usize))
                .build();
            let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
            let mut truth = TruthWriter { writer, schema };
            let rows = fill(&mut truth)?;
            truth.writer.close()?;
            Ok(rows as usize)
        },
        |staged| {
            let file = File::open(staged).map_err(Error::io(path))?;
            Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows() as usize)
        },
    )?;
    Ok(())
}

impl TruthWriter<'_, '_> {
    /// Appends a batch of rows with this table's columns.
    pub(super) fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.writer.write(batch)?)
    }

    /// Appends rows.
    pub(super) fn write(&mut self, rows: &[Row], config: &SynthConfig) -> Result<()> {
        let liked = world::preferences(config.factors);
        let priors: Vec<Vec<f64>> = SOURCES.iter().map(|s| s.prior(config.factors)).collect();
        let numbers =
            |get: &dyn Fn(&Row) -> u32| -> ArrayRef { Arc::new(UInt32Array::from_iter_values(rows.iter().map(get))) };
        let (mut styles, mut hashes) =
            (list_of(UInt32Builder::new(), DataType::UInt32), list_of(UInt64Builder::new(), DataType::UInt64));
        let (mut scores, mut prior) =
            (list_of(Float64Builder::new(), DataType::Float64), list_of(Float64Builder::new(), DataType::Float64));
        for row in rows {
            for completion in &row.completions {
                styles.values().append_value(completion.style);
                hashes.values().append_value(text_hash(&completion.response));
                scores.values().append_value(completion.overall);
            }
            prior.values().append_slice(&priors[row.source]);
            styles.append(true);
            hashes.append(true);
            scores.append(true);
            prior.append(true);
        }
        let batch = RecordBatch::try_new(
            self.schema.clone(),
            vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| prompt_id(&r.instruction)))),
                Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.row))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| SOURCES[r.source].name))),
                Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.shown)))),
                numbers(&|r| liked[r.preference].factor as u32),
                numbers(&|r| liked[r.preference].direction as u32),
                numbers(&|r| r.preference as u32),
                Arc::new(UInt32Array::from_iter(rows.iter().map(|r| r.annotator))),
                Arc::new(styles.finish()),
                Arc::new(hashes.finish()),
                Arc::new(scores.finish()),
                Arc::new(prior.finish()),
            ],
        )?;
        self.append(&batch)
    }
}

pub(super) fn list_of<B: arrow::array::ArrayBuilder>(values: B, kind: DataType) -> ListBuilder<B> {
    ListBuilder::new(values).with_field(Field::new("item", kind, false))
}

/// Lower-case hex SHA-256 of the prompt text.
pub(super) fn prompt_id(instruction: &str) -> String {
    crate::prompt::id(std::iter::once((USER, instruction)))
}
