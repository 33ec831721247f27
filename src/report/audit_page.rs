//! The report of an audit folder: how many labels are wrong, how well known flips are found, and the worst pairs.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;
use serde_json::{Map, Value};

use super::load;
use super::page::{Block, Figure, Page, Table, Tile};
use super::plot::{Chart, Curve, PlotPoint, Scale};
use super::run_page::{folder_name, provenance};
use super::text::{count, interval, number, percent, visible};
use crate::analysis::auroc;
use crate::artifact;
use crate::error::Result;
use crate::message::MessageColumn;
use crate::prompt;
use crate::schema::{SPLITS, audit, col, prepared};

/// Characters of a prompt in the table of the worst pairs.
const PROMPT: usize = 120;

/// The report of an audit folder.
pub(super) fn page(dir: &Path) -> Result<Page> {
    let summary = load::object(&dir.join(audit::SUMMARY))?.unwrap_or_default();
    let table = artifact::read_parquet(dir.join(audit::AUDIT))?;
    let mut parts = Vec::new();
    headline(&summary, &mut parts);
    if !summary.contains_key("cleaned") && dir.join(audit::CLEANED).exists() {
        let text = "cleaned/ is that of an earlier audit of this folder: the one that this page is about wrote none.";
        parts.push(Block::Warning(text.into()));
    }
    by_source(&summary, &mut parts);
    let pairs = Pairs::read(&table);
    if let Some(found) = summary.get("detection").and_then(Value::as_object) {
        detection(found, &pairs, &mut parts);
        signals(&table, &mut parts);
    }
    worst(&summary, &pairs, &mut parts)?;
    parts.push(Block::Heading("How this was found".into()));
    if load::numbers(&table, audit::AREA_UNDER_MARGIN).iter().all(Option::is_none) {
        parts.push(Block::Text(
            "The area under the margin is not known: the models did not record their margins after each epoch, which \
             takes an evaluation of all pairs where no hidden states are kept (--ranker run)."
                .into(),
        ));
    }
    parts.push(Block::Text(
        "Every pair was ranked by a model that was trained on other prompts. Its log-odds of the observed order and its \
         margin over the epochs, as one number, scaled by one factor, and a rate of wrong labels for each source were fitted to the observed labels together: no label was \
         known to be right. The rate is what the surest log-odds are contradicted by. A pair's probability follows by \
         Bayes' rule. What has trained on a label agrees with it more than it deserves, so that the run's margin and the \
         area under the margin have no part in the probability. A label that differs from what most annotators would say is wrong in this sense too."
            .into(),
    ));
    provenance("how this audit was made", dir, &mut parts)?;
    let run = summary.get("run").and_then(Value::as_str).unwrap_or_default();
    Ok(Page { title: format!("Audit: {}", folder_name(dir)), subtitle: format!("training pairs of {run}"), parts })
}

fn value(map: &Map<String, Value>, key: &str) -> Option<f64> {
    map.get(key).and_then(Value::as_f64)
}

