use std::path::Path;
use std::sync::Arc;

use ::arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use ::arrow::buffer::{NullBuffer, OffsetBuffer};
use ::arrow::datatypes::{DataType, Field, Fields, Int32Type};
use ::arrow::ipc::writer::{FileWriter, StreamWriter};
use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use polars::prelude::{DataFrame, IpcCompression, IpcWriter, ParquetCompression, ParquetWriter, SerWriter};

use super::super::tests::{frame_of, gzip, lines, read_all, sample, skip, text, to_parquet};
use super::super::{IngestConfig, Input, Position, read};
use crate::progress::Silent;

fn joined(path: &Path, config: &IngestConfig) -> DataFrame {
    let (frames, rejects, files) = read_all(&[path], config).unwrap();
    assert_eq!(rejects, [], "{}", path.display());
    let mut joined = frames[0].clone();
    frames[1..].iter().for_each(|frame| {
        joined.vstack_mut(frame).unwrap();
    });
    assert_eq!(files[0].rows_read as usize, joined.height());
    joined
}

pub const SAMPLES: [&str; 14] = [
    "ultrafeedback",
    "binarized",
    "ultrafeedback_cleaned",
    "argilla",
    "trl_standard",
    "trl_conversational",
    "trl_implicit",
    "hh_rlhf",
    "helpsteer2",
    "helpsteer3",
    "tulu3",
    "skywork",
    "orca",
    "nemo_rl",
];

