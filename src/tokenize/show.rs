//! Writes values of templates as Python does: `str`, `repr`, `json.dumps`, `strftime`.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Today's date for templates, fixed because outputs must not depend on the day on which they are made. Llama 3's own
/// template has the same date as its default.
pub const TEMPLATE_DATE: &str = "2024-07-26";

/// Deepest nesting that is written.
const DEEPEST: usize = 64;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {DEEPEST} deep"))
}

/// What `{{ value }}` writes.
pub(super) fn format(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&str_of(value)?),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the output is too long"))
}

/// Python's `str(value)`.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let mut out = String::new();
    repr(&mut out, value, 0)?;
    Ok(out)
}

fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, &key, depth + 1)?;
                out.push_str(": ");
                repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text in single quotes, or in double ones if it holds single ones and no double ones.
fn quote(out: &mut String, text: &str) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// Python's `repr` of a float: the shortest digits that give it back, with an exponent where that is large or small.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// Options of `json.dumps`.
struct Json {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`: Python's `json.dumps`.
pub(super) fn to_json(value: Value, options: Rest<Value>) -> Result<String, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(&options)?;
    let option = |i: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match given.get(i) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ascii = option(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match option(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(width) => Some(" ".repeat(usize::try_from(i64::try_from(width)?.clamp(0, 64)).unwrap_or(0))),
    };
    let separators = option(2, "separators")?;
    let sort = option(3, "sort_keys")?.is_some_and(|v| v.is_true());
    named.assert_all_used()?;
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(two) = separators {
        item = two.get_item_by_index(0)?.as_str().unwrap_or_default().to_string();
        key = two.get_item_by_index(1)?.as_str().unwrap_or_default().to_string();
    }
    let mut out = String::new();
    Json { ascii, indent, item, key, sort }.write(&mut out, &value, 0)?;
    Ok(out)
}

impl Json {
    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&match f64::try_from(value.clone())? {
                n if n.is_nan() => "NaN".to_string(),
                n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_string(),
                n => float(n),
            }),
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(out, ['[', ']'], items.len(), depth, |out, i| self.write(out, &items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut fields = Vec::new();
                for key in value.try_iter()? {
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_string(),
                        ValueKind::Bool | ValueKind::None => str_of(&key)?.to_lowercase().replace("none", "null"),
                        _ => str_of(&key)?,
                    };
                    fields.push((name, value.get_item(&key)?));
                }
                if self.sort {
                    fields.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(out, ['{', '}'], fields.len(), depth, |out, i| {
                    self.text(out, &fields[i].0);
                    out.push_str(&self.key);
                    self.write(out, &fields[i].1, depth + 1)
                })?;
            }
            kind => {
                let what = format!("tojson: a value of kind {kind} is not JSON");
                return Err(Error::new(ErrorKind::BadSerialization, what));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: usize,
        depth: usize,
        write: impl Fn(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for i in 0..items {
            out.push_str(if i > 0 { &self.item } else { "" });
            self.line(out, depth + 1);
            write(out, i)?;
        }
        if items > 0 {
            self.line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn text(&self, out: &mut String, text: &str) {
        for c in serde_json::Value::from(text).to_string().chars() {
            if self.ascii && !c.is_ascii() {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
    }
}

/// The directives of Python's `strftime` on [`TEMPLATE_DATE`] at midnight, those of Linux among them.
///
/// # Errors
/// One that is not known.
pub(super) fn strftime(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d`: without leading zeros.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let text = match directive {
            Some('Y') => "2024",
            Some('y') => "24",
            Some('m') => "07",
            Some('d' | 'e') => "26",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('w' | 'u') => "5",
            Some('H' | 'M' | 'S') => "00",
            Some('f') => "000000",
            Some('k') => " 0",
            Some('I' | 'l') => "12",
            Some('p') => "AM",
            Some('P') => "am",
            Some('r') => "12:00:00 AM",
            Some('U') => "29",
            Some('W' | 'V') => "30",
            Some('G') => "2024",
            Some('g') => "24",
            Some('C') => "20",
            Some('F') => TEMPLATE_DATE,
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('D' | 'x') => "07/26/24",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('Z' | 'z') => "",
            Some('n') => "\n",
            Some('t') => "\t",
            Some('%') => "%",
            other => {
                let name: String = other.into_iter().collect();
                let message =
                    format!("strftime_now: the directive %{}{name} is not known", if bare { "-" } else { "" });
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        match bare {
            true if text.starts_with(['0', ' ']) => out.push_str(match text.trim_start_matches(['0', ' ']) {
                "" => "0",
                short => short,
            }),
            _ => out.push_str(text),
        }
    }
    Ok(out)
}
