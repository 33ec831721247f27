//! What must not change a result, and what a result must be whatever the weights.

use std::f64::consts::LN_2;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use lpc_pipe::batch::{PairBatch, Sides, Split};
use lpc_pipe::lpc::{Features, LatentKind, LpcConfig, Moment, Pooling};
use lpc_pipe::model::init::random;
use lpc_pipe::model::{Gradients, LlamaConfig, Loaded, PackedTokens};
use lpc_pipe::nn::Real;
use lpc_pipe::nn::attention::Segment;
use lpc_pipe::objective::ObjectiveKind;
use lpc_pipe::policy::evaluate::plain_logps;
use lpc_pipe::policy::{Example, Policy, evaluate};
use lpc_pipe::progress::{Progress, Silent};
use lpc_pipe::seed::Seed;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::train::reference::store::{WHAT, all};
use lpc_pipe::train::reference::{Reference, ReferenceOrigin, ReferenceStore};
use lpc_pipe::train::step_plan::{Feed, StepPlan};

use crate::numbers::policies::{
    LONGEST, MIDDLE, close, codes, gradients, llama, numbers, objective, pairs, pass, plain, policy, some_reference,
    swapped, value, zero,
};

fn usual() -> LpcConfig {
    codes(Features::Difference, Pooling::Mean)
}

fn examined<T: Real>(policy: &Policy<T>, rows: &[TokenRow]) -> Vec<Example> {
    evaluate(policy, rows, |_| ()).unwrap()
}

fn logps_of(examples: &[Example]) -> Vec<f64> {
    examples.iter().flat_map(|e| [e.logps.0, e.logps.1, e.logps_posterior.0, e.logps_posterior.1]).collect()
}

// At the reference.

#[test]
fn a_policy_at_its_reference_has_the_textbook_losses() {
    use ObjectiveKind as K;
    let rows = pairs(5);
    for lpc in [plain(), usual(), LpcConfig { latent: LatentKind::LpcHard, ..usual() }] {
        let policy = policy::<f64>(&llama(true), &lpc);
        if lpc.active() {
            zero(&policy, "lpc.codebook");
        }
        let reference = plain_logps(&policy, &rows, |_| ()).unwrap();
        for (name, wanted) in [
            (K::Dpo, LN_2),
            (K::Cdpo, LN_2),
            (K::Rdpo, LN_2),
            (K::Mix, LN_2),
            (K::Ipo, 25.0),
            (K::Drdpo, LN_2),
            (K::Repo, LN_2),
        ] {
            let sums = value(&policy, &rows, &reference, &pass(&objective(name), MIDDLE, 5)).1;
            assert!((sums.objective / 5.0 - wanted).abs() < 1e-12, "{name:?}: {}", sums.objective / 5.0);
            assert_eq!(sums.rewards, (0.0, 0.0));
            // A tie counts as wrong.
            assert_eq!(sums.right, 0.0);
            assert_eq!(sums.examples, 5.0);
        }
    }
}

#[test]
fn codes_that_are_zero_change_no_bit() {
    let rows = pairs(6);
    for lpc in [usual(), LpcConfig { latent: LatentKind::LpcHard, codes: 8, ..usual() }] {
        for tied in [true, false] {
            let coded = policy::<f32>(&llama(tied), &lpc);
            let moved = examined(&coded, &rows);
            zero(&coded, "lpc.codebook");
            let bare = policy::<f32>(&llama(tied), &plain());
            let wanted = examined(&bare, &rows);
            let got = examined(&coded, &rows);
            assert_eq!(logps_of(&got), logps_of(&wanted));
            let plain = plain_logps(&coded, &rows, |_| ()).unwrap();
            assert_eq!(plain, wanted.iter().map(|e| e.logps).collect::<Vec<_>>());
            // In training too.
            let reference = some_reference(&rows);
            let dpo = objective(ObjectiveKind::Dpo);
            let pass = pass(&dpo, MIDDLE, rows.len());
            let sums = |p| value(p, &rows, &reference, &pass).1;
            assert_eq!(sums(&coded).logps, sums(&bare).logps);
            assert_eq!(sums(&coded).objective, sums(&bare).objective);
            // And codes that are not zero do.
            assert!(logps_of(&moved).iter().zip(logps_of(&wanted)).all(|(a, b)| (a - b).abs() > 1e-5));
        }
    }
}

