//! One forward and backward pass over a batch of pairs.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::batch::Sides;
use crate::error::{Error, Result};
use crate::lpc::{Codes, Draw, Inferred, Moment, Noise, Usage};
use crate::model::Gradients;
use crate::nn::Real;
use crate::objective::{LogSum, ObjectiveConfig, ObjectiveKind, PreferenceLogps};
use crate::policy::Policy;
use crate::seed::Seed;
use crate::token_file::TokenRow;
use crate::train::ranks::layer_sums::LayerSums;
use crate::train::ranks::{Ranks, pack, unpack};

mod marginal;
mod weighing;

use weighing::{Part, Weighing};

/// Sums over the examples of a step, whose means are its metrics.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Examples.
    pub examples: f64,
    /// Tokens through the backbone.
    pub tokens: f64,
    /// Objective, without the latent's terms.
    pub objective: f64,
    /// KL(q || p), nats.
    pub kl: f64,
    /// Balance term times examples.
    pub balance: f64,
    /// Implicit rewards of chosen and rejected.
    pub rewards: (f64, f64),
    /// Examples with a positive margin (observed labels, sampled z).
    pub right: f64,
    /// Summed log-probabilities of chosen and rejected.
    pub logps: (f64, f64),
    /// Entropies of prior and posterior.
    pub entropy: (f64, f64),
    /// Swap overlap: how alike the posteriors of a pair and of its sides swapped are, 1 at most.
    pub overlap: f64,
    /// Use of codes, by the posterior.
    pub usage: Usage,
    /// Flip rates, where they are learned.
    pub flips: Option<f64>,
    /// Clean probabilities and weights, where the objective infers the former.
    pub clean: Option<(f64, f64)>,
    /// What Dr.DPO needs to know of the pairs: of their losses under samples or marginals, and under the expected z.
    pub joined: [LogSum; 2],
}

impl Sums {
    /// Adds up what the ranks counted in a step.
    ///
    /// # Errors
    /// As [`Ranks::meet`].
    pub fn join(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.size() == 1 {
            return Ok(());
        }
        let mut own = self.numbers().map(|x| *x).to_vec();
        let Usage { mass, counts, examples } = &self.usage;
        let (clean, weights) = self.clean.unwrap_or_default();
        own.extend([*examples as f64, f64::from(u8::from(self.flips.is_some())), self.flips.unwrap_or(0.0)]);
        own.extend([f64::from(u8::from(self.clean.is_some())), clean, weights]);
        own.extend(self.joined.iter().flat_map(|sum| [sum.log_sum, sum.mass]));
        own.extend(mass);
        own.extend(counts.iter().map(|&c| c as f64));
        let all = ranks.meet(Ok(pack(&own)))?;
        *self = Sums::default();
        all.iter().try_for_each(|bytes| self.add(&unpack(bytes)))
    }

    /// All plain numbers, named one by one, so that a new field cannot be forgotten.
    fn numbers(&mut self) -> [&mut f64; 13] {
        let Sums {
            examples,
            tokens,
            objective,
            kl,
            balance,
            rewards,
            right,
            logps,
            entropy,
            overlap,
            usage: _,
            flips: _,
            clean: _,
            joined: _,
        } = self;
        let ((r0, r1), (l0, l1), (e0, e1)) = (rewards, logps, entropy);
        [examples, tokens, objective, kl, balance, r0, r1, right, l0, l1, e0, e1, overlap]
    }

    /// Adds clean probabilities, each times its pair's weight, and those weights.
    fn add_clean(&mut self, clean: f64, weights: f64) {
        let sum = self.clean.get_or_insert((0.0, 0.0));
        *sum = (sum.0 + clean, sum.1 + weights);
    }

