//! Adapters on disk, as Python's PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What PEFT knows and this program does not is refused by name: an adapter is applied exactly or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use super::decoder::names;
use super::load::{self, Loaded};
use super::lora::{self, Lora, PREFIX, TARGETS};
use super::params::{Group, Param, Params};
use super::{fingerprint, save};
use crate::artifact;
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::seed::Seed;
use crate::source::ModelSource;

/// What an adapter is.
pub const CONFIG: &str = "adapter_config.json";
/// Its numbers.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Folder of a base model that stands beside its adapter.
pub const BASE: &str = "base";
/// Key under which the weights' file keeps the fingerprint of the base that was trained over.
const BASE_FINGERPRINT: &str = "lpc_pipe_base";

/// What PEFT calls the head below its addition.
const HEAD_BELOW: &str = "lm_head.base_layer.weight";

/// Settings that do not change what a finished adapter of linear layers computes.
const HARMLESS: [&str; 22] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "loftq_config",
];

/// Whether a model folder is an adapter.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// An adapter as it lies on disk.
#[derive(Debug)]
struct Stored {
    lora: Lora,
    /// Weight in checkpoint names -> A and B.
    sides: BTreeMap<String, (Tensor, Tensor)>,
    /// The head below its addition, which PEFT writes too, and puts back.
    head: Option<Tensor>,
    /// Fingerprint of the base, where we wrote it.
    base: Option<String>,
}

/// The base model's name and revision of an adapter.
///
/// # Errors
/// [`Error::Model`] where the configuration is damaged.
pub fn base_name(folder: &Path) -> Result<(String, String)> {
    let config = read_config(folder)?;
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_string();
    Ok((text("base_model_name_or_path"), text("revision")))
}

/// Where an adapter's base model is: the folder, file or hub id that it names, as seen from here or from the adapter;
/// else the folder `base` in it.
///
/// # Errors
/// [`Error::Model`] where it is at none of these places.
pub fn base_source(folder: &Path) -> Result<ModelSource> {
    let (name, revision) = base_name(folder)?;
    let lost = |why: String| {
        Error::model(folder.display().to_string(), format!("the adapter's base model {name:?} is not to be had: {why}"))
            .with_hint(format!("set base_model_name_or_path in {CONFIG} to the folder or hub id of the base"))
    };
    match super::base::locate(folder, &name, &revision) {
        Ok(ModelSource::Folder(base)) if is_adapter(&base) => Err(lost("that is an adapter itself".into())),
        Ok(source) => Ok(source),
        Err(error) => Err(lost(error.to_string())),
    }
}

fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join(CONFIG);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let config: Value = serde_json::from_slice(&text)
        .map_err(|e| Error::model(path.display().to_string(), format!("not a JSON object: {e}")))?;
    if config.is_object() { Ok(config) } else { Err(Error::model(path.display().to_string(), "not a JSON object")) }
}

/// Whether a setting says nothing: null, false, or empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Rank, scale and layers of an adapter; refuses what would make it compute something else.
fn read_lora(folder: &Path) -> Result<Lora> {
    let config = read_config(folder)?;
    let refuse = |what: String| Error::model(folder.join(CONFIG).display().to_string(), what);
    let kind = config["peft_type"].as_str().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(refuse(format!("`peft_type` {kind:?} is not supported, only \"LORA\"")));
    }
    for (key, value) in config.as_object().into_iter().flatten() {
        let fine = match key.as_str() {
            "bias" => value.as_str().is_none_or(|v| v == "none"),
            // What begins with other base weights cannot be put on the base as it is.
            "init_lora_weights" => match value.as_str() {
                Some(how) => ["gaussian", "eva", "orthogonal"].contains(&how),
                None => true,
            },
            known => HARMLESS.contains(&known) || is_empty(value),
        };
        if !fine {
            return Err(refuse(format!("`{key}` {value} is not supported"))
                .with_hint("merge it in Python: merge_and_unload(), then save_pretrained(...)"));
        }
    }
    let rank = config["r"].as_u64().filter(|r| *r > 0);
    let rank = rank.ok_or_else(|| refuse(format!("`r`: expected a whole number above 0, got {}", config["r"])))?;
    let alpha = config["lora_alpha"].as_f64();
    let alpha =
        alpha.ok_or_else(|| refuse(format!("`lora_alpha`: expected a number, got {}", config["lora_alpha"])))?;
    let (base, revision) = base_name(folder)?;
    let rslora = config["use_rslora"].as_bool().unwrap_or(false);
    Ok(Lora {
        rank: rank as usize,
        alpha,
        rslora,
        targets: vec![],
        layers: vec![],
        base,
        revision,
        fingerprint: String::new(),
    })
}

