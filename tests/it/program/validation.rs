//! Validation on held-out training prompts: which parameters a run keeps, and when it ends early.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use lpc_pipe::lpc::{LatentKind, LpcConfig};
use lpc_pipe::objective::{ObjectiveConfig, ObjectiveKind};
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended, RunSummary};
use lpc_pipe::progress::{Progress, Silent};
use lpc_pipe::schema::col;
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::train::ranks::threads::together;
use lpc_pipe::train::{TrainConfig, Tune, ValidationConfig, ValidationMetric};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Sandbox, StopsAfter, flags, numbers, texts};

const SEED: Seed = Seed(7);

/// A prepared folder with flipped labels.
static PREPARED: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let corpus = SynthConfig { rows: 120, out: place("corpus"), ..SynthConfig::default() };
    synth::write(&corpus, Seed(1), &Silent).unwrap();
    let mut config = PrepareConfig {
        input: vec![dir.path().join("corpus").join(synth::CORPUS).display().to_string()],
        out: place("prepared"),
        ..PrepareConfig::default()
    };
    config.noise.flip_rate = 0.3;
    prepare::run(&config, Seed(1), &Silent).unwrap();
    dir
});

fn place(name: &str) -> PathBuf {
    PREPARED.path().join(name)
}

/// A run that gets worse after its first steps.
fn config(out: &str) -> TrainConfig {
    TrainConfig {
        data: place("prepared").display().to_string(),
        model: "tiny:32x1".into(),
        out: place(out).display().to_string(),
        batch: 16,
        epochs: 4.0,
        lr: 1e-2,
        lpc: LpcConfig { codes: 4, warmup: 2.0, ..LpcConfig::default() },
        validation: ValidationConfig { fraction: 0.3, every: 2, ..ValidationConfig::default() },
        ..TrainConfig::default()
    }
}

#[track_caller]
fn finished(config: &TrainConfig, resume: bool) -> RunSummary {
    match train::run(config, SEED, resume, &Silent) {
        Ok(Ended::Finished(summary)) => *summary,
        other => panic!("expected a finished run, got {other:?}"),
    }
}

#[track_caller]
fn stopped(config: &TrainConfig, resume: bool, progress: &dyn Progress) {
    match train::run(config, SEED, resume, progress) {
        Ok(Ended::Interrupted { .. }) => {}
        other => panic!("expected an interrupted run, got {other:?}"),
    }
}

/// Step, accuracy and loss of every validation that was logged.
fn validations(out: &str) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(place(out).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter_map(|line| {
            let accuracy = line.get("validation_rewards/accuracies")?.as_f64()?;
            Some((line["step"].as_u64()?, accuracy, line["validation_loss"].as_f64()?))
        })
        .collect()
}

#[track_caller]
fn same(a: &str, b: &str) {
    for file in ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet", "codes.parquet"] {
        let [a, b] = [a, b].map(|run| std::fs::read(place(run).join(file)).unwrap());
        assert!(!a.is_empty() && a == b, "{file} differs");
    }
}

#[test]
fn the_parameters_that_do_best_are_kept() {
    let summary = finished(&config("whole"), false);
    let found = validations("whole");
    let steps: Vec<u64> = found.iter().map(|(step, ..)| *step).collect();
    let all = summary.steps;
    assert!(steps.iter().all(|step| step % 2 == 0 || *step == all) && steps.len() as u64 >= all / 2, "{steps:?}");
    let order =
        |a: &&(u64, f64, f64), b: &&(u64, f64, f64)| a.1.total_cmp(&b.1).then(b.2.total_cmp(&a.2)).then(b.0.cmp(&a.0));
    let (best, accuracy, _) = *found.iter().max_by(order).unwrap();
    assert_eq!((summary.best_step, summary.validation_accuracy), (Some(best), Some(accuracy)));
    assert!(best < all, "a run whose last step is best shows nothing");
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "each validation is logged once");

    // Validation by hand, from the table of the parameters that were kept: labels as they are observed, flips included.
    let table = Sandbox::new().parquet(&place("whole/posteriors.parquet").display().to_string());
    let (splits, margins, flipped) =
        (texts(&table, col::SPLIT), numbers(&table, col::MARGIN), flags(&table, col::FLIPPED));
    let prompts = texts(&table, col::PROMPT_ID);
    let of = |split: &str| -> Vec<usize> { (0..splits.len()).filter(|&i| splits[i] == split).collect() };
    let (train, validation) = (of("train"), of("validation"));
    assert_eq!((train.len() as u64, Some(validation.len() as u64)), (summary.n_train, summary.n_validation));
    assert!(validation.iter().any(|&i| flipped[i]) && of("test").len() as u64 == summary.n_eval);
    let right = validation.iter().filter(|&&i| margins[i] > 0.0).count() as f64 / validation.len() as f64;
    assert!((right - accuracy).abs() < 1e-12, "{right} and {accuracy}");
    let of_prompts = |rows: &[usize]| -> BTreeSet<&str> { rows.iter().map(|&i| prompts[i].as_str()).collect() };
    assert!(of_prompts(&train).is_disjoint(&of_prompts(&validation)));

    // They are those of a run that ends there.
    let limited = TrainConfig { max_steps: best as usize, ..config("limited") };
    assert_eq!(finished(&limited, false).best_step, Some(best));
    same("whole", "limited");

    // By the loss, another one or the same: the smallest that was logged.
    let by_loss = ValidationConfig { metric: ValidationMetric::Loss, ..config("").validation };
    let summary = finished(&TrainConfig { validation: by_loss, ..config("by-loss") }, false);
    let least = validations("by-loss").into_iter().min_by(|a, b| a.2.total_cmp(&b.2)).unwrap();
    assert_eq!(summary.best_step, Some(least.0));
}

