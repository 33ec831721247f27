//! Contents that all cells of a sweep depend on beside their settings: input files, model, tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::artifact;
use crate::error::Result;
use crate::manifest::SCHEMA_VERSION;
use crate::pipeline::prepare::inputs as prepare_inputs;
use crate::pipeline::recipe::Recipe;
use crate::progress::Progress;
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;
use crate::weights::load::below;

/// Endings of the files of a model folder that a model is read from.
const MODEL_FILES: [&str; 3] = ["json", "safetensors", "jinja"];

/// Contents that all cells of a sweep depend on, each as a hash.
pub struct SweepInputs {
    /// BLAKE3 of the input files by name.
    pub inputs: BTreeMap<String, String>,
    /// All files and folders that were named, and the input files.
    pub files: Vec<PathBuf>,
    /// BLAKE3 of the files beside the inputs (joined sources, benchmarks) by name.
    beside: BTreeMap<String, String>,
    /// The content of the model that training starts from.
    model: String,
    /// The tokenizer's facts; null for one that is trained on the input.
    tokenizer: Value,
    /// The contents of the models of the grid, by name.
    pub models: BTreeMap<String, String>,
}

impl SweepInputs {
    /// Hashes all files that the recipe names.
    ///
    /// # Errors
    /// [`crate::Error::Data`] where an input is missing; [`crate::Error::Model`] where model or tokenizer cannot be
    /// loaded; [`crate::Error::Io`].
    pub fn of(recipe: &Recipe, progress: &dyn Progress) -> Result<SweepInputs> {
        let config = &recipe.prepare;
        let read = prepare_inputs::resolve(&config.input, progress)?;
        let beside = prepare_inputs::beside(config, progress)?;
        let hash = |input: &crate::ingest::Input| -> Result<(String, String)> {
            Ok((input.label.display().to_string(), artifact::hash_file(&input.path)?.1))
        };
        let model = ModelSource::resolve(&recipe.train.model, progress)?;
        let tokenizer = match ModelSource::tokenizer(&config.tokenizer, progress)? {
            ModelSource::Tiny { .. } => Value::Null,
            source => ModelTokenizer::load(&source, &config.tokenize)?.facts(),
        };
        let of_model = |name: &String| Ok((name.clone(), fingerprint(&ModelSource::resolve(name, progress)?)?));
        let named = [&config.input, &config.sources.join, &config.pairs.decontaminate].into_iter().flatten();
        let named = named.chain([&config.tokenizer, &recipe.train.model]).chain(&recipe.sweep.model).map(PathBuf::from);
        Ok(SweepInputs {
            inputs: read.iter().map(hash).collect::<Result<_>>()?,
            files: named.chain(read.iter().chain(&beside).map(|input| input.path.clone())).collect(),
            beside: beside.iter().map(hash).collect::<Result<_>>()?,
            model: fingerprint(&model)?,
            tokenizer,
            models: recipe.sweep.model.iter().map(of_model).collect::<Result<_>>()?,
        })
    }

    /// The settings together with these contents, whose keys are the names in messages about a difference.
    pub fn beside(&self, settings: Value) -> Value {
        let mut all = settings;
        if let Some(all) = all.as_object_mut() {
            all.insert("program".into(), concat!("lpc-pipe ", env!("CARGO_PKG_VERSION")).into());
            all.insert("layout of folders".into(), SCHEMA_VERSION.into());
            all.insert("content of train.model".into(), self.model.as_str().into());
            all.insert("content of prepare.tokenizer".into(), self.tokenizer.clone());
            for (what, files) in [("input", &self.inputs), ("file read beside", &self.beside)] {
                all.extend(
                    files.iter().map(|(name, hash)| (format!("content of {what} {name}"), hash.as_str().into())),
                );
            }
        }
        all
    }
}

/// A hash of all files that a model is read from. A model that is made from the seed has no files, and its name is in
/// the settings.
fn fingerprint(source: &ModelSource) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 files of a model");
    match source {
        ModelSource::Tiny { .. } => return Ok("made from the seed".into()),
        ModelSource::Gguf(path) => return Ok(artifact::hash_file(path)?.1),
        ModelSource::Folder(folder) => {
            for (name, path) in files_of(folder)? {
                let (bytes, hash) = artifact::hash_file(&path)?;
                hasher.update(format!("{name}\0{bytes}\0{hash}\n").as_bytes());
            }
            // The base of an adapter or of a latent part may lie elsewhere.
            if let Some(below) = below(folder)? {
                hasher.update(fingerprint(&below)?.as_bytes());
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The files of a model folder, in the order of their names.
fn files_of(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for path in artifact::entries(folder)? {
        let name = artifact::name_of(&path);
        let known = path.extension().is_some_and(|e| MODEL_FILES.iter().any(|known| e.eq_ignore_ascii_case(known)));
        // A manifest says when a model was written, not what it is.
        if known && !name.starts_with('.') && name != crate::schema::prepared::MANIFEST && path.is_file() {
            files.push((name, path));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_model_is_told_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let now = || fingerprint(&ModelSource::Folder(dir.path().to_path_buf())).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "weights");
        let first = now();
        write("README.md", "about");
        write("manifest.json", "when");
        assert_eq!(now(), first, "what a model is not read from");
        write("model.safetensors", "Weights");
        assert_ne!(now(), first);
        write("model.safetensors", "weights");
        assert_eq!(now(), first);
        write("tokenizer.json", "{}");
        assert_ne!(now(), first);
    }

    #[test]
    fn changed_rows_and_another_benchmark_are_other_settings() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("rows.jsonl"), "one").unwrap();
        std::fs::write(at("bench.jsonl"), "one").unwrap();
        let mut recipe = Recipe::default();
        recipe.prepare.input = vec![at("rows.jsonl")];
        recipe.prepare.pairs.decontaminate = vec![at("bench.jsonl")];
        recipe.train.model = "tiny".into();
        let now = |recipe: &Recipe| SweepInputs::of(recipe, &Silent).unwrap().beside(json!({}));
        let first = now(&recipe);
        assert_eq!(now(&recipe), first);
        assert!(first["program"].as_str().unwrap().starts_with("lpc-pipe "));
        for file in ["rows.jsonl", "bench.jsonl"] {
            std::fs::write(at(file), "two").unwrap();
            assert_ne!(now(&recipe), first, "{file}");
            std::fs::write(at(file), "one").unwrap();
        }
        assert_eq!(now(&recipe), first);
        assert_eq!(SweepInputs::of(&Recipe::default(), &Silent).unwrap().files.len(), 2, "tokenizer and model");
    }
}
