//! The record that rows of every layout become, and frames of records.

use std::borrow::Cow;

use polars::prelude::*;

use super::WrongTens;
use super::value::{Object, Read, RowFault, Value, unfit};
use crate::error::Result;
use crate::frame::list_of_structs;
use crate::message::{ASSISTANT, MessageColumnBuilder, SYSTEM, USER};
use crate::prompt;
use crate::rejects::reason;
use crate::schema::col;

/// One message of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// `system`, `user`, `assistant`, ...
    pub role: Cow<'a, str>,
    pub content: Cow<'a, str>,
}

impl<'a> Turn<'a> {
    pub fn user(content: Cow<'a, str>) -> Turn<'a> {
        Turn { role: USER.into(), content }
    }

    pub fn assistant(content: Cow<'a, str>) -> Turn<'a> {
        Turn { role: ASSISTANT.into(), content }
    }
}

/// One scored response.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion<'a> {
    pub model: Option<Cow<'a, str>>,
    pub response: Cow<'a, str>,
    /// Its score; `None` where it was not rated ("N/A").
    pub score: Option<f64>,
}

/// One side of a given pair.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side<'a> {
    pub turns: Vec<Turn<'a>>,
    /// Its score, where the layout has one.
    pub score: Option<f64>,
    /// The model that wrote it, where the layout names it.
    pub model: Option<Cow<'a, str>>,
}

/// What a row says about its prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    /// Several scored responses: pairs are yet to be chosen.
    Completions(Vec<Completion<'a>>),
    /// A chosen and a rejected response.
    Pair(Side<'a>, Side<'a>),
}

/// One row of any layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    /// Source tag of the row itself.
    pub source: Option<Cow<'a, str>>,
    /// Who decided, where the row names the annotator.
    pub annotator: Option<Cow<'a, str>>,
    /// Probability with which the label is to be flipped, where the row has one.
    pub flip_probability: Option<f64>,
    /// Weight of the row's pairs in training, where the row has one.
    pub weight: Option<f64>,
    /// Whether an earlier preparation exchanged chosen and rejected.
    pub flipped_before: bool,
    /// Whether the prompt is a dialogue in one text, split at its labels.
    pub dialogue_prompt: bool,
    /// Messages before the response.
    pub prompt: Vec<Turn<'a>>,
    pub body: Body<'a>,
    /// Scores of 10 that the ratings contradict.
    pub wrong_tens: WrongTens,
}

impl<'a> Record<'a> {
    /// A record of a prompt and its responses, all other fields empty.
    pub fn new(prompt: Vec<Turn<'a>>, body: Body<'a>) -> Record<'a> {
        Record {
            source: None,
            annotator: None,
            flip_probability: None,
            weight: None,
            flipped_before: false,
            dialogue_prompt: false,
            prompt,
            body,
            wrong_tens: WrongTens::default(),
        }
    }

    /// The same row with earlier turns before the prompt, and a system message before all.
    pub fn with_context(mut self, system: Option<Cow<'a, str>>, earlier: Vec<Turn<'a>>) -> Read<Record<'a>> {
        let own = self.prompt.first().filter(|turn| turn.role == SYSTEM).map(|turn| &turn.content);
        let same = match (own, &system) {
            (Some(own), Some(system)) if own != system => {
                let message = "the prompt begins with another system message than this column has";
                return Err(RowFault::new("system", reason::PROMPT_MISMATCH, message));
            }
            (own, _) => own.is_some(),
        };
        self.prompt.splice(usize::from(same)..usize::from(same), earlier);
        if let Some(content) = system.filter(|_| !same) {
            self.prompt.insert(0, Turn { role: SYSTEM.into(), content });
        }
        Ok(self)
    }

    /// Refuses a prompt without any text.
    pub fn checked(self, field: &str) -> Read<Self> {
        if self.prompt.iter().all(|t| t.content.trim().is_empty()) {
            return Err(RowFault::new(field, reason::NO_PROMPT, "the prompt is empty"));
        }
        Ok(self)
    }
}

