//! What `prepare` leaves behind when it is killed, when the disk is full, when a folder cannot be
//! written, and what it makes of links, pipes and manifests that name files elsewhere.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use polars::prelude::*;
use serde_json::Value;

use crate::support::{Output, PROGRAM, Sandbox};

const PAIR: &str = "{\"prompt\": \"Name a colour.\", \"chosen\": \"Red.\", \"rejected\": \"Seven.\"}\n";

/// Files of a folder that a reader would see: hidden ones, and what is in hidden folders, are left out.
fn visible(sandbox: &Sandbox, folder: &str) -> Vec<String> {
    let hidden = |name: &str| name.split('/').any(|part| part.starts_with('.'));
    sandbox.files(folder).into_iter().filter(|name| !hidden(name)).collect()
}

fn contents(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<u8>> {
    visible(sandbox, folder).into_iter().map(|f| (f.clone(), sandbox.bytes(&format!("{folder}/{f}")))).collect()
}

/// As [`contents`], the manifest without what tells one run from its repetition.
fn results(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = contents(sandbox, folder);
    if let Some(bytes) = found.get_mut("manifest.json") {
        let mut manifest: Value = serde_json::from_slice(bytes).expect("a manifest");
        for key in ["started", "finished", "command", "config", "config_hash"] {
            manifest.as_object_mut().expect("an object").remove(key);
        }
        *bytes = manifest.to_string().into_bytes();
    }
    found
}

/// Every file under its final name is whole, and a manifest is there only with all that it lists.
fn is_sound(sandbox: &Sandbox, folder: &str, when: &str) {
    for name in visible(sandbox, folder) {
        let path = sandbox.path(&format!("{folder}/{name}"));
        let read = |result: PolarsResult<DataFrame>| assert!(result.is_ok(), "{when}: {name}: {result:?}");
        let file = || std::fs::File::open(&path).expect("a file");
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => read(ParquetReader::new(file()).finish()),
            Some("arrow") => read(IpcReader::new(file()).finish()),
            Some("json") => {
                let parsed = serde_json::from_reader::<_, Value>(std::io::BufReader::new(file()));
                assert!(parsed.is_ok(), "{when}: {name}: {parsed:?}");
            }
            _ => panic!("{when}: {name} is no file of a prepared folder"),
        }
    }
    if !sandbox.exists(&format!("{folder}/manifest.json")) {
        return;
    }
    let manifest = sandbox.json(&format!("{folder}/manifest.json"));
    let outputs = manifest["outputs"].as_array().expect("outputs");
    assert!(outputs.len() >= 6, "{when}: {manifest}");
    for output in outputs {
        let name = output["path"].as_str().expect("a path");
        let bytes = sandbox.bytes(&format!("{folder}/{name}"));
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), output["blake3"], "{when}: {name}");
    }
}

/// Nothing but the lock is left besides the results.
fn is_tidy(sandbox: &Sandbox, folder: &str, when: &str) {
    let seen = visible(sandbox, folder);
    let left: Vec<String> =
        sandbox.files(folder).into_iter().filter(|f| !seen.contains(f) && f.as_str() != ".lock").collect();
    assert_eq!(left, Vec::<String>::new(), "{when}: left behind");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Starts the program and kills it after a while; whether it was still at work.
fn killed(sandbox: &Sandbox, line: &str, after: Duration) -> bool {
    let mut child = sandbox.command(PROGRAM, &words(line)).stdout(Stdio::null()).spawn().expect("the program starts");
    std::thread::sleep(after);
    child.kill().expect("it can be killed");
    !child.wait().expect("it ends").success()
}

#[test]
fn killed_at_any_moment() {
    const MOMENTS: u32 = 20;
    let sandbox = Sandbox::new();
    sandbox.synth(16_000);
    let line = |out: &str| format!("prepare --input raw --out {out} --flip-rate 0.2 --test-fraction 0.2 --quiet");
    let begin = Instant::now();
    sandbox.ok(&line("whole"));
    let clean = begin.elapsed();
    let wanted = results(&sandbox, "whole");
    assert!(wanted.len() >= 7, "{:?}", wanted.keys());
    is_sound(&sandbox, "whole", "not killed");
    is_tidy(&sandbox, "whole", "not killed");

    let mut at_work = 0;
    for moment in 0..MOMENTS {
        let when = format!("killed at {moment}/{MOMENTS} of {clean:?}");
        let out = format!("out{moment}");
        // Every fourth time the folder holds an older result that is being replaced.
        if moment % 4 == 3 {
            sandbox.write("older/in.jsonl", PAIR);
            sandbox.ok(&format!("prepare --input older --out {out} --test-fraction 0 --quiet"));
        }
        at_work += u32::from(killed(&sandbox, &line(&out), clean * moment / MOMENTS));
        is_sound(&sandbox, &out, &when);
        // Every fourth time the repetition is killed too.
        if moment % 4 == 1 {
            killed(&sandbox, &line(&out), clean / 2);
            is_sound(&sandbox, &out, &format!("{when}, and again"));
        }
        sandbox.ok(&line(&out));
        let found = results(&sandbox, &out);
        assert!(found == wanted, "{when}: other bytes\n{:?}\n{:?}", found.keys(), wanted.keys());
        is_tidy(&sandbox, &out, &when);
        std::fs::remove_dir_all(sandbox.path(&out)).expect("the folder");
    }
    assert!(at_work >= MOMENTS / 2, "only {at_work} of {MOMENTS} were killed before the end");
}

/// The program under a limit on the size of a file, in blocks of 512 bytes.
fn limited(sandbox: &Sandbox, blocks: u32, line: &str) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {blocks} || exit 99; exec \"$0\" \"$@\"");
    let args: Vec<&str> = ["-c", &script, PROGRAM].into_iter().chain(line.split_whitespace()).collect();
    sandbox.finish(sandbox.command("sh", &args))
}

