//! Pairs that a run does not train on: those of a fold, on which it is evaluated in place of the test split, and those
//! of validation, by which its parameters are chosen.

use super::fold::Fold;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::schema::{SPLITS, VALIDATION_SPLIT};
use crate::seed::Seed;
use crate::token_file::TokenRow;

/// Pairs of validation at which the standard error of an accuracy is 4 points at most.
const ENOUGH: usize = 157;

/// The training pairs that a run holds out. All pairs of a prompt are held out together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// The fold, in place of the test split.
    pub fold: Option<Fold>,
    /// Share of the other training prompts that is held out for validation.
    pub validation: f64,
}

impl HeldOut {
    /// Whether any pair is held out.
    pub fn any(self) -> bool {
        self.fold.is_some() || self.validation > 0.0
    }

    /// The split of a training pair, as a position in what [`HeldOut::splits`] returns: a function of the seed and the
    /// prompt.
    fn split_of(self, seed: Seed, row: &TokenRow) -> usize {
        if self.fold.is_some_and(|fold| fold.holds(seed, row)) {
            1
        } else if self.validation > 0.0 && seed.unit("validation", &row.prompt_id) < self.validation {
            2
        } else {
            0
        }
    }

    /// The splits of the run, from those that were prepared: what it trains on, what it is evaluated on, and what it is
    /// validated on where that is asked for.
    pub fn splits(self, seed: Seed, prepared: &[Split]) -> Vec<Split> {
        let rows: Vec<&[TokenRow]> = prepared.iter().map(|split| &split.rows[..]).collect();
        let names = SPLITS.into_iter().chain([VALIDATION_SPLIT]);
        let divided = self.divide(seed, &prepared[0].rows, &rows);
        names.zip(divided).map(|(name, rows)| Split { name: name.into(), rows }).collect()
    }

    /// Values of the prepared splits, `rows` being the training pairs, divided as [`HeldOut::splits`] divides the pairs.
    pub fn divide<V: Clone>(self, seed: Seed, rows: &[TokenRow], values: &[impl AsRef<[V]>]) -> Vec<Vec<V>> {
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (row, value) in rows.iter().zip(values[0].as_ref()) {
            parts[self.split_of(seed, row)].push(value.clone());
        }
        let [left, of_fold, of_validation] = parts;
        let evaluated = if self.fold.is_some() { of_fold } else { values[1].as_ref().to_vec() };
        let mut divided = vec![left, evaluated];
        if self.validation > 0.0 {
            divided.push(of_validation);
        }
        divided
    }

    /// A warning where validation has so few pairs that it chooses by chance. `splits` are those of [`HeldOut::splits`].
    pub fn warning(self, splits: &[Split]) -> Option<String> {
        let pairs = splits.get(2)?.rows.len();
        (pairs < ENOUGH).then(|| {
            let points = 50.0 / (pairs as f64).sqrt();
            format!("validation has {pairs} pairs: its accuracy has a standard error of up to {points:.0} points, and may choose by chance")
        })
    }

    /// Marks of all prepared training pairs: `left` has those of the pairs that are trained on; those that are held out
    /// are marked.
    pub fn joined(self, seed: Seed, rows: &[TokenRow], left: &[bool]) -> Vec<bool> {
        let mut left = left.iter();
        rows.iter().map(|row| self.split_of(seed, row) > 0 || left.next().copied().unwrap_or(true)).collect()
    }

