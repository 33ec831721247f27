//! TRL's preference layouts: standard (texts) and conversational (message lists), with the
//! prompt given or implied by what both responses begin with.
//!
//! ```json
//! {"prompt": "The sky is", "chosen": "blue.", "rejected": "green."}
//! {"chosen": "The sky is blue.", "rejected": "The sky is green."}
//! {"prompt": [{"role": "user", "content": "Which colour?"}],
//!  "chosen": [{"role": "assistant", "content": "Blue."}],
//!  "rejected": [{"role": "assistant", "content": "Green."}]}
//! ```
//!
//! `score_chosen`, `score_rejected`, `chosen_model` and `rejected_model` are read where they are
//! present. An implied prompt ends between messages, and in texts between words: never inside one,
//! as a common prefix by characters would.

use std::borrow::Cow;

use super::super::record::{Body, Record, Side, Turn, ends_with_assistant, part, side_facts, turns};
use super::super::value::{Fault, Object, Read, Value, unfit};
use super::{has, has_text};
use crate::message::USER;
use crate::rejects::reason;

/// Whether the row looks like this layout, with the prompt given or implied.
pub fn fits(row: &Object<'_>) -> bool {
    row.get("chosen").is_some() && row.get("rejected").is_some()
}

/// Whether the row looks like this layout with the prompt given.
pub fn fits_given(row: &Object<'_>) -> bool {
    fits(row) && has(row, "prompt")
}

/// Reads one row of a file in which prompts are given: one without is at fault, whatever its
/// responses have in common.
///
/// # Errors
/// The fault, with its field.
pub fn read_given(row: Object<'_>) -> Read<Record<'_>> {
    match row.get("prompt") {
        None | Some(Value::Null) => Err(unfit("prompt", "a string or a list of messages", row.get("prompt"))),
        Some(_) => read(row),
    }
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let given = match row.take("prompt") {
        None | Some(Value::Null) => None,
        Some(Value::Text(text)) => Some(vec![Turn::user(text)]),
        list @ Some(Value::List(_)) => Some(turns(list, "prompt")?),
        other => return Err(unfit("prompt", "a string or a list of messages", other.as_ref())),
    };
    let texts = has_text(&row, "chosen") && has_text(&row, "rejected");
    let mut chosen = Side { turns: response(&mut row, "chosen")?, ..Side::default() };
    let mut rejected = Side { turns: response(&mut row, "rejected")?, ..Side::default() };
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    let prompt = match given {
        Some(mut prompt) => {
            let repeated = [&mut chosen.turns, &mut rejected.turns].map(|turns| without_prompt(turns, &prompt));
            // Where the conversations go on beyond what was given, so does what they have in common.
            if repeated == [true, true] {
                prompt.extend(common_turns(&mut chosen.turns, &mut rejected.turns));
            }
            prompt
        }
        None if texts => implied_text(&mut chosen.turns, &mut rejected.turns)?,
        None => match common_turns(&mut chosen.turns, &mut rejected.turns) {
            common if common.is_empty() => return Err(no_common("messages")),
            common => common,
        },
    };
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("prompt")
}

fn response<'a>(row: &mut Object<'a>, key: &'static str) -> Read<Vec<Turn<'a>>> {
    match row.take(key) {
        Some(Value::Text(text)) => Ok(vec![Turn::assistant(text)]),
        list @ Some(Value::List(_)) => {
            let turns = turns(list, key)?;
            ends_with_assistant(&turns, key)?;
            Ok(turns)
        }
        other => Err(unfit(key, "a string or a list of messages", other.as_ref())),
    }
}

/// Drops a repetition of the prompt from the front of a response that has more to say; tells whether it did.
fn without_prompt<'a>(turns: &mut Vec<Turn<'a>>, prompt: &[Turn<'a>]) -> bool {
    let repeated =
        turns.len() > prompt.len() && prompt.last().is_some_and(|t| t.role == USER) && turns.starts_with(prompt);
    if repeated {
        turns.drain(..prompt.len());
    }
    repeated
}

/// Moves the common first messages out of both responses, of which at least one message stays.
fn common_turns<'a>(chosen: &mut Vec<Turn<'a>>, rejected: &mut Vec<Turn<'a>>) -> Vec<Turn<'a>> {
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    let common = chosen.iter().zip(rejected.iter()).take(most).take_while(|(a, b)| a == b).count();
    rejected.drain(..common);
    chosen.drain(..common).collect()
}

/// Moves the common first words out of both responses, each a single text, of which at least one
/// word stays.
fn implied_text<'a>(chosen: &mut [Turn<'a>], rejected: &mut [Turn<'a>]) -> Read<Vec<Turn<'a>>> {
    let ([first], [second]) = (chosen, rejected) else { return Err(no_common("words")) };
    let (a, b) = (&first.content, &second.content);
    let Some(cut) = last_common_word(a, b) else { return Err(no_common("words")) };
    let prompt = part(a, 0..a[..cut].trim_end().len());
    let rest = |text: &Cow<'a, str>| {
        let blank = text[cut..].len() - text[cut..].trim_start().len();
        part(text, cut + blank..text.len())
    };
    (first.content, second.content) = (rest(a), rest(b));
    Ok(vec![Turn::user(prompt)])
}

/// Where the longest common prefix ends that leaves at least a word of both texts: before a blank
/// that both have there.
fn last_common_word(a: &str, b: &str) -> Option<usize> {
    let common: usize = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    let blank_at = |text: &str, at: usize| text[at..].starts_with(char::is_whitespace);
    let ends = a[..common].char_indices().map(|(at, _)| at).chain([common]);
    let first_word = a.len() - a.trim_start().len();
    // What comes after the last word of either text is blank: nothing would be left of it.
    let last = a.trim_end().rfind(char::is_whitespace)?.min(b.trim_end().rfind(char::is_whitespace)?);
    ends.rev().find(|at| *at <= last && *at > first_word && blank_at(a, *at) && blank_at(b, *at))
}

fn no_common(what: &str) -> Fault {
    let message = format!("missing, and chosen and rejected do not begin with the same {what}");
    Fault::new("prompt", reason::PROMPT_MISMATCH, message)
}
