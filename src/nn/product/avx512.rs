//! The micro-kernel: a tile of 8 by 16, 32 or 48 sums in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{MR, NR, Packed, Pass, RUNS};
use crate::nn::real::Shared;

/// Sums of products of some panels of rows with some panels of columns.
///
/// # Safety
/// The processor has AVX512-BF16; `passes` fit the products, which are of one shape; `dst` holds rows that are `stride`
/// apart, and nobody else touches these tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn tiles(
    products: &[(&Packed, &Packed)],
    passes: &[Pass],
    dst: Shared<f32>,
    stride: usize,
    accumulate: bool,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let shape = (products[0].0.lines, products[0].1.lines);
    for (at, pass) in passes.iter().enumerate() {
        let add = accumulate || at > 0;
        for j in columns.clone() {
            let width = NR.min(shape.1 - j * NR);
            for i in rows.clone() {
                let mut runs = [Run { a: std::ptr::null(), b: std::ptr::null(), len: 0 }; RUNS];
                for (run, part) in runs.iter_mut().zip(pass) {
                    let (left, right) = products[part.product];
                    let panel = |x: &Packed, panel: usize, width: usize| {
                        x.data[(panel * x.pairs + part.from) * width..].as_ptr()
                    };
                    *run = Run { a: panel(left, i, MR), b: panel(right, j, NR), len: part.len };
                }
                let height = MR.min(shape.0 - i * MR);
                // SAFETY: panels are complete in memory; the tile lies within `dst`.
                unsafe {
                    let at = dst.at(i * MR * stride + j * NR);
                    match width {
                        NR if height == MR => tile::<3>(&runs[..pass.len()], at, stride, add),
                        32 if height == MR => tile::<2>(&runs[..pass.len()], at, stride, add),
                        16 if height == MR => tile::<1>(&runs[..pass.len()], at, stride, add),
                        _ => border(&runs[..pass.len()], at, stride, add, (height, width)),
                    }
                }
            }
        }
    }
}

/// Some pairs of a panel of rows and of one of columns.
#[derive(Clone, Copy)]
struct Run {
    a: *const u32,
    b: *const u32,
    len: usize,
}

/// Sixteen bfloat16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

/// A tile of eight whole rows and so many vectors of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const VECTORS: usize>(runs: &[Run], dst: *mut f32, stride: usize, add: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; MR];
        for row in 0..MR {
            for part in 0..VECTORS {
                // The tile is needed at the end: fetch it while the sums are made.
                _mm_prefetch::<_MM_HINT_T0>(dst.add(row * stride + part * 16).cast());
            }
        }
        for run in runs {
            let (mut a, mut b) = (run.a, run.b);
            for _ in 0..run.len {
                let columns: [__m512bh; VECTORS] =
                    std::array::from_fn(|part| pairs_of(_mm512_loadu_si512(b.add(part * 16).cast())));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = pairs_of(_mm512_set1_epi32(*a.add(row) as i32));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_dpbf16_ps(*sum, x, column);
                    }
                }
                a = a.add(MR);
                b = b.add(NR);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (part, &sum) in sums.iter().enumerate() {
                let at = dst.add(row * stride + part * 16);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(at), sum) } else { sum };
                _mm512_storeu_ps(at, sum);
            }
        }
    }
}

/// A tile at the lower or right border, through a buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn border(runs: &[Run], dst: *mut f32, stride: usize, add: bool, (height, width): (usize, usize)) {
    let mut buffer = [0f32; MR * NR];
    // SAFETY: the buffer is a whole tile; only the part within the product is copied.
    unsafe {
        match width.div_ceil(16) {
            1 => tile::<1>(runs, buffer.as_mut_ptr(), NR, false),
            2 => tile::<2>(runs, buffer.as_mut_ptr(), NR, false),
            _ => tile::<3>(runs, buffer.as_mut_ptr(), NR, false),
        }
        for row in 0..height {
            let line = std::slice::from_raw_parts_mut(dst.add(row * stride), width);
            for (out, sum) in line.iter_mut().zip(&buffer[row * NR..]) {
                *out = if add { *out + sum } else { *sum };
            }
        }
    }
}
