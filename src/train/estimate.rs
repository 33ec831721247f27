//! What a run costs, computed from shapes and lengths without reading a weight: memory by part, floating-point
//! operations.

use std::ops::AddAssign;

use serde::Serialize;

use super::config::{Posteriors, TrainConfig, Tune};
use super::device::{DeviceKind, Kernels};
use super::step_plan::{Feed, StepPlan};
use crate::batch::Split;
use crate::lpc::Basis;
use crate::model::{LlamaConfig, Lora};
use crate::nn::Precision;
use crate::nn::exponentials::ROOM;
use crate::objective::ObjectiveKind;
use crate::policy::Example;
use crate::seed::Seed;
use crate::token_file::TokenRow;

/// Bytes in a MiB.
const MIB: f64 = (1 << 20) as f64;
/// Bytes of a weight, of a gradient's number and of each of AdamW's two moments: float32.
const NUMBER: f64 = 4.0;
/// Packed rows of an evaluation's pass.
const EVALUATION_ROWS: usize = 4096;
/// MiB of the program itself, its tokenizer, and what the allocator holds back.
const PROGRAM: f64 = 96.0;

/// What decides a run's cost besides the model's shape and the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Regime {
    /// Elements of the model, without what is added to it.
    pub backbone: usize,
    /// Elements added to the model and trained: the latent part, adapters, a copied head.
    pub added: usize,
    /// Elements that training changes, added ones included.
    pub trainable: usize,
    /// Bytes that a layer keeps of a packed row for its backward pass.
    pub kept_bytes: f64,
    /// Bytes that the head keeps of each logit for its backward pass, as long as there is room.
    pub logit_bytes: f64,
    /// Whether layers keep their input only, and compute the rest again.
    pub recompute: bool,
    /// Whether the layers' matrices need a gradient.
    pub backbone_gradient: bool,
    /// Whether the head's matrix needs a gradient.
    pub head_gradient: bool,
    /// Elements of adapters that every token passes.
    pub adapters: usize,
    /// Whether the backbone runs once before training, and its hidden states are kept.
    pub cached: bool,
    /// Operations of the head for a response's token in a step over kept hidden states; and in such a step of the latent
    /// part's warm-up. A frozen head is computed for the tokens that codes act on alone.
    pub kept_head: [f64; 2],
    /// Passes through the head for each response in evaluation: for the prior, and for a posterior.
    pub evaluation_passes: usize,
    /// Longest distance over which a token is attended to.
    pub window: usize,
    /// Whether the reference is another model, which is in memory beside this one before training.
    pub other_reference: bool,
}

impl Regime {
    /// The regime of a configuration.
    pub fn of(config: &TrainConfig, shape: &LlamaConfig) -> Regime {
        let basis = Basis::sized(&config.lpc, shape.hidden_size, shape.vocab_size);
        let latent = if config.lpc.active() { crate::lpc::parameters(&config.lpc, &basis) } else { 0 };
        let backbone = shape.parameters();
        let (q, kv) = (shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim);
        // What `model::layer` keeps, operands of products in the products' precision: queries, keys, values, attention's
        // output, gate and up; the residual stream before and after attention, and a number for each head and norm.
        let operand =
            if config.operands(shape.hidden_size).effective() == Precision::Bf16 { NUMBER / 2.0 } else { NUMBER };
        let operands = 2 * q + 2 * kv + 2 * shape.intermediate_size;
        let others = 2 * shape.hidden_size + shape.num_attention_heads + 2;
        let adapters = if config.tune == Tune::Lora { Lora::new(&config.lora).elements(shape) } else { 0 };
        // A tied head is copied, so that it can change alone.
        let head = shape.vocab_size * shape.hidden_size;
        let copied = if config.tune == Tune::Head && shape.tie_word_embeddings { head } else { 0 };
        // Forward and backward through all of it, or forward alone for the tokens of the codes.
        let fused = matches!(config.device, DeviceKind::Cpu | DeviceKind::Auto) && config.kernels != Kernels::Composed;
        let frozen_head = match basis.code_tokens.as_ref().filter(|_| fused && config.lpc.active()) {
            Some(tokens) => 2 * tokens.len() * shape.hidden_size,
            None => 4 * head,
        } as f64;
        let head_of_head = [6.0 * head as f64, 4.0 * head as f64];
        let trained = match config.tune {
            Tune::Full => backbone,
            Tune::Lora => adapters,
            Tune::Head => head,
            Tune::Latent => 0,
        };
        let window =
            if shape.sliding_window > 0 && shape.first_windowed_layer == 0 { shape.sliding_window } else { usize::MAX };
        Regime {
            backbone,
            added: latent + adapters + copied,
            trainable: trained + latent,
            kept_bytes: operand * operands as f64 + NUMBER * others as f64,
            // Without codes a frozen head keeps a row of its own width instead.
            logit_bytes: if config.recompute || (config.tune == Tune::Lora && !config.lpc.active()) {
                0.0
            } else {
                operand
            },
            recompute: config.recompute,
            backbone_gradient: config.tune == Tune::Full,
            head_gradient: matches!(config.tune, Tune::Full | Tune::Head),
            adapters,
            cached: config.tune.keeps_states(),
            kept_head: if config.tune == Tune::Head { head_of_head } else { [frozen_head; 2] },
            evaluation_passes: if config.lpc.active() && config.lpc.latent.inferred() { 2 } else { 1 },
            window,
            other_reference: config.reference_model().is_some(),
        }
    }
}

