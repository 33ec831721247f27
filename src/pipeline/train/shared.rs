//! What several runs over one prepared folder share, computed before the first of them: reference log-probabilities, and
//! hidden states of a frozen backbone.

use super::data::Data;
use super::{checked, other_reference, starting};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::seed::Seed;
use crate::train::ranks::ALONE;
use crate::train::reference::store::WHAT;
use crate::train::reference::{self, ReferenceNeeds, ReferenceStore};
use crate::train::step_plan::used;
use crate::train::{TrainConfig, tuning};

/// Computes into the caches of the prepared folder what a run of this configuration takes from them, and what it would
/// compute before its first step and behind its last one. Nothing is trained, and no run folder is made.
///
/// # Errors
/// As [`super::run`]; [`Error::Interrupted`] where the user stopped it: what was computed is kept.
pub fn share(config: &TrainConfig, seed: Seed, progress: &dyn Progress) -> Result<()> {
    let config = checked(config)?;
    let data = Data::open(&config)?;
    let mut policy = starting(&config, seed, &data, progress)?;
    let config = tuning::settled(config, &policy);
    let weights = reference::fingerprint(&policy)?;
    let rows = &data.splits[0].rows;
    let keys = crate::train::grouping::keys(&config, &data.splits, &ALONE)?;
    let plan = config.plan(rows.len(), 1);
    let used = |steps| used(rows, keys[0].as_deref(), plan, seed, steps);
    let warming = used(0..plan.warm.min(plan.steps));
    if !tuning::remember(&mut policy, &config, &data.splits, &warming, &ALONE, progress)? {
        return Err(Error::interrupted("interrupted; the hidden states that were computed are kept"));
    }
    let needs = ReferenceNeeds::of(&config, &data.splits, used(0..plan.steps));
    let other = other_reference(&config, seed, &data, progress)?;
    let (policy, weights) = match &other {
        Some(other) => (&other.policy, &other.fingerprint),
        None => (&policy, &weights),
    };
    let mut store = ReferenceStore::of_run(&config, policy, &data.splits, weights)?;
    if !store.provide(&needs.all, WHAT, || Ok(policy), &ALONE, progress)? {
        return Err(Error::interrupted(format!("interrupted; {}", store.stopped(&needs.all))));
    }
    Ok(())
}
