//! Log-probabilities of given tokens where every pair adds a bias of its own to the logits:
//! [`super::token_logps`] for `W h + b`.

use rayon::prelude::*;

use super::columns::{ScoredColumns, ShiftGradients};
use super::real::Real;
use super::rows::Rows;
use super::vector;

/// Rows per task of the elementwise passes.
const ROWS: usize = 16;

/// Result of [`forward`].
#[derive(Debug)]
pub struct BiasedLogps<T> {
    /// Log-probability of each row's target (R), nats.
    pub logps: Vec<T>,
    /// Log-sum-exp of each row's logits (R).
    lse: Vec<T>,
}

/// `log_softmax(W h_r + b)[target_r]` with the bias of the row's pair.
///
/// # Shapes
/// h (R,H) · biases (B,C) · pair_of (R), each below B -> log-probabilities (R).
///
/// # Units
/// Biases in logits, log-probabilities in nats.
pub fn forward<T: Real>(h: &[T], columns: &ScoredColumns<'_, T>, biases: &[T], pair_of: &[u32]) -> BiasedLogps<T> {
    let (rows, count) = (columns.rows(), columns.count());
    let h = Rows::new(h, rows, columns.precision);
    let mut picked = columns.known_targets();
    let mut state = match columns.others {
        Some(others) => others.lse.iter().map(|&lse| (lse, T::one())).collect(),
        None => vec![(T::neg_infinity(), T::zero()); rows],
    };
    let mut buffer = columns.buffer();
    for chunk in columns.chunks() {
        let (at, width) = chunk;
        let logits = columns.logits(&h, chunk, &mut buffer);
        let tasks =
            logits.par_chunks_mut(ROWS * width).zip(state.par_chunks_mut(ROWS)).zip(picked.par_chunks_mut(ROWS));
        tasks.enumerate().for_each(|(task, ((logits, state), picked))| {
            let rows = logits.chunks_exact_mut(width).zip(state).zip(picked);
            for (i, ((logits, (largest, sum)), picked)) in rows.enumerate() {
                let row = task * ROWS + i;
                let bias = &biases[pair_of[row] as usize * count + at..][..width];
                vector::add(logits, bias);
                if let Some(i) = columns.target(row, chunk) {
                    *picked = logits[i];
                }
                let top = vector::max(*largest, logits);
                *sum = *sum * (*largest - top).exp_fast() + vector::exp_sum(logits, top);
                *largest = top;
            }
        });
    }
    let lse: Vec<T> = state.iter().map(|(largest, sum)| *largest + sum.ln()).collect();
    let logps = picked.iter().zip(&lse).map(|(&p, &l)| p - l).collect();
    BiasedLogps { logps, lse }
}

