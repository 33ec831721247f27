//! What a run's codes mean, read from its posteriors and, where it is there, the prepared folder.

use std::path::Path;

use polars::prelude::DataFrame;
use serde::Serialize;

use super::config::ReportOptions;
use super::load;
use crate::analysis::projection::tsne::ITERATIONS;
use crate::analysis::reading::SPLIT;
use crate::analysis::tables::texts;
use crate::analysis::{
    Associations, CodeReading, Method, PairFacts, Projection, Representatives, associate, pair_labels, project,
    representatives,
};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::schema::report::PROJECTION;
use crate::schema::{col, run};

/// What the codes of a run mean.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CodeMeaning {
    /// The prepared folder from which texts, models, scores and lengths of prompts were read.
    pub prepared: PreparedFolder,
    /// Codes against labels and quantities.
    pub associations: Associations,
    /// The pairs that represent each code in use.
    pub representatives: Vec<Representatives>,
    /// The posteriors in the plane; `None` where they were not laid out, or all are the same.
    pub projection: Option<Projection>,
}

/// The prepared folder of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreparedFolder {
    /// Its path, as the run's configuration has it.
    pub folder: Option<String>,
    /// Pairs of the run that it has.
    pub found: u64,
    /// What is missing, and what is left out for it.
    pub note: Option<String>,
}

impl PreparedFolder {
    fn new(folder: Option<String>, facts: Option<&PairFacts>, pairs: usize) -> PreparedFolder {
        let found = facts.map_or(0, |facts| facts.found);
        let left_out = "prompt lengths, scores, models and texts of";
        let note = match (&folder, facts) {
            (None, _) => {
                Some(format!("The run does not say where its prepared folder is; {left_out} its pairs are left out."))
            }
            (Some(folder), None) => Some(format!(
                "The prepared folder {folder} has no pairs, or is not there; {left_out} the run's pairs are left out."
            )),
            (Some(folder), Some(_)) if found < pairs as u64 => Some(format!(
                "The prepared folder {folder} has {found} of the run's {pairs} pairs; {left_out} the others are left out."
            )),
            _ => None,
        };
        PreparedFolder { folder, found, note }
    }
}

/// The prepared folder that the run's configuration names.
fn data_folder(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(run::CONFIG);
    let Some(text) = load::text(&path)? else { return Ok(None) };
    let config: toml::Table = text.parse().map_err(|e| Error::artifact(&path, format!("not a configuration: {e}")))?;
    let data = config.get("train").and_then(|train| train.get("data")).and_then(toml::Value::as_str);
    let located = |data: &str| Manifest::read(dir).map_or_else(|_| data.into(), |manifest| manifest.located(dir, data));
    Ok(data.filter(|data| !data.is_empty()).map(located))
}

/// Reads what the codes mean, and writes the coordinates of the projection into the run folder; without a projection
/// those of an earlier report are removed.
pub(super) fn read(
    dir: &Path,
    posteriors: &DataFrame,
    reading: &CodeReading,
    options: &ReportOptions<'_>,
) -> Result<CodeMeaning> {
    let ids = texts(posteriors, col::ID)?;
    let mut represented = representatives(posteriors, &reading.used, SPLIT)?;
    let folder = data_folder(dir)?;
    let wanted = Representatives::ids(&represented);
    let facts = match &folder {
        Some(folder) => PairFacts::read(Path::new(folder), &ids, &wanted)?,
        None => None,
    };
    if let Some(facts) = &facts {
        Representatives::add_texts(&mut represented, &facts.texts);
    }
    let mut labels = pair_labels(posteriors)?;
    labels.extend(options.planted.iter().cloned());
    let associations = associate(posteriors, reading.codes, &labels, facts.as_ref(), options.seed)?;
    Ok(CodeMeaning {
        prepared: PreparedFolder::new(folder, facts.as_ref(), ids.len()),
        associations,
        representatives: represented,
        projection: projection(dir, posteriors, &labels, options)?,
    })
}

fn projection(
    dir: &Path,
    posteriors: &DataFrame,
    labels: &[(String, crate::analysis::Labels)],
    options: &ReportOptions<'_>,
) -> Result<Option<Projection>> {
    let (config, progress) = (&options.config, options.progress);
    if config.projection == Method::Tsne {
        progress.begin("t-SNE", Some(ITERATIONS as u64));
    }
    let found = project(posteriors, labels, config.projection, config.points, options.seed, &|| progress.advance(1));
    if config.projection == Method::Tsne {
        progress.end();
    }
    let (found, path) = (found?, dir.join(PROJECTION));
    match &found {
        Some(found) => artifact::write_parquet(path, &mut found.frame(posteriors)?)?,
        None => artifact::remove(&path)?,
    }
    Ok(found)
}
