//! Choosing the trained parameters by pairs that are held out, and ending a run that no longer gets better on them.

use serde::{Deserialize, Serialize};

use super::events::Metrics;
use super::step_plan::StepPlan;
use crate::error::{Error, Result};
use crate::schema::metric;
use crate::settings::{Faults, Settings, settings};

/// What a better policy has, on the pairs of validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationMetric {
    /// More pairs ranked as they are labelled; where these are as many, the lower loss. For objective `sft` the loss.
    #[default]
    Accuracy,
    /// The lower mean of the objective's loss.
    Loss,
}

settings! {
    /// Options of validation on held-out training prompts.
    pub struct ValidationConfig at "train.validation" {
        /// Share of the training prompts whose pairs are not trained on, 0 to below 1: the run keeps the parameters that
        /// do best on them. Their labels count as they are, flips included. Which prompts depends on the seed. 0 = none:
        /// the run keeps its last parameters.
        pub fraction: f64 = 0.0;
        /// What is best: `accuracy` with the prior's z (with objective `sft` the loss), or `loss`, the mean of the objective.
        pub metric: ValidationMetric = ValidationMetric::Accuracy, used "train.validation.fraction" if |c| c.fraction > 0.0;
        /// Steps between two validations; 0 = one at the end of each epoch. The last step of the latent part's warm-up
        /// and that of the run have one in any case.
        pub every: usize = 0, used "train.validation.fraction" if |c| c.fraction > 0.0;
        /// Validations in a row that are no better than the best one before them, after which training ends; in the latent
        /// part's warm-up the warm-up ends, and the rest begins. 0 = never.
        pub patience: usize = 0, used "train.validation.fraction" if |c| c.fraction > 0.0;
    }
}

impl Settings for ValidationConfig {
    fn judge(&self, faults: &mut Faults) {
        let share = self.fraction;
        faults.check((0.0..1.0).contains(&share), "fraction", format!("expected 0 to below 1, got {share}"));
    }
}

impl ValidationConfig {
    /// Whether a validation is due after a step, whatever the limit of steps.
    pub fn due(&self, plan: &StepPlan, step: usize) -> bool {
        let done = step + 1;
        let of_interval = match self.every {
            0 => plan.epoch(step).0 != plan.epoch(done).0,
            every => done.is_multiple_of(every),
        };
        self.fraction > 0.0 && (of_interval || done == plan.warm || done == plan.warm + plan.horizon)
    }

    /// Whether one is due because a limit of steps ends the run here. A run that goes on later does not have it.
    pub fn due_at_limit(&self, plan: &StepPlan, step: usize) -> bool {
        self.fraction > 0.0 && step + 1 == plan.steps && !self.due(plan, step)
    }

    /// Validations of a run that does not end early.
    pub fn count(&self, plan: &StepPlan) -> usize {
        (0..plan.steps).filter(|step| self.due(plan, *step) || self.due_at_limit(plan, *step)).count()
    }
}

/// One validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// Steps taken before it.
    pub step: usize,
    /// Share of the pairs that are ranked as they are labelled, with the prior's z, weighted as in training.
    pub accuracy: f64,
    /// Mean loss of the objective, weighted as in training.
    pub loss: f64,
    /// RE-PO's clean rate then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_rate: Option<f64>,
}

impl Validated {
    /// What the metrics of a validation say.
    ///
    /// # Errors
    /// [`Error::Run`] where accuracy or loss are no numbers.
    pub fn of(step: usize, metrics: &Metrics, clean_rate: Option<f64>) -> Result<Validated> {
        let get = |name: &str| {
            let key = format!("{}{name}", metric::VALIDATION_PREFIX);
            metrics.iter().find(|(known, _)| *known == key).map(|(_, value)| *value).filter(|value| !value.is_nan())
        };
        match (get(metric::REWARDS_ACCURACIES), get(metric::LOSS)) {
            (Some(accuracy), Some(loss)) => Ok(Validated { step, accuracy, loss, clean_rate }),
            _ => Err(Error::run(format!("accuracy or loss of the validation after step {step} is not a number"))
                .with_hint("a lower --lr helps")),
        }
    }

    fn better_than(&self, other: &Validated, metric: ValidationMetric) -> bool {
        match metric {
            ValidationMetric::Loss => self.loss < other.loss,
            ValidationMetric::Accuracy => {
                self.accuracy > other.accuracy || (self.accuracy == other.accuracy && self.loss < other.loss)
            }
        }
    }
}

/// The validations of a run so far, and what follows from them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The best one of all, whose parameters are kept.
    pub best: Option<Validated>,
    /// BLAKE3 of the file of these parameters.
    #[serde(default)]
    pub blake3: String,
    /// The best one of the current phase: the latent part's warm-up, or what follows it.
    of_phase: Option<Validated>,
    /// Validations of the phase after that one.
    since: usize,
    /// Validations in all.
    pub count: usize,
    /// Steps of the latent part's warm-up, where it ended early.
    pub warm_end: Option<usize>,
    /// Whether training ended early.
    pub ended: bool,
}

