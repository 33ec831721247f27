//! Ranks over MPI. Calls come from one thread at a time.

use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Equivalence, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::Communicator;

use super::Wire;
use crate::error::{Error, Result};

/// Numbers that one rank adds up in one exchange: 4 MiB of f32.
const BLOCK: usize = 1 << 20;

/// All processes that were started together. MPI ends when it is dropped.
pub(super) struct World {
    universe: Universe,
    rank: usize,
    size: usize,
    apart: bool,
}

impl World {
    /// Starts MPI, which must find `expected` processes.
    ///
    /// # Errors
    /// [`Error::Run`] where it does not.
    pub fn open(expected: usize) -> Result<World> {
        let (universe, threading) = mpi::initialize_with_threading(mpi::Threading::Serialized)
            .ok_or_else(|| Error::run("MPI was started twice in one process"))?;
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        if size != expected {
            return Err(Error::run(format!("the launcher started {expected} processes, but MPI finds {size}"))
                .with_hint("use the mpirun of the MPI that lpc-pipe was built with"));
        }
        let mut world = World { universe, rank, size, apart: false };
        let own = mpi::environment::processor_name().unwrap_or_default();
        let machines = world.gather(own.as_bytes())?;
        let several = machines.iter().any(|machine| machine != &machines[0]);
        // The same at every rank, whatever each one's MPI allows.
        let allows = world.gather(&[u8::from(threading >= mpi::Threading::Serialized)])?;
        world.apart = several && allows.iter().all(|allows| allows == &[1]);
        Ok(world)
    }

    fn sum<T>(&self, values: &mut [T]) -> Result<()>
    where
        T: Equivalence + Copy + Default + std::ops::AddAssign,
    {
        let world = self.universe.world();
        for block in values.chunks_mut(BLOCK * self.size) {
            // Each rank adds up one part of the block, in the order of the ranks, and sends it to all: every rank gets
            // the same bits.
            let part = block.len().div_ceil(self.size);
            let mut sent = vec![T::default(); part * self.size];
            sent[..block.len()].copy_from_slice(block);
            let mut brought = vec![T::default(); part * self.size];
            world.all_to_all_into(&sent[..], &mut brought[..]);
            let (sum, rest) = brought.split_at_mut(part);
            for other in rest.chunks_exact(part) {
                sum.iter_mut().zip(other).for_each(|(s, &v)| *s += v);
            }
            world.all_gather_into(&*sum, &mut sent[..]);
            block.copy_from_slice(&sent[..block.len()]);
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Finalizing waits for all ranks, and would not end where this one panics.
        if std::thread::panicking() {
            self.universe.world().abort(101);
        }
    }
}

impl Wire for World {
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
        let world = self.universe.world();
        let mut sizes = vec![0u64; self.size];
        world.all_gather_into(&(own.len() as u64), &mut sizes[..]);
        let total: u64 = sizes.iter().sum();
        // The same at every rank, so that all stop here.
        if i32::try_from(total).is_err() {
            return Err(Error::run(format!("ranks wanted to exchange {total} bytes at once")));
        }
        let counts: Vec<i32> = sizes.iter().map(|&n| n as i32).collect();
        let starts: Vec<i32> = counts
            .iter()
            .scan(0, |at, n| {
                *at += n;
                Some(*at - n)
            })
            .collect();
        let mut all = vec![0u8; total as usize];
        {
            let mut parts = PartitionMut::new(&mut all[..], counts, &starts[..]);
            world.all_gather_varcount_into(own, &mut parts);
        }
        Ok(sizes.iter().zip(&starts).map(|(&n, &at)| all[at as usize..][..n as usize].to_vec()).collect())
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        self.sum(values)
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.sum(values)
    }
}
