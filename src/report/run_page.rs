//! The report of one run folder.

use std::path::Path;

use serde_json::{Map, Value};

use super::load::{self, Code, CodeTable, MetricCurves};
use super::meaning::CodeMeaning;
use super::page::{Block, Column, Figure, Heat, Page, Table, Tile};
use super::plot::{Chart, Curve, PlotPoint, Scale};
use super::text::{count, interval, joined, number, percent};
use super::{associations, codes, projection};
use crate::analysis::{CodeAccuracy, CodeReading, Method};
use crate::artifact;
use crate::error::Result;
use crate::schema::{accuracy, col, metric, prepared, result, run};

/// What is known of the codes of a run.
#[derive(Clone, Copy)]
pub(super) struct KnownCodes<'a> {
    /// Their statistics.
    pub reading: &'a CodeReading,
    /// What they mean.
    pub meaning: &'a CodeMeaning,
    /// Each code's accuracy on the pairs of each planted preference.
    pub preferences: Option<&'a CodeAccuracy>,
    /// How the posteriors were to be laid out.
    pub method: Method,
}

/// The report of a run folder.
pub(super) fn page(dir: &Path, known: Option<KnownCodes<'_>>) -> Result<Page> {
    let summary = load::object(&dir.join(run::SUMMARY))?;
    let metrics = load::metrics(dir)?;
    let table = load::codes(dir)?;
    let mut parts = Vec::new();
    match &summary {
        Some(summary) => headline(summary, &mut parts),
        None => parts.push(Block::Warning("This run has no summary yet: it has not finished, or was stopped.".into())),
    }
    if metrics.unreadable > 0 {
        parts.push(Block::Warning(format!("{} lines of metrics.jsonl could not be read.", metrics.unreadable)));
    }
    training(&metrics, &mut parts);
    if let Some(sources) = summary.as_ref().and_then(|s| s.get(result::BY_SOURCE)).and_then(Value::as_array) {
        by_source(sources, &mut parts);
    }
    latent(&metrics, known.map(|known| known.reading), &mut parts);
    // Without codes there is one row, which has tokens where there is one vector for all.
    match table.as_ref().map(|codes| codes.rows.as_slice()) {
        Some([row]) if !row.top.is_empty() => one_vector(row, &mut parts),
        Some([_, _, ..]) => table.iter().for_each(|codes| code_parts(codes, &mut parts)),
        _ => {}
    }
    if let Some(KnownCodes { reading, meaning, preferences, method }) = known {
        codes::meaning(reading, preferences, &mut parts);
        associations::associations(meaning, reading, &mut parts);
        projection::projection(meaning.projection.as_ref(), method, &mut parts);
        associations::pairs(meaning, reading, table.as_ref().map_or(&[], |table| &table.rows), &mut parts);
    }
    let field = |key: &str| summary.as_ref().and_then(|s| s.get(key)).and_then(Value::as_str).map(String::from);
    method(field(result::LATENT).as_deref(), &mut parts);
    provenance("how this run was made", dir, &mut parts)?;
    let kind: Vec<String> = [field(result::OBJECTIVE), field(result::LATENT)].into_iter().flatten().collect();
    Ok(Page { title: format!("Run: {}", folder_name(dir)), subtitle: kind.join(" · "), parts })
}

/// The folder's own name, also where the path is relative (`.`).
pub(super) fn folder_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    artifact::name_of(&whole)
}

fn get(map: &Map<String, Value>, key: &str) -> Option<f64> {
    map.get(key).and_then(Value::as_f64)
}

