//! SimPO: length-normalised rewards and a target margin, no reference.

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `-ln sigmoid(beta (lp_w/|w| - lp_l/|l|) - gamma)`, gamma = gamma_beta_ratio * beta.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// Meng et al. 2024, "SimPO", Eq. 6.
pub(super) fn simpo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let chosen_rewards = ((&logps.chosen_logps / &logps.n_chosen)? * config.beta)?;
    let rejected_rewards = ((&logps.rejected_logps / &logps.n_rejected)? * config.beta)?;
    let margin = ((&chosen_rewards - &rejected_rewards)? - config.gamma_beta_ratio * config.beta)?;
    Ok(PreferenceLosses { losses: log_sigmoid(&margin)?.neg()?, chosen_rewards, rejected_rewards })
}
