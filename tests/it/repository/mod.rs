//! The sources, recipes and documents themselves.
//!
//! - `architecture`: who may import whom; who may print; who may draw random numbers; how long a file may be.
//! - `no_skips`: no test passes by skipping.
//! - `notebooks`: they are executed, and read columns that the program writes.
//! - `recipes`: every recipe under `pipelines/` resolves, and the documents say what the program does.

mod architecture;
mod no_skips;
mod notebooks;
mod recipes;
