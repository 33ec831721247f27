//! Rows a second through the data stages, on a planted corpus made from a seed.
//!
//! `cargo bench --bench pipeline`; one element is one row (prompt) read, or one pair tokenized.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;

use lpc_pipe::ingest::{self, IngestConfig, Input};
use lpc_pipe::message::MessageColumn;
use lpc_pipe::noise::{self, NoiseConfig, NoisePlan};
use lpc_pipe::pairs::{self, PairConfig};
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::progress::Silent;
use lpc_pipe::schema::{col, prepared};
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::tokenize::{ModelTokenizer, PairText, TokenizeConfig};

const ROWS: usize = 4000;
const SEED: Seed = Seed(1);

/// A corpus in `folder`; gives its file.
fn corpus(folder: &Path) -> Input {
    let config = SynthConfig { rows: ROWS, out: folder.display().to_string(), ..SynthConfig::default() };
    synth::write(&config, SEED, &Silent).expect("a corpus");
    Input::new(folder.join(synth::CORPUS))
}

/// All batches of a file, as pairs.
fn read_and_pair(input: &Input) -> Vec<polars::prelude::DataFrame> {
    let mut frames = Vec::new();
    ingest::read(std::slice::from_ref(input), &IngestConfig::default(), None, &Silent, &mut |batch| {
        frames.push(pairs::build(&batch.frame, &PairConfig::default(), SEED)?.frame);
        Ok(())
    })
    .expect("a sound corpus");
    frames
}

fn stages(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let input = corpus(dir.path());
    let mut group = c.benchmark_group("data");
    group.sample_size(20).throughput(Throughput::Elements(ROWS as u64));

    group.bench_function("ingest", |b| {
        b.iter(|| {
            let mut rows = 0;
            ingest::read(std::slice::from_ref(&input), &IngestConfig::default(), None, &Silent, &mut |batch| {
                rows += batch.frame.height();
                Ok(())
            })
            .expect("a sound corpus");
            black_box(rows)
        });
    });

    group.bench_function("ingest and pairs", |b| b.iter(|| black_box(read_and_pair(&input))));

    let frames = read_and_pair(&input);
    let clean = pairs::finish(frames, &PairConfig::default(), SEED, &[String::new()]).expect("pairs").frame;
    let config = NoiseConfig { flip_rate: 0.2, ..NoiseConfig::default() };
    group.bench_function("noise", |b| {
        let plan = NoisePlan::direct(&config);
        let apply = |frame| noise::apply(frame, &config, &plan, SEED).expect("noise");
        b.iter_batched(|| clean.clone(), |frame| black_box(apply(frame)), BatchSize::LargeInput);
    });

    // A tokenizer of the corpus's own, as `prepare --tokenizer tiny` makes it.
    let out = dir.path().join("prepared");
    let settings = PrepareConfig {
        input: vec![input.path.display().to_string()],
        out: out.display().to_string(),
        ..PrepareConfig::default()
    };
    prepare::run(&settings, SEED, &Silent).expect("a prepared folder");
    let tokenizer = ModelTokenizer::open(&out.join(prepared::TOKENIZER)).expect("a tokenizer");
    let messages = |name| MessageColumn::open(clean.column(name).expect("a column")).expect("messages");
    let sides = [messages(col::PROMPT), messages(col::CHOSEN), messages(col::REJECTED)];
    let config = TokenizeConfig::default();
    group.bench_function("tokenize", |b| {
        let encode = |i: usize| {
            let [prompt, chosen, rejected] = [0, 1, 2].map(|side: usize| sides[side].messages(i));
            let pair =
                PairText { id: "", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: false, source: "" };
            tokenizer.encode_pair(&pair, &config).expect("tokens")
        };
        b.iter(|| black_box((0..clean.height()).into_par_iter().map(encode).collect::<Vec<_>>()));
    });

    group.bench_function("prepare, whole", |b| b.iter(|| prepare::run(&settings, SEED, &Silent).expect("prepared")));
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
