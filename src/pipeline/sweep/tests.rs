use std::collections::BTreeSet;
use std::sync::Mutex;

use polars::prelude::*;
use serde_json::json;

use super::*;
use crate::lpc::LatentKind;
use crate::manifest::Manifest;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::progress::Silent;
use crate::schema::col;

mod axes;
mod ended;
mod one_by_one;
mod statistics;

/// A backend that trains nothing: accuracy is a function of the cell, and the calls are recorded.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    fails: Option<&'static str>,
    panics: Option<&'static str>,
}

impl Fake {
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }
}

fn hits(cell: &Cell, i: u64) -> bool {
    let rate = if cell.latent == LatentKind::None { 60 } else { 80 };
    let rate = if cell.objective == ObjectiveKind::Rdpo { rate + 5 } else { rate };
    (i * 37 + cell.seed * 11) % 100 < rate
}

impl SweepBackend for Fake {
    fn prepare(&self, noise: &NoiseCell, out: &Path) -> Result<()> {
        self.asked.lock().unwrap().push(format!("data {}", noise.name()));
        if self.fails == Some("data") && noise.p > 0.0 {
            return Err(Error::run("no\ndata"));
        }
        Manifest::begin("prepare", noise)?.finish(out)?;
        Ok(())
    }

    fn train(&self, cell: &Cell, data: &Path, out: &Path) -> Result<CellScores> {
        let name = cell.name();
        assert!(folder::is_finished(data), "{name} before its data");
        if self.fails == Some(name.as_str()) {
            return Err(Error::run("diverged at step 3"));
        }
        assert_ne!(self.panics, Some(name.as_str()), "boom");
        self.asked.lock().unwrap().push(name);
        let n = 100u64;
        let flipped: Vec<bool> = (0..n).map(|i| i % 5 == 0 && cell.noise.p > 0.0).collect();
        let margin: Vec<f32> = (0..n).map(|i| if hits(cell, i) != flipped[i as usize] { 0.5 } else { -0.5 }).collect();
        let mut frame = df!(
            col::ID => (0..n).map(|i| format!("{i:032x}")).collect::<Vec<_>>(),
            col::PROMPT_ID => (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>(),
            col::SPLIT => vec!["test"; n as usize],
            col::FLIPPED => flipped,
            col::MARGIN => margin,
        )?;
        artifact::write_parquet(out.join(schema::run::POSTERIORS), &mut frame)?;
        Manifest::begin("train", cell)?.finish(out)?;
        Ok(CellScores {
            eval_accuracy: Some((0..n).filter(|i| hits(cell, *i)).count() as f64 / n as f64),
            n_eval: Some(n),
            noise_share: Some(cell.noise.p / 2.0),
            audit_auroc: (cell.noise.p > 0.0).then_some(0.7),
            codes_used: (cell.codes > 0).then_some(5),
            code_perplexity: (cell.codes > 0).then_some(3.5),
            train_seconds: Some(1.5),
        })
    }
}

/// The recipe's training settings, with eight codes.
fn base() -> TrainConfig {
    let mut config = TrainConfig::default();
    config.lpc.codes = 8;
    config
}

fn launch(config: &SweepConfig, settings: Value, out: &Path, fake: &Fake) -> Result<SweepOutcome> {
    let resolved = crate::settings::to_toml(config)?;
    let (base, models) = (base(), BTreeMap::new());
    Sweep { config, base: &base, models, settings, inputs: vec![], resolved, out }.run(fake, &Silent)
}

/// A finished sweep over [`small`].
fn finished() -> (tempfile::TempDir, Fake) {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    launch(&small(), json!({}), dir.path(), &fake).unwrap();
    fake.asked();
    (dir, fake)
}

fn small() -> SweepConfig {
    SweepConfig { noise_p: vec![0.0, 0.2], seeds: vec![1, 2], ..SweepConfig::default() }
}

fn names(frame: &DataFrame) -> Vec<String> {
    frame.get_column_names().iter().map(|n| n.to_string()).collect()
}

#[test]
fn the_grid_is_a_product_and_clean_cells_are_shared() {
    let config = SweepConfig {
        noise_kind: vec![FlipKind::Uniform, FlipKind::WeakQuality],
        marked: vec![false, true],
        codes: vec![4, 16],
        ..small()
    };
    let cells = grid(&config, &base());
    // 2 kinds x 2 markers x 2 rates x (none + lpc with 2 numbers of codes) x 2 seeds.
    assert_eq!(cells.len(), 2 * 2 * 2 * 3 * 2);
    let runs: BTreeSet<String> = cells.iter().map(Cell::name).collect();
    // Per latent, codes and seed: one clean run and four noisy ones.
    assert_eq!(runs.len(), 5 * 3 * 2);
    assert!(runs.contains("dpo-lpc-k16-weak-quality-0.2-marked-s2"), "{runs:?}");
    assert!(runs.contains("dpo-none-clean-s1"), "{runs:?}");
    assert_eq!(grid(&small(), &base())[2].codes, 8);
}

/// A control without codes is one cell, whatever the numbers of codes, and is not told how many.
#[test]
fn latents_without_a_size_have_no_number_of_codes() {
    let latent = vec![LatentKind::Noise, LatentKind::Bias, LatentKind::Mlp];
    let config = SweepConfig { latent, codes: vec![4, 8], noise_p: vec![0.0], seeds: vec![1], ..small() };
    let names: Vec<String> = grid(&config, &base()).iter().map(Cell::name).collect();
    assert_eq!(names, ["dpo-noise-clean-s1", "dpo-bias-clean-s1", "dpo-mlp-k4-clean-s1", "dpo-mlp-k8-clean-s1"]);
}

#[test]
fn a_finished_sweep_has_its_tables_and_is_not_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let outcome = launch(&small(), json!({"lr": 1}), dir.path(), &fake).unwrap();
    outcome.check().unwrap();
    assert_eq!((outcome.cells_run, outcome.cells_reused), (8, 0));
    assert_eq!(fake.asked().iter().filter(|a| a.starts_with("data")).count(), 2);

