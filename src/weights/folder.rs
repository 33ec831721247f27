//! Model folders as Hugging Face has them: config.json, and safetensors in one file or in several with an index.
//!
//! Files are mapped, never read as a whole: each tensor goes from the map straight into its parameter, so that loading
//! needs the memory of the parameters and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, PER_TASK, assemble};
use super::safetensors::{PYTORCH, TensorEntry, write};
use crate::artifact;
use crate::error::{Error, Result};
use crate::model::{Group, LlamaConfig, Loaded, Param};
use crate::nn::Real;

/// Largest weight file, in bytes: the default of Hugging Face's libraries.
pub const SHARD: u64 = 5_000_000_000;

/// Weight file of a model folder that has one.
pub const SINGLE: &str = "model.safetensors";
/// Index of a model folder that has several.
pub const INDEX: &str = "model.safetensors.index.json";
/// What other programs' `generate` reads beside config.json.
const GENERATION: &str = "generation_config.json";

/// The model's shape, from config.json.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] where it says something that is not supported.
pub fn shape(folder: &Path) -> Result<LlamaConfig> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let config = LlamaConfig::from_json(&text, &path.display().to_string())?;
    Ok(LlamaConfig { generation: sampling(folder)?, ..config })
}

/// What generation_config.json says beside the tokens, which are the model's own: how other programs' `generate` draws.
fn sampling(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join(GENERATION);
    if !path.is_file() {
        return Ok(Map::new());
    }
    let mut found: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).map_err(Error::io(&path))?)
        .map_err(|e| Error::model(path.display().to_string(), format!("damaged JSON: {e}")))?;
    // The last two are about the program that wrote the file.
    found.retain(|key, _| {
        !key.ends_with("_token_id") && !["_from_model_config", "transformers_version"].contains(&key.as_str())
    });
    Ok(found)
}

/// Reads the model of a folder.
///
/// # Errors
/// [`Error::Model`] where a tensor is missing, unexpected, of another shape, or not finite.
pub fn load<T: Real>(folder: &Path) -> Result<Loaded> {
    let config = shape(folder)?;
    let params = assemble::<T>(&config, &WeightFiles::open(folder)?, &folder.display().to_string())?;
    Ok(Loaded { config, params })
}

/// The type in which most numbers of a model folder are stored.
///
/// # Errors
/// [`Error::Model`] where it has no sound weights.
pub fn stored_kind(folder: &Path) -> Result<DType> {
    let mut largest = (0, DType::F32);
    for file in weight_files(folder)?.0 {
        let opened = std::fs::File::open(&file).map_err(Error::io(&file))?;
        // SAFETY: nothing here writes to the map, and its length bounds what is read of it: the header alone.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&file))?;
        let (_, about) = SafeTensors::read_metadata(&map)
            .map_err(|e| Error::model(file.display().to_string(), format!("not a sound safetensors file: {e}")))?;
        for info in about.tensors().values() {
            let kind = match info.dtype {
                Dtype::BF16 => DType::BF16,
                Dtype::F16 => DType::F16,
                _ => DType::F32,
            };
            let size = info.data_offsets.1 - info.data_offsets.0;
            if size > largest.0 {
                largest = (size, kind);
            }
        }
    }
    Ok(largest.1)
}

/// The safetensors files of a folder.
struct WeightFiles {
    files: Vec<(PathBuf, memmap2::Mmap)>,
    tensors: BTreeMap<String, Location>,
}

/// Tensors, each with the file that the index names for it.
type Indexed = Vec<(String, PathBuf)>;

/// Where a tensor lies.
struct Location {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
}

