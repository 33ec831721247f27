//! Sweep folders, and the demo, which ends with one.

use std::collections::BTreeSet;

use super::manifest_holds;
use super::run::POSTERIORS;
use crate::support::{Sandbox, columns, numbers, texts};

const RESULTS: [&str; 26] = [
    "objective",
    "latent",
    "codes",
    "noise_kind",
    "noise_p",
    "marked",
    "seed",
    "noise_seed",
    "eval_accuracy",
    "n_eval",
    "audit_auroc",
    "codes_used",
    "code_perplexity",
    "train_seconds",
    "status",
    "eval_accuracy_low",
    "eval_accuracy_high",
    "noise_share",
    "inference",
    "kl_weight",
    "temperature",
    "g",
    "group",
    "prompt_layer",
    "model",
    "settings",
];

const SWEEP: &str = r#"
seed = 1
[prepare]
input = ["raw"]
[prepare.pairs]
test_fraction = 0.25
[train]
model = "tiny:16x1"
batch = 16
max_steps = 2
[sweep]
noise_p = [0.0, 0.2]
latent = ["none", "lpc"]
seeds = [1]
"#;

#[test]
fn a_sweep_has_one_row_for_each_cell_and_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    sandbox.synth(80);
    sandbox.write("sweep.toml", SWEEP);
    let first = sandbox.ok("noise-sweep --config sweep.toml --out sweep --json").json();
    assert_eq!((&first["cells_run"], &first["cells_reused"]), (&4.into(), &0.into()));
    let results = sandbox.parquet("sweep/results.parquet");
    assert_eq!(columns(&results), RESULTS);
    assert_eq!(texts(&results, "latent"), ["none", "lpc", "none", "lpc"]);
    assert_eq!(numbers(&results, "noise_p"), [0.0, 0.0, 0.2, 0.2]);
    assert_eq!(texts(&results, "status"), ["ok"; 4]);
    assert!(numbers(&results, "eval_accuracy").iter().all(|a| (0.0..=1.0).contains(a)));
    assert_eq!(
        numbers(&results, "codes_used").iter().map(|c| c.is_nan()).collect::<Vec<_>>(),
        [true, false, true, false]
    );
    assert_eq!(
        numbers(&results, "audit_auroc").iter().map(|a| a.is_nan()).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    let summary = sandbox.parquet("sweep/summary.parquet");
    assert_eq!(summary.height(), 4);
    assert!(
        sandbox.text("sweep/report.html").ends_with("</html>\n")
            || sandbox.text("sweep/report.html").contains("</html>")
    );
    manifest_holds(&sandbox, "sweep", &["results.parquet", "summary.parquet", "curves.parquet"]);
    let cells: BTreeSet<String> =
        sandbox.files("sweep/cells").iter().filter_map(|f| f.split('/').next().map(String::from)).collect();
    assert_eq!(cells.len(), 4, "{cells:?}");
    for cell in &cells {
        assert!(sandbox.exists(&format!("sweep/cells/{cell}/posteriors.parquet")), "{cell}");
    }
    // Again: nothing is run, nothing changes.
    let stamps = |sandbox: &Sandbox| -> Vec<Vec<u8>> {
        cells.iter().map(|c| sandbox.bytes(&format!("sweep/cells/{c}/manifest.json"))).collect()
    };
    let (before, table) = (stamps(&sandbox), sandbox.bytes("sweep/results.parquet"));
    let again = sandbox.ok("noise-sweep --config sweep.toml --out sweep --json").json();
    assert_eq!((&again["cells_run"], &again["cells_reused"]), (&0.into(), &4.into()));
    assert!(before == stamps(&sandbox) && table == sandbox.bytes("sweep/results.parquet"));
    // A larger grid runs the new cells only; other settings are refused.
    let more = sandbox.ok("noise-sweep --config sweep.toml --out sweep --set sweep.seeds=[1,2] --jobs 2 --json").json();
    assert_eq!((&more["cells_run"], &more["cells_reused"]), (&4.into(), &4.into()));
    let other = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --set train.lr=0.5");
    assert!(other.stderr.contains("train.lr: the sweep in this folder was begun with"), "{}", other.stderr);
    // Whatever a cell was made from: another seed, other rows.
    let table = sandbox.bytes("sweep/results.parquet");
    let other = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --seed 9");
    let said = "seed: the sweep in this folder was begun with ";
    assert!(other.stderr.contains(said), "{}", other.stderr);
    let rows = sandbox.text("raw/corpus.jsonl");
    sandbox.write("raw/corpus.jsonl", rows.replacen("\"source\":\"", "\"source\":\"x", 1));
    let other = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep");
    let said = "content of input raw/corpus.jsonl: the sweep in this folder was begun with ";
    assert!(other.stderr.contains(said), "{}", other.stderr);
    assert!(table == sandbox.bytes("sweep/results.parquet"));
    sandbox.write("raw/corpus.jsonl", rows);
    let same = sandbox.ok("noise-sweep --config sweep.toml --out sweep --set sweep.seeds=[1,2] --json").json();
    assert_eq!((&same["cells_run"], &same["cells_reused"]), (&0.into(), &8.into()));
}