fn read(folder: &Path) -> Result<Stored> {
    let lora = read_lora(folder)?;
    let path = folder.join(WEIGHTS);
    let origin = path.display().to_string();
    if !path.is_file() {
        return Err(Error::model(folder.display().to_string(), format!("no {WEIGHTS}"))
            .with_hint("only safetensors are read; save the adapter again with a current PEFT"));
    }
    let opened = std::fs::File::open(&path).map_err(Error::io(&path))?;
    // SAFETY: as for every mapped file: it must not be changed meanwhile; all offsets are checked against the length.
    let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&path))?;
    let (_, about) = safetensors::SafeTensors::read_metadata(&map)
        .map_err(|e| Error::model(&origin, format!("not a sound safetensors file: {e}")))?;
    let base = about.metadata().as_ref().and_then(|m| m.get(BASE_FINGERPRINT)).cloned();
    let (mut sides, mut unknown, mut head) = (BTreeMap::new(), Vec::new(), None);
    let mut halves: HashMap<String, [Option<Tensor>; 2]> = HashMap::new();
    for (name, tensor) in load::read_safetensors(&path).map_err(|e| Error::model(&origin, e.to_string()))? {
        super::checkpoint::finite_tensor(&origin, &name, &tensor)?;
        let module = name.strip_prefix(PREFIX).and_then(|rest| {
            let side = |end: &str| rest.strip_suffix(end);
            side(".lora_A.weight").map(|m| (m, 0)).or_else(|| side(".lora_B.weight").map(|m| (m, 1)))
        });
        match module.filter(|_| tensor.rank() == 2) {
            Some((module, i)) => halves.entry(format!("{module}.weight")).or_default()[i] = Some(tensor),
            None if name.strip_prefix(PREFIX) == Some(HEAD_BELOW) => head = Some(tensor),
            None => unknown.push(name),
        }
    }
    for (weight, halves) in halves {
        match halves {
            [Some(a), Some(b)] => {
                if a.dims()[0] != lora.rank || b.dims()[1] != lora.rank {
                    let shapes = format!("A {:?} and B {:?}", a.dims(), b.dims());
                    return Err(Error::model(&origin, format!("{weight}: {shapes} are not of rank {}", lora.rank)));
                }
                sides.insert(weight, (a, b));
            }
            _ => return Err(Error::model(&origin, format!("{weight}: one of lora_A and lora_B is missing"))),
        }
    }
    if !unknown.is_empty() {
        unknown.sort();
        let more = unknown.len().saturating_sub(4);
        unknown.truncate(4);
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Error::model(&origin, format!("not an adapter of linear layers: {}{tail}", unknown.join(", "))));
    }
    if sides.is_empty() {
        return Err(Error::model(&origin, "holds no tensors"));
    }
    Ok(Stored { lora, sides, head, base })
}

/// The base of an adapter, checked against the one that it was trained over where that is known.
fn base<T: Real>(folder: &Path, stored: &Stored, vocab_size: usize, seed: Seed) -> Result<Loaded> {
    let source = base_source(folder)?;
    let loaded = load::load::<T>(&source, vocab_size, seed)?;
    if let Some(wanted) = &stored.base
        && T::KIND == DType::F32
        && fingerprint::<T>(loaded.params.iter())? != *wanted
    {
        return Err(Error::model(
            folder.display().to_string(),
            format!("was trained over other weights than those of its base now, {source}"),
        )
        .with_hint("give the base back its first content, or train the adapter anew"));
    }
    Ok(loaded)
}

/// An adapter's base with the adapter merged into its weights.
///
/// # Errors
/// [`Error::Model`] where adapter or base cannot be had, do not fit, or use what is not supported.
pub fn merged<T: Real>(folder: &Path, vocab_size: usize, seed: Seed) -> Result<Loaded> {
    let stored = read(folder)?;
    let loaded = base::<T>(folder, &stored, vocab_size, seed)?;
    let origin = folder.join(WEIGHTS).display().to_string();
    let places: HashMap<&str, &Param> = loaded.params.iter().map(|p| (p.name.as_str(), p)).collect();
    if let (Some(head), Some(own)) = (&stored.head, places.get(names::HEAD)) {
        if head.shape() != own.var.shape() {
            let shapes = format!("{:?}, not {:?}", head.dims(), own.var.dims());
            return Err(Error::model(&origin, format!("the head below the adapter is of shape {shapes}")));
        }
        own.var.set(&head.to_dtype(T::KIND)?)?;
    }
    for (weight, (a, b)) in &stored.sides {
        if weight == names::HEAD && loaded.config.tie_word_embeddings {
            return Err(Error::model(&origin, "adapts lm_head, but the base model's head is its embedding")
                .with_hint("give the base a head of its own first"));
        }
        let place = places.get(weight.as_str()).filter(|p| p.group == Group::Backbone);
        let place = place.ok_or_else(|| Error::model(&origin, format!("the base model has no linear map {weight}")))?;
        lora::merge::<T>(&place.var, a, b, stored.lora.scale())
            .map_err(|e| Error::model(&origin, format!("{weight}: {e}")))?;
    }
    Ok(loaded)
}

