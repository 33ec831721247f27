//! Files of benchmarks, whatever their layout -> the texts that ask each item's question.

use std::fs::File;
use std::io::{BufRead, Cursor, Read};

use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::FileWriter;
use polars::prelude::*;
use serde_json::Value;

use super::Input;
use super::files::guard::guarded;
use super::files::{Packing, arrow as arrow_files};
use crate::error::{Error, Result};

/// Fields that hold a question, or a part of it: a text, a list of texts or of messages, or an object with one of these
/// fields (ARC has `question.stem`).
const FIELDS: [&str; 16] = [
    "question",
    "stem",
    "prompt",
    "instruction",
    "input",
    "text",
    "problem",
    "query",
    "goal",
    "ctx",
    "context",
    "sentence",
    "premise",
    "turns",
    "content",
    "messages",
];
/// Most bytes of text of a benchmark.
const MOST_BYTES: u64 = 1 << 30;

/// Reads a file of benchmark items, calls `take` with the texts that ask each item's question, and returns the number
/// of items.
///
/// # Errors
/// [`Error::Data`] where the file is damaged or no row has a question; [`Error::Io`].
pub fn questions(input: &Input, mut take: impl FnMut(Vec<&str>)) -> Result<u64> {
    let (mut items, mut seen) = (0, Vec::new());
    for (_, row) in rows(input)? {
        let mut texts = Vec::new();
        collect(&row, &mut texts);
        if texts.is_empty() {
            note_fields(&row, &mut seen);
            continue;
        }
        take(texts);
        items += 1;
    }
    if items == 0 {
        let message = format!("no row has a question; the fields are {}", seen.join(", "));
        let hint = format!("a question is in one of the fields {}", FIELDS.join(", "));
        return Err(input.fault(None, &message).with_hint(hint));
    }
    Ok(items)
}

/// All texts of a row that ask its question.
fn collect<'a>(row: &'a Value, into: &mut Vec<&'a str>) {
    let Value::Object(fields) = row else { return };
    for name in FIELDS {
        match fields.get(name) {
            Some(Value::String(text)) => into.push(text),
            Some(inner @ Value::Object(_)) => collect(inner, into),
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(text) => into.push(text),
                        // A model's turn is not part of the question.
                        Value::Object(message) if message.get("role").and_then(Value::as_str) == Some("assistant") => {}
                        item => collect(item, into),
                    }
                }
            }
            _ => {}
        }
    }
}

fn note_fields(row: &Value, seen: &mut Vec<String>) {
    if let Value::Object(fields) = row {
        let new: Vec<String> = fields.keys().filter(|k| !seen.contains(k)).take(12).cloned().collect();
        if seen.len() < 12 {
            seen.extend(new);
        }
    }
}

