//! Scalars in TensorBoard's event format: TFRecord framing around `Event` messages.
//!
//! Format: tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto; a record is its length
//! (u64), the masked CRC-32C of the length, the message, and the masked CRC-32C of the message.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::artifact;
use crate::error::{Error, Result};

/// How event files begin; readers look for `tfevents`.
const PREFIX: &str = "events.out.tfevents.";

/// Prepares a folder of event files for a run that goes on after `step`: removes records of later steps, and a record
/// that was cut off, so that every step will be there once. With step 0 all event files are removed.
///
/// # Errors
/// [`Error::Io`].
pub fn rewind(folder: &Path, step: usize) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for path in artifact::entries(folder)? {
        if !artifact::name_of(&path).starts_with(PREFIX) {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let mut kept = Vec::new();
        let mut scalars = 0;
        for (record, message) in records(&bytes) {
            match step_of(message) {
                // The first record of a file says its version and has no step.
                None => kept.extend_from_slice(record),
                Some(at) if at <= step as u64 => {
                    scalars += 1;
                    kept.extend_from_slice(record);
                }
                Some(_) => {}
            }
        }
        if scalars == 0 || step == 0 {
            artifact::remove(&path)?;
        } else if kept.len() < bytes.len() {
            artifact::write_bytes(&path, &kept)?;
        }
    }
    Ok(())
}

/// Whole and undamaged records from the beginning of a file on, each with its message.
fn records(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let head = rest.get(..8)?;
        if word(8)? != masked(head) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(head.try_into().ok()?)).ok()?;
        let end = length.checked_add(16)?;
        let message = rest.get(12..end - 4)?;
        if word(end - 4)? != masked(message) {
            return None;
        }
        let record = &rest[..end];
        rest = &rest[end..];
        Some((record, message))
    })
}

/// The step of one of our messages: `wall_time` first, then the step as a varint, where there is one.
fn step_of(message: &[u8]) -> Option<u64> {
    if *message.get(9)? != 2 << 3 {
        return None;
    }
    let mut step = 0;
    for (i, byte) in message[10..].iter().take(10).enumerate() {
        step |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            return Some(step);
        }
    }
    None
}

/// An event file that scalars are appended to.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates `events.out.tfevents.SECONDS.NANOSECONDS.lpc-pipe` in the folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path) -> Result<EventFile> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // Readers take the files of a folder in the order of their names: nanoseconds first, so that those of a
        // run that was stopped and resumed within a second stand in the order in which they were written.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{PREFIX}{:010}.{:09}.lpc-pipe", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut events = EventFile { path, file };
        let mut first = Vec::new();
        field_f64(&mut first, 1, now.as_secs_f64());
        field_bytes(&mut first, 3, b"brain.Event:2");
        events.record(&first)?;
        Ok(events)
    }

    /// Appends scalars of one step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars<'a>(&mut self, step: i64, values: impl Iterator<Item = (&'a str, f32)>) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            // Summary.Value { tag = 1, simple_value = 2 }
            let mut entry = Vec::new();
            field_bytes(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend_from_slice(&value.to_le_bytes());
            field_bytes(&mut summary, 1, &entry);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Event { wall_time = 1, step = 2, summary = 5 }
        let mut event = Vec::new();
        field_f64(&mut event, 1, now.as_secs_f64());
        event.push(2 << 3);
        varint(&mut event, step as u64);
        field_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, message: &[u8]) -> Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(message.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked(&length).to_le_bytes());
        record.extend_from_slice(message);
        record.extend_from_slice(&masked(message).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path))
    }
}

fn field_f64(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn field_bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// CRC-32C (Castagnoli), rotated and offset as TFRecord wants it.
fn masked(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_standard_example() {
        // CRC-32C("123456789") = 0xE3069283.
        let crc: u32 = 0xE306_9283;
        assert_eq!(masked(b"123456789"), crc.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    #[test]
    fn records_are_framed() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(dir.path()).unwrap();
        events.scalars(300, [("loss", 0.25)].into_iter()).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        assert_eq!(records(&bytes).count(), 2);
        let mut at = 0;
        let mut messages = Vec::new();
        while at < bytes.len() {
            let n = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let crc = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
            assert_eq!(crc, masked(&bytes[at..at + 8]));
            messages.push(bytes[at + 12..at + 12 + n].to_vec());
            at += n + 16;
        }
        assert_eq!(messages.len(), 2);
        assert!(messages[0].ends_with(b"brain.Event:2"));
        // step = 300 as a varint (0xAC 0x02) after tag 0x10, and the float 0.25 at the end.
        assert!(messages[1].windows(3).any(|w| w == [0x10, 0xAC, 0x02]));
        assert!(messages[1].ends_with(&0.25f32.to_le_bytes()));
    }

    #[test]
    fn a_resumed_run_has_every_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let steps = || -> Vec<u64> {
            let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            let all = files.iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>();
            all.iter().flat_map(|bytes| records(bytes)).filter_map(|(_, message)| step_of(message)).collect()
        };
        let write = |range: std::ops::RangeInclusive<i64>| {
            let mut events = EventFile::create(dir.path()).unwrap();
            range.for_each(|step| events.scalars(step, [("loss", 0.5)].into_iter()).unwrap());
            events.path
        };
        let first = write(1..=300);
        // Killed within a record.
        std::fs::OpenOptions::new()
            .append(true)
            .open(&first)
            .unwrap()
            .write_all(&[40, 0, 0, 0, 0, 0, 0, 0, 1])
            .unwrap();
        rewind(dir.path(), 290).unwrap();
        write(291..=295);
        // Again, from before the first stop, in two files.
        rewind(dir.path(), 280).unwrap();
        write(281..=300);
        assert_eq!(steps(), (1..=300).collect::<Vec<_>>());
        // A damaged record ends its file.
        let bytes = std::fs::read(&first).unwrap();
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        std::fs::write(&first, damaged).unwrap();
        rewind(dir.path(), 300).unwrap();
        assert!(steps().len() < 300 && steps().ends_with(&[299, 300]));
        rewind(dir.path(), 0).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        rewind(&dir.path().join("nowhere"), 5).unwrap();
    }
}