#[test]
fn a_stopped_run_keeps_the_same_parameters() {
    let straight = finished(&config("straight"), false);
    let best = straight.best_step.unwrap() as usize;
    // Before the best step, on it, and after it; and by a limit, at which a validation is due that the run else has not.
    for (name, most) in [("before", best - 1), ("on", best), ("after", best + 3)] {
        let config = TrainConfig { checkpoint_every: 3, keep_checkpoints: 2, ..config(name) };
        // References and steps both count as work.
        let progress = StopsInTraining(StopsAfter::new(most as u64), false.into());
        stopped(&config, false, &progress);
        // As after a loss of power: the last checkpoint was never written.
        if name == "after" {
            let newest = place(name).join(format!("checkpoints/step-{most:06}"));
            std::fs::remove_dir_all(newest).unwrap();
        }
        assert_eq!(finished(&config, true).best_step, straight.best_step, "{name}");
        same("straight", name);
        assert_eq!(validations("straight"), validations(name), "{name}");
    }
    let limited = TrainConfig { max_steps: best + 3, keep_optimizer_state: true, ..config("by-limit") };
    let short = finished(&limited, false);
    assert_eq!(validations("by-limit").last().unwrap().0 as usize, best + 3);
    assert!(short.best_step <= straight.best_step);
    finished(&TrainConfig { max_steps: 0, ..limited }, true);
    same("straight", "by-limit");
}

