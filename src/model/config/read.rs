//! Reads config.json: every key that changes the model is understood or refused by name; a missing key has the default
//! that transformers gives it for the model type.
//!
//! # Source
//! `LlamaConfig`, `MistralConfig`, `Qwen2Config` and `modeling_rope_utils` of transformers 4 and 5.

use serde_json::{Map, Value};

use super::{LlamaConfig, RopeScaling};
use crate::error::{Error, Result};

/// Model types that are computed exactly.
const SUPPORTED: [&str; 3] = ["llama", "mistral", "qwen2"];

/// Largest size in a configuration: far above any model's, against damaged files.
const LARGEST: u64 = 1 << 24;

/// Most layers.
const LAYERS: usize = 4096;

/// Keys that change what is computed, the values at which they do not, and advice for other values. None of them
/// changes anything where it is null or false.
const REFUSED: [(&str, &[f64], &str); 42] = [
    ("quantization_config", &[], "save the model in bf16 with transformers first, or use a .gguf file"),
    ("compression_config", &[], "save the model in bf16 with transformers first, or use a .gguf file"),
    ("pretraining_tp", &[1.0], "set it to 1: the same model but for rounding"),
    ("partial_rotary_factor", &[1.0], ""),
    ("rope_pct", &[1.0], ""),
    ("rotary_pct", &[1.0], ""),
    ("attention_dropout", &[0.0], NO_DROPOUT),
    ("hidden_dropout", &[0.0], NO_DROPOUT),
    ("embd_pdrop", &[0.0], NO_DROPOUT),
    ("resid_pdrop", &[0.0], NO_DROPOUT),
    ("embedding_multiplier", &[1.0], ""),
    ("residual_multiplier", &[1.0], ""),
    ("attention_multiplier", &[], ""),
    ("logits_scaling", &[1.0], ""),
    ("logit_scale", &[1.0], ""),
    ("scale_emb", &[1.0], ""),
    ("scale_depth", &[], ""),
    ("dim_model_base", &[], ""),
    ("query_pre_attn_scalar", &[], ""),
    ("final_logit_softcapping", &[0.0], ""),
    ("attn_logit_softcapping", &[0.0], ""),
    ("clip_qkv", &[], ""),
    ("use_qk_norm", &[], ""),
    ("qk_norm", &[], ""),
    ("qk_layernorm", &[], ""),
    ("no_rope_layers", &[], ""),
    ("attention_chunk_size", &[], ""),
    ("dual_chunk_attention_config", &[], ""),
    ("use_mrope", &[], ""),
    ("use_logn_attn", &[], ""),
    ("use_dynamic_ntk", &[], ""),
    ("num_local_experts", &[0.0, 1.0], EXPERTS),
    ("num_experts", &[0.0, 1.0], EXPERTS),
    ("n_routed_experts", &[0.0], EXPERTS),
    ("use_parallel_residual", &[], ""),
    ("parallel_attn", &[], ""),
    ("alibi", &[], ""),
    ("use_bias", &[], ""),
    ("bias", &[], ""),
    ("add_cross_attention", &[], ""),
    ("is_encoder_decoder", &[], ""),
    ("auto_map", &[], "the model brings code of its own; remove the key if its weights are a plain model's"),
];

const NO_DROPOUT: &str = "set it to 0: nothing is dropped here, nor when TRL trains";
const EXPERTS: &str = "mixtures of experts are not supported";

/// Keys of a rotary setting that are understood.
const ROPE_KEYS: [&str; 8] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
];

/// What config.json says, with errors that name the file and the key.
struct Json<'a> {
    entries: Map<String, Value>,
    origin: &'a str,
}

