//! Byte-level BPE without the bookkeeping that general tokenizers need: the same ids as
//! `tokenizers` gives, several times faster, for the pre-tokenizers of GPT-2, SmolLM, Llama 3
//! and Qwen 2. Anything else falls back to `tokenizers`.
//!
//! What makes it fast: texts are split by hand-written scanners instead of a backtracking regular
//! expression, words are merged on bytes, and each thread remembers the words it has seen.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

use super::ModelTokenizer;
use super::words::{Split, words};

/// Token ids with the byte range of the text that each covers.
pub(super) type Pieces = (Vec<u32>, Vec<(u32, u32)>);

/// Words that a thread remembers, and how long they may be.
const CACHED_WORDS: usize = 1 << 16;
const CACHED_BYTES: usize = 48;

/// Up to this many symbols the lowest rank is searched by looking at all of them.
const SHORT_WORD: usize = 48;

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

/// A hasher for short words, seeded per process.
#[derive(Debug, Clone)]
struct Seeded(u64);

impl Seeded {
    fn new() -> Seeded {
        static SEED: OnceLock<u64> = OnceLock::new();
        Seeded(*SEED.get_or_init(|| std::hash::RandomState::new().hash_one(0u8)))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Mixer;
    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        // The upper half of the product depends on all lower bits, so it is folded back.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.mix(u64::from_le_bytes(*chunk));
        }
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }
    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
    fn write_usize(&mut self, _: usize) {
        // A slice's length prefix: `write` mixes the length in already.
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Words that this thread has merged before, for the tokenizer used last.
struct Cache {
    owner: u64,
    words: HashMap<Box<[u8]>, Range<u32>, Seeded>,
    ids: Vec<u32>,
}

thread_local! {
    static CACHE: RefCell<Cache> =
        RefCell::new(Cache { owner: 0, words: HashMap::with_hasher(Seeded::new()), ids: Vec::new() });
}

/// The tables of one tokenizer.
pub(super) struct FastBpe {
    owner: u64,
    split: Split,
    /// Texts are brought into Unicode's composed form first.
    nfc: bool,
    /// Ids of single bytes; [`NO_TOKEN`] where the vocabulary lacks one.
    bytes: [u32; 256],
    lacks_bytes: bool,
    /// Pair of ids -> (rank, merged id).
    merges: HashMap<u64, (u32, u32), Seeded>,
    /// Whole words that are tokens, where merging is skipped for them.
    whole: Option<HashMap<Box<[u8]>, u32, Seeded>>,
    /// Length in bytes by token id.
    lengths: Vec<u32>,
    /// Added tokens by first byte, longest first.
    added: Vec<Vec<(Box<[u8]>, u32)>>,
}

/// A byte that the vocabulary cannot express (control characters mostly) leaves no token, as in `tokenizers`.
const NO_TOKEN: u32 = u32::MAX;

fn pair(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

impl FastBpe {
    /// Tables for a `tokenizer.json`, or none where it asks for anything not done here.
    pub(super) fn new(shape: &Value, inner: &Tokenizer) -> Option<FastBpe> {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
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
        let mut whole: HashMap<Box<[u8]>, u32, Seeded> = HashMap::with_hasher(Seeded::new());
        for token in vocab.keys() {
            let id = id_of(token)?;
            let Some(raw) = token_bytes(token) else { continue };
            *lengths.get_mut(id as usize)? = raw.len() as u32;
            if let [byte] = raw.as_slice() {
                bytes[usize::from(*byte)] = id;
            }
            whole.insert(raw.into(), id);
        }
        let mut merges = HashMap::with_hasher(Seeded::new());
        for (rank, merge) in model["merges"].as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(both) => both.split_once(' ')?,
                both => (both[0].as_str()?, both[1].as_str()?),
            };
            let merged = id_of(&format!("{left}{right}"))?;
            merges.insert(pair(id_of(left)?, id_of(right)?), (u32::try_from(rank).ok()?, merged));
        }
        let mut added: Vec<Vec<(Box<[u8]>, u32)>> = vec![Vec::new(); 256];
        for (id, token) in inner.get_added_vocabulary().get_added_tokens_decoder() {
            if token.normalized || token.lstrip || token.rstrip || token.single_word {
                return None;
            }
            let content = token.content.as_bytes();
            added[usize::from(*content.first()?)].push((content.into(), *id));
        }
        added.iter_mut().for_each(|same| same.sort_by_key(|(content, _)| Reverse(content.len())));
        let whole = model["ignore_merges"].as_bool().unwrap_or(false).then_some(whole);
        let owner = OWNERS.fetch_add(1, Ordering::Relaxed);
        let fast =
            FastBpe { owner, split, nfc, bytes, lacks_bytes: bytes.contains(&NO_TOKEN), merges, whole, lengths, added };
        fast.agrees_with(inner).then_some(fast)
    }

    /// A last look before it is trusted: both give the same ids for a text with a bit of everything.
    fn agrees_with(&self, inner: &Tokenizer) -> bool {
        let text =
            "Hello  world's 12345 \u{e9}t\u{e9}\u{1f600}!?\n\n  \tIT'S x=1;   \r\n\u{4f60}\u{597d} don't\u{a0}... ";
        inner.encode_fast(text, false).is_ok_and(|slow| slow.get_ids() == self.pieces(text).0)
    }

    /// Whether a text can be taken as it is: with NFC, where that is sure to change nothing.
    pub(super) fn takes(&self, text: &str) -> bool {
        // In these ranges every character is its own composed form and none combines with another.
        let composed = |c: char| matches!(c, '\0'..='\u{2ff}' | '\u{2010}'..='\u{205e}' | '\u{4e00}'..='\u{9fff}' | '\u{1f300}'..='\u{1faff}');
        !self.nfc || text.is_ascii() || text.chars().all(composed)
    }

    /// Ids and byte ranges of a text.
    pub(super) fn pieces(&self, text: &str) -> Pieces {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let mut spans = Vec::with_capacity(text.len() / 3 + 8);
        CACHE.with(|cell| {
            let mut cache = cell.borrow_mut();
            if cache.owner != self.owner {
                cache.owner = self.owner;
                cache.words.clear();
                cache.ids.clear();
            }
            let raw = text.as_bytes();
            let (mut from, mut at) = (0, 0);
            while at < raw.len() {
                let found = self.added[usize::from(raw[at])].iter().find(|(content, _)| raw[at..].starts_with(content));
                let Some((content, id)) = found else {
                    at += 1;
                    continue;
                };
                self.segment(text, from..at, &mut cache, &mut ids, &mut spans);
                ids.push(*id);
                spans.push((at as u32, (at + content.len()) as u32));
                at += content.len();
                from = at;
            }
            self.segment(text, from..raw.len(), &mut cache, &mut ids, &mut spans);
        });
        (ids, spans)
    }

    /// A stretch without added tokens.
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

    /// Bytes of a range that have a token.
    fn shown(&self, text: &str, start: u32, end: u32) -> u32 {
        let range = &text.as_bytes()[start as usize..end as usize];
        range.iter().filter(|b| self.bytes[usize::from(**b)] != NO_TOKEN).count() as u32
    }

    fn word(&self, word: &[u8], cache: &mut Cache, out: &mut Vec<u32>) {
        if let [byte] = word {
            out.extend(Some(self.bytes[usize::from(*byte)]).filter(|id| *id != NO_TOKEN));
            return;
        }
        if let Some(known) = cache.words.get(word) {
            out.extend_from_slice(&cache.ids[known.start as usize..known.end as usize]);
            return;
        }
        let first = out.len();
        match self.whole.as_ref().and_then(|whole| whole.get(word)) {
            Some(id) => out.push(*id),
            None if word.len() <= SHORT_WORD => self.merge_short(word, out),
            None => self.merge_long(word, out),
        }
        if word.len() <= CACHED_BYTES {
            if cache.words.len() >= CACHED_WORDS {
                cache.words.clear();
                cache.ids.clear();
            }
            let start = cache.ids.len() as u32;
            cache.ids.extend_from_slice(&out[first..]);
            cache.words.insert(word.into(), start..cache.ids.len() as u32);
        }
    }

    /// The ids that merging begins with.
    fn symbols<'a>(&'a self, word: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        word.iter().map(|b| self.bytes[usize::from(*b)]).filter(|id| *id != NO_TOKEN)
    }

    fn merged(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.merges.get(&pair(left, right)).copied()
    }

    /// Merges the pair of lowest rank, leftmost first, until there is none.
    fn merge_short(&self, word: &[u8], out: &mut Vec<u32>) {
        let first = out.len();
        out.extend(self.symbols(word));
        let symbols = &mut out[first..];
        let mut n = symbols.len();
        let mut ranks = [(u32::MAX, 0); SHORT_WORD];
        let rank = |left, right| self.merged(left, right).unwrap_or((u32::MAX, 0));
        for (slot, two) in ranks.iter_mut().zip(symbols.windows(2)) {
            *slot = rank(two[0], two[1]);
        }
        while n > 1 {
            let mut best = 0;
            for i in 1..n - 1 {
                if ranks[i].0 < ranks[best].0 {
                    best = i;
                }
            }
            if ranks[best].0 == u32::MAX {
                break;
            }
            symbols[best] = ranks[best].1;
            symbols.copy_within(best + 2..n, best + 1);
            // ranks[i] belongs to the pair (i, i + 1); the last symbol has none.
            ranks.copy_within(best + 1..n - 1, best);
            n -= 1;
            if best + 1 < n {
                ranks[best] = rank(symbols[best], symbols[best + 1]);
            }
            if best > 0 {
                ranks[best - 1] = rank(symbols[best - 1], symbols[best]);
            }
        }
        out.truncate(first + n);
    }

    /// The same with a heap, so that a long word (a line of dashes, a page of base64) costs n log n.
    fn merge_long(&self, word: &[u8], out: &mut Vec<u32>) {
        const GONE: usize = usize::MAX;
        let mut symbols: Vec<u32> = self.symbols(word).collect();
        let n = symbols.len();
        // Neighbours of a living symbol; `n` and GONE mark the ends.
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.checked_sub(1).unwrap_or(GONE)).collect();
        let mut alive = vec![true; n];
        let mut heap = BinaryHeap::new();
        for (i, two) in symbols.windows(2).enumerate() {
            if let Some((rank, id)) = self.merged(two[0], two[1]) {
                heap.push(Reverse((rank, i, id)));
            }
        }
        while let Some(Reverse((_, at, id))) = heap.pop() {
            if !alive[at] || next[at] >= n {
                continue;
            }
            let right = next[at];
            // The pair may have changed since it was pushed.
            if self.merged(symbols[at], symbols[right]).is_none_or(|(_, now)| now != id) {
                continue;
            }
            symbols[at] = id;
            alive[right] = false;
            next[at] = next[right];
            if next[at] < n {
                previous[next[at]] = at;
                if let Some((rank, id)) = self.merged(id, symbols[next[at]]) {
                    heap.push(Reverse((rank, at, id)));
                }
            }
            let before = previous[at];
            if before != GONE
                && let Some((rank, id)) = self.merged(symbols[before], id)
            {
                heap.push(Reverse((rank, before, id)));
            }
        }
        out.extend((0..n).filter(|i| alive[*i]).map(|i| symbols[i]));
    }
}

