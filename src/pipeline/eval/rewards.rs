//! The reward that a model gives a response.

use std::path::{Path, PathBuf};

use super::preference::Compared;
use super::{Work, go_on, stopped};
use crate::error::{Error, Result};
use crate::eval::{ChoiceScore, QuestionTokens, score};
use crate::manifest::Manifest;
use crate::model::LogitShift;
use crate::pipeline::opened::{self, ForInference};
use crate::pipeline::recipe::eval::Reward;
use crate::policy::{PromptLatent, saved};
use crate::schema::{fact, prepared};
use crate::source::ModelSource;
use crate::train::{Tune, tuning};

/// Log-probabilities of all responses, each with the z of its prompt.
pub fn scored(
    work: &Work<'_>,
    title: &str,
    model: &ForInference,
    compared: &[Compared],
    latents: &[PromptLatent],
) -> Result<Vec<Vec<ChoiceScore>>> {
    let shift = |at: usize| latents.get(at).and_then(|latent| latent.shift.clone());
    let given: Vec<(QuestionTokens, Option<LogitShift>)> =
        compared.iter().enumerate().map(|(at, c)| (c.tokens.clone(), shift(at))).collect();
    work.progress.begin(title, Some(given.len() as u64));
    let found = score(&model.model, &given, &mut |n| Ok(go_on(work.progress, n)));
    work.progress.end();
    let found = found?;
    if found.len() < compared.len() { Err(stopped()) } else { Ok(found) }
}

/// The reference of the implicit reward.
pub struct Reference {
    /// As the user, or the run, names it.
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
    /// Fingerprint of the weights that it started from.
    weights: Option<String>,
}

impl Reference {
    /// Opens it. That of a run must be the model that the run started from.
    fn open(&self, work: &Work<'_>, source: &ModelSource) -> Result<ForInference> {
        let (longest, vocab_size) = (work.loaded.model.longest(), work.opened.tokenizer.vocab_size());
        let policy = saved::open::<f32>(source, vocab_size, work.seed, longest)?;
        if let Some(TrainedRun { folder, tune, weights: Some(weights) }) = &self.run
            && !tuning::is_start(&policy, source, *tune, vocab_size, weights)?
        {
            let run = folder.display();
            let message = format!(
                "is not the reference of run {run}: it has other weights than the model that the run started from"
            );
            return Err(Error::model(&self.path, message)
                .with_hint("put that model back, or name the reference that is meant: --reference MODEL"));
        }
        ForInference::of(policy, longest, work.config.precision)
    }
}

/// The reward of every response, and what it is in words; the implicit reward has a reference.
pub fn rewarded(
    work: &Work<'_>,
    reference: Option<&Reference>,
    compared: &[Compared],
    logps: Vec<Vec<ChoiceScore>>,
) -> Result<(Vec<Vec<f64>>, String)> {
    let config = work.config;
    let each = |of: &dyn Fn(usize, usize, f64) -> f64| -> Vec<Vec<f64>> {
        let row = |(i, scores): (usize, &Vec<ChoiceScore>)| {
            scores.iter().enumerate().map(|(j, score)| of(i, j, score.logp)).collect()
        };
        logps.iter().enumerate().map(row).collect()
    };
    match (config.reward, reference) {
        (Reward::Sum, _) => Ok((each(&|_, _, logp| logp), "log-probability, summed over tokens".into())),
        (Reward::Mean, _) => {
            let length = |i: usize, j: usize| compared[i].tokens.choices[j].len() as f64;
            Ok((each(&|i, j, logp| logp / length(i, j)), "log-probability for each token".into()))
        }
        (Reward::Implicit, None) => Err(Error::run("the implicit reward has no reference")),
        (Reward::Implicit, Some(named)) => {
            let source = opened::source(&named.path)?;
            let ids = |c: &Compared| c.tokens.choices.iter().flatten().chain(&c.tokens.context).copied().collect();
            let ids: Vec<Vec<u32>> = compared.iter().map(ids).collect();
            work.opened.require_same_tokens(&named.name, &source, ids.into_iter().flatten().collect())?;
            let model = match work.reference.get() {
                Some(model) => model,
                None => {
                    let model = named.open(work, &source)?;
                    work.reference.get_or_init(|| model)
                }
            };
            // The reference has no z, whatever stands beside it.
            let title = format!("scoring the reference on {}", work.name);
            let reference = scored(work, &title, model, compared, &[])?;
            let rewards = each(&|i, j, logp| logp - reference[i][j].logp);
            Ok((rewards, format!("log-ratio of the model and {}, summed over tokens", named.name)))
        }
    }
}

/// The reference: the one that was named, else the model that the run was trained from.
///
/// # Errors
/// [`Error::Config`] where there is none.
pub fn reference(work: &Work<'_>) -> Result<Reference> {
    if !work.config.reference.is_empty() {
        let name = work.config.reference.clone();
        return Ok(Reference { path: name.clone(), name, run: None });
    }
    let folder = Path::new(&work.config.model);
    let run = if folder.join(prepared::MANIFEST).is_file() { Some(folder) } else { folder.parent() };
    let found = run.and_then(|run| Some((run, Manifest::read(run).ok()?)));
    let found = found.filter(|(_, manifest)| manifest.stage == "train");
    let named = |(run, manifest): (_, Manifest)| Some((run, manifest.config["model"].as_str()?.to_string(), manifest));
    let Some((run, name, manifest)) = found.and_then(named) else {
        return Err(Error::config("eval.reference", "missing: give --reference MODEL, or --reward sum or mean"));
    };
    if matches!(ModelSource::resolve(&name), Ok(ModelSource::Tiny { .. })) {
        let why = format!("the run was trained from {name}, which is made from its seed");
        return Err(Error::config("eval.reference", format!("{why}: give --reference MODEL, or --reward sum")));
    }
    let identity = manifest.facts.get(fact::IDENTITY_OF);
    let trained = TrainedRun {
        folder: run.to_path_buf(),
        tune: serde_json::from_value(manifest.config["tune"].clone()).unwrap_or_default(),
        weights: identity.and_then(|about| about[fact::WEIGHTS].as_str()).map(str::to_string),
    };
    Ok(Reference { path: manifest.located(run, &name), name, run: Some(trained) })
}
