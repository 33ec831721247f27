//! Token batches on disk: Arrow IPC files, one row per pair.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, ListArray, ListBuilder, RecordBatch, StringArray,
    StringBuilder, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::col;

/// Rows per record batch; fixed, so that bytes do not depend on threads.
pub const ROWS_PER_BATCH: usize = 4096;

/// One tokenized pair, labels as observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRow {
    /// Pair id.
    pub id: String,
    /// Prompt tokens, generation prompt included.
    pub prompt_ids: Vec<u32>,
    /// Observed chosen response with its end of turn.
    pub chosen_ids: Vec<u32>,
    /// Observed rejected response with its end of turn.
    pub rejected_ids: Vec<u32>,
    /// Whether anything was cut.
    pub truncated: bool,
    /// Whether the observed label is the opposite of the clean one.
    pub flipped: bool,
    /// Source tag.
    pub source: String,
}

/// The Arrow schema of a token file.
pub fn schema() -> Schema {
    let ids = |name| Field::new(name, DataType::List(Arc::new(Field::new("item", DataType::UInt32, false))), false);
    Schema::new(vec![
        Field::new(col::ID, DataType::Utf8, false),
        ids(col::PROMPT_IDS),
        ids(col::CHOSEN_IDS),
        ids(col::REJECTED_IDS),
        Field::new(col::N_PROMPT, DataType::UInt32, false),
        Field::new(col::N_CHOSEN, DataType::UInt32, false),
        Field::new(col::N_REJECTED, DataType::UInt32, false),
        Field::new(col::TRUNCATED, DataType::Boolean, false),
        Field::new(col::FLIPPED, DataType::Boolean, false),
        Field::new(col::SOURCE, DataType::Utf8, false),
    ])
}

/// Rows as one record batch.
fn to_batch(schema: &Arc<Schema>, rows: &[TokenRow]) -> Result<RecordBatch> {
    let lists = |get: fn(&TokenRow) -> &Vec<u32>| -> ArrayRef {
        let item = Field::new("item", DataType::UInt32, false);
        let mut builder = ListBuilder::new(UInt32Builder::new()).with_field(item);
        for row in rows {
            builder.values().append_slice(get(row));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let strings = |get: fn(&TokenRow) -> &String| -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter().for_each(|r| builder.append_value(get(r)));
        Arc::new(builder.finish())
    };
    let counts = |get: fn(&TokenRow) -> usize| -> ArrayRef {
        let mut builder = UInt32Builder::new();
        rows.iter().for_each(|r| builder.append_value(get(r) as u32));
        Arc::new(builder.finish())
    };
    let flags = |get: fn(&TokenRow) -> bool| -> ArrayRef {
        let mut builder = BooleanBuilder::new();
        rows.iter().for_each(|r| builder.append_value(get(r)));
        Arc::new(builder.finish())
    };
    Ok(RecordBatch::try_new(
        schema.clone(),
        vec![
            strings(|r| &r.id),
            lists(|r| &r.prompt_ids),
            lists(|r| &r.chosen_ids),
            lists(|r| &r.rejected_ids),
            counts(|r| r.prompt_ids.len()),
            counts(|r| r.chosen_ids.len()),
            counts(|r| r.rejected_ids.len()),
            flags(|r| r.truncated),
            flags(|r| r.flipped),
            strings(|r| &r.source),
        ],
    )?)
}

/// Writes token rows as an Arrow IPC file, atomically; the rows are counted before the rename.
///
/// # Errors
/// [`Error::Io`], [`Error::Arrow`].
pub fn write(path: impl AsRef<Path>, rows: &[TokenRow]) -> Result<()> {
    let path = path.as_ref();
    let schema = Arc::new(schema());
    artifact::write_verified(
        path,
        |w| {
            let mut writer = FileWriter::try_new(w, &schema)?;
            for chunk in rows.chunks(ROWS_PER_BATCH) {
                writer.write(&to_batch(&schema, chunk)?)?;
            }
            writer.finish()?;
            Ok(())
        },
        |staged| {
            let found: usize = open(staged)?.map(|b| b.map(|b| b.num_rows())).sum::<Result<usize, _>>()?;
            if found != rows.len() {
                return Err(Error::artifact(path, format!("wrote {} rows, read back {found}", rows.len())));
            }
            Ok(())
        },
    )
}

fn open(path: &Path) -> Result<FileReader<File>> {
    let file = File::open(path).map_err(Error::io(path))?;
    FileReader::try_new(file, None).map_err(|e| Error::artifact(path, format!("not an Arrow IPC file: {e}")))
}

/// Reads a token file whole.
///
/// # Errors
/// [`Error::Io`]; [`Error::Artifact`] where the file is damaged or has another schema.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<TokenRow>> {
    let path = path.as_ref();
    let bad = |what: String| Error::artifact(path, what);
    let mut rows = Vec::new();
    for batch in open(path)? {
        let batch = batch.map_err(|e| bad(format!("damaged Arrow file: {e}")))?;
        let column = |name: &str, kind: &DataType| -> Result<&ArrayRef> {
            let column = batch.column_by_name(name).ok_or_else(|| bad(format!("no column `{name}`")))?;
            if column.data_type() != kind || column.null_count() > 0 {
                return Err(bad(format!("column `{name}`: expected {kind} without nulls, got {}", column.data_type())));
            }
            Ok(column)
        };
        let wanted = schema();
        let get = |name: &str| column(name, wanted.field_with_name(name)?.data_type());
        let text = |name: &str| -> Result<&StringArray> { Ok(get(name)?.as_string::<i32>()) };
        let list = |name: &str| -> Result<&ListArray> { Ok(get(name)?.as_list::<i32>()) };
        let flag = |name: &str| -> Result<&BooleanArray> { Ok(get(name)?.as_boolean()) };
        let (ids, sources) = (text(col::ID)?, text(col::SOURCE)?);
        let (prompts, chosen, rejected) = (list(col::PROMPT_IDS)?, list(col::CHOSEN_IDS)?, list(col::REJECTED_IDS)?);
        let (truncated, flipped) = (flag(col::TRUNCATED)?, flag(col::FLIPPED)?);
        let tokens = |list: &ListArray, i: usize| list.value(i).as_primitive::<UInt32Type>().values().to_vec();
        for i in 0..batch.num_rows() {
            rows.push(TokenRow {
                id: ids.value(i).to_string(),
                prompt_ids: tokens(prompts, i),
                chosen_ids: tokens(chosen, i),
                rejected_ids: tokens(rejected, i),
                truncated: truncated.value(i),
                flipped: flipped.value(i),
                source: sources.value(i).to_string(),
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.arrow");
        let rows: Vec<TokenRow> = (0..ROWS_PER_BATCH as u32 + 3)
            .map(|i| TokenRow {
                id: format!("{i:032x}"),
                prompt_ids: vec![i, 2, 3],
                chosen_ids: (0..i % 5).collect(),
                rejected_ids: vec![7],
                truncated: i % 2 == 0,
                flipped: i % 3 == 0,
                source: "s".into(),
            })
            .collect();
        write(&path, &rows).unwrap();
        assert_eq!(read(&path).unwrap(), rows);
        std::fs::write(&path, b"ARROW1 not really").unwrap();
        assert!(matches!(read(&path), Err(Error::Artifact { .. })));
    }
}
