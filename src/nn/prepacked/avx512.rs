//! Tiles of up to 8 rows by 48 columns, in registers.

use std::arch::x86_64::*;

use crate::nn::product::{MR, NR};

/// Elements of the inner dimension that one pass over the tiles takes: a panel's part stays in the second-level cache.
const KC: usize = 2048;

/// All rows of x by one panel.
///
/// # Safety
/// The processor has AVX-512 F; `out` has `width` numbers for every row of x, `stride` apart, which nobody else touches;
/// x and the panel are whole.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn panel(
    x: &[f32],
    inner: usize,
    panel: &[f32],
    out: *mut f32,
    (stride, width): (usize, usize),
    accumulate: bool,
) {
    let rows = x.len() / inner;
    for from in (0..inner).step_by(KC) {
        let len = KC.min(inner - from);
        let add = accumulate || from > 0;
        let b = panel[from * NR..].as_ptr();
        for row in (0..rows).step_by(MR) {
            // SAFETY: `len` numbers of each of these rows, and `len` lines of the panel, are there.
            unsafe {
                let (a, out) = (x[row * inner + from..].as_ptr(), out.add(row * stride));
                match rows - row {
                    1 => tile::<1>((a, inner), b, len, out, (stride, width), add),
                    2 => tile::<2>((a, inner), b, len, out, (stride, width), add),
                    3 => tile::<3>((a, inner), b, len, out, (stride, width), add),
                    4 => tile::<4>((a, inner), b, len, out, (stride, width), add),
                    5 => tile::<5>((a, inner), b, len, out, (stride, width), add),
                    6 => tile::<6>((a, inner), b, len, out, (stride, width), add),
                    7 => tile::<7>((a, inner), b, len, out, (stride, width), add),
                    _ => tile::<MR>((a, inner), b, len, out, (stride, width), add),
                }
            }
        }
    }
}

/// Mask of the lanes of vector `part` that lie within `width` columns.
#[inline]
fn mask(width: usize, part: usize) -> __mmask16 {
    let left = width.saturating_sub(part * 16);
    if left >= 16 { 0xffff } else { (1u16 << left) - 1 }
}

/// One tile. Sums begin with what is in `out` where `add` is set, so that their order is that of the inner dimension.
///
/// # Safety
/// As [`panel`]'s.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize>(
    (a, row): (*const f32, usize),
    b: *const f32,
    len: usize,
    out: *mut f32,
    (stride, width): (usize, usize),
    add: bool,
) {
    let masks = [mask(width, 0), mask(width, 1), mask(width, 2)];
    // SAFETY: masked lanes are neither read nor written; the rest is the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 3]; M];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (part, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_maskz_loadu_ps(masks[part], out.wrapping_add(i * stride + part * 16));
                }
            }
        }
        let mut b = b;
        for k in 0..len {
            let (b0, b1, b2) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)), _mm512_loadu_ps(b.add(32)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i * row + k));
                sums[0] = _mm512_fmadd_ps(x, b0, sums[0]);
                sums[1] = _mm512_fmadd_ps(x, b1, sums[1]);
                sums[2] = _mm512_fmadd_ps(x, b2, sums[2]);
            }
            b = b.wrapping_add(NR);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (part, &sum) in sums.iter().enumerate() {
                _mm512_mask_storeu_ps(out.wrapping_add(i * stride + part * 16), masks[part], sum);
            }
        }
    }
}
