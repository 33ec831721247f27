//! Options of the latent part; each choice that the paper leaves open is one of them.

use serde::{Deserialize, Serialize};

use super::step::Moment;
use crate::settings::{Settings, settings};

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
    /// Control: random z in training, of the size of a fresh code, and none in evaluation; nothing is learned.
    Noise,
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

    /// Whether K gives its size: those with codes, and `gaussian` and `mlp`, which are compared with them at equal size.
    pub fn sized(self) -> bool {
        self.inferred() || self == LatentKind::Mlp
    }

    /// Whether it has numbers of the size of a code.
    fn wide(self) -> bool {
        self != LatentKind::None
    }

    /// Whether losses can be summed over codes.
    fn summed(self) -> bool {
        self.coded() && self != LatentKind::LpcHard
    }

    /// Whether it starts at a size.
    fn started(self) -> bool {
        self.sized() || self == LatentKind::Noise
    }

    /// Whether it is trained.
    fn learned(self) -> bool {
        self.sized() || self == LatentKind::Bias
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

/// A named set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// What the study on planted data found best.
    #[default]
    Default,
    /// The paper's own setting, as far as it states one: amortised inference with lambda 0.05, g from 0 to 1, relaxed
    /// samples, vectors in hidden space, everything trained from the first step. Last tokens, and how the networks read
    /// and begin, are our choice.
    Paper,
}

/// How the posterior over codes is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Inference {
    /// By Bayes' rule from the objective under every code; the loss is the exact marginal over codes.
    #[default]
    Bayes,
    /// By a network that reads both responses; the loss is the paper's bound.
    Amortised,
}

/// Which pairs share a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// None: every pair has a code of its own.
    #[default]
    Pair,
    /// All pairs of one prompt.
    Prompt,
}

/// Where codes act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CodeSpace {
    /// Vectors that are added to the hidden states before the output layer, as in the paper.
    Hidden,
    /// Biases on the logits of the most frequent tokens of the training responses.
    #[default]
    Vocabulary,
}

/// What the prior reads of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PriorInput {
    /// Nothing: the same weights for every prompt, a static mixture.
    None,
    /// Hidden states of the backbone.
    States,
    /// Which tokens occur in it, by a table of the prior's own.
    #[default]
    Tokens,
    /// Both.
    Both,
}

impl PriorInput {
    /// Whether hidden states are read.
    pub fn states(self) -> bool {
        matches!(self, PriorInput::States | PriorInput::Both)
    }

    /// Whether tokens are read.
    pub fn tokens(self) -> bool {
        matches!(self, PriorInput::Tokens | PriorInput::Both)
    }
}

/// How hidden states are scaled before a network reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// They are not.
    None,
    /// Divided by their root mean square.
    Rms,
    /// Minus the mean, over the deviation, of each dimension over the training prompts. Hidden states share a large
    /// common direction, along which one code would take every prompt. For the posterior's input, as `rms`.
    #[default]
    Standardise,
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

/// Value of [`LpcConfig::prompt_layer`] that stands for the last hidden states, after the final norm.
pub const LAST_LAYER: i64 = -1;

