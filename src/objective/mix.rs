//! The likelihood of a label that may be flipped.

use candle_core::Tensor;

use super::config::ObjectiveConfig;
use super::logps::{PreferenceLogps, PreferenceLosses, rewards};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// Keeps the logarithm of a learned rate finite where the rate underflows.
const LEAST_RATE: f64 = 1e-20;

/// `-ln[(1-e) sigmoid(beta D) + e sigmoid(-beta D)]`, as a log-sum-exp of the two terms.
///
/// Unlike the loss of cDPO it is bounded as D falls: the gradient of a label that the policy firmly contradicts
/// vanishes. e is `flips` where given, one for each example, else `label_smoothing`.
///
/// # Shapes
/// (B) each.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub(super) fn mix(
    config: &ObjectiveConfig,
    logps: &PreferenceLogps,
    flips: Option<&Tensor>,
) -> Result<PreferenceLosses> {
    let (chosen_rewards, rejected_rewards, scaled) = rewards(config.beta, logps)?;
    let (right, wrong) = match flips {
        Some(e) => {
            let right = (log_sigmoid(&scaled)? + (1.0 - e)?.log()?)?;
            (right, Some((log_sigmoid(&scaled.neg()?)? + (e + LEAST_RATE)?.log()?)?))
        }
        None => {
            let e = config.label_smoothing;
            let right = (log_sigmoid(&scaled)? + (1.0 - e).ln())?;
            let wrong = if e == 0.0 { None } else { Some((log_sigmoid(&scaled.neg()?)? + e.ln())?) };
            (right, wrong)
        }
    };
    let losses = match wrong {
        None => right.neg()?,
        Some(wrong) => minus_log_sum(&right, &wrong)?,
    };
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}

/// `-ln(e^right + e^wrong)`, as `ln sigmoid(right - wrong) - right`.
pub(super) fn minus_log_sum(right: &Tensor, wrong: &Tensor) -> Result<Tensor> {
    Ok((log_sigmoid(&(right - wrong)?)? - right)?)
}
