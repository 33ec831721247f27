//! How examined pairs use the codes, and what that shows of a collapse.

use crate::lpc::usage::hard_code;
use crate::lpc::{CollapseSigns, LpcConfig, Usage};
use crate::policy::Example;

/// Use of the codes over all examples, by the prior and by the posterior.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodeUse {
    /// By the prior.
    pub prior: Usage,
    /// By the posterior.
    pub posterior: Usage,
}

/// Sums over examined pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExampleSums {
    /// Use of the codes.
    pub used: CodeUse,
    examples: u64,
    prior_entropy: f64,
    posterior_entropy: f64,
    kl: f64,
    /// Examples whose prior and posterior have the same most probable code.
    agreeing: u64,
    /// Where the posterior is Bayes'.
    swap_overlaps: Option<f64>,
}

impl ExampleSums {
    /// Adds examples with the sum of their swap overlaps, where it is known.
    pub fn add(&mut self, examples: &[Example], swap_overlaps: Option<f64>) {
        for example in examples {
            let wide = |w: &[f32]| w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
            self.used.prior.add(&wide(&example.prior));
            self.used.posterior.add(&wide(&example.posterior));
            self.prior_entropy += example.prior_entropy;
            self.posterior_entropy += example.posterior_entropy;
            self.kl += example.kl;
            self.agreeing += u64::from(hard_code(&example.prior) == hard_code(&example.posterior));
        }
        self.examples += examples.len() as u64;
        if let Some(sum) = swap_overlaps {
            self.swap_overlaps = Some(self.swap_overlaps.unwrap_or(0.0) + sum);
        }
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.examples.max(1) as f64
    }

    /// Mean KL of the posterior from the prior, nats.
    pub fn kl(&self) -> f64 {
        self.mean(self.kl)
    }

    /// The numbers by which a collapse of the codes is recognized; `grouped` says whether pairs share codes.
    pub fn collapse_signs(&self, config: &LpcConfig, grouped: bool) -> CollapseSigns {
        let used = &self.used;
        CollapseSigns {
            codes: used.prior.mass.len(),
            used_prior: used.prior.codes_used(),
            used_posterior: used.posterior.codes_used(),
            perplexity: used.prior.perplexity(),
            prior_entropy: self.mean(self.prior_entropy),
            posterior_entropy: self.mean(self.posterior_entropy),
            kl: self.kl(),
            swap_overlap: self.swap_overlaps.map(|sum| self.mean(sum)),
            agreement: Some(self.mean(self.agreeing as f64)),
            bayes: config.bayesian(),
            kl_weight: config.kl_weight,
            balance: config.balance,
            code_init: config.code_init,
            grouped,
        }
    }
}
