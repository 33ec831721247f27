//! `--shard I/N`: a part of the prompts, so that N machines can prepare N parts.

use polars::prelude::*;

use crate::error::Result;
use crate::schema::col;

/// One of `of` parts, by the hash of the normalized prompt; copies of a prompt meet in one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// 1-based.
    index: u64,
    of: u64,
}

impl Shard {
    /// All prompts.
    pub const WHOLE: Shard = Shard { index: 1, of: 1 };

    /// Reads `I/N`; an empty text means all prompts.
    ///
    /// # Errors
    /// A message that tells what is expected.
    pub fn parse(text: &str) -> std::result::Result<Shard, String> {
        if text.is_empty() {
            return Ok(Shard::WHOLE);
        }
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if 1 <= index && index <= of => Ok(Shard { index, of }),
            _ => Err(format!("expected I/N with 1 <= I <= N, got {text:?}")),
        }
    }

    /// Number of this part, from 1, and number of parts.
    pub fn parts(self) -> (u64, u64) {
        (self.index, self.of)
    }

    /// Whether this part has all prompts.
    pub fn is_whole(self) -> bool {
        self.of == 1
    }

    /// Whether rows of this group belong to this part.
    pub fn holds(self, group: u64) -> bool {
        let part = (u128::from(group) * u128::from(self.of)) >> 64;
        part as u64 + 1 == self.index
    }

    /// A group's position within this part, spread over 0 to `u64::MAX`, in the order of the groups.
    pub fn position(self, group: u64) -> u64 {
        (u128::from(group) * u128::from(self.of)) as u64
    }

    /// The rows of an ingested frame that belong to this part, by the hash of their normalized prompt.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn rows(self, frame: DataFrame) -> Result<DataFrame> {
        if self.is_whole() {
            return Ok(frame);
        }
        let groups = frame.column(col::GROUP)?.u64()?;
        let keep: BooleanChunked = groups.iter().map(|group| Some(self.holds(group.unwrap_or_default()))).collect();
        Ok(frame.filter(&keep)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_in_exactly_one_part() {
        for n in [1u64, 2, 3, 7] {
            for group in [0, 1, u64::MAX / 2, u64::MAX / 3 * 2, u64::MAX] {
                let parts = (1..=n).filter(|i| Shard::parse(&format!("{i}/{n}")).unwrap().holds(group)).count();
                assert_eq!(parts, 1, "{group} of {n}");
            }
        }
        for text in ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"] {
            assert!(Shard::parse(text).unwrap_err().contains("expected I/N"), "{text}");
        }
        assert!(Shard::parse("").unwrap().is_whole());
    }
}
