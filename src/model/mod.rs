//! The policy's backbone: a Llama-family decoder trained on packed sequences.
//!
//! Reads tokens, writes last hidden states (after the final norm) and token
//! log-probabilities, both differentiable through candle. candle-transformers'
//! own Llama cannot be trained: its fused operations drop gradients silently.
//!
//! # Symbols
//! N packed rows · H hidden size · I feed-forward size · Hq, Hkv heads · D head size · V vocabulary · R response rows.

pub mod base;
mod checkpoint;
pub mod composed;
pub mod config;
mod constant;
pub mod decoder;
pub mod gguf;
pub mod layer;
pub mod linear;
pub mod load;
pub mod lora;
pub mod params;
pub mod peft;
pub mod save;

pub use checkpoint::finite_tensor;
pub use composed::Place;
pub use config::LlamaConfig;
pub use decoder::Decoder;
pub use lora::{Lora, LoraConfig};
pub use params::{Gradients, Group, Param, Params, fingerprint, hash_weights};
