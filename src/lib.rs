//! Latent Preference Coding on dataframes.
//!
//! Data passes through the crate in this order, in which the modules are declared too:
//!
//! 1. [`synth`]: a planted-factor corpus, for tests and demos, or preferences planted over real texts (optional).
//! 2. [`ingest`]: files -> frames of completions or pairs, and rejects.
//! 3. [`select`]: which rows go in: source tags, shares of the inputs, decontamination.
//! 4. [`pairs`]: completions -> preference pairs, split by prompt.
//! 5. [`noise`]: pairs -> pairs with observed labels and the ledger of the truth.
//! 6. [`tokenize`]: pairs -> Arrow token batches.
//! 7. [`batch`]: Arrow -> packed tensors, order a pure function of (seed, epoch).
//! 8. [`model`] on [`nn`]: tokens -> hidden states and log-probabilities, differentiable; [`weights`]: its files.
//! 9. [`objective`] and [`lpc`]: log-probabilities and hidden states -> losses.
//! 10. [`policy`] joins decoder and codes; [`train`]: batches -> a trained policy.
//! 11. [`posteriors`]: every example's code posterior as Parquet.
//! 12. [`generate`]: prompts -> answers, with the prior's z or one code.
//! 13. [`eval`]: benchmarks -> questions, a model's numbers -> metrics.
//! 14. [`analysis`], [`audit`] and [`report`]: Parquet -> tables, intervals, labels that are likely wrong, plots.
//!
//! Data have three representations, and one module converts each into the next: polars frames up to
//! `tokenize`, Arrow on disk, candle tensors from `batch` to `posteriors`.
//! Stages do not import each other; [`pipeline`] wires them, [`cli`] drives it.
//!
//! # From raw data to posteriors
//!
//! ```
//! use lpc_pipe::pipeline::{prepare, recipe::PrepareConfig, train};
//! use lpc_pipe::progress::Silent;
//! use lpc_pipe::seed::Seed;
//! use lpc_pipe::{synth, train::TrainConfig};
//! use polars::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = |name: &str| folder.path().join(name).display().to_string();
//!
//! // 40 prompts with four scored completions each, in UltraFeedback's shape.
//! let corpus = synth::SynthConfig { rows: 40, out: path("raw"), ..Default::default() };
//! synth::write(&corpus, Seed(1), &Silent)?;
//!
//! // Pairs, split by prompt, a fifth of the labels flipped; token batches.
//! let mut data = PrepareConfig { input: vec![path("raw")], out: path("data"), ..Default::default() };
//! data.noise.flip_rate = 0.2;
//! data.pairs.test_fraction = 0.25;
//! let prepared = prepare::run(&data, Seed(1), &Silent)?;
//!
//! // Three steps of LPC-DPO on a tiny Llama.
//! let mut run = TrainConfig { data: path("data"), model: "tiny:16x1".into(), out: path("run"), ..Default::default() };
//! run.max_steps = 3;
//! run.lpc.codes = 4;
//! train::run(&run, Seed(1), false, &Silent)?;
//!
//! // One row for each pair of both splits.
//! let posteriors = ParquetReader::new(std::fs::File::open(path("run/posteriors.parquet"))?).finish()?;
//! assert_eq!(posteriors.height() as u64, prepared.pairs);
//! let posterior = posteriors.column("posterior")?.list()?.get_as_series(0).ok_or("no rows")?;
//! assert_eq!(posterior.len(), 4);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` in the repository has whole programs: a prepared folder, posteriors in a frame, a user-defined
//! objective, a policy that is scored.
//!
//! # Symbols
//! B pairs · T tokens · V vocabulary · H hidden size · K codes.

#![warn(missing_docs)]
// Results and errors are printed by `cli` alone, which allows it for itself.
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Foundation.
pub mod artifact;
pub mod error;
pub mod frame;
pub mod gguf;
pub mod hub;
pub mod information;
pub mod manifest;
pub mod message;
pub mod progress;
pub mod prompt;
pub mod rejects;
pub mod schema;
pub mod seed;
pub mod settings;
pub mod source;
pub mod token_file;
pub mod words;

// The stages, in the order of the data.
pub mod synth;

pub mod ingest;

pub mod select;

pub mod pairs;

pub mod noise;

pub mod tokenize;

pub mod batch;

pub mod nn;

pub mod model;

pub mod weights;

pub mod objective;

pub mod lpc;

pub mod policy;

pub mod train;

pub mod posteriors;

pub mod generate;

pub mod eval;

pub mod analysis;

pub mod audit;

pub mod report;

// Wiring.
pub mod pipeline;

pub mod cli;

pub use error::{Error, Result};
