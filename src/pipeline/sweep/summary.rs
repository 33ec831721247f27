//! `summary.parquet`: one row per cell over its seeds, compared with its baselines.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::*;
use serde::Serialize;

use super::Cell;
use super::paired::{Comparison, Correctness, compare};
use super::tables::{ResultRow, STATUS_OK, Varied, column, grouped, mean, share_ends};
use crate::analysis;
use crate::artifact;
use crate::error::Result;
use crate::lpc::LatentKind;
use crate::pipeline::recipe::sweep::{Baseline, shown};
use crate::schema::{name_of, result};
use crate::train::TrainConfig;

/// One cell over its seeds: a row of `summary.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryRow {
    /// What the grid varies.
    #[serde(flatten)]
    pub varied: Varied,
    /// Seed of the flips.
    pub noise_seed: u64,
    /// Finished seeds.
    pub n_seeds: u32,
    /// Failed seeds.
    pub n_failed: u32,
    /// Seeds that were not run to their end.
    pub n_missing: u32,
    /// Test examples, the least over the seeds.
    pub n_eval: Option<u64>,
    /// Mean accuracy over the seeds.
    pub eval_accuracy: Option<f64>,
    /// Standard deviation over the seeds (n - 1).
    pub eval_accuracy_sd: Option<f64>,
    /// Lower end of the 95 % t interval over the seeds; none below three seeds.
    pub eval_accuracy_low: Option<f64>,
    /// Upper end of the 95 % t interval over the seeds.
    pub eval_accuracy_high: Option<f64>,
    /// Accuracy minus that of `latent = none` with the same noise and objective, seeds paired.
    pub difference: Option<f64>,
    /// Lower end of the 95 % interval, by a bootstrap over the test pairs' prompts.
    pub difference_low: Option<f64>,
    /// Upper end of the 95 % interval, by a bootstrap over the test pairs' prompts.
    pub difference_high: Option<f64>,
    /// Test pairs in the paired comparison.
    pub n_paired: Option<u64>,
    /// Two-sided p-value, by sign flips of the prompts' differences, of no difference.
    pub difference_p: Option<f64>,
    /// The same after Holm's correction for all comparisons with `latent = none`.
    pub difference_p_holm: Option<f64>,
    /// The named baseline, in words; none without one.
    pub baseline: Option<String>,
    /// Accuracy minus that of the named baseline, seeds paired.
    pub difference_baseline: Option<f64>,
    /// Lower end of the 95 % interval, by a bootstrap over the test pairs' prompts.
    pub difference_baseline_low: Option<f64>,
    /// Upper end of the 95 % interval, by a bootstrap over the test pairs' prompts.
    pub difference_baseline_high: Option<f64>,
    /// Test pairs in the comparison with the named baseline.
    pub n_paired_baseline: Option<u64>,
    /// Two-sided p-value, by sign flips of the prompts' differences, of no difference to the named baseline.
    pub difference_baseline_p: Option<f64>,
    /// The same after Holm's correction for all comparisons with the named baseline.
    pub difference_baseline_p_holm: Option<f64>,
    /// Share of the training pairs on which the noise fell: flipped, or singled out.
    pub noise_share: Option<f64>,
    /// Mean mislabel AUROC.
    pub audit_auroc: Option<f64>,
    /// Lower end of its 95 % t interval over the seeds; none below three seeds.
    pub audit_auroc_low: Option<f64>,
    /// Upper end of its 95 % t interval over the seeds.
    pub audit_auroc_high: Option<f64>,
    /// Mean number of codes in use.
    pub codes_used: Option<f64>,
    /// Mean code perplexity.
    pub code_perplexity: Option<f64>,
    /// Mean wall clock of the training, seconds.
    pub train_seconds: Option<f64>,
}

