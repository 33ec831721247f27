//! Nearly equal prompts: those with similar MinHash signatures form clusters, of each of which one prompt is kept.
//! Locality-sensitive hashing in bands finds the candidates.
//!
//! The similarity of two prompts is the Jaccard index of their shingles of five words; both ends are padded, so that a
//! prompt of one word has shingles too. It is estimated from [`HASHES`] minima.
//! One word more or less hardly changes a long prompt, and makes a short one another question.
//!
//! Clusters are the connected components of all pairs that share a band and are similar enough: they do
//! not depend on the order of the rows, on threads, or on the run's seed.
//!
//! Source: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3 (bands).

use std::collections::HashMap;

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::message::MessageColumn;
use crate::prompt;
use crate::rejects::{self, Reject, RowOrigins, reason};
use crate::schema::col;
use crate::words::{chain, mix, words};

/// Minima kept of each prompt, 16 bits each. The estimate's standard error is at most 0.045.
pub const HASHES: usize = 128;
/// Words of a shingle.
const SHINGLE: usize = 5;
/// A pair of prompts that is exactly at the threshold shares a band at least this often.
const RECALL: f64 = 0.99;
/// A prompt is compared with at most this many of those that share a band with it and follow it in order of group.
const WINDOW: usize = 4096;
/// Prompts stored in one piece: one list that grows by doubling could take twice the memory.
const PIECE: usize = 4096;

/// The fault of a threshold, if it has one; 0 switches the search off.
pub fn fault(threshold: f64) -> Option<String> {
    // Below one half the bands become so short that unrelated prompts share them.
    if threshold == 0.0 || (0.5..=1.0).contains(&threshold) {
        return None;
    }
    Some(format!("must be 0 (off) or from 0.5 to 1, got {threshold}"))
}

/// One prompt, in 280 bytes.
#[derive(Debug, Clone)]
struct Item {
    /// Hash of the prompt's normal form.
    key: u64,
    line: u64,
    file: u32,
    /// Whether it has no words, and so nothing to compare.
    empty: bool,
    minima: [u16; HASHES],
}

impl Item {
    /// Share of equal minima: an estimate of the Jaccard index.
    fn similarity(&self, other: &Item) -> f64 {
        let equal = self.minima.iter().zip(&other.minima).filter(|(a, b)| a == b).count();
        equal as f64 / HASHES as f64
    }
}

/// Collects all prompts, with at most 320 bytes for each, whatever its length.
#[derive(Debug)]
pub struct NearSurvey {
    threshold: f64,
    pieces: Vec<Vec<Item>>,
}

impl NearSurvey {
    /// An empty survey for prompts of at least this similarity, in [0.5, 1].
    pub fn new(threshold: f64) -> NearSurvey {
        NearSurvey { threshold, pieces: Vec::new() }
    }

    /// Adds a frame with `prompt` `file` `line`. Rows of one prompt count once.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column is missing.
    pub fn add(&mut self, frame: &DataFrame) -> Result<()> {
        let (rows, prompts) = (RowOrigins::open(frame)?, MessageColumn::open(frame.column(col::PROMPT)?)?);
        let text = |i: usize| prompt::conversation(prompts.row(i));
        let texts: Vec<String> = (0..frame.height()).into_par_iter().map(text).collect();
        let keys: Vec<u64> = texts.iter().map(|text| prompt::group(text)).collect();
        let mut order: Vec<usize> = (0..frame.height()).collect();
        order.sort_unstable_by_key(|i| (keys[*i], rows.position(*i)));
        order.dedup_by_key(|i| keys[*i]);
        let item = |i: &usize| {
            let ((file, line), key) = (rows.position(*i), keys[*i]);
            let minima = signature(&texts[*i]);
            Item { key, line, file, empty: minima.is_none(), minima: minima.unwrap_or([0; HASHES]) }
        };
        let items: Vec<Item> = order.par_iter().map(item).collect();
        for item in items {
            match self.pieces.last_mut() {
                Some(piece) if piece.len() < PIECE => piece.push(item),
                _ => {
                    let mut piece = Vec::with_capacity(PIECE);
                    piece.push(item);
                    self.pieces.push(piece);
                }
            }
        }
        Ok(())
    }

