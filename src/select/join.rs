//! Sources by prompt, from another file: 16 bytes a prompt, whatever its length.

use std::collections::HashMap;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::message::MessageColumn;
use crate::prompt;
use crate::schema::col;

/// What the joined files held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCounts {
    /// Rows read.
    pub rows: u64,
    /// Rows without a source, which are not used.
    pub without_source: u64,
    /// Different prompts with a source.
    pub prompts: u64,
    /// Prompts that came with two or more different sources.
    pub conflicting_prompts: u64,
}

/// Prompts and their sources, in order once [`Join::settle`] was called.
#[derive(Debug, Default)]
pub struct Join {
    /// [`prompt::conversation_hash`], and index of the source's name.
    entries: Vec<(u64, u32)>,
    names: Vec<String>,
    known: HashMap<String, u32>,
    /// Number of entries at the front that are sorted and distinct.
    sorted: usize,
    counts: JoinCounts,
}

impl Join {
    /// Takes in rows of a joined file: `prompt` and `source` of an ingested frame.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column is missing.
    pub fn add_frame(&mut self, frame: &DataFrame) -> Result<()> {
        let (prompts, sources) = (MessageColumn::open(frame.column(col::PROMPT)?)?, frame.column(col::SOURCE)?.str()?);
        for (i, source) in sources.iter().enumerate() {
            self.add(prompt::conversation_hash(prompts.row(i)), source.filter(|s| !s.trim().is_empty()));
        }
        Ok(())
    }

    /// Takes in one row.
    pub fn add(&mut self, key: u64, source: Option<&str>) {
        self.counts.rows += 1;
        let Some(source) = source else {
            self.counts.without_source += 1;
            return;
        };
        let name = match self.known.get(source) {
            Some(name) => *name,
            None => {
                let name = self.names.len() as u32;
                self.names.push(source.to_string());
                self.known.insert(source.to_string(), name);
                name
            }
        };
        self.entries.push((key, name));
        // Repetitions are removed before the list grows, so that its size depends on the number of prompts only.
        if self.entries.len() >= 1 << 16 && self.entries.len() >= 2 * self.sorted {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup();
        self.sorted = self.entries.len();
    }

    /// Leaves one source for each prompt. Of several, one that is to be `avoided` wins, so that no row is kept because
    /// it has a second source; then the first by name. The order of the rows does not matter.
    pub fn settle(&mut self, avoided: impl Fn(&str) -> bool) {
        self.compact();
        let names = &self.names;
        let rank = |name: u32| {
            let name = names.get(name as usize).map_or("", String::as_str);
            (!avoided(name), name)
        };
        let ranks: Vec<(bool, &str)> = (0..names.len() as u32).map(rank).collect();
        let mut conflicts = 0;
        let mut last: Option<u64> = None;
        self.entries.dedup_by(|next, first| {
            if next.0 != first.0 {
                return false;
            }
            if last != Some(first.0) {
                conflicts += 1;
                last = Some(first.0);
            }
            if ranks[next.1 as usize] < ranks[first.1 as usize] {
                first.1 = next.1;
            }
            true
        });
        self.sorted = self.entries.len();
        self.entries.shrink_to_fit();
        self.counts.prompts = self.entries.len() as u64;
        self.counts.conflicting_prompts += conflicts;
    }

    /// The source of a prompt.
    pub fn find(&self, key: u64) -> Option<&str> {
        let at = self.entries.binary_search_by(|entry| entry.0.cmp(&key)).ok()?;
        self.names.get(self.entries[at].1 as usize).map(String::as_str)
    }

    /// What was read.
    pub fn counts(&self) -> JoinCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::group;

    fn joined(rows: &[(&str, Option<&str>)]) -> Join {
        let mut join = Join::default();
        rows.iter().for_each(|(prompt, source)| join.add(group(prompt), *source));
        join.settle(|source| source == "truthful_qa");
        join
    }

    #[test]
    fn conflicts_are_settled_without_regard_to_order() {
        let mut rows = vec![
            ("p", Some("b")),
            ("p", Some("a")),
            ("p", Some("b")),
            ("q", Some("flan")),
            ("q", Some("truthful_qa")),
            ("r", Some("z")),
            ("r", Some("z")),
            ("s", None),
        ];
        for _ in 0..rows.len() {
            rows.rotate_left(1);
            let join = joined(&rows);
            assert_eq!(join.find(group("p")), Some("a"));
            assert_eq!(join.find(group("q")), Some("truthful_qa"));
            assert_eq!(join.find(group("r")), Some("z"));
            assert_eq!(join.find(group("s")), None);
            let counts = JoinCounts { rows: 8, without_source: 1, prompts: 3, conflicting_prompts: 2 };
            assert_eq!(join.counts(), counts);
        }
    }

    #[test]
    fn many_repetitions_do_not_pile_up() {
        let mut join = Join::default();
        let keys: Vec<u64> = (0..1000).map(|i| group(&i.to_string())).collect();
        for i in 0..200_000 {
            join.add(keys[i % 1000], Some("s"));
        }
        assert!(join.entries.capacity() <= 1 << 17, "{}", join.entries.capacity());
        join.settle(|_| false);
        assert_eq!(join.counts().prompts, 1000);
        assert_eq!(std::mem::size_of::<(u64, u32)>(), 16);
    }
}
