//! Names and colours of a sweep's cells in its report, and figures from their run folders.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use polars::prelude::{BooleanChunked, DataFrame, NewChunkedArray};
use serde_json::Value;

use super::load::{self, numbers, texts};
use super::page::{Block, Figure, Heat};
use super::plot::{Chart, Curve, Scale, thinned};
use super::run_page::{folder_name, loss, usage_heat};
use super::text::{interval, percent, points};
use crate::artifact;
use crate::error::Result;
use crate::schema::report::HTML;
use crate::schema::{accuracy, col, result, run, sweep};

/// p-value, after correction, below which a difference has a star.
const LEVEL: f64 = 0.05;
/// Charts of losses and heat maps shown; the rest is in the cells' own reports.
const MAX_PANELS: usize = 12;
/// Points of a loss curve among many: fewer, so that the noise of single steps does not hide the curves.
const LOSS_POINTS: usize = 60;

/// A row of summary.parquet (one cell over its seeds), of curves.parquet (one without its noise rate) or of
/// results.parquet.
pub(super) struct CellSummary {
    pub objective: String,
    pub latent: String,
    pub codes: usize,
    /// Noise model, with the seed of the flips where it is not 0.
    pub kind: String,
    pub settings: String,
    /// Rate of the noise model.
    pub p: f64,
    pub marked: bool,
    /// Columns that are numbers, by name.
    values: BTreeMap<String, Option<f64>>,
}

impl CellSummary {
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied().flatten()
    }

    /// An interval over the seeds.
    pub fn interval(&self, low: &str, high: &str) -> Option<(f64, f64)> {
        self.get(low).zip(self.get(high))
    }

    /// The interval over the seeds in words, or why there is none.
    pub fn over_seeds(&self, low: &str, high: &str) -> String {
        match interval(self.get(low), self.get(high)) {
            none if none.is_empty() => match self.get(result::N_SEEDS).unwrap_or(0.0) {
                1.0 => "1 seed: no interval".into(),
                n => format!("{n} seeds: no interval"),
            },
            interval => interval,
        }
    }

    /// A difference in points, with a star where its corrected p-value is below [`LEVEL`].
    pub fn starred(&self, difference: &str, p_holm: &str) -> String {
        let star = if self.get(p_holm).is_some_and(|p| p < LEVEL) { "*" } else { "" };
        format!("{}{star}", points(self.get(difference)))
    }

    /// What distinguishes the lines of a chart.
    pub fn line(&self) -> Line {
        (self.latent.clone(), self.codes, self.settings.clone())
    }

    /// Noise model and marker.
    pub fn noise(&self) -> String {
        format!("{}{}", self.kind, if self.marked { ", marked" } else { "" })
    }

    /// Share of the training pairs on which the noise fell; the rate where it is not known.
    pub fn affected(&self) -> String {
        self.get(result::NOISE_SHARE).map_or_else(|| format!("rate {}", self.p), |share| percent(share, 1))
    }

    /// What distinguishes charts: objective, noise model, marker.
    pub fn panel(&self) -> (String, String, bool) {
        (self.objective.clone(), self.kind.clone(), self.marked)
    }
}

/// The rows of a table of a sweep.
pub(super) fn cells(frame: &DataFrame) -> Vec<CellSummary> {
    let (objective, latent, kind) =
        (texts(frame, result::OBJECTIVE), texts(frame, result::LATENT), texts(frame, col::NOISE_KIND));
    let (settings, seed) = (texts(frame, result::SETTINGS), numbers(frame, result::NOISE_SEED));
    let (codes, p, marked) =
        (numbers(frame, result::CODES), numbers(frame, col::NOISE_P), numbers(frame, result::MARKED));
    let names = frame.get_column_names();
    let values: Vec<(&str, Vec<Option<f64>>)> = names.into_iter().map(|n| (n.as_str(), numbers(frame, n))).collect();
    let cell = |i: usize| CellSummary {
        objective: objective[i].clone(),
        latent: latent[i].clone(),
        codes: codes[i].unwrap_or(0.0) as usize,
        kind: noise_name(&kind[i], seed[i].unwrap_or(0.0) as u64),
        settings: settings[i].clone(),
        p: p[i].unwrap_or(0.0),
        marked: marked[i] == Some(1.0),
        values: values.iter().map(|(n, v)| ((*n).to_string(), v[i])).collect(),
    };
    (0..frame.height()).map(cell).collect()
}

