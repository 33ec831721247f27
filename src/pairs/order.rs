//! The last step over all pairs of some prompts: the final order, copies, the cap per prompt,
//! and pairs that contradict each other.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use rayon::prelude::*;

use super::config::{Conflicts, Dedup, PairConfig};
use super::identity::normalized_hash;
use crate::error::Result;
use crate::message::MessageColumn;
use crate::prompt;
use crate::rejects::{Reject, RowOrigins, reason};
use crate::schema::{SPLITS, col};
use crate::seed::Seed;

/// Pairs in their final order.
#[derive(Debug)]
pub struct Finished {
    /// The pairs that stay, by split (train first), `group` and `id`.
    pub frame: DataFrame,
    /// The pairs that go, one entry each, in the order of the prompts.
    pub drops: Vec<Reject>,
    /// Pairs that another pair contradicts, whether they stay or go.
    pub conflicts: u64,
    /// Files and lines of one contradiction; empty where there is none.
    pub conflict: String,
}

/// Joins frames of [`super::build`], sorts them by split (train first), `group` and `id`, and removes, as `config` says
/// and in this order: pairs for training whose whole conversation is in the test split (which
/// only files that were split before can hold), copies (`dedup`), pairs beyond `max_per_prompt`, and pairs that
/// contradict each other (`conflicts`).
///
/// All rows of one prompt must come in the same call; then several calls, each with the prompts of a
/// range of `group`, give the same as one. Which of equal rows stays is decided by what else is in them
/// (source, models, annotator, scores, weight: none before the lowest), and only then by file and line. `labels` are the input files by
/// index, for the words of the drops.
///
/// # Errors
/// [`crate::Error::Frame`]; [`crate::Error::Run`] without any frame.
pub fn finish(frames: Vec<DataFrame>, config: &PairConfig, seed: Seed, labels: &[String]) -> Result<Finished> {
    let mut frames = frames.into_iter();
    let mut all = frames.next().ok_or_else(|| crate::Error::run("no input was read"))?;
    for frame in frames {
        all.vstack_mut_owned(frame)?;
    }
    all.rechunk_mut_par();

    let cleaning = Cleaning { keys: Keys::open(&all)?, texts: Texts::open(&all)?, config, seed, labels };
    let mut order: Vec<IdxSize> = (0..all.height() as IdxSize).collect();
    order.par_sort_unstable_by(|a, b| cleaning.keys.compare(*a as usize, *b as usize));
    let (order, mut drops) = cleaning.without_leaks(order);
    let prompts: Vec<&[IdxSize]> =
        order.chunk_by(|a, b| cleaning.keys.prompts[*a as usize] == cleaning.keys.prompts[*b as usize]).collect();
    let cleaned: Vec<Cleaned> = prompts.into_par_iter().map(|rows| cleaning.clean(rows)).collect();

    let mut kept: Vec<IdxSize> = Vec::with_capacity(order.len());
    let (mut conflicts, mut conflict) = (0, String::new());
    for part in cleaned {
        kept.extend(part.kept);
        drops.extend(part.drops);
        conflicts += part.conflicts;
        if conflict.is_empty() {
            conflict = part.conflict;
        }
    }
    let frame = all.take(&IdxCa::from_vec("rows".into(), kept))?;
    Ok(Finished { frame, drops, conflicts, conflict })
}

/// What became of one prompt's rows.
#[derive(Default)]
struct Cleaned {
    kept: Vec<IdxSize>,
    drops: Vec<Reject>,
    conflicts: u64,
    conflict: String,
}

/// Hashes of a pair's texts without case and white space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    prompt: [u8; 16],
    chosen: [u8; 16],
    rejected: [u8; 16],
}

struct Cleaning<'a> {
    keys: Keys<'a>,
    texts: Texts,
    config: &'a PairConfig,
    seed: Seed,
    labels: &'a [String],
}

