//! TOML + `--set` + flags -> one resolved configuration.
//!
//! Precedence: defaults < recipe file < `--set` < a command's own flags. The
//! serialized default is the set of known keys and their types; whatever does
//! not fit it is a fault, and all faults are reported at once.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::check::Idle;
use super::{check, layers, layers::Flag};
use crate::error::{Error, Fault, Result};

/// A configuration of all groups, as a recipe sets it.
pub trait Root: super::Table + Default + Serialize + DeserializeOwned {
    /// The defaults, given what was written for a key: a setting may choose the defaults of others.
    fn defaults(_written: &dyn Fn(&str) -> Option<Value>) -> Self {
        Self::default()
    }
}

/// Resolves a configuration: `T`'s defaults, the recipe file, every `--set a.b.c=value` (the value is
/// TOML; a bare word is a string), then the command's own flags.
///
/// `idle` tells why a group or a key has no effect on what is to be done, none where it has one: `--set` is for this command
/// alone, while a recipe file is for all commands.
///
/// # Errors
/// [`Error::Config`] with every fault found: unknown keys (with a suggestion), keys of `--set` without effect, wrong
/// types, values outside an enumeration, TOML syntax errors, an unreadable file.
pub fn resolve<T: Root>(file: Option<&Path>, sets: &[String], flags: &[Flag], idle: Idle<'_>) -> Result<T> {
    let known = check::Known::new(table(&T::default())?);
    let layers = [layers::from_file(file), layers::from_sets(sets, |path| known.get(path)), layers::from_flags(flags)];
    let written = |key: &str| layers.iter().rev().find_map(|layer| layer.value(&key.split('.').collect::<Vec<_>>()));
    let mut resolved = table(&T::defaults(&written))?;
    let mut faults: Vec<Fault> = Vec::new();
    let rows = T::rows("");
    let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
    let all_used: Idle<'_> = &|_| None;
    for (layer, idle) in layers.into_iter().zip([all_used, idle, all_used]) {
        faults.extend(layer.faults);
        for written in layer.written {
            match known.accept::<T>(&written, idle) {
                Ok(leaves) => leaves.into_iter().for_each(|(path, value)| {
                    let is_path = rows.iter().any(|row| row.kind.contains("PathText") && row.key == path.join("."));
                    let value = match &home {
                        Some(home) if is_path => with_home(value, home),
                        _ => value,
                    };
                    check::put(&mut resolved, &path, value);
                }),
                Err(found) => faults.extend(found),
            }
        }
    }
    super::refuse(faults)?;
    // Every value was tried alone; this can only fail where values exclude each other.
    resolved.try_into().map_err(|e: toml::de::Error| Error::config("", e.message()))
}

/// What `--set` or a flag chooses for a key, in the form of a recipe; none where only the recipe file may set it.
pub fn on_command_line(sets: &[String], flags: &[Flag], key: &str) -> Option<Value> {
    let key: Vec<&str> = key.split('.').collect();
    layers::from_flags(flags).value(&key).or_else(|| layers::from_sets(sets, |_| None).value(&key))
}

fn table<T: Serialize>(config: &T) -> Result<Table> {
    Table::try_from(config).map_err(|e| Error::run(format!("the configuration cannot be written as TOML: {e}")))
}

/// A path, or a list of them, with `~` at the beginning or after `NAME=` replaced by the home folder: shells replace it at
/// the beginning of a word only, so that it reaches us from recipes, `--set` and `--flag=~/...`.
pub(super) fn with_home(value: Value, home: &str) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Value::String(format!("{home}{rest}")),
            _ => Value::String(text.replacen("=~/", &format!("={home}/"), 1)),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(|item| with_home(item, home)).collect()),
        other => other,
    }
}

/// A resolved configuration as the text of `config.toml`, keys in the order of the structs.
///
/// # Errors
/// [`Error::Run`] where a value has no TOML form (an integer above 2^63 - 1).
pub fn to_toml<T: Serialize>(config: &T) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::run(format!("the configuration cannot be written as TOML: {e}")))
}
