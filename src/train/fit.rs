//! The training loop.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::{self, CheckpointState};
use super::config::{TrainConfig, Tune};
use super::events::{Metrics, Observer, TrainEvent};
use super::gradient_check::finite_norm;
use super::metrics::metrics;
use super::optimizer::{AdamW, AdamWConfig};
use super::ranks::layer_sums::LayerSums;
use super::ranks::{Ranks, work};
use super::rates;
use super::run_folder::Identity;
use super::step::{self, StepPass, Sums};
use super::step_plan::{Feed, StepPlan, boundary};
use super::validation::{Validated, Validation};
use crate::error::{Error, Result};
use crate::lpc::Moment;
use crate::model::Gradients;
use crate::nn::Real;
use crate::objective::{LogSum, ObjectiveConfig};
use crate::policy::Policy;
use crate::progress::Progress;
use crate::schema::metric;
use crate::seed::Seed;
use crate::token_file::TokenRow;

/// What a fit needs.
pub struct Fit<'a> {
    /// Resolved configuration.
    pub config: &'a TrainConfig,
    /// The run's seed.
    pub seed: Seed,
    /// Training rows, labels as observed.
    pub rows: &'a [TokenRow],
    /// Key of every row, where rows of one key share a code.
    pub keys: Option<&'a [u64]>,
    /// Deviation of a code's entries that is one unit of its learning rate.
    pub unit: f64,
    /// Reference log-probabilities of the rows.
    pub reference: &'a [(f64, f64)],
    /// Folder of checkpoints.
    pub checkpoints: PathBuf,
    /// What tells the run from all others.
    pub identity: &'a Identity,
    /// Whether long work follows the last step: a checkpoint is then written at the end.
    pub more: bool,
    /// The checkpoint to go on from, and its folder.
    pub from: Option<(checkpoint::CheckpointState, PathBuf)>,
    /// The ranks that train together; the first one writes checkpoints.
    pub ranks: &'a Ranks,
}

/// How a fit ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps taken in all.
    pub steps: usize,
    /// Whether the user interrupted it: a checkpoint was written and nothing else is to be done.
    pub interrupted: bool,
    /// Tokens seen, those before a resume included.
    pub tokens: u64,
    /// Seconds spent in steps, those before a resume included.
    pub seconds: f64,
    /// Median pairs per second over this time's steps; where it took none, over those of the launch before.
    pub pairs_per_s: f64,
    /// RE-PO's clean rate at the end.
    pub clean_rate: Option<f64>,
    /// The validations, where pairs are held out for them. The policy has the parameters of the best one.
    pub validation: Option<Validation>,
}

impl Outcome {
    /// The state of a checkpoint of the last step that was taken.
    pub fn checkpoint(&self, identity: &Identity) -> CheckpointState {
        let Identity { hash, about } = identity.clone();
        CheckpointState {
            step: self.steps,
            tokens: self.tokens,
            seconds: self.seconds,
            pairs_per_s: self.pairs_per_s.is_finite().then_some(self.pairs_per_s),
            clean_rate: self.clean_rate,
            validation: self.validation.clone(),
            identity: hash,
            about,
            ..CheckpointState::default()
        }
    }
}

/// Why the policy is looked at between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The metrics of the test split are due (`train.eval_every`).
    Evaluation,
    /// The metrics of the pairs of validation are due (`train.validation`).
    Validation,
    /// An epoch, its number from 1, has ended or is left by the last step: what `train.dynamics` records is due.
    EpochEnd(usize),
}

/// Does what is due, and returns metrics.
pub type Evaluate<'a, T> = dyn FnMut(&Policy<T>, &ObjectiveConfig, Due) -> Result<Metrics> + 'a;

