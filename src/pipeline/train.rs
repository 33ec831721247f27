//! `train`: prepared folder + model -> run folder, readable from top to bottom.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::batch::{self, Split};
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest};
use crate::model::LlamaConfig;
use crate::policy::{Policy, basis};
use crate::progress::Progress;
use crate::schema::{self, prepared};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::train::events::{JsonLines, Line, TensorBoard};
pub use crate::train::peers;
use crate::train::plan::used;
use crate::train::reference::{Found, Wanted};
use crate::train::{Fit, Observer, Peers, Posteriors, TrainConfig, checkpoint, fit, machine, place, reference};
use crate::weights::load;

mod evaluate;
mod grouping;
mod latent;
mod outputs;
mod plan;
mod standing;
mod tuning;

use outputs::Trained;
pub use plan::{Plan, plan};
use standing::{Identity, Opened};

/// Accuracy on one source of the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceAccuracy {
    /// Source tag.
    pub source: String,
    /// Test examples.
    pub n: u64,
    /// Share of right preferences.
    pub accuracy: f64,
    /// Lower end of Wilson's 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// `summary.json`: a run's headline numbers. Accuracies are against the clean labels, with the prior's z.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Preference accuracy on the test split.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy: f64,
    /// Lower end of Wilson's 95 % interval.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_low: f64,
    /// Upper end.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_high: f64,
    /// Test examples.
    pub n_eval: u64,
    /// The same with the posterior's z, which has seen the observed label: never a headline. The same number without a
    /// posterior.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_posterior: f64,
    /// Mean implicit reward margin on the test split.
    #[serde(deserialize_with = "number")]
    pub eval_margin: f64,
    /// The test split by source.
    pub by_source: Vec<SourceAccuracy>,
    /// Steps taken.
    pub steps: u64,
    /// Median pairs per second of training steps.
    #[serde(deserialize_with = "number")]
    pub pairs_per_s: f64,
    /// Seconds in training steps.
    #[serde(deserialize_with = "number")]
    pub train_seconds: f64,
    /// Peak resident memory, MiB.
    #[serde(deserialize_with = "number")]
    pub peak_rss_mb: f64,
    /// Codes that are the prior's first choice for at least 1 % of the examples.
    pub codes_used: u64,
    /// e to the entropy of the mean prior.
    #[serde(deserialize_with = "number")]
    pub code_perplexity: f64,
    /// Codes that are the posterior's first choice for at least 1 % of the examples.
    pub codes_used_posterior: u64,
    /// Mean KL(q || p), nats; 0 without a posterior.
    #[serde(deserialize_with = "number")]
    pub kl: f64,
    /// Area under the ROC curve of the margin as a detector of flipped labels on the training split; absent
    /// without flips.
    pub audit_auroc: Option<f64>,
    /// Objective.
    pub objective: String,
    /// Latent.
    pub latent: String,
    /// K; 1 without codes.
    pub codes: u64,
    /// Flip rate that objective mix ended with: the fixed or learned one, or for `lpc-reliable` the mean of the prior's
    /// over all examples. Absent for other objectives.
    pub mix_flip_rate: Option<f64>,
    /// Seed.
    pub seed: u64,
    /// Pairs trained on.
    pub n_train: u64,
}

