//! Evaluation: every example's distributions over codes and log-probabilities, with the expected z; nothing is sampled.

use std::borrow::Borrow;

use candle_core::{DType, Tensor};

use super::{Policy, States};
use crate::batch::Sides;
use crate::error::{Error, Result};
use crate::lpc::{Codes, Inferred, entropy};
use crate::nn::Real;
use crate::token_file::TokenRow;

/// Packed rows that one evaluation pass may hold.
const ROWS_PER_PASS: usize = 4096;

/// What evaluation finds of one example.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// p(z|x) over the codes; `[1]` without codes.
    pub prior: Vec<f32>,
    /// q(z|x, chosen > rejected) over the codes; `[1]` without codes. The exact posterior (Bayes) needs the losses, and
    /// is empty until they are known.
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

/// Cuts rows into runs of at most `ROWS_PER_PASS` packed rows (always at least one example).
pub fn passes<R: Borrow<TokenRow>>(rows: &[R]) -> Vec<&[R]> {
    passes_of(rows, ROWS_PER_PASS)
}

/// Packed rows of a pass of long work, between two of which the user may stop it.
const ROWS_PER_STOP: usize = 512;

/// Passes for long work that the user may stop between two of them. They are short where a pair's numbers do not depend
/// on the other pairs of its pass; composed operations do not guarantee that, and get [`passes`].
pub fn stoppable<'a, T: Real, R: Borrow<TokenRow>>(policy: &Policy<T>, rows: &'a [R]) -> Vec<&'a [R]> {
    passes_of(rows, if policy.decoder.place().is_none() { ROWS_PER_STOP } else { ROWS_PER_PASS })
}

/// Fewest packed rows of a pass with which a pair's numbers do not depend on the rest of its pass: products of fewer
/// rows may be summed in another order.
pub const LEAST_ROWS: usize = 256;

/// Packed rows of one pair.
pub fn packed(row: &TokenRow) -> usize {
    row.prompt_ids.len() + row.chosen_ids.len() + row.rejected_ids.len()
}

/// [`passes`] of at most `most` packed rows. A last pass of fewer than [`LEAST_ROWS`] is joined to the one before it.
pub fn passes_of<R: Borrow<TokenRow>>(rows: &[R], most: usize) -> Vec<&[R]> {
    let mut cuts = vec![0];
    let mut size = 0;
    for (i, row) in rows.iter().enumerate() {
        let n = packed(row.borrow());
        if i > 0 && size > 0 && size + n > most {
            cuts.push(i);
            size = 0;
        }
        size += n;
    }
    if size < LEAST_ROWS && cuts.len() > 1 {
        cuts.pop();
    }
    cuts.push(rows.len());
    cuts.windows(2).filter(|w| w[0] < w[1]).map(|w| &rows[w[0]..w[1]]).collect()
}

/// The error for log-probabilities that are not finite: whose they are, and of which pairs.
pub fn not_finite(whose: &str, ids: &[&str]) -> Error {
    let shown = ids[..ids.len().min(5)].join(" ");
    let pairs = if ids.len() == 1 { "1 pair".to_string() } else { format!("{} pairs", ids.len()) };
    Error::Run {
        message: format!("the {whose}'s log-probability is not finite for {pairs}: {shown}"),
        hint: Some("its weights are damaged, or too large for this precision; in training a lower --lr helps".into()),
    }
}

/// Evaluates rows in order; `done` is called with the number of examples finished since the last call.
///
/// # Errors
/// [`crate::Error::Tensor`], and those of packing; [`Error::Run`] with the ids where a log-probability is not finite.
pub fn evaluate<T: Real>(policy: &Policy<T>, rows: &[TokenRow], mut done: impl FnMut(usize)) -> Result<Vec<Example>> {
    let mut out = Vec::with_capacity(rows.len());
    for pass in passes(rows) {
        let found = evaluate_batch(policy, &policy.states(&pass.iter().collect::<Vec<_>>(), Sides::Both, None)?)?;
        let fine = |e: &Example| [e.logps, e.logps_posterior].iter().all(|(c, r)| c.is_finite() && r.is_finite());
        let faulty = pass.iter().zip(&found).filter(|(_, e)| !fine(e));
        let faulty: Vec<&str> = faulty.map(|(row, _)| row.id.as_str()).collect();
        if !faulty.is_empty() {
            return Err(not_finite("model", &faulty));
        }
        out.extend(found);
        done(pass.len());
    }
    Ok(out)
}

