//! What the latent part makes of prompts alone, for generation and for scoring answers: the prior's z.

use candle_core::{DType, Tensor};

use super::Policy;
use crate::error::{Error, Result};
use crate::lpc::{Context, Lpc};
use crate::model::{LogitShift, Prompts};
use crate::nn::Real;

/// The prior of one prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptLatent {
    /// p(z|x) over the codes; empty without codes.
    pub prior: Vec<f32>,
    /// What the prior's z adds to the logits; none where there is no z in evaluation.
    pub shift: Option<LogitShift>,
}

/// What gives the prior of prompts: the latent part alone, or the whole policy where the prior reads its hidden states.
#[derive(Debug)]
pub enum PromptPrior {
    /// The latent part, if there is one.
    Latent(Option<Box<Lpc>>),
    /// The policy.
    Policy(Box<Policy<f32>>),
}

impl PromptPrior {
    /// As [`Policy::prompt_latent`].
    ///
    /// # Errors
    /// As [`Policy::prompt_latent`].
    pub fn prompt_latent(&self, prompt: &[u32]) -> Result<PromptLatent> {
        match self {
            PromptPrior::Latent(None) => Ok(PromptLatent::default()),
            PromptPrior::Latent(Some(lpc)) => of_prompt(lpc, prompt, None),
            PromptPrior::Policy(policy) => policy.prompt_latent(prompt),
        }
    }

    fn latent(&self) -> Option<&Lpc> {
        match self {
            PromptPrior::Latent(lpc) => lpc.as_deref(),
            PromptPrior::Policy(policy) => policy.lpc.as_ref(),
        }
    }

    /// What every code alone adds to the logits; empty without codes.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn code_shifts(&self) -> Result<Vec<LogitShift>> {
        let Some((lpc, codes)) = self.latent().and_then(|lpc| Some((lpc, lpc.codes()?))) else {
            return Ok(Vec::new());
        };
        let vectors = codes.vectors().to_dtype(DType::F32)?.to_vec2::<f32>()?;
        Ok(vectors.into_iter().map(|z| shift(lpc, z)).collect())
    }

    /// What one code alone adds to the logits.
    ///
    /// # Errors
    /// [`Error::Config`] at the setting `key` for a code that the model does not have.
    pub fn code_shift(&self, code: usize, key: &str) -> Result<LogitShift> {
        let mut codes = self.code_shifts()?;
        if code < codes.len() {
            return Ok(codes.swap_remove(code));
        }
        let why = match codes.len() {
            0 => "the model has no codes".to_string(),
            k => format!("code {code}: the model has {k}, 0 to {}", k - 1),
        };
        Err(Error::config(key, why))
    }
}

impl<T: Real> Policy<T> {
    /// The prior of a prompt, and its z: that of evaluation, without sampling. Without a latent part there is none.
    /// Prompts are taken one at a time, so that none depends on the others.
    ///
    /// # Errors
    /// [`Error::Run`] for an empty prompt; those of the backbone, where the prior reads its hidden states.
    pub fn prompt_latent(&self, prompt: &[u32]) -> Result<PromptLatent> {
        let Some(lpc) = &self.lpc else { return Ok(PromptLatent::default()) };
        let states = if lpc.config.reads_states() {
            let packed = Prompts::pack(&[prompt])?;
            let (h, beside) = self.decoder.hidden_at(packed.tokens(), self.layer_beside(), None)?;
            self.pooled_prompts(&h, beside.as_ref(), packed.ranges().collect())?
        } else {
            None
        };
        of_prompt(lpc, prompt, states)
    }
}

/// The prior of a prompt from its tokens, and its hidden states where they are read.
fn of_prompt(lpc: &Lpc, prompt: &[u32], states: Option<Tensor>) -> Result<PromptLatent> {
    let tokens = lpc.tokens(std::iter::once(prompt));
    let (prior, z) = lpc.prior(&Context { pairs: 1, prompt: states, tokens, responses: None })?;
    let row = |t: Option<Tensor>| -> Result<Option<Vec<f32>>> {
        Ok(t.map(|t| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()).transpose()?)
    };
    Ok(PromptLatent { prior: row(prior)?.unwrap_or_default(), shift: row(z)?.map(|z| shift(lpc, z)) })
}

fn shift(lpc: &Lpc, z: Vec<f32>) -> LogitShift {
    match &lpc.basis.code_tokens {
        Some(tokens) => LogitShift::Biases { tokens: tokens.clone(), values: z },
        None => LogitShift::Hidden(z),
    }
}