    /// Adds what a rank sent.
    fn add(&mut self, sent: &[f64]) -> Result<()> {
        let Some((numbers, [used, flipping, flips, cleaning, clean, weights, j0, m0, j1, m1, rest @ ..])) =
            sent.split_first_chunk::<13>()
        else {
            return Err(Error::run("ranks disagree about what a step counts; are all the same program?"));
        };
        self.numbers().into_iter().zip(numbers).for_each(|(sum, x)| *sum += x);
        if *flipping > 0.0 {
            *self.flips.get_or_insert(0.0) += flips;
        }
        if *cleaning > 0.0 {
            self.add_clean(*clean, *weights);
        }
        for (sum, (&log_sum, &mass)) in self.joined.iter_mut().zip([(j0, m0), (j1, m1)]) {
            *sum = sum.and(LogSum { log_sum, mass });
        }
        self.usage.examples += *used as u64;
        let (mass, counts) = rest.split_at(rest.len() / 2);
        if self.usage.mass.len() < mass.len() {
            self.usage.mass.resize(mass.len(), 0.0);
            self.usage.counts.resize(mass.len(), 0);
        }
        self.usage.mass.iter_mut().zip(mass).for_each(|(sum, m)| *sum += m);
        self.usage.counts.iter_mut().zip(counts).for_each(|(sum, &c)| *sum += c as u64);
        Ok(())
    }
}

/// What a pass needs besides the policy and the rows.
#[derive(Debug, Clone, Copy)]
pub struct StepPass<'a> {
    /// Resolved objective.
    pub objective: &'a ObjectiveConfig,
    /// State of the latent's schedules.
    pub moment: Moment,
    /// Seed of the samples' noise.
    pub seed: Seed,
    /// Part of the seed of the samples' noise: an example that is seen again gets other noise.
    pub occasion: &'a str,
    /// Examples of the whole step: the pass' losses are divided by it.
    pub step_examples: usize,
    /// The ranks among which the pass is shared.
    pub ranks: &'a Ranks,
    /// Whether the backbone is trained, and not the latent part alone.
    pub backbone: bool,
    /// Key of every row: neighbours of one key share a code. None: every row has its own.
    pub keys: Option<&'a [u64]>,
    /// What Dr.DPO needs to know of the whole step, as [`Sums::joined`], from forward passes before this one. None: the
    /// pass is the whole step.
    pub joined: Option<&'a [LogSum; 2]>,
    /// Sums layers' gradients over ranks while this pass goes backward: it is the last one of the step at every rank.
    pub layer_sums: Option<&'a LayerSums<'a>>,
}

/// What training does not change of a pass' rows.
struct Constants {
    /// Reference log-probabilities (B) of chosen and rejected.
    reference: (Tensor, Tensor),
    /// Tokens (B) of chosen and rejected, as numbers of the compute type.
    lengths: (Tensor, Tensor),
}

/// Forward and backward: adds the pass' gradients of the step's mean loss to `gradients`, and what it counts to `sums`.
/// `reference` has the reference log-probabilities of the rows, chosen and rejected.
///
/// # Units
/// `reference` in nats, summed over response tokens.
///
/// # Errors
/// [`Error::Run`] with the ids of the batch where the loss is not finite; [`Error::Tensor`].
pub fn pass<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    reference: &[(f64, f64)],
    pass: &StepPass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<()> {
    let loss = finite_loss(policy, rows, reference, pass, gradients, sums);
    let mut store = match pass.layer_sums {
        None => loss?.backward()?,
        Some(layer_sums) => {
            let loss = pass.ranks.agree(loss)?;
            layer_sums.during::<T, _>(gradients, || Ok(loss.backward()?))?
        }
    };
    gradients.absorb::<T>(&policy.params, &mut store)
}

/// [`forward`], where the loss is finite.
fn finite_loss<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    reference: &[(f64, f64)],
    pass: &StepPass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<Tensor> {
    let loss = forward(policy, rows, reference, pass, gradients, sums)?;
    let value = loss.to_dtype(DType::F64)?.to_vec0::<f64>()?;
    if !value.is_finite() {
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        return Err(Error::run(format!("the loss is {value} on the batch with ids {}", ids.join(" ")))
            .with_hint("a lower --lr or --set train.clip=1.0 usually helps; lpc-pipe inspect shows the data"));
    }
    Ok(loss)
}

