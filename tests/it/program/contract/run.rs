//! Run folders and scores.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{manifest_holds, pairs};
use crate::support::{Sandbox, columns, flags, lists, numbers, schema, texts};

/// Columns of `posteriors.parquet`, in order.
pub const POSTERIORS: [&str; 23] = [
    "id",
    "prompt_id",
    "source",
    "split",
    "flipped",
    "noise_kind",
    "noise_p",
    "prior",
    "posterior",
    "prior_code",
    "posterior_code",
    "kl",
    "prior_entropy",
    "posterior_entropy",
    "logps_chosen",
    "logps_rejected",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "margin",
    "margin_posterior",
    "n_chosen",
    "n_rejected",
    "code_margins",
];

#[test]
fn a_run_folder_is_complete() {
    let sandbox = Sandbox::new();
    sandbox.prepared(80);
    let printed = sandbox
        .ok("train --data data --out run --model tiny:16x1 --codes 4 --batch 4 --accumulate 2 --max-steps 4 \
             --lr 1e-3 --set train.checkpoint_every=2 --set train.eval_every=2 --json")
        .json();
    assert_eq!(printed, sandbox.json("run/summary.json"));
    manifest_holds(&sandbox, "run", &["config.toml", "summary.json", "posteriors.parquet", "codes.parquet"]);
    for file in ["model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/lpc_config.json"] {
        assert!(sandbox.exists(&format!("run/{file}")), "{file}");
    }
    assert!(sandbox.exists("run/model/lpc_model.safetensors"));
    assert!(!sandbox.files("run/tb").is_empty(), "TensorBoard's events");
    let checkpoints = sandbox.files("run/checkpoints");
    assert!(checkpoints.iter().all(|f| f.starts_with("step-00000")) && !checkpoints.is_empty(), "{checkpoints:?}");

    let frame = sandbox.parquet("run/posteriors.parquet");
    assert_eq!(columns(&frame), POSTERIORS);
    insta::assert_snapshot!(schema(&frame.select(["prior", "prior_code", "kl", "margin", "n_chosen"]).expect("columns")), @r"
    prior: list[f32]
    prior_code: u32
    kl: f64
    margin: f64
    n_chosen: u32
    ");
    let prepared = pairs(&sandbox, "data");
    assert_eq!(texts(&frame, "id"), texts(&prepared, "id"), "one row for each example of every split");
    for column in ["prompt_id", "source", "split", "noise_kind"] {
        assert_eq!(texts(&frame, column), texts(&prepared, column), "{column}");
    }
    assert_eq!(flags(&frame, "flipped"), flags(&prepared, "flipped"));
    for (weights, code, entropy) in
        [("prior", "prior_code", "prior_entropy"), ("posterior", "posterior_code", "posterior_entropy")]
    {
        let codes = numbers(&frame, code);
        let entropies = numbers(&frame, entropy);
        for (i, row) in lists(&frame, weights).iter().enumerate() {
            assert_eq!(row.len(), 4);
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5 && row.iter().all(|w| *w >= 0.0), "{row:?}");
            let most = row.iter().fold(0.0f64, |a, b| a.max(*b));
            assert_eq!(row[codes[i] as usize], most, "{code}");
            let entropy: f64 = row.iter().filter(|w| **w > 0.0).map(|w| -w * w.ln()).sum();
            assert!((entropy - entropies[i]).abs() < 1e-4, "{entropy} {}", entropies[i]);
        }
    }
    let (priors, posteriors, kl) = (lists(&frame, "prior"), lists(&frame, "posterior"), numbers(&frame, "kl"));
    for ((p, q), kl) in priors.iter().zip(&posteriors).zip(kl) {
        let by_hand: f64 = q.iter().zip(p).map(|(q, p)| q * (q / p).ln()).sum();
        assert!((by_hand - kl).abs() < 1e-4, "KL(q || p): {by_hand} {kl}");
    }
    // The implicit reward, from the columns themselves; beta is 0.1.
    let of = |name: &str| numbers(&frame, name);
    let (c, r, rc, rr) = (of("logps_chosen"), of("logps_rejected"), of("ref_chosen_logps"), of("ref_rejected_logps"));
    for (i, margin) in of("margin").iter().enumerate() {
        assert!((0.1 * ((c[i] - rc[i]) - (r[i] - rr[i])) - margin).abs() < 1e-6);
        assert!(c[i] < 0.0 && rc[i] < 0.0, "log-probabilities are negative");
    }

    let codes = sandbox.parquet("run/codes.parquet");
    let names = columns(&codes);
    assert_eq!(names[..6], ["code", "usage_prior", "usage_posterior", "top_tokens", "bottom_tokens", "norm"]);
    let sources: BTreeSet<String> = texts(&frame, "source").into_iter().collect();
    for source in &sources {
        assert!(names.contains(&format!("usage_prior/{source}")), "{names:?}");
        assert!(names.contains(&format!("usage_posterior/{source}")), "{names:?}");
    }
    assert_eq!(numbers(&codes, "code"), [0.0, 1.0, 2.0, 3.0]);
    for usage in ["usage_prior", "usage_posterior"] {
        assert!((numbers(&codes, usage).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    let summary = sandbox.json("run/summary.json");
    for key in [
        "eval_accuracy",
        "eval_accuracy_low",
        "eval_accuracy_high",
        "n_eval",
        "steps",
        "pairs_per_s",
        "peak_rss_mb",
        "codes_used",
        "code_perplexity",
    ] {
        assert!(summary[key].is_number(), "{key}: {summary}");
    }
    assert_eq!(summary["steps"], 4);
    // Accuracy against the clean labels, again from the columns.
    let (margins, flipped, splits) = (of("margin"), flags(&frame, "flipped"), texts(&frame, "split"));
    let test: Vec<usize> = (0..frame.height()).filter(|i| splits[*i] == "test").collect();
    let right = test.iter().filter(|i| if flipped[**i] { margins[**i] < 0.0 } else { margins[**i] > 0.0 }).count();
    assert_eq!(summary["n_eval"], test.len());
    assert!((summary["eval_accuracy"].as_f64().expect("a share") - right as f64 / test.len() as f64).abs() < 1e-12);
    let by_source = summary["by_source"].as_array().expect("by source");
    assert_eq!(by_source.iter().filter_map(|s| s["n"].as_u64()).sum::<u64>(), test.len() as u64);
}

#[test]
fn metrics_have_the_names_of_the_field() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 4 --batch 8 --max-steps 3 --quiet");
    let lines: Vec<BTreeMap<String, Value>> = sandbox
        .text("run/metrics.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}")))
        .collect();
    let steps: Vec<_> = lines.iter().filter(|l| l.contains_key("loss")).collect();
    assert_eq!(steps.iter().filter_map(|l| l["step"].as_u64()).collect::<Vec<_>>(), [1, 2, 3]);
    let wanted = [
        "loss",
        "learning_rate",
        "grad_norm",
        "epoch",
        "num_tokens",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "lpc/kl",
        "lpc/kl_weight",
        "lpc/tau",
        "lpc/g",
        "lpc/codes_used",
        "lpc/code_perplexity",
        "lpc/prior_entropy",
        "lpc/posterior_entropy",
        "perf/tokens_per_s",
        "perf/pairs_per_s",
        "perf/peak_rss_mb",
    ];
    for line in &steps {
        for key in wanted {
            assert!(line.get(key).is_some_and(Value::is_number), "{key} in {line:?}");
        }
    }
    let last = lines.last().expect("a line");
    for key in ["eval_rewards/accuracies", "eval_rewards/margins"] {
        assert!(last.get(key).is_some_and(Value::is_number), "{key} in {last:?}");
    }
}

