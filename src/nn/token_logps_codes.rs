//! Log-probabilities of given tokens under every one of K shifts of the logits, at the cost of one softmax.
//!
//! A code k adds `s_k`, a vector over the vocabulary, to all logits l. With p the exponentials of l,
//!
//! ```text
//! log softmax(l + s_k)[y] = l_y + s_ky - ln sum_v p_v e^{s_kv},
//! ```
//!
//! so that the sums of all codes are one product of p (R,V) with the exponentials of the shifts (V,K): each row's
//! logits are exponentiated once and not K times. Nothing of size (R,V) or (R,K,V) is stored. Each row may take one
//! more shift, that of its pair, by a product of two vectors.
//!
//! Exponentials of a shift are taken relative to its largest entry. Where a shift's entries are far apart and a row's
//! probabilities lie where the shift is low, terms of the sum leave float32's range: [`ShiftedLogps::is_exact`] says
//! whether any of them could count.

use std::sync::Arc;

use rayon::prelude::*;

use super::columns::{ScoredColumns, ShiftGradients};
use super::exponentials::{Exponentials, Room};
use super::real::Real;
use super::rows::{Precision, Rows};
use super::vector;

/// Rows per task of the elementwise passes.
const ROWS: usize = 16;
/// Smallest sum of exponentials that is exact. Each term lost below float32's range is below 1.2e-38, so that those of
/// 50,000 columns are less than 1e-5 of it.
const SMALLEST: f64 = 1e-28;

/// Which rows take which of the shifts (S,C).
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// K, at least 1: the first K are for every row.
    pub shared: usize,
    /// Row r also takes the shift `K + own[r]`; none: it does not.
    pub own: Option<&'a [u32]>,
}

impl Taken<'_> {
    /// Shifts of one row.
    pub fn of_row(&self) -> usize {
        self.shared + usize::from(self.own.is_some())
    }
}

/// Result of [`forward`], and what [`backward`] needs of it.
#[derive(Debug)]
pub struct ShiftedLogps<T> {
    /// Log-probability of each row's target under each shift that it takes: (R,K), or (R,K+1) with its own last; nats.
    pub logps: Vec<T>,
    /// Logit of each row's target (R).
    picked: Vec<T>,
    /// Each row's largest logit (R).
    largest: Vec<T>,
    /// Sums of exponentials under the shared shifts, relative to both maxima (R,K).
    sums: Vec<T>,
    /// The same under each row's own shift (R), where it takes one.
    own: Vec<T>,
    /// Exponentials of the logits, where they found room.
    exponentials: Exponentials<T>,
}

impl<T: Real> ShiftedLogps<T> {
    /// Whether every sum is large enough that no term lost below float32's range could count in it.
    pub fn is_exact(&self) -> bool {
        // Written so that NaN is not.
        self.sums.iter().chain(&self.own).all(|&sum| sum >= T::of(SMALLEST))
    }
}

/// Largest entry of every shift, at least 0 where columns that take no shift are left out; and the exponentials
/// relative to it.
fn exponentials<T: Real>(columns: &ScoredColumns<'_, T>, shifts: &[T]) -> (Vec<T>, Vec<T>) {
    let width = columns.count();
    let least = if columns.others.is_some() { T::zero() } else { T::neg_infinity() };
    let tops: Vec<T> = shifts.par_chunks(width).map(|shift| vector::max(least, shift)).collect();
    let mut exp = shifts.to_vec();
    exp.par_chunks_mut(width).zip(&tops).for_each(|(shift, &top)| {
        vector::exponentials(shift, T::one(), top);
    });
    (tops, exp)
}

/// Copies a chunk of columns of every shift into one piece (K,width).
fn chunk_of<T: Real>(all: &[T], columns: usize, (at, width): (usize, usize)) -> Vec<T> {
    all.chunks_exact(columns).flat_map(|row| &row[at..at + width]).copied().collect()
}

