//! Models of every family and storage, against what transformers and gguf make of the same numbers;
//! see `tests/fixtures/parity/families.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value as Entry};
use candle_core::quantized::{GgmlDType, QTensor, ggml_file};
use candle_core::{DType, Device, Tensor};
use lpc_pipe::model::config::RopeScaling;
use lpc_pipe::model::names::shapes;
use lpc_pipe::model::{LlamaConfig, Loaded};
use lpc_pipe::nn::Precision;
use lpc_pipe::policy::evaluate::plain_logps;
use lpc_pipe::seed::Seed;
use lpc_pipe::source::ModelSource;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::weights::load::load;
use lpc_pipe::weights::{folder, safetensors};
use lpc_pipe::{Error, Result};
use serde_json::Value;

use crate::numbers::parity::{flat, hidden, ids, json, list, text};
use crate::numbers::policies::{close, new_policy, numbers, plain, write_tensors};
use crate::support::needed;

type Tensors = BTreeMap<String, Tensor>;

/// Multiples of 1/128 in [-1/2, 1/2), a function of the name: FNV-1a, then splitmix64.
fn made(name: &str, n: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    (1..=n as u64)
        .map(|i| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (((z ^ (z >> 31)) >> 57) as f32 - 64.0) / 128.0
        })
        .collect()
}

fn weights(config: &LlamaConfig) -> Tensors {
    shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let base = if name.contains("norm") { 1.0 } else { 0.0 };
            let values = made(&name, shape.iter().product()).into_iter().map(|x| base + x).collect::<Vec<f32>>();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (name, tensor)
        })
        .collect()
}

/// A folder as Hugging Face has it: config.json as transformers wrote it, weights in two files of this type.
fn folder(dir: &Path, config: &Value, tensors: &Tensors, kind: DType) -> ModelSource {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut map = serde_json::Map::new();
    for (part, file) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate() {
        let those = tensors.iter().enumerate().filter(|(i, _)| i % 2 == part);
        let those: Vec<(String, Tensor)> = those.map(|(_, (n, t))| (n.clone(), t.to_dtype(kind).unwrap())).collect();
        write_tensors(&dir.join(file), &those);
        map.extend(those.iter().map(|(n, _)| (n.clone(), (*file).into())));
    }
    let index = serde_json::json!({"weight_map": map});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    ModelSource::Folder(dir.to_path_buf())
}

/// Logits, token and sequence log-probabilities of one recorded case.
fn agrees(recorded: &Value, case: &Value, loaded: Loaded, tolerance: f64) {
    let name = text(&case["name"]);
    let policy = new_policy::<f32>(loaded, &plain(), Seed(0), 256);
    let all: Vec<Vec<u32>> = list(&recorded["sequences"]).iter().map(ids).collect();
    // Both sequences in one pass: packing changes nothing.
    for ((sequence, ids), h) in list(&case["sequences"]).iter().zip(&all).zip(hidden(&policy, &all)) {
        let rows = Tensor::new(crate::numbers::parity::ids(&sequence["logit_rows"]), &Device::Cpu).unwrap();
        let logits = policy.decoder.logits(&h.index_select(&rows, 0).unwrap()).unwrap();
        close(name, &numbers(&logits), &flat(&sequence["logits"]), tolerance);
        let h = h.narrow(0, 0, ids.len() - 1).unwrap();
        let got = numbers(&policy.decoder.token_logps(&h, &ids[1..], None).unwrap());
        close(name, &got, &flat(&sequence["token_logps"]), tolerance);
    }
    // The prompt computed once for both responses, with windows that begin in it.
    let row = TokenRow {
        id: name.into(),
        prompt_ids: ids(&recorded["prompt_ids"]).into(),
        chosen_ids: ids(&recorded["chosen_ids"]).into(),
        rejected_ids: ids(&recorded["rejected_ids"]).into(),
        ..TokenRow::default()
    };
    let (chosen, rejected) = plain_logps(&policy, &[row], |_| ()).unwrap()[0];
    let wanted = [case["logps_chosen"].as_f64().unwrap(), case["logps_rejected"].as_f64().unwrap()];
    close(name, &[chosen, rejected], &wanted, tolerance);
}

fn open(source: &ModelSource) -> Result<Loaded> {
    load::<f32>(source, 1, Seed(0))
}

