//! The report of a sweep folder.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::DataFrame;

use super::load::{numbers, texts};
use super::page::{Block, Figure, Page, Table, Tile, count, interval, number, percent, points};
use super::plot::{Chart, Curve, PlotPoint, Scale};
use super::run_page::{folder_name, provenance};
use super::sweep_cells::{cell_folders, losses, usage};
use crate::artifact;
use crate::error::Result;
use crate::schema::{col, result, sweep};

/// Least number of seeds for which an interval is drawn: with two, Student's t makes it 12.7 standard errors wide.
const LEAST_SEEDS_DRAWN: f64 = 3.0;
/// Most lines in one chart: more cannot be told apart.
const MAX_LINES: usize = 8;

/// One cell over its seeds, from summary.parquet.
struct CellSummary {
    objective: String,
    latent: String,
    codes: usize,
    kind: String,
    p: f64,
    marked: bool,
    values: BTreeMap<&'static str, Option<f64>>,
}

/// Columns of summary.parquet that are numbers.
const VALUES: [&str; 17] = [
    result::N_SEEDS,
    result::N_FAILED,
    result::N_EVAL,
    result::EVAL_ACCURACY,
    result::EVAL_ACCURACY_SD,
    result::EVAL_ACCURACY_LOW,
    result::EVAL_ACCURACY_HIGH,
    result::DIFFERENCE,
    result::DIFFERENCE_LOW,
    result::DIFFERENCE_HIGH,
    result::N_PAIRED,
    result::AUDIT_AUROC,
    result::AUDIT_AUROC_LOW,
    result::AUDIT_AUROC_HIGH,
    result::CODES_USED,
    result::CODE_PERPLEXITY,
    result::TRAIN_SECONDS,
];

impl CellSummary {
    fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied().flatten()
    }

    /// The interval over the seeds as it is drawn; the table shows it for two seeds too.
    fn drawn(&self, low: &str, high: &str) -> Option<(f64, f64)> {
        let enough = self.get(result::N_SEEDS).is_some_and(|n| n >= LEAST_SEEDS_DRAWN);
        self.get(low).zip(self.get(high)).filter(|_| enough)
    }

    /// What is compared within a chart.
    fn line(&self) -> (String, usize) {
        (self.latent.clone(), self.codes)
    }

    /// What tells charts apart: objective, noise model, marker.
    fn panel(&self) -> (String, String, bool) {
        (self.objective.clone(), self.kind.clone(), self.marked)
    }
}

/// Whether a latent has no codes, and is as large as an lpc with so many.
fn sized(latent: &str) -> bool {
    matches!(latent, "gaussian" | "mlp")
}

pub(super) fn line_name((latent, codes): &(String, usize)) -> String {
    match latent.as_str() {
        _ if *codes == 0 => latent.clone(),
        latent if sized(latent) => format!("{latent}, the size of {codes} codes"),
        _ => format!("{latent}, {codes} codes"),
    }
}

pub(super) fn panel_name((objective, kind, marked): &(String, String, bool)) -> String {
    format!("{objective}, {kind} noise{}", if *marked { ", marked" } else { "" })
}

fn cells(frame: &DataFrame) -> Vec<CellSummary> {
    let (objective, latent, kind) =
        (texts(frame, result::OBJECTIVE), texts(frame, result::LATENT), texts(frame, col::NOISE_KIND));
    let (codes, p, marked) =
        (numbers(frame, result::CODES), numbers(frame, col::NOISE_P), numbers(frame, result::MARKED));
    let values: Vec<(&'static str, Vec<Option<f64>>)> = VALUES.iter().map(|n| (*n, numbers(frame, n))).collect();
    let cell = |i: usize| CellSummary {
        objective: objective[i].clone(),
        latent: latent[i].clone(),
        codes: codes[i].unwrap_or(0.0) as usize,
        kind: kind[i].clone(),
        p: p[i].unwrap_or(0.0),
        marked: marked[i] == Some(1.0),
        values: values.iter().map(|(n, v)| (*n, v[i])).collect(),
    };
    (0..frame.height()).map(cell).collect()
}

/// Every distinct value in the order of its first appearance.
pub(super) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    items.for_each(|item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
    });
    seen
}

