//! `results.parquet` and `summary.parquet`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use polars::prelude::*;
use serde::Serialize;

use super::{Cell, CellRecord, CellScores};
use crate::analysis;
use crate::analysis::tables::{clean_correct, texts};
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::LatentKind;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::schema::{self, SPLITS, col, name_of, result};
use crate::seed::Seed;

/// Status of a finished cell.
pub(super) const STATUS_OK: &str = "ok";
/// Resamples of the paired bootstrap.
const RESAMPLES: usize = 2000;

/// What the grid varies beside the seed: the first columns of both tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Varied {
    /// Objective.
    pub objective: ObjectiveKind,
    /// Latent.
    pub latent: LatentKind,
    /// Number of codes; 0 for a latent without codes.
    pub codes: u32,
    /// Noise model.
    pub noise_kind: FlipKind,
    /// Share of labels to flip.
    pub noise_p: f64,
    /// Whether flipped prompts carry the marker.
    pub marked: bool,
}

impl Varied {
    fn columns<R>(rows: &[R], of: fn(&R) -> &Varied) -> Vec<Column> {
        vec![
            column(result::OBJECTIVE, rows, |r| name_of(&of(r).objective)),
            column(result::LATENT, rows, |r| name_of(&of(r).latent)),
            column(result::CODES, rows, |r| of(r).codes),
            column(col::NOISE_KIND, rows, |r| name_of(&of(r).noise_kind)),
            column(col::NOISE_P, rows, |r| of(r).noise_p),
            column(result::MARKED, rows, |r| of(r).marked),
        ]
    }
}

/// One cell and seed: a row of `results.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultRow {
    /// Run folder under `cells/`; not a column.
    #[serde(skip)]
    pub name: String,
    /// What the grid varies.
    #[serde(flatten)]
    pub varied: Varied,
    /// Training seed.
    pub seed: u64,
    /// Seed of the flips.
    pub noise_seed: u64,
    /// What the cell scored.
    #[serde(flatten)]
    pub scores: CellScores,
    /// `ok`, or `failed: ...`.
    pub status: String,
}

/// The rows of the cells that finished or failed, in the order of the grid.
pub(super) fn results(grid: &[Cell], done: &BTreeMap<String, CellRecord>) -> Vec<ResultRow> {
    let row = |cell: &Cell| {
        let name = cell.name();
        let record = done.get(&name)?;
        Some(ResultRow {
            name,
            varied: Varied {
                objective: cell.objective,
                latent: cell.latent,
                codes: cell.codes as u32,
                noise_kind: cell.noise.kind,
                noise_p: cell.noise.p,
                marked: cell.noise.marked,
            },
            seed: cell.seed,
            noise_seed: cell.noise.seed,
            scores: record.scores,
            status: record.status.clone(),
        })
    };
    grid.iter().filter_map(row).collect()
}

/// A column of a frame from the rows.
fn column<R, T, N>(name: &str, rows: &[R], get: impl Fn(&R) -> T) -> Column
where
    Series: NamedFrom<Vec<T>, N>,
    N: ?Sized,
{
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<T>>()).into()
}

/// Writes `results.parquet`.
pub(super) fn write_results(path: &Path, rows: &[ResultRow]) -> Result<()> {
    let mut columns = Varied::columns(rows, |r| &r.varied);
    columns.extend([
        column(result::SEED, rows, |r| r.seed),
        column(result::NOISE_SEED, rows, |r| r.noise_seed),
        column(result::EVAL_ACCURACY, rows, |r| r.scores.eval_accuracy),
        column(result::N_EVAL, rows, |r| r.scores.n_eval),
        column(result::AUDIT_AUROC, rows, |r| r.scores.audit_auroc),
        column(result::CODES_USED, rows, |r| r.scores.codes_used),
        column(result::CODE_PERPLEXITY, rows, |r| r.scores.code_perplexity),
        column(result::TRAIN_SECONDS, rows, |r| r.scores.train_seconds),
        column(result::STATUS, rows, |r| r.status.clone()),
    ]);
    artifact::write_parquet(path, &mut DataFrame::new(rows.len(), columns)?)
}

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
    /// Test examples, the least over the seeds.
    pub n_eval: Option<u64>,
    /// Mean accuracy over the seeds.
    pub eval_accuracy: Option<f64>,
    /// Standard deviation over the seeds (n - 1).
    pub eval_accuracy_sd: Option<f64>,
    /// Lower end of the 95 % t interval over the seeds.
    pub eval_accuracy_low: Option<f64>,
    /// Upper end of the 95 % t interval over the seeds.
    pub eval_accuracy_high: Option<f64>,
    /// Accuracy minus that of `latent = none` with the same noise and objective, seeds paired.
    pub difference: Option<f64>,
    /// Lower end of the 95 % bootstrap interval over examples.
    pub difference_low: Option<f64>,
    /// Upper end of the 95 % bootstrap interval over examples.
    pub difference_high: Option<f64>,
    /// Examples in the paired comparison.
    pub n_paired: Option<u64>,
    /// Mean mislabel AUROC.
    pub audit_auroc: Option<f64>,
    /// Lower end of its 95 % t interval over the seeds.
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

