//! A noise sweep that is killed, several times: what it ends with is what it would have ended with.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use polars::prelude::*;

use crate::support::{PROGRAM, Sandbox, texts};

const SWEEP: &str = r#"
seed = 1
[prepare]
input = ["raw"]
[prepare.pairs]
test_fraction = 0.25
[train]
model = "tiny:32x1"
batch = 8
epochs = 1
checkpoint_every = 3
[sweep]
noise_p = [0.0, 0.2]
latent = ["none", "lpc"]
codes = [3]
seeds = [1, 2]
baseline = { noise_p = 0.0 }
jobs = 2
"#;

/// The bytes of a table without the time that training took: it is measured, and differs from one run to the next.
fn measured_aside(frame: &DataFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut frame = frame.drop("train_seconds").expect("the column train_seconds");
    ParquetWriter::new(&mut bytes).finish(&mut frame).expect("a table that can be written");
    bytes
}

/// A launch of the sweep that will be killed.
struct Launch<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    begun: Instant,
}

impl Launch<'_> {
    fn begin(sandbox: &Sandbox) -> Launch<'_> {
        let args = ["noise-sweep", "--config", "sweep.toml", "--out", "killed", "--quiet"];
        let child = sandbox.command(PROGRAM, &args).stdout(Stdio::null()).spawn().expect("the program starts");
        Launch { sandbox, child, begun: Instant::now() }
    }

    /// Waits until a file is seen that was not there, for at most so long. Says whether it was.
    fn until_new(&self, is: impl Fn(&str) -> bool, longest: Duration) -> bool {
        let seen = || -> BTreeSet<String> { self.sandbox.files("killed").into_iter().filter(|f| is(f)).collect() };
        let before = seen();
        while self.begun.elapsed() < longest {
            if seen().difference(&before).next().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        false
    }

    /// Kills it. Says whether it was still at work.
    fn kill(mut self) -> bool {
        self.child.kill().expect("it can be killed");
        !self.child.wait().expect("it ends").success()
    }
}

/// What is left of a killed sweep has no run that failed, and goes on to what an uninterrupted one ends with.
fn ends_as_one_that_was_not(sandbox: &Sandbox, runs: usize) {
    let last = sandbox.ok("noise-sweep --config sweep.toml --out killed --quiet --json").json();
    assert_eq!(last["results"].as_array().map(Vec::len), Some(runs));
    for name in ["results.parquet", "summary.parquet"] {
        let [wanted, got] = ["straight", "killed"].map(|out| sandbox.parquet(&format!("{out}/{name}")));
        assert!(measured_aside(&wanted) == measured_aside(&got), "{name} differs\n{wanted}\n{got}");
    }
    assert!(sandbox.bytes("straight/curves.parquet") == sandbox.bytes("killed/curves.parquet"));
    let cells = |out: &str| -> Vec<String> {
        let files = sandbox.files(&format!("{out}/cells"));
        files.into_iter().filter(|f| f.ends_with("/posteriors.parquet")).collect()
    };
    assert_eq!(cells("straight").len(), runs);
    assert_eq!(cells("straight"), cells("killed"));
    for file in cells("straight") {
        let [wanted, got] = ["straight", "killed"].map(|out| sandbox.bytes(&format!("{out}/cells/{file}")));
        assert!(wanted == got, "{file} differs");
    }
    // Once more: nothing is run, and the table keeps every byte, the measured seconds too.
    let before = sandbox.bytes("killed/results.parquet");
    let again = sandbox.ok("noise-sweep --config sweep.toml --out killed --quiet --json").json();
    assert_eq!(again["cells_run"], 0);
    assert!(before == sandbox.bytes("killed/results.parquet"));
    let staged = sandbox.files("killed").into_iter().find(|file| file.contains(".staged-"));
    assert_eq!(staged, None, "a file of a killed launch is left");
}

