//! Weights that are multiplied again and again without changing: laid out once, for generation and scoring.
//!
//! A decoding step multiplies few rows by every weight of the model, so that its time is that of reading the weights. They
//! lie in panels of columns, which are read once, from front to back. Every number of a result is summed in the order of
//! the inner dimension, whatever the number of rows: a sequence has the same numbers in every batch.

#[cfg(target_arch = "x86_64")]
mod avx512;

use rayon::prelude::*;

use super::product::{self, Packed};
use super::real::{Shared, Vectors, vectors, wide};
use super::rows::Precision;

/// Rows that one task takes.
const ROWS: usize = 256;
/// Columns of a panel without AVX-512, and rows of its tiles.
const NARROW: usize = 16;
const NARROW_ROWS: usize = 4;
/// Products of fewer multiplications are made on the calling thread.
const SMALL: usize = 1 << 16;

/// A weight (O,I) that is laid out for products `y = x W^T`.
#[derive(Debug)]
pub struct Prepacked {
    outputs: usize,
    inner: usize,
    panels: Panels,
}

#[derive(Debug)]
enum Panels {
    /// Panels of `width` columns: for every element of the inner dimension the numbers of all columns, beyond the last
    /// column zeros.
    F32 { width: usize, data: Vec<f32> },
    /// bfloat16 pairs.
    Bf16(Packed),
}

impl Prepacked {
    /// Lays out a weight; in bfloat16 where that is wanted and the processor multiplies it.
    ///
    /// # Shapes
    /// w (O,I), row-major.
    ///
    /// # Panics
    /// Where the length is not a multiple of I.
    pub fn new(w: &[f32], inner: usize, precision: Precision) -> Prepacked {
        assert!(inner > 0 && w.len().is_multiple_of(inner), "a weight is not a multiple of its inputs");
        let outputs = w.len() / inner;
        let panels = match precision.effective() {
            Precision::Bf16 => Panels::Bf16(Packed::right_transposed(w, outputs, inner, true)),
            Precision::F32 => {
                let width = if vectors() == Vectors::Avx512 { product::NR } else { NARROW };
                let mut data = vec![0f32; outputs.div_ceil(width) * width * inner];
                data.par_chunks_exact_mut(width * inner).zip(w.par_chunks(width * inner)).for_each(|(panel, rows)| {
                    for (column, row) in rows.chunks_exact(inner).enumerate() {
                        for (k, &x) in row.iter().enumerate() {
                            panel[k * width + column] = x;
                        }
                    }
                });
                Panels::F32 { width, data }
            }
        };
        Prepacked { outputs, inner, panels }
    }

    /// O.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// I.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Computes `y = x W^T`, or `y += x W^T` with `accumulate`.
    ///
    /// # Shapes
    /// x (N,I) · y (N,O), row-major.
    ///
    /// # Panics
    /// Where shapes do not fit each other.
    pub fn forward(&self, x: &[f32], y: &mut [f32], accumulate: bool) {
        let rows = x.len() / self.inner;
        assert!(x.len() == rows * self.inner && y.len() == rows * self.outputs, "a product of other shapes");
        if rows == 0 {
            return;
        }
        let (width, data) = match &self.panels {
            Panels::Bf16(right) => {
                let left = Packed::left(x, rows, self.inner, true);
                return product::multiply(&left, right, y, accumulate, true);
            }
            Panels::F32 { width, data } => (*width, data),
        };
        let (panels, blocks) = (self.outputs.div_ceil(width), rows.div_ceil(ROWS));
        // How the work is cut does not change the result: one task sums every number.
        let step = (panels * blocks).div_ceil(4 * rayon::current_num_threads()).clamp(1, panels);
        let out = Shared::new(y);
        let task = |(block, first): (usize, usize)| {
            let task_rows = block * ROWS..rows.min((block + 1) * ROWS);
            for panel in first..panels.min(first + step) {
                let b = &data[panel * width * self.inner..][..width * self.inner];
                let columns = (panel * width, width.min(self.outputs - panel * width));
                // SAFETY: every task writes rows and columns of its own, within the shape that was checked.
                unsafe { self.panel(x, task_rows.clone(), b, out, columns, accumulate) };
            }
        };
        let tasks: Vec<(usize, usize)> =
            (0..blocks).flat_map(|block| (0..panels).step_by(step).map(move |first| (block, first))).collect();
        if rows * self.outputs * self.inner < SMALL {
            tasks.into_iter().for_each(task);
        } else {
            tasks.into_par_iter().for_each(task);
        }
    }

