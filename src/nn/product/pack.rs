//! Rounding to bfloat16 and laying out in panels.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::{MR, NR, Operand};
use crate::nn::real::{Shared, View};

/// Lines that one transposition handles.
const GROUP: usize = 16;
/// Pairs that one transposition handles.
const STEP: usize = 16;

/// Packs all panels; see [`super::Packed::new`] for what the view means.
pub(super) fn pack(
    side: Operand,
    view: View<f32>,
    (lines, inner): (usize, usize),
    parallel: bool,
    packed: &mut Vec<u32>,
) {
    let (width, pairs) = (side.width(), inner.div_ceil(2));
    let panels = lines.div_ceil(width);
    // Two panels of rows fill one vector; a panel of columns fills three.
    let together = if side == Operand::Left { 2 * 8 } else { 4 };
    let len = panels * pairs * width;
    let out = Shared::new(&mut packed.spare_capacity_mut()[..len]);
    let source = Shared::of(view.data);
    let task = |first: usize| {
        let last = panels.min(first + together);
        // SAFETY: `Packed::new` checked `available`; every task writes its own panels, all of them, and reads within
        // the view.
        unsafe {
            let view = View { data: source.at(0).cast_const(), ..view };
            let out = out.at(0).cast::<u32>();
            match (side, view.column == 1) {
                (Operand::Left, true) => left_along(view, (lines, inner), out, first..last),
                (Operand::Left, false) => left_across(view, (lines, inner), out, first..last),
                (Operand::Right, true) => right_along(view, (lines, inner), out, first..last),
                (Operand::Right, false) => right_across(view, (lines, inner), out, first..last),
            }
        }
    };
    if !parallel || len < 1 << 15 {
        (0..panels).step_by(together).for_each(task);
    } else {
        (0..panels.div_ceil(together)).into_par_iter().for_each(|i| task(i * together));
    }
    // SAFETY: all panels were written.
    unsafe { packed.set_len(len) };
}

type Panels = std::ops::Range<usize>;

/// Mask of the first `n` of sixteen lanes.
fn first(n: usize) -> __mmask16 {
    if n >= 16 { 0xffff } else { (1u16 << n) - 1 }
}

/// Sixteen pairs of one line from pair `at` on, beyond the end zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn line_pairs(line: *const f32, at: usize, inner: usize) -> __m512i {
    let left = inner.saturating_sub(2 * at);
    // SAFETY: masked lanes are not read.
    unsafe {
        let p = line.wrapping_add(2 * at);
        let (low, high) = if left >= 32 {
            (_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16)))
        } else {
            (
                _mm512_maskz_loadu_ps(first(left), p),
                _mm512_maskz_loadu_ps(first(left.saturating_sub(16)), p.wrapping_add(16)),
            )
        };
        bits(_mm512_cvtne2ps_pbh(high, low))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(x) }
}

/// Sixteen lines by sixteen pairs, transposed: one vector for each pair.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn block(view: &View<f32>, line: usize, lines: usize, at: usize, inner: usize) -> [__m512i; STEP] {
    let mut r = [_mm512_setzero_si512(); GROUP];
    for (i, row) in r.iter_mut().enumerate() {
        if line + i < lines {
            // SAFETY: the line is within the view.
            *row = unsafe { line_pairs(view.data.add((line + i) * view.row), at, inner) };
        }
    }
    transpose(r)
}

