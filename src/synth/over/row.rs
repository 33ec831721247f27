//! One prompt with real responses and its planted preferences, a pure function of (seed, configuration, texts).

use super::Texts;
use super::traits::{ALL_ASPECTS, ASPECTS, Measure, TRAITS, TextCounts, Trait, Way};
use crate::rejects::reason;
use crate::seed::Seed;
use crate::synth::SynthConfig;
use crate::synth::row::{LEAST_TEMPERATURE, draw, gumbel, overall, text_hash};
use crate::synth::world::ANNOTATORS_EACH;

/// A planted preference: the trait by which responses are judged, and what of it is liked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liked {
    /// Index into [`PlantingPlan::traits`].
    pub trait_: usize,
    pub way: &'static Way,
}

/// What all rows have in common.
#[derive(Debug)]
pub(super) struct PlantingPlan {
    pub traits: Vec<&'static Trait>,
    /// The preferences, by id.
    pub preferences: Vec<Liked>,
    /// Temperature of the annotators.
    pub temperature: f64,
    shown_fraction: f64,
    judgements: usize,
    test_fraction: f64,
    seed: Seed,
}

impl PlantingPlan {
    /// The plan of a valid configuration.
    pub fn new(config: &SynthConfig, seed: Seed) -> PlantingPlan {
        let named = config.traits.iter().filter_map(|name| find(name));
        let traits: Vec<&Trait> = match config.traits.as_slice() {
            [] => TRAITS.iter().take(config.factors).collect(),
            [all] if all == ALL_ASPECTS => ASPECTS.iter().collect(),
            _ => named.collect(),
        };
        let preferences = traits.iter().enumerate();
        let preferences = preferences.flat_map(|(trait_, t)| t.ways.iter().map(move |way| Liked { trait_, way }));
        // Ratings are judgements already: chance decides only between equal ones.
        let rated = traits.iter().any(|t| matches!(t.measure, Measure::Rating));
        let temperature = if rated { LEAST_TEMPERATURE } else { config.noise.max(LEAST_TEMPERATURE) };
        PlantingPlan {
            preferences: preferences.collect(),
            traits,
            temperature,
            shown_fraction: config.shown_fraction,
            judgements: config.judgements,
            test_fraction: config.test_fraction,
            seed,
        }
    }

    /// Names of the preferences by id, written `trait=way`.
    pub fn names(&self) -> Vec<String> {
        self.preferences.iter().map(|p| format!("{}={}", self.traits[p.trait_].name, p.way.name)).collect()
    }

    /// The probability of every preference in a source: uniform over all distributions (a flat Dirichlet), drawn
    /// for each source and preference from the seed and their names alone.
    pub fn weights(&self, source: &str) -> Vec<f64> {
        let draw = |name: String| -self.seed.unit("over weight", &format!("{source}\0{name}")).max(1e-12).ln();
        normalized(self.names().into_iter().map(draw).collect())
    }
}

/// A trait or an aspect by name.
pub(super) fn find(name: &str) -> Option<&'static Trait> {
    TRAITS.iter().chain(&ASPECTS).find(|t| t.name == name)
}

/// A prompt with its planted preference.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planted {
    pub source: String,
    /// The prompt; where `shown`, with the sentence that asks for the preference.
    pub instruction: String,
    /// Whether the prompt asks for what decides.
    pub shown: bool,
    pub preference: usize,
    /// The annotator who decided, where the prompt does not ask for the preference.
    pub annotator: Option<u32>,
    /// The responses, by hash: the order says nothing about labels that the input had.
    pub answers: Vec<Answer>,
    /// Probability of every preference in the source.
    pub prior: Vec<f64>,
    /// Probability of every preference here: in the source, of those whose trait differs enough here.
    pub possible: Vec<f64>,
    /// By trait: whether it differs enough here.
    pub varies: Vec<bool>,
    /// Whether all judgements of this prompt belong to the test split, where the corpus has splits.
    pub held_out: bool,
}