#[test]
fn every_family_agrees_with_transformers() {
    let recorded = json("families.json");
    let kinds = [DType::F32, DType::BF16, DType::F16, DType::F64];
    for (case, kind) in list(&recorded["cases"]).iter().zip(kinds.iter().cycle()) {
        let config = LlamaConfig::from_json(case["config"].to_string().as_bytes(), text(&case["name"])).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let source = folder(dir.path(), &case["config"], &weights(&config), *kind);
        agrees(&recorded, case, open(&source).unwrap(), 2e-4);
        // What is saved is the same model.
        let saved = tempfile::tempdir().unwrap();
        let loaded = open(&source).unwrap();
        folder::save(saved.path(), &loaded.config, loaded.params.iter()).unwrap();
        let again = open(&ModelSource::Folder(saved.path().into())).unwrap();
        assert_eq!(again.config, loaded.config);
        agrees(&recorded, case, again, 2e-4);
    }
}

/// Saves every family, for `families.py` to read back with transformers: in the folder that LPC_PIPE_FAMILIES names,
/// else in a temporary one.
#[test]
#[ignore = "writes models for another program; `just readback-models` runs it"]
fn saved_families_for_transformers() {
    let temporary = tempfile::tempdir().unwrap();
    let out = std::env::var_os("LPC_PIPE_FAMILIES").map_or_else(|| temporary.path().into(), PathBuf::from);
    for case in list(&json("families.json")["cases"]) {
        let name = text(&case["name"]);
        let config = LlamaConfig::from_json(case["config"].to_string().as_bytes(), name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let loaded = open(&folder(dir.path(), &case["config"], &weights(&config), DType::F32)).unwrap();
        folder::save(&out.join(name), &loaded.config, loaded.params.iter()).unwrap();
        assert_eq!(open(&ModelSource::Folder(out.join(name))).unwrap().config, loaded.config, "{name}");
    }
}

#[test]
fn a_window_or_a_bias_that_is_forgotten_shows() {
    let recorded = json("families.json");
    let case = |name: &str| list(&recorded["cases"]).iter().find(|c| c["name"] == name).unwrap().clone();
    let logps = |name: &str| flat(&case(name)["sequences"][1]["token_logps"]);
    let apart = |a: &str, b: &str| logps(a).iter().zip(logps(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart("llama", "mistral_window") > 0.1 && apart("llama", "mistral_wide_window") > 0.1);
    assert!(apart("llama", "llama_biases") > 0.1 && apart("llama", "llama3") > 0.1);
    assert!(apart("qwen2", "qwen2_windows") > 0.1);
}

// GGUF.

/// Names and planes as llama.cpp's converter leaves them.
fn ggml_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}

/// Halves of every head to neighbouring rows.
fn interleaved(t: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = (t.dim(0).unwrap(), t.elem_count() / t.dim(0).unwrap());
    let planes = t.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    planes.transpose(1, 2).unwrap().contiguous().unwrap().reshape(t.shape()).unwrap()
}

fn ggml_tensors(config: &LlamaConfig, tensors: &Tensors, kind: GgmlDType) -> Vec<(String, QTensor)> {
    tensors
        .iter()
        .map(|(name, t)| {
            let heads = if name.contains("q_proj") { config.num_attention_heads } else { config.num_key_value_heads };
            let turned = config.model_type != "qwen2" && (name.contains("q_proj") || name.contains("k_proj"));
            let t = if turned { interleaved(t, heads) } else { t.clone() };
            let kind = if t.rank() == 1 { GgmlDType::F32 } else { kind };
            (ggml_name(name), QTensor::quantize(&t, kind).unwrap())
        })
        .collect()
}

fn metadata(config: &LlamaConfig) -> BTreeMap<String, Entry> {
    let prefix = if config.model_type == "qwen2" { "qwen2" } else { "llama" };
    let key = |name: &str| format!("{prefix}.{name}");
    let size = |n: usize| Entry::U32(n as u32);
    let mut out = BTreeMap::from([
        ("general.architecture".to_string(), Entry::String(prefix.into())),
        (key("block_count"), size(config.num_hidden_layers)),
        (key("embedding_length"), size(config.hidden_size)),
        (key("feed_forward_length"), size(config.intermediate_size)),
        (key("context_length"), size(config.max_position_embeddings)),
        (key("attention.head_count"), size(config.num_attention_heads)),
        (key("attention.head_count_kv"), size(config.num_key_value_heads)),
        (key("attention.key_length"), size(config.head_dim)),
        (key("attention.value_length"), size(config.head_dim)),
        (key("rope.dimension_count"), size(config.head_dim)),
        (key("rope.freq_base"), Entry::F32(config.rope_theta as f32)),
        (key("attention.layer_norm_rms_epsilon"), Entry::F32(config.rms_norm_eps as f32)),
        ("tokenizer.ggml.bos_token_id".into(), Entry::U32(1)),
        ("tokenizer.ggml.eos_token_id".into(), Entry::U32(2)),
    ]);
    if config.sliding_window > 0 {
        out.insert(key("attention.sliding_window"), size(config.sliding_window));
    }
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        out.insert(key("rope.scaling.type"), Entry::String("linear".into()));
        out.insert(key("rope.scaling.factor"), Entry::F32(factor as f32));
    }
    out
}

