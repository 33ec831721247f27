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

use super::super::record::{Body, Record, conversations, sides, split_response};
use super::super::value::{Object, Read, RowFault};
use super::beside::asked;
use super::{has_list, has_text};
use crate::message::SYSTEM;
use crate::rejects::reason;

/// Whether the row looks like this layout: the prompt a text, the responses conversations.
pub fn fits(row: &Object<'_>) -> bool {
    has_text(row, "prompt") && has_list(row, "chosen") && row.get("rejected").is_some()
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let both = conversations(&mut row)?;
    let [mut chosen, mut rejected] = sides(&mut row, both)?;
    let mut prompt = split_response(&mut chosen);
    if prompt != split_response(&mut rejected) {
        let message = "expected the messages before the response to be those of chosen";
        return Err(RowFault::new("rejected", reason::PROMPT_MISMATCH, message));
    }
    // Some sets leave the prompt out of the conversations, or all of it but the system message.
    if prompt.iter().all(|turn| turn.role == SYSTEM) {
        prompt.extend(asked(&mut row)?);
    }
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("prompt")
}
