//! GGUF files: quantized weights, dequantized on loading, under Hugging Face names.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::config::{LlamaConfig, RopeScaling};
use super::load::{Loaded, assemble};
use crate::error::{Error, Result};
use crate::nn::Real;

/// The shape that a `llama` GGUF file's header tells of.
///
/// # Errors
/// As [`load`].
pub fn shape(path: &Path) -> Result<LlamaConfig> {
    let origin = path.display().to_string();
    let file = File::open(path).map_err(Error::io(path))?;
    let content = Content::read(&mut BufReader::new(file))
        .map_err(|e| Error::model(&origin, format!("not a sound GGUF file: {e}")))?;
    config(&content, &origin)
}

/// Reads a `llama` GGUF file.
///
/// # Errors
/// [`Error::Model`] where it is damaged, of another architecture, or incomplete.
pub fn load<T: Real>(path: &Path) -> Result<Loaded> {
    let origin = path.display().to_string();
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = BufReader::new(file);
    let content =
        Content::read(&mut reader).map_err(|e| Error::model(&origin, format!("not a sound GGUF file: {e}")))?;
    let config = config(&content, &origin)?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let Some(ours) = rename(name) else {
            // Frequency tables are derived from the metadata.
            if name == "rope_freqs.weight" {
                continue;
            }
            return Err(Error::model(&origin, format!("unexpected tensor {name}")));
        };
        let tensor = content
            .tensor(&mut reader, name, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu))
            .map_err(|e| Error::model(&origin, format!("tensor {name}: {e}")))?;
        let tensor = if name.ends_with("attn_q.weight") {
            unpermute(&tensor, config.num_attention_heads)?
        } else if name.ends_with("attn_k.weight") {
            unpermute(&tensor, config.num_key_value_heads)?
        } else {
            tensor
        };
        tensors.insert(ours, tensor);
    }
    let params = assemble::<T>(&config, tensors, &origin)?;
    Ok(Loaded { config, params })
}

/// The Hugging Face name of a GGUF tensor.
fn rename(name: &str) -> Option<String> {
    Some(match name {
        "token_embd.weight" => "model.embed_tokens.weight".into(),
        "output_norm.weight" => "model.norm.weight".into(),
        "output.weight" => "lm_head.weight".into(),
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let part = match part {
                "attn_norm.weight" => "input_layernorm",
                "attn_q.weight" => "self_attn.q_proj",
                "attn_k.weight" => "self_attn.k_proj",
                "attn_v.weight" => "self_attn.v_proj",
                "attn_output.weight" => "self_attn.o_proj",
                "ffn_norm.weight" => "post_attention_layernorm",
                "ffn_gate.weight" => "mlp.gate_proj",
                "ffn_up.weight" => "mlp.up_proj",
                "ffn_down.weight" => "mlp.down_proj",
                _ => return None,
            };
            super::decoder::names::layer(layer.parse().ok()?, part)
        }
    })
}

/// GGUF stores the rotary planes of a head interleaved (2i, 2i+1); checkpoints store them in halves.
fn unpermute(w: &Tensor, heads: usize) -> Result<Tensor> {
    let (out, input) = w.dims2()?;
    let half = out / heads / 2;
    Ok(w.reshape((heads, half, 2, input))?.transpose(1, 2)?.contiguous()?.reshape((out, input))?)
}

fn config(content: &Content, origin: &str) -> Result<LlamaConfig> {
    let refuse = |what: String| Error::model(origin, what);
    let get = |key: &str| content.metadata.get(key);
    let architecture = get("general.architecture").and_then(|v| v.to_string().ok()).cloned().unwrap_or_default();
    if architecture != "llama" {
        return Err(refuse(format!("GGUF architecture {architecture:?} is not supported"))
            .with_hint("supported: llama (which includes Mistral)"));
    }
    let number = |key: &str| -> Result<usize> {
        get(key)
            .and_then(whole)
            .map(|n| n as usize)
            .ok_or_else(|| refuse(format!("metadata `{key}` is missing or not a whole number")))
    };
    let real = |key: &str, default: f64| {
        get(key).and_then(|v| v.to_f32().ok()).map_or(default, |x| f64::from_str(&x.to_string()).unwrap_or(default))
    };
    use std::str::FromStr;
    let heads = number("llama.attention.head_count")?;
    let hidden = number("llama.embedding_length")?;
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| refuse("missing tensor token_embd.weight".into()))?;
    if heads == 0 || hidden % heads != 0 {
        return Err(refuse(format!("{heads} heads do not divide {hidden}")));
    }
    if let Some(kind) = get("llama.rope.scaling.type").and_then(|v| v.to_string().ok())
        && kind != "none"
    {
        return Err(refuse(format!("rope scaling {kind:?} in GGUF is not supported")));
    }
    if content.tensor_infos.contains_key("rope_freqs.weight") {
        return Err(refuse("stretched rotary frequencies in GGUF are not supported".into())
            .with_hint("use the model's safetensors folder"));
    }
    Ok(LlamaConfig {
        model_type: "llama".into(),
        vocab_size: embedding.shape.dims()[0],
        hidden_size: hidden,
        intermediate_size: number("llama.feed_forward_length")?,
        num_hidden_layers: number("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: number("llama.attention.head_count_kv").unwrap_or(heads),
        head_dim: get("llama.attention.key_length").and_then(whole).map_or(hidden / heads, |n| n as usize),
        rms_norm_eps: real("llama.attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta: real("llama.rope.freq_base", 10_000.0),
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: number("llama.context_length").unwrap_or(2048),
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        bos_token_id: get("tokenizer.ggml.bos_token_id").and_then(whole).map(|n| n as u32),
        eos_token_id: get("tokenizer.ggml.eos_token_id").and_then(whole).map(|n| n as u32),
    })
}

/// A whole number of any width.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::U8(n) => Some(u64::from(*n)),
        Value::U16(n) => Some(u64::from(*n)),
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_planes_become_halves() {
        // One head of size 4: rows (a0 b0 a1 b1) become (a0 a1 b0 b1).
        let w = Tensor::from_vec(vec![0f32, 10.0, 1.0, 11.0], (4, 1), &Device::Cpu).unwrap();
        let got: Vec<f32> = unpermute(&w, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got, [0.0, 1.0, 10.0, 11.0]);
    }
}
