//! `noise-sweep`: a grid of noise x objective x latent x codes, every cell with every seed.
//!
//! A cell is finished once its marker is written into its run folder; a resumed sweep runs the cells that have none.
//! All cells of one noise setting read one prepared folder. [`SweepBackend`] prepares and trains.

mod backend;
mod cell_settings;
mod collect;
mod curves;
mod faults;
mod folder;
mod grid;
mod inputs;
mod launching;
mod one_cell;
mod paired;
mod plan;
mod publish;
mod running;
mod shared;
mod shown;
mod summary;
mod tables;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact;
use crate::error::{Error, Result};
use crate::pipeline::recipe::SweepConfig;
use crate::progress::{PartState, Progress};
use crate::schema;
use crate::settings::Settings;
use crate::train::TrainConfig;
use crate::train::estimate::available_memory_mb;

pub use backend::{Pipelines, run};
pub use cell_settings::CellSettings;
pub use collect::{Collected, collect};
pub use curves::CurveRow;
#[cfg(test)]
pub(crate) use faults::cell_faults;
pub use faults::faults;
pub use folder::{CellRecord, settings};
use folder::{SortedCells, SweepFolder, Why};
use grid::distinct;
pub use grid::{Cell, NoiseCell, grid};
pub use launching::launch;
pub use one_cell::{CellOutcome, run_cell};
pub use plan::{CellPlan, SweepPlan, dry_run};
use running::Running;
pub use shared::{SharedInputs, share};
pub use summary::SummaryRow;
pub use tables::{ResultRow, Varied};

/// What a finished cell scored; a failed one has none of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CellScores {
    /// Preference accuracy on the test split against the clean labels, with the prior's z.
    pub eval_accuracy: Option<f64>,
    /// Test examples.
    pub n_eval: Option<u64>,
    /// Share of the training pairs on which the noise fell: flipped, or singled out.
    pub noise_share: Option<f64>,
    /// Area under the ROC curve of the mislabel score on the training split; none without flips.
    pub audit_auroc: Option<f64>,
    /// Codes in use; none for a latent without codes.
    pub codes_used: Option<u64>,
    /// Perplexity of the code usage; none for a latent without codes.
    pub code_perplexity: Option<f64>,
    /// Wall clock of the training, seconds.
    pub train_seconds: Option<f64>,
}

/// The steps of a sweep that other pipelines do.
pub trait SweepBackend: Sync {
    /// Prepares the data of one noise setting into `out` (its manifest last).
    ///
    /// # Errors
    /// Whatever went wrong: every cell of this noise setting is then reported as failed.
    fn prepare(&self, noise: &NoiseCell, out: &Path) -> Result<()>;

    /// Computes what cells of one prepared folder and model share, into the caches of that folder.
    ///
    /// # Errors
    /// Whatever went wrong: the cells compute it themselves.
    fn share(&self, _cell: &Cell, _data: &Path) -> Result<()> {
        Ok(())
    }

    /// The memory that a cell would take, MiB, where it is known.
    fn memory_mb(&self, _cell: &Cell, _data: &Path) -> Option<f64> {
        None
    }

    /// Trains and evaluates one cell on the prepared folder `data` into the run folder `out` (its
    /// manifest last). `out` may have a run that was stopped; the backend decides whether to resume it.
    ///
    /// # Errors
    /// Whatever went wrong: this cell is then reported as failed, the others go on.
    fn train(&self, cell: &Cell, data: &Path, out: &Path) -> Result<CellScores>;
}

/// One launch of a sweep.
pub struct Sweep<'a> {
    /// The grid.
    pub config: &'a SweepConfig,
    /// The recipe's training settings, for what the grid leaves to them.
    pub base: &'a TrainConfig,
    /// Contents of the grid's models by name.
    pub models: BTreeMap<String, String>,
    /// All that the cells depend on and that the grid does not vary: every setting that changes a result (see
    /// [`settings`]), the seed of the flips, the contents of inputs and model, the program's version. A sweep is
    /// resumed only where they are equal.
    pub settings: Value,
    /// Files and folders that the cells read.
    pub inputs: Vec<PathBuf>,
    /// The whole resolved configuration, for `config.toml`.
    pub resolved: String,
    /// Sweep folder.
    pub out: &'a Path,
}

