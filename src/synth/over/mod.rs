//! Planted preferences over real texts: prompts and responses are given, the annotators' preferences are planted.
//!
//! # The plan of a prompt
//! 1. Its responses are measured by traits (`traits`); a preference is a trait and a way of liking it.
//! 2. Its source weighs the preferences: a flat Dirichlet, a function of (seed, source) alone.
//! 3. One preference is drawn from these weights, among those whose trait differs enough between the responses.
//! 4. In a `shown_fraction` of the prompts a sentence before or behind the prompt asks for it; in the others a
//!    hidden annotator decides.
//! 5. A response's utility is its rank in the trait among the responses of its prompt, 0 to 1, in the liked
//!    direction; its score is utility plus Gumbel noise times `noise`, squashed into 1 to 10, so that annotators
//!    are Bradley-Terry: i beats j with probability sigmoid((u_i - u_j) / noise). Of two responses the one with
//!    more wins with probability sigmoid(1 / noise); of n, neighbours differ by 1 / (n - 1) and are confused
//!    more often.
//!
//! With several judgements of a prompt (`judgements`), steps 3 and 5 are repeated without the preferences that have
//! judged already, and every repetition asks for its preference, so that no two rows have the same prompt: the
//! same responses are then liked for different reasons, which the prompt tells. It is the UF-P set-up of variational
//! preference learning (Poddar et al. 2024), in which several users judge each prompt.
//!
//! With the aspects of UltraFeedback as annotators, utilities are (rating - 1) / 4 and the temperature is the
//! lowest (0.02): ratings are judgements already, and only ties are left to chance.
//!
//! Every decision is a function of (seed, purpose, prompt text, response text), so that neither the order of rows
//! and files nor threads matter.
//!
//! # Limits
//! - Traits are not independent in real texts: where `length=long` decides, labels also follow the traits that are
//!   correlated with length. The manifest's fact `trait_correlations` has, for every two traits, the correlation of
//!   their ranks within prompts. Over 805 prompts of AlpacaEval with the answers of seven models, the default six are
//!   correlated by 0.25 at most (length and lists), all ten by 0.39 (length and markup).
//! - A prompt may ask for something by itself ("in one sentence"), which planting does not take into account.
//! - Labels that the input had are not used; responses come in an order drawn from the seed.

pub(super) mod ceilings;
mod counts;
mod emit;
mod row;
mod tally;
pub(super) mod traits;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::{CORPUS, SPLIT_CORPUS, SynthConfig, SynthSummary, TRUTH};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest};
use crate::progress::Progress;
use crate::rejects::{self, Reject};
use crate::schema::fact;
use crate::seed::Seed;
use crate::settings::{Faults, Settings};
pub use row::{NotPlanted, Unused};
use row::{Planted, PlantingPlan};
use tally::Tally;
use traits::{ALL_ASPECTS, ASPECTS, TRAITS};

/// The most judgements of a prompt.
pub const MAX_JUDGEMENTS: usize = 16;

/// Rows of the input that gave no prompt, and why: beside the truth, where `prepare` does not look for data.
pub const REJECTS: &str = "truth/rejects.parquet";

/// A prompt with its responses.
#[derive(Debug, Clone, PartialEq)]
pub struct Texts {
    /// The prompt.
    pub prompt: String,
    /// Source tag.
    pub source: String,
    /// The responses.
    pub responses: Vec<Response>,
}

/// A response to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Who wrote it, where that is known.
    pub model: Option<String>,
    /// The text.
    pub text: String,
    /// Ratings by the aspects in use ([`aspects`]), in their order; none where it was not rated.
    pub ratings: Vec<Option<f64>>,
}

/// The account of the input's rows.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The files, with all counts.
    pub inputs: Vec<InputFile>,
    /// The rows that gave no prompt.
    pub rejects: Vec<Reject>,
}

/// Counts of a corpus over real texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OverSummary {
    /// Rows of the input.
    pub rows_read: u64,
    /// Rows that went into a prompt of the corpus.
    pub rows_kept: u64,
    /// Rows that did not, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Responses that were not used.
    pub unused: Unused,
    /// Prompts in which each trait differs enough between the responses.
    pub varying: BTreeMap<String, u64>,
}

/// Takes prompts; returns for each the reason why it was left out, or `None`.
pub type Sink<'a> = dyn FnMut(Vec<Texts>) -> Result<Vec<Option<NotPlanted>>> + 'a;

/// The aspects that decide, by name; none where traits of the texts do.
pub fn aspects(config: &SynthConfig) -> Vec<&'static str> {
    let named = |name: &str| config.traits.iter().any(|t| t == name || t == ALL_ASPECTS);
    let mut found: Vec<&str> = ASPECTS.iter().map(|a| a.name).filter(|name| named(name)).collect();
    // In the order in which they were named: that of the preferences.
    found.sort_by_key(|name| config.traits.iter().position(|t| t == name));
    found
}

/// Adds the faults of the setting `traits`.
pub(super) fn judge(config: &SynthConfig, faults: &mut Faults) {
    let mut fault = |message: String| faults.add("traits", message);
    let named = &config.traits;
    let known = || {
        let names = TRAITS.iter().chain(&ASPECTS).map(|t| t.name).chain([ALL_ASPECTS]);
        names.collect::<Vec<_>>().join(", ")
    };
    for (i, name) in named.iter().enumerate() {
        if name != ALL_ASPECTS && row::find(name).is_none() {
            fault(format!("unknown trait `{name}`; expected one of: {}", known()));
        }
        if named[..i].contains(name) {
            fault(format!("`{name}` is named twice"));
        }
    }
    if named.len() > 1 && named.iter().any(|name| name == ALL_ASPECTS) {
        fault(format!("`{ALL_ASPECTS}` stands for all aspects and goes alone"));
    }
    if !aspects(config).is_empty() && named.iter().any(|name| TRAITS.iter().any(|t| t.name == name)) {
        fault("aspects are ratings and traits are counted: they do not mix".into());
    }
}

