//! Log-probabilities of given tokens under every one of a few shifts: [`super::gather`] for `W (h + e_k)`, k = 1..K.
//!
//! W (h + e) = W h + W e: rows and shifts go through one product, and only the
//! softmax is computed for each of their sums. Nothing of size
//! (rows, shifts, vocabulary) is ever stored.

use rayon::prelude::*;

use super::linear;
use super::real::Real;
use super::rows::{Precision, Rows};
use super::vector;

/// Vocabulary entries per chunk: a multiple of the product kernel's tile.
const CHUNK: usize = 3072;
/// Rows per task: each task of the backward pass has sums for all shifts.
const ROWS: usize = 64;

/// Result of [`forward`].
pub struct GatheredEach<T> {
    /// Log-probability of each row's target under each shift (R,K), nats.
    pub logps: Vec<T>,
    /// Log-sum-exp of each row's logits under each shift (R,K).
    pub lse: Vec<T>,
}

/// `log_softmax(W (h_r + e_k))[target_r]` for every row and shift.
///
/// # Shapes
/// x (R+K,H), the rows and behind them the shifts · w (V,H) · targets (R), each below V.
pub fn forward<T: Real>(x: &[T], w: &[T], targets: &[u32], hidden: usize, precision: Precision) -> GatheredEach<T> {
    let (rows, all) = (targets.len(), x.len() / hidden);
    let shifts = all - rows;
    let vocabulary = w.len() / hidden;
    let x = Rows::new(x, all, precision);
    let mut state = vec![(T::neg_infinity(), T::zero()); rows * shifts];
    let mut picked = vec![T::zero(); rows * shifts];
    let mut logits = vec![T::zero(); all * CHUNK.min(vocabulary)];
    for at in (0..vocabulary).step_by(CHUNK) {
        let width = CHUNK.min(vocabulary - at);
        let logits = &mut logits[..all * width];
        linear::forward(&x, &w[at * hidden..(at + width) * hidden], logits, false);
        let (of_rows, of_shifts) = logits.split_at(rows * width);
        state
            .par_chunks_mut(ROWS * shifts)
            .zip(picked.par_chunks_mut(ROWS * shifts))
            .zip(targets.par_chunks(ROWS))
            .zip(of_rows.par_chunks(ROWS * width))
            .for_each(|(((state, picked), targets), logits)| {
                let mut both = vec![T::zero(); width];
                let rows = state.chunks_exact_mut(shifts).zip(picked.chunks_exact_mut(shifts)).zip(targets);
                for (((state, picked), &target), row) in rows.zip(logits.chunks_exact(width)) {
                    let target = (target as usize).checked_sub(at).filter(|&i| i < width);
                    let each = state.iter_mut().zip(picked).zip(of_shifts.chunks_exact(width));
                    for (((largest, sum), picked), shift) in each {
                        vector::sums(&mut both, row, shift);
                        if let Some(i) = target {
                            *picked = both[i];
                        }
                        let top = vector::max(*largest, &both);
                        *sum = *sum * (*largest - top).exp_fast() + vector::exp_sum(&both, top);
                        *largest = top;
                    }
                }
            });
    }
    let lse: Vec<T> = state.iter().map(|(largest, sum)| *largest + sum.ln()).collect();
    let logps = picked.iter().zip(&lse).map(|(&p, &l)| p - l).collect();
    GatheredEach { logps, lse }
}

