//! Checks of a written setting: it must be known, of the right type, and accepted by its struct.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::layers::Written;
use super::nearest;
use crate::error::Fault;

/// A setting that passed: its path and its value in the wanted type.
type Leaf = (Vec<String>, Value);

/// Why the settings of a group, or the one of a dotted key, have no effect on what is to be done; none where they have one.
pub type Idle<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The known keys: the serialized default.
pub(super) struct Known {
    defaults: Table,
    keys: Vec<String>,
}

impl Known {
    /// From the serialized default.
    pub fn new(defaults: Table) -> Known {
        fn walk(table: &Table, path: &mut Vec<String>, keys: &mut Vec<String>) {
            for (key, value) in table {
                path.push(key.clone());
                keys.push(path.join("."));
                if let Value::Table(inner) = value {
                    walk(inner, path, keys);
                }
                path.pop();
            }
        }
        let mut keys = Vec::new();
        walk(&defaults, &mut Vec::new(), &mut keys);
        Known { defaults, keys }
    }

    /// The default at a path.
    pub fn get(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.defaults.get(first)?, |value, key| value.as_table()?.get(key))
    }

    /// Checks one written setting, or all settings of a group where a table was written.
    pub fn accept<T: DeserializeOwned>(&self, written: &Written, idle: Idle<'_>) -> Result<Vec<Leaf>, Vec<Fault>> {
        let (mut leaves, mut faults) = (Vec::new(), Vec::new());
        let group = written.path.first().filter(|group| self.defaults.contains_key(*group));
        match group.and_then(|group| idle(group)) {
            Some(why) => faults.push((written.path.clone(), why)),
            None => self.walk(&written.path, &written.value, idle, &mut leaves, &mut faults),
        }
        leaves.retain(|(path, _)| match idle(&path.join(".")) {
            Some(why) => {
                faults.push((path.clone(), why));
                false
            }
            None => true,
        });
        let mut accepted = Vec::new();
        for (path, value) in leaves {
            // Tried alone on top of the defaults, so that a refusal belongs to this key.
            let mut trial = self.defaults.clone();
            put(&mut trial, &path, value.clone());
            match trial.try_into::<T>() {
                Ok(_) => accepted.push((path, value)),
                Err(e) => faults.push((path, explain(e.message(), &value))),
            }
        }
        if faults.is_empty() {
            return Ok(accepted);
        }
        let mut faults: Vec<Fault> = faults
            .into_iter()
            .map(|(path, message)| Fault { origin: written.origin_of(&path), ..Fault::new(path.join("."), message) })
            .collect();
        faults.sort_by_key(|f| line_and_column(&f.origin));
        Err(faults)
    }

    fn walk(
        &self,
        path: &[String],
        value: &Value,
        idle: Idle<'_>,
        leaves: &mut Vec<Leaf>,
        faults: &mut Vec<(Vec<String>, String)>,
    ) {
        // `--set a.b=1` may go wrong at `a` already.
        for end in 1..path.len() {
            match self.get(&path[..end]) {
                None => return faults.push((path.to_vec(), self.unknown(path, idle))),
                Some(Value::Table(_)) => {}
                Some(_) => {
                    let message = format!("unknown key: `{}` is one value, not a group", path[..end].join("."));
                    return faults.push((path.to_vec(), message));
                }
            }
        }
        match (self.get(path), value) {
            (None, _) if self.inside_free_table(path) => leaves.push((path.to_vec(), value.clone())),
            (None, _) => faults.push((path.to_vec(), self.unknown(path, idle))),
            // An empty table in the defaults is a map with keys of the user's choice.
            (Some(Value::Table(group)), Value::Table(_)) if group.is_empty() => {
                leaves.push((path.to_vec(), value.clone()));
            }
            (Some(Value::Table(_)), Value::Table(inner)) => {
                for (key, value) in inner {
                    let below: Vec<String> = path.iter().chain([key]).cloned().collect();
                    self.walk(&below, value, idle, leaves, faults);
                }
            }
            (Some(Value::Table(group)), _) => {
                let keys: Vec<&str> = group.keys().map(String::as_str).collect();
                faults.push((path.to_vec(), format!("a group of settings, not one value; its keys: {}", list(&keys))));
            }
            (Some(wanted), value) => match fit(wanted, value) {
                Ok(value) => leaves.push((path.to_vec(), value)),
                Err(message) => faults.push((path.to_vec(), message)),
            },
        }
    }

    fn inside_free_table(&self, path: &[String]) -> bool {
        path.len() > 1 && matches!(self.get(&path[..path.len() - 1]), Some(Value::Table(t)) if t.is_empty())
    }

    /// That a key is unknown, and what may have been meant: of the keys that have an effect, if one of them is near.
    fn unknown(&self, path: &[String], idle: Idle<'_>) -> String {
        let why = |key: &str| idle(key.split('.').next().unwrap_or(key)).or_else(|| idle(key));
        let (wanted, keys) = (path.join("."), self.keys.iter().map(String::as_str));
        if let Some(key) = nearest(&wanted, keys.clone().filter(|key| why(key).is_none())) {
            return format!("unknown key; did you mean `{key}`?");
        }
        if let Some((key, why)) = nearest(&wanted, keys).and_then(|key| Some((key, why(key)?))) {
            return format!("unknown key; `{key}` {why}");
        }
        // The keys of the innermost group that exists are listed.
        let known = (0..path.len()).rev().find_map(|end| match end {
            0 => Some(&self.defaults),
            end => self.get(&path[..end]).and_then(Value::as_table),
        });
        let used = |key: &&str| path.len() > 1 || why(key).is_none();
        let keys: Vec<&str> = known.map(|t| t.keys().map(String::as_str).filter(used).collect()).unwrap_or_default();
        format!("unknown key; known here: {}", list(&keys))
    }
}

