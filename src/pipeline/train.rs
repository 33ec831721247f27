//! `train`: prepared folder + model -> run folder.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::opened;
use crate::artifact;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::model::LlamaConfig;
use crate::objective::ObjectiveConfig;
use crate::policy::{Policy, basis};
use crate::posteriors::ExaminedParts;
use crate::progress::Progress;
use crate::schema;
use crate::seed::Seed;
use crate::settings::Settings;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::train::device;
use crate::train::events::{JsonLines, StatusLine, TensorBoard};
use crate::train::ranks::ALONE;
use crate::train::reference::store::WHAT;
use crate::train::reference::{OtherReference, Reference, ReferenceNeeds, ReferenceStore};
use crate::train::run_folder::{self, Identity, Opened, RunWeights};
use crate::train::step_plan::used;
use crate::train::{
    Due, Fit, Observer, Posteriors, Ranks, TrainConfig, checkpoint, estimate, fit, grouping, reference, tuning,
};
use crate::weights::load;

mod data;
mod dry_run;
mod dynamics;
mod outputs;
mod shared;
mod summary;

use data::Data;
pub use dry_run::{DryRun, dry_run, dry_run_at, memory_mb};
use outputs::{Examination, Trained};
pub use shared::share;
pub use summary::RunSummary;

/// How `train` ended.
#[derive(Debug)]
pub enum Ended {
    /// The run folder is complete.
    Finished(Box<RunSummary>),
    /// The user stopped it.
    Interrupted {
        /// Steps taken.
        step: usize,
        /// Steps planned.
        steps: usize,
        /// What is kept, in words.
        what: String,
    },
    /// The run folder was complete already, and `resume` was asked for.
    Already(Box<RunSummary>),
}

impl Ended {
    /// The summary of a run that is complete.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where it was stopped.
    pub fn summary(self) -> Result<RunSummary> {
        match self {
            Ended::Finished(summary) | Ended::Already(summary) => Ok(*summary),
            Ended::Interrupted { step, steps, what } => {
                Err(Error::interrupted(format!("interrupted after step {step} of {steps}; {what}")))
            }
        }
    }
}

/// The configuration with every default written out and the model in place of its run folder, if it has no fault.
fn checked(config: &TrainConfig) -> Result<TrainConfig> {
    config.check()?;
    let mut config = config.resolved();
    config.model = opened::model_name(&config.model)?;
    if let Some(reference) = config.reference_model() {
        config.reference = opened::model_name(reference)?;
    }
    Ok(config)
}

/// Trains, evaluates, and writes the run folder; `manifest.json` comes last.
///
/// # Errors
/// [`Error::Config`] for settings out of range; [`Error::Artifact`] for data that does not fit, a run folder of another
/// run, or without `resume` one of a stopped or finished run; [`Error::Run`] where training fails.
pub fn run(config: &TrainConfig, seed: Seed, resume: bool, progress: &dyn Progress) -> Result<Ended> {
    run_among(config, seed, resume, progress, &ALONE)
}

/// [`run`] by several ranks, each of which calls this. The run is that of one process with the batches of all ranks
/// together. All ranks end alike; the first one writes.
///
/// # Errors
/// As [`run`], at every rank.
pub fn run_among(
    config: &TrainConfig,
    seed: Seed,
    resume: bool,
    progress: &dyn Progress,
    ranks: &Ranks,
) -> Result<Ended> {
    ranks.close(work(config, seed, resume, progress, ranks))
}

