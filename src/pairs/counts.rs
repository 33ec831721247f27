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

/// Given pairs that are kept although their scores do not support their label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsupported {
    /// The chosen response has the lower score.
    pub negative_margin: u64,
    /// Both responses have the same score.
    pub zero_margin: u64,
}

impl Unsupported {
    /// Counts a given pair by its margin, where both scores are known.
    pub fn count(&mut self, margin: Option<f64>) {
        self.negative_margin += u64::from(margin.is_some_and(|margin| margin < 0.0));
        self.zero_margin += u64::from(margin == Some(0.0));
    }

    /// Whether there are no such pairs.
    pub fn is_none(&self) -> bool {
        *self == Unsupported::default()
    }

    /// One line where there are such pairs.
    pub fn warning(&self) -> Option<String> {
        let Unsupported { negative_margin: negative, zero_margin: zero } = self;
        let line = format!(
            "given pairs, copies among them, whose scores do not support the label: chosen has the lower score in {negative}, the same score \
             in {zero}; they are kept as they are labelled, and a --min-margin above 0 leaves them out"
        );
        (!self.is_none()).then_some(line)
    }
}

impl std::ops::AddAssign for Unsupported {
    fn add_assign(&mut self, other: Unsupported) {
        self.negative_margin += other.negative_margin;
        self.zero_margin += other.zero_margin;
    }
}