/// One response.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub model: Option<String>,
    pub text: String,
    pub hash: u64,
    /// Value of every trait.
    pub values: Vec<f64>,
    /// Utility for every preference, 0 to 1 (ratings outside of 1 to 5: beyond).
    pub utilities: Vec<f64>,
    pub score: f64,
}

/// Counts of responses that were left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Unused {
    /// Responses without a text.
    pub empty: u64,
    /// Responses that equal another one of the same prompt, up to white space around it.
    pub equal: u64,
    /// Responses without a rating of an aspect that is in use.
    pub unrated: u64,
}

/// Why a prompt is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlanted {
    /// One of [`reason`].
    pub reason: &'static str,
    /// The reason in words, with numbers.
    pub detail: String,
}

impl PlantingPlan {
    /// Plants the preferences of a prompt, one row for each judgement; at least one.
    pub fn plant(&self, texts: Texts) -> (Unused, Result<Vec<Planted>, NotPlanted>) {
        let mut unused = Unused::default();
        let prompt = texts.prompt;
        let answers = self.answers(&prompt, texts.responses, &mut unused);
        if answers.len() < 2 {
            let n = answers.len();
            let detail = format!("{n} of two different responses that are needed");
            return (unused, Err(NotPlanted { reason: reason::TOO_FEW_COMPLETIONS, detail }));
        }
        let varies: Vec<bool> =
            (0..self.traits.len()).map(|t| self.traits[t].least.is_met(answers.iter().map(|a| a.values[t]))).collect();
        let prior = self.weights(&texts.source);
        let open = |(p, liked): (&f64, &Liked)| if varies[liked.trait_] { *p } else { 0.0 };
        let possible: Vec<f64> = prior.iter().zip(&self.preferences).map(open).collect();
        if possible.iter().sum::<f64>() <= 0.0 {
            let names: Vec<&str> = self.traits.iter().map(|t| t.name).collect();
            let detail = format!("the responses do not differ enough in any of {}", names.join(", "));
            return (unused, Err(NotPlanted { reason: reason::NO_VARYING_TRAIT, detail }));
        }
        let possible = normalized(possible);
        let base = Planted {
            source: texts.source,
            instruction: prompt,
            shown: false,
            preference: 0,
            annotator: None,
            answers,
            prior,
            possible,
            varies,
            held_out: false,
        };
        (unused, Ok(self.judgements(base)))
    }

    /// The judgements of a prompt: the first by a preference that is drawn from `possible`, and hidden or asked for; each
    /// further one by a preference that has not judged yet, and asked for, so that no prompt comes twice.
    fn judgements(&self, base: Planted) -> Vec<Planted> {
        let prompt = base.instruction.clone();
        let held_out = self.seed.unit("over split", &prompt) < self.test_fraction;
        let mut left = base.possible.clone();
        let mut rows = Vec::with_capacity(self.judgements);
        for n in 0..self.judgements {
            if left.iter().sum::<f64>() <= 0.0 {
                break;
            }
            // A corpus of one judgement for each prompt consists of the first judgements of any other.
            let key = if n == 0 { prompt.clone() } else { format!("{prompt}\0{n}") };
            let preference = draw(&normalized(left.clone()), self.seed.unit("over preference", &key));
            left[preference] = 0.0;
            let mut row = Planted { preference, held_out, ..base.clone() };
            self.judge(&mut row.answers, preference, &key);
            row.shown = n > 0 || self.seed.unit("over shown", &prompt) < self.shown_fraction;
            if row.shown {
                row.instruction = self.asking(&prompt, preference, &key);
            } else {
                let annotator = self.seed.index("over annotator", &prompt, ANNOTATORS_EACH);
                row.annotator = Some((annotator * self.preferences.len() + preference) as u32);
            }
            rows.push(row);
        }
        rows
    }

