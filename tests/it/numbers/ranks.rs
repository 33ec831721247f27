//! Several ranks are one process with their batches together. Here ranks are threads; `scripts/check_mpi.sh` does the
//! same over MPI.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use lpc_pipe::lpc::{Features, Inference, LatentKind, LpcConfig, Pooling};
use lpc_pipe::model::Gradients;
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind};
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended};
use lpc_pipe::progress::{Progress, Silent};
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::train::ranks::threads::{apart, together};
use lpc_pipe::train::ranks::work;
use lpc_pipe::train::step::{self, StepPass, Sums};
use lpc_pipe::train::{Kernels, Ranks, TrainConfig, Tune};
use serde_json::Value;
use tempfile::TempDir;

use crate::numbers::policies::{MIDDLE, close, codes, llama, numbers, objective, pairs, plain, policy, some_reference};

const SEED: Seed = Seed(7);

/// Gradients and counts of one step over five pairs in passes of three, in shares.
fn one_step(lpc: &LpcConfig, ranks: &Ranks) -> (BTreeMap<String, Vec<f64>>, Sums) {
    let policy = policy::<f64>(&llama(true), lpc);
    let (rows, dpo) = (pairs(5), objective(ObjectiveKind::Dpo));
    let reference = some_reference(&rows);
    let gradients = Arc::new(Gradients::new(&policy.params));
    let mut sums = Sums::default();
    let pass = StepPass {
        objective: &dpo,
        moment: MIDDLE,
        seed: Seed(9),
        occasion: "0",
        step_examples: rows.len(),
        ranks,
        backbone: true,
        keys: None,
        joined: None,
        layer_sums: None,
    };
    for micro in [0..3, 3..5] {
        let share = ranks.share(micro.len());
        let own = micro.start + share.start..micro.start + share.end;
        if own.is_empty() {
            step::idle(&policy, MIDDLE, ranks).unwrap();
            continue;
        }
        let own_rows: Vec<_> = rows[own.clone()].iter().collect();
        step::pass(&policy, &own_rows, &reference[own], &pass, &gradients, &mut sums).unwrap();
    }
    sums.join(ranks).unwrap();
    work::sum_gradients::<f64>(ranks, &policy.params, &gradients, None).unwrap();
    let found = policy
        .params
        .iter()
        .enumerate()
        .filter_map(|(position, param)| Some((param.name.clone(), numbers(&gradients.tensor(position).unwrap()?))));
    (found.collect(), sums)
}

#[test]
fn gradients_of_ranks_add_up_to_those_of_one() {
    let coded = codes(Features::Concat, Pooling::Mean);
    for (what, lpc) in [
        ("plain", plain()),
        ("codes", LpcConfig { balance: 0.0, ..coded.clone() }),
        ("codes and their balance", LpcConfig { balance: 0.7, ..coded }),
    ] {
        let (wanted, counted) = one_step(&lpc, &Ranks::alone());
        assert!(wanted.len() > 10);
        // With four and five ranks some have no pairs.
        for n in 1..=5 {
            for (rank, (found, sums)) in together(n, |ranks| one_step(&lpc, ranks)).into_iter().enumerate() {
                let what = format!("{what}, rank {rank} of {n}");
                assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{what}");
                for (name, gradient) in &found {
                    close(&format!("{what}: {name}"), gradient, &wanted[name], 1e-12);
                }
                assert_eq!((sums.examples, sums.tokens, sums.right), (counted.examples, counted.tokens, counted.right));
                close(
                    &what,
                    &[sums.objective, sums.kl, sums.balance],
                    &[counted.objective, counted.kl, counted.balance],
                    1e-12,
                );
                close(&what, &sums.usage.mass, &counted.usage.mass, 1e-12);
            }
        }
    }
}

/// A prepared folder, made once.
static GROUND: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let corpus = SynthConfig { rows: 60, out: place("corpus"), ..SynthConfig::default() };
    synth::write(&corpus, Seed(1), &Silent).unwrap();
    let input = vec![dir.path().join("corpus").join(synth::CORPUS).display().to_string()];
    let config = PrepareConfig { input, out: place("prepared"), ..PrepareConfig::default() };
    prepare::run(&config, Seed(1), &Silent).unwrap();
    dir
});

fn place(name: &str) -> PathBuf {
    GROUND.path().join(name)
}

/// Twelve pairs a step, whatever the number of ranks.
fn config(out: &str, ranks: usize) -> TrainConfig {
    TrainConfig {
        data: place("prepared").display().to_string(),
        model: "tiny:32x1".into(),
        out: place(out).display().to_string(),
        batch: 6 / ranks,
        accumulate: 2,
        epochs: 1.0,
        lr: 1e-3,
        eval_every: 3,
        checkpoint_every: 2,
        lpc: LpcConfig { codes: 4, balance: 0.1, warmup: 1.0, ..LpcConfig::default() },
        ..TrainConfig::default()
    }
}

