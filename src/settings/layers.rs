//! The three sources of settings (recipe file, `--set`, flags), each read into a `Layer`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::error::Fault;

/// A flag that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    /// Dotted key that it sets.
    pub key: String,
    /// As it is typed, for example `--flip-rate`.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// A setting as written: its path, its value and where it was written.
pub(super) struct Written {
    pub path: Vec<String>,
    /// Value, a table where a whole group was written.
    pub value: Value,
    /// Where a path below (and including) `path` was written.
    pub origins: BTreeMap<Vec<String>, String>,
    /// For paths that are not in `origins`.
    pub origin: String,
}

impl Written {
    /// Where this path was written.
    pub fn origin_of(&self, path: &[String]) -> String {
        self.origins.get(path).unwrap_or(&self.origin).clone()
    }
}

/// The settings from one source.
#[derive(Default)]
pub(super) struct Layer {
    /// Settings in the order in which they were written.
    pub written: Vec<Written>,
    /// Faults of form: syntax, unreadable file.
    pub faults: Vec<Fault>,
}

impl Layer {
    /// The value that was written last for a key, alone or within a group.
    pub fn value(&self, key: &[&str]) -> Option<Value> {
        self.written.iter().rev().find_map(|written| {
            let below = key.strip_prefix(written.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice())?;
            below.iter().try_fold(&written.value, |value, part| value.get(part)).cloned()
        })
    }

    fn fault(origin: impl Into<String>, key: impl Into<String>, message: impl Into<String>) -> Layer {
        let fault = Fault { origin: origin.into(), ..Fault::new(key, message) };
        Layer { faults: vec![fault], ..Layer::default() }
    }
}

/// The recipe file.
pub(super) fn from_file(file: Option<&Path>) -> Layer {
    let Some(path) = file else { return Layer::default() };
    let name = path.display().to_string();
    let text = match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return Layer::fault(name, "", "not a TOML file: the text is not UTF-8"),
        Err(e) => return Layer::fault(name, "", format!("cannot read the recipe: {e}")),
    };
    // A byte-order mark is no part of TOML, but editors write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let syntax = |e: &toml::de::Error| {
        let place = place(text, e.span().map_or(0, |s| s.start));
        let quoted = e.message().split('`').nth(1).filter(|_| e.message().contains("integer"));
        let message = match quoted {
            Some(number) => format!("the integer {number} is too large"),
            None => format!("not valid TOML: {}", e.message()),
        };
        Layer::fault(format!("{name}:{place}"), "", message)
    };
    let spans = match DeTable::parse(text) {
        Ok(table) => table,
        Err(e) => return syntax(&e),
    };
    let mut values: Table = match text.parse() {
        Ok(table) => table,
        Err(e) => return syntax(&e),
    };
    let mut layer = Layer::default();
    // Maps of toml are sorted by key; faults are to be read from top to bottom of the file.
    let mut keys: Vec<(usize, String)> =
        spans.get_ref().keys().map(|k| (k.span().start, k.get_ref().to_string())).collect();
    keys.sort();
    let mut origins = BTreeMap::new();
    collect_origins(spans.get_ref(), &mut Vec::new(), &|at| format!("{name}:{}", place(text, at)), &mut origins);
    for (_, key) in keys {
        let Some(value) = values.remove(&key) else { continue };
        let path = vec![key];
        let below = origins.range(path.clone()..).take_while(|(p, _)| p.starts_with(&path));
        let origins = below.map(|(p, o)| (p.clone(), o.clone())).collect();
        layer.written.push(Written { path, value, origins, origin: name.clone() });
    }
    layer
}

fn collect_origins(
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    place: &dyn Fn(usize) -> String,
    out: &mut BTreeMap<Vec<String>, String>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        out.insert(path.clone(), place(key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            collect_origins(inner, path, place, out);
        }
        path.pop();
    }
}

/// 1-based `line:column` of a byte offset, the column counted in characters.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("{line}:{column}")
}

/// Every `--set a.b.c=value`; `default` gives the default at a path.
pub(super) fn from_sets<'a>(sets: &[String], default: impl Fn(&[String]) -> Option<&'a Value>) -> Layer {
    let mut layer = Layer::default();
    let fault = |key: String, message: &str| Fault { origin: "--set".into(), ..Fault::new(key, message) };
    let mut seen: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for set in sets {
        let Some((key, text)) = set.split_once('=') else {
            layer.faults.push(fault(set.clone(), "expected KEY=VALUE, for example train.batch=8"));
            continue;
        };
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_string()).collect();
        if path.iter().any(String::is_empty) {
            layer.faults.push(fault(set.clone(), "expected a dotted key before `=`, for example train.batch=8"));
            continue;
        }
        *seen.entry(path.clone()).or_default() += 1;
        match parse_value(text.trim(), default(&path)) {
            Ok(value) => {
                layer.written.push(Written { path, value, origins: BTreeMap::new(), origin: "--set".into() });
            }
            Err(message) => layer.faults.push(fault(path.join("."), &message)),
        }
    }
    for (path, _) in seen.iter().filter(|(_, n)| **n > 1) {
        layer.faults.push(fault(path.join("."), "given more than once: only one would have an effect"));
    }
    layer
}

/// A value as typed on the command line: TOML, a bare word is a string. Where a string is
/// wanted, `2024` and `true` are strings as well.
fn parse_value(text: &str, wanted: Option<&Value>) -> Result<Value, String> {
    let parsed = text.parse::<Value>();
    if let Some(Value::String(_)) = wanted {
        return Ok(match parsed {
            Ok(Value::String(s)) => Value::String(s),
            _ => Value::String(text.to_string()),
        });
    }
    match parsed {
        Ok(value) => Ok(value),
        // A text that begins like a TOML value was meant as one.
        Err(e) if text.starts_with(['[', '{', '"', '\'']) => {
            let hint = if text.starts_with('[') { "; words in a list need quotes: [\"a\", \"b\"]" } else { "" };
            Err(format!("not a valid TOML value `{text}`: {}{hint}", e.message()))
        }
        Err(_) => Ok(Value::String(text.to_string())),
    }
}

/// The command's own flags.
pub(super) fn from_flags(flags: &[Flag]) -> Layer {
    let written = |flag: &Flag| Written {
        path: flag.key.split('.').map(String::from).collect(),
        value: flag.value.clone(),
        origins: BTreeMap::new(),
        origin: format!("flag {}", flag.name),
    };
    Layer { written: flags.iter().map(written).collect(), ..Layer::default() }
}