    let results = artifact::read_parquet(dir.path().join("results.parquet")).unwrap();
    assert_eq!(
        names(&results).join(" "),
        "objective latent codes noise_kind noise_p marked seed noise_seed eval_accuracy n_eval audit_auroc \
         codes_used code_perplexity train_seconds status eval_accuracy_low eval_accuracy_high noise_share inference kl_weight temperature \
         g group prompt_layer model settings"
    );
    assert_eq!(results.height(), 8);
    assert_eq!(results.column("audit_auroc").unwrap().null_count(), 4);
    assert_eq!(results.column("code_perplexity").unwrap().null_count(), 4);

    let row = outcome.summary.iter().find(|r| r.varied.latent == LatentKind::Lpc && r.varied.noise_p == 0.2).unwrap();
    assert_eq!((row.n_seeds, row.n_paired), (2, Some(100)));
    assert!((row.eval_accuracy.unwrap() - 0.8).abs() < 1e-12);
    // 20 of 100 examples differ, whatever the labels were flipped to.
    assert!((row.difference.unwrap() - 0.2).abs() < 1e-12);
    let (low, high) = (row.difference_low.unwrap(), row.difference_high.unwrap());
    assert!(low > 0.1 && low < 0.2 && high > 0.2 && high < 0.3, "{low} {high}");
    let base = outcome.summary.iter().find(|r| r.varied.latent == LatentKind::None).unwrap();
    assert_eq!(base.difference, None);
    for file in ["summary.parquet", "curves.parquet", "report.html", "report.md", "manifest.json", "config.toml"] {
        assert!(dir.path().join(file).is_file(), "{file}");
    }

    let before = std::fs::read(dir.path().join("results.parquet")).unwrap();
    let again = launch(&SweepConfig { jobs: 3, ..small() }, json!({"lr": 1}), dir.path(), &fake).unwrap();
    assert_eq!((again.cells_run, again.cells_reused), (0, 8));
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert_eq!(std::fs::read(dir.path().join("results.parquet")).unwrap(), before);
    assert_eq!(again.summary, outcome.summary);
}

#[test]
fn a_wider_grid_runs_only_what_is_new() {
    let (dir, fake) = finished();
    let wider = SweepConfig { seeds: vec![1, 2, 3], ..small() };
    let outcome = launch(&wider, json!({}), dir.path(), &fake).unwrap();
    assert_eq!((outcome.cells_run, outcome.cells_reused), (4, 8));
    assert_eq!(
        fake.asked(),
        ["dpo-lpc-k8-clean-s3", "dpo-lpc-k8-uniform-0.2-s3", "dpo-none-clean-s3", "dpo-none-uniform-0.2-s3"]
    );
}

