//! Settings of `export`.

use serde::{Deserialize, Serialize};

use crate::settings::{Faults, PathText, Settings, settings};
use crate::weights::folder;

/// Form of an exported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ExportAs {
    /// A Hugging Face folder; an adapter is merged into the weights of its base.
    #[default]
    Hf,
    /// A PEFT adapter.
    Peft,
}

/// Type of the exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ExportType {
    /// 32 bits, as they were trained.
    #[default]
    F32,
    /// 16 bits with the range of 32.
    Bf16,
    /// 16 bits.
    F16,
    /// That of the model that training started from.
    Base,
}

settings! {
    /// Options of `export`.
    pub struct ExportConfig at "export" {
        /// Run folder.
        pub run: PathText = PathText::new();
        /// Folder to write.
        pub out: PathText = PathText::new();
        /// Form.
        pub r#as: ExportAs = ExportAs::Hf;
        /// Type of the weights of a Hugging Face folder; merging is done in 32 bits.
        pub dtype: ExportType = ExportType::F32, used "as = \"hf\"" if |c| c.r#as == ExportAs::Hf;
        /// Largest weight file in MB (10^6 bytes); a larger model is written in several with an index.
        pub shard_mb: usize = (folder::SHARD / 1_000_000) as usize, used "as = \"hf\"" if |c| c.r#as == ExportAs::Hf;
    }
}

impl Settings for ExportConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.run.is_empty(), "run", "missing: give --run DIR, the output of lpc-pipe train");
        faults.check(!self.out.is_empty(), "out", "missing: give --out DIR");
        faults.check(self.shard_mb > 0, "shard_mb", "expected at least 1");
    }

    fn why_unused(&self, _: &str, _: &str) -> String {
        "has no effect with as = \"peft\"".into()
    }
}
