//! Loosely typed values of one row, whatever it was read from. Layouts read them through accessors whose faults say
//! what was expected and what was found.

use std::borrow::Cow;

use crate::rejects::reason;

/// A fault of a row, or a decision against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// Dotted path of the field, empty for the whole row.
    pub field: String,
    /// One of [`reason`].
    pub reason: &'static str,
    /// What was expected and what was found.
    pub message: String,
    /// Whether the row is sound, but gives no pair: it is counted, and never an error.
    pub decision: bool,
    /// Whether the field is not there at all.
    pub absent: bool,
}

impl RowFault {
    /// A fault of the named field.
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> RowFault {
        RowFault { field: field.into(), reason, message: message.into(), decision: false, absent: false }
    }

    /// A decision against a sound row.
    pub fn decision(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> RowFault {
        RowFault { decision: true, ..RowFault::new(field, reason, message) }
    }

    /// The fault of a field that is not there; `why` follows the word "missing" in the message.
    pub fn absent(field: impl Into<String>, reason: &'static str, why: impl std::fmt::Display) -> RowFault {
        RowFault { absent: true, ..RowFault::new(field, reason, format!("missing{why}")) }
    }

    /// Whether what is missing is the prompt: another column may hold it.
    pub fn lacks_prompt(&self) -> bool {
        self.absent && self.field == "prompt"
    }

    /// The same fault, its field inside `outer`.
    #[must_use]
    pub fn within(mut self, outer: impl std::fmt::Display) -> RowFault {
        self.field = if self.field.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.field) };
        self
    }
}

/// The result of reading a row or a part of it.
pub type Read<T> = Result<T, RowFault>;

/// One value; texts are borrowed from the input where it has no escapes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`, or a null cell.
    Null,
    Bool(bool),
    /// Any number that `f64` holds; NaN and infinities are kept, to be refused where they matter.
    Number(f64),
    /// A whole number beyond [`EXACT`], by its digits.
    Digits(String),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// An object, without the keys that no layout reads.
    Object(Object<'a>),
    /// A column type that no layout reads, by name.
    Other(&'a str),
}

/// `f64` represents every whole number up to here.
const EXACT: u64 = 1 << 53;

impl Value<'_> {
    /// A whole number, with all its digits.
    pub fn whole(x: i128) -> Value<'static> {
        if x.unsigned_abs() <= u128::from(EXACT) { Value::Number(x as f64) } else { Value::Digits(x.to_string()) }
    }

    /// Whether there is anything in it: null, blank texts, `false` and empty lists and objects say nothing.
    pub fn says_something(&self) -> bool {
        match self {
            Value::Null | Value::Bool(false) => false,
            Value::Text(text) => !text.trim().is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Object(object) => !object.0.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::Digits(_) | Value::Other(_) => true,
        }
    }

    /// The same value, its texts no longer borrowed.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(b) => Value::Bool(b),
            Value::Number(x) => Value::Number(x),
            Value::Digits(digits) => Value::Digits(digits),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::List(items) => Value::List(items.into_iter().map(Value::into_owned).collect()),
            Value::Object(object) => {
                Value::Object(Object(object.0.into_iter().map(|(k, v)| (k, v.into_owned())).collect()))
            }
            Value::Other(_) => Value::Other("unknown"),
        }
    }
}

/// The fields of an object; of a repeated key the last one counts, as in Python.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object<'a>(pub Vec<(&'static str, Value<'a>)>);

/// The key whose value is the name of a field that is not empty and that no layout reads.
pub const UNREAD: &str = "\0unread";

