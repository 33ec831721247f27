//! LLaMA-Factory's ranking data in ShareGPT style.
//!
//! ```json
//! {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why?"}],
//!  "chosen": {"from": "gpt", "value": "Because."}, "rejected": {"from": "gpt", "value": "No."}}
//! ```
//!
//! `human`, `gpt` and `observation` become `user`, `assistant` and `tool`; roles that have their
//! usual names already keep them.

use super::super::record::{Body, Record, Turn, sides, turn, turns};
use super::super::value::{Object, Read, RowFault, Value, unfit};
use super::has;
use crate::message::ASSISTANT;
use crate::rejects::reason;

pub fn fits(row: &Object<'_>) -> bool {
    has(row, "conversations") && has(row, "chosen") && has(row, "rejected")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let prompt = turns(row.take("conversations"), "conversations")?;
    if prompt.last().is_some_and(|last| last.role == ASSISTANT) {
        let field = format!("conversations[{}].from", prompt.len() - 1);
        return Err(RowFault::new(field, reason::WRONG_ROLE, "expected the last message to be the person's"));
    }
    let mut answer = |key: &'static str| -> Read<Vec<Turn<'_>>> {
        let answer = match row.take(key) {
            Some(Value::Text(text)) => Turn::assistant(text),
            Some(message @ Value::Object(_)) => turn(message).map_err(|f| f.within(key))?,
            other => return Err(unfit(key, "a message with from and value", other.as_ref())),
        };
        if answer.role != ASSISTANT {
            let message = format!("expected \"gpt\", got {:?}", answer.role);
            return Err(RowFault::new(format!("{key}.from"), reason::WRONG_ROLE, message));
        }
        Ok(vec![answer])
    };
    let answers = [answer("chosen")?, answer("rejected")?];
    let [chosen, rejected] = sides(&mut row, answers)?;
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("conversations")
}
