//! Objectives, their constants, and what is wrong with them.

use serde::{Deserialize, Serialize};

use super::logps::{PreferenceLogps, PreferenceLosses};
use crate::error::Result;
use crate::settings::{Faults, Settings, settings};

/// The loss on top of which codes are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// Direct preference optimisation (Rafailov et al. 2023).
    #[default]
    Dpo,
    /// Conservative DPO: labels smoothed by a known flip rate (Mitchell 2023).
    Cdpo,
    /// Robust DPO: unbiased under a known flip rate (Chowdhury et al. 2024).
    Rdpo,
    /// The likelihood of a label that was flipped with a known probability.
    Mix,
    /// Identity preference optimisation (Azar et al. 2023).
    Ipo,
    /// Simple preference optimisation, without a reference (Meng et al. 2024).
    Simpo,
    /// Supervised fine-tuning on the chosen responses: the warm start of a base model.
    Sft,
}

impl ObjectiveKind {
    /// Whether a flip probability of the labels is assumed.
    fn smooths(self) -> bool {
        matches!(self, ObjectiveKind::Cdpo | ObjectiveKind::Rdpo | ObjectiveKind::Mix)
    }
}

/// How IPO reduces token log-probabilities to a sequence's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Mean per token, each side by its own length: as TRL, and as IPO's authors confirmed to it.
    #[default]
    Mean,
    /// Sum over tokens: as OpenRLHF.
    Sum,
}

/// Where objective `mix` has its flip rate from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MixFlip {
    /// `label_smoothing`.
    #[default]
    Fixed,
    /// Learned as one number, from `label_smoothing` on, with the latent part's learning rate.
    Learned,
}

/// Value of a setting that stands for the objective's own default.
pub const OWN_DEFAULT: f64 = -1.0;

settings! {
    /// An objective and its constants.
    pub struct ObjectiveConfig at "train.objective" {
        /// Which objective.
        pub name: ObjectiveKind = ObjectiveKind::Dpo;
        /// Strength of the reference (DPO's beta; IPO's tau); -1 = 0.1, for SimPO 2.0.
        pub beta: f64 = OWN_DEFAULT, used "all but sft" if |c| c.name != ObjectiveKind::Sft;
        /// Assumed flip probability of cDPO, rDPO and mix, 0 to below 0.5; -1 = 0.1 there. Where it is learned, its
        /// start.
        pub label_smoothing: f64 = OWN_DEFAULT, used "cdpo, rdpo or mix" if |c| c.name.smooths();
        /// Where mix has its flip probability from.
        pub mix_flip: MixFlip = MixFlip::Fixed, used "mix" if |c| c.name == ObjectiveKind::Mix;
        /// SimPO's target margin over beta; -1 = 0.5 there.
        pub gamma_beta_ratio: f64 = OWN_DEFAULT, used "simpo" if |c| c.name == ObjectiveKind::Simpo;
        /// IPO's reduction.
        pub reduction: Reduction = Reduction::Mean, used "ipo" if |c| c.name == ObjectiveKind::Ipo;
        beside {
            /// A loss of one's own in place of the named objective's; for programs that use the library, and no
            /// setting.
            pub custom: Option<CustomObjective>
        }
    }
}

impl Settings for ObjectiveConfig {
    fn judge(&self, faults: &mut Faults) {
        // What has no effect need not be in range.
        let config = self.applicable();
        let beta = config.beta;
        let fine = beta == OWN_DEFAULT || (beta > 0.0 && beta.is_finite());
        faults.check(fine, "beta", format!("expected a number above 0, got {beta}"));
        let rate = config.label_smoothing;
        let fine = rate == OWN_DEFAULT || (0.0..0.5).contains(&rate);
        faults.check(fine, "label_smoothing", format!("expected 0 to below 0.5, got {rate}"));
        let stuck = config.mix_flip == MixFlip::Learned && rate == 0.0;
        let message = "a learned flip rate cannot start at 0: there it has no gradient";
        faults.check(!stuck, "label_smoothing", message);
        let ratio = config.gamma_beta_ratio;
        let fine = ratio == OWN_DEFAULT || (ratio >= 0.0 && ratio.is_finite());
        faults.check(fine, "gamma_beta_ratio", format!("expected a number from 0, got {ratio}"));
    }

    fn why_unused(&self, name: &str, used_by: &str) -> String {
        let kind = format!("{:?}", crate::schema::name_of(&self.name));
        let instead = if name == "beta" { String::new() } else { format!("; use {used_by}") };
        format!("has no effect with objective {kind}{instead}")
    }
}

