//! Every latent and control: against recorded numbers, against one another, and through their folders.

use candle_core::{DType, Device, Tensor};
use lpc_pipe::batch::Sides;
use lpc_pipe::lpc::{Basis, CodeSpace, LatentKind, LpcConfig, Mixture, Moment, Noise, Pooling, Preset, shapes};
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind, PreferenceLogps};
use lpc_pipe::policy::{Policy, evaluate, flips, saved};
use lpc_pipe::seed::Seed;
use lpc_pipe::source::ModelSource;
use lpc_pipe::token_file::TokenRow;
use lpc_pipe::weights::safetensors;
use serde_json::Value;

use crate::numbers::policies::{
    LATENTS, LONGEST, MIDDLE, close, latent, llama, numbers, objective, pairs, pass, plain, policy, policy_with,
    some_reference, swapped, value, write_tensors, zero,
};
use crate::support::{Sandbox, columns, lists, numbers as column, texts};

mod recorded;

// What one latent is of another.

#[test]
fn vectors_that_are_zero_change_no_bit() {
    let rows = pairs(5);
    let wanted = evaluate(&policy::<f32>(&llama(true), &plain()), &rows, |_| ()).unwrap();
    for (kind, name) in [
        (LatentKind::LpcReliable, "lpc.codebook"),
        (LatentKind::Gaussian, "lpc.directions"),
        (LatentKind::Mlp, "lpc.mlp.2.weight"),
        (LatentKind::Bias, "lpc.bias"),
    ] {
        let policy = policy::<f32>(&llama(true), &latent(kind));
        let logps = |p: &Policy<f32>| {
            let found = evaluate(p, &rows, |_| ()).unwrap();
            found.into_iter().map(|e| (e.logps, e.logps_posterior)).collect::<Vec<_>>()
        };
        let moved = logps(&policy);
        zero(&policy, name);
        if kind == LatentKind::Mlp {
            zero(&policy, "lpc.mlp.2.bias");
        }
        assert_eq!(logps(&policy), wanted.iter().map(|e| (e.logps, e.logps)).collect::<Vec<_>>(), "{kind:?}");
        assert!(moved.iter().zip(&wanted).all(|(a, b)| (a.0.0 - b.logps.0).abs() > 1e-5), "{kind:?}");
        // In training too; and no latent starts a step with another loss than the plain objective then.
        let (reference, mix) = (some_reference(&rows), objective(ObjectiveKind::Mix));
        let bare = crate::numbers::policies::policy::<f32>(&llama(true), &plain());
        let of = |p| value(p, &rows, &reference, &pass(&mix, MIDDLE, rows.len())).1.logps;
        assert_eq!(of(&policy), of(&bare), "{kind:?}");
    }
}

#[test]
fn a_bias_is_lpc_with_one_code() {
    let rows = pairs(5);
    let (coded, bias) = (
        policy::<f64>(&llama(true), &LpcConfig { codes: 1, ..latent(LatentKind::Lpc) }),
        policy::<f64>(&llama(true), &latent(LatentKind::Bias)),
    );
    let vector = numbers(&coded.lpc.as_ref().unwrap().vectors().unwrap().unwrap());
    let param = bias.params.get(bias.params.position("lpc.bias").unwrap());
    param.var.set(&Tensor::new(vector.as_slice(), &Device::Cpu).unwrap()).unwrap();
    let (mut a, b) = (evaluate(&coded, &rows, |_| ()).unwrap(), evaluate(&bias, &rows, |_| ()).unwrap());
    // The one code alone is what the prior makes of it; a bias is no code.
    for example in &mut a {
        let alone = std::mem::take(&mut example.code_logps);
        close(
            "alone",
            &alone.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
            &[example.logps.0, example.logps.1],
            1e-5,
        );
    }
    assert_eq!(a, b);
    let reference = some_reference(&rows);
    for name in [ObjectiveKind::Dpo, ObjectiveKind::Simpo] {
        let objective = objective(name);
        let pass = pass(&objective, MIDDLE, rows.len());
        let (a, b) = (value(&coded, &rows, &reference, &pass), value(&bias, &rows, &reference, &pass));
        assert!((a.0 - b.0).abs() < 1e-12 && (a.1.objective - b.1.objective).abs() < 1e-12);
        let of = |p: &Policy<f64>, name: &str| {
            crate::numbers::policies::gradients(p, &rows, &reference, &pass, rows.len()).remove(name).unwrap()
        };
        close("gradient", &of(&bias, "lpc.bias"), &of(&coded, "lpc.codebook"), 1e-12);
    }
    // It starts at 0: at its reference.
    let (_, _, deviation) = {
        let lpc = latent(LatentKind::Bias);
        shapes(&lpc, &Basis::sized(&lpc, 16, 30)).remove(0)
    };
    assert_eq!(deviation, 0.0);
}

