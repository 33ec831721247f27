//! One file per layout: what its rows look like, whether a row fits it (`fits`), and how a row becomes a [`Record`]
//! (`read`).

use serde::{Deserialize, Serialize};

use super::IngestConfig;
use super::names::UNREAD_COLUMNS;
use super::record::{Record, Turn, turns, unread};
use super::value::{Object, Read, RowFault, Value, unfit};
use crate::rejects::reason;
use crate::schema::col;

mod alpaca;
mod argilla;
mod beside;
mod binarized;
mod helpsteer2;
mod helpsteer3;
mod hh_rlhf;
mod mixture;
mod nemo_rl;
mod orca;
mod order;
mod sharegpt;
mod trl;
mod ultrafeedback;

/// Layout of the input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Told by the first rows of each file: the layout that most of them fit.
    #[default]
    Auto,
    /// Raw UltraFeedback: instruction and scored completions.
    Ultrafeedback,
    /// HuggingFaceH4/ultrafeedback_binarized and allenai's cleaned one: prompt, and whole
    /// conversations as chosen and rejected.
    Binarized,
    /// argilla's cleaned UltraFeedback: as binarized, with hyphens in `chosen-rating` and its kin.
    Argilla,
    /// TRL: prompt, chosen, rejected as texts or message lists; conversations may imply the prompt.
    Trl,
    /// Anthropic/hh-rlhf: two dialogues in one text each.
    HhRlhf,
    /// nvidia/HelpSteer2, preference: prompt, response_1, response_2, preference_strength.
    Helpsteer2,
    /// nvidia/HelpSteer3, preference: context, response1, response2, overall_preference.
    Helpsteer3,
    /// Tulu 3's and Skywork's preference mixtures: two conversations with equal contexts, and a source.
    #[serde(alias = "tulu3", alias = "skywork")]
    #[value(aliases = ["tulu3", "skywork"])]
    Mixture,
    /// Intel/orca_dpo_pairs: system, question, chosen, rejected.
    Orca,
    /// LLaMA-Factory's ranking data, Alpaca style: instruction, input, chosen, rejected.
    Alpaca,
    /// LLaMA-Factory's ranking data, ShareGPT style: conversations, chosen, rejected.
    Sharegpt,
    /// NeMo-RL: context and ranked completions.
    NemoRl,
}

/// A layout: its name and its functions.
pub struct Layout {
    pub format: Format,
    /// Whether its rows are scored completions; pairs otherwise.
    pub scored: bool,
    fits: fn(&Object<'_>) -> bool,
    read: for<'a> fn(Object<'a>, &IngestConfig) -> Read<Record<'a>>,
}

/// All layouts, from the most to the least specific.
static LAYOUTS: [Layout; 13] = [
    Layout { format: Format::NemoRl, scored: true, fits: nemo_rl::fits, read: |row, _| nemo_rl::read(row) },
    Layout { format: Format::Ultrafeedback, scored: true, fits: ultrafeedback::fits, read: ultrafeedback::read },
    Layout { format: Format::Helpsteer3, scored: false, fits: helpsteer3::fits, read: |row, _| helpsteer3::read(row) },
    Layout { format: Format::Helpsteer2, scored: false, fits: helpsteer2::fits, read: |row, _| helpsteer2::read(row) },
    Layout { format: Format::Sharegpt, scored: false, fits: sharegpt::fits, read: |row, _| sharegpt::read(row) },
    Layout { format: Format::Argilla, scored: false, fits: argilla::fits, read: |row, _| binarized::read(row) },
    Layout { format: Format::Orca, scored: false, fits: orca::fits, read: |row, _| orca::read(row) },
    Layout { format: Format::Alpaca, scored: false, fits: alpaca::fits, read: |row, _| alpaca::read(row) },
    Layout { format: Format::Mixture, scored: false, fits: mixture::fits, read: |row, _| mixture::read(row) },
    Layout { format: Format::Binarized, scored: false, fits: binarized::fits, read: |row, _| binarized::read(row) },
    Layout { format: Format::HhRlhf, scored: false, fits: hh_rlhf::fits, read: |row, _| hh_rlhf::read(row) },
    Layout { format: Format::Trl, scored: false, fits: trl::fits_given, read: |row, _| trl::read_given(row) },
    Layout { format: Format::Trl, scored: false, fits: trl::fits, read: |row, _| trl::read(row) },
];

