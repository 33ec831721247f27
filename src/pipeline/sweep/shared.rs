//! `noise-sweep inputs`: what the cells of a sweep share, before the first of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::backend::sweep_of;
use super::folder::SweepFolder;
use super::plan::reference_of;
use super::{Cell, Pipelines, Sweep, SweepBackend, brief, caught, grid, one_line};
use crate::artifact;
use crate::error::{Error, Result};
use crate::objective::ObjectiveConfig;
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::schema::name_of;
use crate::settings::Settings;

/// What was made for the cells to share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharedInputs {
    /// Noise settings whose data are prepared.
    pub prepared: usize,
    /// Models for whose cells reference log-probabilities and hidden states are computed, over each noise setting.
    pub references: usize,
    /// What failed, with the reason; the cells try again and report it.
    pub failed: BTreeMap<String, String>,
}

/// Prepares the data of all cells that are not finished, then computes what cells of one model share over them. What an
/// earlier call made is kept.
///
/// # Errors
/// [`Error::Interrupted`] where the user or a scheduler stopped it; as [`super::run`]. What fails for one noise setting is
/// no error here.
pub fn share(recipe: &Recipe, progress: &dyn Progress) -> Result<SharedInputs> {
    let (sweep, inputs) = sweep_of(recipe, progress)?;
    sweep.share(&Pipelines::new(recipe, inputs, progress).alone(), progress)
}

impl Sweep<'_> {
    /// [`share`] with this backend.
    ///
    /// # Errors
    /// As [`share`].
    pub fn share(&self, backend: &dyn SweepBackend, progress: &dyn Progress) -> Result<SharedInputs> {
        self.config.check()?;
        let _lock = artifact::Claim { stage: "noise-sweep", inputs: &self.inputs }.share(self.out)?;
        let folder = SweepFolder::open(self.out, &self.settings, self.models.clone())?;
        let rows = grid(self.config, self.base);
        let pending: Vec<&Cell> = folder.sort(&rows).pending.into_iter().map(|(cell, _)| cell).collect();
        let (mut seen, mut shared) =
            (BTreeSet::new(), SharedInputs { prepared: 0, references: 0, failed: BTreeMap::new() });
        let mut failed = |name: String, error: &Error| {
            let reason = one_line(error);
            progress.warn(&format!("{name}: {}", brief(&reason)));
            shared.failed.insert(name, reason);
        };
        let mut unprepared = BTreeSet::new();
        for cell in pending.iter().filter(|cell| seen.insert(cell.noise.name())) {
            match caught(|| self.provide(cell, &folder, backend, progress)) {
                Ok(()) => shared.prepared += 1,
                Err(error @ Error::Interrupted { .. }) => return Err(error),
                Err(error) => {
                    failed(format!("data {}", cell.noise.name()), &error);
                    unprepared.insert(cell.noise.name());
                }
            }
        }
        let mut seen = BTreeSet::new();
        for cell in pending.iter().filter(|cell| !unprepared.contains(&cell.noise.name())) {
            let model = cell.settings.model.as_deref().unwrap_or(&self.base.model);
            let objective = ObjectiveConfig { name: cell.objective, ..self.base.objective.clone() };
            if !seen.insert((reference_of(cell, model), objective.needs_reference(), name_of(&cell.latent))) {
                continue;
            }
            match caught(|| backend.share(cell, &folder.data_folder(&cell.noise))) {
                Ok(()) => shared.references += 1,
                Err(error @ Error::Interrupted { .. }) => return Err(error),
                Err(error) => failed(format!("reference {}", cell.name()), &error),
            }
        }
        Ok(shared)
    }
}
