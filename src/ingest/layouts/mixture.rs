//! The preference mixtures of Tulu 3 (allenai) and Skywork: two conversations that differ in their
//! last message only, and the name of the set a row came from.
//!
//! ```json
//! {"source": "wildchat", "id": "...", "prompt": "Why?",
//!  "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
//!  "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}]}
//! ```
//!
//! `prompt` and `id` are absent in Skywork's. Conversations whose contexts differ are no pair; such
//! rows are counted as `different-contexts`.

use super::super::record::{Body, Record, conversations, different_contexts, sides, split_response};
use super::super::value::{Object, Read, RowFault};
use super::beside::asked;
use super::{has, has_list, has_text};
use crate::message::SYSTEM;
use crate::rejects::reason;

/// Whether the row looks like this layout: two message lists with a source, and no scores.
pub fn fits(row: &Object<'_>) -> bool {
    has_list(row, "chosen")
        && has_list(row, "rejected")
        && has_text(row, "source")
        && !has_list(row, "prompt")
        && !has(row, "score_chosen")
        && !has(row, "score_rejected")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let both = conversations(&mut row)?;
    let [mut chosen, mut rejected] = sides(&mut row, both)?;
    let mut prompt = split_response(&mut chosen);
    if prompt != split_response(&mut rejected) {
        return Err(different_contexts());
    }
    if prompt.iter().all(|turn| turn.role == SYSTEM) {
        prompt.extend(asked(&mut row)?);
    }
    if prompt.is_empty() {
        let message = "chosen holds no message before the response";
        return Err(RowFault::new("chosen", reason::NO_PROMPT, message));
    }
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("chosen")
}