// One code, many codes.

#[test]
fn one_code_is_the_plain_objective_with_a_learned_bias() {
    let rows = pairs(5);
    let reference = some_reference(&rows);
    for latent in [LatentKind::Lpc, LatentKind::LpcHard] {
        let policy = policy::<f64>(&llama(false), &LpcConfig { latent, codes: 1, ..usual() });
        let lpc = policy.lpc.as_ref().unwrap();
        let batch = PairBatch::pack(&rows, Sides::Both).unwrap();
        let h = policy.hidden(&batch, None).unwrap();
        // The bias over the vocabulary, W e_0, added to full logits by hand.
        let index = Tensor::new(batch.predicting.as_slice(), &Device::Cpu).unwrap();
        let logits = policy.decoder.logits(&h.index_select(&index, 0).unwrap()).unwrap().to_vec2::<f64>().unwrap();
        let bias = numbers(&policy.decoder.logits(&lpc.vectors().unwrap().unwrap()).unwrap());
        let token = |i: usize| {
            let biased: Vec<f64> = logits[i].iter().zip(&bias).map(|(l, b)| l + b).collect();
            biased[batch.targets[i] as usize] - biased.iter().map(|x| x.exp()).sum::<f64>().ln()
        };
        let by_hand: Vec<f64> = batch.responses.iter().map(|r| r.clone().map(token).sum()).collect();
        let found = examined(&policy, &rows);
        let (chosen, rejected) = by_hand.split_at(rows.len());
        close("chosen", &found.iter().map(|e| e.logps.0).collect::<Vec<_>>(), chosen, 1e-12);
        close("rejected", &found.iter().map(|e| e.logps.1).collect::<Vec<_>>(), rejected, 1e-12);
        for e in &found {
            assert_eq!((&e.prior[..], &e.posterior[..]), (&[1f32][..], &[1f32][..]));
            assert_eq!((e.kl, e.prior_entropy, e.posterior_entropy), (0.0, 0.0, 0.0));
            assert_eq!(e.logps, e.logps_posterior);
        }
        // In training, neither noise nor schedules matter, and the loss is the objective's alone.
        let dpo = objective(ObjectiveKind::Dpo);
        let expected: f64 = (0..rows.len())
            .map(|i| {
                let d = (chosen[i] - reference[i].0) - (rejected[i] - reference[i].1);
                (-0.1 * d).exp().ln_1p() / rows.len() as f64
            })
            .sum();
        for moment in [
            MIDDLE,
            Moment { g: 0.0, tau: 3.0, kl_weight: 1.0, balance: 0.0 },
            Moment { g: 1.0, tau: 0.1, kl_weight: 9.0, balance: 0.2 },
        ] {
            let (loss, sums) = value(&policy, &rows, &reference, &pass(&dpo, moment, rows.len()));
            assert!((loss - expected).abs() < 1e-12, "{loss} against {expected}");
            assert_eq!((sums.kl, sums.entropy), (0.0, (0.0, 0.0)));
        }
        let found = gradients(&policy, &rows, &reference, &pass(&dpo, MIDDLE, rows.len()), rows.len());
        for (name, gradient) in found.iter().filter(|(n, _)| n.starts_with("lpc.p")) {
            assert!(gradient.iter().all(|g| g.abs() < 1e-12), "{name} has nothing to choose from");
        }
        assert!(found["lpc.codebook"].iter().any(|g| g.abs() > 1e-6));
    }
}

