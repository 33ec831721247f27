//! Ranks: processes that train one model together. Each computes a share of every step's pairs, gradients are summed,
//! and the first rank writes.
//!
//! Ranks exchange data in two ways. A *meeting* brings a few bytes of every rank to every rank, or the error of a rank
//! that failed: all ranks then end at their next meeting with that error. A *sum* adds up gradients. It follows a
//! meeting at once, so that no rank waits for one that has ended.
//!
//! Sums are computed in the order of the ranks everywhere. Every rank then has the same bits, and a run with the same
//! number of ranks gives the same bits again.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
use crate::nn::Real;
use crate::nn::real::Numbers;

pub mod layer_sums;
#[cfg(feature = "mpi")]
mod mpi;
pub mod threads;
pub mod work;

/// The transport between ranks. Every rank calls the same methods in the same order.
pub trait Wire: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Whether ranks are on several machines, and sums may be computed on another thread while this one is silent.
    fn apart(&self) -> bool;

    /// Every rank's bytes, in the order of the ranks, at every rank.
    ///
    /// # Errors
    /// [`Error::Run`] where a rank does not answer.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Replaces the numbers by their sum over ranks, added in the order of the ranks.
    ///
    /// # Errors
    /// As [`Wire::gather`].
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;

    /// As [`Wire::sum_f32`].
    ///
    /// # Errors
    /// As [`Wire::gather`].
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;
}

/// All ranks as one of them sees them.
pub struct Ranks {
    wire: Option<Box<dyn Wire>>,
    /// Whether a meeting has brought an error.
    stopped: AtomicBool,
}

/// One process that trains by itself.
pub static ALONE: Ranks = Ranks::alone();

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

/// An error as it is sent to the other ranks.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn of(error: &Error) -> Failure {
        Failure { code: error.exit_code(), message: error.to_string(), hint: error.hint().map(str::to_string) }
    }

    /// The error at another rank, with the same exit code and message.
    fn arrived(self, rank: usize) -> Error {
        let from = format!("rank {rank}");
        match self.code {
            2 => Error::Config(vec![Fault { origin: from, key: String::new(), message: self.message }]),
            3 => Error::Model { model: from, message: self.message, hint: self.hint },
            _ => Error::Run { message: format!("{from}: {}", self.message), hint: self.hint },
        }
    }
}

impl Ranks {
    /// One process that trains by itself.
    pub const fn alone() -> Ranks {
        Ranks { wire: None, stopped: AtomicBool::new(false) }
    }

    /// Ranks over this wire.
    pub fn over(wire: impl Wire + 'static) -> Ranks {
        Ranks { wire: Some(Box::new(wire)), stopped: AtomicBool::new(false) }
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.wire.as_ref().map_or(0, |w| w.rank())
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.wire.as_ref().map_or(1, |w| w.size())
    }

    /// Whether ranks are on several machines, and sums may be computed on another thread while this one is silent.
    pub fn apart(&self) -> bool {
        self.wire.as_ref().is_some_and(|w| w.apart())
    }

    /// Whether this rank writes files and speaks to the user.
    pub fn first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's share of `n` things: a range. The ranges of the ranks follow one another; their lengths differ by
    /// one at most.
    pub fn share(&self, n: usize) -> Range<usize> {
        let (rank, size) = (self.rank(), self.size());
        let begin = |r: usize| r * (n / size) + r.min(n % size);
        begin(rank)..begin(rank + 1)
    }

    /// A meeting: every rank's bytes, in the order of the ranks.
    ///
    /// # Errors
    /// This rank's own error; else that of the lowest rank that brings one.
    pub fn meet(&self, own: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let Some(wire) = &self.wire else { return Ok(vec![own?]) };
        let sent = match &own {
            Ok(bytes) => [&[0u8], bytes.as_slice()].concat(),
            Err(error) => [&[1u8], serde_json::to_vec(&Failure::of(error))?.as_slice()].concat(),
        };
        let mut all = wire.gather(&sent)?;
        let failed = all.iter().position(|bytes| bytes.first() != Some(&0));
        let Some(rank) = failed else {
            for bytes in &mut all {
                bytes.remove(0);
            }
            return Ok(all);
        };
        self.stopped.store(true, Ordering::SeqCst);
        own?;
        let failure = serde_json::from_slice::<Failure>(all[rank].get(1..).unwrap_or_default());
        Err(failure.map_or_else(|e| Error::run(format!("rank {rank} failed: {e}")), |f| f.arrived(rank)))
    }

