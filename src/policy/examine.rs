//! Evaluation: every example's codes and log-probabilities, with the prior's expected z, nothing sampled.

use std::borrow::Borrow;

use candle_core::{DType, Tensor};

use super::{Policy, States};
use crate::batch::{Sides, TokenRow};
use crate::error::Result;
use crate::lpc::{Codes, Inferred, entropy};
use crate::nn::Real;

/// Packed rows that one evaluation pass may hold.
const ROWS_PER_PASS: usize = 4096;

/// What evaluation finds of one example.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// p(z|x) over the codes; `[1]` without codes.
    pub prior: Vec<f32>,
    /// q(z|x, chosen > rejected) over the codes; `[1]` without codes. Where it is Bayes' own it comes from the losses,
    /// and is empty until then.
    pub posterior: Vec<f32>,
    /// Summed log-probabilities with each code alone: chosen of all codes, then rejected of all codes; empty without
    /// codes.
    pub code_logps: Vec<f32>,
    /// KL(q || p), nats; 0 without a posterior.
    pub kl: f64,
    /// Entropy of the prior over the codes, nats; 0 without codes.
    pub prior_entropy: f64,
    /// Entropy of the posterior over the codes, nats; 0 without codes.
    pub posterior_entropy: f64,
    /// Summed log-probabilities with the prior's z: chosen, rejected.
    pub logps: (f64, f64),
    /// Summed log-probabilities with the posterior's z: chosen, rejected. These have seen the label. Without a
    /// posterior the same as `logps`.
    pub logps_posterior: (f64, f64),
}

/// Cuts rows into runs of at most [`ROWS_PER_PASS`] packed rows (always at least one example).
pub fn passes<R: Borrow<TokenRow>>(rows: &[R]) -> Vec<&[R]> {
    let mut out = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, row) in rows.iter().enumerate() {
        let row: &TokenRow = row.borrow();
        let n = row.prompt_ids.len() + row.chosen_ids.len() + row.rejected_ids.len();
        if i > start && size + n > ROWS_PER_PASS {
            out.push(&rows[start..i]);
            (start, size) = (i, 0);
        }
        size += n;
    }
    if start < rows.len() {
        out.push(&rows[start..]);
    }
    out
}

/// Examines rows in order; `done` is called with the number of examples finished since the last call.
///
/// # Errors
/// [`crate::Error::Tensor`], and those of packing.
pub fn examine<T: Real>(policy: &Policy<T>, rows: &[TokenRow], mut done: impl FnMut(usize)) -> Result<Vec<Example>> {
    let mut out = Vec::with_capacity(rows.len());
    for pass in passes(rows) {
        out.extend(examine_batch(policy, &policy.states(&pass.iter().collect::<Vec<_>>(), Sides::Both, None)?)?);
        done(pass.len());
    }
    Ok(out)
}

/// Summed log-probabilities without any z: the reference, and plain scoring.
///
/// # Errors
/// As [`examine`].
pub fn plain_logps<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    mut done: impl FnMut(usize),
) -> Result<Vec<(f64, f64)>> {
    let mut out = Vec::with_capacity(rows.len());
    for pass in passes(rows) {
        let states = policy.states(&pass.iter().collect::<Vec<_>>(), Sides::Both, None)?;
        out.extend(pairs(policy.logps(&states, None, None)?)?);
        done(pass.len());
    }
    Ok(out)
}

fn pairs(logps: super::SequenceLogps) -> Result<Vec<(f64, f64)>> {
    let chosen = numbers(&logps.chosen)?;
    let rejected = logps.rejected.as_ref().map_or(Ok(vec![f64::NAN; chosen.len()]), numbers)?;
    Ok(chosen.into_iter().zip(rejected).collect())
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

fn examine_batch<T: Real>(policy: &Policy<T>, states: &States) -> Result<Vec<Example>> {
    let with = |z: Option<&Tensor>| pairs(policy.logps(states, z.map(Tensor::detach).as_ref(), None)?);
    let bare = |logps: (f64, f64), logps_posterior: (f64, f64)| Example {
        prior: vec![1.0],
        posterior: vec![1.0],
        logps,
        logps_posterior,
        ..Example::default()
    };
    let (Some(lpc), Some(found)) = (&policy.lpc, policy.infer(states)?) else {
        return Ok(with(None)?.into_iter().map(|logps| bare(logps, logps)).collect());
    };
    let z = lpc.expected(&found)?;
    let logps = with(z.prior.as_ref())?;
    let logps_posterior = match &z.posterior {
        Some(z) => with(Some(z))?,
        None => logps.clone(),
    };
    let mut examples: Vec<Example> = logps.into_iter().zip(logps_posterior).map(|(p, q)| bare(p, q)).collect();
    if let Some(kl) = found.kl()? {
        // In exact arithmetic it is never negative.
        examples.iter_mut().zip(numbers(&kl)?).for_each(|(e, kl)| e.kl = kl.max(0.0));
    }
    if lpc.codes().is_some() {
        let found = policy.logps_of_codes(states, None, None)?;
        let rows = |t: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(t.to_dtype(DType::F32)?.to_vec2::<f32>()?) };
        let rejected = found.rejected.as_ref().map(rows).transpose()?.unwrap_or_default();
        for ((example, chosen), rejected) in examples.iter_mut().zip(rows(&found.chosen)?).zip(rejected) {
            example.code_logps = [chosen, rejected].concat();
        }
    }
    match &found {
        Inferred::Codes(codes) => weigh(&mut examples, codes)?,
        Inferred::Prior(log_prior) => {
            let weights = log_prior.exp()?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            for ((example, prior), h) in examples.iter_mut().zip(weights).zip(numbers(&entropy(log_prior)?)?) {
                (example.prior, example.posterior, example.prior_entropy) = (prior, Vec::new(), h.max(0.0));
            }
        }
        _ => {}
    }
    Ok(examples)
}

/// Fills in the distributions over codes.
fn weigh(examples: &mut [Example], codes: &Codes) -> Result<()> {
    let weights = |t: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(t.exp()?.to_dtype(DType::F32)?.to_vec2::<f32>()?) };
    let (prior, posterior) = (weights(&codes.log_prior)?, weights(&codes.log_posterior)?);
    let (hp, hq) = (numbers(&entropy(&codes.log_prior)?)?, numbers(&entropy(&codes.log_posterior)?)?);
    let entropies = hp.into_iter().zip(hq);
    for (((example, prior), posterior), (hp, hq)) in examples.iter_mut().zip(prior).zip(posterior).zip(entropies) {
        (example.prior, example.posterior) = (prior, posterior);
        (example.prior_entropy, example.posterior_entropy) = (hp.max(0.0), hq.max(0.0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_all_rows_in_order() {
        let rows: Vec<TokenRow> = (0..9)
            .map(|i| TokenRow {
                id: i.to_string(),
                prompt_ids: vec![0; if i == 4 { ROWS_PER_PASS + 1 } else { 1000 }],
                chosen_ids: vec![0; 300],
                rejected_ids: vec![0; 300],
                ..TokenRow::default()
            })
            .collect();
        let sizes: Vec<usize> = passes(&rows).iter().map(|p| p.len()).collect();
        assert_eq!(sizes, [2, 2, 1, 2, 2]);
        assert!(passes::<TokenRow>(&[]).is_empty());
    }
}