impl ModelTokenizer {
    /// Ids of a text with the bytes that each covers.
    pub(super) fn pieces(&self, text: &str) -> Result<Pieces> {
        if let Some(fast) = self.fast.as_ref().filter(|fast| fast.takes(text)) {
            return Ok(fast.pieces(text));
        }
        let encoded = self.inner.encode(text, false).map_err(|e| Error::run(format!("tokenizing: {e}")))?;
        let spans = encoded.get_offsets().iter().map(|(start, end)| (*start as u32, *end as u32)).collect();
        Ok((encoded.get_ids().to_vec(), spans))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tokenizer::tests::tiny;
    use super::super::words::{LLAMA3, QWEN2};
    use super::*;

    /// The tiny vocabulary behind each of the pre-tokenizers.
    fn tokenizers() -> Vec<(FastBpe, Tokenizer)> {
        let shape: Value = serde_json::from_slice(&tiny().json).unwrap();
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let sequence =
            |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let all = [
            byte_level(true),
            sequence(json!({"type": "Digits", "individual_digits": true}), true),
            sequence(split(LLAMA3), false),
            sequence(split(QWEN2), false),
            json!({"nfc": sequence(split(QWEN2), false)}),
        ];
        let mut made = Vec::new();
        for pre in all {
            for ignore_merges in [false, true] {
                let mut shape = shape.clone();
                if ignore_merges {
                    // As in real vocabularies, some bytes have no token: here VT, `@` and half of 4e00.
                    let vocab = shape["model"]["vocab"].as_object_mut().unwrap();
                    for byte in ["\u{10b}", "@", "\u{b8}"] {
                        vocab.shift_remove(byte).unwrap();
                    }
                }
                shape["pre_tokenizer"] = pre.get("nfc").unwrap_or(&pre).clone();
                shape["normalizer"] = if pre.get("nfc").is_some() { json!({"type": "NFC"}) } else { Value::Null };
                shape["model"]["ignore_merges"] = json!(ignore_merges);
                let mut slow = Tokenizer::from_bytes(serde_json::to_vec(&shape).unwrap()).unwrap();
                slow.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
                made.push((FastBpe::new(&shape, &slow).expect("supported"), slow));
            }
        }
        made
    }

    fn compare(both: &[(FastBpe, Tokenizer)], text: &str) {
        for (fast, slow) in both.iter().filter(|(fast, _)| fast.takes(text)) {
            let expected = slow.encode(text, false).unwrap();
            let (ids, spans) = fast.pieces(text);
            assert_eq!(ids, expected.get_ids(), "{:?} {text:?}", fast.split);
            // Inside a character `tokenizers` gives the whole character; we give the bytes.
            let whole: Vec<(usize, usize)> = spans
                .iter()
                .map(|(start, end)| {
                    let start = (0..=*start as usize).rev().find(|i| text.is_char_boundary(*i)).unwrap();
                    let end = (*end as usize..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap();
                    (start, end)
                })
                .collect();
            // Of a byte without a token `tokenizers` loses count.
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
