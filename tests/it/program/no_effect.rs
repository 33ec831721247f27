//! Settings without effect: those of other commands on the command line, and those of `prepare` that find nothing to act
//! on, errors where the result would not be what was asked for, warnings elsewhere.

use crate::support::Sandbox;

/// Pairs without scores, annotators and probabilities, each with a source of its own.
fn bare(sandbox: &Sandbox) {
    let row = |i: usize| {
        format!(
            "{{\"source\": \"s\", \"prompt\": \"Name the number {i}.\", \"chosen\": \"It is {i}, I say.\", \"rejected\": \
             \"No {i}, no.\", \"rating_a\": {}, \"rating_b\": 1}}\n",
            i + 1
        )
    };
    sandbox.write("in.jsonl", (0..20).map(row).collect::<String>());
}

#[test]
fn settings_that_find_nothing_are_refused() {
    let sandbox = Sandbox::new();
    bare(&sandbox);
    for (settings, said) in [
        (
            "--min-margin 3",
            "flag --min-margin: prepare.pairs.min_margin: --min-margin 3 has nothing to compare: none of the 20 pairs has \
             two scores; --columns score_chosen=COLUMN score_rejected=COLUMN",
        ),
        ("--set prepare.pairs.conflicts=keep-higher-margin", "keep-higher-margin has nothing to compare"),
        ("--set prepare.pairs.ties=break", "break has no effect: none of the 20 rows has completions"),
        ("--flip-rate 0.2 --flip-kind margin", "--flip-kind margin needs pairs with two scores, and none of the 20"),
        ("--flip-rate 0.2 --flip-kind weak-quality", "--flip-kind weak-quality needs pairs with a chosen score above"),
        ("--flip-rate 0.2 --flip-kind annotator", "--flip-kind annotator needs pairs that name their annotator"),
        (
            "--flip-rate 0.2 --flip-kind annotator --set prepare.noise.annotator_rates=['a=0.5']",
            "--flip-kind annotator: none of the 20 pairs names its annotator",
        ),
        ("--flip-rate 0.2 --flip-kind column", "--flip-kind column: none of the 20 pairs has a flip_probability"),
        (
            "--flip-rate 0.2 --flip-kind source --set prepare.noise.source_rates=['x=0.5']",
            "prepare.noise.source_rates: x: the source of no pair; no label is flipped. There are s",
        ),
        (
            "--template zephyr",
            "prepare.tokenize.template: has no effect: a tokenizer that is trained on the input has chatml",
        ),
        ("--set prepare.pairs.dedup=none --mix in:cap=3", "prepare.mix: a cap counts copies of a row once"),
        ("--source-rule t=contains:number", "--source-rule has no effect: all 20 rows have a source already"),
    ] {
        let output = sandbox.ends(2, &format!("prepare --input in.jsonl --out out {settings}"));
        assert!(output.stderr.contains(said), "{settings}: {}", output.stderr);
        assert_eq!(sandbox.files("out"), Vec::<String>::new(), "{settings}");
    }
    // With the columns named there is something to act on.
    let named = "--columns score_chosen=rating_a score_rejected=rating_b";
    let kept = sandbox.ok(&format!("prepare --input in.jsonl --out out --min-margin 10 {named} --json")).json();
    assert_eq!(kept["pairs"], 10);
}

