//! What a training run says, before and while it runs, and where it gives up.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{PROGRAM, Sandbox, numbers, texts};

fn train(out: &str) -> String {
    format!("train --data data --model tiny:32x1 --codes 3 --out {out} --seed 4")
}

fn metrics(sandbox: &Sandbox, out: &str) -> Vec<Value> {
    let text = sandbox.text(&format!("{out}/metrics.jsonl"));
    text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect()
}

#[test]
fn a_dry_run_needs_no_weights() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    // Llama 3 8B's own shape, and nothing else of it.
    let config = json!({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "max_position_embeddings": 8192, "tie_word_embeddings": false, "hidden_act": "silu",
    });
    sandbox.write("big/config.json", config.to_string());
    let told = sandbox.ok("train --data data --model big --latent none --out run --epochs 2 --dry-run --json").json();
    assert_eq!(told["parameters"], 8_030_261_248u64);
    let [trained_on, tested_on] =
        ["train", "test"].map(|split| sandbox.arrow(&format!("data/tokens/{split}.arrow")).height());
    assert_eq!(
        (&told["trainable"], &told["pairs"], &told["pairs_test"]),
        (&told["parameters"], &json!(trained_on), &json!(tested_on))
    );
    let number = |path: &str| told.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {told}"));
    assert_eq!(number("/steps") as usize, 2 * trained_on.div_ceil(4));
    assert_eq!(number("/tokens"), 2.0 * number("/tokens_per_epoch"));
    let gib = 8_030_261_248.0 * 4.0 / f64::from(1 << 20);
    assert_eq!(number("/memory_mb/weights"), gib);
    assert_eq!((number("/memory_mb/gradients"), number("/memory_mb/moments")), (gib, 2.0 * gib));
    assert!(number("/memory_mb/activations") > 100.0 && number("/memory_mb/total") > 4.0 * gib);
    // Between all parameters at the response's tokens only and at every token, and attention on top.
    let dense = 6.0 * 8.03e9 * number("/tokens");
    assert!((0.5 * dense..1.1 * dense).contains(&number("/flops/training")), "{told}");
    assert!(number("/flops/reference") > 0.0 && number("/flops/evaluation") > 0.0);
    assert!(number("/seconds/total") > number("/seconds/training") && number("/seconds/training") > 0.0);
    assert!(told["speed"]["how"].as_str().is_some_and(|how| how.contains("timed pass")));
    if let Some(machine) = told["machine_mb"].as_f64().filter(|mb| *mb < 4.0 * gib) {
        assert_eq!(told["fits"], false, "{machine}");
        assert!(told["hints"].as_array().is_some_and(|h| !h.is_empty()), "{told}");
        let table = sandbox.ok("train --data data --model big --latent none --out run --dry-run").stdout;
        assert!(table.contains("it does not fit into this machine's memory"), "{table}");
    }
    let small = sandbox.ok(&(train("run") + " --dry-run --json")).json();
    assert_eq!((&small["fits"], &small["hints"]), (&json!(true), &json!([])));
    assert!(!sandbox.exists("run"), "a dry run writes nothing");
    // A model that cannot be had or does not suit the data is refused as in earnest.
    sandbox.ends(3, "train --data data --model nowhere --out run --dry-run");
    sandbox.write("big/config.json", config.to_string().replace("128256", "10"));
    let refused = sandbox.ends(3, "train --data data --model big --latent none --out run --dry-run").stderr;
    assert!(refused.contains("the model knows 10 tokens"), "{refused}");
}

