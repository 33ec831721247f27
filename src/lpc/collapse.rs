//! How codes collapse: the signs, their likely cause, and the settings that help.
//!
//! The causes were found on planted data, where the right codes are known. The thresholds below separate the runs that
//! had a cause from those that did not.

use super::config::{Grouping, Inference, LpcConfig, Normalise, PriorInput};
use super::usage::Usage;

/// How the codes have collapsed, in words: all examples on one code, or every example on all codes alike. None where
/// they have not.
///
/// `usage` is the prior's over all examples, `posterior_entropy` the mean entropy of the posterior in nats.
pub fn collapse(usage: &Usage, posterior_entropy: f64) -> Option<&'static str> {
    let k = usage.mass.len();
    if k < 2 || usage.examples == 0 {
        None
    } else if usage.codes_used() <= 1 {
        Some("all examples are on one code")
    } else if posterior_entropy > ALIKE * (k as f64).ln() {
        Some("every example is spread over all codes alike, so that they say nothing")
    } else {
        None
    }
}

/// Share of ln K from which on a distribution is spread over all codes alike.
const ALIKE: f64 = 0.98;
/// The same for distributions as they are before training, which are not quite equal.
const NEARLY_ALIKE: f64 = 0.9;
/// Share of ln K below which a distribution has decided.
const DECIDED: f64 = 0.1;
/// Effective codes of the prior below which the prompt says nearly nothing of the code: a prior that knows no more
/// than the source reaches 1.6 on planted data.
const TELLS_NOTHING: f64 = 1.5;
/// KL in nats below which posterior and prior are the same.
const SAME: f64 = 0.02;
/// KL in nats above which the posterior is far from the prior.
const FAR: f64 = 0.5;
/// Swap overlap from which on the posterior ignores the label.
const IGNORED: f64 = 0.95;
/// Swap overlap below which the label decides the code.
const DECISIVE: f64 = 0.5;
/// Size of a code, as the deviation of the reward margin that it gives, below which two epochs do not tell codes apart.
const SMALL: f64 = 0.1;
/// Size from which on random codes saturate the loss.
const LARGE: f64 = 5.0;

/// What a run shows of its codes. Means are over examples; entropies and KL are in nats.
///
/// A number that is not known is NaN or `None`; no cause is then found by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CollapseSigns {
    /// K.
    pub codes: usize,
    /// Codes that the prior uses ([`Usage::codes_used`]).
    pub used_prior: usize,
    /// Codes that the posterior uses.
    pub used_posterior: usize,
    /// Perplexity of the mean prior ([`Usage::perplexity`]), 1 to K.
    pub perplexity: f64,
    /// Mean entropy of the prior, 0 to ln K.
    pub prior_entropy: f64,
    /// Mean entropy of the posterior, 0 to ln K.
    pub posterior_entropy: f64,
    /// Mean KL of the posterior from the prior.
    pub kl: f64,
    /// Mean overlap sum_k sqrt(q_k q'_k) of the posteriors of a pair and of the same pair with its answers
    /// swapped: 1 where the posterior ignores the label.
    pub swap_overlap: Option<f64>,
    /// Share of the examples for which prior and posterior have the same most probable code.
    pub agreement: Option<f64>,
    /// Whether the posterior is Bayes' own (`train.lpc.inference = bayes`) rather than a network's.
    pub bayes: bool,
    /// Weight lambda of the KL.
    pub kl_weight: f64,
    /// Weight of the usage balance.
    pub balance: f64,
    /// Size of the codes at the start: the deviation of the reward margin that a fresh code gives a pair.
    pub code_init: f64,
    /// Whether the posterior was inferred over all pairs of a group rather than of each pair alone.
    pub grouped: bool,
}