/// A list of messages, one message, or an object whose `messages` are the list; `field` names it in faults.
pub fn turns<'a>(value: Option<Value<'a>>, field: &str) -> Read<Vec<Turn<'a>>> {
    let items = match value {
        Some(Value::List(items)) if !items.is_empty() => items,
        Some(Value::Object(mut object)) => {
            if let Some(list @ Value::List(_)) = object.take("messages") {
                let field = format!("{field}.messages");
                match object.unread() {
                    Some(key) => return Err(unread(key).within(field)),
                    None => return turns(Some(list), &field),
                }
            }
            if ["role", "from"].iter().all(|key| object.get(key).is_none()) {
                return Err(unfit(field, "a string or a list of messages", Some(&Value::Object(object))));
            }
            return turn(Value::Object(object)).map(|turn| vec![turn]).map_err(|fault| fault.within(field));
        }
        other => {
            let mut fault = unfit(field, "a list of messages", other.as_ref());
            if matches!(other, Some(Value::List(_))) {
                fault.reason = reason::MISSING_FIELD;
            }
            return Err(fault);
        }
    };
    let read = |(i, item)| turn(item).map_err(|f| f.within(format_args!("{field}[{i}]")));
    items.into_iter().enumerate().map(read).collect()
}

/// One message: an object with `role` and `content`, or ShareGPT's with `from` and `value`. ShareGPT's names of roles
/// become the usual ones under either key.
pub fn turn(value: Value<'_>) -> Read<Turn<'_>> {
    let mut object = match value {
        Value::Object(object) => object,
        other => return Err(unfit("", "a message with role and content", Some(&other))),
    };
    // This comes first, since a message with tool calls may have no content.
    if let Some(key) = object.unread() {
        return Err(unread(key));
    }
    let turn = if object.get("role").is_none() && object.get("from").is_some() {
        let role = role(&object.text("from")?)?;
        Turn { role: role.into(), content: content(&mut object, "value")? }
    } else {
        let name = object.text("role")?;
        let Some(role) = usual_role(&name) else {
            let message = format!("expected user, assistant, system or tool, got {name:?}");
            return Err(RowFault::new("role", reason::WRONG_ROLE, message));
        };
        Turn { role: role.into(), content: content(&mut object, "content")? }
    };
    // Keys that layouts read elsewhere in a row are not read in a message either.
    match object.0.iter().find(|(_, value)| value.says_something()) {
        Some((key, _)) => Err(unread(key)),
        None => Ok(turn),
    }
}

/// The usual name of a role, which chat templates know; `None` where the role is not known.
pub fn usual_role(name: &str) -> Option<&'static str> {
    match name {
        "developer" => Some("developer"),
        "function" => Some("function"),
        "ipython" => Some("ipython"),
        _ => role(name).ok(),
    }
}

/// The usual name of a role of ShareGPT's.
fn role(from: &str) -> Read<&'static str> {
    Ok(match from {
        "human" | USER => USER,
        "gpt" | ASSISTANT => ASSISTANT,
        "observation" | "tool" => "tool",
        SYSTEM => SYSTEM,
        other => {
            let message = format!("expected human, gpt, system or observation, got {other:?}");
            return Err(RowFault::new("from", reason::WRONG_ROLE, message));
        }
    })
}

/// The content of a message: a text, or a list of parts that are texts.
fn content<'a>(message: &mut Object<'a>, key: &'static str) -> Read<Cow<'a, str>> {
    if !matches!(message.get(key), Some(Value::List(_))) {
        return message.text(key);
    }
    let mut whole = String::new();
    for (i, part) in message.list(key)?.into_iter().enumerate() {
        let text = match part {
            Value::Text(text) => Ok(text),
            Value::Object(mut part) => text_part(&mut part),
            other => Err(unfit("", "a part of a message", Some(&other))),
        };
        whole.push_str(&text.map_err(|f| f.within(format_args!("{key}[{i}]")))?);
    }
    Ok(whole.into())
}

