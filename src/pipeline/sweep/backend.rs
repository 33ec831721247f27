//! The backend of `noise-sweep`: `prepare` and `train` with the recipe's settings and those of a cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::folder::NO_TEST_PAIRS;
use super::inputs::SweepInputs;
use super::shown::Shown;
use super::{Cell, CellScores, NoiseCell, SweepBackend};
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::LatentKind;
use crate::manifest::{InputFile, Manifest};
use crate::noise::Tally;
use crate::objective::MixFlip;
use crate::pipeline::prepare::PrepareSummary;
use crate::pipeline::recipe::Recipe;
use crate::pipeline::{prepare, train};
use crate::progress::Progress;
use crate::schema;
use crate::seed::Seed;
use crate::settings::{Settings, refuse};
use crate::train::{HeadConfig, TrainConfig};

/// Marker of flipped prompts where the recipe names none: that of the paper.
const MARKER: &str = "[FLIP]";

/// Placeholder for the folders that the sweep gives each cell, while settings are checked.
pub(super) const SET_BY_SWEEP: &str = "set by the sweep";

/// Settings that the grid sets itself, and those that change no result of a cell: of other commands, folders, and what is
/// kept or shown, as in [`crate::train::run_folder`]. `train.posteriors` stays: the paired comparison reads those rows.
pub(super) const NOT_IDENTIFYING: [&str; 24] = [
    "threads",
    "slurm",
    "sweep",
    "demo",
    "score",
    "export",
    "synth",
    "generate",
    "eval",
    "audit",
    "report",
    "prepare.out",
    "prepare.dry_run",
    "train.data",
    "train.out",
    "train.objective.name",
    "train.lpc.latent",
    "train.save_model",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_optimizer_state",
    "train.eval_every",
    "train.recompute",
    "train.head",
];

/// The pipelines of this program.
pub struct Pipelines<'a> {
    /// Settings that all cells share.
    pub recipe: &'a Recipe,
    /// BLAKE3 of the input files by name, as the sweep was begun with them.
    pub inputs: BTreeMap<String, String>,
    /// Asked whether the user wants to stop.
    pub progress: &'a dyn Progress,
    /// Whether one cell runs by itself, so that all of its lines are shown.
    alone: bool,
    /// Memory by kind of cell, MiB: noise and seed make no difference.
    memory: Mutex<BTreeMap<String, Option<f64>>>,
}

impl<'a> Pipelines<'a> {
    /// The pipelines with a recipe, and the BLAKE3 of its input files.
    pub fn new(recipe: &'a Recipe, inputs: BTreeMap<String, String>, progress: &'a dyn Progress) -> Pipelines<'a> {
        Pipelines { recipe, inputs, progress, alone: false, memory: Mutex::default() }
    }

    /// The same for one cell by itself, all of whose lines are shown.
    #[must_use]
    pub fn alone(self) -> Pipelines<'a> {
        Pipelines { alone: true, ..self }
    }

    /// Where what runs under this name is shown.
    fn shown(&self, name: String, cell: Option<String>) -> Shown<'a> {
        Shown::new(self.progress, (!self.alone).then_some(name), cell)
    }

    /// The training settings of a cell, with its folders.
    pub(super) fn config(&self, cell: &Cell, data: &Path, out: &Path) -> TrainConfig {
        let (data, out) = (data.display().to_string(), out.display().to_string());
        let mut config = TrainConfig { data, out, ..cell_config(self.recipe, cell) };
        if config.uses_kept_states() {
            config.head.cache =
                states_folder(&self.recipe.train, Path::new(&self.recipe.sweep.out)).display().to_string();
        }
        config
    }
}

/// Folder of the files of hidden states: one for all noise settings, since flipped labels do not change the texts.
pub(super) fn states_folder(base: &TrainConfig, sweep: &Path) -> PathBuf {
    match base.head.cache.as_str() {
        "" => sweep.join(schema::sweep::HIDDEN),
        folder => PathBuf::from(folder),
    }
}

/// What is equal for cells that take the same time and memory.
pub(super) fn kind(cell: &Cell) -> String {
    format!("{:?} {:?} {} {:?}", cell.objective, cell.latent, cell.codes, cell.settings)
}

