//! How input files are read.

use serde::{Deserialize, Serialize};

use super::layouts::Format;
use super::names::Names;
use crate::error::Fault;

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

/// How input files are read.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Layout of the rows. Default: `auto`.
    pub format: Format,
    /// Columns under other names than a layout has, as `TARGET=COLUMN`, for example
    /// `["prompt=question", "chosen=answers.good"]`; applied before the layout is recognised. Default: none.
    pub columns: Vec<String>,
    /// Keys of messages, and columns, that are left unread although they may be part of what was said: a row
    /// with something in such a key is refused otherwise. Default: none.
    pub ignore_keys: Vec<String>,
    /// Which score of a raw completion counts. Default: `overall`. No effect on given pairs.
    pub score: Score,
    /// What is done with a score of 10 that the ratings by aspect contradict. Default: `warn`.
    pub wrong_tens: OnWrongTens,
    /// What happens at a row that cannot be read. Default: `fail`.
    pub on_bad_row: OnBadRow,
    /// Longest line, or row of another text file, in bytes. Default: 64 MiB.
    pub max_line_bytes: u64,
    /// Most bytes of text taken from one file, after decompression. Default: 64 GiB.
    pub max_decompressed_bytes: u64,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            format: Format::Auto,
            columns: Vec::new(),
            ignore_keys: Vec::new(),
            score: Score::Overall,
            wrong_tens: OnWrongTens::Warn,
            on_bad_row: OnBadRow::Fail,
            max_line_bytes: 64 << 20,
            max_decompressed_bytes: 64 << 30,
        }
    }
}

impl IngestConfig {
    /// What is wrong with these settings, keys under `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let fault =
            |key: &str, message: String| Fault { origin: String::new(), key: format!("{prefix}{key}"), message };
        let mut faults = Vec::new();
        if let Err(messages) = Names::parse(&self.columns) {
            faults.extend(messages.into_iter().map(|m| fault("columns", m)));
        }
        if self.ignore_keys.iter().any(|key| key.trim().is_empty()) {
            faults.push(fault("ignore_keys", "an entry is empty".into()));
        }
        if self.wrong_tens != OnWrongTens::default() && self.score != Score::Overall {
            let message = "has no effect: only overall scores are wrong, and ingest.score is another one";
            faults.push(fault("wrong_tens", message.into()));
        }
        for (key, value) in
            [("max_line_bytes", self.max_line_bytes), ("max_decompressed_bytes", self.max_decompressed_bytes)]
        {
            if value == 0 {
                faults.push(fault(key, "must be at least 1".into()));
            }
        }
        faults
    }

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
