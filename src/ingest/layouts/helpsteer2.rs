//! nvidia/HelpSteer2, `preference/preference.jsonl.gz`: two responses, and how much the second is preferred.
//!
//! ```json
//! {"split": "train", "prompt": "Why?", "response_1": "No.", "response_2": "Because.",
//!  "preference_strength": 2, "preference_statement": "..."}
//! ```
//!
//! `preference_strength` is an integer from -3 (the first is much better) to 3 (the second is); its size
//! becomes the score of the better response, against 0. Rows with 0 are counted as `no-preference`.
//! Prompts of several turns mark them with `<extra_id_1>User` and `<extra_id_1>Assistant` lines.
//!
//! The plain files of the set (`train.jsonl.gz`) have one rated response a row; pairs are not made of
//! neighbouring rows.

use std::borrow::Cow;

use super::super::record::{Body, Record, Side, Turn, excerpt};
use super::super::value::{Object, Read, RowFault};
use super::has;
use crate::message::{ASSISTANT, USER};
use crate::rejects::reason;

pub fn fits(row: &Object<'_>) -> bool {
    has(row, "response_1") && has(row, "response_2") && has(row, "preference_strength")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let prompt = prompt_turns(row.text("prompt")?)?;
    let (first, second) = (row.text("response_1")?, row.text("response_2")?);
    let strength = row.number("preference_strength")?;
    let body = preferred(first, second, strength, "preference_strength")?;
    Record::new(prompt, body).checked("prompt")
}

/// The pair of two responses, the second preferred where `strength` is positive.
///
/// # Errors
/// A decision against the row, where neither is preferred.
pub fn preferred<'a>(first: Cow<'a, str>, second: Cow<'a, str>, strength: f64, field: &str) -> Read<Body<'a>> {
    if strength == 0.0 {
        return Err(RowFault::decision(field, reason::NO_PREFERENCE, "neither response is preferred"));
    }
    let side = |text, score| Side { turns: vec![Turn::assistant(text)], score: Some(score), model: None };
    let (better, worse) = if strength > 0.0 { (second, first) } else { (first, second) };
    Ok(Body::Pair(side(better, strength.abs()), side(worse, 0.0)))
}

fn prompt_turns(text: Cow<'_, str>) -> Read<Vec<Turn<'_>>> {
    const MARK: &str = "<extra_id_1>";
    if !text.contains(MARK) {
        return Ok(vec![Turn::user(text)]);
    }
    let mut turns = Vec::new();
    let mut add = |role: &'static str, start: usize, end: usize| {
        let content = excerpt(&text, start..end);
        // The person's first turn has no mark of its own.
        if !(turns.is_empty() && content.is_empty()) {
            turns.push(Turn { role: role.into(), content });
        }
    };
    let (mut role, mut start) = (USER, 0);
    for (at, mark) in text.match_indices(MARK) {
        let after = &text[at + mark.len()..];
        let next = [("User", USER), ("Assistant", ASSISTANT)].into_iter().find(|(name, _)| after.starts_with(name));
        let Some((name, next)) = next else {
            let message = "expected User or Assistant after <extra_id_1>";
            return Err(RowFault::new("prompt", reason::WRONG_ROLE, message));
        };
        add(role, start, at);
        (role, start) = (next, at + mark.len() + name.len());
    }
    // A prompt may end with the mark of the response to come.
    if role == USER || !text[start..].trim().is_empty() {
        add(role, start, text.len());
    }
    Ok(turns)
}
