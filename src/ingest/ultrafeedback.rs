//! Raw UltraFeedback: one instruction, several completions, each with an overall
//! score and ratings by aspect. Ratings are strings, "N/A" among them.

use super::Score;
use super::record::{Body, Completion, Record, Turn};
use super::value::{Fault, Object, Read, Value, unfit};
use crate::rejects::reason;

/// Aspects in the order of [`Score`]'s variants.
const ASPECTS: [&str; 4] = ["helpfulness", "honesty", "truthfulness", "instruction_following"];

/// Whether the row looks like this layout.
pub fn fits(row: &Object<'_>) -> bool {
    row.get("completions").is_some()
}

/// Reads one row.
///
/// # Errors
/// The fault, with its field.
pub fn read<'a>(mut row: Object<'a>, score: Score) -> Read<Record<'a>> {
    let source = row.optional_text("source")?;
    let prompt = vec![Turn::user(row.text("instruction")?)];
    let items = row.list("completions")?;
    if items.is_empty() {
        return Err(Fault::new("completions", reason::NO_COMPLETIONS, "expected completions, got an empty list"));
    }
    let read = |(i, item)| completion(item, score).map_err(|f| f.within(format_args!("completions[{i}]")));
    let completions = items.into_iter().enumerate().map(read).collect::<Read<Vec<_>>>()?;
    Record::new(source, prompt, Body::Completions(completions)).checked("instruction")
}

fn completion(item: Value<'_>, score: Score) -> Read<Completion<'_>> {
    let mut item = match item {
        Value::Object(object) => object,
        other => return Err(unfit("", "an object", Some(&other))),
    };
    let model = item.optional_text("model")?;
    let response = item.text("response")?;
    let score = match score {
        Score::Overall => Some(item.number("overall_score")?),
        Score::MeanAspects => mean_rating(item.object("annotations")?)?,
        Score::Helpfulness => rating(&mut item.object("annotations")?, ASPECTS[0])?,
        Score::Honesty => rating(&mut item.object("annotations")?, ASPECTS[1])?,
        Score::Truthfulness => rating(&mut item.object("annotations")?, ASPECTS[2])?,
        Score::InstructionFollowing => rating(&mut item.object("annotations")?, ASPECTS[3])?,
    };
    Ok(Completion { model, response, score })
}

/// Mean of the ratings that are not "N/A"; none where all are. Absent aspects do not count.
fn mean_rating(mut annotations: Object<'_>) -> Read<Option<f64>> {
    let (mut sum, mut n) = (0.0, 0u32);
    for aspect in ASPECTS {
        if annotations.get(aspect).is_some_and(|v| *v != Value::Null)
            && let Some(x) = rating(&mut annotations, aspect)?
        {
            sum += x;
            n += 1;
        }
    }
    Ok((n > 0).then(|| sum / f64::from(n)))
}

/// One aspect's rating; none where it is "N/A".
fn rating(annotations: &mut Object<'_>, aspect: &'static str) -> Read<Option<f64>> {
    let in_annotations = |f: Fault| f.within("annotations");
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
