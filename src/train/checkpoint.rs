//! Checkpoints: everything that the rest of a run depends on, in a folder that appears whole or not at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::AdamW;
use crate::artifact;
use crate::error::{Error, Result};
use crate::model::{Params, load};
use crate::nn::Real;

const PARAMS: &str = "params.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Steps taken.
    pub step: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// What the run is: configuration (without `max_steps`), data and model; a checkpoint of another run is refused.
    pub identity: String,
    /// BLAKE3 of the two tensor files.
    pub hashes: [String; 2],
}

fn name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Writes a checkpoint, then removes all but the newest `keep`.
///
/// # Errors
/// [`Error::Io`].
pub fn write<T: Real>(
    folder: &Path,
    params: &Params,
    optimizer: &AdamW<T>,
    (step, tokens, identity): (usize, u64, &str),
    keep: usize,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let staged = tempfile::Builder::new().prefix(".staged-").tempdir_in(folder).map_err(Error::io(folder))?;
    load::write_safetensors(&staged.path().join(PARAMS), &params.tensors())?;
    load::write_safetensors(&staged.path().join(OPTIMIZER), &optimizer.tensors(params)?)?;
    let hash = |file: &str| artifact::hash_file(staged.path().join(file)).map(|(_, hash)| hash);
    let hashes = [hash(PARAMS)?, hash(OPTIMIZER)?];
    artifact::write_json(staged.path().join(STATE), &State { step, tokens, identity: identity.to_string(), hashes })?;
    let place = folder.join(name(step));
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(Error::io(&place))?;
    }
    std::fs::rename(staged.keep(), &place).map_err(Error::io(&place))?;
    for old in list(folder)?.into_iter().rev().skip(keep.max(1)) {
        std::fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(())
}

/// Checkpoint folders, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The newest sound checkpoint's state and folder; damaged ones are passed over, and named to `skipped`.
///
/// # Errors
/// [`Error::Io`].
pub fn newest(folder: &Path, mut skipped: impl FnMut(&Path, &Error)) -> Result<Option<(State, PathBuf)>> {
    for path in list(folder)?.into_iter().rev() {
        match sound(&path) {
            Ok(state) => return Ok(Some((state, path))),
            Err(error) => skipped(&path, &error),
        }
    }
    Ok(None)
}

fn sound(path: &Path) -> Result<State> {
    let file = path.join(STATE);
    let text = std::fs::read(&file).map_err(Error::io(&file))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| Error::artifact(&file, e.to_string()))?;
    for (name, wanted) in [PARAMS, OPTIMIZER].iter().zip(&state.hashes) {
        if &artifact::hash_file(path.join(name))?.1 != wanted {
            return Err(Error::artifact(path.join(name), "content changed since it was written"));
        }
    }
    Ok(state)
}

/// Puts a checkpoint's numbers into parameters and optimizer.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged or of another model.
pub fn restore<T: Real>(path: &Path, params: &Params, optimizer: &mut AdamW<T>, steps: u64) -> Result<()> {
    let fits = |e: Error| Error::artifact(path, e.to_string());
    params.restore(&load::read_safetensors(&path.join(PARAMS))?).map_err(fits)?;
    optimizer.restore(params, &load::read_safetensors(&path.join(OPTIMIZER))?, steps).map_err(fits)
}
