//! Causal attention over packed sequences, grouped-query, with a prefix shared
//! between sequences: the two responses of a pair both see the prompt, which is
//! computed once, and neither sees the other.
//!
//! Scores are never stored: the backward pass computes them again from the saved
//! log-sum-exp of every row (Dao et al. 2022, "FlashAttention", Algorithm 4, here
//! in blocks of query rows).

use rayon::prelude::*;

use super::real::{Real, Shared, View, gemm, sum_of, wide};

/// Query rows that one block handles; bounds the scratch memory.
const BLOCK: usize = 96;

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

    fn scale<T: Real>(self) -> T {
        T::of((self.size as f64).sqrt().recip())
    }
}

/// One block of query rows of one head: which rows, and the keys it sees.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    /// Key ranges (start, length): the prefix, and the segment up to the block's last row.
    keys: [(usize, usize); 2],
    /// Keys of the second range that the block's first row sees.
    first: usize,
}

impl Block {
    fn of(segment: &Segment) -> impl Iterator<Item = Block> + '_ {
        (0..segment.len).step_by(BLOCK).map(move |at| {
            let rows = BLOCK.min(segment.len - at);
            Block {
                row: segment.start + at,
                rows,
                keys: [(segment.prefix_start, segment.prefix_len), (segment.start, at + rows)],
                first: at + 1,
            }
        })
    }

    fn width(&self) -> usize {
        self.keys[0].1 + self.keys[1].1
    }

    /// Keys that row `i` of the block sees; they come first in its score row.
    fn visible(&self, i: usize) -> usize {
        self.keys[0].1 + self.first + i
    }
}

/// Attention output and the log-sum-exp of every row and head.
///
/// # Shapes
/// q (N, Hq*D) · k, v (N, Hkv*D) · out (N, Hq*D) · lse (N, Hq).
pub fn forward<T: Real>(q: &[T], k: &[T], v: &[T], out: &mut [T], lse: &mut [T], segments: &[Segment], heads: Heads) {
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let tasks: Vec<(Block, usize)> =
        segments.iter().flat_map(Block::of).flat_map(|b| (0..heads.query).map(move |h| (b, h))).collect();
    tasks.par_iter().for_each_init(Vec::new, |scores: &mut Vec<T>, &(block, head)| {
        scores.clear();
        scores.resize(block.rows * block.width(), T::zero());
        scores_of(q, k, scores, &block, head, heads);
        for i in 0..block.rows {
            let row = &mut scores[i * block.width()..(i + 1) * block.width()];
            let sum = softmax_row(row, block.visible(i));
            // SAFETY: each (row, head) belongs to exactly one task.
            unsafe { *lse.at((block.row + i) * heads.query + head) = sum };
        }
        let kv_head = head / (heads.query / heads.kv) * heads.size;
        let mut column = 0;
        for (range, (start, len)) in block.keys.into_iter().enumerate() {
            // SAFETY: views lie within q, k, v and out; each task writes its own rows and head.
            unsafe {
                gemm(
                    (block.rows, heads.size, len),
                    out.at(block.row * heads.q_width() + head * heads.size),
                    (heads.q_width(), 1),
                    range == 1 && block.keys[0].1 > 0,
                    View { data: scores.as_ptr().add(column), row: block.width(), column: 1 },
                    View { data: v.as_ptr().add(start * heads.kv_width() + kv_head), row: heads.kv_width(), column: 1 },
                    T::one(),
                    false,
                );
            }
            column += len;
        }
    });
}

/// Scaled scores of a block: `scale * q k^T`, all key ranges side by side.
fn scores_of<T: Real>(q: &[T], k: &[T], scores: &mut [T], block: &Block, head: usize, heads: Heads) {
    let kv_head = head / (heads.query / heads.kv) * heads.size;
    let mut column = 0;
    for (start, len) in block.keys {
        // SAFETY: views lie within q and k, and within `scores`, which is borrowed mutably.
        unsafe {
            gemm(
                (block.rows, len, heads.size),
                scores.as_mut_ptr().add(column),
                (block.width(), 1),
                false,
                View {
                    data: q.as_ptr().add(block.row * heads.q_width() + head * heads.size),
                    row: heads.q_width(),
                    column: 1,
                },
                View { data: k.as_ptr().add(start * heads.kv_width() + kv_head), row: 1, column: heads.kv_width() },
                heads.scale(),
                false,
            );
        }
        column += len;
    }
}

