//! `noise-sweep cell`: one cell of a sweep by its number, for the schedulers of clusters. Any number of processes run the
//! cells of one folder, each its own.

use std::path::Path;

use serde::Serialize;

use super::backend::{states_folder, sweep_of};
use super::folder::{SweepFolder, Why};
use super::tables::STOPPED;
use super::{Cell, CellRecord, CellScores, Pipelines, Sweep, SweepBackend, caught, distinct, grid, one_line};
use crate::artifact;
use crate::error::{Error, Result};
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::schema;
use crate::settings::Settings;

/// Number of the task in a Slurm array.
const TASK: &str = "SLURM_ARRAY_TASK_ID";

/// How a launch of one cell ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellOutcome {
    /// Number of the cell, from 1.
    pub index: usize,
    /// Cells of the sweep.
    pub cells: usize,
    /// Run folder under `cells/`.
    pub name: String,
    /// Whether an earlier launch finished it, so that nothing was done.
    pub already: bool,
    /// What it scored.
    #[serde(flatten)]
    pub scores: CellScores,
}

/// Runs one cell of the sweep in the recipe's folder: that of this number, from 1, or that of the task of a Slurm array.
///
/// Cells are numbered in the order of the grid, each run once. What the cell needs and nobody has prepared is prepared
/// first; a finished cell is not run again. A failure is noted in the cell's folder, where [`super::collect()`] finds it.
///
/// # Errors
/// [`Error::Config`] where there is no such cell; [`Error::Interrupted`] where the user or a scheduler stopped it, and
/// the same call goes on; [`Error::Run`] where the cell failed, or another process runs it; as [`super::run`].
pub fn run_cell(recipe: &Recipe, index: Option<usize>, progress: &dyn Progress) -> Result<CellOutcome> {
    let index = match index {
        Some(index) => index,
        None => task()?,
    };
    let (sweep, inputs) = sweep_of(recipe, progress)?;
    sweep.run_cell(index, &Pipelines::new(recipe, inputs, progress).alone(), progress)
}

/// The number of this task in its array.
fn task() -> Result<usize> {
    let value = std::env::var(TASK).map_err(|_| {
        Error::config("", format!("no cell is named: give --index N, from 1, or run it in a Slurm array ({TASK})"))
    })?;
    value.parse().map_err(|_| Error::config("", format!("{TASK} is {value:?}, no number of a cell")))
}

impl Sweep<'_> {
    /// [`run_cell`] with this backend.
    ///
    /// # Errors
    /// As [`run_cell`].
    pub fn run_cell(&self, index: usize, backend: &dyn SweepBackend, progress: &dyn Progress) -> Result<CellOutcome> {
        self.config.check()?;
        let rows = grid(self.config, self.base);
        let cells = distinct(&rows);
        let Some(cell) = index.checked_sub(1).and_then(|at| cells.get(at)) else {
            let n = cells.len();
            let message = format!("no cell {index}: the sweep in {} has {n}, 1 to {n}", self.out.display());
            return Err(Error::config("", message));
        };
        let _sweep_lock = artifact::Claim { stage: "noise-sweep", inputs: &self.inputs }.share(self.out)?;
        let folder = SweepFolder::open(self.out, &self.settings, self.models.clone())?;
        let name = cell.name();
        let Some(_cell_lock) = folder.lock_cell(&name)? else {
            return Err(Error::run(format!("cell {name}: another process runs it")).with_hint("nothing was done"));
        };
        let outcome = |already: bool, scores: CellScores| {
            Ok(CellOutcome { index, cells: cells.len(), name: name.clone(), already, scores })
        };
        match folder.finished(cell) {
            Ok(record) => return outcome(true, record.scores),
            Err(Why::Other) => folder.forget(cell)?,
            Err(_) => {}
        }
        progress.note(&format!("cell {index} of {}: {name}", cells.len()));
        let data = folder.data_folder(&cell.noise);
        let work = || {
            self.provide(cell, &folder, backend, progress)?;
            backend.train(cell, &data, &folder.cell_folder(&name))
        };
        let failed = |status: String| {
            folder.attempted(cell, status.clone(), None)?;
            Err(Error::run(format!("cell {name} {status}")).with_hint(
                "the failure is noted for `collect`, and the other cells go on; the same command tries again",
            ))
        };
        match caught(work) {
            Ok(scores) => {
                let record = folder.finish(cell, scores)?;
                if record.scores.eval_accuracy.is_none() {
                    failed(record.status)
                } else {
                    outcome(false, record.scores)
                }
            }
            Err(Error::Interrupted { message, .. }) => {
                let (status, kept) = (format!("{STOPPED}{message}"), self.kept(&data));
                let same = folder.attempt(cell).is_some_and(|last| last.status == status && last.kept == Some(kept));
                if same {
                    let advice = "give it more time (slurm.time), or a signal that comes later (slurm.signal_seconds)";
                    let reason = format!("stopped twice without getting further ({message}); {advice}");
                    return failed(CellRecord::failed(cell, &reason).status);
                }
                folder.attempted(cell, status, Some(kept))?;
                Err(Error::interrupted(format!("cell {name}: {message}"))
                    .with_hint("the same command goes on from here"))
            }
            Err(error) => failed(CellRecord::failed(cell, &one_line(&error)).status),
        }
    }

    /// Makes sure that the data of a cell are prepared, once for all processes.
    pub(super) fn provide(
        &self,
        cell: &Cell,
        folder: &SweepFolder,
        backend: &dyn SweepBackend,
        progress: &dyn Progress,
    ) -> Result<()> {
        let data = folder.data_folder(&cell.noise);
        if folder.is_prepared(&cell.noise) {
            return Ok(());
        }
        let Some(_lock) = folder.lock_data(&cell.noise, progress)? else {
            return Err(Error::interrupted("interrupted while another process prepares the data"));
        };
        if folder.is_prepared(&cell.noise) {
            return Ok(());
        }
        let prepared = backend.prepare(&cell.noise, &data).and_then(|()| folder.prepared(&cell.noise));
        prepared.map_err(|error| match error {
            Error::Interrupted { .. } => error,
            other => Error::run(format!("prepare: {}", one_line(&other))),
        })
    }

    /// Bytes of what runs keep for the next launch, over this prepared folder and of hidden states: they grow as long as the cell
    /// gets further. Those of other cells count too, and come to an end.
    fn kept(&self, data: &Path) -> u64 {
        bytes_below(data) + bytes_below(&states_folder(self.base, self.out))
    }
}

/// Bytes of all files below a folder, as far as they can be seen; those of reports and manifests aside.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.fold(0, |sum, entry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => sum + bytes_below(&entry.path()),
        Ok(facts) if entry.file_name() != schema::prepared::MANIFEST => sum + facts.len(),
        _ => sum,
    })
}