/// `log_softmax(W h_r + s_k)[target_r]` for every row and every shift that it takes; exponentials of the logits are kept
/// in the room, if there is one.
///
/// # Shapes
/// h (R,H) · shifts (S,C) -> log-probabilities (R,K) or (R,K+1).
///
/// # Units
/// Shifts in logits, log-probabilities in nats.
pub fn forward<T: Real>(
    h: &[T],
    columns: &ScoredColumns<'_, T>,
    shifts: &[T],
    taken: Taken<'_>,
    room: Option<Arc<Room>>,
) -> ShiftedLogps<T> {
    let (rows, count, k) = (columns.rows(), columns.count(), taken.shared);
    let (tops, exp) = exponentials(columns, shifts);
    let h = Rows::new(h, rows, columns.precision);
    let own_of = |row: usize| taken.own.map(|own| k + own[row] as usize);
    let mut picked = columns.known_targets();
    let (mut largest, mut sums, mut own) = match columns.others {
        // The others count as one exponential, of their log-sum-exp.
        Some(others) => {
            let each: Vec<T> = tops.iter().map(|&top| (-top).exp_fast()).collect();
            let own = (0..rows).filter_map(|row| own_of(row).map(|shift| each[shift])).collect();
            (others.lse.to_vec(), each[..k].repeat(rows), own)
        }
        None => {
            let own = vec![T::zero(); taken.own.map_or(0, <[u32]>::len)];
            (vec![T::neg_infinity(); rows], vec![T::zero(); rows * k], own)
        }
    };
    let mut kept = Exponentials::new(room, columns.precision);
    let mut buffer = columns.buffer();
    for chunk in columns.chunks() {
        let (at, width) = chunk;
        let logits = columns.logits(&h, chunk, &mut buffer);
        for (row, picked) in picked.iter_mut().enumerate() {
            if let Some(i) = columns.target(row, chunk) {
                *picked = logits[row * width + i];
            }
        }
        // How much smaller earlier sums become, row by row.
        let mut scales = vec![T::one(); rows];
        let tasks =
            logits.par_chunks_mut(ROWS * width).zip(largest.par_chunks_mut(ROWS)).zip(scales.par_chunks_mut(ROWS));
        tasks.for_each(|((logits, largest), scales)| {
            for ((row, largest), scale) in logits.chunks_exact_mut(width).zip(largest).zip(scales) {
                let top = vector::max(*largest, row);
                *scale = (*largest - top).exp_fast();
                vector::exponentials(row, T::one(), top);
                *largest = top;
            }
        });
        let logits: &[T] = logits;
        kept.push(logits, &largest);
        own.par_chunks_mut(ROWS).enumerate().for_each(|(task, own)| {
            for (i, sum) in own.iter_mut().enumerate() {
                let row = task * ROWS + i;
                let Some(shift) = own_of(row) else { continue };
                let exp = &exp[shift * count + at..][..width];
                *sum = *sum * scales[row] + vector::dot(&logits[row * width..][..width], exp);
            }
        });
        sums.chunks_exact_mut(k).zip(&scales).for_each(|(sums, &scale)| {
            sums.iter_mut().for_each(|sum| *sum *= scale);
        });
        let exp = chunk_of(&exp[..k * count], count, chunk);
        // Never rounded to bfloat16: these are sums of probabilities, not of features.
        let exp = Rows::new(&exp, k, Precision::F32);
        Rows::new(logits, rows, Precision::F32).times_transposed(&exp, &mut sums, true);
    }
    let mut logps = Vec::with_capacity(rows * taken.of_row());
    for row in 0..rows {
        let target = columns.targets[row] as usize;
        let logp = |shift: usize, sum: T| {
            let at_target = if target < count { shifts[shift * count + target] } else { T::zero() };
            picked[row] + at_target - largest[row] - tops[shift] - sum.ln()
        };
        logps.extend((0..k).map(|code| logp(code, sums[row * k + code])));
        logps.extend(own_of(row).map(|shift| logp(shift, own[row])));
    }
    ShiftedLogps { logps, picked, largest, sums, own, exponentials: kept }
}

