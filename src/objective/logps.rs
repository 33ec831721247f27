//! What an objective reads and gives: log-probabilities of a batch, losses and implicit rewards.

use candle_core::Tensor;

use crate::error::Result;

/// Sequence log-probabilities of a batch.
///
/// # Shapes
/// Each (B).
///
/// # Units
/// Nats, summed over response tokens; lengths in tokens, as floats.
#[derive(Debug, Clone)]
pub struct PreferenceLogps {
    /// Policy, chosen.
    pub chosen_logps: Tensor,
    /// Policy, rejected.
    pub rejected_logps: Tensor,
    /// Reference, chosen; ignored where the objective has none.
    pub reference_chosen_logps: Tensor,
    /// Reference, rejected; ignored where the objective has none.
    pub reference_rejected_logps: Tensor,
    /// Tokens of the chosen response.
    pub n_chosen: Tensor,
    /// Tokens of the rejected response.
    pub n_rejected: Tensor,
}

impl PreferenceLogps {
    /// The same pairs with their sides swapped.
    #[must_use]
    pub fn swapped(&self) -> PreferenceLogps {
        let p = self.clone();
        PreferenceLogps {
            chosen_logps: p.rejected_logps,
            rejected_logps: p.chosen_logps,
            reference_chosen_logps: p.reference_rejected_logps,
            reference_rejected_logps: p.reference_chosen_logps,
            n_chosen: p.n_rejected,
            n_rejected: p.n_chosen,
        }
    }
}

/// Per-example results.
///
/// # Shapes
/// Each (B).
#[derive(Debug, Clone)]
pub struct PreferenceLosses {
    /// Loss, differentiable.
    pub losses: Tensor,
    /// beta times the chosen side's log-ratio, in the objective's own reduction.
    pub chosen_rewards: Tensor,
    /// beta times the rejected side's log-ratio.
    pub rejected_rewards: Tensor,
}

impl PreferenceLosses {
    /// Implicit reward margins, chosen minus rejected.
    ///
    /// # Shapes
    /// (B).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn margins(&self) -> Result<Tensor> {
        Ok((&self.chosen_rewards - &self.rejected_rewards)?)
    }
}

/// Implicit rewards of summed log-ratios, chosen and rejected, and their margin: beta times each.
pub(super) fn rewards(beta: f64, logps: &PreferenceLogps) -> Result<(Tensor, Tensor, Tensor)> {
    let (chosen, rejected) = log_ratios(logps)?;
    let (chosen, rejected) = ((chosen * beta)?, (rejected * beta)?);
    let margin = (&chosen - &rejected)?;
    Ok((chosen, rejected, margin))
}

/// Summed log-ratios against the reference: chosen, rejected.
pub(super) fn log_ratios(logps: &PreferenceLogps) -> Result<(Tensor, Tensor)> {
    Ok((
        (&logps.chosen_logps - &logps.reference_chosen_logps)?,
        (&logps.rejected_logps - &logps.reference_rejected_logps)?,
    ))
}
