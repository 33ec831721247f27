//! Batches -> a trained policy: steps, optimizer, schedules, checkpoints, events.
//!
//! The order of examples, the noise of every sample and the schedules are pure
//! functions of (seed, step), so that a run that was stopped and resumed ends
//! with the same bits as one that was not.

pub mod checkpoint;
pub mod config;
pub mod estimate;
pub mod events;
pub mod finite;
pub mod fit;
mod latent;
pub mod machine;
mod marginal;
pub mod optimizer;
pub mod peers;
pub mod place;
pub mod plan;
pub mod reference;
pub mod shares;
pub mod step;
pub mod tensorboard;

pub use config::{DeviceKind, HeadConfig, Kernels, LrSchedule, Posteriors, TrainConfig, Tune};
pub use events::{Metrics, Observer, TrainEvent};
pub use fit::{Fit, Outcome, fit};
pub use peers::Peers;
