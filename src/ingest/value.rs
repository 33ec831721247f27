//! Loosely typed values of one row, whatever it was read from. Layouts read
//! them through accessors that know how to say what was expected and what was found.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::rejects::reason;

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the field, empty for the whole row.
    pub field: String,
    /// One of [`reason`].
    pub reason: &'static str,
    /// Expected and found.
    pub message: String,
}

impl Fault {
    /// A fault of the named field.
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Fault {
        Fault { field: field.into(), reason, message: message.into() }
    }

    /// The same fault, seen from one level up.
    #[must_use]
    pub fn within(mut self, outer: impl std::fmt::Display) -> Fault {
        self.field = if self.field.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.field) };
        self
    }
}

/// Result of reading a row.
pub type Read<T> = Result<T, Fault>;

/// One value; texts are borrowed from the input where it has no escapes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`, or a null cell.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number; NaN and infinities are kept, to be refused where they matter.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// An object, without the keys that no layout reads.
    Object(Object<'a>),
    /// A column type that no layout reads, by name.
    Other(&'a str),
}

/// The fields of an object; of a repeated key the last one counts, as in Python.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object<'a>(pub Vec<(&'static str, Value<'a>)>);

impl<'a> Object<'a> {
    /// The value of a key, null included.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Removes a key and gives its value, null included.
    pub fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let at = self.0.iter().rposition(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A text that must be there.
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

    /// A finite number that must be there.
    pub fn number(&mut self, key: &'static str) -> Read<f64> {
        match self.take(key) {
            Some(Value::Number(x)) if x.is_finite() => Ok(x),
            other => Err(unfit(key, "a number", other.as_ref())),
        }
    }

    /// A finite number that may be absent or null.
    pub fn optional_number(&mut self, key: &'static str) -> Read<Option<f64>> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(x)) if x.is_finite() => Ok(Some(x)),
            other => Err(unfit(key, "a number", other.as_ref())),
        }
    }

    /// A list that must be there.
    pub fn list(&mut self, key: &'static str) -> Read<Vec<Value<'a>>> {
        match self.take(key) {
            Some(Value::List(items)) => Ok(items),
            other => Err(unfit(key, "a list", other.as_ref())),
        }
    }

    /// An object that must be there.
    pub fn object(&mut self, key: &'static str) -> Read<Object<'a>> {
        match self.take(key) {
            Some(Value::Object(object)) => Ok(object),
            other => Err(unfit(key, "an object", other.as_ref())),
        }
    }
}

/// The fault of a value that is not what was expected.
pub fn unfit(field: &str, expected: &str, found: Option<&Value<'_>>) -> Fault {
    let reason = match found {
        None => return Fault::new(field, reason::MISSING_FIELD, format!("missing; expected {expected}")),
        Some(Value::Null) => reason::MISSING_FIELD,
        Some(Value::Number(x)) if !x.is_finite() => {
            return Fault::new(field, reason::NOT_FINITE, format!("expected a finite number, got {x}"));
        }
        Some(_) => reason::WRONG_TYPE,
    };
    let found = found.map_or_else(String::new, describe);
    Fault::new(field, reason, format!("expected {expected}, got {found}"))
}

/// A value in a few words, long texts shortened.
pub fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(x) => x.to_string(),
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

macro_rules! known_keys {
    ($($key:literal)*) => {
        /// Every key that some layout reads. All others are skipped without being stored.
        pub const KNOWN_KEYS: &[&str] = &[$($key),*];

        /// The key as one of [`KNOWN_KEYS`].
        pub fn known(key: &str) -> Option<&'static str> {
            match key {
                $($key => Some($key),)*
                _ => None,
            }
        }
    };
}

known_keys! {
    "source" "instruction" "completions" "model" "response" "overall_score" "annotations"
    "helpfulness" "honesty" "truthfulness" "instruction_following" "Rating"
    "prompt" "chosen" "rejected" "role" "content" "score_chosen" "score_rejected"
    "chosen_model" "rejected_model" "chosen-rating" "rejected-rating" "chosen-model" "rejected-model"
}

/// Marks a number that JSON cannot write; see [`parse_json`].
const NOT_JSON_NUMBER: &str = "\0number";

/// Parses one line of JSON into a value.
///
/// Python writes NaN and infinities into JSON as bare words; they are read as such, so that
/// the fault names their field, and does no harm in fields that nobody reads.
///
/// # Errors
/// [`reason::BAD_JSON`].
pub fn parse_json(line: &str) -> Read<Value<'_>> {
    let fault = match parse_strict(line) {
        Ok(value) => return Ok(value),
        Err(fault) => fault,
    };
    // The slow path, taken for faulty lines only.
    match name_odd_numbers(line).map(|renamed| parse_strict(&renamed).map(into_owned)) {
        Some(Ok(value)) => Ok(value),
        _ => Err(fault),
    }
}

fn parse_strict(line: &str) -> Read<Value<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let parsed = ValueSeed.deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v));
    parsed.map_err(|e| {
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or("syntax error");
        Fault::new("", reason::BAD_JSON, format!("not valid JSON: {what} (column {})", e.column()))
    })
}

