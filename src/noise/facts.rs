//! What is known of each pair before any flip, and the weight or rank that a noise kind gives it.

use std::cmp::Ordering;
use std::path::PathBuf;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::{FlipKind, NoiseConfig, Rates};
use crate::error::{Error, Result};
use crate::message::MessageColumn;
use crate::schema::col;
use crate::seed::Seed;

/// Least weight: at a rate of 1 even a pair with practically no chance is flipped.
const LEAST_WEIGHT: f64 = 1e-300;

/// A pair's probability of a flip, complete or without the scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Chance {
    /// The probability.
    Fixed(f64),
    /// A weight, to be multiplied by the plan's scale.
    Scaled(f64),
}

/// The key by which all pairs are ordered: the smallest are singled out first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// Compared first.
    pub first: f64,
    /// Compared where the first are equal.
    pub second: f64,
    /// Hash of (noise seed, id), so that chance decides the rest, not the position.
    pub hash: u64,
}

impl Rank {
    /// The order, smallest first.
    pub(super) fn order(&self, other: &Rank) -> Ordering {
        let numbers = |a: f64, b: f64| a.total_cmp(&b);
        numbers(self.first, other.first)
            .then_with(|| numbers(self.second, other.second))
            .then_with(|| self.hash.cmp(&other.hash))
    }
}

/// The columns that a noise kind needs. Scores and lengths are those of the sides before a flip, so that noise on top
/// of noise sees the clean pair.
pub(super) struct Facts<'a> {
    config: &'a NoiseConfig,
    seed: Seed,
    rates: Rates,
    ids: &'a StringChunked,
    flipped: &'a BooleanChunked,
    scores: Option<[&'a Float64Chunked; 2]>,
    texts: Option<[MessageColumn; 2]>,
    names: Option<&'a StringChunked>,
    given: Option<&'a Float64Chunked>,
    origins: Option<(&'a UInt32Chunked, &'a UInt64Chunked)>,
}

