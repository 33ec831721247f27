//! Loops over rows of numbers that take much of a step's time, compiled for the widest vectors of the machine.
//!
//! A long closure given to [`wide`](super::real::wide) may stay a function of its own, and is then compiled for the
//! oldest processors; here every body is part of its wide function.

use super::real::{Real, Vectors, sum_of, vectors};

/// Positions whose keys lie together in a cache: see [`scores_of_blocks`].
pub const LANES: usize = 16;

/// Makes functions whose body is compiled three times: for AVX-512, for AVX2, and for any processor.
macro_rules! widened {
    ($($(#[$about:meta])* fn $name:ident($($arg:ident: $kind:ty),*) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$about])*
        pub fn $name<T: Real>($($arg: $kind),*) $(-> $out)? {
            #[inline(always)]
            fn body<T: Real>($($arg: $kind),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512<T: Real>($($arg: $kind),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<T: Real>($($arg: $kind),*) $(-> $out)? {
                    body($($arg),*)
                }
                match vectors() {
                    // SAFETY: the features were detected on this machine.
                    Vectors::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the features were detected on this machine.
                    Vectors::Avx2 => return unsafe { avx2($($arg),*) },
                    Vectors::Any => {}
                }
            }
            body($($arg),*)
        }
    )*};
}

widened! {
    /// The largest of `least` and some numbers.
    fn max(least: T, x: &[T]) -> T {
        // Sixteen lanes: a plain fold keeps its order and never becomes vector code.
        let larger = |m: T, x: T| if x > m { x } else { m };
        let mut lanes = [least; 16];
        let mut blocks = x.chunks_exact(16);
        for block in &mut blocks {
            for (m, &x) in lanes.iter_mut().zip(block) {
                *m = larger(*m, x);
            }
        }
        let rest = blocks.remainder().iter().fold(least, |m, &x| larger(m, x));
        lanes.into_iter().fold(rest, larger)
    }

    /// `sum_i e^(x_i - shift)`.
    fn exp_sum(x: &[T], shift: T) -> T {
        sum_of(x.len(), |i| (x[i] - shift).exp_fast())
    }

    /// Turns x into `e^(scale x - shift)`; returns the sum.
    fn exponentials(x: &mut [T], scale: T, shift: T) -> T {
        for x in x.iter_mut() {
            *x = (*x * scale - shift).exp_fast();
        }
        sum_of(x.len(), |i| x[i])
    }

    /// Turns logits into the gradient `-g softmax`, given their log-sum-exp.
    fn minus_softmax(x: &mut [T], lse: T, g: T) {
        for x in x {
            *x = -g * (*x - lse).exp_fast();
        }
    }

    /// Turns scores p into probabilities `e^(scale p - lse)`, and the gradient dp of probabilities into that of
    /// unscaled scores, `scale p (dp - delta)`.
    fn softmax_backward(p: &mut [T], dp: &mut [T], lse: T, delta: T, scale: T) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = (*p * scale - lse).exp_fast();
            *dp = *p * (*dp - delta) * scale;
        }
    }

    /// `out_i = x_i + y_i`.
    fn sums(out: &mut [T], x: &[T], y: &[T]) {
        for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
            *o = x + y;
        }
    }

    /// `sum_i x_i y_i`.
    fn dot(x: &[T], y: &[T]) -> T {
        sum_of(x.len().min(y.len()), |i| x[i] * y[i])
    }

    /// `out_i += scale x_i`.
    fn add_scaled(out: &mut [T], scale: T, x: &[T]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o += scale * x;
        }
    }

    /// `x_i *= scale`.
    fn scale(x: &mut [T], scale: T) {
        for x in x {
            *x *= scale;
        }
    }

    /// Scores `sum_d q_d k_jd` of one query with keys that lie in blocks of [`LANES`] positions: (block, d, position).
    fn scores_of_blocks(q: &[T], keys: &[T], scores: &mut [T]) {
        for (scores, block) in scores.chunks_exact_mut(LANES).zip(keys.chunks_exact(q.len() * LANES)) {
            let mut sums = [T::zero(); LANES];
            for (&q, keys) in q.iter().zip(block.chunks_exact(LANES)) {
                for (sum, &k) in sums.iter_mut().zip(keys) {
                    *sum += q * k;
                }
            }
            scores.copy_from_slice(&sums);
        }
    }

    /// `out = sum_j w_j x_j` over rows x_j as wide as `out`.
    fn weighted_sum(w: &[T], x: &[T], out: &mut [T]) {
        out.fill(T::zero());
        let width = out.len();
        for (&w, x) in w.iter().zip(x.chunks_exact(width)) {
            for (o, &x) in out.iter_mut().zip(x) {
                *o += w * x;
            }
        }
    }

    /// `out_i += x_i`.
    fn add(out: &mut [T], x: &[T]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        for n in [1, 15, 16, 17, 100] {
            for at in 0..n {
                let x: Vec<f64> = (0..n).map(|i| if i == at { 2.0 } else { -(i as f64) }).collect();
                assert_eq!(max(f64::NEG_INFINITY, &x), 2.0);
                assert_eq!(max(3.0, &x), 3.0);
            }
        }
        assert_eq!(max(-1.0, &[]), -1.0);
    }

    #[test]
    fn exponentials_agree_with_their_definition() {
        for n in [0, 1, 16, 37] {
            let x = check::numbers("x", n);
            let terms: Vec<f64> = x.iter().map(|x| (x * 0.5 - 0.25).exp()).collect();
            let mut got = x.clone();
            let sum = exponentials(&mut got, 0.5, 0.25);
            assert!(got.iter().zip(&terms).all(|(a, b)| (a - b).abs() < 1e-15));
            assert!((sum - terms.iter().sum::<f64>()).abs() < 1e-12);
            let plain: f64 = x.iter().map(|x| (x - 0.25).exp()).sum();
            assert!((exp_sum(&x, 0.25) - plain).abs() < 1e-12);
            let mut got = x.clone();
            minus_softmax(&mut got, 0.25, 3.0);
            assert!(got.iter().zip(&x).all(|(a, x)| (a + 3.0 * (x - 0.25).exp()).abs() < 1e-14));
        }
    }
}
