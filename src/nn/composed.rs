//! The decoder's operations composed of candle's differentiable ones, for devices that the fused kernels do not
//! support.
//!
//! They run wherever candle does, in the type of their inputs, and use only operations that have a backward pass:
//! candle's own fused normalisation, softmax and rotary embedding have none. Values and gradients are those of the
//! fused kernels, up to rounding.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Device, Layout, MetalStorage, Result, Shape, Storage, Tensor,
};

pub mod attention;
pub mod codes;

/// `w * x / sqrt(mean(x^2) + eps)` over the last dimension.
///
/// # Shapes
/// x (N,H) · w (H) -> (N,H).
///
/// # Errors
/// [`candle_core::Error`].
pub fn norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&inverse)?.broadcast_mul(w)
}

/// `silu(gate) * up`.
///
/// # Shapes
/// gate, up -> the same.
///
/// # Errors
/// [`candle_core::Error`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Cosines and sines of a pass' rows.
#[derive(Debug, Clone)]
pub struct Angles {
    /// (N,1,D/2)
    cos: Tensor,
    /// (N,1,D/2)
    sin: Tensor,
}

impl Angles {
    /// For rows at these positions, with frequencies in radians per position; rounded from f64 to the type.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn new(frequencies: &[f64], positions: &[u32], dtype: candle_core::DType, device: &Device) -> Result<Angles> {
        let angles = || positions.iter().flat_map(|&p| frequencies.iter().map(move |f| f64::from(p) * f));
        let table = |of: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = angles().map(of).collect();
            // Rounded here: not every device has f64.
            Tensor::from_vec(values, (positions.len(), 1, frequencies.len()), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        Ok(Angles { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Rotates every head of every row.
    ///
    /// # Shapes
    /// x (N, heads * D) -> the same.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let half = self.cos.dim(2)?;
        let heads = x.reshape((rows, width / (2 * half), 2 * half))?;
        let (low, high) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let rotated_low = (low.broadcast_mul(&self.cos)? - high.broadcast_mul(&self.sin)?)?;
        let rotated_high = (high.broadcast_mul(&self.cos)? + low.broadcast_mul(&self.sin)?)?;
        Tensor::cat(&[rotated_low, rotated_high], 2)?.reshape((rows, width))
    }
}

/// `x W^T`; candle finds the gradients of both.
///
/// # Shapes
/// x (N,I) · w (O,I) -> (N,O).
///
/// # Errors
/// [`candle_core::Error`].
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

/// `x W^T` for a frozen weight: candle's own product would compute the gradient of both, this one that of `x` alone.
///
/// # Shapes
/// As [`linear`].
///
/// # Errors
/// [`candle_core::Error`].
pub fn linear_frozen(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Frozen { w: w.detach(), transposed: w.detach().t()? })
}

struct Frozen {
    /// (O,I)
    w: Tensor,
    /// (I,O), the same storage.
    transposed: Tensor,
}

impl Frozen {
    fn shape(&self, x: &Layout) -> Result<(usize, usize, usize)> {
        let ((m, k), (inner, n)) = (x.shape().dims2()?, self.transposed.dims2()?);
        if k != inner {
            candle_core::bail!("frozen-linear: {k} columns meet a weight of {inner}");
        }
        Ok((m, n, k))
    }

    /// The product, by the backend's own routine.
    fn product<S: BackendStorage>(&self, x: &S, layout: &Layout, w: &S) -> Result<(S, Shape)> {
        let (m, n, k) = self.shape(layout)?;
        Ok((x.matmul(w, (1, m, n, k), layout, self.transposed.layout())?, (m, n).into()))
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match &*self.transposed.storage_and_layout().0 {
            Storage::Cpu(w) => self.product(storage, layout, w),
            _ => candle_core::bail!("frozen-linear: the weight is on another device"),
        }
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match &*self.transposed.storage_and_layout().0 {
            Storage::Cuda(w) => self.product(storage, layout, w),
            _ => candle_core::bail!("frozen-linear: the weight is on another device"),
        }
    }