#[test]
fn a_failed_cell_is_told_and_does_not_stop_the_others() {
    let sandbox = Sandbox::new();
    sandbox.synth(80);
    sandbox.write("sweep.toml", SWEEP);
    // A file where a run folder should be.
    let cell = "sweep/cells/dpo-none-uniform-0.2-s1";
    sandbox.write(cell, "in the way");
    let output = sandbox.ends(1, "noise-sweep --config sweep.toml --out sweep --json");
    let statuses = |sandbox: &Sandbox| texts(&sandbox.parquet("sweep/results.parquet"), "status");
    let failed = statuses(&sandbox);
    assert_eq!(failed.iter().filter(|s| *s == "ok").count(), 3, "{failed:?}");
    assert!(failed[2].starts_with("failed: "), "{failed:?}");
    assert!(output.stderr.contains("1 of 4 cells failed\n  dpo-none-uniform-0.2-s1: failed: "), "{}", output.stderr);
    assert_eq!(output.json()["results"].as_array().map(Vec::len), Some(4));
    // The way is free: only the failed cell is run.
    std::fs::remove_file(sandbox.path(cell)).expect("the file in the way");
    let again = sandbox.ok("noise-sweep --config sweep.toml --out sweep --json").json();
    assert_eq!((&again["cells_run"], &again["cells_reused"]), (&1.into(), &3.into()));
    assert_eq!(statuses(&sandbox), ["ok"; 4]);
}

#[test]
fn a_sweep_refuses_what_would_fail_in_every_cell() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    sandbox.write("sweep.toml", SWEEP);
    let output =
        sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --set sweep.noise_p=[2] --set train.batch=0");
    for said in ["sweep.noise_p: 2", "train.batch: expected at least 1"] {
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
    }
    let output = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --set train.objective.name=\"ipo\"");
    assert!(output.stderr.contains("use sweep.objective, which lacks ipo"), "{}", output.stderr);
    let output = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --set sweep.objective=[\"dpo\",\"dop\"]");
    let said = "sweep.objective: unknown value `dop`; expected one of: dpo, cdpo";
    assert!(output.stderr.contains(said) && output.stderr.contains("did you mean `dpo`?"), "{}", output.stderr);
    assert!(!sandbox.exists("sweep"));
}

/// What a demo leaves, whatever its size.
fn demo_is_complete(sandbox: &Sandbox, summary: &serde_json::Value) {
    assert_eq!(summary["reports"].as_array().map(Vec::len), Some(3));
    for run in ["dpo", "lpc-dpo"] {
        assert_eq!(columns(&sandbox.parquet(&format!("demo/{run}/posteriors.parquet"))), POSTERIORS);
        assert!(sandbox.exists(&format!("demo/{run}/report.html")));
    }
    let results = sandbox.parquet("demo/sweep/results.parquet");
    assert_eq!(columns(&results), RESULTS);
    assert!(texts(&results, "status").iter().all(|s| s == "ok"));
    assert_eq!(sandbox.json("demo/demo.json")["out"], "demo");
}

#[test]
fn a_small_demo() {
    let sandbox = Sandbox::new();
    let epochs = "--set demo.epochs=0.3 --set demo.sft_epochs=0.1";
    let size = &format!("--set demo.rows=60 {epochs}");
    let summary = sandbox.ok(&format!("demo --out demo {size} --json")).json();
    demo_is_complete(&sandbox, &summary);
    // Another seed or other data are refused before anything of it is written over.
    let all = |sandbox: &Sandbox| -> Vec<(String, Vec<u8>)> {
        sandbox.files("demo").into_iter().map(|name| (name.clone(), sandbox.bytes(&format!("demo/{name}")))).collect()
    };
    let before = all(&sandbox);
    for (other, said) in [
        ("demo.rows=60 --out demo --seed 9", "seed (--seed): 0 before, 9 now"),
        ("demo.rows=70 --out demo", "demo.rows: 60 before, 70 now"),
        (
            "demo.rows=60 --out demo --set prepare.pairs.test_fraction=0.3",
            "prepare.pairs.test_fraction: 0.1 before, 0.3 now",
        ),
        ("demo.rows=60 --out ./demo", "folder of the corpus (--out): \"demo/corpus\" before, \"./demo/corpus\" now"),
    ] {
        let refused = sandbox.ends(3, &format!("demo {epochs} --set {other}"));
        let told = refused.stderr.contains("holds another demo; what differs:") && refused.stderr.contains(said);
        assert!(told, "{other}: {}", refused.stderr);
        assert!(all(&sandbox) == before, "{other}: files have changed");
    }
    // The same goes on.
    let again = sandbox.ok(&format!("demo --out demo {size} --json")).json();
    assert_eq!((&again["dpo"], &again["sweep"]), (&summary["dpo"], &summary["sweep"]));
    // What a step would refuse is refused before the first.
    let refused = sandbox.ends(2, &format!("demo --out other {size} --set prepare.noise.flip_rate=0.2"));
    assert!(refused.stderr.contains("prepare.noise.flip_rate: has no effect in a sweep"), "{}", refused.stderr);
    assert!(!sandbox.exists("other"));
}

#[test]
#[ignore = "trains some dozen models for minutes; `just test-slow the_whole_demo` runs it"]
fn the_whole_demo() {
    let sandbox = Sandbox::new();
    let summary = sandbox.ok("demo --out demo --json").json();
    demo_is_complete(&sandbox, &summary);
    assert!(summary["lpc"]["eval_accuracy"].as_f64().is_some_and(|a| a > 0.55), "{}", summary["lpc"]);
}
