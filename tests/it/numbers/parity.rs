//! Numbers recorded from transformers, TRL and torch; see `tests/fixtures/parity/record.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};
use lpc_pipe::batch::{PairBatch, PairRows};
use lpc_pipe::lpc::{
    Basis, Codebook, Codes, Context, Features, Inferred, LatentKind, Lpc, LpcConfig, Moment, Normalise, Preset,
};
use lpc_pipe::message::Message;
use lpc_pipe::model::{Gradients, Group, LlamaConfig, PackedTokens, Param, Params, names};
use lpc_pipe::nn::Real;
use lpc_pipe::nn::attention::Segment;
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind, PreferenceLogps, Reduction};
use lpc_pipe::policy::evaluate::plain_logps;
use lpc_pipe::policy::{Policy, States};
use lpc_pipe::seed::Seed;
use lpc_pipe::settings::Settings;
use lpc_pipe::source::ModelSource;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::tokenize::{Encoded, ModelTokenizer, PairText, TokenizeConfig};
use lpc_pipe::train::optimizer::{AdamW, AdamWConfig, LearningRates, global_norm};
use lpc_pipe::weights::load::load;
use lpc_pipe::weights::safetensors::write_hashed;
use serde_json::Value;

use crate::numbers::policies::{close, numbers, plain};
use crate::support::needed;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

/// All numbers of nested lists, in order.
pub fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.as_f64().unwrap_or_else(|| panic!("not a number: {other}"))],
    }
}

