//! DPO and its two label-noise relatives, on summed log-ratios D.

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses, rewards};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `-ln sigmoid(beta D)`.
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
/// Rafailov et al. 2023, "Direct preference optimization", Eq. 7.
pub(super) fn dpo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    smoothed(config, logps, -1.0, 0.0)
}

/// `-(1-e) ln sigmoid(beta D) - e ln sigmoid(-beta D)`.
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
/// Mitchell 2023, "A note on DPO with noisy preferences".
pub(super) fn cdpo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let e = config.label_smoothing;
    smoothed(config, logps, -(1.0 - e), -e)
}

/// `[-(1-e) ln sigmoid(beta D) + e ln sigmoid(-beta D)] / (1-2e)`.
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
/// Chowdhury et al. 2024, "Provably robust DPO", Eq. 12.
pub(super) fn rdpo(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let e = config.label_smoothing;
    smoothed(config, logps, -(1.0 - e) / (1.0 - 2.0 * e), e / (1.0 - 2.0 * e))
}

/// `a ln sigmoid(beta D) + b ln sigmoid(-beta D)`.
fn smoothed(config: &ObjectiveConfig, logps: &PreferenceLogps, a: f64, b: f64) -> Result<PreferenceLosses> {
    let (chosen_rewards, rejected_rewards, scaled) = rewards(config.beta, logps)?;
    let mut losses = (log_sigmoid(&scaled)? * a)?;
    if b != 0.0 {
        losses = (losses + (log_sigmoid(&scaled.neg()?)? * b)?)?;
    }
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}
