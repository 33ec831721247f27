//! Sums and means over ranges of rows: token log-probabilities to sequences, hidden states to pooled ones.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::custom_op::input;
use super::real::Real;

struct Segments {
    ranges: Vec<Range<usize>>,
    mean: bool,
}

/// Sums over ranges of rows, accumulated in f64 so that the order of rows does not matter.
///
/// # Shapes
/// x (R) -> (S), or x (R,H) -> (S,H), for S ranges.
///
/// # Errors
/// [`candle_core::Error`] where a range leaves the rows.
pub fn sum(x: &Tensor, ranges: Vec<Range<usize>>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Segments { ranges, mean: false })
}

/// Means over ranges of rows; an empty range gives 0.
///
/// # Shapes
/// As [`sum`].
///
/// # Errors
/// As [`sum`].
pub fn mean(x: &Tensor, ranges: Vec<Range<usize>>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Segments { ranges, mean: true })
}

impl Segments {
    fn weight(&self, range: &Range<usize>) -> f64 {
        if self.mean && !range.is_empty() { 1.0 / range.len() as f64 } else { 1.0 }
    }

    fn forward<T: Real>(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = input::<T>(storage, layout, "segments")?;
        let rows = layout.shape().dims()[0];
        let width = layout.shape().elem_count() / rows.max(1);
        let mut out = Vec::with_capacity(self.ranges.len() * width);
        for range in &self.ranges {
            if range.end > rows || range.start > range.end {
                candle_core::bail!("range {range:?} leaves {rows} rows");
            }
            let mut total = vec![0f64; width];
            for row in x[range.start * width..range.end * width].chunks_exact(width) {
                for (t, v) in total.iter_mut().zip(row) {
                    *t += candle_core::WithDType::to_f64(*v);
                }
            }
            let weight = self.weight(range);
            out.extend(total.into_iter().map(|t| T::of(t * weight)));
        }
        let mut dims = layout.shape().dims().to_vec();
        dims[0] = self.ranges.len();
        Ok((T::to_cpu_storage_owned(out), Shape::from(dims)))
    }

    fn backward<T: Real>(&self, arg: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let width = arg.elem_count() / arg.dims()[0].max(1);
        let grad = grad.flatten_all()?.to_vec1::<T>()?;
        let mut out = vec![T::zero(); arg.elem_count()];
        for (range, grad) in self.ranges.iter().zip(grad.chunks_exact(width)) {
            let weight = T::of(self.weight(range));
            for row in out[range.start * width..range.end * width].chunks_exact_mut(width) {
                for (o, &g) in row.iter_mut().zip(grad) {
                    *o += g * weight;
                }
            }
        }
        Tensor::from_vec(out, arg.shape(), arg.device())
    }
}

impl CustomOp1 for Segments {
    fn name(&self) -> &'static str {
        "segments"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match storage {
            CpuStorage::F32(_) => self.forward::<f32>(storage, layout),
            CpuStorage::F64(_) => self.forward::<f64>(storage, layout),
            _ => candle_core::bail!("segments: expected f32 or f64"),
        }
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(match arg.dtype() {
            DType::F64 => self.backward::<f64>(arg, grad_res)?,
            _ => self.backward::<f32>(arg, grad_res)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn sums_means_and_their_gradients() {
        let x = Var::new(&[[1f64, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        let sums = sum(x.as_tensor(), vec![0..2, 1..3, 1..1]).unwrap();
        assert_eq!(sums.to_vec2::<f64>().unwrap(), [[4.0, 6.0], [8.0, 10.0], [0.0, 0.0]]);
        let means = mean(x.as_tensor(), vec![0..2, 2..3]).unwrap();
        assert_eq!(means.to_vec2::<f64>().unwrap(), [[2.0, 3.0], [5.0, 6.0]]);
        // d/dx of sum(sums^2)/2: each row gets the sums it is part of.
        let loss = (sums.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap();
        let grad = loss.backward().unwrap().get(&x).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(grad, [[4.0, 6.0], [12.0, 16.0], [8.0, 10.0]]);
        let grad = means.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(grad, [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]);
        assert!(sum(x.as_tensor(), vec![0..1, 1..4]).is_err());
    }
}
