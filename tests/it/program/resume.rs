//! A stopped run ends with the same bits as one that was not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use lpc_pipe::batch::read_splits;
use lpc_pipe::error::Error;
use lpc_pipe::lpc::{LatentKind, LpcConfig};
use lpc_pipe::objective::{MixFlip, ObjectiveConfig, ObjectiveKind};
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended, RunSummary};
use lpc_pipe::progress::{Progress, Silent};
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::train::TrainConfig;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::files_below;

/// Pairs of one step: two passes of four. The last step of an epoch has fewer.
const PER_STEP: usize = 8;

/// What a straight run writes that does not tell of time: every byte of it must come again.
const FILES: [&str; 4] =
    ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet", "codes.parquet"];

/// A prepared folder, made once, and a straight run over it.
struct Ground {
    dir: TempDir,
    steps: usize,
    per_epoch: usize,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let corpus = SynthConfig { rows: 70, out: place("corpus"), ..SynthConfig::default() };
    synth::write(&corpus, Seed(1), &Silent).unwrap();
    let config = PrepareConfig {
        input: vec![dir.path().join("corpus").join(synth::CORPUS).display().to_string()],
        out: place("prepared"),
        ..PrepareConfig::default()
    };
    prepare::run(&config, Seed(1), &Silent).unwrap();
    let other = SynthConfig { out: place("corpus-2"), ..corpus };
    synth::write(&other, Seed(2), &Silent).unwrap();
    let other = PrepareConfig {
        input: vec![dir.path().join("corpus-2").join(synth::CORPUS).display().to_string()],
        out: place("prepared-2"),
        ..config
    };
    prepare::run(&other, Seed(2), &Silent).unwrap();
    let pairs = read_splits(&dir.path().join("prepared")).unwrap()[0].rows.len();
    assert!(
        !pairs.is_multiple_of(PER_STEP) && pairs > 4 * PER_STEP,
        "{pairs} pairs: the last batch should be a short one"
    );
    let per_epoch = pairs.div_ceil(PER_STEP);
    let ground = Ground { steps: 2 * per_epoch, per_epoch, dir };
    let ended = run(&ground.config("straight"), &Silent).unwrap();
    assert!(matches!(ended, Ended::Finished(_)));
    ground
});

impl Ground {
    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, out: &str) -> TrainConfig {
        TrainConfig {
            data: self.place("prepared").display().to_string(),
            model: "tiny:32x1".into(),
            out: self.place(out).display().to_string(),
            batch: PER_STEP / 2,
            accumulate: 2,
            epochs: 1.0,
            lr: 2e-3,
            weight_decay: 0.01,
            // Stops fall into the warm-up and behind it.
            lpc: LpcConfig { codes: 4, warmup: 1.0, ..LpcConfig::default() },
            ..TrainConfig::default()
        }
    }

    /// Asserts that a run folder ends where the straight run does.
    #[track_caller]
    fn same(&self, out: &str) {
        for file in FILES {
            let [wanted, got] = ["straight", out].map(|run| std::fs::read(self.place(run).join(file)).unwrap());
            assert!(!wanted.is_empty() && wanted == got, "{out}: {file} differs");
        }
        assert_eq!(losses(&self.place(out)), losses(&self.place("straight")), "{out}: metrics differ");
        let [wanted, got] = ["straight", out].map(|run| summary(&self.place(run)));
        for key in ["eval_accuracy", "eval_margin", "steps", "kl", "code_perplexity", "n_train", "by_source"] {
            assert_eq!(wanted[key], got[key], "{out}: {key}");
        }
    }
}

const SEED: Seed = Seed(7);

fn run(config: &TrainConfig, progress: &dyn Progress) -> lpc_pipe::Result<Ended> {
    train::run(config, SEED, false, progress)
}

fn resume(config: &TrainConfig, progress: &dyn Progress) -> lpc_pipe::Result<Ended> {
    train::run(config, SEED, true, progress)
}

#[track_caller]
fn finished(ended: lpc_pipe::Result<Ended>) -> RunSummary {
    match ended {
        Ok(Ended::Finished(summary)) => *summary,
        other => panic!("expected a finished run, got {other:?}"),
    }
}