impl ObjectiveConfig {
    /// The same with every default written out.
    #[must_use]
    pub fn resolved(&self) -> ObjectiveConfig {
        use ObjectiveKind as K;
        let or = |value: f64, default: f64| if value == OWN_DEFAULT { default } else { value };
        ObjectiveConfig {
            beta: or(self.beta, if self.name == K::Simpo { 2.0 } else { 0.1 }),
            label_smoothing: if self.name.smooths() { or(self.label_smoothing, 0.1) } else { OWN_DEFAULT },
            gamma_beta_ratio: if self.name == K::Simpo { or(self.gamma_beta_ratio, 0.5) } else { OWN_DEFAULT },
            ..self.clone()
        }
    }

    /// Whether the objective compares with a reference model.
    pub fn needs_reference(&self) -> bool {
        !matches!(self.name, ObjectiveKind::Simpo | ObjectiveKind::Sft)
    }

    /// The scale of the loss where it is weighed against a divergence: 1 for negative log-likelihoods; for IPO the loss
    /// at a margin of 0, `(1 / 2 beta)^2`. The configuration must be [`resolved`](Self::resolved).
    pub fn loss_unit(&self) -> f64 {
        if self.name == ObjectiveKind::Ipo { (0.5 / self.beta).powi(2) } else { 1.0 }
    }

    /// The reward margin at which the slope of the loss is about half of that at 0, so that a margin of this size
    /// is neither small nor large: 1 for logistic losses (exactly, ln 3), and 1/4 for IPO, whose slope is 0 at 1/2.
    pub fn margin_unit(&self) -> f64 {
        if self.name == ObjectiveKind::Ipo { 0.25 } else { 1.0 }
    }

    /// The slopes of the reward margin in the summed log-probabilities of chosen and rejected (that of rejected without
    /// its sign), given their numbers of tokens. The configuration must be [`resolved`](Self::resolved).
    pub fn margin_scales(&self, n_chosen: usize, n_rejected: usize) -> (f64, f64) {
        let mean =
            self.name == ObjectiveKind::Simpo || (self.name == ObjectiveKind::Ipo && self.reduction == Reduction::Mean);
        let scale = |n: usize| if mean { self.beta / n.max(1) as f64 } else { self.beta };
        (scale(n_chosen), scale(n_rejected))
    }
}

/// A user-defined objective. The named objective of the same configuration still decides whether there is a reference,
/// and gives beta and the margin unit by which codes are scaled.
#[derive(Debug, Clone, Copy)]
pub struct CustomObjective {
    /// Its name in `config.toml` and `summary.json`.
    pub name: &'static str,
    /// Losses and implicit rewards, element by element: where there are codes, an element is a pair under one code.
    pub losses: fn(&ObjectiveConfig, &PreferenceLogps) -> Result<PreferenceLosses>,
}

impl PartialEq for CustomObjective {
    fn eq(&self, other: &CustomObjective) -> bool {
        self.name == other.name
    }
}

impl Serialize for CustomObjective {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_effect_are_faults() {
        let mut c = ObjectiveConfig { label_smoothing: 0.2, ..ObjectiveConfig::default() };
        c.gamma_beta_ratio = 0.3;
        c.reduction = Reduction::Sum;
        c.beta = 0.0;
        c.mix_flip = MixFlip::Learned;
        let keys: Vec<String> = c.faults().into_iter().map(|f| f.key).collect();
        assert_eq!(
            keys,
            ["label_smoothing", "mix_flip", "gamma_beta_ratio", "reduction", "beta"]
                .map(|k| format!("train.objective.{k}"))
        );
        assert_eq!(c.applicable().mix_flip, MixFlip::Fixed);
        // A sweep over dpo and sft shares its beta.
        let sft = ObjectiveConfig { name: ObjectiveKind::Sft, beta: 0.3, ..ObjectiveConfig::default() };
        assert_eq!(sft.faults()[0].to_string(), "train.objective.beta: has no effect with objective \"sft\"");
        assert_eq!(sft.applicable().faults(), []);
        let zero =
            ObjectiveConfig { name: ObjectiveKind::Mix, mix_flip: MixFlip::Learned, ..ObjectiveConfig::default() };
        assert!(zero.faults().is_empty());
        assert_eq!(ObjectiveConfig { label_smoothing: 0.0, ..zero }.faults().len(), 1);
        assert!(ObjectiveConfig::default().faults().is_empty());
    }
}
