//! Reads the Parquet files of `lpc-pipe` into small tables and draws them, for notebooks with evcxr.
//!
//! A [`Table`] holds a whole file, column by column; [`Table::group`], [`Table::keep`], [`Table::join`] and their like make
//! new tables of it. A [`Chart`] draws bars, lines, heat maps and points as SVG. Both show themselves as the last
//! expression of a cell. Nothing panics: every function that can fail returns an [`Error`], which names the file and the
//! column.
//!
//! ```no_run
//! use lpc_pipe_notebook::{Chart, Table};
//!
//! # fn main() -> lpc_pipe_notebook::Result<()> {
//! let posteriors = Table::read("runs/demo/lpc-dpo/posteriors.parquet")?;
//! let by_source = posteriors.group(&["source"])?.mean(&["kl", "margin"])?;
//! let chart = Chart::bars(&by_source.texts("source")?, &[("KL", by_source.all_numbers("kl")?)])?;
//! # Ok(())
//! # }
//! ```

mod chart;
mod error;
mod show;
mod table;
mod values;

pub use chart::Chart;
pub use error::{Error, Result};
pub use table::{Groups, Table};
pub use values::{Column, Value, mean};
