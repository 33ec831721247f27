//! What `eval` writes: items, results, and lm-evaluation-harness' own form of them; and differences from another model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polars::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::items::{Item, column, frame};
use super::rewards::RewardReference;
use super::{EvalSummary, EvalTask, STAGE, TaskResult};
use crate::analysis::{CopyNumbers, PairedDifference, by_cluster, paired_difference};
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::pipeline::recipe::EvalConfig;
use crate::schema::{eval, fact};
use crate::seed::Seed;

/// Resamples of the bootstrap, and assignments of signs.
const RESAMPLES: usize = 10_000;

/// A metric's difference from another model on the same items.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The set's name in results.
    pub task: String,
    /// Metric, with its filter where it has one.
    pub metric: String,
    /// This model's mean minus the other's, paired by item; items of one prompt belong together.
    pub difference: PairedDifference,
    /// Items of this evaluation that the other does not have.
    pub unpaired: usize,
}

/// A task's metrics under the harness' names, with what else was found.
pub fn named(result: &TaskResult) -> Map<String, Value> {
    let mut out = Map::new();
    for metric in &result.metrics {
        let filtered = metric.filter != "none";
        let name = column(&metric.name, &metric.filter);
        let stderr =
            if filtered { format!("{}_stderr,{}", metric.name, metric.filter) } else { format!("{name}_stderr") };
        // The first filter is the one that is meant where none is named.
        if filtered && !out.contains_key(&metric.name) {
            out.insert(metric.name.clone(), json!(metric.value));
        }
        out.insert(name, json!(metric.value));
        if metric.stderr.is_finite() {
            out.insert(stderr, json!(metric.stderr));
        }
    }
    out.insert("n".into(), json!(result.n));
    out.insert("version".into(), json!(result.version));
    out.insert("num_fewshot".into(), json!(result.shots));
    out.insert("seconds".into(), json!(result.seconds));
    if let Some(reward) = &result.reward {
        out.insert("reward".into(), json!(reward));
    }
    if let Some(truncated) = result.truncated {
        out.insert("truncated".into(), json!(truncated));
    }
    if !result.left_out.is_empty() {
        out.insert("left_out".into(), json!(result.left_out));
    }
    for by in ["source", "subset", "section"] {
        let groups = result.groups.iter().filter(|g| g.by == by).map(|g| (g.name.clone(), json!(g.accuracy)));
        let groups: Map<String, Value> = groups.collect();
        if !groups.is_empty() {
            out.insert(format!("by_{by}"), Value::Object(groups));
        }
    }
    out
}

/// What decides an item's numbers beside the model and the settings.
pub struct Conditions<'a> {
    /// The reference of the implicit reward.
    pub reference: Option<&'a RewardReference>,
    /// Tokens to which pairs of files are cut, where there are any.
    pub max_length: Option<usize>,
    /// Hash of the files of examples, where they are files of their own.
    pub examples: Option<String>,
}

