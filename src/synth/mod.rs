//! A planted-factor preference corpus in raw UltraFeedback shape, with its truth beside it.
//!
//! Real preference data does not record which hidden factor decided a label. This
//! generator does: every response realises several binary style factors in its
//! words (`grammar`), every row has one deciding preference (a factor and the
//! liked value of it), and scores follow it. What the codes have learnt can then
//! be compared with what was planted, and with the best that any method could do
//! ([`ceilings()`]).
//!
//! # The plan of a row
//! 1. A source is drawn uniformly from six (`world::SOURCES`); each weighs the factors its own way and
//!    two factors (length, certainty) are liked in opposite ways by different sources.
//! 2. A preference is drawn from the source's weights. With F active factors there are F + 2 of them
//!    (`world::preferences`): 8 for the default F = 6, so that K = 8 codes can hold one each.
//! 3. In a `shown_fraction` of the rows the prompt asks for it in words, and a prior p(z|x) can know it;
//!    in the others a hidden annotator decides: the prompt tells only its source, and the observed pair
//!    tells more.
//! 4. Style bits are fair coins, except for the deciding factor, of which exactly one completion has the
//!    liked value (two with probability `second_agrees`). A pair of the best and a random other one
//!    therefore agrees in the deciding factor in `second_agrees / (completions - 1)` of the rows
//!    (3.3 % by default); the label is noise there.
//! 5. The overall score is agreement plus Gumbel noise times `noise`, squashed into 1 to 10.
//!
//! Truth labels for NMI: `factor` and `preference` (factor and direction). Both are reported.
//!
//! # Ceilings
//! Ceilings of the defaults, best against a random other completion (about; 3,000 prompts):
//!
//! | rows | accuracy | NMI, best code from the prompt | NMI, best code from prompt and pair |
//! |---|---|---|---|
//! | shown | 0.984 | 1.00 | 1.00 |
//! | hidden | 0.775 | 0.25 | 0.44 |
//! | all | 0.878 | 0.50 | 0.65 |
//!
//! (NMI against `preference`, of which 8 are in use.) Responses have 31 to 62 tokens and prompts 9 to 35
//! of a byte-level BPE vocabulary of 512 that was trained on the corpus.
//!
//! # Real texts
//! [`over`] plants preferences over real prompts with real responses: what decides is a trait that can be counted
//! in any text, not a style that was written into it.

mod ceilings;
mod config;
mod emit;
mod grammar;
pub mod over;
mod row;
mod world;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

pub use ceilings::{CeilingRow, Ceilings, PosteriorScope, ceilings};
pub use config::SynthConfig;

use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::schema::fact;
use crate::seed::Seed;
use crate::settings::Settings;
use row::Row;

/// The corpus file: one JSON object a line.
pub const CORPUS: &str = "corpus.jsonl";
/// The corpus where each prompt has several judgements: the rows of the training prompts, and of the test prompts.
pub const SPLIT_CORPUS: [&str; 2] = ["train.jsonl", "test.jsonl"];
/// The truth file: one row per line of the corpus, in its order. In a folder of its own, so that the
/// corpus folder can be given to `prepare` as it is.
pub const TRUTH: &str = "truth/truth.parquet";

/// Counts and digests of a corpus.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SynthSummary {
    /// Rows (prompts).
    pub rows: u64,
    /// Completions, over all rows.
    pub completions: u64,
    /// Rows whose prompt asks for what decides.
    pub shown: u64,
    /// Rows by source.
    pub by_source: BTreeMap<String, u64>,
    /// Rows by preference, written `factor=value`.
    pub by_preference: BTreeMap<String, u64>,
    /// Rows whose best completion has the liked value of the deciding factor.
    pub best_agrees: u64,
    /// Expected share of pairs (best, random other) that do not differ in the deciding factor.
    pub undecided_pairs: f64,
    /// BLAKE3 of `corpus.jsonl`, or of `train.jsonl` and `test.jsonl` with a space between.
    pub corpus_blake3: String,
    /// BLAKE3 of `truth.parquet`.
    pub truth_blake3: String,
    /// Counts of real texts, for a corpus over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<over::OverSummary>,
}

/// Rows made at once, which bounds the memory (about 4 KiB a row).
const CHUNK: u64 = 8192;