/// Gradients of the biases, of the rows where wanted, and the columns' added to `dw` where wanted.
///
/// With p = softmax(W h + b) and upstream g: `dlogits = g (onehot(target) - p)`, summed over a pair's rows for its
/// bias.
///
/// # Shapes
/// As [`forward`]; dlogps (R) · dw (C,H).
#[allow(clippy::too_many_arguments, reason = "what the forward pass took, and what is wanted")]
pub fn backward<T: Real>(
    h: &[T],
    columns: &ScoredColumns<'_, T>,
    biases: &[T],
    pair_of: &[u32],
    scored: &BiasedLogps<T>,
    dlogps: &[T],
    rows_wanted: bool,
    mut dw: Option<&mut [T]>,
) -> ShiftGradients<T> {
    let (rows, count) = (columns.rows(), columns.count());
    let mut dbiases = vec![T::zero(); biases.len()];
    let mut dh = vec![T::zero(); if rows_wanted { h.len() } else { 0 }];
    let h = Rows::new(h, rows, columns.precision);
    // Rows of every pair, in their order, so that sums do not depend on threads.
    let mut rows_of: Vec<Vec<usize>> = vec![Vec::new(); biases.len() / count.max(1)];
    pair_of.iter().enumerate().for_each(|(row, &pair)| rows_of[pair as usize].push(row));
    let mut buffer = columns.buffer();
    for chunk in columns.chunks() {
        let (at, width) = chunk;
        let logits = columns.logits(&h, chunk, &mut buffer);
        logits.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, logits)| {
            for (i, logits) in logits.chunks_exact_mut(width).enumerate() {
                let row = task * ROWS + i;
                vector::add(logits, &biases[pair_of[row] as usize * count + at..][..width]);
                vector::minus_softmax(logits, scored.lse[row], dlogps[row]);
                if let Some(i) = columns.target(row, chunk) {
                    logits[i] += dlogps[row];
                }
            }
        });
        let logits: &[T] = logits;
        dbiases.par_chunks_mut(count).zip(&rows_of).for_each(|(out, rows)| {
            for row in rows {
                vector::add(&mut out[at..at + width], &logits[row * width..(row + 1) * width]);
            }
        });
        columns.back(&h, logits, chunk, rows_wanted.then_some(&mut dh[..]), dw.as_deref_mut());
    }
    ShiftGradients { shifts: dbiases, rows: dh }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::columns::CHUNK;
    use crate::nn::{Precision, check, token_logps};

    const HIDDEN: usize = 3;

    #[test]
    fn without_a_bias_it_is_the_plain_softmax_and_a_bias_counts() {
        let (h, w) = (check::numbers("h", 2 * HIDDEN), check::numbers("w", 5 * HIDDEN));
        let targets = [1, 4];
        let columns =
            ScoredColumns { w: &w, hidden: HIDDEN, targets: &targets, others: None, precision: Precision::F32 };
        let plain = token_logps::forward(&h, &w, &targets, HIDDEN, Precision::F32, None);
        let got = forward(&h, &columns, &[0.0; 10], &[0, 1]);
        assert!(got.logps.iter().zip(&plain.logps).all(|(a, b)| (a - b).abs() < 1e-14));
        // Raising the target's own logit by ln 2: p -> 2p / (1 + p).
        let mut biases = [0.0; 10];
        biases[5 + 4] = 2f64.ln();
        let got = forward(&h, &columns, &biases, &[0, 1]);
        let p = plain.logps[1].exp();
        assert!((got.logps[1].exp() - 2.0 * p / (1.0 + p)).abs() < 1e-14 && got.logps[0] == plain.logps[0]);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (r, v) = (4, CHUNK + 2);
        let (h, w) = (check::numbers("h", r * HIDDEN), check::numbers("w", v * HIDDEN));
        let (b, g) = (check::numbers("b", 2 * v), check::numbers("g", r));
        let (targets, pair_of) = ([0, 9, v as u32 - 1, 9], [0, 1, 1, 0]);
        fn over<'a>(w: &'a [f64], targets: &'a [u32]) -> ScoredColumns<'a, f64> {
            ScoredColumns { w, hidden: HIDDEN, targets, others: None, precision: Precision::F32 }
        }
        let f = |h: &[f64], w: &[f64], b: &[f64]| check::dot(&forward(h, &over(w, &targets), b, &pair_of).logps, &g);
        let scored = forward(&h, &over(&w, &targets), &b, &pair_of);
        let mut dw = vec![0.0; w.len()];
        let got = backward(&h, &over(&w, &targets), &b, &pair_of, &scored, &g, true, Some(&mut dw));
        check::gradient("dh", &h, &got.rows, |h| f(h, &w, &b));
        for at in [0, 27, (v - 1) * HIDDEN] {
            check::gradient("dw", &w[at..at + HIDDEN], &dw[at..at + HIDDEN], |x| {
                let mut w = w.clone();
                w[at..at + HIDDEN].copy_from_slice(x);
                f(&h, &w, &b)
            });
        }
        for at in [0, 9, v - 1, v + 9] {
            check::gradient("db", &b[at..at + 1], &got.shifts[at..at + 1], |x| {
                let mut b = b.clone();
                b[at..at + 1].copy_from_slice(x);
                f(&h, &w, &b)
            });
        }
    }
}
