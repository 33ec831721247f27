//! Data from a hub as the program is asked for it: environment, cache, the record in the manifest.

use std::process::Command;

use crate::support::{Output, PROGRAM, Sandbox, sample, texts};

#[path = "../../../src/hub/fake_hub.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
mod fake_hub;

use fake_hub::{COMMIT, FakeHub, repository};

/// `prepare` of a data set at this hub, with further variables of the environment.
fn prepare(sandbox: &Sandbox, endpoint: &str, input: &str, out: &str, vars: &[(&str, &str)]) -> Output {
    let args = ["prepare", "--input", input, "--out", out, "--test-fraction", "0", "--on-bad-row", "skip", "--quiet"];
    let mut command: Command = sandbox.command(PROGRAM, &args);
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", "0").envs(vars.iter().copied());
    sandbox.finish(command)
}

#[test]
fn a_pinned_run_from_a_hub_needs_it_only_once() {
    let (raw, given) = (sample("ultrafeedback.jsonl"), sample("trl_standard.jsonl"));
    let files: [(&str, &[u8]); 3] =
        [("data/train-0.jsonl", raw.as_bytes()), ("data/train-1.jsonl", given.as_bytes()), ("README.md", b"x")];
    let server = FakeHub::serve(repository("datasets", &files, &files.map(|(name, _)| name)), "hf_file");
    let sandbox = Sandbox::new();
    // The token of `hf auth login`.
    sandbox.write(".hub/token", "hf_file\n");
    let input = "hf://datasets/org/name/data/train-*.jsonl";
    let output = prepare(&sandbox, &server.endpoint, input, "out", &[]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let manifest = sandbox.json("out/manifest.json");
    let paths: Vec<&str> = manifest["inputs"].as_array().unwrap().iter().map(|i| i["path"].as_str().unwrap()).collect();
    let pinned = |i: usize| format!("hf://datasets/org/name@{COMMIT}/data/train-{i}.jsonl");
    assert_eq!(paths, [pinned(0), pinned(1)]);
    let rejects = sandbox.parquet("out/rejects.parquet");
    assert!(texts(&rejects, "file").iter().all(|file| file.starts_with("hf://datasets/org/name@")));

    // What the manifest names gives the same bytes, and nothing is asked for it.
    let asked = server.asked().len();
    let both = format!("hf://datasets/org/name@{COMMIT}/data/train-*.jsonl");
    assert_eq!(prepare(&sandbox, &server.endpoint, &both, "again", &[]).code, 0);
    assert_eq!(server.asked().len(), asked);
    // Nor without a hub at all.
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(prepare(&sandbox, "http://127.0.0.1:1", input, "offline", &offline).code, 0);
    for folder in ["again", "offline"] {
        for file in ["pairs/train.parquet", "tokens/train.arrow", "rejects.parquet"] {
            assert!(
                sandbox.bytes(&format!("{folder}/{file}")) == sandbox.bytes(&format!("out/{file}")),
                "{folder}/{file}"
            );
        }
    }
    let output = prepare(&sandbox, "http://127.0.0.1:1", "hf://datasets/org/name/README.md", "none", &offline);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("`README.md` is not in the cache"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: fetch it once"), "{}", output.stderr);
    assert!(!sandbox.exists("none"));
}

#[test]
fn a_data_set_without_a_path_is_its_data_files() {
    let (raw, given) = (sample("ultrafeedback.jsonl"), sample("trl_standard.jsonl"));
    let files: [(&str, &[u8]); 4] =
        [("a.jsonl", raw.as_bytes()), ("b.jsonl", given.as_bytes()), ("README.md", b"x"), ("old/c.jsonl", b"{}")];
    let server = FakeHub::serve(repository("datasets", &files, &files.map(|(name, _)| name)), "");
    let sandbox = Sandbox::new();
    let output = prepare(&sandbox, &server.endpoint, "hf://datasets/org/name", "out", &[]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let manifest = sandbox.json("out/manifest.json");
    let paths: Vec<&str> = manifest["inputs"].as_array().unwrap().iter().map(|i| i["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a", "b"].map(|name| format!("hf://datasets/org/name@{COMMIT}/{name}.jsonl")));
    let offline = [("HF_HUB_OFFLINE", "1")];
    let output = prepare(&sandbox, "http://127.0.0.1:1", "hf://datasets/org/name", "offline", &offline);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(sandbox.bytes("offline/pairs/train.parquet") == sandbox.bytes("out/pairs/train.parquet"));
}

#[test]
fn refusals_of_a_hub_are_told_with_advice() {
    let server = FakeHub::serve(repository("datasets", &[("a.jsonl", b"{}")], &["a.jsonl"]), "hf_right");
    let sandbox = Sandbox::new();
    let input = "hf://datasets/org/name/a.jsonl";
    let output = prepare(&sandbox, &server.endpoint, input, "out", &[("HF_TOKEN", "hf_wrong")]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.starts_with(&format!("error: {input}: unauthorized")), "{}", output.stderr);
    assert!(output.stderr.contains("hint: set HF_TOKEN"), "{}", output.stderr);
    assert!(!output.stderr.contains("hf_wrong"), "a token is no one's to read");
    let output = prepare(&sandbox, &server.endpoint, "hf://datasets/org/b.jsonl", "out", &[("HF_TOKEN", "hf_right")]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("the form is hf://datasets/ORG/NAME"), "{}", output.stderr);
    assert_eq!(sandbox.files("out"), Vec::<String>::new());
}