    fn metal_fwd(&self, storage: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        match &*self.transposed.storage_and_layout().0 {
            Storage::Metal(w) => self.product(storage, layout, w),
            _ => candle_core::bail!("frozen-linear: the weight is on another device"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad_res.contiguous()?.matmul(&self.w)?))
    }
}

/// Numbers that one chunk of logits may hold: (rows, vocabulary) as a whole is never stored.
pub const CHUNK: usize = 1 << 26;

/// Log-probabilities of given tokens under `log_softmax(W h)`, computed in chunks of rows; and their backward pass,
/// which computes each chunk's logits again.
#[derive(Debug)]
pub struct TokenLogps {
    /// Head (V,H), of the type of the products; detached, or candle would keep every chunk for its graph.
    pub w: Tensor,
    /// Target of every row (R), on the device.
    pub targets: Tensor,
    /// Type of log-probabilities and of all numbers but the products' operands.
    pub wide: candle_core::DType,
    /// Biases of the logits (B,V) and each row's (R), where there are any.
    pub biases: Option<(Tensor, Tensor)>,
    /// Numbers that one chunk of logits may hold: [`CHUNK`].
    pub chunk: usize,
}

impl TokenLogps {
    fn chunks(&self, rows: usize) -> Result<impl Iterator<Item = (usize, usize)>> {
        let step = (self.chunk / self.w.dim(0)?.max(1)).max(1);
        Ok((0..rows).step_by(step).map(move |at| (at, step.min(rows - at))))
    }

    /// A chunk's rows in the products' type, their targets (r,1), their logits without the largest (r,V), and the
    /// logarithm of those logits' exponentials' sum (r,1).
    fn chunk(&self, h: &Tensor, at: usize, n: usize) -> Result<(Tensor, Tensor, Tensor, Tensor)> {
        let h = h.narrow(0, at, n)?.to_dtype(self.w.dtype())?;
        let targets = self.targets.narrow(0, at, n)?.unsqueeze(1)?;
        let mut logits = h.matmul(&self.w.t()?)?.to_dtype(self.wide)?;
        if let Some((biases, of)) = &self.biases {
            logits = (logits + biases.index_select(&of.narrow(0, at, n)?, 0)?)?;
        }
        let logits = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
        let sum = logits.exp()?.sum_keepdim(1)?.log()?;
        Ok((h, targets, logits, sum))
    }

    /// Log-probability of every row's target.
    ///
    /// # Shapes
    /// h (R,H) -> (R).
    ///
    /// # Units
    /// Nats.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn forward(&self, h: &Tensor) -> Result<Tensor> {
        let parts = self
            .chunks(h.dim(0)?)?
            .map(|(at, n)| {
                let (_, targets, logits, sum) = self.chunk(h, at, n)?;
                (logits.gather(&targets, 1)? - sum)?.squeeze(1)
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }

    /// Gradients of the rows, of the weight where wanted, and of the biases where there are any:
    /// `dlogits = g (onehot(target) - softmax)`.
    ///
    /// # Shapes
    /// h (R,H) · g (R) -> (R,H), (V,H), (B,V).
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn backward(&self, h: &Tensor, g: &Tensor, weight: bool) -> Result<(Tensor, Option<Tensor>, Option<Tensor>)> {
        let mut dw: Option<Tensor> = None;
        let mut dbiases = self.biases.as_ref().map(|(biases, _)| biases.zeros_like()).transpose()?;
        let mut parts = Vec::new();
        for (at, n) in self.chunks(h.dim(0)?)? {
            let (h, targets, logits, sum) = self.chunk(h, at, n)?;
            let g = g.narrow(0, at, n)?.unsqueeze(1)?;
            let p = logits.broadcast_sub(&sum)?.exp()?;
            let dlogits = p.broadcast_mul(&g.neg()?)?.scatter_add(&targets, &g, 1)?;
            if let (Some(sum), Some((_, of))) = (&mut dbiases, &self.biases) {
                *sum = sum.index_add(&of.narrow(0, at, n)?.contiguous()?, &dlogits, 0)?;
            }
            let dlogits = dlogits.to_dtype(self.w.dtype())?;
            parts.push(dlogits.matmul(&self.w)?.to_dtype(self.wide)?);
            if weight {
                let part = dlogits.t()?.matmul(&h)?.to_dtype(self.wide)?;
                dw = Some(match dw {
                    None => part,
                    Some(sum) => (sum + part)?,
                });
            }
        }
        Ok((Tensor::cat(&parts, 0)?, dw, dbiases))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::nn::{Precision, Stored, check, norm as fused_norm, rope, swiglu as fused_swiglu, token_logps};

    fn var(key: &str, shape: impl Into<Shape>) -> (Var, Vec<f64>) {
        let shape = shape.into();
        let values = check::numbers(key, shape.elem_count());
        (Var::from_tensor(&Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap()).unwrap(), values)
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Gradients of `sum(y * dy)` for these variables.
    fn gradients(y: &Tensor, dy: &[f64], of: &[&Var]) -> Vec<Vec<f64>> {
        let dy = Tensor::from_vec(dy.to_vec(), y.shape(), &Device::Cpu).unwrap();
        let store = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        of.iter().map(|v| store.get(v.as_tensor()).map(numbers).unwrap()).collect()
    }

    #[track_caller]
    fn close(what: &str, a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len(), "{what}");
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() < 1e-10, "{what}[{i}]: composed {a}, kernel {b}");
        }
    }

