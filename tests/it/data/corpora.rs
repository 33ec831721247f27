//! Where rows come from, how much of each input goes in, and what must not be among them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Sandbox, contents, texts};

const COOKIE: &str = "Why is it a bad idea to give a mouse a cookie at night?";

/// Raw rows: (source, question); both responses name the question.
fn raw(rows: &[(&str, String)]) -> String {
    let row = |(source, question): &(&str, String)| {
        format!(
            "{{\"source\": \"{source}\", \"instruction\": \"{question}\", \"completions\": [\
             {{\"model\": \"a\", \"response\": \"good {question}\", \"overall_score\": 9}},\
             {{\"model\": \"b\", \"response\": \"bad {question}\", \"overall_score\": 1}}]}}\n"
        )
    };
    rows.iter().map(row).collect()
}

/// Pairs without a source.
fn pairs(questions: &[String]) -> String {
    let row = |q: &String| format!("{{\"prompt\": \"{q}\", \"chosen\": \"yes {q}\", \"rejected\": \"no {q}\"}}\n");
    questions.iter().map(row).collect()
}

fn question(i: usize) -> String {
    format!("What is number {i} good for?")
}

fn questions(n: usize) -> Vec<String> {
    (0..n).map(question).collect()
}

/// Prompts and sources of the whole prepared folder.
fn kept(sandbox: &Sandbox, out: &str) -> BTreeSet<(String, String)> {
    let of = |split: &str| {
        let frame = sandbox.parquet(&format!("{out}/pairs/{split}.parquet"));
        contents(&frame, "prompt").into_iter().zip(texts(&frame, "source")).collect::<Vec<_>>()
    };
    ["train", "test"].into_iter().flat_map(of).collect()
}

/// The manifest's facts; rows are accounted for.
fn facts(sandbox: &Sandbox, out: &str) -> Value {
    let manifest = sandbox.json(&format!("{out}/manifest.json"));
    for input in manifest["inputs"].as_array().expect("inputs") {
        let rejected: u64 =
            input["rows_rejected"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
        let (read, kept) = (input["rows_read"].as_u64(), input["rows_kept"].as_u64());
        assert_eq!(read, kept.map(|kept| kept + rejected), "{input}");
    }
    manifest["facts"].clone()
}

#[test]
fn truthful_qa_stays_out_unless_it_is_kept() {
    let sandbox = Sandbox::new();
    let rows: Vec<(&str, String)> =
        questions(12).into_iter().enumerate().map(|(i, q)| (["flan", "truthful_qa", "sharegpt"][i % 3], q)).collect();
    sandbox.write("raw.jsonl", raw(&rows));
    let said = sandbox.ok("prepare --input raw.jsonl --out out").stdout;
    let line = "excluded 4 rows from truthful_qa (used for evaluation); --keep-source truthful_qa keeps them";
    assert!(said.contains(line), "{said}");
    let sources: BTreeSet<String> = kept(&sandbox, "out").into_iter().map(|k| k.1).collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["flan", "sharegpt"]);
    let found = facts(&sandbox, "out");
    assert_eq!(found["rows_rejected"]["excluded-source"], 4);
    assert_eq!(found["sources"]["excluded"]["truthful_qa"], 4);
    assert_eq!(texts(&sandbox.parquet("out/rejects.parquet"), "reason"), ["excluded-source"; 4]);

    let said = sandbox.ok("prepare --input raw.jsonl --out all --keep-source TruthfulQA").stdout;
    assert!(said.contains("kept 4 rows from truthful_qa as asked for"), "{said}");
    assert_eq!(kept(&sandbox, "all").len(), 12);
    assert_eq!(facts(&sandbox, "all")["sources"]["kept_on_request"]["truthful_qa"], 4);

    let refused = sandbox.ends(2, "prepare --input raw.jsonl --out no --keep-source flan").stderr;
    assert!(refused.contains("\"flan\" has no effect: it is not left out anyway"), "{refused}");
    sandbox.ok("prepare --input raw.jsonl --out other --set prepare.sources.exclude=['flan']");
    assert!(kept(&sandbox, "other").iter().all(|k| k.1 != "flan"));
}

#[test]
fn one_tag_for_all_rows() {
    let sandbox = Sandbox::new();
    sandbox.write("raw.jsonl", raw(&[("flan", question(1)), ("truthful_qa", question(2))]));
    sandbox.ok("prepare --input raw.jsonl --out out --source mine");
    assert!(kept(&sandbox, "out").iter().all(|k| k.1 == "mine"));
    assert_eq!(kept(&sandbox, "out").len(), 2);
    sandbox.ends(2, "prepare --input raw.jsonl --out no --source truthful_qa");
}

