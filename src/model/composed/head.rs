//! The head on any candle device: hidden rows in memory go there, and log-probabilities come back.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, Var};

use super::Parts;
use crate::model::params::Gradients;
use crate::nn::Real;
use crate::nn::composed::codes::{SPREAD, TokenLogpsOfCodes};
use crate::nn::composed::{CHUNK, TokenLogps};
use crate::nn::custom_op::input;

/// Codes that every row takes, and where there is one the further shift of each pair.
pub struct CodeShifts<'a> {
    /// The codes, then the pairs' own shifts: vectors (S,H), or biases (S,C).
    pub all: &'a Tensor,
    /// Tokens that take biases; none for vectors.
    pub tokens: Option<&'a Arc<Vec<u32>>>,
    /// K: the codes among them.
    pub shared: usize,
    /// Pair of every row, where rows take their pair's own shift.
    pub pair_of: Option<&'a [u32]>,
}

impl Parts {
    /// Log-probability of each row's target, with the biases of its pair where there are any.
    ///
    /// # Shapes
    /// h (R,H) · biases (B,V) and each row's pair (R) · targets (R) -> (R).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn token_logps<T: Real>(
        &self,
        h: &Tensor,
        biases: Option<(&Tensor, &[u32])>,
        targets: &[u32],
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<Tensor> {
        let index = |rows: &[u32]| Tensor::from_slice(rows, rows.len(), &self.place.device);
        let op = Head::<T> {
            parts: self.clone(),
            targets: index(targets)?,
            pair_of: biases.map(|(_, pair_of)| index(pair_of)).transpose()?,
            gradients: gradients.cloned(),
            kind: std::marker::PhantomData,
        };
        // Without biases the second argument is a variable of no other use: candle then runs the backward pass even
        // where the rows are constants.
        let second = match biases {
            Some((biases, _)) => biases.contiguous()?,
            None => Var::zeros(1, T::KIND, &Device::Cpu)?.as_tensor().clone(),
        };
        match gradients {
            Some(_) => h.contiguous()?.apply_op2(&second, op),
            None => h.contiguous()?.apply_op2_no_bwd(&second, &op),
        }
    }

    /// Log-probability of each row's target under every code, and last under its pair's own shift where it takes one.
    /// None where the entries of a shift are too far apart for products of their exponentials ([`SPREAD`]).
    ///
    /// # Shapes
    /// h (R,H) · targets (R) -> (R,K) or (R,K+1).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn token_logps_of_codes<T: Real>(
        &self,
        h: &Tensor,
        shifts: &CodeShifts<'_>,
        targets: &[u32],
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<Option<Tensor>> {
        let index = |rows: &[u32]| Tensor::from_slice(rows, rows.len(), &self.place.device);
        let own = shifts.pair_of.map(|of| of.iter().map(|&pair| shifts.shared as u32 + pair).collect::<Vec<_>>());
        let op = Codes::<T> {
            parts: self.clone(),
            targets: targets.to_vec(),
            targets_there: index(targets)?,
            tokens: shifts.tokens.cloned(),
            shared: shifts.shared,
            own_there: own.as_deref().map(index).transpose()?,
            own,
            rows_wanted: h.track_op(),
            gradients: gradients.cloned(),
            kind: std::marker::PhantomData,
        };
        let all = shifts.all.contiguous()?;
        if op.operation(&all)?.spread()? > SPREAD {
            return Ok(None);
        }
        Ok(Some(match gradients {
            Some(_) => h.contiguous()?.apply_op2(&all, op)?,
            None => h.contiguous()?.apply_op2_no_bwd(&all, &op)?,
        }))
    }
}

/// An argument in memory, as a tensor on a device.
fn tensor<T: Real>(storage: &CpuStorage, layout: &Layout, device: &Device, name: &str) -> Result<Tensor> {
    Tensor::from_slice(input::<T>(storage, layout, name)?, layout.shape(), device)
}

/// The operation from hidden rows to log-probabilities.
struct Head<T> {
    parts: Parts,
    targets: Tensor,
    /// Pair of every row, where the second argument holds biases (B,V).
    pair_of: Option<Tensor>,
    gradients: Option<Arc<Gradients>>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Real> Head<T> {
    fn operation(&self, second: &Tensor) -> Result<TokenLogps> {
        let w = self.parts.copies.read(&self.parts.head).detach();
        let biases = match &self.pair_of {
            Some(of) => Some((second.detach().to_device(&self.parts.place.device)?, of.clone())),
            None => None,
        };
        Ok(TokenLogps { w, targets: self.targets.clone(), wide: T::KIND, biases, chunk: CHUNK })
    }
}

impl<T: Real> CustomOp2 for Head<T> {
    fn name(&self) -> &'static str {
        "composed-token-logps"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let h = tensor::<T>(storage, layout, &self.parts.place.device, self.name())?;
        let operation = self.operation(&tensor::<T>(second, second_layout, &Device::Cpu, self.name())?)?;
        let logps = operation.forward(&h)?.to_device(&Device::Cpu)?.to_vec1::<T>()?;
        let rows = logps.len();
        Ok((T::to_cpu_storage_owned(logps), rows.into()))
    }

