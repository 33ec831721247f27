//! Encodes a preference pair as token ids.

use minijinja::Value;

use crate::error::{Error, Result};
use crate::message::Message;
use crate::rejects::reason;

use super::cut::CutAt;
use super::parts::{Before, Head};
use super::template::{ChatTemplate, SHOWN, WrittenTexts, not_a_prefix};
use super::{EncodeCounts, Encoded, ModelTokenizer, PairText, Refusal, TokenizeConfig};
use crate::token_file::TokenRow;

/// Advice where a template does not suit a conversation.
const OTHER_TEMPLATE: &str = "choose another template: --template NAME";

/// Why a pair cannot be encoded.
enum Stop {
    /// The row is refused.
    Row(Refusal),
    /// An error that is not the row's.
    Work(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Work(error)
    }
}

fn dropped(reason: &'static str, detail: String) -> Encoded {
    Encoded::Dropped { reason, detail }
}

impl ModelTokenizer {
    /// Encodes one pair. The conversation is rendered whole, once per side; the prompt's own
    /// rendering, with the header of the assistant's turn, must begin it, and the response is what
    /// follows, up to and including the end of turn. Text is never searched for.
    ///
    /// The prompt's ids are those of the prompt on its own, as in generation. Where the response
    /// would change them (a token across the boundary, say of two newlines), the response is
    /// tokenized from the boundary on; [`EncodeCounts::forced_boundaries`] counts those.
    ///
    /// A row is refused where the template fails on it, leaves out a message, does not begin the conversation with the
    /// prompt, or does not end the turn; where a token reaches across the boundary and the
    /// tokenizer cannot begin there; where the prompt begins with two BOS.
    ///
    /// # Errors
    /// [`Error::Run`] where the tokenizer fails.
    pub fn encode_pair(&self, pair: &PairText, config: &TokenizeConfig) -> Result<Encoded> {
        self.encode_pair_counted(pair, config, &mut EncodeCounts::default())
    }

    /// [`ModelTokenizer::encode_pair`], adding to `counts` what happened to a pair that is kept.
    ///
    /// # Errors
    /// As [`ModelTokenizer::encode_pair`].
    pub fn encode_pair_counted(
        &self,
        pair: &PairText,
        config: &TokenizeConfig,
        counts: &mut EncodeCounts,
    ) -> Result<Encoded> {
        match self.encode_row(pair, config, counts) {
            Ok(encoded) => Ok(encoded),
            Err(Stop::Row(refusal)) => Ok(Encoded::Refused(refusal)),
            Err(Stop::Work(error)) => Err(error),
        }
    }

    fn encode_row(&self, pair: &PairText, config: &TokenizeConfig, counts: &mut EncodeCounts) -> Result<Encoded, Stop> {
        if pair.prompt.is_empty() {
            return Ok(dropped("empty-prompt", "no messages before the response".into()));
        }
        for (side, messages) in [("chosen", pair.chosen), ("rejected", pair.rejected)] {
            match messages {
                [] => return Ok(dropped("empty-response", format!("{side} has no messages"))),
                [one] if one.role == "assistant" => {}
                [one] => return Ok(dropped("response-not-one-turn", format!("{side} is of role `{}`", one.role))),
                many => return Ok(dropped("response-not-one-turn", format!("{side} has {} messages", many.len()))),
            }
        }
        let prompt = ChatTemplate::values(pair.prompt);
        let head = self.head(prompt.clone())?;
        let mut seen = EncodeCounts::default();
        match self.template.written(pair.prompt, &head.text, true) {
            WrittenTexts::LeftOut(at) => {
                let message = self.template.left_out(pair.prompt, at);
                return Err(refused(reason::TEMPLATE_REFUSED, "prompt", message, Some(OTHER_TEMPLATE)));
            }
            written => seen.texts_changed = u64::from(written == WrittenTexts::Changed),
        }
        let chosen = self.response("chosen", &head, prompt.clone(), pair.chosen, &mut seen)?;
        let rejected = self.response("rejected", &head, prompt.clone(), pair.rejected, &mut seen)?;
        for (side, ids) in [("chosen", &chosen), ("rejected", &rejected)] {
            if ids.len() <= 1 {
                return Ok(dropped("empty-response", format!("{side} has no tokens but the end of turn")));
            }
            seen.ends_inside += u64::from(ids[..ids.len() - 1].contains(&self.turn.id));
        }
        let messages = || pair.prompt.iter().chain(pair.chosen).chain(pair.rejected);
        let marked = |mark: &String| messages().any(|message| message.content.contains(mark.as_str()));
        seen.marks_inside += u64::from(self.marks.iter().any(marked));
        self.require_one_beginning(&head)?;
        let encoded = self.cut(pair, &prompt, head, [chosen, rejected], config, &mut seen);
        if matches!(encoded, Encoded::Row(_)) {
            *counts += seen;
        }
        Ok(encoded)
    }

