//! What several ranks compute together: gradients of a step, the reference, evaluation.

use candle_core::Tensor;

use super::layer_sums::LayerSums;
use super::{Ranks, pack, unpack};
use crate::error::{Error, Result};
use crate::model::{Gradients, Params};
use crate::nn::Real;
use crate::policy::Policy;
use crate::policy::evaluate::{self, Example};
use crate::token_file::TokenRow;

/// Passes of each rank whose results one meeting carries.
const PASSES_PER_MEETING: usize = 64;

/// Adds up every parameter's gradient over ranks, but for those that were summed during the backward pass.
///
/// # Errors
/// As [`Ranks::meet`].
pub fn sum_gradients<T: Real>(
    ranks: &Ranks,
    params: &Params,
    gradients: &Gradients,
    layer_sums: Option<&LayerSums<'_>>,
) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    // A rank without pairs in this step has no sum of a parameter that others have one of: it adds zeros.
    let present: Vec<u8> = (0..gradients.len()).map(|position| u8::from(gradients.has(position))).collect();
    let all = ranks.meet(Ok(present))?;
    for (position, param) in params.iter().enumerate() {
        if all.iter().any(|rank| rank.get(position) == Some(&1)) {
            gradients.at_least_zero::<T>(position, param.var.device())?;
        }
    }
    let summed = |position: usize| layer_sums.is_some_and(|layer_sums| layer_sums.covers(position));
    gradients.each::<T>(|position, sum| if summed(position) { Ok(()) } else { ranks.sum(sum) })?;
    // Tensors on other devices are copied into memory to be summed.
    gradients.each_tensor(|_, sum| {
        let mut values = sum.flatten_all()?.to_dtype(T::KIND)?.to_vec1::<T>()?;
        ranks.sum(&mut values)?;
        *sum = Tensor::from_vec(values, sum.shape(), sum.device())?;
        Ok(())
    })
}

/// [`evaluate::evaluate`], each rank computing a share of the passes; every rank gets all examples. Passes hold the
/// same rows for any number of ranks, so that results do not depend on it.
///
/// # Errors
/// As [`evaluate::evaluate`] and [`Ranks::meet`].
pub fn examine<T: Real>(
    policy: &Policy<T>,
    rows: &[TokenRow],
    ranks: &Ranks,
    mut done: impl FnMut(usize),
) -> Result<Vec<Example>> {
    if ranks.size() == 1 {
        return evaluate::evaluate(policy, rows, done);
    }
    in_shares(
        &evaluate::passes(rows),
        ranks,
        &mut done,
        |pass| pass.len(),
        |pass| {
            let mut numbers = Vec::new();
            for example in evaluate::evaluate(policy, pass, |_| {})? {
                write_example(&example, &mut numbers);
            }
            Ok(numbers)
        },
        read_example,
    )
}

/// Log-probabilities (chosen, rejected) of passes without any z, each rank computing a share, as [`examine()`].
///
/// # Units
/// Nats, summed over response tokens.
///
/// # Errors
/// As [`examine()`].
pub fn plain_logps<T: Real>(
    policy: &Policy<T>,
    passes: &[Vec<&TokenRow>],
    ranks: &Ranks,
    mut done: impl FnMut(usize),
) -> Result<Vec<(f64, f64)>> {
    let of = |pass: &Vec<&TokenRow>| -> Result<Vec<f64>> {
        Ok(evaluate::plain_pass(policy, pass)?.into_iter().flat_map(|(c, r)| [c, r]).collect())
    };
    in_shares(passes, ranks, &mut done, Vec::len, of, |numbers| Some((numbers.next()?, numbers.next()?)))
}

/// Each rank computes its share of the passes as numbers; all ranks then read the results of all, in the order of the
/// rows.
fn in_shares<P, R>(
    passes: &[P],
    ranks: &Ranks,
    done: &mut dyn FnMut(usize),
    rows: impl Fn(&P) -> usize,
    compute: impl Fn(&P) -> Result<Vec<f64>>,
    read: impl Fn(&mut dyn Iterator<Item = f64>) -> Option<R>,
) -> Result<Vec<R>> {
    let total: usize = passes.iter().map(&rows).sum();
    let mut out = Vec::with_capacity(total);
    for passes in passes.chunks(PASSES_PER_MEETING * ranks.size()) {
        let mut own = Vec::new();
        for pass in &passes[ranks.share(passes.len())] {
            own.extend(compute(pass)?);
        }
        for bytes in ranks.meet(Ok(pack(&own)))? {
            let mut numbers = unpack(&bytes).into_iter();
            while let Some(found) = read(&mut numbers) {
                out.push(found);
            }
        }
        done(passes.iter().map(&rows).sum());
    }
    if out.len() != total {
        return Err(Error::run(format!("ranks examined {} of {total} rows", out.len())));
    }
    Ok(out)
}

fn write_example(example: &Example, out: &mut Vec<f64>) {
    // Named one by one, so that a new field cannot be forgotten here.
    let Example { prior, posterior, code_logps, kl, prior_entropy, posterior_entropy, logps, logps_posterior } =
        example;
    for list in [prior, posterior, code_logps] {
        out.push(list.len() as f64);
        out.extend(list.iter().map(|&w| f64::from(w)));
    }
    out.extend([*kl, *prior_entropy, *posterior_entropy, logps.0, logps.1, logps_posterior.0, logps_posterior.1]);
}

fn read_example(numbers: &mut dyn Iterator<Item = f64>) -> Option<Example> {
    let list = |numbers: &mut dyn Iterator<Item = f64>| -> Option<Vec<f32>> {
        let n = numbers.next()? as usize;
        Some(numbers.take(n).map(|w| w as f32).collect())
    };
    let (prior, posterior, code_logps) = (list(numbers)?, list(numbers)?, list(numbers)?);
    let mut next = || numbers.next();
    Some(Example {
        prior,
        posterior,
        code_logps,
        kl: next()?,
        prior_entropy: next()?,
        posterior_entropy: next()?,
        logps: (next()?, next()?),
        logps_posterior: (next()?, next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_read_as_it_was_written() {
        let examples: Vec<Example> = (0..3u8)
            .map(|i| Example {
                prior: vec![0.1; i as usize + 1],
                posterior: vec![1.0 / 3.0; 2],
                code_logps: vec![-3.5; 4],
                kl: f64::from(i) / 7.0,
                logps: (f64::from(i) - 0.1, f64::NEG_INFINITY),
                logps_posterior: (1e-300, 3.0),
                ..Example::default()
            })
            .collect();
        let mut numbers = Vec::new();
        examples.iter().for_each(|e| write_example(e, &mut numbers));
        let mut numbers = unpack(&pack(&numbers)).into_iter();
        let again: Vec<Example> = std::iter::from_fn(|| read_example(&mut numbers)).collect();
        assert_eq!(again, examples);
    }
}
