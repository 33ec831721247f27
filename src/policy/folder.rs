//! A trained policy on disk: a Hugging Face folder, and the latent part beside it.

use std::path::Path;

use candle_core::{Tensor, Var};

use super::Policy;
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::{LatentKind, LpcConfig};
use crate::model::load::{self, Loaded};
use crate::model::{Group, Param, Params, peft};
use crate::nn::Real;
use crate::schema::run;
use crate::seed::Seed;
use crate::source::ModelSource;

/// Writes a policy: config.json and model.safetensors as Hugging Face reads them, or where it has an adapter that as
/// PEFT reads it; `lpc_config.json` and `lpc_model.safetensors` where there is a latent.
///
/// # Errors
/// [`Error::Io`].
pub fn save<T: Real>(policy: &Policy<T>, folder: &Path) -> Result<()> {
    match &policy.adapter {
        Some(lora) => peft::save::<T>(folder, &policy.decoder.config, lora, &policy.params)?,
        None => load::save_folder(folder, &policy.decoder.config, policy.params.iter())?,
    }
    if let Some(lpc) = &policy.lpc {
        let tensors: Vec<(String, Tensor)> = policy
            .params
            .iter()
            .filter(|p| p.group == Group::Latent && p.name.starts_with("lpc."))
            .map(|p| (p.name.clone(), p.var.as_detached_tensor()))
            .collect();
        load::write_safetensors(&folder.join(run::LPC_WEIGHTS), &tensors)?;
        artifact::write_json(folder.join(run::LPC_CONFIG), &lpc.config)?;
    }
    Ok(())
}

/// Loads a model with the latent part that stands beside it, if any: for scoring, not for training.
///
/// # Errors
/// [`Error::Model`] where something is missing or damaged.
pub fn open<T: Real>(source: &ModelSource, vocab_size: usize, seed: Seed, longest: usize) -> Result<Policy<T>> {
    let Loaded { config, mut params } = load::load::<T>(source, vocab_size, seed)?;
    let mut lpc = LpcConfig { latent: LatentKind::None, ..LpcConfig::default() };
    if let ModelSource::Folder(folder) = source
        && folder.join(run::LPC_CONFIG).is_file()
    {
        let path = folder.join(run::LPC_CONFIG);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        lpc = serde_json::from_slice(&text).map_err(|e| Error::artifact(&path, e.to_string()))?;
        let weights = folder.join(run::LPC_WEIGHTS);
        let mut tensors = load::read_safetensors(&weights)?;
        for (name, shape, _) in crate::lpc::shapes(&lpc, config.hidden_size, 1.0) {
            let tensor = tensors
                .remove(&name)
                .filter(|t| t.dims() == shape)
                .ok_or_else(|| Error::artifact(&weights, format!("tensor {name} of shape {shape:?} is missing")))?;
            let var = Var::from_tensor(&tensor.to_dtype(T::KIND)?)?;
            params.push(Param { name, var, trainable: true, group: Group::Latent });
        }
    }
    Policy::over(config, Params::new(params)?, &lpc, longest)
}