/// The pass' share of the step's mean loss, differentiable; adds what it counts to `sums`.
///
/// The mean is `sum_i w_i l_i / n` over the step's n examples, w being the rows' weights: a row of weight 2 moves the
/// parameters as two rows would. Metrics other than the loss are not weighted, nor is the balance of the codes' usage.
/// For Dr.DPO the losses are joined instead, and where a step has other passes the value is not the loss, but its
/// gradient is.
///
/// # Shapes
/// A scalar.
///
/// # Units
/// Those of the objective's losses.
///
/// # Errors
/// [`Error::Tensor`].
///
/// # Source
/// Gong et al. 2025, Eq. 9 and 11, where the posterior is amortised.
pub fn forward<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    reference: &[(f64, f64)],
    pass: &StepPass<'_>,
    gradients: &Arc<Gradients>,
    sums: &mut Sums,
) -> Result<Tensor> {
    let sides = if pass.objective.name == ObjectiveKind::Sft { Sides::Chosen } else { Sides::Both };
    let mut states = policy.states(rows, sides, Some(gradients).filter(|_| pass.backbone))?;
    let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
    if let Some(lpc) = &policy.lpc {
        let noise = Noise { seed: pass.seed, occasion: pass.occasion, ids: &ids };
        lpc.drop_tokens(&mut states.tokens, &noise);
    }
    let found = policy.infer(&states)?;
    let column = |values: Vec<f64>| -> Result<Tensor> {
        Ok(Tensor::from_vec(values, rows.len(), states.h.device())?.to_dtype(T::KIND)?)
    };
    let lengths = |get: fn(&TokenRow) -> usize| column(rows.iter().map(|r| get(r) as f64).collect());
    let constants = Constants {
        reference: (column(reference.iter().map(|r| r.0).collect())?, column(reference.iter().map(|r| r.1).collect())?),
        lengths: (lengths(|r| r.chosen_ids.len())?, lengths(|r| r.rejected_ids.len())?),
    };
    let share = 1.0 / pass.step_examples as f64;
    let weighing = Weighing::of(rows, pass, states.h.device(), T::KIND)?;
    sums.examples += rows.len() as f64;
    // Counted over the rows: the backbone does not run where hidden states were kept.
    let rejected = |r: &TokenRow| if sides == Sides::Both { r.rejected_ids.len() } else { 0 };
    sums.tokens += rows.iter().map(|r| r.prompt_ids.len() + r.chosen_ids.len() + rejected(r)).sum::<usize>() as f64;
    if let Some(Inferred::Prior(log_prior)) = &found {
        let groups = match pass.keys {
            Some(keys) => crate::batch::runs(keys),
            None => (0..rows.len()).map(|i| i..i + 1).collect(),
        };
        return marginal::forward(policy, &states, log_prior, &constants, &groups, &weighing, gradients, sums);
    }
    let draws = draws(policy, rows, found.as_ref(), pass)?;
    let mut losses_of_draws = Vec::new();
    let mut clean = vec![0.0; rows.len()];
    let mut margins = vec![0.0; rows.len()];
    // With exact sums one product gives the log-probabilities under all codes.
    let exact = policy.lpc.as_ref().is_some_and(|lpc| lpc.config.exact);
    let known = if exact { Some(policy.logps_of_codes(&states, None, Some(gradients))?) } else { None };
    for (i, draw) in draws.iter().enumerate() {
        let code = |side: &Tensor| -> Result<Tensor> { Ok(side.narrow(1, i, 1)?.squeeze(1)?) };
        let (chosen, rejected) = match &known {
            Some(known) => (code(&known.chosen)?, known.rejected.as_ref().map(code).transpose()?),
            None => {
                let logps = policy.logps(&states, draw.z.as_ref(), Some(gradients))?;
                (logps.chosen, logps.rejected)
            }
        };
        let preference = PreferenceLogps {
            // SFT sees one side only; the other stands at its reference and has no gradient.
            rejected_logps: rejected.unwrap_or_else(|| constants.reference.1.clone()),
            chosen_logps: chosen,
            reference_chosen_logps: constants.reference.0.clone(),
            reference_rejected_logps: constants.reference.1.clone(),
            n_chosen: constants.lengths.0.clone(),
            n_rejected: constants.lengths.1.clone(),
        };
        let found = pass.objective.losses_with(&preference, draw.flips.as_ref())?;
        let weighted = |x: &Tensor| match &draw.weight {
            None => Ok(x.clone()),
            Some(w) => x * w,
        };
        if let Some(flips) = &draw.flips {
            *sums.flips.get_or_insert(0.0) += total(&weighted(flips)?)?;
        }
        if let Some(w) = pass.objective.clean_probabilities(&preference)? {
            clean.iter_mut().zip(numbers(&weighted(&w)?)?).for_each(|(sum, w)| *sum += w);
        }
        let losses = weighted(&found.losses)?;
        sums.objective += total(&weighing.times(&losses)?)?;
        sums.rewards.0 += total(&weighted(&found.chosen_rewards)?)?;
        sums.rewards.1 += total(&weighted(&found.rejected_rewards)?)?;
        sums.logps.0 += total(&weighted(&preference.chosen_logps)?)?;
        sums.logps.1 += total(&weighted(&preference.rejected_logps)?)?;
        margins.iter_mut().zip(numbers(&weighted(&found.margins()?)?)?).for_each(|(m, x)| *m += x);
        losses_of_draws.push(losses);
    }
    if pass.objective.clean_rate().is_some() {
        weighing.count_clean(&clean, sums);
    }
    sums.right += margins.iter().filter(|m| **m > 0.0).count() as f64;
    let mut loss = weighing.of_draws(&losses_of_draws, sums)?;
    if let Some(kl) = found.as_ref().map(Inferred::kl).transpose()?.flatten() {
        loss = (loss + (weighing.times(&kl)?.sum_all()? * (share * pass.moment.kl_weight))?)?;
        sums.kl += total(&kl)?;
    }
    if let (Some(codes), Some(lpc)) = (found.as_ref().and_then(Inferred::codes), &policy.lpc) {
        if pass.moment.balance > 0.0 {
            let (mean, examples) = mean_of(&codes.log_posterior, pass.ranks)?;
            let balance = crate::lpc::balance(&mean)?;
            loss = (loss + (&balance * (examples * share * pass.moment.balance))?)?;
            sums.balance += balance.to_dtype(DType::F64)?.to_vec0::<f64>()? * rows.len() as f64;
        }
        let context = policy.context(&states, &lpc.config)?;
        if let Some(swapped) = lpc.codes().map(|c| c.swapped(&lpc.config, &context)).transpose()?.flatten() {
            sums.overlap += total(&crate::lpc::bayes::overlap(&codes.log_posterior, &swapped)?)?;
        }
        count_codes(codes, sums)?;
    }
    Ok(loss)
}

