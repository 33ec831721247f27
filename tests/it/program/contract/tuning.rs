//! What each way of tuning leaves in a run folder, and what `export` makes of it.

use serde_json::Value;

use super::manifest_holds;
use crate::support::{Sandbox, numbers};

const TRAIN: &str =
    "train --data data --model tiny:16x1 --batch 8 --lr 1e-2 --codes 3 --set train.lpc.warmup=0 --quiet";

/// Trains into `out`, twice as long as a limit, straight and stopped; both must end with the same files.
#[track_caller]
fn the_same_when_resumed(sandbox: &Sandbox, flags: &str, out: &str, files: &[&str]) {
    sandbox.ok(&format!("{TRAIN} {flags} --out {out} --max-steps 6"));
    sandbox.ok(&format!("{TRAIN} {flags} --out {out}-again --max-steps 3"));
    sandbox.ok(&format!("{TRAIN} {flags} --out {out}-again --max-steps 6 --resume"));
    for file in files.iter().chain(&["model/lpc_model.safetensors", "posteriors.parquet"]) {
        let [a, b] = [out, &format!("{out}-again")].map(|run| sandbox.bytes(&format!("{run}/{file}")));
        assert!(a == b && !a.is_empty(), "{out}: {file} differs");
    }
    let start = |run: &str| sandbox.text(&format!("{run}/metrics.jsonl")).lines().next().map(str::to_string);
    assert!(start(out).is_some());
}

/// Sizes of tensors by name, from a safetensors file's header.
fn tensors(sandbox: &Sandbox, file: &str) -> Vec<String> {
    let bytes = sandbox.bytes(file);
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    header.as_object().expect("tensors").keys().filter(|k| *k != "__metadata__").cloned().collect()
}

#[track_caller]
fn close(sandbox: &Sandbox, scores: &str, run: &str, tolerance: f64) {
    let (scores, run) = (sandbox.parquet(scores), sandbox.parquet(&format!("{run}/posteriors.parquet")));
    for column in ["logps_chosen", "logps_rejected"] {
        for (a, b) in numbers(&scores, column).iter().zip(numbers(&run, column)) {
            assert!((a - b).abs() < tolerance, "{column}: {a} {b}");
        }
    }
}

