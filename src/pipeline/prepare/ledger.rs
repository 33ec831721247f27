//! The account of all rows: every row that was read is either kept or rejected.

use std::path::PathBuf;

use super::summary::{Counts, PrepareSummary};
use crate::error::{Error, Result};
use crate::manifest::InputFile;
use crate::pipeline::recipe::Shard;

/// Advice where the chat template refuses every row.
pub const OTHER_TEMPLATE: &str = "choose a chat template that takes these conversations: --template NAME";

/// The number of a file's rows that were kept or rejected; where `whole`, it must be that of all rows read.
///
/// # Errors
/// [`Error::Run`] where a row is not accounted for, which would be a bug.
pub fn accounted(file: &InputFile, whole: bool) -> Result<u64> {
    let (read, accounted) = (file.rows_read, file.rows_kept + file.rows_rejected.values().sum::<u64>());
    if whole && accounted != read {
        let message = format!("{}: {read} rows read, but {accounted} kept or rejected; please report this", file.path);
        return Err(Error::run(message));
    }
    Ok(accounted)
}

/// Adds the counts of kept and rejected rows to each file. In a shard, `rows_read` counts the shard's rows only,
/// so that the shards' manifests add up to that of an unsharded run.
pub fn settle(mut files: Vec<InputFile>, counts: &Counts, shard: Shard) -> Result<Vec<InputFile>> {
    for (index, file) in (0..).zip(&mut files) {
        let fate = counts.files.get(&index).cloned().unwrap_or_default();
        file.rows_kept = fate.kept;
        file.rows_rejected = fate.rejected;
        file.rows_read = accounted(file, shard.is_whole())?;
    }
    Ok(files)
}

/// Refuses a result without a single pair; a shard may be empty. `refusal` is the reason why the chat template or
/// the tokenizer refused one of the rows; empty where it refused none.
///
/// # Errors
/// [`Error::Data`] with the counts of rejected rows.
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
