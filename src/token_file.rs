//! Token batches on disk: Arrow IPC files, one row per pair.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array, UInt32Builder,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt32Type};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::col;

mod mapped;
mod text;

pub use mapped::visited;
pub use text::RowText;

/// Token ids: a part of a mapped file, or numbers in memory.
pub type TokenIds = ScalarBuffer<u32>;

/// Rows per record batch; fixed, so that bytes do not depend on threads.
pub const ROWS_PER_BATCH: usize = 4096;

/// One tokenized pair, labels as observed. Rows that were [`read`] hold no copies: texts and tokens are parts of the mapped
/// file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenRow {
    /// Pair id.
    pub id: RowText,
    /// Prompt tokens, generation prompt included.
    pub prompt_ids: TokenIds,
    /// Observed chosen response with its end of turn.
    pub chosen_ids: TokenIds,
    /// Observed rejected response with its end of turn.
    pub rejected_ids: TokenIds,
    /// Whether anything was cut.
    pub truncated: bool,
    /// Whether the observed label is the opposite of the clean one.
    pub flipped: bool,
    /// Source tag.
    pub source: RowText,
    /// SHA-256 of the prompt text.
    pub prompt_id: RowText,
    /// Noise model.
    pub noise_kind: RowText,
    /// Probability with which the label was to be flipped.
    pub noise_p: f64,
    /// Weight of the pair's loss in training; none where the input gave none, which is a weight of 1.
    pub weight: Option<f64>,
}

impl TokenRow {
    /// The factor of the pair's loss in training.
    pub fn loss_weight(&self) -> f64 {
        self.weight.unwrap_or(1.0)
    }
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
        Field::new(col::PROMPT_ID, DataType::Utf8, false),
        Field::new(col::NOISE_KIND, DataType::Utf8, false),
        Field::new(col::NOISE_P, DataType::Float64, false),
        Field::new(col::WEIGHT, DataType::Float64, true),
    ])
}

/// Rows as one record batch.
fn to_batch(schema: &Arc<Schema>, rows: &[TokenRow]) -> Result<RecordBatch> {
    let lists = |get: fn(&TokenRow) -> &TokenIds| -> ArrayRef {
        let item = Field::new("item", DataType::UInt32, false);
        let mut builder = ListBuilder::new(UInt32Builder::new()).with_field(item);
        for row in rows {
            builder.values().append_slice(get(row));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let strings =
        |get: fn(&TokenRow) -> &RowText| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(get))) };
    let counts = |get: fn(&TokenRow) -> usize| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| get(r) as u32)))
    };
    let flags = |get: fn(&TokenRow) -> bool| -> ArrayRef {
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(get(r)))))
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
            strings(|r| &r.prompt_id),
            strings(|r| &r.noise_kind),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.noise_p))),
            Arc::new(rows.iter().map(|r| r.weight).collect::<Float64Array>()),
        ],
    )?)
}

/// Writes token rows as an Arrow IPC file, atomically; the rows are counted before the rename.
///
/// # Errors
/// [`Error::Io`], [`Error::Arrow`].
pub fn write(path: impl AsRef<Path>, rows: &[TokenRow]) -> Result<()> {
    write_pieces(path, std::iter::once(pack(rows))).map(|_| ())
}

