//! Texts as words, for comparing texts that are spelled a little differently.

use std::ops::Range;

/// One word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Where it is in the text, in bytes.
    pub range: Range<usize>,
    /// Hash of its lower-case form.
    pub hash: u64,
}

/// The words of a text: runs of letters and digits, single characters in scripts without spaces, and single
/// symbols. Case and the usual punctuation make no difference, but operators do: `3 + 4` is not `3 - 4`.
pub fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::with_capacity(text.len() / 6);
    let mut run: Option<Range<usize>> = None;
    let mut before = '\n';
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let alone = stands_alone(c);
        if c.is_alphanumeric() && !alone {
            match &mut run {
                Some(run) => run.end = end,
                None => run = Some(at..end),
            }
        } else {
            if let Some(range) = run.take() {
                words.push(word(text, range));
            }
            let after = chars.peek().map_or(' ', |(_, c)| *c);
            if alone || is_symbol(c, before, after) {
                words.push(word(text, at..end));
            }
        }
        before = c;
    }
    if let Some(range) = run {
        words.push(word(text, range));
    }
    words
}

/// Letters of scripts that are written without spaces between words.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' // Thai, Lao, Burmese, Khmer
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' // kana, Han
        | '\u{20000}'..='\u{3ffff}')
}

/// Whether a character that is no letter and no digit carries meaning.
fn is_symbol(c: char, before: char, after: char) -> bool {
    match c {
        // A minus has white space around it or a digit behind it; a hyphen joins words or begins a list item.
        '-' => (matches!(before, ' ' | '\t') && after.is_whitespace()) || after.is_ascii_digit(),
        '.' | ',' | ';' | ':' | '!' | '?' | '\'' | '"' | '`' | '(' | ')' | '[' | ']' | '{' | '}' | '_' => false,
        '\u{a1}' | '\u{ab}' | '\u{b7}' | '\u{bb}' | '\u{bf}' | '\u{ad}' | '\u{fe0f}' | '\u{feff}' => false,
        // Dashes, quotes, dots, zero-width marks; East Asian punctuation in both widths.
        '\u{200b}'..='\u{206f}' | '\u{3000}'..='\u{303f}' => false,
        '\u{ff01}' | '\u{ff08}' | '\u{ff09}' | '\u{ff0c}' | '\u{ff0e}' | '\u{ff1a}' | '\u{ff1b}' | '\u{ff1f}' => false,
        c => !c.is_whitespace() && !c.is_control(),
    }
}

fn word(text: &str, range: Range<usize>) -> Word {
    // FNV-1a with a finalizer: it is fast on short words, and the same on every platform and in every version.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut byte = |b: u8| hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    let part = &text[range.clone()];
    if part.is_ascii() {
        part.bytes().for_each(|b| byte(b.to_ascii_lowercase()));
    } else {
        let mut buffer = [0u8; 4];
        for c in part.chars().flat_map(char::to_lowercase) {
            c.encode_utf8(&mut buffer).bytes().for_each(&mut byte);
        }
    }
    Word { range, hash: mix(hash) }
}

/// A bijection of 64 bits in which every bit of the input moves every bit of the output: the finalizer
/// of SplitMix64 (Steele, Lea, Flood 2014).
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a sequence of words that is one word longer; the empty one has the hash 0.
pub const fn chain(sequence: u64, word: u64) -> u64 {
    mix(sequence.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        words(text).into_iter().map(|w| &text[w.range]).collect()
    }

    #[test]
    fn words_have_no_punctuation() {
        assert_eq!(
            split("Why's  it \u{201c}bad\u{201d}, a well-known idea?!"),
            ["Why", "s", "it", "bad", "a", "well", "known", "idea"]
        );
        assert_eq!(split("3 + 4 - 5=-2, x*y"), ["3", "+", "4", "-", "5", "=", "-", "2", "x", "*", "y"]);
        assert_eq!(split("- one\n- two"), ["one", "two"]);
        assert_eq!(split("\u{6570}\u{5b66}\u{3002}ok"), ["\u{6570}", "\u{5b66}", "ok"]);
        assert_eq!(split("hm \u{1f600}?"), ["hm", "\u{1f600}"]);
        assert!(split(" ?! \u{200b}").is_empty());
    }

    #[test]
    fn case_makes_no_difference_and_order_does() {
        let hashes = |text: &str| words(text).into_iter().map(|w| w.hash).collect::<Vec<_>>();
        assert_eq!(hashes("\u{c9}t\u{e9} AND so"), hashes("\u{e9}t\u{c9}, and SO."));
        let [a, b] = hashes("a b")[..] else { panic!() };
        assert_ne!(chain(chain(0, a), b), chain(chain(0, b), a));
        assert_ne!(chain(0, a), a);
    }
}