/// Trains a policy in place; with validation it ends with the parameters that did best. `evaluate` is called where
/// something is due, with the objective as it is then, and returns metrics.
///
/// # Errors
/// [`crate::Error::Run`] where loss or gradient are not finite; those of checkpoints and observers.
pub fn fit<T: Real>(
    policy: &mut Policy<T>,
    fit: &Fit<'_>,
    observers: &mut [&mut dyn Observer],
    progress: &dyn Progress,
    evaluate: &mut Evaluate<'_, T>,
) -> Result<Outcome> {
    let (config, ranks) = (fit.config, fit.ranks);
    let plan = config.plan(fit.rows.len(), ranks.size());
    let mut optimizer = AdamW::<T>::new(AdamWConfig::of(config, plan.warm as u64), &policy.params)?;
    let (mut first, mut tokens, mut before) = (0, 0, 0.0);
    let mut clean_rate = config.objective.clean_rate();
    let mut validation = (config.validation.fraction > 0.0).then(Validation::default);
    // The step whose parameters, best in validation, the newest checkpoint relies on.
    let mut kept_best = None;
    if let Some((state, path)) = &fit.from {
        checkpoint::restore(path, &policy.params, &mut optimizer, state.step as u64)?;
        policy.decoder.refresh(&policy.params)?;
        (first, tokens, before) = (state.step, state.tokens, state.seconds);
        if validation.is_some() {
            let lacks = || Error::artifact(path, "the validations are missing");
            let found = state.validation.clone().ok_or_else(lacks)?;
            kept_best = found.best_step();
            validation = Some(found);
        }
        if clean_rate.is_some() {
            let lacks = || Error::artifact(path, "the clean rate of objective repo is missing");
            clean_rate = Some(state.clean_rate.ok_or_else(lacks)?);
        }
    }
    let (whole, latent) = (Arc::new(Gradients::new(&policy.params)), Arc::new(Gradients::of_latent(&policy.params)));
    let layer_sums = LayerSums::new(ranks, &policy.decoder, &policy.params)?;
    let mut feed = Feed::new(fit.rows, fit.keys, plan, fit.seed);
    // Pairs a second of steps that train the latent part alone, and of all others.
    let mut speeds = [Vec::new(), Vec::new()];
    let pairs_per_s = fit.from.as_ref().and_then(|(state, _)| state.pairs_per_s).unwrap_or(f64::NAN);
    let mut outcome =
        Outcome { steps: first, interrupted: false, tokens, seconds: before, pairs_per_s, clean_rate, validation };
    if let Some(last) = first.checked_sub(1).filter(|_| first >= plan.steps) {
        // A limit of steps that the checkpoint has reached already: no step is left that would end the epoch.
        if !plan.warms(last) && !config.tune.keeps_states() {
            policy.states = None;
        }
        if let Some(epoch) = plan.ends(last).filter(|_| config.dynamics) {
            evaluate(policy, &config.objective.at_clean_rate(clean_rate), Due::EpochEnd(epoch))?;
        }
    }
    progress.begin("training", Some((plan.steps.saturating_sub(first)) as u64));
    let mut step = first;
    loop {
        if plan.warms(step) && outcome.validation.as_ref().is_some_and(|v| v.warm_end.is_some()) {
            // Its other steps are passed over: what follows has the numbers that it would have had.
            progress.advance((plan.warm.min(plan.steps) - step) as u64);
            optimizer.steps = plan.warm as u64;
            step = plan.warm;
        }
        if step >= plan.steps || outcome.validation.as_ref().is_some_and(|v| v.ended) {
            break;
        }
        if let Some(validation) = outcome.validation.as_mut().filter(|_| plan.warm > 0 && step == plan.warm) {
            // The rest goes on from the best codes, not from those that the warm-up ended with.
            checkpoint::restore_best(&fit.checkpoints, &policy.params, validation)?;
            validation.leave_warmup();
        }
        let clock = Instant::now();
        let picked = feed.step(step);
        if picked.is_empty() {
            // Groups went whole into the steps before: there is nothing to learn from, and nothing to tell.
            optimizer.pass_over();
        } else {
            let warms = plan.warms(step);
            if !warms && !config.tune.keeps_states() {
                // Hidden states of the warm-up, which are wrong once the backbone changes.
                policy.states = None;
            }
            let objective = config.objective.at_clean_rate(clean_rate);
            let gradients = if warms { &latent } else { &whole };
            let taken = take(policy, fit, (&plan, step), &picked, &objective, (gradients, layer_sums.as_ref()))?;
            let Taken { sums, norm, moment } = &taken;
            if let (Some(rate), Some((clean, weights))) = (clean_rate, sums.clean.filter(|(_, weights)| *weights > 0.0))
            {
                clean_rate = Some(config.objective.next_clean_rate(rate, clean / weights));
            }
            let clip = if config.clip > 0.0 && *norm > config.clip { config.clip / (norm + 1e-6) } else { 1.0 };
            let used = rates::at(config, fit.unit, &plan, step);
            optimizer.step(&policy.params, gradients, used, clip)?;
            if !warms {
                policy.decoder.refresh(&policy.params)?;
            }
            let seconds = clock.elapsed().as_secs_f64();
            tokens += sums.tokens as u64;
            outcome.seconds += seconds;
            (outcome.tokens, outcome.clean_rate) = (tokens, clean_rate);
            // The last step of an epoch may be short: it is left out of the median.
            let of_kind = &mut speeds[usize::from(!warms)];
            if picked.len() >= plan.per_step || of_kind.is_empty() {
                of_kind.push(picked.len() as f64 / seconds);
            }
            let mut metrics = metrics(sums, *moment, &config.objective.at_clean_rate(clean_rate), policy.lpc.as_ref());
            metrics.extend([
                (metric::LEARNING_RATE.to_string(), rates::told(used, warms || config.tune == Tune::Latent)),
                (metric::GRAD_NORM.to_string(), *norm),
                (metric::EPOCH.to_string(), plan.epochs_done(step + 1)),
                (metric::NUM_TOKENS.to_string(), tokens as f64),
                (metric::TOKENS_PER_S.to_string(), sums.tokens / seconds),
                (metric::PAIRS_PER_S.to_string(), picked.len() as f64 / seconds),
                (metric::PEAK_RSS_MB.to_string(), crate::progress::peak_rss_mb()),
            ]);
            let event = TrainEvent::Step { step: step + 1, metrics };
            observers.iter_mut().try_for_each(|o| o.observe(&event))?;
        }
        outcome.steps = step + 1;
        if let Some(validation) = outcome.validation.as_mut().filter(|_| config.validation.due(&plan, step)) {
            let metrics = evaluate(policy, &config.objective.at_clean_rate(clean_rate), Due::Validation)?;
            let found = Validated::of(step + 1, &metrics, clean_rate)?;
            validate(policy, fit, validation, (found, plan.warms(step), kept_best), metrics, observers)?;
        }
        let ended = outcome.validation.as_ref().is_some_and(|v| v.ended);
        let ends_warmup = plan.warms(step) && outcome.validation.as_ref().is_some_and(|v| v.warm_end.is_some());
        let last = ended || plan.steps <= if ends_warmup { plan.warm } else { step + 1 };
        if last && ends_warmup {
            // The limit lies among the steps that are passed over: a run with a higher one goes on from there.
            outcome.steps = plan.steps;
        }
        // Before the checkpoint: a run that goes on from there has all that was due.
        if let Some(epoch) = plan.ends(step).filter(|_| config.dynamics) {
            evaluate(policy, &config.objective.at_clean_rate(clean_rate), Due::EpochEnd(epoch))?;
        }
        if config.eval_every > 0 && (step + 1) % config.eval_every == 0 && !last {
            let metrics = evaluate(policy, &config.objective.at_clean_rate(clean_rate), Due::Evaluation)?;
            if !metrics.is_empty() {
                let event = TrainEvent::Evaluation { step: step + 1, metrics };
                observers.iter_mut().try_for_each(|o| o.observe(&event))?;
            }
        }
        let stop = ranks.any(progress.interrupted())?;
        let due = config.checkpoint_every > 0 && (step + 1) % config.checkpoint_every == 0;
        // A run that a limit ends before its epochs do can go on later.
        let capped = last && !ended && plan.steps < plan.warm + plan.horizon;
        // Evaluating a long run takes time too; where that is interrupted, the training must not be lost.
        let long = last && config.checkpoint_every > 0 && plan.steps > config.checkpoint_every;
        if ((due && !last) || capped || long || (last && fit.more) || (stop && !last)) && ranks.first() {
            outcome.pairs_per_s = median(&speeds).unwrap_or(outcome.pairs_per_s);
            let state = outcome.checkpoint(fit.identity);
            kept_best = state.validation.as_ref().and_then(Validation::best_step);
            checkpoint::write(&fit.checkpoints, &policy.params, Some(&optimizer), state, config.keep_checkpoints)?;
        }
        if stop && !last {
            outcome.interrupted = true;
            break;
        }
        step += 1;
    }
    progress.end();
    if let Some(validation) = outcome.validation.as_mut().filter(|_| !outcome.interrupted) {
        // After the checkpoint: a run that goes on without the limit does not have it.
        if outcome.steps == plan.steps && config.validation.due_at_limit(&plan, plan.steps - 1) {
            let metrics = evaluate(policy, &config.objective.at_clean_rate(clean_rate), Due::Validation)?;
            let found = Validated::of(plan.steps, &metrics, clean_rate)?;
            validate(policy, fit, validation, (found, plan.warms(plan.steps - 1), kept_best), metrics, observers)?;
        }
        checkpoint::restore_best(&fit.checkpoints, &policy.params, validation)?;
        policy.decoder.refresh(&policy.params)?;
        outcome.clean_rate = validation.best.as_ref().map_or(clean_rate, |best| best.clean_rate);
    }
    outcome.pairs_per_s = median(&speeds).unwrap_or(outcome.pairs_per_s);
    Ok(outcome)
}

