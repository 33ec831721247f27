//! Outputs of a trained policy in its run folder: posteriors, codes, model, summary.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use super::summary::{self, RunSummary};
use crate::analysis;
use crate::artifact;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::lpc::collapse::{self, collapse};
use crate::objective::ObjectiveConfig;
use crate::policy::{Policy, saved};
use crate::posteriors::evaluation::{self, EvaluationSums};
use crate::posteriors::usage::ExampleSums;
use crate::posteriors::{
    self, ExaminedPart, ExaminedParts, FrameBuilder, LabelFindings, PosteriorContext, SplitExamples, add_posteriors,
    codes, validation,
};
use crate::progress::Progress;
use crate::schema::{self, metric};
use crate::seed::Seed;
use crate::tokenize::ModelTokenizer;
use crate::train::ranks::work;
use crate::train::{Metrics, Observer, Outcome, Posteriors, Ranks, TrainConfig, TrainEvent, reference};
use crate::weights::{base, folder};

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
    let flips = codes::flip_rates(policy)?;
    let known = config.objective.needs_reference().then_some(reference);
    add_posteriors(&split.rows, &mut examples, known, keys, context(config, flips.as_deref()))?;
    evaluation::metrics(split, &examples, reference, &config.objective)
}

/// Evaluates the pairs of validation and returns their [`validation::metrics`], by the observed labels.
pub(super) fn validate(
    policy: &Policy<f32>,
    split: &Split,
    reference: &[(f64, f64)],
    objective: &ObjectiveConfig,
    ranks: &Ranks,
) -> Result<Metrics> {
    let examples = work::examine(policy, &split.rows, ranks, |_| {})?;
    let known = objective.needs_reference().then_some(reference);
    let found = SplitExamples { split: &split.name, rows: &split.rows, examples: &examples, reference: known };
    validation::metrics(&found, objective, codes::flip_rates(policy)?.as_deref())
}