impl<'a> Facts<'a> {
    /// Opens the columns that `config.flip_kind` needs; `seed` is the run's.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing, [`Error::Config`] where rates cannot be read.
    pub fn open(frame: &'a DataFrame, config: &'a NoiseConfig, seed: Seed) -> Result<Facts<'a>> {
        use FlipKind as K;
        let kind = config.flip_kind;
        let number = |name| -> Result<&'a Float64Chunked> { Ok(frame.column(name)?.f64()?) };
        let text = |name| -> Result<&'a StringChunked> { Ok(frame.column(name)?.str()?) };
        let messages = |name| MessageColumn::open(frame.column(name)?);
        let scored = matches!(kind, K::Margin | K::Ambiguous | K::WeakQuality);
        let measured = matches!(kind, K::Length | K::Ambiguous);
        let names = match kind {
            K::Source => Some(text(col::SOURCE)?),
            K::Annotator if config.annotators == 0 => Some(text(col::ANNOTATOR)?),
            _ => None,
        };
        let given = matches!(kind, K::Column).then(|| number(col::FLIP_PROBABILITY)).transpose()?;
        let rates = match kind {
            K::Source => Rates::checked("source_rates", &config.source_rates)?,
            K::Annotator => Rates::checked("annotator_rates", &config.annotator_rates)?,
            _ => Rates::default(),
        };
        Ok(Facts {
            config,
            seed: config.seed_of(seed),
            rates,
            ids: text(col::ID)?,
            flipped: frame.column(col::FLIPPED)?.bool()?,
            scores: if scored { Some([number(col::SCORE_CHOSEN)?, number(col::SCORE_REJECTED)?]) } else { None },
            texts: if measured { Some([messages(col::CHOSEN)?, messages(col::REJECTED)?]) } else { None },
            names,
            given,
            origins: match (frame.column(col::FILE), frame.column(col::LINE)) {
                (Ok(file), Ok(line)) => Some((file.u32()?, line.u64()?)),
                _ => None,
            },
        })
    }

    /// The number in [0, 1) that is compared with a pair's probability.
    pub fn lot(&self, i: usize) -> f64 {
        self.seed.unit("flip", self.id(i))
    }

    fn id(&self, i: usize) -> &str {
        self.ids.get(i).unwrap_or("")
    }

    /// The values of the clean pair's sides: exchanged where the pair was flipped.
    fn clean<T>(&self, i: usize, chosen: T, rejected: T) -> (T, T) {
        if self.flipped.get(i).unwrap_or(false) { (rejected, chosen) } else { (chosen, rejected) }
    }

    /// Chosen and rejected score, where both are known numbers.
    fn scores(&self, i: usize) -> Option<(f64, f64)> {
        let [chosen, rejected] = self.scores?;
        let finite = |x: Option<f64>| x.filter(|x| x.is_finite());
        // Adding 0 makes -0 the same as 0.
        Some(self.clean(i, finite(chosen.get(i))? + 0.0, finite(rejected.get(i))? + 0.0))
    }

    /// Lengths of the chosen and the rejected response, in characters.
    fn lengths(&self, i: usize) -> (f64, f64) {
        let Some([chosen, rejected]) = &self.texts else { return (0.0, 0.0) };
        let count = |side: &MessageColumn| side.row(i).map(|(_, content)| content.chars().count()).sum::<usize>();
        self.clean(i, count(chosen) as f64, count(rejected) as f64)
    }

    /// How likely pair `i` is to be flipped.
    ///
    /// # Errors
    /// [`Error::Data`] where the input's own value is no probability.
    pub fn chance(&self, i: usize) -> Result<Chance> {
        let rate = self.config.flip_rate;
        let weight = |x: f64| scaled(sigmoid(x / self.config.temperature));
        Ok(match self.config.flip_kind {
            FlipKind::Margin => match self.scores(i) {
                Some((chosen, rejected)) => weight(rejected - chosen),
                None => Chance::Fixed(rate),
            },
            FlipKind::Length => {
                let (chosen, rejected) = self.lengths(i);
                weight(((rejected + 1.0) / (chosen + 1.0)).ln())
            }
            FlipKind::Source => Chance::Fixed(rate * self.rates.of(self.name(i).unwrap_or(""))),
            FlipKind::Annotator => self.annotator(i),
            FlipKind::Column => Chance::Fixed(rate * self.given(i)?),
            FlipKind::Uniform | FlipKind::Ambiguous | FlipKind::WeakQuality => Chance::Fixed(rate),
        })
    }

    fn name(&self, i: usize) -> Option<&str> {
        self.names.and_then(|names| names.get(i))
    }

    fn annotator(&self, i: usize) -> Chance {
        let (config, rate) = (self.config, self.config.flip_rate);
        let simulated;
        let name = match config.annotators {
            0 => self.name(i),
            n => {
                simulated = self.seed.index("annotator", self.id(i), n).to_string();
                Some(simulated.as_str())
            }
        };
        if !config.annotator_rates.is_empty() {
            return Chance::Fixed(rate * self.rates.of(name.unwrap_or("")));
        }
        let Some(name) = name else { return Chance::Fixed(rate) };
        let draw = 2.0 * self.seed.unit("annotator-rate", name) - 1.0;
        if config.calibrate { scaled(1.0 + draw) } else { Chance::Fixed(rate + draw * rate.min(1.0 - rate)) }
    }

    fn given(&self, i: usize) -> Result<f64> {
        let Some(p) = self.given.and_then(|given| given.get(i)) else { return Ok(0.0) };
        if (0.0..=1.0).contains(&p) {
            return Ok(p);
        }
        let (file, line) = self.origins.map_or((None, None), |(files, lines)| (files.get(i), lines.get(i)));
        Err(Error::Data {
            path: PathBuf::from(file.map_or_else(|| format!("pair {}", self.id(i)), |f| format!("input {}", f + 1))),
            line,
            field: Some(col::FLIP_PROBABILITY.into()),
            message: format!("expected a probability between 0 and 1, got {p}"),
            hint: Some("mend the column, or use another --flip-kind".into()),
        })
    }

    /// The key of pair `i` in the order in which pairs are singled out; `None` where it cannot be singled out.
    pub fn rank(&self, i: usize) -> Option<Rank> {
        let hash = self.seed.word("select", self.id(i));
        match (self.config.flip_kind, self.scores(i)) {
            (FlipKind::Ambiguous, Some((chosen, rejected))) => {
                Some(Rank { first: 0.0, second: (chosen - rejected).abs(), hash })
            }
            (FlipKind::Ambiguous, None) => {
                let (chosen, rejected) = self.lengths(i);
                Some(Rank { first: 1.0, second: (chosen - rejected).abs(), hash })
            }
            (FlipKind::WeakQuality, Some((chosen, rejected))) if chosen > rejected => {
                Some(Rank { first: chosen, second: chosen - rejected, hash })
            }
            _ => None,
        }
    }
}

fn scaled(weight: f64) -> Chance {
    Chance::Scaled(weight.max(LEAST_WEIGHT))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
