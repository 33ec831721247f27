//! What a trained latent part leaves: its codes as tokens, its flip rates.

use polars::prelude::*;

use crate::analysis;
use crate::error::Result;
use crate::lpc::Usage;
use crate::objective::{ObjectiveConfig, ObjectiveKind};
use crate::policy::Policy;
use crate::tokenize::ModelTokenizer;

/// Tokens listed for each code at either end.
const TOKENS_PER_CODE: usize = 12;

/// codes.parquet: usage of each code, the tokens that W e_k raises and lowers most, where the posteriors tell it the
/// accuracy of each code alone and which codes say the same, and for `lpc-reliable` its flip rate. Without codes there
/// is one row, which is always used; it has tokens and a norm where there is one z for all.
pub(super) fn codes(policy: &Policy<f32>, tokenizer: &ModelTokenizer, posteriors: &DataFrame) -> Result<DataFrame> {
    let usage = analysis::code_usage(posteriors)?;
    let k = usage.height();
    let (mut top, mut bottom, mut norms) = (vec![Vec::new(); k], vec![Vec::new(); k], vec![None; k]);
    if let Some(vectors) = policy.lpc.as_ref().map(crate::lpc::Lpc::vectors).transpose()?.flatten() {
        // Biases act on some tokens; the others stay at 0, between those that are raised and lowered.
        let logits = match policy.lpc.as_ref().and_then(|lpc| lpc.basis.code_tokens.as_ref()) {
            None => policy.decoder.logits(&vectors)?.to_vec2::<f32>()?,
            Some(tokens) => {
                let mut logits = vec![vec![0.0; policy.decoder.config.vocab_size]; vectors.dim(0)?];
                for (logits, biases) in logits.iter_mut().zip(vectors.detach().to_vec2::<f32>()?) {
                    tokens.iter().zip(biases).for_each(|(&token, bias)| logits[token as usize] = bias);
                }
                logits
            }
        };
        let vectors = vectors.detach().to_vec2::<f32>()?;
        for code in 0..k.min(logits.len()) {
            let mut order: Vec<usize> = (0..logits[code].len().min(tokenizer.vocab_size())).collect();
            order.sort_by(|&a, &b| logits[code][b].total_cmp(&logits[code][a]).then(a.cmp(&b)));
            let text = |ids: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
                ids.take(TOKENS_PER_CODE).map(|&id| tokenizer.decode_token(id as u32)).collect()
            };
            top[code] = text(&mut order.iter());
            bottom[code] = text(&mut order.iter().rev());
            norms[code] = Some(vectors[code].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt());
        }
    }
    let lists = |name: &str, values: &[Vec<String>]| -> Column {
        let series: Vec<Series> = values.iter().map(|v| Series::new("".into(), v.as_slice())).collect();
        Column::new(name.into(), series)
    };
    let mut columns: Vec<Column> = usage.columns()[..3].to_vec();
    columns.push(lists("top_tokens", &top));
    columns.push(lists("bottom_tokens", &bottom));
    columns.push(Column::new("norm".into(), norms));
    columns.extend(analysis::code_columns(posteriors, k)?);
    columns.extend_from_slice(&usage.columns()[3..]);
    if let Some(mut rates) = code_flip_rates(policy)? {
        // A posteriors file without rows lists no code.
        rates.truncate(k);
        columns.push(Column::new("flip_rate".into(), rates));
    }
    Ok(DataFrame::new(k, columns)?)
}

/// Flip rate of every code, for `lpc-reliable`.
fn code_flip_rates(policy: &Policy<f32>) -> Result<Option<Vec<f64>>> {
    let Some(codes) = policy.lpc.as_ref().and_then(crate::lpc::Lpc::codes) else { return Ok(None) };
    let Some(rates) = codes.flip_rates()? else { return Ok(None) };
    Ok(Some(rates.to_vec1::<f32>()?.into_iter().map(f64::from).collect()))
}

/// Learned flip rates: of every code, or one for all labels.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub(super) fn flip_rates(policy: &Policy<f32>) -> Result<Option<Vec<f64>>> {
    if let Some(rates) = code_flip_rates(policy)? {
        return Ok(Some(rates));
    }
    Ok(match policy.flip_rate()? {
        Some(rate) => Some(vec![f64::from(rate.squeeze(0)?.to_vec0::<f32>()?)]),
        None => None,
    })
}

/// The flip rate that objective mix ended with; `prior` is the prior's use of the codes.
pub(super) fn mix_flip_rate(policy: &Policy<f32>, objective: &ObjectiveConfig, prior: &Usage) -> Result<Option<f64>> {
    if objective.name != ObjectiveKind::Mix {
        return Ok(None);
    }
    if let Some(rates) = code_flip_rates(policy)? {
        let total: f64 = rates.iter().zip(&prior.mass).map(|(rate, mass)| rate * mass).sum();
        return Ok(Some(total / prior.mass.iter().sum::<f64>()));
    }
    Ok(Some(match policy.flip_rate()? {
        Some(rate) => f64::from(rate.squeeze(0)?.to_vec0::<f32>()?),
        None => objective.label_smoothing,
    }))
}
