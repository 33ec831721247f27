use std::io::Write as _;

use polars::df;

use super::*;
use crate::artifact;
use crate::token_file::{self, TokenRow};

fn text_of(path: &Path, dir: &Path) -> String {
    run(path).unwrap().to_text().replace(&format!("{}/", dir.display()), "")
}

#[test]
fn tables_show_schema_count_and_short_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let long = "x".repeat(1000) + "\n";
    let mut frame = df!("id" => [1i64, 2, 3, 4], "text" => ["a\u{1b}[2Jb", &long, "", "é"]).unwrap();
    artifact::write_parquet(&path, &mut frame).unwrap();
    let found = run(&path).unwrap();
    assert_eq!((found.rows, found.first.len()), (Some(4), 3));
    assert_eq!(found.fields[0], Field { name: "id".into(), kind: "Int64".into() });
    assert_eq!(found.first[0]["text"], "a\\u{1b}[2Jb");
    assert_eq!(found.first[1]["text"].as_str().unwrap().chars().count(), SHOWN + 1);
    assert_eq!(found.bytes, std::fs::metadata(&path).unwrap().len());
}

#[test]
fn arrow_streams_are_shown_as_files_are() {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use arrow::ipc::writer::StreamWriter;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data-00000-of-00001.arrow");
    let asked: ArrayRef = Arc::new(StringArray::from(vec!["One?", "Two?"]));
    let batch = RecordBatch::try_from_iter([("question", asked)]).unwrap();
    let mut stream = StreamWriter::try_new(std::fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.write(&batch).unwrap();
    stream.finish().unwrap();
    let found = run(&path).unwrap();
    assert_eq!((found.rows, found.facts["record batches"].as_u64()), (Some(4), Some(2)));
    assert_eq!(found.first[1]["question"], "Two?");
}

#[test]
fn json_lines_count_keys_types_and_bad_rows() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}{\"a\":1,\"b\":\"x\"}\n\n{\"a\":null,\"c\":[1,2]}\r\n[1]\n{\"a\":2.5";
    let plain = dir.path().join("t.jsonl");
    std::fs::write(&plain, text).unwrap();
    insta::assert_snapshot!(text_of(&plain, dir.path()), @"
    t.jsonl: jsonl, 54 B, 4 rows

    facts
      rows that are no JSON object: 2
      first of them: line 4: invalid type: sequence, expected a map

    fields
      a  integer or null
      b  string, missing in 1 rows
      c  list, missing in 1 rows

    row 1
      a: 1
      b: x

    row 2
      a: null
      c: [1,2]
    ");

    let packed = dir.path().join("t.jsonl.gz");
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap();
    let zst = dir.path().join("t.jsonl.zst");
    std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    let (plain, packed, zst) = (run(&plain).unwrap(), run(&packed).unwrap(), run(&zst).unwrap());
    assert_eq!((&plain.first, plain.rows, &plain.fields), (&packed.first, packed.rows, &packed.fields));
    assert_eq!((&plain.first, plain.rows), (&zst.first, zst.rows));
}

fn gguf(edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    let text = |out: &mut Vec<u8>, t: &str| {
        out.extend((t.len() as u64).to_le_bytes());
        out.extend(t.as_bytes());
    };
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "tokens");
    out.extend(9u32.to_le_bytes());
    out.extend(4u32.to_le_bytes());
    out.extend(10u64.to_le_bytes());
    (0..10u32).for_each(|i| out.extend(i.to_le_bytes()));
    text(&mut out, "output.weight");
    out.extend(2u32.to_le_bytes());
    out.extend(4u64.to_le_bytes());
    out.extend(6u64.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    edit(&mut out);
    out
}

#[test]
fn gguf_heads_are_read_and_lies_about_lengths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, gguf(|_| {})).unwrap();
    insta::assert_snapshot!(text_of(&path, dir.path()), @"
    m.gguf: gguf, 192 B

    facts
      version: 3
      tensors: 1
      general.architecture: llama
      tokens: 10 items: 0, 1, 2, 3, 4, 5, 6, 7, ...
      parameters: 24

    fields
      output.weight  Q8_0 [4, 6]
    ");
    for lie in [
        (|g: &mut Vec<u8>| g[24..32].copy_from_slice(&u64::MAX.to_le_bytes())) as fn(&mut Vec<u8>),
        |g| g[8..16].copy_from_slice(&u64::MAX.to_le_bytes()),
        |g| g.truncate(60),
        |g| g[4] = 9,
    ] {
        std::fs::write(&path, gguf(lie)).unwrap();
        let error = run(&path).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }
}

#[test]
fn safetensors_heads_are_read_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let head =
        "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head.as_bytes());
    bytes.extend([0u8; 24]);
    std::fs::write(&path, &bytes).unwrap();
    insta::assert_snapshot!(text_of(&path, dir.path()), @"
    m.safetensors: safetensors, 120 B

    facts
      tensors: 1
      parameters: 6
      format: pt

    fields
      w  F32 [2, 3]
    ");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(run(&path).unwrap().facts.contains_key("damage"));
    std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert_eq!(run(&path).unwrap_err().exit_code(), 3);
}

#[test]
fn a_prepared_folder_shows_its_manifest_files_and_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let mut frame = df!("id" => ["a"], "source" => ["s"]).unwrap();
    artifact::write_parquet(folder.join("pairs/train.parquet"), &mut frame).unwrap();
    let row = TokenRow {
        id: "a".into(),
        prompt_ids: (0..30).collect(),
        chosen_ids: vec![7, 8].into(),
        rejected_ids: vec![9].into(),
        flipped: true,
        source: "s".into(),
        ..TokenRow::default()
    };
    token_file::write(folder.join("tokens/train.arrow"), &[row]).unwrap();
    std::fs::write(folder.join("rejects.parquet"), b"not parquet").unwrap();
    let mut manifest = Manifest::begin("prepare", &1).unwrap();
    manifest.fact("realised_noise", 0.2).unwrap();
    manifest.finish(folder).unwrap();

    let found = run(folder).unwrap();
    assert_eq!((found.kind.as_str(), &found.facts["realised_noise"]), ("prepared folder", &Value::from(0.2)));
    let names: Vec<(&str, &str)> = found.files.iter().map(|f| (f.path.as_str(), f.kind.as_str())).collect();
    assert_eq!(
        names,
        [
            ("manifest.json", "json"),
            ("pairs/train.parquet", "parquet"),
            ("rejects.parquet", "damaged"),
            ("tokens/train.arrow", "arrow")
        ]
    );
    insta::assert_snapshot!(found.example.as_deref().unwrap(), @"
    train, id a, source s, label flipped
    prompt, masked          30 tokens:  0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29
    chosen, trained on       2 tokens: [ 7 8]
    rejected, trained on     1 tokens: [ 9]
    ");
    assert!(found.to_text().contains("  tokens/train.arrow: arrow,"), "{}", found.to_text());
}

#[test]
fn unknown_and_missing_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.exe");
    assert_eq!(run(&path).unwrap_err().exit_code(), 3);
    std::fs::write(&path, b"MZ").unwrap();
    let error = run(&path).unwrap_err();
    assert!(error.hint().unwrap().contains(".parquet"), "{error}");
}
