//! One reader per file format, each reading no more than it shows (JSON lines
//! are read to the end, because only that counts them).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{FIRST_ROWS, Field, Inspection, gguf, shortened};
use crate::error::{Error, Result};
use crate::ingest::Input;
use crate::ingest::{ARROW_MAGIC as MAGIC, Packing};

/// Longest header of a safetensors file that is read: the limit of the format's own library.
const MAX_HEADER: u64 = 100_000_000;
/// Longest line of JSON that is read.
const MAX_LINE: u64 = 64 << 20;

/// Name of the format by the file's ending, `.gz` and `.zst` left out.
fn format(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    let known = [
        (".parquet", "parquet"),
        (".arrow", "arrow"),
        (".jsonl", "jsonl"),
        (".ndjson", "jsonl"),
        (".json", "json"),
        (".gguf", "gguf"),
        (".safetensors", "safetensors"),
    ];
    known.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind)
}

/// Whether [`file()`] can read it.
pub(super) fn is_known(path: &Path) -> bool {
    format(path).is_some()
}

/// A damaged file.
pub(super) fn damaged(path: &Path, message: impl Into<String>) -> Error {
    Error::Data { path: path.to_path_buf(), line: None, field: None, message: message.into(), hint: None }
}

/// Looks into one file.
pub(super) fn file(path: &Path) -> Result<Inspection> {
    let Some(kind) = format(path) else {
        return Err(damaged(path, "not a kind of file that can be inspected").with_hint(
            "known are .parquet, .arrow, .jsonl and .json (also .gz, .zst), .gguf, .safetensors, and folders",
        ));
    };
    let mut found = match kind {
        "parquet" => parquet(path)?,
        "arrow" => arrow_file(path)?,
        "jsonl" => json_lines(path)?,
        "json" => json(path)?,
        "gguf" => gguf::read(path)?,
        _ => safetensors(path)?,
    };
    found.kind = kind.into();
    Ok(found)
}

fn columns(schema: &arrow::datatypes::Schema) -> Vec<Field> {
    schema.fields().iter().map(|f| Field { name: f.name().clone(), kind: f.data_type().to_string() }).collect()
}

