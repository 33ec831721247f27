//! The work folder of a preparation that is under way. It has the finished steps, so that a killed run can be resumed,
//! and the key for which they were made, so that another run never resumes from them.
//!
//! `OUT/.work/key.json` is the key; `segment-NNNNN` are pairs as they were read, `finished-NNN` buckets in their
//! final order where more than one step reads them, `part-NNN` finished parts of the output. Each is complete as soon
//! as its `.json` is written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact;
use crate::error::{Error, Result};
use crate::ingest::Input;
use crate::progress::Progress;

/// Name of the work folder in the folder that is being prepared.
pub const FOLDER: &str = ".work";

/// Version of the work folder's contents; raised with every change of them.
const VERSION: u32 = 3;

/// What the finished work depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    version: u32,
    tool: String,
    config: serde_json::Value,
    seed: u64,
    tokenizer: serde_json::Value,
    files: Vec<Fingerprint>,
}

impl Key {
    /// The key of this configuration on these files, as they are now. `tokenizer` are its facts for the manifest;
    /// null for one that is trained on the input.
    pub fn of(config: &impl Serialize, seed: u64, tokenizer: serde_json::Value, files: &[Input]) -> Result<Key> {
        let mut config = serde_json::to_value(config)?;
        if let Some(config) = config.as_object_mut() {
            config.remove("out");
        }
        Ok(Key {
            version: VERSION,
            tool: env!("CARGO_PKG_VERSION").into(),
            config,
            seed,
            tokenizer,
            files: files.iter().map(Fingerprint::of).collect::<Result<_>>()?,
        })
    }
}

/// What identifies a file without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    name: String,
    bytes: u64,
    modified: String,
    /// BLAKE3 of samples over the whole length.
    samples: String,
}

impl Fingerprint {
    fn of(input: &Input) -> Result<Fingerprint> {
        const SAMPLES: u64 = 32;
        const SAMPLE_BYTES: usize = 1 << 16;
        let path = &input.path;
        let mut file = File::open(path).map_err(Error::io(&input.label))?;
        let facts = file.metadata().map_err(Error::io(&input.label))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::with_capacity(SAMPLE_BYTES);
        for i in 0..SAMPLES {
            let last = facts.len().saturating_sub(SAMPLE_BYTES as u64);
            let at = (u128::from(last) * u128::from(i) / u128::from(SAMPLES - 1)) as u64;
            file.seek(SeekFrom::Start(at)).map_err(Error::io(&input.label))?;
            buffer.clear();
            file.by_ref().take(SAMPLE_BYTES as u64).read_to_end(&mut buffer).map_err(Error::io(&input.label))?;
            hasher.update(&buffer);
            if last == 0 {
                break;
            }
        }
        Ok(Fingerprint {
            name: input.label.display().to_string(),
            bytes: facts.len(),
            modified: format!("{:?}", facts.modified().ok()),
            samples: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// A work folder.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    /// The temporary folder of a dry run, which is removed when this is dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl Work {
    /// The work folder below `out`, emptied unless it was made for the same key.
    pub fn open(out: &Path, key: &Key) -> Result<Work> {
        let work = Work { folder: out.join(FOLDER), _temporary: None };
        if work.read::<Key>("key").as_ref() != Some(key) {
            work.clear()?;
            work.finish("key", key)?;
        }
        Ok(work)
    }

    /// A temporary work folder, which is removed with the value.
    pub fn temporary() -> Result<Work> {
        let folder = std::env::temp_dir();
        let dir = tempfile::Builder::new().prefix("lpc-pipe-").tempdir_in(&folder).map_err(Error::io(&folder))?;
        Ok(Work { folder: dir.path().to_path_buf(), _temporary: Some(dir) })
    }

    /// The path of a step's bytes.
    pub fn path(&self, step: &str) -> PathBuf {
        self.folder.join(step)
    }

    /// Marks a step as finished and stores its facts. Its bytes must be written before.
    pub fn finish(&self, step: &str, facts: &impl Serialize) -> Result<()> {
        let path = self.marker(step);
        let bytes = serde_json::to_vec(facts)?;
        artifact::write_scratch(&path, |w| std::io::Write::write_all(w, &bytes).map_err(Error::io(&path)))
    }

    /// The facts of a finished step; none where it is not finished.
    pub fn read<T: DeserializeOwned>(&self, step: &str) -> Option<T> {
        let bytes = std::fs::read(self.marker(step)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<()> {
        artifact::remove(&self.folder)
    }

    fn marker(&self, step: &str) -> PathBuf {
        self.folder.join(format!("{step}.json"))
    }
}

/// Stops the work between two steps where the user asked for it.
///
/// # Errors
/// [`Error::Interrupted`] where the user did.
pub fn stop_if_asked(progress: &dyn Progress) -> Result<()> {
    if !progress.interrupted() {
        return Ok(());
    }
    Err(Error::interrupted("interrupted").with_hint("run the same command again to go on from here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_for_another_key_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in.jsonl");
        std::fs::write(&file, "one").unwrap();
        let key = |seed| Key::of(&1, seed, serde_json::Value::Null, &[Input::new(&file)]).unwrap();
        let out = dir.path().join("out");

        let work = Work::open(&out, &key(1)).unwrap();
        work.finish("step", &7).unwrap();
        assert_eq!(Work::open(&out, &key(1)).unwrap().read::<u32>("step"), Some(7));
        assert_eq!(Work::open(&out, &key(2)).unwrap().read::<u32>("step"), None);
        work.finish("step", &7).unwrap();
        std::fs::write(&file, "two").unwrap();
        let changed = Work::open(&out, &key(2)).unwrap();
        assert_eq!(changed.read::<u32>("step"), None, "the input has changed");
    }
}
