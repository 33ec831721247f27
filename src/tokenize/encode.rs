//! One preference pair as token ids: where the response begins and ends, and what is cut.

use minijinja::Value;

use crate::error::{Error, Result};
use crate::message::Message;

use super::pieces::Before;
use super::store::TokenRow;
use super::template::ChatTemplate;
use super::{EncodeCounts, Encoded, ModelTokenizer, PairText, TokenizeConfig};

/// Characters shown of either end in messages.
const SHOWN: usize = 60;

/// The prompt's rendering and ids, made once for both sides.
struct Head {
    text: String,
    /// All ids of the prompt on its own, as in generation.
    ids: Vec<u32>,
    /// Byte offset behind the last token at which text may be cut; 0 where there is none.
    cut: usize,
    /// How many of `ids` lie before `cut`.
    kept: usize,
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
    /// # Errors
    /// [`Error::Data`] naming the row where the template fails on it, does not begin the
    /// conversation with the prompt, or does not end the turn; where a token reaches across the
    /// boundary and the tokenizer cannot begin there; where the prompt begins with two BOS.
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
        let head = self.head(pair.id, prompt.clone())?;
        let mut seen = EncodeCounts::default();
        let chosen = self.response(pair.id, "chosen", &head, prompt.clone(), pair.chosen, &mut seen)?;
        let rejected = self.response(pair.id, "rejected", &head, prompt, pair.rejected, &mut seen)?;
        for (side, ids) in [("chosen", &chosen), ("rejected", &rejected)] {
            if ids.len() <= 1 {
                return Ok(dropped("empty-response", format!("{side} has no tokens but the end of turn")));
            }
            seen.ends_inside += u64::from(ids[..ids.len() - 1].contains(&self.turn.id));
        }
        let ids = self.with_bos(head.ids);
        self.require_one_beginning(pair.id, &head.text, &ids)?;
        let encoded = self.cut(pair, ids, chosen, rejected, config, &mut seen);
        if matches!(encoded, Encoded::Row(_)) {
            *counts += seen;
        }
        Ok(encoded)
    }

    /// A prompt may begin with its own text of a BOS behind the template's.
    fn require_one_beginning(&self, id: &str, text: &str, ids: &[u32]) -> Result<()> {
        let Some(bos) = self.bos.filter(|_| self.begins_with_bos()) else { return Ok(()) };
        if !ids.starts_with(&[bos, bos]) {
            return Ok(());
        }
        let start: String = text.chars().take(SHOWN).collect();
        let what = format!("begins with `{}` twice: {start:?}...", self.decode_token(bos));
        Err(row_error(id, "prompt", what).with_hint("remove the token from the text, or from the chat template"))
    }

    /// Renders and tokenizes the prompt.
    fn head(&self, id: &str, prompt: Vec<Value>) -> Result<Head> {
        let text = self.render_row(id, "prompt", prompt, true)?;
        let (ids, spans) = self.pieces(&text, Before::Nothing)?;
        let last = ids.iter().rposition(|id| self.cuts.contains(id));
        let (cut, kept) = last.map_or((0, 0), |i| (spans[i].1 as usize, i + 1));
        Ok(Head { text, ids, cut, kept })
    }

    /// Token ids of one side's response with its end of turn.
    fn response(
        &self,
        id: &str,
        side: &str,
        head: &Head,
        mut messages: Vec<Value>,
        response: &[Message],
        seen: &mut EncodeCounts,
    ) -> Result<Vec<u32>> {
        messages.extend(ChatTemplate::values(response));
        let full = self.render_row(id, side, messages, false)?;
        let Some(rest) = full.strip_prefix(head.text.as_str()) else {
            return Err(self.not_a_prefix(id, side, &head.text, &full));
        };
        let rest = rest.strip_suffix(self.turn.suffix.as_str()).unwrap_or(rest);
        // Between a cut token and the boundary lies only the turn's header, so little is done twice.
        let end = head.text.len() + rest.len();
        let before = if head.cut > 0 { Before::Token } else { Before::Nothing };
        let (ids, spans) = self.pieces(&full[head.cut..end], before)?;
        let boundary = (head.text.len() - head.cut) as u32;
        let first = spans.iter().position(|(_, end)| *end > boundary).unwrap_or(ids.len());
        let straddles = spans.get(first).is_some_and(|(start, _)| *start < boundary);
        let mut ids = if straddles || ids[..first] != head.ids[head.kept..] {
            if !self.continues {
                return Err(self.straddle(id, side, &full, head.text.len()));
            }
            seen.forced_boundaries += 1;
            let before = if head.cut == head.text.len() { before } else { Before::Text };
            self.pieces(rest, before)?.0
        } else {
            ids[first..].to_vec()
        };
        self.end_turn(id, side, &full, &mut ids)?;
        Ok(ids)
    }

    /// Leaves exactly one end of turn at the end.
    fn end_turn(&self, id: &str, side: &str, full: &str, ids: &mut Vec<u32>) -> Result<()> {
        let end = self.turn.id;
        if self.turn.rendered {
            let Some(last) = ids.iter().rposition(|id| *id == end) else {
                let what = format!(
                    "the chat template ends the turn without `{}`: ...{:?}",
                    self.decode_token(end),
                    tail(full)
                );
                return Err(row_error(id, side, what));
            };
            ids.truncate(last);
        }
        while ids.last() == Some(&end) {
            ids.pop();
        }
        ids.push(end);
        Ok(())
    }

    /// The one rule of truncation; see the module's description.
    fn cut(
        &self,
        pair: &PairText,
        mut prompt: Vec<u32>,
        mut chosen: Vec<u32>,
        mut rejected: Vec<u32>,
        config: &TokenizeConfig,
        seen: &mut EncodeCounts,
    ) -> Encoded {
        if prompt.len() > config.max_prompt_length {
            seen.prompts_cut = 1;
            let whole = prompt.len();
            let bos = self.bos.filter(|bos| self.begins_with_bos() && prompt.first() == Some(bos));
            let room = config.max_prompt_length.saturating_sub(usize::from(bos.is_some()));
            prompt.drain(..whole - room);
            if let Some(bos) = bos {
                prompt.insert(0, bos);
            }
        }
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
            id: pair.id.to_string(),
            prompt_ids: prompt,
            chosen_ids: chosen,
            rejected_ids: rejected,
            truncated: seen.prompts_cut + seen.chosen_cut + seen.rejected_cut > 0,
            flipped: pair.flipped,
            source: pair.source.to_string(),
        })
    }

    /// Whether a BOS in front is the model's mark for the beginning, not just a token of the template.
    pub(super) fn begins_with_bos(&self) -> bool {
        self.wants_bos || self.template.source().contains("bos_token")
    }

    fn render_row(&self, id: &str, field: &str, messages: Vec<Value>, generation: bool) -> Result<String> {
        self.template.render_values(messages, generation).map_err(|e| row_error(id, field, e.to_string()))
    }

    fn not_a_prefix(&self, id: &str, side: &str, prompt: &str, full: &str) -> Error {
        let same = prompt.bytes().zip(full.bytes()).take_while(|(a, b)| a == b).count();
        let at = (0..=same).rev().find(|i| prompt.is_char_boundary(*i) && full.is_char_boundary(*i)).unwrap_or(0);
        let show = |text: &str| text[at..].chars().take(SHOWN).collect::<String>();
        let what = format!(
            "the chat template `{}` renders the prompt differently alone and with its response: at byte {at} {:?} alone, {:?} with it",
            self.template.name(),
            show(prompt),
            show(full)
        );
        row_error(id, side, what).with_hint("choose another template: --template chatml")
    }

    fn straddle(&self, id: &str, side: &str, full: &str, boundary: usize) -> Error {
        let (before, after) = full.split_at(boundary);
        let what = format!(
            "a token reaches across the boundary of prompt and response: ...{:?} then {:?}...",
            tail(before),
            after.chars().take(SHOWN).collect::<String>()
        );
        row_error(id, side, what).with_hint("choose a template that ends its header with a special token or a newline")
    }
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skip).collect()
}

/// A fault of one row. The pipeline knows the file; here the row's id stands for it.
fn row_error(id: &str, field: &str, message: String) -> Error {
    Error::Data { path: format!("pair {id}").into(), line: None, field: Some(field.into()), message, hint: None }
}

#[cfg(test)]
mod tests;