#[test]
fn flip_rates_that_are_all_equal_are_a_fixed_one() {
    let rows = pairs(5);
    let reference = some_reference(&rows);
    let mix = ObjectiveConfig { label_smoothing: 0.2, ..objective(ObjectiveKind::Mix) };
    let of = |policy: &Policy<f64>| value(policy, &rows, &reference, &pass(&mix, MIDDLE, rows.len()));
    for exact in [false, true] {
        let lpc = LpcConfig { exact, ..latent(LatentKind::Lpc) };
        let fixed = of(&policy(&llama(true), &lpc));
        assert_eq!(fixed.1.flips, None);
        let reliable = policy(&llama(true), &LpcConfig { latent: LatentKind::LpcReliable, ..lpc.clone() });
        let learned = policy_with(&llama(true), &lpc, vec![flips::parameter::<f64>().unwrap()]);
        for policy in [&reliable, &learned] {
            let other = of(policy).0;
            policy.start_flips(0.2).unwrap();
            let same = of(policy);
            assert!((same.0 - fixed.0).abs() < 1e-12 && (other - fixed.0).abs() > 1e-6, "{} {}", same.0, fixed.0);
            assert!((same.1.flips.unwrap() / 5.0 - 0.2).abs() < 1e-12);
        }
    }
}

#[test]
fn evaluation_takes_the_priors_expected_z() {
    let rows = pairs(6);
    for kind in LATENTS.into_iter().filter(|k| *k != LatentKind::None) {
        let policy = policy::<f64>(&llama(true), &latent(kind));
        let found = evaluate(&policy, &rows, |_| ()).unwrap();
        let turned = evaluate(&policy, &swapped(&rows), |_| ()).unwrap();
        for (a, b) in found.iter().zip(&turned) {
            // The prior sees the prompt alone: exchanging the sides exchanges the log-probabilities.
            close("logps", &[a.logps.0, a.logps.1], &[b.logps.1, b.logps.0], 1e-12);
            assert_eq!(a.logps == a.logps_posterior, !kind.inferred(), "{kind:?}");
            assert_eq!(a.kl > 0.0, kind.inferred(), "{kind:?}");
            assert_eq!(a.prior.len(), if kind.coded() { 4 } else { 1 });
            if !kind.coded() {
                assert_eq!((&a.prior[..], &a.posterior[..]), (&[1f32][..], &[1f32][..]));
                assert_eq!((a.prior_entropy, a.posterior_entropy), (0.0, 0.0));
            }
        }
        // No sample: twice the same. In training, the noise of another occasion is another.
        assert_eq!(found, evaluate(&policy, &rows, |_| ()).unwrap());
        let (reference, mix) = (some_reference(&rows), objective(ObjectiveKind::Mix));
        let of = |occasion| {
            value(&policy, &rows, &reference, &lpc_pipe::train::step::StepPass { occasion, ..pass(&mix, MIDDLE, 6) }).0
        };
        assert_eq!(of("0") == of("1"), !kind.inferred(), "{kind:?}");
        assert_eq!(of("0"), of("0"));
    }
}

#[test]
fn noise_is_random_in_training_and_nothing_in_evaluation() {
    let rows = pairs(5);
    let (reference, dpo) = (some_reference(&rows), objective(ObjectiveKind::Dpo));
    let bare = policy::<f64>(&llama(true), &plain());
    for code_space in [CodeSpace::Hidden, CodeSpace::Vocabulary] {
        let noisy = policy::<f64>(&llama(true), &LpcConfig { code_space, ..latent(LatentKind::Noise) });
        assert_eq!(noisy.params.len(), bare.params.len());
        assert_eq!(evaluate(&noisy, &rows, |_| ()).unwrap(), evaluate(&bare, &rows, |_| ()).unwrap());
        let of = |policy: &Policy<f64>, occasion| {
            let pass = lpc_pipe::train::step::StepPass { occasion, ..pass(&dpo, MIDDLE, 5) };
            value(policy, &rows, &reference, &pass).0
        };
        assert_eq!(of(&noisy, "0"), of(&noisy, "0"));
        assert!((of(&noisy, "0") - of(&noisy, "1")).abs() > 1e-6 && (of(&noisy, "0") - of(&bare, "0")).abs() > 1e-6);
        let found = crate::numbers::policies::gradients(&noisy, &rows, &reference, &pass(&dpo, MIDDLE, 5), 5);
        assert_eq!(found.len(), bare.params.len());
    }
}

