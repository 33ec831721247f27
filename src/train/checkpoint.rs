//! Checkpoints: all that the rest of a run depends on, in a folder that appears whole or not at all.
//!
//! The files are written into a folder of another name, which is renamed at the end. `state.json` has the hashes of the
//! two tensor files and its own, so that a checkpoint with a changed byte is not used.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::AdamW;
use super::validation::Validation;
use crate::artifact;
use crate::error::{Error, Result};
use crate::model::Params;
use crate::nn::Real;
use crate::weights::safetensors::{self, TensorEntry};

const PARAMS: &str = "params.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const STAGED: &str = ".staged-";
/// Beginning of the names of files of parameters that did best in validation.
const BEST: &str = "best-";

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Steps taken.
    pub step: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds in steps so far.
    pub seconds: f64,
    /// Median pairs per second of the launch that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs_per_s: Option<f64>,
    /// The clean rate of objective repo after these steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_rate: Option<f64>,
    /// The validations of these steps, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// What the run is: configuration (without `max_steps`), data and model; a checkpoint of another run is refused.
    pub identity: String,
    /// What `identity` is the hash of: an error then says what differs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub about: serde_json::Value,
    /// BLAKE3 of the two tensor files, "" for the optimizer's where no step is left; filled in by [`write()`].
    #[serde(default)]
    pub hashes: [String; 2],
    /// BLAKE3 of everything above; filled in by [`write()`].
    #[serde(default)]
    pub seal: String,
}

impl CheckpointState {
    /// The hash of all but the seal itself.
    fn sealed(&self) -> Result<String> {
        let bare = CheckpointState { seal: String::new(), ..self.clone() };
        crate::manifest::hash_json(&serde_json::to_value(&bare)?)
    }
}

fn name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Checks before training that checkpoints can be written into the folder, and removes unfinished ones of a process
/// that was killed.
///
/// # Errors
/// [`Error::Run`] saying what the system refused.
pub fn prepare(folder: &Path) -> Result<()> {
    let probe = || -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let entries = artifact::entries(folder)?;
        let left = entries.iter().filter(|path| artifact::name_of(path).starts_with(STAGED));
        left.into_iter().try_for_each(|path| artifact::remove(path))?;
        tempfile::Builder::new().prefix(STAGED).tempdir_in(folder).map_err(Error::io(folder))?;
        Ok(())
    };
    probe().map_err(|e| {
        Error::run(format!("no checkpoint could be written: {e}"))
            .with_hint("choose another --out, or make this folder writable")
    })
}

/// Writes a checkpoint, then removes all but the newest `keep` and any later one: a run that was resumed from an
/// earlier checkpoint than the last takes those steps again. After the last step no optimizer is needed.
///
/// # Errors
/// [`Error::Run`] saying at which step, and what the system refused; nothing is left of the unfinished checkpoint.
pub fn write<T: Real>(
    folder: &Path,
    params: &Params,
    optimizer: Option<&AdamW<T>>,
    mut state: CheckpointState,
    keep: usize,
) -> Result<PathBuf> {
    let step = state.step;
    let mut whole = || -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let staged = tempfile::Builder::new().prefix(STAGED).tempdir_in(folder).map_err(Error::io(folder))?;
        state.hashes = [
            write_trained(&staged.path().join(PARAMS), params)?,
            match optimizer {
                Some(optimizer) => {
                    safetensors::write_hashed(&staged.path().join(OPTIMIZER), &optimizer.entries(params))?
                }
                None => String::new(),
            },
        ];
        state.seal = state.sealed()?;
        artifact::write_json(staged.path().join(STATE), &state)?;
        let path = folder.join(name(state.step));
        // A checkpoint of the same step was damaged, or the run would have gone on from it.
        artifact::remove(&path)?;
        artifact::move_file(staged.path(), &path)?;
        // The folder was renamed: there is nothing left to remove under its old name.
        let _ = staged.keep();
        let all = list(folder)?;
        let (later, earlier): (Vec<_>, Vec<_>) = all.into_iter().partition(|(step, _)| *step > state.step);
        let old = earlier.into_iter().rev().skip(keep.max(1));
        later.into_iter().chain(old).try_for_each(|(_, path)| artifact::remove(&path))?;
        Ok(path)
    };
    whole().map_err(|e| {
        Error::run(format!("the checkpoint of step {step} cannot be written: {e}"))
            .with_hint("make room, or let others write there; --resume then goes on from the newest checkpoint")
    })
}

