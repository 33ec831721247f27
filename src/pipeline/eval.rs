//! `eval`: a model on benchmarks and on preference pairs; codes by the prior's z.

mod items;
mod multiple;
mod outputs;
mod preference;
mod problems;
mod rankings;
mod rewards;
mod splits;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::{self, KeptResults, QuestionWithShift};
use super::opened::{ForInference, OpenedModel, read_for};
use super::prepare::inputs;
use super::recipe::EvalConfig;
use super::recipe::eval::{EvalSet, EvalTask};
use crate::analysis::Interval;
use crate::artifact;
use crate::error::{Error, Result};
use crate::eval::{BenchmarkRow, ChoiceScore, Metric};
use crate::generate::{Generated, Options, Request};
use crate::ingest::{Input, benchmarks};
use crate::nn::Precision;
use crate::progress::Progress;
use crate::seed::Seed;
use crate::settings::Settings;
use items::Item;
pub use outputs::Difference;
use rewards::RewardReference;

/// Name of the command.
const STAGE: &str = "eval";

/// One task's results.
#[derive(Debug, Clone, Serialize)]
pub struct TaskResult {
    /// Version of the task's definition; none for tasks that are this program's own.
    pub version: Option<f64>,
    /// Worked examples before each item.
    pub shots: usize,
    /// Items evaluated.
    pub n: usize,
    /// Items of the data.
    pub n_data: usize,
    /// Metrics by the name and the filter of the harness, with their standard errors.
    pub metrics: Vec<Metric>,
    /// Accuracy of each source, subset or section.
    pub groups: Vec<PartAccuracy>,
    /// What the reward is, in tasks that compare responses by it.
    pub reward: Option<String>,
    /// Items that could not be evaluated, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Items of which anything was cut, in tasks that cut.
    pub truncated: Option<usize>,
    /// Seconds, without loading the model.
    pub seconds: f64,
}

/// Accuracy of a part of a task's items.
#[derive(Debug, Clone, Serialize)]
pub struct PartAccuracy {
    /// What it is a part by: `source`, `subset` or `section`.
    pub by: &'static str,
    /// Its name.
    pub name: String,
    /// Accuracy, with Wilson's 95 % interval; a section has none.
    pub accuracy: Interval,
}

/// Results of `eval`.
#[derive(Debug, Clone, Serialize)]
pub struct EvalSummary {
    /// The model as it was named.
    pub model: String,
    /// Folder written; "" where there is none.
    pub out: String,
    /// Operands of the products with weights.
    pub precision: Precision,
    /// For each set its metrics under the harness' names.
    pub results: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    /// Differences from another model on the same items.
    pub against: Vec<Difference>,
    /// The same in full.
    #[serde(skip)]
    pub tasks: Vec<(String, TaskResult)>,
}

/// What a task needs.
struct Work<'a> {
    config: &'a EvalConfig,
    task: EvalTask,
    /// The set's name in results.
    name: &'a str,
    /// What the user named as the task's data.
    data: &'a str,
    /// Its files; none where the data are a prepared folder.
    inputs: &'a [Input],
    /// The reference of the implicit reward.
    reference: Option<&'a RewardReference>,
    opened: &'a OpenedModel,
    loaded: &'a ForInference,
    /// Where results are kept until all tasks have theirs; nowhere without an output folder.
    out: Option<&'a Path>,
    seed: Seed,
    progress: &'a dyn Progress,
}

/// Ending of the names of hidden files in the output folder that keep results.
const KEPT: &str = ".kept";

impl Work<'_> {
    /// The scores of questions, kept.
    fn scored(
        &self,
        model: &ForInference,
        questions: &[QuestionWithShift],
        title: &str,
    ) -> Result<Vec<Vec<ChoiceScore>>> {
        let mut kept = self.kept(|| kept::of_scores(model, questions))?;
        kept::scored(model, questions, kept.as_mut(), title, self.progress)
    }

    /// The answers to requests, kept.
    fn completed(
        &self,
        model: &ForInference,
        requests: &[Request<'_>],
        options: &Options<'_>,
    ) -> Result<Vec<Generated>> {
        let mut kept = self.kept(|| kept::of_answers(model, requests, options))?;
        let title = format!("evaluating {}", self.name);
        Ok(kept::completed(model, requests, options, kept.as_mut(), &title, self.progress)?.0)
    }

    fn kept<T: Serialize + DeserializeOwned + Clone>(
        &self,
        identity: impl FnOnce() -> Result<String>,
    ) -> Result<Option<KeptResults<T>>> {
        let open = |out: &Path| -> Result<KeptResults<T>> {
            let identity = identity()?;
            KeptResults::open(&out.join(format!(".{}{KEPT}", &identity[..32])), &identity)
        };
        self.out.map(open).transpose()
    }
}

/// Removes what was kept, once the output is there.
fn remove_kept(out: &Path) -> Result<()> {
    let kept = |path: &PathBuf| artifact::name_of(path).ends_with(KEPT);
    artifact::entries(out)?.iter().filter(|path| kept(path)).try_for_each(|path| artifact::remove(path))
}

/// What a task found.
#[derive(Default)]
struct Found {
    version: Option<f64>,
    shots: usize,
    n_data: usize,
    metrics: Vec<Metric>,
    items: Vec<Item>,
    groups: Vec<PartAccuracy>,
    reward: Option<String>,
    left_out: BTreeMap<String, u64>,
    truncated: Option<usize>,
    seconds: f64,
}