fn headline(summary: &Map<String, Value>, parts: &mut Vec<Block>) {
    let tile = |label: &str, value: String, detail: String| Tile { label: label.into(), value, detail };
    let known = |key: &str| value(summary, key);
    let mut tiles = vec![
        tile("training pairs", count(known("pairs").unwrap_or(0.0) as u64), String::new()),
        tile(
            "wrong labels, estimated",
            percent(known("noise_rate").unwrap_or(f64::NAN), 1),
            format!("95 %: {}", interval(known("noise_rate_low"), known("noise_rate_high"))),
        ),
        tile("more likely wrong than right", count(known("likely_wrong").unwrap_or(0.0) as u64), "pairs".into()),
    ];
    if let Some(found) = summary.get("detection").and_then(Value::as_object) {
        let expected = number(value(found, "expected_auroc"), 3);
        tiles.push(tile("AUROC", number(value(found, "auroc"), 3), format!("expected {expected}")));
    }
    parts.push(Block::Tiles(tiles));
    if let Some(warning) = summary.get("warning").and_then(Value::as_str) {
        parts.push(Block::Warning(format!("Few pairs, or unsure models: {warning}.")));
    }
    if let Some(cleaned) = summary.get("cleaned").and_then(Value::as_object) {
        let n = |key: &str| count(value(cleaned, key).unwrap_or(0.0) as u64);
        let text = format!(
            "cleaned/ has {} training pairs: {} were left out, the sides of {} changed places, the weights of {} were \
             multiplied by 1 - p_wrong.",
            n("pairs"),
            n("dropped"),
            n("flipped"),
            n("weighted"),
        );
        parts.push(Block::Text(text));
    }
    if let Some(n) = known("for_review") {
        let (n, left_out) = (n as u64, known("not_for_review").unwrap_or(0.0) as u64);
        let all = count(n + left_out);
        parts.push(Block::Text(match left_out {
            0 => format!("{} has the {all} pairs above the threshold.", audit::REVIEW),
            _ => format!(
                "{} has the worst {} of {all} pairs above the threshold (audit.worst).",
                audit::REVIEW,
                count(n)
            ),
        }));
    }
}

fn by_source(summary: &Map<String, Value>, parts: &mut Vec<Block>) {
    let Some(sources) = summary.get("noise_rate_by_source").and_then(Value::as_object).filter(|s| s.len() > 1) else {
        return;
    };
    parts.push(Block::Heading("By source".into()));
    let rows = sources.iter().map(|(source, rate)| vec![source.clone(), percent(rate.as_f64().unwrap_or(f64::NAN), 1)]);
    parts.push(Block::Table(Table {
        caption: "estimated rate of wrong labels; each is drawn towards the common rate with the weight of 50 pairs"
            .into(),
        header: vec!["source".into(), "wrong labels".into()],
        rows: rows.collect(),
        text_columns: 1,
    }));
}

/// The columns of `audit.parquet` that the page shows, worst pairs first.
struct Pairs {
    ids: Vec<String>,
    sources: Vec<String>,
    reasons: Vec<String>,
    p_wrong: Vec<f64>,
    flipped: Vec<bool>,
}

impl Pairs {
    fn read(table: &DataFrame) -> Pairs {
        let ranks = load::numbers(table, audit::RANK);
        let mut order: Vec<usize> = (0..table.height()).collect();
        order.sort_by(|&a, &b| ranks[a].unwrap_or(f64::INFINITY).total_cmp(&ranks[b].unwrap_or(f64::INFINITY)));
        let texts = |name: &str| -> Vec<String> {
            let all = load::texts(table, name);
            order.iter().map(|&i| all.get(i).cloned().unwrap_or_default()).collect()
        };
        let p_wrong = load::numbers(table, audit::P_WRONG);
        let flipped = table.column(col::FLIPPED).ok().and_then(|c| c.bool().ok().cloned());
        Pairs {
            ids: texts(col::ID),
            sources: texts(col::SOURCE),
            reasons: texts(audit::REASONS),
            p_wrong: order.iter().map(|&i| p_wrong[i].unwrap_or(f64::NAN)).collect(),
            flipped: order.iter().map(|&i| flipped.as_ref().and_then(|f| f.get(i)).unwrap_or(false)).collect(),
        }
    }
}

