//! A file that is written part by part, and that another process can resume after the last sound part.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::parent;
use crate::error::{Error, Result};

/// Bytes of a part's hash.
const HASH: usize = 32;

/// A file that grows under a temporary name and is renamed when it is complete. A second file has a hash of every
/// part, so that a process that resumes keeps only sound parts.
#[derive(Debug)]
pub struct Growing {
    path: PathBuf,
    staged: PathBuf,
    hashes: PathBuf,
    file: File,
    sums: File,
    parts: usize,
}

/// The name of a hidden file beside another one.
fn beside(path: &Path, kind: &str) -> PathBuf {
    parent(path).join(format!(".{}.{kind}", super::name_of(path)))
}

impl Growing {
    /// The temporary path of a file. Its lock also decides which process writes the file.
    pub fn staged(path: &Path) -> PathBuf {
        beside(path, "part")
    }

    /// Resumes a file that an earlier process left unfinished, or begins it: `head` precedes the first part, and the
    /// parts have these sizes. The caller makes sure that no other process has it open.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, head: &[u8], sizes: &[u64]) -> Result<Growing> {
        let folder = parent(path);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let (staged, hashes) = (Growing::staged(path), beside(path, "sums"));
        let open = |path: &Path| {
            File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(Error::io(path))
        };
        let (mut file, mut sums) = (open(&staged)?, open(&hashes)?);
        let mut known = Vec::new();
        sums.read_to_end(&mut known).map_err(Error::io(&hashes))?;
        let mut found = vec![0; head.len()];
        let begun = file.read_exact(&mut found).is_ok() && found == head;
        let (mut parts, mut end) = (0, head.len() as u64);
        if begun {
            for (&size, wanted) in sizes.iter().zip(known.as_chunks::<HASH>().0) {
                let mut part = vec![0; size as usize];
                if file.read_exact(&mut part).is_err() || blake3::hash(&part).as_bytes() != wanted {
                    break;
                }
                (parts, end) = (parts + 1, end + size);
            }
        } else {
            file.rewind().and_then(|()| file.write_all(head)).map_err(Error::io(&staged))?;
        }
        for (file, path, end) in [(&mut file, &staged, end), (&mut sums, &hashes, (parts * HASH) as u64)] {
            file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(Error::io(path))?;
        }
        Ok(Growing { path: path.to_path_buf(), staged, hashes, file, sums, parts })
    }

    /// Number of parts written so far.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// [`Error::Io`] with the final path.
    pub fn append(&mut self, part: &[u8]) -> Result<()> {
        self.file.write_all(part).map_err(Error::io(&self.path))?;
        self.sums.write_all(blake3::hash(part).as_bytes()).map_err(Error::io(&self.path))?;
        self.parts += 1;
        Ok(())
    }

    /// Flushes the file and renames it to its final name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))?;
        super::move_file(&self.staged, &self.path)?;
        super::remove(&self.hashes)
    }

    /// Removes the unfinished file, where no process will resume it.
    pub fn abandon(self) {
        let _ = super::remove(&self.staged);
        let _ = super::remove(&self.hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sound_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let sizes = [3, 2, 4];
        let mut file = Growing::open(&path, b"head", &sizes).unwrap();
        file.append(b"abc").unwrap();
        file.append(b"de").unwrap();
        drop(file);
        // The process died while it wrote the third part.
        let staged = dir.path().join(".x.part");
        File::options().append(true).open(&staged).unwrap().write_all(b"fg").unwrap();
        let mut file = Growing::open(&path, b"head", &sizes).unwrap();
        assert_eq!(file.parts(), 2);
        assert!(!path.exists());
        file.append(b"fghi").unwrap();
        drop(file);
        // A byte of the second part has changed: only the first part is kept.
        std::fs::write(&staged, b"headabcdXfghi").unwrap();
        let mut file = Growing::open(&path, b"head", &sizes).unwrap();
        assert_eq!(file.parts(), 1);
        file.append(b"de").unwrap();
        file.append(b"fghi").unwrap();
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"headabcdefghi");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Another head is another file.
        drop(Growing::open(&path, b"head", &sizes).unwrap());
        assert_eq!(Growing::open(&path, b"HEAD", &sizes).unwrap().parts(), 0);
    }
}
