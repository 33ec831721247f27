//! Sequence log-probabilities under every code: what exact sums over codes are made of.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Policy, States};
use crate::error::{Error, Result};
use crate::model::Gradients;
use crate::nn::{Real, segment};

/// Summed log-probabilities of a batch under every code.
///
/// # Shapes
/// Each (B,K).
///
/// # Units
/// Nats.
#[derive(Debug, Clone)]
pub struct CodeLogps {
    /// Chosen.
    pub chosen: Tensor,
    /// Rejected; absent in a batch for SFT.
    pub rejected: Option<Tensor>,
}

impl<T: Real> Policy<T> {
    /// Log-probabilities of the responses with each code alone. The hidden states go through the head once for all
    /// codes.
    ///
    /// # Errors
    /// [`Error::Run`] where there are no codes; [`Error::Tensor`].
    pub fn logps_of_codes(&self, states: &States, gradients: Option<&Arc<Gradients>>) -> Result<CodeLogps> {
        let codes = self.lpc.as_ref().and_then(|lpc| lpc.codes());
        let codes = codes.ok_or_else(|| Error::run("log-probabilities of codes without codes"))?;
        let batch = &states.batch;
        let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
        let rows = states.h.index_select(&index.to_device(states.h.device())?, 0)?;
        let shifts = self.shifts(codes.vectors())?;
        let reach = states.reach.as_ref();
        let tokens = self.decoder.token_logps_of_codes(&rows, shifts, &batch.targets, reach, gradients)?;
        let sums = segment::sum(&tokens, batch.responses.clone())?;
        let pairs = batch.len();
        let side = |start: usize| -> Result<Tensor> { Ok(sums.narrow(0, start, pairs)?.contiguous()?) };
        let rejected = if batch.responses.len() > pairs { Some(side(pairs)?) } else { None };
        Ok(CodeLogps { chosen: side(0)?, rejected })
    }
}
