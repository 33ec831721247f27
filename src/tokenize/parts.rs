//! Types that several files of this module use: the parts of a tokenizer, and encoded text.

use std::collections::{BTreeMap, BTreeSet};

use super::specials::Named;

/// Key of this program's facts in a saved `tokenizer_config.json`; other programs ignore it.
pub(super) const OWN_KEY: &str = "lpc_pipe";

/// What a tokenizer is assembled from; read from a model folder or GGUF file, or trained.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `folder`, `gguf` or `tiny`.
    pub kind: String,
    /// The model's name in messages.
    pub model: String,
    /// Content of `tokenizer.json`.
    pub json: Vec<u8>,
    /// Special tokens by their name in templates: `bos_token`, `eos_token` ...
    pub specials: BTreeMap<String, String>,
    /// Tokens that other files than `tokenizer.json` name, in the order in which they are added.
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

/// What comes before a text that is to be tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing: the text is the beginning.
    Nothing,
    /// An added token.
    Token,
    /// More text, which this text continues: no blank may be put in front.
    Text,
}

/// The prompt's rendering and ids, made once for both sides.
pub(super) struct Head {
    pub(super) text: String,
    /// Ids of the prompt alone, as in generation, without a BOS that the template does not write.
    pub(super) ids: Vec<u32>,
    /// The bytes of the text that each of `ids` covers.
    pub(super) spans: Vec<(u32, u32)>,
    /// Byte offset after the last token at which text may be split; 0 where there is none.
    pub(super) cut: usize,
    /// How many of `ids` lie before `cut`.
    pub(super) kept: usize,
}

/// Refuses a byte-pair model that the library cannot compute, or that makes other tokens each time.
///
/// # Errors
/// Why not.
pub(super) fn require_sound(file: &serde_json::Value) -> Result<(), String> {
    let model = &file["model"];
    if let Some(share) = model["dropout"].as_f64().filter(|share| *share > 0.0) {
        return Err(format!("model.dropout is {share}: the same text has other tokens each time; set it to null"));
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    if prefix.is_empty() {
        return Ok(());
    }
    let second = |merge: &serde_json::Value| match merge {
        serde_json::Value::Array(both) => both.get(1)?.as_str().map(String::from),
        other => other.as_str()?.split_once(' ').map(|(_, second)| second.to_string()),
    };
    let lacks_it = |second: &String| second.get(prefix.len()..).is_none();
    match model["merges"].as_array().into_iter().flatten().filter_map(second).find(lacks_it) {
        Some(part) => Err(format!("model.merges: {part:?} does not begin with the prefix {prefix:?} of its model")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn byte_pair_models_that_cannot_be_computed_are_refused() {
        let model = |model: serde_json::Value| require_sound(&json!({"model": model}));
        assert!(model(json!({"dropout": 0.1})).unwrap_err().contains("other tokens each time"));
        model(json!({"dropout": null, "merges": ["a b"]})).unwrap();
        // The library takes the prefix off the second part of a merge.
        for merges in [json!([["a", "##b"], ["a", "b"]]), json!(["a ##b", "a b"])] {
            let error = model(json!({"continuing_subword_prefix": "##", "merges": merges})).unwrap_err();
            assert!(error.contains("\"b\" does not begin with the prefix \"##\""), "{error}");
        }
        model(json!({"continuing_subword_prefix": "##", "merges": ["a ##b"]})).unwrap();
    }
}
