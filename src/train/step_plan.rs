//! Which examples each step trains on: a pure function of (seed, step).

use crate::batch::{epoch_order, group_order};
use crate::seed::Seed;
use crate::token_file::TokenRow;

/// Epochs: whole ones, and the examples of a last one that is not whole.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Epochs {
    whole: usize,
    rest: usize,
}

/// The steps of a run: first those of the latent part's warm-up, which train it alone, then all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepPlan {
    /// Examples.
    pub examples: usize,
    /// Examples of one step; the last step of an epoch may have fewer.
    pub per_step: usize,
    /// Steps of the latent part's warm-up.
    pub warm: usize,
    /// Steps of the epochs after the warm-up: the length of all schedules.
    pub horizon: usize,
    /// Steps that will run, of both kinds.
    pub steps: usize,
    warming: Epochs,
    training: Epochs,
}

impl Epochs {
    fn new(epochs: f64, examples: usize) -> Epochs {
        let whole = epochs.floor();
        Epochs { whole: whole as usize, rest: ((epochs - whole) * examples as f64).round() as usize }
    }

    fn steps(self, examples: usize, per_step: usize) -> usize {
        self.whole * examples.div_ceil(per_step) + self.rest.div_ceil(per_step)
    }

    /// Epochs that are begun.
    fn begun(self) -> usize {
        self.whole + usize::from(self.rest > 0)
    }

    /// Examples of an epoch: all, but for the last one of a fraction.
    fn of(self, epoch: usize, examples: usize) -> usize {
        if epoch == self.whole && self.rest > 0 { self.rest } else { examples }
    }
}

impl StepPlan {
    /// The plan for `epochs` over `examples`, after `warmup` epochs that train the latent part alone. It stops after
    /// `max_steps` (0 = no limit), those of the warm-up counted.
    pub fn new(examples: usize, per_step: usize, warmup: f64, epochs: f64, max_steps: usize) -> StepPlan {
        let (warming, training) = (Epochs::new(warmup, examples), Epochs::new(epochs, examples));
        let warm = warming.steps(examples, per_step);
        let horizon = training.steps(examples, per_step);
        let steps = if max_steps == 0 { warm + horizon } else { (warm + horizon).min(max_steps) };
        StepPlan { examples, per_step, warm, horizon, steps, warming, training }
    }

    /// Whether a step is one of the latent part's warm-up.
    pub fn warms(&self, step: usize) -> bool {
        step < self.warm
    }

    /// Epoch of a step, those of the warm-up counted, and the number of the step within it.
    pub fn epoch(&self, step: usize) -> (usize, usize) {
        let per_epoch = self.examples.div_ceil(self.per_step).max(1);
        match step.checked_sub(self.warm) {
            None => (step / per_epoch, step % per_epoch),
            Some(step) => (self.warming.begun() + step / per_epoch, step % per_epoch),
        }
    }

    /// The number of the epoch, from 1 and with those of the warm-up, that ends with a step; none where it goes on. The
    /// last step that will run ends its epoch, also where a limit of steps leaves a part of it.
    pub fn ends(&self, step: usize) -> Option<usize> {
        let epoch = self.epoch(step).0;
        (step + 1 >= self.steps || self.epoch(step + 1).0 != epoch).then_some(epoch + 1)
    }

    /// Examples of an epoch, counted as [`StepPlan::epoch`] does.
    fn of_epoch(&self, epoch: usize) -> usize {
        match epoch.checked_sub(self.warming.begun()) {
            None => self.warming.of(epoch, self.examples),
            Some(epoch) => self.training.of(epoch, self.examples),
        }
    }

    /// Epochs done after `step` steps, without those of the warm-up.
    pub fn epochs_done(&self, step: usize) -> f64 {
        if step <= self.warm {
            return 0.0;
        }
        let (epoch, within) = self.epoch(step);
        let done = (within * self.per_step).min(self.of_epoch(epoch)) as f64 / self.examples.max(1) as f64;
        (epoch - self.warming.begun()) as f64 + done
    }

