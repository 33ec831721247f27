//! Hidden states that are known: a batch of pairs and what the backbone makes of it, kept pair by pair.
//!
//! Of a pair only the prompt's last row and the responses' rows are kept: they predict the response tokens, and the
//! latent part reads them. A batch of kept pairs is packed with prompts of a single token. Where the latent part reads
//! hidden states of the prompt, the vector that represents the prompt is kept in front of the pair's rows. Where the
//! head is frozen too and codes are biases of some tokens, two numbers are kept for each response row: the log-sum-exp
//! of the logits of all other tokens, and the logit of the row's target. Scoring then takes the columns of those tokens
//! alone, and not the whole vocabulary. They are a table of their own, since other tokens need others over the same states.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::batch::{PairBatch, Sides};
use crate::error::{Error, Result};
use crate::model::decoder::shifted::Reach;
use crate::nn::Real;
use crate::token_file::{RowText, TokenRow};

/// A batch and what the backbone makes of it, without z.
#[derive(Debug)]
pub struct States {
    /// The packed pairs.
    pub batch: PairBatch,
    /// Hidden states (N,H), after the final norm.
    pub h: Tensor,
    /// Hidden states that represent the prompts (B,H), where the latent part reads them.
    pub prompt: Option<Tensor>,
    /// Known tokens of the prompts, where it reads these: see [`crate::lpc::Context::tokens`].
    pub tokens: Option<(Vec<u32>, Vec<std::ops::Range<usize>>)>,
    /// The head as far as codes reach, where the rest of it is known.
    pub reach: Option<Reach>,
}

/// Hidden states by pair.
#[derive(Debug)]
pub struct HiddenStates {
    /// Rows of hidden states.
    pub(super) states: Rows,
    /// Rows of every pair, by id.
    pub(super) spans: HashMap<RowText, Span>,
    /// H.
    pub(super) hidden: usize,
    /// Whether a row that represents the prompt comes first of a pair's rows.
    pub(super) prompts: bool,
    pub(super) reach: Option<Tokens>,
}

/// Rows of numbers, all as wide.
#[derive(Debug)]
pub(super) struct Rows {
    pub bytes: Bytes,
    /// Offset of the numbers in the bytes.
    pub start: usize,
}

impl Rows {
    /// No rows yet.
    pub const NONE: Rows = Rows { bytes: Bytes::Memory(Vec::new()), start: 0 };

    /// Some rows as bytes.
    fn part(&self, first: usize, n: usize, bytes_of_row: usize) -> Result<&[u8]> {
        let all = match &self.bytes {
            Bytes::Memory(bytes) => bytes.as_slice(),
            Bytes::Mapped(map) => map,
        };
        let at = self.start + first * bytes_of_row;
        all.get(at..at + n * bytes_of_row).ok_or_else(|| Error::run("a file of hidden states is too short"))
    }

    fn memory(&self) -> usize {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes.len(),
            Bytes::Mapped(_) => 0,
        }
    }
}

/// Tokens that take biases, where the rest of the head is known.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Their weights in the head (C,H).
    pub weights: Tensor,
    /// Column of each token of the vocabulary among them, or [`crate::nn::columns::ELSEWHERE`] (V).
    pub column_of: Vec<u32>,
    /// What is known of the others: [`KNOWN`] numbers for each row of hidden states.
    pub known: Rows,
}

/// Numbers for a row where the rest of the head is known.
pub(super) const KNOWN: usize = 2;

#[derive(Debug)]
pub(super) enum Bytes {
    Memory(Vec<u8>),
    Mapped(memmap2::Mmap),
}

/// The first kept row of a pair, and how many tokens its responses have, in the order in which they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    first: usize,
    responses: [usize; 2],
}

impl Span {
    /// The parts of the chosen and the rejected response in what is kept of both, of `bytes` a row.
    fn sides<'a>(&self, row: &TokenRow, both: &'a [u8], bytes: usize) -> (&'a [u8], &'a [u8]) {
        let (one, other) = both.split_at(self.responses[0] * bytes);
        if rejected_first(row) { (other, one) } else { (one, other) }
    }

    /// Tokens of both responses.
    fn both(&self) -> usize {
        self.responses.iter().sum()
    }
}

/// Tokens of the responses in the order in which they are kept.
fn lengths(row: &TokenRow) -> [usize; 2] {
    let lengths = [row.chosen_ids.len(), row.rejected_ids.len()];
    if rejected_first(row) { [lengths[1], lengths[0]] } else { lengths }
}

/// Whether the rejected response's rows are kept before the chosen one's. The order is one of the texts, so that pairs
/// whose labels were flipped have the same file.
pub(super) fn rejected_first(row: &TokenRow) -> bool {
    row.rejected_ids[..] < row.chosen_ids[..]
}

