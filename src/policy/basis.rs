//! What the latent part takes from the training data: its tokens and the unit of its codes (see [`Basis`]).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Policy;
use super::evaluate::passes;
use crate::batch::Sides;
use crate::error::Result;
use crate::lpc::basis::{LEAST_PROMPTS, frequent};
use crate::lpc::{Basis, CodeSpace, LpcConfig, names};
use crate::model::{Loaded, names as decoder};
use crate::nn::Real;
use crate::token_file::{self, TokenRow};

/// Training pairs from which the unit of the codes is taken.
const PAIRS: usize = 2048;
/// Deviation below which a dimension of hidden states counts as constant.
const LEAST_DEVIATION: f64 = 1e-6;

/// How much the reward margin of a pair, in the objective's unit of margins, changes with the summed log-probabilities
/// of its chosen and its rejected response; from their token counts.
pub type MarginScales<'a> = &'a dyn Fn(usize, usize) -> (f64, f64);

/// Tokens and unit from the training rows.
///
/// The unit: with u the difference of a pair's token counts, each side times its margin scale (for codes in hidden
/// space, the same taken through the head), a code of independent entries of deviation s gives the margin a deviation
/// of about `s |u|`; the unit is one over the root mean square of |u|.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn of(config: &LpcConfig, loaded: &Loaded, rows: &[TokenRow], scales: MarginScales<'_>) -> Result<Basis> {
    let hidden = loaded.config.hidden_size;
    let responses = rows.iter().flat_map(|row| [visited(&row.chosen_ids), visited(&row.rejected_ids)]);
    let code_tokens =
        (config.code_space == CodeSpace::Vocabulary).then(|| Arc::new(frequent(responses, config.code_tokens, 1)));
    let prior_tokens = if config.prior_input.tokens() {
        let prompts = once_a_prompt(rows);
        let least = if prompts.len() >= 100 { LEAST_PROMPTS } else { 1 };
        frequent(prompts.into_iter().map(|row| visited(&row.prompt_ids)), config.prior_tokens, least)
    } else {
        Vec::new()
    };
    let head = match &code_tokens {
        Some(_) => None,
        None => {
            let tied = loaded.config.tie_word_embeddings;
            let name = if tied { decoder::EMBEDDING } else { decoder::HEAD };
            let head = loaded.params.iter().find(|p| p.name == name);
            head.map(|p| p.var.as_detached_tensor().to_dtype(DType::F32)).transpose()?
        }
    };
    let vocabulary = loaded.config.vocab_size;
    let mut counted = vec![code_tokens.is_none(); vocabulary];
    code_tokens.iter().flat_map(|tokens| tokens.iter()).for_each(|&token| counted[token as usize] = true);
    let mut squares = 0.0;
    for row in rows.iter().take(PAIRS) {
        let (chosen, rejected) = scales(row.chosen_ids.len(), row.rejected_ids.len());
        let mut counts = std::collections::BTreeMap::new();
        for (ids, scale) in [(&row.chosen_ids, chosen), (&row.rejected_ids, -rejected)] {
            for id in ids.iter().filter(|id| counted.get(**id as usize).copied().unwrap_or(false)) {
                *counts.entry(*id).or_insert(0.0) += scale;
            }
        }
        squares += match &head {
            None => counts.values().map(|n: &f64| n * n).sum::<f64>(),
            Some(head) => {
                let ids: Vec<u32> = counts.keys().copied().collect();
                let weights: Vec<f32> = counts.values().map(|n| *n as f32).collect();
                let n = ids.len();
                let rows = head.index_select(&Tensor::from_vec(ids, n, head.device())?, 0)?;
                let u = Tensor::from_vec(weights, (1, n), head.device())?.matmul(&rows)?;
                u.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_vec0::<f64>()?
            }
        };
    }
    let mean = squares / rows.len().clamp(1, PAIRS) as f64;
    // Pairs whose responses do not differ in the tokens that take biases give no unit: then any will do.
    let unit = if mean > 0.0 { 1.0 / mean.sqrt() } else { 1.0 };
    Ok(Basis { hidden, code_tokens, prior_tokens, unit })
}

