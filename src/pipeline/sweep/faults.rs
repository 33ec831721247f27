//! What is wrong with the settings of a sweep, as far as no file need be read.

#[cfg(test)]
use std::collections::BTreeMap;

use serde_json::Value;

use super::Cell;
use super::backend::{SET_BY_SWEEP, cell_config};
use crate::error::Fault;
use crate::lpc::LpcConfig;
use crate::noise::{FlipKind, NoiseConfig};
use crate::objective::ObjectiveConfig;
use crate::pipeline::recipe::{Recipe, SweepConfig};
use crate::schema::name_of;
use crate::settings::Settings;
use crate::train::TrainConfig;

/// What is wrong with the settings of a sweep, as far as no file need be read.
pub fn faults(recipe: &Recipe) -> Vec<Fault> {
    let mut faults = recipe.sweep.faults();
    if recipe.sweep.out.is_empty() && !recipe.sweep.dry_run {
        faults.push(Fault::new("sweep.out", "missing: give --out DIR"));
    }
    // The noise settings are checked for each kind of the grid.
    let mut prepare = recipe.prepare.clone();
    prepare.out = SET_BY_SWEEP.into();
    prepare.noise = NoiseConfig::default();
    faults.extend(prepare.faults());
    faults.extend(replaced(recipe));
    faults.extend(noise_faults(recipe));
    faults.extend(training_faults(recipe));
    faults.extend(unused_axes(recipe));
    if recipe.train.reference_file().is_some() {
        let why = "a file of log-probabilities is of one prepared folder, and the cells of a sweep differ in theirs";
        faults.push(Fault::new("train.reference", why));
    }
    faults
}

/// The faults of every cell by its name: those that only some cells have fail in them alone.
#[cfg(test)]
pub(crate) fn cell_faults(recipe: &Recipe) -> BTreeMap<String, Vec<Fault>> {
    let cells = super::grid(&recipe.sweep, &recipe.train);
    let set = |config| TrainConfig { data: SET_BY_SWEEP.into(), out: SET_BY_SWEEP.into(), ..config };
    let of = |cell: &Cell| (cell.name(), set(cell_config(recipe, cell)).faults());
    cells.iter().map(of).filter(|(_, faults)| !faults.is_empty()).collect()
}

/// Settings of the recipe that the grid or the sweep sets itself, where they say something that no cell does.
fn replaced(recipe: &Recipe) -> Vec<Fault> {
    let (sweep, noise, train) = (&recipe.sweep, &recipe.prepare.noise, &recipe.train);
    let mut faults = Vec::new();
    let mut check = |fine: bool, key: &str, instead: String| {
        if !fine {
            faults.push(Fault::new(key, format!("has no effect in a sweep; {instead}")));
        }
    };
    check(noise.flip_rate == 0.0, "prepare.noise.flip_rate", "use sweep.noise_p".into());
    check(noise.flip_kind == FlipKind::default(), "prepare.noise.flip_kind", "use sweep.noise_kind".into());
    check(noise.seed == 0, "prepare.noise.seed", "use sweep.noise_seeds".into());
    let marks = noise.flip_marker.is_empty() || sweep.marked.contains(&true);
    check(marks, "prepare.noise.flip_marker", "use it with sweep.marked = [true]".into());
    check(!recipe.prepare.dry_run, "prepare.dry_run", "use sweep.dry_run".into());
    let objective = train.objective.name;
    let known = objective == ObjectiveConfig::default().name || sweep.objective.contains(&objective);
    let named = name_of(&objective);
    check(known, "train.objective.name", format!("use sweep.objective, which lacks {named}"));
    let latent = train.lpc.latent;
    let known = latent == LpcConfig::default().latent || sweep.latent.contains(&latent);
    check(known, "train.lpc.latent", format!("use sweep.latent, which lacks {}", name_of(&latent)));
    faults
}

/// Faults that all configurations have, compared by `same`; none without configurations.
fn shared(all: impl Iterator<Item = Vec<Fault>>, same: impl Fn(&Fault, &Fault) -> bool) -> Vec<Fault> {
    let shared = all.reduce(|before, found| {
        before.into_iter().filter(|fault| found.iter().any(|other| same(fault, other))).collect()
    });
    shared.unwrap_or_default()
}

fn same_key(a: &Fault, b: &Fault) -> bool {
    a.key == b.key
}

/// Faults of the training settings that every cell has, and settings of objective and latent that no cell uses. Faults
/// of some cells make only those cells fail.
fn training_faults(recipe: &Recipe) -> Vec<Fault> {
    let cells = super::grid(&recipe.sweep, &recipe.train);
    let configs = || cells.iter().map(|cell| cell_config(recipe, cell));
    let of_cells =
        configs().map(|config| TrainConfig { data: SET_BY_SWEEP.into(), out: SET_BY_SWEEP.into(), ..config }.faults());
    let mut faults = shared(of_cells, |a, b| a == b);
    let unused = configs().map(|config| {
        let own = config.faults();
        let lpc = LpcConfig { latent: config.lpc.latent, ..recipe.train.lpc.clone() };
        let objective = ObjectiveConfig { name: config.objective.name, ..recipe.train.objective.clone() };
        let mut found = TrainConfig { lpc, objective, head: recipe.train.head.clone(), ..config }.faults();
        found.retain(|f| !own.contains(f));
        found
    });
    let mut unused = shared(unused, same_key);
    unused.iter_mut().for_each(|f| f.message = "has no effect: no cell of this sweep uses it".into());
    faults.extend(unused);
    faults
}

