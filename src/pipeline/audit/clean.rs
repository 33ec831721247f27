//! `cleaned/`: a prepared folder in which the labels that are thought wrong have been dealt with.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, hash_json};
use crate::pipeline::prepare::{self, PrepareSummary};
use crate::pipeline::recipe::AuditConfig;
use crate::schema::{NO_NOISE, SPLITS, col, prepared};
use crate::token_file::{self, TokenIds, TokenRow};

/// Work folder in the cleaned folder.
const ASIDE: &str = ".work";
/// `noise_kind` of pairs whose label the audit changed, where no noise model was applied before.
const CHANGED: &str = "audit";

/// What is done with a training pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    /// Nothing.
    Keep,
    /// Its sides change places.
    Flip,
    /// It is left out.
    Drop,
    /// Its weight is multiplied by this number.
    Weight(f64),
}

/// Counts of a cleaned folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// Training pairs in it.
    pub pairs: u64,
    /// Pairs left out.
    pub dropped: u64,
    /// Pairs whose sides changed places.
    pub flipped: u64,
    /// Pairs whose weight was changed.
    pub weighted: u64,
    /// Of the pairs that were left out or turned round, those whose label noise had flipped: only known where `prepare` flipped labels.
    pub right: u64,
}

/// Writes the cleaned folder: the training split with its changes, all else as it was.
///
/// # Errors
/// [`Error::Artifact`] where the prepared folder was changed, or no pair is left; [`Error::Io`].
pub(super) fn write(
    data: &Path,
    source: &Manifest,
    pairs: &DataFrame,
    changes: &[Change],
    config: &AuditConfig,
    out: &Path,
) -> Result<Cleaned> {
    let claim = artifact::Claim { stage: "prepare", inputs: &[data.to_path_buf()] };
    let _lock = claim.take(out)?;
    let tokens = prepared::tokens(SPLITS[0]);
    source.verify(data, &tokens)?;
    let rows = token_file::read(data.join(&tokens))?;
    let ids = pairs.column(col::ID)?.str()?;
    if rows.len() != pairs.height() || rows.iter().zip(ids.iter()).any(|(row, id)| Some(row.id.as_str()) != id) {
        return Err(Error::artifact(data, "the rows of pairs and tokens are not the same"));
    }
    let counts = Cleaned {
        pairs: changes.iter().filter(|c| **c != Change::Drop).count() as u64,
        dropped: changes.iter().filter(|c| **c == Change::Drop).count() as u64,
        flipped: changes.iter().filter(|c| **c == Change::Flip).count() as u64,
        weighted: changes.iter().filter(|c| matches!(c, Change::Weight(_))).count() as u64,
        right: rows.iter().zip(changes).filter(|(r, c)| r.flipped && matches!(c, Change::Drop | Change::Flip)).count()
            as u64,
    };
    if counts.pairs == 0 {
        return Err(Error::artifact(out, "no training pair is left").with_hint("raise --threshold"));
    }
    let mut manifest = manifest(source, config, &counts, out)?;
    let aside = out.join(ASIDE);
    artifact::remove(&aside)?;

    let cleaned: Vec<TokenRow> =
        rows.into_iter().zip(changes).filter_map(|(row, change)| changed(row, *change)).collect();
    let others = prepared::tokens(SPLITS[1]);
    source.verify(data, &others)?;
    record(source, &cleaned, &token_file::read(data.join(others))?, &mut manifest)?;
    let mut frame = changed_pairs(pairs, changes)?;
    let name = prepared::pairs(SPLITS[0]);
    artifact::write_parquet(aside.join(&name), &mut frame)?;
    manifest.output(&aside, &name, Some(frame.height() as u64))?;
    token_file::write(aside.join(&tokens), &cleaned)?;
    manifest.output(&aside, &tokens, Some(cleaned.len() as u64))?;
    let replaced = [name, tokens];
    for file in source.outputs.iter().filter(|file| !replaced.contains(&file.path)) {
        source.verify(data, &file.path)?;
        let path = data.join(&file.path);
        artifact::write_bytes(aside.join(&file.path), &std::fs::read(&path).map_err(Error::io(&path))?)?;
        manifest.output(&aside, &file.path, file.rows)?;
    }
    prepare::publish(&aside, out, manifest)?;
    artifact::remove(&aside)?;
    Ok(counts)
}

/// The manifest without its outputs: that of the source, and what the audit did.
fn manifest(source: &Manifest, config: &AuditConfig, counts: &Cleaned, out: &Path) -> Result<Manifest> {
    let mut settings = source.config.clone();
    settings["out"] = serde_json::Value::from(out.display().to_string());
    let mut manifest = Manifest::begin("prepare", &settings)?;
    manifest.config_hash = hash_json(&settings)?;
    manifest.seeds.clone_from(&source.seeds);
    manifest.facts.clone_from(&source.facts);
    manifest.inputs.clone_from(&source.inputs);
    manifest.fact("audit", config)?;
    manifest.fact("audited", counts)?;
    Ok(manifest)
}