    /// Finds the clusters.
    pub fn finish(self) -> NearPlan {
        let items = Items(self.pieces);
        let order = items.by_key();
        let (bands, rows) = bands(self.threshold);
        let mut clusters = Clusters::new(order.len());
        for band in 0..bands {
            let slice = band * rows..(band + 1) * rows;
            let entry = |(at, i): (usize, &u32)| {
                let item = items.get(*i);
                (!item.empty)
                    .then(|| (item.minima[slice.clone()].iter().fold(0, |h, m| chain(h, u64::from(*m))), at as u32))
            };
            let mut entries: Vec<(u64, u32)> = order.par_iter().enumerate().filter_map(entry).collect();
            entries.par_sort_unstable();
            for bucket in entries.chunk_by(|a, b| a.0 == b.0).filter(|b| b.len() > 1) {
                clusters.compare(bucket, |a, b| {
                    items.get(order[a as usize]).similarity(items.get(order[b as usize])) >= self.threshold
                });
            }
        }

        let facts = Facts {
            threshold: self.threshold,
            hashes: HASHES,
            bands,
            rows_per_band: rows,
            prompts: order.len() as u64,
            ..Facts::default()
        };
        let mut plan = NearPlan { dropped: HashMap::new(), facts };
        for at in 0..order.len() as u32 {
            // Prompts are numbered by key, and a cluster is identified by its smallest number.
            let first = clusters.find(at);
            if first != at {
                let (kept, item) = (items.get(order[first as usize]), items.get(order[at as usize]));
                let similarity = kept.similarity(item);
                let kept = Kept { key: kept.key, file: kept.file, line: kept.line, similarity };
                plan.dropped.insert(item.key, kept);
            }
        }
        plan.facts.dropped_prompts = plan.dropped.len() as u64;
        let mut kept: Vec<u64> = plan.dropped.values().map(|k| k.key).collect();
        kept.sort_unstable();
        kept.dedup();
        plan.facts.clusters = kept.len() as u64;
        plan
    }
}

/// All prompts, by number.
struct Items(Vec<Vec<Item>>);

impl Items {
    fn get(&self, i: u32) -> &Item {
        &self.0[i as usize / PIECE][i as usize % PIECE]
    }

    /// The numbers of different prompts, by key. Of equal ones the first by file and line counts.
    fn by_key(&self) -> Vec<u32> {
        let n: usize = self.0.iter().map(Vec::len).sum();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.par_sort_unstable_by_key(|i| (self.get(*i).key, self.get(*i).file, self.get(*i).line));
        order.dedup_by_key(|i| self.get(*i).key);
        order
    }
}

/// Connected components, as a union-find forest whose roots are the smallest members.
struct Clusters(Vec<u32>);

impl Clusters {
    fn new(n: usize) -> Clusters {
        Clusters((0..n as u32).collect())
    }

    fn find(&mut self, mut at: u32) -> u32 {
        while self.0[at as usize] != at {
            let above = self.0[self.0[at as usize] as usize];
            self.0[at as usize] = above;
            at = above;
        }
        at
    }

    /// Joins the similar ones among the members of a bucket, which are sorted. Members of one cluster
    /// need no comparison, so that many copies of one text do not take quadratic time.
    fn compare(&mut self, bucket: &[(u64, u32)], similar: impl Fn(u32, u32) -> bool) {
        for (i, (_, a)) in bucket.iter().enumerate() {
            for (_, b) in bucket[i + 1..].iter().take(WINDOW) {
                let (of_a, of_b) = (self.find(*a), self.find(*b));
                if of_a != of_b && similar(*a, *b) {
                    self.0[of_a.max(of_b) as usize] = of_a.min(of_b);
                }
            }
        }
    }
}

/// Number of bands, and of minima in each: the longest bands that reach [`RECALL`] at the threshold.
fn bands(threshold: f64) -> (usize, usize) {
    let found = |rows: usize| 1.0 - (1.0 - threshold.powi(rows as i32)).powi((HASHES / rows) as i32);
    let rows = (1..=HASHES).rev().find(|rows| found(*rows) >= RECALL).unwrap_or(1);
    (HASHES / rows, rows)
}

/// The minima of a normalized prompt; `None` where it has no words.
fn signature(normalized: &str) -> Option<[u16; HASHES]> {
    let words: Vec<u64> = words(normalized).iter().map(|w| w.hash).collect();
    if words.is_empty() {
        return None;
    }
    let mut padded = vec![0; SHINGLE - 1];
    padded.extend(&words);
    padded.extend([0; SHINGLE - 1]);
    let mut shingles: Vec<u32> =
        padded.windows(SHINGLE).map(|w| (w.iter().fold(0, |h, word| chain(h, *word)) >> 32) as u32).collect();
    shingles.sort_unstable();
    shingles.dedup();

    let mut minima = [u32::MAX; HASHES];
    for shingle in shingles {
        // 32 bits and no branch, so that the compiler can use vector instructions.
        for (i, minimum) in minima.iter_mut().enumerate() {
            let x = (shingle ^ SALTS[i]).wrapping_mul(0x9e37_79b1);
            let x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca77);
            *minimum = (*minimum).min(x ^ (x >> 13));
        }
    }
    // Equal minima stay equal; of different ones every 65,536th pair becomes equal.
    Some(minima.map(|m| (mix(u64::from(m)) >> 48) as u16))
}

