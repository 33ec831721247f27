//! What a step says of the latent part: only what its kind has.

use super::step::Sums;
use crate::lpc::{Lpc, Moment};
use crate::schema::metric;

/// Metrics of the latent part and of learned flip rates.
///
/// Divergence, its weight and g where there is a posterior; temperature, use and entropies where there are codes.
pub(super) fn metrics(sums: &Sums, moment: Moment, lpc: Option<&Lpc>) -> Vec<(&'static str, f64)> {
    let mean = |x: f64| x / sums.examples.max(1) as f64;
    let mut out = Vec::new();
    if let Some(flips) = sums.flips {
        out.push((metric::FLIP_RATE, mean(flips)));
    }
    let Some(config) = lpc.map(|l| &l.config) else { return out };
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
            // e to the information between pair and code: 1 where every pair is spread alike.
            (metric::EFFECTIVE_CODES, perplexity / mean(sums.entropy.1).exp()),
            (metric::PRIOR_ENTROPY, mean(sums.entropy.0)),
            (metric::POSTERIOR_ENTROPY, mean(sums.entropy.1)),
        ]);
    }
    out
}
