//! Which rows a run needs the reference of, and where it has them from.

use std::path::Path;

use super::store::{ReferenceStore, WantedRows, all};
use super::{ReferenceOrigin, none, read};
use crate::batch::Split;
use crate::error::Result;
use crate::nn::Real;
use crate::policy::Policy;
use crate::schema::prepared;
use crate::train::{Posteriors, TrainConfig};

/// The rows that a run needs the reference of: for its steps and evaluations, and for what it leaves behind.
pub struct ReferenceNeeds {
    /// Before the first step.
    pub first: WantedRows,
    /// In all.
    pub all: WantedRows,
}

impl ReferenceNeeds {
    /// The needs of a run whose steps have the training rows that `used` marks.
    pub fn of(config: &TrainConfig, splits: &[Split], used: Vec<bool>) -> ReferenceNeeds {
        let mut first = all(splits);
        // Hidden states that are kept of all rows give the reference of all at once.
        if config.posteriors == Posteriors::Test || !config.tune.keeps_states() {
            first[0] = used;
        }
        let all = if config.posteriors == Posteriors::All { all(splits) } else { first.clone() };
        ReferenceNeeds { first, all }
    }

    /// The same, all of them before the first step: of a model that is not kept in memory any longer.
    #[must_use]
    pub fn at_once(self) -> ReferenceNeeds {
        ReferenceNeeds { first: self.all.clone(), all: self.all }
    }

    /// The needs of a run that holds training pairs out: all of the training split, and no others.
    pub fn of_training(splits: &[Split]) -> ReferenceNeeds {
        let wanted: WantedRows = splits.iter().enumerate().map(|(i, s)| vec![i == 0; s.rows.len()]).collect();
        ReferenceNeeds { first: wanted.clone(), all: wanted }
    }
}

impl<'a> ReferenceStore<'a> {
    /// The store of a run: zeros where the objective has no reference, the values of the file that `train.reference`
    /// names, or those of the prepared folder's cache. `policy` is the reference, and `weights` its
    /// [`super::fingerprint`].
    ///
    /// # Errors
    /// As [`read`].
    pub fn of_run<T: Real>(
        config: &TrainConfig,
        policy: &Policy<T>,
        splits: &'a [Split],
        weights: &str,
    ) -> Result<ReferenceStore<'a>> {
        let origin = ReferenceOrigin::known(policy, weights.to_string(), splits);
        if !config.objective.needs_reference() {
            return Ok(ReferenceStore::full(splits, origin, none(splits)));
        }
        let Some(file) = config.reference_file() else {
            let cache = Path::new(&config.data).join(prepared::REFERENCE);
            return Ok(ReferenceStore::open(splits, origin, &cache));
        };
        let given = read(Path::new(file), splits, &origin)
            .map_err(|e| e.with_hint("a file of --reference is what lpc-pipe score wrote with this --model and --data (none for --tune lora over an adapter); for another model as the reference name the model"))?;
        Ok(ReferenceStore::full(splits, origin, given))
    }
}
