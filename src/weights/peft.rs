//! Adapters on disk, as Python's PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Settings of PEFT that this program does not support are refused by name: an adapter is applied exactly or not at
//! all.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use super::base::{self, locate};
use super::checkpoint::finite_tensor;
use super::fingerprint::fingerprint;
use super::folder;
use super::safetensors::{self, PYTORCH, TensorEntry};
use crate::artifact;
use crate::error::{Error, Result};
use crate::model::lora::{self, Lora, PREFIX};
use crate::model::names::{self, TARGETS};
use crate::model::{Group, LlamaConfig, Loaded, Param, Params};
use crate::nn::Real;
use crate::source::ModelSource;

/// File with an adapter's settings.
pub const CONFIG: &str = "adapter_config.json";
/// File with its tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Key of the weight file's metadata with the fingerprint of the base that was trained over.
const BASE_FINGERPRINT: &str = "lpc_pipe_base";

/// PEFT's name of the head without its addition.
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

/// An adapter as it is stored.
#[derive(Debug)]
pub struct StoredAdapter {
    folder: PathBuf,
    lora: Lora,
    /// Weight in checkpoint names -> A and B.
    sides: BTreeMap<String, (Tensor, Tensor)>,
    /// The head without its addition: PEFT stores it with the adapter and restores it.
    head: Option<Tensor>,
    /// Fingerprint of the base, where this program wrote it.
    base: Option<String>,
    /// Share of an adapter's inputs that PEFT drops in training.
    dropout: f64,
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

/// Where an adapter's base model is: the folder or file that it names, relative to the working directory or to the
/// adapter; else the folder `base` in it; else the hub id that it names.
///
/// # Errors
/// [`Error::Model`] where it is at none of these places.
pub fn base_source(folder: &Path) -> Result<ModelSource> {
    let (name, revision) = base_name(folder)?;
    let lost = |why: String| {
        Error::model(folder.display().to_string(), format!("the adapter's base model {name:?} is not to be had: {why}"))
            .with_hint(format!("set base_model_name_or_path in {CONFIG} to the folder or hub id of the base"))
    };
    match locate(folder, &name, &revision) {
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
fn read_lora(folder: &Path) -> Result<(Lora, f64)> {
    let config = read_config(folder)?;
    let refuse = |what: String| Error::model(folder.join(CONFIG).display().to_string(), what);
    let kind = config["peft_type"].as_str().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(refuse(format!("`peft_type` {kind:?} is not supported, only \"LORA\"")));
    }
    for (key, value) in config.as_object().into_iter().flatten() {
        let fine = match key.as_str() {
            "bias" => value.as_str().is_none_or(|v| v == "none"),
            // These initialisations change the base weights: the adapter does not fit the base as it is stored.
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
    let dropout = config["lora_dropout"].as_f64().unwrap_or(0.0);
    let lora = Lora {
        rank: rank as usize,
        alpha,
        rslora,
        targets: vec![],
        layers: vec![],
        base,
        revision,
        fingerprint: String::new(),
    };
    Ok((lora, dropout))
}

impl StoredAdapter {
    /// Reads an adapter.
    ///
    /// # Errors
    /// [`Error::Model`] where it is damaged, or uses what is not supported.
    pub fn read(folder: &Path) -> Result<StoredAdapter> {
        let (lora, dropout) = read_lora(folder)?;
        let path = folder.join(WEIGHTS);
        let origin = path.display().to_string();
        if !path.is_file() {
            return Err(Error::model(folder.display().to_string(), format!("no {WEIGHTS}"))
                .with_hint("only safetensors are read; save the adapter again with a current PEFT"));
        }
        let opened = std::fs::File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: nothing here writes to the map, and its length bounds what is read of it: the header alone.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(Error::io(&path))?;
        let (_, about) = ::safetensors::SafeTensors::read_metadata(&map)
            .map_err(|e| Error::model(&origin, format!("not a sound safetensors file: {e}")))?;
        let base = about.metadata().as_ref().and_then(|m| m.get(BASE_FINGERPRINT)).cloned();
        let (mut sides, mut unknown, mut head) = (BTreeMap::new(), Vec::new(), None);
        let mut halves: HashMap<String, [Option<Tensor>; 2]> = HashMap::new();
        for (name, tensor) in safetensors::read(&path).map_err(|e| Error::model(&origin, e.to_string()))? {
            finite_tensor(&origin, &name, &tensor)?;
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
            return Err(Error::model(
                &origin,
                format!("not an adapter of linear layers: {}{tail}", unknown.join(", ")),
            ));
        }
        if sides.is_empty() {
            return Err(Error::model(&origin, "holds no tensors"));
        }
        Ok(StoredAdapter { folder: folder.to_path_buf(), lora, sides, head, base, dropout })
    }

    fn weights_file(&self) -> String {
        self.folder.join(WEIGHTS).display().to_string()
    }

    /// Refuses a base that is not the one that the adapter was trained over, where that is known.
    fn verify<T: Real>(&self, base: &Loaded) -> Result<()> {
        if let Some(wanted) = &self.base
            && T::KIND == DType::F32
            && fingerprint::<T>(base.params.iter())? != *wanted
        {
            let source = base_source(&self.folder)?;
            let message = format!("was trained over other weights than those of its base now, {source}");
            return Err(Error::model(self.folder.display().to_string(), message)
                .with_hint("give the base back its first content, or train the adapter anew"));
        }
        Ok(())
    }

    /// The base with the adapter merged into its weights.
    ///
    /// # Errors
    /// [`Error::Model`] where they do not fit, or the base is not the one that the adapter was trained over.
    pub fn merged<T: Real>(&self, base: Loaded) -> Result<Loaded> {
        self.verify::<T>(&base)?;
        let origin = self.weights_file();
        let params: HashMap<&str, &Param> = base.params.iter().map(|p| (p.name.as_str(), p)).collect();
        if let (Some(head), Some(own)) = (&self.head, params.get(names::HEAD)) {
            if head.shape() != own.var.shape() {
                let shapes = format!("{:?}, not {:?}", head.dims(), own.var.dims());
                return Err(Error::model(&origin, format!("the head below the adapter is of shape {shapes}")));
            }
            own.var.set(&head.to_dtype(T::KIND)?)?;
        }
        for (weight, (a, b)) in &self.sides {
            if weight == names::HEAD && base.config.tie_word_embeddings {
                return Err(Error::model(&origin, "adapts lm_head, but the base model's head is its embedding")
                    .with_hint("give the base a head of its own first"));
            }
            let param = params.get(weight.as_str()).filter(|p| p.group == Group::Backbone);
            let param =
                param.ok_or_else(|| Error::model(&origin, format!("the base model has no linear map {weight}")))?;
            lora::merge::<T>(&param.var, a, b, self.lora.scale())
                .map_err(|e| Error::model(&origin, format!("{weight}: {e}")))?;
        }
        Ok(base)
    }

    /// The base, frozen, with the adapter among its parameters, to be trained on.
    ///
    /// # Errors
    /// As [`StoredAdapter::merged`]; also where it adapts the head, or not the same maps in each of its layers.
    pub fn over<T: Real>(&self, mut base: Loaded) -> Result<(Loaded, Lora)> {
        self.verify::<T>(&base)?;
        let refuse = |what: String| Error::model(self.weights_file(), what);
        if self.dropout > 0.0 {
            let what =
                format!("cannot be trained on: lora_dropout is {}, and adapters are trained without", self.dropout);
            return Err(refuse(what).with_hint(
                "set it to 0 in adapter_config.json to train without, or merge it with --tune full, head or latent",
            ));
        }
        let layers = base.config.num_hidden_layers;
        let has = |i: usize, part: &str| self.sides.contains_key(&names::layer(i, part));
        let adapted: Vec<usize> = (0..layers).filter(|i| TARGETS.iter().any(|(_, part)| has(*i, part))).collect();
        let targets = TARGETS.iter().filter(|(_, part)| adapted.iter().any(|i| has(*i, part)));
        let lora = Lora {
            targets: targets.map(|(name, _)| (*name).to_string()).collect(),
            layers: if adapted.len() == layers { vec![] } else { adapted },
            ..self.lora.clone()
        };
        let weights = lora.weights(&base.config);
        if self.head.is_some()
            || weights.len() != self.sides.len()
            || !weights.iter().all(|(name, ..)| self.sides.contains_key(name))
        {
            return Err(refuse("cannot be trained on: it adapts lm_head, or not the same maps in each layer".into())
                .with_hint(
                    "with --tune full or head it is merged into its base and serves as the model to start from",
                ));
        }
        let lora = Lora { fingerprint: fingerprint::<T>(base.params.iter())?, ..lora };
        base.freeze();
        for (name, outputs, inputs) in weights {
            let (a, b) = &self.sides[&name];
            if a.dims() != [lora.rank, inputs] || b.dims() != [outputs, lora.rank] {
                return Err(refuse(format!("{name}: {:?} and {:?} do not fit the base model", a.dims(), b.dims())));
            }
            for (side, tensor) in [('A', a), ('B', b)] {
                let tensor = tensor.to_dtype(T::KIND)?.contiguous()?;
                base.params.push(Param::adapter(lora::side(&name, side), tensor)?);
            }
        }
        Ok((base, lora))
    }
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
    config["base_model_name_or_path"] = absolute(&to.join(base::FOLDER)).into();
    artifact::write_json(to.join(CONFIG), &config)
}

/// An absolute path: PEFT resolves a relative one against the directory in which Python runs.
fn absolute(path: &Path) -> String {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// Writes an adapter; a base that has no name (a model made from the seed) is written beside it.
///
/// # Errors
/// [`Error::Io`].
pub fn save<T: Real>(to: &Path, config: &LlamaConfig, lora: &Lora, params: &Params) -> Result<()> {
    let (mut name, mut base) = (lora.base.clone(), lora.fingerprint.clone());
    if name.is_empty() || base.is_empty() {
        // Of the weights that are written or held now: a device may have rounded those that were loaded.
        base = fingerprint::<T>(params.iter().filter(|p| p.group != Group::Adapter))?;
    }
    if name.is_empty() {
        let beside = to.join(base::FOLDER);
        std::fs::create_dir_all(&beside).map_err(Error::io(&beside))?;
        folder::save(&beside, config, params.iter())?;
        name = absolute(&beside);
    }
    let adapters = params.iter().filter(|p| p.group == Group::Adapter);
    let entries: Vec<TensorEntry<'_>> =
        adapters.map(|p| TensorEntry::tensor(&p.name, p.var.as_tensor(), None)).collect();
    safetensors::write(&to.join(WEIGHTS), &[PYTORCH, (BASE_FINGERPRINT, &base)], &entries)?;
    artifact::write_json(to.join(CONFIG), &config_json(lora, &name))
}