/// Rows that are kept of a pair, but for the one that represents the prompt.
pub(super) fn kept(row: &TokenRow) -> usize {
    1 + row.chosen_ids.len() + row.rejected_ids.len()
}

/// The pair as it is packed when its hidden states are known: with the prompt's last token alone.
fn compact(row: &TokenRow) -> TokenRow {
    TokenRow {
        id: row.id.clone(),
        prompt_ids: row.prompt_ids.last().copied().into_iter().collect(),
        chosen_ids: row.chosen_ids.clone(),
        rejected_ids: row.rejected_ids.clone(),
        ..TokenRow::default()
    }
}

impl HiddenStates {
    /// Gives every pair its rows, in order; returns how many rows that is.
    pub(super) fn arrange(&mut self, rows: &[&TokenRow]) -> usize {
        let mut total = 0;
        for row in rows {
            let span = Span { first: total, responses: lengths(row) };
            self.spans.insert(row.id.clone(), span);
            total += kept(row) + usize::from(self.prompts);
        }
        total
    }

    /// Bytes in memory.
    pub fn memory(&self) -> usize {
        self.states.memory() + self.reach.as_ref().map_or(0, |tokens| tokens.known.memory())
    }

    /// A batch of pairs as it is packed when its hidden states are known; `None` where a pair is not among those kept.
    pub(super) fn of<T: Real>(&self, rows: &[&TokenRow], sides: Sides) -> Result<Option<States>> {
        let Some(Packed { batch, h, prompt }) = self.packed::<T>(rows, sides)? else { return Ok(None) };
        let reach = match &self.reach {
            None => None,
            Some(tokens) => {
                let size = KNOWN * T::KIND.size_in_bytes();
                // Of chosen and rejected tokens.
                let mut known = [Vec::new(), Vec::new()];
                for row in rows {
                    let Some(span) = self.spans.get(&*row.id) else { return Ok(None) };
                    let first = span.first + usize::from(self.prompts) + 1;
                    let both = tokens.known.part(first, span.both(), size)?;
                    let (chosen, rejected) = span.sides(row, both, size);
                    known[0].extend_from_slice(chosen);
                    if sides == Sides::Both {
                        known[1].extend_from_slice(rejected);
                    }
                }
                let n = batch.targets.len();
                let known = Tensor::from_raw_buffer(&known.concat(), T::KIND, &[n, KNOWN], &Device::Cpu)?;
                let column = |i: usize| known.narrow(1, i, 1)?.squeeze(1)?.contiguous();
                Some(Reach {
                    weights: tokens.weights.clone(),
                    others: column(0)?,
                    known: column(1)?,
                    columns: batch.targets.iter().map(|&token| tokens.column_of[token as usize]).collect(),
                })
            }
        };
        Ok(Some(States { batch, h, prompt, tokens: None, reach }))
    }

    /// The same without what is known of the head.
    pub(super) fn packed<T: Real>(&self, rows: &[&TokenRow], sides: Sides) -> Result<Option<Packed>> {
        let size = self.hidden * T::KIND.size_in_bytes();
        let (mut h, mut prompts, mut total) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            let Some(span) = self.spans.get(&*row.id) else { return Ok(None) };
            if span.responses != lengths(row) {
                return Ok(None);
            }
            let before = usize::from(self.prompts);
            let part = self.states.part(span.first, before + 1 + span.both(), size)?;
            let (prompt, states) = part.split_at(before * size);
            prompts.extend_from_slice(prompt);
            let (last, both) = states.split_at(size);
            let (chosen, rejected) = span.sides(row, both, size);
            h.extend_from_slice(last);
            h.extend_from_slice(chosen);
            total += 1 + row.chosen_ids.len();
            if sides == Sides::Both {
                h.extend_from_slice(rejected);
                total += row.rejected_ids.len();
            }
        }
        let tensor =
            |bytes: &[u8], rows: usize| Tensor::from_raw_buffer(bytes, T::KIND, &[rows, self.hidden], &Device::Cpu);
        let compact: Vec<TokenRow> = rows.iter().map(|row| compact(row)).collect();
        let batch = PairBatch::pack(&compact, sides)?;
        let prompt = if self.prompts { Some(tensor(&prompts, rows.len())?) } else { None };
        Ok(Some(Packed { batch, h: tensor(&h, total)?, prompt }))
    }
}

/// A batch of kept pairs and its hidden states.
pub(super) struct Packed {
    pub batch: PairBatch,
    /// (N,H).
    pub h: Tensor,
    /// (B,H), where they are kept.
    prompt: Option<Tensor>,
}
