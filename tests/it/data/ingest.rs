//! Layouts and file formats through the command line, and real data where there is some.

use crate::support::{Sandbox, contents, needed, sample, texts};

/// Both splits of a column.
fn both(sandbox: &Sandbox, out: &str, of: impl Fn(&polars::prelude::DataFrame) -> Vec<String>) -> Vec<String> {
    let split = |s: &&str| of(&sandbox.parquet(&format!("{out}/pairs/{s}.parquet")));
    let mut all: Vec<String> = ["train", "test"].iter().flat_map(split).collect();
    all.sort();
    all
}

#[test]
fn columns_of_ones_own() {
    let sandbox = Sandbox::new();
    sandbox.write("questions.csv", sample("questions.csv"));
    let plain = sandbox.ends(3, "prepare --input questions.csv --out out");
    assert!(plain.stderr.contains("the row has question, answer_a, answer_b, judge, confidence"), "{}", plain.stderr);
    assert!(
        plain.stderr.contains("hint: say what the columns are, for example --columns prompt=question"),
        "{}",
        plain.stderr
    );

    sandbox.ok("prepare --input questions.csv --out out --columns prompt=question chosen=answer_a rejected=answer_b");
    let prompts = both(&sandbox, "out", |f| contents(f, "prompt"));
    assert_eq!(prompts[0], "How do I fold a letter\nin three?");
    assert_eq!(prompts.len(), 3);
    // The same in a recipe.
    sandbox.write(
        "recipe.toml",
        "[prepare]\ninput = [\"questions.csv\"]\nout = \"again\"\n[prepare.ingest]\n\
         columns = [\"prompt=question\", \"chosen=answer_a\", \"rejected=answer_b\"]\n",
    );
    sandbox.ok("prepare --config recipe.toml");
    for file in ["pairs/train.parquet", "pairs/test.parquet", "rejects.parquet"] {
        assert_eq!(sandbox.bytes(&format!("out/{file}")), sandbox.bytes(&format!("again/{file}")), "{file}");
    }
    let wrong = sandbox.ends(2, "prepare --input questions.csv --out no --columns prompt=question promt=x chosen");
    for part in ["prepare.ingest.columns: \"promt=x\": \"promt\" is no target", "\"chosen\": expected TARGET=COLUMN"] {
        assert!(wrong.stderr.contains(part), "{}", wrong.stderr);
    }
}

/// Rows of pairs about these things.
fn pairs(things: &[&str]) -> String {
    let row = |thing: &&str| format!("{{\"prompt\": \"Name a {thing}.\", \"chosen\": \"A.\", \"rejected\": \"B.\"}}\n");
    things.iter().map(row).collect()
}

#[test]
fn a_published_folder_keeps_its_splits_and_has_one_source() {
    let sandbox = Sandbox::new();
    sandbox.write("farm/README.md", "# a data set");
    sandbox.write("farm/data/train-00000-of-00002.jsonl", pairs(&["colour", "river", "fruit"]));
    sandbox.write("farm/data/train-00001-of-00002.jsonl", pairs(&["tool", "bird"]));
    // The question of a row that is held out is in the training file too.
    sandbox.write("farm/data/test-00000-of-00001.jsonl", pairs(&["metal", "bird"]));
    let said = sandbox.ok("prepare --input farm --out out").stderr;
    for part in
        ["train from farm/data/train-00000-of-00002.jsonl and 1 more, test from farm/data/test-", "--splits prompts"]
    {
        assert!(said.contains(part), "{said}");
    }
    let prompts = |out: &str, split: &str| {
        let mut prompts = contents(&sandbox.parquet(&format!("{out}/pairs/{split}.parquet")), "prompt");
        prompts.sort();
        prompts
    };
    assert_eq!(prompts("out", "train"), ["Name a colour.", "Name a fruit.", "Name a river.", "Name a tool."]);
    assert_eq!(prompts("out", "test"), ["Name a bird.", "Name a metal."]);
    assert_eq!(both(&sandbox, "out", |f| texts(f, "source")), ["farm"; 6]);
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert_eq!(texts(&rejects, "reason"), ["in-test-split"]);
    assert!(texts(&rejects, "detail")[0].contains("farm/data/test-00000-of-00001.jsonl: line 2"), "{rejects}");

    // Shards give the same.
    for shard in 1..=2 {
        sandbox.ok(&format!("prepare --input farm --out s{shard} --shard {shard}/2"));
    }
    sandbox.ok("merge s1 s2 --out merged");
    for file in ["pairs/train.parquet", "pairs/test.parquet", "rejects.parquet"] {
        assert_eq!(sandbox.bytes(&format!("out/{file}")), sandbox.bytes(&format!("merged/{file}")), "{file}");
    }
    // By prompt as one corpus.
    sandbox.ok("prepare --input farm --out mixed --splits prompts --test-fraction 0");
    assert_eq!(prompts("mixed", "train").len(), 6);
    // One file named after its split is split by prompt.
    sandbox.ok("prepare --input farm/data/train-00000-of-00002.jsonl --out one --test-fraction 1");
    assert_eq!(prompts("one", "test").len(), 3);
}