#[test]
fn every_file_format_gives_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    for name in SAMPLES {
        let json = sample(&format!("{name}.jsonl"));
        let wanted = joined(&json, &IngestConfig::default());
        let lines = std::fs::read_to_string(&json).unwrap();
        let at = |ending: &str| dir.path().join(format!("{name}.{ending}"));

        let rows: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        std::fs::write(at("json"), serde_json::to_vec_pretty(&rows).unwrap()).unwrap();
        std::fs::write(at("json.gz"), gzip(&serde_json::to_vec(&rows).unwrap())).unwrap();
        std::fs::write(at("zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
        to_parquet(&lines, &at("parquet"), 2);
        let mut frame = frame_of(&lines);
        let file = |ending: &str| std::fs::File::create(at(ending)).unwrap();
        for (ending, packing) in [
            ("gzip.parquet", ParquetCompression::Gzip(None)),
            ("snappy.parquet", ParquetCompression::Snappy),
            ("lz4.parquet", ParquetCompression::Lz4Raw),
            ("plain.parquet", ParquetCompression::Uncompressed),
        ] {
            ParquetWriter::new(file(ending)).with_compression(packing).finish(&mut frame).unwrap();
        }
        IpcWriter::new(file("arrow")).finish(&mut frame).unwrap();
        for ending in [
            "json",
            "json.gz",
            "zst",
            "parquet",
            "gzip.parquet",
            "snappy.parquet",
            "lz4.parquet",
            "plain.parquet",
            "arrow",
        ] {
            let found = joined(&at(ending), &IngestConfig::default());
            assert!(found.equals_missing(&wanted), "{name}.{ending}\n{found}\n{wanted}");
        }
    }
}

#[test]
fn columns_of_ones_own_are_renamed_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let columns = ["prompt=question", "chosen=answer_a", "rejected=answer_b", "annotator=judge", "noise_p=confidence"];
    let config = IngestConfig { columns: columns.map(String::from).to_vec(), ..IngestConfig::default() };
    let frame = joined(&sample("questions.csv"), &config);
    assert_eq!(frame.height(), 3);
    assert_eq!(text(&frame, "annotator", 1).as_deref(), Some("ben"));
    assert_eq!(frame.column("flip_probability").unwrap().f64().unwrap().get(2), Some(0.1));
    assert_eq!(lines(&frame), [2, 3, 6], "a record is known by the line it begins on");

    let nested = r#"{"question": "q", "answer": {"a": {"text": "yes"}, "b": "no"}, "judge": "anna", "confidence": 0.5, "prompt": 1}
{"question": "r", "answer": {"a": {"text": "one"}, "b": "two"}, "judge": null, "confidence": null, "prompt": 2}
"#;
    let mut entries = config.columns.clone();
    entries[1] = "chosen=answer.a.text".into();
    entries[2] = "rejected=answer.b".into();
    let config = IngestConfig { columns: entries, ..IngestConfig::default() };
    let (json, parquet, arrow) = (dir.path().join("x.jsonl"), dir.path().join("x.parquet"), dir.path().join("x.arrow"));
    std::fs::write(&json, nested).unwrap();
    to_parquet(nested, &parquet, 1);
    IpcWriter::new(std::fs::File::create(&arrow).unwrap()).finish(&mut frame_of(nested)).unwrap();
    let wanted = joined(&json, &config);
    assert_eq!(text(&wanted, "annotator", 0).as_deref(), Some("anna"));
    for path in [&parquet, &arrow] {
        let found = joined(path, &config);
        assert!(found.equals_missing(&wanted), "{found}\n{wanted}");
    }
    let error = read_all(&[&json], &IngestConfig { columns: vec!["prompt=a.".into()], ..config }).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn whole_numbers_and_lists_as_text_are_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let at = |ending: &str| dir.path().join(format!("x.{ending}"));
    let messages = |text: &str| format!("[{{'role': 'user', 'content': '{text}'}}]");
    let json = |text: &str| format!(r#"[{{"role": "assistant", "content": "{text}"}}]"#);
    let ids = [9_007_199_254_740_992_i64, 9_007_199_254_740_993];
    let row = |i: usize, annotator: serde_json::Value| {
        let (a, b) = (json(&format!("a{i}")), json(&format!("b{i}")));
        serde_json::json!({"prompt": messages(&format!("p{i}")), "chosen": a, "rejected": b, "annotator": annotator})
    };
    let lines = |annotator: &dyn Fn(usize) -> serde_json::Value| {
        (0..2).map(|i| format!("{}\n", row(i, annotator(i)))).collect::<String>()
    };
    let whole = lines(&|i| ids[i].into());
    std::fs::write(at("jsonl"), &whole).unwrap();
    std::fs::write(at("text.jsonl"), lines(&|i| ids[i].to_string().into())).unwrap();
    to_parquet(&whole, &at("parquet"), 1);
    IpcWriter::new(std::fs::File::create(at("arrow")).unwrap()).finish(&mut frame_of(&whole)).unwrap();
    let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let record = |i: usize| {
        let cells = [messages(&format!("p{i}")), json(&format!("a{i}")), json(&format!("b{i}"))].map(|c| cell(&c));
        format!("{},{}\n", cells.join(","), ids[i])
    };
    let records: String = (0..2).map(record).collect();
    std::fs::write(at("csv"), format!("prompt,chosen,rejected,annotator\n{records}")).unwrap();

    let wanted = joined(&at("jsonl"), &IngestConfig::default());
    assert_eq!(text(&wanted, "annotator", 1).as_deref(), Some("9007199254740993"));
    assert_eq!(messages_of(&wanted, "prompt"), ["p0", "p1"]);
    assert_eq!(messages_of(&wanted, "rejected"), ["b0", "b1"]);
    for ending in ["text.jsonl", "parquet", "arrow", "csv"] {
        let found = joined(&at(ending), &IngestConfig::default());
        for name in ["prompt", "chosen", "rejected", "annotator"] {
            let same = found.column(name).unwrap().equals_missing(wanted.column(name).unwrap());
            assert!(same, "{ending} {name}\n{found}\n{wanted}");
        }
    }
}

/// The contents of a column of single messages.
fn messages_of(frame: &DataFrame, name: &str) -> Vec<String> {
    (0..frame.height()).map(|i| crate::ingest::tests::messages(frame, name, i).remove(0).content).collect()
}

#[test]
fn a_file_without_rows_among_others_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let lines = "{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}\n";
    let mut none = frame_of(lines).clear();
    ParquetWriter::new(std::fs::File::create(at("none.parquet")).unwrap()).finish(&mut none).unwrap();
    let mut other = polars::df!("id" => Vec::<i64>::new()).unwrap();
    ParquetWriter::new(std::fs::File::create(at("other.parquet")).unwrap()).finish(&mut other).unwrap();
    IpcWriter::new(std::fs::File::create(at("none.arrow")).unwrap()).finish(&mut none).unwrap();
    std::fs::write(at("none.jsonl"), "").unwrap();
    std::fs::write(at("blank.jsonl"), " \n\n").unwrap();
    std::fs::write(at("none.jsonl.gz"), gzip(b"")).unwrap();
    std::fs::write(at("none.json"), "[]").unwrap();
    std::fs::write(at("head.csv"), "prompt,chosen,rejected\n").unwrap();
    std::fs::write(at("rows.jsonl"), lines).unwrap();
    let empty = [
        "none.parquet",
        "other.parquet",
        "none.arrow",
        "none.jsonl",
        "blank.jsonl",
        "none.jsonl.gz",
        "none.json",
        "head.csv",
    ];
    for name in empty {
        let (frames, rejects, files) = read_all(&[&at(name), &at("rows.jsonl")], &IngestConfig::default()).unwrap();
        let rows: Vec<u64> = files.iter().map(|file| file.rows_read).collect();
        assert_eq!((rows, frames.len(), rejects.len()), (vec![0, 1], 1, 0), "{name}");
        let error = read_all(&[&at(name)], &skip()).unwrap_err().to_string();
        assert!(error.ends_with("the file has no rows"), "{name}: {error}");
    }
    let error = read_all(&[&at("none.jsonl"), &at("none.parquet")], &skip()).unwrap_err().to_string();
    assert!(error.ends_with("none of the input files has a row"), "{error}");
}

