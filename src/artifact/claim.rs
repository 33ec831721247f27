//! Whether a command may write where it was told to: never over what this program did not write, never over an
//! input of the same command, and never into a folder that another command wrote.
//!
//! A folder is known by its `manifest.json`, and, while there is none, by its `.lock`, in which [`lock_folder`] notes the
//! command. A file is known by [`WRITTEN_BY`] in its metadata.

use std::path::{Path, PathBuf};

use super::{Lock, STAGED, entries, lock, name_of};
use crate::error::{Error, Result};
use crate::schema::{audit, eval, launch, prepared, report, run, sweep};

/// Key of the metadata of a Parquet file that a command writes under a name of the user's choice; its value is the
/// command's name.
pub const WRITTEN_BY: &str = "lpc_pipe.written_by";

/// Lock file: whoever has its lock may write the folder.
const LOCK: &str = ".lock";
/// Beginning of the lock file's text; the name of the command that writes the folder follows.
const SIGN: &str = "lpc-pipe ";

/// The names that a command writes at the top level of its folder.
enum Names {
    /// These files and folders.
    These(&'static [&'static str]),
    /// Any name.
    All,
}

impl Names {
    /// The names of a stage, which is named as in manifests. Subfolders that are output folders of another stage are
    /// left out, because that stage claims them itself.
    fn of(stage: &str) -> Names {
        Names::These(match stage {
            "synth" => &["corpus.jsonl", "train.jsonl", "test.jsonl", "truth", prepared::REJECTS, prepared::MANIFEST],
            "prepare" => &[
                prepared::PAIRS,
                prepared::TOKENS,
                prepared::TOKENIZER,
                prepared::REFERENCE,
                prepared::REJECTS,
                prepared::MANIFEST,
                ".work",
                launch::FOLDER,
            ],
            "train" => &[
                run::CONFIG,
                run::METRICS,
                run::TENSORBOARD,
                run::CHECKPOINTS,
                run::MODEL,
                run::POSTERIORS,
                run::CODES,
                run::DYNAMICS,
                run::SUMMARY,
                prepared::MANIFEST,
                report::HTML,
                report::MARKDOWN,
                report::PROJECTION,
            ],
            "noise-sweep" => &[
                run::CONFIG,
                sweep::SETTINGS,
                sweep::RESULTS,
                sweep::SUMMARY,
                sweep::CURVES,
                sweep::HIDDEN,
                report::HTML,
                report::MARKDOWN,
                prepared::MANIFEST,
                launch::FOLDER,
            ],
            "audit" => {
                &[audit::AUDIT, audit::SUMMARY, audit::REVIEW, report::HTML, report::MARKDOWN, prepared::MANIFEST]
            }
            "demo" => &["demo.json"],
            "eval" => &[eval::ITEMS, eval::SUMMARY, eval::HARNESS, prepared::MANIFEST],
            _ => return Names::All,
        })
    }

    /// Whether an entry of this name in a folder of the stage belongs to it, so that no other command writes into it.
    fn wrote(&self, name: &str) -> bool {
        match self {
            Names::These(names) => names.contains(&name),
            // The base of an adapter is the one folder in an export.
            Names::All => name == "base",
        }
    }

    /// Whether the stage may write something of this name.
    fn holds(&self, name: &str) -> bool {
        match self {
            Names::These(names) => names.contains(&name),
            // A hidden file is no part of a model.
            Names::All => !name.starts_with('.'),
        }
    }
}

/// Who wrote a folder, by its manifest and its lock file.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// Neither says so.
    Nobody,
    /// An unnamed command of this program: an unfinished folder of an earlier version.
    Unnamed,
    /// A command of this program.
    Stage(String),
    /// Another program: the manifest is not one of ours.
    Foreign,
}

fn owner(folder: &Path) -> Owner {
    let signed = std::fs::read_to_string(folder.join(LOCK)).ok();
    let by_lock = match signed.as_deref().map(|text| (text.is_empty(), text.trim_end().strip_prefix(SIGN))) {
        Some((_, Some(stage))) => Owner::Stage(stage.to_string()),
        Some((true, _)) => Owner::Unnamed,
        _ => Owner::Nobody,
    };
    let path = folder.join(prepared::MANIFEST);
    if std::fs::symlink_metadata(&path).is_err() {
        return by_lock;
    }
    let manifest = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let text = |key: &str| manifest.as_ref().and_then(|m| m.get(key)).and_then(serde_json::Value::as_str);
    match (text("tool").filter(|tool| tool.starts_with(SIGN)), text("stage")) {
        (Some(_), Some(stage)) => Owner::Stage(stage.to_string()),
        // A damaged manifest in a folder that is ours by its lock file.
        _ if manifest.is_none() && by_lock != Owner::Nobody => by_lock,
        _ => Owner::Foreign,
    }
}