/// Gradients of the shifts, of the rows where wanted, and the columns' added to `dw` where wanted.
///
/// With `p_k = softmax(l + s_k)` and upstream g: `ds_k = sum_r g_rk (onehot(target_r) - p_rk)` over the rows that take
/// the shift, and `dl_r = sum_k g_rk (onehot(target_r) - p_rk)` over the shifts that the row takes; the sums of all
/// rows and codes are products with the exponentials.
///
/// # Shapes
/// h (R,H) · shifts (S,C) · dlogps (R,K) or (R,K+1) · dw (C,H).
#[allow(clippy::too_many_arguments, reason = "what the forward pass took, and what is wanted")]
pub fn backward<T: Real>(
    h: &[T],
    columns: &ScoredColumns<'_, T>,
    shifts: &[T],
    taken: Taken<'_>,
    scored: &ShiftedLogps<T>,
    dlogps: &[T],
    rows_wanted: bool,
    mut dw: Option<&mut [T]>,
) -> ShiftGradients<T> {
    let (rows, count, k) = (columns.rows(), columns.count(), taken.shared);
    let mut dshifts = vec![T::zero(); shifts.len()];
    let mut dh = vec![T::zero(); if rows_wanted { h.len() } else { 0 }];
    if rows == 0 || shifts.is_empty() {
        return ShiftGradients { shifts: dshifts, rows: dh };
    }
    let (_, exp) = exponentials(columns, shifts);
    let h = Rows::new(h, rows, columns.precision);
    let per_row = taken.of_row();
    let shared: Vec<T> = dlogps.chunks_exact(per_row).flat_map(|g| &g[..k]).copied().collect();
    let weights: Vec<T> = shared.iter().zip(&scored.sums).map(|(&g, &sum)| g / sum).collect();
    let weights = Rows::new(&weights, rows, Precision::F32);
    let own: Vec<T> = dlogps.chunks_exact(per_row).zip(&scored.own).map(|(g, &sum)| g[k] / sum).collect();
    // Rows of every pair, in their order, so that sums do not depend on threads.
    let mut rows_of: Vec<Vec<usize>> = vec![Vec::new(); shifts.len() / count.max(1) - k];
    let pairs = taken.own.unwrap_or_default();
    pairs.iter().enumerate().for_each(|(row, &pair)| rows_of[pair as usize].push(row));
    let totals: Vec<T> = dlogps.chunks_exact(per_row).map(|g| g.iter().copied().sum()).collect();
    let through = rows_wanted || dw.is_some();
    let mut buffer = columns.buffer();
    let mut spread = if through { columns.buffer() } else { Vec::new() };
    for (number, chunk) in columns.chunks().enumerate() {
        let (at, width) = chunk;
        let factor = |row: usize, largest: T| (largest - scored.largest[row]).exp_fast();
        let logits = &mut buffer[..rows * width];
        let again = |logits: &mut [T]| {
            columns.logits(&h, chunk, logits);
        };
        scored.exponentials.scaled(number, logits, again, factor);
        for row in 0..rows {
            if let Some(i) = columns.target(row, chunk) {
                // Not from what was kept: 1 - p loses its digits where p is near 1 and rounded.
                logits[row * width + i] = (scored.picked[row] - scored.largest[row]).exp_fast();
            }
        }
        let codes = chunk_of(&exp[..k * count], count, chunk);
        let codes = Rows::new(&codes, k, Precision::F32);
        let (of_codes, of_pairs) = dshifts.split_at_mut(k * count);
        let mut sums = vec![T::zero(); k * width];
        weights.transposed_times(&Rows::new(logits, rows, Precision::F32), &mut sums, false);
        of_codes.par_chunks_mut(count).zip(sums.par_chunks(width)).for_each(|(out, sums)| {
            out[at..at + width].copy_from_slice(sums);
        });
        of_pairs.par_chunks_mut(count).zip(&rows_of).for_each(|(out, rows)| {
            for &row in rows {
                vector::add_scaled(&mut out[at..at + width], own[row], &logits[row * width..][..width]);
            }
        });
        dshifts.par_chunks_mut(count).zip(exp.par_chunks(count)).for_each(|(out, exp)| {
            for (out, &exp) in out[at..at + width].iter_mut().zip(&exp[at..at + width]) {
                *out *= -exp;
            }
        });
        for (row, g) in dlogps.chunks_exact(per_row).enumerate() {
            let Some(i) = columns.target(row, chunk) else { continue };
            g[..k].iter().enumerate().for_each(|(code, &g)| dshifts[code * count + at + i] += g);
            if let Some(&pair) = pairs.get(row) {
                dshifts[(k + pair as usize) * count + at + i] += g[k];
            }
        }
        if !through {
            continue;
        }
        let spread = &mut spread[..rows * width];
        weights.times(&codes, spread, false);
        if taken.own.is_some() {
            spread.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, spread)| {
                for (i, spread) in spread.chunks_exact_mut(width).enumerate() {
                    let row = task * ROWS + i;
                    vector::add_scaled(spread, own[row], &exp[(k + pairs[row] as usize) * count + at..][..width]);
                }
            });
        }
        logits.par_chunks_mut(ROWS * width).zip(spread.par_chunks(ROWS * width)).for_each(|(logits, spread)| {
            for (p, &sum) in logits.iter_mut().zip(spread) {
                *p = -*p * sum;
            }
        });
        for (row, &total) in totals.iter().enumerate() {
            if let Some(i) = columns.target(row, chunk) {
                logits[row * width + i] += total;
            }
        }
        columns.back(&h, logits, chunk, rows_wanted.then_some(&mut dh[..]), dw.as_deref_mut());
    }
    ShiftGradients { shifts: dshifts, rows: dh }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;
    use crate::nn::columns::{CHUNK, ELSEWHERE, Others};
    use crate::nn::{token_logps, token_logps_biased};

    const HIDDEN: usize = 4;

    fn all(shared: usize) -> Taken<'static> {
        Taken { shared, own: None }
    }

    fn columns<'a>(w: &'a [f64], targets: &'a [u32]) -> ScoredColumns<'a, f64> {
        ScoredColumns { w, hidden: HIDDEN, targets, others: None, precision: Precision::F32 }
    }

    #[test]
    fn every_shift_is_what_it_is_alone() {
        let (r, k, v) = (ROWS + 3, 3, CHUNK + 5);
        let (h, w) = (check::numbers("h", r * HIDDEN), check::numbers("w", v * HIDDEN));
        let shifts: Vec<f64> = check::numbers("s", k * v).into_iter().map(|s| 20.0 * s).collect();
        let targets: Vec<u32> = (0..r).map(|i| (i * 97 % v) as u32).collect();
        let columns = columns(&w, &targets);
        let got = forward(&h, &columns, &shifts, all(k), None);
        assert!(got.is_exact());
        for (code, shift) in shifts.chunks(v).enumerate() {
            let alone = token_logps_biased::forward(&h, &columns, shift, &vec![0; r]);
            for row in 0..r {
                assert!((got.logps[row * k + code] - alone.logps[row]).abs() < 1e-11);
            }
        }
        // A row's own shift, behind the shared ones.
        let own: Vec<u32> = (0..r as u32).map(|row| row % 2).collect();
        let got = forward(&h, &columns, &shifts, Taken { shared: 1, own: Some(&own) }, None);
        let pairs = token_logps_biased::forward(&h, &columns, &shifts[v..], &own);
        let first = token_logps_biased::forward(&h, &columns, &shifts[..v], &vec![0; r]);
        for (row, got) in got.logps.chunks(2).enumerate() {
            assert!((got[0] - first.logps[row]).abs() < 1e-11 && (got[1] - pairs.logps[row]).abs() < 1e-11);
        }
        // No shift is the plain softmax.
        let plain = token_logps::forward(&h, &w, &targets, HIDDEN, Precision::F32, None);
        let got = forward(&h, &columns, &vec![0.0; v], all(1), None);
        assert!(got.logps.iter().zip(&plain.logps).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn gradients_match_finite_differences() {
        gradients_of(2, all(2));
        gradients_of(3, Taken { shared: 1, own: Some(&[0, 1, 0]) });
    }

    fn gradients_of(k: usize, taken: Taken<'_>) {
        let (r, v) = (3, CHUNK + 5);
        let (h, w) = (check::numbers("h", r * HIDDEN), check::numbers("w", v * HIDDEN));
        let shifts: Vec<f64> = check::numbers("s", k * v).into_iter().map(|s| 3.0 * s).collect();
        let g = check::numbers("g", r * taken.of_row());
        let targets = [0, 9, v as u32 - 1];
        let f =
            |h: &[f64], w: &[f64], s: &[f64]| check::dot(&forward(h, &columns(w, &targets), s, taken, None).logps, &g);
        let scored = forward(&h, &columns(&w, &targets), &shifts, taken, None);
        let mut dw = vec![0.0; w.len()];
        let got = backward(&h, &columns(&w, &targets), &shifts, taken, &scored, &g, true, Some(&mut dw));
        check::gradient("dh", &h, &got.rows, |h| f(h, &w, &shifts));
        for at in [0, 9 * HIDDEN, (v - 1) * HIDDEN] {
            check::gradient("dw", &w[at..at + HIDDEN], &dw[at..at + HIDDEN], |row| {
                let mut w = w.clone();
                w[at..at + HIDDEN].copy_from_slice(row);
                f(&h, &w, &shifts)
            });
        }
        for at in [0, 9, v - 2, v + 7, (k - 1) * v + 9] {
            check::gradient("ds", &shifts[at..at + 2], &got.shifts[at..at + 2], |part| {
                let mut s = shifts.clone();
                s[at..at + 2].copy_from_slice(part);
                f(&h, &w, &s)
            });
        }
        // Constant rows: the same gradient of the shifts, and nothing else.
        let alone = backward(&h, &columns(&w, &targets), &shifts, taken, &scored, &g, false, None);
        assert!(alone.rows.is_empty() && alone.shifts == got.shifts);
        // From exponentials that were kept, with room for one of the two chunks and for both, the same again.
        for room in [r * (CHUNK + 1) * size_of::<f64>(), r * v * size_of::<f64>() + 1024] {
            let scored = forward(&h, &columns(&w, &targets), &shifts, taken, Some(Arc::new(Room::new(room))));
            let mut same = vec![0.0; w.len()];
            let kept = backward(&h, &columns(&w, &targets), &shifts, taken, &scored, &g, true, Some(&mut same));
            let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(near(&kept.rows, &got.rows) && near(&kept.shifts, &got.shifts) && near(&same, &dw));
        }
    }

    #[test]
    fn what_is_kept_in_bfloat16_is_near() {
        let (r, k, v) = (ROWS + 1, 2, CHUNK + 40);
        let narrow = |key, n| check::numbers(key, n).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let (h, w, shifts) = (narrow("h", r * HIDDEN), narrow("w", v * HIDDEN), narrow("s", k * v));
        let (g, targets) = (narrow("g", r * k), (0..r as u32).collect::<Vec<u32>>());
        let columns =
            ScoredColumns { w: &w, hidden: HIDDEN, targets: &targets, others: None, precision: Precision::Bf16 };
        let run = |room| {
            let scored = forward(&h, &columns, &shifts, all(k), room);
            let back = backward(&h, &columns, &shifts, all(k), &scored, &g, true, None);
            (scored.logps, back.shifts, back.rows)
        };
        let (again, kept) = (run(None), run(Some(Arc::new(Room::new(1 << 30)))));
        assert_eq!(again.0, kept.0);
        let near = |a: &[f32], b: &[f32]| {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) < 4e-3 * norm(&mut b.iter().copied())
        };
        assert!(near(&kept.1, &again.1) && near(&kept.2, &again.2));
    }

    #[test]
    fn a_target_that_is_nearly_certain_keeps_its_gradient() {
        // A code raises the target, whose logit is not the largest, until it is nearly certain.
        let v = CHUNK + 1;
        let (mut w, mut shifts) = (vec![0f32; v * HIDDEN], vec![0f32; v]);
        (w[7 * HIDDEN], w[3 * HIDDEN + 1], shifts[7]) = (1.0, 1.0, 8.0);
        let columns = ScoredColumns { w: &w, hidden: HIDDEN, targets: &[7], others: None, precision: Precision::Bf16 };
        let h = [15.25, 16.0, 0.0, 0.0];
        let scored = forward(&h, &columns, &shifts, all(1), Some(Arc::new(Room::new(1 << 20))));
        let got = backward(&h, &columns, &shifts, all(1), &scored, &[1.0], true, None);
        let others = 16f64.exp() + (v - 2) as f64;
        let wanted = others / (23.25f64.exp() + others);
        assert!((f64::from(got.rows[0]) / wanted - 1.0).abs() < 0.01, "{} {wanted}", got.rows[0]);
        assert!((f64::from(got.shifts[7]) / wanted - 1.0).abs() < 0.01, "{} {wanted}", got.shifts[7]);
    }

    #[test]
    fn columns_that_are_left_out_count_as_before() {
        let (r, k, v, kept) = (4, 2, 40, 15);
        let taken = Taken { shared: 1, own: Some(&[0; 4]) };
        let (h, w) = (check::numbers("h", r * HIDDEN), check::numbers("w", v * HIDDEN));
        let mut shifts = check::numbers("s", k * v);
        // Shifts on the first columns alone.
        shifts.chunks_mut(v).for_each(|s| s[kept..].fill(0.0));
        let targets = [3, 39, 14, 15];
        let whole = forward(&h, &columns(&w, &targets), &shifts, taken, None);
        let g = check::numbers("g", r * k);
        let gradient = backward(&h, &columns(&w, &targets), &shifts, taken, &whole, &g, false, None);
        let logit = |row: usize, c: usize| check::dot(&h[row * HIDDEN..][..HIDDEN], &w[c * HIDDEN..][..HIDDEN]);
        let lse: Vec<f64> = (0..r).map(|row| (kept..v).map(|c| logit(row, c).exp()).sum::<f64>().ln()).collect();
        let known: Vec<f64> = (0..r).map(|row| logit(row, targets[row] as usize)).collect();
        let places: Vec<u32> = targets.iter().map(|&t| if (t as usize) < kept { t } else { ELSEWHERE }).collect();
        let part = ScoredColumns {
            w: &w[..kept * HIDDEN],
            hidden: HIDDEN,
            targets: &places,
            others: Some(Others { lse: &lse, target: &known }),
            precision: Precision::F32,
        };
        let few: Vec<f64> = shifts.chunks(v).flat_map(|s| &s[..kept]).copied().collect();
        let got = forward(&h, &part, &few, taken, None);
        assert!(got.logps.iter().zip(&whole.logps).all(|(a, b)| (a - b).abs() < 1e-12));
        let ds = backward(&h, &part, &few, taken, &got, &g, false, None).shifts;
        for (code, ds) in ds.chunks(kept).enumerate() {
            let wanted = &gradient.shifts[code * v..][..kept];
            assert!(ds.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn a_shift_may_be_wide_where_a_rows_probability_is_not_at_its_low_end() {
        // Logits equal to the hidden state: probability where the row's entry is high.
        let identity = |n: usize| (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect::<Vec<f32>>();
        let w = identity(HIDDEN);
        let columns =
            ScoredColumns { w: &w, hidden: HIDDEN, targets: &[1, 0], others: None, precision: Precision::F32 };
        let wide = [60.0, -60.0, 0.0, 0.0];
        let near = forward(&[0.0; 2 * HIDDEN], &columns, &wide, Taken { shared: 1, own: None }, None);
        assert!(near.is_exact());
        assert!((near.logps[0] + 120.0).abs() < 1e-4 && near.logps[1].abs() < 1e-6);
        // The second row's probability is at the token that the shift lowers.
        let h = [0.0, 0.0, 0.0, 0.0, 0.0, 90.0, 0.0, 0.0];
        assert!(!forward(&h, &columns, &wide, Taken { shared: 1, own: None }, None).is_exact());
        assert!(!forward(&h, &columns, &[f32::NAN; 4], Taken { shared: 1, own: None }, None).is_exact());
        assert!(!forward(&h, &columns, &wide.repeat(2), Taken { shared: 1, own: Some(&[0, 0]) }, None).is_exact());
    }

    #[test]
    fn float32_is_near_float64_and_threads_change_no_bit() {
        let (r, k, v) = (3 * ROWS + 1, 4, 700);
        let own: Vec<u32> = (0..r as u32).map(|row| row % 2).collect();
        let taken = Taken { shared: 2, own: Some(&own) };
        let (h, w) = (check::numbers("h", r * HIDDEN), check::numbers("w", v * HIDDEN));
        let shifts: Vec<f64> = check::numbers("s", k * v).into_iter().map(|s| 35.0 * s).collect();
        let g = check::numbers("g", r * taken.of_row());
        let targets: Vec<u32> = (0..r as u32).collect();
        let wide = forward(&h, &columns(&w, &targets), &shifts, taken, None);
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (h, w, shifts, g) = (narrow(&h), narrow(&w), narrow(&shifts), narrow(&g));
        let columns =
            ScoredColumns { w: &w, hidden: HIDDEN, targets: &targets, others: None, precision: Precision::F32 };
        let with = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let scored = forward(&h, &columns, &shifts, taken, None);
                let back = backward(&h, &columns, &shifts, taken, &scored, &g, true, None);
                (scored.logps, back.shifts, back.rows)
            })
        };
        let one = with(1);
        assert!(one.0.iter().zip(&wide.logps).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-4));
        assert_eq!(one, with(3));
    }
}
