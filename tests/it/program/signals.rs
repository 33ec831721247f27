//! A training run that is told to stop, or is killed, by the system: the real program, with real signals.
#![cfg(unix)]

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Output, PROGRAM, Sandbox};

/// What a run ends with, whatever happened on the way.
const FILES: [&str; 4] =
    ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet", "codes.parquet"];

/// Many short steps.
fn line(out: &str) -> String {
    format!(
        "train --data data --model tiny:32x1 --codes 3 --out {out} --batch 3 --accumulate 2 --epochs 30 --seed 4 --quiet"
    )
}

/// Steps of a second and more.
const SLOW: &str = "train --data data --model tiny:384x4 --latent none --batch 90 --epochs 50 --out run --quiet";

fn start(sandbox: &Sandbox, line: &str) -> Child {
    let args: Vec<&str> = line.split_whitespace().collect();
    spawn(sandbox, sandbox.command(PROGRAM, &args))
}

/// Starts a command that notices its signals, also where whoever runs the tests ignores them (`nohup`, `&` of a shell).
fn spawn(sandbox: &Sandbox, mut command: Command) -> Child {
    let log = std::fs::File::create(sandbox.path("stderr")).expect("a log");
    let notice = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            // SAFETY: `signal` may be called between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(notice) };
    command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts")
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

fn lines(sandbox: &Sandbox, out: &str) -> usize {
    let text = std::fs::read_to_string(sandbox.path(&format!("{out}/metrics.jsonl"))).unwrap_or_default();
    text.lines().count()
}

/// Waits for something to happen; false where the program ended before it did.
fn until(child: &mut Child, what: &str, happened: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !happened() {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn end(sandbox: &Sandbox, child: Child) -> Output {
    let output = child.wait_with_output().expect("it ends");
    let stderr = sandbox.text("stderr");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Output { code: output.status.code().unwrap_or(-1), stdout, stderr }
}

#[track_caller]
fn same(sandbox: &Sandbox, out: &str) {
    for file in FILES {
        let [wanted, got] = ["straight", out].map(|run| sandbox.bytes(&format!("{run}/{file}")));
        assert!(wanted == got, "{out}: {file} differs");
    }
    let steps = |out: &str| -> Vec<(u64, String)> {
        let text = sandbox.text(&format!("{out}/metrics.jsonl"));
        let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
        lines
            .filter(|l| l.get("loss").is_some())
            .map(|l| (l["step"].as_u64().expect("a step"), l["loss"].to_string()))
            .collect()
    };
    let found = steps(out);
    assert!(found.iter().map(|s| s.0).eq(1..=found.len() as u64), "{out}: every step once");
    assert_eq!(found, steps("straight"), "{out}: losses differ");
}

#[test]
fn stopped_by_a_signal_and_told_how_to_go_on() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&line("straight"));
    for (name, after) in [("INT", 1), ("INT", 25), ("TERM", 12), ("HUP", 8)] {
        let out = format!("{name}'s {after}");
        let plain = line("OUT");
        let args: Vec<&str> = plain.split_whitespace().map(|w| if w == "OUT" { out.as_str() } else { w }).collect();
        let mut child = spawn(&sandbox, sandbox.command(PROGRAM, &args));
        assert!(until(&mut child, "steps", || lines(&sandbox, &out) >= after), "it ended before the signal");
        signal(&child, name);
        let stopped = end(&sandbox, child);
        assert_eq!((stopped.code, stopped.stdout.as_str()), (1, ""), "{}", stopped.stderr);
        let told = "a checkpoint was written\n\nhint: go on with\n  ";
        let (before, command) = stopped.stderr.split_once(told).unwrap_or_else(|| panic!("{}", stopped.stderr));
        let step: usize =
            before.rsplit("after step ").next().and_then(|s| s.split(' ').next()?.parse().ok()).expect("a step");
        assert!(step >= after && lines(&sandbox, &out) == step, "{before}");
        assert!(sandbox.exists(&format!("{out}/checkpoints/step-{step:06}/state.json")));
        assert!(!sandbox.exists(&format!("{out}/manifest.json")));
        // The command as it was told, by a shell: the folder's name has a blank and a quote.
        assert!(command.contains("--quiet --resume"), "{command}");
        let finished = sandbox.finish(sandbox.command("sh", &["-c", command.trim()]));
        assert_eq!(finished.code, 0, "{command}\n{}", finished.stderr);
        same(&sandbox, &out);
    }
}

/// What `nohup` asks for: a closed terminal is no request. SIGINT is one, also of what a shell started in the background.
#[test]
fn under_nohup_a_closed_terminal_ends_nothing() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let line = line("run");
    let script = "trap '' HUP INT; exec \"$@\"";
    let args: Vec<&str> = ["-c", script, "sh", PROGRAM].into_iter().chain(line.split_whitespace()).collect();
    let mut child = spawn(&sandbox, sandbox.command("sh", &args));
    assert!(until(&mut child, "a step", || lines(&sandbox, "run") > 0), "it ended before the signal");
    signal(&child, "HUP");
    let steps = lines(&sandbox, "run") + 3;
    assert!(until(&mut child, "steps", || lines(&sandbox, "run") >= steps), "SIGHUP ended it");
    assert_eq!(sandbox.text("stderr"), "");
    signal(&child, "INT");
    let stopped = end(&sandbox, child);
    assert!(stopped.code == 1 && stopped.stderr.contains("a checkpoint was written"), "{}", stopped.stderr);
}

