//! `noise-sweep`: its cells over their seeds, and the areas under their curves.

use std::time::Duration;

use super::super::lines::clock;
use super::{Column, maybe, p_value, percent, range, table};
use crate::pipeline::sweep::{CellPlan, CurveRow, SummaryRow, SweepOutcome, SweepPlan, Varied};
use crate::schema::name_of;

/// p-value, after correction, below which a difference has a star.
const LEVEL: f64 = 0.05;

/// Objective, latent and its size, and settings that are not the recipe's.
fn named(varied: &Varied) -> String {
    let codes = if varied.codes > 0 { format!(" K={}", varied.codes) } else { String::new() };
    let settings = varied.settings.as_ref().map_or_else(String::new, |words| format!(", {words}"));
    format!("{} {}{codes}{settings}", name_of(&varied.objective), name_of(&varied.latent))
}

/// Share of the training pairs on which the noise fell, and how it did: its model where it is another than the first
/// row's, the marker, and the seed where it is not 0.
fn affected(row: &SummaryRow, first: &SummaryRow) -> String {
    let varied = &row.varied;
    let mut text = row.noise_share.map_or_else(|| format!("rate {}", varied.noise_p), percent);
    if varied.noise_kind != first.varied.noise_kind {
        text += &format!(" {}", name_of(&varied.noise_kind));
    }
    if varied.marked {
        text += " marked";
    }
    if row.noise_seed != 0 {
        text += &format!(" seed {}", row.noise_seed);
    }
    text
}

/// An interval over seeds, or why there is none.
fn over_seeds(low: Option<f64>, high: Option<f64>, n: u32) -> String {
    match (low, high) {
        (Some(low), Some(high)) => range(low, high),
        _ => format!("{n} seed{}: no interval", if n == 1 { "" } else { "s" }),
    }
}

/// A difference in points with its interval, with a star where the corrected p-value is below [`LEVEL`].
fn points(difference: Option<f64>, low: Option<f64>, high: Option<f64>, p_holm: Option<f64>) -> String {
    let Some(difference) = difference else { return "-".into() };
    let star = if p_holm.is_some_and(|p| p < LEVEL) { "*" } else { "" };
    let interval = match (low, high) {
        (Some(low), Some(high)) => format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high),
        _ => "no interval".into(),
    };
    format!("{:+.1}{star} ({interval})", 100.0 * difference)
}

/// The cells over their seeds.
pub(super) fn summary_rows(rows: &[SummaryRow]) -> String {
    let of: [Column<'_, SummaryRow>; 7] = [
        ("", &|r| named(&r.varied)),
        ("affected", &|r| affected(r, &rows[0])),
        ("accuracy", &|r| maybe(r.eval_accuracy)),
        ("seeds", &|r| r.n_seeds.to_string()),
        ("95 % over seeds", &|r| over_seeds(r.eval_accuracy_low, r.eval_accuracy_high, r.n_seeds)),
        ("points over none (95 %)", &|r| {
            points(r.difference, r.difference_low, r.difference_high, r.difference_p_holm)
        }),
        ("mislabel AUROC", &|r| r.audit_auroc.map_or_else(|| "-".into(), |a| format!("{a:.3}"))),
    ];
    let mut text = table(rows, &of);
    if rows.iter().any(|r| r.difference.is_some()) {
        text += "* p < 0.05 after Holm's correction for all comparisons of the table\n";
    }
    text
}

/// The cells against the named baseline; nothing without one.
fn baseline_rows(rows: &[SummaryRow]) -> String {
    let Some(baseline) = rows.iter().find_map(|r| r.baseline.as_ref()) else { return String::new() };
    let of: [Column<'_, &SummaryRow>; 5] = [
        ("", &|r| named(&r.varied)),
        ("affected", &|r| affected(r, &rows[0])),
        ("seeds", &|r| r.n_seeds.to_string()),
        ("points over it (95 %)", &|r| {
            let (low, high) = (r.difference_baseline_low, r.difference_baseline_high);
            points(r.difference_baseline, low, high, r.difference_baseline_p_holm)
        }),
        ("p (Holm)", &|r| p_value(r.difference_baseline_p_holm, 4)),
    ];
    let compared: Vec<&SummaryRow> = rows.iter().filter(|r| r.difference_baseline.is_some()).collect();
    format!("\nAgainst the baseline {baseline}\n\n{}", table(&compared, &of))
}

/// The areas under the curves; nothing for a single noise rate.
fn curve_rows(rows: &[CurveRow]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let of: [Column<'_, CurveRow>; 5] = [
        ("", &|r| named(&r.varied)),
        ("noise", &|r| {
            let seed = if r.noise_seed == 0 { String::new() } else { format!(" seed {}", r.noise_seed) };
            format!("{}{}{seed}", name_of(&r.varied.noise_kind), if r.varied.marked { " marked" } else { "" })
        }),
        ("accuracy", &|r| maybe(r.accuracy_area)),
        ("seeds", &|r| r.n_seeds.to_string()),
        ("95 % over seeds", &|r| over_seeds(r.accuracy_area_low, r.accuracy_area_high, r.n_seeds)),
    ];
    format!(
        "\nMean accuracy over noise rates of {} to {}: the area under the lines through {} rates\n\n{}",
        first.noise_p_low,
        first.noise_p_high,
        first.n_rates,
        table(rows, &of)
    )
}

/// `noise-sweep`.
pub fn sweep(s: &SweepOutcome) -> String {
    format!(
        "{}{}{}\n{} cells run, {} kept from before\nwritten: {}\n",
        summary_rows(&s.summary),
        baseline_rows(&s.summary),
        curve_rows(&s.curves),
        s.cells_run,
        s.cells_reused,
        s.folder.display()
    )
}

/// `noise-sweep --dry-run`.
pub fn sweep_plan(p: &SweepPlan) -> String {
    let time = |seconds: f64| clock(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    let of: [Column<'_, CellPlan>; 3] = [
        ("cell", &|c| c.name.clone()),
        ("time", &|c| if c.finished { "finished".into() } else { time(c.seconds) }),
        ("memory", &|c| format!("{:.0} MiB", c.memory_mb)),
    ];
    let pending = p.cells.iter().filter(|c| !c.finished).count();
    let budget = p.budget_mb.map_or_else(String::new, |mb| format!(" within {mb:.0} MiB"));
    format!(
        "{}\n{pending} cells to run, {} at once{budget}: {} one after the other, {} of it for reference \
         log-probabilities, which cells share; preparing the data comes on top\n",
        table(&p.cells, &of),
        p.jobs,
        time(p.seconds),
        time(p.reference_seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interval_says_why_and_stars_follow_the_corrected_p() {
        assert_eq!(over_seeds(None, None, 2), "2 seeds: no interval");
        assert_eq!(over_seeds(None, None, 1), "1 seed: no interval");
        assert_eq!(over_seeds(Some(0.5), Some(0.625), 3), "50.0 % to 62.5 %");
        let of = |p| points(Some(0.021), Some(0.01), Some(0.032), p);
        assert_eq!(of(Some(0.049)), "+2.1* (+1.0 to +3.2)");
        assert_eq!(of(Some(0.05)), "+2.1 (+1.0 to +3.2)");
        assert_eq!(of(None), "+2.1 (+1.0 to +3.2)");
        assert_eq!(points(None, None, None, Some(0.01)), "-");
        assert_eq!(points(Some(0.021), None, None, Some(1.0)), "+2.1 (no interval)", "of one prompt");
    }
}