#[test]
fn distributions_stay_within_their_bounds() {
    let rows = pairs(8);
    for k in [2usize, 4, 16, 64] {
        for head_init in [0.0, 1.0, 30.0] {
            let lpc = LpcConfig { codes: k, head_init, ..usual() };
            let policy = policy::<f32>(&llama(true), &lpc);
            if head_init == 0.0 {
                // Without biases, all codes are equally probable: the upper end.
                zero(&policy, "lpc.prior.2.bias");
                zero(&policy, "lpc.posterior.2.bias");
            }
            let most = (k as f64).ln();
            for e in examined(&policy, &rows) {
                for (weights, entropy) in [(&e.prior, e.prior_entropy), (&e.posterior, e.posterior_entropy)] {
                    assert_eq!(weights.len(), k);
                    assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)));
                    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                    assert!((total - 1.0).abs() < 1e-5, "{total}");
                    assert!((0.0..=most + 1e-5).contains(&entropy), "K {k}: {entropy}");
                    let by_hand: f64 =
                        weights.iter().map(|&w| f64::from(w)).filter(|w| *w > 0.0).map(|w| -w * w.ln()).sum();
                    assert!((entropy - by_hand).abs() < 1e-4, "{entropy} against {by_hand}");
                    if head_init == 0.0 {
                        assert!((entropy - most).abs() < 1e-5);
                    }
                }
                assert!(e.kl >= 0.0 && e.kl.is_finite());
                // Beyond this, probabilities in f32 are too small to check the divergence by.
                if head_init <= 1.0 {
                    let terms = e.posterior.iter().zip(&e.prior).map(|(&q, &p)| (f64::from(q), f64::from(p)));
                    let kl: f64 = terms.map(|(q, p)| q * (q / p).ln()).sum();
                    assert!((e.kl - kl).abs() < 1e-4, "{} against {kl}", e.kl);
                }
                if head_init == 0.0 {
                    assert!(e.kl < 1e-6);
                }
            }
        }
    }
}

// Sides.

#[test]
fn exchanging_the_sides_exchanges_log_probabilities_and_negates_margins() {
    use ObjectiveKind as K;
    let (forth, back) = (pairs(6), swapped(&pairs(6)));
    let policy = policy::<f64>(&llama(true), &usual());
    let (a, b) = (examined(&policy, &forth), examined(&policy, &back));
    for (a, b) in a.iter().zip(&b) {
        close("logps", &[a.logps.0, a.logps.1], &[b.logps.1, b.logps.0], 1e-12);
        // The prior sees the prompt only; the posterior sees who won.
        let wide = |w: &[f32]| w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
        close("prior", &wide(&a.prior), &wide(&b.prior), 1e-6);
        assert!(wide(&a.posterior).iter().zip(wide(&b.posterior)).any(|(x, y)| (x - y).abs() > 1e-3));
    }
    // In training with the prior's z, which does not depend on the sides.
    let reference = some_reference(&forth);
    let turned: Vec<(f64, f64)> = reference.iter().map(|r| (r.1, r.0)).collect();
    let moment = Moment { g: 1.0, ..MIDDLE };
    for name in [K::Dpo, K::Cdpo, K::Rdpo, K::Mix, K::Ipo, K::Simpo, K::Drdpo, K::Ropo, K::Hoelder, K::Repo] {
        let objective = objective(name);
        for i in 0..forth.len() {
            let one = |rows: &[TokenRow], reference: &[(f64, f64)]| {
                value(&policy, &rows[i..=i], &reference[i..=i], &pass(&objective, moment, 1)).1
            };
            let (a, b) = (one(&forth, &reference), one(&back, &turned));
            close("rewards", &[a.rewards.0, a.rewards.1], &[b.rewards.1, b.rewards.0], 1e-12);
            let margin = a.rewards.0 - a.rewards.1;
            assert!((margin + (b.rewards.0 - b.rewards.1)).abs() < 1e-12 && margin.abs() > 1e-6, "{name:?}");
            assert_eq!(a.right + b.right, 1.0);
        }
    }
}

// Batches.

