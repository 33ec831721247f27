//! Added tokens that other files of a model folder than `tokenizer.json` name, whether or not its vocabulary has them.
//!
//! # Source
//! `from_pretrained` of `transformers` 5 (`PreTrainedTokenizerBase._from_pretrained`,
//! `TokenizersBackend.__init__`): which files are read, which file wins, and in which order tokens are added. The order
//! decides the ids of tokens that the vocabulary lacks.

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

/// Names of special tokens, in the order in which they are added.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The file with flags and ids of added tokens.
const CONFIG: &str = "tokenizer_config.json";

/// A token that another file than `tokenizer.json` names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    /// The token with its flags.
    pub token: AddedToken,
    /// Its id, where the file has it. Then the file's flags also replace those of a token that exists already.
    pub id: Option<u32>,
    /// Its name in templates, if any.
    pub name: Option<String>,
    /// The file that names it, for messages.
    pub file: &'static str,
}

/// Whether no conversation contains the token of this name, such as one for padding. It needs no id if only the name
/// refers to it and no other token is added after it.
pub(super) fn is_spare(name: &str) -> bool {
    NAMES[2..].contains(&name)
}

/// The tokens that `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` name; a file that does
/// not exist is null.
pub(super) fn named(says: &Value, map: &Value, added: &Value) -> Result<Vec<Named>, String> {
    // The two older files are used only where tokenizer_config.json does not list the tokens.
    let by_id = says["added_tokens_decoder"].as_object();
    let value = |name: &str| {
        let older = by_id.is_none() && !map[name].is_null();
        if older { (&map[name], "special_tokens_map.json") } else { (&says[name], CONFIG) }
    };
    let mut found = Vec::new();
    for name in names(says, map, by_id.is_none()) {
        let (value, file) = value(&name);
        // `transformers` ignores this map here, but it still gives the token its name.
        let (value, file) = if value.is_null() { (&map[&name], "special_tokens_map.json") } else { (value, file) };
        if !value.is_null() {
            let token = token(value, true).ok_or_else(|| format!("{file}: {name}: expected a token, found {value}"))?;
            found.push(Named { token, id: None, name: Some(name), file });
        }
    }
    let (extra, older) = ("extra_special_tokens", "additional_special_tokens");
    if let (Value::Object(tokens), file) = value(extra) {
        for (name, value) in tokens {
            let token =
                token(value, true).ok_or_else(|| format!("{file}: {extra}.{name}: expected a token, found {value}"))?;
            found.push(Named { token, id: None, name: Some(name.clone()), file });
        }
    }
    let filled = |value: &&Value| value.as_array().is_some_and(|list| !list.is_empty());
    let mut lists: Vec<_> =
        [extra, older].map(|key| (key, &says[key], CONFIG)).into_iter().filter(|l| filled(&l.1)).take(1).collect();
    if by_id.is_none() {
        lists.extend(
            [extra, older].map(|key| (key, &map[key], "special_tokens_map.json")).into_iter().filter(|l| filled(&l.1)),
        );
    }
    for (key, list, file) in lists {
        for value in list.as_array().into_iter().flatten() {
            let token = token(value, true).ok_or_else(|| format!("{file}: {key}: expected tokens, found {value}"))?;
            found.push(Named { token, id: None, name: None, file });
        }
    }

    let special = |content: &str| found.iter().any(|named| named.token.content == content);
    let mut listed = Vec::new();
    if let Some(by_id) = by_id {
        for (id, value) in by_id {
            let what = || format!("{CONFIG}: added_tokens_decoder.{id}: expected an id and a token, found {value}");
            let mut token = token(value, false).filter(|_| value.is_object()).ok_or_else(what)?;
            token.special |= special(&token.content);
            listed.push(Named { token, id: Some(id.parse().map_err(|_| what())?), name: None, file: CONFIG });
        }
    } else {
        for (content, id) in added.as_object().into_iter().flatten() {
            let what = || format!("added_tokens.json: `{content}`: expected an id, found {id}");
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(what)?;
            let token = AddedToken::from(content.as_str(), special(content));
            listed.push(Named { token, id: Some(id), name: None, file: "added_tokens.json" });
        }
    }
    listed.sort_by_key(|named| named.id);
    listed.append(&mut found);
    Ok(listed)
}