fn text_part<'a>(part: &mut Object<'a>) -> Read<Cow<'a, str>> {
    match part.optional_text("type")? {
        Some(kind) if kind != "text" => {
            let message = format!("a part of type {kind:?} is not read; expected \"text\"");
            Err(RowFault::new("type", reason::UNREAD_KEY, message))
        }
        _ => match part.unread() {
            Some(key) => Err(unread(key)),
            None => part.text("text"),
        },
    }
}

/// The fault of a field that no layout reads and that may be part of what was said.
pub fn unread(key: &str) -> RowFault {
    let message = format!("{key} is not read, and may be part of what was said");
    RowFault::new(key, reason::unread(key), message)
}

/// Refuses a response whose last message is not the model's.
pub fn ends_with_assistant(turns: &[Turn<'_>], field: &str) -> Read<()> {
    match turns.last() {
        Some(last) if last.role != ASSISTANT => Err(RowFault::new(
            format!("{field}[{}].role", turns.len() - 1),
            reason::WRONG_ROLE,
            format!("expected \"{ASSISTANT}\" in the last message, got {:?}", last.role),
        )),
        _ => Ok(()),
    }
}

/// The conversations `chosen` and `rejected`, which end with the model's message.
pub fn conversations<'a>(row: &mut Object<'a>) -> Read<[Vec<Turn<'a>>; 2]> {
    let both = [turns(row.take("chosen"), "chosen")?, turns(row.take("rejected"), "rejected")?];
    ends_with_assistant(&both[0], "chosen")?;
    ends_with_assistant(&both[1], "rejected")?;
    Ok(both)
}

/// Leaves the last message, the response, in the side and returns the messages before it.
pub fn split_response<'a>(side: &mut Side<'a>) -> Vec<Turn<'a>> {
    let response = side.turns.split_off(side.turns.len().saturating_sub(1));
    std::mem::replace(&mut side.turns, response)
}

/// The decision against a row whose two conversations differ before the response.
pub fn different_contexts() -> RowFault {
    let message = "the messages before the response are not those of chosen";
    RowFault::decision("rejected", reason::DIFFERENT_CONTEXTS, message)
}

/// A range of a text without blanks at its ends, borrowed where the text is.
pub fn excerpt<'a>(text: &Cow<'a, str>, range: std::ops::Range<usize>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text[range].trim()),
        Cow::Owned(text) => Cow::Owned(text[range].trim().to_owned()),
    }
}

