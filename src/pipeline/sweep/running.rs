//! Which cells are being trained, within a budget of memory; and the table that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Cell, CellRecord, brief, tables};
use crate::progress::{PartState, Progress, StepPart};
use crate::schema::name_of;

/// Columns of the table of the cells.
const COLUMNS: [&str; 4] = ["noise", "objective", "latent", "seed"];

/// Shows the cells of the grid, each run once, with those that an earlier launch finished.
pub(super) fn show(done: &BTreeMap<String, CellRecord>, rows: &[Cell], progress: &dyn Progress) {
    let mut seen = BTreeSet::new();
    let part = |cell: &Cell| {
        let name = cell.name();
        let codes = if cell.codes > 0 { format!("-k{}", cell.codes) } else { String::new() };
        let latent = format!("{}{codes}{}", name_of(&cell.latent), cell.settings.name());
        let about = vec![cell.noise.name(), name_of(&cell.objective), latent, cell.seed.to_string()];
        seen.insert(name.clone()).then(|| StepPart {
            state: done.get(&name).map_or(PartState::Waiting, state),
            name,
            about,
        })
    };
    progress.parts(&COLUMNS, rows.iter().filter_map(part).collect());
}

/// How a cell ended.
pub(super) fn state(record: &CellRecord) -> PartState {
    if record.status != tables::STATUS_OK {
        let why = brief(&record.status);
        return PartState::Failed(why.strip_prefix("failed: ").unwrap_or(&why).to_string());
    }
    let accuracy = record.scores.eval_accuracy;
    PartState::Done(accuracy.map_or_else(String::new, |accuracy| format!("accuracy {:.1} %", 100.0 * accuracy)))
}

/// The cells that are being trained, and how many have ended.
pub(super) struct Running {
    /// MiB for all of them together.
    budget: f64,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Name and MiB of each.
    cells: Vec<(String, f64)>,
    done: usize,
    failed: usize,
}

/// A cell that is being trained; it ends where this is dropped.
pub(super) struct Slot<'a> {
    running: &'a Running,
    name: String,
    /// Whether the cell failed; unless it is said to be fine, it did.
    pub failed: bool,
}

impl Running {
    /// No cells yet, within so many MiB.
    pub fn within(budget: f64) -> Running {
        Running { budget, state: Mutex::default(), ended: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole, whatever a worker died of.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a cell of so many MiB fits beside the others, or is alone.
    pub fn enter(&self, name: &str, mb: f64) -> Slot<'_> {
        let fits = |state: &State| {
            let used: f64 = state.cells.iter().map(|(_, mb)| mb).sum();
            state.cells.is_empty() || used + mb <= self.budget
        };
        let mut state =
            self.ended.wait_while(self.state(), |state| !fits(state)).unwrap_or_else(PoisonError::into_inner);
        state.cells.push((name.to_string(), mb));
        Slot { running: self, name: name.to_string(), failed: true }
    }

    /// How many cells are done, failed and running, and which.
    pub fn line(&self) -> String {
        let state = self.state();
        let names: Vec<&str> = state.cells.iter().map(|(name, _)| name.as_str()).collect();
        let mut line = format!("{} done", state.done);
        if state.failed > 0 {
            line += &format!(", {} failed", state.failed);
        }
        if !names.is_empty() {
            line += &format!(", {} running: {}", names.len(), names.join(", "));
        }
        line
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.running.state();
        state.cells.retain(|(name, _)| *name != self.name);
        if self.failed {
            state.failed += 1;
        } else {
            state.done += 1;
        }
        drop(state);
        self.running.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Most cells that ran at once, of six with so many MiB each, by three workers.
    fn at_once(mb: f64) -> usize {
        let (running, now, most, next) =
            (Running::within(100.0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::SeqCst);
                        if i >= 6 {
                            break;
                        }
                        let mut slot = running.enter(&format!("cell {i}"), mb);
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        now.fetch_sub(1, Ordering::SeqCst);
                        slot.failed = i == 5;
                    }
                });
            }
        });
        assert_eq!(running.line(), "5 done, 1 failed");
        most.into_inner()
    }

    #[test]
    fn cells_run_at_once_as_far_as_memory_goes() {
        assert_eq!(at_once(33.0), 3);
        assert_eq!(at_once(40.0), 2);
        assert_eq!(at_once(60.0), 1);
        assert_eq!(at_once(500.0), 1, "a cell larger than the budget runs alone");
    }

    #[test]
    fn the_table_has_every_run_once_and_what_was_done_before() {
        use crate::lpc::LatentKind;
        use crate::pipeline::recipe::SweepConfig;
        use crate::pipeline::sweep::{CellScores, grid};
        use crate::train::TrainConfig;

        struct Shown(Mutex<Vec<StepPart>>);
        impl Progress for Shown {
            fn parts(&self, columns: &[&str], parts: Vec<StepPart>) {
                assert!(parts.iter().all(|part| part.about.len() == columns.len()));
                *self.0.lock().unwrap() = parts;
            }
        }
        let mut base = TrainConfig::default();
        base.lpc.codes = 4;
        // Without flips the marker makes no difference.
        let config = SweepConfig {
            noise_p: vec![0.0, 0.2],
            marked: vec![false, true],
            latent: vec![LatentKind::Lpc],
            seeds: vec![7],
            ..SweepConfig::default()
        };
        let rows = grid(&config, &base);
        let record = |status: &str, eval_accuracy| CellRecord {
            status: status.into(),
            scores: CellScores { eval_accuracy, ..CellScores::default() },
            ..CellRecord::failed(&rows[0], "")
        };
        let done = [(rows[0].name(), record("ok", Some(0.8125)))].into();
        let shown = Shown(Mutex::default());
        show(&done, &rows, &shown);
        let shown = shown.0.into_inner().unwrap();
        let about: Vec<String> = shown.iter().map(|part| part.about.join(" ")).collect();
        assert_eq!(about, ["clean dpo lpc-k4 7", "uniform-0.2 dpo lpc-k4 7", "uniform-0.2-marked dpo lpc-k4 7"]);
        assert_eq!(shown[0].state, PartState::Done("accuracy 81.2 %".into()));
        assert!(shown[1..].iter().all(|part| part.state == PartState::Waiting));
        assert_eq!(state(&record("failed: diverged at step 3", None)), PartState::Failed("diverged at step 3".into()));
    }

    #[test]
    fn the_line_names_what_runs() {
        let running = Running::within(f64::INFINITY);
        assert_eq!(running.line(), "0 done");
        let mut a = running.enter("a", 1.0);
        let b = running.enter("b", 1.0);
        assert_eq!(running.line(), "0 done, 2 running: a, b");
        a.failed = false;
        drop((a, b));
        assert_eq!(running.line(), "1 done, 1 failed");
    }
}
