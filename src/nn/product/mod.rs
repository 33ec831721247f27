//! Matrix products with bfloat16 operands and float32 sums, for processors that multiply bfloat16 pairs.
//!
//! Operands are float32 in memory; packing rounds them (to nearest even) and lays them out in
//! panels, so that an operand that several products share is packed once. Sums are float32, in an
//! order that depends on the shapes alone: results never depend on the number of threads.
//!
//! On x86-64 with AVX512-BF16 only; [`available`] says whether. Elsewhere callers keep to float32.
//!
//! # Source
//! The panel layout and loop order follow Goto and van de Geijn 2008, "Anatomy of high-performance
//! matrix multiplication".

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pack;

use super::real::{Shared, View};

/// Rows of a micro-tile.
pub(super) const MR: usize = 8;
/// Columns of a micro-tile: three vectors of sixteen.
pub(super) const NR: usize = 48;
/// Pairs of the inner dimension that one pass over the tiles takes.
const KC: usize = 288;
/// Most products of a sum that one pass over the tiles adds up.
const RUNS: usize = 4;
/// Most panels of rows that one task takes.
const ROW_PANELS: usize = 12;
/// Panels of columns that one task takes.
const COLUMN_PANELS: usize = 4;

/// Whether this processor has the instructions.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static FOUND: OnceLock<bool> = OnceLock::new();
        *FOUND.get_or_init(|| {
            std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512bf16")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The side of a product that an operand is packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// Left: panels of `MR` rows.
    Left,
    /// Right: panels of `NR` columns.
    Right,
}

impl Operand {
    /// Lines (rows of the left, columns of the right operand) of one panel.
    fn width(self) -> usize {
        match self {
            Operand::Left => MR,
            Operand::Right => NR,
        }
    }
}

/// An operand in panels of bfloat16 pairs along the inner dimension.
#[derive(Debug)]
pub struct Packed {
    side: Operand,
    /// Rows of a left, columns of a right operand.
    lines: usize,
    /// Pairs of the inner dimension, the last one filled up with a zero.
    pairs: usize,
    /// Panels, then pairs, then lines within the panel.
    data: Vec<u32>,
}

impl Packed {
    /// Packs a matrix whose line `i` holds element `j` of the inner dimension at `i * line + j * inner`.
    ///
    /// # Shapes
    /// lines x inner; for the left side lines are its rows, for the right side its columns.
    ///
    /// # Panics
    /// Where neither distance is 1, the view reaches beyond `data`, or the processor lacks the instructions.
    pub fn new(
        side: Operand,
        data: &[f32],
        (lines, inner): (usize, usize),
        (line, step): (usize, usize),
        parallel: bool,
    ) -> Packed {
        assert!(available(), "bfloat16 products need AVX512-BF16");
        assert!(line == 1 || step == 1, "an operand's elements must lie together in one direction");
        if lines > 0 && inner > 0 {
            assert!((lines - 1) * line + (inner - 1) * step < data.len(), "an operand reaches beyond its data");
        }
        let pairs = inner.div_ceil(2);
        let panel = side.width() * pairs;
        let mut packed = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            packed.reserve_exact(lines.div_ceil(side.width()) * panel);
            pack::pack(
                side,
                View { data: data.as_ptr(), row: line, column: step },
                (lines, inner),
                parallel,
                &mut packed,
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (panel, View { data: data.as_ptr(), row: line, column: step });
        Packed { side, lines, pairs, data: packed }
    }

    /// A left operand from row-major rows of `inner` numbers.
    pub fn left(x: &[f32], rows: usize, inner: usize, parallel: bool) -> Packed {
        Packed::new(Operand::Left, x, (rows, inner), (inner, 1), parallel)
    }

    /// The transpose of a row-major matrix as left operand: `inner` rows of `rows` numbers.
    pub fn left_transposed(x: &[f32], rows: usize, inner: usize, parallel: bool) -> Packed {
        Packed::new(Operand::Left, x, (rows, inner), (1, rows), parallel)
    }

    /// A right operand from row-major rows of `columns` numbers.
    pub fn right(x: &[f32], columns: usize, inner: usize, parallel: bool) -> Packed {
        Packed::new(Operand::Right, x, (columns, inner), (1, columns), parallel)
    }

    /// The transpose of a row-major matrix as right operand: `columns` rows of `inner` numbers.
    pub fn right_transposed(x: &[f32], columns: usize, inner: usize, parallel: bool) -> Packed {
        Packed::new(Operand::Right, x, (columns, inner), (inner, 1), parallel)
    }
}

/// Pairs of one product's inner dimension that a pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    product: usize,
    from: usize,
    len: usize,
}

/// What one pass over the tiles adds: at most [`KC`] pairs of at most [`RUNS`] products.
type Pass = Vec<Part>;

/// The passes of a sum of products with so many pairs each.
fn passes(pairs: impl IntoIterator<Item = usize>) -> Vec<Pass> {
    let mut passes: Vec<Pass> = Vec::new();
    let mut room = 0;
    for (product, pairs) in pairs.into_iter().enumerate() {
        let mut from = 0;
        while from < pairs {
            if room == 0 || passes.last().is_none_or(|pass| pass.len() == RUNS) {
                passes.push(Pass::new());
                room = KC;
            }
            let len = room.min(pairs - from);
            passes.last_mut().into_iter().for_each(|pass| pass.push(Part { product, from, len }));
            (from, room) = (from + len, room - len);
        }
    }
    passes
}

/// `dst = left * right`, or `dst += left * right` with `accumulate`; on this thread alone unless `parallel`.
///
/// # Shapes
/// As [`multiply_sum`].
///
/// # Panics
/// Where shapes do not fit each other.
pub fn multiply(left: &Packed, right: &Packed, dst: &mut [f32], accumulate: bool, parallel: bool) {
    multiply_sum(&[(left, right)], dst, accumulate, parallel);
}

/// `dst = sum of left * right`, or `dst += ...` with `accumulate`; on this thread alone unless `parallel`.
///
/// A short inner dimension costs most where it goes over `dst` by itself: products of a sum go over it together.
///
/// # Shapes
/// left (M,K) · right (K,N), each product with its own K · dst (M,N), row-major.
///
/// # Panics
/// Where shapes do not fit each other.
pub fn multiply_sum(products: &[(&Packed, &Packed)], dst: &mut [f32], accumulate: bool, parallel: bool) {
    let Some((left, right)) = products.first() else { panic!("a sum of no products") };
    let (rows, columns) = (left.lines, right.lines);
    for (left, right) in products {
        assert!(left.side == Operand::Left && right.side == Operand::Right && left.pairs == right.pairs);
        assert!(left.lines == rows && right.lines == columns, "products of different shapes");
    }
    assert_eq!(dst.len(), rows * columns);
    let passes = passes(products.iter().map(|(left, _)| left.pairs));
    if passes.is_empty() {
        assert!(accumulate, "a product over nothing");
        return;
    }
    // SAFETY: `dst` is a row-major matrix of the products' shape, borrowed mutably.
    unsafe { multiply_into(products, &passes, Shared::new(dst), columns, accumulate, parallel) }
}

/// As [`multiply_sum`], into rows that are `stride` apart.
///
/// # Safety
/// `dst` must reach over all rows, and nobody else may touch the products' elements meanwhile.
unsafe fn multiply_into(
    products: &[(&Packed, &Packed)],
    passes: &[Pass],
    dst: Shared<f32>,
    stride: usize,
    accumulate: bool,
    parallel: bool,
) {
    use rayon::prelude::*;
    let (left, right) = products[0];
    let (m, n) = (left.lines.div_ceil(MR), right.lines.div_ceil(NR));
    // How the work is cut does not change the result: one task sums every tile. Four tasks a thread keep all threads
    // busy.
    let wanted = if parallel { 4 * rayon::current_num_threads() } else { 1 };
    let step = (m * n.div_ceil(COLUMN_PANELS) / wanted).clamp(4, ROW_PANELS);
    let tasks: Vec<(usize, usize)> =
        (0..m).step_by(step).flat_map(|i| (0..n).step_by(COLUMN_PANELS).map(move |j| (i, j))).collect();
    let run = |&(i, j): &(usize, usize)| {
        let rows = i..m.min(i + step);
        let columns = j..n.min(j + COLUMN_PANELS);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: operands exist only where the processor has the instructions (`Packed::new`); tasks write disjoint
        // tiles.
        unsafe {
            avx512::tiles(products, passes, dst, stride, accumulate, rows, columns);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, columns, dst, stride, passes);
    };
    if parallel {
        tasks.par_iter().for_each(run);
    } else {
        tasks.iter().for_each(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;
    use crate::nn::rows::Precision;

    fn rounded(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect()
    }

    fn numbers(key: &str, n: usize) -> Vec<f32> {
        check::numbers(key, n).into_iter().map(|x| x as f32).collect()
    }

    /// (M,K) times (K,N) with operands rounded to bfloat16, in f64.
    fn plain(a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
        let (a, b) = (rounded(a), rounded(b));
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                out[i * n + j] = (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum();
            }
        }
        out
    }

    fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
    }

    /// What callers rely on where the instructions are missing: float32 is computed, and packing is refused.
    fn float32_takes_over() {
        assert_eq!(Precision::Bf16.effective(), Precision::F32);
        assert!(std::panic::catch_unwind(|| Packed::left(&[1.0], 1, 1, false)).is_err());
    }

    #[test]
    fn all_shapes_and_layouts_agree_with_the_definition() {
        let shapes = [
            (1, 1, 1),
            (8, 48, 2),
            (9, 49, 3),
            (17, 95, 31),
            (40, 100, 33),
            (5, 130, 300),
            (200, 800, 517),
            (19, 64, 300),
            (24, 80, 40),
        ];
        if !available() {
            return float32_takes_over();
        }
        for shape in shapes {
            let (m, n, k) = shape;
            let (a, b) = (numbers("a", m * k), numbers("b", k * n));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            let wanted = plain(&a, &b, shape);
            let lefts = [Packed::left(&a, m, k, true), Packed::left_transposed(&at, m, k, true)];
            let rights = [Packed::right(&b, n, k, true), Packed::right_transposed(&bt, n, k, true)];
            let mut first: Option<Vec<f32>> = None;
            for left in &lefts {
                for right in &rights {
                    let mut got = vec![f32::NAN; m * n];
                    multiply(left, right, &mut got, false, true);
                    for (g, w) in got.iter().zip(&wanted) {
                        assert!((f64::from(*g) - w).abs() < 1e-5 * (k as f64).sqrt().max(1.0), "{shape:?} {g} {w}");
                    }
                    assert_eq!(*first.get_or_insert_with(|| got.clone()), got, "layouts differ at {shape:?}");
                    let once = got.clone();
                    multiply(left, right, &mut got, true, false);
                    for (g, o) in got.iter().zip(&once) {
                        assert!((g - 2.0 * o).abs() <= 1e-6 * (k as f32).sqrt(), "{shape:?} {g} {o}");
                    }
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        if !available() {
            return float32_takes_over();
        }
        let (m, n, k) = (410, 900, 700);
        let (a, b) = (numbers("a", m * k), numbers("b", k * n));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut out = vec![0.0; m * n];
                multiply(&Packed::left(&a, m, k, true), &Packed::right(&b, n, k, true), &mut out, false, true);
                out
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }

    #[test]
    fn a_sum_of_products_is_one_product_over_all_their_inner_dimensions() {
        if !available() {
            return float32_takes_over();
        }
        let (m, n) = (21, 131);
        let inner = [5usize, 700, 16, 2, 8, 33, 600];
        let parts: Vec<(Vec<f32>, Vec<f32>)> = inner
            .iter()
            .enumerate()
            .map(|(i, k)| (numbers(&format!("a{i}"), m * k), numbers(&format!("b{i}"), k * n)))
            .collect();
        let packed: Vec<(Packed, Packed)> = parts
            .iter()
            .zip(inner)
            .map(|((a, b), k)| (Packed::left(a, m, k, false), Packed::right(b, n, k, false)))
            .collect();
        let products: Vec<(&Packed, &Packed)> = packed.iter().map(|(a, b)| (a, b)).collect();
        let mut got = vec![1f32; m * n];
        multiply_sum(&products, &mut got, true, true);
        let mut wanted = vec![1f64; m * n];
        for ((a, b), k) in parts.iter().zip(inner) {
            wanted.iter_mut().zip(plain(a, b, (m, n, k))).for_each(|(sum, x)| *sum += x);
        }
        assert!(got.iter().zip(&wanted).all(|(&g, w)| (f64::from(g) - w).abs() < 1e-3));
        // Every pair is taken once, by passes that are full where the next product fits.
        let all = passes(inner.iter().map(|k| k.div_ceil(2)));
        assert!(all.iter().all(|pass| pass.len() <= RUNS && pass.iter().map(|part| part.len).sum::<usize>() <= KC));
        let taken = |product| -> usize {
            all.iter().flatten().filter(|part| part.product == product).map(|part| part.len).sum()
        };
        assert!(inner.iter().enumerate().all(|(product, k)| k.div_ceil(2) == taken(product)));
    }
}
