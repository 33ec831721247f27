//! What a pair is known by: content hashes that depend on its texts only.

use sha2::{Digest, Sha256};

use crate::message::{USER, normalized_prompt, prompt_text};

/// The names of a prompt, which all of its pairs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIdentity {
    /// Lower-case hex SHA-256 of the prompt's text.
    pub prompt_id: String,
    /// The normalized prompt, key of split and shard.
    pub normalized: String,
    /// Hash of the normalized prompt.
    pub group: u64,
}

impl PromptIdentity {
    /// Names a prompt.
    pub fn of<'a>(prompt: impl DoubleEndedIterator<Item = (&'a str, &'a str)> + ExactSizeIterator + Clone) -> Self {
        let normalized = normalized_prompt(prompt.clone());
        let prompt_id = hex(&Sha256::digest(prompt_text(prompt).as_bytes()));
        PromptIdentity { prompt_id, group: group(&normalized), normalized }
    }
}

/// The id of a clean pair: 32 hex digits of BLAKE3 over prompt, chosen and rejected messages.
pub fn pair_id<'a>(
    prompt: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    chosen: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    rejected: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 pair id");
    messages(&mut hasher, prompt);
    messages(&mut hasher, chosen);
    messages(&mut hasher, rejected);
    hex(&hasher.finalize().as_bytes()[..16])
}

/// Hash of a normalized prompt: [`crate::message::prompt_group`].
pub fn group(normalized: &str) -> u64 {
    crate::message::prompt_group(normalized)
}

/// Hash of messages that leaves out letter case and the amount of white space, but not roles.
pub fn normalized_hash<'a>(list: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 normalized messages");
    hasher.update(&(list.len() as u64).to_le_bytes());
    for (role, content) in list {
        let content = normalized_prompt(std::iter::once((USER, content)));
        sized(&mut hasher, role);
        sized(&mut hasher, &content);
    }
    let digest = *hasher.finalize().as_bytes();
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

/// Lengths are hashed too, so that texts cannot move from one message to the next.
fn messages<'a>(hasher: &mut blake3::Hasher, list: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
    hasher.update(&(list.len() as u64).to_le_bytes());
    for (role, content) in list {
        sized(hasher, role);
        sized(hasher, content);
    }
}

fn sized(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
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

    fn of(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> String {
        let one = |text| [("assistant", text)].into_iter();
        pair_id(prompt.iter().copied(), one(chosen), one(rejected))
    }

    #[test]
    fn prompt_ids_are_the_published_ones() {
        let id = PromptIdentity::of([("user", "how can i develop a habit of drawing daily")].into_iter());
        assert!(id.prompt_id.starts_with("086b3e24f29b8956"), "{}", id.prompt_id);
        assert_eq!(id.prompt_id.len(), 64);
    }

    #[test]
    fn an_id_depends_on_every_text_and_its_place() {
        let base = of(&[("user", "p")], "a", "b");
        assert_eq!(base.len(), 32);
        assert_eq!(base, of(&[("user", "p")], "a", "b"));
        for other in [
            of(&[("user", "p")], "b", "a"),
            of(&[("user", "pa")], "", "b"),
            of(&[("system", "p")], "a", "b"),
            of(&[("user", "p"), ("user", "")], "a", "b"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn normalized_hashes_see_words_and_roles_only() {
        let of = |list: &[(&str, &str)]| normalized_hash(list.iter().copied());
        let base = of(&[("user", "What is it?")]);
        assert_eq!(base, of(&[("user", "  what\n IS  it? ")]));
        let others = [
            of(&[("system", "What is it?")]),
            of(&[("user", "What is it")]),
            of(&[("user", "What"), ("user", "is it?")]),
        ];
        assert!(others.iter().all(|o| *o != base));
    }
}