/// An adapter's frozen base and the adapter itself, to be trained on.
///
/// # Errors
/// As [`merged`]; also where it adapts the head, or not the same maps in each of its layers.
pub fn open<T: Real>(folder: &Path, vocab_size: usize, seed: Seed) -> Result<(Loaded, Lora)> {
    let stored = read(folder)?;
    let mut loaded = base::<T>(folder, &stored, vocab_size, seed)?;
    let refuse = |what: String| Error::model(folder.join(WEIGHTS).display().to_string(), what);
    let layers = loaded.config.num_hidden_layers;
    let has = |i: usize, part: &str| stored.sides.contains_key(&names::layer(i, part));
    let adapted: Vec<usize> = (0..layers).filter(|i| TARGETS.iter().any(|(_, part)| has(*i, part))).collect();
    let targets = TARGETS.iter().filter(|(_, part)| adapted.iter().any(|i| has(*i, part)));
    let lora = Lora {
        targets: targets.map(|(name, _)| (*name).to_string()).collect(),
        layers: if adapted.len() == layers { vec![] } else { adapted },
        ..stored.lora.clone()
    };
    let weights = lora.weights(&loaded.config);
    if stored.head.is_some()
        || weights.len() != stored.sides.len()
        || !weights.iter().all(|(name, ..)| stored.sides.contains_key(name))
    {
        return Err(refuse("cannot be trained on: it adapts lm_head, or not the same maps in each layer".into())
            .with_hint("with --tune full or head it is merged into its base and serves as the model to start from"));
    }
    let lora = Lora { fingerprint: fingerprint::<T>(loaded.params.iter())?, ..lora };
    lora::freeze(&mut loaded);
    for (name, outputs, inputs) in weights {
        let (a, b) = &stored.sides[&name];
        if a.dims() != [lora.rank, inputs] || b.dims() != [outputs, lora.rank] {
            return Err(refuse(format!("{name}: {:?} and {:?} do not fit the base model", a.dims(), b.dims())));
        }
        for (side, tensor) in [('A', a), ('B', b)] {
            let tensor = tensor.to_dtype(T::KIND)?.contiguous()?;
            loaded.params.push(lora::adapter(lora::side(&name, side), tensor)?);
        }
    }
    Ok((loaded, lora))
}

/// adapter_config.json as PEFT reads it.
fn config_json(lora: &Lora, base: &str) -> Value {
    let layers = if lora.layers.is_empty() { Value::Null } else { json!(lora.layers) };
    // Whole numbers as PEFT has them.
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": layers,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": if lora.revision.is_empty() { Value::Null } else { json!(lora.revision) },
        "target_modules": lora.targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    })
}

/// Writes the configuration of the adapter in `from` for a copy of it in `to`, whose base stands beside it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] where it is damaged.
pub fn rebase(from: &Path, to: &Path) -> Result<()> {
    let mut config = read_config(from)?;
    config["base_model_name_or_path"] = absolute(&to.join(BASE)).into();
    artifact::write_json(to.join(CONFIG), &config)
}

/// PEFT looks from where Python runs.
fn absolute(path: &Path) -> String {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// Writes an adapter; a base that has no name (a model made from the seed) is written beside it.
///
/// # Errors
/// [`Error::Io`].
pub fn save<T: Real>(folder: &Path, config: &super::LlamaConfig, lora: &Lora, params: &Params) -> Result<()> {
    let of = |group: fn(Group) -> bool| -> Vec<(String, Tensor)> {
        let wanted = params.iter().filter(|p| group(p.group));
        wanted.map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
    };
    let (mut name, mut base) = (lora.base.clone(), lora.fingerprint.clone());
    if name.is_empty() || base.is_empty() {
        // Of what is written, or of what there is: a device may have rounded it.
        base = fingerprint::<T>(params.iter().filter(|p| p.group != Group::Adapter))?;
    }
    if name.is_empty() {
        let place = folder.join(BASE);
        std::fs::create_dir_all(&place).map_err(Error::io(&place))?;
        let backbone = of(|g| matches!(g, Group::Backbone | Group::BackboneNorm));
        save::model(&place, config, &backbone, None, save::SHARD)?;
        name = absolute(&place);
    }
    save::tensors(&folder.join(WEIGHTS), &of(|g| g == Group::Adapter), None, &[(BASE_FINGERPRINT, &base)])?;
    artifact::write_json(folder.join(CONFIG), &config_json(lora, &name))
}
