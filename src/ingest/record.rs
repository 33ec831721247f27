//! What every layout is read into, and the frames made of it.

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
    /// The text.
    pub content: Cow<'a, str>,
}

impl<'a> Turn<'a> {
    /// A user's message.
    pub fn user(content: Cow<'a, str>) -> Turn<'a> {
        Turn { role: USER.into(), content }
    }

    /// A model's message.
    pub fn assistant(content: Cow<'a, str>) -> Turn<'a> {
        Turn { role: ASSISTANT.into(), content }
    }
}

/// One scored response.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion<'a> {
    /// Who wrote it.
    pub model: Option<Cow<'a, str>>,
    /// The text.
    pub response: Cow<'a, str>,
    /// Its score; none where it was not rated ("N/A").
    pub score: Option<f64>,
}

/// One side of a given pair.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side<'a> {
    /// The response.
    pub turns: Vec<Turn<'a>>,
    /// Its score, where the layout has one.
    pub score: Option<f64>,
    /// Who wrote it, where the layout says so.
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
    /// Who decided, where the row says so.
    pub annotator: Option<Cow<'a, str>>,
    /// Probability with which the label is to be flipped, where the row says so.
    pub flip_probability: Option<f64>,
    /// Messages before the response.
    pub prompt: Vec<Turn<'a>>,
    /// The responses.
    pub body: Body<'a>,
    /// Scores of 10 that are none.
    pub wrong_tens: WrongTens,
}

impl<'a> Record<'a> {
    /// A prompt and its responses, and nothing else said of them.
    pub fn new(prompt: Vec<Turn<'a>>, body: Body<'a>) -> Record<'a> {
        Record { source: None, annotator: None, flip_probability: None, prompt, body, wrong_tens: WrongTens::default() }
    }

    /// The same row with earlier turns before the prompt, and a system message before all.
    ///
    /// # Errors
    /// The fault of a prompt that has another system message.
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

/// One message: an object with `role` and `content`, or ShareGPT's with `from` and `value`, whose roles get
/// their usual names.
///
/// # Errors
/// The fault, among them that of a field that no layout reads: what it holds may be part of what was said.
pub fn turn(value: Value<'_>) -> Read<Turn<'_>> {
    let mut object = match value {
        Value::Object(object) => object,
        other => return Err(unfit("", "a message with role and content", Some(&other))),
    };
    // First of all: a message with calls may have no content.
    if let Some(key) = object.unread() {
        return Err(unread(key));
    }
    let turn = match object.get("role").is_none() && object.get("from").is_some() {
        true => {
            let role = role(&object.text("from")?)?;
            Turn { role: role.into(), content: content(&mut object, "value")? }
        }
        false => Turn { role: object.text("role")?, content: content(&mut object, "content")? },
    };
    // Keys that are read elsewhere in a row are not read in a message.
    match object.0.iter().find(|(_, value)| value.says_something()) {
        Some((key, _)) => Err(unread(key)),
        None => Ok(turn),
    }
}

/// The usual name of a role in ShareGPT's words.
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

/// Leaves the last message as the response and gives the ones before it.
pub fn split_response<'a>(side: &mut Side<'a>) -> Vec<Turn<'a>> {
    let response = side.turns.split_off(side.turns.len().saturating_sub(1));
    std::mem::replace(&mut side.turns, response)
}

/// The decision on two conversations that do not answer the same.
pub fn different_contexts() -> RowFault {
    let message = "the messages before the response are not those of chosen";
    RowFault::decision("rejected", reason::DIFFERENT_CONTEXTS, message)
}

/// A range of a text, borrowed where the text is.
pub fn excerpt<'a>(text: &Cow<'a, str>, range: std::ops::Range<usize>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[range]),
        Cow::Owned(text) => Cow::Owned(text[range].to_owned()),
    }
}