/// A colour for each line, the same in every chart; the quiet one is the baseline's.
pub(super) struct Colours(Vec<(String, usize)>);

impl Colours {
    fn new(cells: &[CellSummary]) -> Colours {
        let mut lines = distinct(cells.iter().map(CellSummary::line));
        lines.sort_by_key(|(latent, _)| latent != "none");
        if lines.first().is_none_or(|(latent, _)| latent != "none") {
            lines.insert(0, ("none".into(), 0));
        }
        Colours(lines)
    }

    pub(super) fn of(&self, line: &(String, usize)) -> usize {
        self.0.iter().position(|l| l == line).unwrap_or(0)
    }
}

/// What the sweep folder says.
pub(super) fn page(dir: &Path) -> Result<Page> {
    let results = artifact::read_parquet(dir.join(sweep::RESULTS))?;
    let summary = dir.join(sweep::SUMMARY);
    let cells = if summary.is_file() { cells(&artifact::read_parquet(summary)?) } else { Vec::new() };
    let colours = Colours::new(&cells);
    let mut parts = Vec::new();
    headline(&results, &cells, &mut parts);
    if cells.is_empty() {
        parts.push(Block::Warning("This sweep has no summary yet: it has not finished, or was stopped.".into()));
    } else {
        accuracy(&cells, &colours, &mut parts);
        by_codes(&cells, &mut parts);
        audit(&cells, &colours, &mut parts);
    }
    let folders = cell_folders(dir)?;
    losses(&folders, &colours, &mut parts)?;
    usage(&folders, &mut parts)?;
    every_run(&results, &mut parts);
    method(&results, &mut parts);
    provenance("how this sweep was made", dir, &mut parts)?;
    Ok(Page {
        title: format!("Sweep: {}", folder_name(dir)),
        subtitle: "label noise, objectives and latents, every cell over its seeds".into(),
        parts,
    })
}

fn headline(results: &DataFrame, cells: &[CellSummary], parts: &mut Vec<Block>) {
    let status = texts(results, result::STATUS);
    let failed: Vec<usize> = (0..status.len()).filter(|&i| status[i] != "ok").collect();
    let seeds = distinct(texts(results, result::SEED).into_iter());
    let seconds: f64 = numbers(results, result::TRAIN_SECONDS).into_iter().flatten().sum();
    let mut tiles = vec![
        Tile { label: "runs".into(), value: count(status.len() as u64), detail: format!("{} failed", failed.len()) },
        Tile { label: "seeds".into(), value: seeds.len().to_string(), detail: "of every cell".into() },
        Tile { label: "training time".into(), value: duration(seconds), detail: "all runs together".into() },
    ];
    // The largest difference is shown together with its interval.
    let gain = |c: &&CellSummary| c.get(result::DIFFERENCE).unwrap_or(f64::NEG_INFINITY);
    let compared = cells.iter().filter(|c| c.get(result::DIFFERENCE).is_some()).count();
    let best = cells.iter().filter(|c| c.get(result::DIFFERENCE).is_some()).max_by(|a, b| gain(a).total_cmp(&gain(b)));
    if let Some(best) = best {
        tiles.push(Tile {
            label: format!("largest of {compared} gains over none"),
            value: format!("{} points", points(best.get(result::DIFFERENCE))),
            detail: format!("95 %: {}; {} at {} flipped", gains(best), line_name(&best.line()), percent(best.p, 0)),
        });
    }
    parts.push(Block::Tiles(tiles));
    if !failed.is_empty() {
        parts.push(Block::Warning(format!("{} of {} runs failed; see the table of runs.", failed.len(), status.len())));
    }
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
        let (mut lines, mut legend) = (Vec::new(), Vec::new());
        for key in keys.iter().take(MAX_LINES) {
            let mut line: Vec<PlotPoint> = Vec::new();
            for cell in here.iter().filter(|c| c.line() == *key) {
                let interval = cell.drawn(of[1], of[2]);
                line.extend(cell.get(of[0]).map(|y| PlotPoint { x: cell.p, y, interval }));
            }
            line.sort_by(|a, b| a.x.total_cmp(&b.x));
            let colour = colours.of(key);
            lines.push(Curve { colour, points: line, marks: true });
            legend.push((colour, line_name(key)));
        }
        if lines.is_empty() {
            continue;
        }
        let more = keys.len().saturating_sub(MAX_LINES);
        let caption = if more > 0 { format!("{more} more lines are in the table only") } else { String::new() };
        let chart = Chart {
            x_label: "labels flipped".into(),
            x_scale: Scale::Percent,
            y_scale: scale,
            rule: Some(rule),
            lines,
        };
        figures.push(Figure { title: format!("{title}: {}", panel_name(&panel)), caption, legend, chart });
    }
    figures
}

