//! y = x W^T: forward, and the two gradients separately, so that a frozen weight costs nothing.

use super::real::{Real, View, gemm};

/// Computes `y = x W^T`, or `y += x W^T` with `accumulate`.
///
/// # Shapes
/// x (N,I) · w (O,I) · y (N,O), row-major.
pub fn forward<T: Real>(x: &[T], w: &[T], y: &mut [T], rows: usize, accumulate: bool) {
    let Some((inputs, outputs)) = widths(x.len(), y.len(), rows) else { return };
    assert_eq!(w.len(), inputs * outputs);
    // SAFETY: the lengths were checked against the shapes; `y` is borrowed mutably.
    unsafe {
        gemm(
            (rows, outputs, inputs),
            y.as_mut_ptr(),
            (outputs, 1),
            accumulate,
            View { data: x.as_ptr(), row: inputs, column: 1 },
            View { data: w.as_ptr(), row: 1, column: inputs },
            T::one(),
            true,
        );
    }
}

/// Gradient for the input: `dx = dy W`, or `dx += dy W` with `accumulate`.
///
/// # Shapes
/// dy (N,O) · w (O,I) · dx (N,I).
pub fn backward_input<T: Real>(dy: &[T], w: &[T], dx: &mut [T], rows: usize, accumulate: bool) {
    let Some((inputs, outputs)) = widths(dx.len(), dy.len(), rows) else { return };
    assert_eq!(w.len(), inputs * outputs);
    // SAFETY: the lengths were checked against the shapes; `dx` is borrowed mutably.
    unsafe {
        gemm(
            (rows, inputs, outputs),
            dx.as_mut_ptr(),
            (inputs, 1),
            accumulate,
            View { data: dy.as_ptr(), row: outputs, column: 1 },
            View { data: w.as_ptr(), row: inputs, column: 1 },
            T::one(),
            true,
        );
    }
}

/// Gradient for the weight, added: `dw += dy^T x`.
///
/// # Shapes
/// dy (N,O) · x (N,I) · dw (O,I).
pub fn backward_weight<T: Real>(dy: &[T], x: &[T], dw: &mut [T], rows: usize) {
    let Some((inputs, outputs)) = widths(x.len(), dy.len(), rows) else { return };
    assert_eq!(dw.len(), inputs * outputs);
    // SAFETY: the lengths were checked against the shapes; `dw` is borrowed mutably.
    unsafe {
        gemm(
            (outputs, inputs, rows),
            dw.as_mut_ptr(),
            (inputs, 1),
            true,
            View { data: dy.as_ptr(), row: 1, column: outputs },
            View { data: x.as_ptr(), row: inputs, column: 1 },
            T::one(),
            true,
        );
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

/// Row widths of the input and the output; `None` where there are no rows.
fn widths(x: usize, y: usize, rows: usize) -> Option<(usize, usize)> {
    if rows == 0 {
        return None;
    }
    assert!(x.is_multiple_of(rows) && y.is_multiple_of(rows), "a length is not a multiple of the rows");
    Some((x / rows, y / rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn gradients_match_finite_differences() {
        let (n, i, o) = (5, 3, 4);
        let (x, w, dy) = (check::numbers("x", n * i), check::numbers("w", o * i), check::numbers("dy", n * o));
        let f = |x: &[f64], w: &[f64]| {
            let mut y = vec![0.0; n * o];
            forward(x, w, &mut y, n, false);
            check::dot(&y, &dy)
        };
        let (mut dx, mut dw) = (vec![0.0; n * i], vec![0.0; o * i]);
        backward_input(&dy, &w, &mut dx, n, false);
        backward_weight(&dy, &x, &mut dw, n);
        check::gradient("dx", &x, &dx, |x| f(x, &w));
        check::gradient("dw", &w, &dw, |w| f(&x, w));
        // Accumulation adds a second helping.
        let once = dx.clone();
        backward_input(&dy, &w, &mut dx, n, true);
        assert!(dx.iter().zip(&once).all(|(a, b)| (a - 2.0 * b).abs() < 1e-12));
    }
}