fn no_run_failed(sandbox: &Sandbox) {
    if sandbox.exists("killed/results.parquet") {
        let so_far = sandbox.parquet("killed/results.parquet");
        assert!(texts(&so_far, "status").iter().all(|s| s == "ok"), "{so_far}");
    }
}

#[test]
fn a_killed_sweep_ends_as_one_that_was_not() {
    const KILLS: u32 = 5;
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    sandbox.write("sweep.toml", SWEEP);
    let begun = Instant::now();
    sandbox.ok("noise-sweep --config sweep.toml --out straight --quiet");
    let whole = begun.elapsed();
    let (mut at_work, mut begun_cells) = (0, 0);
    for _ in 0..KILLS {
        let launch = Launch::begin(&sandbox);
        std::thread::sleep(whole.mul_f64(0.3));
        at_work += u32::from(launch.kill());
        no_run_failed(&sandbox);
        let stopped = sandbox.files("killed/cells").into_iter().filter(|f| f.contains("checkpoints/")).count();
        begun_cells += usize::from(stopped > 0);
    }
    assert!(at_work >= 2 && begun_cells > 0, "{at_work} of {KILLS} were killed before the end, in {whole:?}");
    ends_as_one_that_was_not(&sandbox, 8);
}

/// Kills at chosen moments: where a cell has just written a checkpoint, where one has just ended, while a file is being
/// written, and at times in between.
#[test]
#[ignore = "takes minutes; `just test-slow a_sweep_killed_twenty_times` runs it"]
fn a_sweep_killed_twenty_times_ends_as_one_that_was_not() {
    const KILLS: usize = 20;
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    sandbox.write("sweep.toml", SWEEP.replace("seeds = [1, 2]", "seeds = [1, 2, 3, 4, 5, 6, 7]"));
    let begun = Instant::now();
    sandbox.ok("noise-sweep --config sweep.toml --out straight --quiet");
    let whole = begun.elapsed();
    let mut at_work = [0; 4];
    for kill in 0..KILLS {
        let launch = Launch::begin(&sandbox);
        let reached = match kill % 4 {
            0 => launch.until_new(|file| file.contains("/checkpoints/step-"), whole),
            1 => launch.until_new(|file| file.ends_with("/cell.json"), whole),
            2 => launch.until_new(|file| file.starts_with(".staged-"), whole),
            // From the start of the program to well into the first cells.
            _ => {
                std::thread::sleep(whole.mul_f64(0.02 + 0.01 * kill as f64));
                true
            }
        };
        at_work[kill % 4] += usize::from(launch.kill() && reached);
        no_run_failed(&sandbox);
    }
    println!("of {KILLS} kills at work after a checkpoint, after a cell, in a table, in between: {at_work:?}");
    assert!(at_work.iter().all(|n| *n >= 3), "{at_work:?} kills at work, of {whole:?}");
    ends_as_one_that_was_not(&sandbox, 28);
}

