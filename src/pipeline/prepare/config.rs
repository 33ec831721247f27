//! What `prepare` can be told.

use serde::{Deserialize, Serialize};

use super::shard::Shard;
use crate::error::{Error, Fault};
use crate::ingest::IngestConfig;
use crate::noise::NoiseConfig;
use crate::pairs::PairConfig;
use crate::select::tags::SourceConfig;
use crate::select::{contamination, mix};
use crate::tokenize::TokenizeConfig;

/// Everything `prepare` can be told.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareConfig {
    /// Files, folders or `hf://datasets/ORG/NAME[@rev]/file`; their order does not matter. Default: none.
    pub input: Vec<String>,
    /// Folder to write. Default: "" (must be given unless this is a dry run).
    pub out: String,
    /// MODEL whose tokenizer and chat template are used. Default: `tiny` (trained on the input's own texts).
    pub tokenizer: String,
    /// `I/N`: only the I-th of N parts of the prompts. Default: "" (all).
    pub shard: String,
    /// How much of each input goes in: `PATTERN: weight=0.5, cap=1000, source=TAG, format=NAME`; PATTERN is
    /// a part of the input's path or a glob. Default: none (all of all).
    pub mix: Vec<String>,
    /// Whether to count and show only, and to write nothing. Default: false.
    pub dry_run: bool,
    /// Reading.
    pub ingest: IngestConfig,
    /// Source tags.
    pub sources: SourceConfig,
    /// Pairing and splitting.
    pub pairs: PairConfig,
    /// Label noise.
    pub noise: NoiseConfig,
    /// Encoding.
    pub tokenize: TokenizeConfig,
}

impl Default for PrepareConfig {
    fn default() -> Self {
        PrepareConfig {
            input: Vec::new(),
            out: String::new(),
            tokenizer: "tiny".into(),
            shard: String::new(),
            mix: Vec::new(),
            dry_run: false,
            ingest: IngestConfig::default(),
            sources: SourceConfig::default(),
            pairs: PairConfig::default(),
            noise: NoiseConfig::default(),
            tokenize: TokenizeConfig::default(),
        }
    }
}

impl PrepareConfig {
    /// All that is wrong with these settings, keys under `prefix` (`prepare.`).
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let fault =
            |key: &str, message: String| Fault { origin: String::new(), key: format!("{prefix}{key}"), message };
        let mut faults = Vec::new();
        if self.input.is_empty() {
            faults.push(fault("input", "no input; pass --input PATH".into()));
        }
        if self.out.is_empty() && !self.dry_run {
            faults.push(fault("out", "no folder to write; pass --out DIR".into()));
        }
        match Shard::parse(&self.shard) {
            Err(message) => faults.push(fault("shard", message)),
            Ok(shard) if !shard.is_whole() => faults.extend(self.global().map(|what| fault("shard", what))),
            Ok(_) => {}
        }
        faults.extend(mix::faults(&format!("{prefix}mix"), &self.mix, &self.sources.tag));
        faults.extend(self.ingest.faults(&format!("{prefix}ingest.")));
        faults.extend(self.sources.faults(&format!("{prefix}sources.")));
        faults.extend(self.pairs.faults(&format!("{prefix}pairs.")));
        let PairConfig { decontaminate: files, decontaminate_ngram: n, decontaminate_responses, .. } = &self.pairs;
        faults.extend(contamination::faults(&format!("{prefix}pairs."), files, *n, *decontaminate_responses));
        faults.extend(self.noise.faults(&format!("{prefix}noise.")));
        if let Err(Error::Config(found)) = self.tokenize.check() {
            faults.extend(found.into_iter().map(|f| Fault { key: format!("{prefix}{}", f.key), ..f }));
        }
        faults
    }

    /// Settings that need all pairs at once and so cannot be had in shards.
    fn global(&self) -> impl Iterator<Item = String> {
        let noise = self.noise.is_global().then(|| {
            let kind = self.noise.flip_kind.name();
            let way =
                if self.noise.flip_kind.selects() { "" } else { "; --set prepare.noise.calibrate=false does not" };
            format!("--flip-kind {kind} needs all pairs at once{way}")
        });
        let near = (self.pairs.near_duplicates > 0.0).then(|| "--near-duplicates needs all prompts at once".into());
        let caps = mix::is_global(&self.mix).then(|| "a cap in --mix needs all pairs at once; use weight".into());
        noise.into_iter().chain(near).chain(caps)
    }
}
