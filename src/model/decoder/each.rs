//! Token log-probabilities under every one of a few shifts of the hidden states: the exact sum over codes.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::{Decoder, failed, input};
use crate::error::Result;
use crate::model::linear::Weight;
use crate::model::params::Gradients;
use crate::nn::real::with_slice;
use crate::nn::{Precision, Real, gather_each};

impl<T: Real> Decoder<T> {
    /// `log_softmax(W (h_r + e_k))` of every row's target under every shift, with one product for all of them; none where
    /// the fused operation cannot run.
    ///
    /// # Shapes
    /// h (R, H) · shifts (K, H) · targets (R), each in the vocabulary -> (R, K).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn token_logps_each(
        &self,
        h: &Tensor,
        shifts: &Tensor,
        targets: &[u32],
        gradients: &Arc<Gradients>,
    ) -> Result<Option<Tensor>> {
        let head = &self.head.tensor;
        let fused = self.place().is_none() && h.device().is_cpu() && head.dtype() == T::KIND;
        if !fused || targets.iter().any(|&id| id as usize >= self.config.vocab_size) {
            return Ok(None);
        }
        let op = EachHead::<T> {
            weight: self.head.clone(),
            targets: targets.to_vec(),
            precision: self.precision,
            gradients: gradients.clone(),
            lse: Mutex::new(Vec::new()),
        };
        Ok(Some(Tensor::cat(&[h, shifts], 0)?.contiguous()?.apply_op1(op)?))
    }
}

struct EachHead<T> {
    weight: Weight,
    targets: Vec<u32>,
    precision: Precision,
    gradients: Arc<Gradients>,
    lse: Mutex<Vec<T>>,
}

impl<T: Real> CustomOp1 for EachHead<T> {
    fn name(&self) -> &'static str {
        "token-logps-each"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = input::<T>(storage, layout, self.name())?;
        let (all, hidden) = layout.shape().dims2()?;
        let rows = self.targets.len();
        let got = with_slice::<T, _>(&self.weight.tensor, |w| {
            gather_each::forward(x, w, &self.targets, hidden, self.precision)
        })
        .map_err(failed)?;
        *self.lse.lock().unwrap_or_else(PoisonError::into_inner) = got.lse;
        Ok((T::to_cpu_storage_owned(got.logps), (rows, all - rows).into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dlogps = grad_res.flatten_all()?.to_vec1::<T>()?;
        let lse = self.lse.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dx = Vec::new();
        let mut all = |dw: Option<&mut [T]>| -> Result<()> {
            dx = with_slice::<T, _>(arg, |x| {
                with_slice::<T, _>(&self.weight.tensor, |w| {
                    gather_each::backward(x, w, &self.targets, &lse, &dlogps, self.precision, dw)
                })
            })??;
            Ok(())
        };
        if self.gradients.wants(self.weight.position) {
            let mut outcome = Ok(());
            self.gradients.add::<T>(self.weight.position, |dw| outcome = all(Some(dw)))?;
            outcome.map_err(failed)?;
        } else {
            all(None).map_err(failed)?;
        }
        Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
    }
}
