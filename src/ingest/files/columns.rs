//! Record batches, taken apart once. Their rows are then read as the same loosely typed values as rows of text; texts
//! are borrowed from the columns.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, LargeStringArray, RecordBatch, StringArray,
    StringViewArray, StructArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;

use super::super::json::MOST_ITEMS;
use super::super::names::{Inner, Names, Step};
use super::super::value::{Object, UNREAD, Value};
use super::text::{BLOCK_BYTES, BLOCK_ROWS};

/// The columns of a batch that are read, under the names that layouts know.
pub struct Columns {
    pub height: usize,
    fields: Vec<(&'static str, Tree)>,
}

impl Columns {
    /// Takes a batch apart; columns that no layout reads are left out.
    pub fn new(batch: &RecordBatch, names: &Names) -> Result<Columns, ArrowError> {
        let mut fields = Vec::new();
        let schema = batch.schema();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            collect(names.top(field.name()), column, names, &mut fields)?;
        }
        Ok(Columns { height: batch.num_rows(), fields })
    }

    /// Whether there is a column under this name.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, _)| *key == name)
    }

    pub fn row(&self, i: usize) -> Object<'_> {
        Object(self.fields.iter().map(|(key, tree)| (*key, tree.value(i))).collect())
    }

    /// Bytes of text in a row, roughly. Shared texts count for every row.
    pub fn weight(&self, i: usize) -> u64 {
        self.fields.iter().map(|(_, tree)| tree.weight(i)).sum()
    }

    /// The rows in pieces of at most 8192 rows and, but for single rows, 16 MiB of text.
    pub fn pieces(&self) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let (mut start, mut taken) = (0, 0);
        for i in 0..self.height {
            let weight = self.weight(i);
            if i > start && (i - start == BLOCK_ROWS || taken + weight > BLOCK_BYTES as u64) {
                pieces.push(start..i);
                (start, taken) = (i, 0);
            }
            taken += weight;
        }
        if start < self.height {
            pieces.push(start..self.height);
        }
        pieces
    }
}

