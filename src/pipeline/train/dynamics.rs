//! `dynamics.parquet`: the margin of every pair after each epoch.

use std::path::Path;

use polars::prelude::*;

use crate::artifact;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::objective::ObjectiveConfig;
use crate::policy::Policy;
use crate::posteriors::{Margins, SplitExamples};
use crate::schema::{col, run};
use crate::train::Ranks;
use crate::train::ranks::work;
use crate::train::reference::Reference;

/// Evaluates all pairs at the end of an epoch and adds their margins to the file, in place of those of this and later
/// epochs: a run that goes on from a checkpoint takes their steps again.
///
/// # Errors
/// [`Error::Artifact`] where the file lacks an earlier epoch; those of evaluating and writing.
pub(super) fn record(
    out: &Path,
    epoch: usize,
    policy: &Policy<f32>,
    splits: &[Split],
    reference: &Reference,
    objective: &ObjectiveConfig,
    ranks: &Ranks,
) -> Result<()> {
    let (mut ids, mut names, mut margins) = (Vec::new(), Vec::new(), Vec::new());
    for (split, reference) in splits.iter().zip(reference) {
        let examples = work::examine(policy, &split.rows, ranks, |_| {})?;
        let reference = objective.needs_reference().then_some(reference.as_slice());
        let found = SplitExamples { split: &split.name, rows: &split.rows, examples: &examples, reference };
        margins.extend(Margins::with_prior(&found, objective)?);
        ids.extend(split.rows.iter().map(|row| row.id.as_str()));
        names.extend(vec![split.name.as_str(); split.rows.len()]);
    }
    let epochs = vec![epoch as u32; ids.len()];
    let frame = df!(col::ID => ids, col::SPLIT => names, run::EPOCH => epochs, col::MARGIN => margins)?;
    ranks.from_first(|| add(&out.join(run::DYNAMICS), epoch, frame))
}

/// Puts the margins of an epoch behind those of the epochs before it.
fn add(path: &Path, epoch: usize, mut frame: DataFrame) -> Result<()> {
    if epoch > 1 {
        let lacks = || {
            Error::artifact(path, format!("the margins of the epochs before epoch {epoch} are not all there"))
                .with_hint("the run has to begin anew: remove the folder, or choose another --out")
        };
        if !path.is_file() {
            return Err(lacks());
        }
        let before = artifact::read_parquet(path)?;
        let before = before.filter(&before.column(run::EPOCH)?.u32()?.lt(epoch as u32))?;
        if before.height() != (epoch - 1) * frame.height() {
            return Err(lacks());
        }
        frame = before.vstack(&frame)?;
    }
    artifact::write_parquet(path, &mut frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_replaces_itself_and_all_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dynamics.parquet");
        let of = |epoch: usize, margin: f64| {
            df!(run::EPOCH => vec![epoch as u32; 2], col::MARGIN => vec![margin, -margin]).unwrap()
        };
        for (epoch, margin) in [(1, 0.5), (2, 1.5), (3, 2.5), (2, 9.0)] {
            add(&path, epoch, of(epoch, margin)).unwrap();
        }
        let frame = artifact::read_parquet(&path).unwrap();
        let epochs: Vec<u32> = frame.column("epoch").unwrap().u32().unwrap().into_no_null_iter().collect();
        let margins: Vec<f64> = frame.column("margin").unwrap().f64().unwrap().into_no_null_iter().collect();
        assert_eq!((epochs, margins), (vec![1, 1, 2, 2], vec![0.5, -0.5, 9.0, -9.0]));
        let error = add(&path, 4, of(4, 0.0)).unwrap_err().to_string();
        assert!(error.contains("before epoch 4"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(add(&path, 2, of(2, 0.0)).unwrap_err().to_string().contains("before epoch 2"));
    }
}
