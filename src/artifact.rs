//! Atomic writes: a file is staged in its folder, flushed to disk, verified and renamed, and the folder is flushed.
//! A reader sees the old file or the new one, never a partial one.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

mod claim;
mod growing;
mod lock;
mod portable;

pub use claim::{Claim, WRITTEN_BY, lock_folder, may_add, may_write};
pub use growing::Growing;
pub use lock::{Lock, try_lock, wait_for};

/// Prefix of files that are not finished.
const STAGED: &str = ".staged-";

/// First bytes of the pointer file that Git LFS leaves in place of a large file.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Advice where a file is a Git LFS pointer.
pub const LFS_ADVICE: &str = "`git lfs pull` in its folder fetches the data";

/// Whether a file is a pointer of Git LFS, by its first bytes.
///
/// # Errors
/// [`Error::Io`].
pub fn is_lfs_pointer(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(LFS.len() as u64).read_to_end(&mut start).map_err(Error::io(path))?;
    Ok(start == LFS)
}

/// A finished file, as manifests list it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileDigest {
    /// Path relative to the folder of the manifest.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, lower-case hex.
    pub blake3: String,
    /// Rows, for tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// Writes a file atomically: `fill` writes the content, `verify` may open the
/// staged file and refuse it, and only then does it appear under its name.
///
/// # Errors
/// [`Error::Io`] with the final path; whatever `fill` or `verify` return.
pub fn write_verified(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>,
    verify: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let staged = stage(path, fill)?;
    staged.as_file().sync_all().map_err(Error::io(path))?;
    verify(staged.path())?;
    // Temporary files are private; a finished artifact has the usual permissions.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(staged.path(), std::fs::Permissions::from_mode(0o644)).map_err(Error::io(path))?;
    }
    staged.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
    // The rename itself must survive a power cut.
    #[cfg(unix)]
    File::open(parent(path)).and_then(|f| f.sync_all()).map_err(Error::io(parent(path)))?;
    Ok(())
}

/// [`write_verified`] for a table: `fill` returns the number of rows that it wrote, and `count` counts those of the
/// staged file. Returns that number.
///
/// # Errors
/// As [`write_verified`]; [`Error::Artifact`] where the numbers differ.
pub fn write_rows(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<usize>,
    count: impl FnOnce(&Path) -> Result<usize>,
) -> Result<u64> {
    let rows = std::cell::Cell::new(0);
    let verify = |staged: &Path| match count(staged)? {
        found if found == rows.get() => Ok(()),
        found => Err(Error::artifact(path, format!("wrote {} rows, read back {found}", rows.get()))),
    };
    write_verified(path, |w| fill(w).map(|n| rows.set(n)), verify)?;
    Ok(rows.get() as u64)
}

/// Writes a temporary file into the folder of `path`, so that the later rename stays within one file system.
fn stage(path: &Path, fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>) -> Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let mut staged = tempfile::Builder::new().prefix(STAGED).tempfile_in(&folder).map_err(Error::io(path))?;
    {
        let mut writer = BufWriter::with_capacity(1 << 20, staged.as_file_mut());
        fill(&mut writer).map_err(|e| broken(path, e, &mut writer))?;
        writer.flush().map_err(Error::io(path))?;
    }
    Ok(staged)
}

/// Turns an I/O error that a table writer has wrapped back into [`Error::Io`] with the path.
fn broken(path: &Path, error: Error, writer: &mut impl Write) -> Error {
    if !matches!(error, Error::Frame(_) | Error::Arrow(_) | Error::Parquet(_)) {
        return error;
    }
    // A second flush fails with the system's own error, which the table writer's error hides.
    match writer.flush() {
        Err(source) => Error::Io { path: path.to_path_buf(), source },
        Ok(()) => Error::run(format!("{}: {error}", path.display())),
    }
}

/// Writes a file that need not survive a power cut; it appears under its name only when it is complete.
///
/// # Errors
/// As [`write_verified`].
pub fn write_scratch(path: &Path, fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>) -> Result<()> {
    stage(path, fill)?.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
    Ok(())
}

