//! Model shapes, read from config.json as Hugging Face writes it; what is not supported is refused by name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod read;

/// A Llama-family decoder's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// `llama`, `mistral` or `qwen2`: the layout of the checkpoint.
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
    /// Whether queries, keys and values have biases.
    pub attention_bias: bool,
    /// Whether attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the three maps of the feed-forward part have biases.
    pub mlp_bias: bool,
    /// How many positions a row of a windowed layer sees, itself included; 0 = all before it.
    pub sliding_window: usize,
    /// First layer that has the window; those below see everything.
    pub first_windowed_layer: usize,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence tokens.
    pub eos_token_ids: Vec<u32>,
    /// Padding token: nothing is padded here; it is kept for the configuration that is saved.
    pub pad_token_id: Option<u32>,
    /// How other programs' `generate` draws from the model, as generation_config.json says it: kept for what is saved,
    /// and no part of the function that the model computes.
    #[serde(skip)]
    pub generation: Map<String, Value>,
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
        original_max_position_embeddings: usize,
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
            attention_bias: false,
            output_bias: false,
            mlp_bias: false,
            sliding_window: 0,
            first_windowed_layer: 0,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            generation: Map::new(),
        }
    }

    /// The window of a layer: how many positions a row sees, itself included; 0 = all before it.
    pub fn window(&self, layer: usize) -> usize {
        if layer >= self.first_windowed_layer { self.sliding_window } else { 0 }
    }

    /// Whether a linear map of a layer has a bias; `part` as in checkpoints, `self_attn.q_proj`.
    pub fn biased(&self, part: &str) -> bool {
        match part {
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => self.attention_bias,
            "self_attn.o_proj" => self.output_bias,
            "mlp.gate_proj" | "mlp.up_proj" | "mlp.down_proj" => self.mlp_bias,
            _ => false,
        }
    }

    /// config.json as Hugging Face reads it.
    pub fn to_json(&self) -> Value {
        let architecture = match self.model_type.as_str() {
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            _ => "LlamaForCausalLM",
        };
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
            "eos_token_id": self.eos_json(),
            "pad_token_id": self.pad_token_id,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
        });
        let window = if self.sliding_window > 0 { Value::from(self.sliding_window) } else { Value::Null };
        match self.model_type.as_str() {
            "mistral" => json["sliding_window"] = window,
            "qwen2" => {
                json["use_sliding_window"] = (self.sliding_window > 0).into();
                json["sliding_window"] = window;
                json["max_window_layers"] = self.first_windowed_layer.into();
            }
            _ => {
                json["attention_bias"] = self.attention_bias.into();
                json["mlp_bias"] = self.mlp_bias.into();
            }
        }
        json
    }

    /// generation_config.json as Hugging Face reads it.
    pub fn generation_json(&self) -> Value {
        let tokens = [
            ("bos_token_id", self.bos_token_id.into()),
            ("eos_token_id", self.eos_json()),
            ("pad_token_id", self.pad_token_id.into()),
        ];
        let mut json: Map<String, Value> = tokens.map(|(key, value)| (key.to_string(), value)).into_iter().collect();
        json.extend(self.generation.clone());
        Value::Object(json)
    }

    /// One end token as a number, several as a list, as checkpoints have it.
    fn eos_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => (*one).into(),
            several => several.into(),
        }
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
                        let turns = original as f64 * plain / (2.0 * std::f64::consts::PI);
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
        let biases = usize::from(self.attention_bias) * d * (self.num_attention_heads + 2 * self.num_key_value_heads)
            + usize::from(self.output_bias) * h
            + usize::from(self.mlp_bias) * (2 * self.intermediate_size + h);
        let layer = attention + 3 * h * self.intermediate_size + 2 * h + biases;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size * h;
        self.num_hidden_layers * layer + embeddings + h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            original_max_position_embeddings: 8192,
        };
        let stretched = config.rope_frequencies();
        assert_eq!(plain[0], stretched[0]);
        assert!((plain[63] / stretched[63] - 8.0).abs() < 1e-9);
    }
}