#[test]
fn every_source_has_its_own_figures() {
    let sandbox = Sandbox::new();
    sandbox.prepared(120);
    sandbox.ok(&(train("run") + " --max-steps 5 --set train.eval_every=2 --quiet"));
    let summary = sandbox.json("run/summary.json");
    let sources: BTreeSet<&str> = summary["by_source"]
        .as_array()
        .expect("sources")
        .iter()
        .map(|s| s["source"].as_str().expect("a name"))
        .collect();
    assert!(sources.len() >= 4, "{sources:?}");
    let all = metrics(&sandbox, "run");
    let evaluations: Vec<&Value> = all.iter().filter(|l| l.get("loss").is_none()).collect();
    assert_eq!(evaluations.iter().map(|l| l["step"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(4), Some(5)]);
    for line in &evaluations {
        let told: BTreeSet<&str> = line
            .as_object()
            .expect("an object")
            .keys()
            .filter_map(|k| k.strip_prefix("eval_rewards/accuracies/"))
            .collect();
        assert_eq!(told, sources);
        assert!(sources.iter().all(|s| line[format!("eval_rewards/margins/{s}")].is_f64()));
    }
    // The last ones are the summary's, and their mean is the whole.
    let last = evaluations[2];
    assert_eq!(last["eval_rewards/accuracies"], summary["eval_accuracy"]);
    for source in summary["by_source"].as_array().expect("sources") {
        let name = source["source"].as_str().expect("a name");
        assert_eq!(last[format!("eval_rewards/accuracies/{name}")], source["accuracy"], "{name}");
    }
}

#[test]
fn lines_where_there_is_no_terminal() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let told = sandbox.ok(&(train("a") + " --max-steps 4")).stderr;
    let last = told.lines().find(|l| l.starts_with("training 4/4 · ")).unwrap_or_else(|| panic!("{told}"));
    for part in ["loss 0.", "margin ", "accuracy ", "codes ", "tokens/s"] {
        assert!(last.contains(part), "no {part} in {last}");
    }
    let plain = "train --data data --model tiny:32x1 --latent none --max-steps 2 --seed 4";
    let told = sandbox.ok(&format!("{plain} --out b")).stderr;
    assert!(told.contains("training 2/2") && !told.contains("codes"), "{told}");
    assert_eq!(sandbox.ok(&format!("{plain} --out c --quiet")).stderr, "");
}

#[test]
fn checkpoints_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    // Not a folder: refused before any work. The folder is that of an earlier run.
    sandbox.write("blocked/.lock", "");
    sandbox.write("blocked/checkpoints", "in the way");
    let line = "train --data data --model tiny:64x2 --latent none --seed 4 --max-steps 4 --resume --out";
    let refused = sandbox.ends(1, &format!("{line} blocked")).stderr;
    assert!(refused.contains("error: no checkpoint could be written: "), "{refused}");
    assert!(refused.contains("\nhint: ") && !refused.contains("training ..."), "{refused}");
    // No room: a limit on the size of a file stands for a full disk.
    let script = "trap '' XFSZ; ulimit -f 600 || exit 99; exec \"$0\" \"$@\"";
    let args = format!("{line} full --set train.checkpoint_every=2");
    let words: Vec<&str> = ["-c", script, PROGRAM].into_iter().chain(args.split_whitespace()).collect();
    let refused = sandbox.finish(sandbox.command("sh", &words));
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("error: the checkpoint of step 2 cannot be written: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("File too large"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: make room"), "{}", refused.stderr);
    assert_eq!(sandbox.files("full/checkpoints"), Vec::<String>::new());
    assert_eq!(metrics(&sandbox, "full").len(), 2);
    // With room the same command goes on.
    sandbox.ok(&args);
}