fn write_gguf(path: &Path, metadata: &BTreeMap<String, Entry>, tensors: &[(String, QTensor)]) -> ModelSource {
    let entries: Vec<(&str, &Entry)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &entries, &tensors).unwrap();
    ModelSource::Gguf(path.to_path_buf())
}

fn sandbox() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    (dir, path)
}

#[test]
fn gguf_files_of_every_family_agree_with_transformers() {
    let recorded = json("families.json");
    let mut seen = 0;
    for case in list(&recorded["cases"]) {
        let name = text(&case["name"]);
        // The metadata has no such settings, and llama.cpp knows Llama 3's table at 8192 positions only.
        if ["llama3", "qwen2_windows"].contains(&name) {
            continue;
        }
        let config = LlamaConfig::from_json(case["config"].to_string().as_bytes(), name).unwrap();
        let (_dir, path) = sandbox();
        let tensors = ggml_tensors(&config, &weights(&config), GgmlDType::F32);
        let loaded = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap();
        let plain = LlamaConfig { model_type: String::new(), ..config.clone() };
        assert_eq!(LlamaConfig { model_type: String::new(), ..loaded.config.clone() }, plain, "{name}");
        agrees(&recorded, case, loaded, 2e-4);
        seen += 1;
    }
    assert_eq!(seen, 8);
}

/// One layer whose rows are whole blocks of every type.
fn wide() -> LlamaConfig {
    LlamaConfig {
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 128,
        intermediate_size: 256,
        rope_theta: 500_000.0,
        max_position_embeddings: 512,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        ..LlamaConfig::tiny(256, 1, 3)
    }
}

#[test]
fn every_common_quantization_is_dequantized() {
    let config = wide();
    let recorded = json("ggml.json");
    let types = list(&recorded["types"]);
    assert_eq!(types.len(), 13);
    for entry in types {
        let name = text(&entry["name"]);
        // Largest error of a number of size 1/2, in units of the block's largest.
        let (kind, bound) = match name {
            "F32" => (GgmlDType::F32, 0.0),
            "F16" => (GgmlDType::F16, 0.0),
            "BF16" => (GgmlDType::BF16, 0.0),
            "Q4_0" => (GgmlDType::Q4_0, 0.07),
            "Q4_1" => (GgmlDType::Q4_1, 0.04),
            "Q5_0" => (GgmlDType::Q5_0, 0.04),
            "Q5_1" => (GgmlDType::Q5_1, 0.02),
            "Q8_0" => (GgmlDType::Q8_0, 0.003),
            "Q2_K" => (GgmlDType::Q2K, 0.3),
            "Q3_K" => (GgmlDType::Q3K, 0.2),
            "Q4_K" => (GgmlDType::Q4K, 0.07),
            "Q5_K" => (GgmlDType::Q5K, 0.04),
            "Q6_K" => (GgmlDType::Q6K, 0.03),
            other => panic!("a recorded type that is not tested: {other}"),
        };
        let weights = weights(&config);
        let mut tensors = ggml_tensors(&config, &weights, kind);
        // The embedding's bytes were written, and read, by another program.
        let hex = text(&entry["bytes"]);
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let thrice = bytes.repeat(3);
        let embedding = ggml_file::qtensor_from_ggml(kind, &thrice, vec![3, 256], &Device::Cpu).unwrap();
        tensors.iter_mut().find(|(n, _)| n == "token_embd.weight").unwrap().1 = embedding;
        let (_dir, path) = sandbox();
        let loaded = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap();
        assert_eq!(loaded.config, config);
        for param in &loaded.params {
            let got = numbers(param.var.as_tensor());
            if param.name == "model.embed_tokens.weight" {
                close(name, &got, &flat(&entry["values"]).repeat(3), 1e-6);
                continue;
            }
            let worst = got.iter().zip(numbers(&weights[&param.name])).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            assert!(worst <= bound, "{name} {}: {worst}", param.name);
        }
    }
}

