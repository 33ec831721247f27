//! All integration tests in one binary: the crate links polars and candle once.
//!
//! - `support`: a temporary folder, the program run in it, its output.
//! - `cli`: what a person sees: help, tables, errors, exit codes.
//! - `bad_input`: every way in which a row or a file can be broken.
//! - `contract`: commands, folders and columns, as other programs rely on them.
//! - `corpora`: where rows come from, how much of each, and what must not be among them.
//! - `recipes`: every recipe under `pipelines/` resolves.
//! - `architecture`: who may import whom; who may print; who may draw random numbers.
//! - `policies`: small policies and random pairs, for the tests of numbers.
//! - `parity`: numbers recorded from transformers, TRL and torch.
//! - `models`: every family of models and every storage, against transformers and gguf.
//! - `gradients`: every trainable parameter against finite differences.
//! - `latents`: every latent and control: recorded numbers, what one is of another, folders.
//! - `idle`: settings of `prepare` that find nothing to act on.
//! - `invariants`: what must not change a result.
//! - `crash`: killed at any moment, disk full, folders that cannot be written, links, pipes.
//! - `hub`: data from a hub, as the program is asked for it.
//! - `outputs`: what no command writes over.
//! - `over`: preferences planted over texts that are given.
//! - `places`: composed operations, other types and recomputation against the fused kernels.
//! - `ranks`: several ranks are one process with their batches together.
//! - `reference`: the cache of reference log-probabilities, and what `score` gives to it.
//! - `refused`: rows that the chat template or the tokenizer refuses.
//! - `resume`: a stopped run ends with the same bits.
//! - `running`: what a training run says, and where it gives up.
//! - `signals`: the real program, interrupted and killed.
//! - `stopping`: what is computed before the first step: no more than is needed, nothing twice.
//! - `trajectory`: fifty steps of training beside those of TRL.
//! - `tokenize`: renderings and token ids recorded from transformers.
//! - `tuning`: adapters and head-only tuning, as functions and as files.

mod architecture;
mod bad_input;
mod bayes;
mod cli;
mod contract;
mod corpora;
mod crash;
mod gradients;
mod hub;
mod idle;
mod ingest;
mod invariants;
mod latents;
mod models;
mod outputs;
mod over;
mod parity;
mod places;
mod policies;
mod ranks;
mod recipes;
mod reference;
mod refused;
mod resume;
mod running;
mod signals;
mod stopping;
mod support;
mod tokenize;
mod trajectory;
mod tuning;
