//! Parquet files.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use super::Table;
use crate::{Column, Error, Result};

/// What a column of a file holds, from its type in the file: a file without rows has its columns too.
enum Kind {
    Text,
    Integer,
    Float,
    Flag,
    List(Box<Kind>),
    Record,
    Other,
}

/// Largest integer up to which `f64` holds every one.
const EXACT: u64 = 1 << 53;

impl Table {
    /// A whole Parquet file.
    ///
    /// # Errors
    ///
    /// Where the file cannot be opened, is not Parquet, or has nulls or nested lists in its lists.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let file = path.as_ref().display().to_string();
        let opened = File::open(&path).map_err(|e| Error::new(&file, e.to_string()))?;
        let reader = SerializedFileReader::new(opened).map_err(|e| Error::new(&file, e.to_string()))?;
        let schema = reader.metadata().file_metadata().schema().clone();
        let mut cells: Vec<Vec<Field>> = schema.get_fields().iter().map(|_| Vec::new()).collect();
        // Columns that are not read are not decoded either: some of their types have no record form.
        let kinds: Vec<Kind> = schema.get_fields().iter().map(|f| kind(f)).collect();
        let read: Vec<usize> = (0..kinds.len()).filter(|i| known(&kinds[*i])).collect();
        let fields = read.iter().map(|i| schema.get_fields()[*i].clone()).collect();
        let projected = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let projected = projected.map_err(|e| Error::new(&file, e.to_string()))?;
        let mut rows = 0;
        if !read.is_empty() {
            for row in reader.get_row_iter(Some(projected)).map_err(|e| Error::new(&file, e.to_string()))? {
                let row = row.map_err(|e| Error::new(&file, format!("row {}: {e}", rows + 1)))?;
                for ((_, cell), place) in row.into_columns().into_iter().zip(&read) {
                    cells[*place].push(cell);
                }
                rows += 1;
            }
        }
        let mut table = Self::new(&file);
        for ((field, kind), cells) in schema.get_fields().iter().zip(&kinds).zip(cells) {
            if known(kind) {
                let column = column(kind, cells).map_err(|problem| Error::of(&file, field.name(), problem))?;
                table = table.with(field.name(), column)?;
            } else {
                table.unread.push((field.name().into(), type_name(field)));
            }
        }
        Ok(table)
    }
}

fn known(kind: &Kind) -> bool {
    match kind {
        Kind::Text | Kind::Integer | Kind::Float | Kind::Flag => true,
        Kind::List(item) => matches!(**item, Kind::Text | Kind::Integer | Kind::Float | Kind::Record),
        Kind::Record | Kind::Other => false,
    }
}

fn type_name(field: &Type) -> String {
    if field.is_group() { "group".into() } else { field.get_physical_type().to_string() }
}

fn kind(field: &Type) -> Kind {
    use parquet::basic::{ConvertedType as Converted, Type as Physical};
    let converted = field.get_basic_info().converted_type();
    if field.is_group() {
        if converted != Converted::LIST {
            return Kind::Record;
        }
        // optional group NAME (LIST) { repeated group list { optional TYPE element } }
        let inner = field.get_fields().first().filter(|list| list.is_group());
        return match inner.and_then(|list| list.get_fields().first()) {
            Some(element) => Kind::List(Box::new(kind(element))),
            None => Kind::Other,
        };
    }
    match (field.get_physical_type(), converted) {
        (Physical::BOOLEAN, _) => Kind::Flag,
        (Physical::FLOAT | Physical::DOUBLE, _) => Kind::Float,
        (Physical::BYTE_ARRAY, Converted::UTF8 | Converted::ENUM) => Kind::Text,
        (
            Physical::INT32 | Physical::INT64,
            Converted::NONE
            | Converted::INT_8
            | Converted::INT_16
            | Converted::INT_32
            | Converted::INT_64
            | Converted::UINT_8
            | Converted::UINT_16
            | Converted::UINT_32
            | Converted::UINT_64,
        ) => Kind::Integer,
        _ => Kind::Other,
    }
}