/// How a run ends that is told to stop, and told again so long after its answer, if it is still there.
fn told_twice(sandbox: &Sandbox, pause: Duration) -> Output {
    let _ = std::fs::remove_dir_all(sandbox.path("run"));
    let mut child = start(sandbox, SLOW);
    assert!(until(&mut child, "a step", || lines(sandbox, "run") >= 1));
    signal(&child, "INT");
    if until(&mut child, "an answer", || sandbox.text("stderr").contains("once more to stop at once")) {
        std::thread::sleep(pause);
        signal(&child, "INT");
    }
    let stopped = end(sandbox, child);
    assert!(stopped.code == 130 || stopped.code == 1, "{}: {}", stopped.code, stopped.stderr);
    stopped
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let sandbox = Sandbox::new();
    sandbox.prepared(120);
    let ended = (0..4).any(|_| {
        // A step may have ended between the two.
        let at_once = told_twice(&sandbox, Duration::from_millis(700)).code == 130;
        assert!(!at_once || !sandbox.exists("run/manifest.json"));
        at_once
    });
    assert!(ended, "every step ended within milliseconds");
}

#[test]
fn a_request_that_arrives_twice_is_one() {
    let sandbox = Sandbox::new();
    sandbox.prepared(120);
    // On a busy machine half a second may pass between the two.
    let kept = (0..4).any(|_| {
        let stopped = told_twice(&sandbox, Duration::ZERO);
        stopped.code == 1 && stopped.stderr.contains("a checkpoint was written")
    });
    assert!(kept, "the second signal ended the run without a checkpoint");
}

#[test]
fn killed_again_and_again() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&line("straight"));
    let again = line("run") + " --set train.checkpoint_every=7 --resume";
    let (mut killed, mut step) = (0, 0);
    for moment in 0..12 {
        let mut child = start(&sandbox, &again);
        // Within steps, checkpoints and evaluations alike.
        let target = step + 9 + moment;
        let alive = until(&mut child, "steps", || lines(&sandbox, "run") >= target);
        std::thread::sleep(Duration::from_millis(3 * moment as u64));
        child.kill().expect("it can be killed");
        let ended = end(&sandbox, child);
        if !alive || ended.code == 0 {
            break;
        }
        killed += 1;
        step = lines(&sandbox, "run").saturating_sub(7);
    }
    assert!(killed >= 5, "only {killed} were killed in training");
    sandbox.ok(&again);
    same(&sandbox, "run");
    let left: Vec<String> = sandbox.files("run").into_iter().filter(|f| f.contains(".staged-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A scheduler's warning stops an evaluation, which keeps what it has and is to be run again.
#[test]
fn an_evaluation_that_was_warned_is_to_be_run_again() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --model tiny:64x2 --objective sft --max-steps 1 --out sft --quiet");
    let row = |i: usize| {
        let choices: Vec<Value> =
            ["A", "B", "C"].iter().map(|l| serde_json::json!({"text": format!("{l} {i}"), "label": l})).collect();
        let question = serde_json::json!({"stem": format!("Which {i}?"), "choices": choices});
        serde_json::json!({"id": format!("q{i}"), "question": question, "answerKey": "A"}).to_string() + "\n"
    };
    sandbox.write("arc.jsonl", (0..30_000).map(row).collect::<String>());
    let mut child = start(&sandbox, "eval --model sft --task arc_easy --data arc.jsonl --out found");
    let begun = || std::fs::read_to_string(sandbox.path("stderr")).unwrap_or_default().contains("evaluating");
    assert!(until(&mut child, "the evaluation", begun));
    signal(&child, "USR1");
    let stopped = end(&sandbox, child);
    assert_eq!(stopped.code, 75, "{}", stopped.stderr);
    let said = " of 30000 scores are kept\n\nhint: the same command goes on with the others";
    assert!(stopped.stderr.contains(said), "{}", stopped.stderr);
    assert!(!sandbox.exists("found/items.parquet"));
}
