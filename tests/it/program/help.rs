//! The help of the program and of every command.

use crate::support::Sandbox;

const COMMANDS: [&str; 11] =
    ["demo", "synth", "prepare", "score", "train", "eval", "generate", "export", "noise-sweep", "report", "inspect"];

#[test]
fn help_at_the_top() {
    let help = Sandbox::new().ok("--help");
    assert_eq!(help.stderr, "");
    insta::assert_snapshot!(help.stdout, @r"
    Latent Preference Coding on dataframes: prepare preference data, inject label noise, train DPO, IPO or SimPO with discrete latent codes, and read every example's code posterior back as Parquet

    Usage: lpc-pipe [OPTIONS] <COMMAND>

    Commands:
      demo         The whole job on built-in data, no network: synth, prepare, train with and without LPC, noise sweep, report
      synth        Plants preferences into made-up texts, or over real ones, in raw UltraFeedback shape
      prepare      Reads preference data, builds pairs, flips labels, writes token batches
      merge        Joins the shards of one preparation to the folder that an unsharded run would have written
      score        Per-example log-probabilities of any model on a prepared folder
      train        Trains a policy, evaluates it with the prior, writes the code posteriors
      generate     Answers prompts with a model: with the prior's codes, one code, or all codes side by side
      eval         Evaluates a model: preference accuracy, ARC, TruthfulQA, GSM8K, RewardBench
      export       Writes a run's model as a Hugging Face folder, an adapter merged, or as a PEFT adapter
      noise-sweep  A grid of noise, objective, latent and seeds; continues where it was stopped
      audit        Ranks a run's training pairs by the evidence that their label is wrong; writes a cleaned prepared folder
      report       Writes report.html and report.md for a run, sweep or audit folder
      inspect      Shows what a file or folder holds: schema, counts, first rows, manifest, one masked example
      recipes      Lists the recipes that come with the program, or prints one
      completions  Writes the shell's script that completes commands and flags to stdout
      man          Writes manual pages, one a command
      help         Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE.toml>  Recipe file (TOML); flags and --set go over it
          --set <KEY=VALUE>     Overrides one key of the recipe, for example --set train.lpc.codes=16 (repeatable)
          --seed <N>            Seed of every random decision [default: 0]
          --threads <N>         Worker threads [default: all cores]
          --json                Prints the result as JSON: one object, of `recipes` and `man` a list; not for `completions`
          --quiet               Prints nothing but the result and errors
      -h, --help                Print help
      -V, --version             Print version
    ");
}

#[test]
fn help_of_every_command_has_its_flags() {
    let sandbox = Sandbox::new();
    let flags: [(&str, &[&str]); 11] = [
        ("demo", &["--out"]),
        ("synth", &["--out", "--rows", "--factors", "--over", "--traits", "--format", "--columns", "--on-bad-row"]),
        (
            "prepare",
            &[
                "--input",
                "--format",
                "--columns",
                "--mix",
                "--source",
                "--source-rule",
                "--join-source",
                "--keep-source",
                "--decontaminate",
                "--near-duplicates",
                "--tokenizer",
                "--out",
                "--pairs",
                "--flip-rate",
                "--flip-kind",
                "--flip-marker",
                "--test-fraction",
                "--max-length",
                "--max-prompt-length",
                "--on-bad-row",
                "--shard",
                "--dry-run",
                "--launcher",
                "--shards",
            ],
        ),
        ("score", &["--data", "--model", "--out"]),
        (
            "train",
            &[
                "--data",
                "--model",
                "--out",
                "--objective",
                "--latent",
                "--codes",
                "--tune",
                "--lora-rank",
                "--lora-alpha",
                "--lora-targets",
                "--batch",
                "--accumulate",
                "--epochs",
                "--max-steps",
                "--lr",
                "--beta",
                "--resume",
                "--reference",
                "--dry-run",
            ],
        ),
        ("eval", &["--model", "--task", "--data", "--limit", "--out", "--reference", "--against"]),
        ("generate", &["--model", "--prompt", "--prompts", "--out", "--code", "--all-codes", "--raw", "--batch"]),
        ("export", &["--run", "--out", "--as", "--dtype"]),
        ("noise-sweep", &["--config", "--out", "--jobs", "--dry-run", "--launcher", "inputs", "cell", "collect"]),
        ("report", &["<DIR>", "--truth", "--projection", "--points"]),
        ("inspect", &["<PATH>"]),
    ];
    assert_eq!(flags.map(|(command, _)| command), COMMANDS);
    for (command, flags) in flags {
        let help = sandbox.ok(&format!("{command} --help")).stdout;
        for flag in flags.iter().chain(&["--config", "--set", "--seed", "--threads", "--json", "--quiet"]) {
            assert!(help.contains(flag), "{command}: no {flag} in\n{help}");
        }
        assert_eq!(sandbox.ok(&format!("help {command}")).stdout, help);
    }
}