/// What distinguishes the lines of a chart: latent, number of codes, settings that are not the recipe's.
pub(super) type Line = (String, usize, String);

/// Whether a latent has no codes of its own: its `codes` are those of the lpc that it is as large as.
pub(super) fn sized(latent: &str) -> bool {
    matches!(latent, "gaussian" | "mlp")
}

pub(super) fn line_name((latent, codes, settings): &Line) -> String {
    let name = match latent.as_str() {
        _ if *codes == 0 => latent.clone(),
        latent if sized(latent) => format!("{latent}, the size of {codes} codes"),
        _ => format!("{latent}, {codes} codes"),
    };
    if settings.is_empty() { name } else { format!("{name}, {settings}") }
}

pub(super) fn panel_name((objective, kind, marked): &(String, String, bool)) -> String {
    format!("{objective}, {kind} noise{}", if *marked { ", marked" } else { "" })
}

/// A noise model with the seed of the flips, where it is not 0.
fn noise_name(kind: &str, seed: u64) -> String {
    if seed == 0 { kind.to_string() } else { format!("{kind} (seed {seed})") }
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

/// What tells a run of a sweep from the others. Without noise its kind, its marker and its seed make no difference: the
/// rows of the table that differ in these alone are one run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RunKey {
    objective: String,
    line: Line,
    /// The noise with its seed, its rate and whether it is marked; none without noise.
    noise: Option<(String, String, bool)>,
    seed: String,
}

impl RunKey {
    fn new(objective: &str, line: Line, (kind, p, marked): (&str, f64, bool), seed: String) -> RunKey {
        let noise = (p != 0.0).then(|| (kind.to_string(), p.to_string(), marked));
        RunKey { objective: objective.to_string(), line, noise, seed }
    }
}

/// The runs of the rows of results.parquet, in their order.
pub(super) fn runs(results: &DataFrame) -> Vec<RunKey> {
    let key = |(cell, seed): (CellSummary, String)| {
        RunKey::new(&cell.objective, cell.line(), (&cell.kind, cell.p, cell.marked), seed)
    };
    cells(results).into_iter().zip(texts(results, result::SEED)).map(key).collect()
}

/// The rows of results.parquet without those that repeat a run.
pub(super) fn once(results: &DataFrame) -> Result<DataFrame> {
    let mut seen = HashSet::new();
    let first = runs(results).into_iter().map(|run| seen.insert(run));
    Ok(results.filter(&BooleanChunked::from_iter_values("".into(), first))?)
}

/// A colour for each line, the same in every chart; the baseline has the grey one.
pub(super) struct Colours(Vec<Line>);

impl Colours {
    pub fn new(lines: impl Iterator<Item = Line>) -> Colours {
        let mut lines = distinct(lines);
        lines.sort_by_key(|(latent, ..)| latent != "none");
        if lines.first().is_none_or(|(latent, ..)| latent != "none") {
            lines.insert(0, ("none".into(), 0, String::new()));
        }
        Colours(lines)
    }

    pub fn of(&self, line: &Line) -> usize {
        self.0.iter().position(|l| l == line).unwrap_or(0)
    }
}

/// A run folder of the sweep and what its marker says of it.
pub(super) struct CellFolder {
    path: PathBuf,
    panel: String,
    line: Line,
    name: String,
}

