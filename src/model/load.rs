//! Weights: made from the seed, read from safetensors or GGUF, written as a Hugging Face folder.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::config::LlamaConfig;
use super::decoder::names;
use super::params::{Group, Param};
use crate::artifact;
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::seed::Seed;
use crate::source::ModelSource;

/// A model's shape and its parameters, ready for [`super::Params`].
#[derive(Debug)]
pub struct Loaded {
    /// Shape.
    pub config: LlamaConfig,
    /// Backbone parameters, all trainable.
    pub params: Vec<Param>,
}

/// Shapes of all tensors of a decoder, in checkpoint names.
pub fn shapes(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let (h, i, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let mut out = vec![(names::EMBEDDING.to_string(), vec![config.vocab_size, h]), (names::NORM.to_string(), vec![h])];
    if !config.tie_word_embeddings {
        out.push((names::HEAD.to_string(), vec![config.vocab_size, h]));
    }
    for layer in 0..config.num_hidden_layers {
        for (part, shape) in [
            ("input_layernorm", vec![h]),
            ("self_attn.q_proj", vec![q, h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.v_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, q]),
            ("post_attention_layernorm", vec![h]),
            ("mlp.gate_proj", vec![i, h]),
            ("mlp.up_proj", vec![i, h]),
            ("mlp.down_proj", vec![h, i]),
        ] {
            out.push((names::layer(layer, part), shape));
        }
    }
    out
}

/// Loads a model; `vocab_size` is the tokenizer's, which `tiny` takes and others must cover.
///
/// # Errors
/// [`Error::Model`] where something is missing, unexpected, of another shape, or too small for the tokenizer.
pub fn load<T: Real>(source: &ModelSource, vocab_size: usize, seed: Seed) -> Result<Loaded> {
    let loaded = match source {
        ModelSource::Tiny { width, layers } => {
            let config = LlamaConfig::tiny(*width, *layers, vocab_size);
            let params = random::<T>(&config, 0.02, seed)?;
            Loaded { config, params }
        }
        ModelSource::Folder(folder) if super::peft::is_adapter(folder) => {
            super::peft::merged::<T>(folder, vocab_size, seed)?
        }
        ModelSource::Folder(folder) => from_folder::<T>(folder)?,
        ModelSource::Gguf(path) => super::gguf::load::<T>(path)?,
    };
    if loaded.config.vocab_size < vocab_size {
        return Err(Error::model(
            format!("{source:?}"),
            format!("the model knows {} tokens, the prepared data's tokenizer {vocab_size}", loaded.config.vocab_size),
        )
        .with_hint("prepare the data with this model's own tokenizer: prepare --tokenizer MODEL"));
    }
    Ok(loaded)
}

/// Random weights: normal with the given deviation (projections into the residual stream divided by
/// sqrt(2 layers), as GPT-2), norms 1. Each tensor is a function of (seed, its name).
///
/// # Errors
/// [`Error::Tensor`].
pub fn random<T: Real>(config: &LlamaConfig, deviation: f64, seed: Seed) -> Result<Vec<Param>> {
    shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let residual = name.contains("o_proj") || name.contains("down_proj");
            let scale = if residual { deviation / (2.0 * config.num_hidden_layers as f64).sqrt() } else { deviation };
            let values: Vec<T> = if shape.len() == 1 {
                vec![T::one(); n]
            } else {
                normal(seed, &name, n).map(|x| T::of(x * scale)).collect()
            };
            param(name, Tensor::from_vec(values, shape, &Device::Cpu)?)
        })
        .collect()
}

/// `n` standard normal numbers, a function of (seed, name).
pub fn normal(seed: Seed, name: &str, n: usize) -> impl Iterator<Item = f64> {
    let mut rng = seed.rng("init", name);
    // One draw first, so that the stream differs from other uses of the same key.
    let _: u32 = rng.random();
    (0..n).map(move |_| StandardNormal.sample(&mut rng))
}

/// A trainable backbone parameter.
pub(super) fn param(name: String, tensor: Tensor) -> Result<Param> {
    let group = if tensor.rank() == 1 { Group::BackboneNorm } else { Group::Backbone };
    Ok(Param { var: Var::from_tensor(&tensor)?, name, trainable: true, group })
}

