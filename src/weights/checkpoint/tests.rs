use ::safetensors::tensor::TensorView;
use candle_core::Device;
use serde_json::json;

use super::*;
use crate::model::Loaded;
use crate::model::init::random;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::weights::load::load;
use crate::weights::safetensors::{self, TensorEntry};

/// Tensors in memory, by name.
type Tensors = BTreeMap<String, Tensor>;

fn config() -> LlamaConfig {
    LlamaConfig { model_type: "qwen2".into(), attention_bias: true, ..LlamaConfig::tiny(32, 2, 50) }
}

/// Weights that every storage type holds exactly: multiples of 1/128 below 1.
fn weights(config: &LlamaConfig) -> Tensors {
    let round = |x: f32| (x * 128.0).round().clamp(-127.0, 127.0) / 128.0;
    random::<f32>(config, 0.2, Seed(3))
        .unwrap()
        .into_iter()
        .map(|p| {
            let values: Vec<f32> = p.var.flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = values.into_iter().map(round).collect();
            (p.name.clone(), Tensor::from_vec(values, p.var.shape(), &Device::Cpu).unwrap())
        })
        .collect()
}

fn write(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) {
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let entries: Vec<_> = tensors.iter().map(|(name, tensor)| TensorEntry::tensor(name, tensor, None)).collect();
    safetensors::write(path, &[], &entries).unwrap();
}

fn folder(config: &LlamaConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_json().to_string()).unwrap();
    dir
}

fn open(dir: &tempfile::TempDir) -> Result<Loaded> {
    load::<f32>(&ModelSource::Folder(dir.path().into()), 50, Seed(0))
}

fn fails(dir: &tempfile::TempDir) -> String {
    open(dir).unwrap_err().to_string()
}

#[track_caller]
fn same(loaded: &Loaded, wanted: &Tensors) {
    let wanted: Tensors = wanted.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
    assert_eq!(loaded.params.len(), shapes(&loaded.config).len());
    for param in &loaded.params {
        let numbers = |t: &Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(numbers(param.var.as_tensor()), numbers(&wanted[&param.name]), "{}", param.name);
        assert_eq!(param.var.dims(), wanted[&param.name].dims());
    }
}

/// Two shards and their index; `place` picks the shard of a tensor.
fn shards(dir: &tempfile::TempDir, tensors: &Tensors, place: impl Fn(&str) -> usize) {
    let name = |i: usize| format!("model-{:05}-of-00002.safetensors", i + 1);
    for i in 0..2 {
        let part = tensors.iter().filter(|(n, _)| place(n) == i).map(|(n, t)| (n.clone(), t.clone()));
        write(&dir.path().join(name(i)), part);
    }
    index(dir, tensors.keys().map(|n| (n.as_str(), name(place(n)))));
}

fn index<'a>(dir: &tempfile::TempDir, entries: impl IntoIterator<Item = (&'a str, String)>) {
    let map: serde_json::Map<String, serde_json::Value> =
        entries.into_iter().map(|(n, f)| (n.to_string(), f.into())).collect();
    let text = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
}

#[test]
fn every_type_and_layout_gives_the_same_numbers() {
    for tied in [true, false] {
        let config = LlamaConfig { tie_word_embeddings: tied, ..config() };
        let weights = weights(&config);
        for kind in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let stored: Tensors = weights.iter().map(|(n, t)| (n.clone(), t.to_dtype(kind).unwrap())).collect();
            let dir = folder(&config);
            write(&dir.path().join("model.safetensors"), stored.clone());
            same(&open(&dir).unwrap(), &weights);
            let dir = folder(&config);
            shards(&dir, &stored, |name| usize::from(name.contains("layers.1")));
            same(&open(&dir).unwrap(), &weights);
        }
    }
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_named() {
    let config = config();
    let mut tensors = weights(&config);
    let norm = tensors.remove(names::NORM).unwrap();
    tensors.insert("model.extra.weight".into(), norm.clone());
    tensors.insert("model.layers.1.input_layernorm.weight".into(), norm.narrow(0, 0, 31).unwrap());
    // Derived tables of old checkpoints say nothing new.
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), norm);
    tensors.remove("model.layers.0.self_attn.q_proj.bias").unwrap();
    let dir = folder(&config);
    write(&dir.path().join("model.safetensors"), tensors);
    let error = fails(&dir);
    for part in [
        "missing tensor model.norm.weight",
        "missing tensor model.layers.0.self_attn.q_proj.bias",
        "tensor model.layers.1.input_layernorm.weight: expected shape [32], got [31]",
        "unexpected tensor model.extra.weight",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("inv_freq"), "{error}");
    // A whole model of another depth is not listed tensor by tensor.
    let dir = folder(&LlamaConfig { num_hidden_layers: 4, ..config.clone() });
    write(&dir.path().join("model.safetensors"), weights(&config));
    assert!(fails(&dir).contains("and 16 more"), "{}", fails(&dir));
}

