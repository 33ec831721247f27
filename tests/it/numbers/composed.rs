//! Composed operations, other types and recomputation against the fused kernels. All on the CPU: what a device adds is
//! its own arithmetic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device};
use lpc_pipe::batch::{PairBatch, Sides};
use lpc_pipe::lpc::{Basis, CodeSpace, Features, Inference, LatentKind, LpcConfig, Pooling, PriorInput};
use lpc_pipe::model::{Gradients, LlamaConfig, Loaded, Lora, LoraConfig, Params, Place, init, lora};
use lpc_pipe::nn::Real;
use lpc_pipe::objective::ObjectiveKind;
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended};
use lpc_pipe::policy::Policy;
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::checkpoint;
use lpc_pipe::train::optimizer::{AdamW, AdamWConfig, LearningRates, global_norm};
use lpc_pipe::train::step::{self, Sums};
use lpc_pipe::train::{Kernels, PrecisionKind, TrainConfig, Tune};
use lpc_pipe::weights::safetensors;
use tempfile::TempDir;

use crate::numbers::policies::{
    LONGEST, MIDDLE, close, codes, gradients, llama, numbers, objective, pairs, pass, plain, policy, some_reference,
};

/// The CPU with composed operations; products in this type.
fn composed(compute: DType) -> Place {
    Place { device: Device::Cpu, compute }
}

/// Hidden states and token log-probabilities without a graph.
fn values<T: Real>(policy: &Policy<T>, rows: &[TokenRow]) -> (Vec<f64>, Vec<f64>) {
    let states = policy.states(&rows.iter().collect::<Vec<_>>(), Sides::Both, None).unwrap();
    let logps = policy.logps(&states, None, None).unwrap();
    (numbers(&states.h), [numbers(&logps.chosen), numbers(&logps.rejected.unwrap())].concat())
}

fn agree<T: Real>(what: &str, lpc: &LpcConfig, shape: &LlamaConfig, tolerance: f64) {
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let reference = some_reference(&rows);
    let fused = policy::<T>(shape, lpc);
    let wanted = values(&fused, &rows);
    let all = gradients(&fused, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3);
    for recompute in [false, true] {
        let what = format!("{what}, tied {}, recompute {recompute}", shape.tie_word_embeddings);
        let mut other = policy::<T>(shape, lpc).placed(composed(T::KIND)).unwrap();
        other.decoder.recompute = recompute;
        let found = values(&other, &rows);
        close(&format!("{what}: hidden"), &found.0, &wanted.0, tolerance);
        close(&format!("{what}: logps"), &found.1, &wanted.1, tolerance);
        let found = gradients(&other, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3);
        assert_eq!(found.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>(), "{what}");
        for (name, gradient) in &found {
            close(&format!("{what}: {name}"), gradient, &all[name], tolerance);
        }
        let few = fused.decoder.logits(&values_of(&fused, &rows)).unwrap();
        let logits = other.decoder.logits(&values_of(&other, &rows)).unwrap();
        close(&format!("{what}: logits"), &numbers(&logits), &numbers(&few), tolerance);
    }
}

fn values_of<T: Real>(policy: &Policy<T>, rows: &[TokenRow]) -> candle_core::Tensor {
    let batch = PairBatch::pack(&rows[..1], Sides::Both).unwrap();
    policy.hidden(&batch, None).unwrap()
}

#[test]
fn composed_operations_are_the_kernels_in_values_and_all_gradients() {
    let lpc = codes(Features::Difference, Pooling::Mean);
    for tied in [true, false] {
        agree::<f64>("f64, plain", &plain(), &llama(tied), 1e-10);
        agree::<f64>("f64, codes", &lpc, &llama(tied), 1e-10);
        agree::<f32>("f32, codes", &lpc, &llama(tied), 1e-5);
    }
}

