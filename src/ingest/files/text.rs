//! Text files in blocks of whole rows: JSON lines, one JSON array, or CSV; plain or compressed.
//! Reading and decompression run on a thread of their own, ahead of the parsing.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::super::names::Names;
use super::super::{Input, Limits};
use super::csv::{self, Dialect};
use super::{Packing, too_large};
use crate::error::{Error, Result};

/// A block is handed over when it holds this many bytes ...
pub const BLOCK_BYTES: usize = 16 << 20;
/// ... or this many rows.
pub const BLOCK_ROWS: usize = 8192;

/// The first bytes of a file, which show how rows are written.
const HEAD: u64 = 1 << 16;

/// How rows are written, recognised by the first bytes.
#[derive(Debug, Clone)]
pub enum Framing {
    /// One JSON object a line.
    Lines,
    /// One JSON array of objects, with line breaks anywhere.
    Array,
    /// CSV with a header; a quoted cell may hold line breaks.
    Csv(Arc<Dialect>),
}

/// One row of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// 1-based line on which it begins; in an array, the 1-based number of the element.
    pub number: u64,
    /// Where its bytes are in the block; only its first bytes where it is too long.
    pub range: Range<usize>,
    /// Whether it is longer than allowed.
    pub too_long: bool,
}

/// Some whole rows, blank lines left out.
#[derive(Debug, Default)]
pub struct Block {
    pub bytes: Vec<u8>,
    pub rows: Vec<Row>,
}

/// A text file that was opened.
pub struct Text {
    reader: BufReader<Box<dyn Read + Send>>,
    framing: Framing,
    input: Input,
    packing: Packing,
    limits: Limits,
    /// Number of the line or element that was read last.
    number: u64,
    /// Bytes read, after decompression.
    taken: u64,
    ended: bool,
    /// A second handle of the file, with the same position.
    file: Option<File>,
}

/// What ended a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Byte(u8),
    File,
}

