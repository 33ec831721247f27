//! The prepared data of a run.

use std::path::Path;

use crate::artifact;
use crate::batch::{self, Split};
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest};
use crate::schema::prepared;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::train::TrainConfig;
use crate::train::tuning::DataShape;

/// The prepared data of a run.
pub(super) struct Data {
    pub splits: Vec<Split>,
    pub tokenizer: ModelTokenizer,
    pub manifest: Manifest,
    /// Longest prompt and response, tokens.
    pub longest: usize,
}

impl Data {
    /// Reads the prepared folder of a configuration.
    ///
    /// # Errors
    /// [`Error::Artifact`] where it has no pairs to train on, or longer ones than `max_length`; as
    /// [`batch::read_splits`].
    pub fn open(config: &TrainConfig) -> Result<Data> {
        let data = Path::new(&config.data);
        let splits = batch::read_splits(data)?;
        if splits.first().is_none_or(|s| s.rows.is_empty()) {
            return Err(Error::artifact(data, "the training split has no pairs"));
        }
        let longest = batch::longest(splits.iter().flat_map(|s| &s.rows));
        if longest > config.max_length {
            return Err(Error::artifact(data, format!("a pair has {longest} tokens, more than {}", config.max_length))
                .with_hint("prepare with a smaller --max-length, or raise it: --set train.max_length=N"));
        }
        let manifest = Manifest::read(data)?;
        let tokenizer = ModelTokenizer::open(&data.join(prepared::TOKENIZER))?;
        Ok(Data { splits, tokenizer, manifest, longest })
    }

    /// What the policy that starts from `model` depends on.
    pub fn for_policy(&self, model: &ModelSource) -> DataShape<'_> {
        let vocabulary = self.tokenizer.vocabulary_for(model);
        DataShape { rows: &self.splits[0].rows, longest: self.longest, vocabulary }
    }

    /// The data as an input of the run's manifest; `path` is that of the configuration.
    pub fn input(&self, path: &str) -> Result<InputFile> {
        let rows: u64 = self.manifest.token_files().filter_map(|o| o.rows).sum();
        let (bytes, blake3) = artifact::hash_file(Path::new(path).join(prepared::MANIFEST))?;
        Ok(InputFile {
            path: path.to_string(),
            bytes,
            blake3,
            rows_read: rows,
            rows_kept: rows,
            ..InputFile::default()
        })
    }
}
