//! What a run costs, from shapes and lengths alone: memory by part, floating-point operations.
//!
//! Nothing here reads a weight. Whatever changes the cost besides the model's shape and the data is a field of
//! [`Regime`], so that other ways of tuning and other precisions only have to say what they are.

use std::ops::{Add, AddAssign};

use serde::Serialize;

use super::config::{Posteriors, TrainConfig, Tune};
use super::plan::{Feed, Plan};
use crate::batch::{Split, TokenRow};
use crate::model::LlamaConfig;
use crate::objective::ObjectiveKind;
use crate::policy::Example;
use crate::seed::Seed;

/// Bytes in a MiB.
pub const MIB: f64 = (1 << 20) as f64;
/// Packed rows of an evaluation's pass.
const EVALUATION_ROWS: usize = 4096;
/// The program itself, its tokenizer, what the allocator holds back.
const PROGRAM: f64 = 96.0 * MIB;

/// What decides a run's cost besides the model's shape and the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Regime {
    /// Elements of the model, without what is added to it.
    pub backbone: usize,
    /// Elements added to the model and trained: the latent part, adapters.
    pub added: usize,
    /// Elements that training changes, added ones included.
    pub trainable: usize,
    /// Bytes of a stored weight.
    pub weight_bytes: f64,
    /// Bytes of a trainable weight's copy in full precision; 0 where the weight is that itself.
    pub master_bytes: f64,
    /// Bytes of a gradient's number.
    pub gradient_bytes: f64,
    /// Bytes of a number's two moments.
    pub moment_bytes: f64,
    /// Bytes that a layer keeps of a packed row for its backward pass.
    pub kept_bytes: f64,
    /// Whether layers keep their input only, and compute the rest again.
    pub recompute: bool,
    /// Share of the layers' matrices that need a gradient: 1 in full tuning, 0 with adapters.
    pub backbone_gradient: f64,
    /// Whether the head's matrix needs a gradient.
    pub head_gradient: bool,
    /// Elements of adapters that every token passes.
    pub adapters: usize,
    /// Whether the backbone runs once before training, and its hidden states are kept: head-only tuning.
    pub cached: bool,
    /// Passes through the head for each response in training: the codes, where the sum over them is exact.
    pub head_passes: usize,
    /// Passes through the head for each response in evaluation: prior and posterior.
    pub evaluation_passes: usize,
    /// Longest distance over which a token is attended to.
    pub window: usize,
}

impl Regime {
    /// What a configuration asks for.
    pub fn of(config: &TrainConfig, shape: &LlamaConfig) -> Regime {
        let latent = match config.lpc.active() {
            true => {
                let basis = crate::lpc::Basis::sized(&config.lpc, shape.hidden_size, shape.vocab_size);
                crate::lpc::shapes(&config.lpc, &basis)
            }
            false => Vec::new(),
        };
        let latent: usize = latent.iter().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
        let backbone = shape.parameters();
        let (q, kv) = (shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim);
        // What `model::layer` keeps: queries, keys, values, attention's output, the residual stream before and
        // after it, gate and up, and a number for each head and norm.
        let kept = 2 * q + 2 * kv + 2 * shape.hidden_size + 2 * shape.intermediate_size;
        let kept = kept + shape.num_attention_heads + 2;
        let adapter = if config.tune == Tune::Lora { crate::model::Lora::new(&config.lora).elements(shape) } else { 0 };
        // A tied head is copied, so that it can change alone.
        let head = shape.vocab_size * shape.hidden_size;
        let copied = if config.tune == Tune::Head && shape.tie_word_embeddings { head } else { 0 };
        let trainable = match config.tune {
            Tune::Full => backbone + latent,
            Tune::Lora => adapter + latent,
            Tune::Head => head + latent,
            Tune::Latent => latent,
        };
        let window =
            if shape.sliding_window > 0 && shape.first_windowed_layer == 0 { shape.sliding_window } else { usize::MAX };
        Regime {
            backbone,
            added: latent + adapter + copied,
            trainable,
            weight_bytes: 4.0,
            master_bytes: 0.0,
            gradient_bytes: 4.0,
            moment_bytes: 8.0,
            kept_bytes: 4.0 * kept as f64,
            recompute: config.recompute,
            backbone_gradient: if config.tune == Tune::Full { 1.0 } else { 0.0 },
            head_gradient: matches!(config.tune, Tune::Full | Tune::Head),
            adapters: adapter,
            cached: config.tune.keeps_states(),
            // Exact sums take all codes through one product.
            head_passes: 1,
            evaluation_passes: if config.lpc.active() && config.lpc.latent.inferred() { 2 } else { 1 },
            window,
        }
    }
}

