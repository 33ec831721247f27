//! What a trained policy leaves in its run folder: posteriors, codes, model, summary.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use polars::prelude::*;

use super::{RunSummary, SourceAccuracy, evaluate, latent};
use crate::analysis::{self, tables};
use crate::artifact;
use crate::batch::Split;
use crate::error::Result;
use crate::lpc::usage::hard_code;
use crate::lpc::{CollapseSigns, Usage, collapse};
use crate::policy::{Example, Policy, saved};
use crate::posteriors::{self, Ledger, Part, Settings};
use crate::progress::Progress;
use crate::schema::{self, col, prepared};
use crate::seed::Seed;
use crate::tokenize::ModelTokenizer;
use crate::train::{Observer, Outcome, Peers, Posteriors, TrainConfig, reference, shares};

/// A trained policy on its way to disk.
pub(super) struct Trained<'a> {
    pub config: &'a TrainConfig,
    pub seed: Seed,
    pub splits: &'a [Split],
    pub reference: &'a reference::Reference,
    /// Keys of the rows of every split, where pairs share codes.
    pub keys: &'a [Option<Vec<u64>>],
    pub ledger: &'a HashMap<String, Ledger>,
    /// Mean swap overlap over all examples, once they are examined.
    pub swap_overlap: std::cell::Cell<Option<f64>>,
    pub outcome: Outcome,
}

impl Trained<'_> {
    /// Evaluates every split.
    ///
    /// # Errors
    /// As [`super::run`].
    pub fn examine(
        &self,
        policy: &Policy<f32>,
        peers: &Peers,
        progress: &dyn Progress,
    ) -> Result<(Vec<Vec<Example>>, Duration)> {
        let clock = Instant::now();
        let asked = |i: usize| i > 0 || self.config.posteriors == Posteriors::All;
        let asked_rows = |(i, split): (usize, &Split)| if asked(i) { split.rows.len() } else { 0 };
        let total: usize = self.splits.iter().enumerate().map(asked_rows).sum();
        progress.begin("posteriors", Some(total as u64));
        let examples: Result<Vec<_>> = self
            .splits
            .iter()
            .enumerate()
            .map(|(i, s)| {
                let rows = if asked(i) { s.rows.as_slice() } else { &[] };
                shares::examine(policy, rows, peers, |n| progress.advance(n as u64))
            })
            .collect();
        progress.end();
        let mut examples = examples?;
        for (i, (split, examples)) in self.splits.iter().zip(&mut examples).enumerate().filter(|(i, _)| asked(*i)) {
            let keys = self.keys[i].as_deref();
            if let Some(sum) = evaluate::settled(policy, split, examples, &self.reference[i], keys, self.config)? {
                self.swap_overlap.set(Some(self.swap_overlap.get().unwrap_or(0.0) + sum / total.max(1) as f64));
            }
        }
        Ok((examples, clock.elapsed()))
    }

    /// Writes posteriors, codes, model and summary.
    ///
    /// # Errors
    /// As [`super::run`].
    pub fn write(
        &self,
        out: &Path,
        policy: &Policy<f32>,
        tokenizer: &ModelTokenizer,
        (examples, time): &(Vec<Vec<Example>>, Duration),
        observers: &mut [&mut dyn Observer],
        progress: &dyn Progress,
    ) -> Result<RunSummary> {
        let parts: Vec<Part<'_>> = self
            .splits
            .iter()
            .zip(examples)
            .zip(self.reference)
            .map(|((split, examples), reference)| Part {
                split: &split.name,
                rows: &split.rows[..examples.len()],
                examples,
                reference: self.config.objective.needs_reference().then_some(&reference[..examples.len()]),
            })
            .collect();
        let path = out.join(schema::run::POSTERIORS);
        let flips = latent::flip_rates(policy)?;
        let settings = Settings { objective: &self.config.objective, lpc: &self.config.lpc, flips: flips.as_deref() };
        posteriors::write(&path, &parts, self.ledger, settings)?;
        let frame = artifact::read_parquet(&path)?;
        artifact::write_parquet(out.join(schema::run::CODES), &mut latent::codes(policy, tokenizer, &frame)?)?;
        if self.config.save_model {
            let model = out.join(schema::run::MODEL);
            saved::save(policy, &model)?;
            tokenizer.save(&model)?;
        }
        let summary = self.summary(policy, &frame, examples)?;
        artifact::write_json(out.join(schema::run::SUMMARY), &summary)?;
        let (test, reference) = (&self.splits[1], &self.reference[1]);
        let mut metrics = evaluate::metrics(test, &examples[1], reference, &self.config.objective)?;
        metrics.push(("eval_runtime".into(), time.as_secs_f64()));
        let event = crate::train::TrainEvent::Evaluation { step: self.outcome.steps, metrics };
        observers.iter_mut().try_for_each(|o| o.observe(&event))?;
        let used = usage(examples);
        let signs = self.signs(examples, &used);
        if let Some(why) = collapse::collapse(&used[0], signs.posterior_entropy) {
            progress.warn(&format!("the codes have collapsed: {why} (see the README on collapse)"));
            collapse::diagnose(signs).iter().for_each(|advice| progress.warn(&advice.to_string()));
        }
        Ok(summary)
    }

    /// What this run shows of its codes; `used` is their use by prior and posterior.
    fn signs(&self, examples: &[Vec<Example>], used: &[Usage; 2]) -> CollapseSigns {
        let all = || examples.iter().flatten();
        let total = all().count().max(1) as f64;
        let mean = |get: fn(&Example) -> f64| all().map(get).sum::<f64>() / total;
        let code = |weights: &[f32]| hard_code(&weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>());
        let same = all().filter(|e| code(&e.prior) == code(&e.posterior)).count();
        CollapseSigns {
            codes: used[0].mass.len(),
            used_prior: used[0].codes_used(),
            used_posterior: used[1].codes_used(),
            perplexity: used[0].perplexity(),
            prior_entropy: mean(|e| e.prior_entropy),
            posterior_entropy: mean(|e| e.posterior_entropy),
            kl: mean(|e| e.kl),
            swap_overlap: self.swap_overlap.get(),
            agreement: Some(same as f64 / total),
            bayes: self.config.lpc.bayesian(),
            kl_weight: self.config.lpc.kl_weight,
            balance: self.config.lpc.balance,
            code_init: self.config.lpc.code_init,
            grouped: self.keys.iter().any(Option::is_some),
        }
    }

    fn summary(&self, policy: &Policy<f32>, frame: &DataFrame, examples: &[Vec<Example>]) -> Result<RunSummary> {
        let test = frame.clone().lazy().filter(polars::prelude::col(col::SPLIT).eq(lit("test"))).collect()?;
        let train = frame.clone().lazy().filter(polars::prelude::col(col::SPLIT).eq(lit("train"))).collect()?;
        let correct = tables::clean_correct(&test)?;
        let right = correct.iter().filter(|c| **c).count() as u64;
        let interval = analysis::wilson(right, correct.len() as u64, 0.95);
        let flipped = tables::flags(&test, col::FLIPPED)?;
        let clean = |name: &str| -> Result<Vec<f64>> {
            let margins = tables::numbers(&test, name)?;
            Ok(margins.iter().zip(&flipped).map(|(m, f)| if *f { -m } else { *m }).collect())
        };
        let (margins, seen) = (clean("margin")?, clean("margin_posterior")?);
        // Without test pairs there is no mean: 0 / 0.
        let n = margins.len() as f64;
        let usage = usage(examples);
        let all = examples.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let auroc = analysis::mislabel_auroc(&train)?;
        let name = |v: serde_json::Value| v.as_str().unwrap_or_default().to_string();
        Ok(RunSummary {
            eval_accuracy: interval.estimate,
            eval_accuracy_low: interval.low,
            eval_accuracy_high: interval.high,
            n_eval: correct.len() as u64,
            eval_accuracy_posterior: seen.iter().filter(|m| **m > 0.0).count() as f64 / n,
            eval_margin: margins.iter().sum::<f64>() / n,
            by_source: by_source(&test)?,
            steps: self.outcome.steps as u64,
            pairs_per_s: self.outcome.pairs_per_s,
            train_seconds: self.outcome.seconds,
            peak_rss_mb: crate::progress::peak_rss_mb(),
            codes_used: usage[0].codes_used() as u64,
            code_perplexity: usage[0].perplexity(),
            codes_used_posterior: usage[1].codes_used() as u64,
            kl: examples.iter().flatten().map(|e| e.kl).sum::<f64>() / all,
            audit_auroc: auroc.is_finite().then_some(auroc),
            objective: match &self.config.objective.custom {
                Some(custom) => custom.name.to_string(),
                None => name(serde_json::to_value(self.config.objective.name)?),
            },
            latent: name(serde_json::to_value(self.config.lpc.latent)?),
            codes: if self.config.lpc.coded() { self.config.lpc.codes as u64 } else { 1 },
            mix_flip_rate: latent::mix_flip_rate(policy, &self.config.objective, &usage[0])?,
            seed: self.seed.0,
            n_train: self.splits[0].rows.len() as u64,
        })
    }
}

