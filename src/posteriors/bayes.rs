//! Bayes' posterior of examined pairs: from the objective under every code.

use candle_core::{Device, Tensor};

use super::{Part, preference};
use crate::batch::{TokenRow, runs};
use crate::error::Result;
use crate::lpc::{LpcConfig, bayes};
use crate::objective::{ObjectiveConfig, PreferenceLogps, PreferenceLosses};
use crate::policy::Example;

/// What a posterior needs to know of the run.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Resolved objective.
    pub objective: &'a ObjectiveConfig,
    /// Resolved latent part.
    pub lpc: &'a LpcConfig,
    /// Flip rates of the labels that were learned: one for every code, or one for all.
    pub flips: Option<&'a [f64]>,
}

/// The objective of every pair, its sides swapped where said, under every code, pair by pair; none without codes.
fn under_codes(part: &Part<'_>, settings: Settings<'_>, swapped: bool) -> Result<Option<(usize, PreferenceLosses)>> {
    let k = part.examples.first().map_or(0, |example| example.code_logps.len() / 2);
    if k == 0 {
        return Ok(None);
    }
    let side = |from: usize| -> Vec<f64> {
        part.examples.iter().flat_map(|e| &e.code_logps[from..from + k]).map(|&x| f64::from(x)).collect()
    };
    let each = |t: Tensor| -> Result<Tensor> { Ok(t.unsqueeze(1)?.broadcast_as((part.rows.len(), k))?.flatten_all()?) };
    let n = part.rows.len() * k;
    let p = preference(part, |_| (0.0, 0.0))?;
    let logps = PreferenceLogps {
        chosen_logps: Tensor::from_vec(side(0), n, &Device::Cpu)?,
        rejected_logps: Tensor::from_vec(side(k), n, &Device::Cpu)?,
        reference_chosen_logps: each(p.reference_chosen_logps)?,
        reference_rejected_logps: each(p.reference_rejected_logps)?,
        n_chosen: each(p.n_chosen)?,
        n_rejected: each(p.n_rejected)?,
    };
    let logps = if swapped { logps.swapped() } else { logps };
    let flips = settings.flips.map(|rates| {
        let of = |code: usize| rates.get(code).or(rates.first()).copied().unwrap_or(0.0);
        Tensor::from_vec((0..n).map(|i| of(i % k)).collect::<Vec<f64>>(), n, &Device::Cpu)
    });
    Ok(Some((k, settings.objective.losses_with(&logps, flips.transpose()?.as_ref())?)))
}

/// Implicit reward margins of the observed order with each code alone, pair by pair; empty lists without codes.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn code_margins(part: &Part<'_>, settings: Settings<'_>) -> Result<Vec<Vec<f32>>> {
    let Some((k, found)) = under_codes(part, settings, false)? else { return Ok(vec![Vec::new(); part.rows.len()]) };
    let margins = found.margins()?.to_vec1::<f64>()?;
    Ok(margins.chunks(k).map(|m| m.iter().map(|&x| x as f32).collect()).collect())
}

/// Fills in the posteriors of examples that have none yet: `q_k` proportional to `p_k e^(-l_k / lambda)`, in the
/// observed order; rows of one key that follow one another share it. With it their divergence and its entropy. The sum
/// of the swap overlaps is returned (`sum_k sqrt(q_k q'_k)` with the posterior of the sides swapped), none where the
/// posterior is a network's.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn settle(
    rows: &[TokenRow],
    examples: &mut [Example],
    reference: Option<&[(f64, f64)]>,
    keys: Option<&[u64]>,
    settings: Settings<'_>,
) -> Result<Option<f64>> {
    if !settings.lpc.bayesian() || examples.is_empty() {
        return Ok(None);
    }
    let part = Part { split: "", rows, examples, reference };
    let Some((k, found)) = under_codes(&part, settings, false)? else { return Ok(None) };
    let losses = found.losses.to_vec1::<f64>()?;
    let swapped =
        under_codes(&part, settings, true)?.map_or(Ok(Vec::new()), |(_, found)| found.losses.to_vec1::<f64>())?;
    let mut overlaps = 0.0;
    let weight = settings.lpc.kl_weight * settings.objective.loss_unit();
    let groups = match keys {
        Some(keys) => runs(keys),
        None => (0..rows.len()).map(|i| i..i + 1).collect(),
    };
    for group in groups {
        let sum_of = |losses: &[f64]| -> Vec<f64> {
            let mut sum = vec![0.0; k];
            for row in group.clone() {
                sum.iter_mut().zip(&losses[row * k..]).for_each(|(sum, l)| *sum += l);
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