/// Line and column at the end of an origin, by which the faults of a file are sorted from top to bottom.
fn line_and_column(origin: &str) -> (usize, usize) {
    let mut parts = origin.rsplit(':');
    let column = parts.next().and_then(|p| p.parse().ok());
    let line = parts.next().and_then(|p| p.parse().ok());
    (line.unwrap_or(0), column.unwrap_or(0))
}

/// Sets a path in a table, making the groups on the way.
pub(super) fn put(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// The value in the type of the default, or what is wrong with it.
fn fit(wanted: &Value, given: &Value) -> Result<Value, String> {
    match (wanted, given) {
        (Value::Float(_), Value::Integer(i)) => Ok(Value::Float(*i as f64)),
        (Value::Float(w), Value::Float(g)) if w.is_finite() && !g.is_finite() => {
            Err(format!("expected a finite number, got {g}"))
        }
        (Value::Array(wanted), Value::Array(given)) => {
            // An empty default does not tell the type of the items; the struct checks it.
            let Some(item) = wanted.first().filter(|w| !w.is_table()) else { return Ok(Value::Array(given.clone())) };
            let fitted =
                given.iter().enumerate().map(|(i, g)| fit(item, g).map_err(|e| format!("item {}: {e}", i + 1)));
            fitted.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        (wanted, given) if wanted.same_type(given) => Ok(given.clone()),
        (Value::Array(_), given) if !given.is_table() => {
            Err(format!("expected {}, got {}; write [{given}]", kind(wanted), shown(given)))
        }
        (Value::Integer(_), Value::Float(g)) if g.fract() == 0.0 && g.abs() < 1e15 => {
            Err(format!("expected an integer, got {}; write {g}", shown(given)))
        }
        _ => Err(format!("expected {}, got {}", kind(wanted), shown(given))),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::String(_) => "a string".into(),
        Value::Integer(_) => "an integer".into(),
        Value::Float(_) => "a number".into(),
        Value::Boolean(_) => "true or false".into(),
        Value::Datetime(_) => "a date".into(),
        Value::Table(_) => "a table".into(),
        Value::Array(items) => match items.first() {
            Some(Value::String(_)) => "a list of strings".into(),
            Some(Value::Integer(_)) => "a list of integers".into(),
            Some(Value::Float(_)) => "a list of numbers".into(),
            Some(Value::Boolean(_)) => "a list of true or false".into(),
            _ => "a list".into(),
        },
    }
}

fn shown(value: &Value) -> String {
    let what = match value {
        Value::String(_) => "the string ",
        Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => "",
        Value::Datetime(_) => "the date ",
        Value::Array(_) => "the list ",
        Value::Table(_) => "a table",
    };
    if value.is_table() {
        return what.into();
    }
    let text = value.to_string();
    let short: String = text.chars().take(60).collect();
    format!("{what}{short}{}", if short.len() < text.len() { "..." } else { "" })
}

fn list(keys: &[&str]) -> String {
    if keys.is_empty() { "none".into() } else { keys.join(", ") }
}

/// The struct's error message in the terms of the configuration.
fn explain(message: &str, value: &Value) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    for (opening, what) in [("unknown variant `", "value"), ("unknown field `", "key")] {
        if message.starts_with(opening) && quoted.len() > 1 {
            let (found, allowed) = (quoted[0], &quoted[1..]);
            let meant = nearest(found, allowed.iter().copied());
            let meant = meant.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return format!("unknown {what} `{found}`; expected one of: {}{meant}", allowed.join(", "));
        }
    }
    let expected = message.rsplit_once(", expected ").map(|(_, e)| e.trim());
    let wanted = match expected {
        Some("usize" | "u64") => "an integer of 0 or more",
        Some("u32") => "an integer from 0 to 4294967295",
        Some("u16") => "an integer from 0 to 65535",
        Some("u8") => "an integer from 0 to 255",
        Some("isize" | "i64" | "i32") => "an integer",
        Some("f64" | "f32") => "a number",
        Some("a boolean") => "true or false",
        Some(other) if message.starts_with("invalid") => other,
        _ => return message.to_string(),
    };
    let every = if value.is_array() && wanted != "a sequence" { "every item to be " } else { "" };
    format!("expected {every}{wanted}, got {}", shown(value))
}
