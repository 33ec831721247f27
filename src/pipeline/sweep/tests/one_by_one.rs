//! Cells that run one by one.

use std::cell::Cell as Kept;

use super::*;
use crate::schema::sweep::{CELL_ATTEMPT, CELL_MARKER};

/// A sweep over [`small`] without noise, whose cells this backend runs.
struct Alone {
    dir: tempfile::TempDir,
    config: SweepConfig,
    base: TrainConfig,
}

impl Alone {
    fn new() -> Alone {
        let config = SweepConfig { noise_p: vec![0.0], ..small() };
        Alone { dir: tempfile::tempdir().unwrap(), config, base: base() }
    }

    fn sweep(&self) -> Sweep<'_> {
        let resolved = crate::settings::to_toml(&self.config).unwrap();
        let (config, base, models) = (&self.config, &self.base, BTreeMap::new());
        Sweep { config, base, models, settings: json!({}), inputs: vec![], resolved, out: self.dir.path() }
    }

    fn folder(&self) -> SweepFolder {
        SweepFolder::open(self.dir.path(), &json!({}), BTreeMap::new()).unwrap()
    }

    fn run(&self, index: usize, backend: &dyn SweepBackend) -> Result<CellOutcome> {
        self.sweep().run_cell(index, backend, &Silent)
    }

    /// The first cell's run folder.
    fn first(&self, file: &str) -> PathBuf {
        self.dir.path().join("cells/dpo-none-clean-s1").join(file)
    }
}

/// A backend that is stopped in training after so many steps, and keeps so many bytes beside the data.
struct Stops {
    step: Kept<usize>,
    kept: Kept<usize>,
}

// A test runs one cell at a time.
unsafe impl Sync for Stops {}

impl SweepBackend for Stops {
    fn prepare(&self, noise: &NoiseCell, out: &Path) -> Result<()> {
        Fake::default().prepare(noise, out)
    }
    fn train(&self, _: &Cell, data: &Path, _: &Path) -> Result<CellScores> {
        artifact::write_bytes(data.join("reference/part"), &vec![0; self.kept.get()])?;
        Err(Error::interrupted(format!("interrupted after step {} of 9; kept", self.step.get())))
    }
}

#[test]
fn a_cell_that_gets_no_further_between_two_stops_fails() {
    let alone = Alone::new();
    let stops = Stops { step: Kept::new(0), kept: Kept::new(10) };
    let interrupted = || match alone.run(1, &stops).unwrap_err() {
        Error::Interrupted { message, .. } => message,
        other => panic!("{other}"),
    };
    assert_eq!(interrupted(), "cell dpo-none-clean-s1: interrupted after step 0 of 9; kept");
    // Getting further is a step or what is kept for the next launch.
    stops.kept.set(20);
    interrupted();
    stops.step.set(3);
    interrupted();
    assert_eq!(
        alone.sweep().collect(&Silent).unwrap().missing["dpo-none-clean-s1"],
        "stopped: interrupted after step 3 of 9; kept"
    );
    let failed = alone.run(1, &stops).unwrap_err();
    assert!(matches!(failed, Error::Run { .. }), "{failed}");
    let told = failed.to_string();
    assert!(
        told.contains("failed: stopped twice without getting further (interrupted after step 3 of 9; kept)"),
        "{told}"
    );
    assert!(alone.sweep().collect(&Silent).unwrap().failed["dpo-none-clean-s1"].starts_with("failed: stopped twice"));
    // A failed cell may be tried again, from two stops on.
    interrupted();
    assert!(!alone.run(1, &Fake::default()).unwrap().already);
    assert!(alone.first(CELL_MARKER).is_file() && !alone.first(CELL_ATTEMPT).exists());
    assert!(alone.run(1, &stops).unwrap().already, "it is not run again");
}

#[test]
fn one_process_runs_a_cell_and_none_the_whole_sweep_beside_it() {
    let alone = Alone::new();
    let fake = Fake::default();
    alone.run(2, &fake).unwrap();
    let held = alone.folder().lock_cell("dpo-none-clean-s1").unwrap().unwrap();
    let refused = alone.run(1, &fake).unwrap_err().to_string();
    assert_eq!(refused, "cell dpo-none-clean-s1: another process runs it");
    assert!(!alone.first("").exists(), "nothing is noted of it");
    drop(held);
    alone.run(1, &fake).unwrap();
    assert_eq!(fake.asked(), ["data clean", "dpo-none-clean-s1", "dpo-none-clean-s2"], "data are prepared once");
    let claim = artifact::Claim { stage: "noise-sweep", inputs: &[] };
    let sharing = claim.share(alone.dir.path()).unwrap();
    alone.run(3, &fake).unwrap();
    let busy = |result: Result<SweepOutcome>| result.unwrap_err().to_string();
    assert!(busy(alone.sweep().run(&fake, &Silent)).ends_with("another lpc-pipe is writing here"));
    drop(sharing);
    let whole = claim.take(alone.dir.path()).unwrap();
    assert!(alone.run(4, &fake).unwrap_err().to_string().ends_with("another lpc-pipe is writing here"));
    drop(whole);
    assert_eq!(alone.sweep().run(&fake, &Silent).unwrap().cells_reused, 3, "what ran alone is kept");
}

