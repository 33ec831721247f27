//! `train --dry-run`: what a run would take, from the model's shape and the prepared lengths.

use serde::Serialize;

use super::checked;
use super::data::Data;
use crate::batch::Split;
use crate::error::Result;
use crate::progress::{Progress, Silent};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::estimate::{self, Cost, Flops, Memory};
use crate::train::reference::ReferenceNeeds;
use crate::train::step_plan::used;
use crate::train::timing::{Seconds, Speed};
use crate::train::{Posteriors, TrainConfig};
use crate::weights::load;

/// Results of `train --dry-run`. Sizes are in MiB, times in seconds.
#[derive(Debug, Serialize)]
pub struct DryRun {
    /// Parameters of the model, without the latent part.
    pub parameters: usize,
    /// Trainable parameters, the latent part included.
    pub trainable: usize,
    /// Pairs to train on.
    pub pairs: usize,
    /// Pairs to evaluate on.
    pub pairs_test: usize,
    /// Pairs that are held out for validation.
    pub pairs_validation: usize,
    /// Pairs whose reference log-probabilities are computed before the first step, and after the last one for
    /// posteriors.parquet, where no cache has them.
    pub pairs_reference: (usize, usize),
    /// Pairs with a row in posteriors.parquet.
    pub pairs_posteriors: usize,
    /// Steps to take.
    pub steps: usize,
    /// Tokens through the backbone in all steps, shared prompts counted once.
    pub tokens: u64,
    /// The same in one epoch.
    pub tokens_per_epoch: u64,
    /// Tokens that the head predicts in one epoch.
    pub response_tokens_per_epoch: u64,
    /// Tokens of the largest pass.
    pub largest_pass: u64,
    /// Longest prompt and response, tokens.
    pub longest: usize,
    /// Memory by part.
    pub memory_mb: Memory,
    /// Memory of this machine; null where it is not known.
    pub machine_mb: Option<f64>,
    /// Whether the run fits into it; true where it is not known.
    pub fits: bool,
    /// What to change where it does not fit.
    pub hints: Vec<String>,
    /// Useful floating-point operations.
    pub flops: Flops,
    /// Expected time on this machine.
    pub seconds: Seconds,
    /// What the expected time was computed from.
    pub speed: Speed,
}

/// What a run would take, without reading a weight: shapes come from config.json or the GGUF header. Warns of what a run
/// would warn of before its first step, but for the memory, which the result tells.
///
/// # Errors
/// As [`super::run`].
pub fn dry_run(config: &TrainConfig, seed: Seed, progress: &dyn Progress) -> Result<DryRun> {
    dry_run_at(config, seed, None, progress)
}

/// The memory that a run would take, MiB.
///
/// # Errors
/// As [`super::run`].
pub fn memory_mb(config: &TrainConfig, seed: Seed) -> Result<f64> {
    let config = checked(config)?;
    let Data { splits, tokenizer, .. } = Data::open(&config)?;
    let source = ModelSource::tokenizer(&config.model, &Silent)?;
    let shape = load::shape(&source, tokenizer.vocabulary_for(&source))?;
    Ok(Cost::of(&config, seed, &shape, &splits).memory.total)
}

/// [`dry_run`] at a speed that was measured before, with the same model.
///
/// # Errors
/// As [`super::run`].
pub fn dry_run_at(config: &TrainConfig, seed: Seed, speed: Option<&Speed>, progress: &dyn Progress) -> Result<DryRun> {
    let config = checked(config)?;
    let Data { splits: prepared, tokenizer, longest, .. } = Data::open(&config)?;
    let held_out = config.held_out();
    let splits = if held_out.any() { held_out.splits(seed, &prepared) } else { prepared.clone() };
    held_out.check(&splits)?;
    if let Some(warning) = held_out.warning(&splits) {
        progress.warn(&warning);
    }
    let source = ModelSource::tokenizer(&config.model, progress)?;
    let shape = load::shape(&source, tokenizer.vocabulary_for(&source))?;
    super::fitting(&config, &prepared, &tokenizer, &source, &shape)?;
    if let Some(other) = config.reference_model() {
        let source = ModelSource::tokenizer(other, progress)?;
        let shape = load::shape(&source, tokenizer.vocabulary_for(&source))?;
        let fits = super::fitting(&config, &prepared, &tokenizer, &source, &shape);
        fits.map_err(|e| super::about_reference(e, other))?;
    }
    super::warnings(&source, &shape, longest).iter().for_each(|warning| progress.warn(warning));
    let Cost { regime, plan, loads, memory, flops } = Cost::of(&config, seed, &shape, &splits);
    let needs = match held_out.fold {
        None => {
            let left = used(&splits[0].rows, None, plan, seed, 0..plan.steps);
            ReferenceNeeds::of(&config, &prepared, held_out.joined(seed, &prepared[0].rows, &left))
        }
        Some(_) => ReferenceNeeds::of_training(&prepared),
    };
    let needs = if config.reference_model().is_some() { needs.at_once() } else { needs };
    let count = |wanted: &[Vec<bool>]| wanted.iter().flatten().filter(|w| **w).count();
    let referenced = if config.objective.needs_reference() { (count(&needs.first), count(&needs.all)) } else { (0, 0) };
    let pairs = |i: usize| splits.get(i).map_or(0, |split: &Split| split.rows.len());
    let examined = if config.posteriors == Posteriors::All { pairs(0) + pairs(1) + pairs(2) } else { pairs(1) };
    let machine_mb = estimate::available_memory_mb();
    let hints = machine_mb.map_or_else(Vec::new, |mb| memory.advice(mb, config.batch, config.accumulate));
    let speed = match speed {
        Some(speed) => speed.clone(),
        None => Speed::measure(&config, &shape, &splits[0].rows)?,
    };
    Ok(DryRun {
        parameters: regime.backbone,
        trainable: regime.trainable,
        pairs: splits[0].rows.len(),
        pairs_test: pairs(1),
        pairs_validation: pairs(2),
        pairs_reference: (referenced.0, referenced.1 - referenced.0),
        pairs_posteriors: examined,
        steps: plan.steps,
        tokens: loads.all.tokens,
        tokens_per_epoch: loads.epoch.tokens,
        response_tokens_per_epoch: loads.epoch.responses,
        largest_pass: loads.largest.tokens,
        longest,
        memory_mb: memory,
        machine_mb,
        fits: hints.is_empty(),
        hints,
        flops,
        seconds: speed.seconds(&flops, plan.steps, regime.trainable),
        speed,
    })
}
