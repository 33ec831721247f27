//! Made-up run and sweep folders for the tests of the report.

use std::fmt::Write;
use std::path::Path;

use polars::prelude::*;
use serde_json::json;

use crate::artifact;
use crate::manifest::Manifest;
use crate::message::MessageColumnBuilder;
use crate::seed::Seed;

/// A cell of the made-up sweep.
pub(super) struct Sample<'a> {
    pub latent: &'a str,
    pub codes: usize,
    pub p: f64,
    pub seed: u64,
    pub accuracy: f64,
}

/// A name with everything that has to be escaped.
pub(super) const HOSTILE: &str = "<script>alert('x')</script>&\"|`_*";

/// A manifest that does not depend on the clock or on how the tests were started.
fn manifest(folder: &Path, stage: &str) {
    let mut manifest = Manifest::begin(stage, &json!({"x": 1})).unwrap();
    manifest.command = ["lpc-pipe", stage, "--out", "DIR"].map(String::from).to_vec();
    manifest.started = "2025-01-01T00:00:00Z".into();
    manifest.seeds.insert("run".into(), 1);
    let mut manifest = manifest.finish(folder).unwrap();
    manifest.finished = "2025-01-01T00:10:00Z".into();
    artifact::write_json(folder.join("manifest.json"), &manifest).unwrap();
}

