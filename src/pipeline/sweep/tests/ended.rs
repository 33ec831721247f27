//! Which cells a launch counts as run, and what it trains nothing on.

use super::*;
use crate::pipeline::recipe::Recipe;

/// The user stops the sweep as soon as a cell was trained.
struct AfterOne<'a>(&'a Fake);

impl Progress for AfterOne<'_> {
    fn interrupted(&self) -> bool {
        self.0.asked.lock().unwrap().iter().any(|asked| !asked.starts_with("data"))
    }
}

/// A backend whose cells are all stopped while they train.
struct Stopped;

impl SweepBackend for Stopped {
    fn prepare(&self, noise: &NoiseCell, out: &Path) -> Result<()> {
        Fake::default().prepare(noise, out)
    }

    fn train(&self, _: &Cell, _: &Path, _: &Path) -> Result<CellScores> {
        Err(Error::interrupted("interrupted after step 1 of 9"))
    }
}

#[test]
fn cells_that_were_not_run_to_their_end_are_not_counted_as_run() {
    let (config, base, fake) = (small(), base(), Fake::default());
    let run = |backend: &dyn SweepBackend, progress: &dyn Progress, out: &Path| {
        let (models, resolved) = (BTreeMap::new(), String::new());
        let sweep = Sweep { config: &config, base: &base, models, settings: json!({}), inputs: vec![], resolved, out };
        let outcome = sweep.run(backend, progress).unwrap();
        (outcome.cells_run, outcome.cells_reused)
    };
    let [one, stopped] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    assert_eq!(run(&fake, &AfterOne(&fake), one.path()), (1, 0));
    assert_eq!(run(&fake, &Silent, one.path()), (7, 1));
    assert_eq!(run(&Stopped, &Silent, stopped.path()), (0, 0));
}

#[test]
fn nothing_is_trained_where_no_pair_is_in_the_test_split() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"p{i}\", \"chosen\": \"yes {i}\", \"rejected\": \"no {i}\"}}\n");
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(&rows, (0..20).map(row).collect::<String>()).unwrap();
    let mut recipe = Recipe::default();
    recipe.prepare.input = vec![rows.display().to_string()];
    recipe.prepare.pairs.test_fraction = 0.0;
    recipe.train.model = "tiny:16x1".into();
    recipe.sweep = SweepConfig { noise_p: vec![0.0], seeds: vec![1], ..small() };
    recipe.sweep.out = dir.path().join("sweep").display().to_string();
    let outcome = super::super::run(&recipe, &Silent).unwrap();
    let wanted = "failed: prepare: no pair is in the test split, on which cells are compared \
                  (prepare.pairs.test_fraction is 0)";
    assert_eq!(outcome.results.iter().map(|r| r.status.as_str()).collect::<Vec<_>>(), [wanted; 2]);
    for row in &outcome.results {
        assert!(!dir.path().join("sweep/cells").join(&row.name).join(schema::run::METRICS).exists(), "{}", row.name);
    }
}
