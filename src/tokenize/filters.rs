//! Jinja's filters and tests, where those of `minijinja` do something else or are missing.
//!
//! # Source
//! The list of built-in filters and tests of Jinja 3.1; `tests/fixtures/tokenize/constructs.json`
//! holds what they do.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, Value};

use super::python::{Side, capitalized, is_space, method, pad, refuse, strip};
use super::show;

/// Makes an environment behave as the one of `transformers`.
pub(super) fn prepare(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(show::format);
    environment.add_filter("tojson", show::to_json);
    environment.add_filter("string", |value: Value| show::str_of(&value));
    environment.add_filter("trim", |value: Value, chars: Option<String>| -> Result<String, Error> {
        let text = show::str_of(&value)?;
        Ok(strip(&text, chars.as_deref(), true, true).to_string())
    });
    environment.add_filter("title", |value: Value| show::str_of(&value).map(|text| title_filter(&text)));
    environment.add_filter("upper", |value: Value| show::str_of(&value).map(|text| text.to_uppercase()));
    environment.add_filter("lower", |value: Value| show::str_of(&value).map(|text| text.to_lowercase()));
    environment.add_filter("capitalize", |value: Value| show::str_of(&value).map(|text| capitalized(&text)));
    environment.add_filter("center", |value: Value, width: Option<usize>| -> Result<String, Error> {
        pad(&show::str_of(&value)?, width.unwrap_or(80), ' ', Side::Both)
    });
    environment.add_filter("wordcount", |text: &str| text.split(is_space).filter(|w| !w.is_empty()).count());
    environment.add_filter(
        "replace",
        |value: Value, old: &str, new: &str, most: Option<i64>| -> Result<String, Error> {
            let text = show::str_of(&value)?;
            Ok(match most.and_then(|most| usize::try_from(most).ok()) {
                Some(most) => text.replacen(old, new, most),
                None => text.replace(old, new),
            })
        },
    );
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, other: Option<f64>| number(value).unwrap_or(other.unwrap_or(0.0)));
    environment.add_filter("join", join);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment
        .add_test("sequence", |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String));
    environment.add_test("iterable", |v: &Value| {
        v.is_undefined()
            || matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Iterable)
    });
    environment.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("callable", |v: &Value| v.kind() == ValueKind::Plain);
}

/// A number, or a text that Python's `float` reads.
fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => strip(text, None, true, true).parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    }
}

/// The filter `int(default=0, base=10)`.
fn int(value: &Value, options: Rest<Value>) -> Result<Value, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(&options)?;
    let (first, second): (Option<i64>, Option<u32>) = from_args(given)?;
    let other = first.or(named.get("default")?).unwrap_or(0);
    let base = second.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    let text = value.as_str().map(|text| strip(text, None, true, true).to_lowercase());
    let whole = text.and_then(|text| {
        let mark = match base {
            2 => "0b",
            8 => "0o",
            16 => "0x",
            _ => "",
        };
        i64::from_str_radix(text.strip_prefix(mark).unwrap_or(&text), base.clamp(2, 36)).ok()
    });
    if value.is_integer() {
        return Ok(value.clone());
    }
    let cut = || number(value).filter(|n| n.is_finite() && n.abs() < 9e18).map(|n| n.trunc() as i64);
    Ok(Value::from(whole.or_else(cut).unwrap_or(other)))
}

/// The filter `join(d="", attribute=none)`.
fn join(value: &Value, options: Rest<Value>) -> Result<String, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(&options)?;
    let (between, attribute): (Option<String>, Option<String>) = from_args(given)?;
    let between = between.or(named.get("d")?).unwrap_or_default();
    let attribute = attribute.or(named.get("attribute")?);
    named.assert_all_used()?;
    let mut out = String::new();
    let items: Vec<Value> = match value.as_str() {
        Some(text) => text.chars().map(|c| Value::from(c.to_string())).collect(),
        None => value.try_iter()?.collect(),
    };
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { &between } else { "" });
        match &attribute {
            Some(name) => out.push_str(&show::str_of(&item.get_attr(name)?)?),
            None => out.push_str(&show::str_of(item)?),
        }
    }
    Ok(out)
}

/// The filter `escape`, with the references that Jinja writes.
fn escape(value: Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in show::str_of(&value)?.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.is_undefined() {
        true => Ok(0),
        false => value.len().ok_or_else(|| refuse(format!("a value of kind {} has no length", value.kind()))),
    }
}

/// The filter: words begin behind white space, hyphens and opening brackets only.
fn title_filter(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = !(is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<'));
    }
    out
}