fn headline(summary: &Map<String, Value>, parts: &mut Vec<Block>) {
    let value = |key: &str| get(summary, key);
    let mut tiles = Vec::new();
    let mut tile = |label: &str, value: String, detail: String| {
        tiles.push(Tile { label: label.into(), value, detail });
    };
    if let Some(accuracy) = value(result::EVAL_ACCURACY) {
        let range = interval(value(result::EVAL_ACCURACY_LOW), value(result::EVAL_ACCURACY_HIGH));
        let detail = if range.is_empty() { String::new() } else { format!("95 %: {range}") };
        tile("preference accuracy", percent(accuracy, 1), detail);
    }
    for (key, label) in [(result::N_EVAL, "test pairs"), (result::STEPS, "steps")] {
        if let Some(n) = value(key) {
            tile(label, count(n as u64), String::new());
        }
    }
    if let Some(step) = value(result::BEST_STEP) {
        let accuracy = value(result::VALIDATION_ACCURACY).map(|a| percent(a, 1)).unwrap_or_default();
        let pairs = value(result::N_VALIDATION).map(|n| count(n as u64)).unwrap_or_default();
        tile("kept step", count(step as u64), format!("best in validation: {accuracy} of {pairs} pairs"));
    }
    // One code is always used: that says nothing of a latent without codes.
    let coded = value(result::CODES).is_none_or(|n| n > 1.0);
    if let Some(used) = value(result::CODES_USED).filter(|_| coded) {
        let of = value(result::CODES).map(|n| format!("of {n}")).unwrap_or_default();
        tile("codes in use", format!("{used:.0}"), of);
    }
    if let Some(perplexity) = value(result::CODE_PERPLEXITY).filter(|_| coded) {
        tile("code perplexity", number(Some(perplexity), 2), "1 is collapse".into());
    }
    if let Some(rate) = value(result::MIX_FLIP_RATE) {
        tile("flip rate", percent(rate, 1), "of objective mix, at the end".into());
    }
    if let Some(rate) = value(result::REPO_CLEAN_RATE) {
        tile("clean rate", percent(rate, 1), "of objective repo, at the end".into());
    }
    if let Some(rate) = value(result::HOELDER_NOISE_RATE) {
        tile("noise rate", percent(rate, 1), "of training labels, estimated by objective hoelder".into());
    }
    if let Some(speed) = value(result::PAIRS_PER_S) {
        tile("speed", number(Some(speed), 1), "pairs a second".into());
    }
    if let Some(memory) = value(result::PEAK_RSS_MB) {
        tile("peak memory", count(memory as u64), "MB".into());
    }
    parts.push(Block::Tiles(tiles));
    if value(result::CODES).unwrap_or(0.0) > 1.0 && value(result::CODES_USED).is_some_and(|n| n <= 1.0) {
        parts.push(Block::Warning("The codes have collapsed: every example uses the same one.".into()));
    }
}

fn by_source(sources: &[Value], parts: &mut Vec<Block>) {
    if sources.is_empty() {
        return;
    }
    let value = |s: &Value, key: &str| s.get(key).and_then(Value::as_f64);
    parts.push(Block::Heading("Accuracy by source".into()));
    let columns: [Column<'_, &Value>; 4] = [
        ("source", &|s| s.get(col::SOURCE).and_then(Value::as_str).unwrap_or("?").to_string()),
        ("pairs", &|s| value(s, accuracy::N).map_or("–".into(), |n| count(n as u64))),
        ("accuracy", &|s| value(s, accuracy::ACCURACY).map_or("–".into(), |a| percent(a, 1))),
        ("95 % interval", &|s| interval(value(s, accuracy::LOW), value(s, accuracy::HIGH))),
    ];
    parts.push(Block::Table(Table::of("test pairs ranked as their clean label says", 1, sources, &columns)));
}

/// A figure of one metric, training and evaluation; none where neither was logged.
fn curve(metrics: &MetricCurves, key: &str, title: &str, scale: Scale, rule: Option<f64>) -> Option<Figure> {
    curves(metrics, &[(key, "")], title, scale, rule)
}

/// A figure of several metrics; each is drawn for training and, where they were logged, validation and evaluation.
fn curves(
    metrics: &MetricCurves,
    keys: &[(&str, &str)],
    title: &str,
    scale: Scale,
    rule: Option<f64>,
) -> Option<Figure> {
    let mut lines = Vec::new();
    let sides = [("training", &metrics.train), ("validation", &metrics.validation), ("evaluation", &metrics.eval)];
    let several = keys.iter().any(|(key, _)| sides[1..].iter().any(|(_, of_side)| of_side.contains_key(*key)));
    for (key, name) in keys {
        for (side, of_side) in sides {
            let Some(points) = of_side.get(*key).filter(|p| !p.is_empty()) else { continue };
            let named = if several { [*name, side].join(", ") } else { name.to_string() };
            let name = named.trim_start_matches(", ").to_string();
            let marks = side != "training" && points.len() <= 60;
            lines.push(Curve { colour: lines.len() + 1, name, points: points.clone(), marks });
        }
    }
    if lines.is_empty() {
        return None;
    }
    // A single line is named by the title.
    if lines.len() == 1 && !several {
        lines[0].name.clear();
    }
    let chart = Chart { x_label: "step".into(), x_scale: Scale::Number, y_scale: scale, rule, lines };
    Some(Figure { title: title.into(), caption: String::new(), chart: chart.into() })
}