#[test]
fn a_failed_cell_stops_no_other_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { fails: Some("dpo-lpc-k8-clean-s1"), panics: Some("dpo-none-clean-s2"), ..Fake::default() };
    let outcome = launch(&SweepConfig { jobs: 2, ..small() }, json!({}), dir.path(), &fake).unwrap();
    assert_eq!(outcome.results.iter().filter(|r| r.status == "ok").count(), 6);
    let error = outcome.check().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("dpo-lpc-k8-clean-s1: failed: diverged at step 3"), "{error}");
    assert!(error.to_string().contains("dpo-none-clean-s2: failed: internal error:"), "{error}");
    let frame = artifact::read_parquet(dir.path().join("results.parquet")).unwrap();
    assert_eq!(frame.height(), 8);
    assert_eq!(frame.column("eval_accuracy").unwrap().null_count(), 2);

    let fixed = Fake::default();
    let outcome = launch(&small(), json!({}), dir.path(), &fixed).unwrap();
    outcome.check().unwrap();
    assert_eq!(fixed.asked(), ["dpo-lpc-k8-clean-s1", "dpo-none-clean-s2"]);
}

#[test]
fn a_failed_run_without_flips_is_one_whatever_the_noise_that_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { fails: Some("dpo-none-clean-s1"), ..Fake::default() };
    let noise_kind = vec![FlipKind::Uniform, FlipKind::WeakQuality];
    let config = SweepConfig { noise_kind, noise_seeds: vec![0, 5], ..small() };
    let outcome = launch(&config, json!({}), dir.path(), &fake).unwrap();
    // Of 32 rows 16 have flips, each a run; the others are 4 runs.
    assert_eq!((outcome.results.len(), outcome.cells_run), (32, 20));
    let error = outcome.check().unwrap_err().to_string();
    assert_eq!(error, "1 of 20 cells failed\n  dpo-none-clean-s1: failed: diverged at step 3");
    assert_eq!(Manifest::read(dir.path()).unwrap().facts["cells_failed"], json!(1));
}

#[test]
fn data_that_cannot_be_prepared_fails_its_cells_only() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { fails: Some("data"), ..Fake::default() };
    let outcome = launch(&small(), json!({}), dir.path(), &fake).unwrap();
    let failed: Vec<_> = outcome.results.iter().filter(|r| r.status != "ok").collect();
    assert_eq!(failed.len(), 4);
    assert!(failed.iter().all(|r| r.varied.noise_p == 0.2 && r.status == "failed: prepare: no data"), "{failed:?}");
}

#[test]
fn a_run_without_its_marker_or_manifest_is_not_finished() {
    let (dir, fake) = finished();
    std::fs::remove_file(dir.path().join("cells/dpo-none-clean-s1/manifest.json")).unwrap();
    std::fs::write(dir.path().join("cells/dpo-none-clean-s2/cell.json"), b"{").unwrap();
    launch(&small(), json!({}), dir.path(), &fake).unwrap();
    assert_eq!(fake.asked(), ["dpo-none-clean-s1", "dpo-none-clean-s2"]);
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    artifact::write_json(path, &value).unwrap();
}