/// Puts the counts of the cleaned pairs into the manifest. What `prepare` counted on its way (rejects, noise by kind)
/// stays as it was.
fn record(source: &Manifest, train: &[TokenRow], test: &[TokenRow], manifest: &mut Manifest) -> Result<()> {
    let mut summary = PrepareSummary::recorded(source)?;
    let totals = &mut summary.totals;
    totals.counts.clear();
    for (split, rows) in SPLITS.iter().zip([train, test]) {
        let sources = totals.counts.entry((*split).into()).or_default();
        rows.iter().for_each(|row| *sources.entry(row.source.to_string()).or_default() += 1);
    }
    let rows = || train.iter().chain(test);
    let count = |of: &dyn Fn(&TokenRow) -> bool| rows().filter(|row| of(row)).count() as u64;
    let tokens = |of: fn(&TokenRow) -> &TokenIds| rows().map(|row| of(row).len() as u64).sum::<u64>();
    totals.weighted = count(&|row| row.weight.is_some());
    totals.truncated = count(&|row| row.truncated);
    totals.tokens = BTreeMap::from([
        (col::N_PROMPT.into(), tokens(|row| &row.prompt_ids)),
        (col::N_CHOSEN.into(), tokens(|row| &row.chosen_ids)),
        (col::N_REJECTED.into(), tokens(|row| &row.rejected_ids)),
    ]);
    summary.pairs = summary.totals.pairs();
    summary.flipped = count(&|row| row.flipped);
    summary.realised_flip_rate = summary.flipped as f64 / summary.pairs.max(1) as f64;
    summary.record(manifest)
}

/// A row of the token file after its change; none where it is left out.
fn changed(row: TokenRow, change: Change) -> Option<TokenRow> {
    match change {
        Change::Drop => None,
        Change::Keep => Some(row),
        Change::Weight(weight) => Some(TokenRow { weight: Some(row.loss_weight() * weight), ..row }),
        Change::Flip => Some(TokenRow {
            flipped: !row.flipped,
            noise_kind: if row.noise_kind == NO_NOISE { CHANGED.into() } else { row.noise_kind },
            chosen_ids: row.rejected_ids,
            rejected_ids: row.chosen_ids,
            ..row
        }),
    }
}

/// The pairs after their changes.
fn changed_pairs(pairs: &DataFrame, changes: &[Change]) -> Result<DataFrame> {
    let mask = |of: Change| BooleanChunked::from_iter_values("".into(), changes.iter().map(|change| *change == of));
    let flip = mask(Change::Flip);
    let mut out = pairs.clone();
    let sides = [
        (col::CHOSEN, col::REJECTED),
        (col::SCORE_CHOSEN, col::SCORE_REJECTED),
        (col::CHOSEN_MODEL, col::REJECTED_MODEL),
    ];
    for (a, b) in sides {
        let (left, right) = (pairs.column(a)?.as_materialized_series(), pairs.column(b)?.as_materialized_series());
        let (swapped, back) = (right.zip_with(&flip, left)?, left.zip_with(&flip, right)?);
        out.with_column(swapped.with_name(a.into()).into_column())?;
        out.with_column(back.with_name(b.into()).into_column())?;
    }
    let margins = pairs.column(col::MARGIN)?.f64()?;
    let margins = margins.iter().zip(changes).map(|(m, c)| if *c == Change::Flip { m.map(|m| -m) } else { m });
    out.with_column(Column::new(col::MARGIN.into(), margins.collect::<Vec<Option<f64>>>()))?;
    let flipped = pairs.column(col::FLIPPED)?.bool()?;
    let flipped = flipped.iter().zip(changes).map(|(f, c)| f.map(|f| f != (*c == Change::Flip)));
    out.with_column(Column::new(col::FLIPPED.into(), flipped.collect::<Vec<Option<bool>>>()))?;
    let kinds = pairs.column(col::NOISE_KIND)?.str()?;
    let kinds = kinds.iter().zip(changes).map(|(kind, change)| match (kind, change) {
        (Some(NO_NOISE), Change::Flip) => Some(CHANGED),
        (kind, _) => kind,
    });
    out.with_column(Column::new(col::NOISE_KIND.into(), kinds.collect::<Vec<Option<&str>>>()))?;
    if changes.iter().any(|change| matches!(change, Change::Weight(_))) {
        // Folders of earlier versions have no weights.
        let own = pairs.column(col::WEIGHT).ok().map(|column| column.f64().cloned()).transpose()?;
        let own = |i: usize| own.as_ref().and_then(|own| own.get(i)).unwrap_or(1.0);
        let weights = changes.iter().enumerate().map(|(i, change)| match change {
            Change::Weight(weight) => own(i) * weight,
            _ => own(i),
        });
        out.with_column(Column::new(col::WEIGHT.into(), weights.collect::<Vec<f64>>()))?;
    }
    Ok(out.filter(&!mask(Change::Drop))?)
}
