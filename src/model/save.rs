//! Writing weights: safetensors as a stream, in one file or in several with an index, in any of the usual types.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::View;
use serde_json::{Map, Value, json};

use crate::artifact;
use crate::error::{Error, Result};

use super::config::LlamaConfig;

/// Largest weight file, in bytes; as the field's own default.
pub const SHARD: u64 = 5_000_000_000;

/// Weight file of a model folder that has one.
pub const SINGLE: &str = "model.safetensors";
/// Index of a model folder that has several.
pub const INDEX: &str = "model.safetensors.index.json";

/// One tensor of a file: its name, type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Type of the numbers.
    pub kind: DType,
    /// Shape.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Size of its numbers in bytes.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.kind.size_in_bytes() as u64
    }
}

/// A type's name in safetensors files.
fn kind_name(kind: DType) -> Result<&'static str> {
    Ok(match kind {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => return Err(Error::run(format!("numbers of type {} are not written", other.as_str()))),
    })
}

/// What stands before the numbers of a safetensors file of these tensors.
///
/// # Errors
/// [`Error::Run`] for a type that is not written.
pub fn head(about: &[(&str, &str)], entries: &[Entry]) -> Result<Vec<u8>> {
    let mut header = Map::new();
    let about: Map<String, Value> = about.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
    header.insert("__metadata__".into(), about.into());
    let mut at = 0;
    for entry in entries {
        let end = at + entry.bytes();
        let about = json!({"dtype": kind_name(entry.kind)?, "shape": entry.shape, "data_offsets": [at, end]});
        header.insert(entry.name.clone(), about);
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Readers map the file: the numbers begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

/// Writes a safetensors file of these tensors, atomically; `fill` writes the bytes of one after the other, so that
/// they never are in memory all at once.
///
/// # Errors
/// [`Error::Io`]; [`Error::Run`] for a type that is not written; what `fill` gives.
pub fn stream(
    path: &Path,
    about: &[(&str, &str)],
    entries: &[Entry],
    mut fill: impl FnMut(usize, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    let head = head(about, entries)?;
    artifact::write(path, |w| {
        w.write_all(&head).map_err(Error::io(path))?;
        (0..entries.len()).try_for_each(|i| fill(i, w))
    })
}

/// Writes tensors as one safetensors file, each turned into `kind` on the way (`None`: as it is).
///
/// # Errors
/// As [`stream`].
pub fn tensors(path: &Path, tensors: &[(String, Tensor)], kind: Option<DType>, about: &[(&str, &str)]) -> Result<()> {
    // transformers refuses files without this mark.
    let about: Vec<(&str, &str)> = [("format", "pt")].into_iter().chain(about.iter().copied()).collect();
    let entries: Vec<Entry> = tensors.iter().map(|(name, t)| entry(name, t, kind)).collect();
    stream(path, &about, &entries, |i, w| {
        let tensor = tensors[i].1.to_dtype(entries[i].kind)?.contiguous()?;
        w.write_all(&tensor.data()).map_err(Error::io(path))
    })
}

fn entry(name: &str, tensor: &Tensor, kind: Option<DType>) -> Entry {
    Entry { name: name.into(), kind: kind.unwrap_or(tensor.dtype()), shape: tensor.dims().to_vec() }
}

/// Cuts tensors, in their order, into files of at most `limit` bytes (a larger tensor has a file to itself).
fn shards(entries: &[Entry], limit: u64) -> Vec<std::ops::Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, entry) in entries.iter().enumerate() {
        if i > start && size + entry.bytes() > limit {
            out.push(start..i);
            (start, size) = (i, 0);
        }
        size += entry.bytes();
    }
    out.push(start..entries.len());
    out
}

/// Writes a model folder as Hugging Face reads it: weights in one file, or above `limit` bytes in several with an
/// index, sorted by name; then generation_config.json and config.json. Weights of an earlier model there are removed.
///
/// # Errors
/// [`Error::Io`].
pub fn model(
    folder: &Path,
    config: &LlamaConfig,
    weights: &[(String, Tensor)],
    kind: Option<DType>,
    limit: u64,
) -> Result<()> {
    let mut weights = weights.to_vec();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    let entries: Vec<Entry> = weights.iter().map(|(name, t)| entry(name, t, kind)).collect();
    let cuts = shards(&entries, limit);
    let file = |i: usize| match cuts.len() {
        1 => SINGLE.to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    let mut map = Map::new();
    for (i, cut) in cuts.iter().enumerate() {
        tensors(&folder.join(file(i)), &weights[cut.clone()], kind, &[])?;
        map.extend(weights[cut.clone()].iter().map(|(name, _)| (name.clone(), file(i).into())));
    }
    let kept: BTreeSet<String> = (0..cuts.len()).map(file).collect();
    remove_others(folder, &kept)?;
    if cuts.len() > 1 {
        let total: u64 = entries.iter().map(Entry::bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        artifact::write_json(folder.join(INDEX), &index)?;
    } else {
        // It would name files that are gone.
        artifact::remove(&folder.join(INDEX))?;
    }
    artifact::write_json(folder.join("generation_config.json"), &config.generation_json())?;
    let mut about = config.to_json();
    about["torch_dtype"] = match entries.iter().max_by_key(|e| e.bytes()).map(|e| e.kind) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        Some(DType::F64) => "float64",
        _ => "float32",
    }
    .into();
    artifact::write_json(folder.join("config.json"), &about)
}

/// Removes the weight files of a model that are not among `kept`.
fn remove_others(folder: &Path, kept: &BTreeSet<String>) -> Result<()> {
    for found in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = found.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        let weights = name == SINGLE || (name.starts_with("model-") && name.ends_with(".safetensors"));
        if weights && !kept.contains(&name) {
            artifact::remove(&folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{Param, load};
    use crate::seed::Seed;
    use crate::source::ModelSource;

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn several_files_are_one_model_and_replace_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig::tiny(32, 2, 50);
        let params = load::random::<f32>(&config, 0.02, Seed(3)).unwrap();
        let weights: Vec<(String, Tensor)> =
            params.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
        let others = ["config.json", "generation_config.json"];
        model(dir.path(), &config, &weights, None, SHARD).unwrap();
        assert_eq!(files(dir.path()), [others[0], others[1], SINGLE]);
        model(dir.path(), &config, &weights, None, 20_000).unwrap();
        let names = files(dir.path());
        assert!(names.len() > 5 && !names.contains(&SINGLE.to_string()) && names.contains(&INDEX.to_string()));
        for name in names.iter().filter(|n| n.starts_with("model-")) {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() < 24_000, "{name}");
        }
        let read = || load::load::<f32>(&ModelSource::Folder(dir.path().into()), 50, Seed(0)).unwrap().params;
        let of = |params: &[Param], name: &str| -> Vec<f32> {
            params.iter().find(|p| p.name == name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let again = read();
        for param in &params {
            assert_eq!(of(&params, &param.name), of(&again, &param.name));
        }
        model(dir.path(), &config, &weights, Some(DType::BF16), SHARD).unwrap();
        assert_eq!(files(dir.path()), [others[0], others[1], SINGLE]);
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
        for (a, b) in of(&params, "model.embed_tokens.weight").iter().zip(of(&read(), "model.embed_tokens.weight")) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{a} {b}");
        }
    }

    #[test]
    fn what_is_streamed_is_read_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let t = |v: &[f64]| Tensor::new(v, &Device::Cpu).unwrap();
        let list = [("b".to_string(), t(&[1.0, 2.0])), ("a".to_string(), t(&[3.0]))];
        tensors(&path, &list, Some(DType::F16), &[("k", "v")]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (_, about) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(about.metadata().as_ref().unwrap()["k"], "v");
        let read = load::read_safetensors(&path).unwrap();
        assert_eq!(read["b"].to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap(), [1.0, 2.0]);
        assert_eq!(read["a"].dtype(), DType::F16);
    }
}