fn work(config: &TrainConfig, seed: Seed, resume: bool, progress: &dyn Progress, ranks: &Ranks) -> Result<Ended> {
    let config = checked(config)?;
    let out = PathBuf::from(&config.out);
    let read = [&config.data, &config.model, &config.reference].map(PathBuf::from);
    let claim = artifact::Claim { stage: "train", inputs: &read };
    ranks.from_first(|| claim.folder(&out))?;
    // Data and model are read before the folder is made, so that a failure leaves none behind.
    let data = Data::open(&config)?;
    let mut policy = starting(&config, seed, &data, progress)?;
    let config = tuning::settled(config, &policy);
    let mut manifest = Manifest::begin("train", &config)?;
    manifest.seeds.insert("run".into(), seed.0);
    let held_out = config.held_out();
    let fold = held_out.fold;
    if config.posteriors == Posteriors::Test && fold.is_none() && data.splits[1].rows.is_empty() {
        let why = "\"test\" has no pairs: the prepared data has no test split; give --posteriors all";
        return Err(Error::config("train.posteriors", why));
    }
    let own = held_out.any().then(|| held_out.splits(seed, &data.splits));
    let splits = own.as_ref().unwrap_or(&data.splits);
    held_out.check(splits)?;
    if let Some(warning) = held_out.warning(splits) {
        progress.warn(&warning);
    }
    let weights = reference::fingerprint(&policy)?;
    let other = other_reference(&config, seed, &data, progress)?;
    let of_other = other.as_ref().map(|other| other.fingerprint.as_str());
    let identity =
        Identity::of(&config, seed, &data.manifest, RunWeights { start: &weights, reference: of_other }, ranks)?;
    ranks.same("configuration, data or model", &identity.hash)?;
    let _lock = if ranks.first() { Some(claim.take(&out)?) } else { None };
    let text = config_text(&config, seed)?;
    let from = match ranks.from_first(|| run_folder::open(&config, &text, resume, &identity, progress))? {
        Opened::Finished(done) => return Ok(Ended::Already(done)),
        Opened::From(from) => from.map(|from| *from),
    };
    let keys = grouping::keys(&config, splits, ranks)?;
    let plan = config.plan(splits[0].rows.len(), ranks.size());
    if plan.steps == 0 {
        let why = format!("{} of {} pairs is no step", config.epochs, splits[0].rows.len());
        return Err(Error::config("train.epochs", why));
    }
    let used = |steps| used(&splits[0].rows, keys[0].as_deref(), plan, seed, steps);
    let first = from.as_ref().map_or(0, |(state, _)| state.step);
    let stopped = |step, what| Ok(Ended::Interrupted { step, steps: plan.steps, what });

    // What is computed before the first step: hidden states of a frozen backbone, reference log-probabilities. With a
    // fold they are computed for all training pairs, so that the other folds find them in the cache.
    // `train.dynamics` evaluates all pairs, whichever of them the steps have used.
    let of_steps = |steps| if config.dynamics { vec![true; splits[0].rows.len()] } else { used(steps) };
    let whole = |split: &Split| vec![true; split.rows.len()];
    let with_held_out = |left: Vec<bool>| held_out.joined(seed, &data.splits[0].rows, &left);
    let warming = match fold {
        None => with_held_out(of_steps(0..plan.warm.min(plan.steps))),
        Some(_) => whole(&data.splits[0]),
    };
    if !tuning::remember(&mut policy, &config, &data.splits, &warming, ranks, progress)? {
        let kept = tuning::states_folder(&config);
        return stopped(first, format!("the hidden states that were computed are kept in {}", kept.display()));
    }
    let needs = match fold {
        None => ReferenceNeeds::of(&config, &data.splits, with_held_out(of_steps(first..plan.steps))),
        Some(_) => ReferenceNeeds::of_training(&data.splits),
    };
    let needs = if other.is_some() { needs.at_once() } else { needs };
    let of_reference = of_other.unwrap_or(&weights);
    let reference_policy = other.as_ref().map_or(&policy, |other| &other.policy);
    let mut store = ReferenceStore::of_run(&config, reference_policy, &data.splits, of_reference)?;
    if !store.provide(&needs.first, WHAT, || Ok(reference_policy), ranks, progress)? {
        return stopped(first, store.stopped(&needs.first));
    }
    // Another model is in memory until here.
    drop(other);
    let of_run = |values: &Reference| held_out.any().then(|| held_out.divide(seed, &data.splits[0].rows, values));
    let divided = of_run(store.values());
    let reference = divided.as_ref().unwrap_or(store.values());

    let work = Fit {
        config: &config,
        seed,
        rows: &splits[0].rows,
        keys: keys[0].as_deref(),
        unit: policy.lpc.as_ref().map_or(1.0, |lpc| lpc.basis.unit),
        reference: &reference[0],
        checkpoints: out.join(schema::run::CHECKPOINTS),
        identity: &identity,
        more: store.lacks(&needs.all),
        from,
        ranks,
    };
    let mut files: Vec<Box<dyn Observer>> = Vec::new();
    if ranks.first() {
        files.push(Box::new(JsonLines::open(&out.join(schema::run::METRICS), first)?));
        files.push(Box::new(TensorBoard::open(&out.join(schema::run::TENSORBOARD), first)?));
    }
    let mut line = StatusLine(progress);
    let mut evaluate = |policy: &Policy<f32>, objective: &ObjectiveConfig, due: Due| match due {
        Due::Evaluation => {
            let config = TrainConfig { objective: objective.clone(), ..config.clone() };
            outputs::evaluate(policy, &splits[1], &reference[1], keys[1].as_deref(), &config, ranks)
        }
        Due::Validation => outputs::validate(policy, &splits[2], &reference[2], objective, ranks),
        Due::EpochEnd(epoch) => {
            dynamics::record(&out, epoch, policy, splits, reference, objective, ranks)?;
            Ok(Vec::new())
        }
    };
    let outcome = {
        let mut observers: Vec<&mut dyn Observer> = files.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        observers.push(&mut line);
        fit(&mut policy, &work, &mut observers, progress, &mut evaluate)?
    };
    if outcome.interrupted {
        return stopped(outcome.steps, "a checkpoint was written".into());
    }
    if let Some(validation) = &outcome.validation {
        progress.note(&summary::kept(validation, outcome.steps, splits[2].rows.len()));
    }

    if !config.tune.keeps_states() {
        // A run that ends in its warm-up still has the hidden states, but is evaluated like every other run.
        policy.states = None;
    }
    let (checkpoints, outcome_steps) = (out.join(schema::run::CHECKPOINTS), outcome.steps);
    let again = || {
        let source = ModelSource::resolve(&config.model, progress)?;
        let policy = tuning::start(&config, &source, seed, data.for_policy(&source))?;
        reference::unchanged(&policy, &weights, &config.model)?;
        Ok(policy)
    };
    // Training is over, and must not be lost where what follows is interrupted.
    let last = outcome.checkpoint(&identity);
    let late = |what: String| {
        if ranks.first() && !checkpoint::exists(&checkpoints, last.step) {
            checkpoint::write::<f32>(&checkpoints, &policy.params, None, last, config.keep_checkpoints)?;
        }
        stopped(outcome_steps, format!("a checkpoint was written; {what}"))
    };
    if !store.provide(&needs.all, "reference of the other pairs", again, ranks, progress)? {
        return late(store.stopped(&needs.all));
    }
    // What an objective learnt outside the policy is part of it from here on.
    let config = TrainConfig { objective: config.objective.at_clean_rate(outcome.clean_rate), ..config.clone() };
    let divided = of_run(store.values());
    let reference = divided.as_ref().unwrap_or(store.values());
    let trained = Trained { config: &config, seed, splits, reference, keys: &keys, outcome };
    let parts = ExaminedParts::in_folder(
        checkpoints.join(schema::run::EXAMINED),
        format!("{} after {} steps", identity.hash, trained.outcome.steps),
    );
    let examined = match trained.examine(&policy, parts, ranks, progress)? {
        Examination::Whole(examined) => examined,
        Examination::Stopped { kept, all } => {
            return late(format!("the posteriors of {kept} of {all} pairs are kept"));
        }
    };
    let summary = ranks.from_first(|| {
        let mut observers: Vec<&mut dyn Observer> = files.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        let summary = trained.write(&out, &policy, &data.tokenizer, &examined, &mut observers, progress)?;
        manifest.inputs.push(data.input(&config.data)?);
        manifest.fact(schema::fact::IDENTITY, &identity.hash)?;
        manifest.fact(schema::fact::IDENTITY_OF, &identity.about)?;
        manifest.fact(schema::fact::DIRECTORY, std::env::current_dir().map_err(Error::io("."))?)?;
        manifest.fact("ranks", ranks.size())?;
        for name in [schema::run::CONFIG, schema::run::SUMMARY, schema::run::POSTERIORS, schema::run::CODES] {
            manifest.output(&out, name, None)?;
        }
        if config.dynamics {
            manifest.output(&out, schema::run::DYNAMICS, None)?;
        }
        manifest.finish(&out)?;
        examined.forget();
        if !config.keep_optimizer_state {
            // After the manifest, because an unfinished run is resumed from the optimizer's state.
            checkpoint::drop_optimizer(&out.join(schema::run::CHECKPOINTS))?;
        }
        Ok(summary)
    })?;
    Ok(Ended::Finished(Box::new(summary)))
}

