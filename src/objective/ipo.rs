//! IPO on per-token means or sums of log-ratios.

use super::config::{ObjectiveConfig, Reduction};
use super::logps::{PreferenceLogps, PreferenceLosses, log_ratios};
use crate::error::Result;

/// `(D' - 1 / (2 beta))^2`.
///
/// TRL averages log-ratios over each side's own tokens, and says that the authors confirmed it; OpenRLHF sums. The
/// target 1 / (2 beta) is not comparable between the two.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Nats squared.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Azar et al. 2023, "A general theoretical paradigm to understand learning from human preferences", Eq. 17, beta being
/// their tau.
pub(super) fn ipo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let (mut chosen, mut rejected) = log_ratios(logps)?;
    if config.reduction == Reduction::Mean {
        chosen = (chosen / &logps.n_chosen)?;
        rejected = (rejected / &logps.n_rejected)?;
    }
    let losses = ((&chosen - &rejected)? - 1.0 / (2.0 * config.beta))?.sqr()?;
    Ok(PreferenceLosses {
        losses,
        chosen_rewards: (chosen * config.beta)?,
        rejected_rewards: (rejected * config.beta)?,
    })
}