/// A known cause of collapse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The first code that gains along the prior inputs' common direction takes every prompt.
    OneCodeTakesAll,
    /// The usage balance holds the prior at uniform.
    PinnedToUniform,
    /// The posterior takes whichever code likes the observed order.
    LabelsExplainedAway,
    /// The posterior network has not learned to use the label.
    LabelIgnored,
    /// The codes are too small to come apart.
    CodesTooSmall,
    /// Random codes decide every pair from the first step on.
    CodesTooLarge,
    /// One label for each latent does not say which code it was.
    NotIdentified,
}

impl Cause {
    /// The cause in words.
    pub fn why(self) -> &'static str {
        match self {
            Cause::OneCodeTakesAll => {
                "the prior's inputs share a large common direction, and the first code that gains along it takes \
                 every prompt"
            }
            Cause::PinnedToUniform => "the usage balance is strong enough to hold the prior at uniform",
            Cause::LabelsExplainedAway => {
                "with a KL weight below 1 the posterior takes whichever code likes the observed order, and the prior \
                 is not made to follow"
            }
            Cause::LabelIgnored => "the posterior network has not learned to use the label",
            Cause::CodesTooSmall => "the codes are too small to come apart",
            Cause::CodesTooLarge => "random codes of this size decide every pair before they have learned anything",
            Cause::NotIdentified => {
                "the prompt does not tell what decided, and the label of a single pair cannot tell it either"
            }
        }
    }

    /// Dotted keys and what to do with them, the most promising first.
    pub fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Cause::OneCodeTakesAll => &[
                ("train.lpc.normalise", "standardise the prior's input in every dimension"),
                ("train.lpc.prior_input", "let the prior see the prompt's tokens rather than the last hidden state"),
                ("train.lpc.warmup", "let the codes learn before the backbone moves"),
            ],
            Cause::PinnedToUniform => &[("train.lpc.balance", "lower it, or let it fade out")],
            Cause::LabelsExplainedAway => &[
                ("train.lpc.kl_weight", "1 makes the loss a bound on the likelihood of the labels"),
                ("train.lpc.inference", "bayes needs no posterior network"),
            ],
            Cause::LabelIgnored => &[
                ("train.lpc.inference", "bayes needs no posterior network"),
                ("train.lpc.kl_weight", "let it rise from 0 (train.lpc.kl_warmup)"),
            ],
            Cause::CodesTooSmall => &[
                ("train.lpc.code_init", "raise it: it wants to be about 0.5"),
                ("train.lpc.code_lr", "raise it: the default is 0.2"),
            ],
            Cause::CodesTooLarge => &[("train.lpc.code_init", "lower it: it wants to be about 0.5")],
            Cause::NotIdentified => &[
                ("train.lpc.group", "infer one code for all pairs of a prompt or an annotator"),
                ("train.lpc.prior_input", "where the prompt does tell, let the prior see more of it"),
            ],
        }
    }
}

impl Cause {
    /// [`Cause::settings`] without those that already are what is advised, or have no effect beside the others.
    fn open_settings(self, config: &LpcConfig) -> Vec<(&'static str, &'static str)> {
        let done = |key: &str| match key {
            "train.lpc.normalise" => config.normalise == Normalise::Standardise || !config.prior_input.states(),
            "train.lpc.prior_input" if self == Cause::NotIdentified => config.prior_input == PriorInput::Both,
            "train.lpc.prior_input" => config.prior_input == PriorInput::Tokens,
            "train.lpc.warmup" => config.warmup > 0.0,
            "train.lpc.inference" => config.inference == Inference::Bayes,
            "train.lpc.kl_weight" if self == Cause::LabelIgnored => config.kl_warmup > 0.0,
            "train.lpc.code_lr" => config.code_lr >= LpcConfig::default().code_lr,
            "train.lpc.group" => config.group == Grouping::Prompt,
            _ => false,
        };
        self.settings().iter().copied().filter(|(key, _)| !done(key)).collect()
    }
}

