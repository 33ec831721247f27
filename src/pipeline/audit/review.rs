//! `review.csv`: the pairs whose label is most likely wrong, for a person to decide about.

use std::path::Path;

use polars::prelude::DataFrame;

use crate::audit::verdicts::{self, ReviewRow};
use crate::audit::{Audit, AuditedPair};
use crate::error::{Error, Result};
use crate::message::MessageColumn;
use crate::pipeline::recipe::AuditConfig;
use crate::prompt;
use crate::schema::{audit, col};

/// Refuses to replace a table in which a person has decided about pairs.
///
/// # Errors
/// [`Error::Artifact`] where the folder has a table with a verdict, or one that cannot be read.
pub(super) fn without_verdicts(out: &Path) -> Result<()> {
    let path = out.join(audit::REVIEW);
    if std::fs::symlink_metadata(&path).is_err() {
        return Ok(());
    }
    let found = match verdicts::given(&path) {
        Ok(0) => return Ok(()),
        Ok(1) => "holds the verdict of a person on 1 pair".to_string(),
        Ok(n) => format!("holds the verdicts of a person on {n} pairs"),
        Err(error) => format!("cannot be read, and may hold a person's verdicts ({error})"),
    };
    let hint = format!("give them with --verdicts {}, or move the file away", path.display());
    Err(Error::artifact(path, found).with_hint(hint))
}

/// Writes the table, worst pairs first; returns how many there are, and how many above the threshold it leaves out.
///
/// # Errors
/// As [`without_verdicts`] and [`verdicts::write`].
pub(super) fn write(out: &Path, found: &Audit, pairs: &DataFrame, config: &AuditConfig) -> Result<(u64, u64)> {
    let open = |name: &str| -> Result<MessageColumn> { MessageColumn::open(pairs.column(name)?) };
    let (prompts, chosen, rejected) = (open(col::PROMPT)?, open(col::CHOSEN)?, open(col::REJECTED)?);
    let mut worst: Vec<(usize, &AuditedPair)> = found.pairs.iter().enumerate().collect();
    worst.retain(|(_, pair)| pair.p_wrong > config.threshold);
    worst.sort_by_key(|(_, pair)| pair.rank);
    let left_out = worst.len().saturating_sub(config.worst);
    worst.truncate(config.worst);
    let rows: Vec<ReviewRow> = worst
        .into_iter()
        .map(|(i, pair)| ReviewRow {
            id: pair.signals.id.clone(),
            verdict: String::new(),
            p_wrong: pair.p_wrong,
            reasons: pair.reasons.join("; "),
            prompt: plain(&prompts, i),
            chosen: plain(&chosen, i),
            rejected: plain(&rejected, i),
        })
        .collect();
    // Again: a person may have begun while the models were trained.
    without_verdicts(out)?;
    verdicts::write(&out.join(audit::REVIEW), &rows)?;
    Ok((rows.len() as u64, left_out as u64))
}

/// The text of a row, so that a spreadsheet does not take it for a formula.
fn plain(column: &MessageColumn, row: usize) -> String {
    no_formula(&prompt::text(column.row(row)))
}

fn no_formula(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_texts() {
        assert_eq!(no_formula("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(no_formula("- a list"), "'- a list");
        assert_eq!(no_formula("a = b"), "a = b");
    }
}
