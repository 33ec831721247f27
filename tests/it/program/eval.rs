//! `eval`: benchmarks and preference accuracy, of models with and without codes.

mod against;
mod rewards;
mod stopped;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{PROGRAM, Sandbox, columns, flags, lists, numbers, texts};

/// A run with codes in `run`, over the corpus of `data`, trained from `sft/model`.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.prepared(80);
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 6 --lr 3e-3 --out sft --quiet");
    sandbox.ok("train --data data --model sft/model --codes 3 --batch 8 --max-steps 6 --lr 1e-3 --out run --quiet");
    sandbox
}

fn arc(n: usize) -> String {
    let row = |i: usize| {
        let choices: Vec<Value> =
            ["A", "B", "C"].iter().map(|l| json!({"text": format!("{l} {i}"), "label": l})).collect();
        let key = ["A", "B", "C"][i % 3];
        json!({"id": format!("q{i}"), "question": {"stem": format!("Which {i}?"), "choices": choices}, "answerKey": key})
    };
    (0..n).map(|i| row(i).to_string() + "\n").collect()
}

fn truthful(n: usize) -> String {
    let row = |i: usize| {
        json!({"question": format!("Is it {i}?"), "mc1_targets": {"No": 1, "Yes": 0, "Maybe": 0},
            "mc2_targets": {"No": 1, "Never": 1, "Yes": 0}})
    };
    Value::Array((0..n).map(row).collect()).to_string()
}

