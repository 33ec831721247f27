//! Locks of the system on files. They end with the process, and on network file systems that know locks they hold for
//! all machines.

use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// A lock on a file, held until the guard is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    /// Gives the lock up by name. Closing the file would not do: a child process that another thread has forked and
    /// that has not reached its own program yet holds a copy of the descriptor, and with it the lock.
    fn drop(&mut self) {
        // Nothing is left to do where it fails: the lock then ends with the last copy of the descriptor.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Takes the place of what the file held.
    pub(super) fn note(&mut self, path: &Path, text: &str) -> Result<()> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        self.0.set_len(0).map_err(io)?;
        self.0.rewind().map_err(io)?;
        self.0.write_all(text.as_bytes()).map_err(io)
    }
}

/// An exclusive lock on this file, which is created where it is missing; `None` where somebody else has it.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be written or its file system has no locks.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file = open(path)?;
    let taken = file.try_lock();
    held(path, file, taken)
}

/// A lock on this file that others may have at the same time by the same call, and nobody by [`try_lock`]; `None` where
/// somebody has it exclusively.
///
/// # Errors
/// As [`try_lock`].
pub(super) fn try_share(path: &Path) -> Result<Option<Lock>> {
    let file = open(path)?;
    let taken = file.try_lock_shared();
    held(path, file, taken)
}

/// Waits for an exclusive lock on this file, which is created where it is missing, so that only one process or thread
/// computes `what`, which is named to the user while it waits. `None` where the user interrupts the wait.
///
/// # Errors
/// As [`try_lock`].
pub fn wait_for(path: &Path, what: &str, progress: &dyn Progress) -> Result<Option<Lock>> {
    let mut told = false;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(Some(lock));
        }
        if progress.interrupted() {
            return Ok(None);
        }
        if !told {
            progress.note(&format!("{what}: waiting for another run that computes them"));
            told = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn held(path: &Path, file: File, taken: std::result::Result<(), TryLockError>) -> Result<Option<Lock>> {
    match taken {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

/// A file for a lock. Over NFS a shared lock needs a file that is open for reading, an exclusive one for writing.
fn open(path: &Path) -> Result<File> {
    let folder = super::parent(path);
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lock_is_free_although_a_copy_of_its_descriptor_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for take in [try_lock, try_share] {
            let lock = take(&path).unwrap().unwrap();
            // What a forked child holds until it starts its own program.
            let copy = lock.0.try_clone().unwrap();
            assert!(try_lock(&path).unwrap().is_none());
            drop(lock);
            assert!(try_lock(&path).unwrap().is_some());
            drop(copy);
        }
    }

    #[test]
    fn shared_locks_live_beside_each_other_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (one, other) = (try_share(&path).unwrap(), try_share(&path).unwrap());
        assert!(one.is_some() && other.is_some() && try_lock(&path).unwrap().is_none());
        drop((one, other));
        let alone = try_lock(&path).unwrap();
        assert!(alone.is_some() && try_share(&path).unwrap().is_none());
    }
}
