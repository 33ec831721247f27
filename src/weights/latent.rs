//! A model folder that holds a latent part alone: it names the model that the latent part was trained over, and keeps
//! that model's fingerprint.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::base::{self, locate};
use super::fingerprint::fingerprint;
use super::folder;
use crate::artifact;
use crate::error::{Error, Result};
use crate::model::{LlamaConfig, Loaded, Params};
use crate::nn::Real;
use crate::schema::run;
use crate::source::ModelSource;

/// The base: the model that a latent part was trained over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Folder, file or hub id; empty for a model that is stored in the folder `base` in it.
    pub base_model_name_or_path: String,
    /// Revision on the hub.
    pub revision: String,
    /// [`fingerprint`] of its weights.
    pub fingerprint: String,
}

/// Whether a model folder is a latent part alone.
pub fn is_latent_alone(folder: &Path) -> bool {
    folder.join(run::LPC_BASE).is_file()
}

fn read(folder: &Path) -> Result<Base> {
    let path = folder.join(run::LPC_BASE);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&text).map_err(|e| Error::model(path.display().to_string(), e.to_string()))
}

/// Where the base of a latent part is: the folder or file that it names, relative to the working directory or to the
/// latent part; else the folder `base` in it; else the hub id that it names.
///
/// # Errors
/// [`Error::Model`] where it is at none of these places.
pub fn source(folder: &Path) -> Result<ModelSource> {
    let base = read(folder)?;
    let lost = |why: String| {
        let name = &base.base_model_name_or_path;
        let what = format!("the model {name:?} that the latent part was trained over is not to be had: {why}");
        Error::model(folder.display().to_string(), what)
            .with_hint(format!("set base_model_name_or_path in {} to its folder or hub id", run::LPC_BASE))
    };
    match locate(folder, &base.base_model_name_or_path, &base.revision) {
        Ok(ModelSource::Folder(base)) if is_latent_alone(&base) => Err(lost("that is a latent part itself".into())),
        Ok(source) => Ok(source),
        Err(error) => Err(lost(error.to_string())),
    }
}

/// Refuses a base that is not the model that the latent part of a folder was trained over.
///
/// # Errors
/// [`Error::Model`] where its weights are others.
pub fn verify<T: Real>(folder: &Path, loaded: &Loaded) -> Result<()> {
    let base = read(folder)?;
    let found = fingerprint::<T>(loaded.params.iter())?;
    if found == base.fingerprint {
        return Ok(());
    }
    let what =
        format!("the latent part was trained over other weights than those of {:?}", base.base_model_name_or_path);
    Err(Error::model(folder.display().to_string(), what)
        .with_hint(format!("set base_model_name_or_path in {} to the model that training started from", run::LPC_BASE)))
}

/// Writes what names the base; one that has no name (a model made from the seed) is written beside it.
///
/// # Errors
/// [`Error::Io`].
pub fn save<T: Real>(to: &Path, config: &LlamaConfig, base: &Base, params: &Params) -> Result<()> {
    let fingerprint = match base.fingerprint.as_str() {
        "" => fingerprint::<T>(params.iter())?,
        known => known.to_string(),
    };
    if base.base_model_name_or_path.is_empty() {
        let beside = to.join(base::FOLDER);
        std::fs::create_dir_all(&beside).map_err(Error::io(&beside))?;
        folder::save(&beside, config, params.iter())?;
    }
    artifact::write_json(to.join(run::LPC_BASE), &Base { fingerprint, ..base.clone() })
}