/// The finished cells of the table, by folder name: the folder of a sweep may hold runs of an earlier, wider grid too.
pub(super) fn cell_folders(dir: &Path, results: &DataFrame) -> Result<Vec<CellFolder>> {
    let finished = runs(results).into_iter().zip(texts(results, result::STATUS)).filter(|(_, status)| status == "ok");
    let finished: HashSet<RunKey> = finished.map(|(run, _)| run).collect();
    let mut folders = Vec::new();
    for path in artifact::entries(&dir.join(sweep::CELLS)).unwrap_or_default() {
        let Some(marker) = load::object(&path.join(sweep::CELL_MARKER)).ok().flatten() else { continue };
        let Some(cell) = marker.get("cell") else { continue };
        let string = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or("").to_string();
        let noise = cell.get("noise").cloned().unwrap_or_default();
        let p = noise.get("p").and_then(Value::as_f64).unwrap_or(0.0);
        let marked = noise.get("marked").and_then(Value::as_bool).unwrap_or(false);
        let objective = string(cell, "objective");
        let seed = noise.get("seed").and_then(Value::as_u64).unwrap_or(0);
        let kind = noise_name(&string(&noise, "kind"), seed);
        let panel = if p == 0.0 {
            format!("{objective}, no noise")
        } else {
            format!("{}, rate {p}", panel_name(&(objective.clone(), kind.clone(), marked)))
        };
        let codes = cell.get("codes").and_then(Value::as_u64).unwrap_or(0) as usize;
        let settings = match cell.get(result::SETTINGS).and_then(Value::as_object) {
            Some(settings) => load::words(settings),
            None => String::new(),
        };
        let line = (string(cell, "latent"), codes, settings);
        let run_seed = cell.get(result::SEED).map(Value::to_string).unwrap_or_default();
        if !finished.contains(&RunKey::new(&objective, line.clone(), (&kind, p, marked), run_seed)) {
            continue;
        }
        folders.push(CellFolder { name: folder_name(&path), path, panel, line });
    }
    Ok(folders)
}

/// The loss curves, one chart per noise setting.
pub(super) fn losses(folders: &[CellFolder], colours: &Colours, parts: &mut Vec<Block>) -> Result<()> {
    let panels = distinct(folders.iter().map(|f| f.panel.clone()));
    let mut figures = Vec::new();
    for panel in panels.iter().take(MAX_PANELS) {
        let mut lines = Vec::new();
        let mut here: Vec<&CellFolder> = folders.iter().filter(|f| f.panel == *panel).collect();
        here.sort_by_key(|f| colours.of(&f.line));
        for folder in here {
            let points = thinned(&loss(&folder.path)?, LOSS_POINTS);
            if points.is_empty() {
                continue;
            }
            let (colour, name) = (colours.of(&folder.line), line_name(&folder.line));
            lines.push(Curve { colour, name, points, marks: false });
        }
        if lines.is_empty() {
            continue;
        }
        let (x_scale, y_scale) = (Scale::Number, Scale::Number);
        let chart = Chart { x_label: "step".into(), x_scale, y_scale, rule: None, lines };
        figures.push(Figure { title: panel.clone(), caption: String::new(), chart: chart.into() });
    }
    if !figures.is_empty() {
        parts.push(Block::Heading("Training loss".into()));
        parts.push(Block::Text(
            "One line a run, each point the mean of neighbouring steps; seeds of a cell share a colour.".into(),
        ));
        parts.push(Block::Figures(figures));
    }
    Ok(())
}

