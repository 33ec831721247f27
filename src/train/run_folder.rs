//! What a run folder holds before training: nothing, a run to go on with, a stopped or finished run, or another run, which
//! is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, by_dotted_key};
use crate::progress::Progress;
use crate::schema::{self, fact, name_of, prepared};
use crate::seed::Seed;
use crate::train::{Posteriors, Ranks, TrainConfig, checkpoint};

/// Settings of `train` that may change between two launches of one run: folders, the limit of steps, what is kept
/// and shown.
const NOT_IDENTIFYING: [&str; 12] = [
    "checkpoint_every",
    "data",
    "eval_every",
    "head",
    "keep_checkpoints",
    "keep_optimizer_state",
    "max_steps",
    "out",
    "posteriors",
    "recompute",
    "reference",
    "save_model",
];

/// What a finished run leaves in its folder beside configuration, metrics and checkpoints.
const OUTPUTS: [&str; 8] = [
    schema::run::MODEL,
    schema::run::POSTERIORS,
    schema::run::CODES,
    schema::run::DYNAMICS,
    schema::run::SUMMARY,
    schema::report::HTML,
    schema::report::MARKDOWN,
    schema::report::PROJECTION,
];

/// Flags of the settings that have one.
const FLAGS: [(&str, &str); 20] = [
    ("seed", "--seed"),
    ("train.accumulate", "--accumulate"),
    ("train.batch", "--batch"),
    ("train.device", "--device"),
    ("train.epochs", "--epochs"),
    ("train.lora.alpha", "--lora-alpha"),
    ("train.lora.rank", "--lora-rank"),
    ("train.lora.targets", "--lora-targets"),
    ("train.lpc.codes", "--codes"),
    ("train.lpc.latent", "--latent"),
    ("train.lr", "--lr"),
    ("train.model", "--model"),
    ("train.objective.beta", "--beta"),
    ("train.objective.name", "--objective"),
    ("train.precision", "--precision"),
    ("train.tune", "--tune"),
    ("train.validation.fraction", "--validation"),
    (TOKENS, "--data"),
    (WEIGHTS, "--model"),
    (REFERENCE, "--reference"),
];

/// Name of the prepared data among what differs.
const TOKENS: &str = "tokens of the prepared data";
/// Name of the model among what differs.
const WEIGHTS: &str = "weights of the model";
/// Name of another model as the reference among what differs.
const REFERENCE: &str = "weights of the reference";

/// Fingerprints of the models that a run depends on.
#[derive(Debug, Clone, Copy)]
pub struct RunWeights<'a> {
    /// Of the starting weights.
    pub start: &'a str,
    /// Of the reference, where it is another model.
    pub reference: Option<&'a str>,
}

/// What tells a run from all others: only with the same identity a stopped run goes on.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Hash of `about`.
    pub hash: String,
    /// What is hashed: configuration, seed, data, starting weights, and those of another reference.
    pub about: Value,
}

impl Identity {
    /// The identity of a run: its configuration without `NOT_IDENTIFYING`, seed, prepared tokens and weights. Two ranks
    /// with four pairs each make the same run as one with eight.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn of(
        config: &TrainConfig,
        seed: Seed,
        data: &Manifest,
        weights: RunWeights<'_>,
        ranks: &Ranks,
    ) -> Result<Identity> {
        let validation = &config.validation;
        let config = TrainConfig { batch: config.batch * ranks.size(), ..config.clone() };
        let mut config = serde_json::to_value(config)?;
        if let Some(settings) = config.as_object_mut() {
            settings.retain(|key, _| !NOT_IDENTIFYING.contains(&key.as_str()));
            if validation.fraction == 0.0 {
                // Runs of versions without validation go on.
                settings.remove("validation");
            }
        }
        let tokens: Vec<&str> = data.token_files().map(|o| o.blake3.as_str()).collect();
        // Weights by content: a folder can be filled anew under its old name.
        let mut about =
            serde_json::json!({ "config": config, "seed": seed.0, "tokens": tokens, fact::WEIGHTS: weights.start });
        if let Some(reference) = weights.reference {
            about[fact::REFERENCE] = reference.into();
        }
        Ok(Identity { hash: crate::manifest::hash_json(&about)?, about })
    }

    /// The error for a folder that holds another run, whose identity is `other`.
    fn refuse(&self, out: &Path, other: &Value) -> Error {
        let differ = differences(other, &self.about);
        let message = if differ.is_empty() {
            "holds another run: configuration, seed, data or model differ".to_string()
        } else {
            format!("holds another run; what differs:\n  {}", differ.join("\n  "))
        };
        Error::artifact(out, message)
            .with_hint("give the settings that it was begun with (config.toml there), or choose another --out")
    }
}

