//! What a trained policy leaves in its run folder: posteriors, codes, model, summary.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use polars::prelude::*;

use super::{RunSummary, SourceAccuracy, evaluate};
use crate::analysis::{self, tables};
use crate::artifact;
use crate::batch::Split;
use crate::error::Result;
use crate::policy::{Example, Policy, examine, folder};
use crate::posteriors::{self, Ledger, Part};
use crate::progress::Progress;
use crate::schema::{self, col, prepared};
use crate::seed::Seed;
use crate::tokenize::ModelTokenizer;
use crate::train::{Observer, Outcome, TrainConfig, reference};

/// Tokens listed for each code at either end.
const TOKENS_PER_CODE: usize = 12;

/// A trained policy on its way to disk.
pub(super) struct Trained<'a> {
    pub config: &'a TrainConfig,
    pub seed: Seed,
    pub splits: &'a [Split],
    pub reference: &'a reference::Reference,
    pub outcome: Outcome,
}

impl Trained<'_> {
    /// Evaluates every split and writes posteriors, codes, model and summary.
    ///
    /// # Errors
    /// As [`super::run`].
    pub fn write(
        &self,
        out: &Path,
        policy: &Policy<f32>,
        tokenizer: &ModelTokenizer,
        observers: &mut [&mut dyn Observer],
        progress: &dyn Progress,
    ) -> Result<RunSummary> {
        let total: usize = self.splits.iter().map(|s| s.rows.len()).sum();
        progress.begin("posteriors", Some(total as u64));
        let clock = Instant::now();
        let examples: Vec<Vec<Example>> = self
            .splits
            .iter()
            .map(|s| examine(policy, &s.rows, |n| progress.advance(n as u64)))
            .collect::<Result<_>>()?;
        progress.end();
        let parts: Vec<Part<'_>> = self
            .splits
            .iter()
            .zip(&examples)
            .zip(self.reference)
            .map(|((split, examples), reference)| Part {
                split: &split.name,
                rows: &split.rows,
                examples,
                reference: self.config.objective.needs_reference().then_some(reference.as_slice()),
            })
            .collect();
        let path = out.join(schema::run::POSTERIORS);
        posteriors::write(&path, &parts, &ledger(Path::new(&self.config.data))?, &self.config.objective)?;
        let frame = artifact::read_parquet(&path)?;
        artifact::write_parquet(out.join(schema::run::CODES), &mut codes(policy, tokenizer, &frame)?)?;
        if self.config.save_model {
            let model = out.join(schema::run::MODEL);
            folder::save(policy, &model)?;
            tokenizer.save(&model)?;
        }
        let summary = self.summary(&frame, &examples)?;
        artifact::write_json(out.join(schema::run::SUMMARY), &summary)?;
        let (test, reference) = (&self.splits[1], &self.reference[1]);
        let mut metrics = evaluate::metrics(test, &examples[1], reference, &self.config.objective)?;
        metrics.push(("eval_runtime".into(), clock.elapsed().as_secs_f64()));
        let event = crate::train::TrainEvent::Evaluation { step: self.outcome.steps, metrics };
        observers.iter_mut().try_for_each(|o| o.observe(&event))?;
        let [prior, _] = usage(&examples);
        let total = examples.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let entropy = examples.iter().flatten().map(|e| e.posterior_entropy).sum::<f64>() / total;
        if let Some(why) = crate::lpc::usage::collapse(&prior, entropy) {
            progress.warn(&format!("the codes have collapsed: {why} (see the README on collapse)"));
        }
        Ok(summary)
    }

    fn summary(&self, frame: &DataFrame, examples: &[Vec<Example>]) -> Result<RunSummary> {
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
        let n = margins.len().max(1) as f64;
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
            objective: name(serde_json::to_value(self.config.objective.name)?),
            latent: name(serde_json::to_value(self.config.lpc.latent)?),
            codes: if self.config.lpc.active() { self.config.lpc.codes as u64 } else { 1 },
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
fn ledger(data: &Path) -> Result<HashMap<String, Ledger>> {
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
fn usage(examples: &[Vec<Example>]) -> [crate::lpc::Usage; 2] {
    let mut usage = [crate::lpc::Usage::default(), crate::lpc::Usage::default()];
    for example in examples.iter().flatten() {
        let wide = |w: &[f32]| w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
        usage[0].add(&wide(&example.prior));
        usage[1].add(&wide(&example.posterior));
    }
    usage
}

/// codes.parquet: usage of each code, and the tokens that W e_k raises and lowers most.
fn codes(policy: &Policy<f32>, tokenizer: &ModelTokenizer, posteriors: &DataFrame) -> Result<DataFrame> {
    let usage = analysis::code_usage(posteriors)?;
    let k = usage.height();
    let (mut top, mut bottom, mut norms) = (vec![Vec::new(); k], vec![Vec::new(); k], vec![0f64; k]);
    if let Some(lpc) = &policy.lpc {
        let logits = policy.decoder.logits(lpc.codebook())?.to_vec2::<f32>()?;
        let vectors = lpc.codebook().detach().to_vec2::<f32>()?;
        for code in 0..k.min(logits.len()) {
            let mut order: Vec<usize> = (0..logits[code].len().min(tokenizer.vocab_size())).collect();
            order.sort_by(|&a, &b| logits[code][b].total_cmp(&logits[code][a]).then(a.cmp(&b)));
            let text = |ids: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
                ids.take(TOKENS_PER_CODE).map(|&id| tokenizer.decode_token(id as u32)).collect()
            };
            top[code] = text(&mut order.iter());
            bottom[code] = text(&mut order.iter().rev());
            norms[code] = vectors[code].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
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
    columns.extend_from_slice(&usage.columns()[3..]);
    Ok(DataFrame::new(k, columns)?)
}