#[test]
fn packed_arrow_buffers_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut frame = frame_of(&std::fs::read_to_string(sample("binarized.jsonl")).unwrap());
    let wanted = joined(&sample("binarized.jsonl"), &IngestConfig::default());
    for (name, packing) in
        [("lz4.feather", IpcCompression::LZ4), ("zstd.arrow", IpcCompression::ZSTD(Default::default()))]
    {
        let path = dir.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        IpcWriter::new(file).with_compression(Some(packing)).finish(&mut frame).unwrap();
        assert!(joined(&path, &IngestConfig::default()).equals_missing(&wanted), "{name}");
    }
}

#[test]
fn named_columns_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |ending: &str| dir.path().join(format!("x.{ending}"));
    let row = |i: usize| format!("{{\"q\": \"p{i}\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n");
    // Only the last of many rows has the column `r`.
    let mut lines: String = (0..9000).map(row).collect();
    lines.push_str("{\"q\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\", \"r\": {\"a\": 2}}\n");
    std::fs::write(at("jsonl"), &lines).unwrap();
    to_parquet(&lines, &at("parquet"), 10_000);
    IpcWriter::new(std::fs::File::create(at("arrow")).unwrap()).finish(&mut frame_of(&lines)).unwrap();
    std::fs::write(at("csv"), "q,chosen,rejected,r.a\np,a,b,2\n").unwrap();
    for ending in ["jsonl", "parquet", "arrow", "csv"] {
        let with = |columns: &[&str]| {
            let columns = columns.iter().map(|c| c.to_string()).collect();
            read_all(&[&at(ending)], &IngestConfig { columns, ..IngestConfig::default() })
        };
        assert!(with(&["prompt=q", "score_chosen=r.a"]).is_ok(), "{ending}");
        let error = with(&["prompt=q", "score_chosen=r.b", "source=s"]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{ending}");
        let error = error.to_string();
        assert!(error.contains("no row has the column of score_chosen=r.b, source=s (--columns)"), "{ending}: {error}");
        assert!(error.contains("the rows have q, chosen, rejected"), "{ending}: {error}");
    }
}

#[test]
fn unread_keys_of_messages_are_told_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let at = |ending: &str| dir.path().join(format!("x.{ending}"));
    let row = |calls: &str| {
        format!(
            r#"{{"prompt":"p","chosen":[{{"role":"assistant","content":"a","calls":{calls},"mood":null}}],"rejected":[{{"role":"assistant","content":"a","calls":["d"],"mood":null}}]}}"#
        )
    };
    let lines = format!("{}\n{}\n", row("[\"c\"]"), row("[]").replace("[\"d\"]", "[]"));
    std::fs::write(at("jsonl"), &lines).unwrap();
    to_parquet(&lines, &at("parquet"), 10);
    IpcWriter::new(std::fs::File::create(at("arrow")).unwrap()).finish(&mut frame_of(&lines)).unwrap();
    for ending in ["jsonl", "parquet", "arrow"] {
        let (frames, rejects, _) = read_all(&[&at(ending)], &skip()).unwrap();
        let found: Vec<_> = rejects.iter().map(|r| (r.line, r.field.as_str(), r.reason)).collect();
        assert_eq!(found, [(1, "chosen[0].calls", crate::rejects::reason::UNREAD_KEY)], "{ending}");
        assert_eq!(frames[0].height(), 1, "{ending}");
        let error = read_all(&[&at(ending)], &IngestConfig::default()).unwrap_err();
        assert!(error.hint().unwrap().contains("--ignore-keys calls"), "{ending}");
        let ignored = IngestConfig { ignore_keys: vec!["calls".into()], ..IngestConfig::default() };
        assert_eq!(read_all(&[&at(ending)], &ignored).unwrap().0[0].height(), 2, "{ending}");
    }
}

