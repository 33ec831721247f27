//! Sequence log-probabilities under every code: what exact sums over codes are made of.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Policy, SequenceLogps};
use crate::batch::PairBatch;
use crate::error::Result;
use crate::model::Gradients;
use crate::nn::{Real, segment};

impl<T: Real> Policy<T> {
    /// Log-probabilities of the responses with each code's vector as z, code by code. The hidden states go through the
    /// head once for all codes; none without codes, or where that cannot be done: then [`Policy::logps`] for each.
    ///
    /// # Shapes
    /// h (N,H) -> K times up to two (B).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn logps_of_codes(
        &self,
        h: &Tensor,
        batch: &PairBatch,
        gradients: &Arc<Gradients>,
    ) -> Result<Option<Vec<SequenceLogps>>> {
        let Some(codes) = self.lpc.as_ref().and_then(|lpc| lpc.codes()) else { return Ok(None) };
        let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
        let rows = h.index_select(&index.to_device(h.device())?, 0)?;
        let found = self.decoder.token_logps_each(&rows, codes.vectors(), &batch.targets, gradients)?;
        let Some(tokens) = found else { return Ok(None) };
        let sums = segment::sum(&tokens, batch.responses.clone())?;
        let (sides, k) = sums.dims2()?;
        let pairs = batch.len();
        let side = |start: usize, code: usize| -> Result<Tensor> {
            Ok(sums.narrow(0, start, pairs)?.narrow(1, code, 1)?.squeeze(1)?.contiguous()?)
        };
        let of = |code: usize| -> Result<SequenceLogps> {
            let rejected = if sides > pairs { Some(side(pairs, code)?) } else { None };
            Ok(SequenceLogps { chosen: side(0, code)?, rejected })
        };
        (0..k).map(of).collect::<Result<_>>().map(Some)
    }
}
