//! `train`: prepared folder + model -> run folder, readable from top to bottom.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::batch::{self, Split};
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest};
use crate::objective::ObjectiveConfig;
use crate::policy::{Example, Policy, examine};
use crate::posteriors::{self, Part};
use crate::progress::Progress;
use crate::schema::{self, metric, prepared};
use crate::seed::Seed;
use crate::tokenize::ModelTokenizer;
use crate::train::events::{JsonLines, Line, TensorBoard};
use crate::train::{Fit, Metrics, Observer, TrainConfig, checkpoint, fit, reference};

mod outputs;
mod tuning;

use outputs::Trained;
pub use tuning::trainable_elements;

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
    /// The same with the posterior's z, which has seen the observed label: never a headline.
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
    /// Mean KL(q || p), nats.
    #[serde(deserialize_with = "number")]
    pub kl: f64,
    /// Area under the ROC curve of the margin as a detector of flipped labels on the training split; absent
    /// without flips.
    pub audit_auroc: Option<f64>,
    /// Objective.
    pub objective: String,
    /// Latent.
    pub latent: String,
    /// K; 1 without a latent.
    pub codes: u64,
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

/// What `train --dry-run` says.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Parameters of the model, without the latent part.
    pub parameters: usize,
    /// Numbers that training changes.
    pub trainable: usize,
    /// Pairs to train on.
    pub pairs: usize,
    /// Steps to take.
    pub steps: usize,
    /// Tokens through the backbone in one epoch, shared prompts counted once.
    pub tokens_per_epoch: usize,
    /// Longest prompt and response, tokens.
    pub longest: usize,
    /// Weights, gradients and moments, MiB.
    pub state_mb: f64,
    /// Activations of the largest pass, MiB, roughly.
    pub activations_mb: f64,
}

/// What a run starts from.
struct Start {
    splits: Vec<Split>,
    tokenizer: ModelTokenizer,
    policy: Policy<f32>,
    manifest: Manifest,
}

fn start(config: &TrainConfig, seed: Seed) -> Result<Start> {
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
    let policy = tuning::start(config, tokenizer.vocab_size(), seed, longest)?;
    Ok(Start { splits, tokenizer, policy, manifest })
}