/// The policy before the first step; warnings where pairs are longer than the model was made for, where the run will not
/// fit into memory, and where the model has codes.
fn starting(config: &TrainConfig, seed: Seed, data: &Data, progress: &dyn Progress) -> Result<Policy<f32>> {
    let source = ModelSource::resolve(&config.model, progress)?;
    let shape = load::shape(&source, data.tokenizer.vocabulary_for(&source))?;
    fitting(config, &data.splits, &data.tokenizer, &source, &shape)?;
    warnings(&source, &shape, data.longest).iter().for_each(|warning| progress.warn(warning));
    if let Some(warning) = estimate::memory_warning(config, seed, &shape, &data.splits) {
        progress.warn(&warning);
    }
    let policy = tuning::start(config, &source, seed, data.for_policy(&source))?;
    if let Some(device) = device::announced(policy.decoder.place()) {
        progress.note(&device);
    }
    basis::standardise(&policy, &data.splits[0].rows)?;
    Ok(policy)
}

/// The reference where it is another model than the one that training starts from. It must read the prepared tokens as
/// the model does.
fn other_reference(
    config: &TrainConfig,
    seed: Seed,
    data: &Data,
    progress: &dyn Progress,
) -> Result<Option<OtherReference>> {
    let Some(name) = config.reference_model() else { return Ok(None) };
    let source = ModelSource::resolve(name, progress)?;
    if tuning::dropped_codes(&source).is_some() {
        progress
            .warn("the reference has codes beside it (lpc_config.json), which are not read: it is its weights alone");
    }
    let vocabulary = data.tokenizer.vocabulary_for(&source);
    let shape = load::shape(&source, vocabulary)?;
    fitting(config, &data.splits, &data.tokenizer, &source, &shape).map_err(|e| about_reference(e, name))?;
    OtherReference::open(config, &source, vocabulary, seed, data.longest).map(Some)
}

