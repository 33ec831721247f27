//! Adapters and head-only tuning: exact gradients, the same function in every form, and what PEFT wrote.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use lpc_pipe::batch::Sides;
use lpc_pipe::lpc::{Basis, Features, LpcConfig, Pooling};
use lpc_pipe::model::init::{normal, random};
use lpc_pipe::model::{Gradients, Group, LlamaConfig, Loaded, Lora, LoraConfig, Params, Place, lora, names};
use lpc_pipe::nn::Real;
use lpc_pipe::objective::ObjectiveKind;
use lpc_pipe::policy::evaluate::plain_logps;
use lpc_pipe::policy::{Keeping, Policy, evaluate, hidden_cache, saved};
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::source::ModelSource;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::reference;
use lpc_pipe::weights::load::{load, load_adapter};
use lpc_pipe::weights::{fingerprint, folder};

use crate::numbers::gradients::check;
use crate::numbers::policies::{
    LONGEST, MIDDLE, codes, gradients, llama, new_policy, objective, pairs, pass, plain, some_reference, value,
};

fn settings(targets: &[&str]) -> Lora {
    let targets = targets.iter().map(|t| (*t).to_string()).collect();
    Lora::new(&LoraConfig { rank: 3, alpha: 5.0, targets, ..LoraConfig::default() })
}

fn loaded<T: Real>(config: &LlamaConfig) -> Loaded {
    Loaded { config: config.clone(), params: random::<T>(config, 0.3, Seed(5)).unwrap() }
}

