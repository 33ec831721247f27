//! openbmb/UltraFeedback, raw: one instruction, up to four completions, each with an overall
//! score and ratings by aspect. Ratings are strings, "N/A" among them.
//!
//! ```json
//! {"source": "flan_v2", "instruction": "Why?", "models": ["a", "b"],
//!  "completions": [
//!    {"model": "a", "response": "Because.", "overall_score": 8.5, "fine-grained_score": 4.5,
//!     "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "N/A"},
//!                     "truthfulness": {"Rating": "4"}, "instruction_following": {"Rating": "4"}}}]}
//! ```
//!
//! The set's first revision had some thousand scores of 1 as 10. The mean of the ratings shows them:
//! where it is 2 or less the score was 1; where it is at most 4, the set's authors asked the judge again
//! (OpenBMB/UltraFeedback, `fix_overall_score_issue.py`). See [`OnWrongTens`] for what is done about them.

use super::super::record::{Body, Completion, Record, Turn};
use super::super::value::{Object, Read, RowFault, Value, unfit};
use super::super::{IngestConfig, OnWrongTens, Score, WrongTens};
use crate::rejects::reason;

/// Aspects in the order of [`Score`]'s variants.
const ASPECTS: [&str; 4] = ["helpfulness", "honesty", "truthfulness", "instruction_following"];

pub fn fits(row: &Object<'_>) -> bool {
    row.get("completions").is_some_and(|value| !matches!(value, Value::Text(text) if text.trim().is_empty()))
}

pub fn read<'a>(mut row: Object<'a>, config: &IngestConfig) -> Read<Record<'a>> {
    let prompt = vec![Turn::user(row.text("instruction")?)];
    let items = row.list("completions")?;
    if items.is_empty() {
        return Err(RowFault::new("completions", reason::NO_COMPLETIONS, "expected completions, got an empty list"));
    }
    let mut wrong_tens = WrongTens::default();
    let mut completions = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let read = completion(item, config, &mut wrong_tens).map_err(|f| f.within(format_args!("completions[{i}]")));
        completions.push(read?);
    }
    let record = Record::new(prompt, Body::Completions(completions)).checked("instruction")?;
    Ok(Record { wrong_tens, ..record })
}

fn completion<'a>(item: Value<'a>, config: &IngestConfig, wrong_tens: &mut WrongTens) -> Read<Completion<'a>> {
    let mut item = match item {
        Value::Object(object) => object,
        other => return Err(unfit("", "an object", Some(&other))),
    };
    let model = item.optional_text("model")?;
    let response = item.text("response")?;
    let score = match config.score {
        Score::Overall => overall(item, config.wrong_tens, wrong_tens)?,
        Score::MeanAspects => mean_rating(&mut item.object("annotations")?)?,
        Score::Helpfulness => rating(&mut item.object("annotations")?, ASPECTS[0])?,
        Score::Honesty => rating(&mut item.object("annotations")?, ASPECTS[1])?,
        Score::Truthfulness => rating(&mut item.object("annotations")?, ASPECTS[2])?,
        Score::InstructionFollowing => rating(&mut item.object("annotations")?, ASPECTS[3])?,
    };
    Ok(Completion { model, response, score })
}

/// The overall score; a 10 that the ratings contradict is counted, and repaired where the policy says so.
fn overall(mut item: Object<'_>, policy: OnWrongTens, wrong_tens: &mut WrongTens) -> Read<Option<f64>> {
    let score = item.number("overall_score")?;
    if score != 10.0 {
        return Ok(Some(score));
    }
    let mean = match item.take("fine-grained_score") {
        Some(Value::Number(mean)) => Some(mean),
        // The ratings are not the score here, so ratings that cannot be read are no fault.
        _ => item.object("annotations").and_then(|mut a| mean_rating(&mut a)).ok().flatten(),
    };
    let repair = policy == OnWrongTens::Repair;
    Ok(match mean {
        Some(mean) if mean <= 2.0 => {
            wrong_tens.certain += 1;
            Some(if repair { 1.0 } else { score })
        }
        Some(mean) if mean <= 4.0 => {
            wrong_tens.suspicious += 1;
            (!repair).then_some(score)
        }
        _ => Some(score),
    })
}

/// Mean of the ratings that are not "N/A"; `None` where all are. Absent aspects do not count.
fn mean_rating(annotations: &mut Object<'_>) -> Read<Option<f64>> {
    let (mut sum, mut n) = (0.0, 0u32);
    for aspect in ASPECTS {
        if annotations.get(aspect).is_some_and(|v| *v != Value::Null)
            && let Some(x) = rating(annotations, aspect)?
        {
            sum += x;
            n += 1;
        }
    }
    Ok((n > 0).then(|| sum / f64::from(n)))
}

/// One aspect's rating; `None` where it is "N/A".
fn rating(annotations: &mut Object<'_>, aspect: &'static str) -> Read<Option<f64>> {
    let in_annotations = |f: RowFault| f.within("annotations");
    let mut annotation = annotations.object(aspect).map_err(in_annotations)?;
    let found = annotation.take("Rating");
    let parsed = match &found {
        Some(Value::Number(x)) if x.is_finite() => Some(*x),
        Some(Value::Text(text)) if text.trim() == "N/A" => return Ok(None),
        Some(Value::Text(text)) => text.trim().parse().ok().filter(|x: &f64| x.is_finite()),
        _ => None,
    };
    match parsed {
        Some(x) => Ok(Some(x)),
        None => {
            Err(unfit("Rating", "a number or \"N/A\"", found.as_ref()).within(format_args!("annotations.{aspect}")))
        }
    }
}