/// Plants preferences over the prompts that `feed` hands over, and writes `corpus.jsonl` (`train.jsonl` and `test.jsonl`
/// where prompts have several judgements), `truth/truth.parquet`, `truth/rejects.parquet` and `manifest.json` into
/// `config.out`.
///
/// `feed` is called once and calls its sink with batches of prompts; the account that it returns goes into the
/// manifest. No prompt may come twice. The corpus has the prompts in the order in which they came.
///
/// # Errors
/// [`crate::Error::Config`] with all faults of the configuration, or where a trait that was asked for by name
/// decides nothing; [`crate::Error::Data`] where no prompt can be judged; errors of `feed`; [`crate::Error::Io`],
/// [`crate::Error::Parquet`]; [`crate::Error::Run`] where another process writes into the folder.
pub fn plant(
    config: &SynthConfig,
    seed: Seed,
    progress: &dyn Progress,
    feed: impl FnOnce(&mut Sink<'_>) -> Result<Account>,
) -> Result<SynthSummary> {
    config.check()?;
    let folder = Path::new(&config.out);
    let inputs: Vec<PathBuf> = config.over.iter().map(PathBuf::from).collect();
    let _lock = artifact::Claim { stage: "synth", inputs: &inputs }.take(folder)?;
    let mut manifest = Manifest::begin("synth", config)?;
    manifest.seeds.insert("seed".into(), seed.0);
    let plan = PlantingPlan::new(config, seed);
    let mut tally = Tally::new(&plan);
    let mut account = Account::default();
    let names: &[&str] = if config.judgements > 1 { &SPLIT_CORPUS } else { &[CORPUS] };
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    let mut written = vec![0; names.len()];
    let write = |files: &mut [&mut dyn Write]| {
        super::emit::write_truth(&folder.join(TRUTH), emit::schema(), |truth| {
            account = feed(&mut |batch: Vec<Texts>| {
                let made: Vec<_> = batch.into_par_iter().map(|texts| plan.plant(texts)).collect();
                let (mut refused, mut prompts) = (Vec::with_capacity(made.len()), Vec::with_capacity(made.len()));
                for (unused, planted) in made {
                    tally.unused(unused);
                    match planted {
                        Ok(rows) => {
                            prompts.push(rows);
                            refused.push(None);
                        }
                        Err(refusal) => refused.push(Some(refusal)),
                    }
                }
                let first = tally.rows();
                prompts.iter().for_each(|rows| tally.prompt(rows));
                let rows: Vec<Planted> = prompts.into_iter().flatten().collect();
                let lines: Vec<Vec<u8>> = rows.par_iter().map(|row| emit::line(row, config)).collect::<Result<_>>()?;
                for (row, line) in rows.iter().zip(lines) {
                    let file = usize::from(row.held_out && names.len() > 1);
                    written[file] += 1;
                    files[file].write_all(&line).map_err(Error::io(&paths[file]))?;
                }
                emit::append(truth, &rows, &plan, first)?;
                Ok(refused)
            })?;
            tally.require(config, &account)?;
            Ok(tally.rows())
        })
    };
    // The truth is written inside the writers of the corpus, so that no file appears before all rows are written.
    match paths.as_slice() {
        [train, test] => artifact::write(train, |train| artifact::write(test, |test| write(&mut [train, test])))?,
        _ => artifact::write(&paths[0], |corpus| write(&mut [corpus]))?,
    }
    // Of an earlier run with another number of judgements: it would be read as part of this corpus.
    for name in [CORPUS].iter().chain(&SPLIT_CORPUS).filter(|name| !names.contains(name)) {
        let stale = folder.join(name);
        if stale.exists() {
            std::fs::remove_file(&stale).map_err(Error::io(&stale))?;
        }
    }
    let labels: Vec<String> = account.inputs.iter().map(|i| i.path.clone()).collect();
    let mut table = rejects::table(vec![rejects::to_frame(&account.rejects)?], &labels)?;
    artifact::write_parquet(folder.join(REJECTS), &mut table)?;
    let rows = tally.rows();
    let corpus = names.iter().copied().zip(written);
    for (name, rows) in corpus.chain([(TRUTH, rows), (REJECTS, table.height() as u64)]) {
        manifest.output(folder, name, Some(rows))?;
    }
    tally.silent_traits().iter().for_each(|line| progress.warn(line));
    manifest.fact("traits", tally.traits())?;
    manifest.fact("trait_correlations", tally.correlations())?;
    manifest.fact(fact::PREFERENCES, plan.names())?;
    let mut summary = tally.summary(&account);
    let digests: Vec<&str> = manifest.outputs.iter().map(|output| output.blake3.as_str()).collect();
    summary.corpus_blake3 = digests[..names.len()].join(" ");
    summary.truth_blake3 = digests[names.len()].to_string();
    let weights: BTreeMap<&String, Vec<f64>> =
        summary.by_source.keys().map(|source| (source, plan.weights(source))).collect();
    manifest.fact("source_weights", weights)?;
    manifest.fact("summary", &summary)?;
    manifest.inputs = account.inputs;
    manifest.finish(folder)?;
    Ok(summary)
}

#[cfg(test)]
mod tests;