/// Names of special tokens: the usual ones, then all other keys of the configuration that end with `_token`.
fn names(says: &Value, map: &Value, older: bool) -> Vec<String> {
    let mut names: Vec<String> = NAMES.map(str::to_string).into();
    let is_token = |v: &Value| v.is_string() || (v.is_object() && v["content"].is_string());
    for file in [says, map].into_iter().take(1 + usize::from(older)) {
        let others = file.as_object().into_iter().flatten();
        let others = others.filter(|(name, value)| name.ends_with("_token") && is_token(value));
        for (name, _) in others {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// A token as a text, or as an object with its flags.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str| value[name].as_bool();
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(value["content"].as_str()?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false));
    Some(token.normalized(flag("normalized").unwrap_or(!special)))
}

/// A `tokenizer.json` to which the named tokens were added; `None` where it has them all.
pub(super) fn added(file: &[u8], inner: &Tokenizer, named: &[Named]) -> Result<Option<Vec<u8>>, String> {
    let mut with = inner.clone();
    let has = |tokenizer: &Tokenizer, token: &AddedToken| {
        tokenizer.get_added_vocabulary().get_vocab().contains_key(&token.content)
    };
    // New tokens after the last one that needs an id are left out. A token that has its id takes none, and so does not
    // need those before it.
    let is_new = |n: &Named| inner.token_to_id(&n.token.content).is_none();
    let needed = |n: &Named| is_new(n) && (n.id.is_some() || !n.name.as_deref().is_some_and(is_spare));
    let end = named.iter().rposition(needed).map_or(0, |last| last + 1);
    let mut changed = false;
    let mut elsewhere = Vec::new();
    for (i, entry) in named.iter().enumerate() {
        let Named { token, id, file, .. } = entry;
        let left_out = i >= end && is_new(entry);
        if token.content.is_empty() || left_out || (id.is_none() && has(&with, token)) {
            continue;
        }
        let known = with.token_to_id(&token.content);
        if let Some(known) = known
            && with.get_added_vocabulary().get_added_tokens_decoder().get(&known) == Some(token)
        {
            continue;
        }
        with.add_tokens([token.clone()]).map_err(|e| format!("{file}: `{}`: {e}", token.content))?;
        changed = true;
        let found = with.token_to_id(&token.content);
        if known.is_none() && id.is_some() && *id != found {
            let (wanted, found) = (id.unwrap_or_default(), found.unwrap_or_default());
            elsewhere.push(format!("`{}` is {wanted} in {file} and would be {found}", token.content));
        }
    }
    if !elsewhere.is_empty() {
        return Err(format!(
            "special tokens that tokenizer.json does not have would get other ids than they are said to have: {}",
            elsewhere.join(", ")
        ));
    }
    if !changed {
        return Ok(None);
    }
    let mut shape: Map<String, Value> = serde_json::from_slice(file).map_err(|e| format!("tokenizer.json: {e}"))?;
    let mut tokens: Vec<_> = with.get_added_vocabulary().get_added_tokens_decoder().iter().collect();
    tokens.sort_by_key(|(id, _)| **id);
    let entry = |(id, token): (&u32, &AddedToken)| {
        json!({"id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
               "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special})
    };
    shape.insert("added_tokens".into(), tokens.into_iter().map(entry).collect());
    serde_json::to_vec(&shape).map(Some).map_err(|e| format!("tokenizer.json: {e}"))
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::tiny;
    use super::*;

    /// The tiny `tokenizer.json`, of whose added tokens `<|endoftext|>` (0) alone is left: `<|im_start|>` (1)
    /// and `<|im_end|>` (2) are ordinary entries of its vocabulary of 340.
    fn bare() -> Vec<u8> {
        let mut shape: Value = serde_json::from_slice(&tiny().json).unwrap();
        shape["added_tokens"].as_array_mut().unwrap().truncate(1);
        serde_json::to_vec(&shape).unwrap()
    }

    /// Added tokens as id, content and whether they are special.
    fn all(says: Value, map: Value, added_tokens: Value) -> Result<Vec<(u32, String, bool)>, String> {
        let file = bare();
        let inner = Tokenizer::from_bytes(&file).unwrap();
        let file = added(&file, &inner, &named(&says, &map, &added_tokens)?)?.unwrap_or(file);
        let inner = Tokenizer::from_bytes(file).unwrap();
        let tokens = inner.get_added_vocabulary().get_added_tokens_decoder().iter();
        let mut tokens: Vec<_> = tokens.map(|(id, t)| (*id, t.content.clone(), t.special)).collect();
        tokens.sort();
        assert_eq!(tokens.remove(0), (0, "<|endoftext|>".into(), true));
        Ok(tokens)
    }

    fn from(says: Value) -> Vec<(u32, String, bool)> {
        all(says, Value::Null, Value::Null).unwrap()
    }

    fn special(tokens: &[(u32, &str)]) -> Vec<(u32, String, bool)> {
        tokens.iter().map(|(id, content)| (*id, content.to_string(), true)).collect()
    }

    #[test]
    fn tokens_are_found_wherever_they_are_named() {
        assert_eq!(from(json!({"eos_token": "<|endoftext|>"})), []);
        let both = special(&[(1, "<|im_start|>"), (2, "<|im_end|>")]);
        let (start, end) = ("<|im_start|>", "<|im_end|>");
        assert_eq!(
            from(
                json!({"added_tokens_decoder": {"1": {"content": start, "special": true}, "2": {"content": end, "special": true}}})
            ),
            both
        );
        assert_eq!(from(json!({"additional_special_tokens": [start, {"content": end, "__type": "AddedToken"}]})), both);
        assert_eq!(from(json!({"extra_special_tokens": [start, end]})), both);
        assert_eq!(from(json!({"extra_special_tokens": {"start_token": start, "end": end}})), both);
        assert_eq!(
            from(
                json!({"bos_token": start, "eos_token": {"content": end, "__type": "AddedToken", "normalized": true}})
            ),
            both
        );
        assert_eq!(from(json!({"eot_token": end, "image_token": {"content": start}, "add_bos_token": true})), both);
        let map = json!({"bos_token": {"content": start}, "additional_special_tokens": [end]});
        assert_eq!(all(Value::Null, map.clone(), Value::Null).unwrap(), both);
        let ids = json!({start: 1, end: 2});
        let ordinary: Vec<_> = both.iter().map(|(id, content, _)| (*id, content.clone(), false)).collect();
        assert_eq!(all(Value::Null, Value::Null, ids.clone()).unwrap(), ordinary);
        assert_eq!(all(Value::Null, map.clone(), ids.clone()).unwrap(), both);
        // Where the configuration lists tokens by id, the older files are used for names only.
        let listed = json!({"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": true}}});
        assert_eq!(all(listed, map, ids).unwrap(), special(&[(1, start)]));
    }

    #[test]
    fn new_tokens_get_the_ids_behind_the_vocabulary_in_order() {
        let token = |content: &str| json!({"content": content, "special": true});
        let n = tiny().vocab_size() as u32;
        let listed = json!({"added_tokens_decoder": {(n + 1).to_string(): token("<b>"), n.to_string(): token("<a>")},
            "additional_special_tokens": ["<x>", "<b>", "<y>"], "mask_token": "<m>", "eos_token": "<e>", "cls_token": "<a>"});
        let wanted = ["<a>", "<b>", "<e>", "<m>", "<x>", "<y>"];
        let wanted: Vec<(u32, &str)> = (n..).zip(wanted).collect();
        assert_eq!(from(listed), special(&wanted));
        // A padding token that would be added last needs no id.
        assert_eq!(from(json!({"eos_token": "<e>", "pad_token": "<p>"})), special(&[(n, "<e>")]));
        assert_eq!(
            from(json!({"eos_token": "<e>", "pad_token": "<p>", "extra_special_tokens": ["<x>"]})),
            special(&[(n, "<e>"), (n + 1, "<p>"), (n + 2, "<x>")])
        );
        // One before tokens that have their ids needs none either: a folder that was saved names its end of turn too.
        let saved = json!({"eos_token": "<|im_end|>", "pad_token": "<p>", "eot_token": "<|im_start|>"});
        assert_eq!(from(saved), special(&[(1, "<|im_start|>"), (2, "<|im_end|>")]));
    }

    #[test]
    fn flags_are_those_of_the_configuration() {
        let file = bare();
        let inner = Tokenizer::from_bytes(&file).unwrap();
        let flags = json!({"content": "<|endoftext|>", "special": true, "rstrip": true, "lstrip": false, "normalized": false, "single_word": false});
        let says = json!({"added_tokens_decoder": {"0": flags}});
        let named = named(&says, &Value::Null, &Value::Null).unwrap();
        let inner = Tokenizer::from_bytes(added(&file, &inner, &named).unwrap().unwrap()).unwrap();
        assert!(inner.get_added_vocabulary().get_added_tokens_decoder()[&0].rstrip);
        assert_eq!(added(&file, &inner, &named), Ok(None), "nothing is written where nothing is new");
    }

    #[test]
    fn the_file_that_lists_tokens_by_id_counts_before_the_older_one() {
        let end = json!({"2": {"content": "<|im_end|>", "special": false}});
        let says = json!({"added_tokens_decoder": end, "eos_token": "<|im_end|>"});
        assert_eq!(from(says.clone()), special(&[(2, "<|im_end|>")]), "a token with a name is special");
        let map = json!({"eos_token": "<|endoftext|>"});
        let eos = |says: &Value| {
            let named = named(says, &map, &Value::Null).unwrap();
            named.into_iter().find(|n| n.name.as_deref() == Some("eos_token")).unwrap().token.content
        };
        assert_eq!(eos(&says), "<|im_end|>");
        assert_eq!(eos(&json!({"eos_token": "<|im_end|>"})), "<|endoftext|>");
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_name() {
        let n = tiny().vocab_size() as u64;
        let gap = json!({"added_tokens_decoder": {(n + 3).to_string(): {"content": "<a>", "special": true}}});
        let said = all(gap, Value::Null, Value::Null).unwrap_err();
        assert!(said.contains(&format!("`<a>` is {} in tokenizer_config.json and would be {n}", n + 3)), "{said}");
        for (says, what) in [
            (json!({"eos_token": 3}), "tokenizer_config.json: eos_token: expected a token, found 3"),
            (json!({"additional_special_tokens": [["a"]]}), "additional_special_tokens: expected tokens"),
            (json!({"extra_special_tokens": {"a": null}}), "extra_special_tokens.a: expected a token, found null"),
            (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "added_tokens_decoder.x: expected an id"),
            (json!({"added_tokens_decoder": {"1": "a"}}), "added_tokens_decoder.1: expected an id and a token"),
        ] {
            let said = all(says, Value::Null, Value::Null).unwrap_err();
            assert!(said.contains(what), "{said}");
        }
        assert!(all(Value::Null, Value::Null, json!({"<a>": "1"})).unwrap_err().contains("added_tokens.json: `<a>`"));
    }
}