#[test]
fn an_adapter_run_leaves_a_peft_adapter() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let flags = "--tune lora --lora-rank 2 --lora-targets q_proj,down_proj";
    the_same_when_resumed(&sandbox, flags, "run", &["model/adapter_model.safetensors"]);
    let config = sandbox.json("run/model/adapter_config.json");
    for (key, value) in [
        ("peft_type", serde_json::json!("LORA")),
        ("r", serde_json::json!(2)),
        ("lora_alpha", serde_json::json!(4)),
        ("target_modules", serde_json::json!(["q_proj", "down_proj"])),
        ("task_type", serde_json::json!("CAUSAL_LM")),
        ("bias", serde_json::json!("none")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    // A base made from the seed has no name: it stands beside the adapter.
    assert!(config["base_model_name_or_path"].as_str().expect("a base").ends_with("run/model/base"));
    let names = tensors(&sandbox, "run/model/adapter_model.safetensors");
    let of = |part: &str, side: char| format!("base_model.model.model.layers.0.{part}.lora_{side}.weight");
    let mut wanted: Vec<String> =
        ["mlp.down_proj", "self_attn.q_proj"].iter().flat_map(|part| [of(part, 'A'), of(part, 'B')]).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    for file in ["tokenizer.json", "lpc_config.json", "lpc_model.safetensors", "base/model.safetensors"] {
        assert!(sandbox.exists(&format!("run/model/{file}")), "{file}");
    }
    assert!(!sandbox.exists("run/model/model.safetensors") && !sandbox.exists("run/model/config.json"));
    assert!(sandbox.text("run/config.toml").contains("rank = 2"));
    // A checkpoint holds what is trained alone.
    let kept = tensors(&sandbox, "run-again/checkpoints/step-000003/params.safetensors");
    assert!(kept.iter().all(|n| n.contains(".lora_") || n.starts_with("lpc.")), "{kept:?}");
    // The base is untouched, and the reference is the base.
    sandbox.ok("score --data data --model tiny:16x1 --out base.parquet --quiet");
    let (base, run) = (sandbox.parquet("base.parquet"), sandbox.parquet("run/posteriors.parquet"));
    for (a, b) in numbers(&base, "logps_chosen").iter().zip(numbers(&run, "ref_chosen_logps")) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    sandbox.ok("score --data data --model run/model --out trained.parquet --quiet");
    close(&sandbox, "trained.parquet", "run", 1e-3);
    assert!(numbers(&base, "logps_chosen") != numbers(&sandbox.parquet("trained.parquet"), "logps_chosen"));
    assert!(sandbox.ok("inspect run/model").stdout.starts_with("run/model: PEFT adapter"));
}

#[test]
fn adapters_are_trained_on_or_merged() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let line = format!("{TRAIN} --tune lora --lora-rank 2 --lora-targets q_proj --latent none --max-steps 3");
    let line = line.replace("--codes 3 --set train.lpc.warmup=0", "");
    sandbox.ok(&format!("{line} --out first"));
    let next = line.replace("tiny:16x1", "first/model");
    // Trained on: nothing is said again, the settings are the adapter's; what is said otherwise is refused.
    let plain = next.replace("--lora-rank 2 --lora-targets q_proj", "");
    let still = plain.replace("--lr 1e-2", "--lr 0");
    sandbox.ok(&format!("{still} --out second"));
    let [a, b] = ["first", "second"].map(|run| sandbox.bytes(&format!("{run}/model/adapter_model.safetensors")));
    assert!(a == b, "without a learning rate the adapter stays as it is");
    let (first, second) =
        (sandbox.json("first/model/adapter_config.json"), sandbox.json("second/model/adapter_config.json"));
    assert_eq!(first, second);
    assert!(sandbox.text("second/config.toml").contains("rank = 2"));
    let refused = sandbox.ends(2, &format!("{plain} --lora-rank 4 --out third"));
    assert!(refused.stderr.contains("train.lora.rank: 4, but the adapter to train on has 2"), "{}", refused.stderr);
    assert!(!sandbox.exists("third"));
    // The reference is what the run starts from: the first run's model.
    let (ended, began) = (sandbox.parquet("first/posteriors.parquet"), sandbox.parquet("second/posteriors.parquet"));
    for (a, b) in numbers(&ended, "logps_chosen").iter().zip(numbers(&began, "ref_chosen_logps")) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    // Merged: a full run from there leaves a whole model.
    let full = still.replace("--tune lora", "--tune full");
    sandbox.ok(&format!("{full} --out whole"));
    sandbox.ok("score --data data --model whole/model --out whole.parquet --quiet");
    close(&sandbox, "whole.parquet", "first", 1e-3);
    // The same weights at another scale are another model: it starts from its own reference, not from the one that is
    // kept for the old scale, and is not the reference of a run that started from that.
    let path = "first/model/adapter_config.json";
    let mut config = sandbox.json(path);
    config["lora_alpha"] = 40.into();
    sandbox.write(path, config.to_string());
    sandbox.ok(&format!("{still} --out scaled"));
    let (old, new) = (sandbox.parquet("second/posteriors.parquet"), sandbox.parquet("scaled/posteriors.parquet"));
    assert_ne!(numbers(&old, "ref_chosen_logps"), numbers(&new, "ref_chosen_logps"));
    for (a, b) in numbers(&new, "logps_chosen").iter().zip(numbers(&new, "ref_chosen_logps")) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    let refused = sandbox.run(&["eval", "--model", "second", "--task", "preference", "--data", "data"]);
    assert!(refused.code != 0 && refused.stderr.contains("not the reference of run second"), "{}", refused.stderr);
    sandbox.ok("eval --model scaled --task preference --data data --quiet");
}

