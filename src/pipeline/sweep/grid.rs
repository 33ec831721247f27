//! The grid: which cells there are, and what they are called.

use serde::{Deserialize, Serialize};

use crate::lpc::LatentKind;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::pipeline::recipe::SweepConfig;
use crate::pipeline::recipe::sweep::{Baseline, can_stand_over, is_sized};
use crate::schema::name_of;

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
    /// Name of the prepared folder. Without flips neither kind nor marker makes a difference,
    /// so that all clean settings share one folder, and their cells one run.
    pub fn name(&self) -> String {
        if self.p == 0.0 {
            return "clean".into();
        }
        format!("{}-{}{}", self.kind.name(), self.p, if self.marked { "-marked" } else { "" })
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
    pub(super) fn with(&self, values: &Baseline, codes: &[usize]) -> Option<Cell> {
        let mut cell = serde_json::to_value(self).ok()?;
        for (axis, value) in values {
            let at = match axis.as_str() {
                "noise_p" => "/noise/p".into(),
                "noise_kind" => "/noise/kind".into(),
                "marked" => "/noise/marked".into(),
                axis => format!("/{axis}"),
            };
            *cell.pointer_mut(&at)? = value.clone();
        }
        let mut cell: Cell = serde_json::from_value(cell).ok()?;
        if !is_sized(cell.latent) {
            cell.codes = 0;
        } else if cell.codes == 0 {
            let [only] = codes else { return None };
            cell.codes = *only;
        }
        can_stand_over(cell.latent, cell.objective).then_some(cell)
    }

    /// The name without the seed.
    pub fn group(&self) -> String {
        let codes = if self.codes > 0 { format!("-k{}", self.codes) } else { String::new() };
        format!("{}-{}{codes}-{}", name_of(&self.objective), name_of(&self.latent), self.noise.name())
    }
}

/// Every cell with every seed, in a fixed order, without the latents that an objective cannot have. Without flips,
/// cells that differ in the kind of noise or the marker alone have the same [`Cell::name`]: they are one run.
pub fn grid(config: &SweepConfig, base_codes: usize) -> Vec<Cell> {
    let base = [base_codes];
    let codes: &[usize] = if config.codes.is_empty() { &base } else { &config.codes };
    let mut cells = Vec::new();
    for &kind in &config.noise_kind {
        for &marked in &config.marked {
            for &p in &config.noise_p {
                let noise = NoiseCell { kind, p: p.abs(), marked, seed: config.noise_seed };
                for &objective in &config.objective {
                    for latent in config.latent.iter().copied().filter(|&l| can_stand_over(l, objective)) {
                        for &codes in if is_sized(latent) { codes } else { &[0] } {
                            cells.extend(config.seeds.iter().map(|&seed| Cell {
                                noise: noise.clone(),
                                objective,
                                latent,
                                codes,
                                seed,
                            }));
                        }
                    }
                }
            }
        }
    }
    cells
}
