//! Attention of one new row of each sequence over the keys and values of the rows before it, which are kept: a
//! key-value cache.
//!
//! Sums are made in a fixed order that depends on the sequence alone.

use rayon::prelude::*;

use super::attention::Heads;
use super::real::{Real, Shared};
use super::vector;

/// Positions whose keys lie together, element by element, so that their scores are summed side by side.
const BLOCK: usize = vector::LANES;

/// Keys and values of one sequence in one layer.
#[derive(Debug, Clone)]
pub struct KeyValues<T> {
    /// Of each key-value head.
    heads: Vec<HeadCache<T>>,
    size: usize,
    len: usize,
}

/// Keys and values of one head.
#[derive(Debug, Clone)]
struct HeadCache<T> {
    /// Blocks of [`BLOCK`] positions: (block, element, position), zeros behind the last position.
    keys: Vec<T>,
    /// (position, element).
    values: Vec<T>,
}

impl<T: Real> KeyValues<T> {
    /// An empty cache.
    pub fn new(heads: Heads) -> KeyValues<T> {
        let empty = || HeadCache { keys: Vec::new(), values: Vec::new() };
        KeyValues { heads: (0..heads.kv).map(|_| empty()).collect(), size: heads.size, len: 0 }
    }

    /// Number of rows kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no row is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.heads.iter().map(|h| size_of_val(h.keys.as_slice()) + size_of_val(h.values.as_slice())).sum()
    }

    /// Keeps the keys and values of some rows, after those that are there.
    ///
    /// # Shapes
    /// k, v (N, Hkv*D); keys rotated to their positions.
    pub fn extend(&mut self, k: &[T], v: &[T]) {
        let (size, width) = (self.size, self.heads.len() * self.size);
        for (k, v) in k.chunks_exact(width).zip(v.chunks_exact(width)) {
            let (block, lane) = (self.len / BLOCK, self.len % BLOCK);
            for (head, (k, v)) in self.heads.iter_mut().zip(k.chunks_exact(size).zip(v.chunks_exact(size))) {
                if lane == 0 {
                    head.keys.resize((block + 1) * BLOCK * size, T::zero());
                }
                for (i, &x) in k.iter().enumerate() {
                    head.keys[(block * size + i) * BLOCK + lane] = x;
                }
                head.values.extend_from_slice(v);
            }
            self.len += 1;
        }
    }
}

/// `softmax(q k^T / sqrt(D)) v` of the newest row of each sequence, whose own key and value are in its cache already.
///
/// # Shapes
/// q (B, Hq*D) · B caches · window: positions that a row sees, its own among them, 0 = all -> (B, Hq*D).
///
/// # Panics
/// Where a cache is empty or shapes do not fit each other.
pub fn forward<T: Real>(q: &[T], caches: &[&KeyValues<T>], out: &mut [T], heads: Heads, window: usize) {
    let (size, share) = (heads.size, heads.query / heads.kv);
    let width = heads.query * size;
    assert!(q.len() == caches.len() * width && out.len() == q.len(), "queries of other shapes");
    assert!(caches.iter().all(|c| !c.is_empty() && c.size == size), "an empty cache");
    let out = Shared::new(out);
    let tasks: Vec<(usize, usize)> = (0..caches.len()).flat_map(|i| (0..heads.kv).map(move |h| (i, h))).collect();
    let scale = T::of((size as f64).sqrt().recip());
    tasks.par_iter().for_each_init(Vec::new, |scores: &mut Vec<T>, &(sequence, kv_head)| {
        let (cache, len) = (&caches[sequence].heads[kv_head], caches[sequence].len);
        let first = if window == 0 { 0 } else { len.saturating_sub(window) };
        scores.resize(len.next_multiple_of(BLOCK), T::zero());
        for head in kv_head * share..(kv_head + 1) * share {
            let at = sequence * width + head * size;
            vector::scores_of_blocks(&q[at..at + size], &cache.keys, scores);
            let seen = &mut scores[first..len];
            let largest = vector::max(T::neg_infinity(), seen) * scale;
            let sum = vector::exponentials(seen, scale, largest);
            // SAFETY: each head of each sequence belongs to exactly one task, and lies within `out`.
            let target = unsafe { std::slice::from_raw_parts_mut(out.at(at), size) };
            vector::weighted_sum(seen, &cache.values[first * size..len * size], target);
            let inverse = sum.recip();
            target.iter_mut().for_each(|x| *x *= inverse);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{self, Scheme, Segment};
    use crate::nn::{Precision, check};

    /// The newest row of every prefix of a sequence, against attention over the whole sequence at once.
    #[test]
    fn every_row_is_that_of_the_whole_sequence() {
        let heads = Heads { query: 6, kv: 2, size: 5 };
        let (n, q_width, kv_width) = (41, 30, 10);
        let (q, k, v) =
            (check::numbers("q", n * q_width), check::numbers("k", n * kv_width), check::numbers("v", n * kv_width));
        for window in [0, 1, 7, 16, 100] {
            let segment = Segment { start: 0, len: n, prefix_start: 0, prefix_len: 0, group: 0 };
            let scheme = Scheme { segments: &[segment], heads, window, precision: Precision::F32 };
            let (mut wanted, mut lse) = (vec![0.0; n * q_width], vec![0.0; n * heads.query]);
            attention::forward(&q, &k, &v, &mut wanted, &mut lse, &scheme);
            let mut cache = KeyValues::<f64>::new(heads);
            // Another sequence beside it, of another length, changes nothing.
            let mut other = KeyValues::<f64>::new(heads);
            other.extend(&k[..3 * kv_width], &v[..3 * kv_width]);
            cache.extend(&k[..4 * kv_width], &v[..4 * kv_width]);
            for row in 4..n {
                let at = row * kv_width..(row + 1) * kv_width;
                cache.extend(&k[at.clone()], &v[at]);
                assert_eq!((cache.len(), cache.heads[0].values.len()), (row + 1, (row + 1) * heads.size));
                let own = &q[row * q_width..(row + 1) * q_width];
                let mut out = vec![f64::NAN; 2 * q_width];
                forward(&[&q[..q_width], own].concat(), &[&other, &cache], &mut out, heads, window);
                let wanted = &wanted[row * q_width..(row + 1) * q_width];
                for (a, b) in out[q_width..].iter().zip(wanted) {
                    assert!((a - b).abs() < 1e-12, "window {window}, row {row}: {a} {b}");
                }
            }
        }
    }
}