#[test]
fn two_ranks_keep_the_same_step() {
    let one = TrainConfig { batch: 16, ..config("one") };
    let both = TrainConfig { batch: 8, ..config("both") };
    let wanted = finished(&one, false);
    for ended in together(2, |ranks| train::run_among(&both, SEED, false, &Silent, ranks)) {
        match ended {
            Ok(Ended::Finished(found)) => assert_eq!(found.best_step, wanted.best_step),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn patience_ends_the_warm_up_and_the_run() {
    // Wrong labels cannot be learned for other prompts, so that the codes soon get no better.
    let patient = |out: &str, patience| {
        let mut config = config(out);
        config.lpc.warmup = 12.0;
        config.epochs = 12.0;
        config.lr = 2e-3;
        config.validation = ValidationConfig { every: 0, patience, ..config.validation };
        config
    };
    let whole = finished(&patient("patience-0", 0), false);
    let short = finished(&patient("patience-2", 2), false);
    assert!(short.steps <= whole.steps);
    let found = validations("patience-2");
    let per_epoch = whole.steps / 24;
    let warm = 12 * per_epoch;
    let (warming, training): (Vec<_>, Vec<_>) = found.iter().copied().partition(|(step, ..)| *step <= warm);
    assert!(warming.last().unwrap().0 < warm, "the warm-up ended early: {warming:?}");
    // What follows begins where the warm-up would have ended, and is numbered on from there.
    assert_eq!(training[0].0, warm + per_epoch);
    assert!(short.steps < whole.steps, "the run ended early: {training:?}");
    assert_eq!(short.steps, training.last().unwrap().0);
    for phase in [&warming, &training] {
        // The last two are no better than the best before them, and none before was such.
        let better = |a: &(u64, f64, f64), b: &(u64, f64, f64)| a.1 > b.1 || (a.1 == b.1 && a.2 < b.2);
        let (mut best, mut since) = (phase[0], 0);
        for (i, found) in phase.iter().enumerate().skip(1) {
            (best, since) = if better(found, &best) { (*found, 0) } else { (best, since + 1) };
            assert_eq!(since == 2, i + 1 == phase.len(), "{phase:?}");
        }
    }
    // A limit among the steps that the warm-up's early end passes over: with a higher one it comes to the same.
    let limited = patient("limited-warm", 2);
    let limit = warming.last().unwrap().0 as usize + 2;
    let limited = TrainConfig { max_steps: limit, keep_optimizer_state: true, ..limited };
    assert_eq!(finished(&limited, false).steps as usize, limit);
    assert_eq!(finished(&TrainConfig { max_steps: 0, ..limited }, true).best_step, short.best_step);
    same("patience-2", "limited-warm");
    // Stopped in the early end of the warm-up and behind it, it comes to the same.
    for (out, most) in [("stopped-warm", warming.last().unwrap().0), ("stopped-later", warm + per_epoch + 1)] {
        let config = patient(out, 2);
        stopped(&config, false, &StopsInTraining(StopsAfter::new(most), false.into()));
        assert_eq!(finished(&config, true).best_step, short.best_step, "{out}");
        same("patience-2", out);
    }
}

#[test]
fn folds_latents_and_kept_states_take_it_too() {
    let latent = TrainConfig { tune: Tune::Latent, ..config("latent") };
    let latent = TrainConfig { lpc: LpcConfig { codes: 4, ..LpcConfig::default() }, ..latent };
    assert!(finished(&latent, false).best_step.is_some());
    // What an objective learns beside the policy is that of the step that is kept.
    let repo = |out: &str, max_steps: usize| {
        let objective = ObjectiveConfig { name: ObjectiveKind::Repo, ..ObjectiveConfig::default() };
        finished(&TrainConfig { objective, max_steps, ..config(out) }, false)
    };
    let whole = repo("repo", 0);
    let best = whole.best_step.unwrap();
    assert!(best < whole.steps);
    assert_eq!(repo("repo-limited", best as usize).repo_clean_rate, whole.repo_clean_rate);
    same("repo", "repo-limited");
    let none = LpcConfig { latent: LatentKind::None, ..LpcConfig::default() };
    let plain = TrainConfig { lpc: none, fold: "1/3".into(), ..config("fold") };
    let summary = finished(&plain, false);
    let table = Sandbox::new().parquet(&place("fold/posteriors.parquet").display().to_string());
    let splits = texts(&table, col::SPLIT);
    let count = |split: &str| splits.iter().filter(|s| *s == split).count() as u64;
    assert_eq!((count("train"), Some(count("validation"))), (summary.n_train, summary.n_validation));
    assert!(count("test") == summary.n_eval && count("test") > 0);
}

#[test]
fn what_it_says_and_what_it_refuses() {
    let sandbox = Sandbox::new();
    let data = place("prepared").display().to_string();
    let line = format!("train --data {data} --model tiny:32x1 --codes 3 --seed 4 --batch 16");
    let dry = sandbox.ok(&format!("{line} --out run --validation 0.3 --dry-run --json")).json();
    let run = sandbox.ok(&format!("{line} --out run --validation 0.3"));
    assert!(run.stderr.contains("kept the parameters after step "), "{}", run.stderr);
    assert!(run.stderr.contains("warning: validation has "), "{}", run.stderr);
    let summary = sandbox.json("run/summary.json");
    assert_eq!(
        (&summary["n_train"], &summary["n_validation"], &summary["n_eval"]),
        (&dry["pairs"], &dry["pairs_validation"], &dry["pairs_test"])
    );
    let page = sandbox.ok("report run");
    assert!(page.stdout.contains("run/report.html"), "{}", page.stdout);
    assert!(sandbox.text("run/report.html").contains("best in validation: "));
    for (more, why) in [
        ("--validation 1", "train.validation.fraction: expected 0 to below 1, got 1"),
        ("--validation 0.00001", "train.validation.fraction: holds no pair out"),
        ("--set train.validation.patience=2", "train.validation.patience: has no effect without"),
        ("--validation 0.3 --set train.validation.patience=2 --set train.dynamics=true", "train.dynamics: "),
    ] {
        let refused = sandbox.ends(2, &format!("{line} --out other {more}"));
        assert!(refused.stderr.contains(why), "{more}: {}", refused.stderr);
        assert!(!sandbox.exists("other"), "{more}");
    }
    // A run with validation is not one without.
    let other = sandbox.ends(3, &format!("{line} --out run --resume"));
    assert!(
        other.stderr.contains("train.validation.fraction (--validation): 0.3 before, not set now"),
        "{}",
        other.stderr
    );
}

/// [`StopsAfter`] so many steps, whatever was done before the first one.
struct StopsInTraining(StopsAfter, std::sync::atomic::AtomicBool);

impl Progress for StopsInTraining {
    fn begin(&self, step: &str, _: Option<u64>) {
        self.1.store(step == "training", std::sync::atomic::Ordering::Relaxed);
    }
    fn advance(&self, n: u64) {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            self.0.advance(n);
        }
    }
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}
