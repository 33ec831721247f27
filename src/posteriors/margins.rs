//! Implicit reward margins of examined pairs.

use super::bayes::{self, PosteriorContext};
use super::split_examples::{SplitExamples, preference};
use crate::error::Result;
use crate::objective::{ObjectiveConfig, ObjectiveKind, hoelder_suspects};
use crate::policy::Example;

/// Implicit reward margins of the rows of one split, in the observed order of the pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Margins {
    /// With the prior's z, and with the posterior's.
    pub of_pairs: Vec<(f64, f64)>,
    /// With each code alone; empty lists without codes.
    pub of_codes: Vec<Vec<f32>>,
    /// What the objective finds of the labels.
    pub labels: LabelFindings,
}

/// What an objective finds of the labels of one split, with the prior's z.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum LabelFindings {
    /// Nothing.
    #[default]
    Nothing,
    /// RE-PO's probability that each label is right.
    Clean(Vec<f64>),
    /// Hölder-DPO's estimate of the share of wrong labels among the training pairs, and which ones it suspects; none for
    /// pairs that were not trained on.
    Suspects(Option<(f64, Vec<bool>)>),
}

impl LabelFindings {
    /// What an objective finds of no labels.
    pub fn none(objective: &ObjectiveConfig) -> LabelFindings {
        if objective.name == ObjectiveKind::Hoelder && objective.custom.is_none() {
            LabelFindings::Suspects(None)
        } else if objective.clean_rate().is_some() {
            LabelFindings::Clean(Vec::new())
        } else {
            LabelFindings::Nothing
        }
    }

    /// What is found of each pair by itself. Suspects are found among all pairs: [`LabelFindings::suspects`].
    fn of(split: &SplitExamples<'_>, objective: &ObjectiveConfig) -> Result<LabelFindings> {
        let none = LabelFindings::none(objective);
        if !matches!(none, LabelFindings::Clean(_)) || split.rows.is_empty() {
            return Ok(none);
        }
        let clean = objective.clean_probabilities(&preference(split, |e| e.logps)?)?;
        Ok(clean.map(|w| w.to_vec1::<f64>()).transpose()?.map_or(LabelFindings::Nothing, LabelFindings::Clean))
    }

    /// The suspects among all training pairs, whose margins with the prior's z these are, where the objective finds any.
    pub fn suspects(objective: &ObjectiveConfig, margins: &[f64]) -> LabelFindings {
        match LabelFindings::none(objective) {
            LabelFindings::Suspects(_) => LabelFindings::Suspects(hoelder_suspects(margins, objective.hoelder_gamma)),
            other => other,
        }
    }

    /// These of the rows in a range.
    pub fn slice(&self, range: std::ops::Range<usize>) -> LabelFindings {
        match self {
            LabelFindings::Nothing => LabelFindings::Nothing,
            LabelFindings::Clean(clean) => LabelFindings::Clean(clean[range].to_vec()),
            LabelFindings::Suspects(found) => {
                LabelFindings::Suspects(found.as_ref().map(|(rate, suspects)| (*rate, suspects[range].to_vec())))
            }
        }
    }

    /// Hölder-DPO's estimate of the share of wrong labels, of the training pairs.
    pub fn hoelder_rate(&self) -> Option<f64> {
        match self {
            LabelFindings::Suspects(found) => found.as_ref().map(|(rate, _)| *rate),
            _ => None,
        }
    }
}

impl Margins {
    /// The margins of a split. With Bayes' posterior the second one of a pair is the posterior's mean over the codes.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn of(split: &SplitExamples<'_>, context: PosteriorContext<'_>) -> Result<Margins> {
        let of_codes = bayes::code_margins(split, context)?;
        let with_prior = Margins::with_prior(split, context.objective)?;
        let with_posterior = if context.lpc.bayesian() {
            let expected = |example: &Example, codes: &Vec<f32>| -> f64 {
                example.posterior.iter().zip(codes).map(|(&q, &m)| f64::from(q) * f64::from(m)).sum()
            };
            split.examples.iter().zip(&of_codes).map(|(example, codes)| expected(example, codes)).collect()
        } else {
            of_pairs(split, context.objective, |e| e.logps_posterior)?
        };
        let labels = LabelFindings::of(split, context.objective)?;
        Ok(Margins { of_pairs: with_prior.into_iter().zip(with_posterior).collect(), of_codes, labels })
    }
}

impl Margins {
    /// The margins of a split's pairs with the prior's z, alone.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn with_prior(split: &SplitExamples<'_>, objective: &ObjectiveConfig) -> Result<Vec<f64>> {
        of_pairs(split, objective, |e| e.logps)
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
