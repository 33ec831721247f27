//! A model in memory, and weights made from the seed.

use candle_core::Var;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::config::LlamaConfig;
use super::names::{self, shapes};
use super::params::{Group, Param};
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::seed::Seed;

/// A model in memory: its shape and its parameters, ready for [`super::Params`].
#[derive(Debug)]
pub struct Loaded {
    /// Shape.
    pub config: LlamaConfig,
    /// Backbone parameters, all trainable.
    pub params: Vec<Param>,
}

impl Loaded {
    /// Marks all parameters as not to be trained.
    pub fn freeze(&mut self) {
        self.params.iter_mut().for_each(|p| p.trainable = false);
    }

    /// The same model with its head alone to be trained; a head that is the embedding becomes a copy of it.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn head_alone(mut self) -> Result<Loaded> {
        if self.config.tie_word_embeddings {
            let tied = self.params.iter().find(|p| p.name == names::EMBEDDING);
            let copy = tied.map(|p| p.var.as_detached_tensor().copy()).transpose()?;
            let copy = copy.ok_or_else(|| Error::run("a model without an embedding"))?;
            let var = Var::from_tensor(&copy)?;
            self.params.push(Param { name: names::HEAD.into(), var, trainable: true, group: Group::Backbone });
            self.config.tie_word_embeddings = false;
        }
        self.params.iter_mut().for_each(|p| p.trainable = p.name == names::HEAD);
        Ok(self)
    }
}

/// Random weights: normal with the given deviation (projections into the residual stream divided by
/// sqrt(2 layers), as GPT-2), norms 1, biases 0. Each tensor is a function of (seed, its name).
///
/// # Errors
/// [`Error::Tensor`].
pub fn random<T: Real>(config: &LlamaConfig, deviation: f64, seed: Seed) -> Result<Vec<Param>> {
    shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let residual = name.contains("o_proj") || name.contains("down_proj");
            let scale = if residual { deviation / (2.0 * config.num_hidden_layers as f64).sqrt() } else { deviation };
            let values: Vec<T> = if name.ends_with(".bias") {
                vec![T::zero(); n]
            } else if shape.len() == 1 {
                vec![T::one(); n]
            } else {
                normal(seed, &name, n).map(|x| T::of(x * scale)).collect()
            };
            Param::backbone(name, values, shape)
        })
        .collect()
}

/// `n` standard normal numbers, a function of (seed, name).
pub fn normal(seed: Seed, name: &str, n: usize) -> impl Iterator<Item = f64> {
    let mut rng = seed.rng("init", name);
    // One draw first, so that the stream differs from other uses of the same key.
    let _: u32 = rng.random();
    (0..n).map(move |_| StandardNormal.sample(&mut rng))
}