/// The sizes of some pairs that decide what computing them costs; a prompt counts once for both responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Pairs.
    pub pairs: u64,
    /// Tokens through the backbone.
    pub tokens: u64,
    /// Of these, those that predict a response's token, for the head.
    pub responses: u64,
    /// Pairs of a token and one that it attends to.
    pub attended: u64,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.pairs += other.pairs;
        self.tokens += other.tokens;
        self.responses += other.responses;
        self.attended += other.attended;
    }
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Load>>(all: I) -> Load {
        let mut sum = Load::default();
        all.for_each(|load| sum += load);
        sum
    }
}

impl Load {
    /// The load of one pair; `both` responses, or the chosen one alone.
    pub fn of(row: &TokenRow, both: bool, window: usize) -> Load {
        let (prompt, chosen) = (row.prompt_ids.len(), row.chosen_ids.len());
        let rejected = if both { row.rejected_ids.len() } else { 0 };
        // Each token attends to itself and to those before it, as far as the window reaches.
        let until = |n: usize| {
            let (n, w) = (n as u64, n.min(window) as u64);
            w * (w + 1) / 2 + (n - w) * w
        };
        let after = |response: usize| until(prompt + response) - until(prompt);
        Load {
            pairs: 1,
            tokens: (prompt + chosen + rejected) as u64,
            responses: (chosen + rejected) as u64,
            attended: until(prompt) + after(chosen) + after(rejected),
        }
    }

    /// The load of all rows of splits.
    pub fn of_splits(splits: &[Split], window: usize) -> Load {
        splits.iter().flat_map(|s| &s.rows).map(|row| Load::of(row, true, window)).sum()
    }
}

/// The loads of a run's steps. They are exact, because the order of the examples is known beforehand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loads {
    /// All steps but those of the latent part's warm-up.
    pub all: Load,
    /// The steps of the latent part's warm-up.
    pub warm: Load,
    /// The pass with the most tokens.
    pub largest: Load,
    /// All pairs once.
    pub epoch: Load,
}

impl Loads {
    /// The loads of a plan over rows.
    pub fn of(config: &TrainConfig, rows: &[TokenRow], plan: StepPlan, seed: Seed, window: usize) -> Loads {
        let both = config.objective.name != ObjectiveKind::Sft;
        let each: Vec<Load> = rows.iter().map(|row| Load::of(row, both, window)).collect();
        let mut loads = Loads { epoch: each.iter().copied().sum(), ..Loads::default() };
        let mut feed = Feed::new(rows, None, plan, seed);
        for step in 0..plan.steps {
            for pass in feed.step(step).chunks(config.batch) {
                let load: Load = pass.iter().map(|&i| each[i]).sum();
                if plan.warms(step) {
                    loads.warm += load;
                    continue;
                }
                loads.all += load;
                if load.tokens > loads.largest.tokens {
                    loads.largest = load;
                }
            }
        }
        loads
    }
}