/// What the cells of a sweep are compared with.
pub(super) struct Baselines<'a> {
    /// The named baseline; empty for none.
    pub named: &'a Baseline,
    /// Numbers of codes of the grid.
    pub codes: &'a [usize],
    /// The recipe's training settings.
    pub base: &'a TrainConfig,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Baselines<'_> {
    /// The named baseline in words.
    fn words(&self) -> Option<String> {
        let words: Vec<String> = self.named.iter().map(|(axis, value)| format!("{axis} {}", shown(value))).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// What is equal for all seeds of a cell. Without flips, rows of several noise kinds share a run and its name, but each
/// has a row of its own here.
fn key(cell: &Cell) -> String {
    format!("{:?}", Cell { seed: 0, ..cell.clone() })
}

/// One row per cell, in the order of the grid; `warn` is called for comparisons that cannot be made.
pub(super) fn summarize(
    results: &[ResultRow],
    out: &Path,
    baselines: &Baselines<'_>,
    warn: &dyn Fn(&str),
) -> Result<Vec<SummaryRow>> {
    let groups = grouped(results, |row| key(&row.cell));
    let index: BTreeMap<String, usize> = groups.iter().enumerate().map(|(i, group)| (key(&group[0].cell), i)).collect();
    let group_of = |cell: &Cell| index.get(&key(cell)).map(|&i| groups[i].as_slice());
    let plain = |cell: &Cell| {
        let none = [("latent".to_string(), name_of(&LatentKind::None).into())].into();
        cell.with(&none, baselines.codes, baselines.base).filter(|_| cell.latent != LatentKind::None)
    };
    let named = |cell: &Cell| {
        let other =
            cell.with(baselines.named, baselines.codes, baselines.base).filter(|_| !baselines.named.is_empty())?;
        // Without flips, a cell of another noise kind is the same run.
        (!other.is_run_of(cell)).then_some(other)
    };
    let mut correctness = Correctness::of(out);
    let mut against = |what: &str, of: &dyn Fn(&Cell) -> Option<Cell>| {
        let pairs = groups.iter().map(|group| Some((group.as_slice(), group_of(&of(&group[0].cell)?)?)));
        compare(pairs, &mut correctness, baselines.seed, &|name| {
            warn(&format!("{name}: no finished seed with posteriors to compare with {what}"));
        })
    };
    let plain = against("latent = none", &plain)?;
    let words = baselines.words();
    let named = against(words.as_deref().unwrap_or_default(), &named)?;
    let rows = groups.iter().zip(plain.into_iter().zip(named)).map(|(group, (plain, named))| {
        let mut row = SummaryRow { baseline: words.clone(), ..over_seeds(group) };
        if let Some(Comparison { mean, low, high, n, p, p_holm }) = plain {
            (row.difference, row.difference_low, row.difference_high) = (Some(mean), low, high);
            (row.n_paired, row.difference_p, row.difference_p_holm) = (Some(n), Some(p), Some(p_holm));
        }
        if let Some(Comparison { mean, low, high, n, p, p_holm }) = named {
            (row.difference_baseline, row.n_paired_baseline) = (Some(mean), Some(n));
            (row.difference_baseline_low, row.difference_baseline_high) = (low, high);
            (row.difference_baseline_p, row.difference_baseline_p_holm) = (Some(p), Some(p_holm));
        }
        row
    });
    Ok(rows.collect())
}

/// Standard deviation with n - 1; none for fewer than two values.
fn sd(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

fn over_seeds(group: &[&ResultRow]) -> SummaryRow {
    let first = group[0];
    let values = |get: fn(&ResultRow) -> Option<f64>| group.iter().filter_map(|r| get(r)).collect::<Vec<f64>>();
    let (accuracy, auroc) = (values(|r| r.scores.eval_accuracy), values(|r| r.scores.audit_auroc));
    let (eval_accuracy_low, eval_accuracy_high) = share_ends(analysis::mean_interval_t(&accuracy));
    let (audit_auroc_low, audit_auroc_high) = share_ends(analysis::mean_interval_t(&auroc));
    let finished = group.iter().filter(|r| r.status == STATUS_OK).count();
    let failed = group.iter().filter(|r| r.failed()).count();
    SummaryRow {
        varied: first.varied.clone(),
        noise_seed: first.noise_seed,
        n_seeds: finished as u32,
        n_failed: failed as u32,
        n_missing: (group.len() - finished - failed) as u32,
        n_eval: group.iter().filter_map(|r| r.scores.n_eval).min(),
        eval_accuracy: mean(&accuracy),
        eval_accuracy_sd: sd(&accuracy),
        eval_accuracy_low,
        eval_accuracy_high,
        difference: None,
        difference_low: None,
        difference_high: None,
        n_paired: None,
        difference_p: None,
        difference_p_holm: None,
        baseline: None,
        difference_baseline: None,
        difference_baseline_low: None,
        difference_baseline_high: None,
        n_paired_baseline: None,
        difference_baseline_p: None,
        difference_baseline_p_holm: None,
        // The seeds share the prepared pairs.
        noise_share: group.iter().find_map(|r| r.scores.noise_share),
        audit_auroc: mean(&auroc),
        audit_auroc_low,
        audit_auroc_high,
        codes_used: mean(&values(|r| r.scores.codes_used.map(|n| n as f64))),
        code_perplexity: mean(&values(|r| r.scores.code_perplexity)),
        train_seconds: mean(&values(|r| r.scores.train_seconds)),
    }
}

/// Writes `summary.parquet`.
pub(super) fn write_summary(path: &Path, rows: &[SummaryRow]) -> Result<()> {
    let mut columns = Varied::columns(rows, |r| &r.varied);
    columns.extend([
        column(result::NOISE_SEED, rows, |r| r.noise_seed),
        column(result::N_SEEDS, rows, |r| r.n_seeds),
        column(result::N_FAILED, rows, |r| r.n_failed),
        column(result::N_MISSING, rows, |r| r.n_missing),
        column(result::N_EVAL, rows, |r| r.n_eval),
        column(result::EVAL_ACCURACY, rows, |r| r.eval_accuracy),
        column(result::EVAL_ACCURACY_SD, rows, |r| r.eval_accuracy_sd),
        column(result::EVAL_ACCURACY_LOW, rows, |r| r.eval_accuracy_low),
        column(result::EVAL_ACCURACY_HIGH, rows, |r| r.eval_accuracy_high),
        column(result::DIFFERENCE, rows, |r| r.difference),
        column(result::DIFFERENCE_LOW, rows, |r| r.difference_low),
        column(result::DIFFERENCE_HIGH, rows, |r| r.difference_high),
        column(result::N_PAIRED, rows, |r| r.n_paired),
        column(result::DIFFERENCE_P, rows, |r| r.difference_p),
        column(result::DIFFERENCE_P_HOLM, rows, |r| r.difference_p_holm),
        column(result::BASELINE, rows, |r| r.baseline.clone()),
        column(result::DIFFERENCE_BASELINE, rows, |r| r.difference_baseline),
        column(result::DIFFERENCE_BASELINE_LOW, rows, |r| r.difference_baseline_low),
        column(result::DIFFERENCE_BASELINE_HIGH, rows, |r| r.difference_baseline_high),
        column(result::N_PAIRED_BASELINE, rows, |r| r.n_paired_baseline),
        column(result::DIFFERENCE_BASELINE_P, rows, |r| r.difference_baseline_p),
        column(result::DIFFERENCE_BASELINE_P_HOLM, rows, |r| r.difference_baseline_p_holm),
        column(result::NOISE_SHARE, rows, |r| r.noise_share),
        column(result::AUDIT_AUROC, rows, |r| r.audit_auroc),
        column(result::AUDIT_AUROC_LOW, rows, |r| r.audit_auroc_low),
        column(result::AUDIT_AUROC_HIGH, rows, |r| r.audit_auroc_high),
        column(result::CODES_USED, rows, |r| r.codes_used),
        column(result::CODE_PERPLEXITY, rows, |r| r.code_perplexity),
        column(result::TRAIN_SECONDS, rows, |r| r.train_seconds),
    ]);
    columns.extend(Varied::more_columns(rows, |r| &r.varied));
    artifact::write_parquet(path, &mut DataFrame::new(rows.len(), columns)?)
}