/// Turns a checkpoint's tensors into parameters: every expected one, none left over.
///
/// # Errors
/// [`Error::Model`] listing what is missing, unexpected, or of another shape.
pub(super) fn assemble<T: Real>(
    config: &LlamaConfig,
    mut tensors: HashMap<String, Tensor>,
    origin: &str,
) -> Result<Vec<Param>> {
    let mut params = Vec::new();
    let mut faults = Vec::new();
    for (name, shape) in shapes(config) {
        match tensors.remove(&name) {
            None => faults.push(format!("missing tensor {name}")),
            Some(t) if t.dims() != shape => {
                faults.push(format!("tensor {name}: expected shape {shape:?}, got {:?}", t.dims()));
            }
            Some(t) => params.push(param(name, t.to_dtype(T::KIND)?.contiguous()?)?),
        }
    }
    // Harmless: a copy of the tied head, and rotary tables that old checkpoints carry.
    tensors.retain(|name, _| {
        !(name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == names::HEAD))
    });
    let mut unexpected: Vec<String> = tensors.into_keys().map(|name| format!("unexpected tensor {name}")).collect();
    unexpected.sort();
    faults.append(&mut unexpected);
    if faults.is_empty() {
        return Ok(params);
    }
    let more = faults.len().saturating_sub(8);
    faults.truncate(8);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Error::model(origin, faults.join("; ") + &tail))
}

/// The weight files of a folder: one, or those that the index names (plain names inside the folder only).
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let origin = folder.display().to_string();
    if !index.is_file() {
        return Err(Error::model(origin, "no model.safetensors and no model.safetensors.index.json")
            .with_hint("only safetensors are read; convert .bin or .pt files first"));
    }
    let text = std::fs::read(&index).map_err(Error::io(&index))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::model(index.display().to_string(), e.to_string()))?;
    let map = json.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| Error::model(index.display().to_string(), "`weight_map`: expected an object"))?;
    let mut files: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    files
        .into_iter()
        .map(|name| {
            let mut parts = Path::new(name).components();
            match (parts.next(), parts.next()) {
                (Some(Component::Normal(_)), None) => Ok(folder.join(name)),
                _ => Err(Error::model(index.display().to_string(), format!("{name:?} is not a plain file name"))),
            }
        })
        .collect()
}

fn from_folder<T: Real>(folder: &Path) -> Result<Loaded> {
    let config_path = folder.join("config.json");
    let text = std::fs::read(&config_path).map_err(Error::io(&config_path))?;
    let config = LlamaConfig::from_json(&text, &config_path.display().to_string())?;
    let mut tensors = HashMap::new();
    for file in weight_files(folder)? {
        let origin = file.display().to_string();
        let opened = std::fs::File::open(&file).map_err(Error::io(&file))?;
        // SAFETY: the file must not be changed while it is mapped, as for every memory-mapped reader;
        // a change could show as wrong numbers, and safetensors checks all offsets against the length.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&file))?;
        let parsed = safetensors::SafeTensors::deserialize(&map)
            .map_err(|e| Error::model(&origin, format!("not a sound safetensors file: {e}")))?;
        for (name, view) in parsed.iter() {
            let kind = match view.dtype() {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::F64 => DType::F64,
                safetensors::Dtype::F16 => DType::F16,
                safetensors::Dtype::BF16 => DType::BF16,
                other => return Err(Error::model(&origin, format!("tensor {name}: type {other:?} is not supported"))),
            };
            let tensor = Tensor::from_raw_buffer(view.data(), kind, view.shape(), &Device::Cpu)?.to_dtype(T::KIND)?;
            if tensors.insert(name.to_string(), tensor).is_some() {
                return Err(Error::model(&origin, format!("tensor {name} stands in two files")));
            }
        }
    }
    let params = assemble::<T>(&config, tensors, &folder.display().to_string())?;
    Ok(Loaded { config, params })
}

