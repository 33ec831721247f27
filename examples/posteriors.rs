//! Code posteriors in a polars frame: train LPC-DPO, then ask which codes each source uses and what the labels told.
//!
//! `cargo run --release --example posteriors`

use lpc_pipe::analysis::tables;
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended};
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
    let mut data = PrepareConfig { input: vec![path("raw")], out: path("data"), ..PrepareConfig::default() };
    data.noise.flip_rate = 0.2;
    data.pairs.test_fraction = 0.25;
    prepare::run(&data, seed, &Silent)?;

    // A tiny Llama made from the seed; 8 codes. The objective is DPO and the latent LPC by default.
    let mut run = TrainConfig {
        data: path("data"),
        model: "tiny:16x1".into(),
        out: path("run"),
        batch: 32,
        lr: 1e-3,
        ..TrainConfig::default()
    };
    run.lpc.codes = 8;
    let Ended::Finished(summary) = train::run(&run, seed, false, &Silent)? else { return Err("interrupted".into()) };
    println!("accuracy {:.3} on {} test pairs, by the prior alone", summary.eval_accuracy, summary.n_eval);

    // One row for each pair of both splits.
    let posteriors = ParquetReader::new(std::fs::File::open(path("run/posteriors.parquet"))?).finish()?;
    let by_source = posteriors
        .clone()
        .lazy()
        .group_by([col("source"), col("prior_code")])
        .agg([len().alias("pairs"), col("kl").mean(), col("margin").mean()])
        .sort(["source", "prior_code"], SortMultipleOptions::default())
        .collect()?;
    println!("{by_source}");

    // The distributions themselves are lists of K numbers.
    let first = posteriors.column("posterior")?.list()?.get_as_series(0).ok_or("no rows")?;
    println!(
        "q(z | x, chosen > rejected) of the first pair: {:.3?}",
        first.f32()?.iter().flatten().collect::<Vec<_>>()
    );

    // Ready-made tables: usage of codes, accuracy by source, wrong labels found by a low margin.
    println!("{}", tables::code_usage(&posteriors)?);
    println!("AUROC of flipped labels: {:.3}", tables::mislabel_auroc(&posteriors)?);
    Ok(())
}
