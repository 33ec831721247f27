//! The policy that a run starts from: the model with what `tune` makes trainable, and the latent part.

use std::path::{Path, PathBuf};

use crate::batch::Split;
use crate::error::{Error, Result};
use crate::lpc::Basis;
use crate::model::{Loaded, Lora, Params, lora};
use crate::objective::MixFlip;
use crate::policy::{HiddenStates, Keeping, Policy, basis, flips, hidden_cache};
use crate::progress::Progress;
use crate::schema;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::token_file::TokenRow;
use crate::train::reference::{self, store::companions};
use crate::train::{Ranks, TrainConfig, Tune, device, ranks};
use crate::weights::latent::{self, Base};
use crate::weights::load::{load, load_adapter};
use crate::weights::{fingerprint, peft};

/// What the starting policy depends on in the data.
#[derive(Debug, Clone, Copy)]
pub struct DataShape<'a> {
    /// Training rows.
    pub rows: &'a [TokenRow],
    /// Longest prompt and response, tokens.
    pub longest: usize,
    /// Tokens that the model must know.
    pub vocabulary: usize,
}

/// The policy that a run starts from, on the device on which it is trained; `source` is `config.model`, resolved.
///
/// # Errors
/// [`Error::Model`] where the model cannot be read, or is a latent part alone;
/// [`Error::Config`] where the model is an adapter with other settings, or the device is not there.
pub fn start(config: &TrainConfig, source: &ModelSource, seed: Seed, data: DataShape<'_>) -> Result<Policy<f32>> {
    let mut policy = in_memory(config, source, seed, data)?;
    let precision = config.operands(policy.decoder.config.hidden_size);
    if let Some(place) = device::open(config.device, config.kernels, precision, ranks::local_rank())? {
        policy = policy.placed(place)?;
    }
    policy.decoder.recompute = config.recompute;
    policy.decoder.precision = precision;
    Ok(policy)
}

/// The starting policy in the computer's memory.
fn in_memory(config: &TrainConfig, source: &ModelSource, seed: Seed, data: DataShape<'_>) -> Result<Policy<f32>> {
    let DataShape { rows, longest, vocabulary: vocab_size } = data;
    refuse_latent_alone(config, source)?;
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
                let conflicts = config.lora.conflicts(&found);
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
    let base = (config.tune == Tune::Latent).then(|| base_of_latent(config, source, &loaded)).transpose()?;
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

/// Whether a model, whose fingerprint is `found`, is the one that a run started from whose starting weights have the
/// fingerprint `weights`. A run that went on with an adapter started from the same weights in another form.
///
/// # Errors
/// As [`load`].
pub fn is_start(found: &str, source: &ModelSource, tune: Tune, vocab_size: usize, weights: &str) -> Result<bool> {
    if found == weights {
        return Ok(true);
    }
    let (loaded, adapter) = match (tune, source) {
        (Tune::Lora, ModelSource::Folder(folder)) if peft::is_adapter(folder) => {
            load_adapter::<f32>(folder, vocab_size, Seed(0))?
        }
        _ => return Ok(false),
    };
    let params = Params::new(loaded.params)?;
    Ok(reference::fingerprint_of::<f32>(&loaded.config, &params, Some(&adapter))? == weights)
}

/// What a latent part names as its base. The weights of a merged adapter are in no file that could be named: its name
/// is empty, and they are written beside the latent part.
fn base_of_latent(config: &TrainConfig, source: &ModelSource, loaded: &Loaded) -> Result<Base> {
    if matches!(source, ModelSource::Folder(folder) if peft::is_adapter(folder)) {
        return Ok(Base::default());
    }
    let (base_model_name_or_path, revision) = named(&config.model, source);
    Ok(Base { base_model_name_or_path, revision, fingerprint: fingerprint::<f32>(loaded.params.iter())? })
}

/// Refuses to train over a folder that is a latent part alone: the run would start from its base, without its codes.
fn refuse_latent_alone(config: &TrainConfig, source: &ModelSource) -> Result<()> {
    let ModelSource::Folder(folder) = source else { return Ok(()) };
    if !latent::is_latent_alone(folder) {
        return Ok(());
    }
    let hint = match latent::source(folder)? {
        ModelSource::Folder(path) | ModelSource::Gguf(path) => format!("give its base: --model {}", path.display()),
        ModelSource::Tiny { .. } => "give the model that it was trained over".into(),
    };
    let what = "is a latent part itself: training over it would start from its base and drop its codes";
    Err(Error::model(&config.model, what).with_hint(hint))
}

/// What a run says that starts from a model with codes beside it.
pub fn dropped_codes(source: &ModelSource) -> Option<&'static str> {
    let ModelSource::Folder(folder) = source else { return None };
    let beside = folder.join(schema::run::LPC_CONFIG).is_file();
    beside.then_some(
        "the model has codes beside it (lpc_config.json), which are not read: training starts from its weights alone",
    )
}