/// Writes the trained parameters. Frozen ones are those of the starting model, whose hash is part of the run's identity.
fn write_trained(path: &Path, params: &Params) -> Result<String> {
    let tensors: Vec<(&str, candle_core::Tensor)> =
        params.iter().filter(|p| p.trainable).map(|p| (p.name.as_str(), p.var.as_detached_tensor())).collect();
    let entries: Vec<_> = tensors.iter().map(|(name, tensor)| TensorEntry::tensor(*name, tensor, None)).collect();
    safetensors::write_hashed(path, &entries)
}

/// Reads the parameters that [`write_trained`] wrote.
fn read_trained(path: &Path, named: &Path, params: &Params) -> Result<()> {
    let found = safetensors::read(path)?;
    for param in params.iter().filter(|p| p.trainable) {
        let tensor = found.get(&param.name).filter(|t| t.dims() == param.var.dims());
        let tensor = tensor.ok_or_else(|| {
            Error::artifact(named, format!("tensor {} of shape {:?} is missing", param.name, param.var.dims()))
        })?;
        param.var.set(&tensor.to_dtype(param.var.dtype())?.to_device(param.var.device())?)?;
    }
    Ok(())
}

fn best_name(step: usize) -> String {
    format!("{BEST}{step:06}.safetensors")
}

/// Writes the parameters after a step, which did best in validation, and removes those of other steps but `kept`: the
/// step that the newest checkpoint names. Returns the file's BLAKE3.
///
/// # Errors
/// [`Error::Run`] saying what the system refused.
pub fn write_best(folder: &Path, params: &Params, step: usize, kept: Option<usize>) -> Result<String> {
    let whole = || -> Result<String> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let hash = write_trained(&folder.join(best_name(step)), params)?;
        let wanted: Vec<String> = [Some(step), kept].into_iter().flatten().map(best_name).collect();
        let all = artifact::entries(folder)?.into_iter().filter(|path| {
            let name = artifact::name_of(path);
            name.starts_with(BEST) && !wanted.contains(&name)
        });
        all.into_iter().try_for_each(|path| artifact::remove(&path))?;
        Ok(hash)
    };
    whole().map_err(|e| {
        Error::run(format!("the parameters of step {step}, the best in validation, cannot be written: {e}"))
            .with_hint("make room, or let others write there; --resume then goes on from the newest checkpoint")
    })
}

/// Puts the parameters that did best in validation in place of the last ones.
///
/// # Errors
/// [`Error::Artifact`] where their file is gone or changed.
pub fn restore_best(folder: &Path, params: &Params, validation: &Validation) -> Result<()> {
    let Some(best) = &validation.best else { return Ok(()) };
    let path = folder.join(best_name(best.step));
    if artifact::hash_file(&path)?.1 != validation.blake3 {
        return Err(Error::artifact(&path, "content changed since it was written"));
    }
    read_trained(&path, &path, params)
}

/// Removes the optimizer's moments from the checkpoints of a finished run; the trained parameters stay.
///
/// # Errors
/// [`Error::Io`].
pub fn drop_optimizer(folder: &Path) -> Result<()> {
    list(folder)?.into_iter().try_for_each(|(_, path)| artifact::remove(&path.join(OPTIMIZER)))
}

