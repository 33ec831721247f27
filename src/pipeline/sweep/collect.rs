//! `noise-sweep collect`: tables and report from the cells that are there.

use std::collections::BTreeMap;

use serde::Serialize;

use super::backend::sweep_of;
use super::folder::SweepFolder;
use super::tables::{MISSING, STATUS_OK};
use super::{Cell, CellRecord, Sweep, SweepOutcome, distinct, grid};
use crate::artifact;
use crate::error::{Error, Result};
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::settings::Settings;

/// Lock of the process that collects.
const LOCK: &str = ".collect.lock";

/// The tables of a sweep whose cells were run one by one.
#[derive(Debug, Clone, Serialize)]
pub struct Collected {
    /// The tables.
    #[serde(flatten)]
    pub outcome: SweepOutcome,
    /// Cells that failed, each with the reason.
    pub failed: BTreeMap<String, String>,
    /// Cells that were stopped, were never run, or left no word, each with what is known.
    pub missing: BTreeMap<String, String>,
}

/// Writes tables, manifest and report of the sweep in the recipe's folder from its finished cells; the others have rows
/// with their status and no scores. The same cells make the same bytes, however often it is called.
///
/// # Errors
/// As [`super::run`]; [`Error::Interrupted`] where the user ends the wait for another process that collects.
pub fn collect(recipe: &Recipe, progress: &dyn Progress) -> Result<Collected> {
    sweep_of(recipe, progress)?.0.collect(progress)
}

impl Sweep<'_> {
    /// [`collect`] for this sweep.
    ///
    /// # Errors
    /// As [`collect`].
    pub fn collect(&self, progress: &dyn Progress) -> Result<Collected> {
        self.config.check()?;
        let _lock = artifact::Claim { stage: "noise-sweep", inputs: &self.inputs }.share(self.out)?;
        let Some(_alone) = artifact::wait_for(&self.out.join(LOCK), "the tables", progress)? else {
            return Err(Error::interrupted("interrupted while another process writes the tables"));
        };
        let folder = SweepFolder::open(self.out, &self.settings, self.models.clone())?;
        let rows = grid(self.config, self.base);
        let cells = distinct(&rows);
        let mut records = BTreeMap::new();
        for cell in &cells {
            let record = folder
                .finished(cell)
                .unwrap_or_else(|_| CellRecord { status: unfinished(cell, &folder), ..CellRecord::failed(cell, "") });
            records.insert(cell.name(), record);
        }
        let outcome = self.publish(&rows, &records, self.manifest()?, progress)?;
        let (mut failed, mut missing) = (BTreeMap::new(), BTreeMap::new());
        for row in outcome.results.iter().filter(|row| row.status != STATUS_OK) {
            let of = if row.failed() { &mut failed } else { &mut missing };
            of.insert(row.name.clone(), row.status.clone());
        }
        let cells_reused = cells.len() - failed.len() - missing.len();
        Ok(Collected { outcome: SweepOutcome { cells_reused, ..outcome }, failed, missing })
    }
}

/// The status of a cell that is not finished.
fn unfinished(cell: &Cell, folder: &SweepFolder) -> String {
    match folder.attempt(cell) {
        Some(attempt) => attempt.status,
        None if folder.cell_folder(&cell.name()).exists() => {
            format!("{MISSING}it was begun and left no word: it runs, or was killed, or was out of memory or time")
        }
        None => format!("{MISSING}it was not begun"),
    }
}