    /// Share of the schedules that a step has reached: 0 at the first after the warm-up, 1 at the last.
    pub fn share(&self, step: usize) -> f64 {
        let step = step.saturating_sub(self.warm);
        if self.horizon <= 1 { 0.0 } else { step as f64 / (self.horizon - 1) as f64 }
    }

    /// The same of the warm-up's steps, where there are any; else [`StepPlan::share`].
    pub fn latent_share(&self, step: usize) -> f64 {
        if self.warm == 0 { self.share(step) } else { (step as f64 / self.warm as f64).min(1.0) }
    }
}

/// The first position from `at` on where a run of equal keys begins: a cut there separates no pairs of one key.
pub fn boundary(keys: Option<&[u64]>, at: usize, len: usize) -> usize {
    let at = at.min(len);
    match keys {
        None => at,
        Some(keys) => (at..len).find(|&i| i == 0 || keys[i] != keys[i - 1]).unwrap_or(len),
    }
}

/// Gives the rows of each step; it holds the order of one epoch at a time.
#[derive(Debug)]
pub struct Feed<'a> {
    rows: &'a [TokenRow],
    /// Rows of one key stay together.
    keys: Option<&'a [u64]>,
    plan: StepPlan,
    seed: Seed,
    /// Epoch, order of the rows, and their keys in it.
    order: (usize, Vec<usize>, Option<Vec<u64>>),
}

impl<'a> Feed<'a> {
    /// A feed over these rows; with keys, rows of one key are in one step.
    pub fn new(rows: &'a [TokenRow], keys: Option<&'a [u64]>, plan: StepPlan, seed: Seed) -> Feed<'a> {
        let mut feed = Feed { rows, keys, plan, seed, order: (0, Vec::new(), None) };
        feed.put_in_order(0);
        feed
    }

    fn put_in_order(&mut self, epoch: usize) {
        let order = match self.keys {
            None => epoch_order(self.rows, self.seed, epoch),
            Some(keys) => group_order(self.rows, keys, self.seed, epoch),
        };
        let keys = self.keys.map(|keys| order.iter().map(|&i| keys[i]).collect());
        self.order = (epoch, order, keys);
    }

    /// Positions of a step's rows.
    pub fn step(&mut self, step: usize) -> Vec<usize> {
        let (epoch, within) = self.plan.epoch(step);
        if self.order.0 != epoch {
            self.put_in_order(epoch);
        }
        let len = self.order.1.len();
        let end = self.plan.of_epoch(epoch).min(len);
        let cut = |at: usize| boundary(self.order.2.as_deref(), at.min(end), len);
        self.order.1[cut(within * self.plan.per_step)..cut((within + 1) * self.plan.per_step)].to_vec()
    }
}

