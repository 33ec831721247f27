//! Exact inference over codes: gradients, oracles, groups of pairs, phases.

use lpc_pipe::batch::Sides;
use lpc_pipe::lpc::{CodeSpace, LatentKind, LpcConfig, Normalise, PriorInput};
use lpc_pipe::model::{Group, Params};
use lpc_pipe::nn::Real;
use lpc_pipe::objective::{MixFlip, ObjectiveConfig, ObjectiveKind};
use lpc_pipe::policy::{Keeping, Policy, evaluate, hidden_cache};
use lpc_pipe::posteriors::{self, PosteriorContext};
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::step::StepPass;
use rand::Rng as _;

use crate::numbers::gradients::check;
use crate::numbers::policies::{
    LONGEST, MIDDLE, close, gradients, llama, numbers, objective, pairs, pass, plain, policy, some_reference, swapped,
    value,
};
use crate::support::{Sandbox, lists, texts};

/// The default setting with few codes and visible effects.
fn bayes() -> LpcConfig {
    LpcConfig { latent: LatentKind::Lpc, codes: 4, prior_width: 6, prior_dropout: 0.0, ..LpcConfig::default() }
}

fn everything(_: &str) -> bool {
    true
}

/// What a detached prior reads does not reach the backbone by its own way: only the latent part is probed.
fn latent_alone(name: &str) -> bool {
    name.starts_with("lpc.")
}

#[test]
fn every_gradient_is_exact() {
    use ObjectiveKind as K;
    let all = [K::Dpo, K::Cdpo, K::Rdpo, K::Mix, K::Ipo, K::Simpo, K::Drdpo, K::Ropo, K::Hoelder, K::Repo];
    for (i, name) in all.into_iter().enumerate() {
        for code_space in [CodeSpace::Vocabulary, CodeSpace::Hidden] {
            let lpc = LpcConfig { code_space, ..bayes() };
            check(&format!("{name:?} {code_space:?}"), &policy(&llama(i % 2 == 0), &lpc), &objective(name), everything);
        }
    }
}

#[test]
fn every_input_of_the_prior_has_exact_gradients() {
    let dpo = objective(ObjectiveKind::Dpo);
    for prior_input in [PriorInput::None, PriorInput::States, PriorInput::Tokens, PriorInput::Both] {
        for (detach, exact) in [(true, latent_alone as fn(&str) -> bool), (false, everything)] {
            for normalise in [Normalise::Standardise, Normalise::Rms] {
                let lpc = LpcConfig { prior_input, detach, normalise, ..bayes() };
                check(&format!("{prior_input:?} {normalise:?}"), &policy(&llama(true), &lpc), &dpo, exact);
            }
        }
    }
    // A layer below the last is a constant for the prior.
    let lpc = LpcConfig { prior_input: PriorInput::States, prompt_layer: 1, ..bayes() };
    check("layer 1", &policy(&llama(false), &lpc), &dpo, latent_alone);
}

#[test]
fn codes_that_differ_in_how_far_labels_are_trusted() {
    let mix = ObjectiveConfig { mix_flip: MixFlip::Learned, ..objective(ObjectiveKind::Mix) };
    let lpc = LpcConfig { latent: LatentKind::LpcReliable, ..bayes() };
    let found = check("reliable", &policy(&llama(true), &lpc), &mix, everything);
    assert_eq!(found["lpc.flip_logits"].len(), 4);
}

/// Pairs of which the first two, and the next three, share their prompt.
fn grouped() -> (Vec<TokenRow>, Vec<u64>) {
    let mut rows = pairs(6);
    for (i, of) in [(1, 0), (3, 2), (4, 2)] {
        rows[i].prompt_ids = rows[of].prompt_ids.clone();
    }
    (rows, vec![7, 7, 3, 3, 3, 9])
}

