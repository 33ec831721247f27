//! The grid: which cells there are, and what they are called.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cell_settings::CellSettings;
use crate::lpc::LatentKind;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::pipeline::recipe::SweepConfig;
use crate::pipeline::recipe::sweep::{Baseline, can_stand_over};
use crate::schema::name_of;
use crate::train::TrainConfig;

/// One noise setting: one prepared folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoiseCell {
    /// Noise model.
    pub kind: FlipKind,
    /// Share of labels to flip.
    pub p: f64,
    /// Whether flipped prompts carry the marker.
    pub marked: bool,
    /// Seed of the flips.
    pub seed: u64,
}

impl NoiseCell {
    /// Name of the prepared folder. Without flips neither kind, marker nor seed makes a difference, so that all clean
    /// settings share one folder, and their cells one run. The seed 0 is not in the name.
    pub fn name(&self) -> String {
        if self.p == 0.0 {
            return "clean".into();
        }
        let seed = if self.seed == 0 { String::new() } else { format!("-n{}", self.seed) };
        format!("{}-{}{}{seed}", self.kind.name(), self.p, if self.marked { "-marked" } else { "" })
    }

    /// Whether both settings give the same data.
    pub(super) fn is_data_of(&self, other: &NoiseCell) -> bool {
        self == other || (self.p == 0.0 && other.p == 0.0)
    }
}

/// One cell of the grid with one training seed: one run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its data.
    pub noise: NoiseCell,
    /// Objective.
    pub objective: ObjectiveKind,
    /// Latent.
    pub latent: LatentKind,
    /// K: the number of codes, or that of `lpc` of the same size; 0 for a latent of one size.
    pub codes: usize,
    /// Other settings that the grid varies, where they are used and are not the recipe's.
    #[serde(default)]
    pub settings: CellSettings,
    /// Training seed.
    pub seed: u64,
}

impl Cell {
    /// Name of the run folder: everything that distinguishes the cell within a sweep.
    pub fn name(&self) -> String {
        format!("{}-s{}", self.group(), self.seed)
    }

    /// Whether both cells are one run.
    pub(super) fn is_run_of(&self, other: &Cell) -> bool {
        self.noise.is_data_of(&other.noise) && *self == Cell { noise: self.noise.clone(), ..other.clone() }
    }

    /// The cell that this one is compared with: the same with these values of axes. `None` where they are no cell, such
    /// as a number of codes that is left open.
    pub(super) fn with(&self, values: &Baseline, codes: &[usize], base: &TrainConfig) -> Option<Cell> {
        let mut cell = serde_json::to_value(self).ok()?;
        for (axis, value) in values {
            let at = match axis.as_str() {
                "noise_p" => "/noise/p".into(),
                "noise_kind" => "/noise/kind".into(),
                "marked" => "/noise/marked".into(),
                "objective" | "latent" | "codes" => format!("/{axis}"),
                axis => format!("/settings/{axis}"),
            };
            *cell.pointer_mut(&at)? = value.clone();
        }
        let mut cell: Cell = serde_json::from_value(cell).ok()?;
        if cell.latent.sized() && cell.codes == 0 {
            let [only] = codes else { return None };
            cell.codes = *only;
        }
        can_stand_over(cell.latent, cell.objective).then(|| cell.settled(base))
    }

    /// The cell without values that it does not use or that are the recipe's.
    fn settled(mut self, base: &TrainConfig) -> Cell {
        if !self.latent.sized() {
            self.codes = 0;
        }
        self.settings = self.settings.settled(self.objective, self.latent, base);
        self
    }

    /// The name without the seed.
    pub fn group(&self) -> String {
        let codes = if self.codes > 0 { format!("-k{}", self.codes) } else { String::new() };
        let (objective, latent, settings) = (name_of(&self.objective), name_of(&self.latent), self.settings.name());
        format!("{objective}-{latent}{codes}{settings}-{}", self.noise.name())
    }
}

/// Every cell with every seed, in a fixed order, without the latents that an objective cannot have; cells that differ in
/// a setting that none of them uses are one. Without flips, cells that differ in the kind of noise, the marker or the
/// seed of the flips alone have the same [`Cell::name`]: they are one run.
pub fn grid(config: &SweepConfig, base: &TrainConfig) -> Vec<Cell> {
    let noises = config.noise_kind.iter().flat_map(|&kind| {
        config.marked.iter().flat_map(move |&marked| {
            config.noise_p.iter().flat_map(move |p| {
                config.noise_seeds.iter().map(move |&seed| NoiseCell { kind, p: p.abs(), marked, seed })
            })
        })
    });
    let settings = CellSettings::product(config);
    let mut sorts: Vec<(ObjectiveKind, LatentKind, usize, CellSettings)> = Vec::new();
    for &objective in &config.objective {
        for latent in config.latent.iter().copied().filter(|&l| can_stand_over(l, objective)) {
            for codes in if latent.sized() { numbers_of_codes(config, base) } else { vec![0] } {
                let mut seen = BTreeSet::new();
                for settings in &settings {
                    let settings = settings.clone().settled(objective, latent, base);
                    if seen.insert(settings.name()) {
                        sorts.push((objective, latent, codes, settings));
                    }
                }
            }
        }
    }
    let mut cells = Vec::new();
    for noise in noises {
        for (objective, latent, codes, settings) in &sorts {
            cells.extend(config.seeds.iter().map(|&seed| Cell {
                noise: noise.clone(),
                objective: *objective,
                latent: *latent,
                codes: *codes,
                settings: settings.clone(),
                seed,
            }));
        }
    }
    cells
}

/// Every run once, in the order of the grid: the number of a cell is its place here, from 1.
pub(super) fn distinct(cells: &[Cell]) -> Vec<&Cell> {
    let mut seen = BTreeSet::new();
    cells.iter().filter(|cell| seen.insert(cell.name())).collect()
}

/// The numbers of codes of a grid.
pub(super) fn numbers_of_codes(config: &SweepConfig, base: &TrainConfig) -> Vec<usize> {
    if config.codes.is_empty() { vec![base.lpc.codes] } else { config.codes.clone() }
}
