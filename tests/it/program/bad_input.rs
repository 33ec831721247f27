//! Every way in which a row or a file can be broken: told with file, line and field, or counted.

use std::io::Write;

use polars::prelude::DataFrame;

use crate::support::{Output, Sandbox, texts};

const SOUND: &str = r#"{"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}"#;
const SOUND_TOO: &str = r#"{"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Red."}"#;

/// A raw row with these completions.
fn raw(completions: &str) -> String {
    format!(r#"{{"source": "s", "instruction": "Which way?", "completions": [{completions}]}}"#)
}

fn completion(response: &str, score: &str) -> String {
    format!(r#"{{"model": "m", "response": "{response}", "overall_score": {score}}}"#)
}

/// Sound raw rows before and after, the bad one in line 2.
fn among_raw(bad: &str) -> String {
    let sound = |name: &str| {
        let row = raw(&[completion("left", "9"), completion("right", "2")].join(", "));
        row.replace("Which way?", name)
    };
    format!("{}\n{bad}\n{}\n", sound("First?"), sound("Third?"))
}

/// Sound pairs before and after, the bad one in line 2.
fn among_pairs(bad: impl AsRef<[u8]>) -> Vec<u8> {
    [SOUND.as_bytes(), b"\n", bad.as_ref(), b"\n", SOUND_TOO.as_bytes(), b"\n"].concat()
}

/// Nothing that looks like a result is left after a refusal.
fn nothing_is_left(sandbox: &Sandbox, out: &str) {
    assert_eq!(sandbox.files(out), Vec::<String>::new(), "files are left in {out}");
}

/// `prepare` refuses the file with exit code 3, says all of `said`, and leaves nothing.
fn refused(sandbox: &Sandbox, file: &str, said: &[&str]) -> Output {
    let output = sandbox.ends(3, &format!("prepare --input {file} --out out"));
    assert_eq!(output.stdout, "", "{file}");
    for part in said {
        assert!(output.stderr.contains(part), "{file}: no {part:?} in\n{}", output.stderr);
    }
    nothing_is_left(sandbox, "out");
    output
}

/// `prepare --on-bad-row skip` keeps the other rows; gives the rejects.
fn skipped(sandbox: &Sandbox, file: &str, rows: u64, kept: u64) -> DataFrame {
    sandbox.ok(&format!("prepare --input {file} --out out --on-bad-row skip"));
    let manifest = sandbox.json("out/manifest.json");
    let input = &manifest["inputs"][0];
    let rejected: u64 =
        input["rows_rejected"].as_object().expect("reasons").values().map(|n| n.as_u64().expect("a number")).sum();
    assert_eq!(input["rows_read"], rows, "{input}");
    assert_eq!(input["rows_kept"], kept, "{input}");
    assert_eq!(kept + rejected, rows, "{input}");
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert_eq!(rejects.height() as u64, rejected);
    let pairs: usize =
        ["train", "test"].iter().map(|s| sandbox.parquet(&format!("out/pairs/{s}.parquet")).height()).sum();
    assert_eq!(pairs as u64, kept);
    for (reason, n) in input["rows_rejected"].as_object().expect("reasons") {
        assert_eq!(texts(&rejects, "reason").iter().filter(|r| *r == reason).count() as u64, n.as_u64().unwrap_or(0));
    }
    rejects
}

/// A fault in line 2: refused with place and message; skipped with place and reason.
fn fault_in_line_2(content: impl AsRef<[u8]>, field: &str, reason: &str, message: &str) {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", content);
    let place =
        if field.is_empty() { "in.jsonl: line 2: ".to_string() } else { format!("in.jsonl: line 2: {field}: ") };
    let output = refused(&sandbox, "in.jsonl", &[&format!("error: {place}"), message]);
    assert!(output.stderr.contains("\nhint: pass --on-bad-row skip"), "{}", output.stderr);
    let rejects = skipped(&sandbox, "in.jsonl", 3, 2);
    assert_eq!(texts(&rejects, "file"), ["in.jsonl"]);
    assert_eq!(rejects.column("line").expect("line").u64().expect("line").get(0), Some(2));
    assert_eq!(texts(&rejects, "field"), [field]);
    assert_eq!(texts(&rejects, "reason"), [reason]);
    assert!(texts(&rejects, "detail")[0].contains(message), "{rejects}");
}

/// A sound row from which no pair is made: counted whatever `--on-bad-row` says.
fn decision_on_line_2(content: impl AsRef<[u8]>, reason: &str) {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", content);
    let rejects = skipped(&sandbox, "in.jsonl", 3, 2);
    assert_eq!(texts(&rejects, "reason"), [reason]);
    assert_eq!(rejects.column("line").expect("line").u64().expect("line").get(0), Some(2));
    sandbox.ok("prepare --input in.jsonl --out again");
    assert_eq!(sandbox.bytes("out/rejects.parquet"), sandbox.bytes("again/rejects.parquet"));
}

#[test]
fn a_truncated_line() {
    fault_in_line_2(among_pairs(&SOUND[..30]), "", "bad-json", "not valid JSON");
    fault_in_line_2(among_pairs("no JSON at all"), "", "bad-json", "not valid JSON");
    fault_in_line_2(among_pairs("[1, 2]"), "", "wrong-type", "expected a JSON object, got");
    fault_in_line_2(among_pairs("\u{0}\u{0}"), "", "bad-json", "not valid JSON");
    fault_in_line_2(among_pairs("[".repeat(100_000)), "", "bad-json", "not valid JSON");
}

#[test]
fn a_missing_field() {
    fault_in_line_2(among_pairs(r#"{"prompt": "p", "chosen": "c"}"#), "rejected", "missing-field", "missing; expected");
    let rows = among_raw(r#"{"instruction": "x"}"#);
    fault_in_line_2(rows, "completions", "missing-field", "missing; expected");
    let rows = among_raw(&raw(r#"{"model": "m", "overall_score": 3}"#));
    fault_in_line_2(rows, "completions[0].response", "missing-field", "missing; expected a string");
    let null = among_raw(&raw(&[completion("a", "null"), completion("b", "2")].join(",")));
    fault_in_line_2(null, "completions[0].overall_score", "missing-field", "null");
}

#[test]
fn a_wrong_type() {
    let row = r#"{"prompt": 5, "chosen": "c", "rejected": "r"}"#;
    fault_in_line_2(among_pairs(row), "prompt", "wrong-type", "expected a string or a list of messages, got");
    let row = r#"{"prompt": "p", "chosen": {"a": 1}, "rejected": "r"}"#;
    fault_in_line_2(among_pairs(row), "chosen", "wrong-type", "expected a string or a list of messages, got");
    let rows = among_raw(&raw(&[completion("a", "3"), completion("b", "\"N/A\"")].join(",")));
    fault_in_line_2(rows, "completions[1].overall_score", "wrong-type", "N/A");
    fault_in_line_2(among_raw(&raw("7")), "completions[0]", "wrong-type", "expected an object, got");
    let row = r#"{"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"}"#;
    fault_in_line_2(among_pairs(row), "prompt[0].content", "missing-field", "missing; expected");
    let row = r#"{"chosen": "c", "rejected": "r"}"#;
    fault_in_line_2(among_pairs(row), "prompt", "missing-field", "missing; expected a string");
    let row = r#"{"prompt": "p", "chosen": [{"role": "user", "content": "c"}], "rejected": "r"}"#;
    fault_in_line_2(among_pairs(row), "chosen[0].role", "wrong-role", "assistant");
}

#[test]
fn a_score_that_is_no_number() {
    for score in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let sandbox = Sandbox::new();
        sandbox.write("in.jsonl", among_raw(&raw(&[completion("a", score), completion("b", "2")].join(","))));
        refused(&sandbox, "in.jsonl", &["in.jsonl: line 2: "]);
        let rejects = skipped(&sandbox, "in.jsonl", 3, 2);
        let reason = &texts(&rejects, "reason")[0];
        assert!(reason == "not-finite" || reason == "bad-json", "{score}: {rejects}");
    }
    let rows = among_raw(&raw(&[completion("a", "NaN"), completion("b", "2")].join(",")));
    fault_in_line_2(rows, "completions[0].overall_score", "not-finite", "expected a finite number, got NaN");
}

#[test]
fn rows_without_a_prompt_or_completions() {
    fault_in_line_2(among_raw(&raw("")), "completions", "no-completions", "empty list");
    fault_in_line_2(among_pairs(r#"{"prompt": "", "chosen": "c", "rejected": "r"}"#), "prompt", "no-prompt", "empty");
    fault_in_line_2(
        among_pairs(r#"{"prompt": [], "chosen": "c", "rejected": "r"}"#),
        "prompt",
        "missing-field",
        "empty",
    );
}

#[test]
fn rows_that_give_no_pair_are_counted() {
    let two = |a: &str, b: &str| among_raw(&raw(&[a, b].join(",")));
    decision_on_line_2(two(&completion("a", "5"), &completion("b", "5")), "all-tied");
    decision_on_line_2(two(&completion("same", "5"), &completion("same", "3")), "identical-responses");
    decision_on_line_2(two(&completion("", "5"), &completion("b", "3")), "too-few-completions");
    decision_on_line_2(among_raw(&raw(&completion("only", "5"))), "too-few-completions");
    let pair = |chosen: &str, rejected: &str| {
        among_pairs(format!(r#"{{"prompt": "p", "chosen": "{chosen}", "rejected": "{rejected}"}}"#))
    };
    decision_on_line_2(pair("same", "same"), "identical-responses");
    decision_on_line_2(pair("", "r"), "empty-response");
    decision_on_line_2(pair("c", ""), "empty-response");
    decision_on_line_2(among_pairs(SOUND), "duplicate");
}

#[test]
fn bytes_that_are_no_text() {
    let row = [&br#"{"prompt": "p"#[..], b"\xff\xfe", br#"", "chosen": "c", "rejected": "r"}"#].concat();
    fault_in_line_2(among_pairs(row), "", "invalid-utf8", "not UTF-8 from byte 14 on");
    // A surrogate without its other half is JSON, but no text.
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", among_pairs(r#"{"prompt": "\ud800", "chosen": "c", "rejected": "r"}"#));
    refused(&sandbox, "in.jsonl", &["in.jsonl: line 2: "]);
    skipped(&sandbox, "in.jsonl", 3, 2);
}

#[test]
fn files_without_a_row() {
    let sandbox = Sandbox::new();
    sandbox.write("empty.jsonl", "");
    refused(&sandbox, "empty.jsonl", &["error: empty.jsonl: the file has no rows"]);
    sandbox.write("blank.jsonl", "\n  \n\n");
    refused(&sandbox, "blank.jsonl", &["error: blank.jsonl: the file has no rows"]);
    sandbox.write("bad.jsonl", "{}\n[]\n");
    refused(&sandbox, "bad.jsonl", &["error: bad.jsonl: line 1: "]);
    let output = sandbox.ends(3, "prepare --input bad.jsonl --out out --on-bad-row skip");
    assert!(output.stderr.contains("none of the 2 rows read gives a pair"), "{}", output.stderr);
    nothing_is_left(&sandbox, "out");
    refused(&sandbox, "nowhere.jsonl", &["error: nowhere.jsonl: no such file or folder"]);
}

#[test]
fn damaged_parquet() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let whole = sandbox.bytes("data/pairs/train.parquet");
    sandbox.write("half.parquet", &whole[..whole.len() / 2]);
    refused(&sandbox, "half.parquet", &["error: half.parquet: "]);
    let mut turned = whole.clone();
    let middle = whole.len() / 3;
    turned[middle..middle + 64].iter_mut().for_each(|b| *b = !*b);
    sandbox.write("turned.parquet", &turned);
    refused(&sandbox, "turned.parquet", &["error: turned.parquet: "]);
    sandbox.write("head.parquet", b"PAR1");
    refused(&sandbox, "head.parquet", &["error: head.parquet: "]);
    sandbox.write("tail.parquet", [&whole[..4], &whole[whole.len() - 8..]].concat());
    refused(&sandbox, "tail.parquet", &["error: tail.parquet: "]);
    // Ours are read as they are: TRL's layout with further columns.
    sandbox.write("whole.parquet", &whole);
    sandbox.ok("prepare --input whole.parquet --out again");
}

#[test]
fn damaged_archives() {
    let text = among_pairs(SOUND_TOO).repeat(200);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).expect("in memory");
    let gzip = gzip.finish().expect("in memory");
    let zst = zstd::encode_all(&text[..], 1).expect("in memory");
    let sandbox = Sandbox::new();
    for (name, bytes, kind) in [("a.jsonl.gz", &gzip, "gzip"), ("a.jsonl.zst", &zst, "zstd")] {
        sandbox.write(name, &bytes[..bytes.len() - 10]);
        let said = format!("damaged or truncated {kind} data");
        refused(&sandbox, name, &[&format!("error: {name}: line "), &said]);
        // Rows behind the damage are unknown: they cannot be skipped.
        sandbox.ends(3, &format!("prepare --input {name} --out out --on-bad-row skip"));
        nothing_is_left(&sandbox, "out");
        sandbox.write(name, bytes);
        sandbox.ok(&format!("prepare --input {name} --out {name}.d"));
    }
}

#[test]
fn things_that_are_no_data() {
    let sandbox = Sandbox::new();
    sandbox.write("folder.jsonl/inner.txt", "x");
    refused(&sandbox, "folder.jsonl", &["error: folder.jsonl: "]);
    let noise: Vec<u8> = (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    sandbox.write("noise.jsonl", &noise);
    refused(&sandbox, "noise.jsonl", &["error: noise.jsonl: line "]);
    sandbox.write("program.jsonl", &std::fs::read(env!("CARGO_BIN_EXE_lpc-pipe")).expect("the program")[..100_000]);
    refused(&sandbox, "program.jsonl", &["error: program.jsonl: line "]);
    sandbox.ends(3, "prepare --input program.jsonl --out out --on-bad-row skip");
    nothing_is_left(&sandbox, "out");
}

#[test]
fn a_response_of_two_megabytes() {
    let long = "word and ".repeat(2_000_000 / 9);
    let row = format!(r#"{{"prompt": "p", "chosen": "{long}", "rejected": "r"}}"#);
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", among_pairs(row));
    sandbox.ok("prepare --input in.jsonl --out out --max-length 64 --max-prompt-length 16");
    let rows: usize = ["train", "test"].iter().map(|s| sandbox.arrow(&format!("out/tokens/{s}.arrow")).height()).sum();
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert_eq!(rows + rejects.height(), 3, "cut to length, or counted");
    for split in ["train", "test"] {
        let tokens = sandbox.arrow(&format!("out/tokens/{split}.arrow"));
        let count = |name: &str| crate::support::numbers(&tokens, name);
        for (prompt, chosen) in count("n_prompt").iter().zip(count("n_chosen")) {
            assert!(prompt + chosen <= 64.0, "{prompt} + {chosen}");
        }
    }
    // A limit on the line is a fault of the row, and the next row is read.
    let sandbox = Sandbox::new();
    let row = format!(r#"{{"prompt": "p", "chosen": "{long}", "rejected": "r"}}"#);
    sandbox.write("in.jsonl", among_pairs(row));
    let args = "--set prepare.ingest.max_line_bytes=1000";
    let output = sandbox.ends(3, &format!("prepare --input in.jsonl --out out {args}"));
    assert!(output.stderr.contains("in.jsonl: line 2: longer than 1000 bytes"), "{}", output.stderr);
    sandbox.ok(&format!("prepare --input in.jsonl --out out --on-bad-row skip {args}"));
    assert_eq!(texts(&sandbox.parquet("out/rejects.parquet"), "reason"), ["too-long"]);
}

#[test]
fn rows_of_another_layout() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n");
    refused(
        &sandbox,
        "in.jsonl",
        &["line 1: expected instruction and completions, or chosen and rejected", "question"],
    );
    sandbox.write("pairs.jsonl", format!("{SOUND}\n"));
    let output = sandbox.ends(3, "prepare --input pairs.jsonl --out out --format ultrafeedback");
    assert!(output.stderr.contains("pairs.jsonl: line 1: instruction: missing"), "{}", output.stderr);
    nothing_is_left(&sandbox, "out");
}

#[test]
fn a_failed_preparation_keeps_the_folder_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let before: Vec<(String, Vec<u8>)> =
        sandbox.files("data").into_iter().map(|f| (f.clone(), sandbox.bytes(&format!("data/{f}")))).collect();
    sandbox.write("in.jsonl", among_pairs("{"));
    sandbox.ends(3, "prepare --input in.jsonl --out data");
    let after: Vec<(String, Vec<u8>)> =
        sandbox.files("data").into_iter().map(|f| (f.clone(), sandbox.bytes(&format!("data/{f}")))).collect();
    assert!(before == after, "{:?}", sandbox.files("data"));
}

#[test]
fn damaged_folders_of_ours() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let train = "train --data data --out run --model tiny:16x1 --max-steps 1";
    let tokens = sandbox.bytes("data/tokens/train.arrow");
    sandbox.write("data/tokens/train.arrow", &tokens[..tokens.len() / 2]);
    let output = sandbox.ends(3, train);
    assert!(output.stderr.contains("data/tokens/train.arrow"), "{}", output.stderr);
    assert_eq!(sandbox.files("run"), Vec::<String>::new());
    sandbox.write("data/tokens/train.arrow", &tokens);
    let manifest = sandbox.text("data/manifest.json");
    sandbox.write("data/manifest.json", &manifest[..manifest.len() / 2]);
    let output = sandbox.ends(3, train);
    assert!(output.stderr.contains("data/manifest.json: damaged manifest"), "{}", output.stderr);
    sandbox.write("data/manifest.json", manifest.replace("\"schema_version\": 3", "\"schema_version\": 99"));
    let output = sandbox.ends(3, train);
    assert!(output.stderr.contains("layout version 99 is newer"), "{}", output.stderr);
    sandbox.write("data/manifest.json", &manifest);
    for model in ["nowhere/at/all", "data", "tiny:7x1", "raw/corpus.jsonl", "org/name"] {
        let output = sandbox.ends(3, &format!("train --data data --out run --model {model} --max-steps 1"));
        assert!(output.stderr.starts_with("error: "), "{model}: {}", output.stderr);
        assert_eq!(sandbox.files("run"), Vec::<String>::new(), "{model}");
    }
}

#[test]
fn data_of_another_tokenizer_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 1 --out sft --quiet");
    let file = "sft/model/tokenizer.json";
    let whole = sandbox.text(file);
    // Two tokens of the vocabulary change places: no id is unknown, and every text means something else.
    let mut json: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let (first, second) = (vocabulary["a"].clone(), vocabulary["e"].clone());
    vocabulary["a"] = second;
    vocabulary["e"] = first;
    sandbox.write(file, json.to_string());
    let commands = [
        "train --data data --model sft/model --latent none --max-steps 1 --out run --quiet",
        "train --data data --model sft/model --latent none --max-steps 1 --out run --dry-run --quiet",
        "score --data data --model sft --out scores.parquet --quiet",
        "eval --model sft --task preference --data data --reward sum --quiet",
    ];
    for command in commands {
        let refused = sandbox.ends(3, command);
        let said = "error: data: prepared with another tokenizer than the model's: token ";
        assert!(refused.stderr.contains(said), "{command}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("is \"a\" here, \"e\" there")
                || refused.stderr.contains("is \"e\" here, \"a\" there"),
            "{}",
            refused.stderr
        );
    }
    assert!(!sandbox.exists("run"));
    sandbox.write(file, whole);
    sandbox.ok(commands[2]);
    sandbox.ok(commands[0]);
}

#[test]
fn labels_that_were_flipped_before_are_counted() {
    let sandbox = Sandbox::new();
    sandbox.ok("synth --rows 60 --out corpus --quiet");
    sandbox.ok("prepare --input corpus --out flipped --flip-rate 0.3 --test-fraction 0.2 --quiet");
    let flags = sandbox.parquet("flipped/pairs/train.parquet").column("flipped").unwrap().bool().unwrap().sum();
    let flipped = flags.expect("rows");
    assert!(flipped > 0);
    let again = "prepare --input flipped/pairs/train.parquet";
    let told = sandbox.ok(&format!("{again} --out again"));
    assert!(told.stderr.contains(&format!("the labels of {flipped} rows were flipped")), "{}", told.stderr);
    assert_eq!(sandbox.json("again/manifest.json")["facts"]["flipped_before"], flipped);
    // Whoever does not want to hear it says so; of clean labels nothing is said.
    let told = sandbox.ok(&format!("{again} --out third --ignore-keys flipped"));
    assert!(!told.stderr.contains("were flipped"), "{}", told.stderr);
    sandbox.ok("prepare --input corpus --out clean --test-fraction 0.2 --quiet");
    let told = sandbox.ok("prepare --input clean/pairs/train.parquet --out fourth");
    assert!(!told.stderr.contains("were flipped"), "{}", told.stderr);
    assert!(sandbox.json("fourth/manifest.json")["facts"]["flipped_before"].is_null());
}
