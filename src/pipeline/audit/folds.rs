//! The models that rank the pairs: for each fold, one that was trained on the other folds.

use std::collections::HashSet;
use std::path::Path;

use polars::prelude::DataFrame;

use super::{Audited, starting_weights};
use crate::artifact;
use crate::audit::signals::FoldModel;
use crate::error::{Error, Result};
use crate::lpc::{Inference, LatentKind, LpcConfig, Preset};
use crate::manifest::{Manifest, hash_json};
use crate::objective::{MixFlip, ObjectiveConfig, ObjectiveKind};
use crate::pipeline::recipe::AuditConfig;
use crate::pipeline::recipe::audit::Ranker;
use crate::pipeline::train::{self, Ended};
use crate::progress::Progress;
use crate::schema::{audit, col, run};
use crate::seed::Seed;
use crate::settings::Settings;
use crate::source::ModelSource;
use crate::train::{Fold, Posteriors, TrainConfig, Tune, ValidationConfig, tuning};

/// Hex digits of the settings' hash in a fold's folder name.
const HASH_DIGITS: usize = 12;

/// The settings of the models, without their folds and folders.
fn ranker(config: &AuditConfig, audited: &Audited) -> TrainConfig {
    let own = &audited.config;
    let shared = TrainConfig {
        posteriors: Posteriors::Test,
        // Over kept hidden states an evaluation of all pairs costs less than an epoch; over a backbone it is most of one.
        dynamics: match config.ranker {
            Ranker::Latent => true,
            // A run that may leave epochs out has no margins of them.
            Ranker::Run => own.tune.keeps_states() && own.validation.patience == 0,
        },
        save_model: false,
        keep_optimizer_state: false,
        eval_every: 0,
        max_steps: 0,
        ..own.clone()
    };
    match config.ranker {
        Ranker::Run => TrainConfig { max_steps: own.max_steps, ..shared },
        Ranker::Latent => latent(own, shared),
    }
}

/// Codes over the frozen base, and a learned share of wrong labels: the run's own settings of the latent part where it
/// has codes with exact inference, the defaults with as many codes otherwise.
fn latent(own: &TrainConfig, shared: TrainConfig) -> TrainConfig {
    let kept = own.lpc.coded() && own.lpc.inference == Inference::Bayes && own.lpc.latent != LatentKind::LpcReliable;
    let defaults = LpcConfig::of(Preset::Default);
    let mut lpc = if kept { own.lpc.clone() } else { LpcConfig { latent: LatentKind::Lpc, ..defaults.clone() } };
    if own.lpc.coded() {
        lpc.codes = own.lpc.codes;
    }
    // The passes that the run gave to the latent part alone.
    let epochs = match own.tune {
        Tune::Latent => own.epochs,
        _ if own.latent_warmup() > 0.0 => own.latent_warmup(),
        _ => defaults.warmup,
    };
    lpc.warmup = LpcConfig::of(lpc.preset).warmup;
    // The betas of DPO and its relatives mean the same; those of IPO and SimPO do not.
    let logistic = !matches!(own.objective.pair_loss(), ObjectiveKind::Ipo | ObjectiveKind::Simpo | ObjectiveKind::Sft);
    let start = ObjectiveConfig::default();
    let objective = ObjectiveConfig {
        name: ObjectiveKind::Mix,
        beta: if logistic { own.objective.beta } else { start.beta },
        mix_flip: MixFlip::Learned,
        ..start
    };
    // Margins after every epoch are asked of these models.
    let validation = ValidationConfig { patience: 0, ..shared.validation.clone() };
    TrainConfig { tune: Tune::Latent, lora: Default::default(), epochs, objective, lpc, validation, ..shared }
        .applicable()
}

/// The seed of a repeat: the first one has the run's own.
fn seed_of(audited: &Audited, repeat: usize) -> Seed {
    match repeat {
        0 => audited.seed,
        _ => Seed(audited.seed.word("repeat of an audit", &repeat.to_string())),
    }
}

/// Refuses parts without a prompt, of all repeats, before the first model is trained.
///
/// # Errors
/// [`Error::Config`] with the first such part.
pub(super) fn check(config: &AuditConfig, audited: &Audited, pairs: &DataFrame) -> Result<()> {
    let prompts = pairs.column(col::PROMPT_ID)?.str()?;
    for repeat in 0..config.repeats {
        let part = |prompt: &str| Fold::part(seed_of(audited, repeat), prompt, config.folds);
        let filled: HashSet<usize> = prompts.iter().flatten().map(part).collect();
        if let Some(part) = (0..config.folds).find(|part| !filled.contains(part)) {
            let message = format!("part {} of {} has no prompt: fewer --folds", part + 1, config.folds);
            return Err(Error::Config(vec![AuditConfig::fault("folds", message)]));
        }
    }
    Ok(())
}

/// Whether the model of a fold started from the weights that the audited run started from; true where one does not tell.
fn starts_alike(fold: &Path, audited: &Audited, progress: &dyn Progress) -> Result<bool> {
    let (Some(found), Some(wanted)) = (starting_weights(&Manifest::read(fold)?), &audited.weights) else {
        return Ok(true);
    };
    if found == *wanted {
        return Ok(true);
    }
    // A run that went on with an adapter, whose codes are now trained over both merged.
    let source = ModelSource::resolve(&audited.config.model, progress)?;
    tuning::is_start(&found, &source, audited.config.tune, 0, wanted)
}

/// Trains the models that are not there yet. Gives what they say: for each repeat, of each fold.
///
/// # Errors
/// Those of training; [`Error::Run`] where the user stopped it.
pub(super) fn train(
    config: &AuditConfig,
    audited: &Audited,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Vec<FoldModel>>> {
    let base = ranker(config, audited);
    // Other settings have other folders: nothing that was trained is mistaken for something else, or lost.
    // As the run names its files, from wherever the audit is called.
    let mut named = TrainConfig { out: String::new(), ..base.clone() };
    [named.data, named.model, named.reference, named.head.cache] = audited.named.clone();
    let hash = hash_json(&serde_json::to_value(named)?)?;
    let (mut repeats, mut other_weights) = (Vec::new(), false);
    for repeat in 0..config.repeats {
        let seed = seed_of(audited, repeat);
        let mut models = Vec::new();
        for fold in 1..=config.folds {
            let name = format!("{}-{repeat}-{fold}-of-{}", &hash[..HASH_DIGITS], config.folds);
            let folder = out.join(audit::FOLDS).join(name);
            let settings = TrainConfig {
                out: folder.display().to_string(),
                fold: format!("{fold}/{}", config.folds),
                ..base.clone()
            };
            progress.note(&format!("fold {fold} of {}, repeat {} of {}", config.folds, repeat + 1, config.repeats));
            match train::run(&settings, seed, true, progress)? {
                Ended::Finished(_) | Ended::Already(_) => {}
                Ended::Interrupted { step, steps, what } => {
                    let message = format!("interrupted after step {step} of {steps} of fold {fold}; {what}");
                    return Err(Error::interrupted(message).with_hint("the same command goes on"));
                }
            }
            if !other_weights && !starts_alike(&folder, audited, progress)? {
                other_weights = true;
                let model = &audited.config.model;
                progress.warn(&format!("{model} has other weights than when the run started from it: the evidence is that of today's, run_margin that of the run"));
            }
            let read = |name: &str| artifact::read_parquet(folder.join(name));
            let dynamics = if base.dynamics { Some(read(run::DYNAMICS)?) } else { None };
            models.push(FoldModel { posteriors: read(run::POSTERIORS)?, dynamics });
        }
        repeats.push(models);
    }
    Ok(repeats)
}
