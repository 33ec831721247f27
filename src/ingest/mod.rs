//! Files -> frames of scored completions or of given pairs, and rejects.
//!
//! Every file format is read into the same loosely typed rows first (`files`, `value`), with
//! columns under the names that layouts know (`names`), so that a layout is read, and its faults are
//! told, in one place (`layouts`). Frames come in batches, and what is not kept of one is freed before the next is
//! read.

use std::path::PathBuf;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::manifest::InputFile;
use crate::progress::Progress;
use crate::rejects::Reject;

pub mod benchmarks;
mod config;
mod files;
mod json;
mod layouts;
mod names;
mod reader;
mod record;
mod require;
mod value;
mod written;

pub use config::{IngestConfig, Limits, OnBadRow, OnWrongTens, Score};
pub use files::Packing;
pub use files::arrow::MAGIC as ARROW_MAGIC;
pub use layouts::Format;
pub use names::UNREAD_COLUMNS;

/// Hint where no layout knows the columns.
const NAME_COLUMNS: &str = "say what the columns are, for example --columns prompt=question";

/// Hint where a column says which response is better.
const ORDER_SIDES: &str = "write rows with the better response as chosen and the other one as rejected first";

/// A file to read: its name for the user, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// As the user knows it: in messages, rejects and the manifest.
    pub label: PathBuf,
    /// Where it is on this disk.
    pub path: PathBuf,
    /// Layout of its rows; `auto` leaves it to [`IngestConfig::format`].
    pub format: Format,
    /// The split that its rows belong to, one of [`crate::schema::SPLITS`]; `None` where their prompts decide.
    pub split: Option<&'static str>,
}

impl Input {
    /// A file known by its path.
    pub fn new(path: impl Into<PathBuf>) -> Input {
        let path = path.into();
        Input { label: path.clone(), path, format: Format::Auto, split: None }
    }

    /// The layout that is set for this file, or else for all files.
    fn wanted(&self, config: &IngestConfig) -> Format {
        if self.format == Format::Auto { config.format } else { self.format }
    }

    /// A fault of the file, not of one row that could be skipped.
    fn fault(&self, line: Option<u64>, message: &str) -> Error {
        Error::Data { path: self.label.clone(), line, field: None, message: message.into(), hint: None }
    }
}

/// A row of the input. An interrupted reading continues with the row after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Index among the inputs.
    pub file: u32,
    /// 1-based line; the row for Parquet.
    pub line: u64,
}

/// Completions of raw UltraFeedback with an overall score of 10 that their ratings by aspect
/// contradict: the first revision of the set wrote some thousand scores of 1 as 10.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongTens {
    /// The mean of the ratings is 2 or less: the score was 1.
    pub certain: u64,
    /// The mean is above 2 and at most 4: what the score was is not known.
    pub suspicious: u64,
}

impl std::ops::AddAssign for WrongTens {
    fn add_assign(&mut self, other: WrongTens) {
        self.certain += other.certain;
        self.suspicious += other.suspicious;
    }
}

/// Some rows of one file, in its order: at most 8192, and but for single rows 16 MiB of text. Where one batch
/// ends and the next begins depends on nothing but the file's bytes.
#[derive(Debug)]
pub struct Batch {
    /// Sound rows: `file` (index among the inputs) `line` `source` (the row's own, or null) `annotator`
    /// `flip_probability` and `weight` (null where the row has none) `prompt` `normalized_prompt` `group` and either
    /// `completions` (list of {model, response, score}) or `chosen` `rejected` `score_chosen` `score_rejected`
    /// `chosen_model` `rejected_model`. Prompts and responses are lists of {role, content}. A file that
    /// belongs to a split adds `split`.
    pub frame: DataFrame,
    /// The rows between them that are not in `frame`.
    pub rejects: Vec<Reject>,
    /// Index of the file among the inputs.
    pub file: u32,
    /// The last row read for this batch, kept or not: reading continues after it.
    pub last_line: u64,
    /// Name of the layout that all of these rows were read as; none where no row is of a known one.
    pub layout: Option<String>,
    /// The rows, kept or not.
    pub rows: u64,
    /// Scores of 10 that the ratings contradict, among these rows.
    pub wrong_tens: WrongTens,
    /// Rows whose label an earlier preparation flipped, among these.
    pub flipped_before: u64,
    /// Rows whose prompt is a dialogue in one text, split at its labels, among these.
    pub dialogue_prompts: u64,
}

impl Batch {
    /// The position after which reading continues.
    pub fn end(&self) -> Position {
        Position { file: self.file, line: self.last_line }
    }
}

/// Reads files one after the other and hands their rows over in batches.
///
/// Rows up to and including `from` are counted as read, but neither parsed nor handed over; where
/// `from` is the end of a batch, the batches after it are the same as without it.
///
/// `progress` is advanced by the bytes of the files as they are on disk.
///
/// Returns each file's size, hash and number of rows; the caller adds what became of the rows.
///
/// # Errors
/// [`Error::Data`] at the first row that cannot be read, unless such rows are to be skipped, and
/// always where a file as a whole is damaged or no file has a row; [`Error::Config`] where a column that the
/// user named is in no file; [`Error::Io`]; what `sink` returns.
pub fn read(
    inputs: &[Input],
    config: &IngestConfig,
    from: Option<Position>,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<Vec<InputFile>> {
    let names = names::Names::parse(&config.columns)
        .map_err(|faults| Error::config("prepare.ingest.columns", faults.join("; ")))?
        .ignoring(&config.ignore_keys);
    require::require_columns(inputs, config, &names)?;
    let mut files = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let reader = reader::Reader::new(input, index as u32, config, &names, from, progress, sink);
        files.push(reader.read()?);
    }
    if let Some(first) = inputs.first().filter(|_| files.iter().all(|file| file.rows_read == 0)) {
        let message = if inputs.len() == 1 { "the file has no rows" } else { "none of the input files has a row" };
        return Err(first.fault(None, message));
    }
    Ok(files)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
