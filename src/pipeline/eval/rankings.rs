//! RewardBench: its prompts, and the scores of its subsets and sections.

use std::collections::{BTreeMap, HashSet};

use super::items::{Item, key};
use super::preference::{Compared, Given};
use super::{PartAccuracy, Work, rows};
use crate::analysis::Interval;
use crate::error::Result;
use crate::eval::rewardbench::{self, Ranking};
use crate::eval::ties::{self, TiesKind, TiesScore};
use crate::eval::{BenchmarkRow, QuestionTokens};
use crate::message::Message;
use crate::tokenize::{Encoded, ModelTokenizer, PairText, TokenizeConfig};

/// Tokens of a prompt and a response, and of the prompt alone.
const MAX_LENGTH: usize = 2048;
const MAX_PROMPT_LENGTH: usize = 1536;

/// What the items' parts are by.
pub const SUBSET: &str = "subset";
const SECTION: &str = "section";

/// Prompts of RewardBench.
pub fn given(work: &Work<'_>) -> Result<Given> {
    let (rows, n_data) = rows(work.data, work.inputs, work.config.limit)?;
    let config =
        TokenizeConfig { max_length: MAX_LENGTH, max_prompt_length: MAX_PROMPT_LENGTH, ..TokenizeConfig::default() };
    let (mut compared, mut left_out, mut ties) = (Vec::new(), BTreeMap::new(), HashSet::new());
    for (place, row) in (0..).zip(&rows) {
        let ranking = rewardbench::ranking(row)?;
        judge(row, &ranking)?;
        if ranking.subset == rewardbench::TIES && !ties.insert(ranking.id.clone()) {
            return Err(row.fault("id", format!("{} is there twice", ranking.id)));
        }
        match tokens(&work.opened.tokenizer, &ranking, &config)? {
            Ok((tokens, truncated)) => {
                let responses = ranking.chosen.iter().chain(&ranking.rejected);
                let key = key(&ranking.id, [&ranking.prompt].into_iter().chain(responses).map(String::as_str));
                let Ranking { id, subset: source, chosen, .. } = ranking;
                let (prompt_id, right) = (None, chosen.len());
                compared.push(Compared { place, id, key, prompt_id, source, right, tokens, truncated });
            }
            Err(reason) => *left_out.entry(reason).or_default() += 1,
        }
    }
    Ok((compared, n_data, left_out))
}

/// Refuses a prompt whose right responses are not as many as its subset has.
fn judge(row: &BenchmarkRow, ranking: &Ranking) -> Result<()> {
    let n = ranking.chosen.len();
    if ranking.subset != rewardbench::TIES {
        return if n == 1 { Ok(()) } else { Err(row.fault("chosen", format!("{n} right responses, expected one"))) };
    }
    match ties::prompt_of(&ranking.id) {
        Some((TiesKind::Reference, _)) if n != 1 => {
            Err(row.fault("chosen", format!("{n} right responses of {}, expected one", ranking.id)))
        }
        Some((TiesKind::Tied, _)) if n < 2 => {
            Err(row.fault("chosen", format!("one right response of {}, expected several", ranking.id)))
        }
        Some(_) => Ok(()),
        None => Err(row.fault("id", format!("{:?}: expected ref:N or tied:N in the subset Ties", ranking.id))),
    }
}

/// Token ids of a prompt and its responses, with whether anything was cut; or why there are none.
fn tokens(
    tokenizer: &ModelTokenizer,
    ranking: &Ranking,
    config: &TokenizeConfig,
) -> Result<Result<(QuestionTokens, bool), String>> {
    let prompt = [Message::user(&ranking.prompt)];
    let mut found = QuestionTokens::default();
    // Every response is in one of these pairs: the right ones each with the first other, then the others.
    let (right, others) = (&ranking.chosen, &ranking.rejected);
    let pairs = right.iter().map(|x| (x, &others[0])).chain(others.iter().skip(1).map(|x| (&right[0], x)));
    let (mut last, mut truncated) = (Vec::new(), false);
    for (at, (chosen, rejected)) in pairs.enumerate() {
        let (chosen, rejected) = ([Message::assistant(chosen)], [Message::assistant(rejected)]);
        let pair = PairText {
            id: &ranking.id,
            prompt: &prompt,
            chosen: &chosen,
            rejected: &rejected,
            flipped: false,
            source: &ranking.subset,
        };
        let row = match tokenizer.encode_pair(&pair, config)? {
            Encoded::Row(row) => row,
            Encoded::Dropped { reason, .. } => return Ok(Err(reason.to_string())),
            Encoded::Refused(refusal) => return Ok(Err(refusal.reason.to_string())),
        };
        truncated |= row.truncated;
        if at == 0 {
            found.context = row.prompt_ids.to_vec();
        }
        if at < right.len() {
            found.choices.push(row.chosen_ids.to_vec());
        }
        if at == 0 || at >= right.len() {
            last.push(row.rejected_ids.to_vec());
        }
    }
    found.choices.extend(last);
    Ok(Ok((found, truncated)))
}