#[test]
fn composed_operations_see_windows_and_every_latent() {
    // Rows see three positions in the second layer alone.
    let windowed = LlamaConfig { sliding_window: 3, first_windowed_layer: 1, ..llama(true) };
    agree::<f64>("windows", &plain(), &windowed, 1e-10);
    let ours = LpcConfig { codes: 3, prior_dropout: 0.0, latent: LatentKind::Lpc, ..LpcConfig::default() };
    agree::<f64>("biases of tokens", &ours, &llama(true), 1e-10);
    let sampled = LpcConfig { inference: Inference::Amortised, ..ours };
    agree::<f64>("biases of tokens, sampled", &sampled, &llama(false), 1e-10);
    let lpc = codes(Features::Concat, Pooling::Mean);
    agree::<f64>("exact", &LpcConfig { exact: true, ..lpc.clone() }, &llama(true), 1e-10);
    for latent in [LatentKind::Gaussian, LatentKind::Mlp, LatentKind::Bias] {
        agree::<f64>(&latent.name(), &LpcConfig { latent, balance: 0.0, ..lpc.clone() }, &llama(false), 1e-10);
    }
}

#[test]
fn what_is_frozen_has_no_gradient_on_composed_operations() {
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let (reference, lpc) = (some_reference(&rows), codes(Features::Concat, Pooling::Last));
    let frozen = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    ];
    let held = || {
        let free = policy::<f64>(&llama(false), &lpc);
        let mut list: Vec<_> = free.params.iter().cloned().collect();
        for param in &mut list {
            param.trainable = !frozen.contains(&param.name.as_str());
        }
        Policy::<f64>::over(llama(false), Params::new(list).unwrap(), None, &lpc, Basis::sized(&lpc, 16, 30), LONGEST)
            .unwrap()
    };
    let of = |policy: &Policy<f64>| gradients(policy, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3);
    let (wanted, found) = (of(&held()), of(&held().placed(composed(DType::F64)).unwrap()));
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, gradient) in &found {
        assert!(!frozen.contains(&name.as_str()));
        close(name, gradient, &wanted[name], 1e-10);
    }
}

#[test]
fn recomputed_layers_give_the_same_bits() {
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let (reference, lpc) = (some_reference(&rows), codes(Features::Concat, Pooling::Mean));
    let of = |recompute| {
        let mut policy = policy::<f32>(&llama(true), &lpc);
        policy.decoder.recompute = recompute;
        gradients(&policy, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3)
    };
    assert!(of(false) == of(true));
}

/// A policy of which this kind of tuning trains its part; the second factors of adapters are not zero.
fn tuned(tune: Tune, lpc: &LpcConfig) -> Policy<f64> {
    let config = llama(true);
    let mut loaded = Loaded { params: init::random::<f64>(&config, 0.3, Seed(5)).unwrap(), config };
    let mut adapter = None;
    match tune {
        Tune::Full => {}
        Tune::Head => loaded = loaded.head_alone().unwrap(),
        Tune::Latent => loaded.freeze(),
        Tune::Lora => {
            let lora = Lora::new(&LoraConfig { rank: 2, ..LoraConfig::default() });
            lora::attach::<f64>(&mut loaded, &lora, Seed(8)).unwrap();
            for param in loaded.params.iter().filter(|p| p.name.contains(".lora_B.")) {
                let values: Vec<f64> = init::normal(Seed(7), &param.name, param.var.elem_count()).collect();
                let values = candle_core::Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap();
                param.var.set(&(values * 0.2).unwrap()).unwrap();
            }
            adapter = Some(lora);
        }
    }
    let basis = Basis::sized(lpc, loaded.config.hidden_size, loaded.config.vocab_size);
    Policy::new(loaded, adapter, lpc, basis, Seed(6), LONGEST).unwrap()
}

