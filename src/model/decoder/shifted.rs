//! Token log-probabilities under shifts of the logits: the same few for all rows (codes), one for each pair, or both.
//!
//! A shift is a vector that is added to the hidden state, or a bias on the logits of some tokens. Every row is scored
//! under every code: [`crate::nn::token_logps_codes`] does that at the cost of one softmax.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};

use super::Decoder;
use crate::error::{Error, Result};
use crate::model::composed::CodeShifts;
use crate::model::linear::Weight;
use crate::model::params::Gradients;
use crate::nn::columns::{Others, ScoredColumns, ShiftGradients};
use crate::nn::custom_op::{input, lock};
use crate::nn::exponentials::Room;
use crate::nn::real::with_slice;
use crate::nn::token_logps_codes::Taken;
use crate::nn::{Precision, Real, Rows, linear, token_logps_biased, token_logps_codes};

/// What shifts are added to.
#[derive(Debug, Clone, Copy)]
pub enum Shifts<'a> {
    /// Vectors (S,H), added to the hidden states.
    Hidden(&'a Tensor),
    /// Biases (S,C) on the logits of these C tokens.
    Biases(&'a Tensor, &'a Arc<Vec<u32>>),
}

/// The part of the output layer that shifts change, for rows whose logits over the rest of the vocabulary are known.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Weights of the tokens that take biases (C,H).
    pub weights: Tensor,
    /// Log-sum-exp of each row's other logits (R).
    pub others: Tensor,
    /// Logit of each row's target (R).
    pub known: Tensor,
    /// Column of each row's target among the tokens, or [`crate::nn::columns::ELSEWHERE`] (R).
    pub columns: Vec<u32>,
}

