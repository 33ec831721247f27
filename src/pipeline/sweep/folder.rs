//! The folder of a sweep: which cells are finished in it, and under which settings it was begun.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backend::NOT_IDENTIFYING;
use super::tables::{FAILED, STATUS_OK};
use super::{Cell, CellScores, NoiseCell};
use crate::artifact;
use crate::error::{Error, Fault, Result};
use crate::manifest::{self, Manifest};
use crate::progress::Progress;
use crate::schema;
use crate::schema::sweep::{CELL_ATTEMPT, CELL_MARKER, CELLS, DATA_MARKER, PREPARED, SETTINGS};

/// Why nothing is trained over data without a test split.
pub(super) const NO_TEST_PAIRS: &str = "no pair is in the test split, on which cells are compared";

/// A cell's result; the marker of a finished cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// The cell.
    pub cell: Cell,
    /// Hash of what all cells of the sweep were made from: see [`super::Sweep::settings`].
    pub config_hash: String,
    /// What it scored.
    #[serde(flatten)]
    pub scores: CellScores,
    /// `ok`, or `failed: ...`.
    pub status: String,
}

impl CellRecord {
    /// The record of a cell that failed.
    pub(super) fn failed(cell: &Cell, reason: &str) -> CellRecord {
        CellRecord {
            cell: cell.clone(),
            config_hash: String::new(),
            scores: CellScores::default(),
            status: format!("{FAILED}{reason}"),
        }
    }
}

/// How a launch ended that did not finish a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// The cell.
    pub cell: Cell,
    /// As in [`CellRecord`].
    pub config_hash: String,
    /// `failed: ...` or `stopped: ...`.
    pub status: String,
    /// Bytes of what is kept for the next launch beside the run folder, where the cell was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

/// A configuration as JSON without the dotted keys that the grid sets itself or that change no
/// result (folders, threads, jobs): what has to stay the same for a sweep to be resumed.
///
/// # Errors
/// [`Error::Json`].
pub fn settings(config: &impl Serialize, without: &[&str]) -> Result<Value> {
    fn remove(value: &mut Value, path: &str) {
        let Some(map) = value.as_object_mut() else { return };
        match path.split_once('.') {
            None => {
                map.shift_remove(path);
            }
            Some((first, rest)) => {
                if let Some(inner) = map.get_mut(first) {
                    remove(inner, rest);
                }
            }
        }
    }
    let mut value = serde_json::to_value(config)?;
    without.iter().for_each(|path| remove(&mut value, path));
    Ok(value)
}

/// The marker of a finished prepared folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct DataRecord {
    noise: NoiseCell,
    /// As in [`CellRecord`].
    config_hash: String,
    /// BLAKE3 of its manifest, which differs where a user prepared the folder again.
    manifest: String,
}

/// Why a cell is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It was never begun.
    New,
    /// It failed or was stopped.
    Unfinished,
    /// It was made with other settings or data; nothing of it can be used.
    Other,
}

/// The cells of a grid: finished ones, and those to run.
pub(super) struct SortedCells<'a> {
    /// Finished cells by name.
    pub done: BTreeMap<String, CellRecord>,
    /// Cells to run, each once, in the order of the grid.
    pub pending: Vec<(&'a Cell, Why)>,
}

impl SortedCells<'_> {
    /// How many cells are finished and why the others are to be run, in words; none where all are new.
    pub fn sentence(&self) -> Option<String> {
        let count = |why| self.pending.iter().filter(|(_, w)| *w == why).count();
        let reasons = [
            (Why::Unfinished, "failed or were stopped"),
            (Why::Other, "were made from something else and begin anew"),
            (Why::New, "are new"),
        ];
        let reasons: Vec<String> =
            reasons.iter().filter(|(w, _)| count(*w) > 0).map(|(w, text)| format!("{} {text}", count(*w))).collect();
        if self.done.is_empty() && count(Why::New) == self.pending.len() {
            return None;
        }
        let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
        Some(format!("{} cells are finished and are kept; {} to run{why}", self.done.len(), self.pending.len()))
    }
}

