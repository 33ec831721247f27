//! What is computed before the first step and behind the last one: no more than is needed, and nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use lpc_pipe::lpc::{LatentKind, LpcConfig};
use lpc_pipe::pipeline::train::{self, Ended};
use lpc_pipe::progress::Progress;
use lpc_pipe::seed::Seed;
use lpc_pipe::train::{Posteriors, TrainConfig, Tune};

use crate::support::{Sandbox, numbers, texts};

const REFERENCE: &str = "reference log-probabilities";
const OTHERS: &str = "reference of the other pairs";
const STATES: &str = "hidden states";
const KNOWN_LOGITS: &str = "logits of the tokens without codes";
const EXAMINED: &str = "posteriors";

/// Counts what every step did, keeps what was said, and asks for a stop once a step has done so much.
#[derive(Default)]
struct Watch {
    stop: Option<(&'static str, u64)>,
    seen: Mutex<(String, BTreeMap<String, u64>, Vec<String>)>,
}

impl Watch {
    fn stopping(step: &'static str, after: u64) -> Watch {
        Watch { stop: Some((step, after)), ..Watch::default() }
    }

    fn done(&self, step: &str) -> u64 {
        self.seen.lock().unwrap().1.get(step).copied().unwrap_or(0)
    }

    #[track_caller]
    fn heard(&self, part: &str) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.2.iter().any(|line| line.contains(part)), "{part}: {:?}", seen.2);
    }
}

impl Progress for Watch {
    fn begin(&self, step: &str, _: Option<u64>) {
        self.seen.lock().unwrap().0 = step.to_string();
    }
    fn advance(&self, n: u64) {
        let mut seen = self.seen.lock().unwrap();
        let step = seen.0.clone();
        *seen.1.entry(step).or_default() += n;
    }
    fn note(&self, line: &str) {
        self.seen.lock().unwrap().2.push(line.to_string());
    }
    fn warn(&self, line: &str) {
        self.note(line);
    }
    fn interrupted(&self) -> bool {
        self.stop.is_some_and(|(step, after)| self.done(step) >= after)
    }
}

/// A prepared folder and copies of it, which share no cache.
fn ground(copies: &[&str]) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.prepared(80);
    for copy in copies {
        for file in sandbox.files("data") {
            sandbox.write(&format!("{copy}/{file}"), sandbox.bytes(&format!("data/{file}")));
        }
    }
    sandbox
}

fn config(sandbox: &Sandbox, data: &str, out: &str) -> TrainConfig {
    let place = |name: &str| sandbox.path(name).display().to_string();
    TrainConfig {
        data: place(data),
        model: "tiny:32x1".into(),
        out: place(out),
        lr: 1e-3,
        lpc: LpcConfig { latent: LatentKind::None, ..LpcConfig::default() },
        ..TrainConfig::default()
    }
}

fn run(config: &TrainConfig, watch: &Watch) -> Ended {
    train::run(config, Seed(3), false, watch).unwrap()
}

fn resume(config: &TrainConfig, watch: &Watch) -> Ended {
    train::run(config, Seed(3), true, watch).unwrap()
}

#[track_caller]
fn finished(ended: Ended) {
    assert!(matches!(ended, Ended::Finished(_)), "{ended:?}");
}

#[track_caller]
fn stopped(ended: Ended) -> (usize, String) {
    match ended {
        Ended::Interrupted { step, what, .. } => (step, what),
        other => panic!("expected a stop, got {other:?}"),
    }
}

#[track_caller]
fn same(sandbox: &Sandbox, a: &str, b: &str, files: &[&str]) {
    for file in files {
        let [a, b] = [a, b].map(|run| sandbox.bytes(&format!("{run}/{file}")));
        assert!(a == b, "{file} differs");
    }
}

const MODEL: &str = "model/model.safetensors";
const POSTERIORS: &str = "posteriors.parquet";

