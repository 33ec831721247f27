//! The report of a sweep folder.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::DataFrame;

use super::load::{numbers, texts};
use super::page::{Block, Column, Figure, Page, Table, Tile};
use super::plot::{Chart, Curve, PlotPoint, Scale};
use super::run_page::{folder_name, provenance};
use super::sweep_cells::{
    CellSummary, Colours, by_source, cell_folders, cells, distinct, line_name, losses, once, pages, panel_name, sized,
    usage,
};
use super::sweep_tables::{areas, over_baseline};
use super::text::{count, interval, number, p_value, percent, points};
use crate::analysis::LEAST_RUNS;
use crate::artifact;
use crate::error::Result;
use crate::schema::{result, sweep};

/// Most lines in one chart: more cannot be told apart.
const MAX_LINES: usize = 8;

/// The report of a sweep folder.
pub(super) fn page(dir: &Path) -> Result<Page> {
    let results = artifact::read_parquet(dir.join(sweep::RESULTS))?;
    let summary = dir.join(sweep::SUMMARY);
    let frame = if summary.is_file() { artifact::read_parquet(summary)? } else { DataFrame::default() };
    let cells = if frame.height() > 0 { cells(&frame) } else { Vec::new() };
    let colours = Colours::new(cells.iter().map(CellSummary::line));
    let runs = once(&results)?;
    let mut parts = Vec::new();
    headline(&runs, &cells, &mut parts);
    if cells.is_empty() {
        parts.push(Block::Warning("This sweep has no summary yet: it has not finished, or was stopped.".into()));
    } else {
        accuracy(&cells, &colours, &mut parts);
        over_baseline(&frame, &mut parts);
        areas(dir, &mut parts)?;
        by_codes(&cells, &mut parts);
        audit(&cells, &colours, &mut parts);
    }
    let folders = cell_folders(dir, &runs)?;
    losses(&folders, &colours, &mut parts)?;
    by_source(&folders, &mut parts)?;
    usage(&folders, &mut parts)?;
    every_run(&runs, &mut parts);
    pages(dir, &folders, &mut parts);
    method(&results, &mut parts);
    provenance("how this sweep was made", dir, &mut parts)?;
    Ok(Page {
        title: format!("Sweep: {}", folder_name(dir)),
        subtitle: "label noise, objectives and latents, every cell over its seeds".into(),
        parts,
    })
}

/// `runs` are the rows of results.parquet, each run once.
fn headline(runs: &DataFrame, cells: &[CellSummary], parts: &mut Vec<Block>) {
    let status = texts(runs, result::STATUS);
    let unfinished = unfinished(&status);
    let told = if unfinished.is_empty() { "0 failed".to_string() } else { unfinished.join(", ") };
    let seeds = distinct(texts(runs, result::SEED).into_iter());
    let seconds: f64 = numbers(runs, result::TRAIN_SECONDS).into_iter().flatten().sum();
    let mut tiles = vec![
        Tile { label: "runs".into(), value: count(status.len() as u64), detail: told },
        Tile { label: "seeds".into(), value: seeds.len().to_string(), detail: "of every cell".into() },
        Tile { label: "training time".into(), value: duration(seconds), detail: "all runs together".into() },
    ];
    // The largest difference is shown together with its interval.
    let gain = |c: &&CellSummary| c.get(result::DIFFERENCE).unwrap_or(f64::NEG_INFINITY);
    let compared: Vec<&CellSummary> = cells.iter().filter(|c| c.get(result::DIFFERENCE).is_some()).collect();
    if let Some(best) = compared.iter().max_by(|a, b| gain(a).total_cmp(&gain(b))) {
        tiles.push(Tile {
            label: format!("largest of {} gains over none", compared.len()),
            value: format!("{} points", points(best.get(result::DIFFERENCE))),
            detail: format!(
                "95 %: {}; {} with {} of the pairs affected",
                gains(best),
                line_name(&best.line()),
                best.affected()
            ),
        });
    }
    parts.push(Block::Tiles(tiles));
    if !unfinished.is_empty() {
        let told = unfinished.join(", ");
        parts.push(Block::Warning(format!("Of {} runs: {told}; see the table of runs.", status.len())));
    }
}