#[test]
fn a_run_can_be_repeated_from_its_config() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --max-steps 2 --seed 4 --lr 2e-3 --quiet");
    sandbox.ok("train --config run/config.toml --out again --quiet");
    assert!(sandbox.bytes("run/posteriors.parquet") == sandbox.bytes("again/posteriors.parquet"));
    assert_eq!(
        sandbox.text("run/config.toml").replace("out = \"run\"", ""),
        sandbox.text("again/config.toml").replace("out = \"again\"", "")
    );
    // A prepared folder's manifest says the same of its own.
    let manifest = sandbox.json("data/manifest.json");
    assert_eq!(manifest["config"]["noise"]["flip_rate"], 0.2);
    // A finished run is not written over, and with --resume it is taken as it is.
    sandbox.ends(3, "train --config run/config.toml");
    let before = sandbox.bytes("run/manifest.json");
    sandbox.ok("train --config run/config.toml --resume --quiet");
    assert!(before == sandbox.bytes("run/manifest.json"));
    let other = sandbox.ends(3, "train --config run/config.toml --resume --lr 1e-4");
    assert!(other.stderr.contains("holds another run"), "{}", other.stderr);
}

#[test]
fn every_objective_and_latent_trains() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    for objective in ["dpo", "cdpo", "rdpo", "drdpo", "ropo", "hoelder", "repo", "mix", "ipo", "simpo", "sft"] {
        for latent in ["none", "lpc", "lpc-hard"] {
            if objective == "sft" && latent != "none" {
                continue;
            }
            let out = format!("{objective}-{latent}");
            let line = format!("train --data data --out {out} --model tiny:16x1 --max-steps 2 --batch 8 --quiet");
            let summary = sandbox.ok(&format!("{line} --objective {objective} --latent {latent} --json")).json();
            assert_eq!(summary["objective"], objective);
            assert_eq!(summary["latent"], latent);
            let frame = sandbox.parquet(&format!("{out}/posteriors.parquet"));
            let further: &[&str] = match objective {
                "hoelder" => &["suspect"],
                "repo" => &["clean_probability"],
                _ => &[],
            };
            assert_eq!(columns(&frame), [&POSTERIORS, further].concat());
            assert_eq!(frame.height(), 60);
            labels(&frame, &summary);
            assert!(numbers(&frame, "margin").iter().all(|m| m.is_finite()), "{out}");
            let reference = numbers(&frame, "ref_chosen_logps");
            let has = !matches!(objective, "simpo" | "sft");
            assert!(reference.iter().all(|r| r.is_finite() == has), "{out}: reference");
            assert_eq!(sandbox.exists(&format!("{out}/model/lpc_config.json")), latent != "none", "{out}");
        }
    }
}