/// A policy with a new adapter; `filled` gives B numbers too.
fn adapted<T: Real>(config: &LlamaConfig, settings: &Lora, lpc: &LpcConfig, filled: bool) -> Policy<T> {
    let mut loaded = loaded::<T>(config);
    lora::attach::<T>(&mut loaded, settings, Seed(8)).unwrap();
    for param in loaded.params.iter().filter(|p| filled && p.name.contains("lora_B")) {
        let values: Vec<T> = normal(Seed(9), &param.name, param.var.elem_count()).map(|x| T::of(0.2 * x)).collect();
        param.var.set(&Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    let basis = Basis::sized(lpc, config.hidden_size, config.vocab_size);
    Policy::new(loaded, Some(settings.clone()), lpc, basis, Seed(6), LONGEST).unwrap()
}

/// A policy of which only the head is trained.
fn headed<T: Real>(config: &LlamaConfig, lpc: &LpcConfig) -> Policy<T> {
    new_policy(loaded::<T>(config).head_alone().unwrap(), lpc, Seed(6), LONGEST)
}

fn all_of(rows: &[TokenRow]) -> Vec<&TokenRow> {
    rows.iter().collect()
}

fn flat(pairs: Vec<(f64, f64)>) -> Vec<f64> {
    pairs.into_iter().flat_map(|(a, b)| [a, b]).collect()
}

fn logps<T: Real>(policy: &Policy<T>, rows: &[TokenRow]) -> Vec<f64> {
    flat(plain_logps(policy, rows, |_| ()).unwrap())
}

#[track_caller]
fn near(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn adapters_have_exact_gradients_and_nothing_else_has_any() {
    let dpo = objective(ObjectiveKind::Dpo);
    let everything = |_: &str| true;
    for targets in [&["all-linear"] as &[&str], &["v_proj"], &["q_proj", "down_proj"]] {
        let policy = adapted::<f64>(&llama(true), &settings(targets), &plain(), true);
        let found = check(&format!("{targets:?}"), &policy, &dpo, everything);
        assert!(found.keys().all(|name| name.contains(".lora_")), "{:?}", found.keys());
    }
    let stable = Lora { rslora: true, layers: vec![1], ..settings(&["k_proj", "o_proj", "up_proj"]) };
    let coded = codes(Features::Concat, Pooling::Mean);
    let policy = adapted::<f64>(&llama(false), &stable, &coded, true);
    let found = check("with codes", &policy, &dpo, everything);
    assert_eq!(found.keys().filter(|n| n.contains(".lora_")).count(), 6);
    assert!(found.keys().all(|n| n.contains("layers.1") || n.starts_with("lpc.")));
}

#[test]
fn a_new_adapter_changes_no_bit_and_its_b_has_a_gradient() {
    for tied in [true, false] {
        let rows = pairs(5);
        let base = new_policy::<f32>(loaded::<f32>(&llama(tied)), &plain(), Seed(6), LONGEST);
        let policy = adapted::<f32>(&llama(tied), &settings(&["all-linear"]), &plain(), false);
        assert_eq!(logps(&base, &rows), logps(&policy, &rows));
        let dpo = objective(ObjectiveKind::Dpo);
        let found = gradients(&policy, &rows, &some_reference(&rows), &pass(&dpo, MIDDLE, 5), 5);
        for (name, gradient) in &found {
            assert_eq!(gradient.iter().any(|g| *g != 0.0), name.contains("lora_B"), "{name}");
        }
        // What a run starts from is the base's function, whatever A is; filled, it is another one.
        assert_eq!(policy.params.starting().count(), base.params.len());
        let filled = adapted::<f32>(&llama(tied), &settings(&["all-linear"]), &plain(), true);
        assert_eq!(filled.params.starting().count(), filled.params.len());
    }
}

#[test]
fn memory_follows_what_is_trained() {
    let config = llama(true);
    let lora = settings(&["q_proj", "down_proj"]);
    let policy = adapted::<f32>(&config, &lora, &plain(), false);
    assert_eq!(policy.params.trainable_elements(), lora.elements(&config));
    assert_eq!(policy.params.iter().filter(|p| p.trainable).count(), 2 * 2 * 2, "checkpoints hold the adapter alone");
    let rows = pairs(2);
    let dpo = objective(ObjectiveKind::Dpo);
    let found = gradients(&policy, &rows, &some_reference(&rows), &pass(&dpo, MIDDLE, 2), 2);
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), lora.elements(&config));
    let head = headed::<f32>(&config, &plain());
    assert_eq!(head.params.trainable_elements(), config.vocab_size * config.hidden_size);
}

/// Saves a base and an adapter over it; gives the adapter's folder and the policy that was saved.
fn saved(dir: &Path, config: &LlamaConfig, lora: &Lora, lpc: &LpcConfig) -> (PathBuf, Policy<f32>) {
    let (base, place) = (dir.join("base-model"), dir.join("adapter"));
    folder::save(&base, config, loaded::<f32>(config).params.iter()).unwrap();
    let lora = Lora { base: base.display().to_string(), ..lora.clone() };
    let policy = adapted::<f32>(config, &lora, lpc, true);
    saved::save(&policy, &place).unwrap();
    (place, policy)
}

#[test]
fn saved_loaded_and_merged_are_one_function() {
    for (tied, lora) in [
        (true, settings(&["all-linear"])),
        (false, Lora { rslora: true, layers: vec![1], ..settings(&["q_proj", "up_proj"]) }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let rows = pairs(6);
        let (place, policy) = saved(dir.path(), &llama(tied), &lora, &plain());
        let wanted = logps(&policy, &rows);
        // On top of its base: the same bits. Merged: the same numbers.
        let (again, found) = load_adapter::<f32>(&place, 30, Seed(0)).unwrap();
        assert_eq!((found.config(), &found.layers), (policy.adapter.as_ref().unwrap().config(), &lora.layers));
        let again =
            Policy::<f32>::new(again, Some(found), &plain(), Basis::sized(&plain(), 16, 30), Seed(0), LONGEST).unwrap();
        assert_eq!(logps(&again, &rows), wanted);
        let merged = saved::open::<f32>(&ModelSource::Folder(place), 30, Seed(0), LONGEST).unwrap();
        assert!(merged.adapter.is_none() && merged.params.iter().all(|p| p.group != Group::Adapter));
        near(&logps(&merged, &rows), &wanted, 1e-5);
        // The adapter counts: without it the numbers are others.
        let base = new_policy::<f32>(loaded::<f32>(&llama(tied)), &plain(), Seed(6), LONGEST);
        assert!(logps(&base, &rows).iter().zip(&wanted).any(|(a, b)| (a - b).abs() > 1e-2));
    }
}

/// What a device rounds is not what the adapter's base is known by.
#[test]
fn an_adapter_from_a_place_of_less_precision_finds_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base-model");
    folder::save(&base, &llama(true), loaded::<f32>(&llama(true)).params.iter()).unwrap();
    let fingerprint = fingerprint::<f32>(loaded::<f32>(&llama(true)).params.iter()).unwrap();
    let place = || Place { device: Device::Cpu, compute: DType::BF16 };
    for named in [true, false] {
        let mut lora = Lora { fingerprint: fingerprint.clone(), ..settings(&["q_proj"]) };
        if named {
            lora.base = base.display().to_string();
        }
        let policy = adapted::<f32>(&llama(true), &lora, &plain(), true).placed(place()).unwrap();
        let folder = dir.path().join(format!("adapter-{named}"));
        saved::save(&policy, &folder).unwrap();
        load::<f32>(&ModelSource::Folder(folder), 30, Seed(0)).unwrap();
    }
}

#[test]
fn a_latent_part_stands_beside_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let rows = pairs(4);
    let lpc = codes(Features::Difference, Pooling::Mean);
    let (place, policy) = saved(dir.path(), &llama(true), &settings(&["v_proj"]), &lpc);
    let opened = saved::open::<f32>(&ModelSource::Folder(place), 30, Seed(0), LONGEST).unwrap();
    let of = |policy: &Policy<f32>| {
        flat(evaluate(policy, &rows, |_| ()).unwrap().into_iter().map(|e| e.logps).collect::<Vec<_>>())
    };
    near(&of(&opened), &of(&policy), 1e-5);
    assert!(opened.lpc.is_some());
}

