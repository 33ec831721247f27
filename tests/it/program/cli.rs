//! What a person sees: help, tables, errors, exit codes.

use crate::support::{Sandbox, filtered};

#[test]
fn the_version_is_the_packages() {
    let version = Sandbox::new().ok("--version");
    assert_eq!(version.stdout, concat!("lpc-pipe ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn slips_of_the_tongue_get_a_suggestion() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.ends(2, "trian --data x").stderr, @r"
    error: unrecognized subcommand 'trian'

      tip: a similar subcommand exists: 'train'

    Usage: lpc-pipe [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.ends(2, "train --modle x").stderr, @r"
    error: unexpected argument '--modle' found

      tip: a similar argument exists: '--model'

    Usage: lpc-pipe train --model <MODEL>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(
        sandbox.ends(2, "train --set train.lpc.kodes=3 --set train.objectiv.beta=1 --set sed=3 --objective dop").stderr,
        @r#"
    error: 4 faults in the configuration
      --set: train.lpc.kodes: unknown key; did you mean `train.lpc.codes`?
      --set: train.objectiv.beta: unknown key; did you mean `train.objective.beta`?
      --set: sed: unknown key; did you mean `seed`?
      flag --objective: train.objective.name: unknown value `dop`; expected one of: dpo, cdpo, rdpo, drdpo, ropo, hoelder, repo, mix, ipo, simpo, sft; did you mean `dpo`?
    "#
    );
    let none = sandbox.run(&[]);
    assert_eq!((none.code, none.stdout.as_str()), (2, ""));
    assert!(none.stderr.contains("Usage: lpc-pipe"), "{}", none.stderr);
}

#[test]
fn all_faults_are_told_at_once() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.ends(2, "train --batch 0 --epochs -1").stderr, @r#"
    error: 4 faults in the configuration
      train.data: missing: give --data DIR, the output of lpc-pipe prepare
      train.out: missing: give --out DIR
      flag --batch: train.batch: expected at least 1
      flag --epochs: train.epochs: expected a number above 0, got -1
    "#);
    insta::assert_snapshot!(sandbox.ends(2, "prepare --flip-rate 2 --test-fraction -0.5 --shard 3/2").stderr, @r#"
    error: 5 faults in the configuration
      prepare.input: no input; pass --input PATH
      prepare.out: no folder to write; pass --out DIR
      flag --shard: prepare.shard: expected I/N with 1 <= I <= N, got "3/2"
      flag --test-fraction: prepare.pairs.test_fraction: must be between 0 and 1, got -0.5
      flag --flip-rate: prepare.noise.flip_rate: must be between 0 and 1, got 2
    "#);
    insta::assert_snapshot!(sandbox.ends(2, "synth --rows 0 --factors 9").stderr, @r#"
    error: 2 faults in the configuration
      flag --rows: synth.rows: expected 1 to 1073741824, got 0
      flag --factors: synth.factors: expected 2 to 8, got 9
    "#);
    insta::assert_snapshot!(sandbox.ends(2, "score").stderr, @r#"
    error: 3 faults in the configuration
      score.data: missing: give --data
      score.model: missing: give --model
      score.out: missing: give --out
    "#);
    insta::assert_snapshot!(sandbox.ends(2, "noise-sweep").stderr, @r#"
    error: 2 faults in the configuration
      sweep.out: missing: give --out DIR
      prepare.input: no input; pass --input PATH
    "#);
    sandbox.write("r.toml", "[train]\nlr = 'fast'\nepoch = 3\n\n[trian]\nx = 1\n");
    insta::assert_snapshot!(sandbox.ends(2, "train --config r.toml --set train.batch=many --lr 1e-3").stderr, @r#"
    error: 4 faults in the configuration
      r.toml:2:1: train.lr: expected a number, got the string "fast"
      r.toml:3:1: train.epoch: unknown key; did you mean `train.epochs`?
      r.toml:5:2: trian: unknown key; did you mean `train`?
      --set: train.batch: expected an integer, got the string "many"
    "#);
    insta::assert_snapshot!(sandbox.ends(2, "train --config nowhere.toml").stderr, @r#"
    error: nowhere.toml: cannot read the recipe: No such file or directory (os error 2)
    "#);
    assert_eq!(sandbox.files(""), ["r.toml"], "a refused configuration writes nothing");
}

/// The baseline of a recipe with codes is the recipe with `--latent none`: what the file sets for codes is left out, and
/// told. What the command line sets for codes is a fault all the same.
#[test]
fn a_recipe_of_codes_gives_its_baseline() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let recipe = "[train]\ndata = \"data\"\nmodel = \"tiny:16x1\"\nmax_steps = 1\nsave_model = false\n\
        [train.head]\ncache = \"states\"\n[train.lpc]\npreset = \"paper\"\ncodes = 32\nkl_weight = 0.5\ng = \"linear\"\n";
    sandbox.write("r.toml", recipe);
    for chosen in ["--latent none", "--set train.lpc.latent=none"] {
        let output = sandbox.ok(&format!("train --config r.toml --out {} {chosen}", chosen.len()));
        let note = "left out of r.toml, without effect with latent \"none\": \
            train.lpc.codes, train.lpc.kl_weight, train.head.cache\n";
        assert!(output.stderr.contains(note), "{}", output.stderr);
        let config = sandbox.text(&format!("{}/config.toml", chosen.len()));
        assert!(config.contains("latent = \"none\"") && !config.contains("codes = 32"), "{config}");
    }
    let error = sandbox.ends(2, "train --config r.toml --out c --latent none --codes 8 --quiet").stderr;
    assert_eq!(
        error, "error: flag --codes: train.lpc.codes: has no effect with latent \"none\": leave it out\n",
        "what the file sets is no fault beside it"
    );
    // A file that chooses no latent itself is at fault in what it sets beside.
    sandbox.write("n.toml", recipe.replace("preset =", "latent = \"none\"\npreset ="));
    let error = sandbox.ends(2, "train --config n.toml --out d").stderr;
    assert!(error.contains("train.lpc.codes: has no effect with latent \"none\": leave it out"), "{error}");
    assert!(!sandbox.exists("c") && !sandbox.exists("d"));
}

#[test]
fn settings_without_effect_are_faults() {
    let sandbox = Sandbox::new();
    let line =
        "train --data d --out r --objective dpo --latent none --codes 4 --set train.objective.label_smoothing=0.2";
    insta::assert_snapshot!(sandbox.ends(2, line).stderr, @r#"
    error: 2 faults in the configuration
      train.objective.label_smoothing: has no effect with objective "dpo"; use cdpo, rdpo or mix
      flag --codes: train.lpc.codes: has no effect with latent "none": leave it out
    "#);
    for (settings, said) in [
        ("--objective sft --latent lpc", "train.lpc.latent: objective \"sft\" has no pairs to learn a latent from"),
        ("--objective sft --beta 0.3", "train.objective.beta: has no effect with objective \"sft\""),
        ("--set train.objective.gamma_beta_ratio=1", "train.objective.gamma_beta_ratio: has no effect"),
        ("--objective dpo --set train.objective.reduction=sum", "train.objective.reduction: has no effect"),
        ("--set train.lpc.temperature_end=0.5", "train.lpc.temperature_end: has no effect"),
        (
            "--objective ropo --set train.objective.hoelder_gamma=3",
            "train.objective.hoelder_gamma: has no effect with objective \"ropo\"; use hoelder",
        ),
        (
            "--objective repo --set train.objective.repo_clean_rate=1 --set train.objective.repo_ema=0.2",
            "train.objective.repo_ema: has no effect with repo_clean_rate = 1",
        ),
        (
            "--set train.objective.mix_flip=learned",
            "train.objective.mix_flip: has no effect with objective \"dpo\"; use mix",
        ),
        (
            "--latent lpc-reliable",
            "train.lpc.latent: \"lpc-reliable\" gives each code a flip rate: it needs objective \"mix\"",
        ),
        (
            "--latent lpc-reliable --objective mix --set train.objective.mix_flip=learned",
            "train.objective.mix_flip: has no effect with latent \"lpc-reliable\"",
        ),
        (
            "--latent gaussian --set train.lpc.temperature=0.5",
            "train.lpc.temperature: has no effect with latent \"gaussian\"",
        ),
        ("--latent mlp --set train.lpc.pooling=last", "train.lpc.pooling: has no effect with latent \"mlp\""),
        ("--latent mlp --set train.lpc.g=prior", "train.lpc.g: has no effect with latent \"mlp\""),
        ("--latent bias --codes 4", "train.lpc.codes: has no effect with latent \"bias\""),
        ("--latent bias --set train.lpc.balance=0", "train.lpc.balance: has no effect with latent \"bias\""),
    ] {
        let output = sandbox.ends(2, &format!("train --data d --out r {settings}"));
        assert!(output.stderr.contains(said), "{settings}: {}", output.stderr);
    }
    let sweep = "noise-sweep --out s --set prepare.input=[\"x\"]";
    for (settings, said) in [
        ("--set prepare.noise.flip_rate=0.3", "prepare.noise.flip_rate: has no effect in a sweep; use sweep.noise_p"),
        ("--set sweep.latent=[\"none\"] --set sweep.codes=[4]", "sweep.codes: without effect"),
        ("--set sweep.noise_p=[0.0] --set sweep.marked=[true]", "sweep.marked: without effect"),
        ("--set sweep.latent=[\"lpc-reliable\"]", "sweep.latent: `lpc-reliable` needs objective mix"),
        (
            "--set sweep.latent=[\"none\",\"mlp\"] --set train.lpc.balance=0",
            "train.lpc.balance: has no effect: no cell of this sweep uses it",
        ),
        (
            "--set train.objective.mix_flip=learned",
            "train.objective.mix_flip: has no effect: no cell of this sweep uses it",
        ),
    ] {
        let output = sandbox.ends(2, &format!("{sweep} {settings}"));
        assert!(output.stderr.contains(said), "{settings}: {}", output.stderr);
    }
    assert!(sandbox.files("").is_empty());
}

#[test]
fn flags_win_over_set_and_set_over_the_file() {
    let sandbox = Sandbox::new();
    sandbox.write("r.toml", "seed = 3\n[synth]\nrows = 10\nfactors = 2\nout = 'a'\n");
    sandbox.ok("synth --config r.toml --quiet");
    assert_eq!(sandbox.text("a/corpus.jsonl").lines().count(), 10);
    sandbox.ok("synth --config r.toml --set synth.rows=11 --set synth.out=b --quiet");
    assert_eq!(sandbox.text("b/corpus.jsonl").lines().count(), 11);
    sandbox.ok("synth --config r.toml --set synth.rows=11 --rows 12 --out c --quiet");
    assert_eq!(sandbox.text("c/corpus.jsonl").lines().count(), 12);
    assert_eq!(sandbox.json("c/manifest.json")["seeds"]["seed"], 3);
    sandbox.ok("synth --config r.toml --seed 4 --out d --quiet");
    assert_ne!(sandbox.text("d/corpus.jsonl"), sandbox.text("a/corpus.jsonl"));
}

#[test]
fn results_go_to_stdout_and_everything_else_to_stderr() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    sandbox.write(
        "sweep.toml",
        "[train]\nmodel='tiny:16x1'\nmax_steps=1\n[sweep]\nseeds=[1]\nnoise_p=[0.0]\nlatent=['none']\n",
    );
    for line in [
        "synth --rows 20 --out other",
        "prepare --input raw --out data --test-fraction 0.25",
        "score --data data --model tiny:16x1 --out scores.parquet",
        "train --data data --out run --model tiny:16x1 --max-steps 1",
        "train --data data --out run2 --model tiny:16x1 --dry-run",
        "noise-sweep --config sweep.toml --set prepare.input=[\"raw\"] --out sweep",
        "report run",
        "inspect run",
    ] {
        let command = line.split(' ').next().unwrap_or("");
        let fresh = line.replace("--out ", "--out json-");
        let json = sandbox.ok(&format!("{fresh} --json --quiet"));
        assert_eq!(json.stderr, "", "{line}");
        assert!(json.json().as_object().is_some_and(|o| !o.is_empty()), "{line}");
        let people = sandbox.ok(line);
        assert!(!people.stdout.is_empty() && people.stdout.ends_with('\n'), "{line}");
        assert!(serde_json::from_str::<serde_json::Value>(&people.stdout).is_err(), "{line}: a table for people");
        assert!(!people.stdout.contains(" ...\n") && !people.stdout.contains('\u{1b}'), "{line}: {}", people.stdout);
        assert!(!people.stderr.contains('\u{1b}') && !people.stderr.contains('\r'), "no bars without a terminal");
        if ["prepare", "score", "noise-sweep"].contains(&command) {
            assert!(people.stderr.contains(" ...\n"), "{line}: progress on stderr: {}", people.stderr);
        }
    }
}

#[test]
fn quiet_leaves_results_and_errors() {
    let sandbox = Sandbox::new();
    let quiet = sandbox.ok("synth --out raw --rows 20 --quiet");
    assert_eq!(quiet.stderr, "");
    assert!(quiet.stdout.starts_with("raw: 20 prompts"), "{}", quiet.stdout);
    let failed = sandbox.ends(3, "prepare --input nowhere --out data --quiet");
    assert!(failed.stdout.is_empty() && failed.stderr.starts_with("error: nowhere: "), "{}", failed.stderr);
}

#[test]
fn tables_for_people() {
    let sandbox = Sandbox::new();
    sandbox.synth(80);
    let prepared = sandbox.ok("prepare --input raw --out data --test-fraction 0.25 --flip-rate 0.2").stdout;
    insta::assert_snapshot!(prepared, @r#"
    split      source  pairs
    test    code_help      2
    test       health      1
    test     homework      2
    test      recipes      3
    test   small_talk      6
    test       travel      6
    train   code_help     12
    train      health     11
    train    homework      7
    train     recipes     15
    train  small_talk      6
    train      travel      9

    80 rows read, 80 pairs kept
    19 labels flipped (23.8 %)
    written: data
    "#);
    let plan = sandbox.ok("train --data data --out run --model tiny:16x1 --codes 4 --max-steps 4 --dry-run");
    let row = |name: &str| {
        let line = plan.stdout.lines().find(|l| l.starts_with(&format!("{name}  ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", plan.stdout))[name.len()..].trim().to_string()
    };
    let told = ["parameters", "trainable", "pairs to train on", "pairs to evaluate on", "steps", "tokens in an epoch"];
    // Of 512 tokens: biases of 4 codes, a table of width 64, its bias, and 4 outputs with theirs.
    assert_eq!(told.map(row), ["10800", "45940", "60", "20", "4", "6090"]);
    assert_eq!(row("longest pair, tokens"), "90");
    for name in ["memory: weights", "memory: activations", "memory: together"] {
        assert!(row(name).ends_with(" MiB"), "{}", plan.stdout);
    }
    assert!(row("FLOPs: training").contains('e') && !row("time: together").is_empty());
    assert!(plan.stdout.contains("times by one timed pass of one layer, hidden size 16, over "), "{}", plan.stdout);
    assert!(!sandbox.exists("run"), "a dry run writes nothing");
    let trained = sandbox.ok("train --data data --out run --model tiny:16x1 --latent none --max-steps 2").stdout;
    let told: Vec<&str> = trained.lines().filter(|l| !l.contains(" to ")).collect();
    filtered(|| {
        insta::assert_snapshot!(told.join("\n"), @r#"
    test split  pairs  accuracy      95 % interval

    dpo with latent none: 2 steps, [rate] pairs/s, [size] MiB peak
    flipped training labels found by the margin: AUROC [share]
    written: run
    "#)
    });
    let again = sandbox.ends(3, "train --data data --out run --model tiny:16x1 --latent none --max-steps 2");
    insta::assert_snapshot!(again.stderr, @r"
    error: run: holds a finished run

    hint: choose another --out, or remove the folder; --resume continues a stopped run
    ");
}

#[test]
fn what_is_not_there_is_an_input_fault() {
    let sandbox = Sandbox::new();
    for line in [
        "prepare --input nowhere.jsonl --out data",
        "score --data nowhere --model tiny --out x.parquet",
        "train --data nowhere --out run",
        "report nowhere",
        "inspect nowhere",
    ] {
        let output = sandbox.ends(3, line);
        assert!(output.stderr.starts_with("error: nowhere"), "{line}: {}", output.stderr);
        assert_eq!(output.stdout, "");
    }
    assert!(sandbox.files("").is_empty(), "{:?}", sandbox.files(""));
}

#[test]
fn inspect_shows_every_artifact() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --max-steps 1 --quiet");
    for (path, kind, shown) in [
        ("raw", "folder", "corpus.jsonl: jsonl"),
        ("raw/corpus.jsonl", "jsonl", "instruction"),
        ("data", "prepared folder", "prompt, masked"),
        ("data/pairs/train.parquet", "parquet", "score_chosen"),
        ("data/tokens/test.arrow", "arrow", "prompt_ids"),
        ("data/rejects.parquet", "parquet", "reason"),
        ("data/manifest.json", "json", "config_hash"),
        ("run", "run folder", "posteriors.parquet: parquet"),
        ("run/posteriors.parquet", "parquet", "posterior_entropy"),
        ("run/codes.parquet", "parquet", "top_tokens"),
        ("run/metrics.jsonl", "jsonl", "rewards/margins"),
        ("run/model", "model folder", "model.safetensors: safetensors"),
        ("run/model/model.safetensors", "safetensors", "embed_tokens"),
    ] {
        let text = sandbox.ok(&format!("inspect {path}")).stdout;
        assert!(text.starts_with(&format!("{path}: {kind}, ")), "{path}: {text}");
        assert!(text.contains(shown), "{path}: no {shown} in {text}");
        let json = sandbox.ok(&format!("inspect {path} --json")).json();
        assert_eq!(json["kind"], kind, "{path}");
    }
    let counted = sandbox.ok("inspect data/pairs/train.parquet --json").json();
    assert_eq!(counted["rows"], sandbox.parquet("data/pairs/train.parquet").height());
    // Damage and things of no known kind are refused, not shown.
    sandbox.write("x.parquet", "no parquet");
    sandbox.ends(3, "inspect x.parquet");
    sandbox.write("x.bin", "anything");
    let output = sandbox.ends(3, "inspect x.bin");
    assert!(output.stderr.contains("hint: known are .parquet"), "{}", output.stderr);
}

#[test]
fn control_characters_of_the_data_do_not_reach_the_terminal() {
    let sandbox = Sandbox::new();
    let row =
        r#"{"prompt": "a\u001b[2Jb\u0007", "chosen": "\u001b]0;x\u0007", "rejected": "r", "source": "\u001b[31m"}"#;
    sandbox.write("in.jsonl", format!("{row}\n"));
    let prepared = sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0");
    assert!(!prepared.stdout.contains('\u{1b}'), "{:?}", prepared.stdout);
    for path in ["data", "data/pairs/train.parquet", "in.jsonl"] {
        let shown = sandbox.ok(&format!("inspect {path}"));
        assert!(!shown.stdout.contains(['\u{1b}', '\u{7}']), "{path}: {:?}", shown.stdout);
    }
    let failed = sandbox.ends(3, "prepare --input data/pairs/train.parquet --out out --format ultrafeedback");
    assert!(!failed.stderr.contains('\u{1b}'), "{:?}", failed.stderr);
}

#[test]
fn reports_load_nothing_and_escape_the_data() {
    let sandbox = Sandbox::new();
    let rows: String = (0..40)
        .map(|i| {
            let source = if i % 2 == 0 { "<script>alert(1)</script>" } else { "plain" };
            format!(
                "{{\"prompt\": \"p {i}\", \"chosen\": \"good\", \"rejected\": \"bad\", \"source\": \"{source}\"}}\n"
            )
        })
        .collect();
    sandbox.write("in.jsonl", rows);
    sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0.4 --quiet");
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --max-steps 2 --quiet");
    let told = sandbox.ok("report run");
    assert_eq!(told.stdout, "run/report.html\n");
    let page = sandbox.text("run/report.html");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "scripts are text");
    for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(sandbox.text("run/report.md").contains("| "));
    let before = page;
    sandbox.ok("report run");
    assert_eq!(sandbox.text("run/report.html"), before, "the same folder gives the same page");
}

#[test]
fn one_writer_at_a_time() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let lock = std::fs::File::options().write(true).open(sandbox.path("data/.lock")).expect("the lock file");
    lock.try_lock().expect("nobody else holds it");
    let output = sandbox.ends(1, "prepare --input raw --out data");
    assert!(output.stderr.contains("another lpc-pipe is writing here"), "{}", output.stderr);
    drop(lock);
    sandbox.ok("prepare --input raw --out data --quiet");
}

#[test]
fn a_run_folder_stands_for_the_model_in_it() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 2 --out sft --quiet");
    let train = "train --data data --latent none --tune lora --max-steps 1 --batch 8 --quiet";
    sandbox.ok(&format!("{train} --model sft --out first"));
    sandbox.ok(&format!("{train} --model sft/model --out second"));
    let base = |run: &str| sandbox.json(&format!("{run}/model/adapter_config.json"))["base_model_name_or_path"].clone();
    assert_eq!(base("first"), base("second"));
    assert!(sandbox.text("first/config.toml").contains("model = \"sft/model\""));
    let posteriors = |run: &str| sandbox.bytes(&format!("{run}/posteriors.parquet"));
    assert_eq!(posteriors("first"), posteriors("second"));
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 1 --set train.save_model=false --out bare --quiet");
    let refused = sandbox.ends(3, &format!("{train} --model bare --out third"));
    assert!(
        refused.stderr.contains("train keeps it unless it is told --set train.save_model=false"),
        "{}",
        refused.stderr
    );
}

/// Where stderr cannot be written the work is done all the same; a result that cannot be written is a failure, unless its
/// reader has seen enough.
#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_takes_nothing_is_told_apart() {
    let sandbox = Sandbox::new();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let run = |line: &str, stdout: Option<std::fs::File>, stderr: Option<std::fs::File>| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = sandbox.command(crate::support::PROGRAM, &words);
        if let Some(file) = stdout {
            command.stdout(file);
        }
        if let Some(file) = stderr {
            command.stderr(file);
        }
        sandbox.finish(command)
    };
    let done = run("synth --out raw --rows 20", None, Some(full()));
    assert_eq!((done.code, done.stdout.is_empty()), (0, false), "{}", done.stdout);
    assert_eq!(run("train --data gone --out run", None, Some(full())).code, 3);
    for line in ["recipes", "recipes smoke", "inspect raw --json", "completions bash"] {
        let lost = run(line, Some(full()), None);
        assert_eq!(lost.code, 1, "{line}: {}", lost.stderr);
        assert!(lost.stderr.starts_with("error: standard output: "), "{line}: {}", lost.stderr);
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = sandbox.command(crate::support::PROGRAM, &["recipes"]);
    command.stdout(writer);
    let closed = sandbox.finish(command);
    assert_eq!((closed.code, closed.stderr.as_str()), (0, ""));
}

#[test]
fn folders_are_known_by_the_command_that_wrote_them() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    sandbox.ok("train --data data --model tiny:16x1 --objective sft --max-steps 1 --out sft --quiet");
    sandbox.ok("eval --model sft --task preference --data data --reward sum --out found --quiet");
    let before = sandbox.files("found");
    for folder in ["found", "data", "raw"] {
        let refused = sandbox.ends(3, &format!("report {folder}"));
        assert!(refused.stderr.contains(": reports are of runs, sweeps and audits"), "{}", refused.stderr);
    }
    assert!(sandbox.ends(3, "report found").stderr.starts_with("error: found: written by `eval`"));
    assert_eq!(sandbox.files("found"), before);
    for (folder, kind) in [("found", "evaluation folder"), ("data", "prepared folder"), ("sft", "run folder")] {
        assert_eq!(sandbox.ok(&format!("inspect {folder} --json")).json()["kind"], kind);
    }
}
