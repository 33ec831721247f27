//! Clean pairs between reading and writing: in segments on disk, each sorted into buckets by
//! the hash of the normalized prompt. All pairs of one prompt are in one bucket, and a single bucket
//! fits into memory, whatever the size of the input.

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blobs::{self, Blob};
use super::work::Work;
use crate::error::{Error, Result};
use crate::pipeline::recipe::Shard;
use crate::rejects::{self, Reject};
use crate::schema::col;

/// A segment is written when it holds this much ...
const SEGMENT_BYTES: usize = 64 << 20;
/// ... or this many pairs.
const SEGMENT_ROWS: usize = 65_536;
/// Buckets of an input that is larger than one segment.
const BUCKETS: u32 = 256;

/// The marker of a segment: where its rows are.
#[derive(Debug, Serialize, Deserialize)]
struct Segment<T> {
    /// Number of buckets, the same in all segments.
    buckets: u32,
    /// Where the rows of a bucket are, and how many; buckets without rows are left out.
    blobs: Vec<(u32, u64, Blob)>,
    /// Where the rejected rows are.
    rejects: Blob,
    /// What the caller stores with the segment.
    facts: T,
}

/// Collects pairs and writes them as segments.
pub struct Spill<'a, T> {
    work: &'a Work,
    shard: Shard,
    buckets: u32,
    /// Of the segments on disk, in order.
    segments: Vec<Segment<T>>,
    waiting: Vec<DataFrame>,
    rejects: Vec<Reject>,
    bytes: usize,
    rows: usize,
}

impl<'a, T: Serialize + serde::de::DeserializeOwned> Spill<'a, T> {
    /// Continues after the segments that are in the work folder already.
    pub fn open(work: &'a Work, shard: Shard) -> Spill<'a, T> {
        let mut spill = Spill {
            work,
            shard,
            buckets: 0,
            segments: Vec::new(),
            waiting: Vec::new(),
            rejects: Vec::new(),
            bytes: 0,
            rows: 0,
        };
        while let Some(segment) = work.read::<Segment<T>>(&name(spill.segments.len())) {
            spill.buckets = segment.buckets;
            spill.segments.push(segment);
        }
        spill
    }

    /// What was stored with the segments on disk, in order.
    pub fn facts(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.segments.iter().map(|s| &s.facts)
    }

    /// Adds pairs and rejected rows; returns whether it is time to [`Spill::flush`].
    pub fn add(&mut self, frame: DataFrame, rejects: Vec<Reject>) -> bool {
        self.rejects.extend(rejects);
        self.bytes += frame.estimated_size();
        self.rows += frame.height();
        self.waiting.push(frame);
        self.bytes >= SEGMENT_BYTES || self.rows >= SEGMENT_ROWS
    }

    /// Writes what was added as one segment, which a killed process leaves complete or not at all. `last` says that
    /// nothing follows: an input that fits into one segment needs no buckets.
    pub fn flush(&mut self, facts: T, last: bool) -> Result<()> {
        if self.buckets == 0 {
            self.buckets = if last { 1 } else { BUCKETS };
        }
        let frames = std::mem::take(&mut self.waiting);
        (self.bytes, self.rows) = (0, 0);
        let mut frames = frames.into_iter();
        let (mut indices, mut contents) = (Vec::new(), Vec::new());
        if let Some(mut all) = frames.next() {
            for frame in frames {
                all.vstack_mut_owned(frame)?;
            }
            all.rechunk_mut_par();
            let mut rows: Vec<Vec<IdxSize>> = vec![Vec::new(); self.buckets as usize];
            for (i, group) in all.column(col::GROUP)?.u64()?.iter().enumerate() {
                let at = self.shard.position(group.unwrap_or_default());
                rows[((u128::from(at) * u128::from(self.buckets)) >> 64) as usize].push(i as IdxSize);
            }
            // The output needs the columns even where there is no pair.
            let wanted = |rows: &Vec<IdxSize>| !rows.is_empty() || self.buckets == 1;
            let rows: Vec<(u32, Vec<IdxSize>)> = (0..).zip(rows).filter(|(_, rows)| wanted(rows)).collect();
            let pack = |(bucket, rows): (u32, Vec<IdxSize>)| -> Result<((u32, u64), Vec<u8>)> {
                let count = rows.len() as u64;
                Ok(((bucket, count), blobs::from_frame(&all.take(&IdxCa::from_vec("rows".into(), rows))?)?))
            };
            (indices, contents) = rows.into_par_iter().map(pack).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        }
        contents.push(blobs::from_frame(&rejects::to_frame(&std::mem::take(&mut self.rejects))?)?);
        let name = name(self.segments.len());
        let mut written = blobs::write(&self.work.path(&name), &contents)?;
        let rejects = written.pop().ok_or_else(|| Error::run("a segment was written without its rejects"))?;
        let blobs = indices.into_iter().zip(written).map(|((bucket, rows), blob)| (bucket, rows, blob)).collect();
        let segment = Segment { buckets: self.buckets, blobs, rejects, facts };
        self.work.finish(&name, &segment)?;
        self.segments.push(segment);
        Ok(())
    }

    /// The segments, to be read by bucket.
    pub fn finish(self) -> Buckets<'a> {
        let mut buckets: Vec<Vec<(usize, Blob)>> = vec![Vec::new(); self.buckets as usize];
        let mut rows = vec![0; self.buckets as usize];
        let mut rejects = Vec::new();
        for (at, segment) in self.segments.into_iter().enumerate() {
            rejects.push((at, segment.rejects));
            for (bucket, count, blob) in segment.blobs {
                if let Some(list) = buckets.get_mut(bucket as usize) {
                    list.push((at, blob));
                    rows[bucket as usize] += count;
                }
            }
        }
        Buckets { work: self.work, buckets, rows, rejects }
    }
}