impl Cleaning<'_> {
    /// Removes training rows whose whole prompt is in the test split too; the rows must be in their final order.
    fn without_leaks(&self, order: Vec<IdxSize>) -> (Vec<IdxSize>, Vec<Reject>) {
        let split = |row: &IdxSize| self.keys.prompts[*row as usize].0;
        let (train, test) = order.split_at(order.partition_point(|row| split(row) == 0));
        let group = |row: &IdxSize| self.keys.prompts[*row as usize].1;
        // Both are sorted by group.
        let mut held_out = test.iter().peekable();
        let (mut kept, mut drops) = (Vec::with_capacity(order.len()), Vec::new());
        // Of the last group: the first test row of each prompt.
        let mut seen: Option<(u64, HashMap<u64, IdxSize>)> = None;
        for row in train {
            while held_out.next_if(|other| group(other) < group(row)).is_some() {}
            // Conversations that end with the same message need not be the same.
            let of_group = held_out.clone().take_while(|other| group(other) == group(row));
            if seen.as_ref().is_none_or(|(of, _)| *of != group(row)) {
                let mut first = HashMap::new();
                for other in of_group {
                    first.entry(self.texts.asked(*other)).or_insert(*other);
                }
                seen = Some((group(row), first));
            }
            let same = seen.as_ref().filter(|(_, first)| !first.is_empty());
            match same.and_then(|(_, first)| first.get(&self.texts.asked(*row))) {
                Some(other) => {
                    let detail = format!("the test split has the same prompt in {}", self.position(*other));
                    drops.push(self.reject(*row, reason::IN_TEST_SPLIT, detail));
                }
                None => kept.push(*row),
            }
        }
        kept.extend(test);
        (kept, drops)
    }

    /// Cleans the rows of one prompt, which come in their final order.
    fn clean(&self, rows: &[IdxSize]) -> Cleaned {
        let mut out = Cleaned::default();
        let mut rows = rows.to_vec();
        if self.config.dedup != Dedup::None {
            rows.dedup_by(|row, first| {
                let same = self.keys.id(*row) == self.keys.id(*first);
                if same {
                    let other = self.position(*first);
                    let detail = format!("the same prompt, chosen and rejected as {other}");
                    out.drops.push(self.reject(*row, reason::DUPLICATE, detail));
                }
                same
            });
        }
        // Most prompts have one pair, and nothing else to check.
        if rows.len() > 1 {
            let mut rows = rows.into_iter().map(|row| (row, self.texts.content(row as usize))).collect();
            if self.config.dedup == Dedup::Normalized {
                self.drop_normalized(&mut rows, &mut out);
            }
            self.drop_beyond_cap(&mut rows, &mut out);
            self.settle_conflicts(&mut rows, &mut out);
            out.kept = rows.into_iter().map(|(row, _)| row).collect();
        } else {
            out.kept = rows;
        }
        out
    }

    fn drop_normalized(&self, rows: &mut Vec<(IdxSize, Content)>, out: &mut Cleaned) {
        let mut first: BTreeMap<Content, IdxSize> = BTreeMap::new();
        rows.retain(|(row, content)| {
            let seen = *first.entry(*content).or_insert(*row);
            if seen != *row {
                let other = self.position(seen);
                let detail = format!("but for case and white space the same prompt, chosen and rejected as {other}");
                out.drops.push(self.reject(*row, reason::NORMALIZED_DUPLICATE, detail));
            }
            seen == *row
        });
    }

    fn drop_beyond_cap(&self, rows: &mut Vec<(IdxSize, Content)>, out: &mut Cleaned) {
        let cap = self.config.max_per_prompt;
        if cap == 0 || rows.len() <= cap {
            return;
        }
        let mut prompts: BTreeMap<[u8; 16], Vec<(u64, usize, IdxSize)>> = BTreeMap::new();
        for (at, (row, content)) in rows.iter().enumerate() {
            let rank = cap_rank(self.seed, self.keys.id(*row).unwrap_or(""));
            prompts.entry(content.prompt).or_default().push((rank, at, *row));
        }
        let mut over = std::collections::BTreeSet::new();
        for ranked in prompts.values_mut() {
            ranked.sort_unstable();
            over.extend(ranked.iter().skip(cap).map(|(_, _, row)| *row));
        }
        rows.retain(|(row, _)| {
            let goes = over.contains(row);
            if goes {
                let detail = format!("the prompt has more than --max-per-prompt {cap} pairs");
                out.drops.push(self.reject(*row, reason::OVER_PROMPT_CAP, detail));
            }
            !goes
        });
    }

    fn settle_conflicts(&self, rows: &mut Vec<(IdxSize, Content)>, out: &mut Cleaned) {
        // The prompt and the two responses in a fixed order -> the rows of each direction.
        let mut sides: BTreeMap<[[u8; 16]; 3], [Vec<IdxSize>; 2]> = BTreeMap::new();
        for (row, c) in rows.iter() {
            let (low, high) = (c.chosen.min(c.rejected), c.chosen.max(c.rejected));
            if low != high {
                sides.entry([c.prompt, low, high]).or_default()[usize::from(c.chosen == high)].push(*row);
            }
        }
        let mut gone: BTreeMap<IdxSize, IdxSize> = BTreeMap::new();
        for [a, b] in sides.values() {
            let (Some(&first_a), Some(&first_b)) = (a.first(), b.first()) else { continue };
            out.conflicts += (a.len() + b.len()) as u64;
            if out.conflict.is_empty() {
                out.conflict = format!("{} and {}", self.position(first_a), self.position(first_b));
            }
            let highest =
                |rows: &[IdxSize]| rows.iter().filter_map(|row| self.keys.margin(*row)).max_by(f64::total_cmp);
            let (a_goes, b_goes) = match self.config.conflicts {
                Conflicts::Keep => (false, false),
                Conflicts::Drop => (true, true),
                // An unknown margin (none) is lower than every known one.
                Conflicts::KeepHigherMargin => match highest(a).partial_cmp(&highest(b)) {
                    Some(Ordering::Greater) => (false, true),
                    Some(Ordering::Less) => (true, false),
                    _ => (true, true),
                },
            };
            for (goes, rows, other) in [(a_goes, a, first_b), (b_goes, b, first_a)] {
                gone.extend(rows.iter().filter(|_| goes).map(|row| (*row, other)));
            }
        }
        rows.retain(|(row, _)| match gone.get(row) {
            Some(other) => {
                let detail = format!("ranked the other way round in {}", self.position(*other));
                out.drops.push(self.reject(*row, reason::CONFLICTING_LABEL, detail));
                false
            }
            None => true,
        });
    }

    /// File and line of a row, for messages.
    fn position(&self, row: IdxSize) -> String {
        let (file, line) = self.keys.rows.position(row as usize);
        format!("{}: line {line}", self.labels.get(file as usize).map_or("", String::as_str))
    }

    fn reject(&self, row: IdxSize, reason: &'static str, detail: String) -> Reject {
        self.keys.rows.reject(row as usize, "", reason, detail)
    }
}

