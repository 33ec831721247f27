//! Pairs -> Arrow token batches: chat template, encoding, the file format.

pub mod store;
