//! Anthropic/hh-rlhf: two dialogues, each one text with a label before every turn.
//!
//! ```json
//! {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}
//! ```
//!
//! Each is split at its labels, and the last `Assistant:` turn is the response. Dialogues that differ
//! before it are counted as `different-contexts`, those that end with the person's turn as `no-response`.

use std::borrow::Cow;

use super::super::record::{Body, Record, Side, Turn, different_contexts, part, side_facts, split_response};
use super::super::value::{Fault, Object, Read, Value};
use super::has;
use crate::message::{ASSISTANT, USER};
use crate::rejects::reason;

const LABELS: [(&str, &str); 2] = [("Human:", USER), ("Assistant:", ASSISTANT)];

/// Whether the row looks like this layout: no prompt, and two texts with both labels.
pub fn fits(row: &Object<'_>) -> bool {
    let dialogue = |key: &str| match row.get(key) {
        Some(Value::Text(text)) => text.trim_start().starts_with("Human:") && text.contains("\n\nAssistant:"),
        _ => false,
    };
    !has(row, "prompt") && dialogue("chosen") && dialogue("rejected")
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let mut chosen = Side { turns: dialogue(row.text("chosen")?, "chosen")?, ..Side::default() };
    let mut rejected = Side { turns: dialogue(row.text("rejected")?, "rejected")?, ..Side::default() };
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    let prompt = split_response(&mut chosen);
    if prompt != split_response(&mut rejected) {
        return Err(different_contexts());
    }
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("chosen")
}

/// The turns of a dialogue: the person first, the model last.
fn dialogue<'a>(text: Cow<'a, str>, field: &str) -> Read<Vec<Turn<'a>>> {
    // A label counts at the start and after an empty line; the same word in a sentence does not.
    let blank = text.len() - text.trim_start().len();
    let starts = [blank].into_iter().chain(text.match_indices("\n\n").map(|(at, _)| at + 2).filter(|at| *at > blank));
    let labelled = |at: usize| {
        let label = LABELS.iter().find(|(label, _)| text[at..].starts_with(label));
        label.map(|(label, role)| (at, at + label.len(), *role))
    };
    let found: Vec<(usize, usize, &str)> = starts.filter_map(labelled).collect();
    if found.first().is_none_or(|(at, _, role)| *at != blank || *role != USER) {
        let message = "expected a dialogue that begins with \"Human:\"";
        return Err(Fault::new(field, reason::WRONG_ROLE, message));
    }
    if found.last().is_some_and(|(_, _, role)| *role != ASSISTANT) {
        let message = "the dialogue ends with the person's turn";
        return Err(Fault::decision(field, reason::NO_RESPONSE, message));
    }
    let ends = found.iter().skip(1).map(|(at, ..)| *at).chain([text.len()]);
    let turn = |((_, start, role), end): (&(usize, usize, &'static str), usize)| {
        let content = &text[*start..end];
        let lead = content.len() - content.trim_start().len();
        let range = (start + lead)..(start + lead + content.trim().len());
        Turn { role: (*role).into(), content: part(&text, range) }
    };
    Ok(found.iter().zip(ends).map(turn).collect())
}
