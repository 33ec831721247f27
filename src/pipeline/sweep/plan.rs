//! `noise-sweep --dry-run`: the cells, and what each would take.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::backend::{Pipelines, kind, origin};
use super::folder::SweepFolder;
use super::{Cell, SweepBackend, grid};
use crate::error::{Error, Result};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::train;
use crate::progress::{Progress, Silent};
use crate::schema;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::estimate::available_memory_mb;
use crate::train::timing::Speed;

/// A cell and what it would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellPlan {
    /// Run folder under `cells/`.
    pub name: String,
    /// Whether an earlier launch finished it.
    pub finished: bool,
    /// Seconds of training and evaluation; 0 for a finished cell.
    pub seconds: f64,
    /// Memory, MiB.
    pub memory_mb: f64,
}

/// What a sweep would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepPlan {
    /// Every run once, in the order of the grid.
    pub cells: Vec<CellPlan>,
    /// Seconds for the reference log-probabilities, which all cells of a prepared folder with one model share.
    pub reference_seconds: f64,
    /// Seconds of all cells that are to be run, one after the other, with the reference log-probabilities. Preparing
    /// the data is not among them.
    pub seconds: f64,
    /// Cells trained at once.
    pub jobs: usize,
    /// MiB for the cells that are trained at once; null where it is not known.
    pub budget_mb: Option<f64>,
}

/// Lists the cells of a recipe's sweep with the time and memory of each, and writes nothing into the sweep folder.
///
/// Lengths are those of one noise setting, which is prepared in a temporary folder where the sweep folder has none yet.
/// Each kind of cell is computed once: seed and noise make no difference. The speed of this machine is measured once
/// for each model.
///
/// # Errors
/// As [`super::run`].
pub fn dry_run(recipe: &Recipe, progress: &dyn Progress) -> Result<SweepPlan> {
    let (settings, origin) = origin(recipe, progress)?;
    let (cells, out) = (grid(&recipe.sweep, &recipe.train), Path::new(&recipe.sweep.out));
    let begun = !recipe.sweep.out.is_empty() && out.join(schema::sweep::SETTINGS).is_file();
    let folder = begun.then(|| SweepFolder::open(out, &settings, origin.models.clone())).transpose()?;
    let finished: BTreeSet<String> =
        folder.as_ref().map(|folder| folder.sort(&cells).done.into_keys().collect()).unwrap_or_default();
    let pipelines = Pipelines::new(recipe, origin.inputs, progress);
    let first = cells.first().ok_or_else(|| Error::config("sweep", "the grid has no cell"))?;
    let kept = folder.iter().flat_map(|folder| cells.iter().map(move |cell| (folder, &cell.noise)));
    let mut kept = kept.filter(|(folder, noise)| folder.is_prepared(noise));
    let temporary = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let data = match kept.next() {
        Some((folder, noise)) => folder.data_folder(noise),
        None => {
            let data = temporary.path().join(schema::sweep::PREPARED);
            pipelines.prepare(&first.noise, &data)?;
            data
        }
    };
    let nowhere = temporary.path().join("run");
    let mut speeds: BTreeMap<String, Speed> = BTreeMap::new();
    let mut kinds: BTreeMap<String, train::DryRun> = BTreeMap::new();
    let mut references: BTreeMap<(String, String), f64> = BTreeMap::new();
    let (mut plans, mut seen) = (Vec::<CellPlan>::new(), BTreeSet::new());
    for cell in &cells {
        let name = cell.name();
        if !seen.insert(name.clone()) {
            continue;
        }
        let config = pipelines.config(cell, &data, &nowhere);
        let found = match kinds.entry(kind(cell)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let found = train::dry_run_at(&config, Seed(cell.seed), speeds.get(&config.model), &Silent)?;
                speeds.entry(config.model.clone()).or_insert_with(|| found.speed.clone());
                new.insert(found)
            }
        };
        let finished = finished.contains(&name);
        let seconds = if finished { 0.0 } else { found.seconds.training + found.seconds.evaluation };
        if !finished {
            let most = references.entry(reference_of(cell, &config.model)).or_default();
            *most = most.max(found.seconds.reference);
        }
        plans.push(CellPlan { name, finished, seconds, memory_mb: found.memory_mb.total });
    }
    let reference_seconds = references.values().sum();
    let budget_mb = match recipe.sweep.memory_mb {
        0 => available_memory_mb(),
        mb => Some(mb as f64),
    };
    let seconds = plans.iter().map(|plan| plan.seconds).sum::<f64>() + reference_seconds;
    Ok(SweepPlan { cells: plans, reference_seconds, seconds, jobs: recipe.sweep.jobs, budget_mb })
}

/// What cells with the same reference log-probabilities have in common: data and model, and the seed where that makes the
/// model.
pub(super) fn reference_of(cell: &Cell, model: &str) -> (String, String) {
    let model = if ModelSource::is_tiny(model) { format!("{model} {}", cell.seed) } else { model.to_string() };
    (cell.noise.name(), model)
}
