//! The three operations in which training spends its time, at the shapes of SmolLM2-135M.
//!
//! `cargo bench --bench kernels`; one element is one floating-point operation, so that criterion's
//! Gelem/s are GFLOP/s.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;

use lpc_pipe::nn::attention::{self, Heads, Scheme, Segment};
use lpc_pipe::nn::{Precision, Rows, linear, token_logps};
use lpc_pipe::seed::Seed;

/// Packed tokens of one pass: four pairs of a prompt of 64 and two responses of 96.
const PAIRS: usize = 4;
const PROMPT: usize = 64;
const RESPONSE: usize = 96;
const TOKENS: usize = PAIRS * (PROMPT + 2 * RESPONSE);

const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const VOCABULARY: usize = 49_152;
const HEADS: Heads = Heads { query: 9, kv: 3, size: 64 };

fn numbers(key: &str, n: usize) -> Vec<f32> {
    let mut rng = Seed(1).rng("bench", key);
    (0..n).map(|_| rng.random_range(-0.1f32..0.1)).collect()
}

fn linears(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.sample_size(20);
    for (name, inputs, outputs) in [("q", HIDDEN, HIDDEN), ("up", HIDDEN, INTERMEDIATE), ("down", INTERMEDIATE, HIDDEN)]
    {
        let (x, w) = (numbers("x", TOKENS * inputs), numbers("w", outputs * inputs));
        let dy = numbers("dy", TOKENS * outputs);
        group.throughput(Throughput::Elements(2 * (TOKENS * inputs * outputs) as u64));
        let mut y = vec![0f32; TOKENS * outputs];
        let mut dx = vec![0f32; TOKENS * inputs];
        let mut dw = vec![0f32; outputs * inputs];
        for (kind, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            // Operands are made anew each time, so that rounding and packing are counted.
            let rows = |values| Rows::new(black_box(values), TOKENS, precision);
            group.bench_function(format!("{name} forward, {kind}"), |b| {
                b.iter(|| linear::forward(&rows(&x), &w, &mut y, false));
            });
            group.bench_function(format!("{name} backward, input, {kind}"), |b| {
                b.iter(|| linear::backward_input(&rows(&dy), &w, &mut dx, false));
            });
            group.bench_function(format!("{name} backward, weight, {kind}"), |b| {
                b.iter(|| linear::backward_weight(&rows(&dy), &rows(&x), &mut dw));
            });
        }
    }
    group.finish();
}

/// Prompts, each followed by its two responses, which see it.
fn segments() -> Vec<Segment> {
    let mut all = Vec::new();
    for group in 0..PAIRS {
        let start = group * (PROMPT + 2 * RESPONSE);
        all.push(Segment { start, len: PROMPT, prefix_start: 0, prefix_len: 0, group });
        for side in 0..2 {
            let own = start + PROMPT + side * RESPONSE;
            all.push(Segment { start: own, len: RESPONSE, prefix_start: start, prefix_len: PROMPT, group });
        }
    }
    all
}

fn attentions(c: &mut Criterion) {
    let segments = segments();
    // Each row looks at its prefix and at the rows up to its own: scores and weighted sum, 2 operations each.
    let seen: usize = segments.iter().map(|s| s.len * s.prefix_len + s.len * (s.len + 1) / 2).sum();
    let (q_width, kv_width) = (HEADS.query * HEADS.size, HEADS.kv * HEADS.size);
    let q = numbers("q", TOKENS * q_width);
    let (k, v) = (numbers("k", TOKENS * kv_width), numbers("v", TOKENS * kv_width));
    let (mut out, mut lse) = (vec![0f32; TOKENS * q_width], vec![0f32; TOKENS * HEADS.query]);
    let mut group = c.benchmark_group("attention");
    group.sample_size(20).throughput(Throughput::Elements((4 * seen * q_width) as u64));
    for (kind, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        let scheme = Scheme { segments: &segments, heads: HEADS, window: 0, precision };
        group.bench_function(format!("forward, {kind}"), |b| {
            b.iter(|| attention::forward(black_box(&q), &k, &v, &mut out, &mut lse, &scheme));
        });
    }
    group.finish();
}

fn gathers(c: &mut Criterion) {
    let rows = PAIRS * 2 * RESPONSE;
    let (h, w) = (numbers("h", rows * HIDDEN), numbers("vocabulary", VOCABULARY * HIDDEN));
    let mut rng = Seed(1).rng("bench", "targets");
    let targets: Vec<u32> = (0..rows).map(|_| rng.random_range(0..VOCABULARY as u32)).collect();
    let mut group = c.benchmark_group("gather");
    group.sample_size(10).throughput(Throughput::Elements(2 * (rows * HIDDEN * VOCABULARY) as u64));
    let ones = vec![1f32; rows];
    for (kind, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        group.bench_function(format!("forward, {kind}"), |b| {
            b.iter(|| token_logps::forward(black_box(&h), &w, &targets, HIDDEN, precision, None));
        });
        let scored = token_logps::forward(&h, &w, &targets, HIDDEN, precision, None);
        group.bench_function(format!("backward, input, {kind}"), |b| {
            b.iter(|| token_logps::backward(black_box(&h), &w, &targets, &scored, &ones, precision, None));
        });
    }
    group.finish();
}

criterion_group!(benches, linears, attentions, gathers);
criterion_main!(benches);
