//! Objectives for wrong labels, and weights of rows, through whole steps.

use std::collections::BTreeMap;

use lpc_pipe::lpc::{Features, LatentKind, LpcConfig, Moment, Pooling};
use lpc_pipe::objective::{LogSum, ObjectiveConfig, ObjectiveKind};
use lpc_pipe::policy::{Policy, evaluate};
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::step::StepPass;

use crate::numbers::policies::{
    MIDDLE, close, codes, gradients, latent, llama, objective, pairs, pass, plain, policy, some_reference, value,
};

/// Neither a balance, which is one of each pass, nor a weight of the divergence that is not 1.
const BARE: Moment = Moment { balance: 0.0, kl_weight: 1.0, ..MIDDLE };

fn bayes() -> LpcConfig {
    LpcConfig { latent: LatentKind::Lpc, codes: 4, prior_width: 6, prior_dropout: 0.0, ..LpcConfig::default() }
}

#[track_caller]
fn same(what: &str, got: &BTreeMap<String, Vec<f64>>, wanted: &BTreeMap<String, Vec<f64>>, tolerance: f64) {
    assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{what}");
    assert!(wanted.values().flatten().any(|g| g.abs() > 1e-4), "{what}: nothing to compare");
    for (name, gradient) in got {
        close(&format!("{what}: {name}"), gradient, &wanted[name], tolerance);
    }
}

fn drdpo(beta: f64) -> ObjectiveConfig {
    ObjectiveConfig { drdpo_beta: beta, ..objective(ObjectiveKind::Drdpo) }
}

#[test]
fn dr_dpo_weighs_the_gradients_of_dpo() {
    let (rows, dpo) = (pairs(5), objective(ObjectiveKind::Dpo));
    let reference = some_reference(&rows);
    let policy = policy::<f64>(&llama(true), &plain());
    let mut wanted: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let losses: Vec<f64> =
        (0..5).map(|i| value(&policy, &rows[i..=i], &reference[i..=i], &pass(&dpo, BARE, 1)).0).collect();
    let total: f64 = losses.iter().map(|l| (-l / 0.5).exp()).sum();
    for i in 0..5 {
        let weight = (-losses[i] / 0.5).exp() / total;
        for (name, gradient) in gradients(&policy, &rows[i..=i], &reference[i..=i], &pass(&dpo, BARE, 1), 1) {
            let sum = wanted.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * g);
        }
    }
    same("softmax", &gradients(&policy, &rows, &reference, &pass(&drdpo(0.5), BARE, 5), 5), &wanted, 1e-10);
    for lpc in [plain(), bayes(), codes(Features::Concat, Pooling::Mean)] {
        let policy = crate::numbers::policies::policy::<f64>(&llama(true), &lpc);
        let of = |objective: &ObjectiveConfig| gradients(&policy, &rows, &reference, &pass(objective, BARE, 5), 5);
        same("a large beta", &of(&drdpo(1e8)), &of(&dpo), 1e-6);
    }
}

#[test]
fn dr_dpo_over_several_passes_has_the_gradient_of_one() {
    let rows = pairs(5);
    let (reference, drdpo) = (some_reference(&rows), drdpo(0.4));
    let exact = LpcConfig { exact: true, ..codes(Features::Concat, Pooling::Mean) };
    for lpc in [plain(), bayes(), codes(Features::Concat, Pooling::Mean), exact, latent(LatentKind::Mlp)] {
        let policy = policy::<f64>(&llama(true), &lpc);
        let one = pass(&drdpo, BARE, 5);
        let wanted = gradients(&policy, &rows, &reference, &one, 5);
        let mut joined = [LogSum::default(); 2];
        for (rows, reference) in rows.chunks(2).zip(reference.chunks(2)) {
            let found = value(&policy, rows, reference, &one).1.joined;
            joined = [joined[0].and(found[0]), joined[1].and(found[1])];
        }
        let whole = value(&policy, &rows, &reference, &one).1.joined;
        close("sum", &[joined[0].log_sum, joined[0].mass], &[whole[0].log_sum, 5.0], 1e-12);
        let passes = StepPass { joined: Some(&joined), ..one };
        same("passes", &gradients(&policy, &rows, &reference, &passes, 2), &wanted, 1e-10);
        let unaware = gradients(&policy, &rows, &reference, &one, 2);
        assert!(unaware.iter().any(|(name, g)| g.iter().zip(&wanted[name]).any(|(a, b)| (a - b).abs() > 1e-4)));
    }
}

