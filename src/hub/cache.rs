//! The cache of one repository, in the layout of `huggingface_hub`:
//! `KIND--ORG--NAME/refs/REVISION` names a commit, `KIND--ORG--NAME/snapshots/COMMIT/` holds files.
//!
//! This program adds `listings/COMMIT.json`, the names of all files of a commit. A commit never changes, so its
//! listing resolves a pattern without the hub, and tells which files are missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::HubError;
use super::names::{is_commit_name, is_safe_name};
use crate::artifact;
use crate::progress::Progress;

/// Prefix of the temporary folders in which files are completed.
const STAGING: &str = ".lpc-pipe-";

/// The cache of one repository.
#[derive(Debug, Clone)]
pub struct RepoCache {
    cache: PathBuf,
    base: PathBuf,
}

impl RepoCache {
    /// The cache of a repository; creates no folder. `kind` is `models` or `datasets`.
    pub fn new(cache: &Path, kind: &str, org: &str, name: &str) -> RepoCache {
        RepoCache { cache: cache.to_path_buf(), base: cache.join(format!("{kind}--{org}--{name}")) }
    }

    /// The folder of one commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.base.join("snapshots").join(commit)
    }

    /// The commit that a revision pointed to when it was last fetched, if the cache has files of it.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit_name(revision) && self.snapshot(revision).is_dir() {
            return Some(revision.to_string());
        }
        let commit = std::fs::read_to_string(self.base.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (is_commit_name(commit) && self.snapshot(commit).is_dir()).then(|| commit.to_string())
    }

    /// Records which commit a branch or tag points to.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.base.join("refs").join(revision);
        self.require_inside(&path)?;
        artifact::write_bytes(path, commit.as_bytes()).map_err(HubError::Own)
    }

    /// Names of all files of a commit, if they were saved.
    pub fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let bytes = std::fs::read(self.listing_path(commit)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Saves the names of all files of a commit.
    pub fn keep_listing(&self, commit: &str, files: &[String]) -> Result<(), HubError> {
        if self.listing(commit).is_some_and(|known| known == files) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.base).map_err(|e| HubError::io(&self.base, e))?;
        let path = self.listing_path(commit);
        self.require_inside(&path)?;
        artifact::write_json(path, &files).map_err(HubError::Own)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.base.join("listings").join(format!("{commit}.json"))
    }

    /// The path of a file, if the cache has it.
    pub fn file(&self, commit: &str, name: &str) -> Result<Option<PathBuf>, HubError> {
        if !is_safe_name(name) {
            return Err(HubError::Name(name.into()));
        }
        let path = self.snapshot(commit).join(name);
        if !path.is_file() {
            return Ok(None);
        }
        self.require_inside(&path)?;
        Ok(Some(path))
    }

    /// Names of a commit's files that the cache has, sorted.
    pub fn files(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// Adds a file to a commit's folder: `fill` writes it under its own name below a temporary folder, from which the
    /// complete file is moved.
    pub fn add(
        &self,
        commit: &str,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), HubError>,
    ) -> Result<PathBuf, HubError> {
        if !is_safe_name(name) {
            return Err(HubError::Name(name.into()));
        }
        let path = self.snapshot(commit).join(name);
        let parent = path.parent().unwrap_or(&self.base);
        std::fs::create_dir_all(&self.base).map_err(|e| HubError::io(&self.base, e))?;
        self.require_inside(parent)?;
        let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&self.base);
        let staging = staging.map_err(|e| HubError::io(&self.base, e))?;
        fill(staging.path())?;
        let staged = staging.path().join(name);
        std::fs::create_dir_all(parent).map_err(|e| HubError::io(parent, e))?;
        File::open(&staged).and_then(|f| f.sync_all()).map_err(|e| HubError::io(&staged, e))?;
        std::fs::rename(&staged, &path).map_err(|e| HubError::io(&path, e))?;
        Ok(path)
    }

    /// Locks the repository for one writer, so that two processes do not fetch the same file, and removes temporary
    /// folders that a killed process left. `None` where the file system has no locks.
    pub fn lock(&self, progress: &dyn Progress) -> Result<Option<File>, HubError> {
        std::fs::create_dir_all(&self.base).map_err(|e| HubError::io(&self.base, e))?;
        let path = self.base.join(".lpc-pipe.lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|e| HubError::io(&path, e))?;
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
                // A folder that cannot be removed does no harm.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(Some(file))
    }

    /// Refuses a path that links lead out of the cache and of the repository's folder, which may itself be a link to
    /// another disk.
    fn require_inside(&self, path: &Path) -> Result<(), HubError> {
        let mut existing = path;
        while !existing.exists() {
            match existing.parent() {
                Some(parent) => existing = parent,
                None => break,
            }
        }
        let real = existing.canonicalize().map_err(|e| HubError::io(existing, e))?;
        let roots = [&self.cache, &self.base];
        let inside = roots.iter().any(|root| root.canonicalize().is_ok_and(|root| real.starts_with(root)));
        if inside { Ok(()) } else { Err(HubError::Outside(path.to_path_buf(), real)) }
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