/// What the text says of the intervals in charts of means.
fn bars(cells: &[CellSummary]) -> &'static str {
    let seeds = |c: &CellSummary| c.get(result::N_SEEDS).unwrap_or(0.0);
    let drawn = |c: &&CellSummary| seeds(c) >= LEAST_SEEDS_DRAWN;
    match cells.iter().filter(drawn).count() {
        0 if cells.iter().all(|c| seeds(c) < 2.0) => "A single seed gives no interval.",
        0 => {
            "Points are drawn without intervals: from two seeds an interval is too wide to tell anything, and stands in \
             the table alone."
        }
        n if n < cells.len() => {
            "Bars are 95 % intervals over the seeds; means of fewer than three seeds have none, and an interval of two \
             seeds stands in the table alone."
        }
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
    let row = |c: &CellSummary| {
        let text = |name: &str| c.get(name).map_or("–".to_string(), |v| percent(v, 1));
        vec![
            c.objective.clone(),
            line_name(&c.line()),
            format!("{}{}", c.kind, if c.marked { ", marked" } else { "" }),
            percent(c.p, 0),
            number(c.get(result::N_SEEDS), 0),
            text(result::EVAL_ACCURACY),
            match interval(c.get(result::EVAL_ACCURACY_LOW), c.get(result::EVAL_ACCURACY_HIGH)) {
                none if none.is_empty() => "–".into(),
                interval => interval,
            },
            c.get(result::EVAL_ACCURACY_SD).map_or("–".into(), |s| format!("{:.1}", s * 100.0)),
            points(c.get(result::DIFFERENCE)),
            gains(c),
            number(c.get(result::CODE_PERPLEXITY), 2),
        ]
    };
    let header = [
        "objective",
        "latent",
        "noise",
        "flipped",
        "seeds",
        "accuracy",
        "95 % over seeds",
        "sd, points",
        "over none, points",
        "95 % over pairs",
        "code perplexity",
    ];
    let table = Table {
        caption: "mean over the seeds; the difference is paired with latent = none on the same seeds and test pairs"
            .into(),
        header: header.map(String::from).to_vec(),
        rows: cells.iter().map(row).collect(),
        text_columns: 3,
    };
    parts.push(Block::Table(table.without_empty_columns()));
}

