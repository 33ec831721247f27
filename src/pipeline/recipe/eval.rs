//! Settings of `eval`.

use std::collections::BTreeSet;
use std::path::Path;

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
    /// The mean over the tokens of that log-ratio: what IPO trains by its default.
    ImplicitMean,
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
        /// Data of the tasks, in their order; or one for all tasks, or several for one: a file, a folder, or
        /// `hf://datasets/ORG/NAME[@rev][/file]`; for `preference` a prepared folder, or files of pairs. `NAME=PATH` names the
        /// set in the results.
        pub data: Vec<PathText> = Vec::new();
        /// Items of each task, from the first of the data on; 0 = all.
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
        /// Reference of the implicit reward, without z; "" = the reference of the run.
        pub reference: PathText = PathText::new(), used "reward implicit or implicit-mean, in task preference or rewardbench"
            if |c| c.implicit();
        /// Longest prompt and response together of pairs from files, tokens, the prompt at most three quarters of it; what
        /// is longer is cut as `prepare` cuts it. 0 = as many as the model reads.
        pub max_length: usize = 0, used "task preference" if |c| c.has(EvalTask::Preference);
        /// Split of a prepared folder, or of files whose names tell splits.
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

    /// Whether some task compares responses by their rewards.
    pub fn ranks(&self) -> bool {
        self.task.iter().any(|task| task.rewards())
    }

    /// Whether some task compares responses by a reward that has a reference.
    pub fn implicit(&self) -> bool {
        self.ranks() && matches!(self.reward, Reward::Implicit | Reward::ImplicitMean)
    }

    /// The sets of items, in the order of their results: every task on its data.
    pub fn sets(&self) -> Vec<EvalSet> {
        let data = self.data.iter().map(|text| NamedPath::new(text));
        let paired: Vec<(EvalTask, NamedPath)> = match (self.task.as_slice(), self.data.len()) {
            ([task], _) => data.map(|path| (*task, path)).collect(),
            (tasks, 1) => data.cycle().zip(tasks).map(|(path, task)| (*task, path)).collect(),
            (tasks, _) => tasks.iter().copied().zip(data).collect(),
        };
        let several = |task: EvalTask| paired.iter().filter(|(other, _)| *other == task).count() > 1;
        let name = |task: EvalTask, path: &NamedPath| match &path.name {
            Some(name) => format!("{}/{name}", task.name()),
            None if several(task) => format!("{}/{}", task.name(), path.stem()),
            None => task.name().to_string(),
        };
        paired
            .iter()
            .map(|(task, path)| EvalSet { task: *task, name: name(*task, path), data: path.path.clone() })
            .collect()
    }
}

/// A task and the data that it is evaluated on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalSet {
    /// The task.
    pub task: EvalTask,
    /// Its name in results: the task's, and after a slash the set's where it was named or the task has several.
    pub name: String,
    /// Its data, as the user named them.
    pub data: PathText,
}

/// What the user wrote for data: a path, or `NAME=PATH`.
struct NamedPath {
    name: Option<String>,
    path: PathText,
}

impl NamedPath {
    fn new(text: &str) -> NamedPath {
        let word =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        match text.split_once('=') {
            // Folders may be named `year=2024`.
            Some((name, path)) if word(name) && !Path::new(text).exists() => {
                NamedPath { name: Some(name.to_string()), path: path.to_string() }
            }
            _ => NamedPath { name: None, path: text.to_string() },
        }
    }

    /// The last part of the path, up to its endings.
    fn stem(&self) -> &str {
        let last = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if Path::new(&self.path).is_dir() { last } else { last.split('.').next().unwrap_or_default() }
    }
}

impl Settings for EvalConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.model.is_empty(), "model", "missing: give --model, a run folder or a model");
        faults.check(!self.task.is_empty(), "task", "missing: give --task NAME");
        let (data, tasks) = (self.data.len(), self.task.len());
        let fine = data == 1 || data == tasks || (data > 1 && tasks < 2);
        let message = match data {
            0 => "missing: give --data PATH".to_string(),
            _ => format!("{data} for {tasks} tasks: give one for all, or one for each"),
        };
        faults.check(fine, "data", message);
        let mut names = BTreeSet::new();
        for set in self.sets() {
            faults.check(!set.data.is_empty(), "data", "a path is empty");
            let message = format!("{} is there twice: name the sets, --data NAME=PATH", set.name);
            faults.check(names.insert(set.name), "data", message);
        }
        faults.check(self.batch > 0, "batch", "expected at least 1");
        let message = "must be at least 2, a token of the prompt and one of the response, or 0";
        faults.check(self.max_length != 1, "max_length", message);
        let known = crate::schema::SPLITS.contains(&self.split.as_str());
        faults.check(known, "split", format!("expected {}, got {:?}", crate::schema::SPLITS.join(" or "), self.split));
    }
}
