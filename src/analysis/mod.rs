//! Parquet -> tables: what a run's numbers say, and how sure one can be of them.
//!
//! [`intervals`], [`agreement`] and [`ranking`] are pure statistics on slices; [`tables`] applies them to
//! the frame of `posteriors.parquet`. Nothing here knows of tensors.

pub mod agreement;
pub mod intervals;
pub mod ranking;
pub mod tables;

pub use agreement::{Contingency, ami, chi_square, contingency, cramers_v, entropy, nmi, perplexity, purity};
pub use intervals::{Interval, bootstrap_paired, mean_interval_t, wilson};
pub use ranking::{auroc, average_precision};
pub use tables::{accuracy_by_source, code_source_association, code_usage, mislabel_auroc};