/// How well flips are found that `prepare` made.
fn detection(found: &Map<String, Value>, pairs: &Pairs, parts: &mut Vec<Block>) {
    let known = |key: &str| value(found, key);
    parts.push(Block::Heading("Flips that are known".into()));
    parts.push(Block::Text(format!(
        "prepare flipped {} labels. The models rank {} of the pairs as the true labels do; an AUROC of {} is then to be \
         expected of uniform flips, and {} was measured. Of as many highest ranks as labels were flipped, {} are flips; \
         probabilities are off by {} on average over ten groups of equal size.",
        count(known("flipped").unwrap_or(0.0) as u64),
        percent(known("accuracy").unwrap_or(f64::NAN), 1),
        number(known("expected_auroc"), 3),
        number(known("auroc"), 3),
        percent(known("precision_at_flipped").unwrap_or(f64::NAN), 1),
        percent(known("calibration_error").unwrap_or(f64::NAN), 1),
    )));
    let positives = pairs.flipped.iter().filter(|f| **f).count() as f64;
    let negatives = pairs.flipped.len() as f64 - positives;
    let point = |x: f64, y: f64| PlotPoint { x, y, interval: None };
    let (mut roc, mut precision, mut hits) = (vec![point(0.0, 0.0)], Vec::new(), 0.0);
    for (i, flipped) in pairs.flipped.iter().enumerate() {
        hits += f64::from(u8::from(*flipped));
        let seen = i as f64 + 1.0;
        roc.push(point((seen - hits) / negatives, hits / positives));
        precision.push(point(seen / pairs.flipped.len() as f64, hits / seen));
    }
    let figure = |title: &str, caption: &str, x: &str, points: Vec<PlotPoint>, rule: Option<f64>| Figure {
        title: title.into(),
        caption: caption.into(),
        chart: Chart {
            x_label: x.into(),
            x_scale: Scale::Percent,
            y_scale: Scale::Percent,
            rule,
            lines: vec![Curve { colour: 1, name: String::new(), points, marks: false }],
        }
        .into(),
    };
    let share = positives / pairs.flipped.len().max(1) as f64;
    parts.push(Block::Figures(vec![
        figure("Flips found (ROC)", "", "share of the right labels above the same rank", roc, None),
        figure(
            "Share of flips among the highest ranks",
            "the dashed rule is the share of flips among all pairs",
            "share of the pairs, by rank",
            precision,
            Some(share),
        ),
    ]));
}

/// Columns of `audit.parquet` that tell wrong labels from right ones: name, whether a high value speaks for a wrong label,
/// where it comes from.
const SIGNALS: [(&str, bool, &str); 11] = [
    (audit::P_WRONG, true, "evidence and the rate of the source"),
    (audit::EVIDENCE, false, "log_odds and cross_area_under_margin"),
    (audit::LOG_ODDS, false, "models trained without the pair, mean over the repeats"),
    (audit::CROSS_MARGIN, false, "the same models"),
    (audit::CROSS_AREA_UNDER_MARGIN, false, "the same models, mean over their epochs"),
    (audit::CROSS_KL, true, "the same models; their posterior reads the label"),
    (audit::CODE_CONTRADICTED, true, "the same models, on other pairs of the code"),
    (audit::AREA_UNDER_MARGIN, false, "models trained on the pair, mean over their epochs"),
    (audit::RUN_MARGIN, false, "the audited run, which has trained on the pair"),
    (audit::REFERENCE_MARGIN, false, "the reference"),
    (audit::SCORE_MARGIN, false, "the data: a small difference, of either sign, speaks for a wrong label"),
];

/// How well each signal alone tells the known flips from the other labels.
fn signals(table: &DataFrame, parts: &mut Vec<Block>) {
    let Some(flipped) = table.column(col::FLIPPED).ok().and_then(|c| c.bool().ok().cloned()) else { return };
    let mut missing = Vec::new();
    let mut rows = Vec::new();
    for (name, high, origin) in SIGNALS {
        let mut values = load::numbers(table, name);
        if name == audit::SCORE_MARGIN {
            // Planted flips turn the scores round with their sides: the sign would tell them, and no other wrong label.
            values.iter_mut().flatten().for_each(|v| *v = v.abs());
        }
        let known: Vec<(f64, bool)> = values
            .iter()
            .zip(flipped.iter())
            .filter_map(|(v, f)| Some(((*v)?, f?)))
            .filter(|(v, _)| v.is_finite())
            .collect();
        if known.is_empty() {
            missing.push(name);
            continue;
        }
        let (scores, labels): (Vec<f64>, Vec<bool>) =
            known.into_iter().map(|(v, f)| (if high { v } else { -v }, f)).unzip();
        let n = if scores.len() < table.height() {
            format!(" ({} pairs)", count(scores.len() as u64))
        } else {
            String::new()
        };
        rows.push(vec![name.to_string(), format!("{origin}{n}"), number(Some(auroc(&scores, &labels)), 3)]);
    }
    let mut caption =
        "area under the ROC curve of each signal alone, against the known flips; columns of audit.parquet".to_string();
    if !missing.is_empty() {
        caption += &format!(". Not known here: {}", missing.join(", "));
    }
    let header = ["signal", "from", "AUROC"].map(String::from).to_vec();
    parts.push(Block::Table(Table { caption, header, rows, text_columns: 2 }));
}