impl<T: Real> Decoder<T> {
    /// `log_softmax(W h_r + s_k)` of every row's target under every code's shift, and last under the row's own shift,
    /// that of its pair, where there is one.
    ///
    /// # Shapes
    /// h (R,H) · K shifts · own: B shifts of the same kind, and pair_of (R), each below B · targets (R) -> (R,K) or
    /// (R,K+1).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`Error::Run`] for a target outside the vocabulary; [`Error::Tensor`].
    pub fn token_logps_of_codes(
        &self,
        h: &Tensor,
        codes: Shifts<'_>,
        own: Option<(&Tensor, &[u32])>,
        targets: &[u32],
        reach: Option<&Reach>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<Tensor> {
        self.in_vocabulary(targets)?;
        let k = codes.count()?;
        if let Some(parts) = self.parts() {
            let (both, tokens) = (own.map(|(z, _)| Tensor::cat(&[codes.tensor(), z], 0)).transpose()?, codes.tokens());
            let all = both.as_ref().unwrap_or(codes.tensor());
            let shifts = CodeShifts { all, tokens, shared: k, pair_of: own.map(|(_, pair_of)| pair_of) };
            if let Some(found) = parts.token_logps_of_codes::<T>(h, &shifts, targets, gradients)? {
                return Ok(found);
            }
            let alone = |tensor: &Tensor, at: &[u32]| -> Result<Tensor> {
                Ok(self.token_logps_shifted(h, codes.with(tensor), at, targets, None, gradients)?.unsqueeze(1)?)
            };
            let first = vec![0; targets.len()];
            let each = (0..k).map(|code| alone(&codes.tensor().narrow(0, code, 1)?, &first));
            let own = own.map(|(z, pair_of)| alone(z, pair_of));
            return Ok(Tensor::cat(&each.chain(own).collect::<Result<Vec<_>>>()?, 1)?);
        }
        match own {
            None => self.scored(h, codes, Takers { shared: k, own: None }, targets, reach, gradients),
            Some((z, pair_of)) => {
                let both = Tensor::cat(&[codes.tensor(), z], 0)?;
                let takers = Takers { shared: k, own: Some(pair_of.to_vec()) };
                self.scored(h, codes.with(&both), takers, targets, reach, gradients)
            }
        }
    }

    /// `log_softmax(W h_r + s)` of every row's target with the shift of its pair.
    ///
    /// # Shapes
    /// h (R,H) · B shifts · pair_of (R), each below B · targets (R) -> (R).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// As [`Decoder::token_logps_of_codes`].
    pub fn token_logps_shifted(
        &self,
        h: &Tensor,
        shifts: Shifts<'_>,
        pair_of: &[u32],
        targets: &[u32],
        reach: Option<&Reach>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<Tensor> {
        self.in_vocabulary(targets)?;
        match shifts {
            Shifts::Hidden(z) => {
                let index = Tensor::from_slice(pair_of, pair_of.len(), &Device::Cpu)?;
                let rows = (h + z.index_select(&index, 0)?)?;
                self.token_logps(&rows, targets, gradients)
            }
            Shifts::Biases(biases, tokens) => match self.parts() {
                Some(parts) => {
                    let biases = self.dense(biases, tokens)?;
                    Ok(parts.token_logps::<T>(h, Some((&biases, pair_of)), targets, gradients)?)
                }
                None => {
                    let takers = Takers { shared: 0, own: Some(pair_of.to_vec()) };
                    Ok(self.scored(h, shifts, takers, targets, reach, gradients)?.squeeze(1)?)
                }
            },
        }
    }

    /// The output layer's rows of these tokens, as constants.
    ///
    /// # Shapes
    /// C tokens -> (C,H).
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn head_rows(&self, tokens: &[u32]) -> Result<Tensor> {
        let index = Tensor::from_slice(tokens, tokens.len(), self.head.tensor.device())?;
        Ok(self.head.tensor.detach().index_select(&index, 0)?)
    }

    /// For every row the log-sum-exp of its logits over the tokens that have no column
    /// ([`crate::nn::columns::ELSEWHERE`]), and the logit of its target.
    ///
    /// # Shapes
    /// h (R,H) · targets (R) · column_of (V) -> (R), (R).
    ///
    /// # Units
    /// Nats, logits.
    ///
    /// # Errors
    /// As [`Decoder::token_logps_of_codes`].
    pub fn others(&self, h: &Tensor, targets: &[u32], column_of: &[u32]) -> Result<(Vec<T>, Vec<T>)> {
        self.in_vocabulary(targets)?;
        let hidden = self.config.hidden_size;
        with_slice::<T, _>(&h.contiguous()?, |h| {
            with_slice::<T, _>(&self.head.tensor, |w| {
                let columns = ScoredColumns { w, hidden, targets, others: None, precision: self.precision };
                columns.others_of(h, column_of)
            })
        })?
    }

    /// Biases (B,C) of some tokens as biases over the whole vocabulary (B,V), differentiable.
    fn dense(&self, biases: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let zeros = Tensor::zeros((self.config.vocab_size, biases.dim(0)?), biases.dtype(), biases.device())?;
        let index = Tensor::from_slice(tokens, tokens.len(), biases.device())?;
        Ok(zeros.index_add(&index, &biases.t()?.contiguous()?, 0)?.t()?.contiguous()?)
    }

    fn scored(
        &self,
        h: &Tensor,
        shifts: Shifts<'_>,
        takers: Takers,
        targets: &[u32],
        reach: Option<&Reach>,
        gradients: Option<&Arc<Gradients>>,
    ) -> Result<Tensor> {
        let tokens = shifts.tokens().cloned();
        if reach.is_some() && tokens.is_none() {
            return Err(Error::run("shifts of hidden states reach the whole vocabulary"));
        }
        let op = ShiftedHead::<T> {
            weight: self.head.clone(),
            tokens,
            takers,
            targets: targets.to_vec(),
            reach: reach.cloned(),
            precision: self.precision,
            rows_wanted: h.track_op(),
            gradients: gradients.cloned(),
            room: self.room_of(gradients),
            kept: Mutex::new(None),
        };
        let (h, shifts) = (h.contiguous()?, shifts.tensor().contiguous()?);
        Ok(match gradients {
            Some(_) => h.apply_op2(&shifts, op)?,
            None => h.apply_op2_no_bwd(&shifts, &op)?,
        })
    }
}

impl<'a> Shifts<'a> {
    fn tensor(&self) -> &'a Tensor {
        match self {
            Shifts::Hidden(tensor) | Shifts::Biases(tensor, _) => tensor,
        }
    }

    fn with<'b>(&self, tensor: &'b Tensor) -> Shifts<'b>
    where
        'a: 'b,
    {
        match self {
            Shifts::Hidden(_) => Shifts::Hidden(tensor),
            Shifts::Biases(_, tokens) => Shifts::Biases(tensor, tokens),
        }
    }

    fn tokens(&self) -> Option<&'a Arc<Vec<u32>>> {
        match self {
            Shifts::Biases(_, tokens) => Some(tokens),
            Shifts::Hidden(_) => None,
        }
    }

    fn count(&self) -> Result<usize> {
        Ok(self.tensor().dim(0)?)
    }
}

