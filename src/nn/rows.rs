//! Rows of a matrix as an operand of several products, rounded and laid out at most once for each use.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};

use super::product::{self, Operand, Packed};
use super::real::{Real, View, gemm};

/// Number type of the operands of matrix products. Sums and everything else are float32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// bfloat16 where the processor multiplies it (AVX512-BF16), float32 elsewhere.
    Bf16,
}

impl Precision {
    /// What this processor will compute with.
    #[must_use]
    pub fn effective(self) -> Precision {
        if product::available() { self } else { Precision::F32 }
    }
}

/// A row-major matrix that takes part in products.
#[derive(Debug)]
pub struct Rows<'a, T> {
    values: &'a [T],
    rows: usize,
    width: usize,
    precision: Precision,
    parallel: bool,
    /// As left operand: itself, and its transpose.
    left: [OnceCell<Packed>; 2],
    /// As right operand: itself, and its transpose.
    right: [OnceCell<Packed>; 2],
}

impl<'a, T: Real> Rows<'a, T> {
    /// A matrix of so many rows; products with it are spread over all threads.
    ///
    /// # Panics
    /// Where the length is not a multiple of the rows.
    pub fn new(values: &'a [T], rows: usize, precision: Precision) -> Rows<'a, T> {
        assert!(values.len().is_multiple_of(rows.max(1)), "a length is not a multiple of the rows");
        Rows {
            values,
            rows,
            width: values.len() / rows.max(1),
            precision: if T::floats(&[]).is_some() { precision.effective() } else { Precision::F32 },
            parallel: true,
            left: [OnceCell::new(), OnceCell::new()],
            right: [OnceCell::new(), OnceCell::new()],
        }
    }

    /// As [`Rows::new`], with products on the calling thread alone.
    #[must_use]
    pub fn serial(values: &'a [T], rows: usize, precision: Precision) -> Rows<'a, T> {
        Rows { parallel: false, ..Rows::new(values, rows, precision) }
    }

    /// Another matrix of this one's precision and threads, for products with it.
    pub fn like<'b>(&self, values: &'b [T], rows: usize) -> Rows<'b, T> {
        Rows { parallel: self.parallel, ..Rows::new(values, rows, self.precision) }
    }

    /// The numbers.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The packed form of one side, transposed or not.
    fn packed(&self, side: Operand, transposed: bool) -> &Packed {
        let cell = match side {
            Operand::Left => &self.left[usize::from(transposed)],
            Operand::Right => &self.right[usize::from(transposed)],
        };
        cell.get_or_init(|| {
            let values = T::floats(self.values).unwrap_or_default();
            let (rows, width) = (self.rows, self.width);
            match (side, transposed) {
                (Operand::Left, false) => Packed::left(values, rows, width, self.parallel),
                (Operand::Left, true) => Packed::left_transposed(values, width, rows, self.parallel),
                (Operand::Right, false) => Packed::right(values, width, rows, self.parallel),
                (Operand::Right, true) => Packed::right_transposed(values, rows, width, self.parallel),
            }
        })
    }

    fn view(&self, transposed: bool) -> View<T> {
        let data = self.values.as_ptr();
        if transposed { View { data, row: 1, column: self.width } } else { View { data, row: self.width, column: 1 } }
    }

