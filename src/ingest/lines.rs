//! JSON lines, plain or compressed, in blocks of whole lines. Reading and
//! decompression run on a thread of their own, ahead of the parsing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use super::{Input, Limits};
use crate::error::{Error, Result};

/// A block is handed over when it holds this many bytes ...
const BLOCK_BYTES: usize = 16 << 20;
/// ... or this many lines.
const BLOCK_LINES: usize = 8192;

/// How a file is packed, by its first bytes (never by its name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
    /// Parquet.
    Parquet,
}

impl Packing {
    /// Looks at a file's first bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] where it is empty.
    pub fn of(input: &Input) -> Result<Packing> {
        let mut start = [0u8; 4];
        let mut file = File::open(&input.path).map_err(Error::io(&input.label))?;
        let mut filled = 0;
        while filled < start.len() {
            match file.read(&mut start[filled..]).map_err(Error::io(&input.label))? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(match &start[..filled] {
            [] => return Err(input.fault(None, "the file is empty")),
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Packing::Zstd,
            b"PAR1" => Packing::Parquet,
            _ => Packing::Plain,
        })
    }
}

/// One line of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// 1-based number in the file.
    pub number: u64,
    /// Where its bytes are in the block; only its first bytes where it is too long.
    pub range: Range<usize>,
    /// Whether it is longer than allowed.
    pub too_long: bool,
}

/// Some whole lines, blank ones left out.
#[derive(Debug, Default)]
pub struct Block {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// The lines, in order.
    pub lines: Vec<Line>,
}

/// Sends a file's lines block by block, until its end or until nobody listens.
///
/// # Errors
/// [`Error::Data`] where the file is damaged or larger than allowed.
pub fn send_blocks(input: &Input, packing: Packing, limits: Limits, to: &SyncSender<Block>) -> Result<()> {
    let file = File::open(&input.path).map_err(Error::io(&input.label))?;
    let file = BufReader::with_capacity(1 << 18, file);
    let unpacked: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(Error::io(&input.label))?),
        Packing::Plain | Packing::Parquet => Box::new(file),
    };
    let mut lines = Lines {
        reader: BufReader::with_capacity(1 << 18, unpacked),
        label: input.label.clone(),
        packing,
        limits,
        number: 0,
        taken: 0,
    };
    loop {
        let mut block = Block::default();
        let more = lines.fill(&mut block)?;
        if !block.lines.is_empty() && to.send(block).is_err() || !more {
            return Ok(());
        }
    }
}

struct Lines<R> {
    reader: BufReader<R>,
    label: PathBuf,
    packing: Packing,
    limits: Limits,
    /// Number of the line last read.
    number: u64,
    /// Bytes read, after decompression.
    taken: u64,
}

impl<R: Read> Lines<R> {
    /// Fills a block; false at the end of the file.
    fn fill(&mut self, block: &mut Block) -> Result<bool> {
        while block.bytes.len() < BLOCK_BYTES && block.lines.len() < BLOCK_LINES {
            let start = block.bytes.len();
            // One byte more than allowed, and one for the line break.
            let most = self.limits.line_bytes.saturating_add(2);
            let read = (&mut self.reader).take(most).read_until(b'\n', &mut block.bytes);
            let mut read = read.map_err(|e| self.damaged(e))? as u64;
            if read == 0 {
                return Ok(false);
            }
            self.number += 1;
            if start == 0 && self.number == 1 && block.bytes.starts_with(b"\xef\xbb\xbf") {
                block.bytes.drain(..3);
            }
            let whole = block.bytes.last() == Some(&b'\n');
            let text = trimmed(&block.bytes, start);
            let cut = !whole && read == most;
            if cut {
                read += self.skip_line()?;
            }
            let too_long = cut || text.len() as u64 > self.limits.line_bytes;
            self.taken += read;
            if self.taken > self.limits.decompressed_bytes {
                return Err(self.too_large());
            }
            if !text.is_empty() {
                block.lines.push(Line { number: self.number, range: text, too_long });
            }
        }
        Ok(true)
    }

    /// Reads to the end of the line without keeping it; gives the bytes read.
    fn skip_line(&mut self) -> Result<u64> {
        let mut skipped = 0u64;
        loop {
            let buffer = self.reader.fill_buf();
            let buffer = match buffer {
                Ok(buffer) => buffer,
                Err(e) => return Err(self.damaged(e)),
            };
            let end = buffer.iter().position(|b| *b == b'\n');
            let n = end.map_or(buffer.len(), |i| i + 1);
            if n == 0 {
                return Ok(skipped);
            }
            self.reader.consume(n);
            skipped += n as u64;
            if end.is_some() {
                return Ok(skipped);
            }
            if self.taken + skipped > self.limits.decompressed_bytes {
                return Err(self.too_large());
            }
        }
    }

