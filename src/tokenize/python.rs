//! What chat templates call and `minijinja` lacks, or computes otherwise than Python and Jinja: methods of texts, lists
//! and mappings, filters, tests.
//!
//! A method that no chat template is known to call is refused, as is one that would change its value: a rendering is
//! the same as in `transformers`, or it is an error.
//!
//! # Source
//! The Python library reference and the filters and tests of Jinja 3.1; `tests/fixtures/tokenize/constructs.json` holds
//! what they do.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::show;

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// White space as Python's `str` sees it: Unicode's, and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Makes an environment behave as the one of `transformers`.
pub(super) fn prepare(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(show::format);
    environment.add_filter("tojson", show::to_json);
    environment.add_filter("string", |value: Value| show::str_of(&value));
    environment.add_filter("trim", |value: Value, chars: Option<String>| -> Result<String, Error> {
        Ok(strip(&show::str_of(&value)?, chars.as_deref(), true, true).to_string())
    });
    environment.add_filter("title", |value: Value| -> Result<String, Error> {
        Ok(title(&show::str_of(&value)?, |c| !(is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<'))))
    });
    environment.add_filter("replace", |value: Value, old: &str, new: &str| -> Result<String, Error> {
        Ok(show::str_of(&value)?.replace(old, new))
    });
    environment.add_filter("join", join);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("round", round);
    environment
        .add_test("sequence", |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String));
    // Undefined is an empty sequence in Jinja too.
    environment.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    environment.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    // These escape characters in another way than Jinja's, show values in another way, or read keys for attributes.
    for name in ["e", "escape", "pprint", "attr"] {
        environment.remove_filter(name);
    }
}

/// Python's `round`, which takes exact halves to the even neighbour, and Jinja's ways up and down.
fn round(value: Value, precision: Option<i32>, method: Option<&str>) -> Result<Value, Error> {
    if value.kind() != ValueKind::Number {
        return Err(refuse("`round` is for numbers"));
    }
    let places = usize::try_from(precision.unwrap_or(0)).map_err(|_| refuse("`round` to tens or more"))?;
    let method = method.unwrap_or("common");
    if method == "common" && value.is_integer() {
        return Ok(value);
    }
    let number = f64::try_from(value)?;
    let scale = 10f64.powi(places as i32);
    Ok(Value::from(match method {
        // The decimal form is rounded from the exact value.
        "common" => format!("{number:.places$}").parse::<f64>().map_err(|e| refuse(e.to_string()))?,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        other => return Err(refuse(format!("`round` by {other:?}"))),
    }))
}

/// Methods that values have in Python.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    Ok(match (value.kind(), name) {
        (ValueKind::Seq, "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse") => {
            return Err(refuse(format!("a chat template may not change a list: .{name}()")));
        }
        (ValueKind::Map, "update" | "pop" | "popitem" | "clear" | "setdefault") => {
            return Err(refuse(format!("a chat template may not change a mapping: .{name}()")));
        }
        (ValueKind::String, "strip" | "lstrip" | "rstrip") => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        (ValueKind::String, "split") => {
            let (separator, most): (Option<&str>, Option<usize>) = from_args(args)?;
            match (separator, most) {
                (Some(""), _) => return Err(refuse("empty separator")),
                (Some(separator), Some(most)) => text.splitn(most.saturating_add(1), separator).collect(),
                (Some(separator), None) => text.split(separator).collect(),
                (None, None) => text.split(is_space).filter(|word| !word.is_empty()).collect(),
                (None, Some(_)) => return Err(refuse("split() with a maximum needs a separator here")),
            }
        }
        (ValueKind::String, "find" | "rfind") => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if name == "find" { text.find(wanted) } else { text.rfind(wanted) };
            // Python counts characters.
            at.map_or(Value::from(-1), |at| Value::from(text[..at].chars().count()))
        }
        (ValueKind::String, "count") => {
            let (wanted,): (&str,) = from_args(args)?;
            Value::from(text.matches(wanted).count())
        }
        (ValueKind::String, "title") => {
            let () = from_args(args)?;
            Value::from(title(text, |c| c.is_uppercase() || c.is_lowercase()))
        }
        (
            ValueKind::String,
            "capitalize" | "endswith" | "format" | "join" | "lower" | "replace" | "startswith" | "upper",
        )
        | (ValueKind::Map, "get" | "items" | "keys" | "values")
        | (ValueKind::Seq, "count") => pycompat::unknown_method_callback(state, value, name, args)?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let gone = |c: char| chars.map_or(is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(gone) } else { text };
    if right { text.trim_end_matches(gone) } else { text }
}

/// Words in title case; after a character for which `within` is true, the word continues.
fn title(text: &str, within: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = within(c);
    }
    out
}

/// The filter `join(d="")`.
fn join(value: &Value, between: Option<&str>) -> Result<String, Error> {
    let items: Result<Vec<String>, Error> = value.try_iter()?.map(|item| show::str_of(&item)).collect();
    Ok(items?.join(between.unwrap_or_default()))
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| refuse(format!("a value of kind {} has no length", value.kind())))
}
