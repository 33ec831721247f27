//! A row of a benchmark's file, with its place for messages.

use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};

/// One row.
#[derive(Debug, Clone)]
pub struct BenchmarkRow {
    /// The file, as the user knows it.
    pub file: PathBuf,
    /// Its line, or its number from 1.
    pub line: u64,
    /// Its fields.
    pub value: Value,
}

impl BenchmarkRow {
    /// A fault of a field of this row.
    pub fn fault(&self, field: &str, message: impl Into<String>) -> Error {
        let field = (!field.is_empty()).then(|| field.to_string());
        Error::Data { path: self.file.clone(), line: Some(self.line), field, message: message.into(), hint: None }
    }

    /// The value at a dotted path; null where there is none.
    pub fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.value, |value, part| value.get(part).unwrap_or(&Value::Null))
    }

    /// The text at a dotted path.
    ///
    /// # Errors
    /// [`Error::Data`] where there is none.
    pub fn text(&self, path: &str) -> Result<&str> {
        self.at(path).as_str().ok_or_else(|| self.fault(path, "expected a text"))
    }

    /// The texts at a dotted path.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no list of texts.
    pub fn texts(&self, path: &str) -> Result<Vec<String>> {
        let items = self.at(path).as_array().map(|items| items.iter().map(|x| x.as_str().map(str::to_string)));
        items
            .and_then(|items| items.collect::<Option<Vec<String>>>())
            .ok_or_else(|| self.fault(path, "expected a list of texts"))
    }
}
