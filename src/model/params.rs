//! Named parameters in a fixed order, and the sums of their gradients.
//!
//! candle's backward pass allocates, zeroes and adds a fresh tensor for every
//! weight in every step, and builds gradients of frozen weights too. The
//! decoder's operations write into [`Gradients`] instead, which also makes
//! accumulation over micro-batches free.

use std::collections::HashMap;
use std::sync::{Mutex, mpsc};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::Real;
use crate::nn::custom_op::lock;

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

impl Param {
    /// A trainable parameter of the backbone, in memory.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the values do not fill the shape.
    pub fn backbone<T: Real>(name: String, values: Vec<T>, shape: Vec<usize>) -> Result<Param> {
        let group = if shape.len() == 1 { Group::BackboneNorm } else { Group::Backbone };
        Ok(Param { var: Var::from_vec(values, shape, &Device::Cpu)?, name, trainable: true, group })
    }

    /// One trainable side of an adapter.
    ///
    /// # Shapes
    /// A (r,I), or B (O,r).
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn adapter(name: String, tensor: Tensor) -> Result<Param> {
        Ok(Param { name, var: Var::from_tensor(&tensor)?, trainable: true, group: Group::Adapter })
    }
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

    /// The parameters themselves, sorted by name.
    pub fn into_list(self) -> Vec<Param> {
        self.list
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

    /// The parameters of the function before any training, for the reference: all but the latent part's, and without
    /// adapters where those add nothing yet.
    pub fn starting(&self) -> impl Iterator<Item = &Param> {
        let zero = |p: &Param| {
            let sum = p.var.abs().and_then(|a| a.sum_all()).and_then(|s| s.to_dtype(DType::F64)?.to_vec0::<f64>());
            sum.is_ok_and(|s| s == 0.0)
        };
        let idle = self.iter().filter(|p| p.group == Group::Adapter && p.name.contains(".lora_B.")).all(zero);
        self.iter().filter(move |p| p.group != Group::Latent && !(idle && p.group == Group::Adapter))
    }
}

/// Sums of gradients, one slot for each parameter: numbers in memory, or a tensor where the parameter is on another
/// device.
#[derive(Debug)]
pub struct Gradients {
    slots: Vec<Mutex<Option<CpuStorage>>>,
    tensors: Vec<Mutex<Option<Tensor>>>,
    shapes: Vec<(candle_core::Shape, bool)>,
    on_device: Vec<bool>,
    /// Who is told of layers whose gradients are complete.
    complete: Mutex<Option<mpsc::Sender<usize>>>,
}

impl Gradients {
    /// Empty sums for these parameters.
    pub fn new(params: &Params) -> Gradients {
        Gradients {
            slots: params.iter().map(|_| Mutex::new(None)).collect(),
            tensors: params.iter().map(|_| Mutex::new(None)).collect(),
            shapes: params.iter().map(|p| (p.var.shape().clone(), p.trainable)).collect(),
            on_device: params.iter().map(|p| !p.var.device().is_cpu()).collect(),
            complete: Mutex::new(None),
        }
    }

    /// Empty sums for the latent part alone: the backbone counts as frozen.
    pub fn of_latent(params: &Params) -> Gradients {
        let shapes = params.iter().map(|p| (p.var.shape().clone(), p.trainable && p.group == Group::Latent)).collect();
        Gradients { shapes, ..Gradients::new(params) }
    }

    /// Empty sums that are tensors for all of the backbone, as if it were on another device: for tests, which have
    /// none.
    pub fn as_tensors(params: &Params) -> Gradients {
        let on_device = params.iter().map(|p| p.group != Group::Latent).collect();
        Gradients { on_device, ..Gradients::new(params) }
    }

    /// Whether there is a sum for this parameter.
    pub fn has(&self, position: usize) -> bool {
        let tensor = lock(&self.tensors[position]).is_some();
        tensor || lock(&self.slots[position]).is_some()
    }

    /// Adds a tensor to a parameter's sum; nothing happens where it is frozen.
    ///
    /// # Shapes
    /// That of the parameter.
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
        let mut slot = lock(&self.tensors[position]);
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
            if let Some(sum) = lock(slot).as_mut() {
                f(position, sum)?;
            }
        }
        Ok(())
    }

    /// Makes sure that a parameter has a sum: zeros where it has none.
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

    /// From now on `complete` is told of layers whose gradients a backward pass has computed, by the position of their
    /// first norm; nobody with `None`.
    pub fn tell(&self, complete: Option<mpsc::Sender<usize>>) {
        *lock(&self.complete) = complete;
    }

    /// Says that the backward pass has been through the layer whose first norm has this position.
    pub fn completed(&self, norm: usize) {
        if let Some(complete) = &*lock(&self.complete) {
            // Nobody listens any more where the sums have failed, which ends the step.
            let _ = complete.send(norm);
        }
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
        self.with_sum::<T, ()>(position, |sum| {
            sum.map(f);
            Ok(())
        })
    }

    /// Calls `f` with a parameter's sum, to add to, where its gradient is wanted, and without one where it is frozen.
    ///
    /// # Errors
    /// Those of `f`; [`candle_core::Error`] where the sum has another number type.
    pub fn with_sum<T: Real, R>(
        &self,
        position: usize,
        f: impl FnOnce(Option<&mut [T]>) -> Result<R>,
    ) -> candle_core::Result<R> {
        if !self.wants(position) {
            return Ok(f(None)?);
        }
        let mut slot = lock(&self.slots[position]);
        let elements = self.shapes[position].0.elem_count();
        let storage = slot.get_or_insert_with(|| T::to_cpu_storage_owned(vec![T::zero(); elements]));
        Ok(f(Some(T::storage_mut(storage)?))?)
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
            let mut slot = lock(slot);
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
            *lock(slot) = None;
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
        if let Some(sum) = &*lock(&self.tensors[position]) {
            return Ok(Some(sum.to_device(&Device::Cpu)?));
        }
        let slot = lock(&self.slots[position]);
        let shape = self.shapes[position].0.clone();
        Ok(match &*slot {
            Some(CpuStorage::F32(v)) => Some(Tensor::from_slice(v, shape, &Device::Cpu)?),
            Some(CpuStorage::F64(v)) => Some(Tensor::from_slice(v, shape, &Device::Cpu)?),
            _ => None,
        })
    }
}
