//! `inspect`: what is in a file or folder: schema, counts, first rows, manifest,
//! and for a prepared folder one example with its mask.
//!
//! Files are untrusted: lengths are checked before anything is allocated, and
//! text is shown with control characters written out.

mod formats;
mod gguf;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::report::visible;
use crate::schema;
use crate::token_file;
use crate::tokenize::TokenTexts;
use crate::weights::peft;

/// Rows shown.
const FIRST_ROWS: usize = 3;
/// Characters of a value shown.
const SHOWN: usize = 160;
/// Columns, tensors or keys listed in the text form.
const LISTED: usize = 60;
/// Token ids shown of each side of the example.
const IDS_SHOWN: usize = 160;

/// A column, key or tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type; for a tensor also its shape.
    pub kind: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// Path as given; within a folder, relative to it.
    pub path: String,
    /// `parquet`, `arrow`, `jsonl`, `json`, `gguf`, `safetensors`, or the kind of folder.
    pub kind: String,
    /// Size in bytes; of a folder, of everything in it.
    pub bytes: u64,
    /// Rows of a table.
    pub rows: Option<u64>,
    /// Columns, keys or tensors.
    pub fields: Vec<Field>,
    /// Facts: manifest, metadata, damage.
    pub facts: Map<String, Value>,
    /// First rows, long values shortened.
    pub first: Vec<Map<String, Value>>,
    /// Files of a folder.
    pub files: Vec<Inspection>,
    /// One example with its mask, for a prepared folder.
    pub example: Option<String>,
}

/// Looks into a file or folder.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Data`] where it is damaged or of no known kind.
pub fn run(path: &Path) -> Result<Inspection> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    let mut found = if meta.is_dir() { folder(path)? } else { formats::file(path)? };
    found.path = path.display().to_string();
    if !meta.is_dir() {
        found.bytes = meta.len();
    }
    Ok(found)
}

/// What a folder is, by the command that wrote it, or else by the files in it.
fn folder_kind(path: &Path, stage: &str) -> &'static str {
    match stage {
        "prepare" => return "prepared folder",
        "train" => return "run folder",
        "noise-sweep" => return "sweep folder",
        "eval" => return "evaluation folder",
        "audit" => return "audit folder",
        _ => {}
    }
    let has = |name: &str| path.join(name).exists();
    if has(schema::prepared::PAIRS) && has(schema::prepared::TOKENS) {
        "prepared folder"
    } else if has(schema::sweep::RESULTS) {
        "sweep folder"
    } else if has(schema::run::METRICS) || has(schema::run::SUMMARY) {
        "run folder"
    } else if has(peft::CONFIG) {
        "PEFT adapter"
    } else if has("config.json") {
        "model folder"
    } else {
        "folder"
    }
}

fn folder(path: &Path) -> Result<Inspection> {
    let manifest = path.join(schema::prepared::MANIFEST).is_file().then(|| Manifest::read(path)).transpose()?;
    let stage = manifest.as_ref().map_or("", |manifest| manifest.stage.as_str());
    let mut found = Inspection { kind: folder_kind(path, stage).into(), ..Inspection::default() };
    if let Some(manifest) = &manifest {
        manifest_facts(manifest, &mut found.facts);
    }
    let mut names = Vec::new();
    list(path, "", 0, &mut names)?;
    names.sort();
    for name in names {
        let file = path.join(&name);
        let bytes = std::fs::metadata(&file).map_err(Error::io(&file))?.len();
        found.bytes += bytes;
        // Files of unknown kinds are listed by name. A damaged file is listed with its error and does not hide others.
        let mut part = if formats::is_known(&file) {
            formats::listed(&file).unwrap_or_else(|e| Inspection {
                kind: "damaged".into(),
                facts: Map::from_iter([("error".to_string(), Value::from(visible(&e.to_string())))]),
                ..Inspection::default()
            })
        } else {
            Inspection { kind: "file".into(), ..Inspection::default() }
        };
        // Cells, checkpoints and models have too many rows and tensors to list here.
        part.first.clear();
        if !matches!(part.kind.as_str(), "parquet" | "arrow") || name.matches('/').count() > 1 {
            part.fields.clear();
            part.facts.retain(|key, _| key == "error");
        }
        part.path = visible(&name);
        part.bytes = bytes;
        found.files.push(part);
    }
    if found.kind == "prepared folder" {
        found.example = masked_example(path);
    }
    Ok(found)
}

