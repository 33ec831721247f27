use serde_json::json;

use super::*;

fn read(value: &Value) -> Result<LlamaConfig> {
    LlamaConfig::from_json(&serde_json::to_vec(value).unwrap(), "config.json")
}

/// Mistral-7B-v0.1's values.
fn mistral() -> Value {
    json!({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0", "use_cache": true, "vocab_size": 32000
    })
}

/// Llama-3.1-8B-Instruct's values.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256
    })
}

/// Qwen2-0.5B's values.
fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 131072, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": true, "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936
    })
}

fn with(mut base: Value, key: &str, value: Value) -> Value {
    base[key] = value;
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().unwrap().shift_remove(key);
    base
}

#[test]
fn mistral_with_and_without_its_window() {
    let config = read(&mistral()).unwrap();
    assert_eq!((config.window(0), config.window(31)), (4096, 4096));
    assert_eq!((config.head_dim, config.rope_theta, config.rms_norm_eps), (128, 10_000.0, 1e-5));
    assert_eq!((config.attention_bias, config.output_bias, config.mlp_bias), (false, false, false));
    // v0.3 says null, has a larger vocabulary and another base.
    let config = read(&with(with(mistral(), "sliding_window", Value::Null), "rope_theta", json!(1e6))).unwrap();
    assert_eq!((config.window(0), config.rope_theta), (0, 1e6));
    // A key that is not there stands for transformers' default, which is not null.
    let bare = ["sliding_window", "num_key_value_heads", "max_position_embeddings"];
    let config = read(&bare.iter().fold(mistral(), |json, key| without(json, key))).unwrap();
    assert_eq!((config.sliding_window, config.num_key_value_heads), (4096, 8));
    assert_eq!(config.max_position_embeddings, 131_072);
    // Nemo's heads do not divide its width.
    let config = read(&with(with(mistral(), "hidden_size", json!(5120)), "head_dim", json!(128))).unwrap();
    assert_eq!((config.head_dim, config.hidden_size), (128, 5120));
}

#[test]
fn llamas_of_three_generations() {
    let config = read(&llama()).unwrap();
    assert_eq!(config.eos_token_ids, [128_001, 128_008, 128_009]);
    let RopeScaling::Llama3 { factor, original_max_position_embeddings: original, .. } = config.rope_scaling else {
        panic!("{:?}", config.rope_scaling)
    };
    assert_eq!((factor, original), (8.0, 8192));
    let linear = read(&with(llama(), "rope_scaling", json!({"type": "linear", "factor": 4.0}))).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    // Llama 1: no key of its own for heads of keys, for the base, or for the positions.
    let old = ["rope_scaling", "rope_theta", "num_key_value_heads", "max_position_embeddings"];
    let old = read(&old.iter().fold(llama(), |json, key| without(json, key))).unwrap();
    assert_eq!((old.num_key_value_heads, old.rope_theta, old.max_position_embeddings), (32, 10_000.0, 2048));
    let biased = read(&with(with(llama(), "attention_bias", json!(true)), "mlp_bias", json!(true))).unwrap();
    assert_eq!((biased.attention_bias, biased.output_bias, biased.mlp_bias), (true, true, true));
}

#[test]
fn qwen2_has_biases_and_may_have_windows() {
    let config = read(&qwen2()).unwrap();
    assert_eq!((config.attention_bias, config.output_bias, config.window(23)), (true, false, 0));
    let windowed = with(with(qwen2(), "use_sliding_window", json!(true)), "max_window_layers", json!(20));
    let config = read(&with(windowed.clone(), "sliding_window", json!(1024))).unwrap();
    assert_eq!((config.window(19), config.window(20)), (0, 1024));
    // All layers below the first windowed one.
    let config = read(&with(windowed.clone(), "max_window_layers", json!(24))).unwrap();
    assert_eq!(config.sliding_window, 0);
    // transformers 5 writes what the other keys say once more.
    let kinds = |n: usize| -> Value {
        (0..24).map(|i| if i < n { "full_attention" } else { "sliding_attention" }).collect::<Vec<_>>().into()
    };
    read(&with(windowed.clone(), "layer_types", kinds(20))).unwrap();
    read(&with(qwen2(), "layer_types", kinds(24))).unwrap();
    let error = read(&with(windowed, "layer_types", kinds(19))).unwrap_err();
    assert!(error.to_string().contains("`layer_types`"), "{error}");
}

