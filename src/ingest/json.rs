//! JSON text -> loosely typed values, of which only what some layout reads is kept.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::names::{Inner, Names, Step};
use super::value::{Object, Read, RowFault, UNREAD, Value};
use crate::rejects::reason;

/// Longest list, and most fields of an object that are read, in every format: no layout comes near, and a row of empty
/// lists must not take many times its own size.
pub const MOST_ITEMS: usize = 1 << 16;

/// Key of an object that stands for a number that JSON cannot write; see [`name_odd_numbers`].
const NOT_JSON_NUMBER: &str = "\0number";

/// Parses one row of JSON into a value, with its columns under the names that `names` gives them.
///
/// Python writes NaN and infinities into JSON as bare words. They are read as numbers, so that the fault names their
/// field, and there is none in fields that no layout reads.
pub fn parse_json<'a>(line: &'a str, names: &Names) -> Read<Value<'a>> {
    parse(line, ValueSeed { names, row: true })
}

/// Parses a part of a row that was written as JSON in a text.
pub fn parse_inner<'a>(text: &'a str, names: &Names) -> Read<Value<'a>> {
    parse(text, ValueSeed { names, row: false })
}

fn parse<'a>(line: &'a str, seed: ValueSeed<'_>) -> Read<Value<'a>> {
    let fault = match parse_strict(line, seed) {
        Ok(value) => return Ok(value),
        Err(fault) => fault,
    };
    // The slow path, taken for faulty lines only.
    match name_odd_numbers(line).map(|renamed| parse_strict(&renamed, seed).map(Value::into_owned)) {
        Some(Ok(value)) => Ok(value),
        _ => Err(fault),
    }
}

fn parse_strict<'a>(line: &'a str, seed: ValueSeed<'_>) -> Read<Value<'a>> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let parsed = seed.deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v));
    parsed.map_err(|e| {
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or("syntax error");
        if e.is_data() {
            return RowFault::new("", reason::TOO_LONG, format!("{what} (column {})", e.column()));
        }
        RowFault::new("", reason::BAD_JSON, format!("not valid JSON: {what} (column {})", e.column()))
    })
}

/// The line with NaN, infinities and numbers beyond f64 wrapped as `{"\0number": "..."}`;
/// `None` where there is no such number.
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

/// The methods of the visitors below for null, booleans and numbers.
macro_rules! scalars {
    ($value:ty: $null:expr, $bool:expr, $whole:expr, $number:expr) => {
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON value")
        }
        fn visit_unit<E>(self) -> Result<$value, E> {
            Ok($null)
        }
        fn visit_bool<E>(self, b: bool) -> Result<$value, E> {
            Ok($bool(b))
        }
        fn visit_u64<E>(self, x: u64) -> Result<$value, E> {
            Ok($whole(x.into()))
        }
        fn visit_i64<E>(self, x: i64) -> Result<$value, E> {
            Ok($whole(x.into()))
        }
        fn visit_f64<E>(self, x: f64) -> Result<$value, E> {
            Ok($number(x))
        }
    };
}

/// Reads any JSON value.
#[derive(Clone, Copy)]
struct ValueSeed<'n> {
    names: &'n Names,
    /// Whether an object is the row itself, whose keys are columns.
    row: bool,
}

impl<'n> ValueSeed<'n> {
    fn inside(self) -> ValueSeed<'n> {
        ValueSeed { row: false, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value<'de>;

    scalars!(Value<'de>: Value::Null, Value::Bool, Value::whole, Value::Number);

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inside())? {
            within(list.len(), "a list")?;
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        let mut fields = Vec::new();
        if self.row {
            let names = self.names;
            let columns = Columns { names, step: &|key| names.top(key), fields: &mut fields };
            columns.visit_map(entries)?;
            return Ok(Value::Object(Object(fields)));
        }
        while let Some(key) = entries.next_key_seed(KeySeed(self.names))? {
            match key {
                Key::Known(key) => {
                    within(fields.len(), "an object")?;
                    fields.push((key, entries.next_value_seed(self)?));
                }
                Key::OddNumber => {
                    let word: String = entries.next_value()?;
                    return Ok(Value::Number(word.parse().unwrap_or(f64::NAN)));
                }
                Key::Unread(name) => {
                    if entries.next_value_seed(Something)? {
                        within(fields.len(), "an object")?;
                        fields.push((UNREAD, Value::Text(name)));
                    }
                }
                Key::Skip => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(Object(fields)))
    }
}

fn within<E: serde::de::Error>(length: usize, what: &str) -> Result<(), E> {
    if length < MOST_ITEMS { Ok(()) } else { Err(E::custom(format_args!("{what} of more than {MOST_ITEMS} items"))) }
}

/// Reads a row, and the objects that renamed columns are in, and collects the columns; all else is skipped.
struct Columns<'n, 'f, 'de> {
    names: &'n Names,
    step: &'f dyn Fn(&str) -> Step<'n>,
    fields: &'f mut Vec<(&'static str, Value<'de>)>,
}

impl<'de> DeserializeSeed<'de> for Columns<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Columns<'_, '_, 'de> {
    type Value = ();

