//! Preference accuracy, and RewardBench: responses compared by the reward that a model gives them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::items::{Item, column};
use super::rewards::{require_tokens_of_reference, rewarded, scored};
use super::{EvalTask, Found, OpenedModel, PartAccuracy, Work, inputs, rankings, since};
use crate::analysis::{Interval, wilson};
use crate::batch;
use crate::error::{Error, Result};
use crate::eval::{Metric, QuestionTokens, mean, rewardbench, ties};
use crate::lpc::usage::hard_code;
use crate::manifest::Manifest;
use crate::pipeline::prepare;
use crate::pipeline::recipe::{EvalConfig, PrepareConfig};
use crate::policy::PromptLatent;
use crate::schema::prepared;
use crate::settings::Settings;
use crate::token_file::TokenRow;
use crate::tokenize::ModelTokenizer;

/// Metrics of an item: of most, and of those with several right responses.
const ACC: &str = "acc";
const TIES_ACC: &str = "ties_acc";

/// A prompt with responses in token ids, the right ones first.
pub struct Compared {
    /// Its place in the data, from 0.
    pub place: u32,
    /// As the data name it.
    pub id: String,
    /// What pairs it with an item of another evaluation.
    pub key: String,
    /// Id of the prompt of a pair; none in RewardBench.
    pub prompt_id: Option<String>,
    /// Source tag, or subset.
    pub source: String,
    /// How many of the first responses are right; 0 where the second is: of a flipped pair the clean label counts.
    pub right: usize,
    /// Prompt and responses.
    pub tokens: QuestionTokens,
    /// Whether anything of them was cut.
    pub truncated: bool,
}

/// Evaluates the task.
pub fn run(work: &Work<'_>) -> Result<Found> {
    let (compared, n_data, left_out) = match work.task {
        EvalTask::Rewardbench => rankings::given(work)?,
        _ => pairs(work)?,
    };
    if compared.is_empty() {
        let reasons = left_out.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ");
        let reasons = if reasons.is_empty() { reasons } else { format!("; left out: {reasons}") };
        let message = format!("nothing to compare{reasons}");
        return Err(Error::Data { path: work.data.into(), line: None, field: None, message, hint: None });
    }
    let most = work.loaded.model.longest();
    if let Some(long) = compared.iter().find(|c| c.longest() > most) {
        let message = format!("{}: {} tokens, and the model was made for {most}", long.id, long.longest());
        return Err(Error::Data { path: work.data.into(), line: None, field: None, message, hint: None });
    }
    let start = Instant::now();
    let latents =
        compared.iter().map(|c| work.loaded.prior.prompt_latent(&c.tokens.context)).collect::<Result<Vec<_>>>()?;
    let title = format!("evaluating {}", work.name);
    require_tokens_of_reference(work, &compared)?;
    let logps = scored(work, &title, work.loaded, &compared, &latents)?;
    let (rewards, reward) = rewarded(work, &compared, logps)?;
    let items = items(work, &compared, &rewards, &latents);
    let groups = groups(work.task, &items);
    let mut metrics: Vec<Metric> = [ACC, TIES_ACC]
        .into_iter()
        .map(|name| (name, values(&items, name)))
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| mean(name, "none", &values))
        .collect();
    let total = |value: f64| Metric { value, stderr: f64::NAN, ..mean("score", "none", &vec![0.0; items.len()]) };
    if work.task == EvalTask::Rewardbench {
        metrics.extend(rankings::total(&groups).map(total));
    }
    let seconds = since(start);
    let truncated = Some(compared.iter().filter(|c| c.truncated).count());
    Ok(Found { n_data, metrics, items, groups, reward: Some(reward), left_out, truncated, seconds, ..Found::default() })
}

/// The values of one metric.
fn values(items: &[Item], name: &str) -> Vec<f64> {
    items.iter().flat_map(|item| &item.metrics).filter(|(own, _)| own == name).map(|(_, value)| *value).collect()
}

