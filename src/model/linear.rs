//! One linear map of a decoder layer: weight, an optional bias, an optional low-rank adapter.
//!
//! `y = x W^T + b + s (x A^T) B^T`. Gradients go to the shared sums; nothing is computed for what is frozen.
//!
//! # Source
//! Hu et al. 2021, "LoRA", Eq. 3, for the adapter; `s` is alpha / rank there.

use candle_core::Tensor;

use super::params::Gradients;
use crate::nn::real::with_slice;
use crate::nn::{Real, Rows, linear};

/// A parameter: its values, and where its gradient goes.
#[derive(Debug, Clone)]
pub struct Weight {
    /// The values, contiguous.
    pub tensor: Tensor,
    /// Position in [`super::Params`].
    pub position: usize,
}

impl Weight {
    /// Calls `f` with the values.
    ///
    /// # Errors
    /// [`candle_core::Error`] where they are of another number type.
    pub fn with<T: Real, R>(&self, f: impl FnOnce(&[T]) -> R) -> candle_core::Result<R> {
        Ok(with_slice::<T, R>(&self.tensor, f)?)
    }
}

/// A low-rank addition to a weight.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// A (r,I).
    pub a: Weight,
    /// B (O,r).
    pub b: Weight,
    /// s: alpha / r.
    pub scale: f64,
}

/// A linear map.
#[derive(Debug, Clone)]
pub struct Linear {
    /// W (O,I).
    pub weight: Weight,
    /// b (O).
    pub bias: Option<Weight>,
    /// The adapter.
    pub adapter: Option<Adapter>,
}

impl Adapter {
    /// `u = s x A^T`.
    ///
    /// # Shapes
    /// x (N,I) -> (N,r).
    fn narrow<T: Real>(&self, x: &Rows<'_, T>) -> candle_core::Result<Vec<T>> {
        let mut u = vec![T::zero(); x.rows() * self.a.tensor.dim(0)?];
        self.a.with(|a| linear::forward(x, a, &mut u, false))?;
        let scale = T::of(self.scale);
        u.iter_mut().for_each(|u| *u *= scale);
        Ok(u)
    }

    /// Adds the adapter's own gradients; returns `du = s dy B`.
    ///
    /// # Shapes
    /// dy (N,O) · x (N,I) -> (N,r).
    fn backward<T: Real>(
        &self,
        gradients: Option<&Gradients>,
        dy: &Rows<'_, T>,
        x: &Rows<'_, T>,
    ) -> candle_core::Result<Vec<T>> {
        let mut du = vec![T::zero(); dy.rows() * self.a.tensor.dim(0)?];
        self.b.with(|b| linear::backward_input(dy, b, &mut du, false))?;
        let scale = T::of(self.scale);
        du.iter_mut().for_each(|u| *u *= scale);
        if let Some(gradients) = gradients {
            if gradients.wants(self.b.position) {
                let u = self.narrow(x)?;
                let u = x.like(&u, x.rows());
                gradients.add::<T>(self.b.position, |db| linear::backward_weight(dy, &u, db))?;
            }
            let du = dy.like(&du, dy.rows());
            gradients.add::<T>(self.a.position, |da| linear::backward_weight(&du, x, da))?;
        }
        Ok(du)
    }
}

impl Linear {
    /// A map without bias and adapter.
    pub fn plain(weight: Weight) -> Linear {
        Linear { weight, bias: None, adapter: None }
    }

    /// Writes `y`, or adds to it with `accumulate`.
    ///
    /// # Shapes
    /// x (N,I) · y (N,O).
    ///
    /// # Errors
    /// [`candle_core::Error`] where a parameter is of another number type.
    pub fn forward<T: Real>(&self, x: &Rows<'_, T>, y: &mut [T], accumulate: bool) -> candle_core::Result<()> {
        match &self.adapter {
            None => self.weight.with(|w| linear::forward(x, w, y, accumulate))?,
            Some(adapter) => {
                let u = adapter.narrow(x)?;
                let u = x.like(&u, x.rows());
                let mut both = |w: &[T], b: &[T]| linear::forward_adapted((x, w), (&u, b), y, accumulate);
                self.weight.with(|w| adapter.b.with(|b| both(w, b)))??;
            }
        }
        if let Some(bias) = &self.bias {
            bias.with(|b| linear::add_bias(y, b))?;
        }
        Ok(())
    }

