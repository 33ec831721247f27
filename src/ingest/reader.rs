//! Reading of one file: rows are parsed in parallel, sound rows are separated from faulty ones, and both
//! are handed over in batches.

use std::io::Seek;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use rayon::prelude::*;

use super::files::columns::Columns;
use super::files::guard::guarded;
use super::files::parquet::Parquet;
use super::files::text::{Block, Framing, Row, Text};
use super::files::{Packing, arrow};
use super::json::parse_json;
use super::layouts::{self, Layout};
use super::names::{Names, ORDERS};
use super::record::{self, Record};
use super::value::{Object, Read, RowFault, Value, describe};
use super::written::unfold;
use super::{Batch, IngestConfig, Input, NAME_COLUMNS, ORDER_SIDES, OnBadRow, OnWrongTens, Position, WrongTens};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::InputFile;
use crate::progress::Progress;
use crate::rejects::{Reject, SKIP_ADVICE, reason};

/// Reading of one file.
pub struct Reader<'a> {
    input: &'a Input,
    index: u32,
    /// Rows up to this line were read before.
    done: u64,
    layout: Option<&'static Layout>,
    config: &'a IngestConfig,
    names: &'a Names,
    progress: &'a dyn Progress,
    rows: u64,
    /// Bytes of the file that were reported to `progress`.
    told: u64,
    started: Instant,
    sink: &'a mut dyn FnMut(Batch) -> Result<()>,
}