impl<'a> Object<'a> {
    /// The name of the first field that is not empty and that no layout reads.
    pub fn unread(&self) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| match value {
            Value::Text(name) if *key == UNREAD => Some(&**name),
            _ => None,
        })
    }

    /// The fields that have something in them.
    #[must_use]
    pub fn said(&self) -> Object<'a> {
        Object(self.0.iter().filter(|(_, value)| value.says_something()).cloned().collect())
    }

    /// The value of a key, null included.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Removes a key and gives its value, null included.
    pub fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let at = self.0.iter().rposition(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn text(&mut self, key: &'static str) -> Read<Cow<'a, str>> {
        match self.take(key) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(unfit(key, "a string", other.as_ref())),
        }
    }

    /// A text that may be absent or null.
    pub fn optional_text(&mut self, key: &'static str) -> Read<Option<Cow<'a, str>>> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            other => Err(unfit(key, "a string", other.as_ref())),
        }
    }

    /// A name that may be absent or null: a text, or a number as it is written.
    pub fn optional_name(&mut self, key: &'static str) -> Read<Option<Cow<'a, str>>> {
        match self.take(key) {
            Some(Value::Number(x)) if x.abs() <= EXACT as f64 => Ok(Some(x.to_string().into())),
            Some(Value::Number(x)) => {
                let message = format!("{x} has more digits than are kept; write it as a string");
                Err(RowFault::new(key, reason::WRONG_TYPE, message))
            }
            Some(Value::Digits(digits)) => Ok(Some(digits.into())),
            Some(Value::Text(text)) => Ok(Some(text).filter(|t| !t.is_empty())),
            None | Some(Value::Null) => Ok(None),
            other => Err(unfit(key, "a string or a number", other.as_ref())),
        }
    }

    /// A finite number that must be there; a text that is one counts.
    pub fn number(&mut self, key: &'static str) -> Read<f64> {
        let value = self.take(key);
        match value.as_ref().and_then(finite) {
            Some(x) => Ok(x),
            None => Err(unfit(key, "a number", value.as_ref())),
        }
    }

    /// A finite number that may be absent, null or blank; a text that is one counts.
    pub fn optional_number(&mut self, key: &'static str) -> Read<Option<f64>> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) if text.trim().is_empty() => Ok(None),
            Some(value) => finite(&value).map(Some).ok_or_else(|| unfit(key, "a number", Some(&value))),
        }
    }

    pub fn list(&mut self, key: &'static str) -> Read<Vec<Value<'a>>> {
        match self.take(key) {
            Some(Value::List(items)) => Ok(items),
            other => Err(unfit(key, "a list", other.as_ref())),
        }
    }

    pub fn object(&mut self, key: &'static str) -> Read<Object<'a>> {
        match self.take(key) {
            Some(Value::Object(object)) => Ok(object),
            other => Err(unfit(key, "an object", other.as_ref())),
        }
    }
}

/// The finite number that a value is, as a number or as a text.
pub fn finite(value: &Value<'_>) -> Option<f64> {
    let x = match value {
        Value::Number(x) => *x,
        Value::Digits(digits) => digits.parse().ok()?,
        // Rust also reads "inf" and "nan".
        Value::Text(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    x.is_finite().then_some(x)
}

/// The fault of a value that is not what was expected.
pub fn unfit(field: &str, expected: &str, found: Option<&Value<'_>>) -> RowFault {
    let reason = match found {
        None => return RowFault::absent(field, reason::MISSING_FIELD, format_args!("; expected {expected}")),
        Some(Value::Null) => reason::MISSING_FIELD,
        Some(Value::Number(x)) if !x.is_finite() => {
            return RowFault::new(field, reason::NOT_FINITE, format!("expected a finite number, got {x}"));
        }
        Some(_) => reason::WRONG_TYPE,
    };
    let found = found.map_or_else(String::new, describe);
    RowFault::new(field, reason, format!("expected {expected}, got {found}"))
}

/// A value in a few words, long texts shortened.
pub fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(x) => x.to_string(),
        Value::Digits(digits) => digits.clone(),
        Value::Text(text) => match text.char_indices().nth(40) {
            Some((end, _)) => format!("{:?} and more", &text[..end]),
            None => format!("{text:?}"),
        },
        Value::List(items) if items.is_empty() => "an empty list".into(),
        Value::List(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Other(kind) => format!("a value of type {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<const N: usize>(fields: [(&'static str, Value<'static>); N]) -> Object<'static> {
        Object(fields.to_vec())
    }

    #[test]
    fn faults_say_expected_and_found() {
        let mut row = object([
            ("prompt", Value::Number(3.0)),
            ("chosen", Value::Null),
            ("score_chosen", Value::Text("N/A".into())),
            ("rejected", Value::List(Vec::new())),
            ("annotator", Value::Number(7.0)),
        ]);
        assert_eq!(row.optional_name("annotator").unwrap().as_deref(), Some("7"));
        assert_eq!(row.text("prompt").unwrap_err().message, "expected a string, got 3");
        let null = row.text("chosen").unwrap_err();
        assert_eq!((null.reason, null.message.as_str()), (reason::MISSING_FIELD, "expected a string, got null"));
        assert_eq!(row.number("score_chosen").unwrap_err().message, "expected a number, got \"N/A\"");
        assert_eq!(row.object("rejected").unwrap_err().message, "expected an object, got an empty list");
        assert_eq!(row.list("source").unwrap_err().message, "missing; expected a list");
        let long = Value::Text("x".repeat(50).into());
        assert_eq!(describe(&long), format!("{:?} and more", "x".repeat(40)));
        assert_eq!(RowFault::new("b", "r", "m").within("a[1]").field, "a[1].b");
        assert_eq!(RowFault::new("", "r", "m").within("a").field, "a");
    }

    #[test]
    fn whole_numbers_keep_their_digits() {
        let name = |value: Value<'static>| object([("annotator", value)]).optional_name("annotator");
        for digits in ["9007199254740992", "9007199254740993", "-9007199254740993", "18446744073709551615", "7"] {
            let value = Value::whole(digits.parse().unwrap());
            assert_eq!(name(value.clone()).unwrap().as_deref(), Some(digits));
            assert_eq!(finite(&value), digits.parse().ok());
        }
        let fault = name(Value::Number(1e20)).unwrap_err();
        assert!(fault.message.contains("more digits than are kept"), "{}", fault.message);
    }

    #[test]
    fn texts_that_are_numbers_are_numbers() {
        let mut row = object([
            ("score_chosen", Value::Text(" 4.5 ".into())),
            ("score_rejected", Value::Text(" ".into())),
            ("overall_score", Value::Text("-2e1".into())),
            ("flip_probability", Value::Text("inf".into())),
        ]);
        assert_eq!(row.optional_number("score_chosen").unwrap(), Some(4.5));
        assert_eq!(row.optional_number("score_rejected").unwrap(), None);
        assert_eq!(row.number("overall_score").unwrap(), -20.0);
        assert_eq!(row.optional_number("flip_probability").unwrap_err().message, "expected a number, got \"inf\"");
    }

    #[test]
    fn null_and_empty_values_say_nothing() {
        let nothing = [
            Value::Null,
            Value::Bool(false),
            Value::Text(" \n".into()),
            Value::List(Vec::new()),
            Value::Object(Object::default()),
        ];
        assert!(nothing.iter().all(|value| !value.says_something()));
        assert!(Value::Number(0.0).says_something());
        let row = object([("prompt", Value::Null), ("chosen", Value::Text("a".into()))]);
        assert_eq!(row.said().0.len(), 1);
    }
}