/// What differs between two runs, a line each: the key with its flag, the old and the new value.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    let all = |about: &Value| {
        let mut out = BTreeMap::new();
        by_dotted_key("train", &about["config"], &mut out);
        for (key, name) in
            [("seed", "seed"), ("tokens", TOKENS), (fact::WEIGHTS, WEIGHTS), (fact::REFERENCE, REFERENCE)]
        {
            by_dotted_key(name, &about[key], &mut out);
        }
        out
    };
    if old.is_null() {
        return Vec::new();
    }
    let (old, new) = (all(old), all(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let value = |of: &BTreeMap<String, Value>, key: &str| match of.get(key) {
        None => "not set".to_string(),
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(other) => other.to_string(),
    };
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let flag = FLAGS.iter().find(|(known, _)| known == key).map(|(_, flag)| *flag);
            let name = flag.map_or_else(|| key.clone(), |flag| format!("{key} ({flag})"));
            match key.as_str() {
                // Their values are hashes, which tell a reader nothing.
                TOKENS | WEIGHTS | REFERENCE => format!("{name}: not the same"),
                _ => format!("{name}: {} before, {} now", value(&old, key), value(&new, key)),
            }
        })
        .collect()
}

/// What was found in the run folder, which is ready now. `S` is the summary of a finished run.
#[derive(Serialize, Deserialize)]
pub enum Opened<S> {
    /// A finished run with the steps that were asked for.
    Finished(Box<S>),
    /// The checkpoint to go on from, if any.
    From(Option<Box<(checkpoint::CheckpointState, PathBuf)>>),
}

/// Makes a run folder ready and writes `config_text` to config.toml; or finds a finished run there, with which nothing
/// is left to do. A refusal leaves the folder as it is.
///
/// # Errors
/// [`Error::Artifact`] where it holds a finished run, or checkpoints of a stopped one, and `resume` was not given, or
/// another run.
pub fn open<S: DeserializeOwned>(
    config: &TrainConfig,
    config_text: &str,
    resume: bool,
    identity: &Identity,
    progress: &dyn Progress,
) -> Result<Opened<S>> {
    let out = Path::new(&config.out);
    if let Some(done) = finished(out, identity, config, resume)? {
        return Ok(Opened::Finished(done));
    }
    let checkpoints = out.join(schema::run::CHECKPOINTS);
    let from = match checkpoint::last_step(&checkpoints)? {
        _ if resume => newest(out, identity, progress)?,
        None => None,
        // Whatever it cost to come so far: nobody asked for it to be lost. A damaged one may be of use too.
        Some(step) => {
            return Err(Error::artifact(out, format!("holds a stopped run (step {step})"))
                .with_hint("--resume goes on with it; to begin anew, remove the folder or choose another --out"));
        }
    };
    artifact::remove(&out.join(prepared::MANIFEST))?;
    artifact::write_bytes(out.join(schema::run::CONFIG), config_text.as_bytes())?;
    if !resume {
        artifact::remove(&checkpoints)?;
    }
    if from.is_none() {
        // Of an unfinished run, which may have been another one: its model has other files than this one's.
        OUTPUTS.iter().try_for_each(|name| artifact::remove(&out.join(name)))?;
    }
    checkpoint::prepare(&checkpoints)?;
    Ok(Opened::From(from.map(Box::new)))
}