#[test]
fn numbers_that_are_none_stop_it_with_the_ids() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&(train("run") + " --max-steps 1 --quiet"));
    let ids: BTreeSet<String> =
        crate::support::texts(&sandbox.parquet("data/pairs/train.parquet"), "id").into_iter().collect();
    // Weights of the final norm that are finite, and what comes of them is not.
    let sound = sandbox.bytes("run/model/model.safetensors");
    let put = |x: f32| {
        let mut bytes = sound.clone();
        let at = bytes.len() - 4 * 32;
        bytes[at..].as_chunks_mut::<4>().0.iter_mut().for_each(|b| *b = x.to_le_bytes());
        std::fs::write(sandbox.path("run/model/model.safetensors"), bytes).expect("written");
    };
    put(f32::MAX);
    let line = "train --data data --model run/model --latent none --max-steps 2 --batch 3 --quiet";
    let referenced = sandbox.ends(1, &format!("{line} --out a")).stderr;
    assert!(referenced.contains("the starting model's log-probability is not finite for "), "{referenced}");
    assert!(referenced.lines().next().unwrap_or("").split(' ').any(|w| ids.contains(w)), "{referenced}");
    let scored = sandbox.ends(1, "score --data data --model run/model --out s.parquet").stderr;
    assert!(scored.contains("the model's log-probability is not finite for "), "{scored}");
    let plain = sandbox.ends(1, &format!("{line} --objective simpo --out b")).stderr;
    assert!(plain.contains("is NaN on the batch with ids "), "{plain}");
    let named: Vec<&str> = plain.lines().next().unwrap_or("").split(' ').filter(|w| ids.contains(*w)).collect();
    assert_eq!(named.len(), 3, "{plain}");
    assert!(!sandbox.exists("b/manifest.json") && sandbox.files("b/checkpoints").is_empty());
    // Weights that are none are refused before anything is computed, by every command that reads them.
    put(f32::NAN);
    for command in [
        format!("{line} --out c"),
        format!("{line} --objective sft --out c"),
        format!("{line} --objective simpo --out c"),
        format!("{line} --tune lora --out c"),
        "score --data data --model run/model --out s.parquet".to_string(),
        "export --run run --out c".to_string(),
    ] {
        let told = sandbox.ends(3, &command).stderr;
        let wanted = "tensor model.norm.weight: 32 of 32 numbers are not finite";
        assert!(told.contains(wanted) && told.contains("hint: "), "{command}: {told}");
        assert!(!sandbox.exists("c") && !sandbox.exists("s.parquet"), "{command}");
    }
}

/// Outputs of an unfinished run, of which no manifest tells, do not become those of the next run in its folder.
#[test]
fn a_run_that_starts_anew_leaves_nothing_of_the_one_before() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let line = "train --data data --model tiny:16x1 --out run --max-steps 1 --quiet";
    sandbox.ok(&format!("{line} --latent lpc --codes 3 --tune lora"));
    sandbox.ok("report run --quiet");
    std::fs::remove_file(sandbox.path("run/manifest.json")).unwrap();
    let anew = format!("{line} --latent none --posteriors test");
    let refused = sandbox.ends(3, &anew);
    insta::assert_snapshot!(refused.stderr, @r"
    error: run: holds a stopped run (step 1)

    hint: --resume goes on with it; to begin anew, remove the folder or choose another --out
    ");
    assert!(sandbox.exists("run/report.html") && sandbox.exists("run/checkpoints/step-000001/params.safetensors"));
    // Stopped before its first checkpoint there is nothing to lose.
    std::fs::remove_dir_all(sandbox.path("run/checkpoints")).unwrap();
    sandbox.ok(&anew);
    let model = sandbox.files("run/model");
    assert!(model.iter().all(|f| !f.starts_with("lpc_") && !f.starts_with("adapter_")), "{model:?}");
    assert!(!sandbox.exists("run/report.html") && !sandbox.exists("run/projection.parquet"));
}

#[test]
fn a_finished_run_is_not_resumed_for_outputs_that_it_cannot_give() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let line = "train --data data --model tiny:16x1 --latent none --out run --max-steps 1 --quiet";
    sandbox.ok(&format!("{line} --posteriors test --set train.save_model=false"));
    for (more, said) in [
        ("--posteriors all --set train.save_model=false", "posteriors of the training pairs (train.posteriors)"),
        ("--posteriors test", "a model (train.save_model)"),
    ] {
        let refused = sandbox.ends(3, &format!("{line} {more} --resume"));
        assert!(refused.stderr.contains(&format!("holds a finished run without {said}")), "{}", refused.stderr);
    }
    sandbox.ok(&format!("{line} --posteriors test --set train.save_model=false --resume"));
}

#[test]
fn settings_that_make_no_step_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let line = "train --data data --model tiny:16x1 --latent none --out run --quiet";
    for (more, said) in [
        ("--epochs 0.0001", "train.epochs: 0.0001 of "),
        ("--batch 4294967296 --accumulate 4294967296", "train.batch: with accumulate, a step has at most"),
    ] {
        let refused = sandbox.ends(2, &format!("{line} {more}"));
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}

