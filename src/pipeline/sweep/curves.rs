//! `curves.parquet`: the accuracy over the rates of flipped labels as one number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use polars::prelude::*;
use serde::Serialize;

use super::tables::{ResultRow, Varied, column, grouped, mean, share_ends};
use super::{Cell, NoiseCell};
use crate::analysis;
use crate::artifact;
use crate::error::Result;
use crate::schema::{col, result};

/// One cell without its noise rate, over its seeds: a row of `curves.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveRow {
    /// What the grid varies; its noise rate is no column.
    #[serde(flatten)]
    pub varied: Varied,
    /// Seed of the flips.
    pub noise_seed: u64,
    /// Least rate of flipped labels.
    pub noise_p_low: f64,
    /// Greatest rate.
    pub noise_p_high: f64,
    /// Rates.
    pub n_rates: u32,
    /// Seeds that finished at every rate.
    pub n_seeds: u32,
    /// Seeds that did not: they have no area.
    pub n_incomplete: u32,
    /// Mean area over the seeds.
    pub accuracy_area: Option<f64>,
    /// Lower end of the 95 % t interval over the seeds; none below three seeds.
    pub accuracy_area_low: Option<f64>,
    /// Upper end of the 95 % t interval over the seeds.
    pub accuracy_area_high: Option<f64>,
}

/// Area under the lines between points that are sorted by x, divided by the range of x; none without a range.
fn area(points: &[(f64, f64)]) -> Option<f64> {
    let range = points.last()?.0 - points.first()?.0;
    let sum: f64 = points.windows(2).map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1) / 2.0).sum();
    (range > 0.0).then_some(sum / range)
}

/// The areas of all cells, in the order of the grid; none where the grid has a single noise rate.
pub(super) fn curves(results: &[ResultRow]) -> Vec<CurveRow> {
    let bits: BTreeSet<u64> = results.iter().map(|row| row.varied.noise_p.to_bits()).collect();
    // Rates are not negative: their bits are in their order.
    let rates: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
    let (Some(&low), Some(&high)) = (rates.first(), rates.last()) else { return Vec::new() };
    if rates.len() < 2 {
        return Vec::new();
    }
    let key = |row: &ResultRow| {
        let noise = NoiseCell { p: 0.0, ..row.cell.noise.clone() };
        format!("{:?}", Cell { seed: 0, noise, ..row.cell.clone() })
    };
    let of = |group: &Vec<&ResultRow>| {
        let mut seeds: BTreeMap<u64, BTreeMap<u64, f64>> = BTreeMap::new();
        for row in group {
            let points = seeds.entry(row.seed).or_default();
            points.extend(row.scores.eval_accuracy.map(|accuracy| (row.varied.noise_p.to_bits(), accuracy)));
        }
        let whole = seeds.values().filter(|points| points.len() == rates.len());
        let areas: Vec<f64> = whole
            .filter_map(|points| area(&points.iter().map(|(p, y)| (f64::from_bits(*p), *y)).collect::<Vec<_>>()))
            .collect();
        let (accuracy_area_low, accuracy_area_high) = share_ends(analysis::mean_interval_t(&areas));
        CurveRow {
            varied: group[0].varied.clone(),
            noise_seed: group[0].noise_seed,
            noise_p_low: low,
            noise_p_high: high,
            n_rates: rates.len() as u32,
            n_seeds: areas.len() as u32,
            n_incomplete: (seeds.len() - areas.len()) as u32,
            accuracy_area: mean(&areas),
            accuracy_area_low,
            accuracy_area_high,
        }
    };
    grouped(results, key).iter().map(of).collect()
}

/// Writes `curves.parquet`.
pub(super) fn write_curves(path: &Path, rows: &[CurveRow]) -> Result<()> {
    let mut columns = Varied::columns(rows, |r| &r.varied);
    columns.retain(|column| column.name() != col::NOISE_P);
    columns.extend([
        column(result::NOISE_SEED, rows, |r| r.noise_seed),
        column(result::NOISE_P_LOW, rows, |r| r.noise_p_low),
        column(result::NOISE_P_HIGH, rows, |r| r.noise_p_high),
        column(result::N_RATES, rows, |r| r.n_rates),
        column(result::N_SEEDS, rows, |r| r.n_seeds),
        column(result::N_INCOMPLETE, rows, |r| r.n_incomplete),
        column(result::ACCURACY_AREA, rows, |r| r.accuracy_area),
        column(result::ACCURACY_AREA_LOW, rows, |r| r.accuracy_area_low),
        column(result::ACCURACY_AREA_HIGH, rows, |r| r.accuracy_area_high),
    ]);
    columns.extend(Varied::more_columns(rows, |r| &r.varied));
    artifact::write_parquet(path, &mut DataFrame::new(rows.len(), columns)?)
}
