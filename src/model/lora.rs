//! Low-rank adapters of linear layers: which layers have one, their initial values, and merging them into the weights.
//!
//! # Source
//! Hu et al. 2021, "LoRA", Section 4; names, initial values and scales as PEFT has them. Kalajdzievski 2023,
//! "A Rank Stabilization Scaling Factor", for alpha / sqrt(rank).

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};
use rand::Rng;

use super::config::LlamaConfig;
use super::init::Loaded;
use super::names::{self, TARGETS};
use super::params::Param;
use crate::error::{Error, Fault, Result};
use crate::nn::real::with_slice;
use crate::nn::{Precision, Real, Rows, linear};
use crate::seed::Seed;
use crate::settings::{Faults, Settings, nearest, settings};

/// All of [`TARGETS`].
pub const ALL_LINEAR: &str = "all-linear";

/// What PEFT puts before the name of every module.
pub const PREFIX: &str = "base_model.model.";

settings! {
    /// Options of `--tune lora`.
    pub struct LoraConfig at "train.lora" {
        /// Rank of the additions; 0 = that of the adapter that MODEL is, otherwise 16.
        pub rank: usize = 0;
        /// The addition is scaled by alpha / rank; 0 = that of the adapter that MODEL is, otherwise twice the rank.
        pub alpha: f64 = 0.0;
        /// Layers to adapt, as PEFT's `target_modules`: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj,
        /// all-linear; empty = those of the adapter that MODEL is, otherwise all-linear.
        pub targets: Vec<String> = Vec::new();
        /// Scales by alpha / sqrt(rank) instead.
        pub rslora: bool = false;
    }
}

impl Settings for LoraConfig {
    fn judge(&self, faults: &mut Faults) {
        let fine = self.alpha >= 0.0 && self.alpha.is_finite();
        faults.check(fine, "alpha", format!("expected a number above 0, got {}", self.alpha));
        let known = || TARGETS.iter().map(|(name, _)| *name).chain([ALL_LINEAR]);
        for (i, target) in self.targets.iter().enumerate() {
            if self.targets[..i].contains(target) {
                faults.add("targets", format!("{target:?} is given twice"));
            } else if target == "lm_head" {
                faults.add("targets", "the head takes no adapter; --tune head trains it whole");
            } else if !known().any(|name| name == target) {
                let advice = match nearest(target, known()) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("known are {}", known().collect::<Vec<_>>().join(", ")),
                };
                faults.add("targets", format!("unknown layer {target:?}; {advice}"));
            }
        }
        if self.targets.len() > 1 && self.targets.iter().any(|t| t == ALL_LINEAR) {
            faults.add("targets", "\"all-linear\" stands for all of them: the others have no effect");
        }
    }
}

impl LoraConfig {
    /// Settings that were given and differ from those of the adapter that training continues.
    pub fn conflicts(&self, found: &Lora) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |fine: bool, key: &str, given: String, own: String| {
            if !fine {
                let message = format!("{given}, but the adapter to train on has {own}; leave the setting out");
                faults.push(LoraConfig::fault(key, message));
            }
        };
        let (rank, alpha) = (self.rank, self.alpha);
        check(rank == 0 || rank == found.rank, "rank", rank.to_string(), found.rank.to_string());
        check(alpha == 0.0 || alpha == found.alpha, "alpha", alpha.to_string(), found.alpha.to_string());
        let targets = expanded(&self.targets);
        let same = targets.is_empty() || targets == found.targets;
        check(same, "targets", self.targets.join(", "), found.targets.join(", "));
        check(!self.rslora || found.rslora, "rslora", "true".into(), "false".into());
        faults
    }
}

/// Targets in the order of [`TARGETS`], `all-linear` written out.
fn expanded(targets: &[String]) -> Vec<String> {
    let all = targets.iter().any(|t| t == ALL_LINEAR);
    let wanted = |name: &str| all || targets.iter().any(|t| t == name);
    TARGETS.iter().filter(|(name, _)| wanted(name)).map(|(name, _)| (*name).to_string()).collect()
}

/// An adapter of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Rank of the additions.
    pub rank: usize,
    /// Numerator of their scale.
    pub alpha: f64,
    /// Whether the scale is alpha / sqrt(rank) instead of alpha / rank.
    pub rslora: bool,
    /// Adapted maps, in the order of [`TARGETS`].
    pub targets: Vec<String>,
    /// Adapted layers; empty = all.
    pub layers: Vec<usize>,
    /// The base model as PEFT finds it: a folder, a file, a hub id; "" = it is stored in the adapter's folder.
    pub base: String,
    /// Revision of a hub id; "" = none.
    pub revision: String,
    /// Fingerprint of the base as it was loaded, before any device rounds it; "" = not known.
    pub fingerprint: String,
}

