//! Metrics of the pairs of validation: what is known of them without their clean labels.

use candle_core::{Device, Tensor};

use super::split_examples::{SplitExamples, preference};
use crate::error::Result;
use crate::objective::ObjectiveConfig;
use crate::schema::metric;

/// Means over pairs, each with its weight in training, with the prior's z and by the labels as they are observed:
/// `validation_loss` (the objective's), `validation_rewards/accuracies` and `validation_rewards/margins`. `flips` has the
/// learned flip rates of objective mix: one for all pairs, or one for each code.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn metrics(
    split: &SplitExamples<'_>,
    objective: &ObjectiveConfig,
    flips: Option<&[f64]>,
) -> Result<Vec<(String, f64)>> {
    let of_pairs = flips.map(|rates| {
        let of_pair = |prior: &[f32]| match rates {
            [one] => *one,
            each => each.iter().zip(prior).map(|(rate, weight)| rate * f64::from(*weight)).sum(),
        };
        let each: Vec<f64> = split.examples.iter().map(|example| of_pair(&example.prior)).collect();
        Tensor::from_vec(each, split.rows.len(), &Device::Cpu)
    });
    let found = objective.losses_with(&preference(split, |e| e.logps)?, of_pairs.transpose()?.as_ref())?;
    let (losses, margins) = (found.losses.to_vec1::<f64>()?, found.margins()?.to_vec1::<f64>()?);
    let weights: Vec<f64> = split.rows.iter().map(|row| row.loss_weight()).collect();
    let mean = |value: &dyn Fn(usize) -> f64| {
        let sum: f64 = weights.iter().enumerate().map(|(i, weight)| weight * value(i)).sum();
        sum / weights.iter().sum::<f64>()
    };
    let key = |name: &str| format!("{}{name}", metric::VALIDATION_PREFIX);
    Ok(vec![
        (key(metric::LOSS), mean(&|i| losses[i])),
        (key(metric::REWARDS_ACCURACIES), mean(&|i| f64::from(u8::from(margins[i] > 0.0)))),
        (key(metric::REWARDS_MARGINS), mean(&|i| margins[i])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::ObjectiveKind;
    use crate::policy::Example;
    use crate::token_file::TokenRow;

    #[test]
    fn labels_count_as_they_are_observed_and_pairs_by_their_weights() {
        let row = |flipped, weight| TokenRow {
            flipped,
            weight,
            chosen_ids: vec![1].into(),
            rejected_ids: vec![1].into(),
            ..TokenRow::default()
        };
        let rows = [row(false, None), row(true, Some(3.0)), row(false, Some(0.0))];
        let example = |chosen: f64| Example { logps: (chosen, 0.0), prior: vec![0.25, 0.75], ..Example::default() };
        let examples = [2.0, -2.0, 9.0].map(example);
        let split =
            SplitExamples { split: "validation", rows: &rows, examples: &examples, reference: Some(&[(0.0, 0.0); 3]) };
        let get = |objective: &ObjectiveConfig, flips: Option<&[f64]>, key: &str| {
            let found = metrics(&split, objective, flips).unwrap();
            found.iter().find(|(known, _)| known == key).unwrap().1
        };
        let dpo = ObjectiveConfig { beta: 0.5, ..ObjectiveConfig::default() }.resolved();
        // Margins 1 and -1 with weights 1 and 3; a label that was flipped counts as it is, one without weight not at all.
        assert_eq!(get(&dpo, None, "validation_rewards/accuracies"), 0.25);
        assert_eq!(get(&dpo, None, "validation_rewards/margins"), -0.5);
        let loss = |margin: f64| (-margin).exp().ln_1p();
        let expected = 0.25 * loss(1.0) + 0.75 * loss(-1.0);
        assert!((get(&dpo, None, "validation_loss") - expected).abs() < 1e-12);

        // -ln((1 - e) sigmoid(m) + e sigmoid(-m)), e of the codes weighted by the prior: 0.25 * 0.1 + 0.75 * 0.3 = 0.25.
        let mix = ObjectiveConfig { name: ObjectiveKind::Mix, beta: 0.5, ..ObjectiveConfig::default() }.resolved();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let of = |e: f64, m: f64| -((1.0 - e) * sigmoid(m) + e * sigmoid(-m)).ln();
        for (flips, e) in [(vec![0.1, 0.3], 0.25), (vec![0.2], 0.2)] {
            let found = get(&mix, Some(&flips), "validation_loss");
            assert!((found - (0.25 * of(e, 1.0) + 0.75 * of(e, -1.0))).abs() < 1e-9, "{found}");
        }
    }
}