impl<'a> Reader<'a> {
    /// A reader of the `index`-th input that hands over the rows after `from`.
    pub fn new(
        input: &'a Input,
        index: u32,
        config: &'a IngestConfig,
        names: &'a Names,
        from: Option<Position>,
        progress: &'a dyn Progress,
        sink: &'a mut dyn FnMut(Batch) -> Result<()>,
    ) -> Reader<'a> {
        let done = match from {
            Some(at) if index < at.file => u64::MAX,
            Some(at) if index == at.file => at.line,
            _ => 0,
        };
        let layout = Layout::named(input.wanted(config));
        Reader { input, index, done, layout, config, names, progress, rows: 0, told: 0, started: Instant::now(), sink }
    }

    /// Reads the file to its end.
    pub fn read(mut self) -> Result<InputFile> {
        let packing = Packing::of(self.input)?;
        let path = &self.input.path;
        let hashed = std::thread::scope(|scope| {
            // The file is hashed while it is read, when it is in the page cache anyway.
            let hash = scope.spawn(|| artifact::hash_file(path));
            match packing {
                Packing::Empty => {}
                Packing::Parquet => self.parquet()?,
                Packing::Arrow => self.arrow()?,
                _ => self.text(packing)?,
            }
            hash.join().unwrap_or_else(|_| Err(Error::run("hashing an input file failed")))
        });
        let (bytes, blake3) = hashed?;
        self.tell(bytes);
        let path = self.input.label.display().to_string();
        Ok(InputFile { path, bytes, blake3, rows_read: self.rows, ..InputFile::default() })
    }

    fn text(&mut self, packing: Packing) -> Result<()> {
        let mut text = Text::open(self.input, packing, self.names, self.config.limits())?;
        let framing = text.framing();
        let mut file = text.file();
        let mut block = |block: Block| {
            self.block(&block, &framing)?;
            let read = file.as_mut().and_then(|file| file.stream_position().ok());
            self.tell(read.unwrap_or_default());
            Ok(())
        };
        ahead(|to| text.send(to), |from| from.iter().try_for_each(&mut block))
    }

    fn block(&mut self, block: &Block, framing: &Framing) -> Result<()> {
        let (names, limit) = (self.names, self.config.max_line_bytes);
        let parse = |row: &Row| parse_row(row, &block.bytes[row.range.clone()], framing, names, limit);
        if self.layout.is_none() {
            self.layout = Layout::of_most(block.rows.iter().map(|row| Layout::of(&parse(row).ok()?)));
        }
        let rows = &block.rows[self.skip(&block.rows)..];
        let (layout, config) = (self.layout, self.config);
        let read = |row: &Row| {
            let keys = || keys_of(&block.bytes[row.range.clone()], framing);
            layouts::read(layout, parse(row)?, config, keys)
        };
        let records: Vec<Read<Record<'_>>> = rows.par_iter().map(read).collect();
        self.hand_over(records, |i| rows[i].number, |i| group_of(&block.bytes[rows[i].range.clone()]))
    }

    /// Counts those of the rows that were read before, which come first, and returns their number.
    fn skip(&mut self, rows: &[Row]) -> usize {
        let skipped = rows.partition_point(|row| row.number <= self.done);
        self.count(skipped as u64);
        skipped
    }

    fn count(&mut self, rows: u64) {
        self.rows += rows;
        let rate = self.rows as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        self.progress.status(&format!("{} rows, {rate:.0} rows/s", self.rows));
    }

    /// Reports how many bytes of the file were read.
    fn tell(&mut self, bytes: u64) {
        self.progress.advance(bytes.saturating_sub(self.told));
        self.told = self.told.max(bytes);
    }

    fn parquet(&mut self) -> Result<()> {
        let parquet = Parquet::open(self.input, self.names, self.config.limits())?;
        if self.done >= parquet.rows {
            self.count(parquet.rows);
            return Ok(());
        }
        let (rows, bytes) = (parquet.rows, std::fs::metadata(&self.input.path).map_or(0, |facts| facts.len()));
        ahead(
            |to| parquet.send(to),
            |from| {
                from.iter().try_for_each(|(before, batch)| {
                    self.columns(before, &batch, &parquet.keys, "Parquet")?;
                    let share = (before + batch.num_rows() as u64) as f64 / rows.max(1) as f64;
                    self.tell((share * bytes as f64) as u64);
                    Ok(())
                })
            },
        )
    }

    fn arrow(&mut self) -> Result<()> {
        let (input, names) = (self.input, self.names);
        ahead(
            |to| arrow::send(input, names, to),
            |from| {
                from.iter()
                    .try_for_each(|(before, batch)| self.columns(before, &batch, &keys_of_batch(&batch), "Arrow"))
            },
        )
    }

    fn columns(&mut self, before: u64, batch: &::arrow::array::RecordBatch, keys: &[String], kind: &str) -> Result<()> {
        let height = batch.num_rows() as u64;
        if before + height <= self.done && self.layout.is_some() {
            self.count(height);
            return Ok(());
        }
        let columns = guarded(self.input, kind, || Columns::new(batch, self.names))?;
        if self.layout.is_none() {
            let row = |i: usize| unfolded(columns.row(i), self.names).ok();
            self.layout = Layout::of_most((0..columns.height).map(|i| Layout::of(&row(i)?)));
        }
        let skipped = self.done.saturating_sub(before).min(height);
        self.count(skipped);
        let (layout, config, names) = (self.layout, self.config, self.names);
        let read = |i: usize| {
            if columns.weight(i) > config.max_line_bytes {
                return Err(too_long(config.max_line_bytes));
            }
            layouts::read(layout, unfolded(columns.row(i), names)?, config, || keys.to_vec())
        };
        for piece in columns.pieces() {
            // Where pieces end does not depend on where reading was interrupted.
            let start = piece.start.max(skipped as usize);
            let records: Vec<Read<Record<'_>>> = (start..piece.end.max(start)).into_par_iter().map(read).collect();
            let number = |i: usize| before + (start + i + 1) as u64;
            self.hand_over(records, number, |i| group_of(&number(i).to_le_bytes()))?;
        }
        Ok(())
    }

    /// Separates sound rows from faulty ones and hands both over, or stops at the first fault.
    fn hand_over(
        &mut self,
        records: Vec<Read<Record<'_>>>,
        number: impl Fn(usize) -> u64,
        group: impl Fn(usize) -> u64,
    ) -> Result<()> {
        let read = records.len() as u64;
        let Some(last) = records.len().checked_sub(1) else { return Ok(()) };
        let mut sound = Vec::with_capacity(records.len());
        let mut rejects = Vec::new();
        let (mut wrong_tens, mut flipped_before, mut dialogue_prompts) = (WrongTens::default(), 0, 0);
        for (i, record) in records.into_iter().enumerate() {
            let record = record.and_then(|record| {
                wrong_tens += record.wrong_tens;
                flipped_before += u64::from(record.flipped_before);
                dialogue_prompts += u64::from(record.dialogue_prompt);
                without_wrong_tens(record, self.config.wrong_tens)
            });
            match record {
                Ok(record) => sound.push((number(i), record)),
                Err(fault) if fault.decision || self.config.on_bad_row == OnBadRow::Skip => {
                    let RowFault { field, reason, message, .. } = fault;
                    let line = number(i);
                    rejects.push(Reject { file: self.index, line, field, reason, detail: message, group: group(i) });
                }
                Err(fault) => return Err(self.error(number(i), fault)),
            }
        }
        let scored = self.layout.is_some_and(|layout| layout.scored);
        let frame = record::to_frame(&sound, self.index, self.input.split, scored)?;
        let (file, last_line) = (self.index, number(last));
        let layout = self.layout.map(|layout| layout.format.name());
        (self.sink)(Batch {
            frame,
            rejects,
            file,
            last_line,
            layout,
            rows: read,
            wrong_tens,
            flipped_before,
            dialogue_prompts,
        })?;
        self.count(read);
        Ok(())
    }

    fn error(&self, line: u64, fault: RowFault) -> Error {
        let skip = SKIP_ADVICE;
        let no_prompt = fault.lacks_prompt();
        let structural = matches!(
            fault.reason,
            reason::MISSING_FIELD | reason::WRONG_TYPE | reason::PROMPT_MISMATCH | reason::WRONG_ROLE
        );
        let advice = match self.layout {
            // No row is of a known layout, or none has a prompt: skipping them would leave nothing.
            None if fault.reason == reason::UNKNOWN_LAYOUT => {
                if fault.field.is_empty() { NAME_COLUMNS } else { ORDER_SIDES }.to_string()
            }
            Some(layout) if no_prompt && layout.is_implied() => NAME_COLUMNS.to_string(),
            _ if ORDERS.contains(&fault.field.as_str()) => {
                format!("{ORDER_SIDES}; or --ignore-keys {} where it says something else", fault.field)
            }
            _ if reason::is_unread(fault.reason) => {
                let key = fault.field.rsplit('.').next().unwrap_or_default();
                format!("{skip}, or --ignore-keys {key} to leave it unread where it does not matter")
            }
            _ if no_prompt => format!("{skip}; or {NAME_COLUMNS}"),
            Some(layout) if structural => {
                format!("{skip} (rows are read as {}; --format names another layout)", layout.format.name())
            }
            _ => skip.to_string(),
        };
        Error::Data {
            path: self.input.label.clone(),
            line: Some(line),
            field: Some(fault.field).filter(|f| !f.is_empty()),
            message: fault.message,
            hint: Some(advice),
        }
    }
}