/// Moves a finished file within a file system, over an older one.
///
/// # Errors
/// [`Error::Io`].
pub fn move_file(finished: &Path, path: &Path) -> Result<()> {
    let folder = parent(path);
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    std::fs::rename(finished, path).map_err(Error::io(path))?;
    // The rename itself must survive a power cut.
    #[cfg(unix)]
    File::open(&folder).and_then(|f| f.sync_all()).map_err(Error::io(&folder))?;
    Ok(())
}

/// Removes a file, or a folder with its contents; a missing one is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { path: path.to_path_buf(), source: e }),
        _ => Ok(()),
    }
}

/// [`write_verified`] without a check of the staged file.
///
/// # Errors
/// As [`write_verified`].
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>) -> Result<()> {
    write_verified(path, fill, |_| Ok(()))
}

/// Writes bytes atomically.
///
/// # Errors
/// As [`write_verified`].
pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write(path, |w| w.write_all(bytes).map_err(Error::io(path)))
}

/// Writes a value as indented JSON with a final newline, atomically.
///
/// # Errors
/// As [`write_verified`], and [`Error::Json`].
pub fn write_json(path: impl AsRef<Path>, value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

/// Rows of one Parquet row group: fixed, so that bytes depend on the rows alone.
const ROW_GROUP: usize = 8192;

/// Writes a polars frame as Parquet (zstd, fixed row groups, so that bytes do
/// not depend on threads), atomically; the row count is read back before the rename.
///
/// # Errors
/// As [`write_verified`], and [`Error::Frame`].
pub fn write_parquet(path: impl AsRef<Path>, frame: &mut polars::prelude::DataFrame) -> Result<()> {
    write_parquet_marked(path, frame, &[])
}

/// [`write_parquet`] with the key-value pairs `marks` in the file's metadata, which [`read_mark`] reads.
///
/// # Errors
/// As [`write_parquet`].
pub fn write_parquet_marked(
    path: impl AsRef<Path>,
    frame: &mut polars::prelude::DataFrame,
    marks: &[(String, String)],
) -> Result<()> {
    let none = frame.clear();
    write_parquet_pieces(path.as_ref(), &none, std::iter::once(Ok(frame.clone())), marks).map(|_| ())
}

/// The value of a key in a Parquet file's metadata; `None` where the key is missing.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened, [`Error::Artifact`] where it is damaged.
pub fn read_mark(path: impl AsRef<Path>, key: &str) -> Result<Option<String>> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = SerializedFileReader::new(file)
        .map_err(|e| Error::artifact(path, format!("not a readable Parquet file: {e}")))?;
    let pairs = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    Ok(pairs.filter(|pair| pair.key == key).find_map(|pair| pair.value.clone()))
}

/// Writes the frames in order as one Parquet file, holding one of them and less than a row group more in memory, and
/// returns the number of rows. Bytes depend on the rows alone, not on how they are cut into frames. `none` is a frame
/// without rows, for the columns and their types; `marks` are as in [`write_parquet_marked`].
///
/// # Errors
/// As [`write_parquet`], and the errors in `frames`.
pub fn write_parquet_pieces(
    path: &Path,
    none: &polars::prelude::DataFrame,
    frames: impl IntoIterator<Item = Result<polars::prelude::DataFrame>>,
    marks: &[(String, String)],
) -> Result<u64> {
    use polars::prelude::*;
    write_rows(
        path,
        |w| {
            let writer = ParquetWriter::new(w).with_compression(ParquetCompression::Zstd(None)).set_parallel(true);
            let writer = writer.with_key_value_metadata(portable::metadata(none.schema(), marks));
            let mut writer = writer.batched(none.schema())?;
            let (mut rows, mut waiting) = (0, none.clone());
            let mut put = |frame: DataFrame| -> Result<()> {
                let mut frame = frame;
                frame.rechunk_mut_par();
                rows += frame.height();
                Ok(writer.write_batch(&frame)?)
            };
            for frame in frames {
                waiting.vstack_mut_owned(frame?)?;
                while waiting.height() >= ROW_GROUP {
                    put(waiting.slice(0, ROW_GROUP))?;
                    waiting = waiting.slice(ROW_GROUP as i64, usize::MAX);
                }
            }
            if waiting.height() > 0 {
                put(waiting)?;
            }
            writer.finish()?;
            Ok(rows)
        },
        |staged| Ok(ParquetReader::new(File::open(staged).map_err(Error::io(path))?).num_rows()?),
    )
}