/// What a step found before its update.
struct Taken {
    sums: Sums,
    /// Global norm of the gradient.
    norm: f64,
    moment: Moment,
}

/// Computes the gradients of a step over the rows `picked`, of all ranks together.
fn take<T: Real>(
    policy: &Policy<T>,
    fit: &Fit<'_>,
    (plan, step): (&StepPlan, usize),
    picked: &[usize],
    objective: &ObjectiveConfig,
    (gradients, layer_sums): (&Arc<Gradients>, Option<&LayerSums>),
) -> Result<Taken> {
    let (config, ranks, warms) = (fit.config, fit.ranks, plan.warms(step));
    let per_pass = config.batch * ranks.size();
    let moment = config.lpc.moment(plan.share(step), plan.latent_share(step));
    let occasion = plan.epoch(step).0.to_string();
    let mut sums = Sums::default();
    gradients.clear::<T>()?;
    let keys: Option<Vec<u64>> = fit.keys.map(|keys| picked.iter().map(|&i| keys[i]).collect());
    let cut = |at: usize| boundary(keys.as_deref(), at, picked.len());
    // This rank's pairs of each pass that has any.
    let passes: Vec<Range<usize>> = (0..picked.len().div_ceil(per_pass))
        .map(|pass| (cut(pass * per_pass), cut((pass + 1) * per_pass)))
        .filter(|(start, end)| end > start)
        .map(|(start, end)| {
            let own = ranks.share(end - start);
            cut(start + own.start)..cut(start + own.end)
        })
        .collect();
    // Where a rank has no pairs in the last pass, its gradients are complete before those of the others.
    let last = picked.len() - (picked.len() - 1) / per_pass * per_pass;
    let layer_sums = layer_sums.filter(|_| !warms && keys.is_none() && last >= ranks.size());
    let sweep = Sweep {
        fit,
        picked,
        passes: &passes,
        about: StepPass {
            objective,
            moment,
            seed: fit.seed,
            occasion: &occasion,
            step_examples: picked.len(),
            ranks,
            backbone: !warms,
            keys: keys.as_deref(),
            joined: None,
            layer_sums,
        },
    };
    let joined = sweep.joined(policy, gradients)?;
    sweep.each(policy, joined.as_ref(), |rows, reference, pass| {
        step::pass(policy, rows, reference, pass, gradients, &mut sums)
    })?;
    sums.join(ranks)?;
    work::sum_gradients::<T>(ranks, &policy.params, gradients, layer_sums)?;
    let ids = || picked.iter().map(|&i| fit.rows[i].id.to_string()).collect();
    let norm = finite_norm::<T>(&policy.params, gradients, step + 1, &ids)?;
    Ok(Taken { sums, norm, moment })
}

