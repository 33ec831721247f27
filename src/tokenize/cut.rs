//! Cuts the beginning of a prompt that is longer than allowed.
//!
//! The kept part consists of the prompt's own tokens: nothing is tokenized again. It begins with the first message from
//! which on the prompt fits. If there is none, it consists of the opening of the last message (what the template writes
//! before the message's text) and the message from a line on, or from a token on where no line fits. A BOS at the
//! prompt's beginning is kept.

use std::ops::Range;

use minijinja::Value;

use crate::message::Message;

use super::ModelTokenizer;
use super::parts::Head;
use super::python::is_space;

/// Where a prompt was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutAt {
    Message,
    Line,
    Token,
}

/// The opening of a message is kept where it has at most this share of the tokens.
const OPENING_SHARE: (usize, usize) = (3, 4);

/// Messages, from the last one back, whose beginning is searched even if their texts are longer than what fits.
const UNKNOWN_BEGINNINGS: usize = 8;

/// A prompt that is to be cut.
struct Long<'a> {
    head: &'a Head,
    /// The BOS that it begins with, written by the template or put in front.
    bos: Option<u32>,
    /// Tokens that may be kept.
    most: usize,
}

impl Long<'_> {
    /// Number of tokens of an opening and of all tokens from `from` on.
    fn tokens(&self, opening: &Range<usize>, from: usize) -> usize {
        usize::from(self.adds_bos(opening, from)) + opening.len() + self.head.ids.len() - from
    }

    fn fits(&self, opening: &Range<usize>, from: usize) -> bool {
        self.tokens(opening, from) <= self.most
    }

    fn adds_bos(&self, opening: &Range<usize>, from: usize) -> bool {
        let first = if opening.is_empty() { from } else { opening.start };
        self.bos.is_some_and(|bos| self.head.ids.get(first) != Some(&bos))
    }

    fn keep(&self, opening: Range<usize>, from: usize) -> Vec<u32> {
        let bos = self.bos.filter(|_| self.adds_bos(&opening, from));
        let ids = &self.head.ids;
        bos.into_iter().chain(ids[opening].iter().copied()).chain(ids[from..].iter().copied()).collect()
    }

    /// The token that begins at a byte of the text, where one does.
    fn token_at(&self, byte: usize) -> Option<usize> {
        let first = self.head.spans.partition_point(|(start, _)| (*start as usize) < byte);
        self.head.spans.get(first).filter(|(start, _)| *start as usize == byte).map(|_| first)
    }

    /// The token at which the kept part continues after an opening: the first one from `begin` on and before byte `end`
    /// that begins a line and from which on the prompt fits; else the first that fits.
    fn within(&self, opening: &Range<usize>, begin: usize, end: usize) -> Option<(usize, CutAt)> {
        let (text, spans) = (&self.head.text, &self.head.spans);
        let surplus = self.tokens(opening, begin).saturating_sub(self.most);
        let from = (begin + surplus..spans.len()).find(|from| self.fits(opening, *from))?;
        let rest = (from..spans.len()).take_while(|i| (spans[*i].0 as usize) < end);
        // A token may be a single byte of a character, and no character is cut.
        let whole =
            |i: &usize| text.is_char_boundary(spans[*i].0 as usize) && (*i == 0 || spans[*i - 1].1 <= spans[*i].0);
        let starts_line = |i: &usize| whole(i) && text[..spans[*i].0 as usize].ends_with('\n');
        let line = rest.clone().find(starts_line).map(|i| (i, CutAt::Line));
        line.or_else(|| rest.clone().find(whole).map(|i| (i, CutAt::Token)))
    }
}

impl ModelTokenizer {
    /// The tokens of a prompt that are kept where it is longer than `most`, and where it was cut; `None`
    /// where nothing would be left of its last message.
    pub(super) fn cut_prompt(
        &self,
        messages: &[Message],
        values: &[Value],
        head: &Head,
        most: usize,
    ) -> Option<(Vec<u32>, CutAt)> {
        let begins = |bos: &u32| self.lacks_bos(&head.ids) || (self.begins_with_bos() && head.ids.first() == Some(bos));
        let long = Long { head, bos: self.bos.filter(begins), most };
        let last = match self.message_to_begin_with(messages, values, &long) {
            Ok(token) => return Some((long.keep(0..0, token), CutAt::Message)),
            Err(last) => last,
        };
        let begin = head.spans.get(last)?.0 as usize;
        let content = Some(messages.last()?.content.trim_matches(is_space)).filter(|content| !content.is_empty())?;
        let rest = &head.text[begin..];
        // An earlier message may have the same text.
        let known = last > 0 || messages.len() == 1;
        let written = if known { rest.find(content) } else { rest.rfind(content) };
        let Some(start) = written.map(|at| begin + at) else {
            // The template changes the message's text.
            let end = self.end_of_messages(values, &head.text);
            let (from, at) = long.within(&(0..0), last, end)?;
            return Some((long.keep(0..0, from), at));
        };
        let end = start + content.len();
        let first = head.spans.partition_point(|(_, token_end)| *token_end as usize <= start);
        let opening = last..first;
        let (share, of) = OPENING_SHARE;
        if opening.len() * of <= most * share
            && let Some((from, at)) = long.within(&opening, first, end)
        {
            return Some((long.keep(opening, from), at));
        }
        let (from, at) = long.within(&(0..0), first, end)?;
        Some((long.keep(0..0, from), at))
    }

    /// The first token of the first message from which on the prompt fits; as an error, the first token of the last
    /// message, or 0 where it is not known.
    fn message_to_begin_with(&self, messages: &[Message], values: &[Value], long: &Long) -> Result<usize, usize> {
        let first_kept = long.head.ids.len().saturating_sub(long.most);
        let room = long.head.text.len() - long.head.spans.get(first_kept).map_or(0, |(start, _)| *start as usize);
        let (mut found, mut bytes) = (None, 0);
        for k in (1..messages.len()).rev() {
            bytes += messages[k].content.trim_matches(is_space).len();
            if let Some(token) = self.beginning_of(k, values, long) {
                if !long.fits(&(0..0), token) {
                    return found.ok_or(token);
                }
                found = Some(token);
            } else if bytes > room && messages.len() - k > UNKNOWN_BEGINNINGS {
                break;
            }
        }
        found.ok_or(0)
    }

    /// The first token of a message: where the rendering of the messages before it ends.
    fn beginning_of(&self, k: usize, values: &[Value], long: &Long) -> Option<usize> {
        let before = self.template.render_values(values[..k].to_vec(), false).ok()?;
        // Some templates write nothing, or their beginning alone, for messages that cannot be the last.
        let written = long.head.text.starts_with(&before) && !before.is_empty();
        long.token_at(before.len()).filter(|token| written && *token > 0)
    }

    /// The byte at which the header of the answer begins.
    fn end_of_messages(&self, values: &[Value], text: &str) -> usize {
        let whole = self.template.render_values(values.to_vec(), false);
        whole.ok().filter(|whole| text.starts_with(whole)).map_or(text.len(), |whole| whole.len())
    }
}

#[cfg(test)]
mod tests;