/// Where a latent was run with several numbers of codes: accuracy against that number.
fn by_codes(cells: &[CellSummary], parts: &mut Vec<Block>) {
    let mut figures = Vec::new();
    for panel in distinct(cells.iter().map(|c| (c.panel(), c.latent.clone()))) {
        let here: Vec<&CellSummary> =
            cells.iter().filter(|c| (c.panel(), c.latent.clone()) == panel && c.codes > 0).collect();
        if distinct(here.iter().map(|c| c.codes)).len() < 2 {
            continue;
        }
        let (mut lines, mut legend) = (Vec::new(), Vec::new());
        for (i, p) in distinct(here.iter().map(|c| c.p.to_bits())).into_iter().take(MAX_LINES).enumerate() {
            let mut line: Vec<PlotPoint> = Vec::new();
            for cell in here.iter().filter(|c| c.p.to_bits() == p) {
                let interval = cell.drawn(result::EVAL_ACCURACY_LOW, result::EVAL_ACCURACY_HIGH);
                let x = (cell.codes as f64).log2();
                line.extend(cell.get(result::EVAL_ACCURACY).map(|y| PlotPoint { x, y, interval }));
            }
            line.sort_by(|a, b| a.x.total_cmp(&b.x));
            lines.push(Curve { colour: i + 1, points: line, marks: true });
            legend.push((i + 1, format!("{} flipped", percent(f64::from_bits(p), 0))));
        }
        let (x_scale, y_scale) = (Scale::Log2, Scale::Percent);
        let sized = sized(&panel.1);
        let x_label = if sized { "codes of an lpc of the same size" } else { "codes" };
        let chart = Chart { x_label: x_label.into(), x_scale, y_scale, rule: None, lines };
        let against = if sized { "its size" } else { "the number of codes" };
        let title = format!("Accuracy against {against}: {}, {}", panel.1, panel_name(&panel.0));
        figures.push(Figure { title, caption: String::new(), legend, chart });
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
    let text = |name: &str| texts(results, name);
    let (objective, latent, kind, status) =
        (text(result::OBJECTIVE), text(result::LATENT), text(col::NOISE_KIND), text(result::STATUS));
    let value = |name: &str| numbers(results, name);
    let (codes, p, marked, seed) =
        (value(result::CODES), value(col::NOISE_P), value(result::MARKED), text(result::SEED));
    let (accuracy, auroc, used) = (value(result::EVAL_ACCURACY), value(result::AUDIT_AUROC), value(result::CODES_USED));
    let (perplexity, seconds) = (value(result::CODE_PERPLEXITY), value(result::TRAIN_SECONDS));
    let row = |i: usize| {
        vec![
            objective[i].clone(),
            line_name(&(latent[i].clone(), codes[i].unwrap_or(0.0) as usize)),
            format!("{}{}", kind[i], if marked[i] == Some(1.0) { ", marked" } else { "" }),
            status[i].clone(),
            percent(p[i].unwrap_or(f64::NAN), 0),
            seed[i].clone(),
            accuracy[i].map_or("–".into(), |a| percent(a, 1)),
            number(auroc[i], 3),
            number(used[i], 0),
            number(perplexity[i], 2),
            seconds[i].map_or("–".into(), duration),
        ]
    };
    let header = [
        "objective",
        "latent",
        "noise",
        "status",
        "flipped",
        "seed",
        "accuracy",
        "mislabel AUROC",
        "codes in use",
        "perplexity",
        "time",
    ];
    parts.push(Block::Heading("Every run".into()));
    let table = Table {
        caption: "one row a run, in the order of results.parquet".into(),
        header: header.map(String::from).to_vec(),
        rows: (0..results.height()).map(row).collect(),
        text_columns: 4,
    };
    parts.push(Block::Table(table.without_empty_columns()));
}

fn method(results: &DataFrame, parts: &mut Vec<Block>) {
    let list = |name: &str| distinct(texts(results, name).into_iter()).join(", ");
    parts.push(Block::Heading("How the numbers were made".into()));
    parts.push(Block::Text(format!(
        "Every cell was trained with the seeds {}; labels were flipped with the noise seed {}, so that all cells of a \
         noise setting see the same flips, and the flips at a lower rate are among those at a higher one. Cells \
         without flips are shared by all kinds of noise.",
        list(result::SEED),
        list("noise_seed")
    )));
    parts.push(Block::Text(
        "Intervals of means are 95 % Student t intervals over the seeds (none for a single seed). Differences to \
         latent = none are paired: for each test pair the mean over the common seeds of being right or wrong, minus \
         the same of the baseline; their intervals are 95 % percentile bootstrap intervals over the test pairs. The \
         former hold for another seed, the latter for other test pairs. A tie counts as wrong."
            .into(),
    ));
}
