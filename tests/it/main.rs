//! All integration tests in one binary, so that polars and candle are linked once. Each `mod.rs` lists its files.
//!
//! - `support`: a temporary folder, the program run in it, its output.
//! - `program`: what a person or another program relies on.
//! - `numbers`: what is computed.
//! - `data`: what is read, and what is made of it.
//! - `repository`: the sources, recipes and documents themselves.

mod data;
mod numbers;
mod program;
mod repository;
mod support;
