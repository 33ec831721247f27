//! The tokenizer inside a GGUF file, as a `tokenizer.json`.
//!
//! # Source
//! Keys `tokenizer.ggml.*` of the GGUF specification; the expressions behind the names of
//! `tokenizer.ggml.pre` as llama.cpp and the models' own `tokenizer.json` give them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, Value as Entry};

use super::parts::Parts;
use super::words::{LLAMA3, QWEN2};

/// Values of `tokenizer.ggml.token_type` for added tokens, which are matched before a text is split.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How texts are split before merging.
pub(super) enum Pre {
    /// GPT-2's expression.
    Gpt2,
    /// Digits one by one, then GPT-2's expression.
    Digits,
    Llama3,
    Qwen2,
}

impl Pre {
    fn named(name: &str) -> Option<Pre> {
        match name {
            "default" | "gpt-2" | "gpt2" | "phi-2" | "" => Some(Pre::Gpt2),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Some(Pre::Digits),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => Some(Pre::Llama3),
            "qwen2" | "deepseek-r1-qwen" => Some(Pre::Qwen2),
            _ => None,
        }
    }

    pub(super) fn json(&self) -> Value {
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let sequence = |first: Value, regex| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        match self {
            Pre::Gpt2 => byte_level(true),
            Pre::Digits => sequence(json!({"type": "Digits", "individual_digits": true}), true),
            Pre::Llama3 => sequence(split(LLAMA3), false),
            Pre::Qwen2 => sequence(split(QWEN2), false),
        }
    }
}

/// Typed access to the metadata, with errors that name the key.
struct Metadata<'a> {
    entries: &'a HashMap<String, Entry>,
    model: &'a str,
}

impl Metadata<'_> {
    fn bad(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::model(self.model, format!("{key}: {what}"))
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.entries.get(key) {
            Some(Entry::String(text)) => Some(text),
            _ => None,
        }
    }

    fn list<T>(&self, key: &str, read: impl Fn(&Entry) -> Option<T>) -> Result<Vec<T>> {
        let Some(entry) = self.entries.get(key) else { return Err(self.bad(key, "missing")) };
        let Entry::Array(items) = entry else { return Err(self.bad(key, "expected a list")) };
        items
            .iter()
            .enumerate()
            .map(|(i, item)| read(item).ok_or_else(|| self.bad(key, format!("entry {i} is of an unexpected type"))))
            .collect()
    }

    fn id(&self, key: &str) -> Option<u32> {
        u32::try_from(integer(self.entries.get(key)?)?).ok()
    }
}

fn integer(entry: &Entry) -> Option<i64> {
    match entry {
        Entry::U8(v) => Some(i64::from(*v)),
        Entry::I8(v) => Some(i64::from(*v)),
        Entry::U16(v) => Some(i64::from(*v)),
        Entry::I16(v) => Some(i64::from(*v)),
        Entry::U32(v) => Some(i64::from(*v)),
        Entry::I32(v) => Some(i64::from(*v)),
        Entry::U64(v) => i64::try_from(*v).ok(),
        Entry::I64(v) => Some(*v),
        _ => None,
    }
}

