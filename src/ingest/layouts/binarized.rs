//! HuggingFaceH4/ultrafeedback_binarized, and allenai/ultrafeedback_binarized_cleaned, which adds
//! `source`: `chosen` and `rejected` are whole conversations that repeat the prompt and end with
//! the response.
//!
//! ```json
//! {"prompt": "Why?", "prompt_id": "...", "source": "flan_v2",
//!  "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
//!  "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
//!  "messages": [], "score_chosen": 8.0, "score_rejected": 5.5}
//! ```

use super::super::record::{Body, Record, Side, Turn, ends_with_assistant, side_facts, split_response, turns};
use super::super::value::{Object, Read, RowFault};
use super::{has_list, has_text};
use crate::rejects::reason;

/// Whether the row looks like this layout: the prompt a text, the responses conversations.
pub fn fits(row: &Object<'_>) -> bool {
    has_text(row, "prompt") && has_list(row, "chosen") && row.get("rejected").is_some()
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let mut chosen = Side { turns: turns(row.take("chosen"), "chosen")?, ..Side::default() };
    let mut rejected = Side { turns: turns(row.take("rejected"), "rejected")?, ..Side::default() };
    ends_with_assistant(&chosen.turns, "chosen")?;
    ends_with_assistant(&rejected.turns, "rejected")?;
    side_facts(&mut row, &mut chosen, &mut rejected)?;

    let mut prompt = split_response(&mut chosen);
    let other = split_response(&mut rejected);
    if prompt != other {
        let message = "expected the messages before the response to be those of chosen";
        return Err(RowFault::new("rejected", reason::PROMPT_MISMATCH, message));
    }
    // Some sets leave the prompt out of the conversations.
    if prompt.is_empty() {
        prompt.push(Turn::user(row.text("prompt")?));
    }
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("prompt")
}