#[test]
fn an_empty_part_is_listed_with_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.write("in/part-0.jsonl", pairs(&["colour", "river"]));
    sandbox.write("in/part-1.jsonl", "");
    let said = sandbox.ok("prepare --input in --out out").stderr;
    assert!(said.contains("warning: no rows in in/part-1.jsonl"), "{said}");
    let inputs = &sandbox.json("out/manifest.json")["inputs"];
    assert_eq!((&inputs[0]["rows_kept"], &inputs[1]["rows_read"]), (&2.into(), &0.into()));
    let none = sandbox.ends(3, "prepare --input in/part-1.jsonl --out none");
    assert!(none.stderr.contains("in/part-1.jsonl: the file has no rows"), "{}", none.stderr);
}

#[test]
fn what_a_message_says_beside_its_content_is_refused_or_counted() {
    let sandbox = Sandbox::new();
    let row = |calls: &str| {
        format!(
            "{{\"prompt\": [{{\"role\": \"user\", \"content\": \"{calls}?\"}}], \"chosen\": [{{\"role\": \"assistant\", \
             \"content\": \"Wait.\", \"tool_calls\": [{{\"id\": \"{calls}\"}}]}}], \
             \"rejected\": [{{\"role\": \"assistant\", \"content\": \"Wait.\"}}]}}\n"
        )
    };
    sandbox.write("in.jsonl", row("a") + &row("b") + &pairs(&["colour"]));
    let refused = sandbox.ends(3, "prepare --input in.jsonl --out out").stderr;
    for part in ["in.jsonl: line 1: chosen[0].tool_calls: tool_calls is not read", "--ignore-keys tool_calls"] {
        assert!(refused.contains(part), "{refused}");
    }
    sandbox.ok("prepare --input in.jsonl --out out --on-bad-row skip");
    let counts = &sandbox.json("out/manifest.json")["inputs"][0];
    assert_eq!((&counts["rows_kept"], &counts["rows_rejected"]["unread-tool_calls"]), (&1.into(), &2.into()));
    // Without their calls the two responses are the same.
    sandbox.ok("prepare --input in.jsonl --out ignored --ignore-keys tool_calls");
    let counts = &sandbox.json("ignored/manifest.json")["inputs"][0];
    assert_eq!(counts["rows_rejected"]["identical-responses"], 2);
}

#[test]
fn a_question_of_another_name_is_asked_for() {
    let sandbox = Sandbox::new();
    let row = |ask: &str| format!("{{\"query\": \"{ask}?\", \"chosen\": \"It is 4.\", \"rejected\": \"It is 5.\"}}\n");
    sandbox.write("in.jsonl", row("2 + 2") + &row("3 + 1"));
    let said = sandbox.ends(3, "prepare --input in.jsonl --out out").stderr;
    for part in ["the row has query, chosen, rejected (--columns prompt=query?)", "hint: say what the columns are"] {
        assert!(said.contains(part), "{said}");
    }
    sandbox.ok("prepare --input in.jsonl --out out --columns prompt=query");
    assert_eq!(both(&sandbox, "out", |f| contents(f, "prompt")), ["2 + 2?", "3 + 1?"]);
    let said = sandbox.ends(2, "prepare --input in.jsonl --out no --columns prompt=qery").stderr;
    assert!(said.contains("no row has the column of prompt=qery (--columns); the rows have query, chosen"), "{said}");
}

#[test]
fn a_layout_can_be_told() {
    let sandbox = Sandbox::new();
    sandbox.write("tulu.jsonl", sample("tulu3.jsonl"));
    for format in ["auto", "mixture", "tulu3", "skywork", "trl", "binarized"] {
        sandbox.ok(&format!("prepare --input tulu.jsonl --out {format} --format {format}"));
        assert_eq!(both(&sandbox, format, |f| texts(f, "source")), ["letters", "riddles"]);
    }
    let other = sandbox.ends(2, "prepare --input tulu.jsonl --out x --format tulu");
    assert!(other.stderr.contains("expected one of"), "{}", other.stderr);
}

