//! Flags as a table of the recipe's shape, with the names they were typed by.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::error::Error;

/// What the flags of a command set.
#[derive(Debug, Default)]
pub struct Flags {
    /// Nested as the recipe is.
    pub table: Table,
    /// Dotted key -> flag.
    pub names: BTreeMap<String, String>,
}

/// What a flag may hold.
pub trait FlagValue {
    /// As TOML.
    fn into_toml(self) -> Value;
}

impl FlagValue for String {
    fn into_toml(self) -> Value {
        Value::String(self)
    }
}

impl FlagValue for f64 {
    fn into_toml(self) -> Value {
        Value::Float(self)
    }
}

impl FlagValue for bool {
    fn into_toml(self) -> Value {
        Value::Boolean(self)
    }
}

impl FlagValue for u64 {
    fn into_toml(self) -> Value {
        // TOML's integers are signed; a larger seed is refused by the recipe as a string.
        i64::try_from(self).map_or_else(|_| Value::String(self.to_string()), Value::Integer)
    }
}

impl FlagValue for usize {
    fn into_toml(self) -> Value {
        (self as u64).into_toml()
    }
}

impl FlagValue for Vec<String> {
    fn into_toml(self) -> Value {
        Value::Array(self.into_iter().map(Value::String).collect())
    }
}

impl Flags {
    /// Sets `key` (dotted) where the flag was given.
    pub fn put<T: FlagValue>(&mut self, key: &str, flag: &str, value: Option<T>) {
        let Some(value) = value else { return };
        self.names.insert(key.to_string(), flag.to_string());
        let mut parts: Vec<&str> = key.split('.').collect();
        let Some(last) = parts.pop() else { return };
        let mut table = &mut self.table;
        for part in parts {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else { return };
            table = inner;
        }
        table.insert(last.to_string(), value.into_toml());
    }

    /// The same error with the flags that were given beside the keys at fault.
    pub fn named(&self, error: Error) -> Error {
        let Error::Config(mut faults) = error else { return error };
        for fault in faults.iter_mut().filter(|fault| fault.origin.is_empty()) {
            if let Some(flag) = self.names.get(&fault.key) {
                fault.origin = format!("flag {flag}");
            }
        }
        Error::Config(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_nest_as_the_recipe_does() {
        let mut flags = Flags::default();
        flags.put("train.lpc.codes", "--codes", Some(16usize));
        flags.put("train.batch", "--batch", Some(4usize));
        flags.put("train.lr", "--lr", None::<f64>);
        assert_eq!(toml::to_string(&flags.table).unwrap(), "[train]\nbatch = 4\n\n[train.lpc]\ncodes = 16\n");
        assert_eq!(flags.names["train.lpc.codes"], "--codes");
    }
}
