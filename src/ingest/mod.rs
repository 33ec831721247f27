//! Files -> frames of scored completions or of given pairs, and rejects.
//!
//! One file per layout ([`ultrafeedback`], [`binarized`], [`trl`]); JSON lines and Parquet
//! are brought to the same loosely typed rows first ([`value`]), so that a layout is read,
//! and its faults are told, in one place. Frames come in batches: raw JSON and unread fields
//! are gone before the next batch is read.

use std::path::{Path, PathBuf};

use polars::prelude::DataFrame;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::error::{Error, Fault as ConfigFault, Result};
use crate::manifest::InputFile;
use crate::progress::Progress;
use crate::rejects::{Reject, reason};

pub mod binarized;
pub mod columns;
pub mod lines;
pub mod record;
pub mod trl;
pub mod ultrafeedback;
pub mod value;

use lines::{Block, Packing};
use record::Record;
use value::{Fault, Object, Read, Value, describe, parse_json};

/// Layout of the input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Told by the first row that fits one of the others, file by file.
    #[default]
    Auto,
    /// Raw UltraFeedback: instruction and scored completions.
    Ultrafeedback,
    /// HuggingFaceH4/ultrafeedback_binarized: prompt, and whole conversations as chosen and rejected.
    Binarized,
    /// TRL: prompt, chosen, rejected as texts or message lists, the prompt given or implied.
    Trl,
}

/// Which score of a raw completion counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `overall_score`.
    #[default]
    Overall,
    /// Mean of the ratings by aspect that are not "N/A".
    MeanAspects,
    /// The rating of helpfulness.
    Helpfulness,
    /// The rating of honesty.
    Honesty,
    /// The rating of truthfulness.
    Truthfulness,
    /// The rating of instruction following.
    InstructionFollowing,
}

/// What happens at a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// The first one stops the work.
    #[default]
    Fail,
    /// Each one is counted and listed among the rejects.
    Skip,
}

/// How input files are read.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Layout of the rows. Default: `auto`.
    pub format: Format,
    /// Which score of a raw completion counts. Default: `overall`. No effect on given pairs.
    pub score: Score,
    /// What happens at a row that cannot be read. Default: `fail`.
    pub on_bad_row: OnBadRow,
    /// Longest line in bytes. Default: 64 MiB.
    pub max_line_bytes: u64,
    /// Most bytes of text taken from one file, after decompression. Default: 64 GiB.
    pub max_decompressed_bytes: u64,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            format: Format::Auto,
            score: Score::Overall,
            on_bad_row: OnBadRow::Fail,
            max_line_bytes: 64 << 20,
            max_decompressed_bytes: 64 << 30,
        }
    }
}

impl IngestConfig {
    /// What is wrong with these settings, keys under `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<ConfigFault> {
        let zero = |key: &str, value: u64| {
            (value == 0).then(|| ConfigFault {
                origin: String::new(),
                key: format!("{prefix}{key}"),
                message: "must be at least 1".into(),
            })
        };
        let checks =
            [zero("max_line_bytes", self.max_line_bytes), zero("max_decompressed_bytes", self.max_decompressed_bytes)];
        checks.into_iter().flatten().collect()
    }

    fn limits(&self) -> Limits {
        Limits { line_bytes: self.max_line_bytes, decompressed_bytes: self.max_decompressed_bytes }
    }
}

/// How much of a file is read at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest line in bytes.
    pub line_bytes: u64,
    /// Most bytes after decompression.
    pub decompressed_bytes: u64,
}

/// A file to read: its name for the user, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// As the user knows it: in messages, rejects and the manifest.
    pub label: PathBuf,
    /// Where it is on this disk.
    pub path: PathBuf,
    /// Layout of its rows; `auto` leaves it to [`IngestConfig::format`].
    pub format: Format,
}

