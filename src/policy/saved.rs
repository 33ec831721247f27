//! A trained policy on disk: a Hugging Face folder, and the latent part beside it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::Policy;
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::{Basis, CodeSpace, LatentKind, LpcConfig, names};
use crate::model::{Group, Loaded, Param, Params};
use crate::nn::Real;
use crate::schema::run;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::weights::checkpoint::finite_tensor;
use crate::weights::load::load;
use crate::weights::safetensors::{PYTORCH, TensorEntry};
use crate::weights::{folder, latent, peft, safetensors};

/// Writes a policy. Its decoder becomes a Hugging Face folder; an adapter where the policy has one, as PEFT reads it;
/// or the name of its base alone where the backbone never changes. A latent part goes into `lpc_config.json` and
/// `lpc_model.safetensors`.
///
/// # Errors
/// [`Error::Io`].
pub fn save<T: Real>(policy: &Policy<T>, to: &Path) -> Result<()> {
    match (&policy.adapter, &policy.base) {
        (Some(lora), _) => peft::save::<T>(to, &policy.decoder.config, lora, &policy.params)?,
        (None, Some(named)) => latent::save::<T>(to, &policy.decoder.config, named, &policy.params)?,
        (None, None) => folder::save(to, &policy.decoder.config, policy.params.iter())?,
    }
    if let Some(lpc) = &policy.lpc {
        let lists = [
            (names::CODE_TOKENS, lpc.basis.code_tokens.as_deref()),
            (names::PRIOR_TOKENS, Some(&lpc.basis.prior_tokens)),
        ];
        let mut tensors: Vec<(&str, Tensor)> = Vec::new();
        for (name, tokens) in lists.into_iter().filter_map(|(name, tokens)| Some((name, tokens?))) {
            // Other programs' safetensors have no unsigned 32-bit numbers.
            let wide: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
            tensors.push((name, Tensor::from_vec(wide, tokens.len(), &Device::Cpu)?));
        }
        let learned = policy.params.iter().filter(|p| p.group == Group::Latent && p.name.starts_with("lpc."));
        tensors.extend(learned.map(|p| (p.name.as_str(), p.var.as_detached_tensor())));
        let entries: Vec<_> = tensors.iter().map(|(name, tensor)| TensorEntry::tensor(*name, tensor, None)).collect();
        safetensors::write(&to.join(run::LPC_WEIGHTS), &[PYTORCH], &entries)?;
        artifact::write_json(to.join(run::LPC_CONFIG), &lpc.config)?;
    }
    Ok(())
}

/// Loads a model with the latent part that stands beside it, if any: for scoring, not for training.
///
/// # Errors
/// [`Error::Model`] where something is missing or damaged.
pub fn open<T: Real>(source: &ModelSource, vocab_size: usize, seed: Seed, longest: usize) -> Result<Policy<T>> {
    let Loaded { config, mut params } = load::<T>(source, vocab_size, seed)?;
    let mut lpc = LpcConfig { latent: LatentKind::None, ..LpcConfig::default() };
    let mut basis = Basis { hidden: config.hidden_size, code_tokens: None, prior_tokens: Vec::new(), unit: 1.0 };
    if let ModelSource::Folder(folder) = source
        && folder.join(run::LPC_CONFIG).is_file()
    {
        let path = folder.join(run::LPC_CONFIG);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        lpc = serde_json::from_slice(&text).map_err(|e| {
            Error::artifact(&path, e.to_string())
                .with_hint("if another version of lpc-pipe wrote it, settings may have changed: train the model again")
        })?;
        let weights = folder.join(run::LPC_WEIGHTS);
        let mut tensors = safetensors::read(&weights)?;
        let mut tokens = |name: &str| -> Result<Vec<u32>> {
            let bad = |what: &str| Error::artifact(&weights, format!("tensor {name}: {what}"));
            let found = tensors.remove(name).ok_or_else(|| bad("is missing"))?.to_vec1::<i64>();
            let found = found.map_err(|_| bad("expected whole numbers"))?;
            let known = |token: i64| u32::try_from(token).ok().filter(|&t| (t as usize) < config.vocab_size);
            found.into_iter().map(|t| known(t).ok_or_else(|| bad("a token outside the vocabulary"))).collect()
        };
        if lpc.code_space == CodeSpace::Vocabulary {
            basis.code_tokens = Some(Arc::new(tokens(names::CODE_TOKENS)?));
        }
        basis.prior_tokens = tokens(names::PRIOR_TOKENS)?;
        let learned = crate::lpc::shapes(&lpc, &basis).into_iter().map(|(name, shape, _)| (name, shape));
        for (name, shape) in learned.chain(crate::lpc::size::constants(&lpc, &basis)) {
            let tensor = tensors
                .remove(&name)
                .filter(|t| t.dims() == shape)
                .ok_or_else(|| Error::artifact(&weights, format!("tensor {name} of shape {shape:?} is missing")))?;
            finite_tensor(&weights.display().to_string(), &name, &tensor)?;
            let var = Var::from_tensor(&tensor.to_dtype(T::KIND)?)?;
            params.push(Param { name, var, trainable: true, group: Group::Latent });
        }
    }
    Policy::over(config, Params::new(params)?, None, &lpc, basis, longest)
}
