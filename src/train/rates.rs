//! The learning rates of a step.

use super::config::{LrSchedule, TrainConfig};
use super::optimizer::LearningRates;
use super::step_plan::StepPlan;

/// The rate that the metrics tell: the backbone's, or where the latent part is trained alone that of its networks.
pub(super) fn told(used: LearningRates, latent_alone: bool) -> f64 {
    if latent_alone { used.latent } else { used.backbone }
}

/// Learning rates of a step, and what it takes off the latent part. `unit` is that of the codes' rate.
pub(super) fn at(config: &TrainConfig, unit: f64, plan: &StepPlan, step: usize) -> LearningRates {
    let [of_backbone, of_latent] = rate_shares(config, plan, step);
    LearningRates {
        backbone: config.lr * of_backbone,
        latent: config.lpc.lr * of_latent,
        codes: config.lpc.code_lr * unit * of_latent,
        latent_decay: config.lpc.weight_decay * config.lpc.lr * of_latent,
        code_decay: config.lpc.weight_decay * config.lpc.code_lr * of_latent,
    }
}

/// Steps over which the latent part's rate rises in its warm-up.
const LATENT_RISE: usize = 10;
/// Share of its peak rate that the latent part has after its warm-up: enough for its codes to follow the backbone, and
/// too little to become others.
const LATENT_REST: f64 = 0.1;

/// Shares of the peak learning rates at a step, of the backbone and of the latent part. The backbone's rises linearly
/// in `train.warmup` and then follows the schedule. In its own warm-up the latent part's falls along half a cosine to
/// [`LATENT_REST`], and after it falls with the backbone's.
fn rate_shares(config: &TrainConfig, plan: &StepPlan, step: usize) -> [f64; 2] {
    if plan.warms(step) {
        let rise = ((step + 1) as f64 / LATENT_RISE.min(plan.warm) as f64).min(1.0);
        let fall = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / plan.warm as f64).cos());
        return [0.0, rise * (LATENT_REST + (1.0 - LATENT_REST) * fall)];
    }
    let step = (step - plan.warm) as f64;
    let warm = (config.warmup * plan.horizon as f64).ceil();
    let rest = (plan.horizon as f64 - warm).max(1.0);
    let fall = |done: f64| match config.lr_schedule {
        LrSchedule::Constant => 1.0,
        LrSchedule::Linear => 1.0 - done,
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    };
    let backbone = if step < warm { (step + 1.0) / warm } else { fall((step - warm) / rest) };
    if plan.warm == 0 {
        [backbone, backbone]
    } else {
        [backbone, LATENT_REST * if step < warm { 1.0 } else { backbone }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rate_rises_then_falls() {
        let config = TrainConfig { warmup: 0.2, ..TrainConfig::default() };
        let plan = StepPlan::new(10, 1, 0.0, 1.0, 0);
        let share = |step| rate_shares(&config, &plan, step)[0];
        assert_eq!((share(0), share(1), share(2)), (0.5, 1.0, 1.0));
        // Half way through the remaining 8 steps: half the peak.
        assert!((share(6) - 0.5).abs() < 1e-12);
        assert!(share(9) > 0.0 && share(9) < 0.05);
    }

    #[test]
    fn the_latent_part_learns_most_while_it_is_alone() {
        let config = TrainConfig { warmup: 0.5, ..TrainConfig::default() };
        let plan = StepPlan::new(100, 1, 1.0, 0.1, 0);
        let shares = |step| rate_shares(&config, &plan, step);
        assert_eq!((plan.warm, plan.horizon), (100, 10));
        assert_eq!(shares(0), [0.0, 0.1]);
        // Half way: the middle between 1 and a tenth.
        assert!((shares(50)[1] - 0.55).abs() < 1e-12 && shares(50)[0] == 0.0);
        // The backbone rises, the codes wait for it at a tenth; then both fall.
        assert_eq!(shares(100), [0.2, 0.1]);
        assert_eq!(shares(105), [1.0, 0.1]);
        let end = shares(109);
        assert!((end[1] - 0.1 * end[0]).abs() < 1e-12 && end[0] < 0.1);
    }
}
