//! Log-probabilities under several codes at once, composed of candle's operations.

use candle_core::{DType, Result, Tensor};

/// Largest distance between the entries of one shift, in logits: beyond it products of exponentials leave float32.
pub const SPREAD: f64 = 80.0;

/// Log-probabilities of given tokens under several shifts of the logits, at the cost of one softmax, with the formulas
/// of the kernel [`crate::nn::token_logps_codes`]. Computed in chunks of rows, whose logits the backward pass computes
/// again.
#[derive(Debug)]
pub struct TokenLogpsOfCodes {
    /// Head (V,H), of the type of the products; detached, or candle would keep every chunk for its graph.
    pub w: Tensor,
    /// Target of every row (R), on the device.
    pub targets: Tensor,
    /// Shifts (S,V), of the wide type.
    pub shifts: Tensor,
    /// K: every row takes the first K shifts.
    pub shared: usize,
    /// Index (R), at least K, of the further shift that each row takes, where it takes one.
    pub own: Option<Tensor>,
    /// Numbers that one chunk of logits may hold: [`super::CHUNK`].
    pub chunk: usize,
}

/// Gradients of [`TokenLogpsOfCodes`]; those that were not asked for are absent.
#[derive(Debug)]
pub struct CodeGradients {
    /// Of the rows (R,H).
    pub rows: Option<Tensor>,
    /// Of the weight (V,H), without its part through the shifts.
    pub weight: Option<Tensor>,
    /// Of the shifts (S,V), without what the targets' own logits contribute: each row's gradient at its target.
    pub shifts: Tensor,
}

/// One chunk of rows.
struct Chunk {
    /// Rows in the products' type (r,H).
    h: Tensor,
    /// Their targets (r).
    targets: Tensor,
    /// Exponentials of their logits, relative to the largest (r,V).
    p: Tensor,
    /// Logits of their targets, relative to the largest (r,1).
    picked: Tensor,
    /// Sums of exponentials under each shift, relative to the shift's largest entry too (r,S).
    sums: Tensor,
}

impl TokenLogpsOfCodes {
    /// The largest entry of every shift (S,1), and the exponentials relative to it (S,V).
    fn exponentials(&self) -> Result<(Tensor, Tensor)> {
        let tops = self.shifts.max_keepdim(1)?;
        let exponentials = self.shifts.broadcast_sub(&tops)?.exp()?;
        Ok((tops, exponentials))
    }

    /// Distance between the largest and the least entry of a shift, the largest over all shifts: see [`SPREAD`].
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn spread(&self) -> Result<f64> {
        let widest = (self.shifts.max(1)? - self.shifts.min(1)?)?.max(0)?;
        widest.to_dtype(DType::F32)?.to_vec0::<f32>().map(f64::from)
    }

    fn chunks(&self, rows: usize) -> Result<impl Iterator<Item = (usize, usize)>> {
        let step = (self.chunk / self.w.dim(0)?.max(1)).max(1);
        Ok((0..rows).step_by(step).map(move |at| (at, step.min(rows - at))))
    }

    fn chunk(&self, h: &Tensor, exponentials: &Tensor, at: usize, n: usize) -> Result<Chunk> {
        let h = h.narrow(0, at, n)?.to_dtype(self.w.dtype())?;
        let targets = self.targets.narrow(0, at, n)?.contiguous()?;
        let logits = h.matmul(&self.w.t()?)?.to_dtype(self.shifts.dtype())?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
        let picked = logits.gather(&targets.unsqueeze(1)?, 1)?;
        let p = logits.exp()?;
        let sums = p.matmul(&exponentials.t()?)?;
        Ok(Chunk { h, targets, p, picked, sums })
    }

    /// Log-probability of every row's target under every shift that the row takes.
    ///
    /// # Shapes
    /// h (R,H) -> (R,K), or (R,K+1) with each row's own last.
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn forward(&self, h: &Tensor) -> Result<Tensor> {
        let (tops, exponentials) = self.exponentials()?;
        // (V,S): one row for each token.
        let by_token = self.shifts.broadcast_sub(&tops)?.t()?.contiguous()?;
        let parts = self.chunks(h.dim(0)?)?.map(|(at, n)| {
            let Chunk { targets, picked, sums, .. } = self.chunk(h, &exponentials, at, n)?;
            (by_token.index_select(&targets, 0)? - sums.log()?)?.broadcast_add(&picked)
        });
        let all = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
        let shared = all.narrow(1, 0, self.shared)?;
        match &self.own {
            Some(own) => Tensor::cat(&[shared.contiguous()?, all.gather(&own.unsqueeze(1)?, 1)?], 1),
            None => shared.contiguous(),
        }
    }

