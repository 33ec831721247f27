//! The settings of all commands.

pub mod audit;
pub mod eval;
pub mod export;
mod generate;
mod prepare;
mod shard;
pub mod shipped;
mod slurm;
pub mod sweep;

use toml::Value;

use crate::lpc::LpcConfig;
use crate::report::ReportConfig;
use crate::settings::{Faults, PathText, Root, Settings, settings};
use crate::synth::SynthConfig;
use crate::train::TrainConfig;
pub use audit::AuditConfig;
pub use eval::EvalConfig;
pub use export::ExportConfig;
pub use generate::GenerateConfig;
pub use prepare::PrepareConfig;
pub use shard::Shard;
pub use slurm::SlurmConfig;
pub use sweep::SweepConfig;

settings! {
    /// Everything a command can be told.
    pub struct Recipe at "" {
        /// The run's seed, from which every random stream is derived.
        pub seed: u64 = 0;
        /// Worker threads; 0 uses every core.
        pub threads: usize = 0;
        /// The planted-factor corpus.
        pub synth: SynthConfig;
        /// Ingest, pairs, noise, tokens.
        pub prepare: PrepareConfig;
        /// The model, the objective, the latent.
        pub train: TrainConfig;
        /// The grid of noise, objective, latent and seeds.
        pub sweep: SweepConfig;
        /// Jobs of a Slurm cluster, for `--launcher slurm`.
        pub slurm: SlurmConfig;
        /// Log-probabilities of a model.
        pub score: ScoreConfig;
        /// Answers of a model.
        pub generate: GenerateConfig;
        /// Benchmarks and preference accuracy.
        pub eval: EvalConfig;
        /// A run's model in another form.
        pub export: ExportConfig;
        /// Training pairs by the evidence that their label is wrong.
        pub audit: AuditConfig;
        /// The report of a run.
        pub report: ReportConfig;
        /// The whole job on built-in data.
        pub demo: DemoConfig;
    }
}

settings! {
    /// Options of `score`.
    pub struct ScoreConfig at "score" {
        /// Prepared folder.
        pub data: PathText = PathText::new();
        /// Model to score with, or a run folder; a latent part beside it is used, with the prior's z.
        pub model: PathText = PathText::new();
        /// Parquet file to write.
        pub out: PathText = PathText::new();
    }
}

impl Settings for ScoreConfig {
    fn judge(&self, faults: &mut Faults) {
        for (key, value) in [("data", &self.data), ("model", &self.model), ("out", &self.out)] {
            faults.check(!value.is_empty(), key, format!("missing: give --{key}"));
        }
    }
}

settings! {
    /// Options of `demo`.
    pub struct DemoConfig at "demo" {
        /// Folder for everything.
        pub out: PathText = "runs/demo".into();
        /// Prompts of the corpus.
        pub rows: usize = 1500;
        /// Epochs of the warm start.
        pub sft_epochs: f64 = 2.0;
        /// Epochs of each preference run.
        pub epochs: f64 = 2.0;
    }
}

impl Settings for DemoConfig {}

impl Root for Recipe {
    /// The preset of the latent part chooses the defaults of its other settings. An unknown name is ignored here and
    /// reported with the other faults.
    fn defaults(written: &dyn Fn(&str) -> Option<Value>) -> Recipe {
        let mut recipe = Recipe::default();
        if let Some(preset) = written("train.lpc.preset").and_then(|preset| preset.try_into().ok()) {
            recipe.train.lpc = LpcConfig::of(preset);
        }
        recipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Table;

    fn leaves(table: &toml::Table, group: &str, keys: &mut Vec<String>) {
        for (name, value) in table {
            let key = crate::settings::joined(group, name);
            match value {
                // An empty table is a setting with keys of the user's choice.
                Value::Table(inner) if !inner.is_empty() => leaves(inner, &key, keys),
                _ => keys.push(key),
            }
        }
    }

    #[test]
    fn every_key_has_one_row_and_every_row_a_key() {
        let mut keys = Vec::new();
        leaves(&toml::Table::try_from(Recipe::default()).unwrap(), "", &mut keys);
        let mut rows: Vec<String> = Recipe::rows("").into_iter().map(|row| row.key).collect();
        keys.sort();
        rows.sort();
        assert_eq!(keys, rows);
        assert!(Recipe::rows("").iter().all(|row| row.help.ends_with('.')), "a sentence of help for every key");
    }
}