#[test]
fn tied_heads_are_checked_and_untied_ones_wanted() {
    let config = config();
    let mut tensors = weights(&config);
    let embedding = tensors[names::EMBEDDING].clone();
    tensors.insert(names::HEAD.into(), embedding.clone());
    let dir = folder(&config);
    write(&dir.path().join("model.safetensors"), tensors.clone());
    same(&open(&dir).unwrap(), &tensors);
    tensors.insert(names::HEAD.into(), (embedding + 1.0).unwrap());
    write(&dir.path().join("model.safetensors"), tensors.clone());
    assert!(fails(&dir).contains("lm_head.weight differs"), "{}", fails(&dir));
    let dir = folder(&LlamaConfig { tie_word_embeddings: false, ..config });
    tensors.remove(names::HEAD);
    write(&dir.path().join("model.safetensors"), tensors);
    let error = open(&dir).unwrap_err();
    assert!(error.to_string().contains("missing tensor lm_head.weight"), "{error}");
    assert!(error.hint().unwrap().contains("tie_word_embeddings"));
}

#[test]
fn a_tensor_in_two_files_or_in_another_one_is_refused() {
    let config = config();
    let tensors = weights(&config);
    let dir = folder(&config);
    shards(&dir, &tensors, |name| usize::from(name.contains("layers.1")));
    let second = dir.path().join("model-00002-of-00002.safetensors");
    let part = |norm: bool| {
        tensors.clone().into_iter().filter(move |(n, _)| n.contains("layers.1") || norm && n == names::NORM)
    };
    write(&second, part(true));
    let error = fails(&dir);
    assert!(error.contains("tensor model.norm.weight stands in") && error.contains("model-00001"), "{error}");
    write(&second, part(false));
    open(&dir).unwrap();
    let name = |n: &str| format!("model-0000{}-of-00002.safetensors", if n == names::NORM { 2 } else { 1 });
    index(&dir, tensors.keys().map(|n| (n.as_str(), if n.contains("layers.1") { name(names::NORM) } else { name(n) })));
    let error = fails(&dir);
    assert!(error.contains("tensor model.norm.weight is not in this file"), "{error}");
    std::fs::remove_file(second).unwrap();
    assert!(fails(&dir).contains("is not there"), "{}", fails(&dir));
}