/// The recipe's training settings with those of a cell, but without its folders.
pub(super) fn cell_config(recipe: &Recipe, cell: &Cell) -> TrainConfig {
    let mut config = recipe.train.clone();
    config.objective.name = cell.objective;
    config.objective = config.objective.applicable();
    config.lpc.latent = cell.latent;
    cell.settings.apply(&mut config);
    if config.lpc.latent == LatentKind::LpcReliable {
        // This latent learns a flip rate for each code.
        config.objective.mix_flip = MixFlip::Fixed;
    }
    // The shared settings of the latent part are for the cells that use them.
    let lr = config.lpc.lr;
    config.lpc = config.lpc.applicable();
    if config.objective.mix_flip == MixFlip::Learned {
        config.lpc.lr = lr;
    }
    if cell.codes > 0 {
        config.lpc.codes = cell.codes;
    }
    if !config.uses_kept_states() {
        config.head = HeadConfig::default();
    }
    config
}

impl SweepBackend for Pipelines<'_> {
    fn prepare(&self, noise: &NoiseCell, out: &Path) -> Result<()> {
        let mut config = self.recipe.prepare.clone();
        config.out = out.display().to_string();
        config.noise.flip_rate = noise.p;
        config.noise.flip_kind = noise.kind;
        config.noise.seed = noise.seed;
        if !noise.marked || noise.p == 0.0 {
            config.noise.flip_marker = String::new();
        } else if config.noise.flip_marker.is_empty() {
            config.noise.flip_marker = MARKER.into();
        }
        // The shared settings of the other kinds are for their own cells.
        config.noise = config.noise.applicable();
        let shown = self.shown(format!("data {}", noise.name()), None);
        let prepared = prepare::run(&config, Seed(self.recipe.seed), &shown)?;
        if prepared.totals.counts.get(schema::SPLITS[1]).is_none_or(|sources| sources.values().all(|n| *n == 0)) {
            let share = config.pairs.test_fraction;
            return Err(Error::run(format!("{NO_TEST_PAIRS} (prepare.pairs.test_fraction is {share})")));
        }
        // The cells of a sweep would have different rows if a file changed in between.
        let changed = |file: &&InputFile| self.inputs.get(&file.path) != Some(&file.blake3);
        match Manifest::read(out)?.inputs.iter().find(changed) {
            Some(file) => {
                artifact::remove(&out.join(schema::prepared::MANIFEST))?;
                Err(Error::run(format!("{} changed while the sweep was running", file.path)))
            }
            None => Ok(()),
        }
    }

    fn share(&self, cell: &Cell, data: &Path) -> Result<()> {
        let config = self.config(cell, data, Path::new(SET_BY_SWEEP));
        train::share(&config, Seed(cell.seed), &self.shown(format!("reference {}", cell.name()), None))
    }

    fn memory_mb(&self, cell: &Cell, data: &Path) -> Option<f64> {
        let mut memory = self.memory.lock().ok()?;
        // A cell that cannot be estimated fails in training, with the reason.
        let estimate = || train::memory_mb(&self.config(cell, data, Path::new(SET_BY_SWEEP)), Seed(cell.seed)).ok();
        *memory.entry(kind(cell)).or_insert_with(estimate)
    }

    fn train(&self, cell: &Cell, data: &Path, out: &Path) -> Result<CellScores> {
        let config = self.config(cell, data, out);
        let shown = self.shown(format!("cell {}", cell.name()), Some(cell.name()));
        let summary = train::run(&config, Seed(cell.seed), true, &shown)?.summary()?;
        let finite = |x: f64| x.is_finite().then_some(x);
        let noise = PrepareSummary::recorded(&Manifest::read(data)?)?.totals.noise;
        // Usage of a latent without codes would read as one code that is always used.
        let coded = config.lpc.coded();
        Ok(CellScores {
            eval_accuracy: finite(summary.eval_accuracy),
            n_eval: Some(summary.n_eval),
            noise_share: noise.by_split.get(schema::SPLITS[0]).map(Tally::share),
            audit_auroc: summary.audit_auroc.and_then(finite),
            codes_used: Some(summary.codes_used).filter(|n| coded && *n > 0),
            code_perplexity: finite(summary.code_perplexity).filter(|_| coded),
            train_seconds: finite(summary.train_seconds),
        })
    }
}

