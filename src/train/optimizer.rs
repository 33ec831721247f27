//! AdamW in place, and the global norm of a gradient.
//!
//! The moments of candle's own AdamW are private: a run that used it could not be resumed with the same bits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use super::config::TrainConfig;
use crate::error::{Error, Result};
use crate::model::{Gradients, Group, Param, Params};
use crate::nn::Real;
use crate::nn::real::wide;
use crate::weights::safetensors::TensorEntry;

/// Numbers that one task updates.
const PER_TASK: usize = 1 << 16;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices in the backbone.
    pub weight_decay: f64,
    /// Steps before the backbone's first one: its bias correction does not count them.
    pub latent_steps: u64,
}

impl AdamWConfig {
    /// Those of a configuration, whose latent part is trained alone for so many steps.
    pub fn of(config: &TrainConfig, latent_steps: u64) -> AdamWConfig {
        AdamWConfig {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            latent_steps,
        }
    }
}

/// Learning rates of one step, and what it takes off the latent part's weights.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LearningRates {
    /// Backbone.
    pub backbone: f64,
    /// Inference networks, and learned flip rates.
    pub latent: f64,
    /// Codes, and what stands in their place.
    pub codes: f64,
    /// Share of the networks' matrices that the step takes off.
    pub latent_decay: f64,
    /// Share of the codes that it takes off. Their learning rate has a unit, which a share must not have.
    pub code_decay: f64,
}

/// AdamW (Loshchilov and Hutter 2019, Algorithm 2, with torch's order of operations).
#[derive(Debug)]
pub struct AdamW<T> {
    config: AdamWConfig,
    /// First and second moments by parameter; empty where frozen.
    moments: Vec<(Vec<T>, Vec<T>)>,
    /// First and second moments of parameters whose gradients are tensors, where they have had one.
    tensors: BTreeMap<usize, (Tensor, Tensor)>,
    /// Steps taken.
    pub steps: u64,
}

/// The update of one parameter in memory.
struct Update<'a, T> {
    gradient: &'a [T],
    moments: Mutex<&'a mut (Vec<T>, Vec<T>)>,
    rule: UpdateRule,
}

/// The numbers of one parameter's update.
#[derive(Clone, Copy)]
struct UpdateRule {
    config: AdamWConfig,
    lr: f64,
    /// Share of the weights that the step takes off.
    decay: f64,
    correction1: f64,
    correction2: f64,
    scale: f64,
}

impl<T: Real> InplaceOp1 for Update<'_, T> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("adamw needs contiguous parameters")
        };
        let values = &mut T::storage_mut(storage)?[start..end];
        let mut moments = self.moments.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (first, second) = &mut **moments;
        let rule = self.rule;
        values
            .par_chunks_mut(PER_TASK)
            .zip(first.par_chunks_mut(PER_TASK))
            .zip(second.par_chunks_mut(PER_TASK))
            .zip(self.gradient.par_chunks(PER_TASK))
            .for_each(|(((values, first), second), gradient)| wide(|| rule.apply(values, first, second, gradient)));
        Ok(())
    }
}

impl UpdateRule {
    #[inline(always)]
    fn apply<T: Real>(&self, values: &mut [T], first: &mut [T], second: &mut [T], gradient: &[T]) {
        let c = &self.config;
        let (b1, b2) = (T::of(c.beta1), T::of(c.beta2));
        let (rest1, rest2) = (T::of(1.0 - c.beta1), T::of(1.0 - c.beta2));
        let keep = T::of(1.0 - self.decay);
        let rate = T::of(self.lr / self.correction1);
        let root = T::of(self.correction2.sqrt());
        let (epsilon, scale) = (T::of(c.epsilon), T::of(self.scale));
        for (((w, m), v), g) in values.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = *g * scale;
            *m = b1 * *m + rest1 * g;
            *v = b2 * *v + rest2 * g * g;
            *w = *w * keep - rate * *m / (v.sqrt() / root + epsilon);
        }
    }
}

impl UpdateRule {
    /// [`UpdateRule::apply`] for a parameter on any device. Returns the moments after the step.
    ///
    /// # Shapes
    /// All that of the parameter.
    fn apply_tensors(
        &self,
        value: &Var,
        (first, second): &(Tensor, Tensor),
        gradient: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let c = &self.config;
        let g = (gradient * self.scale)?;
        let m = ((first * c.beta1)? + (&g * (1.0 - c.beta1))?)?;
        let v = ((second * c.beta2)? + (g.sqr()? * (1.0 - c.beta2))?)?;
        let root = ((v.sqrt()? / self.correction2.sqrt())? + c.epsilon)?;
        let change = ((&m / root)? * (self.lr / self.correction1))?;
        value.set(&((value.as_detached_tensor() * (1.0 - self.decay))? - change)?)?;
        Ok((m, v))
    }
}