#[test]
fn the_table_of_llama_3_is_read_from_gguf() {
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let config = LlamaConfig { rope_scaling: scaling, ..wide() };
    let plain = LlamaConfig { rope_scaling: RopeScaling::Default, ..config.clone() };
    let divisors: Vec<f32> =
        plain.rope_frequencies().iter().zip(config.rope_frequencies()).map(|(p, s)| (p / s) as f32).collect();
    assert!(divisors[0] == 1.0 && divisors[63] > 31.9);
    let mut tensors = ggml_tensors(&config, &weights(&config), GgmlDType::F32);
    let table =
        |values: Vec<f32>| QTensor::quantize(&Tensor::new(values, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    tensors.push(("rope_freqs.weight".into(), table(divisors)));
    let (_dir, path) = sandbox();
    let loaded = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap();
    assert_eq!(loaded.config, config);
    tensors.last_mut().unwrap().1 = table(vec![2.0; 64]);
    let error = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap_err().to_string();
    assert!(error.contains("rope_freqs.weight"), "{error}");
}

#[test]
fn what_gguf_metadata_says_is_honoured_or_refused() {
    let config = wide();
    let tensors = ggml_tensors(&config, &weights(&config), GgmlDType::Q8_0);
    let (_dir, path) = sandbox();
    let refused = |key: &str, value: Entry| -> Error {
        let mut metadata = metadata(&config);
        metadata.insert(key.into(), value);
        open(&write_gguf(&path, &metadata, &tensors)).map(|_| ()).expect_err(key)
    };
    for (key, value) in [
        ("general.architecture", Entry::String("gemma2".into())),
        ("llama.rope.scaling.type", Entry::String("yarn".into())),
        ("llama.rope.dimension_count", Entry::U32(64)),
        ("llama.attention.value_length", Entry::U32(64)),
        ("llama.expert_count", Entry::U32(8)),
        ("llama.logit_scale", Entry::F32(0.5)),
        ("llama.attention.head_count", Entry::Array(vec![Entry::U32(2)])),
        ("llama.attention.head_count", Entry::U32(0)),
        ("llama.attention.head_count_kv", Entry::U32(0)),
        ("llama.embedding_length", Entry::U32(0)),
        ("llama.block_count", Entry::U32(1000)),
        ("llama.feed_forward_length", Entry::F32(256.0)),
        ("llama.rope.freq_base", Entry::F32(f32::NAN)),
    ] {
        let error = refused(key, value).to_string();
        let named = match key {
            "general.architecture" => "gemma2",
            "llama.rope.scaling.type" => "yarn",
            "llama.block_count" => "1000 layers",
            "llama.expert_count" => "expert_count",
            other => other,
        };
        assert!(error.contains(named), "{key}: {error}");
    }
    assert!(refused("split.count", Entry::U16(3)).to_string().contains("several"));
    // A scale of 1 changes nothing.
    let mut fine = metadata(&config);
    fine.insert("llama.logit_scale".into(), Entry::F32(1.0));
    open(&write_gguf(&path, &fine, &tensors)).unwrap();
}

#[test]
fn damaged_gguf_files_are_refused() {
    let config = wide();
    let mut tensors = ggml_tensors(&config, &weights(&config), GgmlDType::Q4K);
    let (_dir, path) = sandbox();
    write_gguf(&path, &metadata(&config), &tensors);
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 3, 4, 30, 200, 1000, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(matches!(open(&ModelSource::Gguf(path.clone())), Err(Error::Model { .. })), "{len} bytes");
    }
    // A type that nobody can dequantize: the last tensor's, by its number in the head.
    let name = b"blk.0.ffn_up.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    let mut bytes = whole.clone();
    bytes[at] = 20;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(&ModelSource::Gguf(path.clone())).unwrap_err().to_string();
    assert!(error.contains("tensor blk.0.ffn_up.weight") && error.contains("IQ4_NL"), "{error}");
    // Missing, unexpected.
    let (up, _) = tensors.iter().enumerate().find(|(_, (n, _))| n == "blk.0.ffn_up.weight").unwrap();
    let taken = tensors.remove(up);
    let error = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap_err().to_string();
    assert!(error.contains("missing tensor model.layers.0.mlp.up_proj.weight"), "{error}");
    tensors.push(taken);
    tensors.push((
        "blk.0.ffn_gate_exps.weight".into(),
        QTensor::quantize(&Tensor::ones(256, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap(),
    ));
    let error = open(&write_gguf(&path, &metadata(&config), &tensors)).unwrap_err().to_string();
    assert!(error.contains("unexpected tensor blk.0.ffn_gate_exps.weight"), "{error}");
}

// True width.

/// Largest difference of a row relative to the row's largest number, over all rows.
fn apart(got: &[f64], wanted: &[f64], width: usize) -> f64 {
    assert_eq!(got.len(), wanted.len());
    got.chunks(width)
        .zip(wanted.chunks(width))
        .map(|(g, w)| {
            let largest = w.iter().fold(0f64, |m, x| m.max(x.abs()));
            g.iter().zip(w).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max) / largest
        })
        .fold(0.0, f64::max)
}

/// One folder of `true_width.py`; says the differences.
fn true_width(folder: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let reference = safetensors::read(&folder.join("reference.safetensors")).unwrap();
    let loaded = open(&ModelSource::Folder(folder.to_path_buf())).unwrap();
    let (width, window) = (loaded.config.vocab_size, loaded.config.sliding_window);
    assert_eq!((loaded.config.hidden_size, loaded.config.num_hidden_layers), (4096, 2), "{name}");
    let mut policy = new_policy::<f32>(loaded, &plain(), Seed(0), 8192);
    for i in 0.. {
        let Some(ids) = reference.get(&format!("ids.{i}")) else { break };
        let ids: Vec<u32> = ids.to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect();
        let of = |key: &str| numbers(&reference[&format!("{key}.{i}")]);
        let rows = of("logits").len() / width;
        let scored = of("logps").len();
        let mut compute = |precision| {
            policy.decoder.precision = precision;
            let h = hidden(&policy, std::slice::from_ref(&ids)).remove(0);
            let logits = policy.decoder.logits(&h.narrow(0, ids.len() - rows, rows).unwrap()).unwrap();
            let h = h.narrow(0, ids.len() - 1 - scored, scored).unwrap();
            (numbers(&logits), numbers(&policy.decoder.token_logps(&h, &ids[ids.len() - scored..], None).unwrap()))
        };
        let (logits, logps) = compute(Precision::F32);
        let exact = (apart(&logits, &of("logits"), width), apart(&logps, &of("logps"), scored));
        let theirs = apart(&logits, &of("bf16.logits"), width);
        let ours = apart(&compute(Precision::Bf16).0, &of("logits"), width);
        eprintln!(
            "{name}, window {window}, {} tokens: float32 against float32: logits {:.1e}, log-probabilities {:.1e}; \
             logits, float32 against their bfloat16: {theirs:.1e}, our bfloat16 against float32: {ours:.1e}",
            ids.len(),
            exact.0,
            exact.1
        );
        assert!(exact.0 < 1e-3 && exact.1 < 1e-3, "{name}: float32 differs");
        // Eight bits of mantissa, through two layers; ours sums in float32 and keeps all else in it.
        assert!(theirs < 5e-2 && ours < theirs.max(1e-2), "{name}: bfloat16 differs");
    }
}

#[test]
#[ignore = "needs 9 GB of models; `just true-width` makes them and runs it"]
fn true_width_models_agree_with_transformers() {
    let root = needed("LPC_PIPE_TRUE_WIDTH", "target/true-width");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = folders.filter(|f| f.join("reference.safetensors").is_file()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no model with a reference.safetensors");
    folders.iter().for_each(|folder| true_width(folder));
}
