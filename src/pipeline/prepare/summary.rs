//! The numbers of a preparation, which are printed and kept in the manifest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ingest::WrongTens;
use crate::manifest::{InputFile, Manifest};
use crate::noise::Ledger;
use crate::pairs::{Unsupported, Unusable, near};
use crate::rejects::Reject;
use crate::select::contamination::Overlap;
use crate::select::tags::SourceCounts;
use crate::tokenize::EncodeCounts;

/// Numbers of pairs that add up over parts of the data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Pairs in the output, by split and source.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Pairs that were dropped from rows that gave other ones, by reason.
    pub pairs_dropped: BTreeMap<String, u64>,
    /// What the noise did, by kind, split and source.
    pub noise: Ledger,
    /// Pairs that another pair of the same prompt contradicts.
    pub conflicts: u64,
    /// Tokens by column: `n_prompt`, `n_chosen`, `n_rejected`.
    pub tokens: BTreeMap<String, u64>,
    /// Pairs whose row gave a weight for training.
    pub weighted: u64,
    /// Pairs of which anything was cut.
    pub truncated: u64,
    /// What was cut, and where the boundary of prompt and response was forced.
    pub encoding: EncodeCounts,
}

impl Totals {
    /// Number of pairs in the output.
    pub fn pairs(&self) -> u64 {
        self.counts.values().flat_map(BTreeMap::values).sum()
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        for (split, sources) in other.counts {
            add_all(self.counts.entry(split).or_default(), sources);
        }
        add_all(&mut self.pairs_dropped, other.pairs_dropped);
        self.noise.join(&other.noise);
        self.conflicts += other.conflicts;
        add_all(&mut self.tokens, other.tokens);
        self.weighted += other.weighted;
        self.truncated += other.truncated;
        self.encoding += other.encoding;
    }
}

/// Fate of one input file's rows in a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fate {
    /// Rows of which at least one pair is in the output.
    pub kept: u64,
    /// Other rows, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The numbers of a part, or of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// By index of the input file.
    pub files: BTreeMap<u32, Fate>,
    /// Counts of pairs.
    pub totals: Totals,
    /// One of the contradictions, in words.
    pub conflict: String,
    /// One of the rows that the chat template or the tokenizer refused, with the reason, in words.
    pub refusal: String,
}

impl Counts {
    /// Adds a rejected row.
    pub fn reject(&mut self, reject: &Reject) {
        let fate = self.files.entry(reject.file).or_default();
        *fate.rejected.entry(reject.reason.to_string()).or_default() += 1;
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for (file, fate) in other.files {
            let own = self.files.entry(file).or_default();
            own.kept += fate.kept;
            add_all(&mut own.rejected, fate.rejected);
        }
        self.totals += other.totals;
        for (own, other) in [(&mut self.conflict, other.conflict), (&mut self.refusal, other.refusal)] {
            if own.is_empty() {
                *own = other;
            }
        }
    }
}

/// Adds counts by name.
pub fn add_all(to: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>) {
    for (key, n) in from {
        *to.entry(key).or_default() += n;
    }
}

/// The numbers of a preparation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrepareSummary {
    /// The folder written; empty for a dry run.
    pub out: String,
    /// Rows read (of this shard).
    pub rows_read: u64,
    /// Rows of which at least one pair is in the output.
    pub rows_kept: u64,
    /// Other rows, by reason; `rows_read = rows_kept + sum(rejects)`.
    pub rejects: BTreeMap<String, u64>,
    /// Pairs in the output.
    pub pairs: u64,
    /// Where source tags came from, and what was left out by them.
    pub sources: SourceCounts,
    /// Overlap with each benchmark.
    pub contamination: Vec<Overlap>,
    /// The search for near duplicates; absent where it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<near::Facts>,
    /// Completions that were not used for pairs.
    pub unusable_completions: Unusable,
    /// Rows by the layout that they were read as, in the whole files.
    pub layouts: BTreeMap<String, u64>,
    /// Overall scores of 10 that the ratings by aspect contradict, in the whole files.
    pub wrong_tens: WrongTens,
    /// Rows whose label an earlier preparation flipped, in the whole files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flipped_before: u64,
    /// Rows whose prompt is a dialogue in one text, split at its labels, in the whole files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dialogue_prompts: u64,
    /// Given pairs whose scores do not support their label, copies among them.
    #[serde(default, skip_serializing_if = "Unsupported::is_none")]
    pub unsupported: Unsupported,
    /// Pairs whose label was flipped.
    pub flipped: u64,
    /// Share of the pairs whose label was flipped.
    pub realised_flip_rate: f64,
    /// Counts of pairs.
    #[serde(flatten)]
    pub totals: Totals,
    /// One pair as it is written (dry run only).
    pub example: serde_json::Value,
}

/// Keys that are no facts about the data, and a key with its other name in the manifest.
const NOT_RECORDED: [&str; 2] = ["out", "example"];
const REJECTS: (&str, &str) = ("rejects", "rows_rejected");

/// Whether there is nothing to count.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl PrepareSummary {
    /// Writes the numbers into a manifest's facts.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn record(&self, manifest: &mut Manifest) -> Result<()> {
        let serde_json::Value::Object(all) = serde_json::to_value(self)? else {
            return Err(Error::run("the summary is not an object"));
        };
        for (key, value) in all {
            if !NOT_RECORDED.contains(&key.as_str()) {
                manifest.fact(if key == REJECTS.0 { REJECTS.1 } else { &key }, value)?;
            }
        }
        Ok(())
    }

    /// Reads the numbers back.
    ///
    /// # Errors
    /// [`Error::Json`] where the manifest holds something else under one of the names.
    pub fn recorded(manifest: &Manifest) -> Result<PrepareSummary> {
        let mut facts: serde_json::Map<String, serde_json::Value> = manifest.facts.clone().into_iter().collect();
        if let Some(rejects) = facts.remove(REJECTS.1) {
            facts.insert(REJECTS.0.into(), rejects);
        }
        Ok(serde_json::from_value(facts.into())?)
    }

    /// Adds the numbers of another shard, except those that [`PrepareSummary::settle`] computes.
    pub fn add(&mut self, other: PrepareSummary) {
        self.totals += other.totals;
        self.unusable_completions += other.unusable_completions;
        // Every shard has read the whole files.
        self.layouts = other.layouts;
        self.wrong_tens = other.wrong_tens;
        self.flipped_before = other.flipped_before;
        self.dialogue_prompts = other.dialogue_prompts;
        self.unsupported += other.unsupported;
        self.sources += &other.sources;
        self.near_duplicates = self.near_duplicates.or(other.near_duplicates);
        if self.contamination.is_empty() {
            self.contamination = other.contamination;
        } else {
            for (own, other) in self.contamination.iter_mut().zip(other.contamination) {
                own.rows_dropped += other.rows_dropped;
                // Which items were found is not kept; together they are at least as many as in one shard.
                own.items_found = own.items_found.max(other.items_found);
            }
        }
    }

    /// Takes the numbers of rows from the files, and those of pairs from the totals.
    pub fn settle(&mut self, files: &[InputFile]) {
        self.rows_read = files.iter().map(|file| file.rows_read).sum();
        self.rows_kept = files.iter().map(|file| file.rows_kept).sum();
        self.rejects = BTreeMap::new();
        files.iter().for_each(|file| add_all(&mut self.rejects, file.rows_rejected.clone()));
        self.pairs = self.totals.pairs();
        self.flipped = self.totals.noise.all.flipped;
        self.realised_flip_rate = self.flipped as f64 / self.pairs.max(1) as f64;
    }
}
