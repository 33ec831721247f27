//! Models from GGUF files: quantized weights, dequantized on loading, under Hugging Face names.
//!
//! # Source
//! Keys and tensor names of the GGUF specification, and what llama.cpp's `convert_hf_to_gguf.py` makes of a
//! checkpoint: rotary planes interleaved for `llama` and left alone for `qwen2`, Llama 3's stretching as a table.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, ggml_file};
use rayon::prelude::*;

use super::checkpoint::{Checkpoint, assemble};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, Value};
use crate::model::config::RopeScaling;
use crate::model::{LlamaConfig, Loaded, names};
use crate::nn::Real;

/// The table of stretched rotary frequencies.
const ROPE_TABLE: &str = "rope_freqs.weight";

/// Numbers that one task dequantizes, about.
const PER_TASK: usize = 1 << 18;

/// The model's shape, from a GGUF file's metadata; of its tensors at most the small table of rotary frequencies is
/// read.
///
/// # Errors
/// As [`load`].
pub fn shape(path: &Path) -> Result<LlamaConfig> {
    shape_of(&Gguf::open(path)?, &path.display().to_string())
}

fn shape_of(gguf: &Gguf, origin: &str) -> Result<LlamaConfig> {
    Metadata { gguf, origin, prefix: architecture(gguf, origin)? }.config()
}

/// Reads a `llama` or `qwen2` GGUF file.
///
/// # Errors
/// [`Error::Model`] where it is damaged, of another architecture, or incomplete.
pub fn load<T: Real>(path: &Path) -> Result<Loaded> {
    let origin = path.display().to_string();
    let gguf = Gguf::open(path)?;
    let config = shape_of(&gguf, &origin)?;
    let tensors = Weights::new(&gguf, &config, &origin)?;
    let params = assemble::<T>(&config, &tensors, &origin)?;
    Ok(Loaded { config, params })
}

fn architecture(gguf: &Gguf, origin: &str) -> Result<&'static str> {
    let found = match gguf.metadata.get("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    match found {
        "llama" => Ok("llama"),
        "qwen2" => Ok("qwen2"),
        other => Err(Error::model(origin, format!("GGUF architecture {other:?} is not supported"))
            .with_hint("supported: llama (which includes Mistral), qwen2")),
    }
}

/// The tensors of a file, by their Hugging Face names.
struct Weights<'a> {
    gguf: &'a Gguf,
    origin: &'a str,
    tensors: BTreeMap<String, &'a TensorInfo>,
    /// Heads whose rotary planes are interleaved: of queries and keys. None for `qwen2`.
    interleaved: Option<(usize, usize)>,
}

impl<'a> Weights<'a> {
    fn new(gguf: &'a Gguf, config: &LlamaConfig, origin: &'a str) -> Result<Weights<'a>> {
        let mut tensors = BTreeMap::new();
        for tensor in gguf.tensors.iter().filter(|t| t.name != ROPE_TABLE) {
            let name = rename(&tensor.name)
                .ok_or_else(|| Error::model(origin, format!("unexpected tensor {}", tensor.name)))?;
            tensors.insert(name, tensor);
        }
        let planes = (config.num_attention_heads, config.num_key_value_heads);
        Ok(Weights { gguf, origin, tensors, interleaved: (config.model_type != "qwen2").then_some(planes) })
    }
}

impl Checkpoint for Weights<'_> {
    fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
    }

    fn read<T: Real>(&self, name: &str) -> Result<Vec<T>> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::run(format!("no tensor {name}")))?;
        let values = dequantize::<T>(self.gguf, tensor).map_err(|e| Error::model(self.origin, e))?;
        let width = tensor.shape.get(1).copied().unwrap_or(1);
        Ok(match self.interleaved {
            Some((heads, _)) if name.contains("self_attn.q_proj") => unpermute(&values, heads, width),
            Some((_, heads)) if name.contains("self_attn.k_proj") => unpermute(&values, heads, width),
            _ => values,
        })
    }
}

