//! `ln sigmoid(x)` as one candle operation.
//!
//! Composed from candle's own operations it is either imprecise for large x or
//! has the wrong gradient at x = 0, which is exactly where preference training
//! starts: the policy equals the reference.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::custom_op::input;
use super::real::Real;

struct LogSigmoid;

/// `min(x, 0) - ln(1 + e^-|x|)`, elementwise; its derivative is `sigmoid(-x)`.
///
/// # Shapes
/// Any -> the same.
///
/// # Errors
/// [`candle_core::Error`] for other types than f32 and f64.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(LogSigmoid)
}

fn value<T: Real>(x: T) -> T {
    num_traits::Float::min(x, T::zero()) - (-x.abs()).exp().ln_1p()
}

fn slope<T: Real>(x: T) -> T {
    // sigmoid(-x) without overflow on either side.
    let e = (-x.abs()).exp();
    if x > T::zero() { e / (T::one() + e) } else { (T::one() + e).recip() }
}

fn forward<T: Real>(storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
    let x = input::<T>(storage, layout, "log-sigmoid")?;
    Ok(T::to_cpu_storage_owned(x.iter().map(|&x| value(x)).collect()))
}

impl CustomOp1 for LogSigmoid {
    fn name(&self) -> &'static str {
        "log-sigmoid"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match storage {
            CpuStorage::F32(_) => forward::<f32>(storage, layout)?,
            CpuStorage::F64(_) => forward::<f64>(storage, layout)?,
            _ => candle_core::bail!("log-sigmoid: expected f32 or f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let flat = arg.flatten_all()?;
        let slopes = match arg.dtype() {
            DType::F64 => Tensor::new(flat.to_vec1::<f64>()?.into_iter().map(slope).collect::<Vec<_>>(), arg.device())?,
            _ => Tensor::new(flat.to_vec1::<f32>()?.into_iter().map(slope).collect::<Vec<_>>(), arg.device())?,
        };
        Ok(Some((slopes.reshape(arg.shape())? * grad_res)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn value_and_slope_at_zero_and_far_out() {
        let x = Var::new(&[0f32, 300.0, -300.0, 2.0], &Device::Cpu).unwrap();
        let y = log_sigmoid(x.as_tensor()).unwrap();
        let values: Vec<f32> = y.to_vec1().unwrap();
        // ln(1/2); 0; -300; ln(1 / (1 + e^-2)) = -0.126928
        assert!((values[0] + std::f32::consts::LN_2).abs() < 1e-7);
        assert_eq!(&values[1..3], &[0.0, -300.0]);
        assert!((values[3] + 0.126_928).abs() < 1e-6);
        let slopes: Vec<f32> = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1().unwrap();
        // 1/2; e^-300 = 0 in f32; 1; 1 / (1 + e^2) = 0.119203
        assert!((slopes[0] - 0.5).abs() < 1e-7 && slopes[1] == 0.0 && slopes[2] == 1.0);
        assert!((slopes[3] - 0.119_203).abs() < 1e-6);
    }
}
