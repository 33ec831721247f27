//! Implicit reward margins of examined pairs.

use super::bayes::{self, PosteriorContext};
use super::split_examples::{SplitExamples, preference};
use crate::error::Result;
use crate::objective::ObjectiveConfig;
use crate::policy::Example;

/// Implicit reward margins of the rows of one split, in the observed order of the pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Margins {
    /// With the prior's z, and with the posterior's.
    pub of_pairs: Vec<(f64, f64)>,
    /// With each code alone; empty lists without codes.
    pub of_codes: Vec<Vec<f32>>,
}

impl Margins {
    /// The margins of a split. With Bayes' posterior the second one of a pair is the posterior's mean over the codes.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn of(split: &SplitExamples<'_>, context: PosteriorContext<'_>) -> Result<Margins> {
        let of_codes = bayes::code_margins(split, context)?;
        let with_prior = of_pairs(split, context.objective, |e| e.logps)?;
        let with_posterior = if context.lpc.bayesian() {
            let expected = |example: &Example, codes: &Vec<f32>| -> f64 {
                example.posterior.iter().zip(codes).map(|(&q, &m)| f64::from(q) * f64::from(m)).sum()
            };
            split.examples.iter().zip(&of_codes).map(|(example, codes)| expected(example, codes)).collect()
        } else {
            of_pairs(split, context.objective, |e| e.logps_posterior)?
        };
        Ok(Margins { of_pairs: with_prior.into_iter().zip(with_posterior).collect(), of_codes })
    }
}

/// Margins of a split's pairs for one kind of their log-probabilities.
pub(super) fn of_pairs(
    split: &SplitExamples<'_>,
    objective: &ObjectiveConfig,
    logps: fn(&Example) -> (f64, f64),
) -> Result<Vec<f64>> {
    if split.rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(objective.losses(&preference(split, logps)?)?.margins()?.to_vec1::<f64>()?)
}
