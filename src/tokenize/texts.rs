//! Texts of single tokens.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::fast::char_to_byte;
use super::probe::has_byte_level;
use crate::error::{Error, Result};
use crate::source::ModelSource;

/// The texts of all tokens of a `tokenizer.json`. It is read in a fraction of the time that a tokenizer takes, which
/// also has to be able to encode.
#[derive(Debug)]
pub struct TokenTexts {
    tokens: HashMap<u32, String>,
    /// Tokens that stand for themselves.
    added: HashMap<u32, String>,
    byte_level: bool,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    pre_tokenizer: Value,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
}

/// Ids by token, or tokens with their scores by id.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

impl TokenTexts {
    /// Reads the `tokenizer.json` of a folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] where it is damaged.
    pub fn open(folder: &Path) -> Result<TokenTexts> {
        let path = folder.join("tokenizer.json");
        TokenTexts::read(&std::fs::read(&path).map_err(Error::io(&path))?, &path)
    }

    /// The texts of a model's own tokens; `None` where it has no tokenizer of a kind that is read.
    ///
    /// # Errors
    /// As [`TokenTexts::open`].
    pub fn of_model(source: &ModelSource) -> Result<Option<TokenTexts>> {
        match source {
            ModelSource::Folder(folder) if folder.join("tokenizer.json").is_file() => {
                TokenTexts::open(folder).map(Some)
            }
            ModelSource::Folder(_) | ModelSource::Tiny { .. } => Ok(None),
            // A file whose tokenizer is not understood can be trained on data of another one, which has the same tokens.
            ModelSource::Gguf(path) => {
                super::gguf::parts(path).ok().map(|parts| TokenTexts::read(&parts.json, path)).transpose()
            }
        }
    }

    fn read(json: &[u8], path: &Path) -> Result<TokenTexts> {
        let file: File =
            serde_json::from_slice(json).map_err(|e| Error::model(path.display().to_string(), e.to_string()))?;
        Ok(TokenTexts {
            tokens: match file.model.vocab {
                Vocabulary::Ids(ids) => ids.into_iter().map(|(token, id)| (id, token)).collect(),
                Vocabulary::Scores(tokens) => (0..).zip(tokens).map(|(id, (token, _))| (id, token)).collect(),
            },
            added: file.added_tokens.into_iter().map(|added| (added.id, added.content)).collect(),
            byte_level: has_byte_level(&file.decoder) || has_byte_level(&file.pre_tokenizer),
        })
    }

    /// The least of some ids that stands for different tokens here and there, with both texts. Ids that one of the two
    /// does not have tell nothing: files other than `tokenizer.json` may name them.
    pub fn first_difference(
        &self,
        other: &TokenTexts,
        ids: impl IntoIterator<Item = u32>,
    ) -> Option<(u32, String, String)> {
        let differ = |id: &u32| self.has(*id) && other.has(*id) && self.of(*id) != other.of(*id);
        let id = ids.into_iter().filter(differ).min()?;
        Some((id, self.of(id), other.of(id)))
    }

    fn has(&self, id: u32) -> bool {
        self.added.contains_key(&id) || self.tokens.contains_key(&id)
    }

    /// The text of a token with its leading space; a part of a character becomes U+FFFD.
    pub fn of(&self, id: u32) -> String {
        match (self.added.get(&id), self.tokens.get(&id)) {
            (Some(added), _) => added.clone(),
            (None, Some(token)) => of_token(token, self.byte_level),
            (None, None) => format!("<{id}>"),
        }
    }
}

/// The text of a token of the vocabulary that was not added to it.
pub(super) fn of_token(token: &str, byte_level: bool) -> String {
    if byte_level {
        let bytes: Option<Vec<u8>> = token.chars().map(char_to_byte).collect();
        return bytes.map_or_else(|| token.to_string(), |b| String::from_utf8_lossy(&b).into_owned());
    }
    let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
        None => token.replace('\u{2581}', " "),
    }
}
