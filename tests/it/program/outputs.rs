//! No output replaces what the program did not write, an input of the same command, or what another command wrote.

use std::collections::BTreeMap;

use crate::support::Sandbox;

const TRAIN: &str = "train --data data --model tiny:16x1 --latent none --batch 8 --max-steps 1 --quiet";
const SWEEP: &str = "[prepare]\ninput = ['raw']\n[train]\nmodel = 'tiny:16x1'\n";

/// Every file with its bytes; what the program notes of itself in `.lock` is no file of anybody.
fn all(sandbox: &Sandbox) -> BTreeMap<String, Vec<u8>> {
    sandbox.files("").into_iter().map(|name| (name.clone(), sandbox.bytes(&name))).collect()
}

/// One folder of each command, and folders of others.
fn ground() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&format!("{TRAIN} --out run"));
    sandbox.ok("score --data data --model tiny:16x1 --out scores.parquet --quiet");
    sandbox.ok("export --run run --out hf --quiet");
    for part in ["1", "2"] {
        sandbox.ok(&format!("prepare --input raw --out part{part} --shard {part}/2 --quiet"));
    }
    sandbox.ok("merge part1 part2 --out merged --quiet");
    sandbox.write("sweep.toml", SWEEP);
    sandbox.write("in/rows.jsonl", sandbox.bytes("raw/corpus.jsonl"));
    for name in ["page/manifest.json", "page/index.html", "mine/corpus.jsonl", "mine/pairs", "mine/config.toml"] {
        sandbox.write(name, "{}");
    }
    for name in ["mine/demo.json", "mine/results.parquet", "theirs/metrics.jsonl", "theirs/report.html"] {
        sandbox.write(name, "{}");
    }
    sandbox
}

#[test]
fn refused_with_nothing_changed() {
    let sandbox = ground();
    #[cfg(unix)]
    std::os::unix::fs::symlink(sandbox.path("run"), sandbox.path("link")).expect("a link");
    let mut before = all(&sandbox);
    let mut faults = Vec::new();
    let score = "score --data data --model tiny:16x1 --out";
    let stages = ["`prepare`", "`train`", "`synth`", "`export`"];
    let held = stages.map(|stage| format!("holds the output of {stage}"));
    let [prepare, train, synth, export] = [0, 1, 2, 3].map(|i| held[i].as_str());
    let (input, foreign) = ("an input of this command", "lpc-pipe did not write");
    for (line, said) in [
        (format!("{score} raw/corpus.jsonl"), "`score` did not write it"),
        (format!("{score} in/rows.jsonl"), "`score` did not write it"),
        (format!("{score} data/pairs/train.parquet"), "`score` did not write it"),
        (format!("{score} ./data/../data/tokens/new.parquet"), "which `prepare` wrote"),
        (format!("{score} run"), "a folder is there"),
        (format!("{score} sweep.toml"), "`score` did not write it"),
        ("prepare --input in/rows.jsonl --out run".into(), train),
        ("prepare --input in/rows.jsonl --out hf".into(), export),
        ("prepare --input raw --out raw".into(), input),
        ("prepare --input in --out in/".into(), input),
        ("prepare --input in --out page".into(), foreign),
        ("prepare --input in --out mine".into(), foreign),
        ("prepare --input in --out in/rows.jsonl".into(), "a file is there"),
        ("prepare --input data/pairs/train.parquet --out data".into(), input),
        ("prepare --input in --decontaminate data/rejects.parquet --out data".into(), input),
        ("prepare --input in --tokenizer hf --out hf".into(), input),
        ("prepare --input in --out data/tokens/deeper".into(), "which `prepare` wrote"),
        #[cfg(unix)]
        ("prepare --input in --out link".into(), train),
        (format!("{TRAIN} --out data"), input),
        (format!("{TRAIN} --out raw"), synth),
        (format!("{TRAIN} --out page"), foreign),
        (format!("{TRAIN} --out mine --resume"), foreign),
        (format!("{TRAIN} --out run/model"), "which `train` wrote"),
        (format!("{TRAIN} --out run"), "holds a finished run"),
        ("synth --rows 10 --out data".into(), prepare),
        ("synth --rows 10 --out mine".into(), foreign),
        ("synth --over in --out in".into(), input),
        ("export --run run --out run".into(), input),
        ("export --run run --out run/model".into(), "which `train` wrote"),
        ("export --run run --out data".into(), prepare),
        ("export --run run --out mine".into(), foreign),
        ("merge part1 part2 --out part1".into(), input),
        ("merge part1 part2 --out run".into(), train),
        ("noise-sweep --config sweep.toml --out data".into(), prepare),
        ("noise-sweep --config sweep.toml --out raw".into(), input),
        ("noise-sweep --config sweep.toml --out mine".into(), foreign),
        ("demo --out run".into(), train),
        ("demo --out mine".into(), foreign),
        ("report theirs".into(), foreign),
    ] {
        let output = sandbox.run(&line.split_whitespace().collect::<Vec<_>>());
        let told = output.stderr.contains(said) && output.stderr.contains("\nhint: ");
        let after = all(&sandbox);
        if output.code != 3 || !told || before != after {
            let changed = if before == after { "" } else { "; files have changed" };
            faults.push(format!("{line}: ends with {}{changed}\n{}", output.code, output.stderr));
            before = after;
        }
    }
    assert!(faults.is_empty(), "{} of the commands:\n{}", faults.len(), faults.join("\n"));
}

