//! The account of all rows: what was read is what was kept and what was rejected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use polars::prelude::DataFrame;

use super::{PrepareSummary, Shard};
use crate::error::{Error, Result};
use crate::manifest::InputFile;
use crate::rejects::Reject;
use crate::schema::col;
use crate::tokenize::store::TokenRow;

/// Adds to each file what became of its rows. In a shard, `rows_read` counts the shard's rows only,
/// so that the shards' manifests add up to the whole's.
///
/// # Errors
/// [`Error::Run`] where a row is not accounted for, which would be a mistake of ours.
pub fn settle(
    mut files: Vec<InputFile>,
    pairs: &DataFrame,
    rejects: &[Reject],
    shard: Shard,
) -> Result<Vec<InputFile>> {
    for file in pairs.column(col::FILE)?.u32()?.iter().flatten() {
        if let Some(file) = files.get_mut(file as usize) {
            file.rows_kept += 1;
        }
    }
    for reject in rejects {
        if let Some(file) = files.get_mut(reject.file as usize) {
            *file.rows_rejected.entry(reject.reason.to_string()).or_default() += 1;
        }
    }
    for file in &mut files {
        let accounted = file.rows_kept + file.rows_rejected.values().sum::<u64>();
        if shard.is_whole() && accounted != file.rows_read {
            return Err(Error::run(format!(
                "{}: {} rows read, but {accounted} kept or rejected; please report this",
                file.path, file.rows_read
            )));
        }
        file.rows_read = accounted;
    }
    Ok(files)
}

/// The numbers of a finished preparation.
///
/// # Errors
/// [`Error::Frame`].
pub fn summarize(files: &[InputFile], pairs: &DataFrame, tokens: &[TokenRow]) -> Result<PrepareSummary> {
    let mut summary = PrepareSummary::default();
    for file in files {
        summary.rows_read += file.rows_read;
        summary.rows_kept += file.rows_kept;
        for (reason, n) in &file.rows_rejected {
            *summary.rejects.entry(reason.clone()).or_default() += n;
        }
    }
    let (splits, sources) = (pairs.column(col::SPLIT)?.str()?, pairs.column(col::SOURCE)?.str()?);
    for (split, source) in splits.iter().zip(sources.iter()) {
        let split = summary.counts.entry(split.unwrap_or("").to_string()).or_default();
        *split.entry(source.unwrap_or("").to_string()).or_default() += 1;
    }
    summary.flipped = pairs.column(col::FLIPPED)?.bool()?.iter().filter(|f| *f == Some(true)).count() as u64;
    summary.realised_flip_rate = summary.flipped as f64 / pairs.height().max(1) as f64;
    let count = |get: fn(&TokenRow) -> usize| tokens.iter().map(get).sum::<usize>() as u64;
    summary.tokens = BTreeMap::from([
        (col::N_PROMPT.into(), count(|t| t.prompt_ids.len())),
        (col::N_CHOSEN.into(), count(|t| t.chosen_ids.len())),
        (col::N_REJECTED.into(), count(|t| t.rejected_ids.len())),
    ]);
    summary.truncated = tokens.iter().filter(|t| t.truncated).count() as u64;
    Ok(summary)
}

/// Refuses a result without a single pair; a shard may be empty.
///
/// # Errors
/// [`Error::Data`].
pub fn require_rows(summary: &PrepareSummary, labels: &[String], shard: Shard) -> Result<()> {
    if summary.rows_kept > 0 || !shard.is_whole() {
        return Ok(());
    }
    let reasons: Vec<String> = summary.rejects.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    Err(Error::Data {
        path: PathBuf::from(labels.first().map_or("", String::as_str)),
        line: None,
        field: None,
        message: format!("none of the {} rows read gives a pair: {}", summary.rows_read, reasons.join(", ")),
        hint: None,
    })
}