/// A failure of the work itself, told in one line with the system's words.
fn failed_with(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
    assert!(words.iter().any(|w| output.stderr.contains(w)), "{}", output.stderr);
}

#[test]
fn no_room_for_a_file() {
    let sandbox = Sandbox::new();
    sandbox.synth(2000);
    sandbox.write("older/in.jsonl", PAIR);
    sandbox.ok("prepare --input older --out older/data --test-fraction 0 --quiet");
    let before = contents(&sandbox, "older/data");
    let mut refused = 0;
    // From not even the first bytes to all but the largest file.
    for blocks in [1, 8, 64, 200, 400, 800] {
        let when = format!("{blocks} blocks");
        let output = limited(&sandbox, blocks, "prepare --input raw --out new --quiet");
        if output.code == 0 {
            is_sound(&sandbox, "new", &when);
            break;
        }
        refused += 1;
        failed_with(&output, &["File too large"]);
        is_sound(&sandbox, "new", &when);
        assert!(!sandbox.exists("new/manifest.json"), "{when}");
        // What was there before stays as it was.
        let output = limited(&sandbox, blocks, "prepare --input raw --out older/data --quiet");
        failed_with(&output, &["File too large"]);
        assert!(contents(&sandbox, "older/data") == before, "{when}: {:?}", visible(&sandbox, "older/data"));
    }
    assert!(refused >= 4, "{refused}");
    // With room, the same command works.
    for out in ["new", "older/data"] {
        sandbox.ok(&format!("prepare --input raw --out {out} --quiet"));
        is_tidy(&sandbox, out, out);
    }
    assert!(results(&sandbox, "new") == results(&sandbox, "older/data"));
}

#[test]
#[ignore = "needs the right to mount a file system (root, or user namespaces); `just test-all` runs it"]
fn a_full_disk() {
    let sandbox = Sandbox::new();
    sandbox.synth(2000);
    let root = sandbox.finish(sandbox.command("id", &["-u"])).stdout.trim() == "0";
    // The file system is mounted in a new name space, and is gone when the shell ends.
    let script = "mkdir disk && mount -t tmpfs -o size=$1k none disk || exit 77; \
                  \"$0\" prepare --input raw --out disk/out --quiet; code=$?; \
                  cd disk && find . -type f ! -path '*/.*' | sort; exit $code";
    for size in ["40", "300", "1000"] {
        let space = if root { "-m" } else { "-rm" };
        let output = sandbox.finish(sandbox.command("unshare", &[space, "sh", "-c", script, PROGRAM, size]));
        assert_eq!(output.code, 1, "{size}: {}", output.stderr);
        assert!(output.stderr.starts_with("error: disk/out"), "{size}: {}", output.stderr);
        assert!(output.stderr.contains("No space left on device"), "{size}: {}", output.stderr);
        assert!(!output.stdout.contains("manifest.json"), "{size}: {}", output.stdout);
        std::fs::remove_dir(sandbox.path("disk")).expect("an empty folder");
    }
}

#[test]
fn folders_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", PAIR);
    sandbox.write("file", "x");
    for out in ["file", "file/below", "/proc/lpc-pipe/out", "/dev/null"] {
        let output = sandbox.run(&["prepare", "--input", "in.jsonl", "--out", out, "--quiet"]);
        assert!(output.code == 1 || output.code == 3, "{out}: {} {}", output.code, output.stderr);
        assert!(output.stderr.starts_with(&format!("error: {out}")), "{out}: {}", output.stderr);
    }
    assert_eq!(sandbox.text("file"), "x");

    let closed = sandbox.path("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).expect("its mode");
    // Modes do not bind root: the program then writes there, as root's other programs do.
    let root = std::fs::create_dir(closed.join("below")).is_ok();
    for out in ["closed/below", "closed"] {
        let output = sandbox.run(&["prepare", "--input", "in.jsonl", "--out", out, "--quiet"]);
        match root {
            true => is_sound(&sandbox, out, &output.stderr),
            false => failed_with(&output, &["Permission denied"]),
        }
        assert_eq!(sandbox.exists(&format!("{out}/manifest.json")), root, "{out}: {}", output.stderr);
    }
    assert_eq!(sandbox.files("closed").is_empty(), !root);
}