    scalars!((): (), |_| (), |_: i128| (), |_| ());

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(step) = entries.next_key_seed(StepSeed(self.step))? {
            match step {
                Step::Take(name) => {
                    within(self.fields.len(), "an object")?;
                    let value = entries.next_value_seed(ValueSeed { names: self.names, row: false })?;
                    self.fields.push((name, value));
                }
                Step::Into(node) => {
                    let below = Columns { names: self.names, step: &|key| node.step(key), fields: &mut *self.fields };
                    entries.next_value_seed(below)?;
                }
                Step::Skip => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a value has anything in it, as [`Value::says_something`], without keeping it.
struct Something;

impl<'de> DeserializeSeed<'de> for Something {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Something {
    type Value = bool;

    scalars!(bool: false, |b| b, |_: i128| true, |_| true);

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(!text.trim().is_empty())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut something = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            something = true;
        }
        Ok(something)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let mut something = false;
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            something = true;
        }
        Ok(something)
    }
}

/// Reads a key of a row with renamed columns.
struct StepSeed<'n, 'f>(&'f dyn Fn(&str) -> Step<'n>);

impl<'n, 'de> DeserializeSeed<'de> for StepSeed<'n, '_> {
    type Value = Step<'n>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Step<'n>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for StepSeed<'n, '_> {
    type Value = Step<'n>;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Step<'n>, E> {
        Ok((self.0)(key))
    }
}

enum Key<'de> {
    Known(&'static str),
    OddNumber,
    Unread(Cow<'de, str>),
    Skip,
}

/// Reads a key of an object inside a row.
struct KeySeed<'n>(&'n Names);

impl KeySeed<'_> {
    fn key<'de>(&self, key: Cow<'de, str>) -> Key<'de> {
        match self.0.inner(&key) {
            Inner::Known(key) => Key::Known(key),
            _ if key == NOT_JSON_NUMBER => Key::OddNumber,
            Inner::Unread => Key::Unread(key),
            Inner::Skip => Key::Skip,
        }
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Key<'de>;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(self.key(Cow::Borrowed(key)))
    }
    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(self.key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(line: &str) -> Object<'_> {
        match parse_json(line, &Names::default()).unwrap() {
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
        // In a field that no layout reads it is no fault.
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
            let fault = parse_json(line, &Names::default()).unwrap_err();
            assert_eq!((fault.reason, fault.message.as_str()), (reason::BAD_JSON, message), "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse_json(&deep, &Names::default()).unwrap_err().reason, reason::BAD_JSON);
    }

    #[test]
    fn renamed_columns_come_under_the_names_of_layouts() {
        let entries = ["prompt=q", "chosen=data.good", "rejected=data.more.bad"].map(String::from);
        let names = Names::parse(&entries).unwrap();
        let line = r#"{"prompt": "no", "q": "p", "data": {"good": [{"content": "c"}], "more": {"bad": NaN, "q": 1}}, "score_chosen": 2}"#;
        let Value::Object(mut row) = parse_json(line, &names).unwrap() else { panic!() };
        assert_eq!(row.0.len(), 4, "{row:?}");
        assert_eq!(row.text("prompt").unwrap(), "p");
        assert_eq!(row.list("chosen").unwrap().len(), 1);
        assert!(row.number("rejected").unwrap_err().message.contains("NaN"));
        assert_eq!(row.number("score_chosen").unwrap(), 2.0);
        for line in [r#"{"data": 1}"#, r#"{"data": [{"good": 1}]}"#, r#"{"data": "x"}"#, r#"{"data": null}"#] {
            let Value::Object(row) = parse_json(line, &names).unwrap() else { panic!() };
            assert_eq!(row.0.len(), 0, "{line}");
        }
    }

    #[test]
    fn lists_do_not_take_many_times_the_size_of_their_row() {
        let line = format!("{{\"chosen\": [{}0]}}", "0,".repeat(MOST_ITEMS));
        let fault = parse_json(&line, &Names::default()).unwrap_err();
        assert_eq!(fault.reason, reason::TOO_LONG);
        assert!(fault.message.starts_with("a list of more than 65536 items"), "{}", fault.message);
        let line = format!("{{{}\"prompt\":0}}", "\"prompt\":0,".repeat(MOST_ITEMS));
        assert_eq!(parse_json(&line, &Names::default()).unwrap_err().reason, reason::TOO_LONG);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(line in ".*") {
            let _ = parse_json(&line, &Names::default());
            let renamed = Names::parse(&["prompt=a".into(), "chosen=b.c".into()]).unwrap();
            let _ = parse_json(&line, &renamed);
        }

        #[test]
        fn json_like_text_is_read_or_refused(line in r#"[{}\[\]",:\\NaInfity0-9eE+. -]{0,60}"#) {
            let _ = parse_json(&line, &Names::default());
            let renamed = Names::parse(&["prompt=a".into(), "chosen=b.c".into()]).unwrap();
            let _ = parse_json(&line, &renamed);
        }
    }
}