/// One cause that a run shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The likely cause.
    pub cause: Cause,
    /// What is seen, with the numbers.
    pub seen: String,
    /// Dotted keys that the run can change, and what to do with them, the most promising first.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; likely {}. ", self.seen, self.cause.why())?;
        if self.settings.is_empty() {
            return f.write_str("The settings that help are set already");
        }
        let settings: Vec<String> = self.settings.iter().map(|(key, change)| format!("{key} ({change})")).collect();
        write!(f, "What helps: {}", settings.join("; "))
    }
}

/// The known causes of collapse that a run with these settings shows, the surest first; none for a run whose prior tells examples apart.
///
/// A sign is no proof: each advice names the numbers that it is based on.
///
/// # Source
/// One code takes all, explaining away, sizes: our study on planted data. Swap overlap: SPL (arXiv 2603.12595).
/// Identifiability: EM-DPO (arXiv 2510.15716).
pub fn diagnose(signs: CollapseSigns, config: &LpcConfig) -> Vec<Advice> {
    let s = signs;
    if s.codes < 2 {
        return Vec::new();
    }
    let (k, most) = (s.codes, (s.codes as f64).ln());
    // e to the mutual information of example and code.
    let effective = s.perplexity / s.prior_entropy.exp();
    let tells_nothing = effective < TELLS_NOTHING;
    let overlap = s.swap_overlap.map_or_else(String::new, |o| format!(", swap overlap {o:.2}"));
    let size = s.code_init;
    let mut found = Vec::new();
    let mut advise = |shown: bool, cause: Cause, seen: String| {
        if shown {
            found.push(Advice { cause, seen, settings: cause.open_settings(config) });
        }
    };
    advise(
        s.used_prior <= 1 && s.prior_entropy < NEARLY_ALIKE * most,
        Cause::OneCodeTakesAll,
        format!("{} of {k} codes used by the prior, perplexity {:.2}", s.used_prior, s.perplexity),
    );
    advise(
        s.balance > 0.0 && s.perplexity > ALIKE * k as f64 && tells_nothing,
        Cause::PinnedToUniform,
        format!(
            "perplexity {:.2} of {k}, but only {effective:.2} effective codes, balance {}",
            s.perplexity, s.balance
        ),
    );
    let apart = s.agreement.map_or(s.kl > FAR, |share| share < 0.5);
    let differ = s.agreement.map_or(format!("KL {:.2} nats", s.kl), |share| {
        format!("prior and posterior on the same code in {:.0} %", 100.0 * share)
    });
    let explained = s.kl_weight < 1.0 && s.swap_overlap.is_some_and(|o| o < DECISIVE) && apart;
    advise(explained, Cause::LabelsExplainedAway, format!("{differ}{overlap}, KL weight {}", s.kl_weight));
    // Posteriors as they are before training: spread over all codes, and near their priors.
    let asleep = s.kl < SAME && s.posterior_entropy > NEARLY_ALIKE * most;
    advise(
        asleep && size < SMALL && s.swap_overlap.is_none_or(|o| o >= IGNORED),
        Cause::CodesTooSmall,
        format!("KL {:.4} nats{overlap}, codes of size {}", s.kl, s.code_init),
    );
    advise(
        !s.bayes && s.kl < SAME && s.swap_overlap.is_some_and(|o| o >= IGNORED) && tells_nothing && size >= SMALL,
        Cause::LabelIgnored,
        format!("KL {:.4} nats{overlap}", s.kl),
    );
    advise(
        size >= LARGE && s.posterior_entropy < DECIDED * most && tells_nothing,
        Cause::CodesTooLarge,
        format!("posterior entropy {:.2} of {most:.2} nats, codes of size {}", s.posterior_entropy, s.code_init),
    );
    advise(
        !s.grouped
            && !explained
            && tells_nothing
            && s.used_posterior > 1
            && s.kl >= SAME
            && s.swap_overlap.is_some_and(|o| o < IGNORED),
        Cause::NotIdentified,
        format!(
            "{effective:.2} effective codes of the prior, KL {:.2} nats{overlap}: the label moves the code, the prompt \
             does not",
            s.kl
        ),
    );
    found
}

#[cfg(test)]
mod tests;
