//! Where a model comes from: a local folder, a GGUF file, the hub, or a seed.

use std::path::{Path, PathBuf};

use crate::artifact;
use crate::error::{Error, Result};
use crate::hub::{Hub, ModelParts, looks_like_id};
use crate::progress::Progress;

/// A model as the command line names it, resolved to something on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A small Llama made from the seed: `tiny` or `tiny:WIDTHxLAYERS`.
    Tiny {
        /// Hidden size.
        width: usize,
        /// Decoder layers.
        layers: usize,
    },
    /// A Hugging Face folder: config.json, safetensors, tokenizer.json.
    Folder(PathBuf),
    /// A GGUF file, tokenizer and template inside.
    Gguf(PathBuf),
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Tiny { width, layers } => write!(f, "tiny:{width}x{layers}"),
            ModelSource::Folder(path) | ModelSource::Gguf(path) => write!(f, "{}", path.display()),
        }
    }
}

impl ModelSource {
    /// Resolves MODEL: `tiny[:WxL]`, a folder, a `.gguf` file, or a hub id `ORG/NAME[@REVISION]`
    /// (downloaded into the hub cache; see [`crate::hub`]).
    ///
    /// # Errors
    /// [`Error::Model`] where it is none of these or cannot be downloaded; [`Error::Io`].
    pub fn resolve(name: &str, progress: &dyn Progress) -> Result<ModelSource> {
        Self::with_parts(name, ModelParts::All, progress)
    }

    /// The same where tokenizer and configuration are all that is read: the weights are not downloaded from the hub.
    ///
    /// # Errors
    /// As [`ModelSource::resolve`].
    pub fn tokenizer(name: &str, progress: &dyn Progress) -> Result<ModelSource> {
        Self::with_parts(name, ModelParts::Tokenizer, progress)
    }

    fn with_parts(name: &str, parts: ModelParts, progress: &dyn Progress) -> Result<ModelSource> {
        if let Some(source) = Self::tiny(name)? {
            return Ok(source);
        }
        let path = Path::new(name);
        if path.is_dir() {
            let files = std::fs::read_dir(path).map_err(Error::io(path))?.flatten().map(|entry| entry.path());
            let mut read = files.filter(|file| {
                file.is_file() && file.extension().is_some_and(|ending| ending == "json" || ending == "safetensors")
            });
            read.try_for_each(|file| whole(&file))?;
            return Ok(ModelSource::Folder(path.to_path_buf()));
        }
        if path.is_file() {
            whole(path)?;
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
                return Ok(ModelSource::Gguf(path.to_path_buf()));
            }
            return Err(Error::model(name, "a model file must be .gguf")
                .with_hint("give the folder that holds config.json, or a .gguf file"));
        }
        if looks_like_id(name) {
            return Ok(ModelSource::Folder(Hub::from_env().fetch_model(name, parts, progress)?));
        }
        Err(Error::model(name, "no such folder, .gguf file or hub id")
            .with_hint("MODEL is a folder, a .gguf file, ORG/NAME on the hub, or tiny[:WxL]"))
    }

    /// Whether MODEL is made here, from a seed, with a tokenizer of its own.
    pub fn is_tiny(name: &str) -> bool {
        name == "tiny" || name.starts_with("tiny:")
    }

    fn tiny(name: &str) -> Result<Option<ModelSource>> {
        if name == "tiny" {
            return Ok(Some(ModelSource::Tiny { width: 64, layers: 2 }));
        }
        let Some(shape) = name.strip_prefix("tiny:") else { return Ok(None) };
        let parsed = shape.split_once('x').and_then(|(w, l)| Some((w.parse().ok()?, l.parse().ok()?)));
        match parsed {
            Some((width, layers)) if (16..=4096).contains(&width) && width % 16 == 0 && (1..=64).contains(&layers) => {
                Ok(Some(ModelSource::Tiny { width, layers }))
            }
            _ => {
                Err(Error::model(name, "expected tiny:WIDTHxLAYERS, width a multiple of 16 up to 4096, 1 to 64 layers"))
            }
        }
    }
}

/// Refuses a Git LFS pointer in place of the file.
fn whole(file: &Path) -> Result<()> {
    if !artifact::is_lfs_pointer(file)? {
        return Ok(());
    }
    let name = file.display().to_string();
    Err(Error::model(name, "a pointer of Git LFS, not the model").with_hint(artifact::LFS_ADVICE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn pointers_of_git_lfs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        assert!(ModelSource::resolve(&folder.display().to_string(), &Silent).is_ok());
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        std::fs::write(folder.join("model.safetensors"), pointer).unwrap();
        std::fs::write(dir.path().join("m.gguf"), pointer).unwrap();
        for name in [folder, dir.path().join("m.gguf")] {
            let error = ModelSource::resolve(&name.display().to_string(), &Silent).unwrap_err();
            assert!(error.to_string().contains("a pointer of Git LFS, not the model"), "{error}");
            assert!(error.hint().unwrap().contains("git lfs pull"));
        }
    }
}
