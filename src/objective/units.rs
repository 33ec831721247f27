//! In what units losses and margins of each objective are weighed.

use super::config::{OWN_DEFAULT, ObjectiveConfig, ObjectiveKind, Reduction};
use super::{hoelder, ropo};

/// The factor of SFT's rewards: SFT has no beta, and DPO's default makes their margins comparable.
const SFT_BETA: f64 = 0.1;

impl ObjectiveConfig {
    /// The factor of the implicit rewards: beta, for SFT a constant. The configuration must be
    /// [`resolved`](Self::resolved).
    pub(super) fn reward_beta(&self) -> f64 {
        if self.name == ObjectiveKind::Sft && self.beta == OWN_DEFAULT { SFT_BETA } else { self.beta }
    }

    /// The scale of the loss where it is weighed against a divergence: 1 for negative log-likelihoods; for IPO the loss
    /// at a margin of 0, `(1 / 2 beta)^2`. ROPO and Hölder-DPO are no likelihoods: theirs is the slope at a margin of 0
    /// over that of DPO, so that a small margin is as much evidence for a code as under DPO. The configuration must be
    /// [`resolved`](Self::resolved).
    pub fn loss_unit(&self) -> f64 {
        match self.pair_loss() {
            ObjectiveKind::Ipo => (0.5 / self.beta).powi(2),
            ObjectiveKind::Ropo => ropo::slope(self.ropo_alpha, 0.5) / 0.5,
            ObjectiveKind::Hoelder => hoelder::slope(self.hoelder_gamma, 0.5) / 0.5,
            _ => 1.0,
        }
    }

    /// The reward margin at which the slope of the loss is about half of that at 0, so that a margin of this size
    /// is neither small nor large: 1 for logistic losses (exactly, ln 3), 1/4 for IPO, whose slope is 0 at 1/2, and
    /// computed from their constants for ROPO (1.69 by default) and Hölder-DPO (1.21).
    pub fn margin_unit(&self) -> f64 {
        match self.pair_loss() {
            ObjectiveKind::Ipo => 0.25,
            ObjectiveKind::Ropo => half_slope(|p| ropo::slope(self.ropo_alpha, p)),
            ObjectiveKind::Hoelder => half_slope(|p| hoelder::slope(self.hoelder_gamma, p)),
            _ => 1.0,
        }
    }

    /// The slopes of the reward margin in the summed log-probabilities of chosen and rejected (that of rejected without
    /// its sign), given their numbers of tokens. The configuration must be [`resolved`](Self::resolved).
    pub fn margin_scales(&self, n_chosen: usize, n_rejected: usize) -> (f64, f64) {
        let mean = match self.pair_loss() {
            ObjectiveKind::Simpo => true,
            ObjectiveKind::Ipo => self.reduction == Reduction::Mean,
            _ => false,
        };
        let beta = self.reward_beta();
        let scale = |n: usize| if mean { beta / n.max(1) as f64 } else { beta };
        (scale(n_chosen), scale(n_rejected))
    }
}

/// The positive margin at which a slope, given as a function of the margin's sigmoid, has fallen to half of that at 0.
/// The slope may rise before it falls.
fn half_slope(slope: impl Fn(f64) -> f64) -> f64 {
    let half = slope(0.5) / 2.0;
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..60 {
        let middle: f64 = 0.5 * (low + high);
        if slope(1.0 / (1.0 + (-middle).exp())) > half { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{config, gradients, sigmoid};
    use super::*;
    use crate::objective::RepoBase;

    #[test]
    fn slopes_halve_at_the_unit_and_count_as_much_as_those_of_dpo() {
        for name in [ObjectiveKind::Ropo, ObjectiveKind::Hoelder] {
            let objective = config(name);
            let unit = objective.margin_unit();
            let slopes = gradients(&objective, &[0.0, 10.0 * unit]);
            assert!((slopes[1] / slopes[0] - 0.5).abs() < 1e-9, "{name:?}: {slopes:?}");
            let dpo = gradients(&config(ObjectiveKind::Dpo), &[0.0])[0];
            assert!((slopes[0] / objective.loss_unit() - dpo).abs() < 1e-12, "{name:?}");
        }
        // p = (13 + sqrt 113) / 28, and p (1-p) = sqrt(1/32).
        assert!((config(ObjectiveKind::Ropo).margin_unit() - 1.687_5).abs() < 1e-3);
        assert!((config(ObjectiveKind::Hoelder).margin_unit() - 1.211_8).abs() < 1e-3);
        // A large gamma raises the slope before it falls.
        let steep = ObjectiveConfig { hoelder_gamma: 8.0, ..config(ObjectiveKind::Hoelder) };
        assert!(hoelder::slope(8.0, 0.8) > hoelder::slope(8.0, 0.5));
        let at = hoelder::slope(8.0, sigmoid(steep.margin_unit()));
        assert!((at / hoelder::slope(8.0, 0.5) - 0.5).abs() < 1e-9);
        assert_eq!(config(ObjectiveKind::Drdpo).margin_unit(), 1.0);
        let ipo = ObjectiveConfig { repo_base: RepoBase::Ipo, ..config(ObjectiveKind::Repo) };
        assert_eq!((ipo.loss_unit(), ipo.margin_unit()), (25.0, 0.25));
        assert_eq!(ipo.margin_scales(2, 4), (0.05, 0.025));
    }
}