#[test]
fn adapters_that_cannot_be_applied_exactly_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (place, _) = saved(dir.path(), &llama(true), &settings(&["q_proj"]), &plain());
    let config = place.join("adapter_config.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let open = || load::<f32>(&ModelSource::Folder(place.clone()), 30, Seed(0));
    for (key, value) in [
        ("peft_type", serde_json::json!("LOHA")),
        ("use_dora", serde_json::json!(true)),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("rank_pattern", serde_json::json!({"q_proj": 4})),
        ("alpha_pattern", serde_json::json!({"q_proj": 4})),
        ("bias", serde_json::json!("all")),
        ("init_lora_weights", serde_json::json!("pissa")),
        ("trainable_token_indices", serde_json::json!([1])),
        ("a_feature_of_tomorrow", serde_json::json!(3)),
        ("r", serde_json::json!(0)),
        ("r", serde_json::json!(4)),
        ("base_model_name_or_path", serde_json::json!("nowhere/at all")),
        ("base_model_name_or_path", serde_json::json!(place.display().to_string())),
    ] {
        let mut changed = whole.clone();
        changed[key] = value;
        std::fs::write(&config, changed.to_string()).unwrap();
        let error = open().unwrap_err();
        let named = match key {
            "base_model_name_or_path" => "base model",
            "r" if changed["r"] == 4 => "of rank 4",
            other => other,
        };
        assert!(error.to_string().contains(named), "{key}: {error}");
        assert_eq!(error.exit_code(), 3);
    }
    // What changes nothing is no reason.
    let mut fine = whole.clone();
    for (key, value) in [
        ("lora_dropout", serde_json::json!(0.1)),
        ("peft_version", serde_json::json!("9.9")),
        ("a_feature_of_tomorrow", serde_json::json!(null)),
        ("init_lora_weights", serde_json::json!("gaussian")),
    ] {
        fine[key] = value;
    }
    std::fs::write(&config, fine.to_string()).unwrap();
    open().unwrap();
    // Trained on, it would be without the dropout that it was made with.
    let error = load_adapter::<f32>(&place, 30, Seed(0)).unwrap_err().to_string();
    assert!(error.contains("lora_dropout is 0.1"), "{error}");
    // Another base under the same name is seen.
    let other = random::<f32>(&llama(true), 0.3, Seed(55)).unwrap();
    folder::save(&dir.path().join("base-model"), &llama(true), other.iter()).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("other weights"), "{error}");
}

