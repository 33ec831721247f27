//! Preference objectives: pure per-example functions of sequence log-probabilities.
//!
//! The objective decides how log-probabilities are reduced over response tokens: DPO and its relatives take the sum,
//! SimPO the mean, IPO either. The caller takes the mean over examples.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use lpc_pipe::objective::{ObjectiveConfig, PreferenceLogps};
//!
//! # fn main() -> lpc_pipe::Result<()> {
//! let one = |x: f64| Tensor::new(&[x], &Device::Cpu);
//! let logps = PreferenceLogps {
//!     chosen_logps: one(-10.0)?,
//!     rejected_logps: one(-30.0)?,
//!     reference_chosen_logps: one(-15.0)?,
//!     reference_rejected_logps: one(-15.0)?,
//!     n_chosen: one(2.0)?,
//!     n_rejected: one(4.0)?,
//! };
//! // DPO with beta = 0.1: D = 5 + 15 = 20, and -ln sigmoid(2) = 0.1269.
//! let found = ObjectiveConfig::default().resolved().losses(&logps)?;
//! assert!((found.losses.to_vec1::<f64>()?[0] - 0.126_928).abs() < 1e-6);
//! assert!((found.margins()?.to_vec1::<f64>()?[0] - 2.0).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```

mod custom;
mod dpo;
mod ipo;
mod mix;
mod sft;
mod simpo;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::settings::{Faults, Settings, settings};
pub use custom::CustomObjective;

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

    /// Per-example losses and implicit rewards. The configuration must be [`resolved`](Self::resolved).
    ///
    /// # Shapes
    /// Everything (B).
    ///
    /// # Units
    /// Nats; losses of IPO in nats squared.
    ///
    /// # Errors
    /// [`Error::Tensor`]; [`Error::Run`] for an unresolved configuration.
    pub fn losses(&self, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
        self.losses_with(logps, None)
    }

    /// [`losses`](Self::losses) with a flip rate for each example, between 0 and one half, in place of mix's fixed one.
    ///
    /// # Shapes
    /// flips (B).
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn losses_with(&self, logps: &PreferenceLogps, flips: Option<&Tensor>) -> Result<PreferenceLosses> {
        if self.beta == OWN_DEFAULT {
            return Err(Error::run("objective: the configuration was not resolved"));
        }
        if let Some(custom) = &self.custom {
            return (custom.losses)(self, logps);
        }
        match self.name {
            ObjectiveKind::Dpo => dpo::dpo(self, logps),
            ObjectiveKind::Cdpo => dpo::cdpo(self, logps),
            ObjectiveKind::Rdpo => dpo::rdpo(self, logps),
            ObjectiveKind::Mix => mix::mix(self, logps, flips),
            ObjectiveKind::Ipo => ipo::ipo(self, logps),
            ObjectiveKind::Simpo => simpo::simpo(self, logps),
            ObjectiveKind::Sft => sft::sft(self, logps),
        }
    }
}

/// Sequence log-probabilities of a batch.
///
/// # Shapes
/// Each (B).
///
/// # Units
/// Nats, summed over response tokens; lengths in tokens, as floats.
#[derive(Debug, Clone)]
pub struct PreferenceLogps {
    /// Policy, chosen.
    pub chosen_logps: Tensor,
    /// Policy, rejected.
    pub rejected_logps: Tensor,
    /// Reference, chosen; ignored where the objective has none.
    pub reference_chosen_logps: Tensor,
    /// Reference, rejected; ignored where the objective has none.
    pub reference_rejected_logps: Tensor,
    /// Tokens of the chosen response.
    pub n_chosen: Tensor,
    /// Tokens of the rejected response.
    pub n_rejected: Tensor,
}

impl PreferenceLogps {
    /// The same pairs with their sides swapped.
    #[must_use]
    pub fn swapped(&self) -> PreferenceLogps {
        let p = self.clone();
        PreferenceLogps {
            chosen_logps: p.rejected_logps,
            rejected_logps: p.chosen_logps,
            reference_chosen_logps: p.reference_rejected_logps,
            reference_rejected_logps: p.reference_chosen_logps,
            n_chosen: p.n_rejected,
            n_rejected: p.n_chosen,
        }
    }
}

/// Per-example results.
///
/// # Shapes
/// Each (B).
#[derive(Debug, Clone)]
pub struct PreferenceLosses {
    /// Loss, differentiable.
    pub losses: Tensor,
    /// beta times the chosen side's log-ratio, in the objective's own reduction.
    pub chosen_rewards: Tensor,
    /// beta times the rejected side's log-ratio.
    pub rejected_rewards: Tensor,
}