/// Memory of a run by part, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Weights.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// AdamW's moments.
    pub moments: f64,
    /// What the largest pass keeps for its backward pass, and works with.
    pub activations: f64,
    /// What the evaluation at the end works with and gathers; not at the same time as the activations.
    pub evaluation: f64,
    /// Tokens and reference log-probabilities.
    pub data: f64,
    /// The program itself.
    pub program: f64,
    /// Their sum at the worst moment.
    pub total: f64,
}

impl Memory {
    /// Memory of a run whose largest pass is `largest`.
    pub fn of(shape: &LlamaConfig, regime: &Regime, largest: Load, splits: &[Split], codes: usize) -> Memory {
        let (h, i) = (shape.hidden_size as f64, shape.intermediate_size as f64);
        let (q, kv) =
            ((shape.num_attention_heads * shape.head_dim) as f64, (shape.num_key_value_heads * shape.head_dim) as f64);
        let (layers, tokens) = (shape.num_hidden_layers as f64, largest.tokens as f64);
        let chunk = crate::nn::token_logps::CHUNK.min(shape.vocab_size) as f64;
        let head = |responses: f64| NUMBER * responses * (2.0 * chunk + 4.0 * h);
        let logits = largest.responses as f64 * shape.vocab_size as f64;
        let exponentials = (regime.logit_bytes * logits).min(ROOM as f64);
        let kept = match (regime.cached, regime.recompute) {
            (true, _) => 0.0,
            (false, true) => tokens * (layers * NUMBER * h + regime.kept_bytes),
            (false, false) => tokens * layers * regime.kept_bytes,
        };
        // A layer's backward pass: the feed-forward part's gradients, some rows of the residual stream.
        let layer = if regime.cached { 0.0 } else { NUMBER * tokens * (2.0 * i + 6.0 * h) };
        let rows: f64 = splits.iter().map(|s| s.rows.len() as f64).sum();
        let ids = Load::of_splits(splits, regime.window).tokens as f64;
        let evaluated = (ids / rows.max(1.0)).max(EVALUATION_ROWS as f64).min(ids);
        let trainable = NUMBER * regime.trainable as f64 / MIB;
        let mut memory = Memory {
            weights: NUMBER * (regime.backbone + regime.added) as f64 / MIB,
            gradients: trainable,
            moments: 2.0 * trainable,
            activations: (kept + layer.max(head(largest.responses as f64) + exponentials)) / MIB,
            evaluation: (rows * (size_of::<Example>() + 16 * codes) as f64
                + NUMBER * evaluated * (3.0 * i + 2.0 * q + 2.0 * kv + 4.0 * h)
                + head(evaluated))
                / MIB,
            // A row's three lists, texts and lengths; two reference values; cached hidden states.
            data: (NUMBER * ids
                + rows * (size_of::<TokenRow>() as f64 + 64.0 + 16.0)
                + if regime.cached { NUMBER * ids * h } else { 0.0 })
                / MIB,
            program: PROGRAM,
            total: 0.0,
        };
        memory.total = memory.fixed() + memory.activations.max(memory.evaluation);
        if regime.other_reference {
            // Taken to be as large; neither gradients nor moments are there yet.
            let before = 2.0 * memory.weights + memory.data + memory.program + memory.evaluation;
            memory.total = memory.total.max(before);
        }
        memory
    }

    /// What does not depend on the batch.
    fn fixed(&self) -> f64 {
        self.weights + self.gradients + self.moments + self.data + self.program
    }

    /// What to change so that a run fits into `limit` MiB; empty where it does.
    pub fn advice(&self, limit: f64, batch: usize, accumulate: usize) -> Vec<String> {
        if self.total <= limit {
            return Vec::new();
        }
        let mut advice = Vec::new();
        let room = limit - self.fixed();
        let fitting = if room > 0.0 { (batch as f64 * room / self.activations).floor() as usize } else { 0 };
        // A divisor of the batch, so that steps stay what they are.
        if let Some(smaller) = (1..=fitting.min(batch.saturating_sub(1))).rev().find(|b| batch.is_multiple_of(*b)) {
            let passes = accumulate * batch / smaller;
            advice.push(format!("--batch {smaller} --accumulate {passes} takes the same steps in smaller passes"));
        } else if self.activations > 0.25 * self.total {
            advice.push("shorter pairs: prepare with a smaller --max-length".into());
        }
        if self.gradients + self.moments > 0.25 * self.total {
            advice.push("fewer trained parameters: see --tune".into());
        }
        if self.data > 0.25 * self.total {
            advice.push("less data: prepare a part of it with --shard".into());
        }
        if advice.is_empty() || self.weights > limit {
            advice.push("a smaller model, or a machine with more memory".into());
        }
        advice
    }
}