#[test]
fn a_base_is_found_from_here_from_the_adapter_or_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (place, policy) = saved(dir.path(), &llama(true), &settings(&["q_proj"]), &plain());
    let config = place.join("adapter_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let mut loads = |name: &str| {
        json["base_model_name_or_path"] = name.into();
        std::fs::write(&config, json.to_string()).unwrap();
        load::<f32>(&ModelSource::Folder(place.clone()), 30, Seed(0)).is_ok()
    };
    assert!(loads("../base-model"));
    assert!(!loads(""));
    let moved = place.join("base");
    std::fs::rename(dir.path().join("base-model"), &moved).unwrap();
    assert!(loads("") && loads("/a/place/of/another/machine"));
    // Without a name the base is written beside the adapter.
    let own = adapted::<f32>(&llama(true), &settings(&["q_proj"]), &plain(), true);
    let place = dir.path().join("alone");
    saved::save(&own, &place).unwrap();
    assert!(place.join("base/config.json").is_file());
    let merged = saved::open::<f32>(&ModelSource::Folder(place), 30, Seed(0), LONGEST).unwrap();
    near(&logps(&merged, &pairs(3)), &logps(&policy, &pairs(3)), 1e-5);
}

/// Adapters that Python's PEFT wrote over the recorded Llamas, and what transformers computes with them.
#[test]
fn adapters_of_python_give_the_same_log_probabilities() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    for name in ["peft_tied", "peft_untied"] {
        let recorded: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixtures.join(name).join("reference.json")).unwrap()).unwrap();
        let ids = |v: &serde_json::Value| -> Vec<u32> {
            v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let triples = recorded["triples"].as_array().unwrap();
        let rows: Vec<TokenRow> = triples
            .iter()
            .map(|t| TokenRow {
                prompt_ids: ids(&t["prompt_ids"]).into(),
                chosen_ids: ids(&t["chosen_ids"]).into(),
                rejected_ids: ids(&t["rejected_ids"]).into(),
                ..TokenRow::default()
            })
            .collect();
        let wanted = |suffix: &str| -> Vec<f64> {
            let of = |t: &serde_json::Value, side: &str| t[format!("{side}_logps{suffix}")].as_f64().unwrap();
            triples.iter().flat_map(|t| [of(t, "chosen"), of(t, "rejected")]).collect()
        };
        let source = ModelSource::Folder(fixtures.join(name));
        let policy = saved::open::<f32>(&source, 199, Seed(0), 64).unwrap();
        let got = logps(&policy, &rows);
        near(&got, &wanted(""), 2e-5);
        assert!(got.iter().zip(wanted("_base")).any(|(a, b)| (a - b).abs() > 0.1), "the adapter counts");
    }
    // The one that adapts its head is merged, not trained on.
    assert!(load_adapter::<f32>(&fixtures.join("peft_tied"), 199, Seed(0)).is_ok());
    let error = load_adapter::<f32>(&fixtures.join("peft_untied"), 199, Seed(0)).unwrap_err().to_string();
    assert!(error.contains("lm_head"), "{error}");
}

