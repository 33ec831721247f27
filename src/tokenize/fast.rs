//! Byte-level BPE for the pre-tokenizers of GPT-2, SmolLM, Llama 3 and Qwen 2: the same ids as `tokenizers` gives,
//! several times faster. Anything else is left to `tokenizers`.
//!
//! It is fast because hand-written scanners split texts instead of a backtracking regular expression, words are merged
//! on bytes, and each thread remembers the ids of words.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::added::{Added, Part};
use super::bpe::{Cache, Merges, Seeded, Table, both};
use super::parts::Pieces;
use super::words::{Split, words};

/// The byte that a character of the byte-level alphabet stands for.
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    match c as u32 {
        u @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(u as u8),
        // Bytes without a visible character of their own follow from U+0100 on, in order.
        u @ 0x100..=0x120 => Some((u - 0x100) as u8),
        u @ 0x121..=0x142 => Some((u - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

fn token_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(char_to_byte).collect()
}

/// The tables of one tokenizer.
pub(super) struct FastBpe {
    merges: Merges,
    added: Added,
    split: Split,
    /// Whether the tokenizer normalizes texts to Unicode's composed form (NFC).
    nfc: bool,
    /// Ids of single bytes; [`NO_TOKEN`] where the vocabulary lacks one.
    bytes: [u32; 256],
    lacks_bytes: bool,
    /// Whole words that are tokens, where merging is skipped for them.
    whole: Option<Table<Box<[u8]>, u32>>,
    /// Length in bytes by token id.
    lengths: Vec<u32>,
}

/// A byte without a token in the vocabulary (control characters mostly) gives no id, as in `tokenizers`.
const NO_TOKEN: u32 = u32::MAX;

impl FastBpe {
    /// Tables for a `tokenizer.json`; `None` where it needs anything that is not supported here.
    pub(super) fn new(shape: &Value, inner: &Tokenizer) -> Option<FastBpe> {
        let model = &shape["model"];
        let empty = |v: &Value| v.is_null() || v == &json!("") || v == &json!(0.0);
        let plain = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"];
        let nfc = shape["normalizer"]["type"] == json!("NFC");
        if !(shape["normalizer"].is_null() || nfc)
            || model["type"] != json!("BPE")
            || !plain.iter().all(|key| empty(&model[*key]))
            || model["byte_fallback"].as_bool().unwrap_or(false)
        {
            return None;
        }
        let split = Split::of(&shape["pre_tokenizer"])?;
        let vocab = model["vocab"].as_object()?;
        let id_of = |token: &str| vocab.get(token)?.as_u64().and_then(|id| u32::try_from(id).ok());
        let mut bytes = [NO_TOKEN; 256];
        let highest = inner.get_vocab(true).into_values().max()?;
        let mut lengths = vec![0; highest as usize + 1];
        let mut whole: Table<Box<[u8]>, u32> = HashMap::with_hasher(Seeded::new());
        for token in vocab.keys() {
            let id = id_of(token)?;
            let Some(raw) = token_bytes(token) else { continue };
            *lengths.get_mut(id as usize)? = raw.len() as u32;
            if let [byte] = raw.as_slice() {
                bytes[usize::from(*byte)] = id;
            }
            whole.insert(raw.into(), id);
        }
        let merge = |merge: &Value| {
            let (left, right) = both(merge)?;
            Some((id_of(left)?, id_of(right)?, id_of(&format!("{left}{right}"))?))
        };
        let merges: Vec<_> = model["merges"].as_array()?.iter().map(merge).collect::<Option<_>>()?;
        let fast = FastBpe {
            merges: Merges::new(merges.into_iter()),
            added: Added::new(inner)?,
            split,
            nfc,
            bytes,
            lacks_bytes: bytes.contains(&NO_TOKEN),
            whole: model["ignore_merges"].as_bool().unwrap_or(false).then_some(whole),
            lengths,
        };
        fast.agrees_with(inner).then_some(fast)
    }

    /// A check before it is used: `tokenizers` gives the same ids for a text with characters of every kind.
    fn agrees_with(&self, inner: &Tokenizer) -> bool {
        let text =
            "Hello  world's 12345 \u{e9}t\u{e9}\u{1f600}!?\n\n  \tIT'S x=1;   \r\n\u{4f60}\u{597d} don't\u{a0}... ";
        inner.encode_fast(text, false).is_ok_and(|slow| slow.get_ids() == self.pieces(text).0)
    }

    /// Whether a text can be encoded here: with NFC, only a text that normalization does not change.
    pub(super) fn takes(&self, text: &str) -> bool {
        // In these ranges every character is its own composed form and none combines with another.
        let composed = |c: char| matches!(c, '\0'..='\u{2ff}' | '\u{2010}'..='\u{205e}' | '\u{4e00}'..='\u{9fff}' | '\u{1f300}'..='\u{1faff}');
        !self.nfc || text.is_ascii() || text.chars().all(composed)
    }

    /// Ids and byte ranges of a text.
    pub(super) fn pieces(&self, text: &str) -> Pieces {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let mut spans = Vec::with_capacity(text.len() / 3 + 8);
        self.merges.with_cache(|cache| {
            self.added.split(text, |part| match part {
                Part::Text(range) => self.segment(text, range, cache, &mut ids, &mut spans),
                Part::Token(id, range) => {
                    ids.push(id);
                    spans.push((range.start as u32, range.end as u32));
                }
            });
        });
        (ids, spans)
    }

    /// Encodes a text without added tokens.
    fn segment(
        &self,
        text: &str,
        range: Range<usize>,
        cache: &mut Cache,
        ids: &mut Vec<u32>,
        spans: &mut Vec<(u32, u32)>,
    ) {
        let stretch = &text[range.clone()];
        let offset = range.start;
        words(self.split, stretch, &mut |word: Range<usize>| {
            let first = ids.len();
            self.word(&stretch.as_bytes()[word.clone()], cache, ids);
            let mut end = (offset + word.start) as u32;
            for id in &ids[first..] {
                let start = end;
                end += self.lengths[*id as usize];
                while self.lacks_bytes
                    && end < (offset + word.end) as u32
                    && self.shown(text, start, end) < self.lengths[*id as usize]
                {
                    end += 1;
                }
                spans.push((start, end));
            }
        });
    }

    /// Number of the bytes of a range that have a token.
    fn shown(&self, text: &str, start: u32, end: u32) -> u32 {
        let range = &text.as_bytes()[start as usize..end as usize];
        range.iter().filter(|b| self.bytes[usize::from(**b)] != NO_TOKEN).count() as u32
    }

    fn word(&self, word: &[u8], cache: &mut Cache, out: &mut Vec<u32>) {
        if let [byte] = word {
            out.extend(Some(self.bytes[usize::from(*byte)]).filter(|id| *id != NO_TOKEN));
            return;
        }
        cache.word(word, out, |out| match self.whole.as_ref().and_then(|whole| whole.get(word)) {
            Some(id) => out.push(*id),
            None => {
                let first = out.len();
                out.extend(word.iter().map(|b| self.bytes[usize::from(*b)]).filter(|id| *id != NO_TOKEN));
                self.merges.merge(out, first);
            }
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::gguf::Pre;
    use super::super::tokenizer::tests::tiny;
    use super::*;

    /// The tiny vocabulary with each of the pre-tokenizers.
    fn tokenizers() -> Vec<(FastBpe, Tokenizer)> {
        let shape: Value = serde_json::from_slice(&tiny().json).unwrap();
        let all =
            [(Pre::Gpt2, false), (Pre::Digits, false), (Pre::Llama3, false), (Pre::Qwen2, false), (Pre::Qwen2, true)];
        let mut made = Vec::new();
        for (pre, nfc) in all {
            for ignore_merges in [false, true] {
                let mut shape = shape.clone();
                if ignore_merges {
                    // As in real vocabularies, some bytes have no token: here VT, `@` and half of 4e00.
                    let vocab = shape["model"]["vocab"].as_object_mut().unwrap();
                    for byte in ["\u{10b}", "@", "\u{b8}"] {
                        vocab.shift_remove(byte).unwrap();
                    }
                }
                shape["pre_tokenizer"] = pre.json();
                shape["normalizer"] = if nfc { json!({"type": "NFC"}) } else { Value::Null };
                shape["model"]["ignore_merges"] = json!(ignore_merges);
                let mut slow = Tokenizer::from_bytes(serde_json::to_vec(&shape).unwrap()).unwrap();
                slow.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
                made.push((FastBpe::new(&shape, &slow).expect("supported"), slow));
            }
        }
        made
    }

    /// Spans widened to whole characters.
    pub(crate) fn whole_characters(text: &str, spans: &[(u32, u32)]) -> Vec<(usize, usize)> {
        let whole = |(start, end): &(u32, u32)| {
            let start = (0..=*start as usize).rev().find(|i| text.is_char_boundary(*i)).unwrap();
            let end = (*end as usize..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap();
            (start, end)
        };
        spans.iter().map(whole).collect()
    }

    fn compare(both: &[(FastBpe, Tokenizer)], text: &str) {
        for (fast, slow) in both.iter().filter(|(fast, _)| fast.takes(text)) {
            let expected = slow.encode(text, false).unwrap();
            let (ids, spans) = fast.pieces(text);
            assert_eq!(ids, expected.get_ids(), "{:?} {text:?}", fast.split);
            // For a part of a character `tokenizers` gives the span of the whole character, we that of the bytes.
            let whole = whole_characters(text, &spans);
            // `tokenizers` gives wrong spans behind a byte without a token.
            if fast.shown(text, 0, text.len() as u32) as usize == text.len() {
                assert_eq!(whole, expected.get_offsets(), "{:?} {text:?}", fast.split);
            }
        }
    }

    #[test]
    fn bytes_without_a_token_leave_the_rest_in_place() {
        let both = tokenizers();
        let (fast, _) = &both[5];
        let (ids, spans) = fast.pieces("a@\u{b}Good@ x");
        let text = |(start, end): &(u32, u32)| &"a@\u{b}Good@ x"[*start as usize..*end as usize];
        assert_eq!(ids.len(), spans.len());
        assert_eq!(spans.iter().map(text).collect::<Vec<_>>(), ["a", "\u{b}Good", " ", "x"]);
    }

    #[test]
    fn the_byte_alphabet_is_complete() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.iter().map(|c| char_to_byte(*c).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            (char_to_byte('\u{120}'), char_to_byte('\u{10a}'), char_to_byte(' ')),
            (Some(b' '), Some(b'\n'), None)
        );
    }

    #[test]
    fn the_same_ids_as_the_library_on_awkward_texts() {
        let both = tokenizers();
        for text in [
            "",
            " ",
            "  ",
            "\n",
            "\n\n\n",
            " \n \n x",
            "a  b   c    ",
            "it's IT'S we'Re 'll 'L 'l' 've'd''",
            "\u{17f}'\u{17f} '\u{17f}",
            "1 12 123 1234 12345 \u{b2}\u{bd}\u{2167} \u{661}\u{662}\u{663}\u{664}",
            "\u{a0}\u{a0}x \u{2003}\u{3000} y\u{200b}z",
            "!!!\r\n\r\n??? \r x",
            "<|im_end|><|im_end|>a<|im_start|> b <|im_star <|endoftext|>\n",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} e\u{301} \u{5d0}\u{5b0} \u{e01}\u{e33} \u{4f60}\u{597d}",
            " !x #tag @me (par)\t\ttabs \t x\u{85}y\u{b}\u{c}",
            "\u{0}\u{1}\u{7f}",
        ] {
            compare(&both, text);
        }
        compare(&both, &"Good answers\n\n".repeat(50).replace(' ', ""));
        compare(&both, &"-".repeat(3000));
        compare(&both, &" ".repeat(500));
        compare(&both, &format!("{}!", "ansGoodwersof".repeat(30)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_same_ids_as_the_library_on_any_text(text in r"([ \n\r\t'sStTrReEvVmMlLdD0-9a-zA-Z.!?<|>\u{a0}\u{e9}\u{17f}\u{301}\u{4e00}\u{1f600}]|Good|answers|<\|im_end\|>|\PC|.){0,60}") {
            thread_local!(static BOTH: Vec<(FastBpe, Tokenizer)> = tokenizers());
            BOTH.with(|both| compare(both, &text));
        }
    }
}