/// Checkpoint folders with their steps, oldest first.
fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let step = |path: &PathBuf| artifact::name_of(path).strip_prefix("step-")?.parse().ok();
    let entries = artifact::entries(folder)?;
    let mut found: Vec<(usize, PathBuf)> = entries.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// The step of the newest checkpoint, sound or not.
///
/// # Errors
/// [`Error::Io`].
pub fn last_step(folder: &Path) -> Result<Option<usize>> {
    Ok(list(folder)?.last().map(|(step, _)| *step))
}

/// State and folder of the newest sound checkpoint; `skipped` is called for each damaged one that is newer.
///
/// # Errors
/// [`Error::Io`].
pub fn newest(folder: &Path, mut skipped: impl FnMut(&Path, &Error)) -> Result<Option<(CheckpointState, PathBuf)>> {
    for (step, path) in list(folder)?.into_iter().rev() {
        match sound(step, &path) {
            Ok(state) => return Ok(Some((state, path))),
            Err(error) => skipped(&path, &error),
        }
    }
    Ok(None)
}

/// The state of a checkpoint whose files have the hashes that it names.
fn sound(step: usize, path: &Path) -> Result<CheckpointState> {
    let file = path.join(STATE);
    let text = std::fs::read(&file).map_err(Error::io(&file))?;
    let state: CheckpointState = serde_json::from_slice(&text).map_err(|e| Error::artifact(&file, e.to_string()))?;
    if state.seal != state.sealed()? || state.step != step {
        return Err(Error::artifact(&file, "content changed since it was written"));
    }
    let [params, moments] = &state.hashes;
    if !moments.is_empty() && !path.join(OPTIMIZER).exists() {
        return Err(Error::artifact(path.join(OPTIMIZER), "the optimizer's moments are not there")
            .with_hint("a finished run keeps them with --keep-optimizer (train.keep_optimizer_state = true)"));
    }
    for (name, wanted) in [(PARAMS, params), (OPTIMIZER, moments)].into_iter().filter(|(_, hash)| !hash.is_empty()) {
        if &artifact::hash_file(path.join(name))?.1 != wanted {
            return Err(Error::artifact(path.join(name), "content changed since it was written"));
        }
    }
    Ok(state)
}

/// Whether there is a checkpoint of this step.
pub fn exists(folder: &Path, step: usize) -> bool {
    folder.join(name(step)).is_dir()
}