impl Text {
    /// A handle of the open file, whose position tells how many of its bytes were read, before decompression.
    pub fn file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// Opens a file, finds out how its rows are written, and reads the header where there is one.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is damaged or its header knows no column; [`Error::Io`].
    pub fn open(input: &Input, packing: Packing, names: &Names, limits: Limits) -> Result<Text> {
        let file = File::open(&input.path).map_err(Error::io(&input.label))?;
        let handle = file.try_clone().map_err(Error::io(&input.label))?;
        let mut unpacked = packing.unpacked(file, input)?;
        let mut head = Vec::new();
        let looked = (&mut unpacked).take(HEAD).read_to_end(&mut head);
        let whole = (head.len() as u64) < HEAD;
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
        }
        let delimiter = csv::delimiter(&head, whole, input, names);
        let array = opens_array(&head);
        let mut text = Text {
            reader: BufReader::with_capacity(1 << 18, Box::new(Cursor::new(head).chain(unpacked))),
            framing: if array { Framing::Array } else { Framing::Lines },
            input: input.clone(),
            packing,
            limits,
            number: 0,
            taken: 0,
            ended: false,
            file: Some(handle),
        };
        looked.map_err(|e| text.damaged(e))?;
        if array {
            // Up to and including the bracket, which the head is known to hold.
            text.reader.skip_until(b'[').map_err(|e| text.damaged(e))?;
        } else if let Some(delimiter) = delimiter {
            let mut bytes = Vec::new();
            let header = loop {
                match text.record(&mut bytes, delimiter)? {
                    Some(row) if row.range.is_empty() => {}
                    Some(row) => break row,
                    None => return Ok(text),
                }
            };
            let dialect = Dialect::new(&bytes[header.range], delimiter, names);
            text.framing = Framing::Csv(Arc::new(dialect.map_err(|message| input.fault(Some(1), &message))?));
        }
        Ok(text)
    }

    pub fn framing(&self) -> Framing {
        self.framing.clone()
    }

    /// Sends the rows block by block, until the end or until the receiver is gone.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is damaged or larger than allowed.
    pub fn send(mut self, to: &SyncSender<Block>) -> Result<()> {
        loop {
            let mut block = Block::default();
            let more = self.fill(&mut block)?;
            if !block.rows.is_empty() && to.send(block).is_err() || !more {
                return Ok(());
            }
        }
    }

    /// Fills a block; false at the end of the file.
    fn fill(&mut self, block: &mut Block) -> Result<bool> {
        while block.bytes.len() < BLOCK_BYTES && block.rows.len() < BLOCK_ROWS {
            let bytes = &mut block.bytes;
            let row = match &self.framing {
                Framing::Lines => self.line(bytes)?,
                Framing::Array => self.element(bytes)?,
                Framing::Csv(dialect) => {
                    let delimiter = dialect.delimiter;
                    self.record(bytes, delimiter)?
                }
            };
            match row {
                Some(row) if row.range.is_empty() && !row.too_long && !matches!(self.framing, Framing::Array) => {}
                Some(row) => block.rows.push(row),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// One line, blank ones included.
    fn line(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Row>> {
        let start = bytes.len();
        // One byte more than allowed, and one for the line break.
        let most = self.limits.line_bytes.saturating_add(2);
        let read = (&mut self.reader).take(most).read_until(b'\n', bytes).map_err(|e| self.damaged(e))? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.take(read)?;
        let mut too_long = false;
        if bytes.last() != Some(&b'\n') && read == most {
            too_long = true;
            self.scan(None, &mut |chunk| chunk.iter().position(|b| *b == b'\n'))?;
        }
        let range = trimmed(bytes, start);
        too_long |= range.len() as u64 > self.limits.line_bytes;
        Ok(Some(Row { number: self.number, range, too_long }))
    }

    /// One element of an array: all up to the comma or bracket after it, so that an element that is not valid JSON does
    /// not affect the next.
    fn element(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Row>> {
        if self.ended {
            return Ok(None);
        }
        let start = bytes.len();
        let mut state = Json::default();
        let (end, too_long) = self.scan(Some(bytes), &mut |chunk| state.end(chunk))?;
        let range = trimmed(bytes, start);
        match end {
            End::File => {
                let message = "the array is not closed: the file is cut off, or a text or bracket in this row is open";
                return Err(self.fault(self.number + 1, message, "mend the row, or write one object a line"));
            }
            End::Byte(byte) => self.ended = byte == b']',
        }
        let empty = range.is_empty() && !too_long;
        self.number += u64::from(!(self.ended && empty));
        if self.ended {
            self.only_blanks()?;
            if empty {
                return Ok(None);
            }
        }
        let too_long = too_long || range.len() as u64 > self.limits.line_bytes;
        Ok(Some(Row { number: self.number, range, too_long }))
    }

    /// Nothing may come after an array.
    fn only_blanks(&mut self) -> Result<()> {
        let (end, _) = self.scan(None, &mut |chunk| chunk.iter().position(|b| !blank(*b)))?;
        match end {
            End::File => Ok(()),
            End::Byte(_) => {
                Err(self.fault(self.number + 1, "text after the end of the array", "one array is one file"))
            }
        }
    }

    /// One CSV record, blank ones included.
    fn record(&mut self, bytes: &mut Vec<u8>, delimiter: u8) -> Result<Option<Row>> {
        let start = bytes.len();
        let number = self.number + 1;
        let mut state = csv::Scan::new(delimiter);
        let before = self.taken;
        let (end, too_long) = self.scan(Some(bytes), &mut |chunk| state.end(chunk))?;
        if end == End::File {
            if state.inside_quotes() {
                let message = "a quoted cell that opens in this row is not closed";
                return Err(self.fault(number, message, "quotes inside a quoted cell are written twice"));
            }
            if self.taken == before {
                return Ok(None);
            }
        }
        self.number = number + state.breaks();
        // Blanks belong to the cells; only the carriage return of a line break does not.
        let end = bytes.len() - usize::from(bytes[start..].ends_with(b"\r"));
        let blank = bytes[start..end].iter().all(|b| *b != delimiter && blank(*b));
        let range = start..if blank { start } else { end };
        let too_long = too_long || range.len() as u64 > self.limits.line_bytes;
        Ok(Some(Row { number, range, too_long }))
    }

    /// Reads up to and including the byte whose offset `find` gives, chunk by chunk, and keeps what comes before it, up
    /// to a little more than the longest row. Returns what ended it, and whether it was cut.
    fn scan(
        &mut self,
        mut keep: Option<&mut Vec<u8>>,
        find: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Result<(End, bool)> {
        let mut room = usize::try_from(self.limits.line_bytes.saturating_add(2)).unwrap_or(usize::MAX);
        let mut cut = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) => return Err(self.damaged(e)),
            };
            if chunk.is_empty() {
                return Ok((End::File, cut));
            }
            let found = find(chunk);
            let length = found.unwrap_or(chunk.len());
            let end = found.map(|at| chunk[at]);
            if let Some(bytes) = &mut keep {
                let fits = length.min(room);
                bytes.extend_from_slice(&chunk[..fits]);
                room -= fits;
                cut |= fits < length;
            }
            let used = length + usize::from(found.is_some());
            self.reader.consume(used);
            self.take(used as u64)?;
            if let Some(byte) = end {
                return Ok((End::Byte(byte), cut));
            }
        }
    }

    /// Counts bytes; too many are a fault.
    fn take(&mut self, bytes: u64) -> Result<()> {
        self.taken += bytes;
        if self.taken > self.limits.decompressed_bytes {
            return Err(too_large(&self.input, Some(self.number.max(1)), self.limits));
        }
        Ok(())
    }

    fn damaged(&self, source: std::io::Error) -> Error {
        let kind = match self.packing {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            _ => return Error::Io { path: self.input.label.clone(), source },
        };
        let message = format!("damaged or truncated {kind} data: {source}");
        self.fault(self.number + 1, &message, "fetch or pack the file again")
    }

    fn fault(&self, line: u64, message: &str, advice: &str) -> Error {
        self.input.fault(Some(line), message).with_hint(advice)
    }
}

/// Finds the end of an array's element: a comma or bracket outside of texts and other brackets.
#[derive(Debug, Default)]
struct Json {
    depth: u64,
    inside_text: bool,
    escaped: bool,
}

impl Json {
    fn end(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < chunk.len() {
            if self.escaped {
                self.escaped = false;
                at += 1;
                continue;
            }
            if self.inside_text {
                at += chunk[at..].iter().position(|b| matches!(b, b'"' | b'\\'))?;
                self.escaped = chunk[at] == b'\\';
                self.inside_text = self.escaped;
                at += 1;
                continue;
            }
            match chunk[at] {
                b'"' => self.inside_text = true,
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => return Some(at),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
        }
        None
    }
}

/// Whether a text is one JSON array: a bracket, and then an object or nothing. Lines that are lists begin with a
/// bracket too; each of them is reported as a faulty row.
fn opens_array(head: &[u8]) -> bool {
    let mut words = head.iter().filter(|b| !blank(**b));
    words.next() == Some(&b'[') && matches!(words.next(), Some(b'{' | b']') | None)
}

/// JSON's blanks.
fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The range of the row that begins at `start`, without blanks around it.
fn trimmed(bytes: &[u8], start: usize) -> Range<usize> {
    let row = &bytes[start..];
    match row.iter().position(|b| !blank(*b)) {
        None => start..start,
        Some(first) => {
            let last = row.iter().rposition(|b| !blank(*b)).unwrap_or(first);
            start + first..start + last + 1
        }
    }
}

#[cfg(test)]
mod tests;
