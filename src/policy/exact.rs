//! Sequence log-probabilities under every code: what exact sums over codes are made of.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Policy, SequenceLogps, States};
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
    /// With each pair's own z (B), where one was given.
    pub own: Option<SequenceLogps>,
}

impl<T: Real> Policy<T> {
    /// Log-probabilities of the responses with each code alone, and with each pair's own z where given, from one
    /// product of the hidden states with the head.
    ///
    /// # Shapes
    /// own (B,H), or (B,C) for biases of C tokens -> (B,K) each, and (B) with the own z.
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`Error::Run`] where there are no codes; [`Error::Tensor`].
    pub fn logps_of_codes(
        &self,
        states: &States,
        own: Option<&Tensor>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<CodeLogps> {
        let codes = self.lpc.as_ref().and_then(|lpc| lpc.codes());
        let codes = codes.ok_or_else(|| Error::run("log-probabilities of codes without codes"))?;
        let batch = &states.batch;
        let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
        let rows = states.h.index_select(&index.to_device(states.h.device())?, 0)?;
        let shifts = self.shifts(codes.vectors())?;
        let reach = states.reach.as_ref();
        let own = own.map(|z| (z, batch.pair_of.as_slice()));
        let tokens = self.decoder.token_logps_of_codes(&rows, shifts, own, &batch.targets, reach, gradients)?;
        let sums = segment::sum(&tokens, batch.responses.clone())?;
        let (pairs, k) = (batch.len(), codes.vectors().dim(0)?);
        let both = batch.responses.len() > pairs;
        let side = |start: usize| sums.narrow(0, start, pairs);
        let of_codes = |start: usize| -> Result<Tensor> { Ok(side(start)?.narrow(1, 0, k)?.contiguous()?) };
        let of_own = |start: usize| -> Result<Tensor> { Ok(side(start)?.narrow(1, k, 1)?.squeeze(1)?) };
        let own = match own {
            Some(_) => {
                let rejected = if both { Some(of_own(pairs)?) } else { None };
                Some(SequenceLogps { chosen: of_own(0)?, rejected })
            }
            None => None,
        };
        let rejected = if both { Some(of_codes(pairs)?) } else { None };
        Ok(CodeLogps { chosen: of_codes(0)?, rejected, own })
    }
}
