//! Python's methods of texts, lists and mappings, where those of `minijinja-contrib` do something
//! else or are missing.
//!
//! # Source
//! The Python library reference; `tests/fixtures/tokenize/constructs.json` holds what they do.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Longest text that a method may make of a short one.
const WIDEST: usize = 1 << 16;

pub(super) fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// White space as Python's `str` sees it: Unicode's, and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Methods that values of Python have.
pub(super) fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => text_method(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Seq => list_method(value, name, args)?,
        ValueKind::Map => map_method(value, name, args)?,
        _ => None,
    };
    match found {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// What would change a list or mapping is refused, as by the sandbox of `transformers`.
fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            return Err(refuse(format!("a chat template may not change a list: .{name}()")));
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|item| item == *wanted);
            Value::from(at.ok_or_else(|| refuse(format!("{wanted} is not in the list")))?)
        }
        "copy" => list.clone(),
        _ => return Ok(None),
    }))
}

fn map_method(map: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "update" | "pop" | "popitem" | "clear" | "setdefault" => {
            return Err(refuse(format!("a chat template may not change a mapping: .{name}()")));
        }
        "copy" => {
            let () = from_args(args)?;
            map.clone()
        }
        _ => return Ok(None),
    }))
}

fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if let Some(answer) = asked(text, name) {
        let () = from_args(args)?;
        return Ok(Some(Value::from(answer)));
    }
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => {
            let (given, named): (&[Value], Kwargs) = from_args(args)?;
            let (mut separator, mut most): (Option<&str>, Option<i64>) = from_args(given)?;
            separator = separator.or(named.get::<Option<&str>>("sep")?);
            most = most.or(named.get("maxsplit")?);
            named.assert_all_used()?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            list(split(text, separator, most, name == "rsplit")?)
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            list(lines(text, keep.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(refuse("empty separator"));
            }
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            list(match (found, name) {
                (Some((before, after)), _) => vec![before, separator, after],
                (None, "partition") => vec![text, "", ""],
                (None, _) => vec!["", "", text],
            })
        }
        "startswith" | "endswith" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = window(text, start, end);
            let fits = |wanted: &Value| match (wanted.as_str(), name) {
                (Some(wanted), "startswith") => Ok(part.starts_with(wanted)),
                (Some(wanted), _) => Ok(part.ends_with(wanted)),
                (None, _) => Err(refuse(format!("{name} asks for texts, not for a value of kind {}", wanted.kind()))),
            };
            match wanted.kind() {
                ValueKind::Seq => {
                    let mut any = false;
                    for one in wanted.try_iter()? {
                        any |= fits(&one)?;
                    }
                    Value::from(any)
                }
                _ => Value::from(fits(wanted)?),
            }
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let part = window(text, start, end);
            let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
            // Python counts characters, from the beginning of the whole text.
            let skipped = start.map_or(0, |start| place(text, start));
            match at {
                Some(at) => Value::from(skipped + part[..at].chars().count()),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(refuse(format!("{wanted:?} is not in the text"))),
            }
        }
        "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let part = window(text, start, end);
            Value::from(if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(wanted).count() })
        }
        "title" => Value::from(title_method(text)),
        "capitalize" => Value::from(capitalized(text)),
        "casefold" => Value::from(text.to_lowercase().replace('\u{df}', "ss").replace('\u{3c2}', "\u{3c3}")),
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let side = match name {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            Value::from(pad(text, width, fill.unwrap_or(' '), side)?)
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let sign = usize::from(text.starts_with(['+', '-']));
            let rest = pad(&text[sign..], width.saturating_sub(sign), '0', Side::Left)?;
            Value::from(format!("{}{rest}", &text[..sign]))
        }
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            Value::from(expand_tabs(text, width.unwrap_or(8))?)
        }
        _ => return Ok(None),
    }))
}