/// Correctness of each test example (1 or 0) by id.
pub(super) type Correct = BTreeMap<String, f64>;

/// One row per cell, in the order of the grid; `warn` is called for comparisons that cannot be made.
pub(super) fn summarize(results: &[ResultRow], out: &Path, seed: u64, warn: &dyn Fn(&str)) -> Result<Vec<SummaryRow>> {
    // Without flips, rows of several noise kinds share a run and its name, but each has a row of its own here.
    let key = |r: &ResultRow, latent, codes| format!("{:?}", Varied { latent, codes, ..r.varied.clone() });
    let mut groups: Vec<Vec<&ResultRow>> = Vec::new();
    let mut index = BTreeMap::new();
    for row in results {
        let at = *index.entry(key(row, row.varied.latent, row.varied.codes)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[at].push(row);
    }
    let mut cache = BTreeMap::new();
    let mut rows = Vec::new();
    for group in &groups {
        let mut row = over_seeds(group);
        if row.varied.latent != LatentKind::None {
            let baseline = index.get(&key(group[0], LatentKind::None, 0));
            if let Some(&at) = baseline {
                let differences = paired(group, &groups[at], out, &mut cache)?;
                let name = group[0].name.as_str();
                if differences.is_empty() {
                    warn(&format!("{name}: no finished seed with posteriors to compare with latent = none"));
                } else {
                    // Each cell resamples on its own stream.
                    let seed = Seed(Seed(seed).word("sweep-bootstrap", name));
                    row.difference = mean(&differences);
                    row.n_paired = Some(differences.len() as u64);
                    (row.difference_low, row.difference_high) =
                        ends(analysis::bootstrap_paired(&differences, RESAMPLES, seed));
                }
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The ends of a share's interval, cut to [0, 1]: with few seeds Student's t reaches beyond what a share can be.
fn share_ends(interval: analysis::Interval) -> (Option<f64>, Option<f64>) {
    let (low, high) = ends(interval);
    (low.map(|x| x.clamp(0.0, 1.0)), high.map(|x| x.clamp(0.0, 1.0)))
}

/// The ends of an interval; none where there is none, as for a single seed.
fn ends(interval: analysis::Interval) -> (Option<f64>, Option<f64>) {
    let finite = |x: f64| x.is_finite().then_some(x);
    (finite(interval.low), finite(interval.high))
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
    SummaryRow {
        varied: first.varied.clone(),
        noise_seed: first.noise_seed,
        n_seeds: finished as u32,
        n_failed: (group.len() - finished) as u32,
        n_eval: group.iter().filter_map(|r| r.scores.n_eval).min(),
        eval_accuracy: mean(&accuracy),
        eval_accuracy_sd: sd(&accuracy),
        eval_accuracy_low,
        eval_accuracy_high,
        difference: None,
        difference_low: None,
        difference_high: None,
        n_paired: None,
        audit_auroc: mean(&auroc),
        audit_auroc_low,
        audit_auroc_high,
        codes_used: mean(&values(|r| r.scores.codes_used.map(|n| n as f64))),
        code_perplexity: mean(&values(|r| r.scores.code_perplexity)),
        train_seconds: mean(&values(|r| r.scores.train_seconds)),
    }
}

/// Per-example differences in correctness, averaged over the seeds that both cells finished.
fn paired(
    group: &[&ResultRow],
    baseline: &[&ResultRow],
    out: &Path,
    cache: &mut BTreeMap<String, Option<Correct>>,
) -> Result<Vec<f64>> {
    let mut totals: BTreeMap<String, (f64, u32)> = BTreeMap::new();
    let mut seeds = 0;
    for row in group.iter().filter(|r| r.status == STATUS_OK) {
        let Some(base) = baseline.iter().find(|b| b.seed == row.seed && b.status == STATUS_OK) else { continue };
        for name in [&row.name, &base.name] {
            if !cache.contains_key(name) {
                let path = out.join(schema::sweep::CELLS).join(name).join(schema::run::POSTERIORS);
                cache.insert(name.clone(), correctness(&path)?);
            }
        }
        let (Some(ours), Some(theirs)) = (&cache[&row.name], &cache[&base.name]) else { continue };
        seeds += 1;
        for (id, correct) in ours {
            if let Some(other) = theirs.get(id) {
                let total = totals.entry(id.clone()).or_default();
                total.0 += correct - other;
                total.1 += 1;
            }
        }
    }
    Ok(totals.into_values().filter(|(_, n)| *n == seeds).map(|(sum, n)| sum / f64::from(n)).collect())
}

/// Whether each test example is ranked as its clean label says; a tie is wrong. None where a
/// finished cell has no posteriors: they are large, and a user may have removed them.
pub(super) fn correctness(path: &Path) -> Result<Option<Correct>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(path))?,
    };
    let wanted = [col::ID, col::SPLIT, col::FLIPPED, col::MARGIN].map(String::from).to_vec();
    let frame = ParquetReader::new(file)
        .with_columns(Some(wanted))
        .finish()
        .map_err(|e| Error::artifact(path, format!("not readable as posteriors: {e}")))?;
    let (ids, splits, correct) = (texts(&frame, col::ID)?, texts(&frame, col::SPLIT)?, clean_correct(&frame)?);
    let test = ids.into_iter().zip(splits).zip(correct).filter(|((_, split), _)| split == SPLITS[1]);
    Ok(Some(test.map(|((id, _), right)| (id, f64::from(u8::from(right)))).collect()))
}

/// Writes `summary.parquet`.
pub(super) fn write_summary(path: &Path, rows: &[SummaryRow]) -> Result<()> {
    let mut columns = Varied::columns(rows, |r| &r.varied);
    columns.extend([
        column(result::NOISE_SEED, rows, |r| r.noise_seed),
        column(result::N_SEEDS, rows, |r| r.n_seeds),
        column(result::N_FAILED, rows, |r| r.n_failed),
        column(result::N_EVAL, rows, |r| r.n_eval),
        column(result::EVAL_ACCURACY, rows, |r| r.eval_accuracy),
        column(result::EVAL_ACCURACY_SD, rows, |r| r.eval_accuracy_sd),
        column(result::EVAL_ACCURACY_LOW, rows, |r| r.eval_accuracy_low),
        column(result::EVAL_ACCURACY_HIGH, rows, |r| r.eval_accuracy_high),
        column(result::DIFFERENCE, rows, |r| r.difference),
        column(result::DIFFERENCE_LOW, rows, |r| r.difference_low),
        column(result::DIFFERENCE_HIGH, rows, |r| r.difference_high),
        column(result::N_PAIRED, rows, |r| r.n_paired),
        column(result::AUDIT_AUROC, rows, |r| r.audit_auroc),
        column(result::AUDIT_AUROC_LOW, rows, |r| r.audit_auroc_low),
        column(result::AUDIT_AUROC_HIGH, rows, |r| r.audit_auroc_high),
        column(result::CODES_USED, rows, |r| r.codes_used),
        column(result::CODE_PERPLEXITY, rows, |r| r.code_perplexity),
        column(result::TRAIN_SECONDS, rows, |r| r.train_seconds),
    ]);
    artifact::write_parquet(path, &mut DataFrame::new(rows.len(), columns)?)
}
