//! What the latent part takes from the training data before it starts: tokens, and the unit of its sizes.

use std::sync::Arc;

use super::config::{CodeSpace, LpcConfig};

/// The prior knows a token that is in at least this many training prompts: one that is in fewer would tell these
/// prompts apart and help with no other.
pub const LEAST_PROMPTS: usize = 3;

/// What the latent part takes from the training data: a function of data and settings, and so the same in a run that is
/// resumed.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Tokens on which codes act; none where they act on the hidden states.
    pub code_tokens: Option<Arc<Vec<u32>>>,
    /// Tokens that the prior knows.
    pub prior_tokens: Vec<u32>,
    /// Deviation of a code's entries that gives the reward margin of a training pair a deviation of 1.
    pub unit: f64,
}

impl Basis {
    /// The sizes that a vocabulary allows, where no data are at hand: for estimates of memory.
    pub fn sized(config: &LpcConfig, hidden: usize, vocabulary: usize) -> Basis {
        let tokens = |most: usize| (0..vocabulary.min(most) as u32).collect::<Vec<u32>>();
        Basis {
            hidden,
            code_tokens: (config.code_space == CodeSpace::Vocabulary).then(|| Arc::new(tokens(config.code_tokens))),
            prior_tokens: if config.prior_input.tokens() { tokens(config.prior_tokens) } else { Vec::new() },
            unit: 1.0,
        }
    }

    /// Numbers in one code.
    pub fn code_width(&self) -> usize {
        self.code_tokens.as_ref().map_or(self.hidden, |tokens| tokens.len())
    }
}

/// The `most` tokens that are in most texts, each text counted once, those in fewer than `least` left out; sorted.
pub fn frequent<'a>(texts: impl Iterator<Item = &'a [u32]>, most: usize, least: usize) -> Vec<u32> {
    let mut counts: Vec<usize> = Vec::new();
    for text in texts {
        for token in distinct(text) {
            let token = token as usize;
            if token >= counts.len() {
                counts.resize(token + 1, 0);
            }
            counts[token] += 1;
        }
    }
    let mut found: Vec<(usize, u32)> =
        counts.iter().enumerate().filter(|(_, n)| **n >= least.max(1)).map(|(token, &n)| (n, token as u32)).collect();
    // The lower id of equals, so that nothing depends on the order of the texts.
    found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    found.truncate(most);
    let mut tokens: Vec<u32> = found.into_iter().map(|(_, token)| token).collect();
    tokens.sort_unstable();
    tokens
}

/// The tokens of a text, each once, in ascending order.
pub fn distinct(text: &[u32]) -> Vec<u32> {
    let mut tokens = text.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_once_a_text() {
        let texts: [&[u32]; 3] = [&[7, 7, 7, 1], &[1, 3], &[3, 9]];
        let of = |most, least| frequent(texts.iter().copied(), most, least);
        assert_eq!(of(10, 1), [1, 3, 7, 9]);
        assert_eq!(of(10, 2), [1, 3]);
        // 7 and 9 are in one text each: the lower id goes first.
        assert_eq!(of(3, 1), [1, 3, 7]);
    }
}
