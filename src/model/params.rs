//! Named parameters in a fixed order, and the one place where their gradients add up.
//!
//! candle's backward pass allocates, zeroes and adds a fresh tensor for every
//! weight in every step, and builds gradients of frozen weights too. The
//! decoder's operations write into [`Gradients`] instead, which also makes
//! accumulation over micro-batches free.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, Tensor, Var};

use super::composed::in_memory;
use crate::error::{Error, Result};
use crate::nn::Real;

/// Parameters that share a learning rate and weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Matrices of the backbone.
    Backbone,
    /// Vectors of the backbone (norms, biases): no weight decay.
    BackboneNorm,
    /// Codebook, prior and posterior.
    Latent,
    /// Low-rank additions to the backbone's matrices, trained as these are.
    Adapter,
}

/// One parameter.
#[derive(Debug, Clone)]
pub struct Param {
    /// Name in checkpoints, as Hugging Face writes it.
    pub name: String,
    /// The values.
    pub var: Var,
    /// Whether training changes it.
    pub trainable: bool,
    /// Learning-rate group.
    pub group: Group,
}

/// All parameters, sorted by name, so that nothing depends on hash order.
#[derive(Debug, Clone, Default)]
pub struct Params {
    list: Vec<Param>,
    index: HashMap<String, usize>,
}

impl Params {
    /// From parameters in any order.
    ///
    /// # Errors
    /// [`Error::Run`] for two of one name.
    pub fn new(mut list: Vec<Param>) -> Result<Params> {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = list.windows(2).find(|w| w[0].name == w[1].name) {
            return Err(Error::run(format!("two parameters named {}", twice[0].name)));
        }
        let index = list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(Params { list, index })
    }

    /// The parameters, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Position of a name.
    ///
    /// # Errors
    /// [`Error::Run`] where there is none.
    pub fn position(&self, name: &str) -> Result<usize> {
        self.index.get(name).copied().ok_or_else(|| Error::run(format!("no parameter named {name}")))
    }

    /// A parameter by position.
    pub fn get(&self, position: usize) -> &Param {
        &self.list[position]
    }

    /// Numbers in all trainable parameters.
    pub fn trainable_elements(&self) -> usize {
        self.iter().filter(|p| p.trainable).map(|p| p.var.elem_count()).sum()
    }

    /// Numbers in all parameters.
    pub fn elements(&self) -> usize {
        self.iter().map(|p| p.var.elem_count()).sum()
    }

    /// What the function computes before any training, for the reference: all but the latent part, and but adapters
    /// that add nothing yet.
    pub fn starting(&self) -> impl Iterator<Item = &Param> {
        let zero = |p: &Param| {
            let sum = p.var.abs().and_then(|a| a.sum_all()).and_then(|s| s.to_dtype(DType::F64)?.to_vec0::<f64>());
            sum.is_ok_and(|s| s == 0.0)
        };
        let idle = self.iter().filter(|p| p.group == Group::Adapter && p.name.contains(".lora_B.")).all(zero);
        self.iter().filter(move |p| p.group != Group::Latent && !(idle && p.group == Group::Adapter))
    }

    /// What training changes, name -> tensor, for writing.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.iter().filter(|p| p.trainable).map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
    }

    /// Overwrites what training changes from tensors of the same names and shapes.
    ///
    /// # Errors
    /// [`Error::Run`] naming what is missing or has another shape.
    pub fn restore(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for param in self.iter().filter(|p| p.trainable) {
            let found = tensors.get(&param.name).ok_or_else(|| Error::run(format!("no tensor {}", param.name)))?;
            if found.shape() != param.var.shape() {
                return Err(Error::run(format!(
                    "tensor {}: expected shape {:?}, got {:?}",
                    param.name,
                    param.var.shape(),
                    found.shape()
                )));
            }
            param.var.set(&found.to_dtype(param.var.dtype())?.to_device(param.var.device())?)?;
        }
        Ok(())
    }
}

/// BLAKE3 over the backbone's weights, sorted by name, lower-case hex: the content of a model, whatever its place is
/// called.
///
/// # Errors
/// [`Error::Tensor`].
pub fn fingerprint<'a, T: Real>(params: impl Iterator<Item = &'a Param>) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 weights");
    hash_weights::<T>(params, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Adds names and numbers of all parameters but the latent part's, sorted by name.
///
/// # Errors
/// [`Error::Tensor`].
pub fn hash_weights<'a, T: Real>(params: impl Iterator<Item = &'a Param>, hasher: &mut blake3::Hasher) -> Result<()> {
    let mut sorted: Vec<&Param> = params.filter(|p| p.group != Group::Latent).collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for param in sorted {
        hasher.update(param.name.as_bytes());
        in_memory::<T, _>(param.var.as_tensor(), |values| {
            // SAFETY: plain numbers without padding, read as bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), std::mem::size_of_val(values)) };
            hasher.update(bytes);
        })?;
    }
    Ok(())
}

/// Sums of gradients, one slot for each parameter: numbers in memory, or a tensor where the parameter is on another
/// device.
#[derive(Debug)]
pub struct Gradients {
    slots: Vec<Mutex<Option<CpuStorage>>>,
    tensors: Vec<Mutex<Option<Tensor>>>,
    shapes: Vec<(candle_core::Shape, bool)>,
    on_device: Vec<bool>,
}