#[test]
fn nested_rotary_settings() {
    let nested =
        |rope: Value| read(&with(without(without(llama(), "rope_theta"), "rope_scaling"), "rope_parameters", rope));
    let config = nested(json!({"rope_type": "default", "rope_theta": 500000.0})).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (500_000.0, RopeScaling::Default));
    let scaled = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let config = nested(scaled).unwrap();
    assert!(matches!(config.rope_scaling, RopeScaling::Llama3 { factor: 32.0, .. }), "{:?}", config.rope_scaling);
    for (rope, named) in [
        (json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
        (json!({"rope_type": "dynamic", "factor": 4.0}), "dynamic"),
        (json!({"rope_type": "linear"}), "factor"),
        (json!({"rope_type": "linear", "factor": 0.0}), "factor"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "low_freq_factor",
        ),
        (json!({"rope_type": "default", "mscale": 0.7}), "mscale"),
        (json!({"factor": 2.0}), "factor"),
        (json!({"full_attention": {"rope_type": "default"}}), "full_attention"),
        (json!({"rope_type": 3}), "type"),
        (json!("linear"), "rope_parameters"),
    ] {
        let error = nested(rope.clone()).unwrap_err().to_string();
        assert!(error.contains(named), "{rope}: {error}");
    }
    let twice = read(&with(llama(), "rope_parameters", json!({"rope_type": "default", "rope_theta": 1.0})));
    assert!(twice.unwrap_err().to_string().contains("rope_parameters"));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (key, value) in [
        ("model_type", json!("gpt2")),
        ("model_type", json!("granite")),
        ("hidden_act", json!("gelu")),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("pretraining_tp", json!(2)),
        ("partial_rotary_factor", json!(0.5)),
        ("attention_dropout", json!(0.1)),
        ("logits_scaling", json!(8.0)),
        ("embedding_multiplier", json!(12.0)),
        ("residual_multiplier", json!(0.22)),
        ("attention_multiplier", json!(0.0078125)),
        ("num_local_experts", json!(8)),
        ("auto_map", json!({"AutoModel": "x.py"})),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("sliding_window", json!(4096)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-1)),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("num_hidden_layers", json!(5000)),
        ("vocab_size", json!("many")),
        ("vocab_size", Value::Null),
        ("head_dim", json!(65)),
        ("eos_token_id", json!("</s>")),
        ("attention_bias", json!("yes")),
        ("rms_norm_eps", json!(0)),
        ("rope_theta", json!("big")),
    ] {
        let error = read(&with(llama(), key, value.clone())).unwrap_err();
        let named = if key == "head_dim" { "head size 65" } else { key };
        assert!(error.to_string().contains(named), "{key} {value}: {error}");
        assert!(key != "model_type" || error.hint().unwrap().contains("llama, mistral, qwen2"));
    }
    let error = read(&with(llama(), "num_key_value_heads", json!(3))).unwrap_err();
    assert!(error.to_string().contains("3 key-value heads"), "{error}");
    for bias in ["attention_bias", "mlp_bias"] {
        let error = read(&with(mistral(), bias, json!(true))).unwrap_err();
        assert!(error.to_string().contains(bias), "{error}");
    }
    for text in ["", "[]", "{", "3"] {
        assert!(LlamaConfig::from_json(text.as_bytes(), "m").is_err());
    }
    // What is switched off changes nothing.
    for (key, value) in [
        ("quantization_config", Value::Null),
        ("use_qk_norm", json!(false)),
        ("logit_scale", json!(1.0)),
        ("no_rope_layers", json!([])),
        ("pad_token_id", json!(-1)),
    ] {
        assert_eq!(read(&with(llama(), key, value)).unwrap(), read(&llama()).unwrap(), "{key}");
    }
}

#[test]
fn what_is_written_is_read() {
    let windowed = with(with(qwen2(), "use_sliding_window", json!(true)), "max_window_layers", json!(20));
    let biased = with(with(llama(), "attention_bias", json!(true)), "mlp_bias", json!(true));
    let open = with(mistral(), "sliding_window", Value::Null);
    let padded = with(llama(), "pad_token_id", json!(7));
    for json in [mistral(), llama(), qwen2(), windowed, biased, open, padded] {
        let config = read(&json).unwrap();
        assert_eq!(read(&config.to_json()).unwrap(), config);
    }
    let config = LlamaConfig::tiny(64, 2, 300);
    assert_eq!(read(&config.to_json()).unwrap(), config);
}
