//! Settings of `synth`, and their checks.

use serde::{Deserialize, Serialize};

use super::{grammar, over, world};
use crate::error::{Error, Fault, Result};

/// Settings of the generator.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SynthConfig {
    /// Rows (prompts), 1 to 2^30. Default 2000.
    pub rows: usize,
    /// Active style factors, 2 to 8; F of them plant F + 2 preferences. Default 6.
    pub factors: usize,
    /// Folder for `corpus.jsonl`, `truth/truth.parquet` and `manifest.json`. Default `runs/synth`.
    pub out: String,
    /// Completions of each prompt, 2 to 8. Default 4, as UltraFeedback.
    pub completions: usize,
    /// Probability that the prompt asks for what decides, 0 to 1. Default 0.5.
    pub shown_fraction: f64,
    /// Temperature of the annotators, 0 to 5: an agreeing completion beats another with probability
    /// sigmoid(1 / noise). Default 0.1 (0.99995); 0 is raised to 0.02 so that ties stay rare.
    pub noise: f64,
    /// Probability that two completions, not one, have the liked value, 0 to 1 (three completions or
    /// more). Default 0.1.
    pub second_agrees: f64,
    /// Whether rows name the hidden annotator who decided, as `annotator` (no part of UltraFeedback), for
    /// noise by annotator. Default false.
    pub annotators: bool,
    /// Files, folders or hub addresses with real prompts and responses, over which preferences are planted
    /// ([`super::over`]); `rows`, `completions` and `second_agrees` are for made-up texts. Default: none.
    pub over: Vec<String>,
    /// Over real texts: the traits that decide, by name, or `aspects`. Default: the first `factors` of
    /// [`super::over::traits::TRAITS`].
    pub traits: Vec<String>,
    /// Over real texts: layout of the rows. Default: `auto`.
    pub format: String,
    /// Over real texts: columns under other names than a layout has, as `TARGET=COLUMN`. Default: none.
    pub columns: Vec<String>,
    /// Over real texts: what happens at a row that cannot be read, `fail` or `skip`. Default: `fail`.
    pub on_bad_row: String,
}

impl Default for SynthConfig {
    fn default() -> SynthConfig {
        SynthConfig {
            rows: 2000,
            factors: 6,
            out: "runs/synth".into(),
            completions: 4,
            shown_fraction: 0.5,
            noise: 0.1,
            second_agrees: 0.1,
            annotators: false,
            over: Vec::new(),
            traits: Vec::new(),
            format: "auto".into(),
            columns: Vec::new(),
            on_bad_row: "fail".into(),
        }
    }
}

impl SynthConfig {
    /// Checks all settings.
    ///
    /// # Errors
    /// [`Error::Config`] with every fault.
    pub fn validate(&self) -> Result<()> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
    }

    /// All faults of these settings, with keys under `synth.`; the reader of the files checks layout and columns.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |good: bool, key: &str, message: String| {
            if !good {
                faults.push(Fault { origin: String::new(), key: format!("synth.{key}"), message });
            }
        };
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let over = !self.over.is_empty();
        let rows = 1..=world::MAX_ROWS as usize;
        check(rows.contains(&self.rows), "rows", format!("expected 1 to {}, got {}", world::MAX_ROWS, self.rows));
        let most = if over { over::traits::TRAITS.len() } else { grammar::MAX_FACTORS };
        let least = if over { 1 } else { world::CONFLICTS };
        check(
            (least..=most).contains(&self.factors),
            "factors",
            format!("expected {least} to {most}, got {}", self.factors),
        );
        check(!self.out.is_empty(), "out", "a folder is needed".into());
        let most = world::MODELS.len();
        check(
            (2..=most).contains(&self.completions),
            "completions",
            format!("expected 2 to {most}, got {}", self.completions),
        );
        let shown = self.shown_fraction;
        check(unit(shown), "shown_fraction", format!("expected 0 to 1, got {shown}"));
        check((0.0..=5.0).contains(&self.noise), "noise", format!("expected 0 to 5, got {}", self.noise));
        let second = self.second_agrees;
        check(unit(second), "second_agrees", format!("expected 0 to 1, got {second}"));
        faults.extend(if over { over::faults(self) } else { self.without_over() });
        faults
    }

    /// Settings that have an effect over real texts only.
    fn without_over(&self) -> Vec<Fault> {
        let default = SynthConfig::default();
        let set = [
            ("traits", self.traits != default.traits),
            ("format", self.format != default.format),
            ("columns", self.columns != default.columns),
            ("on_bad_row", self.on_bad_row != default.on_bad_row),
        ];
        let message = "has no effect without synth.over, the files with real texts";
        let fault =
            |key: &str| Fault { origin: String::new(), key: format!("synth.{key}"), message: message.to_string() };
        set.iter().filter(|(_, set)| *set).map(|(key, _)| fault(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_come_at_once() {
        let config = SynthConfig { rows: 0, factors: 9, completions: 1, noise: f64::NAN, ..SynthConfig::default() };
        let Err(Error::Config(faults)) = config.validate() else { panic!("accepted") };
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys, ["synth.rows", "synth.factors", "synth.completions", "synth.noise"]);
    }
}
