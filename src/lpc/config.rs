//! Options of the latent part; each choice that the paper leaves open is one of them.

use serde::{Deserialize, Serialize};

use super::{Moment, effects};
use crate::error::Fault;

/// Which latent variable, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LatentKind {
    /// `lpc` for preference objectives, `none` for SFT.
    #[default]
    Auto,
    /// No latent: the plain objective.
    None,
    /// Relaxed mixtures of codes.
    Lpc,
    /// One code at a time, straight-through.
    LpcHard,
    /// Relaxed mixtures of codes, each with a flip rate of its own; for objective `mix`.
    LpcReliable,
    /// A variational autoencoder of the same size: normal prior and posterior over a few directions.
    Gaussian,
    /// Control: z = MLP(prompt), as many parameters; no codes, no posterior, no divergence.
    Mlp,
    /// Control: one learned z for all.
    Bias,
}

impl LatentKind {
    /// Its name in settings.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
    }

    /// Whether there are codes. [`LatentKind::Auto`] counts as what it stands for over pairs.
    pub fn coded(self) -> bool {
        matches!(self, LatentKind::Auto | LatentKind::Lpc | LatentKind::LpcHard | LatentKind::LpcReliable)
    }

    /// Whether there is a posterior, which sees the observed order of the pair.
    pub fn inferred(self) -> bool {
        self.coded() || self == LatentKind::Gaussian
    }
}

/// What represents a response to the posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The last token's hidden state.
    Last,
    /// The mean over the response's hidden states.
    #[default]
    Mean,
}

/// How the two responses are joined for the posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// Side by side: the networks also see what both share, the prompt among it.
    #[default]
    Concat,
    /// Chosen minus rejected.
    Difference,
}

/// How g moves training from the posterior's z to the prior's (paper Eq. 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mixture {
    /// From 0 to 1 over the run.
    #[default]
    Linear,
    /// g = 0: always the posterior's.
    Posterior,
    /// g = 1: always the prior's.
    Prior,
}

/// How the temperature moves from its first to its last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It does not.
    #[default]
    Constant,
    /// In a line.
    Linear,
    /// By a constant factor each step.
    Exponential,
}

/// Options of the latent part. Defaults other than the paper's come from the study on planted
/// data that the README describes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LpcConfig {
    /// Which latent variable.
    pub latent: LatentKind,
    /// K, at least 1; the paper finds 32 to 64 best at 8 billion parameters. `gaussian` and `mlp` have no codes:
    /// they get as many parameters as `lpc` with K codes and the same `features` would have.
    pub codes: usize,
    /// lambda: weight of KL(q || p); the paper searches 0.01, 0.05, 0.1 and takes 0.05.
    pub kl_weight: f64,
    /// Share of the run over which lambda rises from 0 to its value, 0 to 1.
    pub kl_warmup: f64,
    /// First temperature of the relaxed samples; the paper does not state its own.
    pub temperature: f64,
    /// Last temperature; without effect where the schedule is constant.
    pub temperature_end: f64,
    /// How the temperature moves.
    pub temperature_schedule: Schedule,
    /// How g moves.
    pub g: Mixture,
    /// What represents a response to the posterior.
    pub pooling: Pooling,
    /// How the two responses are joined.
    pub features: Features,
    /// Whether the networks' inputs are divided by their root mean square: the difference of two pooled responses
    /// is small, and its size says nothing about which factor counted.
    pub normalise: bool,
    /// Sums the loss over all codes by their probability instead of sampling: no noise, K softmaxes over the
    /// vocabulary after one product with the head. The temperature then has no effect.
    pub exact: bool,
    /// Standard deviation of W e_k over the vocabulary at the start, in logits; that of W z for `gaussian`, and its
    /// size for `mlp`.
    pub code_init: f64,
    /// Scale of the inference networks' last layers at the start: 0 = all codes equally probable, 1 = the usual.
    pub head_init: f64,
    /// Weight of the usage balance `sum_k qbar_k ln qbar_k`, qbar being the batch's mean posterior.
    pub balance: f64,
    /// Learning rate of codebook and networks, and of learned flip rates.
    pub lr: f64,
    /// Whether the networks leave the backbone alone (their gradient stops at the hidden states).
    pub detach: bool,
}

