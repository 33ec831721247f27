//! The likelihood of a label that was flipped with a known probability.

use candle_core::Tensor;

use super::{ObjectiveConfig, PreferenceLogps, PreferenceLosses, log_ratios};
use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// `-ln[(1-e) sigmoid(beta D) + e sigmoid(-beta D)]`, as a log-sum-exp of the two terms.
///
/// Unlike cDPO it is bounded in D on both sides: a label that the policy firmly
/// contradicts loses its pull.
pub(super) fn mix(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let (chosen, rejected) = log_ratios(logps)?;
    let chosen_rewards = (chosen * config.beta)?;
    let rejected_rewards = (rejected * config.beta)?;
    let scaled = (&chosen_rewards - &rejected_rewards)?;
    let e = config.label_smoothing;
    let right = (log_sigmoid(&scaled)? + (1.0 - e).ln())?;
    let losses = if e == 0.0 {
        right.neg()?
    } else {
        let wrong = (log_sigmoid(&scaled.neg()?)? + e.ln())?;
        // ln(e^right + e^wrong) = right - ln sigmoid(right - wrong)
        let excess: Tensor = (&right - wrong)?;
        (log_sigmoid(&excess)? - right)?
    };
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}