#[test]
fn questions_with_choices_become_metrics_and_items() {
    let sandbox = trained();
    sandbox.write("arc.jsonl", arc(9));
    sandbox.write("t.json", truthful(5));
    let told = sandbox
        .ok("eval --model run --task arc_easy,truthfulqa_mc1,truthfulqa_mc2 --data arc.jsonl --data t.json --data t.json \
             --out found --json --quiet")
        .json();
    assert_eq!(told, sandbox.json("found/summary.json"));
    let items = sandbox.parquet("found/items.parquet");
    let wanted = [
        "task",
        "item",
        "id",
        "key",
        "prompt_id",
        "source",
        "scores",
        "right",
        "chosen_choice",
        "output",
        "prior_code",
        "acc",
        "acc_norm",
    ];
    assert_eq!(columns(&items), wanted);
    let tasks = texts(&items, "task");
    assert_eq!(tasks.iter().map(String::as_str).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!((tasks.len(), &texts(&items, "id")[4], &texts(&items, "id")[10]), (19, &"q4".into(), &String::new()));
    // Each metric is the mean of its items, and what the scores say.
    let (acc, chosen, scores) = (numbers(&items, "acc"), numbers(&items, "chosen_choice"), lists(&items, "scores"));
    for (task, n) in [("arc_easy", 9), ("truthfulqa_mc1", 5), ("truthfulqa_mc2", 5)] {
        let own: Vec<usize> = (0..tasks.len()).filter(|&i| tasks[i] == task).collect();
        let mean = own.iter().map(|&i| acc[i]).sum::<f64>() / n as f64;
        assert!((told["results"][task]["acc"].as_f64().unwrap() - mean).abs() < 1e-12, "{task}");
        assert_eq!((own.len(), told["results"][task]["n"].as_u64()), (n, Some(n as u64)));
        for &i in &own {
            let best = scores[i].iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            assert_eq!(scores[i][chosen[i] as usize], best);
            let mass = |of: &[usize]| of.iter().map(|&c| scores[i][c].exp()).sum::<f64>();
            let wanted = match task {
                "arc_easy" => f64::from(chosen[i] as usize == i % 3),
                "truthfulqa_mc1" => f64::from(chosen[i] == 0.0),
                _ => mass(&[0, 1]) / mass(&[0, 1, 2]),
            };
            assert!((acc[i] - wanted).abs() < 1e-9, "{task} {i}");
        }
    }
    let harness = sandbox.json("found/results.json");
    assert_eq!(harness["results"]["arc_easy"]["acc,none"], told["results"]["arc_easy"]["acc"]);
    assert_eq!(
        (&harness["versions"]["truthfulqa_mc2"], &harness["n-samples"]["arc_easy"]["original"]),
        (&json!(3.0), &json!(9))
    );
    // The prior's codes count, and limits take the first items.
    let few = sandbox.ok("eval --model run --task arc_easy --data arc.jsonl --limit 4 --out few --json --quiet").json();
    assert_eq!(few["results"]["arc_easy"]["n"], 4);
    let first = sandbox.parquet("few/items.parquet");
    assert_eq!(lists(&first, "scores"), lists(&items, "scores")[..4]);
    sandbox.ok("eval --model sft --task arc_easy --data arc.jsonl --out plain --quiet --against found");
    let plain = sandbox.parquet("plain/items.parquet");
    assert_ne!(lists(&plain, "scores")[0], lists(&items, "scores")[0]);
    assert_eq!(plain.column("prior_code").unwrap().null_count(), 9);
    let difference = &sandbox.json("plain/summary.json")["against"][0];
    let by_hand: f64 = (0..9).map(|i| numbers(&plain, "acc")[i] - acc[i]).sum::<f64>() / 9.0;
    assert_eq!((&difference["task"], &difference["metric"]), (&json!("arc_easy"), &json!("acc")));
    assert!((difference["difference"]["interval"]["estimate"].as_f64().unwrap() - by_hand).abs() < 1e-12);
}

#[test]
fn a_split_without_pairs_is_named() {
    let sandbox = Sandbox::new();
    sandbox.synth(30);
    sandbox.ok("prepare --input raw --out data --test-fraction 0 --quiet");
    sandbox.ok("train --data data --model tiny:16x1 --latent none --max-steps 1 --out run --quiet");
    let refused = sandbox.ends(3, "eval --model run --task preference --reward sum --data data");
    let pairs = sandbox.parquet("data/pairs/train.parquet").height();
    let said = ["the test split has no pairs".to_string(), format!("hint: --split train takes its {pairs} pairs")];
    assert!(said.iter().all(|said| refused.stderr.contains(said)), "{}", refused.stderr);
    let line = "eval --model run --task preference --reward sum --data data --split train --json --quiet";
    let told = sandbox.ok(line).json();
    assert_eq!(told["results"]["preference"]["n"], pairs);
}

#[test]
fn preference_accuracy_is_that_of_the_run() {
    let sandbox = trained();
    let told = sandbox.ok("eval --model run --task preference --data data --out found --json --quiet").json();
    let summary = sandbox.json("run/summary.json");
    let result = &told["results"]["preference"];
    assert_eq!((&result["acc"], &result["n"]), (&summary["eval_accuracy"], &summary["n_eval"]));
    assert_eq!(result["reward"], "log-ratio of the model and sft/model, summed over tokens");
    for (source, found) in result["by_source"].as_object().expect("sources") {
        let wanted = summary["by_source"].as_array().expect("sources").iter().find(|s| s["source"] == *source);
        assert_eq!(found["estimate"], wanted.expect("the source")["accuracy"], "{source}");
    }
    // Rewards are the implicit ones of the run, up to beta.
    let (items, posteriors) = (sandbox.parquet("found/items.parquet"), sandbox.parquet("run/posteriors.parquet"));
    let margins: Vec<f64> = lists(&items, "scores").iter().map(|s| s[0] - s[1]).collect();
    let splits = texts(&posteriors, "split");
    let test = |values: Vec<f64>| -> Vec<f64> {
        values.into_iter().zip(&splits).filter(|(_, split)| *split == "test").map(|(v, _)| v).collect()
    };
    let flipped = flags(&posteriors, "flipped");
    let of = |name: &str| numbers(&posteriors, name);
    let ratios = of("logps_chosen").iter().zip(of("ref_chosen_logps")).map(|(a, b)| a - b).collect::<Vec<f64>>();
    let others = of("logps_rejected").iter().zip(of("ref_rejected_logps")).map(|(a, b)| a - b).collect::<Vec<f64>>();
    let wanted = test(ratios.iter().zip(others).map(|(a, b)| a - b).collect());
    assert!(flipped.iter().any(|f| *f) && margins.len() == wanted.len());
    assert!(margins.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 2e-3), "{margins:?}\n{wanted:?}");
    // Pairs of files get the same numbers as the prepared folder that they become.
    sandbox.write("pairs.jsonl", "{\"prompt\": \"Which?\", \"chosen\": \"Good.\", \"rejected\": \"Bad, bad.\"}\n{\"prompt\": \"And?\", \"chosen\": \"Yes.\", \"rejected\": \"No!\"}\n");
    let raw = sandbox.ok("eval --model run --task preference --data pairs.jsonl --json --quiet --reward sum").json();
    assert_eq!(raw["results"]["preference"]["n"], 2);
    sandbox.ok("prepare --input pairs.jsonl --tokenizer run/model --test-fraction 0 --out own --quiet");
    let own = "eval --model run --task preference --data own --split train --reward sum --json --quiet";
    let mut own = sandbox.ok(own).json();
    let mut raw = raw;
    for told in [&mut own, &mut raw] {
        told["results"]["preference"].as_object_mut().expect("metrics").remove("seconds");
    }
    assert_eq!(own["results"], raw["results"]);
}

