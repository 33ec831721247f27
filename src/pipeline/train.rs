//! `train`: prepared folder + model -> run folder, readable from top to bottom.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::batch::{self, Split};
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest};
use crate::model::{LlamaConfig, load};
use crate::policy::{Policy, basis};
use crate::progress::Progress;
use crate::schema::{self, prepared};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::train::events::{JsonLines, Line, TensorBoard};
pub use crate::train::peers;
use crate::train::{Fit, Observer, Peers, TrainConfig, checkpoint, fit, machine, place, reference};

mod evaluate;
mod grouping;
mod latent;
mod outputs;
mod plan;
mod tuning;

use outputs::Trained;
pub use plan::{Plan, plan};

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
    /// The user stopped it after this many steps of so many; a checkpoint was written.
    Interrupted {
        /// Steps taken.
        step: usize,
        /// Steps planned.
        steps: usize,
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
            .with_hint("prepare with a smaller --max-length, or raise train.max_length"));
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
    let Data { splits, tokenizer, manifest: data, .. } = data;
    let weights = reference::fingerprint(&policy)?;
    let identity = identity(&config, seed, &data, &weights, peers)?;
    peers.same("configuration, data or model", &identity)?;
    let _lock = if peers.first() { Some(claim.take(&out)?) } else { None };
    let from = match peers.from_first(|| opened(&config, seed, resume, &identity, progress))? {
        Opened::Finished(done) => return Ok(Ended::Already(done)),
        Opened::From(from) => from,
    };
    let ledger = outputs::ledger(Path::new(&config.data))?;
    let keys = grouping::keys(&config, &splits, &ledger, peers)?;
    tuning::remember(&mut policy, &config, &splits, peers, progress)?;
    let Some(reference) = references(&config, &policy, &splits, weights, peers, progress)? else {
        let step = from.map_or(0, |(state, _)| state.step);
        let steps = config.plan(splits[0].rows.len(), peers.size()).steps;
        return Ok(Ended::Interrupted { step, steps });
    };
    let work = Fit {
        config: &config,
        seed,
        rows: &splits[0].rows,
        keys: keys[0].as_deref(),
        unit: policy.lpc.as_ref().map_or(1.0, |lpc| lpc.basis.unit),
        reference: &reference[0],
        checkpoints: out.join(schema::run::CHECKPOINTS),
        identity: identity.clone(),
        from,
        peers,
    };
    let first = work.from.as_ref().map_or(0, |(state, _)| state.step);
    let mut kept: Vec<Box<dyn Observer>> = Vec::new();
    if peers.first() {
        kept.push(Box::new(JsonLines::open(&out.join(schema::run::METRICS), first)?));
        kept.push(Box::new(TensorBoard::open(&out.join(schema::run::TENSORBOARD), first)?));
    }
    let mut line = Line(progress);
    let mut evaluate = |policy: &Policy<f32>| {
        evaluate::evaluation(policy, &splits[1], &reference[1], keys[1].as_deref(), &config, peers)
    };
    let outcome = {
        let mut observers: Vec<&mut dyn Observer> = kept.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        observers.push(&mut line);
        fit(&mut policy, &work, &mut observers, progress, &mut evaluate)?
    };
    if outcome.interrupted {
        return Ok(Ended::Interrupted { step: outcome.steps, steps: outcome.planned });
    }
    let trained = Trained {
        config: &config,
        seed,
        splits: &splits,
        reference: &reference,
        keys: &keys,
        ledger: &ledger,
        swap_overlap: None.into(),
        outcome,
    };
    let examples = trained.examine(&policy, peers, progress)?;
    let summary = peers.from_first(|| {
        let mut observers: Vec<&mut dyn Observer> = kept.iter_mut().map(|o| &mut **o as &mut dyn Observer).collect();
        let summary = trained.write(&out, &policy, &tokenizer, &examples, &mut observers, progress)?;
        manifest.inputs.push(data_input(&config.data, &data)?);
        manifest.fact("identity", &identity)?;
        manifest.fact("ranks", peers.size())?;
        for name in [schema::run::CONFIG, schema::run::SUMMARY, schema::run::POSTERIORS, schema::run::CODES] {
            manifest.output(&out, name, None)?;
        }
        manifest.finish(&out)?;
        Ok(summary)
    })?;
    Ok(Ended::Finished(Box::new(summary)))
}

/// The policy as it starts, where it will compute.
fn starting(config: &TrainConfig, seed: Seed, data: &Data, progress: &dyn Progress) -> Result<Policy<f32>> {
    let source = ModelSource::resolve(&config.model)?;
    let vocabulary = data.tokenizer.vocab_size();
    warn_of_memory(config, seed, &load::shape(&source, vocabulary)?, &data.splits, progress);
    let mut policy = tuning::start(config, &source, vocabulary, seed, (&data.splits[0].rows, data.longest))?;
    if let Some(place) = place::open(config, peers::local_rank())? {
        policy = policy.placed(place)?;
    }
    policy.decoder.recompute = config.recompute;
    policy.decoder.precision = config.precision;
    basis::standardise(&policy, &data.splits[0].rows)?;
    Ok(policy)
}

/// What was found in the run folder, which is ready now.
#[derive(Serialize, Deserialize)]
enum Opened {
    /// A finished run, which is all that was asked for.
    Finished(Box<RunSummary>),
    /// The checkpoint to go on from, if any.
    From(Option<(checkpoint::State, PathBuf)>),
}