impl Validation {
    /// Takes a validation, one of the latent part's warm-up or one after it, and ends the phase where patience does.
    /// True where it is the best one so far.
    pub fn take(&mut self, found: Validated, config: &ValidationConfig, warms: bool) -> bool {
        self.count += 1;
        let better = |than: &Option<Validated>| than.as_ref().is_none_or(|than| found.better_than(than, config.metric));
        let (best, best_of_phase) = (better(&self.best), better(&self.of_phase));
        if best_of_phase {
            (self.of_phase, self.since) = (Some(found.clone()), 0);
        } else {
            self.since += 1;
        }
        if config.patience > 0 && self.since >= config.patience {
            match warms {
                true => self.warm_end = Some(found.step),
                false => self.ended = true,
            }
        }
        if best {
            self.best = Some(found);
        }
        best
    }

    /// The step of the best one.
    pub fn best_step(&self) -> Option<usize> {
        self.best.as_ref().map(|best| best.step)
    }

    /// Begins the phase after the latent part's warm-up.
    pub fn leave_warmup(&mut self) {
        (self.of_phase, self.since) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(step: usize, accuracy: f64, loss: f64) -> Validated {
        Validated { step, accuracy, loss, clean_rate: None }
    }

    #[test]
    fn the_best_is_kept_and_patience_counts_from_the_best_of_its_phase() {
        let config = ValidationConfig { fraction: 0.1, patience: 2, ..ValidationConfig::default() };
        let mut validation = Validation::default();
        let mut take = |step, accuracy, loss| validation.take(found(step, accuracy, loss), &config, true);
        assert!(take(1, 0.6, 0.5));
        assert!(take(2, 0.7, 0.9), "accuracy decides");
        assert!(!take(3, 0.7, 0.9));
        assert!(take(4, 0.7, 0.8), "of equals the lower loss");
        assert!(!take(5, 0.5, 0.1));
        assert_eq!(validation.warm_end, None);
        assert!(!validation.take(found(6, 0.69, 0.1), &config, true));
        assert_eq!((validation.warm_end, validation.ended), (Some(6), false));

        // Another phase is judged by itself, and need not be better than the one before to go on.
        validation.leave_warmup();
        let mut take = |step, accuracy| {
            let best = validation.take(found(step, accuracy, 0.1), &config, false);
            (best, validation.ended)
        };
        assert_eq!([take(7, 0.55), take(8, 0.5), take(9, 0.6), take(10, 0.6)], [(false, false); 4]);
        assert_eq!(take(11, 0.6), (false, true));
        assert_eq!((validation.best.as_ref().unwrap().step, validation.count), (4, 11));

        // Without patience nothing ends, and by the loss another one is best.
        let config = ValidationConfig { patience: 0, metric: ValidationMetric::Loss, ..config };
        let mut validation = Validation::default();
        let best = [(1, 0.7, 0.5), (2, 0.9, 0.6), (3, 0.1, 0.4)]
            .map(|(s, a, l)| validation.take(found(s, a, l), &config, false));
        assert_eq!((best, validation.ended), ([true, false, true], false));
    }

    #[test]
    fn a_validation_without_numbers_is_an_error() {
        let metrics =
            |loss: f64| vec![("validation_rewards/accuracies".to_string(), 0.5), ("validation_loss".to_string(), loss)];
        assert_eq!(Validated::of(3, &metrics(0.7), None).unwrap(), found(3, 0.5, 0.7));
        assert!(
            Validated::of(3, &metrics(f64::NAN), None)
                .unwrap_err()
                .to_string()
                .contains("after step 3 is not a number")
        );
    }

    #[test]
    fn validations_are_due_at_the_ends_of_epochs_or_every_so_many_steps() {
        // 3 + 2 steps of the latent part's warm-up, then 6 in two epochs.
        let plan = StepPlan::new(10, 4, 1.5, 2.0, 0);
        let due = |every| -> Vec<usize> {
            let config = ValidationConfig { fraction: 0.1, every, ..ValidationConfig::default() };
            let due: Vec<usize> =
                (0..plan.steps).filter(|step| config.due(&plan, *step)).map(|step| step + 1).collect();
            assert_eq!(config.count(&plan), due.len());
            due
        };
        assert_eq!(due(0), [3, 5, 8, 11]);
        assert_eq!(due(2), [2, 4, 5, 6, 8, 10, 11]);
        assert_eq!(due(100), [5, 11]);
        assert_eq!(ValidationConfig::default().count(&plan), 0);
        // A limit within an epoch adds one, which a run without the limit does not have.
        let limited = StepPlan::new(10, 4, 1.5, 2.0, 7);
        let config = ValidationConfig { fraction: 0.1, ..ValidationConfig::default() };
        let due: Vec<bool> = (0..7).map(|step| config.due(&limited, step)).collect();
        assert_eq!(due, [false, false, true, false, true, false, false]);
        assert!(config.due_at_limit(&limited, 6) && !config.due_at_limit(&limited, 5) && config.count(&limited) == 3);
        assert!((0..plan.steps).all(|step| !config.due_at_limit(&plan, step)));
    }
}
