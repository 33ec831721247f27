//! Supervised fine-tuning on the chosen response.

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses, log_ratios};
use crate::error::Result;

/// Mean negative log-likelihood of the chosen response per token.
///
/// Rewards are beta times the log-ratio to the starting model where that is known: the columns of preference accuracy
/// then mean the same as for other objectives.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub(super) fn sft(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let (chosen, rejected) = log_ratios(logps)?;
    Ok(PreferenceLosses {
        losses: (&logps.chosen_logps / &logps.n_chosen)?.neg()?,
        chosen_rewards: (chosen * config.beta)?,
        rejected_rewards: (rejected * config.beta)?,
    })
}