/// How many runs have no result, by the first word of their status: failed, stopped or missing.
fn unfinished(status: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in status.iter().filter(|s| *s != "ok").filter_map(|s| s.split(':').next()) {
        *counts.entry(word).or_default() += 1;
    }
    counts.into_iter().map(|(word, n)| format!("{n} {word}")).collect()
}

fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        _ => format!("{:.1} h", s as f64 / 3600.0),
    }
}

fn gains(cell: &CellSummary) -> String {
    match (cell.get(result::DIFFERENCE_LOW), cell.get(result::DIFFERENCE_HIGH)) {
        (Some(low), Some(high)) => format!("{} to {}", points(Some(low)), points(Some(high))),
        _ => "–".into(),
    }
}

/// One chart per objective, noise model and marker: a value against the noise rate.
fn against_noise(
    cells: &[CellSummary],
    colours: &Colours,
    of: [&str; 3],
    title: &str,
    rule: f64,
    scale: Scale,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    for panel in distinct(cells.iter().map(CellSummary::panel)) {
        let here: Vec<&CellSummary> = cells.iter().filter(|c| c.panel() == panel && c.get(of[0]).is_some()).collect();
        let keys = distinct(here.iter().map(|c| c.line()));
        let mut lines = Vec::new();
        for key in keys.iter().take(MAX_LINES) {
            let mut line: Vec<PlotPoint> = Vec::new();
            for cell in here.iter().filter(|c| c.line() == *key) {
                let interval = cell.interval(of[1], of[2]);
                line.extend(cell.get(of[0]).map(|y| PlotPoint { x: cell.p, y, interval }));
            }
            line.sort_by(|a, b| a.x.total_cmp(&b.x));
            lines.push(Curve { colour: colours.of(key), name: line_name(key), points: line, marks: true });
        }
        if lines.is_empty() {
            continue;
        }
        let more = keys.len().saturating_sub(MAX_LINES);
        let caption = if more > 0 { format!("{more} more lines are in the table only") } else { String::new() };
        let chart =
            Chart { x_label: "noise rate".into(), x_scale: Scale::Number, y_scale: scale, rule: Some(rule), lines };
        figures.push(Figure { title: format!("{title}: {}", panel_name(&panel)), caption, chart: chart.into() });
    }
    figures
}

/// The sentence on intervals below a chart of means: there is none below three seeds.
fn bars(cells: &[CellSummary]) -> &'static str {
    let with = |c: &&CellSummary| c.get(result::N_SEEDS).is_some_and(|n| n >= LEAST_RUNS as f64);
    match cells.iter().filter(with).count() {
        0 => "Fewer than three seeds give no interval.",
        n if n < cells.len() => "Bars are 95 % intervals over the seeds; means of fewer than three seeds have none.",
        _ => "Bars are 95 % intervals over the seeds.",
    }
}

