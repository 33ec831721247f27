//! Preference objectives: pure per-example functions of sequence log-probabilities.
//!
//! The objective decides how log-probabilities are reduced over response tokens: DPO and its relatives take the sum,
//! SimPO the mean, IPO either. The caller takes the mean over examples; for Dr.DPO, whose losses of pairs are those of
//! DPO, it joins them by [`drdpo::joined`].
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

mod config;
mod dpo;
pub mod drdpo;
#[cfg(test)]
mod fixture;
mod hoelder;
mod ipo;
mod logps;
mod mix;
mod repo;
mod ropo;
mod sft;
mod simpo;
mod units;

use candle_core::Tensor;

use crate::error::{Error, Result};
pub use config::{CustomObjective, MixFlip, OWN_DEFAULT, ObjectiveConfig, ObjectiveKind, Reduction, RepoBase};
pub use drdpo::LogSum;
pub use hoelder::hoelder_suspects;
pub use logps::{PreferenceLogps, PreferenceLosses};

impl ObjectiveConfig {
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
        let beta = self.reward_beta();
        if beta == OWN_DEFAULT {
            return Err(Error::run("objective: the configuration was not resolved"));
        }
        if beta != self.beta {
            return ObjectiveConfig { beta, ..self.clone() }.losses_with(logps, flips);
        }
        if let Some(custom) = &self.custom {
            return (custom.losses)(self, logps);
        }
        match self.name {
            ObjectiveKind::Dpo | ObjectiveKind::Drdpo => dpo::dpo(self, logps),
            ObjectiveKind::Cdpo => dpo::cdpo(self, logps),
            ObjectiveKind::Rdpo => dpo::rdpo(self, logps),
            ObjectiveKind::Ropo => ropo::ropo(self, logps),
            ObjectiveKind::Hoelder => hoelder::hoelder(self, logps),
            ObjectiveKind::Repo => repo::repo(self, logps),
            ObjectiveKind::Mix => mix::mix(self, logps, flips),
            ObjectiveKind::Ipo => ipo::ipo(self, logps),
            ObjectiveKind::Simpo => simpo::simpo(self, logps),
            ObjectiveKind::Sft => sft::sft(self, logps),
        }
    }

    /// The probability of each pair that its observed label is right, a constant, where the objective infers it
    /// (RE-PO's w); none elsewhere.
    ///
    /// # Shapes
    /// (B).
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn clean_probabilities(&self, logps: &PreferenceLogps) -> Result<Option<Tensor>> {
        self.clean_rate().map(|_| repo::clean(self, logps)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::fixture::config;
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
        // SFT: 10 / 2, and rewards of a tenth of the log-ratios.
        assert!((value(K::Sft, -10.0, -30.0) - 5.0).abs() < 1e-12);
        let (c, r) = (Var::new(&[-10.0f64], &Device::Cpu).unwrap(), Var::new(&[-30.0f64], &Device::Cpu).unwrap());
        assert_eq!(config(K::Sft).losses(&logps(&c, &r)).unwrap().margins().unwrap().to_vec1::<f64>().unwrap(), [2.0]);
        assert_eq!(config(K::Sft).margin_scales(2, 4), (0.1, 0.1));
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
}
