//! Parquet: columns taken apart once per slice, rows then read as the same loosely
//! typed values as JSON lines, texts borrowed from the columns.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use polars::prelude::*;

use super::Input;
use super::value::{Object, Value, known};
use crate::error::{Error, Result};

/// Rows decoded at once at most; a row group is never read in more pieces than needed.
const SLICE_ROWS: usize = 8192;

/// A Parquet file, read slice by slice.
pub struct Source<'a> {
    input: &'a Input,
    columns: Vec<String>,
    /// Offset and length of each slice.
    slices: Vec<(usize, usize)>,
}

impl<'a> Source<'a> {
    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// [`Error::Data`] where it is damaged, has no rows or no known column.
    pub fn open(input: &'a Input) -> Result<Source<'a>> {
        let file = File::open(&input.path).map_err(Error::io(&input.label))?;
        let (names, groups) = guarded(input, || {
            let mut reader = ParquetReader::new(file);
            let names: Vec<String> = reader.schema()?.iter_names().map(|n| n.to_string()).collect();
            let groups: Vec<usize> = reader.get_metadata()?.row_groups.iter().map(|g| g.num_rows()).collect();
            Ok((names, groups))
        })?;
        if groups.iter().sum::<usize>() == 0 {
            return Err(input.fault(None, "the file has no rows"));
        }
        let columns: Vec<String> = names.iter().filter(|n| known(n).is_some()).cloned().collect();
        if columns.is_empty() {
            let message = format!("none of the columns is known: {}", names.join(", "));
            return Err(input.fault(None, &message));
        }
        let mut slices = Vec::new();
        let mut start = 0;
        for rows in groups {
            for at in (0..rows).step_by(SLICE_ROWS) {
                slices.push((start + at, SLICE_ROWS.min(rows - at)));
            }
            start += rows;
        }
        Ok(Source { input, columns, slices })
    }

    /// The slices in order: the number of rows before each, and its columns.
    pub fn slices(&self) -> impl Iterator<Item = Result<(usize, Rows)>> {
        self.slices.iter().map(|slice| {
            let file = File::open(&self.input.path).map_err(Error::io(&self.input.label))?;
            let rows = guarded(self.input, || {
                let reader = ParquetReader::new(file).with_columns(Some(self.columns.clone()));
                Rows::new(&reader.with_slice(Some(*slice)).finish()?)
            })?;
            if rows.height != slice.1 {
                let message = format!("expected {} rows from row {}, read {}", slice.1, slice.0 + 1, rows.height);
                return Err(self.input.fault(None, &message));
            }
            Ok((slice.0, rows))
        })
    }
}

/// Runs a Parquet operation; a failure, and a panic that damaged bytes provoke in the
/// reader, is a fault of the file.
fn guarded<T>(input: &Input, work: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let what = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the reader gave up".to_string(),
    };
    Err(input.fault(None, &format!("not a readable Parquet file: {what}")))
}

/// A slice of rows.
pub struct Rows {
    /// Number of rows.
    pub height: usize,
    fields: Vec<(&'static str, Tree)>,
}

impl Rows {
    /// Takes a frame apart; columns that no layout reads are left out.
    ///
    /// # Errors
    /// A column that polars cannot give as it says it is.
    pub fn new(frame: &DataFrame) -> PolarsResult<Rows> {
        let mut fields = Vec::new();
        for column in frame.columns() {
            if let Some(key) = known(column.name()) {
                fields.push((key, Tree::new(column.as_materialized_series())?));
            }
        }
        Ok(Rows { height: frame.height(), fields })
    }

    /// The names of the columns that are read.
    pub fn keys(&self) -> Vec<String> {
        self.fields.iter().map(|(key, _)| key.to_string()).collect()
    }

    /// One row.
    pub fn row(&self, i: usize) -> Object<'_> {
        Object(self.fields.iter().map(|(key, tree)| (*key, tree.value(i))).collect())
    }
}

/// A column taken apart down to its flat parts.
enum Tree {
    Null,
    Text(StringChunked),
    Number(Float64Chunked),
    Bool(BooleanChunked),
    List { offsets: Vec<i64>, null: Vec<bool>, inner: Box<Tree> },
    Struct { null: Vec<bool>, fields: Vec<(&'static str, Tree)> },
    Other { kind: String, null: Vec<bool> },
}

impl Tree {
    fn new(series: &Series) -> PolarsResult<Tree> {
        let series = series.rechunk();
        let null = || -> Vec<bool> {
            if series.null_count() == 0 {
                return Vec::new();
            }
            series.is_null().iter().map(|b| b.unwrap_or(false)).collect()
        };
        Ok(match series.dtype() {
            DataType::Null => Tree::Null,
            DataType::String => Tree::Text(series.str()?.clone()),
            DataType::Boolean => Tree::Bool(series.bool()?.clone()),
            kind if kind.is_primitive_numeric() => Tree::Number(series.cast(&DataType::Float64)?.f64()?.clone()),
            DataType::List(_) => {
                let list = series.list()?;
                let offsets = list.downcast_iter().next().map_or_else(|| vec![0], |c| c.offsets().as_slice().to_vec());
                Tree::List { offsets, null: null(), inner: Box::new(Tree::new(&list.get_inner())?) }
            }
            DataType::Struct(_) => {
                let mut fields = Vec::new();
                for field in series.struct_()?.fields_as_series() {
                    if let Some(key) = known(field.name()) {
                        fields.push((key, Tree::new(&field)?));
                    }
                }
                Tree::Struct { null: null(), fields }
            }
            kind => Tree::Other { kind: kind.to_string(), null: null() },
        })
    }

    fn value(&self, i: usize) -> Value<'_> {
        let is_null = |null: &[bool]| null.get(i).copied().unwrap_or(false);
        match self {
            Tree::Text(texts) => texts.get(i).map_or(Value::Null, |t| Value::Text(t.into())),
            Tree::Number(numbers) => numbers.get(i).map_or(Value::Null, Value::Number),
            Tree::Bool(flags) => flags.get(i).map_or(Value::Null, Value::Bool),
            Tree::List { offsets, null, inner } if !is_null(null) => {
                Value::List((offsets[i] as usize..offsets[i + 1] as usize).map(|k| inner.value(k)).collect())
            }
            Tree::Struct { null, fields } if !is_null(null) => {
                Value::Object(Object(fields.iter().map(|(key, tree)| (*key, tree.value(i))).collect()))
            }
            Tree::Other { kind, null } if !is_null(null) => Value::Other(kind),
            _ => Value::Null,
        }
    }
}