impl Json<'_> {
    fn refuse(&self, what: impl Into<String>) -> Error {
        Error::model(self.origin, what)
    }

    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|v| !v.is_null())
    }

    fn expected(&self, key: &str, what: &str) -> Error {
        let found = self.get(key).map_or_else(|| "nothing".into(), Value::to_string);
        self.refuse(format!("`{key}`: expected {what}, got {found}"))
    }

    /// A size: a whole number from 1.
    fn size(&self, key: &str) -> Result<usize> {
        match self.get(key).and_then(Value::as_u64) {
            Some(n @ 1..=LARGEST) => Ok(n as usize),
            _ => Err(self.expected(key, &format!("a whole number from 1 to {LARGEST}"))),
        }
    }

    /// A size; `null` where the value is null, `missing` where there is no such key.
    fn size_or(&self, key: &str, missing: usize, null: usize) -> Result<usize> {
        match self.entries.get(key) {
            None => Ok(missing),
            Some(Value::Null) => Ok(null),
            Some(_) => self.size(key),
        }
    }

    fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().filter(|x| *x > 0.0).ok_or_else(|| self.expected(key, "a number above 0")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.expected(key, "true or false")),
        }
    }

    /// Token ids: none, one, or a list of them.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let ids: Option<Vec<u32>> = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token).collect(),
            // Some old files say -1 for none.
            Some(Value::Number(n)) if n.as_i64() == Some(-1) => Some(Vec::new()),
            Some(one) => token(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.expected(key, "a token id or a list of them"))
    }

    /// Refuses what changes the mathematics and is not computed here.
    fn refusals(&self, model_type: &str) -> Result<()> {
        for (key, neutral, hint) in REFUSED {
            let Some(value) = self.get(key) else { continue };
            let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
            if value == &Value::Bool(false) || empty || value.as_f64().is_some_and(|x| neutral.contains(&x)) {
                continue;
            }
            let error = self.refuse(format!("`{key}` {} is not supported", brief(value)));
            return Err(if hint.is_empty() { error } else { error.with_hint(hint) });
        }
        for key in ["hidden_act", "hidden_activation"] {
            if let Some(found) = self.get(key)
                && found != "silu"
                && found != "swish"
            {
                return Err(self.refuse(format!("`{key}` {} is not supported, only \"silu\"", brief(found))));
            }
        }
        let plain = match model_type {
            "mistral" => "Mistral",
            "qwen2" => "Qwen2",
            _ => "Llama",
        };
        for name in self.get("architectures").and_then(Value::as_array).into_iter().flatten() {
            let known = name.as_str().and_then(|n| n.strip_prefix(plain));
            if !known.is_some_and(|rest| ["ForCausalLM", "Model"].contains(&rest)) {
                return Err(self
                    .refuse(format!("`architectures` {} is not supported", brief(name)))
                    .with_hint(format!("a causal language model is wanted: {plain}ForCausalLM")));
            }
        }
        Ok(())
    }

    /// Window and the first layer that has it; (0, 0) for none.
    fn window(&self, model_type: &str, layers: usize) -> Result<(usize, usize)> {
        let (window, first) = match model_type {
            "llama" => match self.get("sliding_window") {
                None => (0, 0),
                Some(_) => {
                    return Err(self
                        .refuse("`sliding_window` in a `llama` is not supported")
                        .with_hint("transformers ignores it there; `model_type` \"mistral\" has a window"));
                }
            },
            "mistral" => (self.size_or("sliding_window", 4096, 0)?, 0),
            _ if !self.flag("use_sliding_window")? => (0, 0),
            _ => {
                let first = match self.get("max_window_layers") {
                    None => 28,
                    Some(v) => v.as_u64().ok_or_else(|| self.expected("max_window_layers", "a whole number"))?,
                };
                (self.size_or("sliding_window", 4096, 0)?, (first as usize).min(layers))
            }
        };
        if let Some(types) = self.get("layer_types") {
            let types = types.as_array().ok_or_else(|| self.expected("layer_types", "a list"))?;
            let fits = |(layer, kind): (usize, &Value)| {
                let windowed = window > 0 && layer >= first;
                kind == if windowed { "sliding_attention" } else { "full_attention" }
            };
            if types.len() != layers || !types.iter().enumerate().all(fits) {
                return Err(self
                    .refuse("`layer_types` is not supported where it differs from what the other keys say")
                    .with_hint("windows are read from sliding_window, use_sliding_window and max_window_layers"));
            }
        }
        Ok(if window == 0 || first >= layers { (0, 0) } else { (window, first) })
    }

    /// Base of the rotary frequencies, and how they are stretched.
    fn rope(&self, max_positions: usize) -> Result<(f64, RopeScaling)> {
        // Newer files nest the rotary settings under another name.
        let nested = ["rope_scaling", "rope_parameters"].map(|key| (key, self.get(key)));
        let (key, value) = match nested {
            [(key, Some(a)), (other, Some(b))] => {
                if a != b {
                    return Err(self.refuse(format!("`{key}` and `{other}` say different things")));
                }
                (key, a)
            }
            [(key, Some(value)), _] | [_, (key, Some(value))] => (key, value),
            _ => return Ok((self.positive_or("rope_theta", 10_000.0)?, RopeScaling::Default)),
        };
        let rope = value.as_object().ok_or_else(|| self.expected(key, "an object"))?;
        let rope = Rope { key, rope, json: self };
        let theta = match rope.get("rope_theta") {
            None => self.positive_or("rope_theta", 10_000.0)?,
            Some(_) => rope.positive("rope_theta")?,
        };
        if self.get("rope_theta").and_then(Value::as_f64).is_some_and(|outer| outer != theta) {
            return Err(self.refuse(format!("`rope_theta` and `{key}.rope_theta` say different things")));
        }
        Ok((theta, rope.scaling(max_positions)?))
    }
}

/// A rotary setting inside config.json.
struct Rope<'a> {
    key: &'a str,
    rope: &'a Map<String, Value>,
    json: &'a Json<'a>,
}

