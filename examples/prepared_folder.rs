//! A prepared folder from Rust: raw completions in, preference pairs and token batches out.
//!
//! `cargo run --release --example prepared_folder`
//!
//! The same as `lpc-pipe prepare --input raw --out data --flip-rate 0.2 --test-fraction 0.25 --seed 7`, over the corpus that
//! `lpc-pipe synth --rows 200 --seed 7 --out raw` writes.

use lpc_pipe::batch;
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use polars::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();

    // Raw data in UltraFeedback's shape: 200 prompts with four scored completions each.
    let corpus = SynthConfig { rows: 200, out: path("raw"), ..SynthConfig::default() };
    synth::write(&corpus, Seed(7), &Silent)?;

    let mut config = PrepareConfig { input: vec![path("raw")], out: path("data"), ..PrepareConfig::default() };
    config.noise.flip_rate = 0.2;
    config.pairs.test_fraction = 0.25;
    let summary = prepare::run(&config, Seed(7), &Silent)?;
    println!("{} rows read, {} pairs, {} labels flipped", summary.rows_read, summary.pairs, summary.flipped);

    // The pairs as a frame: one row a pair, with source, scores and the ledger of the noise.
    let pairs = ParquetReader::new(std::fs::File::open(folder.path().join("data/pairs/train.parquet"))?).finish()?;
    let by_source = pairs
        .lazy()
        .group_by([col("source")])
        .agg([len().alias("pairs"), col("flipped").mean().alias("flip rate"), col("margin").mean()])
        .sort(["source"], SortMultipleOptions::default())
        .collect()?;
    println!("{by_source}");

    // The same pairs as the trainer reads them.
    for split in batch::read_splits(&folder.path().join("data"))? {
        let tokens: usize = split.rows.iter().map(|row| row.chosen_ids.len() + row.rejected_ids.len()).sum();
        println!("{}: {} pairs, {tokens} response tokens", split.name, split.rows.len());
    }
    Ok(())
}