#[test]
fn dr_dpo_takes_a_group_for_as_many_pairs_as_it_has() {
    let mut rows = pairs(5);
    rows[1].prompt_ids = rows[0].prompt_ids.clone();
    rows[1].weight = Some(2.0);
    let keys = [7, 7, 3, 4, 5];
    let (reference, dpo) = (some_reference(&rows), objective(ObjectiveKind::Dpo));
    let policy = policy::<f64>(&llama(true), &bayes());
    let moment = Moment { g: 0.0, ..BARE };
    let of = |objective: &ObjectiveConfig, range: std::ops::Range<usize>| {
        let pass = StepPass { keys: Some(&keys[range.clone()]), ..pass(objective, moment, 5) };
        value(&policy, &rows[range.clone()], &reference[range], &pass).0
    };
    // Marginal losses of the groups, by themselves; the first has a weight of 3 in all.
    let groups = [(0..2, 3.0), (2..3, 1.0), (3..4, 1.0), (4..5, 1.0)];
    let sum: f64 = groups.into_iter().map(|(group, w): (_, f64)| w * (-5.0 * of(&dpo, group) / w / 0.4).exp()).sum();
    let wanted = -0.4 * 6.0 / 5.0 * (sum / 6.0).ln();
    let got = of(&drdpo(0.4), 0..5);
    assert!((got - wanted).abs() < 1e-10, "{got} for {wanted}");
}

