//! A training step with the exact sum over codes: the objective under every code, its marginal over the prior, and
//! Bayes' posterior.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Constants, Part, StepPass, Sums, Weighing, label_flips, mean_of, numbers, total};
use crate::error::Result;
use crate::lpc::bayes;
use crate::model::Gradients;
use crate::nn::Real;
use crate::objective::PreferenceLogps;
use crate::policy::{Policy, States};

/// The pass' share of the step's mean loss, differentiable: `1 - g` of the marginal losses
/// `-lambda ln sum_k p_k e^(-l_k / lambda)` of its groups of pairs, and g of the objective with the prior's expected z.
///
/// l_k is the objective of a pair under code k alone, whatever the objective. Where exp(-l_k) is the likelihood of the
/// label (DPO, SimPO, mix, RE-PO over these), so is exp(-L) at lambda = 1, of a mixture of codes. ROPO's and
/// Hölder-DPO's losses are no likelihoods, and the second is bounded: the posterior is then a Gibbs posterior, the
/// gradient still the posterior's mean of the codes' gradients, so that a label that all codes contradict has as little
/// influence as without codes, and with Hölder-DPO one pair moves the odds of two codes by a factor of
/// `e^(1 / (lambda unit))` at most. Dr.DPO joins the marginal losses of the pairs, not those under single codes: how far
/// a label is doubted then depends on what all codes together say of it.
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
    weighing: &Weighing<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<Tensor> {
    let (pairs, k) = log_prior.dims2()?;
    let pass = weighing.pass;
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
    // Pairs that share a code are weighed within the product of their likelihoods; others are one product each.
    let grouped = pass.keys.is_some();
    let losses = if grouped { weighing.times(&losses)? } else { losses };
    let marginal = bayes::marginal(log_prior, &losses, weight, groups)?;
    let mut loss = if grouped {
        weighing.of_groups(&marginal.losses, groups, sums)?
    } else {
        weighing.of_pairs(&marginal.losses, Part::Latent, 1.0, sums)?
    };
    if let (Some(own), Some((_, flips))) = (logps.own, expected) {
        let losses = under_prior(policy, own, flips, constants, pass)?;
        let own = weighing.of_pairs(&losses, Part::Expected, pass.moment.g, sums)?;
        loss = ((loss * (1.0 - pass.moment.g))? + own)?;
    }
    if pass.moment.balance > 0.0 {
        let (mean, examples) = mean_of(log_prior, pass.ranks)?;
        let balance = crate::lpc::balance(&mean)?;
        loss = (loss + (&balance * (examples * share * pass.moment.balance))?)?;
        sums.balance += balance.to_dtype(DType::F64)?.to_vec0::<f64>()? * pairs as f64;
    }
    // What follows is counted, and takes no part in the gradient.
    let swapped = pass.objective.losses_with(&preference.swapped(), flips.as_ref())?.losses.reshape((pairs, k))?;
    let swapped = if grouped { weighing.times(&swapped)? } else { swapped };
    let other = bayes::marginal(log_prior, &swapped, weight, groups)?;
    let overlaps = numbers(&bayes::overlap(&marginal.log_posterior, &other.log_posterior)?)?;
    let rows = |t: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(t.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?) };
    let (prior, posterior) = (rows(&marginal.log_prior)?, rows(&marginal.log_posterior)?);
    sums.objective += total(&if grouped { marginal.losses } else { weighing.times(&marginal.losses)? })?;
    let clean = pass.objective.clean_probabilities(&preference)?.map(|clean| numbers(&clean)).transpose()?;
    let mut clean_of_pairs = Vec::with_capacity(pairs);
    for (((group, log_p), log_q), overlap) in groups.iter().zip(&prior).zip(&posterior).zip(overlaps) {
        let n = group.len() as f64;
        let q: Vec<f64> = log_q.iter().map(|q| q.exp()).collect();
        let expected = |log_p: &[f64], of: &[f64]| -> f64 { log_p.iter().zip(of).map(|(p, x)| p.exp() * x).sum() };
        sums.kl += n * q.iter().zip(log_q).zip(log_p).map(|((q, lq), lp)| q * (lq - lp)).sum::<f64>().max(0.0);
        sums.entropy.0 -= n * expected(log_p, log_p);
        sums.entropy.1 -= n * expected(log_q, log_q);
        sums.overlap += n * overlap;
        group.clone().for_each(|_| sums.usage.add(&q));
        if let Some(clean) = &clean {
            let mean = |pair: usize| q.iter().zip(&clean[pair * k..]).map(|(q, w)| q * w).sum::<f64>();
            clean_of_pairs.extend(group.clone().map(mean));
        }
    }
    if clean.is_some() {
        weighing.count_clean(&clean_of_pairs, sums);
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
