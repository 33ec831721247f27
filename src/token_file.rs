//! Token batches on disk: Arrow IPC files, one row per pair.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array, UInt32Builder,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt32Type};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::col;

/// Rows per record batch; fixed, so that bytes do not depend on threads.
pub const ROWS_PER_BATCH: usize = 4096;

/// One tokenized pair, labels as observed.
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// SHA-256 of the prompt text.
    pub prompt_id: String,
    /// Noise model.
    pub noise_kind: String,
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
    let lists = |get: fn(&TokenRow) -> &Vec<u32>| -> ArrayRef {
        let item = Field::new("item", DataType::UInt32, false);
        let mut builder = ListBuilder::new(UInt32Builder::new()).with_field(item);
        for row in rows {
            builder.values().append_slice(get(row));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let strings =
        |get: fn(&TokenRow) -> &String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(get))) };
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

/// Reads a token file whole.
///
/// # Errors
/// [`Error::Io`]; [`Error::Artifact`] where the file is damaged or has another schema.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<TokenRow>> {
    rows(open(path.as_ref())?, path.as_ref())
}

/// The rows that were [`pack`]ed.
///
/// # Errors
/// [`Error::Artifact`] where the bytes are not those of a token file.
pub fn unpack(bytes: Vec<u8>) -> Result<Vec<TokenRow>> {
    let path = Path::new("packed tokens");
    rows(reader(path, Cursor::new(bytes))?, path)
}

fn rows<R: std::io::Read + std::io::Seek>(reader: FileReader<R>, path: &Path) -> Result<Vec<TokenRow>> {
    let bad = |what: String| Error::artifact(path, what);
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| bad(format!("damaged Arrow file: {e}")))?;
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
        let list = |name: &str| -> Result<&ListArray> { Ok(get(name)?.as_list::<i32>()) };
        let flag = |name: &str| -> Result<&BooleanArray> { Ok(get(name)?.as_boolean()) };
        let (ids, sources) = (text(col::ID)?, text(col::SOURCE)?);
        let (prompts, chosen, rejected) = (list(col::PROMPT_IDS)?, list(col::CHOSEN_IDS)?, list(col::REJECTED_IDS)?);
        let (truncated, flipped) = (flag(col::TRUNCATED)?, flag(col::FLIPPED)?);
        let (prompt_ids, noise_kinds) = (text(col::PROMPT_ID)?, text(col::NOISE_KIND)?);
        let chances = get(col::NOISE_P)?.as_primitive::<Float64Type>();
        let weights = weights(&batch).map_err(bad)?;
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
                prompt_id: prompt_ids.value(i).to_string(),
                noise_kind: noise_kinds.value(i).to_string(),
                noise_p: chances.value(i),
                weight: weights.filter(|w| w.is_valid(i)).map(|w| w.value(i)),
            });
        }
    }
    Ok(rows)
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
                prompt_id: format!("{i:064x}"),
                noise_kind: "uniform".into(),
                noise_p: f64::from(i) / 8192.0,
                weight: (i % 4 > 0).then(|| f64::from(i % 4) / 2.0),
            })
            .collect();
        write(&path, &rows).unwrap();
        assert_eq!(read(&path).unwrap(), rows);
        let whole = std::fs::read(&path).unwrap();
        let pieces = [&rows[..5], &rows[5..5], &rows[5..4000], &rows[4000..]].map(pack);
        assert_eq!(write_pieces(&path, pieces).unwrap() as usize, rows.len());
        assert!(std::fs::read(&path).unwrap() == whole, "the bytes depend on how the rows are cut into pieces");
        // A file without weights, alone and joined with others.
        let bare = dir.path().join("bare.arrow");
        let file = |weights: Option<ArrayRef>| {
            let batch = to_batch(&Arc::new(schema()), &rows[..3]).unwrap();
            let mut batch = batch.project(&(0..13).collect::<Vec<_>>()).unwrap();
            if let Some(weights) = weights {
                let (fields, mut columns) = (batch.schema(), batch.columns().to_vec());
                let mut fields = fields.fields().to_vec();
                fields.push(Arc::new(Field::new(col::WEIGHT, weights.data_type().clone(), true)));
                columns.push(weights);
                batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
            }
            let mut writer = FileWriter::try_new(File::create(&bare).unwrap(), &batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
        };
        file(None);
        let plain = |i: usize| TokenRow { weight: None, ..rows[i].clone() };
        assert_eq!(read(&bare).unwrap(), (0..3).map(plain).collect::<Vec<_>>());
        let joined = dir.path().join("joined.arrow");
        assert_eq!(write_files(&joined, &[bare.clone(), path.clone()]).unwrap() as usize, rows.len() + 3);
        let back = read(&joined).unwrap();
        assert!(back[1] == plain(1) && back[3..] == rows[..] && plain(1).loss_weight() == 1.0);
        for (weights, found) in [
            (Arc::new(Float64Array::from(vec![1.0, -0.5, 2.0])) as ArrayRef, "-0.5"),
            (Arc::new(Float64Array::from(vec![f64::INFINITY; 3])) as ArrayRef, "inf"),
            (Arc::new(StringArray::from(vec!["1"; 3])) as ArrayRef, "Utf8"),
        ] {
            file(Some(weights));
            let told = read(&bare).unwrap_err().to_string();
            assert!(told.contains("`weight`: expected Float64 from 0") && told.ends_with(found), "{told}");
        }
        // The columns of an earlier version.
        let old = schema().project(&(0..10).collect::<Vec<_>>()).unwrap();
        let batch = to_batch(&Arc::new(schema()), &rows[..2]).unwrap().project(&(0..10).collect::<Vec<_>>()).unwrap();
        let mut writer = FileWriter::try_new(File::create(&path).unwrap(), &old).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("no column `prompt_id`"), "{error}");
        assert!(error.hint().unwrap().contains("prepare"));
        std::fs::write(&path, b"ARROW1 not really").unwrap();
        assert!(matches!(read(&path), Err(Error::Artifact { .. })));
    }
}