impl Input {
    /// A file known by its path.
    pub fn new(path: impl Into<PathBuf>) -> Input {
        let path = path.into();
        Input { label: path.clone(), path, format: Format::Auto }
    }

    /// The layout that was asked for, its own or that of all files.
    fn wanted(&self, config: &IngestConfig) -> Format {
        if self.format == Format::Auto { config.format } else { self.format }
    }

    /// A fault of the file, not of one row that could be skipped.
    fn fault(&self, line: Option<u64>, message: &str) -> Error {
        Error::Data { path: self.label.clone(), line, field: None, message: message.into(), hint: None }
    }
}

/// A row of the input: where an interrupted reading goes on behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Index among the inputs.
    pub file: u32,
    /// 1-based line; the row for Parquet.
    pub line: u64,
}

/// Completions of raw UltraFeedback with an overall score of 10 that their ratings by aspect
/// belie: the first revision of the set held some thousand scores of 1 as 10.
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

/// Some rows of one file, in its order: at most 8192, and about 16 MiB of text. Where one batch
/// ends and the next begins depends on nothing but the file's bytes.
#[derive(Debug)]
pub struct Batch {
    /// Sound rows: `file` (index among the inputs) `line` `source` (the row's own, or null) `annotator`
    /// and `flip_probability` (null where the row has none) `prompt` and either `completions`
    /// (list of {model, response, score}) or `chosen` `rejected` `score_chosen` `score_rejected`
    /// `chosen_model` `rejected_model`. Prompts and responses are lists of {role, content}.
    pub frame: DataFrame,
    /// The rows between them that did not go on.
    pub rejects: Vec<Reject>,
    /// Index of the file among the inputs.
    pub file: u32,
    /// The last row read for this batch, kept or not: reading goes on behind it.
    pub last_line: u64,
    /// Scores of 10 that are none, among these rows.
    pub wrong_tens: WrongTens,
}

impl Batch {
    /// Where reading goes on after this batch.
    pub fn end(&self) -> Position {
        Position { file: self.file, line: self.last_line }
    }
}

/// The layout of a file, once known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Ultrafeedback,
    Binarized,
    Trl,
}

impl Layout {
    fn of(row: &Object<'_>) -> Option<Layout> {
        if ultrafeedback::fits(row) {
            return Some(Layout::Ultrafeedback);
        }
        if binarized::fits(row) {
            return Some(Layout::Binarized);
        }
        trl::fits(row).then_some(Layout::Trl)
    }

    fn named(format: Format) -> Option<Layout> {
        match format {
            Format::Auto => None,
            Format::Ultrafeedback => Some(Layout::Ultrafeedback),
            Format::Binarized => Some(Layout::Binarized),
            Format::Trl => Some(Layout::Trl),
        }
    }
}

/// Reads files one after the other and hands their rows over in batches.
///
/// Rows up to and including `from` are counted as read, but neither parsed nor handed over; where
/// `from` is the end of a batch, the batches after it are the same as without it.
///
/// Gives each file's size, hash and number of rows; what became of the rows is for the caller to add.
///
/// # Errors
/// [`Error::Data`] at the first row that cannot be read, unless such rows are to be skipped, and
/// always where a file as a whole is empty or damaged; [`Error::Io`]; what `sink` returns.
pub fn read(
    inputs: &[Input],
    config: &IngestConfig,
    from: Option<Position>,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let packing = Packing::of(input)?;
        let mut reader = Reader {
            input,
            index: index as u32,
            done: rows_done(from, index as u32),
            layout: Layout::named(input.wanted(config)),
            config,
            progress,
            rows: 0,
            sink,
        };
        let hashed = std::thread::scope(|scope| {
            // The file is hashed beside the reading, while it is in the page cache anyway.
            let hash = scope.spawn(|| artifact::hash_file(&input.path));
            match packing {
                Packing::Parquet => reader.parquet()?,
                _ => reader.json_lines(packing)?,
            }
            hash.join().unwrap_or_else(|_| Err(Error::run("hashing an input file failed")))
        });
        let (bytes, blake3) = hashed?;
        if reader.rows == 0 {
            return Err(input.fault(None, "the file has no rows"));
        }
        files.push(InputFile {
            path: input.label.display().to_string(),
            bytes,
            blake3,
            rows_read: reader.rows,
            ..InputFile::default()
        });
    }
    Ok(files)
}

