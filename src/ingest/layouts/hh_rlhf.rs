//! Anthropic/hh-rlhf: two dialogues, each one text with a label before every turn.
//!
//! ```json
//! {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}
//! ```
//!
//! Each is split at its labels. A label follows an empty line, or any line break in a text in which no `Assistant:`
//! follows an empty line; line breaks may be CRLF. The last `Assistant:` turn is the response. Dialogues that differ
//! before it are counted as `different-contexts`, those that end with the person's turn as `no-response`.
//!
//! Dahoas/full-hh-rlhf and its kin have the dialogue up to the response's label as `prompt`, in TRL's layout:
//!
//! ```json
//! {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Because.", "rejected": " No."}
//! ```

use std::borrow::Cow;

use super::super::record::{Body, Record, Turn, different_contexts, excerpt, sides, split_response};
use super::super::value::{Object, Read, RowFault, Value};
use super::has;
use crate::message::{ASSISTANT, USER};
use crate::rejects::reason;

const LABELS: [(&str, &str); 2] = [("Human:", USER), ("Assistant:", ASSISTANT)];

/// Whether the row looks like this layout: no prompt, and two texts with both labels.
pub fn fits(row: &Object<'_>) -> bool {
    let dialogue = |key: &str| match row.get(key) {
        Some(Value::Text(text)) => is_dialogue(text),
        _ => false,
    };
    !has(row, "prompt") && dialogue("chosen") && dialogue("rejected")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let both = [dialogue(row.text("chosen")?, "chosen")?, dialogue(row.text("rejected")?, "rejected")?];
    let [mut chosen, mut rejected] = sides(&mut row, both)?;
    let prompt = split_response(&mut chosen);
    if prompt != split_response(&mut rejected) {
        return Err(different_contexts());
    }
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("chosen")
}

/// A row whose prompt is such a dialogue, whose turns are `before`: its responses are what follows the prompt's text,
/// with or without their label, or dialogues that begin with the same turns.
pub fn read_after<'a>(prompt: &str, before: &[Turn<'a>], mut row: Object<'a>) -> Read<Record<'a>> {
    let mut whole = |key: &'static str| {
        let text = row.text(key)?;
        let response = text.trim_start();
        if is_dialogue(response) {
            return dialogue(text, key);
        }
        let response = response.strip_prefix("Assistant:").unwrap_or(response);
        dialogue(format!("{} {response}", prompt.trim_end()).into(), key)
    };
    let both = [whole("chosen")?, whole("rejected")?];
    let [mut chosen, mut rejected] = sides(&mut row, both)?;
    let context = split_response(&mut chosen);
    if context != split_response(&mut rejected) || !context.starts_with(before) {
        return Err(different_contexts());
    }
    Record::new(context, Body::Pair(chosen, rejected)).checked("prompt")
}

/// Whether a text begins with the person's label and has one of the model's.
fn is_dialogue(text: &str) -> bool {
    text.trim_start().starts_with("Human:") && Breaks::of(text).is_some()
}

/// What separates a label from the text before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    /// A line break.
    One,
    /// An empty line.
    Two,
}

impl Breaks {
    /// What separates a text's `Assistant:` labels; `None` where it has no such label.
    fn of(text: &str) -> Option<Breaks> {
        let starts = || text.match_indices("\nAssistant:").map(|(at, _)| at);
        let after_empty_line = |at: usize| text[..at].trim_end_matches('\r').ends_with('\n');
        if starts().any(after_empty_line) { Some(Breaks::Two) } else { starts().next().map(|_| Breaks::One) }
    }
}

/// The turns of a prompt that is such a dialogue up to the label of the response; `None` where it is another text.
pub fn prompt(text: Cow<'_, str>) -> Option<Vec<Turn<'_>>> {
    if !is_prompt(&text) {
        return None;
    }
    let mut turns = dialogue(text, "prompt").ok()?;
    turns.pop().filter(|last| last.content.is_empty()).map(|_| turns)
}

/// Whether a text begins and ends with the labels of such a prompt.
pub fn is_prompt(text: &str) -> bool {
    text.trim_start().starts_with("Human:") && text.trim_end().ends_with("\nAssistant:")
}

/// The turns of a dialogue: the person first, the model last.
fn dialogue<'a>(text: Cow<'a, str>, field: &str) -> Read<Vec<Turn<'a>>> {
    // A label counts at the start and after a break; the same word in a sentence does not.
    let blank = text.len() - text.trim_start().len();
    let breaks = Breaks::of(&text).unwrap_or(Breaks::Two);
    let broken = |at: usize| breaks == Breaks::One || text[..at].trim_end_matches('\r').ends_with('\n');
    let lines = text.match_indices('\n').map(|(at, _)| at).filter(|at| broken(*at)).map(|at| at + 1);
    let starts = [blank].into_iter().chain(lines.filter(|at| *at > blank));
    let labelled = |at: usize| {
        let label = LABELS.iter().find(|(label, _)| text[at..].starts_with(label));
        label.map(|(label, role)| (at, at + label.len(), *role))
    };
    let found: Vec<(usize, usize, &str)> = starts.filter_map(labelled).collect();
    if found.first().is_none_or(|(at, _, role)| *at != blank || *role != USER) {
        let message = "expected a dialogue that begins with \"Human:\"";
        return Err(RowFault::new(field, reason::WRONG_ROLE, message));
    }
    if found.last().is_some_and(|(_, _, role)| *role != ASSISTANT) {
        let message = "the dialogue ends with the person's turn";
        return Err(RowFault::decision(field, reason::NO_RESPONSE, message));
    }
    let ends = found.iter().skip(1).map(|(at, ..)| *at).chain([text.len()]);
    let turn = |((_, start, role), end): (&(usize, usize, &'static str), usize)| Turn {
        role: (*role).into(),
        content: excerpt(&text, *start..end),
    };
    Ok(found.iter().zip(ends).map(turn).collect())
}