fn accuracy(cells: &[CellSummary], colours: &Colours, parts: &mut Vec<Block>) {
    let of = [result::EVAL_ACCURACY, result::EVAL_ACCURACY_LOW, result::EVAL_ACCURACY_HIGH];
    let mut figures = against_noise(cells, colours, of, "Accuracy", 0.5, Scale::Percent).into_iter();
    parts.push(Block::Heading("Accuracy against label noise".into()));
    parts.extend(figures.next().map(Block::Main));
    parts.push(Block::Text(format!(
        "Preference accuracy on the test split against the clean labels, mean over the seeds. The dashed rule is \
         chance. {}",
        bars(cells)
    )));
    parts.push(Block::Figures(figures.collect()));
    let share = |c: &CellSummary, name: &str| c.get(name).map_or("–".to_string(), |v| percent(v, 1));
    let columns: [Column<'_, &CellSummary>; 13] = [
        ("objective", &|c| c.objective.clone()),
        ("latent", &|c| line_name(&c.line())),
        ("noise", &|c| c.noise()),
        ("rate", &|c| c.p.to_string()),
        ("affected", &|c| c.affected()),
        ("seeds", &|c| number(c.get(result::N_SEEDS), 0)),
        ("accuracy", &|c| share(c, result::EVAL_ACCURACY)),
        ("95 % over seeds", &|c| c.over_seeds(result::EVAL_ACCURACY_LOW, result::EVAL_ACCURACY_HIGH)),
        ("sd, points", &|c| c.get(result::EVAL_ACCURACY_SD).map_or("–".into(), |s| format!("{:.1}", s * 100.0))),
        ("over none, points", &|c| c.starred(result::DIFFERENCE, result::DIFFERENCE_P_HOLM)),
        ("95 % over prompts", &|c| gains(c)),
        ("p (Holm)", &|c| p_value(c.get(result::DIFFERENCE_P_HOLM))),
        ("code perplexity", &|c| number(c.get(result::CODE_PERPLEXITY), 2)),
    ];
    let caption = "mean over the seeds; the difference is paired with latent = none on the same seeds and test pairs, * \
                   where p is below 0.05 after Holm's correction for all rows";
    let table = Table::of(caption, 3, cells, &columns);
    parts.push(Block::Table(table.without_empty_columns()));
}

/// Where a latent was run with several numbers of codes: accuracy against that number.
fn by_codes(cells: &[CellSummary], parts: &mut Vec<Block>) {
    let mut figures = Vec::new();
    let of = |c: &CellSummary| (c.panel(), c.latent.clone(), c.settings.clone());
    for panel in distinct(cells.iter().map(of)) {
        let here: Vec<&CellSummary> = cells.iter().filter(|c| of(c) == panel && c.codes > 0).collect();
        if distinct(here.iter().map(|c| c.codes)).len() < 2 {
            continue;
        }
        let mut lines = Vec::new();
        for (i, p) in distinct(here.iter().map(|c| c.p.to_bits())).into_iter().take(MAX_LINES).enumerate() {
            let mut line: Vec<PlotPoint> = Vec::new();
            for cell in here.iter().filter(|c| c.p.to_bits() == p) {
                let interval = cell.interval(result::EVAL_ACCURACY_LOW, result::EVAL_ACCURACY_HIGH);
                let x = (cell.codes as f64).log2();
                line.extend(cell.get(result::EVAL_ACCURACY).map(|y| PlotPoint { x, y, interval }));
            }
            line.sort_by(|a, b| a.x.total_cmp(&b.x));
            let name = format!("noise rate {}", f64::from_bits(p));
            lines.push(Curve { colour: i + 1, name, points: line, marks: true });
        }
        let (x_scale, y_scale) = (Scale::Log2, Scale::Percent);
        let sized = sized(&panel.1);
        let x_label = if sized { "codes of an lpc of the same size" } else { "codes" };
        let chart = Chart { x_label: x_label.into(), x_scale, y_scale, rule: None, lines };
        let against = if sized { "its size" } else { "the number of codes" };
        let latent = line_name(&(panel.1, 0, panel.2));
        let title = format!("Accuracy against {against}: {latent}, {}", panel_name(&panel.0));
        figures.push(Figure { title, caption: String::new(), chart: chart.into() });
    }
    if !figures.is_empty() {
        parts.push(Block::Heading("Size of the latent".into()));
        parts.push(Block::Figures(figures));
    }
}

fn audit(cells: &[CellSummary], colours: &Colours, parts: &mut Vec<Block>) {
    let of = [result::AUDIT_AUROC, result::AUDIT_AUROC_LOW, result::AUDIT_AUROC_HIGH];
    let mut figures = against_noise(cells, colours, of, "Mislabel AUROC", 0.5, Scale::Number).into_iter();
    let Some(first) = figures.next() else { return };
    parts.push(Block::Heading("Finding the wrong labels".into()));
    parts.push(Block::Main(first));
    parts.push(Block::Text(format!(
        "Area under the ROC curve of the mislabel score: how often a flipped training pair is ranked above one that \
         was not flipped, mean over the seeds. The dashed rule, one half, is chance. Without flips there is nothing to \
         find. {}",
        bars(cells)
    )));
    parts.push(Block::Figures(figures.collect()));
}

