//! Tensors as bytes: written to a safetensors file one after the other, and hashed in parallel.
//!
//! A checkpoint is as large as weights and moments together; nothing here holds more than one tensor's copy.

use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::artifact;
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::nn::real::with_slice;

/// Bytes hashed by one task.
const PER_TASK: usize = 8 << 20;

/// Numbers of a slice as they lie in memory.
fn bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: only called with plain numbers, which have no padding and no invalid bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), std::mem::size_of_val(values)) }
}

/// Calls `f` with a tensor's bytes (little-endian, row-major).
///
/// # Errors
/// [`Error::Tensor`]; [`Error::Run`] for a type that is no floating-point number of ours.
pub fn with_bytes<R>(tensor: &Tensor, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let tensor = tensor.detach();
    let tensor = if tensor.device().is_cpu() { tensor } else { tensor.to_device(&Device::Cpu)? };
    let tensor = if tensor.is_contiguous() { tensor } else { tensor.contiguous()? };
    match tensor.dtype() {
        DType::F32 => with_slice::<f32, R>(&tensor, |v| f(bytes(v))),
        DType::F64 => with_slice::<f64, R>(&tensor, |v| f(bytes(v))),
        DType::BF16 => Ok(f(bytes(&tensor.flatten_all()?.to_vec1::<half::bf16>()?))),
        DType::F16 => Ok(f(bytes(&tensor.flatten_all()?.to_vec1::<half::f16>()?))),
        other => Err(Error::run(format!("tensors of type {} are not written", other.as_str()))),
    }
}

/// The type as safetensors names it, and the size of one number.
fn kind(dtype: DType) -> Result<(&'static str, usize)> {
    match dtype {
        DType::F32 => Ok(("F32", 4)),
        DType::F64 => Ok(("F64", 8)),
        DType::BF16 => Ok(("BF16", 2)),
        DType::F16 => Ok(("F16", 2)),
        other => Err(Error::run(format!("tensors of type {} are not written", other.as_str()))),
    }
}

/// BLAKE3 of bytes, cut into pieces that are hashed side by side: the hash of the pieces' hashes.
fn hash_pieces(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let pieces: Vec<blake3::Hash> = bytes.par_chunks(PER_TASK).map(blake3::hash).collect();
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    for piece in pieces {
        hasher.update(piece.as_bytes());
    }
}

/// Adds a tensor's name, type, shape and content to a hash.
///
/// # Errors
/// As [`with_bytes`].
pub fn hash_tensor(hasher: &mut blake3::Hasher, name: &str, tensor: &Tensor) -> Result<()> {
    hasher.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims()).as_bytes());
    with_bytes(tensor, |bytes| hash_pieces(hasher, bytes))
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

/// One tensor of a file that is being written.
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// Type, as safetensors names it.
    kind: &'static str,
    shape: Vec<usize>,
    size: usize,
    numbers: Numbers<'a>,
}

enum Numbers<'a> {
    Tensor(&'a Tensor),
    Bytes(&'a [u8]),
}

impl<'a> Entry<'a> {
    /// A tensor under a name.
    ///
    /// # Errors
    /// As [`with_bytes`].
    pub fn tensor(name: impl Into<String>, tensor: &'a Tensor) -> Result<Entry<'a>> {
        let (kind, size) = kind(tensor.dtype())?;
        let (shape, size) = (tensor.dims().to_vec(), size * tensor.elem_count());
        Ok(Entry { name: name.into(), kind, shape, size, numbers: Numbers::Tensor(tensor) })
    }

    /// Numbers that are no tensor, of the given shape, under a name.
    ///
    /// # Errors
    /// As [`with_bytes`].
    pub fn slice<T: Real>(name: impl Into<String>, shape: &[usize], values: &'a [T]) -> Result<Entry<'a>> {
        let bytes = bytes(values);
        let numbers = Numbers::Bytes(bytes);
        Ok(Entry { name: name.into(), kind: kind(T::KIND)?.0, shape: shape.to_vec(), size: bytes.len(), numbers })
    }
}

/// Writes a safetensors file, atomically, and gives its BLAKE3 (lower-case hex).
///
/// # Errors
/// [`Error::Io`]; as [`with_bytes`].
pub fn write_safetensors(path: &Path, entries: &[Entry<'_>]) -> Result<String> {
    let mut sorted: Vec<&Entry<'_>> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for entry in &sorted {
        let end = at + entry.size;
        let about = serde_json::json!({"dtype": entry.kind, "shape": entry.shape, "data_offsets": [at, end]});
        header.insert(entry.name.clone(), about);
        at = end;
    }
    let mut head = serde_json::to_vec(&header)?;
    // The data begin at a multiple of 8.
    head.resize(head.len().next_multiple_of(8), b' ');
    let mut hash = String::new();
    artifact::write(path, |w| {
        let mut w = Hashing { inner: w, hasher: blake3::Hasher::new() };
        let mut put = |bytes: &[u8]| w.write_all(bytes).map_err(Error::io(path));
        put(&(head.len() as u64).to_le_bytes())?;
        put(&head)?;
        for entry in &sorted {
            match entry.numbers {
                Numbers::Tensor(tensor) => with_bytes(tensor, &mut put)??,
                Numbers::Bytes(bytes) => put(bytes)?,
            }
        }
        hash = w.hasher.finalize().to_hex().to_string();
        Ok(())
    })?;
    Ok(hash)
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
        let c = a.to_dtype(DType::BF16).unwrap();
        let entries = [("b", &b), ("a", &a), ("c", &c), ("t", &a.t().unwrap())]
            .map(|(name, tensor)| (name.to_string(), tensor.clone()));
        let mut entries: Vec<Entry<'_>> =
            entries.iter().map(|(name, tensor)| Entry::tensor(name, tensor).unwrap()).collect();
        entries.push(Entry::slice("s", &[1, 2], &[7f32, 8.0]).unwrap());
        let hash = write_safetensors(&path, &entries).unwrap();
        assert_eq!(hash, artifact::hash_file(&path).unwrap().1);
        let read = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(read.len(), 5);
        assert_eq!(read["s"].to_vec2::<f32>().unwrap(), [[7.0, 8.0]]);
        assert_eq!(read["a"].to_vec2::<f32>().unwrap(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert_eq!(read["t"].to_vec2::<f32>().unwrap(), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert_eq!(read["b"].to_vec1::<f64>().unwrap(), [1.5, -2.0]);
        assert_eq!(read["c"].dtype(), DType::BF16);
    }

    #[test]
    fn a_hash_tells_names_types_shapes_and_numbers_apart() {
        let of = |name: &str, tensor: &Tensor| {
            let mut hasher = blake3::Hasher::new();
            hash_tensor(&mut hasher, name, tensor).unwrap();
            hasher.finalize()
        };
        let a = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap();
        let others = [
            of("b", &a),
            of("a", &a.reshape((2, 3)).unwrap()),
            of("a", &a.to_dtype(DType::F64).unwrap()),
            of("a", &(&a + 1.0).unwrap()),
        ];
        assert_eq!(of("a", &a), of("a", &a.copy().unwrap()));
        assert!(others.iter().all(|other| *other != of("a", &a)));
    }
}