    /// Writes the input's gradient, or adds to it with `accumulate`; adds the parameters' own to `gradients`.
    ///
    /// # Shapes
    /// dy (N,O) · x, dx (N,I).
    ///
    /// # Errors
    /// [`candle_core::Error`] where a parameter or a sum is of another number type.
    pub fn backward<T: Real>(
        &self,
        gradients: Option<&Gradients>,
        dy: &Rows<'_, T>,
        x: &Rows<'_, T>,
        dx: &mut [T],
        accumulate: bool,
    ) -> candle_core::Result<()> {
        if let Some(gradients) = gradients {
            gradients.add::<T>(self.weight.position, |dw| linear::backward_weight(dy, x, dw))?;
            if let Some(bias) = &self.bias {
                gradients.add::<T>(bias.position, |db| linear::backward_bias(dy.values(), db))?;
            }
        }
        match &self.adapter {
            None => self.weight.with(|w| linear::backward_input(dy, w, dx, accumulate)),
            Some(adapter) => {
                let du = adapter.backward(gradients, dy, x)?;
                let du = dy.like(&du, dy.rows());
                let mut both = |w: &[T], a: &[T]| linear::backward_input_adapted((dy, w), (&du, a), dx, accumulate);
                self.weight.with(|w| adapter.a.with(|a| both(w, a)))?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::model::{Group, Param, Params};
    use crate::nn::check;

    const ROWS: usize = 5;
    const INPUTS: usize = 3;
    const OUTPUTS: usize = 4;
    const RANK: usize = 2;
    const NAMES: [&str; 4] = ["w", "b", "lora_a", "lora_b"];

    fn rows(x: &[f64]) -> Rows<'_, f64> {
        Rows::new(x, ROWS, crate::nn::Precision::F32)
    }

    fn value(name: &str) -> (Vec<f64>, Vec<usize>) {
        let shape = match name {
            "w" => vec![OUTPUTS, INPUTS],
            "b" => vec![OUTPUTS],
            "lora_a" => vec![RANK, INPUTS],
            _ => vec![OUTPUTS, RANK],
        };
        (check::numbers(name, shape.iter().product()), shape)
    }

    fn map(change: Option<(&str, &[f64])>) -> (Params, Linear) {
        let params = NAMES
            .iter()
            .map(|&name| {
                let (mut values, shape) = value(name);
                if let Some((changed, to)) = change
                    && changed == name
                {
                    values = to.to_vec();
                }
                let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
                Param { name: name.into(), var, trainable: true, group: Group::Backbone }
            })
            .collect();
        let params = Params::new(params).unwrap();
        let weight = |name: &str| {
            let position = params.position(name).unwrap();
            Weight { tensor: params.get(position).var.as_tensor().clone(), position }
        };
        let adapter = Adapter { a: weight("lora_a"), b: weight("lora_b"), scale: 0.7 };
        let linear = Linear { weight: weight("w"), bias: Some(weight("b")), adapter: Some(adapter) };
        (params, linear)
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (x, dy) = (check::numbers("x", ROWS * INPUTS), check::numbers("dy", ROWS * OUTPUTS));
        let run = |linear: &Linear, x: &[f64]| {
            let mut y = vec![f64::NAN; ROWS * OUTPUTS];
            linear.forward(&rows(x), &mut y, false).unwrap();
            check::dot(&y, &dy)
        };
        let (params, linear) = map(None);
        let gradients = Gradients::new(&params);
        let mut dx = vec![f64::NAN; x.len()];
        linear.backward(Some(&gradients), &rows(&dy), &rows(&x), &mut dx, false).unwrap();
        check::gradient("dx", &x, &dx, |x| run(&linear, x));
        for name in NAMES {
            let found = gradients.tensor(params.position(name).unwrap()).unwrap().unwrap();
            let found: Vec<f64> = found.flatten_all().unwrap().to_vec1().unwrap();
            check::gradient(name, &value(name).0, &found, |values| run(&map(Some((name, values))).1, &x));
        }
    }
}