impl Gradients {
    /// Empty sums for these parameters.
    pub fn new(params: &Params) -> Gradients {
        Gradients {
            slots: params.iter().map(|_| Mutex::new(None)).collect(),
            tensors: params.iter().map(|_| Mutex::new(None)).collect(),
            shapes: params.iter().map(|p| (p.var.shape().clone(), p.trainable)).collect(),
            on_device: params.iter().map(|p| !p.var.device().is_cpu()).collect(),
        }
    }

    /// Empty sums for the latent part alone: the backbone counts as frozen.
    pub fn of_latent(params: &Params) -> Gradients {
        let shapes = params.iter().map(|p| (p.var.shape().clone(), p.trainable && p.group == Group::Latent)).collect();
        Gradients { shapes, ..Gradients::new(params) }
    }

    /// Empty sums that are tensors for all of the backbone, wherever it is.
    pub fn as_tensors(params: &Params) -> Gradients {
        let on_device = params.iter().map(|p| p.group != Group::Latent).collect();
        Gradients { on_device, ..Gradients::new(params) }
    }

    /// Whether there is a sum for this parameter.
    pub fn has(&self, position: usize) -> bool {
        let tensor = self.tensors[position].lock().unwrap_or_else(PoisonError::into_inner).is_some();
        tensor || self.slots[position].lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Adds a tensor to a parameter's sum; nothing happens where it is frozen.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn add_tensor<T: Real>(&self, position: usize, gradient: &Tensor) -> candle_core::Result<()> {
        if !self.wants(position) {
            return Ok(());
        }
        let gradient = gradient.detach().to_dtype(T::KIND)?;
        if !self.on_device[position] {
            let values = gradient.flatten_all()?.to_vec1::<T>()?;
            return self.add::<T>(position, |sum| sum.iter_mut().zip(values).for_each(|(s, v)| *s += v));
        }
        let mut slot = self.tensors[position].lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(match slot.take() {
            None => gradient,
            Some(sum) => (sum + gradient)?,
        });
        Ok(())
    }

    /// Lets `f` read and replace every sum that is a tensor, in the parameters' order.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn each_tensor(&self, mut f: impl FnMut(usize, &mut Tensor) -> Result<()>) -> Result<()> {
        for (position, slot) in self.tensors.iter().enumerate() {
            if let Some(sum) = slot.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                f(position, sum)?;
            }
        }
        Ok(())
    }

    /// A sum of zeros where a parameter on another device has none.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn at_least_zero<T: Real>(&self, position: usize, device: &Device) -> Result<()> {
        if self.on_device[position] {
            let zeros = Tensor::zeros(self.shapes[position].0.clone(), T::KIND, device)?;
            return Ok(self.add_tensor::<T>(position, &zeros)?);
        }
        Ok(self.add::<T>(position, |_| {})?)
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether this parameter's gradient is wanted.
    pub fn wants(&self, position: usize) -> bool {
        self.shapes[position].1
    }

    /// Lets `f` add to a parameter's sum; nothing happens where it is frozen.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the sum has another number type.
    pub fn add<T: Real>(&self, position: usize, f: impl FnOnce(&mut [T])) -> candle_core::Result<()> {
        if !self.wants(position) {
            return Ok(());
        }
        let mut slot = self.slots[position].lock().unwrap_or_else(PoisonError::into_inner);
        let elements = self.shapes[position].0.elem_count();
        let storage = slot.get_or_insert_with(|| T::to_cpu_storage_owned(vec![T::zero(); elements]));
        f(T::storage_mut(storage)?);
        Ok(())
    }

    /// Adds the gradients that candle's own backward pass found for these parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn absorb<T: Real>(&self, params: &Params, store: &mut GradStore) -> Result<()> {
        for (position, param) in params.iter().enumerate() {
            let Some(gradient) = store.remove(param.var.as_tensor()) else { continue };
            self.add_tensor::<T>(position, &gradient)?;
        }
        Ok(())
    }

    /// Lets `f` read and change every sum that exists, in the parameters' order.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn each<T: Real>(&self, mut f: impl FnMut(usize, &mut [T]) -> Result<()>) -> Result<()> {
        for (position, slot) in self.slots.iter().enumerate() {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(storage) = slot.as_mut() {
                f(position, T::storage_mut(storage)?)?;
            }
        }
        Ok(())
    }

    /// Sets all sums to zero and keeps their memory.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn clear<T: Real>(&self) -> Result<()> {
        use rayon::prelude::*;
        for slot in &self.tensors {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.each::<T>(|_, sum| {
            sum.par_chunks_mut(1 << 18).for_each(|part| part.fill(T::zero()));
            Ok(())
        })
    }

    /// A copy of one sum.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn tensor(&self, position: usize) -> Result<Option<Tensor>> {
        if let Some(sum) = &*self.tensors[position].lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(sum.to_device(&Device::Cpu)?));
        }
        let slot = self.slots[position].lock().unwrap_or_else(PoisonError::into_inner);
        let shape = self.shapes[position].0.clone();
        Ok(match &*slot {
            Some(CpuStorage::F32(v)) => Some(Tensor::from_slice(v, shape, &Device::Cpu)?),
            Some(CpuStorage::F64(v)) => Some(Tensor::from_slice(v, shape, &Device::Cpu)?),
            _ => None,
        })
    }
}