/// Says what a run would do, without doing it.
///
/// # Errors
/// As [`run`].
pub fn plan(config: &TrainConfig, seed: Seed) -> Result<Plan> {
    let config = checked(config)?;
    let Start { splits, policy, .. } = start(&config, seed)?;
    let rows = &splits[0].rows;
    let steps =
        crate::train::plan::Plan::new(rows.len(), config.batch * config.accumulate, config.epochs, config.max_steps);
    let tokens = |r: &batch::TokenRow| r.prompt_ids.len() + r.chosen_ids.len() + r.rejected_ids.len();
    let mut sizes: Vec<usize> = rows.iter().map(tokens).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let c = &policy.decoder.config;
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    // What a layer keeps of a row: see `model::layer`.
    let kept = 2 * q + 2 * kv + 2 * c.hidden_size + 2 * c.intermediate_size + c.num_attention_heads + 2;
    let largest: usize = sizes.iter().take(config.batch).sum();
    Ok(Plan {
        parameters: c.parameters(),
        trainable: policy.params.trainable_elements(),
        pairs: rows.len(),
        steps: steps.steps,
        tokens_per_epoch: sizes.iter().sum(),
        longest: batch::longest(rows),
        state_mb: policy.params.trainable_elements() as f64 * 16.0 / f64::from(1 << 20),
        activations_mb: (largest * kept * c.num_hidden_layers * 4) as f64 / f64::from(1 << 20),
    })
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
    let config = checked(config)?;
    let out = PathBuf::from(&config.out);
    // Data or a model that cannot be had leave no folder behind.
    let Start { splits, tokenizer, mut policy, manifest: data } = start(&config, seed)?;
    let config = tuning::settled(config, &policy);
    let mut manifest = Manifest::begin("train", &config)?;
    manifest.seeds.insert("run".into(), seed.0);
    let _lock = artifact::lock_folder(&out)?;
    let identity = identity(&config, seed, &data, &policy)?;
    if let Some(done) = standing(&out, &identity, config.max_steps, resume)? {
        return Ok(Ended::Already(done));
    }
    artifact::write_bytes(out.join(schema::run::CONFIG), config_text(&config, seed)?.as_bytes())?;
    let from = if resume { newest(&out, &identity, progress)? } else { None };
    if !resume && out.join(schema::run::CHECKPOINTS).exists() {
        let stale = out.join(schema::run::CHECKPOINTS);
        std::fs::remove_dir_all(&stale).map_err(Error::io(&stale))?;
    }
    tuning::remember(&mut policy, &config, &splits, progress)?;
    let reference = if config.objective.needs_reference() {
        reference::reference(&policy, &splits, &Path::new(&config.data).join("reference"), progress)?
    } else {
        reference::none(&splits)
    };
    let work = Fit {
        config: &config,
        seed,
        rows: &splits[0].rows,
        reference: &reference[0],
        checkpoints: out.join(schema::run::CHECKPOINTS),
        identity: identity.clone(),
        from,
    };
    let first = work.from.as_ref().map_or(0, |(state, _)| state.step);
    let mut log = JsonLines::open(&out.join(schema::run::METRICS), first)?;
    let mut board = TensorBoard::open(&out.join(schema::run::TENSORBOARD))?;
    let mut line = Line(progress);
    let mut evaluate = |policy: &Policy<f32>| evaluation(policy, &splits[1], &reference[1], &config.objective);
    let outcome = {
        let observers: &mut [&mut dyn Observer] = &mut [&mut log, &mut board, &mut line];
        fit(&policy, &work, observers, progress, &mut evaluate)?
    };
    if outcome.interrupted {
        return Ok(Ended::Interrupted { step: outcome.steps, steps: outcome.planned });
    }
    let trained = Trained { config: &config, seed, splits: &splits, reference: &reference, outcome };
    let summary = trained.write(&out, &policy, &tokenizer, &mut [&mut log, &mut board], progress)?;
    manifest.inputs.push(data_input(&config.data, &data)?);
    manifest.fact("identity", &identity)?;
    for name in [schema::run::CONFIG, schema::run::SUMMARY, schema::run::POSTERIORS, schema::run::CODES] {
        manifest.output(&out, name, None)?;
    }
    manifest.finish(&out)?;
    Ok(Ended::Finished(Box::new(summary)))
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

/// What makes a run this run: configuration without place and limit, seed, data and starting weights.
fn identity(config: &TrainConfig, seed: Seed, data: &Manifest, policy: &Policy<f32>) -> Result<String> {
    let config = TrainConfig {
        out: String::new(),
        data: String::new(),
        max_steps: 0,
        checkpoint_every: 0,
        keep_checkpoints: 0,
        eval_every: 0,
        save_model: true,
        head: crate::train::HeadConfig::default(),
        ..config.clone()
    };
    let tokens: Vec<&str> =
        data.outputs.iter().filter(|o| o.path.starts_with("tokens/")).map(|o| o.blake3.as_str()).collect();
    // By content: the starting model is the reference too, and a folder can be filled anew under its old name.
    let weights = reference::fingerprint::<f32>(&policy.params)?;
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

/// Means over the test split, against the clean labels.
fn evaluation(
    policy: &Policy<f32>,
    split: &Split,
    reference: &[(f64, f64)],
    objective: &ObjectiveConfig,
) -> Result<Metrics> {
    let examples = examine(policy, &split.rows, |_| {})?;
    let part = Part {
        split: &split.name,
        rows: &split.rows,
        examples: &examples,
        reference: objective.needs_reference().then_some(reference),
    };
    let margins: Vec<f64> = posteriors::margins(&part, objective)?
        .into_iter()
        .zip(&split.rows)
        .map(|(m, row)| if row.flipped { -m.0 } else { m.0 })
        .collect();
    let n = margins.len().max(1) as f64;
    let right = margins.iter().filter(|m| **m > 0.0).count() as f64;
    let mean = |get: fn(&Example) -> f64| examples.iter().map(get).sum::<f64>() / n;
    Ok(vec![
        (format!("eval_{}", metric::REWARDS_ACCURACIES), right / n),
        (format!("eval_{}", metric::REWARDS_MARGINS), margins.iter().sum::<f64>() / n),
        (format!("eval_{}", metric::LOGPS_CHOSEN), mean(|e| e.logps.0)),
        (format!("eval_{}", metric::LOGPS_REJECTED), mean(|e| e.logps.1)),
        (format!("eval_{}", metric::KL), mean(|e| e.kl)),
    ])
}
