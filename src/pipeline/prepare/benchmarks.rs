//! Benchmark files -> questions, for decontamination. JSON lines, JSON, CSV and Parquet, the first three
//! also compressed, told apart by their content.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};

use polars::prelude::*;
use serde_json::Value;

use super::inputs;
use crate::artifact::{self, FileDigest};
use crate::error::{Error, Result};
use crate::ingest::Input;
use crate::pairs::PairConfig;
use crate::pairs::contamination::Index;
use crate::progress::Progress;

/// Fields that hold a question, or a part of it. A text, a list of texts or of messages, or an object
/// with one of these fields (ARC has `question.stem`).
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
/// A file is read no further.
const MOST_BYTES: u64 = 1 << 30;

/// What the files of benchmarks are, and their questions.
#[derive(Debug)]
pub struct Benchmarks {
    /// Drops rows that have a question in them.
    pub index: Index,
    /// The files; `rows` counts their items.
    pub files: Vec<FileDigest>,
}

/// Reads the files named in `pairs.decontaminate`; none where there are none.
///
/// # Errors
/// [`Error::Data`] where a file is missing, damaged or has no questions; [`Error::Io`].
pub fn load(config: &PairConfig, progress: &dyn Progress) -> Result<Option<Benchmarks>> {
    if config.decontaminate.is_empty() {
        return Ok(None);
    }
    let mut index = Index::new(config.decontaminate_ngram);
    let mut files = Vec::new();
    for input in inputs::resolve(&config.decontaminate, progress)? {
        let label = inputs::stem(&input.label);
        let mut items = 0;
        let mut seen = Vec::new();
        for row in rows(&input)? {
            let mut texts = Vec::new();
            questions(&row, &mut texts);
            if texts.is_empty() {
                note_fields(&row, &mut seen);
                continue;
            }
            index.add(&label, texts);
            items += 1;
        }
        if items == 0 {
            return Err(fault(&input, format!("no row has a question; the fields are {}", seen.join(", ")))
                .with_hint(format!("a question is in one of the fields {}", FIELDS.join(", "))));
        }
        let (bytes, blake3) = artifact::hash_file(&input.path)?;
        files.push(FileDigest { path: input.label.display().to_string(), bytes, blake3, rows: Some(items) });
    }
    Ok(Some(Benchmarks { index, files }))
}

fn fault(input: &Input, message: impl Into<String>) -> Error {
    Error::Data { path: input.label.clone(), line: None, field: None, message: message.into(), hint: None }
}

