//! The cache of reference log-probabilities: who shares it, what is refused, what is made again.

use lpc_pipe::artifact;
use polars::prelude::*;

use crate::support::{Output, PROGRAM, Sandbox, columns, numbers};

const MARK: &str = "lpc_pipe.reference";
const TAKEN: &str = "taken from the cache";

fn train(out: &str) -> String {
    format!("train --data data --model tiny:32x1 --codes 3 --out {out} --max-steps 2 --seed 4")
}

fn caches(sandbox: &Sandbox) -> Vec<String> {
    let files = sandbox.files("data/reference");
    files.into_iter().filter(|f| f.ends_with(".parquet")).map(|f| format!("data/reference/{f}")).collect()
}

fn model(sandbox: &Sandbox, out: &str) -> Vec<u8> {
    sandbox.bytes(&format!("{out}/model/model.safetensors"))
}

#[test]
fn one_file_serves_all_who_would_compute_it() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let first = sandbox.ok(&train("a"));
    assert!(!first.stderr.contains(TAKEN), "{}", first.stderr);
    let files = caches(&sandbox);
    assert_eq!(files.len(), 1);
    let frame = sandbox.parquet(&files[0]);
    assert_eq!(columns(&frame), ["id", "ref_chosen_logps", "ref_rejected_logps"]);
    assert_eq!(frame.height(), 60);
    let written = sandbox.bytes(&files[0]);
    // Other codes, another objective, another place: the same reference.
    for other in ["--codes 5 --out b", "--objective ipo --latent none --out c", "--lr 1e-3 --out d"] {
        let line = format!("train --data data --model tiny:32x1 --max-steps 1 --seed 4 {other}");
        let told = sandbox.ok(&line).stderr;
        assert!(told.contains(TAKEN), "{other}: {told}");
    }
    assert!(caches(&sandbox) == files && sandbox.bytes(&files[0]) == written);
    // Another model (made from another seed) and other data have their own.
    sandbox.ok("train --data data --model tiny:32x1 --out e --max-steps 1 --seed 5 --quiet");
    assert_eq!(caches(&sandbox).len(), 2);
    // One that has none takes none.
    let told =
        sandbox.ok("train --data data --model tiny:32x1 --objective simpo --out f --max-steps 1 --seed 6").stderr;
    assert!(!told.contains("reference") && caches(&sandbox).len() == 2, "{told}");
}

#[test]
fn a_copied_head_has_the_reference_of_the_whole_model() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let line = "train --data data --model base/model --latent none --max-steps 1 --quiet";
    sandbox.ok("train --data data --model tiny:16x1 --objective sft --max-steps 1 --out base --quiet");
    assert_eq!(sandbox.json("base/model/config.json")["tie_word_embeddings"], true);
    sandbox.ok("score --data data --model base/model --out ref.parquet --quiet");
    sandbox.ok(&format!("{line} --tune head --reference ref.parquet --out head"));
    sandbox.ok(&format!("{line} --reference ref.parquet --out full"));
}

/// Changes values and leaves all else as it was, the file's own description too.
fn tampered(sandbox: &Sandbox, name: &str, change: impl Fn(&mut Vec<f64>)) {
    let path = sandbox.path(name);
    let mark = artifact::read_mark(&path, MARK).expect("a Parquet file").expect("a mark");
    let mut frame = artifact::read_parquet(&path).expect("a frame");
    let mut values = numbers(&frame, "ref_chosen_logps");
    change(&mut values);
    frame.with_column(Column::new("ref_chosen_logps".into(), values)).expect("a column");
    artifact::write_parquet_marked(&path, &mut frame, &[(MARK.to_string(), mark)]).expect("written");
}