impl WeightFiles {
    /// Maps the weight files of a folder and reads their heads.
    ///
    /// # Errors
    /// [`Error::Model`] for a damaged file or index, and for a tensor that two files hold.
    fn open(folder: &Path) -> Result<WeightFiles> {
        let (files, index) = weight_files(folder)?;
        let mut opened = WeightFiles { files: Vec::new(), tensors: BTreeMap::new() };
        for file in files {
            opened.add(file)?;
        }
        for (name, file) in index {
            let found = opened.tensors.get(&name).map(|at| opened.files[at.file].0.as_path());
            if found != Some(file.as_path()) {
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
        // SAFETY: nothing here writes to the map. Another program that changes the file meanwhile can make numbers wrong,
        // as for every memory-mapped reader; offsets are checked against the length.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&path))?;
        let (head, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| Error::model(&origin, format!("not a sound safetensors file: {e}")))?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            // The numbers begin behind eight bytes of length and the head.
            let (start, end) = info.data_offsets;
            let location = Location {
                file,
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: 8 + head + start..8 + head + end,
            };
            if let Some(other) = self.tensors.insert(name.clone(), location) {
                let other = self.files.get(other.file).map_or_else(|| origin.clone(), |f| f.0.display().to_string());
                return Err(Error::model(origin, format!("tensor {name} stands in {other} too")));
            }
        }
        self.files.push((path, map));
        Ok(())
    }
}

impl Checkpoint for WeightFiles {
    fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, at)| (name.clone(), at.shape.clone())).collect()
    }

    fn read<T: Real>(&self, name: &str) -> Result<Vec<T>> {
        let at = self.tensors.get(name).ok_or_else(|| Error::run(format!("no tensor {name}")))?;
        let (path, map) = &self.files[at.file];
        let bytes = map.get(at.bytes.clone()).ok_or_else(|| Error::run(format!("tensor {name}: no such bytes")))?;
        Ok(match at.dtype {
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
fn weight_files(folder: &Path) -> Result<(Vec<PathBuf>, Indexed)> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok((vec![single], Vec::new()));
    }
    let index = folder.join(INDEX);
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
    let mut indexed = Vec::new();
    for (tensor, name) in map {
        let name = name.as_str().ok_or_else(|| Error::model(&origin, format!("{tensor}: expected a file name")))?;
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\']) {
            return Err(Error::model(&origin, format!("{name:?} is not a plain file name")));
        }
        indexed.push((tensor.clone(), folder.join(name)));
    }
    let mut files: Vec<PathBuf> = indexed.iter().map(|(_, file)| file.clone()).collect();
    files.sort_unstable();
    files.dedup();
    match files.iter().find(|file| !file.is_file()) {
        Some(missing) => Err(Error::model(&origin, format!("{} is not there", missing.display()))
            .with_hint("fetch all files that the index names")),
        None => Ok((files, indexed)),
    }
}

