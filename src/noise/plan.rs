//! What must be known of all pairs before the first can be decided: a survey of them, and its result.

use polars::prelude::DataFrame;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::{FlipKind, NoiseConfig};
use super::facts::{Chance, Facts, Rank};
use crate::error::{Error, Result};
use crate::seed::Seed;

/// Hint where no pair has two scores.
const NO_SCORES: &str = "--columns score_chosen=COLUMN score_rejected=COLUMN names columns that hold them, \
                         --flip-kind uniform and length need none";
/// Hint where no pair has an annotator.
pub(super) const NO_ANNOTATOR: &str = "a column `annotator` names them, --set prepare.noise.annotators=N simulates N";

/// The constants of a noise model on one set of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoisePlan {
    /// The kind of noise.
    pub kind: FlipKind,
    /// Pairs surveyed; 0 without a survey.
    pub rows: u64,
    /// Pairs surveyed that have a weight or a rank.
    pub judged: u64,
    /// Factor of the probabilities of `margin`, `length` and drawn annotators; 1 for other kinds.
    pub scale: f64,
    /// Pairs to single out.
    pub selected: u64,
    /// The rank of the last pair to single out.
    pub last: Option<Rank>,
}

impl NoisePlan {
    /// The plan of settings that need no survey ([`NoiseConfig::needs_survey`]).
    pub fn direct(config: &NoiseConfig) -> NoisePlan {
        let scale = if config.flip_kind.scaled() { 2.0 * config.flip_rate } else { 1.0 };
        NoisePlan { kind: config.flip_kind, rows: 0, judged: 0, scale, selected: 0, last: None }
    }

    /// Probability of a flip.
    pub(super) fn probability(&self, chance: Chance) -> f64 {
        match chance {
            Chance::Fixed(p) => p,
            Chance::Scaled(weight) => (self.scale * weight).min(1.0),
        }
    }

    /// Whether a pair with this rank is singled out.
    pub(super) fn selects(&self, rank: Option<Rank>) -> bool {
        match (rank, self.last) {
            (Some(rank), Some(last)) => rank.order(&last).is_le(),
            _ => false,
        }
    }
}

/// Collects what a plan depends on: 8 bytes a pair for `margin`, `length` and `annotator` (16 while finishing), 24 for
/// `ambiguous` and `weak-quality`, none for the others. The order in which pairs come does not matter.
///
/// The pairs must be those that [`super::apply`] gets: pairs that are dropped in between make rates inexact.
#[derive(Debug, Clone)]
pub struct NoiseSurvey {
    config: NoiseConfig,
    seed: Seed,
    rows: u64,
    weights: Vec<f64>,
    ranks: Vec<Rank>,
}

impl NoiseSurvey {
    /// An empty survey; `seed` is the run's.
    pub fn new(config: &NoiseConfig, seed: Seed) -> NoiseSurvey {
        NoiseSurvey { config: config.clone(), seed, rows: 0, weights: Vec::new(), ranks: Vec::new() }
    }

    /// Adds some pairs.
    ///
    /// # Errors
    /// As [`super::apply`].
    pub fn add(&mut self, frame: &DataFrame) -> Result<()> {
        self.rows += frame.height() as u64;
        if !self.config.needs_survey() {
            return Ok(());
        }
        let facts = Facts::open(frame, &self.config, self.seed)?;
        let rows = (0..frame.height()).into_par_iter();
        if self.config.flip_kind.selects() {
            let ranks: Vec<Option<Rank>> = rows.map(|i| facts.rank(i)).collect();
            self.ranks.extend(ranks.into_iter().flatten());
        } else {
            let chances: Vec<Chance> = rows.map(|i| facts.chance(i)).collect::<Result<_>>()?;
            self.weights.extend(chances.into_iter().filter_map(|chance| match chance {
                Chance::Scaled(weight) => Some(weight),
                Chance::Fixed(_) => None,
            }));
        }
        Ok(())
    }

