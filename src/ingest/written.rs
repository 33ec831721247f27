//! Lists that another program wrote as text: a cell of CSV or a string of JSON that holds JSON, or Python's
//! notation, as data frames write lists into cells. They are read as the lists they are, in every file format.
//!
//! ```text
//! [{"role": "user", "content": "Why?"}]
//! [{'role': 'user', 'content': 'Why?'}]
//! array([{'content': 'Why?', 'role': 'user'}], dtype=object)
//! {"messages": [{"role": "user", "content": "Why?"}]}
//! ```

use super::json::parse_inner;
use super::names::Names;
use super::record::usual_role;
use super::value::{Object, Read, RowFault, Value};
use crate::rejects::reason;

/// Fields of a row that hold messages.
const MESSAGES: [&str; 6] = ["prompt", "chosen", "rejected", "conversations", "context", "completion"];

/// Fields of a row that hold other lists.
const LISTS: [&str; 2] = ["completions", "history"];

/// Deepest nesting that is read.
const DEEPEST: usize = 64;

/// Replaces texts that hold a list by the list, in all fields of a row.
pub fn unfold(row: &mut Object<'_>, names: &Names) -> Read<()> {
    for (key, value) in &mut row.0 {
        let Value::Text(text) = value else { continue };
        let trimmed = text.trim();
        if !trimmed.starts_with(['[', '{']) && !trimmed.starts_with("array(") {
            continue;
        }
        let messages = MESSAGES.contains(key);
        if !messages && !LISTS.contains(key) {
            continue;
        }
        let read = read(trimmed, names);
        *value = match read {
            Some(list) if !messages || are_messages(&list) => list,
            None if messages && looks_like_messages(trimmed) => {
                let message =
                    "a list of messages written as text, which can be read neither as JSON nor as Python's notation";
                return Err(RowFault::new(*key, reason::WRONG_TYPE, message));
            }
            _ => continue,
        };
    }
    Ok(())
}

/// The list or object that a text is, in JSON or in Python's notation.
fn read(text: &str, names: &Names) -> Option<Value<'static>> {
    let nested = |value: &Value<'_>| matches!(value, Value::List(_) | Value::Object(_));
    if let Ok(value) = parse_inner(text, names) {
        return nested(&value).then(|| value.into_owned());
    }
    let json = Python { text, at: 0, json: String::with_capacity(text.len()) }.into_json()?;
    parse_inner(&json, names).ok().filter(nested).map(Value::into_owned)
}

/// Whether a value is messages: a list of objects with a known role, one of them, or an object that holds the list. A
/// text that holds a list of objects with other roles stays a text.
fn are_messages(value: &Value<'_>) -> bool {
    let is_message = |item: &Value<'_>| match item {
        Value::Object(object) => match object.get("role").or_else(|| object.get("from")) {
            Some(Value::Text(role)) => usual_role(role).is_some(),
            _ => false,
        },
        _ => false,
    };
    match value {
        Value::List(items) => !items.is_empty() && items.iter().all(is_message),
        Value::Object(object) => match object.get("messages") {
            Some(list @ Value::List(_)) => are_messages(list),
            _ => is_message(value),
        },
        _ => false,
    }
}

/// Whether a text that could not be read was meant to be messages: brackets around, and the keys of messages
/// in quotes.
fn looks_like_messages(text: &str) -> bool {
    let inside = text.strip_prefix("array(").unwrap_or(text).trim_start_matches('[').trim_start();
    let quoted = |key: &str| [format!("'{key}'"), format!("\"{key}\"")].iter().any(|word| inside.contains(word));
    let keys = quoted("role") && quoted("content") || quoted("from") && quoted("value");
    inside.starts_with('{') && text.ends_with([']', '}', ')']) && keys
}

/// Rewrites a literal of Python as JSON.
struct Python<'a> {
    text: &'a str,
    at: usize,
    json: String,
}

