//! The account of all rows: what was read is what was kept and what was rejected.

use std::path::PathBuf;

use super::shard::Shard;
use super::summary::{Counts, PrepareSummary};
use crate::error::{Error, Result};
use crate::manifest::InputFile;

/// Advice where the chat template refuses every row.
pub const OTHER_TEMPLATE: &str = "choose a chat template that takes these conversations: --template NAME";

/// Adds to each file what became of its rows. In a shard, `rows_read` counts the shard's rows only,
/// so that the shards' manifests add up to the whole's.
///
/// # Errors
/// [`Error::Run`] where a row is not accounted for, which would be a mistake of ours.
pub fn settle(mut files: Vec<InputFile>, counts: &Counts, shard: Shard) -> Result<Vec<InputFile>> {
    for (index, file) in (0..).zip(&mut files) {
        let fate = counts.files.get(&index).cloned().unwrap_or_default();
        file.rows_kept = fate.kept;
        file.rows_rejected = fate.rejected;
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
pub fn summarize(files: &[InputFile], counts: Counts) -> PrepareSummary {
    let mut summary = PrepareSummary::default();
    for file in files {
        summary.rows_read += file.rows_read;
        summary.rows_kept += file.rows_kept;
        for (reason, n) in &file.rows_rejected {
            *summary.rejects.entry(reason.clone()).or_default() += n;
        }
    }
    summary.pairs = counts.totals.pairs();
    summary.flipped = counts.totals.noise.all.flipped;
    summary.realised_flip_rate = summary.flipped as f64 / summary.pairs.max(1) as f64;
    summary.totals = counts.totals;
    summary
}

/// Refuses a result without a single pair; a shard may be empty. `refusal` is what the chat template or
/// the tokenizer has against one of the rows, where it refused any.
///
/// # Errors
/// [`Error::Data`].
pub fn require_rows(summary: &PrepareSummary, refusal: &str, labels: &[String], shard: Shard) -> Result<()> {
    if summary.rows_kept > 0 || !shard.is_whole() {
        return Ok(());
    }
    let reasons: Vec<String> = summary.rejects.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let mut message = format!("none of the {} rows read gives a pair: {}", summary.rows_read, reasons.join(", "));
    let mut hint = None;
    if !refusal.is_empty() {
        message += &format!("; {refusal}");
        hint = Some(OTHER_TEMPLATE.into());
    }
    let path = PathBuf::from(labels.first().map_or("", String::as_str));
    Err(Error::Data { path, line: None, field: None, message, hint })
}
