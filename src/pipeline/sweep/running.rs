//! Which cells are being trained, within a budget of memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
