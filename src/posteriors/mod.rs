//! Every example's code posterior, written as `posteriors.parquet` with arrow and parquet.
//!
//! Exactly one row for each prepared example of every split, in the order of the
//! token files. Margins in the headline column use the prior's z; the posterior
//! has seen the label.

pub mod bayes;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Builder, Float64Array, ListBuilder, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use candle_core::{Device, Tensor};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::artifact;
use crate::batch::TokenRow;
use crate::error::{Error, Result};
use crate::lpc::usage::hard_code;
use crate::objective::{ObjectiveConfig, PreferenceLogps};
use crate::policy::Example;
use crate::schema::col;
pub use bayes::{Settings, settle};

/// Rows per record batch and row group.
const ROWS_PER_GROUP: usize = 16_384;

/// What the token files do not say of a pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// SHA-256 of the prompt text.
    pub prompt_id: String,
    /// Noise model.
    pub noise_kind: String,
    /// Probability with which the label was to be flipped.
    pub noise_p: f64,
}

/// One split's rows with what evaluation found of them.
#[derive(Debug)]
pub struct Part<'a> {
    /// Split name.
    pub split: &'a str,
    /// Token rows.
    pub rows: &'a [TokenRow],
    /// Evaluation, row by row.
    pub examples: &'a [Example],
    /// Reference log-probabilities, row by row; `None` where the objective has none.
    pub reference: Option<&'a [(f64, f64)]>,
}

/// Implicit reward margins of the observed order: with the prior's z, and with the posterior's.
///
/// # Errors
/// [`Error::Tensor`].
pub fn margins(part: &Part<'_>, objective: &ObjectiveConfig) -> Result<Vec<(f64, f64)>> {
    if part.rows.is_empty() {
        return Ok(Vec::new());
    }
    let of = |logps: fn(&Example) -> (f64, f64)| -> Result<Vec<f64>> {
        Ok(objective.losses(&preference(part, logps)?)?.margins()?.to_vec1::<f64>()?)
    };
    Ok(of(|e| e.logps)?.into_iter().zip(of(|e| e.logps_posterior)?).collect())
}

/// Log-probabilities of a part in the form of the objectives.
fn preference(part: &Part<'_>, logps: fn(&Example) -> (f64, f64)) -> Result<PreferenceLogps> {
    let n = part.rows.len();
    let column = |values: Vec<f64>| Tensor::from_vec(values, n, &Device::Cpu);
    let reference = |side: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        part.reference.map_or_else(|| vec![0.0; n], |r| r.iter().map(side).collect())
    };
    Ok(PreferenceLogps {
        chosen_logps: column(part.examples.iter().map(|e| logps(e).0).collect())?,
        rejected_logps: column(part.examples.iter().map(|e| logps(e).1).collect())?,
        reference_chosen_logps: column(reference(|r| r.0))?,
        reference_rejected_logps: column(reference(|r| r.1))?,
        n_chosen: column(part.rows.iter().map(|r| r.chosen_ids.len() as f64).collect())?,
        n_rejected: column(part.rows.iter().map(|r| r.rejected_ids.len() as f64).collect())?,
    })
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
        weights("prior"),
        weights("posterior"),
        whole("prior_code"),
        whole("posterior_code"),
        number("kl"),
        number("prior_entropy"),
        number("posterior_entropy"),
        number("logps_chosen"),
        number("logps_rejected"),
        Field::new("ref_chosen_logps", DataType::Float64, true),
        Field::new("ref_rejected_logps", DataType::Float64, true),
        number("margin"),
        number("margin_posterior"),
        whole(col::N_CHOSEN),
        whole(col::N_REJECTED),
        weights(col::CODE_MARGINS),
    ])
}

/// Numbers of a part's rows.
struct Margins {
    /// With the prior's z, and with the posterior.
    of_pairs: Vec<(f64, f64)>,
    /// With each code alone.
    of_codes: Vec<Vec<f32>>,
}

/// The margins of a part. Under Bayes' posterior that with the posterior is its mean over the codes.
fn all_margins(part: &Part<'_>, settings: Settings<'_>) -> Result<Margins> {
    let of_codes = bayes::code_margins(part, settings)?;
    let mut of_pairs = margins(part, settings.objective)?;
    if settings.lpc.bayesian() {
        for ((pair, example), codes) in of_pairs.iter_mut().zip(part.examples).zip(&of_codes) {
            pair.1 = example.posterior.iter().zip(codes).map(|(&q, &m)| f64::from(q) * f64::from(m)).sum();
        }
    }
    Ok(Margins { of_pairs, of_codes })
}

