//! The tokenizer of a Hugging Face model folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

use super::parts::{OWN_KEY, Parts};
use super::specials::{self, Named};

/// Reads a JSON file of a model folder; `None` where it does not exist.
fn read_json(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::model(path.display().to_string(), format!("damaged JSON: {e}")))
}

/// Reads the parts of a Hugging Face folder's tokenizer.
pub(super) fn parts(folder: &Path) -> Result<Parts> {
    let model = folder.display().to_string();
    let json = match std::fs::read(folder.join("tokenizer.json")) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::model(model, "no tokenizer.json in this folder").with_hint(
                "a folder with tokenizer.model alone can be converted by transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            ));
        }
        Err(e) => return Err(Error::io(folder.join("tokenizer.json"))(e)),
    };
    let says = read_json(folder, "tokenizer_config.json")?.unwrap_or(Value::Null);
    let map = read_json(folder, "special_tokens_map.json")?.unwrap_or(Value::Null);
    let added = read_json(folder, "added_tokens.json")?.unwrap_or(Value::Null);
    let config = read_json(folder, "config.json")?.unwrap_or(Value::Null);
    let generation = read_json(folder, "generation_config.json")?.unwrap_or(Value::Null);

    let named = specials::named(&says, &map, &added).map_err(|what| Error::model(&model, what))?;
    let mut specials = BTreeMap::new();
    for Named { token, name, .. } in &named {
        if let Some(name) = name {
            specials.entry(name.clone()).or_insert_with(|| token.content.clone());
        }
    }
    let eos_ids = [&config, &generation].into_iter().flat_map(|v| id_list(&v["eos_token_id"]));
    let own = &says[OWN_KEY];
    let stop_ids: BTreeSet<u32> = eos_ids.chain(id_list(&own["stop_ids"])).collect();
    if !specials.contains_key("eos_token")
        && let Some(id) = id_list(&config["eos_token_id"]).first()
        && let Some(text) = token_in(&json, &named, *id)
    {
        specials.insert("eos_token".into(), text);
    }
    let text_of = |key: &str, other: &str| own[key].as_str().unwrap_or(other).to_string();
    Ok(Parts {
        kind: text_of("kind", "folder"),
        template: own_template(folder, &says)?.map(|source| (text_of("template", "own"), source)),
        model,
        json,
        specials,
        named,
        stop_ids,
        add_bos: says["add_bos_token"].as_bool(),
        model_type: config["model_type"].as_str().unwrap_or_default().to_string(),
        model_max_length: says["model_max_length"]
            .as_u64()
            .or(config["max_position_embeddings"].as_u64())
            .map_or(0, |n| usize::try_from(n).unwrap_or(0)),
    })
}

/// The folder's chat template: `chat_template.jinja` before the entry of `tokenizer_config.json`, which may be a text or a
/// list of named ones, before `chat_template.json`.
fn own_template(folder: &Path, says: &Value) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some(source)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(&path)(e)),
    }
    let pick = |value: &Value| -> Option<String> {
        match &value["chat_template"] {
            Value::String(source) => Some(source.clone()),
            Value::Array(named) => {
                let default = named.iter().find(|t| t["name"] == json!("default"));
                default.and_then(|t| t["template"].as_str()).map(str::to_string)
            }
            _ => None,
        }
    };
    if let Some(source) = pick(says) {
        return Ok(Some(source));
    }
    // transformers write it for processors, and their tokenizers do not read it.
    Ok(read_json(folder, "chat_template.json")?.as_ref().and_then(pick))
}

/// `eos_token_id` is a number or a list of numbers.
fn id_list(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(items) => items.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

fn token_in(json: &[u8], named: &[Named], id: u32) -> Option<String> {
    let listed = named.iter().find(|named| named.id == Some(id)).map(|named| named.token.content.clone());
    listed.or_else(|| Tokenizer::from_bytes(json).ok()?.id_to_token(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chat_template_is_the_one_that_transformers_take() {
        let dir = tempfile::tempdir().unwrap();
        let template = |says: Value| own_template(dir.path(), &says).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(template(json!({})), None);
        write("chat_template.json", r#"{"chat_template": "of a processor"}"#);
        assert_eq!(template(json!({})).as_deref(), Some("of a processor"));
        let named = json!({"chat_template": [{"name": "default", "template": "own"}, {"name": "x", "template": "y"}]});
        for says in [json!({"chat_template": "own"}), named] {
            assert_eq!(template(says).as_deref(), Some("own"));
        }
        write("chat_template.jinja", "file");
        assert_eq!(template(json!({"chat_template": "own"})).as_deref(), Some("file"));
    }
}
