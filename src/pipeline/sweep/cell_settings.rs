//! Settings of training that a grid varies beside objective, latent and codes.

use serde::{Deserialize, Serialize};

use crate::lpc::{Grouping, Inference, LatentKind, LpcConfig, Mixture};
use crate::objective::ObjectiveKind;
use crate::pipeline::recipe::SweepConfig;
use crate::schema::name_of;
use crate::settings::Settings;
use crate::train::TrainConfig;

/// Settings of a cell; those that are `None` are the recipe's, or not used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CellSettings {
    /// How the posterior is found.
    pub inference: Option<Inference>,
    /// Weight of the KL.
    pub kl_weight: Option<f64>,
    /// First temperature of the relaxed samples.
    pub temperature: Option<f64>,
    /// How g moves.
    pub g: Option<Mixture>,
    /// Which pairs share a code.
    pub group: Option<Grouping>,
    /// Layer whose hidden states represent a prompt.
    pub prompt_layer: Option<i64>,
    /// Model that training starts from.
    pub model: Option<String>,
}

/// Every cell so far with every value, or as it is where there are none.
fn times<T: Clone>(cells: Vec<CellSettings>, values: &[T], set: fn(&mut CellSettings, T)) -> Vec<CellSettings> {
    if values.is_empty() {
        return cells;
    }
    let with = |cell: &CellSettings, value: &T| {
        let mut cell = cell.clone();
        set(&mut cell, value.clone());
        cell
    };
    cells.iter().flat_map(|cell| values.iter().map(move |value| with(cell, value))).collect()
}

impl CellSettings {
    /// All combinations of a grid's values.
    pub(super) fn product(config: &SweepConfig) -> Vec<CellSettings> {
        let all = vec![CellSettings::default()];
        let all = times(all, &config.model, |c, v| c.model = Some(v));
        let all = times(all, &config.inference, |c, v| c.inference = Some(v));
        let all = times(all, &config.kl_weight, |c, v| c.kl_weight = Some(v));
        let all = times(all, &config.temperature, |c, v| c.temperature = Some(v));
        let all = times(all, &config.g, |c, v| c.g = Some(v));
        let all = times(all, &config.group, |c, v| c.group = Some(v));
        times(all, &config.prompt_layer, |c, v| c.prompt_layer = Some(v))
    }

    /// Puts them into a configuration.
    pub(super) fn apply(&self, config: &mut TrainConfig) {
        fn put<T: Clone>(to: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *to = value.clone();
            }
        }
        put(&mut config.model, &self.model);
        put(&mut config.lpc.inference, &self.inference);
        put(&mut config.lpc.kl_weight, &self.kl_weight);
        put(&mut config.lpc.temperature, &self.temperature);
        put(&mut config.lpc.g, &self.g);
        put(&mut config.lpc.group, &self.group);
        put(&mut config.lpc.prompt_layer, &self.prompt_layer);
    }

    /// All settings that the cell uses, those of the recipe too.
    pub(super) fn effective(&self, objective: ObjectiveKind, latent: LatentKind, base: &TrainConfig) -> CellSettings {
        let mut config = base.clone();
        self.apply(&mut config);
        let lpc = resolved(config.lpc, objective, latent);
        CellSettings {
            inference: Some(lpc.inference).filter(|_| uses(&lpc, "inference")),
            kl_weight: Some(lpc.kl_weight).filter(|_| uses(&lpc, "kl_weight")),
            temperature: Some(lpc.temperature).filter(|_| uses(&lpc, "temperature")),
            g: Some(lpc.g).filter(|_| uses(&lpc, "g")),
            group: Some(lpc.group).filter(|_| uses(&lpc, "group")),
            prompt_layer: Some(lpc.prompt_layer).filter(|_| uses(&lpc, "prompt_layer")),
            model: Some(config.model),
        }
    }

    /// Without those that the cell does not use, and those that are the recipe's.
    pub(super) fn settled(self, objective: ObjectiveKind, latent: LatentKind, base: &TrainConfig) -> CellSettings {
        fn other<T: PartialEq>(own: Option<T>, used: Option<T>, base: &T) -> Option<T> {
            own.and(used).filter(|value| value != base)
        }
        let used = self.effective(objective, latent, base);
        CellSettings {
            inference: other(self.inference, used.inference, &base.lpc.inference),
            kl_weight: other(self.kl_weight, used.kl_weight, &base.lpc.kl_weight),
            temperature: other(self.temperature, used.temperature, &base.lpc.temperature),
            g: other(self.g, used.g, &base.lpc.g),
            group: other(self.group, used.group, &base.lpc.group),
            prompt_layer: other(self.prompt_layer, used.prompt_layer, &base.lpc.prompt_layer),
            model: other(self.model, used.model, &base.model),
        }
    }

    /// The part of a run folder's name.
    pub(super) fn name(&self) -> String {
        let mut name = String::new();
        let mut add = |part: Option<String>| name.extend(part.map(|part| format!("-{part}")));
        add(self.model.as_deref().map(model_name));
        add(self.inference.as_ref().map(name_of));
        add(self.kl_weight.map(|weight| format!("kl{weight}")));
        add(self.temperature.map(|tau| format!("tau{tau}")));
        add(self.g.map(|g| format!("g-{}", name_of(&g))));
        add(self.group.map(|group| format!("by-{}", name_of(&group))));
        add(self.prompt_layer.map(|layer| format!("layer{layer}")));
        name
    }

    /// The settings in words, each with its key; none where all are the recipe's.
    pub(super) fn words(&self) -> Option<String> {
        let all = serde_json::to_value(self).ok()?;
        let words: Vec<String> = all
            .as_object()?
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| format!("{key} {}", crate::pipeline::recipe::sweep::shown(value)))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// A model's name as a part of a folder's name: the last part of its path, and some digits of a hash of all of it.
fn model_name(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let hash = blake3::hash(model.as_bytes()).to_hex();
    format!("{}-{}", last.chars().map(plain).collect::<String>(), &hash[..6])
}

