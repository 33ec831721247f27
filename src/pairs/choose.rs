//! Choosing the two sides of a pair among scored completions.

use polars::prelude::*;

use super::{PairRule, Unusable, answer};
use crate::error::Result;
use crate::message::MessageColumn;
use crate::nested::ListOfStructs;
use crate::rejects::reason;
use crate::schema::col;
use crate::seed::Seed;

/// The two sides of row's pair: flat indices of completions; unused where the pair was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    chosen: usize,
    rejected: usize,
}

/// Why a sound row gives no pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`reason`].
    pub reason: &'static str,
    /// The field.
    pub field: &'static str,
    /// In words.
    pub detail: String,
}

impl Refusal {
    fn new(reason: &'static str, field: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { reason, field, detail: detail.into() }
    }
}

/// The responses of a batch.
#[allow(clippy::large_enum_variant, reason = "one for a whole batch of rows")]
pub enum Candidates {
    /// Scored completions.
    Scored {
        /// Rows.
        lists: ListOfStructs,
        /// Flat.
        responses: StringChunked,
        /// Flat.
        scores: Float64Chunked,
        /// Flat.
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

/// Messages of one side, whichever the kind.
#[derive(Clone)]
pub enum SideMessages<'a, I> {
    /// One text.
    Text(std::iter::Once<(&'a str, &'a str)>),
    /// A message list.
    List(I),
}

impl<'a, I: Iterator<Item = (&'a str, &'a str)>> Iterator for SideMessages<'a, I> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            SideMessages::Text(one) => one.next(),
            SideMessages::List(list) => list.next(),
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            SideMessages::Text(one) => one.size_hint(),
            SideMessages::List(list) => list.size_hint(),
        }
    }
}

impl<'a, I: ExactSizeIterator<Item = (&'a str, &'a str)>> ExactSizeIterator for SideMessages<'a, I> {}

impl Candidates {
    /// Opens the columns of a batch.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where one is missing.
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

    /// Chooses the two sides of row `i`, and counts the completions that took no part.
    pub fn choose(
        &self,
        i: usize,
        rule: PairRule,
        normalized: &str,
        seed: Seed,
    ) -> (std::result::Result<Choice, Refusal>, Unusable) {
        match self {
            Candidates::Given(given) => (check_given(&given.chosen, &given.rejected, i), Unusable::default()),
            Candidates::Scored { lists, responses, scores, models } => {
                let mut unusable = Unusable::default();
                let mut usable = Vec::with_capacity(lists.range(i).len());
                for at in lists.range(i) {
                    let response = responses.get(at).unwrap_or("");
                    match scores.get(at) {
                        _ if response.trim().is_empty() => unusable.empty_response += 1,
                        None => unusable.unrated += 1,
                        Some(score) => {
                            usable.push(Candidate { at, response, score, model: models.get(at).unwrap_or("") })
                        }
                    }
                }
                (choose_scored(usable, lists.range(i).len(), rule, normalized, seed), unusable)
            }
        }
    }

    /// Messages of the chosen side.
    pub fn chosen(&self, i: usize, choice: Choice) -> impl ExactSizeIterator<Item = (&str, &str)> {
        match self {
            Candidates::Scored { responses, .. } => {
                SideMessages::Text(std::iter::once(answer(responses.get(choice.chosen).unwrap_or(""))))
            }
            Candidates::Given(given) => SideMessages::List(given.chosen.row(i)),
        }
    }

    /// Messages of the rejected side.
    pub fn rejected(&self, i: usize, choice: Choice) -> impl ExactSizeIterator<Item = (&str, &str)> {
        match self {
            Candidates::Scored { responses, .. } => {
                SideMessages::Text(std::iter::once(answer(responses.get(choice.rejected).unwrap_or(""))))
            }
            Candidates::Given(given) => SideMessages::List(given.rejected.row(i)),
        }
    }

    /// Chosen minus rejected score, where both are known.
    pub fn margin(&self, i: usize, choice: Choice) -> Option<f64> {
        match self {
            Candidates::Scored { scores, .. } => Some(scores.get(choice.chosen)? - scores.get(choice.rejected)?),
            Candidates::Given(given) => Some(given.scores[0].get(i)? - given.scores[1].get(i)?),
        }
    }

