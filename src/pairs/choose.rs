//! Choosing the two sides of pairs among scored completions.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use polars::prelude::*;
use rayon::iter::Either;

use super::config::{PairConfig, PairRule, Ties};
use super::counts::{Scored, Unusable};
use crate::error::Result;
use crate::frame::ListOfStructs;
use crate::message::{ASSISTANT, MessageColumn};
use crate::rejects::reason;
use crate::schema::col;
use crate::seed::Seed;

/// Most completions of which every two are paired: 256 of them give 32,640 pairs.
pub const MOST_FOR_ALL_PAIRS: usize = 256;

/// The two sides of a pair: flat indices of completions; unused where the pair was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    chosen: usize,
    rejected: usize,
}

/// One pair that was made.
pub struct Made {
    pub row: usize,
    pub choice: Choice,
    pub id: String,
    /// Index among the prompts.
    pub prompt: usize,
}

/// Completions and pairs of a row that were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub unusable: Unusable,
    /// Pairs that were not made, by reason.
    pub pairs: BTreeMap<&'static str, u64>,
}

impl Lost {
    pub fn pair(&mut self, reason: &'static str, n: u64) {
        if n > 0 {
            *self.pairs.entry(reason).or_default() += n;
        }
    }
}

/// Why a sound row gives no pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPair {
    /// One of [`reason`].
    pub reason: &'static str,
    pub field: &'static str,
    pub detail: String,
}

impl NoPair {
    fn new(reason: &'static str, field: &'static str, detail: impl Into<String>) -> NoPair {
        NoPair { reason, field, detail: detail.into() }
    }
}

/// The responses of a batch.
#[allow(clippy::large_enum_variant, reason = "one for a whole batch of rows")]
pub enum Candidates {
    /// Scored completions.
    Scored {
        lists: ListOfStructs,
        // The fields of all lists, flat.
        responses: StringChunked,
        scores: Float64Chunked,
        models: StringChunked,
    },
    /// Pairs as they came.
    Given(GivenPairs),
}

/// Responses that came as pairs.
pub struct GivenPairs {
    chosen: MessageColumn,
    rejected: MessageColumn,
    /// `score_chosen` and `score_rejected`.
    scores: [Float64Chunked; 2],
    /// `chosen_model` and `rejected_model`.
    models: [Column; 2],
}

impl Candidates {
    /// Opens the columns of a batch.
    pub fn open(frame: &DataFrame) -> Result<Candidates> {
        if let Ok(column) = frame.column(col::COMPLETIONS) {
            let lists = ListOfStructs::open(column)?;
            let responses = lists.field(col::RESPONSE)?.str()?.clone();
            let scores = lists.field(col::SCORE)?.f64()?.clone();
            let models = lists.field(col::MODEL)?.str()?.clone();
            return Ok(Candidates::Scored { lists, responses, scores, models });
        }
        Ok(Candidates::Given(GivenPairs {
            chosen: MessageColumn::open(frame.column(col::CHOSEN)?)?,
            rejected: MessageColumn::open(frame.column(col::REJECTED)?)?,
            scores: [
                frame.column(col::SCORE_CHOSEN)?.f64()?.clone(),
                frame.column(col::SCORE_REJECTED)?.f64()?.clone(),
            ],
            models: [frame.column(col::CHOSEN_MODEL)?.clone(), frame.column(col::REJECTED_MODEL)?.clone()],
        }))
    }

    /// Whether the pairs came as pairs.
    pub fn are_given(&self) -> bool {
        matches!(self, Candidates::Given(_))
    }

    /// All rows by their scores.
    pub fn scored(&self, rows: usize) -> Scored {
        match self {
            Candidates::Scored { .. } => Scored { completions: rows as u64, ..Scored::default() },
            Candidates::Given(given) => {
                let [chosen, rejected] = &given.scores;
                let both = (0..rows).filter(|i| chosen.get(*i).is_some() && rejected.get(*i).is_some()).count() as u64;
                Scored { pairs: both, bare: rows as u64 - both, ..Scored::default() }
            }
        }
    }