fn every_run(results: &DataFrame, parts: &mut Vec<Block>) {
    let (runs, status, seed) = (cells(results), texts(results, result::STATUS), texts(results, result::SEED));
    let wilson = |i: usize| {
        let found = interval(runs[i].get(result::EVAL_ACCURACY_LOW), runs[i].get(result::EVAL_ACCURACY_HIGH));
        if found.is_empty() { "–".to_string() } else { found }
    };
    let columns: [Column<'_, usize>; 13] = [
        ("objective", &|i| runs[*i].objective.clone()),
        ("latent", &|i| line_name(&runs[*i].line())),
        ("noise", &|i| runs[*i].noise()),
        ("status", &|i| status[*i].clone()),
        ("rate", &|i| runs[*i].p.to_string()),
        ("affected", &|i| runs[*i].affected()),
        ("seed", &|i| seed[*i].clone()),
        ("accuracy", &|i| runs[*i].get(result::EVAL_ACCURACY).map_or("–".into(), |a| percent(a, 1))),
        ("95 % over pairs", &|i| wilson(*i)),
        ("mislabel AUROC", &|i| number(runs[*i].get(result::AUDIT_AUROC), 3)),
        ("codes in use", &|i| number(runs[*i].get(result::CODES_USED), 0)),
        ("perplexity", &|i| number(runs[*i].get(result::CODE_PERPLEXITY), 2)),
        ("time", &|i| runs[*i].get(result::TRAIN_SECONDS).map_or("–".into(), duration)),
    ];
    parts.push(Block::Heading("Every run".into()));
    let table = Table::of(
        "one row a run, in the order of results.parquet; runs without noise stand there for every kind of it",
        4,
        0..runs.len(),
        &columns,
    );
    parts.push(Block::Table(table.without_empty_columns()));
}

fn method(results: &DataFrame, parts: &mut Vec<Block>) {
    let list = |name: &str| distinct(texts(results, name).into_iter()).join(", ");
    parts.push(Block::Heading("How the numbers were made".into()));
    parts.push(Block::Text(format!(
        "Affected is the share of the training pairs on which the noise fell: flipped, or singled out. \
         Every cell was trained with the seeds {}; labels were flipped with the noise seed {}. All cells of a noise \
         setting and seed see the same flips, and the flips at a lower rate are among those at a higher one. Cells \
         without flips are shared by all kinds of noise and all noise seeds.",
        list(result::SEED),
        list(result::NOISE_SEED)
    )));
    parts.push(Block::Text(
        "Intervals of means are 95 % Student t intervals over the seeds, from three seeds on. Differences to a baseline \
         are paired: for each test pair the mean over the common seeds (of the training and of the flips) of being \
         right or wrong, minus the same of the baseline; their intervals are 95 % percentile bootstrap intervals over \
         prompts with all their test pairs, their p-values two-sided by sign flips of the prompts' summed differences. The \
         former hold for another seed, the latter for other prompts. Holm's correction is for all comparisons of a sweep with the same baseline. The interval \
         of one run's accuracy is Wilson's, over its test pairs, which it takes as independent. A tie counts as wrong."
            .into(),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_without_a_result_are_counted_by_what_became_of_them() {
        let status = ["ok", "missing: not run yet", "failed: diverged", "missing: no data", "stopped: at step 3"];
        let status: Vec<String> = status.iter().map(|s| s.to_string()).collect();
        assert_eq!(unfinished(&status), ["1 failed", "2 missing", "1 stopped"]);
        assert!(unfinished(&status[..1]).is_empty());
    }
}
