//! RE-PO: labels that are right with a probability which is inferred for every pair.

use candle_core::Tensor;

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses};
use super::mix::minus_log_sum;
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `-ln[h e^(-L) + (1-h) e^(-L')]`, L being the base loss of the observed label, L' of the opposite one, and h the clean
/// rate.
///
/// Its gradient is that of RE-PO's weighted loss `w L + (1-w) L'` with the clean probability
/// `w = h P / (h P + (1-h) (1-P))`, `P = sigmoid(L' - L)`, held constant: this w is where `w L + (1-w) L' + KL(w, h)` is
/// least over w, and the loss is its least value. The divergence has to be in the value where the loss is weighed
/// against others: without it a code that firmly contradicts the label (w = 0) would explain it as well as one that
/// firmly agrees. With DPO's loss it is the negative log-likelihood of [`mix`](super::ObjectiveKind::Mix) at e = 1-h.
/// With h = 1 it is the base loss.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Those of the base loss.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Cao et al. 2026, "RE-PO: Robust enhanced policy optimization as a general framework for LLM alignment" (ICLR), arXiv
/// 2509.24159, with one reliability for all annotators.
pub(super) fn repo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let observed = base(config).losses(logps)?;
    let losses = match joint(config, logps, &observed.losses)? {
        None => observed.losses,
        Some((right, wrong)) => minus_log_sum(&right, &wrong)?,
    };
    Ok(PreferenceLosses { losses, ..observed })
}

/// The probability w of each pair that its observed label is right, a constant.
///
/// # Shapes
/// (B).
pub(super) fn clean(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<Tensor> {
    let losses = base(config).losses(logps)?.losses;
    match joint(config, logps, &losses)? {
        None => Ok(losses.ones_like()?.detach()),
        Some((right, wrong)) => Ok(log_sigmoid(&(right - wrong)?)?.exp()?.detach()),
    }
}

fn base(config: &ObjectiveConfig) -> ObjectiveConfig {
    ObjectiveConfig { name: config.repo_base.kind(), ..config.clone() }
}

/// `ln h - L` and `ln(1-h) - L'`; none where no label is wrong.
fn joint(config: &ObjectiveConfig, logps: &PreferenceLogps, losses: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let h = config.repo_clean_rate;
    if h == 1.0 {
        return Ok(None);
    }
    let swapped = base(config).losses(&logps.swapped())?.losses;
    Ok(Some((losses.affine(-1.0, h.ln())?, swapped.affine(-1.0, (1.0 - h).ln())?)))
}

/// Least distance of a clean rate from 0 and 1: at either it would stay there whatever the pairs say.
const LEAST: f64 = 1e-6;

impl ObjectiveConfig {
    /// RE-PO's clean rate after a step whose pairs have this mean clean probability: `(1-a) h + a mean(w)`, kept off 0
    /// and 1.
    pub fn next_clean_rate(&self, rate: f64, mean: f64) -> f64 {
        let share = self.repo_ema;
        if rate == 1.0 { 1.0 } else { ((1.0 - share) * rate + share * mean).clamp(LEAST, 1.0 - LEAST) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{ObjectiveKind, RepoBase};
    use super::super::fixture::{DIFFERENCES, config, gradients, losses, pairs, sigmoid};
    use super::*;

    const BASES: [RepoBase; 3] = [RepoBase::Dpo, RepoBase::Ipo, RepoBase::Simpo];

    /// RE-PO over a base, and the base with the same constants.
    fn over(repo_base: RepoBase, repo_clean_rate: f64) -> (ObjectiveConfig, ObjectiveConfig) {
        let name = ObjectiveKind::Repo;
        let repo = ObjectiveConfig { name, repo_base, repo_clean_rate, ..ObjectiveConfig::default() }.resolved();
        let base = ObjectiveConfig { name: repo_base.kind(), ..repo.clone() };
        (repo, base)
    }

    fn probabilities(config: &ObjectiveConfig, differences: &[f64]) -> Vec<f64> {
        config.clean_probabilities(&pairs(differences).1).unwrap().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let repo = config(ObjectiveKind::Repo);
        // u = 2, p = 0.88079708, h = 0.9: -ln(0.79271737 + 0.01192029), w = 0.79271737 / 0.80463766.
        assert!((losses(&repo, &[20.0])[0] - 0.217_363_212).abs() < 1e-8);
        assert!((probabilities(&repo, &[20.0])[0] - 0.985_185_515).abs() < 1e-8);
        assert!((probabilities(&repo, &[0.0])[0] - 0.9).abs() < 1e-12);
        // IPO, beta 0.1, D = 1: L' - L = 6^2 - 4^2 = 20.
        let (ipo, _) = over(RepoBase::Ipo, 0.9);
        let p = sigmoid(20.0);
        assert!((probabilities(&ipo, &[1.0])[0] - 0.9 * p / (0.9 * p + 0.1 * (1.0 - p))).abs() < 1e-12);
    }

    #[test]
    fn with_clean_labels_it_is_its_base() {
        for base in BASES {
            let (repo, base) = over(base, 1.0);
            assert_eq!(losses(&repo, &DIFFERENCES), losses(&base, &DIFFERENCES));
            assert_eq!(gradients(&repo, &DIFFERENCES), gradients(&base, &DIFFERENCES));
            assert_eq!(probabilities(&repo, &DIFFERENCES), [1.0; 7]);
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_weighted_loss() {
        for base in BASES {
            let (repo, base) = over(base, 0.8);
            let w = probabilities(&repo, &DIFFERENCES);
            let swapped = |chosen_first: bool| {
                let (chosen, logps) = pairs(&DIFFERENCES);
                let logps = if chosen_first { logps } else { logps.swapped() };
                let losses = base.losses(&logps).unwrap().losses;
                let slopes = losses.sum_all().unwrap().backward().unwrap();
                (losses.to_vec1::<f64>().unwrap(), slopes.get(&chosen).unwrap().to_vec1::<f64>().unwrap())
            };
            let ((right, right_slopes), (wrong, wrong_slopes)) = (swapped(true), swapped(false));
            for (i, g) in gradients(&repo, &DIFFERENCES).iter().enumerate() {
                // w as the paper writes it.
                let p = sigmoid(wrong[i] - right[i]);
                assert!((w[i] - 0.8 * p / (0.8 * p + 0.2 * (1.0 - p))).abs() < 1e-12);
                let wanted = w[i] * right_slopes[i] + (1.0 - w[i]) * wrong_slopes[i];
                assert!((g - wanted).abs() < 1e-9 * (1.0 + wanted.abs()), "{:?}: {g} {wanted}", base.name);
            }
        }
    }

    #[test]
    fn over_dpo_it_is_the_likelihood_of_a_mixed_label() {
        let (repo, _) = over(RepoBase::Dpo, 0.8);
        let mix = ObjectiveConfig { label_smoothing: 0.2, ..config(ObjectiveKind::Mix) };
        for (a, b) in losses(&repo, &DIFFERENCES).iter().zip(losses(&mix, &DIFFERENCES)) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn the_clean_rate_follows_the_pairs() {
        let repo = config(ObjectiveKind::Repo);
        assert!((repo.next_clean_rate(0.9, 0.5) - 0.86).abs() < 1e-12);
        let all = ObjectiveConfig { repo_ema: 1.0, ..repo };
        assert_eq!(all.next_clean_rate(0.9, 1.0), 1.0 - 1e-6);
        assert_eq!(all.next_clean_rate(0.9, 0.0), 1e-6);
        assert_eq!(all.next_clean_rate(1.0, 0.3), 1.0);
    }
}