fn lines(out: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place(out).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Largest difference between the losses of two runs, and between all their metrics; relative for numbers above 1.
fn difference(a: &str, b: &str) -> (f64, f64) {
    let (a, b) = (lines(a), lines(b));
    assert_eq!(a.len(), b.len());
    let (mut losses, mut worst) = (0f64, 0f64);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a.as_object().unwrap(), b.as_object().unwrap());
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        for (key, value) in a.iter().filter(|(key, _)| !key.starts_with("perf/") && *key != "eval_runtime") {
            let (x, y) = (value.as_f64().unwrap(), b[key].as_f64().unwrap());
            let error = (x - y).abs() / x.abs().max(1.0);
            worst = worst.max(error);
            if key == "loss" {
                losses = losses.max(error);
            }
        }
    }
    (losses, worst)
}

fn finished(ended: lpc_pipe::Result<Ended>) {
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
}

#[test]
fn a_run_of_ranks_is_that_of_one_with_their_batches_together() {
    finished(train::run(&config("one", 1), SEED, false, &Silent));
    for n in [1, 2, 3] {
        let out = format!("ranks-{n}");
        // A reference of its own is computed in shares.
        let _ = std::fs::remove_dir_all(place("prepared").join("reference"));
        for ended in together(n, |ranks| train::run_among(&config(&out, n), SEED, false, &Silent, ranks)) {
            finished(ended);
        }
        let (losses, worst) = difference("one", &out);
        assert!(losses < 1e-6 && worst < 1e-5, "{n} ranks: losses {losses:e}, metrics {worst:e}");
        assert!(n > 1 || worst == 0.0);
        // And again, bit for bit; also where ranks on several machines sum while the backward pass goes on.
        let (again, far) = (format!("again-{n}"), format!("apart-{n}"));
        for ended in together(n, |ranks| train::run_among(&config(&again, n), SEED, false, &Silent, ranks)) {
            finished(ended);
        }
        for ended in apart(n, |ranks| train::run_among(&config(&far, n), SEED, false, &Silent, ranks)) {
            finished(ended);
        }
        for file in ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet"] {
            let [a, b, c] = [&out, &again, &far].map(|run| std::fs::read(place(run).join(file)).unwrap());
            assert!(a == b, "{n} ranks: {file} differs between two runs");
            assert!(a == c, "{n} ranks: {file} differs on several machines");
        }
    }
}

fn named(name: ObjectiveKind) -> ObjectiveConfig {
    ObjectiveConfig { name, ..ObjectiveConfig::default() }
}

#[test]
fn dr_dpo_joins_the_passes_of_a_step() {
    // The balance of the codes is one of each pass.
    let lpc = LpcConfig { balance: 0.0, ..config("", 1).lpc };
    let of = |out: &str, name, batch| TrainConfig {
        batch,
        accumulate: 12 / batch,
        objective: named(name),
        lpc: lpc.clone(),
        ..config(out, 1)
    };
    for batch in [12, 6, 4] {
        finished(train::run(&of(&format!("passes-{batch}"), ObjectiveKind::Drdpo, batch), SEED, false, &Silent));
        let (losses, worst) = difference("passes-12", &format!("passes-{batch}"));
        assert!(losses < 1e-6 && worst < 1e-5, "batch {batch}: losses {losses:e}, metrics {worst:e}");
    }
    finished(train::run(&of("mean", ObjectiveKind::Dpo, 12), SEED, false, &Silent));
    assert!(difference("passes-12", "mean").0 > 1e-4, "pairs are not joined");
}