#[test]
fn a_head_run_leaves_a_model_with_a_head_of_its_own() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    the_same_when_resumed(&sandbox, "--tune head", "run", &["model/model.safetensors"]);
    assert_eq!(sandbox.json("run/model/config.json")["tie_word_embeddings"], false);
    assert!(tensors(&sandbox, "run/model/model.safetensors").contains(&"lm_head.weight".to_string()));
    assert_eq!(sandbox.files("data/hidden").len(), 1, "one file for both runs");
    let kept = tensors(&sandbox, "run-again/checkpoints/step-000003/params.safetensors");
    assert!(kept.iter().all(|n| n == "lm_head.weight" || n.starts_with("lpc.")), "{kept:?}");
    // From memory or from the file: the same bits.
    sandbox.ok(&format!("{TRAIN} --tune head --out mapped --max-steps 6 --set train.head.memory_mb=0"));
    for file in ["model/model.safetensors", "posteriors.parquet"] {
        let [a, b] = ["run", "mapped"].map(|run| sandbox.bytes(&format!("{run}/{file}")));
        assert!(a == b, "{file}");
    }
    sandbox.ok("score --data data --model run/model --out trained.parquet --quiet");
    close(&sandbox, "trained.parquet", "run", 1e-3);
    // The first step's loss is that of a full run.
    sandbox.ok(&format!("{TRAIN} --out full --max-steps 1"));
    let loss = |run: &str| -> f64 {
        let text = sandbox.text(&format!("{run}/metrics.jsonl"));
        let line: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        line["loss"].as_f64().expect("a loss")
    };
    assert!((loss("run") - loss("full")).abs() < 1e-5, "{} {}", loss("run"), loss("full"));
}

#[test]
fn settings_of_another_tuning_are_faults() {
    let sandbox = Sandbox::new();
    for (flags, said) in [
        ("--lora-rank 4", "train.lora.rank: has no effect without tune = \"lora\""),
        ("--tune head --lora-targets q_proj", "train.lora.targets: has no effect"),
        ("--latent none --set train.head.memory_mb=1", "train.head.memory_mb: has no effect without tune \"head\""),
        ("--tune latent --latent none", "\"latent\" needs a latent that is trained"),
        ("--tune latent --set train.lpc.warmup=1", "train.lpc.warmup: has no effect with tune \"latent\""),
        ("--tune lora --lora-targets q_pro", "unknown layer \"q_pro\"; did you mean `q_proj`?"),
        ("--tune lora --lora-targets all-linear --lora-targets v_proj", "no effect"),
        ("--tune lora --lora-alpha -1", "train.lora.alpha"),
        ("--tune half", "train.tune"),
    ] {
        let output = sandbox.ends(2, &format!("train --data data --out run {flags}"));
        assert!(output.stderr.contains(said), "{flags}: {}", output.stderr);
    }
}

#[test]
fn the_rate_that_is_told_is_the_one_in_use() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let rates = |run: &str| -> Vec<f64> {
        let lines = sandbox.text(&format!("{run}/metrics.jsonl"));
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .filter(|line| line.get("loss").is_some())
            .map(|line| line["learning_rate"].as_f64().expect("a rate"))
            .collect()
    };
    let train = "train --data data --model tiny:16x1 --batch 8 --codes 3 --set train.lpc.lr=2e-3 --set train.warmup=0 \
                 --set train.lr_schedule=constant";
    // The backbone's settings do nothing where it never moves, and that is told.
    let latent = format!("{train} --tune latent --max-steps 3");
    let plain = sandbox.ok(&format!("{latent} --out plain"));
    assert!(!plain.stderr.contains("has no effect"), "{}", plain.stderr);
    let given = sandbox.ok(&format!("{latent} --lr 0.5 --set train.weight_decay=0.25 --out given"));
    for said in [
        "warning: train.lr = 5e-1 has no effect with tune \"latent\": the latent part learns at train.lpc.lr (its networks) \
         and train.lpc.code_lr (its codes)",
        "train.weight_decay = 0.25 has no effect with tune \"latent\": see train.lpc.weight_decay",
    ] {
        assert_eq!(given.stderr.matches(said).count(), 1, "{}", given.stderr);
    }
    assert!(sandbox.bytes("plain/posteriors.parquet") == sandbox.bytes("given/posteriors.parquet"));
    assert_eq!((rates("plain"), rates("given")), (vec![2e-3; 3], vec![2e-3; 3]));
    // The latent part's in its warm-up, the backbone's after it.
    let full =
        sandbox.ok(&format!("{train} --lr 1e-4 --set train.weight_decay=0.25 --set train.lpc.warmup=1 --out full"));
    assert!(!full.stderr.contains("has no effect"), "{}", full.stderr);
    let rates = rates("full");
    let warm = rates.len() / 2;
    assert!(warm > 2 && rates[..warm].iter().all(|rate| (2e-4..=2e-3).contains(rate)), "{rates:?}");
    assert_eq!(rates[warm..], vec![1e-4; warm]);
}

