//! NeMo-RL's preference data: a context and completions in the order of their ranks.
//!
//! ```json
//! {"context": [{"role": "user", "content": "Why?"}],
//!  "completions": [{"rank": 0, "completion": [{"role": "assistant", "content": "Because."}]},
//!                  {"rank": 1, "completion": [{"role": "assistant", "content": "No."}]}]}
//! ```
//!
//! A lower rank is better: the score of a completion is its rank with the sign turned. A completion
//! is one message of the model's, or a text.

use super::super::record::{Body, Completion, Record, Turn, ends_with_assistant, turns};
use super::super::value::{Object, Read, RowFault, Value, unfit};
use super::has;
use crate::rejects::reason;

pub fn fits(row: &Object<'_>) -> bool {
    has(row, "context") && has(row, "completions")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let prompt = match row.take("context") {
        Some(Value::Text(text)) => vec![Turn::user(text)],
        list => turns(list, "context")?,
    };
    let items = row.list("completions")?;
    if items.is_empty() {
        return Err(RowFault::new("completions", reason::NO_COMPLETIONS, "expected completions, got an empty list"));
    }
    let read = |(i, item)| completion(item).map_err(|f| f.within(format_args!("completions[{i}]")));
    let completions = items.into_iter().enumerate().map(read).collect::<Read<Vec<_>>>()?;
    Record::new(prompt, Body::Completions(completions)).checked("context")
}

fn completion(item: Value<'_>) -> Read<Completion<'_>> {
    let mut item = match item {
        Value::Object(object) => object,
        other => return Err(unfit("", "an object", Some(&other))),
    };
    let model = item.optional_text("model")?;
    let rank = item.number("rank")?;
    let response = match item.take("completion") {
        Some(Value::Text(text)) => text,
        list => {
            let mut messages = turns(list, "completion")?;
            ends_with_assistant(&messages, "completion")?;
            match (messages.pop(), messages.is_empty()) {
                (Some(message), true) => message.content,
                _ => return Err(RowFault::new("completion", reason::WRONG_TYPE, "expected one message, got several")),
            }
        }
    };
    // `-rank` would be -0.0 for rank 0, and would be written as such.
    Ok(Completion { model, response, score: Some(0.0 - rank) })
}