#[test]
fn neither_company_nor_order_changes_an_example() {
    let rows = pairs(9);
    for lpc in [plain(), usual(), codes(Features::Concat, Pooling::Last)] {
        let policy = policy::<f32>(&llama(false), &lpc);
        let together = logps_of(&examined(&policy, &rows));
        let alone: Vec<f64> = rows.iter().flat_map(|r| logps_of(&examined(&policy, std::slice::from_ref(r)))).collect();
        let same = |what: &str, other: &[f64]| {
            for (a, b) in together.iter().zip(other) {
                assert!((a - b).abs() <= 1e-5, "{what}: {a} against {b}");
            }
            assert_eq!(together.len(), other.len());
        };
        same("alone", &alone);
        let mut backwards = rows.clone();
        backwards.reverse();
        let mut turned = examined(&policy, &backwards);
        turned.reverse();
        same("backwards", &logps_of(&turned));
        // Among strangers, and twice in one batch.
        let crowd = [pairs(30).split_off(9), rows.clone(), rows.clone()].concat();
        let found = examined(&policy, &crowd);
        same("first copy", &logps_of(&found[21..30]));
        same("second copy", &logps_of(&found[30..]));
    }
}

/// Both responses of a pair as sequences of their own, prompt repeated.
fn separate<T: Real>(policy: &Policy<T>, row: &TokenRow) -> [Vec<f64>; 2] {
    [&row.chosen_ids, &row.rejected_ids].map(|response| {
        let ids = [&row.prompt_ids[..], response].concat();
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let segments = [Segment { start: 0, len: ids.len(), prefix_start: 0, prefix_len: 0, group: 0 }];
        let h = policy
            .decoder
            .hidden(PackedTokens { ids: &ids, positions: &positions, segments: &segments }, None)
            .unwrap();
        // Log-softmax over the whole vocabulary, by hand.
        let logits = policy.decoder.logits(&h).unwrap().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        (row.prompt_ids.len()..ids.len())
            .map(|t| logits[t - 1][ids[t] as usize] - logits[t - 1].iter().map(|x| x.exp()).sum::<f64>().ln())
            .collect()
    })
}

#[test]
fn a_shared_prompt_is_worth_two_sequences() {
    let rows = pairs(7);
    let policy = policy::<f64>(&llama(true), &plain());
    let found = plain_logps(&policy, &rows, |_| ()).unwrap();
    for (row, (chosen, rejected)) in rows.iter().zip(found) {
        let [c, r] = separate(&policy, row);
        close("sums", &[chosen, rejected], &[c.iter().sum(), r.iter().sum()], 1e-12);
    }
    let single = crate::numbers::policies::policy::<f32>(&llama(true), &plain());
    for (row, (chosen, rejected)) in rows.iter().zip(plain_logps(&single, &rows, |_| ()).unwrap()) {
        let [c, r] = separate(&single, row);
        close("sums", &[chosen, rejected], &[c.iter().sum(), r.iter().sum()], 1e-5);
    }
}

#[test]
fn the_mask_covers_the_response_and_its_end_of_turn() {
    let rows = pairs(6);
    let batch = PairBatch::pack(&rows, Sides::Both).unwrap();
    let wanted: Vec<u32> = [|r: &TokenRow| r.chosen_ids.to_vec(), |r: &TokenRow| r.rejected_ids.to_vec()]
        .map(|f| rows.iter().map(f).collect::<Vec<_>>().concat())
        .concat();
    assert_eq!(batch.targets, wanted);
    let policy = policy::<f64>(&llama(true), &plain());
    for row in &rows {
        let [c, r] = separate(&policy, row);
        let of = |row: &TokenRow| plain_logps(&policy, std::slice::from_ref(row), |_| ()).unwrap()[0];
        let whole = of(row);
        // Without its end of turn, a response has exactly that token's log-probability less.
        let (Some((1, chosen)), Some((1, rejected))) = (row.chosen_ids.split_last(), row.rejected_ids.split_last())
        else {
            panic!("a response does not end with its end of turn")
        };
        let ids = |ids: &[u32]| ids.to_vec().into();
        let rest = of(&TokenRow { chosen_ids: ids(chosen), rejected_ids: ids(rejected), ..row.clone() });
        close("end", &[whole.0 - rest.0, whole.1 - rest.1], &[*c.last().unwrap(), *r.last().unwrap()], 1e-12);
        assert!(whole.0 < rest.0 && whole.1 < rest.1);
        // A prompt moved by one into the response counts there, and only there.
        let (last, prompt) = row.prompt_ids.split_last().unwrap();
        let after = |response: &[u32]| [&[*last], response].concat().into();
        let more = of(&TokenRow {
            prompt_ids: ids(prompt),
            chosen_ids: after(&row.chosen_ids),
            rejected_ids: after(&row.rejected_ids),
            ..row.clone()
        });
        close("boundary", &[more.0 - whole.0], &[more.1 - whole.1], 1e-12);
        assert!(more.0 < whole.0);
    }
}

