//! Sums over ranks that are computed while the backward pass goes on: the gradients of a layer are complete once the pass
//! has come to the layer below.
//!
//! For ranks on several machines, where a sum waits for the network. On one machine it would take the processor from the
//! backward pass, and what waits in MPI keeps a core busy.

use std::sync::mpsc;

use super::Ranks;
use crate::error::{Error, Result};
use crate::model::{Decoder, Gradients, Params, names};
use crate::nn::Real;

/// The layers whose gradients are summed during the backward pass.
#[derive(Debug)]
pub struct LayerSums<'a> {
    ranks: &'a Ranks,
    /// The layers with trained parameters, the last one first: the order in which all ranks sum them.
    layers: Vec<SummedLayer>,
}

/// Positions of one layer's parameters.
#[derive(Debug)]
struct SummedLayer {
    /// Its first norm, by which the backward pass names it.
    norm: usize,
    /// What is trained.
    trained: Vec<usize>,
}

/// Closes the channel when it is dropped: a backward pass that fails or panics leaves nobody waiting.
struct Closing<'a>(&'a Gradients);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.tell(None);
    }
}

impl<'a> LayerSums<'a> {
    /// For ranks on several machines whose decoder's own operations compute the gradients; none otherwise.
    ///
    /// # Errors
    /// [`Error::Run`] naming a norm that is missing.
    pub fn new<T: Real>(ranks: &'a Ranks, decoder: &Decoder<T>, params: &Params) -> Result<Option<LayerSums<'a>>> {
        if !ranks.apart() || decoder.place().is_some() {
            return Ok(None);
        }
        let mut layers = Vec::new();
        for layer in (0..decoder.config.num_hidden_layers).rev() {
            let prefix = names::layer_prefix(layer);
            let of_layer = params.iter().enumerate().filter(|(_, p)| p.trainable && p.name.starts_with(&prefix));
            let trained: Vec<usize> = of_layer.map(|(position, _)| position).collect();
            if !trained.is_empty() {
                layers.push(SummedLayer { norm: params.position(&names::layer(layer, "input_layernorm"))?, trained });
            }
        }
        Ok((!layers.is_empty()).then_some(LayerSums { ranks, layers }))
    }

    /// Whether this parameter's gradient is summed here.
    pub fn covers(&self, position: usize) -> bool {
        self.layers.iter().any(|layer| layer.trained.contains(&position))
    }

    /// Calls `backward`, the last backward pass of a step, and sums each layer's gradients as soon as they are complete.
    /// Follows a meeting, every rank calls it, and none speaks to the others in `backward`.
    ///
    /// # Errors
    /// Those of `backward`; as [`Ranks::sum`].
    pub fn during<T: Real, R>(&self, gradients: &Gradients, backward: impl FnOnce() -> Result<R>) -> Result<R> {
        let (complete, completed) = mpsc::channel();
        gradients.tell(Some(complete));
        let (found, summed) = std::thread::scope(|scope| {
            let summing = scope.spawn(move || self.sum::<T>(gradients, &completed));
            let closing = Closing(gradients);
            let found = backward();
            drop(closing);
            (found, summing.join())
        });
        summed.map_err(|_| Error::run("the thread that sums gradients has panicked"))??;
        found
    }

    /// Sums all layers in their order, each once the channel has brought it or is closed.
    fn sum<T: Real>(&self, gradients: &Gradients, completed: &mpsc::Receiver<usize>) -> Result<()> {
        let mut told = Vec::new();
        for layer in &self.layers {
            while !told.contains(&layer.norm) {
                match completed.recv() {
                    Ok(norm) => told.push(norm),
                    Err(_) => break,
                }
            }
            for &position in &layer.trained {
                gradients.with_sum::<T, _>(position, |sum| sum.map_or(Ok(()), |sum| self.ranks.sum(sum)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::LlamaConfig;
    use crate::model::init::random;
    use crate::seed::Seed;
    use crate::train::ranks::threads::{apart, together};

    /// Two layers whose gradients are this rank's number plus one, in every element.
    fn with<R>(ranks: &Ranks, work: impl FnOnce(&LayerSums<'_>, &Params, &Gradients) -> R) -> R {
        let config = LlamaConfig::tiny(16, 2, 20);
        let params = Params::new(random::<f64>(&config, 0.3, Seed(2)).unwrap()).unwrap();
        let decoder = Decoder::<f64>::new(config, &params, None, 8).unwrap();
        let gradients = Gradients::new(&params);
        for position in 0..params.len() {
            gradients.add::<f64>(position, |sum| sum.fill(1.0 + ranks.rank() as f64)).unwrap();
        }
        work(&LayerSums::new(ranks, &decoder, &params).unwrap().unwrap(), &params, &gradients)
    }

    fn first(gradients: &Gradients, position: usize) -> f64 {
        gradients.tensor(position).unwrap().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()[0]
    }

    #[test]
    fn a_layer_is_summed_while_the_pass_goes_on_below_it() {
        let ended = apart(2, |ranks| {
            with(ranks, |layer_sums, params, gradients| {
                let norm = |layer| params.position(&names::layer(layer, "input_layernorm")).unwrap();
                layer_sums
                    .during::<f64, _>(gradients, || {
                        gradients.completed(norm(1));
                        let begun = Instant::now();
                        while first(gradients, norm(1)) != 3.0 {
                            assert!(begun.elapsed() < Duration::from_secs(60), "the upper layer is not summed");
                        }
                        assert_eq!(first(gradients, norm(0)), 1.0 + ranks.rank() as f64);
                        Ok(())
                    })
                    .unwrap();
                for (position, param) in params.iter().enumerate() {
                    let of_layer = param.name.contains(".layers.");
                    assert_eq!(layer_sums.covers(position), of_layer);
                    assert_eq!(first(gradients, position), if of_layer { 3.0 } else { 1.0 + ranks.rank() as f64 });
                }
            })
        });
        assert_eq!(ended.len(), 2, "a rank has panicked");
    }

    #[test]
    fn a_pass_that_fails_leaves_no_other_rank_waiting() {
        let found = apart(2, |ranks| {
            with(ranks, |layer_sums, params, gradients| {
                let failed = layer_sums.during::<f64, _>(gradients, || match ranks.rank() {
                    0 => Err(Error::run("no")),
                    _ => Ok(()),
                });
                let norm = params.position(&names::layer(0, "input_layernorm")).unwrap();
                (failed.is_err(), first(gradients, norm))
            })
        });
        assert_eq!(found, [(true, 3.0), (false, 3.0)]);
    }

    #[test]
    fn a_pass_that_panics_ends() {
        let found = apart(2, |ranks| {
            with(ranks, |layer_sums, _, gradients| {
                let pass = || layer_sums.during::<f64, ()>(gradients, || panic!("on purpose"));
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass)).is_err()
            })
        });
        assert_eq!(found, [true; 2]);
    }

    #[test]
    fn on_one_machine_nothing_is_overlapped() {
        let config = LlamaConfig::tiny(16, 1, 20);
        let params = Params::new(random::<f64>(&config, 0.3, Seed(2)).unwrap()).unwrap();
        let decoder = Decoder::<f64>::new(config, &params, None, 8).unwrap();
        assert_eq!(together(2, |ranks| LayerSums::new(ranks, &decoder, &params).unwrap().is_none()), [true; 2]);
    }
}
