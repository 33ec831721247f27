//! Learned flip rates: `e = 0.5 sigmoid(r)`, always between 0 and one half.

use candle_core::Tensor;

use crate::error::Result;
use crate::nn::log_sigmoid::log_sigmoid;

/// Flip rates of logits r, differentiable.
///
/// # Shapes
/// That of the logits.
///
/// # Units
/// Probabilities, between 0 and one half.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn rate(logits: &Tensor) -> Result<Tensor> {
    Ok((log_sigmoid(logits)?.exp()? * 0.5)?)
}

/// The logit r of a flip rate above 0 and below one half.
pub fn logit(rate: f64) -> f64 {
    (2.0 * rate).ln() - (1.0 - 2.0 * rate).ln()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rates_and_logits_are_inverse() {
        // sigmoid(0) / 2 = 1/4; sigmoid(ln(1/4)) / 2 = 1/10.
        assert_eq!(logit(0.25), 0.0);
        assert!((logit(0.1) - 0.25f64.ln()).abs() < 1e-12);
        let rates = [0.001, 0.1, 0.25, 0.49];
        let logits = Tensor::new(rates.map(logit).as_slice(), &Device::Cpu).unwrap();
        for (got, wanted) in rate(&logits).unwrap().to_vec1::<f64>().unwrap().iter().zip(rates) {
            assert!((got - wanted).abs() < 1e-12);
        }
    }
}