#[test]
fn gradients_do_not_see_how_a_step_is_cut() {
    fn check<T: Real>(tolerance: f64) {
        let rows = pairs(4);
        let reference = some_reference(&rows);
        for name in [ObjectiveKind::Dpo, ObjectiveKind::Simpo, ObjectiveKind::Ipo] {
            // The balance is of a batch's mean, so that it does depend on the cut.
            let policy = policy::<T>(&llama(false), &usual());
            let objective = objective(name);
            let pass = pass(&objective, Moment { balance: 0.0, ..MIDDLE }, rows.len());
            let whole = gradients(&policy, &rows, &reference, &pass, 4);
            for batch in [1, 2, 3] {
                let cut = gradients(&policy, &rows, &reference, &pass, batch);
                assert_eq!(whole.len(), cut.len());
                for (name, gradient) in &whole {
                    // An element is a sum of terms of either sign: its rounding goes with the size of the terms.
                    let scale = gradient.iter().fold(1f64, |m, g| m.max(g.abs()));
                    for (a, b) in cut[name].iter().zip(gradient) {
                        let error = (a - b).abs() / scale;
                        assert!(error <= tolerance, "{name} in batches of {batch}: {a} against {b} ({error:e})");
                    }
                }
            }
        }
    }
    check::<f32>(1e-5);
    check::<f64>(1e-12);
}

#[test]
fn every_epoch_has_every_pair_once_in_an_order_of_its_own() {
    let rows = pairs(23);
    let plan = StepPlan::new(rows.len(), 4, 0.0, 3.0, 0);
    let per_epoch = plan.horizon / 3;
    let mut feed = Feed::new(&rows, None, plan, Seed(1));
    let epochs: Vec<Vec<usize>> =
        (0..3).map(|e| (0..per_epoch).flat_map(|s| feed.step(e * per_epoch + s)).collect()).collect();
    for (i, order) in epochs.iter().enumerate() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..rows.len()).collect::<Vec<_>>());
        assert!(epochs[..i].iter().all(|other| other != order), "epoch {i} repeats an order");
    }
}

// Threads.

/// A model and pairs large enough that every kernel and product is cut into several tasks.
fn larger() -> (LlamaConfig, Vec<TokenRow>) {
    let config = LlamaConfig::tiny(64, 2, 5000);
    let ids =
        |key: &str, n: usize| (0..n).map(|j| Seed(2).index("token", &format!("{key}:{j}"), 5000) as u32).collect();
    let rows = (0..6)
        .map(|i| TokenRow {
            id: i.to_string().into(),
            prompt_ids: ids(&format!("p{i}"), 70 + i),
            chosen_ids: ids(&format!("c{i}"), 90 - i),
            rejected_ids: ids(&format!("r{i}"), 40 + 3 * i),
            ..TokenRow::default()
        })
        .collect();
    (config, rows)
}

