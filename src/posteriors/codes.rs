//! Tables and numbers of a trained latent part: `codes.parquet`, and its flip rates.

use std::path::Path;

use polars::prelude::*;

use crate::artifact;
use crate::error::Result;
use crate::lpc::{Codebook, Lpc, Usage};
use crate::objective::{ObjectiveConfig, ObjectiveKind};
use crate::policy::Policy;
use crate::schema::codes;

/// Tokens listed for each code at either end.
const TOKENS_PER_CODE: usize = 12;
/// Columns of the table of usage that come before the tokens: the code and its use over all pairs.
const USAGE_COLUMNS: usize = 3;

/// Writes codes.parquet: the code and its `usage` over all pairs, the tokens whose logits it raises and lowers most,
/// its norm, its `accuracy` alone, its usage by source, and for `lpc-reliable` its flip rate. Without codes there is
/// one row, which has tokens and a norm where the latent is one z for all.
///
/// `usage` has a row for each code, its first three columns over all pairs and the rest by source; `accuracy` has
/// columns of as many rows, or none. `token` gives the text of a token below `vocabulary`.
///
/// # Errors
/// [`crate::Error::Tensor`], [`crate::Error::Frame`], [`crate::Error::Io`].
pub fn write(
    path: &Path,
    policy: &Policy<f32>,
    usage: &DataFrame,
    accuracy: Vec<Column>,
    vocabulary: usize,
    token: &dyn Fn(u32) -> String,
) -> Result<()> {
    let k = usage.height();
    let (mut top, mut bottom, mut norms) = (vec![Vec::new(); k], vec![Vec::new(); k], vec![None; k]);
    if let Some(vectors) = policy.lpc.as_ref().map(Lpc::vectors).transpose()?.flatten() {
        let logits = code_logits(policy, &vectors)?;
        let vectors = vectors.detach().to_vec2::<f32>()?;
        for code in 0..k.min(logits.len()) {
            let mut order: Vec<usize> = (0..logits[code].len().min(vocabulary)).collect();
            order.sort_by(|&a, &b| logits[code][b].total_cmp(&logits[code][a]).then(a.cmp(&b)));
            let texts = |ids: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
                ids.take(TOKENS_PER_CODE).map(|&id| token(id as u32)).collect()
            };
            top[code] = texts(&mut order.iter());
            bottom[code] = texts(&mut order.iter().rev());
            norms[code] = Some(vectors[code].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt());
        }
    }
    let lists = |name: &str, values: &[Vec<String>]| -> Column {
        let series: Vec<Series> = values.iter().map(|v| Series::new("".into(), v.as_slice())).collect();
        Column::new(name.into(), series)
    };
    let (overall, by_source) = usage.columns().split_at(USAGE_COLUMNS);
    let mut columns: Vec<Column> = overall.to_vec();
    columns.push(lists(codes::TOP_TOKENS, &top));
    columns.push(lists(codes::BOTTOM_TOKENS, &bottom));
    columns.push(Column::new(codes::NORM.into(), norms));
    columns.extend(accuracy);
    columns.extend_from_slice(by_source);
    if let Some(mut rates) = code_flip_rates(policy)? {
        // A posteriors file without rows lists no code.
        rates.truncate(k);
        columns.push(Column::new(codes::FLIP_RATE.into(), rates));
    }
    artifact::write_parquet(path, &mut DataFrame::new(k, columns)?)
}

/// What each code adds to the logits of every token (K,V). Codes that are biases act on some tokens alone: the others
/// get 0.
fn code_logits(policy: &Policy<f32>, vectors: &candle_core::Tensor) -> Result<Vec<Vec<f32>>> {
    let Some(tokens) = policy.lpc.as_ref().and_then(|lpc| lpc.basis.code_tokens.as_ref()) else {
        return Ok(policy.decoder.logits(vectors)?.to_vec2::<f32>()?);
    };
    let mut logits = vec![vec![0.0; policy.decoder.config.vocab_size]; vectors.dim(0)?];
    for (logits, biases) in logits.iter_mut().zip(vectors.detach().to_vec2::<f32>()?) {
        tokens.iter().zip(biases).for_each(|(&token, bias)| logits[token as usize] = bias);
    }
    Ok(logits)
}

/// Flip rate of every code, for `lpc-reliable`.
fn code_flip_rates(policy: &Policy<f32>) -> Result<Option<Vec<f64>>> {
    let rates = policy.lpc.as_ref().and_then(Lpc::codes).map(Codebook::flip_rates).transpose()?.flatten();
    rates.map(|rates| Ok(rates.to_vec1::<f32>()?.into_iter().map(f64::from).collect())).transpose()
}

/// The learned flip rate of all labels, for `mix_flip = "learned"`.
fn label_flip_rate(policy: &Policy<f32>) -> Result<Option<f64>> {
    policy.flip_rate()?.map(|rate| Ok(f64::from(rate.squeeze(0)?.to_vec0::<f32>()?))).transpose()
}

/// Learned flip rates: of every code, or one for all labels.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn flip_rates(policy: &Policy<f32>) -> Result<Option<Vec<f64>>> {
    match code_flip_rates(policy)? {
        Some(rates) => Ok(Some(rates)),
        None => Ok(label_flip_rate(policy)?.map(|rate| vec![rate])),
    }
}

/// The flip rate of objective mix at the end of training, for `lpc-reliable` the mean over the codes, weighted by the
/// prior; none for other objectives.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn mix_flip_rate(policy: &Policy<f32>, objective: &ObjectiveConfig, prior: &Usage) -> Result<Option<f64>> {
    if objective.name != ObjectiveKind::Mix {
        return Ok(None);
    }
    if let Some(rates) = code_flip_rates(policy)? {
        let total: f64 = rates.iter().zip(&prior.mass).map(|(rate, mass)| rate * mass).sum();
        return Ok(Some(total / prior.mass.iter().sum::<f64>()));
    }
    Ok(Some(label_flip_rate(policy)?.unwrap_or(objective.label_smoothing)))
}
