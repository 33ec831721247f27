//! Settings of `noise-sweep`.

use std::collections::BTreeSet;

use crate::lpc::LatentKind;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::schema::name_of;
use crate::settings::{Faults, PathText, Settings, settings};

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
        pub codes: Vec<usize> = vec![], used "latents with a size" if |c| c.latent.iter().any(|&l| is_sized(l));
        /// Training seeds.
        pub seeds: Vec<u64> = vec![1, 2, 3];
        /// Seed of the flips, the same for every cell.
        pub noise_seed: u64 = 0;
        /// Cells trained at once.
        pub jobs: usize = 1;
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
        let lists: [(&str, Vec<String>, bool); 7] = [
            ("noise_p", self.noise_p.iter().map(f64::to_string).collect(), true),
            ("noise_kind", self.noise_kind.iter().map(name_of).collect(), true),
            ("marked", self.marked.iter().map(bool::to_string).collect(), true),
            ("objective", self.objective.iter().map(name_of).collect(), true),
            ("latent", self.latent.iter().map(name_of).collect(), true),
            ("codes", self.codes.iter().map(usize::to_string).collect(), false),
            ("seeds", self.seeds.iter().map(u64::to_string).collect(), true),
        ];
        for (key, items, needed) in lists {
            if needed && items.is_empty() {
                faults.add(key, "empty: the grid would have no cell");
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = items.iter().find(|i| !seen.insert(*i)) {
                faults.add(key, format!("{twice} is given twice"));
            }
        }
    }

    fn why_unused(&self, _: &str, _: &str) -> String {
        "without effect: no latent of this sweep has codes".into()
    }
}

/// Whether K decides the size of a latent, as it does for latents with codes, and for `gaussian` and `mlp`, which are
/// compared with them at equal size.
pub fn is_sized(latent: LatentKind) -> bool {
    !matches!(latent, LatentKind::None | LatentKind::Bias)
}

/// Whether a latent can be trained with an objective: flip rates of codes need mix, and SFT has no pairs.
pub fn can_stand_over(latent: LatentKind, objective: ObjectiveKind) -> bool {
    match latent {
        LatentKind::None | LatentKind::Auto => true,
        LatentKind::LpcReliable => objective == ObjectiveKind::Mix,
        _ => objective != ObjectiveKind::Sft,
    }
}
