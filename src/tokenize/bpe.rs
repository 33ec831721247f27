//! Byte-pair encoding: symbols merged by rank, and a cache of encoded words.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

/// Most words in a thread's cache, and the most bytes of one.
const CACHED_WORDS: usize = 1 << 16;
const CACHED_BYTES: usize = 48;

/// Up to this many symbols the lowest rank is found by comparing all of them.
const SHORT_WORD: usize = 48;

/// A hasher for short words, seeded per process.
#[derive(Debug, Clone)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new() -> Seeded {
        static SEED: OnceLock<u64> = OnceLock::new();
        Seeded(*SEED.get_or_init(|| std::hash::RandomState::new().hash_one(0u8)))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Mixer;
    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

pub(super) struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        // The upper half of the product depends on all lower bits, so it is folded back.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.mix(u64::from_le_bytes(*chunk));
        }
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }
    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
    fn write_usize(&mut self, _: usize) {
        // A slice's length prefix: `write` mixes the length in already.
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map with [`Seeded`] hashes.
pub(super) type Table<K, V> = HashMap<K, V, Seeded>;

/// Two numbers of 32 bits as one key.
pub(super) fn pair(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

/// The two symbols of a merge of `tokenizer.json`, which is one text or a list of two.
pub(super) fn both(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(both) => both.split_once(' '),
        both => Some((both[0].as_str()?, both[1].as_str()?)),
    }
}

/// A thread's cache of encoded words, for the tokenizer that it used last.
pub(super) struct Cache {
    owner: u64,
    words: Table<Box<[u8]>, Range<u32>>,
    ids: Vec<u32>,
}

thread_local! {
    static CACHE: RefCell<Cache> =
        RefCell::new(Cache { owner: 0, words: HashMap::with_hasher(Seeded::new()), ids: Vec::new() });
}

impl Cache {
    /// Appends the ids of a word, from the cache or else by `merge`.
    pub(super) fn word(&mut self, word: &[u8], out: &mut Vec<u32>, merge: impl FnOnce(&mut Vec<u32>)) {
        if let Some(known) = self.words.get(word) {
            out.extend_from_slice(&self.ids[known.start as usize..known.end as usize]);
            return;
        }
        let first = out.len();
        merge(out);
        if word.len() <= CACHED_BYTES {
            if self.words.len() >= CACHED_WORDS {
                self.words.clear();
                self.ids.clear();
            }
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&out[first..]);
            self.words.insert(word.into(), start..self.ids.len() as u32);
        }
    }
}

/// The merges of one vocabulary.
pub(super) struct Merges {
    owner: u64,
    /// Pair of ids -> (rank, merged id).
    table: Table<u64, (u32, u32)>,
}

impl Merges {
    /// A table of merges, which come in the order of their ranks, as (left, right, merged).
    pub(super) fn new(ranked: impl Iterator<Item = (u32, u32, u32)>) -> Merges {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        let mut table = HashMap::with_hasher(Seeded::new());
        for (rank, (left, right, merged)) in (0u32..).zip(ranked) {
            table.insert(pair(left, right), (rank, merged));
        }
        Merges { owner: OWNERS.fetch_add(1, Ordering::Relaxed), table }
    }

    /// Calls `work` with this thread's cache, cleared if another tokenizer used it.
    pub(super) fn with_cache<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        CACHE.with(|cell| {
            let mut cache = cell.borrow_mut();
            if cache.owner != self.owner {
                cache.owner = self.owner;
                cache.words.clear();
                cache.ids.clear();
            }
            work(&mut cache)
        })
    }

    fn merged(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.table.get(&pair(left, right)).copied()
    }

    /// Merges the symbols of `out` from `first` on.
    pub(super) fn merge(&self, out: &mut Vec<u32>, first: usize) {
        let left = match &mut out[first..] {
            symbols if symbols.len() <= SHORT_WORD => self.merge_short(symbols),
            symbols => self.merge_long(symbols),
        };
        out.truncate(first + left);
    }

    /// Merges the pair of lowest rank, leftmost first, until there is none; returns the number of symbols left.
    fn merge_short(&self, symbols: &mut [u32]) -> usize {
        let mut n = symbols.len();
        let mut ranks = [(u32::MAX, 0); SHORT_WORD];
        let rank = |left, right| self.merged(left, right).unwrap_or((u32::MAX, 0));
        for (slot, two) in ranks.iter_mut().zip(symbols.windows(2)) {
            *slot = rank(two[0], two[1]);
        }
        while n > 1 {
            let mut best = 0;
            for i in 1..n - 1 {
                if ranks[i].0 < ranks[best].0 {
                    best = i;
                }
            }
            if ranks[best].0 == u32::MAX {
                break;
            }
            symbols[best] = ranks[best].1;
            symbols.copy_within(best + 2..n, best + 1);
            // ranks[i] belongs to the pair (i, i + 1); the last symbol has none.
            ranks.copy_within(best + 1..n - 1, best);
            n -= 1;
            if best + 1 < n {
                ranks[best] = rank(symbols[best], symbols[best + 1]);
            }
            if best > 0 {
                ranks[best - 1] = rank(symbols[best - 1], symbols[best]);
            }
        }
        n
    }

    /// As `merge_short`, with a heap: a word of n symbols (a line of dashes, a page of base64) takes n log n steps.
    fn merge_long(&self, symbols: &mut [u32]) -> usize {
        const GONE: usize = usize::MAX;
        let n = symbols.len();
        // Neighbours of a living symbol; `n` and GONE mark the ends.
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.checked_sub(1).unwrap_or(GONE)).collect();
        let mut alive = vec![true; n];
        let mut heap = BinaryHeap::new();
        for (i, two) in symbols.windows(2).enumerate() {
            if let Some((rank, id)) = self.merged(two[0], two[1]) {
                heap.push(Reverse((rank, i, id)));
            }
        }
        while let Some(Reverse((_, at, id))) = heap.pop() {
            if !alive[at] || next[at] >= n {
                continue;
            }
            let right = next[at];
            // The pair may have changed since it was pushed.
            if self.merged(symbols[at], symbols[right]).is_none_or(|(_, now)| now != id) {
                continue;
            }
            symbols[at] = id;
            alive[right] = false;
            next[at] = next[right];
            if next[at] < n {
                previous[next[at]] = at;
                if let Some((rank, id)) = self.merged(id, symbols[next[at]]) {
                    heap.push(Reverse((rank, at, id)));
                }
            }
            let before = previous[at];
            if before != GONE
                && let Some((rank, id)) = self.merged(symbols[before], id)
            {
                heap.push(Reverse((rank, before, id)));
            }
        }
        let mut left = 0;
        for i in (0..n).filter(|i| alive[*i]) {
            symbols[left] = symbols[i];
            left += 1;
        }
        left
    }
}
