//! Groups of rows, and joins.

use std::collections::BTreeMap;

use super::Table;
use crate::{Column, Error, Result, Value, mean};

/// Rows of a table by the values of some of its columns, in ascending order of those.
#[derive(Debug, Clone)]
pub struct Groups<'a> {
    table: &'a Table,
    keys: Vec<String>,
    /// Rows of each group.
    groups: Vec<Vec<usize>>,
}

impl Table {
    /// The rows by the values of the named columns. Null is a value of its own.
    ///
    /// # Errors
    ///
    /// Where one of the columns is not there, or holds lists.
    pub fn group(&self, keys: &[&str]) -> Result<Groups<'_>> {
        let values = keys.iter().map(|key| self.values(key)).collect::<Result<Vec<_>>>()?;
        let mut groups: BTreeMap<Vec<&Value>, Vec<usize>> = BTreeMap::new();
        for row in 0..self.rows {
            groups.entry(values.iter().map(|v| &v[row]).collect()).or_default().push(row);
        }
        let groups = groups.into_values().collect();
        Ok(Groups { table: self, keys: keys.iter().map(|k| k.to_string()).collect(), groups })
    }

    /// This table with the columns of another one that it does not have, of the row with the same key; null where the other
    /// table has no such row.
    ///
    /// # Errors
    ///
    /// Where the key is not there, or the other table has a key twice.
    pub fn join(&self, other: &Self, key: &str) -> Result<Self> {
        let mut places: BTreeMap<Value, usize> = BTreeMap::new();
        for (row, value) in other.values(key)?.into_iter().enumerate() {
            if places.insert(value, row).is_some() {
                return Err(Error::of(&other.name, key, format!("the value of row {} is there twice", row + 1)));
            }
        }
        let at: Vec<Option<usize>> = self.values(key)?.iter().map(|v| places.get(v).copied()).collect();
        let new = other.columns.iter().filter(|(name, _)| !self.has(name));
        new.into_iter().try_fold(self.clone(), |table, (name, column)| table.with(name, column.take(&at)))
    }
}

impl Groups<'_> {
    /// The keys of each group, and `n`, its number of rows.
    ///
    /// # Errors
    ///
    /// Where one of the keys is called `n`, or a key is named twice.
    pub fn count(&self) -> Result<Table> {
        // A group has at least one row: it is one because of that row.
        let first: Vec<Option<usize>> = self.groups.iter().map(|rows| rows.first().copied()).collect();
        let mut table = Table::new(&self.table.name);
        for key in &self.keys {
            table = table.with(key, self.table.column(key)?.take(&first))?;
        }
        table.with("n", Column::Number(self.groups.iter().map(|rows| Some(rows.len() as f64)).collect()))
    }

    /// The keys of each group, `n`, and the mean of each of the named columns over the rows that have a value; null where
    /// none has. A flag counts as 1 where it is true, so that its mean is a share.
    ///
    /// # Errors
    ///
    /// As [`Self::count`], and where one of the columns is not there or holds neither numbers nor flags.
    pub fn mean(&self, columns: &[&str]) -> Result<Table> {
        let mut table = self.count()?;
        for name in columns {
            let values: Vec<Option<f64>> = match self.table.column(name)? {
                Column::Number(values) => values.clone(),
                Column::Flag(values) => values.iter().map(|v| v.map(f64::from)).collect(),
                other => {
                    let problem = format!("holds {}, which have no mean", other.kind());
                    return Err(Error::of(&self.table.name, name, problem));
                }
            };
            let means = self.groups.iter().map(|rows| mean(rows.iter().map(|row| values[*row])));
            table = table.with(name, Column::Number(means.collect()))?;
        }
        Ok(table)
    }
}