/// The rows of a file, each with its line (its number from 1 where a row is no line): JSON lines, a JSON array, CSV,
/// Parquet or Arrow, text also compressed. Texts, numbers and truth values stay, at any depth; of other columns of
/// Parquet and Arrow the rows have null.
///
/// # Errors
/// [`Error::Data`] where the file is damaged; [`Error::Io`].
pub fn rows(input: &Input) -> Result<Vec<(u64, Value)>> {
    let numbered = |rows: Vec<Value>| (1..).zip(rows).collect::<Vec<(u64, Value)>>();
    let packing = Packing::of(input)?;
    let open = || File::open(&input.path).map_err(Error::io(&input.label));
    let reader = match packing {
        Packing::Empty => return Err(input.fault(None, "the file is empty")),
        Packing::Parquet => {
            let reader = ParquetReader::new(open()?);
            return guarded(input, "Parquet", || texts(&reader.finish()?)).map(numbered);
        }
        Packing::Arrow => {
            let whole = arrow_file(input)?;
            return guarded(input, "Arrow", || texts(&IpcReader::new(Cursor::new(whole)).finish()?)).map(numbered);
        }
        Packing::Plain | Packing::Gzip | Packing::Zstd => packing.unpacked(open()?, input)?,
    };
    let mut bytes = Vec::new();
    let read = reader.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| input.fault(None, &format!("damaged or truncated: {e}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(input.fault(None, &format!("more than {MOST_BYTES} bytes of text are no benchmark")));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match text.iter().find(|b| !b.is_ascii_whitespace()) {
        None => Err(input.fault(None, "the file is empty")),
        Some(b'[') => array(input, text).map(numbered),
        Some(b'{') => objects(input, text),
        Some(_) => csv(input, text).map(numbered),
    }
}

/// The bytes of an Arrow IPC file; those of a stream, as Hugging Face `datasets` keeps, are laid out as a file.
fn arrow_file(input: &Input) -> Result<Vec<u8>> {
    let bytes = std::fs::read(&input.path).map_err(Error::io(&input.label))?;
    if bytes.starts_with(arrow_files::MAGIC) {
        return Ok(bytes);
    }
    let torn = |e: ArrowError| input.fault(None, &format!("not a readable Arrow file: {e}"));
    let stream = StreamReader::try_new(Cursor::new(bytes), None).map_err(torn)?;
    let mut file = FileWriter::try_new(Vec::new(), &stream.schema()).map_err(torn)?;
    for batch in stream {
        file.write(&batch.map_err(torn)?).map_err(torn)?;
    }
    file.finish().and_then(|()| file.into_inner()).map_err(torn)
}

/// One JSON array of rows.
fn array(input: &Input, text: &[u8]) -> Result<Vec<Value>> {
    serde_json::from_slice(text).map_err(|e| input.fault(None, &format!("not JSON: {e}")))
}

/// JSON lines, or one object that has the rows in a field.
fn objects(input: &Input, text: &[u8]) -> Result<Vec<(u64, Value)>> {
    if let Ok(Value::Object(whole)) = serde_json::from_slice(text) {
        let lists = whole.values().filter_map(Value::as_array).filter(|l| l.first().is_some_and(Value::is_object));
        if !FIELDS.iter().any(|f| whole.contains_key(*f))
            && let Some(rows) = lists.max_by_key(|l| l.len())
        {
            return Ok((1..).zip(rows.iter().cloned()).collect());
        }
        return Ok(vec![(1, Value::Object(whole))]);
    }
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.map_err(|e| input.fault(None, &format!("line {}: not UTF-8: {e}", i + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line);
        let row = row.map_err(|e| input.fault(Some(i as u64 + 1), &format!("not JSON: {e}")))?;
        rows.push((i as u64 + 1, row));
    }
    Ok(rows)
}

fn csv(input: &Input, text: &[u8]) -> Result<Vec<Value>> {
    guarded(input, "JSON or CSV", || {
        // Without inference every column is text.
        let options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(Some(0));
        texts(&CsvReader::new(Cursor::new(text)).with_options(options).finish()?)
    })
}

/// The rows of a frame.
fn texts(frame: &DataFrame) -> PolarsResult<Vec<Value>> {
    values(&frame.clone().into_struct("".into()).into_series())
}

/// A column's texts, numbers and truth values, at any depth; whatever else is in it becomes null.
fn values(series: &Series) -> PolarsResult<Vec<Value>> {
    Ok(match series.dtype() {
        DataType::String => series.str()?.iter().map(|t| t.map_or(Value::Null, Value::from)).collect(),
        DataType::Struct(_) => {
            let mut rows = vec![serde_json::Map::new(); series.len()];
            for field in series.struct_()?.fields_as_series() {
                for (row, value) in rows.iter_mut().zip(values(&field)?) {
                    row.insert(field.name().to_string(), value);
                }
            }
            rows.into_iter().map(Value::Object).collect()
        }
        DataType::List(_) => {
            let lists = series.list()?;
            let one = |i: usize| match lists.get_as_series(i) {
                Some(inner) => values(&inner).map(Value::Array),
                None => Ok(Value::Null),
            };
            (0..series.len()).map(one).collect::<PolarsResult<_>>()?
        }
        DataType::Boolean => series.bool()?.iter().map(|x| x.map_or(Value::Null, Value::from)).collect(),
        kind if kind.is_integer() => {
            let wide = series.cast(&DataType::Int64)?;
            wide.i64()?.iter().map(|x| x.map_or(Value::Null, Value::from)).collect()
        }
        kind if kind.is_float() => {
            let wide = series.cast(&DataType::Float64)?;
            wide.f64()?.iter().map(|x| x.map_or(Value::Null, Value::from)).collect()
        }
        _ => vec![Value::Null; series.len()],
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::gzip;
    use super::*;
    use crate::artifact;

    fn texts_of(name: &str, bytes: &[u8]) -> Vec<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let rows = rows(&Input::new(path)).unwrap();
        let of = |row: &Value| {
            let mut texts = Vec::new();
            collect(row, &mut texts);
            texts.into_iter().map(str::to_string).collect()
        };
        rows.iter().map(|(_, row)| of(row)).collect()
    }

    #[test]
    fn questions_are_found_in_every_layout() {
        let wanted = vec![vec!["One?".to_string()], vec!["Two, too?".to_string()]];
        let lines = "{\"question\": \"One?\", \"answer\": \"a\"}\n\n{\"question\": {\"stem\": \"Two, too?\", \"choices\": [{\"text\": \"x\"}]}}\n";
        assert_eq!(texts_of("a.jsonl", lines.as_bytes()), wanted);
        assert_eq!(texts_of("a.jsonl.gz", &gzip(lines.as_bytes())), wanted);
        assert_eq!(texts_of("a", &zstd::encode_all(lines.as_bytes(), 1).unwrap()), wanted);
        let array = br#"[{"question": "One?", "mc1_targets": {"x": 1}}, {"prompt": [{"role": "user", "content": "Two, too?"}, {"role": "assistant", "content": "no"}]}]"#;
        assert_eq!(texts_of("a.json", array), wanted);
        assert_eq!(
            texts_of("a.json", br#"{"version": 1, "data": [{"turns": ["One?"]}, {"text": "Two, too?"}]}"#),
            wanted
        );
        assert_eq!(texts_of("a.csv", b"id,question\n1,One?\n2,\"Two, too?\"\n"), wanted);
    }

    #[test]
    fn questions_of_parquet_are_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let stem = Series::new("stem".into(), ["One?", "Two?"]);
        let question = StructChunked::from_series("question".into(), 2, [stem].iter()).unwrap().into_column();
        let turns = Series::new("turns".into(), [Series::new("".into(), ["a", "b"]), Series::new("".into(), ["c"])]);
        let columns = vec![question, turns.into_column(), Column::new("answer".into(), [1, 2])];
        artifact::write_parquet(&path, &mut DataFrame::new(2, columns).unwrap()).unwrap();
        assert_eq!(texts_of("b.parquet", &std::fs::read(&path).unwrap()), [vec!["One?", "a", "b"], vec!["Two?", "c"]]);
    }

    #[test]
    fn questions_of_arrow_streams_and_files_are_found() {
        use std::sync::Arc;

        use arrow::array::{ArrayRef, RecordBatch, StringArray};
        use arrow::ipc::writer::StreamWriter;
        let asked: ArrayRef = Arc::new(StringArray::from(vec!["One?", "Two?"]));
        let batch = RecordBatch::try_from_iter([("question", asked)]).unwrap();
        let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        stream.write(&batch).unwrap();
        stream.write(&batch).unwrap();
        let stream = stream.into_inner().unwrap();
        let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        file.write(&batch).unwrap();
        let file = file.into_inner().unwrap();
        let texts = |bytes: &[u8]| texts_of("a.arrow", bytes).concat();
        assert_eq!(texts(&stream), ["One?", "Two?", "One?", "Two?"]);
        assert_eq!(texts(&file), ["One?", "Two?"]);
    }

    #[test]
    fn files_without_questions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.jsonl");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            questions(&Input::new(&path), |_| ()).unwrap_err()
        };
        for (bytes, told) in [
            (&b"{\"answer\": \"x\"}\n"[..], "no row has a question; the fields are answer"),
            (b"", "the file is empty"),
            (b"[{]", "not JSON"),
            (b"{\"question\": \"x\"}\n{\"question\n", "line 2: not JSON"),
            (b"\x1f\x8bno gzip", "damaged"),
            (b"PAR1 no parquet", "not a readable Parquet"),
        ] {
            let error = refused(bytes);
            assert!(error.to_string().contains(told) && error.exit_code() == 3, "{error}");
        }
        assert!(questions(&Input::new(dir.path().join("absent")), |_| ()).is_err());
    }
}
