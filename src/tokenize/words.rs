//! Splits a text into the words within which BPE merges, as the regular expressions of GPT-2, SmolLM, Llama 3 and
//! Qwen 2 do, by scanners written by hand.

use std::ops::Range;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokenizers::utils::SysRegex;

/// Llama 3's expression: contractions in any case, words with one leading mark, numbers by threes.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's expression: as Llama 3, numbers digit by digit.
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Gpt2,
    /// Numeric characters one by one, GPT-2 between them.
    DigitsGpt2,
    /// Llama 3 and Qwen 2: they differ in how many digits make a word.
    Mixed {
        digits: usize,
    },
}

impl Split {
    /// The split that a `pre_tokenizer` of tokenizer.json asks for, where it is one of these.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Split> {
        let byte_level = |v: &Value, regex: bool| {
            v["type"] == json!("ByteLevel")
                && v["add_prefix_space"] == json!(false)
                && v["use_regex"].as_bool().unwrap_or(true) == regex
        };
        if byte_level(pre_tokenizer, true) {
            return Some(Split::Gpt2);
        }
        let [first, second] = pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
        if first["type"] == json!("Digits") && first["individual_digits"] == json!(true) && byte_level(second, true) {
            return Some(Split::DigitsGpt2);
        }
        if first["type"] == json!("Split")
            && first["behavior"] == json!("Isolated")
            && first["invert"] == json!(false)
            && byte_level(second, false)
        {
            return match first["pattern"]["Regex"].as_str()? {
                LLAMA3 => Some(Split::Mixed { digits: 3 }),
                QWEN2 => Some(Split::Mixed { digits: 1 }),
                _ => None,
            };
        }
        None
    }
}

/// The classes of characters that the expressions tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            '\t'..='\r' | ' ' => Class::Space,
            _ => Class::Other,
        };
    }
    static CLASSES: OnceLock<Vec<u8>> = OnceLock::new();
    match CLASSES.get_or_init(all_classes)[c as usize] {
        1 => Class::Letter,
        2 => Class::Number,
        3 => Class::Space,
        _ => Class::Other,
    }
}

/// The classes of all characters by the regular-expression engine of `tokenizers`, so that both use the same version of
/// Unicode.
fn all_classes() -> Vec<u8> {
    let mut classes = vec![0; 0x11_0000];
    let all: String = ('\u{80}'..=char::MAX).collect();
    for (mark, expression) in [(1, r"\p{L}+"), (2, r"\p{N}+"), (3, r"\s+")] {
        // These three expressions are always valid.
        let Ok(regex) = SysRegex::new(expression) else { continue };
        for (start, end) in regex.find_iter(&all) {
            all[start..end].chars().for_each(|c| classes[c as usize] = mark);
        }
    }
    classes
}

/// Scans the characters of a text.
struct Scanner<'a> {
    text: &'a str,
}

impl Scanner<'_> {
    fn at(&self, at: usize) -> Option<(char, Class, usize)> {
        let bytes = self.text.as_bytes();
        let byte = *bytes.get(at)?;
        if byte.is_ascii() {
            let c = char::from(byte);
            return Some((c, class(c), at + 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((c, class(c), at + c.len_utf8()))
    }

    /// End of the run of one class that begins here, of at most `most` characters.
    fn run(&self, mut at: usize, wanted: Class, most: usize) -> usize {
        for _ in 0..most {
            match self.at(at) {
                Some((_, found, next)) if found == wanted => at = next,
                _ => break,
            }
        }
        at
    }

    /// End of a whitespace run as `\s+(?!\S)|\s+` takes it: all but the last character where text follows.
    fn spaces(&self, start: usize) -> usize {
        let end = self.run(start, Class::Space, usize::MAX);
        if end == self.text.len() {
            return end;
        }
        let last = self.text[start..end].chars().next_back().map_or(0, char::len_utf8);
        if end - last > start { end - last } else { end }
    }

    /// End of a contraction (`'s 't 're 've 'm 'll 'd`) that begins with the apostrophe here.
    fn contraction(&self, apostrophe: usize, any_case: bool) -> Option<usize> {
        let letter = |at: usize| {
            let (c, _, next) = self.at(at)?;
            // The long s folds to s.
            let folded = if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() };
            Some((if any_case { folded } else { c }, next))
        };
        let (first, next) = letter(apostrophe + 1)?;
        match first {
            's' | 't' | 'm' | 'd' => Some(next),
            'r' | 'v' => letter(next).filter(|(c, _)| *c == 'e').map(|(_, end)| end),
            'l' => letter(next).filter(|(c, _)| *c == 'l').map(|(_, end)| end),
            _ => None,
        }
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    fn gpt2(&self, start: usize) -> usize {
        let Some((c, first, next)) = self.at(start) else { return self.text.len() };
        if c == '\''
            && let Some(end) = self.contraction(start, false)
        {
            return end;
        }
        if first != Class::Space {
            return self.run(next, first, usize::MAX);
        }
        match self.at(next) {
            Some((_, second, after)) if c == ' ' && second != Class::Space => self.run(after, second, usize::MAX),
            _ => self.spaces(start),
        }
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    fn mixed(&self, start: usize, digits: usize) -> usize {
        let Some((c, first, next)) = self.at(start) else { return self.text.len() };
        if c == '\''
            && let Some(end) = self.contraction(start, true)
        {
            return end;
        }
        match first {
            Class::Letter => return self.run(next, Class::Letter, usize::MAX),
            Class::Number => return self.run(next, Class::Number, digits - 1),
            _ => {}
        }
        let second = self.at(next);
        if let Some((_, Class::Letter, after)) = second
            && c != '\r'
            && c != '\n'
        {
            return self.run(after, Class::Letter, usize::MAX);
        }
        let marks = match second {
            _ if first == Class::Other => Some(next),
            Some((_, Class::Other, after)) if c == ' ' => Some(after),
            _ => None,
        };
        if let Some(at) = marks {
            let end = self.run(at, Class::Other, usize::MAX);
            return end + self.text[end..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        }
        let end = self.run(next, Class::Space, usize::MAX);
        match self.text[start..end].rfind(['\r', '\n']) {
            Some(newline) => start + newline + 1,
            None => self.spaces(start),
        }
    }
}

/// Calls `each` with the byte range of every word of a text.
pub(super) fn words(split: Split, stretch: &str, each: &mut impl FnMut(Range<usize>)) {
    let mut scan = |offset: usize, text: &str, step: &dyn Fn(&Scanner, usize) -> usize| {
        let scanner = Scanner { text };
        let mut at = 0;
        while at < text.len() {
            let end = step(&scanner, at);
            each(offset + at..offset + end);
            at = end;
        }
    };
    match split {
        Split::Gpt2 => scan(0, stretch, &|s, at| s.gpt2(at)),
        Split::Mixed { digits } => scan(0, stretch, &|s, at| s.mixed(at, digits)),
        Split::DigitsGpt2 => {
            // Digits split the text before the expression does, so its look-ahead ends at a digit.
            let mut from = 0;
            for (at, digit) in stretch.match_indices(char::is_numeric) {
                scan(from, &stretch[from..at], &|s, at| s.gpt2(at));
                scan(at, digit, &|s, _| s.text.len());
                from = at + digit.len();
            }
            scan(from, &stretch[from..], &|s, at| s.gpt2(at));
        }
    }
}
