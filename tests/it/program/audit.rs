//! `audit` and `train --fold`: every pair is ranked by a model that was not trained on it, and what is done with labels
//! that are thought wrong is done to them and to no others.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Sandbox, columns, flags, numbers, texts};

const TRAIN: &str = "train --data data --model tiny:16x1 --tune latent --codes 4 --batch 16 --seed 3 --quiet";

/// A run over 160 prompts of which an eighth is the test split.
fn ground() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.synth(160);
    sandbox.ok("prepare --input raw --out data --test-fraction 0.125 --flip-rate 0.2 --quiet");
    sandbox.ok(&format!("{TRAIN} --epochs 2 --out run"));
    sandbox
}

fn text(column: &lpc_pipe::message::MessageColumn, row: usize) -> String {
    lpc_pipe::prompt::text(column.row(row)).into_owned()
}

fn audit(sandbox: &Sandbox, args: &str) -> serde_json::Value {
    let told = sandbox.ok(&format!("audit --run run --out audit --folds 2 --repeats 1 --quiet --json {args}"));
    serde_json::from_str(&told.stdout).expect("one JSON object")
}

/// Pairs of a prepared folder's training split by id: preferred text, whether noise flipped the label, chosen tokens.
fn pairs(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, (String, bool, Vec<u32>)> {
    let frame = sandbox.parquet(&format!("{folder}/pairs/train.parquet"));
    let tokens = sandbox.arrow(&format!("{folder}/tokens/train.arrow"));
    assert_eq!(texts(&frame, "id"), texts(&tokens, "id"));
    let chosen = lpc_pipe::message::MessageColumn::open(frame.column("chosen").expect("chosen")).expect("messages");
    let lists = tokens.column("chosen_ids").expect("a column").list().expect("lists").clone();
    let ids = |i: usize| -> Vec<u32> {
        lists.get_as_series(i).expect("a list").u32().expect("tokens").iter().flatten().collect()
    };
    let flipped = flags(&frame, "flipped");
    assert_eq!(flipped, flags(&tokens, "flipped"));
    texts(&frame, "id").into_iter().enumerate().map(|(i, id)| (id, (text(&chosen, i), flipped[i], ids(i)))).collect()
}

#[test]
fn folds_hold_out_every_prompt_once() {
    let sandbox = ground();
    let all: BTreeSet<String> = pairs(&sandbox, "data").into_keys().collect();
    let mut held = BTreeSet::new();
    for fold in 1..=3 {
        sandbox.ok(&format!("{TRAIN} --epochs 1 --posteriors all --set train.fold={fold}/3 --out fold{fold}"));
        let frame = sandbox.parquet(&format!("fold{fold}/posteriors.parquet"));
        let split = texts(&frame, "split");
        let of = |name: &str, column: &str| -> BTreeSet<String> {
            let values = texts(&frame, column).into_iter().zip(&split);
            values.filter(|(_, split)| *split == name).map(|(value, _)| value).collect()
        };
        assert!(of("train", "prompt_id").is_disjoint(&of("test", "prompt_id")));
        assert_eq!(of("train", "id").union(&of("test", "id")).cloned().collect::<BTreeSet<_>>(), all);
        let summary = sandbox.json(&format!("fold{fold}/summary.json"));
        assert_eq!(summary["n_train"].as_u64(), Some(of("train", "id").len() as u64));
        held.extend(
            of("test", "id")
                .into_iter()
                .inspect(|id| assert!(!held.contains(id), "{id} is held out twice"))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(held, all);
    // The models differ by what they were trained on alone: reference and hidden states were computed once.
    assert_eq!(sandbox.files("data/reference").iter().filter(|f| f.ends_with(".parquet")).count(), 1);
    let told = sandbox.ends(2, &format!("{TRAIN} --set train.fold=4/3 --out fold4"));
    assert!(told.stderr.contains("train.fold: expected I/N"), "{}", told.stderr);
    assert!(!sandbox.exists("fold4"));
}

#[test]
fn every_training_pair_is_ranked_and_nothing_is_trained_twice() {
    let sandbox = ground();
    let summary = audit(&sandbox, "");
    let frame = sandbox.parquet("audit/audit.parquet");
    assert_eq!(columns(&frame)[..7], ["id", "prompt_id", "source", "flipped", "p_wrong", "rank", "reasons"]);
    let data = sandbox.parquet("data/pairs/train.parquet");
    assert_eq!(texts(&frame, "id"), texts(&data, "id"));
    let (p, rank) = (numbers(&frame, "p_wrong"), numbers(&frame, "rank"));
    assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
    let mut by_rank: Vec<(f64, f64)> = rank.iter().copied().zip(p).collect();
    by_rank.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(by_rank.iter().enumerate().all(|(i, (rank, _))| *rank == i as f64 + 1.0));
    assert!(by_rank.windows(2).all(|w| w[0].1 >= w[1].1));
    let rate = |key: &str| summary[key].as_f64().expect("a rate");
    assert!(rate("noise_rate_low") <= rate("noise_rate") && rate("noise_rate") <= rate("noise_rate_high"));
    let flips = flags(&frame, "flipped").iter().filter(|f| **f).count() as u64;
    assert_eq!(summary["detection"]["flipped"].as_u64(), Some(flips));
    assert_eq!(sandbox.json("audit/summary.json")["pairs"], summary["pairs"]);
    // 140 pairs do not tell the rate: it is said where people and programs look, and on the page.
    let (low, high) = (rate("noise_rate_low"), rate("noise_rate_high"));
    assert!(high - low > 0.2, "{low} {high}");
    let said = format!("the rate of wrong labels may be anything from {:.1} to {:.1} %", 100.0 * low, 100.0 * high);
    let warning = summary["warning"].as_str().expect("a warning");
    assert!(warning.starts_with(&said) && warning.ends_with("prefer --action review or weight"), "{warning}");
    assert_eq!(sandbox.json("audit/summary.json")["warning"], summary["warning"]);
    let shown = sandbox.ok("audit --run run --out audit --folds 2 --repeats 1");
    let line = format!("warning: {warning}\n");
    assert!(shown.stdout.contains(&line) && shown.stderr.contains(&line), "{}{}", shown.stdout, shown.stderr);
    assert!(sandbox.text("audit/report.md").contains(&said));
    // The page shows texts, escaped.
    let page = sandbox.text("audit/report.html");
    assert!(page.contains(&said));
    assert!(
        page.contains("Labels that are most likely wrong") && page.contains("REJECTED") && !page.contains("<script")
    );

    // The same command trains nothing, and gives the same bytes.
    let (before, bytes) = (sandbox.files("audit/folds"), sandbox.bytes("audit/audit.parquet"));
    audit(&sandbox, "--action drop");
    assert_eq!(sandbox.files("audit/folds"), before);
    assert!(sandbox.bytes("audit/audit.parquet") == bytes);
    // Another repeat has other folds; those of the first stay.
    let told = sandbox.ok("audit --run run --out audit --folds 2 --repeats 2 --quiet");
    assert!(told.stdout.contains("estimated rate"), "{}", told.stdout);
    assert!(sandbox.files("audit/folds").len() > before.len());
    assert!(sandbox.bytes("audit/audit.parquet") != bytes);
}

#[test]
fn wrong_labels_are_left_out_or_turned_round_and_no_others() {
    let sandbox = ground();
    let data = pairs(&sandbox, "data");
    let rejected: BTreeMap<String, String> = {
        let frame = sandbox.parquet("data/pairs/train.parquet");
        let column =
            lpc_pipe::message::MessageColumn::open(frame.column("rejected").expect("rejected")).expect("messages");
        texts(&frame, "id").into_iter().enumerate().map(|(i, id)| (id, text(&column, i))).collect()
    };
    // A tenth of the labels, however sure a model of this size is.
    audit(&sandbox, "");
    let mut p = numbers(&sandbox.parquet("audit/audit.parquet"), "p_wrong");
    p.sort_by(f64::total_cmp);
    let threshold = p[p.len() * 9 / 10];
    audit(&sandbox, &format!("--action drop --threshold {threshold}"));
    let frame = sandbox.parquet("audit/audit.parquet");
    let wrong: BTreeSet<String> = texts(&frame, "id")
        .into_iter()
        .zip(numbers(&frame, "p_wrong"))
        .filter(|(_, p)| *p > threshold)
        .map(|(id, _)| id)
        .collect();
    assert!(!wrong.is_empty() && wrong.len() < data.len(), "{} of {}", wrong.len(), data.len());
    let cleaned = pairs(&sandbox, "audit/cleaned");
    let kept: BTreeMap<_, _> = data.clone().into_iter().filter(|(id, _)| !wrong.contains(id)).collect();
    assert!(cleaned == kept);
    for name in ["pairs/test.parquet", "tokens/test.arrow", "rejects.parquet"] {
        assert!(sandbox.bytes(&format!("audit/cleaned/{name}")) == sandbox.bytes(&format!("data/{name}")), "{name}");
    }

    let summary = audit(&sandbox, &format!("--action flip --threshold {threshold}"));
    assert_eq!(summary["cleaned"]["flipped"].as_u64(), Some(wrong.len() as u64));
    let turned = pairs(&sandbox, "audit/cleaned");
    for (id, (chosen, flipped, tokens)) in &turned {
        let (before, was_flipped, before_tokens) = &data[id];
        let changed = wrong.contains(id);
        assert_eq!(chosen, if changed { &rejected[id] } else { before });
        assert_eq!(*flipped, *was_flipped != changed);
        assert_eq!(tokens == before_tokens, !changed);
    }
    // Scores and models go with their texts.
    let (a, b) = (sandbox.parquet("data/pairs/train.parquet"), sandbox.parquet("audit/cleaned/pairs/train.parquet"));
    for (left, right) in [("score_chosen", "score_rejected"), ("score_rejected", "score_chosen")] {
        let (as_before, swapped, now) = (numbers(&a, left), numbers(&a, right), numbers(&b, left));
        for (i, id) in texts(&a, "id").iter().enumerate() {
            assert_eq!(now[i], if wrong.contains(id) { swapped[i] } else { as_before[i] });
        }
    }
    // What is left is a prepared folder.
    sandbox
        .ok("train --data audit/cleaned --model tiny:16x1 --latent none --max-steps 1 --batch 8 --out again --quiet");
    let manifest = sandbox.json("audit/cleaned/manifest.json");
    assert_eq!(manifest["facts"]["audit"]["action"], "flip");
}

#[test]
fn a_persons_verdicts_are_obeyed() {
    let sandbox = ground();
    let summary = audit(&sandbox, "--action review --threshold 0.2");
    let review = sandbox.text("audit/review.csv");
    assert!(review.starts_with("id,verdict,p_wrong,reasons,prompt,chosen,rejected\n"), "{review}");
    assert!(summary["for_review"].as_u64().is_some_and(|n| n >= 3) && summary["cleaned"].is_null());
    let p = numbers(&sandbox.parquet("audit/audit.parquet"), "p_wrong");
    let n = p.iter().filter(|p| **p > 0.2).count() as u64;
    let counts = |summary: &serde_json::Value| [&summary["for_review"], &summary["not_for_review"]].map(|n| n.as_u64());
    assert_eq!(counts(&summary), [Some(n.min(100)), Some(n.saturating_sub(100))]);
    let ids: Vec<String> = pairs(&sandbox, "data").into_keys().collect();
    // Of more pairs than asked for the worst are written, and that is said.
    let told = sandbox.ok(
        "audit --run run --out audit --folds 2 --repeats 1 --action review --threshold 0.2 --set audit.worst=2 --quiet",
    );
    let said = format!("the worst 2 of {n} pairs above the threshold (audit.worst)");
    assert!(told.stdout.contains(&format!("review.csv: {said};")), "{}", told.stdout);
    assert!(sandbox.text("audit/report.html").contains(&format!("review.csv has {said}.")));
    assert_eq!(counts(&sandbox.json("audit/summary.json")), [Some(2), Some(n - 2)]);
    // A table without verdicts is written anew, one with a verdict or one that is not understood is not.
    audit(&sandbox, "--action review --threshold 0.2");
    assert_eq!(sandbox.text("audit/review.csv"), review);
    let decided = |n: usize, verdict: &str| {
        let rows = ids.iter().map(|id| (format!("\n{id},\"\","), format!("\n{id},{verdict},")));
        rows.filter(|(row, _)| review.contains(row))
            .take(n)
            .fold(review.clone(), |all, (row, new)| all.replace(&row, &new))
    };
    let again = "audit --run run --out audit --folds 2 --repeats 1 --quiet --action review";
    for (table, said) in [
        (decided(1, "keep"), "audit/review.csv: holds the verdict of a person on 1 pair\n"),
        ("pair,verdict\n".into(), "audit/review.csv: cannot be read, and may hold a person's verdicts"),
    ] {
        sandbox.write("audit/review.csv", &table);
        let told = sandbox.ends(3, again);
        assert!(told.stderr.contains(said) && told.stderr.contains("--verdicts audit/review.csv"), "{}", told.stderr);
        assert_eq!(sandbox.text("audit/review.csv"), table);
    }
    let filled = decided(2, "drop");
    sandbox.write("audit/review.csv", &filled);
    let summary = audit(&sandbox, "--action review --verdicts audit/review.csv");
    assert_eq!(summary["cleaned"]["dropped"].as_u64(), Some(2));
    assert_eq!(sandbox.text("audit/review.csv"), filled);
    sandbox
        .write("mine.csv", format!("verdict,id\nflip,{}\n drop ,{}\nkeep,{}\n,{}\n", ids[0], ids[1], ids[2], ids[3]));
    let summary = audit(&sandbox, "--action review --verdicts mine.csv");
    assert_eq!((summary["cleaned"]["flipped"].as_u64(), summary["cleaned"]["dropped"].as_u64()), (Some(1), Some(1)));
    let (before, after) = (pairs(&sandbox, "data"), pairs(&sandbox, "audit/cleaned"));
    assert!(!after.contains_key(&ids[1]) && after[&ids[0]] != before[&ids[0]]);
    assert!(ids[2..].iter().all(|id| after[id] == before[id]));
    for (table, said) in [
        (format!("id,verdict\n{},perhaps\n", ids[0]), "mine.csv: verdict: pair"),
        ("id,verdict\nnobody,drop\n".into(), "mine.csv: id: pair nobody is not among the training pairs"),
    ] {
        sandbox.write("mine.csv", table);
        let told = sandbox.ends(3, "audit --run run --out audit --folds 2 --quiet --action review --verdicts mine.csv");
        assert!(told.stderr.contains(said), "{}", told.stderr);
    }
}

#[test]
fn what_cannot_be_audited_is_refused() {
    let sandbox = ground();
    for (args, code, said) in [
        ("--run data --out audit", 3, "written by `prepare`, not by `train`"),
        ("--run run --out run", 3, "an input of this command"),
        ("--run run --out audit --folds 1", 2, "audit.folds: expected at least 2"),
        ("--run run --out audit --seed 99", 2, "flag --seed: seed: has no effect: an audit has its run's seed"),
        (
            "--run run --out audit --folds 4000",
            2,
            "flag --folds: audit.folds: part 1 of 4000 has no prompt: fewer --folds",
        ),
        ("--run run --out audit --threshold 0.4", 2, "has no effect without action drop, flip or review"),
        ("--run run --out audit --action drop --verdicts a.csv", 2, "has no effect without action review"),
    ] {
        let told = sandbox.ends(code, &format!("audit {args} --quiet"));
        let said = said.trim_start_matches("audit.folds: ");
        assert!(told.stderr.contains(said), "{args}: {}", told.stderr);
    }
    assert!(!sandbox.exists("audit"));
}

#[test]
fn a_model_that_has_changed_since_the_run_is_told() {
    let sandbox = ground();
    let line = "train --data data --tune lora --latent none --batch 16 --seed 3 --epochs 0.5 --quiet";
    for seed in [1, 2] {
        sandbox.ok(&format!(
            "train --data data --model tiny:16x1 --latent none --max-steps 1 --seed {seed} --out m{seed} --quiet"
        ));
    }
    std::fs::rename(sandbox.path("m1/model"), sandbox.path("base")).unwrap();
    sandbox.ok(&format!("{line} --model base --out adapter"));
    // One over the plain model, and one that goes on with an adapter: its codes are trained over both merged.
    sandbox.ok(&format!("{line} --model adapter/model --out further"));
    let warned = |run: &str, out: &str| {
        let told = sandbox.ok(&format!("audit --run {run} --out {out} --folds 2 --repeats 1"));
        let said = "base has other weights than when the run started from it";
        (told.stderr.contains(said), told.stderr)
    };
    let (before, told) = warned("adapter", "before");
    assert!(!before, "{told}");
    let (before, told) = warned("further", "before-further");
    assert!(!before && !told.contains("other weights"), "{told}");
    std::fs::remove_dir_all(sandbox.path("base")).unwrap();
    std::fs::rename(sandbox.path("m2/model"), sandbox.path("base")).unwrap();
    let (after, told) = warned("adapter", "after");
    assert!(after, "{told}");
}

#[test]
fn weights_are_one_less_the_probability() {
    let sandbox = ground();
    audit(&sandbox, "--action weight");
    let (ids, p) = (
        texts(&sandbox.parquet("audit/audit.parquet"), "id"),
        numbers(&sandbox.parquet("audit/audit.parquet"), "p_wrong"),
    );
    let (frame, tokens) =
        (sandbox.parquet("audit/cleaned/pairs/train.parquet"), sandbox.arrow("audit/cleaned/tokens/train.arrow"));
    assert_eq!(texts(&frame, "id"), ids);
    for weights in [numbers(&frame, "weight"), numbers(&tokens, "weight")] {
        assert!(weights.iter().zip(&p).all(|(w, p)| (w - (1.0 - p)).abs() < 1e-12));
    }
    assert_eq!(sandbox.json("audit/cleaned/manifest.json")["facts"]["weighted"].as_u64(), Some(ids.len() as u64));
    let page = sandbox.text("audit/report.md");
    let said = format!("the weights of {} were multiplied by", ids.len());
    assert!(page.contains(&said) && !page.contains("of an earlier audit"), "{page}");
    // Another action writes no cleaned folder, and says that the one that is there is not its own.
    let told = sandbox.ok("audit --run run --out audit --folds 2 --repeats 1");
    assert!(told.stderr.contains("warning: audit/cleaned is that of an earlier audit"), "{}", told.stderr);
    assert!(sandbox.text("audit/report.md").contains("is that of an earlier audit of this folder"));
    assert!(sandbox.exists("audit/cleaned/manifest.json"));
    // The page of an audit takes none of the settings of a run's; a recipe's seed is not for it alone.
    for (args, said) in [
        ("--points 20", "flag --points: report.points: has no effect on the page of a sweep or an audit"),
        ("--seed 3", "flag --seed: seed: has no effect on the page of a sweep or an audit"),
        ("--set seed=3", "--set: seed: has no effect on the page of a sweep or an audit"),
    ] {
        let told = sandbox.ends(2, &format!("report audit {args}"));
        assert!(told.stderr.contains(said), "{args}: {}", told.stderr);
    }
    sandbox.write("seed.toml", "seed = 3\n");
    sandbox.ok("report audit --config seed.toml --quiet");
}

#[test]
fn margins_are_recorded_after_each_epoch_and_averaged() {
    let sandbox = ground();
    let line = format!("{TRAIN} --epochs 2.5 --set train.checkpoint_every=3 --set train.dynamics=true");
    sandbox.ok(&format!("{line} --out straight"));
    let dynamics = sandbox.parquet("straight/dynamics.parquet");
    let (ids, epochs) = (texts(&dynamics, "id"), numbers(&dynamics, "epoch"));
    let (n, margins) = (ids.len() / 3, numbers(&dynamics, "margin"));
    let posteriors = sandbox.parquet("straight/posteriors.parquet");
    assert_eq!(ids[..n], texts(&posteriors, "id"));
    assert_eq!(texts(&dynamics, "split")[..n], texts(&posteriors, "split"));
    assert!((0..3 * n).all(|i| epochs[i] == (i / n + 1) as f64 && ids[i] == ids[i % n]));
    // After the last epoch it is the trained policy; before it was another.
    assert_eq!(margins[2 * n..], numbers(&posteriors, "margin"));
    assert_ne!(margins[n..2 * n], margins[2 * n..]);
    // Stopped within the first epoch, which is recorded as far as it came; so it is where no step is left to take.
    let own = |out: &str| {
        let (dynamics, posteriors) = (
            sandbox.parquet(&format!("{out}/dynamics.parquet")),
            sandbox.parquet(&format!("{out}/posteriors.parquet")),
        );
        assert_eq!(numbers(&dynamics, "margin"), numbers(&posteriors, "margin"), "{out}");
        assert_eq!(numbers(&dynamics, "epoch"), vec![1.0; n], "{out}");
    };
    sandbox.ok(&format!("{line} --max-steps 3 --keep-optimizer --out short"));
    own("short");
    for file in ["manifest.json", "dynamics.parquet"] {
        std::fs::remove_file(sandbox.path(&format!("short/{file}"))).expect("a file of the run");
    }
    sandbox.ok(&format!("{line} --max-steps 2 --resume --out short"));
    own("short");
    // Stopped within the second epoch, and gone on with.
    sandbox.ok(&format!("{line} --max-steps 11 --out stopped"));
    assert!(numbers(&sandbox.parquet("stopped/dynamics.parquet"), "epoch").contains(&2.0));
    sandbox.ok(&format!("{line} --resume --out stopped"));
    for file in ["dynamics.parquet", "posteriors.parquet"] {
        assert!(sandbox.bytes(&format!("stopped/{file}")) == sandbox.bytes(&format!("straight/{file}")), "{file}");
    }

    // Of two folds each pair is trained on by one model: the area is the mean over its epochs.
    audit(&sandbox, "");
    let mut expected: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for file in sandbox.files("audit/folds").iter().filter(|file| file.ends_with("dynamics.parquet")) {
        let frame = sandbox.parquet(&format!("audit/folds/{file}"));
        let rows = texts(&frame, "id").into_iter().zip(texts(&frame, "split")).zip(numbers(&frame, "margin"));
        for ((id, _), margin) in rows.filter(|((_, split), _)| split == "train") {
            expected.entry(id).or_default().push(margin);
        }
    }
    let table = sandbox.parquet("audit/audit.parquet");
    let areas = numbers(&table, "area_under_margin");
    for (id, area) in texts(&table, "id").iter().zip(&areas) {
        let own = &expected[id];
        assert!(own.len() == 2 && (area - (own[0] + own[1]) / 2.0).abs() < 1e-12, "{id}: {area} of {own:?}");
    }
    assert!(sandbox.text("audit/report.html").contains("area_under_margin"));
    // The run's own settings with its limit of steps: the epoch that was begun is all there is.
    sandbox.ok("audit --run short --ranker run --folds 2 --repeats 1 --out begun --quiet");
    assert_eq!(sandbox.parquet("begun/audit.parquet").column("area_under_margin").expect("a column").null_count(), 0);
    // The run's own settings over a backbone that moves: nothing is recorded, and the page says so.
    sandbox.ok("train --data data --model tiny:16x1 --latent none --max-steps 1 --batch 8 --out plain --quiet");
    sandbox.ok("audit --run plain --ranker run --folds 2 --repeats 1 --out other --quiet");
    let table = sandbox.parquet("other/audit.parquet");
    assert_eq!(table.column("area_under_margin").expect("a column").null_count(), table.height());
    assert!(sandbox.text("other/report.html").contains("area under the margin is not known"));
}

/// Copies of a pair share its id: nothing is trained, and the remedy that is told helps.
#[test]
fn copies_of_a_pair_are_refused_before_training() {
    let sandbox = Sandbox::new();
    let row = |i: usize| format!("{{\"prompt\": \"Which {i}?\", \"chosen\": \"Good {i}.\", \"rejected\": \"Bad.\"}}\n");
    sandbox.write("pairs.jsonl", (0..40).map(row).chain((0..3).map(row)).collect::<String>());
    let prepare = "prepare --input pairs.jsonl --out data --quiet --test-fraction";
    sandbox.ok(&format!("{prepare} 0 --set prepare.pairs.dedup=none"));
    sandbox.ok(&format!("{TRAIN} --max-steps 1 --out run"));
    let refused = sandbox.ends(3, "audit --run run --out audit --folds 2 --repeats 1 --quiet");
    let id = texts(&sandbox.parquet("data/pairs/train.parquet"), "id");
    let first = id.iter().find(|a| id.iter().filter(|b| a == b).count() == 2).expect("a copy");
    let said = format!("error: data: 6 of 43 training pairs are copies of each other, as those of pair {first}\n");
    assert!(refused.stderr.starts_with(&said), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: an audit wants each pair once: prepare without prepare.pairs.dedup"));
    assert!(!sandbox.exists("audit"), "nothing is trained");
    std::fs::remove_dir_all(sandbox.path("data")).expect("removed");
    sandbox.ok(&format!("{prepare} 0"));
    sandbox.ok(&format!("{TRAIN} --max-steps 1 --out once"));
    sandbox.ok("audit --run once --out audit --folds 2 --repeats 1 --quiet");
    assert_eq!(sandbox.parquet("audit/audit.parquet").height(), 40);
}

#[test]
fn planted_flips_are_found_better_than_by_chance() {
    let sandbox = Sandbox::new();
    sandbox.synth(500);
    sandbox.ok("prepare --input raw --out data --test-fraction 0.125 --flip-rate 0.2 --quiet");
    sandbox.ok(&format!("{TRAIN} --epochs 4 --out run"));
    let summary = audit(&sandbox, "");
    let table = sandbox.parquet("audit/audit.parquet");
    let flipped = flags(&table, "flipped");
    // Of some 87 flips among 437 pairs, an AUROC has a standard error of about 0.035.
    for (name, sign) in [("p_wrong", 1.0), ("cross_area_under_margin", -1.0), ("area_under_margin", -1.0)] {
        let scores: Vec<f64> = numbers(&table, name).iter().map(|x| sign * x).collect();
        let found = lpc_pipe::analysis::auroc(&scores, &flipped);
        assert!(found > 0.58, "{name}: {found}");
    }
    // Held out by the one model of the two that was not trained on the pair: the mean over its epochs.
    let mut expected: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for file in sandbox.files("audit/folds").iter().filter(|file| file.ends_with("dynamics.parquet")) {
        let frame = sandbox.parquet(&format!("audit/folds/{file}"));
        let rows = texts(&frame, "id").into_iter().zip(texts(&frame, "split")).zip(numbers(&frame, "margin"));
        for ((id, _), margin) in rows.filter(|((_, split), _)| split == "test") {
            expected.entry(id).or_default().push(margin);
        }
    }
    let (ids, evidence) = (texts(&table, "id"), numbers(&table, "evidence"));
    let (log_odds, areas) = (numbers(&table, "log_odds"), numbers(&table, "cross_area_under_margin"));
    for (id, area) in ids.iter().zip(&areas) {
        let own = &expected[id];
        assert!(own.len() == 4 && (area - own.iter().sum::<f64>() / 4.0).abs() < 1e-12, "{id}: {area} of {own:?}");
    }
    // The evidence is their mean with the weight that the summary tells, on the scale of the log-odds.
    let share = summary["epochs_share"].as_f64().expect("a share");
    let size = |values: &[f64]| (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
    let mixed: Vec<f64> = log_odds
        .iter()
        .zip(&areas)
        .map(|(x, y)| (1.0 - share) * x + share * y * size(&log_odds) / size(&areas))
        .collect();
    let factor = size(&log_odds) / size(&mixed);
    assert!(evidence.iter().zip(&mixed).all(|(e, m)| (e - factor * m).abs() < 1e-9));
    assert!((0.0..=1.0).contains(&share) && evidence != log_odds);
}
