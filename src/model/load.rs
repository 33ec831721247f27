//! Weights: made from the seed, read from safetensors or GGUF, written as a Hugging Face folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::checkpoint::{self, Folder, param};
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
            if config.biased(part) {
                out.push((names::bias(layer, part), vec![shape[0]]));
            }
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
        ModelSource::Folder(folder) if super::base::is_latent_alone(folder) => {
            let loaded = load::<T>(&super::base::source(folder)?, vocab_size, seed)?;
            super::base::verify::<T>(folder, &loaded)?;
            loaded
        }
        ModelSource::Folder(folder) => from_folder::<T>(folder)?,
        ModelSource::Gguf(path) => super::gguf::load::<T>(path)?,
    };
    covers(&loaded.config, vocab_size, source)?;
    Ok(loaded)
}

/// A model's shape, without reading its weights: from config.json or the GGUF header.
///
/// # Errors
/// As [`load`], as far as no weight is needed to tell.
pub fn shape(source: &ModelSource, vocab_size: usize) -> Result<LlamaConfig> {
    let config = match source {
        ModelSource::Tiny { width, layers } => LlamaConfig::tiny(*width, *layers, vocab_size),
        ModelSource::Folder(folder) if super::peft::is_adapter(folder) => {
            return shape(&super::peft::base_source(folder)?, vocab_size);
        }
        ModelSource::Folder(folder) if super::base::is_latent_alone(folder) => {
            return shape(&super::base::source(folder)?, vocab_size);
        }
        ModelSource::Folder(folder) => folder_shape(folder)?,
        ModelSource::Gguf(path) => super::gguf::shape(path)?,
    };
    covers(&config, vocab_size, source)?;
    Ok(config)
}

fn covers(config: &LlamaConfig, vocab_size: usize, source: &ModelSource) -> Result<()> {
    if config.vocab_size >= vocab_size {
        return Ok(());
    }
    let message = format!("the model knows {} tokens, the prepared data's tokenizer {vocab_size}", config.vocab_size);
    Err(Error::model(source.to_string(), message)
        .with_hint("prepare the data with this model's own tokenizer: prepare --tokenizer MODEL"))
}

fn folder_shape(folder: &Path) -> Result<LlamaConfig> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    LlamaConfig::from_json(&text, &path.display().to_string())
}

/// Random weights: normal with the given deviation (projections into the residual stream divided by
/// sqrt(2 layers), as GPT-2), norms 1, biases 0. Each tensor is a function of (seed, its name).
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
            let values: Vec<T> = if name.ends_with(".bias") {
                vec![T::zero(); n]
            } else if shape.len() == 1 {
                vec![T::one(); n]
            } else {
                normal(seed, &name, n).map(|x| T::of(x * scale)).collect()
            };
            param(name, values, shape)
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

fn from_folder<T: Real>(folder: &Path) -> Result<Loaded> {
    let config = folder_shape(folder)?;
    let params = checkpoint::assemble::<T>(&config, &Folder::open(folder)?, &folder.display().to_string())?;
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
        let var = Var::from_tensor(&copy)?;
        loaded.params.push(Param { name: names::HEAD.into(), var, trainable: true, group: Group::Backbone });
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
    for file in super::checkpoint::weight_files(folder)?.0 {
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
        assert_eq!(shape(&ModelSource::Folder(dir.path().into()), 50).unwrap(), config);
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
}
