//! Settings of `noise-sweep`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::lpc::{Grouping, Inference, LatentKind, Mixture};
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::schema::name_of;
use crate::settings::{Faults, PathText, Settings, joined, settings};

/// Axes that may be empty: the recipe's value holds.
const OPTIONAL: [&str; 8] = ["codes", "inference", "kl_weight", "temperature", "g", "group", "prompt_layer", "model"];
/// Axes over which baselines are paired.
const SEEDS: [&str; 2] = ["seeds", "noise_seeds"];

/// Values of axes of the grid, by the names of the axes.
pub type Baseline = BTreeMap<String, Value>;

settings! {
    /// The grid of a sweep.
    pub struct SweepConfig at "sweep" {
        /// Shares of labels to flip, 0 to 1.
        pub noise_p: Vec<f64> = vec![0.0, 0.2, 0.4];
        /// Noise models.
        pub noise_kind: Vec<FlipKind> = vec![FlipKind::Uniform];
        /// Whether flipped prompts carry the marker.
        pub marked: Vec<bool> = vec![false];
        /// Objectives.
        pub objective: Vec<ObjectiveKind> = vec![ObjectiveKind::Dpo];
        /// Latents; `none` is the baseline of the paired differences. `lpc-reliable` is run over the objective `mix`
        /// alone.
        pub latent: Vec<LatentKind> = vec![LatentKind::None, LatentKind::Lpc];
        /// Numbers of codes, for latents that have codes or are compared with them at equal size (`gaussian`, `mlp`);
        /// empty takes `train.lpc.codes`.
        pub codes: Vec<usize> = vec![], used "latents with a size" if |c| c.latent.iter().any(|&l| l.sized());
        /// How posteriors are found; empty takes `train.lpc.inference`. This axis and the following ones split the cells
        /// that use the setting; the others are run once.
        pub inference: Vec<Inference> = vec![];
        /// Weights of the KL, lambda; empty takes `train.lpc.kl_weight`.
        pub kl_weight: Vec<f64> = vec![];
        /// First temperatures of the relaxed samples, tau; empty takes `train.lpc.temperature`.
        pub temperature: Vec<f64> = vec![];
        /// How g moves; empty takes `train.lpc.g`.
        pub g: Vec<Mixture> = vec![];
        /// Which pairs share a code; empty takes `train.lpc.group`.
        pub group: Vec<Grouping> = vec![];
        /// Layers whose hidden states represent a prompt; empty takes `train.lpc.prompt_layer`.
        pub prompt_layer: Vec<i64> = vec![];
        /// Models that training starts from, all with the tokenizer of the prepared data; empty takes `train.model`.
        pub model: Vec<PathText> = vec![];
        /// Training seeds.
        pub seeds: Vec<u64> = vec![1, 2, 3];
        /// Seeds of the flips; every cell is run with each. Intervals are over the training seeds at one seed of the flips.
        pub noise_seeds: Vec<u64> = vec![0];
        /// Another baseline of paired differences beside `latent = none`: values of the grid by axis, as
        /// `{ objective = "rdpo", latent = "none" }`. Each cell is compared with the cell that has these values and is
        /// like it in all other axes.
        pub baseline: Baseline = Baseline::new();
        /// Cells trained at once.
        pub jobs: usize = 1;
        /// MiB for all cells that are trained at once, by their estimates; 0 is what this machine has. A cell that is
        /// larger runs alone.
        pub memory_mb: usize = 0, used "jobs above 1" if |c| c.jobs > 1;
        /// Lists the cells with the time and memory that each would take; trains nothing and leaves no folder. With a
        /// launcher other than `local`: writes the scripts, and submits nothing.
        pub dry_run: bool = false;
        /// Sweep folder.
        pub out: PathText = PathText::new();
    }
}

