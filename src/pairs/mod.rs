//! Scored completions, or given pairs -> clean preference pairs with ids, split by prompt.
//!
//! Every decision is a pure function of the seed and of the row's own content: never of its
//! place, of its file's name or of a completion's place in the list.

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Result};
use crate::message::{ASSISTANT, MessageColumn, MessageColumnBuilder};
use crate::rejects::Reject;
use crate::schema::{SPLITS, col};
use crate::seed::Seed;

pub mod choose;
pub mod identity;
pub mod order;

use choose::{Candidates, Choice, Refusal};
use identity::Identity;
pub use order::finish;

/// How a pair is chosen from scored completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PairRule {
    /// The best against a random one of those with a lower score, as Zephyr and the LPC paper.
    #[default]
    BestVsRandom,
    /// The best against the worst.
    BestVsWorst,
}

impl PairRule {
    /// As written in the column `pair_rule`.
    pub fn name(self) -> &'static str {
        match self {
            PairRule::BestVsRandom => "best-vs-random",
            PairRule::BestVsWorst => "best-vs-worst",
        }
    }
}

/// `pair_rule` of pairs that came as pairs.
pub const GIVEN: &str = "given";

/// How pairs are made and split.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct PairConfig {
    /// How a pair is chosen from scored completions. Default: `best-vs-random`. No effect on given pairs.
    pub rule: PairRule,
    /// Share of the prompts that goes to the test split, in [0, 1]. Default: 0.1.
    pub test_fraction: f64,
}

impl Default for PairConfig {
    fn default() -> Self {
        PairConfig { rule: PairRule::BestVsRandom, test_fraction: 0.1 }
    }
}

impl PairConfig {
    /// What is wrong with these settings, keys under `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        if (0.0..=1.0).contains(&self.test_fraction) {
            return Vec::new();
        }
        vec![Fault {
            origin: String::new(),
            key: format!("{prefix}test_fraction"),
            message: format!("must be between 0 and 1, got {}", self.test_fraction),
        }]
    }
}

/// Completions that could not take part, though their row may have gone on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Completions with an empty response.
    pub empty_response: u64,
    /// Completions without a score.
    pub unrated: u64,
}

impl std::ops::AddAssign for Unusable {
    fn add_assign(&mut self, other: Unusable) {
        self.empty_response += other.empty_response;
        self.unrated += other.unrated;
    }
}

/// Pairs made of one batch.
#[derive(Debug)]
pub struct Built {
    /// The columns of [`crate::schema::PAIR_COLUMNS`] (labels clean), then `file` `line` `group`.
    pub frame: DataFrame,
    /// Rows without a usable pair.
    pub rejects: Vec<Reject>,
    /// Completions that took no part.
    pub unusable: Unusable,
}

/// What becomes of one row.
enum Fate {
    Kept { choice: Choice, identity: Identity },
    Dropped { refusal: Refusal, group: u64 },
}

/// Makes pairs of one batch of rows, as ingested: `completions` or given pairs.
///
/// Of equally good completions the one with the smallest content hash is chosen. A completion
/// with an empty response or without a score takes no part.
///
/// # Errors
/// [`crate::Error::Frame`] where the frame lacks a column.
pub fn build(frame: &DataFrame, config: &PairConfig, seed: Seed) -> Result<Built> {
    let prompts = MessageColumn::open(frame.column(col::PROMPT)?)?;
    let candidates = Candidates::open(frame)?;
    let decide = |i: usize| -> (Fate, Unusable) {
        let normalized = crate::message::normalized_prompt(prompts.row(i));
        let (choice, unusable) = candidates.choose(i, config.rule, &normalized, seed);
        let fate = match choice {
            Ok(choice) => {
                let (chosen, rejected) = (candidates.chosen(i, choice), candidates.rejected(i, choice));
                let identity = Identity::of(prompts.row(i), chosen, rejected, &normalized);
                Fate::Kept { choice, identity }
            }
            Err(refusal) => Fate::Dropped { refusal, group: identity::group(&normalized) },
        };
        (fate, unusable)
    };
    let fates: Vec<(Fate, Unusable)> = (0..frame.height()).into_par_iter().map(decide).collect();

    let files = frame.column(col::FILE)?.u32()?;
    let lines = frame.column(col::LINE)?.u64()?;
    let mut kept = Vec::with_capacity(fates.len());
    let mut rejects = Vec::new();
    let mut unusable = Unusable::default();
    for (i, (fate, lost)) in fates.into_iter().enumerate() {
        unusable += lost;
        match fate {
            Fate::Kept { choice, identity } => kept.push((i, choice, identity)),
            Fate::Dropped { refusal, group } => rejects.push(Reject {
                file: files.get(i).unwrap_or_default(),
                line: lines.get(i).unwrap_or_default(),
                field: refusal.field.into(),
                reason: refusal.reason,
                detail: refusal.detail,
                group,
            }),
        }
    }
    let frame = assemble(frame, &prompts, &candidates, &kept, config, seed)?;
    Ok(Built { frame, rejects, unusable })
}

/// The frame of the pairs that were kept, labels clean.
fn assemble(
    input: &DataFrame,
    prompts: &MessageColumn,
    candidates: &Candidates,
    kept: &[(usize, Choice, Identity)],
    config: &PairConfig,
    seed: Seed,
) -> Result<DataFrame> {
    let n = kept.len();
    let rows: Vec<IdxSize> = kept.iter().map(|k| k.0 as IdxSize).collect();
    let text = |name: &str, get: &dyn Fn(&Identity) -> &str| {
        let mut builder = StringChunkedBuilder::new(name.into(), n);
        kept.iter().for_each(|k| builder.append_value(get(&k.2)));
        builder.finish().into_column()
    };
    let constant = |name: &str, value: &str| StringChunked::full(name.into(), value, n).into_column();
    let is_test = |id: &Identity| seed.unit("split", &id.normalized) < config.test_fraction;

    let mut prompt = MessageColumnBuilder::new(col::PROMPT, n);
    let mut chosen = MessageColumnBuilder::new(col::CHOSEN, n);
    let mut rejected = MessageColumnBuilder::new(col::REJECTED, n);
    let mut margins = Vec::with_capacity(n);
    for (i, choice, _) in kept {
        prompt.push(prompts.row(*i));
        chosen.push(candidates.chosen(*i, *choice));
        rejected.push(candidates.rejected(*i, *choice));
        margins.push(candidates.margin(*i, *choice));
    }
    let [score_chosen, score_rejected, chosen_model, rejected_model] = candidates.facts(kept)?;
    let rule = if candidates.are_given() { GIVEN } else { config.rule.name() };
    Ok(DataFrame::new(
        n,
        vec![
            text(col::ID, &|k| &k.id),
            text(col::PROMPT_ID, &|k| &k.prompt_id),
            input.column(col::SOURCE)?.take_slice(&rows)?,
            text(col::SPLIT, &|k| SPLITS[usize::from(is_test(k))]),
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
            constant(col::NOISE_KIND, "none"),
            Float64Chunked::full(col::NOISE_P.into(), 0.0, n).into_column(),
            input.column(col::FILE)?.take_slice(&rows)?,
            input.column(col::LINE)?.take_slice(&rows)?,
            UInt64Chunked::from_vec(col::GROUP.into(), kept.iter().map(|k| k.2.group).collect()).into_column(),
        ],
    )?)
}

/// A response that is one text, as a message list.
fn answer(text: &str) -> (&str, &str) {
    (ASSISTANT, text)
}

#[cfg(test)]
mod tests;
