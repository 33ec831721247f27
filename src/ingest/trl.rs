//! TRL's preference layouts: standard (texts), conversational (message lists),
//! each with the prompt given; and conversational with the prompt implied by the common turns.

use super::record::{Body, Record, Side, Turn, ends_with_assistant, side_facts, turns};
use super::value::{Fault, Object, Read, Value, unfit};
use crate::message::USER;
use crate::rejects::reason;

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    row.get("chosen").is_some() && row.get("rejected").is_some()
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let source = row.optional_text("source")?;
    let prompt = match row.take("prompt") {
        None | Some(Value::Null) => None,
        Some(Value::Text(text)) => Some(vec![Turn::user(text)]),
        list @ Some(Value::List(_)) => Some(turns(list, "prompt")?),
        other => return Err(unfit("prompt", "a string or a list of messages", other.as_ref())),
    };
    let mut chosen = Side { turns: response(&mut row, "chosen", prompt.is_some())?, ..Side::default() };
    let mut rejected = Side { turns: response(&mut row, "rejected", prompt.is_some())?, ..Side::default() };
    side_facts(&mut row, &mut chosen, &mut rejected)?;
    let prompt = match prompt {
        Some(prompt) => {
            without_prompt(&mut chosen.turns, &prompt);
            without_prompt(&mut rejected.turns, &prompt);
            prompt
        }
        None => implied_prompt(&mut chosen.turns, &mut rejected.turns)?,
    };
    Record::new(source, prompt, Body::Pair(chosen, rejected)).checked("prompt")
}

fn response<'a>(row: &mut Object<'a>, key: &'static str, prompt_given: bool) -> Read<Vec<Turn<'a>>> {
    match row.take(key) {
        Some(Value::Text(text)) if prompt_given => Ok(vec![Turn::assistant(text)]),
        Some(Value::Text(_)) => Err(Fault::new(
            "prompt",
            reason::MISSING_FIELD,
            "missing; expected a string, because chosen and rejected are strings",
        )),
        list @ Some(Value::List(_)) => {
            let turns = turns(list, key)?;
            ends_with_assistant(&turns, key)?;
            Ok(turns)
        }
        other => Err(unfit(key, "a string or a list of messages", other.as_ref())),
    }
}

/// Drops a repetition of the prompt from the front of a response that has more to say.
fn without_prompt<'a>(turns: &mut Vec<Turn<'a>>, prompt: &[Turn<'a>]) {
    if turns.len() > prompt.len() && prompt.last().is_some_and(|t| t.role == USER) && turns.starts_with(prompt) {
        turns.drain(..prompt.len());
    }
}

/// Moves the common first messages out of both responses, of which at least one message stays.
fn implied_prompt<'a>(chosen: &mut Vec<Turn<'a>>, rejected: &mut Vec<Turn<'a>>) -> Read<Vec<Turn<'a>>> {
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    let common = chosen.iter().zip(rejected.iter()).take(most).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return Err(Fault::new(
            "prompt",
            reason::PROMPT_MISMATCH,
            "missing, and chosen and rejected do not begin with the same messages",
        ));
    }
    rejected.drain(..common);
    Ok(chosen.drain(..common).collect())
}