/// One constant for each hash function: a fixed sequence, mixed.
static SALTS: [u32; HASHES] = {
    let mut salts = [0; HASHES];
    let mut i = 0;
    while i < HASHES {
        salts[i] = (mix((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32) as u32;
        i += 1;
    }
    salts
};

/// The prompt that is kept instead of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// Its key: the smallest of its cluster.
    pub key: u64,
    /// Input file, by index, of its first row.
    pub file: u32,
    /// Line of its first row.
    pub line: u64,
    /// Estimated Jaccard index of the two; smaller than the threshold where other prompts of the cluster connect them.
    pub similarity: f64,
}

/// How the search was done and what it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Jaccard index from which on prompts count as nearly equal.
    pub threshold: f64,
    /// Minima of each prompt.
    pub hashes: usize,
    /// Bands.
    pub bands: usize,
    /// Minima in each band.
    pub rows_per_band: usize,
    /// Different normalized prompts.
    pub prompts: u64,
    /// Clusters of two or more.
    pub clusters: u64,
    /// Prompts that were dropped.
    pub dropped_prompts: u64,
}

/// Which prompts are dropped, and which ones are kept instead.
#[derive(Debug, Clone, PartialEq)]
pub struct NearPlan {
    /// Key of a dropped prompt -> the prompt that is kept instead.
    pub dropped: HashMap<u64, Kept>,
    /// For the manifest.
    pub facts: Facts,
}

