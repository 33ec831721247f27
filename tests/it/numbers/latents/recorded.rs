//! Numbers recorded from torch; see `tests/fixtures/parity/record.py`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lpc_pipe::batch::{PairBatch, PairRows};
use lpc_pipe::lpc::{
    Basis, Codebook, Context, Draw, Inferred, LatentParameters, LpcConfig, Moment, Noise, Preset, shapes,
};
use lpc_pipe::model::names;
use lpc_pipe::model::{Gradients, Group, LlamaConfig, Param, Params};
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind, PreferenceLogps};
use lpc_pipe::policy::{Policy, States};
use lpc_pipe::seed::Seed;
use serde_json::Value;

use crate::numbers::policies::{close, numbers, objective};

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.as_f64().unwrap_or_else(|| panic!("not a number: {other}"))],
    }
}

fn var(values: Vec<f64>, shape: Vec<usize>) -> Var {
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// One recorded latent over a head and nothing else.
struct Recorded<'a> {
    all: &'a Value,
    case: &'a Value,
    policy: Policy<f64>,
    moment: Moment,
}

impl Recorded<'_> {
    fn open<'a>(all: &'a Value, case: &'a Value) -> Recorded<'a> {
        let setting = |name: &str| all["settings"][name].as_f64().unwrap();
        let (h, v) = (setting("H") as usize, setting("V") as usize);
        let lpc = LpcConfig {
            latent: serde_json::from_value(case["latent"].clone()).unwrap(),
            codes: setting("K") as usize,
            exact: case["exact"].as_bool().unwrap(),
            prior_width: h,
            ..LpcConfig::of(Preset::Paper)
        };
        let config = LlamaConfig { head_dim: h, tie_word_embeddings: false, ..LlamaConfig::tiny(h, 0, v) };
        let param =
            |name: String, values, shape, group| Param { name, var: var(values, shape), trainable: true, group };
        let mut params = vec![
            param(names::EMBEDDING.into(), vec![0.0; v * h], vec![v, h], Group::Backbone),
            param(names::NORM.into(), vec![1.0; h], vec![h], Group::BackboneNorm),
            param(names::HEAD.into(), flat(&all["lm_head"]), vec![v, h], Group::Backbone),
        ];
        let wanted = case["weights"].as_object().unwrap();
        let basis = Basis::sized(&lpc, h, v);
        let shapes = shapes(&lpc, &basis);
        assert_eq!(shapes.len(), wanted.len(), "{}", lpc.latent.name());
        for (name, shape, _) in shapes {
            // Equal shapes: the recorder found the same sizes by trying.
            params.push(param(name.clone(), flat(&wanted[&name["lpc.".len()..]]), shape, Group::Latent));
        }
        let policy = Policy::over(config, Params::new(params).unwrap(), None, &lpc, basis, 8).unwrap();
        let moment = Moment { g: setting("g"), tau: setting("tau"), kl_weight: setting("lambda"), balance: 0.0 };
        Recorded { all, case, policy, moment }
    }

    fn input(&self, name: &str) -> Var {
        let values = flat(&self.all["inputs"][name]);
        let h = self.policy.decoder.config.hidden_size;
        let rows = values.len() / h;
        var(values, vec![rows, h])
    }

    fn noise(&self, side: &str) -> Tensor {
        let values = flat(&self.case["noise"][side]);
        let rows = self.all["settings"]["B"].as_u64().unwrap() as usize;
        let n = values.len() / rows;
        Tensor::from_vec(values, (rows, n), &Device::Cpu).unwrap()
    }

    /// z's of the step with the recorded noise.
    fn draws(&self, found: &Inferred) -> Vec<Draw> {
        let lpc = self.policy.lpc.as_ref().unwrap();
        match (&lpc.parameters, found) {
            (LatentParameters::Codes(codes), Inferred::Codes(found)) if !lpc.config.exact => {
                let noise = (&self.noise("prior"), &self.noise("posterior"));
                let weights = Codebook::weights(found, self.moment, noise, false).unwrap();
                let (z, flips) = codes.mixed(&weights).unwrap();
                vec![Draw { z: Some(z), weight: None, flips }]
            }
            (LatentParameters::Gaussian(gaussian), Inferred::Normals(found)) => {
                let noise = (&self.noise("prior"), &self.noise("posterior"));
                let z = gaussian.sample(found, self.moment.g, noise).unwrap();
                vec![Draw { z: Some(z), ..Draw::default() }]
            }
            // No noise is drawn.
            _ => {
                let noise = Noise { seed: Seed(0), occasion: "", ids: &[] };
                lpc.draws(found, self.moment, &noise, DType::F64).unwrap()
            }
        }
    }

    fn responses(&self) -> States {
        let inputs = &self.all["inputs"];
        let mut batch = PairBatch::default();
        for side in ["targets_chosen", "targets_rejected"] {
            for (pair, targets) in inputs[side].as_array().unwrap().iter().enumerate() {
                let targets: Vec<u32> = flat(targets).into_iter().map(|t| t as u32).collect();
                let start = batch.targets.len();
                batch.pair_of.extend(targets.iter().map(|_| pair as u32));
                batch.targets.extend(targets);
                batch.responses.push(start..batch.targets.len());
            }
        }
        batch.predicting = (0..batch.targets.len() as u32).collect();
        batch.pairs = vec![PairRows { prompt: 0..0, chosen: 0..0, rejected: 0..0 }; batch.responses.len() / 2];
        let values = [flat(&inputs["hidden_chosen"]), flat(&inputs["hidden_rejected"])].concat();
        let h = self.policy.decoder.config.hidden_size;
        let h = Tensor::from_vec(values, (batch.targets.len(), h), &Device::Cpu).unwrap();
        States { batch, h, prompt: None, tokens: None, reach: None }
    }

    fn preference(&self, states: &States, z: &Tensor, sum: Option<&Arc<Gradients>>) -> PreferenceLogps {
        let logps = self.policy.logps(states, Some(z), sum).unwrap();
        let reference = |side: &str| Tensor::new(flat(&self.all["inputs"][side]), &Device::Cpu).unwrap();
        PreferenceLogps {
            n_chosen: logps.chosen.ones_like().unwrap(),
            n_rejected: logps.chosen.ones_like().unwrap(),
            chosen_logps: logps.chosen,
            rejected_logps: logps.rejected.unwrap(),
            reference_chosen_logps: reference("ref_logps_chosen"),
            reference_rejected_logps: reference("ref_logps_rejected"),
        }
    }
}