/// Rows as the bytes of a token file, for [`write_pieces`].
///
/// # Errors
/// [`Error::Arrow`].
pub fn pack(rows: &[TokenRow]) -> Result<Vec<u8>> {
    let schema = Arc::new(schema());
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &schema)?;
    for chunk in rows.chunks(ROWS_PER_BATCH) {
        writer.write(&to_batch(&schema, chunk)?)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// Writes one token file of several packed ones and gives the number of rows. Record batches have
/// [`ROWS_PER_BATCH`] rows however the pieces are cut, so that the bytes depend on the rows alone.
///
/// # Errors
/// As [`write()`], and the errors in `pieces`.
pub fn write_pieces(path: impl AsRef<Path>, pieces: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<u64> {
    let path = path.as_ref();
    write_batches(path, pieces.into_iter().map(|bytes| reader(path, Cursor::new(bytes?))))
}

/// Joins token files into one, as [`write_pieces`] does, and returns the number of rows.
///
/// # Errors
/// As [`write()`]; [`Error::Artifact`] where a file is damaged.
pub fn write_files(path: impl AsRef<Path>, files: &[std::path::PathBuf]) -> Result<u64> {
    write_batches(path.as_ref(), files.iter().map(|file| open(file)))
}

fn write_batches<R: std::io::Read + std::io::Seek>(
    path: &Path,
    readers: impl Iterator<Item = Result<FileReader<R>>>,
) -> Result<u64> {
    let schema = Arc::new(schema());
    artifact::write_rows(
        path,
        |w| {
            let mut writer = FileWriter::try_new(w, &schema)?;
            let mut waiting: Vec<RecordBatch> = Vec::new();
            let (mut rows, mut count) = (0, 0);
            for reader in readers {
                for batch in reader? {
                    let batch = batch.map_err(|e| Error::artifact(path, format!("damaged Arrow file: {e}")))?;
                    let mut batch = with_weights(&schema, batch)?;
                    rows += batch.num_rows();
                    while count + batch.num_rows() >= ROWS_PER_BATCH {
                        let head = ROWS_PER_BATCH - count;
                        waiting.push(batch.slice(0, head));
                        writer.write(&concat_batches(&schema, &waiting)?)?;
                        waiting.clear();
                        count = 0;
                        batch = batch.slice(head, batch.num_rows() - head);
                    }
                    count += batch.num_rows();
                    waiting.push(batch);
                }
            }
            if count > 0 {
                writer.write(&concat_batches(&schema, &waiting)?)?;
            }
            writer.finish()?;
            Ok(rows)
        },
        |staged| Ok(open(staged)?.map(|b| b.map(|b| b.num_rows())).sum::<Result<usize, _>>()?),
    )
}

/// A batch with the column of weights, which files of earlier versions do not have: none is given there.
fn with_weights(schema: &Arc<Schema>, batch: RecordBatch) -> Result<RecordBatch> {
    if batch.column_by_name(col::WEIGHT).is_some() {
        return Ok(batch);
    }
    let mut columns = batch.columns().to_vec();
    columns.push(arrow::array::new_null_array(&DataType::Float64, batch.num_rows()));
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

fn open(path: &Path) -> Result<FileReader<File>> {
    reader(path, File::open(path).map_err(Error::io(path))?)
}

fn reader<R: std::io::Read + std::io::Seek>(path: &Path, source: R) -> Result<FileReader<R>> {
    FileReader::try_new(source, None).map_err(|e| Error::artifact(path, format!("not an Arrow IPC file: {e}")))
}

/// The rows of a token file, which is mapped into memory: what the rows hold is read from the disk when it is looked at.
///
/// # Errors
/// [`Error::Io`]; [`Error::Artifact`] where the file is damaged or has another schema.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<TokenRow>> {
    let path = path.as_ref();
    rows(&mapped::map(path)?, path)
}

/// The rows that were [`pack`]ed.
///
/// # Errors
/// [`Error::Artifact`] where the bytes are not those of a token file.
pub fn unpack(bytes: Vec<u8>) -> Result<Vec<TokenRow>> {
    rows(&Buffer::from_vec(bytes), Path::new("packed tokens"))
}

/// The first row of a token file, by reading no more than its record batch; `None` where it has no rows.
///
/// # Errors
/// As [`read`].
pub fn first(path: impl AsRef<Path>) -> Result<Option<TokenRow>> {
    let path = path.as_ref();
    let file = mapped::map(path)?;
    for batch in batches(&file, path)? {
        if let Some(row) = rows_of(&batch?, path)?.into_iter().next() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn batches<'a>(file: &'a Buffer, path: &'a Path) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<'a>> {
    let found = mapped::batches(file).map_err(|e| Error::artifact(path, format!("not an Arrow IPC file: {e}")))?;
    Ok(found.map(move |batch| batch.map_err(|e| Error::artifact(path, format!("damaged Arrow file: {e}")))))
}

fn rows(file: &Buffer, path: &Path) -> Result<Vec<TokenRow>> {
    let mut rows = Vec::new();
    for batch in batches(file, path)? {
        rows.extend(rows_of(&batch?, path)?);
    }
    Ok(rows)
}

fn rows_of(batch: &RecordBatch, path: &Path) -> Result<Vec<TokenRow>> {
    let bad = |what: String| Error::artifact(path, what);
    let column = |name: &str, kind: &DataType| -> Result<&ArrayRef> {
        let column = batch.column_by_name(name).ok_or_else(|| {
            bad(format!("no column `{name}`: not a token file of this version"))
                .with_hint("run `lpc-pipe prepare` again; the folder's manifest.json has the command")
        })?;
        if column.data_type() != kind || column.null_count() > 0 {
            return Err(bad(format!("column `{name}`: expected {kind} without nulls, got {}", column.data_type())));
        }
        Ok(column)
    };
    let wanted = schema();
    let get = |name: &str| column(name, wanted.field_with_name(name)?.data_type());
    let text = |name: &str| -> Result<&StringArray> { Ok(get(name)?.as_string::<i32>()) };
    let list = |name: &str| -> Result<(&ListArray, &TokenIds)> {
        let list = get(name)?.as_list::<i32>();
        Ok((list, list.values().as_primitive::<UInt32Type>().values()))
    };
    let flag = |name: &str| -> Result<&BooleanArray> { Ok(get(name)?.as_boolean()) };
    let (ids, sources) = (text(col::ID)?, text(col::SOURCE)?);
    let (prompts, chosen, rejected) = (list(col::PROMPT_IDS)?, list(col::CHOSEN_IDS)?, list(col::REJECTED_IDS)?);
    let (truncated, flipped) = (flag(col::TRUNCATED)?, flag(col::FLIPPED)?);
    let (prompt_ids, noise_kinds) = (text(col::PROMPT_ID)?, text(col::NOISE_KIND)?);
    let chances = get(col::NOISE_P)?.as_primitive::<Float64Type>();
    let weights = weights(batch).map_err(bad)?;
    let tokens = |(list, values): (&ListArray, &TokenIds), i: usize| {
        values.slice(list.value_offsets()[i] as usize, list.value_length(i) as usize)
    };
    let row = |i: usize| TokenRow {
        id: RowText::of(ids, i),
        prompt_ids: tokens(prompts, i),
        chosen_ids: tokens(chosen, i),
        rejected_ids: tokens(rejected, i),
        truncated: truncated.value(i),
        flipped: flipped.value(i),
        source: RowText::of(sources, i),
        prompt_id: RowText::of(prompt_ids, i),
        noise_kind: RowText::of(noise_kinds, i),
        noise_p: chances.value(i),
        weight: weights.filter(|w| w.is_valid(i)).map(|w| w.value(i)),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// The column of weights, where there is one: numbers from 0, or null. Says what is wrong with another.
fn weights(batch: &RecordBatch) -> std::result::Result<Option<&Float64Array>, String> {
    let Some(column) = batch.column_by_name(col::WEIGHT) else { return Ok(None) };
    let wrong =
        |found: String| format!("column `{}`: expected Float64 from 0, finite, or null, got {found}", col::WEIGHT);
    let weights = column.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong(column.data_type().to_string()))?;
    match weights.iter().flatten().find(|w| !(*w >= 0.0 && w.is_finite())) {
        Some(weight) => Err(wrong(weight.to_string())),
        None => Ok(Some(weights)),
    }
}

#[cfg(test)]
mod tests;