impl Layout {
    /// The most specific layout that a row fits. Only fields that are not empty count, since joined tables have the
    /// columns of both. If a row has no prompt or fits no layout by these, blank texts count too, and then all fields.
    pub fn of(row: &Object<'_>) -> Option<&'static Layout> {
        let fitting = |row: &Object<'_>| LAYOUTS.iter().find(|layout| (layout.fits)(row));
        let with_blank = || {
            let kept = |value: &Value<'_>| matches!(value, Value::Text(_)) || value.says_something();
            fitting(&Object(row.0.iter().filter(|(_, value)| kept(value)).cloned().collect()))
        };
        match fitting(&row.said()) {
            Some(layout) if layout.is_implied() => with_blank().or(Some(layout)),
            Some(layout) => Some(layout),
            None => with_blank().or_else(|| fitting(row)),
        }
    }

    /// Whether it is the one whose rows have no prompt of their own.
    pub fn is_implied(&self) -> bool {
        LAYOUTS.last().is_some_and(|last| std::ptr::eq(last, self))
    }

    /// The layout of most of the first rows that fit any: one odd row does not decide over a file.
    pub fn of_most(rows: impl Iterator<Item = Option<&'static Layout>>) -> Option<&'static Layout> {
        let mut votes = [0usize; LAYOUTS.len()];
        for layout in rows.flatten().take(64) {
            votes[LAYOUTS.iter().position(|l| std::ptr::eq(l, layout))?] += 1;
        }
        let most = *votes.iter().max()?;
        let first = votes.iter().position(|n| *n == most && most > 0)?;
        Some(&LAYOUTS[first])
    }

    /// The layout of this name, the least specific of several; `None` for `auto`.
    pub fn named(format: Format) -> Option<&'static Layout> {
        LAYOUTS.iter().rfind(|layout| layout.format == format)
    }
}

impl Format {
    /// Its name, as the user writes it.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.format)
    }
}

/// Reads one row, whatever its layout: what all layouts have in common, then what is the layout's own.
pub fn read<'a>(
    layout: Option<&Layout>,
    mut row: Object<'a>,
    config: &IngestConfig,
    keys: impl FnOnce() -> Vec<String>,
) -> Read<Record<'a>> {
    let Some(layout) = layout else { return Err(unknown(&row, &keys())) };
    for key in UNREAD_COLUMNS {
        if row.get(key).is_some_and(Value::says_something) {
            return Err(unread(key));
        }
    }
    order::require_ordered(&row, &config.columns)?;
    if matches!(row.get("status"), Some(Value::Text(status)) if status.trim() == "tie") {
        return Err(RowFault::decision("status", reason::NO_PREFERENCE, "neither response is preferred"));
    }
    let flipped_before = row.get(col::FLIPPED).is_some_and(is_true);
    let dialogue = match row.get("prompt") {
        // HelpSteer2 marks turns in its own way.
        Some(Value::Text(text)) if layout.format != Format::Helpsteer2 && hh_rlhf::is_prompt(text) => {
            Some(text.clone())
        }
        _ => None,
    };
    let source = row.optional_name("source")?;
    let annotator = row.optional_name("annotator")?;
    let flip_probability = row.optional_number("flip_probability")?;
    if let Some(p) = flip_probability.filter(|p| !(0.0..=1.0).contains(p)) {
        let message = format!("expected a probability between 0 and 1, got {p}");
        return Err(RowFault::new("flip_probability", reason::WRONG_TYPE, message));
    }
    let weight = row.optional_number("weight")?;
    if let Some(w) = weight.filter(|w| *w < 0.0) {
        return Err(RowFault::new("weight", reason::WRONG_TYPE, format!("expected a number from 0, got {w}")));
    }
    let beside = beside::prompt_columns(&row, layout);
    let system = system(&mut row)?;
    let earlier = history(row.take("history"))?;
    let record = (layout.read)(row, config).map_err(|fault| with_columns(fault, keys))?;
    let record = record.with_context(system, earlier)?;
    beside::require_said(&beside, &record.prompt)?;
    let whole = |text: &str| record.prompt.iter().any(|turn| turn.content.contains(text.trim()));
    let dialogue_prompt = dialogue.is_some_and(|text| !whole(&text));
    Ok(Record { source, annotator, flip_probability, weight, flipped_before, dialogue_prompt, ..record })
}

/// The system message in a column of its own, under any of the column's names.
fn system<'a>(row: &mut Object<'a>) -> Read<Option<std::borrow::Cow<'a, str>>> {
    let mut found = None;
    for key in ["system", "system_prompt", "system_message"] {
        let text = row.optional_text(key)?.filter(|text| !text.trim().is_empty());
        if let (Some(first), Some(text)) = (&found, &text)
            && first != text
        {
            return Err(RowFault::new(key, reason::PROMPT_MISMATCH, "another column has another system message"));
        }
        found = found.or(text);
    }
    Ok(found)
}

