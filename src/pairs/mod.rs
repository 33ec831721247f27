//! Scored completions, or given pairs -> clean preference pairs with ids, split by prompt.
//!
//! Every decision is a pure function of the seed and of the row's own content: never of its
//! position, its file's name, or the position of a completion in the list.

use std::collections::BTreeMap;

use polars::prelude::*;
use rayon::prelude::*;

use crate::error::Result;
use crate::message::{MessageColumn, MessageColumnBuilder};
use crate::prompt;
use crate::rejects::{Reject, RowOrigins, reason};
use crate::schema::{NO_NOISE, SPLITS, col};
use crate::seed::Seed;

mod choose;
mod config;
mod counts;
mod identity;
pub mod near;
mod order;

use choose::{Candidates, Choice, Lost, Made, NoPair};
pub use config::{Conflicts, Dedup, PairConfig, PairRule, Splits, Ties};
pub use counts::{Scored, Unsupported, Unusable};
pub use order::{Finished, finish};

/// `pair_rule` of pairs that came as pairs.
pub const GIVEN: &str = "given";

/// Pairs made of one batch.
#[derive(Debug)]
pub struct Built {
    /// The columns of [`crate::schema::PAIR_COLUMNS`] (labels clean), then those of [`crate::schema::CARRIED_COLUMNS`].
    pub frame: DataFrame,
    /// Rows without a usable pair.
    pub rejects: Vec<Reject>,
    /// Pairs that were not made, by reason, of rows that gave another one.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Completions that could be in no pair.
    pub unusable: Unusable,
    /// All rows of the batch by their scores.
    pub scored: Scored,
    /// Given pairs of the frame whose scores do not support their label.
    pub unsupported: Unsupported,
}

/// What becomes of one row.
enum Fate {
    Kept { prompt: Prompt, pairs: Vec<(Choice, String)> },
    Dropped(NoPair),
}

/// What all pairs of one row share.
struct Prompt {
    id: String,
    split: &'static str,
}

/// Makes pairs of one batch of rows, as ingested: `completions` or given pairs. A row may give several.
///
/// Of equally good completions the one with the smallest content hash is the best. A completion with an empty response
/// or without a score is in no pair.
///
/// # Errors
/// [`crate::Error::Frame`] where the frame lacks a column.
pub fn build(frame: &DataFrame, config: &PairConfig, seed: Seed) -> Result<Built> {
    let prompts = MessageColumn::open(frame.column(col::PROMPT)?)?;
    let normalized = frame.column(col::NORMALIZED_PROMPT)?.str()?;
    let splits = frame.column(col::SPLIT).ok().map(|column| column.str()).transpose()?;
    let candidates = Candidates::open(frame)?;
    let decide = |i: usize| -> (Fate, Lost) {
        let normalized = normalized.get(i).unwrap_or("");
        let (choices, mut lost) = candidates.choose(i, config, normalized, seed);
        let fate = match choices {
            Ok(choices) => {
                let name = |choice: Choice| {
                    let (chosen, rejected) = (candidates.chosen(i, choice), candidates.rejected(i, choice));
                    (choice, identity::pair_id(prompts.row(i), chosen, rejected))
                };
                let mut pairs: Vec<_> = choices.into_iter().map(name).collect();
                if pairs.len() > 1 {
                    sift_row(&mut pairs, &candidates, config, seed, &mut lost);
                }
                let drawn = || SPLITS[usize::from(seed.unit("split", normalized) < config.test_fraction)];
                // Every row of a file that belongs to a split has the column.
                let by_file = splits.and_then(|splits| SPLITS.into_iter().find(|split| splits.get(i) == Some(split)));
                let prompt = Prompt { id: prompt::id(prompts.row(i)), split: by_file.unwrap_or_else(drawn) };
                Fate::Kept { prompt, pairs }
            }
            Err(refusal) => Fate::Dropped(refusal),
        };
        (fate, lost)
    };
    let rows = frame.height();
    let fates: Vec<(Fate, Lost)> = (0..rows).into_par_iter().map(decide).collect();

    let origins = RowOrigins::open(frame)?;
    let (mut made, mut known) = (Vec::with_capacity(fates.len()), Vec::with_capacity(fates.len()));
    let (mut rejects, mut dropped, mut unusable) = (Vec::new(), BTreeMap::new(), Unusable::default());
    for (row, (fate, lost)) in fates.into_iter().enumerate() {
        unusable += lost.unusable;
        match fate {
            Fate::Kept { prompt, pairs } => {
                made.extend(pairs.into_iter().map(|(choice, id)| Made { row, choice, id, prompt: known.len() }));
                known.push(prompt);
                lost.pairs.into_iter().for_each(|(reason, n)| *dropped.entry(reason).or_default() += n);
            }
            Fate::Dropped(NoPair { reason, field, detail }) => rejects.push(origins.reject(row, field, reason, detail)),
        }
    }
    let mut unsupported = Unsupported::default();
    if candidates.are_given() {
        made.iter().for_each(|m| unsupported.count(candidates.margin(m.row, m.choice)));
    }
    let frame = assemble(frame, &prompts, &candidates, &made, &known, config)?;
    Ok(Built { frame, rejects, dropped, unusable, scored: candidates.scored(rows), unsupported })
}