#[test]
fn an_index_may_not_leave_its_folder() {
    let dir = folder(&config());
    for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "..", ".", ""] {
        index(&dir, [("w", name.to_string())]);
        assert!(fails(&dir).contains("is not a plain file name"), "{name}: {}", fails(&dir));
    }
    for text in ["{}", "[]", "{\"weight_map\": {}}", "{\"weight_map\": {\"w\": 3}}", "{", ""] {
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        assert!(matches!(open(&dir), Err(Error::Model { .. })), "{text}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let config = config();
    let dir = folder(&config);
    let path = dir.path().join("model.safetensors");
    write(&path, weights(&config));
    let whole = std::fs::read(&path).unwrap();
    let head = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let long = [whole.as_slice(), &[0]].concat();
    let wide = [&u64::MAX.to_le_bytes(), &whole[8..]].concat();
    let torn = [&whole[..20], b"\xff\xff", &whole[22..]].concat();
    for bytes in [&[], &whole[..4], &whole[..8], &whole[..8 + head], &whole[..whole.len() - 1], &long, &wide, &torn] {
        std::fs::write(&path, bytes).unwrap();
        let error = fails(&dir);
        assert!(error.contains("model.safetensors: not a sound safetensors file"), "{} bytes: {error}", bytes.len());
    }
    // A type that is no real number.
    let numbers = vec![0u8; 64];
    let mut views: Vec<(String, TensorView<'_>)> = Vec::new();
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = weights(&config)
        .into_iter()
        .map(|(n, t)| {
            let bytes =
                t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
            (n, t.dims().to_vec(), bytes)
        })
        .collect();
    for (name, shape, bytes) in &stored {
        let view = if name == names::NORM {
            TensorView::new(::safetensors::Dtype::I16, shape.clone(), &numbers)
        } else {
            TensorView::new(::safetensors::Dtype::F32, shape.clone(), bytes)
        };
        views.push((name.clone(), view.unwrap()));
    }
    std::fs::write(&path, ::safetensors::serialize(views, None).unwrap()).unwrap();
    assert!(fails(&dir).contains("tensor model.norm.weight: numbers of type I16"), "{}", fails(&dir));
}

#[test]
fn a_tied_head_may_stand_for_the_embedding() {
    let config = LlamaConfig { tie_word_embeddings: true, ..config() };
    let whole = weights(&config);
    let dir = folder(&config);
    let path = dir.path().join("model.safetensors");
    let mut stored = whole.clone();
    let embedding = stored.remove(names::EMBEDDING).unwrap();
    stored.insert(names::HEAD.into(), embedding.clone());
    write(&path, stored.clone());
    same(&open(&dir).unwrap(), &whole);
    // Both, and the same.
    stored.insert(names::EMBEDDING.into(), embedding.clone());
    write(&path, stored.clone());
    same(&open(&dir).unwrap(), &whole);
    // Both, and not: which of them is meant is not ours to say.
    stored.insert(names::HEAD.into(), (embedding * 2.0).unwrap());
    write(&path, stored);
    let refused = open(&dir).unwrap_err();
    assert!(refused.to_string().contains("lm_head.weight differs from the embedding"), "{refused}");
    assert!(refused.hint().unwrap().contains("tie_word_embeddings"));
}

#[test]
fn prefixes_of_wrappers_are_named_with_the_remedy() {
    let config = config();
    let dir = folder(&config);
    let path = dir.path().join("model.safetensors");
    for (prefix, by, inside) in [
        ("_orig_mod.", "torch.compile", "model._orig_mod.save_pretrained"),
        ("module.", "DistributedDataParallel", "model.module.save_pretrained"),
        ("module._orig_mod.", "torch.compile", "save_pretrained"),
    ] {
        write(&path, weights(&config).into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)));
        let refused = open(&dir).unwrap_err();
        let told = refused.to_string();
        for part in prefix.split_terminator('.') {
            assert!(told.contains(&format!("`{part}.`")), "{told}");
        }
        assert!(told.contains(by) && !told.contains("missing tensor"), "{told}");
        let hint = refused.hint().unwrap();
        assert!(hint.contains(inside) && hint.contains("save_file") && hint.contains("model.safetensors"), "{hint}");
    }
    // A layer alone that was compiled.
    let compiled = |name: String| name.replace("model.layers.0.", "model.layers.0._orig_mod.");
    write(&path, weights(&config).into_iter().map(|(name, t)| (compiled(name), t)));
    assert!(fails(&dir).contains("`_orig_mod.` of torch.compile"), "{}", fails(&dir));
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let config = config();
    let dir = folder(&config);
    let path = dir.path().join("model.safetensors");
    let with = |name: &str, bad: f64, kind: DType| {
        let mut stored = weights(&config);
        let tensor = &stored[name];
        let mut values = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (values[1], values[3]) = (bad, bad);
        let changed = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap().to_dtype(kind).unwrap();
        stored.insert(name.into(), changed);
        write(&path, stored);
        fails(&dir)
    };
    let told = with(names::NORM, f64::NAN, DType::F32);
    assert!(told.contains("tensor model.norm.weight: 2 of 32 numbers are not finite"), "{told}");
    let told = with("model.layers.1.mlp.up_proj.weight", f64::NEG_INFINITY, DType::BF16);
    assert!(told.contains("tensor model.layers.1.mlp.up_proj.weight: 2 of"), "{told}");
    // Finite as it is stored, and not as it is used.
    let told = with(names::EMBEDDING, 1e300, DType::F64);
    assert!(told.contains("tensor model.embed_tokens.weight: 2 of") && told.contains("32 bits"), "{told}");
}