/// The reference of a run is the model that it started from, wherever the command is given, and nothing else.
#[test]
fn the_reference_of_a_run_is_found_and_checked() {
    let sandbox = trained();
    let eval = "eval --task preference --json --quiet";
    let here = sandbox.ok(&format!("{eval} --model run --data data")).json();
    std::fs::create_dir_all(sandbox.path("elsewhere/sft")).expect("a folder");
    let from_elsewhere = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = sandbox.command(PROGRAM, &words);
        command.current_dir(sandbox.path("elsewhere"));
        sandbox.finish(command)
    };
    let there = from_elsewhere(&format!("{eval} --model ../run --data ../data"));
    assert_eq!(there.code, 0, "{}", there.stderr);
    let (here, there) = (&here["results"]["preference"], &there.json()["results"]["preference"]);
    for key in ["acc", "n", "by_source", "reward"] {
        assert_eq!(here[key], there[key], "{key}");
    }
    // The data of a run are found too: its report tells texts of the pairs, its audit trains on them.
    let report = from_elsewhere("report ../run --json --quiet").json();
    assert!(report["prepared"]["found"].as_u64().is_some_and(|found| found > 0), "{}", report["prepared"]);
    let audit = "audit --run ../run --out audit --folds 2 --set audit.repeats=1 --quiet";
    let audited = from_elsewhere(audit);
    assert_eq!(audited.code, 0, "{}", audited.stderr);
    // A run that trained a head of its own started from the same weights in another form.
    sandbox.ok("train --data data --model sft/model --tune head --latent none --max-steps 2 --out head --quiet");
    sandbox.ok(&format!("{eval} --model head --data data --limit 2"));

    // A model with the same name and other weights.
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 1 --lr 3e-3 --out other --quiet");
    let model = |name: &str| sandbox.path(name);
    std::fs::rename(model("sft/model"), model("sft/kept")).expect("moved");
    std::fs::rename(model("other/model"), model("sft/model")).expect("moved");
    let refused = sandbox.ends(3, &format!("{eval} --model run --data data"));
    let said = "error: sft/model: is not the reference of run run: it has other weights than the run's reference had";
    assert!(refused.stderr.starts_with(said), "{}", refused.stderr);
    sandbox.ok(&format!("{eval} --model run --data data --reference sft/model"));

    // A model with another tokenizer reads other texts in the same ids.
    let swap = |text: &str| text.replace("\"e\":", "\"@@\":").replace("\"a\":", "\"e\":").replace("\"@@\":", "\"a\":");
    let changed = swap(&sandbox.text("sft/kept/tokenizer.json"));
    assert_ne!(changed, sandbox.text("sft/kept/tokenizer.json"));
    sandbox.write("sft/kept/tokenizer.json", changed);
    let refused = sandbox.ends(3, &format!("{eval} --model run --data data --reference sft/kept"));
    let said = "error: sft/kept: has another tokenizer than the model that is evaluated: token ";
    assert!(refused.stderr.starts_with(said), "{}", refused.stderr);
}

