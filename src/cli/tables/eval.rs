//! `eval` as text for people.

use std::fmt::Write;

use super::{columns, percent, range, reasons};
use crate::pipeline::eval::{EvalSummary, TaskResult};

/// `eval`.
pub fn eval(s: &EvalSummary) -> String {
    let mut rows = Vec::new();
    for (name, result) in &s.tasks {
        for metric in &result.metrics {
            let metric_name = match metric.filter.as_str() {
                "none" => metric.name.clone(),
                filter => format!("{}, {filter}", metric.name),
            };
            let stderr = if metric.stderr.is_finite() { percent(metric.stderr) } else { "-".into() };
            let version = result.version.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
            rows.push(vec![
                name.clone(),
                version,
                result.shots.to_string(),
                metric_name,
                percent(metric.value),
                stderr,
                result.n.to_string(),
            ]);
        }
    }
    let mut out = columns(&["task", "version", "shots", "metric", "value", "standard error", "items"], &rows);
    for (name, result) in &s.tasks {
        out += &details(name, result);
    }
    for d in &s.against {
        let interval = &d.difference.interval;
        let _ = writeln!(
            out,
            "{} {}: {:+.1} points from the other model ({:+.1} to {:+.1}), p {:.3}, over {} items",
            d.task,
            d.metric,
            100.0 * interval.estimate,
            100.0 * interval.low,
            100.0 * interval.high,
            d.difference.p,
            interval.n,
        );
        if d.unpaired > 0 {
            let _ = writeln!(out, "  {} items are not in the other evaluation", d.unpaired);
        }
    }
    if !s.out.is_empty() {
        let _ = writeln!(out, "written: {}", s.out);
    }
    out
}

fn details(name: &str, result: &TaskResult) -> String {
    let mut out = String::new();
    if let Some(reward) = &result.reward {
        let _ = writeln!(out, "\n{name}: the reward is the {reward}");
    }
    reasons(&mut out, &format!("{name}: left out"), &result.left_out);
    if let Some(truncated) = result.truncated.filter(|n| *n > 0) {
        let _ = writeln!(out, "{name}: {truncated} of {} items were cut to the greatest length", result.n);
    }
    if result.groups.len() > 1 {
        let interval = |low: f64, high: f64| if low.is_finite() { range(low, high) } else { "-".into() };
        let rows: Vec<Vec<String>> = result
            .groups
            .iter()
            .map(|g| {
                let a = &g.accuracy;
                let name = format!("{} {}", g.by, g.name);
                vec![name, a.n.to_string(), percent(a.estimate), interval(a.low, a.high)]
            })
            .collect();
        let _ = write!(out, "\n{}", columns(&[&format!("part of {name}"), "items", "accuracy", "95 %"], &rows));
    }
    out
}