#[test]
fn stopped_posteriors_are_gone_on_with() {
    let sandbox = Sandbox::new();
    sandbox.prepared(2200);
    // Some 1,650 training pairs are four parts, and 550 test pairs two.
    let config = |out: &str| TrainConfig {
        max_steps: 2,
        model: "tiny:16x1".into(),
        lpc: LpcConfig { codes: 3, warmup: 0.0, ..LpcConfig::default() },
        ..self::config(&sandbox, "data", out)
    };
    let straight = Watch::default();
    finished(run(&config("straight"), &straight));
    let all = straight.done(EXAMINED);
    assert_eq!(all, 2200);
    let (mut known, mut again) = (0, run(&config("stopped"), &Watch::stopping(EXAMINED, 1)));
    for _ in 0..2 {
        let (step, what) = stopped(again);
        known += 512;
        let told = format!("the posteriors of {known} of {all} pairs are kept");
        assert!(step == 2 && what.ends_with(&told), "{what}");
        assert!(!sandbox.exists("stopped/manifest.json"));
        let watch = Watch::stopping(EXAMINED, 1);
        again = resume(&config("stopped"), &watch);
        watch.heard(&format!("{known} of {all} pairs are kept from before"));
    }
    stopped(again);
    known += 512;
    // A damaged part is no more than a missing one.
    sandbox.write("stopped/checkpoints/examined/train-000000000.parquet", "PAR1");
    let last = Watch::default();
    finished(resume(&config("stopped"), &last));
    last.heard("its pairs are examined again");
    assert_eq!(last.done(EXAMINED), all - known + 512, "nothing else is computed twice");
    same(&sandbox, "straight", "stopped", &[MODEL, POSTERIORS, "codes.parquet"]);
    assert!(!sandbox.exists("stopped/checkpoints/examined"), "parts of a finished run are removed");
}

#[test]
fn a_stop_behind_the_last_step_loses_no_training() {
    let sandbox = Sandbox::new();
    sandbox.prepared(700);
    let config = |out: &str| TrainConfig {
        epochs: 1.0,
        batch: 256,
        checkpoint_every: 0,
        model: "tiny:16x1".into(),
        ..self::config(&sandbox, "data", out)
    };
    finished(run(&config("straight"), &Watch::default()));
    let (step, what) = stopped(run(&config("stopped"), &Watch::stopping(EXAMINED, 1)));
    assert!(step > 0 && what.starts_with("a checkpoint was written; the posteriors of "), "{what}");
    let watch = Watch::default();
    finished(resume(&config("stopped"), &watch));
    watch.heard(&format!("resuming after step {step}"));
    assert_eq!(watch.done("training"), 0, "no step is taken twice");
    same(&sandbox, "straight", "stopped", &[MODEL, POSTERIORS]);
    assert!(sandbox.json("stopped/summary.json")["pairs_per_s"].is_f64(), "the speed of the steps that were taken");
}

#[test]
fn a_stopped_reference_is_gone_on_with() {
    let sandbox = ground(&["other"]);
    let straight = Watch::default();
    finished(run(&config(&sandbox, "data", "straight"), &straight));
    assert_eq!(straight.done(REFERENCE), 80);
    let again = config(&sandbox, "other", "stopped");
    let mut known = 0;
    // Twice: what the first stop left, the second adds to.
    for _ in 0..2 {
        let watch = Watch::stopping(REFERENCE, 1);
        let (step, what) = stopped(run(&again, &watch));
        known += watch.done(REFERENCE);
        assert!(known > 0 && known < 80 && step == 0, "{known}");
        let told = format!("{known} of 80 reference log-probabilities are kept in ");
        assert!(what.starts_with(&told), "{what}");
        assert!(!sandbox.exists("stopped/manifest.json"));
    }
    let last = Watch::default();
    finished(run(&again, &last));
    last.heard(&format!("{known} of 80 are kept from before"));
    assert_eq!(last.done(REFERENCE), 80 - known, "nothing is computed twice");
    same(&sandbox, "straight", "stopped", &[MODEL, POSTERIORS]);
    let left: Vec<String> = sandbox.files("other/reference");
    assert!(left.iter().all(|f| f.ends_with(".parquet") || f.ends_with(".lock")), "{left:?}");
    // A part that was changed is computed again.
    std::fs::remove_dir_all(sandbox.path("other/reference")).unwrap();
    stopped(run(&config(&sandbox, "other", "damaged"), &Watch::stopping(REFERENCE, 1)));
    let part = sandbox.files("other/reference").into_iter().find(|f| f.ends_with(".part")).unwrap();
    let part = format!("other/reference/{part}");
    let bytes = sandbox.bytes(&part);
    sandbox.write(&part, &bytes[..bytes.len() / 2]);
    let watch = Watch::default();
    finished(run(&config(&sandbox, "other", "damaged"), &watch));
    watch.heard("are computed again");
    assert_eq!(watch.done(REFERENCE), 80);
    same(&sandbox, "straight", "damaged", &[MODEL, POSTERIORS]);
}

