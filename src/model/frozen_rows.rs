//! Token log-probabilities of frozen rows: training changes only the head and one shift for each pair.
//!
//! The rows' gradient would be a third of the head's work in training. It is left out here, and the shifts' gradient is
//! summed over each pair's rows before the product with the head.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};

use super::linear::Weight;
use super::params::Gradients;
use crate::error::Result;
use crate::nn::custom_op::{input, lock};
use crate::nn::exponentials::Room;
use crate::nn::real::with_slice;
use crate::nn::token_logps::{self, ForwardLogps};
use crate::nn::{Precision, Real};

/// `log_softmax(W (h + z))[target]` over (W, z), with h constant.
pub(super) struct FrozenRows<T> {
    /// h (R,H).
    pub rows: Tensor,
    /// Pair of every row, where there are shifts.
    pub pair_of: Option<Vec<u32>>,
    /// Token of every row.
    pub targets: Vec<u32>,
    /// W (V,H).
    pub head: Weight,
    /// Operands of the products.
    pub precision: Precision,
    /// Where the head's gradient goes.
    pub gradients: Arc<Gradients>,
    /// Room for exponentials that the backward pass reads again.
    pub room: Option<Arc<Room>>,
    /// What the backward pass needs: the shifted rows, and how they were scored.
    pub kept: Mutex<Option<(Vec<T>, ForwardLogps<T>)>>,
}

impl<T: Real> FrozenRows<T> {
    /// `h + z`.
    fn shifted(&self, z: &[T]) -> Result<Vec<T>> {
        let hidden = self.rows.dim(1)?;
        let mut rows = with_slice::<T, _>(&self.rows, <[T]>::to_vec)?;
        if let Some(pair_of) = &self.pair_of {
            for (row, &pair) in rows.chunks_exact_mut(hidden).zip(pair_of) {
                let z = &z[pair as usize * hidden..][..hidden];
                row.iter_mut().zip(z).for_each(|(h, &z)| *h += z);
            }
        }
        Ok(rows)
    }
}

impl<T: Real> CustomOp2 for FrozenRows<T> {
    fn name(&self) -> &'static str {
        "token-logps-of-frozen"
    }

    fn cpu_fwd(
        &self,
        head: &CpuStorage,
        head_layout: &Layout,
        z: &CpuStorage,
        z_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let w = input::<T>(head, head_layout, self.name())?;
        let rows = self.shifted(input::<T>(z, z_layout, self.name())?)?;
        let (hidden, room) = (head_layout.shape().dims2()?.1, self.room.clone());
        let mut scored = token_logps::forward(&rows, w, &self.targets, hidden, self.precision, room);
        let logps = std::mem::take(&mut scored.logps);
        *lock(&self.kept) = Some((rows, scored));
        Ok((T::to_cpu_storage_owned(logps), self.targets.len().into()))
    }

    fn bwd(
        &self,
        head: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad_res: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dlogps = grad_res.to_vec1::<T>()?;
        let kept = lock(&self.kept).take();
        let Some((rows, scored)) = &kept else { candle_core::bail!("token-logps-of-frozen: backward before forward") };
        let wanted = match &self.pair_of {
            Some(pair_of) => token_logps::RowGradient::Sums { of: pair_of, groups: z.dim(0)? },
            None => token_logps::RowGradient::Nothing,
        };
        let dz = self.gradients.with_sum::<T, _>(self.head.position, |dw| {
            with_slice::<T, _>(head, |w| {
                token_logps::backward_for(rows, w, &self.targets, scored, &dlogps, self.precision, wanted, dw)
            })
        })?;
        // The head's gradient is in the sums already; candle itself needs none for a variable.
        let dz = match self.pair_of {
            Some(_) => Some(Tensor::from_vec(dz, z.shape(), &Device::Cpu)?),
            None => None,
        };
        Ok((None, dz))
    }
}
