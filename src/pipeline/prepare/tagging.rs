//! A tagger for the inputs, with the sources of joined files in it.

use super::inputs;
use super::mix::Mix;
use crate::artifact::FileDigest;
use crate::error::{Error, Result};
use crate::ingest::{self, IngestConfig, Input};
use crate::manifest::InputFile;
use crate::progress::Progress;
use crate::sources::join::Join;
use crate::sources::{Origin, SourceConfig, Tagger};

/// Reads the files of `sources.join` and gives a tagger for these inputs, and what the joined files are.
///
/// Joined files are read as inputs are, whatever layout they have; rows that cannot be read are treated
/// as the ingest settings say.
///
/// # Errors
/// [`Error::Config`] where a rule cannot be read; [`Error::Data`] where a joined file cannot be used or
/// no row of it has a source.
pub fn tagger(
    config: &SourceConfig,
    ingest: &IngestConfig,
    inputs: &[Input],
    mix: &Mix,
    progress: &dyn Progress,
) -> Result<(Tagger, Vec<FileDigest>)> {
    let origin = |(file, input): (usize, &Input)| Origin {
        label: input.label.display().to_string(),
        stem: inputs::tag(input),
        tag: mix.source_of(file as u32).to_string(),
    };
    let origins = inputs.iter().enumerate().map(origin).collect();
    if config.join.is_empty() {
        return Ok((Tagger::new(config, origins, None)?, Vec::new()));
    }
    let joined = inputs::resolve(&config.join, progress)?;
    // Only prompt and source are wanted: the layout is told from the file, not from what the inputs have.
    // What is said of the inputs' columns and scores is not said of its own.
    let ingest = IngestConfig {
        format: ingest::Format::Auto,
        columns: Vec::new(),
        wrong_tens: ingest::OnWrongTens::Keep,
        ..ingest.clone()
    };
    progress.begin("read sources to join", None);
    let mut join = Join::default();
    let files = ingest::read(&joined, &ingest, None, progress, &mut |batch| join.add_frame(&batch.frame))?;
    progress.end();
    let tagger = Tagger::new(config, origins, Some(join))?;
    let counts = tagger.join_counts().unwrap_or_default();
    if counts.prompts == 0 {
        let first = joined.first().map(|input| input.label.clone()).unwrap_or_default();
        return Err(Error::Data {
            path: first,
            line: None,
            field: Some("source".into()),
            message: format!("none of the {} rows to join has a source", counts.rows),
            hint: Some("--join-source names a dataset with a source column, such as the raw UltraFeedback".into()),
        });
    }
    let digest = |f: InputFile| FileDigest { path: f.path, bytes: f.bytes, blake3: f.blake3, rows: Some(f.rows_read) };
    Ok((tagger, files.into_iter().map(digest).collect()))
}