/// Whether a folder was written to its end.
pub(super) fn is_finished(folder: &Path) -> bool {
    Manifest::read(folder).is_ok_and(|m| !m.finished.is_empty())
}

/// One sweep folder.
pub(super) struct SweepFolder {
    folder: PathBuf,
    hash: String,
    /// The contents of the models of the grid, by name.
    models: BTreeMap<String, String>,
}

impl SweepFolder {
    /// Opens a folder for these settings; a new folder notes them before any work starts.
    /// `models` are the contents of the grid's models by name: a cell depends on that of its own.
    pub fn open(folder: &Path, settings: &Value, models: BTreeMap<String, String>) -> Result<SweepFolder> {
        let path = folder.join(SETTINGS);
        let mut hash = manifest::hash_json(settings)?;
        match std::fs::read(&path) {
            Ok(bytes) => {
                let begun: Value = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::artifact(&path, format!("damaged settings of the sweep: {e}")))?;
                // A sweep that an earlier version began notes more; the hash of that is in its cells.
                let compared = super::settings(&begun, &NOT_IDENTIFYING)?;
                if manifest::hash_json(&compared)? != hash {
                    return Err(Error::Config(differences(folder, &compared, settings)));
                }
                hash = manifest::hash_json(&begun)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => artifact::write_json(&path, settings)?,
            Err(e) => return Err(Error::io(&path)(e)),
        }
        Ok(SweepFolder { folder: folder.to_path_buf(), hash, models })
    }

    /// Hash of what a cell was made from beside itself.
    fn hash_of(&self, cell: &Cell) -> String {
        match cell.settings.model.as_ref().and_then(|model| self.models.get(model)) {
            Some(content) => blake3::hash(format!("{}\0{content}", self.hash).as_bytes()).to_hex().to_string(),
            None => self.hash.clone(),
        }
    }

    /// The run folder of a cell.
    pub fn cell_folder(&self, name: &str) -> PathBuf {
        self.folder.join(CELLS).join(name)
    }