/// The last line of a file that needs not be read again.
fn rows_done(from: Option<Position>, file: u32) -> u64 {
    match from {
        Some(at) if file < at.file => u64::MAX,
        Some(at) if file == at.file => at.line,
        _ => 0,
    }
}

/// Reading of one file.
struct Reader<'a> {
    input: &'a Input,
    index: u32,
    /// Rows up to this line were read before.
    done: u64,
    layout: Option<Layout>,
    config: &'a IngestConfig,
    progress: &'a dyn Progress,
    rows: u64,
    sink: &'a mut dyn FnMut(Batch) -> Result<()>,
}

impl Reader<'_> {
    fn json_lines(&mut self, packing: Packing) -> Result<()> {
        let (to, from) = std::sync::mpsc::sync_channel(1);
        let (input, limits) = (self.input, self.config.limits());
        std::thread::scope(|scope| {
            let unpacking = scope.spawn(move || lines::send_blocks(input, packing, limits, &to));
            let taken = from.iter().try_for_each(|block| self.block(&block));
            // After a fault the other thread stops when it finds nobody listening.
            drop(from);
            let unpacked = unpacking.join().unwrap_or_else(|_| Err(Error::run("reading an input file failed")));
            taken.and(unpacked)
        })
    }

    fn block(&mut self, block: &Block) -> Result<()> {
        let text = |line: &lines::Line| std::str::from_utf8(&block.bytes[line.range.clone()]).ok();
        if self.layout.is_none() {
            self.layout = block.lines.iter().filter(|l| !l.too_long).find_map(|l| match parse_json(text(l)?) {
                Ok(Value::Object(row)) => Layout::of(&row),
                _ => None,
            });
        }
        let lines = &block.lines[self.skip(&block.lines, |l| l.number)..];
        let (layout, config) = (self.layout, self.config);
        let read = |line: &lines::Line| json_row(line, &block.bytes[line.range.clone()], layout, config);
        let rows: Vec<Read<Record<'_>>> = lines.par_iter().map(read).collect();
        let group = |i: usize| group_of(&block.bytes[lines[i].range.clone()]);
        self.hand_over(rows, |i| lines[i].number, group)
    }

    /// Counts the first rows of these that were read before; gives their number.
    fn skip<T>(&mut self, rows: &[T], number: impl Fn(&T) -> u64) -> usize {
        let skipped = rows.partition_point(|row| number(row) <= self.done);
        self.rows += skipped as u64;
        self.progress.advance(skipped as u64);
        skipped
    }

    fn parquet(&mut self) -> Result<()> {
        let source = columns::Source::open(self.input)?;
        for slice in source.slices() {
            let (before, slice) = slice?;
            if self.layout.is_none() {
                self.layout = (0..slice.height).find_map(|i| Layout::of(&present(slice.row(i))));
            }
            let all: Vec<usize> = (0..slice.height).collect();
            let skipped = self.skip(&all, |i| (before + i + 1) as u64);
            let (layout, config) = (self.layout, self.config);
            let read = |i| record_of(slice.row(i), layout, config, || slice.keys());
            let rows: Vec<Read<Record<'_>>> = (skipped..slice.height).into_par_iter().map(read).collect();
            let number = |i: usize| (before + skipped + i + 1) as u64;
            self.hand_over(rows, number, |i| group_of(&number(i).to_le_bytes()))?;
        }
        Ok(())
    }

    /// Parts sound rows from faulty ones and hands both over, or stops at the first fault.
    fn hand_over(
        &mut self,
        rows: Vec<Read<Record<'_>>>,
        number: impl Fn(usize) -> u64,
        group: impl Fn(usize) -> u64,
    ) -> Result<()> {
        let read = rows.len() as u64;
        let Some(last) = rows.len().checked_sub(1) else { return Ok(()) };
        let mut sound = Vec::with_capacity(rows.len());
        let mut rejects = Vec::new();
        for (i, row) in rows.into_iter().enumerate() {
            match row {
                Ok(record) => sound.push((number(i), record)),
                Err(Fault { field, reason, message }) if self.config.on_bad_row == OnBadRow::Skip => {
                    let line = number(i);
                    rejects.push(Reject { file: self.index, line, field, reason, detail: message, group: group(i) });
                }
                Err(fault) => {
                    return Err(Error::Data {
                        path: self.input.label.clone(),
                        line: Some(number(i)),
                        field: Some(fault.field).filter(|f| !f.is_empty()),
                        message: fault.message,
                        hint: Some("pass --on-bad-row skip to drop and count such rows".into()),
                    });
                }
            }
        }
        self.rows += read;
        let frame = record::to_frame(&sound, self.index)?;
        let wrong_tens = WrongTens::default();
        (self.sink)(Batch { frame, rejects, file: self.index, last_line: number(last), wrong_tens })?;
        self.progress.advance(read);
        Ok(())
    }
}