    /// A meeting that adds up a few numbers, in the order of the ranks.
    ///
    /// # Errors
    /// As [`Ranks::meet`]; [`Error::Run`] where ranks bring different numbers of numbers.
    pub fn total(&self, own: Vec<f64>) -> Result<Vec<f64>> {
        if self.size() == 1 {
            return Ok(own);
        }
        let n = own.len();
        let mut sum = vec![0.0; n];
        for bytes in self.meet(Ok(pack(&own)))? {
            let values = unpack(&bytes);
            if values.len() != n {
                return Err(Error::run("ranks disagree about what is summed; are all the same program?"));
            }
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        }
        Ok(sum)
    }

    /// Whether any rank says yes.
    ///
    /// # Errors
    /// As [`Ranks::meet`].
    pub fn any(&self, own: bool) -> Result<bool> {
        Ok(self.meet(Ok(vec![u8::from(own)]))?.iter().any(|bytes| bytes == &[1]))
    }

    /// Refuses to go on where ranks hold different values, for example because their data differ.
    ///
    /// # Errors
    /// As [`Ranks::meet`]; [`Error::Run`] naming the rank that differs from the first.
    pub fn same(&self, what: &str, own: &str) -> Result<()> {
        let all = self.meet(Ok(own.as_bytes().to_vec()))?;
        match all.iter().position(|bytes| bytes != &all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::run(format!("rank {rank} has another {what} than rank 0"))),
        }
    }

    /// Calls `find` at the first rank alone, and gives its result at every rank.
    ///
    /// # Errors
    /// As [`Ranks::meet`].
    pub fn from_first<R: Serialize + DeserializeOwned>(&self, find: impl FnOnce() -> Result<R>) -> Result<R> {
        if self.size() == 1 {
            return find();
        }
        if self.first() {
            // The first rank keeps its own value: sent through JSON it may not come back the same.
            let found = find().map_err(|error| self.failed(error))?;
            return self.meet(Ok(serde_json::to_vec(&found)?)).map(|_| found);
        }
        let all = self.meet(Ok(Vec::new()))?;
        Ok(serde_json::from_slice(all.first().map_or(&[][..], Vec::as_slice))?)
    }

    /// Replaces numbers by their sum over ranks. Follows a meeting, and every rank calls it.
    ///
    /// # Errors
    /// As [`Wire::gather`].
    pub fn sum<T: Real>(&self, values: &mut [T]) -> Result<()> {
        let Some(wire) = &self.wire else { return Ok(()) };
        match T::numbers(values) {
            Numbers::F32(values) => wire.sum_f32(values),
            Numbers::F64(values) => wire.sum_f64(values),
        }
    }

    /// The last meeting: gives this rank's result where no rank has failed.
    ///
    /// # Errors
    /// As [`Ranks::meet`].
    pub fn close<R>(&self, own: Result<R>) -> Result<R> {
        if self.stopped.load(Ordering::SeqCst) {
            return own;
        }
        self.agree(own)
    }

    /// A meeting that gives this rank's result where no rank has failed.
    ///
    /// # Errors
    /// As [`Ranks::meet`].
    pub fn agree<R>(&self, own: Result<R>) -> Result<R> {
        if self.size() == 1 {
            return own;
        }
        let found = own.map_err(|error| self.failed(error))?;
        self.meet(Ok(Vec::new())).map(|_| found)
    }

    /// A meeting to which this rank brings an error; gives the error with which all ranks end.
    fn failed(&self, error: Error) -> Error {
        self.meet(Err(error)).err().unwrap_or_else(|| Error::run("a failure was lost"))
    }
}

/// Numbers as bytes.
pub(crate) fn pack(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The reverse of [`pack`].
pub(crate) fn unpack(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default())).collect()
}