#[test]
fn settings_that_may_well_find_nothing_are_told() {
    let sandbox = Sandbox::new();
    bare(&sandbox);
    for (settings, said) in [
        ("--flip-kind margin --flip-marker X", "--flip-kind, --flip-marker have no effect: --flip-rate is 0"),
        ("--pairs best-vs-worst", "--pairs has no effect: all rows are pairs already"),
        ("--keep-source truthful_qa", "--keep-source truthful_qa: no row is from truthful_qa"),
        ("--set prepare.sources.exclude=['nowhere']", "prepare.sources.exclude: no row is from nowhere"),
        ("--test-fraction 0.0001", "none of the 20 pairs is in the test split (--test-fraction 0.0001)"),
        (
            "--flip-rate 0.2 --flip-kind source --set prepare.noise.source_rates=['x=0.5','*=0.3']",
            "prepare.noise.source_rates: x is the source of no pair",
        ),
    ] {
        let output = sandbox.ok(&format!("prepare --input in.jsonl --out out {settings}"));
        assert!(output.stderr.contains(&format!("warning: {said}")), "{settings}: {}", output.stderr);
    }
    let quiet = sandbox.ok("prepare --input in.jsonl --out out --test-fraction 0.3");
    assert!(!quiet.stderr.contains("warning: "), "{}", quiet.stderr);
    // A part of the rows without scores is told of, not refused.
    let scored = "{\"prompt\": \"And this?\", \"chosen\": \"a\", \"rejected\": \"b\", \"score_chosen\": 4, \
                  \"score_rejected\": 1}\n";
    sandbox.write("more.jsonl", scored);
    let output = sandbox.ok("prepare --input in.jsonl more.jsonl --out out --min-margin 2");
    let said = "warning: --min-margin: 20 of 21 rows lack one of their two scores and are kept";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    // What this shard lacks others may have.
    let output = sandbox.ok("prepare --input in.jsonl --out out --min-margin 2 --shard 1/2");
    assert!(output.stderr.contains("warning: in this shard: prepare.pairs.min_margin"), "{}", output.stderr);
}

/// A recipe file is for all commands; `--set` is for the one that runs, as its flags are.
#[test]
fn keys_of_other_commands_are_refused_on_the_command_line() {
    let sandbox = Sandbox::new();
    sandbox.write("all.toml", "seed = 4\n[eval]\nbatch = 16\n[prepare.noise]\nflip_rate = 0.3\n[slurm]\ncpus = 2\n");
    let train = "train --config all.toml --data d --out r --model tiny:16x1";
    insta::assert_snapshot!(
        sandbox
            .ends(2, &format!("{train} --set batch=16 --set eval.batch=16 --set prepare.noise.flip_rate=0.3 --set flip_rate=0.3"))
            .stderr,
        @r"
    error: 4 faults in the configuration
      --set: batch: unknown key; did you mean `train.batch`?
      --set: eval.batch: has no effect on `train`
      --set: prepare.noise.flip_rate: has no effect on `train`
      --set: flip_rate: unknown key; `prepare.noise.flip_rate` has no effect on `train`
    "
    );
    for (line, said) in [
        ("merge a b --out c --set prepare.noise.flip_rate=0.5", "prepare.noise.flip_rate: has no effect on `merge`"),
        ("audit --run r --out a --set seed=4", "seed: has no effect: an audit has its run's seed"),
        ("audit --run r --out a --set train.lr=1", "train.lr: has no effect on `audit`"),
        ("inspect all.toml --set threads=1 --set seed=1 --set train={lr=1}", "train: has no effect on `inspect`"),
        (
            "prepare --input d --out p --set slurm.cpus=2",
            "slurm.cpus: has no effect without --launcher slurm or skypilot",
        ),
        ("noise-sweep --out s --launcher commands --set slurm.cpus=2", "slurm.cpus: has no effect without --launcher"),
        ("demo --out o --set train.lr=1", "train.lr: has no effect on `demo`, which has a value of its own for it"),
        ("demo --out o --set train={lpc={codes=4,warmup=1}}", "train.lpc.warmup: has no effect on `demo`"),
        ("noise-sweep --out s --set report.points=9", "report.points: has no effect on `noise-sweep`"),
    ] {
        let error = sandbox.ends(2, line).stderr;
        assert!(error.starts_with(&format!("error: --set: {said}")), "{line}: {error}");
    }
    // What has an effect is judged by its value.
    for (line, key) in [
        ("noise-sweep --launcher slurm --out s --set slurm.cpus=0", "slurm.cpus"),
        ("prepare --launcher skypilot --shards 2 --input d --out p --set slurm.cpus=0", "slurm.cpus"),
        ("noise-sweep --out s --set train.batch=0 --set prepare.input=[\"x\"]", "train.batch"),
        ("demo --out o --set report.points=0", "report.points"),
        ("report r --set report.points=0", "report.points"),
    ] {
        let error = sandbox.ends(2, line).stderr;
        assert!(error.contains(&format!("{key}: expected")) && !error.contains("no effect"), "{line}: {error}");
    }
    // The recipe's keys for other commands are none of this command's business.
    let error = sandbox.ends(3, train).stderr;
    assert!(error.starts_with("error: d"), "{error}");
}