/// What a command writes, and what it reads.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Name of the command in manifests; `merge` uses `prepare`, whose output it writes.
    pub stage: &'a str,
    /// Files and folders that the command reads; missing ones (a name on the hub) are skipped.
    pub inputs: &'a [PathBuf],
}

impl Claim<'_> {
    /// Refuses a folder that this command must not write: one that another command wrote or that lies within its
    /// output; one that is an input of this command; and one where a name that the command uses is taken by an input
    /// or by something that this program did not write.
    ///
    /// # Errors
    /// [`Error::Artifact`] with the reason.
    pub fn folder(&self, folder: &Path) -> Result<()> {
        let stage = self.stage;
        let names = Names::of(stage);
        self.outside_of_others(folder)?;
        match std::fs::symlink_metadata(folder) {
            Err(_) => return Ok(()),
            Ok(_) if folder.is_dir() => {}
            Ok(_) => return Err(refused(folder, format!("a file is there, and `{stage}` writes a folder"))),
        }
        let absolute = folder.canonicalize().map_err(Error::io(folder))?;
        for input in self.inputs {
            let Ok(whole) = input.canonicalize() else { continue };
            let Ok(below) = whole.strip_prefix(&absolute) else { continue };
            match first(below) {
                None => return Err(refused(folder, "an input of this command; it would be written over".into())),
                Some(name) if names.holds(&name) => {
                    let message = format!("{} is an input of this command; it would be written over", input.display());
                    return Err(refused(folder, message));
                }
                Some(_) => {}
            }
        }
        match owner(&absolute) {
            Owner::Stage(other) if other != stage => {
                Err(refused(folder, format!("holds the output of `{other}`; `{stage}` does not write over it")))
            }
            Owner::Foreign => {
                Err(refused(folder, format!("holds a {} that lpc-pipe did not write", prepared::MANIFEST)))
            }
            Owner::Stage(_) | Owner::Unnamed => Ok(()),
            Owner::Nobody => match taken(&absolute, &names)? {
                Some(name) => {
                    Err(refused(folder, format!("holds {name}, which lpc-pipe did not write; it would be replaced")))
                }
                None => Ok(()),
            },
        }
    }

    /// Checks as [`Claim::folder`] does, then locks the folder for this process and notes the command in it.
    ///
    /// # Errors
    /// As [`Claim::folder`]; [`Error::Run`] where another process writes there; [`Error::Io`].
    pub fn take(&self, folder: &Path) -> Result<Lock> {
        self.folder(folder)?;
        lock_folder(folder, self.stage)
    }

    /// Checks as [`Claim::folder`] does, then locks a folder that was begun before together with others that share it:
    /// each writes what is its own in it. [`Claim::take`] is refused meanwhile, and refuses this.
    ///
    /// # Errors
    /// As [`Claim::take`].
    pub fn share(&self, folder: &Path) -> Result<Lock> {
        self.folder(folder)?;
        lock::try_share(&folder.join(LOCK))?.ok_or_else(|| busy(folder))
    }

    /// Refuses a file that this command must not write: one that exists and was not written by this command, an input
    /// of it, or one that lies within what another command wrote; and one that cannot be written.
    ///
    /// # Errors
    /// [`Error::Artifact`] with the reason; [`Error::Io`] as [`may_write`].
    pub fn file(&self, path: &Path) -> Result<()> {
        if std::fs::symlink_metadata(path).is_err() {
            self.outside_of_others(path)?;
            return may_write(path);
        }
        if path.is_dir() {
            return Err(refused(path, format!("a folder is there, and `{}` writes a file", self.stage)));
        }
        let absolute = path.canonicalize().ok();
        let is_input = |input: &PathBuf| absolute.is_some() && input.canonicalize().ok() == absolute;
        if self.inputs.iter().any(is_input) {
            return Err(refused(path, "an input of this command; it would be written over".into()));
        }
        let written_by = super::read_mark(path, WRITTEN_BY).ok().flatten();
        if written_by.as_deref() != Some(self.stage) {
            return Err(refused(
                path,
                format!("is there, and `{}` did not write it; it would be replaced", self.stage),
            ));
        }
        self.outside_of_others(path)?;
        may_write(path)
    }

    /// Refuses a file that is there already, whoever wrote it, or that lies within what another command wrote: for
    /// files that do not say who wrote them. And one that cannot be written.
    ///
    /// # Errors
    /// [`Error::Artifact`] with the reason; [`Error::Io`] as [`may_write`].
    pub fn new_file(&self, path: &Path) -> Result<()> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(refused(path, format!("is there already, and `{}` does not replace it", self.stage)));
        }
        self.outside_of_others(path)?;
        may_write(path)
    }

    /// Refuses a path within one of the files and folders that another command wrote at the top of its folder.
    fn outside_of_others(&self, path: &Path) -> Result<()> {
        let absolute = resolved(path);
        for above in absolute.ancestors().skip(1) {
            let Owner::Stage(stage) = owner(above) else { continue };
            let Some(name) = absolute.strip_prefix(above).ok().and_then(first) else { continue };
            if Names::of(&stage).wrote(&name) {
                let message = format!("lies in {}, which `{stage}` wrote", above.join(name).display());
                return Err(refused(path, message));
            }
        }
        Ok(())
    }
}