/// The ids of a text that is looked at.
fn visited(ids: &[u32]) -> &[u32] {
    token_file::visited(ids.len());
    ids
}

/// One row of each prompt: pairs of a prompt follow each other.
fn once_a_prompt(rows: &[TokenRow]) -> Vec<&TokenRow> {
    let first = |i: usize| i == 0 || rows[i - 1].prompt_ids != rows[i].prompt_ids;
    (0..rows.len()).filter(|&i| first(i)).map(|i| &rows[i]).collect()
}

/// Where the prior reads standardised hidden states: sets its parameters for the mean and the deviation of each
/// dimension of the prompts' hidden states. Consecutive rows of one prompt count once.
///
/// # Errors
/// Those of the backbone.
pub fn standardise<T: Real>(policy: &Policy<T>, rows: &[TokenRow]) -> Result<()> {
    let (Ok(mean), Ok(deviation)) =
        (policy.params.position(names::PROMPT_MEAN), policy.params.position(names::PROMPT_DEVIATION))
    else {
        return Ok(());
    };
    let hidden = policy.decoder.config.hidden_size;
    let (mut sums, mut squares, mut n) = (vec![0f64; hidden], vec![0f64; hidden], 0.0);
    for pass in passes(&once_a_prompt(rows)) {
        let states = policy.states(pass, Sides::Chosen, None)?;
        let Some(prompt) = states.prompt else { return Ok(()) };
        for row in prompt.to_dtype(DType::F64)?.to_vec2::<f64>()? {
            for ((sum, square), x) in sums.iter_mut().zip(&mut squares).zip(row) {
                *sum += x;
                *square += x * x;
            }
            n += 1.0;
        }
    }
    let put = |position: usize, values: Vec<f64>| -> Result<()> {
        let values: Vec<T> = values.into_iter().map(T::of).collect();
        policy.params.get(position).var.set(&Tensor::from_vec(values, hidden, &Device::Cpu)?)?;
        Ok(())
    };
    let means: Vec<f64> = sums.iter().map(|sum| sum / n).collect();
    let deviations = squares.iter().zip(&means).map(|(square, mean)| {
        let deviation = (square / n - mean * mean).max(0.0).sqrt();
        // A constant dimension says nothing: its difference from the mean is 0 whatever it is divided by.
        if deviation > LEAST_DEVIATION { deviation } else { 1.0 }
    });
    put(deviation, deviations.collect())?;
    put(mean, means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LlamaConfig;
    use crate::model::init::random;
    use crate::seed::Seed;

    /// The prior's tokens would else be those of prompts with many pairs, by which it learns prompts by heart.
    #[test]
    fn a_prompt_counts_once_for_the_priors_tokens() {
        let config = LlamaConfig::tiny(16, 1, 300);
        let loaded = Loaded { params: random::<f32>(&config, 0.02, Seed(1)).unwrap(), config };
        // Token 1 is in every prompt, token 2 in three prompts of a pair, token 3 in one prompt of four pairs.
        let prompt = |i: u32| match i {
            0..3 => vec![1, 2, 10 + i],
            3 => vec![1, 3, 10 + i],
            _ => vec![1, 10 + i],
        };
        let pairs = (0..100u32).flat_map(|i| (0..if i == 3 { 4 } else { 1 }).map(move |pair| (i, pair)));
        let row = |(i, pair): (u32, u32)| TokenRow {
            id: format!("{i} {pair}").into(),
            prompt_ids: prompt(i).into(),
            chosen_ids: vec![200, 201].into(),
            rejected_ids: vec![202].into(),
            ..TokenRow::default()
        };
        let rows: Vec<TokenRow> = pairs.map(row).collect();
        let lpc = LpcConfig { latent: crate::lpc::LatentKind::Lpc, ..LpcConfig::default() };
        let mut tokens = of(&lpc, &loaded, &rows, &|_, _| (1.0, 1.0)).unwrap().prior_tokens;
        tokens.sort_unstable();
        assert_eq!(tokens, [1, 2]);
    }
}
