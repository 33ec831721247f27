//! One preference pair as token ids: where the response begins and ends, and what is cut.

use std::sync::atomic::Ordering;

use minijinja::Value;

use crate::error::{Error, Result};
use crate::message::Message;

use super::store::TokenRow;
use super::template::ChatTemplate;
use super::{Encoded, ModelTokenizer, PairText, TokenizeConfig};

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
    /// tokenized from the boundary on; see [`ModelTokenizer::forced_boundaries`].
    ///
    /// # Errors
    /// [`Error::Data`] naming the row where the template fails on it, does not begin the
    /// conversation with the prompt, or does not end the turn.
    pub fn encode_pair(&self, pair: &PairText, config: &TokenizeConfig) -> Result<Encoded> {
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
        let chosen = self.response(pair.id, "chosen", &head, prompt.clone(), pair.chosen)?;
        let rejected = self.response(pair.id, "rejected", &head, prompt, pair.rejected)?;
        for (side, ids) in [("chosen", &chosen), ("rejected", &rejected)] {
            if ids.len() <= 1 {
                return Ok(dropped("empty-response", format!("{side} has no tokens but the end of turn")));
            }
        }
        Ok(self.cut(pair, self.with_bos(head.ids), chosen, rejected, config))
    }

    /// Renders and tokenizes the prompt.
    fn head(&self, id: &str, prompt: Vec<Value>) -> Result<Head> {
        let text = self.render_row(id, "prompt", prompt, true)?;
        let (ids, spans) = self.pieces(&text)?;
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
    ) -> Result<Vec<u32>> {
        messages.extend(ChatTemplate::values(response));
        let full = self.render_row(id, side, messages, false)?;
        let Some(rest) = full.strip_prefix(head.text.as_str()) else {
            return Err(self.not_a_prefix(id, side, &head.text, &full));
        };
        let rest = rest.strip_suffix(self.turn.suffix.as_str()).unwrap_or(rest);
        // Between a cut token and the boundary lies only the turn's header, so little is done twice.
        let end = head.text.len() + rest.len();
        let (ids, spans) = self.pieces(&full[head.cut..end])?;
        let boundary = (head.text.len() - head.cut) as u32;
        let first = spans.iter().position(|(_, end)| *end > boundary).unwrap_or(ids.len());
        let straddles = spans.get(first).is_some_and(|(start, _)| *start < boundary);
        let mut ids = if straddles || ids[..first] != head.ids[head.kept..] {
            if self.cuts.is_empty() {
                return Err(self.straddle(id, side, &full, head.text.len()));
            }
            self.forced.fetch_add(1, Ordering::Relaxed);
            self.pieces(rest)?.0
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
    ) -> Encoded {
        let mut truncated = false;
        if prompt.len() > config.max_prompt_length {
            truncated = true;
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
        for response in [&mut chosen, &mut rejected] {
            if response.len() > room {
                truncated = true;
                response.truncate(room);
            }
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
            truncated,
            flipped: pair.flipped,
            source: pair.source.to_string(),
        })
    }

    /// Whether a BOS in front is the model's mark for the beginning, not just a token of the template.
    fn begins_with_bos(&self) -> bool {
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
        row_error(id, side, what).with_hint("choose another template: --set tokenize.template=chatml")
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
mod tests {
    use super::super::template::builtin;
    use super::super::tokenizer::tests::{says, tiny, with};
    use super::*;

    const CHATML_BOS: &str = "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn encode(
        tokenizer: &ModelTokenizer,
        prompt: &[(&str, &str)],
        sides: [&str; 2],
        config: &TokenizeConfig,
    ) -> Result<Encoded> {
        let prompt: Vec<Message> = prompt.iter().map(|(role, content)| says(role, content)).collect();
        let [chosen, rejected] = sides.map(|content| [says("assistant", content)]);
        let pair =
            PairText { id: "abc", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: true, source: "src" };
        tokenizer.encode_pair(&pair, config)
    }

    fn row(tokenizer: &ModelTokenizer, prompt: &str, sides: [&str; 2]) -> TokenRow {
        lengths(tokenizer, prompt, sides, 1024, 512).unwrap()
    }

    fn lengths(
        tokenizer: &ModelTokenizer,
        prompt: &str,
        sides: [&str; 2],
        max_length: usize,
        max_prompt_length: usize,
    ) -> Result<TokenRow, &'static str> {
        let config = TokenizeConfig { max_length, max_prompt_length, ..TokenizeConfig::default() };
        match encode(tokenizer, &[("user", prompt)], sides, &config).unwrap() {
            Encoded::Row(row) => Ok(row),
            Encoded::Dropped { reason, .. } => {
                assert!(super::super::DROP_REASONS.contains(&reason));
                Err(reason)
            }
        }
    }

    fn text(tokenizer: &ModelTokenizer, ids: &[u32]) -> String {
        tokenizer.decode(ids, false).unwrap()
    }

    #[test]
    fn the_response_is_all_that_follows_the_prompt_and_nothing_else() {
        let tokenizer = tiny();
        let answers = [
            "Good answers1",
            "Bad answers",
            " spaced ",
            "\n\n\nGood",
            "\u{1f600}\u{e9} ok",
            "<|im_end|> inside",
            "ends<|im_end|>",
            "\n",
            "user",
            "assistant\n",
        ];
        for (i, answer) in answers.iter().enumerate() {
            for other in &answers[i + 1..] {
                let row = row(&tokenizer, "Which answers?\n\n", [answer, other]);
                assert_eq!(
                    text(&tokenizer, &row.prompt_ids),
                    "<|im_start|>user\nWhich answers?\n\n<|im_end|>\n<|im_start|>assistant\n"
                );
                for (ids, said) in [(&row.chosen_ids, answer), (&row.rejected_ids, other)] {
                    let said = said.strip_suffix("<|im_end|>").unwrap_or(said);
                    assert_eq!(text(&tokenizer, ids), format!("{said}<|im_end|>"));
                    assert_eq!(ids.last(), Some(&tokenizer.eot_id()));
                    assert_ne!(ids.iter().rev().nth(1), Some(&tokenizer.eot_id()));
                }
                assert_eq!(row.prompt_ids, tokenizer.encode_prompt(&[says("user", "Which answers?\n\n")]).unwrap());
                assert_eq!(
                    (row.id.as_str(), row.source.as_str(), row.flipped, row.truncated),
                    ("abc", "src", true, false)
                );
            }
        }
    }

    #[test]
    fn a_token_across_the_boundary_is_split_there() {
        let tokenizer = tiny();
        let two = tokenizer.encode_text("\n\n").unwrap();
        assert_eq!(two.len(), 1, "the vocabulary has a token for it");
        // Header newline + two more: GPT-2's expression would take the first two together.
        let row = row(&tokenizer, "Q", ["\n\nGood", "Bad"]);
        assert_eq!(tokenizer.forced_boundaries(), 1);
        assert_eq!(row.prompt_ids, tokenizer.encode_prompt(&[says("user", "Q")]).unwrap());
        assert_eq!(text(&tokenizer, &row.chosen_ids), "\n\nGood<|im_end|>");
    }

    #[test]
    fn where_cutting_is_not_safe_it_is_an_error_with_the_example() {
        let mut tokenizer = tiny();
        tokenizer.cuts.clear();
        let whole = row(&tokenizer, "Q", ["Good", "Bad"]);
        assert_eq!(whole, row(&tiny(), "Q", ["Good", "Bad"]));
        let error = encode(&tokenizer, &[("user", "Q")], ["\n\nGood", "Bad"], &TokenizeConfig::default()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let shown = error.to_string();
        assert!(
            shown.contains("pair abc: chosen: a token reaches across")
                && shown.contains("assistant\\n\" then \"\\n\\nGood"),
            "{shown}"
        );
    }

    #[test]
    fn conversations_of_several_turns() {
        let tokenizer = tiny();
        let prompt = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")];
        let Encoded::Row(row) = encode(&tokenizer, &prompt, ["x", "y"], &TokenizeConfig::default()).unwrap() else {
            panic!()
        };
        assert_eq!(
            text(&tokenizer, &row.prompt_ids),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(text(&tokenizer, &row.chosen_ids), "x<|im_end|>");
    }

    #[test]
    fn one_bos_whoever_writes_it() {
        let chatml = builtin("chatml").unwrap();
        for (template, adds, expected) in
            [(CHATML_BOS, true, 1), (CHATML_BOS, false, 1), (chatml, true, 1), (chatml, false, 0)]
        {
            let tokenizer = with(template, adds);
            let row = row(&tokenizer, "Q", ["Good", "Bad"]);
            let bos = tokenizer.bos_id().unwrap();
            let all = [&row.prompt_ids[..], &row.chosen_ids, &row.rejected_ids].concat();
            assert_eq!(all.iter().filter(|id| **id == bos).count(), expected, "{adds} {template}");
            assert_eq!(row.prompt_ids[0] == bos, expected == 1);
        }
    }

    #[test]
    fn a_template_without_an_end_token_gets_the_end_of_sequence() {
        let plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
        let tokenizer = with(plain, false);
        assert_eq!(tokenizer.facts()["eot_by_template"], serde_json::json!(false));
        let row = row(&tokenizer, "Q", ["Good", "Bad\n"]);
        assert_eq!(text(&tokenizer, &row.prompt_ids), "user: Q\nassistant:");
        assert_eq!(text(&tokenizer, &row.chosen_ids), " Good<|im_end|>");
        assert_eq!(text(&tokenizer, &row.rejected_ids), " Bad\n<|im_end|>");
    }

    #[test]
    fn a_prompt_that_changes_with_its_response_is_refused() {
        let fickle = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'answer:' }}{% endif %}";
        let error =
            encode(&with(fickle, false), &[("user", "Q")], ["Good", "Bad"], &TokenizeConfig::default()).unwrap_err();
        let shown = error.to_string();
        assert!(
            shown.contains("pair abc: chosen: the chat template `own`")
                && shown.contains("\"answer:\" alone, \"Good<|im_end|>\" with it"),
            "{shown}"
        );
    }

    #[test]
    fn a_template_that_trims_is_no_trouble() {
        let trims = CHATML_BOS.replace("m.content", "m.content | trim");
        let tokenizer = with(&trims, false);
        let row = row(&tokenizer, " Q ", ["  Good\n\n", "Bad"]);
        assert_eq!(text(&tokenizer, &row.chosen_ids), "Good<|im_end|>");
        assert_eq!(lengths(&tokenizer, "Q", [" \n ", "Bad"], 99, 99), Err("empty-response"));
    }

    #[test]
    fn long_prompts_lose_their_beginning() {
        let tokenizer = with(CHATML_BOS, false);
        let whole = row(&tokenizer, "one two three", ["Good", "Bad"]);
        let cut = lengths(&tokenizer, "one two three", ["Good", "Bad"], 1024, 12).unwrap();
        assert!(cut.truncated && !whole.truncated && whole.prompt_ids.len() > 12);
        assert_eq!(cut.prompt_ids.len(), 12);
        assert_eq!(cut.prompt_ids[0], tokenizer.bos_id().unwrap(), "BOS stays");
        assert_eq!(cut.prompt_ids[1..], whole.prompt_ids[whole.prompt_ids.len() - 11..]);
        assert_eq!((&cut.chosen_ids, &cut.rejected_ids), (&whole.chosen_ids, &whole.rejected_ids));
        let without = with(builtin("chatml").unwrap(), false);
        let whole = row(&without, "one two three", ["Good", "Bad"]);
        let cut = lengths(&without, "one two three", ["Good", "Bad"], 1024, 12).unwrap();
        assert_eq!(cut.prompt_ids, whole.prompt_ids[whole.prompt_ids.len() - 12..]);
    }

    #[test]
    fn both_responses_are_cut_at_the_same_length() {
        let tokenizer = tiny();
        let (long, longer) = ("abcdefgh", "abcdefgxyz");
        let whole = row(&tokenizer, "Q", [long, longer]);
        let n = whole.prompt_ids.len();
        let end = tokenizer.eot_id();
        assert_eq!((whole.chosen_ids.len(), whole.rejected_ids.len()), (9, 11), "one token a letter");
        let exact = lengths(&tokenizer, "Q", [long, longer], n + 11, 512).unwrap();
        assert_eq!(exact, whole);
        let cut = lengths(&tokenizer, "Q", [long, longer], n + 10, 512).unwrap();
        assert_eq!((cut.chosen_ids.len(), cut.rejected_ids.len(), cut.truncated), (9, 10, true));
        assert_eq!((cut.chosen_ids.last(), cut.rejected_ids.contains(&end)), (Some(&end), false));
        let cut = lengths(&tokenizer, "Q", [long, longer], n + 8, 512).unwrap();
        assert_eq!((cut.chosen_ids.len(), cut.rejected_ids.len()), (8, 8));
        assert_eq!(lengths(&tokenizer, "Q", [long, longer], n + 7, 512), Err("identical-after-truncation"));
        assert_eq!(lengths(&tokenizer, "Q", [long, longer], n, 512), Err("prompt-too-long"));
        assert_eq!(lengths(&tokenizer, "Q", [long, longer], 1, 512), Err("prompt-too-long"));
        assert_eq!(lengths(&tokenizer, "Q", ["same", "same"], 512, 512), Err("identical-after-truncation"));
        assert_eq!(lengths(&tokenizer, "Q", ["", "same"], 512, 512), Err("empty-response"));
        assert_eq!(lengths(&tokenizer, "Q", [long, longer], 512, 0), Err("prompt-too-long"));
    }

    #[test]
    fn odd_shapes_are_dropped_with_a_reason() {
        let tokenizer = tiny();
        let reason = |prompt: &[Message], chosen: &[Message]| {
            let rejected = [says("assistant", "no")];
            let pair = PairText { id: "abc", prompt, chosen, rejected: &rejected, flipped: false, source: "" };
            match tokenizer.encode_pair(&pair, &TokenizeConfig::default()).unwrap() {
                Encoded::Dropped { reason, .. } => reason,
                Encoded::Row(_) => "kept",
            }
        };
        let (user, answer) = (says("user", "Q"), says("assistant", "A"));
        let prompt = [user.clone()];
        assert_eq!(reason(&prompt, std::slice::from_ref(&answer)), "kept");
        assert_eq!(reason(&[], std::slice::from_ref(&answer)), "empty-prompt");
        assert_eq!(reason(&prompt, &[]), "empty-response");
        assert_eq!(reason(&prompt, std::slice::from_ref(&user)), "response-not-one-turn");
        assert_eq!(reason(&prompt, &[answer.clone(), user, answer]), "response-not-one-turn");
    }
}