impl Default for LpcConfig {
    fn default() -> LpcConfig {
        LpcConfig {
            latent: LatentKind::Auto,
            codes: 8,
            kl_weight: 0.05,
            kl_warmup: 0.0,
            temperature: 1.0,
            temperature_end: 1.0,
            temperature_schedule: Schedule::Constant,
            g: Mixture::Linear,
            pooling: Pooling::Mean,
            features: Features::Concat,
            normalise: true,
            exact: false,
            code_init: 0.3,
            head_init: 1.0,
            balance: 0.5,
            lr: 1e-3,
            detach: false,
        }
    }
}

impl LpcConfig {
    /// Whether there is a latent part.
    pub fn active(&self) -> bool {
        !matches!(self.latent, LatentKind::Auto | LatentKind::None)
    }

    /// Whether there are codes.
    pub fn coded(&self) -> bool {
        self.active() && self.latent.coded()
    }

    /// The same without the settings that this latent ignores: for a sweep, whose settings are shared by latents
    /// that each use some of them.
    #[must_use]
    pub fn applicable(&self) -> LpcConfig {
        effects::applicable(self)
    }

    /// Settings out of range or without effect; keys are relative to `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let fault =
            |key: &str, message: String| Fault { origin: String::new(), key: format!("{prefix}.{key}"), message };
        let mut faults: Vec<Fault> = effects::idle(self).into_iter().map(|(key, why)| fault(key, why)).collect();
        // What has no effect need not be in range.
        let config = self.applicable();
        let mut check = |fine: bool, key: &str, message: String| {
            if !fine {
                faults.push(fault(key, message));
            }
        };
        check((1..=4096).contains(&config.codes), "codes", format!("expected 1 to 4096, got {}", config.codes));
        for (key, value) in [
            ("kl_weight", config.kl_weight),
            ("code_init", config.code_init),
            ("head_init", config.head_init),
            ("balance", config.balance),
            ("lr", config.lr),
        ] {
            check(value >= 0.0 && value.is_finite(), key, format!("expected a number from 0, got {value}"));
        }
        let warmup = config.kl_warmup;
        check((0.0..=1.0).contains(&warmup), "kl_warmup", format!("expected 0 to 1, got {warmup}"));
        for (key, value) in [("temperature", config.temperature), ("temperature_end", config.temperature_end)] {
            check(value > 0.0 && value.is_finite(), key, format!("expected a number above 0, got {value}"));
        }
        faults
    }

    /// The schedules after a share `t` (0 to 1) of the run.
    pub fn moment(&self, t: f64) -> Moment {
        let (a, b) = (self.temperature, self.temperature_end);
        Moment {
            g: match self.g {
                Mixture::Linear => t,
                Mixture::Posterior => 0.0,
                Mixture::Prior => 1.0,
            },
            tau: match self.temperature_schedule {
                Schedule::Constant => a,
                Schedule::Linear => a + (b - a) * t,
                Schedule::Exponential => a * (b / a).powf(t),
            },
            kl_weight: if t < self.kl_warmup { self.kl_weight * t / self.kl_warmup } else { self.kl_weight },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_by_hand() {
        let c = LpcConfig {
            temperature: 2.0,
            temperature_end: 0.5,
            temperature_schedule: Schedule::Exponential,
            kl_warmup: 0.5,
            ..LpcConfig::default()
        };
        assert_eq!(c.moment(0.0), Moment { g: 0.0, tau: 2.0, kl_weight: 0.0 });
        assert_eq!(c.moment(0.5), Moment { g: 0.5, tau: 1.0, kl_weight: 0.05 });
        let end = c.moment(1.0);
        assert!((end.tau - 0.5).abs() < 1e-12 && end.g == 1.0);
        let half = c.moment(0.25);
        assert!((half.kl_weight - 0.025).abs() < 1e-12);
    }
}