/// ggml's types that are read.
fn dtype(kind: u32) -> Result<GgmlDType, String> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            let name = match other {
                9 => "Q8_1",
                15 => "Q8_K",
                16..=19 | 21..=22 | 29 => "an IQ type",
                20 => "IQ4_NL",
                23 => "IQ4_XS",
                34 | 35 => "a ternary type",
                39 => "MXFP4",
                _ => "unknown",
            };
            return Err(format!(
                "ggml type {other} ({name}) is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to \
                 Q6_K are"
            ));
        }
    })
}

/// A tensor's numbers. Rows consist of whole blocks, so that each task takes some of them.
fn dequantize<T: Real>(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<T>, String> {
    let bad = |what: String| format!("tensor {}: {what}", tensor.name);
    let kind = dtype(tensor.kind).map_err(bad)?;
    let bad = |what: String| format!("tensor {}: {what}", tensor.name);
    let n = tensor.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    let n = n.ok_or_else(|| bad("too large".into()))?;
    let (block, size) = (kind.block_size(), kind.type_size());
    let row = tensor.shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(block) {
        return Err(bad(format!("rows of {row} numbers are no whole blocks of {block}")));
    }
    let len = (n / block).checked_mul(size).ok_or_else(|| bad("too large".into()))?;
    let bytes = gguf.bytes(tensor.start, len as u64).ok_or_else(|| bad("the file ends before its numbers".into()))?;
    let mut out = vec![T::zero(); n];
    let per_task = PER_TASK / block;
    out.par_chunks_mut(per_task * block)
        .zip(bytes.par_chunks(per_task * size))
        .try_for_each(|(out, bytes)| {
            let part = ggml_file::qtensor_from_ggml(kind, bytes, vec![out.len()], &Device::Cpu)?;
            let part = part.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
            out.iter_mut().zip(part).for_each(|(x, y)| *x = T::of(f64::from(y)));
            Ok(())
        })
        .map_err(|e: candle_core::Error| bad(e.to_string()))?;
    Ok(out)
}

/// The Hugging Face name of a GGUF tensor.
fn rename(name: &str) -> Option<String> {
    Some(match name {
        "token_embd.weight" => "model.embed_tokens.weight".into(),
        "output_norm.weight" => "model.norm.weight".into(),
        "output.weight" => "lm_head.weight".into(),
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let (part, kind) = part.rsplit_once('.')?;
            let part = match part {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            let layer = layer.parse().ok()?;
            match kind {
                "weight" => names::layer(layer, part),
                "bias" => names::bias(layer, part),
                _ => return None,
            }
        }
    })
}

/// GGUF stores the rotary planes of a head interleaved (2i, 2i+1); checkpoints store them in halves. Works on the
/// rows of a weight, and with a width of 1 on a bias.
fn unpermute<T: Copy>(values: &[T], heads: usize, width: usize) -> Vec<T> {
    let size = values.len() / (heads * width).max(1);
    let half = size / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for i in 0..size {
            let row = head * size + if i < half { 2 * i } else { 2 * (i - half) + 1 };
            out.extend_from_slice(&values[row * width..(row + 1) * width]);
        }
    }
    out
}

/// The metadata of one architecture.
struct Metadata<'a> {
    gguf: &'a Gguf,
    origin: &'a str,
    prefix: &'static str,
}

