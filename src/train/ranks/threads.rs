//! Ranks that are threads of one process, for tests without a launcher.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Ranks, Wire, pack, unpack};
use crate::error::{Error, Result};

/// Time after which a rank that waits for the others fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the ranks meet.
#[derive(Debug)]
struct MeetingTable {
    state: Mutex<MeetingState>,
    complete: Condvar,
}

#[derive(Debug)]
struct MeetingState {
    round: u64,
    present: usize,
    brought: Vec<Vec<u8>>,
    last: Arc<Vec<Vec<u8>>>,
}

/// One thread among the ranks.
#[derive(Debug)]
struct Seat {
    rank: usize,
    size: usize,
    apart: bool,
    table: Arc<MeetingTable>,
}

/// Runs `work` once for each of `size` threads, and gives the results in the order of the ranks.
pub fn together<R: Send>(size: usize, work: impl Fn(&Ranks) -> R + Sync) -> Vec<R> {
    seated(size, false, work)
}

/// [`together`], as if every rank were on a machine of its own.
pub fn apart<R: Send>(size: usize, work: impl Fn(&Ranks) -> R + Sync) -> Vec<R> {
    seated(size, true, work)
}

fn seated<R: Send>(size: usize, apart: bool, work: impl Fn(&Ranks) -> R + Sync) -> Vec<R> {
    let table = Arc::new(MeetingTable {
        state: Mutex::new(MeetingState { round: 0, present: 0, brought: vec![Vec::new(); size], last: Arc::default() }),
        complete: Condvar::new(),
    });
    let seat = |rank| Ranks::over(Seat { rank, size, apart, table: table.clone() });
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let ranks = seat(rank);
                scope.spawn(move || work(&ranks))
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    })
}

impl Wire for Seat {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn apart(&self) -> bool {
        self.apart
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let table = &*self.table;
        let mut state = table.state.lock().unwrap_or_else(PoisonError::into_inner);
        let round = state.round;
        state.brought[self.rank] = own.to_vec();
        state.present += 1;
        if state.present == self.size {
            let empty = vec![Vec::new(); self.size];
            state.last = Arc::new(std::mem::replace(&mut state.brought, empty));
            state.present = 0;
            state.round += 1;
            table.complete.notify_all();
        } else {
            let waited = table.complete.wait_timeout_while(state, PATIENCE, |s| s.round == round);
            let (after, time) = waited.unwrap_or_else(PoisonError::into_inner);
            if time.timed_out() {
                return Err(Error::run("a rank did not come to a meeting"));
            }
            state = after;
        }
        // `last` is still that of this round: the next one needs this rank to be complete.
        let last = state.last.clone();
        drop(state);
        Ok((*last).clone())
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let all = self.gather(&pack(&values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()))?;
        values.fill(0.0);
        all.iter().for_each(|b| values.iter_mut().zip(unpack(b)).for_each(|(sum, v)| *sum += v as f32));
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        let all = self.gather(&pack(values))?;
        values.fill(0.0);
        all.iter().for_each(|b| values.iter_mut().zip(unpack(b)).for_each(|(sum, v)| *sum += v));
        Ok(())
    }
}
