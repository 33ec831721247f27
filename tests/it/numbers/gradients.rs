//! Every trainable parameter's gradient against central finite differences, in f64.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use lpc_pipe::lpc::{Basis, Features, LatentKind, LpcConfig, Mixture, Normalise, Pooling};
use lpc_pipe::model::config::RopeScaling;
use lpc_pipe::model::{Group, LlamaConfig, Params};
use lpc_pipe::objective::{MixFlip, ObjectiveConfig, ObjectiveKind, Reduction, RepoBase};
use lpc_pipe::policy::{Policy, flips};
use lpc_pipe::seed::Seed;

use crate::numbers::policies::{
    LATENTS, MIDDLE, codes, gradients, latent, llama, objective, pairs, pass, plain, policy, policy_with,
    some_reference, value,
};

/// Relative error that is allowed; numbers far below the largest of their tensor are compared with that.
const TOLERANCE: f64 = 1e-4;
/// Half the width of a central difference.
const STEP: f64 = 1e-5;
/// Tensors up to this size are probed whole.
const SMALL: usize = 32;
/// Elements that are probed of larger ones, the one with the largest gradient among them.
const SAMPLE: usize = 14;

/// Elements of a gradient to probe.
fn probes(name: &str, gradient: &[f64], sample: usize) -> Vec<usize> {
    if gradient.len() <= SMALL.min(2 * sample) {
        return (0..gradient.len()).collect();
    }
    let largest = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
    let mut out: Vec<usize> =
        (1..sample).map(|i| Seed(1).index("probe", &format!("{name}:{i}"), gradient.len())).collect();
    out.push(largest);
    out
}

/// Compares all gradients of a pass over three pairs with finite differences of its value, and sees that each trainable
/// parameter has one that is finite and not zero. `exact` says of which parameters the value is differentiable.
pub fn check(
    what: &str,
    policy: &Policy<f64>,
    objective: &ObjectiveConfig,
    exact: impl Fn(&str) -> bool,
) -> BTreeMap<String, Vec<f64>> {
    check_sample(what, policy, objective, exact, SAMPLE)
}

/// [`check`] with so many elements of each larger tensor.
fn check_sample(
    what: &str,
    policy: &Policy<f64>,
    objective: &ObjectiveConfig,
    exact: impl Fn(&str) -> bool,
    sample: usize,
) -> BTreeMap<String, Vec<f64>> {
    let rows = pairs(3);
    let reference = some_reference(&rows);
    let pass = pass(objective, MIDDLE, 4);
    let found = gradients(policy, &rows, &reference, &pass, rows.len());
    for param in policy.params.iter() {
        let name = &param.name;
        if !param.trainable {
            assert!(!found.contains_key(name), "{what}: {name} is frozen and has a gradient");
            continue;
        }
        let gradient = found.get(name).unwrap_or_else(|| panic!("{what}: {name} has no gradient"));
        assert!(gradient.iter().all(|g| g.is_finite()), "{what}: {name}: not finite");
        let largest = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
        assert!(largest > 1e-9, "{what}: {name}: the gradient is zero");
        if !exact(name) {
            continue;
        }
        let before = param.var.as_detached_tensor().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let at = |i: usize, x: f64| -> f64 {
            let mut values = before.clone();
            values[i] = x;
            param.var.set(&Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap()).unwrap();
            value(policy, &rows, &reference, &pass).0
        };
        for i in probes(name, gradient, sample) {
            let numeric = (at(i, before[i] + STEP) - at(i, before[i] - STEP)) / (2.0 * STEP);
            let analytic = gradient[i];
            let error = (numeric - analytic).abs() / numeric.abs().max(analytic.abs()).max(1e-3 * largest);
            assert!(error < TOLERANCE, "{what}: {name}[{i}]: analytic {analytic:e}, numeric {numeric:e} ({error:e})");
        }
        at(0, before[0]);
    }
    found
}

fn everything(_: &str) -> bool {
    true
}

#[test]
fn every_objective_without_a_latent() {
    use ObjectiveKind as K;
    let all = [K::Dpo, K::Cdpo, K::Rdpo, K::Drdpo, K::Ropo, K::Hoelder, K::Repo, K::Mix, K::Ipo, K::Simpo, K::Sft];
    for (i, name) in all.into_iter().enumerate() {
        check(&format!("{name:?}"), &policy(&llama(i % 2 == 0), &plain()), &objective(name), everything);
    }
    let sums = ObjectiveConfig { reduction: Reduction::Sum, ..objective(K::Ipo) };
    check("Ipo on sums", &policy(&llama(false), &plain()), &sums, everything);
    for repo_base in [RepoBase::Ipo, RepoBase::Simpo] {
        let over = ObjectiveConfig { name: K::Repo, repo_base, ..ObjectiveConfig::default() }.resolved();
        check(&format!("Repo over {repo_base:?}"), &policy(&llama(true), &plain()), &over, everything);
    }
}

