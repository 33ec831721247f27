//! Log-probabilities of given tokens: linear, log-softmax and gather in one operation,
//! in chunks of the vocabulary. Nothing of size (rows, vocabulary) is ever stored.
//!
//! The log-sum-exp runs over the chunks in one pass (Milakov and Gimelshein 2018,
//! "Online normalizer calculation for softmax"). Where the head is trained the backward pass reads the exponentials that
//! the forward pass kept, and computes the logits of other chunks again; where it is frozen, the forward pass sums up what
//! the rows' gradient needs ([`forward_expecting`]).

use std::sync::Arc;

use rayon::prelude::*;

use super::exponentials::{Exponentials, Room};
use super::linear;
use super::real::Real;
use super::rows::{Precision, Rows};
use super::vector;

/// Vocabulary entries per chunk: a multiple of the product kernel's tile.
pub const CHUNK: usize = 3072;
/// Rows per task of the elementwise passes.
const ROWS: usize = 16;

/// Result of [`forward`], and what [`backward`] needs of it.
#[derive(Debug)]
pub struct ForwardLogps<T> {
    /// Log-probability of each row's target, nats.
    pub logps: Vec<T>,
    /// Log-sum-exp of each row's logits.
    lse: Vec<T>,
    /// Exponentials of the logits, where they found room.
    exponentials: Exponentials<T>,
}

/// `log_softmax(W h)[target]` for every row; exponentials are kept in the room, if there is one.
///
/// # Shapes
/// h (R,H) · w (V,H) · targets (R), each below V -> log-probabilities (R).
///
/// # Units
/// Nats.
pub fn forward<T: Real>(
    h: &[T],
    w: &[T],
    targets: &[u32],
    hidden: usize,
    precision: Precision,
    room: Option<Arc<Room>>,
) -> ForwardLogps<T> {
    chunks(h, w, targets, hidden, precision, room, None)
}

/// [`forward`], and the head's expected row `sum_v softmax(W h)_v w_v` of every row: with a frozen head, all that the
/// backward pass needs ([`backward_expecting`]). In all two products with the head where `forward` and [`backward`] have
/// three.
///
/// # Shapes
/// As [`forward`]; the expected rows are (R,H).
pub fn forward_expecting<T: Real>(
    h: &[T],
    w: &[T],
    targets: &[u32],
    hidden: usize,
    precision: Precision,
) -> (ForwardLogps<T>, Vec<T>) {
    let mut expected = vec![T::zero(); h.len()];
    let got = chunks(h, w, targets, hidden, precision, None, Some(&mut expected));
    (got, expected)
}

/// Gradient of the hidden rows under a frozen head: `g (w_target - expected)`.
///
/// # Shapes
/// expected (R,H), which becomes the gradient · w (V,H) · targets, dlogps (R).
pub fn backward_expecting<T: Real>(expected: &mut [T], w: &[T], targets: &[u32], dlogps: &[T]) {
    let hidden = expected.len() / targets.len().max(1);
    for ((row, &target), &g) in expected.chunks_exact_mut(hidden.max(1)).zip(targets).zip(dlogps) {
        let w = &w[target as usize * hidden..][..hidden];
        row.iter_mut().zip(w).for_each(|(x, &w)| *x = g * (w - *x));
    }
}

/// The pass over chunks of the vocabulary; adds up `expected` where wanted.
fn chunks<T: Real>(
    h: &[T],
    w: &[T],
    targets: &[u32],
    hidden: usize,
    precision: Precision,
    room: Option<Arc<Room>>,
    mut expected: Option<&mut [T]>,
) -> ForwardLogps<T> {
    let rows = targets.len();
    let vocabulary = w.len() / hidden;
    let h = Rows::new(h, rows, precision);
    let mut kept = Exponentials::new(room, precision);
    let mut largest = vec![T::neg_infinity(); rows];
    let mut sums = vec![T::zero(); rows];
    let mut picked = vec![T::zero(); rows];
    let mut shrink = vec![T::one(); rows];
    let mut logits = vec![T::zero(); rows * CHUNK.min(vocabulary)];
    for at in (0..vocabulary).step_by(CHUNK) {
        let width = CHUNK.min(vocabulary - at);
        let logits = &mut logits[..rows * width];
        let chunk = &w[at * hidden..(at + width) * hidden];
        linear::forward(&h, chunk, logits, false);
        let exponentials = expected.is_some() || kept.keeps();
        largest
            .par_chunks_mut(ROWS)
            .zip(sums.par_chunks_mut(ROWS))
            .zip(picked.par_chunks_mut(ROWS))
            .zip(shrink.par_chunks_mut(ROWS))
            .zip(targets.par_chunks(ROWS))
            .zip(logits.par_chunks_mut(ROWS * width))
            .for_each(|(((((largest, sums), picked), shrink), targets), logits)| {
                let rows = largest.iter_mut().zip(sums).zip(picked).zip(shrink).zip(targets);
                for (((((largest, sum), picked), shrink), &target), row) in rows.zip(logits.chunks_exact_mut(width)) {
                    if let Some(&logit) = (target as usize).checked_sub(at).and_then(|i| row.get(i)) {
                        *picked = logit;
                    }
                    let top = vector::max(*largest, row);
                    *shrink = (*largest - top).exp_fast();
                    let added =
                        if exponentials { vector::exponentials(row, T::one(), top) } else { vector::exp_sum(row, top) };
                    *sum = *sum * *shrink + added;
                    *largest = top;
                }
            });
        kept.push(logits, &largest);
        if let Some(expected) = expected.as_deref_mut() {
            // What was added up so far is relative to the largest logit so far.
            expected.par_chunks_mut(hidden).zip(&shrink).filter(|(_, s)| **s != T::one()).for_each(|(row, &s)| {
                row.iter_mut().for_each(|x| *x *= s);
            });
            linear::backward_input(&h.like(logits, rows), chunk, expected, true);
        }
    }
    if let Some(expected) = expected {
        expected.par_chunks_mut(hidden).zip(&sums).for_each(|(row, sum)| {
            let inverse = sum.recip();
            row.iter_mut().for_each(|x| *x *= inverse);
        });
    }
    let lse: Vec<T> = largest.iter().zip(&sums).map(|(&largest, sum)| largest + sum.ln()).collect();
    let logps = picked.iter().zip(&lse).map(|(&p, &l)| p - l).collect();
    ForwardLogps { logps, lse, exponentials: kept }
}

