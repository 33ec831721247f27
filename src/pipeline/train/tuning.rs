//! What each way of tuning makes of the starting model: everything trainable, an adapter, or a head of its own.

use std::path::{Path, PathBuf};

use crate::batch::{Split, TokenRow};
use crate::error::{Error, Result};
use crate::lpc::Basis;
use crate::model::{Lora, lora};
use crate::objective::MixFlip;
use crate::policy::{HiddenStates, Keeping, Policy, basis, flips, hidden_cache};
use crate::progress::Progress;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::reference::{self, companions};
use crate::train::{Peers, TrainConfig, Tune};
use crate::weights::latent::Base;
use crate::weights::load::{load, load_adapter};
use crate::weights::{fingerprint, peft};

/// The policy that a run starts from.
///
/// # Errors
/// [`Error::Model`] where the model cannot be had; [`Error::Config`] where the settings are not those of the adapter
/// that it is.
pub(super) fn start(
    config: &TrainConfig,
    source: &ModelSource,
    vocab_size: usize,
    seed: Seed,
    (rows, longest): (&[TokenRow], usize),
) -> Result<Policy<f32>> {
    let (mut loaded, adapter) = match config.tune {
        Tune::Full => (load::<f32>(source, vocab_size, seed)?, None),
        Tune::Head => (load::<f32>(source, vocab_size, seed)?.head_alone()?, None),
        Tune::Latent => {
            let mut loaded = load::<f32>(source, vocab_size, seed)?;
            loaded.params.iter_mut().for_each(|p| p.trainable = false);
            (loaded, None)
        }
        Tune::Lora => match source {
            ModelSource::Folder(folder) if peft::is_adapter(folder) => {
                let (loaded, mut found) = load_adapter::<f32>(folder, vocab_size, seed)?;
                let conflicts = config.lora.conflicts(&found, "train.lora");
                if !conflicts.is_empty() {
                    return Err(Error::Config(conflicts));
                }
                (found.base, found.revision) = base_of(&peft::base_source(folder)?, &found);
                (loaded, Some(found))
            }
            _ => {
                let mut loaded = load::<f32>(source, vocab_size, seed)?;
                let fingerprint = fingerprint::<f32>(loaded.params.iter())?;
                let mut new = Lora { fingerprint, ..Lora::new(&config.lora) };
                lora::attach::<f32>(&mut loaded, &new, seed)?;
                (new.base, new.revision) = named(&config.model, source);
                (loaded, Some(new))
            }
        },
    };
    if config.objective.mix_flip == MixFlip::Learned {
        loaded.params.push(flips::parameter::<f32>()?);
    }
    let base = match config.tune {
        Tune::Latent => {
            let (base_model_name_or_path, revision) = named(&config.model, source);
            // An adapter that was merged on the way is no model by itself.
            let merged = matches!(source, ModelSource::Folder(folder) if peft::is_adapter(folder));
            let fingerprint = if merged { String::new() } else { fingerprint::<f32>(loaded.params.iter())? };
            let named = if merged { (String::new(), String::new()) } else { (base_model_name_or_path, revision) };
            Some(Base { base_model_name_or_path: named.0, revision: named.1, fingerprint })
        }
        _ => None,
    };
    let scales = |chosen: usize, rejected: usize| {
        let (of_chosen, of_rejected) = config.objective.margin_scales(chosen, rejected);
        (of_chosen / config.objective.margin_unit(), of_rejected / config.objective.margin_unit())
    };
    let basis = if config.lpc.active() {
        basis::of(&config.lpc, &loaded, rows, &scales)?
    } else {
        Basis::sized(&config.lpc, loaded.config.hidden_size, loaded.config.vocab_size)
    };
    let mut policy = Policy::new(loaded, adapter, &config.lpc, basis, seed, longest)?;
    policy.base = base;
    policy.start_flips(config.objective.label_smoothing)?;
    Ok(policy)
}

