//! `demo`: the whole job on built-in data, without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::planted::{self, PlantedScores};
use super::prepare;
use super::recipe::{PrepareConfig, Recipe};
use super::sweep::{self, SummaryRow};
use super::train::{self, Ended, RunSummary};
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::{LatentKind, LpcConfig};
use crate::manifest::{Manifest, by_dotted_key};
use crate::objective::{ObjectiveConfig, ObjectiveKind};
use crate::progress::Progress;
use crate::report::{self, ReportOptions};
use crate::seed::Seed;
use crate::settings::{Settings, refuse};
use crate::synth::{self, SynthConfig};
use crate::train::{LrSchedule, TrainConfig};

/// Results of the demo.
#[derive(Debug, Clone, Serialize)]
pub struct DemoSummary {
    /// Folder of everything.
    pub out: String,
    /// Seconds it took.
    pub seconds: f64,
    /// Plain DPO on clean labels.
    pub dpo: RunSummary,
    /// LPC on DPO on clean labels.
    pub lpc: RunSummary,
    /// How much of the planted structure the codes recovered.
    pub planted: PlantedScores,
    /// The noise sweep, one row for each cell.
    pub sweep: Vec<SummaryRow>,
    /// Reports written.
    pub reports: Vec<String>,
}

/// Runs the demo: synth, prepare, warm start, DPO and LPC-DPO, noise sweep, reports.
///
/// # Errors
/// [`Error::Artifact`] where the folder holds a demo of another seed or other data; those of the commands that it runs.
pub fn run(recipe: &Recipe, progress: &dyn Progress) -> Result<DemoSummary> {
    let clock = Instant::now();
    let config = &recipe.demo;
    let out = Path::new(&config.out);
    recipe.report.check()?;
    let seed = Seed(recipe.seed);
    let place = |name: &str| out.join(name).display().to_string();
    let model = out.join("sft").join(crate::schema::run::MODEL).display().to_string();
    let corpus = SynthConfig { rows: config.rows, out: place("corpus"), ..recipe.synth.clone() };
    let prepared = PrepareConfig {
        input: vec![out.join("corpus").join(synth::CORPUS).display().to_string()],
        out: place("prepared"),
        ..recipe.prepare.clone()
    };
    // The settings of all steps are checked before the first of them.
    corpus.check()?;
    let grid = grid(recipe, &prepared, &model, place("sweep"));
    refuse(sweep::faults(&grid))?;
    let _lock = artifact::Claim { stage: "demo", inputs: &[] }.take(out)?;
    require_same(out, seed, &corpus, &prepared)?;

    progress.note("1/6 synth: a corpus whose preferences follow planted style factors");
    synth::write(&corpus, seed, progress)?;

    progress.note("2/6 prepare: pairs, split, a small tokenizer, token batches");
    prepare::run(&prepared, seed, progress)?;

    progress.note("3/6 train --objective sft: a tiny Llama learns to write the responses");
    let (base, none) = (base(recipe), LpcConfig { latent: LatentKind::None, ..LpcConfig::default() });
    let sft = TrainConfig {
        data: prepared.out.clone(),
        model: "tiny".into(),
        out: place("sft"),
        epochs: config.sft_epochs,
        lr: 4e-3,
        batch: 16,
        objective: ObjectiveConfig { name: ObjectiveKind::Sft, ..ObjectiveConfig::default() },
        lpc: none.clone(),
        ..base.clone()
    };
    finished(train::run(&sft, seed, true, progress)?)?;

    progress.note("4/6 train: DPO without and with latent codes");
    let plain = TrainConfig { data: prepared.out.clone(), model, out: place("dpo"), lpc: none, ..base.clone() };
    let dpo = finished(train::run(&plain, seed, true, progress)?)?;
    let coded = TrainConfig { out: place("lpc-dpo"), lpc: base.lpc, ..plain };
    let lpc = finished(train::run(&coded, seed, true, progress)?)?;
    let posteriors = out.join("lpc-dpo").join(crate::schema::run::POSTERIORS);
    let planted =
        planted::recover(&out.join("corpus"), &out.join("prepared"), &posteriors, synth::PosteriorScope::Pair)?;

    progress.note("5/6 noise-sweep: flipped labels, unmarked, without and with codes, two seeds");
    let swept = sweep::run(&grid, progress)?;
    swept.check()?;

    progress.note("6/6 report");
    let mut reports = Vec::new();
    for folder in ["dpo", "lpc-dpo", "sweep"] {
        let truth = Some(&planted).filter(|_| folder == "lpc-dpo");
        let options = ReportOptions {
            config: recipe.report.clone(),
            seed,
            preferences: truth.and_then(|planted| planted.preferences.as_ref()),
            planted: truth.map_or(&[], |planted| &planted.labels),
            progress,
        };
        reports.push(report::write_with(&out.join(folder), &options)?.page.display().to_string());
    }
    let summary = DemoSummary {
        out: config.out.clone(),
        seconds: clock.elapsed().as_secs_f64(),
        dpo,
        lpc,
        planted: planted.scores,
        sweep: swept.summary,
        reports,
    };
    artifact::write_json(out.join("demo.json"), &summary)?;
    Ok(summary)
}

