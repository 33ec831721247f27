//! `audit`: run folder -> training pairs ranked by the evidence that their label is wrong, and a cleaned prepared folder.
//!
//! 1. Each part of the prompts is ranked by a model trained on the others (`folds`).
//! 2. [`crate::audit::rank`] concludes from these, from the run's own posteriors and from the data.
//! 3. `audit.parquet`, `summary.json`; with an action, `cleaned/` or `review.csv` (`clean`, `review`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use super::opened::located_model;
use super::recipe::AuditConfig;
use super::recipe::audit::AuditAction;
use crate::artifact;
use crate::audit::signals::PairSignals;
use crate::audit::{self, Audit, Detection, signals, verdicts};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::report;
use crate::schema::{self, SPLITS, col, prepared, run};
use crate::seed::Seed;
use crate::settings::Settings;
use crate::train::TrainConfig;

mod clean;
mod folds;
mod review;

use clean::{Change, Cleaned};

/// What an audit found, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditSummary {
    /// The folder written.
    pub out: String,
    /// The audited run.
    pub run: String,
    /// Prepared folder of its pairs.
    pub data: String,
    /// Training pairs.
    pub pairs: u64,
    /// Estimated rate of wrong labels.
    pub noise_rate: f64,
    /// Lower end of its 95 % interval (bootstrap over prompts).
    pub noise_rate_low: f64,
    /// Upper end.
    pub noise_rate_high: f64,
    /// That the interval is too wide for the probabilities to be relied on; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Estimated rate by source.
    pub noise_rate_by_source: std::collections::BTreeMap<String, f64>,
    /// Hoelder-DPO's estimate of the rate.
    pub hoelder_rate: f64,
    /// Factor by which the models' log-odds were made as sure as the labels allow.
    pub slope: f64,
    /// Share that the margin over the epochs has in the evidence; absent where the models did not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs_share: Option<f64>,
    /// Pairs whose label is wrong with a probability above one half.
    pub likely_wrong: u64,
    /// How well known flips are found; absent where `prepare` flipped no label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// Pairs that the page shows.
    pub worst: u64,
    /// What was done.
    pub action: AuditAction,
    /// Counts of the cleaned folder; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleaned: Option<Cleaned>,
    /// Pairs in the table for review; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_review: Option<u64>,
    /// Pairs above the threshold that the table leaves out, because it has `worst` pairs; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_for_review: Option<u64>,
}

/// The audited run: its settings and its seed.
struct Audited {
    config: TrainConfig,
    /// Data, model, reference and cache of hidden states as the run names them.
    named: [String; 4],
    seed: Seed,
    /// Hash of the manifest of the prepared folder that it was trained on.
    data: Option<String>,
    /// Fingerprint of the weights that it started from.
    weights: Option<String>,
}

/// Fingerprint of the weights that a finished run started from.
fn starting_weights(manifest: &Manifest) -> Option<String> {
    let of = manifest.facts.get(schema::fact::IDENTITY_OF)?;
    of.get(schema::fact::WEIGHTS)?.as_str().map(String::from)
}

impl Audited {
    /// Reads the manifest of a finished run.
    ///
    /// # Errors
    /// [`Error::Artifact`] where the folder is not that of a finished run, or of one that cannot be repeated.
    fn read(folder: &Path) -> Result<Audited> {
        let manifest = Manifest::read(folder)?;
        if manifest.stage != "train" {
            return Err(Error::artifact(folder, format!("written by `{}`, not by `train`", manifest.stage))
                .with_hint("--run wants the output folder of lpc-pipe train"));
        }
        let mut config: TrainConfig = serde_json::from_value(manifest.config.clone())
            .map_err(|e| Error::artifact(folder, format!("settings in its manifest that cannot be used: {e}")))?;
        let named = [&config.data, &config.model, &config.reference, &config.head.cache].map(Clone::clone);
        for path in [&mut config.data, &mut config.head.cache] {
            *path = manifest.located(folder, path);
        }
        config.reference = located_model(&manifest, folder, &config.reference);
        config.model = located_model(&manifest, folder, &config.model);
        let seed = manifest.seeds.get("run").copied().map(Seed);
        let seed = seed.ok_or_else(|| Error::artifact(folder, "its manifest has no seed"))?;
        let data = manifest.inputs.first().map(|input| input.blake3.clone());
        Ok(Audited { config, named, seed, data, weights: starting_weights(&manifest) })
    }
}