/// Axes of the grid that no cell uses.
fn unused_axes(recipe: &Recipe) -> Vec<Fault> {
    let cells = super::grid(&recipe.sweep, &recipe.train);
    let of = |cell: &Cell| cell.settings.effective(cell.objective, cell.latent, &recipe.train);
    let used: Vec<Value> = cells.iter().filter_map(|cell| serde_json::to_value(of(cell)).ok()).collect();
    let axes = recipe.sweep.axes().into_iter().filter(|(_, values)| !values.is_empty());
    axes.filter(|(axis, _)| used.iter().all(|used| used.get(axis).is_some_and(Value::is_null)))
        .map(|(axis, _)| SweepConfig::fault(axis, "has no effect: no cell of this sweep uses it"))
        .collect()
}

/// Faults of the noise settings: those that a kind of this sweep has by itself, and settings that none of
/// the kinds uses.
fn noise_faults(recipe: &Recipe) -> Vec<Fault> {
    let base = &recipe.prepare.noise;
    let mut faults = Vec::new();
    let flip_rate = recipe.sweep.noise_p.iter().copied().find(|p| *p > 0.0 && *p <= 1.0).unwrap_or(0.0);
    let kinds = recipe.sweep.noise_kind.iter();
    let configs: Vec<NoiseConfig> =
        kinds.map(|&flip_kind| NoiseConfig { flip_rate, flip_kind, ..base.clone() }).collect();
    for found in configs.iter().flat_map(|config| config.applicable().faults()) {
        if !faults.contains(&found) {
            faults.push(found);
        }
    }
    let unused = shared(configs.iter().map(|config| config.faults()), same_key);
    let unused: Vec<Fault> = unused.into_iter().filter(|f| faults.iter().all(|g| g.key != f.key)).collect();
    faults.extend(unused);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpc::LatentKind;
    use crate::objective::ObjectiveKind;

    /// The faults of a recipe, which has none before this change.
    fn told(change: fn(&mut Recipe)) -> Vec<String> {
        let mut recipe = Recipe::default();
        recipe.prepare.input = vec!["raw".into()];
        recipe.sweep.out = "sweep".into();
        recipe.train.model = "tiny".into();
        assert_eq!(faults(&recipe), vec![]);
        change(&mut recipe);
        faults(&recipe).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn what_the_grid_replaces_is_refused_by_name() {
        type Change = fn(&mut Recipe);
        let cases: [(Change, &str); 7] = [
            (
                |r| r.train.objective.name = ObjectiveKind::Ipo,
                "train.objective.name: has no effect in a sweep; use sweep.objective, which lacks ipo",
            ),
            (
                |r| r.train.lpc.latent = LatentKind::Bias,
                "train.lpc.latent: has no effect in a sweep; use sweep.latent, which lacks bias",
            ),
            (|r| r.prepare.noise.seed = 5, "prepare.noise.seed: has no effect in a sweep; use sweep.noise_seeds"),
            (
                |r| r.prepare.noise.flip_marker = "[X]".into(),
                "prepare.noise.flip_marker: has no effect in a sweep; use it with sweep.marked = [true]",
            ),
            (|r| r.prepare.dry_run = true, "prepare.dry_run: has no effect in a sweep; use sweep.dry_run"),
            (
                |r| r.prepare.noise.flip_rate = 0.2,
                "prepare.noise.flip_rate: has no effect in a sweep; use sweep.noise_p",
            ),
            (
                |r| r.prepare.noise.flip_kind = FlipKind::Length,
                "prepare.noise.flip_kind: has no effect in a sweep; use sweep.noise_kind",
            ),
        ];
        for (change, wanted) in cases {
            assert_eq!(told(change), [wanted]);
        }
    }

    #[test]
    fn settings_of_kept_states_are_for_the_cells_that_have_some() {
        assert_eq!(told(|r| r.train.head.memory_mb = 10), Vec::<String>::new());
        let mut recipe = Recipe::default();
        recipe.train.model = "tiny".into();
        recipe.train.head.memory_mb = 10;
        assert!(recipe.sweep.latent == [LatentKind::None, LatentKind::Lpc]);
        assert_eq!(cell_faults(&recipe), BTreeMap::new());
        let alone = told(|r| {
            r.train.head.memory_mb = 10;
            r.sweep.latent = vec![LatentKind::None];
        });
        assert_eq!(alone, ["train.head.memory_mb: has no effect: no cell of this sweep uses it"]);
    }

    #[test]
    fn what_the_grid_has_and_what_belongs_to_other_commands_stays() {
        let cases: [fn(&mut Recipe); 4] = [
            |r| {
                r.train.objective.name = ObjectiveKind::Ipo;
                r.sweep.objective = vec![ObjectiveKind::Dpo, ObjectiveKind::Ipo];
            },
            |r| r.train.lpc.latent = LatentKind::Lpc,
            |r| {
                r.prepare.noise.flip_marker = "[X]".into();
                r.sweep.marked = vec![false, true];
            },
            |r| {
                r.train.data = "data".into();
                r.train.out = "run".into();
                r.prepare.out = "data".into();
            },
        ];
        for change in cases {
            assert_eq!(told(change), Vec::<String>::new());
        }
    }
}
