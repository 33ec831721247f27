//! Loads the model that a [`ModelSource`] names, whatever it is: made from the seed, a folder, an adapter or a latent
//! part over a base, a GGUF file.

use std::path::Path;

use super::peft::StoredAdapter;
use super::{folder, gguf, latent, peft};
use crate::error::{Error, Result};
use crate::model::init::random;
use crate::model::{LlamaConfig, Loaded, Lora};
use crate::nn::Real;
use crate::seed::Seed;
use crate::source::ModelSource;

/// Standard deviation of a new model's weights.
const DEVIATION: f64 = 0.02;

/// Loads a model; `vocab_size` is what the tokenizer needs, which `tiny` takes and others must cover. An adapter is
/// merged into its base.
///
/// # Errors
/// [`Error::Model`] where something is missing, unexpected, of another shape, or too small for the tokenizer.
pub fn load<T: Real>(source: &ModelSource, vocab_size: usize, seed: Seed) -> Result<Loaded> {
    let loaded = match source {
        ModelSource::Tiny { width, layers } => {
            let config = LlamaConfig::tiny(*width, *layers, vocab_size);
            let params = random::<T>(&config, DEVIATION, seed)?;
            Loaded { config, params }
        }
        ModelSource::Folder(folder) if peft::is_adapter(folder) => {
            let adapter = StoredAdapter::read(folder)?;
            adapter.merged::<T>(load::<T>(&peft::base_source(folder)?, vocab_size, seed)?)?
        }
        ModelSource::Folder(folder) if latent::is_latent_alone(folder) => {
            let loaded = load::<T>(&latent::source(folder)?, vocab_size, seed)?;
            latent::verify::<T>(folder, &loaded)?;
            loaded
        }
        ModelSource::Folder(folder) => folder::load::<T>(folder)?,
        ModelSource::Gguf(path) => gguf::load::<T>(path)?,
    };
    covers(&loaded.config, vocab_size, source)?;
    Ok(loaded)
}

/// Loads an adapter and its base, to train the adapter on: the base frozen, the adapter among its parameters.
///
/// # Errors
/// As [`load`]; also where it adapts the head, or not the same maps in each of its layers.
pub fn load_adapter<T: Real>(folder: &Path, vocab_size: usize, seed: Seed) -> Result<(Loaded, Lora)> {
    let adapter = StoredAdapter::read(folder)?;
    adapter.over::<T>(load::<T>(&peft::base_source(folder)?, vocab_size, seed)?)
}

/// A model's shape, without reading its weights: from config.json or the GGUF header.
///
/// # Errors
/// As [`load`], as far as no weight is needed to tell.
pub fn shape(source: &ModelSource, vocab_size: usize) -> Result<LlamaConfig> {
    let config = match source {
        ModelSource::Tiny { width, layers } => LlamaConfig::tiny(*width, *layers, vocab_size),
        ModelSource::Folder(folder) => match below(folder)? {
            Some(base) => return shape(&base, vocab_size),
            None => folder::shape(folder)?,
        },
        ModelSource::Gguf(path) => gguf::shape(path)?,
    };
    covers(&config, vocab_size, source)?;
    Ok(config)
}

/// The model under an adapter, or under a latent part alone; none for a folder with a model of its own.
///
/// # Errors
/// [`Error::Model`] where it cannot be had.
pub fn below(folder: &Path) -> Result<Option<ModelSource>> {
    if peft::is_adapter(folder) {
        return peft::base_source(folder).map(Some);
    }
    latent::is_latent_alone(folder).then(|| latent::source(folder)).transpose()
}

fn covers(config: &LlamaConfig, vocab_size: usize, source: &ModelSource) -> Result<()> {
    if config.vocab_size >= vocab_size {
        return Ok(());
    }
    let message = format!("the model knows {} tokens, the tokenizer needs {vocab_size}", config.vocab_size);
    Err(Error::model(source.to_string(), message).with_hint(
        "use this model's own tokenizer (prepare --tokenizer MODEL); if it is, the model's embedding is too small for it: \
         resize_token_embeddings of transformers",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Param;

    #[test]
    fn a_folder_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig::tiny(32, 2, 50);
        let params = random::<f32>(&config, 0.02, Seed(3)).unwrap();
        folder::save(dir.path(), &config, params.iter()).unwrap();
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