// Exact sums are the oracle of samples.

/// The same pair many times under different ids: each has noise of its own.
fn copies(n: usize) -> Vec<TokenRow> {
    let row = pairs(3).remove(2);
    (0..n).map(|i| TokenRow { id: format!("copy-{i}").into(), ..row.clone() }).collect()
}

#[test]
fn samples_have_the_exact_mean() {
    const SAMPLES: usize = 4000;
    let many = copies(SAMPLES);
    let one = &many[..1];
    let reference = [(-9.0, -4.0)];
    for (kind, objective) in [
        (LatentKind::LpcHard, objective(ObjectiveKind::Dpo)),
        (LatentKind::Lpc, objective(ObjectiveKind::Dpo)),
        (LatentKind::LpcReliable, objective(ObjectiveKind::Mix)),
    ] {
        let sampled = LpcConfig { code_init: 2.0, balance: 0.0, ..latent(kind) };
        let exact = LpcConfig {
            exact: true,
            latent: if kind == LatentKind::LpcHard { LatentKind::Lpc } else { kind },
            ..sampled.clone()
        };
        let (sampled, exact) = (policy::<f64>(&llama(true), &sampled), policy::<f64>(&llama(true), &exact));
        // At a low temperature a relaxed sample is one code, as a hard one always is.
        let tau = if kind == LatentKind::LpcHard { 0.9 } else { 1e-3 };
        for g in [0.0, 1.0] {
            let moment = Moment { g, tau, kl_weight: 0.0, balance: 0.0 };
            let reference: Vec<(f64, f64)> = vec![reference[0]; SAMPLES];
            let mean =
                value(&sampled, &many, &reference, &pass(&objective, moment, SAMPLES)).1.objective / SAMPLES as f64;
            let sum = value(&exact, one, &reference[..1], &pass(&objective, moment, 1)).1.objective;
            // Each code's loss, and with them the variance of a sample.
            let states = exact.states(&one.iter().collect::<Vec<_>>(), Sides::Both, None).unwrap();
            let lpc = exact.lpc.as_ref().unwrap();
            let found = exact.infer(&states).unwrap().unwrap();
            let noise = Noise { seed: Seed(0), occasion: "", ids: &["x"] };
            let draws = lpc.draws(&found, moment, &noise, DType::F64).unwrap();
            assert_eq!(draws.len(), 4);
            let (mut by_hand, mut square, mut total) = (0.0, 0.0, 0.0);
            for draw in draws {
                let logps = exact.logps(&states, draw.z.as_ref(), None).unwrap();
                let of = |x: f64| Tensor::new(&[x], &Device::Cpu).unwrap();
                let preference = PreferenceLogps {
                    chosen_logps: logps.chosen,
                    rejected_logps: logps.rejected.unwrap(),
                    reference_chosen_logps: of(reference[0].0),
                    reference_rejected_logps: of(reference[0].1),
                    n_chosen: of(1.0),
                    n_rejected: of(1.0),
                };
                let loss = numbers(&objective.losses_with(&preference, draw.flips.as_ref()).unwrap().losses)[0];
                let weight = numbers(&draw.weight.unwrap())[0];
                by_hand += weight * loss;
                square += weight * loss * loss;
                total += weight;
            }
            assert!((total - 1.0).abs() < 1e-12 && (by_hand - sum).abs() < 1e-12, "{total} {by_hand} {sum}");
            let error = ((square - sum * sum) / SAMPLES as f64).sqrt();
            assert!(error > 1e-6, "{kind:?}: the codes' losses do not differ");
            assert!((mean - sum).abs() < 5.0 * error, "{kind:?} g {g}: {mean} for {sum} with error {error}");
        }
    }
}

// Folders and the command line.

