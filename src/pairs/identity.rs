//! What a pair is known by: content hashes that depend on its texts only.

use sha2::{Digest, Sha256};

use crate::message::prompt_text;
use crate::seed::Seed;

/// The names of one clean pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// 32 hex digits of BLAKE3 over prompt, chosen and rejected messages.
    pub id: String,
    /// Lower-case hex SHA-256 of the prompt's text.
    pub prompt_id: String,
    /// The normalized prompt, key of split and shard.
    pub normalized: String,
    /// Hash of the normalized prompt.
    pub group: u64,
}

impl Identity {
    /// Names a pair.
    pub fn of<'a>(
        prompt: impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
        chosen: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        rejected: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        normalized: &str,
    ) -> Identity {
        let prompt_id = Sha256::digest(prompt_text(prompt.clone()).as_bytes());
        let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 pair id");
        messages(&mut hasher, prompt);
        messages(&mut hasher, chosen);
        messages(&mut hasher, rejected);
        Identity {
            id: hex(&hasher.finalize().as_bytes()[..16]),
            prompt_id: hex(&prompt_id),
            normalized: normalized.to_string(),
            group: group(normalized),
        }
    }
}

/// Hash of a normalized prompt. It does not depend on the run's seed: shards of one data set
/// are the same in every run.
pub fn group(normalized: &str) -> u64 {
    Seed(0).word("shard", normalized)
}

/// Lengths are hashed too, so that texts cannot move from one message to the next.
fn messages<'a>(hasher: &mut blake3::Hasher, list: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
    hasher.update(&(list.len() as u64).to_le_bytes());
    for (role, content) in list {
        for text in [role, content] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> Identity {
        let one = |text| [("assistant", text)].into_iter();
        Identity::of(prompt.iter().copied(), one(chosen), one(rejected), "k")
    }

    #[test]
    fn prompt_ids_are_the_published_ones() {
        let id = of(&[("user", "how can i develop a habit of drawing daily")], "a", "b");
        assert!(id.prompt_id.starts_with("086b3e24f29b8956"), "{}", id.prompt_id);
        assert_eq!(id.prompt_id.len(), 64);
    }

    #[test]
    fn an_id_depends_on_every_text_and_its_place() {
        let base = of(&[("user", "p")], "a", "b");
        assert_eq!(base.id.len(), 32);
        assert_eq!(base, of(&[("user", "p")], "a", "b"));
        for other in [
            of(&[("user", "p")], "b", "a"),
            of(&[("user", "pa")], "", "b"),
            of(&[("system", "p")], "a", "b"),
            of(&[("user", "p"), ("user", "")], "a", "b"),
        ] {
            assert_ne!(base.id, other.id);
        }
    }
}