#[test]
fn several_sets_of_a_task_are_told_apart() {
    let sandbox = trained();
    let pair = |i: usize| json!({"prompt": format!("Which {i}?"), "chosen": "Good.", "rejected": format!("Bad, {i}.")});
    let pairs = |range: std::ops::Range<usize>| -> String { range.map(|i| pair(i).to_string() + "\n").collect() };
    sandbox.write("helpful.jsonl", pairs(0..3));
    sandbox.write("year=2024.jsonl", pairs(3..7));
    sandbox.write("arc.jsonl", arc(4));
    let sets = "--data helpful.jsonl --data year=2024.jsonl --data own=data";
    let eval = "eval --model run --task preference --quiet --json";
    let told = sandbox.ok(&format!("{eval} {sets} --out found")).json();
    let results = told["results"].as_object().expect("results");
    let names = ["preference/helpful", "preference/own", "preference/year=2024"];
    assert_eq!(results.keys().map(String::as_str).collect::<Vec<_>>(), names);
    // Each set has the numbers that it has alone, and its own items.
    let items = sandbox.parquet("found/items.parquet");
    let (tasks, scores) = (texts(&items, "task"), lists(&items, "scores"));
    for (at, (name, data)) in names.into_iter().zip(["helpful.jsonl", "data", "year=2024.jsonl"]).enumerate() {
        let alone = sandbox.ok(&format!("{eval} --data {data} --out alone-{at}")).json();
        let alone = &alone["results"]["preference"];
        assert_eq!((&results[name]["acc"], &results[name]["n"]), (&alone["acc"], &alone["n"]), "{name}");
        assert_eq!(results[name]["by_source"], alone["by_source"]);
        let own: Vec<&Vec<f64>> = tasks.iter().zip(&scores).filter(|(task, _)| *task == name).map(|(_, s)| s).collect();
        assert_eq!(
            own,
            lists(&sandbox.parquet(&format!("alone-{at}/items.parquet")), "scores").iter().collect::<Vec<_>>(),
            "{name}"
        );
    }
    // Differences from another model are told by set, and a task may stand beside others more than once.
    let plain = "eval --model sft --reference sft --task preference --quiet --json";
    let plain = sandbox.ok(&format!("{plain} {sets} --against found")).json();
    let compared: Vec<&Value> = plain["against"].as_array().expect("a list").iter().map(|d| &d["task"]).collect();
    assert_eq!(compared, names);
    let both =
        "eval --model run --task preference,preference,arc_easy --data a=helpful.jsonl --data b=data --data arc.jsonl";
    let told = sandbox.ok(&format!("{both} --json --quiet")).json();
    let found: Vec<&String> = told["results"].as_object().expect("results").keys().collect();
    assert_eq!(found, ["arc_easy", "preference/a", "preference/b"]);
    // A path that is wrong is told before the work on the sets in front of it.
    let refused = sandbox.ends(3, "eval --model run --task preference --data helpful.jsonl --data gone.jsonl");
    assert!(refused.stderr.contains("gone.jsonl: no such file or folder"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("evaluating"), "{}", refused.stderr);
    // A broken row is told as `prepare` tells it, and whose flags the hint names.
    sandbox.write("broken.jsonl", pairs(0..1) + "{\"prompt\": \"a\", \"chosen\": 7, \"rejected\": \"b\"}\n");
    let refused = sandbox.ends(3, &format!("{eval} --data broken.jsonl"));
    assert!(refused.stderr.contains("broken.jsonl: line 2: chosen: expected a string"), "{}", refused.stderr);
    assert!(refused.stderr.contains("this is about `lpc-pipe prepare`"), "{}", refused.stderr);
    // The corpus from which `data` was prepared is files of pairs, beside which a manifest stands.
    let raw = sandbox.ok(&format!("{eval} --data raw --limit 5")).json();
    assert_eq!(raw["results"]["preference"]["n"], 5);
}

/// Of files whose names tell several splits those of the task's split are read.
#[test]
fn splits_of_files_are_told_apart() {
    let sandbox = trained();
    let rows =
        |text: &str, from: usize| -> String { text.lines().skip(from).map(|line| line.to_string() + "\n").collect() };
    sandbox.write("arc/train.jsonl", arc(9));
    sandbox.write("arc/test.jsonl", rows(&arc(6), 2));
    sandbox.write("arc/validation.jsonl", arc(2));
    let output = sandbox.ok("eval --model run --task arc_easy --data arc --json");
    assert_eq!(output.json()["results"]["arc_easy"]["n"], 4);
    assert!(output.stderr.contains("arc: the split test is read, arc/test.jsonl, 1 of 3 files"), "{}", output.stderr);
    let alone = sandbox.ok("eval --model run --task arc_easy --data arc/train.jsonl --json --quiet");
    assert_eq!(alone.json()["results"]["arc_easy"]["n"], 9, "a file that is named is read");

    sandbox.write("t/validation.json", truthful(5));
    sandbox.write("t/train.json", truthful(2));
    let told = sandbox.ok("eval --model run --task truthfulqa_mc1 --data t --json --quiet").json();
    assert_eq!(told["results"]["truthfulqa_mc1"]["n"], 5);
    let refused = sandbox.ends(3, "eval --model run --task truthfulqa_mc1 --data arc/t* --quiet");
    let said =
        "the files are of several splits, and none of validation\n\nhint: name the file that is meant: arc/test.jsonl";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);

    let pair = |i: usize| json!({"prompt": format!("Which {i}?"), "chosen": "Good.", "rejected": format!("Bad, {i}.")});
    let pairs = |range: std::ops::Range<usize>| -> String { range.map(|i| pair(i).to_string() + "\n").collect() };
    sandbox.write("p/train.jsonl", pairs(0..5));
    sandbox.write("p/test.jsonl", pairs(5..8));
    let n = |line: &str| {
        let told = sandbox.ok(&format!("eval --model run --task preference --reward sum --json --quiet {line}")).json();
        told["results"]["preference"]["n"].as_u64()
    };
    assert_eq!([n("--data p"), n("--data p --split train"), n("--data p/train.jsonl")], [Some(3), Some(5), Some(5)]);
    sandbox.write("helpful.jsonl", pairs(0..2));
    let refused = sandbox.ends(2, "eval --model run --task preference --data helpful.jsonl --split train --quiet");
    assert!(refused.stderr.contains("eval.split: has no effect on helpful.jsonl"), "{}", refused.stderr);
    // The examples of problems are those of the training split.
    let problems = |range: std::ops::Range<usize>| -> String {
        range.map(|i| json!({"question": format!("{i}?"), "answer": format!("#### {i}")}).to_string() + "\n").collect()
    };
    sandbox.write("g/train.jsonl", problems(0..3));
    sandbox.write("g/test.jsonl", problems(3..5));
    let gsm8k = "eval --model run --task gsm8k --data g --examples g --quiet --json --shots";
    assert_eq!(sandbox.ok(&format!("{gsm8k} 3")).json()["results"]["gsm8k"]["n"], 2);
    let refused = sandbox.ends(2, &format!("{gsm8k} 4"));
    assert!(refused.stderr.contains("4 examples of a problem are wanted, and there are 3"), "{}", refused.stderr);
}

