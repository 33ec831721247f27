//! The `Ties` subset of RewardBench 2: prompts with several right answers, each beside one with a single right answer.
//!
//! A good reward puts every right answer above every wrong one, and right answers nearer to each other than to the wrong
//! ones.
//!
//! # Source
//! Malik et al. 2025, "RewardBench 2", Section 3; `process_single_model` of `rewardbench/utils.py` (github
//! allenai/reward-bench).

use std::collections::BTreeMap;

/// Whether a prompt has one right answer or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TiesKind {
    /// One (`ref`).
    Reference,
    /// Several (`tied`).
    Tied,
}

/// Kind and number of a prompt, from an id like `tied:7`; the two prompts of one number belong together.
pub fn prompt_of(id: &str) -> Option<(TiesKind, u64)> {
    let (kind, number) = id.split_once(':')?;
    let kind = match kind {
        "ref" => TiesKind::Reference,
        "tied" => TiesKind::Tied,
        _ => return None,
    };
    Some((kind, number.parse().ok()?))
}

/// Distances between the rewards of a prompt's answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TiesMargins {
    /// From the best to the worst right answer.
    pub among_right: f64,
    /// From the best wrong answer to the worst right one; above 0 where all are told apart.
    pub right_to_wrong: f64,
}

/// [`TiesMargins`] of rewards.
///
/// # Shapes
/// At least one right and one wrong answer.
pub fn margins(right: &[f64], wrong: &[f64]) -> TiesMargins {
    let least = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |x: &[f64]| x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    TiesMargins { among_right: most(right) - least(right), right_to_wrong: least(right) - most(wrong) }
}

/// The score of the subset, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TiesScore {
    /// 0.3 tied_accuracy + 0.3 ref_accuracy + 0.2 preferred + 0.2 preferred_hard + 0.01 margin.
    pub score: f64,
    /// Share of the prompts with several right answers whose answers are all told apart.
    pub tied_accuracy: f64,
    /// The same of the prompts with one.
    pub ref_accuracy: f64,
    /// Share of the prompts whose right answers are nearer to each other than to the wrong ones.
    pub preferred: f64,
    /// The same against the smaller of the margins of the two prompts of a number.
    pub preferred_hard: f64,
    /// Mean of tanh(smaller margin / distance among the right - 1).
    pub margin: f64,
}

/// The score over prompts; `None` where no number has prompts of both kinds.
pub fn ties_score(prompts: &BTreeMap<(TiesKind, u64), TiesMargins>) -> Option<TiesScore> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let share = |values: Vec<bool>| mean(&values.into_iter().map(|x| f64::from(u8::from(x))).collect::<Vec<_>>());
    let of = |kind: TiesKind| prompts.iter().filter(move |((found, _), _)| *found == kind);
    let accuracy = |kind| share(of(kind).map(|(_, margins)| margins.right_to_wrong > 0.0).collect());
    let both: Vec<(TiesMargins, f64)> = of(TiesKind::Tied)
        .filter_map(|((_, number), tied)| {
            let reference = prompts.get(&(TiesKind::Reference, *number))?;
            Some((*tied, reference.right_to_wrong.min(tied.right_to_wrong)))
        })
        .collect();
    if both.is_empty() {
        return None;
    }
    let ratio = |(tied, smaller): &(TiesMargins, f64)| {
        let value = (smaller / tied.among_right - 1.0).tanh();
        if value.is_nan() { 0.0 } else { value }
    };
    let found = TiesScore {
        score: 0.0,
        tied_accuracy: accuracy(TiesKind::Tied),
        ref_accuracy: accuracy(TiesKind::Reference),
        preferred: share(both.iter().map(|(tied, _)| tied.right_to_wrong > tied.among_right).collect()),
        preferred_hard: share(both.iter().map(|(tied, smaller)| *smaller > tied.among_right).collect()),
        margin: mean(&both.iter().map(ratio).collect::<Vec<_>>()),
    };
    let accuracy = 0.3 * found.tied_accuracy + 0.3 * found.ref_accuracy;
    let score = accuracy + 0.2 * found.preferred + 0.2 * found.preferred_hard + 0.01 * found.margin;
    Some(TiesScore { score, ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(prompt_of("tied:7"), Some((TiesKind::Tied, 7)));
        assert_eq!(prompt_of("ref:0"), Some((TiesKind::Reference, 0)));
        assert_eq!([prompt_of("7"), prompt_of("free:7"), prompt_of("ref:x"), prompt_of("ref:1:2")], [None; 4]);
    }

    #[test]
    fn the_score_by_hand() {
        // 1: both prompts right; the right answers 1 apart, 2 above the wrong; with the reference's margin 0.5 the hard
        // comparison fails. 2: the tied prompt is wrong, and its right answers are alike. 3: a reference alone.
        let prompts = BTreeMap::from([
            ((TiesKind::Tied, 1), margins(&[4.0, 3.0], &[1.0, -2.0])),
            ((TiesKind::Reference, 1), margins(&[1.5], &[1.0, 0.0])),
            ((TiesKind::Tied, 2), margins(&[1.0, 1.0], &[2.0])),
            ((TiesKind::Reference, 2), margins(&[3.0], &[1.0])),
            ((TiesKind::Reference, 3), margins(&[0.0], &[1.0])),
        ]);
        let found = ties_score(&prompts).unwrap();
        assert_eq!((found.tied_accuracy, found.preferred, found.preferred_hard), (0.5, 0.5, 0.0));
        assert!((found.ref_accuracy - 2.0 / 3.0).abs() < 1e-12);
        // min(0.5, 2) / 1 - 1; min(2, -1) / 0 is minus infinity.
        let margin = ((-0.5f64).tanh() - 1.0) / 2.0;
        assert!((found.margin - margin).abs() < 1e-12);
        assert!((found.score - (0.15 + 0.2 + 0.1 + 0.01 * margin)).abs() < 1e-12);
        // Nothing over nothing counts as 0.
        let alike = margins(&[1.0, 1.0], &[1.0]);
        let pair = BTreeMap::from([((TiesKind::Tied, 1), alike), ((TiesKind::Reference, 1), margins(&[2.0], &[1.0]))]);
        assert_eq!(ties_score(&pair).unwrap().margin, 0.0);
        assert_eq!(ties_score(&BTreeMap::from([((TiesKind::Tied, 1), alike)])), None);
    }
}