#[test]
fn a_latent_part_alone_names_its_base_and_is_taken_everywhere() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --model tiny:16x1 --objective sft --max-steps 3 --lr 1e-3 --out sft --quiet");
    let train = "train --data data --model sft/model --tune latent --codes 3 --batch 8 --epochs 2 --quiet";
    sandbox.ok(&format!("{train} --out run"));
    let mut files = sandbox.files("run/model");
    files.retain(|f| f.starts_with("lpc_") || f.ends_with(".safetensors") || f == "config.json");
    assert_eq!(files, ["lpc_base.json", "lpc_config.json", "lpc_model.safetensors"]);
    let base = sandbox.json("run/model/lpc_base.json");
    assert!(base["base_model_name_or_path"].as_str().unwrap().ends_with("sft/model"), "{base}");
    // Its numbers are found again by score, and in an export that stands alone.
    sandbox.ok("score --data data --model run/model --out scores.parquet");
    sandbox.ok("export --run run --out whole --as hf");
    sandbox.ok("score --data data --model whole --out again.parquet");
    let posteriors = sandbox.parquet("run/posteriors.parquet");
    let (scores, again) = (sandbox.parquet("scores.parquet"), sandbox.parquet("again.parquet"));
    for column in ["logps_chosen", "logps_rejected"] {
        let wanted = numbers(&posteriors, column);
        for found in [&scores, &again] {
            assert!(numbers(found, column).iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-2), "{column}");
        }
        // The codes count: the base alone gives other numbers.
        let plain = numbers(&posteriors, &format!("ref_{}_logps", &column["logps_".len()..]));
        assert!(plain.iter().zip(&wanted).any(|(a, b)| (a - b).abs() > 1e-2));
    }
    sandbox.ok("report run");
    // A second run takes the hidden states from their file, and ends the same.
    sandbox.ok(&format!("{train} --out twin"));
    assert_eq!(sandbox.bytes("twin/posteriors.parquet"), sandbox.bytes("run/posteriors.parquet"));
    // So does the warm-up of codes before adapters, whatever the seed of the adapters' numbers.
    let hidden = sandbox.files("data/hidden");
    for seed in [1, 2] {
        let lora = "train --data data --model sft/model --tune lora --codes 3 --batch 8 --max-steps 2 --quiet";
        sandbox.ok(&format!("{lora} --posteriors test --seed {seed} --out lora-{seed}"));
        assert_eq!(sandbox.files("data/hidden"), hidden);
    }
    // Whatever is trained over a latent part would start without its codes.
    for tune in ["--tune latent --codes 3", "--tune full --latent none", "--tune lora --codes 3"] {
        let refused = sandbox.ends(3, &format!("train --data data --model run/model {tune} --out twice --quiet"));
        assert!(refused.stderr.contains("is a latent part itself"), "{}", refused.stderr);
        assert!(refused.stderr.contains("give its base: --model ") && !sandbox.exists("twice"), "{}", refused.stderr);
    }
    // A base that changed under its name is refused.
    sandbox.ok("train --data data --model tiny:16x1 --objective sft --max-steps 4 --lr 2e-3 --out other --quiet");
    std::fs::rename(sandbox.path("sft/model"), sandbox.path("sft/before")).unwrap();
    std::fs::rename(sandbox.path("other/model"), sandbox.path("sft/model")).unwrap();
    let refused = sandbox.ends(3, "score --data data --model run/model --out no.parquet");
    assert!(refused.stderr.contains("trained over other weights"), "{}", refused.stderr);
    // A base made from the seed has no name: it stands beside the latent part.
    sandbox.ok("train --data data --model tiny:16x1 --tune latent --codes 3 --max-steps 2 --out seeded --quiet");
    assert!(sandbox.exists("seeded/model/base/model.safetensors"));
    sandbox.ok("score --data data --model seeded/model --out seeded.parquet");
}

