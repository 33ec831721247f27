//! An LPC policy scored: log-probabilities of its answers, under the prior's codes and without them.
//!
//! `cargo run --release --example score_policy`

use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::{PrepareConfig, ScoreConfig};
use lpc_pipe::pipeline::score;
use lpc_pipe::pipeline::train;
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::train::TrainConfig;
use polars::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let seed = Seed(7);

    let corpus = SynthConfig { rows: 300, out: path("raw"), ..SynthConfig::default() };
    synth::write(&corpus, seed, &Silent)?;
    let data = PrepareConfig { input: vec![path("raw")], out: path("data"), ..PrepareConfig::default() };
    prepare::run(&data, seed, &Silent)?;
    let mut run = TrainConfig {
        data: path("data"),
        model: "tiny:16x1".into(),
        out: path("run"),
        batch: 32,
        lr: 1e-3,
        ..TrainConfig::default()
    };
    run.lpc.codes = 8;
    train::run(&run, seed, false, &Silent)?;

    // `run/model` holds the backbone and the latent part; `score` uses both.
    let scored = score::run(
        &ScoreConfig { data: path("data"), model: path("run/model"), out: path("scores.parquet") },
        seed,
        &Silent,
    )?;
    println!("{} pairs; the chosen response is likelier in {:.1} %", scored.pairs, 100.0 * scored.likelier);

    // `ref_*` are the policy's own log-probabilities without a code: what the codes add is the difference.
    let scores = ParquetReader::new(std::fs::File::open(path("scores.parquet"))?).finish()?;
    let shift = |side: &str| col(format!("logps_{side}")) - col(format!("ref_{side}_logps"));
    let by_code = scores
        .lazy()
        .with_column((shift("chosen") - shift("rejected")).alias("margin of the codes, nats"))
        .group_by([col("split"), col("prior_code")])
        .agg([len().alias("pairs"), col("margin of the codes, nats").mean()])
        .sort(["split", "prior_code"], SortMultipleOptions::default())
        .collect()?;
    println!("{by_code}");
    Ok(())
}
