//! Causal attention over packed sequences, grouped-query, with a prefix shared
//! between sequences: the two responses of a pair both see the prompt, which is
//! computed once, and neither sees the other. A sliding window may limit how far
//! back a row sees.
//!
//! Scores are never stored: the backward pass computes them again from the saved
//! log-sum-exp of every row (Dao et al. 2022, "FlashAttention", Algorithm 4, here
//! in blocks of query rows).

use rayon::prelude::*;

use super::real::{Real, Shared, sum_of};
use super::rows::{Precision, Rows};
use super::vector;

/// Query rows, counted over the heads that share keys, that one block handles; bounds the scratch memory.
const BLOCK: usize = 192;

/// A run of packed rows that attends to itself causally, and to a prefix fully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// First row of the prefix.
    pub prefix_start: usize,
    /// Rows of the prefix; 0 for none.
    pub prefix_len: usize,
    /// Segments of one group may share a prefix; different groups share nothing.
    pub group: usize,
}

/// Head counts and the head size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub kv: usize,
    /// Elements of a head.
    pub size: usize,
}

impl Heads {
    fn q_width(self) -> usize {
        self.query * self.size
    }

    fn kv_width(self) -> usize {
        self.kv * self.size
    }

    /// Query heads that share one key-value head.
    fn share(self) -> usize {
        self.query / self.kv
    }

    fn scale<T: Real>(self) -> T {
        T::of((self.size as f64).sqrt().recip())
    }
}

/// The layout of a packed batch and the settings of attention.
#[derive(Debug, Clone, Copy)]
pub struct Scheme<'a> {
    /// Which rows attend to which.
    pub segments: &'a [Segment],
    /// Heads of the model.
    pub heads: Heads,
    /// Positions that a row sees, its own among them, counted along its sequence (prefix, then segment); 0 = all.
    pub window: usize,
    /// Operands of the products.
    pub precision: Precision,
}

/// One block of query rows: which rows, and the keys they see.
#[derive(Debug, Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    /// Key ranges (start, length): of the prefix, and of the segment up to the block's last row.
    keys: [(usize, usize); 2],
    /// Position of the first row in its sequence, and of the first key.
    row_position: usize,
    key_position: usize,
    window: usize,
}

impl Block {
    fn of<'a>(scheme: &Scheme<'a>, segment: &'a Segment) -> impl Iterator<Item = Block> + use<'a> {
        let step = (BLOCK / scheme.heads.share()).max(16);
        let window = scheme.window;
        (0..segment.len).step_by(step).map(move |at| {
            let rows = step.min(segment.len - at);
            let prefix = segment.prefix_len;
            let row_position = prefix + at;
            let key_position = if window == 0 { 0 } else { (row_position + 1).saturating_sub(window) };
            let (skip, own) = (key_position.min(prefix), key_position.saturating_sub(prefix));
            Block {
                row: segment.start + at,
                rows,
                keys: [(segment.prefix_start + skip, prefix - skip), (segment.start + own, at + rows - own)],
                row_position,
                key_position,
                window,
            }
        })
    }

    /// Keys of the block.
    fn width(&self) -> usize {
        self.keys[0].1 + self.keys[1].1
    }

    /// Keys that row `i` of the block sees.
    fn visible(&self, i: usize) -> std::ops::Range<usize> {
        let end = self.row_position + i + 1;
        let start = if self.window == 0 { 0 } else { end.saturating_sub(self.window) };
        start.max(self.key_position) - self.key_position..end - self.key_position
    }
}

/// Copies one head's part of some rows, after what is there.
fn take<T: Real>(out: &mut Vec<T>, from: &[T], (start, len): (usize, usize), width: usize, at: usize, size: usize) {
    for row in start..start + len {
        out.extend_from_slice(&from[row * width + at..][..size]);
    }
}

/// Scratch of one task.
struct Scratch<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    scores: Vec<T>,
    out: Vec<T>,
    dout: Vec<T>,
    dscores: Vec<T>,
    dkeys: Vec<T>,
}

impl<T: Real> Scratch<T> {
    fn new() -> Scratch<T> {
        let none = Vec::new;
        Scratch {
            q: none(),
            k: none(),
            v: none(),
            scores: none(),
            out: none(),
            dout: none(),
            dscores: none(),
            dkeys: none(),
        }
    }

