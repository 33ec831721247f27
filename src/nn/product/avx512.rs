//! The micro-kernel: an 8 by 48 tile of sums in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{KC, MR, NR, Packed};
use crate::nn::real::Shared;

/// Products of some panels of rows with some panels of columns.
///
/// # Safety
/// The processor has AVX512-BF16; `dst` holds rows that are `stride` apart, and nobody else touches these tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn tiles(
    left: &Packed,
    right: &Packed,
    dst: Shared<f32>,
    stride: usize,
    accumulate: bool,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let pairs = left.pairs;
    for from in (0..pairs).step_by(KC) {
        let len = KC.min(pairs - from);
        let add = accumulate || from > 0;
        for j in columns.clone() {
            let b = right.data[(j * pairs + from) * NR..].as_ptr();
            let width = NR.min(right.lines - j * NR);
            for i in rows.clone() {
                let a = left.data[(i * pairs + from) * MR..].as_ptr();
                let height = MR.min(left.lines - i * MR);
                // SAFETY: panels are complete in memory; the tile lies within `dst`.
                unsafe {
                    let at = dst.at(i * MR * stride + j * NR);
                    if height == MR && width == NR {
                        tile(a, b, len, at, stride, add);
                    } else {
                        border(a, b, len, at, stride, add, (height, width));
                    }
                }
            }
        }
    }
}

/// Sixteen bfloat16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

/// One whole tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile(a: *const u32, b: *const u32, len: usize, dst: *mut f32, stride: usize, add: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 3]; MR];
        for row in 0..MR {
            // The tile is needed at the end: fetch it while the sums are made.
            _mm_prefetch::<_MM_HINT_T0>(dst.add(row * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(dst.add(row * stride + 16).cast());
            _mm_prefetch::<_MM_HINT_T0>(dst.add(row * stride + 32).cast());
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..len {
            let b0 = pairs_of(_mm512_loadu_si512(b.cast()));
            let b1 = pairs_of(_mm512_loadu_si512(b.add(16).cast()));
            let b2 = pairs_of(_mm512_loadu_si512(b.add(32).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = pairs_of(_mm512_set1_epi32(*a.add(row) as i32));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
                sums[2] = _mm512_dpbf16_ps(sums[2], x, b2);
            }
            a = a.add(MR);
            b = b.add(NR);
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
unsafe fn border(
    a: *const u32,
    b: *const u32,
    len: usize,
    dst: *mut f32,
    stride: usize,
    add: bool,
    (height, width): (usize, usize),
) {
    let mut buffer = [0f32; MR * NR];
    // SAFETY: the buffer is a whole tile; only the part within the product is copied.
    unsafe {
        tile(a, b, len, buffer.as_mut_ptr(), NR, false);
        for row in 0..height {
            let line = std::slice::from_raw_parts_mut(dst.add(row * stride), width);
            for (out, sum) in line.iter_mut().zip(&buffer[row * NR..]) {
                *out = if add { *out + sum } else { *sum };
            }
        }
    }
}
