//! Ingested rows -> the rows that go in: with a source tag, in the share of their input that was asked for, and
//! without questions of benchmarks.

pub mod contamination;
pub mod join;
mod matching;
pub mod mix;
pub mod tags;