/// Writes `corpus.jsonl`, `truth/truth.parquet` and `manifest.json` into `config.out`.
///
/// Every row is a pure function of (seed, row number, configuration without `rows` and `out`): the
/// first rows of a long corpus are those of a short one, and bytes are the same for any number of threads.
/// Memory does not grow with the rows.
///
/// # Errors
/// [`Error::Config`] with all faults of the configuration; [`Error::Io`], [`Error::Parquet`]; [`Error::Run`]
/// where another process writes into the folder.
pub fn write(config: &SynthConfig, seed: Seed, progress: &dyn Progress) -> Result<SynthSummary> {
    config.check()?;
    if !config.over.is_empty() {
        return Err(Error::config("synth.over", "has no effect here: this corpus is of made-up texts"));
    }
    let folder = Path::new(&config.out);
    let _lock = artifact::Claim { stage: "synth", inputs: &[] }.take(folder)?;
    let mut manifest = Manifest::begin("synth", config)?;
    manifest.seeds.insert("seed".into(), seed.0);
    let mut summary = SynthSummary::default();
    progress.begin("synth", Some(config.rows as u64));
    // The truth is written inside the corpus's writer, so that neither appears before all rows of both are written.
    artifact::write(folder.join(CORPUS), |corpus| {
        emit::write_truth(&folder.join(TRUTH), emit::schema(), |truth| {
            chunks(config, seed, |lines, rows| {
                emit::write_lines(&folder.join(CORPUS), corpus, lines)?;
                truth.write(rows, config)?;
                summary.count(rows, config);
                progress.advance(rows.len() as u64);
                Ok(())
            })?;
            Ok(config.rows as u64)
        })
    })?;
    summary.undecided_pairs /= config.rows as f64;
    manifest.output(folder, CORPUS, Some(summary.rows))?;
    manifest.output(folder, TRUTH, Some(summary.rows))?;
    let digests = manifest.outputs.iter().map(|f| f.blake3.clone()).collect::<Vec<_>>();
    if let [corpus, truth] = digests.as_slice() {
        (summary.corpus_blake3, summary.truth_blake3) = (corpus.clone(), truth.clone());
    }
    manifest.fact("summary", &summary)?;
    manifest.fact(fact::PREFERENCES, preference_names(config.factors))?;
    manifest.finish(folder)?;
    progress.end();
    Ok(summary)
}

/// Names of the preferences by id, written `factor=value`.
pub fn preference_names(factors: usize) -> Vec<String> {
    let name = |p: &world::Preference| {
        let factor = &grammar::FACTORS[p.factor];
        format!("{}={}", factor.name, factor.values[p.direction].name)
    };
    world::preferences(factors.min(grammar::MAX_FACTORS)).iter().map(name).collect()
}

/// Makes all rows, chunk by chunk, in order: rows in parallel within a chunk.
fn chunks(config: &SynthConfig, seed: Seed, mut take: impl FnMut(&[Vec<u8>], &[Row]) -> Result<()>) -> Result<()> {
    let total = config.rows as u64;
    let mut start = 0;
    while start < total {
        let end = total.min(start + CHUNK);
        let made: Vec<(Vec<u8>, Row)> = (start..end)
            .into_par_iter()
            .map(|i| {
                let row = row::make(config, seed, i);
                Ok((emit::line(&row, config)?, row))
            })
            .collect::<Result<_>>()?;
        let (lines, rows): (Vec<Vec<u8>>, Vec<Row>) = made.into_iter().unzip();
        take(&lines, &rows)?;
        start = end;
    }
    Ok(())
}

