//! One pass forward and backward over a batch of pairs.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::batch::{Sides, TokenRow};
use crate::error::{Error, Result};
use crate::lpc::{Codes, Moment, Usage};
use crate::model::Gradients;
use crate::nn::Real;
use crate::objective::{ObjectiveConfig, ObjectiveKind, PreferenceLogps};
use crate::policy::Policy;
use crate::seed::Seed;

/// Sums over examples of a step, from which means are taken.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Examples.
    pub examples: usize,
    /// Tokens through the backbone.
    pub tokens: usize,
    /// Objective, without the latent's terms.
    pub objective: f64,
    /// KL(q || p), nats.
    pub kl: f64,
    /// Balance term times examples.
    pub balance: f64,
    /// Implicit rewards of chosen and rejected.
    pub rewards: (f64, f64),
    /// Examples with a positive margin (observed labels, sampled z).
    pub right: usize,
    /// Summed log-probabilities of chosen and rejected.
    pub logps: (f64, f64),
    /// Entropies of prior and posterior.
    pub entropy: (f64, f64),
    /// Use of codes, by the posterior.
    pub usage: Usage,
}

/// What a pass needs besides the policy and the rows.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Resolved objective.
    pub objective: &'a ObjectiveConfig,
    /// State of the latent's schedules.
    pub moment: Moment,
    /// Seed of the samples' noise.
    pub seed: Seed,
    /// Names the step, so that an example seen twice gets fresh noise.
    pub occasion: &'a str,
    /// Examples of the whole step: a pass contributes its share of the mean.
    pub step_examples: usize,
}

/// Forward and backward; gradients of the step's mean loss are added to `gradients`.
///
/// # Errors
/// [`Error::Run`] with the ids of the batch where the loss is not finite.
pub fn pass<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    reference: &[(f64, f64)],
    pass: &Pass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<()> {
    let loss = forward(policy, rows, reference, pass, gradients, sums)?;
    let value = loss.to_dtype(DType::F64)?.to_vec0::<f64>()?;
    if !value.is_finite() {
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        return Err(Error::Run {
            message: format!("the loss is {value} on the batch with ids {}", ids.join(" ")),
            hint: Some("a lower --lr or --set train.clip=1.0 usually helps; lpc-pipe inspect shows the data".into()),
        });
    }
    let mut store = loss.backward()?;
    gradients.absorb::<T>(&policy.params, &mut store)
}

