//! Names and shapes of a decoder's tensors, as Hugging Face's checkpoints have them.

use super::config::LlamaConfig;

/// Input embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Final norm.
pub const NORM: &str = "model.norm.weight";
/// Output head, where it is not the embedding.
pub const HEAD: &str = "lm_head.weight";

/// A weight of layer `i`.
pub fn layer(i: usize, part: &str) -> String {
    format!("{}{part}.weight", layer_prefix(i))
}

/// What the names of all parameters of layer `i` begin with.
pub fn layer_prefix(i: usize) -> String {
    format!("model.layers.{i}.")
}

/// A bias of layer `i`.
pub fn bias(i: usize, part: &str) -> String {
    format!("model.layers.{i}.{part}.bias")
}

/// Linear maps of a layer: as PEFT's `target_modules` names them, and as checkpoints do.
pub const TARGETS: [(&str, &str); 7] = [
    ("q_proj", "self_attn.q_proj"),
    ("k_proj", "self_attn.k_proj"),
    ("v_proj", "self_attn.v_proj"),
    ("o_proj", "self_attn.o_proj"),
    ("gate_proj", "mlp.gate_proj"),
    ("up_proj", "mlp.up_proj"),
    ("down_proj", "mlp.down_proj"),
];

/// Shapes of all tensors of a decoder, in checkpoint names.
pub fn shapes(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let (h, inner, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let mut out = vec![(EMBEDDING.to_string(), vec![config.vocab_size, h]), (NORM.to_string(), vec![h])];
    if !config.tie_word_embeddings {
        out.push((HEAD.to_string(), vec![config.vocab_size, h]));
    }
    for i in 0..config.num_hidden_layers {
        for (part, shape) in [
            ("input_layernorm", vec![h]),
            ("self_attn.q_proj", vec![q, h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.v_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, q]),
            ("post_attention_layernorm", vec![h]),
            ("mlp.gate_proj", vec![inner, h]),
            ("mlp.up_proj", vec![inner, h]),
            ("mlp.down_proj", vec![h, inner]),
        ] {
            if config.biased(part) {
                out.push((bias(i, part), vec![shape[0]]));
            }
            out.push((layer(i, part), shape));
        }
    }
    out
}
