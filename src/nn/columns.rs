//! Columns of the output layer that rows are scored over: those of the whole vocabulary, or those of some tokens, with
//! the rest of the vocabulary summed up beforehand.

use rayon::prelude::*;

use super::linear;
use super::real::Real;
use super::rows::{Precision, Rows};
use super::vector;

/// Rows per task of the elementwise passes.
const ROWS: usize = 16;

/// Vocabulary entries per chunk of logits: a multiple of the product kernel's tile.
pub const CHUNK: usize = 3072;
/// Column of a target that is not among them.
pub const ELSEWHERE: u32 = u32::MAX;

/// Columns of the output layer, and the target of every row.
#[derive(Debug, Clone, Copy)]
pub struct ScoredColumns<'a, T> {
    /// Weights of the columns (C,H).
    pub w: &'a [T],
    /// H.
    pub hidden: usize,
    /// Column of every row's target (R); [`ELSEWHERE`] where the others hold it.
    pub targets: &'a [u32],
    /// The columns that are left out, where some are: they take no shift.
    pub others: Option<Others<'a, T>>,
    /// Operands of the product with the output layer.
    pub precision: Precision,
}

/// What is known of the columns that are left out.
#[derive(Debug, Clone, Copy)]
pub struct Others<'a, T> {
    /// Log-sum-exp of every row's logits over them (R).
    pub lse: &'a [T],
    /// Logit of every row's target (R), where it is among them.
    pub target: &'a [T],
}

impl<T: Real> ScoredColumns<'_, T> {
    /// C.
    pub fn count(&self) -> usize {
        self.w.len() / self.hidden.max(1)
    }

    /// R.
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// First column and width of every chunk.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let count = self.count();
        (0..count).step_by(CHUNK).map(move |at| (at, CHUNK.min(count - at)))
    }

    /// Memory for the logits of one chunk.
    pub fn buffer(&self) -> Vec<T> {
        vec![T::zero(); self.rows() * CHUNK.min(self.count())]
    }

    /// Logits of one chunk, in the first part of `buffer`.
    ///
    /// # Shapes
    /// h (R,H) -> (R,width).
    pub fn logits<'r>(&self, h: &Rows<'_, T>, (at, width): (usize, usize), buffer: &'r mut [T]) -> &'r mut [T] {
        let logits = &mut buffer[..self.rows() * width];
        linear::forward(h, &self.w[at * self.hidden..(at + width) * self.hidden], logits, false);
        logits
    }

    /// Adds the gradients of the rows and of the columns that follow from those of a chunk's logits, each where wanted.
    ///
    /// # Shapes
    /// h, dh (R,H) · dlogits (R,width) · dw (C,H).
    pub fn back(
        &self,
        h: &Rows<'_, T>,
        dlogits: &[T],
        (at, width): (usize, usize),
        dh: Option<&mut [T]>,
        dw: Option<&mut [T]>,
    ) {
        let part = at * self.hidden..(at + width) * self.hidden;
        let dlogits = h.like(dlogits, self.rows());
        if let Some(dh) = dh {
            linear::backward_input(&dlogits, &self.w[part.clone()], dh, true);
        }
        if let Some(dw) = dw {
            linear::backward_weight(&dlogits, h, &mut dw[part]);
        }
    }

    /// A row's target within a chunk.
    pub fn target(&self, row: usize, (at, width): (usize, usize)) -> Option<usize> {
        (self.targets[row] as usize).checked_sub(at).filter(|&i| i < width)
    }

    /// Log-sum-exp of every row's logits over the columns that `column_of` puts [`ELSEWHERE`], and the logit of its
    /// target.
    ///
    /// # Shapes
    /// h (R,H) · column_of (C) -> (R), (R).
    ///
    /// # Units
    /// Nats, logits.
    pub fn others_of(&self, h: &[T], column_of: &[u32]) -> (Vec<T>, Vec<T>) {
        let h = Rows::new(h, self.rows(), self.precision);
        let (mut state, mut picked) = (vec![(T::neg_infinity(), T::zero()); self.rows()], vec![T::zero(); self.rows()]);
        let mut buffer = self.buffer();
        for chunk in self.chunks() {
            let (at, width) = chunk;
            let logits = self.logits(&h, chunk, &mut buffer);
            for (row, picked) in picked.iter_mut().enumerate() {
                if let Some(i) = self.target(row, chunk) {
                    *picked = logits[row * width + i];
                }
            }
            let left_out = &column_of[at..at + width];
            logits.par_chunks_mut(ROWS * width).zip(state.par_chunks_mut(ROWS)).for_each(|(logits, state)| {
                for (row, (largest, sum)) in logits.chunks_exact_mut(width).zip(state) {
                    for (logit, &column) in row.iter_mut().zip(left_out) {
                        if column != ELSEWHERE {
                            *logit = T::neg_infinity();
                        }
                    }
                    let top = vector::max(*largest, row);
                    // Nothing to add yet: neither this chunk nor an earlier one has a column that is left out.
                    if top > T::neg_infinity() {
                        *sum = *sum * (*largest - top).exp_fast() + vector::exp_sum(row, top);
                        *largest = top;
                    }
                }
            });
        }
        (state.into_iter().map(|(largest, sum)| largest + sum.ln()).collect(), picked)
    }

    /// Logit of every row's target (R) where it is among the columns left out, else 0.
    pub fn known_targets(&self) -> Vec<T> {
        let known = |row: usize, target: &u32| match self.others {
            Some(others) if *target == ELSEWHERE => others.target[row],
            _ => T::zero(),
        };
        self.targets.iter().enumerate().map(|(row, target)| known(row, target)).collect()
    }
}

/// Gradients of what rows were scored with.
#[derive(Debug)]
pub struct ShiftGradients<T> {
    /// Of the shifts.
    pub shifts: Vec<T>,
    /// Of the rows (R,H); empty where it was not wanted.
    pub rows: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn the_others_are_all_but_those_with_a_place() {
        let (hidden, v) = (3, CHUNK + 4);
        let (h, w) = (check::numbers("h", 2 * hidden), check::numbers("w", v * hidden));
        let targets = [5, v as u32 - 1];
        let columns = ScoredColumns { w: &w, hidden, targets: &targets, others: None, precision: Precision::F32 };
        let logit = |row: usize, c: usize| check::dot(&h[row * hidden..][..hidden], &w[c * hidden..][..hidden]);
        for kept in [vec![], vec![0, 5, v - 1], (0..CHUNK).collect(), (0..v - 1).collect::<Vec<usize>>()] {
            let mut places = vec![ELSEWHERE; v];
            kept.iter().enumerate().for_each(|(i, &c)| places[c] = i as u32);
            let (lse, known) = columns.others_of(&h, &places);
            for row in 0..2 {
                let sum: f64 = (0..v).filter(|c| !kept.contains(c)).map(|c| logit(row, c).exp()).sum();
                assert!((lse[row] - sum.ln()).abs() < 1e-12);
                assert!((known[row] - logit(row, targets[row] as usize)).abs() < 1e-12);
            }
        }
        // All of them have a place: nothing is left, e^-inf.
        let (lse, _) = columns.others_of(&h, &(0..v as u32).collect::<Vec<u32>>());
        assert!(lse.iter().all(|l| *l == f64::NEG_INFINITY));
    }
}
