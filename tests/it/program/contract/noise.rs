//! Pair rules and noise models, through the command line.

use std::collections::BTreeSet;

use super::{PREPARED, SPLITS, flipped_ids, pairs};
use crate::support::{Sandbox, contents, flags, numbers, texts};

/// Settings that make each kind work on a planted corpus.
const KINDS: [(&str, &str); 7] = [
    ("uniform", ""),
    ("margin", "--flip-temperature 2"),
    ("length", "--flip-temperature 0.5"),
    ("source", "--set prepare.noise.source_rates=['recipes=0.9','*=0.5']"),
    ("annotator", "--set prepare.noise.annotators=5"),
    ("ambiguous", "--set prepare.noise.selected=flip"),
    ("weak-quality", "--set prepare.noise.selected=flip"),
];

#[test]
fn every_kind_of_noise_is_nested_and_keeps_its_account() {
    let sandbox = Sandbox::new();
    sandbox.synth(300);
    sandbox.ok("prepare --input raw --out clean --quiet");
    let clean = pairs(&sandbox, "clean");
    for (kind, settings) in KINDS {
        let mut before = BTreeSet::new();
        for rate in ["0.1", "0.3"] {
            let out = format!("{kind}-{rate}");
            let flags_of = format!("--input raw --flip-kind {kind} --flip-rate {rate} {settings} --quiet");
            sandbox.ok(&format!("prepare --out {out} {flags_of} --threads 2"));
            let noisy = pairs(&sandbox, &out);
            assert_eq!(texts(&clean, "id"), texts(&noisy, "id"), "{kind}");
            for (i, flipped) in flags(&noisy, "flipped").into_iter().enumerate() {
                let (chosen, rejected) = if flipped { ("rejected", "chosen") } else { ("chosen", "rejected") };
                assert_eq!(contents(&noisy, "chosen")[i], contents(&clean, chosen)[i], "{kind}");
                assert_eq!(contents(&noisy, "rejected")[i], contents(&clean, rejected)[i], "{kind}");
            }
            let flipped = flipped_ids(&sandbox, &out);
            assert!(before.is_subset(&flipped), "{kind}: the flips at 0.1 are among those at {rate}");
            let chances = numbers(&noisy, "noise_p");
            let expected: f64 = chances.iter().sum();
            let wanted = rate.parse::<f64>().expect("a rate") * noisy.height() as f64;
            match kind {
                "ambiguous" | "weak-quality" => assert_eq!(flipped.len() as f64, wanted.round(), "{kind}"),
                "uniform" | "margin" | "length" | "annotator" => {
                    assert!((expected - wanted).abs() < 1e-6, "{kind}: {expected}")
                }
                _ => {}
            }
            let spread = chances.iter().map(|p| p * (1.0 - p)).sum::<f64>().sqrt();
            assert!((flipped.len() as f64 - expected).abs() <= 5.0 * spread, "{kind}: {} of {expected}", flipped.len());
            let known = |k: &String| k == kind || ["ambiguous", "weak-quality"].contains(&kind) && k == "none";
            assert!(texts(&noisy, "noise_kind").iter().all(known), "{kind}");
            let facts = &sandbox.json(&format!("{out}/manifest.json"))["facts"];
            assert_eq!(facts["noise"]["all"]["flipped"], flipped.len(), "{kind}");
            assert_eq!(facts["noise"]["all"]["pairs"], noisy.height(), "{kind}");
            assert_eq!(facts["noise_plan"]["kind"], kind);
            sandbox.ok(&format!("prepare --out again {flags_of} --threads 1"));
            for file in PREPARED {
                let same = sandbox.bytes(&format!("{out}/{file}")) == sandbox.bytes(&format!("again/{file}"));
                assert!(same, "{kind}: {file} depends on the threads");
            }
            before = flipped;
        }
        assert!(before.len() > 20, "{kind}: {}", before.len());
    }
}

