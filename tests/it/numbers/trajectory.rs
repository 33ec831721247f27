//! Fifty steps of training beside TRL's, step by step; see `tests/fixtures/trajectory/record.py`.

use std::path::{Path, PathBuf};

use lpc_pipe::batch::read_splits;
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::source::ModelSource;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::step_plan::{Feed, StepPlan};
use lpc_pipe::weights::folder;
use lpc_pipe::weights::load::load;
use serde_json::{Value, json};

use crate::numbers::parity::{flat, ids, list, text};
use crate::support::Sandbox;

/// Seed of weights and order.
const SEED: u64 = 3;
/// Starting model.
const MODEL: &str = "tiny:64x2";
/// Pairs of a step; the last step of an epoch has two.
const BATCH: usize = 4;
/// Seven epochs of seven steps, and one step.
const EPOCHS: &str = "7.1538";
const STEPS: usize = 50;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trajectory")
}

/// The committed pairs, prepared in `data/`, all of them for training.
fn prepared() -> (Sandbox, Vec<TokenRow>) {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", std::fs::read(fixtures().join("pairs.jsonl")).unwrap());
    sandbox.ok("prepare --input pairs.jsonl --out data --test-fraction 0 --quiet");
    let rows = read_splits(&sandbox.path("data")).unwrap().remove(0).rows;
    (sandbox, rows)
}

/// Rows of every step, as training draws them.
fn steps(rows: &[TokenRow]) -> Vec<Vec<usize>> {
    let plan = StepPlan::new(rows.len(), BATCH, 0.0, EPOCHS.parse().unwrap(), 0);
    assert_eq!((plan.horizon, plan.steps), (STEPS, STEPS));
    let mut feed = Feed::new(rows, None, plan, Seed(SEED));
    (0..STEPS).map(|step| feed.step(step)).collect()
}

fn of(row: &TokenRow) -> Value {
    let ids = |ids: &[u32]| json!(ids);
    let (prompt, chosen, rejected) = (ids(&row.prompt_ids), ids(&row.chosen_ids), ids(&row.rejected_ids));
    json!({"id": row.id.as_str(), "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
}

/// Writes what the recorder reads (the starting model as a Hugging Face folder, the rows, the rows of each step) into
/// the folder that LPC_PIPE_TRAJECTORY names, else into a temporary one.
#[test]
#[ignore = "writes the input of tests/fixtures/trajectory/record.py; `just trajectory` runs it"]
fn inputs_for_the_recorder() {
    let temporary = tempfile::tempdir().unwrap();
    let out = std::env::var_os("LPC_PIPE_TRAJECTORY").map_or_else(|| temporary.path().into(), PathBuf::from);
    let (sandbox, rows) = prepared();
    let vocabulary = lpc_pipe::tokenize::ModelTokenizer::open(&sandbox.path("data/tokenizer")).unwrap().vocab_size();
    let loaded = load::<f32>(&ModelSource::resolve(MODEL, &Silent).unwrap(), vocabulary, Seed(SEED)).unwrap();
    folder::save(&out.join("model"), &loaded.config, loaded.params.iter()).unwrap();
    std::fs::create_dir_all(out.join("tokenizer")).unwrap();
    for file in std::fs::read_dir(sandbox.path("data/tokenizer")).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, out.join("tokenizer").join(file.file_name().unwrap())).unwrap();
    }
    let inputs = json!({
        "model": MODEL, "seed": SEED, "epochs": EPOCHS, "batch": BATCH,
        "rows": rows.iter().map(of).collect::<Vec<Value>>(),
        "steps": steps(&rows),
    });
    std::fs::write(out.join("inputs.json"), inputs.to_string()).unwrap();
    let saved = load::<f32>(&ModelSource::Folder(out.join("model")), vocabulary, Seed(SEED)).unwrap();
    assert_eq!(saved.config, loaded.config);
}

/// Asserts that every step's number agrees: relative to what was recorded, or to `least` where that is smaller.
#[track_caller]
fn follow(what: &str, got: &[f64], wanted: &[f64], tolerance: f64, least: f64) {
    assert_eq!((got.len(), wanted.len()), (STEPS, STEPS), "{what}");
    let errors: Vec<f64> = got.iter().zip(wanted).map(|(g, w)| (g - w).abs() / w.abs().max(least)).collect();
    let worst = errors.iter().copied().fold(0.0, f64::max);
    eprintln!("{what}: largest relative difference {worst:.1e}");
    for (step, (error, (got, wanted))) in errors.iter().zip(got.iter().zip(wanted)).enumerate() {
        assert!(*error < tolerance, "{what}, step {}: {got} here, {wanted} there: {error:e}", step + 1);
    }
}

#[test]
fn fifty_steps_follow_trl() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(fixtures().join("trl.json")).unwrap()).unwrap();
    let (sandbox, rows) = prepared();
    let again = "`just trajectory` records it anew where that is meant";
    assert_eq!(list(&recorded["rows"]), &rows.iter().map(of).collect::<Vec<Value>>(), "other tokens: {again}");
    let order: Vec<Vec<usize>> =
        list(&recorded["steps"]).iter().map(|s| ids(s).into_iter().map(|i| i as usize).collect()).collect();
    assert_eq!(order, steps(&rows), "another order: {again}");
    for case in list(&recorded["cases"]) {
        let name = text(&case["objective"]);
        let number = |key: &str| case[key].as_f64().unwrap();
        let smoothing = match number("label_smoothing") {
            0.0 => String::new(),
            e => format!("--set train.objective.label_smoothing={e}"),
        };
        sandbox.ok(&format!(
            "train --data data --model {MODEL} --out {name} --objective {name} --latent none --seed {SEED} --batch \
             {BATCH} --epochs {EPOCHS} --lr {} --beta {} {smoothing} --set train.lr_schedule={} --set train.warmup=0 \
             --set train.clip={} --set train.weight_decay=0 --precision f32 --quiet",
            number("lr"),
            number("beta"),
            text(&case["schedule"]),
            number("clip"),
        ));
        let metrics = sandbox.text(&format!("{name}/metrics.jsonl"));
        let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let lines: Vec<&Value> = lines.iter().filter(|l| l.get("loss").is_some()).collect();
        let got = |key: &str| -> Vec<f64> { lines.iter().map(|l| l[key].as_f64().unwrap()).collect() };
        let wanted = |key: &str| flat(&case["metrics"][key]);
        let compare = |key: &str, tolerance: f64, least: f64| {
            follow(&format!("{name} {key}"), &got(key), &wanted(key), tolerance, least);
        };
        compare("loss", 1e-3, 0.0);
        compare("learning_rate", 1e-9, 0.0);
        compare("grad_norm", 1e-2, 0.0);
        compare("logps/chosen", 1e-3, 0.0);
        compare("logps/rejected", 1e-3, 0.0);
        if name != "ipo" {
            // Rewards begin at zero.
            compare("rewards/chosen", 1e-3, 1.0);
            compare("rewards/rejected", 1e-3, 1.0);
            compare("rewards/margins", 1e-3, 1.0);
            compare("rewards/accuracies", 1e-9, 1.0);
        }
        // A run that stands still would prove nothing.
        let losses = got("loss");
        assert!(losses[STEPS - 7..].iter().sum::<f64>() / 7.0 < 0.7 * losses[..7].iter().sum::<f64>() / 7.0, "{name}");
    }
}
