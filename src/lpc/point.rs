//! Controls with a single z for each pair: `mlp` and `bias`.
//!
//! They tell what codes are worth beyond more parameters: `mlp` reads the prompt
//! with as many of them as `lpc` has, `bias` is what `lpc` is with one code.

use candle_core::Tensor;

use super::network::PromptNet;
use super::{Context, LatentKind, LpcConfig, names};
use crate::error::Result;

/// What gives z.
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
