//! A training step with the exact sum over codes: the objective under every code, its marginal over the prior, and
//! Bayes' posterior.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Constants, StepPass, Sums, label_flips, mean_of, total};
use crate::error::Result;
use crate::lpc::bayes;
use crate::model::Gradients;
use crate::nn::Real;
use crate::objective::PreferenceLogps;
use crate::policy::{Policy, States};

/// The pass' share of the step's mean loss, differentiable: `1 - g` of the marginal losses
/// `-lambda ln sum_k p_k e^(-l_k / lambda)` of its groups of pairs, and g of the objective with the prior's expected z.
///
/// # Shapes
/// log_prior (B,K) · groups: ranges of pairs that share a code -> a scalar.
///
/// # Units
/// Those of the objective's losses.
///
/// # Errors
/// [`crate::Error::Tensor`].
///
/// # Source
/// As [`crate::lpc::bayes`].
#[allow(clippy::too_many_arguments, reason = "what a step knows of its pass")]
pub(super) fn forward<T: Real>(
    policy: &Policy<T>,
    states: &States,
    log_prior: &Tensor,
    constants: &Constants,
    groups: &[Range<usize>],
    pass: &StepPass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<Tensor> {
    let (pairs, k) = log_prior.dims2()?;
    let share = 1.0 / pass.step_examples as f64;
    let each = |t: &Tensor| -> Result<Tensor> { Ok(t.unsqueeze(1)?.broadcast_as((pairs, k))?.flatten_all()?) };
    let codes = policy.lpc.as_ref().and_then(|lpc| lpc.codes()).filter(|_| pass.moment.g > 0.0);
    let expected = codes.map(|codes| codes.mixed(&log_prior.exp()?)).transpose()?;
    let logps = policy.logps_of_codes(states, expected.as_ref().map(|(z, _)| z), Some(gradients))?;
    let rejected = logps.rejected.ok_or_else(no_pairs)?;
    let preference = PreferenceLogps {
        chosen_logps: logps.chosen.flatten_all()?,
        rejected_logps: rejected.flatten_all()?,
        reference_chosen_logps: each(&constants.reference.0)?,
        reference_rejected_logps: each(&constants.reference.1)?,
        n_chosen: each(&constants.lengths.0)?,
        n_rejected: each(&constants.lengths.1)?,
    };
    let flips = flip_rates(policy, pairs, k)?;
    let found = pass.objective.losses_with(&preference, flips.as_ref())?;
    let losses = found.losses.reshape((pairs, k))?;
    let weight = pass.moment.kl_weight * pass.objective.loss_unit();
    // lambda may rise from 0, where the marginal is the least of the losses: a thousandth is near enough to that.
    let weight = weight.max(1e-3 * pass.objective.loss_unit());
    let marginal = bayes::marginal(log_prior, &losses, weight, groups)?;
    let mut loss = (marginal.losses.sum_all()? * share)?;
    if let (Some(own), Some((_, flips))) = (logps.own, expected) {
        let losses = under_prior(policy, own, flips, constants, pass)?;
        loss = ((loss * (1.0 - pass.moment.g))? + (losses.sum_all()? * (share * pass.moment.g))?)?;
    }
    if pass.moment.balance > 0.0 {
        let (mean, examples) = mean_of(log_prior, pass.ranks)?;
        let balance = crate::lpc::balance(&mean)?;
        loss = (loss + (&balance * (examples * share * pass.moment.balance))?)?;
        sums.balance += balance.to_dtype(DType::F64)?.to_vec0::<f64>()? * pairs as f64;
    }
    // What follows is counted, and takes no part in the gradient.
    let swapped = pass.objective.losses_with(&preference.swapped(), flips.as_ref())?.losses.reshape((pairs, k))?;
    let other = bayes::marginal(log_prior, &swapped, weight, groups)?;
    let overlaps = numbers(&bayes::overlap(&marginal.log_posterior, &other.log_posterior)?)?;
    let rows = |t: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(t.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?) };
    let (prior, posterior) = (rows(&marginal.log_prior)?, rows(&marginal.log_posterior)?);
    sums.objective += total(&marginal.losses)?;
    for (((group, log_p), log_q), overlap) in groups.iter().zip(&prior).zip(&posterior).zip(overlaps) {
        let n = group.len() as f64;
        let q: Vec<f64> = log_q.iter().map(|q| q.exp()).collect();
        let expected = |log_p: &[f64], of: &[f64]| -> f64 { log_p.iter().zip(of).map(|(p, x)| p.exp() * x).sum() };
        sums.kl += n * q.iter().zip(log_q).zip(log_p).map(|((q, lq), lp)| q * (lq - lp)).sum::<f64>().max(0.0);
        sums.entropy.0 -= n * expected(log_p, log_p);
        sums.entropy.1 -= n * expected(log_q, log_q);
        sums.overlap += n * overlap;
        group.clone().for_each(|_| sums.usage.add(&q));
    }
    let weights: Vec<f64> = numbers(&log_prior.exp()?)?;
    let weighted = |t: &Tensor| -> Result<f64> { Ok(numbers(t)?.iter().zip(&weights).map(|(x, p)| x * p).sum()) };
    sums.rewards.0 += weighted(&found.chosen_rewards)?;
    sums.rewards.1 += weighted(&found.rejected_rewards)?;
    sums.logps.0 += weighted(&preference.chosen_logps)?;
    sums.logps.1 += weighted(&preference.rejected_logps)?;
    let margins = numbers(&found.margins()?)?;
    let expected =
        margins.chunks(k).zip(weights.chunks(k)).map(|(m, p)| m.iter().zip(p).map(|(m, p)| m * p).sum::<f64>());
    sums.right += expected.filter(|margin| *margin > 0.0).count() as f64;
    if let Some(flips) = &flips {
        *sums.flips.get_or_insert(0.0) += weighted(flips)?;
    }
    Ok(loss)
}

/// The objective of every pair with the prior's expected z, which evaluation and generation use.
///
/// # Shapes
/// (B).
fn under_prior<T: Real>(
    policy: &Policy<T>,
    logps: crate::policy::SequenceLogps,
    flips: Option<Tensor>,
    constants: &Constants,
    pass: &StepPass<'_>,
) -> Result<Tensor> {
    let pairs = logps.chosen.dim(0)?;
    let flips = match flips {
        Some(flips) => Some(flips),
        None => label_flips(policy, pairs)?,
    };
    let preference = PreferenceLogps {
        chosen_logps: logps.chosen,
        rejected_logps: logps.rejected.ok_or_else(no_pairs)?,
        reference_chosen_logps: constants.reference.0.clone(),
        reference_rejected_logps: constants.reference.1.clone(),
        n_chosen: constants.lengths.0.clone(),
        n_rejected: constants.lengths.1.clone(),
    };
    Ok(pass.objective.losses_with(&preference, flips.as_ref())?.losses)
}

fn no_pairs() -> crate::Error {
    crate::Error::run("codes need pairs")
}

/// Flip rate of each pair's label under each code, where rates are learned.
///
/// # Shapes
/// (B*K).
fn flip_rates<T: Real>(policy: &Policy<T>, pairs: usize, k: usize) -> Result<Option<Tensor>> {
    match policy.lpc.as_ref().and_then(|lpc| lpc.codes()).map(|codes| codes.flip_rates()).transpose()?.flatten() {
        Some(rates) => Ok(Some(rates.unsqueeze(0)?.broadcast_as((pairs, k))?.flatten_all()?)),
        None => label_flips(policy, pairs * k),
    }
}

/// A tensor's numbers, flat.
fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.detach().flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}
