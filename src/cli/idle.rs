//! Settings without effect on the command that runs: `--set` and flags with them are refused. A recipe file is for all
//! commands.

use std::path::Path;

use super::args::{self, Command, LauncherFlag};
use crate::pipeline::demo;
use crate::pipeline::recipe::Recipe;
use crate::report;
use crate::settings::{self, Flag};

/// Why a group of settings, or the one of a dotted key, has no effect on this command; none where it has one.
pub(super) fn setting(command: &Command, key: &str) -> Option<String> {
    if let (Command::Demo, Some(_)) = (command, key.split_once('.')) {
        return demo::replaces(key).then(|| "has no effect on `demo`, which has a value of its own for it".to_string());
    }
    let (name, used): (&str, &[&str]) = match command {
        Command::Demo => ("demo", &["demo", "synth", "prepare", "train", "sweep", "report"]),
        Command::Synth => ("synth", &["synth"]),
        Command::Prepare(_) => ("prepare", &["prepare"]),
        Command::Merge(_) => ("merge", &[]),
        Command::Score => ("score", &["score"]),
        Command::Train(_) => ("train", &["train"]),
        Command::Generate => ("generate", &["generate"]),
        Command::Eval => ("eval", &["eval"]),
        Command::Export => ("export", &["export"]),
        Command::NoiseSweep(_) => ("noise-sweep", &["sweep", "prepare", "train"]),
        Command::Audit => ("audit", &["audit"]),
        Command::Report(_) => ("report", &["report"]),
        Command::Inspect(_) => ("inspect", &[]),
        Command::Recipes(_) => ("recipes", &[]),
        Command::Completions(_) => ("completions", &[]),
        Command::Man(_) => ("man", &[]),
    };
    let group = key.split('.').next().unwrap_or(key);
    match (group, command) {
        ("seed", _) => seed(command),
        ("threads", _) => None,
        (
            "slurm",
            Command::Prepare(args::Prepare { launcher, .. }) | Command::NoiseSweep(args::NoiseSweep { launcher, .. }),
        ) => {
            let jobs = matches!(launcher, LauncherFlag::Slurm | LauncherFlag::Skypilot);
            (!jobs).then(|| "has no effect without --launcher slurm or skypilot".to_string())
        }
        _ => (!used.contains(&group)).then(|| format!("has no effect on `{name}`")),
    }
}

/// Why a seed given for this command alone has no effect on it; none where it has one.
pub(super) fn seed(command: &Command) -> Option<String> {
    match command {
        Command::Audit => {
            Some("has no effect: an audit has its run's seed, from which those of the repeats are made".to_string())
        }
        Command::Report(a) if !report::takes_settings(&a.dir) => Some(report::without_effect("seed").message),
        _ => None,
    }
}

/// Leaves out what a recipe file sets for codes where the command line chooses to have none, and says so. What the
/// command line itself sets stays, and is a fault.
pub(super) fn left_out(recipe: &mut Recipe, file: Option<&Path>, sets: &[String], flags: &[Flag]) -> Option<String> {
    let chosen = |key: &str| settings::on_command_line(sets, flags, key);
    let without = chosen("train.lpc.latent").is_some_and(|latent| latent.as_str() == Some("none"));
    let file = file.filter(|_| without)?;
    let (train, keys) = recipe.train.without_idle_latent(&|key| chosen(key).is_some());
    recipe.train = train;
    let file = file.display();
    (!keys.is_empty()).then(|| format!("left out of {file}, without effect with latent \"none\": {}", keys.join(", ")))
}
