//! Counts of what the noise did.

use std::collections::BTreeMap;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::NoisePlan;
use super::config::{FlipKind, NoiseConfig, Rates};
use super::plan::NO_ANNOTATOR;
use crate::error::{Fault, Result};
use crate::schema::{NO_NOISE, col};
use crate::settings::Settings;

/// Counts by name.
type Tallies = BTreeMap<String, Tally>;

/// Counts of some pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Pairs.
    pub pairs: u64,
    /// Those whose label is the opposite of the clean one.
    pub flipped: u64,
    /// Those that were singled out, flipped or not.
    pub selected: u64,
    /// Flips to be expected: the sum of `noise_p`.
    pub expected: f64,
    /// Share of labels flipped.
    pub rate: f64,
}

impl Tally {
    /// Share of the pairs on which the noise fell: flipped, or singled out.
    pub fn share(&self) -> f64 {
        self.flipped.max(self.selected) as f64 / self.pairs.max(1) as f64
    }

    fn add(&mut self, other: Tally) {
        self.pairs += other.pairs;
        self.flipped += other.flipped;
        self.selected += other.selected;
        self.expected += other.expected;
        self.rate = self.flipped as f64 / self.pairs.max(1) as f64;
    }
}

/// Counts of the noise over all pairs that are written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// All pairs.
    pub all: Tally,
    /// By the value of `noise_kind`.
    pub by_kind: BTreeMap<String, Tally>,
    /// By split.
    pub by_split: BTreeMap<String, Tally>,
    /// By source.
    pub by_source: BTreeMap<String, Tally>,
    /// By annotator, where the kind is `annotator` and the input names them; "" where it does not.
    pub by_annotator: BTreeMap<String, Tally>,
}

impl Ledger {
    /// Counts pairs as [`super::apply`] returned them.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column is missing.
    pub fn add(&mut self, frame: &DataFrame, config: &NoiseConfig) -> Result<()> {
        let text = |name| -> Result<&StringChunked> { Ok(frame.column(name)?.str()?) };
        let (kinds, splits, sources) = (text(col::NOISE_KIND)?, text(col::SPLIT)?, text(col::SOURCE)?);
        let flipped = frame.column(col::FLIPPED)?.bool()?;
        let chances = frame.column(col::NOISE_P)?.f64()?;
        let by_name = config.flip_kind == FlipKind::Annotator && config.annotators == 0 && config.flip_rate > 0.0;
        let annotators = by_name.then(|| text(col::ANNOTATOR)).transpose()?;
        for i in 0..frame.height() {
            let kind = kinds.get(i).unwrap_or(NO_NOISE);
            let one = Tally {
                pairs: 1,
                flipped: u64::from(flipped.get(i).unwrap_or(false)),
                selected: u64::from(config.flip_kind.selects() && kind != NO_NOISE),
                expected: chances.get(i).unwrap_or(0.0),
                rate: 0.0,
            };
            self.all.add(one);
            count(&mut self.by_kind, kind, one);
            count(&mut self.by_split, splits.get(i).unwrap_or(""), one);
            count(&mut self.by_source, sources.get(i).unwrap_or(""), one);
            if let Some(annotators) = annotators {
                count(&mut self.by_annotator, annotators.get(i).unwrap_or(""), one);
            }
        }
        Ok(())
    }

    /// Adds the counts of other pairs.
    pub fn join(&mut self, other: &Ledger) {
        self.all.add(other.all);
        let parts = |l: &Ledger| [l.by_kind.clone(), l.by_split.clone(), l.by_source.clone(), l.by_annotator.clone()];
        let own = [&mut self.by_kind, &mut self.by_split, &mut self.by_source, &mut self.by_annotator];
        for (own, other) in own.into_iter().zip(parts(other)) {
            other.into_iter().for_each(|(name, tally)| own.entry(name).or_default().add(tally));
        }
    }