/// The sides of a given pair, with score and model under any of the names in use.
pub fn sides<'a>(row: &mut Object<'a>, [chosen, rejected]: [Vec<Turn<'a>>; 2]) -> Read<[Side<'a>; 2]> {
    let mut number = |names: [&'static str; 4]| -> Read<Option<f64>> {
        let mut found = None;
        for name in names {
            found = found.or(row.optional_number(name)?);
        }
        Ok(found)
    };
    let better = number(["score_chosen", "chosen-rating", "chosen_rating", "chosen_score"])?;
    let worse = number(["score_rejected", "rejected-rating", "rejected_rating", "rejected_score"])?;
    let mut text = |names: [&'static str; 2]| -> Read<Option<Cow<'a, str>>> {
        Ok(row.optional_text(names[0])?.or(row.optional_text(names[1])?))
    };
    let chosen = Side { turns: chosen, score: better, model: text(["chosen_model", "chosen-model"])? };
    Ok([chosen, Side { turns: rejected, score: worse, model: text(["rejected_model", "rejected-model"])? }])
}

/// Sound rows with their lines, as a frame: `file` `line` `source` `annotator` `flip_probability` `weight` `prompt`
/// `normalized_prompt` `group`, then `completions` for scored responses (`scored`), or the columns of a pair for
/// given ones. All rows must be of that kind. `split` is that of the file, where it has one.
pub fn to_frame(rows: &[(u64, Record<'_>)], file: u32, split: Option<&'static str>, scored: bool) -> Result<DataFrame> {
    let mut prompts = MessageColumnBuilder::new(col::PROMPT, rows.len());
    rows.iter().for_each(|(_, record)| prompts.push(pieces(&record.prompt)));
    let prompts = prompts.finish()?;
    let known = prompt::columns(&prompts)?;
    let mut columns = vec![
        UInt32Chunked::full(col::FILE.into(), file, rows.len()).into_column(),
        UInt64Chunked::from_vec(col::LINE.into(), rows.iter().map(|r| r.0).collect()).into_column(),
        texts(col::SOURCE, rows.iter().map(|(_, r)| r.source.as_deref().filter(|s| !s.is_empty()))),
        texts(col::ANNOTATOR, rows.iter().map(|(_, r)| r.annotator.as_deref())),
        numbers(col::FLIP_PROBABILITY, rows.iter().map(|(_, r)| r.flip_probability)),
        numbers(col::WEIGHT, rows.iter().map(|(_, r)| r.weight)),
        prompts,
    ];
    columns.extend(known);
    columns.extend(split.map(|split| StringChunked::full(col::SPLIT.into(), split, rows.len()).into_column()));
    if scored {
        columns.push(completion_column(rows)?);
    } else {
        columns.extend(pair_columns(rows)?);
    }
    Ok(DataFrame::new(rows.len(), columns)?)
}

fn pieces<'a>(turns: &'a [Turn<'_>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    turns.iter().map(|t| (&*t.role, &*t.content))
}

fn texts<'a>(name: &str, texts: impl Iterator<Item = Option<&'a str>>) -> Column {
    StringChunked::from_iter_options(name.into(), texts).into_column()
}

fn numbers(name: &str, numbers: impl Iterator<Item = Option<f64>>) -> Column {
    Float64Chunked::from_iter_options(name.into(), numbers).into_column()
}

fn completion_column(rows: &[(u64, Record<'_>)]) -> Result<Column> {
    let mut offsets = vec![0];
    let mut flat = Vec::new();
    for (_, record) in rows {
        if let Body::Completions(completions) = &record.body {
            flat.extend(completions);
        }
        offsets.push(flat.len() as i64);
    }
    let fields = [
        texts(col::MODEL, flat.iter().map(|c| c.model.as_deref())),
        texts(col::RESPONSE, flat.iter().map(|c| Some(&*c.response))),
        numbers(col::SCORE, flat.iter().map(|c| c.score)),
    ];
    list_of_structs(col::COMPLETIONS, offsets, &fields.map(|field| field.take_materialized_series()))
}

fn pair_columns(rows: &[(u64, Record<'_>)]) -> Result<[Column; 6]> {
    let mut sides: Vec<[&Side<'_>; 2]> = Vec::with_capacity(rows.len());
    for (_, record) in rows {
        if let Body::Pair(chosen, rejected) = &record.body {
            sides.push([chosen, rejected]);
        }
    }
    let messages = |name: &str, at: usize| {
        let mut column = MessageColumnBuilder::new(name, rows.len());
        sides.iter().for_each(|side| column.push(pieces(&side[at].turns)));
        column.finish()
    };
    Ok([
        messages(col::CHOSEN, 0)?,
        messages(col::REJECTED, 1)?,
        numbers(col::SCORE_CHOSEN, sides.iter().map(|[chosen, _]| chosen.score)),
        numbers(col::SCORE_REJECTED, sides.iter().map(|[_, rejected]| rejected.score)),
        texts(col::CHOSEN_MODEL, sides.iter().map(|[chosen, _]| chosen.model.as_deref())),
        texts(col::REJECTED_MODEL, sides.iter().map(|[_, rejected]| rejected.model.as_deref())),
    ])
}