#[test]
fn codes_of_a_model_that_is_trained_on_are_not_dropped_in_silence() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&format!("{TRAIN} --max-steps 1 --out run"));
    let next = sandbox.ok("train --data data --model run/model --latent none --max-steps 1 --out next");
    assert!(
        next.stderr.contains("the model has codes beside it (lpc_config.json), which are not read"),
        "{}",
        next.stderr
    );
    let first = sandbox.ok("train --data data --model tiny:16x1 --latent none --max-steps 1 --out first");
    assert!(!first.stderr.contains("codes beside it"), "{}", first.stderr);
}

#[test]
fn exports_are_whole_models_or_adapters() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok(&format!("{TRAIN} --tune lora --lora-rank 2 --out run --max-steps 3"));
    let told = sandbox.ok("export --run run --out hf --as hf --json").json();
    assert_eq!((&told["as"], &told["latent"]), (&"hf".into(), &true.into()));
    manifest_holds(&sandbox, "hf", &["config.json", "model.safetensors", "tokenizer.json", "lpc_model.safetensors"]);
    manifest_holds(&sandbox, "hf", &["lpc_transformers.py"]);
    sandbox.ok("score --data data --model hf --out hf.parquet --quiet");
    close(&sandbox, "hf.parquet", "run", 1e-3);
    // Other programs stop where answers end here; nothing but the tokenizer knows where in a model made from the seed.
    let ends = &sandbox.json("data/tokenizer/tokenizer_config.json")["lpc_pipe"]["stop_ids"];
    for place in ["hf", "run/model/base"] {
        let found = &sandbox.json(&format!("{place}/generation_config.json"))["eos_token_id"];
        assert!(found.is_u64() && ends == &serde_json::json!([found]), "{place}: {found} {ends}");
    }
    // The adapter elsewhere, with its base.
    sandbox.ok("export --run run --out peft --as peft");
    manifest_holds(&sandbox, "peft", &["adapter_config.json", "adapter_model.safetensors", "base/config.json"]);
    assert!(!sandbox.exists("peft/lpc_transformers.py"), "it reads whole models");
    assert!(sandbox.bytes("peft/adapter_model.safetensors") == sandbox.bytes("run/model/adapter_model.safetensors"));
    std::fs::rename(sandbox.path("run/model/base"), sandbox.path("gone")).expect("moved");
    sandbox.ok("score --data data --model peft --out peft.parquet --quiet");
    assert_eq!(sandbox.bytes("peft.parquet"), sandbox.bytes("hf.parquet").clone(), "merged here or there");
    std::fs::rename(sandbox.path("gone"), sandbox.path("run/model/base")).expect("moved back");
    // Smaller numbers, smaller files, an index.
    sandbox.ok("export --run run --out small --dtype bf16");
    assert_eq!(sandbox.json("small/config.json")["torch_dtype"], "bfloat16");
    sandbox.ok("score --data data --model small --out small.parquet --quiet");
    close(&sandbox, "small.parquet", "run", 2.0);
    sandbox.ok("export --run run --out same --dtype base");
    assert!(sandbox.bytes("same/model.safetensors") == sandbox.bytes("hf/model.safetensors"));
    // Written again over an earlier one, in the other form: nothing of that is left to be read in its place.
    sandbox.ok("export --run run --out hf --as hf --quiet");
    sandbox.ok("export --run run --out peft --as hf --quiet");
    assert!(!sandbox.exists("peft/adapter_config.json") && !sandbox.exists("peft/base"));
    sandbox.ok("export --run run --out peft --as peft --quiet");
    assert!(!sandbox.exists("peft/config.json") && !sandbox.exists("peft/model.safetensors"));
    sandbox.ok("score --data data --model peft --out again.parquet --quiet");
    assert_eq!(sandbox.bytes("again.parquet"), sandbox.bytes("hf.parquet"));
    // What cannot be is said so.
    sandbox.ok(&format!("{TRAIN} --out full --max-steps 1"));
    let refused = sandbox.ends(2, "export --run full --out x --as peft");
    assert!(refused.stderr.contains("tune = \"full\" leaves no adapter"), "{}", refused.stderr);
    sandbox.ok("export --run full --out whole");
    assert!(sandbox.bytes("whole/model.safetensors") == sandbox.bytes("full/model/model.safetensors"));
    sandbox.ok(&format!("{TRAIN} --out bare --max-steps 1 --set train.save_model=false"));
    for (code, line, said) in [
        (2, "export", "export.run: missing"),
        (3, "export --run run --out run", "an input of this command"),
        (3, "export --run run --out run/model", "which `train` wrote"),
        (2, "export --run run --out x --as peft --dtype bf16", "no effect"),
        (2, "export --run run --out x --as gguf", "export.as"),
        (3, "export --run data --out x", "not by `train`"),
        (3, "export --run nowhere --out x", "no manifest"),
        (3, "export --run bare --out x", "no model"),
    ] {
        let output = sandbox.ends(code, line);
        assert!(output.stderr.contains(said), "{line}: {}", output.stderr);
    }
    assert!(!sandbox.exists("x"));
}

