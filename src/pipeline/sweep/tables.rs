//! `results.parquet`, and what the tables of a sweep share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use polars::prelude::*;
use serde::Serialize;

use super::cell_settings::CellSettings;
use super::{Cell, CellRecord, CellScores};
use crate::analysis;
use crate::artifact;
use crate::error::Result;
use crate::lpc::LatentKind;
use crate::noise::FlipKind;
use crate::objective::ObjectiveKind;
use crate::schema::{col, name_of, result};
use crate::train::TrainConfig;

/// Status of a finished cell.
pub(super) const STATUS_OK: &str = "ok";
/// Beginning of the status of a cell that failed.
pub(super) const FAILED: &str = "failed: ";
/// Beginning of the status of a cell that was stopped and can go on.
pub(super) const STOPPED: &str = "stopped: ";
/// Beginning of the status of a cell that left no word.
pub(super) const MISSING: &str = "missing: ";

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
    /// Rate of the noise model: a share of the labels, or a factor on rates that are given elsewhere.
    pub noise_p: f64,
    /// Whether flipped prompts carry the marker.
    pub marked: bool,
    /// Other settings that the cell uses.
    #[serde(flatten)]
    pub used: CellSettings,
    /// Those of them that are not the recipe's, in words.
    pub settings: Option<String>,
}

impl Varied {
    fn of(cell: &Cell, base: &TrainConfig) -> Varied {
        Varied {
            objective: cell.objective,
            latent: cell.latent,
            codes: cell.codes as u32,
            noise_kind: cell.noise.kind,
            noise_p: cell.noise.p,
            marked: cell.noise.marked,
            used: cell.settings.effective(cell.objective, cell.latent, base),
            settings: cell.settings.words(),
        }
    }

    /// The settings beside those of the first columns, for the end of a table.
    pub(super) fn more_columns<R>(rows: &[R], of: fn(&R) -> &Varied) -> Vec<Column> {
        vec![
            column(result::INFERENCE, rows, |r| of(r).used.inference.as_ref().map(name_of)),
            column(result::KL_WEIGHT, rows, |r| of(r).used.kl_weight),
            column(result::TEMPERATURE, rows, |r| of(r).used.temperature),
            column(result::G, rows, |r| of(r).used.g.as_ref().map(name_of)),
            column(result::GROUP, rows, |r| of(r).used.group.as_ref().map(name_of)),
            column(result::PROMPT_LAYER, rows, |r| of(r).used.prompt_layer),
            column(result::MODEL, rows, |r| of(r).used.model.clone()),
            column(result::SETTINGS, rows, |r| of(r).settings.clone()),
        ]
    }

    pub(super) fn columns<R>(rows: &[R], of: fn(&R) -> &Varied) -> Vec<Column> {
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
    /// The cell; not a column.
    #[serde(skip)]
    pub cell: Cell,
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
    /// `ok`, `failed: ...`, `stopped: ...` or `missing: ...`.
    pub status: String,
}

impl ResultRow {
    /// Whether it failed.
    pub(super) fn failed(&self) -> bool {
        self.status.starts_with(FAILED)
    }

    /// Wilson's interval of the accuracy of this one run over its test pairs.
    fn accuracy_interval(&self) -> Option<analysis::Interval> {
        let (accuracy, n) = (self.scores.eval_accuracy?, self.scores.n_eval.filter(|n| *n > 0)?);
        Some(analysis::wilson((accuracy * n as f64).round() as u64, n))
    }
}

/// The rows of the cells that finished or failed, in the order of the grid.
pub(super) fn results(grid: &[Cell], done: &BTreeMap<String, CellRecord>, base: &TrainConfig) -> Vec<ResultRow> {
    let row = |cell: &Cell| {
        let name = cell.name();
        let record = done.get(&name)?;
        Some(ResultRow {
            name,
            cell: cell.clone(),
            varied: Varied::of(cell, base),
            seed: cell.seed,
            noise_seed: cell.noise.seed,
            scores: record.scores,
            status: record.status.clone(),
        })
    };
    grid.iter().filter_map(row).collect()
}

/// Every run once, in the order of the rows: cells without flips stand in the table for each kind of noise, marker and
/// seed of the flips.
pub(super) fn runs(rows: &[ResultRow]) -> Vec<&ResultRow> {
    let mut seen = BTreeSet::new();
    rows.iter().filter(|row| seen.insert(row.name.as_str())).collect()
}

/// A column of a frame from the rows.
pub(super) fn column<R, T, N>(name: &str, rows: &[R], get: impl Fn(&R) -> T) -> Column
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
        column(result::EVAL_ACCURACY_LOW, rows, |r| r.accuracy_interval().map(|i| i.low)),
        column(result::EVAL_ACCURACY_HIGH, rows, |r| r.accuracy_interval().map(|i| i.high)),
        column(result::NOISE_SHARE, rows, |r| r.scores.noise_share),
    ]);
    columns.extend(Varied::more_columns(rows, |r| &r.varied));
    artifact::write_parquet(path, &mut DataFrame::new(rows.len(), columns)?)
}

/// Mean of some values; none without any.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The ends of a share's interval, cut to [0, 1]: with few seeds Student's t reaches beyond what a share can be.
pub(super) fn share_ends(interval: analysis::Interval) -> (Option<f64>, Option<f64>) {
    let (low, high) = ends(interval);
    (low.map(|x| x.clamp(0.0, 1.0)), high.map(|x| x.clamp(0.0, 1.0)))
}

/// The ends of an interval; none where there is none, as for two seeds.
pub(super) fn ends(interval: analysis::Interval) -> (Option<f64>, Option<f64>) {
    let finite = |x: f64| x.is_finite().then_some(x);
    (finite(interval.low), finite(interval.high))
}

/// Lists rows with equal keys, each list in the order of the rows, and the lists in the order of their first rows.
pub(super) fn grouped(rows: &[ResultRow], key: impl Fn(&ResultRow) -> String) -> Vec<Vec<&ResultRow>> {
    let (mut groups, mut index) = (Vec::<Vec<&ResultRow>>::new(), BTreeMap::new());
    for row in rows {
        let at = *index.entry(key(row)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[at].push(row);
    }
    groups
}
