//! Weights of pairs, from the input's rows to the steps of training.

use std::fmt::Write as _;

use super::{PREPARED, manifest_holds, pairs};
use crate::support::{Sandbox, numbers, texts};

/// Pairs of which every third has no weight, the others 0, 0.5, 1, ... after each other; `weight` gives the field.
fn written(sandbox: &Sandbox, name: &str, weight: impl Fn(usize) -> Option<f64>) {
    let mut text = String::new();
    for i in 0..40 {
        let weight = weight(i).map(|w| format!(", \"weight\": {w}")).unwrap_or_default();
        let row = format!(
            "{{\"prompt\": \"Name the number {i}.\", \"chosen\": \"It is {i}.\", \"rejected\": \"It is not.\"{weight}}}"
        );
        writeln!(text, "{row}").unwrap();
    }
    sandbox.write(name, text);
}

fn mixed(i: usize) -> Option<f64> {
    (!i.is_multiple_of(3)).then_some((i % 5) as f64 / 2.0)
}

/// The weight of each pair by the number in its prompt; none is NaN.
fn found(frame: &polars::prelude::DataFrame, ids: &[(String, usize)]) -> Vec<Option<f64>> {
    let mut out = vec![Some(-1.0); 40];
    for (id, weight) in texts(frame, "id").iter().zip(numbers(frame, "weight")) {
        let (_, i) = ids.iter().find(|(known, _)| known == id).unwrap();
        out[*i] = Some(weight).filter(|w| !w.is_nan());
    }
    out
}

/// The id of each pair, with the number in its prompt.
fn ids(sandbox: &Sandbox, folder: &str) -> Vec<(String, usize)> {
    let frame = pairs(sandbox, folder);
    let prompts = crate::support::contents(&frame, "prompt");
    let number = |prompt: &String| prompt.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
    texts(&frame, "id").into_iter().zip(prompts.iter().map(number)).collect()
}

#[test]
fn weights_come_along_with_their_pairs() {
    let sandbox = Sandbox::new();
    written(&sandbox, "in.jsonl", mixed);
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0.25 --flip-rate 0.3 --quiet --threads 1");
    let manifest = manifest_holds(&sandbox, "data", &PREPARED);
    let wanted: Vec<Option<f64>> = (0..40).map(mixed).collect();
    let given = wanted.iter().flatten().count();
    assert_eq!(manifest["facts"]["weighted"], given);
    let ids = ids(&sandbox, "data");
    assert_eq!(found(&pairs(&sandbox, "data"), &ids), wanted);
    let read = |split: &str| sandbox.arrow(&format!("data/tokens/{split}.arrow"));
    assert_eq!(found(&read("train").vstack(&read("test")).unwrap(), &ids), wanted);
    // Other threads, shards, and the prepared pairs as an input give the same.
    sandbox.ok("prepare --input in.jsonl --out again --test-fraction 0.25 --flip-rate 0.3 --quiet --threads 3");
    for i in 1..=2 {
        let line = "prepare --input in.jsonl --test-fraction 0.25 --flip-rate 0.3 --quiet";
        sandbox.ok(&format!("{line} --shard {i}/2 --out part{i}"));
    }
    sandbox.ok("merge part1 part2 --out merged --quiet");
    for file in &PREPARED {
        for folder in ["again", "merged"] {
            let [a, b] = ["data", folder].map(|f| sandbox.bytes(&format!("{f}/{file}")));
            assert!(a == b, "{folder}/{file}");
        }
    }
    assert_eq!(sandbox.json("merged/manifest.json")["facts"]["weighted"], given);
    sandbox.ok("prepare --input data/pairs/train.parquet data/pairs/test.parquet --out twice --quiet");
    let again = pairs(&sandbox, "twice");
    assert_eq!(numbers(&again, "weight").iter().filter(|w| !w.is_nan()).count(), given);
}

#[test]
fn of_copies_the_lightest_stays() {
    let sandbox = Sandbox::new();
    let row = |prompt: &str, weight: &str| {
        format!("{{\"prompt\":\"{prompt}\",\"chosen\":\"a\",\"rejected\":\"b\"{weight}}}\n")
    };
    let rows = [("p", ",\"weight\":3"), ("p", ",\"weight\":0.5"), ("q", ",\"weight\":0.5"), ("q", "")];
    sandbox.write("in.jsonl", rows.map(|(prompt, weight)| row(prompt, weight)).concat());
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0 --quiet");
    let frame = pairs(&sandbox, "data");
    let prompts = crate::support::contents(&frame, "prompt");
    let weights: Vec<f64> = numbers(&frame, "weight");
    let of = |prompt: &str| weights[prompts.iter().position(|p| p.contains(prompt)).unwrap()];
    assert!(weights.len() == 2 && of("p") == 0.5 && of("q").is_nan(), "{weights:?}");
}

#[test]
fn weights_that_are_none_are_refused() {
    for (weight, said) in [("-1", "expected a number from 0, got -1"), ("\"much\"", "expected a number, got \"much\"")]
    {
        let sandbox = Sandbox::new();
        sandbox.write(
            "in.jsonl",
            format!("{{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\",\"weight\":{weight}}}\n"),
        );
        let told = sandbox.ends(3, "prepare --input in.jsonl --out data").stderr;
        assert!(told.contains("weight") && told.contains(said), "{told}");
    }
}

#[test]
fn a_step_weighs_its_pairs() {
    let sandbox = Sandbox::new();
    for (name, weight) in [
        ("bare", (|_| None) as fn(usize) -> Option<f64>),
        ("ones", |_| Some(1.0)),
        ("mixed", mixed),
        ("zeros", |_| Some(0.0)),
    ] {
        written(&sandbox, &format!("{name}.jsonl"), weight);
        sandbox.ok(&format!("prepare --input {name}.jsonl --out {name} --test-fraction 0.25 --quiet"));
        let line = "train --model tiny:16x1 --codes 3 --batch 8 --lr 1e-3 --epochs 1 --set train.lpc.warmup=1 --quiet";
        sandbox.ok(&format!("{line} --data {name} --out run-{name}"));
    }
    let model = |name: &str| {
        ["model/model.safetensors", "model/lpc_model.safetensors", "metrics.jsonl"]
            .map(|file| sandbox.bytes(&format!("run-{name}/{file}")))
    };
    let losses = |name: &str| {
        let text = sandbox.text(&format!("run-{name}/metrics.jsonl"));
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["loss"].as_f64()).collect::<Vec<f64>>()
    };
    assert!(model("bare")[..2] == model("ones")[..2], "weights of 1 change the result");
    assert_eq!(losses("bare"), losses("ones"));
    assert!(model("bare")[1] != model("mixed")[1]);
    assert_eq!(losses("zeros").iter().map(|l| l.abs()).sum::<f64>(), 0.0);
    // Without any weight the backbone stays where it was; only the balance of the codes moves the prior.
    let start =
        sandbox.ok("train --model tiny:16x1 --latent none --data zeros --out still --batch 8 --lr 1e-3 --quiet");
    drop(start);
    sandbox.ok("train --model tiny:16x1 --latent none --data bare --out none --batch 8 --lr 0 --quiet");
    assert!(sandbox.bytes("still/model/model.safetensors") == sandbox.bytes("none/model/model.safetensors"));
}