/// Gradient of rows and shifts, and the head's added to `dw` where wanted.
///
/// With p_k = softmax(W (h + e_k)) and upstream g_k, a row's logits have the gradient
/// `sum_k g_k (onehot(target) - p_k)`, and a shift's the sum of its own terms over the rows.
///
/// # Shapes
/// x (R+K,H) · w, dw (V,H) · targets (R) · lse, dlogps (R,K). Returns dx (R+K,H).
pub fn backward<T: Real>(
    x: &[T],
    w: &[T],
    targets: &[u32],
    lse: &[T],
    dlogps: &[T],
    precision: Precision,
    mut dw: Option<&mut [T]>,
) -> Vec<T> {
    let rows = targets.len();
    let mut dx = vec![T::zero(); x.len()];
    if rows == 0 || dlogps.is_empty() {
        return dx;
    }
    let shifts = dlogps.len() / rows;
    let all = rows + shifts;
    let hidden = x.len() / all;
    let vocabulary = w.len() / hidden;
    let x = Rows::new(x, all, precision);
    let mut logits = vec![T::zero(); all * CHUNK.min(vocabulary)];
    for at in (0..vocabulary).step_by(CHUNK) {
        let width = CHUNK.min(vocabulary - at);
        let logits = &mut logits[..all * width];
        let chunk = at * hidden..(at + width) * hidden;
        linear::forward(&x, &w[chunk.clone()], logits, false);
        let (of_rows, of_shifts) = logits.split_at_mut(rows * width);
        let shifted: &[T] = of_shifts;
        let parts: Vec<Vec<T>> = of_rows
            .par_chunks_mut(ROWS * width)
            .zip(targets.par_chunks(ROWS))
            .zip(lse.par_chunks(ROWS * shifts))
            .zip(dlogps.par_chunks(ROWS * shifts))
            .map(|(((logits, targets), lse), dlogps)| {
                let mut part = vec![T::zero(); shifts * width];
                let (mut total, mut both) = (vec![T::zero(); width], vec![T::zero(); width]);
                let rows = logits.chunks_exact_mut(width).zip(targets);
                let rows = rows.zip(lse.chunks_exact(shifts)).zip(dlogps.chunks_exact(shifts));
                for (((row, &target), lse), dlogps) in rows {
                    let target = (target as usize).checked_sub(at).filter(|&i| i < width);
                    total.fill(T::zero());
                    let each = part.chunks_exact_mut(width).zip(shifted.chunks_exact(width)).zip(lse).zip(dlogps);
                    for (((part, shift), &lse), &g) in each {
                        vector::sums(&mut both, row, shift);
                        vector::minus_softmax(&mut both, lse, g);
                        if let Some(i) = target {
                            both[i] += g;
                        }
                        vector::add(&mut total, &both);
                        vector::add(part, &both);
                    }
                    row.copy_from_slice(&total);
                }
                part
            })
            .collect();
        // Parts are added in their order, whatever thread they came from.
        of_shifts.par_chunks_mut(width).enumerate().for_each(|(k, out)| {
            out.fill(T::zero());
            for part in &parts {
                out.iter_mut().zip(&part[k * width..(k + 1) * width]).for_each(|(o, &p)| *o += p);
            }
        });
        let logits = x.like(logits, all);
        linear::backward_input(&logits, &w[chunk.clone()], &mut dx, true);
        if let Some(dw) = dw.as_deref_mut() {
            linear::backward_weight(&logits, &x, &mut dw[chunk]);
        }
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{check, gather};

    const HIDDEN: usize = 4;

    #[test]
    fn every_shift_is_what_it_is_alone() {
        let (r, k, v) = (ROWS + 3, 3, CHUNK + 5);
        let (x, w) = (check::numbers("x", (r + k) * HIDDEN), check::numbers("w", v * HIDDEN));
        let targets: Vec<u32> = (0..r).map(|i| (i * 97 % v) as u32).collect();
        let got = forward(&x, &w, &targets, HIDDEN, Precision::F32);
        for shift in 0..k {
            let e = &x[(r + shift) * HIDDEN..][..HIDDEN];
            let rows: Vec<f64> = x[..r * HIDDEN].iter().enumerate().map(|(i, h)| h + e[i % HIDDEN]).collect();
            let alone = gather::forward(&rows, &w, &targets, HIDDEN, Precision::F32);
            for row in 0..r {
                assert!((got.logps[row * k + shift] - alone.logps[row]).abs() < 1e-12);
                assert!((got.lse[row * k + shift] - alone.lse[row]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (r, k, v) = (3, 2, CHUNK + 5);
        let (x, w) = (check::numbers("x", (r + k) * HIDDEN), check::numbers("w", v * HIDDEN));
        let g = check::numbers("g", r * k);
        let targets = [0, 9, v as u32 - 1];
        let f = |x: &[f64], w: &[f64]| check::dot(&forward(x, w, &targets, HIDDEN, Precision::F32).logps, &g);
        let lse = forward(&x, &w, &targets, HIDDEN, Precision::F32).lse;
        let mut dw = vec![0.0; w.len()];
        let dx = backward(&x, &w, &targets, &lse, &g, Precision::F32, Some(&mut dw));
        check::gradient("dx", &x, &dx, |x| f(x, &w));
        for at in [0, 9 * HIDDEN, (v - 1) * HIDDEN] {
            check::gradient("dw", &w[at..at + HIDDEN], &dw[at..at + HIDDEN], |row| {
                let mut w = w.clone();
                w[at..at + HIDDEN].copy_from_slice(row);
                f(&x, &w)
            });
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (r, k, v) = (3 * ROWS + 1, 4, 700);
        let x: Vec<f32> = check::numbers("x", (r + k) * HIDDEN).into_iter().map(|x| x as f32).collect();
        let w: Vec<f32> = check::numbers("w", v * HIDDEN).into_iter().map(|x| x as f32).collect();
        let g: Vec<f32> = check::numbers("g", r * k).into_iter().map(|x| x as f32).collect();
        let targets: Vec<u32> = (0..r as u32).collect();
        let with = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let lse = forward(&x, &w, &targets, HIDDEN, Precision::F32).lse;
                backward(&x, &w, &targets, &lse, &g, Precision::F32, None)
            })
        };
        assert_eq!(with(1), with(3));
    }
}