impl Settings for SweepConfig {
    /// Judges the grid only; the stages check the settings of the cells.
    fn judge(&self, faults: &mut Faults) {
        if let Some(p) = self.noise_p.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            faults.add("noise_p", format!("{p} is no share: expected 0 to 1"));
        }
        if self.codes.contains(&0) {
            faults.add("codes", "0 codes: expected 1 or more");
        }
        if self.jobs == 0 {
            faults.add("jobs", "expected 1 or more");
        }
        let impossible = |&&l: &&LatentKind| !self.objective.iter().any(|&o| can_stand_over(l, o));
        if let Some(&latent) = self.latent.iter().find(impossible).filter(|_| !self.objective.is_empty()) {
            let reliable = latent == LatentKind::LpcReliable;
            let needed = if reliable { "needs objective mix" } else { "needs an objective over pairs" };
            faults.add("latent", format!("`{}` {needed}, which is not in sweep.objective", name_of(&latent)));
        }
        if self.noise_p.iter().all(|p| *p == 0.0) && (self.marked.contains(&true) || self.noise_kind.len() > 1) {
            let key = if self.marked.contains(&true) { "marked" } else { "noise_kind" };
            faults.add(key, "without effect: no labels are flipped (sweep.noise_p is 0)");
        }
        for (axis, values) in self.axes() {
            if values.is_empty() && !OPTIONAL.contains(&axis) {
                faults.add(axis, "empty: the grid would have no cell");
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = values.iter().map(shown).find(|value| !seen.insert(value.clone())) {
                faults.add(axis, format!("{twice} is given twice"));
            }
        }
        let named = |axis: &str| self.baseline.get(axis).and_then(Value::as_str);
        let sized: Vec<String> = self.latent.iter().filter(|&&l| l.sized()).map(name_of).collect();
        let unsized_latent = self.latent.iter().copied().find(|&l| !l.sized());
        if let (Some(latent), Some(other)) = (named("latent"), unsized_latent)
            && sized.iter().any(|name| name == latent)
            && self.codes.len() > 1
            && !self.baseline.contains_key("codes")
        {
            let codes = self.codes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let other = name_of(&other);
            faults.add("baseline", format!("without codes: `{other}` has none to compare with; name one of {codes}"));
        }
        for (axis, value) in &self.baseline {
            let key = joined("baseline", axis);
            let axes = || self.axes().into_iter().filter(|(name, _)| !SEEDS.contains(name));
            let Some((_, values)) = axes().find(|(name, _)| name == axis) else {
                let known = axes().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
                faults.add(&key, format!("unknown axis; there are {known}"));
                continue;
            };
            if !values.iter().any(|known| same_value(known, value)) {
                let known = values.iter().map(shown).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none is named".into() } else { format!("there are {known}") };
                faults.add(&key, format!("{} is not in sweep.{axis}: {known}", shown(value)));
            }
        }
    }

    fn why_unused(&self, name: &str, used_by: &str) -> String {
        match name {
            "codes" => "without effect: no latent of this sweep has codes".into(),
            _ => format!("has no effect without {used_by}"),
        }
    }
}

impl SweepConfig {
    /// The axes of the grid by name, each with its values.
    pub fn axes(&self) -> Vec<(&'static str, Vec<Value>)> {
        fn values<T: Serialize>(items: &[T]) -> Vec<Value> {
            items.iter().filter_map(|item| serde_json::to_value(item).ok()).collect()
        }
        vec![
            ("noise_p", values(&self.noise_p)),
            ("noise_kind", values(&self.noise_kind)),
            ("marked", values(&self.marked)),
            ("objective", values(&self.objective)),
            ("latent", values(&self.latent)),
            ("codes", values(&self.codes)),
            ("inference", values(&self.inference)),
            ("kl_weight", values(&self.kl_weight)),
            ("temperature", values(&self.temperature)),
            ("g", values(&self.g)),
            ("group", values(&self.group)),
            ("prompt_layer", values(&self.prompt_layer)),
            ("model", values(&self.model)),
            ("seeds", values(&self.seeds)),
            ("noise_seeds", values(&self.noise_seeds)),
        ]
    }
}

/// A value of an axis as people write it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |x| x.to_string()),
        other => other.to_string(),
    }
}

/// Whether two values are the same; 0 and 0.0 are.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Whether a latent can be trained with an objective: flip rates of codes need mix, and SFT has no pairs.
pub fn can_stand_over(latent: LatentKind, objective: ObjectiveKind) -> bool {
    match latent {
        LatentKind::None | LatentKind::Auto => true,
        LatentKind::LpcReliable => objective == ObjectiveKind::Mix,
        _ => objective != ObjectiveKind::Sft,
    }
}