#[test]
fn failures_are_noted_with_their_reason() {
    let alone = Alone::new();
    let diverges = Fake { fails: Some("dpo-none-clean-s1"), ..Fake::default() };
    assert!(alone.run(1, &diverges).unwrap_err().to_string().contains("failed: diverged at step 3"));
    let panics = Fake { panics: Some("dpo-none-clean-s2"), ..Fake::default() };
    assert!(alone.run(2, &panics).unwrap_err().to_string().contains("internal error"));
    let collected = alone.sweep().collect(&Silent).unwrap();
    assert_eq!(collected.failed["dpo-none-clean-s1"], "failed: diverged at step 3");
    assert_eq!((collected.failed.len(), collected.missing.len(), collected.outcome.cells_reused), (2, 2, 0));
    assert!(collected.missing.values().all(|status| status == "missing: it was not begun"));
    let manifest = Manifest::read(alone.dir.path()).unwrap();
    assert_eq!((&manifest.facts["cells_failed"], &manifest.facts["cells_missing"]), (&json!(2), &json!(2)));
    // Killed: a folder, and no word of it.
    std::fs::create_dir_all(alone.first("../dpo-lpc-k8-clean-s1")).unwrap();
    assert!(alone.sweep().collect(&Silent).unwrap().missing["dpo-lpc-k8-clean-s1"].contains("left no word"));
}

#[test]
fn data_that_cannot_be_prepared_fail_their_cells_alone() {
    let alone = Alone { config: small(), ..Alone::new() };
    let fake = Fake { fails: Some("data"), ..Fake::default() };
    let shared = alone.sweep().share(&fake, &Silent).unwrap();
    assert_eq!((shared.prepared, shared.failed["data uniform-0.2"].as_str()), (1, "prepare: no data"));
    let failed = (1..=8).filter(|&index| alone.run(index, &fake).is_err()).count();
    assert_eq!(failed, 4);
    let collected = alone.sweep().collect(&Silent).unwrap();
    assert!(collected.failed.values().all(|status| status == "failed: prepare: no data"), "{:?}", collected.failed);
}

#[test]
fn failures_of_the_whole_sweep_are_noted_too() {
    let alone = Alone { config: small(), ..Alone::new() };
    let fake = Fake { fails: Some("dpo-none-clean-s1"), panics: Some("dpo-none-clean-s2"), ..Fake::default() };
    let outcome = alone.sweep().run(&fake, &Silent).unwrap();
    let collected = alone.sweep().collect(&Silent).unwrap();
    assert_eq!(collected.failed["dpo-none-clean-s1"], "failed: diverged at step 3");
    assert!(collected.failed["dpo-none-clean-s2"].contains("internal error"), "{:?}", collected.failed);
    assert_eq!((collected.failed.len(), collected.missing.len()), (2, 0));
    assert_eq!(collected.outcome.results, outcome.results);
    // Data that cannot be prepared, and a run that the user stopped.
    let alone = Alone { config: small(), ..Alone::new() };
    alone.sweep().run(&Fake { fails: Some("data"), ..Fake::default() }, &Silent).unwrap();
    let collected = alone.sweep().collect(&Silent).unwrap();
    assert_eq!(collected.failed["dpo-none-uniform-0.2-s1"], "failed: prepare: no data");
    let alone = Alone::new();
    alone.sweep().run(&Stops { step: Kept::new(3), kept: Kept::new(0) }, &Silent).unwrap();
    let stopped = "stopped: interrupted after step 3 of 9; kept";
    assert_eq!(alone.sweep().collect(&Silent).unwrap().missing["dpo-none-clean-s1"], stopped);
    assert!(alone.sweep().run(&Fake::default(), &Silent).unwrap().check().is_ok());
    assert!(!alone.first(CELL_ATTEMPT).exists());
}