impl Compared {
    fn longest(&self) -> usize {
        self.tokens.context.len() + self.tokens.choices.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// What is compared, the items of the data, and those that are left out by reason.
pub type Given = (Vec<Compared>, usize, BTreeMap<String, u64>);

/// Whether a set is a prepared folder, and not files of pairs. The output of `synth` holds files; other folders of ours
/// are refused where they are not prepared ones.
///
/// # Errors
/// [`Error::Artifact`] for a manifest that is damaged.
pub fn is_prepared(task: EvalTask, data: &str) -> Result<bool> {
    let folder = Path::new(data);
    let ours = task == EvalTask::Preference && folder.join(prepared::MANIFEST).is_file();
    Ok(ours && Manifest::read(folder)?.stage != "synth")
}

/// Pairs of a prepared folder, or of files, which are prepared with the model's tokenizer.
fn pairs(work: &Work<'_>) -> Result<Given> {
    let folder = Path::new(work.data);
    let (rows, left_out) = if is_prepared(work.task, work.data)? {
        let mut splits = batch::read_splits(folder)?;
        let wanted = &work.config.split;
        let has_pairs = |split: &&batch::Split| !split.rows.is_empty();
        if !splits.iter().filter(has_pairs).any(|split| split.name == *wanted) {
            let other = splits.iter().find(has_pairs);
            let hint = other.map(|other| format!("--split {} takes its {} pairs", other.name, other.rows.len()));
            let message = format!("the {wanted} split has no pairs");
            return Err(Error::Data { path: work.data.into(), line: None, field: None, message, hint });
        }
        splits.retain(|split| split.name == *wanted);
        work.opened.require_tokens(folder, &splits)?;
        same_ends(work, folder)?;
        ((0..).zip(splits.into_iter().flat_map(|split| split.rows)).collect(), BTreeMap::new())
    } else {
        prepared_anew(work)?
    };
    let n = rows.len();
    let most = if work.config.limit > 0 { work.config.limit } else { n };
    let compared = rows.into_iter().take(most).map(|(place, row)| Compared {
        place,
        id: row.id.to_string(),
        key: row.id.to_string(),
        prompt_id: Some(row.prompt_id.to_string()),
        source: row.source.to_string(),
        right: usize::from(!row.flipped),
        truncated: row.truncated,
        tokens: QuestionTokens {
            context: row.prompt_ids.to_vec(),
            choices: vec![row.chosen_ids.to_vec(), row.rejected_ids.to_vec()],
        },
    });
    Ok((compared.collect(), n, left_out))
}

/// Refuses a prepared folder whose sequences begin or end otherwise than the model's.
fn same_ends(work: &Work<'_>, folder: &Path) -> Result<()> {
    let own = work.opened.tokenizer.facts();
    let theirs = ModelTokenizer::open(&folder.join(prepared::TOKENIZER))?.facts();
    let differ = |key: &str| own[key] != theirs[key];
    if ["bos_id", "eot_id"].into_iter().any(differ) {
        return Err(Error::artifact(folder, "prepared with another tokenizer than the model's")
            .with_hint("prepare the data with --tokenizer MODEL, or give the files of the pairs"));
    }
    Ok(())
}

/// The error of a preparation, whose hint names flags that `eval` does not have.
fn of_prepare(error: Error) -> Error {
    match error {
        Error::Data { path, line, field, message, hint: Some(hint) } => {
            let hint = format!("{hint}; this is about `lpc-pipe prepare`, whose folder --data takes too");
            Error::Data { path, line, field, message, hint: Some(hint) }
        }
        other => other,
    }
}

/// Rows with their places in the data, and what was left out by reason.
type Rows = (Vec<(u32, TokenRow)>, BTreeMap<String, u64>);

/// Tokens of prompt and response to which pairs of files are cut.
pub fn max_length(config: &EvalConfig, opened: &OpenedModel) -> usize {
    if config.max_length > 0 { config.max_length } else { opened.most_tokens }
}

/// Pairs of files in their order, by the same steps as `prepare`: none is flipped, and none is kept for training.
fn prepared_anew(work: &Work<'_>) -> Result<Rows> {
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let mut config = PrepareConfig {
        input: inputs::labels(work.inputs),
        out: folder.path().join("data").display().to_string(),
        tokenizer: work.opened.tokenizer_from(),
        ..PrepareConfig::default()
    };
    config.pairs.test_fraction = 0.0;
    config.sources.exclude = Vec::new();
    config.tokenize.max_length = max_length(work.config, work.opened);
    // The share of RewardBench.
    config.tokenize.max_prompt_length = (config.tokenize.max_length * 3 / 4).max(1);
    config.check()?;
    let summary = prepare::run(&config, work.seed, work.progress).map_err(of_prepare)?;
    let mut left_out = summary.rejects.clone();
    for (reason, n) in &summary.totals.pairs_dropped {
        *left_out.entry(reason.clone()).or_default() += n;
    }
    let places = prepare::places(&config, work.seed)?;
    let rows = batch::read_splits(Path::new(&config.out))?.into_iter().flat_map(|split| split.rows);
    let placed = |row: TokenRow| match places.get(&row.id.to_string()) {
        Some(place) => Ok((*place, row)),
        None => Err(Error::run(format!("pair {} is in none of the files: they have changed", row.id))),
    };
    let mut rows = rows.map(placed).collect::<Result<Vec<_>>>()?;
    rows.sort_by_key(|(place, _)| *place);
    Ok((rows, left_out))
}

fn items(work: &Work<'_>, compared: &[Compared], rewards: &[Vec<f64>], latents: &[PromptLatent]) -> Vec<Item> {
    let all = compared.iter().zip(rewards).zip(latents);
    let one = |((c, rewards), latent): ((&Compared, &Vec<f64>), &PromptLatent)| {
        let is_right = |i: usize| if c.right == 0 { i == 1 } else { i < c.right };
        let of = |wanted: bool| -> Vec<f64> {
            rewards.iter().enumerate().filter(|(i, _)| is_right(*i) == wanted).map(|(_, reward)| *reward).collect()
        };
        let (right, others) = (of(true), of(false));
        let metric = if work.task == EvalTask::Rewardbench && c.source == rewardbench::TIES {
            let told_apart = ties::margins(&right, &others).right_to_wrong > 0.0;
            (TIES_ACC, f64::from(u8::from(told_apart)))
        } else {
            (ACC, rewardbench::credit(right[0], &others))
        };
        let best = (0..rewards.len()).fold(0, |best, i| if rewards[i] > rewards[best] { i } else { best });
        Item {
            task: work.name.into(),
            index: c.place,
            id: c.id.clone(),
            key: c.key.clone(),
            prompt_id: c.prompt_id.clone(),
            source: Some(c.source.clone()),
            metrics: vec![(column(metric.0, "none"), metric.1)],
            scores: rewards.clone(),
            chosen: Some(best as u32),
            right: (0..rewards.len()).map(is_right).collect(),
            prior_code: hard_code(&latent.prior).map(|code| code as u32),
            output: None,
        }
    };
    all.map(one).collect()
}

/// Accuracy by source, or by subset and section.
fn groups(task: EvalTask, items: &[Item]) -> Vec<PartAccuracy> {
    let mut by: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for item in items {
        by.entry(item.source.as_deref().unwrap_or_default()).or_default().push(item.metrics[0].1);
    }
    let kind = if task == EvalTask::Rewardbench { rankings::SUBSET } else { "source" };
    let interval = |values: &[f64]| {
        let (n, sum) = (values.len(), values.iter().sum::<f64>());
        // Shared credit for ties is no count: it then has no interval.
        let whole = values.iter().all(|x| *x == 0.0 || *x == 1.0);
        let none = Interval { estimate: sum / n as f64, low: f64::NAN, high: f64::NAN, n };
        if whole { wilson(sum as u64, n as u64) } else { none }
    };
    let mut groups: Vec<PartAccuracy> = by
        .iter()
        .map(|(name, values)| PartAccuracy { by: kind, name: (*name).to_string(), accuracy: interval(values) })
        .collect();
    if task == EvalTask::Rewardbench {
        rankings::regroup(&mut groups, &by, items);
    }
    groups
}
