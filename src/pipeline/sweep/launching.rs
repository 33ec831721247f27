//! `noise-sweep --launcher`: the plan of a sweep over many machines.

use std::path::absolute;

use super::backend::sweep_of;
use super::folder::SweepFolder;
use super::{Sweep, distinct, grid};
use crate::artifact;
use crate::error::{Error, Result};
use crate::pipeline::launch::shell::{NUMBER, OUT};
use crate::pipeline::launch::{Job, Launched, Launcher, Line, Plan, current_folder};
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::schema::{self, name_of};
use crate::settings::{Settings, to_toml};
use crate::train::PrecisionKind;

/// Begins the sweep's folder and writes a plan for its cells that are not finished; with `submit` a plan for Slurm is
/// submitted. Nothing is prepared or trained here. The jobs read the recipe from the folder, so that a change of the
/// user's file does not reach them.
///
/// # Errors
/// As [`super::run`] and [`Plan::put`].
pub fn launch(recipe: &Recipe, launcher: Launcher, submit: bool, progress: &dyn Progress) -> Result<Launched> {
    recipe.slurm.check()?;
    let out = absolute(&recipe.sweep.out).map_err(Error::io(&recipe.sweep.out))?;
    let mut planned = recipe.clone();
    planned.sweep.dry_run = false;
    let (sweep, _) = sweep_of(&planned, progress)?;
    let sweep = Sweep { resolved: to_toml(&planned)?, ..sweep };
    if launcher == Launcher::Slurm && recipe.train.precision == PrecisionKind::Auto {
        let here = name_of(&recipe.train.operands(usize::MAX));
        progress.warn(&format!(
            "train.precision = auto is {here} on this machine: nodes on which it is another one refuse the sweep; \
             --set train.precision=f32 or bf16 is the same on all"
        ));
    }
    let lock = artifact::Claim { stage: "noise-sweep", inputs: &sweep.inputs }.take(sweep.out)?;
    let folder = SweepFolder::open(sweep.out, &sweep.settings, sweep.models.clone())?;
    artifact::write_bytes(sweep.out.join(schema::run::CONFIG), sweep.resolved.as_bytes())?;
    let rows = grid(sweep.config, sweep.base);
    if let Some(line) = folder.sort(&rows).sentence() {
        progress.note(&line);
    }
    let cells = distinct(&rows);
    let numbers = (1..).zip(&cells).filter(|(_, cell)| folder.finished(cell).is_err()).map(|(n, _)| n).collect();
    let part = |name, words: &[&str]| Job {
        name,
        line: Line::new(["noise-sweep", name].into_iter().chain(["--out", OUT]).chain(words.iter().copied())),
    };
    let plan = Plan {
        about: "sweep",
        out,
        directory: current_folder()?,
        first: Some(part("inputs", &[])),
        tasks: part("cell", &["--index", NUMBER]),
        numbers,
        last: part("collect", &[]),
        needs_all: false,
        at_once: sweep.config.jobs,
    };
    let mut slurm = recipe.slurm.clone();
    if slurm.max_parallel == 0 && sweep.config.jobs > 1 {
        slurm.max_parallel = sweep.config.jobs;
    }
    // The first job may start while the others are submitted.
    drop(lock);
    plan.put(launcher, &slurm, submit)
}