/// The z's over which the loss is averaged, with flip rates where they are learned. Without a latent, a single draw
/// without a z.
fn draws<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    found: Option<&Inferred>,
    pass: &StepPass<'_>,
) -> Result<Vec<Draw>> {
    let mut draws = match (&policy.lpc, found) {
        (Some(lpc), Some(found)) => {
            let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
            let noise = Noise { seed: pass.seed, occasion: pass.occasion, ids: &ids };
            lpc.draws(found, pass.moment, &noise, T::KIND)?
        }
        _ => vec![Draw::default()],
    };
    if let Some(flips) = label_flips(policy, rows.len())? {
        draws.iter_mut().for_each(|draw| draw.flips = Some(flips.clone()));
    }
    Ok(draws)
}

/// The learned flip rate of all labels, `n` times; none where none is learned.
///
/// # Shapes
/// (n).
fn label_flips<T: Real>(policy: &Policy<T>, n: usize) -> Result<Option<Tensor>> {
    policy.flip_rate()?.map(|rate| Ok(rate.broadcast_as(n)?.contiguous()?)).transpose()
}

/// The mean distribution over the pass of all ranks, and the number of its examples. The terms of other ranks are
/// constants: each rank computes the gradient of its own examples, and the sum over ranks is the whole gradient.
///
/// # Shapes
/// log_weights (B,K) -> (K).
///
/// # Errors
/// [`Error::Tensor`]; as [`Ranks::meet`].
fn mean_of(log_weights: &Tensor, ranks: &Ranks) -> Result<(Tensor, f64)> {
    let own = log_weights.exp()?.sum(0)?;
    let n = log_weights.dim(0)? as f64;
    if ranks.size() == 1 {
        return Ok((log_weights.exp()?.mean(0)?, n));
    }
    let mut numbers = vec![n];
    let own_numbers = own.detach().to_dtype(DType::F64)?.to_vec1::<f64>()?;
    numbers.extend(&own_numbers);
    let all = ranks.total(numbers)?;
    let others: Vec<f64> = all[1..].iter().zip(&own_numbers).map(|(all, own)| all - own).collect();
    let others = Tensor::from_vec(others, own.shape(), own.device())?.to_dtype(own.dtype())?;
    Ok((((own + others)? / all[0])?, all[0]))
}