/// Name and revision of the base of an adapter that is trained on: its absolute path, or the hub id as it was.
fn base_of(source: &ModelSource, found: &Lora) -> (String, String) {
    let local = Path::new(&found.base).exists() || !crate::hub::looks_like_id(&found.base);
    if local { named("", source) } else { (found.base.clone(), found.revision.clone()) }
}

/// Name and revision under which PEFT finds a model: the hub id as it was given, or the absolute path. Both are empty
/// for a model made from the seed, which is written beside the adapter.
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

/// The configuration with the settings of the adapter that is trained on, and with what precision "auto" came to.
pub fn settled(config: TrainConfig, policy: &Policy<f32>) -> TrainConfig {
    let precision = policy.decoder.precision.into();
    match &policy.adapter {
        Some(adapter) => TrainConfig { precision, lora: adapter.config(), ..config },
        None => TrainConfig { precision, ..config },
    }
}

/// Gives the policy the hidden states of all rows where its backbone never changes. In a latent part's warm-up it gives
/// those of the training rows in `warming`, if they fit into `train.head.memory_mb`. False where the user interrupted
/// it: what was computed is kept.
///
/// # Errors
/// As [`hidden_cache::open`].
pub fn remember(
    policy: &mut Policy<f32>,
    config: &TrainConfig,
    splits: &[Split],
    warming: &[bool],
    ranks: &Ranks,
    progress: &dyn Progress,
) -> Result<bool> {
    let kept = config.tune.keeps_states();
    if !kept && config.latent_warmup() == 0.0 {
        return Ok(true);
    }
    let budget = (config.head.memory_mb as u64) << 20;
    let own = states_folder(config);
    let all: Vec<&TokenRow> = splits.iter().flat_map(|s| &s.rows).collect();
    // With other ways of tuning the head is frozen as long as hidden states are read from memory.
    let head_frozen = config.tune != Tune::Head;
    let about = reference::options(policy);
    let keeping = Keeping { folder: &own, budget, about: &about, head_frozen };
    let training: Vec<&TokenRow> = splits[0].rows.iter().collect();
    // Other devices' numbers may depend on the rows that share a pass: there all training rows are computed.
    let rows = match (kept, policy.decoder.place()) {
        (true, _) => all.clone(),
        (false, Some(_)) => training.clone(),
        (false, None) => companions(&splits[0].rows, |i| warming[i]).into_iter().map(|i| training[i]).collect(),
    };
    if !kept && hidden_cache::size(policy, &rows, head_frozen)? > budget {
        progress
            .note("hidden states are computed in every pass of train.lpc.warmup: they are more than --set train.head.memory_mb allows");
        return Ok(true);
    }
    let open = |policy: &Policy<f32>| -> Result<Option<HiddenStates>> {
        // A run that read more rows may have left its file.
        for more in [&training, &all] {
            if rows.len() < more.len()
                && hidden_cache::size(policy, more, head_frozen)? <= budget
                && let Some(found) = hidden_cache::find(policy, more, keeping, progress)?
            {
                return Ok(Some(found));
            }
        }
        hidden_cache::open(policy, &rows, keeping, progress)
    };
    // One rank computes and writes them, the others read.
    let mut states = None;
    let whole = ranks.from_first(|| {
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

/// Folder of the files of hidden states.
pub fn states_folder(config: &TrainConfig) -> PathBuf {
    match config.head.cache.as_str() {
        "" => Path::new(&config.data).join("hidden"),
        folder => PathBuf::from(folder),
    }
}