#[test]
fn biases_windows_and_stretched_frequencies() {
    let dpo = objective(ObjectiveKind::Dpo);
    let biased = LlamaConfig { attention_bias: true, output_bias: true, mlp_bias: true, ..llama(false) };
    check("biases", &policy(&biased, &plain()), &dpo, everything);
    // Windows that begin in the prompt, in the upper layer alone and in both.
    for first_windowed_layer in [0, 1] {
        let windowed = LlamaConfig { sliding_window: 3, first_windowed_layer, ..llama(true) };
        check("windows", &policy(&windowed, &plain()), &dpo, everything);
    }
    let rope_scaling = RopeScaling::Linear { factor: 4.0 };
    check("frequencies", &policy(&LlamaConfig { rope_scaling, ..llama(true) }, &plain()), &dpo, everything);
}

#[test]
fn codes_with_every_feature_and_pooling() {
    let dpo = objective(ObjectiveKind::Dpo);
    for features in [Features::Concat, Features::Difference] {
        for pooling in [Pooling::Last, Pooling::Mean] {
            for tied in [true, false] {
                let what = format!("{features:?} {pooling:?} tied {tied}");
                check(&what, &policy(&llama(tied), &codes(features, pooling)), &dpo, everything);
            }
        }
    }
}

#[test]
fn codes_over_every_objective() {
    use ObjectiveKind as K;
    let all = [K::Ipo, K::Simpo, K::Mix, K::Drdpo, K::Ropo, K::Hoelder, K::Repo];
    for (i, name) in all.into_iter().enumerate() {
        let lpc = codes(Features::Difference, Pooling::Mean);
        check(&format!("lpc {name:?}"), &policy(&llama(i % 2 == 0), &lpc), &objective(name), everything);
    }
}

#[test]
fn the_exact_sum_over_codes_and_inputs_as_they_are() {
    let dpo = objective(ObjectiveKind::Dpo);
    let sampled = codes(Features::Concat, Pooling::Mean);
    for normalise in [Normalise::Rms, Normalise::Standardise, Normalise::None] {
        let exact = LpcConfig { exact: true, normalise, ..sampled.clone() };
        check(&format!("exact, normalise {normalise:?}"), &policy(&llama(true), &exact), &dpo, everything);
    }
    let raw = LpcConfig { normalise: Normalise::None, ..sampled };
    check("inputs as they are", &policy(&llama(false), &raw), &dpo, everything);
}

/// Elements that are probed of a larger tensor where every latent meets every objective.
const FEW: usize = 3;

#[test]
fn every_latent_over_every_objective() {
    use ObjectiveKind as K;
    for kind in LATENTS {
        let all = [K::Dpo, K::Cdpo, K::Rdpo, K::Mix, K::Ipo, K::Simpo, K::Drdpo, K::Ropo, K::Hoelder, K::Repo];
        for (i, name) in all.into_iter().enumerate() {
            if kind == LatentKind::LpcReliable && name != K::Mix {
                continue;
            }
            let policy = policy(&llama(i % 2 == 0), &latent(kind));
            // The choice of a code jumps; only the codes' own values move the loss smoothly.
            let smooth = |name: &str| kind != LatentKind::LpcHard || name == "lpc.codebook";
            check_sample(&format!("{kind:?} {name:?}"), &policy, &objective(name), smooth, FEW);
        }
    }
}

#[test]
fn flip_rates_that_are_learned() {
    let mix = ObjectiveConfig { mix_flip: MixFlip::Learned, ..objective(ObjectiveKind::Mix) };
    for kind in [LatentKind::None, LatentKind::Lpc, LatentKind::Gaussian, LatentKind::Mlp] {
        let policy = policy_with(&llama(true), &latent(kind), vec![flips::parameter::<f64>().unwrap()]);
        let found = check_sample(&format!("learned {kind:?}"), &policy, &mix, everything, FEW);
        assert_eq!(found["objective.flip_logit"].len(), 1);
    }
    for exact in [false, true] {
        let lpc = LpcConfig { exact, ..latent(LatentKind::LpcReliable) };
        let found = check(&format!("reliable, exact {exact}"), &policy(&llama(false), &lpc), &mix, everything);
        assert_eq!(found["lpc.flip_logits"].len(), 4);
    }
}

#[test]
fn gaussians_with_every_feature_and_pooling() {
    let dpo = objective(ObjectiveKind::Dpo);
    for features in [Features::Concat, Features::Difference] {
        for pooling in [Pooling::Last, Pooling::Mean] {
            let lpc = LpcConfig { latent: LatentKind::Gaussian, codes: 6, ..codes(features, pooling) };
            check(&format!("gaussian {features:?} {pooling:?}"), &policy(&llama(true), &lpc), &dpo, everything);
        }
    }
    let lpc = LpcConfig { normalise: Normalise::None, detach: true, ..latent(LatentKind::Mlp) };
    check("mlp, inputs as they are", &policy(&llama(true), &lpc), &dpo, |name| name.starts_with("lpc."));
}

