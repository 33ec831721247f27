//! Ingested rows -> the rows that are used: tagged with their source, sampled by the shares of the inputs, and without
//! questions of benchmarks.

pub mod contamination;
pub mod join;
mod matching;
pub mod mix;
pub mod tags;
