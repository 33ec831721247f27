use std::io::Write;
use std::path::Path;

use polars::prelude::*;
use proptest::prelude::*;

use super::*;
use crate::frame::ListOfStructs;
use crate::message::{Message, MessageColumn};
use crate::progress::Silent;
use crate::rejects::reason;

pub type Everything = (Vec<DataFrame>, Vec<Reject>, Vec<InputFile>);

pub fn read_all(paths: &[&Path], config: &IngestConfig) -> Result<Everything> {
    let inputs: Vec<Input> = paths.iter().map(Input::new).collect();
    let (mut frames, mut rejects) = (Vec::new(), Vec::new());
    let files = read(&inputs, config, None, &Silent, &mut |batch| {
        frames.push(batch.frame);
        rejects.extend(batch.rejects);
        Ok(())
    })?;
    Ok((frames, rejects, files))
}

pub fn read_bytes(bytes: &[u8], config: &IngestConfig) -> Result<Everything> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    std::fs::write(&path, bytes).unwrap();
    read_all(&[&path], config)
}

pub fn skip() -> IngestConfig {
    IngestConfig { on_bad_row: OnBadRow::Skip, ..IngestConfig::default() }
}

pub fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples").join(name)
}

pub fn messages(frame: &DataFrame, name: &str, row: usize) -> Vec<Message> {
    MessageColumn::open(frame.column(name).unwrap()).unwrap().messages(row)
}

pub fn text(frame: &DataFrame, name: &str, row: usize) -> Option<String> {
    frame.column(name).unwrap().str().unwrap().get(row).map(str::to_string)
}