/// Writes the posteriors of all parts, atomically; the rows are counted before the rename.
///
/// # Errors
/// [`Error::Run`] where a pair is not in the ledger; [`Error::Io`], [`Error::Parquet`].
pub fn write(path: &Path, parts: &[Part<'_>], ledger: &HashMap<String, Ledger>, settings: Settings<'_>) -> Result<()> {
    let schema = Arc::new(schema());
    let total: usize = parts.iter().map(|p| p.rows.len()).sum();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    artifact::write_verified(
        path,
        |w| {
            let mut writer = ArrowWriter::try_new(w, schema.clone(), Some(properties))?;
            for part in parts {
                let margins = all_margins(part, settings)?;
                for start in (0..part.rows.len()).step_by(ROWS_PER_GROUP) {
                    let end = part.rows.len().min(start + ROWS_PER_GROUP);
                    let chunk = Part {
                        split: part.split,
                        rows: &part.rows[start..end],
                        examples: &part.examples[start..end],
                        reference: part.reference.map(|r| &r[start..end]),
                    };
                    let of_pairs = &margins.of_pairs[start..end];
                    writer.write(&to_batch(&schema, &chunk, of_pairs, &margins.of_codes[start..end], ledger)?)?;
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
    part: &Part<'_>,
    margins: &[(f64, f64)],
    code_margins: &[Vec<f32>],
    ledger: &HashMap<String, Ledger>,
) -> Result<RecordBatch> {
    let known: Vec<&Ledger> = part
        .rows
        .iter()
        .map(|r| ledger.get(&r.id).ok_or_else(|| Error::run(format!("pair {} is not in the pairs file", r.id))))
        .collect::<Result<_>>()?;
    let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let number = |get: &dyn Fn(usize) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from((0..part.rows.len()).map(get).collect::<Vec<f64>>()))
    };
    let whole = |get: &dyn Fn(usize) -> usize| -> ArrayRef {
        Arc::new(UInt32Array::from((0..part.rows.len()).map(|i| get(i) as u32).collect::<Vec<u32>>()))
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
        let values: Vec<Option<f64>> = match part.reference {
            Some(r) => r.iter().map(|r| Some(side(r))).collect(),
            None => vec![None; part.rows.len()],
        };
        Arc::new(Float64Array::from(values))
    };
    let code = |weights: &[f32]| hard_code(&weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>()).unwrap_or(0);
    let (rows, examples) = (part.rows, part.examples);
    Ok(RecordBatch::try_new(
        schema.clone(),
        vec![
            text(rows.iter().map(|r| r.id.as_str()).collect()),
            text(known.iter().map(|l| l.prompt_id.as_str()).collect()),
            text(rows.iter().map(|r| r.source.as_str()).collect()),
            text(vec![part.split; rows.len()]),
            Arc::new(BooleanArray::from(rows.iter().map(|r| r.flipped).collect::<Vec<bool>>())),
            text(known.iter().map(|l| l.noise_kind.as_str()).collect()),
            number(&|i| known[i].noise_p),
            lists(&mut examples.iter().map(|e| &e.prior)),
            lists(&mut examples.iter().map(|e| &e.posterior)),
            whole(&|i| code(&examples[i].prior)),
            whole(&|i| code(&examples[i].posterior)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::ObjectiveKind;

    #[test]
    fn rows_are_written_with_margins_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posteriors.parquet");
        let rows = [TokenRow {
            id: "a".into(),
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
        let part = Part { split: "test", rows: &rows, examples: &examples, reference: Some(&[(-3.5, -3.0)]) };
        let dpo = ObjectiveConfig::default().resolved();
        // beta 0.1: ((-3 + 3.5) - (-4 + 3)) * 0.1 = 0.15; with the posterior ((-2 + 3.5) + 1) * 0.1 = 0.25.
        let got = margins(&part, &dpo).unwrap()[0];
        assert!((got.0 - 0.15).abs() < 1e-12 && (got.1 - 0.25).abs() < 1e-12);
        let simpo = ObjectiveConfig { name: ObjectiveKind::Simpo, ..ObjectiveConfig::default() }.resolved();
        // beta 2: (-3/2 - -4/1) * 2 = 5.
        assert!((margins(&part, &simpo).unwrap()[0].0 - 5.0).abs() < 1e-12);
        let ledger = HashMap::from([("a".to_string(), Ledger { prompt_id: "p".into(), ..Ledger::default() })]);
        let lpc = crate::lpc::LpcConfig::default();
        let settings = |objective| Settings { objective, lpc: &lpc, flips: None };
        write(&path, &[part], &ledger, settings(&dpo)).unwrap();
        let frame = artifact::read_parquet(&path).unwrap();
        assert_eq!(frame.height(), 1);
        let code = frame.column("prior_code").unwrap().u32().unwrap().get(0);
        let tie = frame.column("posterior_code").unwrap().u32().unwrap().get(0);
        assert_eq!((code, tie), (Some(1), Some(0)));
        let unknown = Part { split: "test", rows: &rows, examples: &examples, reference: None };
        assert!(write(&path, &[unknown], &HashMap::new(), settings(&dpo)).is_err());
    }
}