    fn bwd(
        &self,
        arg: &Tensor,
        second: &Tensor,
        _: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(gradients) = &self.gradients else {
            candle_core::bail!("composed-token-logps: a backward pass in evaluation")
        };
        let device = &self.parts.place.device;
        let (h, g) = (arg.detach().to_device(device)?, grad_res.contiguous()?.to_device(device)?);
        let position = self.parts.head.position;
        let (dh, dw, dbiases) = self.operation(second)?.backward(&h, &g, gradients.wants(position))?;
        if let Some(dw) = dw {
            gradients.add_tensor::<T>(position, &dw)?;
        }
        let dbiases = dbiases.map(|d| d.to_device(&Device::Cpu)).transpose()?;
        Ok((Some(dh.to_device(&Device::Cpu)?), dbiases))
    }
}

/// The operation from hidden rows and shifts to log-probabilities under every code.
struct Codes<T> {
    parts: Parts,
    targets: Vec<u32>,
    /// The same on the device.
    targets_there: Tensor,
    /// Tokens that take biases; none for shifts of hidden states.
    tokens: Option<Arc<Vec<u32>>>,
    /// K
    shared: usize,
    /// Shift of each row's pair, where it takes one.
    own: Option<Vec<u32>>,
    own_there: Option<Tensor>,
    rows_wanted: bool,
    gradients: Option<Arc<Gradients>>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Real> Codes<T> {
    /// The head's wide values: shifts of hidden states go through it unrounded.
    fn wide(&self) -> Result<Tensor> {
        self.parts.head.tensor.detach().to_dtype(T::KIND)
    }

    /// Shifts of the logits over the whole vocabulary (S,V), on the device.
    fn dense(&self, shifts: &Tensor) -> Result<Tensor> {
        let device = &self.parts.place.device;
        let shifts = shifts.detach();
        let Some(tokens) = &self.tokens else { return shifts.to_device(device)?.matmul(&self.wide()?.t()?) };
        let (rows, vocabulary) = (shifts.dim(0)?, self.parts.head.tensor.dim(0)?);
        let given = shifts.flatten_all()?.to_vec1::<T>()?;
        let mut dense = vec![T::zero(); rows * vocabulary];
        for (dense, biases) in dense.chunks_exact_mut(vocabulary).zip(given.chunks_exact(tokens.len().max(1))) {
            tokens.iter().zip(biases).for_each(|(&token, &bias)| dense[token as usize] = bias);
        }
        Tensor::from_vec(dense, (rows, vocabulary), device)
    }

    fn operation(&self, shifts: &Tensor) -> Result<TokenLogpsOfCodes> {
        Ok(TokenLogpsOfCodes {
            w: self.parts.copies.read(&self.parts.head).detach(),
            targets: self.targets_there.clone(),
            shifts: self.dense(shifts)?,
            shared: self.shared,
            own: self.own_there.clone(),
            chunk: CHUNK,
        })
    }
}

impl<T: Real> CustomOp2 for Codes<T> {
    fn name(&self) -> &'static str {
        "composed-token-logps-of-codes"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        shifts: &CpuStorage,
        shifts_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let h = tensor::<T>(storage, layout, &self.parts.place.device, self.name())?;
        let shifts = tensor::<T>(shifts, shifts_layout, &Device::Cpu, self.name())?;
        let logps = self.operation(&shifts)?.forward(&h)?;
        let shape = logps.shape().clone();
        Ok((T::to_cpu_storage_owned(logps.flatten_all()?.to_vec1::<T>()?), shape))
    }

    fn bwd(
        &self,
        h: &Tensor,
        shifts: &Tensor,
        _: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(gradients) = &self.gradients else {
            candle_core::bail!("composed-token-logps-of-codes: a backward pass in evaluation")
        };
        let device = &self.parts.place.device;
        let position = self.parts.head.position;
        let weight = gradients.wants(position);
        let g = grad_res.contiguous()?;
        let found = self.operation(shifts)?.backward(
            &h.detach().to_device(device)?,
            &g.to_device(device)?,
            self.rows_wanted,
            weight,
        )?;
        if let Some(dw) = found.weight {
            gradients.add_tensor::<T>(position, &dw)?;
        }
        // Adds what the targets' own logits contribute.
        let (s, vocabulary) = found.shifts.dims2()?;
        let mut dense = found.shifts.flatten_all()?.to_vec1::<T>()?;
        let taken = self.shared + usize::from(self.own.is_some());
        for (row, g) in g.flatten_all()?.to_vec1::<T>()?.chunks_exact(taken.max(1)).enumerate() {
            for (i, &g) in g.iter().enumerate() {
                let shift = if i < self.shared { i } else { self.own.as_ref().map_or(0, |own| own[row] as usize) };
                dense[shift * vocabulary + self.targets[row] as usize] += g;
            }
        }
        let dshifts = match &self.tokens {
            Some(tokens) => {
                let rows = dense.chunks_exact(vocabulary);
                let picked = rows.flat_map(|row| tokens.iter().map(|&token| row[token as usize])).collect::<Vec<T>>();
                Tensor::from_vec(picked, shifts.shape(), &Device::Cpu)?
            }
            None => {
                let dense = Tensor::from_vec(dense, (s, vocabulary), device)?;
                if weight {
                    let given = shifts.detach().to_device(device)?;
                    gradients.add_tensor::<T>(position, &dense.t()?.matmul(&given)?)?;
                }
                dense.matmul(&self.wide()?)?.to_device(&Device::Cpu)?
            }
        };
        let dh = found.rows.map(|rows| rows.to_device(&Device::Cpu)).transpose()?;
        Ok((dh, Some(dshifts)))
    }
}
