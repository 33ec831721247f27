//! What every layout is read into, and the frames made of it.

use std::borrow::Cow;

use polars::prelude::*;

use super::WrongTens;
use super::value::{Fault, Object, Read, Value, unfit};
use crate::error::Result;
use crate::message::{ASSISTANT, MessageColumnBuilder, USER};
use crate::nested::list_of_structs;
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

    /// The same row with a system message before all others, where there is one.
    #[must_use]
    pub fn with_system(mut self, text: Option<Cow<'a, str>>) -> Record<'a> {
        if let Some(content) = text {
            self.prompt.insert(0, Turn { role: "system".into(), content });
        }
        self
    }

    /// Refuses a prompt without any text.
    pub fn checked(self, field: &str) -> Read<Self> {
        if self.prompt.iter().all(|t| t.content.trim().is_empty()) {
            return Err(Fault::new(field, reason::NO_PROMPT, "the prompt is empty"));
        }
        Ok(self)
    }
}

/// A list of {role, content} objects; `field` names it in faults.
pub fn turns<'a>(value: Option<Value<'a>>, field: &str) -> Read<Vec<Turn<'a>>> {
    let items = match value {
        Some(Value::List(items)) if !items.is_empty() => items,
        other => {
            let mut fault = unfit(field, "a list of messages", other.as_ref());
            if matches!(other, Some(Value::List(_))) {
                fault.reason = reason::MISSING_FIELD;
            }
            return Err(fault);
        }
    };
    let turn = |item: Value<'a>| -> Read<Turn<'a>> {
        match item {
            Value::Object(mut object) => Ok(Turn { role: object.text("role")?, content: object.text("content")? }),
            other => Err(unfit("", "a message with role and content", Some(&other))),
        }
    };
    let read = |(i, item)| turn(item).map_err(|f| f.within(format_args!("{field}[{i}]")));
    items.into_iter().enumerate().map(read).collect()
}

/// Refuses a response whose last message is not the model's.
pub fn ends_with_assistant(turns: &[Turn<'_>], field: &str) -> Read<()> {
    match turns.last() {
        Some(last) if last.role != ASSISTANT => Err(Fault::new(
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
pub fn different_contexts() -> Fault {
    let message = "the messages before the response are not those of chosen";
    Fault::decision("rejected", reason::DIFFERENT_CONTEXTS, message)
}

/// A part of a text, borrowed where the text is.
pub fn part<'a>(text: &Cow<'a, str>, range: std::ops::Range<usize>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[range]),
        Cow::Owned(text) => Cow::Owned(text[range].to_owned()),
    }
}

/// Score and model of a given pair's sides, under any of the names in use.
pub fn side_facts<'a>(row: &mut Object<'a>, chosen: &mut Side<'a>, rejected: &mut Side<'a>) -> Read<()> {
    let mut number = |names: [&'static str; 2]| -> Read<Option<f64>> {
        Ok(row.optional_number(names[0])?.or(row.optional_number(names[1])?))
    };
    chosen.score = number(["score_chosen", "chosen-rating"])?;
    rejected.score = number(["score_rejected", "rejected-rating"])?;
    let mut text = |names: [&'static str; 2]| -> Read<Option<Cow<'a, str>>> {
        Ok(row.optional_text(names[0])?.or(row.optional_text(names[1])?))
    };
    chosen.model = text(["chosen_model", "chosen-model"])?;
    rejected.model = text(["rejected_model", "rejected-model"])?;
    Ok(())
}

/// Sound rows with their lines, as a frame: `file` `line` `source` `annotator` `flip_probability`
/// `prompt`, then `completions` for scored responses (`scored`), or the columns of a pair for given ones. All rows must be of that kind.
///
/// # Errors
/// [`crate::Error::Frame`].
pub fn to_frame(rows: &[(u64, Record<'_>)], file: u32, scored: bool) -> Result<DataFrame> {
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
    let mut columns = vec![
        UInt32Chunked::full(col::FILE.into(), file, rows.len()).into_column(),
        UInt64Chunked::from_vec(col::LINE.into(), rows.iter().map(|r| r.0).collect()).into_column(),
        sources.finish().into_column(),
        annotators.finish().into_column(),
        probabilities.finish().into_column(),
        prompts.finish()?,
    ];
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