/// The questions that a text answers with yes or no.
fn asked(text: &str, name: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let cased = |c: char| c.is_uppercase() || c.is_lowercase();
    Some(match name {
        "isspace" => all(is_space),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isnumeric" => all(char::is_numeric),
        "isdecimal" => all(|c| c.is_ascii_digit() || is_decimal(c)),
        "isdigit" => all(|c| c.is_ascii_digit() || is_decimal(c) || is_raised(c)),
        "isascii" => text.is_ascii(),
        "islower" => text.chars().any(cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(cased) && !text.chars().any(char::is_lowercase),
        "istitle" => text.chars().any(cased) && title_method(text) == text,
        "isidentifier" => {
            let begins = |c: char| c == '_' || c.is_alphabetic();
            text.chars().next().is_some_and(begins) && text.chars().all(|c| begins(c) || c.is_alphanumeric())
        }
        "isprintable" => !text.chars().any(|c| c.is_control() || (is_space(c) && c != ' ')),
        _ => return None,
    })
}

/// Digits beyond ASCII come in runs of ten; the scripts that texts of today use.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 22] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
        0x1040, 0x17e0, 0x1810, 0xff10, 0x1d7ce, 0x1d7d8,
    ];
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&(c as u32)))
}

/// Digits above and below the line, and in circles.
fn is_raised(c: char) -> bool {
    matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}')
}

fn list(items: Vec<&str>) -> Value {
    items.into_iter().map(Value::from).collect()
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let gone = |c: char| chars.map_or(is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(gone) } else { text };
    if right { text.trim_end_matches(gone) } else { text }
}

/// `split` and `rsplit`: without a separator at runs of white space, and no empty parts.
fn split<'a>(text: &'a str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Vec<&'a str>, Error> {
    let parts = most.saturating_add(1);
    if let Some(separator) = separator {
        return match separator {
            "" => Err(refuse("empty separator")),
            separator if from_right => {
                let mut found: Vec<&str> = text.rsplitn(parts, separator).collect();
                found.reverse();
                Ok(found)
            }
            separator => Ok(text.splitn(parts, separator).collect()),
        };
    }
    let mut found = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() && found.len() < most {
        let at = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = at else { break };
        if from_right {
            let behind = at + rest[at..].chars().next().map_or(1, char::len_utf8);
            found.push(&rest[behind..]);
            rest = strip(&rest[..at], None, false, true);
        } else {
            found.push(&rest[..at]);
            rest = strip(&rest[at..], None, true, false);
        }
    }
    // What is left over keeps the white space at its far end, unless it is all there is to split.
    let rest = match found.len() < most {
        true => strip(rest, None, true, true),
        false => rest,
    };
    if !rest.is_empty() {
        found.push(rest);
    }
    if from_right {
        found.reverse();
    }
    Ok(found)
}

fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            found.push(rest);
            break;
        };
        let mut behind = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        if rest[at..].starts_with("\r\n") {
            behind = at + 2;
        }
        found.push(if keep { &rest[..behind] } else { &rest[..at] });
        rest = &rest[behind..];
    }
    found
}

/// Characters before a place given as in Python: from the end if negative.
fn place(text: &str, at: i64) -> usize {
    let n = text.chars().count();
    let back = usize::try_from(at.unsigned_abs()).unwrap_or(n);
    if at < 0 { n.saturating_sub(back) } else { back.min(n) }
}

fn window(text: &str, start: Option<i64>, end: Option<i64>) -> &str {
    let byte = |at: i64| text.char_indices().nth(place(text, at)).map_or(text.len(), |(byte, _)| byte);
    let (start, end) = (start.map_or(0, byte), end.map_or(text.len(), byte));
    text.get(start..end).unwrap_or_default()
}

pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

/// The method: every letter behind something else than a letter is large.
fn title_method(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_uppercase() || c.is_lowercase();
    }
    out
}

/// Where a text is filled up.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// Fills a text up to a width. Of an odd number of fillings `center` puts one more to the right,
/// unless the width is odd too.
pub(super) fn pad(text: &str, width: usize, fill: char, side: Side) -> Result<String, Error> {
    if width > WIDEST {
        return Err(refuse(format!("wider than {WIDEST} characters")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let filling = |n| std::iter::repeat_n(fill, n);
    Ok(filling(left).chain(text.chars()).chain(filling(missing - left)).collect())
}

fn expand_tabs(text: &str, width: usize) -> Result<String, Error> {
    if width > 64 {
        return Err(refuse("tabs wider than 64 characters"));
    }
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if width > 0 => {
                let blanks = width - column % width;
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}
