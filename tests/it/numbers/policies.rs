//! Small policies and random pairs, for the tests of numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use lpc_pipe::lpc::{Basis, Features, LatentKind, LpcConfig, Moment, Pooling, Preset};
use lpc_pipe::model::init::{normal, random};
use lpc_pipe::model::{Gradients, LlamaConfig, Loaded, Param};
use lpc_pipe::nn::Real;
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind};
use lpc_pipe::policy::Policy;
use lpc_pipe::seed::Seed;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::ranks::ALONE;
use lpc_pipe::train::step::{self, StepPass, Sums};
use lpc_pipe::weights::safetensors::TensorEntry;

/// Vocabulary of [`llama`].
pub const VOCABULARY: u32 = 30;
/// Longest sequence of [`policy`].
pub const LONGEST: usize = 64;

/// Two layers of width 16, four query heads over two key heads.
pub fn llama(tied: bool) -> LlamaConfig {
    LlamaConfig {
        intermediate_size: 24,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        tie_word_embeddings: tied,
        ..LlamaConfig::tiny(16, 2, VOCABULARY as usize)
    }
}

/// No latent part.
pub fn plain() -> LpcConfig {
    LpcConfig { latent: LatentKind::None, ..LpcConfig::default() }
}

/// Four codes with visible effects.
pub fn codes(features: Features, pooling: Pooling) -> LpcConfig {
    LpcConfig {
        latent: LatentKind::Lpc,
        codes: 4,
        features,
        pooling,
        code_init: 0.5,
        balance: 0.5,
        ..LpcConfig::of(Preset::Paper)
    }
}

/// The same for any latent, with visible effects.
pub fn latent(kind: LatentKind) -> LpcConfig {
    LpcConfig { latent: kind, ..codes(Features::Concat, Pooling::Mean) }
}

/// Every latent that there is.
pub const LATENTS: [LatentKind; 7] = [
    LatentKind::None,
    LatentKind::Lpc,
    LatentKind::LpcHard,
    LatentKind::LpcReliable,
    LatentKind::Gaussian,
    LatentKind::Mlp,
    LatentKind::Bias,
];

/// Writes tensors as one safetensors file.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) {
    let entries: Vec<_> = tensors.iter().map(|(name, tensor)| TensorEntry::tensor(name, tensor, None)).collect();
    lpc_pipe::weights::safetensors::write(path, &[], &entries).unwrap();
}

/// A policy without an adapter over a model, its latent part of the size that the vocabulary allows.
pub fn new_policy<T: Real>(loaded: Loaded, lpc: &LpcConfig, seed: Seed, longest: usize) -> Policy<T> {
    let basis = Basis::sized(lpc, loaded.config.hidden_size, loaded.config.vocab_size);
    Policy::new(loaded, None, lpc, basis, seed, longest).unwrap()
}

/// A policy with random weights. Norm weights and biases are random too: at their usual start of 1 and 0
/// many mistakes do not show.
pub fn policy<T: Real>(config: &LlamaConfig, lpc: &LpcConfig) -> Policy<T> {
    policy_with(config, lpc, Vec::new())
}

/// The same with further parameters.
pub fn policy_with<T: Real>(config: &LlamaConfig, lpc: &LpcConfig, further: Vec<Param>) -> Policy<T> {
    let mut params = random::<T>(config, 0.3, Seed(5)).unwrap();
    params.extend(further);
    let policy = new_policy::<T>(Loaded { config: config.clone(), params }, lpc, Seed(6), LONGEST);
    for param in policy.params.iter().filter(|p| p.var.rank() == 1) {
        let n = param.var.elem_count();
        let noise: Vec<T> = normal(Seed(7), &param.name, n).map(|x| T::of(0.2 * x)).collect();
        let noise = Tensor::from_vec(noise, param.var.shape(), &Device::Cpu).unwrap();
        param.var.set(&(param.var.as_detached_tensor() + noise).unwrap()).unwrap();
    }
    policy
}

/// Sets a parameter to zeros.
pub fn zero<T: Real>(policy: &Policy<T>, name: &str) {
    let param = policy.params.get(policy.params.position(name).unwrap());
    param.var.set(&param.var.zeros_like().unwrap()).unwrap();
}