impl Metadata<'_> {
    fn refuse(&self, what: String) -> Error {
        Error::model(self.origin, what)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.gguf.metadata.get(&format!("{}.{key}", self.prefix))
    }

    fn expected(&self, key: &str, what: &str) -> Error {
        let found = match self.get(key) {
            None => "nothing".to_string(),
            Some(value) => shown(value),
        };
        self.refuse(format!("metadata `{}.{key}`: expected {what}, got {found}", self.prefix))
    }

    fn whole(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match whole(value) {
                Some(n) if n <= 1 << 24 => Ok(Some(n as usize)),
                _ => Err(self.expected(key, "a whole number up to 2^24")),
            },
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.whole(key)?.filter(|n| *n > 0).ok_or_else(|| self.expected(key, "a whole number from 1"))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn real(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            // The shortest decimal that gives this f32 is what the original configuration said.
            Some(Value::F32(x)) if *x > 0.0 && x.is_finite() => Ok(x.to_string().parse().ok()),
            Some(Value::F64(x)) if *x > 0.0 && x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.expected(key, "a number above 0")),
        }
    }

    /// Refuses what changes the mathematics and is not computed here.
    fn refusals(&self, head_dim: usize) -> Result<()> {
        for key in ["logit_scale", "embedding_scale", "residual_scale", "attention.scale", "rope.scaling.attn_factor"] {
            if self.real(key)?.is_some_and(|x| x != 1.0) {
                return Err(self.refuse(format!("metadata `{}.{key}` is not supported", self.prefix)));
            }
        }
        if self.whole("expert_count")?.is_some_and(|n| n > 0) {
            return Err(self.refuse("mixtures of experts (`expert_count`) are not supported".into()));
        }
        for (key, wanted) in [("rope.dimension_count", head_dim), ("attention.value_length", head_dim)] {
            if self.whole(key)?.is_some_and(|n| n != wanted) {
                let message = format!("metadata `{}.{key}`: only the head size, {wanted}, is supported", self.prefix);
                return Err(self.refuse(message));
            }
        }
        if self.gguf.metadata.get("split.count").and_then(whole).is_some_and(|n| n > 1) {
            return Err(self
                .refuse("one part of a model in several GGUF files".into())
                .with_hint("join the parts with llama-gguf-split --merge"));
        }
        Ok(())
    }

    /// The stretching of the rotary frequencies, by metadata or by table.
    fn rope_scaling(&self, plain: &LlamaConfig) -> Result<RopeScaling> {
        let kind = match self.get("rope.scaling.type") {
            None => None,
            Some(Value::String(kind)) => Some(kind.as_str()),
            Some(_) => return Err(self.expected("rope.scaling.type", "a name")),
        };
        let factor = match self.real("rope.scaling.factor")? {
            None => self.real("rope.scale_linear")?,
            factor => factor,
        };
        let scaling = match (kind, factor) {
            (None | Some("none"), None) => RopeScaling::Default,
            (None | Some("none" | "linear"), Some(1.0)) => RopeScaling::Default,
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (kind, _) => {
                let kind = kind.unwrap_or("none");
                let factor = factor.map_or_else(|| "no factor".into(), |factor| format!("factor {factor}"));
                let message = format!("rope scaling \"{kind}\" in GGUF is not supported with {factor}");
                return Err(self.refuse(message).with_hint("supported: none, linear, and Llama 3's table"));
            }
        };
        let Some(table) = self.gguf.tensors.iter().find(|t| t.name == ROPE_TABLE) else { return Ok(scaling) };
        let table: Vec<f64> = dequantize(self.gguf, table).map_err(|e| self.refuse(e))?;
        let found = llama3_of(&table, plain).filter(|_| scaling == RopeScaling::Default);
        found.ok_or_else(|| {
            self.refuse(format!("the rotary table {ROPE_TABLE} is not one of Llama 3.1 or 3.2"))
                .with_hint("use the model's safetensors folder")
        })
    }

    fn config(&self) -> Result<LlamaConfig> {
        let tensors = |name: &str| self.gguf.tensors.iter().find(|t| t.name == name);
        let biased = |part: &str| tensors(&format!("blk.0.{part}.bias")).is_some();
        let heads = self.size("attention.head_count")?;
        let hidden = self.size("embedding_length")?;
        let kv = self.size_or("attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv) {
            return Err(self.refuse(format!("{heads} query heads cannot share {kv} key-value heads")));
        }
        let head_dim = match self.get("attention.key_length") {
            Some(_) => self.size("attention.key_length")?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(self.refuse(format!("{heads} heads do not divide {hidden}"))),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(self.refuse(format!("head size {head_dim} cannot be rotated")));
        }
        self.refusals(head_dim)?;
        let vocab_size = tensors("token_embd.weight").and_then(|t| t.shape.first().copied());
        let vocab_size = vocab_size.ok_or_else(|| self.refuse("missing tensor token_embd.weight".into()))?;
        let window = self.whole("attention.sliding_window")?.unwrap_or(0);
        let (attention_bias, output_bias) = (biased("attn_q"), biased("attn_output"));
        if self.prefix == "llama" && attention_bias != output_bias {
            return Err(self.refuse("biases on some of attention's maps only are not supported in a `llama`".into()));
        }
        if self.prefix == "qwen2" && (window > 0 || output_bias || !attention_bias) {
            return Err(self.refuse("a `qwen2` has biases on queries, keys and values only, and no window here".into()));
        }
        let layers = self.size("block_count")?;
        let token = |key: &str| self.gguf.metadata.get(key).and_then(whole).and_then(|n| u32::try_from(n).ok());
        let mut config = LlamaConfig {
            // Of the supported configurations only Mistral's has a window in every layer.
            model_type: if window > 0 { "mistral" } else { self.prefix }.into(),
            vocab_size,
            hidden_size: hidden,
            intermediate_size: self.size("feed_forward_length")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            rms_norm_eps: self.real("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope_theta: self.real("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: self.size_or("context_length", 2048)?,
            tie_word_embeddings: tensors("output.weight").is_none(),
            attention_bias,
            output_bias,
            mlp_bias: biased("ffn_gate"),
            sliding_window: window,
            first_windowed_layer: 0,
            bos_token_id: token("tokenizer.ggml.bos_token_id"),
            eos_token_ids: token("tokenizer.ggml.eos_token_id").into_iter().collect(),
            pad_token_id: token("tokenizer.ggml.padding_token_id"),
            generation: serde_json::Map::new(),
        };
        if layers > self.gguf.tensors.len() {
            return Err(self.refuse(format!("{layers} layers, but only {} tensors", self.gguf.tensors.len())));
        }
        config.rope_scaling = self.rope_scaling(&config)?;
        Ok(config)
    }
}