/// A model of which the head alone is trained; one whose head is its embedding gets a copy of that as its own.
///
/// # Errors
/// [`Error::Tensor`].
pub fn own_head(mut loaded: Loaded) -> Result<Loaded> {
    if loaded.config.tie_word_embeddings {
        let tied = loaded.params.iter().find(|p| p.name == names::EMBEDDING);
        let copy = tied.map(|p| p.var.as_detached_tensor().copy()).transpose()?;
        let copy = copy.ok_or_else(|| Error::run("a model without an embedding"))?;
        loaded.params.push(param(names::HEAD.into(), copy)?);
        loaded.config.tie_word_embeddings = false;
    }
    loaded.params.iter_mut().for_each(|p| p.trainable = p.name == names::HEAD);
    Ok(loaded)
}

/// The type in which most numbers of a model folder are stored.
///
/// # Errors
/// [`Error::Model`] where it has no sound weights.
pub fn stored_kind(folder: &Path) -> Result<DType> {
    let mut largest = (0, DType::F32);
    for file in weight_files(folder)? {
        let opened = std::fs::File::open(&file).map_err(Error::io(&file))?;
        // SAFETY: as in `from_folder`; only the header is read.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&file))?;
        let (_, about) = safetensors::SafeTensors::read_metadata(&map)
            .map_err(|e| Error::model(file.display().to_string(), format!("not a sound safetensors file: {e}")))?;
        for info in about.tensors().values() {
            let kind = match info.dtype {
                safetensors::Dtype::BF16 => DType::BF16,
                safetensors::Dtype::F16 => DType::F16,
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

/// Writes tensors as one safetensors file, atomically, sorted by name.
///
/// # Errors
/// [`Error::Io`], [`Error::Run`].
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut sorted: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    sorted.sort_by_key(|(name, _)| *name);
    // transformers refuses files without this mark.
    let about = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(sorted, Some(about)).map_err(|e| Error::run(format!("safetensors: {e}")))?;
    artifact::write_bytes(path, &bytes)
}

/// Reads a safetensors file of ours.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged.
pub fn read_safetensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| Error::artifact(path, format!("not a readable safetensors file: {e}")))
}

/// Writes a model folder as Hugging Face reads it; see [`super::save::model`].
///
/// # Errors
/// [`Error::Io`].
pub fn save_folder<'a>(folder: &Path, config: &LlamaConfig, params: impl Iterator<Item = &'a Param>) -> Result<()> {
    let backbone = params.filter(|p| matches!(p.group, Group::Backbone | Group::BackboneNorm));
    let weights: Vec<(String, Tensor)> = backbone.map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
    super::save::model(folder, config, &weights, None, super::save::SHARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig::tiny(32, 2, 50);
        let params = random::<f32>(&config, 0.02, Seed(3)).unwrap();
        save_folder(dir.path(), &config, params.iter()).unwrap();
        let again = load::<f32>(&ModelSource::Folder(dir.path().into()), 50, Seed(0)).unwrap();
        assert_eq!(again.config, config);
        let find = |list: &[Param], name: &str| -> Vec<f32> {
            list.iter().find(|p| p.name == name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
        };
        for param in &params {
            assert_eq!(find(&params, &param.name), find(&again.params, &param.name));
        }
        assert_eq!(config.parameters(), params.iter().map(|p| p.var.elem_count()).sum::<usize>());
        // A tokenizer larger than the model is refused.
        assert!(load::<f32>(&ModelSource::Folder(dir.path().into()), 51, Seed(0)).is_err());
    }

    #[test]
    fn missing_and_unexpected_tensors_are_named() {
        let config = LlamaConfig::tiny(32, 1, 50);
        let mut tensors: HashMap<String, Tensor> = random::<f32>(&config, 0.02, Seed(3))
            .unwrap()
            .into_iter()
            .map(|p| (p.name.clone(), p.var.as_detached_tensor()))
            .collect();
        let norm = tensors.remove(names::NORM).unwrap();
        tensors.insert("model.extra.weight".into(), norm);
        let error = assemble::<f32>(&config, tensors, "m").unwrap_err().to_string();
        assert!(error.contains("missing tensor model.norm.weight"), "{error}");
        assert!(error.contains("unexpected tensor model.extra.weight"), "{error}");
    }

    #[test]
    fn an_index_may_not_leave_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors"] {
            let index = serde_json::json!({"weight_map": {"w": name}});
            std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
            assert!(weight_files(dir.path()).is_err(), "{name}");
        }
    }
}