/// Accuracy of every cell by source, a shaded table for each noise setting; none with one source.
pub(super) fn by_source(folders: &[CellFolder], parts: &mut Vec<Block>) -> Result<()> {
    let mut heats = Vec::new();
    for panel in distinct(folders.iter().map(|f| f.panel.clone())).into_iter().take(MAX_PANELS) {
        // Accuracies of the seeds, by line and source.
        let mut found: Vec<(&Line, BTreeMap<String, Vec<f64>>)> = Vec::new();
        for folder in folders.iter().filter(|f| f.panel == panel) {
            let Some(summary) = load::object(&folder.path.join(run::SUMMARY))? else { continue };
            let at = found.iter().position(|(line, _)| *line == &folder.line).unwrap_or_else(|| {
                found.push((&folder.line, BTreeMap::new()));
                found.len() - 1
            });
            for source in summary.get(result::BY_SOURCE).and_then(Value::as_array).into_iter().flatten() {
                let name = source.get(col::SOURCE).and_then(Value::as_str);
                let value = source.get(accuracy::ACCURACY).and_then(Value::as_f64);
                if let Some((name, value)) = name.zip(value) {
                    found[at].1.entry(name.to_string()).or_default().push(value);
                }
            }
        }
        let mut columns: Vec<String> = found.iter().flat_map(|(_, sources)| sources.keys().cloned()).collect();
        columns.sort();
        columns.dedup();
        if columns.len() < 2 {
            continue;
        }
        let mean = |values: Option<&Vec<f64>>| match values {
            Some(values) => values.iter().sum::<f64>() / values.len() as f64,
            None => f64::NAN,
        };
        let row = |(line, of): &(&Line, BTreeMap<String, Vec<f64>>)| {
            (line_name(line), columns.iter().map(|source| mean(of.get(source))).collect())
        };
        let rows = found.iter().map(row).collect();
        heats.push(Block::Heat(Heat { caption: panel, corner: "cell".into(), columns, rows, base: 0.5, peaks: true }));
    }
    if !heats.is_empty() {
        parts.push(Block::Heading("Accuracy by source".into()));
        parts.push(Block::Text(
            "Share of a source's test pairs that are ranked as their clean label says, mean over the seeds. The highest \
             of each source is bold. With few pairs of a source differences of some points are chance: a run's own page \
             has intervals."
                .into(),
        ));
        parts.append(&mut heats);
    }
    Ok(())
}

/// Links to the pages of single runs, where they were written, and how they are.
pub(super) fn pages(dir: &Path, folders: &[CellFolder], parts: &mut Vec<Block>) {
    let page = |folder: &CellFolder| {
        let path = format!("{}/{}/{}", sweep::CELLS, folder.name, HTML);
        dir.join(&path).is_file().then(|| (folder.name.clone(), path))
    };
    let links: Vec<(String, String)> = folders.iter().filter_map(page).collect();
    parts.push(Block::Text(format!(
        "lpc-pipe report {}/{}/NAME writes the page of one run: its curves, what each code prefers and goes with, the \
         posteriors in the plane (t-SNE). {} of {} finished runs have one; lpc-pipe report {} links them here.",
        folder_name(dir),
        sweep::CELLS,
        links.len(),
        folders.len(),
        folder_name(dir),
    )));
    if !links.is_empty() {
        parts.push(Block::Links(links));
    }
}

/// How the sources use the codes, one shaded table per cell.
pub(super) fn usage(folders: &[CellFolder], parts: &mut Vec<Block>) -> Result<()> {
    // One seed of a cell is shown: codes of different seeds have no common order.
    let mut seen = Vec::new();
    let mut heats = Vec::new();
    for folder in folders {
        let key = (&folder.panel, &folder.line);
        if seen.contains(&key) || heats.len() >= MAX_PANELS {
            continue;
        }
        let Some(codes) = load::codes(&folder.path)? else { continue };
        let caption = format!("{}, {} ({})", line_name(&folder.line), folder.panel, folder.name);
        if let Some(heat) = usage_heat(&codes, &caption) {
            heats.push(Block::Heat(heat));
            seen.push(key);
        }
    }
    if !heats.is_empty() {
        parts.push(Block::Heading("Codes by source".into()));
        parts.push(Block::Text(
            "Share of each code in a source, with the prior; the first seed of each cell. Rows that differ mean that \
             the codes tell sources apart; the order of the codes means nothing."
                .into(),
        ));
        parts.append(&mut heats);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_share_is_told_and_else_the_rate() {
        let of = |share: Option<f64>| CellSummary {
            objective: "dpo".into(),
            latent: "none".into(),
            codes: 0,
            kind: "source".into(),
            settings: String::new(),
            p: 0.5,
            marked: false,
            values: [(result::NOISE_SHARE.to_string(), share)].into(),
        };
        assert_eq!([of(Some(0.1926)).affected(), of(None).affected()], ["19.3 %", "rate 0.5"]);
    }
}