/// The settings that a sweep is begun with, and the contents that it depends on.
///
/// # Errors
/// [`Error::Config`] where the recipe cannot be swept; those of reading the inputs.
pub(super) fn origin(recipe: &Recipe, progress: &dyn Progress) -> Result<(Value, SweepInputs)> {
    refuse(super::faults(recipe))?;
    let origin = SweepInputs::of(recipe, progress)?;
    // What "auto" comes to depends on the machine: cells of another one must not pass for those of this sweep.
    let mut here = recipe.clone();
    here.train.precision = recipe.train.operands(usize::MAX).into();
    Ok((origin.beside(super::settings(&here, &NOT_IDENTIFYING)?), origin))
}

/// Runs the recipe's sweep with this program's pipelines.
///
/// # Errors
/// [`Error::Config`] where the recipe cannot be swept; as [`super::Sweep::run`].
pub fn run(recipe: &Recipe, progress: &dyn Progress) -> Result<super::SweepOutcome> {
    let (sweep, inputs) = sweep_of(recipe, progress)?;
    sweep.run(&Pipelines::new(recipe, inputs, progress), progress)
}

/// The recipe's sweep, and the BLAKE3 of its input files by name.
pub(super) fn sweep_of<'a>(
    recipe: &'a Recipe,
    progress: &dyn Progress,
) -> Result<(super::Sweep<'a>, BTreeMap<String, String>)> {
    let (settings, origin) = origin(recipe, progress)?;
    let sweep = super::Sweep {
        config: &recipe.sweep,
        base: &recipe.train,
        models: origin.models,
        settings,
        inputs: origin.files,
        resolved: crate::settings::to_toml(recipe)?,
        out: Path::new(&recipe.sweep.out),
    };
    Ok((sweep, origin.inputs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::FlipKind;

    #[test]
    fn what_changes_no_result_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("rows.jsonl");
        std::fs::write(&rows, "{}\n").unwrap();
        let mut recipe = Recipe::default();
        recipe.prepare.input = vec![rows.display().to_string()];
        recipe.sweep.out = dir.path().join("out").display().to_string();
        let now = |recipe: &Recipe| origin(recipe, &crate::progress::Silent).unwrap().0;
        let first = now(&recipe);
        // Every name is a setting's.
        let all = serde_json::to_value(&recipe).unwrap();
        for name in NOT_IDENTIFYING {
            assert!(all.pointer(&format!("/{}", name.replace('.', "/"))).is_some(), "{name}");
        }
        let mut other = recipe.clone();
        other.generate.out = "answers".into();
        other.eval.limit = 3;
        other.audit.folds = 4;
        other.report.points = 20;
        other.train.recompute = true;
        other.train.eval_every = 5;
        other.train.head.memory_mb = 1;
        assert_eq!(now(&other), first);
        let changes: [fn(&mut Recipe); 4] = [
            |recipe| recipe.seed = 9,
            |recipe| recipe.train.lr = 1e-3,
            |recipe| recipe.train.max_steps = 3,
            |recipe| recipe.train.posteriors = crate::train::Posteriors::Test,
        ];
        for change in changes {
            let mut other = recipe.clone();
            change(&mut other);
            assert_ne!(now(&other), first);
        }
    }

    #[test]
    fn an_input_that_changes_on_the_way_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("rows.jsonl");
        let row = |i: usize| format!("{{\"prompt\": \"p{i}\", \"chosen\": \"yes {i}\", \"rejected\": \"no {i}\"}}\n");
        std::fs::write(&rows, (0..20).map(row).collect::<String>()).unwrap();
        let label = rows.display().to_string();
        let mut recipe = Recipe::default();
        recipe.prepare.input = vec![label.clone()];
        let noise = NoiseCell { kind: FlipKind::Uniform, p: 0.0, marked: false, seed: 0 };
        let out = dir.path().join("out");
        let prepare = |hash: String| {
            let inputs = [(label.clone(), hash)].into();
            Pipelines::new(&recipe, inputs, &crate::progress::Silent).prepare(&noise, &out)
        };
        let error = prepare("of other rows".into()).unwrap_err().to_string();
        assert!(error.ends_with("rows.jsonl changed while the sweep was running"), "{error}");
        assert!(Manifest::read(&out).is_err(), "nothing goes on with it");
        prepare(artifact::hash_file(&rows).unwrap().1).unwrap();
    }
}
