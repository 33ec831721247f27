//! Which examples each step sees: a pure function of (seed, step).

use crate::batch::{TokenRow, epoch_order};
use crate::seed::Seed;

/// The steps of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Examples.
    pub examples: usize,
    /// Examples of one step; the last step of an epoch may have fewer.
    pub per_step: usize,
    /// Steps that the epochs make: the length of all schedules.
    pub horizon: usize,
    /// Steps that will run.
    pub steps: usize,
    /// Whole epochs.
    whole: usize,
    /// Examples of the epoch behind the whole ones, where their number is a fraction.
    rest: usize,
}

impl Plan {
    /// The plan for `epochs` over `examples`, stopping after `max_steps` (0 = no limit).
    pub fn new(examples: usize, per_step: usize, epochs: f64, max_steps: usize) -> Plan {
        let whole = epochs.floor();
        let rest = ((epochs - whole) * examples as f64).round() as usize;
        let whole = whole as usize;
        let horizon = whole * examples.div_ceil(per_step) + rest.div_ceil(per_step);
        let steps = if max_steps == 0 { horizon } else { horizon.min(max_steps) };
        Plan { examples, per_step, horizon, steps, whole, rest }
    }

    /// Epoch of a step, and the step's place within it.
    pub fn place(&self, step: usize) -> (usize, usize) {
        let per_epoch = self.examples.div_ceil(self.per_step).max(1);
        (step / per_epoch, step % per_epoch)
    }

    /// Examples of an epoch: all, but for the last one of a fraction.
    fn of_epoch(&self, epoch: usize) -> usize {
        if epoch == self.whole && self.rest > 0 { self.rest } else { self.examples }
    }

    /// Epochs done after `step` steps.
    pub fn epochs_done(&self, step: usize) -> f64 {
        let (epoch, within) = self.place(step);
        epoch as f64 + (within * self.per_step).min(self.of_epoch(epoch)) as f64 / self.examples.max(1) as f64
    }

    /// Share of the schedules at a step, 0 at the first and 1 at the last.
    pub fn share(&self, step: usize) -> f64 {
        if self.horizon <= 1 { 0.0 } else { step as f64 / (self.horizon - 1) as f64 }
    }
}

/// Hands out the rows of each step, and keeps one epoch's order at a time.
#[derive(Debug)]
pub struct Feed<'a> {
    rows: &'a [TokenRow],
    plan: Plan,
    seed: Seed,
    order: (usize, Vec<usize>),
}

impl<'a> Feed<'a> {
    /// A feed over these rows.
    pub fn new(rows: &'a [TokenRow], plan: Plan, seed: Seed) -> Feed<'a> {
        Feed { rows, plan, seed, order: (0, epoch_order(rows, seed, 0)) }
    }

    /// Positions of a step's rows.
    pub fn step(&mut self, step: usize) -> Vec<usize> {
        let (epoch, within) = self.plan.place(step);
        if self.order.0 != epoch {
            self.order = (epoch, epoch_order(self.rows, self.seed, epoch));
        }
        let order = &self.order.1[..self.plan.of_epoch(epoch).min(self.order.1.len())];
        order.iter().copied().skip(within * self.plan.per_step).take(self.plan.per_step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_row_once_and_the_last_batch_is_kept() {
        let rows: Vec<TokenRow> = (0..10).map(|i| TokenRow { id: i.to_string(), ..TokenRow::default() }).collect();
        let plan = Plan::new(10, 4, 2.0, 0);
        assert_eq!((plan.horizon, plan.steps), (6, 6));
        let mut feed = Feed::new(&rows, plan, Seed(1));
        for epoch in 0..2 {
            let mut seen: Vec<usize> = (0..3).flat_map(|s| feed.step(epoch * 3 + s)).collect();
            assert_eq!(seen.len(), 10);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 10);
        }
        // Jumping there gives the same step as walking there.
        assert_eq!(Feed::new(&rows, plan, Seed(1)).step(4), feed.step(4));
        assert_eq!(feed.step(2).len(), 2);
    }

    #[test]
    fn limits_and_fractions() {
        assert_eq!(Plan::new(10, 4, 0.5, 0).horizon, 2);
        // Half of ten examples is five: a step of four and a step of one.
        let rows: Vec<TokenRow> = (0..10).map(|i| TokenRow { id: i.to_string(), ..TokenRow::default() }).collect();
        let half = Plan::new(10, 4, 1.5, 0);
        assert_eq!(half.horizon, 5);
        let mut feed = Feed::new(&rows, half, Seed(1));
        let sizes: Vec<usize> = (0..5).map(|step| feed.step(step).len()).collect();
        assert_eq!(sizes, [4, 4, 2, 4, 1]);
        let done: Vec<f64> = (1..=5).map(|step| half.epochs_done(step)).collect();
        assert_eq!(done, [0.4, 0.8, 1.0, 1.4, 1.5]);
        let capped = Plan::new(10, 4, 3.0, 5);
        assert_eq!((capped.horizon, capped.steps), (9, 5));
        assert_eq!(capped.share(8), 1.0);
        assert_eq!(Plan::new(3, 4, 1.0, 0).share(0), 0.0);
    }
}
