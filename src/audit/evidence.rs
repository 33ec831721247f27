//! What models that were trained without a pair say of its label, in one number.
//!
//! Two numbers have not seen the label: the log-odds of the trained models, and the margin over the epochs of their
//! training. The models of early epochs are surer of what all prompts share and less of what single pairs taught, so that
//! each number has errors that the other has not. The evidence is `(1 - s) x + s y`, both on the scale of the log-odds.
//!
//! Every share s is as good as every other a priori, and is weighed by the probability of the observed labels with it, over
//! slope and rate ([`super::noise`]): labels that are wrong at random make no share look better than it is. What has trained
//! on the label cannot be weighed so, since it would always look best.

use super::noise::posterior::log_evidence;
use super::signals::PairSignals;

/// Steps of the share from 0 to 1.
const STEPS: usize = 10;

/// The evidence of every pair, and the share that the margin over the epochs has in it; none where it is not known of
/// all pairs.
pub(super) fn combined(signals: &[PairSignals]) -> (Vec<f64>, Option<f64>) {
    let log_odds: Vec<f64> = signals.iter().map(|s| s.log_odds).collect();
    let areas: Option<Vec<f64>> = signals.iter().map(|s| s.cross_area).collect();
    let scale = deviation(&log_odds);
    let Some(areas) = areas.filter(|areas| scale > 0.0 && deviation(areas) > 0.0) else {
        return (log_odds, None);
    };
    let rescaled = |values: Vec<f64>| -> Vec<f64> {
        let factor = scale / deviation(&values);
        values.into_iter().map(|v| if factor.is_finite() { v * factor } else { v }).collect()
    };
    let areas = rescaled(areas);
    let mixed =
        |share: f64| rescaled(log_odds.iter().zip(&areas).map(|(x, y)| (1.0 - share) * x + share * y).collect());
    let shares: Vec<f64> = (0..=STEPS).map(|step| step as f64 / STEPS as f64).collect();
    let logs: Vec<f64> = shares.iter().map(|share| log_evidence(&mixed(*share))).collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
    let share = shares.iter().zip(&weights).map(|(s, w)| s * w).sum::<f64>() / weights.iter().sum::<f64>();
    (mixed(share), Some(share))
}

/// Root of the mean square: a number of 0 says nothing of either order.
fn deviation(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::noise::sigmoid;
    use crate::seed::Seed;

    /// 3000 pairs whose log-odds and margins over the epochs are the truth with errors of these sizes; a fifth of the
    /// labels is wrong.
    fn planted(errors: [f64; 2]) -> Vec<PairSignals> {
        let seed = Seed(5);
        let each = (0..3000).map(|i| {
            let key = i.to_string();
            let noise =
                |what: &str| -> f64 { (0..12).map(|j| seed.unit(what, &format!("{key} {j}"))).sum::<f64>() - 6.0 };
            let truth = 4.0 * (seed.unit("truth", &key) - 0.5);
            let order = if seed.unit("order", &key) < sigmoid(3.0 * truth) { 1.0 } else { -1.0 };
            let label = if seed.unit("flip", &key) < 0.2 { -order } else { order };
            PairSignals {
                id: key.clone(),
                log_odds: label * (truth + errors[0] * noise("first")),
                cross_area: Some(0.1 * label * (truth + errors[1] * noise("second"))),
                flipped: label != order,
                ..PairSignals::default()
            }
        });
        each.collect()
    }

    #[test]
    fn the_better_number_has_the_larger_share() {
        let share = |errors| combined(&planted(errors)).1.unwrap();
        let (second, both, first) = (share([2.0, 0.3]), share([0.8, 0.8]), share([0.3, 2.0]));
        assert!(second > 0.7 && first < 0.3 && (0.3..0.7).contains(&both), "{second} {both} {first}");
    }

    #[test]
    fn two_numbers_with_errors_of_their_own_find_more_than_either() {
        let pairs = planted([0.8, 0.8]);
        let flips: Vec<bool> = pairs.iter().map(|p| p.flipped).collect();
        let found = |values: Vec<f64>| {
            let scores: Vec<f64> = values.into_iter().map(|v| -v).collect();
            crate::analysis::auroc(&scores, &flips)
        };
        let (together, _) = combined(&pairs);
        assert!((deviation(&together) - deviation(&pairs.iter().map(|p| p.log_odds).collect::<Vec<_>>())).abs() < 1e-9);
        let alone = found(pairs.iter().map(|p| p.log_odds).collect());
        let other = found(pairs.iter().map(|p| p.cross_area.unwrap()).collect());
        assert!(found(together) > alone.max(other) + 0.01, "{alone} {other}");
    }

    #[test]
    fn without_epochs_the_evidence_is_the_log_odds() {
        let mut pairs = planted([1.0, 1.0]);
        pairs[7].cross_area = None;
        let (evidence, share) = combined(&pairs);
        assert!(share.is_none() && evidence.iter().zip(&pairs).all(|(e, p)| *e == p.log_odds));
        assert_eq!(combined(&[]), (Vec::new(), None));
    }
}
