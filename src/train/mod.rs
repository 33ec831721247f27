//! Batches -> a trained policy: steps, optimizer, schedules, reference, checkpoints, events, ranks; and what a run
//! costs.
//!
//! The order of examples, the noise of every sample and the schedules are pure functions of (seed, step). A run that
//! was stopped and resumed ends with the same bits as one that was not.

pub mod checkpoint;
pub mod config;
pub mod device;
pub mod estimate;
pub mod events;
pub mod fit;
pub mod fold;
pub mod gradient_check;
pub mod grouping;
pub mod held_out;
mod metrics;
pub mod optimizer;
pub mod ranks;
mod rates;
pub mod reference;
pub mod run_folder;
pub mod step;
pub mod step_plan;
pub mod tensorboard;
pub mod timing;
pub mod tuning;
pub mod validation;

pub use config::{HeadConfig, LrSchedule, Posteriors, TrainConfig, Tune};
pub use device::{DeviceKind, Kernels, PrecisionKind};
pub use events::{Metrics, Observer, TrainEvent};
pub use fit::{Due, Fit, Outcome, fit};
pub use fold::Fold;
pub use held_out::HeldOut;
pub use ranks::Ranks;
pub use validation::{Validated, Validation, ValidationConfig, ValidationMetric};
