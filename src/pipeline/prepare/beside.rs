//! Files that are read beside the inputs: those with sources to join, and benchmarks.

use super::inputs;
use crate::artifact::{self, FileDigest};
use crate::error::{Error, Result};
use crate::ingest::{self, IngestConfig, Input, benchmarks};
use crate::manifest::InputFile;
use crate::pairs::PairConfig;
use crate::progress::Progress;
use crate::select::contamination::Index;
use crate::select::join::Join;
use crate::select::mix::Mix;
use crate::select::tags::{Origin, SourceConfig, Tagger};

/// What may be joined, in words.
const JOINED: &str = "--join-source names preference data of any layout that prepare reads, with a source in its rows, such as \
                      the raw UltraFeedback";

/// Reads the files of `sources.join` and returns a tagger for these inputs, and the digests of the joined files.
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
    // Only prompt and source are wanted. Settings on layout, columns and scores are for the inputs: a joined file may
    // have another layout, which is detected.
    let ingest = IngestConfig {
        format: ingest::Format::Auto,
        columns: Vec::new(),
        wrong_tens: ingest::OnWrongTens::Keep,
        ..ingest.clone()
    };
    progress.begin("read sources to join", None);
    let mut join = Join::default();
    let read = ingest::read(&joined, &ingest, None, progress, &mut |batch| join.add_frame(&batch.frame));
    progress.end();
    let files = read.map_err(|error| match error {
        error @ Error::Data { .. } => error.with_hint(JOINED),
        other => other,
    })?;
    let tagger = Tagger::new(config, origins, Some(join))?;
    let counts = tagger.join_counts().unwrap_or_default();
    if counts.prompts == 0 {
        let first = joined.first().map(|input| input.label.clone()).unwrap_or_default();
        return Err(Error::Data {
            path: first,
            line: None,
            field: Some("source".into()),
            message: format!("none of the {} rows to join has a source", counts.rows),
            hint: Some(JOINED.into()),
        });
    }
    let digest = |f: InputFile| FileDigest { path: f.path, bytes: f.bytes, blake3: f.blake3, rows: Some(f.rows_read) };
    Ok((tagger, files.into_iter().map(digest).collect()))
}

/// Reads the benchmarks named in `pairs.decontaminate`: an index of their questions, and the files' digests, with
/// the number of items as rows. None where no file is named.
///
/// # Errors
/// [`Error::Data`] where a file is missing, damaged or has no questions; [`Error::Io`].
pub fn questions(config: &PairConfig, progress: &dyn Progress) -> Result<Option<(Index, Vec<FileDigest>)>> {
    if config.decontaminate.is_empty() {
        return Ok(None);
    }
    let mut index = Index::new(config.decontaminate_ngram);
    let mut files = Vec::new();
    for input in inputs::resolve(&config.decontaminate, progress)? {
        let label = inputs::stem(&input.label);
        let items = benchmarks::questions(&input, |texts| index.add(&label, texts))?;
        let (bytes, blake3) = artifact::hash_file(&input.path)?;
        files.push(FileDigest { path: input.label.display().to_string(), bytes, blake3, rows: Some(items) });
    }
    Ok(Some((index, files)))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::progress::Silent;

    /// Real preference data against real benchmarks.
    #[test]
    #[ignore = "needs the real data of the folder LPC_PIPE_DATA; `just test-all` runs it"]
    fn the_known_overlap_of_real_data_is_found() {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        let shared = std::env::var_os("LPC_PIPE_DATA").map_or_else(beside, PathBuf::from);
        let decontaminate =
            ["gsm8k_test.jsonl.gz", "truthfulqa_mc.json.gz", "arc_easy_test.jsonl.gz", "arc_challenge_test.jsonl.gz"]
                .map(|name| shared.join("eval").join(name).display().to_string());
        let config = PairConfig { decontaminate: decontaminate.into(), ..PairConfig::default() };
        let (index, files) = questions(&config, &Silent).unwrap().unwrap();
        let rows: Vec<u64> = files.iter().filter_map(|f| f.rows).collect();
        assert_eq!(rows, [1172, 2376, 1319, 817], "files in the order of their names");
        let mut rejects = Vec::new();
        let inputs = [Input::new(shared.join("alpaca_eval_prefs/train.jsonl.gz"))];
        ingest::read(&inputs, &IngestConfig::default(), None, &Silent, &mut |batch| {
            rejects.extend(index.apply(batch.frame)?.rejects);
            Ok(())
        })
        .unwrap();
        let rejects: Vec<(u64, String)> = rejects.into_iter().map(|r| (r.line, r.detail)).collect();
        assert!(
            rejects.iter().any(|(line, detail)| *line == 148 && detail.starts_with("truthfulqa_mc: ")),
            "{rejects:?}"
        );
        assert_eq!(rejects.len(), 1, "nothing else is in any benchmark: {rejects:?}");
    }
}
