//! LLaMA-Factory's ranking data in ShareGPT style.
//!
//! ```json
//! {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why?"}],
//!  "chosen": {"from": "gpt", "value": "Because."}, "rejected": {"from": "gpt", "value": "No."}}
//! ```
//!
//! `human`, `gpt` and `observation` become `user`, `assistant` and `tool`; roles that have their
//! usual names already keep them.

use super::super::record::{Body, Record, Side, Turn, side_facts};
use super::super::value::{Fault, Object, Read, Value, unfit};
use super::has;
use crate::message::{ASSISTANT, USER};
use crate::rejects::reason;

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    has(row, "conversations") && has(row, "chosen") && has(row, "rejected")
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let system = row.optional_text("system")?.filter(|text| !text.is_empty());
    let items = row.list("conversations")?;
    let turn_of = |(i, item)| turn(Some(item)).map_err(|f| f.within(format_args!("conversations[{i}]")));
    let prompt = items.into_iter().enumerate().map(turn_of).collect::<Read<Vec<_>>>()?;
    if prompt.last().is_some_and(|last| last.role == ASSISTANT) {
        let field = format!("conversations[{}].from", prompt.len() - 1);
        return Err(Fault::new(field, reason::WRONG_ROLE, "expected the last message to be the person's"));
    }
    let mut side = |key: &'static str| -> Read<Side<'_>> {
        let answer = turn(row.take(key)).map_err(|f| f.within(key))?;
        if answer.role != ASSISTANT {
            let message = format!("expected \"gpt\", got {:?}", answer.role);
            return Err(Fault::new(format!("{key}.from"), reason::WRONG_ROLE, message));
        }
        Ok(Side { turns: vec![answer], ..Side::default() })
    };
    let (mut chosen, mut rejected) = (side("chosen")?, side("rejected")?);
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    Ok(Record::new(prompt, Body::Pair(chosen, rejected)).checked("conversations")?.with_system(system))
}

fn turn(value: Option<Value<'_>>) -> Read<Turn<'_>> {
    let mut object = match value {
        Some(Value::Object(object)) => object,
        other => return Err(unfit("", "a message with from and value", other.as_ref())),
    };
    let from = object.text("from")?;
    let role = match &*from {
        "human" | USER => USER,
        "gpt" | ASSISTANT => ASSISTANT,
        "observation" | "tool" => "tool",
        "system" => "system",
        other => {
            let message = format!("expected human, gpt, system or observation, got {other:?}");
            return Err(Fault::new("from", reason::WRONG_ROLE, message));
        }
    };
    Ok(Turn { role: role.into(), content: object.text("value")? })
}