fn training(metrics: &MetricCurves, parts: &mut Vec<Block>) {
    let rewards = [(metric::REWARDS_CHOSEN, "chosen"), (metric::REWARDS_REJECTED, "rejected")];
    let accuracy = curve(metrics, metric::REWARDS_ACCURACIES, "Preference accuracy", Scale::Percent, Some(0.5));
    let mut figures = [
        accuracy,
        curve(metrics, metric::LOSS, "Loss", Scale::Number, None),
        curve(metrics, metric::REWARDS_MARGINS, "Reward margin (nats)", Scale::Number, Some(0.0)),
        curves(metrics, &rewards, "Implicit reward of each answer (nats)", Scale::Number, Some(0.0)),
        curve(metrics, metric::GRAD_NORM, "Gradient norm", Scale::Number, None),
        curve(metrics, metric::LEARNING_RATE, "Learning rate", Scale::Number, None),
    ]
    .into_iter()
    .flatten();
    let Some(main) = figures.next() else { return };
    parts.push(Block::Heading("Training".into()));
    parts.push(Block::Main(main));
    let kept = match metrics.validation.is_empty() {
        true => "",
        false => " The last evaluation is of the parameters that did best in validation.",
    };
    parts.push(Block::Text(format!(
        "The implicit reward of an answer is beta times the log-ratio of policy to reference, in nats, summed over its \
         tokens (IPO: the mean over its tokens, unless train.objective.reduction is sum; SimPO: beta times the mean \
         log-probability of a token, without a reference). The margin is the chosen answer's reward minus the rejected \
         one's; a pair counts as right where the margin is above zero. Training accuracy is measured against the labels \
         as observed, noise included, and so is validation's; evaluation's against the clean ones.{kept} The learning \
         rate is the backbone's; while the latent part is trained alone, that of its networks. Dashed rules are chance \
         and zero."
    )));
    parts.push(Block::Figures(figures.collect()));
}

fn latent(metrics: &MetricCurves, reading: Option<&CodeReading>, parts: &mut Vec<Block>) {
    let entropies = [(metric::PRIOR_ENTROPY, "prior"), (metric::POSTERIOR_ENTROPY, "posterior")];
    let weights = [(metric::G, "g (prior's share of z)"), (metric::TAU, "temperature")];
    // Evaluation logs a KL of 0 where there is no posterior; training then logs none.
    let kl = curve(metrics, metric::KL, "KL(posterior || prior) (nats)", Scale::Number, Some(0.0))
        .filter(|_| metrics.train.contains_key(metric::KL));
    let figures: Vec<Figure> = [
        kl,
        curve(metrics, metric::CODE_PERPLEXITY, "Code perplexity", Scale::Number, Some(1.0)),
        curve(metrics, metric::CODES_USED, "Codes in use", Scale::Number, None),
        curves(metrics, &entropies, "Entropy of the code distributions (nats)", Scale::Number, Some(0.0)),
        curves(metrics, &weights, "Schedules", Scale::Number, None),
        curve(metrics, metric::FLIP_RATE, "Learned flip rate of the labels", Scale::Percent, None),
    ]
    .into_iter()
    .flatten()
    .collect();
    let agreement = reading.and_then(|r| r.agreement.as_ref()).map(codes::agreement);
    if figures.is_empty() {
        if let Some(agreement) = agreement {
            parts.push(Block::Heading("Latent codes".into()));
            parts.push(agreement);
        }
        return;
    }
    let coded = metrics.train.contains_key(metric::CODE_PERPLEXITY);
    parts.push(Block::Heading(if coded { "Latent codes in training" } else { "The latent in training" }.into()));
    if !coded {
        return parts.push(Block::Figures(figures));
    }
    parts.push(Block::Text(
        "The posterior sees which answer was preferred, the prior sees the prompt alone. A KL near zero together with \
         a perplexity near one means that the codes have collapsed; a large KL means that the posterior knows what \
         the prompt does not tell."
            .into(),
    ));
    parts.push(Block::Figures(figures));
    parts.extend(agreement);
}

