//! Which labels are flipped, or which pairs are singled out: the settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
use crate::seed::Seed;

/// Which pairs the noise falls on. In all formulas R is `flip_rate` and T is `temperature`; probabilities
/// are cut at 1. A pair is flipped where a number in [0, 1) that depends on (noise seed, id) alone is below
/// its probability, and every probability grows with R: what is flipped at a rate is flipped at every
/// higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FlipKind {
    /// All alike: p = R.
    #[default]
    Uniform,
    /// Annotators that follow Bradley-Terry: p = scale sigmoid(-margin / T), T in score units. At a scale
    /// of 1 it is the probability with which such an annotator prefers the rejected response. Pairs
    /// without two scores get p = R.
    Margin,
    /// Annotators with a taste for length: p = scale sigmoid(ln(rejected / chosen) / T), of the lengths of
    /// the responses in characters plus 1. At T = 1 the sigmoid is the rejected response's share of the
    /// two lengths.
    Length,
    /// A rate for each source: p = R times its rate in `source_rates`, so that R = 1 takes the rates as
    /// they are.
    Source,
    /// A rate for each annotator: p = R times the rate in `annotator_rates`; without such a list p = scale w,
    /// where each annotator's w is drawn uniformly from 1 +- `annotator_spread`. Pairs without an annotator get
    /// p = R.
    Annotator,
    /// Probabilities given by the input's column `flip_probability`: p = R times its value; 0 where it is
    /// null.
    Column,
    /// Singles out the round(R n) pairs with the smallest difference of scores; pairs without two scores
    /// come after all others, by the difference of the lengths of their responses in characters. Ties are
    /// broken by hash. Source: the noise taxonomy of kkminions888-ops/ultrafeedback-dpo-noise-study.
    Ambiguous,
    /// Singles out the round(R n) pairs (or as many as there are) with the lowest chosen score, among those
    /// with a chosen score above the rejected one; ties by the difference of scores, then by hash. Source:
    /// as `ambiguous`.
    WeakQuality,
}

impl FlipKind {
    /// As written in the column `noise_kind`.
    pub fn name(self) -> &'static str {
        match self {
            FlipKind::Uniform => "uniform",
            FlipKind::Margin => "margin",
            FlipKind::Length => "length",
            FlipKind::Source => "source",
            FlipKind::Annotator => "annotator",
            FlipKind::Column => "column",
            FlipKind::Ambiguous => "ambiguous",
            FlipKind::WeakQuality => "weak-quality",
        }
    }

    /// Whether pairs are singled out by rank, rather than flipped by chance.
    pub fn selects(self) -> bool {
        matches!(self, FlipKind::Ambiguous | FlipKind::WeakQuality)
    }

    /// Whether probabilities have a factor in front, fitted to the rate or not.
    pub(super) fn scaled(self) -> bool {
        matches!(self, FlipKind::Margin | FlipKind::Length)
    }
}

/// What becomes of the pairs that `ambiguous` and `weak-quality` single out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Selected {
    /// They keep their label, as in the study: `noise_kind` names the kind, `flipped` is false and
    /// `noise_p` 0.
    #[default]
    Keep,
    /// Their label is flipped: `flipped` is true and `noise_p` 1.
    Flip,
}

/// Label noise.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseConfig {
    /// Share of the labels to flip (the mean probability over all pairs), or of the pairs to single out, in
    /// [0, 1]; for `source`, `column` and listed annotators a factor on the given rates. Default: 0.
    pub flip_rate: f64,
    /// Which pairs the noise falls on. Default: `uniform`.
    pub flip_kind: FlipKind,
    /// Text appended, after a space, to the last user message of the pairs that were flipped or singled
    /// out, as the paper's `[FLIP]`. Default: "" (not marked).
    pub flip_marker: String,
    /// Seed of the flips; 0 (default) is the run's seed.
    pub seed: u64,
    /// T of `margin` (score units) and `length` (log ratio), above 0. Default: 1.
    pub temperature: f64,
    /// Whether the scale of `margin`, `length` and drawn annotators is fitted so that the mean probability over
    /// all pairs is `flip_rate`, which needs all of them at once: not with `--shard`. If not, the scale of
    /// `margin` and `length` is 2 `flip_rate`, so that p = `flip_rate` where nothing speaks for either side, and
    /// annotators have rates in R +- spread min(R, 1 - R), whose mean is R over many annotators alone.
    /// Default: true.
    pub calibrate: bool,
    /// Rates of `source`, as `TAG=RATE`, each in [0, 1]; `*=RATE` stands for all others, which are never
    /// flipped without it. Default: none.
    pub source_rates: Vec<String>,
    /// Rates of `annotator`, as `NAME=RATE`, likewise. Default: none (drawn from the seed).
    pub annotator_rates: Vec<String>,
    /// Simulates this many annotators: each pair belongs to one of them, by hash. Default: 0 (the input's
    /// column `annotator`; pairs without one get p = `flip_rate`).
    pub annotators: usize,
    /// How far the drawn rates of annotators lie around their mean, as a share of it, in [0, 1]. Default: 1.
    pub annotator_spread: f64,
    /// What becomes of the pairs that `ambiguous` and `weak-quality` single out. Default: `keep`.
    pub selected: Selected,
}

