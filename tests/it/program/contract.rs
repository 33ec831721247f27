//! Commands, folders and columns, as other programs rely on them.

use std::collections::BTreeSet;

use polars::prelude::DataFrame;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Sandbox, contents, flags, lists, numbers, sample, schema, texts};

mod codes;
mod noise;
mod run;
mod sweep;
mod tuning;
mod weights;

const SPLITS: [&str; 2] = ["train", "test"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The manifest's word for every file it lists, and every data file listed.
fn manifest_holds(sandbox: &Sandbox, folder: &str, files: &[&str]) -> Value {
    let manifest = sandbox.json(&format!("{folder}/manifest.json"));
    let outputs = manifest["outputs"].as_array().expect("outputs");
    for output in outputs {
        let name = output["path"].as_str().expect("a path");
        let bytes = sandbox.bytes(&format!("{folder}/{name}"));
        assert_eq!(output["bytes"], bytes.len(), "{name}");
        assert_eq!(output["blake3"], blake3::hash(&bytes).to_hex().as_str(), "{name}");
    }
    for file in files {
        assert!(outputs.iter().any(|o| o["path"] == *file), "{file} is not in the manifest of {folder}");
    }
    for key in ["schema_version", "tool", "stage", "command", "config", "config_hash", "inputs", "seeds", "facts"] {
        assert!(!manifest[key].is_null(), "{folder}: no {key} in the manifest");
    }
    assert_eq!(manifest["tool"], concat!("lpc-pipe ", env!("CARGO_PKG_VERSION")));
    for key in ["started", "finished"] {
        assert!(manifest[key].as_str().is_some_and(|t| t.ends_with('Z')), "{key}: {}", manifest[key]);
    }
    manifest
}

const PREPARED: [&str; 5] =
    ["pairs/train.parquet", "pairs/test.parquet", "tokens/train.arrow", "tokens/test.arrow", "rejects.parquet"];

#[test]
fn every_layout_becomes_the_same_folder() {
    for (name, rows, rule) in [
        ("ultrafeedback.jsonl", 5, "best-vs-random"),
        ("binarized.jsonl", 3, "given"),
        ("trl_standard.jsonl", 3, "given"),
        ("trl_conversational.jsonl", 3, "given"),
        ("trl_implicit.jsonl", 3, "given"),
        ("ultrafeedback_cleaned.jsonl", 2, "given"),
        ("argilla.jsonl", 3, "given"),
        ("hh_rlhf.jsonl", 3, "given"),
        ("helpsteer2.jsonl", 3, "given"),
        ("helpsteer3.jsonl", 3, "given"),
        ("tulu3.jsonl", 2, "given"),
        ("skywork.jsonl", 2, "given"),
        ("orca.jsonl", 2, "given"),
        ("alpaca.json", 3, "given"),
        ("sharegpt.json", 2, "given"),
        ("nemo_rl.jsonl", 2, "best-vs-random"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write(name, sample(name));
        sandbox.ok(&format!("prepare --input {name} --out data --test-fraction 0.5 --seed 3"));
        let manifest = manifest_holds(&sandbox, "data", &PREPARED);
        assert_eq!(manifest["inputs"][0]["rows_read"], rows, "{name}");
        assert_eq!(manifest["inputs"][0]["rows_kept"], rows, "{name}");
        assert_eq!(manifest["inputs"][0]["path"], name);
        assert_eq!(manifest["inputs"][0]["blake3"], blake3::hash(sample(name).as_bytes()).to_hex().as_str());
        assert_eq!(manifest["seeds"]["run"], 3);
        let mut total = 0;
        for split in SPLITS {
            let pairs = sandbox.parquet(&format!("data/pairs/{split}.parquet"));
            total += pairs.height();
            insta::allow_duplicates! {
                insta::assert_snapshot!(schema(&pairs), @r"
                id: str
                prompt_id: str
                source: str
                split: str
                prompt: list[struct[2]]
                chosen: list[struct[2]]
                rejected: list[struct[2]]
                score_chosen: f64
                score_rejected: f64
                margin: f64
                chosen_model: str
                rejected_model: str
                pair_rule: str
                flipped: bool
                noise_kind: str
                noise_p: f64
                weight: f64
                ");
            }
            let tokens = sandbox.arrow(&format!("data/tokens/{split}.arrow"));
            insta::allow_duplicates! {
                insta::assert_snapshot!(schema(&tokens), @r"
                id: str
                prompt_ids: list[u32]
                chosen_ids: list[u32]
                rejected_ids: list[u32]
                n_prompt: u32
                n_chosen: u32
                n_rejected: u32
                truncated: bool
                flipped: bool
                source: str
                prompt_id: str
                noise_kind: str
                noise_p: f64
                weight: f64
                ");
            }
            assert_eq!(texts(&pairs, "id"), texts(&tokens, "id"), "{name}: rows of pairs and tokens are the same");
            for column in ["source", "prompt_id", "noise_kind"] {
                assert_eq!(texts(&pairs, column), texts(&tokens, column), "{name}: {column}");
            }
            assert!(texts(&pairs, "split").iter().all(|s| s == split));
            assert!(texts(&pairs, "pair_rule").iter().all(|r| r == rule), "{name}");
            assert!(texts(&pairs, "noise_kind").iter().all(|k| k == "none"));
            for (ids, count) in [("prompt_ids", "n_prompt"), ("chosen_ids", "n_chosen"), ("rejected_ids", "n_rejected")]
            {
                let lengths: Vec<f64> = lists(&tokens, ids).iter().map(|l| l.len() as f64).collect();
                assert_eq!(lengths, numbers(&tokens, count), "{name}: {count}");
                assert!(lengths.iter().all(|n| *n > 0.0));
            }
        }
        assert_eq!(total, rows, "{name}");
        let rejects = sandbox.parquet("data/rejects.parquet");
        insta::allow_duplicates! {
            insta::assert_snapshot!(schema(&rejects), @r"
            file: str
            line: u64
            field: str
            reason: str
            detail: str
            ");
        }
    }
}

#[test]
fn messages_are_trl_conversational_with_the_prompt_given() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", sample("trl_implicit.jsonl"));
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0");
    let pairs = sandbox.parquet("data/pairs/train.parquet");
    let mut rows: Vec<String> =
        (0..3).map(|i| format!("{} => {}", contents(&pairs, "prompt")[i], contents(&pairs, "chosen")[i])).collect();
    rows.sort();
    assert_eq!(
        rows,
        [
            "Name a prime above ten. => Eleven.",
            "Spell cat. => C, A, T.",
            "Tell me a fact.|Honey does not spoil.|Why? => It holds too little water for microbes.",
        ]
    );
    let prompt = pairs.column("prompt").expect("prompt").list().expect("lists").get_as_series(0).expect("a row");
    let fields = prompt.struct_().expect("messages").fields_as_series();
    assert_eq!(fields.iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["role", "content"]);
}

#[test]
fn prompt_ids_are_those_of_the_published_data_set() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", sample("binarized.jsonl"));
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0");
    let published: BTreeSet<String> = sample("binarized.jsonl")
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["prompt_id"].as_str().expect("an id").to_string())
        .collect();
    let pairs = sandbox.parquet("data/pairs/train.parquet");
    assert_eq!(texts(&pairs, "prompt_id").into_iter().collect::<BTreeSet<_>>(), published);
    for (prompt, id) in contents(&pairs, "prompt").iter().zip(texts(&pairs, "prompt_id")) {
        assert_eq!(hex(&Sha256::digest(prompt.as_bytes())), id);
    }
}

#[test]
fn no_prompt_is_in_both_splits_however_it_is_written() {
    let mut rows = String::new();
    for i in 0..60 {
        for (j, prompt) in [format!("What is number {i}?"), format!("  what IS   number {i}? ")].iter().enumerate() {
            rows += &format!("{{\"prompt\": \"{prompt}\", \"chosen\": \"yes {j}\", \"rejected\": \"no {j}\"}}\n");
        }
    }
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", rows);
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0.4");
    let prompts = |split: &str| -> BTreeSet<String> {
        let pairs = sandbox.parquet(&format!("data/pairs/{split}.parquet"));
        let plain = |p: &String| p.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        contents(&pairs, "prompt").iter().map(plain).collect()
    };
    let (train, test) = (prompts("train"), prompts("test"));
    assert!(train.is_disjoint(&test), "{:?}", train.intersection(&test).collect::<Vec<_>>());
    assert_eq!(train.len() + test.len(), 60);
    assert!((10..=40).contains(&test.len()), "{} of 60 at a fraction of 0.4", test.len());
}

/// Both splits of a folder.
fn pairs(sandbox: &Sandbox, folder: &str) -> DataFrame {
    let read = |split: &str| sandbox.parquet(&format!("{folder}/pairs/{split}.parquet"));
    read("train").vstack(&read("test")).expect("the same columns")
}

fn flipped_ids(sandbox: &Sandbox, folder: &str) -> BTreeSet<String> {
    let frame = pairs(sandbox, folder);
    texts(&frame, "id").into_iter().zip(flags(&frame, "flipped")).filter(|(_, f)| *f).map(|(id, _)| id).collect()
}

#[test]
fn flips_are_nested_and_independent_of_threads_and_shards() {
    let sandbox = Sandbox::new();
    sandbox.synth(300);
    for (out, rate) in [("clean", "0"), ("one", "0.1"), ("two", "0.2"), ("all", "1")] {
        sandbox.ok(&format!("prepare --input raw --out {out} --flip-rate {rate} --quiet"));
    }
    let (one, two) = (flipped_ids(&sandbox, "one"), flipped_ids(&sandbox, "two"));
    assert!(one.is_subset(&two) && one.len() < two.len(), "{} of {}", one.len(), two.len());
    assert!((15..=50).contains(&one.len()) && (35..=90).contains(&two.len()), "{} {}", one.len(), two.len());
    assert_eq!(flipped_ids(&sandbox, "all").len(), pairs(&sandbox, "all").height());
    sandbox.ok("prepare --input raw --out threads --flip-rate 0.2 --threads 3 --quiet");
    assert_eq!(flipped_ids(&sandbox, "threads"), two);
    let mut parts = BTreeSet::new();
    for i in 1..=3 {
        sandbox.ok(&format!("prepare --input raw --out part{i} --flip-rate 0.2 --shard {i}/3 --quiet"));
        parts.extend(flipped_ids(&sandbox, &format!("part{i}")));
    }
    assert_eq!(parts, two);
    // A flip swaps the sides with all that is theirs, and nothing else.
    let (clean, noisy) = (pairs(&sandbox, "clean"), pairs(&sandbox, "two"));
    assert_eq!(texts(&clean, "id"), texts(&noisy, "id"));
    assert_eq!(texts(&clean, "prompt_id"), texts(&noisy, "prompt_id"));
    assert_eq!(texts(&clean, "split"), texts(&noisy, "split"));
    let sides = |frame: &DataFrame, i: usize| {
        let side = |name: &str| {
            let score = numbers(frame, &format!("score_{name}"))[i];
            (contents(frame, name)[i].clone(), score.to_bits(), texts(frame, &format!("{name}_model"))[i].clone())
        };
        (side("chosen"), side("rejected"))
    };
    for i in (0..clean.height()).step_by(7) {
        let (was, is) = (sides(&clean, i), sides(&noisy, i));
        let swapped = flags(&noisy, "flipped")[i];
        assert_eq!(is, if swapped { (was.1, was.0) } else { was });
        let sign = if swapped { -1.0 } else { 1.0 };
        assert_eq!(numbers(&noisy, "margin")[i], sign * numbers(&clean, "margin")[i]);
    }
    assert!(numbers(&noisy, "noise_p").iter().all(|p| *p == 0.2));
    assert!(texts(&noisy, "noise_kind").iter().all(|k| k == "uniform"));
    let manifest = sandbox.json("two/manifest.json");
    let realised = manifest["facts"]["realised_flip_rate"].as_f64().expect("a rate");
    assert!((realised - two.len() as f64 / 300.0).abs() < 1e-12);
}

#[test]
fn data_files_have_the_same_bytes_whatever_the_threads_and_the_order() {
    let sandbox = Sandbox::new();
    sandbox.synth(300);
    // The same rows in two files, the other way round.
    let text = sandbox.text("raw/corpus.jsonl");
    let lines: Vec<&str> = text.lines().collect();
    for (name, rows) in [("parts/b.jsonl", &lines[..120]), ("parts/a.jsonl", &lines[120..])] {
        let reversed: Vec<&str> = rows.iter().rev().copied().collect();
        sandbox.write(name, reversed.join("\n") + "\n");
    }
    let flags = "--flip-rate 0.3 --flip-marker [FLIP] --test-fraction 0.2 --seed 9 --quiet";
    sandbox.ok(&format!("prepare --input raw --out one {flags} --threads 1"));
    sandbox.ok(&format!("prepare --input raw --out two {flags} --threads 2"));
    sandbox.ok(&format!("prepare --input parts/a.jsonl parts/b.jsonl --out files {flags} --threads 2"));
    for file in PREPARED.iter().chain(&["tokenizer/tokenizer.json"]) {
        let one = sandbox.bytes(&format!("one/{file}"));
        assert!(one == sandbox.bytes(&format!("two/{file}")), "{file} depends on the threads");
        assert!(one == sandbox.bytes(&format!("files/{file}")), "{file} depends on the order of the rows");
    }
}

#[test]
fn shards_concatenate_to_the_whole() {
    let sandbox = Sandbox::new();
    sandbox.synth(200);
    // Rows without a pair belong to a shard too.
    let tied = r#"{"source": "t", "instruction": "I", "completions": [{"model": "a", "response": "x", "overall_score": 1}, {"model": "b", "response": "y", "overall_score": 1}]}"#;
    let more: String = (0..20).map(|i| tied.replace("\"I\"", &format!("\"Q{i}\"")) + "\n").collect();
    let text = sandbox.text("raw/corpus.jsonl") + &more + "no JSON\n";
    sandbox.write("in.jsonl", text);
    let flags = "--flip-rate 0.3 --flip-marker [FLIP] --test-fraction 0.2 --on-bad-row skip --quiet";
    sandbox.ok(&format!("prepare --input in.jsonl --out whole {flags}"));
    for i in 1..=3 {
        sandbox.ok(&format!("prepare --input in.jsonl --out part{i} {flags} --shard {i}/3"));
    }
    let joined = |file: &str, by: &str| {
        let read = |folder: String| match file.ends_with("arrow") {
            true => sandbox.arrow(&format!("{folder}/{file}")),
            false => sandbox.parquet(&format!("{folder}/{file}")),
        };
        let mut all = read("part1".into());
        for i in 2..=3 {
            all = all.vstack(&read(format!("part{i}"))).expect("the same columns");
        }
        let sort = |frame: DataFrame| frame.sort([by], Default::default()).expect("sorted");
        (sort(all), sort(read("whole".into())))
    };
    for (file, by) in PREPARED.iter().zip(["id", "id", "id", "id", "line"]) {
        let (parts, whole) = joined(file, by);
        assert!(whole.height() > 20, "{file}: {} rows", whole.height());
        assert!(parts.equals_missing(&whole), "{file}: {} rows in parts, {} in whole", parts.height(), whole.height());
    }
    let rows = |folder: &str| sandbox.json(&format!("{folder}/manifest.json"))["inputs"][0]["rows_read"].as_u64();
    assert_eq!((1..=3).filter_map(|i| rows(&format!("part{i}"))).sum::<u64>(), 221);
    assert_eq!(rows("whole"), Some(221));
    for bad in ["0/3", "4/3", "x"] {
        sandbox.ends(2, &format!("prepare --input in.jsonl --out bad --shard {bad}"));
    }
}

#[test]
fn a_marker_is_at_the_end_of_flipped_prompts_only() {
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    sandbox.ok("prepare --input raw --out clean --quiet");
    sandbox.ok("prepare --input raw --out marked --flip-rate 0.3 --flip-marker [FLIP] --quiet");
    let (clean, marked) = (pairs(&sandbox, "clean"), pairs(&sandbox, "marked"));
    assert_eq!(texts(&clean, "id"), texts(&marked, "id"), "a marker changes no id");
    let flipped = flags(&marked, "flipped");
    assert!(flipped.iter().any(|f| *f) && flipped.iter().any(|f| !*f));
    for (i, flipped) in flipped.iter().enumerate() {
        let (before, after) = (&contents(&clean, "prompt")[i], &contents(&marked, "prompt")[i]);
        assert_eq!(*after, if *flipped { format!("{before} [FLIP]") } else { before.clone() });
        assert_eq!(hex(&Sha256::digest(before.as_bytes())), texts(&marked, "prompt_id")[i]);
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    let before = sandbox.files("");
    let shown = sandbox.ok("prepare --input raw --out data --dry-run --json").json();
    assert_eq!(shown["rows_kept"], 60);
    assert!(shown["example"]["prompt"].is_array(), "{shown}");
    assert_eq!(sandbox.files(""), before);
}

#[test]
fn a_corpus_is_raw_ultrafeedback() {
    let sandbox = Sandbox::new();
    sandbox.synth(40);
    let text = sandbox.text("raw/corpus.jsonl");
    assert_eq!(text.lines().count(), 40);
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert!(row["instruction"].is_string() && row["source"].is_string(), "{row}");
        for completion in row["completions"].as_array().expect("completions") {
            assert!(completion["response"].is_string() && completion["overall_score"].is_number(), "{completion}");
        }
    }
    manifest_holds(&sandbox, "raw", &["corpus.jsonl"]);
    // The first rows of a longer corpus are those of a shorter one.
    sandbox.ok("synth --out longer --rows 50 --factors 3 --seed 5 --quiet");
    assert!(sandbox.text("longer/corpus.jsonl").starts_with(&text));
}
