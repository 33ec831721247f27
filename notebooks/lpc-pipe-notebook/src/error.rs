//! What went wrong, with the file and the column.

use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with the file and the column.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, or the name of a table that was computed.
    pub file: String,
    /// The column, where one is at fault.
    pub column: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

impl Error {
    pub(crate) fn new(file: &str, problem: impl Into<String>) -> Self {
        Self { file: file.into(), column: None, problem: problem.into() }
    }

    pub(crate) fn of(file: &str, column: &str, problem: impl Into<String>) -> Self {
        Self { file: file.into(), column: Some(column.into()), problem: problem.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "{}: column `{column}`: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

/// A notebook prints the error of a cell with `Debug`: it reads the same.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Error {}