/// Whether the demo has a value of its own for the setting of a dotted key, whatever the recipe says.
pub fn replaces(key: &str) -> bool {
    match key {
        "train.lpc.latent" | "train.lpc.warmup" => true,
        "synth.rows" | "synth.out" | "prepare.input" | "prepare.out" => true,
        "sweep.out" | "sweep.seeds" | "sweep.jobs" => true,
        key => key.starts_with("train.") && !key.starts_with("train.lpc."),
    }
}

/// Settings of all preference runs of the demo: a tiny model needs larger steps than a real one.
fn base(recipe: &Recipe) -> TrainConfig {
    TrainConfig {
        batch: 32,
        epochs: recipe.demo.epochs,
        lr: 1e-3,
        lr_schedule: LrSchedule::Cosine,
        // The corpus is small: more epochs give as many steps as a large one has.
        lpc: LpcConfig { latent: LatentKind::Lpc, warmup: 8.0, ..recipe.train.lpc.clone() },
        ..TrainConfig::default()
    }
}

/// The recipe of the sweep.
fn grid(recipe: &Recipe, prepared: &PrepareConfig, model: &str, out: String) -> Recipe {
    let mut grid = recipe.clone();
    grid.prepare = PrepareConfig { tokenizer: model.into(), ..prepared.clone() };
    let base = base(recipe);
    // The latents are those of the grid.
    let lpc = LpcConfig { latent: LatentKind::default(), ..base.lpc };
    grid.train = TrainConfig { model: model.into(), save_model: false, lpc, ..base };
    grid.sweep.out = out;
    grid.sweep.seeds = vec![1, 2];
    grid.sweep.jobs = rayon::current_num_threads().clamp(1, 4);
    grid
}

/// Refuses a folder with a demo of another seed or other data: its runs could not go on, and what they were trained on
/// would be lost.
fn require_same(out: &Path, seed: Seed, corpus: &SynthConfig, prepared: &PrepareConfig) -> Result<()> {
    // The runs know their model by its path as it was spelled, and so the corpus is compared by its own.
    let corpus = ("synth", Path::new(&corpus.out), "seed", serde_json::to_value(corpus)?);
    let prepared = ("prepare", Path::new(&prepared.out), "run", sweep::settings(prepared, &["out", "input"])?);
    let mut differ = BTreeSet::new();
    for (section, folder, purpose, now) in [corpus, prepared] {
        // A folder that is not finished has nothing that a run was trained on.
        let Ok(manifest) = Manifest::read(folder) else { continue };
        if let Some(before) = manifest.seeds.get(purpose).filter(|before| **before != seed.0) {
            differ.insert(format!("seed (--seed): {before} before, {} now", seed.0));
        }
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        by_dotted_key(section, &manifest.config, &mut old);
        by_dotted_key(section, &now, &mut new);
        for (key, now) in new {
            let Some(before) = old.get(&key).filter(|before| **before != now) else { continue };
            let key = match key.as_str() {
                "synth.rows" => "demo.rows",
                "synth.out" => "folder of the corpus (--out)",
                other => other,
            };
            differ.insert(format!("{key}: {before} before, {now} now"));
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    let lines = differ.into_iter().collect::<Vec<_>>().join("\n  ");
    Err(Error::artifact(out, format!("holds another demo; what differs:\n  {lines}"))
        .with_hint("give the settings that it was begun with, or choose another --out"))
}

fn finished(ended: Ended) -> Result<RunSummary> {
    ended.summary().map_err(|e| e.with_hint("the same command goes on from there"))
}