/// Cuts tensors, in their order, into files of at most `limit` bytes (a larger tensor has a file to itself).
fn shards(entries: &[TensorEntry<'_>], limit: u64) -> Vec<std::ops::Range<usize>> {
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
/// index, sorted by name and converted to `kind` (`None`: as they are); then generation_config.json and config.json.
/// Weight files of an earlier model there are removed.
///
/// # Errors
/// [`Error::Io`]; [`Error::Run`] for a type that is not written.
pub fn save_weights(
    folder: &Path,
    config: &LlamaConfig,
    weights: &[(String, Tensor)],
    kind: Option<DType>,
    limit: u64,
) -> Result<()> {
    let mut entries: Vec<TensorEntry<'_>> =
        weights.iter().map(|(name, t)| TensorEntry::tensor(name, t, kind)).collect();
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    let cuts = shards(&entries, limit);
    let file = |i: usize| match cuts.len() {
        1 => SINGLE.to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    let mut map = Map::new();
    for (i, cut) in cuts.iter().enumerate() {
        write(&folder.join(file(i)), &[PYTORCH], &entries[cut.clone()])?;
        map.extend(entries[cut.clone()].iter().map(|entry| (entry.name().to_string(), file(i).into())));
    }
    let kept: BTreeSet<String> = (0..cuts.len()).map(file).collect();
    remove_others(folder, &kept)?;
    if cuts.len() > 1 {
        let total: u64 = entries.iter().map(TensorEntry::bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        artifact::write_json(folder.join(INDEX), &index)?;
    } else {
        // It would name files that are gone.
        artifact::remove(&folder.join(INDEX))?;
    }
    artifact::write_json(folder.join(GENERATION), &config.generation_json())?;
    let mut about = config.to_json();
    about["torch_dtype"] = match entries.iter().max_by_key(|e| e.bytes()).map(TensorEntry::kind) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        Some(DType::F64) => "float64",
        _ => "float32",
    }
    .into();
    artifact::write_json(folder.join("config.json"), &about)
}

/// Adds end tokens to generation_config.json, behind those that are there: other programs' `generate` stops at these
/// alone. Nothing happens where there is no such file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] where the file is damaged.
pub fn add_end_tokens(folder: &Path, ids: &[u32]) -> Result<()> {
    let path = folder.join(GENERATION);
    if !path.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let mut json: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::model(path.display().to_string(), format!("damaged JSON: {e}")))?;
    let mut all = match json["eos_token_id"].take() {
        Value::Array(several) => several,
        Value::Null => Vec::new(),
        one => vec![one],
    };
    for id in ids.iter().map(|&id| Value::from(id)) {
        if !all.contains(&id) {
            all.push(id);
        }
    }
    json["eos_token_id"] = match all.len() {
        0 | 1 => all.pop().unwrap_or(Value::Null),
        _ => all.into(),
    };
    artifact::write_json(path, &json)
}

/// Removes a model that [`save_weights`] wrote, if there is one.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(folder: &Path) -> Result<()> {
    remove_others(folder, &BTreeSet::new())?;
    [INDEX, GENERATION, "config.json"].iter().try_for_each(|name| artifact::remove(&folder.join(name)))
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

/// Writes the backbone among these parameters as a model folder; see [`save_weights`].
///
/// # Errors
/// As [`save_weights`].
pub fn save<'a>(folder: &Path, config: &LlamaConfig, params: impl Iterator<Item = &'a Param>) -> Result<()> {
    let backbone = params.filter(|p| matches!(p.group, Group::Backbone | Group::BackboneNorm));
    let weights: Vec<(String, Tensor)> = backbone.map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
    save_weights(folder, config, &weights, None, SHARD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::init::random;
    use crate::seed::Seed;

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
        let params = random::<f32>(&config, 0.02, Seed(3)).unwrap();
        let weights: Vec<(String, Tensor)> =
            params.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
        let others = ["config.json", "generation_config.json"];
        save_weights(dir.path(), &config, &weights, None, SHARD).unwrap();
        assert_eq!(files(dir.path()), [others[0], others[1], SINGLE]);
        save_weights(dir.path(), &config, &weights, None, 20_000).unwrap();
        let names = files(dir.path());
        assert!(names.len() > 5 && !names.contains(&SINGLE.to_string()) && names.contains(&INDEX.to_string()));
        for name in names.iter().filter(|n| n.starts_with("model-")) {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() < 24_000, "{name}");
        }
        let read = || load::<f32>(dir.path()).unwrap().params;
        let of = |params: &[Param], name: &str| -> Vec<f32> {
            params.iter().find(|p| p.name == name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let again = read();
        for param in &params {
            assert_eq!(of(&params, &param.name), of(&again, &param.name));
        }
        save_weights(dir.path(), &config, &weights, Some(DType::BF16), SHARD).unwrap();
        assert_eq!(files(dir.path()), [others[0], others[1], SINGLE]);
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
        for (a, b) in of(&params, "model.embed_tokens.weight").iter().zip(of(&read(), "model.embed_tokens.weight")) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{a} {b}");
        }
    }

    #[test]
    fn how_a_model_is_sampled_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig::tiny(32, 1, 50);
        let params = random::<f32>(&config, 0.02, Seed(3)).unwrap();
        save(dir.path(), &config, params.iter()).unwrap();
        let path = dir.path().join(GENERATION);
        let base = json!({"bos_token_id": 1, "eos_token_id": [2, 9], "do_sample": true, "temperature": 0.6, "top_p": 0.9,
            "_from_model_config": true, "transformers_version": "4.40.0"});
        artifact::write_json(&path, &base).unwrap();
        let loaded = load::<f32>(dir.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        save(out.path(), &loaded.config, loaded.params.iter()).unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(out.path().join(GENERATION)).unwrap()).unwrap();
        let wanted = json!({"bos_token_id": null, "eos_token_id": null, "pad_token_id": null,
            "do_sample": true, "temperature": 0.6, "top_p": 0.9});
        assert_eq!(written, wanted);
        // It is no part of the function that the model computes.
        assert_eq!(serde_json::to_value(&loaded.config).unwrap(), serde_json::to_value(&config).unwrap());
        std::fs::write(&path, "{").unwrap();
        let error = load::<f32>(dir.path()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: damaged JSON"), "{error}");
    }

    #[test]
    fn end_tokens_are_added_behind_those_of_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = LlamaConfig::tiny(32, 1, 50);
        let ends = || -> Value {
            let json: Value = serde_json::from_slice(&std::fs::read(dir.path().join(GENERATION)).unwrap()).unwrap();
            json["eos_token_id"].clone()
        };
        for (own, more, wanted) in [
            (vec![], vec![], Value::Null),
            (vec![], vec![3], json!(3)),
            (vec![7], vec![7], json!(7)),
            (vec![7], vec![3, 7], json!([7, 3])),
            (vec![7, 2], vec![2, 9], json!([7, 2, 9])),
        ] {
            config.eos_token_ids = own;
            let params = random::<f32>(&config, 0.02, Seed(3)).unwrap();
            save(dir.path(), &config, params.iter()).unwrap();
            add_end_tokens(dir.path(), &more).unwrap();
            assert_eq!(ends(), wanted);
        }
        // An adapter's folder has no such file, and gets none.
        remove(dir.path()).unwrap();
        add_end_tokens(dir.path(), &[3]).unwrap();
        assert!(!dir.path().join(GENERATION).exists());
    }
}