impl Conditions<'_> {
    fn facts(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let facts = [
            (eval::REFERENCE, self.reference.map(|reference| json!(reference.fingerprint))),
            (eval::MAX_LENGTH, self.max_length.map(|length| json!(length))),
            (eval::EXAMPLES, self.examples.as_ref().map(|hash| json!(hash))),
        ];
        facts.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

/// Writes the folder, which the caller has locked.
pub fn write(
    out: &Path,
    config: &EvalConfig,
    summary: &EvalSummary,
    items: &[Item],
    conditions: &Conditions<'_>,
) -> Result<()> {
    let mut manifest = Manifest::begin(STAGE, config)?;
    manifest.fact(fact::DIRECTORY, std::env::current_dir().map_err(Error::io("."))?)?;
    for (key, value) in conditions.facts() {
        manifest.fact(key, value)?;
    }
    artifact::write_parquet(out.join(eval::ITEMS), &mut frame(items)?)?;
    artifact::write_json(out.join(eval::SUMMARY), summary)?;
    artifact::write_json(out.join(eval::HARNESS), &harness(config, summary))?;
    for (name, rows) in [(eval::ITEMS, Some(items.len() as u64)), (eval::SUMMARY, None), (eval::HARNESS, None)] {
        manifest.output(out, name, rows)?;
    }
    manifest.finish(out)?;
    Ok(())
}

/// The results as lm-evaluation-harness writes them, as far as tools read them.
fn harness(config: &EvalConfig, summary: &EvalSummary) -> Value {
    let (mut results, mut versions, mut shots, mut samples) = (Map::new(), Map::new(), Map::new(), Map::new());
    for (name, result) in &summary.tasks {
        let mut metrics = Map::from_iter([("alias".to_string(), json!(name))]);
        for metric in &result.metrics {
            metrics.insert(format!("{},{}", metric.name, metric.filter), json!(metric.value));
            let stderr = if metric.stderr.is_finite() { json!(metric.stderr) } else { json!("N/A") };
            metrics.insert(format!("{}_stderr,{}", metric.name, metric.filter), stderr);
        }
        results.insert(name.clone(), Value::Object(metrics));
        versions.insert(name.clone(), result.version.map_or(json!("Yaml"), |v| json!(v)));
        shots.insert(name.clone(), json!(result.shots));
        samples.insert(name.clone(), json!({"original": result.n_data, "effective": result.n}));
    }
    let limit = if config.limit > 0 { json!(config.limit) } else { Value::Null };
    json!({
        "results": results,
        "versions": versions,
        "n-shot": shots,
        "n-samples": samples,
        "config": {"model": "lpc-pipe", "model_args": format!("pretrained={}", config.model), "limit": limit,
            "model_dtype": summary.precision, "random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234,
            "fewshot_seed": 1234},
        "chat_template": Value::Null,
        "fewshot_as_multiturn": false,
        "model_source": "lpc-pipe",
        "model_name": config.model,
    })
}

/// An item: task and key, and the number of equal ones before it.
type ItemKey = ((String, String), usize);

/// Items of an earlier evaluation with each metric's value.
pub struct Earlier {
    folder: PathBuf,
    manifest: Manifest,
    values: BTreeMap<ItemKey, BTreeMap<String, f64>>,
}

impl Earlier {
    /// Reads the items of a folder.
    ///
    /// # Errors
    /// [`Error::Artifact`] where it is not the output of `eval`, or damaged.
    pub fn read(folder: &Path) -> Result<Earlier> {
        let manifest = Manifest::read(folder)?;
        if manifest.stage != STAGE {
            return Err(Error::artifact(folder, format!("written by `{}`, not by `eval`", manifest.stage))
                .with_hint("--against wants the --out folder of lpc-pipe eval"));
        }
        manifest.verify(folder, eval::ITEMS)?;
        let frame = artifact::read_parquet(folder.join(eval::ITEMS))?;
        if frame.column(eval::KEY).is_err() {
            return Err(Error::artifact(folder, "written by an older version, without keys of its items")
                .with_hint("evaluate the other model again"));
        }
        let (tasks, keys) = (frame.column(eval::TASK)?.str()?.clone(), frame.column(eval::KEY)?.str()?.clone());
        let mut copies = CopyNumbers::default();
        let names: Vec<Option<ItemKey>> =
            tasks.iter().zip(keys.iter()).map(|(task, key)| Some(copies.next((task?.into(), key?.into())))).collect();
        let mut values: BTreeMap<_, BTreeMap<String, f64>> = BTreeMap::new();
        for column in frame.columns().iter().filter(|c| c.dtype() == &DataType::Float64) {
            for (value, name) in column.f64()?.iter().zip(&names) {
                let (Some(value), Some(name)) = (value, name) else { continue };
                values.entry(name.clone()).or_default().insert(column.name().to_string(), value);
            }
        }
        Ok(Earlier { folder: folder.to_path_buf(), manifest, values })
    }

    /// Refuses a comparison of numbers that were measured otherwise: by another reward, over another reference, with
    /// other examples.
    ///
    /// # Errors
    /// [`Error::Config`] with all that differs.
    pub fn require_same(&self, config: &EvalConfig, conditions: &Conditions<'_>) -> Result<()> {
        let (own, theirs) = (serde_json::to_value(config)?, &self.manifest.config);
        let both = |task: &EvalTask| {
            let name = json!(task.name());
            theirs["task"].as_array().is_some_and(|tasks| tasks.contains(&name))
        };
        let shared: Vec<EvalTask> = config.task.iter().copied().filter(both).collect();
        let mut differ = Vec::new();
        let mut compare = |what: &str, own: &Value, theirs: &Value| {
            if own != theirs {
                differ.push(format!("{what}: {theirs} there, {own} here"));
            }
        };
        if shared.iter().any(|task| task.rewards()) {
            compare("reward", &own["reward"], &theirs["reward"]);
            let known = self.manifest.facts.get(eval::REFERENCE).filter(|_| own["reward"] == theirs["reward"]);
            if let (Some(own), Some(theirs)) = (conditions.reference, known) {
                compare("weights of the reference", &json!(own.fingerprint), theirs);
            }
        }
        let known = self.manifest.facts.get(eval::MAX_LENGTH).filter(|_| shared.contains(&EvalTask::Preference));
        if let (Some(own), Some(theirs)) = (conditions.max_length, known) {
            compare("tokens to which pairs are cut (eval.max_length)", &json!(own), theirs);
        }
        if shared.contains(&EvalTask::Gsm8k) {
            compare("shots", &own["shots"], &theirs["shots"]);
            let theirs = self.manifest.facts.get(eval::EXAMPLES).unwrap_or(&Value::Null);
            compare("hash of the examples", &json!(conditions.examples), theirs);
        }
        if differ.is_empty() {
            return Ok(());
        }
        let message = format!("{} was measured otherwise: {}", self.folder.display(), differ.join("; "));
        Err(Error::config("eval.against", message))
    }

    /// Differences of all metrics that both have, item by item.
    ///
    /// # Errors
    /// [`Error::Config`] where no item is in both.
    pub fn compared(&self, items: &[Item], seed: Seed) -> Result<Vec<Difference>> {
        let mut by: BTreeMap<(&str, &str), (Vec<_>, usize)> = BTreeMap::new();
        let mut copies = CopyNumbers::default();
        for (at, item) in items.iter().enumerate() {
            let other = self.values.get(&copies.next((item.task.clone(), item.key.clone())));
            // An item without a prompt id belongs to no other.
            let cluster = item.prompt_id.as_ref().ok_or(at);
            for (metric, value) in &item.metrics {
                let (differences, unpaired) = by.entry((&item.task, metric)).or_default();
                match other.and_then(|other| other.get(metric)) {
                    Some(other) => differences.push((cluster, value - other)),
                    None => *unpaired += 1,
                }
            }
        }
        if by.values().all(|(differences, _)| differences.is_empty()) {
            return Err(Error::config("eval.against", "the other evaluation has none of these items"));
        }
        let found = by.into_iter().map(|((task, metric), (differences, unpaired))| Difference {
            task: task.into(),
            metric: metric.into(),
            difference: paired_difference(&by_cluster(differences), RESAMPLES, seed),
            unpaired,
        });
        Ok(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of a task with their prompts, and whether each is right.
    fn items(given: &[(&str, Option<&str>, f64)]) -> Vec<Item> {
        let item = |(key, prompt, right): &(&str, Option<&str>, f64)| Item {
            task: "t".into(),
            key: (*key).into(),
            prompt_id: prompt.map(String::from),
            metrics: vec![("acc".into(), *right)],
            ..Item::default()
        };
        given.iter().map(item).collect()
    }

    #[test]
    fn items_of_a_prompt_belong_together_and_copies_are_paired_in_their_order() {
        // Four prompts with three pairs each, a copy among them; the other model has every pair wrong.
        let keys: Vec<String> = (0..4).flat_map(|p| ["a", "a", "b"].map(|pair| format!("{p}{pair}"))).collect();
        let prompts: Vec<String> = (0..12).map(|i| format!("p{}", i / 3)).collect();
        let of = |prompt: bool, right: &dyn Fn(usize) -> f64| -> Vec<Item> {
            let given = (0..12).map(|i| (keys[i].as_str(), prompt.then_some(prompts[i].as_str()), right(i)));
            items(&given.collect::<Vec<_>>())
        };
        let other = of(true, &|_| 0.0);
        let mut copies = CopyNumbers::default();
        let value = |item: &Item| (copies.next((item.task.clone(), item.key.clone())), [("acc".into(), 0.0)].into());
        let earlier = Earlier {
            folder: PathBuf::new(),
            manifest: Manifest::begin(STAGE, &()).unwrap(),
            values: other.iter().map(value).collect(),
        };
        // One pair of each prompt is right: of 2^4 assignments of signs two reach that, and of 2^12 as few with three.
        let compared = |items: &[Item]| earlier.compared(items, Seed(1)).unwrap().remove(0);
        let found = compared(&of(true, &|i| f64::from(u8::from(i % 3 == 0))));
        assert_eq!((found.difference.interval.n, found.unpaired), (12, 0));
        assert!((found.difference.interval.estimate - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(found.difference.p, 2.0 / 16.0);
        assert_eq!(compared(&of(true, &|_| 1.0)).difference.p, 2.0 / 16.0);
        assert_eq!(compared(&of(false, &|_| 1.0)).difference.p, 2.0 / 4096.0);
        // A third copy has nothing to be paired with.
        let mut more = of(true, &|_| 1.0);
        more.push(more[0].clone());
        let found = compared(&more);
        assert_eq!((found.difference.interval.n, found.unpaired), (12, 1));
    }
}