/// Pairs of random tokens and lengths; the last token of every response is 1, its end of turn.
pub fn pairs(n: usize) -> Vec<TokenRow> {
    let ids = |i: usize, side: &str, least: usize| -> Vec<u32> {
        let key = |j: usize| format!("{i}:{side}:{j}");
        let len = least + Seed(3).index("length", &key(0), 6);
        (0..len).map(|j| 2 + Seed(3).index("token", &key(j), VOCABULARY as usize - 2) as u32).collect()
    };
    let response = |i: usize, side: &str| [ids(i, side, 1), vec![1]].concat();
    (0..n)
        .map(|i| TokenRow {
            id: format!("pair-{i}").into(),
            prompt_ids: ids(i, "prompt", 2).into(),
            chosen_ids: response(i, "chosen").into(),
            rejected_ids: response(i, "rejected").into(),
            ..TokenRow::default()
        })
        .collect()
}

/// The same pairs with the sides exchanged.
pub fn swapped(rows: &[TokenRow]) -> Vec<TokenRow> {
    rows.iter()
        .map(|row| TokenRow {
            chosen_ids: row.rejected_ids.clone(),
            rejected_ids: row.chosen_ids.clone(),
            ..row.clone()
        })
        .collect()
}

/// A reference near what the policies of this file give, but not equal to it.
pub fn some_reference(rows: &[TokenRow]) -> Vec<(f64, f64)> {
    let guess = |n: usize, key: &str| -3.0 * n as f64 + 4.0 * (Seed(4).unit("reference", key) - 0.5);
    rows.iter()
        .map(|row| (guess(row.chosen_ids.len(), &row.id), guess(row.rejected_ids.len(), &format!("{}'", row.id))))
        .collect()
}

/// An objective with its defaults written out.
pub fn objective(name: ObjectiveKind) -> ObjectiveConfig {
    ObjectiveConfig { name, ..ObjectiveConfig::default() }.resolved()
}

/// Schedules in the middle of a run: both z's, a temperature other than 1, a divergence that counts.
pub const MIDDLE: Moment = Moment { g: 0.3, tau: 0.7, kl_weight: 0.05, balance: 0.5 };

/// What a pass over `rows` in one step is told.
pub fn pass<'a>(objective: &'a ObjectiveConfig, moment: Moment, step_examples: usize) -> StepPass<'a> {
    StepPass {
        objective,
        moment,
        seed: Seed(9),
        occasion: "0",
        step_examples,
        ranks: &ALONE,
        backbone: true,
        keys: None,
        joined: None,
        layer_sums: None,
    }
}

/// Value of the loss and the sums over examples.
pub fn value<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    reference: &[(f64, f64)],
    pass: &StepPass<'_>,
) -> (f64, Sums) {
    let rows: Vec<&TokenRow> = rows.iter().collect();
    let mut sums = Sums::default();
    let unused = Arc::new(Gradients::new(&policy.params));
    let loss = step::forward(policy, &rows, reference, pass, &unused, &mut sums).unwrap();
    (loss.to_dtype(DType::F64).unwrap().to_vec0::<f64>().unwrap(), sums)
}

/// Gradients by parameter name; passes over `batch` pairs each are added up.
pub fn gradients<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    reference: &[(f64, f64)],
    pass: &StepPass<'_>,
    batch: usize,
) -> BTreeMap<String, Vec<f64>> {
    let sum = Arc::new(Gradients::new(&policy.params));
    for (rows, reference) in rows.chunks(batch).zip(reference.chunks(batch)) {
        let rows: Vec<&TokenRow> = rows.iter().collect();
        step::pass(policy, &rows, reference, pass, &sum, &mut Sums::default()).unwrap();
    }
    let mut out = BTreeMap::new();
    for (position, param) in policy.params.iter().enumerate() {
        if let Some(tensor) = sum.tensor(position).unwrap() {
            out.insert(param.name.clone(), numbers(&tensor));
        }
    }
    out
}

/// All numbers of a tensor.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.detach().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
}

/// Asserts that two lists agree to `tolerance`, absolute for numbers up to 1 and relative beyond.
#[track_caller]
pub fn close(what: &str, got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{what}: numbers");
    for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
        let error = (g - w).abs() / w.abs().max(1.0);
        assert!(error <= tolerance, "{what}[{i}]: got {g}, expected {w}: error {error:e} above {tolerance:e}");
    }
}
