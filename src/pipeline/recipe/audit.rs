//! Settings of `audit`.

use serde::{Deserialize, Serialize};

use crate::settings::{Faults, PathText, Settings, settings};

/// What is done with labels that are thought wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AuditAction {
    /// Nothing: they are ranked.
    #[default]
    None,
    /// Their pairs are left out.
    Drop,
    /// Their sides change places.
    Flip,
    /// Every pair gets the weight 1 - p_wrong, times its own.
    Weight,
    /// They are written to a table for a person, whose verdicts are read back.
    Review,
}

/// The model that ranks a pair without having been trained on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ranker {
    /// Codes and prior over the run's base model, whose backbone stays as it is (`--tune latent`), with objective `mix`
    /// and a learned flip rate.
    #[default]
    Latent,
    /// Runs with the settings of the audited run.
    Run,
}

settings! {
    /// Options of `audit`.
    pub struct AuditConfig at "audit" {
        /// Run folder whose training pairs are audited.
        pub run: PathText = PathText::new();
        /// Folder to write.
        pub out: PathText = PathText::new();
        /// Model that ranks the pairs, each time trained without those that it ranks.
        pub ranker: Ranker = Ranker::Latent;
        /// Parts of the prompts: each is ranked by a model trained on the others.
        pub folds: usize = 5;
        /// Times that all pairs are ranked, each time with other parts and another seed; the log-odds are averaged.
        pub repeats: usize = 3;
        /// What is done with labels that are thought wrong: `cleaned/` is then a prepared folder for `train`.
        pub action: AuditAction = AuditAction::None;
        /// Probability above which a label is thought wrong.
        pub threshold: f64 = 0.5, used "action drop, flip or review"
            if |c| matches!(c.action, AuditAction::Drop | AuditAction::Flip | AuditAction::Review);
        /// A table written by an earlier audit with `action = "review"`, with a person's verdicts: keep, flip, drop; ""
        /// = none. Pairs without a verdict stay as they are.
        pub verdicts: PathText = PathText::new(), used "action review" if |c| c.action == AuditAction::Review;
        /// Most pairs in the table for review, and on the page.
        pub worst: usize = 100;
    }
}

impl Settings for AuditConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.run.is_empty(), "run", "missing: give --run DIR, the output of lpc-pipe train");
        faults.check(!self.out.is_empty(), "out", "missing: give --out DIR");
        faults.check(self.folds >= 2, "folds", format!("expected at least 2, got {}", self.folds));
        faults.check(self.repeats >= 1, "repeats", "expected at least 1");
        let fine = (0.0..=1.0).contains(&self.threshold);
        faults.check(fine, "threshold", format!("expected 0 to 1, got {}", self.threshold));
    }

    fn why_unused(&self, _: &str, used_by: &str) -> String {
        format!("has no effect without {used_by}")
    }
}
