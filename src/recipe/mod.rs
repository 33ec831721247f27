//! TOML + `--set` + flags -> one resolved configuration.
//!
//! Precedence: defaults < recipe file < `--set` < a command's own flags. The
//! serialized default is the set of known keys and their types; whatever does
//! not fit it is a fault, and all faults are reported at once.

mod check;
mod home;
mod layers;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
use crate::lpc::{LpcConfig, Preset};
use crate::pipeline::demo::DemoConfig;
use crate::pipeline::export::ExportConfig;
use crate::pipeline::prepare::PrepareConfig;
use crate::pipeline::score::ScoreConfig;
use crate::pipeline::sweep::SweepConfig;
use crate::synth::SynthConfig;
use crate::train::TrainConfig;

pub use layers::FlagNames;

/// Everything a command can be told, in one file.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// The run's seed, from which every random stream is derived. Default 0.
    pub seed: u64,
    /// Worker threads; 0 (default) uses every core.
    pub threads: usize,
    /// The planted-factor corpus.
    pub synth: SynthConfig,
    /// Ingest, pairs, noise, tokens.
    pub prepare: PrepareConfig,
    /// The model, the objective, the latent.
    pub train: TrainConfig,
    /// The grid of noise, objective, latent and seeds.
    pub sweep: SweepConfig,
    /// Log-probabilities of a model.
    pub score: ScoreConfig,
    /// A run's model in another form.
    pub export: ExportConfig,
    /// The whole job on built-in data.
    pub demo: DemoConfig,
}

/// Resolves a configuration: `T`'s defaults, the recipe file, every `--set a.b.c=value` (the value is
/// TOML; a bare word is a string), then the command's own flags as a table of the same nesting.
/// A flag is named in faults after its key's last part; [`resolve_named`] takes other names.
///
/// # Errors
/// [`Error::Config`] with every fault found: unknown keys (with a suggestion), wrong types, values
/// outside an enumeration, TOML syntax errors, an unreadable file.
pub fn resolve<T: Default + Serialize + DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    flags: &toml::Table,
) -> Result<T> {
    resolve_named(file, sets, flags, &FlagNames::new())
}

/// [`resolve`] with the names of flags that are not spelled like their key's last part: dotted key
/// -> flag as typed, for example `prepare.noise.rate` -> `--flip-rate`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_named<T: Default + Serialize + DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    flags: &toml::Table,
    names: &FlagNames,
) -> Result<T> {
    let mut resolved = toml::Table::try_from(T::default())
        .map_err(|e| Error::run(format!("the default configuration cannot be written as TOML: {e}")))?;
    let known = check::Known::new(resolved.clone());
    let mut faults: Vec<Fault> = Vec::new();
    let layers = [layers::from_file(file), layers::from_sets(sets, &known), layers::from_flags(flags, names)];
    if let Some(preset) = layers.iter().rev().find_map(|layer| layer.value(PRESET)) {
        presets(&mut resolved, &preset)?;
    }
    for layer in layers {
        faults.extend(layer.faults);
        for written in layer.written {
            match known.accept::<T>(&written) {
                Ok(leaves) => leaves.into_iter().for_each(|(path, value)| {
                    let value = home::expanded(&path, value);
                    check::put(&mut resolved, &path, value);
                }),
                Err(found) => faults.extend(found),
            }
        }
    }
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    // Every value was tried alone; this can only fail where values exclude each other.
    resolved.try_into().map_err(|e: toml::de::Error| Error::config("", e.message()))
}

/// The key of the setting that chooses the defaults of the latent part.
const PRESET: [&str; 3] = ["train", "lpc", "preset"];

/// Puts the defaults of a preset in the place of the usual ones; a name that is none is left to be told of with the
/// other settings.
fn presets(resolved: &mut toml::Table, preset: &toml::Value) -> Result<()> {
    let Ok(preset) = preset.clone().try_into::<Preset>() else { return Ok(()) };
    let [train, lpc, _] = PRESET;
    if let Some(place) = resolved.get_mut(train).and_then(|t| t.as_table_mut()).and_then(|t| t.get_mut(lpc)) {
        let lpc = toml::Value::try_from(LpcConfig::of(preset));
        *place = lpc.map_err(|e| Error::run(format!("the preset cannot be written as TOML: {e}")))?;
    }
    Ok(())
}

/// A resolved configuration as the text of `config.toml`, keys in the order of the structs.
///
/// # Errors
/// [`Error::Run`] where a value has no TOML form (an integer above 2^63 - 1).
pub fn to_toml<T: Serialize>(config: &T) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::run(format!("the configuration cannot be written as TOML: {e}")))
}

#[cfg(test)]
mod tests;
