//! Tensors of a checkpoint: listed first, checked against what the model wants, then converted one at a time.
//!
//! Safetensors files are mapped, never read as a whole; each tensor goes from the map straight into the
//! parameter, so that loading needs the memory of the parameters and no more.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use candle_core::Device;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::config::LlamaConfig;
use super::decoder::names;
use super::load::shapes;
use super::params::{Group, Param};
use crate::error::{Error, Result};
use crate::nn::Real;

/// Faults that one error names.
const SHOWN: usize = 8;

/// Numbers that one task converts.
const PER_TASK: usize = 1 << 16;

/// A checkpoint's tensors, under the names of Hugging Face.
pub(super) trait Checkpoint {
    /// Names and shapes of all tensors.
    fn tensors(&self) -> BTreeMap<String, Vec<usize>>;

    /// The numbers of one of them.
    fn read<T: Real>(&self, name: &str) -> Result<Vec<T>>;
}

/// Turns a checkpoint's tensors into parameters: every expected one, none left over.
///
/// # Errors
/// [`Error::Model`] listing what is missing, unexpected, or of another shape, before anything is converted.
pub(super) fn assemble<T: Real>(
    config: &LlamaConfig,
    checkpoint: &impl Checkpoint,
    origin: &str,
) -> Result<Vec<Param>> {
    let mut found = checkpoint.tensors();
    let wanted = shapes(config);
    if let Some(error) = wrapped(&wanted, &found, origin) {
        return Err(error);
    }
    // Of two tied matrices some programs store the head alone.
    let under_head = config.tie_word_embeddings && !found.contains_key(names::EMBEDDING);
    if under_head && let Some(head) = found.remove(names::HEAD) {
        found.insert(names::EMBEDDING.into(), head);
    }
    let mut faults = Vec::new();
    for (name, shape) in &wanted {
        match found.remove(name) {
            None => faults.push(format!("missing tensor {name}")),
            Some(dims) if dims != *shape => {
                faults.push(format!("tensor {name}: expected shape {shape:?}, got {dims:?}"));
            }
            Some(_) => (),
        }
    }
    // Rotary tables that old checkpoints carry follow from the configuration.
    found.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    let copy_of_head = config.tie_word_embeddings && found.remove(names::HEAD).is_some();
    faults.extend(found.into_keys().map(|name| format!("unexpected tensor {name}")));
    if !faults.is_empty() {
        return Err(refusal(faults, config, origin));
    }
    let params = wanted
        .into_iter()
        .map(|(name, shape)| {
            let stored = if under_head && name == names::EMBEDDING { names::HEAD } else { &name };
            let values = checkpoint.read::<T>(stored)?;
            finite(origin, stored, &values)?;
            param(name, values, shape)
        })
        .collect::<Result<Vec<Param>>>()?;
    if copy_of_head {
        same_head::<T>(&params, checkpoint, origin)?;
    }
    Ok(params)
}

fn refusal(mut faults: Vec<String>, config: &LlamaConfig, origin: &str) -> Error {
    let headless = !config.tie_word_embeddings && faults.iter().any(|f| f.ends_with(names::HEAD));
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    let error = Error::model(origin, faults.join("; ") + &tail);
    if headless {
        return error.with_hint("where the head is the embedding, config.json says \"tie_word_embeddings\": true");
    }
    error
}

/// What wraps a model puts a part of its own into the names of tensors: the part, what puts it there, and how the model
/// inside is reached.
const WRAPPERS: [(&str, &str, &str); 3] = [
    ("_orig_mod", "torch.compile", "model._orig_mod"),
    ("module", "DistributedDataParallel", "model.module"),
    (
        "_fsdp_wrapped_module",
        "FullyShardedDataParallel",
        "the state dict that FSDP gathers; for one process: model.module",
    ),
];

