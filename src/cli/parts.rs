//! The table of a step that is done in parts, such as the cells of a sweep.

use super::bar::cut;
use crate::progress::{PartState, StepPart};

/// Parts of a step, in their order.
#[derive(Debug)]
pub(super) struct Parts {
    columns: Vec<String>,
    parts: Vec<StepPart>,
}

impl Parts {
    /// A table with these columns, behind which stands the state.
    pub fn new(columns: &[&str], parts: Vec<StepPart>) -> Parts {
        Parts { columns: columns.iter().map(|c| (*c).to_string()).collect(), parts }
    }

    /// Notes how far a part is. Returns a line that can stand alone where it begins or is done; that a part failed is
    /// told with a warning.
    pub fn set(&mut self, name: &str, state: PartState) -> Option<String> {
        let part = self.parts.iter_mut().find(|part| part.name == name)?;
        let line = match (&part.state, &state) {
            (PartState::Running(_), PartState::Running(_)) | (_, PartState::Waiting | PartState::Failed(_)) => None,
            (_, PartState::Running(_)) => Some(format!("{name}: running")),
            (_, PartState::Done(what)) => Some(format!("{name}: done{}", after(what))),
        };
        part.state = state;
        line
    }

    /// The table in so many columns and at most so many lines (at least two). Where that is too few for all parts,
    /// those that run or failed come before those that are done, and these before those that wait.
    pub fn lines(&self, columns: usize, most: usize) -> Vec<String> {
        let room = most.max(2) - 1;
        let mut shown: Vec<usize> = (0..self.parts.len()).collect();
        let cut_off = self.parts.len() > room;
        if cut_off {
            // The latest of those that are done.
            shown.sort_by_key(|&i| match self.parts[i].state {
                PartState::Running(_) => (0, i),
                PartState::Failed(_) => (1, i),
                PartState::Done(_) => (2, self.parts.len() - i),
                PartState::Waiting => (3, i),
            });
            shown.truncate(room - 1);
            shown.sort_unstable();
        }
        let header: Vec<&str> = self.columns.iter().map(String::as_str).chain(["state"]).collect();
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|&i| self.parts[i].about.iter().cloned().chain([state(&self.parts[i].state)]).collect())
            .collect();
        let width = |at: usize| {
            let of_rows = rows.iter().map(|row| row[at].chars().count());
            of_rows.chain([header[at].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let padded: Vec<String> = cells
                .iter()
                .enumerate()
                .map(|(at, cell)| format!("{cell:width$}", width = widths.get(at).copied().unwrap_or(0)))
                .collect();
            cut(padded.join("  ").trim_end(), columns)
        };
        let mut lines = vec![line(header.clone())];
        lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
        if cut_off {
            let count = |of: fn(&PartState) -> bool| {
                let hidden = self.parts.iter().enumerate().filter(|(i, _)| shown.binary_search(i).is_err());
                hidden.filter(|(_, part)| of(&part.state)).count()
            };
            let words = [
                (count(|s| matches!(s, PartState::Running(_))), "running"),
                (count(|s| matches!(s, PartState::Failed(_))), "failed"),
                (count(|s| matches!(s, PartState::Done(_))), "done"),
                (count(|s| matches!(s, PartState::Waiting)), "waiting"),
            ];
            let words: Vec<String> =
                words.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
            lines.push(cut(&format!("and {}", words.join(", ")), columns));
        }
        lines
    }
}

fn state(state: &PartState) -> String {
    match state {
        PartState::Waiting => "waiting".into(),
        PartState::Running(at) => format!("running{}", after(at)),
        PartState::Done(what) => format!("done{}", after(what)),
        PartState::Failed(why) => format!("failed{}", after(why)),
    }
}

fn after(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" · {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(n: usize) -> Parts {
        let part = |i: usize| StepPart {
            name: format!("cell-{i}"),
            about: vec!["uniform-0.2".into(), if i.is_multiple_of(2) { "none" } else { "lpc-k16" }.into()],
            state: PartState::Waiting,
        };
        Parts::new(&["noise", "latent"], (0..n).map(part).collect())
    }

    #[test]
    fn the_table_shows_every_state() {
        let mut table = parts(4);
        assert_eq!(table.set("cell-0", PartState::Running(String::new())).as_deref(), Some("cell-0: running"));
        assert_eq!(table.set("cell-0", PartState::Running("step 3/40".into())), None);
        assert_eq!(
            table.set("cell-0", PartState::Done("accuracy 81.2 %".into())).as_deref(),
            Some("cell-0: done · accuracy 81.2 %")
        );
        table.set("cell-1", PartState::Running("step 3/40 · loss 0.61".into()));
        assert_eq!(table.set("cell-2", PartState::Failed("diverged".into())), None);
        assert_eq!(table.set("no such cell", PartState::Waiting), None);
        insta::assert_snapshot!(table.lines(80, 24).join("\n"), @r"
        noise        latent   state
        uniform-0.2  none     done · accuracy 81.2 %
        uniform-0.2  lpc-k16  running · step 3/40 · loss 0.61
        uniform-0.2  none     failed · diverged
        uniform-0.2  lpc-k16  waiting
        ");
        assert!(table.lines(30, 24).iter().all(|line| line.chars().count() <= 30));
    }

    #[test]
    fn what_runs_and_failed_is_shown_first_where_not_all_fits() {
        let mut table = parts(30);
        for i in 0..10 {
            table.set(&format!("cell-{i}"), PartState::Done(format!("accuracy {i}")));
        }
        table.set("cell-3", PartState::Failed("diverged".into()));
        table.set("cell-12", PartState::Running("step 1/2".into()));
        let lines = table.lines(80, 6);
        assert_eq!(lines.len(), 6);
        assert!(lines[1].contains("diverged") && lines[2].contains("accuracy 8") && lines[3].contains("accuracy 9"));
        assert!(lines[4].contains("step 1/2"), "{lines:?}");
        assert_eq!(lines[5], "and 7 done, 19 waiting");
    }
}
