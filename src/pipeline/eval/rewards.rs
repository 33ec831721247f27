//! The reward that a model gives a response.

use std::path::{Path, PathBuf};

use super::Work;
use super::preference::Compared;
use crate::error::{Error, Result};
use crate::eval::ChoiceScore;
use crate::manifest::Manifest;
use crate::objective::{ObjectiveConfig, ObjectiveKind, Reduction};
use crate::pipeline::kept::QuestionWithShift;
use crate::pipeline::opened::{self, ForInference, OpenedModel};
use crate::pipeline::recipe::EvalConfig;
use crate::pipeline::recipe::eval::Reward;
use crate::policy::{PromptLatent, saved};
use crate::progress::Progress;
use crate::schema::{fact, prepared};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::{Tune, reference, tuning};

/// Log-probabilities of all responses, each with the z of its prompt.
pub fn scored(
    work: &Work<'_>,
    title: &str,
    model: &ForInference,
    compared: &[Compared],
    latents: &[PromptLatent],
) -> Result<Vec<Vec<ChoiceScore>>> {
    let shift = |at: usize| latents.get(at).and_then(|latent| latent.shift.clone());
    let given: Vec<QuestionWithShift> =
        compared.iter().enumerate().map(|(at, c)| (c.tokens.clone(), shift(at))).collect();
    work.scored(model, &given, title)
}

/// The reference of the implicit reward.
pub struct RewardReference {
    /// As the user, or the run, names it.
    name: String,
    source: ModelSource,
    model: ForInference,
    /// [`reference::fingerprint`] of its weights.
    pub fingerprint: String,
}

impl RewardReference {
    /// Opens the reference: the model that was named, else the run's own, which must have the weights that it had then.
    ///
    /// # Errors
    /// [`Error::Config`] where there is none; [`Error::Model`] for another model than the run's; as [`saved::open`].
    pub fn open(
        config: &EvalConfig,
        opened: &OpenedModel,
        longest: usize,
        seed: Seed,
        progress: &dyn Progress,
    ) -> Result<RewardReference> {
        let Named { name, path, run } = named(config)?;
        let source = opened::source(&path, progress)?;
        let vocab_size = opened.tokenizer.vocabulary_for(&source);
        let policy = saved::open::<f32>(&source, vocab_size, seed, longest)?;
        let fingerprint = reference::fingerprint(&policy)?;
        if let Some(TrainedRun { folder, tune, weights: Some(weights) }) = &run
            && !tuning::is_start(&fingerprint, &source, *tune, vocab_size, weights)?
        {
            let message = format!(
                "is not the reference of run {}: it has other weights than the run's reference had",
                folder.display()
            );
            return Err(Error::model(path, message)
                .with_hint("put that model back, or name the reference that is meant: --reference MODEL"));
        }
        let model = ForInference::of(policy, longest, config.precision, Some(fingerprint.clone()))?;
        Ok(RewardReference { name, source, model, fingerprint })
    }
}

/// A reference as it is named.
struct Named {
    name: String,
    /// Where it is.
    path: String,
    /// The run that it is the reference of, where the user named none.
    run: Option<TrainedRun>,
}

/// The run that is evaluated.
struct TrainedRun {
    folder: PathBuf,
    tune: Tune,
    /// Fingerprint of the reference's weights.
    weights: Option<String>,
}

/// Refuses a reference in whose tokenizer the ids stand for other tokens, before the model has scored anything.
///
/// # Errors
/// As [`OpenedModel::require_same_tokens`].
pub fn require_tokens_of_reference(work: &Work<'_>, compared: &[Compared]) -> Result<()> {
    let Some(named) = work.reference else { return Ok(()) };
    let ids = compared.iter().flat_map(|c| c.tokens.choices.iter().flatten().chain(&c.tokens.context));
    work.opened.require_same_tokens(&named.name, &named.source, ids.copied().collect())
}