/// The results of a sweep.
#[derive(Debug, Clone, Serialize)]
pub struct SweepOutcome {
    /// Sweep folder.
    pub folder: PathBuf,
    /// Cells that this launch brought to an end, failed ones too; one that was stopped is not counted.
    pub cells_run: usize,
    /// Cells that an earlier launch had finished.
    pub cells_reused: usize,
    /// One row per cell and seed, in the order of the grid.
    pub results: Vec<ResultRow>,
    /// One row per cell.
    pub summary: Vec<SummaryRow>,
    /// One row per cell without its noise rate; none for a single rate.
    pub curves: Vec<CurveRow>,
}

impl SweepOutcome {
    /// Fails where a cell failed; for the end of the command, after the tables are shown.
    ///
    /// # Errors
    /// [`Error::Run`] naming the failed cells.
    pub fn check(&self) -> Result<()> {
        let runs = tables::runs(&self.results);
        let failed: Vec<String> = runs
            .iter()
            .filter(|r| r.status != tables::STATUS_OK)
            .map(|r| format!("  {}: {}", r.name, brief(&r.status)))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::run(format!("{} of {} cells failed\n{}", failed.len(), runs.len(), failed.join("\n")))
            .with_hint("the same command tries the failed cells again and keeps the finished ones"))
    }
}

impl Sweep<'_> {
    /// Runs every cell that is not finished, then writes tables, report and manifest.
    ///
    /// # Errors
    /// [`Error::Config`] where the grid is faulty or the folder was begun with other settings;
    /// [`Error::Io`] and the like where the sweep folder itself cannot be written. A failed cell
    /// is no error here: see [`SweepOutcome::check`].
    pub fn run(&self, backend: &dyn SweepBackend, progress: &dyn Progress) -> Result<SweepOutcome> {
        self.config.check()?;
        let _lock = artifact::Claim { stage: "noise-sweep", inputs: &self.inputs }.take(self.out)?;
        let sweep_folder = SweepFolder::open(self.out, &self.settings, self.models.clone())?;
        artifact::write_bytes(self.out.join(schema::run::CONFIG), self.resolved.as_bytes())?;
        let manifest = self.manifest()?;

        let rows = grid(self.config, self.base);
        let sorted = sweep_folder.sort(&rows);
        if let Some(line) = sorted.sentence() {
            progress.note(&line);
        }
        let SortedCells { done, pending } = sorted;
        for (cell, _) in pending.iter().filter(|(_, why)| *why == Why::Other) {
            sweep_folder.forget(cell)?;
        }
        let (reused, pending) = (done.len(), pending.into_iter().map(|(cell, _)| cell).collect::<Vec<_>>());
        let board = Board { rows: &rows, base: self.base, out: self.out, results: Mutex::new(done) };
        board.write(&*board.lock()?)?;
        let unprepared = self.prepare(&pending, &sweep_folder, backend, progress)?;
        self.train(&pending, &unprepared, &sweep_folder, &board, backend, progress)?;

        let results = board.lock()?;
        let ended = |cell: &&&Cell| results.get(&cell.name()).is_some_and(|r| !r.status.starts_with(tables::STOPPED));
        let cells_run = pending.iter().filter(ended).count();
        let outcome = self.publish(&rows, &results, manifest, progress)?;
        Ok(SweepOutcome { cells_run, cells_reused: reused, ..outcome })
    }

    /// Prepares the data of the pending cells. Returns the noise settings that failed, with the reason.
    fn prepare(
        &self,
        pending: &[&Cell],
        sweep_folder: &SweepFolder,
        backend: &dyn SweepBackend,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, String>> {
        let wanted: BTreeMap<String, &NoiseCell> = pending.iter().map(|c| (c.noise.name(), &c.noise)).collect();
        let mut failed = BTreeMap::new();
        progress.begin("prepare", Some(wanted.len() as u64));
        for (name, noise) in wanted {
            progress.status(&name);
            let folder = sweep_folder.data_folder(noise);
            if !sweep_folder.is_prepared(noise)
                && let Err(reason) =
                    guarded(|| backend.prepare(noise, &folder).and_then(|()| sweep_folder.prepared(noise)))
            {
                progress.warn(&format!("data {name}: {}", brief(&reason)));
                failed.insert(name, format!("prepare: {reason}"));
            }
            progress.advance(1);
        }
        progress.end();
        Ok(failed)
    }

    /// Trains the pending cells, `jobs` at once, and publishes the results after each.
    fn train(
        &self,
        pending: &[&Cell],
        unprepared: &BTreeMap<String, String>,
        sweep_folder: &SweepFolder,
        board: &Board<'_>,
        backend: &dyn SweepBackend,
        progress: &dyn Progress,
    ) -> Result<()> {
        running::show(&*board.lock()?, board.rows, progress);
        progress.begin("cells", Some(pending.len() as u64));
        let next = AtomicUsize::new(0);
        let budget = match self.config.memory_mb {
            0 => available_memory_mb().unwrap_or(f64::INFINITY),
            mb => mb as f64,
        };
        let running = Running::within(budget);
        let worker = || -> Result<()> {
            while let Some(cell) = pending.get(next.fetch_add(1, Ordering::Relaxed)) {
                // The cell that was stopped has a checkpoint; the next launch runs the remaining ones.
                if progress.interrupted() {
                    break;
                }
                let (name, data) = (cell.name(), sweep_folder.data_folder(&cell.noise));
                let prepared = unprepared.get(&cell.noise.name());
                let several = prepared.is_none() && self.config.jobs > 1;
                let mb = if several { backend.memory_mb(cell, &data) } else { None };
                let mut slot = running.enter(&name, mb.unwrap_or(0.0));
                if progress.interrupted() {
                    slot.failed = false;
                    break;
                }
                progress.status(&running.line());
                progress.part(&name, PartState::Running(String::new()));
                let record = match prepared {
                    Some(reason) => CellRecord::failed(cell, reason),
                    None => match caught(|| backend.train(cell, &data, &sweep_folder.cell_folder(&name))) {
                        Ok(scores) => sweep_folder.finish(cell, scores)?,
                        Err(Error::Interrupted { message, .. }) => CellRecord {
                            status: format!("{}{message}", tables::STOPPED),
                            ..CellRecord::failed(cell, "")
                        },
                        Err(error) => CellRecord::failed(cell, &one_line(&error)),
                    },
                };
                slot.failed = record.status != tables::STATUS_OK;
                // For `collect`, which knows of a cell what is in its folder. Where nothing can be written there the
                // others go on.
                if slot.failed
                    && let Err(error) = sweep_folder.attempted(cell, record.status.clone(), None)
                {
                    progress
                        .warn(&format!("cell {name}: its failure is not noted in its folder: {}", one_line(&error)));
                }
                drop(slot);
                progress.status(&running.line());
                progress.part(&name, running::state(&record));
                if record.status != tables::STATUS_OK {
                    progress.warn(&format!("cell {name} {}", brief(&record.status)));
                }
                board.add(name, record)?;
                progress.advance(1);
            }
            Ok(())
        };
        // Threads outside the pool: a cell uses the pool, and on one of its threads would wait for itself.
        let workers = self.config.jobs.min(pending.len());
        let ended = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            handles.into_iter().map(|h| h.join()).collect::<Vec<_>>()
        });
        progress.end();
        for result in ended {
            result.map_err(|_| Error::run("a worker of the sweep died"))??;
        }
        Ok(())
    }
}