/// The model is not there: whoever looked at it first would name it.
#[test]
fn where_nothing_can_be_written_is_told_before_the_work() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.write("file", "mine");
    let before = all(&sandbox);
    for line in [
        "score --data data --model no/model --out file/below.parquet",
        "eval --model no/model --task preference --data data --out file/below.parquet",
        "generate --model no/model --prompts raw/corpus.jsonl --out file/below.parquet",
    ] {
        let output = sandbox.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_ne!(output.code, 0, "{line}");
        let said = &output.stderr;
        assert!(said.contains("file/below.parquet") && !said.contains("no/model"), "{line}: {said}");
        assert!(all(&sandbox) == before, "{line}: files have changed");
    }
}

#[test]
fn a_command_may_be_given_twice() {
    let sandbox = ground();
    sandbox.write("two/rows.jsonl", sandbox.bytes("raw/corpus.jsonl"));
    for line in [
        "synth --out raw --rows 60 --factors 3 --seed 5 --quiet",
        "prepare --input raw --out data --test-fraction 0.25 --flip-rate 0.2 --quiet",
        "prepare --input in/rows.jsonl --out in --quiet",
        "prepare --input in/rows.jsonl --out in --quiet",
        "prepare --input two --out two/prepared --quiet",
        "prepare --input two --out two/prepared --quiet",
        "score --data data --model tiny:16x1 --out scores.parquet --quiet",
        "score --data data --model tiny:16x1 --out data/scores.parquet --quiet",
        "score --data data --model tiny:16x1 --out data/scores.parquet --quiet",
        "export --run run --out hf --quiet",
        "export --run run --out hf --as hf --dtype bf16 --quiet",
        "merge part2 part1 --out merged --quiet",
        "report run",
        "report run",
    ] {
        sandbox.ok(line);
    }
    sandbox.ok(&format!("{TRAIN} --out run --resume"));
    // A folder that an earlier version did not finish says nothing of itself.
    sandbox.write("old/.lock", "");
    sandbox.write("old/config.toml", "");
    sandbox.ok(&format!("{TRAIN} --out old"));
}

/// Whatever a command writes at the top of its folder is guarded there.
#[test]
fn every_name_that_a_command_writes_is_guarded() {
    let sandbox = ground();
    sandbox.ok("synth --over raw --out over --quiet");
    let mut n = 0;
    for (folder, line) in [
        ("raw", "synth --rows 10"),
        ("over", "synth --rows 10"),
        ("data", "prepare --input in"),
        ("merged", "merge part1 part2"),
        ("run", TRAIN),
        ("hf", "export --run run"),
    ] {
        let top: std::collections::BTreeSet<String> =
            sandbox.files(folder).iter().filter_map(|f| f.split('/').next()).map(String::from).collect();
        for name in top.iter().filter(|name| !name.starts_with('.')) {
            n += 1;
            let mine = format!("mine-{n}/{name}");
            sandbox.write(&mine, "mine");
            let output = sandbox.ends(3, &format!("{line} --out mine-{n}"));
            assert!(output.stderr.contains("lpc-pipe did not write"), "{line} over {name}: {}", output.stderr);
            assert_eq!(sandbox.text(&mine), "mine");
        }
    }
    assert!(n > 30, "{n}");
}
