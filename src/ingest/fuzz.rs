//! Fuzzing as property tests: arbitrary bytes, and damaged rows and files, in every layout and file
//! format. Nothing panics, every row read is kept or rejected, and batches stay within their bounds.

use clap::ValueEnum;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use super::files::tests::SAMPLES;
use super::tests::{frame_of, gzip, lines, sample, to_parquet};
use super::*;
use crate::progress::Silent;

fn samples() -> Vec<String> {
    let others = ["alpaca.json", "sharegpt.json", "questions.csv"].map(String::from);
    SAMPLES.iter().map(|name| format!("{name}.jsonl")).chain(others).collect()
}

/// The rows of a sample as JSON.
fn rows_of(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sample(name)).unwrap();
    match name.rsplit('.').next() {
        Some("json") => serde_json::from_str(&text).unwrap(),
        Some("csv") => vec![serde_json::json!({"question": "q", "answer_a": "a", "answer_b": "b"})],
        _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    }
}

/// Reads bytes and checks what must be true whatever they are. Returns the numbers of rows read and kept; `None` where
/// the file as a whole was refused.
fn account(bytes: &[u8], config: &IngestConfig) -> Option<(u64, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, bytes).unwrap();
    let (mut kept, mut rejected, mut last) = (0, 0, 0);
    let read = read(&[Input::new(&path)], config, None, &Silent, &mut |batch| {
        assert!(batch.frame.height() + batch.rejects.len() <= 8192);
        assert!(batch.last_line > last, "batches come in order");
        assert!(batch.frame.estimated_size() <= 1 << 26, "{} bytes of input", bytes.len());
        let lines: Vec<u64> = lines(&batch.frame).into_iter().chain(batch.rejects.iter().map(|r| r.line)).collect();
        assert!(lines.iter().all(|line| (last + 1..=batch.last_line).contains(line)), "{lines:?}");
        let distinct: std::collections::BTreeSet<u64> = lines.iter().copied().collect();
        assert_eq!(distinct.len(), lines.len(), "a row is known by its line");
        last = batch.last_line;
        kept += batch.frame.height() as u64;
        rejected += batch.rejects.len() as u64;
        Ok(())
    });
    match read {
        Ok(files) => {
            assert_eq!(files[0].rows_read, kept + rejected, "every row is kept or rejected");
            Some((files[0].rows_read, kept))
        }
        Err(error) => {
            // Columns that were named and do not exist are a fault of the settings.
            let expected = if config.columns.is_empty() { &[1, 3][..] } else { &[1, 2, 3] };
            assert!(expected.contains(&error.exit_code()), "{error}");
            None
        }
    }
}

fn config(format: Format, mapped: bool) -> IngestConfig {
    let columns = ["prompt=question", "chosen=answer_a", "rejected=answer_b"].map(String::from).to_vec();
    IngestConfig {
        format,
        columns: if mapped { columns } else { Vec::new() },
        on_bad_row: OnBadRow::Skip,
        max_line_bytes: 1 << 16,
        max_decompressed_bytes: 1 << 24,
        ..IngestConfig::default()
    }
}

fn formats() -> impl Strategy<Value = Format> {
    prop_oneof![2 => Just(Format::Auto), 3 => select(Format::value_variants())]
}

fn packed(bytes: &[u8], packing: u8) -> Vec<u8> {
    match packing % 3 {
        0 => bytes.to_vec(),
        1 => zstd::encode_all(bytes, 1).unwrap(),
        _ => gzip(bytes),
    }
}