#[test]
fn sources_are_joined_back_by_prompt() {
    let sandbox = Sandbox::new();
    let names = ["flan", "truthful_qa", "sharegpt"];
    let rows: Vec<(&str, String)> = questions(9).into_iter().enumerate().map(|(i, q)| (names[i % 3], q)).collect();
    sandbox.write("raw.jsonl", raw(&rows));
    // The same questions in other spellings, and two that the raw set does not have.
    let mut spelled: Vec<String> = questions(9).iter().map(|q| q.to_uppercase().replace(' ', "  ")).collect();
    spelled.extend(["Anything else?".into(), "Translate this: so".into()]);
    sandbox.write("binarized.jsonl", pairs(&spelled));
    let warned = sandbox.ok("prepare --input binarized.jsonl --out without").stderr;
    assert!(warned.contains("no row says its source, so rows from truthful_qa could not be left out"), "{warned}");

    let args = "--join-source raw.jsonl --source-rule rule=prefix:TRANSLATE";
    let output = sandbox
        .run(&["prepare --input binarized.jsonl --out out", args].join(" ").split_whitespace().collect::<Vec<_>>());
    assert_eq!(output.code, 0, "{}", output.stderr);
    let sources: Vec<String> = kept(&sandbox, "out").into_iter().map(|k| k.1).collect();
    let count = |name: &str| sources.iter().filter(|s| *s == name).count();
    assert_eq!(["flan", "sharegpt", "truthful_qa", "binarized", "rule"].map(count), [3, 3, 0, 1, 1]);
    let found = facts(&sandbox, "out");
    assert_eq!(found["sources"]["tagged_by"], serde_json::json!({"file": 1, "join": 9, "rule": 1}));
    assert_eq!(found["sources"]["join"]["prompts"], 9);
    assert_eq!(found["read_beside"][0]["path"], "raw.jsonl");
    assert_eq!(found["read_beside"][0]["rows"], 9);

    sandbox.write("mute.jsonl", pairs(&questions(2)));
    let refused = sandbox.ends(3, "prepare --input binarized.jsonl --out no --join-source mute.jsonl").stderr;
    assert!(refused.contains("none of the 2 rows to join has a source"), "{refused}");
}

#[test]
fn inputs_are_mixed_by_share_and_cap() {
    let sandbox = Sandbox::new();
    sandbox.write("big.jsonl", pairs(&questions(400)));
    sandbox.write("small.jsonl", pairs(&(1000..1050).map(question).collect::<Vec<_>>()));
    let prepare = |out: &str, more: &[&str]| {
        let args = ["prepare", "--input", "big.jsonl", "small.jsonl", "--out", out];
        let output = sandbox.run(&[&args[..], more].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        kept(&sandbox, out)
    };
    let of = |kept: &BTreeSet<(String, String)>, source: &str| -> BTreeSet<String> {
        kept.iter().filter(|k| k.1 == source).map(|k| k.0.clone()).collect()
    };
    let half = prepare("half", &["--mix", "big: weight=0.5, source=main"]);
    let tenth = prepare("tenth", &["--mix", "big: weight=0.1, source=main"]);
    assert_eq!(of(&half, "small").len(), 50);
    assert!(of(&tenth, "main").is_subset(&of(&half, "main")), "smaller shares are inside larger ones");
    // Five standard deviations of Binomial(400, 0.5) and (400, 0.1).
    assert!(of(&half, "main").len().abs_diff(200) < 50 && of(&tenth, "main").len().abs_diff(40) < 30);
    assert_eq!(facts(&sandbox, "half")["rows_rejected"]["mix-weight"], 400 - of(&half, "main").len());

    let capped = prepare("capped", &["--mix", "big*: cap=30", "--mix", "small: cap=100, source=few"]);
    assert_eq!((of(&capped, "big").len(), of(&capped, "few").len()), (30, 50));
    assert_eq!(facts(&sandbox, "capped")["rows_rejected"]["mix-cap"], 370);
    assert!(of(&capped, "big").is_subset(&of(&prepare("more", &["--mix", "big*: cap=31"]), "big")));

    let args = ["prepare", "--input", "big.jsonl", "--out", "no", "--mix", "other: cap=3", "--shard", "1/2"];
    let refused = sandbox.run(&args);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("a cap in --mix needs all pairs at once"), "{}", refused.stderr);
    let refused = sandbox.run(&args[..7]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("other: fits no input; the inputs are big.jsonl"), "{}", refused.stderr);
}