fn name(segment: usize) -> String {
    format!("segment-{segment:05}")
}

/// All pairs, by bucket, on disk.
pub struct Buckets<'a> {
    work: &'a Work,
    /// By bucket: segment, and position in it.
    buckets: Vec<Vec<(usize, Blob)>>,
    /// By bucket.
    rows: Vec<u64>,
    rejects: Vec<(usize, Blob)>,
}

impl Buckets<'_> {
    /// Number of buckets.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Number of pairs in all buckets, duplicates included.
    pub fn rows(&self) -> u64 {
        self.rows.iter().sum()
    }

    /// Number of pairs in a bucket; none where nothing was written for it.
    pub fn rows_of(&self, bucket: usize) -> Option<u64> {
        (!self.buckets[bucket].is_empty()).then(|| self.rows[bucket])
    }

    /// Bytes of a bucket.
    fn bytes(&self, bucket: usize) -> u64 {
        self.buckets[bucket].iter().map(|(_, blob)| blob.bytes).sum()
    }

    /// The pairs of a bucket, as they were added.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Artifact`] where the file was damaged.
    pub fn read(&self, bucket: usize) -> Result<Vec<DataFrame>> {
        self.frames(&self.buckets[bucket])
    }

    /// The rows that were rejected while reading.
    pub fn rejects(&self) -> Result<Vec<DataFrame>> {
        self.frames(&self.rejects)
    }

    fn frames(&self, blobs: &[(usize, Blob)]) -> Result<Vec<DataFrame>> {
        let read = |(segment, blob): &(usize, Blob)| blobs::read_frame(&self.work.path(&name(*segment)), blob);
        blobs.iter().map(read).collect()
    }

    /// Buckets to be held in memory at the same time: as many as there are threads, unless they are large.
    pub fn waves(&self) -> Vec<std::ops::Range<usize>> {
        const WAVE_BYTES: u64 = 96 << 20;
        let threads = rayon::current_num_threads().max(1);
        let mut waves: Vec<std::ops::Range<usize>> = Vec::new();
        let mut bytes = 0;
        for bucket in 0..self.len() {
            let own = self.bytes(bucket);
            match waves.last_mut() {
                Some(wave) if wave.len() < threads && bytes + own <= WAVE_BYTES => {
                    wave.end = bucket + 1;
                    bytes += own;
                }
                _ => {
                    waves.push(bucket..bucket + 1);
                    bytes = own;
                }
            }
        }
        waves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(groups: &[u64]) -> DataFrame {
        let texts: Vec<String> = groups.iter().map(|g| format!("a text for the group {g}")).collect();
        df!("group" => groups, "text" => texts).unwrap()
    }

    fn groups(buckets: &Buckets<'_>) -> Vec<Vec<u64>> {
        let of = |frame: DataFrame| frame.column("group").unwrap().u64().unwrap().iter().flatten().collect::<Vec<_>>();
        (0..buckets.len()).map(|b| buckets.read(b).unwrap().into_iter().flat_map(of).collect()).collect()
    }

    #[test]
    fn a_small_input_is_one_bucket_even_when_it_is_empty() {
        let work = Work::temporary().unwrap();
        let mut spill = Spill::<u8>::open(&work, Shard::parse("").unwrap());
        spill.add(frame(&[]), Vec::new());
        spill.flush(1, true).unwrap();
        let buckets = spill.finish();
        assert_eq!(buckets.read(0).unwrap()[0].get_column_names(), ["group", "text"]);
        assert_eq!(groups(&buckets), [Vec::<u64>::new()]);
    }

    #[test]
    fn segments_are_found_again_and_equal_groups_meet() {
        let work = Work::temporary().unwrap();
        let shard = Shard::parse("").unwrap();
        let high = u64::MAX - 5;
        let mut spill = Spill::<u8>::open(&work, shard);
        spill.add(frame(&[high, 3]), Vec::new());
        spill.add(frame(&[u64::MAX / 2]), Vec::new());
        spill.flush(7, false).unwrap();
        drop(spill);
        let mut spill = Spill::<u8>::open(&work, shard);
        assert_eq!(spill.facts().collect::<Vec<_>>(), [&7]);
        spill.add(frame(&[3, high]), Vec::new());
        spill.flush(8, true).unwrap();
        let buckets = spill.finish();
        let found = groups(&buckets);
        assert_eq!((found.len(), &found[0], &found[255]), (256, &vec![3, 3], &vec![high, high]));
        assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 5);
        let waves = buckets.waves();
        assert_eq!(waves.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..256).collect::<Vec<_>>());
    }

    #[test]
    fn the_groups_of_a_shard_fill_all_buckets_in_order() {
        let shard = Shard::parse("2/3").unwrap();
        let third = u64::MAX / 3;
        let positions: Vec<u64> = [third + 1, third + third / 2, 2 * third].map(|g| shard.position(g)).to_vec();
        assert!(
            positions.is_sorted() && positions[0] < 1 << 40 && positions[2] > u64::MAX - (1 << 40),
            "{positions:?}"
        );
    }
}
