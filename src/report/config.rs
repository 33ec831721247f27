//! Settings of `report`, and what a caller may add.

use crate::analysis::projection::{LEAST_POINTS, MOST_POINTS};
use crate::analysis::{CodeAccuracy, Labels, Method};
use crate::progress::{Progress, Silent};
use crate::seed::Seed;
use crate::settings::{Faults, Settings, settings};

settings! {
    /// Options of `report`.
    pub struct ReportConfig at "report" {
        /// How the posteriors of a run are laid out in the plane.
        pub projection: Method = Method::Tsne;
        /// Pairs that are laid out, at most 5000: a sample by id where the run has more. Time grows with their square.
        pub points: usize = 2000, used "projection = tsne or pca" if |c| c.projection != Method::None;
    }
}

impl Settings for ReportConfig {
    fn judge(&self, faults: &mut Faults) {
        let sound = (LEAST_POINTS..=MOST_POINTS).contains(&self.points);
        faults.check(sound, "points", format!("expected {LEAST_POINTS} to {MOST_POINTS}, got {}", self.points));
    }
}

/// What a report is to hold beside what the folder itself has.
#[derive(Clone)]
pub struct ReportOptions<'a> {
    /// Settings.
    pub config: ReportConfig,
    /// Seed of the permutations and of the projection.
    pub seed: Seed,
    /// Each code's accuracy on the pairs of each planted preference, where that is known of a run.
    pub preferences: Option<&'a CodeAccuracy>,
    /// Planted labels of each row of a run's posteriors, each labelling with its name.
    pub planted: &'a [(String, Labels)],
    /// Receives the steps of the projection.
    pub progress: &'a dyn Progress,
}

impl Default for ReportOptions<'_> {
    fn default() -> Self {
        let config = ReportConfig::default();
        ReportOptions { config, seed: Seed(0), preferences: None, planted: &[], progress: &Silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_points_and_points_of_no_projection_are_refused() {
        let faults = |projection: Method, points: usize| {
            ReportConfig { projection, points }.faults().into_iter().map(|f| f.message).collect::<Vec<_>>()
        };
        assert!(faults(Method::Tsne, MOST_POINTS).is_empty() && faults(Method::Pca, LEAST_POINTS).is_empty());
        assert_eq!(faults(Method::Tsne, MOST_POINTS + 1), ["expected 10 to 5000, got 5001"]);
        assert_eq!(faults(Method::Pca, 9), ["expected 10 to 5000, got 9"]);
        assert_eq!(faults(Method::None, 100), ["has no effect without projection = tsne or pca"]);
    }
}
