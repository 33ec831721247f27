//! The metrics of a training step.

use super::events::Metrics;
use super::step::Sums;
use crate::lpc::{Lpc, Moment};
use crate::objective::{ObjectiveConfig, ObjectiveKind};
use crate::schema::metric;

/// Means over the examples of a step, and the state of the latent part's schedules.
///
/// `objective` is that after the step. The loss is the one that is minimised, without the latent's terms: a mean over
/// pairs with their weights, or for Dr.DPO the joined loss.
pub(super) fn metrics(sums: &Sums, moment: Moment, objective: &ObjectiveConfig, lpc: Option<&Lpc>) -> Metrics {
    let mean = |x: f64| x / sums.examples.max(1.0);
    let [joined, _] = &sums.joined;
    let loss = match objective.joins() {
        Some(beta) => joined.loss(beta) * mean(joined.mass),
        None => mean(sums.objective),
    };
    let mut out = vec![
        (metric::LOSS, loss),
        (metric::REWARDS_CHOSEN, mean(sums.rewards.0)),
        (metric::REWARDS_REJECTED, mean(sums.rewards.1)),
        (metric::REWARDS_MARGINS, mean(sums.rewards.0 - sums.rewards.1)),
        (metric::REWARDS_ACCURACIES, mean(sums.right)),
        (metric::LOGPS_CHOSEN, mean(sums.logps.0)),
        (metric::LOGPS_REJECTED, mean(sums.logps.1)),
    ];
    if objective.name == ObjectiveKind::Sft {
        // It sees neither the rejected response nor a reference.
        out.retain(|(key, _)| [metric::LOSS, metric::LOGPS_CHOSEN].contains(key));
    }
    if let Some(flips) = sums.flips {
        out.push((metric::FLIP_RATE, mean(flips)));
    }
    if let (Some((clean, weights)), Some(rate)) = (sums.clean, objective.clean_rate()) {
        out.push((metric::CLEAN_RATE, rate));
        // A step of pairs without weight tells nothing.
        if weights > 0.0 {
            out.push((metric::CLEAN_PROBABILITY, clean / weights));
        }
    }
    if let Some(config) = lpc.map(|lpc| &lpc.config) {
        if config.latent.inferred() {
            out.extend([(metric::KL, mean(sums.kl)), (metric::KL_WEIGHT, moment.kl_weight), (metric::G, moment.g)]);
        }
        if config.coded() {
            let perplexity = sums.usage.perplexity();
            out.extend([
                (metric::TAU, moment.tau),
                (metric::SWAP_OVERLAP, mean(sums.overlap)),
                (metric::CODES_USED, sums.usage.codes_used() as f64),
                (metric::CODE_PERPLEXITY, perplexity),
                // e to the mutual information of pair and code: 1 where the posterior is the same for every pair.
                (metric::EFFECTIVE_CODES, perplexity / mean(sums.entropy.1).exp()),
                (metric::PRIOR_ENTROPY, mean(sums.entropy.0)),
                (metric::POSTERIOR_ENTROPY, mean(sums.entropy.1)),
            ]);
        }
    }
    out.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}