    /// `out = sum of a b`, each operand transposed where said, or `out += ...` with `accumulate`. The first operand says
    /// in which precision and on which threads.
    ///
    /// # Shapes
    /// a (M,K) · b (K,N), after transposition, each product with its own K · out (M,N).
    ///
    /// # Panics
    /// Where shapes do not fit each other.
    pub fn sum(products: &[[(&Rows<'_, T>, bool); 2]], out: &mut [T], accumulate: bool) {
        let shape =
            |(x, transposed): (&Rows<'_, T>, bool)| if transposed { (x.width, x.rows) } else { (x.rows, x.width) };
        let Some(&[first, second]) = products.first() else { panic!("a sum of no products") };
        let (m, n) = (shape(first).0, shape(second).1);
        for &[a, b] in products {
            let (left, right) = (shape(a), shape(b));
            let fine = left.0 == m && left.1 == right.0 && right.1 == n && out.len() == m * n;
            assert!(fine, "a product of {left:?} and {right:?} into {m}x{n}, {}", out.len());
        }
        if m == 0 || n == 0 {
            return;
        }
        let inner = |product: &[(&Rows<'_, T>, bool); 2]| shape(product[0]).1;
        if products.iter().all(|product| inner(product) == 0) {
            if !accumulate {
                out.fill(T::zero());
            }
            return;
        }
        let parallel = first.0.parallel;
        if first.0.precision == Precision::Bf16
            && let Some(out) = T::floats_mut(out)
        {
            let packed: Vec<(&Packed, &Packed)> = products
                .iter()
                .map(|[a, b]| (a.0.packed(Operand::Left, a.1), b.0.packed(Operand::Right, b.1)))
                .collect();
            product::multiply_sum(&packed, out, accumulate, parallel);
            return;
        }
        let mut add = accumulate;
        for product in products.iter().filter(|product| inner(product) > 0) {
            let [a, b] = product;
            // SAFETY: the lengths were checked against the shapes; `out` is borrowed mutably.
            unsafe {
                let views = (a.0.view(a.1), b.0.view(b.1));
                gemm((m, n, inner(product)), out.as_mut_ptr(), (n, 1), add, views.0, views.1, T::one(), parallel);
            }
            add = true;
        }
    }

    /// `out = self other`.
    ///
    /// # Shapes
    /// self (M,K) · other (K,N) · out (M,N).
    pub fn times(&self, other: &Rows<'_, T>, out: &mut [T], accumulate: bool) {
        Rows::sum(&[[(self, false), (other, false)]], out, accumulate);
    }

    /// `out = self other^T`.
    ///
    /// # Shapes
    /// self (M,K) · other (N,K) · out (M,N).
    pub fn times_transposed(&self, other: &Rows<'_, T>, out: &mut [T], accumulate: bool) {
        Rows::sum(&[[(self, false), (other, true)]], out, accumulate);
    }

    /// `out = self^T other`.
    ///
    /// # Shapes
    /// self (K,M) · other (K,N) · out (M,N).
    pub fn transposed_times(&self, other: &Rows<'_, T>, out: &mut [T], accumulate: bool) {
        Rows::sum(&[[(self, true), (other, false)]], out, accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn bfloat16_products_are_those_of_rounded_numbers() {
        // Without bfloat16 products both precisions are float32, and agree as well.
        let (m, k, n) = (37, 50, 61);
        let round = |key: &str, n: usize| -> Vec<f32> {
            check::numbers(key, n).into_iter().map(|x| half::bf16::from_f64(x).to_f32()).collect()
        };
        let (a, b, bt, at) = (round("a", m * k), round("b", k * n), round("c", n * k), round("d", k * m));
        let run = |precision: Precision| {
            let rows = |x, rows| Rows::new(x, rows, precision);
            let mut out = vec![vec![0f32; m * n]; 3];
            rows(&a, m).times(&rows(&b, k), &mut out[0], false);
            rows(&a, m).times_transposed(&rows(&bt, n), &mut out[1], false);
            rows(&at, k).transposed_times(&rows(&b, k), &mut out[2], false);
            out.concat()
        };
        for (x, y) in run(Precision::Bf16).iter().zip(run(Precision::F32)) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }

    #[test]
    fn a_product_over_nothing_is_zero() {
        let mut out = [1f32; 6];
        let (a, b) = (Rows::new(&[], 0, Precision::F32), Rows::new(&[], 0, Precision::F32));
        a.transposed_times(&b, &mut [], false);
        let a = Rows { width: 2, ..a };
        let b = Rows { width: 3, ..b };
        a.transposed_times(&b, &mut out, true);
        assert_eq!(out, [1.0; 6]);
        a.transposed_times(&b, &mut out, false);
        assert_eq!(out, [0.0; 6]);
    }
}