settings! {
    /// Options of the latent part. Defaults come from the study on planted data in `docs/results.md`; the paper's own
    /// setting is the recipe `pipelines/paper.toml`.
    pub struct LpcConfig at "train.lpc" {
        /// Which latent variable.
        pub latent: LatentKind = LatentKind::Auto;
        /// Where defaults come from; every other setting goes over it.
        pub preset: Preset = Preset::Default;
        /// K, at least 1; the paper finds 32 to 64 best at 8 billion parameters. `gaussian` and `mlp` have no codes:
        /// they get as many parameters as `lpc` with K codes and the same inputs would have, `gaussian`, which has a
        /// network for its posterior, as many as amortised `lpc`.
        pub codes: usize = 16, used "all latents but bias and noise" if |c| c.latent.sized();
        /// How the posterior is found.
        pub inference: Inference = Inference::Bayes, used "lpc and lpc-reliable" if |c| c.latent.summed();
        /// Which pairs share a code; with `prompt`, a prompt's pairs stay in one batch.
        pub group: Grouping = Grouping::Pair, used "lpc and lpc-reliable" if |c| c.latent.summed();
        /// lambda: weight of KL(q || p). 1 makes the loss a likelihood (with `bayes`, the exact one); the paper takes
        /// 0.05. With `bayes` it is in units of the objective: (1 / 2 beta)^2 for IPO (25 at beta 0.1), 2.0 and 0.75 for
        /// ROPO and Hölder-DPO with their defaults, 1 for the others; amortised, in nats.
        pub kl_weight: f64 = 1.0, used "lpc, lpc-hard, lpc-reliable and gaussian" if |c| c.latent.inferred();
        /// Share of the run after the latent part's warm-up over which lambda rises from 0 to its value, 0 to 1. In that
        /// warm-up it is 0, and g and the temperature stand at their first values.
        pub kl_warmup: f64 = 0.0, used "lpc, lpc-hard, lpc-reliable and gaussian" if |c| c.latent.inferred();
        /// First temperature of the relaxed samples; the paper does not state its own.
        pub temperature: f64 = 1.0, used "lpc, lpc-hard and lpc-reliable" if |c| c.latent.coded();
        /// Last temperature; it has no effect where the schedule is constant.
        pub temperature_end: f64 = 1.0, used "lpc, lpc-hard and lpc-reliable" if |c| c.latent.coded();
        /// How the temperature moves.
        pub temperature_schedule: Schedule = Schedule::Constant, used "lpc, lpc-hard and lpc-reliable"
            if |c| c.latent.coded();
        /// How g moves.
        pub g: Mixture = Mixture::Linear, used "lpc, lpc-hard, lpc-reliable and gaussian" if |c| c.latent.inferred();
        /// With `bayes`: share of the loss that is the objective under the prior's expected z, which is what evaluation
        /// and generation take; the rest is the marginal. It stands for g.
        pub expected_weight: f64 = 0.5, used "lpc and lpc-reliable" if |c| c.latent.summed();
        /// What represents a response to the posterior's network.
        pub pooling: Pooling = Pooling::Mean, used "lpc, lpc-hard, lpc-reliable and gaussian"
            if |c| c.latent.inferred();
        /// How the two responses are joined.
        pub features: Features = Features::Concat, used "lpc, lpc-hard, lpc-reliable and gaussian"
            if |c| c.latent.inferred();
        /// Sums the loss over all codes by their probability instead of sampling: no noise. The temperature then has no
        /// effect.
        pub exact: bool = false, used "lpc and lpc-reliable" if |c| c.latent.summed();
        /// What the prior reads of a prompt.
        pub prior_input: PriorInput = PriorInput::Tokens, used "all latents but bias and noise" if |c| c.latent.sized();
        /// Tokens that the prior can tell apart, the most frequent of the training prompts first.
        pub prior_tokens: usize = 4096, used "all latents but bias and noise" if |c| c.latent.sized();
        /// Share of a prompt's known tokens that the prior does not see in a training step: what it learns then holds
        /// for other prompts too.
        pub prior_dropout: f64 = 0.2, used "all latents but bias and noise" if |c| c.latent.sized();
        /// Width of the prior's hidden layer.
        pub prior_width: usize = 64, used "lpc, lpc-hard, lpc-reliable and gaussian" if |c| c.latent.inferred();
        /// What represents a prompt's hidden states.
        pub prompt_pooling: Pooling = Pooling::Mean, used "all latents but bias and noise" if |c| c.latent.sized();
        /// Layer whose hidden states represent a prompt: 0 = embeddings, n = behind layer n, -1 = the last, after the
        /// final norm.
        pub prompt_layer: i64 = LAST_LAYER, used "all latents but bias and noise" if |c| c.latent.sized();
        /// How hidden states are scaled before a network reads them.
        pub normalise: Normalise = Normalise::Standardise, used "all latents but bias and noise" if |c| c.latent.sized();
        /// Where codes act.
        pub code_space: CodeSpace = CodeSpace::Vocabulary, used "all latents" if |c| c.latent.wide();
        /// Tokens on which codes act, the most frequent of the training responses first.
        pub code_tokens: usize = 4096, used "all latents" if |c| c.latent.wide();
        /// Size of the codes at the start: the standard deviation of the reward margin (beta times the difference of
        /// log-ratios, as the objective takes it) that a fresh code gives a training pair; for IPO, whose margins end
        /// at 1/2, a quarter of that; 1.69 and 1.21 times it for ROPO and Hölder-DPO. Also the size of `noise`.
        pub code_init: f64 = 0.5, used "all latents but bias" if |c| c.latent.started();
        /// Learning rate of the codes, in the same unit: it falls to a tenth over the latent part's warm-up, and further
        /// with the run behind it.
        pub code_lr: f64 = 0.2, used "all latents but noise" if |c| c.latent.learned();
        /// Scale of the networks' last layers at the start: 0 = all codes equally probable, 1 = the usual.
        pub head_init: f64 = 1.0, used "lpc, lpc-hard, lpc-reliable and gaussian" if |c| c.latent.inferred();
        /// Weight of the usage balance `sum_k m_k ln m_k`, m being the batch's mean prior (`bayes`) or posterior. It
        /// falls to 0 over the first half of the latent part's warm-up (without one, of the run), so that codes may go
        /// unused in the end.
        pub balance: f64 = 0.3, used "lpc, lpc-hard and lpc-reliable" if |c| c.latent.coded();
        /// Learning rate of the networks, and of learned flip rates; it falls as `code_lr` does.
        pub lr: f64 = 1e-2, used "all latents but noise" if |c| c.latent.learned();
        /// Decoupled weight decay of the codes and of the networks' matrices: a step takes off this times the learning
        /// rate, that of the codes in their unit. Few pairs and many passes over them want it: see `docs/guide.md`.
        pub weight_decay: f64 = 0.0, used "all latents but noise" if |c| c.latent.learned();
        /// Passes over the training pairs, before all others, in which the latent part is trained alone and the
        /// backbone stays as it is; may be a fraction.
        pub warmup: f64 = 4.0, used "all latents but noise" if |c| c.latent.learned();
        /// Whether the networks leave the backbone alone (their gradient stops at the hidden states). It always stops
        /// below the last layer.
        pub detach: bool = true, used "all latents but bias and noise" if |c| c.latent.sized();
    }
}

