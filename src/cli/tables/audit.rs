//! `audit` as text for people.

use std::fmt::Write;

use super::{columns, percent, range};
use crate::pipeline::audit::AuditSummary;

/// `audit`.
pub fn audit(s: &AuditSummary) -> String {
    let mut out = format!(
        "{}: {} training pairs of {}\nestimated rate of wrong labels: {} ({})\n",
        s.out,
        s.pairs,
        s.data,
        percent(s.noise_rate),
        range(s.noise_rate_low, s.noise_rate_high),
    );
    if s.noise_rate_by_source.len() > 1 {
        let rows: Vec<Vec<String>> =
            s.noise_rate_by_source.iter().map(|(source, rate)| vec![source.clone(), percent(*rate)]).collect();
        let _ = write!(out, "\n{}\n", columns(&["source", "wrong labels"], &rows));
    }
    let _ = writeln!(out, "{} labels are wrong with a probability above one half", s.likely_wrong);
    if let Some(warning) = &s.warning {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    if let Some(found) = &s.detection {
        let _ = writeln!(
            out,
            "\nof the {} labels that prepare flipped: AUROC {:.3} (expected of a ranker that is right in {}: {:.3}), \
             average precision {:.3}, {} of as many highest ranks; calibration error {:.3}",
            found.flipped,
            found.auroc,
            percent(found.accuracy),
            found.expected_auroc,
            found.average_precision,
            percent(found.precision_at_flipped),
            found.calibration_error,
        );
    }
    if let Some(cleaned) = &s.cleaned {
        let _ = writeln!(
            out,
            "\ncleaned: {} training pairs, {} left out, {} with their sides changed, {} weighted",
            cleaned.pairs, cleaned.dropped, cleaned.flipped, cleaned.weighted,
        );
    }
    if let Some(n) = s.for_review {
        let pairs = match s.not_for_review {
            Some(left_out) if left_out > 0 => {
                format!("the worst {n} of {} pairs above the threshold (audit.worst)", n + left_out)
            }
            _ => format!("{n} pairs"),
        };
        let _ = writeln!(out, "\nreview.csv: {pairs}; fill in keep, flip or drop, and give it back with --verdicts");
    }
    out
}