fn json_row<'a>(
    line: &lines::Line,
    bytes: &'a [u8],
    layout: Option<Layout>,
    config: &IngestConfig,
) -> Read<Record<'a>> {
    if line.too_long {
        return Err(Fault::new("", reason::TOO_LONG, format!("longer than {} bytes", config.max_line_bytes)));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Fault::new("", reason::INVALID_UTF8, format!("not UTF-8 from byte {} on", e.valid_up_to() + 1)))?;
    match parse_json(text)? {
        Value::Object(row) => record_of(row, layout, config, || keys_of(text)),
        other => Err(Fault::new("", reason::WRONG_TYPE, format!("expected a JSON object, got {}", describe(&other)))),
    }
}

fn record_of<'a>(
    row: Object<'a>,
    layout: Option<Layout>,
    config: &IngestConfig,
    keys: impl FnOnce() -> Vec<String>,
) -> Read<Record<'a>> {
    match layout {
        Some(Layout::Ultrafeedback) => ultrafeedback::read(row, config.score),
        Some(Layout::Binarized) => binarized::read(row),
        Some(Layout::Trl) => trl::read(row),
        None => {
            let expected = "expected instruction and completions, or chosen and rejected";
            let message = format!("{expected}; the row has {}", some_of(&keys()));
            Err(Fault::new("", reason::UNKNOWN_LAYOUT, message))
        }
    }
}

/// A row without its null cells: a Parquet row has every column.
fn present(row: Object<'_>) -> Object<'_> {
    Object(row.0.into_iter().filter(|(_, v)| *v != Value::Null).collect())
}

/// What decides the shard of a row whose prompt could not be read.
fn group_of(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn keys_of(line: &str) -> Vec<String> {
    match serde_json::from_str(line) {
        Ok(serde_json::Value::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn some_of(keys: &[String]) -> String {
    match keys {
        [] => "no known field".into(),
        _ if keys.len() > 12 => format!("{} and more", keys[..12].join(", ")),
        _ => keys.join(", "),
    }
}

/// The input files of a folder: JSON lines, plain or compressed, and Parquet, by name.
///
/// # Errors
/// [`Error::Io`]; [`Error::Data`] where there is none.
pub fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let known = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"].iter().any(|e| name.ends_with(e));
        if known && !name.starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::Data {
            path: folder.to_path_buf(),
            line: None,
            field: None,
            message: "no .jsonl, .jsonl.gz, .jsonl.zst or .parquet file in this folder".into(),
            hint: None,
        });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
