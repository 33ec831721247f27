//! Settings of `prepare`.

use super::shard::Shard;
use crate::ingest::IngestConfig;
use crate::noise::NoiseConfig;
use crate::pairs::{Dedup, PairConfig};
use crate::select::tags::SourceConfig;
use crate::select::{contamination, mix};
use crate::settings::{Faults, PathText, Settings, settings};
use crate::source::ModelSource;
use crate::tokenize::TokenizeConfig;

settings! {
    /// Everything `prepare` can be told.
    pub struct PrepareConfig at "prepare" {
        /// Files, folders or `hf://datasets/ORG/NAME[@rev][/file]`; their order does not matter.
        pub input: Vec<PathText> = Vec::new();
        /// Folder to write; only a dry run needs none.
        pub out: PathText = PathText::new();
        /// Model whose tokenizer and chat template are used; `tiny` is trained on the input's own texts.
        pub tokenizer: PathText = "tiny".into();
        /// `I/N`: only the I-th of N parts of the prompts; "" takes all.
        pub shard: String = String::new();
        /// How much of each input goes in: `PATTERN: weight=0.5, cap=1000, source=TAG, format=NAME`; PATTERN is
        /// a part of the input's path or a glob.
        pub mix: Vec<String> = Vec::new();
        /// Whether to count and show only, and to write nothing.
        pub dry_run: bool = false;
        /// Reading.
        pub ingest: IngestConfig;
        /// Source tags.
        pub sources: SourceConfig;
        /// Pairing and splitting.
        pub pairs: PairConfig;
        /// Label noise.
        pub noise: NoiseConfig;
        /// Encoding.
        pub tokenize: TokenizeConfig;
    }
}

impl Settings for PrepareConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.input.is_empty(), "input", "no input; pass --input PATH");
        faults.check(!self.out.is_empty() || self.dry_run, "out", "no folder to write; pass --out DIR");
        match Shard::parse(&self.shard) {
            Err(message) => faults.add("shard", message),
            Ok(shard) if !shard.is_whole() => self.global().for_each(|what| faults.add("shard", what)),
            Ok(_) => {}
        }
        faults.extend(mix::faults(&self.mix, &self.sources.tag));
        faults.extend(self.ingest.faults());
        faults.extend(self.sources.faults());
        faults.extend(self.pairs.faults());
        faults.extend(contamination::faults(&self.pairs.decontaminate, self.pairs.decontaminate_ngram));
        faults.extend(self.noise.faults());
        faults.extend(self.tokenize.faults());
        let tiny = ModelSource::is_tiny(&self.tokenizer);
        let template = self.tokenize.template.as_str();
        let message = "has no effect: a tokenizer that is trained on the input has chatml";
        faults.check(!tiny || ["auto", "chatml"].contains(&template), "tokenize.template", message);
        let vocabulary = self.tokenize.given().iter().any(|name| name == "vocab_size");
        faults.check(tiny || !vocabulary, "tokenize.vocab_size", "has no effect: the model has its own vocabulary");
        let copies = mix::is_global(&self.mix) && self.pairs.dedup == Dedup::None;
        faults.check(!copies, "mix", "a cap counts copies of a row once: not with prepare.pairs.dedup=none");
    }
}

impl PrepareConfig {
    /// Settings that need all pairs at once and therefore cannot be used with shards.
    fn global(&self) -> impl Iterator<Item = String> {
        let noise = self.noise.needs_survey().then(|| {
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