impl PreferenceLosses {
    /// Implicit reward margins, chosen minus rejected.
    ///
    /// # Shapes
    /// (B).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn margins(&self) -> Result<Tensor> {
        Ok((&self.chosen_rewards - &self.rejected_rewards)?)
    }
}

/// Summed log-ratios against the reference: chosen, rejected.
fn log_ratios(logps: &PreferenceLogps) -> Result<(Tensor, Tensor)> {
    Ok((
        (&logps.chosen_logps - &logps.reference_chosen_logps)?,
        (&logps.rejected_logps - &logps.reference_rejected_logps)?,
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Log-probabilities of responses of 2 and 4 tokens, with a reference of 0.
    fn logps(chosen: &Var, rejected: &Var) -> PreferenceLogps {
        let of = |x: f64| Tensor::full(x, chosen.shape(), &Device::Cpu).unwrap();
        PreferenceLogps {
            chosen_logps: chosen.as_tensor().clone(),
            rejected_logps: rejected.as_tensor().clone(),
            reference_chosen_logps: of(0.0),
            reference_rejected_logps: of(0.0),
            n_chosen: of(2.0),
            n_rejected: of(4.0),
        }
    }

    fn config(name: ObjectiveKind) -> ObjectiveConfig {
        ObjectiveConfig { name, ..ObjectiveConfig::default() }.resolved()
    }

    fn value(name: ObjectiveKind, chosen: f64, rejected: f64) -> f64 {
        let (c, r) = (Var::new(&[chosen], &Device::Cpu).unwrap(), Var::new(&[rejected], &Device::Cpu).unwrap());
        config(name).losses(&logps(&c, &r)).unwrap().losses.to_vec1::<f64>().unwrap()[0]
    }

    #[test]
    fn at_the_reference() {
        use ObjectiveKind as K;
        let ln2 = std::f64::consts::LN_2;
        assert!((value(K::Dpo, 0.0, 0.0) - ln2).abs() < 1e-12);
        assert!((value(K::Cdpo, 0.0, 0.0) - ln2).abs() < 1e-12);
        // rDPO: (0.9 - 0.1) ln 2 / 0.8 = ln 2
        assert!((value(K::Rdpo, 0.0, 0.0) - ln2).abs() < 1e-12);
        assert!((value(K::Mix, 0.0, 0.0) - ln2).abs() < 1e-12);
        // (1 / (2 * 0.1))^2 = 25
        assert!((value(K::Ipo, 0.0, 0.0) - 25.0).abs() < 1e-9);
    }

    #[test]
    fn worked_by_hand() {
        use ObjectiveKind as K;
        // chosen -10 over 2 tokens, rejected -30 over 4: D = 20, beta D = 2; sigmoid(2) = 0.8807971.
        let ls = 0.880_797_077_977_882_3f64.ln();
        let ls_minus = (1.0 - 0.880_797_077_977_882_3f64).ln();
        assert!((value(K::Dpo, -10.0, -30.0) + ls).abs() < 1e-12);
        assert!((value(K::Cdpo, -10.0, -30.0) + 0.9 * ls + 0.1 * ls_minus).abs() < 1e-12);
        assert!((value(K::Rdpo, -10.0, -30.0) - (-0.9 * ls + 0.1 * ls_minus) / 0.8).abs() < 1e-12);
        let p = 0.880_797_077_977_882_3f64;
        assert!((value(K::Mix, -10.0, -30.0) + (0.9 * p + 0.1 * (1.0 - p)).ln()).abs() < 1e-12);
        // means -5 and -7.5: D' = 2.5; (2.5 - 5)^2 = 6.25
        assert!((value(K::Ipo, -10.0, -30.0) - 6.25).abs() < 1e-12);
        // SimPO: 2 * 2.5 - 2 * 0.5 = 4; softplus(-4) = 0.01814993
        assert!((value(K::Simpo, -10.0, -30.0) - 0.018_149_927_917).abs() < 1e-9);
        // SFT: 10 / 2
        assert!((value(K::Sft, -10.0, -30.0) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn a_flip_rate_for_each_example() {
        let (c, r) =
            (Var::new(&[-10.0, -10.0], &Device::Cpu).unwrap(), Var::new(&[-30.0, -30.0], &Device::Cpu).unwrap());
        let rates = Var::new(&[0.1, 0.3], &Device::Cpu).unwrap();
        let of = |name, rates| {
            let losses = config(name).losses_with(&logps(&c, &r), rates).unwrap().losses;
            (losses.to_vec1::<f64>().unwrap(), losses.sum_all().unwrap().backward().unwrap())
        };
        let (losses, grads) = of(ObjectiveKind::Mix, Some(rates.as_tensor()));
        // sigmoid(2) = 0.8807971. The fixed rate of 0.1 gives the first one.
        let p = 0.880_797_077_977_882_3f64;
        for (got, e) in losses.iter().zip([0.1, 0.3]) {
            assert!((got + ((1.0 - e) * p + e * (1.0 - p)).ln()).abs() < 1e-12);
        }
        assert!((losses[0] - of(ObjectiveKind::Mix, None).0[0]).abs() < 1e-12);
        // d loss / d e = (2p - 1) / ((1-e) p + e (1-p))
        for (got, e) in grads.get(&rates).unwrap().to_vec1::<f64>().unwrap().iter().zip([0.1, 0.3]) {
            assert!((got - (2.0 * p - 1.0) / ((1.0 - e) * p + e * (1.0 - p))).abs() < 1e-12);
        }
        // Other objectives ignore it.
        assert_eq!(of(ObjectiveKind::Dpo, Some(rates.as_tensor())).0, of(ObjectiveKind::Dpo, None).0);
    }

    #[test]
    fn an_objective_of_ones_own() {
        fn hinge(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
            let found = dpo::dpo(config, logps)?;
            Ok(PreferenceLosses { losses: found.margins()?.affine(-1.0, 1.0)?.relu()?, ..found })
        }
        let custom = Some(CustomObjective { name: "hinge", losses: hinge });
        let config = ObjectiveConfig { custom, ..config(ObjectiveKind::Dpo) };
        // D = -5: beta D = -0.5, and 1 + 0.5 is left of the hinge.
        let (c, r) = (Var::new(&[-15.0f64], &Device::Cpu).unwrap(), Var::new(&[-10.0f64], &Device::Cpu).unwrap());
        assert_eq!(config.losses(&logps(&c, &r)).unwrap().losses.to_vec1::<f64>().unwrap(), [1.5]);
        // It is recorded by its name, and is no setting.
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["custom"], "hinge");
        assert!(serde_json::from_value::<ObjectiveConfig>(written).is_err());
    }

    #[test]
    fn swapping_the_sides_negates_margins() {
        use ObjectiveKind as K;
        let (a, b) = (Var::new(&[-3.0f64], &Device::Cpu).unwrap(), Var::new(&[-8.0f64], &Device::Cpu).unwrap());
        for kind in [K::Dpo, K::Cdpo, K::Rdpo, K::Mix] {
            let forth = config(kind).losses(&logps(&a, &b)).unwrap().margins().unwrap().to_vec1::<f64>().unwrap()[0];
            let back = config(kind).losses(&logps(&b, &a)).unwrap().margins().unwrap().to_vec1::<f64>().unwrap()[0];
            assert_eq!(forth, -back);
            assert!((forth - 0.5).abs() < 1e-12);
        }
    }

    #[test]
    fn units_are_those_of_the_losses() {
        use ObjectiveKind as K;
        assert_eq!((config(K::Dpo).loss_unit(), config(K::Ipo).loss_unit()), (1.0, 25.0));
        // IPO's slope falls linearly to 0 at 1/2, so that half of it is left at 1/4.
        assert_eq!((config(K::Dpo).margin_unit(), config(K::Ipo).margin_unit()), (1.0, 0.25));
        let (c, r) = (Var::new(&[-10.0f64], &Device::Cpu).unwrap(), Var::new(&[-30.0f64], &Device::Cpu).unwrap());
        // A chosen response one nat more probable moves the margin by its scale.
        for kind in [K::Dpo, K::Rdpo, K::Mix, K::Ipo, K::Simpo] {
            let margin =
                |c: &Var| config(kind).losses(&logps(c, &r)).unwrap().margins().unwrap().to_vec1::<f64>().unwrap()[0];
            let moved = margin(&Var::new(&[-9.0f64], &Device::Cpu).unwrap()) - margin(&c);
            assert!((moved - config(kind).margin_scales(2, 4).0).abs() < 1e-12, "{kind:?}");
        }
        assert_eq!(config(K::Simpo).margin_scales(2, 4), (1.0, 0.5));
    }

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
            ObjectiveConfig { name: ObjectiveKind::Mix, mix_flip: MixFlip::Learned, ..config(ObjectiveKind::Dpo) };
        assert!(zero.faults().is_empty());
        assert_eq!(ObjectiveConfig { label_smoothing: 0.0, ..zero }.faults().len(), 1);
        assert!(ObjectiveConfig::default().faults().is_empty());
    }
}
