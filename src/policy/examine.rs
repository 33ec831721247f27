//! Evaluation: every example's codes and log-probabilities, with the prior's expected z, nothing sampled.

use std::borrow::Borrow;

use candle_core::{DType, Tensor};

use super::Policy;
use crate::batch::{PairBatch, Sides, TokenRow};
use crate::error::Result;
use crate::lpc::entropy;
use crate::nn::Real;

/// Packed rows that one evaluation pass may hold.
const ROWS_PER_PASS: usize = 4096;

/// What evaluation finds of one example.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// p(z|x); `[1]` without a latent.
    pub prior: Vec<f32>,
    /// q(z|x, chosen > rejected); `[1]` without a latent.
    pub posterior: Vec<f32>,
    /// KL(q || p), nats.
    pub kl: f64,
    /// Entropy of the prior, nats.
    pub prior_entropy: f64,
    /// Entropy of the posterior, nats.
    pub posterior_entropy: f64,
    /// Summed log-probabilities with the prior's z: chosen, rejected.
    pub logps: (f64, f64),
    /// Summed log-probabilities with the posterior's z: chosen, rejected. These have seen the label.
    pub logps_posterior: (f64, f64),
}

/// Cuts rows into runs of at most [`ROWS_PER_PASS`] packed rows (always at least one example).
pub(super) fn passes<R: Borrow<TokenRow>>(rows: &[R]) -> Vec<&[R]> {
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
        let (batch, h) = policy.states(&pass.iter().collect::<Vec<_>>(), Sides::Both, None)?;
        out.extend(examine_batch(policy, &batch, h)?);
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
        let (batch, h) = policy.states(&pass.iter().collect::<Vec<_>>(), Sides::Both, None)?;
        out.extend(pairs(policy.logps(&h, &batch, None, None)?)?);
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

fn examine_batch<T: Real>(policy: &Policy<T>, batch: &PairBatch, h: Tensor) -> Result<Vec<Example>> {
    let Some(lpc) = &policy.lpc else {
        let logps = pairs(policy.logps(&h, batch, None, None)?)?;
        return Ok(logps
            .into_iter()
            .map(|logps| Example {
                prior: vec![1.0],
                posterior: vec![1.0],
                logps,
                logps_posterior: logps,
                ..Example::default()
            })
            .collect());
    };
    let codes = lpc.infer(&policy.context(&h, batch, lpc.config.pooling)?)?;
    let with = |log_weights: &Tensor| -> Result<Vec<(f64, f64)>> {
        let z = lpc.expected(log_weights)?.detach();
        pairs(policy.logps(&h, batch, Some(&z), None)?)
    };
    let (logps, logps_posterior) = (with(&codes.log_prior)?, with(&codes.log_posterior)?);
    let weights = |t: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(t.exp()?.to_dtype(DType::F32)?.to_vec2::<f32>()?) };
    let (prior, posterior) = (weights(&codes.log_prior)?, weights(&codes.log_posterior)?);
    let kl = numbers(&codes.kl()?)?;
    let (hp, hq) = (numbers(&entropy(&codes.log_prior)?)?, numbers(&entropy(&codes.log_posterior)?)?);
    Ok((0..batch.len())
        .map(|i| Example {
            prior: prior[i].clone(),
            posterior: posterior[i].clone(),
            kl: kl[i].max(0.0),
            prior_entropy: hp[i].max(0.0),
            posterior_entropy: hq[i].max(0.0),
            logps: logps[i],
            logps_posterior: logps_posterior[i],
        })
        .collect())
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
