//! Clean pairs -> pairs with observed labels, and a ledger that counts what was changed.
//!
//! A flip swaps the two sides with all that belongs to them. Whether a pair is flipped is decided by
//! (noise seed, id) and the pair's own probability, so flips are nested: the rows flipped at a rate of 0.1
//! are among those at 0.2. Some kinds of noise need to know all pairs first ([`NoiseConfig::needs_survey`]):
//! a [`NoiseSurvey`] of them gives a [`NoisePlan`], and with it every pair is decided on its own again.

use polars::prelude::*;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::message::{MessageColumn, MessageColumnBuilder, USER};
use crate::schema::{NO_NOISE, col};
use crate::seed::Seed;

mod config;
mod facts;
mod ledger;
mod plan;

pub use config::{FlipKind, NoiseConfig, Selected};
use facts::Facts;
pub use facts::Rank;
pub use ledger::{Ledger, Tally};
pub use plan::{NoisePlan, NoiseSurvey};

/// What the noise does to one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Verdict {
    flip: bool,
    /// Whether it carries the marker: flipped or singled out.
    touched: bool,
    kind: &'static str,
    /// Probability of a flip.
    p: f64,
}

/// Applies label noise to the columns of [`crate::schema::PAIR_COLUMNS`]; further columns are left alone.
///
/// Flipped rows have their sides, scores and models swapped, the margin's sign changed and `flipped`
/// negated. Flipped rows, and those that were singled out, get the marker on their prompt. `id`,
/// `prompt_id` and `split` stay those of the clean pair. With a rate above 0 every row gets `noise_p`,
/// the probability with which its label was to be flipped, and `noise_kind` (`none` where a kind that
/// singles pairs out left it alone). A second application with the same settings undoes the first but for
/// the marker.
///
/// `plan` comes from [`NoiseSurvey::finish`] or [`NoisePlan::direct`] with the same `config` and `seed`.
///
/// # Errors
/// [`Error::Frame`] where a column is missing; [`Error::Data`] where `flip_probability` is no probability;
/// [`Error::Config`] where rates cannot be read; [`Error::Run`] where the plan is not one of these settings.
pub fn apply(mut frame: DataFrame, config: &NoiseConfig, plan: &NoisePlan, seed: Seed) -> Result<DataFrame> {
    if config.flip_rate <= 0.0 || frame.height() == 0 {
        return Ok(frame);
    }
    let verdicts = verdicts(&frame, config, plan, seed)?;
    let flip: Vec<bool> = verdicts.iter().map(|v| v.flip).collect();

    for (left, right) in [
        (col::CHOSEN, col::REJECTED),
        (col::SCORE_CHOSEN, col::SCORE_REJECTED),
        (col::CHOSEN_MODEL, col::REJECTED_MODEL),
    ] {
        let (left, right) = swapped(frame.column(left)?, frame.column(right)?, &flip)?;
        frame.with_column(left)?;
        frame.with_column(right)?;
    }
    let margins = frame.column(col::MARGIN)?.f64()?;
    let margins = margins.iter().zip(&flip).map(|(m, f)| m.map(|m| if *f { -m } else { m }));
    let margins = Float64Chunked::from_iter_options(col::MARGIN.into(), margins.collect::<Vec<_>>().into_iter());
    let before = frame.column(col::FLIPPED)?.bool()?;
    let flipped: Vec<bool> = before.iter().zip(&flip).map(|(b, f)| b.unwrap_or(false) != *f).collect();
    if !config.flip_marker.is_empty() {
        let touched: Vec<bool> = verdicts.iter().map(|v| v.touched).collect();
        let marked = marked(frame.column(col::PROMPT)?, &touched, &config.flip_marker)?;
        frame.with_column(marked)?;
    }
    let kinds = StringChunked::from_iter_values(col::NOISE_KIND.into(), verdicts.iter().map(|v| v.kind));
    let chances = Float64Chunked::from_vec(col::NOISE_P.into(), verdicts.iter().map(|v| v.p).collect());
    frame.with_column(margins.into_column())?;
    frame.with_column(BooleanChunked::from_slice(col::FLIPPED.into(), &flipped).into_column())?;
    frame.with_column(kinds.into_column())?;
    frame.with_column(chances.into_column())?;
    Ok(frame)
}

/// What the noise does to each pair.
fn verdicts(frame: &DataFrame, config: &NoiseConfig, plan: &NoisePlan, seed: Seed) -> Result<Vec<Verdict>> {
    if plan.kind != config.flip_kind || (config.needs_survey() && plan.rows == 0) {
        let message =
            format!("the noise plan ({}) does not fit flip_kind = {}", plan.kind.name(), config.flip_kind.name());
        return Err(Error::run(message + "; please report this"));
    }
    let facts = Facts::open(frame, config, seed)?;
    let kind = config.flip_kind.name();
    let decide = |i: usize| -> Result<Verdict> {
        if config.flip_kind.selects() {
            let touched = plan.selects(facts.rank(i));
            let flip = touched && config.selected == Selected::Flip;
            return Ok(Verdict {
                flip,
                touched,
                kind: if touched { kind } else { NO_NOISE },
                p: f64::from(u8::from(flip)),
            });
        }
        let p = plan.probability(facts.chance(i)?);
        let flip = facts.lot(i) < p;
        Ok(Verdict { flip, touched: flip, kind, p })
    };
    (0..frame.height()).into_par_iter().map(decide).collect()
}

/// Two columns with the rows in `flip` exchanged, whatever their type.
fn swapped(left: &Column, right: &Column, flip: &[bool]) -> Result<(Column, Column)> {
    let mut both = left.clone();
    both.append(right)?;
    let both = both.rechunk();
    let n = flip.len() as IdxSize;
    let pick = |own: IdxSize, other: IdxSize| -> Vec<IdxSize> {
        (0..n).zip(flip).map(|(i, f)| i + if *f { other } else { own }).collect()
    };
    let new_left = both.take_slice(&pick(0, n))?.with_name(left.name().clone());
    let new_right = both.take_slice(&pick(n, 0))?.with_name(right.name().clone());
    Ok((new_left, new_right))
}

/// Prompts with the marker at the end of the last user message (of the last message, where there
/// is no user's) of the rows in `flip`.
fn marked(prompts: &Column, flip: &[bool], marker: &str) -> Result<Column> {
    let open = MessageColumn::open(prompts)?;
    let mut builder = MessageColumnBuilder::new(prompts.name(), flip.len());
    for (i, flip) in flip.iter().enumerate() {
        if !flip {
            builder.push(open.row(i));
            continue;
        }
        let count = open.row(i).len();
        let at = open.row(i).rposition(|(role, _)| role == USER).unwrap_or(count.saturating_sub(1));
        let with = open.row(i).nth(at).map(|(_, content)| format!("{content} {marker}")).unwrap_or_default();
        let rows = open.row(i).enumerate();
        builder.push(rows.map(|(k, (role, content))| (role, if k == at { with.as_str() } else { content })));
    }
    builder.finish()
}

#[cfg(test)]
mod tests;