/// Files below a folder, three levels deep, hidden ones and links left out.
fn list(root: &Path, below: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let entry = entry.map_err(Error::io(&folder))?;
        let kind = entry.file_type().map_err(Error::io(entry.path()))?;
        let Some(name) = entry.file_name().to_str().map(String::from) else { continue };
        if name.starts_with('.') {
            continue;
        }
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        if kind.is_dir() && depth < 3 {
            list(root, &name, depth + 1, names)?;
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

fn manifest_facts(manifest: &Manifest, facts: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| {
        facts.insert(key.to_string(), value);
    };
    put("stage", manifest.stage.clone().into());
    put("tool", manifest.tool.clone().into());
    put("command", manifest.command.join(" ").into());
    put("config_hash", manifest.config_hash.clone().into());
    put("started", manifest.started.clone().into());
    put("finished", manifest.finished.clone().into());
    for (name, seed) in &manifest.seeds {
        put(&format!("seed {name}"), (*seed).into());
    }
    for input in &manifest.inputs {
        let rejected: u64 = input.rows_rejected.values().sum();
        let text = format!("{} rows read, {} kept, {rejected} left out", input.rows_read, input.rows_kept);
        put(&format!("input {}", input.path), text.into());
    }
    for (key, value) in &manifest.facts {
        put(key, value.clone());
    }
}

/// One example of a prepared folder with its mask, as text; what is trained on is between brackets.
pub fn masked_example(folder: &Path) -> Option<String> {
    let split = schema::SPLITS.iter().find(|s| folder.join(schema::prepared::tokens(s)).is_file())?;
    let row = token_file::first(folder.join(schema::prepared::tokens(split))).ok()??;
    let texts = TokenTexts::open(&folder.join(schema::prepared::TOKENIZER)).ok();
    let text = |ids: &[u32]| {
        let pieces = ids.iter().take(IDS_SHOWN).map(|id| match &texts {
            Some(texts) => visible(&texts.of(*id)),
            None => format!(" {id}"),
        });
        let more = ids.len().saturating_sub(IDS_SHOWN);
        pieces.collect::<String>() + &if more > 0 { format!(" ... {more} tokens more") } else { String::new() }
    };
    let mut out = format!("{split}, id {}, source {}", visible(&row.id), visible(&row.source));
    let _ = write!(out, "{}", if row.flipped { ", label flipped" } else { "" });
    let _ = write!(out, "{}", if row.truncated { ", cut to length" } else { "" });
    for (name, tokens, open, close) in [
        ("prompt, masked", &row.prompt_ids, "", ""),
        ("chosen, trained on", &row.chosen_ids, "[", "]"),
        ("rejected, trained on", &row.rejected_ids, "[", "]"),
    ] {
        let _ = write!(out, "\n{name:<21}{:>5} tokens: {open}{}{close}", tokens.len(), text(tokens));
    }
    Some(out)
}

/// A value in one line of at most [`SHOWN`] characters.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    visible(&shown)
}

impl Inspection {
    /// The findings for a person to read.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let rows = self.rows.map(|n| format!(", {n} rows")).unwrap_or_default();
        let _ = writeln!(out, "{}: {}, {}{rows}", visible(&self.path), self.kind, size(self.bytes));
        if !self.facts.is_empty() {
            let _ = writeln!(out, "\nfacts");
            for (key, value) in &self.facts {
                let _ = writeln!(out, "  {}: {}", visible(key), plain(value));
            }
        }
        if !self.fields.is_empty() {
            let _ = writeln!(out, "\nfields");
            let width = self.fields.iter().take(LISTED).map(|f| f.name.chars().count()).max().unwrap_or(0).min(48);
            for field in self.fields.iter().take(LISTED) {
                let _ = writeln!(out, "  {:<width$}  {}", visible(&field.name), visible(&field.kind));
            }
            if self.fields.len() > LISTED {
                let _ = writeln!(out, "  ... {} more", self.fields.len() - LISTED);
            }
        }
        for (i, row) in self.first.iter().enumerate() {
            let _ = writeln!(out, "\nrow {}", i + 1);
            for (key, value) in row {
                let _ = writeln!(out, "  {}: {}", visible(key), plain(value));
            }
        }
        if !self.files.is_empty() {
            let _ = writeln!(out, "\nfiles");
            for file in &self.files {
                let rows = file.rows.map(|n| format!(", {n} rows")).unwrap_or_default();
                let _ = writeln!(out, "  {}: {}, {}{rows}", file.path, file.kind, size(file.bytes));
                if let Some(error) = file.facts.get("error") {
                    let _ = writeln!(out, "    {}", plain(error));
                }
                if !file.fields.is_empty() {
                    let names: Vec<String> = file.fields.iter().take(LISTED).map(|f| visible(&f.name)).collect();
                    let _ = writeln!(out, "    {}", names.join(" "));
                }
            }
        }
        if let Some(example) = &self.example {
            let _ = writeln!(out, "\nexample\n  {}", example.replace('\n', "\n  "));
        }
        out
    }
}

/// A JSON value in one line, texts without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    }
}

/// Bytes with a unit.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