/// Reads a Parquet file that this program wrote into a frame.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened, [`Error::Artifact`] where it is damaged.
pub fn read_parquet(path: impl AsRef<Path>) -> Result<polars::prelude::DataFrame> {
    use polars::prelude::*;
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io(path))?;
    ParquetReader::new(file).finish().map_err(|e| Error::artifact(path, format!("not a readable Parquet file: {e}")))
}

/// Size and BLAKE3 of a file, its path given relative to `base`.
///
/// # Errors
/// [`Error::Io`].
pub fn digest(base: impl AsRef<Path>, path: impl AsRef<Path>, rows: Option<u64>) -> Result<FileDigest> {
    let path = path.as_ref();
    let (bytes, blake3) = hash_file(path)?;
    let relative = path.strip_prefix(base.as_ref()).unwrap_or(path);
    Ok(FileDigest { path: relative.to_string_lossy().replace('\\', "/"), bytes, blake3, rows })
}

/// Size and BLAKE3 (lower-case hex) of a file's content, read in pieces.
///
/// # Errors
/// [`Error::Io`].
pub fn hash_file(path: impl AsRef<Path>) -> Result<(u64, String)> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

/// The files and folders in a folder, by name.
///
/// # Errors
/// [`Error::Io`].
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut paths = found.map(|e| Ok(e.map_err(Error::io(folder))?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The last component of a path as text.
pub fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_bytes(&path, b"old").unwrap();
        let refused = write_verified(&path, |w| w.write_all(b"new").map_err(Error::io("x")), |_| Err(Error::run("no")));
        assert!(refused.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no staged file is left");
    }

    #[test]
    fn parquet_bytes_depend_on_the_rows_alone() {
        use polars::prelude::*;
        let dir = tempfile::tempdir().unwrap();
        let frame = |rows: std::ops::Range<usize>| {
            let texts: Vec<String> = rows.clone().map(|i| format!("text {i} {}", "x".repeat(i % 40))).collect();
            df!("n" => rows.clone().map(|i| i as u64).collect::<Vec<_>>(), "t" => texts).unwrap()
        };
        let n = 2 * ROW_GROUP + 77;
        let write = |name: &str, cuts: &[usize]| {
            let path = dir.path().join(name);
            let pieces = cuts.windows(2).map(|w| Ok(frame(w[0]..w[1])));
            assert_eq!(write_parquet_pieces(&path, &frame(0..0), pieces, &[]).unwrap() as usize, n);
            std::fs::read(&path).unwrap()
        };
        let whole = write("a", &[0, n]);
        assert!(whole == write("b", &[0, 1, 1, 5000, ROW_GROUP, ROW_GROUP + 8100, n]));
        assert_eq!(read_parquet(dir.path().join("b")).unwrap(), frame(0..n));
        let marks = [("mine".to_string(), "a mark".to_string())];
        write_parquet_marked(dir.path().join("m"), &mut frame(0..3), &marks).unwrap();
        assert_eq!(read_parquet(dir.path().join("m")).unwrap(), frame(0..3));
        assert_eq!(read_mark(dir.path().join("m"), "mine").unwrap().as_deref(), Some("a mark"));
        assert_eq!(read_mark(dir.path().join("a"), "mine").unwrap(), None);
        write_parquet_pieces(&dir.path().join("c"), &frame(0..0), [], &[]).unwrap();
        assert_eq!(read_parquet(dir.path().join("c")).unwrap(), frame(0..0));
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        for left in [".staged-abc", "below/.staged-def", "below/kept"] {
            write_bytes(dir.path().join(left), b"x").unwrap();
        }
        let held = lock_folder(dir.path(), "synth").unwrap();
        assert!(!dir.path().join(".staged-abc").exists() && !dir.path().join("below/.staged-def").exists());
        assert!(dir.path().join("below/kept").exists());
        assert!(lock_folder(dir.path(), "synth").is_err());
        drop(held);
        lock_folder(dir.path(), "synth").unwrap();
    }
}