/// Which of a prompt's pairs stay under a cap: those with the smallest numbers.
pub(super) fn cap_rank(seed: Seed, id: &str) -> u64 {
    seed.word("pair-cap", id)
}

/// The texts, for comparing them without case and white space.
struct Texts {
    prompt: MessageColumn,
    chosen: MessageColumn,
    rejected: MessageColumn,
}

impl Texts {
    fn open(frame: &DataFrame) -> Result<Texts> {
        let open = |name| MessageColumn::open(frame.column(name)?);
        Ok(Texts { prompt: open(col::PROMPT)?, chosen: open(col::CHOSEN)?, rejected: open(col::REJECTED)? })
    }

    /// Hash of the prompt's normal form.
    fn asked(&self, row: IdxSize) -> u64 {
        prompt::conversation_hash(self.prompt.row(row as usize))
    }

    fn content(&self, row: usize) -> Content {
        let hash = |column: &MessageColumn| normalized_hash(column.row(row));
        Content { prompt: hash(&self.prompt), chosen: hash(&self.chosen), rejected: hash(&self.rejected) }
    }
}

/// The columns that decide the order.
struct Keys<'a> {
    ids: &'a StringChunked,
    /// Split and group: all rows of one prompt have the same.
    prompts: Vec<(u8, u64)>,
    margins: &'a Float64Chunked,
    texts: [&'a StringChunked; 4],
    numbers: [&'a Float64Chunked; 4],
    rows: RowOrigins<'a>,
}

impl<'a> Keys<'a> {
    fn open(frame: &'a DataFrame) -> Result<Keys<'a>> {
        let text = |name| -> Result<&'a StringChunked> { Ok(frame.column(name)?.str()?) };
        let number = |name| -> Result<&'a Float64Chunked> { Ok(frame.column(name)?.f64()?) };
        let texts = [text(col::SOURCE)?, text(col::CHOSEN_MODEL)?, text(col::REJECTED_MODEL)?, text(col::ANNOTATOR)?];
        let split = |name: Option<&str>| SPLITS.iter().position(|s| Some(*s) == name).unwrap_or(SPLITS.len()) as u8;
        let rows = RowOrigins::open(frame)?;
        let groups = (0..frame.height()).map(|i| rows.group(i));
        Ok(Keys {
            ids: text(col::ID)?,
            prompts: text(col::SPLIT)?.iter().map(split).zip(groups).collect(),
            margins: number(col::MARGIN)?,
            texts,
            numbers: [
                number(col::SCORE_CHOSEN)?,
                number(col::SCORE_REJECTED)?,
                number(col::FLIP_PROBABILITY)?,
                number(col::WEIGHT)?,
            ],
            rows,
        })
    }

    fn id(&self, row: IdxSize) -> Option<&str> {
        self.ids.get(row as usize)
    }

    fn margin(&self, row: IdxSize) -> Option<f64> {
        self.margins.get(row as usize)
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        let number = |numbers: &Float64Chunked| match (numbers.get(a), numbers.get(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        self.prompts[a]
            .cmp(&self.prompts[b])
            .then_with(|| self.ids.get(a).cmp(&self.ids.get(b)))
            .then_with(|| self.texts.iter().map(|t| t.get(a).cmp(&t.get(b))).fold(Ordering::Equal, Ordering::then))
            .then_with(|| self.numbers.iter().map(|s| number(s)).fold(Ordering::Equal, Ordering::then))
            .then_with(|| self.rows.position(a).cmp(&self.rows.position(b)))
    }
}

#[cfg(test)]
pub(super) mod tests;
