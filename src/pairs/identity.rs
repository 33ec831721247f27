//! The identity of a pair: content hashes that depend on its texts only.

use crate::prompt::push_normalized;

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
    hasher.finalize().to_hex()[..32].to_string()
}

/// Hash of messages that leaves out letter case and the amount of white space, but not roles.
pub fn normalized_hash<'a>(list: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 normalized messages");
    let mut normalized = String::new();
    hasher.update(&(list.len() as u64).to_le_bytes());
    for (role, content) in list {
        normalized.clear();
        push_normalized(&mut normalized, content);
        sized(&mut hasher, role);
        sized(&mut hasher, &normalized);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> String {
        let one = |text| [("assistant", text)].into_iter();
        pair_id(prompt.iter().copied(), one(chosen), one(rejected))
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
