//! Kernels that the decoder is made of: fused, parallel, each with a
//! hand-written backward pass. They work on row-major slices of `f32` or `f64` (the
//! latter for finite differences) and know nothing of models.
//!
//! candle's own fused normalisation, softmax and rotary operations stop
//! gradients silently, its matrix products always build both gradients, and its
//! elementwise operations run on one thread: hence these.
//!
//! Results never depend on the number of threads: work is cut into pieces of
//! fixed size, and partial sums are added in a fixed order.

pub mod attention;
pub mod cached_attention;
pub mod columns;
pub mod composed;
pub mod custom_op;
pub mod exponentials;
pub mod linear;
pub mod log_sigmoid;
pub mod norm;
pub mod prepacked;
pub mod product;
pub mod real;
pub mod rope;
pub mod rows;
pub mod segment;
pub mod stored;
pub mod swiglu;
pub mod token_logps;
pub mod token_logps_biased;
pub mod token_logps_codes;
pub mod vector;

pub use prepacked::Prepacked;
pub use real::Real;
pub use rows::{Precision, Rows};
pub use stored::Stored;

/// Rows that one task of a row-parallel kernel handles.
pub(crate) const ROWS_PER_TASK: usize = 64;

#[cfg(test)]
pub(crate) mod check {
    //! Finite differences for the kernels' backward passes.

    use rand::Rng;

    use crate::seed::Seed;

    /// Numbers in (-1, 1), a function of `key` only.
    pub fn numbers(key: &str, n: usize) -> Vec<f64> {
        let mut rng = Seed(11).rng("nn-test", key);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Compares `gradient` with central differences of `f` at `x`; f64, relative error 1e-6.
    pub fn gradient(name: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
        assert_eq!(x.len(), gradient.len());
        let step = 1e-6;
        for i in 0..x.len() {
            let mut probe = x.to_vec();
            probe[i] = x[i] + step;
            let up = f(&probe);
            probe[i] = x[i] - step;
            let down = f(&probe);
            let numeric = (up - down) / (2.0 * step);
            let error = (numeric - gradient[i]).abs() / (1.0 + numeric.abs());
            assert!(error < 1e-6, "{name}[{i}]: numeric {numeric}, analytic {}", gradient[i]);
        }
    }

    /// `sum(a * b)`.
    pub fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }
}
