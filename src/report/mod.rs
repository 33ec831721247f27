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
use crate::error::{Error, Fault, Result};
use crate::manifest::Manifest;
use crate::schema::report::{HTML, MARKDOWN};
use crate::schema::{audit, prepared, run, sweep};
use crate::settings::{Settings, Table, joined, refuse};

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

/// Writes `report.html` and `report.md` into a run, sweep or audit folder, and for a run with codes `projection.parquet`; gives
/// the path of the page. A folder that is still being written is reported as far as it has come.
///
/// # Errors
/// [`Error::Artifact`] where the folder is none of these, or a file in it, or in the prepared folder that a
/// run names, is damaged; [`Error::Frame`] and [`Error::Run`] where a column of the posteriors is; [`Error::Io`].
pub fn write(dir: &Path) -> Result<PathBuf> {
    Ok(write_with(dir, &ReportOptions::default())?.page)
}

/// Whether settings and seed have an effect on the page of a folder: on that of a run they have, whose posteriors it
/// lays out and tests; those of a sweep and of an audit have none.
pub fn takes_settings(dir: &Path) -> bool {
    !dir.join(sweep::RESULTS).is_file() && !dir.join(audit::AUDIT).is_file()
}

/// A fault of a setting or the seed that was given for the page of a sweep or of an audit.
pub fn without_effect(key: &str) -> Fault {
    Fault::new(key, "has no effect on the page of a sweep or an audit: it is for the posteriors of a run")
}

/// [`write()`] with options.
///
/// # Errors
/// As [`write()`], and [`Error::Config`] for settings that are refused.
pub fn write_with(dir: &Path, options: &ReportOptions<'_>) -> Result<WrittenReport> {
    options.config.check()?;
    if !takes_settings(dir) {
        let given = options.config.given();
        refuse(given.iter().map(|name| without_effect(&joined(ReportConfig::KEY, name))).collect())?;
    }
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
        let message = "neither a run folder (metrics.jsonl) nor a sweep folder (results.parquet) nor an audit folder \
                       (audit.parquet)";
        return Err(Error::artifact(dir, message)
            .with_hint("give the folder that `train --out`, `noise-sweep --out` or `audit --out` wrote"));
    };
    artifact::write_bytes(dir.join(MARKDOWN), page.to_markdown().as_bytes())?;
    let path = dir.join(HTML);
    artifact::write_bytes(&path, page.to_html().as_bytes())?;
    Ok(WrittenReport { page: path, codes, meaning })
}

#[cfg(test)]
mod tests;