/// Puts a checkpoint's numbers into parameters and optimizer; into the parameters alone where no step is left.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged or of another model.
pub fn restore<T: Real>(path: &Path, params: &Params, optimizer: &mut AdamW<T>, steps: u64) -> Result<()> {
    let fits = |e: Error| Error::artifact(path, e.to_string());
    read_trained(&path.join(PARAMS), path, params)?;
    if !path.join(OPTIMIZER).exists() {
        return Ok(());
    }
    optimizer.restore(params, &safetensors::read(&path.join(OPTIMIZER))?, steps).map_err(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LlamaConfig;
    use crate::seed::Seed;
    use crate::train::optimizer::AdamWConfig;
    use crate::train::validation::Validated;

    fn parts() -> (Params, AdamW<f32>) {
        let params =
            Params::new(crate::model::init::random::<f32>(&LlamaConfig::tiny(32, 1, 20), 0.02, Seed(3)).unwrap())
                .unwrap();
        let constants = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, latent_steps: 0 };
        let optimizer = AdamW::new(constants, &params).unwrap();
        (params, optimizer)
    }

    fn state(step: usize) -> CheckpointState {
        CheckpointState { step, tokens: 7, seconds: 0.5, identity: "x".into(), ..CheckpointState::default() }
    }

    fn steps(folder: &Path) -> Vec<usize> {
        list(folder).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn older_ones_go_and_the_newest_by_number_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (params, optimizer) = parts();
        let put = |step, keep| write(dir.path(), &params, Some(&optimizer), state(step), keep).unwrap();
        put(5, 2);
        put(999_999, 2);
        assert_eq!(steps(dir.path()), [5, 999_999]);
        // A million sorts behind 999,999 although its name does not.
        put(1_000_000, 2);
        assert_eq!(steps(dir.path()), [999_999, 1_000_000]);
        let found = newest(dir.path(), |_, _| panic!("all are sound")).unwrap().unwrap();
        assert_eq!((found.0.step, found.0.tokens), (1_000_000, 7));
        // Resumed from before: what was written later belongs to steps that are taken again.
        put(8, 1);
        assert_eq!(steps(dir.path()), [8]);
        put(8, 1);
        assert_eq!(steps(dir.path()), [8]);
        assert!(std::fs::read_dir(dir.path()).unwrap().count() == 1, "nothing unfinished is left");
    }

    #[test]
    fn the_best_parameters_stay_as_long_as_a_checkpoint_relies_on_them() {
        let dir = tempfile::tempdir().unwrap();
        let (params, _) = parts();
        let first =
            || params.iter().find(|p| p.trainable).unwrap().var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let set = |value: f64| {
            params.iter().for_each(|p| p.var.set(&(p.var.ones_like().unwrap() * value).unwrap()).unwrap());
        };
        let there = || -> Vec<usize> { (1..=20).filter(|step| dir.path().join(best_name(*step)).exists()).collect() };
        let kept = |step: usize, kept: Option<usize>| -> Validation {
            set(step as f64);
            let blake3 = write_best(dir.path(), &params, step, kept).unwrap();
            let best = Validated { step, accuracy: 0.5, loss: 0.5, clean_rate: None };
            let mut validation = Validation::default();
            (validation.best, validation.blake3) = (Some(best), blake3);
            validation
        };
        let (five, _) = (kept(5, None), kept(8, Some(5)));
        assert_eq!(there(), [5, 8]);
        restore_best(dir.path(), &params, &five).unwrap();
        assert!(first().iter().all(|x| *x == 5.0));
        let mut nine = kept(9, Some(8));
        assert_eq!(there(), [8, 9]);
        assert!(restore_best(dir.path(), &params, &five).is_err());
        nine.blake3 = five.blake3;
        let error = restore_best(dir.path(), &params, &nine).unwrap_err().to_string();
        assert!(error.contains("content changed"), "{error}");
        // They are no checkpoints.
        assert!(steps(dir.path()).is_empty());
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (params, optimizer) = parts();
        let place = write(dir.path(), &params, Some(&optimizer), state(3), 1).unwrap();
        let sound = || newest(dir.path(), |_, _| {}).unwrap().is_some();
        assert!(sound());
        let file = place.join(STATE);
        let text = std::fs::read_to_string(&file).unwrap();
        for (from, to) in [("\"step\": 3", "\"step\": 4"), ("\"tokens\": 7", "\"tokens\": 8"), ("\"x\"", "\"y\"")] {
            assert!(text.contains(from), "{text}");
            std::fs::write(&file, text.replace(from, to)).unwrap();
            assert!(!sound(), "{from}");
        }
        std::fs::write(&file, &text).unwrap();
        assert!(sound());
        // Under the name of another step.
        std::fs::rename(&place, dir.path().join(name(4))).unwrap();
        assert!(!sound());
        // Things that are no checkpoints are nobody's business.
        std::fs::write(dir.path().join("step-notes"), b"x").unwrap();
        assert!(!sound());
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (params, optimizer) = parts();
        let left = dir.path().join("checkpoints/.staged-left");
        std::fs::create_dir_all(&left).unwrap();
        prepare(&dir.path().join("checkpoints")).unwrap();
        assert!(!left.exists(), "a killed process' unfinished checkpoint is removed");
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let refused = prepare(&file).unwrap_err();
        assert!(refused.to_string().contains("no checkpoint could be written") && refused.hint().is_some());
        let refused = write(&file, &params, Some(&optimizer), state(12), 1).unwrap_err();
        assert!(refused.to_string().starts_with("the checkpoint of step 12 cannot be written: "), "{refused}");
    }
}
