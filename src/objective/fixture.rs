//! Pairs with given reward margins, for tests of objectives.

use candle_core::{Device, Tensor, Var};

use super::{ObjectiveConfig, ObjectiveKind, PreferenceLogps};

/// An objective with its defaults written out.
pub(super) fn config(name: ObjectiveKind) -> ObjectiveConfig {
    ObjectiveConfig { name, ..ObjectiveConfig::default() }.resolved()
}

/// Pairs of one token a side, with a reference of 0, whose summed log-ratios differ by `differences`; the chosen
/// log-probabilities are a variable.
pub(super) fn pairs(differences: &[f64]) -> (Var, PreferenceLogps) {
    let n = differences.len();
    let of = |x: f64| Tensor::full(x, n, &Device::Cpu).unwrap();
    let chosen: Vec<f64> = differences.iter().map(|d| d - 3.0).collect();
    let chosen = Var::from_tensor(&Tensor::from_vec(chosen, n, &Device::Cpu).unwrap()).unwrap();
    let logps = PreferenceLogps {
        chosen_logps: chosen.as_tensor().clone(),
        rejected_logps: of(-3.0),
        reference_chosen_logps: of(0.0),
        reference_rejected_logps: of(0.0),
        n_chosen: of(1.0),
        n_rejected: of(1.0),
    };
    (chosen, logps)
}

/// Losses of pairs with these differences.
pub(super) fn losses(config: &ObjectiveConfig, differences: &[f64]) -> Vec<f64> {
    config.losses(&pairs(differences).1).unwrap().losses.to_vec1().unwrap()
}

/// Gradients of the sum of losses in the chosen log-probabilities, which are compared with central differences.
#[track_caller]
pub(super) fn gradients(config: &ObjectiveConfig, differences: &[f64]) -> Vec<f64> {
    let (chosen, logps) = pairs(differences);
    let sum = config.losses(&logps).unwrap().losses.sum_all().unwrap();
    let found = sum.backward().unwrap().get(&chosen).unwrap().to_vec1::<f64>().unwrap();
    let moved = |by: f64| losses(config, &differences.iter().map(|d| d + by).collect::<Vec<_>>());
    let (above, below) = (moved(1e-5), moved(-1e-5));
    for ((g, a), b) in found.iter().zip(above).zip(below) {
        let numeric = (a - b) / 2e-5;
        assert!((g - numeric).abs() < 1e-8 * (1.0 + g.abs()), "{:?}: analytic {g}, numeric {numeric}", config.name);
    }
    found
}

/// Differences of the log-ratios, with beta = 0.1 margins of -9 to 9.
pub(super) const DIFFERENCES: [f64; 7] = [-90.0, -20.0, -3.0, 0.0, 7.0, 30.0, 90.0];

pub(super) fn sigmoid(u: f64) -> f64 {
    1.0 / (1.0 + (-u).exp())
}
