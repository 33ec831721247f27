use std::io::Write;

use super::*;
use crate::ingest::tests::gzip;

const SMALL: Limits = Limits { line_bytes: 10, decompressed_bytes: 1000 };

fn read(bytes: &[u8], limits: Limits) -> Result<Vec<(u64, Vec<u8>, bool)>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, bytes).unwrap();
    let input = Input::new(path);
    let packing = Packing::of(&input)?;
    let (to, from) = std::sync::mpsc::sync_channel(100);
    Text::open(&input, packing, &Names::default(), limits)?.send(&to)?;
    drop(to);
    let rows = |b: Block| {
        let get = |l: &Row| (l.number, b.bytes[l.range.clone()].to_vec(), l.too_long);
        b.rows.iter().map(get).collect::<Vec<_>>()
    };
    Ok(from.into_iter().flat_map(rows).collect())
}

#[test]
fn lines_keep_their_numbers_whatever_the_packing() {
    let text = b"\xef\xbb\xbfone\r\n\n  two  \n\t\nlast";
    let wanted = vec![(1, b"one".to_vec(), false), (3, b"two".to_vec(), false), (5, b"last".to_vec(), false)];
    assert_eq!(read(text, SMALL).unwrap(), wanted);
    assert_eq!(read(&zstd::encode_all(&text[..], 1).unwrap(), SMALL).unwrap(), wanted);
    let two_members = [gzip(&text[..9]), gzip(&text[9..])].concat();
    assert_eq!(read(&two_members, SMALL).unwrap(), wanted);
}

#[test]
fn a_long_line_is_marked_and_the_next_one_is_read() {
    let text = [&b"0123456789\n"[..], &vec![b'x'; 500], b"\nnext\n"].concat();
    let rows = read(&text, SMALL).unwrap();
    assert_eq!(rows.iter().map(|r| (r.0, r.2)).collect::<Vec<_>>(), [(1, false), (2, true), (3, false)]);
    assert_eq!(rows[2].1, b"next");
    // The line break does not count, nor does a carriage return.
    assert!(!read(b"0123456789\r\n", SMALL).unwrap()[0].2);
    assert!(read(b"0123456789a", SMALL).unwrap()[0].2);
}

#[test]
fn files_that_unpack_to_too_much_are_refused() {
    let bomb = gzip(&vec![b'x'; 5000]);
    assert!(bomb.len() < 200);
    let error = read(&bomb, SMALL).unwrap_err();
    assert!(error.to_string().ends_with("line 1: more than 1000 bytes of text"), "{error}");
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn damaged_packing_is_a_fault_of_the_data() {
    let packed = gzip(b"one\ntwo\n");
    let error = read(&packed[..packed.len() - 9], SMALL).unwrap_err();
    assert!(error.to_string().contains("damaged or truncated gzip data"), "{error}");
    let packed = zstd::encode_all(&b"one\ntwo\n"[..], 1).unwrap();
    let error = read(&packed[..packed.len() - 3], SMALL).unwrap_err();
    assert!(error.to_string().contains("damaged or truncated zstd data"), "{error}");
    assert!(read(b"", SMALL).unwrap().is_empty());
}

#[test]
fn an_array_is_cut_into_its_elements() {
    let numbers = |text: &str| -> Vec<(u64, String, bool)> {
        let limits = Limits { line_bytes: 30, ..SMALL };
        let rows = read(text.as_bytes(), limits).unwrap();
        rows.into_iter().map(|(n, bytes, long)| (n, String::from_utf8(bytes).unwrap(), long)).collect()
    };
    let row = |n, text: &str| (n, text.to_string(), false);
    let pretty = "\u{feff}\n[\n  {\n    \"a\": \"]}, \\\"\"\n  },\n  {\"b\": [1, {}]} , 3 \n]\n";
    let wanted = [row(1, "{\n    \"a\": \"]}, \\\"\"\n  }"), row(2, "{\"b\": [1, {}]}"), row(3, "3")];
    assert_eq!(numbers(pretty), wanted);
    assert_eq!(numbers("[{},{}]").len(), 2);
    assert_eq!(numbers("[ ]"), []);
    assert_eq!(numbers("[{}, ]"), [row(1, "{}")]);
    assert_eq!(numbers("[{},,{}]")[1], row(2, ""), "nothing between two commas is a row at fault");
    assert_eq!(numbers("[{\"a\": 1 2}} x, {}]").len(), 2);
    let long = format!("[{{}}, {{\"a\": \"{}\"}}, {{}}]", "x".repeat(500));
    assert_eq!(numbers(&long).iter().map(|r| r.2).collect::<Vec<_>>(), [false, true, false]);
    // Lists in lines are lines.
    assert_eq!(numbers("[1, 2]\n[3]\n"), [row(1, "[1, 2]"), row(2, "[3]")]);
}

#[test]
fn arrays_that_are_torn_are_refused() {
    for (text, message) in [
        ("[", "line 1: the array is not closed"),
        ("[{}, {", "line 2: the array is not closed"),
        ("[{}]\n[{}]", "line 2: text after the end of the array"),
        ("[{}] x", "line 2: text after the end of the array"),
    ] {
        let error = read(text.as_bytes(), SMALL).unwrap_err();
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}

#[test]
fn records_may_span_lines() {
    let text = "prompt,chosen\r\n\"a\nb\",\"c \"\"d\"\"\"\n\n x,\"\"\nlast,1";
    let rows = read(text.as_bytes(), Limits { line_bytes: 30, ..SMALL }).unwrap();
    let found: Vec<_> = rows.iter().map(|r| (r.0, std::str::from_utf8(&r.1).unwrap())).collect();
    assert_eq!(found, [(2, "\"a\nb\",\"c \"\"d\"\"\""), (5, " x,\"\""), (6, "last,1")]);
    let error = read(b"prompt,chosen\na,b\n\"a,b\n", SMALL).unwrap_err();
    assert!(error.to_string().contains("line 3: a quoted cell that opens in this row is not closed"), "{error}");
}

#[test]
fn a_gigabyte_in_a_hundred_kilobytes_takes_no_memory() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    let chunk = vec![b' '; 1 << 20];
    (0..256).for_each(|_| encoder.write_all(&chunk).unwrap());
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 100_000);
    let error = read(&bomb, Limits { line_bytes: 1 << 20, decompressed_bytes: 1 << 27 }).unwrap_err();
    assert!(error.to_string().contains("more than 134217728 bytes of text"), "{error}");
    let rows = read(&bomb, Limits { line_bytes: 1 << 20, decompressed_bytes: 1 << 40 }).unwrap();
    assert!(rows.len() == 1 && rows[0].2 && rows[0].1.len() <= (1 << 20) + 2, "one row, cut");
}