/// Softmax over the first `visible` scores, zero for the rest; returns the log-sum-exp.
fn softmax_row<T: Real>(row: &mut [T], visible: usize) -> T {
    wide(|| {
        let (seen, hidden) = row.split_at_mut(visible);
        let largest = seen.iter().fold(T::neg_infinity(), |m, &s| if s > m { s } else { m });
        for s in seen.iter_mut() {
            *s = (*s - largest).exp_fast();
        }
        let sum = sum_of(visible, |i| seen[i]);
        let inverse = sum.recip();
        for s in seen.iter_mut() {
            *s *= inverse;
        }
        hidden.fill(T::zero());
        largest + sum.ln()
    })
}

/// What the backward pass reads: inputs, outputs and the output's gradient.
pub struct Saved<'a, T> {
    /// Queries (N, Hq*D).
    pub q: &'a [T],
    /// Keys (N, Hkv*D).
    pub k: &'a [T],
    /// Values (N, Hkv*D).
    pub v: &'a [T],
    /// Output (N, Hq*D).
    pub out: &'a [T],
    /// Log-sum-exp (N, Hq).
    pub lse: &'a [T],
    /// Gradient of the output (N, Hq*D).
    pub dout: &'a [T],
}

/// Gradients of queries, keys and values.
///
/// # Shapes
/// dq (N, Hq*D) is overwritten · dk, dv (N, Hkv*D) are added to and must start at zero.
pub fn backward<T: Real>(
    saved: &Saved<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    segments: &[Segment],
    heads: Heads,
) {
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    // One task owns a key-value head of a whole group, so that sums into shared prefixes never race.
    let tasks: Vec<(&[Segment], usize)> =
        segments.chunk_by(|a, b| a.group == b.group).flat_map(|group| (0..heads.kv).map(move |h| (group, h))).collect();
    tasks.par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(p, dp), &(group, kv_head)| {
            let share = heads.query / heads.kv;
            for block in group.iter().flat_map(Block::of) {
                for head in kv_head * share..(kv_head + 1) * share {
                    p.clear();
                    p.resize(block.rows * block.width(), T::zero());
                    dp.clear();
                    dp.resize(block.rows * block.width(), T::zero());
                    block_backward(saved, (p, dp), &block, head, heads, (dq, dk, dv));
                }
            }
        },
    );
}

/// One block and head of the backward pass.
fn block_backward<T: Real>(
    saved: &Saved<'_, T>,
    (p, dp): (&mut [T], &mut [T]),
    block: &Block,
    head: usize,
    heads: Heads,
    (dq, dk, dv): (Shared<T>, Shared<T>, Shared<T>),
) {
    let (qw, kvw, width) = (heads.q_width(), heads.kv_width(), block.width());
    let kv_head = head / (heads.query / heads.kv) * heads.size;
    let q_at = block.row * qw + head * heads.size;
    let q_view = |data: &[T]| View { data: data[q_at..].as_ptr(), row: qw, column: 1 };
    scores_of(saved.q, saved.k, p, block, head, heads);
    let mut column = 0;
    for (start, len) in block.keys {
        // SAFETY: views lie within dout, v and dp.
        unsafe {
            gemm(
                (block.rows, len, heads.size),
                dp.as_mut_ptr().add(column),
                (width, 1),
                false,
                q_view(saved.dout),
                View { data: saved.v.as_ptr().add(start * kvw + kv_head), row: 1, column: kvw },
                T::one(),
                false,
            );
        }
        column += len;
    }
    for i in 0..block.rows {
        let lse = saved.lse[(block.row + i) * heads.query + head];
        let at = (block.row + i) * qw + head * heads.size;
        let (out, dout) = (&saved.out[at..at + heads.size], &saved.dout[at..at + heads.size]);
        let (p, dp) = (&mut p[i * width..(i + 1) * width], &mut dp[i * width..(i + 1) * width]);
        scores_backward(p, dp, block.visible(i), lse, sum_of(heads.size, |j| out[j] * dout[j]), heads.scale());
    }
    let mut column = 0;
    for (range, (start, len)) in block.keys.into_iter().enumerate() {
        let key_at = start * kvw + kv_head;
        let (p_t, dp_t) = (
            View { data: p[column..].as_ptr(), row: 1, column: width },
            View { data: dp[column..].as_ptr(), row: 1, column: width },
        );
        // SAFETY: this task alone writes this head's dq rows, and this group's dk and dv of its key-value head.
        unsafe {
            gemm(
                (block.rows, heads.size, len),
                dq.at(q_at),
                (qw, 1),
                range == 1 && block.keys[0].1 > 0,
                View { data: dp.as_ptr().add(column), row: width, column: 1 },
                View { data: saved.k.as_ptr().add(key_at), row: kvw, column: 1 },
                T::one(),
                false,
            );
            let into = (len, heads.size, block.rows);
            gemm(into, dk.at(key_at), (kvw, 1), true, dp_t, q_view(saved.q), T::one(), false);
            gemm(into, dv.at(key_at), (kvw, 1), true, p_t, q_view(saved.dout), T::one(), false);
        }
        column += len;
    }
}