/// The error of a reference that does not fit the data, which else is read as one of the model.
fn about_reference(error: Error, name: &str) -> Error {
    error.with_hint(format!("the model that is meant is the reference, {name}: it must have the tokenizer of the data"))
}

/// Refuses a model that reads other tokens than the prepared ones, or has no embedding for some.
fn fitting(
    config: &TrainConfig,
    splits: &[Split],
    tokenizer: &ModelTokenizer,
    source: &ModelSource,
    shape: &LlamaConfig,
) -> Result<()> {
    let folder = Path::new(&config.data);
    opened::require_tokens(folder, splits, source)?;
    opened::require_embedded(folder, splits, tokenizer, shape)
}

/// What is to be known of a model before it is trained on pairs of up to `longest` tokens.
fn warnings(source: &ModelSource, shape: &LlamaConfig, longest: usize) -> Vec<String> {
    let codes = tuning::dropped_codes(source).map(str::to_string);
    opened::beyond_positions(source, shape, longest).into_iter().chain(codes).collect()
}

/// `config.toml`: the resolved configuration as a recipe.
fn config_text(config: &TrainConfig, seed: Seed) -> Result<String> {
    #[derive(Serialize)]
    struct RunRecipe<'a> {
        seed: u64,
        train: &'a TrainConfig,
    }
    crate::settings::to_toml(&RunRecipe { seed: seed.0, train: config })
}
