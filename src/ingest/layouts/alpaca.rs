//! LLaMA-Factory's ranking data in Alpaca style.
//!
//! ```json
//! {"system": "Be brief.", "history": [["Hello", "Hello."]], "instruction": "Sort.", "input": "b a",
//!  "chosen": "a b", "rejected": "b a"}
//! ```
//!
//! The prompt is `instruction`, with `input` on a line of its own below where there is one.
//! `system`, `history` and `input` may be absent, null or empty; the first two are read in every layout.

use std::borrow::Cow;

use super::super::record::{Body, Record, Turn, sides};
use super::super::value::{Object, Read};
use super::{has, has_answers, has_text};

pub fn fits(row: &Object<'_>) -> bool {
    has_text(row, "instruction") && has_answers(row) && !has(row, "prompt")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let prompt = instruction(&mut row)?;
    let answers = [row.text("chosen")?, row.text("rejected")?].map(|text| vec![Turn::assistant(text)]);
    let [chosen, rejected] = sides(&mut row, answers)?;
    Record::new(vec![Turn::user(prompt)], Body::Pair(chosen, rejected)).checked("instruction")
}

/// `instruction`, with `input` below where there is one.
pub fn instruction<'a>(row: &mut Object<'a>) -> Read<Cow<'a, str>> {
    let instruction = row.text("instruction")?;
    Ok(match row.optional_text("input")?.filter(|text| !text.is_empty()) {
        Some(input) => format!("{instruction}\n{input}").into(),
        None => instruction,
    })
}
