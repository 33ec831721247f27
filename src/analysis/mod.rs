//! Parquet -> tables: statistics of a run, with their confidence intervals.
//!
//! [`intervals`], [`paired`], [`agreement`], [`ranking`] and [`ranks`] are pure statistics on slices; [`tables`], [`codes`],
//! [`reading`], [`associations`], [`mod@representatives`] and [`projection`] apply them to the frame of `posteriors.parquet`.
//! [`prepared_pairs`] reads what the prepared folder knows of the pairs. Nothing here knows of tensors.

pub mod agreement;
pub mod associations;
pub mod codes;
pub mod headline;
pub mod intervals;
pub mod paired;
pub mod prepared_pairs;
pub mod projection;
pub mod ranking;
pub mod ranks;
pub mod reading;
pub mod representatives;
pub mod tables;

pub use agreement::{Dependence, ami, dependence, nmi, purity};
pub use associations::{
    Associations, CodeBy, CodeNumbers, LabelAssociation, NumberAssociation, SplitAssociations, associate, pair_labels,
};
pub use codes::{CodeAccuracy, CodeMargins, Duplicate, LabelAccuracy, Labels, code_accuracy};
pub use headline::{Headline, SourceAccuracy, headline};
pub use intervals::{Interval, LEAST_RUNS, mean_interval_t, wilson};
pub use paired::{ClusterDifference, PairedDifference, by_cluster, paired_difference};
pub use prepared_pairs::{PairFacts, PairTexts};
pub use projection::{Colour, Method, Projection, project};
pub use ranking::{auroc, average_precision, expected_auroc, precision_at};
pub use ranks::{KruskalWallis, holm, kruskal_wallis};
pub use reading::{CodeAgreement, CodeReading, code_agreement, code_columns, read_codes};
pub use representatives::{RepresentativePair, Representatives, representatives};
pub use tables::{CopyNumbers, code_usage, mislabel_auroc};