/// What a rank does in a pass of which it has no pairs: it takes part in the meetings of the others.
///
/// # Errors
/// As [`Ranks::meet`].
pub fn idle<T: Real>(policy: &Policy<T>, moment: Moment, ranks: &Ranks) -> Result<()> {
    match &policy.lpc {
        Some(lpc) if lpc.config.coded() && moment.balance > 0.0 => {
            ranks.total(vec![0.0; 1 + lpc.config.codes]).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// Adds entropies and use of the codes to `sums`.
fn count_codes(codes: &Codes, sums: &mut Sums) -> Result<()> {
    sums.entropy.0 += total(&crate::lpc::entropy(&codes.log_prior)?)?;
    sums.entropy.1 += total(&crate::lpc::entropy(&codes.log_posterior)?)?;
    for weights in codes.log_posterior.detach().exp()?.to_dtype(DType::F64)?.to_vec2::<f64>()? {
        sums.usage.add(&weights);
    }
    Ok(())
}

/// A tensor's numbers, flat.
fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.detach().flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

/// The sum of a tensor's numbers.
fn total(t: &Tensor) -> Result<f64> {
    Ok(t.detach().to_dtype(DType::F64)?.sum_all()?.to_vec0::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::ranks::threads::together;

    #[test]
    fn sums_of_ranks_are_the_sums_of_all() {
        let of = |i: f64| {
            let mut sums = Sums { examples: i, tokens: 10.0 * i, objective: 0.5 * i, right: i, ..Sums::default() };
            sums.rewards = (i, -i);
            // A sum of 1, 2 and 3 pairs with losses of 0.
            sums.joined[1] = LogSum::of(&vec![0.0; i as usize], &vec![1.0; i as usize], 1.0);
            if i > 0.0 {
                sums.usage.add(&[0.25, 0.75]);
                sums.clean = Some((0.5 * i, i));
            }
            sums
        };
        for sums in together(3, |ranks| {
            let mut sums = of(ranks.rank() as f64);
            sums.join(ranks).unwrap();
            sums
        }) {
            assert_eq!((sums.examples, sums.tokens, sums.objective, sums.right), (3.0, 30.0, 1.5, 3.0));
            assert_eq!(sums.rewards, (3.0, -3.0));
            assert_eq!(sums.clean, Some((1.5, 3.0)));
            assert_eq!(sums.joined[0], LogSum::default());
            assert!((sums.joined[1].log_sum - 3f64.ln()).abs() < 1e-12 && sums.joined[1].mass == 3.0);
            assert_eq!((sums.usage.mass, sums.usage.counts, sums.usage.examples), (vec![0.5, 1.5], vec![0, 2], 2));
        }
    }
}
