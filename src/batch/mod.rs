//! Arrow token rows -> packed batches, in an order that is a pure function of (seed, epoch).
//!
//! Nothing is padded: the tokens of a batch lie end to end, `[prompt][chosen][rejected]` for every pair, and the prompt
//! is computed once for both responses.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::nn::attention::Segment;
use crate::schema::{SPLITS, prepared};
use crate::seed::Seed;
use crate::token_file::{self, TokenRow};

/// One split's tokenized pairs.
#[derive(Debug, Clone, Default)]
pub struct Split {
    /// `train` or `test`.
    pub name: String,
    /// Rows in the order of the file.
    pub rows: Vec<TokenRow>,
}

/// Reads the token files of a prepared folder, every split.
///
/// # Errors
/// [`Error::Artifact`] where the folder is not a finished one, or a file is damaged or has changed.
pub fn read_splits(folder: &Path) -> Result<Vec<Split>> {
    let manifest = crate::manifest::Manifest::read(folder)?;
    if manifest.stage != "prepare" {
        return Err(Error::artifact(folder, format!("written by `{}`, not by `prepare`", manifest.stage))
            .with_hint("--data wants the output folder of lpc-pipe prepare"));
    }
    SPLITS
        .iter()
        .map(|split| {
            let name = prepared::tokens(split);
            manifest.verify(folder, &name)?;
            Ok(Split { name: (*split).to_string(), rows: token_file::read(folder.join(name))? })
        })
        .collect()
}

/// The order of one epoch: a permutation that depends on the seed, the epoch and the ids only.
pub fn epoch_order(rows: &[TokenRow], seed: Seed, epoch: usize) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> =
        rows.iter().enumerate().map(|(i, row)| (seed.word("order", &format!("{epoch}:{}", row.id)), i)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// [`epoch_order`] in which rows of one key follow one another.
pub fn group_order(rows: &[TokenRow], keys: &[u64], seed: Seed, epoch: usize) -> Vec<usize> {
    let mut keyed: Vec<(u64, u64, u64, usize)> = rows
        .iter()
        .zip(keys)
        .enumerate()
        .map(|(i, (row, &key))| {
            let group = seed.word("order of groups", &format!("{epoch}:{key}"));
            (group, key, seed.word("order", &format!("{epoch}:{}", row.id)), i)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., i)| i).collect()
}

/// Runs of equal keys.
pub fn runs(keys: &[u64]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        match out.last_mut() {
            Some(run) if keys[run.start] == *key => run.end = i + 1,
            _ => out.push(i..i + 1),
        }
    }
    out
}

/// Where one pair's rows lie in a packed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRows {
    /// Packed rows of the prompt.
    pub prompt: Range<usize>,
    /// Packed rows of the chosen response.
    pub chosen: Range<usize>,
    /// Packed rows of the rejected response; empty in a batch for SFT.
    pub rejected: Range<usize>,
}

/// A packed batch of pairs.
#[derive(Debug, Clone, Default)]
pub struct PairBatch {
    /// Token of every packed row.
    pub ids: Vec<u32>,
    /// Position of every packed row; a response continues its prompt.
    pub positions: Vec<u32>,
    /// Who attends to whom.
    pub segments: Vec<Segment>,
    /// One entry for each pair.
    pub pairs: Vec<PairRows>,
    /// Packed rows that predict response tokens, all chosen first, then all rejected.
    pub predicting: Vec<u32>,
    /// The tokens they predict.
    pub targets: Vec<u32>,
    /// For each pair: its chosen tokens within `predicting`; then for each pair its rejected ones.
    pub responses: Vec<Range<usize>>,
    /// Pair of every entry of `predicting`.
    pub pair_of: Vec<u32>,
}

/// Which responses a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// Chosen and rejected.
    Both,
    /// Chosen only (SFT).
    Chosen,
}

