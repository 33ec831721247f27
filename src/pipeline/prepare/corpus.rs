//! Texts on which a tokenizer is trained: a sample that does not depend on order, threads or shards.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::message::MessageColumn;
use crate::schema::{SPLITS, col};
use crate::seed::Seed;

/// Most pairs whose texts are kept.
const PAIRS: usize = 2000;

/// The pairs with the smallest hashes, training pairs first, before sharding and noise.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Corpus {
    wanted: bool,
    /// By (not a training pair, hash, id).
    pairs: BTreeMap<(bool, u64, String), Vec<String>>,
}

/// A corpus as a work folder keeps it: JSON has no maps with such keys.
#[derive(Serialize, Deserialize)]
struct Saved(bool, Vec<((bool, u64, String), Vec<String>)>);

impl From<Saved> for Corpus {
    fn from(saved: Saved) -> Corpus {
        Corpus { wanted: saved.0, pairs: saved.1.into_iter().collect() }
    }
}

impl From<Corpus> for Saved {
    fn from(corpus: Corpus) -> Saved {
        Saved(corpus.wanted, corpus.pairs.into_iter().collect())
    }
}

impl Corpus {
    /// An empty corpus; one that is not wanted stays empty.
    pub fn new(wanted: bool) -> Corpus {
        Corpus { wanted, pairs: BTreeMap::new() }
    }

    /// Whether texts are collected.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Adds the pairs of one batch.
    pub fn add(&mut self, frame: &DataFrame, seed: Seed) -> Result<()> {
        let (ids, splits) = (frame.column(col::ID)?.str()?, frame.column(col::SPLIT)?.str()?);
        let open = |name| MessageColumn::open(frame.column(name)?);
        let sides = [open(col::PROMPT)?, open(col::CHOSEN)?, open(col::REJECTED)?];
        for i in 0..frame.height() {
            let id = ids.get(i).unwrap_or("");
            let key = (splits.get(i) != Some(SPLITS[0]), seed.word("tokenizer-corpus", id), id.to_string());
            if self.pairs.len() >= PAIRS && self.pairs.last_key_value().is_some_and(|(last, _)| key > *last) {
                continue;
            }
            let texts = sides.iter().flat_map(|s| s.row(i)).map(|(_, content)| content.to_string()).collect();
            self.pairs.insert(key, texts);
            if self.pairs.len() > PAIRS {
                self.pairs.pop_last();
            }
        }
        Ok(())
    }

    /// The texts of the training pairs, or of all where there is no training pair.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let train = self.pairs.keys().next().is_some_and(|first| !first.0);
        self.pairs.iter().filter(move |(key, _)| !train || !key.0).flat_map(|(_, t)| t.iter().map(String::as_str))
    }
}