    /// Refuses a run of which a split has no pairs because they are held out, or none to hold out. `splits` are those of
    /// [`HeldOut::splits`].
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(self, splits: &[Split]) -> Result<()> {
        let empty = |i: usize| splits.get(i).is_some_and(|split| split.rows.is_empty());
        let leaves_none = |split: &str| format!("leaves no pairs in the {split} split");
        match self.fold {
            Some(_) if empty(1) => return Err(Error::config("train.fold", leaves_none(SPLITS[1]))),
            Some(_) if empty(0) && self.validation == 0.0 => {
                return Err(Error::config("train.fold", leaves_none(SPLITS[0])));
            }
            _ => {}
        }
        let setting = "train.validation.fraction";
        match self.validation > 0.0 {
            true if empty(0) => Err(Error::config(setting, leaves_none(SPLITS[0]))),
            true if empty(2) => Err(Error::config(setting, "holds no pair out: no prompt falls into so small a share")),
            true if splits[2].rows.iter().all(|row| row.loss_weight() == 0.0) => {
                Err(Error::config(setting, "holds out no pair with a weight above 0"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn prepared() -> Vec<Split> {
        let row = |id: usize| TokenRow {
            id: id.to_string().into(),
            prompt_id: (id / 2).to_string().into(),
            ..TokenRow::default()
        };
        let split = |name: &str, ids: std::ops::Range<usize>| Split { name: name.into(), rows: ids.map(row).collect() };
        vec![split("train", 0..60), split("test", 60..70)]
    }

    fn held_out(fold: &str, validation: f64) -> HeldOut {
        HeldOut { fold: Fold::parse(fold).unwrap(), validation }
    }

    fn names(splits: &[Split]) -> Vec<&str> {
        splits.iter().map(|split| split.name.as_str()).collect()
    }

    #[test]
    fn every_prompt_is_held_out_by_one_fold() {
        let prepared = prepared();
        let values: Vec<Vec<usize>> = vec![(0..60).collect(), (60..70).collect()];
        let mut held = vec![0; 60];
        for i in 1..=3 {
            let held_out = held_out(&format!("{i}/3"), 0.0);
            let splits = held_out.splits(Seed(5), &prepared);
            assert_eq!(names(&splits), ["train", "test"]);
            assert_eq!(splits[0].rows.len() + splits[1].rows.len(), 60);
            let prompts =
                |split: &Split| -> HashSet<String> { split.rows.iter().map(|row| row.prompt_id.to_string()).collect() };
            assert!(prompts(&splits[0]).is_disjoint(&prompts(&splits[1])));
            for (split, values) in splits.iter().zip(held_out.divide(Seed(5), &prepared[0].rows, &values)) {
                assert!(split.rows.iter().zip(values).all(|(row, value)| row.id == value.to_string()));
            }
            splits[1].rows.iter().for_each(|row| held[row.id.parse::<usize>().unwrap()] += 1);
        }
        assert_eq!(held, [1; 60]);
    }

    #[test]
    fn validation_takes_prompts_of_training_and_leaves_the_test_split() {
        let prepared = prepared();
        let held_out_ids = |fold: &str, fraction: f64| -> Vec<String> {
            let splits = held_out(fold, fraction).splits(Seed(5), &prepared);
            assert_eq!(names(&splits), ["train", "test", "validation"]);
            let all: HashSet<&str> = splits.iter().flat_map(|s| &s.rows).map(|row| row.id.as_str()).collect();
            assert_eq!(all.len(), if fold.is_empty() { 70 } else { 60 });
            splits[2].rows.iter().map(|row| row.id.to_string()).collect()
        };
        let (some, more) = (held_out_ids("", 0.2), held_out_ids("", 0.4));
        assert!(!some.is_empty() && some.len() < more.len() && more.len() < 60);
        assert!(some.iter().all(|id| more.contains(id)), "a larger share holds out what a smaller one does");
        // What a fold leaves is divided in the same way.
        assert!(held_out_ids("1/3", 0.4).iter().all(|id| more.contains(id)));

        let held_out = held_out("", 0.4);
        let left: Vec<bool> = vec![false; 60 - more.len()];
        let marks = held_out.joined(Seed(5), &prepared[0].rows, &left);
        let marked: Vec<String> =
            prepared[0].rows.iter().zip(&marks).filter(|(_, mark)| **mark).map(|(row, _)| row.id.to_string()).collect();
        assert_eq!(marked, more);
    }

    #[test]
    fn a_split_without_pairs_is_refused() {
        let mut prepared = prepared();
        let fault = |held_out: HeldOut, prepared: &[Split]| {
            held_out.check(&held_out.splits(Seed(5), prepared)).unwrap_err().to_string()
        };
        let told = held_out("", 0.3).warning(&held_out("", 0.3).splits(Seed(5), &prepared)).unwrap();
        assert!(told.starts_with("validation has ") && told.contains("a standard error of up to 1"), "{told}");
        assert_eq!(held_out("1/3", 0.0).warning(&held_out("1/3", 0.0).splits(Seed(5), &prepared)), None);
        assert!(held_out("", 0.3).check(&held_out("", 0.3).splits(Seed(5), &prepared)).is_ok());
        assert!(
            held_out("", 0.0).check(&held_out("", 0.0).splits(Seed(5), &[Split::default(), Split::default()])).is_ok()
        );
        assert!(fault(held_out("", 1e-9), &prepared).contains("train.validation.fraction: holds no pair out"));
        assert!(fault(held_out("", 1.0), &prepared).contains("fraction: leaves no pairs in the train split"));
        let one = vec![Split { name: "train".into(), rows: prepared[0].rows[..2].to_vec() }, Split::default()];
        assert!(fault(held_out("1/2", 0.0), &one).contains("train.fold: leaves no pairs"));
        prepared[0].rows.iter_mut().for_each(|row| row.weight = Some(0.0));
        assert!(fault(held_out("", 0.3), &prepared).contains("no pair with a weight above 0"));
    }
}
