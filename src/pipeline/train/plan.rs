//! `train --dry-run`: what a run would take, from the model's shape and the prepared lengths.

use serde::Serialize;

use super::{Data, Needs, checked, open_data};
use crate::batch::Split;
use crate::error::Result;
use crate::model::LlamaConfig;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::estimate::{Flops, Loads, Memory, Regime};
use crate::train::machine::{self, Seconds, Speed};
use crate::train::plan::{Plan as Steps, used};
use crate::train::{Posteriors, TrainConfig};
use crate::weights::load;

/// What `train --dry-run` says. Sizes are in MiB, times in seconds.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Parameters of the model, without the latent part.
    pub parameters: usize,
    /// Numbers that training changes, the latent part among them.
    pub trainable: usize,
    /// Pairs to train on.
    pub pairs: usize,
    /// Pairs to evaluate on.
    pub pairs_test: usize,
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
    /// Memory of this machine; null where it does not tell.
    pub machine_mb: Option<f64>,
    /// Whether the run fits into it; true where it does not tell.
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

/// What a run costs whatever the machine.
pub(super) struct Cost {
    pub regime: Regime,
    pub steps: Steps,
    pub loads: Loads,
    pub memory: Memory,
    pub flops: Flops,
}

impl Cost {
    /// The cost of a resolved configuration.
    pub fn of(config: &TrainConfig, seed: Seed, shape: &LlamaConfig, splits: &[Split]) -> Cost {
        let regime = Regime::of(config, shape);
        let rows = &splits[0].rows;
        let steps: Steps = config.plan(rows.len(), 1);
        let loads = Loads::of(config, rows, steps, seed, regime.window);
        let codes = if config.lpc.active() { config.lpc.codes } else { 1 };
        let memory = Memory::of(shape, &regime, loads.largest, splits, codes);
        let flops = Flops::of(config, shape, &regime, (&loads, steps), splits);
        Cost { regime, steps, loads, memory, flops }
    }
}

/// Says what a run would do, without doing it or reading a weight: shapes come from config.json or the GGUF header.
///
/// # Errors
/// As [`super::run`].
pub fn plan(config: &TrainConfig, seed: Seed) -> Result<Plan> {
    let config = checked(config)?;
    let Data { splits, tokenizer, longest, .. } = open_data(&config)?;
    let shape = load::shape(&ModelSource::resolve(&config.model)?, tokenizer.vocab_size())?;
    let Cost { regime, steps, loads, memory, flops } = Cost::of(&config, seed, &shape, &splits);
    let needs = Needs::of(&config, &splits, used(&splits[0].rows, None, steps, seed, 0..steps.steps));
    let count = |wanted: &[Vec<bool>]| wanted.iter().flatten().filter(|w| **w).count();
    let referenced = if config.objective.needs_reference() { (count(&needs.first), count(&needs.all)) } else { (0, 0) };
    let tested: usize = splits[1..].iter().map(|s| s.rows.len()).sum();
    let examined = if config.posteriors == Posteriors::All { tested + splits[0].rows.len() } else { tested };
    let machine_mb = machine::memory_mb();
    let hints = machine_mb.map_or_else(Vec::new, |mb| memory.advice(mb, config.batch, config.accumulate));
    let speed = Speed::measure(&config, &shape, &splits[0].rows)?;
    Ok(Plan {
        parameters: regime.backbone,
        trainable: regime.trainable,
        pairs: splits[0].rows.len(),
        pairs_test: tested,
        pairs_reference: (referenced.0, referenced.1 - referenced.0),
        pairs_posteriors: examined,
        steps: steps.steps,
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
        seconds: speed.seconds(&flops, steps.steps, regime.trainable),
        speed,
    })
}