#[test]
fn stopped_hidden_states_are_gone_on_with() {
    let sandbox = ground(&["other"]);
    let config = |data: &str, out: &str| TrainConfig {
        tune: Tune::Latent,
        lpc: LpcConfig { codes: 3, ..LpcConfig::default() },
        ..config(&sandbox, data, out)
    };
    let straight = Watch::default();
    finished(run(&config("data", "straight"), &straight));
    assert_eq!(straight.done(STATES), 80);
    let watch = Watch::stopping(STATES, 1);
    let (step, what) = stopped(run(&config("other", "stopped"), &watch));
    let known = watch.done(STATES);
    assert!(step == 0 && known > 0 && known < 80 && what.contains("other/hidden"), "{known} {what}");
    let last = Watch::default();
    finished(run(&config("other", "stopped"), &last));
    last.heard(&format!("{known} of 80 pairs are kept from before"));
    assert_eq!(last.done(STATES), 80 - known);
    same(&sandbox, "straight", "stopped", &["model/lpc_model.safetensors", POSTERIORS]);
    let [a, b] = ["data", "other"].map(|data| {
        let files = sandbox.files(&format!("{data}/hidden"));
        let whole: Vec<&String> = files.iter().filter(|f| !f.ends_with(".lock")).collect();
        assert_eq!(whole.len(), 2, "states, and the logits of other tokens: {files:?}");
        whole.into_iter().map(|file| sandbox.bytes(&format!("{data}/hidden/{file}"))).collect::<Vec<_>>()
    });
    assert!(a == b);
}

#[test]
fn codes_on_other_tokens_read_the_same_hidden_states() {
    let sandbox = ground(&["other"]);
    let config = |data: &str, out: &str, code_tokens: usize| TrainConfig {
        tune: Tune::Latent,
        lpc: LpcConfig { codes: 3, code_tokens, ..LpcConfig::default() },
        ..config(&sandbox, data, out)
    };
    let done = |watch: &Watch| (watch.done(STATES), watch.done(KNOWN_LOGITS));
    let watch = Watch::default();
    finished(run(&config("data", "first", 40), &watch));
    assert_eq!(done(&watch), (80, 80));
    // The logits alone are computed anew; a stop in the middle of them is no loss.
    let watch = Watch::stopping(KNOWN_LOGITS, 1);
    stopped(run(&config("data", "second", 90), &watch));
    let known = watch.done(KNOWN_LOGITS);
    assert!(watch.done(STATES) == 0 && known > 0 && known < 80, "{known}");
    let watch = Watch::default();
    finished(run(&config("data", "second", 90), &watch));
    assert_eq!(done(&watch), (0, 80 - known));
    let watch = Watch::default();
    finished(run(&config("other", "alone", 90), &watch));
    assert_eq!(done(&watch), (80, 80));
    same(&sandbox, "alone", "second", &["model/lpc_model.safetensors", POSTERIORS]);
}

#[test]
fn a_short_run_computes_what_its_steps_need() {
    let sandbox = ground(&["other", "third"]);
    let straight = config(&sandbox, "data", "straight");
    finished(run(&straight, &Watch::default()));
    let test = sandbox.parquet("data/pairs/test.parquet").height() as u64;
    let short = TrainConfig { max_steps: 2, ..config(&sandbox, "other", "short") };
    // Two steps of four pairs, some neighbours of theirs to make a pass, and the test split.
    let tested = TrainConfig { posteriors: Posteriors::Test, keep_optimizer_state: true, ..short.clone() };
    let watch = Watch::default();
    finished(run(&tested, &watch));
    let first = watch.done(REFERENCE);
    assert!(first >= 8 + test && first < 40, "{first} of 80, {test} to test");
    assert_eq!((watch.done(OTHERS), watch.done("posteriors")), (0, test));
    let frame = sandbox.parquet("short/posteriors.parquet");
    assert!(frame.height() as u64 == test && texts(&frame, "split").iter().all(|s| s == "test"));
    // With a higher limit the missing ones are computed, and the run is the straight one.
    let whole = TrainConfig { max_steps: 0, posteriors: Posteriors::All, ..short.clone() };
    let watch = Watch::default();
    finished(resume(&whole, &watch));
    watch.heard("resuming after step 2");
    assert_eq!(watch.done(REFERENCE) + first, 80);
    same(&sandbox, "straight", "short", &[MODEL, POSTERIORS]);

    // By default all pairs are examined, and the rest of the reference comes behind the last step.
    let short = TrainConfig {
        data: sandbox.path("third").display().to_string(),
        out: sandbox.path("default").display().to_string(),
        ..short
    };
    let stop = Watch::stopping(OTHERS, 1);
    let (step, what) = stopped(run(&short, &stop));
    assert_eq!((step, stop.done(REFERENCE)), (2, first));
    let known = first + stop.done(OTHERS);
    assert!(known < 80 && what.contains(&format!("{known} of 80")), "{what}");
    let watch = Watch::default();
    finished(resume(&short, &watch));
    watch.heard("resuming after step 2");
    assert_eq!((watch.done(REFERENCE), watch.done(OTHERS), watch.done("training")), (0, 80 - known, 0));
    let [a, b] = ["straight", "default"].map(|run| sandbox.parquet(&format!("{run}/posteriors.parquet")));
    for column in ["ref_chosen_logps", "ref_rejected_logps"] {
        assert_eq!(numbers(&a, column), numbers(&b, column));
    }
    let plan = sandbox
        .ok("train --data data --model tiny:32x1 --latent none --out plan --max-steps 2 --posteriors test --dry-run");
    assert!(plan.stdout.contains("reference before the first step"), "{}", plan.stdout);
    assert!(plan.stdout.lines().any(|l| l.starts_with("reference after the last step") && l.ends_with(" 0 pairs")));
}

