//! What is read and what is made of it: rows, corpora, planted preferences, token ids.
//!
//! - `ingest`: layouts and file formats, and real files.
//! - `corpora`: where rows come from, how much of each, and what must not be among them.
//! - `hub`: data from a hub, as the program is asked for it.
//! - `over`: preferences planted over texts that are given.
//! - `tokenize`: renderings and token ids recorded from transformers.

mod corpora;
mod hub;
mod ingest;
mod over;
mod tokenize;