    /// Chooses the two sides of every pair of row `i` (at least one), and counts what was left out.
    pub fn choose(
        &self,
        i: usize,
        config: &PairConfig,
        normalized: &str,
        seed: Seed,
    ) -> (std::result::Result<Vec<Choice>, NoPair>, Lost) {
        let mut lost = Lost::default();
        match self {
            Candidates::Given(given) => (check_given(given, i, config).map(|choice| vec![choice]), lost),
            Candidates::Scored { lists, responses, scores, models } => {
                let mut usable = Vec::with_capacity(lists.range(i).len());
                for at in lists.range(i) {
                    let response = responses.get(at).unwrap_or("");
                    match scores.get(at) {
                        _ if response.trim().is_empty() => lost.unusable.empty_response += 1,
                        None => lost.unusable.unrated += 1,
                        Some(score) => {
                            usable.push(Candidate { at, response, score, model: models.get(at).unwrap_or("") })
                        }
                    }
                }
                let chooser = Chooser { listed: lists.range(i).len(), config, normalized, seed };
                (chooser.choose(usable, &mut lost), lost)
            }
        }
    }

    /// Messages of the chosen side.
    pub fn chosen(&self, i: usize, choice: Choice) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.side(i, choice.chosen, |given| &given.chosen)
    }

    /// Messages of the rejected side.
    pub fn rejected(&self, i: usize, choice: Choice) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.side(i, choice.rejected, |given| &given.rejected)
    }

    fn side(
        &self,
        i: usize,
        at: usize,
        of: impl Fn(&GivenPairs) -> &MessageColumn,
    ) -> impl ExactSizeIterator<Item = (&str, &str)> {
        match self {
            Candidates::Scored { responses, .. } => {
                Either::Left(std::iter::once((ASSISTANT, responses.get(at).unwrap_or(""))))
            }
            Candidates::Given(given) => Either::Right(of(given).row(i)),
        }
    }

    /// Chosen minus rejected score, where both are known.
    pub fn margin(&self, i: usize, choice: Choice) -> Option<f64> {
        match self {
            Candidates::Scored { scores, .. } => Some(scores.get(choice.chosen)? - scores.get(choice.rejected)?),
            Candidates::Given(given) => Some(given.scores[0].get(i)? - given.scores[1].get(i)?),
        }
    }

    /// Order of two choices by models and scores, for pairs of the same texts.
    pub fn compare(&self, a: Choice, b: Choice) -> Ordering {
        let Candidates::Scored { scores, models, .. } = self else { return Ordering::Equal };
        let texts = |c: Choice| [models.get(c.chosen), models.get(c.rejected)];
        let numbers = |c: Choice| [scores.get(c.chosen), scores.get(c.rejected)].map(Option::unwrap_or_default);
        let [a_chosen, a_rejected] = numbers(a);
        let [b_chosen, b_rejected] = numbers(b);
        texts(a)
            .cmp(&texts(b))
            .then_with(|| a_chosen.total_cmp(&b_chosen))
            .then_with(|| a_rejected.total_cmp(&b_rejected))
    }

    /// The columns `score_chosen`, `score_rejected`, `chosen_model`, `rejected_model` of the pairs made.
    pub(super) fn facts(&self, made: &[Made]) -> Result<[Column; 4]> {
        let named = [col::SCORE_CHOSEN, col::SCORE_REJECTED, col::CHOSEN_MODEL, col::REJECTED_MODEL];
        let columns = match self {
            Candidates::Scored { scores, models, .. } => {
                let chosen: Vec<IdxSize> = made.iter().map(|m| m.choice.chosen as IdxSize).collect();
                let rejected: Vec<IdxSize> = made.iter().map(|m| m.choice.rejected as IdxSize).collect();
                let (scores, models) = (scores.clone().into_column(), models.clone().into_column());
                [
                    scores.take_slice(&chosen)?,
                    scores.take_slice(&rejected)?,
                    models.take_slice(&chosen)?,
                    models.take_slice(&rejected)?,
                ]
            }
            Candidates::Given(given) => {
                let rows: Vec<IdxSize> = made.iter().map(|m| m.row as IdxSize).collect();
                let [a, b] = given.scores.clone().map(IntoColumn::into_column);
                let [c, d] = &given.models;
                [a.take_slice(&rows)?, b.take_slice(&rows)?, c.take_slice(&rows)?, d.take_slice(&rows)?]
            }
        };
        let mut named = named.into_iter();
        Ok(columns.map(|c| c.with_name(named.next().unwrap_or_default().into())))
    }
}