    /// Joins two surveys of different pairs.
    #[must_use]
    pub fn join(mut self, other: NoiseSurvey) -> NoiseSurvey {
        self.rows += other.rows;
        self.weights.extend(other.weights);
        self.ranks.extend(other.ranks);
        self
    }

    /// Computes the plan.
    ///
    /// # Errors
    /// [`Error::Config`] where the kind of noise can say nothing about any of these pairs.
    pub fn finish(mut self) -> Result<NoisePlan> {
        let config = &self.config;
        let mut plan = NoisePlan { rows: self.rows, ..NoisePlan::direct(config) };
        if !config.needs_survey() || self.rows == 0 {
            return Ok(plan);
        }
        plan.judged = (self.weights.len() + self.ranks.len()) as u64;
        if plan.judged == 0 {
            let (wanted, advice) = match config.flip_kind {
                FlipKind::Annotator => ("that name their annotator", NO_ANNOTATOR),
                FlipKind::WeakQuality => ("with a chosen score above the rejected one", NO_SCORES),
                _ => ("with two scores", NO_SCORES),
            };
            let (kind, rows) = (config.flip_kind.name(), self.rows);
            let message = format!("--flip-kind {kind} needs pairs {wanted}, and none of the {rows} is one; {advice}");
            return Err(Error::config("prepare.noise.flip_kind", message));
        }
        if config.flip_kind.selects() {
            plan.selected = ((config.flip_rate * self.rows as f64).round() as u64).min(plan.judged);
            plan.last = match plan.selected {
                0 => None,
                n => Some(*self.ranks.select_nth_unstable_by(n as usize - 1, Rank::order).1),
            };
        } else {
            plan.scale = fitted(&mut self.weights, config.flip_rate);
        }
        Ok(plan)
    }
}

/// The scale at which the mean of `min(1, scale * weight)` is `rate`; weights are above 0 and get sorted.
fn fitted(weights: &mut [f64], rate: f64) -> f64 {
    if rate >= 1.0 {
        return f64::MAX;
    }
    weights.par_sort_unstable_by(f64::total_cmp);
    // Sums of the sorted weights do not depend on the order of the pairs.
    let mut sum = 0.0;
    let sums: Vec<f64> = weights
        .iter()
        .map(|w| {
            sum += w;
            sum
        })
        .collect();
    // With the `cut` largest at 1, the others share what is left of the expected number of flips.
    let wanted = rate * weights.len() as f64;
    let mut scale = 0.0;
    for cut in 0..weights.len() {
        let rest = weights.len() - cut;
        scale = (wanted - cut as f64).max(0.0) / sums[rest - 1];
        if scale * weights[rest - 1] <= 1.0 {
            break;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scales_worked_by_hand() {
        // 4 pairs at a rate of 0.25: one flip to share in proportion 1 : 1 : 2 : 4.
        assert_eq!(fitted(&mut [0.2, 0.1, 0.4, 0.1], 0.25), 1.25);
        // At 0.75 the two largest are certain: 3 = 2 + scale (0.1 + 0.1).
        assert!((fitted(&mut [0.1, 0.1, 0.2, 0.4], 0.75) - 5.0).abs() < 1e-12);
        assert!(fitted(&mut [1e-300, 0.5], 1.0) * 1e-300 >= 1.0);
        assert_eq!(fitted(&mut [], 0.5), 0.0);
    }

    proptest! {
        #[test]
        fn the_mean_is_the_rate(
            mut weights in prop::collection::vec(1e-12f64..1.0, 1..60),
            rate in 0.0f64..1.0,
            more in 0.0f64..0.3,
        ) {
            let scale = fitted(&mut weights, rate);
            let mean = weights.iter().map(|w| (scale * w).min(1.0)).sum::<f64>() / weights.len() as f64;
            prop_assert!((mean - rate).abs() < 1e-9, "{mean} for {rate}");
            prop_assert!(fitted(&mut weights, (rate + more).min(1.0)) >= scale * (1.0 - 1e-12));
        }
    }
}