/// The settings of the latent part that a cell of this objective and latent has.
fn resolved(lpc: LpcConfig, objective: ObjectiveKind, latent: LatentKind) -> LpcConfig {
    let latent = match (latent, objective) {
        (LatentKind::Auto, ObjectiveKind::Sft) => LatentKind::None,
        (LatentKind::Auto, _) => LatentKind::Lpc,
        (latent, _) => latent,
    };
    LpcConfig { latent, ..lpc }
}

/// Whether a setting has an effect on a latent part: whether it would be told to have none if it were given.
fn uses(lpc: &LpcConfig, name: &str) -> bool {
    let (mut probe, origin) = (lpc.clone(), lpc.origin());
    match name {
        "inference" if origin.inference == Inference::Bayes => probe.inference = Inference::Amortised,
        "inference" => probe.inference = Inference::Bayes,
        "kl_weight" => probe.kl_weight = origin.kl_weight + 1.0,
        "temperature" => probe.temperature = origin.temperature + 1.0,
        "g" if origin.g == Mixture::Linear => probe.g = Mixture::Prior,
        "g" => probe.g = Mixture::Linear,
        "group" if origin.group == Grouping::Pair => probe.group = Grouping::Prompt,
        "group" => probe.group = Grouping::Pair,
        "prompt_layer" => probe.prompt_layer = origin.prompt_layer + 1,
        _ => return true,
    }
    !probe.idle().iter().any(|(idle, _)| idle == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpc::{Preset, PriorInput};

    fn used(lpc: &LpcConfig) -> Vec<&'static str> {
        let all = ["inference", "kl_weight", "temperature", "g", "group", "prompt_layer"];
        all.into_iter().filter(|name| uses(lpc, name)).collect()
    }

    #[test]
    fn what_latents_use() {
        let of = |latent, inference| used(&LpcConfig { latent, inference, ..LpcConfig::default() });
        assert_eq!(of(LatentKind::None, Inference::Bayes), Vec::<&str>::new());
        assert_eq!(of(LatentKind::Lpc, Inference::Bayes), ["inference", "kl_weight", "group"]);
        assert_eq!(of(LatentKind::Lpc, Inference::Amortised), ["inference", "kl_weight", "temperature", "g"]);
        assert_eq!(of(LatentKind::LpcHard, Inference::Bayes), ["kl_weight", "temperature", "g"]);
        assert_eq!(of(LatentKind::Gaussian, Inference::Bayes), ["kl_weight", "g"]);
        let states = LpcConfig { latent: LatentKind::Mlp, prior_input: PriorInput::States, ..LpcConfig::default() };
        assert_eq!(used(&states), ["prompt_layer"]);
        let paper = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::of(Preset::Paper) };
        assert_eq!(used(&paper), ["inference", "kl_weight", "temperature", "g", "prompt_layer"]);
        let exact = LpcConfig { exact: true, ..paper };
        assert!(!uses(&exact, "temperature") && uses(&exact, "g"));
    }

    #[test]
    fn models_of_the_same_name_have_folders_of_their_own() {
        assert_eq!(model_name("tiny:16x1").split_once("-").unwrap().0, "tiny");
        assert_ne!(model_name("a/base"), model_name("b/base"));
        assert!(model_name("a/../x y/").chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.'));
    }
}
