//! Added tokens, which are matched in a text before it is normalized or split.

use std::cmp::Reverse;
use std::ops::Range;

use tokenizers::Tokenizer;

/// An added token as it is searched for.
#[derive(Debug)]
struct Token {
    content: Box<[u8]>,
    id: u32,
    /// Whether it covers the white space before it, and after it.
    lstrip: bool,
    rstrip: bool,
}

/// The added tokens of one tokenizer by their first byte, longest first.
#[derive(Debug)]
pub(super) struct Added(Vec<Vec<Token>>);

/// A text between added tokens, or an added token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Range<usize>),
    Token(u32, Range<usize>),
}

impl Added {
    /// `None` where a token is not matched by its bytes alone.
    pub(super) fn new(inner: &Tokenizer) -> Option<Added> {
        let mut by_byte: Vec<Vec<Token>> = (0..256).map(|_| Vec::new()).collect();
        let all = inner.get_added_vocabulary().get_added_tokens_decoder();
        let strips = all.values().any(|token| token.lstrip || token.rstrip);
        for (id, token) in all {
            // A token that begins or ends with white space and one that strips it could cover the same white space.
            if strips && token.content.trim() != token.content {
                return None;
            }
            if token.normalized || token.single_word {
                return None;
            }
            let content = token.content.as_bytes();
            by_byte[usize::from(*content.first()?)].push(Token {
                content: content.into(),
                id: *id,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            });
        }
        by_byte.iter_mut().for_each(|same| same.sort_by_key(|token| Reverse(token.content.len())));
        Some(Added(by_byte))
    }

    /// Calls `each` with the parts of a text from left to right; none of them is empty.
    pub(super) fn split(&self, text: &str, mut each: impl FnMut(Part)) {
        let raw = text.as_bytes();
        let (mut from, mut at) = (0, 0);
        while at < raw.len() {
            let same = &self.0[usize::from(raw[at])];
            let Some(token) = same.iter().find(|token| raw[at..].starts_with(&token.content)) else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + token.content.len());
            if token.lstrip {
                start = text[..at].trim_end().len().max(from);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if from < start {
                each(Part::Text(from..start));
            }
            each(Part::Token(token.id, start..end));
            from = end;
            at = end;
        }
        if from < raw.len() {
            each(Part::Text(from..raw.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;
    use tokenizers::models::bpe::BPE;

    use super::*;

    fn parts(text: &str) -> Vec<(Option<u32>, &str)> {
        let mut inner = Tokenizer::new(BPE::default());
        let token = |text: &str, l, r| AddedToken::from(text, true).lstrip(l).rstrip(r);
        inner
            .add_special_tokens([
                token("<a>", false, false),
                token("<a>b", false, false),
                token("<r>", false, true),
                token("<l>", true, false),
            ])
            .unwrap();
        let mut found = Vec::new();
        Added::new(&inner).unwrap().split(text, |part| match part {
            Part::Text(range) => found.push((None, &text[range])),
            Part::Token(id, range) => found.push((Some(id), &text[range])),
        });
        found
    }

    #[test]
    fn the_longest_token_at_the_leftmost_place() {
        assert_eq!(parts("x<a>b<a><"), [(None, "x"), (Some(1), "<a>b"), (Some(0), "<a>"), (None, "<")]);
        assert_eq!(parts(""), []);
        assert_eq!(parts("\u{e9}"), [(None, "\u{e9}")]);
    }

    #[test]
    fn white_space_goes_to_who_takes_it() {
        assert_eq!(parts("a <r> \n<l> b"), [(None, "a "), (Some(2), "<r> \n"), (Some(3), "<l>"), (None, " b")]);
        assert_eq!(parts("a \u{3000}<l>"), [(None, "a"), (Some(3), " \u{3000}<l>")]);
        assert_eq!(parts("<a> <l> <r> "), [(Some(0), "<a>"), (Some(3), " <l>"), (None, " "), (Some(2), "<r> ")]);
    }
}
