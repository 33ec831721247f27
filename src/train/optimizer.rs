//! AdamW in place, with moments that can be saved; and clipping by the global norm.
//!
//! candle's own AdamW keeps its moments to itself, so that no run could be resumed exactly.

use std::collections::HashMap;
use std::sync::Mutex;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::{Gradients, Group, Params};
use crate::nn::Real;
use crate::nn::real::wide;

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
}

/// Learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Backbone.
    pub backbone: f64,
    /// Codebook and inference networks.
    pub latent: f64,
}

/// AdamW (Loshchilov and Hutter 2019, Algorithm 2, with torch's order of operations).
#[derive(Debug)]
pub struct AdamW<T> {
    config: AdamWConfig,
    /// First and second moments by parameter; empty where frozen.
    moments: Vec<(Vec<T>, Vec<T>)>,
    /// Steps taken.
    pub steps: u64,
}

/// One parameter's update, applied to candle's own storage.
struct Update<'a, T> {
    gradient: &'a [T],
    moments: Mutex<&'a mut (Vec<T>, Vec<T>)>,
    rule: Rule,
}

#[derive(Clone, Copy)]
struct Rule {
    config: AdamWConfig,
    lr: f64,
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

impl Rule {
    #[inline(always)]
    fn apply<T: Real>(&self, values: &mut [T], first: &mut [T], second: &mut [T], gradient: &[T]) {
        let c = &self.config;
        let (b1, b2) = (T::of(c.beta1), T::of(c.beta2));
        let (rest1, rest2) = (T::of(1.0 - c.beta1), T::of(1.0 - c.beta2));
        let keep = T::of(1.0 - self.lr * self.decay);
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

impl<T: Real> AdamW<T> {
    /// Zero moments for these parameters.
    pub fn new(config: AdamWConfig, params: &Params) -> AdamW<T> {
        let moments = params
            .iter()
            .map(|p| {
                let n = if p.trainable { p.var.elem_count() } else { 0 };
                (vec![T::zero(); n], vec![T::zero(); n])
            })
            .collect();
        AdamW { config, moments, steps: 0 }
    }

    /// One step: gradients are multiplied by `scale` (clipping) on the way.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn step(&mut self, params: &Params, gradients: &Gradients, rates: Rates, scale: f64) -> Result<()> {
        self.steps += 1;
        let (config, steps) = (self.config, self.steps as f64);
        let moments = &mut self.moments;
        gradients.each::<T>(|position, gradient| {
            let param = params.get(position);
            let rule = Rule {
                config,
                lr: if param.group == Group::Latent { rates.latent } else { rates.backbone },
                decay: if matches!(param.group, Group::Backbone | Group::Adapter) { config.weight_decay } else { 0.0 },
                correction1: 1.0 - config.beta1.powf(steps),
                correction2: 1.0 - config.beta2.powf(steps),
                scale,
            };
            let update = Update { gradient, moments: Mutex::new(&mut moments[position]), rule };
            Ok(param.var.as_tensor().inplace_op1(&update)?)
        })
    }

    /// Moments by name, for a checkpoint: `first.NAME` and `second.NAME`.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn tensors(&self, params: &Params) -> Result<Vec<(String, Tensor)>> {
        let mut out = Vec::new();
        for (param, (first, second)) in params.iter().zip(&self.moments) {
            if param.trainable {
                let tensor = |v: &[T]| Tensor::from_slice(v, param.var.shape(), &Device::Cpu);
                out.push((format!("first.{}", param.name), tensor(first)?));
                out.push((format!("second.{}", param.name), tensor(second)?));
            }
        }
        Ok(out)
    }

    /// Takes the moments of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Run`] naming what is missing or has another size.
    pub fn restore(&mut self, params: &Params, tensors: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        for (param, (first, second)) in params.iter().zip(&mut self.moments) {
            if !param.trainable {
                continue;
            }
            for (kind, values) in [("first", first), ("second", second)] {
                let name = format!("{kind}.{}", param.name);
                let found = tensors.get(&name).ok_or_else(|| Error::run(format!("no tensor {name}")))?;
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

/// Global norm over all gradients, in f64 and in a fixed order.
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
    Ok(total.sqrt())
}