/// How each source uses the codes, as shares of the source.
pub(super) fn usage_heat(codes: &CodeTable, caption: &str) -> Option<Heat> {
    // A latent without codes has one row, which all sources use.
    if codes.by_source.is_empty() || codes.rows.len() < 2 {
        return None;
    }
    let shares = |values: &Vec<f64>| {
        let total: f64 = values.iter().filter(|v| v.is_finite()).sum();
        values.iter().map(|v| if total > 0.0 { v / total } else { f64::NAN }).collect()
    };
    Some(Heat {
        caption: caption.into(),
        corner: "source".into(),
        columns: codes.rows.iter().map(|c| c.code.to_string()).collect(),
        rows: codes.by_source.iter().map(|(name, values)| (name.clone(), shares(values))).collect(),
        base: 0.0,
        peaks: false,
    })
}

/// What one vector for all prompts does to the logits.
fn one_vector(vector: &Code, parts: &mut Vec<Block>) {
    parts.push(Block::Heading("The learned vector".into()));
    parts.push(Block::Text(format!(
        "One shift of the next-token logits, of norm {}, serves all prompts. It raises most: {}",
        number(Some(vector.norm), 3),
        joined(&vector.top)
    )));
    parts.push(Block::Text(format!("It lowers most: {}", joined(&vector.bottom))));
}

fn code_parts(codes: &CodeTable, parts: &mut Vec<Block>) {
    parts.push(Block::Heading("The codes".into()));
    if let Some(heat) = usage_heat(codes, "share of each code in a source (prior), codes in columns") {
        parts.push(Block::Heat(heat));
    }
    let rows = codes.rows.iter().map(|c| {
        let mut row = vec![
            c.code.to_string(),
            joined(&c.top),
            joined(&c.bottom),
            percent(c.usage_prior, 1),
            percent(c.usage_posterior, 1),
            number(Some(c.norm), 3),
        ];
        row.extend(c.flip_rate.map(|rate| percent(rate, 1)));
        row
    });
    let mut header = ["code", "raises", "lowers", "use, prior", "use, posterior", "norm"].map(String::from).to_vec();
    header.extend(codes.rows.iter().any(|c| c.flip_rate.is_some()).then(|| "flip rate".to_string()));
    parts.push(Block::Table(Table {
        caption: "what each code does to the next-token logits: the tokens it raises and lowers most".into(),
        header,
        rows: rows.collect(),
        text_columns: 3,
    }));
    parts.push(Block::Text(
        "A code is a bias on tokens, or a vector added to the hidden state before the linear output head. Either way it \
         changes the logits by the same amounts at every position, which are read off exactly."
            .into(),
    ));
}

fn method(latent: Option<&str>, parts: &mut Vec<Block>) {
    let vector = match latent {
        Some("none" | "mlp" | "bias" | "noise") => "",
        Some("gaussian") => "Evaluation uses the prior's mean, never the posterior, which has seen the label. ",
        _ => "Evaluation uses the prior's expected code vector, never the posterior, which has seen the label. ",
    };
    parts.push(Block::Heading("How the numbers were made".into()));
    parts.push(Block::Text(format!(
        "{vector}Accuracy is over the pairs of the test split, against the clean labels where labels were flipped; a \
         tie counts as wrong. Intervals of accuracies are 95 % intervals for a proportion (Wilson)."
    )));
}

/// Adds command, times and configuration.
pub(super) fn provenance(caption: &str, dir: &Path, parts: &mut Vec<Block>) -> Result<()> {
    if let Some(manifest) = load::object(&dir.join(prepared::MANIFEST))? {
        let string = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or("").to_string();
        let command = manifest.get("command").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let command: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
        let mut rows = vec![
            vec!["command".to_string(), command.join(" ")],
            vec!["program".into(), string("tool")],
            vec!["started".into(), string("started")],
            vec!["finished".into(), string("finished")],
            vec!["configuration (BLAKE3)".into(), string("config_hash")],
        ];
        for (name, seed) in manifest.get("seeds").and_then(Value::as_object).into_iter().flatten() {
            rows.push(vec![format!("seed, {name}"), seed.to_string()]);
        }
        rows.retain(|r| !r[1].is_empty());
        let header = ["", ""].map(String::from).to_vec();
        parts.push(Block::Table(Table { caption: caption.into(), header, rows, text_columns: 2 }));
    }
    if let Some(config) = load::text(&dir.join(run::CONFIG))? {
        parts.push(Block::Fold("Resolved configuration (config.toml)".into(), config));
    }
    Ok(())
}

/// The loss curve of a run, for a chart of several runs.
pub(super) fn loss(dir: &Path) -> Result<Vec<PlotPoint>> {
    Ok(load::metrics(dir)?.train.remove(metric::LOSS).unwrap_or_default())
}