/// 16 by 16 words transposed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut u = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // u[4g + c] holds words c, 4+c, 8+c, 12+c of lines 4g..4g+4, a quarter each.
    let mut v = [_mm512_setzero_si512(); 16];
    for c in 0..4 {
        let low01 = _mm512_shuffle_i32x4::<0x44>(u[c], u[4 + c]);
        let high01 = _mm512_shuffle_i32x4::<0xee>(u[c], u[4 + c]);
        let low23 = _mm512_shuffle_i32x4::<0x44>(u[8 + c], u[12 + c]);
        let high23 = _mm512_shuffle_i32x4::<0xee>(u[8 + c], u[12 + c]);
        v[c] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
        v[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
        v[8 + c] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
        v[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
    }
    v
}

/// Rows that lie together along the inner dimension.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn left_along(view: View<f32>, (lines, inner): (usize, usize), out: *mut u32, panels: Panels) {
    let pairs = inner.div_ceil(2);
    for panel in panels.clone().step_by(2) {
        let second = panel + 1 < panels.end;
        for at in (0..pairs).step_by(STEP) {
            // SAFETY: within the view; the two panels are this task's.
            unsafe {
                let vectors = block(&view, panel * MR, lines, at, inner);
                for (i, &v) in vectors.iter().enumerate().take(pairs - at) {
                    store_rows(v, out, (panel * pairs + at + i) * MR, pairs * MR, second);
                }
            }
        }
    }
}

/// Sixteen rows' pairs to two panels of eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_rows(v: __m512i, out: *mut u32, at: usize, panel: usize, second: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_si256(out.add(at).cast(), _mm512_castsi512_si256(v));
        if second {
            _mm256_storeu_si256(out.add(at + panel).cast(), _mm512_extracti64x4_epi64::<1>(v));
        }
    }
}

/// Columns that lie together along the inner dimension.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn right_along(view: View<f32>, (lines, inner): (usize, usize), out: *mut u32, panels: Panels) {
    let pairs = inner.div_ceil(2);
    for panel in panels {
        for at in (0..pairs).step_by(STEP) {
            for part in 0..NR / GROUP {
                // SAFETY: within the view; the panel is this task's.
                unsafe {
                    let vectors = block(&view, panel * NR + part * GROUP, lines, at, inner);
                    for (i, &v) in vectors.iter().enumerate().take(pairs - at) {
                        _mm512_storeu_si512(out.add((panel * pairs + at + i) * NR + part * GROUP).cast(), v);
                    }
                }
            }
        }
    }
}

/// Sixteen lines' pair `pair`, where lines lie together across the inner dimension.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn across(view: &View<f32>, line: usize, lines: usize, pair: usize, inner: usize, order: __m512i) -> __m512i {
    let mask = first(lines.saturating_sub(line));
    // SAFETY: masked lanes are not read, and an odd end is not either.
    unsafe {
        let p = view.data.wrapping_add(2 * pair * view.column + line);
        let low = _mm512_maskz_loadu_ps(mask, p);
        let high = if 2 * pair + 1 < inner {
            _mm512_maskz_loadu_ps(mask, p.wrapping_add(view.column))
        } else {
            _mm512_setzero_ps()
        };
        _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(high, low)))
    }
}

/// Takes (low 0..16, high 0..16) to (low 0, high 0, low 1, ...).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave() -> __m512i {
    let mut order = [0u16; 32];
    for i in 0..16u16 {
        order[2 * i as usize] = i;
        order[2 * i as usize + 1] = 16 + i;
    }
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
}

/// Rows that lie together across the inner dimension.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn left_across(view: View<f32>, (lines, inner): (usize, usize), out: *mut u32, panels: Panels) {
    let (pairs, order) = (inner.div_ceil(2), interleave());
    for pair in 0..pairs {
        for panel in panels.clone().step_by(2) {
            // SAFETY: within the view; the panels are this task's.
            unsafe {
                let v = across(&view, panel * MR, lines, pair, inner, order);
                store_rows(v, out, (panel * pairs + pair) * MR, pairs * MR, panel + 1 < panels.end);
            }
        }
    }
}

/// Columns that lie together across the inner dimension.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn right_across(view: View<f32>, (lines, inner): (usize, usize), out: *mut u32, panels: Panels) {
    let (pairs, order) = (inner.div_ceil(2), interleave());
    for pair in 0..pairs {
        for panel in panels.clone() {
            for part in 0..NR / GROUP {
                // SAFETY: within the view; the panels are this task's.
                unsafe {
                    let v = across(&view, panel * NR + part * GROUP, lines, pair, inner, order);
                    _mm512_storeu_si512(out.add((panel * pairs + pair) * NR + part * GROUP).cast(), v);
                }
            }
        }
    }
}
