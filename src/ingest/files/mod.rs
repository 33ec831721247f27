//! File formats. All of them are read as rows of loosely typed values.
//!
//! Text (JSON lines, one JSON array, CSV; plain, gzip or Zstandard) comes as blocks of whole rows
//! ([`text`]), Parquet and Arrow as columns ([`columns`]). The first bytes of a file decide its format; its name
//! matters only for CSV of which no column is known.

use std::fs::File;
use std::io::{BufReader, Read};

use super::{Input, Limits};
use crate::artifact;
use crate::error::{Error, Result};

pub mod arrow;
pub mod columns;
pub mod csv;
pub mod guard;
pub mod parquet;
pub mod text;

/// How a file is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// No byte at all.
    Empty,
    /// Text as it is.
    Plain,
    /// Text in gzip, possibly of several members.
    Gzip,
    /// Text in Zstandard, possibly of several frames.
    Zstd,
    /// Parquet.
    Parquet,
    /// Arrow IPC, as a file or as a stream.
    Arrow,
}

impl Packing {
    /// Looks at a file's first bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] where the file is a pointer of Git LFS.
    pub fn of(input: &Input) -> Result<Packing> {
        let mut start = Vec::new();
        let file = File::open(&input.path).map_err(Error::io(&input.label))?;
        file.take(6).read_to_end(&mut start).map_err(Error::io(&input.label))?;
        if start.starts_with(b"versio") && artifact::is_lfs_pointer(&input.path)? {
            return Err(input.fault(None, "a pointer of Git LFS, not the data").with_hint(artifact::LFS_ADVICE));
        }
        Ok(match &start[..] {
            [] => Packing::Empty,
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [b'P', b'A', b'R', b'1', ..] => Packing::Parquet,
            // A stream begins with the length of its schema, marked since Arrow 0.15.
            b"ARROW1" | [0xff, 0xff, 0xff, 0xff, ..] => Packing::Arrow,
            _ => Packing::Plain,
        })
    }

    /// A reader of the decompressed text of a file; `input` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Io`] where the decompression cannot begin.
    pub fn unpacked(self, file: File, input: &Input) -> Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(1 << 18, file);
        Ok(match self {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(Error::io(&input.label))?),
            _ => Box::new(file),
        })
    }
}

/// The fault of a file that holds more text than is read.
fn too_large(input: &Input, line: Option<u64>, limits: Limits) -> Error {
    input
        .fault(line, &format!("more than {} bytes of text", limits.decompressed_bytes))
        .with_hint("raise prepare.ingest.max_decompressed_bytes if the file is meant to be this large")
}

#[cfg(test)]
pub mod tests;
