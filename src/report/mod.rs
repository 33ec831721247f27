//! A run, sweep or audit folder -> self-contained `report.html` and `report.md`.
//!
//! The page loads no other file and runs no script: it has tables, inline SVG, and one style sheet for light and dark.
//! All text from the data (sources, tokens, error messages) is escaped. The same folder gives the same bytes.

mod audit_page;
mod codes;
mod load;
mod page;
mod plot;
mod run_page;
mod sweep_cells;
mod sweep_page;
mod text;

#[cfg(test)]
mod fixture;

use std::path::{Path, PathBuf};

use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::report::{HTML, MARKDOWN};
use crate::schema::{audit, run, sweep};

use crate::analysis::{CodeAccuracy, CodeReading};
pub(crate) use text::{visible, visible_lines};

/// A report that was written, and what was read for it.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenReport {
    /// Path of the page.
    pub page: PathBuf,
    /// A run's codes; `None` for a sweep, and where the run has no posteriors or no codes.
    pub codes: Option<CodeReading>,
}

/// Writes `report.html` and `report.md` into a run or sweep folder; gives the path of the page.
/// A folder that is still being written is reported as far as it has come.
///
/// # Errors
/// [`Error::Artifact`] where the folder is neither a run nor a sweep, or a file in it is damaged;
/// [`Error::Frame`] and [`Error::Run`] where a column of the posteriors is; [`Error::Io`].
pub fn write(dir: &Path) -> Result<PathBuf> {
    Ok(write_with(dir, None)?.page)
}

/// [`write()`], with each code's accuracy on the pairs of each planted preference, where that is known of a run.
///
/// # Errors
/// As [`write()`].
pub fn write_with(dir: &Path, preferences: Option<&CodeAccuracy>) -> Result<WrittenReport> {
    let mut codes = None;
    let page = if dir.join(sweep::RESULTS).is_file() {
        sweep_page::page(dir)?
    } else if dir.join(audit::AUDIT).is_file() {
        audit_page::page(dir)?
    } else if dir.join(run::METRICS).is_file() || dir.join(run::SUMMARY).is_file() {
        codes = load::reading(dir)?;
        run_page::page(dir, codes.as_ref(), preferences)?
    } else {
        return Err(Error::artifact(dir, "neither a run folder (metrics.jsonl) nor a sweep folder (results.parquet)")
            .with_hint("give the folder that `train --out` or `noise-sweep --out` wrote"));
    };
    artifact::write_bytes(dir.join(MARKDOWN), page.to_markdown().as_bytes())?;
    let path = dir.join(HTML);
    artifact::write_bytes(&path, page.to_html().as_bytes())?;
    Ok(WrittenReport { page: path, codes })
}

#[cfg(test)]
mod tests;