impl Lora {
    /// A new adapter: the settings with their defaults filled in.
    pub fn new(config: &LoraConfig) -> Lora {
        let rank = if config.rank == 0 { 16 } else { config.rank };
        let targets = expanded(&config.targets);
        Lora {
            rank,
            alpha: if config.alpha == 0.0 { 2.0 * rank as f64 } else { config.alpha },
            rslora: config.rslora,
            targets: if targets.is_empty() { expanded(&[ALL_LINEAR.into()]) } else { targets },
            layers: Vec::new(),
            base: String::new(),
            revision: String::new(),
            fingerprint: String::new(),
        }
    }

    /// The settings that make this adapter.
    pub fn config(&self) -> LoraConfig {
        LoraConfig { rank: self.rank, alpha: self.alpha, targets: self.targets.clone(), rslora: self.rslora }
    }

    /// s of `s (x A^T) B^T`.
    pub fn scale(&self) -> f64 {
        self.alpha / if self.rslora { (self.rank as f64).sqrt() } else { self.rank as f64 }
    }

    /// Whether a map of a layer, named as in checkpoints, is adapted.
    pub fn covers(&self, layer: usize, part: &str) -> bool {
        let name = part.rsplit('.').next().unwrap_or(part);
        (self.layers.is_empty() || self.layers.contains(&layer)) && self.targets.iter().any(|t| t == name)
    }

    /// The adapted weights of a model: name, outputs, inputs.
    pub fn weights(&self, config: &LlamaConfig) -> Vec<(String, usize, usize)> {
        let shapes: HashMap<String, Vec<usize>> = names::shapes(config).into_iter().collect();
        let layers = (0..config.num_hidden_layers).flat_map(|i| TARGETS.iter().map(move |(_, part)| (i, *part)));
        layers
            .filter(|(i, part)| self.covers(*i, part))
            .filter_map(|(i, part)| {
                let name = names::layer(i, part);
                let shape = shapes.get(&name)?;
                Some((name, shape[0], shape[1]))
            })
            .collect()
    }

    /// How many numbers an adapter of this model trains.
    pub fn elements(&self, config: &LlamaConfig) -> usize {
        self.weights(config).iter().map(|(_, outputs, inputs)| self.rank * (outputs + inputs)).sum()
    }
}

/// Name of one side (`A` or `B`) of a weight's addition, as PEFT writes it.
pub fn side(weight: &str, side: char) -> String {
    format!("{PREFIX}{}.lora_{side}.weight", weight.strip_suffix(".weight").unwrap_or(weight))
}

/// Freezes a model and adds a new adapter: A uniform in +-1/sqrt(inputs) (Kaiming with a = sqrt 5, as PEFT), B zero,
/// so that the function does not change. Each A is a function of (seed, its name).
///
/// # Errors
/// [`Error::Tensor`].
pub fn attach<T: Real>(loaded: &mut Loaded, lora: &Lora, seed: Seed) -> Result<()> {
    loaded.freeze();
    for (name, outputs, inputs) in lora.weights(&loaded.config) {
        let (a, b) = (side(&name, 'A'), side(&name, 'B'));
        let mut rng = seed.rng("lora", &a);
        let bound = (inputs as f64).sqrt().recip();
        let values: Vec<T> = (0..lora.rank * inputs).map(|_| T::of(rng.random_range(-bound..bound))).collect();
        loaded.params.push(Param::adapter(a, Tensor::from_vec(values, (lora.rank, inputs), &Device::Cpu)?)?);
        loaded.params.push(Param::adapter(b, Tensor::zeros((outputs, lora.rank), T::KIND, &Device::Cpu)?)?);
    }
    Ok(())
}