/// Evaluates a model on every task.
///
/// # Errors
/// [`Error::Config`] for settings at fault; [`Error::Data`] for a file of a benchmark, with its line; [`Error::Model`],
/// [`Error::Artifact`] for models and prepared folders; [`Error::Run`] where the user stopped it.
pub fn run(config: &EvalConfig, seed: Seed, progress: &dyn Progress) -> Result<EvalSummary> {
    config.check()?;
    let mut read = read_for(&config.model, &config.tokenizer);
    let sets = config.sets();
    let data = sets.iter().map(|set| &set.data);
    read.extend(data.chain([&config.examples, &config.reference, &config.against]).map(PathBuf::from));
    let claim = artifact::Claim { stage: STAGE, inputs: &read };
    let out = Path::new(&config.out);
    if !config.out.is_empty() {
        claim.folder(out)?;
        artifact::may_write(out)?;
    }
    let earlier =
        (!config.against.is_empty()).then(|| outputs::Earlier::read(Path::new(&config.against))).transpose()?;
    // A name that is wrong is told before hours of work on the sets in front of it.
    let files = |set: &EvalSet| match preference::is_prepared(set.task, &set.data)? {
        true => Ok(Vec::new()),
        false => splits::files(config, set.task, &set.data, progress),
    };
    let files = sets.iter().map(files).collect::<Result<Vec<Vec<Input>>>>()?;
    let of_files = |(set, files): (&EvalSet, &Vec<Input>)| set.task == EvalTask::Preference && !files.is_empty();
    let cut = sets.iter().zip(&files).any(of_files);
    if !cut && config.max_length != EvalConfig::default().max_length {
        let names: Vec<&str> =
            sets.iter().filter(|s| s.task == EvalTask::Preference).map(|s| s.data.as_str()).collect();
        let why = format!("has no effect on {}: the pairs of a prepared folder are cut already", names.join(", "));
        return Err(Error::config("eval.max_length", why));
    }
    let opened = OpenedModel::new(&config.model, &config.tokenizer, "auto", progress)?;
    let keep = !config.out.is_empty();
    let loaded = opened.weights(seed, opened.most_tokens, config.precision, keep)?;
    if loaded.model.precision() != config.precision {
        progress.note("this processor does not multiply bfloat16: float32 is used");
    }
    if let Some(line) = rewards::other_than_in_training(config) {
        progress.note(&line);
    }
    let reference = config
        .implicit()
        .then(|| RewardReference::open(config, &opened, loaded.model.longest(), seed, progress))
        .transpose()?;
    let conditions = outputs::Conditions {
        reference: reference.as_ref(),
        max_length: cut.then(|| preference::max_length(config, &opened)),
        examples: problems::content_of_examples(config, progress)?,
    };
    if let Some(earlier) = &earlier {
        earlier.require_same(config, &conditions)?;
    }
    // Made once all that is read beforehand was sound, so that a failure leaves no folder behind.
    let written = (!config.out.is_empty()).then_some(out);
    let _lock = written.map(|out| claim.take(out)).transpose()?;
    let (mut tasks, mut items, reference) = (Vec::new(), Vec::new(), conditions.reference);
    for (EvalSet { task, name, data }, inputs) in sets.into_iter().zip(&files) {
        let (opened, loaded) = (&opened, &loaded);
        let (name, out) = (&name, written);
        let work = Work { config, task, name, data: &data, inputs, reference, opened, loaded, out, seed, progress };
        let found = match task {
            EvalTask::Preference | EvalTask::Rewardbench => preference::run(&work)?,
            EvalTask::Gsm8k => problems::run(&work)?,
            _ => multiple::run(&work)?,
        };
        let n = found.items.len();
        items.extend(found.items);
        let Found { version, shots, n_data, metrics, groups, reward, left_out, truncated, seconds, .. } = found;
        let result = TaskResult { version, shots, n, n_data, metrics, groups, reward, left_out, truncated, seconds };
        tasks.push((name.clone(), result));
    }
    let against = match &earlier {
        Some(earlier) => earlier.compared(&items, seed)?,
        None => Vec::new(),
    };
    let results = tasks.iter().map(|(name, result)| (name.clone(), outputs::named(result))).collect();
    let precision = config.precision.effective();
    let summary =
        EvalSummary { model: config.model.clone(), out: config.out.clone(), precision, results, against, tasks };
    if let Some(out) = written {
        outputs::write(out, config, &summary, &items, &conditions)?;
        remove_kept(out)?;
    }
    Ok(summary)
}

/// The rows of the files of `data`, up to the limit, and how many there are in all.
fn rows(data: &str, inputs: &[Input], limit: usize) -> Result<(Vec<BenchmarkRow>, usize)> {
    let mut rows = Vec::new();
    for input in inputs {
        let found = benchmarks::rows(input)?.into_iter();
        rows.extend(found.map(|(line, value)| BenchmarkRow { file: input.label.clone(), line, value }));
    }
    if rows.is_empty() {
        return Err(Error::Data { path: data.into(), line: None, field: None, message: "no rows".into(), hint: None });
    }
    let n = rows.len();
    if limit > 0 {
        rows.truncate(limit);
    }
    Ok((rows, n))
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
