//! Settings of `eval`.

use serde::{Deserialize, Serialize};

use crate::nn::Precision;
use crate::settings::{Faults, PathText, Settings, settings};

/// What a model is evaluated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalTask {
    /// Preference pairs.
    Preference,
    /// ARC, easy questions.
    ArcEasy,
    /// ARC, challenge questions.
    ArcChallenge,
    /// TruthfulQA with one right answer.
    TruthfulqaMc1,
    /// TruthfulQA with several right answers.
    TruthfulqaMc2,
    /// Word problems.
    Gsm8k,
    /// RewardBench, first and second version.
    Rewardbench,
}

impl EvalTask {
    /// Its name in settings and results.
    pub fn name(self) -> &'static str {
        match self {
            EvalTask::Preference => "preference",
            EvalTask::ArcEasy => "arc_easy",
            EvalTask::ArcChallenge => "arc_challenge",
            EvalTask::TruthfulqaMc1 => "truthfulqa_mc1",
            EvalTask::TruthfulqaMc2 => "truthfulqa_mc2",
            EvalTask::Gsm8k => "gsm8k",
            EvalTask::Rewardbench => "rewardbench",
        }
    }

    /// Whether two responses are compared by their rewards.
    pub fn rewards(self) -> bool {
        matches!(self, EvalTask::Preference | EvalTask::Rewardbench)
    }
}

/// What ranks two responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reward {
    /// The log-ratio of the model and its reference, summed over the tokens.
    #[default]
    Implicit,
    /// The model's log-probability, summed over the tokens.
    Sum,
    /// The model's log-probability for each token.
    Mean,
}

settings! {
    /// Options of `eval`.
    pub struct EvalConfig at "eval" {
        /// Model to evaluate: a run folder, or any model; a latent part beside it is used, with the prior's z.
        pub model: PathText = PathText::new();
        /// Model or prepared folder's `tokenizer` whose tokenizer is used; "" = the model's own.
        pub tokenizer: PathText = PathText::new();
        /// Tasks.
        pub task: Vec<EvalTask> = Vec::new();
        /// Data of the tasks, in their order, or one for all: a file, a folder, or `hf://datasets/ORG/NAME[@rev]/file`; for
        /// `preference` a prepared folder, or files of pairs.
        pub data: Vec<PathText> = Vec::new();
        /// Items of each task, from the first on; 0 = all.
        pub limit: usize = 0;
        /// Folder to write; "" = none.
        pub out: PathText = PathText::new();
        /// Worked examples before each problem.
        pub shots: usize = 5, used "task gsm8k" if |c| c.has(EvalTask::Gsm8k);
        /// File of problems from which the examples are drawn (the harness takes GSM8K's training split); "" = the
        /// problems themselves, without the one that is asked.
        pub examples: PathText = PathText::new(), used "task gsm8k" if |c| c.has(EvalTask::Gsm8k);
        /// Problems that are answered together; it changes speed and memory, not the answers.
        pub batch: usize = 16, used "task gsm8k" if |c| c.has(EvalTask::Gsm8k);
        /// What ranks two responses.
        pub reward: Reward = Reward::Implicit, used "task preference or rewardbench" if |c| c.ranks();
        /// Reference of the implicit reward, without z; "" = the model that the run was trained from.
        pub reference: PathText = PathText::new(), used "reward implicit, in task preference or rewardbench"
            if |c| c.ranks() && c.reward == Reward::Implicit;
        /// Split of a prepared folder.
        pub split: String = "test".into(), used "task preference" if |c| c.has(EvalTask::Preference);
        /// Folder of an earlier evaluation of another model on the same items: differences from it are told, paired.
        pub against: PathText = PathText::new();
        /// Operands of the products with weights: f32, or bf16 (where the processor multiplies bfloat16).
        pub precision: Precision = Precision::F32;
    }
}

impl EvalConfig {
    fn has(&self, task: EvalTask) -> bool {
        self.task.contains(&task)
    }

    fn ranks(&self) -> bool {
        self.task.iter().any(|task| task.rewards())
    }

    /// The data of the task at this place.
    pub fn data_of(&self, task: usize) -> &str {
        let at = if self.data.len() == 1 { 0 } else { task };
        self.data.get(at).map_or("", String::as_str)
    }
}

impl Settings for EvalConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.model.is_empty(), "model", "missing: give --model, a run folder or a model");
        faults.check(!self.task.is_empty(), "task", "missing: give --task NAME");
        let mut seen = self.task.clone();
        seen.sort_unstable();
        seen.dedup();
        faults.check(seen.len() == self.task.len(), "task", "a task is named twice");
        let (data, tasks) = (self.data.len(), self.task.len());
        let fine = data == 1 || data == tasks;
        let message = match data {
            0 => "missing: give --data PATH".to_string(),
            _ => format!("{data} for {tasks} tasks: give one for all, or one for each"),
        };
        faults.check(fine, "data", message);
        faults.check(self.batch > 0, "batch", "expected at least 1");
        let known = crate::schema::SPLITS.contains(&self.split.as_str());
        faults.check(known, "split", format!("expected {}, got {:?}", crate::schema::SPLITS.join(" or "), self.split));
    }
}
