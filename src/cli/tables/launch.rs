//! Launches over many machines: what was submitted, and the parts of a planned sweep.

use super::percent;
use super::sweep::sweep;
use crate::pipeline::launch::Launched;
use crate::pipeline::sweep::{CellOutcome, Collected, SharedInputs};

/// `--launcher slurm`, `commands` and `skypilot`.
pub fn launched(l: &Launched) -> String {
    let mut text = format!("{} tasks to run\n", l.tasks);
    for (name, id) in &l.jobs {
        text += &format!("job {id}: {name}\n");
    }
    text += &format!("written: {}\n", l.folder.display());
    if !l.next.is_empty() {
        text += &format!("next:\n  {}\n", l.next.join("\n  "));
    }
    text
}

/// `noise-sweep inputs`.
pub fn shared(s: &SharedInputs) -> String {
    let failed: String = s.failed.iter().map(|(name, reason)| format!("failed: {name}: {reason}\n")).collect();
    format!("{failed}{} prepared folders, references computed {} times over them\n", s.prepared, s.references)
}

/// `noise-sweep cell`.
pub fn cell(c: &CellOutcome) -> String {
    let accuracy = c.scores.eval_accuracy.map_or_else(|| "no accuracy".into(), |a| format!("accuracy {}", percent(a)));
    let already = if c.already { ", finished before; nothing was done" } else { "" };
    format!("cell {} of {}, {}: {accuracy}{already}\n", c.index, c.cells, c.name)
}

/// `noise-sweep collect`.
pub fn collected(c: &Collected) -> String {
    let mut text = sweep(&c.outcome);
    let all = c.outcome.cells_reused + c.failed.len() + c.missing.len();
    for (what, cells) in [("failed", &c.failed), ("have no result yet", &c.missing)] {
        if !cells.is_empty() {
            text += &format!("\n{} of {all} cells {what}\n", cells.len());
            text += &cells.iter().map(|(name, status)| format!("  {name}: {status}\n")).collect::<String>();
        }
    }
    text
}
