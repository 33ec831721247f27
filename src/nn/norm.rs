//! Root-mean-square normalisation, `y = w * x / sqrt(mean(x^2) + eps)`.
//!
//! # Source
//! Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", Eq. 4.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::real::{Real, sum_of, wide};

/// Normalises rows; writes the inverse root mean squares that the backward pass needs.
///
/// # Shapes
/// x, y (N,H) · w (H) · inverse (N).
pub fn forward<T: Real>(x: &[T], w: &[T], eps: f64, y: &mut [T], inverse: &mut [T]) {
    let h = w.len();
    let rows = ROWS_PER_TASK;
    y.par_chunks_mut(rows * h).zip(inverse.par_chunks_mut(rows)).zip(x.par_chunks(rows * h)).for_each(
        |((y, inverse), x)| {
            wide(|| {
                for ((y, inverse), x) in y.chunks_exact_mut(h).zip(inverse).zip(x.chunks_exact(h)) {
                    let mean = sum_of(h, |i| x[i] * x[i]) / T::of(h as f64);
                    *inverse = (mean + T::of(eps)).sqrt().recip();
                    apply(x, w, *inverse, y);
                }
            });
        },
    );
}

/// Repeats the forward pass from the saved inverse root mean squares.
///
/// # Shapes
/// As [`forward`].
pub fn again<T: Real>(x: &[T], w: &[T], inverse: &[T], y: &mut [T]) {
    let h = w.len();
    let rows = ROWS_PER_TASK;
    y.par_chunks_mut(rows * h).zip(inverse.par_chunks(rows)).zip(x.par_chunks(rows * h)).for_each(
        |((y, inverse), x)| {
            wide(|| {
                for ((y, &inverse), x) in y.chunks_exact_mut(h).zip(inverse).zip(x.chunks_exact(h)) {
                    apply(x, w, inverse, y);
                }
            });
        },
    );
}

#[inline(always)]
fn apply<T: Real>(x: &[T], w: &[T], inverse: T, y: &mut [T]) {
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = x * inverse * w;
    }
}

/// Adds the input's gradient to `dx` and, where wanted, the weight's to `dw`.
///
/// With n = x * inverse: `dx += inverse * (dy*w - n * mean(dy*w*n))`, `dw += sum over rows of dy*n`.
///
/// # Shapes
/// x, dy, dx (N,H) · w, dw (H) · inverse (N).
pub fn backward<T: Real>(x: &[T], w: &[T], inverse: &[T], dy: &[T], dx: &mut [T], dw: Option<&mut [T]>) {
    let h = w.len();
    let rows = ROWS_PER_TASK;
    let want = dw.is_some();
    let partial: Vec<Vec<T>> = dx
        .par_chunks_mut(rows * h)
        .zip(inverse.par_chunks(rows))
        .zip(x.par_chunks(rows * h))
        .zip(dy.par_chunks(rows * h))
        .map(|(((dx, inverse), x), dy)| {
            let mut dw = vec![T::zero(); if want { h } else { 0 }];
            wide(|| {
                let rows = dx.chunks_exact_mut(h).zip(inverse).zip(x.chunks_exact(h)).zip(dy.chunks_exact(h));
                for (((dx, &inverse), x), dy) in rows {
                    let mean = sum_of(h, |i| dy[i] * w[i] * x[i]) * inverse / T::of(h as f64);
                    for i in 0..h {
                        dx[i] += inverse * (dy[i] * w[i] - x[i] * inverse * mean);
                    }
                    for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
                        *dw += dy * x * inverse;
                    }
                }
            });
            dw
        })
        .collect();
    if let Some(dw) = dw {
        // In order, so that the sum does not depend on threads.
        for part in partial {
            for (dw, part) in dw.iter_mut().zip(part) {
                *dw += part;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn a_row_worked_by_hand() {
        // mean(3^2, 4^2) = 12.5; 3 / sqrt(12.5) = 0.848528, 4 / sqrt(12.5) = 1.131371; weights 2 and 1.
        let (mut y, mut inverse) = ([0.0; 2], [0.0; 1]);
        forward(&[3.0, 4.0], &[2.0, 1.0], 0.0, &mut y, &mut inverse);
        assert!((y[0] - 1.697_056_f64).abs() < 1e-6 && (y[1] - 1.131_371).abs() < 1e-6);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (n, h) = (ROWS_PER_TASK + 3, 18);
        let (x, w, dy) = (check::numbers("x", n * h), check::numbers("w", h), check::numbers("dy", n * h));
        let f = |x: &[f64], w: &[f64]| {
            let (mut y, mut inverse) = (vec![0.0; n * h], vec![0.0; n]);
            forward(x, w, 1e-5, &mut y, &mut inverse);
            check::dot(&y, &dy)
        };
        let (mut y, mut inverse) = (vec![0.0; n * h], vec![0.0; n]);
        forward(&x, &w, 1e-5, &mut y, &mut inverse);
        let mut repeated = vec![0.0; n * h];
        again(&x, &w, &inverse, &mut repeated);
        assert_eq!(y, repeated);
        let (mut dx, mut dw) = (vec![0.0; n * h], vec![0.0; h]);
        backward(&x, &w, &inverse, &dy, &mut dx, Some(&mut dw));
        check::gradient("dx", &x[..90], &dx[..90], |head| {
            let mut whole = x.clone();
            whole[..90].copy_from_slice(head);
            f(&whole, &w)
        });
        check::gradient("dw", &w, &dw, |w| f(&x, w));
    }
}
