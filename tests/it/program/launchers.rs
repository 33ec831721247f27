//! Sweeps and preparations that are planned for many machines: what is written and submitted, and cells that run one by
//! one, by whoever and however often.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use polars::prelude::*;

use crate::support::{Output, PROGRAM, Sandbox, texts};

const SWEEP: &str = r#"
seed = 1
[prepare]
input = ["raw"]
[prepare.pairs]
test_fraction = 0.25
[train]
model = "tiny:32x1"
batch = 8
epochs = 1
checkpoint_every = 3
[sweep]
noise_p = [0.0, 0.2]
latent = ["none", "lpc"]
codes = [3]
seeds = [1]
[slurm]
partition = "long"
time = "02:00:00"
cpus = 2
directives = ["--qos=low"]
"#;

/// The cells of the sweep, in the order of their numbers.
const CELLS: [&str; 4] =
    ["dpo-none-clean-s1", "dpo-lpc-k3-clean-s1", "dpo-none-uniform-0.2-s1", "dpo-lpc-k3-uniform-0.2-s1"];

fn ground() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    sandbox.write("sweep.toml", SWEEP);
    sandbox
}

/// A program in `bin/` that is a shell script.
fn fake(sandbox: &Sandbox, name: &str, script: &str) {
    let path = format!("bin/{name}");
    sandbox.write(&path, format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(sandbox.path(&path), std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// Runs the program with `bin/` before all other programs.
fn with_fakes(sandbox: &Sandbox, line: &str) -> Output {
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut command = sandbox.command(PROGRAM, &args);
    let path = std::env::var("PATH").expect("PATH");
    command.env("PATH", format!("{}:{path}", sandbox.path("bin").display()));
    sandbox.finish(command)
}

fn measured_aside(frame: DataFrame) -> DataFrame {
    frame.drop("train_seconds").expect("the column train_seconds")
}

#[test]
fn a_plan_for_slurm_is_submitted_with_what_each_part_waits_for() {
    let sandbox = ground();
    fake(&sandbox, "sbatch", "echo \"$@\" >> asked; echo \"$((100 + $(wc -l < asked)));cluster\"");
    fake(&sandbox, "scancel", "echo cancel \"$@\" >> asked");
    let line = "noise-sweep --config sweep.toml --out sweep --launcher slurm";
    // The scripts alone.
    let dry = with_fakes(&sandbox, &format!("{line} --dry-run"));
    assert_eq!((dry.code, sandbox.exists("asked")), (0, false), "{}", dry.stderr);
    assert!(dry.stdout.contains("#SBATCH --array=1-4\n") && dry.stdout.contains("4 tasks to run"), "{}", dry.stdout);
    assert!(!sandbox.exists("sweep/prepared") && !sandbox.exists("sweep/cells"), "nothing is done here");
    let told = with_fakes(&sandbox, &format!("{line} --json"));
    assert_eq!(told.code, 0, "{}", told.stderr);
    let told = told.json();
    let out = std::fs::canonicalize(sandbox.path("sweep")).expect("a folder");
    let script = |name: &str| out.join("launch").join(name).display().to_string();
    let wanted = [
        format!("--parsable {}", script("1-first.sbatch")),
        format!("--parsable --dependency=afterany:101 --kill-on-invalid-dep=yes {}", script("2-tasks.sbatch")),
        format!("--parsable --dependency=afterany:102 --kill-on-invalid-dep=yes {}", script("3-last.sbatch")),
    ];
    assert_eq!(sandbox.text("asked").lines().collect::<Vec<_>>(), wanted);
    let jobs = serde_json::json!({"cell": "102", "collect": "103", "inputs": "101"});
    assert_eq!((&told["jobs"], &told["tasks"]), (&jobs, &4.into()));
    assert_eq!(sandbox.json("sweep/launch/jobs.json"), jobs);
    let tasks = sandbox.text("sweep/launch/2-tasks.sbatch");
    for option in ["--partition=long", "--time=02:00:00", "--cpus-per-task=2", "--qos=low", "--signal=B:USR1@120"] {
        assert!(tasks.contains(&format!("#SBATCH {option}\n")), "{option}: {tasks}");
    }
    assert!(tasks.contains(&format!("noise-sweep cell --out {} --index \"$SLURM_ARRAY_TASK_ID\"", out.display())));
    assert!(sandbox.path("sweep/launch/logs").is_dir(), "Slurm makes no folder for its logs");
    let few = with_fakes(&sandbox, &format!("{line} --dry-run --jobs 3")).stdout;
    assert!(few.contains("#SBATCH --array=1-4%3\n"), "{few}");
    // Finished cells are no tasks.
    sandbox.ok("noise-sweep cell --out sweep --index 2 --quiet");
    let again = with_fakes(&sandbox, &format!("{line} --json")).json();
    assert_eq!(again["tasks"], 3);
    assert!(sandbox.text("sweep/launch/2-tasks.sbatch").contains("#SBATCH --array=1,3-4\n"));
    // What was submitted before a refusal is taken back.
    std::fs::remove_file(sandbox.path("asked")).expect("a file");
    let second = "[ $(wc -l < asked) -lt 2 ] || { echo no such partition >&2; exit 1; }";
    fake(&sandbox, "sbatch", &format!("echo \"$@\" >> asked; {second}; echo 7"));
    let refused = with_fakes(&sandbox, line);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("sbatch refused a job: no such partition"), "{}", refused.stderr);
    assert_eq!(sandbox.text("asked").lines().last(), Some("cancel 7"));
    let nothing = sandbox.ends(2, "noise-sweep --config sweep.toml --out sweep --launcher slurm --set slurm.time=soon");
    assert!(nothing.stderr.contains("slurm.time: \"soon\" is no time limit"), "{}", nothing.stderr);
}

#[test]
fn cells_one_by_one_make_the_sweep() {
    let sandbox = ground();
    sandbox.ok("noise-sweep --config sweep.toml --out straight --quiet");
    sandbox.ok("noise-sweep --config sweep.toml --out parts --launcher commands --quiet");
    // The recipe is that of the folder now.
    sandbox.write("sweep.toml", "seed = 2");
    let shared = sandbox.ok("noise-sweep inputs --out parts --json").json();
    assert_eq!((&shared["prepared"], &shared["failed"]), (&2.into(), &serde_json::json!({})));
    let files = sandbox.files("parts/prepared/clean/reference");
    assert!(files.iter().any(|f| f.ends_with(".parquet")), "{files:?}");
    let first = sandbox.ok("noise-sweep cell --out parts --index 1 --json").json();
    assert_eq!((&first["name"], &first["cells"], &first["already"]), (&CELLS[0].into(), &4.into(), &false.into()));
    for task in ["2", "3"] {
        let mut command = sandbox.command(PROGRAM, &["noise-sweep", "cell", "--out", "parts", "--json"]);
        let told = sandbox.finish({
            command.env("SLURM_ARRAY_TASK_ID", task);
            command
        });
        assert_eq!(told.json()["index"].to_string(), task, "{}", told.stderr);
        assert!(told.stderr.contains("reference log-probabilities: taken from the cache"), "{}", told.stderr);
    }
    // What is there so far.
    let so_far = sandbox.ok("noise-sweep collect --out parts --json").json();
    let missing = serde_json::json!({CELLS[3]: "missing: it was not begun"});
    assert_eq!((&so_far["missing"], &so_far["failed"]), (&missing, &serde_json::json!({})));
    let summary = sandbox.parquet("parts/summary.parquet");
    let n_missing = summary.column("n_missing").expect("a column").u32().expect("numbers").sum();
    assert_eq!((n_missing, summary.height()), (Some(1), 4));
    let text = sandbox.ok("noise-sweep collect --out parts --quiet").stdout;
    assert!(
        text.contains(&format!("1 of 4 cells have no result yet\n  {}: missing: it was not begun", CELLS[3])),
        "{text}"
    );
    sandbox.ok("noise-sweep cell --out parts --index 4 --quiet");
    let marker = sandbox.bytes("parts/cells/dpo-none-clean-s1/cell.json");
    let again = sandbox.ok("noise-sweep cell --out parts --index 1 --quiet").stdout;
    assert!(again.contains("finished before; nothing was done"), "{again}");
    assert!(marker == sandbox.bytes("parts/cells/dpo-none-clean-s1/cell.json"));
    // As often as wanted, to the same bytes.
    let all = ["results.parquet", "summary.parquet", "curves.parquet", "report.html", "report.md", "manifest.json"];
    let collected = || {
        sandbox.ok("noise-sweep collect --out parts --quiet");
        all.map(|file| sandbox.bytes(&format!("parts/{file}")))
    };
    assert!(collected() == collected());
    for name in ["results.parquet", "summary.parquet"] {
        let [wanted, got] = ["straight", "parts"].map(|out| measured_aside(sandbox.parquet(&format!("{out}/{name}"))));
        assert!(wanted.equals_missing(&got), "{name} differs\n{wanted}\n{got}");
    }
    assert!(sandbox.bytes("straight/curves.parquet") == sandbox.bytes("parts/curves.parquet"));
    for cell in CELLS {
        let [wanted, got] =
            ["straight", "parts"].map(|out| sandbox.bytes(&format!("{out}/cells/{cell}/posteriors.parquet")));
        assert!(wanted == got, "{cell}");
    }
    // What no part can do.
    let refused = |code: i32, line: &str, said: &str| {
        let told = sandbox.ends(code, line).stderr;
        assert!(told.contains(said), "{line}: {told}");
    };
    refused(2, "noise-sweep cell --out parts --index 5", "no cell 5: the sweep in parts has 4, 1 to 4");
    refused(2, "noise-sweep cell --out parts --index 0", "no cell 0");
    refused(2, "noise-sweep cell --out parts", "give --index N");
    refused(2, "noise-sweep cell --out parts --index 1 --set train.batch=4", "--config and --set are for the launch");
    refused(
        2,
        "noise-sweep cell --out parts --index 1 --seed 3",
        "seed: the sweep in this folder was begun with 1, now 3",
    );
    refused(3, "noise-sweep cell --out nowhere --index 1", "no sweep was begun here");
    assert!(!sandbox.exists("nowhere"));
}

#[test]
fn a_failed_cell_is_noted_and_tried_again() {
    let sandbox = ground();
    sandbox.ok("noise-sweep --config sweep.toml --out sweep --launcher commands --set sweep.noise_p=[0.2] --quiet");
    // Somebody else's folder where a cell writes.
    let foreign = sandbox.write("sweep/cells/dpo-none-uniform-0.2-s1/manifest.json", "{\"tool\": \"other\"}");
    let failed = sandbox.ends(1, "noise-sweep cell --out sweep --index 1 --quiet");
    assert!(failed.stderr.contains("cell dpo-none-uniform-0.2-s1 failed: ") && failed.stderr.contains("did not write"));
    sandbox.ok("noise-sweep cell --out sweep --index 2 --quiet");
    let told = sandbox.ok("noise-sweep collect --out sweep --json").json();
    let reason = told["failed"]["dpo-none-uniform-0.2-s1"].as_str().expect("a reason").to_string();
    assert!(reason.starts_with("failed: ") && told["missing"] == serde_json::json!({}), "{told}");
    let results = sandbox.parquet("sweep/results.parquet");
    assert_eq!(texts(&results, "status"), [reason.as_str(), "ok"]);
    let n_failed =
        sandbox.parquet("sweep/summary.parquet").column("n_failed").expect("a column").u32().expect("n").sum();
    assert_eq!(n_failed, Some(1));
    std::fs::remove_file(sandbox.path(foreign)).expect("a file");
    sandbox.ok("noise-sweep cell --out sweep --index 1 --quiet");
    assert_eq!(sandbox.ok("noise-sweep collect --out sweep --json").json()["failed"], serde_json::json!({}));
    assert!(!sandbox.exists("sweep/cells/dpo-none-uniform-0.2-s1/attempt.json"));
}

fn start(sandbox: &Sandbox, line: &str) -> Child {
    let args: Vec<&str> = line.split_whitespace().collect();
    let log = std::fs::File::create(sandbox.path("stderr")).expect("a log");
    sandbox.command(PROGRAM, &args).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
}

/// Waits for some steps beyond those of earlier launches, does something, sends a signal, and tells the exit code.
fn stopped(sandbox: &Sandbox, line: &str, run: &str, signal: &str, meanwhile: impl FnOnce()) -> Option<i32> {
    let metrics = sandbox.path(&format!("{run}/metrics.jsonl"));
    let steps = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let (before, mut child, begun) = (steps(), start(sandbox, line), Instant::now());
    while steps() < before + 2 {
        assert!(child.try_wait().expect("a child").is_none(), "{}", sandbox.text("stderr"));
        assert!(begun.elapsed() < Duration::from_secs(120), "no steps");
        std::thread::sleep(Duration::from_millis(5));
    }
    meanwhile();
    assert!(
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().expect("kill").success()
    );
    child.wait().expect("it ends").code()
}

#[test]
fn a_cell_that_a_scheduler_stops_says_so_and_goes_on() {
    let sandbox = ground();
    // Long enough to be met at work.
    let longer = "--set train.epochs=12 --set sweep.noise_p=[0.2] --set sweep.latent=[\"lpc\"] --quiet";
    sandbox.ok(&format!("noise-sweep --config sweep.toml --out straight {longer}"));
    sandbox.ok(&format!("noise-sweep --config sweep.toml --out parts --launcher commands {longer}"));
    let cell = "noise-sweep cell --out parts --index 1 --quiet";
    let run = "parts/cells/dpo-lpc-k3-uniform-0.2-s1";
    let beside = || {
        let refused = sandbox.ends(1, cell);
        assert!(refused.stderr.contains("another process runs it"), "{}", refused.stderr);
        let refused = sandbox.ends(1, &format!("noise-sweep --config sweep.toml --out parts {longer}"));
        assert!(refused.stderr.contains("another lpc-pipe is writing here"), "{}", refused.stderr);
    };
    assert_eq!(stopped(&sandbox, cell, run, "USR1", beside), Some(75), "{}", sandbox.text("stderr"));
    let told = sandbox.text("stderr");
    assert!(told.contains("interrupted after step") && told.contains("the same command goes on from here"), "{told}");
    assert!(sandbox.files(&format!("{run}/checkpoints")).iter().any(|f| f.ends_with("state.json")));
    let collected = sandbox.ok("noise-sweep collect --out parts --json").json();
    let status = collected["missing"]["dpo-lpc-k3-uniform-0.2-s1"].as_str().expect("a status").to_string();
    assert!(status.starts_with("stopped: interrupted after step"), "{collected}");
    // SIGTERM is the same request; the steps so far are kept.
    let lines = sandbox.text(&format!("{run}/metrics.jsonl")).lines().count();
    assert_eq!(stopped(&sandbox, cell, run, "TERM", || {}), Some(75), "{}", sandbox.text("stderr"));
    assert!(sandbox.text(&format!("{run}/metrics.jsonl")).lines().count() > lines);
    sandbox.ok(cell);
    sandbox.ok("noise-sweep collect --out parts --quiet");
    let [wanted, got] =
        ["straight", "parts"].map(|out| measured_aside(sandbox.parquet(&format!("{out}/results.parquet"))));
    assert!(wanted.equals_missing(&got), "{wanted}\n{got}");
}

#[test]
fn a_warning_of_the_time_limit_ends_every_command_with_its_own_code() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let line = "train --data data --model tiny:32x1 --codes 3 --out run --batch 3 --epochs 60 --seed 4 --quiet";
    assert_eq!(stopped(&sandbox, line, "run", "USR1", || {}), Some(75), "{}", sandbox.text("stderr"));
    let told = sandbox.text("stderr");
    assert!(told.starts_with("warned by SIGUSR1: stopping after this step\n") && told.contains("--resume"), "{told}");
    assert_eq!(stopped(&sandbox, &format!("{line} --resume"), "run", "TERM", || {}), Some(1));
}

#[test]
fn a_preparation_in_shards_makes_the_bytes_of_one() {
    let sandbox = Sandbox::new();
    sandbox.synth(90);
    let line = "prepare --input raw --test-fraction 0.25 --flip-rate 0.2 --seed 3 --quiet";
    sandbox.ok(&format!("{line} --out whole"));
    sandbox.ok(&format!("{line} --out parts --launcher commands --shards 3"));
    assert!(!sandbox.exists("parts/manifest.json"));
    let all = sandbox.finish(sandbox.command("sh", &["parts/launch/all.sh"]));
    assert_eq!(all.code, 0, "{}", all.stderr);
    for file in
        ["pairs/train.parquet", "pairs/test.parquet", "tokens/train.arrow", "tokens/test.arrow", "rejects.parquet"]
    {
        let [wanted, got] = ["whole", "parts"].map(|out| sandbox.bytes(&format!("{out}/{file}")));
        assert!(wanted == got, "{file}");
    }
    // A shard that fails leaves nothing to join.
    std::fs::remove_dir_all(sandbox.path("parts")).expect("a folder");
    sandbox.ok(&format!("{line} --out parts --launcher commands --shards 3"));
    sandbox.write("parts/shards/2/manifest.json", "{\"tool\": \"other\"}");
    let all = sandbox.finish(sandbox.command("sh", &["parts/launch/all.sh"]));
    assert!(all.code != 0 && !sandbox.exists("parts/manifest.json"), "{}", all.stderr);
    // For Slurm the join waits for every shard to succeed.
    fake(&sandbox, "sbatch", "echo \"$@\" >> asked; echo 5");
    let told = with_fakes(&sandbox, &format!("{line} --out cluster --launcher slurm --shards 4 --json"));
    assert_eq!(told.json()["jobs"], serde_json::json!({"merge": "5", "shard": "5"}), "{}", told.stderr);
    let asked = sandbox.text("asked");
    assert!(
        asked.contains("--dependency=afterok:5 --kill-on-invalid-dep=yes") && asked.lines().count() == 2,
        "{asked}"
    );
    let refused = |line: &str, said: &str| {
        let told = sandbox.ends(2, line).stderr;
        assert!(told.contains(said), "{told}");
    };
    refused(&format!("{line} --out x --launcher slurm"), "--launcher needs --shards N");
    refused(&format!("{line} --out x --shards 3"), "--shards has no effect without --launcher");
    refused(&format!("{line} --out x --launcher commands --shards 1"), "expected 2 or more");
    refused(&format!("{line} --out x --launcher commands --shards 2 --shard 1/2"), "prepares all of --shards N");
    refused(
        &format!("{line} --out x --launcher commands --shards 2 --near-duplicates 0.8"),
        "needs all prompts at once",
    );
    assert!(!sandbox.exists("x"));
}

/// What one machine alone lacks, the others know nothing of.
#[test]
fn every_process_tells_its_errors() {
    let sandbox = Sandbox::new();
    let told = |rank: &str, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = sandbox.command(PROGRAM, &words);
        command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", rank);
        let output = sandbox.finish(command);
        (output.code, output.stdout, output.stderr)
    };
    let line = "train --config none.toml";
    let (code, _, first) = told("0", line);
    let error = first.lines().next().unwrap().to_string();
    assert!(code == 2 && error.starts_with("error: ") && error.contains("none.toml"), "{first}");
    assert_eq!(told("1", line), (2, String::new(), format!("process 1: {error}\n")));
}