/// Takes a validation, and keeps the parameters where it is the best one so far. It comes with whether it is one of the
/// latent part's warm-up, and with the step whose parameters the newest checkpoint relies on.
fn validate<T: Real>(
    policy: &Policy<T>,
    fit: &Fit<'_>,
    validation: &mut Validation,
    (found, warms, kept): (Validated, bool, Option<usize>),
    metrics: Metrics,
    observers: &mut [&mut dyn Observer],
) -> Result<()> {
    let step = found.step;
    if validation.take(found, &fit.config.validation, warms) {
        let write = || checkpoint::write_best(&fit.checkpoints, &policy.params, step, kept);
        validation.blake3 = fit.ranks.from_first(write)?;
    }
    let event = TrainEvent::Evaluation { step, metrics };
    observers.iter_mut().try_for_each(|o| o.observe(&event))
}

/// The middle rate of the steps that train all, or of the warm-up's where there are no others; none without steps.
fn median([warming, training]: &[Vec<f64>; 2]) -> Option<f64> {
    let mut sorted = if training.is_empty() { warming.clone() } else { training.clone() };
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The passes of one step.
struct Sweep<'a> {
    fit: &'a Fit<'a>,
    /// The step's rows.
    picked: &'a [usize],
    /// This rank's among them in each pass.
    passes: &'a [Range<usize>],
    /// What all passes are told, with the keys of all rows.
    about: StepPass<'a>,
}

