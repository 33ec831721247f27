//! What a posterior is given: a pair alone, or all pairs of a prompt.

use std::collections::HashMap;

use super::super::world::Preference;
use super::{Matched, Truth, argmax};

/// What the posterior of a code sees beside the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PosteriorScope {
    /// The pair alone.
    Pair,
    /// All pairs of the prompt, which share a code (`train.lpc.group = "prompt"`). Its ceiling is computed where these
    /// pairs set one response, the best one by the clean labels, against others (`prepare --pairs best-vs-each`).
    Prompt,
}

/// The most probable preference of each pair given its prompt and the labels of `evidence`.
///
/// `prior` is p(z|x) of a prompt, `likelihood` the probability of a pair's observed label given its two responses, both
/// by preference id. Labels of one prompt are taken as independent given z, as in LPC's groups.
pub(in crate::synth) fn label_codes<T, R: Copy>(
    matched: &[Matched<'_, T, R>],
    evidence: PosteriorScope,
    prior: impl Fn(&T) -> Vec<f64>,
    likelihood: impl Fn(&Matched<'_, T, R>) -> Vec<f64>,
) -> Vec<u32> {
    let logs = |m: &Matched<'_, T, R>| -> Vec<f64> { likelihood(m).into_iter().map(f64::ln).collect() };
    let mut groups: HashMap<*const T, Vec<f64>> = HashMap::new();
    if evidence == PosteriorScope::Prompt {
        for m in matched {
            let group = groups.entry(m.prompt()).or_default();
            group.resize(prior(m.truth).len(), 0.0);
            group.iter_mut().zip(logs(m)).for_each(|(sum, log)| *sum += log);
        }
    }
    let code = |m: &Matched<'_, T, R>| {
        let seen = groups.get(&m.prompt()).cloned().unwrap_or_else(|| logs(m));
        argmax(&prior(m.truth).iter().zip(seen).map(|(p, log)| p.ln() + log).collect::<Vec<f64>>())
    };
    matched.iter().map(code).collect()
}

/// The most probable preference of each prompt with several pairs, given all of them; `None` unless every prompt's
/// pairs set one response, the better one by the clean labels, against others.
///
/// Flipped labels do not change it: of two pairs or more, the best response is the one that stands in all of them.
pub(super) fn grouped(matched: &[Matched<Truth, u32>]) -> Option<HashMap<*const Truth, u32>> {
    let mut prompts: HashMap<*const Truth, (&Truth, u32, Vec<u32>)> = HashMap::new();
    for m in matched {
        let (best, other) = m.clean();
        let (_, known, others) = prompts.entry(m.prompt()).or_insert((m.truth, best, Vec::new()));
        if *known != best {
            return None;
        }
        others.push(other);
    }
    // Agreement of the best response, number of the others, number of those that agree.
    let pattern = |best: u32, others: &[u32], z: Preference| {
        (z.likes(best), others.len(), others.iter().filter(|&&style| z.likes(style)).count())
    };
    let mut counts: HashMap<(bool, usize, usize), f64> = HashMap::new();
    for (truth, best, others) in prompts.values() {
        let decided = truth.preferences()[truth.preference as usize];
        *counts.entry(pattern(*best, others, decided)).or_insert(0.5) += 1.0;
    }
    let code = |(truth, best, others): &(&Truth, u32, Vec<u32>)| {
        let weigh = |(prior, &z): (f64, &Preference)| {
            let seen = pattern(*best, others, z);
            prior * counts.get(&seen).copied().unwrap_or(0.5) / binomial(seen.1, seen.2)
        };
        argmax(&truth.given_prompt().into_iter().zip(&truth.preferences()).map(weigh).collect::<Vec<f64>>())
    };
    let several = prompts.iter().filter(|(_, (_, _, others))| others.len() > 1);
    Some(several.map(|(key, prompt)| (*key, code(prompt))).collect())
}

/// Number of ways to choose k of n.
fn binomial(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::super::tests::truth;
    use super::*;

    #[test]
    fn labels_of_a_prompt_count_together() {
        let prompts = [truth(false, 0, &[0.75, 0.25]), truth(false, 0, &[0.75, 0.25])];
        let pair = |row, truth| Matched { row, truth, chosen: 0, rejected: 1, flipped: false };
        let pairs = [pair(0, &prompts[0]), pair(1, &prompts[1]), pair(2, &prompts[0])];
        // A pair says 1 : 2 for the second preference, two of them 1 : 4, where the prompt says 3 : 1 for the first.
        let codes = |evidence| label_codes(&pairs, evidence, |t| t.prior.clone(), |_| vec![0.3, 0.6]);
        assert_eq!(codes(PosteriorScope::Pair), [0, 0, 0]);
        assert_eq!(codes(PosteriorScope::Prompt), [1, 0, 1]);
    }

    #[test]
    fn all_pairs_of_a_prompt_by_hand() {
        // Preference 0 likes bit 0 unset, 3 bit 1 set. The best response has both bits unset, the others bit 0, or both,
        // set: for 0 the best agrees and no other does, for 3 one of the others does and the best does not.
        let prompts: Vec<Truth> = (0..10).map(|_| truth(false, 0, &[0.05, 0.0, 0.0, 0.95])).collect();
        let pair = |truth, chosen, rejected, flipped| Matched { row: 0, truth, chosen, rejected, flipped };
        let pairs = |prompts| -> Vec<Matched<'_, Truth, u32>> {
            let of = |truth| [pair(truth, 0b00, 0b01, false), pair(truth, 0b11, 0b00, true)];
            <[Truth]>::iter(prompts).flat_map(of).collect()
        };
        // Ten such prompts: 0.05 (10 + 1/2) = 0.525 against 0.95 (1/2) / 2 = 0.2375. Alone: 0.05 (1 + 1/2) = 0.075.
        for (n, code) in [(10, 0), (1, 3)] {
            let codes = grouped(&pairs(&prompts[..n])).unwrap();
            assert_eq!(codes.len(), n);
            assert!(codes.values().all(|found| *found == code), "{codes:?}");
        }
        // What a single pair says is not said of a group; pairs with two best responses have no ceiling.
        assert_eq!(grouped(&[pair(&prompts[0], 0, 1, false)]).unwrap().len(), 0);
        assert!(grouped(&[pair(&prompts[0], 0, 1, false), pair(&prompts[0], 1, 3, false)]).is_none());
        assert_eq!([binomial(3, 0), binomial(3, 1), binomial(3, 2), binomial(3, 3)], [1.0, 3.0, 3.0, 1.0]);
    }
}