fn metrics(sample: &Sample<'_>) -> String {
    let mut out = String::new();
    let latent = sample.codes > 0;
    for step in 1..=300u32 {
        let t = f64::from(step) / 300.0;
        let key = format!("{}{}{}{step}", sample.latent, sample.p, sample.seed);
        let jitter = Seed(sample.seed).unit("jitter", &key) - 0.5;
        let learned = 1.0 - (-4.0 * t).exp();
        let loss = 0.693 - (sample.accuracy - 0.5) * 0.9 * learned + 0.06 * jitter;
        let mut line = json!({
            "step": step, "loss": loss, "learning_rate": 5e-6 * (1.0 - t), "grad_norm": 3.0 + jitter,
            "rewards/accuracies": 0.5 + (sample.accuracy - 0.5) * learned + 0.2 * jitter,
            "rewards/margins": 1.2 * learned + 0.2 * jitter, "rewards/chosen": 0.4 * learned,
            "rewards/rejected": -0.8 * learned,
        });
        if latent {
            line["lpc/kl"] = json!(0.3 * learned * (1.2 - t) + 0.01 * jitter.abs());
            line["lpc/code_perplexity"] = json!(1.0 + 5.0 * learned + 0.2 * jitter);
            line["lpc/codes_used"] = json!((1.0 + 6.4 * learned).floor());
            line["lpc/prior_entropy"] = json!(2.0 - 0.8 * learned);
            line["lpc/posterior_entropy"] = json!(2.0 - 1.3 * learned);
            line["lpc/g"] = json!(t);
            line["lpc/tau"] = json!(1.0);
        }
        let _ = writeln!(out, "{line}");
        if step % 50 == 0 {
            let accuracy = 0.5 + (sample.accuracy - 0.5) * learned;
            let line = json!({"step": step, "eval_loss": loss + 0.02, "eval_rewards/accuracies": accuracy,
                "eval_rewards/margins": 1.1 * learned, "eval_lpc/kl": if latent { 0.2 * learned } else { 0.0 }});
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn codes(folder: &Path, codes: usize, shift: f64) {
    let list = |word: &str| -> Vec<Series> {
        (0..codes)
            .map(|k| {
                let mut tokens: Vec<String> = (0..10).map(|i| format!(" {word}{}", k * 10 + i)).collect();
                tokens[0] = if k == 0 { HOSTILE.into() } else { "\n".into() };
                Series::new("".into(), tokens)
            })
            .collect()
    };
    let share = |s: usize| -> Vec<f64> {
        let raw: Vec<f64> = (0..codes).map(|k| (-(((k + 2 * s) % codes) as f64) * (0.4 + shift)).exp()).collect();
        let total: f64 = raw.iter().sum();
        raw.iter().map(|v| v / total).collect()
    };
    let mut frame = df!(
        "code" => (0..codes as u32).collect::<Vec<_>>(),
        "usage_prior" => share(0),
        "usage_posterior" => share(1),
        "top_tokens" => list("up"),
        "bottom_tokens" => list("down"),
        "norm" => (0..codes).map(|k| 0.3 + k as f64 * 0.05).collect::<Vec<_>>(),
    )
    .unwrap();
    for (s, source) in ["evol_instruct", "flan_v2_niv2", "sharegpt", HOSTILE].iter().enumerate() {
        frame.with_column(Column::new(format!("usage_prior/{source}").into(), share(s))).unwrap();
    }
    artifact::write_parquet(folder.join("codes.parquet"), &mut frame).unwrap();
}

/// `codes.parquet` of a latent without codes: one row, always used, with tokens where there is one vector for all.
fn one_row(folder: &Path, vector: bool) {
    let list = |word: &str| vec![Series::new("".into(), if vector { vec![word] } else { vec![] })];
    let mut frame = df!(
        "code" => [0u32], "usage_prior" => [1.0], "usage_posterior" => [1.0], "top_tokens" => list("raised"),
        "bottom_tokens" => list("lowered"), "norm" => [vector.then_some(0.7)], "usage_prior/sharegpt" => [1.0],
    )
    .unwrap();
    artifact::write_parquet(folder.join("codes.parquet"), &mut frame).unwrap();
}

/// A finished run.
pub(super) fn run(folder: &Path, sample: &Sample<'_>) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("metrics.jsonl"), metrics(sample)).unwrap();
    std::fs::write(folder.join("config.toml"), "seed = 1\n\n[train]\nmodel = \"tiny\"\nlr = 5e-6\n").unwrap();
    let source = |name: &str, n: u64, accuracy: f64| json!({"source": name, "n": n, "accuracy": accuracy, "low": accuracy - 0.04, "high": accuracy + 0.04});
    let mut summary = json!({
        "objective": "dpo", "latent": sample.latent, "seed": sample.seed,
        "eval_accuracy": sample.accuracy, "eval_accuracy_low": sample.accuracy - 0.02,
        "eval_accuracy_high": sample.accuracy + 0.02, "n_eval": 1998, "steps": 300, "pairs_per_s": 41.27,
        "peak_rss_mb": 1843.0,
        "by_source": [source("evol_instruct", 612, 0.81), source("sharegpt", 1200, 0.77), source(HOSTILE, 186, 0.69)],
    });
    if sample.codes > 0 {
        summary["codes"] = json!(sample.codes);
        summary["codes_used"] = json!(sample.codes - 1);
        summary["code_perplexity"] = json!(5.62);
        codes(folder, sample.codes, sample.p);
    } else {
        one_row(folder, sample.latent == "bias");
        (summary["codes"], summary["codes_used"], summary["code_perplexity"]) = (json!(1), json!(1), json!(1.0));
    }
    artifact::write_json(folder.join("summary.json"), &summary).unwrap();
    manifest(folder, "train");
}

/// Posteriors of 40 test pairs and 10 others: code 0 is right on source `a`, code 1 on the hostile source; code 2
/// repeats code 0, and code 3 is not used. The prior depends on the source. Without `margins` it is a file of an older
/// version.
pub(super) fn posteriors(folder: &Path, margins: bool) {
    let n = 50usize;
    let second = |i: usize| i % 2;
    let weights = |strong: f32| -> Vec<Series> {
        let row =
            |i: usize| if second(i) == 1 { [1.0 - strong, strong, 0.0, 0.0] } else { [strong, 1.0 - strong, 0.0, 0.0] };
        (0..n).map(|i| Series::new("".into(), row(i).as_slice())).collect()
    };
    let mut frame = df!(
        "id" => (0..n).map(|i| format!("{i:032x}")).collect::<Vec<_>>(),
        "prompt_id" => (0..n).map(|i| format!("prompt {}", i / 2)).collect::<Vec<_>>(),
        "n_chosen" => (0..n as u32).map(|i| 60 + 40 * (i % 2)).collect::<Vec<_>>(),
        "n_rejected" => vec![80u32; n],
        "split" => (0..n).map(|i| if i < 40 { "test" } else { "train" }).collect::<Vec<_>>(),
        "source" => (0..n).map(|i| if second(i) == 1 { HOSTILE } else { "a" }).collect::<Vec<_>>(),
        "flipped" => vec![false; n],
        "prior" => weights(0.9),
        "posterior" => weights(1.0),
        "prior_code" => (0..n).map(|i| second(i) as u32).collect::<Vec<_>>(),
        "posterior_code" => (0..n).map(|i| if i % 4 == 2 { 2 } else { second(i) as u32 }).collect::<Vec<_>>(),
        "margin" => vec![0.5; n],
    )
    .unwrap();
    if margins {
        let row = |i: usize| {
            let (size, sign) = (1.0 + (i % 7) as f32, if second(i) == 1 { -1.0 } else { 1.0 });
            Series::new("".into(), [sign * size, -sign * size, 2.0 * sign * size, 1.0].as_slice())
        };
        frame.with_column(Column::new("code_margins".into(), (0..n).map(row).collect::<Vec<_>>())).unwrap();
    }
    artifact::write_parquet(folder.join("posteriors.parquet"), &mut frame).unwrap();
}

/// The prepared folder of [`posteriors`], whose texts are `text` and longer than a report shows; the run's
/// configuration names it. The first pair is not in it.
pub(super) fn prepared(run: &Path, folder: &Path, text: &str) {
    let n = 49usize;
    let messages = |name: &str| {
        let mut column = MessageColumnBuilder::new(name, n);
        (0..n).for_each(|i| column.push([("user", format!("{name} {i}: {}", text.repeat(40)).as_str())]));
        column.finish().unwrap()
    };
    let mut frame = df!(
        "id" => (1..=n).map(|i| format!("{i:032x}")).collect::<Vec<_>>(),
        "score_chosen" => (0..n).map(|i| 3.0 + (i % 4) as f64).collect::<Vec<_>>(), "score_rejected" => vec![2.0; n],
        "chosen_model" => vec![HOSTILE; n], "rejected_model" => (0..n).map(|i| format!("m{}", i % 3)).collect::<Vec<_>>(),
    )
    .unwrap();
    ["prompt", "chosen", "rejected"].iter().for_each(|name| _ = frame.with_column(messages(name)).unwrap());
    artifact::write_parquet(folder.join("pairs/test.parquet"), &mut frame).unwrap();
    let config = toml::Table::from_iter([("data".to_string(), folder.display().to_string().into())]);
    let config = toml::Table::from_iter([("train".to_string(), config.into())]);
    std::fs::write(run.join("config.toml"), toml::to_string(&config).unwrap()).unwrap();
}

/// A finished sweep of three noise rates, five lines and `seeds` seeds.
pub(super) fn sweep(folder: &Path, seeds: u64) {
    type CodeRow = (String, u32, f64, u64, f64, Option<f64>);
    let mut rows: Vec<CodeRow> = Vec::new();
    let lines =
        [("none", 0usize, 0.82), ("lpc", 8, 0.84), ("lpc", 32, 0.845), ("mlp", 8, 0.83), ("lpc-reliable", 8, 0.85)];
    for p in [0.0, 0.2, 0.4] {
        for (i, (latent, codes, clean)) in lines.iter().enumerate() {
            for seed in 1..=seeds {
                let jitter = Seed(seed).unit("accuracy", &format!("{latent}{codes}{p}")) - 0.5;
                let accuracy = clean - p * (0.45 - 0.06 * i as f64) + 0.02 * jitter;
                let name = format!("dpo-{latent}-k{codes}-{p}-s{seed}");
                let cell = folder.join("cells").join(&name);
                // The control has the size of an lpc with `codes` codes, but none of its own.
                let own = if *latent == "mlp" { 0 } else { *codes };
                run(&cell, &Sample { latent, codes: own, p, seed, accuracy });
                let noise = json!({"kind": "uniform", "p": p, "marked": false, "seed": 0});
                let marker = json!({"cell": {"noise": noise, "objective": "dpo", "latent": latent, "codes": codes, "seed": seed}});
                artifact::write_json(cell.join("cell.json"), &marker).unwrap();
                let auroc = (p > 0.0).then_some(0.6 + 0.05 * i as f64 + 0.02 * jitter);
                rows.push((latent.to_string(), *codes as u32, p, seed, accuracy, auroc));
            }
        }
    }
    let n = rows.len();
    let mut status = vec!["ok".to_string(); n];
    status[n - 1] = format!("failed: {HOSTILE}");
    let mut results = df!(
        "objective" => vec!["dpo"; n], "latent" => rows.iter().map(|r| r.0.clone()).collect::<Vec<_>>(),
        "codes" => rows.iter().map(|r| r.1).collect::<Vec<_>>(), "noise_kind" => vec!["uniform"; n],
        "noise_p" => rows.iter().map(|r| r.2).collect::<Vec<_>>(), "marked" => vec![false; n],
        "seed" => rows.iter().map(|r| r.3).collect::<Vec<_>>(), "noise_seed" => vec![0u64; n],
        "eval_accuracy" => rows.iter().map(|r| r.4).collect::<Vec<_>>(), "n_eval" => vec![1998u64; n],
        "audit_auroc" => rows.iter().map(|r| r.5).collect::<Vec<_>>(),
        "codes_used" => rows.iter().map(|r| (r.1 > 0).then_some(r.1 - 1)).collect::<Vec<_>>(),
        "code_perplexity" => rows.iter().map(|r| (r.1 > 0).then_some(5.1)).collect::<Vec<_>>(),
        "noise_share" => rows.iter().map(|r| 0.99 * r.2).collect::<Vec<_>>(),
        "train_seconds" => vec![93.0; n], "status" => status,
    )
    .unwrap();
    artifact::write_parquet(folder.join("results.parquet"), &mut results).unwrap();

    let cells: Vec<&[CodeRow]> = rows.chunks(seeds as usize).collect();
    let of = |get: &dyn Fn(&[CodeRow]) -> Option<f64>| cells.iter().map(|c| get(c)).collect::<Vec<_>>();
    let mean = |c: &[CodeRow]| c.iter().map(|r| r.4).sum::<f64>() / seeds as f64;
    let auroc = |c: &[CodeRow]| Some(c.iter().map(|r| r.5).sum::<Option<f64>>()? / seeds as f64);
    let interval = seeds >= 3;
    let gain = |c: &[CodeRow]| (c[0].1 > 0).then(|| 0.01 + 0.08 * c[0].2);
    let mut summary = df!(
        "objective" => vec!["dpo"; cells.len()], "latent" => cells.iter().map(|c| c[0].0.clone()).collect::<Vec<_>>(),
        "codes" => cells.iter().map(|c| c[0].1).collect::<Vec<_>>(), "noise_kind" => vec!["uniform"; cells.len()],
        "noise_p" => cells.iter().map(|c| c[0].2).collect::<Vec<_>>(), "marked" => vec![false; cells.len()],
        "n_seeds" => vec![seeds as u32; cells.len()], "n_failed" => vec![0u32; cells.len()],
        "eval_accuracy" => of(&|c| Some(mean(c))), "eval_accuracy_sd" => of(&|_| Some(0.008)),
        "eval_accuracy_low" => of(&|c| interval.then(|| mean(c) - 0.02)),
        "eval_accuracy_high" => of(&|c| interval.then(|| mean(c) + 0.02)),
        "difference" => of(&gain), "difference_low" => of(&|c| gain(c).map(|g| g - 0.015)),
        "difference_high" => of(&|c| gain(c).map(|g| g + 0.015)),
        // Below the level with flips alone.
        "difference_p_holm" => of(&|c| gain(c).map(|_| if c[0].2 > 0.0 { 0.012 } else { 0.12 })),
        "baseline" => vec!["latent mlp"; cells.len()],
        "difference_baseline" => of(&|c| gain(c).filter(|_| c[0].0 == "lpc")),
        "difference_baseline_low" => of(&|c| gain(c).map(|g| g - 0.015).filter(|_| c[0].0 == "lpc")),
        "difference_baseline_high" => of(&|c| gain(c).map(|g| g + 0.015).filter(|_| c[0].0 == "lpc")),
        "difference_baseline_p_holm" => of(&|c| gain(c).map(|_| 0.2).filter(|_| c[0].0 == "lpc")),
        "n_paired_baseline" => of(&|c| gain(c).map(|_| 1998.0).filter(|_| c[0].0 == "lpc")),
        "audit_auroc" => of(&auroc), "audit_auroc_low" => of(&|c| auroc(c).map(|a| a - 0.03).filter(|_| interval)),
        "audit_auroc_high" => of(&|c| auroc(c).map(|a| a + 0.03).filter(|_| interval)),
        "noise_share" => of(&|c| Some(0.99 * c[0].2)),
        "code_perplexity" => of(&|c| (c[0].1 > 0).then_some(5.1)),
    )
    .unwrap();
    artifact::write_parquet(folder.join("summary.parquet"), &mut summary).unwrap();
    let mut curves = df!(
        "objective" => vec!["dpo"; lines.len()], "latent" => lines.iter().map(|l| l.0).collect::<Vec<_>>(),
        "codes" => lines.iter().map(|l| l.1 as u32).collect::<Vec<_>>(), "noise_kind" => vec!["uniform"; lines.len()],
        "marked" => vec![false; lines.len()], "noise_p_low" => vec![0.0; lines.len()],
        "noise_p_high" => vec![0.4; lines.len()], "n_rates" => vec![3u32; lines.len()],
        "n_seeds" => vec![seeds as u32; lines.len()], "accuracy_area" => lines.iter().map(|l| l.2).collect::<Vec<_>>(),
        "accuracy_area_low" => lines.iter().map(|l| interval.then_some(l.2 - 0.02)).collect::<Vec<_>>(),
        "accuracy_area_high" => lines.iter().map(|l| interval.then_some(l.2 + 0.02)).collect::<Vec<_>>(),
    )
    .unwrap();
    artifact::write_parquet(folder.join("curves.parquet"), &mut curves).unwrap();
    std::fs::write(folder.join("config.toml"), "[sweep]\nnoise_p = [0.0, 0.2, 0.4]\n").unwrap();
    manifest(folder, "noise-sweep");
}