#[test]
fn decisions_of_layouts_stop_nothing() {
    let sandbox = Sandbox::new();
    let tie = r#"{"context": [{"role": "user", "content": "Tie?"}], "response1": "a", "response2": "b", "overall_preference": 0}"#;
    sandbox.write("in.jsonl", format!("{}{tie}\n", sample("helpsteer3.jsonl")));
    sandbox.ok("prepare --input in.jsonl --out out");
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert_eq!(texts(&rejects, "reason"), ["no-preference"]);
    let input = &sandbox.json("out/manifest.json")["inputs"][0];
    assert_eq!((input["rows_read"].as_u64(), input["rows_kept"].as_u64()), (Some(4), Some(3)));
}

#[test]
fn wrong_tens_are_told_and_counted() {
    let sandbox = Sandbox::new();
    let completion = |name: &str, score: u32, mean: f64| {
        format!(
            r#"{{"model": "{name}", "response": "{name}", "overall_score": {score}, "fine-grained_score": {mean}}}"#
        )
    };
    let row = |prompt: &str, first: String| {
        let second = completion("plain", 7, 4.5);
        format!("{{\"instruction\": \"{prompt}\", \"completions\": [{first}, {second}]}}\n")
    };
    let rows = [row("One?", completion("wrong", 10, 1.5)), row("Two?", completion("right", 10, 4.75))];
    sandbox.write("raw.jsonl", rows.concat());
    let chosen = |out: &str| both(&sandbox, out, |f| contents(f, "chosen"));
    let said = sandbox.ok("prepare --input raw.jsonl --out warn").stderr;
    assert!(said.contains("1 overall scores of 10 are 1 by their ratings"), "{said}");
    assert_eq!(chosen("warn"), ["right", "wrong"]);
    let said = sandbox.ok("prepare --input raw.jsonl --out repair --set prepare.ingest.wrong_tens=repair").stderr;
    assert!(!said.contains("overall scores of 10"), "{said}");
    assert_eq!(chosen("repair"), ["plain", "right"]);
    sandbox.ok("prepare --input raw.jsonl --out reject --set prepare.ingest.wrong_tens=reject");
    assert_eq!(chosen("reject"), ["right"]);
    assert_eq!(texts(&sandbox.parquet("reject/rejects.parquet"), "reason"), ["wrong-ten"]);
    for out in ["warn", "repair", "reject"] {
        let facts = &sandbox.json(&format!("{out}/manifest.json"))["facts"]["wrong_tens"];
        assert_eq!((facts["certain"].as_u64(), facts["suspicious"].as_u64()), (Some(1), Some(0)), "{out}");
    }
    let args = "--set prepare.ingest.wrong_tens=repair --set prepare.ingest.score=honesty";
    let said = sandbox.ends(2, &format!("prepare --input raw.jsonl --out no {args}")).stderr;
    assert!(said.contains("prepare.ingest.wrong_tens: has no effect"), "{said}");
}

/// A file of the folder with real data.
fn real(name: &str) -> String {
    needed("LPC_PIPE_DATA", "../shared/data").join(name).display().to_string()
}

#[test]
#[ignore = "needs the real data of the folder LPC_PIPE_DATA; `just test-all` runs it"]
fn real_files_are_read_to_the_last_row() {
    for (name, rows, kept) in [
        ("ultrafeedback_binarized/train.jsonl.gz", 1000, 1000 - 4 - 2),
        ("ultrafeedback_binarized/test.jsonl.gz", 200, 199),
        ("ultrafeedback_binarized/test.parquet", 200, 199),
        ("alpaca_eval_prefs/train.jsonl.gz", 685, 685),
        ("alpaca_eval_prefs/test.jsonl.gz", 120, 120),
    ] {
        let summary = Sandbox::new().run(&["prepare", "--input", &real(name), "--dry-run", "--json"]).json();
        assert_eq!(
            (summary["rows_read"].as_u64(), summary["rows_kept"].as_u64()),
            (Some(rows), Some(kept)),
            "{summary}"
        );
    }
    // One JSON array, of another kind of rows.
    let path = real("eval/truthfulqa_mc.json.gz");
    let output = Sandbox::new().run(&["prepare", "--input", &path, "--dry-run", "--on-bad-row", "skip"]);
    assert!(output.stderr.contains("none of the 817 rows read gives a pair: 817 unknown-layout"), "{}", output.stderr);
}