pub fn lines(frame: &DataFrame) -> Vec<u64> {
    frame.column("line").unwrap().u64().unwrap().iter().flatten().collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn scores(frame: &DataFrame, row: usize) -> Vec<Option<f64>> {
    let lists = ListOfStructs::open(frame.column("completions").unwrap()).unwrap();
    let scores = lists.field("score").unwrap().f64().unwrap().clone();
    lists.range(row).map(|k| scores.get(k)).collect()
}

/// The message of the fault in the first line, without the path.
fn fault(line: &str, format: Format, score: Score) -> String {
    let config = IngestConfig { format, score, ..IngestConfig::default() };
    let error = read_bytes(line.as_bytes(), &config).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error.to_string();
    let no_layout =
        text.contains("expected instruction and completions") || text.contains("the row has chosen, rejected");
    let skip = error.hint().unwrap().contains("pass --on-bad-row skip to drop and count such rows");
    assert_eq!(skip, !no_layout, "only where a row is at fault");
    error.to_string().split_once("data.jsonl: line 1: ").expect("the line is named").1.to_string()
}

#[test]
fn raw_rows_become_scored_completions() {
    let (frames, rejects, files) = read_all(&[&sample("ultrafeedback.jsonl")], &IngestConfig::default()).unwrap();
    let frame = &frames[0];
    assert_eq!((frame.height(), rejects.len(), files[0].rows_read), (5, 0, 5));
    assert_eq!(files[0].blake3.len(), 64);
    assert_eq!(text(frame, "source", 0).as_deref(), Some("gardening"));
    assert_eq!(messages(frame, "prompt", 2), [Message::user("What is seven times eight?")]);
    assert_eq!(scores(frame, 0), [Some(8.5), Some(2.0), Some(8.0), Some(4.0)]);
    assert_eq!(scores(frame, 2), [Some(9.5), Some(2.0)]);
    assert_eq!(frame.column("line").unwrap().u64().unwrap().get(4), Some(5));
}

#[test]
fn aspects_can_be_the_score() {
    let with = |score| {
        let config = IngestConfig { score, ..IngestConfig::default() };
        read_all(&[&sample("ultrafeedback.jsonl")], &config).unwrap().0.remove(0)
    };
    assert_eq!(scores(&with(Score::Helpfulness), 0), [Some(5.0), Some(1.0), Some(4.0), Some(2.0)]);
    assert_eq!(scores(&with(Score::Honesty), 0), [Some(5.0), Some(3.0), Some(5.0), None]);
    assert_eq!(scores(&with(Score::Truthfulness), 1), [Some(5.0), Some(1.0), None, Some(5.0)]);
    assert_eq!(scores(&with(Score::InstructionFollowing), 2), [Some(5.0), Some(3.0)]);
    // 2, N/A, 4, 2.
    assert_eq!(scores(&with(Score::MeanAspects), 0)[3], Some(8.0 / 3.0));
}

#[test]
fn binarized_rows_become_pairs() {
    let (frames, ..) = read_all(&[&sample("binarized.jsonl")], &IngestConfig::default()).unwrap();
    let frame = &frames[0];
    assert_eq!(messages(frame, "prompt", 0), [Message::user("Give me a word that rhymes with night.")]);
    assert_eq!(messages(frame, "chosen", 0), [Message::assistant("Light.")]);
    assert_eq!(messages(frame, "rejected", 0), [Message::assistant("Day.")]);
    assert_eq!(frame.column("score_rejected").unwrap().f64().unwrap().get(1), Some(4.0));
    assert_eq!(text(frame, "source", 0), None, "the row has no source of its own");
    assert_eq!(text(frame, "chosen_model", 0), None);
}

#[test]
fn trl_rows_become_pairs() {
    let of = |name: &str| read_all(&[&sample(name)], &IngestConfig::default()).unwrap().0.remove(0);
    let standard = of("trl_standard.jsonl");
    assert_eq!(messages(&standard, "prompt", 0), [Message::user("The opposite of hot is")]);
    assert_eq!(messages(&standard, "chosen", 0), [Message::assistant("cold.")]);
    assert_eq!(text(&standard, "source", 1).as_deref(), Some("sayings"));
    assert_eq!(standard.column("score_chosen").unwrap().null_count(), 3);

    let given = of("trl_conversational.jsonl");
    assert_eq!(messages(&given, "prompt", 0)[0], Message::new("system", "Answer in one word."));
    assert_eq!(messages(&given, "prompt", 1).len(), 3);
    assert_eq!(messages(&given, "rejected", 1), [Message::assistant("Blue.")]);

    let implied = of("trl_implicit.jsonl");
    assert_eq!(messages(&implied, "prompt", 1).len(), 3);
    assert_eq!(messages(&implied, "prompt", 1)[2], Message::user("Why?"));
    assert_eq!(messages(&implied, "rejected", 1), [Message::assistant("It just does not.")]);
}

#[test]
fn other_names_of_scores_and_models_are_known() {
    let row = r#"{"source":"s","prompt":"p","chosen":[{"role":"assistant","content":"a"}],"chosen-rating":5,"chosen-model":"m","rejected":[{"role":"assistant","content":"b"}],"rejected-rating":2.5,"rejected-model":"n"}"#;
    let frame = read_bytes(row.as_bytes(), &IngestConfig::default()).unwrap().0.remove(0);
    assert_eq!(messages(&frame, "prompt", 0), [Message::user("p")]);
    assert_eq!(frame.column("score_rejected").unwrap().f64().unwrap().get(0), Some(2.5));
    assert_eq!(text(&frame, "chosen_model", 0).as_deref(), Some("m"));
}

#[test]
fn reading_goes_on_behind_any_batch() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"p{i}\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n");
    let lines: String = (0..20_000).map(row).collect();
    let (json, parquet) = (dir.path().join("a.jsonl"), dir.path().join("b.parquet"));
    std::fs::write(&json, format!("\n{{\"x\": 1}}\n{lines}")).unwrap();
    to_parquet(lines[..lines.len() / 4 + 10].rsplit_once('\n').unwrap().0, &parquet, 1000);
    let inputs = [Input::new(&json), Input::new(&parquet)];
    let rows = |from: Option<Position>| {
        let (mut ends, mut lines) = (Vec::new(), Vec::new());
        let files = read(&inputs, &skip(), from, &Silent, &mut |batch| {
            ends.push(batch.end());
            let file = batch.file;
            lines.extend(batch.rejects.iter().map(|r| (file, r.line)));
            lines.extend(super::tests::lines(&batch.frame).into_iter().map(|l| (file, l)));
            Ok(())
        });
        (ends, lines, files.unwrap())
    };
    let (ends, lines, files) = rows(None);
    assert!(ends.len() > 3, "{ends:?}");
    assert_eq!(files[0].rows_read + files[1].rows_read, lines.len() as u64);
    for (done, end) in ends.iter().enumerate() {
        let (rest, read, same) = rows(Some(*end));
        assert_eq!(rest, ends[done + 1..]);
        assert_eq!(read, lines[lines.len() - read.len()..]);
        assert_eq!(same, files, "what was read before counts as read");
    }
    assert_eq!(rows(Some(*ends.last().unwrap())).1.len(), 0);
}