    /// Which cells are finished, and which are still to run.
    pub fn sort<'a>(&self, cells: &'a [Cell]) -> SortedCells<'a> {
        let (mut sorted, mut seen) = (SortedCells { done: BTreeMap::new(), pending: Vec::new() }, BTreeSet::new());
        for cell in cells {
            let name = cell.name();
            if !seen.insert(name.clone()) {
                continue;
            }
            match self.finished(cell) {
                Ok(record) => {
                    sorted.done.insert(name, record);
                }
                Err(why) => sorted.pending.push((cell, why)),
            }
        }
        sorted
    }

    /// The marker of a finished cell; a damaged marker or an unfinished run counts as not finished.
    pub fn finished(&self, cell: &Cell) -> std::result::Result<CellRecord, Why> {
        let folder = self.cell_folder(&cell.name());
        if !folder.exists() {
            return Err(Why::New);
        }
        match read_marker::<CellRecord>(&folder.join(CELL_MARKER)) {
            Some(record) if record.config_hash != self.hash_of(cell) || !record.cell.is_run_of(cell) => Err(Why::Other),
            Some(record) if record.status == STATUS_OK && is_finished(&folder) => Ok(record),
            _ => Err(Why::Unfinished),
        }
    }

    /// How the last launch of a cell ended, where it did not finish it and was of this sweep.
    pub fn attempt(&self, cell: &Cell) -> Option<Attempt> {
        let attempt = read_marker::<Attempt>(&self.cell_folder(&cell.name()).join(CELL_ATTEMPT))?;
        (attempt.config_hash == self.hash_of(cell) && attempt.cell.is_run_of(cell)).then_some(attempt)
    }

    /// Notes how a launch ended that did not finish a cell.
    pub fn attempted(&self, cell: &Cell, status: String, kept: Option<u64>) -> Result<()> {
        let attempt = Attempt { cell: cell.clone(), config_hash: self.hash_of(cell), status, kept };
        artifact::write_json(self.cell_folder(&cell.name()).join(CELL_ATTEMPT), &attempt)
    }

    /// Locks a cell for this process; `None` where another one runs it, on whatever machine.
    pub fn lock_cell(&self, name: &str) -> Result<Option<artifact::Lock>> {
        artifact::try_lock(&self.folder.join(CELLS).join(format!(".{name}.lock")))
    }

    /// Waits until no other process prepares the data of a noise setting; `None` where the user interrupts it.
    pub fn lock_data(&self, noise: &NoiseCell, progress: &dyn Progress) -> Result<Option<artifact::Lock>> {
        let name = noise.name();
        artifact::wait_for(&self.folder.join(PREPARED).join(format!(".{name}.lock")), &format!("data {name}"), progress)
    }

    /// Removes the run folder of a cell that was made with other settings or data.
    pub fn forget(&self, cell: &Cell) -> Result<()> {
        artifact::remove(&self.cell_folder(&cell.name()))
    }

    /// Whether the prepared folder of a noise setting is complete and was made for this sweep.
    pub fn is_prepared(&self, noise: &NoiseCell) -> bool {
        let folder = self.data_folder(noise);
        let Some(record) = read_marker::<DataRecord>(&folder.join(DATA_MARKER)) else { return false };
        let manifest = artifact::hash_file(folder.join(schema::prepared::MANIFEST)).map(|(_, hash)| hash);
        is_finished(&folder)
            && record.noise.is_data_of(noise)
            && record.config_hash == self.hash
            && manifest.is_ok_and(|hash| hash == record.manifest)
    }

    /// Marks the prepared folder of a noise setting as complete.
    pub fn prepared(&self, noise: &NoiseCell) -> Result<()> {
        let folder = self.data_folder(noise);
        let (_, manifest) = artifact::hash_file(folder.join(schema::prepared::MANIFEST))?;
        let record = DataRecord { noise: noise.clone(), config_hash: self.hash.clone(), manifest };
        artifact::write_json(folder.join(DATA_MARKER), &record)
    }

    /// The prepared folder of a noise setting.
    pub fn data_folder(&self, noise: &NoiseCell) -> PathBuf {
        self.folder.join(PREPARED).join(noise.name())
    }

    /// The record of a cell that was trained; where it has an accuracy the cell is marked as finished.
    pub fn finish(&self, cell: &Cell, scores: CellScores) -> Result<CellRecord> {
        let mut record = CellRecord { config_hash: self.hash_of(cell), scores, ..CellRecord::failed(cell, "") };
        if scores.eval_accuracy.is_some() {
            record.status = STATUS_OK.into();
            artifact::write_json(self.cell_folder(&cell.name()).join(CELL_MARKER), &record)?;
            artifact::remove(&self.cell_folder(&cell.name()).join(CELL_ATTEMPT))?;
        } else {
            let why = if scores.n_eval == Some(0) { NO_TEST_PAIRS } else { "the accuracy is no finite number" };
            record.status = format!("{FAILED}{why}");
        }
        Ok(record)
    }
}

/// Reads a marker; none where it is not there or damaged.
fn read_marker<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// One fault per differing key, with both values.
fn differences(folder: &Path, begun: &Value, now: &Value) -> Vec<Fault> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    manifest::by_dotted_key("", begun, &mut a);
    manifest::by_dotted_key("", now, &mut b);
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let message = |key: &str| match (a.get(key), b.get(key)) {
        (Some(old), Some(new)) => format!("the sweep in this folder was begun with {old}, now {new}"),
        (Some(old), None) => format!("the sweep in this folder was begun with {old}, now there is no such setting"),
        (None, Some(new)) => format!("the sweep in this folder was begun without it, now {new}"),
        (None, None) => String::new(),
    };
    let mut faults: Vec<Fault> =
        keys.into_iter().filter(|k| a.get(*k) != b.get(*k)).map(|k| Fault::new(k, message(k))).collect();
    let advice = "go on with the settings it was begun with, or choose another --out (the grid itself may change)";
    faults.push(Fault::new("", format!("{}: {advice}", folder.display())));
    faults
}