impl Rope<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.rope.get(key).filter(|v| !v.is_null())
    }

    fn positive(&self, key: &str) -> Result<f64> {
        self.get(key)
            .and_then(Value::as_f64)
            .filter(|x| *x > 0.0)
            .ok_or_else(|| self.json.refuse(format!("`{}.{key}`: expected a number above 0", self.key)))
    }

    fn scaling(&self, max_positions: usize) -> Result<RopeScaling> {
        let refuse = |what: String| Err(self.json.refuse(what));
        let kind = self.get("rope_type").or_else(|| self.get("type")).map_or(Some("default"), Value::as_str);
        let kind = kind.unwrap_or("");
        if !["default", "linear", "llama3"].contains(&kind) {
            return Err(self
                .json
                .refuse(format!("`{}` of type {kind:?} is not supported", self.key))
                .with_hint("supported: default, linear, llama3"));
        }
        if let Some((key, value)) = self.rope.iter().find(|(k, v)| !v.is_null() && !ROPE_KEYS.contains(&k.as_str())) {
            return refuse(format!("`{}.{key}` {} is not supported", self.key, brief(value)));
        }
        if self.get("partial_rotary_factor").is_some_and(|v| v.as_f64() != Some(1.0)) {
            return refuse(format!("`{}.partial_rotary_factor` is not supported", self.key));
        }
        match kind {
            "linear" => Ok(RopeScaling::Linear { factor: self.positive("factor")? }),
            "llama3" => {
                const ORIGINAL: &str = "original_max_position_embeddings";
                let original = match (self.json.get(ORIGINAL), self.get(ORIGINAL)) {
                    (Some(_), _) => self.json.size(ORIGINAL)?,
                    (None, None) => max_positions,
                    // Older files of ours had it as a fraction.
                    (None, Some(_)) => self.positive(ORIGINAL)? as usize,
                };
                let (low, high) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
                if low >= high {
                    return refuse(format!(
                        "`{}`: low_freq_factor {low} is not below high_freq_factor {high}",
                        self.key
                    ));
                }
                Ok(RopeScaling::Llama3 {
                    factor: self.positive("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                })
            }
            _ if self.get("factor").is_some_and(|v| v.as_f64() != Some(1.0)) => {
                refuse(format!("`{}.factor` without a `rope_type` is not supported", self.key))
            }
            _ => Ok(RopeScaling::Default),
        }
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A value as an error shows it: lists and objects shortened.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(_) => "{...}".into(),
        Value::Array(_) => "[...]".into(),
        other => other.to_string(),
    }
}

impl LlamaConfig {
    /// Reads config.json's content. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Model`] where a key is missing, or says something that is not computed exactly.
    pub fn from_json(text: &[u8], origin: &str) -> Result<LlamaConfig> {
        let entries = serde_json::from_slice::<Map<String, Value>>(text)
            .map_err(|e| Error::model(origin, format!("not a JSON object: {e}")))?;
        let json = Json { entries, origin };
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or("").to_string();
        if !SUPPORTED.contains(&model_type.as_str()) {
            return Err(json
                .refuse(format!("`model_type` {model_type:?} is not supported"))
                .with_hint(format!("supported: {}", SUPPORTED.join(", "))));
        }
        json.refusals(&model_type)?;
        let (llama, qwen2) = (model_type == "llama", model_type == "qwen2");
        let heads = json.size("num_attention_heads")?;
        let hidden = json.size("hidden_size")?;
        let layers = json.size("num_hidden_layers")?;
        if layers > LAYERS {
            return Err(json.expected("num_hidden_layers", &format!("at most {LAYERS}")));
        }
        let kv = match model_type.as_str() {
            "llama" => json.size_or("num_key_value_heads", heads, heads)?,
            "mistral" => json.size_or("num_key_value_heads", 8, heads)?,
            _ => json.size_or("num_key_value_heads", 32, heads)?,
        };
        if !heads.is_multiple_of(kv) {
            return Err(json.refuse(format!("{heads} query heads cannot share {kv} key-value heads")));
        }
        let head_dim = match json.get("head_dim") {
            Some(_) => json.size("head_dim")?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(json.refuse(format!("{heads} heads do not divide `hidden_size` {hidden}"))),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(json.refuse(format!("head size {head_dim} cannot be rotated")));
        }
        let biased = json.flag("attention_bias")?;
        if !llama && biased != qwen2 && json.get("attention_bias").is_some() {
            return Err(json.refuse(format!("`attention_bias` {biased} in a `{model_type}` is not supported")));
        }
        let mlp_bias = json.flag("mlp_bias")?;
        if mlp_bias && !llama {
            return Err(json.refuse(format!("`mlp_bias` in a `{model_type}` is not supported")));
        }
        let positions = match model_type.as_str() {
            "llama" => 2048,
            "mistral" => 131_072,
            _ => 32_768,
        };
        let max_position_embeddings = json.size_or("max_position_embeddings", positions, positions)?;
        let (rope_theta, rope_scaling) = json.rope(max_position_embeddings)?;
        let (sliding_window, first_windowed_layer) = json.window(&model_type, layers)?;
        Ok(LlamaConfig {
            vocab_size: json.size("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: json.size("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            rms_norm_eps: json.positive_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: json.flag("tie_word_embeddings")?,
            attention_bias: biased || qwen2,
            output_bias: biased && llama,
            mlp_bias,
            sliding_window,
            first_windowed_layer,
            bos_token_id: json.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: json.tokens("eos_token_id")?,
            pad_token_id: json.tokens("pad_token_id")?.first().copied(),
            generation: Map::new(),
            model_type,
        })
    }
}

#[cfg(test)]
mod tests;
