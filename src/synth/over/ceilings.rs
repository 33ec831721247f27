//! Ceilings of planted preferences over real texts: what the best possible method would reach.
//!
//! # The annotators' own posterior
//! Let z be the preference, x the prompt, R its responses and (a, b) an ordered pair of them, a preferred.
//! - p(z | x, R) is certain where the prompt shows z, else the source's weights on those z whose trait differs
//!   enough within R: both are in the truth.
//! - Scores are utilities plus Gumbel noise, so with w_i = exp(u_i(z) / T) the annotator's order is that of
//!   Plackett and Luce, and p(a, b | R, z) follows from the rule by which the pair was chosen:
//!   the best and any other one, w_a / sum w; the best and the worst, p(a first, b last); any two,
//!   w_a / (w_a + w_b). The scores of all pairs at hand show which of these rules made the pairs. (Other choices of
//!   pairs, such as a least margin, are not taken into account.)
//!
//! Hence p(z | x, R, a > b) is proportional to p(z | x, R) p(a, b | R, z), and the better bet follows as in
//! [`crate::synth::ceilings()`]. A method that sees only the pair knows less of R, so that none is better than these
//! ceilings on average.
//!
//! The best code from the prompt is the source's most probable preference over all of its prompts. A little more could
//! be known from prompts that tell in which traits their responses will differ.

use std::collections::{HashMap, HashSet};

use polars::prelude::*;

use crate::error::{Error, Result};
use crate::schema::col;
use crate::synth::ceilings::{
    CeilingRow, Ceilings, Matched, Observed, PosteriorScope, argmax, bet, label_codes, mixed,
};
use crate::synth::emit::truth;

/// The truth about one prompt.
struct Truth {
    source: String,
    shown: bool,
    factor: u32,
    preference: u32,
    possible: Vec<f64>,
    temperature: f64,
    /// By hash: index of the response.
    answers: HashMap<u64, usize>,
    scores: Vec<f64>,
    /// Response after response, by preference.
    utilities: Vec<f64>,
}

/// A pair with the indices of its responses.
type Pair<'a> = Matched<'a, Truth, usize>;

/// How the two sides of pairs were chosen by their scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The best against any other one.
    Best,
    /// The best against the worst.
    BestWorst,
    /// Any two.
    Any,
}

/// Computes the ceilings for prepared pairs of a corpus over real texts.
///
/// # Errors
/// As [`crate::synth::ceilings()`].
pub(in crate::synth) fn ceilings(truth: &DataFrame, observed: &Observed, evidence: PosteriorScope) -> Result<Ceilings> {
    let (table, by_source) = read(truth)?;
    let matched = observed.matched(&table, |truth, hash| truth.answers.get(&hash).copied());
    let choice = Choice::of(&matched);
    // Several pairs of one prompt are no product of their likelihoods given R: no ceiling is computed for them.
    let prompts: HashSet<*const Truth> = matched.iter().map(Matched::prompt).collect();
    let single = evidence == PosteriorScope::Pair || prompts.len() == matched.len();
    let likelihood = |m: &Pair| -> Vec<f64> {
        let of = |z| {
            let weights = m.truth.weights(z);
            let (seen, turned) = (weights[m.chosen], weights[m.rejected]);
            mixed(observed.noise(m.row), seen, turned) / (seen + turned)
        };
        (0..m.truth.possible.len()).map(of).collect()
    };
    let label_codes = label_codes(&matched, evidence, Truth::given_prompt, likelihood);
    let rows = matched.iter().zip(label_codes).map(|(m, label_code)| {
        let Truth { shown, factor, preference, .. } = *m.truth;
        let seen = m.weigh(choice, m.chosen, m.rejected);
        let best = bet(&seen, &m.weigh(choice, m.rejected, m.chosen), m.flipped, observed.noise(m.row));
        let likely = by_source.get(&m.truth.source).copied().unwrap_or_default();
        let prior_code = if shown { preference } else { likely };
        let posterior_code = best.posterior_code.filter(|_| single);
        observed.named(m.row, CeilingRow { shown, factor, preference, prior_code, posterior_code, label_code, ..best })
    });
    let rows: Vec<CeilingRow> = rows.collect();
    Ok(Ceilings::of(rows, count_cells(&matched), observed.len()))
}

