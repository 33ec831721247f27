//! How input files are read.

use serde::{Deserialize, Serialize};

use super::layouts::Format;
use super::names::Names;
use crate::settings::{Faults, Settings, settings};

/// Which score of a raw completion counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `overall_score`.
    #[default]
    Overall,
    /// Mean of the ratings by aspect that are not "N/A".
    MeanAspects,
    /// The rating of helpfulness.
    Helpfulness,
    /// The rating of honesty.
    Honesty,
    /// The rating of truthfulness.
    Truthfulness,
    /// The rating of instruction following.
    InstructionFollowing,
}

/// What happens at a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// The first one stops the work.
    #[default]
    Fail,
    /// Each one is counted and listed among the rejects.
    Skip,
}

/// What is done with an overall score of 10 that the ratings by aspect contradict (see [`super::WrongTens`]).
/// They are counted in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnWrongTens {
    /// They stay, and the user is told.
    #[default]
    Warn,
    /// Certain ones become 1, suspicious ones have no score: their completions take no part.
    Repair,
    /// They stay, and nobody is told.
    Keep,
    /// Rows with any of them, certain or suspicious, are rejected as `wrong-ten`.
    Reject,
}

settings! {
    /// How input files are read.
    pub struct IngestConfig at "prepare.ingest" {
        /// Layout of the rows.
        pub format: Format = Format::Auto;
        /// Columns under other names than a layout has, as `TARGET=COLUMN`, for example
        /// `["prompt=question", "chosen=answers.good"]`; applied before the layout is recognised.
        pub columns: Vec<String> = Vec::new();
        /// Keys of messages, and columns, that are left unread although they may be part of what was said: a row
        /// with something in such a key is refused otherwise.
        pub ignore_keys: Vec<String> = Vec::new();
        /// Which score of a raw completion counts. No effect on given pairs.
        pub score: Score = Score::Overall;
        /// What is done with a score of 10 that the ratings by aspect contradict.
        pub wrong_tens: OnWrongTens = OnWrongTens::Warn, used "score = overall" if |c| c.score == Score::Overall;
        /// What happens at a row that cannot be read.
        pub on_bad_row: OnBadRow = OnBadRow::Fail;
        /// Longest line, or row of another text file, in bytes.
        pub max_line_bytes: u64 = 64 << 20;
        /// Most bytes of text taken from one file, after decompression.
        pub max_decompressed_bytes: u64 = 64 << 30;
    }
}

impl Settings for IngestConfig {
    fn judge(&self, faults: &mut Faults) {
        for message in Names::parse(&self.columns).err().into_iter().flatten() {
            faults.add("columns", message);
        }
        let sound = self.ignore_keys.iter().all(|key| !key.trim().is_empty());
        faults.check(sound, "ignore_keys", "an entry is empty");
        for (key, value) in
            [("max_line_bytes", self.max_line_bytes), ("max_decompressed_bytes", self.max_decompressed_bytes)]
        {
            faults.check(value > 0, key, "must be at least 1");
        }
    }

    fn why_unused(&self, _: &str, _: &str) -> String {
        "has no effect: only overall scores are wrong, and ingest.score is another one".into()
    }
}

impl IngestConfig {
    pub(super) fn limits(&self) -> Limits {
        Limits { line_bytes: self.max_line_bytes, decompressed_bytes: self.max_decompressed_bytes }
    }
}

/// How much of a file is read at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest line or row in bytes.
    pub line_bytes: u64,
    /// Most bytes after decompression.
    pub decompressed_bytes: u64,
}