/// Audits the training pairs of a run. What was trained is kept, so that the same command goes on after a crash, and
/// another action trains nothing.
///
/// # Errors
/// [`Error::Config`] for settings out of range; [`Error::Artifact`] where run or data are missing or have changed, training
/// pairs share an id, or a table for review would replace one with verdicts; [`Error::Data`] for verdicts that are not understood; those of training.
pub fn run(config: &AuditConfig, progress: &dyn Progress) -> Result<AuditSummary> {
    config.check()?;
    let (folder, out) = (PathBuf::from(&config.run), PathBuf::from(&config.out));
    let audited = Audited::read(&folder)?;
    let data = PathBuf::from(&audited.config.data);
    // The verdicts may be those in `review.csv` of this folder, which is not written where they are given.
    let read = [folder.clone(), data.clone()];
    let claim = artifact::Claim { stage: "audit", inputs: &read };
    claim.folder(&out)?;
    let decided = if config.verdicts.is_empty() { None } else { Some(verdicts::read(Path::new(&config.verdicts))?) };
    let for_review = config.action == AuditAction::Review && decided.is_none();
    if for_review {
        review::without_verdicts(&out)?;
    }
    let mut manifest = Manifest::begin("audit", config)?;
    let prepared = Manifest::read(&data)?;
    let pairs = data_pairs(&data, &prepared)?;
    let (_, written) = artifact::hash_file(data.join(schema::prepared::MANIFEST))?;
    if audited.data.as_ref().is_some_and(|hash| *hash != written) {
        progress
            .warn("the prepared folder was written again since the run: run_margin is that of pairs with the same id");
    }
    without_copies(&data, &pairs)?;
    folds::check(config, &audited, &pairs)?;
    let _lock = claim.take(&out)?;

    let folds = folds::train(config, &audited, &out, progress)?;
    let own = artifact::read_parquet(folder.join(run::POSTERIORS))?;
    let signals: Vec<PairSignals> = signals::read(&folds, &own, &pairs)?;
    let found = audit::rank(signals, audited.seed);
    artifact::write_parquet(out.join(schema::audit::AUDIT), &mut found.frame()?)?;
    let mut summary = summary(config, &audited, &found);
    summary.warning.iter().for_each(|line| progress.warn(line));

    let changes = changes(config, &found, decided)?;
    let cleaned = out.join(schema::audit::CLEANED);
    if changes.is_none() && cleaned.exists() {
        // Somebody may be training on it: it stays, and here as on the page it is told what it is.
        progress.warn(&format!("{} is that of an earlier audit: this one writes no cleaned folder", cleaned.display()));
    }
    if let Some(changes) = changes {
        summary.cleaned = Some(clean::write(&data, &prepared, &pairs, &changes, config, &cleaned)?);
    }
    if for_review {
        let (written, left_out) = review::write(&out, &found, &pairs, config)?;
        (summary.for_review, summary.not_for_review) = (Some(written), Some(left_out));
    }
    artifact::write_json(out.join(schema::audit::SUMMARY), &summary)?;
    manifest.seeds.insert("run".into(), audited.seed.0);
    for name in [schema::audit::AUDIT, schema::audit::SUMMARY] {
        manifest.output(&out, name, None)?;
    }
    manifest.finish(&out)?;
    report::write(&out)?;
    Ok(summary)
}

/// The training pairs of a prepared folder.
fn data_pairs(data: &Path, manifest: &Manifest) -> Result<DataFrame> {
    let name = prepared::pairs(SPLITS[0]);
    manifest.verify(data, &name)?;
    artifact::read_parquet(data.join(name))
}