#[test]
fn a_cell_made_from_something_else_begins_anew() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Progress for Heard {
        fn note(&self, line: &str) {
            self.0.lock().unwrap().push(line.into());
        }
    }
    let (dir, fake) = finished();
    let cell = |name: &str, file: &str| dir.path().join("cells").join(name).join(file);
    let others = ["dpo-lpc-k8-clean-s1", "dpo-none-uniform-0.2-s1", "dpo-none-uniform-0.2-s2"];
    edit(&cell(others[0], "cell.json"), |record| record["config_hash"] = "of other settings".into());
    edit(&cell(others[1], "cell.json"), |record| record["cell"]["noise"]["seed"] = 9.into());
    edit(&cell(others[2], "cell.json"), |record| record["cell"]["seed"] = 1.into());
    // A clean cell is the same run whatever noise it does without.
    edit(&cell("dpo-none-clean-s1", "cell.json"), |record| record["cell"]["noise"]["kind"] = "margin".into());
    std::fs::remove_file(cell("dpo-none-clean-s2", "cell.json")).unwrap();
    others.iter().for_each(|name| std::fs::write(cell(name, "left"), "x").unwrap());
    let heard = Heard::default();
    let wider = SweepConfig { latent: vec![LatentKind::None, LatentKind::Lpc, LatentKind::Bias], ..small() };
    let base = base();
    let sweep = Sweep {
        config: &wider,
        base: &base,
        models: BTreeMap::new(),
        settings: json!({}),
        inputs: vec![],
        resolved: String::new(),
        out: dir.path(),
    };
    let outcome = sweep.run(&fake, &heard).unwrap();
    assert_eq!((outcome.cells_run, outcome.cells_reused), (8, 4));
    let asked = fake.asked();
    assert!(others.iter().all(|name| asked.contains(&name.to_string())), "{asked:?}");
    assert!(!asked.iter().any(|a| a == "dpo-none-clean-s1" || a.starts_with("data")), "{asked:?}");
    assert!(others.iter().all(|name| !cell(name, "left").exists()), "the folder of another run was kept");
    assert_eq!(
        heard.0.lock().unwrap().as_slice(),
        ["4 cells are finished and are kept; 8 to run: 1 failed or were stopped, 3 were made from something else and \
          begin anew, 4 are new"]
    );
}

#[test]
fn data_that_were_made_from_something_else_are_made_anew() {
    let (dir, fake) = finished();
    let data = |file: &str| dir.path().join("prepared/uniform-0.2").join(file);
    let mut seeds = small().seeds;
    for (file, key) in [("data.json", "config_hash"), ("data.json", "noise"), ("manifest.json", "tool")] {
        fake.asked();
        edit(
            &data(file),
            |record| {
                if key == "noise" { record[key]["seed"] = 5.into() } else { record[key] = "another".into() }
            },
        );
        seeds.push(seeds.len() as u64 + 1);
        launch(&SweepConfig { seeds: seeds.clone(), ..small() }, json!({}), dir.path(), &fake).unwrap();
        let asked: Vec<String> = fake.asked().into_iter().filter(|a| a.starts_with("data")).collect();
        assert_eq!(asked, ["data uniform-0.2"], "{file} {key}");
    }
}

#[test]
fn a_long_cause_is_told_in_short() {
    let long = format!("failed: not finite for {}", "0123456789abcdef ".repeat(300));
    let told = brief(&long);
    assert!(told.chars().count() < 250 && told.starts_with("failed: not finite for 0123"), "{told}");
    assert!(told.contains("results.parquet"), "{told}");
    assert_eq!(brief("failed: no data"), "failed: no data");
}

#[test]
fn other_settings_are_refused_with_the_keys_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let begun = json!({"train": {"lr": 1e-3, "batch": 4}, "seed": 0});
    launch(&small(), begun, dir.path(), &fake).unwrap();
    let now = json!({"seed": 0, "train": {"lr": 2e-3, "batch": 4, "tau": 1.0}});
    let error = launch(&small(), now, dir.path(), &fake).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string().replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text, @"
    3 faults in the configuration
      train.lr: the sweep in this folder was begun with 0.001, now 0.002
      train.tau: the sweep in this folder was begun without it, now 1.0
      DIR: go on with the settings it was begun with, or choose another --out (the grid itself may change)
    ");
}