#[test]
fn every_latent_comes_back_from_its_folder() {
    let rows = pairs(5);
    for kind in LATENTS {
        let dir = tempfile::tempdir().unwrap();
        let further = vec![flips::parameter::<f32>().unwrap()];
        let policy = policy_with::<f32>(&llama(true), &LpcConfig { pooling: Pooling::Last, ..latent(kind) }, further);
        saved::save(&policy, dir.path()).unwrap();
        assert_eq!(dir.path().join("lpc_model.safetensors").exists(), kind != LatentKind::None);
        let source = ModelSource::Folder(dir.path().into());
        let again: Policy<f32> = saved::open(&source, 30, Seed(0), LONGEST).unwrap();
        assert_eq!(evaluate(&policy, &rows, |_| ()).unwrap(), evaluate(&again, &rows, |_| ()).unwrap(), "{kind:?}");
        // A learned flip rate belongs to the training.
        assert!(again.flip_rate().unwrap().is_none() && policy.flip_rate().unwrap().is_some());
        if kind != LatentKind::None {
            assert_eq!(again.lpc.unwrap().config, policy.lpc.as_ref().unwrap().config);
            // A part that is not whole is refused.
            let tensors = safetensors::read(&dir.path().join("lpc_model.safetensors")).unwrap();
            let rest: Vec<_> = tensors.into_iter().skip(1).collect();
            write_tensors(&dir.path().join("lpc_model.safetensors"), &rest);
            assert!(saved::open::<f32>(&source, 30, Seed(0), LONGEST).is_err());
        }
    }
}

#[test]
fn runs_of_every_latent_say_what_there_is() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    for kind in LATENTS {
        let name = kind.name();
        let objective = if kind == LatentKind::LpcReliable { "mix" } else { "dpo" };
        let codes = if matches!(kind, LatentKind::None | LatentKind::Bias) { "" } else { "--codes 3" };
        let line = format!(
            "train --data data --out {name} --model tiny:16x1 --latent {name} --objective {objective} {codes} --batch 8 \
             --max-steps 2 --lr 1e-3 --json --quiet"
        );
        let summary = sandbox.ok(&line).json();
        let coded = kind.coded();
        assert_eq!(summary["latent"], name);
        assert_eq!(summary["codes"], if coded { 3 } else { 1 }, "{name}");
        assert_eq!(summary["mix_flip_rate"].is_null(), objective != "mix", "{name}");
        assert_eq!(summary["kl"].as_f64().unwrap() > 0.0, kind.inferred(), "{name}");
        if !kind.inferred() {
            assert_eq!(summary["eval_accuracy"], summary["eval_accuracy_posterior"], "{name}");
        }
        let frame = sandbox.parquet(&format!("{name}/posteriors.parquet"));
        for row in lists(&frame, "prior").iter().chain(&lists(&frame, "posterior")) {
            assert!(if coded { row.len() == 3 } else { row[..] == [1.0] }, "{name}: {row:?}");
        }
        let table = sandbox.parquet(&format!("{name}/codes.parquet"));
        assert_eq!(table.height(), if coded { 3 } else { 1 });
        assert_eq!(columns(&table).last().unwrap() == "flip_rate", kind == LatentKind::LpcReliable, "{name}");
        let readable = coded || kind == LatentKind::Bias;
        assert_eq!(column(&table, "norm").iter().all(|n| n.is_finite()), readable, "{name}");
        let line = sandbox.text(&format!("{name}/metrics.jsonl")).lines().next().unwrap().to_string();
        let line: Value = serde_json::from_str(&line).unwrap();
        for (key, there) in [
            ("lpc/kl", kind.inferred()),
            ("lpc/g", kind.inferred()),
            ("lpc/tau", coded),
            ("lpc/codes_used", coded),
            ("lpc/prior_entropy", coded),
            ("mix/flip_rate", kind == LatentKind::LpcReliable),
        ] {
            assert_eq!(line[key].is_number(), there, "{name}: {key}");
        }
        assert!(sandbox.exists(&format!("{name}/model/lpc_config.json")) == (kind != LatentKind::None));
        sandbox.ok(&format!("score --data data --model {name}/model --out {name}.parquet --quiet"));
        let scored = sandbox.parquet(&format!("{name}.parquet"));
        assert_eq!(columns(&scored).contains(&"prior_code".to_string()), coded, "{name}");
        for (a, b) in column(&scored, "logps_chosen").iter().zip(column(&frame, "logps_chosen")) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} {b}");
        }
        sandbox.ok(&format!("report {name}"));
    }
    // Flip rates start where they are told to, and move.
    let rates = column(&sandbox.parquet("lpc-reliable/codes.parquet"), "flip_rate");
    assert!(rates.iter().all(|e| *e > 0.0 && *e < 0.5) && rates.iter().any(|e| (e - 0.1).abs() > 1e-7), "{rates:?}");
    let learned = "train --data data --out learned --model tiny:16x1 --latent none --objective mix --batch 8 --max-steps 2 \
                   --set train.objective.mix_flip=learned --set train.objective.label_smoothing=0.2 \
                   --set train.lpc.lr=0.1 --json --quiet";
    let rate = sandbox.ok(learned).json()["mix_flip_rate"].as_f64().unwrap();
    assert!((rate - 0.2).abs() > 1e-4 && (rate - 0.2).abs() < 0.1, "{rate}");
}