/// The base of an adapter that is trained on: a place that is found from anywhere, or the hub id as it was.
fn base_of(source: &ModelSource, found: &Lora) -> (String, String) {
    let local = Path::new(&found.base).exists() || !crate::hub::looks_like_id(&found.base);
    if local { named("", source) } else { (found.base.clone(), found.revision.clone()) }
}

/// How PEFT finds a model again, and its revision: the hub id as it was given, or the absolute path; nothing for one
/// made from the seed, which is written beside the adapter.
fn named(name: &str, source: &ModelSource) -> (String, String) {
    let absolute = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string();
    match source {
        ModelSource::Tiny { .. } => (String::new(), String::new()),
        ModelSource::Folder(_) if !name.is_empty() && !Path::new(name).exists() => {
            let (id, revision) = name.split_once('@').unwrap_or((name, ""));
            (id.to_string(), revision.to_string())
        }
        ModelSource::Folder(path) | ModelSource::Gguf(path) => (absolute(path), String::new()),
    }
}

/// The configuration with the adapter's settings written out.
pub(super) fn settled(config: TrainConfig, policy: &Policy<f32>) -> TrainConfig {
    match &policy.adapter {
        Some(adapter) => TrainConfig { lora: adapter.config(), ..config },
        None => config,
    }
}

/// Gives the policy the hidden states of all rows where its backbone never moves; and those of the training rows that
/// steps of the latent part's warm-up read, if they fit into the memory that is allowed for them. False where the user
/// interrupted it: what was computed is kept.
///
/// # Errors
/// As [`hidden_cache::open`].
pub(super) fn remember(
    policy: &mut Policy<f32>,
    config: &TrainConfig,
    splits: &[Split],
    warming: &[bool],
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<bool> {
    let kept = config.tune.keeps_states();
    if !kept && config.latent_warmup() == 0.0 {
        return Ok(true);
    }
    let budget = (config.head.memory_mb as u64) << 20;
    let own = states_folder(config);
    let splits = if kept { splits } else { &splits[..1] };
    let all: Vec<&TokenRow> = splits.iter().flat_map(|s| &s.rows).collect();
    // The head is trained with the rest of a model behind the warm-up, and only then.
    let head_frozen = config.tune != Tune::Head;
    let about = reference::options(policy);
    let keeping = Keeping { folder: &own, budget, about: &about, head_frozen };
    let mut rows = all.clone();
    // Composed operations promise no numbers that are free of a pass' company.
    if !kept && policy.decoder.place().is_none() {
        let read = companions(&splits[0].rows, |i| warming[i]);
        rows = read.into_iter().map(|i| &splits[0].rows[i]).collect();
    }
    if !kept && hidden_cache::size(policy, &rows, head_frozen)? > budget {
        progress
            .note("hidden states are computed in every pass of train.lpc.warmup: they are more than --set train.head.memory_mb allows");
        return Ok(true);
    }
    let open = |policy: &Policy<f32>| -> Result<Option<HiddenStates>> {
        // A longer run may have left those of all rows.
        if rows.len() < all.len()
            && hidden_cache::size(policy, &all, head_frozen)? <= budget
            && let Some(found) = hidden_cache::find(policy, &all, keeping)?
        {
            return Ok(Some(found));
        }
        hidden_cache::open(policy, &rows, keeping, progress)
    };
    // One rank computes and writes them, the others read.
    let mut states = None;
    let whole = peers.from_first(|| {
        states = open(policy)?;
        Ok(states.is_some())
    })?;
    if whole {
        policy.states = match states {
            Some(states) => Some(states),
            None => open(policy)?,
        };
    }
    Ok(whole)
}

/// Where hidden states are kept.
pub(super) fn states_folder(config: &TrainConfig) -> PathBuf {
    match config.head.cache.as_str() {
        "" => Path::new(&config.data).join("hidden"),
        folder => PathBuf::from(folder),
    }
}
