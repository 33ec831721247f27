//! TRL's preference layouts: standard (texts) and conversational (message lists), with the
//! prompt given, or in conversations implied by the messages that both begin with.
//!
//! ```json
//! {"prompt": "The sky is", "chosen": "blue.", "rejected": "green."}
//! {"chosen": [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Blue."}],
//!  "rejected": [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Green."}]}
//! {"prompt": [{"role": "user", "content": "Which colour?"}],
//!  "chosen": [{"role": "assistant", "content": "Blue."}],
//!  "rejected": [{"role": "assistant", "content": "Green."}]}
//! ```
//!
//! `score_chosen`, `score_rejected`, `chosen_model` and `rejected_model` are read where they are
//! present. An implied prompt ends where a turn does; where it has no turn of the person's, `question` or `instruction`
//! holds that. The words that two texts have in common are no prompt: such rows
//! are refused, since a column of another name may hold the question.
//!
//! A prompt that is a dialogue in one text (Dahoas/full-hh-rlhf) is split at its labels, see [`super::hh_rlhf`].

use super::super::record::{Body, Record, Turn, different_contexts, ends_with_assistant, sides, turns};
use super::super::value::{Object, Read, RowFault, Value, unfit};
use super::beside::asked;
use super::{has, has_text, hh_rlhf};
use crate::message::{ASSISTANT, USER};
use crate::rejects::reason;

/// Whether the row looks like this layout, with the prompt given or implied.
pub fn fits(row: &Object<'_>) -> bool {
    row.get("chosen").is_some() && row.get("rejected").is_some()
}

/// Whether the row looks like this layout with the prompt given.
pub fn fits_given(row: &Object<'_>) -> bool {
    fits(row) && has(row, "prompt")
}

/// Reads one row of a file in which prompts are given: one without is at fault, whatever its
/// responses have in common.
pub fn read_given(row: Object<'_>) -> Read<Record<'_>> {
    match row.get("prompt") {
        None | Some(Value::Null) => Err(unfit("prompt", "a string or a list of messages", row.get("prompt"))),
        Some(_) => read(row),
    }
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let texts = has_text(&row, "chosen") && has_text(&row, "rejected");
    let given = match row.take("prompt") {
        None | Some(Value::Null) => None,
        Some(Value::Text(text)) => match hh_rlhf::prompt(text.clone()) {
            Some(turns) if texts => return hh_rlhf::read_after(&text, &turns, row),
            turns => Some(turns.unwrap_or_else(|| vec![Turn::user(text)])),
        },
        list @ Some(Value::List(_) | Value::Object(_)) => Some(turns(list, "prompt")?),
        other => return Err(unfit("prompt", "a string or a list of messages", other.as_ref())),
    };
    let responses = [response(&mut row, "chosen")?, response(&mut row, "rejected")?];
    let [mut chosen, mut rejected] = sides(&mut row, responses)?;
    let prompt = match given {
        Some(mut prompt) => {
            let repeated = [&mut chosen.turns, &mut rejected.turns].map(|turns| without_prompt(turns, &prompt));
            // Further messages that both conversations have in common belong to the prompt too.
            if repeated == [true, true] {
                prompt.extend(common_turns(&mut chosen.turns, &mut rejected.turns));
            }
            prompt
        }
        None if texts => {
            let why = "; the words that chosen and rejected have in common are no prompt";
            return Err(RowFault::absent("prompt", reason::MISSING_FIELD, why));
        }
        None => {
            let mut common = common_turns(&mut chosen.turns, &mut rejected.turns);
            let mut all = common.iter().chain(&chosen.turns).chain(&rejected.turns);
            if !all.any(|turn| turn.role == USER) {
                common.extend(asked(&mut row)?);
            }
            if common.is_empty() {
                return Err(no_common());
            }
            if [&chosen, &rejected].iter().any(|side| !is_response(&side.turns)) {
                return Err(different_contexts());
            }
            common
        }
    };
    Record::new(prompt, Body::Pair(chosen, rejected)).checked("prompt")
}

fn response<'a>(row: &mut Object<'a>, key: &'static str) -> Read<Vec<Turn<'a>>> {
    match row.take(key) {
        Some(Value::Text(text)) => Ok(vec![Turn::assistant(text)]),
        list @ Some(Value::List(_) | Value::Object(_)) => {
            let turns = turns(list, key)?;
            ends_with_assistant(&turns, key)?;
            Ok(turns)
        }
        other => Err(unfit(key, "a string or a list of messages", other.as_ref())),
    }
}

/// Removes a repetition of the prompt from the front of a longer response; returns whether there was one.
fn without_prompt<'a>(turns: &mut Vec<Turn<'a>>, prompt: &[Turn<'a>]) -> bool {
    let repeated =
        turns.len() > prompt.len() && prompt.last().is_some_and(|t| t.role == USER) && turns.starts_with(prompt);
    if repeated {
        turns.drain(..prompt.len());
    }
    repeated
}

/// Moves the common first messages out of both responses, of which at least one message stays.
fn common_turns<'a>(chosen: &mut Vec<Turn<'a>>, rejected: &mut Vec<Turn<'a>>) -> Vec<Turn<'a>> {
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    let common = chosen.iter().zip(rejected.iter()).take(most).take_while(|(a, b)| a == b).count();
    rejected.drain(..common);
    chosen.drain(..common).collect()
}

/// Whether what is left behind an implied prompt begins with the model's turn.
fn is_response(turns: &[Turn<'_>]) -> bool {
    turns.first().is_some_and(|turn| turn.role == ASSISTANT)
}

fn no_common() -> RowFault {
    let why = ", and chosen and rejected do not begin with the same messages";
    RowFault::absent("prompt", reason::PROMPT_MISMATCH, why)
}
