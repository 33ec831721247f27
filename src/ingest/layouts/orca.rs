//! Intel/orca_dpo_pairs, and argilla's distilabel version, which says `input` for `question`: a system message,
//! a question, two answers.
//!
//! ```json
//! {"system": "Be brief.", "question": "Why?", "chosen": "Because.", "rejected": "No."}
//! ```
//!
//! Rows whose `status` is `tie`, in argilla's version, are counted as `no-preference`, in every layout.

use super::super::record::{Body, Record, Turn, sides};
use super::super::value::{Object, Read};
use super::{has, has_answers, has_text};

pub fn fits(row: &Object<'_>) -> bool {
    let asked = has_text(row, "question") || has_text(row, "input") && !has(row, "instruction");
    asked && has_answers(row) && !has(row, "prompt")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let key = if has(&row, "question") { "question" } else { "input" };
    let question = Turn::user(row.text(key)?);
    let answers = [row.text("chosen")?, row.text("rejected")?].map(|text| vec![Turn::assistant(text)]);
    let [chosen, rejected] = sides(&mut row, answers)?;
    Record::new(vec![question], Body::Pair(chosen, rejected)).checked(key)
}
