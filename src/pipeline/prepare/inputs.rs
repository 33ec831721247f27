//! What the user named as input -> files, in an order that does not depend on how they were named.

use std::path::Path;

use crate::error::{Error, Result};
use crate::hub::HubFile;
use crate::ingest::{Input, files_in};
use crate::progress::Progress;

/// Resolves files, folders and hub addresses. Files are sorted by name; one that was named twice
/// is read once.
///
/// # Errors
/// [`Error::Data`] where a path does not exist or a folder has no usable file.
pub fn resolve(names: &[String], progress: &dyn Progress) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for name in names {
        let path = Path::new(name);
        if name.starts_with("hf://") {
            inputs.extend(crate::hub::fetch_dataset(name, progress)?.into_iter().map(from_hub));
        } else if path.is_dir() {
            inputs.extend(files_in(path)?.into_iter().map(Input::new));
        } else if path.is_file() {
            inputs.push(Input::new(path));
        } else if path.exists() {
            // A pipe can be read once only, and waits for its writer.
            return Err(refused(path, "not a regular file", "write the rows to a file first"));
        } else {
            let forms = "an input is a file, a folder, or hf://datasets/ORG/NAME[@rev]/file";
            return Err(refused(path, "no such file or folder", forms));
        }
    }
    inputs.sort();
    let mut seen = std::collections::BTreeSet::new();
    inputs.retain(|input| seen.insert(input.path.canonicalize().unwrap_or_else(|_| input.path.clone())));
    Ok(inputs)
}

fn refused(path: &Path, message: &str, hint: &str) -> Error {
    Error::Data { path: path.into(), line: None, field: None, message: message.into(), hint: Some(hint.into()) }
}

/// A file from the hub is known by its address at the commit that was read, not by its place in the cache.
fn from_hub(file: HubFile) -> Input {
    Input { label: file.address.into(), ..Input::new(file.path) }
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
    use crate::progress::Silent;

    #[test]
    fn order_and_repetition_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["b.jsonl", "a.parquet", "c.jsonl.gz", "notes.txt", ".hidden.jsonl"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let folder = resolve(&[dir.path().display().to_string()], &Silent).unwrap();
        let names: Vec<_> = folder.iter().map(|i| i.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.parquet", "b.jsonl", "c.jsonl.gz"]);
        let named = [at("c.jsonl.gz"), at("b.jsonl"), at("b.jsonl"), at("a.parquet")];
        assert_eq!(resolve(&named, &Silent).unwrap(), folder);
        assert_eq!(resolve(&[at("none")], &Silent).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn a_stem_has_no_endings() {
        assert_eq!(stem(Path::new("a/raw.v2.jsonl.gz")), "raw.v2");
        assert_eq!(stem(Path::new("x.parquet")), "x");
        assert_eq!(stem(Path::new(".gz")), ".gz");
    }
}
