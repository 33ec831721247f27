//! Columns beside those that a layout reads: what they say of the prompt must be in the prompt that was read, and where
//! one says which response is better, the sides must be ordered by it.

use super::super::record::{Turn, unread};
use super::super::value::{Object, Read, UNREAD, Value};
use super::{Format, Layout, alpaca, hh_rlhf};
use crate::prompt::push_normalized;

/// Columns that hold the prompt or a part of it in some layout: where a row's layout does not read one, it may be the
/// context that a question is about, or another question.
const PROMPT_COLUMNS: [&str; 5] = ["instruction", "question", "input", "context", "prompt"];

/// Keys of messages and of their parts that are no words of the message.
const FORM: [&str; 3] = ["role", "from", "type"];

/// The columns of a row that may be a part of its prompt, and what they say; not the prompt that the layout reads in
/// any case.
pub fn prompt_columns<'a>(row: &Object<'a>, layout: &Layout) -> Vec<(&'static str, Value<'a>)> {
    let reads_prompt = matches!(layout.format, Format::Trl | Format::Helpsteer2);
    let column = |key: &&'static str| match row.get(key) {
        _ if *key == "prompt" && reads_prompt => None,
        Some(value @ (Value::Text(_) | Value::List(_) | Value::Object(_) | Value::Other(_))) => {
            value.says_something().then(|| (*key, value.clone()))
        }
        _ => None,
    };
    PROMPT_COLUMNS.iter().filter_map(column).collect()
}

/// Refuses a row of which a column says more than the prompt that was read.
pub fn require_said(columns: &[(&'static str, Value<'_>)], prompt: &[Turn<'_>]) -> Read<()> {
    match columns.iter().find(|(_, value)| !is_said(value, prompt)) {
        Some((key, _)) => Err(unread(key)),
        None => Ok(()),
    }
}

/// Whether all that a value says is in the prompt.
fn is_said(value: &Value<'_>, prompt: &[Turn<'_>]) -> bool {
    match value {
        Value::Text(text) => {
            holds(prompt, text)
                || hh_rlhf::prompt(text.clone()).is_some_and(|turns| turns.iter().all(|t| holds(prompt, &t.content)))
        }
        Value::List(items) => items.iter().all(|item| is_said(item, prompt)),
        Value::Object(object) => {
            object.0.iter().all(|(key, value)| FORM.contains(key) || *key != UNREAD && is_said(value, prompt))
        }
        other => !other.says_something(),
    }
}

/// Whether messages say a text, whatever its case and white space.
fn holds(prompt: &[Turn<'_>], text: &str) -> bool {
    if prompt.iter().any(|turn| turn.content.contains(text.trim())) {
        return true;
    }
    let (mut whole, mut wanted) = (String::new(), String::new());
    prompt.iter().for_each(|turn| push_normalized(&mut whole, &turn.content));
    push_normalized(&mut wanted, text);
    whole.contains(&wanted)
}

/// The person's turns that a column holds, for a row whose conversations hold none: those of `prompt`, or else
/// `question`, `instruction` (with `input`) or `input`. No turns where no column has text.
pub fn asked<'a>(row: &mut Object<'a>) -> Read<Vec<Turn<'a>>> {
    let said = |key: &&&'static str| matches!(row.get(key), Some(Value::Text(text)) if !text.trim().is_empty());
    let Some(key) = ["prompt", "question", "instruction", "input"].iter().find(said) else { return Ok(Vec::new()) };
    let text = if *key == "instruction" { alpaca::instruction(row)? } else { row.text(key)? };
    Ok(hh_rlhf::prompt(text.clone()).unwrap_or_else(|| vec![Turn::user(text)]))
}
