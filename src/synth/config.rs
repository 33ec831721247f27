//! Settings of `synth`, and their checks.

use super::{grammar, over, world};
use crate::settings::{Faults, PathText, Settings, settings};

settings! {
    /// Settings of the generator.
    pub struct SynthConfig at "synth" {
        /// Rows (prompts), 1 to 2^30.
        pub rows: usize = 2000, used "made-up texts" if |c| c.over.is_empty();
        /// Active style factors, 2 to 8; F of them plant F + 2 preferences. Over real texts the number of traits that decide,
        /// 1 to 10.
        pub factors: usize = 6, used "corpora without synth.traits" if |c| c.over.is_empty() || c.traits.is_empty();
        /// Folder for `corpus.jsonl`, `truth/truth.parquet` and `manifest.json`.
        pub out: PathText = "runs/synth".into();
        /// Completions of each prompt, 2 to 8; UltraFeedback has 4.
        pub completions: usize = 4, used "made-up texts" if |c| c.over.is_empty();
        /// Probability that the prompt asks for what decides, 0 to 1.
        pub shown_fraction: f64 = 0.5;
        /// Temperature of the annotators, 0 to 5: an agreeing completion beats another with probability
        /// sigmoid(1 / noise), 0.99995 at 0.1; 0 is raised to 0.02 so that ties stay rare.
        pub noise: f64 = 0.1, used "all but aspects" if |c| c.over.is_empty() || over::aspects(c).is_empty();
        /// Probability that two completions, not one, have the liked value, 0 to 1 (three completions or
        /// more).
        pub second_agrees: f64 = 0.1, used "made-up texts" if |c| c.over.is_empty();
        /// Whether rows name the hidden annotator who decided, as `annotator` (no part of UltraFeedback), for
        /// noise by annotator.
        pub annotators: bool = false;
        /// Files, folders or hub addresses with real prompts and responses, over which preferences are planted;
        /// `rows`, `completions` and `second_agrees` are for made-up texts.
        pub over: Vec<PathText> = Vec::new();
        /// Over real texts: the traits that decide, by name, or `aspects`; empty takes the first
        /// `factors` of all traits.
        pub traits: Vec<String> = Vec::new(), used "real texts, synth.over" if |c| !c.over.is_empty();
        /// Over real texts: judgements of each prompt, 1 to 16, each by another preference; all but the first are asked
        /// for in the prompt. With more than one the corpus comes as `train.jsonl` and `test.jsonl`, each prompt with all
        /// its judgements in one of them, since they share its responses.
        pub judgements: usize = 1, used "real texts, synth.over" if |c| !c.over.is_empty();
        /// Over real texts with several judgements: share of the prompts that goes to `test.jsonl`, 0 to 1.
        pub test_fraction: f64 = 0.1, used "several judgements, synth.judgements" if |c| c.judgements > 1;
        /// Over real texts: layout of the rows.
        pub format: String = "auto".into(), used "real texts, synth.over" if |c| !c.over.is_empty();
        /// Over real texts: columns under other names than a layout has, as `TARGET=COLUMN`.
        pub columns: Vec<String> = Vec::new(), used "real texts, synth.over" if |c| !c.over.is_empty();
        /// Over real texts: what happens at a row that cannot be read, `fail` or `skip`.
        pub on_bad_row: String = "fail".into(), used "real texts, synth.over" if |c| !c.over.is_empty();
    }
}

impl Settings for SynthConfig {
    /// Layouts and columns are the reader's to judge.
    fn judge(&self, faults: &mut Faults) {
        let over = !self.over.is_empty();
        let mut range = |key: &str, value: usize, least: usize, most: usize| {
            let fine = (least..=most).contains(&value);
            faults.check(fine, key, format!("expected {least} to {most}, got {value}"));
        };
        range("rows", self.rows, 1, world::MAX_ROWS as usize);
        let (least, most) =
            if over { (1, over::traits::TRAITS.len()) } else { (world::CONFLICTS, grammar::MAX_FACTORS) };
        range("factors", self.factors, least, most);
        range("completions", self.completions, 2, world::MODELS.len());
        range("judgements", self.judgements, 1, over::MAX_JUDGEMENTS);
        faults.check(!self.out.is_empty(), "out", "a folder is needed");
        for (key, value, most) in [
            ("shown_fraction", self.shown_fraction, 1.0),
            ("noise", self.noise, 5.0),
            ("second_agrees", self.second_agrees, 1.0),
            ("test_fraction", self.test_fraction, 1.0),
        ] {
            faults.check((0.0..=most).contains(&value), key, format!("expected 0 to {most}, got {value}"));
        }
        if over {
            over::judge(self, faults);
        }
    }

    fn why_unused(&self, name: &str, _: &str) -> String {
        let over_real_texts = |why: &str| format!("has no effect over real texts: {why}");
        match name {
            "rows" => over_real_texts("every prompt of synth.over is used"),
            "completions" => over_real_texts("a prompt has the responses that it has"),
            "second_agrees" => over_real_texts("which responses agree is found in them"),
            "noise" => "has no effect on aspects: their ratings are judgements already".into(),
            "test_fraction" => "has no effect with one judgement for each prompt: prepare makes the splits".into(),
            "factors" => "has no effect beside synth.traits, which names what decides".into(),
            _ => "has no effect without synth.over, the files with real texts".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_come_at_once() {
        let config = SynthConfig { rows: 0, factors: 9, completions: 1, noise: f64::NAN, ..SynthConfig::default() };
        let keys: Vec<String> = config.faults().into_iter().map(|f| f.key).collect();
        assert_eq!(keys, ["synth.rows", "synth.factors", "synth.completions", "synth.noise"]);
    }
}
