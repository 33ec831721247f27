//! Rows that have a question of a benchmark in them.
//!
//! A text contains a question if it contains `n` consecutive words of it (13 by default). A question of fewer words
//! must be found as a whole: one of at least [`WITHIN`] words anywhere in the text, one of at least [`ALONE`] words as
//! the whole text. Case and punctuation make no difference.
//!
//! Source: the 13-gram rule is that of Brown et al. 2020, appendix C.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Result};
use crate::message::MessageColumn;
use crate::rejects::{self, Reject, RowOrigins, reason};
use crate::schema::col;
use crate::words::{Word, chain, words};

/// Shortest question that counts wherever it occurs: shorter ones are phrases of the language.
pub const WITHIN: usize = 8;
/// Shortest question that counts where a message consists of it.
pub const ALONE: usize = 4;
/// Most characters of matched words that are quoted.
const QUOTED: usize = 200;

/// Faults of the settings of the search, `prepare.pairs.decontaminate` and `decontaminate_ngram`.
pub fn faults(files: &[String], n: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !(WITHIN..=64).contains(&n) {
        let range = format!("must be from {WITHIN} to 64 words, got {n}");
        faults.push(Fault::new("prepare.pairs.decontaminate_ngram", range));
    }
    if files.iter().any(|name| name.trim().is_empty()) {
        faults.push(Fault::new("prepare.pairs.decontaminate", "an entry is empty"));
    }
    faults
}

/// The hasher of a map whose keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = chain(self.0, u64::from(*b)));
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = x;
    }
}

type Table<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// Items by the hash of a sequence of words.
#[derive(Debug, Default)]
struct Marks {
    first: Table<u32>,
    /// Further items with the same sequence.
    more: Table<Vec<u32>>,
}

impl Marks {
    fn add(&mut self, hash: u64, item: u32) {
        let first = *self.first.entry(hash).or_insert(item);
        if first != item {
            let more = self.more.entry(hash).or_default();
            if more.last() != Some(&item) {
                more.push(item);
            }
        }
    }

    fn items(&self, hash: u64) -> impl Iterator<Item = u32> {
        let more = self.more.get(&hash).into_iter().flatten().copied();
        self.first.get(&hash).copied().into_iter().chain(more)
    }
}

/// One benchmark.
#[derive(Debug)]
struct Benchmark {
    label: String,
    items: u64,
    too_short: u64,
}

/// The questions of all benchmarks.
#[derive(Debug)]
pub struct Index {
    n: usize,
    benchmarks: Vec<Benchmark>,
    /// Benchmark of each item.
    of_item: Vec<u32>,
    /// Sequences that are searched anywhere in a text.
    within: Marks,
    /// Whether there are such sequences, by their length.
    lengths: Vec<bool>,
    /// Short questions, which must be a whole text.
    alone: Marks,
}

/// What was found in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Label of the first benchmark found.
    pub benchmark: String,
    /// The words that were found first, as the row spells them.
    pub words: String,
    /// The items found, sorted; their numbers count through all benchmarks.
    pub items: Vec<u32>,
}

impl Index {
    /// An empty index for sequences of `n` words.
    pub fn new(n: usize) -> Index {
        Index {
            n,
            benchmarks: Vec::new(),
            of_item: Vec::new(),
            within: Marks::default(),
            lengths: vec![false; n + 1],
            alone: Marks::default(),
        }
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.of_item.is_empty()
    }

    /// Adds one item of a benchmark with all the texts that ask its question.
    pub fn add<'a>(&mut self, benchmark: &str, texts: impl IntoIterator<Item = &'a str>) {
        let number = match self.benchmarks.iter().rposition(|b| b.label == benchmark) {
            Some(number) => number,
            None => {
                self.benchmarks.push(Benchmark { label: benchmark.to_string(), items: 0, too_short: 0 });
                self.benchmarks.len() - 1
            }
        };
        let item = self.of_item.len() as u32;
        self.of_item.push(number as u32);
        let mut usable = false;
        for text in texts {
            let words = words(text);
            usable |= words.len() >= ALONE;
            let length = words.len().min(self.n);
            if length >= WITHIN {
                self.lengths[length] = true;
                for window in words.windows(length) {
                    self.within.add(hash(window), item);
                }
            } else if words.len() >= ALONE {
                self.alone.add(hash(&words), item);
            }
        }
        self.benchmarks[number].items += 1;
        self.benchmarks[number].too_short += u64::from(!usable);
    }

    /// Looks for questions in the texts of a row.
    pub fn check<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Hit> {
        let (mut first, mut items) = (None, Vec::new());
        for text in texts {
            let words = words(text);
            let mut found = |range: &[Word], new: &mut dyn Iterator<Item = u32>| {
                let before = items.len();
                items.extend(new);
                if first.is_none()
                    && let (Some(item), Some(start), Some(end)) = (items.get(before), range.first(), range.last())
                {
                    let quote: String = text[start.range.start..end.range.end].chars().take(QUOTED).collect();
                    first = Some((*item, quote));
                }
            };
            if (ALONE..WITHIN).contains(&words.len()) {
                found(&words, &mut self.alone.items(hash(&words)));
            }
            for start in 0..words.len() {
                let mut so_far = 0;
                for (end, word) in words.iter().enumerate().skip(start).take(self.n) {
                    so_far = chain(so_far, word.hash);
                    if self.lengths[end - start + 1] {
                        found(&words[start..=end], &mut self.within.items(so_far));
                    }
                }
            }
        }
        let (item, words) = first?;
        items.sort_unstable();
        items.dedup();
        let benchmark = self.benchmarks[self.of_item[item as usize] as usize].label.clone();
        Some(Hit { benchmark, words, items })
    }
}

