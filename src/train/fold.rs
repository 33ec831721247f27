//! Cross-fitting: a run that holds some training pairs out, and is evaluated on them.

use crate::seed::Seed;
use crate::token_file::TokenRow;

/// One of several parts of the training prompts. All pairs of a prompt are in one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// 0-based.
    index: usize,
    of: usize,
}

impl Fold {
    /// Reads `I/N`; none for an empty text.
    ///
    /// # Errors
    /// A message that tells what is expected.
    pub fn parse(text: &str) -> std::result::Result<Option<Fold>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed: Option<(usize, usize)> =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if 1 <= index && index <= of && of >= 2 => Ok(Some(Fold { index: index - 1, of })),
            _ => Err(format!("expected I/N with 1 <= I <= N and N from 2, got {text:?}")),
        }
    }

    /// Whether the fold has this pair: a function of the seed and the prompt.
    pub fn holds(self, seed: Seed, row: &TokenRow) -> bool {
        Fold::part(seed, &row.prompt_id, self.of) == self.index
    }

    /// The part of the prompts, from 0, that a prompt is in where there are so many: a function of the seed and the
    /// prompt.
    pub fn part(seed: Seed, prompt_id: &str, parts: usize) -> usize {
        seed.index("fold", prompt_id, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_a_whole_are_read() {
        assert_eq!(Fold::parse("2/3"), Ok(Some(Fold { index: 1, of: 3 })));
        for text in ["0/2", "3/2", "1/1", "1", "a/b", "-1/2"] {
            assert!(Fold::parse(text).unwrap_err().contains("expected I/N"), "{text}");
        }
        assert_eq!(Fold::parse(""), Ok(None));
    }
}