fn context<'a>(config: &'a TrainConfig, flips: Option<&'a [f64]>) -> PosteriorContext<'a> {
    PosteriorContext { objective: &config.objective, lpc: &config.lpc, flips }
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

/// Pairs of one split that were examined together.
#[derive(Debug)]
struct Place {
    split: usize,
    rows: Range<usize>,
    /// What was found; `None` where it is in a file.
    found: Option<ExaminedPart>,
}

/// How the final evaluation ended.
pub(super) enum Examination {
    /// With all pairs.
    Whole(Examined),
    /// The user interrupted it.
    Stopped {
        /// Pairs whose results are kept.
        kept: usize,
        /// Pairs that were to be examined.
        all: usize,
    },
}

/// Results of the final evaluation; with several ranks the first one has them.
pub(super) struct Examined {
    places: Vec<Place>,
    parts: ExaminedParts,
    time: Duration,
}

impl Examined {
    /// How many pairs were examined.
    pub fn pairs(&self) -> usize {
        self.places.iter().map(|place| place.rows.len()).sum()
    }

    /// Removes the files of the parts.
    pub fn forget(&self) {
        self.parts.remove();
    }
}

impl Trained<'_> {
    /// Evaluates every split that `train.posteriors` asks for, part by part. Where there are several parts they are kept
    /// in `parts`, and those that are there are not computed again.
    ///
    /// # Errors
    /// Those of evaluating and of keeping the parts.
    pub fn examine(
        &self,
        policy: &Policy<f32>,
        parts: ExaminedParts,
        ranks: &Ranks,
        progress: &dyn Progress,
    ) -> Result<Examination> {
        let clock = Instant::now();
        let asked = |i: usize| i == 1 || self.config.posteriors == Posteriors::All;
        let of_split = |i: usize| -> Vec<Place> {
            let ranges = posteriors::ranges(self.splits[i].rows.len(), self.keys[i].as_deref());
            ranges.into_iter().map(|rows| Place { split: i, rows, found: None }).collect()
        };
        let places = (0..self.splits.len()).filter(|i| asked(*i)).flat_map(of_split).collect();
        let mut examined = Examined { places, parts, time: Duration::ZERO };
        let (all, alone) = (examined.pairs(), examined.places.len() == 1);
        let known: Vec<bool> = ranks.from_first(|| {
            let known = |place: &Place| match self.kept(&examined.parts, place) {
                Ok(part) => part.is_some(),
                Err(error) => {
                    progress.warn(&format!("{error}; its pairs are examined again"));
                    false
                }
            };
            Ok(examined.places.iter().map(|place| !alone && known(place)).collect())
        })?;
        let mut kept = examined.places.iter().zip(&known).filter(|(_, known)| **known).map(|(p, _)| p.rows.len()).sum();
        if kept > 0 && ranks.first() {
            progress.note(&format!("posteriors: {kept} of {all} pairs are kept from before"));
        }
        let flips = codes::flip_rates(policy)?;
        progress.begin("posteriors", Some((all - kept) as u64));
        for (place, _) in examined.places.iter_mut().zip(known).filter(|(_, known)| !known) {
            if ranks.any(progress.interrupted())? {
                progress.end();
                return Ok(Examination::Stopped { kept, all });
            }
            let (split, rows) = (&self.splits[place.split], place.rows.clone());
            let tokens = &split.rows[rows.clone()];
            let examples = work::examine(policy, tokens, ranks, |n| progress.advance(n as u64))?;
            ranks.from_first(|| {
                let keys = self.keys[place.split].as_ref().map(|keys| &keys[rows.clone()]);
                let reference = self.reference_of(place.split, &rows);
                let part = ExaminedPart::of(tokens, examples, reference, keys, context(self.config, flips.as_deref()))?;
                if alone {
                    place.found = Some(part);
                    return Ok(());
                }
                let view = SplitExamples { split: &split.name, rows: tokens, examples: &part.examples, reference };
                examined.parts.write(&view, &rows, &part)
            })?;
            kept += rows.len();
        }
        progress.end();
        examined.time = clock.elapsed();
        Ok(Examination::Whole(examined))
    }

    /// Reference log-probabilities of rows of a split, where the objective has a reference.
    fn reference_of(&self, split: usize, rows: &Range<usize>) -> Option<&[(f64, f64)]> {
        self.config.objective.needs_reference().then(|| &self.reference[split][rows.clone()])
    }

    /// A part that was examined.
    fn found(&self, examined: &Examined, place: &Place) -> Result<ExaminedPart> {
        if let Some(part) = &place.found {
            return Ok(part.clone());
        }
        let part = self.kept(&examined.parts, place)?;
        part.ok_or_else(|| Error::run("examined pairs have vanished from the run folder"))
    }

    /// A part whose file is there.
    fn kept(&self, parts: &ExaminedParts, place: &Place) -> Result<Option<ExaminedPart>> {
        let split = &self.splits[place.split];
        parts.read(&split.name, &place.rows, &split.rows[place.rows.clone()])
    }

    /// What the objective finds of the labels of all training pairs together.
    fn suspects(&self, examined: &Examined) -> Result<LabelFindings> {
        let none = LabelFindings::none(&self.config.objective);
        let trained: Vec<&Place> = examined.places.iter().filter(|place| place.split == 0).collect();
        if !matches!(none, LabelFindings::Suspects(_)) || trained.is_empty() {
            return Ok(none);
        }
        let mut margins = Vec::new();
        for place in trained {
            margins.extend(self.found(examined, place)?.margins.of_pairs.iter().map(|margin| margin.0));
        }
        Ok(LabelFindings::suspects(&self.config.objective, &margins))
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
        let config = self.config;
        let suspects = self.suspects(examined)?;
        let (mut frame, mut sums, mut evaluated) =
            (FrameBuilder::default(), ExampleSums::default(), EvaluationSums::default());
        let batches = examined.places.iter().map(|place| {
            let mut part = self.found(examined, place)?;
            if place.split == 0 && suspects.hoelder_rate().is_some() {
                part.margins.labels = suspects.slice(place.rows.clone());
            }
            let split = &self.splits[place.split];
            let view = SplitExamples {
                split: &split.name,
                rows: &split.rows[place.rows.clone()],
                examples: &part.examples,
                reference: self.reference_of(place.split, &place.rows),
            };
            frame.push(&view, &part.margins)?;
            sums.add(&part.examples, part.swap_overlaps);
            if place.split == 1 {
                evaluated.add(&view, part.margins.of_pairs.iter().map(|margin| margin.0));
            }
            posteriors::batch(&view, &part.margins)
        });
        let table = posteriors::schema(&config.objective)?;
        posteriors::write(&out.join(schema::run::POSTERIORS), table, &[], batches)?;
        let frame = frame.finish()?;

        let usage = analysis::code_usage(&frame)?;
        let accuracy = analysis::code_columns(&frame, &usage)?;
        let path = out.join(schema::run::CODES);
        let token = |id: u32| tokenizer.decode_token(id);
        codes::write(&path, policy, &usage, accuracy, tokenizer.vocab_size(), &token)?;
        if config.save_model {
            let model = out.join(schema::run::MODEL);
            saved::save(policy, &model)?;
            tokenizer.save(&model)?;
            for place in [&model, &model.join(base::FOLDER)] {
                folder::add_end_tokens(place, &tokenizer.stop_ids())?;
            }
        }

        let summary = summary::of(self, policy, &frame, &sums, suspects.hoelder_rate())?;
        artifact::write_json(out.join(schema::run::SUMMARY), &summary)?;
        let mut metrics = evaluated.metrics();
        metrics.push((metric::EVAL_RUNTIME.into(), examined.time.as_secs_f64()));
        let event = TrainEvent::Evaluation { step: self.outcome.steps, metrics };
        observers.iter_mut().try_for_each(|o| o.observe(&event))?;

        let signs = sums.collapse_signs(&config.lpc, self.keys.iter().any(Option::is_some));
        if let Some(why) = collapse(&sums.used.prior, signs.posterior_entropy) {
            progress.warn(&format!("the codes have collapsed: {why} (see docs/guide.md on collapse)"));
            collapse::diagnose(signs, &config.lpc).iter().for_each(|advice| progress.warn(&advice.to_string()));
        }
        Ok(summary)
    }
}
