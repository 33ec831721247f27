//! How fast this machine is: a timed pass of a small model, and the time of a run computed from it.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::config::TrainConfig;
use super::estimate::{self, Flops, Load, Regime};
use super::gradient_check::finite_norm;
use super::optimizer::{AdamW, AdamWConfig, LearningRates};
use super::ranks::ALONE;
use super::step::{self, StepPass, Sums};
use crate::error::Result;
use crate::lpc::{Basis, LatentKind, LpcConfig};
use crate::model::init::random;
use crate::model::{Gradients, LlamaConfig, Loaded};
use crate::policy::Policy;
use crate::policy::evaluate::plain_logps;
use crate::seed::Seed;
use crate::token_file::{TokenIds, TokenRow};

/// Most elements of the layer that is timed: more than fit into a processor's cache, and made in a moment.
const ELEMENTS: usize = 16 << 20;
/// Largest vocabulary of the timed model.
const VOCABULARY: usize = 4096;
/// Packed rows of the timed pass.
const ROWS: usize = 1024;
/// Seconds after which a timing is not repeated again.
const SECONDS: f64 = 0.7;
/// Most repetitions of a timing.
const REPEATS: usize = 9;

/// How fast this machine trains and evaluates, by a timed pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// What was timed, in words.
    pub how: String,
    /// Useful operations a second of forward and backward passes, 10^9.
    pub training_gflops: f64,
    /// Useful operations a second of forward passes, 10^9.
    pub forward_gflops: f64,
    /// Seconds that the optimizer takes for 10^9 trained numbers.
    pub optimizer_seconds: f64,
}

/// Expected seconds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seconds {
    /// Training steps.
    pub training: f64,
    /// The reference's log-probabilities, where no cache is there.
    pub reference: f64,
    /// Evaluations.
    pub evaluation: f64,
    /// Their sum.
    pub total: f64,
}

impl Speed {
    /// Times a model of one layer, as wide as `shape` or narrowed, on the first of `rows`: forward, forward and
    /// backward, and the optimizer. Takes about two seconds.
    ///
    /// # Errors
    /// Those of a pass.
    pub fn measure(config: &TrainConfig, shape: &LlamaConfig, rows: &[TokenRow]) -> Result<Speed> {
        let small = narrowed(shape);
        let rows = sample(rows, small.vocab_size as u32);
        let config = TrainConfig {
            tune: Default::default(),
            lpc: LpcConfig { latent: LatentKind::None, ..LpcConfig::default() },
            ..config.clone()
        };
        let regime = Regime::of(&config, &small);
        let params = random::<f32>(&small, 0.02, Seed(0))?;
        let longest = crate::batch::longest(&rows);
        let basis = Basis::sized(&config.lpc, small.hidden_size, small.vocab_size);
        let loaded = Loaded { config: small.clone(), params };
        let mut policy = Policy::<f32>::new(loaded, None, &config.lpc, basis, Seed(0), longest)?;
        policy.decoder.precision = config.operands(shape.hidden_size);
        policy.decoder.recompute = config.recompute;
        let mut reference = Vec::new();
        let forward = median(|| {
            reference = plain_logps(&policy, &rows, |_| {})?;
            Ok(())
        })?;
        let gradients = Arc::new(Gradients::new(&policy.params));
        let picked: Vec<&TokenRow> = rows.iter().collect();
        let pass = StepPass {
            objective: &config.objective,
            moment: config.lpc.moment(0.0, 0.0),
            seed: Seed(0),
            occasion: "timing",
            step_examples: rows.len(),
            ranks: &ALONE,
            backbone: true,
            keys: None,
            joined: None,
            layer_sums: None,
        };
        let training = median(|| step::pass(&policy, &picked, &reference, &pass, &gradients, &mut Sums::default()))?;
        let mut optimizer = AdamW::<f32>::new(AdamWConfig::of(&config, 0), &policy.params)?;
        let rates = LearningRates::default();
        let stepping = median(|| {
            finite_norm::<f32>(&policy.params, &gradients, 0, &Vec::new)?;
            optimizer.step(&policy.params, &gradients, rates, 1.0)?;
            gradients.clear::<f32>()
        })?;
        let both = config.objective.name != crate::objective::ObjectiveKind::Sft;
        let load = |both| rows.iter().map(|row| Load::of(row, both, regime.window)).sum::<Load>();
        let how = format!(
            "one timed pass of one layer, hidden size {}, over {} tokens, {} threads",
            small.hidden_size,
            load(both).tokens,
            rayon::current_num_threads(),
        );
        Ok(Speed {
            how,
            training_gflops: estimate::training(&small, &regime, load(both)) / training / 1e9,
            forward_gflops: estimate::forward(&small, &regime, load(true), 1) / forward / 1e9,
            optimizer_seconds: stepping / policy.params.trainable_elements().max(1) as f64 * 1e9,
        })
    }