/// Refuses a given pair without a preference in it. Its label is given: a tie of scores or a small margin
/// matters only where the settings say so.
fn check_given(given: &GivenPairs, i: usize, config: &PairConfig) -> std::result::Result<Choice, NoPair> {
    for (name, side) in [(col::CHOSEN, &given.chosen), (col::REJECTED, &given.rejected)] {
        if side.row(i).all(|(_, content)| content.trim().is_empty()) {
            return Err(NoPair::new(reason::EMPTY_RESPONSE, name, "the response is empty"));
        }
    }
    if given.chosen.row(i).eq(given.rejected.row(i)) {
        return Err(NoPair::new(reason::IDENTICAL_RESPONSES, col::REJECTED, "the same text as chosen"));
    }
    if let (Some(chosen), Some(rejected)) = (given.scores[0].get(i), given.scores[1].get(i))
        && config.min_margin > 0.0
        && !reaches(chosen, rejected, config)
    {
        if chosen < rejected {
            let detail = format!(
                "the score {chosen} of chosen is below {rejected}, that of rejected (--min-margin {})",
                config.min_margin
            );
            return Err(NoPair::new(reason::SMALL_MARGIN, col::SCORE_REJECTED, detail));
        }
        return Err(too_close(col::SCORE_REJECTED, chosen, rejected, config));
    }
    Ok(Choice { chosen: i, rejected: i })
}

/// Whether the difference of two scores is at least `min_margin`.
fn reaches(chosen: f64, rejected: f64, config: &PairConfig) -> bool {
    chosen - rejected >= config.min_margin
}

fn too_close(field: &'static str, chosen: f64, rejected: f64, config: &PairConfig) -> NoPair {
    let least = config.min_margin;
    let detail = format!("the scores {chosen} and {rejected} are closer than --min-margin {least}");
    NoPair::new(reason::SMALL_MARGIN, field, detail)
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    at: usize,
    response: &'a str,
    score: f64,
    model: &'a str,
}

/// Order among equals: by content, so that the position in the list does not matter. The score is part of it because
/// one model's text may be listed twice with different scores.
type Key<'a> = ([u8; 32], &'a str, u64);

impl<'a> Candidate<'a> {
    fn key(&self) -> Key<'a> {
        (*blake3::hash(self.response.as_bytes()).as_bytes(), self.model, self.score.to_bits())
    }
}

/// Chooses among one prompt's completions.
struct Chooser<'a> {
    /// Completions of the row, usable or not.
    listed: usize,
    config: &'a PairConfig,
    normalized: &'a str,
    seed: Seed,
}

