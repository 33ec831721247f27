//! What identifies a prompt: its normal form, the group that copies of it share, and its id.
//!
//! Ingestion computes normal form and group once for each row; later stages read them from the row's columns. The form of a
//! whole conversation is computed where prompts are compared.

use std::borrow::Cow;

use polars::prelude::*;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::message::{MessageColumn, SYSTEM, USER};
use crate::schema::col;
use crate::seed::Seed;

/// The text by which rows with the same question are recognized: the last user message (all messages where there is
/// none), lower-cased, white space collapsed. Splits, shards and random picks are keyed by it, so that copies with
/// other spacing or case stay together.
///
/// Earlier turns and the system message are left out on purpose: two conversations that ask the same question must
/// not end up on both sides of the split.
pub fn normalized<'a>(messages: impl DoubleEndedIterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let mut out = String::new();
    match messages.clone().rev().find(|(role, _)| *role == USER) {
        Some((_, content)) => push_normalized(&mut out, content),
        None => messages.for_each(|(_, content)| push_normalized(&mut out, content)),
    }
    out
}

/// The normal form of the whole prompt: all messages but the system's. By it, rows count as having the same prompt: the
/// last user message alone may be no more than "Go on.".
pub fn conversation<'a>(messages: impl DoubleEndedIterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let said = messages.clone().filter(|(role, _)| *role != SYSTEM);
    if said.clone().nth(1).is_none() {
        return normalized(messages);
    }
    let mut out = String::new();
    said.for_each(|(_, content)| push_normalized(&mut out, content));
    out
}

/// Hash of a [`conversation`]: equal for rows that have the same prompt.
pub fn conversation_hash<'a>(messages: impl DoubleEndedIterator<Item = (&'a str, &'a str)> + Clone) -> u64 {
    group(&conversation(messages))
}

/// Appends a text in lower case, with one space between words.
pub fn push_normalized(out: &mut String, text: &str) {
    // Python's `split` takes these four separators as white space, Unicode does not.
    for word in text.split(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)) {
        if word.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        if word.is_ascii() {
            out.extend(word.bytes().map(|b| char::from(b.to_ascii_lowercase())));
        } else {
            out.push_str(&word.to_lowercase());
        }
    }
}

/// Hash of a [`normalized`] prompt: the `group` of a row. It does not depend on the run's seed, so that shards of one
/// data set are the same in every run.
pub fn group(normalized: &str) -> u64 {
    Seed(0).word("shard", normalized)
}

/// The prompt as one text: a single message is exactly its content; several are `ROLE: CONTENT`, joined by blank
/// lines.
pub fn text<'a>(mut messages: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Cow<'a, str> {
    if messages.len() == 1
        && let Some((_, content)) = messages.next()
    {
        return content.into();
    }
    let parts: Vec<String> = messages.map(|(role, content)| format!("{role}: {content}")).collect();
    parts.join("\n\n").into()
}

/// The `prompt_id`: lower-case hex SHA-256 of the prompt's [`text`], as in HuggingFaceH4/ultrafeedback_binarized.
pub fn id<'a>(messages: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(text(messages).as_bytes());
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

/// The columns `normalized_prompt` and `group` of a `prompt` column.
///
/// # Errors
/// [`crate::Error::Frame`] where the column does not hold message lists.
pub fn columns(prompts: &Column) -> Result<[Column; 2]> {
    let prompts = MessageColumn::open(prompts)?;
    let known = |i: usize| {
        let normalized = normalized(prompts.row(i));
        let group = group(&normalized);
        (normalized, group)
    };
    let rows: Vec<(String, u64)> = (0..prompts.len()).into_par_iter().map(known).collect();
    let groups = UInt64Chunked::from_vec(col::GROUP.into(), rows.iter().map(|row| row.1).collect());
    let texts = StringChunked::from_iter_values(col::NORMALIZED_PROMPT.into(), rows.iter().map(|row| row.0.as_str()));
    Ok([texts.into_column(), groups.into_column()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_known_by_their_last_user_message() {
        let key = |m: &[(&str, &str)]| normalized(m.iter().copied());
        assert_eq!(key(&[("user", "  What\n is\tIT? ")]), "what is it?");
        assert_eq!(key(&[("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "What is it?")]), "what is it?");
        assert_eq!(key(&[("system", "One"), ("tool", "Two")]), "one two");
        assert_eq!(key(&[("user", "\u{39f}\u{394}\u{39f}\u{3a3}\x1cX")]), "\u{3bf}\u{3b4}\u{3bf}\u{3c2} x");
    }

    #[test]
    fn a_conversation_is_known_by_all_of_its_turns() {
        let key = |m: &[(&str, &str)]| conversation(m.iter().copied());
        assert_eq!(key(&[("system", "S"), ("user", "Go  on.")]), "go on.");
        assert_eq!(key(&[("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "Go on.")]), "a b go on.");
        assert_eq!(key(&[("system", "One")]), "one");
    }

    #[test]
    fn one_message_is_its_own_text() {
        assert_eq!(text([("user", " a ")].into_iter()), " a ");
        assert_eq!(text([("system", "s"), ("user", "u")].into_iter()), "system: s\n\nuser: u");
    }

    #[test]
    fn prompt_ids_are_the_published_ones() {
        let id = id([("user", "how can i develop a habit of drawing daily")].into_iter());
        assert!(id.starts_with("086b3e24f29b8956"), "{id}");
        assert_eq!(id.len(), 64);
    }
}