/// What has to be computed of some pairs; the prompt counts once for both responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Pairs.
    pub pairs: u64,
    /// Tokens through the backbone.
    pub tokens: u64,
    /// Of these, those that predict a response's token, for the head.
    pub responses: u64,
    /// Pairs of a token and one that it attends to.
    #[serde(skip)]
    pub attended: u64,
}

impl Add for Load {
    type Output = Load;

    fn add(self, other: Load) -> Load {
        Load {
            pairs: self.pairs + other.pairs,
            tokens: self.tokens + other.tokens,
            responses: self.responses + other.responses,
            attended: self.attended + other.attended,
        }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Load>>(all: I) -> Load {
        all.fold(Load::default(), Add::add)
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

/// What the steps of a run have to compute, exactly: the order of the examples is known beforehand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loads {
    /// All steps that train more than the latent part.
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
    pub fn of(config: &TrainConfig, rows: &[TokenRow], plan: Plan, seed: Seed, window: usize) -> Loads {
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
    /// Weights, with their copies in full precision.
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
    /// Memory for a run whose largest pass is `largest`.
    pub fn of(shape: &LlamaConfig, regime: &Regime, largest: Load, splits: &[Split], codes: usize) -> Memory {
        let (h, i) = (shape.hidden_size as f64, shape.intermediate_size as f64);
        let (q, kv) =
            ((shape.num_attention_heads * shape.head_dim) as f64, (shape.num_key_value_heads * shape.head_dim) as f64);
        let (layers, tokens) = (shape.num_hidden_layers as f64, largest.tokens as f64);
        let chunk = crate::nn::token_logps::CHUNK.min(shape.vocab_size) as f64;
        let head = |responses: f64| 4.0 * responses * (2.0 * chunk + 4.0 * h);
        let kept = match (regime.cached, regime.recompute) {
            (true, _) => 0.0,
            (false, true) => tokens * (layers * 4.0 * h + regime.kept_bytes),
            (false, false) => tokens * layers * regime.kept_bytes,
        };
        // A layer's backward pass: the feed-forward part's gradients, some rows of the residual stream.
        let layer = if regime.cached { 0.0 } else { 4.0 * tokens * (2.0 * i + 6.0 * h) };
        let rows: f64 = splits.iter().map(|s| s.rows.len() as f64).sum();
        let ids = Load::of_splits(splits, regime.window).tokens as f64;
        let evaluated = (ids / rows.max(1.0)).max(EVALUATION_ROWS as f64).min(ids);
        let mut memory = Memory {
            weights: (regime.backbone + regime.added) as f64 * regime.weight_bytes
                + regime.trainable as f64 * regime.master_bytes,
            gradients: regime.trainable as f64 * regime.gradient_bytes,
            moments: regime.trainable as f64 * regime.moment_bytes,
            activations: kept + layer.max(head(largest.responses as f64)),
            evaluation: rows * (size_of::<Example>() + 16 * codes) as f64
                + 4.0 * evaluated * (3.0 * i + 2.0 * q + 2.0 * kv + 4.0 * h)
                + head(evaluated),
            // A row's three lists, texts and lengths; two reference values; cached hidden states.
            data: 4.0 * ids
                + rows * (size_of::<TokenRow>() as f64 + 64.0 + 16.0)
                + if regime.cached { 4.0 * ids * h } else { 0.0 },
            program: PROGRAM,
            total: 0.0,
        };
        for part in [
            &mut memory.weights,
            &mut memory.gradients,
            &mut memory.moments,
            &mut memory.activations,
            &mut memory.evaluation,
            &mut memory.data,
            &mut memory.program,
        ] {
            *part /= MIB;
        }
        memory.total = memory.fixed() + memory.activations.max(memory.evaluation);
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
        // One that divides, so that steps stay what they are.
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

/// Floating-point operations, useful ones: what recomputing adds is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flops {
    /// All training steps, forward and backward; forward alone for the backbone in the latent part's warm-up.
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

/// Operations forward: two for each element of a matrix and token, four for each attended pair and channel.
pub fn forward(shape: &LlamaConfig, regime: &Regime, load: Load, head_passes: usize) -> f64 {
    let (layers, attention) = parts(shape, load);
    layers + attention + 2.0 * regime.adapters as f64 * load.tokens as f64 + head_passes as f64 * head(shape, load)
}

/// Operations forward and backward: 6 for each element that is trained, 4 for each frozen one that a gradient passes.
pub fn training(shape: &LlamaConfig, regime: &Regime, load: Load) -> f64 {
    let (layers, attention) = parts(shape, load);
    let head = regime.head_passes as f64 * head(shape, load) * if regime.head_gradient { 3.0 } else { 2.0 };
    // A head of its own is not part of the latent: it is counted with the head.
    let copied = if regime.cached && shape.tie_word_embeddings { shape.vocab_size * shape.hidden_size } else { 0 };
    let latent = 6.0 * regime.added.saturating_sub(regime.adapters + copied) as f64 * load.pairs as f64;
    if regime.cached {
        return head + latent;
    }
    let adapters = 6.0 * regime.adapters as f64 * load.tokens as f64;
    layers * (2.0 + regime.backbone_gradient) + 3.0 * attention + adapters + head + latent
}

/// Forward operations of the layers' matrices, and of their attention.
fn parts(shape: &LlamaConfig, load: Load) -> (f64, f64) {
    let h = shape.hidden_size;
    let projections = 2 * h * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads);
    let elements = shape.num_hidden_layers * (projections + 3 * h * shape.intermediate_size);
    let channels = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim;
    (2.0 * elements as f64 * load.tokens as f64, 4.0 * channels as f64 * load.attended as f64)
}

fn head(shape: &LlamaConfig, load: Load) -> f64 {
    2.0 * shape.vocab_size as f64 * shape.hidden_size as f64 * load.responses as f64
}

impl Flops {
    /// Operations of a run.
    pub fn of(
        config: &TrainConfig,
        shape: &LlamaConfig,
        regime: &Regime,
        (loads, plan): (&Loads, Plan),
        splits: &[Split],
    ) -> Flops {
        let all = Load::of_splits(splits, regime.window);
        let test = Load::of_splits(splits.get(1..).unwrap_or_default(), regime.window);
        let evaluations = match config.eval_every {
            0 => 0,
            every => plan.steps.saturating_sub(1) / every,
        };
        let examined = |load: Load| forward(shape, regime, load, regime.evaluation_passes);
        let last = if config.posteriors == Posteriors::All { all } else { test };
        // Steps that a limit ends early need the reference of their own pairs alone, beside what is evaluated.
        let trained = loads.all.pairs + loads.warm.pairs;
        let part = (trained as f64 / loads.epoch.pairs.max(1) as f64).min(1.0);
        let referenced = forward(shape, regime, loads.epoch, 1) * part + forward(shape, regime, test, 1);
        // The pass that fills the cache of hidden states is the reference's too.
        let first = config.objective.needs_reference() || regime.cached;
        let mut flops = Flops {
            training: training(shape, regime, loads.all) + forward(shape, regime, loads.warm, 1),
            reference: match config.posteriors {
                _ if !first => 0.0,
                Posteriors::Test if !regime.cached => referenced,
                _ => forward(shape, regime, all, 1),
            },
            evaluation: examined(last) + evaluations as f64 * examined(test),
            total: 0.0,
            per_step: 0.0,
        };
        flops.total = flops.training + flops.reference + flops.evaluation;
        flops.per_step = flops.training / plan.steps.max(1) as f64;
        flops
    }
}

#[cfg(test)]
mod tests;