impl Chooser<'_> {
    fn choose(&self, usable: Vec<Candidate<'_>>, lost: &mut Lost) -> std::result::Result<Vec<Choice>, NoPair> {
        let drop = |reason, detail: String| Err(NoPair::new(reason, col::COMPLETIONS, detail));
        if usable.len() < 2 {
            let (n, listed) = (usable.len(), self.listed);
            let detail = format!("{n} of {listed} completions have a response and a score; 2 are needed");
            return drop(reason::TOO_FEW_COMPLETIONS, detail);
        }
        let first = usable[0].score;
        if self.config.ties != Ties::Break && usable.iter().all(|c| c.score == first) {
            return drop(reason::ALL_TIED, format!("all completions have the score {first}"));
        }
        match self.config.rule {
            PairRule::AllPairs if usable.len() > MOST_FOR_ALL_PAIRS => drop(
                reason::TOO_MANY_COMPLETIONS,
                format!("{} completions; all-pairs takes up to {MOST_FOR_ALL_PAIRS}", usable.len()),
            ),
            PairRule::AllPairs => self.all_pairs(usable, lost),
            _ => self.against_best(usable, lost),
        }
    }

    /// Pairs of the best completion with one or all of the others, as the rule says.
    fn against_best(&self, usable: Vec<Candidate<'_>>, lost: &mut Lost) -> std::result::Result<Vec<Choice>, NoPair> {
        let (config, refuse) = (self.config, |reason, detail: &str| NoPair::new(reason, col::COMPLETIONS, detail));
        let highest = usable.iter().map(|c| c.score).fold(f64::NEG_INFINITY, f64::max);
        let top: Vec<_> = usable.iter().filter(|c| c.score == highest).copied().collect();
        let best = match config.ties {
            Ties::Break => self.ranked(top).into_iter().next(),
            Ties::Drop => first(top),
        };
        let Some(best) = best else {
            return Err(refuse(reason::TOO_FEW_COMPLETIONS, "no completion has a score that can be compared"));
        };
        let others: Vec<_> = usable.into_iter().filter(|c| c.at != best.at && c.response != best.response).collect();
        let count = others.len();
        let rivals: Vec<_> = match config.ties {
            Ties::Break => others,
            Ties::Drop => others.into_iter().filter(|c| c.score < highest).collect(),
        };
        let tied = count - rivals.len();
        let Some(lowest) = rivals.iter().map(|c| c.score).min_by(f64::total_cmp) else {
            let words = "all completions with a lower score have the best one's text";
            return Err(refuse(reason::IDENTICAL_RESPONSES, words));
        };
        if !reaches(highest, lowest, config) {
            return Err(too_close(col::COMPLETIONS, highest, lowest, config));
        }
        let count = rivals.len();
        let wide: Vec<_> = rivals.into_iter().filter(|c| reaches(highest, c.score, config)).collect();
        let rejected = match config.rule {
            PairRule::BestVsWorst => {
                first(wide.into_iter().filter(|c| c.score == lowest).collect()).into_iter().collect()
            }
            PairRule::BestVsRandom => self.random(wide).into_iter().collect(),
            // The rules above ask for one pair; here every completion that is passed over is a pair not made.
            PairRule::BestVsEach | PairRule::AllPairs => {
                lost.pair(reason::TIED_SCORES, tied as u64);
                lost.pair(reason::SMALL_MARGIN, (count - wide.len()) as u64);
                wide
            }
        };
        Ok(rejected.into_iter().map(|c| Choice { chosen: best.at, rejected: c.at }).collect())
    }

    /// Pairs of every two completions.
    fn all_pairs(&self, usable: Vec<Candidate<'_>>, lost: &mut Lost) -> std::result::Result<Vec<Choice>, NoPair> {
        let config = self.config;
        let ranked = self.ranked(usable);
        let (mut choices, mut widest) = (Vec::new(), None);
        for (i, better) in ranked.iter().enumerate() {
            for worse in &ranked[i + 1..] {
                if better.response == worse.response {
                    lost.pair(reason::IDENTICAL_RESPONSES, 1);
                } else if better.score == worse.score && config.ties != Ties::Break {
                    lost.pair(reason::TIED_SCORES, 1);
                } else if !reaches(better.score, worse.score, config) {
                    lost.pair(reason::SMALL_MARGIN, 1);
                    if widest.is_none_or(|(high, low)| better.score - worse.score > high - low) {
                        widest = Some((better.score, worse.score));
                    }
                } else {
                    choices.push(Choice { chosen: better.at, rejected: worse.at });
                }
            }
        }
        match widest {
            _ if !choices.is_empty() => Ok(choices),
            Some((high, low)) => Err(too_close(col::COMPLETIONS, high, low, config)),
            None => {
                let words = "all completions with different scores have the same text";
                Err(NoPair::new(reason::IDENTICAL_RESPONSES, col::COMPLETIONS, words))
            }
        }
    }

    /// Best first; among equal scores by a hash of (seed, prompt, response), so that the same text does not
    /// win everywhere.
    fn ranked<'c>(&self, candidates: Vec<Candidate<'c>>) -> Vec<Candidate<'c>> {
        let word = |c: &Candidate<'_>| self.seed.word("tie", &format!("{}\0{}", self.normalized, c.response));
        let mut keyed: Vec<_> = candidates.into_iter().map(|c| (word(&c), c.key(), c)).collect();
        keyed.sort_by(|a, b| b.2.score.total_cmp(&a.2.score).then_with(|| (a.0, &a.1).cmp(&(b.0, &b.1))));
        keyed.into_iter().map(|(_, _, c)| c).collect()
    }

    fn random<'c>(&self, mut from: Vec<Candidate<'c>>) -> Option<Candidate<'c>> {
        from.sort_by_cached_key(|c| c.key());
        let n = from.len();
        (n > 0).then(|| from.swap_remove(self.seed.index("pair-pick", self.normalized, n)))
    }
}

/// The candidate with the smallest content hash.
fn first(candidates: Vec<Candidate<'_>>) -> Option<Candidate<'_>> {
    if candidates.len() < 2 {
        return candidates.into_iter().next();
    }
    candidates.into_iter().min_by(|a, b| a.key().cmp(&b.key()))
}