/// Checks what an objective says of the labels, in posteriors.parquet and summary.json.
fn labels(frame: &polars::prelude::DataFrame, summary: &Value) {
    let (rate, noise) = (&summary["repo_clean_rate"], &summary["hoelder_noise_rate"]);
    let (margins, splits) = (numbers(frame, "margin"), texts(frame, "split"));
    if let Ok(clean) = frame.column("clean_probability") {
        let rate = rate.as_f64().unwrap();
        assert!(rate != 0.9 && rate > 0.0 && rate < 1.0, "{rate}");
        for (w, margin) in clean.f64().unwrap().into_no_null_iter().zip(&margins) {
            let p = 1.0 / (1.0 + (-margin).exp());
            assert!((w - rate * p / (rate * p + (1.0 - rate) * (1.0 - p))).abs() < 1e-9, "{w}");
        }
    } else {
        assert!(rate.is_null());
    }
    let Ok(suspects) = frame.column("suspect") else {
        assert!(noise.is_null());
        return;
    };
    let of_train: Vec<(bool, f64)> = suspects
        .bool()
        .unwrap()
        .iter()
        .zip(&margins)
        .zip(&splits)
        .filter_map(|((suspect, margin), split)| {
            assert_eq!(suspect.is_some(), split == "train");
            suspect.map(|suspect| (suspect, *margin))
        })
        .collect();
    let p = |margin: f64| 1.0 / (1.0 + (-margin).exp());
    let mean = |power: f64| of_train.iter().map(|(_, m)| p(*m).powf(power)).sum::<f64>() / of_train.len() as f64;
    let wanted = 1.0 - mean(1.0) * mean(2.0) / mean(3.0);
    assert!((noise.as_f64().unwrap() - wanted).abs() < 1e-9, "{noise} {wanted}");
    let found = of_train.iter().filter(|(suspect, _)| *suspect).count();
    assert_eq!(found, (of_train.len() as f64 * wanted).floor() as usize);
}

#[test]
fn score_gives_one_row_for_each_pair() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("score --data data --model tiny:16x1 --out base.parquet --quiet");
    let base = sandbox.parquet("base.parquet");
    assert_eq!(texts(&base, "id"), texts(&pairs(&sandbox, "data"), "id"));
    for column in ["split", "source", "flipped", "logps_chosen", "logps_rejected", "n_chosen", "n_rejected"] {
        assert!(columns(&base).iter().any(|c| c == column), "{column}");
    }
    // A trained model scores as it did in its own run; the start is the run's reference.
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --max-steps 2 --lr 1e-3 --quiet");
    sandbox.ok("score --data data --model run/model --out trained.parquet --quiet");
    let (trained, run) = (sandbox.parquet("trained.parquet"), sandbox.parquet("run/posteriors.parquet"));
    for column in ["logps_chosen", "logps_rejected"] {
        for (a, b) in numbers(&trained, column).iter().zip(numbers(&run, column)) {
            assert!((a - b).abs() < 1e-3, "{column}: {a} {b}");
        }
    }
    for (a, b) in numbers(&base, "logps_chosen").iter().zip(numbers(&run, "ref_chosen_logps")) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    assert_eq!(numbers(&trained, "prior_code"), numbers(&run, "prior_code"));
}

#[test]
fn a_run_without_a_test_split_is_a_run() {
    let sandbox = Sandbox::new();
    sandbox.synth(40);
    sandbox.ok("prepare --input raw --out data --test-fraction 0 --quiet");
    let line = "train --data data --out run --model tiny:16x1 --max-steps 1 --quiet --json";
    let summary = sandbox.ok(line).json();
    assert!(summary["eval_accuracy"].is_null() && summary["n_eval"] == 0, "{summary}");
    assert_eq!(sandbox.parquet("run/posteriors.parquet").height(), 40);
    assert_eq!(sandbox.ok(&format!("{line} --resume")).json(), summary, "what was written can be read");
    sandbox.ok("report run");
    assert!(sandbox.ends(3, "train --data nowhere --out other").stderr.contains("no manifest"));
}