fn opened(config: &TrainConfig, seed: Seed, resume: bool, identity: &str, progress: &dyn Progress) -> Result<Opened> {
    let out = Path::new(&config.out);
    if let Some(done) = standing(out, identity, config.max_steps, resume)? {
        return Ok(Opened::Finished(done));
    }
    artifact::write_bytes(out.join(schema::run::CONFIG), config_text(config, seed)?.as_bytes())?;
    let from = if resume { newest(out, identity, progress)? } else { None };
    let checkpoints = out.join(schema::run::CHECKPOINTS);
    if !resume {
        artifact::remove(&checkpoints)?;
    }
    checkpoint::prepare(&checkpoints)?;
    Ok(Opened::From(from))
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

/// The reference log-probabilities of all splits: given, from the cache, or computed; `None` where the user stops it.
fn references(
    config: &TrainConfig,
    policy: &Policy<f32>,
    splits: &[Split],
    model: String,
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<Option<reference::Reference>> {
    if !config.objective.needs_reference() {
        return Ok(Some(reference::none(splits)));
    }
    let origin = reference::Origin::known(policy, model, splits);
    if config.reference.is_empty() {
        let cache = Path::new(&config.data).join(prepared::REFERENCE);
        return reference::reference(policy, splits, &origin, &cache, peers, progress);
    }
    reference::read(Path::new(&config.reference), splits, &origin)
        .map(Some)
        .map_err(|e| e.with_hint("--reference wants what lpc-pipe score wrote with this --model and --data"))
}

/// config.toml: what ran, in the form of a recipe.
fn config_text(config: &TrainConfig, seed: Seed) -> Result<String> {
    #[derive(Serialize)]
    struct Written<'a> {
        seed: u64,
        train: &'a TrainConfig,
    }
    crate::recipe::to_toml(&Written { seed: seed.0, train: config })
}

/// What makes a run this run: configuration without place and limit, seed, data and starting weights. Two ranks with
/// four pairs each make the same run as one with eight.
fn identity(config: &TrainConfig, seed: Seed, data: &Manifest, weights: &str, peers: &Peers) -> Result<String> {
    let config = TrainConfig {
        batch: config.batch * peers.size(),
        out: String::new(),
        reference: String::new(),
        data: String::new(),
        max_steps: 0,
        checkpoint_every: 0,
        keep_checkpoints: 0,
        eval_every: 0,
        save_model: true,
        recompute: false,
        head: crate::train::HeadConfig::default(),
        ..config.clone()
    };
    let tokens: Vec<&str> =
        data.outputs.iter().filter(|o| o.path.starts_with("tokens/")).map(|o| o.blake3.as_str()).collect();
    // Weights by content: the starting model is the reference too, and a folder can be filled anew under its old name.
    crate::manifest::hash_json(&serde_json::json!({
        "config": config, "seed": seed.0, "tokens": tokens, "weights": weights,
    }))
}

/// What already stands in the run folder: a finished run is taken (with `resume`) or refused.
fn standing(out: &Path, identity: &str, max_steps: usize, resume: bool) -> Result<Option<Box<RunSummary>>> {
    let marker = out.join(prepared::MANIFEST);
    if !marker.exists() {
        return Ok(None);
    }
    let manifest = Manifest::read(out)?;
    if !resume {
        return Err(Error::artifact(out, "holds a finished run")
            .with_hint("choose another --out, or remove the folder; --resume continues a stopped run"));
    }
    if manifest.facts.get("identity").and_then(|v| v.as_str()) != Some(identity) {
        return Err(other_run(out));
    }
    let path = out.join(schema::run::SUMMARY);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let summary: RunSummary = serde_json::from_slice(&text).map_err(|e| Error::artifact(&path, e.to_string()))?;
    let before = manifest.config.get("max_steps").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    // A run that ended at its limit goes on when the limit is raised or lifted.
    if before != 0 && (max_steps == 0 || max_steps > before) && summary.steps as usize == before {
        std::fs::remove_file(&marker).map_err(Error::io(&marker))?;
        return Ok(None);
    }
    Ok(Some(Box::new(summary)))
}

fn other_run(out: &Path) -> Error {
    Error::artifact(out, "holds another run: configuration, seed, data or model differ")
        .with_hint("compare config.toml there; resume with the same settings, or choose another --out")
}

fn newest(out: &Path, identity: &str, progress: &dyn Progress) -> Result<Option<(checkpoint::State, PathBuf)>> {
    let found = checkpoint::newest(&out.join(schema::run::CHECKPOINTS), |path, error| {
        progress.warn(&format!("{}: passed over: {error}", path.display()));
    })?;
    match found {
        Some((state, _)) if state.identity != identity => Err(other_run(out)),
        Some((state, path)) => {
            progress.note(&format!("resuming after step {}", state.step));
            Ok(Some((state, path)))
        }
        None => {
            progress.note("no checkpoint to resume from: starting from the beginning");
            Ok(None)
        }
    }
}

fn data_input(path: &str, data: &Manifest) -> Result<InputFile> {
    let rows: u64 = data.outputs.iter().filter(|o| o.path.starts_with("tokens/")).filter_map(|o| o.rows).sum();
    let (bytes, blake3) = artifact::hash_file(Path::new(path).join(prepared::MANIFEST))?;
    Ok(InputFile { path: path.to_string(), bytes, blake3, rows_read: rows, rows_kept: rows, ..InputFile::default() })
}