    /// Gradients from those of the log-probabilities: of the rows and of the weight where wanted, of the shifts always.
    ///
    /// # Shapes
    /// h (R,H) · g as the result of [`TokenLogpsOfCodes::forward`].
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn backward(&self, h: &Tensor, g: &Tensor, rows: bool, weight: bool) -> Result<CodeGradients> {
        let (_, exponentials) = self.exponentials()?;
        let (r, s) = (h.dim(0)?, self.shifts.dim(0)?);
        let mut g = g.clone();
        if let Some(own) = &self.own {
            let all = Tensor::zeros((r, s), g.dtype(), g.device())?;
            let all = all.scatter_add(&own.unsqueeze(1)?, &g.narrow(1, self.shared, 1)?.contiguous()?, 1)?;
            let rest = Tensor::zeros((r, s - self.shared), g.dtype(), g.device())?;
            g = (all + Tensor::cat(&[g.narrow(1, 0, self.shared)?.contiguous()?, rest], 1)?)?;
        }
        let (mut parts, mut dw) = (Vec::new(), None);
        let mut masses = self.shifts.zeros_like()?;
        for (at, n) in self.chunks(r)? {
            let Chunk { h, targets, p, sums, .. } = self.chunk(h, &exponentials, at, n)?;
            let g = g.narrow(0, at, n)?.contiguous()?;
            let shares = (&g / sums)?;
            masses = (masses + shares.t()?.matmul(&p)?)?;
            if !rows && !weight {
                continue;
            }
            let dlogits = (p * shares.matmul(&exponentials)?)?.neg()?;
            let dlogits = dlogits.scatter_add(&targets.unsqueeze(1)?, &g.sum_keepdim(1)?, 1)?;
            let dlogits = dlogits.to_dtype(self.w.dtype())?;
            if rows {
                parts.push(dlogits.matmul(&self.w)?.to_dtype(self.shifts.dtype())?);
            }
            if weight {
                let part = dlogits.t()?.matmul(&h)?.to_dtype(self.shifts.dtype())?;
                dw = Some(match dw {
                    None => part,
                    Some(sum) => (sum + part)?,
                });
            }
        }
        let rows = if rows { Some(Tensor::cat(&parts, 0)?) } else { None };
        Ok(CodeGradients { rows, weight: dw, shifts: (masses * exponentials)?.neg()? })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::columns::ScoredColumns;
    use crate::nn::token_logps_codes::{self, Taken};
    use crate::nn::{Precision, check};

    #[test]
    fn log_probabilities_of_codes_are_the_kernel_s() {
        let (r, hidden, v, shared, pairs) = (5, 4, 30, 3, 2);
        let s = shared + pairs;
        let (h, w, shifts) =
            (check::numbers("h", r * hidden), check::numbers("w", v * hidden), check::numbers("s", s * v));
        let (targets, own) = ([0u32, 9, 29, 4, 9], [0u32, 1, 1, 0, 1]);
        let tensor = |x: &[f64], shape: (usize, usize)| Tensor::from_slice(x, shape, &Device::Cpu).unwrap();
        let columns = ScoredColumns { w: &w, hidden, targets: &targets, others: None, precision: Precision::F32 };
        for with_own in [false, true] {
            let taken = Taken { shared, own: with_own.then_some(own.as_slice()) };
            let used = if with_own { s } else { shared };
            let given = &shifts[..used * v];
            let wanted = token_logps_codes::forward(&h, &columns, given, taken, None);
            let index: Vec<u32> = own.iter().map(|&pair| shared as u32 + pair).collect();
            // Chunks of two rows.
            let found = TokenLogpsOfCodes {
                w: tensor(&w, (v, hidden)),
                targets: Tensor::new(&targets, &Device::Cpu).unwrap(),
                shifts: tensor(given, (used, v)),
                shared,
                own: with_own.then(|| Tensor::new(index, &Device::Cpu).unwrap()),
                chunk: 2 * v,
            };
            let rows = tensor(&h, (r, hidden));
            let close = |what: &str, a: &Tensor, b: &[f64]| {
                let a = a.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert!(
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10),
                    "{what}, own {with_own}: {a:?} {b:?}"
                );
            };
            close("logps", &found.forward(&rows).unwrap(), &wanted.logps);
            assert!(found.spread().unwrap() > 1.0 && found.spread().unwrap() < 2.0);
            let g = check::numbers("g", wanted.logps.len());
            let mut dw = vec![0.0; w.len()];
            let scores = token_logps_codes::backward(&h, &columns, given, taken, &wanted, &g, true, Some(&mut dw));
            let dlogps = tensor(&g, (r, taken.of_row()));
            let all = found.backward(&rows, &dlogps, true, true).unwrap();
            close("rows", &all.rows.unwrap(), &scores.rows);
            close("weight", &all.weight.unwrap(), &dw);
            let mut dshifts = all.shifts.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (row, g) in g.chunks_exact(taken.of_row()).enumerate() {
                for (i, g) in g.iter().enumerate() {
                    let shift = if i < shared { i } else { shared + own[row] as usize };
                    dshifts[shift * v + targets[row] as usize] += g;
                }
            }
            close("shifts", &Tensor::new(dshifts, &Device::Cpu).unwrap(), &scores.shifts);
            let few = found.backward(&rows, &dlogps, false, false).unwrap();
            assert!(few.rows.is_none() && few.weight.is_none());
            assert_eq!(few.shifts.to_vec2::<f64>().unwrap(), all.shifts.to_vec2::<f64>().unwrap());
        }
    }
}