impl PairBatch {
    /// Packs rows.
    ///
    /// # Errors
    /// [`Error::Run`] for a row with an empty prompt or response, which `prepare` never writes.
    pub fn pack<'a>(rows: impl IntoIterator<Item = &'a TokenRow>, sides: Sides) -> Result<PairBatch> {
        let mut batch = PairBatch::default();
        let rows: Vec<&TokenRow> = rows.into_iter().collect();
        for (group, row) in rows.iter().enumerate() {
            if row.prompt_ids.is_empty() || row.chosen_ids.is_empty() || row.rejected_ids.is_empty() {
                return Err(Error::run(format!("pair {}: an empty prompt or response", row.id)));
            }
            let prompt = batch.append(&row.prompt_ids, 0, (0, 0), group);
            let prefix = (prompt.start, prompt.len());
            let chosen = batch.append(&row.chosen_ids, prompt.len(), prefix, group);
            let rejected = match sides {
                Sides::Both => batch.append(&row.rejected_ids, prompt.len(), prefix, group),
                Sides::Chosen => batch.ids.len()..batch.ids.len(),
            };
            batch.pairs.push(PairRows { prompt, chosen, rejected });
        }
        for pick in [|p: &PairRows| p.chosen.clone(), |p: &PairRows| p.rejected.clone()] {
            for (pair, place) in batch.pairs.iter().enumerate() {
                let response = pick(place);
                let start = batch.predicting.len();
                // Each token is predicted by the row before it: the first by the prompt's last row.
                for row in response.clone() {
                    let before = if row == response.start { place.prompt.end - 1 } else { row - 1 };
                    batch.predicting.push(before as u32);
                    batch.targets.push(batch.ids[row]);
                    batch.pair_of.push(pair as u32);
                }
                if sides == Sides::Both || !response.is_empty() {
                    batch.responses.push(start..batch.predicting.len());
                }
            }
        }
        token_file::visited(batch.ids.len());
        Ok(batch)
    }

    fn append(&mut self, ids: &[u32], position: usize, prefix: (usize, usize), group: usize) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((0..ids.len()).map(|i| (position + i) as u32));
        self.segments.push(Segment { start, len: ids.len(), prefix_start: prefix.0, prefix_len: prefix.1, group });
        start..self.ids.len()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Longest sequence (prompt and one response) among rows.
pub fn longest<'a>(rows: impl IntoIterator<Item = &'a TokenRow>) -> usize {
    rows.into_iter().map(|r| r.prompt_ids.len() + r.chosen_ids.len().max(r.rejected_ids.len())).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, p: &[u32], c: &[u32], r: &[u32]) -> TokenRow {
        TokenRow {
            id: id.into(),
            prompt_ids: p.to_vec().into(),
            chosen_ids: c.to_vec().into(),
            rejected_ids: r.to_vec().into(),
            ..TokenRow::default()
        }
    }

    #[test]
    fn a_pair_packed_by_hand() {
        let rows = [row("a", &[1, 2], &[3, 4], &[5]), row("b", &[6], &[7], &[8, 9])];
        let batch = PairBatch::pack(&rows, Sides::Both).unwrap();
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1, 1, 2]);
        // Chosen of a: 3 after row 1, 4 after row 2; of b: 7 after row 5. Rejected: 5 after 1; 8 after 5, 9 after 7.
        assert_eq!(batch.predicting, [1, 2, 5, 1, 5, 7]);
        assert_eq!(batch.targets, [3, 4, 7, 5, 8, 9]);
        assert_eq!(batch.responses, [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(batch.pair_of, [0, 0, 1, 0, 1, 1]);
        let only = PairBatch::pack(&rows, Sides::Chosen).unwrap();
        assert_eq!(only.targets, [3, 4, 7]);
        assert_eq!(only.responses, [0..2, 2..3]);
    }

    #[test]
    fn order_depends_on_seed_and_epoch_but_not_on_place() {
        let rows: Vec<TokenRow> = (0..50).map(|i| row(&i.to_string(), &[1], &[2], &[3])).collect();
        let order = |rows: &[TokenRow], seed, epoch| -> Vec<String> {
            epoch_order(rows, Seed(seed), epoch).into_iter().map(|i| rows[i].id.to_string()).collect()
        };
        let first = order(&rows, 1, 0);
        let mut backwards = rows.clone();
        backwards.reverse();
        assert_eq!(first, order(&backwards, 1, 0));
        assert_ne!(first, order(&rows, 1, 1));
        assert_ne!(first, order(&rows, 2, 0));
    }
}