#[test]
fn every_tuning_latent_and_objective_has_the_kernels_gradients() {
    let ours = LpcConfig { codes: 3, prior_dropout: 0.0, latent: LatentKind::Lpc, ..LpcConfig::default() };
    let hidden = LpcConfig { code_space: CodeSpace::Hidden, ..ours.clone() };
    // A prior that reads a layer below the last.
    let below = LpcConfig { prior_input: PriorInput::States, prompt_layer: 1, ..ours.clone() };
    let of = |latent| LpcConfig { latent, balance: 0.0, ..ours.clone() };
    let latents = [
        ("none", plain()),
        ("codes, vocabulary", ours.clone()),
        ("codes, hidden", hidden),
        ("codes, layer below", below),
        ("mlp", of(LatentKind::Mlp)),
        ("bias", of(LatentKind::Bias)),
    ];
    let rows = pairs(4);
    let reference = some_reference(&rows);
    for tune in [Tune::Full, Tune::Lora, Tune::Head, Tune::Latent] {
        for (latent, lpc) in &latents {
            if tune == Tune::Latent && !lpc.active() {
                continue;
            }
            for kind in [ObjectiveKind::Dpo, ObjectiveKind::Ipo, ObjectiveKind::Simpo] {
                let what = format!("{tune:?}, {latent}, {kind:?}");
                let objective = objective(kind);
                let of = |policy: &Policy<f64>| gradients(policy, &rows, &reference, &pass(&objective, MIDDLE, 4), 2);
                let (wanted, found) =
                    (of(&tuned(tune, lpc)), of(&tuned(tune, lpc).placed(composed(DType::F64)).unwrap()));
                assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{what}");
                assert!(wanted.values().flatten().any(|g| g.abs() > 1e-3), "{what}: no gradient to compare");
                for (name, gradient) in &found {
                    close(&format!("{what}: {name}"), gradient, &wanted[name], 1e-9);
                }
            }
        }
    }
}

#[test]
fn codes_too_far_apart_for_one_softmax_are_scored_in_turn() {
    let lpc = LpcConfig { codes: 3, prior_dropout: 0.0, latent: LatentKind::Lpc, ..LpcConfig::default() };
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let reference = some_reference(&rows);
    let far = || {
        let policy = policy::<f64>(&llama(true), &lpc);
        let codes = policy.params.iter().find(|p| lpc_pipe::lpc::names::is_code(&p.name)).unwrap();
        codes.var.set(&(codes.var.as_detached_tensor() * 500.0).unwrap()).unwrap();
        policy
    };
    let of = |policy: &Policy<f64>| gradients(policy, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3);
    let (wanted, found) = (of(&far()), of(&far().placed(composed(DType::F64)).unwrap()));
    for (name, gradient) in &found {
        close(name, gradient, &wanted[name], 1e-9);
    }
}

#[test]
fn a_checkpoint_has_the_moments_of_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let policy = policy::<f32>(&llama(true), &plain()).placed(composed(DType::F32)).unwrap();
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let (reference, rows) = (some_reference(&rows), rows.iter().collect::<Vec<&TokenRow>>());
    let sums = Arc::new(Gradients::as_tensors(&policy.params));
    step::pass(&policy, &rows, &reference, &pass(&dpo, MIDDLE, 3), &sums, &mut Sums::default()).unwrap();
    let mut optimizer = AdamW::<f32>::new(ADAMW, &policy.params).unwrap();
    optimizer
        .step(
            &policy.params,
            &sums,
            LearningRates { backbone: 1e-3, latent: 1e-3, codes: 1e-3, ..Default::default() },
            1.0,
        )
        .unwrap();
    let state = checkpoint::CheckpointState { step: 1, ..Default::default() };
    let folder = checkpoint::write(dir.path(), &policy.params, Some(&optimizer), state, 1).unwrap();
    let written = safetensors::read(&folder.join("optimizer.safetensors")).unwrap();
    for (position, param) in policy.params.iter().enumerate() {
        let gradient = numbers(&sums.tensor(position).unwrap().unwrap());
        assert!(gradient.iter().any(|g| *g != 0.0), "{}", param.name);
        let first: Vec<f64> = gradient.iter().map(|g| (1.0 - ADAMW.beta1) * g).collect();
        let second: Vec<f64> = gradient.iter().map(|g| (1.0 - ADAMW.beta2) * g * g).collect();
        for (moment, wanted) in [("first", first), ("second", second)] {
            let name = format!("{moment}.{}", param.name);
            close(&name, &numbers(&written[&name]), &wanted, 1e-6);
        }
    }
}

const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, latent_steps: 0 };

/// All parameters by name.
fn parameters<T: Real>(policy: &Policy<T>) -> BTreeMap<String, Vec<f64>> {
    policy.params.iter().map(|p| (p.name.clone(), numbers(p.var.as_tensor()))).collect()
}

