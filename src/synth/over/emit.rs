//! Writes planted prompts: lines of JSON in raw UltraFeedback shape, and rows of the truth table.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Float64Builder, RecordBatch, StringArray, UInt32Array, UInt64Array,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema};
use serde::Serialize;

use super::row::{Answer, Planted, PlantingPlan};
use crate::error::Result;
use crate::synth::SynthConfig;
use crate::synth::emit::{TruthWriter, line_of, list, list_of, prompt_id, schema_with, truth};

/// A completion without ratings by aspect, since the planted annotators did not give those of the input.
#[derive(Serialize)]
struct Scored<'a> {
    model: Option<&'a str>,
    response: &'a str,
    overall_score: f64,
}

/// The prompt as one line of JSON, with its end of line.
pub(super) fn line<'a>(row: &'a Planted, config: &SynthConfig) -> Result<Vec<u8>> {
    let scored = |a: &'a Answer| Scored { model: a.model.as_deref(), response: &a.text, overall_score: a.score };
    let models = row.answers.iter().map(|a| a.model.as_deref()).collect();
    line_of(&row.source, &row.instruction, models, row.answers.iter().map(scored).collect(), row.annotator, config)
}

/// Columns of the truth over real texts: those of made-up texts without the style bits, which real texts do not have,
/// and the columns that the ceilings need instead.
pub(super) fn schema() -> Schema {
    schema_with([
        list(truth::HASHES, DataType::UInt64),
        list(truth::SCORES, DataType::Float64),
        list(truth::PRIOR, DataType::Float64),
        list(truth::POSSIBLE, DataType::Float64),
        list(truth::VALUES, DataType::Float64),
        list(truth::UTILITIES, DataType::Float64),
        Field::new(truth::TEMPERATURE, DataType::Float64, false),
    ])
}

/// Appends planted prompts to the truth, the first as row `first`.
pub(super) fn append(
    writer: &mut TruthWriter<'_, '_>,
    rows: &[Planted],
    plan: &PlantingPlan,
    first: u64,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let numbers = |get: &dyn Fn(&Planted) -> usize| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| get(r) as u32)))
    };
    let floats = |get: &dyn Fn(&Planted, &mut Float64Builder)| -> ArrayRef {
        let mut lists = list_of(Float64Builder::new(), DataType::Float64);
        for row in rows {
            get(row, lists.values());
            lists.append(true);
        }
        Arc::new(lists.finish())
    };
    let mut hashes = list_of(UInt64Builder::new(), DataType::UInt64);
    for row in rows {
        row.answers.iter().for_each(|a| hashes.values().append_value(a.hash));
        hashes.append(true);
    }
    let liked = |row: &Planted| plan.preferences[row.preference];
    let batch = RecordBatch::try_new(
        writer.schema.clone(),
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| prompt_id(&r.instruction)))),
            Arc::new(UInt64Array::from_iter_values((first..).take(rows.len()))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.source.as_str()))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.shown)))),
            numbers(&|r| liked(r).trait_),
            numbers(&|r| usize::from(liked(r).way.more)),
            numbers(&|r| r.preference),
            Arc::new(UInt32Array::from_iter(rows.iter().map(|r| r.annotator))),
            Arc::new(hashes.finish()),
            floats(&|r, out| r.answers.iter().for_each(|a| out.append_value(a.score))),
            floats(&|r, out| out.append_slice(&r.prior)),
            floats(&|r, out| out.append_slice(&r.possible)),
            floats(&|r, out| r.answers.iter().for_each(|a| out.append_slice(&a.values))),
            floats(&|r, out| r.answers.iter().for_each(|a| out.append_slice(&a.utilities))),
            Arc::new(Float64Array::from_value(plan.temperature, rows.len())),
        ],
    )?;
    writer.append(&batch)
}