/// The pass' share of the step's loss, differentiable.
///
/// # Errors
/// [`Error::Tensor`].
pub fn forward<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    reference: &[(f64, f64)],
    pass: &Pass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<Tensor> {
    let sides = if pass.objective.name == ObjectiveKind::Sft { Sides::Chosen } else { Sides::Both };
    let (batch, h) = policy.states(rows, sides, Some(gradients))?;
    let codes = match &policy.lpc {
        None => None,
        Some(lpc) => Some(lpc.infer(&policy.context(&h, &batch, lpc.config.pooling)?)?),
    };
    let branches = branches(policy, rows, codes.as_ref(), pass)?;
    let column = |values: Vec<f64>| -> Result<Tensor> {
        Ok(Tensor::from_vec(values, rows.len(), h.device())?.to_dtype(T::KIND)?)
    };
    let lengths = |get: fn(&TokenRow) -> usize| column(rows.iter().map(|r| get(r) as f64).collect());
    let reference_chosen = column(reference.iter().map(|r| r.0).collect())?;
    let reference_rejected = column(reference.iter().map(|r| r.1).collect())?;
    let (n_chosen, n_rejected) = (lengths(|r| r.chosen_ids.len())?, lengths(|r| r.rejected_ids.len())?);
    let share = 1.0 / pass.step_examples as f64;
    sums.examples += rows.len();
    // Of the rows, not of the batch: the backbone may have been spared them.
    let rejected = |r: &TokenRow| if sides == Sides::Both { r.rejected_ids.len() } else { 0 };
    sums.tokens += rows.iter().map(|r| r.prompt_ids.len() + r.chosen_ids.len() + rejected(r)).sum::<usize>();
    let mut loss: Option<Tensor> = None;
    let mut margins = vec![0.0; rows.len()];
    for branch in &branches {
        let logps = policy.logps(&h, &batch, branch.z.as_ref(), Some(gradients))?;
        let preference = PreferenceLogps {
            // SFT sees one side only; the other stands at its reference and has no gradient.
            rejected_logps: logps.rejected.unwrap_or_else(|| reference_rejected.clone()),
            chosen_logps: logps.chosen,
            reference_chosen_logps: reference_chosen.clone(),
            reference_rejected_logps: reference_rejected.clone(),
            n_chosen: n_chosen.clone(),
            n_rejected: n_rejected.clone(),
        };
        let found = pass.objective.losses(&preference)?;
        let weighted = |x: &Tensor| match &branch.weight {
            None => Ok(x.clone()),
            Some(w) => x * w,
        };
        let losses = weighted(&found.losses)?;
        sums.objective += total(&losses)?;
        sums.rewards.0 += total(&weighted(&found.chosen_rewards)?)?;
        sums.rewards.1 += total(&weighted(&found.rejected_rewards)?)?;
        sums.logps.0 += total(&weighted(&preference.chosen_logps)?)?;
        sums.logps.1 += total(&weighted(&preference.rejected_logps)?)?;
        let found = weighted(&found.margins()?)?.detach().to_dtype(DType::F64)?.to_vec1::<f64>()?;
        margins.iter_mut().zip(found).for_each(|(m, x)| *m += x);
        let part = (losses.sum_all()? * share)?;
        loss = Some(match loss {
            None => part,
            Some(before) => (before + part)?,
        });
    }
    sums.right += margins.iter().filter(|m| **m > 0.0).count();
    let mut loss = loss.ok_or_else(|| Error::run("a step without a latent branch"))?;
    if let (Some(codes), Some(lpc)) = (&codes, &policy.lpc) {
        let kl = codes.kl()?;
        loss = (loss + (kl.sum_all()? * (share * pass.moment.kl_weight))?)?;
        if lpc.config.balance > 0.0 {
            let weight = rows.len() as f64 * share;
            let balance = codes.balance()?;
            loss = (loss + (&balance * (weight * lpc.config.balance))?)?;
            sums.balance += balance.to_dtype(DType::F64)?.to_vec0::<f64>()? * rows.len() as f64;
        }
        count_codes(codes, &kl, sums)?;
    }
    Ok(loss)
}

/// One z for every pair, and its weight in the loss (none: 1).
struct Branch {
    z: Option<Tensor>,
    weight: Option<Tensor>,
}

/// The z's over which the loss is averaged: none without a latent, one relaxed sample, or every code by its probability.
fn branches<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    codes: Option<&Codes>,
    pass: &Pass<'_>,
) -> Result<Vec<Branch>> {
    let (Some(codes), Some(lpc)) = (codes, &policy.lpc) else {
        return Ok(vec![Branch { z: None, weight: None }]);
    };
    if !lpc.config.exact {
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        let noise = lpc.noise(pass.seed, pass.occasion, &ids, &codes.log_prior)?;
        let z = lpc.sample(codes, pass.moment, (&noise.0, &noise.1))?;
        return Ok(vec![Branch { z: Some(z), weight: None }]);
    }
    let g = pass.moment.g;
    let weights = ((codes.log_prior.exp()? * g)? + (codes.log_posterior.exp()? * (1.0 - g))?)?;
    (0..lpc.config.codes)
        .map(|k| {
            let z = lpc.codebook().narrow(0, k, 1)?.broadcast_as((rows.len(), lpc.codebook().dim(1)?))?;
            Ok(Branch { z: Some(z.contiguous()?), weight: Some(weights.narrow(1, k, 1)?.squeeze(1)?) })
        })
        .collect()
}

fn count_codes(codes: &Codes, kl: &Tensor, sums: &mut Sums) -> Result<()> {
    sums.kl += total(kl)?;
    sums.entropy.0 += total(&crate::lpc::entropy(&codes.log_prior)?)?;
    sums.entropy.1 += total(&crate::lpc::entropy(&codes.log_posterior)?)?;
    for weights in codes.log_posterior.detach().exp()?.to_dtype(DType::F64)?.to_vec2::<f64>()? {
        sums.usage.add(&weights);
    }
    Ok(())
}

fn total(t: &Tensor) -> Result<f64> {
    Ok(t.detach().to_dtype(DType::F64)?.sum_all()?.to_vec0::<f64>()?)
}