/// The reward of every response, and what it is in words; the implicit reward has a reference.
pub fn rewarded(
    work: &Work<'_>,
    compared: &[Compared],
    logps: Vec<Vec<ChoiceScore>>,
) -> Result<(Vec<Vec<f64>>, String)> {
    let each = |of: &dyn Fn(usize, usize, f64) -> f64| -> Vec<Vec<f64>> {
        let row = |(i, scores): (usize, &Vec<ChoiceScore>)| {
            scores.iter().enumerate().map(|(j, score)| of(i, j, score.logp)).collect()
        };
        logps.iter().enumerate().map(row).collect()
    };
    let length = |i: usize, j: usize| compared[i].tokens.choices[j].len() as f64;
    match (work.config.reward, work.reference) {
        (Reward::Sum, _) => Ok((each(&|_, _, logp| logp), "log-probability, summed over tokens".into())),
        (Reward::Mean, _) => Ok((each(&|i, j, logp| logp / length(i, j)), "log-probability for each token".into())),
        (Reward::Implicit | Reward::ImplicitMean, None) => Err(Error::run("the implicit reward has no reference")),
        (reward @ (Reward::Implicit | Reward::ImplicitMean), Some(named)) => {
            // The reference has no z, whatever stands beside it.
            let title = format!("scoring the reference on {}", work.name);
            let reference = scored(work, &title, &named.model, compared, &[])?;
            let ratio = |i: usize, j: usize, logp: f64| logp - reference[i][j].logp;
            let of = format!("log-ratio of the model and {}", named.name);
            Ok(match reward {
                Reward::ImplicitMean => (each(&|i, j, logp| ratio(i, j, logp) / length(i, j)), of + " for each token"),
                _ => (each(&ratio), of + ", summed over tokens"),
            })
        }
    }
}

/// How the implicit reward differs from the one that the run was trained by, where it does, and what gives the run's
/// accuracy.
pub fn other_than_in_training(config: &EvalConfig) -> Option<String> {
    let (_, manifest) = run_of(&config.model).filter(|_| config.ranks() && config.reward == Reward::Implicit)?;
    let objective: ObjectiveConfig = serde_json::from_value(manifest.config["objective"].clone()).ok()?;
    let (trained_by, reward) = match objective.pair_loss() {
        ObjectiveKind::Ipo if objective.reduction == Reduction::Mean => {
            ("the mean over the tokens of the log-ratio (IPO)", "implicit-mean")
        }
        ObjectiveKind::Simpo => ("the mean log-probability of a token, without a reference (SimPO)", "mean"),
        _ => return None,
    };
    Some(format!(
        "responses are ranked by the log-ratio summed over tokens, and the run was trained and measured by {trained_by}: \
         its accuracy is that of --reward {reward}"
    ))
}

/// The run that a model is of, by the folder of the run or of its model.
fn run_of(model: &str) -> Option<(&Path, Manifest)> {
    let folder = Path::new(model);
    let run = if folder.join(prepared::MANIFEST).is_file() { folder } else { folder.parent()? };
    let manifest = Manifest::read(run).ok()?;
    (manifest.stage == "train").then_some((run, manifest))
}

fn named(config: &EvalConfig) -> Result<Named> {
    if !config.reference.is_empty() {
        let name = config.reference.clone();
        return Ok(Named { path: name.clone(), name, run: None });
    }
    let identity = |manifest: &Manifest| manifest.facts.get(fact::IDENTITY_OF).cloned().unwrap_or_default();
    let named = |(run, manifest): (_, Manifest)| {
        // A file of log-probabilities is of the model that the run started from.
        let other = identity(&manifest).get(fact::REFERENCE).is_some();
        let name = manifest.config[if other { "reference" } else { "model" }].as_str()?.to_string();
        Some((run, name, other, manifest))
    };
    let Some((run, name, other, manifest)) = run_of(&config.model).and_then(named) else {
        return Err(Error::config("eval.reference", "missing: give --reference MODEL, or --reward sum or mean"));
    };
    if ModelSource::is_tiny(&name) {
        let why = format!("the reference of the run is {name}, which is made from its seed");
        return Err(Error::config("eval.reference", format!("{why}: give --reference MODEL, or --reward sum")));
    }
    let weights = &identity(&manifest)[if other { fact::REFERENCE } else { fact::WEIGHTS }];
    let trained = TrainedRun {
        folder: run.to_path_buf(),
        tune: serde_json::from_value(manifest.config["tune"].clone()).unwrap_or_default(),
        weights: weights.as_str().map(str::to_string),
    };
    Ok(Named { path: manifest.located(run, &name), name, run: Some(trained) })
}
