//! Bayes' posterior of examined pairs, computed from the objective under every code.

use candle_core::{Device, Tensor};

use super::split_examples::{SplitExamples, preference};
use crate::batch::runs;
use crate::error::Result;
use crate::lpc::{LpcConfig, bayes};
use crate::objective::{ObjectiveConfig, PreferenceLogps, PreferenceLosses};
use crate::policy::Example;
use crate::token_file::TokenRow;

/// What posteriors and margins depend on besides the pairs.
#[derive(Debug, Clone, Copy)]
pub struct PosteriorContext<'a> {
    /// Resolved objective.
    pub objective: &'a ObjectiveConfig,
    /// Resolved latent part.
    pub lpc: &'a LpcConfig,
    /// Learned flip rates of the labels: one for each code, or one for all.
    pub flips: Option<&'a [f64]>,
}

/// K, and the objective of every pair under every code, pair by pair (B*K); with `swapped`, chosen and rejected are
/// exchanged. None without codes.
fn under_codes(
    split: &SplitExamples<'_>,
    context: PosteriorContext<'_>,
    swapped: bool,
) -> Result<Option<(usize, PreferenceLosses)>> {
    let k = split.examples.first().map_or(0, |example| example.code_logps.len() / 2);
    if k == 0 {
        return Ok(None);
    }
    let side = |from: usize| -> Vec<f64> {
        split.examples.iter().flat_map(|e| &e.code_logps[from..from + k]).map(|&x| f64::from(x)).collect()
    };
    let each =
        |t: Tensor| -> Result<Tensor> { Ok(t.unsqueeze(1)?.broadcast_as((split.rows.len(), k))?.flatten_all()?) };
    let n = split.rows.len() * k;
    let p = preference(split, |_| (0.0, 0.0))?;
    let logps = PreferenceLogps {
        chosen_logps: Tensor::from_vec(side(0), n, &Device::Cpu)?,
        rejected_logps: Tensor::from_vec(side(k), n, &Device::Cpu)?,
        reference_chosen_logps: each(p.reference_chosen_logps)?,
        reference_rejected_logps: each(p.reference_rejected_logps)?,
        n_chosen: each(p.n_chosen)?,
        n_rejected: each(p.n_rejected)?,
    };
    let logps = if swapped { logps.swapped() } else { logps };
    let flips = context.flips.map(|rates| {
        let of = |code: usize| rates.get(code).or(rates.first()).copied().unwrap_or(0.0);
        Tensor::from_vec((0..n).map(|i| of(i % k)).collect::<Vec<f64>>(), n, &Device::Cpu)
    });
    Ok(Some((k, context.objective.losses_with(&logps, flips.transpose()?.as_ref())?)))
}

/// Implicit reward margins of the observed order with each code alone: a list of K for each pair, empty without codes.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn code_margins(split: &SplitExamples<'_>, context: PosteriorContext<'_>) -> Result<Vec<Vec<f32>>> {
    let Some((k, found)) = under_codes(split, context, false)? else { return Ok(vec![Vec::new(); split.rows.len()]) };
    let margins = found.margins()?.to_vec1::<f64>()?;
    Ok(margins.chunks(k).map(|m| m.iter().map(|&x| x as f32).collect()).collect())
}

/// Computes the posteriors of examples that have none yet, with their KL from the prior and their entropy:
/// `q_k` proportional to `p_k e^(-l_k / lambda)`, l being the losses in the observed order. Neighbouring rows with the
/// same key share a posterior, whose losses are their sums, each times its row's weight.
///
/// Returns the sum over the examples of the swap overlap `sum_k sqrt(q_k q'_k)`, q' being the posterior of the pair
/// with its sides swapped; none where a network gives the posterior.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn add_posteriors(
    rows: &[TokenRow],
    examples: &mut [Example],
    reference: Option<&[(f64, f64)]>,
    keys: Option<&[u64]>,
    context: PosteriorContext<'_>,
) -> Result<Option<f64>> {
    if !context.lpc.bayesian() || examples.is_empty() {
        return Ok(None);
    }
    let split = SplitExamples { split: "", rows, examples, reference };
    let Some((k, found)) = under_codes(&split, context, false)? else { return Ok(None) };
    let losses = found.losses.to_vec1::<f64>()?;
    let swapped =
        under_codes(&split, context, true)?.map_or(Ok(Vec::new()), |(_, found)| found.losses.to_vec1::<f64>())?;
    let mut overlaps = 0.0;
    let weight = context.lpc.kl_weight * context.objective.loss_unit();
    let groups = match keys {
        Some(keys) => runs(keys),
        None => (0..rows.len()).map(|i| i..i + 1).collect(),
    };
    for group in groups {
        let sum_of = |losses: &[f64]| -> Vec<f64> {
            let mut sum = vec![0.0; k];
            for row in group.clone() {
                // As in training: weights count within groups, and a pair by itself has the posterior of one pair.
                let weight = if keys.is_some() { rows[row].loss_weight() } else { 1.0 };
                sum.iter_mut().zip(&losses[row * k..]).for_each(|(sum, l)| *sum += weight * l);
            }
            sum
        };
        let (sum, other) = (sum_of(&losses), sum_of(&swapped));
        for example in &mut examples[group.clone()] {
            let q = bayes::posterior(&example.prior, &sum, weight);
            let turned = bayes::posterior(&example.prior, &other, weight);
            overlaps += q.iter().zip(&turned).map(|(&a, &b)| (f64::from(a) * f64::from(b)).sqrt()).sum::<f64>();
            let terms = |f: fn(f64, f64) -> f64| -> f64 {
                q.iter().zip(&example.prior).map(|(&q, &p)| f(f64::from(q), f64::from(p))).sum()
            };
            example.kl = terms(|q, p| if q > 0.0 { q * (q / p.max(1e-300)).ln() } else { 0.0 }).max(0.0);
            example.posterior_entropy = terms(|q, _| if q > 0.0 { -q * q.ln() } else { 0.0 }).max(0.0);
            example.posterior = q;
        }
    }
    Ok(Some(overlaps))
}
