//! The prepared folder.

use std::path::Path;

use polars::prelude::*;

use super::{PrepareSummary, rows_of};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::message::MessageColumn;
use crate::schema::{PAIR_COLUMNS, SPLITS, col, prepared};
use crate::tokenize::ModelTokenizer;
use crate::tokenize::store::{self, TokenRow};

/// The tables of a prepared folder. `tokens` are in the order of `pairs`: train first.
pub struct Contents {
    /// All pairs.
    pub pairs: DataFrame,
    /// Their tokens.
    pub tokens: Vec<TokenRow>,
    /// All rejects.
    pub rejects: DataFrame,
}

/// Writes the folder: the old manifest goes first, the new one comes last.
///
/// # Errors
/// [`Error::Run`] where another process writes there, [`Error::Io`].
pub fn write(
    out: &Path,
    mut contents: Contents,
    tokenizer: &ModelTokenizer,
    mut manifest: Manifest,
    summary: &PrepareSummary,
) -> Result<()> {
    let _lock = artifact::lock_folder(out)?;
    let old = out.join(prepared::MANIFEST);
    absent(std::fs::remove_file(&old), &old)?;
    let mut first = 0;
    for split in SPLITS {
        let rows = rows_of(&contents.pairs, split)?;
        let count = rows.len();
        let mut frame = contents.pairs.take(&IdxCa::from_vec("rows".into(), rows))?.select(PAIR_COLUMNS)?;
        frame.rechunk_mut_par();
        artifact::write_parquet(out.join(prepared::pairs(split)), &mut frame)?;
        manifest.output(out, &prepared::pairs(split), Some(count as u64))?;
        store::write(out.join(prepared::tokens(split)), &contents.tokens[first..first + count])?;
        manifest.output(out, &prepared::tokens(split), Some(count as u64))?;
        first += count;
    }
    artifact::write_parquet(out.join(prepared::REJECTS), &mut contents.rejects)?;
    manifest.output(out, prepared::REJECTS, Some(contents.rejects.height() as u64))?;

    let folder = out.join(prepared::TOKENIZER);
    absent(std::fs::remove_dir_all(&folder), &folder)?;
    tokenizer.save(&folder)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
        names.push(entry.map_err(Error::io(&folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        manifest.output(out, &format!("{}/{name}", prepared::TOKENIZER), None)?;
    }
    facts(&mut manifest, summary)?;
    manifest.finish(out)?;
    Ok(())
}

/// The summary's numbers, as facts of the manifest.
fn facts(manifest: &mut Manifest, summary: &PrepareSummary) -> Result<()> {
    manifest.fact("rows_read", summary.rows_read)?;
    manifest.fact("rows_kept", summary.rows_kept)?;
    manifest.fact("rows_rejected", &summary.rejects)?;
    manifest.fact("unusable_completions", summary.unusable_completions)?;
    manifest.fact("counts", &summary.counts)?;
    manifest.fact("flipped", summary.flipped)?;
    manifest.fact("realised_flip_rate", summary.realised_flip_rate)?;
    manifest.fact("tokens", &summary.tokens)?;
    manifest.fact("truncated", summary.truncated)
}

/// What was to be removed may have been absent already.
fn absent(removed: std::io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { path: path.to_path_buf(), source: e }),
        _ => Ok(()),
    }
}

/// The first pair, for a look at what would be written.
///
/// # Errors
/// [`Error::Frame`], [`Error::Json`].
pub fn example(pairs: &DataFrame, tokens: &[TokenRow]) -> Result<serde_json::Value> {
    let Some(tokens) = tokens.first() else { return Ok(serde_json::Value::Null) };
    let text = |name: &str| -> Result<Option<String>> { Ok(pairs.column(name)?.str()?.get(0).map(str::to_string)) };
    let messages = |name: &str| -> Result<serde_json::Value> {
        Ok(serde_json::to_value(MessageColumn::open(pairs.column(name)?)?.messages(0))?)
    };
    Ok(serde_json::json!({
        "id": text(col::ID)?,
        "source": text(col::SOURCE)?,
        "split": text(col::SPLIT)?,
        "prompt": messages(col::PROMPT)?,
        "chosen": messages(col::CHOSEN)?,
        "rejected": messages(col::REJECTED)?,
        "margin": pairs.column(col::MARGIN)?.f64()?.get(0),
        "flipped": tokens.flipped,
        "n_prompt": tokens.prompt_ids.len(),
        "n_chosen": tokens.chosen_ids.len(),
        "n_rejected": tokens.rejected_ids.len(),
        "truncated": tokens.truncated,
    }))
}
