//! Model shapes, read from config.json as Hugging Face writes it; what is not supported is refused by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A Llama-family decoder's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// `llama` or `mistral`: the layout of the checkpoint.
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// H.
    pub hidden_size: usize,
    /// I.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Hq.
    pub num_attention_heads: usize,
    /// Hkv; divides Hq.
    pub num_key_value_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token (the first, where a model lists several).
    pub eos_token_id: Option<u32>,
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_max_position_embeddings: f64,
    },
}

impl LlamaConfig {
    /// The small Llama that `tiny[:WxL]` stands for.
    pub fn tiny(width: usize, layers: usize, vocab_size: usize) -> LlamaConfig {
        let heads = (width / 16).clamp(1, 8);
        LlamaConfig {
            model_type: "llama".into(),
            vocab_size,
            hidden_size: width,
            intermediate_size: width * 8 / 3 / 16 * 16,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: if heads.is_multiple_of(2) { heads / 2 } else { heads },
            head_dim: width / heads,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 4096,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
        }
    }

    /// Reads config.json's content. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Model`] where a field is missing or the architecture is not one that we compute exactly.
    pub fn from_json(text: &[u8], origin: &str) -> Result<LlamaConfig> {
        let json: Value =
            serde_json::from_slice(text).map_err(|e| Error::model(origin, format!("not a JSON object: {e}")))?;
        let refuse = |what: String| Error::model(origin, what);
        let field = |key: &str| json.get(key).filter(|v| !v.is_null());
        let number = |key: &str| -> Result<usize> {
            field(key)
                .and_then(Value::as_u64)
                .map(|n| n as usize)
                .ok_or_else(|| refuse(format!("`{key}`: expected a whole number, got {}", show(json.get(key)))))
        };
        let or = |key: &str, default: usize| if field(key).is_some() { number(key) } else { Ok(default) };
        let model_type = field("model_type").and_then(Value::as_str).unwrap_or("").to_string();
        if !["llama", "mistral"].contains(&model_type.as_str()) {
            return Err(
                refuse(format!("`model_type` {model_type:?} is not supported")).with_hint("supported: llama, mistral")
            );
        }
        for (key, wanted) in [("hidden_act", "silu")] {
            if let Some(found) = field(key)
                && found != wanted
            {
                return Err(refuse(format!("`{key}` {found} is not supported, only {wanted:?}")));
            }
        }
        for key in ["attention_bias", "mlp_bias"] {
            if field(key).and_then(Value::as_bool) == Some(true) {
                return Err(refuse(format!("`{key}` is not supported")));
            }
        }
        let max_position_embeddings = or("max_position_embeddings", 2048)?;
        if let Some(window) = field("sliding_window").and_then(Value::as_u64)
            && (window as usize) < max_position_embeddings
        {
            return Err(refuse(format!("`sliding_window` {window} is not supported"))
                .with_hint("Mistral-7B v0.2 and later have none"));
        }
        let heads = number("num_attention_heads")?;
        let hidden = number("hidden_size")?;
        let kv = or("num_key_value_heads", heads)?;
        if heads == 0 || kv == 0 || !heads.is_multiple_of(kv) {
            return Err(refuse(format!("{heads} query heads cannot share {kv} key-value heads")));
        }
        // Newer files nest the rotary settings.
        let rope = field("rope_parameters").or_else(|| field("rope_scaling"));
        let theta = field("rope_theta")
            .or_else(|| field("rope_parameters").and_then(|r| r.get("rope_theta")))
            .and_then(Value::as_f64)
            .unwrap_or(10_000.0);
        let eos = field("eos_token_id").and_then(|v| v.as_u64().or_else(|| v.get(0).and_then(Value::as_u64)));
        let head_dim = or("head_dim", hidden / heads)?;
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(refuse(format!("head size {head_dim} cannot be rotated")));
        }
        Ok(LlamaConfig {
            model_type,
            vocab_size: number("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: number("intermediate_size")?,
            num_hidden_layers: number("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            rms_norm_eps: field("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope_theta: theta,
            rope_scaling: rope_scaling(rope).map_err(refuse)?,
            max_position_embeddings,
            tie_word_embeddings: field("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            bos_token_id: field("bos_token_id").and_then(Value::as_u64).map(|v| v as u32),
            eos_token_id: eos.map(|v| v as u32),
        })
    }

    /// config.json as Hugging Face reads it.
    pub fn to_json(&self) -> Value {
        let architecture = if self.model_type == "mistral" { "MistralForCausalLM" } else { "LlamaForCausalLM" };
        let scaling = match &self.rope_scaling {
            RopeScaling::Default => Value::Null,
            other => serde_json::to_value(other).unwrap_or(Value::Null),
        };
        let mut json = serde_json::json!({
            "architectures": [architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "torch_dtype": "float32",
        });
        if self.model_type == "llama" {
            json["attention_bias"] = false.into();
            json["mlp_bias"] = false.into();
        }
        json
    }

    /// Rotary frequencies in radians per position, one per plane: `theta^(-2i/D)`, stretched.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        (0..half)
            .map(|i| {
                let plain = self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64);
                match self.rope_scaling {
                    RopeScaling::Default => plain,
                    RopeScaling::Linear { factor } => plain / factor,
                    RopeScaling::Llama3 {
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        original_max_position_embeddings: original,
                    } => {
                        let turns = original * plain / (2.0 * std::f64::consts::PI);
                        let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                        keep * plain + (1.0 - keep) * plain / factor
                    }
                }
            })
            .collect()
    }

    /// Parameters of the decoder, the head counted once where it is tied.
    pub fn parameters(&self) -> usize {
        let (h, d) = (self.hidden_size, self.head_dim);
        let attention = 2 * h * d * (self.num_attention_heads + self.num_key_value_heads);
        let layer = attention + 3 * h * self.intermediate_size + 2 * h;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size * h;
        self.num_hidden_layers * layer + embeddings + h
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".into(), Value::to_string)
}

fn rope_scaling(value: Option<&Value>) -> std::result::Result<RopeScaling, String> {
    let Some(value) = value else { return Ok(RopeScaling::Default) };
    let kind = value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str).unwrap_or("default");
    let number = |key: &str| {
        value.get(key).and_then(Value::as_f64).ok_or_else(|| format!("`rope_scaling.{key}`: expected a number"))
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: number("original_max_position_embeddings")?,
        }),
        other => Err(format!("`rope_scaling` of type {other:?} is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut config = LlamaConfig::tiny(64, 2, 300);
        config.rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let text = serde_json::to_vec(&config.to_json()).unwrap();
        assert_eq!(LlamaConfig::from_json(&text, "x").unwrap(), config);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let mut json = LlamaConfig::tiny(64, 2, 300).to_json();
        for (key, value) in [
            ("model_type", serde_json::json!("gpt2")),
            ("hidden_act", serde_json::json!("gelu")),
            ("attention_bias", serde_json::json!(true)),
            ("rope_scaling", serde_json::json!({"rope_type": "yarn"})),
            ("num_key_value_heads", serde_json::json!(3)),
        ] {
            let old = json[key].clone();
            json[key] = value;
            let error = LlamaConfig::from_json(&serde_json::to_vec(&json).unwrap(), "m").unwrap_err().to_string();
            let named = if key == "num_key_value_heads" { "key-value heads" } else { key };
            assert!(error.contains(named), "{error}");
            json[key] = old;
        }
    }

    #[test]
    fn short_waves_are_kept_and_long_ones_stretched() {
        let mut config = LlamaConfig::tiny(64, 1, 10);
        config.head_dim = 128;
        config.rope_theta = 500_000.0;
        let plain = config.rope_frequencies();
        config.rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let stretched = config.rope_frequencies();
        assert_eq!(plain[0], stretched[0]);
        assert!((plain[63] / stretched[63] - 8.0).abs() < 1e-9);
    }
}
