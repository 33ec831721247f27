//! Parquet -> tables: statistics of a run, with their confidence intervals.
//!
//! [`intervals`], [`agreement`] and [`ranking`] are pure statistics on slices; [`tables`], [`codes`] and
//! [`reading`] apply them to the frame of `posteriors.parquet`. Nothing here knows of tensors.

pub mod agreement;
pub mod codes;
pub mod headline;
pub mod intervals;
pub mod ranking;
pub mod reading;
pub mod tables;

pub use agreement::{ami, nmi, purity};
pub use codes::{CodeAccuracy, CodeMargins, Duplicate, LabelAccuracy, Labels, code_accuracy};
pub use headline::{Headline, SourceAccuracy, headline};
pub use intervals::{Interval, bootstrap_paired, mean_interval_t, wilson};
pub use ranking::{auroc, average_precision, expected_auroc, precision_at};
pub use reading::{CodeAgreement, CodeReading, code_agreement, code_columns, read_codes};
pub use tables::{code_usage, mislabel_auroc};
