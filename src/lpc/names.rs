//! Names of the latent part's tensors in `lpc_model.safetensors`.

#![allow(missing_docs, reason = "the name says it")]

pub const CODEBOOK: &str = "lpc.codebook";
pub const PRIOR: &str = "lpc.prior";
pub const POSTERIOR: &str = "lpc.posterior";
pub const FLIP_LOGITS: &str = "lpc.flip_logits";
pub const DIRECTIONS: &str = "lpc.directions";
pub const MLP: &str = "lpc.mlp";
pub const BIAS: &str = "lpc.bias";
pub const PROMPT_MEAN: &str = "lpc.prompt_mean";
pub const PROMPT_DEVIATION: &str = "lpc.prompt_deviation";
pub const CODE_TOKENS: &str = "lpc.code_tokens";
pub const PRIOR_TOKENS: &str = "lpc.prior_tokens";

/// Whether a parameter is in the unit of codes, and not of networks: codes, and what stands in their place.
pub fn is_code(name: &str) -> bool {
    [CODEBOOK, DIRECTIONS, BIAS].contains(&name) || name.strip_prefix(MLP).is_some_and(|part| part.starts_with(".2."))
}
