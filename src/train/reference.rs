//! Reference log-probabilities: computed once by the starting model, kept beside the data, found again by content.

use std::path::{Path, PathBuf};

use polars::prelude::*;

use crate::artifact;
use crate::batch::Split;
use crate::error::Result;
use crate::model::Params;
use crate::nn::Real;
use crate::policy::Policy;
use crate::policy::examine::plain_logps;
use crate::progress::Progress;
use crate::schema::col;

/// Columns as TRL reads them.
pub const REF_CHOSEN: &str = "ref_chosen_logps";
/// See [`REF_CHOSEN`].
pub const REF_REJECTED: &str = "ref_rejected_logps";

/// Reference log-probabilities (chosen, rejected) of every row of every split, in nats, summed.
pub type Reference = Vec<Vec<(f64, f64)>>;

/// Takes the reference of these splits from the cache, or computes it with the policy as it stands and stores it.
///
/// The key is the content of the weights and the tokens: a file is only ever found by those who would compute it.
/// A cache folder that cannot be written is passed over.
///
/// # Errors
/// [`crate::Error::Tensor`], and those of packing.
pub fn reference<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Reference> {
    let path = cache.join(format!("{}.parquet", key::<T>(&policy.params, splits)?));
    if let Some(found) = read(&path, splits) {
        progress.note("reference log-probabilities: taken from the cache");
        return Ok(found);
    }
    let total: usize = splits.iter().map(|s| s.rows.len()).sum();
    progress.begin("reference log-probabilities", Some(total as u64));
    let found = splits
        .iter()
        .map(|split| plain_logps(policy, &split.rows, |n| progress.advance(n as u64)))
        .collect::<Result<Reference>>()?;
    progress.end();
    if let Err(error) = write(&path, splits, &found) {
        progress.warn(&format!("reference log-probabilities are not cached: {error}"));
    }
    Ok(found)
}

/// Fingerprint of what a run starts from; see [`crate::model::fingerprint`].
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn fingerprint<T: Real>(params: &Params) -> Result<String> {
    crate::model::fingerprint::<T>(params.starting())
}

/// BLAKE3 over the backbone's weights and all tokens.
fn key<T: Real>(params: &Params, splits: &[Split]) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 reference cache");
    crate::model::hash_weights::<T>(params.starting(), &mut hasher)?;
    for row in splits.iter().flat_map(|s| &s.rows) {
        hasher.update(row.id.as_bytes());
        for ids in [&row.prompt_ids, &row.chosen_ids, &row.rejected_ids] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

fn write(path: &PathBuf, splits: &[Split], found: &Reference) -> Result<()> {
    let ids: Vec<&str> = splits.iter().flat_map(|s| &s.rows).map(|r| r.id.as_str()).collect();
    let side = |get: fn(&(f64, f64)) -> f64| -> Vec<f64> { found.iter().flatten().map(get).collect() };
    let mut frame = DataFrame::new(
        ids.len(),
        vec![
            Column::new(col::ID.into(), ids),
            Column::new(REF_CHOSEN.into(), side(|r| r.0)),
            Column::new(REF_REJECTED.into(), side(|r| r.1)),
        ],
    )?;
    artifact::write_parquet(path, &mut frame)
}

/// The cached values, where the file is there and its ids are those of the splits.
fn read(path: &Path, splits: &[Split]) -> Option<Reference> {
    let frame = artifact::read_parquet(path).ok()?;
    let ids = frame.column(col::ID).ok()?.str().ok()?.clone();
    let (chosen, rejected) = (frame.column(REF_CHOSEN).ok()?.f64().ok()?, frame.column(REF_REJECTED).ok()?.f64().ok()?);
    let mut at = 0;
    let mut out = Vec::new();
    for split in splits {
        let mut rows = Vec::with_capacity(split.rows.len());
        for row in &split.rows {
            if ids.get(at) != Some(row.id.as_str()) {
                return None;
            }
            rows.push((chosen.get(at)?, rejected.get(at)?));
            at += 1;
        }
        out.push(rows);
    }
    (at == frame.height()).then_some(out)
}

/// A reference of zeros, for objectives that have none.
pub fn none(splits: &[Split]) -> Reference {
    splits.iter().map(|s| vec![(0.0, 0.0); s.rows.len()]).collect()
}