    /// Copies a block's queries (head after head), keys and values.
    fn load(&mut self, (q, k, v): (&[T], &[T], &[T]), block: &Block, kv_head: usize, heads: Heads) {
        let size = heads.size;
        for part in [&mut self.q, &mut self.k, &mut self.v] {
            part.clear();
        }
        for head in kv_head * heads.share()..(kv_head + 1) * heads.share() {
            take(&mut self.q, q, (block.row, block.rows), heads.q_width(), head * size, size);
        }
        for keys in block.keys {
            take(&mut self.k, k, keys, heads.kv_width(), kv_head * size, size);
            take(&mut self.v, v, keys, heads.kv_width(), kv_head * size, size);
        }
    }
}

/// `len` numbers that will be overwritten.
fn sized<T: Real>(x: &mut Vec<T>, len: usize) -> &mut [T] {
    x.resize(len, T::zero());
    &mut x[..]
}

/// `softmax(q k^T / sqrt(D)) v` of every row and head over the keys that the row sees, and the log-sum-exp of its
/// scores.
///
/// # Shapes
/// q (N, Hq*D) · k, v (N, Hkv*D) · out (N, Hq*D) · lse (N, Hq).
pub fn forward<T: Real>(q: &[T], k: &[T], v: &[T], out: &mut [T], lse: &mut [T], scheme: &Scheme<'_>) {
    let heads = scheme.heads;
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let blocks = scheme.segments.iter().flat_map(|s| Block::of(scheme, s));
    let tasks: Vec<(Block, usize)> = blocks.flat_map(|b| (0..heads.kv).map(move |h| (b, h))).collect();
    tasks.par_iter().for_each_init(Scratch::new, |scratch: &mut Scratch<T>, (block, kv_head)| {
        scratch.load((q, k, v), block, *kv_head, heads);
        let Scratch { q, k, v, scores, out: attended, .. } = scratch;
        let (rows, width) = (block.rows * heads.share(), block.width());
        let scores = sized(scores, rows * width);
        let attended = sized(attended, rows * heads.size);
        let queries = Rows::serial(q, rows, scheme.precision);
        queries.times_transposed(&queries.like(k, width), scores, false);
        let mut inverses = Vec::with_capacity(rows);
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            let (i, head) = (i % block.rows, kv_head * heads.share() + i / block.rows);
            let (largest, sum) = exponentials(row, block.visible(i), heads.scale());
            inverses.push(sum.recip());
            // SAFETY: each (row, head) belongs to exactly one task.
            unsafe { *lse.at((block.row + i) * heads.query + head) = largest + sum.ln() };
        }
        queries.like(scores, rows).times(&queries.like(v, width), attended, false);
        for (i, (row, &inverse)) in attended.chunks_exact(heads.size).zip(&inverses).enumerate() {
            let (i, head) = (i % block.rows, kv_head * heads.share() + i / block.rows);
            // SAFETY: each (row, head) belongs to exactly one task.
            let target = unsafe { part(out, (block.row + i) * heads.q_width() + head * heads.size, heads.size) };
            target.iter_mut().zip(row).for_each(|(t, &x)| *t = x * inverse);
        }
    });
}

/// `len` elements from `at` on.
///
/// # Safety
/// They must lie within the slice, and no other task may touch them.
unsafe fn part<'a, T>(x: Shared<T>, at: usize, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(x.at(at), len) }
}

/// `e^(scale s - largest)` of the visible scores, zero for the rest; returns the largest scaled score and the sum.
fn exponentials<T: Real>(row: &mut [T], visible: std::ops::Range<usize>, scale: T) -> (T, T) {
    row[..visible.start].fill(T::zero());
    row[visible.end..].fill(T::zero());
    let seen = &mut row[visible];
    let largest = vector::max(T::neg_infinity(), seen) * scale;
    (largest, vector::exponentials(seen, scale, largest))
}

/// What the backward pass reads: inputs, outputs and the output's gradient.
pub struct Saved<'a, T> {
    /// Queries (N, Hq*D).
    pub q: &'a [T],
    /// Keys (N, Hkv*D).
    pub k: &'a [T],
    /// Values (N, Hkv*D).
    pub v: &'a [T],
    /// Output of the forward pass (N, Hq*D).
    pub out: &'a [T],
    /// Log-sum-exp of the forward pass (N, Hq).
    pub lse: &'a [T],
    /// Gradient of the output (N, Hq*D).
    pub dout: &'a [T],
}

