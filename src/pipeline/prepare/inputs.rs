//! What the user named as input -> files, in an order that does not depend on how they were named.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::ingest::{Input, files_in};

/// Resolves files, folders and hub addresses. Files are sorted by name; one that was named twice
/// is read once.
///
/// # Errors
/// [`Error::Data`] where a path does not exist or a folder has no usable file.
pub fn resolve(names: &[String]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for name in names {
        let path = Path::new(name);
        if name.starts_with("hf://") {
            inputs.extend(crate::hub::fetch_dataset_files(name)?.into_iter().map(|file| from_hub(name, file)));
        } else if path.is_dir() {
            inputs.extend(files_in(path)?.into_iter().map(Input::new));
        } else if path.exists() {
            inputs.push(Input::new(path));
        } else {
            return Err(Error::Data {
                path: path.to_path_buf(),
                line: None,
                field: None,
                message: "no such file or folder".into(),
                hint: Some("an input is a file, a folder, or hf://datasets/ORG/NAME[@rev]/file".into()),
            });
        }
    }
    inputs.sort();
    let mut seen = std::collections::BTreeSet::new();
    inputs.retain(|input| seen.insert(input.path.canonicalize().unwrap_or_else(|_| input.path.clone())));
    Ok(inputs)
}

/// A file from the hub is known by its address, not by its place in the cache.
fn from_hub(address: &str, file: PathBuf) -> Input {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let label = if address.ends_with(&name) { address.to_string() } else { format!("{address}/{name}") };
    Input { label: label.into(), ..Input::new(file) }
}

/// The files as the user knows them.
pub fn labels(inputs: &[Input]) -> Vec<String> {
    inputs.iter().map(|i| i.label.display().to_string()).collect()
}

/// A file's name without its endings.
pub fn stem(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut stem = name.as_str();
    for ending in [".gz", ".zst", ".jsonl", ".json", ".csv", ".parquet"] {
        stem = stem.strip_suffix(ending).unwrap_or(stem);
    }
    if stem.is_empty() { name } else { stem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["b.jsonl", "a.parquet", "c.jsonl.gz", "notes.txt", ".hidden.jsonl"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let folder = resolve(&[dir.path().display().to_string()]).unwrap();
        let names: Vec<_> = folder.iter().map(|i| i.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.parquet", "b.jsonl", "c.jsonl.gz"]);
        let named = [at("c.jsonl.gz"), at("b.jsonl"), at("b.jsonl"), at("a.parquet")];
        assert_eq!(resolve(&named).unwrap(), folder);
        assert_eq!(resolve(&[at("none")]).unwrap_err().exit_code(), 3);
        let input = from_hub("hf://datasets/o/n/x.parquet", "/cache/x.parquet".into());
        assert_eq!(input.label, Path::new("hf://datasets/o/n/x.parquet"));
    }

    #[test]
    fn a_stem_has_no_endings() {
        assert_eq!(stem(Path::new("a/raw.v2.jsonl.gz")), "raw.v2");
        assert_eq!(stem(Path::new("x.parquet")), "x");
        assert_eq!(stem(Path::new(".gz")), ".gz");
    }
}