impl NearPlan {
    /// Drops the rows (`prompt` `group` `file` `line`) whose prompt is nearly that of another cluster member.
    /// `labels` are the input files by index, for the rejects' words.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column is missing.
    pub fn apply(&self, frame: DataFrame, labels: &[String]) -> Result<(DataFrame, Vec<Reject>)> {
        let (rows, prompts) = (RowOrigins::open(&frame)?, MessageColumn::open(frame.column(col::PROMPT)?)?);
        let fate = |i: usize| {
            let kept = self.dropped.get(&prompt::conversation_hash(prompts.row(i)))?;
            let label = labels.get(kept.file as usize).map_or("", String::as_str);
            let detail =
                format!("nearly the prompt of {label}: line {} (similarity {:.2})", kept.line, kept.similarity);
            Some(rows.reject(i, col::PROMPT, reason::NEAR_DUPLICATE, detail))
        };
        let fates = (0..frame.height()).into_par_iter().map(fate).collect();
        rejects::separate(frame, fates)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::MessageColumnBuilder;

    /// Rows with these prompts and lines.
    fn frame(prompts: &[(u64, String)]) -> DataFrame {
        let mut column = MessageColumnBuilder::new(col::PROMPT, prompts.len());
        prompts.iter().for_each(|(_, p)| column.push([("user", p.as_str())]));
        let messages = column.finish().unwrap();
        let [_, groups] = prompt::columns(&messages).unwrap();
        let columns = vec![
            messages,
            groups,
            UInt32Chunked::full(col::FILE.into(), 0, prompts.len()).into_column(),
            UInt64Chunked::from_vec(col::LINE.into(), prompts.iter().map(|p| p.0).collect()).into_column(),
        ];
        DataFrame::new(prompts.len(), columns).unwrap()
    }

    fn numbered(prompts: &[&str]) -> Vec<(u64, String)> {
        prompts.iter().enumerate().map(|(i, p)| (i as u64 + 1, p.to_string())).collect()
    }

    fn plan(threshold: f64, frames: &[DataFrame]) -> NearPlan {
        let mut survey = NearSurvey::new(threshold);
        frames.iter().for_each(|f| survey.add(f).unwrap());
        survey.finish()
    }

    /// A text of `n` words in which the words at `changed` are others.
    fn text(name: &str, n: usize, changed: &[usize]) -> String {
        let word = |i| if changed.contains(&i) { format!("other{i}") } else { format!("{name}{i}") };
        (0..n).map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn signatures_estimate_the_jaccard_index() {
        let item = |text: &str| Item { key: 0, line: 0, file: 0, empty: false, minima: signature(text).unwrap() };
        for changes in [0, 1, 3, 8, 20] {
            let changed: Vec<usize> = (0..changes).map(|i| 10 + 9 * i).collect();
            let (a, b) = (item(&text("w", 200, &[])), item(&text("w", 200, &changed)));
            // 204 shingles, of which every change replaces five.
            let truth = (204 - 5 * changes) as f64 / (204 + 5 * changes) as f64;
            assert!((a.similarity(&b) - truth).abs() < 0.12, "{changes}: {} for {truth}", a.similarity(&b));
        }
        assert_eq!(item(&text("w", 50, &[])).similarity(&item(&text("v", 50, &[]))), 0.0);
    }

    #[test]
    fn many_estimates_have_no_bias() {
        let mut sum = 0.0;
        for k in 0..200 {
            let (a, b) = (text(&format!("w{k}x"), 60, &[]), text(&format!("w{k}x"), 60, &[20, 40]));
            let item = |t: &str| Item { key: 0, line: 0, file: 0, empty: false, minima: signature(t).unwrap() };
            sum += item(&a).similarity(&item(&b));
        }
        // 64 shingles, 54 in common of 74 together; the standard error of the mean is about 0.003.
        assert!((sum / 200.0 - 54.0 / 74.0).abs() < 0.015, "{}", sum / 200.0);
    }

    #[test]
    fn bands_keep_their_promise() {
        for threshold in [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0_f64] {
            let (bands, rows) = bands(threshold);
            assert!(bands * rows <= HASHES && rows >= 3, "{threshold}: {bands} of {rows}");
            assert!(1.0 - (1.0 - threshold.powi(rows as i32)).powi(bands as i32) >= RECALL);
        }
        assert_eq!(bands(1.0), (1, HASHES));
        assert!(fault(0.0).is_none() && fault(0.5).is_none() && fault(1.0).is_none());
        for bad in [0.1, 1.1, -1.0, f64::NAN] {
            assert!(fault(bad).unwrap().contains("from 0.5 to 1"), "{bad}");
        }
    }

    #[test]
    fn nearly_equal_prompts_leave_one() {
        let rows = numbered(&[
            &text("w", 100, &[]),
            &text("w", 100, &[50]),
            &text("v", 100, &[]),
            &text("w", 100, &[]).to_uppercase(),
            "what is 3 + 4",
            "what is 3 - 4",
            "What is 3+4?",
            "?!",
            "...",
        ]);
        let frame = frame(&rows);
        let plan = plan(0.8, std::slice::from_ref(&frame));
        let (kept, rejects) = plan.apply(frame, &["in.jsonl".into()]).unwrap();
        let lines: Vec<u64> = kept.column(col::LINE).unwrap().u64().unwrap().iter().flatten().collect();
        // Lines 1 and 4 are one prompt (case), 2 is near it; 5 and 7 differ in blanks and punctuation only.
        let first = if lines.contains(&2) { vec![2] } else { vec![1, 4] };
        let sum = if lines.contains(&5) { 5 } else { 7 };
        let mut wanted = [first, vec![3, 6, sum, 8, 9]].concat();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
        assert_eq!(rejects.len() + lines.len(), 9);
        assert_eq!((plan.facts.prompts, plan.facts.clusters, plan.facts.dropped_prompts), (8, 2, 2));
        let detail = &rejects[0].detail;
        assert!(
            detail.starts_with("nearly the prompt of in.jsonl: line ") && detail.contains("(similarity 0."),
            "{detail}"
        );
    }

    #[test]
    fn chains_are_one_cluster_and_the_smallest_group_stays() {
        // Each is near the next; the ends are not near each other.
        let rows: Vec<(u64, String)> =
            (0..8).map(|k| (k as u64 + 1, text("w", 120, &(0..k).map(|i| 10 + 12 * i).collect::<Vec<_>>()))).collect();
        let frame = frame(&rows);
        let plan = plan(0.8, std::slice::from_ref(&frame));
        assert_eq!((plan.facts.clusters, plan.dropped.len()), (1, 7));
        let groups: Vec<u64> = frame.column(col::GROUP).unwrap().u64().unwrap().iter().flatten().collect();
        let smallest = groups.iter().min().unwrap();
        assert!(plan.dropped.values().all(|k| k.key == *smallest));
        // Idempotent: what was kept has no near copy left.
        let (kept, _) = plan.apply(frame, &[]).unwrap();
        assert!(super::tests::plan(0.8, &[kept]).dropped.is_empty());
    }

    #[test]
    fn a_prompt_takes_little_memory() {
        assert!(std::mem::size_of::<Item>() <= 280, "{}", std::mem::size_of::<Item>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn order_and_batches_make_no_difference(
            picks in prop::collection::vec((0usize..6, 20usize..60, prop::collection::vec(0usize..60, 0..3)), 1..40),
            turn in 0usize..40,
            cut in 0usize..40,
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let rows: Vec<(u64, String)> = picks
                .iter()
                .enumerate()
                .map(|(i, (name, n, changed))| (i as u64, text(names[*name], *n, changed)))
                .collect();
            let whole = plan(0.7, &[frame(&rows)]);
            let mut turned = rows.clone();
            turned.rotate_left(turn % rows.len());
            turned.reverse();
            let (head, tail) = turned.split_at(cut.min(turned.len()));
            let parts = plan(0.7, &[frame(head), frame(tail)]);
            prop_assert_eq!(&whole, &parts);
            // A prompt that is kept instead of others is not dropped itself.
            prop_assert!(whole.dropped.values().all(|k| !whole.dropped.contains_key(&k.key)));
        }
    }
}