/// The pairs whose label is most likely wrong, with their texts where the prepared folder is there.
fn worst(summary: &Map<String, Value>, pairs: &Pairs, parts: &mut Vec<Block>) -> Result<()> {
    let n = (value(summary, "worst").unwrap_or(0.0) as usize).min(pairs.ids.len());
    if n == 0 {
        return Ok(());
    }
    parts.push(Block::Heading("Labels that are most likely wrong".into()));
    let data = summary.get("data").and_then(Value::as_str).unwrap_or_default();
    let path = Path::new(data).join(prepared::pairs(SPLITS[0]));
    let texts = if path.is_file() { Texts::read(&path, &pairs.ids[..n])? } else { vec![None; n] };
    if texts.iter().all(Option::is_none) {
        parts.push(Block::Warning(format!("The texts are not shown: {} is not there.", path.display())));
    }
    let start = |text: &str| {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let cut: String = line.chars().take(PROMPT).collect();
        if cut.len() < line.len() { format!("{cut} …") } else { cut }
    };
    let rows = (0..n).map(|i| {
        let prompt = texts[i].as_ref().map_or_else(|| pairs.ids[i].clone(), |t| start(&t.prompt));
        let p = percent(pairs.p_wrong[i], 1);
        vec![pairs.sources[i].clone(), prompt, pairs.reasons[i].clone(), (i + 1).to_string(), p]
    });
    parts.push(Block::Table(Table {
        caption: "probability that the observed label is wrong, and what speaks against it".into(),
        header: ["source", "prompt", "reasons", "rank", "wrong"].map(String::from).to_vec(),
        rows: rows.collect(),
        text_columns: 3,
    }));
    for (i, texts) in texts.iter().enumerate() {
        let Some(t) = texts else { continue };
        let title = format!("{}: {} ({})", i + 1, start(&t.prompt), percent(pairs.p_wrong[i], 1));
        let text = format!("PROMPT\n{}\n\nCHOSEN\n{}\n\nREJECTED\n{}", t.prompt, t.chosen, t.rejected);
        parts.push(Block::Fold(visible(&title), text));
    }
    Ok(())
}

/// The texts of a pair.
#[derive(Debug, Clone)]
struct Texts {
    prompt: String,
    chosen: String,
    rejected: String,
}

impl Texts {
    /// The texts of these pairs, in their order; none for one that is not in the file.
    fn read(path: &Path, ids: &[String]) -> Result<Vec<Option<Texts>>> {
        let frame = artifact::read_parquet(path)?;
        let open = |name: &str| -> Result<MessageColumn> { MessageColumn::open(frame.column(name)?) };
        let (prompts, chosen, rejected) = (open(col::PROMPT)?, open(col::CHOSEN)?, open(col::REJECTED)?);
        let all = load::texts(&frame, col::ID);
        let rows: HashMap<&str, usize> = all.iter().map(String::as_str).zip(0..).collect();
        let text = |column: &MessageColumn, row: usize| prompt::text(column.row(row)).into_owned();
        let of = |id: &String| {
            let row = *rows.get(id.as_str())?;
            let (chosen, rejected) = (text(&chosen, row), text(&rejected, row));
            Some(Texts { prompt: text(&prompts, row), chosen, rejected })
        };
        Ok(ids.iter().map(of).collect())
    }
}
