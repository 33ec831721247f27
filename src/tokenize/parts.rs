//! What the files of this module hand to one another: a tokenizer's parts, and pieces of encoded text.

use std::collections::{BTreeMap, BTreeSet};

use super::specials::Named;

/// Key of our own facts in a saved `tokenizer_config.json`; other readers ignore it.
pub(super) const OWN_KEY: &str = "lpc_pipe";

/// What a source of tokenizers must tell.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `folder`, `gguf` or `tiny`.
    pub kind: String,
    /// For messages.
    pub model: String,
    /// Content of `tokenizer.json`.
    pub json: Vec<u8>,
    /// Special tokens by their name in templates: `bos_token`, `eos_token` ...
    pub specials: BTreeMap<String, String>,
    /// Tokens that are named beside `tokenizer.json`, in the order in which they are added.
    pub named: Vec<Named>,
    /// Further tokens that end generation.
    pub stop_ids: BTreeSet<u32>,
    /// Whether a BOS is put in front; `None` asks the tokenizer's own post-processor.
    pub add_bos: Option<bool>,
    /// The model's own template: name and source.
    pub template: Option<(String, String)>,
    /// `model_type` of config.json, for the choice of a built-in template.
    pub model_type: String,
    /// Longest sequence the model was made for; 0 where not known.
    pub model_max_length: usize,
}

/// Token ids with the byte range of the text that each covers.
pub(super) type Pieces = (Vec<u32>, Vec<(u32, u32)>);

/// What stands before a text that is to be tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It is the beginning.
    Nothing,
    /// An added token, which ends there.
    Token,
    /// More text: nothing may be put between.
    Text,
}

/// The prompt's rendering and ids, made once for both sides.
pub(super) struct Head {
    pub(super) text: String,
    /// All ids of the prompt on its own, as in generation, without a BOS that the template does not write.
    pub(super) ids: Vec<u32>,
    /// The bytes of the text that each of `ids` covers.
    pub(super) spans: Vec<(u32, u32)>,
    /// Byte offset behind the last token at which text may be cut; 0 where there is none.
    pub(super) cut: usize,
    /// How many of `ids` lie before `cut`.
    pub(super) kept: usize,
}