impl<T: Real> AdamW<T> {
    /// Zero moments for these parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a device has no room for them.
    pub fn new(config: AdamWConfig, params: &Params) -> Result<AdamW<T>> {
        let moments = params
            .iter()
            .map(|p| {
                let in_memory = p.trainable && p.var.device().is_cpu();
                let n = if in_memory { p.var.elem_count() } else { 0 };
                (vec![T::zero(); n], vec![T::zero(); n])
            })
            .collect();
        let mut tensors = BTreeMap::new();
        for (position, param) in params.iter().enumerate().filter(|(_, p)| p.trainable && !p.var.device().is_cpu()) {
            let zeros = || Tensor::zeros(param.var.shape(), T::KIND, param.var.device());
            tensors.insert(position, (zeros()?, zeros()?));
        }
        Ok(AdamW { config, moments, tensors, steps: 0 })
    }

    /// Counts a step without examples, which moves nothing: the number of steps is that of the run.
    pub fn pass_over(&mut self) {
        self.steps += 1;
    }

    /// One step with the gradients times `scale`, which clips them.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn step(&mut self, params: &Params, gradients: &Gradients, rates: LearningRates, scale: f64) -> Result<()> {
        self.steps += 1;
        let (config, steps) = (self.config, self.steps);
        let (moments, tensors) = (&mut self.moments, &mut self.tensors);
        let rule = |param: &Param| {
            let (lr, decay, before) = match param.group {
                Group::Latent if crate::lpc::names::is_code(&param.name) => (rates.codes, rates.code_decay, 0),
                Group::Latent if param.var.rank() > 1 => (rates.latent, rates.latent_decay, 0),
                Group::Latent => (rates.latent, 0.0, 0),
                Group::Backbone | Group::Adapter => {
                    (rates.backbone, rates.backbone * config.weight_decay, config.latent_steps)
                }
                Group::BackboneNorm => (rates.backbone, 0.0, config.latent_steps),
            };
            let taken = steps.saturating_sub(before) as f64;
            UpdateRule {
                config,
                lr,
                decay,
                correction1: 1.0 - config.beta1.powf(taken),
                correction2: 1.0 - config.beta2.powf(taken),
                scale,
            }
        };
        gradients.each_tensor(|position, gradient| {
            let param = params.get(position);
            let zeros = || -> Result<(Tensor, Tensor)> { Ok((gradient.zeros_like()?, gradient.zeros_like()?)) };
            let before = tensors.remove(&position).map_or_else(zeros, Ok)?;
            tensors.insert(position, rule(param).apply_tensors(&param.var, &before, gradient)?);
            Ok(())
        })?;
        gradients.each::<T>(|position, gradient| {
            let param = params.get(position);
            let rule = rule(param);
            let update = Update { gradient, moments: Mutex::new(&mut moments[position]), rule };
            Ok(param.var.as_tensor().inplace_op1(&update)?)
        })
    }

    /// Moments by name, for a checkpoint: `first.NAME` and `second.NAME`. Nothing is copied here; those
    /// on another device are copied into memory one after the other while they are written.
    pub fn entries<'a>(&'a self, params: &'a Params) -> Vec<TensorEntry<'a>> {
        let mut out = Vec::new();
        for (position, (param, (first, second))) in params.iter().zip(&self.moments).enumerate() {
            let [first_name, second_name] = moment_names(param);
            if let Some((first, second)) = self.tensors.get(&position) {
                out.push(TensorEntry::tensor(first_name, first, None));
                out.push(TensorEntry::tensor(second_name, second, None));
            } else if param.trainable {
                let shape = param.var.dims();
                out.push(TensorEntry::slice(first_name, shape, first));
                out.push(TensorEntry::slice(second_name, shape, second));
            }
        }
        out
    }

    /// Takes the moments of a checkpoint, which was written after `steps` steps.
    ///
    /// # Errors
    /// [`Error::Run`] naming what is missing or has another size.
    pub fn restore(&mut self, params: &Params, tensors: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        for (position, (param, (first, second))) in params.iter().zip(&mut self.moments).enumerate() {
            if !param.trainable {
                continue;
            }
            let names = moment_names(param);
            if !param.var.device().is_cpu() {
                let find = |name: &String| -> Result<Tensor> {
                    let found = tensors.get(name).filter(|t| t.shape() == param.var.shape());
                    let found = found.ok_or_else(|| Error::run(format!("no tensor {name} of the right shape")))?;
                    Ok(found.to_dtype(T::KIND)?.to_device(param.var.device())?)
                };
                self.tensors.insert(position, (find(&names[0])?, find(&names[1])?));
                continue;
            }
            for (name, values) in names.iter().zip([first, second]) {
                let found = tensors.get(name).ok_or_else(|| Error::run(format!("no tensor {name}")))?;
                let found = found.flatten_all()?.to_vec1::<T>()?;
                if found.len() != values.len() {
                    return Err(Error::run(format!("tensor {name}: expected {} numbers", values.len())));
                }
                *values = found;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// Names of a parameter's first and second moment.
fn moment_names(param: &Param) -> [String; 2] {
    ["first", "second"].map(|moment| format!("{moment}.{}", param.name))
}

/// Euclidean norm of all gradients together, summed in f64 and in a fixed order.
///
/// # Errors
/// [`Error::Tensor`].
pub fn global_norm<T: Real>(gradients: &Gradients) -> Result<f64> {
    let mut total = 0.0;
    gradients.each::<T>(|_, gradient| {
        let parts: Vec<f64> = gradient
            .par_chunks(PER_TASK)
            .map(|part| {
                wide(|| crate::nn::real::sum_of(part.len(), |i| candle_core::WithDType::to_f64(part[i]).powi(2)))
            })
            .collect();
        total += parts.into_iter().sum::<f64>();
        Ok(())
    })?;
    // The sums of tensors on another device are copied into memory together.
    let mut squares = Vec::new();
    gradients.each_tensor(|_, gradient| {
        // Row by row first: a GPU sums each row on another core, and a whole tensor on one.
        squares.push(gradient.sqr()?.sum(candle_core::D::Minus1)?.sum_all()?.to_dtype(T::KIND)?);
        Ok(())
    })?;
    if !squares.is_empty() {
        let squares = Tensor::stack(&squares, 0)?.to_vec1::<T>()?;
        total += squares.into_iter().map(candle_core::WithDType::to_f64).sum::<f64>();
    }
    Ok(total.sqrt())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::lpc::names;

    /// Parameters of ones; a step with gradients of zero changes them by their decay alone.
    fn after_a_step(device_sums: bool) -> BTreeMap<String, f64> {
        let of = |name: &str, group, shape: &[usize]| {
            let var = Var::ones(shape, candle_core::DType::F64, &Device::Cpu).unwrap();
            Param { name: name.into(), var, trainable: true, group }
        };
        let matrix = format!("{}.0.weight", names::PRIOR);
        let bias = format!("{}.0.bias", names::PRIOR);
        let params = Params::new(vec![
            of("backbone", Group::Backbone, &[2, 2]),
            of("norm", Group::BackboneNorm, &[2]),
            of("adapter", Group::Adapter, &[2, 2]),
            of(names::CODEBOOK, Group::Latent, &[2, 2]),
            of(names::BIAS, Group::Latent, &[2]),
            of(&matrix, Group::Latent, &[2, 2]),
            of(&bias, Group::Latent, &[2]),
        ])
        .unwrap();
        let gradients = if device_sums { Gradients::as_tensors(&params) } else { Gradients::new(&params) };
        for (position, param) in params.iter().enumerate() {
            if device_sums {
                gradients.add_tensor::<f64>(position, &param.var.zeros_like().unwrap()).unwrap();
            } else {
                gradients.add::<f64>(position, |_| ()).unwrap();
            }
        }
        let constants = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.5, latent_steps: 0 };
        let rates = LearningRates { backbone: 0.1, latent: 7.0, codes: 9.0, latent_decay: 0.2, code_decay: 0.3 };
        let mut optimizer = AdamW::<f64>::new(constants, &params).unwrap();
        optimizer.step(&params, &gradients, rates, 1.0).unwrap();
        let first = |param: &Param| param.var.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
        params.iter().map(|param| (param.name.clone(), first(param))).collect()
    }

    #[test]
    fn matrices_and_codes_decay_and_vectors_do_not() {
        for device_sums in [false, true] {
            let found = after_a_step(device_sums);
            for (name, wanted) in [
                ("backbone", 0.95),
                ("norm", 1.0),
                ("adapter", 0.95),
                // By their own share, whatever the unit of their learning rate.
                (names::CODEBOOK, 0.7),
                (names::BIAS, 0.7),
                ("lpc.prior.0.weight", 0.8),
                ("lpc.prior.0.bias", 1.0),
            ] {
                assert!((found[name] - wanted).abs() < 1e-12, "{name}: {} for {wanted}", found[name]);
            }
        }
    }
}