    /// The columns `score_chosen`, `score_rejected`, `chosen_model`, `rejected_model` of the kept rows.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn facts<T>(&self, kept: &[(usize, Choice, T)]) -> Result<[Column; 4]> {
        let named = [col::SCORE_CHOSEN, col::SCORE_REJECTED, col::CHOSEN_MODEL, col::REJECTED_MODEL];
        let columns = match self {
            Candidates::Scored { scores, models, .. } => {
                let chosen: Vec<IdxSize> = kept.iter().map(|k| k.1.chosen as IdxSize).collect();
                let rejected: Vec<IdxSize> = kept.iter().map(|k| k.1.rejected as IdxSize).collect();
                let (scores, models) = (scores.clone().into_column(), models.clone().into_column());
                [
                    scores.take_slice(&chosen)?,
                    scores.take_slice(&rejected)?,
                    models.take_slice(&chosen)?,
                    models.take_slice(&rejected)?,
                ]
            }
            Candidates::Given(given) => {
                let rows: Vec<IdxSize> = kept.iter().map(|k| k.0 as IdxSize).collect();
                let [a, b] = given.scores.clone().map(IntoColumn::into_column);
                let [c, d] = &given.models;
                [a.take_slice(&rows)?, b.take_slice(&rows)?, c.take_slice(&rows)?, d.take_slice(&rows)?]
            }
        };
        let mut named = named.into_iter();
        Ok(columns.map(|c| c.with_name(named.next().unwrap_or_default().into())))
    }
}

/// Refuses a given pair without a preference in it; a tie of scores is none of our business,
/// because the label is given.
fn check_given(chosen: &MessageColumn, rejected: &MessageColumn, i: usize) -> std::result::Result<Choice, Refusal> {
    for (name, side) in [(col::CHOSEN, chosen), (col::REJECTED, rejected)] {
        if side.row(i).all(|(_, content)| content.trim().is_empty()) {
            return Err(Refusal::new(reason::EMPTY_RESPONSE, name, "the response is empty"));
        }
    }
    if chosen.row(i).eq(rejected.row(i)) {
        return Err(Refusal::new(reason::IDENTICAL_RESPONSES, col::REJECTED, "the same text as chosen"));
    }
    Ok(Choice { chosen: i, rejected: i })
}

struct Candidate<'a> {
    at: usize,
    response: &'a str,
    score: f64,
    model: &'a str,
}

impl Candidate<'_> {
    /// Order among equals: by content, so that the place in the list does not matter. The score comes in
    /// because one model's text may be listed twice with different scores.
    fn key(&self) -> ([u8; 32], &str, u64) {
        (*blake3::hash(self.response.as_bytes()).as_bytes(), self.model, self.score.to_bits())
    }
}

fn choose_scored(
    usable: Vec<Candidate<'_>>,
    listed: usize,
    rule: PairRule,
    normalized: &str,
    seed: Seed,
) -> std::result::Result<Choice, Refusal> {
    let drop = |reason, detail: String| Err(Refusal::new(reason, col::COMPLETIONS, detail));
    if usable.len() < 2 {
        let detail = format!("{} of {listed} completions have a response and a score; 2 are needed", usable.len());
        return drop(reason::TOO_FEW_COMPLETIONS, detail);
    }
    let highest = usable.iter().map(|c| c.score).fold(f64::NEG_INFINITY, f64::max);
    let (best, rest): (Vec<_>, Vec<_>) = usable.into_iter().partition(|c| c.score == highest);
    let Some(chosen) = first(best) else {
        return drop(reason::TOO_FEW_COMPLETIONS, "no completion has a score".into());
    };
    if rest.is_empty() {
        return drop(reason::ALL_TIED, format!("all completions have the score {highest}"));
    }
    let mut others: Vec<_> = rest.into_iter().filter(|c| c.response != chosen.response).collect();
    let rejected = match rule {
        PairRule::BestVsRandom => {
            others.sort_by_cached_key(|c| {
                let (hash, model, score) = c.key();
                (hash, model.to_string(), score)
            });
            let n = others.len();
            (n > 0).then(|| others.swap_remove(seed.index("pair-pick", normalized, n)))
        }
        PairRule::BestVsWorst => {
            let lowest = others.iter().map(|c| c.score).fold(f64::INFINITY, f64::min);
            first(others.into_iter().filter(|c| c.score == lowest).collect())
        }
    };
    match rejected {
        Some(rejected) => Ok(Choice { chosen: chosen.at, rejected: rejected.at }),
        None => drop(reason::IDENTICAL_RESPONSES, "all completions with a lower score have the best one's text".into()),
    }
}

/// The candidate with the smallest content hash.
fn first(candidates: Vec<Candidate<'_>>) -> Option<Candidate<'_>> {
    if candidates.len() < 2 {
        return candidates.into_iter().next();
    }
    candidates.into_iter().min_by(|a, b| a.key().cmp(&b.key()))
}
