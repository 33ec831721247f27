//! LLaMA-Factory's ranking data in Alpaca style.
//!
//! ```json
//! {"system": "Be brief.", "history": [["Hello", "Hello."]], "instruction": "Sort.", "input": "b a",
//!  "chosen": "a b", "rejected": "b a"}
//! ```
//!
//! The prompt is `instruction`, with `input` on a line of its own below where there is one.
//! `system`, `history` and `input` may be absent, null or empty.

use super::super::record::{Body, Record, Side, Turn, side_facts};
use super::super::value::{Object, Read, Value, unfit};
use super::{has, has_text};

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    has_text(row, "instruction") && has(row, "chosen") && has(row, "rejected") && !has(row, "prompt")
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let system = row.optional_text("system")?.filter(|text| !text.is_empty());
    let instruction = row.text("instruction")?;
    let prompt = match row.optional_text("input")?.filter(|text| !text.is_empty()) {
        Some(input) => format!("{instruction}\n{input}").into(),
        None => instruction,
    };
    let earlier = history(row.take("history"))?;
    let side = |text| Side { turns: vec![Turn::assistant(text)], ..Side::default() };
    let (mut chosen, mut rejected) = (side(row.text("chosen")?), side(row.text("rejected")?));
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    let mut record = Record::new(vec![Turn::user(prompt)], Body::Pair(chosen, rejected)).checked("instruction")?;
    record.prompt.splice(..0, earlier);
    Ok(record.with_system(system))
}

/// Earlier rounds: lists of a person's text and the model's.
fn history(value: Option<Value<'_>>) -> Read<Vec<Turn<'_>>> {
    let rounds = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::List(rounds)) => rounds,
        other => return Err(unfit("history", "a list of pairs of strings", other.as_ref())),
    };
    let mut turns = Vec::with_capacity(2 * rounds.len());
    for (i, round) in rounds.into_iter().enumerate() {
        let field = || format!("history[{i}]");
        let pair: Option<[Value<'_>; 2]> = match round {
            Value::List(items) => items.try_into().ok(),
            _ => None,
        };
        match pair {
            Some([Value::Text(person), Value::Text(model)]) => {
                turns.extend([Turn::user(person), Turn::assistant(model)]);
            }
            _ => return Err(unfit(&field(), "two strings", Some(&Value::Other("another kind")))),
        }
    }
    Ok(turns)
}