    fn damaged(&self, source: std::io::Error) -> Error {
        let kind = match self.packing {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            _ => return Error::Io { path: self.label.clone(), source },
        };
        Error::Data {
            path: self.label.clone(),
            line: Some(self.number + 1),
            field: None,
            message: format!("damaged or truncated {kind} data: {source}"),
            hint: Some("fetch or pack the file again".into()),
        }
    }

    fn too_large(&self) -> Error {
        Error::Data {
            path: self.label.clone(),
            line: Some(self.number),
            field: None,
            message: format!("more than {} bytes of text", self.limits.decompressed_bytes),
            hint: Some("raise ingest.max_decompressed_bytes if the file is meant to be this large".into()),
        }
    }
}

/// The range of the line that begins at `start`, without JSON's blanks around it.
fn trimmed(bytes: &[u8], start: usize) -> Range<usize> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let line = &bytes[start..];
    match line.iter().position(|b| !blank(b)) {
        None => start..start,
        Some(first) => {
            let last = line.iter().rposition(|b| !blank(b)).unwrap_or(first);
            start + first..start + last + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SMALL: Limits = Limits { line_bytes: 10, decompressed_bytes: 1000 };

    fn read(bytes: &[u8], limits: Limits) -> Result<Vec<(u64, Vec<u8>, bool)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        let input = Input::new(path);
        let packing = Packing::of(&input)?;
        let (to, from) = std::sync::mpsc::sync_channel(100);
        send_blocks(&input, packing, limits, &to)?;
        drop(to);
        let rows = |b: Block| {
            let get = |l: &Line| (l.number, b.bytes[l.range.clone()].to_vec(), l.too_long);
            b.lines.iter().map(get).collect::<Vec<_>>()
        };
        Ok(from.into_iter().flat_map(rows).collect())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_keep_their_numbers_whatever_the_packing() {
        let text = b"\xef\xbb\xbfone\r\n\n  two  \n\t\nlast";
        let wanted = vec![(1, b"one".to_vec(), false), (3, b"two".to_vec(), false), (5, b"last".to_vec(), false)];
        assert_eq!(read(text, SMALL).unwrap(), wanted);
        assert_eq!(read(&zstd::encode_all(&text[..], 1).unwrap(), SMALL).unwrap(), wanted);
        let two_members = [gzip(&text[..9]), gzip(&text[9..])].concat();
        assert_eq!(read(&two_members, SMALL).unwrap(), wanted);
    }

    #[test]
    fn a_long_line_is_marked_and_the_next_one_is_read() {
        let text = [&b"0123456789\n"[..], &vec![b'x'; 500], b"\nnext\n"].concat();
        let rows = read(&text, SMALL).unwrap();
        assert_eq!(rows.iter().map(|r| (r.0, r.2)).collect::<Vec<_>>(), [(1, false), (2, true), (3, false)]);
        assert_eq!(rows[2].1, b"next");
        // The line break does not count, nor does a carriage return.
        assert!(!read(b"0123456789\r\n", SMALL).unwrap()[0].2);
        assert!(read(b"0123456789a", SMALL).unwrap()[0].2);
    }

    #[test]
    fn files_that_unpack_to_too_much_are_refused() {
        let bomb = gzip(&vec![b'x'; 5000]);
        assert!(bomb.len() < 200);
        let error = read(&bomb, SMALL).unwrap_err();
        assert!(error.to_string().ends_with("line 1: more than 1000 bytes of text"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn damaged_packing_is_a_fault_of_the_data() {
        let packed = gzip(b"one\ntwo\n");
        let error = read(&packed[..packed.len() - 9], SMALL).unwrap_err();
        assert!(error.to_string().contains("damaged or truncated gzip data"), "{error}");
        let packed = zstd::encode_all(&b"one\ntwo\n"[..], 1).unwrap();
        let error = read(&packed[..packed.len() - 3], SMALL).unwrap_err();
        assert!(error.to_string().contains("damaged or truncated zstd data"), "{error}");
        assert!(read(b"", SMALL).unwrap_err().to_string().ends_with("the file is empty"));
    }
}