impl Default for NoiseConfig {
    fn default() -> Self {
        NoiseConfig {
            flip_rate: 0.0,
            flip_kind: FlipKind::Uniform,
            flip_marker: String::new(),
            seed: 0,
            temperature: 1.0,
            calibrate: true,
            source_rates: Vec::new(),
            annotator_rates: Vec::new(),
            annotators: 0,
            annotator_spread: 1.0,
            selected: Selected::Keep,
        }
    }
}

impl NoiseConfig {
    /// What is wrong with these settings, keys under `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, message: String| {
            faults.push(Fault { origin: String::new(), key: format!("{prefix}{key}"), message });
        };
        let unit = 0.0..=1.0;
        for (key, value) in [("flip_rate", self.flip_rate), ("annotator_spread", self.annotator_spread)] {
            if !unit.contains(&value) {
                fault(key, format!("must be between 0 and 1, got {value}"));
            }
        }
        if !self.temperature.is_finite() || self.temperature <= 0.0 {
            fault("temperature", format!("must be above 0, got {}", self.temperature));
        }
        for (key, lines) in [("source_rates", &self.source_rates), ("annotator_rates", &self.annotator_rates)] {
            if let Err(messages) = Rates::parse(lines) {
                messages.into_iter().for_each(|message| fault(key, message));
            }
        }
        // Without flips nothing here has an effect; a clean run of a noisy recipe is no mistake.
        if self.flip_rate == 0.0 {
            return faults;
        }
        for (key, owners) in self.without_effect() {
            let kind = self.flip_kind.name();
            fault(key, format!("has no effect with --flip-kind {kind}; it belongs to {owners}"));
        }
        if self.flip_kind == FlipKind::Source && self.source_rates.is_empty() {
            fault(
                "source_rates",
                "missing: --flip-kind source needs it, as --set 'prepare.noise.source_rates=[\"TAG=0.3\", \"*=0.1\"]'"
                    .into(),
            );
        }
        if self.flip_kind == FlipKind::Annotator && !self.annotator_rates.is_empty() {
            if self.annotators > 0 {
                fault("annotators", "simulated annotators have drawn rates; leave annotator_rates out".into());
            }
            if self.annotator_spread != NoiseConfig::default().annotator_spread {
                fault("annotator_spread", "has no effect: the rates are listed in annotator_rates".into());
            }
            if !self.calibrate {
                fault("calibrate", "has no effect: the rates are listed in annotator_rates".into());
            }
        }
        faults
    }

    /// Settings that were changed but belong to other kinds than `flip_kind`, with those kinds' names.
    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let (kept, mut found) = (self.applicable(), Vec::new());
        let mut check = |differs: bool, key, owners| {
            if differs {
                found.push((key, owners));
            }
        };
        check(self.temperature != kept.temperature, "temperature", "margin and length");
        check(self.calibrate != kept.calibrate, "calibrate", "margin, length and annotator");
        check(self.source_rates != kept.source_rates, "source_rates", "source");
        check(self.annotator_rates != kept.annotator_rates, "annotator_rates", "annotator");
        check(self.annotators != kept.annotators, "annotators", "annotator");
        check(self.annotator_spread != kept.annotator_spread, "annotator_spread", "annotator");
        check(self.selected != kept.selected, "selected", "ambiguous and weak-quality");
        found
    }

    /// The settings that concern this `flip_kind`; the others are at their defaults. Without flips none does
    /// but the seed.
    #[must_use]
    pub fn applicable(&self) -> NoiseConfig {
        if self.flip_rate == 0.0 {
            return NoiseConfig { seed: self.seed, ..NoiseConfig::default() };
        }
        let (all, mut kept) = (self.clone(), NoiseConfig::default());
        (kept.flip_rate, kept.flip_kind, kept.seed) = (all.flip_rate, all.flip_kind, all.seed);
        kept.flip_marker = all.flip_marker;
        match self.flip_kind {
            FlipKind::Uniform | FlipKind::Column => {}
            FlipKind::Margin | FlipKind::Length => {
                (kept.temperature, kept.calibrate) = (all.temperature, all.calibrate);
            }
            FlipKind::Source => kept.source_rates = all.source_rates,
            FlipKind::Annotator => {
                (kept.annotator_rates, kept.annotators) = (all.annotator_rates, all.annotators);
                (kept.annotator_spread, kept.calibrate) = (all.annotator_spread, all.calibrate);
            }
            FlipKind::Ambiguous | FlipKind::WeakQuality => kept.selected = all.selected,
        }
        kept
    }

    /// The seed of the flips, given the run's.
    pub fn seed_of(&self, run: Seed) -> Seed {
        if self.seed == 0 { run } else { Seed(self.seed) }
    }

    /// Whether a [`super::Survey`] of all pairs is needed before the first can be decided.
    pub fn needs_survey(&self) -> bool {
        self.flip_rate > 0.0 && (self.flip_kind.selects() || self.is_fitted())
    }

    /// Whether the scale of the probabilities is fitted to the rate.
    fn is_fitted(&self) -> bool {
        let drawn = self.flip_kind == FlipKind::Annotator && self.annotator_rates.is_empty();
        self.calibrate && (drawn || self.flip_kind.scaled())
    }

    /// Settings of the noise that were changed though no label is flipped, by the flags or keys that set them.
    pub fn idle(&self) -> Vec<&'static str> {
        let own = NoiseConfig::default();
        let mut found = Vec::new();
        if self.flip_rate == 0.0 {
            let settings = [
                (self.flip_kind != own.flip_kind, "--flip-kind"),
                (self.flip_marker != own.flip_marker, "--flip-marker"),
                (self.temperature != own.temperature, "--flip-temperature"),
                (self.calibrate != own.calibrate, "prepare.noise.calibrate"),
                (self.source_rates != own.source_rates, "prepare.noise.source_rates"),
                (self.annotator_rates != own.annotator_rates, "prepare.noise.annotator_rates"),
                (self.annotators != own.annotators, "prepare.noise.annotators"),
                (self.annotator_spread != own.annotator_spread, "prepare.noise.annotator_spread"),
                (self.selected != own.selected, "prepare.noise.selected"),
            ];
            found.extend(settings.into_iter().filter(|(changed, _)| *changed).map(|(_, name)| name));
        }
        found
    }

    /// Whether a pair's label depends on the other pairs, so that a shard cannot be made alone.
    pub fn is_global(&self) -> bool {
        self.needs_survey()
    }
}