#[test]
fn threads_change_no_bit() {
    let (config, rows) = larger();
    let params = || random::<f32>(&config, 0.1, Seed(5)).unwrap();
    let loaded = Loaded { config: config.clone(), params: params() };
    let policy = crate::numbers::policies::new_policy::<f32>(loaded, &usual(), Seed(6), 256);
    let reference: Vec<(f64, f64)> = rows.iter().map(|_| (-700.0, -400.0)).collect();
    let dpo = objective(ObjectiveKind::Dpo);
    let with = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let batch = PairBatch::pack(&rows, Sides::Both).unwrap();
            let hidden = numbers(&policy.hidden(&batch, None).unwrap());
            let all = Arc::new(Gradients::new(&policy.params));
            let trained = numbers(&policy.hidden(&batch, Some(&all)).unwrap());
            assert_eq!(hidden, trained, "training and evaluation go the same way");
            let found = gradients(&policy, &rows, &reference, &pass(&dpo, MIDDLE, rows.len()), rows.len());
            (hidden, found, examined(&policy, &rows))
        })
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        let more = with(threads);
        assert!(one.0 == more.0, "hidden states differ with {threads} threads");
        for (name, gradient) in &one.1 {
            assert!(gradient == &more.1[name], "{name} differs with {threads} threads");
        }
        assert!(one.2 == more.2, "examples differ with {threads} threads");
    }
    assert!(one.0.iter().all(|x| x.is_finite()) && one.1["model.embed_tokens.weight"].iter().any(|g| *g != 0.0));
}

// The reference.

/// Keeps what a stage says.
#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl Listener {
    fn heard(&self, part: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(part))
    }
}

impl Progress for Listener {
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_string());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
}

fn referenced(policy: &Policy<f32>, splits: &[Split], cache: &Path, progress: &dyn Progress) -> Reference {
    let origin = ReferenceOrigin::of(policy, splits).unwrap();
    let mut store = ReferenceStore::open(splits, origin, cache);
    assert!(store.provide(&all(splits), WHAT, || Ok(policy), &lpc_pipe::train::ranks::ALONE, progress).unwrap());
    store.into_values()
}

#[test]
fn a_cached_reference_is_the_live_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("reference");
    let splits = |rows: Vec<TokenRow>| {
        let (train, test) = rows.split_at(5);
        vec![Split { name: "train".into(), rows: train.to_vec() }, Split { name: "test".into(), rows: test.to_vec() }]
    };
    let first = splits(pairs(8));
    let policy = policy::<f32>(&llama(true), &usual());
    let live: Vec<Vec<(f64, f64)>> = first.iter().map(|s| plain_logps(&policy, &s.rows, |_| ()).unwrap()).collect();
    let stored = referenced(&policy, &first, &cache, &Silent);
    assert_eq!(stored, live);
    let ask = |policy: &Policy<f32>, splits: &[Split]| {
        let listener = Listener::default();
        let found = referenced(policy, splits, &cache, &listener);
        (found, listener.heard("taken from the cache"))
    };
    assert_eq!(ask(&policy, &first), (live.clone(), true));
    // Codes are no part of the reference; weights and tokens are.
    zero(&policy, "lpc.codebook");
    assert_eq!(ask(&policy, &first), (live.clone(), true));
    let other = splits(swapped(&pairs(8)));
    let (turned, cached) = ask(&policy, &other);
    assert!(!cached);
    assert!(turned[0].iter().zip(&live[0]).all(|(a, b)| a != b));
    zero(&policy, "model.layers.0.mlp.up_proj.weight");
    let (changed, cached) = ask(&policy, &first);
    assert!(!cached && changed != live);
    assert_eq!(ask(&policy, &first), (changed, true));
    // Where nothing can be stored, the answer is the same.
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let listener = Listener::default();
    let found = referenced(&policy, &first, &file, &listener);
    assert_eq!(found, ask(&policy, &first).0);
    assert!(listener.heard("warning") && listener.heard("not cached"));
}

#[test]
fn the_reference_sees_no_codes() {
    let rows = pairs(5);
    let coded = policy::<f32>(&llama(true), &usual());
    let bare = policy::<f32>(&llama(true), &plain());
    assert_eq!(plain_logps(&coded, &rows, |_| ()).unwrap(), plain_logps(&bare, &rows, |_| ()).unwrap());
    assert!(rows.iter().all(|r| r.prompt_ids.len() + r.chosen_ids.len() < LONGEST));
}
