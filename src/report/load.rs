//! Reading the files that a report shows. A file that is not there yet is left out of the report; a damaged one is an
//! error.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::*;
use serde_json::{Map, Value};

use super::plot::PlotPoint;
use crate::analysis::{self, CodeReading};
use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::{codes, metric, run};

/// `metrics.jsonl` as curves by key.
#[derive(Default)]
pub(super) struct MetricCurves {
    /// Training values by key.
    pub train: BTreeMap<String, Vec<PlotPoint>>,
    /// Evaluation values by key, without `eval_`.
    pub eval: BTreeMap<String, Vec<PlotPoint>>,
    /// Values of validation by key, without `validation_`.
    pub validation: BTreeMap<String, Vec<PlotPoint>>,
    /// Lines that are no JSON object: a line being written, or damage.
    pub unreadable: usize,
}

/// Bytes of a file, none where it is not there.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Text of a file, none where it is not there.
pub(super) fn text(path: &Path) -> Result<Option<String>> {
    Ok(bytes(path)?.map(|b| String::from_utf8_lossy(&b).into_owned()))
}

/// A JSON object, none where the file is not there.
pub(super) fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    let map = serde_json::from_slice(&bytes).map_err(|e| Error::artifact(path, format!("not a JSON object: {e}")))?;
    Ok(Some(map))
}

/// The values of an object that are not null, each with its key, as `settings` in the tables of a sweep spells them.
pub(super) fn words(object: &Map<String, Value>) -> String {
    let value = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |x| x.to_string()),
        other => other.to_string(),
    };
    let given = object.iter().filter(|(_, v)| !v.is_null());
    given.map(|(key, v)| format!("{key} {}", value(v))).collect::<Vec<_>>().join(", ")
}

/// The metrics of a run folder.
pub(super) fn metrics(folder: &Path) -> Result<MetricCurves> {
    let mut metrics = MetricCurves::default();
    for line in text(&folder.join(run::METRICS))?.unwrap_or_default().lines() {
        if line.trim().is_empty() {
            continue;
        }
        let Ok(Value::Object(map)) = serde_json::from_str(line) else {
            metrics.unreadable += 1;
            continue;
        };
        let Some(x) = map.get("step").and_then(Value::as_f64) else { continue };
        for (key, value) in &map {
            let Some(y) = value.as_f64() else { continue };
            let of = |prefix: &str| key.strip_prefix(prefix);
            let (side, key) = match (of(metric::EVAL_PREFIX), of(metric::VALIDATION_PREFIX)) {
                (Some(key), _) => (&mut metrics.eval, key),
                (None, Some(key)) => (&mut metrics.validation, key),
                (None, None) => (&mut metrics.train, key.as_str()),
            };
            side.entry(key.to_string()).or_default().push(PlotPoint { x, y, interval: None });
        }
    }
    // A resumed run may write a step again: the later line counts.
    let MetricCurves { train, eval, validation, .. } = &mut metrics;
    for line in [train, eval, validation].into_iter().flat_map(BTreeMap::values_mut) {
        line.sort_by(|a, b| a.x.total_cmp(&b.x));
        line.reverse();
        line.dedup_by(|a, b| a.x == b.x);
        line.reverse();
    }
    Ok(metrics)
}

/// One row of `codes.parquet`.
pub(super) struct Code {
    pub code: i64,
    pub usage_prior: f64,
    pub usage_posterior: f64,
    pub norm: f64,
    /// For `lpc-reliable` only.
    pub flip_rate: Option<f64>,
    pub top: Vec<String>,
    pub bottom: Vec<String>,
}

/// The codes of a run, and how each source uses them with the prior.
#[derive(Default)]
pub(super) struct CodeTable {
    pub rows: Vec<Code>,
    /// Source and its share of each code.
    pub by_source: Vec<(String, Vec<f64>)>,
}

/// A column of a table as numbers; missing where it is not there or is no number.
pub(super) fn numbers(frame: &DataFrame, name: &str) -> Vec<Option<f64>> {
    let column = frame.column(name).ok().and_then(|c| c.cast(&DataType::Float64).ok());
    match column.as_ref().and_then(|c| c.f64().ok()) {
        Some(values) => values.iter().collect(),
        None => vec![None; frame.height()],
    }
}

/// A column of a table as text; empty where it is not there.
pub(super) fn texts(frame: &DataFrame, name: &str) -> Vec<String> {
    let column = frame.column(name).ok().and_then(|c| c.cast(&DataType::String).ok());
    match column.as_ref().and_then(|c| c.str().ok()) {
        Some(values) => values.iter().map(|v| v.unwrap_or_default().to_string()).collect(),
        None => vec![String::new(); frame.height()],
    }
}

/// A column of token lists; a plain string counts as one token.
fn tokens(frame: &DataFrame, name: &str) -> Vec<Vec<String>> {
    let Ok(column) = frame.column(name) else { return vec![Vec::new(); frame.height()] };
    if column.list().is_err() {
        return texts(frame, name).into_iter().map(|t| if t.is_empty() { vec![] } else { vec![t] }).collect();
    }
    let row = |i: usize| match column.get(i) {
        Ok(AnyValue::List(items)) => match items.cast(&DataType::String) {
            Ok(items) => items.str().map(|s| s.iter().flatten().map(String::from).collect()).unwrap_or_default(),
            Err(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    (0..frame.height()).map(row).collect()
}

/// A run's posteriors with the statistics of its codes, none where there are no posteriors or no codes.
pub(super) fn posteriors(folder: &Path) -> Result<Option<(DataFrame, CodeReading)>> {
    let path = folder.join(run::POSTERIORS);
    if !path.is_file() {
        return Ok(None);
    }
    let frame = artifact::read_parquet(&path)?;
    Ok(analysis::read_codes(&frame)?.map(|reading| (frame, reading)))
}

/// The codes of a run folder, none where it has none.
pub(super) fn codes(folder: &Path) -> Result<Option<CodeTable>> {
    let path = folder.join(run::CODES);
    if !path.is_file() {
        return Ok(None);
    }
    let frame = artifact::read_parquet(&path)?;
    let number = |name: &str| numbers(&frame, name).into_iter().map(|v| v.unwrap_or(f64::NAN)).collect::<Vec<_>>();
    let (code, norm) = (number(codes::CODE), number(codes::NORM));
    let (prior, posterior) = (number(codes::USAGE_PRIOR), number(codes::USAGE_POSTERIOR));
    let flip_rates = numbers(&frame, codes::FLIP_RATE);
    let (top, bottom) = (tokens(&frame, codes::TOP_TOKENS), tokens(&frame, codes::BOTTOM_TOKENS));
    let rows = top.into_iter().zip(bottom).enumerate().map(|(i, (top, bottom))| Code {
        code: code[i] as i64,
        usage_prior: prior[i],
        usage_posterior: posterior[i],
        norm: norm[i],
        flip_rate: flip_rates[i],
        top,
        bottom,
    });
    let rows = rows.collect();
    let mut by_source = Vec::new();
    for name in frame.get_column_names() {
        if let Some(source) = name.strip_prefix(&*codes::by_source(codes::USAGE_PRIOR, "")) {
            by_source.push((source.to_string(), number(name)));
        }
    }
    by_source.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some(CodeTable { rows, by_source }))
}
