//! The head of a GGUF file: metadata and tensor list, versions 2 and 3.
//!
//! # Source
//! The GGUF specification of the ggml project (`docs/gguf.md`).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::formats::damaged;
use super::{Field, Inspection, shortened};
use crate::error::{Error, Result};

/// Longest text that is kept; longer ones (templates) are cut.
const MAX_TEXT: u64 = 4096;
/// Items of a list that are shown.
const MAX_ITEMS: u64 = 8;

/// Reads the head of a file, without the data of its tensors.
pub(super) fn read(path: &Path) -> Result<Inspection> {
    let handle = File::open(path).map_err(Error::io(path))?;
    let left = handle.metadata().map_err(Error::io(path))?.len();
    let mut head = Head { reader: BufReader::new(handle), left };
    head.inspect().map_err(|message| damaged(path, format!("not a readable GGUF file: {message}")))
}

/// A reader of the head that checks every length in it against the bytes that are left.
struct Head<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Head<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut buffer = [0u8; N];
        self.reader.read_exact(&mut buffer).map_err(|e| e.to_string())?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(buffer)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn skip(&mut self, n: u64) -> Result<(), String> {
        if n > self.left {
            return Err(format!("a length of {n} bytes where {} are left", self.left));
        }
        let skipped =
            std::io::copy(&mut self.reader.by_ref().take(n), &mut std::io::sink()).map_err(|e| e.to_string())?;
        self.left -= n;
        if skipped == n { Ok(()) } else { Err("the file ends early".into()) }
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > self.left {
            return Err(format!("a text of {length} bytes where {} are left", self.left));
        }
        let mut buffer = Vec::new();
        let kept = length.min(MAX_TEXT);
        self.reader.by_ref().take(kept).read_to_end(&mut buffer).map_err(|e| e.to_string())?;
        self.left -= kept;
        self.skip(length - kept)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u8) -> Result<Value, String> {
        Ok(match kind {
            0 => self.bytes::<1>()?[0].into(),
            1 => (self.bytes::<1>()?[0] as i8).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            6 => f64::from(f32::from_le_bytes(self.bytes()?)).into(),
            7 => (self.bytes::<1>()?[0] != 0).into(),
            8 => shortened(&self.text()?).into(),
            9 if depth < 4 => {
                let (kind, n) = (self.u32()?, self.u64()?);
                let mut items = Vec::new();
                for i in 0..n {
                    let item = self.value(kind, depth + 1)?;
                    if i < MAX_ITEMS {
                        items.push(item);
                    }
                }
                let more = if n > MAX_ITEMS { ", ..." } else { "" };
                let items: Vec<String> = items.iter().map(Value::to_string).collect();
                shortened(&format!("{n} items: {}{more}", items.join(", "))).into()
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            12 => f64::from_le_bytes(self.bytes()?).into(),
            other => return Err(format!("a value of unknown type {other}")),
        })
    }

    fn inspect(&mut self) -> Result<Inspection, String> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err("it does not begin with GGUF".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version}; known are 2 and 3"));
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        let mut found = Inspection::default();
        found.facts.insert("version".into(), version.into());
        found.facts.insert("tensors".into(), tensors.into());
        for _ in 0..pairs {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0)?;
            found.facts.insert(shortened(&key), value);
        }
        let mut parameters = 0u128;
        for _ in 0..tensors {
            let name = self.text()?;
            let n = self.u32()?;
            if n > 8 {
                return Err(format!("a tensor of {n} dimensions"));
            }
            let shape = (0..n).map(|_| self.u64()).collect::<Result<Vec<u64>, String>>()?;
            let kind = self.u32()?;
            self.u64()?;
            parameters = parameters.saturating_add(shape.iter().fold(1u128, |p, d| p.saturating_mul(u128::from(*d))));
            found.fields.push(Field { name, kind: format!("{} {shape:?}", type_name(kind)) });
        }
        found.facts.insert("parameters".into(), u64::try_from(parameters).unwrap_or(u64::MAX).into());
        Ok(found)
    }
}

/// The name of a tensor type. In the list, "" marks a number without a name.
fn type_name(kind: u32) -> String {
    const NAMES: [&str; 31] = [
        "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
        "Q8_K", "", "", "", "", "", "", "", "", "", "", "", "", "F64", "", "BF16",
    ];
    match NAMES.get(kind as usize) {
        Some(&name) if !name.is_empty() => name.into(),
        _ => format!("type {kind}"),
    }
}