#[test]
fn pairs_that_are_only_singled_out_keep_their_label() {
    let sandbox = Sandbox::new();
    sandbox.synth(200);
    sandbox.ok("prepare --input raw --out data --flip-kind ambiguous --flip-rate 0.2 --quiet");
    let frame = pairs(&sandbox, "data");
    assert!(flags(&frame, "flipped").iter().all(|f| !f) && numbers(&frame, "noise_p").iter().all(|p| *p == 0.0));
    let (kinds, margins) = (texts(&frame, "noise_kind"), numbers(&frame, "margin"));
    let of =
        |kind: &str| -> Vec<f64> { kinds.iter().zip(&margins).filter(|(k, _)| *k == kind).map(|(_, m)| *m).collect() };
    let (picked, left) = (of("ambiguous"), of("none"));
    assert_eq!((picked.len(), picked.len() + left.len()), (40, 200));
    let widest = picked.iter().copied().fold(0.0, f64::max);
    assert!(left.iter().all(|m| *m >= widest), "{widest}");
    let facts = &sandbox.json("data/manifest.json")["facts"]["noise"];
    assert_eq!((&facts["by_kind"]["ambiguous"]["selected"], &facts["all"]["flipped"]), (&40.into(), &0.into()));
}

#[test]
fn noise_that_needs_all_pairs_refuses_shards() {
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    let flags_of = "prepare --input raw --flip-kind margin --flip-rate 0.3 --quiet";
    let refused = sandbox.ends(2, &format!("{flags_of} --out part --shard 1/2"));
    assert!(refused.stderr.contains("prepare.shard: --flip-kind margin needs all pairs at once"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--set prepare.noise.calibrate=false"), "{}", refused.stderr);
    let plain = format!("{flags_of} --set prepare.noise.calibrate=false");
    sandbox.ok(&format!("{plain} --out whole"));
    let mut parts = BTreeSet::new();
    for i in 1..=2 {
        sandbox.ok(&format!("{plain} --out part{i} --shard {i}/2"));
        parts.extend(flipped_ids(&sandbox, &format!("part{i}")));
    }
    assert_eq!(parts, flipped_ids(&sandbox, "whole"));
}

#[test]
fn a_prompt_may_give_several_pairs() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    let all = "prepare --input raw --pairs all-pairs --test-fraction 0.3 --flip-rate 0.2 --quiet";
    sandbox.ok(&format!("{all} --out all"));
    sandbox.ok(&format!("{all} --out capped --max-per-prompt 2"));
    sandbox.ok("prepare --input raw --pairs best-vs-each --out each --quiet");
    sandbox.ok("prepare --input raw --pairs best-vs-each --min-margin 2 --out apart --quiet");
    let (many, capped) = (pairs(&sandbox, "all"), pairs(&sandbox, "capped"));
    let dropped = |out: &str| sandbox.json(&format!("{out}/manifest.json"))["facts"]["pairs_dropped"].clone();
    let count = |out: &str, reason: &str| dropped(out)[reason].as_u64().unwrap_or(0) as usize;
    assert_eq!(many.height() + count("all", "tied-scores") + count("all", "identical-responses"), 60 * 6);
    assert_eq!(capped.height(), 120);
    assert_eq!(capped.height() + count("capped", "over-prompt-cap"), many.height());
    let ids = |frame| texts(frame, "id").into_iter().collect::<BTreeSet<_>>();
    assert!(ids(&capped).is_subset(&ids(&many)) && ids(&many).len() == many.height());
    assert!(texts(&many, "pair_rule").iter().all(|r| r == "all-pairs"));
    let (each, apart) = (pairs(&sandbox, "each"), pairs(&sandbox, "apart"));
    assert!(ids(&apart).is_subset(&ids(&each)) && ids(&each).is_subset(&ids(&many)));
    assert!(numbers(&apart, "margin").iter().all(|m| *m >= 2.0) && apart.height() < each.height());
    for out in ["all", "capped", "each", "apart"] {
        let file = &sandbox.json(&format!("{out}/manifest.json"))["inputs"][0];
        let refused: u64 = file["rows_rejected"].as_object().expect("counts").values().filter_map(|n| n.as_u64()).sum();
        assert_eq!((file["rows_read"].as_u64(), file["rows_kept"].as_u64()), (Some(60), Some(60 - refused)), "{out}");
    }
    // Shards, put one after the other, are the whole.
    for i in 1..=3 {
        sandbox.ok(&format!("{all} --out part{i} --shard {i}/3"));
    }
    for split in SPLITS {
        let read = |out: &str| sandbox.parquet(&format!("{out}/pairs/{split}.parquet"));
        let joined = read("part1").vstack(&read("part2")).and_then(|f| f.vstack(&read("part3"))).expect("columns");
        assert!(joined.equals_missing(&read("all")), "{split}");
    }
}

#[test]
fn contradictions_are_told_and_dropped_where_wanted() {
    let sandbox = Sandbox::new();
    let row = |p: &str, a: &str, b: &str| format!("{{\"prompt\":\"{p}\",\"chosen\":\"{a}\",\"rejected\":\"{b}\"}}\n");
    sandbox.write("in.jsonl", row("p", "yes", "no") + &row("P", "No", "yes") + &row("q", "yes", "no"));
    let flags_of = "prepare --input in.jsonl --test-fraction 0";
    let kept = sandbox.ok(&format!("{flags_of} --out kept"));
    assert!(kept.stderr.contains("2 pairs contradict another"), "{}", kept.stderr);
    assert_eq!(pairs(&sandbox, "kept").height(), 3);
    sandbox.ok(&format!("{flags_of} --out dropped --set prepare.pairs.conflicts=drop"));
    assert_eq!(pairs(&sandbox, "dropped").height(), 1);
    let rejects = sandbox.parquet("dropped/rejects.parquet");
    assert_eq!(texts(&rejects, "reason"), ["conflicting-label"; 2]);
    assert_eq!(texts(&rejects, "detail")[0], "ranked the other way round in in.jsonl: line 2");
    assert_eq!(sandbox.json("dropped/manifest.json")["inputs"][0]["rows_rejected"]["conflicting-label"], 2);
}

#[test]
fn a_sweep_over_kinds_takes_the_settings_of_each() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    let recipe = |kinds: &str| {
        format!(
            "seed = 1\n[prepare]\ninput = [\"raw\"]\n[prepare.noise]\ntemperature = 2.0\n[train]\nmodel = \"tiny:16x1\"\n\
             batch = 16\nmax_steps = 1\n[sweep]\nnoise_p = [0.2]\nnoise_kind = {kinds}\nlatent = [\"none\"]\nseeds = [1]\n"
        )
    };
    sandbox.write("both.toml", recipe("[\"uniform\", \"margin\"]"));
    sandbox.ok("noise-sweep --config both.toml --out sweep --json");
    let results = sandbox.parquet("sweep/results.parquet");
    assert_eq!(texts(&results, "noise_kind"), ["uniform", "margin"]);
    assert_eq!(texts(&results, "status"), ["ok", "ok"]);
    sandbox.write("one.toml", recipe("[\"uniform\"]"));
    let refused = sandbox.ends(2, "noise-sweep --config one.toml --out other");
    let wanted = "prepare.noise.temperature: has no effect with --flip-kind uniform; it belongs to margin and length";
    assert!(refused.stderr.contains(wanted), "{}", refused.stderr);
    let refused = sandbox.ends(2, "noise-sweep --config both.toml --out other --set sweep.noise_kind=['source']");
    assert!(refused.stderr.contains("prepare.noise.source_rates: missing"), "{}", refused.stderr);
    let refused = sandbox.ends(2, "noise-sweep --config both.toml --out other --set sweep.noise_kind=['unifrom']");
    assert!(refused.stderr.contains("sweep.noise_kind: "), "{}", refused.stderr);
    let refused = sandbox.ends(2, "noise-sweep --config both.toml --out other --set prepare.noise.flip_kind=length");
    assert!(refused.stderr.contains("use sweep.noise_kind"), "{}", refused.stderr);
}