/// `-lambda ln sum_k p_k prod_j e^(-l_kj / lambda)`, from evaluation with each code as z, one at a time.
fn by_hand<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    objective: &ObjectiveConfig,
    keys: &[u64],
    lambda: f64,
) -> f64 {
    let reference = some_reference(rows);
    let lpc = policy.lpc.as_ref().unwrap();
    let codes = lpc.codes().unwrap().vectors();
    let states = policy.states(&rows.iter().collect::<Vec<_>>(), Sides::Both, None).unwrap();
    let prior = evaluate(policy, rows, |_| ()).unwrap();
    let mut losses = vec![Vec::new(); rows.len()];
    for code in 0..lpc.config.codes {
        let z = codes.narrow(0, code, 1).unwrap().broadcast_as((rows.len(), codes.dim(1).unwrap())).unwrap();
        let logps = policy.logps(&states, Some(&z.contiguous().unwrap()), None).unwrap();
        let (chosen, rejected) = (numbers(&logps.chosen), numbers(&logps.rejected.unwrap()));
        for (i, losses) in losses.iter_mut().enumerate() {
            let d = (chosen[i] - reference[i].0) - (rejected[i] - reference[i].1);
            losses.push((1.0 + (-objective.beta * d).exp()).ln());
        }
    }
    let mut total = 0.0;
    let mut start = 0;
    while start < rows.len() {
        let end = (start..rows.len()).find(|&i| keys[i] != keys[start]).unwrap_or(rows.len());
        let sum = (0..lpc.config.codes).map(|code| {
            let l: f64 = losses[start..end].iter().map(|l: &Vec<f64>| l[code]).sum();
            f64::from(prior[start].prior[code]) * (-l / lambda).exp()
        });
        total -= lambda * sum.sum::<f64>().ln();
        start = end;
    }
    total / rows.len() as f64
}

/// The mean objective with the prior's expected z, as evaluation takes it.
fn under_prior<T: Real>(policy: &Policy<T>, rows: &[TokenRow], objective: &ObjectiveConfig) -> f64 {
    let found = evaluate(policy, rows, |_| ()).unwrap();
    let losses = found.iter().zip(some_reference(rows)).map(|(example, reference)| {
        let d = (example.logps.0 - reference.0) - (example.logps.1 - reference.1);
        (1.0 + (-objective.beta * d).exp()).ln()
    });
    losses.sum::<f64>() / rows.len() as f64
}