/// Trains on three pairs for some steps; returns the loss of each.
fn train_on<T: Real>(policy: &Policy<T>, sums: &Arc<Gradients>, steps: usize, lr: f64) -> Vec<f64> {
    let (rows, dpo) = (pairs(3), objective(ObjectiveKind::Dpo));
    let reference = some_reference(&rows);
    let rows: Vec<&TokenRow> = rows.iter().collect();
    let mut optimizer = AdamW::<T>::new(ADAMW, &policy.params).unwrap();
    (0..steps)
        .map(|_| {
            sums.clear::<T>().unwrap();
            let mut counted = Sums::default();
            step::pass(policy, &rows, &reference, &pass(&dpo, MIDDLE, 3), sums, &mut counted).unwrap();
            let clip = 1.0 / global_norm::<T>(sums).unwrap();
            optimizer
                .step(
                    &policy.params,
                    sums,
                    LearningRates { backbone: lr, latent: lr, codes: lr, ..Default::default() },
                    clip,
                )
                .unwrap();
            policy.decoder.refresh(&policy.params).unwrap();
            counted.objective / 3.0
        })
        .collect()
}

#[test]
fn the_optimizer_of_tensors_is_that_of_slices() {
    let lpc = codes(Features::Concat, Pooling::Mean);
    let run = |tensors: bool| {
        let policy = policy::<f64>(&llama(true), &lpc).placed(composed(DType::F64)).unwrap();
        let sums = if tensors { Gradients::as_tensors(&policy.params) } else { Gradients::new(&policy.params) };
        let losses = train_on(&policy, &Arc::new(sums), 6, 1e-2);
        (losses, parameters(&policy))
    };
    let (wanted, found) = (run(false), run(true));
    close("losses", &found.0, &wanted.0, 1e-11);
    for (name, values) in &found.1 {
        close(name, values, &wanted.1[name], 1e-10);
    }
}

#[test]
fn bf16_follows_f32_and_small_updates_do_not_vanish() {
    let lpc = codes(Features::Concat, Pooling::Mean);
    // Far below half a unit in the last place of bf16 for most weights, which are near 0.3: 2^-10.
    let (steps, lr) = (40, 1e-5);
    let run = |place: Option<DType>| {
        let mut policy = policy::<f32>(&llama(true), &lpc);
        if let Some(compute) = place {
            policy = policy.placed(composed(compute)).unwrap();
        }
        let before = parameters(&policy);
        let losses = train_on(&policy, &Arc::new(Gradients::new(&policy.params)), steps, lr);
        let after = parameters(&policy);
        let name = "model.layers.0.mlp.up_proj.weight";
        let moved: Vec<f64> = after[name].iter().zip(&before[name]).map(|(a, b)| a - b).collect();
        (losses, moved)
    };
    let (exact, rounded) = (run(None), run(Some(DType::BF16)));
    // Eight bits of precision in every product.
    close("losses", &rounded.0, &exact.0, 0.02);
    let gain = |losses: &[f64]| losses[0] - losses[steps - 1];
    assert!(gain(&exact.0) > 1e-4, "{:?}", exact.0);
    assert!((gain(&rounded.0) / gain(&exact.0) - 1.0).abs() < 0.5, "{} {}", gain(&rounded.0), gain(&exact.0));
    // The masters move alike: the same way, about as far.
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (far, near) = (dot(&exact.1, &exact.1).sqrt(), dot(&rounded.1, &rounded.1).sqrt());
    let together = dot(&exact.1, &rounded.1) / (far * near);
    assert!(together > 0.9 && (near / far - 1.0).abs() < 0.1, "cosine {together}, lengths {near} {far}");
    assert!(rounded.1.iter().filter(|d| **d != 0.0).count() * 10 > rounded.1.len() * 9);
}