/// The beginning of a status, for one line of output.
fn brief(status: &str) -> String {
    const SHOWN: usize = 160;
    if status.chars().count() <= SHOWN {
        return status.to_string();
    }
    let shown: String = status.chars().take(SHOWN).collect();
    let whole = shown.rfind(' ').map_or(shown.as_str(), |at| &shown[..at]);
    format!("{whole} … (all of it is in the column status of results.parquet)")
}

/// Runs a cell's work. An error or a panic becomes one line of text, so that the sweep goes on.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T, String> {
    caught(work).map_err(|e| one_line(&e))
}

/// An error as one line of text.
fn one_line(error: &Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a cell's work. A panic becomes an error.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::run(format!("internal error: {}", text.unwrap_or("panic"))))
    })
}

/// The results so far, shared by the workers.
struct Board<'a> {
    rows: &'a [Cell],
    base: &'a TrainConfig,
    out: &'a Path,
    results: Mutex<BTreeMap<String, CellRecord>>,
}

impl Board<'_> {
    /// Adds the record of a cell, and writes the table.
    fn add(&self, name: String, record: CellRecord) -> Result<()> {
        let mut results = self.lock()?;
        results.insert(name, record);
        // Under the lock, so that an older table never replaces a newer one.
        self.write(&results)
    }

    fn lock(&self) -> Result<MutexGuard<'_, BTreeMap<String, CellRecord>>> {
        self.results.lock().map_err(|_| Error::run("a worker of the sweep died"))
    }

    fn write(&self, results: &BTreeMap<String, CellRecord>) -> Result<()> {
        tables::write_results(&self.out.join(schema::sweep::RESULTS), &tables::results(self.rows, results, self.base))
    }
}

#[cfg(test)]
mod tests;
