//! Counts of rows and completions, which add up over batches.

use serde::{Deserialize, Serialize};

/// Completions that could be in no pair, whether or not their row gave one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Completions with an empty response.
    pub empty_response: u64,
    /// Completions without a score.
    pub unrated: u64,
}

impl std::ops::AddAssign for Unusable {
    fn add_assign(&mut self, other: Unusable) {
        self.empty_response += other.empty_response;
        self.unrated += other.unrated;
    }
}

/// Rows by the scores that they came with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// Rows of scored completions.
    pub completions: u64,
    /// Given pairs with both scores.
    pub pairs: u64,
    /// Given pairs that lack one of them.
    pub bare: u64,
}

impl std::ops::AddAssign for Scored {
    fn add_assign(&mut self, other: Scored) {
        self.completions += other.completions;
        self.pairs += other.pairs;
        self.bare += other.bare;
    }
}