/// The same, of numbers that were recorded in f32: rounded to f32 before they are widened.
fn flat32(value: &Value) -> Vec<f64> {
    flat(value).into_iter().map(|x| f64::from(x as f32)).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    flat(value).into_iter().map(|x| x as u32).collect()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn open<T: Real>(source: &ModelSource, vocabulary: usize, longest: usize) -> Policy<T> {
    crate::numbers::policies::new_policy(load::<T>(source, vocabulary, Seed(0)).unwrap(), &plain(), Seed(0), longest)
}

/// Hidden states of sequences, packed end to end in one pass.
pub fn hidden<T: Real>(policy: &Policy<T>, sequences: &[Vec<u32>]) -> Vec<Tensor> {
    let (mut all, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for (group, ids) in sequences.iter().enumerate() {
        segments.push(Segment { start: all.len(), len: ids.len(), prefix_start: 0, prefix_len: 0, group });
        positions.extend(0..ids.len() as u32);
        all.extend_from_slice(ids);
    }
    let h =
        policy.decoder.hidden(PackedTokens { ids: &all, positions: &positions, segments: &segments }, None).unwrap();
    segments.iter().map(|s| h.narrow(0, s.start, s.len).unwrap()).collect()
}

fn row(triple: &Value, suffix: &str) -> TokenRow {
    let ids = |side: &str| ids(&triple[format!("{side}_ids{suffix}")]);
    TokenRow {
        id: format!("{:?}", ids("chosen")).into(),
        prompt_ids: ids("prompt").into(),
        chosen_ids: ids("chosen").into(),
        rejected_ids: ids("rejected").into(),
        ..TokenRow::default()
    }
}

fn sides(found: Vec<(f64, f64)>) -> Vec<f64> {
    found.into_iter().flat_map(|(chosen, rejected)| [chosen, rejected]).collect()
}

/// A Llama against transformers (f32) or the recorder's own f64 pass: logits, token and sequence log-probabilities.
fn llama<T: Real>(name: &str, tolerance: f64) {
    let double = T::KIND == DType::F64;
    let policy = open::<T>(&ModelSource::Folder(fixtures().join(name)), 199, 64);
    let recorded = json(&format!("{name}/reference.json"));
    let sequences = list(&recorded["sequences"]);
    let all: Vec<Vec<u32>> = sequences.iter().map(|s| ids(&s["ids"])).collect();
    for ((sequence, ids), h) in sequences.iter().zip(&all).zip(hidden(&policy, &all)) {
        let rows = Tensor::new(self::ids(&sequence["logit_rows"]), &Device::Cpu).unwrap();
        let logits = policy.decoder.logits(&h.index_select(&rows, 0).unwrap()).unwrap();
        // transformers' logits are f32; the f64 model is held to its own recording below.
        close(name, &numbers(&logits), &flat32(&sequence["logits"]), 1e-4);
        if ids.len() > 1 {
            let h = h.narrow(0, 0, ids.len() - 1).unwrap();
            let got = numbers(&policy.decoder.token_logps(&h, &ids[1..], None).unwrap());
            let wanted =
                if double { flat(&sequence["token_logps_full_f64"]) } else { flat32(&sequence["token_logps"]) };
            close(name, &got, &wanted, tolerance);
        }
    }
    let triples = list(&recorded["triples"]);
    let rows: Vec<TokenRow> = triples.iter().map(|t| row(t, "")).collect();
    let key = if double { "_full_f64" } else { "" };
    let wanted: Vec<f64> = triples
        .iter()
        .flat_map(|t| [flat(&t[format!("logps_chosen{key}")]), flat(&t[format!("logps_rejected{key}")])].concat())
        .collect();
    let got = sides(plain_logps(&policy, &rows, |_| ()).unwrap());
    for (got, wanted) in got.iter().zip(&wanted) {
        assert!((got - wanted).abs() <= tolerance, "{name}: {got} against {wanted}");
    }
    assert_eq!(got.len(), wanted.len());
}

#[test]
fn small_llamas_agree_with_transformers() {
    llama::<f32>("llama_tied", 1e-4);
    llama::<f32>("llama_untied", 1e-4);
}

#[test]
fn small_llamas_in_f64_agree_with_a_second_f64_forward_pass() {
    llama::<f64>("llama_tied", 1e-9);
    llama::<f64>("llama_untied", 1e-9);
}

// SmolLM2: tokenizer, template and numbers of a real model.

fn smollm2_gguf() -> ModelSource {
    ModelSource::Gguf(needed("LPC_PIPE_SMOLLM2", "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

fn smollm2_folder() -> ModelSource {
    ModelSource::Folder(needed("LPC_PIPE_SMOLLM2_HF", "models/SmolLM2-135M-Instruct-hf"))
}

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Tokens and rendered conversations, exactly. `suffix` picks the recorded pre-tokenizer.
fn smollm2_text(source: &ModelSource, suffix: &str) {
    let recorded = json("smollm2.json");
    let config = TokenizeConfig::default();
    let tokenizer = ModelTokenizer::load(source, &config).unwrap();
    let key = format!("ids{suffix}");
    for entry in list(&recorded["strings"]) {
        let wanted = ids(&entry[&key]);
        let given = text(&entry["text"]);
        assert_eq!(tokenizer.encode_text(given).unwrap(), wanted, "{given:?}");
        assert_eq!(tokenizer.decode(&wanted, false).unwrap(), text(&entry["decoded"]));
        assert_eq!(tokenizer.decode(&wanted, true).unwrap(), text(&entry["decoded_skip_special"]));
    }
    for entry in list(&recorded["conversations"]) {
        let generation = entry["add_generation_prompt"].as_bool().unwrap();
        let rendered = tokenizer.template().render(&messages(&entry["messages"]), generation).unwrap();
        assert_eq!(rendered, text(&entry["rendered"]));
        assert_eq!(tokenizer.encode_text(&rendered).unwrap(), ids(&entry[&key]), "{rendered:?}");
        if generation {
            assert_eq!(tokenizer.encode_prompt(&messages(&entry["messages"])).unwrap(), ids(&entry[&key]));
        }
    }
    for entry in list(&recorded["triples"]) {
        let answer = |side: &str| [Message::assistant(text(&entry[side]))];
        let prompt = messages(&entry["prompt"]);
        let pair = PairText {
            id: "x",
            prompt: &prompt,
            chosen: &answer("chosen"),
            rejected: &answer("rejected"),
            flipped: false,
            source: "s",
        };
        let Encoded::Row(got) = tokenizer.encode_pair(&pair, &config).unwrap() else { panic!("dropped: {entry}") };
        let wanted = row(entry, suffix);
        assert_eq!(got.prompt_ids, wanted.prompt_ids);
        assert_eq!(got.chosen_ids, wanted.chosen_ids);
        assert_eq!(got.rejected_ids, wanted.rejected_ids);
        assert!(!got.truncated);
    }
}

/// Logits and summed log-probabilities.
fn smollm2_numbers(source: &ModelSource, suffix: &str) {
    let recorded = json("smollm2.json");
    let policy = open::<f32>(source, 49152, 256);
    let prompts = list(&recorded["prompts"]);
    let all: Vec<Vec<u32>> = prompts.iter().map(|p| ids(&p[format!("ids{suffix}")])).collect();
    let picked = ids(&recorded["vocab_ids"]);
    for (prompt, h) in prompts.iter().zip(hidden(&policy, &all)) {
        let last = numbers(&policy.decoder.logits(&h.narrow(0, h.dim(0).unwrap() - 1, 1).unwrap()).unwrap());
        let got: Vec<f64> = picked.iter().map(|&id| last[id as usize]).collect();
        let worst = got.iter().zip(flat32(&prompt["logits"])).map(|(g, w)| (g - w).abs()).fold(0f64, f64::max);
        assert!(worst <= 1e-4, "{}: a logit is off by {worst:e}", prompt["text"]);
        let most = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(most as u64, prompt["argmax"].as_u64().unwrap());
        let total = last[most] + last.iter().map(|x| (x - last[most]).exp()).sum::<f64>().ln();
        assert!((total - prompt["logsumexp"].as_f64().unwrap()).abs() <= 1e-4, "{}", prompt["text"]);
    }
    let triples = list(&recorded["triples"]);
    let rows: Vec<TokenRow> = triples.iter().map(|t| row(t, suffix)).collect();
    let got = sides(plain_logps(&policy, &rows, |_| ()).unwrap());
    let wanted: Vec<f64> = triples
        .iter()
        .flat_map(|t| [flat(&t[format!("logps_chosen{suffix}")]), flat(&t[format!("logps_rejected{suffix}")])].concat())
        .collect();
    assert_eq!(got.len(), wanted.len());
    for (got, wanted) in got.iter().zip(&wanted) {
        assert!((got - wanted).abs() <= 1e-3, "{got} against {wanted}");
        assert!((got - wanted).abs() <= 1e-3 * wanted.abs(), "{got} against {wanted}");
    }
    // Token by token, all rows of one response.
    for (triple, row) in triples.iter().zip(&rows) {
        let whole = [&row.prompt_ids[..], &row.chosen_ids].concat();
        let h = &hidden(&policy, std::slice::from_ref(&whole))[0];
        let h = h.narrow(0, row.prompt_ids.len() - 1, row.chosen_ids.len()).unwrap();
        let got = numbers(&policy.decoder.token_logps(&h, &row.chosen_ids, None).unwrap());
        let wanted = flat32(&triple["token_logps_chosen"]);
        for (got, wanted) in got.iter().zip(&wanted) {
            assert!((got - wanted).abs() <= 1e-4, "{got} against {wanted}");
        }
        assert_eq!(got.len(), wanted.len());
    }
}

/// The file says `tokenizer.ggml.pre = smollm`: digits one by one, then GPT-2's expression. transformers knows no such
/// name and keeps GPT-2's expression alone, which splits two of the recorded strings otherwise; SmolLM2's own
/// tokenizer.json, and llama.cpp, split digits. So a GGUF file is held to `ids_ggml_pre`.
#[test]
#[ignore = "needs the model of scripts/fetch_smollm2.sh; `just test-all` runs it"]
fn smollm2_gguf_tokens_and_template() {
    smollm2_text(&smollm2_gguf(), "_ggml_pre");
}

#[test]
#[ignore = "needs the model of scripts/fetch_smollm2.sh; `just test-all` runs it"]
fn smollm2_gguf_numbers() {
    smollm2_numbers(&smollm2_gguf(), "_ggml_pre");
}

/// A folder that transformers saved from the GGUF file: its tokenizer.json is what transformers made of it.
#[test]
#[ignore = "needs the folder of scripts/smollm2_folder.py; `just test-all` runs it"]
fn smollm2_folder_tokens_template_and_numbers() {
    smollm2_text(&smollm2_folder(), "");
    smollm2_numbers(&smollm2_folder(), "");
}

#[test]
#[ignore = "needs the model of scripts/fetch_smollm2.sh; `just test-all` runs it"]
fn smollm2_continues_a_prompt_as_transformers_does() {
    let source = smollm2_gguf();
    let recorded = json("smollm2.json");
    let policy = open::<f32>(&source, 49152, 256);
    let (mut so_far, wanted) = (ids(&recorded["greedy"]["prompt_ids"]), ids(&recorded["greedy"]["new_ids"]));
    for next in wanted {
        let h = &hidden(&policy, std::slice::from_ref(&so_far))[0];
        let logits = policy.decoder.logits(&h.narrow(0, so_far.len() - 1, 1).unwrap()).unwrap();
        assert_eq!(logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(), [next]);
        so_far.push(next);
    }
}

// Objectives.

fn objective(case: &Value) -> ObjectiveConfig {
    use ObjectiveKind as K;
    let (name, reduction) = match text(&case["name"]) {
        "dpo" => (K::Dpo, Reduction::Mean),
        "cdpo" => (K::Cdpo, Reduction::Mean),
        "rdpo" => (K::Rdpo, Reduction::Mean),
        "ipo_mean" => (K::Ipo, Reduction::Mean),
        "ipo_sum" => (K::Ipo, Reduction::Sum),
        "simpo" => (K::Simpo, Reduction::Mean),
        "mix" => (K::Mix, Reduction::Mean),
        other => panic!("a recorded case that is not tested: {other}"),
    };
    let mut config = ObjectiveConfig { name, reduction, beta: case["beta"].as_f64().unwrap(), ..Default::default() };
    if let Some(e) = case["label_smoothing"].as_f64() {
        config.label_smoothing = e;
    }
    if let Some(ratio) = case["gamma_beta_ratio"].as_f64() {
        config.gamma_beta_ratio = ratio;
    }
    assert!(config.faults().is_empty());
    config.resolved()
}

fn losses(kind: DType, key: &str, tolerance: f64) {
    let recorded = json("losses.json");
    let inputs = &recorded["inputs"];
    let tensor = |name: &str| {
        let values = if name.ends_with("len") { flat(&inputs[name]) } else { flat32(&inputs[name]) };
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(kind).unwrap()
    };
    let cases = list(&recorded["cases"]);
    assert_eq!(cases.len(), 7);
    for case in cases {
        let (chosen, rejected) =
            (Var::from_tensor(&tensor("chosen_logps")).unwrap(), Var::from_tensor(&tensor("rejected_logps")).unwrap());
        let logps = PreferenceLogps {
            chosen_logps: chosen.as_tensor().clone(),
            rejected_logps: rejected.as_tensor().clone(),
            reference_chosen_logps: tensor("ref_chosen_logps"),
            reference_rejected_logps: tensor("ref_rejected_logps"),
            n_chosen: tensor("chosen_len"),
            n_rejected: tensor("rejected_len"),
        };
        let losses = objective(case).losses(&logps).unwrap().losses;
        let grads = losses.sum_all().unwrap().backward().unwrap();
        let name = text(&case["name"]);
        let wanted = |part: &str| if kind == DType::F32 { flat32(&case[key][part]) } else { flat(&case[key][part]) };
        close(&format!("{name} {key} loss"), &numbers(&losses), &wanted("loss"), tolerance);
        for (part, var) in [("grad_chosen", &chosen), ("grad_rejected", &rejected)] {
            let got = numbers(grads.get(var.as_tensor()).unwrap());
            close(&format!("{name} {key} {part}"), &got, &wanted(part), tolerance);
        }
    }
}

#[test]
fn losses_and_their_gradients_agree_with_trl() {
    losses(DType::F32, "f32", 1e-5);
    losses(DType::F64, "f64", 1e-12);
}

// The optimizer.

fn two_params<T: Real>(values: &Value) -> Params {
    let params = [("a", vec![3, 4]), ("b", vec![5])].into_iter().map(|(name, shape)| {
        let tensor = Tensor::from_vec(flat32(&values[name]), shape, &Device::Cpu).unwrap().to_dtype(T::KIND).unwrap();
        Param { name: name.into(), var: Var::from_tensor(&tensor).unwrap(), trainable: true, group: Group::Backbone }
    });
    Params::new(params.collect()).unwrap()
}

fn put<T: Real>(gradients: &Gradients, params: &Params, values: &Value) {
    gradients.clear::<T>().unwrap();
    for (position, param) in params.iter().enumerate() {
        let values = flat32(&values[&param.name]);
        gradients.add::<T>(position, |sum| sum.iter_mut().zip(&values).for_each(|(s, v)| *s += T::of(*v))).unwrap();
    }
}

fn adamw<T: Real>(key: &str, tolerance: f64) {
    let recorded = json("adamw.json");
    let lr = recorded["lr"].as_f64().unwrap();
    let mut seen = 0;
    for run in list(&recorded["runs"]).iter().filter(|r| text(&r["dtype"]) == key) {
        let config = AdamWConfig {
            beta1: recorded["betas"][0].as_f64().unwrap(),
            beta2: recorded["betas"][1].as_f64().unwrap(),
            epsilon: recorded["eps"].as_f64().unwrap(),
            weight_decay: run["weight_decay"].as_f64().unwrap(),
            latent_steps: 0,
        };
        let params = two_params::<T>(&recorded["params"]);
        let gradients = Gradients::new(&params);
        let mut optimizer = AdamW::<T>::new(config, &params).unwrap();
        for (grads, wanted) in list(&recorded["grads"]).iter().zip(list(&run["params_after_step"])) {
            put::<T>(&gradients, &params, grads);
            optimizer
                .step(
                    &params,
                    &gradients,
                    LearningRates { backbone: lr, latent: 99.0, codes: 99.0, ..Default::default() },
                    1.0,
                )
                .unwrap();
            for param in params.iter() {
                close(&param.name, &numbers(param.var.as_tensor()), &flat(&wanted[&param.name]), tolerance);
            }
            seen += 1;
        }
        for (name, tensor) in moments(&optimizer, &params) {
            let (kind, param) = name.split_once('.').unwrap();
            let kind = if kind == "first" { "exp_avg" } else { "exp_avg_sq" };
            let wanted = flat(&run["final_state"][param][kind]);
            // Second moments are small: compared with their own size.
            let scale = wanted.iter().fold(0f64, |m, x| m.max(x.abs()));
            let scaled = |x: Vec<f64>| -> Vec<f64> { x.into_iter().map(|x| x / scale).collect() };
            close(&name, &scaled(numbers(&tensor)), &scaled(wanted), tolerance);
        }
    }
    assert_eq!(seen, 10);
}

#[test]
fn adamw_walks_as_torch_does() {
    adamw::<f32>("f32", 1e-6);
    adamw::<f64>("f64", 1e-14);
}

#[test]
fn clipping_agrees_with_torch() {
    let recorded = json("adamw.json");
    for case in list(&recorded["clip"]) {
        let params = two_params::<f32>(&recorded["params"]);
        let gradients = Gradients::new(&params);
        put::<f32>(&gradients, &params, &case["grads"]);
        let norm = global_norm::<f32>(&gradients).unwrap();
        close("norm", &[norm], &flat32(&case["total_norm"]), 1e-6);
        let max = case["max_norm"].as_f64().unwrap();
        let scale = if norm > max { max / (norm + 1e-6) } else { 1.0 };
        // Without decay of the first moment, it is the gradient that the optimizer used.
        let config = AdamWConfig { beta1: 0.0, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, latent_steps: 0 };
        let mut optimizer = AdamW::<f32>::new(config, &params).unwrap();
        optimizer
            .step(
                &params,
                &gradients,
                LearningRates { backbone: 0.1, latent: 0.1, codes: 0.1, ..Default::default() },
                scale,
            )
            .unwrap();
        for (name, tensor) in moments(&optimizer, &params) {
            if let Some(param) = name.strip_prefix("first.") {
                close(&name, &numbers(&tensor), &flat32(&case["clipped"][param]), 1e-6);
            }
        }
    }
}

/// The moments of an optimizer as a checkpoint has them.
fn moments<T: Real>(optimizer: &AdamW<T>, params: &Params) -> HashMap<String, Tensor> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("moments.safetensors");
    write_hashed(&path, &optimizer.entries(params)).unwrap();
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

// The latent part.

/// The recorded latent part over a head and nothing else.
struct Latent {
    recorded: Value,
    policy: Policy<f64>,
    moment: Moment,
}

impl Latent {
    fn open() -> Latent {
        let recorded = json("lpc.json");
        let setting = |name: &str| recorded["settings"][name].as_f64().unwrap();
        let (h, k, v) = (setting("H") as usize, setting("K") as usize, setting("V") as usize);
        let lpc = LpcConfig {
            latent: LatentKind::Lpc,
            codes: k,
            features: Features::Concat,
            kl_weight: setting("lambda"),
            // The recorded reference reads hidden states as they are.
            normalise: Normalise::None,
            prior_width: h,
            ..LpcConfig::of(Preset::Paper)
        };
        let config = LlamaConfig { head_dim: h, tie_word_embeddings: false, ..LlamaConfig::tiny(h, 0, v) };
        let param = |name: String, values: Vec<f64>, shape: Vec<usize>, group| {
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            Param { name, var: Var::from_tensor(&tensor).unwrap(), trainable: true, group }
        };
        let mut params = vec![
            param(names::EMBEDDING.into(), vec![0.0; v * h], vec![v, h], Group::Backbone),
            param(names::NORM.into(), vec![1.0; h], vec![h], Group::BackboneNorm),
            param(names::HEAD.into(), flat(&recorded["weights"]["lm_head"]), vec![v, h], Group::Backbone),
        ];
        let basis = Basis::sized(&lpc, h, v);
        for (name, shape, _) in lpc_pipe::lpc::shapes(&lpc, &basis) {
            let values = flat(&recorded["weights"][name.strip_prefix("lpc.").unwrap()]);
            params.push(param(name, values, shape, Group::Latent));
        }
        let policy = Policy::over(config, Params::new(params).unwrap(), None, &lpc, basis, 8).unwrap();
        let moment = Moment { g: setting("g"), tau: setting("tau"), kl_weight: setting("lambda"), balance: 0.0 };
        Latent { recorded, policy, moment }
    }

    fn input(&self, name: &str, columns: usize) -> Var {
        let values = flat(&self.recorded["inputs"][name]);
        let shape = (values.len() / columns, columns);
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Hidden states that predict the response tokens, chosen ones first, and the batch that says so.
    fn responses(&self) -> (Var, PairBatch) {
        let inputs = &self.recorded["inputs"];
        let mut batch = PairBatch::default();
        for side in ["targets_chosen", "targets_rejected"] {
            for (pair, targets) in list(&inputs[side]).iter().map(ids).enumerate() {
                let start = batch.targets.len();
                batch.pair_of.extend(targets.iter().map(|_| pair as u32));
                batch.targets.extend(targets);
                batch.responses.push(start..batch.targets.len());
            }
        }
        batch.predicting = (0..batch.targets.len() as u32).collect();
        batch.pairs = vec![PairRows { prompt: 0..0, chosen: 0..0, rejected: 0..0 }; batch.responses.len() / 2];
        let values = [flat(&inputs["hidden_chosen"]), flat(&inputs["hidden_rejected"])].concat();
        let shape = (batch.targets.len(), self.policy.decoder.config.hidden_size);
        (Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap(), batch)
    }

    fn column(&self, name: &str) -> Tensor {
        Tensor::new(flat(&self.recorded["inputs"][name]), &Device::Cpu).unwrap()
    }
}

fn infer(lpc: &Lpc, prompt: Tensor, responses: (Tensor, Tensor)) -> Codes {
    match lpc
        .infer(&Context {
            pairs: prompt.dim(0).unwrap(),
            prompt: Some(prompt),
            tokens: None,
            responses: Some(responses),
        })
        .unwrap()
    {
        Inferred::Codes(codes) => codes,
        other => panic!("no codes: {other:?}"),
    }
}

#[test]
fn latent_codes_agree_with_autograd() {
    let latent = Latent::open();
    let (policy, outputs) = (&latent.policy, &latent.recorded["outputs"]);
    let lpc = policy.lpc.as_ref().unwrap();
    let hidden = policy.decoder.config.hidden_size;
    let check = |name: &str, got: &Tensor, wanted: &Value| close(name, &numbers(got), &flat(wanted), 1e-9);

    let [h_x, h_w, h_l] = ["h_x", "h_w", "h_l"].map(|name| latent.input(name, hidden));
    let [prompt, chosen, rejected] = [&h_x, &h_w, &h_l].map(|h| h.as_tensor().clone());
    let codes = infer(lpc, prompt, (chosen, rejected));
    check("prior", &codes.log_prior.exp().unwrap(), &outputs["prior_probs"]);
    check("posterior", &codes.log_posterior.exp().unwrap(), &outputs["posterior_probs"]);
    let noise = ["gumbel_prior", "gumbel_posterior"].map(|name| latent.input(name, lpc.config.codes));
    let relaxed = |logits: &Tensor, noise: &Var| {
        lpc_pipe::lpc::gumbel::gumbel_softmax(logits, noise.as_tensor(), latent.moment.tau, false).unwrap()
    };
    check("prior weights", &relaxed(&codes.log_prior, &noise[0]), &outputs["weights_prior"]);
    check("posterior weights", &relaxed(&codes.log_posterior, &noise[1]), &outputs["weights_posterior"]);
    let sample = |g: f64| {
        let moment = Moment { g, ..latent.moment };
        let weights = Codebook::weights(&codes, moment, (noise[0].as_tensor(), noise[1].as_tensor()), false);
        lpc.codes().unwrap().mixed(&weights.unwrap()).unwrap().0
    };
    check("z prior", &sample(1.0), &outputs["z_prior"]);
    check("z posterior", &sample(0.0), &outputs["z_posterior"]);
    let z = sample(latent.moment.g);
    check("z", &z, &outputs["z"]);
    let kl = codes.kl().unwrap();
    check("kl", &kl, &outputs["kl"]);

    let (h, batch) = latent.responses();
    let states = States { batch, h: h.as_tensor().clone(), prompt: None, tokens: None, reach: None };
    let sum = Arc::new(Gradients::new(&policy.params));
    let logps = policy.logps(&states, Some(&z), Some(&sum)).unwrap();
    let rejected = logps.rejected.unwrap();
    check("chosen", &logps.chosen, &outputs["logps_chosen"]);
    check("rejected", &rejected, &outputs["logps_rejected"]);
    let objective = ObjectiveConfig {
        name: ObjectiveKind::Dpo,
        beta: latent.recorded["settings"]["beta"].as_f64().unwrap(),
        ..ObjectiveConfig::default()
    };
    let losses = objective
        .resolved()
        .losses(&PreferenceLogps {
            chosen_logps: logps.chosen,
            rejected_logps: rejected,
            reference_chosen_logps: latent.column("ref_logps_chosen"),
            reference_rejected_logps: latent.column("ref_logps_rejected"),
            n_chosen: kl.ones_like().unwrap(),
            n_rejected: kl.ones_like().unwrap(),
        })
        .unwrap();
    check("loss", &losses.losses, &outputs["loss"]);
    check("margin", &(losses.margins().unwrap() / objective.beta).unwrap(), &outputs["delta"]);
    let total =
        (losses.losses.mean_all().unwrap() + (kl.mean_all().unwrap() * latent.moment.kl_weight).unwrap()).unwrap();
    check("total", &total, &outputs["total"]);

    let mut store = total.backward().unwrap();
    let grads = &latent.recorded["grads"];
    for (name, var) in [("h_x", &h_x), ("h_w", &h_w), ("h_l", &h_l)] {
        check(name, store.get(var.as_tensor()).unwrap(), &grads[name]);
    }
    let wanted = [flat(&grads["hidden_chosen"]), flat(&grads["hidden_rejected"])].concat();
    close("hidden", &numbers(store.get(h.as_tensor()).unwrap()), &wanted, 1e-9);
    sum.absorb::<f64>(&policy.params, &mut store).unwrap();
    let mut compared = 0;
    for (position, param) in policy.params.iter().enumerate() {
        let name = if param.name == names::HEAD { "lm_head" } else { param.name.trim_start_matches("lpc.") };
        if let Some(wanted) = grads.get(name) {
            check(&param.name, &sum.tensor(position).unwrap().unwrap(), wanted);
            compared += 1;
        }
    }
    assert_eq!(compared, 10, "codebook, two networks of four tensors, head");
}

#[test]
fn evaluation_takes_the_expected_z_of_the_prior() {
    let latent = Latent::open();
    let lpc = latent.policy.lpc.as_ref().unwrap();
    let hidden = latent.policy.decoder.config.hidden_size;
    let of = |name: &str| latent.input(name, hidden).as_tensor().clone();
    let codes = infer(lpc, of("h_x"), (of("h_w"), of("h_l")));
    let z = lpc.codes().unwrap().expected(&codes.log_prior).unwrap();
    let wanted = &latent.recorded["eval"];
    close("z", &numbers(&z), &flat(&wanted["z"]), 1e-9);
    let (h, batch) = latent.responses();
    let states = States { batch, h: h.as_tensor().clone(), prompt: None, tokens: None, reach: None };
    let logps = latent.policy.logps(&states, Some(&z), None).unwrap();
    close("chosen", &numbers(&logps.chosen), &flat(&wanted["logps_chosen"]), 1e-9);
    close("rejected", &numbers(&logps.rejected.unwrap()), &flat(&wanted["logps_rejected"]), 1e-9);
    let tokens = latent.policy.decoder.token_logps(
        &(h.as_tensor()
            + z.index_select(&Tensor::new(states.batch.pair_of.as_slice(), &Device::Cpu).unwrap(), 0).unwrap())
        .unwrap(),
        &states.batch.targets,
        None,
    );
    let wanted = [flat(&wanted["token_logps_chosen"]), flat(&wanted["token_logps_rejected"])].concat();
    close("tokens", &numbers(&tokens.unwrap()), &wanted, 1e-9);
}