#[test]
fn a_changed_file_is_told_of_and_made_again() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&train("straight"));
    let name = caches(&sandbox).remove(0);
    let sound = sandbox.bytes(&name);
    type Damage = fn(&Sandbox, &str);
    let damages: [(&str, Damage); 6] = [
        ("a value", |s, n| tampered(s, n, |v| v[3] += 1e-9)),
        ("not finite", |s, n| tampered(s, n, |v| v[3] = f64::NAN)),
        ("two rows", |s, n| tampered(s, n, |v| v.swap(0, 1))),
        ("cut", |s, n| {
            let bytes = s.bytes(n);
            std::fs::write(s.path(n), &bytes[..bytes.len() / 2]).expect("written");
        }),
        ("empty", |s, n| std::fs::write(s.path(n), b"").expect("written")),
        ("no mark", |s, n| {
            let path = s.path(n);
            let mut frame = artifact::read_parquet(&path).expect("a frame");
            artifact::write_parquet(&path, &mut frame).expect("written");
        }),
    ];
    for (what, damage) in damages {
        damage(&sandbox, &name);
        assert!(sandbox.bytes(&name) != sound, "{what}");
        let told = sandbox.ok(&train(what.split(' ').next().unwrap_or(what))).stderr;
        assert!(told.contains("warning: data/reference/") && told.contains("are computed again"), "{what}: {told}");
        assert!(!told.contains(TAKEN), "{what}: {told}");
        assert!(sandbox.bytes(&name) == sound, "{what}: the file is whole again");
        let out = what.split(' ').next().unwrap_or(what);
        assert!(model(&sandbox, out) == model(&sandbox, "straight"), "{what}");
        std::fs::remove_dir_all(sandbox.path(out)).expect("a run");
    }
    assert!(sandbox.ok(&train("at-last")).stderr.contains(TAKEN));
}

#[test]
fn two_at_once_compute_it_once() {
    let sandbox = Sandbox::new();
    sandbox.prepared(400);
    let outs = ["a", "b", "c"];
    let children = outs.map(|out| {
        let line = train(out);
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut command = sandbox.command(PROGRAM, &args);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("a child")
    });
    let ended: Vec<Output> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().expect("it ends");
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Output {
                code: output.status.code().unwrap_or(-1),
                stdout: text(output.stdout),
                stderr: text(output.stderr),
            }
        })
        .collect();
    assert!(ended.iter().all(|o| o.code == 0), "{ended:?}");
    let computed = ended.iter().filter(|o| o.stderr.contains("reference log-probabilities ...")).count();
    assert_eq!(computed, 1, "{ended:?}");
    assert_eq!(caches(&sandbox).len(), 1);
    assert!(outs.iter().all(|out| model(&sandbox, out) == model(&sandbox, "a")));
}

#[test]
fn what_score_wrote_is_taken_where_it_fits() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&train("own"));
    std::fs::remove_dir_all(sandbox.path("data/reference")).expect("the cache");
    sandbox.ok("score --data data --model tiny:32x1 --seed 4 --out given.parquet --quiet");
    let given = sandbox.parquet("given.parquet");
    assert_eq!(numbers(&given, "ref_chosen_logps"), numbers(&given, "logps_chosen"));
    sandbox.ok(&(train("given") + " --reference given.parquet"));
    assert!(caches(&sandbox).is_empty(), "nothing was computed");
    assert!(model(&sandbox, "given") == model(&sandbox, "own"));
    // Another model, other data, no such values, nothing at all.
    let refused = |line: &str, words: &str| {
        let told = sandbox.ends(3, line).stderr;
        assert!(told.contains(words), "{line}: {told}");
        told
    };
    let told = refused(&(train("x").replace("seed 4", "seed 5") + " --reference given.parquet"), "of another model");
    assert!(told.contains("hint: a file of --reference is what lpc-pipe score wrote"), "{told}");
    sandbox.ok("prepare --input raw --out other --test-fraction 0.25 --flip-rate 0.3 --quiet");
    let line = train("x").replace("--data data", "--data other") + " --reference given.parquet";
    refused(&line, "of another prepared data");
    refused(&(train("x") + " --reference data/pairs/train.parquet"), "holds no reference log-probabilities");
    refused(&(train("x") + " --reference nowhere.parquet"), "nowhere.parquet");
    sandbox.ends(2, &(train("x") + " --objective simpo --reference given.parquet"));
    // A model with codes is a reference without them.
    sandbox.ok("score --data data --model own/model --out coded.parquet --quiet");
    let coded = sandbox.parquet("coded.parquet");
    assert_ne!(numbers(&coded, "ref_chosen_logps"), numbers(&coded, "logps_chosen"));
    let line = "train --data data --model own/model --codes 3 --max-steps 1 --quiet --out";
    sandbox.ok(&format!("{line} from-coded --reference coded.parquet"));
    sandbox.ok(&format!("{line} from-itself"));
    assert!(model(&sandbox, "from-coded") == model(&sandbox, "from-itself"));
}

