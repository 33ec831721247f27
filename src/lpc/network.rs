//! Small networks on hidden states.

use candle_core::{D, Tensor};

use super::{Context, Features, LpcConfig};
use crate::error::Result;

/// Linear - SiLU - Linear.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    w0: Tensor,
    b0: Tensor,
    w2: Tensor,
    b2: Tensor,
}

impl Mlp {
    /// Over `NAME.0` and `NAME.2`.
    pub fn find(name: &str, find: &dyn Fn(&str) -> Result<Tensor>) -> Result<Mlp> {
        let part = |part: &str| find(&format!("{name}.{part}"));
        Ok(Mlp { w0: part("0.weight")?, b0: part("0.bias")?, w2: part("2.weight")?, b2: part("2.bias")? })
    }

    /// (B,inputs) -> (B,outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = x.matmul(&self.w0.t()?)?.broadcast_add(&self.b0)?;
        // silu composed: candle's own has a backward pass, but sigmoid times x is as exact and plain.
        let hidden = candle_nn::ops::silu(&hidden)?;
        Ok(hidden.matmul(&self.w2.t()?)?.broadcast_add(&self.b2)?)
    }
}

/// What a network sees of hidden states: cut off from the backbone and scaled, as the options say.
pub(super) fn seen(config: &LpcConfig, x: &Tensor) -> Result<Tensor> {
    let x = if config.detach { x.detach() } else { x.clone() };
    if config.normalise { unit_scale(&x) } else { Ok(x) }
}

/// Both responses as one input.
pub(super) fn features(config: &LpcConfig, context: &Context) -> Result<Tensor> {
    let Some((chosen, rejected)) = &context.responses else {
        return Err(crate::Error::run("a posterior without the hidden states of the responses"));
    };
    let joined = match config.features {
        Features::Concat => Tensor::cat(&[chosen, rejected], 1)?,
        Features::Difference => (chosen - rejected)?,
    };
    seen(config, &joined)
}

/// `g` of the prior's and the rest of the posterior's. A side without weight is left out, so that fixed g costs no
/// noise in the gradient.
pub(super) fn blend(
    g: f64,
    prior: impl FnOnce() -> Result<Tensor>,
    posterior: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    if g <= 0.0 {
        posterior()
    } else if g >= 1.0 {
        prior()
    } else {
        Ok(((prior()? * g)? + (posterior()? * (1.0 - g))?)?)
    }
}

/// Rows divided by their root mean square.
fn unit_scale(x: &Tensor) -> Result<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(square + 1e-12)?.sqrt()?)?)
}

/// `x - ln sum e^x` over the last dimension, from candle's differentiable operations.
pub(super) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}