    /// The responses that are used, with their traits, in an order by hash.
    fn answers(&self, prompt: &str, mut responses: Vec<super::Response>, unused: &mut Unused) -> Vec<Answer> {
        let count = |n: usize, left: usize| (n - left) as u64;
        let n = responses.len();
        responses.retain(|r| !r.text.trim().is_empty());
        unused.empty = count(n, responses.len());
        let n = responses.len();
        responses.retain(|r| r.ratings.iter().all(Option::is_some));
        unused.unrated = count(n, responses.len());
        let n = responses.len();
        // Which of equal responses stays does not depend on their order.
        responses.sort_by(|a, b| {
            let texts = (a.text.trim(), &a.text, &a.model).cmp(&(b.text.trim(), &b.text, &b.model));
            texts.then(a.ratings.partial_cmp(&b.ratings).unwrap_or(std::cmp::Ordering::Equal))
        });
        responses.dedup_by(|a, b| a.text.trim() == b.text.trim());
        unused.equal = count(n, responses.len());
        let measure = |response: super::Response| {
            let counts = TextCounts::of(&response.text);
            let mut ratings = response.ratings.iter();
            let value = |t: &&'static Trait| match t.measure {
                Measure::Text(measure) => measure(&counts),
                Measure::Rating => ratings.next().copied().flatten().unwrap_or(f64::NAN),
            };
            let values = self.traits.iter().map(value).collect();
            let hash = text_hash(&response.text);
            let (model, text) = (response.model, response.text);
            Answer { model, text, hash, values, utilities: Vec::new(), score: 0.0 }
        };
        let mut answers: Vec<Answer> = responses.into_iter().map(measure).collect();
        answers.sort_by_key(|a| self.seed.word("over order", &format!("{prompt}\0{:016x}", a.hash)));
        self.weigh(&mut answers);
        answers
    }

    /// Utilities of all responses for all preferences.
    ///
    /// A trait of the text counts by its rank among the responses of the prompt: (r - 1) / (n - 1), r from 1 for
    /// the least of n, equal values with their mean rank. Ranks need no scale for each trait and no second look
    /// at the corpus, and a single odd response does not push all others together. A rating counts as
    /// (rating - 1) / 4.
    fn weigh(&self, answers: &mut [Answer]) {
        let steps = answers.len().saturating_sub(1).max(1) as f64;
        let utilities: Vec<Vec<f64>> = answers
            .iter()
            .map(|answer| {
                let utility = |liked: &Liked| {
                    let own = answer.values[liked.trait_];
                    let more = match self.traits[liked.trait_].measure {
                        Measure::Rating => (own - 1.0) / 4.0,
                        Measure::Text(_) => {
                            let others = answers.iter().map(|a| a.values[liked.trait_]);
                            let (below, equal) = others.fold((0.0, 0.0), |(below, equal), other| {
                                (below + f64::from(u8::from(other < own)), equal + f64::from(u8::from(other == own)))
                            });
                            // The response itself is among the equal ones.
                            (below + (equal - 1.0) / 2.0) / steps
                        }
                    };
                    if liked.way.more { more } else { 1.0 - more }
                };
                self.preferences.iter().map(utility).collect()
            })
            .collect();
        answers.iter_mut().zip(utilities).for_each(|(answer, utilities)| answer.utilities = utilities);
    }

    /// Scores of a Bradley-Terry annotator with this preference; `key` names the judgement.
    fn judge(&self, answers: &mut [Answer], preference: usize, key: &str) {
        for answer in answers {
            let unit = self.seed.unit("over score", &format!("{key}\0{}", answer.text));
            answer.score = overall(answer.utilities[preference] + self.temperature * gumbel(unit), self.temperature);
        }
    }

    /// The prompt with a sentence that asks for the preference, before or behind it; `key` names the judgement.
    fn asking(&self, prompt: &str, preference: usize, key: &str) -> String {
        let asks = self.preferences[preference].way.asks;
        let ask = asks[self.seed.index("over wording", key, asks.len())];
        // A prompt of several lines keeps its own; a prompt of one stays one.
        let gap = if prompt.trim().contains('\n') { "\n\n" } else { " " };
        match self.seed.index("over place", key, 2) {
            0 => format!("{ask}{gap}{}", prompt.trim_start()),
            _ => format!("{}{gap}{ask}", prompt.trim_end()),
        }
    }
}

fn normalized(weights: Vec<f64>) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}