    #[test]
    fn norm_is_the_kernel_s() {
        let (n, h) = (5, 18);
        let ((x, xs), (w, ws), dy) = (var("x", (n, h)), var("w", h), check::numbers("dy", n * h));
        let y = norm(&x, &w, 1e-5).unwrap();
        let (mut wanted, mut inverse) = (vec![0.0; n * h], vec![0.0; n]);
        fused_norm::forward(&xs, &ws, 1e-5, &mut wanted, &mut inverse);
        close("y", &numbers(&y), &wanted);
        let (mut dx, mut dw) = (vec![0.0; n * h], vec![0.0; h]);
        fused_norm::backward(&xs, &ws, &inverse, &dy, &mut dx, Some(&mut dw));
        let found = gradients(&y, &dy, &[&x, &w]);
        close("dx", &found[0], &dx);
        close("dw", &found[1], &dw);
    }

    #[test]
    fn rotary_embedding_is_the_kernel_s() {
        let (positions, frequencies) = ([5, 0, 7, 2], [1.0, 0.1]);
        let n = positions.len();
        let ((x, mut wanted), mut dy) = (var("x", (n, 8)), check::numbers("dy", n * 8));
        let y = Angles::new(&frequencies, &positions, DType::F64, &Device::Cpu).unwrap().rotate(&x).unwrap();
        let found = gradients(&y, &dy, &[&x]);
        let table = rope::RotaryTable::<f64>::new(&frequencies, 8);
        table.rotate(&mut wanted, &positions, false);
        close("y", &numbers(&y), &wanted);
        table.rotate(&mut dy, &positions, true);
        close("dx", &found[0], &dy);
    }

    #[test]
    fn the_gated_unit_is_the_kernel_s() {
        let ((gate, gates), (up, ups), dy) = (var("g", 40), var("u", 40), check::numbers("dy", 40));
        let y = swiglu(&gate, &up).unwrap();
        let mut wanted = vec![0.0; 40];
        fused_swiglu::forward(&gates, &ups, &mut wanted);
        close("y", &numbers(&y), &wanted);
        let [gates, ups] = fused_swiglu::backward(Stored::Whole(gates), Stored::Whole(ups), &dy);
        let found = gradients(&y, &dy, &[&gate, &up]);
        close("dgate", &found[0], &gates);
        close("dup", &found[1], &ups);
    }

    #[test]
    fn a_frozen_weight_has_no_gradient_and_the_input_the_same() {
        let ((x, _), (w, _)) = (var("x", (5, 3)), var("w", (4, 3)));
        let dy = check::numbers("dy", 20);
        let (free, frozen) = (linear(&x, &w).unwrap(), linear_frozen(&x, &w).unwrap());
        close("y", &numbers(&frozen), &numbers(&free));
        close("dx", &gradients(&frozen, &dy, &[&x])[0], &gradients(&free, &dy, &[&x])[0]);
        assert!(frozen.sum_all().unwrap().backward().unwrap().get(w.as_tensor()).is_none());
        // A view is multiplied as what it shows.
        let (wide, _) = var("wide", (4, 8));
        let part = wide.as_tensor().narrow(1, 2, 3).unwrap();
        close(
            "view",
            &numbers(&linear_frozen(&x, &part).unwrap()),
            &numbers(&linear(&x, &part.contiguous().unwrap()).unwrap()),
        );
        assert!(linear_frozen(&x, &wide).is_err());
    }

    #[test]
    fn token_log_probabilities_are_the_kernel_s() {
        let (r, hidden, v) = (3, 4, 50);
        let ((h, hs), (w, ws), g) = (var("h", (r, hidden)), var("w", (v, hidden)), check::numbers("g", r));
        let targets = [0u32, 9, 49];
        let on_device = Tensor::new(&targets, &Device::Cpu).unwrap();
        // Chunks of two rows.
        let composed =
            TokenLogps { w: w.as_detached_tensor(), targets: on_device, wide: DType::F64, biases: None, chunk: 2 * v };
        assert_eq!(composed.chunks(r).unwrap().collect::<Vec<_>>(), [(0, 2), (2, 1)]);
        let wanted = token_logps::forward(&hs, &ws, &targets, hidden, Precision::F32, None);
        close("logps", &numbers(&composed.forward(&h).unwrap()), &wanted.logps);
        let mut dw = vec![0.0; v * hidden];
        let dh = token_logps::backward(&hs, &ws, &targets, &wanted, &g, Precision::F32, Some(&mut dw));
        let g = Tensor::from_vec(g, r, &Device::Cpu).unwrap();
        let (found, found_w, _) = composed.backward(&h, &g, true).unwrap();
        close("dh", &numbers(&found), &dh);
        close("dw", &numbers(&found_w.unwrap()), &dw);
    }
}