/// The warm-up of the latent part reads hidden states of its own steps' pairs alone, and a longer run is the same.
#[test]
fn a_short_warm_up_is_the_beginning_of_a_long_one() {
    let sandbox = ground(&["other"]);
    let config = |data: &str, out: &str| TrainConfig {
        lpc: LpcConfig { codes: 3, warmup: 1.0, ..LpcConfig::default() },
        ..config(&sandbox, data, out)
    };
    finished(run(&config("data", "straight"), &Watch::default()));
    let short = TrainConfig { max_steps: 2, keep_optimizer_state: true, ..config("other", "short") };
    let watch = Watch::default();
    finished(run(&short, &watch));
    assert!((8..40).contains(&watch.done(STATES)), "{}", watch.done(STATES));
    finished(resume(&config("other", "short"), &Watch::default()));
    same(&sandbox, "straight", "short", &[MODEL, "model/lpc_model.safetensors", POSTERIORS]);
}

#[test]
fn a_finished_run_keeps_no_moments_unless_asked() {
    let sandbox = ground(&[]);
    let base = config(&sandbox, "data", "straight");
    finished(run(&base, &Watch::default()));
    let files = |out: &str| sandbox.files(&format!("{out}/checkpoints"));
    let limited = |out: &str, keep| TrainConfig {
        max_steps: 2,
        keep_optimizer_state: keep,
        out: sandbox.path(out).display().to_string(),
        ..base.clone()
    };
    finished(run(&limited("kept", true), &Watch::default()));
    finished(run(&limited("dropped", false), &Watch::default()));
    let of = |name: &str| format!("step-000002/{name}");
    assert!(files("kept").contains(&of("optimizer.safetensors")));
    assert_eq!(files("dropped"), [of("params.safetensors"), of("state.json")]);
    // Asked again, it is there.
    assert!(matches!(resume(&limited("dropped", false), &Watch::default()), Ended::Already(_)));
    for (out, steps) in [("kept", 2), ("dropped", 0)] {
        let whole = TrainConfig { max_steps: 0, ..limited(out, false) };
        let watch = Watch::default();
        finished(resume(&whole, &watch));
        match steps {
            0 => {
                watch.heard("--keep-optimizer");
                watch.heard("starting from the beginning");
            }
            steps => watch.heard(&format!("resuming after step {steps}")),
        }
        // Whether it goes on or begins anew, it ends with the same bits.
        same(&sandbox, "straight", out, &[MODEL, POSTERIORS]);
        assert!(files(out).iter().all(|f| !f.ends_with("optimizer.safetensors")), "{:?}", files(out));
    }
}

#[test]
fn a_refused_resume_names_what_differs_and_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    let line = "train --data data --model tiny:16x1 --latent none --out run --seed 4 --max-steps 2 --quiet";
    let told = sandbox.ok(&(line.replace("--quiet", "--resume"))).stderr;
    assert!(told.contains("nothing to resume in run: starting from the beginning"), "{told}");
    let before = sandbox.text("run/config.toml");
    for unfinished in [false, true] {
        if unfinished {
            std::fs::remove_dir_all(sandbox.path("run")).unwrap();
            sandbox.ok(&format!("{line} --keep-optimizer"));
            std::fs::remove_file(sandbox.path("run/manifest.json")).unwrap();
        }
        let refused = sandbox.ends(3, &format!("{line} --resume --lr 1e-3 --beta 0.3 --set train.clip=2.0")).stderr;
        for wanted in [
            "run: holds another run; what differs:",
            "train.lr (--lr): 5e-6 before, 0.001 now",
            "train.objective.beta (--beta): 0.1 before, 0.3 now",
            "train.clip: 1.0 before, 2.0 now",
        ] {
            assert!(refused.contains(wanted), "{wanted}: {refused}");
        }
        assert!(!refused.contains("train.epochs"), "{refused}");
        let seeds = sandbox.ends(3, &line.replace("--seed 4", "--seed 5 --resume")).stderr;
        assert!(seeds.contains("seed (--seed): 4 before, 5 now") && seeds.contains("weights of the model"), "{seeds}");
    }
    assert_eq!(
        sandbox.text("run/config.toml").replace("keep_optimizer_state = true", "keep_optimizer_state = false"),
        before
    );
    assert!(Path::new(&sandbox.path("run/checkpoints/step-000002/optimizer.safetensors")).exists());
}