#[track_caller]
fn interrupted(ended: lpc_pipe::Result<Ended>) -> usize {
    match ended {
        Ok(Ended::Interrupted { step, .. }) => step,
        other => panic!("expected an interrupted run, got {other:?}"),
    }
}

fn summary(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("summary.json")).unwrap()).unwrap()
}

/// Every training step's line without what tells of time and machine: each step must stand there once, in order.
#[track_caller]
fn losses(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut steps: Vec<Value> = lines.into_iter().filter(|line| line.get("loss").is_some()).collect();
    for (i, line) in steps.iter_mut().enumerate() {
        assert_eq!(line["step"].as_u64().unwrap(), i as u64 + 1);
        line.as_object_mut().unwrap().retain(|key, _| !key.starts_with("perf/"));
        assert!(line["loss"].is_f64() && line["grad_norm"].is_f64() && line["lpc/kl"].is_f64());
    }
    steps
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(folder.join("checkpoints")) else { return Vec::new() };
    let mut names: Vec<String> = found.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Asks for a stop after so many steps, and keeps notes and warnings.
struct StopAfter {
    steps: usize,
    training: AtomicBool,
    taken: AtomicUsize,
    lines: Mutex<Vec<String>>,
}

impl StopAfter {
    fn new(steps: usize) -> StopAfter {
        StopAfter { steps, training: AtomicBool::new(false), taken: AtomicUsize::new(0), lines: Mutex::new(Vec::new()) }
    }

    fn heard(&self, part: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(part))
    }
}

impl Progress for StopAfter {
    fn begin(&self, step: &str, _: Option<u64>) {
        self.training.store(step == "training", Ordering::Relaxed);
    }
    fn advance(&self, n: u64) {
        if self.training.load(Ordering::Relaxed) {
            self.taken.fetch_add(n as usize, Ordering::Relaxed);
        }
    }
    fn note(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_string());
    }
    fn warn(&self, line: &str) {
        self.lines.lock().unwrap().push(format!("warning: {line}"));
    }
    fn interrupted(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.steps
    }
}

/// Says nothing and never stops, but remembers.
fn listener() -> StopAfter {
    StopAfter::new(usize::MAX)
}

#[test]
fn two_straight_runs_are_the_same_and_another_seed_is_not() {
    let ground = &*GROUND;
    finished(run(&ground.config("again"), &Silent));
    ground.same("again");
    let other = finished(train::run(&ground.config("seed-8"), Seed(8), false, &Silent));
    assert_eq!(other.steps as usize, ground.steps);
    for file in FILES {
        let [a, b] = ["straight", "seed-8"].map(|run| std::fs::read(ground.place(run).join(file)).unwrap());
        assert!(a != b, "{file} does not depend on the seed");
    }
    // A run that learned nothing would pass all of this.
    let first = losses(&ground.place("straight"));
    assert_eq!(first.len(), ground.steps);
    assert!((first[0]["loss"].as_f64().unwrap() - first[ground.steps - 1]["loss"].as_f64().unwrap()).abs() > 1e-3);
}