/// The summary of a finished run in the folder, with `resume`; without it, a finished run is an error. None where no
/// run is finished, or one ended at a limit of steps that is higher now.
fn finished<S: DeserializeOwned>(
    out: &Path,
    identity: &Identity,
    config: &TrainConfig,
    resume: bool,
) -> Result<Option<Box<S>>> {
    #[derive(Deserialize)]
    struct Taken {
        steps: u64,
    }
    if !out.join(prepared::MANIFEST).exists() {
        return Ok(None);
    }
    let manifest = Manifest::read(out)?;
    if !resume {
        return Err(Error::artifact(out, "holds a finished run")
            .with_hint("choose another --out, or remove the folder; --resume continues a stopped run"));
    }
    if manifest.facts.get(fact::IDENTITY).and_then(Value::as_str) != Some(&identity.hash) {
        return Err(identity.refuse(out, manifest.facts.get(fact::IDENTITY_OF).unwrap_or(&Value::Null)));
    }
    let path = out.join(schema::run::SUMMARY);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let damaged = |e: serde_json::Error| Error::artifact(&path, e.to_string());
    let summary: S = serde_json::from_slice(&text).map_err(damaged)?;
    let taken: Taken = serde_json::from_slice(&text).map_err(damaged)?;
    let before = manifest.config.get("max_steps").and_then(Value::as_u64).unwrap_or(0) as usize;
    // A run that ended at its limit goes on when the limit is raised or lifted.
    let most = config.max_steps;
    if before != 0 && (most == 0 || most > before) && taken.steps as usize == before {
        return Ok(None);
    }
    let had = |key: &str| manifest.config.get(key).cloned().unwrap_or(Value::Null);
    let lacking = match (had("posteriors"), had("save_model")) {
        (before, _) if before == name_of(&Posteriors::Test) && config.posteriors == Posteriors::All => {
            Some("posteriors of the training pairs (train.posteriors)")
        }
        (_, Value::Bool(false)) if config.save_model => Some("a model (train.save_model)"),
        _ => None,
    };
    if let Some(what) = lacking {
        return Err(Error::artifact(
            out,
            format!("holds a finished run without {what}, and its training state is gone"),
        )
        .with_hint("leave the setting as it was, or train into another --out"));
    }
    Ok(Some(Box::new(summary)))
}

/// The newest sound checkpoint of this run.
fn newest(
    out: &Path,
    identity: &Identity,
    progress: &dyn Progress,
) -> Result<Option<(checkpoint::CheckpointState, PathBuf)>> {
    let found = checkpoint::newest(&out.join(schema::run::CHECKPOINTS), |path, error| {
        let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
        progress.warn(&format!("{}: passed over: {error}{hint}", path.display()));
    })?;
    match found {
        Some((state, _)) if state.identity != identity.hash => Err(identity.refuse(out, &state.about)),
        Some((state, path)) => {
            progress.note(&format!("resuming after step {}", state.step));
            Ok(Some((state, path)))
        }
        None => {
            progress.note(&format!("nothing to resume in {}: starting from the beginning", out.display()));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_with_flag_and_both_values() {
        let about = |lr: f64, codes: Value, weights: &str| {
            serde_json::json!({"config": {"lr": lr, "lpc": {"codes": codes}, "tune": "full"}, "seed": 3,
                "tokens": ["a"], "weights": weights})
        };
        let old = about(5e-6, 8.into(), "x");
        assert_eq!(
            differences(&old, &about(1e-3, 16.into(), "y")),
            [
                "train.lpc.codes (--codes): 8 before, 16 now",
                "train.lr (--lr): 5e-6 before, 0.001 now",
                "weights of the model (--model): not the same",
            ]
        );
        assert!(differences(&old, &old).is_empty() && differences(&Value::Null, &old).is_empty());
    }
}