/// The setting of Llama 3.1 or 3.2 that gives this table of divisors, if one does: GGUF files hold the divisors, and
/// config.json needs the setting.
fn llama3_of(table: &[f64], plain: &LlamaConfig) -> Option<RopeScaling> {
    let factor = table.iter().copied().fold(1.0, f64::max);
    let scaling = RopeScaling::Llama3 {
        factor: (factor * 1e4).round() / 1e4,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let before = plain.rope_frequencies();
    let after = LlamaConfig { rope_scaling: scaling.clone(), ..plain.clone() }.rope_frequencies();
    let fits = table.len() == before.len()
        && table.iter().zip(before.iter().zip(&after)).all(|(t, (b, a))| (t * a / b - 1.0).abs() < 1e-4);
    fits.then_some(scaling)
}

/// A value as an error shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::U8(x) => x.to_string(),
        Value::I8(x) => x.to_string(),
        Value::U16(x) => x.to_string(),
        Value::I16(x) => x.to_string(),
        Value::U32(x) => x.to_string(),
        Value::I32(x) => x.to_string(),
        Value::U64(x) => x.to_string(),
        Value::I64(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".into(),
    }
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
        assert_eq!(unpermute(&[0, 10, 1, 11], 1, 1), [0, 1, 10, 11]);
        // Two heads of size 2 stay, whatever the width.
        assert_eq!(unpermute(&[0, 1, 2, 3, 4, 5, 6, 7], 2, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(unpermute(&[0, 1, 2, 3, 4, 5, 6, 7], 1, 2), [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn the_tables_of_llama_3_1_and_3_2_are_known_again() {
        let plain = LlamaConfig { head_dim: 64, rope_theta: 500_000.0, ..LlamaConfig::tiny(64, 1, 10) };
        for factor in [8.0, 32.0] {
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            };
            let stretched = LlamaConfig { rope_scaling: scaling.clone(), ..plain.clone() }.rope_frequencies();
            let mut table: Vec<f64> =
                plain.rope_frequencies().iter().zip(stretched).map(|(b, a)| f64::from((b / a) as f32)).collect();
            assert_eq!(llama3_of(&table, &plain), Some(scaling));
            table[20] *= 1.01;
            assert_eq!(llama3_of(&table, &plain), None);
            assert_eq!(llama3_of(&table[1..], &plain), None);
        }
        assert_eq!(llama3_of(&[], &plain), None);
    }
}
