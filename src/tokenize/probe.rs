//! Finds out what a tokenizer and its template do by trying them: how a turn ends, whether a BOS is added, where a text
//! may be split; and picks the template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::message::Message;
use crate::settings::nearest;

use super::template::{BUILTIN, ChatTemplate, builtin, not_a_prefix};

/// How the assistant's turn ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TurnEnd {
    /// The token that ends it.
    pub id: u32,
    /// Whether the template writes that token; if not, it is appended.
    pub rendered: bool,
    /// What the template writes behind the end, which is no part of the response.
    pub suffix: String,
}

/// Whether the tokenizer's own post-processor puts `bos` in front.
pub(super) fn post_processor_adds(inner: &Tokenizer, bos: Option<u32>) -> Result<bool, String> {
    let encoded = inner.encode("a", true).map_err(|e| e.to_string())?;
    Ok(encoded.get_ids().first().copied() == bos)
}

/// Name and source of the template to use.
pub(super) fn pick_template(
    wanted: &str,
    own: Option<(String, String)>,
    model_type: &str,
    model: &str,
    has: impl Fn(&str) -> bool,
) -> Result<(String, String)> {
    let built_in = |name: &str| builtin(name).map(|source| (name.to_string(), source.to_string()));
    if wanted == "auto" {
        let by_vocabulary = || {
            if has("<|start_header_id|>") && has("<|eot_id|>") {
                Some("llama3")
            } else if has("<|im_start|>") && has("<|im_end|>") {
                Some("chatml")
            } else if model_type == "mistral" {
                Some("zephyr")
            } else {
                None
            }
        };
        return own.or_else(|| by_vocabulary().and_then(built_in)).ok_or_else(|| {
            Error::model(model, "has no chat template, and none can be chosen by the kind of model")
                .with_hint("name one: --template zephyr (or mistral; chatml and llama3 need their marks in the vocabulary; or a .jinja file)")
        });
    }
    if let Some(found) = built_in(wanted) {
        return Ok(found);
    }
    let path = Path::new(wanted);
    if path.is_file() {
        let source = std::fs::read_to_string(path).map_err(Error::io(path))?;
        return Ok((wanted.to_string(), source));
    }
    let names: Vec<&str> = BUILTIN.iter().map(|(name, _)| *name).collect();
    let suggestion = nearest(wanted, names.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
    Err(Error::config(
        "prepare.tokenize.template",
        format!(
            "`{wanted}` is no template: expected auto, {}, or the path of a .jinja file{}",
            names.join(", "),
            suggestion.unwrap_or_default()
        ),
    ))
}

/// The added tokens that the template writes around messages, by their text: headers and ends of turns, and the end of
/// turn that is appended where the template writes none.
pub(super) fn marks(
    inner: &Tokenizer,
    template: &ChatTemplate,
    turn: &TurnEnd,
    model: &str,
) -> Result<Vec<String>, Error> {
    let turns = [Message::user("probequestion"), Message { role: "assistant".into(), content: "probeanswer".into() }];
    let text = template.render(&turns, false)?;
    let encoded = inner.encode(text, false).map_err(|e| Error::model(model, e.to_string()))?;
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let mut marks: Vec<String> = Vec::new();
    for id in encoded.get_ids().iter().chain([&turn.id]) {
        let mark = added.get(id).filter(|token| token.special || *id == turn.id).map(|token| token.content.trim());
        if let Some(mark) = mark.filter(|mark| !mark.is_empty() && !marks.iter().any(|known| known == mark)) {
            marks.push(mark.to_string());
        }
    }
    Ok(marks)
}

/// Renders a conversation with a known answer, and finds the token that ends the turn after it.
pub(super) fn find_turn_end(
    inner: &Tokenizer,
    template: &ChatTemplate,
    eos: Option<u32>,
    model: &str,
) -> Result<TurnEnd> {
    const ANSWER: &str = "probeanswer";
    let turns = [("user", "probequestion"), ("assistant", ANSWER)]
        .map(|(role, content)| Message { role: role.into(), content: content.into() });
    let text = template.render(&turns, false)?;
    let prompt = template.render(&turns[..1], true)?;
    if !text.starts_with(&prompt) {
        let hint = "choose another template: --template NAME";
        return Err(Error::model(model, not_a_prefix(template.name(), &prompt, &text)).with_hint(hint));
    }
    let Some(at) = text.rfind(ANSWER) else {
        return Err(Error::model(model, "the chat template does not write the assistant's words unchanged"));
    };
    // Tokenized whole, as conversations are: the text before a token may decide whether it is one.
    let end = at + ANSWER.len();
    let tail = &text[end..];
    let encoded = inner.encode(text.as_str(), false).map_err(|e| Error::model(model, e.to_string()))?;
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    for (id, (start, stop)) in encoded.get_ids().iter().zip(encoded.get_offsets()) {
        let ends = added.get(id).map_or(eos == Some(*id), |token| {
            // A character that is encoded as bytes has the ids of byte tokens without being one of them in the text.
            (token.special || eos == Some(*id))
                && (token.normalized || text[*start..*stop].trim() == token.content.trim())
        });
        if *start >= end && ends {
            return Ok(TurnEnd { id: *id, rendered: true, suffix: text[*stop..].to_string() });
        }
    }
    if let Some(mark) = mark_in(tail) {
        // In some models' files the tokens that end turns are added tokens, but not special.
        let mut tokens = encoded.get_ids().iter().zip(encoded.get_offsets());
        let is_mark = |id: &u32| added.get(id).is_some_and(|token| token.content == mark);
        if let Some((id, (_, stop))) = tokens.find(|(id, (start, _))| *start >= end && is_mark(id)) {
            return Ok(TurnEnd { id: *id, rendered: true, suffix: text[*stop..].to_string() });
        }
        let name = template.name();
        let what = format!("the chat template `{name}` ends a turn with `{mark}`, which is no token of this tokenizer");
        let hint = "choose a template whose marks the tokenizer has: --template NAME; or name the token in \
                    tokenizer_config.json, if the model was trained with it";
        return Err(Error::model(model, what).with_hint(hint));
    }
    match eos {
        Some(id) => Ok(TurnEnd { id, rendered: false, suffix: tail.to_string() }),
        None => Err(Error::model(model, "has no end-of-sequence token, and its chat template ends turns with none")
            .with_hint("use a model whose tokenizer_config.json names an eos_token")),
    }
}

/// The first mark in a text, such as `<|im_end|>` or `</s>`: a word between angle brackets.
fn mark_in(text: &str) -> Option<&str> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '|' | '_' | '-' | '/' | '\u{ff5c}' | '\u{2581}');
    text.match_indices('<').find_map(|(at, _)| {
        let inside = &text[at + 1..];
        let length = inside.find('>').filter(|length| *length > 0)?;
        inside[..length].chars().all(word).then(|| &text[at..at + length + 2])
    })
}

