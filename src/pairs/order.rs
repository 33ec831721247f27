//! The last step over all batches: exact duplicates go, rows are put in their final order.

use std::cmp::Ordering;

use polars::prelude::*;
use rayon::prelude::*;

use crate::error::Result;
use crate::rejects::{Reject, reason};
use crate::schema::{SPLITS, col};

/// Joins the frames of all batches, drops all but one of the rows with the same `id`, and sorts by
/// split (train first) and `id`.
///
/// Which of the equal rows stays is decided by what else is in them (source, models, scores),
/// and only then by file and line. `labels` are the input files by index, for the rejects' words.
///
/// # Errors
/// [`crate::Error::Frame`]; [`crate::Error::Run`] without any frame.
pub fn finish(frames: Vec<DataFrame>, labels: &[String]) -> Result<(DataFrame, Vec<Reject>)> {
    let mut frames = frames.into_iter();
    let mut all = frames.next().ok_or_else(|| crate::Error::run("no input was read"))?;
    for frame in frames {
        all.vstack_mut_owned(frame)?;
    }
    all.rechunk_mut_par();

    let keys = Keys::open(&all)?;
    let mut order: Vec<IdxSize> = (0..all.height() as IdxSize).collect();
    order.par_sort_unstable_by(|a, b| keys.compare(*a as usize, *b as usize));

    let mut kept: Vec<IdxSize> = Vec::with_capacity(order.len());
    let mut rejects = Vec::new();
    for at in order {
        let row = at as usize;
        match kept.last() {
            Some(last) if keys.id(*last as usize) == keys.id(row) => {
                let (file, line) = keys.place(*last as usize);
                let label = labels.get(file as usize).map_or("", String::as_str);
                let (file, line_here) = keys.place(row);
                rejects.push(Reject {
                    file,
                    line: line_here,
                    field: String::new(),
                    reason: reason::DUPLICATE,
                    detail: format!("the same prompt, chosen and rejected as {label}: line {line}"),
                    group: keys.groups.get(row).unwrap_or_default(),
                });
            }
            _ => kept.push(at),
        }
    }
    let frame = all.take(&IdxCa::from_vec("rows".into(), kept))?;
    Ok((frame, rejects))
}

/// The columns that decide the order.
struct Keys<'a> {
    ids: &'a StringChunked,
    splits: &'a StringChunked,
    texts: [&'a StringChunked; 3],
    scores: [&'a Float64Chunked; 2],
    files: &'a UInt32Chunked,
    lines: &'a UInt64Chunked,
    groups: &'a UInt64Chunked,
}

impl<'a> Keys<'a> {
    fn open(frame: &'a DataFrame) -> Result<Keys<'a>> {
        let text = |name| -> Result<&'a StringChunked> { Ok(frame.column(name)?.str()?) };
        let score = |name| -> Result<&'a Float64Chunked> { Ok(frame.column(name)?.f64()?) };
        Ok(Keys {
            ids: text(col::ID)?,
            splits: text(col::SPLIT)?,
            texts: [text(col::SOURCE)?, text(col::CHOSEN_MODEL)?, text(col::REJECTED_MODEL)?],
            scores: [score(col::SCORE_CHOSEN)?, score(col::SCORE_REJECTED)?],
            files: frame.column(col::FILE)?.u32()?,
            lines: frame.column(col::LINE)?.u64()?,
            groups: frame.column(col::GROUP)?.u64()?,
        })
    }

    fn id(&self, row: usize) -> Option<&str> {
        self.ids.get(row)
    }

    fn place(&self, row: usize) -> (u32, u64) {
        (self.files.get(row).unwrap_or_default(), self.lines.get(row).unwrap_or_default())
    }

    fn split(&self, row: usize) -> Option<usize> {
        SPLITS.iter().position(|s| Some(*s) == self.splits.get(row))
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        let score = |scores: &Float64Chunked| match (scores.get(a), scores.get(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        self.split(a)
            .cmp(&self.split(b))
            .then_with(|| self.id(a).cmp(&self.id(b)))
            .then_with(|| self.texts.iter().map(|t| t.get(a).cmp(&t.get(b))).fold(Ordering::Equal, Ordering::then))
            .then_with(|| self.scores.iter().map(|s| score(s)).fold(Ordering::Equal, Ordering::then))
            .then_with(|| self.place(a).cmp(&self.place(b)))
    }
}