impl LpcConfig {
    /// These settings without those that the latent ignores.
    pub(super) fn used(&self) -> LpcConfig {
        self.without(|setting| !(setting.used)(self))
    }

    /// The defaults of a preset.
    pub fn of(preset: Preset) -> LpcConfig {
        match preset {
            Preset::Default => LpcConfig::default(),
            Preset::Paper => LpcConfig {
                preset,
                inference: Inference::Amortised,
                kl_weight: 0.05,
                pooling: Pooling::Last,
                prior_input: PriorInput::States,
                prompt_pooling: Pooling::Last,
                normalise: Normalise::Rms,
                code_space: CodeSpace::Hidden,
                code_init: 0.2,
                code_lr: 0.01,
                balance: 0.0,
                lr: 1e-3,
                warmup: 0.0,
                detach: false,
                ..LpcConfig::default()
            },
        }
    }

    /// Whether there is a latent part.
    pub fn active(&self) -> bool {
        !matches!(self.latent, LatentKind::Auto | LatentKind::None)
    }

    /// Whether there are codes.
    pub fn coded(&self) -> bool {
        self.active() && self.latent.coded()
    }

    /// Whether the posterior is Bayes' own: exact sums over codes, no network and no samples.
    pub fn bayesian(&self) -> bool {
        self.inference == Inference::Bayes && matches!(self.latent, LatentKind::Lpc | LatentKind::LpcReliable)
    }

    /// Whether a network gives the posterior.
    pub fn amortised(&self) -> bool {
        self.active() && self.latent.inferred() && !self.bayesian()
    }

    /// Whether hidden states of the prompts are read.
    pub fn reads_states(&self) -> bool {
        self.active() && (self.latent.inferred() || self.latent == LatentKind::Mlp) && self.prior_input.states()
    }

    /// The schedules after a share `t` (0 to 1) of the run, and a share `latent` of what the latent part learns most
    /// in: its warm-up where there is one, else the run.
    pub fn moment(&self, t: f64, latent: f64) -> Moment {
        let (a, b) = (self.temperature, self.temperature_end);
        Moment {
            g: match self.g {
                _ if self.bayesian() => self.expected_weight,
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
            balance: self.balance * (1.0 - 2.0 * latent).max(0.0),
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
            balance: 0.2,
            ..LpcConfig::default()
        };
        assert_eq!(c.moment(0.0, 0.0), Moment { g: 0.0, tau: 2.0, kl_weight: 0.0, balance: 0.2 });
        assert_eq!(c.moment(0.5, 0.5), Moment { g: 0.5, tau: 1.0, kl_weight: 1.0, balance: 0.0 });
        let end = c.moment(1.0, 1.0);
        assert!((end.tau - 0.5).abs() < 1e-12 && end.g == 1.0);
        let half = c.moment(0.25, 0.25);
        assert!((half.kl_weight - 0.5).abs() < 1e-12 && (half.balance - 0.1).abs() < 1e-12);
    }
}
