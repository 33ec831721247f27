//! What is shown of a cell while it is prepared or trained.

use std::sync::{Mutex, PoisonError};

use crate::progress::{PartState, Progress};

/// Shows all of what runs by itself. Of what runs beside others, which has a name, only warnings are shown, each with that
/// name, because the other lines would mix; and where a cell stands, in its row of the table.
pub(super) struct Shown<'a> {
    progress: &'a dyn Progress,
    /// What is prepared or trained beside others, for a warning.
    name: Option<String>,
    /// The cell's row.
    cell: Option<String>,
    at: Mutex<At>,
}

/// Where a cell stands.
#[derive(Default)]
struct At {
    step: String,
    done: u64,
    total: Option<u64>,
    status: String,
}

impl<'a> Shown<'a> {
    pub fn new(progress: &'a dyn Progress, name: Option<String>, cell: Option<String>) -> Shown<'a> {
        Shown { progress, name, cell, at: Mutex::default() }
    }

    fn all(&self) -> Option<&dyn Progress> {
        self.name.is_none().then_some(self.progress)
    }

    fn tell(&self, change: impl FnOnce(&mut At)) {
        let (Some(cell), Some(_)) = (&self.cell, &self.name) else { return };
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut at);
        let total = at.total.map_or_else(String::new, |total| format!("/{total}"));
        let status = if at.status.is_empty() { String::new() } else { format!(" · {}", at.status) };
        let words = format!("{} {}{total}{status}", at.step, at.done);
        self.progress.part(cell, PartState::Running(words));
    }
}

impl Progress for Shown<'_> {
    fn begin(&self, step: &str, total: Option<u64>) {
        self.all().into_iter().for_each(|all| all.begin(step, total));
        self.tell(|at| *at = At { step: step.to_string(), total, ..At::default() });
    }
    fn advance(&self, n: u64) {
        self.all().into_iter().for_each(|all| all.advance(n));
        self.tell(|at| at.done += n);
    }
    fn status(&self, line: &str) {
        self.all().into_iter().for_each(|all| all.status(line));
        self.tell(|at| at.status = line.to_string());
    }
    fn end(&self) {
        self.all().into_iter().for_each(|all| all.end());
    }
    fn note(&self, line: &str) {
        self.all().into_iter().for_each(|all| all.note(line));
    }
    fn warn(&self, line: &str) {
        match &self.name {
            Some(name) => self.progress.warn(&format!("{name}: {line}")),
            None => self.progress.warn(line),
        }
    }
    fn interrupted(&self) -> bool {
        self.progress.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beside_others_name_the_cell_and_its_row_says_where_it_stands() {
        struct Heard(Mutex<Vec<String>>);
        impl Progress for Heard {
            fn warn(&self, line: &str) {
                self.0.lock().unwrap().push(line.into());
            }
            fn part(&self, name: &str, state: PartState) {
                self.0.lock().unwrap().push(format!("{name} {state:?}"));
            }
        }
        let heard = Heard(Mutex::default());
        let shown = Shown::new(&heard, Some("data uniform-0.2".into()), None);
        shown.note("nothing");
        shown.advance(1);
        shown.warn("no margins");
        let shown = Shown::new(&heard, Some("cell uniform-0.2".into()), Some("uniform-0.2".into()));
        shown.warn("the codes have collapsed");
        shown.begin("training", Some(40));
        shown.status("loss 0.61");
        shown.advance(2);
        let row = |words: &str| format!("uniform-0.2 Running({words:?})");
        assert_eq!(
            *heard.0.lock().unwrap(),
            [
                "data uniform-0.2: no margins".to_string(),
                "cell uniform-0.2: the codes have collapsed".into(),
                row("training 0/40"),
                row("training 0/40 · loss 0.61"),
                row("training 2/40 · loss 0.61"),
            ]
        );
    }
}