    /// Seconds for these operations, and for `steps` of an optimizer over `trainable` numbers.
    pub fn seconds(&self, flops: &Flops, steps: usize, trainable: usize) -> Seconds {
        let optimizer = self.optimizer_seconds * trainable as f64 / 1e9 * steps as f64;
        let training = flops.training / (self.training_gflops * 1e9) + optimizer;
        let forward = |flops: f64| flops / (self.forward_gflops * 1e9);
        let (reference, evaluation) = (forward(flops.reference), forward(flops.evaluation));
        Seconds { training, reference, evaluation, total: training + reference + evaluation }
    }
}

/// A model of one layer, halved in every dimension until it has at most [`ELEMENTS`] beside its embeddings.
fn narrowed(shape: &LlamaConfig) -> LlamaConfig {
    let mut small = LlamaConfig {
        num_hidden_layers: 1,
        vocab_size: shape.vocab_size.min(VOCABULARY),
        tie_word_embeddings: true,
        ..shape.clone()
    };
    loop {
        let c = &small;
        let even = [c.hidden_size, c.intermediate_size, c.num_attention_heads].iter().all(|n| n.is_multiple_of(2));
        let even = even && (c.num_key_value_heads == 1 || c.num_key_value_heads.is_multiple_of(2));
        if !even || c.parameters() - c.vocab_size * c.hidden_size <= ELEMENTS {
            return small;
        }
        small.hidden_size /= 2;
        small.intermediate_size /= 2;
        small.num_attention_heads /= 2;
        small.num_key_value_heads = small.num_key_value_heads.div_ceil(2);
    }
}

/// The first rows, about [`ROWS`] tokens of them, with tokens that the small vocabulary has.
fn sample(rows: &[TokenRow], vocabulary: u32) -> Vec<TokenRow> {
    let mut out: Vec<TokenRow> = Vec::new();
    let mut tokens = 0;
    for row in rows {
        if tokens >= ROWS {
            break;
        }
        let ids = |ids: &[u32]| ids.iter().take(ROWS).map(|id| id % vocabulary.max(1)).collect::<TokenIds>();
        let row = TokenRow {
            prompt_ids: ids(&row.prompt_ids),
            chosen_ids: ids(&row.chosen_ids),
            rejected_ids: ids(&row.rejected_ids),
            ..row.clone()
        };
        tokens += Load::of(&row, true, usize::MAX).tokens as usize;
        out.push(row);
    }
    out
}

/// Median seconds of `work`, after one call that is not counted.
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || (times.len() < REPEATS && begun.elapsed().as_secs_f64() < SECONDS) {
        let clock = Instant::now();
        work()?;
        times.push(clock.elapsed().as_secs_f64().max(1e-9));
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_model_is_timed_as_a_small_one() {
        let large = LlamaConfig {
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            ..LlamaConfig::tiny(64, 1, 128_256)
        };
        let small = narrowed(&large);
        assert_eq!((small.hidden_size, small.num_attention_heads, small.num_key_value_heads), (1024, 8, 2));
        assert_eq!((small.num_hidden_layers, small.vocab_size, small.head_dim), (1, VOCABULARY, 128));
        let tiny = LlamaConfig::tiny(64, 2, 300);
        assert_eq!(narrowed(&tiny), LlamaConfig { num_hidden_layers: 1, ..tiny });
    }

    #[test]
    fn a_timed_pass_gives_rates() {
        let rows: Vec<TokenRow> = (0..40)
            .map(|i| TokenRow {
                id: i.to_string().into(),
                prompt_ids: vec![700; 20].into(),
                chosen_ids: vec![5; 15].into(),
                rejected_ids: vec![6; 10].into(),
                ..TokenRow::default()
            })
            .collect();
        let config = TrainConfig::default().resolved();
        let speed = Speed::measure(&config, &LlamaConfig::tiny(64, 2, 300), &rows).unwrap();
        assert!(speed.how.contains("hidden size 64, over 1035 tokens"), "{}", speed.how);
        assert!(speed.training_gflops > 0.0 && speed.forward_gflops > 0.0 && speed.optimizer_seconds > 0.0);
        let flops = Flops { training: 3e9, reference: 1e9, evaluation: 2e9, total: 6e9, per_step: 1e9 };
        let half = Speed { training_gflops: 0.5, forward_gflops: 2.0, optimizer_seconds: 4.0, ..speed };
        let seconds = half.seconds(&flops, 3, 500_000_000);
        assert_eq!((seconds.training, seconds.reference, seconds.evaluation), (12.0, 0.5, 1.0));
        assert_eq!(seconds.total, 13.5);
    }
}