impl Sweep<'_> {
    /// Calls `work` with rows, references and what to do for each pass of which this rank has pairs, and takes part in
    /// the meetings of the others.
    fn each<T: Real>(
        &self,
        policy: &Policy<T>,
        joined: Option<&[LogSum; 2]>,
        mut work: impl FnMut(&[&TokenRow], &[(f64, f64)], &StepPass<'_>) -> Result<()>,
    ) -> Result<()> {
        for (i, own) in self.passes.iter().enumerate() {
            if own.is_empty() {
                step::idle(policy, self.about.moment, self.about.ranks)?;
                continue;
            }
            let micro = &self.picked[own.clone()];
            let rows: Vec<&TokenRow> = micro.iter().map(|&i| &self.fit.rows[i]).collect();
            let reference: Vec<(f64, f64)> = micro.iter().map(|&i| self.fit.reference[i]).collect();
            let keys = self.about.keys.map(|keys| &keys[own.clone()]);
            let layer_sums = self.about.layer_sums.filter(|_| i + 1 == self.passes.len());
            work(&rows, &reference, &StepPass { keys, joined, layer_sums, ..self.about })?;
        }
        Ok(())
    }

    /// What Dr.DPO needs to know of all pairs of the step: where it is more than one pass of one rank, from forward
    /// passes over all of them.
    fn joined<T: Real>(&self, policy: &Policy<T>, gradients: &Arc<Gradients>) -> Result<Option<[LogSum; 2]>> {
        let ranks = self.about.ranks;
        if self.about.objective.joins().is_none() || (self.passes.len() == 1 && ranks.size() == 1) {
            return Ok(None);
        }
        let mut sums = Sums::default();
        self.each(policy, None, |rows, reference, pass| {
            step::forward(policy, rows, reference, pass, gradients, &mut sums).map(|_| ())
        })?;
        sums.join(ranks)?;
        Ok(Some(sums.joined))
    }
}