#[test]
fn the_loss_is_the_marginal_over_codes_and_groups() {
    let dpo = objective(ObjectiveKind::Dpo);
    let (rows, keys) = grouped();
    for (code_space, code_init) in
        [(CodeSpace::Vocabulary, 2.0), (CodeSpace::Hidden, 0.5), (CodeSpace::Vocabulary, 30.0)]
    {
        let policy = policy::<f64>(&llama(true), &LpcConfig { code_space, code_init, ..bayes() });
        for lambda in [1.0, 0.3] {
            let alone: Vec<u64> = (0..6).collect();
            for (keys, g) in [(&keys, 0.0), (&alone, 0.0), (&keys, 0.4)] {
                let moment = lpc_pipe::lpc::Moment { g, kl_weight: lambda, balance: 0.0, ..MIDDLE };
                let pass = StepPass { keys: Some(keys), ..pass(&dpo, moment, rows.len()) };
                let got = value(&policy, &rows, &some_reference(&rows), &pass).0;
                let marginal = by_hand(&policy, &rows, &dpo, keys, lambda);
                let wanted = (1.0 - g) * marginal + g * under_prior(&policy, &rows, &dpo);
                // The prior of an evaluation is kept in 32 bits.
                assert!((got - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{code_space:?}: {got} for {wanted}");
            }
        }
    }
}

#[test]
fn groups_have_exact_gradients() {
    let (rows, keys) = grouped();
    let (reference, dpo) = (some_reference(&rows), objective(ObjectiveKind::Dpo));
    let policy = policy::<f64>(&llama(true), &bayes());
    let pass = StepPass { keys: Some(&keys), ..pass(&dpo, MIDDLE, rows.len()) };
    let found = gradients(&policy, &rows, &reference, &pass, rows.len());
    for (name, at) in
        [("lpc.codebook", 5), ("lpc.prior.2.weight", 3), ("lpc.prior.table", 40), ("model.norm.weight", 2)]
    {
        let param = policy.params.get(policy.params.position(name).unwrap());
        let before = numbers(param.var.as_tensor());
        let with = |x: f64| {
            let mut values = before.clone();
            values[at] = x;
            let tensor = candle_core::Tensor::from_vec(values, param.var.shape(), &candle_core::Device::Cpu).unwrap();
            param.var.set(&tensor).unwrap();
            value(&policy, &rows, &reference, &pass).0
        };
        let step = 1e-5;
        let numeric = (with(before[at] + step) - with(before[at] - step)) / (2.0 * step);
        with(before[at]);
        let error = (numeric - found[name][at]).abs() / numeric.abs().max(1e-6);
        assert!(error < 1e-4, "{name}: {numeric} {}", found[name][at]);
    }
}

#[test]
fn one_code_is_the_plain_objective_with_a_bias() {
    use ObjectiveKind as K;
    let rows = pairs(5);
    let reference = some_reference(&rows);
    for name in [K::Dpo, K::Ipo, K::Simpo] {
        let objective = objective(name);
        let pass = pass(&objective, lpc_pipe::lpc::Moment { balance: 0.0, ..MIDDLE }, rows.len());
        let coded = policy::<f64>(&llama(true), &LpcConfig { codes: 1, ..bayes() });
        crate::numbers::policies::zero(&coded, "lpc.codebook");
        let bare = policy::<f64>(&llama(true), &plain());
        let of = |policy: &Policy<f64>| value(policy, &rows, &reference, &pass);
        let (a, b) = (of(&coded), of(&bare));
        assert!((a.0 - b.0).abs() < 1e-12 && a.1.kl == 0.0 && (a.1.overlap / 5.0 - 1.0).abs() < 1e-12, "{name:?}");
    }
}

#[test]
fn the_prior_does_not_see_the_label_and_the_posterior_does() {
    let rows = pairs(6);
    let policy = policy::<f64>(&llama(true), &LpcConfig { code_init: 3.0, ..bayes() });
    let dpo = objective(ObjectiveKind::Dpo);
    let lpc = &policy.lpc.as_ref().unwrap().config;
    let settings = PosteriorContext { objective: &dpo, lpc, flips: None };
    let settled = |rows: &[TokenRow], reference: &[(f64, f64)], keys: Option<&[u64]>| {
        let mut found = evaluate(&policy, rows, |_| ()).unwrap();
        assert!(found.iter().all(|e| e.posterior.is_empty() && e.code_logps.len() == 8));
        posteriors::add_posteriors(rows, &mut found, Some(reference), keys, settings).unwrap();
        found
    };
    let reference = some_reference(&rows);
    let turned: Vec<(f64, f64)> = reference.iter().map(|r| (r.1, r.0)).collect();
    let (found, other) = (settled(&rows, &reference, None), settled(&swapped(&rows), &turned, None));
    for (a, b) in found.iter().zip(&other) {
        assert_eq!(a.prior, b.prior);
        assert!(a.posterior.iter().zip(&b.posterior).any(|(a, b)| (a - b).abs() > 1e-3));
        assert!((a.posterior.iter().sum::<f32>() - 1.0).abs() < 1e-6 && a.kl > 0.0);
        close("logps", &[a.logps.0, a.logps.1], &[b.logps.1, b.logps.0], 1e-12);
    }
    // What training counted is what evaluation finds: the mean divergence of the step is that of its examples.
    let one = lpc_pipe::lpc::Moment { kl_weight: 1.0, balance: 0.0, ..MIDDLE };
    let sums = value(&policy, &rows, &reference, &pass(&dpo, one, 6)).1;
    close("kl", &[sums.kl], &[found.iter().map(|e| e.kl).sum()], 1e-5);
    // A group has one posterior, sharper than any of its pairs alone can make it.
    let (rows, keys) = grouped();
    let shared = settled(&rows, &some_reference(&rows), Some(&keys));
    assert_eq!(shared[0].posterior, shared[1].posterior);
    assert_eq!(shared[2].posterior, shared[4].posterior);
    assert_ne!(shared[0].posterior, shared[2].posterior);
}

/// Whether the posterior's first choice is the code that decided, as a share of 400 prompts of three pairs: eight codes of
/// which each prefers a trait of its own, traits that differ at random but for the one that decided.
fn found_of_decided(keys: Option<&[u64]>) -> f64 {
    const CODES: usize = 8;
    let mut rows = Vec::new();
    let mut examples = Vec::new();
    let mut decided = Vec::new();
    for pair in 0..1200 {
        let random = |purpose: &str, id: usize| Seed(9).rng(purpose, &id.to_string());
        let code = random("code", pair / 3).random_range(0..CODES);
        let mut traits = random("traits", pair);
        // How the responses differ in each code's trait: better, alike, worse.
        let mut difference = |k: usize| if k == code { 1.0 } else { traits.random_range(0..3) as f32 - 1.0 };
        let chosen: Vec<f32> = (0..CODES).map(|k| 60.0 * difference(k)).collect();
        decided.push(code as u32);
        examples.push(lpc_pipe::policy::Example {
            prior: vec![1.0 / CODES as f32; CODES],
            posterior: Vec::new(),
            code_logps: chosen.into_iter().chain([0.0; CODES]).collect(),
            ..Default::default()
        });
        rows.push(TokenRow { chosen_ids: vec![1].into(), rejected_ids: vec![2].into(), ..TokenRow::default() });
    }
    let (dpo, lpc) = (objective(ObjectiveKind::Dpo), LpcConfig { codes: CODES, ..bayes() });
    let settings = PosteriorContext { objective: &dpo, lpc: &lpc, flips: None };
    posteriors::add_posteriors(&rows, &mut examples, Some(&vec![(0.0, 0.0); rows.len()]), keys, settings).unwrap();
    let first = |q: &[f32]| (0..CODES).fold(0, |best, k| if q[k] > q[best] { k } else { best }) as u32;
    let right = examples.iter().zip(&decided).filter(|(e, code)| first(&e.posterior) == **code).count();
    right as f64 / rows.len() as f64
}

#[test]
fn pairs_of_a_prompt_together_tell_the_code_and_single_pairs_do_not() {
    // Another code agrees with one pair by 1/3 and with three by 1/27; the first of those that agree is right by chance:
    // (1 - (2/3)^8) / (8/3) = 0.36 and (1 - (26/27)^8) / (8/27) = 0.88.
    let keys: Vec<u64> = (0..1200).map(|pair| pair / 3).collect();
    let (single, groups) = (found_of_decided(None), found_of_decided(Some(&keys)));
    assert!((single - 0.36).abs() < 0.06, "{single}");
    assert!((groups - 0.88).abs() < 0.05, "{groups}");
}

#[test]
fn dropped_tokens_are_a_function_of_the_pair_and_the_occasion() {
    let rows = pairs(4);
    let policy = policy::<f64>(&llama(true), &LpcConfig { prior_dropout: 0.5, ..bayes() });
    let (reference, dpo) = (some_reference(&rows), objective(ObjectiveKind::Dpo));
    let of = |rows: &[TokenRow], reference: &[(f64, f64)], occasion| {
        value(&policy, rows, reference, &StepPass { occasion, ..pass(&dpo, MIDDLE, 4) }).1.objective
    };
    let all = of(&rows, &reference, "0");
    assert_eq!(all, of(&rows, &reference, "0"));
    assert_ne!(all, of(&rows, &reference, "1"));
    let parts = of(&rows[..1], &reference[..1], "0") + of(&rows[1..], &reference[1..], "0");
    assert!((all - parts).abs() < 1e-9, "a pair's tokens do not depend on its neighbours");
}

/// The same policy with nothing but its latent part to train.
fn frozen(config: &lpc_pipe::model::LlamaConfig, lpc: &LpcConfig) -> Policy<f64> {
    let free = policy::<f64>(config, lpc);
    let mut list: Vec<_> = free.params.iter().cloned().collect();
    list.iter_mut().for_each(|p| p.trainable = p.trainable && p.group == Group::Latent);
    let basis = free.lpc.as_ref().unwrap().basis.clone();
    Policy::over(config.clone(), Params::new(list).unwrap(), None, lpc, basis, LONGEST).unwrap()
}

#[test]
fn kept_states_give_the_latent_part_the_same_loss_and_gradient() {
    let rows = pairs(5);
    let (reference, dpo) = (some_reference(&rows), objective(ObjectiveKind::Dpo));
    let pass = pass(&dpo, MIDDLE, rows.len());
    for (code_tokens, code_space) in [(30, CodeSpace::Vocabulary), (9, CodeSpace::Vocabulary), (1, CodeSpace::Hidden)] {
        for (prior_input, prompt_layer) in [(PriorInput::Tokens, -1), (PriorInput::Both, -1), (PriorInput::States, 1)] {
            let lpc = LpcConfig { code_tokens, code_space, prior_input, prompt_layer, ..bayes() };
            let mut policy = frozen(&llama(true), &lpc);
            let wanted = value(&policy, &rows, &reference, &pass);
            let slopes = gradients(&policy, &rows, &reference, &pass, 2);
            assert!(slopes.keys().all(|name| name.starts_with("lpc.")) && slopes.contains_key("lpc.codebook"));
            let found = evaluate(&policy, &rows, |_| ()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let keeping = Keeping { folder: dir.path(), budget: 1 << 20, about: "", head_frozen: true };
            policy.states = hidden_cache::open(&policy, &rows.iter().collect::<Vec<_>>(), keeping, &Silent).unwrap();
            let got = value(&policy, &rows, &reference, &pass);
            close("loss", &[got.0, got.1.kl, got.1.rewards.0], &[wanted.0, wanted.1.kl, wanted.1.rewards.0], 1e-9);
            for (name, slope) in gradients(&policy, &rows, &reference, &pass, 2) {
                close(&name, &slope, &slopes[&name], 1e-9);
            }
            for (a, b) in evaluate(&policy, &rows, |_| ()).unwrap().iter().zip(&found) {
                close("logps", &[a.logps.0, a.logps.1], &[b.logps.0, b.logps.1], 1e-9);
            }
        }
    }
}

#[test]
fn pairs_of_a_prompt_have_one_posterior_in_the_run_folder() {
    let sandbox = Sandbox::new();
    sandbox.synth(40);
    sandbox.ok("prepare --input raw --out data --pairs best-vs-each --quiet");
    let train = "train --data data --model tiny:16x1 --codes 3 --epochs 1 --lr 1e-3 --quiet \
                 --set train.lpc.group=prompt --set train.lpc.warmup=1 --set train.lpc.balance=0";
    let refused = sandbox.ends(2, &format!("{train} --batch 2 --out small"));
    assert!(refused.stderr.contains("train.batch: a prompt has 3 pairs"), "{}", refused.stderr);
    sandbox.ok(&format!("{train} --batch 8 --out run"));
    // The same pairs a step in two passes: groups stay whole in both, and the sums are the same.
    sandbox.ok(&format!("{train} --batch 4 --accumulate 2 --out halves"));
    let frame = sandbox.parquet("run/posteriors.parquet");
    let (prompts, posteriors) = (texts(&frame, "prompt_id"), lists(&frame, "posterior"));
    let mut of: std::collections::BTreeMap<&str, Vec<&Vec<f64>>> = std::collections::BTreeMap::new();
    prompts.iter().zip(&posteriors).for_each(|(prompt, q)| of.entry(prompt).or_default().push(q));
    assert!(of.len() >= 39 && of.values().any(|group| group.len() == 3));
    assert!(of.values().all(|group| group.iter().all(|q| *q == group[0])));
    let losses = |run: &str| -> Vec<f64> {
        let lines = sandbox.text(&format!("{run}/metrics.jsonl"));
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["loss"].as_f64()).collect()
    };
    close("losses", &losses("halves"), &losses("run"), 1e-4);
    // Single pairs have nothing to share.
    sandbox.ok("prepare --input raw --out single --quiet");
    let refused = sandbox.ends(2, "train --data single --model tiny:16x1 --out r --set train.lpc.group=prompt");
    assert!(refused.stderr.contains("train.lpc.group: has no effect"), "{}", refused.stderr);
}