/// Whether each row is in one of these steps.
pub fn used(
    rows: &[TokenRow],
    keys: Option<&[u64]>,
    plan: StepPlan,
    seed: Seed,
    steps: std::ops::Range<usize>,
) -> Vec<bool> {
    let mut feed = Feed::new(rows, keys, plan, seed);
    let (mut used, mut rest) = (vec![false; rows.len()], rows.len());
    for step in steps {
        if rest == 0 {
            break;
        }
        for i in feed.step(step) {
            rest -= usize::from(!std::mem::replace(&mut used[i], true));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<TokenRow> {
        (0..n).map(|i| TokenRow { id: i.to_string().into(), ..TokenRow::default() }).collect()
    }

    #[test]
    fn every_epoch_sees_every_row_once_and_the_last_batch_is_kept() {
        let rows = rows(10);
        let plan = StepPlan::new(10, 4, 0.0, 2.0, 0);
        assert_eq!((plan.horizon, plan.steps), (6, 6));
        let mut feed = Feed::new(&rows, None, plan, Seed(1));
        for epoch in 0..2 {
            let mut seen: Vec<usize> = (0..3).flat_map(|s| feed.step(epoch * 3 + s)).collect();
            assert_eq!(seen.len(), 10);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 10);
        }
        // Jumping there gives the same step as walking there.
        assert_eq!(Feed::new(&rows, None, plan, Seed(1)).step(4), feed.step(4));
        assert_eq!(feed.step(2).len(), 2);
    }

    #[test]
    fn limits_and_fractions() {
        let rows = rows(10);
        assert_eq!(StepPlan::new(10, 4, 0.0, 0.5, 0).horizon, 2);
        // Half of ten examples is five: a step of four and a step of one.
        let half = StepPlan::new(10, 4, 0.0, 1.5, 0);
        assert_eq!(half.horizon, 5);
        let mut feed = Feed::new(&rows, None, half, Seed(1));
        let sizes: Vec<usize> = (0..5).map(|step| feed.step(step).len()).collect();
        assert_eq!(sizes, [4, 4, 2, 4, 1]);
        let done: Vec<f64> = (1..=5).map(|step| half.epochs_done(step)).collect();
        assert_eq!(done, [0.4, 0.8, 1.0, 1.4, 1.5]);
        assert_eq!([1, 2, 3, 4].map(|step| half.ends(step)), [None, Some(1), None, Some(2)]);
        let capped = StepPlan::new(10, 4, 0.0, 3.0, 5);
        assert_eq!((capped.horizon, capped.steps), (9, 5));
        // The limit ends the second epoch after two of its three steps.
        assert_eq!([1, 2, 3, 4].map(|step| capped.ends(step)), [None, Some(1), None, Some(2)]);
        assert_eq!(capped.share(8), 1.0);
        assert_eq!(StepPlan::new(3, 4, 0.0, 1.0, 0).share(0), 0.0);
    }

    #[test]
    fn steps_of_the_latent_part_come_first_and_do_not_count_as_epochs() {
        let rows = rows(10);
        let plan = StepPlan::new(10, 4, 1.5, 2.0, 0);
        // 3 + 2 steps, then 6.
        assert_eq!((plan.warm, plan.horizon, plan.steps), (5, 6, 11));
        let places: Vec<_> = (0..11).map(|step| plan.epoch(step)).collect();
        assert_eq!(places[..5], [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
        assert_eq!(places[5..], [(2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]);
        let done: Vec<f64> = [5, 6, 8, 11].map(|step| plan.epochs_done(step)).to_vec();
        assert_eq!(done, [0.0, 0.4, 1.0, 2.0]);
        assert_eq!([0, 5, 10].map(|step| plan.share(step)), [0.0, 0.0, 1.0]);
        let ends: Vec<_> = (0..11).filter_map(|step| plan.ends(step).map(|epoch| (step, epoch))).collect();
        assert_eq!(ends, [(2, 1), (4, 2), (7, 3), (10, 4)]);
        let mut feed = Feed::new(&rows, None, plan, Seed(1));
        let sizes: Vec<usize> = (0..11).map(|step| feed.step(step).len()).collect();
        assert_eq!(sizes, [4, 4, 2, 4, 1, 4, 4, 2, 4, 4, 2]);
        assert_eq!(StepPlan::new(10, 4, 1.5, 2.0, 3).steps, 3);
    }

    #[test]
    fn rows_of_one_key_are_never_parted() {
        let keys: Vec<u64> = vec![1, 1, 1, 2, 2, 3, 4, 4, 4, 4, 5];
        let rows = rows(keys.len());
        for (seed, per_step) in [(1, 4), (2, 4), (3, 5), (4, 7)] {
            let plan = StepPlan::new(keys.len(), per_step, 0.0, 2.0, 0);
            let mut feed = Feed::new(&rows, Some(&keys), plan, Seed(seed));
            for epoch in 0..2 {
                let steps: Vec<Vec<usize>> =
                    (0..plan.horizon / 2).map(|s| feed.step(epoch * plan.horizon / 2 + s)).collect();
                let mut all: Vec<usize> = steps.concat();
                all.sort_unstable();
                assert_eq!(all, (0..keys.len()).collect::<Vec<_>>());
                for key in 1..=5 {
                    assert_eq!(steps.iter().filter(|s| s.iter().any(|&i| keys[i] == key)).count(), 1);
                }
                assert!(steps.iter().all(|s| s.len() <= per_step + 3));
            }
        }
        assert_eq!([0, 1, 3, 4, 6, 11].map(|at| boundary(Some(&keys), at, 11)), [0, 3, 3, 5, 6, 11]);
    }
}