/// Pairs of files are taken in their order, as long as the model reads them, and what is cut is counted.
#[test]
fn pairs_of_files_keep_their_order_and_their_length() {
    let sandbox = trained();
    let long = "long words of many kinds, ".repeat(70);
    let pair = |i: usize| {
        let chosen = if i == 2 { format!("{long} good.") } else { "Good.".into() };
        json!({"prompt": format!("Which {i}?"), "chosen": chosen, "rejected": format!("Bad, {i}.")}).to_string() + "\n"
    };
    sandbox.write("p.jsonl", (0..9).map(pair).collect::<String>());
    let eval = "eval --model run --task preference --data p.jsonl --reward sum";
    let told = sandbox.ok(&format!("{eval} --out all --json --quiet")).json();
    assert_eq!(
        (&told["results"]["preference"]["n"], &told["results"]["preference"]["truncated"]),
        (&json!(9), &json!(0))
    );
    let all = sandbox.parquet("all/items.parquet");
    assert_eq!(numbers(&all, "item"), (0..9).map(f64::from).collect::<Vec<f64>>());
    let scores = lists(&all, "scores");
    assert!(scores[2][0] < 20.0 * scores[1][0], "the third pair has the long response: {scores:?}");
    sandbox.ok(&format!("{eval} --limit 4 --out few --quiet"));
    assert_eq!(texts(&sandbox.parquet("few/items.parquet"), "id"), texts(&all, "id")[..4]);
    let cut = sandbox.ok(&format!("{eval} --set eval.max_length=100"));
    assert!(cut.stdout.contains("preference: 1 of 9 items were cut to the greatest length"), "{}", cut.stdout);
    let refused = sandbox.ends(2, "eval --model run --task preference --data data --set eval.max_length=100");
    assert!(refused.stderr.contains("eval.max_length: has no effect on data"), "{}", refused.stderr);
    // Beside a prepared folder there are files, on which it has an effect.
    let both = sandbox.ok(&format!("{eval} --data data --set eval.max_length=100"));
    assert!(both.stdout.contains("preference/p: 1 of 9 items were cut to the greatest length"), "{}", both.stdout);
    let row =
        json!({"id": "x", "prompt": "Which?", "chosen": "word ".repeat(3000), "rejected": "Bad", "subset": "hep-go"});
    sandbox.write("r.jsonl", row.to_string() + "\n");
    let told = sandbox.ok("eval --model run --task rewardbench --data r.jsonl --json --quiet").json();
    assert_eq!(told["results"]["rewardbench"]["truncated"], 1);
}

