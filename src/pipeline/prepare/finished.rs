//! Buckets of clean pairs in their final order. A bucket is finished once, however often it is read.

use serde::{Deserialize, Serialize};

use super::blobs::{self, Blob};
use super::spill::Buckets;
use super::work::Work;
use crate::error::Result;
use crate::pairs::{self, Finished};
use crate::pipeline::recipe::PrepareConfig;
use crate::rejects::Reject;
use crate::seed::Seed;

/// All buckets, finished when they are first read.
pub struct FinishedBuckets<'a> {
    /// The pairs as they were made.
    pub buckets: &'a Buckets<'a>,
    pub work: &'a Work,
    pub config: &'a PrepareConfig,
    pub seed: Seed,
    /// Names of the input files by index, for messages.
    pub labels: &'a [String],
    /// Whether finished buckets are kept on disk: they are read more than once.
    pub keep: bool,
}

/// A finished bucket on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    frame: Blob,
    drops: Vec<Reject>,
    conflicts: u64,
    conflict: String,
}

impl FinishedBuckets<'_> {
    /// The pairs of a bucket in their final order, and the dropped ones.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; [`crate::Error::Artifact`] where a file was damaged; [`crate::Error::Frame`].
    pub fn read(&self, bucket: usize) -> Result<Finished> {
        let name = format!("finished-{bucket:03}");
        let path = self.work.path(&name);
        if let Some(Kept { frame, drops, conflicts, conflict }) = self.work.read(&name) {
            return Ok(Finished { frame: blobs::read_frame(&path, &frame)?, drops, conflicts, conflict });
        }
        let finished = pairs::finish(self.buckets.read(bucket)?, &self.config.pairs, self.seed, self.labels)?;
        if self.keep {
            let frame = blobs::write(&path, &[blobs::from_frame(&finished.frame)?])?.remove(0);
            let (drops, conflict) = (finished.drops.clone(), finished.conflict.clone());
            self.work.finish(&name, &Kept { frame, drops, conflicts: finished.conflicts, conflict })?;
        }
        Ok(finished)
    }
}
