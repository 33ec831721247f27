//! Which files of a task's data are read, where their names tell several splits.

use std::collections::BTreeSet;

use super::inputs::{self, VALIDATION_SPLIT, split_name};
use crate::error::{Error, Result};
use crate::ingest::Input;
use crate::pipeline::recipe::EvalConfig;
use crate::pipeline::recipe::eval::EvalTask;
use crate::progress::Progress;
use crate::schema::SPLITS;

/// The files of a set.
///
/// # Errors
/// [`Error::Data`] where there are none, or none of the task's split; [`Error::Config`] for `eval.split` where no name
/// tells it.
pub fn files(config: &EvalConfig, task: EvalTask, data: &str, progress: &dyn Progress) -> Result<Vec<Input>> {
    let wanted = match task {
        EvalTask::TruthfulqaMc1 | EvalTask::TruthfulqaMc2 => VALIDATION_SPLIT,
        EvalTask::Preference => &config.split,
        EvalTask::ArcEasy | EvalTask::ArcChallenge | EvalTask::Gsm8k | EvalTask::Rewardbench => SPLITS[1],
    };
    let files = of_split(data, wanted, progress)?;
    let told = files.iter().all(|input| split_name(&input.label) == Some(wanted));
    if task == EvalTask::Preference && !told && config.split != EvalConfig::default().split {
        let why = format!("has no effect on {data}: no names of its files tell a split {wanted}, as train-*, test-*");
        return Err(Error::config("eval.split", why));
    }
    Ok(files)
}

/// The files that a user named; where their names tell several splits, those of one. A preference set without a test
/// split may have a validation split.
///
/// # Errors
/// [`Error::Data`] where there are none.
pub fn of_split(data: &str, wanted: &str, progress: &dyn Progress) -> Result<Vec<Input>> {
    let inputs = inputs::resolve(&[data.to_string()], progress)?;
    let told: BTreeSet<&str> = inputs.iter().filter_map(|input| split_name(&input.label)).collect();
    if told.len() < 2 {
        return Ok(inputs);
    }
    let all = inputs::labels(&inputs);
    let files: Vec<Input> = inputs.into_iter().filter(|input| split_name(&input.label) == Some(wanted)).collect();
    let Some(first) = files.first() else {
        return Err(Error::Data {
            path: data.into(),
            line: None,
            field: None,
            message: format!("the files are of several splits, and none of {wanted}"),
            hint: Some(format!("name the file that is meant: {}", all.join(", "))),
        });
    };
    let (first, n) = (first.label.display(), files.len());
    let more = if n > 1 { format!(" and {} more", n - 1) } else { String::new() };
    progress.note(&format!("{data}: the split {wanted} is read, {first}{more}, {n} of {} files", all.len()));
    Ok(files)
}