/// All texts of a row that ask its question.
fn questions<'a>(row: &'a Value, into: &mut Vec<&'a str>) {
    let Value::Object(fields) = row else { return };
    for name in FIELDS {
        match fields.get(name) {
            Some(Value::String(text)) => into.push(text),
            Some(inner @ Value::Object(_)) => questions(inner, into),
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(text) => into.push(text),
                        // A model's turn is no question.
                        Value::Object(message) if message.get("role").and_then(Value::as_str) == Some("assistant") => {}
                        item => questions(item, into),
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

/// All rows of a file.
fn rows(input: &Input) -> Result<Vec<Value>> {
    let file = File::open(&input.path).map_err(Error::io(&input.label))?;
    let mut start = [0u8; 4];
    let filled = file.take(4).read(&mut start).map_err(Error::io(&input.label))?;
    let file = BufReader::new(File::open(&input.path).map_err(Error::io(&input.label))?);
    let reader: Box<dyn Read> = match &start[..filled] {
        b"PAR1" => return parquet(input),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(Error::io(&input.label))?)
        }
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    let read = reader.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| fault(input, format!("damaged or truncated: {e}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(fault(input, format!("more than {MOST_BYTES} bytes of text are no benchmark")));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match text.iter().find(|b| !b.is_ascii_whitespace()) {
        None => Err(fault(input, "the file is empty")),
        Some(b'[') => array(input, text),
        Some(b'{') => objects(input, text),
        Some(_) => csv(input, text),
    }
}

/// One JSON array of rows.
fn array(input: &Input, text: &[u8]) -> Result<Vec<Value>> {
    serde_json::from_slice(text).map_err(|e| fault(input, format!("not JSON: {e}")))
}

/// JSON lines, or one object that has the rows in a field.
fn objects(input: &Input, text: &[u8]) -> Result<Vec<Value>> {
    if let Ok(Value::Object(whole)) = serde_json::from_slice(text) {
        let lists = whole.values().filter_map(Value::as_array).filter(|l| l.first().is_some_and(Value::is_object));
        if !FIELDS.iter().any(|f| whole.contains_key(*f))
            && let Some(rows) = lists.max_by_key(|l| l.len())
        {
            return Ok(rows.clone());
        }
        return Ok(vec![Value::Object(whole)]);
    }
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.map_err(|e| fault(input, format!("line {}: not UTF-8: {e}", i + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line).map_err(|e| Error::Data {
            path: input.label.clone(),
            line: Some(i as u64 + 1),
            field: None,
            message: format!("not JSON: {e}"),
            hint: None,
        })?;
        rows.push(row);
    }
    Ok(rows)
}

fn csv(input: &Input, text: &[u8]) -> Result<Vec<Value>> {
    let read = guarded(|| {
        // Without inference every column is text.
        let options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(Some(0));
        texts(&CsvReader::new(Cursor::new(text)).with_options(options).finish()?)
    });
    read.map_err(|e| fault(input, format!("neither JSON nor CSV: {e}")))
}

fn parquet(input: &Input) -> Result<Vec<Value>> {
    let file = File::open(&input.path).map_err(Error::io(&input.label))?;
    let read = guarded(|| texts(&ParquetReader::new(file).finish()?));
    read.map_err(|e| fault(input, format!("not a readable Parquet file: {e}")))
}

/// Damaged bytes can make the readers panic; that is a fault of the file.
fn guarded<T>(work: impl FnOnce() -> PolarsResult<T>) -> std::result::Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("the reader gave up".into()),
    }
}

/// The rows of a frame, with all texts that are in it.
fn texts(frame: &DataFrame) -> PolarsResult<Vec<Value>> {
    let mut rows = vec![serde_json::Map::new(); frame.height()];
    for column in frame.columns() {
        for (row, value) in rows.iter_mut().zip(values(column.as_materialized_series())?) {
            row.insert(column.name().to_string(), value);
        }
    }
    Ok(rows.into_iter().map(Value::Object).collect())
}

/// A column's texts, at any depth; whatever else is in it becomes null.
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
        _ => vec![Value::Null; series.len()],
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::ingest::{self, IngestConfig};
    use crate::progress::Silent;

    fn texts_of(name: &str, bytes: &[u8]) -> Vec<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let rows = rows(&Input::new(path)).unwrap();
        let of = |row: &Value| {
            let mut texts = Vec::new();
            questions(row, &mut texts);
            texts.into_iter().map(str::to_string).collect()
        };
        rows.iter().map(of).collect()
    }

    #[test]
    fn questions_are_found_in_every_layout() {
        let wanted = vec![vec!["One?".to_string()], vec!["Two, too?".to_string()]];
        let lines = "{\"question\": \"One?\", \"answer\": \"a\"}\n\n{\"question\": {\"stem\": \"Two, too?\", \"choices\": [{\"text\": \"x\"}]}}\n";
        assert_eq!(texts_of("a.jsonl", lines.as_bytes()), wanted);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        assert_eq!(texts_of("a.jsonl.gz", &gz.finish().unwrap()), wanted);
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

    fn config(files: &[&Path]) -> PairConfig {
        let decontaminate = files.iter().map(|f| f.display().to_string()).collect();
        PairConfig { decontaminate, ..PairConfig::default() }
    }

    #[test]
    fn files_without_questions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, told) in [
            ("{\"answer\": \"x\"}\n", "no row has a question; the fields are answer"),
            ("", "the file is empty"),
            ("[{]", "not JSON"),
            ("{\"question\": \"x\"}\n{\"question\n", "line 2: not JSON"),
        ] {
            let path = dir.path().join("b.jsonl");
            std::fs::write(&path, text).unwrap();
            let error = load(&config(&[&path]), &Silent).unwrap_err();
            assert!(error.to_string().contains(told) && error.exit_code() == 3, "{error}");
        }
        std::fs::write(dir.path().join("b.jsonl"), b"\x1f\x8bno gzip").unwrap();
        assert!(load(&config(&[&dir.path().join("b.jsonl")]), &Silent).unwrap_err().to_string().contains("damaged"));
        std::fs::write(dir.path().join("b.jsonl"), b"PAR1 no parquet").unwrap();
        assert!(
            load(&config(&[&dir.path().join("b.jsonl")]), &Silent)
                .unwrap_err()
                .to_string()
                .contains("not a readable Parquet")
        );
        assert!(load(&config(&[&dir.path().join("absent")]), &Silent).is_err());
        assert!(load(&PairConfig::default(), &Silent).unwrap().is_none());
    }

    /// Real preference data against real benchmarks.
    #[test]
    #[ignore = "needs the real data of the folder LPC_PIPE_DATA; `just test-all` runs it"]
    fn the_known_overlap_of_real_data_is_found() {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        let shared = std::env::var_os("LPC_PIPE_DATA").map_or_else(beside, PathBuf::from);
        let files =
            ["gsm8k_test.jsonl.gz", "truthfulqa_mc.json.gz", "arc_easy_test.jsonl.gz", "arc_challenge_test.jsonl.gz"]
                .map(|name| shared.join("eval").join(name));
        let benchmarks = load(&config(&files.each_ref().map(|f| f.as_path())), &Silent).unwrap().unwrap();
        let rows: Vec<u64> = benchmarks.files.iter().filter_map(|f| f.rows).collect();
        assert_eq!(rows, [1172, 2376, 1319, 817], "files in the order of their names");
        let mut rejects = Vec::new();
        let inputs = [Input::new(shared.join("alpaca_eval_prefs/train.jsonl.gz"))];
        ingest::read(&inputs, &IngestConfig::default(), None, &Silent, &mut |batch| {
            rejects.extend(benchmarks.index.apply(batch.frame, false)?.rejects);
            Ok(())
        })
        .unwrap();
        let rejects: Vec<(u64, String)> = rejects.into_iter().map(|r| (r.line, r.detail)).collect();
        assert!(
            rejects.iter().any(|(line, detail)| *line == 148 && detail.starts_with("truthfulqa_mc: ")),
            "{rejects:?}"
        );
        assert_eq!(rejects.len(), 1, "nothing else is in any benchmark: {rejects:?}");
    }
}