/// JSON has no NaN (the accuracy of a run without a test split): it is written as null and read back here.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// How `train` ended.
#[derive(Debug)]
pub enum Ended {
    /// The run folder is complete.
    Finished(Box<RunSummary>),
    /// The user stopped it after this many steps of so many.
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

/// The data of a run.
struct Data {
    splits: Vec<Split>,
    tokenizer: ModelTokenizer,
    manifest: Manifest,
    /// Longest prompt and response, tokens.
    longest: usize,
}

fn open_data(config: &TrainConfig) -> Result<Data> {
    let data = Path::new(&config.data);
    let splits = batch::read_splits(data)?;
    if splits.first().is_none_or(|s| s.rows.is_empty()) {
        return Err(Error::artifact(data, "the training split has no pairs"));
    }
    let longest = batch::longest(splits.iter().flat_map(|s| &s.rows));
    if longest > config.max_length {
        return Err(Error::artifact(data, format!("a pair has {longest} tokens, more than {}", config.max_length))
            .with_hint("prepare with a smaller --max-length, or raise it: --set train.max_length=N"));
    }
    let manifest = Manifest::read(data)?;
    let tokenizer = ModelTokenizer::open(&data.join(prepared::TOKENIZER))?;
    Ok(Data { splits, tokenizer, manifest, longest })
}

fn checked(config: &TrainConfig) -> Result<TrainConfig> {
    let faults = config.faults();
    if faults.is_empty() { Ok(config.resolved()) } else { Err(Error::Config(faults)) }
}

/// Trains, evaluates, and writes the run folder; `manifest.json` comes last.
///
/// # Errors
/// [`Error::Config`] for settings out of range; [`Error::Artifact`] for data that does not fit, or a run folder of
/// another run; [`Error::Run`] where training fails.
pub fn run(config: &TrainConfig, seed: Seed, resume: bool, progress: &dyn Progress) -> Result<Ended> {
    run_among(config, seed, resume, progress, &peers::ALONE)
}

/// [`run`] by several ranks, each of which calls this: the run of one process with their batches together. All ranks
/// end alike; the first one writes.
///
/// # Errors
/// As [`run`], at every rank.
pub fn run_among(
    config: &TrainConfig,
    seed: Seed,
    resume: bool,
    progress: &dyn Progress,
    peers: &Peers,
) -> Result<Ended> {
    peers.close(work(config, seed, resume, progress, peers))
}

fn work(config: &TrainConfig, seed: Seed, resume: bool, progress: &dyn Progress, peers: &Peers) -> Result<Ended> {
    let config = checked(config)?;
    let out = PathBuf::from(&config.out);
    let read = [&config.data, &config.model, &config.reference].map(PathBuf::from);
    let claim = artifact::Claim { stage: "train", inputs: &read };
    peers.from_first(|| claim.folder(&out))?;
    // Data or a model that cannot be had leave no folder behind.
    let data = open_data(&config)?;
    let mut policy = starting(&config, seed, &data, progress)?;
    let config = tuning::settled(config, &policy);
    let mut manifest = Manifest::begin("train", &config)?;
    manifest.seeds.insert("run".into(), seed.0);
    let splits = &data.splits;
    if config.posteriors == Posteriors::Test && splits[1..].iter().all(|s| s.rows.is_empty()) {
        let why = "\"test\" has no pairs: the prepared data has no test split; give --posteriors all";
        return Err(Error::config("train.posteriors", why));
    }
    let weights = reference::fingerprint(&policy)?;
    let identity = Identity::of(&config, seed, &data.manifest, &weights, peers)?;
    peers.same("configuration, data or model", &identity.hash)?;
    let _lock = if peers.first() { Some(claim.take(&out)?) } else { None };
    let from = match peers.from_first(|| standing::opened(&config, seed, resume, &identity, progress))? {
        Opened::Finished(done) => return Ok(Ended::Already(done)),
        Opened::From(from) => from.map(|from| *from),
    };
    let ledger = outputs::ledger(Path::new(&config.data))?;
    let keys = grouping::keys(&config, splits, &ledger, peers)?;
    let plan = config.plan(splits[0].rows.len(), peers.size());
    let used = |steps| used(&splits[0].rows, keys[0].as_deref(), plan, seed, steps);
    let first = from.as_ref().map_or(0, |(state, _)| state.step);
    let stopped = |step, what| Ok(Ended::Interrupted { step, steps: plan.steps, what });
    if !tuning::remember(&mut policy, &config, splits, &used(0..plan.warm.min(plan.steps)), peers, progress)? {
        let kept = tuning::states_folder(&config);
        return stopped(first, format!("the hidden states that were computed are kept in {}", kept.display()));
    }
    let needs = Needs::of(&config, splits, used(first..plan.steps));
    let mut book = references(&config, &policy, splits, &weights)?;
    let there = match book.look(&needs.first, peers, progress)? {
        Found::All => true,
        Found::Interrupted => false,
        Found::Less => book.compute(&policy, &needs.first, reference::WHAT, peers, progress)?,
    };
    if !there {
        return stopped(first, book.stopped(&needs.first));
    }
    let (known, wanted) = book.counts(&needs.all);
    let work = Fit {
        config: &config,
        seed,
        rows: &splits[0].rows,
        keys: keys[0].as_deref(),
        unit: policy.lpc.as_ref().map_or(1.0, |lpc| lpc.basis.unit),
        reference: &book.values()[0],
        checkpoints: out.join(schema::run::CHECKPOINTS),
        identity: identity.hash.clone(),
        about: identity.about.clone(),
        more: known < wanted,
        from,
        peers,
    };
    let mut kept: Vec<Box<dyn Observer>> = Vec::new();
    if peers.first() {
        kept.push(Box::new(JsonLines::open(&out.join(schema::run::METRICS), first)?));
        kept.push(Box::new(TensorBoard::open(&out.join(schema::run::TENSORBOARD), first)?));
    }
    let mut line = Line(progress);
    let mut evaluate = |policy: &Policy<f32>| {
        evaluate::evaluation(policy, &splits[1], &book.values()[1], keys[1].as_deref(), &config, peers)
    };
    let outcome = {
        let mut observers: Vec<&mut dyn Observer> = kept.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        observers.push(&mut line);
        fit(&mut policy, &work, &mut observers, progress, &mut evaluate)?
    };
    if outcome.interrupted {
        return stopped(outcome.steps, "a checkpoint was written".into());
    }
    if !config.tune.keeps_states() {
        // A run that ends in its warm-up is examined as every other.
        policy.states = None;
    }
    if !complete(&mut book, (&config, seed, &data), (&needs.all, &weights), peers, progress)? {
        return stopped(outcome.steps, format!("a checkpoint was written; {}", book.stopped(&needs.all)));
    }
    let trained = Trained {
        config: &config,
        seed,
        splits,
        reference: book.values(),
        keys: &keys,
        ledger: &ledger,
        swap_overlap: None.into(),
        outcome,
    };
    let examples = trained.examine(&policy, peers, progress)?;
    let summary = peers.from_first(|| {
        let mut observers: Vec<&mut dyn Observer> = kept.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        let summary = trained.write(&out, &policy, &data.tokenizer, &examples, &mut observers, progress)?;
        manifest.inputs.push(data_input(&config.data, &data.manifest)?);
        manifest.fact("identity", &identity.hash)?;
        manifest.fact("identity_of", &identity.about)?;
        manifest.fact("ranks", peers.size())?;
        for name in [schema::run::CONFIG, schema::run::SUMMARY, schema::run::POSTERIORS, schema::run::CODES] {
            manifest.output(&out, name, None)?;
        }
        manifest.finish(&out)?;
        if !config.keep_optimizer_state {
            // Not before: an unfinished run goes on from it.
            checkpoint::drop_optimizer(&out.join(schema::run::CHECKPOINTS))?;
        }
        Ok(summary)
    })?;
    Ok(Ended::Finished(Box::new(summary)))
}

/// The policy as it starts, where it will compute.
fn starting(config: &TrainConfig, seed: Seed, data: &Data, progress: &dyn Progress) -> Result<Policy<f32>> {
    let source = ModelSource::resolve(&config.model)?;
    let vocabulary = data.tokenizer.vocab_size();
    warn_of_memory(config, seed, &load::shape(&source, vocabulary)?, &data.splits, progress);
    let policy = policy_at_start(config, seed, data)?;
    basis::standardise(&policy, &data.splits[0].rows)?;
    Ok(policy)
}

/// The same but for what the latent part knows of the data.
fn policy_at_start(config: &TrainConfig, seed: Seed, data: &Data) -> Result<Policy<f32>> {
    let source = ModelSource::resolve(&config.model)?;
    let vocabulary = data.tokenizer.vocab_size();
    let mut policy = tuning::start(config, &source, vocabulary, seed, (&data.splits[0].rows, data.longest))?;
    if let Some(place) = place::open(config, peers::local_rank())? {
        policy = policy.placed(place)?;
    }
    policy.decoder.recompute = config.recompute;
    policy.decoder.precision = config.precision;
    Ok(policy)
}

/// Says so where a run will not fit into this machine's memory: it may still, on swap, or fail in hours.
fn warn_of_memory(config: &TrainConfig, seed: Seed, shape: &LlamaConfig, splits: &[Split], progress: &dyn Progress) {
    let memory = plan::Cost::of(config, seed, shape, splits).memory;
    let Some(limit) = machine::memory_mb().filter(|limit| memory.total > *limit) else { return };
    progress.warn(&format!(
        "this run needs about {:.0} MiB and the machine has {limit:.0}: {}",
        memory.total,
        memory.advice(limit, config.batch, config.accumulate).join("; ")
    ));
}

/// What a run needs the reference of: for its steps and evaluations, and for what it leaves behind.
struct Needs {
    /// Before the first step.
    first: Wanted,
    /// In all.
    all: Wanted,
}

impl Needs {
    /// Of a run whose steps have these training rows.
    fn of(config: &TrainConfig, splits: &[Split], used: Vec<bool>) -> Needs {
        let mut first = reference::all(splits);
        // What is known of a backbone that never moves gives the reference at once.
        if config.posteriors == Posteriors::Test || !config.tune.keeps_states() {
            first[0] = used;
        }
        let all = if config.posteriors == Posteriors::All { reference::all(splits) } else { first.clone() };
        Needs { first, all }
    }
}

/// Where the reference log-probabilities of all splits are: given, or in a cache that is added to.
fn references<'a>(
    config: &TrainConfig,
    policy: &Policy<f32>,
    splits: &'a [Split],
    weights: &str,
) -> Result<reference::Book<'a>> {
    let origin = reference::Origin::known(policy, weights.to_string(), splits);
    if !config.objective.needs_reference() {
        return Ok(reference::Book::full(splits, origin, reference::none(splits)));
    }
    if config.reference.is_empty() {
        return Ok(reference::Book::open(splits, origin, &Path::new(&config.data).join(prepared::REFERENCE)));
    }
    let given = reference::read(Path::new(&config.reference), splits, &origin)
        .map_err(|e| e.with_hint("--reference wants what lpc-pipe score wrote with this --model and --data"))?;
    Ok(reference::Book::full(splits, origin, given))
}

/// The reference of pairs that no step needed, by the model that training started from, which is read again; false where
/// the user interrupted it.
fn complete(
    book: &mut reference::Book<'_>,
    (config, seed, data): (&TrainConfig, Seed, &Data),
    (wanted, weights): (&Wanted, &str),
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<bool> {
    match book.look(wanted, peers, progress)? {
        Found::All => return Ok(true),
        Found::Interrupted => return Ok(false),
        Found::Less => {}
    }
    let policy = policy_at_start(config, seed, data)?;
    if reference::fingerprint(&policy)? != weights {
        return Err(Error::model(&config.model, "its weights have changed since training began")
            .with_hint("the reference of the remaining pairs needs the model that training started from"));
    }
    book.compute(&policy, wanted, "reference of the other pairs", peers, progress)
}

fn data_input(path: &str, data: &Manifest) -> Result<InputFile> {
    let rows: u64 = data.outputs.iter().filter(|o| o.path.starts_with("tokens/")).filter_map(|o| o.rows).sum();
    let (bytes, blake3) = artifact::hash_file(Path::new(path).join(prepared::MANIFEST))?;
    Ok(InputFile { path: path.to_string(), bytes, blake3, rows_read: rows, rows_kept: rows, ..InputFile::default() })
}
