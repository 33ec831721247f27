//! Hölder-DPO: a bounded loss whose gradient vanishes where the policy contradicts the label, and what it tells of the
//! labels.

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses, rewards};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `-(1+g) p^g + g p^(1+g)`, p = sigmoid(beta D): the density power divergence's form.
///
/// Minus its slope in beta D is `g (1+g) p^g (1-p)^2`: it falls to 0 as p does, so that a wrong label far out has no
/// influence (it redescends). The loss lies between -1 and 0 and is no negative log-likelihood.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// None: powers of probabilities.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Fujisawa, Adachi, Osborne 2025, "Scalable valuation of human feedback through provably robust model alignment"
/// (NeurIPS), arXiv 2505.17859.
pub(super) fn hoelder(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let (chosen_rewards, rejected_rewards, u) = rewards(config.beta, logps)?;
    let g = config.hoelder_gamma;
    let log_p = log_sigmoid(&u)?;
    let losses = (((&log_p * (1.0 + g))?.exp()? * g)? - ((log_p * g)?.exp()? * (1.0 + g))?)?;
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}

/// Minus the slope in beta D where the label has the probability p.
pub(super) fn slope(g: f64, p: f64) -> f64 {
    g * (1.0 + g) * p.powf(g) * (1.0 - p).powi(2)
}

/// The share of wrong labels that Hölder-DPO estimates from the reward margins of the pairs that it was trained on, and
/// which pairs it suspects: the whole number of pairs that the share makes, those with the lowest margins.
///
/// With p the sigmoid of a margin, the share is `1 - mean(p) mean(p^g) / mean(p^(1+g))`: 0 where all p are equal, and
/// never negative or 1, because p and p^g rise together. Of equal margins the earlier pair is suspected first. None
/// without pairs.
///
/// # Units
/// Margins in nats, in the observed order.
///
/// # Source
/// As the loss.
///
/// ```
/// use lpc_pipe::objective::hoelder_suspects;
///
/// // Three labels that the policy is sure of and one that it contradicts: p = 1, 1, 1, 0 gives
/// // 1 - (3/4)^2 / (3/4) = 1/4, which is one pair of four.
/// let (share, suspects) = hoelder_suspects(&[60.0, 50.0, -70.0, 55.0], 2.0).unwrap();
/// assert!((share - 0.25).abs() < 1e-12);
/// assert_eq!(suspects, [false, false, true, false]);
/// ```
pub fn hoelder_suspects(margins: &[f64], gamma: f64) -> Option<(f64, Vec<bool>)> {
    if margins.is_empty() {
        return None;
    }
    let n = margins.len() as f64;
    // Relative to the largest p: the share does not change, and no power of a small p underflows.
    let log_p = |u: &f64| if *u > 0.0 { -(-u).exp().ln_1p() } else { u - u.exp().ln_1p() };
    let top = margins.iter().map(log_p).fold(f64::NEG_INFINITY, f64::max);
    let mean = |power: f64| margins.iter().map(|u| (power * (log_p(u) - top)).exp()).sum::<f64>() / n;
    let share = (1.0 - mean(1.0) * mean(gamma) / mean(1.0 + gamma)).max(0.0);
    let mut order: Vec<usize> = (0..margins.len()).collect();
    order.sort_by(|&a, &b| margins[a].total_cmp(&margins[b]).then(a.cmp(&b)));
    let mut suspects = vec![false; margins.len()];
    // Rounding must not take a pair from a share that makes a whole number of them.
    let count = (n * share + 1e-9).floor() as usize;
    order.iter().take(count).for_each(|&i| suspects[i] = true);
    Some((share, suspects))
}

#[cfg(test)]
mod tests {
    use super::super::ObjectiveKind;
    use super::super::fixture::{DIFFERENCES, config, gradients, losses, sigmoid};
    use super::*;

    #[test]
    fn worked_by_hand() {
        let hoelder = config(ObjectiveKind::Hoelder);
        // p = 1/2: -3/4 + 2/8 = -1/2.
        assert!((losses(&hoelder, &[0.0])[0] + 0.5).abs() < 1e-12);
        // u = 2, p = 0.88079708: -3 * 0.77580349 + 2 * 0.68332545.
        assert!((losses(&hoelder, &[20.0])[0] + 0.960_759_58).abs() < 1e-7);
        let ends = losses(&hoelder, &[-1e4, 1e4]);
        assert!(ends[0].abs() < 1e-12 && (ends[1] + 1.0).abs() < 1e-12, "{ends:?}");
    }

    #[test]
    fn the_gradient_redescends() {
        for g in [0.5, 1.0, 2.0, 6.0] {
            let hoelder = ObjectiveConfig { hoelder_gamma: g, ..config(ObjectiveKind::Hoelder) };
            for (got, d) in gradients(&hoelder, &DIFFERENCES).iter().zip(DIFFERENCES) {
                let p = sigmoid(0.1 * d);
                let weight = g * (1.0 + g) * p.powf(g) * (1.0 - p).powi(2);
                assert!((got + 0.1 * weight).abs() < 1e-12, "gamma {g}, D {d}: {got}");
                assert!((weight - slope(g, p)).abs() < 1e-12);
            }
            let far = gradients(&hoelder, &[-3000.0])[0];
            assert!(far.abs() < 1e-12, "a label far out has no influence");
        }
    }

    #[test]
    fn the_share_of_wrong_labels() {
        // Equal margins tell nothing.
        let (share, suspects) = hoelder_suspects(&[0.3; 5], 2.0).unwrap();
        assert!(share.abs() < 1e-12 && suspects == [false; 5]);
        // p = 0.9, 0.8, 0.2 by hand, gamma 1: 1 - (1.9/3)^2 / (1.49/3).
        let margin = |p: f64| (p / (1.0 - p)).ln();
        let (share, suspects) = hoelder_suspects(&[margin(0.9), margin(0.2), margin(0.8)], 1.0).unwrap();
        assert!((share - (1.0 - (1.9f64 / 3.0).powi(2) / (1.49 / 3.0))).abs() < 1e-12, "{share}");
        assert_eq!(suspects, [false; 3], "a fifth of three pairs is none");
        // Two of ten that are contradicted firmly, one of two equal ones being the earlier.
        let mut margins = vec![8.0; 10];
        (margins[3], margins[7]) = (-9.0, -9.0);
        let (share, suspects) = hoelder_suspects(&margins, 2.0).unwrap();
        assert!((share - 0.2).abs() < 1e-2, "{share}");
        let found: Vec<usize> = (0..10).filter(|&i| suspects[i]).collect();
        let floor = (10.0 * share).floor() as usize;
        assert_eq!(found, [3, 7][..floor]);
        assert_eq!(hoelder_suspects(&[], 2.0), None);
        // Margins so low that powers of p underflow: what counts is how they compare.
        let low = hoelder_suspects(&[-900.0, -900.0, -900.0, -2000.0], 2.0).unwrap();
        assert!((low.0 - 0.25).abs() < 1e-12 && low.1 == [false, false, false, true]);
    }
}