#[test]
fn more_axes_and_seeds_of_the_flips() {
    let sandbox = Sandbox::new();
    sandbox.synth(80);
    let recipe = "seed = 1\n[prepare]\ninput = ['raw']\n[prepare.pairs]\ntest_fraction = 0.25\n[train]\n\
                  model = 'tiny:16x1'\nbatch = 16\nmax_steps = 1\n[sweep]\nnoise_p = [0.0, 0.3]\n\
                  latent = ['none', 'lpc']\ncodes = [2]\ninference = ['bayes', 'amortised']\ntemperature = [1.0, 0.5]\n\
                  model = ['tiny:16x1', 'tiny:32x1']\nseeds = [1]\nnoise_seeds = [0, 7]\n";
    sandbox.write("sweep.toml", recipe);
    let told = sandbox.ok("noise-sweep --config sweep.toml --out sweep --json").json();
    // For each model: none; bayes, which has no temperature; amortised at two. Without flips the seeds share a run.
    assert_eq!(told["cells_run"], 2 * 4 * 3);
    let results = sandbox.parquet("sweep/results.parquet");
    assert_eq!(results.height(), 2 * 4 * 4);
    let inference = texts(&results, "inference");
    let count = |wanted: &str| inference.iter().filter(|i| *i == wanted).count();
    assert_eq!((count("null"), count("bayes"), count("amortised")), (8, 8, 16));
    let settings: BTreeSet<String> = texts(&results, "settings").into_iter().collect();
    assert!(settings.contains("inference amortised, temperature 0.5, model tiny:32x1"), "{settings:?}");
    let tau = results.column("temperature").expect("a column");
    assert_eq!(tau.null_count(), results.height() / 2, "{results}");
    // The same flips for every cell of a seed, other ones for another seed.
    let flips = |noise: &str| {
        let frame = sandbox.parquet(&format!("sweep/prepared/{noise}/pairs/train.parquet"));
        frame.column("flipped").expect("a column").clone()
    };
    assert!(!flips("uniform-0.3").equals(&flips("uniform-0.3-n7")));
    assert!(sandbox.text("sweep/report.html").contains("lpc, 2 codes, inference amortised, temperature 0.5"));
    // Cells of one prepared folder share the reference of a model: one file for each of the two.
    for data in ["clean", "uniform-0.3", "uniform-0.3-n7"] {
        let files = sandbox.files(&format!("sweep/prepared/{data}/reference"));
        assert_eq!(files.iter().filter(|f| !f.starts_with('.')).count(), 2, "{data}: {files:?}");
    }
    // One more value of an axis runs the new cells only.
    let wider = "noise-sweep --config sweep.toml --out sweep --set sweep.noise_seeds=[0,7,8] --json";
    let told = sandbox.ok(wider).json();
    assert_eq!((&told["cells_run"], &told["cells_reused"]), (&8.into(), &24.into()));
    let refused = sandbox.ends(2, "noise-sweep --config sweep.toml --out other --set sweep.inference=[\"bayes\"]");
    let said = "sweep.temperature: has no effect: no cell of this sweep uses it";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}

#[test]
fn a_dry_run_lists_the_cells_and_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.synth(120);
    sandbox.write("sweep.toml", SWEEP);
    let before = sandbox.files(".");
    let line = "noise-sweep --config sweep.toml --out sweep --dry-run";
    let told = sandbox.ok(&format!("{line} --json")).json();
    assert_eq!(sandbox.files("."), before);
    let cells = told["cells"].as_array().expect("cells").clone();
    assert_eq!(cells.len(), 8);
    let seconds = |cell: &serde_json::Value| cell["seconds"].as_f64().expect("seconds");
    assert!(cells.iter().all(|c| seconds(c) > 0.0 && c["memory_mb"].as_f64().is_some_and(|mb| mb > 10.0)), "{told}");
    assert!(cells.iter().all(|c| c["finished"] == false));
    let sum: f64 = cells.iter().map(seconds).sum::<f64>() + told["reference_seconds"].as_f64().expect("seconds");
    assert!((told["seconds"].as_f64().expect("seconds") - sum).abs() < 1e-9 * sum, "{told}");
    let text = sandbox.ok(line).stdout;
    assert!(text.contains("dpo-lpc-k3-uniform-0.2-s2") && text.contains("8 cells to run"), "{text}");
    // Finished cells are not counted.
    sandbox.ok("noise-sweep --config sweep.toml --out sweep --set sweep.seeds=[1] --quiet");
    let before = sandbox.files("sweep");
    let told = sandbox.ok(&format!("{line} --json")).json();
    let finished = told["cells"].as_array().expect("cells").iter().filter(|c| c["finished"] == true).count();
    assert_eq!((finished, sandbox.files("sweep")), (4, before));
    // What is refused by the sweep is refused here.
    sandbox.ends(2, &format!("{line} --set train.batch=0"));
    sandbox.ends(2, &format!("{line} --set train.lr=0.5"));
}
