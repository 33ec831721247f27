//! The rows of one split with their evaluation.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::objective::PreferenceLogps;
use crate::policy::Example;
use crate::token_file::TokenRow;

/// One split's rows with what evaluation found of them.
#[derive(Debug)]
pub struct SplitExamples<'a> {
    /// Split name.
    pub split: &'a str,
    /// Token rows.
    pub rows: &'a [TokenRow],
    /// Evaluation, row by row.
    pub examples: &'a [Example],
    /// Reference log-probabilities, row by row; `None` where the objective has none.
    pub reference: Option<&'a [(f64, f64)]>,
}

/// Log-probabilities of a split in the form of the objectives.
///
/// # Shapes
/// Each (B), B the rows of the split.
///
/// # Units
/// Nats, summed over response tokens.
pub(super) fn preference(split: &SplitExamples<'_>, logps: fn(&Example) -> (f64, f64)) -> Result<PreferenceLogps> {
    let n = split.rows.len();
    let column = |values: Vec<f64>| Tensor::from_vec(values, n, &Device::Cpu);
    let reference = |side: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        split.reference.map_or_else(|| vec![0.0; n], |r| r.iter().map(side).collect())
    };
    Ok(PreferenceLogps {
        chosen_logps: column(split.examples.iter().map(|e| logps(e).0).collect())?,
        rejected_logps: column(split.examples.iter().map(|e| logps(e).1).collect())?,
        reference_chosen_logps: column(reference(|r| r.0))?,
        reference_rejected_logps: column(reference(|r| r.1))?,
        n_chosen: column(split.rows.iter().map(|r| r.chosen_ids.len() as f64).collect())?,
        n_rejected: column(split.rows.iter().map(|r| r.rejected_ids.len() as f64).collect())?,
    })
}