/// Takes a column apart if it is read, or else the renamed columns inside it.
fn collect(
    step: Step<'_>,
    column: &ArrayRef,
    names: &Names,
    out: &mut Vec<(&'static str, Tree)>,
) -> Result<(), ArrowError> {
    match step {
        Step::Take(name) => out.push((name, Tree::new(column, names)?)),
        Step::Into(node) => {
            if let Some(inner) = column.as_struct_opt() {
                for (field, column) in inner.fields().iter().zip(unmasked(inner)) {
                    collect(node.step(field.name()), &column?, names, out)?;
                }
            }
        }
        Step::Skip => {}
    }
    Ok(())
}

/// The columns of a struct, null where the struct is.
fn unmasked(outer: &StructArray) -> impl Iterator<Item = Result<ArrayRef, ArrowError>> {
    outer.columns().iter().map(|column| {
        let Some(nulls) = outer.nulls() else { return Ok(column.clone()) };
        let data = column.to_data().into_builder().nulls(NullBuffer::union(Some(nulls), column.nulls()));
        Ok(arrow::array::make_array(data.build()?))
    })
}

/// A column, taken apart down to its arrays of scalars.
enum Tree {
    Null,
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    Number(Float64Array),
    Whole(Int64Array),
    Unsigned(UInt64Array),
    Bool(BooleanArray),
    List {
        offsets: Vec<usize>,
        null: Option<NullBuffer>,
        inner: Box<Tree>,
    },
    Struct {
        null: Option<NullBuffer>,
        fields: Vec<(&'static str, Tree)>,
        /// Fields that no layout reads.
        unread: Vec<(String, Tree)>,
    },
    Other {
        kind: String,
        null: Option<NullBuffer>,
    },
}

impl Tree {
    fn new(column: &ArrayRef, names: &Names) -> Result<Tree, ArrowError> {
        let null = column.nulls().cloned();
        let list = |offsets: Vec<usize>, values: &ArrayRef| -> Result<Tree, ArrowError> {
            Ok(Tree::List { offsets, null: column.nulls().cloned(), inner: Box::new(Tree::new(values, names)?) })
        };
        Ok(match column.data_type() {
            DataType::Null => Tree::Null,
            DataType::Utf8 => Tree::Text(column.as_string().clone()),
            DataType::LargeUtf8 => Tree::LargeText(column.as_string().clone()),
            DataType::Utf8View => Tree::TextView(column.as_string_view().clone()),
            DataType::Boolean => Tree::Bool(column.as_boolean().clone()),
            // `f64` does not represent every integer of 64 bits.
            DataType::Int64 => Tree::Whole(column.as_primitive::<Int64Type>().clone()),
            DataType::UInt64 => Tree::Unsigned(column.as_primitive::<UInt64Type>().clone()),
            kind if kind.is_numeric() => {
                Tree::Number(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            DataType::Dictionary(_, value) if is_text(value) => Tree::new(&cast(column, &DataType::Utf8View)?, names)?,
            DataType::Dictionary(_, value) if value.is_numeric() => Tree::new(&cast(column, value)?, names)?,
            DataType::List(_) => {
                let array = column.as_list::<i32>();
                list(array.value_offsets().iter().map(|o| *o as usize).collect(), array.values())?
            }
            DataType::LargeList(_) => {
                let array = column.as_list::<i64>();
                list(array.value_offsets().iter().map(|o| *o as usize).collect(), array.values())?
            }
            DataType::FixedSizeList(_, size) => {
                let array = column.as_fixed_size_list();
                list((0..=array.len()).map(|i| i * *size as usize).collect(), array.values())?
            }
            DataType::Struct(_) => {
                let array = column.as_struct();
                let (mut fields, mut unread) = (Vec::new(), Vec::new());
                for (field, column) in array.fields().iter().zip(array.columns()) {
                    match names.inner(field.name()) {
                        Inner::Known(key) => fields.push((key, Tree::new(column, names)?)),
                        Inner::Unread => unread.push((field.name().clone(), Tree::new(column, names)?)),
                        Inner::Skip => {}
                    }
                }
                Tree::Struct { null, fields, unread }
            }
            kind => Tree::Other { kind: kind.to_string(), null },
        })
    }

    fn value(&self, i: usize) -> Value<'_> {
        let is_null = |null: &Option<NullBuffer>| null.as_ref().is_some_and(|n| n.is_null(i));
        match self {
            Tree::Text(texts) if texts.is_valid(i) => Value::Text(texts.value(i).into()),
            Tree::LargeText(texts) if texts.is_valid(i) => Value::Text(texts.value(i).into()),
            Tree::TextView(texts) if texts.is_valid(i) => Value::Text(texts.value(i).into()),
            Tree::Number(numbers) if numbers.is_valid(i) => Value::Number(numbers.value(i)),
            Tree::Whole(numbers) if numbers.is_valid(i) => Value::whole(numbers.value(i).into()),
            Tree::Unsigned(numbers) if numbers.is_valid(i) => Value::whole(numbers.value(i).into()),
            Tree::Bool(flags) if flags.is_valid(i) => Value::Bool(flags.value(i)),
            Tree::List { offsets, null, inner } if !is_null(null) => {
                let range = offsets[i]..offsets[i + 1];
                if range.len() > MOST_ITEMS {
                    return Value::Other("list of more than 65536 items");
                }
                Value::List(range.map(|k| inner.value(k)).collect())
            }
            Tree::Struct { null, fields, unread } if !is_null(null) => {
                let said = unread.iter().filter(|(_, tree)| tree.value(i).says_something());
                let unread = said.map(|(name, _)| (UNREAD, Value::Text(name.as_str().into())));
                Value::Object(Object(fields.iter().map(|(key, tree)| (*key, tree.value(i))).chain(unread).collect()))
            }
            Tree::Other { kind, null } if !is_null(null) => Value::Other(kind),
            _ => Value::Null,
        }
    }

    fn weight(&self, i: usize) -> u64 {
        match self {
            Tree::Text(texts) => texts.value_length(i).max(0) as u64,
            Tree::LargeText(texts) => texts.value_length(i).max(0) as u64,
            // The low half of a view is its length.
            Tree::TextView(texts) => u64::from(texts.views()[i] as u32),
            Tree::List { offsets, inner, .. } => {
                let range = offsets[i]..offsets[i + 1];
                let items = range.len().min(MOST_ITEMS);
                items as u64 * 8 + range.take(items).map(|k| inner.weight(k)).sum::<u64>()
            }
            Tree::Struct { fields, .. } => fields.iter().map(|(_, tree)| tree.weight(i)).sum(),
            Tree::Null | Tree::Number(_) | Tree::Whole(_) | Tree::Unsigned(_) | Tree::Bool(_) | Tree::Other { .. } => 8,
        }
    }
}

pub fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Collects the indices of a column's leaves that are read. `next` counts the leaves of all columns, read or not.
pub fn leaves(field: &Field, step: Option<Step<'_>>, names: &Names, next: &mut usize, out: &mut Vec<usize>) {
    let read = !matches!(step, Some(Step::Skip));
    match field.data_type() {
        DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => {
            let step = step.filter(|s| matches!(s, Step::Skip));
            leaves(inner, step, names, next, out);
        }
        DataType::Struct(fields) => {
            for field in fields {
                let below = match step {
                    Some(Step::Into(node)) => Some(node.step(field.name())),
                    Some(Step::Skip) => Some(Step::Skip),
                    _ if names.inner(field.name()) != Inner::Skip => None,
                    _ => Some(Step::Skip),
                };
                leaves(field, below, names, next, out);
            }
        }
        DataType::Map(entries, _) => leaves(entries, Some(Step::Skip), names, next, out),
        _ => {
            if read && !matches!(step, Some(Step::Into(_))) {
                out.push(*next);
            }
            *next += 1;
        }
    }
}
