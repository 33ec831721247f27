//! Evaluations that are stopped, and given again.

use lpc_pipe::pipeline::eval;
use lpc_pipe::pipeline::recipe::EvalConfig;
use lpc_pipe::pipeline::recipe::eval::EvalTask;
use lpc_pipe::seed::Seed;
use serde_json::json;

use super::{arc, trained};
use crate::support::{Sandbox, StopsAfter};

/// Hidden files of results in an output folder.
fn kept(sandbox: &Sandbox, folder: &str) -> Vec<String> {
    sandbox.files(folder).into_iter().filter(|name| name.ends_with(".kept")).collect()
}

#[test]
fn a_stopped_evaluation_goes_on_with_the_results_that_are_missing() {
    let sandbox = trained();
    let problems: String = (0..8)
        .map(|i| json!({"question": format!("{i} and 1?"), "answer": format!("#### {}", i + 1)}).to_string() + "\n")
        .collect();
    // Of the questions a pass holds less than half.
    let questions: u64 = 200;
    sandbox.write("arc.jsonl", arc(questions as usize));
    sandbox.write("g.jsonl", problems);
    let line = "eval --model run --task arc_easy,gsm8k,preference --shots 2 --batch 2 --data arc.jsonl --data g.jsonl --data data \
                --reference sft";
    sandbox.ok(&format!("{line} --out whole --quiet"));
    let path = |name: &str| sandbox.path(name).display().to_string();
    let config = |out: &str| EvalConfig {
        model: path("run"),
        task: vec![EvalTask::ArcEasy, EvalTask::Gsm8k, EvalTask::Preference],
        data: vec![path("arc.jsonl"), path("g.jsonl"), path("data")],
        reference: path("sft"),
        shots: 2,
        batch: 2,
        out: if out.is_empty() { String::new() } else { path(out) },
        ..EvalConfig::default()
    };
    let stopped = |out: &str, most: u64| {
        eval::run(&config(out), Seed(0), &StopsAfter::new(most)).expect_err("interrupted").to_string()
    };
    // Among the questions, then among the problems.
    let error = stopped("out", 1);
    assert!(error.contains("of 200 scores are kept"), "{error}");
    let first = error.split_whitespace().find_map(|word| word.parse::<u64>().ok()).expect("a number");
    assert_eq!(kept(&sandbox, "out").len(), 1);
    // A process that was killed while it wrote a line.
    let file = sandbox.path("out").join(&kept(&sandbox, "out")[0]);
    let cut = [std::fs::read(&file).expect("a file"), b"{\"place\":1".to_vec()].concat();
    std::fs::write(&file, cut).expect("written");
    let error = stopped("out", questions - first + 1);
    assert!(error.contains("of 8 answers are kept"), "{error}");
    let told = sandbox.ok(&format!("{line} --out out --json"));
    assert!(told.stderr.contains("200 of 200 scores are there already"), "{}", told.stderr);
    assert!(told.stderr.contains("of 8 answers are there already"), "{}", told.stderr);
    let (found, whole) = (sandbox.parquet("out/items.parquet"), sandbox.parquet("whole/items.parquet"));
    assert!(found.equals_missing(&whole), "{found}\n{whole}");
    assert_eq!(kept(&sandbox, "out"), Vec::<String>::new());
    // Results of other examples are not taken for these; without a folder nothing is kept.
    stopped("other", questions + 1);
    let told = sandbox.ok(&format!("{} --out other --json", line.replace("--shots 2", "--shots 1")));
    assert!(told.stderr.contains("200 of 200 scores") && !told.stderr.contains("answers are there"), "{}", told.stderr);
    let error = stopped("", 1);
    assert!(error.contains("interrupted; nothing was written"), "{error}");
}
