//! A run, sweep or audit folder -> self-contained `report.html` and `report.md`.
//!
//! The page loads no other file and runs no script: it has tables, inline SVG, and one style sheet for light and dark.
//! All text from the data (sources, tokens, texts, error messages) is escaped. The same folder gives the same bytes.

mod associations;
mod audit_page;
mod codes;
mod config;
mod load;
mod meaning;
mod page;
mod plot;
mod projection;
mod run_page;
mod scatter;
mod sweep_cells;
mod sweep_page;
mod sweep_tables;
mod text;

#[cfg(test)]
mod fixture;

use std::path::{Path, PathBuf};

use crate::analysis::CodeReading;
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::schema::report::{HTML, MARKDOWN};
use crate::schema::{audit, prepared, run, sweep};
use crate::settings::Settings;

pub use config::{ReportConfig, ReportOptions};
pub use meaning::{CodeMeaning, PreparedFolder};
use run_page::KnownCodes;
pub(crate) use text::{visible, visible_lines};

/// A report that was written, and what was read for it.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenReport {
    /// Path of the page.
    pub page: PathBuf,
    /// A run's codes; `None` for a sweep, and where the run has no posteriors or no codes.
    pub codes: Option<CodeReading>,
    /// What they mean; `None` where `codes` is.
    pub meaning: Option<CodeMeaning>,
}

/// Commands whose folders have a page.
const REPORTED: [&str; 3] = ["train", "noise-sweep", "audit"];

/// Writes `report.html` and `report.md` into a run or sweep folder, and for a run with codes `projection.parquet`; gives
/// the path of the page. A folder that is still being written is reported as far as it has come.
///
/// # Errors
/// [`Error::Artifact`] where the folder is neither a run nor a sweep, or a file in it, or in the prepared folder that a
/// run names, is damaged; [`Error::Frame`] and [`Error::Run`] where a column of the posteriors is; [`Error::Io`].
pub fn write(dir: &Path) -> Result<PathBuf> {
    Ok(write_with(dir, &ReportOptions::default())?.page)
}

/// [`write()`] with options.
///
/// # Errors
/// As [`write()`], and [`Error::Config`] for settings that are refused.
pub fn write_with(dir: &Path, options: &ReportOptions<'_>) -> Result<WrittenReport> {
    options.config.check()?;
    let (mut codes, mut meaning) = (None, None);
    // A folder that is still being written has no manifest.
    let stage = dir.join(prepared::MANIFEST).is_file().then(|| Manifest::read(dir)).transpose()?.map(|m| m.stage);
    if let Some(other) = stage.as_deref().filter(|stage| !REPORTED.contains(stage)) {
        return Err(Error::artifact(dir, format!("written by `{other}`: reports are of runs, sweeps and audits"))
            .with_hint("lpc-pipe inspect shows what is in it"));
    }
    let page = if dir.join(sweep::RESULTS).is_file() {
        sweep_page::page(dir)?
    } else if dir.join(audit::AUDIT).is_file() {
        audit_page::page(dir)?
    } else if dir.join(run::METRICS).is_file() || dir.join(run::SUMMARY).is_file() {
        if let Some((posteriors, reading)) = load::posteriors(dir)? {
            meaning = Some(meaning::read(dir, &posteriors, &reading, options)?);
            codes = Some(reading);
        }
        let (preferences, method) = (options.preferences, options.config.projection);
        let known = codes.as_ref().zip(meaning.as_ref());
        run_page::page(dir, known.map(|(reading, meaning)| KnownCodes { reading, meaning, preferences, method }))?
    } else {
        return Err(Error::artifact(dir, "neither a run folder (metrics.jsonl) nor a sweep folder (results.parquet)")
            .with_hint("give the folder that `train --out` or `noise-sweep --out` wrote"));
    };
    artifact::write_bytes(dir.join(MARKDOWN), page.to_markdown().as_bytes())?;
    let path = dir.join(HTML);
    artifact::write_bytes(&path, page.to_html().as_bytes())?;
    Ok(WrittenReport { page: path, codes, meaning })
}

#[cfg(test)]
mod tests;
