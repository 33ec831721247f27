//! What stands in a run folder: a finished run, one to go on with, or another run, which is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RunSummary;
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::schema::{self, prepared};
use crate::seed::Seed;
use crate::train::{Peers, TrainConfig, checkpoint};

/// Settings of `train` that are no part of what a run is: place, limit, what is kept and told.
const BESIDE: [&str; 12] = [
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

/// Flags of the settings that have one.
const FLAGS: [(&str, &str); 18] = [
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
    (TOKENS, "--data"),
    (WEIGHTS, "--model"),
];

/// What differs where the prepared data does.
const TOKENS: &str = "tokens of the prepared data";
/// What differs where the model does.
const WEIGHTS: &str = "weights of the model";

/// What makes a run this run.
pub(super) struct Identity {
    /// Hash of all of it.
    pub hash: String,
    /// All of it: configuration, seed, data and starting weights.
    pub about: Value,
}

impl Identity {
    /// Configuration without place and limit, seed, data and starting weights. Two ranks with four pairs each make the
    /// same run as one with eight.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn of(config: &TrainConfig, seed: Seed, data: &Manifest, weights: &str, peers: &Peers) -> Result<Identity> {
        let config = TrainConfig { batch: config.batch * peers.size(), ..config.clone() };
        let mut config = serde_json::to_value(config)?;
        if let Some(settings) = config.as_object_mut() {
            settings.retain(|key, _| !BESIDE.contains(&key.as_str()));
        }
        let tokens: Vec<&str> =
            data.outputs.iter().filter(|o| o.path.starts_with("tokens/")).map(|o| o.blake3.as_str()).collect();
        // Weights by content: the starting model is the reference too, and a folder can be filled anew under its old name.
        let about = serde_json::json!({ "config": config, "seed": seed.0, "tokens": tokens, "weights": weights });
        Ok(Identity { hash: crate::manifest::hash_json(&about)?, about })
    }

    /// The refusal to go on with another run, whose own account is `other`.
    fn refuse(&self, out: &Path, other: &Value) -> Error {
        let differ = differences(other, &self.about);
        let message = match differ.is_empty() {
            true => "holds another run: configuration, seed, data or model differ".to_string(),
            false => format!("holds another run; what differs:\n  {}", differ.join("\n  ")),
        };
        Error::artifact(out, message)
            .with_hint("give the settings that it was begun with (config.toml there), or choose another --out")
    }
}

/// Every setting by its dotted key.
fn flat(key: String, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| flat(format!("{key}.{name}"), value, out)),
        Value::String(text) => drop(out.insert(key, text.clone())),
        other => drop(out.insert(key, other.to_string())),
    }
}

/// What differs between two runs, a line each: the flag, the key, the old and the new value.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    let all = |about: &Value| {
        let mut out = BTreeMap::new();
        flat("train".into(), &about["config"], &mut out);
        for (key, name) in [("seed", "seed"), ("tokens", TOKENS), ("weights", WEIGHTS)] {
            flat(name.into(), &about[key], &mut out);
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
    let value = |of: &BTreeMap<String, String>, key: &str| match of.get(key) {
        None => "not set".to_string(),
        Some(text) if text.is_empty() => "\"\"".to_string(),
        Some(text) => text.clone(),
    };
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let flag = FLAGS.iter().find(|(known, _)| known == key).map(|(_, flag)| *flag);
            let name = flag.map_or_else(|| key.clone(), |flag| format!("{key} ({flag})"));
            match key.as_str() {
                // Hashes tell nobody anything.
                TOKENS | WEIGHTS => format!("{name}: not the same"),
                _ => format!("{name}: {} before, {} now", value(&old, key), value(&new, key)),
            }
        })
        .collect()
}

/// What was found in the run folder, which is ready now.
#[derive(Serialize, Deserialize)]
pub(super) enum Opened {
    /// A finished run, which is all that was asked for.
    Finished(Box<RunSummary>),
    /// The checkpoint to go on from, if any.
    From(Option<Box<(checkpoint::State, PathBuf)>>),
}

/// Makes a run folder ready, or finds out that nothing is to be done in it. A refusal leaves it as it is.
///
/// # Errors
/// [`Error::Artifact`] where it holds a finished run that nobody asked for, or another run.
pub(super) fn opened(
    config: &TrainConfig,
    seed: Seed,
    resume: bool,
    identity: &Identity,
    progress: &dyn Progress,
) -> Result<Opened> {
    let out = Path::new(&config.out);
    if let Some(done) = finished(out, identity, config.max_steps, resume)? {
        return Ok(Opened::Finished(done));
    }
    let from = if resume { newest(out, identity, progress)? } else { None };
    artifact::remove(&out.join(prepared::MANIFEST))?;
    artifact::write_bytes(out.join(schema::run::CONFIG), config_text(config, seed)?.as_bytes())?;
    let checkpoints = out.join(schema::run::CHECKPOINTS);
    if !resume {
        artifact::remove(&checkpoints)?;
    }
    checkpoint::prepare(&checkpoints)?;
    Ok(Opened::From(from.map(Box::new)))
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

/// A finished run in the folder is taken (with `resume`) or refused; nothing where there is none, or one that a limit
/// ended that is higher now.
fn finished(out: &Path, identity: &Identity, max_steps: usize, resume: bool) -> Result<Option<Box<RunSummary>>> {
    if !out.join(prepared::MANIFEST).exists() {
        return Ok(None);
    }
    let manifest = Manifest::read(out)?;
    if !resume {
        return Err(Error::artifact(out, "holds a finished run")
            .with_hint("choose another --out, or remove the folder; --resume continues a stopped run"));
    }
    if manifest.facts.get("identity").and_then(Value::as_str) != Some(&identity.hash) {
        return Err(identity.refuse(out, manifest.facts.get("identity_of").unwrap_or(&Value::Null)));
    }
    let path = out.join(schema::run::SUMMARY);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let summary: RunSummary = serde_json::from_slice(&text).map_err(|e| Error::artifact(&path, e.to_string()))?;
    let before = manifest.config.get("max_steps").and_then(Value::as_u64).unwrap_or(0) as usize;
    // A run that ended at its limit goes on when the limit is raised or lifted.
    let longer = before != 0 && (max_steps == 0 || max_steps > before) && summary.steps as usize == before;
    Ok(if longer { None } else { Some(Box::new(summary)) })
}

fn newest(out: &Path, identity: &Identity, progress: &dyn Progress) -> Result<Option<(checkpoint::State, PathBuf)>> {
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