#[test]
fn problems_are_answered_and_their_numbers_compared() {
    let sandbox = trained();
    let problems: String = (0..8)
        .map(|i| json!({"question": format!("{i} and 1?"), "answer": format!("#### {}", i + 1)}).to_string() + "\n")
        .collect();
    sandbox.write("g.jsonl", problems);
    let eval = "eval --model run --task gsm8k --data g.jsonl --limit 3 --quiet --json";
    let told = sandbox.ok(&format!("{eval} --shots 2 --out found")).json();
    let result = &told["results"]["gsm8k"];
    assert_eq!((&result["n"], &result["num_fewshot"], &result["version"]), (&json!(3), &json!(2), &json!(3.0)));
    for metric in ["exact_match", "exact_match,strict-match", "exact_match,flexible-extract"] {
        assert!(result[metric].is_number(), "{metric} in {result}");
    }
    let items = sandbox.parquet("found/items.parquet");
    assert!(texts(&items, "output").iter().all(|text| text != "null" && !text.contains("Question:")));
    let other = sandbox.ok(&format!("{eval} --shots 2 --batch 1 --out other")).json();
    assert_eq!(texts(&sandbox.parquet("other/items.parquet"), "output"), texts(&items, "output"));
    assert_eq!(other["results"]["gsm8k"]["exact_match"], result["exact_match"]);
    let refused = sandbox.ends(2, &format!("{eval} --shots 9"));
    assert!(
        refused.stderr.contains("eval.shots: 9 examples of a problem are wanted, and there are 7"),
        "{}",
        refused.stderr
    );
}