#[test]
fn other_ways_of_tuning_and_other_latents_are_shared_too() {
    let lpc = config("", 1).lpc;
    let cases = [
        ("lora", TrainConfig { tune: Tune::Lora, ..config("", 1) }),
        ("head", TrainConfig { tune: Tune::Head, ..config("", 1) }),
        (
            "exact",
            TrainConfig {
                lpc: LpcConfig { exact: true, inference: Inference::Amortised, ..lpc.clone() },
                ..config("", 1)
            },
        ),
        (
            "gaussian",
            TrainConfig { lpc: LpcConfig { latent: LatentKind::Gaussian, ..LpcConfig::default() }, ..config("", 1) },
        ),
        ("drdpo", TrainConfig { objective: named(ObjectiveKind::Drdpo), ..config("", 1) }),
        ("repo", TrainConfig { objective: named(ObjectiveKind::Repo), ..config("", 1) }),
        ("composed", TrainConfig { kernels: Kernels::Composed, ..config("", 1) }),
        ("recompute", TrainConfig { recompute: true, ..config("", 1) }),
    ];
    for (name, case) in cases {
        let of = |out: &str, ranks: usize| {
            let TrainConfig { out, batch, .. } = config(&format!("{out}-{name}"), ranks);
            TrainConfig { out, batch, max_steps: 5, ..case.clone() }
        };
        finished(train::run(&of("alone", 1), SEED, false, &Silent));
        for ended in together(2, |ranks| train::run_among(&of("both", 2), SEED, false, &Silent, ranks)) {
            finished(ended);
        }
        let (losses, worst) = difference(&format!("alone-{name}"), &format!("both-{name}"));
        assert!(losses < 1e-6 && worst < 1e-5, "{name}: losses {losses:e}, metrics {worst:e}");
    }
}

/// Asks for a stop at the end of some step.
struct StopAfter(AtomicUsize);

impl Progress for StopAfter {
    fn interrupted(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

#[test]
fn one_interrupted_rank_stops_all_and_all_go_on() {
    let run = |resume: bool, progress: &(dyn Fn(usize) -> Box<dyn Progress> + Sync)| {
        together(2, |ranks| train::run_among(&config("stopped", 2), SEED, resume, &*progress(ranks.rank()), ranks))
    };
    // Only the second rank is interrupted, after its third step.
    let ended = run(false, &|rank| if rank == 1 { Box::new(StopAfter(AtomicUsize::new(3))) } else { Box::new(Silent) });
    for ended in ended {
        assert!(matches!(ended, Ok(Ended::Interrupted { step: 3, .. })), "{ended:?}");
    }
    for ended in run(true, &|_| Box::new(Silent)) {
        finished(ended);
    }
    for ended in together(2, |ranks| train::run_among(&config("straight", 2), SEED, false, &Silent, ranks)) {
        finished(ended);
    }
    let files = ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet"];
    for file in files {
        let [a, b] = ["stopped", "straight"].map(|run| std::fs::read(place(run).join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
    // One process with their batches together is the same run, and finds it finished.
    let alone = TrainConfig { out: place("stopped").display().to_string(), ..config("stopped", 1) };
    assert!(matches!(train::run(&alone, SEED, true, &Silent), Ok(Ended::Already(_))));
}

#[test]
fn a_fault_at_one_rank_is_everybody_s() {
    let said = |ended: Vec<lpc_pipe::Result<Ended>>| -> Vec<(u8, String)> {
        ended.into_iter().map(|e| e.map(|_| ()).unwrap_err()).map(|e| (e.exit_code(), e.to_string())).collect()
    };
    // The third rank has no data: exit code 3 for all.
    let ended = together(3, |ranks| {
        let mut config = config("faulty", 3);
        if ranks.rank() == 2 {
            config.data = place("nowhere").display().to_string();
        }
        train::run_among(&config, SEED, false, &Silent, ranks)
    });
    for (rank, (code, text)) in said(ended).into_iter().enumerate() {
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("nowhere") && (rank == 2 || text.starts_with("rank 2: ")), "{text}");
    }
    assert!(!Path::new(&config("faulty", 3).out).exists());
    // Other settings at one rank are named.
    let ended = together(2, |ranks| {
        let lr = if ranks.rank() == 1 { 2e-3 } else { 1e-3 };
        train::run_among(&TrainConfig { lr, ..config("faulty", 2) }, SEED, false, &Silent, ranks)
    });
    for (code, text) in said(ended) {
        assert_eq!((code, text.as_str()), (1, "rank 1 has another configuration, data or model than rank 0"));
    }
    // A loss that explodes at any rank stops all, with the ids of the batch.
    let ended = together(2, |ranks| {
        let config = TrainConfig { lr: 1e30, clip: 0.0, warmup: 0.0, ..config("exploded", 2) };
        train::run_among(&config, SEED, false, &Silent, ranks)
    });
    for (code, text) in said(ended) {
        assert!(code == 1 && text.contains("with ids"), "{code} {text}");
    }
    let ended = apart(2, |ranks| {
        let lpc = LpcConfig { warmup: 0.0, ..config("", 2).lpc };
        let config = TrainConfig { lr: 1e30, clip: 0.0, warmup: 0.0, lpc, ..config("far", 2) };
        train::run_among(&config, SEED, false, &Silent, ranks)
    });
    for (code, text) in said(ended) {
        assert!(code == 1 && text.contains("with ids"), "{code} {text}");
    }
}