/// The line with NaN, infinities and numbers beyond f64 wrapped as `{"\0number": "..."}`;
/// none where there is no such number.
fn name_odd_numbers(line: &str) -> Option<String> {
    let bytes = line.as_bytes();
    let mut out = String::new();
    let (mut done, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' | b'N' | b'I' => {
                let end = at
                    + bytes[at..]
                        .iter()
                        .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))
                        .count();
                let word = &line[at..end];
                if matches!(word, "NaN" | "Infinity" | "-Infinity")
                    || (!word.contains('n') && word.parse::<f64>().is_ok_and(f64::is_infinite))
                {
                    out.push_str(&line[done..at]);
                    out.push_str(&format!("{{\"\\u0000number\":\"{word}\"}}"));
                    done = end;
                }
                at = end.max(at + 1);
            }
            _ => at += 1,
        }
    }
    if done == 0 {
        return None;
    }
    out.push_str(&line[done..]);
    Some(out)
}

fn into_owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(b) => Value::Bool(b),
        Value::Number(x) => Value::Number(x),
        Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        Value::List(items) => Value::List(items.into_iter().map(into_owned).collect()),
        Value::Object(object) => Value::Object(Object(object.0.into_iter().map(|(k, v)| (k, into_owned(v))).collect())),
        Value::Other(_) => Value::Other("unknown"),
    }
}

/// Reads any JSON value.
struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(b))
    }
    fn visit_u64<E>(self, x: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(x as f64))
    }
    fn visit_i64<E>(self, x: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(x as f64))
    }
    fn visit_f64<E>(self, x: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number(x))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(ValueSeed)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            match key {
                Key::Known(key) => fields.push((key, entries.next_value_seed(ValueSeed)?)),
                Key::OddNumber => {
                    let word: String = entries.next_value()?;
                    return Ok(Value::Number(word.parse().unwrap_or(f64::NAN)));
                }
                Key::Other => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(Object(fields)))
    }
}

enum Key {
    Known(&'static str),
    OddNumber,
    Other,
}

/// Reads a key without storing it.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match known(key) {
            Some(key) => Key::Known(key),
            None if key == NOT_JSON_NUMBER => Key::OddNumber,
            None => Key::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(line: &str) -> Object<'_> {
        match parse_json(line).unwrap() {
            Value::Object(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_are_borrowed_where_possible_and_unknown_keys_are_dropped() {
        let mut row = object(r#"{"zzz": {"prompt": [1]}, "prompt": "plain", "chosen": "a\nb", "prompt": "last"}"#);
        assert_eq!(row.0.len(), 3);
        assert!(matches!(row.take("prompt"), Some(Value::Text(Cow::Borrowed("last")))));
        assert!(matches!(row.take("chosen"), Some(Value::Text(Cow::Owned(t))) if t == "a\nb"));
        assert!(row.take("zzz").is_none());
    }

    #[test]
    fn numbers_that_json_lacks_are_named_by_field() {
        for (line, shown) in [
            (r#"{"zzz": "NaN \" NaN", "score_chosen": NaN, "prompt": "Infinity"}"#, "NaN"),
            (r#"{"score_chosen": -Infinity, "prompt": "Infinity"}"#, "-inf"),
            (r#"{"score_chosen": 1e999, "prompt": "Infinity"}"#, "inf"),
        ] {
            let mut row = object(line);
            let fault = row.number("score_chosen").unwrap_err();
            assert_eq!(fault.reason, reason::NOT_FINITE, "{line}");
            assert_eq!(fault.message, format!("expected a finite number, got {shown}"));
            assert_eq!(row.text("prompt").unwrap(), "Infinity");
        }
        // In a field that nobody reads it is no fault.
        assert_eq!(object(r#"{"zzz": [NaN, 1], "prompt": "p"}"#).text("prompt").unwrap(), "p");
    }

    #[test]
    fn broken_json_says_what_and_where() {
        for (line, message) in [
            (r#"{"prompt": "a"#, "not valid JSON: EOF while parsing a string (column 13)"),
            (r#"{"prompt": NaN, "#, "not valid JSON: expected value (column 12)"),
            (r#"{"prompt": 1} 2"#, "not valid JSON: trailing characters (column 15)"),
            ("", "not valid JSON: EOF while parsing a value (column 0)"),
        ] {
            let fault = parse_json(line).unwrap_err();
            assert_eq!((fault.reason, fault.message.as_str()), (reason::BAD_JSON, message), "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse_json(&deep).unwrap_err().reason, reason::BAD_JSON);
    }

    #[test]
    fn faults_say_expected_and_found() {
        let mut row = object(r#"{"prompt": 3, "chosen": null, "score_chosen": "N/A", "rejected": []}"#);
        assert_eq!(row.text("prompt").unwrap_err().message, "expected a string, got 3");
        let null = row.text("chosen").unwrap_err();
        assert_eq!((null.reason, null.message.as_str()), (reason::MISSING_FIELD, "expected a string, got null"));
        assert_eq!(row.number("score_chosen").unwrap_err().message, "expected a number, got \"N/A\"");
        assert_eq!(row.object("rejected").unwrap_err().message, "expected an object, got an empty list");
        assert_eq!(row.list("source").unwrap_err().message, "missing; expected a list");
        let long = Value::Text("x".repeat(50).into());
        assert_eq!(describe(&long), format!("{:?} and more", "x".repeat(40)));
        assert_eq!(Fault::new("b", "r", "m").within("a[1]").field, "a[1].b");
        assert_eq!(Fault::new("", "r", "m").within("a").field, "a");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(line in ".*") {
            let _ = parse_json(&line);
        }

        #[test]
        fn json_like_text_is_read_or_refused(line in r#"[{}\[\]",:\\NaInfity0-9eE+. -]{0,60}"#) {
            let _ = parse_json(&line);
        }
    }
}