/// Rates by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    named: BTreeMap<String, f64>,
    /// Of all others.
    others: f64,
}

impl Rates {
    /// Reads `NAME=RATE` lines; in words, all that is wrong with them.
    pub fn parse(lines: &[String]) -> std::result::Result<Rates, Vec<String>> {
        let (mut rates, mut others, mut wrong) = (Rates::default(), None, Vec::new());
        for line in lines {
            let parsed = line.rsplit_once('=').map(|(name, rate)| (name.trim(), rate.trim().parse::<f64>()));
            let (name, rate) = match parsed {
                Some((name, Ok(rate))) if !name.is_empty() && (0.0..=1.0).contains(&rate) => (name, rate),
                _ => {
                    wrong.push(format!("expected NAME=RATE with a rate between 0 and 1, got `{line}`"));
                    continue;
                }
            };
            let before = match name {
                "*" => others.replace(rate),
                name => rates.named.insert(name.into(), rate),
            };
            if before.is_some() {
                wrong.push(format!("{name} is given twice"));
            }
        }
        rates.others = others.unwrap_or(0.0);
        if wrong.is_empty() { Ok(rates) } else { Err(wrong) }
    }

    /// As [`Rates::parse`], for settings that were checked before.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn checked(key: &str, lines: &[String]) -> Result<Rates> {
        Rates::parse(lines).map_err(|wrong| Error::config(format!("prepare.noise.{key}"), wrong.join("; ")))
    }

    /// The rate of a name.
    pub fn of(&self, name: &str) -> f64 {
        self.named.get(name).copied().unwrap_or(self.others)
    }

    /// Names with a rate of their own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}
