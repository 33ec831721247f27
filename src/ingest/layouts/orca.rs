//! Intel/orca_dpo_pairs, and argilla's distilabel version, which says `input` for `question`: a system message,
//! a question, two answers.
//!
//! ```json
//! {"system": "Be brief.", "question": "Why?", "chosen": "Because.", "rejected": "No."}
//! ```

use super::super::record::{Body, Record, Turn, sides};
use super::super::value::{Object, Read};
use super::{has, has_text};

pub fn fits(row: &Object<'_>) -> bool {
    let asked = has_text(row, "question") || has_text(row, "input") && !has(row, "instruction");
    asked && has(row, "chosen") && has(row, "rejected") && !has(row, "prompt")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let key = if has(&row, "question") { "question" } else { "input" };
    let question = Turn::user(row.text(key)?);
    let answers = [row.text("chosen")?, row.text("rejected")?].map(|text| vec![Turn::assistant(text)]);
    let [chosen, rejected] = sides(&mut row, answers)?;
    Record::new(vec![question], Body::Pair(chosen, rejected)).checked(key)
}