#[test]
fn links() {
    let sandbox = Sandbox::new();
    sandbox.write("real/in.jsonl", PAIR);
    sandbox.write("place/.keep", "");
    let link = |to: &str, name: &str| symlink(to, sandbox.path(name)).expect("a link");
    link("real/in.jsonl", "in.jsonl");
    link("place", "out");
    link("nowhere.jsonl", "broken.jsonl");
    link("gone", "nowhere-out");
    link("self", "self");
    sandbox.ok("prepare --input real --out plain --quiet");
    // A link to a file and a link to a folder stand for what they lead to.
    sandbox.ok("prepare --input in.jsonl --out out --quiet");
    assert!(sandbox.path("out").is_symlink());
    is_sound(&sandbox, "place", "through a link");
    let data = |folder: &str| -> BTreeMap<String, Vec<u8>> {
        contents(&sandbox, folder).into_iter().filter(|(name, _)| name.contains('/')).collect()
    };
    assert!(data("place") == data("plain"));
    assert_eq!(visible(&sandbox, "place"), visible(&sandbox, "plain"));

    for name in ["broken.jsonl", "self"] {
        let output = sandbox.ends(3, &format!("prepare --input {name} --out o1"));
        assert!(output.stderr.starts_with(&format!("error: {name}: ")), "{}", output.stderr);
    }
    for name in ["self", "nowhere-out"] {
        let output = sandbox.run(&["prepare", "--input", "real", "--out", name, "--quiet"]);
        assert!(output.code == 0 || output.stderr.starts_with(&format!("error: {name}")), "{name}: {}", output.stderr);
    }
    assert!(!sandbox.exists("o1"));

    // A folder that holds itself, and broken links besides: the files in it are read once.
    link(".", "real/loop");
    link("loop/in.jsonl", "real/again.jsonl");
    link("lost.jsonl", "real/lost.jsonl");
    let manifest = |folder: &str| sandbox.json(&format!("{folder}/manifest.json"))["inputs"].clone();
    sandbox.ok("prepare --input real --out o2 --quiet");
    let read = manifest("o2").as_array().expect("inputs").iter().filter_map(|i| i["rows_read"].as_u64()).sum::<u64>();
    assert_eq!(read, 1, "{}", manifest("o2"));
}

#[test]
fn pipes_are_refused_at_once() {
    let sandbox = Sandbox::new();
    let made = sandbox.command("mkfifo", &["pipe.jsonl"]).status().expect("mkfifo");
    assert!(made.success());
    sandbox.write("folder/in.jsonl", PAIR);
    assert!(sandbox.command("mkfifo", &["folder/pipe.jsonl"]).status().expect("mkfifo").success());
    for (input, code) in [("pipe.jsonl", 3), ("/dev/zero", 3), ("folder", 0)] {
        // A pipe without a writer would be waited for without end, and this device has no end.
        let mut child = sandbox
            .command(PROGRAM, &["prepare", "--input", input, "--out", "out", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let begin = Instant::now();
        while child.try_wait().expect("its state").is_none() {
            if begin.elapsed() > Duration::from_secs(20) {
                child.kill().expect("it can be killed");
                panic!("{input}: still waiting after 20 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().expect("its output");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{input}: {said}");
        if code == 3 {
            assert!(said.starts_with(&format!("error: {input}: ")), "{said}");
            assert!(said.contains("not a regular file"), "{said}");
        }
    }
}

#[test]
fn manifests_name_files_of_their_own_folder() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.write("outside.arrow", sandbox.bytes("data/tokens/train.arrow"));
    let sound = sandbox.text("data/manifest.json");
    let absolute = sandbox.path("outside.arrow").display().to_string();
    let commands = [
        "train --data data --model tiny:16x1 --out run --max-steps 1",
        "score --data data --model tiny:16x1 --out scores.parquet",
        "inspect data",
    ];
    for evil in ["../outside.arrow", &absolute, "tokens/../../outside.arrow", "", "tokens//train.arrow"] {
        let manifest = sound.replace("\"tokens/train.arrow\"", &serde_json::json!(evil).to_string());
        assert_ne!(manifest, sound);
        sandbox.write("data/manifest.json", manifest);
        for command in commands {
            let output = sandbox.ends(3, command);
            assert!(output.stderr.contains("data/manifest.json: "), "{evil}: {command}: {}", output.stderr);
            assert!(output.stderr.contains("outside of its folder"), "{evil}: {command}: {}", output.stderr);
        }
    }
    assert_eq!(sandbox.files("run"), Vec::<String>::new());
    assert!(!Path::new(&sandbox.path("scores.parquet")).exists());
    sandbox.write("data/manifest.json", &sound);
    sandbox.ok("inspect data");
}