#[test]
fn another_model_can_be_the_reference() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let seed = "--seed 4 --quiet";
    sandbox
        .ok(&format!("train --data data --model tiny:32x1 --objective sft --max-steps 3 --lr 3e-3 --out sft {seed}"));
    sandbox.ok(&format!("train --data data --model sft --latent none --max-steps 4 --lr 3e-3 --out first {seed}"));
    sandbox.ok(&format!("score --data data --model sft --out sft.parquet {seed}"));
    let scores = sandbox.parquet("sft.parquet");
    let line = "train --data data --model first --latent none --batch 8 --max-steps 3 --seed 4 --precision f32";
    let told = sandbox.ok(&format!("{line} --reference sft --out second"));
    // The policy starts away from its reference, whose values are those that `score` gives, and are cached as such.
    let pairs = sandbox.parquet("second/posteriors.parquet");
    for name in ["ref_chosen_logps", "ref_rejected_logps"] {
        for (found, wanted) in numbers(&pairs, name).iter().zip(numbers(&scores, name)) {
            assert!((found - wanted).abs() < 1e-4, "{name}: {found} {wanted}");
        }
    }
    let margin = |out: &str| {
        let first = sandbox.text(&format!("{out}/metrics.jsonl")).lines().next().expect("a step").to_string();
        let step: serde_json::Value = serde_json::from_str(&first).expect("JSON");
        step["rewards/margins"].as_f64().expect("a number")
    };
    assert!(told.stderr.contains(TAKEN), "the first run had the same reference: {}", told.stderr);
    sandbox.ok(&format!("{line} --out alone --quiet"));
    assert!(margin("second").abs() > 1e-3 && margin("alone").abs() < 1e-6, "{} {}", margin("second"), margin("alone"));
    assert!(model(&sandbox, "second") != model(&sandbox, "alone"));
    // `eval` takes it by itself; a sweep and an audit repeat it.
    let eval = "eval --task preference --data data --json --quiet --model second";
    let own = sandbox.ok(eval).json();
    assert!(own["results"]["preference"]["reward"].as_str().expect("words").contains("sft"), "{own}");
    assert_eq!(own["results"]["preference"]["acc"], sandbox.json("second/summary.json")["eval_accuracy"]);
    sandbox.ok("audit --run second --out audit --folds 2 --set audit.repeats=1 --quiet");
    let recipe = "[prepare]\ninput = [\"raw\"]\ntokenizer = \"sft/model\"\n[train]\nmodel = \"first\"\nreference = \"sft\"\nmax_steps = 2\n\
                  [sweep]\nnoise_p = [0.0]\nlatent = [\"none\"]\nseeds = [1]\n";
    sandbox.write("sweep.toml", recipe);
    let sweep = "noise-sweep --config sweep.toml --out sweep --quiet";
    sandbox.ok(sweep);
    let cells = sandbox.files("sweep");
    let name = cells.iter().find(|name| name.ends_with("/metrics.jsonl")).expect("a cell");
    assert!(margin(&format!("sweep/{}", name.trim_end_matches("/metrics.jsonl"))).abs() > 1e-3);
    let refused = sandbox.ends(2, &format!("{sweep} --set train.reference=\"sft.parquet\"")).stderr;
    assert!(refused.contains("train.reference: a file of log-probabilities is of one prepared folder"), "{refused}");
    // The weights of the reference belong to the run.
    let stopped = line.replace("--max-steps 3", "--max-steps 2");
    sandbox.ok(&format!("{stopped} --reference sft --out again --quiet"));
    let refused = sandbox.ends(3, &format!("{line} --reference tiny:32x1 --resume --out again")).stderr;
    assert!(refused.contains("weights of the reference (--reference): not the same"), "{refused}");
    sandbox.ok(&format!("{line} --reference sft --resume --out again --quiet"));
    assert!(model(&sandbox, "again") == model(&sandbox, "second"));
    // Codes beside a reference are not read, which is told; other tokens are refused; nothing there is an error.
    sandbox.ok("train --data data --model first --reference sft --codes 3 --max-steps 1 --out coded --quiet");
    let told = sandbox.ok(&format!("{line} --reference coded --out third")).stderr;
    assert!(told.contains("warning: the reference has codes beside it"), "{told}");
    sandbox.ends(3, &format!("{line} --reference nowhere --out x"));
    let swap = |text: &str| text.replace("\"e\":", "\"@@\":").replace("\"a\":", "\"e\":").replace("\"@@\":", "\"a\":");
    let changed = swap(&sandbox.text("sft/model/tokenizer.json"));
    sandbox.write("sft/model/tokenizer.json", changed);
    let refused = sandbox.ends(3, &format!("{line} --reference sft --out x")).stderr;
    assert!(refused.contains("hint: the model that is meant is the reference, sft"), "{refused}");
    let refused = sandbox.ends(3, &format!("{line} --reference sft --out x --dry-run")).stderr;
    assert!(refused.contains("hint: the model that is meant is the reference, sft"), "{refused}");
}
