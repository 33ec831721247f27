//! A reference policy that is another model than the one that training starts from.

use crate::error::Result;
use crate::policy::{Policy, saved};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::train::{TrainConfig, device, ranks};

/// The model that `train.reference` names, without z, whatever stands beside it.
#[derive(Debug)]
pub struct OtherReference {
    /// The model, on the device on which the run computes.
    pub policy: Policy<f32>,
    /// [`super::fingerprint`] of its weights.
    pub fingerprint: String,
}

impl OtherReference {
    /// Opens the model; `source` is what `train.reference` names, resolved.
    ///
    /// # Errors
    /// [`crate::Error::Model`] where it cannot be read; [`crate::Error::Config`] where the device is not there.
    pub fn open(
        config: &TrainConfig,
        source: &ModelSource,
        vocab_size: usize,
        seed: Seed,
        longest: usize,
    ) -> Result<OtherReference> {
        let mut policy = saved::open::<f32>(source, vocab_size, seed, longest)?;
        let fingerprint = super::fingerprint(&policy)?;
        let precision = config.operands(policy.decoder.config.hidden_size);
        if let Some(place) = device::open(config.device, config.kernels, precision, ranks::local_rank())? {
            policy = policy.placed(place)?;
        }
        policy.decoder.precision = precision;
        Ok(OtherReference { policy, fingerprint })
    }
}
