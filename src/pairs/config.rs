//! How pairs are made, sifted and split: the settings.

use serde::{Deserialize, Serialize};

use super::counts::Scored;
use super::near;
use crate::error::Fault;
use crate::settings::{Faults, PathText, Settings, settings};

/// How pairs are made of scored completions. Two equal texts never form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PairRule {
    /// The best against a random one of those with a lower score, as Zephyr and the LPC paper.
    #[default]
    BestVsRandom,
    /// The best against the worst.
    BestVsWorst,
    /// The best against every one with a lower score.
    BestVsEach,
    /// Every two completions with different scores.
    AllPairs,
}

impl PairRule {
    /// As written in the column `pair_rule`.
    pub fn name(self) -> &'static str {
        match self {
            PairRule::BestVsRandom => "best-vs-random",
            PairRule::BestVsWorst => "best-vs-worst",
            PairRule::BestVsEach => "best-vs-each",
            PairRule::AllPairs => "all-pairs",
        }
    }
}

/// What equal scores are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ties {
    /// Completions with equal scores never form a pair. Of several best ones the one with the smallest
    /// content hash stands for all. Given pairs with equal scores stay, because their label is given.
    #[default]
    Drop,
    /// Equal scores are ranked by a hash of (seed, prompt, response), so that tied completions form pairs
    /// with a margin of 0: the published binarized UltraFeedback has such pairs.
    Break,
}

/// Which copies of a pair go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dedup {
    /// Pairs with the same id: prompt, chosen and rejected are the same to the byte.
    #[default]
    Exact,
    /// Pairs that are the same after lower-casing and collapsing white space, too.
    Normalized,
    /// None: ids may then repeat, and copies are flipped together.
    None,
}

/// What becomes of pairs that contradict each other: one prompt, a over b and b over a (texts compared
/// after lower-casing and collapsing white space). They are counted in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Conflicts {
    /// They stay.
    #[default]
    Keep,
    /// All of them go.
    Drop,
    /// Those of the direction with the highest margin stay; where neither direction's is higher, or no
    /// margin is known, all go.
    KeepHigherMargin,
}

/// Where the splits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Splits {
    /// From the names of the input files, where some say that they are for training (`train`) and others that
    /// they are held out (`test`, `validation` and their kin); by prompt for all other rows.
    #[default]
    Files,
    /// By prompt for all rows: a share of `test_fraction` is held out.
    Prompts,
}

/// Hint where no pair has two scores.
const NAMED: &str = "--columns score_chosen=COLUMN score_rejected=COLUMN names the columns that hold them";

settings! {
    /// How pairs are made, sifted and split.
    pub struct PairConfig at "prepare.pairs" {
        /// How pairs are made of scored completions. No effect on given pairs.
        pub rule: PairRule = PairRule::BestVsRandom;
        /// Least difference of the two scores, 0 or more; pairs with less are not made, and the random
        /// rejected one is drawn from those that reach it. Given pairs with less go, too, where both scores are
        /// known.
        pub min_margin: f64 = 0.0;
        /// What equal scores of completions are worth. No effect on given pairs: their labels stand, and those with
        /// equal scores are counted.
        pub ties: Ties = Ties::Drop, used "min_margin = 0" if |c| c.min_margin.is_nan() || c.min_margin <= 0.0;
        /// Most pairs of one prompt; those with the smallest hashes of (seed, id) stay.
        pub max_per_prompt: usize = 0;
        /// Which copies of a pair go.
        pub dedup: Dedup = Dedup::Exact;
        /// What becomes of pairs that contradict each other.
        pub conflicts: Conflicts = Conflicts::Keep;
        /// Where the splits come from.
        pub splits: Splits = Splits::Files;
        /// Share of the prompts that goes to the test split, in [0, 1]; no effect on rows of files whose names
        /// say their split.
        pub test_fraction: f64 = 0.1;
        /// Of prompts of at least this similarity (Jaccard index of their words, five in a row) one stays;
        /// 0 (default) is off, else from 0.5 to 1. Needs all prompts at once.
        pub near_duplicates: f64 = 0.0;
        /// Benchmark files whose questions must not be in the data.
        pub decontaminate: Vec<PathText> = Vec::new();
        /// Words in a row that count as a question found.
        pub decontaminate_ngram: usize = 13, used "decontaminate" if |c| !c.decontaminate.is_empty();
    }
}

impl Settings for PairConfig {
    fn judge(&self, faults: &mut Faults) {
        let similarity = near::fault(self.near_duplicates);
        faults.check(similarity.is_none(), "near_duplicates", similarity.unwrap_or_default());
        let share = self.test_fraction;
        faults.check((0.0..=1.0).contains(&share), "test_fraction", format!("must be between 0 and 1, got {share}"));
        let least = self.min_margin;
        let fine = least.is_finite() && least >= 0.0;
        faults.check(fine, "min_margin", format!("must be 0 or more, got {least}"));
    }

    fn why_unused(&self, name: &str, used_by: &str) -> String {
        match name {
            "ties" => "has no effect: tied scores are below --min-margin in any case; leave one of the two out".into(),
            _ => format!("has no effect without {used_by}"),
        }
    }
}

impl PairConfig {
    /// Faults of settings that have no effect on any of these rows.
    pub fn idle_on(&self, rows: Scored) -> Vec<Fault> {
        let n = rows.completions + rows.pairs + rows.bare;
        let mut faults = Vec::new();
        let mut fault = |idle: bool, key: &str, message: String| {
            if idle && n > 0 {
                faults.push(PairConfig::fault(key, message));
            }
        };
        let none = rows.completions + rows.pairs == 0;
        let least = self.min_margin;
        let message =
            format!("--min-margin {least} has nothing to compare: none of the {n} pairs has two scores; {NAMED}");
        fault(none && least > 0.0, "min_margin", message);
        let message =
            format!("keep-higher-margin has nothing to compare: none of the {n} pairs has two scores; {NAMED}");
        fault(none && self.conflicts == Conflicts::KeepHigherMargin, "conflicts", message);
        let message = format!("break has no effect: none of the {n} rows has completions; all are pairs already");
        fault(rows.completions == 0 && self.ties == Ties::Break, "ties", message);
        faults
    }

    /// One line for each setting that has less than the wanted effect on these rows.
    pub fn warnings(&self, rows: Scored) -> Vec<String> {
        let (bare, n) = (rows.bare, rows.completions + rows.pairs + rows.bare);
        let partly = self.min_margin > 0.0 && bare > 0 && bare < n;
        let line =
            format!("--min-margin: {bare} of {n} rows lack one of their two scores and are kept whatever they are");
        partly.then_some(line).into_iter().collect()
    }
}
