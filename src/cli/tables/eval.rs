//! `eval` as text for people.

use std::fmt::Write;

use super::{columns, p_value, percent, range, reasons};
use crate::analysis::Interval;
use crate::pipeline::eval::{Difference, EvalSummary, TaskResult};

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
        let _ = writeln!(out, "{}", against(d));
        if d.unpaired > 0 {
            let _ = writeln!(out, "  {} items are not in the other evaluation", d.unpaired);
        }
    }
    if !s.out.is_empty() {
        let _ = writeln!(out, "written: {}", s.out);
    }
    out
}

/// A difference from the other model.
fn against(d: &Difference) -> String {
    let Interval { estimate, low, high, n } = d.difference.interval;
    let interval = match low.is_finite() && high.is_finite() {
        true => format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high),
        false => "no interval".into(),
    };
    format!(
        "{} {}: {:+.1} points from the other model ({interval}), p {}, over {n} items",
        d.task,
        d.metric,
        100.0 * estimate,
        p_value(Some(d.difference.p), 3),
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::PairedDifference;

    #[test]
    fn a_small_p_value_is_not_told_as_zero() {
        let of = |p, low| {
            let interval = Interval { estimate: 0.021, low, high: 0.032, n: 100 };
            against(&Difference {
                task: "t".into(),
                metric: "acc".into(),
                difference: PairedDifference { interval, p },
                unpaired: 0,
            })
        };
        let told = "t acc: +2.1 points from the other model (+1.0 to +3.2), p";
        assert_eq!(of(0.0635, 0.01), format!("{told} 0.064, over 100 items"));
        assert_eq!(of(0.001, 0.01), format!("{told} 0.001, over 100 items"));
        assert_eq!(of(1.0 / 10_001.0, 0.01), format!("{told} < 0.001, over 100 items"));
        let one = of(f64::NAN, f64::NAN);
        assert_eq!(one, "t acc: +2.1 points from the other model (no interval), p -, over 100 items");
    }
}
