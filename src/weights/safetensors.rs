//! Safetensors files: written one tensor after the other, with no more than one tensor's copy in memory, and read.
//!
//! # Source
//! The format of the safetensors project: eight bytes with the length of the header, the header as JSON, the numbers.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use serde_json::{Map, Value, json};

use crate::artifact;
use crate::error::{Error, Result};
use crate::nn::Real;

/// The mark without which transformers refuses a file.
pub const PYTORCH: (&str, &str) = ("format", "pt");

/// One tensor of a file that is being written.
#[derive(Debug)]
pub struct TensorEntry<'a> {
    name: String,
    kind: DType,
    shape: Vec<usize>,
    numbers: Numbers<'a>,
}

#[derive(Debug)]
enum Numbers<'a> {
    Tensor(&'a Tensor),
    Bytes(&'a [u8]),
}

impl<'a> TensorEntry<'a> {
    /// A tensor of any device, under a name; its numbers are converted to `kind` on the way (`None`: as they are).
    pub fn tensor(name: impl Into<String>, tensor: &'a Tensor, kind: Option<DType>) -> TensorEntry<'a> {
        let (kind, shape) = (kind.unwrap_or(tensor.dtype()), tensor.dims().to_vec());
        TensorEntry { name: name.into(), kind, shape, numbers: Numbers::Tensor(tensor) }
    }

    /// Numbers that are no tensor, of the given shape, under a name.
    pub fn slice<T: Real>(name: impl Into<String>, shape: &[usize], values: &'a [T]) -> TensorEntry<'a> {
        let numbers = Numbers::Bytes(bytemuck::cast_slice(values));
        TensorEntry { name: name.into(), kind: T::KIND, shape: shape.to_vec(), numbers }
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of the numbers in the file.
    pub fn kind(&self) -> DType {
        self.kind
    }

    /// Size of the numbers in the file, in bytes.
    pub fn bytes(&self) -> u64 {
        size(self.kind, &self.shape)
    }

    fn write(&self, path: &Path, w: &mut dyn Write) -> Result<()> {
        let mut put = |bytes: &[u8]| w.write_all(bytes).map_err(Error::io(path));
        match self.numbers {
            Numbers::Tensor(tensor) => with_bytes(&tensor.to_dtype(self.kind)?, put)?,
            Numbers::Bytes(bytes) => put(bytes),
        }
    }
}

/// Bytes that numbers of this type and shape take.
pub fn size(kind: DType, shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64 * kind.size_in_bytes() as u64
}

fn unsupported(kind: DType) -> Error {
    Error::run(format!("numbers of type {} are not written", kind.as_str()))
}

/// A type's name in safetensors files.
fn kind_name(kind: DType) -> Result<&'static str> {
    match kind {
        DType::F64 => Ok("F64"),
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        DType::I64 => Ok("I64"),
        other => Err(unsupported(other)),
    }
}

/// Calls `f` with a tensor's bytes, row-major. This machine's byte order is the file's: both are little-endian.
fn with_bytes<R>(tensor: &Tensor, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let tensor = tensor.detach().to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::run("a tensor that was copied to memory is not there"));
    };
    let bytes: &[u8] = match storage {
        CpuStorage::F64(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::F32(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::F16(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::BF16(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::I64(values) => bytemuck::cast_slice(&values[start..end]),
        _ => return Err(unsupported(tensor.dtype())),
    };
    Ok(f(bytes))
}

/// What stands before the numbers in a file of these tensors (name, type, shape): the header and its length.
///
/// # Errors
/// [`Error::Run`] for a type that is not written.
pub fn head<'a>(
    metadata: &[(&str, &str)],
    tensors: impl IntoIterator<Item = (&'a str, DType, &'a [usize])>,
) -> Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let metadata: Map<String, Value> = metadata.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
        header.insert("__metadata__".into(), metadata.into());
    }
    let mut start = 0;
    for (name, kind, shape) in tensors {
        let end = start + size(kind, shape);
        let about = json!({"dtype": kind_name(kind)?, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.into(), about);
        start = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Readers map the file: the numbers begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

fn put(w: &mut dyn Write, path: &Path, metadata: &[(&str, &str)], entries: &[&TensorEntry<'_>]) -> Result<()> {
    let head = head(metadata, entries.iter().map(|e| (e.name.as_str(), e.kind, e.shape.as_slice())))?;
    w.write_all(&head).map_err(Error::io(path))?;
    entries.iter().try_for_each(|entry| entry.write(path, w))
}

/// Writes tensors, in their order, as one file, atomically.
///
/// # Errors
/// [`Error::Io`]; [`Error::Run`] for a type that is not written.
pub fn write(path: &Path, metadata: &[(&str, &str)], entries: &[TensorEntry<'_>]) -> Result<()> {
    let entries: Vec<&TensorEntry<'_>> = entries.iter().collect();
    artifact::write(path, |w| put(w, path, metadata, &entries))
}

/// Writes tensors, sorted by name and without metadata, as one file, atomically, and returns the file's BLAKE3
/// (lower-case hex).
///
/// # Errors
/// As [`write()`].
pub fn write_hashed(path: &Path, entries: &[TensorEntry<'_>]) -> Result<String> {
    let mut sorted: Vec<&TensorEntry<'_>> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = String::new();
    artifact::write(path, |inner| {
        let mut w = Hashing { inner, hasher: blake3::Hasher::new() };
        put(&mut w, path, &[], &sorted)?;
        hash = w.hasher.finalize().to_hex().to_string();
        Ok(())
    })?;
    Ok(hash)
}

/// Writes through, and hashes what went through.
struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads all tensors of a file into memory.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| Error::artifact(path, format!("not a readable safetensors file: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_readers_understand_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let a = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        let b = Tensor::new(&[1.5f64, -2.0], &Device::Cpu).unwrap();
        let (c, t) = (a.to_dtype(DType::BF16).unwrap(), a.t().unwrap());
        let mut entries: Vec<TensorEntry<'_>> = [("b", &b), ("a", &a), ("c", &c), ("t", &t)]
            .map(|(name, tensor)| TensorEntry::tensor(name, tensor, None))
            .into();
        entries.push(TensorEntry::slice("s", &[1, 2], &[7f32, 8.0]));
        let hash = write_hashed(&path, &entries).unwrap();
        assert_eq!(hash, artifact::hash_file(&path).unwrap().1);
        let found = read(&path).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found["s"].to_vec2::<f32>().unwrap(), [[7.0, 8.0]]);
        assert_eq!(found["a"].to_vec2::<f32>().unwrap(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert_eq!(found["t"].to_vec2::<f32>().unwrap(), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert_eq!(found["b"].to_vec1::<f64>().unwrap(), [1.5, -2.0]);
        assert_eq!(found["c"].dtype(), DType::BF16);
        // Converted on the way, with metadata.
        write(&path, &[PYTORCH, ("k", "v")], &[TensorEntry::tensor("b", &b, Some(DType::F16))]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (_, about) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(about.metadata().as_ref().unwrap()["k"], "v");
        assert_eq!(read(&path).unwrap()["b"].to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn the_bytes_are_those_of_the_format_s_own_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let ids = Tensor::new(&[3i64, 5], &Device::Cpu).unwrap();
        let a = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        // The library sorts by size of the numbers, then by name.
        let tensors = [("z", &ids), ("a", &a), ("b", &a)];
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let wanted = ::safetensors::serialize(tensors, Some(metadata)).unwrap();
        write(&path, &[PYTORCH], &tensors.map(|(name, t)| TensorEntry::tensor(name, t, None))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), wanted);
    }
}