impl SynthSummary {
    fn count(&mut self, rows: &[Row], config: &SynthConfig) {
        let (names, preferences) = (preference_names(config.factors), world::preferences(config.factors));
        for row in rows {
            self.rows += 1;
            self.completions += row.completions.len() as u64;
            self.shown += u64::from(row.shown);
            *self.by_source.entry(world::SOURCES[row.source].name.into()).or_default() += 1;
            *self.by_preference.entry(names[row.preference].clone()).or_default() += 1;
            let liked = preferences[row.preference];
            let agrees = |style: u32| (style >> liked.factor) as usize & 1 == liked.direction;
            let best = row.completions.iter().enumerate().max_by(|(_, a), (_, b)| a.overall.total_cmp(&b.overall));
            if let Some((best, completion)) = best {
                self.best_agrees += u64::from(agrees(completion.style));
                let others = row.completions.iter().enumerate().filter(|(i, _)| *i != best);
                let same = others.filter(|(_, c)| agrees(c.style) == agrees(completion.style)).count();
                self.undecided_pairs += same as f64 / (row.completions.len() - 1) as f64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn config(dir: &Path, rows: usize) -> SynthConfig {
        SynthConfig { rows, out: dir.to_string_lossy().into_owned(), ..SynthConfig::default() }
    }

    fn bytes(dir: &Path) -> (Vec<u8>, Vec<u8>) {
        (std::fs::read(dir.join(CORPUS)).unwrap(), std::fs::read(dir.join(TRUTH)).unwrap())
    }

    #[test]
    fn bytes_do_not_depend_on_threads() {
        let write_with = |threads: usize| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            // More than one chunk, so that the order of chunks counts too.
            let config = config(dir.path(), CHUNK as usize + 100);
            let summary = pool.install(|| write(&config, Seed(3), &Silent)).unwrap();
            (bytes(dir.path()), summary)
        };
        assert_eq!(write_with(1), write_with(4));
    }

    #[test]
    fn a_short_corpus_is_the_start_of_a_long_one() {
        let (short, long) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&config(short.path(), 10), Seed(3), &Silent).unwrap();
        write(&config(long.path(), 40), Seed(3), &Silent).unwrap();
        assert!(bytes(long.path()).0.starts_with(&bytes(short.path()).0));
    }

    #[test]
    fn the_corpus_has_the_raw_shape() {
        use sha2::Digest;
        let dir = tempfile::tempdir().unwrap();
        let summary = write(&config(dir.path(), 400), Seed(3), &Silent).unwrap();
        let text = String::from_utf8(bytes(dir.path()).0).unwrap();
        let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
        assert_eq!((text.lines().count(), truth.height(), summary.rows), (400, 400, 400));
        let ids = truth.column("prompt_id").unwrap().str().unwrap().clone();
        for (i, line) in text.lines().enumerate() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(
                keys,
                ["source", "instruction", "models", "completions", "correct_answers", "incorrect_answers"]
            );
            let completions = row["completions"].as_array().unwrap();
            assert_eq!((completions.len(), row["models"].as_array().unwrap().len()), (4, 4));
            for (completion, model) in completions.iter().zip(row["models"].as_array().unwrap()) {
                assert_eq!(&completion["model"], model);
                assert!(completion["overall_score"].is_f64() && completion["fine-grained_score"].is_f64());
                for aspect in ["instruction_following", "honesty", "truthfulness", "helpfulness"] {
                    let rating = completion["annotations"][aspect]["Rating"].as_str().unwrap();
                    assert!(["1", "2", "3", "4", "5", "N/A"].contains(&rating), "{rating}");
                }
            }
            let digest = sha2::Sha256::digest(row["instruction"].as_str().unwrap().as_bytes());
            let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(ids.get(i), Some(hex.as_str()));
        }
        // 3.3 % expected: 40 of 400 rows have two agreeing completions, a third of whose pairs are undecided.
        assert!((0.01..0.06).contains(&summary.undecided_pairs), "{}", summary.undecided_pairs);
        assert!(summary.best_agrees >= 399);
        let manifest = Manifest::read(dir.path()).unwrap();
        manifest.verify(dir.path(), CORPUS).unwrap();
        manifest.verify(dir.path(), TRUTH).unwrap();
    }

    #[test]
    fn rows_name_their_annotator_where_asked() {
        let named = |annotators: bool| -> Vec<(Option<u32>, serde_json::Value)> {
            let config = SynthConfig { rows: 40, annotators, ..SynthConfig::default() };
            let mut found = Vec::new();
            chunks(&config, Seed(3), |lines, rows| {
                let read = |line: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(line).unwrap();
                found.extend(rows.iter().map(|r| r.annotator).zip(lines.iter().map(read)));
                Ok(())
            })
            .unwrap();
            found
        };
        assert!(named(false).iter().all(|(_, line)| line.get("annotator").is_none()));
        let with = named(true);
        assert!(with.iter().any(|(a, _)| a.is_some()) && with.iter().any(|(a, _)| a.is_none()));
        for (annotator, line) in with {
            let wanted = annotator.map(|a| serde_json::Value::from(format!("annotator-{a}")));
            assert_eq!(line.get("annotator"), wanted.as_ref());
        }
    }
}