/// Which rows take which shifts: [`Taken`], owned.
struct Takers {
    shared: usize,
    own: Option<Vec<u32>>,
}

impl Takers {
    fn taken(&self) -> Taken<'_> {
        Taken { shared: self.shared, own: self.own.as_deref() }
    }
}

/// What the backward pass needs of the forward one.
enum Kept<T> {
    /// All shifts were scored with one softmax.
    Together(token_logps_codes::ShiftedLogps<T>),
    /// They were scored one after the other, the rows' own last: there are no shared shifts, or sums of exponentials
    /// left float32's range.
    Each(Vec<token_logps_biased::BiasedLogps<T>>),
}

/// The operation from (h, shifts) to log-probabilities.
struct ShiftedHead<T> {
    weight: Weight,
    /// Tokens that take biases; `None` for shifts of hidden states.
    tokens: Option<Arc<Vec<u32>>>,
    /// Which rows take which shifts.
    takers: Takers,
    targets: Vec<u32>,
    reach: Option<Reach>,
    precision: Precision,
    rows_wanted: bool,
    gradients: Option<Arc<Gradients>>,
    /// Room for exponentials that the backward pass reads again.
    room: Option<Arc<Room>>,
    kept: Mutex<Option<Kept<T>>>,
}

impl<T: Real> ShiftedHead<T> {
    /// Calls `f` with the columns that are scored and the shifts of their logits (S,C).
    fn over<R>(&self, shifts: &[T], hidden: usize, f: impl FnOnce(&ScoredColumns<'_, T>, &[T]) -> R) -> Result<R> {
        let (targets, precision) = (self.targets.as_slice(), self.precision);
        if let Some(reach) = &self.reach {
            return with_slice::<T, _>(&reach.weights, |w| {
                with_slice::<T, _>(&reach.others, |lse| {
                    with_slice::<T, _>(&reach.known, |target| {
                        let others = Some(Others { lse, target });
                        f(&ScoredColumns { w, hidden, targets: &reach.columns, others, precision }, shifts)
                    })
                })
            })??;
        }
        with_slice::<T, _>(&self.weight.tensor, |w| {
            let vocabulary = w.len() / hidden.max(1);
            let dense = match &self.tokens {
                None => {
                    let rows = shifts.len() / hidden.max(1);
                    let mut out = vec![T::zero(); rows * vocabulary];
                    linear::forward(&Rows::new(shifts, rows, Precision::F32), w, &mut out, false);
                    out
                }
                Some(tokens) => {
                    let rows = shifts.len() / tokens.len().max(1);
                    let mut out = vec![T::zero(); rows * vocabulary];
                    for (out, biases) in out.chunks_exact_mut(vocabulary).zip(shifts.chunks_exact(tokens.len())) {
                        tokens.iter().zip(biases).for_each(|(&token, &bias)| out[token as usize] = bias);
                    }
                    out
                }
            };
            f(&ScoredColumns { w, hidden, targets, others: None, precision }, &dense)
        })
    }

    /// The shifts in the parts that are scored one after the other, the rows' own last; each with the index, within its
    /// part, of the shift that every row takes.
    fn parts<'s>(&'s self, columns: &ScoredColumns<'_, T>, shifts: &'s [T]) -> Vec<(&'s [T], Cow<'s, [u32]>)> {
        let count = columns.count();
        let (shared, own) = shifts.split_at(self.takers.shared * count);
        let first = vec![0; columns.rows()];
        let mut parts: Vec<_> =
            shared.chunks_exact(count.max(1)).map(|shift| (shift, Cow::Owned(first.clone()))).collect();
        parts.extend(self.takers.own.as_deref().map(|pair_of| (own, Cow::Borrowed(pair_of))));
        parts
    }

    fn forward(&self, h: &[T], columns: &ScoredColumns<'_, T>, shifts: &[T]) -> (Vec<T>, Kept<T>) {
        if self.takers.shared > 0 {
            let mut scored = token_logps_codes::forward(h, columns, shifts, self.takers.taken(), self.room.clone());
            if scored.is_exact() {
                return (std::mem::take(&mut scored.logps), Kept::Together(scored));
            }
        }
        let parts = self.parts(columns, shifts);
        let each: Vec<_> =
            parts.iter().map(|(shifts, of_row)| token_logps_biased::forward(h, columns, shifts, of_row)).collect();
        let mut logps = Vec::with_capacity(columns.rows() * each.len());
        (0..columns.rows()).for_each(|row| logps.extend(each.iter().map(|scored| scored.logps[row])));
        (logps, Kept::Each(each))
    }

