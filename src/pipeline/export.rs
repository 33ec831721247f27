//! `export`: a run's model as a Hugging Face folder, adapters merged, or as a PEFT adapter.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::opened;
use super::recipe::ExportConfig;
use super::recipe::export::{ExportAs, ExportType};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::model::Loaded;
use crate::progress::Progress;
use crate::schema::{fact, prepared, run};
use crate::seed::Seed;
use crate::settings::Settings;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::weights::checkpoint::finite_tensor;
use crate::weights::load::{below, load};
use crate::weights::{base, folder, latent, peft};

/// What `export` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSummary {
    /// The folder.
    pub out: String,
    /// Its form.
    #[serde(rename = "as")]
    pub form: ExportAs,
    /// Files written.
    pub files: Vec<String>,
    /// Their size together.
    pub bytes: u64,
    /// Whether a latent part is written beside the model. Other programs need `lpc_transformers.py` for it.
    pub latent: bool,
}

/// The latent part for transformers: a Python file that reads the two files beside it.
const TRANSFORMERS: &str = include_str!("export/lpc_transformers.py");

/// Files of a model folder that are copied unchanged.
const BESIDE: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    run::LPC_CONFIG,
    run::LPC_WEIGHTS,
    "README.md",
];

/// Writes a run's model in another form.
///
/// # Errors
/// [`Error::Config`] for settings that are missing, or an adapter of a run that has none; [`Error::Artifact`] where
/// the folder is not that of a finished run with its model; [`Error::Model`] where an adapter's base cannot be loaded.
pub fn run(config: &ExportConfig, progress: &dyn Progress) -> Result<ExportSummary> {
    config.check()?;
    let (from, out) = (PathBuf::from(&config.run), PathBuf::from(&config.out));
    let read = [from.clone()];
    let claim = artifact::Claim { stage: "export", inputs: &read };
    claim.folder(&out)?;
    let run_manifest = Manifest::read(&from)?;
    if run_manifest.stage != "train" {
        return Err(Error::artifact(&from, format!("written by `{}`, not by `train`", run_manifest.stage))
            .with_hint("--run wants the output folder of lpc-pipe train"));
    }
    let model = from.join(run::MODEL);
    let adapter = peft::is_adapter(&model);
    if !adapter && !latent::is_latent_alone(&model) && !model.join("config.json").is_file() {
        return Err(Error::artifact(&model, "no model")
            .with_hint("train keeps it unless it is told --set train.save_model=false"));
    }
    if config.r#as == ExportAs::Peft && !adapter {
        let tune = run_manifest.config["tune"].as_str().unwrap_or("full").to_string();
        let message = format!("a run with tune = \"{tune}\" leaves no adapter; only --tune lora does: use --as hf");
        return Err(Error::config("export.as", message));
    }
    let mut manifest = Manifest::begin("export", config)?;
    progress.note(&format!("exporting {}", model.display()));
    // The model is loaded before the folder is made, so that a failure leaves none behind. It need not fit a tokenizer,
    // and nothing in it is drawn from the seed.
    let read = || load::<f32>(&ModelSource::Folder(model.clone()), 0, Seed(0));
    let whole = || -> Result<(Loaded, DType)> {
        let (loaded, kind) = (read()?, kind_of(config, &model, &run_manifest, progress)?);
        loaded.params.iter().try_for_each(|p| fits(&p.name, &p.var.as_detached_tensor(), kind))?;
        Ok((loaded, kind))
    };
    let loaded = if config.r#as == ExportAs::Hf { Some(whole()?) } else { None };
    let end_tokens = ModelTokenizer::open(&model)?.stop_ids();
    let _lock = claim.take(&out)?;
    match loaded {
        Some((loaded, kind)) => merged(config, loaded, kind, &out)?,
        None => copied(&model, &out)?,
    }
    for name in BESIDE {
        copy(&model.join(name), &out.join(name))?;
    }
    for place in [&out, &out.join(base::FOLDER)] {
        folder::add_end_tokens(place, &end_tokens)?;
    }
    let python = out.join(run::LPC_TRANSFORMERS);
    if out.join(run::LPC_CONFIG).is_file() && config.r#as == ExportAs::Hf {
        artifact::write_bytes(&python, TRANSFORMERS.as_bytes())?;
    } else {
        artifact::remove(&python)?;
    }
    let files = written(&out)?;
    for name in &files {
        manifest.output(&out, name, None)?;
    }
    manifest.fact("run", run_manifest.facts.get(fact::IDENTITY))?;
    let manifest = manifest.finish(&out)?;
    Ok(ExportSummary {
        out: config.out.clone(),
        form: config.r#as,
        files,
        bytes: manifest.outputs.iter().map(|o| o.bytes).sum(),
        latent: out.join(run::LPC_CONFIG).is_file(),
    })
}