/// Number of processes that a launcher (mpirun, srun) started together; 1 without one.
pub fn launched() -> usize {
    launcher_number(&["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]).unwrap_or(1)
}

/// Rank of this process among them, before any of them has spoken: who is to print.
pub fn launched_rank() -> usize {
    launcher_number(&["OMPI_COMM_WORLD_RANK", "PMI_RANK"]).unwrap_or(0)
}

/// Number of this process among those on its machine, from 0: it uses the accelerator of that number.
pub fn local_rank() -> usize {
    launcher_number(&["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]).unwrap_or(0)
}

/// The first of these environment variables that is a number; launchers set them.
fn launcher_number(names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Joins the other processes of this launch, if there are any.
///
/// # Errors
/// [`Error::Config`] where there are, and this build or the system has no MPI.
pub fn join() -> Result<Ranks> {
    match launched() {
        0 | 1 => match launcher_number(&["SLURM_STEP_NUM_TASKS"]) {
            Some(n) if n > 1 => {
                let why =
                    format!("srun started {n} processes and told this program of none of them: start them with mpirun");
                Err(Error::config("", why))
            }
            _ => Ok(Ranks::alone()),
        },
        n => joined(n),
    }
}

#[cfg(feature = "mpi")]
fn joined(n: usize) -> Result<Ranks> {
    mpi::World::open(n).map(Ranks::over)
}

#[cfg(not(feature = "mpi"))]
fn joined(n: usize) -> Result<Ranks> {
    Err(Error::config(
        "",
        format!("{n} processes were started together, but this build has no MPI: rebuild with --features mpi"),
    ))
}

#[cfg(test)]
mod tests {
    use super::threads::together;
    use super::*;

    #[test]
    fn shares_are_whole_and_even() {
        for n in 0..12 {
            let shares = together(5, |ranks| ranks.share(n));
            assert_eq!(shares.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
            let sizes: Vec<usize> = shares.iter().map(ExactSizeIterator::len).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
        assert_eq!(ALONE.share(7), 0..7);
    }

    #[test]
    fn sums_run_in_the_order_of_ranks() {
        // 1e8 + 1 - 1e8 in f32 is 0 in this order and 1 in the other: order shows.
        let values = [1e8f32, 1.0, -1e8];
        let found = together(3, |ranks| {
            let mut sum = [values[ranks.rank()], ranks.rank() as f32];
            ranks.sum(&mut sum).unwrap();
            let total = ranks.total(vec![0.5, ranks.rank() as f64]).unwrap();
            (sum, total)
        });
        for (sum, total) in found {
            assert_eq!(sum, [0.0, 3.0]);
            assert_eq!(total, [1.5, 3.0]);
        }
    }

    #[test]
    fn a_failure_anywhere_ends_all_with_its_message_and_code() {
        for failing in 0..3 {
            let found = together(3, |ranks| {
                let work = || -> Result<()> {
                    if ranks.rank() == failing {
                        return Err(Error::artifact("x", "is gone").with_hint("look again"));
                    }
                    // The others are at different meetings of theirs, and end all the same.
                    ranks.any(false)?;
                    ranks.total(vec![1.0])?;
                    Ok(())
                };
                ranks.close(work())
            });
            for (rank, result) in found.into_iter().enumerate() {
                let error = result.unwrap_err();
                assert_eq!((error.exit_code(), error.hint()), (3, Some("look again")));
                let wanted = if rank == failing { "x: is gone".into() } else { format!("rank {failing}: x: is gone") };
                assert_eq!(error.to_string(), wanted);
            }
        }
    }

    #[test]
    fn the_first_rank_decides_and_differences_are_named() {
        let found = together(3, |ranks| ranks.from_first(|| Ok(format!("by {}", ranks.rank()))).unwrap());
        assert_eq!(found, ["by 0"; 3]);
        let found = together(2, |ranks| ranks.from_first(|| -> Result<u8> { Err(Error::run("no")) }));
        let said: Vec<String> = found.into_iter().map(|r| r.unwrap_err().to_string()).collect();
        assert_eq!(said, ["no", "rank 0: no"]);
        let found = together(3, |ranks| ranks.same("data set", if ranks.rank() == 2 { "b" } else { "a" }));
        assert!(found.into_iter().all(|r| r.unwrap_err().to_string() == "rank 2 has another data set than rank 0"));
        assert_eq!(together(3, |ranks| ranks.any(ranks.rank() == 1).unwrap()), [true; 3]);
    }
}
