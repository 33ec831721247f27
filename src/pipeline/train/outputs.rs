//! Outputs of a trained policy in its run folder: posteriors, codes, model, summary.

use std::path::Path;
use std::time::{Duration, Instant};

use super::summary::{self, RunSummary};
use crate::analysis;
use crate::artifact;
use crate::batch::Split;
use crate::error::Result;
use crate::lpc::collapse::{self, collapse};
use crate::policy::{Example, Policy, saved};
use crate::posteriors::usage::{CodeUse, collapse_signs};
use crate::posteriors::{self, Margins, PosteriorContext, SplitExamples, codes, evaluation};
use crate::progress::Progress;
use crate::schema::{self, metric};
use crate::seed::Seed;
use crate::tokenize::ModelTokenizer;
use crate::train::ranks::work;
use crate::train::{Metrics, Observer, Outcome, Posteriors, Ranks, TrainConfig, TrainEvent, reference};

/// Evaluates the test split and returns its [`evaluation::metrics`]; none where it has no examples.
pub(super) fn evaluate(
    policy: &Policy<f32>,
    split: &Split,
    reference: &[(f64, f64)],
    keys: Option<&[u64]>,
    config: &TrainConfig,
    ranks: &Ranks,
) -> Result<Metrics> {
    let mut examples = work::examine(policy, &split.rows, ranks, |_| {})?;
    add_posteriors(policy, split, &mut examples, reference, keys, config)?;
    evaluation::metrics(split, &examples, reference, &config.objective)
}

/// [`posteriors::add_posteriors`] for a split of this run.
fn add_posteriors(
    policy: &Policy<f32>,
    split: &Split,
    examples: &mut [Example],
    reference: &[(f64, f64)],
    keys: Option<&[u64]>,
    config: &TrainConfig,
) -> Result<Option<f64>> {
    let flips = codes::flip_rates(policy)?;
    let context = PosteriorContext { objective: &config.objective, lpc: &config.lpc, flips: flips.as_deref() };
    let reference = config.objective.needs_reference().then_some(reference);
    posteriors::add_posteriors(&split.rows, examples, reference, keys, context)
}

/// What the outputs of a trained policy are made from.
pub(super) struct Trained<'a> {
    pub config: &'a TrainConfig,
    pub seed: Seed,
    pub splits: &'a [Split],
    pub reference: &'a reference::Reference,
    /// Keys of the rows of every split, where pairs share codes.
    pub keys: &'a [Option<Vec<u64>>],
    pub outcome: Outcome,
}

/// Results of the final evaluation.
pub(super) struct Examined {
    /// Examples of every split; none of one that `train.posteriors` leaves out.
    examples: Vec<Vec<Example>>,
    /// Mean swap overlap of the posteriors, where it is known.
    swap_overlap: Option<f64>,
    time: Duration,
}

impl Trained<'_> {
    /// Evaluates every split that `train.posteriors` asks for.
    pub fn examine(&self, policy: &Policy<f32>, ranks: &Ranks, progress: &dyn Progress) -> Result<Examined> {
        let clock = Instant::now();
        let asked = |i: usize| i > 0 || self.config.posteriors == Posteriors::All;
        let rows = |i: usize| if asked(i) { self.splits[i].rows.as_slice() } else { &[] };
        let total: usize = (0..self.splits.len()).map(|i| rows(i).len()).sum();
        progress.begin("posteriors", Some(total as u64));
        let examples: Result<Vec<_>> = (0..self.splits.len())
            .map(|i| work::examine(policy, rows(i), ranks, |n| progress.advance(n as u64)))
            .collect();
        progress.end();
        let (mut examples, mut swap_overlap) = (examples?, None);
        for (i, examples) in examples.iter_mut().enumerate().filter(|(i, _)| asked(*i)) {
            let (split, keys) = (&self.splits[i], self.keys[i].as_deref());
            if let Some(sum) = add_posteriors(policy, split, examples, &self.reference[i], keys, self.config)? {
                swap_overlap = Some(swap_overlap.unwrap_or(0.0) + sum / total.max(1) as f64);
            }
        }
        Ok(Examined { examples, swap_overlap, time: clock.elapsed() })
    }

    /// Writes posteriors, codes, model and summary; warns where the codes have collapsed.
    pub fn write(
        &self,
        out: &Path,
        policy: &Policy<f32>,
        tokenizer: &ModelTokenizer,
        examined: &Examined,
        observers: &mut [&mut dyn Observer],
        progress: &dyn Progress,
    ) -> Result<RunSummary> {
        let (config, examples) = (self.config, &examined.examples);
        let flips = codes::flip_rates(policy)?;
        let context = PosteriorContext { objective: &config.objective, lpc: &config.lpc, flips: flips.as_deref() };
        let of_splits = self.splits.iter().zip(examples).zip(self.reference);
        let of_splits: Vec<SplitExamples<'_>> = of_splits
            .map(|((split, examples), reference)| SplitExamples {
                split: &split.name,
                rows: &split.rows[..examples.len()],
                examples,
                reference: config.objective.needs_reference().then_some(&reference[..examples.len()]),
            })
            .collect();
        let margins = of_splits.iter().map(|split| Margins::of(split, context)).collect::<Result<Vec<_>>>()?;
        posteriors::write(&out.join(schema::run::POSTERIORS), &of_splits, &margins)?;
        let frame = posteriors::frame(&of_splits, &margins)?;

        let usage = analysis::code_usage(&frame)?;
        let accuracy = analysis::code_columns(&frame, &usage)?;
        let path = out.join(schema::run::CODES);
        let token = |id: u32| tokenizer.decode_token(id);
        codes::write(&path, policy, &usage, accuracy, tokenizer.vocab_size(), &token)?;
        if config.save_model {
            let model = out.join(schema::run::MODEL);
            saved::save(policy, &model)?;
            tokenizer.save(&model)?;
        }

        let used = CodeUse::of(examples.iter().flatten());
        let hoelder_rate = margins.iter().find_map(|split| split.labels.hoelder_rate());
        let summary = summary::of(self, policy, &frame, examples, &used, hoelder_rate)?;
        artifact::write_json(out.join(schema::run::SUMMARY), &summary)?;
        let mut metrics = evaluation::metrics(&self.splits[1], &examples[1], &self.reference[1], &config.objective)?;
        metrics.push((metric::EVAL_RUNTIME.into(), examined.time.as_secs_f64()));
        let event = TrainEvent::Evaluation { step: self.outcome.steps, metrics };
        observers.iter_mut().try_for_each(|o| o.observe(&event))?;

        let grouped = self.keys.iter().any(Option::is_some);
        let signs = collapse_signs(examples, &used, &config.lpc, examined.swap_overlap, grouped);
        if let Some(why) = collapse(&used.prior, signs.posterior_entropy) {
            progress.warn(&format!("the codes have collapsed: {why} (see docs/guide.md on collapse)"));
            collapse::diagnose(signs).iter().for_each(|advice| progress.warn(&advice.to_string()));
        }
        Ok(summary)
    }
}