#[test]
fn with_one_code_the_exact_sum_is_the_sample() {
    let dpo = objective(ObjectiveKind::Dpo);
    let (rows, pass) = (pairs(3), pass(&dpo, MIDDLE, 3));
    let of = |exact| {
        let lpc = LpcConfig { codes: 1, exact, ..codes(Features::Concat, Pooling::Mean) };
        value(&policy::<f64>(&llama(true), &lpc), &rows, &some_reference(&rows), &pass).0
    };
    assert!((of(true) - of(false)).abs() < 1e-12);
}

#[test]
fn hard_codes_pass_gradients_straight_through() {
    let dpo = objective(ObjectiveKind::Dpo);
    for features in [Features::Concat, Features::Difference] {
        let lpc = LpcConfig { latent: LatentKind::LpcHard, ..codes(features, Pooling::Mean) };
        // The choice of a code jumps; only the codes' own values move the loss smoothly.
        let found = check("hard", &policy(&llama(true), &lpc), &dpo, |name| name == "lpc.codebook");
        assert!(found["lpc.prior.2.weight"].iter().any(|g| g.abs() > 1e-6));
    }
}

#[test]
fn detached_networks_leave_the_backbone_alone() {
    let dpo = objective(ObjectiveKind::Dpo);
    let lpc = LpcConfig { detach: true, ..codes(Features::Concat, Pooling::Last) };
    let policy = policy::<f64>(&llama(true), &lpc);
    let stopped = check("detach", &policy, &dpo, |name| name.starts_with("lpc."));
    // With all codes equal, the networks have no way to the loss but the divergence: without its weight and the balance,
    // the backbone sees what it sees without a latent.
    let rows = pairs(3);
    let reference = some_reference(&rows);
    let lpc = LpcConfig { balance: 0.0, ..lpc };
    let coded = crate::numbers::policies::policy::<f64>(&llama(true), &lpc);
    crate::numbers::policies::zero(&coded, "lpc.codebook");
    let bare = crate::numbers::policies::policy::<f64>(&llama(true), &plain());
    let of = |p: &Policy<f64>| gradients(p, &rows, &reference, &pass(&dpo, MIDDLE, 3), 3);
    let (with, without) = (of(&coded), of(&bare));
    for (name, gradient) in &without {
        assert_eq!(gradient, &with[name], "{name}");
    }
    assert!(stopped.len() > without.len());
}

#[test]
fn schedules_reach_the_right_network() {
    // g = 0: the prior is trained by the divergence alone; g = 1: the posterior is.
    let dpo = objective(ObjectiveKind::Dpo);
    let lpc = LpcConfig { g: Mixture::Posterior, balance: 0.0, ..codes(Features::Concat, Pooling::Mean) };
    let policy = policy::<f64>(&llama(true), &lpc);
    let rows = pairs(3);
    let reference = some_reference(&rows);
    for (g, quiet, loud) in
        [(0.0, "lpc.prior.2.bias", "lpc.posterior.2.bias"), (1.0, "lpc.posterior.2.bias", "lpc.prior.2.bias")]
    {
        let moment = lpc_pipe::lpc::Moment { g, kl_weight: 0.0, balance: 0.0, ..MIDDLE };
        let found = gradients(&policy, &rows, &reference, &pass(&dpo, moment, 3), 3);
        let size = |name: &str| found.get(name).map_or(0.0, |g| g.iter().fold(0f64, |m, x| m.max(x.abs())));
        assert!(size(quiet) < 1e-15, "g {g}: {quiet} {}", size(quiet));
        assert!(size(loud) > 1e-6, "g {g}: {loud} {}", size(loud));
    }
}

#[test]
fn frozen_parameters_have_no_gradient_and_change_no_others() {
    let dpo = objective(ObjectiveKind::Dpo);
    let frozen = [
        "lpc.codebook",
        "lpc.posterior.0.bias",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight",
    ];
    for tied in [true, false] {
        let lpc = codes(Features::Difference, Pooling::Mean);
        let free = policy::<f64>(&llama(tied), &lpc);
        let mut list: Vec<_> = free.params.iter().cloned().collect();
        for param in &mut list {
            param.trainable = !frozen.contains(&param.name.as_str());
        }
        assert_eq!(list.iter().filter(|p| !p.trainable).count(), frozen.len());
        let held = Policy::<f64>::over(
            llama(tied),
            Params::new(list).unwrap(),
            None,
            &lpc,
            Basis::sized(&lpc, 16, 30),
            crate::numbers::policies::LONGEST,
        )
        .unwrap();
        let all = check("free", &free, &dpo, |_| false);
        let some = check("frozen", &held, &dpo, |_| false);
        assert_eq!(some.len() + frozen.len(), all.len());
        // A frozen head has its rows' gradient from the forward pass: the same sums in another order.
        for (name, gradient) in &some {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-14;
            assert!(gradient.len() == all[name].len() && gradient.iter().zip(&all[name]).all(near), "{name}");
        }
        assert!(held.params.iter().any(|p| p.group == Group::Latent && p.trainable));
    }
}