/// Refuses a tensor with a number that the type of the file does not hold: it would become infinite.
fn fits(name: &str, tensor: &Tensor, kind: DType) -> Result<()> {
    if kind != DType::F16 || finite_tensor(name, name, &tensor.to_dtype(kind)?).is_ok() {
        return Ok(());
    }
    let message = format!("f16 ends at 65504, and {name} has larger numbers: use bf16 or f32");
    Err(Error::config("export.dtype", message))
}

/// The model with its adapter merged, as a Hugging Face folder.
fn merged(config: &ExportConfig, loaded: Loaded, kind: DType, out: &Path) -> Result<()> {
    // Of an earlier export as an adapter, which would be read in place of this model.
    for name in [peft::CONFIG, peft::WEIGHTS, base::FOLDER] {
        artifact::remove(&out.join(name))?;
    }
    let weights: Vec<(String, Tensor)> =
        loaded.params.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
    folder::save_weights(out, &loaded.config, &weights, Some(kind), config.shard_mb as u64 * 1_000_000)
}

/// The type of the weights that are written.
fn kind_of(config: &ExportConfig, model: &Path, manifest: &Manifest, progress: &dyn Progress) -> Result<DType> {
    Ok(match config.dtype {
        ExportType::F32 => DType::F32,
        ExportType::Bf16 => DType::BF16,
        ExportType::F16 => DType::F16,
        ExportType::Base => base_kind(&config.run, model, manifest, progress)?,
    })
}

/// The type of the weights that training started from.
fn base_kind(run: &str, model: &Path, manifest: &Manifest, progress: &dyn Progress) -> Result<DType> {
    let source = match below(model)? {
        Some(base) => base,
        None => {
            let name = manifest.config["model"].as_str().unwrap_or_default();
            ModelSource::resolve(&opened::located_model(manifest, Path::new(run), name), progress)?
        }
    };
    match source {
        ModelSource::Folder(folder) if peft::is_adapter(&folder) => match peft::base_source(&folder)? {
            ModelSource::Folder(base) => folder::stored_kind(&base),
            _ => Ok(DType::F32),
        },
        ModelSource::Folder(folder) => folder::stored_kind(&folder),
        // These weights are made in, or dequantized to, 32 bits.
        ModelSource::Tiny { .. } | ModelSource::Gguf(_) => Ok(DType::F32),
    }
}

/// Copies the adapter unchanged, with its base where that is in the same folder.
fn copied(model: &Path, out: &Path) -> Result<()> {
    // Of an earlier export as a whole model.
    folder::remove(out)?;
    artifact::remove(&out.join(base::FOLDER))?;
    copy(&model.join(peft::WEIGHTS), &out.join(peft::WEIGHTS))?;
    let base = model.join(base::FOLDER);
    if !base.is_dir() {
        return copy(&model.join(peft::CONFIG), &out.join(peft::CONFIG));
    }
    for path in artifact::entries(&base)? {
        copy(&path, &out.join(base::FOLDER).join(artifact::name_of(&path)))?;
    }
    peft::rebase(model, out)
}

/// Copies a file; where there is none, that of an earlier export is removed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() {
        return artifact::remove(to);
    }
    let mut file = std::fs::File::open(from).map_err(Error::io(from))?;
    artifact::write(to, |w| std::io::copy(&mut file, w).map(|_| ()).map_err(Error::io(to)))
}

/// The files of the export in its folder.
fn written(out: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (below, prefix) in [(out.to_path_buf(), String::new()), (out.join(base::FOLDER), format!("{}/", base::FOLDER))]
    {
        if !below.is_dir() {
            continue;
        }
        for path in artifact::entries(&below)? {
            let name = artifact::name_of(&path);
            if path.is_file() && !name.starts_with('.') && name != prepared::MANIFEST {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_f16_does_not_hold_are_refused() {
        let tensor = Tensor::new(&[1.0f32, -65600.0], &candle_core::Device::Cpu).unwrap();
        let error = fits("model.norm.weight", &tensor, DType::F16).unwrap_err();
        assert!(error.to_string().contains("model.norm.weight has larger numbers"), "{error}");
        for kind in [DType::F32, DType::BF16] {
            fits("model.norm.weight", &tensor, kind).unwrap();
        }
        fits("model.norm.weight", &(tensor / 2.0).unwrap(), DType::F16).unwrap();
    }
}