/// First-step loss and gradients of a policy whose head alone is trained, against those of all parameters.
fn head_against_full<T: Real>(tied: bool, lpc: &LpcConfig, kind: ObjectiveKind, tolerance: f64) {
    let what = objective(kind);
    let rows = pairs(5);
    let reference = some_reference(&rows);
    let pass = pass(&what, MIDDLE, 5);
    let mut head = headed::<T>(&llama(tied), lpc);
    // The same function, with the head as a parameter of its own.
    let mut free = loaded::<T>(&llama(tied)).head_alone().unwrap();
    free.params.iter_mut().for_each(|p| p.trainable = true);
    let full = new_policy::<T>(free, lpc, Seed(6), LONGEST);
    let wanted = value(&full, &rows, &reference, &pass);
    let all = gradients(&full, &rows, &reference, &pass, 2);
    let dir = tempfile::tempdir().unwrap();
    for round in ["backbone", "memory", "file", "mapped"] {
        if round != "backbone" {
            let budget = if round == "mapped" { 0 } else { 1 << 20 };
            let keeping = Keeping { folder: dir.path(), budget, about: "", head_frozen: false };
            head.states = None;
            head.states = hidden_cache::open(&head, &all_of(&rows), keeping, &Silent).unwrap();
            assert_eq!(head.states.as_ref().unwrap().memory() == 0, round == "mapped");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{round}: one file, found again");
        }
        let got = value(&head, &rows, &reference, &pass);
        near(&[got.0, got.1.rewards.0, got.1.logps.1], &[wanted.0, wanted.1.rewards.0, wanted.1.logps.1], tolerance);
        assert_eq!((got.1.tokens, got.1.right), (wanted.1.tokens, wanted.1.right));
        let found = gradients(&head, &rows, &reference, &pass, 2);
        for (name, gradient) in &found {
            let largest = all[name].iter().fold(0f64, |m, g| m.max(g.abs()));
            for (a, b) in gradient.iter().zip(&all[name]) {
                assert!((a - b).abs() <= tolerance * largest.max(1e-3), "{round}: {name}: {a} {b}");
            }
        }
        let latents = head.params.iter().filter(|p| p.group == Group::Latent).count();
        assert_eq!(found.len(), 1 + latents, "{round}");
        assert!(found.contains_key(names::HEAD));
    }
}

#[test]
fn the_head_alone_has_the_loss_and_gradient_of_a_full_run() {
    use ObjectiveKind as K;
    for tied in [true, false] {
        head_against_full::<f64>(tied, &plain(), K::Dpo, 1e-11);
        head_against_full::<f32>(tied, &plain(), K::Ipo, 1e-5);
    }
    for pooling in [Pooling::Last, Pooling::Mean] {
        let lpc = codes(Features::Concat, pooling);
        head_against_full::<f64>(true, &lpc, K::Dpo, 1e-11);
        head_against_full::<f32>(false, &lpc, K::Simpo, 1e-5);
        head_against_full::<f64>(true, &LpcConfig { exact: true, ..lpc }, K::Mix, 1e-11);
    }
    head_against_full::<f64>(true, &plain(), K::Sft, 1e-11);
}

#[test]
fn the_heads_own_gradients_are_exact() {
    let dpo = objective(ObjectiveKind::Dpo);
    check("head", &headed::<f64>(&llama(true), &plain()), &dpo, |_| true);
    check("head, codes", &headed::<f64>(&llama(false), &codes(Features::Difference, Pooling::Mean)), &dpo, |_| true);
}

#[test]
fn kept_states_are_those_of_the_same_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let keeping = Keeping { folder: dir.path(), budget: 1 << 20, about: "", head_frozen: false };
    let rows = pairs(4);
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let mut policy = headed::<f32>(&llama(true), &plain());
    let fresh = logps(&policy, &rows);
    policy.states = hidden_cache::open(&policy, &all_of(&rows), keeping, &Silent).unwrap();
    assert_eq!(files(), 1);
    near(&logps(&policy, &rows), &fresh, 1e-6);
    // Labels may be flipped: the states are those of the same texts.
    let mut flipped = rows.clone();
    for row in flipped.iter_mut().step_by(2) {
        std::mem::swap(&mut row.chosen_ids, &mut row.rejected_ids);
    }
    policy.states = None;
    let unkept = logps(&policy, &flipped);
    policy.states = hidden_cache::open(&policy, &all_of(&flipped), keeping, &Silent).unwrap();
    assert_eq!(files(), 1);
    near(&logps(&policy, &flipped), &unkept, 1e-6);
    assert_ne!(unkept, fresh);
    // Pairs that are not kept go through the backbone; so do other lengths under a known id.
    let others = pairs(6);
    assert_eq!(logps(&policy, &others).len(), 12);
    let mut longer = rows.clone();
    longer[0].chosen_ids = [&longer[0].chosen_ids[..], &[1]].concat().into();
    let batch = policy.states(&all_of(&longer), Sides::Both, None).unwrap().batch;
    assert_eq!(batch.pairs[0].prompt.len(), longer[0].prompt_ids.len());
    // The head may change, what is below it may not; nor may the tokens.
    let head = policy.params.get(policy.params.position(names::HEAD).unwrap());
    head.var.set(&head.var.zeros_like().unwrap()).unwrap();
    hidden_cache::open(&policy, &all_of(&rows), keeping, &Silent).unwrap();
    assert_eq!(files(), 1);
    hidden_cache::open(&policy, &all_of(&rows[..3]), keeping, &Silent).unwrap();
    assert_eq!(files(), 2);
    hidden_cache::open(&policy, &all_of(&rows), Keeping { about: "bf16", ..keeping }, &Silent).unwrap();
    assert_eq!(files(), 3);
    crate::numbers::policies::zero(&policy, "model.layers.0.mlp.up_proj.weight");
    hidden_cache::open(&policy, &all_of(&rows), keeping, &Silent).unwrap();
    assert_eq!(files(), 4);
    // A damaged file is made anew.
    for file in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::write(file.unwrap().path(), b"half").unwrap();
    }
    policy.states = None;
    let wanted = logps(&policy, &rows);
    policy.states = hidden_cache::open(&policy, &all_of(&rows), keeping, &Silent).unwrap();
    near(&logps(&policy, &rows), &wanted, 1e-6);
    // No place to write: what is small stays in memory, what is not is an error.
    let nowhere = dir.path().join(std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().file_name());
    let nowhere = nowhere.join("below-a-file");
    let lost = Keeping { folder: &nowhere, ..keeping };
    policy.states = hidden_cache::open(&policy, &all_of(&rows), lost, &Silent).unwrap();
    near(&logps(&policy, &rows), &wanted, 1e-6);
    assert!(hidden_cache::open(&policy, &all_of(&rows), Keeping { budget: 0, ..lost }, &Silent).is_err());
}

