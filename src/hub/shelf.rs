//! One repository's place in the cache, in the layout of `huggingface_hub`:
//! `KIND--ORG--NAME/refs/REVISION` names a commit, `KIND--ORG--NAME/snapshots/COMMIT/` holds files.
//!
//! Ours besides: `listings/COMMIT.json`, the names of all files of a commit. A commit never changes,
//! so that with its listing a pattern can be resolved without the hub, and one knows what is missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::names::{is_commit_name, is_safe_name};
use super::trouble::Trouble;
use crate::artifact;
use crate::progress::Progress;

/// Prefix of the folders in which files are finished.
const STAGING: &str = ".lpc-pipe-";

/// One repository in the cache.
#[derive(Debug, Clone)]
pub struct Shelf {
    cache: PathBuf,
    base: PathBuf,
}

impl Shelf {
    /// The shelf of a repository; nothing is made yet. `kind` is `models` or `datasets`.
    pub fn new(cache: &Path, kind: &str, org: &str, name: &str) -> Shelf {
        Shelf { cache: cache.to_path_buf(), base: cache.join(format!("{kind}--{org}--{name}")) }
    }

    /// The folder of one commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.base.join("snapshots").join(commit)
    }

    /// The commit that a revision was last seen to stand for, if files of it are here.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit_name(revision) && self.snapshot(revision).is_dir() {
            return Some(revision.to_string());
        }
        let commit = std::fs::read_to_string(self.base.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (is_commit_name(commit) && self.snapshot(commit).is_dir()).then(|| commit.to_string())
    }

    /// Notes which commit a branch or tag stood for.
    ///
    /// # Errors
    /// [`Trouble::Own`].
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), Trouble> {
        if revision == commit {
            return Ok(());
        }
        let path = self.base.join("refs").join(revision);
        self.require_inside(&path)?;
        artifact::write_bytes(path, commit.as_bytes()).map_err(Trouble::Own)
    }

    /// Names of all files of a commit, if they are known.
    pub fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let bytes = std::fs::read(self.listing_path(commit)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps the names of all files of a commit.
    ///
    /// # Errors
    /// [`Trouble::Own`].
    pub fn keep_listing(&self, commit: &str, files: &[String]) -> Result<(), Trouble> {
        if self.listing(commit).is_some_and(|known| known == files) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.base).map_err(|e| Trouble::io(&self.base, e))?;
        let path = self.listing_path(commit);
        self.require_inside(&path)?;
        artifact::write_json(path, &files).map_err(Trouble::Own)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.base.join("listings").join(format!("{commit}.json"))
    }

    /// The path of a file, if it is here.
    ///
    /// # Errors
    /// [`Trouble::Name`] for a name that leads out of the folder, [`Trouble::Outside`] for a link that does.
    pub fn file(&self, commit: &str, name: &str) -> Result<Option<PathBuf>, Trouble> {
        if !is_safe_name(name) {
            return Err(Trouble::Name(name.into()));
        }
        let path = self.snapshot(commit).join(name);
        if !path.is_file() {
            return Ok(None);
        }
        self.require_inside(&path)?;
        Ok(Some(path))
    }

    /// Names of the files of a commit that are here, sorted.
    pub fn files(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// Takes a file that `fill` writes below the folder it is given, under the file's own name. It
    /// appears among the commit's files when it is whole.
    ///
    /// # Errors
    /// Those of [`Shelf::file`] and of `fill`; [`Trouble::Own`].
    pub fn take(
        &self,
        commit: &str,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), Trouble>,
    ) -> Result<PathBuf, Trouble> {
        if !is_safe_name(name) {
            return Err(Trouble::Name(name.into()));
        }
        let path = self.snapshot(commit).join(name);
        let parent = path.parent().unwrap_or(&self.base);
        std::fs::create_dir_all(&self.base).map_err(|e| Trouble::io(&self.base, e))?;
        self.require_inside(parent)?;
        let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&self.base);
        let staging = staging.map_err(|e| Trouble::io(&self.base, e))?;
        fill(staging.path())?;
        let staged = staging.path().join(name);
        std::fs::create_dir_all(parent).map_err(|e| Trouble::io(parent, e))?;
        File::open(&staged).and_then(|f| f.sync_all()).map_err(|e| Trouble::io(&staged, e))?;
        std::fs::rename(&staged, &path).map_err(|e| Trouble::io(&path, e))?;
        Ok(path)
    }

    /// Holds the shelf for one writer, so that two processes do not fetch the same file; clears what
    /// a killed one left. Where the file system knows no locks, work goes on without one.
    ///
    /// # Errors
    /// [`Trouble::Own`].
    pub fn hold(&self, progress: &dyn Progress) -> Result<Option<File>, Trouble> {
        std::fs::create_dir_all(&self.base).map_err(|e| Trouble::io(&self.base, e))?;
        let path = self.base.join(".lpc-pipe.lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|e| Trouble::io(&path, e))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !told {
                        progress.note(&format!("waiting for another process that fetches {}", self.base.display()));
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(std::fs::TryLockError::Error(_)) => return Ok(None),
            }
        }
        for entry in std::fs::read_dir(&self.base).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGING) {
                // What cannot be removed is in nobody's way.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(Some(file))
    }

    /// Refuses a path that links lead out of the cache (or of the repository's folder, which may
    /// itself be a link to another disk).
    fn require_inside(&self, path: &Path) -> Result<(), Trouble> {
        let mut existing = path;
        while !existing.exists() {
            match existing.parent() {
                Some(parent) => existing = parent,
                None => break,
            }
        }
        let real = existing.canonicalize().map_err(|e| Trouble::io(existing, e))?;
        let roots = [&self.cache, &self.base];
        let inside = roots.iter().any(|root| root.canonicalize().is_ok_and(|root| real.starts_with(root)));
        if inside { Ok(()) } else { Err(Trouble::Outside(path.to_path_buf(), real)) }
    }
}

/// Relative paths of all files below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link to a folder is not followed: the cache never makes one.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(path);
            } else if let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                found.push(name.replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}
