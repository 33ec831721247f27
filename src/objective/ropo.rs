//! ROPO: a loss whose gradient weight falls where the policy firmly contradicts the label.

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses, rewards};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `4a / (1+a)^2 [-ln sigmoid(u) + a sigmoid(-u)]`, u = beta D.
///
/// The second term is bounded, and its gradient vanishes on both sides; the first keeps a share of DPO's gradient, so
/// that the loss is not bounded as a whole. With p = sigmoid(u), the slope in u is minus `4a / (1+a)^2 (1-p) (1 + a p)`:
/// at most 1, reached at p = (a-1) / 2a. The loss is no negative log-likelihood: exp(-loss) of both labels does not sum
/// to a constant.
///
/// Only the loss of the paper is here, not its rounds of filtering and rejection sampling.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Nats, scaled.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Liang et al. 2025, "ROPO: Robust preference optimization for large language models" (ICML), arXiv 2404.04102.
pub(super) fn ropo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let (chosen_rewards, rejected_rewards, u) = rewards(config.beta, logps)?;
    let a = config.ropo_alpha;
    let bounded = (log_sigmoid(&u.neg()?)?.exp()? * a)?;
    let losses = ((bounded - log_sigmoid(&u)?)? * scale(a))?;
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}

/// Minus the slope in u where the label has the probability p.
pub(super) fn slope(a: f64, p: f64) -> f64 {
    scale(a) * (1.0 - p) * (1.0 + a * p)
}

/// The factor by which the largest slope is 1.
fn scale(a: f64) -> f64 {
    4.0 * a / (1.0 + a).powi(2)
}

#[cfg(test)]
mod tests {
    use super::super::ObjectiveKind;
    use super::super::fixture::{DIFFERENCES, config, gradients, losses, sigmoid};
    use super::*;

    #[test]
    fn worked_by_hand() {
        // 56/225 [ln 2 + 7] at the reference.
        let ropo = config(ObjectiveKind::Ropo);
        assert!((losses(&ropo, &[0.0])[0] - 56.0 / 225.0 * (std::f64::consts::LN_2 + 7.0)).abs() < 1e-12);
        // alpha 3, u = 2: 12/16 [0.12692801 + 3 * 0.11920292].
        let three = ObjectiveConfig { ropo_alpha: 3.0, ..ropo };
        assert!((losses(&three, &[20.0])[0] - 0.363_402_58).abs() < 1e-8);
    }

    #[test]
    fn the_gradient_has_the_papers_weight() {
        for a in [3.0, 14.0, 30.0] {
            let ropo = ObjectiveConfig { ropo_alpha: a, ..config(ObjectiveKind::Ropo) };
            for (g, d) in gradients(&ropo, &DIFFERENCES).iter().zip(DIFFERENCES) {
                let p = sigmoid(0.1 * d);
                let weight = 4.0 * a / (1.0 + a).powi(2) * ((1.0 - p) + a * p * (1.0 - p));
                assert!((g + 0.1 * weight).abs() < 1e-12, "alpha {a}, D {d}: {g}");
                assert!(weight <= 1.0 && (weight - slope(a, p)).abs() < 1e-12);
            }
            // The largest weight is 1, where p = (a-1) / 2a.
            assert!((slope(a, (a - 1.0) / (2.0 * a)) - 1.0).abs() < 1e-12);
        }
    }
}