#[test]
fn sft_has_no_metrics_of_what_it_does_not_see() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    sandbox.ok("train --data data --model tiny:16x1 --objective sft --out run --max-steps 1 --quiet");
    let text = sandbox.text("run/metrics.jsonl");
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(line["loss"].is_f64() && line["logps/chosen"].is_f64());
    assert!(line.get("rewards/accuracies").is_none() && line.get("logps/rejected").is_none(), "{line}");
}

#[test]
fn copies_of_a_pair_with_other_labels_share_its_hidden_states() {
    let sandbox = Sandbox::new();
    let row = |i: usize, source: &str| {
        format!(
            "{{\"source\": \"{source}\", \"prompt\": \"Name the number {i}.\", \"chosen\": \"It is {i}, I say, and no other.\", \
             \"rejected\": \"No {i}, no.\"}}\n"
        )
    };
    let rows = (0..40).flat_map(|i| [row(i, "a"), row(i, "b")]).collect::<String>();
    sandbox.write("in.jsonl", rows);
    sandbox
        .ok("prepare --input in.jsonl --out data --set prepare.pairs.dedup=none --flip-rate 1.0 --flip-kind source \
         --set prepare.noise.source_rates=['a=0.0','b=1.0'] --quiet");
    let line = "train --data data --model tiny:16x1 --codes 3 --max-steps 2 --seed 1 --quiet";
    sandbox.ok(&format!("{line} --tune latent --out kept"));
    // Both copies have the same two texts: what one is chosen by the other is rejected by.
    let frame = sandbox.parquet("kept/posteriors.parquet");
    let (ids, flipped, margins) =
        (texts(&frame, "id"), frame.column("flipped").unwrap().bool().unwrap().clone(), numbers(&frame, "margin"));
    let mut of: BTreeMap<&str, Vec<f64>> = std::collections::BTreeMap::new();
    for (i, id) in ids.iter().enumerate() {
        of.entry(id).or_default().push(if flipped.get(i).unwrap() { -margins[i] } else { margins[i] });
    }
    assert!(of.values().all(|m| m.len() == 2 && (m[0] - m[1]).abs() < 1e-4), "{of:?}");
}

/// Groups stay whole, so that the last steps of an epoch may be left without pairs.
#[test]
fn a_step_without_pairs_moves_nothing_and_is_not_told() {
    let sandbox = Sandbox::new();
    sandbox.synth(40);
    sandbox.ok("prepare --input raw --out data --pairs best-vs-each --quiet");
    let line = "train --data data --model tiny:16x1 --codes 3 --epochs 2 --quiet --set train.lpc.group=prompt \
                --set train.lpc.warmup=0";
    let mut passed_over = 0;
    for batch in [4, 5, 7] {
        let line = format!("{line} --batch {batch}");
        sandbox.ok(&format!("{line} --out straight{batch}"));
        let told = metrics(&sandbox, &format!("straight{batch}"));
        let steps: Vec<&Value> = told.iter().filter(|line| line.get("loss").is_some()).collect();
        assert!(steps.iter().all(|line| line["loss"].as_f64().is_some_and(|loss| loss > 0.0)), "{steps:?}");
        let taken = sandbox.json(&format!("straight{batch}/summary.json"))["steps"].as_u64().expect("steps");
        passed_over += taken as usize - steps.len();
        // A run that goes on from behind such a step is the same.
        sandbox.ok(&format!("{line} --out stopped{batch} --max-steps {}", taken - 3));
        sandbox.ok(&format!("{line} --out stopped{batch} --resume"));
        let bytes = |run: &str| sandbox.bytes(&format!("{run}{batch}/posteriors.parquet"));
        assert!(bytes("straight") == bytes("stopped"), "batch {batch}");
    }
    assert!(passed_over > 0);
}

#[test]
fn processes_that_srun_started_apart_do_not_train_one_by_one() {
    let sandbox = Sandbox::new();
    sandbox.prepared(20);
    let output = std::process::Command::new(PROGRAM)
        .current_dir(sandbox.path(""))
        .env("SLURM_STEP_NUM_TASKS", "4")
        .args(["train", "--data", "data", "--model", "tiny:16x1", "--out", "run", "--max-steps", "1"])
        .output()
        .expect("the program");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("srun started 4 processes"), "{said}");
}