#[test]
fn the_scale_of_an_adapter_is_part_of_what_is_computed() {
    let rows = pairs(4);
    let of = |alpha: f64, rslora: bool, filled: bool| {
        let settings = Lora { alpha, rslora, ..settings(&["all-linear"]) };
        adapted::<f32>(&llama(true), &settings, &plain(), filled)
    };
    let files = |policies: &[Policy<f32>]| {
        let dir = tempfile::tempdir().unwrap();
        let keeping = Keeping { folder: dir.path(), budget: 1 << 20, about: "", head_frozen: true };
        for policy in policies {
            hidden_cache::open(policy, &all_of(&rows), keeping, &Silent).unwrap();
        }
        std::fs::read_dir(dir.path()).unwrap().count()
    };
    let fingerprints = |policies: &[Policy<f32>]| -> BTreeSet<String> {
        policies.iter().map(|policy| reference::fingerprint(policy).unwrap()).collect()
    };
    let base = || new_policy::<f32>(loaded::<f32>(&llama(true)), &plain(), Seed(6), LONGEST);
    let filled = [of(7.0, false, true), of(28.0, false, true), of(7.0, true, true), base()];
    assert_eq!(files(&filled), 4);
    assert_eq!(fingerprints(&filled).len(), 4);
    assert_ne!(logps(&filled[0], &rows), logps(&filled[1], &rows));
    // A new adapter adds nothing at any scale: what was computed of its base stays good.
    let idle = [of(7.0, false, false), of(28.0, false, false), of(7.0, true, false), base()];
    assert_eq!(files(&idle), 1);
    assert_eq!(fingerprints(&idle).len(), 1);
}

#[test]
fn a_frozen_policy_keeps_no_graph() {
    let rows = pairs(2);
    let policy = headed::<f32>(&llama(true), &plain());
    let sums = Arc::new(Gradients::new(&policy.params));
    let h = policy.states(&all_of(&rows), Sides::Both, Some(&sums)).unwrap().h;
    assert!(!h.track_op());
    let adapters = Params::new(
        adapted::<f32>(&llama(true), &settings(&["q_proj"]), &plain(), false).params.iter().cloned().collect(),
    );
    let error =
        Policy::<f32>::over(llama(true), adapters.unwrap(), None, &plain(), Basis::sized(&plain(), 16, 30), LONGEST)
            .unwrap_err()
            .to_string();
    assert!(error.contains("adapters without their settings"), "{error}");
}
