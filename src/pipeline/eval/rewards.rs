//! The reward that a model gives a response.

use std::path::Path;

use super::preference::Compared;
use super::{Work, go_on, stopped};
use crate::error::{Error, Result};
use crate::eval::{ChoiceScore, QuestionTokens, score};
use crate::manifest::Manifest;
use crate::model::LogitShift;
use crate::pipeline::opened::{self, ForInference};
use crate::pipeline::recipe::eval::Reward;
use crate::policy::{PromptLatent, saved};
use crate::schema::prepared;
use crate::source::ModelSource;

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

/// The reward of every response, given the name of the reference, and what it is in words.
pub fn rewarded(
    work: &Work<'_>,
    name: &str,
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
    match config.reward {
        Reward::Sum => Ok((each(&|_, _, logp| logp), "log-probability, summed over tokens".into())),
        Reward::Mean => {
            let length = |i: usize, j: usize| compared[i].tokens.choices[j].len() as f64;
            Ok((each(&|i, j, logp| logp / length(i, j)), "log-probability for each token".into()))
        }
        Reward::Implicit => {
            let model = match work.reference.get() {
                Some(model) => model,
                None => {
                    let source = opened::source(name)?;
                    let longest = work.loaded.model.longest();
                    let policy = saved::open::<f32>(&source, work.opened.tokenizer.vocab_size(), work.seed, longest)?;
                    let model = ForInference::of(policy, longest, config.precision)?;
                    work.reference.get_or_init(|| model)
                }
            };
            // The reference has no z, whatever stands beside it.
            let title = format!("scoring the reference on {}", work.name);
            let reference = scored(work, &title, model, compared, &[])?;
            let rewards = each(&|i, j, logp| logp - reference[i][j].logp);
            Ok((rewards, format!("log-ratio of the model and {name}, summed over tokens")))
        }
    }
}

/// The reference: the one that was named, else the model that the run was trained from.
pub fn reference(work: &Work<'_>) -> Result<String> {
    if !work.config.reference.is_empty() {
        return Ok(work.config.reference.clone());
    }
    let folder = Path::new(&work.config.model);
    let run = if folder.join(prepared::MANIFEST).is_file() { Some(folder) } else { folder.parent() };
    let manifest = run.and_then(|run| Manifest::read(run).ok()).filter(|manifest| manifest.stage == "train");
    let named = manifest.and_then(|manifest| manifest.config["model"].as_str().map(str::to_string));
    match named {
        Some(name) if !matches!(ModelSource::resolve(&name), Ok(ModelSource::Tiny { .. })) => Ok(name),
        Some(name) => {
            let why = format!("the run was trained from {name}, which is made from its seed");
            Err(Error::config("eval.reference", format!("{why}: give --reference MODEL, or --reward sum")))
        }
        None => Err(Error::config("eval.reference", "missing: give --reference MODEL, or --reward sum or mean")),
    }
}
