//! The gated unit of Llama's feed-forward layer: `y = silu(gate) * up`, silu(g) = g / (1 + e^-g).
//!
//! # Source
//! Shazeer 2020, "GLU Variants Improve Transformer", Eq. 6.

use rayon::prelude::*;

use super::real::{Real, wide};

/// Elements that one task handles.
const PER_TASK: usize = 1 << 15;

/// Computes `y = silu(gate) * up` elementwise.
///
/// # Shapes
/// gate, up, y: all of one length.
pub fn forward<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
    y.par_chunks_mut(PER_TASK).zip(gate.par_chunks(PER_TASK)).zip(up.par_chunks(PER_TASK)).for_each(
        |((y, gate), up)| {
            wide(|| {
                for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * sigmoid(gate) * up;
                }
            });
        },
    );
}

/// Replaces `gate` and `up` by their gradients, given the gradient of y.
///
/// # Shapes
/// As [`forward`].
pub fn backward<T: Real>(gate: &mut [T], up: &mut [T], dy: &[T]) {
    gate.par_chunks_mut(PER_TASK).zip(up.par_chunks_mut(PER_TASK)).zip(dy.par_chunks(PER_TASK)).for_each(
        |((gate, up), dy)| {
            wide(|| {
                for ((gate, up), &dy) in gate.iter_mut().zip(up).zip(dy) {
                    let s = sigmoid(*gate);
                    let silu = *gate * s;
                    // d silu / d gate = s + gate * s * (1 - s)
                    *gate = dy * *up * (s + silu * (T::one() - s));
                    *up = dy * silu;
                }
            });
        },
    );
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    (T::one() + (-x).exp_fast()).recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn gradients_match_finite_differences() {
        let n = 40;
        let (gate, up, dy) = (check::numbers("g", n), check::numbers("u", n), check::numbers("dy", n));
        let f = |gate: &[f64], up: &[f64]| {
            let mut y = vec![0.0; n];
            forward(gate, up, &mut y);
            check::dot(&y, &dy)
        };
        let (mut dgate, mut dup) = (gate.clone(), up.clone());
        backward(&mut dgate, &mut dup, &dy);
        check::gradient("dgate", &gate, &dgate, |g| f(g, &up));
        check::gradient("dup", &up, &dup, |u| f(&gate, u));
    }

    #[test]
    fn large_inputs_stay_finite() {
        let mut y = [0f32; 3];
        forward(&[-1000.0, 1000.0, 0.0], &[1.0; 3], &mut y);
        assert!(y[0].abs() < 1e-30 && y[1] == 1000.0 && y[2] == 0.0, "{y:?}");
    }
}
