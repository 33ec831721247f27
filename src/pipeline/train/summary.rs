//! `summary.json`: the headline numbers of a run.

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use super::outputs::Trained;
use crate::analysis::{self, SourceAccuracy};
use crate::error::Result;
use crate::policy::Policy;
use crate::posteriors::codes::mix_flip_rate;
use crate::posteriors::usage::ExampleSums;
use crate::schema;
use crate::train::Validation;

/// `summary.json`: a run's headline numbers. Accuracies are against the clean labels, with the prior's z.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Preference accuracy on the test split.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy: f64,
    /// Lower end of Wilson's 95 % interval.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_low: f64,
    /// Upper end.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_high: f64,
    /// Test examples.
    pub n_eval: u64,
    /// The same with the posterior's z, which has seen the observed label and is therefore no result to report. Equal
    /// to `eval_accuracy` without a posterior.
    #[serde(deserialize_with = "number")]
    pub eval_accuracy_posterior: f64,
    /// Mean implicit reward margin on the test split.
    #[serde(deserialize_with = "number")]
    pub eval_margin: f64,
    /// The test split by source.
    pub by_source: Vec<SourceAccuracy>,
    /// Steps taken, those that an early end of the latent part's warm-up passed over counted.
    pub steps: u64,
    /// Median pairs per second of training steps.
    #[serde(deserialize_with = "number")]
    pub pairs_per_s: f64,
    /// Seconds in training steps.
    #[serde(deserialize_with = "number")]
    pub train_seconds: f64,
    /// Peak resident memory, MiB.
    #[serde(deserialize_with = "number")]
    pub peak_rss_mb: f64,
    /// Codes that are the prior's first choice for at least 1 % of the examples.
    pub codes_used: u64,
    /// e to the entropy of the mean prior.
    #[serde(deserialize_with = "number")]
    pub code_perplexity: f64,
    /// Codes that are the posterior's first choice for at least 1 % of the examples.
    pub codes_used_posterior: u64,
    /// Mean KL(q || p), nats; 0 without a posterior.
    #[serde(deserialize_with = "number")]
    pub kl: f64,
    /// Area under the ROC curve of the margin as a detector of flipped labels on the training split; absent
    /// without flips.
    pub audit_auroc: Option<f64>,
    /// Objective.
    pub objective: String,
    /// Latent.
    pub latent: String,
    /// K; 1 without codes.
    pub codes: u64,
    /// Flip rate of objective mix at the end of training: the fixed or learned one, or for `lpc-reliable` the mean over
    /// the codes, weighted by the prior. Absent for other objectives.
    pub mix_flip_rate: Option<f64>,
    /// Share of wrong training labels that objective hoelder estimates; absent for other objectives, and where
    /// `train.posteriors` leaves the training pairs out.
    #[serde(default)]
    pub hoelder_noise_rate: Option<f64>,
    /// Clean rate of objective repo at the end of training; absent for other objectives.
    #[serde(default)]
    pub repo_clean_rate: Option<f64>,
    /// The step whose parameters were kept because they did best in validation; absent without validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// Share of the pairs of validation that these parameters rank as they are labelled, flips included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Pairs of validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_validation: Option<u64>,
    /// Seed.
    pub seed: u64,
    /// Pairs trained on.
    pub n_train: u64,
}

/// Reads null as NaN: JSON has no NaN, so that the accuracy of a run without a test split is written as null.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// What a run says of its validations.
pub(super) fn kept(validation: &Validation, steps: usize, pairs: usize) -> String {
    let mut line = match &validation.best {
        Some(best) => format!(
            "kept the parameters after step {}, the best of {} validations ({:.1} % of {pairs} pairs, loss {:.4})",
            best.step,
            validation.count,
            100.0 * best.accuracy,
            best.loss
        ),
        None => "no step was validated".into(),
    };
    if let Some(end) = validation.warm_end {
        line += &format!("; the latent part's warm-up ended early, after {end} steps");
    }
    if validation.ended {
        line += &format!("; training ended early, after step {steps}");
    }
    line
}

/// The summary of a trained policy. `frame` and `sums` are of its examples.
pub(super) fn of(
    trained: &Trained<'_>,
    policy: &Policy<f32>,
    frame: &DataFrame,
    sums: &ExampleSums,
    hoelder_noise_rate: Option<f64>,
) -> Result<RunSummary> {
    let (config, used) = (trained.config, &sums.used);
    let found = analysis::headline(frame)?;
    let best = trained.outcome.validation.as_ref().and_then(|validation| validation.best.as_ref());
    Ok(RunSummary {
        eval_accuracy: found.accuracy.estimate,
        eval_accuracy_low: found.accuracy.low,
        eval_accuracy_high: found.accuracy.high,
        n_eval: found.accuracy.n as u64,
        eval_accuracy_posterior: found.accuracy_posterior,
        eval_margin: found.margin,
        by_source: found.by_source,
        steps: trained.outcome.steps as u64,
        pairs_per_s: trained.outcome.pairs_per_s,
        train_seconds: trained.outcome.seconds,
        peak_rss_mb: crate::progress::peak_rss_mb(),
        codes_used: used.prior.codes_used() as u64,
        code_perplexity: used.prior.perplexity(),
        codes_used_posterior: used.posterior.codes_used() as u64,
        kl: sums.kl(),
        audit_auroc: found.audit_auroc,
        objective: match &config.objective.custom {
            Some(custom) => custom.name.to_string(),
            None => schema::name_of(&config.objective.name),
        },
        latent: schema::name_of(&config.lpc.latent),
        codes: if config.lpc.coded() { config.lpc.codes as u64 } else { 1 },
        mix_flip_rate: mix_flip_rate(policy, &config.objective, &used.prior)?,
        hoelder_noise_rate,
        repo_clean_rate: config.objective.clean_rate(),
        best_step: best.map(|best| best.step as u64),
        validation_accuracy: best.map(|best| best.accuracy),
        n_validation: best.and_then(|_| trained.splits.get(2)).map(|split| split.rows.len() as u64),
        seed: trained.seed.0,
        n_train: trained.splits[0].rows.len() as u64,
    })
}
