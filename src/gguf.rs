//! GGUF files, mapped: metadata, the list of tensors, and each tensor's bytes. Versions 2 and 3, little-endian.
//!
//! # Source
//! The GGUF specification of the ggml project (`docs/gguf.md`). candle's reader fails as a whole where one tensor is of
//! a type that candle does not compute with; this one lists such tensors, so that errors can name them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub use candle_core::quantized::gguf_file::Value;

use crate::error::{Error, Result};

/// Alignment of the tensors' bytes where a file does not say another one.
const ALIGNMENT: u64 = 32;
/// Deepest list of lists; a deeper one would exhaust the stack.
const DEPTH: u8 = 8;
/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// A tensor in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Shape, outermost dimension first (the file has it innermost first).
    pub shape: Vec<usize>,
    /// Number of ggml's type.
    pub kind: u32,
    /// First byte, counted from the beginning of the file.
    pub start: u64,
}

/// An open file.
#[derive(Debug)]
pub struct Gguf {
    map: memmap2::Mmap,
    /// Metadata.
    pub metadata: HashMap<String, Value>,
    /// Tensors, in the order of the file; no two of one name.
    pub tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Maps a file and reads its head.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Model`] where it is damaged.
    pub fn open(path: &Path) -> Result<Gguf> {
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        // SAFETY: nothing here writes to the map. Another program that changes the file meanwhile can make numbers
        // wrong, as for every memory-mapped reader; offsets are checked against the length.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        let (metadata, tensors) =
            parse(&map).map_err(|e| Error::model(path.display().to_string(), format!("not a sound GGUF file: {e}")))?;
        Ok(Gguf { map, metadata, tensors })
    }

    /// `len` bytes of the file from `start` on; `None` where it is shorter.
    pub fn bytes(&self, start: u64, len: u64) -> Option<&[u8]> {
        let range: Range<usize> = start.try_into().ok()?..start.checked_add(len)?.try_into().ok()?;
        self.map.get(range)
    }
}

type Parsed = (HashMap<String, Value>, Vec<TensorInfo>);

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut head = Cursor { bytes, at: 0 };
    if head.take(4)? != b"GGUF" {
        return Err("it does not begin with GGUF".into());
    }
    let version = head.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("version {version}; 2 and 3 are read"));
    }
    let (tensors, entries) = (head.u64()?, head.u64()?);
    let mut metadata = HashMap::new();
    for _ in 0..entries {
        let key = head.text()?;
        let kind = head.u32()?;
        let value = head.value(kind, 0).map_err(|e| format!("{key}: {e}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("two values for {key}"));
        }
    }
    let mut list: Vec<TensorInfo> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for _ in 0..tensors {
        let tensor = head.tensor()?;
        if !names.insert(tensor.name.clone()) {
            return Err(format!("two tensors named {}", tensor.name));
        }
        list.push(tensor);
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(Value::U32(n)) if n.is_power_of_two() => u64::from(*n),
        Some(other) => return Err(format!("general.alignment: expected a power of two, got {other:?}")),
    };
    let data = (head.at as u64).next_multiple_of(alignment);
    for tensor in &mut list {
        tensor.start =
            data.checked_add(tensor.start).ok_or_else(|| format!("tensor {}: no such offset", tensor.name))?;
    }
    Ok((metadata, list))
}

/// A position in the head; it never passes the end, whatever lengths the file claims.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        if n > left as u64 {
            return Err(format!("{n} bytes wanted where {left} are left"));
        }
        let taken = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let text = self.take(length)?;
        // Some writers end texts with a zero byte, and vocabularies hold bytes that are not UTF-8.
        let end = text.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u8) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(format!("{other} is not a truth value")),
            },
            8 => Value::String(self.text()?),
            9 if depth < DEPTH => {
                let inner = self.u32()?;
                let length = self.u64()?;
                // Grows with what is read: a damaged length must not reserve memory.
                let mut items = Vec::new();
                for _ in 0..length {
                    items.push(self.value(inner, depth + 1)?);
                }
                Value::Array(items)
            }
            9 => return Err("lists within lists within lists".into()),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of type {other}")),
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, String> {
        let name = self.text()?;
        let n = self.u32()?;
        if n > DIMENSIONS {
            return Err(format!("tensor {name}: {n} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..n {
            let size = self.u64()?;
            shape.push(usize::try_from(size).map_err(|_| format!("tensor {name}: a size of {size}"))?);
        }
        shape.reverse();
        Ok(TensorInfo { kind: self.u32()?, start: self.u64()?, name, shape })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor as Bytes;

    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};

    use super::*;

    fn file(metadata: &[(&str, &Value)]) -> Vec<u8> {
        let tensor = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap().reshape((2, 32)).unwrap();
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        let mut out = Bytes::new(Vec::new());
        gguf_file::write(&mut out, metadata, &[("a.weight", &tensor)]).unwrap();
        out.into_inner()
    }

    fn open(bytes: &[u8]) -> Result<Gguf> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Gguf::open(file.path())
    }

    #[test]
    fn a_file_written_by_another_hand_is_read() {
        let list = Value::Array(vec![Value::String("x".into()), Value::String("y".into())]);
        let found = open(&file(&[("n", &Value::U32(7)), ("list", &list), ("f", &Value::F32(0.5))])).unwrap();
        assert!(matches!(found.metadata["n"], Value::U32(7)) && matches!(found.metadata["f"], Value::F32(0.5)));
        let Value::Array(items) = &found.metadata["list"] else { panic!("{:?}", found.metadata) };
        assert!(matches!(&items[1], Value::String(s) if s == "y"));
        let tensor = &found.tensors[0];
        assert_eq!((tensor.name.as_str(), tensor.shape.as_slice(), tensor.kind), ("a.weight", &[2, 32][..], 0));
        let last = found.bytes(tensor.start + 63 * 4, 4).unwrap();
        assert_eq!(f32::from_le_bytes(last.try_into().unwrap()), 63.0);
        assert!(found.bytes(tensor.start, 10_000).is_none() && found.bytes(u64::MAX, 2).is_none());
    }

    #[test]
    fn damaged_heads_are_refused() {
        let whole = file(&[("general.name", &Value::String("x".into()))]);
        for cut in 0..whole.len() - 64 * 4 {
            let error = open(&whole[..cut]).map(|found| found.bytes(found.tensors[0].start, 256).is_some());
            assert!(!error.unwrap_or(false), "{cut} bytes");
        }
        // No value of a single byte makes the parser panic.
        for at in 0..whole.len() - 64 * 4 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let _ = parse(&bytes);
            }
        }
        for (alignment, fine) in [(0, false), (3, false), (1, true), (64, true)] {
            assert_eq!(open(&file(&[("general.alignment", &Value::U32(alignment))])).is_ok(), fine, "{alignment}");
        }
        let twice = file(&[("k", &Value::U8(1)), ("k", &Value::U8(2))]);
        assert!(open(&twice).unwrap_err().to_string().contains("two values for k"));
        let mut old = whole;
        old[4] = 1;
        assert!(open(&old).unwrap_err().to_string().contains("version 1"));
    }
}
