//! The operation from hidden rows to token log-probabilities in candle's graph.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::model::linear::Weight;
use crate::model::params::Gradients;
use crate::nn::custom_op::{input, lock};
use crate::nn::exponentials::Room;
use crate::nn::real::with_slice;
use crate::nn::token_logps::{self, ForwardLogps};
use crate::nn::{Precision, Real};

/// `log_softmax(W h)[target]` over h.
pub(super) struct Head<T> {
    pub weight: Weight,
    pub targets: Vec<u32>,
    pub precision: Precision,
    pub gradients: Option<Arc<Gradients>>,
    /// Room for exponentials that the backward pass reads again.
    pub room: Option<Arc<Room>>,
    pub kept: Mutex<Option<Kept<T>>>,
}

/// What the backward pass needs of the forward pass.
pub(super) enum Kept<T> {
    /// How the rows were scored.
    Trained(ForwardLogps<T>),
    /// Expected row of the head for each row (R,H).
    Frozen(Vec<T>),
}

impl<T: Real> CustomOp1 for Head<T> {
    fn name(&self) -> &'static str {
        "token-logps"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let h = input::<T>(storage, layout, self.name())?;
        let hidden = layout.shape().dims2()?.1;
        let frozen = self.gradients.as_ref().is_some_and(|gradients| !gradients.wants(self.weight.position));
        let (logps, kept) = self.weight.with(|w| {
            if frozen {
                let (got, expected) = token_logps::forward_expecting(h, w, &self.targets, hidden, self.precision);
                (got.logps, Kept::Frozen(expected))
            } else {
                let room = self.room.clone();
                let mut scored = token_logps::forward(h, w, &self.targets, hidden, self.precision, room);
                (std::mem::take(&mut scored.logps), Kept::Trained(scored))
            }
        })?;
        *lock(&self.kept) = Some(kept);
        Ok((T::to_cpu_storage_owned(logps), self.targets.len().into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(gradients) = &self.gradients else { candle_core::bail!("token-logps: a backward pass in evaluation") };
        let dlogps = grad_res.to_vec1::<T>()?;
        let Some(kept) = lock(&self.kept).take() else { candle_core::bail!("token-logps: backward before forward") };
        let dh = match kept {
            Kept::Frozen(mut expected) => {
                self.weight.with(|w| token_logps::backward_expecting(&mut expected, w, &self.targets, &dlogps))?;
                expected
            }
            Kept::Trained(scored) => gradients.with_sum::<T, _>(self.weight.position, |dw| {
                with_slice::<T, _>(arg, |h| {
                    with_slice::<T, _>(&self.weight.tensor, |w| {
                        token_logps::backward(h, w, &self.targets, &scored, &dlogps, self.precision, dw)
                    })
                })?
            })?,
        };
        Ok(Some(Tensor::from_vec(dh, arg.shape(), arg.device())?))
    }
}
