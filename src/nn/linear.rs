//! y = x W^T: forward, and the two gradients separately, so that a frozen weight costs nothing.

use super::real::Real;
use super::rows::Rows;

/// Computes `y = x W^T`, or `y += x W^T` with `accumulate`.
///
/// # Shapes
/// x (N,I) · w (O,I) · y (N,O), row-major.
pub fn forward<T: Real>(x: &Rows<'_, T>, w: &[T], y: &mut [T], accumulate: bool) {
    if x.rows() > 0 {
        x.times_transposed(&x.like(w, w.len() / x.width()), y, accumulate);
    }
}

/// Gradient for the input: `dx = dy W`, or `dx += dy W` with `accumulate`.
///
/// # Shapes
/// dy (N,O) · w (O,I) · dx (N,I).
pub fn backward_input<T: Real>(dy: &Rows<'_, T>, w: &[T], dx: &mut [T], accumulate: bool) {
    if dy.rows() > 0 {
        dy.times(&dy.like(w, dy.width()), dx, accumulate);
    }
}

/// Computes `y = x W^T + u B^T`, or `y += ...` with `accumulate`: a map with a low-rank addition.
///
/// # Shapes
/// x (N,I) · w (O,I) · u (N,r) · b (O,r) · y (N,O), row-major.
pub fn forward_adapted<T: Real>(
    (x, w): (&Rows<'_, T>, &[T]),
    (u, b): (&Rows<'_, T>, &[T]),
    y: &mut [T],
    accumulate: bool,
) {
    if x.rows() > 0 {
        let (w, b) = (x.like(w, w.len() / x.width()), x.like(b, b.len() / u.width()));
        Rows::sum(&[[(x, false), (&w, true)], [(u, false), (&b, true)]], y, accumulate);
    }
}

/// Gradient for the input of [`forward_adapted`]: `dx = dy W + du A`, or `dx += ...` with `accumulate`.
///
/// # Shapes
/// dy (N,O) · w (O,I) · du (N,r) · a (r,I) · dx (N,I).
pub fn backward_input_adapted<T: Real>(
    (dy, w): (&Rows<'_, T>, &[T]),
    (du, a): (&Rows<'_, T>, &[T]),
    dx: &mut [T],
    accumulate: bool,
) {
    if dy.rows() > 0 {
        let (w, a) = (dy.like(w, dy.width()), dy.like(a, du.width()));
        Rows::sum(&[[(dy, false), (&w, false)], [(du, false), (&a, false)]], dx, accumulate);
    }
}

/// Gradient for the weight, added: `dw += dy^T x`.
///
/// # Shapes
/// dy (N,O) · x (N,I) · dw (O,I).
pub fn backward_weight<T: Real>(dy: &Rows<'_, T>, x: &Rows<'_, T>, dw: &mut [T]) {
    if dy.rows() > 0 {
        dy.transposed_times(x, dw, true);
    }
}

/// Adds a bias to every row.
///
/// # Shapes
/// y (N,O) · bias (O).
pub fn add_bias<T: Real>(y: &mut [T], bias: &[T]) {
    for row in y.chunks_exact_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
    }
}

/// Gradient for the bias, added: the sum of `dy` over rows.
///
/// # Shapes
/// dy (N,O) · db (O).
pub fn backward_bias<T: Real>(dy: &[T], db: &mut [T]) {
    for row in dy.chunks_exact(db.len().max(1)) {
        db.iter_mut().zip(row).for_each(|(b, &d)| *b += d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Precision, check};

    #[test]
    fn gradients_match_finite_differences() {
        let (n, i, o) = (5, 3, 4);
        let (x, w, dy) = (check::numbers("x", n * i), check::numbers("w", o * i), check::numbers("dy", n * o));
        let f = |x: &[f64], w: &[f64]| {
            let mut y = vec![0.0; n * o];
            forward(&Rows::new(x, n, Precision::F32), w, &mut y, false);
            check::dot(&y, &dy)
        };
        let (mut dx, mut dw) = (vec![0.0; n * i], vec![0.0; o * i]);
        let (up, down) = (Rows::new(&dy, n, Precision::F32), Rows::new(&x, n, Precision::F32));
        backward_input(&up, &w, &mut dx, false);
        backward_weight(&up, &down, &mut dw);
        check::gradient("dx", &x, &dx, |x| f(x, &w));
        check::gradient("dw", &w, &dw, |w| f(&x, w));
        // Accumulation adds a second helping.
        let once = dx.clone();
        backward_input(&up, &w, &mut dx, true);
        assert!(dx.iter().zip(&once).all(|(a, b)| (a - 2.0 * b).abs() < 1e-12));
    }
}
