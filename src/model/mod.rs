//! The network: a Llama-family decoder trained on packed sequences, with low-rank adapters.
//!
//! Reads tokens, writes last hidden states (after the final norm) and token
//! log-probabilities, both differentiable through candle. candle-transformers'
//! own Llama cannot be trained: its fused operations drop gradients silently.
//!
//! # Symbols
//! N packed rows · H hidden size · I feed-forward size · Hq, Hkv heads · D head size · V vocabulary · R response rows.

pub mod composed;
pub mod config;
pub mod decoder;
mod frozen_rows;
pub mod inference;
pub mod init;
pub mod layer;
pub mod linear;
pub mod lora;
pub mod names;
pub mod packed;
pub mod params;

pub use composed::Place;
pub use config::LlamaConfig;
pub use decoder::Decoder;
pub use inference::{InferenceDecoder, LogitShift, Prompts, SequenceCache};
pub use init::Loaded;
pub use lora::{Lora, LoraConfig};
pub use packed::PackedTokens;
pub use params::{Gradients, Group, Param, Params};
