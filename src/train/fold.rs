//! Cross-fitting: a run that holds some training pairs out, and is evaluated on them.

use crate::batch::Split;
use crate::schema::SPLITS;
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

    /// The training split without the fold, and the fold as the test split.
    pub fn hold_out(self, seed: Seed, train: &Split) -> Vec<Split> {
        let parts = self.divide(seed, &train.rows, &train.rows);
        SPLITS.iter().zip(parts).map(|(name, rows)| Split { name: (*name).into(), rows }).collect()
    }

    /// Values of the training pairs, divided as [`Fold::hold_out`] divides these: first those that are left, then those
    /// of the fold.
    pub fn divide<T: Clone>(self, seed: Seed, rows: &[TokenRow], values: &[T]) -> [Vec<T>; 2] {
        let mut parts = [Vec::new(), Vec::new()];
        for (row, value) in rows.iter().zip(values) {
            parts[usize::from(self.holds(seed, row))].push(value.clone());
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_held_out_once() {
        let rows: Vec<TokenRow> = (0..60)
            .map(|i| TokenRow {
                id: i.to_string().into(),
                prompt_id: (i / 2).to_string().into(),
                ..TokenRow::default()
            })
            .collect();
        let train = Split { name: "train".into(), rows };
        let values: Vec<usize> = (0..60).collect();
        let mut held = vec![0; 60];
        for i in 1..=3 {
            let fold = Fold::parse(&format!("{i}/3")).unwrap().unwrap();
            let splits = fold.hold_out(Seed(5), &train);
            assert_eq!(splits[0].rows.len() + splits[1].rows.len(), 60);
            let prompts = |split: &Split| -> std::collections::HashSet<String> {
                split.rows.iter().map(|row| row.prompt_id.to_string()).collect()
            };
            assert!(prompts(&splits[0]).is_disjoint(&prompts(&splits[1])));
            for (split, values) in splits.iter().zip(fold.divide(Seed(5), &train.rows, &values)) {
                assert!(split.rows.iter().zip(values).all(|(row, value)| row.id == value.to_string()));
            }
            splits[1].rows.iter().for_each(|row| held[row.id.parse::<usize>().unwrap()] += 1);
        }
        assert_eq!(held, [1; 60]);
        for text in ["0/2", "3/2", "1/1", "1", "a/b", "-1/2"] {
            assert!(Fold::parse(text).unwrap_err().contains("expected I/N"), "{text}");
        }
        assert_eq!(Fold::parse(""), Ok(None));
    }
}
