//! The pairs that belong most to each code.

use std::collections::{BTreeMap, HashSet};

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::associations::CodeBy;
use super::prepared_pairs::PairTexts;
use super::tables::{flags, texts, weights};
use crate::error::Result;
use crate::schema::col;

/// Pairs of a code and a distribution, at most.
pub const PAIRS_OF_A_CODE: usize = 3;

/// A pair that belongs to a code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepresentativePair {
    /// Its id.
    pub id: String,
    /// Id of its prompt.
    pub prompt_id: String,
    /// Source tag.
    pub source: String,
    /// Split.
    pub split: String,
    /// Whether its label was flipped.
    pub flipped: bool,
    /// Probability of the code for this pair.
    pub weight: f64,
    /// The beginning of its texts; `None` where the prepared folder does not have them.
    pub texts: Option<PairTexts>,
}

/// The pairs whose distribution gives a code the most weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Representatives {
    /// The code.
    pub code: u32,
    /// Which distribution.
    pub by: CodeBy,
    /// At most [`PAIRS_OF_A_CODE`], the highest weight first, equal weights by id; no prompt twice, and no weight of 0.
    pub pairs: Vec<RepresentativePair>,
}

/// For each of the `codes` the pairs that represent it: those to which the prior, and those to which the posterior gives
/// the code the most weight. On one split; on all pairs where that has none. Without texts, which
/// [`Representatives::add_texts`] adds.
///
/// # Errors
/// As [`weights`] and [`texts`].
pub fn representatives(posteriors: &DataFrame, codes: &[u32], split: &str) -> Result<Vec<Representatives>> {
    let (ids, sources) = (texts(posteriors, col::ID)?, texts(posteriors, col::SOURCE)?);
    // Files of the first versions have no prompts: there every pair has its own.
    let prompts =
        if posteriors.column(col::PROMPT_ID).is_ok() { texts(posteriors, col::PROMPT_ID)? } else { ids.clone() };
    let (splits, flipped) = (texts(posteriors, col::SPLIT)?, flags(posteriors, col::FLIPPED)?);
    let mut rows: Vec<usize> = (0..ids.len()).filter(|&row| splits[row] == split).collect();
    if rows.is_empty() {
        rows = (0..ids.len()).collect();
    }
    let mut found = Vec::new();
    let distributions = CodeBy::BOTH.map(|by| (by, weights(posteriors, by.weights())));
    for (by, distribution) in distributions {
        let Some((all, k)) = distribution? else { continue };
        for &code in codes.iter().filter(|code| (**code as usize) < k) {
            let weight = |row: usize| all[row * k + code as usize];
            let pair = |row: usize| RepresentativePair {
                id: ids[row].clone(),
                prompt_id: prompts[row].clone(),
                source: sources[row].clone(),
                split: splits[row].clone(),
                flipped: flipped[row],
                weight: weight(row),
                texts: None,
            };
            let before = |a: usize, b: usize| weight(b).total_cmp(&weight(a)).then_with(|| ids[a].cmp(&ids[b])).is_lt();
            let given: Vec<usize> = rows.iter().copied().filter(|&row| weight(row) > 0.0).collect();
            let first = firsts(&given, before, |row| prompts[row].as_str());
            found.push(Representatives { code, by, pairs: first.into_iter().map(pair).collect() });
        }
    }
    found.sort_by_key(|found| codes.iter().position(|code| *code == found.code));
    Ok(found)
}

/// The first rows by an order, one of each prompt, at most [`PAIRS_OF_A_CODE`].
fn firsts<'a>(rows: &[usize], before: impl Fn(usize, usize) -> bool, prompt: impl Fn(usize) -> &'a str) -> Vec<usize> {
    let mut first: Vec<usize> = Vec::with_capacity(PAIRS_OF_A_CODE + 1);
    for &row in rows {
        if first.len() == PAIRS_OF_A_CODE && first.last().is_some_and(|&last| before(last, row)) {
            continue;
        }
        if let Some(at) = first.iter().position(|&other| prompt(other) == prompt(row)) {
            if before(first[at], row) {
                continue;
            }
            first.remove(at);
        }
        let at = first.iter().position(|&other| before(row, other)).unwrap_or(first.len());
        first.insert(at, row);
        first.truncate(PAIRS_OF_A_CODE);
    }
    first
}

impl Representatives {
    /// The ids of all pairs.
    pub fn ids(all: &[Representatives]) -> HashSet<&str> {
        all.iter().flat_map(|of| of.pairs.iter().map(|pair| pair.id.as_str())).collect()
    }

    /// Adds the texts that are there, by id.
    pub fn add_texts(all: &mut [Representatives], texts: &BTreeMap<String, PairTexts>) {
        for pair in all.iter_mut().flat_map(|of| &mut of.pairs) {
            pair.texts = texts.get(&pair.id).cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::lists;
    use super::*;

    #[test]
    fn the_heaviest_pairs_of_each_code_one_of_each_prompt() {
        let mut frame = df!(
            "id" => ["f", "e", "d", "c", "b", "a", "t"], "prompt_id" => ["1", "1", "2", "3", "4", "5", "9"],
            "source" => ["s"; 7], "flipped" => [false, true, false, false, false, false, false],
            "split" => ["test", "test", "test", "test", "test", "test", "train"],
        )
        .unwrap();
        let prior: [[f32; 2]; 7] =
            [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [1.0, 0.0]];
        frame.with_column(lists("prior", &prior)).unwrap();
        frame.with_column(lists("posterior", &[[0.0f32, 1.0]; 7])).unwrap();
        let found = representatives(&frame, &[1, 0, 7], "test").unwrap();
        let named: Vec<(u32, CodeBy, String)> =
            found.iter().map(|f| (f.code, f.by, f.pairs.iter().map(|p| p.id.as_str()).collect())).collect();
        // Code 0 by the prior: e, whose prompt has f too, then of the equal ones b and c; by the posterior no pair.
        let expected = [
            (1, CodeBy::Prior, "abc"),
            (1, CodeBy::Posterior, "abc"),
            (0, CodeBy::Prior, "ebc"),
            (0, CodeBy::Posterior, ""),
        ];
        assert_eq!(named, expected.map(|(code, by, ids)| (code, by, ids.to_string())));
        assert_eq!((found[2].pairs[0].weight, found[2].pairs[0].flipped), (1.0, true));
        // Without pairs of the split all pairs are looked at.
        let all = representatives(&frame, &[0], "valid").unwrap();
        assert_eq!(all[0].pairs.iter().map(|p| p.id.as_str()).collect::<String>(), "etb");

        let mut found = found;
        assert_eq!(Representatives::ids(&found), HashSet::from(["a", "b", "c", "e"]));
        let texts = PairTexts { prompt: "p".into(), chosen: "c".into(), rejected: "r".into() };
        Representatives::add_texts(&mut found, &BTreeMap::from([("e".to_string(), texts.clone())]));
        assert_eq!((&found[2].pairs[0].texts, &found[2].pairs[1].texts), (&Some(texts), &None));
    }
}