/// Useful floating-point operations: those that recomputing adds are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flops {
    /// All training steps, forward and backward; in the latent part's warm-up that part alone, and the backbone forward
    /// where its hidden states are not kept.
    pub training: f64,
    /// The reference's log-probabilities, where the objective has one and no cache is there.
    pub reference: f64,
    /// Evaluations while training and at the end.
    pub evaluation: f64,
    /// Their sum.
    pub total: f64,
    /// One step on the average.
    pub per_step: f64,
}

/// Operations forward, with so many passes through the head: two for each element of a matrix and token, four for each
/// attended pair and channel.
pub fn forward(shape: &LlamaConfig, regime: &Regime, load: Load, head_passes: usize) -> f64 {
    let (layers, attention) = layers_and_attention(shape, load);
    layers + attention + 2.0 * regime.adapters as f64 * load.tokens as f64 + head_passes as f64 * head(shape, load)
}

/// Operations forward and backward: 6 for each element that is trained, 4 for each frozen one that a gradient passes.
/// All codes take one pass through the head.
pub fn training(shape: &LlamaConfig, regime: &Regime, load: Load) -> f64 {
    let latent = latent(shape, regime, load);
    if regime.cached {
        return regime.kept_head[0] * load.responses as f64 + latent;
    }
    let (layers, attention) = layers_and_attention(shape, load);
    let head = head(shape, load) * if regime.head_gradient { 3.0 } else { 2.0 };
    let adapters = 6.0 * regime.adapters as f64 * load.tokens as f64;
    layers * if regime.backbone_gradient { 3.0 } else { 2.0 } + 3.0 * attention + adapters + head + latent
}

/// Operations of the latent part, forward and backward.
fn latent(shape: &LlamaConfig, regime: &Regime, load: Load) -> f64 {
    // A copied head is counted with the head.
    let copied = if regime.cached && regime.head_gradient && shape.tie_word_embeddings {
        shape.vocab_size * shape.hidden_size
    } else {
        0
    };
    6.0 * regime.added.saturating_sub(regime.adapters + copied) as f64 * load.pairs as f64
}

/// Operations of the latent part's warm-up. Where the hidden states of its pairs are kept, the backbone has run for the
/// reference already, or runs once.
fn warming(config: &TrainConfig, shape: &LlamaConfig, regime: &Regime, loads: &Loads) -> f64 {
    let own = regime.kept_head[1] * loads.warm.responses as f64 + latent(shape, regime, loads.warm);
    let rows = if config.lpc.reads_states() { loads.epoch.tokens } else { loads.epoch.responses };
    let kept = NUMBER * (rows as usize * shape.hidden_size) as f64 <= config.head.memory_mb as f64 * MIB;
    let share = (loads.warm.pairs as f64 / loads.epoch.pairs.max(1) as f64).min(1.0);
    let backbone = match kept {
        _ if regime.cached || loads.warm.pairs == 0 => 0.0,
        true if config.objective.needs_reference() => 0.0,
        true => share * forward(shape, regime, loads.epoch, 0),
        false => forward(shape, regime, loads.warm, 0),
    };
    own + backbone
}

/// Forward operations of the layers' matrices, and of their attention.
fn layers_and_attention(shape: &LlamaConfig, load: Load) -> (f64, f64) {
    let h = shape.hidden_size;
    let projections = 2 * h * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads);
    let elements = shape.num_hidden_layers * (projections + 3 * h * shape.intermediate_size);
    let channels = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim;
    (2.0 * elements as f64 * load.tokens as f64, 4.0 * channels as f64 * load.attended as f64)
}

/// Forward operations of one pass through the head.
fn head(shape: &LlamaConfig, load: Load) -> f64 {
    2.0 * shape.vocab_size as f64 * shape.hidden_size as f64 * load.responses as f64
}

