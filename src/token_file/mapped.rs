//! Record batches of an Arrow IPC file that lies in memory, without copies.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer};
use memmap2::Mmap;

use crate::error::{Error, Result};

/// Length of the end of a file: the footer's length and the magic number.
const TRAILER: usize = 10;

/// Tokens after which pages are given back: 64 MiB of ids.
const KEPT: usize = 1 << 24;

/// Tokens that were looked at.
static SEEN: AtomicUsize = AtomicUsize::new(0);
/// Files that are mapped.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// Says that so many tokens were looked at. From time to time the pages of mapped files are given back to the system's
/// cache, from which they come again when they are looked at: the process stays small whatever the files' size.
pub fn visited(tokens: usize) {
    let before = SEEN.fetch_add(tokens, Ordering::Relaxed);
    if before / KEPT != before.wrapping_add(tokens) / KEPT {
        give_back();
    }
}

fn give_back() {
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|map| map.strong_count() > 0);
    #[cfg(unix)]
    for map in maps.iter().filter_map(Weak::upgrade) {
        // SAFETY: the map is of a file and nobody writes to it, so that a page that is looked at again has the file's bytes.
        // Where the system refuses, the pages stay.
        let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

/// A file as a buffer. Its pages are read when they are looked at, and [`visited`] gives them back.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn map(path: &Path) -> Result<Buffer> {
    let file = File::open(path).map_err(Error::io(path))?;
    if file.metadata().map_err(Error::io(path))?.len() == 0 {
        return Ok(Buffer::from(&[]));
    }
    // SAFETY: nothing here writes to the map, and this program replaces token files only as a whole, by renaming.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(Error::io(path))?);
    MAPS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&map));
    let (start, len) = (NonNull::from(&map[..]).cast(), map.len());
    // SAFETY: the map holds these bytes as long as the buffer holds the map.
    Ok(unsafe { Buffer::from_custom_allocation(start, len, map) })
}

/// The record batches of a file. Their arrays are parts of the buffer.
///
/// # Errors
/// Where the buffer is not an Arrow IPC file, or has dictionaries, which token files have not.
pub(super) fn batches(
    file: &Buffer,
) -> std::result::Result<impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + use<'_>, ArrowError> {
    let cut = || ArrowError::IpcError("it is cut short".into());
    let trailer = file.len().checked_sub(TRAILER).ok_or_else(cut)?;
    let length = read_footer_length(file[trailer..].try_into().map_err(|_| cut())?)?;
    let footer = &file[trailer.checked_sub(length).ok_or_else(cut)?..trailer];
    let footer = root_as_footer(footer).map_err(|e| ArrowError::IpcError(format!("its footer: {e}")))?;
    if footer.dictionaries().is_some_and(|d| !d.is_empty()) {
        return Err(ArrowError::IpcError("it has dictionaries".into()));
    }
    let schema = footer.schema().ok_or_else(|| ArrowError::IpcError("its footer has no schema".into()))?;
    let decoder = FileDecoder::new(Arc::new(try_fb_to_schema(schema)?), footer.version());
    let blocks: Vec<Block> = footer.recordBatches().iter().flatten().copied().collect();
    Ok(blocks.into_iter().map(move |block| {
        let number = |n: i64| usize::try_from(n).map_err(|_| ArrowError::IpcError(format!("a length of {n} bytes")));
        let start = number(block.offset())?;
        let meta = number(i64::from(block.metaDataLength()))?;
        let len = meta.checked_add(number(block.bodyLength())?).ok_or_else(cut)?;
        if start.checked_add(len).is_none_or(|end| end > trailer) {
            return Err(cut());
        }
        let batch = decoder.read_record_batch(&block, &file.slice_with_length(start, len))?;
        batch.ok_or_else(|| ArrowError::IpcError("a block is not a record batch".into()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_given_back_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let buffer = map(&path).unwrap();
        assert!(buffer.as_slice() == bytes);
        for _ in 0..3 {
            visited(KEPT);
            assert!(buffer.as_slice() == bytes);
        }
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        assert!(map(&dir.path().join("empty")).unwrap().is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1u8; 64 << 20]).unwrap();
        let buffer = map(&path).unwrap();
        let resident = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let name = path.to_str().unwrap();
            let of = maps.lines().skip_while(|line| !line.ends_with(name)).find(|line| line.starts_with("Rss:"));
            of.unwrap().split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(buffer.iter().map(|&b| usize::from(b)).sum::<usize>(), 64 << 20);
        assert!(resident() > 60 << 10);
        give_back();
        assert!(resident() < 4 << 10, "{} KiB", resident());
    }
}
