//! Counts that are made while preferences are planted.

use std::collections::BTreeMap;

use serde::Serialize;

use super::row::{Planted, PlantingPlan, Unused};
use super::traits::Least;
use super::{Account, OverSummary};
use crate::error::{Error, Result};
use crate::settings::{Settings, refuse};
use crate::synth::{SynthConfig, SynthSummary};

/// Counts over all prompts.
pub(super) struct Tally<'a> {
    plan: &'a PlantingPlan,
    summary: SynthSummary,
    unused: Unused,
    /// By trait: prompts in which it differs enough.
    varying: Vec<u64>,
    /// For every two traits, sums over the prompts of the products ab, aa and bb of their centred utilities.
    products: Vec<Vec<[f64; 3]>>,
}

/// One trait, for the manifest.
#[derive(Debug, Serialize)]
pub(super) struct TraitFact {
    name: &'static str,
    counts: &'static str,
    unit: &'static str,
    /// Least difference, or least ratio, between the responses of a prompt that is judged by it.
    least: f64,
    least_is: &'static str,
    /// Prompts in which the responses differ enough in it.
    prompts_varying: u64,
}

/// Correlations of traits within prompts, for the manifest.
#[derive(Debug, Serialize)]
pub(super) struct Correlations {
    traits: Vec<&'static str>,
    /// Correlations of the ranks (ratings, for aspects) of responses within prompts, over the prompts in which both
    /// traits differ; null where there is no such prompt.
    matrix: Vec<Vec<Option<f64>>>,
}