/// Three rows with types that other writers choose: dictionaries, 32-bit numbers, lists of a fixed size, lists that are
/// null.
fn odd_types() -> RecordBatch {
    let prompts: DictionaryArray<Int32Type> = ["p", "p", "q"].into_iter().collect();
    let roles: ArrayRef = Arc::new(StringArray::from(vec!["assistant"; 3]));
    let contents: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let fields =
        Fields::from(vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)]);
    let messages: ArrayRef = Arc::new(StructArray::new(fields.clone(), vec![roles, contents], None));
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    let chosen = FixedSizeListArray::new(item.clone(), 1, messages.clone(), None);
    let nulls = NullBuffer::from(vec![true, true, false]);
    let rejected = ListArray::new(item, OffsetBuffer::from_lengths([1, 1, 1]), messages, Some(nulls));
    let scores = Float32Array::from(vec![0.5, 1.0, 2.0]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("prompt", Arc::new(prompts)),
        ("chosen", Arc::new(chosen)),
        ("rejected", Arc::new(rejected)),
        ("score_chosen", Arc::new(scores)),
        ("score_rejected", Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn stream_of(batches: &[RecordBatch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
    bytes
}

fn file_of(batches: &[RecordBatch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
    bytes
}

fn parquet_of(batches: &[RecordBatch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batches[0].schema(), None).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.close().unwrap();
    bytes
}

#[test]
fn types_that_other_writers_choose_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let batch = odd_types();
    for bytes in [
        stream_of(std::slice::from_ref(&batch)),
        file_of(&[batch.clone(), batch.slice(1, 1)]),
        parquet_of(std::slice::from_ref(&batch)),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let (frames, rejects, _) = read_all(&[&path], &skip()).unwrap();
        assert_eq!(text(&frames[0], "chosen_model", 0), None);
        assert_eq!(frames[0].height(), 2);
        assert_eq!(frames[0].column("score_chosen").unwrap().f64().unwrap().get(1), Some(1.0));
        assert_eq!(frames[0].column("score_rejected").unwrap().null_count(), 1);
        assert_eq!((rejects[0].line, rejects[0].field.as_str()), (3, "rejected"));
    }
    assert_eq!(read_all(&[&path], &skip()).unwrap().0.len(), 1);
}

#[test]
fn torn_arrow_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.arrow");
    let batch = odd_types();
    let (stream, file) = (stream_of(std::slice::from_ref(&batch)), file_of(&[batch]));
    for (bytes, message) in [
        (&file[..file.len() - 1], "the end is missing"),
        (&file[..10], "too short"),
        (&stream[..stream.len() / 2], "Unexpected End of Stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "not a readable Arrow file"),
        (b"\xff\xff\xff\xff\x00\x00\x00\x00", "the file has no rows"),
        (b"ARROW1\x00\x00\xff\xff\xff\x00ARROW1", "the footer is larger than the file"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = read_all(&[&path], &skip()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
    let other = RecordBatch::try_from_iter([("label", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
    std::fs::write(&path, stream_of(&[other])).unwrap();
    let error = read_all(&[&path], &skip()).unwrap_err();
    assert!(error.to_string().contains("none of the columns is known: label"), "{error}");
    assert!(error.hint().unwrap().contains("--columns prompt=question"));
}

/// Rows with one long prompt, which a dictionary stores once.
fn repeated(rows: usize, length: usize) -> RecordBatch {
    let long = "x".repeat(length);
    let column = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows])) };
    RecordBatch::try_from_iter([("prompt", column(&long)), ("chosen", column("a")), ("rejected", column("b"))]).unwrap()
}

#[test]
fn batches_are_bounded_in_rows_and_text_whatever_the_row_groups() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    // 20,000 rows in one row group; 32 MiB of text that is 32 KiB in the file.
    for (batch, most_rows) in [(repeated(20_000, 3), 8192), (repeated(1024, 1 << 15), 512)] {
        let rows = batch.num_rows();
        for bytes in [parquet_of(std::slice::from_ref(&batch)), file_of(std::slice::from_ref(&batch))] {
            std::fs::write(&path, &bytes).unwrap();
            let (frames, _, files) = read_all(&[&path], &IngestConfig::default()).unwrap();
            assert_eq!(files[0].rows_read as usize, rows);
            assert!(frames.len() > 1 && frames.iter().all(|f| f.height() <= most_rows), "{}", frames[0].height());
            let lines: Vec<u64> = frames.iter().flat_map(lines).collect();
            assert_eq!(lines, (1..=rows as u64).collect::<Vec<_>>());
        }
    }
    // A text longer than a line may be is too long in columns, too.
    let config = IngestConfig { max_line_bytes: 1 << 14, ..skip() };
    let (_, rejects, _) = read_all(&[&path], &config).unwrap();
    assert_eq!((rejects.len(), rejects[0].reason), (1024, crate::rejects::reason::TOO_LONG));
    std::fs::write(&path, parquet_of(&[repeated(20_000, 3)])).unwrap();
    let small = IngestConfig { max_decompressed_bytes: 100, ..skip() };
    assert!(read_all(&[&path], &small).unwrap_err().to_string().contains("more than 100 bytes of text"));
}

#[test]
fn a_dictionary_is_no_bomb() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    // 1 GiB of text, written as one text of 1 MiB and 1,024 references to it.
    let batch = repeated(512, 1 << 20);
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder()
        .set_dictionary_page_size_limit(16 << 20)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    (0..2).for_each(|_| writer.write(&batch).unwrap());
    writer.close().unwrap();
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());
    std::fs::write(&path, &bytes).unwrap();
    let mut rows = 0;
    let before = crate::progress::peak_rss_mb();
    read(&[Input::new(&path)], &IngestConfig::default(), None, &Silent, &mut |batch| {
        assert!(batch.frame.height() <= 16, "16 MiB of text");
        rows += batch.frame.height();
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, 1024);
    let grown = crate::progress::peak_rss_mb() - before;
    assert!(grown.is_nan() || grown < 512.0, "1 GiB of text took {grown} MiB");
}

#[test]
fn columns_go_on_behind_any_batch() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.parquet", "b.arrow", "c.csv", "d.json"].map(|name| dir.path().join(name));
    let batch = repeated(700, 1 << 15);
    std::fs::write(&paths[0], parquet_of(std::slice::from_ref(&batch))).unwrap();
    std::fs::write(&paths[1], stream_of(&[batch.clone(), batch])).unwrap();
    let records: String = (0..9000).map(|i| format!("\"p\n{i}\",a,b\n")).collect();
    std::fs::write(&paths[2], format!("prompt,chosen,rejected\n{records}")).unwrap();
    let elements: Vec<String> =
        (0..9000).map(|i| format!(r#"{{"prompt":"p{i}","chosen":"a","rejected":"b"}}"#)).collect();
    std::fs::write(&paths[3], format!("[{}]", elements.join(",\n"))).unwrap();
    let inputs = paths.map(Input::new);
    let rows = |from: Option<Position>| {
        let (mut ends, mut rows) = (Vec::new(), 0);
        let files = read(&inputs, &IngestConfig::default(), from, &Silent, &mut |batch| {
            ends.push((batch.end(), batch.frame.height()));
            rows += batch.frame.height() as u64;
            Ok(())
        });
        (ends, rows, files.unwrap())
    };
    let (ends, all, files) = rows(None);
    assert!(ends.len() >= 8, "{ends:?}");
    assert_eq!(files.iter().map(|f| f.rows_read).sum::<u64>(), all);
    let mut done = 0;
    for (i, (end, height)) in ends.iter().enumerate() {
        done += *height as u64;
        let (rest, read, same) = rows(Some(*end));
        assert_eq!((&rest[..], read), (&ends[i + 1..], all - done));
        assert_eq!(same, files);
    }
}

#[test]
fn csv_rows_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let wide = "prompt;chosen;rejected;score_chosen\r\np;a;b;1,5\r\nq;\"a\n\";b\r\nr;c;d;2\r\n \"s\";\"a\"x;b;1\r\n";
    std::fs::write(&path, gzip(wide.as_bytes())).unwrap();
    let (frames, rejects, files) = read_all(&[&path], &skip()).unwrap();
    assert_eq!((frames[0].height(), files[0].rows_read), (1, 4));
    let found: Vec<_> = rejects.iter().map(|r| (r.line, r.reason, r.detail.as_str())).collect();
    assert_eq!(found[0], (2, "wrong-type", "expected a number, got \"1,5\""));
    assert_eq!(found[1], (3, "bad-csv", "expected 4 cells as in the header, got 3"));
    assert_eq!(found[2].0, 6);
    std::fs::write(&path, "prompt,chosen,rejected\n").unwrap();
    assert!(read_all(&[&path], &skip()).unwrap_err().to_string().contains("the file has no rows"));
    let named = dir.path().join("x.csv");
    std::fs::write(&named, "a,b\n1,2\n").unwrap();
    let error = read_all(&[&named], &skip()).unwrap_err();
    assert!(error.to_string().contains("line 1: none of the columns is known: a, b"), "{error}");
}
