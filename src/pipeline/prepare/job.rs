//! One preparation: what all of its steps know.

use super::config::PrepareConfig;
use super::shard::Shard;
use super::work::Work;
use crate::ingest::Input;
use crate::progress::Progress;
use crate::seed::Seed;
use crate::select::mix::Mix;

/// One preparation.
pub struct Job<'a> {
    /// Settings.
    pub config: &'a PrepareConfig,
    /// The run's seed.
    pub seed: Seed,
    /// Which of the prompts.
    pub shard: Shard,
    /// The files, in order.
    pub inputs: &'a [Input],
    /// How much of each.
    pub mix: &'a Mix,
    /// What is finished so far.
    pub work: &'a Work,
    /// Told of every step.
    pub progress: &'a dyn Progress,
}