fn hash(words: &[Word]) -> u64 {
    words.iter().fold(0, |so_far, word| chain(so_far, word.hash))
}

/// How much of a benchmark was found in the data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The benchmark.
    pub benchmark: String,
    /// Its items.
    pub items: u64,
    /// Items whose questions are too short to be looked for.
    pub too_short: u64,
    /// Items that were found in at least one row.
    pub items_found: u64,
    /// Rows in which an item was found; a row may count for several benchmarks.
    pub rows_dropped: u64,
}

/// What was found in some rows; adds up over batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The items found; their numbers count through all benchmarks.
    pub items: BTreeSet<u32>,
    /// Rows by number of the benchmark.
    pub rows: BTreeMap<u32, u64>,
}

impl std::ops::AddAssign<&Found> for Found {
    fn add_assign(&mut self, other: &Found) {
        self.items.extend(&other.items);
        other.rows.iter().for_each(|(benchmark, n)| *self.rows.entry(*benchmark).or_default() += n);
    }
}

/// Rows that were looked through.
#[derive(Debug)]
pub struct Checked {
    /// Rows that are kept.
    pub frame: DataFrame,
    /// Rows with a question in them.
    pub rejects: Vec<Reject>,
    /// What was found in them.
    pub found: Found,
}

impl Index {
    /// Drops rows of an ingested frame (`prompt` `file` `line` `group`) that have a question in their prompt.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column is missing.
    pub fn apply(&self, frame: DataFrame) -> Result<Checked> {
        let mut found = Found::default();
        if self.is_empty() {
            return Ok(Checked { frame, rejects: Vec::new(), found });
        }
        let prompts = MessageColumn::open(frame.column(col::PROMPT)?)?;
        let rows = RowOrigins::open(&frame)?;
        let check = |i: usize| self.check(prompts.row(i).map(|(_, text)| text));
        let hits: Vec<Option<Hit>> = (0..frame.height()).into_par_iter().map(check).collect();
        let mut fates = Vec::with_capacity(hits.len());
        for (i, hit) in hits.into_iter().enumerate() {
            fates.push(hit.map(|hit| {
                let benchmarks: BTreeSet<u32> = hit.items.iter().map(|item| self.of_item[*item as usize]).collect();
                benchmarks.into_iter().for_each(|b| *found.rows.entry(b).or_default() += 1);
                found.items.extend(&hit.items);
                rows.reject(i, "", reason::CONTAMINATED, format!("{}: {:?}", hit.benchmark, hit.words))
            }));
        }
        let (frame, rejects) = rejects::separate(frame, fates)?;
        Ok(Checked { frame, rejects, found })
    }

