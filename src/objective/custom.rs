//! An objective that a program defines itself.

use serde::Serialize;

use super::{ObjectiveConfig, PreferenceLogps, PreferenceLosses};
use crate::error::Result;

/// A user-defined objective. The named objective of the same configuration still decides whether there is a reference,
/// and gives beta and the margin unit by which codes are scaled.
#[derive(Debug, Clone, Copy)]
pub struct CustomObjective {
    /// Its name in `config.toml` and `summary.json`.
    pub name: &'static str,
    /// Losses and implicit rewards, element by element: where there are codes, an element is a pair under one code.
    pub losses: fn(&ObjectiveConfig, &PreferenceLogps) -> Result<PreferenceLosses>,
}

impl PartialEq for CustomObjective {
    fn eq(&self, other: &CustomObjective) -> bool {
        self.name == other.name
    }
}

impl Serialize for CustomObjective {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.name)
    }
}
