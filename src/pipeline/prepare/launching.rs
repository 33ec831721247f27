//! `prepare --launcher`: the plan of a preparation in shards, joined by `merge`.

use std::path::absolute;

use super::inputs;
use crate::artifact;
use crate::error::{Error, Fault, Result};
use crate::pipeline::launch::shell::{NUMBER, OUT};
use crate::pipeline::launch::{Job, Launched, Launcher, Line, Plan, current_folder};
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::schema::launch::{FOLDER, RECIPE, SHARDS};
use crate::settings::{PathText, Settings, refuse, to_toml};

/// Writes a plan for `shards` tasks, each of which prepares one shard below the output folder, and for the `merge` that
/// joins them; with `submit` a plan for Slurm is submitted. Nothing is prepared here.
///
/// # Errors
/// [`Error::Config`] for settings out of range or that need all pairs at once; [`Error::Data`] where an input is missing;
/// [`Error::Artifact`] for a folder that must not be written; as [`Plan::put`].
pub fn launch(
    recipe: &Recipe,
    shards: usize,
    launcher: Launcher,
    submit: bool,
    progress: &dyn Progress,
) -> Result<Launched> {
    let mut config = recipe.prepare.clone();
    let mut faults = recipe.slurm.faults();
    if !config.shard.is_empty() {
        faults.push(Fault::new("prepare.shard", "has no effect with a launcher, which prepares all of --shards N"));
    }
    if shards < 2 {
        faults.push(Fault::new("", format!("--shards {shards}: expected 2 or more")));
    }
    config.dry_run = false;
    config.shard = format!("1/{}", shards.max(2));
    faults.extend(config.faults());
    refuse(faults)?;
    let out = absolute(&config.out).map_err(Error::io(&config.out))?;
    let read = inputs::resolve(&config.input, progress)?;
    let beside = inputs::beside(&config, progress)?;
    let named = inputs::read_by(&config, &read, &beside);
    let _lock = artifact::Claim { stage: "prepare", inputs: &named }.take(&out)?;
    (config.shard, config.out) = (String::new(), PathText::new());
    let resolved = to_toml(&Recipe { prepare: config, ..recipe.clone() })?;
    artifact::write_bytes(out.join(FOLDER).join(RECIPE), resolved.as_bytes())?;
    let below = |name: &str| format!("{OUT}/{name}");
    let shard = |number: &str| below(&format!("{SHARDS}/{number}"));
    let (recipe_file, part) = (below(&format!("{FOLDER}/{RECIPE}")), format!("{NUMBER}/{shards}"));
    let tasks = ["prepare", "--config", &recipe_file, "--shard", &part, "--out", &shard(NUMBER)].map(String::from);
    let folders = (1..=shards).map(|i| shard(&i.to_string()));
    let merge = std::iter::once("merge".to_string()).chain(folders).chain(["--out".into(), OUT.into()]);
    let plan = Plan {
        about: "prepare",
        out,
        directory: current_folder()?,
        first: None,
        tasks: Job { name: "shard", line: Line::new(tasks) },
        numbers: (1..=shards).collect(),
        last: Job { name: "merge", line: Line::new(merge) },
        needs_all: true,
        at_once: 1,
    };
    plan.put(launcher, &recipe.slurm, submit)
}