#[test]
fn threads_do_not_matter() {
    let ground = &*GROUND;
    for threads in [1, 3] {
        let out = format!("threads-{threads}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        finished(pool.install(|| run(&ground.config(&out), &Silent)));
        ground.same(&out);
    }
}

#[test]
fn stopped_by_a_limit_and_resumed() {
    let ground = &*GROUND;
    // The first step, the end of the first epoch, and within the second.
    for limit in [1, ground.per_epoch, ground.per_epoch + 3, ground.steps - 1] {
        let out = format!("limit-{limit}");
        let limited = TrainConfig { max_steps: limit, keep_optimizer_state: true, ..ground.config(&out) };
        assert_eq!(finished(run(&limited, &Silent)).steps as usize, limit);
        assert_eq!(losses(&ground.place(&out)).len(), limit);
        // The same limit again finds nothing to do; a higher one goes on.
        assert!(matches!(resume(&limited, &Silent), Ok(Ended::Already(_))));
        let listener = listener();
        finished(resume(&ground.config(&out), &listener));
        assert!(listener.heard(&format!("resuming after step {limit}")));
        assert_eq!(listener.taken.load(Ordering::Relaxed), ground.steps - limit);
        ground.same(&out);
    }
}

#[test]
fn every_latent_resumes() {
    let ground = &*GROUND;
    let learned =
        ObjectiveConfig { name: ObjectiveKind::Mix, mix_flip: MixFlip::Learned, ..ObjectiveConfig::default() };
    let fixed = ObjectiveConfig { mix_flip: MixFlip::Fixed, ..learned.clone() };
    let dpo = ObjectiveConfig::default();
    let named = |name| ObjectiveConfig { name, ..ObjectiveConfig::default() };
    use LatentKind as L;
    for (latent, objective) in [
        (L::None, learned),
        (L::LpcReliable, fixed),
        (L::Gaussian, dpo.clone()),
        (L::Mlp, dpo.clone()),
        (L::Bias, dpo),
        (L::None, named(ObjectiveKind::Repo)),
        (L::Lpc, named(ObjectiveKind::Repo)),
        (L::Lpc, named(ObjectiveKind::Drdpo)),
    ] {
        let lpc = LpcConfig { latent, ..LpcConfig::default() };
        let config = |out: &str| TrainConfig {
            out: ground.place(&format!("{out}-{}-{:?}", latent.name(), objective.name)).display().to_string(),
            epochs: 1.0,
            objective: objective.clone(),
            lpc: lpc.clone(),
            ..ground.config("")
        };
        let (straight, stopped) = (config("whole"), config("stopped"));
        let wanted = finished(run(&straight, &Silent));
        assert_eq!(interrupted(run(&stopped, &StopAfter::new(2))), 2);
        let got = finished(resume(&stopped, &Silent));
        for file in ["model/model.safetensors", "model/lpc_model.safetensors", "posteriors.parquet", "codes.parquet"] {
            let [a, b] = [&straight, &stopped].map(|c| std::fs::read(Path::new(&c.out).join(file)).ok());
            assert!(a == b, "{latent:?}: {file} differs");
            assert_eq!(a.is_none(), latent == L::None && file.contains("lpc_model"), "{latent:?}: {file}");
        }
        assert_eq!((wanted.eval_margin, wanted.mix_flip_rate), (got.eval_margin, got.mix_flip_rate), "{latent:?}");
        assert_eq!(wanted.repo_clean_rate, got.repo_clean_rate, "{latent:?}");
        assert_eq!(wanted.repo_clean_rate.is_some(), objective.name == ObjectiveKind::Repo);
        assert!(wanted.repo_clean_rate.is_none_or(|h| (h - 0.9).abs() > 1e-6), "{latent:?}: the clean rate stays");
        assert!(wanted.mix_flip_rate.is_none_or(|e| (e - 0.1).abs() > 1e-6), "{latent:?}: nothing was learned");
    }
}

#[test]
fn stopped_by_hand_and_resumed() {
    let ground = &*GROUND;
    for after in [2, ground.per_epoch, ground.per_epoch + 4] {
        let out = format!("hand-{after}");
        let config = ground.config(&out);
        assert_eq!(interrupted(run(&config, &StopAfter::new(after))), after);
        assert!(!ground.place(&out).join("manifest.json").exists());
        assert!(!ground.place(&out).join("summary.json").exists());
        assert_eq!(checkpoints(&ground.place(&out)), [format!("step-{after:06}")]);
        finished(resume(&config, &Silent));
        ground.same(&out);
    }
}

#[test]
fn stopped_again_and_again() {
    let ground = &*GROUND;
    let config = TrainConfig { eval_every: 4, ..ground.config("often") };
    let mut at = interrupted(run(&config, &StopAfter::new(3)));
    while at + 3 < ground.steps {
        // Checkpoints, evaluations and how many are kept are no part of what a run is.
        let config = TrainConfig { checkpoint_every: at, keep_checkpoints: 1 + at % 3, ..config.clone() };
        assert_eq!(interrupted(resume(&config, &StopAfter::new(3))), at + 3);
        at += 3;
    }
    finished(resume(&config, &Silent));
    ground.same("often");
}

#[test]
fn a_run_killed_within_a_line_is_resumed() {
    let ground = &*GROUND;
    let config = TrainConfig { checkpoint_every: 4, ..ground.config("killed") };
    let stop = ground.per_epoch + 3;
    interrupted(run(&config, &StopAfter::new(stop)));
    // As after a loss of power: the last checkpoint never came to be, a half one lies there, the log ends in a line.
    let place = ground.place("killed");
    std::fs::remove_dir_all(place.join(format!("checkpoints/step-{stop:06}"))).unwrap();
    assert!(checkpoints(&place).is_empty(), "one checkpoint is kept by default");
    let metrics = std::fs::read_to_string(place.join("metrics.jsonl")).unwrap();
    std::fs::write(place.join("metrics.jsonl"), &metrics[..metrics.len() - 40]).unwrap();
    std::fs::create_dir_all(place.join("checkpoints/.staged-half")).unwrap();
    std::fs::write(place.join("checkpoints/.staged-half/params.safetensors"), b"half").unwrap();
    let listener = listener();
    finished(resume(&config, &listener));
    assert!(listener.heard("starting from the beginning"));
    ground.same("killed");
}

/// A way to break a checkpoint.
type Damage = fn(&Path);

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let ground = &*GROUND;
    let damages: [(&str, Damage); 5] = [
        ("weights", |p| flip_in(p, "params.safetensors")),
        ("moments", |p| flip_in(p, "optimizer.safetensors")),
        ("cut", |p| {
            let file = p.join("params.safetensors");
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("state", |p| std::fs::write(p.join("state.json"), b"{\"step\": 3").unwrap()),
        ("missing", |p| std::fs::remove_file(p.join("optimizer.safetensors")).unwrap()),
    ];
    let stop = ground.per_epoch + 3;
    let before = ground.per_epoch + 2;
    for (name, damage) in damages {
        let out = format!("damaged-{name}");
        let config = TrainConfig { checkpoint_every: before, keep_checkpoints: 2, ..ground.config(&out) };
        assert_eq!(interrupted(run(&config, &StopAfter::new(stop))), stop);
        let place = ground.place(&out);
        let names = [before, stop].map(|step| format!("step-{step:06}"));
        assert_eq!(checkpoints(&place), names);
        damage(&place.join("checkpoints").join(&names[1]));
        let listener = listener();
        finished(resume(&config, &listener));
        assert!(listener.heard("passed over") && listener.heard(&names[1]), "{name}");
        assert!(listener.heard(&format!("resuming after step {before}")), "{name}");
        ground.same(&out);
    }
    // None is sound: from the beginning.
    let config = ground.config("damaged-all");
    interrupted(run(&config, &StopAfter::new(3)));
    flip_in(&ground.place("damaged-all/checkpoints/step-000003"), "params.safetensors");
    finished(resume(&config, &Silent));
    ground.same("damaged-all");
}

fn flip_in(folder: &Path, file: &str) {
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Settings that make another run of the same folder.
fn others(config: &TrainConfig, ground: &Ground) -> Vec<(&'static str, TrainConfig, Seed)> {
    let objective = |name| ObjectiveConfig { name, ..ObjectiveConfig::default() };
    let beta = ObjectiveConfig { beta: 0.2, ..ObjectiveConfig::default() };
    vec![
        ("seed", config.clone(), Seed(8)),
        ("lr", TrainConfig { lr: 1e-3, ..config.clone() }, SEED),
        ("epochs", TrainConfig { epochs: 3.0, ..config.clone() }, SEED),
        ("batch", TrainConfig { batch: 8, accumulate: 1, ..config.clone() }, SEED),
        ("beta", TrainConfig { objective: beta, ..config.clone() }, SEED),
        ("objective", TrainConfig { objective: objective(ObjectiveKind::Ipo), ..config.clone() }, SEED),
        ("codes", TrainConfig { lpc: LpcConfig { codes: 8, ..config.lpc.clone() }, ..config.clone() }, SEED),
        (
            "latent",
            TrainConfig { lpc: LpcConfig { latent: LatentKind::None, ..LpcConfig::default() }, ..config.clone() },
            SEED,
        ),
        ("model", TrainConfig { model: "tiny:32x2".into(), ..config.clone() }, SEED),
        ("data", TrainConfig { data: ground.place("prepared-2").display().to_string(), ..config.clone() }, SEED),
    ]
}

#[test]
fn another_run_is_refused() {
    let ground = &*GROUND;
    let half = ground.config("half");
    interrupted(run(&half, &StopAfter::new(2)));
    let whole = ground.config("whole");
    finished(run(&whole, &Silent));
    for config in [&half, &whole] {
        for (what, other, seed) in others(config, ground) {
            match train::run(&other, seed, true, &Silent) {
                Err(Error::Artifact { message, .. }) => assert!(message.contains("another run"), "{what}: {message}"),
                other => panic!("{what}: expected a refusal, got {other:?}"),
            }
        }
    }
    // Being asked changed nothing.
    finished(resume(&half, &Silent));
    ground.same("half");
    ground.same("whole");
}

/// The starting model is also the reference: a checkpoint must not go on from other weights at the same place.
#[test]
fn other_weights_under_the_same_name_are_refused() {
    let ground = &*GROUND;
    let base = ground.place("base");
    let copy = |from: &str| {
        let from = ground.place(from).join("model");
        std::fs::create_dir_all(&base).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(name), base.join(name)).unwrap();
        }
    };
    finished(train::run(&ground.config("base-8"), Seed(8), false, &Silent));
    copy("straight");
    let config = TrainConfig { model: base.display().to_string(), ..ground.config("rebased") };
    interrupted(run(&config, &StopAfter::new(2)));
    copy("base-8");
    assert!(matches!(resume(&config, &Silent), Err(Error::Artifact { .. })));
    copy("straight");
    finished(resume(&config, &Silent));
}

#[test]
fn a_finished_run_is_taken_or_refused() {
    let ground = &*GROUND;
    let config = ground.config("done");
    let first = finished(run(&config, &Silent));
    let bytes = |file: &str| std::fs::read(ground.place("done").join(file)).unwrap();
    let before: Vec<Vec<u8>> = ["metrics.jsonl", "summary.json", "manifest.json"].map(bytes).to_vec();
    match run(&config, &Silent) {
        Err(Error::Artifact { message, hint, .. }) => {
            assert!(message.contains("finished run"), "{message}");
            assert!(hint.is_some());
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    match resume(&config, &Silent) {
        Ok(Ended::Already(summary)) => assert_eq!(*summary, first),
        other => panic!("expected the finished run, got {other:?}"),
    }
    assert_eq!(["metrics.jsonl", "summary.json", "manifest.json"].map(bytes).to_vec(), before);
    ground.same("done");
}

/// Nobody asked for the steps that were taken to be lost.
#[test]
fn without_resume_a_stopped_run_is_refused() {
    let ground = &*GROUND;
    let config = ground.config("refused");
    interrupted(run(&config, &StopAfter::new(5)));
    let place = ground.place("refused");
    let before: Vec<_> = files_below(&place).into_iter().map(|f| (std::fs::read(place.join(&f)).unwrap(), f)).collect();
    // Another run is no reason to remove it either.
    for config in [&config, &TrainConfig { lr: 1e-3, ..config.clone() }] {
        match run(config, &Silent) {
            Err(Error::Artifact { message, hint, .. }) => {
                assert_eq!(message, "holds a stopped run (step 5)");
                assert!(hint.is_some_and(|hint| hint.contains("--resume goes on with it")));
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    let after: Vec<_> = files_below(&place).into_iter().map(|f| (std::fs::read(place.join(&f)).unwrap(), f)).collect();
    assert!(before == after, "the refusal changed the folder");
    finished(resume(&config, &Silent));
    ground.same("refused");
}
