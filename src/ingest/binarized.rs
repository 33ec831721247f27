//! HuggingFaceH4/ultrafeedback_binarized and its kin: `chosen` and `rejected` are
//! whole conversations that repeat the prompt and end with the response.

use super::record::{Body, Record, Side, Turn, ends_with_assistant, side_facts, turns};
use super::value::{Fault, Object, Read, Value};
use crate::rejects::reason;

/// Whether the row looks like this layout: the prompt a text, the responses conversations.
pub fn fits(row: &Object<'_>) -> bool {
    matches!(row.get("prompt"), Some(Value::Text(_)))
        && matches!(row.get("chosen"), Some(Value::List(_)))
        && row.get("rejected").is_some()
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let source = row.optional_text("source")?;
    let mut chosen = Side { turns: turns(row.take("chosen"), "chosen")?, ..Side::default() };
    let mut rejected = Side { turns: turns(row.take("rejected"), "rejected")?, ..Side::default() };
    ends_with_assistant(&chosen.turns, "chosen")?;
    ends_with_assistant(&rejected.turns, "rejected")?;
    side_facts(&mut row, &mut chosen, &mut rejected)?;

    let mut prompt = split_response(&mut chosen);
    let other = split_response(&mut rejected);
    if prompt != other {
        let message = "expected the messages before the response to be those of chosen";
        return Err(Fault::new("rejected", reason::PROMPT_MISMATCH, message));
    }
    // Some sets leave the prompt out of the conversations.
    if prompt.is_empty() {
        prompt.push(Turn::user(row.text("prompt")?));
    }
    Record::new(source, prompt, Body::Pair(chosen, rejected)).checked("prompt")
}

/// Leaves the last message as the response and gives the ones before it.
fn split_response<'a>(side: &mut Side<'a>) -> Vec<Turn<'a>> {
    let response = side.turns.split_off(side.turns.len().saturating_sub(1));
    std::mem::replace(&mut side.turns, response)
}
