//! Batches -> a trained policy: steps, optimizer, schedules, checkpoints, events.
//!
//! The order of examples, the noise of every sample and the schedules are pure
//! functions of (seed, step), so that a run that was stopped and resumed ends
//! with the same bits as one that was not.

pub mod checkpoint;
pub mod config;
pub mod events;
pub mod fit;
pub mod optimizer;
pub mod plan;
pub mod reference;
pub mod step;
pub mod tensorboard;

pub use config::{HeadConfig, LrSchedule, TrainConfig, Tune};
pub use events::{Metrics, Observer, TrainEvent};
pub use fit::{Fit, Outcome, fit};
