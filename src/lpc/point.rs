//! Controls with a single z for each pair: `mlp` and `bias`.
//!
//! They show how much of the effect of codes comes from the added parameters: `mlp` reads the prompt with about as many
//! as `lpc` has, and `bias` is `lpc` with one code.

use candle_core::Tensor;

use super::config::{LatentKind, LpcConfig};
use super::names;
use super::network::PromptNet;
use super::step::Context;
use crate::error::Result;

/// Parameters of a latent that is one z for each pair.
#[derive(Debug, Clone)]
pub enum Point {
    /// z = MLP(what the prior reads of the prompt).
    Mlp(Box<Control>),
    /// One z for all: (H), or a bias of each token.
    Bias(Tensor),
}

/// The network of `mlp`.
#[derive(Debug, Clone)]
pub struct Control(PromptNet);

impl Point {
    pub(super) fn find(config: &LpcConfig, find: &dyn Fn(&str) -> Result<Tensor>) -> Result<Point> {
        if config.latent == LatentKind::Bias {
            return Ok(Point::Bias(find(names::BIAS)?));
        }
        Ok(Point::Mlp(Box::new(Control(PromptNet::find(config, names::MLP, find)?))))
    }

    /// z of every pair, differentiable.
    ///
    /// # Shapes
    /// (B,H), or (B,C) for biases of C tokens.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn z(&self, config: &LpcConfig, context: &Context) -> Result<Tensor> {
        match self {
            Point::Mlp(network) => network.0.forward(config, context),
            Point::Bias(z) => Ok(z.unsqueeze(0)?.broadcast_as((context.pairs, z.elem_count()))?.contiguous()?),
        }
    }
}