fn text(entry: &Entry) -> Option<String> {
    match entry {
        Entry::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Reads a GGUF file's tokenizer.
pub(super) fn parts(path: &Path) -> Result<Parts> {
    from_metadata(&Gguf::open(path)?.metadata, &path.display().to_string())
}

/// As [`parts`], from the metadata.
fn from_metadata(entries: &HashMap<String, Entry>, model: &str) -> Result<Parts> {
    let data = Metadata { entries, model };
    let kind = data.text("tokenizer.ggml.model").unwrap_or_default();
    if kind != "gpt2" {
        let hint = "use the model's Hugging Face folder, which carries tokenizer.json";
        let what = match kind {
            "" => "holds no tokenizer (tokenizer.ggml.model is missing)".to_string(),
            "llama" => "tokenizer.ggml.model `llama` (SentencePiece) cannot be read from GGUF".to_string(),
            other => format!("tokenizer.ggml.model `{other}` cannot be read from GGUF"),
        };
        return Err(Error::model(model, what).with_hint(hint));
    }
    let pre_name = data.text("tokenizer.ggml.pre").unwrap_or_default();
    let pre = Pre::named(pre_name).ok_or_else(|| {
        data.bad("tokenizer.ggml.pre", format!("`{pre_name}` is not known"))
            .with_hint("use the model's Hugging Face folder, which carries tokenizer.json")
    })?;
    let tokens = data.list("tokenizer.ggml.tokens", text)?;
    let mut kinds = vec![1; tokens.len()];
    if entries.contains_key("tokenizer.ggml.token_type") {
        kinds = data.list("tokenizer.ggml.token_type", integer)?;
    }
    if kinds.len() != tokens.len() {
        return Err(data.bad("tokenizer.ggml.token_type", format!("{} for {} tokens", kinds.len(), tokens.len())));
    }

    let mut marks = BTreeSet::new();
    let mut specials = BTreeMap::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        if let Some(id) = data.id(&key) {
            let token =
                tokens.get(id as usize).ok_or_else(|| data.bad(&key, format!("{id} is not in the vocabulary")))?;
            marks.insert(id);
            specials.insert(format!("{name}_token"), token.clone());
        }
    }
    let add_bos = match entries.get("tokenizer.ggml.add_bos_token") {
        Some(Entry::Bool(says)) => *says,
        // Where the file does not say, llama.cpp adds a BOS for Llama 3 only.
        _ => matches!(pre, Pre::Llama3),
    } && specials.contains_key("bos_token");
    let bos = specials.get("bos_token").filter(|_| add_bos).cloned();
    let stop = ["eos", "eot", "eom"].iter().filter_map(|n| data.id(&format!("tokenizer.ggml.{n}_token_id")));
    let stop: BTreeSet<u32> = stop.collect();
    // BOS, end of turn and the like are special, whatever type the file gives them.
    marks.extend(&stop);
    for (id, kind) in kinds.iter_mut().enumerate() {
        if marks.contains(&(id as u32)) {
            *kind = CONTROL;
        }
    }
    let architecture = data.text("general.architecture").unwrap_or_default();
    let longest = data.id(&format!("{architecture}.context_length")).unwrap_or(0) as usize;
    Ok(Parts {
        kind: "gguf".into(),
        model: model.to_string(),
        json: tokenizer_json(&data, &pre, &tokens, &kinds, bos.as_deref())?,
        named: Vec::new(),
        stop_ids: stop,
        specials,
        add_bos: Some(add_bos),
        template: data.text("tokenizer.chat_template").map(|source| ("own".into(), source.to_string())),
        model_type: architecture.to_string(),
        model_max_length: longest,
    })
}

/// The `tokenizer.json` that `transformers` would write for this vocabulary.
fn tokenizer_json(data: &Metadata, pre: &Pre, tokens: &[String], kinds: &[i64], bos: Option<&str>) -> Result<Vec<u8>> {
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            return Err(data.bad("tokenizer.ggml.tokens", format!("`{token}` is there twice")));
        }
    }
    let mut merges = Vec::new();
    for merge in data.list("tokenizer.ggml.merges", text)? {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(data.bad("tokenizer.ggml.merges", format!("`{merge}` is no pair")));
        };
        merges.push(json!([left, right]));
    }
    let added: Vec<Value> = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *kind == CONTROL})
        })
        .collect();
    let post_processor = match bos {
        None => Value::Null,
        Some(bos) => json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [vocab[bos].clone()], "tokens": [bos]}},
        }),
    };
    let normalizer = if matches!(pre, Pre::Qwen2) { json!({"type": "NFC"}) } else { Value::Null };
    Ok(serde_json::to_vec(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre.json(),
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": matches!(pre, Pre::Llama3), "vocab": vocab, "merges": merges,
        },
    }))?)
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::tiny;
    use super::super::{ModelTokenizer, TokenizeConfig};
    use super::*;
    use crate::source::ModelSource;

    fn strings(items: impl Iterator<Item = String>) -> Entry {
        Entry::Array(items.map(Entry::String).collect())
    }

    /// The tiny vocabulary as GGUF metadata.
    fn metadata() -> HashMap<String, Entry> {
        let shape: Value = serde_json::from_slice(&tiny().json).unwrap();
        let mut vocab: Vec<(&String, u64)> =
            shape["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
        vocab.sort_by_key(|(_, id)| *id);
        let merges = shape["model"]["merges"].as_array().unwrap().iter();
        let merges = merges.map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()));
        let kinds = (0..vocab.len()).map(|id| Entry::I32(if id < 3 { 3 } else { 1 })).collect();
        let text = |t: &str| Entry::String(t.into());
        HashMap::from(
            [
                ("general.architecture", text("llama")),
                ("llama.context_length", Entry::U32(8192)),
                ("tokenizer.ggml.model", text("gpt2")),
                ("tokenizer.ggml.pre", text("smollm")),
                ("tokenizer.ggml.tokens", strings(vocab.iter().map(|(t, _)| t.to_string()))),
                ("tokenizer.ggml.token_type", Entry::Array(kinds)),
                ("tokenizer.ggml.merges", strings(merges)),
                ("tokenizer.ggml.bos_token_id", Entry::U32(0)),
                ("tokenizer.ggml.eos_token_id", Entry::U32(2)),
            ]
            .map(|(key, value)| (key.to_string(), value)),
        )
    }

    fn assemble(entries: &HashMap<String, Entry>) -> Result<ModelTokenizer> {
        ModelTokenizer::assemble(from_metadata(entries, "m.gguf")?, "auto")
    }

    #[test]
    fn the_same_vocabulary_gives_the_same_ids() {
        let tokenizer = assemble(&metadata()).unwrap();
        let text = "<|im_start|>user\nGood answers 12345!<|im_end|>\n\n\u{1f600} x";
        assert_eq!(tokenizer.encode_text(text).unwrap(), tiny().encode_text(text).unwrap());
        assert_eq!(tokenizer.template().name(), "chatml", "chosen by its vocabulary");
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.eot_id()), (Some(0), Some(2), 2));
        assert_eq!(tokenizer.with_bos(vec![5]), [5], "no BOS by default");
    }

    #[test]
    fn tokens_with_a_part_to_play_are_marks_whatever_their_type() {
        let mut entries = metadata();
        entries.remove("tokenizer.ggml.token_type");
        entries.insert("tokenizer.ggml.eot_token_id".into(), Entry::U32(1));
        let tokenizer = assemble(&entries).unwrap();
        assert_eq!(tokenizer.encode_text("<|endoftext|><|im_start|><|im_end|>").unwrap(), [0, 1, 2]);
        assert_eq!(tokenizer.eot_id(), 2);
    }

    #[test]
    fn bos_survives_saving() {
        let mut entries = metadata();
        entries.insert("tokenizer.ggml.add_bos_token".into(), Entry::Bool(true));
        for pre in ["smollm", "llama-bpe", "qwen2", "gpt-2"] {
            entries.insert("tokenizer.ggml.pre".into(), Entry::String(pre.into()));
            let tokenizer = assemble(&entries).unwrap();
            assert_eq!(tokenizer.with_bos(vec![5]), [0, 5]);
            let dir = tempfile::tempdir().unwrap();
            tokenizer.save(dir.path()).unwrap();
            let again =
                ModelTokenizer::load(&ModelSource::Folder(dir.path().into()), &TokenizeConfig::default()).unwrap();
            assert_eq!(again.facts(), tokenizer.facts());
            let plain = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
            assert_eq!(plain.encode("Good", true).unwrap().get_ids()[0], 0, "readers of the file alone add it too");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let with = |key: &str, value: Entry| {
            let mut entries = metadata();
            entries.insert(key.into(), value);
            assemble(&entries).unwrap_err().to_string()
        };
        let text = |t: &str| Entry::String(t.into());
        assert!(with("tokenizer.ggml.pre", text("viking")).contains("tokenizer.ggml.pre: `viking` is not known"));
        assert!(with("tokenizer.ggml.model", text("llama")).contains("`llama` (SentencePiece)"));
        assert!(with("tokenizer.ggml.model", text("bert")).contains("`bert`"));
        assert!(with("tokenizer.ggml.merges", strings(["ab".to_string()].into_iter())).contains("no pair"));
        assert!(
            with("tokenizer.ggml.tokens", strings(["a".to_string(), "a".to_string()].into_iter()))
                .contains("for 2 tokens")
        );
        assert!(with("tokenizer.ggml.tokens", Entry::U8(1)).contains("expected a list"));
        assert!(with("tokenizer.ggml.eos_token_id", Entry::U32(99_999)).contains("99999"));
        let nothing = from_metadata(&HashMap::new(), "m.gguf").unwrap_err();
        assert!(nothing.to_string().contains("no tokenizer"), "{nothing}");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.gguf"), b"GGUF nonsense").unwrap();
        assert_eq!(parts(&dir.path().join("x.gguf")).unwrap_err().exit_code(), 3);
    }
}
