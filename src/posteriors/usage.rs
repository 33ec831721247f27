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

impl CodeUse {
    /// The use of the codes by these examples.
    pub fn of<'a>(examples: impl Iterator<Item = &'a Example>) -> CodeUse {
        let mut found = CodeUse::default();
        for example in examples {
            let wide = |w: &[f32]| w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
            found.prior.add(&wide(&example.prior));
            found.posterior.add(&wide(&example.posterior));
        }
        found
    }
}

/// The numbers by which a collapse of the codes is recognized. `swap_overlap` is its mean over the examples, where it
/// is known; `grouped` says whether pairs share codes.
pub fn collapse_signs(
    examples: &[Vec<Example>],
    used: &CodeUse,
    config: &LpcConfig,
    swap_overlap: Option<f64>,
    grouped: bool,
) -> CollapseSigns {
    let all = || examples.iter().flatten();
    let total = all().count().max(1) as f64;
    let mean = |get: fn(&Example) -> f64| all().map(get).sum::<f64>() / total;
    let same = all().filter(|e| hard_code(&e.prior) == hard_code(&e.posterior)).count();
    CollapseSigns {
        codes: used.prior.mass.len(),
        used_prior: used.prior.codes_used(),
        used_posterior: used.posterior.codes_used(),
        perplexity: used.prior.perplexity(),
        prior_entropy: mean(|e| e.prior_entropy),
        posterior_entropy: mean(|e| e.posterior_entropy),
        kl: mean(|e| e.kl),
        swap_overlap,
        agreement: Some(same as f64 / total),
        bayes: config.bayesian(),
        kl_weight: config.kl_weight,
        balance: config.balance,
        code_init: config.code_init,
        grouped,
    }
}
