//! The base model that an adapter or a latent part was trained over: where it is.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::progress::Silent;
use crate::source::ModelSource;

/// Folder of a base model that is stored beside what was trained over it.
pub const FOLDER: &str = "base";

/// Finds the base that `folder` names: a folder or file, relative to the working directory or to `folder`; else the
/// folder [`FOLDER`] in it; else a hub id at a revision.
///
/// # Errors
/// [`crate::Error::Model`] where it is none of these.
pub(super) fn locate(folder: &Path, name: &str, revision: &str) -> Result<ModelSource> {
    let named = [PathBuf::from(name), folder.join(name)].into_iter().filter(|_| !name.is_empty());
    match named.chain([folder.join(FOLDER)]).find(|path| path.exists()) {
        Some(path) => ModelSource::resolve(&path.display().to_string(), &Silent),
        None if crate::hub::looks_like_id(name) && !name.contains('@') && !revision.is_empty() => {
            ModelSource::resolve(&format!("{name}@{revision}"), &Silent)
        }
        None => ModelSource::resolve(name, &Silent),
    }
}