/// Adds the sections to the subsets, and gives `Ties` its score, from the credit of the items of each subset.
pub fn regroup(groups: &mut Vec<PartAccuracy>, by: &BTreeMap<&str, Vec<f64>>, items: &[Item]) {
    // Its own score takes the place of an accuracy; without prompts of both kinds there is none.
    groups.retain(|group| group.name != rewardbench::TIES);
    if let Some(found) = ties_of(items) {
        let n = by.get(rewardbench::TIES).map_or(0, Vec::len);
        let accuracy = Interval { estimate: found.score, low: f64::NAN, high: f64::NAN, n };
        groups.push(PartAccuracy { by: SUBSET, name: rewardbench::TIES.into(), accuracy });
    }
    let mean = |name: &str| by.get(name).map(|values| values.iter().sum::<f64>() / values.len() as f64);
    groups.extend(rewardbench::sections(&mean).into_iter().map(|(name, estimate)| {
        let subsets = rewardbench::SECTIONS.iter().find(|(section, _)| *section == name).map_or(&[][..], |s| s.1);
        let n = subsets.iter().filter_map(|(subset, _)| by.get(subset)).map(Vec::len).sum();
        let accuracy = Interval { estimate, low: f64::NAN, high: f64::NAN, n };
        PartAccuracy { by: SECTION, name: name.to_string(), accuracy }
    }));
}

/// RewardBench's score: the mean of the four sections of the first version, or of the six subsets of the second, where
/// all are there.
pub fn total(groups: &[PartAccuracy]) -> Option<f64> {
    let all = |by: &str, names: &[&str]| {
        let estimate = |name: &&str| Some(groups.iter().find(|g| g.by == by && g.name == **name)?.accuracy.estimate);
        let found: Vec<f64> = names.iter().filter_map(estimate).collect();
        (found.len() == names.len()).then(|| found.iter().sum::<f64>() / names.len() as f64)
    };
    let sections: Vec<&str> = rewardbench::SECTIONS.iter().map(|(name, _)| *name).collect();
    all(SECTION, &sections).or_else(|| all(SUBSET, &rewardbench::SECOND))
}

/// The score of RewardBench's subset with several right responses.
fn ties_of(items: &[Item]) -> Option<TiesScore> {
    let of = |item: &Item, right: bool| -> Vec<f64> {
        item.scores.iter().zip(&item.right).filter(|(_, own)| **own == right).map(|(score, _)| *score).collect()
    };
    let ties = items.iter().filter(|item| item.source.as_deref() == Some(rewardbench::TIES));
    let prompts =
        ties.filter_map(|item| Some((ties::prompt_of(&item.id)?, ties::margins(&of(item, true), &of(item, false)))));
    ties::ties_score(&prompts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_mean_of_all_sections_or_of_all_subsets() {
        let part = |by, (name, estimate): (&str, f64)| {
            let accuracy = Interval { estimate, low: f64::NAN, high: f64::NAN, n: 1 };
            PartAccuracy { by, name: name.to_string(), accuracy }
        };
        let sections = [("Chat", 0.9), ("Chat Hard", 0.4), ("Safety", 0.7), ("Reasoning", 0.8)];
        let mut groups: Vec<PartAccuracy> = sections.into_iter().map(|s| part(SECTION, s)).collect();
        groups.push(part(SUBSET, ("Math", 0.1)));
        assert_eq!(total(&groups), Some(0.7));
        assert_eq!(total(&groups[1..]), None);
        let mut subsets: Vec<_> = rewardbench::SECOND.into_iter().zip([0.1, 0.2, 0.3, 0.4, 0.5, 0.9]).collect();
        let of = |subsets: &[(&str, f64)]| total(&subsets.iter().map(|s| part(SUBSET, *s)).collect::<Vec<_>>());
        assert!((of(&subsets).unwrap() - 0.4).abs() < 1e-12);
        subsets.pop();
        assert_eq!(of(&subsets), None);
    }
}
