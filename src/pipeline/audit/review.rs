//! `review.csv`: the pairs whose label is most likely wrong, for a person to decide about.

use std::path::Path;

use polars::prelude::DataFrame;

use crate::audit::verdicts::{self, ReviewRow};
use crate::audit::{Audit, AuditedPair};
use crate::error::Result;
use crate::message::MessageColumn;
use crate::pipeline::recipe::AuditConfig;
use crate::schema::{audit, col};

/// Writes the table, worst pairs first; returns how many there are.
///
/// # Errors
/// As [`verdicts::write`].
pub(super) fn write(out: &Path, found: &Audit, pairs: &DataFrame, config: &AuditConfig) -> Result<u64> {
    let open = |name: &str| -> Result<MessageColumn> { MessageColumn::open(pairs.column(name)?) };
    let (prompts, chosen, rejected) = (open(col::PROMPT)?, open(col::CHOSEN)?, open(col::REJECTED)?);
    let mut worst: Vec<(usize, &AuditedPair)> = found.pairs.iter().enumerate().collect();
    worst.retain(|(_, pair)| pair.p_wrong > config.threshold);
    worst.sort_by_key(|(_, pair)| pair.rank);
    worst.truncate(config.worst);
    let rows: Vec<ReviewRow> = worst
        .into_iter()
        .map(|(i, pair)| ReviewRow {
            id: pair.signals.id.clone(),
            verdict: String::new(),
            p_wrong: pair.p_wrong,
            reasons: pair.reasons.join("; "),
            prompt: prompts.text(i),
            chosen: chosen.text(i),
            rejected: rejected.text(i),
        })
        .collect();
    verdicts::write(&out.join(audit::REVIEW), &rows)?;
    Ok(rows.len() as u64)
}
