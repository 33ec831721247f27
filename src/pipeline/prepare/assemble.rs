//! Finished parts -> the prepared folder.

use std::path::Path;

use polars::prelude::*;

use super::part::Part;
use super::summary::PrepareSummary;
use super::work::Work;
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::message::MessageColumn;
use crate::schema::{SPLITS, col, prepared};
use crate::token_file;
use crate::tokenize::ModelTokenizer;

/// All parts of a preparation, by bucket; buckets without a pair have none.
pub struct Parts<'a> {
    pub work: &'a Work,
    /// In the order of the buckets.
    pub parts: Vec<Option<Part>>,
}

impl Parts<'_> {
    fn each(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().enumerate().filter_map(|(bucket, part)| Some((bucket, part.as_ref()?)))
    }

    /// The rejected rows of all parts.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Artifact`] where a part was damaged.
    pub fn rejects(&self) -> Result<Vec<DataFrame>> {
        self.each().map(|(bucket, part)| part.rejects(self.work, bucket)).collect()
    }

    /// The first pair, which a dry run shows.
    pub fn example(&self) -> Result<serde_json::Value> {
        for split in 0..SPLITS.len() {
            for (bucket, part) in self.each() {
                let pairs = part.pairs(self.work, bucket, split)?;
                if pairs.height() > 0 {
                    let tokens = token_file::unpack(part.tokens(self.work, bucket, split)?)?;
                    return example(&pairs, &tokens[0]);
                }
            }
        }
        Ok(serde_json::Value::Null)
    }

    /// Writes pairs and tokens of a split.
    fn write(&self, out: &Path, split: usize, manifest: &mut Manifest) -> Result<()> {
        let name = SPLITS[split];
        let (pairs, tokens) = (prepared::pairs(name), prepared::tokens(name));
        let Some((bucket, part)) = self.each().next() else {
            return Err(Error::run("no part of the output was made"));
        };
        let empty = part.pairs(self.work, bucket, split)?.clear();
        let (rows, packed) = rayon::join(
            || {
                let frames = self.each().map(|(bucket, part)| part.pairs(self.work, bucket, split));
                artifact::write_parquet_pieces(&out.join(&pairs), &empty, frames, &[])
            },
            || {
                let pieces = self.each().map(|(bucket, part)| part.tokens(self.work, bucket, split));
                token_file::write_pieces(out.join(&tokens), pieces)
            },
        );
        manifest.output(out, &pairs, Some(rows?))?;
        manifest.output(out, &tokens, Some(packed?))
    }
}

/// Writes the folder. All files are finished in the work folder first, so that an earlier prepared folder stays
/// complete until they are [`publish`]ed.
///
/// # Errors
/// [`Error::Io`]; [`Error::Artifact`] where a part was damaged.
pub fn write(
    out: &Path,
    parts: &Parts<'_>,
    mut rejects: DataFrame,
    tokenizer: &ModelTokenizer,
    mut manifest: Manifest,
    summary: &PrepareSummary,
) -> Result<()> {
    let aside = parts.work.path("finished");
    artifact::remove(&aside)?;
    for split in 0..SPLITS.len() {
        parts.write(&aside, split, &mut manifest)?;
    }
    artifact::write_parquet(aside.join(prepared::REJECTS), &mut rejects)?;
    manifest.output(&aside, prepared::REJECTS, Some(rejects.height() as u64))?;
    let folder = aside.join(prepared::TOKENIZER);
    tokenizer.save(&folder)?;
    for file in artifact::entries(&folder)? {
        manifest.output(&aside, &format!("{}/{}", prepared::TOKENIZER, artifact::name_of(&file)), None)?;
    }
    summary.record(&mut manifest)?;

    publish(&aside, out, manifest)
}

/// Moves the files of a manifest from `aside` into the folder. Meanwhile the folder has no manifest; the new one is
/// written last.
///
/// # Errors
/// [`Error::Io`].
pub fn publish(aside: &Path, out: &Path, manifest: Manifest) -> Result<()> {
    artifact::remove(&out.join(prepared::MANIFEST))?;
    artifact::remove(&out.join(prepared::TOKENIZER))?;
    for file in &manifest.outputs {
        artifact::move_file(&aside.join(&file.path), &out.join(&file.path))?;
    }
    manifest.finish(out)?;
    Ok(())
}

fn example(pairs: &DataFrame, tokens: &token_file::TokenRow) -> Result<serde_json::Value> {
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