#[test]
fn rewards_rank_responses_of_both_versions() {
    let sandbox = trained();
    let row = |i: usize, subset: &str, rejected: Value| json!({"id": i, "prompt": format!("Which {i}?"), "chosen": "Good answers", "rejected": rejected, "subset": subset});
    let first: String = (0..6)
        .map(|i| row(i, ["hep-go", "math-prm", "donotanswer"][i % 3], json!(format!("Bad {i}"))).to_string() + "\n")
        .collect();
    let mut second = row(0, "Math", json!(["Bad", "Worse, too", "No"])).to_string() + "\n";
    let ties = |id: &str, right: Value| json!({"id": id, "prompt": format!("Which {id}?"), "chosen": right, "rejected": ["Bad", "No"], "subset": "Ties"});
    for prompt in [ties("ref:7", json!(["Good"])), ties("tied:7", json!(["Good", "Better", "Best of all"]))] {
        second += &(prompt.to_string() + "\n");
    }
    sandbox.write("one.jsonl", first);
    sandbox.write("two.jsonl", second);
    let eval = "eval --model run --task rewardbench --json --quiet --data";
    let told = sandbox.ok(&format!("{eval} one.jsonl --out found")).json();
    let result = &told["results"]["rewardbench"];
    let acc = numbers(&sandbox.parquet("found/items.parquet"), "acc");
    let mean = |at: [usize; 2]| (acc[at[0]] + acc[at[1]]) / 2.0;
    assert_eq!(result["by_subset"]["hep-go"]["estimate"].as_f64(), Some(mean([0, 3])));
    let reasoning = (984.0 * mean([1, 4]) + 164.0 * mean([0, 3])) / (984.0 + 164.0);
    assert!((result["by_section"]["Reasoning"]["estimate"].as_f64().unwrap() - reasoning).abs() < 1e-12);
    assert!(result["score"].is_null(), "two of four sections have no score in all: {result}");
    let told = sandbox.ok(&format!("{eval} two.jsonl --out best")).json();
    let result = &told["results"]["rewardbench"];
    assert_eq!((&result["n"], &result["left_out"]), (&json!(3), &Value::Null));
    let scores: Vec<Vec<f64>> = lists(&sandbox.parquet("best/items.parquet"), "scores");
    assert_eq!(scores.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3, 5]);
    // The rewards of Ties by its definition: right responses first.
    let least = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |x: &[f64]| x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let apart = [scores[1][0] - most(&scores[1][1..]), least(&scores[2][..3]) - most(&scores[2][3..])];
    let (spread, smaller) = (most(&scores[2][..3]) - least(&scores[2][..3]), apart[0].min(apart[1]));
    let share = |x: bool| f64::from(u8::from(x));
    let wanted = 0.3 * (share(apart[0] > 0.0) + share(apart[1] > 0.0))
        + 0.2 * (share(apart[1] > spread) + share(smaller > spread))
        + 0.01 * (smaller / spread - 1.0).tanh();
    let found = result["by_subset"]["Ties"]["estimate"].as_f64().unwrap();
    assert!((found - wanted).abs() < 1e-9, "{found} {wanted} {scores:?}");
    assert_eq!(result["ties_acc"], json!((share(apart[0] > 0.0) + share(apart[1] > 0.0)) / 2.0));
    assert!(result["score"].is_null(), "two of six subsets have no score in all: {result}");
    let two = json!({"id": 8, "prompt": "p", "chosen": ["a", "b"], "rejected": ["c"], "subset": "Math"});
    for (bad, said) in [
        (ties("tied:8", json!(["Good"])), "chosen: one right response of tied:8, expected several"),
        (ties("8", json!(["Good"])), "id: \"8\": expected ref:N or tied:N in the subset Ties"),
        (two, "chosen: 2 right responses, expected one"),
    ] {
        sandbox.write("bad.jsonl", bad.to_string() + "\n");
        let refused = sandbox.ends(3, &format!("{eval} bad.jsonl"));
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let sandbox = trained();
    sandbox.write("arc.jsonl", arc(3));
    sandbox.write("bad.jsonl", arc(2) + "{\"question\": \"x\"}\n");
    for (code, rest, said) in [
        (2, "", "eval.task: missing"),
        (2, "--task arc_easy", "eval.data: missing"),
        (2, "--task arc_hard --data arc.jsonl", "arc_hard"),
        (2, "--task arc_easy,arc_easy --data arc.jsonl", "arc_easy/arc is there twice: name the sets"),
        (2, "--task preference --data a/x.jsonl --data b/x.jsonl", "preference/x is there twice: name the sets"),
        (2, "--task arc_easy,gsm8k --data a --data b --data c", "3 for 2 tasks: give one for all, or one for each"),
        (2, "--task arc_easy --data mine=", "a path is empty"),
        (2, "--task arc_easy --data arc.jsonl --shots 3", "eval.shots: has no effect without task gsm8k"),
        (2, "--task arc_easy --data arc.jsonl --data arc.jsonl", "arc_easy/arc is there twice: name the sets"),
        (3, "--task arc_easy --data bad.jsonl", "bad.jsonl: line 3: choices.text: expected a list of texts"),
        (3, "--task arc_easy --data none.jsonl", "no such file or folder"),
        (3, "--task truthfulqa_mc1 --data arc.jsonl", "line 1: mc1_targets: expected answers with 1 or 0"),
        (3, "--task arc_easy --data arc.jsonl --out run", "an input of this command"),
        (3, "--task arc_easy --data arc.jsonl --out data", "holds the output of `prepare`"),
        (3, "--task arc_easy --data arc.jsonl --against run", "written by `train`, not by `eval`"),
    ] {
        let refused = sandbox.ends(code, &format!("eval --model run {rest}"));
        assert!(refused.stderr.contains(said), "{rest}: {}", refused.stderr);
    }
    // A model without a run has no reference of its own, and one made from a seed is not there again.
    sandbox.ok("export --run run --out alone --quiet");
    let refused = sandbox.ends(2, "eval --model alone --task preference --data data");
    assert!(refused.stderr.contains("eval.reference: missing: give --reference MODEL"), "{}", refused.stderr);
    let refused = sandbox.ends(2, "eval --model sft --task preference --data data");
    assert!(
        refused.stderr.contains("the reference of the run is tiny:32x1, which is made from its seed"),
        "{}",
        refused.stderr
    );
    sandbox.ok("eval --model alone --task preference --data data --reference sft --quiet");
}