/// Score and model of a given pair's sides, under any of the names in use.
pub fn side_facts<'a>(row: &mut Object<'a>, chosen: &mut Side<'a>, rejected: &mut Side<'a>) -> Read<()> {
    let mut number = |names: [&'static str; 4]| -> Read<Option<f64>> {
        let mut found = None;
        for name in names {
            found = found.or(row.optional_number(name)?);
        }
        Ok(found)
    };
    chosen.score = number(["score_chosen", "chosen-rating", "chosen_rating", "chosen_score"])?;
    rejected.score = number(["score_rejected", "rejected-rating", "rejected_rating", "rejected_score"])?;
    let mut text = |names: [&'static str; 2]| -> Read<Option<Cow<'a, str>>> {
        Ok(row.optional_text(names[0])?.or(row.optional_text(names[1])?))
    };
    chosen.model = text(["chosen_model", "chosen-model"])?;
    rejected.model = text(["rejected_model", "rejected-model"])?;
    Ok(())
}

/// Sound rows with their lines, as a frame: `file` `line` `source` `annotator` `flip_probability` `prompt`
/// `normalized_prompt` `group`, then `completions` for scored responses (`scored`), or the columns of a pair for
/// given ones. All rows must be of that kind. `split` is that of the file, where it has one.
///
/// # Errors
/// [`crate::Error::Frame`].
pub fn to_frame(rows: &[(u64, Record<'_>)], file: u32, split: Option<&'static str>, scored: bool) -> Result<DataFrame> {
    let mut sources = StringChunkedBuilder::new(col::SOURCE.into(), rows.len());
    let mut annotators = StringChunkedBuilder::new(col::ANNOTATOR.into(), rows.len());
    let mut probabilities = PrimitiveChunkedBuilder::<Float64Type>::new(col::FLIP_PROBABILITY.into(), rows.len());
    let mut prompts = MessageColumnBuilder::new(col::PROMPT, rows.len());
    for (_, record) in rows {
        sources.append_option(record.source.as_deref().filter(|s| !s.is_empty()));
        annotators.append_option(record.annotator.as_deref());
        probabilities.append_option(record.flip_probability);
        prompts.push(pieces(&record.prompt));
    }
    let prompts = prompts.finish()?;
    let known = prompt::columns(&prompts)?;
    let mut columns = vec![
        UInt32Chunked::full(col::FILE.into(), file, rows.len()).into_column(),
        UInt64Chunked::from_vec(col::LINE.into(), rows.iter().map(|r| r.0).collect()).into_column(),
        sources.finish().into_column(),
        annotators.finish().into_column(),
        probabilities.finish().into_column(),
        prompts,
    ];
    columns.extend(known);
    columns.extend(split.map(|split| StringChunked::full(col::SPLIT.into(), split, rows.len()).into_column()));
    match scored {
        true => columns.push(completion_column(rows)?),
        false => columns.extend(pair_columns(rows)?),
    }
    Ok(DataFrame::new(rows.len(), columns)?)
}

fn pieces<'a>(turns: &'a [Turn<'_>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    turns.iter().map(|t| (&*t.role, &*t.content))
}

fn completion_column(rows: &[(u64, Record<'_>)]) -> Result<Column> {
    let flat = rows.iter().map(|(_, r)| if let Body::Completions(c) = &r.body { c.len() } else { 0 }).sum();
    let mut models = StringChunkedBuilder::new(col::MODEL.into(), flat);
    let mut responses = StringChunkedBuilder::new(col::RESPONSE.into(), flat);
    let mut scores = PrimitiveChunkedBuilder::<Float64Type>::new(col::SCORE.into(), flat);
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    offsets.push(0);
    let mut at = 0;
    for (_, record) in rows {
        if let Body::Completions(completions) = &record.body {
            for completion in completions {
                models.append_option(completion.model.as_deref());
                responses.append_value(&*completion.response);
                scores.append_option(completion.score);
            }
            at += completions.len() as i64;
        }
        offsets.push(at);
    }
    let fields = [models.finish().into_series(), responses.finish().into_series(), scores.finish().into_series()];
    list_of_structs(col::COMPLETIONS, offsets, &fields)
}

fn pair_columns(rows: &[(u64, Record<'_>)]) -> Result<[Column; 6]> {
    let n = rows.len();
    let mut texts = [MessageColumnBuilder::new(col::CHOSEN, n), MessageColumnBuilder::new(col::REJECTED, n)];
    let mut scores = [col::SCORE_CHOSEN, col::SCORE_REJECTED]
        .map(|name| PrimitiveChunkedBuilder::<Float64Type>::new(name.into(), n));
    let mut models = [col::CHOSEN_MODEL, col::REJECTED_MODEL].map(|name| StringChunkedBuilder::new(name.into(), n));
    for (_, record) in rows {
        let Body::Pair(chosen, rejected) = &record.body else { continue };
        for (i, side) in [chosen, rejected].into_iter().enumerate() {
            texts[i].push(pieces(&side.turns));
            scores[i].append_option(side.score);
            models[i].append_option(side.model.as_deref());
        }
    }
    let [chosen, rejected] = texts;
    let [score_chosen, score_rejected] = scores.map(|b| b.finish().into_column());
    let [chosen_model, rejected_model] = models.map(|b| b.finish().into_column());
    Ok([chosen.finish()?, rejected.finish()?, score_chosen, score_rejected, chosen_model, rejected_model])
}