#[test]
fn latents_agree_with_autograd() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/latents.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = all["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let recorded = Recorded::open(&all, case);
        let policy = &recorded.policy;
        let lpc = policy.lpc.as_ref().unwrap();
        let what = format!("{} exact {}", lpc.config.latent.name(), lpc.config.exact);
        let check = |part: &str, got: &Tensor, wanted: &Value| {
            close(&format!("{what}: {part}"), &numbers(got), &flat(wanted), 1e-9);
        };
        let [h_x, h_w, h_l] = ["h_x", "h_w", "h_l"].map(|name| recorded.input(name));
        let responses = Some((h_w.as_tensor().clone(), h_l.as_tensor().clone()));
        let found = {
            let prompt = Some(h_x.as_tensor().clone());
            lpc.infer(&Context { pairs: h_x.dim(0).unwrap(), prompt, tokens: None, responses }).unwrap()
        };
        let name = if lpc.config.coded() { ObjectiveKind::Mix } else { ObjectiveKind::Dpo };
        let objective = ObjectiveConfig { beta: 0.1, ..objective(name) };

        let states = recorded.responses();
        let sum = Arc::new(Gradients::new(&policy.params));
        let (mut losses, mut z): (Option<Tensor>, Option<Tensor>) = (None, None);
        for draw in recorded.draws(&found) {
            let at = draw.z.unwrap();
            let preference = recorded.preference(&states, &at, Some(&sum));
            let found = objective.losses_with(&preference, draw.flips.as_ref()).unwrap().losses;
            let weighted = |x: Tensor| match &draw.weight {
                Some(w) if x.rank() == 2 => x.broadcast_mul(&w.unsqueeze(1).unwrap()).unwrap(),
                Some(w) => (x * w).unwrap(),
                None => x,
            };
            let add = |before: Option<Tensor>, x: Tensor| before.map_or(Ok(x.clone()), |b| b + x).unwrap();
            losses = Some(add(losses, weighted(found)));
            z = Some(add(z, weighted(at)));
        }
        let (losses, outputs) = (losses.unwrap(), &case["outputs"]);
        check("z", &z.unwrap(), &outputs["z"]);
        check("loss", &losses, &outputs["loss"]);
        let mut total = losses.mean_all().unwrap();
        if let Some(kl) = found.kl().unwrap() {
            check("kl", &kl, &outputs["kl"]);
            total = (total + (kl.mean_all().unwrap() * recorded.moment.kl_weight).unwrap()).unwrap();
        } else {
            assert!(outputs.get("kl").is_none());
        }
        check("total", &total, &outputs["total"]);

        let mut store = total.backward().unwrap();
        let grads = case["grads"].as_object().unwrap();
        for (name, var) in [("h_x", &h_x), ("h_w", &h_w), ("h_l", &h_l)] {
            match grads.get(name) {
                Some(wanted) => check(name, store.get(var.as_tensor()).unwrap(), wanted),
                None => assert!(store.get(var.as_tensor()).is_none(), "{what}: {name} is read"),
            }
        }
        sum.absorb::<f64>(&policy.params, &mut store).unwrap();
        let mut compared = 0;
        for (position, param) in policy.params.iter().enumerate() {
            let name = if param.name == names::HEAD { "lm_head" } else { param.name.trim_start_matches("lpc.") };
            if let Some(wanted) = grads.get(name) {
                check(&param.name, &sum.tensor(position).unwrap().unwrap(), wanted);
                compared += 1;
            }
        }
        assert_eq!(compared, grads.keys().filter(|k| !k.starts_with("h_")).count(), "{what}");

        // Evaluation: nothing is sampled, the posterior is not looked at.
        let expected = lpc.expected(&found).unwrap().prior.unwrap();
        check("expected z", &expected, &case["eval"]["z"]);
        let preference = recorded.preference(&states, &expected, None);
        check("chosen", &preference.chosen_logps, &case["eval"]["logps_chosen"]);
        check("rejected", &preference.rejected_logps, &case["eval"]["logps_rejected"]);
    }
}