/// One change to some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let telling = select(b"\"\\{}[],:\n\r\t ;0-eN\0\xff\xc3".to_vec());
    let byte = prop_oneof![telling, any::<u8>()];
    let edit = prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), prop::collection::vec(byte, 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), 1usize..200).prop_map(|(at, n)| Edit::Remove(at, n)),
        (any::<Index>(), 1usize..200, 1usize..4).prop_map(|(at, n, times)| Edit::Repeat(at, n, times)),
        any::<Index>().prop_map(Edit::Cut),
    ];
    prop::collection::vec(edit, 1..6)
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match edit {
            Edit::Set(at, byte) => bytes[at.index(length)] = *byte,
            Edit::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Edit::Remove(at, n) => {
                let at = at.index(length);
                bytes.drain(at..(at + n).min(length));
            }
            Edit::Repeat(at, n, times) => {
                let at = at.index(length);
                let part = bytes[at..(at + n).min(length)].repeat(*times);
                bytes.splice(at..at, part);
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

/// Any JSON value, nested up to three levels deep.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(String::new()),
        Just("\n\nHuman: a\n\nAssistant: b".to_string()),
        Just("<extra_id_1>User\n<extra_id_1>Assistant".to_string()),
        Just("assistant".to_string()),
        Just("N/A".to_string()),
        ".{0,12}",
        "[ a\\n]{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::from(0)),
        text.prop_map(Value::from),
    ];
    let keys = select(names::KNOWN_KEYS);
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_string(), v)).collect::<Value>()),
        ]
    })
}

/// Puts a value at a path of another one, or removes what is there.
fn graft(target: &mut Value, path: &[Index], value: Option<Value>) {
    let Some((first, rest)) = path.split_first() else {
        if let Some(value) = value {
            *target = value;
        }
        return;
    };
    match target {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first.index(map.len())).unwrap().clone();
            match (rest.is_empty(), value) {
                (true, None) => drop(map.shift_remove(&key)),
                (_, value) => graft(&mut map[&key], rest, value),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = first.index(items.len());
            match (rest.is_empty(), value) {
                (true, None) => drop(items.remove(at)),
                (_, value) => graft(&mut items[at], rest, value),
            }
        }
        leaf => *leaf = value.unwrap_or(Value::Null),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes(
        start in select(vec![&b""[..], b"{\"prompt\":", b"[{", b"prompt,chosen\n", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff",
            b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
        format in formats(),
        mapped in any::<bool>(),
        packing in any::<u8>(),
    ) {
        account(&packed(&[start, &rest].concat(), packing), &config(format, mapped));
    }

    #[test]
    fn damaged_text(
        name in select(samples()),
        edits in edits(),
        format in formats(),
        mapped in any::<bool>(),
        packing in any::<u8>(),
        whole in any::<bool>(),
    ) {
        let bytes = std::fs::read(sample(&name)).unwrap();
        // The damage is in the text, or in the compressed file.
        let bytes = if whole { packed(&edited(bytes, &edits), packing) } else { edited(packed(&bytes, packing), &edits) };
        account(&bytes, &config(format, mapped));
    }

    #[test]
    fn odd_values_in_rows(
        name in select(samples()),
        grafts in prop::collection::vec((any::<Index>(), prop::collection::vec(any::<Index>(), 1..6), prop::option::weighted(0.8, json())), 1..6),
        format in formats(),
        mapped in any::<bool>(),
        array in any::<bool>(),
    ) {
        let mut rows = rows_of(&name);
        for (row, path, value) in grafts {
            let row = row.index(rows.len());
            graft(&mut rows[row], &path, value);
        }
        let bytes = if array {
            serde_json::to_vec_pretty(&rows).unwrap()
        } else {
            rows.iter().map(|row| row.to_string() + "\n").collect::<String>().into_bytes()
        };
        // An array whose first element is no object is read as lines.
        let (read, _) = match account(&bytes, &config(format, mapped)) {
            Some(counts) => counts,
            // The columns that were named do not exist.
            None if mapped => return Ok(()),
            None => return Err(TestCaseError::fail("sound files are never refused as a whole")),
        };
        if !array || bytes.starts_with(b"[\n  {") {
            prop_assert_eq!(read as usize, rows.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn damaged_tables(name in select(&SAMPLES[..]), arrow in any::<bool>(), edits in edits(), format in formats()) {
        use polars::prelude::{IpcWriter, SerWriter};
        let lines: String = rows_of(&format!("{name}.jsonl")).iter().map(|row| row.to_string() + "\n").collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        if arrow {
            IpcWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame_of(&lines)).unwrap();
        } else {
            to_parquet(&lines, &path, 2);
        }
        let bytes = std::fs::read(&path).unwrap();
        prop_assert!(account(&bytes, &config(Format::Auto, false)).is_some());
        account(&edited(bytes, &edits), &config(format, false));
    }
}