#[test]
fn a_sweep_over_every_latent() {
    let sandbox = Sandbox::new();
    sandbox.synth(60);
    let recipe = r#"
[prepare]
input = ["raw"]
[prepare.pairs]
test_fraction = 0.25
[train]
model = "tiny:16x1"
batch = 16
max_steps = 1
[train.lpc]
balance = 0.1
temperature = 0.7
[sweep]
noise_p = [0.2]
objective = ["dpo", "mix"]
latent = ["none", "lpc", "lpc-hard", "lpc-reliable", "gaussian", "mlp", "bias"]
codes = [2]
seeds = [1]
"#;
    sandbox.write("sweep.toml", recipe);
    let output = sandbox.ok("noise-sweep --config sweep.toml --out sweep --json").json();
    // Seven over mix, six over dpo: flip rates of codes mean nothing there.
    assert_eq!(output["cells_run"], 13);
    let results = sandbox.parquet("sweep/results.parquet");
    assert_eq!(texts(&results, "status"), ["ok"; 13]);
    let latents = texts(&results, "latent");
    assert_eq!(latents.iter().filter(|l| *l == "lpc-reliable").count(), 1);
    for ((latent, codes), used) in latents.iter().zip(column(&results, "codes")).zip(column(&results, "codes_used")) {
        assert_eq!(codes, if latent == "none" || latent == "bias" { 0.0 } else { 2.0 }, "{latent}");
        assert_eq!(used.is_nan(), !latent.starts_with("lpc"), "{latent}");
    }
    assert!(sandbox.text("sweep/report.html").contains("</html>"));
}

#[test]
fn no_test_split_no_figures_of_it() {
    let sandbox = Sandbox::new();
    sandbox.synth(40);
    sandbox.ok("prepare --input raw --out data --test-fraction 0 --quiet");
    let summary = sandbox.ok("train --data data --out run --model tiny:16x1 --max-steps 1 --quiet --json").json();
    for key in ["eval_accuracy", "eval_accuracy_low", "eval_accuracy_high", "eval_accuracy_posterior", "eval_margin"] {
        assert!(summary[key].is_null(), "{key}: {summary}");
    }
    assert!(summary["kl"].is_number());
}

#[test]
fn schedules_run_from_end_to_end() {
    let config = LpcConfig { g: Mixture::Posterior, ..LpcConfig::of(Preset::Paper) };
    assert_eq!((config.moment(0.0, 0.0).g, config.moment(1.0, 1.0).g), (0.0, 0.0));
    let config = LpcConfig { g: Mixture::Prior, ..LpcConfig::of(Preset::Paper) };
    assert_eq!((config.moment(0.0, 0.0).g, config.moment(1.0, 1.0).g), (1.0, 1.0));
    let config = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::of(Preset::Paper) };
    assert_eq!((config.moment(0.0, 0.0).g, config.moment(0.25, 0.25).g, config.moment(1.0, 1.0).g), (0.0, 0.25, 1.0));
    assert_eq!((config.moment(0.0, 0.0).kl_weight, config.moment(0.5, 0.5).tau), (0.05, 1.0));
    // Nothing moves where the posterior is Bayes' own: the prior's z has the same share of every step.
    let bayes = LpcConfig { latent: LatentKind::Lpc, expected_weight: 0.3, ..LpcConfig::default() };
    assert_eq!((bayes.moment(0.0, 0.0).g, bayes.moment(1.0, 1.0).g, bayes.moment(0.0, 0.0).kl_weight), (0.3, 0.3, 1.0));
}