    /// Refuses a prompt whose text begins with a BOS after the template's.
    fn require_one_beginning(&self, head: &Head) -> Result<(), Stop> {
        let Some(bos) = self.bos.filter(|bos| head.ids.starts_with(&[*bos, *bos])) else { return Ok(()) };
        let start: String = head.text.chars().take(SHOWN).collect();
        let message = format!("begins with `{}` twice: {start:?}...", self.decode_token(bos));
        let hint = "remove the token from the row's text";
        Err(refused(reason::TWO_BEGINNINGS, "prompt", message, Some(hint)))
    }

    /// Renders and tokenizes the prompt.
    fn head(&self, prompt: Vec<Value>) -> Result<Head, Stop> {
        let text = self.render_row("prompt", prompt, true)?;
        let (ids, spans) = self.pieces(&text, Before::Nothing)?;
        let last = (0..ids.len()).rev().find(|i| self.cuts_behind(ids[*i], &text, spans[*i]));
        let (cut, kept) = last.map_or((0, 0), |i| (spans[i].1 as usize, i + 1));
        Ok(Head { text, ids, spans, cut, kept })
    }

    /// Whether a text may be split after a token. A line feed may be encoded as its byte with the id of an added token,
    /// without being that token in the text.
    fn cuts_behind(&self, id: u32, text: &str, (start, end): (u32, u32)) -> bool {
        let token = self.cuts.get(&id);
        token.is_some_and(|token| text.as_bytes()[start as usize..end as usize].ends_with(token.as_bytes()))
    }

    /// Token ids of one side's response with its end of turn.
    fn response(
        &self,
        side: &'static str,
        head: &Head,
        mut messages: Vec<Value>,
        response: &[Message],
        seen: &mut EncodeCounts,
    ) -> Result<Vec<u32>, Stop> {
        messages.extend(ChatTemplate::values(response));
        let full = self.render_row(side, messages, false)?;
        let Some(rest) = full.strip_prefix(head.text.as_str()) else {
            let message = not_a_prefix(self.template.name(), &head.text, &full);
            return Err(refused(reason::PROMPT_NOT_PREFIX, side, message, Some(OTHER_TEMPLATE)));
        };
        let rest = rest.strip_suffix(self.turn.suffix.as_str()).unwrap_or(rest);
        seen.texts_changed |= u64::from(response.iter().any(|message| !rest.contains(message.content.trim())));
        // Only what follows the last token at which text may be split is tokenized again: the turn's header.
        let end = head.text.len() + rest.len();
        let before = if head.cut > 0 { Before::Token } else { Before::Nothing };
        let (ids, spans) = self.pieces(&full[head.cut..end], before)?;
        let boundary = (head.text.len() - head.cut) as u32;
        let first = spans.iter().position(|(_, end)| *end > boundary).unwrap_or(ids.len());
        let straddles = spans.get(first).is_some_and(|(start, _)| *start < boundary);
        let mut ids = if straddles || ids[..first] != head.ids[head.kept..] {
            if !self.continues {
                return Err(straddle(side, &full, head.text.len()));
            }
            seen.forced_boundaries += 1;
            let before = if head.cut == head.text.len() { before } else { Before::Text };
            self.pieces(rest, before)?.0
        } else {
            ids[first..].to_vec()
        };
        self.end_turn(side, &full, &mut ids)?;
        Ok(ids)
    }