    /// Faults of settings that had no effect on any of all pairs.
    pub fn faults(&self, config: &NoiseConfig) -> Vec<Fault> {
        let mut faults = Vec::new();
        if config.flip_rate <= 0.0 || self.all.pairs == 0 {
            return faults;
        }
        let n = self.all.pairs;
        let mut fault = |key: &str, message: String| faults.push(NoiseConfig::fault(key, message));
        if self.by_annotator.len() == 1 && self.by_annotator.contains_key("") {
            let message = format!("--flip-kind annotator: none of the {n} pairs names its annotator; {NO_ANNOTATOR}");
            fault("flip_kind", message);
        } else if config.flip_kind == FlipKind::Column && self.all.expected == 0.0 {
            let message = format!("--flip-kind column: none of the {n} pairs has a flip_probability above 0");
            fault("flip_kind", message);
        } else {
            for (key, what, names, seen) in self.listed(config) {
                if self.all.expected == 0.0 && !names.is_empty() && names.iter().all(|name| !seen.contains_key(name)) {
                    let (names, seen) = (names.join(", "), first_of(seen));
                    fault(key, format!("{names}: the {what} of no pair; no label is flipped. There are {seen}"));
                }
            }
        }
        faults
    }

    /// Each list of rates: its key, what it names, the names in it, and the counts by the pairs' names.
    fn listed<'a>(&'a self, config: &NoiseConfig) -> [(&'static str, &'static str, Vec<String>, &'a Tallies); 2] {
        let names = |lines: &[String]| Rates::parse(lines).unwrap_or_default().names().map(String::from).collect();
        [
            ("source_rates", "source", names(&config.source_rates), &self.by_source),
            ("annotator_rates", "annotator", names(&config.annotator_rates), &self.by_annotator),
        ]
    }

    /// One line for each setting that had less than the wanted effect on these pairs.
    pub fn warnings(&self, config: &NoiseConfig, plan: &NoisePlan) -> Vec<String> {
        let mut warnings = Vec::new();
        if config.flip_rate <= 0.0 || self.all.pairs == 0 {
            return warnings;
        }
        for (key, what, names, seen) in self.listed(config) {
            for name in names.iter().filter(|name| !seen.contains_key(*name)) {
                warnings.push(format!("prepare.noise.{key}: {name} is the {what} of no pair"));
            }
        }
        let kind = config.flip_kind.name();
        let nameless = self.by_annotator.get("").map_or(0, |tally| tally.pairs);
        if nameless > 0 {
            let p = if config.annotator_rates.is_empty() { "--flip-rate" } else { "that of *=RATE" };
            let n = self.all.pairs;
            warnings.push(format!("--flip-kind {kind}: {nameless} of {n} pairs name no annotator; their p is {p}"));
        }
        if config.flip_kind == FlipKind::Margin && plan.judged < plan.rows {
            let n = plan.rows - plan.judged;
            warnings
                .push(format!("--flip-kind {kind}: {n} of {} pairs lack scores; their p is --flip-rate", plan.rows));
        }
        if config.flip_kind.selects() {
            let wanted = (config.flip_rate * plan.rows as f64).round() as u64;
            if plan.selected < wanted {
                let found = plan.selected;
                warnings.push(format!(
                    "--flip-kind {kind}: {wanted} pairs were to be singled out, but only {found} can be"
                ));
            }
        }
        warnings
    }
}

/// Some of the names, for a message.
fn first_of(seen: &Tallies) -> String {
    const SHOWN: usize = 5;
    let more = if seen.len() > SHOWN { format!(" and {} more", seen.len() - SHOWN) } else { String::new() };
    seen.keys().take(SHOWN).cloned().collect::<Vec<_>>().join(", ") + &more
}

fn count(counts: &mut BTreeMap<String, Tally>, name: &str, one: Tally) {
    match counts.get_mut(name) {
        Some(tally) => tally.add(one),
        None => counts.entry(name.to_string()).or_default().add(one),
    }
}

#[cfg(test)]
mod tests;
