//! The manifest of a folder: command, settings, inputs and outputs, enough to repeat the work.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact::{self, FileDigest};
use crate::error::{Error, Result};
use crate::settings::joined;

/// Version of the folder layouts; readers refuse a newer one.
pub const SCHEMA_VERSION: u32 = 3;

/// One input file and the fate of its rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InputFile {
    /// Path as the user gave it.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file as it is on disk, lower-case hex.
    pub blake3: String,
    /// Rows read.
    pub rows_read: u64,
    /// Rows kept.
    pub rows_kept: u64,
    /// Rows rejected, by reason; `rows_read = rows_kept + sum(rows_rejected)`.
    pub rows_rejected: BTreeMap<String, u64>,
}

/// The manifest of a prepared, run or sweep folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version.
    pub schema_version: u32,
    /// `lpc-pipe` and its version.
    pub tool: String,
    /// `prepare`, `train`, `noise-sweep`, ...
    pub stage: String,
    /// The command line as typed.
    pub command: Vec<String>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// BLAKE3 of the canonical JSON of `config`.
    pub config_hash: String,
    /// Input files.
    pub inputs: Vec<InputFile>,
    /// Seeds by purpose.
    pub seeds: BTreeMap<String, u64>,
    /// Facts of the stage: counts, drops, realised noise, tokenizer, template.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// Files written.
    pub outputs: Vec<FileDigest>,
    /// Start, RFC 3339 UTC; not part of any hash.
    pub started: String,
    /// End, RFC 3339 UTC; not part of any hash.
    pub finished: String,
}

impl Manifest {
    /// A manifest at the start of a stage: tool, command line, configuration and its hash, clock.
    ///
    /// # Errors
    /// [`Error::Json`] where the configuration cannot be written as JSON.
    pub fn begin(stage: &str, config: &impl Serialize) -> Result<Manifest> {
        let config = serde_json::to_value(config)?;
        Ok(Manifest {
            schema_version: SCHEMA_VERSION,
            tool: concat!("lpc-pipe ", env!("CARGO_PKG_VERSION")).to_string(),
            stage: stage.to_string(),
            command: std::env::args().collect(),
            config_hash: hash_json(&config)?,
            config,
            started: now(),
            ..Manifest::default()
        })
    }

    /// Adds a fact.
    ///
    /// # Errors
    /// [`Error::Json`] where the value cannot be written as JSON.
    pub fn fact(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        self.facts.insert(key.to_string(), serde_json::to_value(value)?);
        Ok(())
    }

