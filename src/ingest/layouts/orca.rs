//! Intel/orca_dpo_pairs, and argilla's distilabel version, which says `input` for `question`: a system message,
//! a question, two answers.
//!
//! ```json
//! {"system": "Be brief.", "question": "Why?", "chosen": "Because.", "rejected": "No."}
//! ```

use super::super::record::{Body, Record, Side, Turn, side_facts};
use super::super::value::{Object, Read};
use super::{has, has_text};

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    let asked = has_text(row, "question") || has_text(row, "input") && !has(row, "instruction");
    asked && has(row, "chosen") && has(row, "rejected") && !has(row, "prompt")
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let key = if has(&row, "question") { "question" } else { "input" };
    let question = Turn::user(row.text(key)?);
    let side = |text| Side { turns: vec![Turn::assistant(text)], ..Side::default() };
    let (mut chosen, mut rejected) = (side(row.text("chosen")?), side(row.text("rejected")?));
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    Record::new(vec![question], Body::Pair(chosen, rejected)).checked(key)
}