/// The refusal of a checkpoint that was saved from such a wrapper.
fn wrapped(wanted: &[(String, Vec<usize>)], found: &BTreeMap<String, Vec<usize>>, origin: &str) -> Option<Error> {
    let own = |part: &&str| WRAPPERS.iter().all(|(wrapper, ..)| wrapper != part);
    let (name, bare) = found.keys().find_map(|name| {
        let bare = name.split('.').filter(own).collect::<Vec<_>>().join(".");
        (bare != *name && wanted.iter().any(|(wanted, _)| *wanted == bare)).then_some((name, bare))
    })?;
    let there: Vec<_> = WRAPPERS.iter().filter(|(part, ..)| name.split('.').any(|p| p == *part)).collect();
    let parts: Vec<String> = there.iter().map(|(part, by, _)| format!("`{part}.` of {by}")).collect();
    let inside = there.first().map_or("model", |(.., inside)| inside);
    let message = format!("tensor names carry {}: {name} is {bare} in a model saved by itself", parts.join(" and "));
    let file = Path::new(origin).join("model.safetensors");
    let mut hint = format!("save the model inside: {inside}.save_pretrained(DIR)");
    if file.is_file() {
        let strip: String = there.iter().map(|(part, ..)| format!(".replace('{part}.', '')")).collect();
        hint += &format!(
            "; or rename the tensors in the file:\n  python -c \"from safetensors.torch import load_file, save_file; \
             f = '{}'; save_file({{k{strip}: v for k, v in load_file(f).items()}}, f, {{'format': 'pt'}})\"",
            file.display()
        );
    }
    Some(Error::model(origin, message).with_hint(hint))
}

/// Refuses numbers that are none, before anything is computed with them: one pass in parallel over what was just read.
///
/// # Errors
/// [`Error::Model`] naming the tensor.
pub(super) fn finite<T: Real>(origin: &str, name: &str, values: &[T]) -> Result<()> {
    let count = |part: &[T]| part.iter().filter(|x| !x.is_finite()).count();
    let faulty: usize = values.par_chunks(PER_TASK).map(count).sum();
    if faulty == 0 {
        return Ok(());
    }
    let bits = 8 * size_of::<T>();
    let what = format!("not finite: NaN, infinite, or too large for {bits} bits");
    Err(Error::model(origin, format!("tensor {name}: {faulty} of {} numbers are {what}", values.len()))
        .with_hint("its file is damaged, or its training diverged: fetch it again, or take an earlier checkpoint"))
}

/// Refuses a tensor in memory with a value that is not finite.
///
/// # Errors
/// [`Error::Model`] naming the tensor.
pub fn finite_tensor(origin: &str, name: &str, tensor: &candle_core::Tensor) -> Result<()> {
    let wide = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?;
    crate::nn::real::with_slice::<f32, _>(&wide.contiguous()?, |values| finite(origin, name, values))?
}

/// Some checkpoints carry the tied head once more. A head that differs is another model than config.json says.
fn same_head<T: Real>(params: &[Param], checkpoint: &impl Checkpoint, origin: &str) -> Result<()> {
    let head = checkpoint.read::<T>(names::HEAD)?;
    let embedding = params.iter().find(|p| p.name == names::EMBEDDING);
    let same = match embedding {
        Some(p) => crate::nn::real::with_slice::<T, _>(p.var.as_tensor(), |e| e == head.as_slice())?,
        None => false,
    };
    if same {
        return Ok(());
    }
    Err(Error::model(origin, format!("{} differs from the embedding, but the configuration ties them", names::HEAD))
        .with_hint(
            "set \"tie_word_embeddings\": false in config.json to use both, or remove the one that is not meant",
        ))
}

/// A trainable backbone parameter.
pub(super) fn param<T: Real>(name: String, values: Vec<T>, shape: Vec<usize>) -> Result<Param> {
    let group = if shape.len() == 1 { Group::BackboneNorm } else { Group::Backbone };
    Ok(Param { var: candle_core::Var::from_vec(values, shape, &Device::Cpu)?, name, trainable: true, group })
}

/// The safetensors files of a folder.
pub(super) struct Folder {
    files: Vec<(PathBuf, memmap2::Mmap)>,
    tensors: BTreeMap<String, Place>,
}

/// Tensors and the files that an index says they are in.
type Placed = Vec<(String, PathBuf)>;

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
}