    /// The overlap with each benchmark, in the order in which they were added.
    pub fn overlaps(&self, found: &Found) -> Vec<Overlap> {
        let one = |(number, benchmark): (u32, &Benchmark)| Overlap {
            benchmark: benchmark.label.clone(),
            items: benchmark.items,
            too_short: benchmark.too_short,
            items_found: found.items.iter().filter(|i| self.of_item.get(**i as usize) == Some(&number)).count() as u64,
            rows_dropped: found.rows.get(&number).copied().unwrap_or_default(),
        };
        (0..).zip(&self.benchmarks).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::MessageColumnBuilder;

    const COOKIE: &str = "Why is it a bad idea to give a mouse a cookie?";
    const LONG: &str = "A farmer has 12 cows and buys 7 more each year for five years, then sells half of them.";
    const SHORT: &str = "Who wrote Faust Part One?";

    fn index() -> Index {
        let mut index = Index::new(13);
        index.add("tq", [COOKIE]);
        index.add("math", [LONG]);
        index.add("tq", [SHORT]);
        index.add("tq", ["Why?"]);
        index
    }

    fn hit(text: &str) -> Option<(String, String, Vec<u32>)> {
        index().check([text]).map(|h| (h.benchmark, h.words, h.items))
    }

    #[test]
    fn questions_are_found_whole_or_by_thirteen_words() {
        let whole = hit("So: why is it a  BAD idea to give a mouse, a cookie? Tell me.").unwrap();
        assert_eq!(whole, ("tq".into(), "why is it a  BAD idea to give a mouse, a cookie".into(), vec![0]));
        let part = hit("He has 12 cows and buys 7 more each year for five years, then what?").unwrap();
        assert_eq!(part, ("math".into(), "has 12 cows and buys 7 more each year for five years, then".into(), vec![1]));
        // Eleven words are the whole of one question, ten are not; twelve are too few of a longer one.
        assert_eq!(hit("is it a bad idea to give a mouse a cookie?"), None);
        assert_eq!(hit("12 cows and buys 7 more each year for five years, then"), None);
        // A short question counts alone only, a very short one never.
        assert_eq!(hit("who wrote Faust, part one"), Some(("tq".into(), "who wrote Faust, part one".into(), vec![2])));
        assert_eq!(hit("Tell me who wrote Faust Part One?"), None);
        assert_eq!(hit("Why?"), None);
        assert!(hit("").is_none());
    }

    #[test]
    fn every_item_found_is_told() {
        let mut index = Index::new(13);
        let same = "one two three four five six seven eight nine ten eleven twelve thirteen";
        index.add("a", [&*format!("{same} x")]);
        index.add("b", [&*format!("{same} y"), SHORT]);
        let found = index.check([same]).unwrap();
        assert_eq!((found.benchmark.as_str(), found.items), ("a", vec![0, 1]));
        assert_eq!(index.check(["nothing", SHORT]).unwrap().items, [1]);
    }

    fn frame(prompts: &[&str]) -> DataFrame {
        let n = prompts.len();
        let mut texts = MessageColumnBuilder::new(col::PROMPT, n);
        prompts.iter().for_each(|t| texts.push([("user", *t)]));
        let prompts = texts.finish().unwrap();
        let [_, groups] = crate::prompt::columns(&prompts).unwrap();
        let columns = vec![
            UInt32Chunked::full(col::FILE.into(), 0, n).into_column(),
            UInt64Chunked::from_vec(col::LINE.into(), (1..=n as u64).collect()).into_column(),
            prompts,
            groups,
        ];
        DataFrame::new(n, columns).unwrap()
    }

    #[test]
    fn rows_are_dropped_and_the_overlap_is_counted() {
        let frame = frame(&[COOKIE, "fine", LONG, COOKIE]);
        let index = index();
        let Checked { frame: kept, rejects, found } = index.apply(frame).unwrap();
        assert_eq!((kept.height(), rejects.len()), (1, 3));
        assert_eq!((rejects[0].line, rejects[0].reason), (1, "contaminated"));
        assert_eq!(rejects[0].detail, "tq: \"Why is it a bad idea to give a mouse a cookie\"");
        let overlap = |benchmark: &str, items, too_short, items_found, rows_dropped| Overlap {
            benchmark: benchmark.into(),
            items,
            too_short,
            items_found,
            rows_dropped,
        };
        assert_eq!(index.overlaps(&found), [overlap("tq", 3, 1, 1, 2), overlap("math", 1, 0, 1, 1)]);
        let again = index.apply(kept).unwrap();
        assert_eq!((again.frame.height(), again.rejects.len()), (1, 0));
        let mut twice = found.clone();
        twice += &found;
        assert_eq!((twice.items.len(), twice.rows[&0]), (2, 4), "an item is found once, a row is dropped each time");
    }

    #[test]
    fn the_number_of_words_has_limits() {
        let told = |files: &[&str], n: usize| {
            let files: Vec<String> = files.iter().map(|f| f.to_string()).collect();
            faults(&files, n).into_iter().map(|f| f.key).collect::<Vec<_>>()
        };
        assert!(told(&["b"], 13).is_empty() && told(&[], 13).is_empty());
        assert_eq!(told(&["b"], 7), ["prepare.pairs.decontaminate_ngram"]);
        assert_eq!(told(&["b", " "], 65), ["prepare.pairs.decontaminate_ngram", "prepare.pairs.decontaminate"]);
    }

    proptest! {
        #[test]
        fn a_question_is_found_wherever_it_stands(
            before in "[a-z ]{0,80}", after in "[a-z \u{e9}?]{0,80}", shout in any::<bool>(),
        ) {
            let question = if shout { COOKIE.to_uppercase() } else { COOKIE.to_string() };
            let text = format!("{before} {question} {after}");
            prop_assert_eq!(index().check([text.as_str()]).map(|h| h.items), Some(vec![0]));
        }

        #[test]
        fn any_text_can_be_checked(text in "\\PC{0,300}") {
            let _ = index().check([text.as_str()]);
        }
    }
}