    /// Makes the ids end with exactly one end of turn.
    fn end_turn(&self, side: &'static str, full: &str, ids: &mut Vec<u32>) -> Result<(), Stop> {
        let end = self.turn.id;
        if self.turn.rendered {
            let Some(last) = ids.iter().rposition(|id| *id == end) else {
                let message = format!(
                    "the chat template ends the turn without `{}`: ...{:?}",
                    self.decode_token(end),
                    tail(full)
                );
                return Err(refused(reason::TURN_NOT_ENDED, side, message, Some(OTHER_TEMPLATE)));
            };
            ids.truncate(last);
        }
        while ids.last() == Some(&end) {
            ids.pop();
        }
        ids.push(end);
        Ok(())
    }

    /// Cuts prompt and responses to their lengths, as the description of [`super`] says.
    fn cut(
        &self,
        pair: &PairText,
        messages: &[Value],
        head: Head,
        [mut chosen, mut rejected]: [Vec<u32>; 2],
        config: &TokenizeConfig,
        seen: &mut EncodeCounts,
    ) -> Encoded {
        let whole = head.ids.len() + usize::from(self.lacks_bos(&head.ids));
        let prompt = if whole <= config.max_prompt_length {
            self.with_bos(head.ids)
        } else {
            let Some((prompt, at)) = self.cut_prompt(pair.prompt, messages, &head, config.max_prompt_length) else {
                let detail =
                    format!("of {whole} tokens, {} keep nothing of its last message", config.max_prompt_length);
                return dropped("prompt-too-long", detail);
            };
            seen.prompts_cut = 1;
            *match at {
                CutAt::Message => &mut seen.prompts_cut_at_message,
                CutAt::Line => &mut seen.prompts_cut_at_line,
                CutAt::Token => &mut seen.prompts_cut_at_token,
            } = 1;
            prompt
        };
        let room = config.max_length.saturating_sub(prompt.len());
        if room == 0 || prompt.is_empty() {
            let detail = format!("prompt of {} tokens leaves no room in {}", prompt.len(), config.max_length);
            return dropped("prompt-too-long", detail);
        }
        for (response, cut) in [(&mut chosen, &mut seen.chosen_cut), (&mut rejected, &mut seen.rejected_cut)] {
            *cut = u64::from(response.len() > room);
            response.truncate(room);
        }
        if chosen == rejected {
            let detail = format!("both responses are the same {} tokens", chosen.len());
            return dropped("identical-after-truncation", detail);
        }
        Encoded::Row(TokenRow {
            id: pair.id.to_string().into(),
            prompt_ids: prompt.into(),
            chosen_ids: chosen.into(),
            rejected_ids: rejected.into(),
            truncated: seen.prompts_cut + seen.chosen_cut + seen.rejected_cut > 0,
            flipped: pair.flipped,
            source: pair.source.to_string().into(),
            ..TokenRow::default()
        })
    }

    /// Whether a BOS in front means the beginning of a sequence, rather than being any token of the template.
    pub(super) fn begins_with_bos(&self) -> bool {
        self.wants_bos || self.template.source().contains("bos_token")
    }

    fn render_row(&self, field: &'static str, messages: Vec<Value>, generation: bool) -> Result<String, Stop> {
        let failed = |error: Error| refused(reason::TEMPLATE_REFUSED, field, error.to_string(), None);
        self.template.render_values(messages, generation).map_err(failed)
    }
}

fn straddle(side: &'static str, full: &str, boundary: usize) -> Stop {
    let (before, after) = full.split_at(boundary);
    let message = format!(
        "a token reaches across the boundary of prompt and response: ...{:?} then {:?}...",
        tail(before),
        after.chars().take(SHOWN).collect::<String>()
    );
    let hint = "choose a template that ends its header with a special token or a newline: --template NAME";
    refused(reason::TOKEN_ACROSS, side, message, Some(hint))
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skip).collect()
}

fn refused(reason: &'static str, field: &'static str, message: String, hint: Option<&'static str>) -> Stop {
    Stop::Row(Refusal { reason, field, message, hint })
}

#[cfg(test)]
mod tests;