#[test]
fn shards_of_a_mixed_and_cleaned_corpus_are_the_whole() {
    let sandbox = Sandbox::new();
    let mut rows: Vec<(&str, String)> =
        questions(60).into_iter().enumerate().map(|(i, q)| (["flan", "truthful_qa"][i % 2], q)).collect();
    rows.push(("flan", COOKIE.into()));
    sandbox.write("raw.jsonl", raw(&rows));
    sandbox.write("bench.jsonl", format!("{{\"question\": \"{COOKIE}\"}}\n"));
    let prepare = |out: &str, shard: &str| {
        let mix = ["--mix", "raw: weight=0.7"];
        let args =
            ["prepare", "--input", "raw.jsonl", "--out", out, "--decontaminate", "bench.jsonl", "--shard", shard];
        let output = sandbox.run(&[&args[..], &mix].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        (kept(&sandbox, out), facts(&sandbox, out))
    };
    let (whole, all) = prepare("whole", "");
    let (first, one) = prepare("one", "1/2");
    let (second, two) = prepare("two", "2/2");
    assert_eq!(first.union(&second).cloned().collect::<BTreeSet<_>>(), whole);
    let sum = |read: &dyn Fn(&Value) -> u64| assert_eq!(read(&one) + read(&two), read(&all));
    sum(&|f| f["rows_rejected"]["excluded-source"].as_u64().unwrap_or(0));
    sum(&|f| f["sources"]["excluded"]["truthful_qa"].as_u64().unwrap_or(0));
    sum(&|f| f["contamination"][0]["items_found"].as_u64().unwrap_or(0));
    sum(&|f| f["rows_rejected"]["mix-weight"].as_u64().unwrap_or(0));
    assert_eq!(all["sources"]["excluded"]["truthful_qa"], 30);
}

#[test]
fn questions_of_benchmarks_are_kept_out() {
    let sandbox = Sandbox::new();
    let mut prompts = questions(10);
    prompts.push(format!("Tell me: {}", COOKIE.to_uppercase()));
    sandbox.write("in.jsonl", pairs(&prompts));
    sandbox.write(
        "bench.json",
        format!("[{{\"question\": \"{COOKIE}\"}}, {{\"question\": \"Which of these is an unrelated one?\"}}]"),
    );
    let said = sandbox.ok("prepare --input in.jsonl --out out --decontaminate bench.json").stdout;
    assert!(said.contains("benchmark bench: 1 of 2 items found, 1 rows dropped"), "{said}");
    assert_eq!(kept(&sandbox, "out").len(), 10);
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert_eq!(texts(&rejects, "reason"), ["contaminated"]);
    assert!(texts(&rejects, "detail")[0].starts_with("bench: \"WHY IS IT A BAD IDEA"), "{rejects:?}");
    let found = facts(&sandbox, "out");
    assert_eq!(found["contamination"][0]["benchmark"], "bench");
    assert_eq!(found["read_beside"][0]["rows"], 2);
    let missing = sandbox.ends(3, "prepare --input in.jsonl --out no --decontaminate absent.json").stderr;
    assert!(missing.contains("absent.json"), "{missing}");
    let idle = "prepare --input in.jsonl --out no --set prepare.pairs.decontaminate_ngram=10";
    assert!(sandbox.ends(2, idle).stderr.contains("has no effect without decontaminate"));
}

#[test]
fn of_nearly_equal_prompts_one_stays() {
    let sandbox = Sandbox::new();
    let long = |name: &str, last: &str| {
        let words: Vec<String> = (0..40).map(|i| format!("{name}{i}")).collect();
        format!("{} {last}", words.join(" "))
    };
    let mut prompts: Vec<String> = (0..20).map(|i| long(&format!("n{i}w"), "end")).collect();
    prompts.extend((0..5).map(|i| long(&format!("n{i}w"), "close")));
    sandbox.write("in.jsonl", pairs(&prompts));
    let said = sandbox.ok("prepare --input in.jsonl --out out --near-duplicates 0.7 --test-fraction 0.5").stdout;
    assert!(said.contains("5 of 25 prompts dropped as near duplicates"), "{said}");
    let kept: Vec<String> = kept(&sandbox, "out").into_iter().map(|k| k.0).collect();
    let beginnings: BTreeSet<&str> = kept.iter().filter_map(|p| p.split(' ').next()).collect();
    assert_eq!((kept.len(), beginnings.len()), (20, 20), "one of each stays, on one side of the split");
    assert_eq!(facts(&sandbox, "out")["near_duplicates"]["clusters"], 5);
    let detail = texts(&sandbox.parquet("out/rejects.parquet"), "detail").remove(0);
    assert!(detail.starts_with("nearly the prompt of in.jsonl: line "), "{detail}");
    let refused = sandbox.ends(2, "prepare --input in.jsonl --out no --near-duplicates 0.7 --shard 1/2").stderr;
    assert!(refused.contains("--near-duplicates needs all prompts at once"), "{refused}");
    assert!(
        sandbox.ends(2, "prepare --input in.jsonl --out no --near-duplicates 0.2").stderr.contains("from 0.5 to 1")
    );
}