#[test]
fn products_read_bf16_and_masters_stay_whole() {
    let policy = policy::<f32>(&llama(true), &plain()).placed(composed(DType::BF16)).unwrap();
    for param in policy.params.iter() {
        assert_eq!(param.var.dtype(), DType::F32, "{}", param.name);
    }
    let h = values_of(&policy, &pairs(1));
    assert_eq!(h.dtype(), DType::F32);
    // Rounded to bf16 the weights give these logits, up to the rounding of the rows.
    let exact = crate::numbers::policies::policy::<f32>(&llama(true), &plain());
    let head = exact.params.get(exact.params.position("model.embed_tokens.weight").unwrap());
    let rounded = head.var.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let rows = h.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let wanted = rows.matmul(&rounded.t().unwrap()).unwrap();
    close("logits", &numbers(&policy.decoder.logits(&h).unwrap()), &numbers(&wanted), 0.01);
    // A frozen matrix has the compute type alone.
    let mut list: Vec<_> = exact.params.iter().cloned().collect();
    list.iter_mut().for_each(|p| p.trainable = p.name.contains("q_proj"));
    let held = Policy::<f32>::over(
        llama(true),
        Params::new(list).unwrap(),
        None,
        &plain(),
        Basis::sized(&plain(), 16, 30),
        LONGEST,
    )
    .unwrap();
    let held = held.placed(composed(DType::BF16)).unwrap();
    for param in held.params.iter() {
        let wide = param.trainable || param.var.rank() == 1;
        assert_eq!(param.var.dtype(), if wide { DType::F32 } else { DType::BF16 }, "{}", param.name);
    }
    assert!(lpc_pipe::train::reference::fingerprint::<f32>(&held).is_ok());
}

/// A prepared folder, made once.
static GROUND: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    synth::write(&SynthConfig { rows: 30, out: place("corpus"), ..SynthConfig::default() }, Seed(1), &Silent).unwrap();
    let input = vec![dir.path().join("corpus").join(synth::CORPUS).display().to_string()];
    prepare::run(&PrepareConfig { input, out: place("prepared"), ..PrepareConfig::default() }, Seed(1), &Silent)
        .unwrap();
    dir
});

fn place(name: &str) -> PathBuf {
    GROUND.path().join(name)
}

fn config(out: &str) -> TrainConfig {
    TrainConfig {
        data: place("prepared").display().to_string(),
        model: "tiny:32x2".into(),
        out: place(out).display().to_string(),
        batch: 4,
        epochs: 2.0,
        lr: 1e-3,
        lpc: LpcConfig { codes: 4, ..LpcConfig::default() },
        ..TrainConfig::default()
    }
}

fn run(config: &TrainConfig, resume: bool) -> Vec<f64> {
    let ended = train::run(config, Seed(7), resume, &Silent);
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
    let text = std::fs::read_to_string(PathBuf::from(&config.out).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn whole_runs_on_composed_operations() {
    let fused = run(&config("fused"), false);
    let composed = TrainConfig { kernels: Kernels::Composed, ..config("composed") };
    close("composed", &run(&composed, false), &fused, 1e-4);
    let again = TrainConfig { recompute: true, ..config("recompute") };
    assert_eq!(run(&again, false), fused);
    let half = TrainConfig { precision: PrecisionKind::Bf16, ..TrainConfig { out: config("half").out, ..composed } };
    let losses = run(&half, false);
    close("bf16", &losses, &fused, 0.05);
    // A checkpoint holds the masters: stopped and resumed, bf16 ends with the same bits too.
    let stopped = TrainConfig { out: config("stopped").out, max_steps: 5, ..half };
    run(&stopped, false);
    assert_eq!(run(&TrainConfig { max_steps: 0, ..stopped }, true), losses);
    let weights = |run: &str| std::fs::read(place(run).join("model/model.safetensors")).unwrap();
    assert!(weights("stopped") == weights("half"));
}

#[test]
fn adapters_and_heads_on_composed_operations() {
    for tune in [Tune::Lora, Tune::Head] {
        let name = |kind: &str| format!("{kind}-{tune:?}");
        let of = |kind: &str| TrainConfig { tune, ..config(&name(kind)) };
        let fused = run(&of("fused"), false);
        let composed = TrainConfig { kernels: Kernels::Composed, ..of("composed") };
        close(&name("composed"), &run(&composed, false), &fused, 1e-4);
        let half = TrainConfig { precision: PrecisionKind::Bf16, kernels: Kernels::Composed, ..of("half") };
        let losses = run(&half, false);
        close(&name("bf16"), &losses, &fused, 0.05);
        assert!(losses[losses.len() - 1] < losses[0], "{tune:?}: {losses:?}");
    }
}