/// Scores -> probabilities in `p`; gradient of probabilities -> gradient of scores (times scale) in `dp`.
fn scores_backward<T: Real>(p: &mut [T], dp: &mut [T], visible: usize, lse: T, delta: T, scale: T) {
    wide(|| {
        for (p, dp) in p[..visible].iter_mut().zip(&mut dp[..visible]) {
            *p = (*p - lse).exp_fast();
            *dp = *p * (*dp - delta) * scale;
        }
        p[visible..].fill(T::zero());
        dp[visible..].fill(T::zero());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    const HEADS: Heads = Heads { query: 4, kv: 2, size: 4 };

    /// Two groups: prompt, two responses that share it; and a lone sequence longer than a block.
    fn layout() -> (Vec<Segment>, usize) {
        let s = |start, len, prefix_start, prefix_len, group| Segment { start, len, prefix_start, prefix_len, group };
        let long = BLOCK + 5;
        (vec![s(0, 3, 0, 0, 0), s(3, 4, 0, 3, 0), s(7, 2, 0, 3, 0), s(9, long, 0, 0, 1)], 9 + long)
    }

    /// The definition, one row and head at a time.
    fn plain(q: &[f64], k: &[f64], v: &[f64], segments: &[Segment]) -> Vec<f64> {
        let (d, qw, kvw) = (HEADS.size, HEADS.q_width(), HEADS.kv_width());
        let mut out = vec![0.0; q.len()];
        for s in segments {
            for i in 0..s.len {
                let keys: Vec<usize> =
                    (s.prefix_start..s.prefix_start + s.prefix_len).chain(s.start..=s.start + i).collect();
                for h in 0..HEADS.query {
                    let g = h / (HEADS.query / HEADS.kv);
                    let query = &q[(s.start + i) * qw + h * d..][..d];
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|&j| (check::dot(query, &k[j * kvw + g * d..][..d]) / (d as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for (&j, score) in keys.iter().zip(&scores) {
                        for x in 0..d {
                            out[(s.start + i) * qw + h * d + x] += score / total * v[j * kvw + g * d + x];
                        }
                    }
                }
            }
        }
        out
    }

    fn run(q: &[f64], k: &[f64], v: &[f64], segments: &[Segment], n: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut out, mut lse) = (vec![f64::NAN; n * HEADS.q_width()], vec![0.0; n * HEADS.query]);
        forward(q, k, v, &mut out, &mut lse, segments, HEADS);
        (out, lse)
    }

    #[test]
    fn agrees_with_the_definition() {
        let (segments, n) = layout();
        let (q, k, v) = (
            check::numbers("q", n * HEADS.q_width()),
            check::numbers("k", n * HEADS.kv_width()),
            check::numbers("v", n * HEADS.kv_width()),
        );
        let (out, _) = run(&q, &k, &v, &segments, n);
        for (a, b) in out.iter().zip(plain(&q, &k, &v, &segments)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (segments, n) = layout();
        let (qn, kn) = (n * HEADS.q_width(), n * HEADS.kv_width());
        let (q, k, v, dout) =
            (check::numbers("q", qn), check::numbers("k", kn), check::numbers("v", kn), check::numbers("do", qn));
        let (out, lse) = run(&q, &k, &v, &segments, n);
        let (mut dq, mut dk, mut dv) = (vec![f64::NAN; qn], vec![0.0; kn], vec![0.0; kn]);
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse, dout: &dout };
        backward(&saved, &mut dq, &mut dk, &mut dv, &segments, HEADS);
        // The head of each array covers the shared prompt and both responses.
        let part = 9 * HEADS.kv_width();
        let f = |q: &[f64], k: &[f64], v: &[f64]| check::dot(&run(q, k, v, &segments, n).0, &dout);
        let with = |whole: &[f64], head: &[f64]| [head, &whole[part..]].concat();
        check::gradient("dq", &q[..part], &dq[..part], |x| f(&with(&q, x), &k, &v));
        check::gradient("dk", &k[..part], &dk[..part], |x| f(&q, &with(&k, x), &v));
        check::gradient("dv", &v[..part], &dv[..part], |x| f(&q, &k, &with(&v, x)));
        // And the tail of the long sequence crosses a block border.
        let tail = kn - 8;
        let with = |x: &[f64]| [&k[..tail], x].concat();
        check::gradient("dk tail", &k[tail..], &dk[tail..], |x| f(&q, &with(x), &v));
    }
}