impl Flops {
    /// Operations of a run.
    pub fn of(
        config: &TrainConfig,
        shape: &LlamaConfig,
        regime: &Regime,
        (loads, plan): (&Loads, StepPlan),
        splits: &[Split],
    ) -> Flops {
        let all = Load::of_splits(splits, regime.window);
        let of_split = |i: usize| Load::of_splits(splits.get(i..=i).unwrap_or_default(), regime.window);
        let (test, validation) = (of_split(1), of_split(2));
        let evaluations = match config.eval_every {
            0 => 0,
            every => plan.steps.saturating_sub(1) / every,
        };
        let examined = |load: Load| forward(shape, regime, load, regime.evaluation_passes);
        let last = if config.posteriors == Posteriors::All { all } else { test };
        // A run that a limit of steps ends early needs the reference of its own pairs and of those that are evaluated.
        let trained = loads.all.pairs + loads.warm.pairs;
        let part = (trained as f64 / loads.epoch.pairs.max(1) as f64).min(1.0);
        let once = |load: Load| forward(shape, regime, load, 1);
        let referenced = once(loads.epoch) * part + once(test) + once(validation);
        // The pass that computes the hidden states to keep gives the reference too.
        let first = config.objective.needs_reference() || regime.cached;
        let mut flops = Flops {
            training: training(shape, regime, loads.all) + warming(config, shape, regime, loads),
            reference: match config.posteriors {
                _ if !first => 0.0,
                Posteriors::Test if !regime.cached => referenced,
                _ => once(all),
            },
            evaluation: examined(last)
                + evaluations as f64 * examined(test)
                + config.validation.count(&plan) as f64 * examined(validation),
            total: 0.0,
            per_step: 0.0,
        };
        if config.objective.joins().is_some() && config.accumulate > 1 {
            // Dr.DPO joins the passes of a step, each of which is computed forward once more for that.
            flops.training += once(loads.all);
        }
        flops.total = flops.training + flops.reference + flops.evaluation;
        flops.per_step = flops.training / plan.steps.max(1) as f64;
        flops
    }
}

/// What a run costs whatever the machine.
pub struct Cost {
    /// What decides it.
    pub regime: Regime,
    /// The steps.
    pub plan: StepPlan,
    /// Loads of the steps.
    pub loads: Loads,
    /// Memory.
    pub memory: Memory,
    /// Operations.
    pub flops: Flops,
}

impl Cost {
    /// The cost of a resolved configuration.
    pub fn of(config: &TrainConfig, seed: Seed, shape: &LlamaConfig, splits: &[Split]) -> Cost {
        let regime = Regime::of(config, shape);
        let rows = &splits[0].rows;
        let plan = config.plan(rows.len(), 1);
        let loads = Loads::of(config, rows, plan, seed, regime.window);
        let codes = if config.lpc.active() { config.lpc.codes } else { 1 };
        let memory = Memory::of(shape, &regime, loads.largest, splits, codes);
        let flops = Flops::of(config, shape, &regime, (&loads, plan), splits);
        Cost { regime, plan, loads, memory, flops }
    }
}

/// A warning where a run will not fit into this machine's memory: it may still run on swap, or fail after hours.
pub fn memory_warning(config: &TrainConfig, seed: Seed, shape: &LlamaConfig, splits: &[Split]) -> Option<String> {
    let memory = Cost::of(config, seed, shape, splits).memory;
    let limit = available_memory_mb().filter(|limit| memory.total > *limit)?;
    Some(format!(
        "this run needs about {:.0} MiB and the machine has {limit:.0}: {}",
        memory.total,
        memory.advice(limit, config.batch, config.accumulate).join("; ")
    ))
}

/// Memory that this process may use, MiB: the machine's, or its control group's where that has less; none where the
/// system does not tell.
pub fn available_memory_mb() -> Option<f64> {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let total = text("/proc/meminfo").and_then(|all| {
        let line = all.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().to_string();
        Some(line.strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
    });
    // Of this process' own group where its path can be read, of the root's otherwise (as in a container).
    let group = text("/proc/self/cgroup")
        .and_then(|all| Some(all.lines().find_map(|l| l.strip_prefix("0::"))?.trim_matches('/').to_string()))
        .unwrap_or_default();
    let limits = [
        format!("/sys/fs/cgroup/{group}/memory.max"),
        "/sys/fs/cgroup/memory.max".to_string(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_string(),
    ];
    let limits = limits.iter().filter_map(|path| Some(text(path)?.trim().parse::<f64>().ok()? / MIB));
    limits.chain(total).reduce(f64::min)
}

#[cfg(test)]
mod tests;