/// Rows of a batch as text, shortened.
fn first_rows(path: &Path, batch: &RecordBatch, rows: &mut Vec<Map<String, Value>>) -> Result<()> {
    let options = FormatOptions::default().with_display_error(true).with_null("null");
    let schema = batch.schema();
    let formatters: Vec<(String, ArrayFormatter<'_>)> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| Ok((field.name().clone(), ArrayFormatter::try_new(column.as_ref(), &options)?)))
        .collect::<Result<_, arrow::error::ArrowError>>()
        .map_err(|e| damaged(path, format!("rows that cannot be shown: {e}")))?;
    for i in 0..batch.num_rows().min(FIRST_ROWS.saturating_sub(rows.len())) {
        let row = formatters.iter().map(|(name, f)| (name.clone(), Value::from(shortened(&f.value(i).to_string()))));
        rows.push(row.collect());
    }
    Ok(())
}

fn parquet(path: &Path) -> Result<Inspection> {
    let handle = File::open(path).map_err(Error::io(path))?;
    let bad = |e: &dyn std::fmt::Display| damaged(path, format!("not a readable Parquet file: {e}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(handle).map_err(|e| bad(&e))?;
    let meta = builder.metadata().file_metadata();
    let mut found = Inspection {
        rows: u64::try_from(meta.num_rows()).ok(),
        fields: columns(builder.schema()),
        ..Inspection::default()
    };
    found.facts.insert("row groups".into(), builder.metadata().num_row_groups().into());
    if let Some(by) = meta.created_by() {
        found.facts.insert("created by".into(), shortened(by).into());
    }
    let reader = builder.with_batch_size(FIRST_ROWS).with_limit(FIRST_ROWS).build().map_err(|e| bad(&e))?;
    for batch in reader {
        first_rows(path, &batch.map_err(|e| bad(&e))?, &mut found.first)?;
    }
    Ok(found)
}

fn arrow_file(path: &Path) -> Result<Inspection> {
    let mut handle = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let bad = |e: &dyn std::fmt::Display| damaged(path, format!("not a readable Arrow IPC file: {e}"));
    let is_file = handle.fill_buf().map_err(Error::io(path))?.starts_with(MAGIC);
    type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;
    // Hugging Face `datasets` keeps the stream format.
    let (schema, reader): (_, Batches) = if is_file {
        let reader = FileReader::try_new(handle, None).map_err(|e| bad(&e))?;
        (reader.schema(), Box::new(reader))
    } else {
        let reader = StreamReader::try_new(handle, None).map_err(|e| bad(&e))?;
        (reader.schema(), Box::new(reader))
    };
    let mut found = Inspection { fields: columns(&schema), ..Inspection::default() };
    let (mut rows, mut batches) = (0, 0u64);
    for batch in reader {
        let batch = batch.map_err(|e| bad(&e))?;
        rows += batch.num_rows() as u64;
        batches += 1;
        first_rows(path, &batch, &mut found.first)?;
    }
    found.facts.insert("record batches".into(), batches.into());
    found.rows = Some(rows);
    Ok(found)
}

/// The file's text, unpacked.
fn open_text(path: &Path) -> Result<impl BufRead> {
    let input = Input::new(path);
    let file = File::open(path).map_err(Error::io(path))?;
    Ok(BufReader::new(Packing::of(&input)?.unpacked(file, &input)?))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Keys of objects in the order of their first appearance, with every type seen.
#[derive(Default)]
struct Keys {
    order: Vec<String>,
    kinds: BTreeMap<String, (BTreeSet<&'static str>, u64)>,
    rows: u64,
}

impl Keys {
    fn add(&mut self, map: &Map<String, Value>) {
        self.rows += 1;
        for (key, value) in map {
            let entry = self.kinds.entry(key.clone()).or_insert_with(|| {
                self.order.push(key.clone());
                (BTreeSet::new(), 0)
            });
            entry.0.insert(kind_of(value));
            entry.1 += 1;
        }
    }

    fn fields(&self) -> Vec<Field> {
        let field = |name: &String| {
            let (kinds, n) = &self.kinds[name];
            let kinds: Vec<&str> = kinds.iter().copied().collect();
            let gaps = self.rows - n;
            let missing = if gaps > 0 { format!(", missing in {gaps} rows") } else { String::new() };
            Field { name: name.clone(), kind: format!("{}{missing}", kinds.join(" or ")) }
        };
        self.order.iter().map(field).collect()
    }
}

fn shortened_row(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .map(|(key, value)| {
            let value = match value {
                Value::String(text) => Value::from(shortened(text)),
                Value::Array(_) | Value::Object(_) => Value::from(shortened(&value.to_string())),
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
}

fn json_lines(path: &Path) -> Result<Inspection> {
    let mut reader = open_text(path)?;
    let (mut keys, mut found) = (Keys::default(), Inspection::default());
    let (mut number, mut rows, mut bad, mut first_bad) = (0u64, 0u64, 0u64, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let n = read.map_err(|e| damaged(path, format!("unreadable after line {number}: {e}")))?;
        if n == 0 {
            break;
        }
        number += 1;
        if n as u64 == MAX_LINE {
            return Err(damaged(path, format!("line {number} is longer than {MAX_LINE} bytes")));
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        rows += 1;
        match serde_json::from_slice::<Map<String, Value>>(text) {
            Ok(map) => {
                keys.add(&map);
                if found.first.len() < FIRST_ROWS {
                    found.first.push(shortened_row(&map));
                }
            }
            Err(e) => {
                bad += 1;
                // The parser gets one line at a time, so that its line number is always 1.
                let text = e.to_string();
                let reason = text.split(" at line ").next().unwrap_or_default();
                first_bad.get_or_insert_with(|| format!("line {number}: {reason}"));
            }
        }
    }
    found.rows = Some(rows);
    found.fields = keys.fields();
    if let Some(first) = first_bad {
        found.facts.insert("rows that are no JSON object".into(), bad.into());
        found.facts.insert("first of them".into(), shortened(&first).into());
    }
    Ok(found)
}

/// A file in the listing of a folder. Of JSON only rows are told, so that it is read without being kept.
pub(super) fn listed(path: &Path) -> Result<Inspection> {
    if format(path) != Some("json") {
        return file(path);
    }
    let mut text = Vec::new();
    open_text(path)?.read_to_end(&mut text).map_err(|e| damaged(path, format!("unreadable: {e}")))?;
    let rows = if text.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice::<Vec<IgnoredAny>>(&text).map(|items| Some(items.len() as u64))
    } else {
        serde_json::from_slice::<IgnoredAny>(&text).map(|_| None)
    };
    let rows = rows.map_err(|e| damaged(path, format!("not a readable JSON file: {e}")))?;
    Ok(Inspection { kind: "json".into(), rows, ..Inspection::default() })
}

fn json(path: &Path) -> Result<Inspection> {
    let value: Value = serde_json::from_reader(open_text(path)?)
        .map_err(|e| damaged(path, format!("not a readable JSON file: {e}")))?;
    let mut found = Inspection::default();
    match &value {
        Value::Array(items) => {
            let mut keys = Keys::default();
            let objects = items.iter().filter_map(Value::as_object);
            objects.clone().for_each(|o| keys.add(o));
            found.rows = Some(items.len() as u64);
            found.fields = keys.fields();
            found.first = objects.take(FIRST_ROWS).map(shortened_row).collect();
        }
        Value::Object(map) => {
            found.fields = map.iter().map(|(k, v)| Field { name: k.clone(), kind: kind_of(v).into() }).collect();
            found.first.push(shortened_row(map));
        }
        other => {
            found.facts.insert("value".into(), shortened(&other.to_string()).into());
        }
    }
    Ok(found)
}

fn safetensors(path: &Path) -> Result<Inspection> {
    let mut handle = File::open(path).map_err(Error::io(path))?;
    let length = handle.metadata().map_err(Error::io(path))?.len();
    let bad = |message: String| damaged(path, format!("not a readable safetensors file: {message}"));
    let mut start = [0u8; 8];
    handle.read_exact(&mut start).map_err(|e| bad(e.to_string()))?;
    let header = u64::from_le_bytes(start);
    if header > MAX_HEADER || header > length.saturating_sub(8) {
        return Err(bad(format!("a header of {header} bytes in a file of {length}")));
    }
    let mut buffer = Vec::new();
    handle.take(header).read_to_end(&mut buffer).map_err(Error::io(path))?;
    let head: Map<String, Value> = serde_json::from_slice(&buffer).map_err(|e| bad(e.to_string()))?;
    let mut found = Inspection::default();
    let (mut parameters, mut end) = (0u128, 0u64);
    let sorted: BTreeMap<&String, &Value> = head.iter().filter(|(name, _)| *name != "__metadata__").collect();
    for (name, tensor) in &sorted {
        let list = |key: &str| -> Option<Vec<u64>> { tensor.get(key)?.as_array()?.iter().map(Value::as_u64).collect() };
        let dtype = tensor.get("dtype").and_then(Value::as_str);
        let (Some(dtype), Some(shape), Some(offsets)) = (dtype, list("shape"), list("data_offsets")) else {
            return Err(bad(format!("tensor `{}` lacks dtype, shape or data_offsets", shortened(name))));
        };
        parameters = parameters.saturating_add(shape.iter().fold(1, |p, d| u128::saturating_mul(p, u128::from(*d))));
        end = end.max(offsets.get(1).copied().unwrap_or(0));
        found.fields.push(Field { name: (*name).clone(), kind: format!("{} {shape:?}", shortened(dtype)) });
    }
    found.facts.insert("tensors".into(), sorted.len().into());
    found.facts.insert("parameters".into(), u64::try_from(parameters).unwrap_or(u64::MAX).into());
    let whole = end.saturating_add(8).saturating_add(header);
    if whole != length {
        found.facts.insert("damage".into(), format!("the header tells of {whole} bytes, the file has {length}").into());
    }
    for (key, value) in head.get("__metadata__").and_then(Value::as_object).into_iter().flatten() {
        found.facts.insert(shortened(key), value.as_str().map(shortened).unwrap_or_default().into());
    }
    Ok(found)
}