#[test]
fn faults_of_the_grid_come_all_at_once() {
    let config = SweepConfig {
        noise_p: vec![0.1, 1.5],
        seeds: vec![1, 2, 1],
        objective: vec![],
        jobs: 0,
        ..SweepConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let error = launch(&config, json!({}), dir.path(), &Fake::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"
    4 faults in the configuration
      sweep.noise_p: 1.5 is no share: expected 0 to 1
      sweep.jobs: expected 1 or more
      sweep.objective: empty: the grid would have no cell
      sweep.seeds: 1 is given twice
    ");
}

#[test]
fn settings_without_effect_are_faults() {
    let none = SweepConfig { latent: vec![LatentKind::None], codes: vec![4], ..SweepConfig::default() };
    assert_eq!(none.faults()[0].to_string(), "sweep.codes: without effect: no latent of this sweep has codes");
    let clean = SweepConfig { noise_p: vec![0.0], marked: vec![true], ..SweepConfig::default() };
    assert_eq!(clean.faults().len(), 1);
    assert_eq!(SweepConfig::default().faults(), vec![]);
}

#[test]
fn removed_posteriors_cost_the_comparison_only() {
    let (dir, _) = finished();
    std::fs::remove_file(dir.path().join("cells/dpo-lpc-k8-clean-s1/posteriors.parquet")).unwrap();
    let outcome = launch(&small(), json!({}), dir.path(), &Fake::default()).unwrap();
    let row = outcome.summary.iter().find(|r| r.varied.latent == LatentKind::Lpc && r.varied.noise_p == 0.0).unwrap();
    assert_eq!((row.n_seeds, row.n_paired), (2, Some(100)), "the other seed still has them");
    std::fs::remove_file(dir.path().join("cells/dpo-lpc-k8-clean-s2/posteriors.parquet")).unwrap();
    let outcome = launch(&small(), json!({}), dir.path(), &Fake::default()).unwrap();
    let row = outcome.summary.iter().find(|r| r.varied.latent == LatentKind::Lpc && r.varied.noise_p == 0.0).unwrap();
    assert_eq!((row.difference, row.n_seeds), (None, 2));
}

#[test]
fn ties_are_wrong_and_flips_are_undone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.parquet");
    let mut frame = df!(
        col::ID => ["a", "b", "c", "d", "e", "a"],
        col::PROMPT_ID => ["p", "q", "r", "q", "s", "p"],
        col::SPLIT => ["test", "test", "test", "test", "train", "test"],
        col::FLIPPED => [false, true, true, false, false, true],
        col::MARGIN => [1.0f32, 1.0, -1.0, 0.0, 1.0, 0.0],
    )
    .unwrap();
    artifact::write_parquet(&path, &mut frame).unwrap();
    let found = paired::correctness(&path, &mut paired::Prompts::new()).unwrap().unwrap();
    let correct: Vec<(&str, usize, usize, f64)> =
        found.iter().map(|((id, copy), (prompt, right))| (id.as_str(), *copy, *prompt, *right)).collect();
    // The copy of `a` is a pair of its own, of the same prompt.
    assert_eq!(correct, [("a", 0, 0, 1.0), ("a", 1, 0, 0.0), ("b", 0, 1, 0.0), ("c", 0, 2, 1.0), ("d", 0, 1, 0.0)]);
}

#[test]
fn settings_leave_out_what_the_grid_sets() {
    let recipe = crate::pipeline::recipe::Recipe::default();
    let without = ["seed", "threads", "sweep", "synth", "train.out", "train.objective.name"];
    let value = settings(&recipe, &without).unwrap();
    assert!(value.get("seed").is_none() && value["train"].get("out").is_none());
    assert!(value["train"]["objective"].get("name").is_none());
    assert!(value["train"]["objective"].get("beta").is_some());
}

#[test]
fn a_sweep_of_an_earlier_version_goes_on_with_its_cells() {
    let dir = tempfile::tempdir().unwrap();
    // It noted settings that change no result.
    let noted = json!({"audit": {"folds": 5}, "train": {"recompute": false}, "lr": 1});
    assert_eq!(launch(&small(), noted, dir.path(), &Fake::default()).unwrap().cells_run, 8);
    let now = json!({"train": {}, "lr": 1});
    let outcome = launch(&small(), now, dir.path(), &Fake::default()).unwrap();
    assert_eq!((outcome.cells_run, outcome.cells_reused), (0, 8));
    let error = launch(&small(), json!({"train": {}, "lr": 2}), dir.path(), &Fake::default()).unwrap_err();
    assert!(error.to_string().contains("lr: the sweep in this folder was begun with 1, now 2"), "{error}");
}

#[test]
fn the_marker_of_a_cell_is_a_flat_object_and_read_again() {
    let (dir, _) = finished();
    let text = std::fs::read_to_string(dir.path().join("cells/dpo-none-clean-s1/cell.json")).unwrap();
    let keys: Vec<String> =
        serde_json::from_str::<serde_json::Map<String, Value>>(&text).unwrap().into_iter().map(|(k, _)| k).collect();
    assert_eq!(
        keys.join(" "),
        "cell config_hash eval_accuracy n_eval noise_share audit_auroc codes_used code_perplexity train_seconds status"
    );
    assert!(text.contains("\"latent\": \"none\"") && text.contains("\"audit_auroc\": null"), "{text}");
    let record: CellRecord = serde_json::from_str(&text).unwrap();
    assert_eq!((record.scores.n_eval, record.scores.audit_auroc), (Some(100), None));
}
