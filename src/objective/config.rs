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
    /// Distributionally robust DPO: pairs of a high loss count less (Wu et al. 2025).
    Drdpo,
    /// Robust preference optimisation: a loss that tolerates wrong labels (Liang et al. 2025).
    Ropo,
    /// Hölder-DPO: a bounded loss, on which wrong labels far out have no influence (Fujisawa et al. 2025).
    Hoelder,
    /// RE-PO: DPO, IPO or SimPO weighted by the inferred probability that a label is right (Cao et al. 2026).
    Repo,
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

/// The loss that RE-PO makes robust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RepoBase {
    /// That of DPO.
    #[default]
    Dpo,
    /// That of IPO.
    Ipo,
    /// That of SimPO.
    Simpo,
}

impl RepoBase {
    /// The objective with this loss.
    pub(super) fn kind(self) -> ObjectiveKind {
        match self {
            RepoBase::Dpo => ObjectiveKind::Dpo,
            RepoBase::Ipo => ObjectiveKind::Ipo,
            RepoBase::Simpo => ObjectiveKind::Simpo,
        }
    }
}

/// Value of a setting that stands for the objective's own default.
pub const OWN_DEFAULT: f64 = -1.0;

settings! {
    /// An objective and its constants.
    pub struct ObjectiveConfig at "train.objective" {
        /// Which objective.
        pub name: ObjectiveKind = ObjectiveKind::Dpo;
        /// Strength of the reference (DPO's beta; IPO's tau); -1 = 0.1, for SimPO 2.0 (as RE-PO's base too).
        pub beta: f64 = OWN_DEFAULT, used "all but sft" if |c| c.name != ObjectiveKind::Sft;
        /// Assumed flip probability of cDPO, rDPO and mix, 0 to below 0.5; -1 = 0.1 there. Where it is learned, its
        /// start.
        pub label_smoothing: f64 = OWN_DEFAULT, used "cdpo, rdpo or mix" if |c| c.name.smooths();
        /// Where mix has its flip probability from.
        pub mix_flip: MixFlip = MixFlip::Fixed, used "mix" if |c| c.name == ObjectiveKind::Mix;
        /// SimPO's target margin over beta; -1 = 0.5 there.
        pub gamma_beta_ratio: f64 = OWN_DEFAULT, used "simpo"
            if |c| c.pair_loss() == ObjectiveKind::Simpo;
        /// IPO's reduction.
        pub reduction: Reduction = Reduction::Mean, used "ipo" if |c| c.pair_loss() == ObjectiveKind::Ipo;
        /// ROPO's alpha, above 2: weight of its bounded term.
        pub ropo_alpha: f64 = 14.0, used "ropo" if |c| c.name == ObjectiveKind::Ropo;
        /// Hölder-DPO's gamma, above 0 and at most 100: how strongly it turns from labels that the policy contradicts.
        pub hoelder_gamma: f64 = 2.0, used "hoelder" if |c| c.name == ObjectiveKind::Hoelder;
        /// Dr.DPO's beta', above 0: the larger, the nearer to DPO.
        pub drdpo_beta: f64 = 1.0, used "drdpo" if |c| c.name == ObjectiveKind::Drdpo;
        /// The loss that RE-PO makes robust.
        pub repo_base: RepoBase = RepoBase::Dpo, used "repo" if |c| c.name == ObjectiveKind::Repo;
        /// RE-PO's clean rate at the first step: the share of labels taken to be right, above 0.5 to 1.
        pub repo_clean_rate: f64 = 0.9, used "repo" if |c| c.name == ObjectiveKind::Repo;
        /// Share of a step's mean clean probability in RE-PO's next clean rate, 0 to 1; 0 = the rate stays.
        pub repo_ema: f64 = 0.1, used "repo with a clean rate below 1"
            if |c| c.name == ObjectiveKind::Repo && c.repo_clean_rate != 1.0;
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
        let alpha = config.ropo_alpha;
        let fine = alpha > 2.0 && alpha.is_finite();
        faults.check(fine, "ropo_alpha", format!("expected a number above 2, got {alpha}"));
        let gamma = config.hoelder_gamma;
        let fine = gamma > 0.0 && gamma <= 100.0;
        faults.check(fine, "hoelder_gamma", format!("expected a number above 0, at most 100, got {gamma}"));
        let beta = config.drdpo_beta;
        let fine = beta > 0.0 && beta.is_finite();
        faults.check(fine, "drdpo_beta", format!("expected a number above 0, got {beta}"));
        let rate = config.repo_clean_rate;
        let fine = rate > 0.5 && rate <= 1.0;
        faults.check(fine, "repo_clean_rate", format!("expected a number above 0.5, at most 1, got {rate}"));
        let share = config.repo_ema;
        faults.check((0.0..=1.0).contains(&share), "repo_ema", format!("expected 0 to 1, got {share}"));
    }

    fn why_unused(&self, name: &str, used_by: &str) -> String {
        let kind = format!("{:?}", crate::schema::name_of(&self.name));
        if name == "repo_ema" && self.name == ObjectiveKind::Repo {
            return "has no effect with repo_clean_rate = 1: no label is then taken to be wrong".into();
        }
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
            beta: match self.pair_loss() {
                K::Sft => OWN_DEFAULT,
                K::Simpo => or(self.beta, 2.0),
                _ => or(self.beta, 0.1),
            },
            label_smoothing: if self.name.smooths() { or(self.label_smoothing, 0.1) } else { OWN_DEFAULT },
            gamma_beta_ratio: if self.pair_loss() == K::Simpo { or(self.gamma_beta_ratio, 0.5) } else { OWN_DEFAULT },
            ..self.clone()
        }
    }

    /// Whether the objective compares with a reference model.
    pub fn needs_reference(&self) -> bool {
        !matches!(self.pair_loss(), ObjectiveKind::Simpo | ObjectiveKind::Sft)
    }

    /// The objective whose rewards, reference and scale this one has: RE-PO's base, else itself.
    pub fn pair_loss(&self) -> ObjectiveKind {
        if self.name == ObjectiveKind::Repo { self.repo_base.kind() } else { self.name }
    }

    /// Dr.DPO's beta' where the pairs of a step are joined by [`drdpo::joined`](super::drdpo::joined); none where their
    /// losses are averaged.
    pub fn joins(&self) -> Option<f64> {
        (self.name == ObjectiveKind::Drdpo && self.custom.is_none()).then_some(self.drdpo_beta)
    }

    /// RE-PO's clean rate, with which the losses are computed; none for other objectives.
    pub fn clean_rate(&self) -> Option<f64> {
        (self.name == ObjectiveKind::Repo && self.custom.is_none()).then_some(self.repo_clean_rate)
    }

    /// The same at another clean rate, where there is one.
    #[must_use]
    pub fn at_clean_rate(&self, rate: Option<f64>) -> ObjectiveConfig {
        ObjectiveConfig { repo_clean_rate: rate.unwrap_or(self.repo_clean_rate), ..self.clone() }
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
    use clap::ValueEnum;

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

    #[test]
    fn a_resolved_configuration_can_be_given_again() {
        for name in ObjectiveKind::value_variants() {
            let config = ObjectiveConfig { name: *name, ..ObjectiveConfig::default() }.resolved();
            assert_eq!(config.faults(), [], "{name:?}");
            assert_eq!(config.resolved(), config);
        }
    }

    #[test]
    fn constants_of_robust_objectives_have_ranges_and_effects() {
        use ObjectiveKind as K;
        let keys = |c: ObjectiveConfig| c.faults().into_iter().map(|f| f.key).collect::<Vec<_>>();
        let given = |name| ObjectiveConfig {
            name,
            ropo_alpha: 2.0,
            hoelder_gamma: 0.0,
            drdpo_beta: -1.0,
            repo_base: RepoBase::Simpo,
            repo_clean_rate: 0.5,
            repo_ema: 1.5,
            ..ObjectiveConfig::default()
        };
        // Where a constant is used it is out of range, and elsewhere it has no effect: all are told in either case.
        for name in [K::Dpo, K::Ropo, K::Hoelder, K::Drdpo] {
            assert_eq!(keys(given(name)).len(), 6, "{name:?}");
        }
        let repo = keys(given(K::Repo));
        assert!(["repo_clean_rate", "repo_ema"].iter().all(|k| repo.contains(&format!("train.objective.{k}"))));
        assert_eq!(repo.len(), 5, "its base is fine");
        for name in [K::Drdpo, K::Ropo, K::Hoelder, K::Repo] {
            let fine = ObjectiveConfig { name, ..ObjectiveConfig::default() };
            assert!(fine.faults().is_empty() && fine.needs_reference(), "{name:?}");
        }
        // What RE-PO's base uses is used.
        let simpo = ObjectiveConfig { name: K::Repo, repo_base: RepoBase::Simpo, ..ObjectiveConfig::default() };
        assert!(!simpo.needs_reference());
        assert_eq!((simpo.resolved().beta, simpo.resolved().gamma_beta_ratio), (2.0, 0.5));
        assert!(ObjectiveConfig { gamma_beta_ratio: 0.3, ..simpo.clone() }.faults().is_empty());
        assert_eq!(keys(ObjectiveConfig { reduction: Reduction::Sum, ..simpo }), ["train.objective.reduction"]);
        let sure = ObjectiveConfig { name: K::Repo, repo_clean_rate: 1.0, ..ObjectiveConfig::default() };
        assert!(sure.faults().is_empty());
        assert_eq!(keys(ObjectiveConfig { repo_ema: 0.3, ..sure }), ["train.objective.repo_ema"]);
    }
}