/// Finds out whether a file or a folder can be written under this path, before the work whose results go there: an
/// unfinished file is made in the nearest folder that exists, and removed.
///
/// # Errors
/// [`Error::Io`] with the path where it cannot.
pub fn may_write(path: &Path) -> Result<()> {
    let whole = std::path::absolute(path).map_err(Error::io(path))?;
    let nearest = whole.ancestors().skip(usize::from(!whole.is_dir())).find(|above| above.exists());
    let nearest = nearest.unwrap_or(Path::new("/"));
    tempfile::Builder::new().prefix(STAGED).tempfile_in(nearest).map_err(Error::io(path))?;
    Ok(())
}

/// Refuses to replace files in a folder that this program did not write.
///
/// # Errors
/// [`Error::Artifact`] naming the file.
pub fn may_add(folder: &Path, names: &[&str]) -> Result<()> {
    if matches!(owner(folder), Owner::Stage(_) | Owner::Unnamed) {
        return Ok(());
    }
    match names.iter().find(|name| std::fs::symlink_metadata(folder.join(name)).is_ok()) {
        Some(name) => Err(Error::artifact(folder.join(name), "is there, and lpc-pipe did not write it")
            .with_hint("move it away; a report is written into the folder that it tells of")),
        None => Ok(()),
    }
}

/// Removes unfinished files; one that cannot be removed does no harm.
fn clear_unfinished(folder: &Path) {
    let found = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = found(folder).filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    for folder in std::iter::once(folder.to_path_buf()).chain(below) {
        for entry in found(&folder).filter(|e| e.file_name().to_string_lossy().starts_with(STAGED)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Locks the folder for this process, or refuses if another one has the lock, and notes the command in it. Files that
/// a killed process left unfinished in it, or in a folder directly below, are removed.
///
/// # Errors
/// [`Error::Run`] where another process writes there, [`Error::Io`] otherwise.
pub fn lock_folder(folder: &Path, stage: &str) -> Result<Lock> {
    let path = folder.join(LOCK);
    let mut lock = lock::try_lock(&path)?.ok_or_else(|| busy(folder))?;
    lock.note(&path, &format!("{SIGN}{stage}\n"))?;
    clear_unfinished(folder);
    Ok(lock)
}

fn busy(folder: &Path) -> Error {
    Error::run(format!("{}: another lpc-pipe is writing here", folder.display()))
        .with_hint("wait for it, or choose another --out")
}

fn refused(path: &Path, message: String) -> Error {
    Error::artifact(path, message).with_hint("choose another --out, or move away what is there")
}

/// The first entry of a folder that the stage would replace.
fn taken(folder: &Path, names: &Names) -> Result<Option<String>> {
    Ok(entries(folder)?.iter().map(|path| name_of(path)).find(|name| names.holds(name)))
}

fn first(path: &Path) -> Option<String> {
    path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned())
}

/// A path without links as far as it exists, and the rest of it as it was given.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for above in whole.ancestors() {
        if let Ok(absolute) = above.canonicalize() {
            return absolute.join(whole.strip_prefix(above).unwrap_or(Path::new("")));
        }
    }
    whole
}

#[cfg(test)]
mod tests;