/// Refuses copies of a pair, which share its id: what is said of a pair could not be told apart from what is said of its copy.
///
/// # Errors
/// [`Error::Artifact`] with the first such pair.
fn without_copies(data: &Path, pairs: &DataFrame) -> Result<()> {
    let ids = pairs.column(col::ID)?.str()?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    ids.iter().flatten().for_each(|id| *counts.entry(id).or_default() += 1);
    let Some(id) = ids.iter().flatten().find(|id| counts[id] > 1) else { return Ok(()) };
    let n: usize = counts.values().filter(|n| **n > 1).sum();
    let message = format!("{n} of {} training pairs are copies of each other, as those of pair {id}", pairs.height());
    Err(Error::artifact(data, message).with_hint(
        "an audit wants each pair once: prepare without prepare.pairs.dedup = \"none\", and train on that folder",
    ))
}

fn summary(config: &AuditConfig, audited: &Audited, found: &Audit) -> AuditSummary {
    AuditSummary {
        out: config.out.clone(),
        run: config.run.clone(),
        data: audited.config.data.clone(),
        pairs: found.pairs.len() as u64,
        noise_rate: found.noise.rate,
        noise_rate_low: found.noise.interval.0,
        noise_rate_high: found.noise.interval.1,
        warning: found.noise.uncertain().then(|| uncertain(found.noise.interval)),
        noise_rate_by_source: found.noise.by_source.clone(),
        hoelder_rate: found.hoelder_rate,
        slope: found.noise.slope,
        epochs_share: found.epochs_share,
        likely_wrong: found.pairs.iter().filter(|pair| pair.p_wrong > 0.5).count() as u64,
        detection: found.detection(),
        worst: config.worst as u64,
        action: config.action,
        cleaned: None,
        for_review: None,
        not_for_review: None,
    }
}

/// What an interval of the rate that is too wide means.
fn uncertain((low, high): (f64, f64)) -> String {
    format!(
        "the rate of wrong labels may be anything from {:.1} to {:.1} %: these pairs are too few, or the models too \
         unsure of them, to tell how far their log-odds can be relied on. p_wrong may be too high, and --action drop or \
         flip would change right labels, perhaps more of them than wrong ones; prefer --action review or weight",
        100.0 * low,
        100.0 * high,
    )
}

/// What is to be done with each training pair; none where there is no cleaned folder to write.
///
/// # Errors
/// [`Error::Data`] where a verdict is about a pair that is not among the training pairs.
fn changes(
    config: &AuditConfig,
    found: &Audit,
    decided: Option<HashMap<String, verdicts::Verdict>>,
) -> Result<Option<Vec<Change>>> {
    let wrong = |change: Change| {
        let of = |pair: &audit::AuditedPair| if pair.p_wrong > config.threshold { change } else { Change::Keep };
        found.pairs.iter().map(of).collect::<Vec<Change>>()
    };
    let by_verdict = |mut decided: HashMap<String, verdicts::Verdict>| -> Result<Vec<Change>> {
        let of = |pair: &audit::AuditedPair| match decided.remove(&pair.signals.id) {
            None | Some(verdicts::Verdict::Keep) => Change::Keep,
            Some(verdicts::Verdict::Flip) => Change::Flip,
            Some(verdicts::Verdict::Drop) => Change::Drop,
        };
        let changes = found.pairs.iter().map(of).collect();
        match decided.keys().min() {
            None => Ok(changes),
            Some(id) => Err(Error::Data {
                path: PathBuf::from(&config.verdicts),
                line: None,
                field: Some("id".into()),
                message: format!("pair {id} is not among the training pairs ({} in all are not)", decided.len()),
                hint: None,
            }),
        }
    };
    Ok(match (config.action, decided) {
        (AuditAction::Drop, _) => Some(wrong(Change::Drop)),
        (AuditAction::Flip, _) => Some(wrong(Change::Flip)),
        (AuditAction::Weight, _) => Some(found.pairs.iter().map(|pair| Change::Weight(1.0 - pair.p_wrong)).collect()),
        (AuditAction::Review, Some(decided)) => Some(by_verdict(decided)?),
        (AuditAction::Review | AuditAction::None, _) => None,
    })
}