/// Which gradient of the hidden rows is wanted.
#[derive(Debug, Clone, Copy)]
pub enum RowGradient<'a> {
    /// The gradient of every row (R,H).
    Rows,
    /// The sum over the rows of each group (groups,H), for a vector that was added to all of them: a fraction of the
    /// work.
    Sums {
        /// Group of every row.
        of: &'a [u32],
        /// Groups.
        groups: usize,
    },
    /// None: the rows are frozen.
    Nothing,
}

/// Gradient of the hidden rows, and the head's added to `dw` where wanted.
///
/// With p = softmax(W h) and upstream g: `dlogits = g (onehot(target) - p)`.
///
/// # Shapes
/// h (R,H) · w, dw (V,H) · targets, dlogps (R). Returns dh (R,H).
pub fn backward<T: Real>(
    h: &[T],
    w: &[T],
    targets: &[u32],
    scored: &ForwardLogps<T>,
    dlogps: &[T],
    precision: Precision,
    dw: Option<&mut [T]>,
) -> Vec<T> {
    backward_for(h, w, targets, scored, dlogps, precision, RowGradient::Rows, dw)
}

/// [`backward`] with the gradient that is wanted: (R,H), (groups,H), or nothing.
///
/// # Shapes
/// As [`backward`].
#[allow(clippy::too_many_arguments, reason = "what the forward pass took, and what is wanted")]
pub fn backward_for<T: Real>(
    h: &[T],
    w: &[T],
    targets: &[u32],
    scored: &ForwardLogps<T>,
    dlogps: &[T],
    precision: Precision,
    wanted: RowGradient<'_>,
    mut dw: Option<&mut [T]>,
) -> Vec<T> {
    let rows = targets.len();
    if rows == 0 {
        return Vec::new();
    }
    let hidden = h.len() / rows;
    let mut dh = match wanted {
        RowGradient::Rows => vec![T::zero(); h.len()],
        RowGradient::Sums { groups, .. } => vec![T::zero(); groups * hidden],
        RowGradient::Nothing => Vec::new(),
    };
    // Sums over groups as a product with this matrix of zeros and ones (R, groups).
    let mut member = Vec::new();
    if let RowGradient::Sums { of, groups } = wanted {
        member = vec![T::zero(); rows * groups];
        of.iter().enumerate().for_each(|(row, &group)| member[row * groups + group as usize] = T::one());
    }
    let vocabulary = w.len() / hidden;
    let h = Rows::new(h, rows, precision);
    let mut logits = vec![T::zero(); rows * CHUNK.min(vocabulary)];
    for (number, at) in (0..vocabulary).step_by(CHUNK).enumerate() {
        let width = CHUNK.min(vocabulary - at);
        let logits = &mut logits[..rows * width];
        let chunk = at * hidden..(at + width) * hidden;
        let factor = |row: usize, largest: T| -dlogps[row] * (largest - scored.lse[row]).exp_fast();
        let again = |logits: &mut [T]| linear::forward(&h, &w[chunk.clone()], logits, false);
        scored.exponentials.scaled(number, logits, again, factor);
        // The target's is exact where it is nearly certain: the largest of a row was kept as 1.
        for ((row, &target), &g) in logits.chunks_exact_mut(width).zip(targets).zip(dlogps) {
            if let Some(x) = (target as usize).checked_sub(at).and_then(|i| row.get_mut(i)) {
                *x += g;
            }
        }
        let logits = h.like(logits, rows);
        match wanted {
            RowGradient::Rows => linear::backward_input(&logits, &w[chunk.clone()], &mut dh, true),
            RowGradient::Sums { groups, .. } => {
                let mut sums = vec![T::zero(); groups * width];
                linear::backward_weight(&h.like(&member, rows), &logits, &mut sums);
                linear::backward_input(&h.like(&sums, groups), &w[chunk.clone()], &mut dh, true);
            }
            RowGradient::Nothing => {}
        }
        if let Some(dw) = dw.as_deref_mut() {
            linear::backward_weight(&logits, &h, &mut dw[chunk]);
        }
    }
    dh
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn equal_logits_give_the_uniform_distribution() {
        // Zero weights: every token has probability 1/V.
        let v = CHUNK + 7;
        let got = forward(&[1.0, 2.0], &vec![0.0; v * 2], &[v as u32 - 1], 2, Precision::F32, None);
        assert!((got.logps[0] + (v as f64).ln()).abs() < 1e-12);
    }

    #[test]
    fn a_target_that_is_nearly_certain_keeps_its_gradient() {
        // p = e^16 / (e^16 + V - 1): 1 - p is far below bfloat16's distance from 1 to the next number.
        let v = CHUNK + 1;
        let mut w = vec![0f32; v * 2];
        w[14] = 1.0;
        let rest = (v - 1) as f64;
        let wanted = rest / (16f64.exp() + rest);
        for precision in [Precision::F32, Precision::Bf16] {
            for room in [None, Some(Arc::new(Room::new(1 << 20)))] {
                let scored = forward(&[16.0, 0.5], &w, &[7], 2, precision, room);
                let dh = backward(&[16.0, 0.5], &w, &[7], &scored, &[1.0], precision, None);
                assert!((f64::from(dh[0]) / wanted - 1.0).abs() < 0.01, "{precision:?}: {} {wanted}", dh[0]);
            }
        }
    }

    #[test]
    fn sums_over_groups_are_sums_of_rows() {
        let (r, hidden, v) = (5, 3, CHUNK + 2);
        let (h, w, g) = (check::numbers("h", r * hidden), check::numbers("w", v * hidden), check::numbers("g", r));
        let targets = [0, 9, 1, 7, v as u32 - 1];
        let scored = forward(&h, &w, &targets, hidden, Precision::F32, None);
        let of = [1, 0, 1, 2, 0];
        let run = |wanted| {
            let mut dw = vec![0.0; w.len()];
            (backward_for(&h, &w, &targets, &scored, &g, Precision::F32, wanted, Some(&mut dw)), dw)
        };
        let (rows, dw) = run(RowGradient::Rows);
        let (sums, same) = run(RowGradient::Sums { of: &of, groups: 4 });
        let mut by_hand = vec![0.0; 4 * hidden];
        for (row, group) in rows.chunks(hidden).zip(of) {
            row.iter().enumerate().for_each(|(i, x)| by_hand[group as usize * hidden + i] += x);
        }
        assert!(sums.iter().zip(&by_hand).all(|(a, b)| (a - b).abs() < 1e-12) && sums.len() == by_hand.len());
        let (nothing, again) = run(RowGradient::Nothing);
        assert!(nothing.is_empty() && dw == same && dw == again);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (r, hidden, v) = (3, 4, CHUNK + 5);
        let (h, w, g) = (check::numbers("h", r * hidden), check::numbers("w", v * hidden), check::numbers("g", r));
        let targets = [0, 9, v as u32 - 1];
        let f = |h: &[f64], w: &[f64]| check::dot(&forward(h, w, &targets, hidden, Precision::F32, None).logps, &g);
        let scored = forward(&h, &w, &targets, hidden, Precision::F32, None);
        let mut dw = vec![0.0; w.len()];
        let dh = backward(&h, &w, &targets, &scored, &g, Precision::F32, Some(&mut dw));
        check::gradient("dh", &h, &dh, |h| f(h, &w));
        // With a frozen head the same, from what the forward pass added up.
        let (got, mut frozen) = forward_expecting(&h, &w, &targets, hidden, Precision::F32);
        assert_eq!(got.lse, scored.lse);
        backward_expecting(&mut frozen, &w, &targets, &g);
        assert!(frozen.iter().zip(&dh).all(|(a, b)| (a - b).abs() < 1e-12));
        // From exponentials that were kept, with room for one of the two chunks and for both, the same again.
        for room in [r * (CHUNK + 1) * size_of::<f64>(), r * v * size_of::<f64>() + 1024] {
            let scored = forward(&h, &w, &targets, hidden, Precision::F32, Some(Arc::new(Room::new(room))));
            let mut same = vec![0.0; w.len()];
            let rows = backward(&h, &w, &targets, &scored, &g, Precision::F32, Some(&mut same));
            assert!(rows.iter().zip(&dh).all(|(a, b)| (a - b).abs() < 1e-12));
            assert!(same.iter().zip(&dw).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        for at in [0, 36, (v - 1) * hidden] {
            check::gradient("dw", &w[at..at + hidden], &dw[at..at + hidden], |x| {
                let mut w = w.clone();
                w[at..at + hidden].copy_from_slice(x);
                f(&h, &w)
            });
        }
    }
}