#[test]
fn sweeps_may_tune_adapters_and_heads() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    for tune in ["lora", "head"] {
        let recipe = format!(
            "[prepare]\ninput = [\"raw\"]\n[prepare.pairs]\ntest_fraction = 0.25\n[train]\nmodel = \"tiny:16x1\"\n\
             batch = 16\nmax_steps = 2\ntune = \"{tune}\"\n[sweep]\nnoise_p = [0.0, 0.3]\nlatent = [\"none\", \"lpc\"]\n\
             seeds = [1]\n"
        );
        sandbox.write("sweep.toml", recipe);
        let told = sandbox.ok(&format!("noise-sweep --config sweep.toml --out {tune} --json")).json();
        assert_eq!(told["cells_run"], 4);
        let model = format!("{tune}/cells/dpo-none-clean-s1/model");
        assert_eq!(sandbox.exists(&format!("{model}/adapter_config.json")), tune == "lora");
    }
    assert_eq!(sandbox.files("head/hidden").len(), 1, "cells of one model share the hidden states, flips or not");
    assert!(!sandbox.exists("head/prepared/clean/hidden"));
}

#[test]
fn auto_precision_is_settled_before_the_run_and_part_of_it() {
    use lpc_pipe::nn::Precision;
    let sandbox = Sandbox::new();
    sandbox.prepared(30);
    let precision = |run: &str| {
        let text = sandbox.text(&format!("{run}/config.toml"));
        let line = text.lines().find(|line| line.starts_with("precision = ")).expect("a precision");
        line.trim_start_matches("precision = ").trim_matches('"').to_string()
    };
    // A narrow model does not gain by bfloat16; a wide one does, where the processor has it.
    sandbox.ok(&format!("{TRAIN} --out narrow --max-steps 1"));
    assert_eq!(precision("narrow"), "f32");
    let wide = "train --data data --model tiny:256x1 --batch 2 --latent none --quiet --posteriors test";
    sandbox.ok(&format!("{wide} --out wide --max-steps 1"));
    let has = Precision::Bf16.effective() == Precision::Bf16;
    let (auto, other, code) = if has { ("bf16", "f32", 3) } else { ("f32", "bf16", 2) };
    assert_eq!(precision("wide"), auto);
    sandbox.ok(&format!("{wide} --out wide --max-steps 2 --precision {auto} --resume"));
    // With the other one it is another run, or, where the processor lacks it, none.
    let refused = sandbox.ends(code, &format!("{wide} --out wide --max-steps 3 --precision {other} --resume")).stderr;
    assert!(refused.contains("precision"), "{refused}");
}