    /// Some rows of one panel's columns.
    ///
    /// # Safety
    /// Nobody else touches these numbers of `out`, which has a row of O numbers for each row of x.
    unsafe fn panel(
        &self,
        x: &[f32],
        rows: std::ops::Range<usize>,
        panel: &[f32],
        out: Shared<f32>,
        (column, width): (usize, usize),
        accumulate: bool,
    ) {
        let x = &x[rows.start * self.inner..rows.end * self.inner];
        let first = rows.start * self.outputs + column;
        #[cfg(target_arch = "x86_64")]
        if vectors() == Vectors::Avx512 {
            // SAFETY: the features were detected; the rest is the caller's promise.
            return unsafe { avx512::panel(x, self.inner, panel, out.at(first), (self.outputs, width), accumulate) };
        }
        wide(|| {
            for (i, x) in x.chunks(NARROW_ROWS * self.inner).enumerate() {
                // SAFETY: the caller's promise.
                let target = unsafe { out.at(first + i * NARROW_ROWS * self.outputs) };
                // SAFETY: the caller's promise.
                unsafe { narrow(x, self.inner, panel, target, (self.outputs, width), accumulate) };
            }
        });
    }
}

/// A tile of at most [`NARROW_ROWS`] rows, for any processor.
///
/// # Safety
/// `out` has `width` numbers for every row of x, `stride` apart, which nobody else touches.
#[inline(always)]
unsafe fn narrow(x: &[f32], inner: usize, panel: &[f32], out: *mut f32, (stride, width): (usize, usize), add: bool) {
    let rows = x.len() / inner;
    let mut sums = [[0f32; NARROW]; NARROW_ROWS];
    if add {
        for (i, sums) in sums.iter_mut().enumerate().take(rows) {
            for (j, sum) in sums.iter_mut().enumerate().take(width) {
                // SAFETY: the caller's promise.
                *sum = unsafe { *out.add(i * stride + j) };
            }
        }
    }
    for (k, b) in panel.chunks_exact(NARROW).enumerate() {
        for (i, sums) in sums.iter_mut().enumerate().take(rows) {
            let a = x[i * inner + k];
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (i, sums) in sums.iter().enumerate().take(rows) {
        for (j, &sum) in sums.iter().enumerate().take(width) {
            // SAFETY: the caller's promise.
            unsafe { *out.add(i * stride + j) = sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    fn numbers(key: &str, n: usize) -> Vec<f32> {
        check::numbers(key, n).into_iter().map(|x| x as f32).collect()
    }

    /// `x W^T` in f64.
    fn plain(x: &[f32], w: &[f32], inner: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        x.chunks_exact(inner).flat_map(|a| w.chunks_exact(inner).map(move |b| dot(a, b))).collect()
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for (rows, outputs, inner) in [(1, 1, 1), (3, 47, 5), (8, 48, 33), (9, 49, 64), (300, 100, 70), (17, 200, 3000)]
        {
            let (x, w) = (numbers("x", rows * inner), numbers("w", outputs * inner));
            let packed = Prepacked::new(&w, inner, Precision::F32);
            let mut y = vec![f32::NAN; rows * outputs];
            packed.forward(&x, &mut y, false);
            let wanted = plain(&x, &w, inner);
            let near = |y: f32, wanted: f64| (f64::from(y) - wanted).abs() < 2e-6 * inner as f64;
            assert!(y.iter().zip(&wanted).all(|(&y, &w)| near(y, w)), "{rows} {outputs} {inner}");
            packed.forward(&x, &mut y, true);
            assert!(y.iter().zip(&wanted).all(|(&y, &w)| near(y, 2.0 * w)), "{rows} {outputs} {inner}");
        }
    }

    #[test]
    fn the_tile_of_any_processor_gives_the_same() {
        let (rows, inner, width) = (3, 40, 9);
        let (x, w) = (numbers("x", rows * inner), numbers("w", width * inner));
        let mut panel = vec![0f32; inner * NARROW];
        for (column, row) in w.chunks_exact(inner).enumerate() {
            row.iter().enumerate().for_each(|(k, &x)| panel[k * NARROW + column] = x);
        }
        let mut y = vec![1f32; rows * width];
        // SAFETY: `y` has `width` numbers for every row.
        unsafe { narrow(&x, inner, &panel, y.as_mut_ptr(), (width, width), true) };
        let wanted = plain(&x, &w, inner);
        assert!(y.iter().zip(wanted).all(|(&y, w)| (f64::from(y) - 1.0 - w).abs() < 1e-5));
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_company() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (rows, outputs, inner) = (300, 130, 70);
            let (x, w) = (numbers("x", rows * inner), numbers("w", outputs * inner));
            let packed = Prepacked::new(&w, inner, precision);
            let of = |x: &[f32]| {
                let mut y = vec![0f32; x.len() / inner * outputs];
                packed.forward(x, &mut y, false);
                y
            };
            let all = of(&x);
            for (first, n) in [(0, 1), (5, 3), (17, 8), (200, 100)] {
                let some = of(&x[first * inner..(first + n) * inner]);
                assert_eq!(some, all[first * outputs..(first + n) * outputs], "{precision:?} {first} {n}");
            }
        }
    }
}