impl Pair<'_> {
    /// p(z | x, R) p(first, second | R, z) by preference.
    fn weigh(&self, choice: Choice, first: usize, second: usize) -> Vec<f64> {
        let truth = self.truth;
        let likelihood = |z: usize| choice.likelihood(&truth.weights(z), first, second);
        truth.given_prompt().iter().enumerate().map(|(z, p)| if *p > 0.0 { p * likelihood(z) } else { 0.0 }).collect()
    }
}

impl Truth {
    /// p(z | x, R) by preference: certain where the prompt shows it.
    fn given_prompt(&self) -> Vec<f64> {
        let certain = |z: usize| f64::from(u8::from(z == self.preference as usize));
        if self.shown { (0..self.possible.len()).map(certain).collect() } else { self.possible.clone() }
    }

    /// w_i = exp(u_i(z) / T) of all responses for one preference, the largest 1.
    fn weights(&self, preference: usize) -> Vec<f64> {
        let utilities = self.utilities_for(preference);
        let top = utilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        utilities.iter().map(|u| ((u - top) / self.temperature).exp()).collect()
    }

    /// Utilities of all responses for one preference.
    fn utilities_for(&self, preference: usize) -> Vec<f64> {
        self.utilities.iter().skip(preference).step_by(self.possible.len()).copied().collect()
    }
}

