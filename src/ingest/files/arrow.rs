//! Arrow IPC: the stream format, as Hugging Face `datasets` keeps its caches, and the file format, which
//! is a stream between two magic words and a footer. The file is mapped, and batches point into it.

use std::fs::File;
use std::sync::mpsc::SyncSender;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;

use super::super::Input;
use super::super::names::Names;
use super::guard::guarded;
use super::parquet::none_known;
use crate::error::{Error, Result};

const KIND: &str = "Arrow";
/// The first bytes of an Arrow IPC file; a stream has none.
pub const MAGIC: &[u8] = b"ARROW1";

/// Sends the rows batch by batch, with the number of rows before each, until the end or until the receiver is gone.
///
/// # Errors
/// [`Error::Data`] where the file is damaged or has no known column; [`Error::Io`].
pub fn send(input: &Input, names: &Names, to: &SyncSender<(u64, RecordBatch)>) -> Result<()> {
    let file = File::open(&input.path).map_err(Error::io(&input.label))?;
    // SAFETY: the map is read only. A file that is changed while it is read gives other rows, or stops
    // the process, as for every mapped file.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&input.label))?;
    let size = map.len() as u64;
    let bytes = Buffer::from(bytes::Bytes::from_owner(map));
    let mut before = 0;
    batches(input, bytes, &mut |batch| {
        let schema = batch.schema();
        if batch.num_rows() > 0 && !schema.fields().iter().any(|f| names.knows(f.name())) {
            let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
            return Err(none_known(input, &columns));
        }
        let rows = batch.num_rows() as u64;
        // A row takes a bit at least; columns of nulls could claim any number.
        if rows > size.saturating_mul(8) {
            return Err(input.fault(None, &format!("not a readable {KIND} file: {rows} rows in {size} bytes")));
        }
        let sent = to.send((before, batch));
        before += rows;
        Ok(sent.is_ok())
    })
}

/// Calls `take` with each record batch of a stream or file, until it returns false.
///
/// # Errors
/// [`Error::Data`] where the bytes are damaged; what `take` returns.
pub fn batches(input: &Input, bytes: Buffer, take: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
    let torn = |what: &str| input.fault(None, &format!("not a readable {KIND} file: {what}"));
    let mut stream = if bytes.starts_with(MAGIC) { inside_file(&bytes).map_err(torn)? } else { bytes };
    let mut decoder = StreamDecoder::new();
    while !stream.is_empty() {
        // The first 8 bytes of a message go first: they may end the stream, and what follows then is padding.
        let mut head = stream.slice_with_length(0, stream.len().min(8));
        stream.advance(head.len());
        guarded(input, KIND, || decoder.decode(&mut head))?;
        if decoder.finish().is_ok() {
            break;
        }
        let next = guarded(input, KIND, || decoder.decode(&mut stream))?;
        if let Some(batch) = next
            && !take(batch)?
        {
            return Ok(());
        }
    }
    guarded(input, KIND, || decoder.finish())
}

/// The stream in a file, which lies between the magic word with its padding and the footer.
fn inside_file(bytes: &Buffer) -> Result<Buffer, &'static str> {
    let tail = bytes.len().checked_sub(MAGIC.len() + 4).filter(|at| *at >= MAGIC.len()).ok_or("too short")?;
    if &bytes[tail + 4..] != MAGIC {
        return Err("the end is missing");
    }
    let length = u32::from_le_bytes(bytes[tail..tail + 4].try_into().map_err(|_| "too short")?);
    let end = tail.checked_sub(length as usize).filter(|end| *end >= MAGIC.len());
    let end = end.ok_or("the footer is larger than the file")?;
    let blank = bytes[MAGIC.len()..end].iter().take_while(|byte| **byte == 0).count();
    let start = MAGIC.len() + blank;
    Ok(bytes.slice_with_length(start, end - start))
}