/// Puts a row's pairs in an order that depends on their content only, and removes copies and pairs beyond the cap per
/// prompt. [`finish`] does the same over all rows of a prompt. Doing it here too keeps the batches small and does not
/// change the result: a pair that is kept among all rows of its prompt is also kept among those of its own row.
fn sift_row(
    pairs: &mut Vec<(Choice, String)>,
    candidates: &Candidates,
    config: &PairConfig,
    seed: Seed,
    lost: &mut Lost,
) {
    let mut ranked: Vec<(u64, Choice, String)> =
        pairs.drain(..).map(|(choice, id)| (order::cap_rank(seed, &id), choice, id)).collect();
    ranked.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)).then_with(|| candidates.compare(a.1, b.1)));
    let all = ranked.len();
    if config.dedup != Dedup::None {
        ranked.dedup_by(|a, b| a.2 == b.2);
    }
    lost.pair(reason::DUPLICATE, (all - ranked.len()) as u64);
    if config.max_per_prompt > 0 {
        lost.pair(reason::OVER_PROMPT_CAP, ranked.len().saturating_sub(config.max_per_prompt) as u64);
        ranked.truncate(config.max_per_prompt);
    }
    pairs.extend(ranked.into_iter().map(|(_, choice, id)| (choice, id)));
}

/// The frame of the pairs that were made, labels clean.
fn assemble(
    input: &DataFrame,
    prompts: &MessageColumn,
    candidates: &Candidates,
    made: &[Made],
    known: &[Prompt],
    config: &PairConfig,
) -> Result<DataFrame> {
    let n = made.len();
    let rows: Vec<IdxSize> = made.iter().map(|m| m.row as IdxSize).collect();
    let text = |name: &str, values: Vec<&str>| Column::new(name.into(), values);
    let constant = |name: &str, value: &str| StringChunked::full(name.into(), value, n).into_column();
    let taken = |name: &str| -> Result<Column> { Ok(input.column(name)?.take_slice(&rows)?) };
    let mut prompt = MessageColumnBuilder::new(col::PROMPT, n);
    let mut chosen = MessageColumnBuilder::new(col::CHOSEN, n);
    let mut rejected = MessageColumnBuilder::new(col::REJECTED, n);
    let mut margins = Vec::with_capacity(n);
    for m in made {
        prompt.push(prompts.row(m.row));
        chosen.push(candidates.chosen(m.row, m.choice));
        rejected.push(candidates.rejected(m.row, m.choice));
        margins.push(candidates.margin(m.row, m.choice));
    }
    let [score_chosen, score_rejected, chosen_model, rejected_model] = candidates.facts(made)?;
    let rule = if candidates.are_given() { GIVEN } else { config.rule.name() };
    // Batches are joined later, so all of them need these columns.
    let given = |name: &str| -> Result<Column> {
        Ok(match input.column(name) {
            Ok(_) => taken(name)?.cast(&DataType::Float64)?,
            Err(_) => Float64Chunked::full_null(name.into(), n).into_column(),
        })
    };
    let annotators = match input.column(col::ANNOTATOR) {
        Ok(_) => taken(col::ANNOTATOR)?.cast(&DataType::String)?,
        Err(_) => StringChunked::full_null(col::ANNOTATOR.into(), n).into_column(),
    };
    let columns = vec![
        text(col::ID, made.iter().map(|m| m.id.as_str()).collect()),
        text(col::PROMPT_ID, made.iter().map(|m| known[m.prompt].id.as_str()).collect()),
        taken(col::SOURCE)?,
        text(col::SPLIT, made.iter().map(|m| known[m.prompt].split).collect()),
        prompt.finish()?,
        chosen.finish()?,
        rejected.finish()?,
        score_chosen,
        score_rejected,
        Float64Chunked::from_iter_options(col::MARGIN.into(), margins.into_iter()).into_column(),
        chosen_model,
        rejected_model,
        constant(col::PAIR_RULE, rule),
        BooleanChunked::full(col::FLIPPED.into(), false, n).into_column(),
        constant(col::NOISE_KIND, NO_NOISE),
        Float64Chunked::full(col::NOISE_P.into(), 0.0, n).into_column(),
        given(col::WEIGHT)?,
        taken(col::FILE)?,
        taken(col::LINE)?,
        taken(col::GROUP)?,
        annotators,
        given(col::FLIP_PROBABILITY)?,
    ];
    Ok(DataFrame::new(n, columns)?)
}

#[cfg(test)]
mod tests;