/// Gradients of queries, keys and values.
///
/// # Shapes
/// dq (N, Hq*D) is overwritten; dk, dv (N, Hkv*D) are added to and must start at zero.
pub fn backward<T: Real>(saved: &Saved<'_, T>, dq: &mut [T], dk: &mut [T], dv: &mut [T], scheme: &Scheme<'_>) {
    let heads = scheme.heads;
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    // One task owns a key-value head of a whole group, so that sums into shared prefixes never race.
    let groups = scheme.segments.chunk_by(|a, b| a.group == b.group);
    let tasks: Vec<(&[Segment], usize)> = groups.flat_map(|g| (0..heads.kv).map(move |h| (g, h))).collect();
    tasks.par_iter().for_each_init(Scratch::new, |scratch, &(group, kv_head)| {
        for block in group.iter().flat_map(|s| Block::of(scheme, s)) {
            block_backward(saved, scratch, &block, kv_head, scheme, (dq, dk, dv));
        }
    });
}

/// One block and key-value head of the backward pass.
fn block_backward<T: Real>(
    saved: &Saved<'_, T>,
    scratch: &mut Scratch<T>,
    block: &Block,
    kv_head: usize,
    scheme: &Scheme<'_>,
    (dq, dk, dv): (Shared<T>, Shared<T>, Shared<T>),
) {
    let heads = scheme.heads;
    let (size, share) = (heads.size, heads.share());
    scratch.load((saved.q, saved.k, saved.v), block, kv_head, heads);
    scratch.dout.clear();
    for head in kv_head * share..(kv_head + 1) * share {
        take(&mut scratch.dout, saved.dout, (block.row, block.rows), heads.q_width(), head * size, size);
    }
    let Scratch { q, k, v, scores, out: narrow, dout, dscores, dkeys } = scratch;
    let (rows, width) = (block.rows * share, block.width());
    let queries = Rows::serial(q, rows, scheme.precision);
    let (keys, values, douts) = (queries.like(k, width), queries.like(v, width), queries.like(dout, rows));
    let (scores, dscores) = (sized(scores, rows * width), sized(dscores, rows * width));
    queries.times_transposed(&keys, scores, false);
    douts.times_transposed(&values, dscores, false);
    for (at, (p, dp)) in scores.chunks_exact_mut(width).zip(dscores.chunks_exact_mut(width)).enumerate() {
        let (i, head) = (at % block.rows, kv_head * share + at / block.rows);
        let lse = saved.lse[(block.row + i) * heads.query + head];
        let out = &saved.out[(block.row + i) * heads.q_width() + head * size..][..size];
        let dout = &douts.values()[at * size..][..size];
        let delta = sum_of(size, |j| out[j] * dout[j]);
        scores_backward(p, dp, block.visible(i), lse, delta, heads.scale());
    }
    let (p, dp) = (queries.like(scores, rows), queries.like(dscores, rows));
    let dqueries = sized(narrow, rows * size);
    dp.times(&keys, dqueries, false);
    for (at, row) in dqueries.chunks_exact(size).enumerate() {
        let (i, head) = (at % block.rows, kv_head * share + at / block.rows);
        // SAFETY: this task alone writes these rows of these heads.
        unsafe { part(dq, (block.row + i) * heads.q_width() + head * size, size) }.copy_from_slice(row);
    }
    let dkeys = sized(dkeys, width * size);
    for (left, right, sum) in [(&dp, &queries, dk), (&p, &douts, dv)] {
        left.transposed_times(right, dkeys, false);
        let rows = block.keys.iter().flat_map(|&(start, len)| start..start + len);
        for (row, add) in rows.zip(dkeys.chunks_exact(size)) {
            // SAFETY: this task alone adds to this group's rows of this head.
            let sum = unsafe { part(sum, row * heads.kv_width() + kv_head * size, size) };
            sum.iter_mut().zip(add).for_each(|(s, &x)| *s += x);
        }
    }
}

/// Scores -> probabilities in `p`; gradient of probabilities -> gradient of scores (times scale) in `dp`.
fn scores_backward<T: Real>(p: &mut [T], dp: &mut [T], visible: std::ops::Range<usize>, lse: T, delta: T, scale: T) {
    for x in [&mut *p, &mut *dp] {
        x[..visible.start].fill(T::zero());
        x[visible.end..].fill(T::zero());
    }
    vector::softmax_backward(&mut p[visible.clone()], &mut dp[visible], lse, delta, scale);
}

#[cfg(test)]
mod tests;
