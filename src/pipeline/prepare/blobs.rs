//! Scratch files: several blobs (frames or bytes) in one file, each with its digest, written once and
//! read one by one. A file is complete or missing, and a damaged blob is an error.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::error::{Error, Result};
use crate::frame;

/// Position and digest of a blob in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub offset: u64,
    pub bytes: u64,
    /// BLAKE3, lower-case hex.
    blake3: String,
}

/// Writes blobs in the given order and returns their positions.
pub fn write(path: &Path, contents: &[Vec<u8>]) -> Result<Vec<Blob>> {
    let mut blobs = Vec::with_capacity(contents.len());
    let mut offset = 0;
    artifact::write_scratch(path, |w| {
        for bytes in contents {
            w.write_all(bytes).map_err(Error::io(path))?;
            let blake3 = blake3::hash(bytes).to_hex().to_string();
            blobs.push(Blob { offset, bytes: bytes.len() as u64, blake3 });
            offset += bytes.len() as u64;
        }
        Ok(())
    })?;
    Ok(blobs)
}

/// Reads one blob.
///
/// # Errors
/// [`Error::Io`]; [`Error::Artifact`] where it is not what was written.
pub fn read(path: &Path, blob: &Blob) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    file.seek(SeekFrom::Start(blob.offset)).map_err(Error::io(path))?;
    let mut bytes = Vec::with_capacity(blob.bytes as usize);
    file.take(blob.bytes).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if blake3::hash(&bytes).to_hex().as_str() != blob.blake3 {
        return Err(damaged(path, "the bytes are not those that were written"));
    }
    Ok(bytes)
}

/// A frame as Arrow IPC.
pub fn from_frame(frame: &DataFrame) -> Result<Vec<u8>> {
    let mut frame = frame.clone();
    for name in frame.get_column_names_owned() {
        if matches!(frame.column(&name)?.dtype(), DataType::List(_)) {
            let compacted = frame::compacted(frame.column(&name)?)?;
            frame.with_column(compacted)?;
        }
    }
    let mut bytes = Vec::new();
    IpcWriter::new(&mut bytes).finish(&mut frame)?;
    Ok(bytes)
}

/// A frame from a blob.
pub fn read_frame(path: &Path, blob: &Blob) -> Result<DataFrame> {
    let bytes = read(path, blob)?;
    IpcReader::new(Cursor::new(bytes)).finish().map_err(|e| damaged(path, &e.to_string()))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::artifact(path, format!("a damaged work file: {what}")).with_hint("remove the folder .work and run again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageColumn, MessageColumnBuilder};

    fn frame(rows: std::ops::Range<usize>) -> DataFrame {
        let mut builder = MessageColumnBuilder::new("prompt", rows.len());
        for i in rows.clone() {
            let long = format!("a text longer than a view holds, number {i}");
            let system = (i % 2 == 0).then_some(("system", "s"));
            builder.push(system.into_iter().chain([("user", long.as_str())]));
        }
        let numbers: Vec<Option<f64>> = rows.clone().map(|i| (i % 3 > 0).then_some(i as f64)).collect();
        let columns = vec![builder.finish().unwrap(), Column::new("score".into(), numbers)];
        DataFrame::new(rows.len(), columns).unwrap()
    }

    #[test]
    fn frames_come_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let whole = frame(0..50);
        // Slices of a frame share its buffers; only the slice itself must be written.
        let parts = [whole.slice(7, 20), whole.take(&IdxCa::from_vec("i".into(), vec![49, 3, 3])).unwrap()];
        let bytes: Vec<Vec<u8>> = parts.iter().map(|p| from_frame(p).unwrap()).collect();
        let whole = from_frame(&frame(0..5000)).unwrap().len();
        let one = from_frame(&frame(0..5000).take(&IdxCa::from_vec("i".into(), vec![7])).unwrap()).unwrap().len();
        assert!(one < 8192 && whole > 200_000, "one row takes {one} bytes, all take {whole}");
        let blobs = write(&path, &bytes).unwrap();
        assert_eq!(read_frame(&path, &blobs[0]).unwrap(), frame(7..27));
        let back = read_frame(&path, &blobs[1]).unwrap();
        let texts = MessageColumn::open(back.column("prompt").unwrap()).unwrap();
        assert_eq!(texts.messages(0)[0].content, "a text longer than a view holds, number 49");
        assert_eq!(texts.messages(2), texts.messages(1));

        let mut damaged = std::fs::read(&path).unwrap();
        let at = blobs[1].offset as usize + 100;
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(read_frame(&path, &blobs[0]).is_ok());
        assert!(read_frame(&path, &blobs[1]).unwrap_err().to_string().contains("damaged work file"));
    }
}