impl Folder {
    /// Maps the weight files of a folder and reads their heads.
    ///
    /// # Errors
    /// [`Error::Model`] for a damaged file or index, and for a tensor that two files hold.
    pub(super) fn open(folder: &Path) -> Result<Folder> {
        let (files, index) = weight_files(folder)?;
        let mut opened = Folder { files: Vec::new(), tensors: BTreeMap::new() };
        for file in files {
            opened.add(file)?;
        }
        for (name, file) in index {
            let place = opened.tensors.get(&name).map(|p| opened.files[p.file].0.as_path());
            if place != Some(file.as_path()) {
                return Err(Error::model(
                    file.display().to_string(),
                    format!("tensor {name} is not in this file, as the index says"),
                ));
            }
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let origin = path.display().to_string();
        let opened = std::fs::File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: the file must not be changed while it is mapped, as for every memory-mapped reader;
        // a change could show as wrong numbers, and all offsets are checked against the length.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&path))?;
        let (head, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| Error::model(&origin, format!("not a sound safetensors file: {e}")))?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            // The numbers begin behind eight bytes of length and the head.
            let (start, end) = info.data_offsets;
            let place =
                Place { file, dtype: info.dtype, shape: info.shape.clone(), bytes: 8 + head + start..8 + head + end };
            if let Some(other) = self.tensors.insert(name.clone(), place) {
                let other = self.files.get(other.file).map_or_else(|| origin.clone(), |f| f.0.display().to_string());
                return Err(Error::model(origin, format!("tensor {name} stands in {other} too")));
            }
        }
        self.files.push((path, map));
        Ok(())
    }
}

impl Checkpoint for Folder {
    fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, place)| (name.clone(), place.shape.clone())).collect()
    }

    fn read<T: Real>(&self, name: &str) -> Result<Vec<T>> {
        let place = self.tensors.get(name).ok_or_else(|| Error::run(format!("no tensor {name}")))?;
        let (path, map) = &self.files[place.file];
        let bytes = map.get(place.bytes.clone()).ok_or_else(|| Error::run(format!("tensor {name}: no such bytes")))?;
        Ok(match place.dtype {
            Dtype::F32 => convert(bytes, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F64 => convert(bytes, f64::from_le_bytes),
            Dtype::F16 => convert(bytes, |b| half::f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => convert(bytes, |b| half::bf16::from_le_bytes(b).to_f64()),
            other => {
                let origin = path.display().to_string();
                return Err(Error::model(origin, format!("tensor {name}: numbers of type {other} are not supported"))
                    .with_hint("supported: F64, F32, BF16, F16"));
            }
        })
    }
}

/// Numbers of `N` bytes each.
fn convert<T: Real, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64 + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); bytes.len() / N];
    out.par_chunks_mut(PER_TASK).zip(bytes.par_chunks(PER_TASK * N)).for_each(|(out, bytes)| {
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *x = T::of(number(*bytes));
        }
    });
    out
}

/// The weight files of a folder: one, or those that the index names (plain names inside the folder only), with the
/// file of each tensor.
pub(super) fn weight_files(folder: &Path) -> Result<(Vec<PathBuf>, Placed)> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok((vec![single], Vec::new()));
    }
    let index = folder.join("model.safetensors.index.json");
    let origin = index.display().to_string();
    if !index.is_file() {
        return Err(Error::model(
            folder.display().to_string(),
            "no model.safetensors and no model.safetensors.index.json",
        )
        .with_hint("only safetensors are read; convert .bin or .pt files first"));
    }
    let text = std::fs::read(&index).map_err(Error::io(&index))?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::model(&origin, e.to_string()))?;
    let map = json.get("weight_map").and_then(|m| m.as_object()).filter(|m| !m.is_empty());
    let map = map.ok_or_else(|| Error::model(&origin, "`weight_map`: expected an object with tensors"))?;
    let mut places = Vec::new();
    for (tensor, name) in map {
        let name = name.as_str().ok_or_else(|| Error::model(&origin, format!("{tensor}: expected a file name")))?;
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\']) {
            return Err(Error::model(&origin, format!("{name:?} is not a plain file name")));
        }
        places.push((tensor.clone(), folder.join(name)));
    }
    let mut files: Vec<PathBuf> = places.iter().map(|(_, file)| file.clone()).collect();
    files.sort_unstable();
    files.dedup();
    match files.iter().find(|file| !file.is_file()) {
        Some(missing) => Err(Error::model(&origin, format!("{} is not there", missing.display()))
            .with_hint("fetch all files that the index names")),
        None => Ok((files, places)),
    }
}

#[cfg(test)]
mod tests;
