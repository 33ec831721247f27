//! A table in memory.

mod group;
mod read;
#[cfg(test)]
mod tests;

pub use group::Groups;

use crate::{Column, Error, Result, Value};

/// A table in memory: columns of the same length, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The file it was read from, or what it was computed from: for messages.
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, Column)>,
    /// Columns of the file of a type that is not read, with that type.
    pub(crate) unread: Vec<(String, String)>,
    pub(crate) rows: usize,
}

impl Table {
    /// A table without columns and rows; `name` stands in messages.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), columns: Vec::new(), unread: Vec::new(), rows: 0 }
    }

    /// The table with one more column.
    ///
    /// # Errors
    ///
    /// Where the name is taken, or the column has another number of rows than the table.
    pub fn with(mut self, name: &str, column: Column) -> Result<Self> {
        if self.columns.iter().any(|(n, _)| n == name) {
            return Err(Error::of(&self.name, name, "there is such a column already"));
        }
        if !self.columns.is_empty() && column.rows() != self.rows {
            let problem = format!("{} rows, and the table has {}", column.rows(), self.rows);
            return Err(Error::of(&self.name, name, problem));
        }
        self.rows = column.rows();
        self.columns.push((name.into(), column));
        Ok(self)
    }

    /// The table with one more column of texts. See [`Self::with`].
    ///
    /// # Errors
    ///
    /// As [`Self::with`].
    pub fn with_texts(self, name: &str, values: impl IntoIterator<Item = String>) -> Result<Self> {
        self.with(name, Column::Text(values.into_iter().map(Some).collect()))
    }

    /// The table with one more column of numbers. See [`Self::with`].
    ///
    /// # Errors
    ///
    /// As [`Self::with`].
    pub fn with_numbers(self, name: &str, values: impl IntoIterator<Item = Option<f64>>) -> Result<Self> {
        self.with(name, Column::Number(values.into_iter().collect()))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names of the columns, in their order.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Whether there is such a column.
    pub fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|(n, _)| n == name)
    }

    /// A column by its name.
    ///
    /// # Errors
    ///
    /// Where there is none, or its type is not read.
    pub fn column(&self, name: &str) -> Result<&Column> {
        if let Some((_, column)) = self.columns.iter().find(|(n, _)| n == name) {
            return Ok(column);
        }
        if let Some((_, kind)) = self.unread.iter().find(|(n, _)| n == name) {
            return Err(Error::of(&self.name, name, format!("columns of type {kind} are not read")));
        }
        Err(Error::of(&self.name, name, format!("no such column; there are {}", self.names().join(", "))))
    }

    fn kind_error(&self, name: &str, wanted: &str, column: &Column) -> Error {
        Error::of(&self.name, name, format!("holds {}, not {wanted}", column.kind()))
    }

    /// Values without nulls.
    fn all<T: Clone>(&self, name: &str, values: &[Option<T>]) -> Result<Vec<T>> {
        let row = |i: usize| Error::of(&self.name, name, format!("row {} is null", i + 1));
        values.iter().enumerate().map(|(i, v)| v.clone().ok_or_else(|| row(i))).collect()
    }

    /// A column of texts.
    ///
    /// # Errors
    ///
    /// Where there is no such column, it holds something else, or a row is null.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        match self.column(name)? {
            Column::Text(values) => self.all(name, values),
            other => Err(self.kind_error(name, "texts", other)),
        }
    }

    /// A column of numbers, with its nulls.
    ///
    /// # Errors
    ///
    /// Where there is no such column, or it holds something else.
    pub fn numbers(&self, name: &str) -> Result<Vec<Option<f64>>> {
        match self.column(name)? {
            Column::Number(values) => Ok(values.clone()),
            other => Err(self.kind_error(name, "numbers", other)),
        }
    }

    /// A column of numbers without nulls.
    ///
    /// # Errors
    ///
    /// As [`Self::numbers`], and where a row is null.
    pub fn all_numbers(&self, name: &str) -> Result<Vec<f64>> {
        self.all(name, &self.numbers(name)?)
    }

    /// A column of flags.
    ///
    /// # Errors
    ///
    /// Where there is no such column, it holds something else, or a row is null.
    pub fn flags(&self, name: &str) -> Result<Vec<bool>> {
        match self.column(name)? {
            Column::Flag(values) => self.all(name, values),
            other => Err(self.kind_error(name, "flags", other)),
        }
    }

    /// A column of lists of texts.
    ///
    /// # Errors
    ///
    /// Where there is no such column, it holds something else, or a row is null.
    pub fn text_lists(&self, name: &str) -> Result<Vec<Vec<String>>> {
        match self.column(name)? {
            Column::Texts(values) => self.all(name, values),
            other => Err(self.kind_error(name, "lists of texts", other)),
        }
    }

    /// A column of lists of numbers.
    ///
    /// # Errors
    ///
    /// Where there is no such column, it holds something else, or a row is null.
    pub fn number_lists(&self, name: &str) -> Result<Vec<Vec<f64>>> {
        match self.column(name)? {
            Column::Numbers(values) => self.all(name, values),
            other => Err(self.kind_error(name, "lists of numbers", other)),
        }
    }

    /// Values of a column that can be compared.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<Value>> {
        let column = self.column(name)?;
        let lists = || self.kind_error(name, "single values", column);
        (0..self.rows).map(|row| column.value(row).ok_or_else(lists)).collect()
    }

    /// The rows at `places`, in that order.
    fn take(&self, places: &[usize]) -> Self {
        let places: Vec<Option<usize>> = places.iter().copied().map(Some).collect();
        let columns = self.columns.iter().map(|(name, column)| (name.clone(), column.take(&places))).collect();
        Self { columns, rows: places.len(), name: self.name.clone(), unread: self.unread.clone() }
    }

    /// The named columns alone, in the given order.
    ///
    /// # Errors
    ///
    /// Where one of them is not there, or is named twice.
    pub fn select(&self, names: &[&str]) -> Result<Self> {
        names.iter().try_fold(Self::new(&self.name), |table, name| table.with(name, self.column(name)?.clone()))
    }

    /// The rows whose place in `mask` is true.
    ///
    /// # Errors
    ///
    /// Where the mask has another length than the table.
    pub fn filter(&self, mask: &[bool]) -> Result<Self> {
        if mask.len() != self.rows {
            let problem = format!("a filter of {} rows for a table of {}", mask.len(), self.rows);
            return Err(Error::new(&self.name, problem));
        }
        let places: Vec<usize> = mask.iter().enumerate().filter(|(_, keep)| **keep).map(|(i, _)| i).collect();
        Ok(self.take(&places))
    }

    /// The rows whose value in a column is the given one.
    ///
    /// # Errors
    ///
    /// Where there is no such column, or it holds lists or values of another type than the given one.
    pub fn keep(&self, name: &str, value: impl Into<Value>) -> Result<Self> {
        let value = value.into();
        let column = self.column(name)?;
        let same = match value {
            Value::Text(_) => matches!(column, Column::Text(_)),
            Value::Number(_) => matches!(column, Column::Number(_)),
            Value::Flag(_) => matches!(column, Column::Flag(_)),
            Value::Null => !matches!(column, Column::Texts(_) | Column::Numbers(_)),
        };
        if !same {
            return Err(self.kind_error(name, "values of the type of the given one", column));
        }
        let mask: Vec<bool> = self.values(name)?.iter().map(|v| *v == value).collect();
        self.filter(&mask)
    }

    /// The rows in ascending order of a column, nulls first; equal ones stay as they are.
    ///
    /// # Errors
    ///
    /// Where there is no such column, or it holds lists.
    pub fn sort(&self, name: &str) -> Result<Self> {
        let values = self.values(name)?;
        let mut places: Vec<usize> = (0..self.rows).collect();
        places.sort_by(|a, b| values[*a].cmp(&values[*b]));
        Ok(self.take(&places))
    }

    /// The first rows, at most `rows`.
    pub fn head(&self, rows: usize) -> Self {
        self.take(&(0..self.rows.min(rows)).collect::<Vec<_>>())
    }

    /// The rows in reverse order.
    pub fn reverse(&self) -> Self {
        self.take(&(0..self.rows).rev().collect::<Vec<_>>())
    }
}
