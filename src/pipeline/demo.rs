//! `demo`: the whole job on built-in data, without a network.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::planted::{self, PlantedScores};
use super::prepare;
use super::recipe::{PrepareConfig, Recipe};
use super::sweep::{self, SummaryRow};
use super::train::{self, Ended, RunSummary};
use crate::artifact;
use crate::error::Result;
use crate::lpc::{LatentKind, LpcConfig};
use crate::objective::{ObjectiveConfig, ObjectiveKind};
use crate::progress::Progress;
use crate::report::{self, ReportOptions};
use crate::seed::Seed;
use crate::settings::Settings;
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
/// Those of the commands that it runs.
pub fn run(recipe: &Recipe, progress: &dyn Progress) -> Result<DemoSummary> {
    let clock = Instant::now();
    let config = &recipe.demo;
    let out = Path::new(&config.out);
    recipe.report.check()?;
    let _lock = artifact::Claim { stage: "demo", inputs: &[] }.take(out)?;
    let seed = Seed(recipe.seed);
    let place = |name: &str| out.join(name).display().to_string();

    progress.note("1/6 synth: a corpus whose preferences follow planted style factors");
    let corpus = SynthConfig { rows: config.rows, out: place("corpus"), ..recipe.synth.clone() };
    synth::write(&corpus, seed, progress)?;

    progress.note("2/6 prepare: pairs, split, a small tokenizer, token batches");
    let prepared = PrepareConfig {
        input: vec![out.join("corpus").join(synth::CORPUS).display().to_string()],
        out: place("prepared"),
        ..recipe.prepare.clone()
    };
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
    let model = out.join("sft").join(crate::schema::run::MODEL).display().to_string();

    progress.note("4/6 train: DPO without and with latent codes");
    let plain =
        TrainConfig { data: prepared.out.clone(), model: model.clone(), out: place("dpo"), lpc: none, ..base.clone() };
    let dpo = finished(train::run(&plain, seed, true, progress)?)?;
    let coded = TrainConfig { out: place("lpc-dpo"), lpc: base.lpc.clone(), ..plain };
    let lpc = finished(train::run(&coded, seed, true, progress)?)?;
    let posteriors = out.join("lpc-dpo").join(crate::schema::run::POSTERIORS);
    let planted = planted::recover(&out.join("corpus"), &out.join("prepared"), &posteriors, synth::Evidence::Pair)?;

    progress.note("5/6 noise-sweep: flipped labels, unmarked, without and with codes, two seeds");
    let mut grid = recipe.clone();
    grid.prepare = PrepareConfig { tokenizer: model.clone(), ..prepared };
    grid.train = TrainConfig { model, save_model: false, ..base };
    grid.sweep.out = place("sweep");
    grid.sweep.seeds = vec![1, 2];
    grid.sweep.jobs = rayon::current_num_threads().clamp(1, 4);
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

fn finished(ended: Ended) -> Result<RunSummary> {
    ended.summary().map_err(|e| e.with_hint("the same command goes on from there"))
}
