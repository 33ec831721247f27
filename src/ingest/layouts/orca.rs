//! Intel/orca_dpo_pairs: a system message, a question, two answers.
//!
//! ```json
//! {"system": "Be brief.", "question": "Why?", "chosen": "Because.", "rejected": "No."}
//! ```

use super::super::record::{Body, Record, Side, Turn, side_facts};
use super::super::value::{Object, Read};
use super::{has, has_text};

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    has_text(row, "question") && has(row, "chosen") && has(row, "rejected") && !has(row, "prompt")
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let system = row.optional_text("system")?.filter(|text| !text.is_empty());
    let question = Turn::user(row.text("question")?);
    let side = |text| Side { turns: vec![Turn::assistant(text)], ..Side::default() };
    let (mut chosen, mut rejected) = (side(row.text("chosen")?), side(row.text("rejected")?));
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    // A system message alone is no prompt.
    let record = Record::new(vec![question], Body::Pair(chosen, rejected)).checked("question")?;
    Ok(record.with_system(system))
}
