//! The gated unit of Llama's feed-forward layer: `y = silu(gate) * up`, silu(g) = g / (1 + e^-g).
//!
//! # Source
//! Shazeer 2020, "GLU Variants Improve Transformer", Eq. 6.

use rayon::prelude::*;

use super::real::{Real, wide};
use super::rows::Precision;
use super::stored::{self, Stored};

/// Elements that one task handles: three pieces of it stay in the first cache.
const PER_TASK: usize = 1 << 11;
/// Tasks that one thread takes at a time.
const TASKS: usize = 8;

/// Computes `y = silu(gate) * up` elementwise.
///
/// # Shapes
/// gate, up, y: all of one length.
pub fn forward<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
    y.par_chunks_mut(PER_TASK)
        .zip(gate.par_chunks(PER_TASK))
        .zip(up.par_chunks(PER_TASK))
        .with_min_len(TASKS)
        .for_each(|((y, gate), up)| product(gate, up, y));
}

/// [`forward`], and gate and up as they are kept for [`again`] and [`backward`].
///
/// # Shapes
/// As [`forward`].
pub fn forward_keeping<T: Real>(gate: Vec<T>, up: Vec<T>, y: &mut [T], precision: Precision) -> [Stored<T>; 2] {
    let room = || Stored::<T>::room(gate.len(), precision);
    let (Some(mut gates), Some(mut ups)) = (room(), room()) else {
        forward(&gate, &up, y);
        return [gate, up].map(Stored::Whole);
    };
    y.par_chunks_mut(PER_TASK)
        .zip(gate.par_chunks(PER_TASK))
        .zip(up.par_chunks(PER_TASK))
        .zip(gates.par_chunks_mut(PER_TASK))
        .zip(ups.par_chunks_mut(PER_TASK))
        .with_min_len(TASKS)
        .for_each(|((((y, gate), up), gates), ups)| {
            product(gate, up, y);
            stored::round(gate, gates);
            stored::round(up, ups);
        });
    [gates, ups].map(Stored::Rounded)
}

/// [`forward`] once more, from what was kept.
///
/// # Shapes
/// As [`forward`].
pub fn again<T: Real>(gate: &Stored<T>, up: &Stored<T>, y: &mut [T]) {
    y.par_chunks_mut(PER_TASK).with_min_len(TASKS).enumerate().for_each_init(
        || [vec![T::zero(); PER_TASK], vec![T::zero(); PER_TASK]],
        |[gates, ups], (at, y)| {
            let range = at * PER_TASK..at * PER_TASK + y.len();
            product(gate.piece(range.clone(), gates), up.piece(range, ups), y);
        },
    );
}

/// Gradients of gate and up, given the gradient of y.
///
/// # Shapes
/// As [`forward`].
pub fn backward<T: Real>(gate: Stored<T>, up: Stored<T>, dy: &[T]) -> [Vec<T>; 2] {
    // Kept numbers and gradients lie in the same place, or halves are widened where the gradients come to lie.
    let split = |x: Stored<T>| match x {
        Stored::Whole(values) => (values, Vec::new()),
        Stored::Rounded(halves) => (vec![T::zero(); halves.len()], halves),
    };
    let ((mut gate, gates), (mut up, ups)) = (split(gate), split(up));
    let parts = gate.par_chunks_mut(PER_TASK).zip(up.par_chunks_mut(PER_TASK)).zip(dy.par_chunks(PER_TASK));
    parts.with_min_len(TASKS).enumerate().for_each(|(at, ((gate, up), dy))| {
        let range = at * PER_TASK..at * PER_TASK + dy.len();
        if let (Some(gates), Some(ups)) = (gates.get(range.clone()), ups.get(range)) {
            stored::widen(gates, gate);
            stored::widen(ups, up);
        }
        gradients(gate, up, dy);
    });
    [gate, up]
}

/// `y = silu(gate) * up` on this thread.
fn product<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
    wide(|| {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    });
}

/// Replaces `gate` and `up` by their gradients, on this thread.
fn gradients<T: Real>(gate: &mut [T], up: &mut [T], dy: &[T]) {
    wide(|| {
        for ((gate, up), &dy) in gate.iter_mut().zip(up).zip(dy) {
            let s = sigmoid(*gate);
            let silu = *gate * s;
            // d silu / d gate = s + gate * s * (1 - s)
            *gate = dy * *up * (s + silu * (T::one() - s));
            *up = dy * silu;
        }
    });
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
        let [dgate, dup] = backward(Stored::Whole(gate.clone()), Stored::Whole(up.clone()), &dy);
        check::gradient("dgate", &gate, &dgate, |g| f(g, &up));
        check::gradient("dup", &up, &dup, |u| f(&gate, u));
    }

    #[test]
    fn what_is_kept_rounded_gives_the_same_as_rounded_numbers() {
        let n = 3 * PER_TASK + 7;
        let floats = |key| check::numbers(key, n).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let round = |x: &[f32]| Stored::new(x.to_vec(), Precision::Bf16).into_values();
        let (gate, up, dy) = (floats("g"), floats("u"), floats("dy"));
        let of = |gate: &[f32], up: &[f32]| {
            let mut y = vec![f32::NAN; n];
            forward(gate, up, &mut y);
            y
        };
        let mut y = vec![f32::NAN; n];
        let kept = forward_keeping(gate.clone(), up.clone(), &mut y, Precision::Bf16);
        assert_eq!(y, of(&gate, &up));
        let (gate, up) = (round(&gate), round(&up));
        let [kept_gate, kept_up] = kept;
        again(&kept_gate, &kept_up, &mut y);
        assert_eq!(y, of(&gate, &up));
        assert_eq!(backward(kept_gate, kept_up, &dy), backward(Stored::Whole(gate), Stored::Whole(up), &dy));
    }

    #[test]
    fn large_inputs_stay_finite() {
        let mut y = [0f32; 3];
        forward(&[-1000.0, 1000.0, 0.0], &[1.0; 3], &mut y);
        assert!(y[0].abs() < 1e-30 && y[1] == 1000.0 && y[2] == 0.0, "{y:?}");
    }
}