impl Choice {
    /// The narrowest rule that all pairs follow. (With two responses to each prompt all rules are the same.)
    fn of(pairs: &[Pair<'_>]) -> Choice {
        let all = |keeps: &dyn Fn(&[f64], usize, usize) -> bool| {
            pairs.iter().all(|m| {
                let (better, worse) = m.clean();
                keeps(&m.truth.scores, better, worse)
            })
        };
        if !all(&|scores, better, _| scores.iter().all(|s| *s <= scores[better])) {
            Choice::Any
        } else if all(&|scores, _, worse| scores.iter().all(|s| *s >= scores[worse])) {
            Choice::BestWorst
        } else {
            Choice::Best
        }
    }

    /// p(first, second | R, z), up to a factor that is the same for all z and both orders.
    fn likelihood(self, weights: &[f64], first: usize, second: usize) -> f64 {
        let total: f64 = weights.iter().sum();
        match self {
            Choice::Best => weights[first] / total,
            Choice::Any => weights[first] / (weights[first] + weights[second]),
            Choice::BestWorst => {
                let others = weights.iter().enumerate().filter(|(i, _)| *i != first && *i != second);
                weights[first] / total * last(weights[second], others.map(|(_, w)| *w))
            }
        }
    }
}

/// Probability with which a response comes last, behind all others, in a Plackett-Luce order.
///
/// With exponential arrival times of rates w it is the integral of w_b exp(-w_b t) prod_i (1 - exp(-w_i t)) over
/// t > 0; with t = e^s / w_b the integrand falls off doubly exponentially on one side and exponentially on the
/// other, where the trapezoidal rule converges exponentially.
fn last(own: f64, others: impl Iterator<Item = f64>) -> f64 {
    const STEP: f64 = 0.1;
    let ratios: Vec<f64> = others.map(|w| w / own).collect();
    let integrand = |k: i32| {
        let t = (f64::from(k) * STEP).exp();
        ratios.iter().fold(t * (-t).exp(), |product, ratio| product * -(-ratio * t).exp_m1())
    };
    // Outside of this range the integrand is of the order of e^-40 (left) or exp(-e^4) (right), which is negligible.
    (-400..=40).map(integrand).sum::<f64>() * STEP
}

/// Shares of clean pairs by the utility for what decided: more in chosen, more in rejected, equal in the upper
/// half, equal in the lower half.
fn count_cells(matched: &[Pair<'_>]) -> [f64; 4] {
    let mut counts = [0.5; 4];
    for m in matched {
        let utilities = m.truth.utilities_for(m.truth.preference as usize);
        let (better, worse) = m.clean();
        let cell = match utilities[better].total_cmp(&utilities[worse]) {
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal if utilities[better] >= 0.5 => 2,
            std::cmp::Ordering::Equal => 3,
        };
        counts[cell] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    counts.map(|c| c / total)
}

/// The truth by prompt id, and each source's most probable preference over all of its prompts.
fn read(frame: &DataFrame) -> Result<(HashMap<String, Truth>, HashMap<String, u32>)> {
    let texts = |name: &str| -> Result<&StringChunked> { Ok(frame.column(name)?.str()?) };
    let lists = |name: &str| -> Result<&ListChunked> { Ok(frame.column(name)?.list()?) };
    let numbers = |name: &str| -> Result<&UInt32Chunked> { Ok(frame.column(name)?.u32()?) };
    let (prompts, sources) = (texts(col::PROMPT_ID)?, texts(col::SOURCE)?);
    let (factors, preferences) = (numbers(truth::FACTOR)?, numbers(truth::PREFERENCE)?);
    let shown = frame.column(truth::SHOWN)?.bool()?;
    let temperatures = frame.column(truth::TEMPERATURE)?.f64()?;
    let hashes = lists(truth::HASHES)?;
    let (scores, possible, utilities) = (lists(truth::SCORES)?, lists(truth::POSSIBLE)?, lists(truth::UTILITIES)?);
    let floats = |list: &ListChunked, row: usize| -> Option<Vec<f64>> {
        Some(list.get_as_series(row)?.f64().ok()?.iter().flatten().collect())
    };
    let mut table = HashMap::with_capacity(frame.height());
    let mut sums: HashMap<String, Vec<f64>> = HashMap::new();
    for row in 0..frame.height() {
        let get = || -> Option<(String, Truth)> {
            let hashes = hashes.get_as_series(row)?;
            let truth = Truth {
                source: sources.get(row)?.to_string(),
                shown: shown.get(row)?,
                factor: factors.get(row)?,
                preference: preferences.get(row)?,
                possible: floats(possible, row)?,
                temperature: temperatures.get(row)?,
                answers: hashes.u64().ok()?.iter().flatten().zip(0..).collect(),
                scores: floats(scores, row)?,
                utilities: floats(utilities, row)?,
            };
            let (n, many) = (truth.scores.len(), truth.possible.len());
            let whole = truth.utilities.len() == n * many
                && truth.answers.values().all(|i| *i < n)
                && (truth.preference as usize) < many
                && truth.temperature > 0.0;
            whole.then_some((prompts.get(row)?.to_string(), truth))
        };
        let (prompt, truth) = get().ok_or_else(|| {
            Error::run(format!("truth table, row {}: a value is missing, or does not fit the others", row + 1))
        })?;
        let sum = sums.entry(truth.source.clone()).or_insert_with(|| vec![0.0; truth.possible.len()]);
        sum.iter_mut().zip(&truth.possible).for_each(|(sum, p)| *sum += p);
        table.insert(prompt, truth);
    }
    Ok((table, sums.into_iter().map(|(source, sum)| (source, argmax(&sum))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn orders_are_those_of_plackett_and_luce() {
        // Weights 4, 2, 1. First: 4/7. Any two: 4/6. Last of (2, 1): 2/3 for the lighter.
        let weights = [4.0, 2.0, 1.0];
        assert!(close(Choice::Best.likelihood(&weights, 0, 1), 4.0 / 7.0));
        assert!(close(Choice::Any.likelihood(&weights, 0, 1), 4.0 / 6.0));
        assert!(close(Choice::BestWorst.likelihood(&weights, 0, 2), 4.0 / 7.0 * 2.0 / 3.0));
        assert!(close(Choice::BestWorst.likelihood(&weights, 2, 0), 1.0 / 7.0 * 2.0 / 6.0));
        // All ordered pairs of first and last are all there is, also with weights far apart.
        for weights in [vec![4.0, 2.0, 1.0], vec![1.0, 1.0], vec![1.0, 1e-20, 1e-5, 0.3, 1e-21]] {
            let n = weights.len();
            let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b);
            let sum: f64 = pairs.map(|(a, b)| Choice::BestWorst.likelihood(&weights, a, b)).sum();
            assert!(close(sum, 1.0), "{weights:?}: {sum}");
        }
    }

    fn truth(shown: bool) -> Truth {
        // Three responses, two preferences; utilities for the first 1, 0.5, 0, for the second 0, 0, 1.
        Truth {
            source: "a".into(),
            shown,
            factor: 1,
            preference: 1,
            possible: vec![0.75, 0.25],
            temperature: 1.0,
            answers: HashMap::new(),
            scores: vec![3.0, 2.0, 9.0],
            utilities: vec![1.0, 0.0, 0.5, 0.0, 0.0, 1.0],
        }
    }

    #[test]
    fn bets_by_hand() {
        let e = std::f64::consts::E;
        let hidden = truth(false);
        let pair = |truth, chosen, rejected, flipped| Matched { row: 0, truth, chosen, rejected, flipped };
        let m = pair(&hidden, 2, 0, false);
        // Any two: the first likes 0 over 2 with e : 1, the second 2 over 0 with e : 1.
        let seen = m.weigh(Choice::Any, 2, 0);
        assert!(close(seen[0], 0.75 / (1.0 + e)) && close(seen[1], 0.25 * e / (1.0 + e)));
        let best = bet(&seen, &m.weigh(Choice::Any, 0, 2), false, 0.0);
        // 0.75 + 0.25 e = 1.43 against 0.75 e + 0.25 = 2.29: the bet is wrong.
        assert_eq!((best.posterior_code, best.right), (Some(0), 0.0));
        assert!(close(best.expected, (0.75 * e + 0.25) / (1.0 + e)));
        // The best of three: 1 of e + sqrt(e) + 1 for the first, e of e + 2 for the second.
        let seen = m.weigh(Choice::Best, 2, 0);
        assert!(close(seen[0], 0.75 / (e + e.sqrt() + 1.0)) && close(seen[1], 0.25 * e / (e + 2.0)));
        // A prompt that shows the second leaves no doubt.
        let told = truth(true);
        let m = pair(&told, 2, 0, false);
        let best = bet(&m.weigh(Choice::Any, 2, 0), &m.weigh(Choice::Any, 0, 2), false, 0.0);
        assert_eq!((best.posterior_code, best.right), (Some(1), 1.0));
        assert!(close(best.expected, e / (1.0 + e)));
    }

    #[test]
    fn the_rule_is_read_off_the_scores() {
        let truth = truth(false);
        let pair = |chosen, rejected, flipped| Matched { row: 0, truth: &truth, chosen, rejected, flipped };
        // Scores 3, 2, 9: the best is 2, the worst 1.
        let worst = || pair(2, 1, false);
        assert_eq!(Choice::of(&[worst(), pair(1, 2, true)]), Choice::BestWorst);
        assert_eq!(Choice::of(&[worst(), pair(2, 0, false)]), Choice::Best);
        assert_eq!(Choice::of(&[worst(), pair(0, 1, false)]), Choice::Any);
        // The deciding preference likes 2 most; 0 and 1 are equal in the lower half.
        let cells = count_cells(&[worst(), pair(2, 0, false), pair(1, 0, false), pair(0, 2, false)]);
        assert_eq!(cells, [2.5, 1.5, 0.5, 1.5].map(|c: f64| c / 6.0));
    }
}
