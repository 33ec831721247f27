//! What is computed: against recorded numbers, against finite differences, and against other ways to compute it.
//!
//! - `policies`: small policies and random pairs, which the other files use.
//! - `parity`: numbers recorded from transformers, TRL and torch.
//! - `models`: every family of models and every storage format, against transformers and gguf.
//! - `trajectory`: fifty steps of training against fifty steps of TRL.
//! - `gradients`: every trainable parameter against finite differences.
//! - `invariants`: what must not change a result.
//! - `latents`: every latent and control: recorded numbers, what one is of another, folders.
//! - `bayes`: exact inference over codes.
//! - `robust`: objectives for wrong labels, and weights of rows, through whole steps.
//! - `composed`: composed operations, other number types and recomputation against the fused kernels.
//! - `generate`: the z of generation is the z of evaluation.
//! - `ranks`: several ranks give what one process gives with all their batches.
//! - `tuning`: adapters and head-only tuning, as functions and as files.

mod bayes;
mod composed;
mod generate;
mod gradients;
mod invariants;
mod latents;
mod models;
mod parity;
mod policies;
mod ranks;
mod robust;
mod trajectory;
mod tuning;