#[test]
fn faults_of_raw_rows_name_the_field() {
    let cases = [
        (r#"{"completions": []}"#, "instruction: missing; expected a string"),
        (
            r#"{"instruction": " \n", "completions": [{"response": "a", "overall_score": 1}]}"#,
            "instruction: the prompt is empty",
        ),
        (r#"{"instruction": 5, "completions": []}"#, "instruction: expected a string, got 5"),
        (r#"{"instruction": "p", "completions": []}"#, "completions: expected completions, got an empty list"),
        (r#"{"instruction": "p", "completions": {}}"#, "completions: expected a list, got an object"),
        (r#"{"instruction": "p", "completions": ["x"]}"#, "completions[0]: expected an object, got \"x\""),
        (
            r#"{"instruction": "p", "completions": [{"overall_score": 1}]}"#,
            "completions[0].response: missing; expected a string",
        ),
        (
            r#"{"instruction": "p", "completions": [{"response": null, "overall_score": 1}]}"#,
            "completions[0].response: expected a string, got null",
        ),
        (
            r#"{"instruction": "p", "completions": [{"response": "a", "overall_score": 1}, {"response": "b", "overall_score": "N/A"}]}"#,
            "completions[1].overall_score: expected a number, got \"N/A\"",
        ),
        (
            r#"{"instruction": "p", "completions": [{"response": "a", "overall_score": NaN}]}"#,
            "completions[0].overall_score: expected a finite number, got NaN",
        ),
        (
            r#"{"instruction": "p", "completions": [{"response": "a", "overall_score": -Infinity}]}"#,
            "completions[0].overall_score: expected a finite number, got -inf",
        ),
        (
            r#"{"instruction": "p", "completions": [{"response": "a"}]}"#,
            "completions[0].overall_score: missing; expected a number",
        ),
        (
            r#"{"instruction": "p", "source": [1], "completions": []}"#,
            "source: expected a string or a number, got a list",
        ),
        (r#"{"instruction": "p", "completions": [{"resp"#, "not valid JSON: EOF while parsing a string (column 43)"),
        ("[1, 2]", "expected a JSON object, got a list"),
        (
            r#"{"text": "a", "label": 1}"#,
            "expected instruction and completions, or chosen and rejected; the row has text, label",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(fault(line, Format::Auto, Score::Overall), message, "{line}");
    }
    let rated = |annotations: &str| {
        let row =
            format!(r#"{{"instruction": "p", "completions": [{{"response": "a", "annotations": {annotations}}}]}}"#);
        fault(&row, Format::Auto, Score::Honesty)
    };
    assert_eq!(rated("null"), "completions[0].annotations: expected an object, got null");
    assert_eq!(rated("{}"), "completions[0].annotations.honesty: missing; expected an object");
    let expected = "completions[0].annotations.honesty.Rating: expected a number or \"N/A\", got \"good\"";
    assert_eq!(rated(r#"{"honesty": {"Rating": "good"}}"#), expected);
}

#[test]
fn faults_of_pairs_name_the_field() {
    let cases = [
        (
            r#"{"prompt": "p", "chosen": "a"}"#,
            Format::Trl,
            "rejected: missing; expected a string or a list of messages",
        ),
        (r#"{"prompt": "", "chosen": "a", "rejected": "b"}"#, Format::Trl, "prompt: the prompt is empty"),
        (
            r#"{"prompt": 1, "chosen": "a", "rejected": "b"}"#,
            Format::Trl,
            "prompt: expected a string or a list of messages, got 1",
        ),
        (
            r#"{"chosen": "a", "rejected": "b"}"#,
            Format::Trl,
            "prompt: missing; the words that chosen and rejected have in common are no prompt; the row has chosen, rejected",
        ),
        (
            r#"{"chosen": [{"role":"user","content":"p"},{"role":"assistant","content":"a"}], "rejected": [{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#,
            Format::Trl,
            "prompt: missing, and chosen and rejected do not begin with the same messages; the row has chosen, rejected",
        ),
        (
            r#"{"prompt": "p", "chosen": [{"role":"user","content":"p"},{"role":"assistant","content":"a"}], "rejected": [{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#,
            Format::Auto,
            "rejected: expected the messages before the response to be those of chosen",
        ),
        (
            r#"{"prompt": "p", "chosen": [], "rejected": []}"#,
            Format::Auto,
            "chosen: expected a list of messages, got an empty list",
        ),
        (
            r#"{"prompt": "p", "chosen": [{"role":"assistant","content":"a"}], "rejected": [{"role":"user","content":"q"}]}"#,
            Format::Auto,
            "rejected[0].role: expected \"assistant\" in the last message, got \"user\"",
        ),
        (
            r#"{"prompt": "p", "chosen": [{"role":"assistant"}], "rejected": []}"#,
            Format::Binarized,
            "chosen[0].content: missing; expected a string",
        ),
        (
            r#"{"prompt": "p", "chosen": ["a"], "rejected": []}"#,
            Format::Binarized,
            "chosen[0]: expected a message with role and content, got \"a\"",
        ),
        (
            r#"{"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": "high"}"#,
            Format::Trl,
            "score_chosen: expected a number, got \"high\"",
        ),
        (
            r#"{"prompt": "p", "chosen": "a", "rejected": "b", "score_rejected": 1e999}"#,
            Format::Trl,
            "score_rejected: expected a finite number, got inf",
        ),
    ];
    for (line, format, message) in cases {
        assert_eq!(fault(line, format, Score::Overall), message, "{line}");
    }
}

#[test]
fn skipped_rows_are_counted_with_their_lines() {
    let good = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;
    let mut bytes = format!("\n{good}\n{{\"prompt\": \n{good}\n").into_bytes();
    bytes.extend(b"{\"prompt\": \"\xff\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    bytes.extend(format!("{{\"prompt\": \"{}\"}}\n{good}", "x".repeat(100)).bytes());
    let config = IngestConfig { max_line_bytes: 80, ..skip() };
    let (frames, rejects, files) = read_bytes(&bytes, &config).unwrap();
    assert_eq!((frames[0].height(), files[0].rows_read), (3, 6));
    let found: Vec<_> = rejects.iter().map(|r| (r.line, r.reason, r.detail.as_str())).collect();
    let wanted = [
        (3, reason::BAD_JSON, "not valid JSON: EOF while parsing a value (column 10)"),
        (5, reason::INVALID_UTF8, "not UTF-8 from byte 13 on"),
        (6, reason::TOO_LONG, "longer than 80 bytes"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(lines(&frames[0]), [2, 4, 7]);
}

#[test]
fn a_bad_first_row_does_not_hide_the_layout() {
    let bytes = b"{\"prompt\": \n{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}\n{\"x\": 1}\n";
    let (frames, rejects, _) = read_bytes(bytes, &skip()).unwrap();
    assert_eq!((frames[0].height(), rejects.len()), (1, 2));
    assert_eq!(rejects[1].detail, "missing; expected a string or a list of messages; the row has x");
    let error = read_bytes(bytes, &IngestConfig::default()).unwrap_err();
    assert!(error.to_string().contains("line 1: not valid JSON"), "{error}");
}

#[test]
fn files_as_a_whole_must_be_sound() {
    for config in [IngestConfig::default(), skip()] {
        for (bytes, message) in [
            (&b""[..], "the file has no rows"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                "a pointer of Git LFS, not the data",
            ),
            (b"\n \n", "the file has no rows"),
            (b"PAR1", "not a readable Parquet file"),
            (b"PAR1 and then some bytes that are none PAR1", "not a readable Parquet file"),
        ] {
            let error = read_bytes(bytes, &config).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.exit_code(), 3);
        }
    }
    assert_eq!(read_all(&[Path::new("/no/such/file")], &skip()).unwrap_err().exit_code(), 3);
}

/// Rows, given as JSON, as a frame.
pub fn frame_of(lines: &str) -> DataFrame {
    JsonReader::new(std::io::Cursor::new(lines.as_bytes().to_vec()))
        .with_json_format(JsonFormat::JsonLines)
        .infer_schema_len(None)
        .finish()
        .unwrap()
}

/// Writes rows, given as JSON, as Parquet.
pub fn to_parquet(lines: &str, path: &Path, row_group: usize) {
    let frame = frame_of(lines);
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ParquetWriter::new(file).batched(frame.schema()).unwrap();
    for at in (0..frame.height()).step_by(row_group) {
        writer.write_batch(&frame.slice(at as i64, row_group)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn faults_in_parquet_name_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let lines = r#"{"instruction": "p", "completions": [{"response": "a", "overall_score": 1.5}]}
{"instruction": "q", "completions": [{"response": null, "overall_score": 1.5}]}
{"instruction": "r", "completions": null}
"#;
    to_parquet(lines, &path, 1);
    let error = read_all(&[&path], &IngestConfig::default()).unwrap_err().to_string();
    assert!(error.ends_with("line 2: completions[0].response: expected a string, got null"), "{error}");
    let (frames, rejects, _) = read_all(&[&path], &skip()).unwrap();
    assert_eq!(frames.iter().map(DataFrame::height).sum::<usize>(), 1);
    let found: Vec<_> = rejects.iter().map(|r| (r.line, r.field.as_str(), r.reason)).collect();
    assert_eq!(
        found,
        [(2, "completions[0].response", reason::MISSING_FIELD), (3, "completions", reason::MISSING_FIELD)]
    );

    let whole = std::fs::read(&path).unwrap();
    for keep in [whole.len() / 2, whole.len() - 1, 12] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let error = read_all(&[&path], &skip()).unwrap_err();
        assert!(error.to_string().contains("not a readable Parquet file"), "{error}");
    }
}

#[test]
fn columns_of_unread_kinds_are_told_by_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let mut frame = df!("prompt" => [Some(1i64), None], "chosen" => ["a", "b"], "rejected" => ["c", "d"]).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    let (_, rejects, _) = read_all(&[&path], &skip()).unwrap();
    let found: Vec<_> = rejects.iter().map(|r| r.detail.as_str()).collect();
    let missing = "expected a string or a list of messages, got null";
    assert_eq!(found, ["expected a string or a list of messages, got 1", missing]);

    let mut other = df!("text" => ["a"], "label" => [1]).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut other).unwrap();
    let error = read_all(&[&path], &skip()).unwrap_err().to_string();
    assert!(error.ends_with("none of the columns is known: text, label"), "{error}");
}

#[test]
fn a_response_of_two_megabytes_is_fine() {
    let long = "x \\n".repeat(600_000);
    let row = format!(r#"{{"prompt": "p", "chosen": "{long}", "rejected": "b"}}"#);
    let (frames, ..) = read_bytes(row.as_bytes(), &IngestConfig::default()).unwrap();
    assert_eq!(messages(&frames[0], "chosen", 0)[0].content.len(), 1_800_000);
}

#[test]
fn many_blocks_keep_their_order_in_every_packing() {
    let rows: String =
        (0..20_000).map(|i| format!("{{\"prompt\": \"p{i}\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n")).collect();
    for bytes in [rows.clone().into_bytes(), gzip(rows.as_bytes()), zstd::encode_all(rows.as_bytes(), 1).unwrap()] {
        let (frames, ..) = read_bytes(&bytes, &IngestConfig::default()).unwrap();
        assert!(frames.len() > 1);
        let lines: Vec<u64> = frames.iter().flat_map(lines).collect();
        assert_eq!(lines, (1..=20_000).collect::<Vec<u64>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_rows_are_all_accounted_for(cuts in prop::collection::vec((0usize..5, 0usize..2000, any::<u8>()), 1..8)) {
        let whole = std::fs::read_to_string(sample("ultrafeedback.jsonl")).unwrap();
        let lines: Vec<&[u8]> = whole.lines().map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        for (i, at, byte) in &cuts {
            let mut line = lines[*i].to_vec();
            let at = at % line.len();
            // A blank line would not be a row.
            line[at] = if *byte == b'\n' { 0 } else { *byte };
            bytes.extend(line);
            bytes.push(b'\n');
        }
        let (frames, rejects, files) = read_bytes(&bytes, &skip()).unwrap();
        let kept: usize = frames.iter().map(DataFrame::height).sum();
        prop_assert_eq!(kept + rejects.len(), cuts.len());
        prop_assert_eq!(files[0].rows_read as usize, cuts.len());
    }
}