/// Adds `s B A` to a weight, in the weight's own precision.
///
/// # Shapes
/// weight (O,I) · a (r,I) · b (O,r).
///
/// # Errors
/// [`Error::Run`] where the shapes do not fit.
pub fn merge<T: Real>(weight: &Var, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
    let (outputs, inputs) = weight.dims2()?;
    let rank = a.dims2()?.0;
    if a.dims2()?.1 != inputs || b.dims2()? != (outputs, rank) {
        return Err(Error::run(format!(
            "additions of shapes {:?} and {:?} do not fit a weight of shape {:?}",
            b.dims(),
            a.dims(),
            weight.dims()
        )));
    }
    let mut merged = weight.flatten_all()?.to_vec1::<T>()?;
    let a = a.to_dtype(T::KIND)?.contiguous()?;
    let b = (b.to_dtype(T::KIND)? * scale)?.contiguous()?;
    with_slice::<T, _>(&b, |b| {
        with_slice::<T, _>(&a, |a| linear::backward_input(&Rows::new(b, outputs, Precision::F32), a, &mut merged, true))
    })??;
    Ok(weight.set(&Tensor::from_vec(merged, (outputs, inputs), &Device::Cpu)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Group;
    use crate::model::init::random;

    fn lora(targets: &[&str]) -> LoraConfig {
        LoraConfig { targets: targets.iter().map(|t| (*t).to_string()).collect(), ..LoraConfig::default() }
    }

    #[test]
    fn defaults_scales_and_sizes_by_hand() {
        let new = Lora::new(&LoraConfig::default());
        assert_eq!((new.rank, new.alpha, new.scale(), new.targets.len()), (16, 32.0, 2.0, 7));
        let stable = Lora::new(&LoraConfig { rank: 4, alpha: 8.0, rslora: true, ..lora(&["v_proj", "q_proj"]) });
        assert_eq!((stable.scale(), stable.targets.join(" ")), (4.0, "q_proj v_proj".into()));
        // Width 64 in 4 heads of 16 over 2: q 64x64, v 32x64, two layers.
        let config = LlamaConfig::tiny(64, 2, 10);
        assert_eq!(stable.elements(&config), 2 * 4 * ((64 + 64) + (32 + 64)));
        assert_eq!(Lora { layers: vec![1], ..stable }.elements(&config), 4 * ((64 + 64) + (32 + 64)));
    }

    #[test]
    fn unknown_targets_are_faults_with_a_suggestion() {
        let message = |targets: &[&str]| {
            let faults = lora(targets).faults();
            faults.into_iter().map(|f| format!("{}: {}", f.key, f.message)).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(message(&["q_pro"]), "train.lora.targets: unknown layer \"q_pro\"; did you mean `q_proj`?");
        assert!(message(&["self_attn.v_proj"]).ends_with("did you mean `v_proj`?"));
        assert!(message(&["zebra"]).contains("known are q_proj, k_proj"));
        assert!(message(&["lm_head"]).contains("--tune head"));
        assert!(message(&["q_proj", "q_proj"]).contains("twice"));
        assert!(message(&["all-linear", "q_proj"]).contains("no effect"));
        assert_eq!(message(&["all-linear"]), "");
        assert_eq!(LoraConfig { alpha: -1.0, ..LoraConfig::default() }.faults().len(), 1);
    }

    #[test]
    fn merged_by_hand() {
        let of = |v: &[f64], shape: (usize, usize)| Tensor::from_slice(v, shape, &Device::Cpu).unwrap();
        let w = Var::from_tensor(&of(&[1.0, 2.0, 3.0, 4.0], (2, 2))).unwrap();
        merge::<f64>(&w, &of(&[1.0, -1.0], (1, 2)), &of(&[10.0, 20.0], (2, 1)), 0.5).unwrap();
        assert_eq!(w.to_vec2::<f64>().unwrap(), [[6.0, -3.0], [13.0, -6.0]]);
        assert!(merge::<f64>(&w, &of(&[1.0], (1, 1)), &of(&[1.0], (1, 1)), 1.0).is_err());
    }

    #[test]
    fn first_values_depend_on_seed_and_name_and_lie_within_the_bound() {
        let config = LlamaConfig::tiny(32, 1, 10);
        let made = |seed| {
            let params = random::<f32>(&config, 0.02, Seed(1)).unwrap();
            let mut loaded = Loaded { config: config.clone(), params };
            attach::<f32>(&mut loaded, &Lora::new(&lora(&["q_proj", "o_proj"])), Seed(seed)).unwrap();
            loaded.params
        };
        let values = |params: &[Param], name: &str| -> Vec<f32> {
            params.iter().find(|p| p.name == name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let (one, two) = (made(1), made(2));
        let q = side("model.layers.0.self_attn.q_proj.weight", 'A');
        assert_eq!(q, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
        let a = values(&one, &q);
        let bound = 1.0 / 32f32.sqrt();
        assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > 0.9 * bound));
        assert_ne!(a, values(&two, &q));
        assert_ne!(a, values(&one, &side("model.layers.0.self_attn.o_proj.weight", 'A')));
        assert!(values(&one, &side("model.layers.0.self_attn.q_proj.weight", 'B')).iter().all(|x| *x == 0.0));
        assert!(one.iter().all(|p| p.trainable == (p.group == Group::Adapter)));
    }
}
