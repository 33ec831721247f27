//! How the losses of a pass' pairs become its share of the step's loss: weights of rows, and Dr.DPO's joining of pairs.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::{StepPass, Sums, numbers};
use crate::error::{Error, Result};
use crate::objective::{LogSum, drdpo};
use crate::token_file::TokenRow;

/// The parts of a step's loss that Dr.DPO joins each by itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// The losses under samples of the latent, or the marginals over codes.
    Latent = 0,
    /// The losses with the prior's expected z.
    Expected = 1,
}

/// Weights of a pass' rows, and what its losses are divided by.
pub(super) struct Weighing<'a> {
    pub pass: &'a StepPass<'a>,
    /// Weight of every row.
    weights: Vec<f64>,
    /// The same (B), where a row has another than 1.
    column: Option<Tensor>,
}

impl<'a> Weighing<'a> {
    /// The weights of these rows, of type `kind`.
    pub fn of(rows: &[&TokenRow], pass: &'a StepPass<'a>, device: &Device, kind: DType) -> Result<Weighing<'a>> {
        let weights: Vec<f64> = rows.iter().map(|row| row.loss_weight()).collect();
        let column = if weights.iter().all(|w| *w == 1.0) {
            None
        } else {
            Some(Tensor::from_slice(&weights, weights.len(), device)?.to_dtype(kind)?)
        };
        Ok(Weighing { pass, weights, column })
    }

    /// Numbers of the pairs (B), or of the pairs under each code (B,K), each times its row's weight.
    pub fn times(&self, values: &Tensor) -> Result<Tensor> {
        match &self.column {
            None => Ok(values.clone()),
            Some(weights) if values.rank() == 2 => Ok(values.broadcast_mul(&weights.unsqueeze(1)?)?),
            Some(weights) => Ok((values * weights)?),
        }
    }

    /// Adds the pairs' clean probabilities to `sums`.
    pub fn count_clean(&self, clean: &[f64], sums: &mut Sums) {
        let weighted = clean.iter().zip(&self.weights).map(|(c, w)| c * w).sum();
        sums.add_clean(weighted, self.weights.iter().sum());
    }

    /// The pass' share of the step's loss from the losses (B) under each draw of z, which already have the draws'
    /// weights.
    pub fn of_draws(&self, losses: &[Tensor], sums: &mut Sums) -> Result<Tensor> {
        let mut parts = Vec::new();
        match (self.pass.objective.joins(), losses.split_first()) {
            (Some(_), Some((first, rest))) => {
                // What Dr.DPO joins is the expected loss of each pair.
                let expected = rest.iter().try_fold(first.clone(), |sum, losses| sum + losses)?;
                parts.push(self.of_pairs(&expected, Part::Latent, 1.0, sums)?);
            }
            _ => {
                for losses in losses {
                    parts.push(self.of_pairs(losses, Part::Latent, 1.0, sums)?);
                }
            }
        }
        let mut parts = parts.into_iter();
        let first = parts.next().ok_or_else(|| Error::run("a step without a latent branch"))?;
        parts.try_fold(first, |sum, part| Ok((sum + part)?))
    }

    /// The pass' share of one part of the step's loss, times a factor, from the losses of its pairs (B).
    pub fn of_pairs(&self, losses: &Tensor, part: Part, factor: f64, sums: &mut Sums) -> Result<Tensor> {
        let sum = match self.pass.objective.joins() {
            None => self.times(losses)?.sum_all()?,
            Some(beta) => self.join(losses, &self.weights, beta, part, sums)?,
        };
        Ok((sum * (self.share() * factor))?)
    }

    fn share(&self) -> f64 {
        1.0 / self.pass.step_examples as f64
    }

    /// The same from the marginal losses (G) of groups of pairs, whose pairs' weights are in their losses already. Dr.DPO
    /// takes a group for as many pairs as it has, each with the group's mean loss.
    pub fn of_groups(&self, losses: &Tensor, groups: &[Range<usize>], sums: &mut Sums) -> Result<Tensor> {
        let Some(beta) = self.pass.objective.joins() else {
            return Ok((losses.sum_all()? * self.share())?);
        };
        let masses: Vec<f64> = groups.iter().map(|group| self.weights[group.clone()].iter().sum()).collect();
        // The loss of a group without weight is 0, and counts for nothing.
        let divisors = masses.iter().map(|&mass| if mass > 0.0 { 1.0 / mass } else { 1.0 }).collect::<Vec<f64>>();
        let n = divisors.len();
        let divisors = Tensor::from_vec(divisors, n, losses.device())?.to_dtype(losses.dtype())?;
        Ok((self.join(&(losses * divisors)?, &masses, beta, Part::Latent, sums)? * self.share())?)
    }

    fn join(&self, losses: &Tensor, masses: &[f64], beta: f64, part: Part, sums: &mut Sums) -> Result<Tensor> {
        let own = LogSum::of(&numbers(losses)?, masses, beta);
        sums.joined[part as usize] = sums.joined[part as usize].and(own);
        let whole = self.pass.joined.map(|joined| &joined[part as usize]);
        drdpo::joined(losses, masses, beta, whole)
    }
}
