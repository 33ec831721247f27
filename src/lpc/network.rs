//! Small networks on hidden states and on the tokens of a prompt.

use std::ops::Range;

use candle_core::{D, Tensor};

use super::config::{Features, LpcConfig, Normalise};
use super::names;
use super::step::Context;
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

    /// The outputs, differentiable.
    ///
    /// # Shapes
    /// x (B,inputs) -> (B,outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = x.matmul(&self.w0.t()?)?.broadcast_add(&self.b0)?;
        let hidden = candle_nn::ops::silu(&hidden)?;
        Ok(hidden.matmul(&self.w2.t()?)?.broadcast_add(&self.b2)?)
    }
}

/// Linear - SiLU - Linear over what the prior reads of a prompt: hidden states, which tokens occur, or both. A prior
/// that reads nothing has the last bias alone, and gives the same output for every prompt.
#[derive(Debug, Clone)]
pub(super) struct PromptNet {
    states: Option<StateInput>,
    /// A vector for every token that the prior knows (P,m).
    table: Option<Tensor>,
    b0: Option<Tensor>,
    w2: Option<Tensor>,
    b2: Tensor,
}

/// The part that reads hidden states.
#[derive(Debug, Clone)]
struct StateInput {
    w0: Tensor,
    /// Mean and deviation of each dimension over the training prompts, where the input is standardised.
    statistics: Option<(Tensor, Tensor)>,
}

impl PromptNet {
    pub fn find(config: &LpcConfig, name: &str, find: &dyn Fn(&str) -> Result<Tensor>) -> Result<PromptNet> {
        let part = |part: &str| find(&format!("{name}.{part}"));
        let states = if config.prior_input.states() {
            let statistics = match config.normalise {
                Normalise::Standardise => Some((find(names::PROMPT_MEAN)?, find(names::PROMPT_DEVIATION)?)),
                _ => None,
            };
            Some(StateInput { w0: part("0.weight")?, statistics })
        } else {
            None
        };
        let table = if config.prior_input.tokens() { Some(part("table")?) } else { None };
        let reads = states.is_some() || table.is_some();
        let when = |name: &str| if reads { part(name).map(Some) } else { Ok(None) };
        Ok(PromptNet { states, table, b0: when("0.bias")?, w2: when("2.weight")?, b2: part("2.bias")? })
    }

    /// The outputs, differentiable.
    ///
    /// # Shapes
    /// (B,outputs).
    ///
    /// # Errors
    /// [`crate::Error::Run`] where the context lacks what is read.
    pub fn forward(&self, config: &LpcConfig, context: &Context) -> Result<Tensor> {
        let outputs = self.b2.elem_count();
        let (Some(b0), Some(w2)) = (&self.b0, &self.w2) else {
            return Ok(self.b2.unsqueeze(0)?.broadcast_as((context.pairs, outputs))?.contiguous()?);
        };
        let mut sum: Option<Tensor> = None;
        if let Some(states) = &self.states {
            let Some(prompt) = &context.prompt else {
                return Err(crate::Error::run("a prior without the hidden states of the prompts"));
            };
            let x = match &states.statistics {
                Some((mean, deviation)) => {
                    let x = if config.detach { prompt.detach() } else { prompt.clone() };
                    x.broadcast_sub(mean)?.broadcast_div(deviation)?
                }
                None => seen(config, prompt)?,
            };
            sum = Some(x.matmul(&states.w0.t()?)?);
        }
        if let Some(table) = &self.table {
            let Some((tokens, ranges)) = &context.tokens else {
                return Err(crate::Error::run("a prior without the tokens of the prompts"));
            };
            let x = sums_of(table, tokens, ranges)?;
            sum = Some(match sum {
                None => x,
                Some(before) => (before + x)?,
            });
        }
        let sum = sum.ok_or_else(|| crate::Error::run("a prior that reads nothing has no layers"))?;
        let hidden = candle_nn::ops::silu(&sum.broadcast_add(b0)?)?;
        Ok(hidden.matmul(&w2.t()?)?.broadcast_add(&self.b2)?)
    }
}

/// For each pair the sum of the table's rows `tokens[range]`; zeros for an empty range.
///
/// # Shapes
/// table (P,m) · B ranges -> (B,m).
fn sums_of(table: &Tensor, tokens: &[u32], ranges: &[Range<usize>]) -> Result<Tensor> {
    if tokens.is_empty() {
        // The table stays in the graph, so that it has a gradient, of zeros.
        let nothing = (table.narrow(0, 0, 1)? * 0.0)?;
        return Ok(nothing.broadcast_as((ranges.len(), table.dim(1)?))?.contiguous()?);
    }
    let index = Tensor::from_slice(tokens, tokens.len(), table.device())?;
    crate::nn::segment::sum(&table.index_select(&index, 0)?, ranges.to_vec()).map_err(Into::into)
}

/// Hidden states as a network reads them: scaled as `normalise` says, and without a gradient to the backbone where
/// `detach` is set.
pub(super) fn seen(config: &LpcConfig, x: &Tensor) -> Result<Tensor> {
    let x = if config.detach { x.detach() } else { x.clone() };
    if config.normalise == Normalise::None { Ok(x) } else { unit_scale(&x) }
}

/// Both responses as one input of the posterior's network.
///
/// # Shapes
/// (B,2H) side by side, (B,H) as a difference.
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

/// `g prior + (1-g) posterior`. A side without weight is not computed, so that its noise has no part in the gradient.
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

/// Rows divided by their root mean square, of the same shape.
fn unit_scale(x: &Tensor) -> Result<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(square + 1e-12)?.sqrt()?)?)
}

/// `x - ln sum e^x` over the last dimension, differentiable and of the same shape.
pub(super) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}
