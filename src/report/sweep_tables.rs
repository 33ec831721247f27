//! Tables of a sweep's report beside that of its cells: against the named baseline, and the areas under the curves.

use std::path::Path;

use polars::prelude::DataFrame;

use super::load::texts;
use super::page::{Block, Column, Table};
use super::sweep_cells::{CellSummary, cells, line_name};
use super::text::{number, p_value, percent, points};
use crate::artifact;
use crate::error::Result;
use crate::schema::{result, sweep};

/// The cells against the named baseline; nothing without one.
pub(super) fn over_baseline(summary: &DataFrame, parts: &mut Vec<Block>) {
    let Some(baseline) = texts(summary, result::BASELINE).into_iter().find(|name| !name.is_empty()) else { return };
    let compared = cells(summary).into_iter().filter(|c| c.get(result::DIFFERENCE_BASELINE).is_some());
    let range = |c: &CellSummary| {
        let (low, high) = (c.get(result::DIFFERENCE_BASELINE_LOW), c.get(result::DIFFERENCE_BASELINE_HIGH));
        low.zip(high)
            .map_or("–".to_string(), |(low, high)| format!("{} to {}", points(Some(low)), points(Some(high))))
    };
    let columns: [Column<'_, CellSummary>; 10] = [
        ("objective", &|c| c.objective.clone()),
        ("latent", &|c| line_name(&c.line())),
        ("noise", &|c| c.noise()),
        ("rate", &|c| c.p.to_string()),
        ("affected", &|c| c.affected()),
        ("seeds", &|c| number(c.get(result::N_SEEDS), 0)),
        ("over the baseline, points", &|c| c.starred(result::DIFFERENCE_BASELINE, result::DIFFERENCE_BASELINE_P_HOLM)),
        ("95 % over prompts", &|c| range(c)),
        ("p (Holm)", &|c| p_value(c.get(result::DIFFERENCE_BASELINE_P_HOLM))),
        ("pairs", &|c| number(c.get(result::N_PAIRED_BASELINE), 0)),
    ];
    parts.push(Block::Heading("Against the baseline".into()));
    let caption = format!(
        "differences to the cell with {baseline} that is like it in all else, paired on the same seeds and test pairs; \
         * where p is below 0.05 after Holm's correction for all rows"
    );
    parts.push(Block::Table(Table::of(caption, 3, compared, &columns)));
}

/// The areas under the curves of accuracy; nothing for a single noise rate.
pub(super) fn areas(dir: &Path, parts: &mut Vec<Block>) -> Result<()> {
    let path = dir.join(sweep::CURVES);
    // A folder of an older version has none.
    if !path.is_file() {
        return Ok(());
    }
    let rows = cells(&artifact::read_parquet(path)?);
    let Some(first) = rows.first() else { return Ok(()) };
    let rate = |name: &str| first.get(name).unwrap_or(f64::NAN);
    let caption = format!(
        "mean accuracy over noise rates of {} to {}: the area under the lines through {} rates, divided by their range; \
         mean over the seeds that finished at every rate",
        rate(result::NOISE_P_LOW),
        rate(result::NOISE_P_HIGH),
        number(first.get(result::N_RATES), 0)
    );
    let columns: [Column<'_, CellSummary>; 6] = [
        ("objective", &|c| c.objective.clone()),
        ("latent", &|c| line_name(&c.line())),
        ("noise", &|c| c.noise()),
        ("seeds", &|c| number(c.get(result::N_SEEDS), 0)),
        ("accuracy", &|c| c.get(result::ACCURACY_AREA).map_or("–".into(), |a| percent(a, 1))),
        ("95 % over seeds", &|c| c.over_seeds(result::ACCURACY_AREA_LOW, result::ACCURACY_AREA_HIGH)),
    ];
    parts.push(Block::Heading("Over all noise rates".into()));
    parts.push(Block::Table(Table::of(caption, 3, rows, &columns)));
    Ok(())
}
