//! `generate`: answers of every kind of model, with the prior's codes and with one.

use std::collections::BTreeSet;

use lpc_pipe::seed::Seed;
use serde_json::Value;

use crate::support::{Output, Sandbox, StopsAfter};

/// A run with codes in `run`, over the corpus of `data`.
fn trained(rest: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&format!("train --data data --out run --batch 8 --max-steps 6 --codes 3 --quiet {rest}"));
    sandbox
}

const WHOLE: &str = "--model tiny:32x1 --lr 3e-3 --set train.lpc.code_lr=2.0";

fn answers(output: &Output) -> Vec<Value> {
    output.json()["answers"].as_array().expect("answers").clone()
}

fn lines(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    sandbox.text(name).lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

#[test]
fn every_kind_of_model_answers() {
    let sandbox = trained(WHOLE);
    let adapter = "train --data data --model run/model --tune lora --latent none --batch 8 --max-steps 3 --lr 1e-2";
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 6 --lr 3e-3 --out sft --quiet");
    sandbox.ok(&format!("{} --out lora --quiet", adapter.replace("run/model", "sft/model")));
    sandbox.ok("train --data data --model sft/model --tune latent --codes 3 --epochs 1 --out latent --quiet");
    sandbox.ok("export --run lora --out whole --quiet");
    let ask = |model: &str| {
        let command = format!("generate --model {model} --prompt Which? --max-new-tokens 12 --json --quiet");
        answers(&sandbox.ok(&command))[0].clone()
    };
    // A run folder is the model in it; an adapter is that model merged; a model without codes has no prior.
    let names = |model: &str| {
        let mut answer = ask(model);
        answer.as_object_mut().expect("an object").remove("generator");
        answer
    };
    assert_eq!(names("run"), names("run/model"));
    assert_eq!(names("lora"), names("whole"));
    assert_eq!(ask("sft")["prior"], Value::Array(Vec::new()));
    for model in ["run", "latent"] {
        let prior: f64 = ask(model)["prior"].as_array().expect("a prior").iter().filter_map(Value::as_f64).sum();
        assert!((prior - 1.0).abs() < 1e-5, "{model}: {prior}");
    }
    assert_eq!(ask("latent")["generator"], "latent");
    // A model made from the seed has no tokenizer.
    let refused = sandbox.ends(3, "generate --model tiny --prompt x");
    assert!(refused.stderr.contains("has no tokenizer of its own"), "{}", refused.stderr);
    sandbox.ok("generate --model tiny --tokenizer data/tokenizer --prompt x --max-new-tokens 2");
}

#[test]
fn a_file_of_prompts_becomes_a_file_of_answers() {
    let sandbox = trained(WHOLE);
    sandbox.write(
        "prompts.jsonl",
        "{\"instruction\": \"Which?\"}\n{\"prompt\": [{\"role\": \"user\", \"content\": \"And?\"}]}\n",
    );
    let command = "generate --model run --prompts prompts.jsonl --max-new-tokens 9 --quiet --generator mine";
    let told = sandbox.ok(&format!("{command} --out out.jsonl --json")).json();
    let rows = lines(&sandbox, "out.jsonl");
    assert_eq!((rows.len(), told["completions"].as_u64()), (2, Some(2)));
    assert_eq!(told["answers"], Value::Array(Vec::new()));
    let keys: Vec<&str> = rows[0].as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted = ["instruction", "output", "generator", "prompt_id", "tokens", "finish", "code", "prior"];
    assert_eq!(keys, wanted);
    assert_eq!((&rows[0]["instruction"], &rows[1]["instruction"]), (&"Which?".into(), &"And?".into()));
    assert_eq!((&rows[0]["generator"], &rows[0]["code"]), (&"mine".into(), &Value::Null));
    let tokens: u64 = rows.iter().filter_map(|r| r["tokens"].as_u64()).sum();
    assert_eq!(told["tokens"].as_u64(), Some(tokens));
    // What is there is not replaced.
    let refused = sandbox.ends(3, &format!("{command} --out out.jsonl"));
    assert!(refused.stderr.contains("out.jsonl: is there already"), "{}", refused.stderr);
    // Every code beside the prior, and each as if it were asked for alone.
    sandbox.ok(&format!("{command} --all-codes --out all.jsonl"));
    let all = lines(&sandbox, "all.jsonl");
    assert_eq!(all.iter().map(|r| r["code"].as_u64()).collect::<Vec<_>>(), [None, Some(0), Some(1), Some(2)].repeat(2));
    assert_eq!(all[1]["generator"], "mine#code-0");
    for code in 0..3 {
        sandbox.ok(&format!("{command} --code {code} --out code-{code}.jsonl"));
        assert_eq!(lines(&sandbox, &format!("code-{code}.jsonl"))[0], all[1 + code]);
    }
    assert_eq!(rows[0], all[0]);
    let said: BTreeSet<&str> = all.iter().filter_map(|r| r["output"].as_str()).collect();
    assert!(said.len() > 2, "codes say the same: {said:?}");
    let shown = sandbox.ok("generate --model run --prompt Which? --max-new-tokens 9 --all-codes --quiet").stdout;
    for part in ["> Which?", "[the prior: code ", "[code 0, 0.", "[code 2, 0."] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
}

#[test]
fn samples_depend_on_the_seed_and_not_on_the_batch() {
    let sandbox = trained(WHOLE);
    let prompts: String = (0..7).map(|i| format!("Question {i}, with {} words?\n", "many ".repeat(i))).collect();
    sandbox.write("prompts.txt", prompts);
    let of = |rest: &str| {
        let command = "generate --model run --prompts prompts.txt --temperature 1.3 --top-p 0.9 --json --quiet";
        answers(&sandbox.ok(&format!("{command} --max-new-tokens 10 {rest}")))
    };
    let first = of("--seed 1 --batch 1");
    assert_eq!(first, of("--seed 1 --batch 3"));
    assert_eq!(first, of("--seed 1 --batch 100 --threads 1"));
    assert_ne!(first, of("--seed 2"));
}

#[test]
fn a_stopped_command_goes_on_with_the_answers_that_are_missing() {
    let sandbox = trained(WHOLE);
    let prompts: String = (0..9).map(|i| format!("Question {i}?\n")).collect();
    sandbox.write("prompts.txt", prompts);
    let command = "generate --model run --prompts prompts.txt --temperature 1 --max-new-tokens 12 --batch 2";
    sandbox.ok(&format!("{command} --out whole.jsonl --quiet"));
    // What a killed process leaves: the first line says whose answers these are, the last one may be cut.
    let path = |name: &str| sandbox.path(name).display().to_string();
    let config = lpc_pipe::pipeline::recipe::GenerateConfig {
        model: path("run"),
        prompts: path("prompts.txt"),
        out: path("out.jsonl"),
        temperature: 1.0,
        max_new_tokens: 12,
        batch: 2,
        ..Default::default()
    };
    let stop = StopsAfter::new(4);
    let error = lpc_pipe::pipeline::generate::run(&config, Seed(0), &stop).unwrap_err().to_string();
    assert!(error.contains("of 9 answers are kept"), "{error}");
    assert!(!sandbox.path("out.jsonl").exists());
    let part = sandbox.path(".out.jsonl.part");
    let cut = std::fs::read_to_string(&part).unwrap() + "{\"request\": 8, \"ids\": [1";
    std::fs::write(&part, cut).unwrap();
    // Answers of other settings are not mixed in, and it is told that they are gone.
    std::fs::copy(&part, sandbox.path(".other.jsonl.part")).unwrap();
    let other =
        sandbox.ok(&format!("{} --out other.jsonl --json", command.replace("--temperature 1", "--temperature 2")));
    assert!(other.stderr.contains("other model, prompts or settings were dropped"), "{}", other.stderr);
    // Another batch changes no answer.
    let told = sandbox.ok(&format!("{} --out out.jsonl --json", command.replace("--batch 2", "--batch 5")));
    assert!(told.stderr.contains("of 9 answers are there already"), "{}", told.stderr);
    assert!(!told.stderr.contains("dropped"), "{}", told.stderr);
    let same = |name: &str| -> Vec<Value> {
        let mut rows = lines(&sandbox, name);
        rows.iter_mut().for_each(|row| row["generator"] = Value::Null);
        rows
    };
    assert_eq!(same("out.jsonl"), same("whole.jsonl"));
    assert!(!part.exists());
    assert_eq!(told.json()["completions"], 9);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let sandbox = trained(WHOLE);
    for (code, rest, said) in [
        (2, "--code 3", "flag --code: generate.code: code 3: the model has 3, 0 to 2"),
        (2, "--top-p 0.5", "generate.top_p: has no effect without a temperature above 0"),
        (2, "--top-p 0 --temperature 1", "expected a share above 0, up to 1, got 0"),
        (2, "--temperature -1", "expected 0 or more, got -1"),
        (2, "--code 1 --all-codes", "generate.code: has no effect without all_codes = false"),
        (2, "--raw --template zephyr", "generate.template: has no effect without raw = false"),
        (2, "--max-new-tokens 5000", "the model was made for 4096 together"),
        (3, "--prompts none.jsonl", "no such file or folder"),
        (3, "--out run/model/new.jsonl", "which `train` wrote"),
    ] {
        let refused = sandbox.ends(code, &format!("generate --model run --prompt x {rest}"));
        assert!(refused.stderr.contains(said), "{rest}: {}", refused.stderr);
    }
    let missing = sandbox.ends(2, "generate").stderr;
    assert!(missing.contains("generate.model: missing") && missing.contains("generate.prompt: missing"), "{missing}");
    sandbox.ok("train --data data --model tiny:16x1 --latent none --max-steps 1 --out plain --quiet");
    for (rest, said) in
        [("--code 0", "generate.code: the model has no codes"), ("--all-codes", "the model has no codes")]
    {
        let refused = sandbox.ends(2, &format!("generate --model plain --prompt x {rest}"));
        assert!(refused.stderr.contains(said), "{rest}: {}", refused.stderr);
    }
    sandbox.write("prompts.jsonl", "{\"prompt\": \"x\"}\n{\"text\": \"y\"}\n");
    let refused = sandbox.ends(3, "generate --model plain --prompts prompts.jsonl");
    assert!(refused.stderr.contains("prompts.jsonl: line 2: no prompt"), "{}", refused.stderr);
}

/// With a large code its raised tokens fill the answer: `--code K` takes the code that `codes.parquet` describes.
#[test]
fn a_forced_code_says_its_top_tokens() {
    let sandbox = trained("--model tiny:16x1 --lr 1e-4 --set train.lpc.code_lr=30");
    let codes = sandbox.parquet("run/codes.parquet");
    let top = codes.column("top_tokens").expect("tokens").list().expect("lists");
    assert_eq!(top.len(), 3);
    for code in 0..3 {
        let tokens = top.get_as_series(code).expect("a list");
        let first = tokens.str().expect("texts").get(0).expect("a token").trim().to_string();
        let command = format!("generate --model run --prompt Which? --max-new-tokens 6 --json --quiet --code {code}");
        let output = answers(&sandbox.ok(&command))[0]["output"].as_str().expect("text").to_string();
        assert!(!first.is_empty() && output.contains(&first), "code {code}: {output:?} has no {first:?}");
    }
}