impl<'a> Tally<'a> {
    pub fn new(plan: &'a PlantingPlan) -> Tally<'a> {
        let n = plan.traits.len();
        let products = vec![vec![[0.0; 3]; n]; n];
        let summary = SynthSummary::default();
        Tally { plan, summary, unused: Unused::default(), varying: vec![0; n], products }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.summary.rows
    }

    /// Adds responses that were left out.
    pub fn unused(&mut self, more: Unused) {
        self.unused.empty += more.empty;
        self.unused.equal += more.equal;
        self.unused.unrated += more.unrated;
    }

    /// Adds a prompt, a row for each of its judgements.
    pub fn prompt(&mut self, rows: &[Planted]) {
        rows.iter().for_each(|row| self.judgement(row));
        // However often a prompt is judged, its responses and their traits are the same.
        if let Some(row) = rows.first() {
            self.varying.iter_mut().zip(&row.varies).for_each(|(n, varies)| *n += u64::from(*varies));
            self.correlate(row);
        }
    }

    fn judgement(&mut self, row: &Planted) {
        let (summary, plan) = (&mut self.summary, self.plan);
        summary.rows += 1;
        summary.completions += row.answers.len() as u64;
        summary.shown += u64::from(row.shown);
        *summary.by_source.entry(row.source.clone()).or_default() += 1;
        let liked = plan.preferences[row.preference];
        let name = format!("{}={}", plan.traits[liked.trait_].name, liked.way.name);
        *summary.by_preference.entry(name).or_default() += 1;
        let utility = |i: usize| row.answers[i].utilities[row.preference];
        let n = row.answers.len();
        if let Some(best) = (0..n).max_by(|&a, &b| row.answers[a].score.total_cmp(&row.answers[b].score)) {
            summary.best_agrees += u64::from((0..n).all(|i| utility(i) <= utility(best)));
            let same = (0..n).filter(|&i| i != best && utility(i) == utility(best)).count();
            summary.undecided_pairs += same as f64 / (n - 1) as f64;
        }
    }

    fn correlate(&mut self, row: &Planted) {
        // The utilities of the trait's first way are used, negated where that way likes less of it.
        let centred = |t: usize| -> Vec<f64> {
            let of = self.plan.preferences.iter().position(|p| p.trait_ == t);
            let more = of.is_none_or(|p| self.plan.preferences[p].way.more);
            let sign = if more { 1.0 } else { -1.0 };
            let values: Vec<f64> = row.answers.iter().map(|a| sign * of.map_or(0.0, |p| a.utilities[p])).collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            values.into_iter().map(|v| v - mean).collect()
        };
        let columns: Vec<Vec<f64>> = (0..self.plan.traits.len()).map(centred).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        for (i, a) in columns.iter().enumerate() {
            for (j, b) in columns.iter().enumerate() {
                let [ab, aa, bb] = [dot(a, b), dot(a, a), dot(b, b)];
                if aa > 1e-12 && bb > 1e-12 {
                    self.products[i][j].iter_mut().zip([ab, aa, bb]).for_each(|(sum, x)| *sum += x);
                }
            }
        }
    }

    /// Refuses a corpus without a prompt, and traits that were asked for by name and differ nowhere.
    ///
    /// # Errors
    /// [`Error::Data`], [`Error::Config`].
    pub fn require(&self, config: &SynthConfig, account: &Account) -> Result<()> {
        if self.summary.rows == 0 {
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            account.rejects.iter().for_each(|r| *reasons.entry(r.reason).or_default() += 1);
            let reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            let read: u64 = account.inputs.iter().map(|i| i.rows_read).sum();
            return Err(Error::Data {
                path: account.inputs.first().map(|i| i.path.clone().into()).unwrap_or_default(),
                line: None,
                field: None,
                message: format!("none of the {read} rows read can be judged: {}", reasons.join(", ")),
                hint: Some(
                    "a preference needs a prompt of one message with two or more different responses; other \
                     synth.traits may differ between them"
                        .into(),
                ),
            });
        }
        if config.traits.is_empty() {
            return Ok(());
        }
        refuse(self.silent_traits().into_iter().map(|message| SynthConfig::fault("traits", message)).collect())
    }

    /// A sentence about each trait that can decide nothing.
    pub fn silent_traits(&self) -> Vec<String> {
        let silent = self.plan.traits.iter().zip(&self.varying).filter(|(_, n)| **n == 0);
        let least = |least: Least| match least {
            Least::Ratio(ratio) => format!("by a factor of {ratio}"),
            Least::Difference(x) if x < 1e-9 => "at all".into(),
            Least::Difference(x) => format!("by {x}"),
        };
        silent
            .map(|(t, _)| {
                format!("`{}` decides nothing: in no prompt do the responses differ in it {}", t.name, least(t.least))
            })
            .collect()
    }

    /// The traits, for the manifest.
    pub fn traits(&self) -> Vec<TraitFact> {
        let fact = |(t, n): (&&'static super::traits::Trait, &u64)| {
            let (least, least_is) = match t.least {
                Least::Ratio(x) => (x, "ratio"),
                Least::Difference(x) => (x, "difference"),
            };
            TraitFact { name: t.name, counts: t.counts, unit: t.unit, least, least_is, prompts_varying: *n }
        };
        self.plan.traits.iter().zip(&self.varying).map(fact).collect()
    }

    /// Correlations of the traits, for the manifest.
    pub fn correlations(&self) -> Correlations {
        let of = |[ab, aa, bb]: &[f64; 3]| (*aa > 0.0 && *bb > 0.0).then(|| ab / (aa * bb).sqrt());
        let matrix = self.products.iter().map(|row| row.iter().map(of).collect()).collect();
        Correlations { traits: self.plan.traits.iter().map(|t| t.name).collect(), matrix }
    }

    /// The summary of a finished corpus, without the digests.
    pub fn summary(&self, account: &Account) -> SynthSummary {
        let mut over = OverSummary { unused: self.unused, ..OverSummary::default() };
        for file in &account.inputs {
            over.rows_read += file.rows_read;
            over.rows_kept += file.rows_kept;
            for (reason, n) in &file.rows_rejected {
                *over.rejects.entry(reason.clone()).or_default() += n;
            }
        }
        over.varying = self.plan.traits.iter().map(|t| t.name.to_string()).zip(self.varying.iter().copied()).collect();
        let undecided_pairs = self.summary.undecided_pairs / self.summary.rows.max(1) as f64;
        SynthSummary { undecided_pairs, over: Some(over), ..self.summary.clone() }
    }
}
