//! Learned flip rates of objective mix: one of the policy's own, or one for each code.

use candle_core::{Device, Tensor, Var};

use super::Policy;
use crate::error::Result;
use crate::lpc::{flips, names};
use crate::model::{Group, Param};
use crate::nn::Real;

/// Parameter of the one learned flip rate, its logit (1).
const FLIP_LOGIT: &str = "objective.flip_logit";

/// The parameter of one learned flip rate for all labels: a policy that has it among its parameters learns the rate.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn parameter<T: Real>() -> Result<Param> {
    let var = Var::from_tensor(&Tensor::zeros(1, T::KIND, &Device::Cpu)?)?;
    Ok(Param { name: FLIP_LOGIT.into(), var, trainable: true, group: Group::Latent })
}

impl<T: Real> Policy<T> {
    /// Sets every learned flip rate to `rate`, which is above 0 and below one half.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn start_flips(&self, rate: f64) -> Result<()> {
        for param in self.params.iter().filter(|p| [FLIP_LOGIT, names::FLIP_LOGITS].contains(&p.name.as_str())) {
            let start = param.var.as_detached_tensor().zeros_like()? + flips::logit(rate);
            param.var.set(&start?)?;
        }
        Ok(())
    }

    /// The one learned flip rate, where there is one.
    ///
    /// # Shapes
    /// (1).
    ///
    /// # Units
    /// A probability.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn flip_rate(&self) -> Result<Option<Tensor>> {
        let Ok(position) = self.params.position(FLIP_LOGIT) else { return Ok(None) };
        flips::rate(self.params.get(position).var.as_tensor()).map(Some)
    }
}