/// Values of a column, or what is wrong with them.
fn column(kind: &Kind, cells: Vec<Field>) -> std::result::Result<Column, String> {
    Ok(match kind {
        Kind::Text => Column::Text(each(&cells, text)?),
        Kind::Flag => Column::Flag(each(&cells, |f| match f {
            Field::Bool(v) => Ok(*v),
            other => Err(format!("`{other}` is not a flag")),
        })?),
        Kind::Float => Column::Number(each(&cells, number)?),
        Kind::Integer if cells.iter().all(exact) => Column::Number(each(&cells, number)?),
        Kind::Integer => Column::Text(each(&cells, |f| Ok(f.to_string()))?),
        Kind::List(item) => {
            let items = |f: &Field| match f {
                Field::ListInternal(list) => Ok(list.elements().to_vec()),
                other => Err(format!("`{other}` is not a list")),
            };
            let lists: Vec<Option<Vec<Field>>> = each(&cells, items)?;
            let numbers = match **item {
                Kind::Float => true,
                Kind::Integer => lists.iter().flatten().flatten().all(exact),
                _ => false,
            };
            if numbers {
                Column::Numbers(of_lists(&lists, number)?)
            } else if matches!(**item, Kind::Integer) {
                Column::Texts(of_lists(&lists, |f| match f {
                    Field::Null => text(f),
                    _ => Ok(f.to_string()),
                })?)
            } else {
                Column::Texts(of_lists(&lists, text)?)
            }
        }
        Kind::Record | Kind::Other => return Err("of a type that is not read".into()),
    })
}

fn each<T>(
    cells: &[Field],
    of: impl Fn(&Field) -> std::result::Result<T, String>,
) -> std::result::Result<Vec<Option<T>>, String> {
    let one = |(row, cell): (usize, &Field)| match cell {
        Field::Null => Ok(None),
        cell => of(cell).map(Some).map_err(|e| format!("row {}: {e}", row + 1)),
    };
    cells.iter().enumerate().map(one).collect()
}

fn of_lists<T>(
    lists: &[Option<Vec<Field>>],
    of: impl Fn(&Field) -> std::result::Result<T, String>,
) -> std::result::Result<Vec<Option<Vec<T>>>, String> {
    let one = |(row, list): (usize, &Option<Vec<Field>>)| match list {
        None => Ok(None),
        Some(items) => items.iter().map(&of).collect::<std::result::Result<_, _>>().map(Some).map_err(|e: String| {
            let row = row + 1;
            format!("row {row}: {e}")
        }),
    };
    lists.iter().enumerate().map(one).collect()
}

fn text(field: &Field) -> std::result::Result<String, String> {
    match field {
        Field::Str(text) => Ok(text.clone()),
        Field::Group(record) => fields(record),
        Field::Null => Err("a null in a list".into()),
        other => Err(format!("`{other}` is not a text")),
    }
}

/// A record as text: its fields, separated by `: `.
fn fields(record: &Row) -> std::result::Result<String, String> {
    let parts: std::result::Result<Vec<String>, String> = record
        .get_column_iter()
        .map(|(name, field)| match field {
            Field::Str(text) => Ok(text.clone()),
            other => Err(format!("`{other}` in field {name} is not a text")),
        })
        .collect();
    Ok(parts?.join(": "))
}

/// Whether `f64` holds the integer.
fn exact(field: &Field) -> bool {
    match field {
        Field::Long(v) => v.unsigned_abs() <= EXACT,
        Field::ULong(v) => *v <= EXACT,
        _ => true,
    }
}

fn number(field: &Field) -> std::result::Result<f64, String> {
    Ok(match field {
        Field::Byte(v) => f64::from(*v),
        Field::Short(v) => f64::from(*v),
        Field::Int(v) => f64::from(*v),
        Field::UByte(v) => f64::from(*v),
        Field::UShort(v) => f64::from(*v),
        Field::UInt(v) => f64::from(*v),
        // The caller has seen that these are exact.
        Field::Long(v) => *v as f64,
        Field::ULong(v) => *v as f64,
        Field::Float(v) => f64::from(*v),
        Field::Double(v) => *v,
        Field::Null => return Err("a null in a list".into()),
        other => return Err(format!("`{other}` is not a number")),
    })
}