/// Summed log-probabilities (chosen, rejected) without any z, in nats: of the reference, and for plain scoring.
///
/// # Errors
/// As [`evaluate`].
pub fn plain_logps<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    mut done: impl FnMut(usize),
) -> Result<Vec<(f64, f64)>> {
    let mut out = Vec::with_capacity(rows.len());
    for pass in passes(rows) {
        out.extend(plain_pass(policy, &pass.iter().collect::<Vec<_>>())?);
        done(pass.len());
    }
    Ok(out)
}

/// [`plain_logps`] of rows that are one pass.
///
/// # Errors
/// As [`plain_logps`].
pub fn plain_pass<T: Real>(policy: &Policy<T>, pass: &[&TokenRow]) -> Result<Vec<(f64, f64)>> {
    let states = policy.states(pass, Sides::Both, None)?;
    pairs(policy.logps(&states, None, None)?)
}

fn pairs(logps: super::SequenceLogps) -> Result<Vec<(f64, f64)>> {
    let chosen = numbers(&logps.chosen)?;
    let rejected = logps.rejected.as_ref().map_or(Ok(vec![f64::NAN; chosen.len()]), numbers)?;
    Ok(chosen.into_iter().zip(rejected).collect())
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

fn evaluate_batch<T: Real>(policy: &Policy<T>, states: &States) -> Result<Vec<Example>> {
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
                id: i.to_string().into(),
                prompt_ids: vec![0; if i == 4 { ROWS_PER_PASS + 1 } else { 1000 }].into(),
                chosen_ids: vec![0; 300].into(),
                rejected_ids: vec![0; 300].into(),
                ..TokenRow::default()
            })
            .collect();
        let sizes: Vec<usize> = passes(&rows).iter().map(|p| p.len()).collect();
        assert_eq!(sizes, [2, 2, 1, 2, 2]);
        assert!(passes::<TokenRow>(&[]).is_empty());
    }

    #[test]
    fn a_small_rest_goes_with_the_pass_before() {
        let of = |n: usize| TokenRow { prompt_ids: vec![0; n].into(), ..TokenRow::default() };
        let sizes = |rows: &[TokenRow], most| passes_of(rows, most).iter().map(|p| p.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&[of(300), of(300), of(300), of(255)], 600), [2, 2]);
        assert_eq!(sizes(&[of(300), of(300), of(300), of(100)], 700), [2, 2]);
        assert_eq!(sizes(&[of(300), of(300), of(255)], 600), [3]);
        assert_eq!(sizes(&[of(300), of(300), of(256)], 600), [2, 1]);
        assert_eq!(sizes(&[of(10)], 600), [1]);
    }

    /// Numbers that one run stores of some pairs must be those that another computes of all pairs.
    #[test]
    fn a_pair_has_the_same_numbers_in_every_company() {
        use crate::lpc::Basis;
        use crate::lpc::{LatentKind, LpcConfig};
        use crate::model::LlamaConfig;
        use crate::model::init::{Loaded, random};
        use crate::nn::Precision;
        use crate::seed::Seed;
        let rows: Vec<TokenRow> = (0..48u32)
            .map(|i| TokenRow {
                id: i.to_string().into(),
                prompt_ids: (0..3 + i * 7 % 19).map(|t| (t * 5 + i) % 300).collect(),
                chosen_ids: (0..1 + i * 3 % 11).map(|t| (t * 7 + i) % 300).collect(),
                rejected_ids: (0..1 + i * 5 % 13).map(|t| (t * 11 + i) % 300).collect(),
                ..TokenRow::default()
            })
            .collect();
        for (width, precision) in
            [(32, Precision::F32), (512, Precision::F32), (1024, Precision::F32), (96, Precision::Bf16)]
        {
            let config = LlamaConfig::tiny(width, 1, 300);
            let params = random::<f32>(&config, 0.05, Seed(3)).unwrap();
            let lpc = LpcConfig { latent: LatentKind::None, ..LpcConfig::default() };
            let (basis, loaded) = (Basis::sized(&lpc, width, 300), Loaded { config, params });
            let mut policy = Policy::<f32>::new(loaded, None, &lpc, basis, Seed(0), 64).unwrap();
            policy.decoder.precision = precision;
            let whole = plain_logps(&policy, &rows, |_| {}).unwrap();
            for (step, most) in [(1, 256), (1, 512), (2, 300), (3, 10_000)] {
                let some: Vec<&TokenRow> = rows.iter().step_by(step).collect();
                let found: Vec<_> =
                    passes_of(&some, most).iter().flat_map(|pass| plain_pass(&policy, pass).unwrap()).collect();
                let wanted: Vec<_> = whole.iter().copied().step_by(step).collect();
                assert!(found == wanted, "{width} {precision:?} {step} {most}");
            }
        }
    }
}