    fn backward(
        &self,
        h: &[T],
        columns: &ScoredColumns<'_, T>,
        shifts: &[T],
        kept: &Kept<T>,
        dlogps: &[T],
        mut dw: Option<&mut [T]>,
    ) -> ShiftGradients<T> {
        match kept {
            Kept::Together(scored) => {
                let taken = self.takers.taken();
                token_logps_codes::backward(h, columns, shifts, taken, scored, dlogps, self.rows_wanted, dw)
            }
            Kept::Each(each) => {
                let mut all = ShiftGradients {
                    shifts: Vec::new(),
                    rows: vec![T::zero(); if self.rows_wanted { h.len() } else { 0 }],
                };
                for (i, (scored, (shifts, of_row))) in each.iter().zip(self.parts(columns, shifts)).enumerate() {
                    let g: Vec<T> = dlogps.iter().skip(i).step_by(each.len()).copied().collect();
                    let dw = dw.as_deref_mut();
                    let part =
                        token_logps_biased::backward(h, columns, shifts, &of_row, scored, &g, self.rows_wanted, dw);
                    all.shifts.extend(part.shifts);
                    all.rows.iter_mut().zip(part.rows).for_each(|(sum, x)| *sum += x);
                }
                all
            }
        }
    }

    /// The gradient of the shifts in the form in which they were given, from that of the logits' shifts (S,C).
    fn narrowed(&self, given: &[T], dense: Vec<T>, hidden: usize, dw: Option<&mut [T]>) -> Result<Vec<T>> {
        if self.reach.is_some() {
            return Ok(dense);
        }
        with_slice::<T, _>(&self.weight.tensor, |w| {
            let vocabulary = w.len() / hidden.max(1);
            match &self.tokens {
                Some(tokens) => {
                    let rows = dense.chunks_exact(vocabulary);
                    rows.flat_map(|row| tokens.iter().map(|&token| row[token as usize])).collect()
                }
                None => {
                    let rows = dense.len() / vocabulary.max(1);
                    let dense = Rows::new(&dense, rows, Precision::F32);
                    let mut out = vec![T::zero(); given.len()];
                    linear::backward_input(&dense, w, &mut out, false);
                    if let Some(dw) = dw {
                        linear::backward_weight(&dense, &Rows::new(given, rows, Precision::F32), dw);
                    }
                    out
                }
            }
        })
    }
}

impl<T: Real> CustomOp2 for ShiftedHead<T> {
    fn name(&self) -> &'static str {
        "token-logps-shifted"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        shifts: &CpuStorage,
        shifts_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let rows = input::<T>(h, h_layout, self.name())?;
        let shifts = input::<T>(shifts, shifts_layout, self.name())?;
        let hidden = h_layout.shape().dims2()?.1;
        let (logps, kept) = self.over(shifts, hidden, |columns, shifts| self.forward(rows, columns, shifts))?;
        *lock(&self.kept) = Some(kept);
        let shape = (self.targets.len(), self.takers.taken().of_row()).into();
        Ok((T::to_cpu_storage_owned(logps), shape))
    }

    fn bwd(
        &self,
        h: &Tensor,
        shifts: &Tensor,
        _: &Tensor,
        grad_res: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dlogps = grad_res.flatten_all()?.to_vec1::<T>()?;
        let hidden = h.dim(1)?;
        let kept = lock(&self.kept).take();
        let Some(kept) = &kept else { candle_core::bail!("token-logps-shifted: backward before forward") };
        let all = |mut dw: Option<&mut [T]>| -> Result<(Vec<T>, Vec<T>)> {
            with_slice::<T, _>(h, |h| {
                with_slice::<T, _>(shifts, |given| {
                    let found = self.over(given, hidden, |columns, shifts| {
                        self.backward(h, columns, shifts, kept, &dlogps, dw.as_deref_mut())
                    })?;
                    Ok((found.rows, self.narrowed(given, found.shifts, hidden, dw)?))
                })
            })??
        };
        let (dh, dshifts) = match &self.gradients {
            Some(gradients) => gradients.with_sum::<T, _>(self.weight.position, all)?,
            None => all(None)?,
        };
        let dh = if self.rows_wanted { Some(Tensor::from_vec(dh, h.shape(), h.device())?) } else { None };
        Ok((dh, Some(Tensor::from_vec(dshifts, shifts.shape(), shifts.device())?)))
    }
}
