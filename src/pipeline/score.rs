//! `score`: per-example log-probabilities of any model on a prepared folder.

use std::path::{Path, PathBuf};

use polars::prelude::*;
use serde::Serialize;

use super::opened;
use super::recipe::ScoreConfig;
use crate::artifact;
use crate::batch;
use crate::error::{Error, Result};
use crate::lpc::usage::hard_code;
use crate::policy::{evaluate, saved};
use crate::progress::Progress;
use crate::schema::{col, posterior, prepared};
use crate::seed::Seed;
use crate::settings::Settings;
use crate::token_file::TokenRow;
use crate::tokenize::ModelTokenizer;
use crate::train::reference::{self, ReferenceOrigin};
use crate::weights::load;

/// Name of the command in the file that it writes.
const STAGE: &str = "score";

/// Results of `score`.
#[derive(Debug, Clone, Serialize)]
pub struct ScoreSummary {
    /// The file written.
    pub out: String,
    /// Pairs scored.
    pub pairs: usize,
    /// Share of pairs whose observed chosen response has the higher summed log-probability.
    pub likelier: f64,
    /// Mean log-probability per token, chosen and rejected, nats.
    pub per_token: (f64, f64),
}

/// Scores every pair of every split, and writes `id`, `split`, `source`, `flipped`, `logps_chosen`, `logps_rejected`,
/// `ref_chosen_logps`, `ref_rejected_logps` (named as TRL names a precomputed reference; the same values, but for a
/// model with codes, whose reference has none), `n_chosen`, `n_rejected`, and `prior_code` where the model has codes.
/// Log-probabilities are summed, in nats. The file's metadata identify model and data, so that
/// `train --reference FILE` takes its values where both are the same.
///
/// # Errors
/// [`Error::Config`] for missing settings; [`Error::Artifact`], [`Error::Model`] for data or model.
pub fn run(config: &ScoreConfig, seed: Seed, progress: &dyn Progress) -> Result<ScoreSummary> {
    config.check()?;
    let read = [&config.data, &config.model].map(PathBuf::from);
    artifact::Claim { stage: STAGE, inputs: &read }.file(Path::new(&config.out))?;
    let data = Path::new(&config.data);
    let splits = batch::read_splits(data)?;
    let tokenizer = ModelTokenizer::open(&data.join(prepared::TOKENIZER))?;
    let longest = batch::longest(splits.iter().flat_map(|s| &s.rows));
    let source = opened::source(&config.model, progress)?;
    opened::require_tokens(data, &splits, &source)?;
    let vocabulary = tokenizer.vocabulary_for(&source);
    let shape = load::shape(&source, vocabulary)?;
    opened::require_embedded(data, &splits, &tokenizer, &shape)?;
    if let Some(warning) = opened::beyond_positions(&source, &shape, longest) {
        progress.warn(&warning);
    }
    let policy = saved::open::<f32>(&source, vocabulary, seed, longest)?;
    progress.begin("scoring", Some(splits.iter().map(|s| s.rows.len()).sum::<usize>() as u64));
    let mut examples = Vec::new();
    let found = splits.iter().try_for_each(|split| -> Result<()> {
        examples.extend(evaluate(&policy, &split.rows, |n| progress.advance(n as u64))?);
        Ok(())
    });
    progress.end();
    found?;
    let origin = ReferenceOrigin::of(&policy, &splits)?;
    let reference: reference::Reference = if policy.lpc.is_some() {
        reference::compute(&policy, &splits, &origin, progress)?.ok_or_else(|| Error::run("interrupted"))?
    } else {
        let mut values = examples.iter().map(|e| e.logps);
        splits.iter().map(|s| values.by_ref().take(s.rows.len()).collect()).collect()
    };
    let rows: Vec<(&str, &TokenRow)> =
        splits.iter().flat_map(|s| s.rows.iter().map(|r| (s.name.as_str(), r))).collect();
    let texts = |name: &str, get: &dyn Fn(&(&str, &TokenRow)) -> String| {
        Column::new(name.into(), rows.iter().map(get).collect::<Vec<String>>())
    };
    let counts = |name: &str, get: fn(&TokenRow) -> usize| {
        Column::new(name.into(), rows.iter().map(|(_, r)| get(r) as u32).collect::<Vec<u32>>())
    };
    let chosen: Vec<f64> = examples.iter().map(|e| e.logps.0).collect();
    let rejected: Vec<f64> = examples.iter().map(|e| e.logps.1).collect();
    let mut columns = vec![
        texts(col::ID, &|(_, r)| r.id.to_string()),
        texts(col::SPLIT, &|(s, _)| (*s).to_string()),
        texts(col::SOURCE, &|(_, r)| r.source.to_string()),
        Column::new(col::FLIPPED.into(), rows.iter().map(|(_, r)| r.flipped).collect::<Vec<bool>>()),
        Column::new(posterior::LOGPS_CHOSEN.into(), chosen.as_slice()),
        Column::new(posterior::LOGPS_REJECTED.into(), rejected.as_slice()),
        Column::new(posterior::REF_CHOSEN.into(), reference.iter().flatten().map(|r| r.0).collect::<Vec<f64>>()),
        Column::new(posterior::REF_REJECTED.into(), reference.iter().flatten().map(|r| r.1).collect::<Vec<f64>>()),
        counts(col::N_CHOSEN, |r| r.chosen_ids.len()),
        counts(col::N_REJECTED, |r| r.rejected_ids.len()),
    ];
    if policy.lpc.as_ref().is_some_and(|l| l.config.coded()) {
        let codes = examples.iter().map(|e| hard_code(&e.prior).unwrap_or(0) as u32).collect::<Vec<u32>>();
        columns.push(Column::new(posterior::PRIOR_CODE.into(), codes));
    }
    let written_by = (artifact::WRITTEN_BY.to_string(), STAGE.to_string());
    let marks = [reference::mark(&origin, &splits, &reference)?, written_by];
    artifact::write_parquet_marked(&config.out, &mut DataFrame::new(rows.len(), columns)?, &marks)?;
    let n = rows.len().max(1) as f64;
    let per_token = |logps: &[f64], get: fn(&TokenRow) -> usize| {
        logps.iter().sum::<f64>() / rows.iter().map(|(_, r)| get(r)).sum::<usize>().max(1) as f64
    };
    Ok(ScoreSummary {
        out: config.out.clone(),
        pairs: rows.len(),
        likelier: chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count() as f64 / n,
        per_token: (per_token(&chosen, |r| r.chosen_ids.len()), per_token(&rejected, |r| r.rejected_ids.len())),
    })
}
