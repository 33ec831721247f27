//! The wiring: each command is a module that calls the stages in order.

pub mod audit;
pub mod demo;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
mod kept;
pub mod launch;
pub mod merge;
mod opened;
pub mod plant;
pub mod planted;
pub mod prepare;
pub mod recipe;
pub mod score;
pub mod sweep;
pub mod train;
