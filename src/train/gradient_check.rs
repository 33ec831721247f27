//! The check that a step's gradient is finite; where it is not, which tensors are at fault.

use super::optimizer::global_norm;
use crate::error::{Error, Result};
use crate::model::{Gradients, Params};
use crate::nn::Real;

/// The global norm of a step's gradient. `ids` are those of the step's pairs, for the error.
///
/// # Errors
/// [`Error::Run`] where the norm is not finite, with the step, the tensors at fault and the ids; [`Error::Tensor`].
pub fn finite_norm<T: Real>(
    params: &Params,
    gradients: &Gradients,
    step: usize,
    ids: &dyn Fn() -> Vec<String>,
) -> Result<f64> {
    let norm = global_norm::<T>(gradients)?;
    if norm.is_finite() {
        return Ok(norm);
    }
    let mut names = faulty_tensors::<T>(params, gradients)?;
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    let which = match (names.is_empty(), more) {
        // Every number is finite; the sum of their squares overflows.
        (true, _) => "its norm".to_string(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more tensors", names.join(", ")),
    };
    Err(Error::run(format!(
        "step {step}: the gradient is not finite in {which}, on the batch with ids {}",
        ids().join(" ")
    ))
    .with_hint("a lower --lr usually helps; the checkpoints of earlier steps are sound"))
}

/// Parameters whose gradient has a number that is not finite, in the parameters' order.
fn faulty_tensors<T: Real>(params: &Params, gradients: &Gradients) -> Result<Vec<String>> {
    let mut found = Vec::new();
    gradients.each::<T>(|position, sum| {
        if sum.iter().any(|x| !x.is_finite()) {
            found.push(params.get(position).name.clone());
        }
        Ok(())
    })?;
    gradients.each_tensor(|position, sum| {
        let squares = sum.sqr()?.sum_all()?.to_dtype(T::KIND)?.to_vec0::<T>()?;
        if !squares.is_finite() {
            found.push(params.get(position).name.clone());
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LlamaConfig;
    use crate::model::init::random;
    use crate::seed::Seed;

    #[test]
    fn the_tensors_at_fault_are_named() {
        let params = Params::new(random::<f32>(&LlamaConfig::tiny(32, 2, 20), 0.02, Seed(3)).unwrap()).unwrap();
        let gradients = Gradients::new(&params);
        let ids = || vec!["a1".to_string(), "b2".to_string()];
        let put = |name: &str, x: f32| gradients.add::<f32>(params.position(name).unwrap(), |g| g[3] = x).unwrap();
        put("model.norm.weight", 2.0);
        assert_eq!(finite_norm::<f32>(&params, &gradients, 4, &ids).unwrap(), 2.0);
        put("model.layers.1.mlp.up_proj.weight", f32::NAN);
        put("model.layers.0.mlp.up_proj.weight", f32::NEG_INFINITY);
        let told = finite_norm::<f32>(&params, &gradients, 4, &ids).unwrap_err().to_string();
        assert_eq!(
            told,
            "step 4: the gradient is not finite in model.layers.0.mlp.up_proj.weight, \
             model.layers.1.mlp.up_proj.weight, on the batch with ids a1 b2"
        );
    }
}