impl Python<'_> {
    /// The whole text as JSON; `None` where it is no literal.
    fn into_json(mut self) -> Option<String> {
        self.value(0)?;
        self.blanks();
        (self.at == self.text.len()).then_some(self.json)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Skips a word where it is next.
    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.blanks();
        for (word, json) in [("None", "null"), ("True", "true"), ("False", "false"), ("nan", "null")] {
            if self.take(word) {
                self.json.push_str(json);
                return Some(());
            }
        }
        // NumPy's arrays; their type is skipped.
        if self.take("array(") {
            self.value(depth + 1)?;
            self.blanks();
            if self.take(",") {
                self.at += self.rest().find(')')?;
            }
            return self.take(")").then_some(());
        }
        match self.rest().chars().next()? {
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '{' => self.dict(depth),
            '\'' | '"' => self.string(),
            _ => self.number(),
        }
    }

    /// A list or tuple. NumPy writes line breaks instead of the commas.
    fn list(&mut self, close: char, depth: usize) -> Option<()> {
        self.at += 1;
        self.json.push('[');
        let mut first = true;
        loop {
            self.blanks();
            if self.rest().starts_with(close) {
                self.at += 1;
                self.json.push(']');
                return Some(());
            }
            if !first {
                self.json.push(',');
            }
            self.value(depth + 1)?;
            self.blanks();
            self.take(",");
            first = false;
        }
    }

    fn dict(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.json.push('{');
        let mut first = true;
        loop {
            self.blanks();
            if self.take("}") {
                self.json.push('}');
                return Some(());
            }
            if !first {
                self.json.push(',');
            }
            self.string()?;
            self.blanks();
            self.take(":").then_some(())?;
            self.json.push(':');
            self.value(depth + 1)?;
            self.blanks();
            if !self.take(",") && !self.rest().starts_with('}') {
                return None;
            }
            first = false;
        }
    }

    /// A string with Python's escapes.
    fn string(&mut self) -> Option<()> {
        let quote = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        self.at += 1;
        let mut content = String::new();
        loop {
            let c = self.next()?;
            match c {
                c if c == quote => break,
                '\\' => match self.next()? {
                    'n' => content.push('\n'),
                    't' => content.push('\t'),
                    'r' => content.push('\r'),
                    'a' => content.push('\x07'),
                    'b' => content.push('\x08'),
                    'f' => content.push('\x0c'),
                    'v' => content.push('\x0b'),
                    '0' => content.push('\0'),
                    '\n' => {}
                    'x' => content.push(self.code(2)?),
                    'u' => content.push(self.code(4)?),
                    'U' => content.push(self.code(8)?),
                    c @ ('\\' | '\'' | '"') => content.push(c),
                    other => content.extend(['\\', other]),
                },
                c => content.push(c),
            }
        }
        self.json.push_str(&serde_json::to_string(&content).ok()?);
        Some(())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// The character whose code point the next digits give, in hexadecimal.
    fn code(&mut self, digits: usize) -> Option<char> {
        let word = self.rest().get(..digits)?;
        let code = u32::from_str_radix(word, 16).ok()?;
        self.at += digits;
        char::from_u32(code)
    }

    fn number(&mut self) -> Option<()> {
        let end = self.rest().find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let word = &self.text[self.at..end.map_or(self.text.len(), |end| self.at + end)];
        let number: f64 = word.parse().ok()?;
        // JSON has neither `1.` nor `.5`.
        match serde_json::from_str::<serde_json::Value>(word) {
            Ok(_) => self.json.push_str(word),
            Err(_) => self.json.push_str(&serde_json::to_string(&number).ok()?),
        }
        self.at += word.len();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &'static str, text: &str) -> Read<Value<'static>> {
        let mut row = Object(vec![(key, Value::Text(text.to_string().into()))]);
        unfold(&mut row, &Names::default())?;
        Ok(row.take(key).unwrap())
    }

    fn contents(value: Value<'_>) -> Vec<String> {
        match value {
            Value::List(items) => items.into_iter().flat_map(contents).collect(),
            Value::Object(mut object) => match object.take("messages") {
                Some(list) => contents(list),
                None => vec![object.text("content").unwrap().into_owned()],
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_of_messages_are_read_in_every_notation() {
        for text in [
            r#"[{"role": "user", "content": "it's \"so\"\n\u00e9"}]"#,
            r#" [{"content": "it's \"so\"\n\u00e9", "role": "user"}] "#,
            r#"[{'role': 'user', 'content': 'it\'s "so"\n\xe9'}]"#,
            r#"[{'role': 'user', 'content': "it's \"so\"\n\u00e9", 'name': None}]"#,
            r#"array([{'content': "it's \"so\"\n\xe9", 'role': 'user'}], dtype=object)"#,
            r#"{"messages": [{"role": "user", "content": "it's \"so\"\n\u00e9"}]}"#,
            r#"{'messages': [{'role': 'user', 'content': 'it\'s "so"\né'}]}"#,
            r#"{"role": "user", "content": "it's \"so\"\n\u00e9"}"#,
        ] {
            assert_eq!(contents(row("prompt", text).unwrap()), ["it's \"so\"\n\u{e9}"], "{text}");
        }
        let numpy = "[{'content': 'a', 'role': 'user'}\n {'content': 'b', 'role': 'assistant'}]";
        assert_eq!(contents(row("chosen", numpy).unwrap()), ["a", "b"]);
    }

    #[test]
    fn other_lists_are_read_where_a_list_is_wanted() {
        let Value::List(rounds) = row("history", "[['Hello', 'Hi.'], (\"a\", 'b')]").unwrap() else { panic!() };
        assert_eq!(rounds.len(), 2);
        let Value::List(items) = row("completions", "[{'rank': 0, 'completion': 'x'}, {'rank': 1.}]").unwrap() else {
            panic!()
        };
        let Value::Object(object) = &items[1] else { panic!() };
        assert_eq!(object.get("rank"), Some(&Value::Number(1.0)));
    }

    #[test]
    fn texts_stay_texts() {
        for text in [
            "[1, 2, 3]",
            "{\"name\": \"x\"}",
            "[{\"role\": \"admin\", \"content\": \"x\"}]",
            "[citation needed] and {braces}",
            "[{'role': 'user', 'content': 'x'}] is how messages are written.",
            "[]",
            "array(",
        ] {
            assert_eq!(row("prompt", text).unwrap(), Value::Text(text.into()), "{text}");
        }
        // In a column that holds no messages.
        let text = "[{'role': 'user', 'content': 'x'}]";
        assert_eq!(row("source", text).unwrap(), Value::Text(text.into()));
    }

    #[test]
    fn what_looks_like_messages_and_cannot_be_read_is_a_fault() {
        for text in [
            "[{'role': 'user', 'content': <object at 0x1>}]",
            "[{\"role\": \"user\", \"content\": \"a\"} and more]",
            "{'messages': [{'role': 'user', 'content': unquoted}]}",
        ] {
            let fault = row("chosen", text).unwrap_err();
            assert_eq!((fault.reason, fault.field.as_str()), (reason::WRONG_TYPE, "chosen"), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_left(text in r#"[\[{(]['"a-z:,\\ \]\[{}()0-9.]{0,60}"#) {
            let _ = row("prompt", &text);
        }
    }
}