    /// Records a written file of this folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn output(&mut self, folder: &Path, name: &str, rows: Option<u64>) -> Result<()> {
        self.outputs.push(artifact::digest(folder, folder.join(name), rows)?);
        Ok(())
    }

    /// Where a file or folder is that the settings name, wherever the command that reads them is given. A relative path
    /// belongs to the working directory of the command that wrote `folder` (fact [`DIRECTORY`]), or else to the folder
    /// from which the settings' own `out` leads to `folder`: a tree that was moved keeps that. What is at neither place
    /// stays as it is, a hub id or a path from here.
    ///
    /// [`DIRECTORY`]: crate::schema::fact::DIRECTORY
    pub fn located(&self, folder: &Path, name: &str) -> String {
        if name.is_empty() || Path::new(name).is_absolute() {
            return name.to_string();
        }
        let recorded = self.facts.get(crate::schema::fact::DIRECTORY).and_then(|path| path.as_str()).map(PathBuf::from);
        let by_out = self.config["out"].as_str().and_then(|out| without_end(folder, Path::new(out)));
        match recorded.into_iter().chain(by_out).map(|above| above.join(name)).find(|path| path.exists()) {
            Some(path) if path.canonicalize().ok() != Path::new(name).canonicalize().ok() => path.display().to_string(),
            _ => name.to_string(),
        }
    }

    /// The token files of a prepared folder.
    pub fn token_files(&self) -> impl Iterator<Item = &FileDigest> {
        let below = |file: &&FileDigest| Path::new(&file.path).starts_with(crate::schema::prepared::TOKENS);
        self.outputs.iter().filter(below)
    }

    /// Stamps the end and writes `manifest.json` into the folder, last of all files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self, folder: &Path) -> Result<Manifest> {
        self.finished = now();
        artifact::write_json(folder.join(crate::schema::prepared::MANIFEST), &self)?;
        Ok(self)
    }

    /// Reads a folder's manifest and refuses a newer layout.
    ///
    /// # Errors
    /// [`Error::Artifact`] where it is missing, damaged or newer, or names a file outside of the folder.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join(crate::schema::prepared::MANIFEST);
        let bytes = std::fs::read(&path).map_err(|e| {
            Error::artifact(&path, format!("no manifest: {e}"))
                .with_hint("is this a folder that lpc-pipe has finished writing?")
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| Error::artifact(&path, format!("damaged manifest: {e}")))?;
        if manifest.schema_version > SCHEMA_VERSION {
            return Err(Error::artifact(
                &path,
                format!("layout version {} is newer than {SCHEMA_VERSION}", manifest.schema_version),
            )
            .with_hint("use a newer lpc-pipe"));
        }
        // A manifest may only name files of its own folder.
        if let Some(file) = manifest.outputs.iter().find(|file| !is_below(&file.path)) {
            let message = format!("names a file outside of its folder: {:?}", file.path);
            return Err(Error::artifact(&path, message).with_hint("run the command that wrote it again"));
        }
        Ok(manifest)
    }

    /// Compares one file of the folder with what the manifest says of it.
    ///
    /// # Errors
    /// [`Error::Artifact`] where size or hash differ or the file is not listed.
    pub fn verify(&self, folder: &Path, name: &str) -> Result<()> {
        let path = folder.join(name);
        let Some(listed) = self.outputs.iter().find(|f| f.path == name) else {
            return Err(Error::artifact(&path, "not listed in the manifest"));
        };
        let found = artifact::digest(folder, &path, listed.rows)?;
        if found.blake3 != listed.blake3 {
            return Err(Error::artifact(
                &path,
                format!("content changed since it was written (BLAKE3 {} != {})", found.blake3, listed.blake3),
            )
            .with_hint("run the command that wrote it again"));
        }
        Ok(())
    }
}

/// BLAKE3 (hex) of a JSON value, with object keys sorted, so that their order makes no difference.
///
/// # Errors
/// [`Error::Json`].
pub fn hash_json(value: &serde_json::Value) -> Result<String> {
    fn sorted(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => {
                let ordered: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
                ordered.into_iter().collect()
            }
            serde_json::Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    Ok(blake3::hash(&serde_json::to_vec(&sorted(value))?).to_hex().to_string())
}

/// The values of a JSON object by their dotted keys, those of objects within it too; an empty object is a value.
pub fn by_dotted_key(key: &str, value: &serde_json::Value, out: &mut BTreeMap<String, serde_json::Value>) {
    match value {
        serde_json::Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(name, value)| by_dotted_key(&joined(key, name), value, out));
        }
        value => drop(out.insert(key.to_string(), value.clone())),
    }
}

/// The folder from which a relative path leads to `folder`; none where no folder can be told.
fn without_end(folder: &Path, end: &Path) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let parts: Vec<Component<'_>> = end.components().filter(|part| *part != Component::CurDir).collect();
    let named = !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_)));
    let end: PathBuf = parts.iter().collect();
    (named && folder.ends_with(&end)).then(|| folder.ancestors().nth(parts.len()).map(Path::to_path_buf))?
}

/// Whether a path, as manifests write it, lies below their folder.
fn is_below(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    path.split('/').all(plain)
}

fn now() -> String {
    time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_settings_are_found_from_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for folder in ["old/model", "moved/model", "moved/runs/a"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        let mut manifest = Manifest { config: serde_json::json!({"out": "./runs/a"}), ..Manifest::default() };
        let located = |manifest: &Manifest, name: &str| manifest.located(&at("moved/runs/a"), name);
        let text = |path: PathBuf| path.display().to_string();
        assert_eq!(located(&manifest, "model"), text(at("moved/model")), "by the end of the folder's own path");
        manifest.fact(crate::schema::fact::DIRECTORY, at("old")).unwrap();
        assert_eq!(located(&manifest, "model"), text(at("old/model")), "where the command was given");
        manifest.fact(crate::schema::fact::DIRECTORY, at("gone")).unwrap();
        assert_eq!(located(&manifest, "model"), text(at("moved/model")));
        for name in ["org/name", "", "/abs/model"] {
            assert_eq!(located(&manifest, name), name);
        }
        manifest.config = serde_json::json!({"out": "../a"});
        assert_eq!(located(&manifest, "model"), "model");
    }
}