#[test]
fn repo_is_mix_at_the_clean_rate_and_counts_clean_labels() {
    let rows = pairs(4);
    let reference = some_reference(&rows);
    let repo = ObjectiveConfig { repo_clean_rate: 0.8, ..objective(ObjectiveKind::Repo) };
    let mix = ObjectiveConfig { label_smoothing: 0.2, ..objective(ObjectiveKind::Mix) };
    for lpc in [plain(), bayes(), codes(Features::Difference, Pooling::Mean)] {
        let policy = policy::<f64>(&llama(true), &lpc);
        let of = |objective: &ObjectiveConfig| gradients(&policy, &rows, &reference, &pass(objective, BARE, 4), 4);
        same("repo", &of(&repo), &of(&mix), 1e-10);
        let (a, b) = [&repo, &mix].map(|o| value(&policy, &rows, &reference, &pass(o, BARE, 4)).0).into();
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    // With one z, w is a function of the margin; with codes it is Bayes' over the prior's mixture of them.
    for lpc in [plain(), bayes()] {
        let policy = policy::<f64>(&llama(true), &lpc);
        let right = |d: f64| 1.0 / (1.0 + (-0.1 * d).exp());
        let found = evaluate(&policy, &rows, |_| ()).unwrap();
        let clean = found.iter().zip(&reference).map(|(example, reference)| {
            let of_code = |(k, p): (usize, &f32)| {
                let n = example.prior.len();
                let logps = if example.code_logps.is_empty() {
                    example.logps
                } else {
                    (f64::from(example.code_logps[k]), f64::from(example.code_logps[n + k]))
                };
                f64::from(*p) * right(logps.0 - reference.0 - logps.1 + reference.1)
            };
            let p: f64 = example.prior.iter().enumerate().map(of_code).sum();
            0.8 * p / (0.8 * p + 0.2 * (1.0 - p))
        });
        let wanted: f64 = clean.sum();
        let (got, weights) = value(&policy, &rows, &reference, &pass(&repo, BARE, 4)).1.clean.unwrap();
        assert!((got - wanted).abs() < 1e-5 && weights == 4.0, "{got} for {wanted}");
    }
}

/// Policies with every way in which losses are averaged over z.
fn policies() -> Vec<(&'static str, Policy<f64>)> {
    let exact = LpcConfig { exact: true, ..codes(Features::Concat, Pooling::Mean) };
    let of = |lpc: &LpcConfig| policy::<f64>(&llama(true), lpc);
    vec![
        ("plain", of(&plain())),
        ("bayes", of(&bayes())),
        ("sampled", of(&codes(Features::Concat, Pooling::Mean))),
        ("exact", of(&exact)),
        ("gaussian", of(&latent(LatentKind::Gaussian))),
        ("mlp", of(&latent(LatentKind::Mlp))),
        ("bias", of(&latent(LatentKind::Bias))),
    ]
}

fn weighted(rows: &[TokenRow], weights: &[Option<f64>]) -> Vec<TokenRow> {
    rows.iter().zip(weights).map(|(row, &weight)| TokenRow { weight, ..row.clone() }).collect()
}

#[test]
fn weights_of_one_change_no_bit() {
    let rows = pairs(3);
    let (reference, keys) = (some_reference(&rows), [1, 1, 2]);
    let ones = weighted(&rows, &[Some(1.0), None, Some(1.0)]);
    for name in [ObjectiveKind::Dpo, ObjectiveKind::Drdpo, ObjectiveKind::Repo] {
        let objective = objective(name);
        for (what, policy) in policies() {
            for keys in [None, Some(&keys[..])] {
                let pass = StepPass { keys, ..pass(&objective, MIDDLE, 3) };
                let [a, b] = [&rows, &ones].map(|rows| gradients(&policy, rows, &reference, &pass, 3));
                assert!(a == b, "{what} {name:?}");
            }
        }
    }
}

#[test]
fn a_weight_of_two_is_a_row_that_occurs_twice_and_none_is_no_row() {
    let rows = pairs(4);
    let reference = some_reference(&rows);
    let light = weighted(&rows, &[None, Some(2.0), Some(0.0), Some(0.5)]);
    // Half a row is a row of two among as many.
    let places = [0, 0, 1, 1, 1, 1, 3];
    let doubled: Vec<TokenRow> = places.iter().map(|&i| rows[i].clone()).collect();
    let of_doubled: Vec<(f64, f64)> = places.iter().map(|&i| reference[i]).collect();
    for name in [ObjectiveKind::Dpo, ObjectiveKind::Drdpo, ObjectiveKind::Repo] {
        let objective = objective(name);
        for (what, policy) in policies() {
            // Both as sums over the weights.
            let got = gradients(&policy, &light, &reference, &pass(&objective, BARE, 2), 4);
            let wanted = gradients(&policy, &doubled, &of_doubled, &pass(&objective, BARE, 4), 7);
            same(&format!("{what} {name:?}"), &got, &wanted, 1e-9);
        }
    }
    // Pairs of one prompt: a weight is an exponent of the pair's likelihood under the shared code.
    let dpo = objective(ObjectiveKind::Dpo);
    let policy = policy::<f64>(&llama(true), &bayes());
    let light = weighted(&rows, &[None, Some(2.0), Some(0.0), None]);
    let keyed = |keys| StepPass { keys: Some(keys), ..pass(&dpo, BARE, 4) };
    let got = gradients(&policy, &light, &reference, &keyed(&[1, 1, 1, 2]), 4);
    let places = [0, 1, 1, 3];
    let doubled: Vec<TokenRow> = places.iter().map(|&i| rows[i].clone()).collect();
    let of_doubled: Vec<(f64, f64)> = places.iter().map(|&i| reference[i]).collect();
    let wanted = gradients(&policy, &doubled, &of_doubled, &keyed(&[1, 1, 1, 2]), 4);
    same("group", &got, &wanted, 1e-9);
}