/// A row in which texts that hold a list are replaced by the list.
fn unfolded<'a>(mut row: Object<'a>, names: &Names) -> Read<Object<'a>> {
    unfold(&mut row, names)?;
    Ok(row)
}

/// The names of a batch's columns.
pub(super) fn keys_of_batch(batch: &::arrow::array::RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// Runs a sender on a thread of its own, one item ahead of the taker.
pub(super) fn ahead<T: Send>(
    send: impl FnOnce(&SyncSender<T>) -> Result<()> + Send,
    take: impl FnOnce(&Receiver<T>) -> Result<()>,
) -> Result<()> {
    let (to, from) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || send(&to));
        let taken = take(&from);
        // After a fault the sending thread stops when it finds the receiver gone.
        drop(from);
        let sent = sending.join().unwrap_or_else(|_| Err(Error::run("reading an input file failed")));
        taken.and(sent)
    })
}

/// Refuses a row with a wrong ten, where the policy is to reject it.
fn without_wrong_tens(record: Record<'_>, policy: OnWrongTens) -> Read<Record<'_>> {
    let WrongTens { certain, suspicious } = record.wrong_tens;
    if policy != OnWrongTens::Reject || certain + suspicious == 0 {
        return Ok(record);
    }
    let message = format!("{certain} scores of 10 are 1 by their ratings, {suspicious} more are doubtful");
    Err(RowFault::decision("completions", reason::WRONG_TEN, message))
}

/// The fields of one row of text.
pub(super) fn parse_row<'a>(
    row: &Row,
    bytes: &'a [u8],
    framing: &Framing,
    names: &Names,
    limit: u64,
) -> Read<Object<'a>> {
    if row.too_long {
        return Err(too_long(limit));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        RowFault::new("", reason::INVALID_UTF8, format!("not UTF-8 from byte {} on", e.valid_up_to() + 1))
    })?;
    if let Framing::Csv(dialect) = framing {
        return unfolded(dialect.row(text)?, names);
    }
    match parse_json(text, names)? {
        Value::Object(row) => unfolded(row, names),
        other => {
            Err(RowFault::new("", reason::WRONG_TYPE, format!("expected a JSON object, got {}", describe(&other))))
        }
    }
}

fn too_long(limit: u64) -> RowFault {
    RowFault::new("", reason::TOO_LONG, format!("longer than {limit} bytes"))
}

/// The group, and so the shard, of a row whose prompt could not be read: a hash of its bytes.
fn group_of(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The names of a row's fields.
pub(super) fn keys_of(row: &[u8], framing: &Framing) -> Vec<String> {
    if let Framing::Csv(dialect) = framing {
        return dialect.keys.clone();
    }
    match serde_json::from_slice(row) {
        Ok(serde_json::Value::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}
