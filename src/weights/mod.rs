//! Weights on disk: Hugging Face folders, GGUF files and PEFT adapters -> a model in memory, and back.
//!
//! [`load`] reads whatever a [`ModelSource`](crate::source::ModelSource) names; [`folder`], [`peft`] and [`latent`]
//! write; [`mod@fingerprint`] says which model it is, whatever its place is called.
//!
//! # Symbols
//! H hidden size · I inputs, O outputs of a linear map · r rank of an adapter · V vocabulary.

pub mod base;
pub mod checkpoint;
pub mod fingerprint;
pub mod folder;
pub mod gguf;
pub mod latent;
pub mod load;
pub mod peft;
pub mod safetensors;

pub use fingerprint::fingerprint;