/// Added tokens after which the ids of a text do not depend on what comes before the token: id and content.
pub(super) fn cut_tokens(inner: &Tokenizer) -> BTreeMap<u32, String> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    // A `single_word` token depends on the text to its left.
    if added.values().any(|t| t.single_word) {
        return BTreeMap::new();
    }
    // A token that begins another (as runs of line feeds do) might become the other by the text that follows.
    let mut contents: Vec<&str> = added.values().map(|t| t.content.as_str()).collect();
    contents.sort_unstable();
    let begins_another = |content: &str| {
        let next = contents.partition_point(|c| *c <= content);
        contents.get(next).is_some_and(|c| c.starts_with(content))
    };
    let hard = |t: &tokenizers::AddedToken| !t.normalized && !t.rstrip && !begins_another(&t.content);
    added.iter().filter(|(_, t)| hard(t)).map(|(id, t)| (*id, t.content.clone())).collect()
}

/// Whether neither normalizer nor pre-tokenizer treats the start of a text as special.
pub(super) fn independent_of_start(shape: &Value) -> bool {
    let normalizer = &shape["normalizer"];
    (normalizer.is_null() || normalizer["type"] == json!("NFC")) && splits_anywhere(&shape["pre_tokenizer"])
}

fn splits_anywhere(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("ByteLevel") => pre_tokenizer["add_prefix_space"] == json!(false),
        Some("Digits" | "Split") => true,
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().is_some_and(|all| all.iter().all(splits_anywhere))
        }
        _ => false,
    }
}

pub(super) fn has_byte_level(part: &Value) -> bool {
    let inside = |key: &str| part[key].as_array().is_some_and(|all| all.iter().any(has_byte_level));
    part["type"] == json!("ByteLevel") || inside("pretokenizers") || inside("decoders")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_only_at_tokens_that_stay_what_they_are() {
        let mut inner = Tokenizer::new(tokenizers::models::bpe::BPE::default());
        let token = |text: &str| tokenizers::AddedToken::from(text, true);
        let all = [token("<a>"), token("\n"), token("\n\n"), token("<r>").rstrip(true), token("<n>").normalized(true)];
        inner.add_special_tokens(all).unwrap();
        let cuts: Vec<String> = cut_tokens(&inner).into_values().collect();
        assert_eq!(cuts, ["<a>", "\n\n"]);
        inner.add_special_tokens([token("w").single_word(true)]).unwrap();
        assert!(cut_tokens(&inner).is_empty());
    }

    #[test]
    fn a_base_model_gets_the_template_of_its_kind() {
        let pick = |kind: &str, tokens: &[&str]| pick_template("auto", None, kind, "m", |t| tokens.contains(&t));
        assert_eq!(pick("llama", &["<|start_header_id|>", "<|eot_id|>"]).unwrap().0, "llama3");
        assert_eq!(pick("mistral", &["</s>"]).unwrap().0, "zephyr");
        assert_eq!(pick("qwen2", &["<|im_start|>", "<|im_end|>"]).unwrap().0, "chatml");
        let error = pick("gpt2", &[]).unwrap_err();
        assert!(error.hint().unwrap().contains("--template zephyr"), "{error}");
    }
}
