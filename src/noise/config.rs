//! Which labels are flipped, or which pairs are singled out: the settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seed::Seed;
use crate::settings::{Faults, Settings, Table, joined, settings};

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
    /// where each annotator's w is drawn uniformly from 1 +- 1. Pairs without an annotator get
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

    /// Whether probabilities are multiplied by a scale, fitted to the rate or not.
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

settings! {
    /// Label noise.
    pub struct NoiseConfig at "prepare.noise" {
        /// Share of the labels to flip (the mean probability over all pairs), or of the pairs to single out, in
        /// [0, 1]; for `source`, `column` and listed annotators a factor on the given rates.
        pub flip_rate: f64 = 0.0;
        /// Which pairs the noise falls on.
        pub flip_kind: FlipKind = FlipKind::Uniform;
        /// Text appended, after a space, to the last user message of the pairs that were flipped or singled
        /// out, as the paper's `[FLIP]`; "" marks none.
        pub flip_marker: String = String::new();
        /// Seed of the flips; 0 is the run's seed.
        pub seed: u64 = 0;
        /// T of `margin` (score units) and `length` (log ratio), above 0.
        pub temperature: f64 = 1.0, used "margin and length" if |c| c.flip_kind.scaled();
        /// Whether the scale of `margin`, `length` and drawn annotators is fitted so that the mean probability over
        /// all pairs is `flip_rate`, which needs all of them at once: not with `--shard`. If not, the scale of
        /// `margin` and `length` is 2 `flip_rate`, so that p = `flip_rate` where nothing speaks for either side, and
        /// annotators have rates in R +- min(R, 1 - R), whose mean is R over many annotators alone.
        pub calibrate: bool = true, used "margin, length and annotator"
            if |c| c.flip_kind.scaled() || c.flip_kind == FlipKind::Annotator;
        /// Rates of `source`, as `TAG=RATE`, each in [0, 1]; `*=RATE` stands for all others, which are never
        /// flipped without it.
        pub source_rates: Vec<String> = Vec::new(), used "source" if |c| c.flip_kind == FlipKind::Source;
        /// Rates of `annotator`, as `NAME=RATE`, likewise; without any they are drawn from the seed.
        pub annotator_rates: Vec<String> = Vec::new(), used "annotator" if |c| c.flip_kind == FlipKind::Annotator;
        /// Simulates this many annotators: each pair belongs to one of them, by hash. 0 takes the input's
        /// column `annotator`; pairs without one get p = `flip_rate`.
        pub annotators: usize = 0, used "annotator" if |c| c.flip_kind == FlipKind::Annotator;
        /// What becomes of the pairs that `ambiguous` and `weak-quality` single out.
        pub selected: Selected = Selected::Keep, used "ambiguous and weak-quality" if |c| c.flip_kind.selects();
    }
}

impl Settings for NoiseConfig {
    fn judge(&self, faults: &mut Faults) {
        let rate = self.flip_rate;
        faults.check((0.0..=1.0).contains(&rate), "flip_rate", format!("must be between 0 and 1, got {rate}"));
        let t = self.temperature;
        faults.check(t.is_finite() && t > 0.0, "temperature", format!("must be above 0, got {t}"));
        for (key, lines) in [("source_rates", &self.source_rates), ("annotator_rates", &self.annotator_rates)] {
            if let Err(messages) = Rates::parse(lines) {
                messages.into_iter().for_each(|message| faults.add(key, message));
            }
        }
        if self.flip_rate == 0.0 {
            return;
        }
        let no_rates = self.flip_kind == FlipKind::Source && self.source_rates.is_empty();
        let message = "missing: --flip-kind source needs it, as \
                       --set 'prepare.noise.source_rates=[\"TAG=0.3\", \"*=0.1\"]'";
        faults.check(!no_rates, "source_rates", message);
        if self.flip_kind == FlipKind::Annotator && !self.annotator_rates.is_empty() {
            let message = "simulated annotators have drawn rates; leave annotator_rates out";
            faults.check(self.annotators == 0, "annotators", message);
            let message = "has no effect: the rates are listed in annotator_rates";
            faults.check(self.calibrate, "calibrate", message);
        }
    }

    fn why_unused(&self, _: &str, used_by: &str) -> String {
        format!("has no effect with --flip-kind {}; it belongs to {used_by}", self.flip_kind.name())
    }

    /// Without flips nothing here has an effect; a clean run of a noisy recipe is no mistake.
    fn idle(&self) -> Vec<(String, String)> {
        if self.flip_rate == 0.0 { Vec::new() } else { self.unused() }
    }

    /// Without flips no setting has an effect but the seed.
    fn applicable(&self) -> NoiseConfig {
        self.without(|setting| if self.flip_rate == 0.0 { setting.name != "seed" } else { !(setting.used)(self) })
    }
}

impl NoiseConfig {
    /// The seed of the flips, given the run's.
    pub fn seed_of(&self, run: Seed) -> Seed {
        if self.seed == 0 { run } else { Seed(self.seed) }
    }

    /// Whether a [`super::NoiseSurvey`] of all pairs is needed before the first can be decided, so that a shard cannot
    /// be made alone.
    pub fn needs_survey(&self) -> bool {
        self.flip_rate > 0.0 && (self.flip_kind.selects() || self.is_fitted())
    }

    /// Whether the scale of the probabilities is fitted to the rate.
    fn is_fitted(&self) -> bool {
        let drawn = self.flip_kind == FlipKind::Annotator && self.annotator_rates.is_empty();
        self.calibrate && (drawn || self.flip_kind.scaled())
    }

    /// Flags or keys of the settings that were given although no label is flipped.
    pub fn switched_off(&self) -> Vec<String> {
        let spelled = |name: String| match name.as_str() {
            "flip_kind" => "--flip-kind".into(),
            "flip_marker" => "--flip-marker".into(),
            "temperature" => "--flip-temperature".into(),
            _ => joined(NoiseConfig::KEY, &name),
        };
        let given = self.given().into_iter().filter(|name| self.flip_rate == 0.0 && name != "seed");
        given.map(spelled).collect()
    }
}

/// Rates by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    named: BTreeMap<String, f64>,
    /// The rate of all other names.
    others: f64,
}

impl Rates {
    /// Reads `NAME=RATE` lines.
    ///
    /// # Errors
    /// All that is wrong with the lines, in words.
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
