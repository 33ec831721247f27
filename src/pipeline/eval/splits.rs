//! Which files of a task's data are read, where their names tell several splits.

use std::collections::BTreeSet;

use super::inputs;
use crate::error::{Error, Result};
use crate::ingest::Input;
use crate::pipeline::recipe::EvalConfig;
use crate::pipeline::recipe::eval::EvalTask;
use crate::progress::Progress;
use crate::schema::{SPLITS, VALIDATION_SPLIT};

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
    let (files, told) = of_split(data, wanted, progress)?;
    if task == EvalTask::Preference && !told && config.split != EvalConfig::default().split {
        let why = format!("has no effect on {data}: no names of its files tell a split {wanted}, as train-*, test-*");
        return Err(Error::config("eval.split", why));
    }
    Ok(files)
}

/// The files that a user named, and whether their names tell that they are of the split; where they tell several
/// splits, those of one. Without a test split that is the validation split, as for `prepare`.
///
/// # Errors
/// [`Error::Data`] where there are none.
pub fn of_split(data: &str, wanted: &str, progress: &dyn Progress) -> Result<(Vec<Input>, bool)> {
    let inputs = inputs::resolve(&[data.to_string()], progress)?;
    let splits = inputs::splits(&inputs);
    let told: BTreeSet<&str> = splits.iter().flatten().copied().collect();
    let wanted = if wanted == SPLITS[1] && !told.contains(wanted) { VALIDATION_SPLIT } else { wanted };
    if told.len() < 2 {
        let all = splits.iter().all(|split| *split == Some(wanted));
        return Ok((inputs, all));
    }
    let all = inputs::labels(&inputs);
    let of = inputs.into_iter().zip(splits).filter(|(_, split)| *split == Some(wanted));
    let files: Vec<Input> = of.map(|(input, _)| input).collect();
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
    Ok((files, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// The files that are read of these for a split, and whether their names tell it.
    fn read(files: &[&str], wanted: &str) -> Option<(Vec<String>, bool)> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("set");
        for file in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let pattern = folder.join(if files[0].contains('/') { "*/*" } else { "*" });
        let (found, told) = of_split(&pattern.display().to_string(), wanted, &Silent).ok()?;
        let name = |input: &Input| input.label.strip_prefix(&folder).unwrap().display().to_string();
        Some((found.iter().map(name).collect(), told))
    }

    #[test]
    fn splits_are_told_as_prepare_tells_them() {
        let of = |files: &[&str]| Some((files.iter().map(|f| (*f).to_string()).collect::<Vec<_>>(), true));
        assert_eq!(read(&["train.jsonl", "test.jsonl"], "test"), of(&["test.jsonl"]));
        assert_eq!(read(&["train.jsonl", "validation.jsonl"], "test"), of(&["validation.jsonl"]));
        assert_eq!(read(&["train.jsonl", "validation.jsonl"], "train"), of(&["train.jsonl"]));
        assert_eq!(read(&["train.jsonl", "train-2.jsonl"], "train"), of(&["train-2.jsonl", "train.jsonl"]));
        assert_eq!(read(&["test.jsonl", "validation.jsonl"], "train"), None);
        assert_eq!(read(&["dev/a.jsonl", "train/a.jsonl"], "test"), of(&["dev/a.jsonl"]));
        // The files of a folder tell their own splits: its name says nothing.
        let own = (vec!["eval/helpful.jsonl".to_string(), "eval/test.jsonl".to_string()], false);
        assert_eq!(read(&["eval/helpful.jsonl", "eval/test.jsonl"], "test"), Some(own));
    }
}