/// The turns of the column `history`: pairs of a person's text and the model's, or messages.
fn history(value: Option<Value<'_>>) -> Read<Vec<Turn<'_>>> {
    let rounds = match value {
        Some(Value::List(rounds)) => rounds,
        None => return Ok(Vec::new()),
        Some(other) if !other.says_something() => return Ok(Vec::new()),
        other => return Err(unfit("history", "a list of pairs of strings", other.as_ref())),
    };
    if matches!(rounds.first(), Some(Value::Object(_))) {
        return turns(Some(Value::List(rounds)), "history");
    }
    let mut turns = Vec::with_capacity(2 * rounds.len());
    for (i, round) in rounds.into_iter().enumerate() {
        let pair: Option<[Value<'_>; 2]> = match round {
            Value::List(items) => items.try_into().ok(),
            _ => None,
        };
        match pair {
            Some([Value::Text(person), Value::Text(model)]) => {
                turns.extend([Turn::user(person), Turn::assistant(model)]);
            }
            _ => return Err(unfit(&format!("history[{i}]"), "two strings", Some(&Value::Other("another kind")))),
        }
    }
    Ok(turns)
}

/// Names that data sets give to the column of the question; one of them is suggested where the prompt is missing.
const QUESTIONS: [&str; 12] = [
    "query",
    "question",
    "questions",
    "instruction",
    "input",
    "user",
    "human",
    "request",
    "post",
    "problem",
    "messages",
    "text",
];

/// Adds the row's columns to the fault of a missing prompt, one of which may be the prompt.
fn with_columns(mut fault: RowFault, keys: impl FnOnce() -> Vec<String>) -> RowFault {
    if fault.lacks_prompt() {
        let keys = keys();
        let question = QUESTIONS.iter().find(|name| keys.iter().any(|key| key.eq_ignore_ascii_case(name)));
        if !keys.is_empty() {
            fault.message += &format!("; the row has {}", listed(&keys));
        }
        if let Some(name) = question {
            fault.message += &format!(" (--columns prompt={name}?)");
        }
    }
    fault
}

fn listed(keys: &[String]) -> String {
    match keys {
        [] => "no known field".into(),
        _ if keys.len() > 12 => format!("{} and more", keys[..12].join(", ")),
        _ => keys.join(", "),
    }
}

/// The fault of a row that fits no layout.
fn unknown(row: &Object<'_>, keys: &[String]) -> RowFault {
    let has = listed(keys);
    let one_response = row.get("response").is_some() && row.get("helpfulness").is_some();
    let advice = if one_response {
        "; rows with one rated response each give no pairs: HelpSteer2 has its pairs in preference/"
    } else if order::is_unpaired(keys) {
        "; rows with one labelled response each (KTO) give no pairs"
    } else {
        ""
    };
    let column = order::columns(keys);
    let sides = column.filter(|_| advice.is_empty()).map(|names| {
        let say = if names.len() > 1 { "say" } else { "says" };
        format!("; {} {say} which response is better", names.join(" and "))
    });
    let sides = sides.unwrap_or_default();
    let message =
        format!("expected instruction and completions, or chosen and rejected; the row has {has}{advice}{sides}");
    RowFault::new(column.map_or("", |names| names[0]), reason::UNKNOWN_LAYOUT, message)
}

/// Whether a cell says yes, also as a number or as the text that CSV has.
fn is_true(value: &Value<'_>) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::Number(x) => *x != 0.0,
        Value::Text(text) => ["true", "1", "yes"].iter().any(|yes| text.trim().eq_ignore_ascii_case(yes)),
        _ => false,
    }
}

/// Whether a key is there and not null.
fn has(row: &Object<'_>, key: &str) -> bool {
    row.get(key).is_some_and(|value| *value != Value::Null)
}

/// Whether a row has chosen and rejected, and neither of them is messages.
fn has_answers(row: &Object<'_>) -> bool {
    ["chosen", "rejected"].iter().all(|key| match row.get(key) {
        None | Some(Value::Null | Value::Object(_)) => false,
        Some(Value::List(items)) => !matches!(items.first(), Some(Value::Object(_))),
        Some(_) => true,
    })
}

fn has_text(row: &Object<'_>, key: &str) -> bool {
    matches!(row.get(key), Some(Value::Text(_)))
}

fn has_list(row: &Object<'_>, key: &str) -> bool {
    matches!(row.get(key), Some(Value::List(_)))
}

#[cfg(test)]
mod tests;