fn by_source(test: &DataFrame) -> Result<Vec<SourceAccuracy>> {
    let table = analysis::accuracy_by_source(test)?;
    let sources = tables::texts(&table, col::SOURCE)?;
    let column = |name: &str| tables::numbers(&table, name);
    let (n, accuracy, low, high) = (column("n")?, column("accuracy")?, column("low")?, column("high")?);
    Ok((0..sources.len())
        .filter(|&i| sources[i] != "all")
        .map(|i| SourceAccuracy {
            source: sources[i].clone(),
            n: n[i] as u64,
            accuracy: accuracy[i],
            low: low[i],
            high: high[i],
        })
        .collect())
}

/// What the pairs files know of each id.
pub(super) fn ledger(data: &Path) -> Result<HashMap<String, Ledger>> {
    let mut out = HashMap::new();
    for split in schema::SPLITS {
        let frame = artifact::read_parquet(data.join(prepared::pairs(split)))?;
        let (ids, prompts) = (tables::texts(&frame, col::ID)?, tables::texts(&frame, col::PROMPT_ID)?);
        let (kinds, rates) = (tables::texts(&frame, col::NOISE_KIND)?, tables::numbers(&frame, col::NOISE_P)?);
        for (((id, prompt_id), noise_kind), noise_p) in ids.into_iter().zip(prompts).zip(kinds).zip(rates) {
            out.insert(id, Ledger { prompt_id, noise_kind, noise_p });
        }
    }
    Ok(out)
}

/// Use of the codes over all examples: by the prior, by the posterior.
fn usage(examples: &[Vec<Example>]) -> [Usage; 2] {
    let mut usage = [Usage::default(), Usage::default()];
    for example in examples.iter().flatten() {
        let wide = |w: &[f32]| w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
        usage[0].add(&wide(&example.prior));
        usage[1].add(&wide(&example.posterior));
    }
    usage
}
