//! Preference accuracy, and RewardBench: responses compared by the reward that a model gives them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Instant;

use super::items::{Item, column};
use super::{EvalTask, Found, PartAccuracy, Work, go_on, rows, since, stopped};
use crate::analysis::{Interval, wilson};
use crate::batch;
use crate::error::{Error, Result};
use crate::eval::rewardbench::{self, Ranking};
use crate::eval::ties::{self, TiesKind, TiesScore};
use crate::eval::{BenchmarkRow, ChoiceScore, Metric, QuestionTokens, mean, score};
use crate::lpc::usage::hard_code;
use crate::manifest::Manifest;
use crate::message::Message;
use crate::model::LogitShift;
use crate::pipeline::opened::{self, ForInference};
use crate::pipeline::prepare;
use crate::pipeline::recipe::PrepareConfig;
use crate::pipeline::recipe::eval::Reward;
use crate::policy::{PromptLatent, saved};
use crate::schema::{SPLITS, prepared};
use crate::settings::Settings;
use crate::source::ModelSource;
use crate::tokenize::{Encoded, ModelTokenizer, PairText, TokenizeConfig};

/// Tokens of a prompt and a response of RewardBench, and of the prompt alone.
const MAX_LENGTH: usize = 2048;
const MAX_PROMPT_LENGTH: usize = 1536;

/// Metrics of an item: of most, and of those with several right responses.
const ACC: &str = "acc";
const TIES_ACC: &str = "ties_acc";

/// A prompt with responses in token ids, the right ones first.
struct Compared {
    id: String,
    source: String,
    /// How many of the first responses are right; 0 where the second is: of a flipped pair the clean label counts.
    right: usize,
    tokens: QuestionTokens,
}

/// Evaluates the task.
pub fn run(work: &Work<'_>) -> Result<Found> {
    let reference = if work.config.reward == Reward::Implicit { reference(work)? } else { String::new() };
    let (compared, n_data, left_out) = match work.task {
        EvalTask::Rewardbench => rankings(work)?,
        _ => pairs(work)?,
    };
    if compared.is_empty() {
        let message = format!("nothing to compare; left out: {left_out:?}");
        return Err(Error::Data { path: work.data.into(), line: None, field: None, message, hint: None });
    }
    let most = work.loaded.model.longest();
    if let Some(long) = compared.iter().find(|c| c.longest() > most) {
        let message = format!("{}: {} tokens, and the model was made for {most}", long.id, long.longest());
        return Err(Error::Data { path: work.data.into(), line: None, field: None, message, hint: None });
    }
    let start = Instant::now();
    let latents =
        compared.iter().map(|c| work.loaded.policy.prompt_latent(&c.tokens.context)).collect::<Result<Vec<_>>>()?;
    let title = format!("evaluating {}", work.name);
    let logps = scored(work, &title, work.loaded, &compared, &latents)?;
    let (rewards, reward) = rewarded(work, &reference, &compared, logps)?;
    let items = items(work, &compared, &rewards, &latents);
    let groups = groups(work.task, &items);
    let mut metrics: Vec<Metric> = [ACC, TIES_ACC]
        .into_iter()
        .map(|name| (name, values(&items, name)))
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| mean(name, "none", &values))
        .collect();
    let total = |value: f64| Metric { value, stderr: f64::NAN, ..mean("score", "none", &vec![0.0; items.len()]) };
    metrics.extend(score_of(work.task, &groups).map(total));
    let seconds = since(start);
    Ok(Found { n_data, metrics, items, groups, reward: Some(reward), left_out, seconds, ..Found::default() })
}

/// The values of one metric.
fn values(items: &[Item], name: &str) -> Vec<f64> {
    items.iter().flat_map(|item| &item.metrics).filter(|(own, _)| own == name).map(|(_, value)| *value).collect()
}

/// RewardBench's score: the mean of the four sections of the first version, or of the six subsets of the second, where
/// all are there.
fn score_of(task: EvalTask, groups: &[PartAccuracy]) -> Option<f64> {
    if task != EvalTask::Rewardbench {
        return None;
    }
    let all = |by: &str, names: &[&str]| {
        let estimate = |name: &&str| Some(groups.iter().find(|g| g.by == by && g.name == **name)?.accuracy.estimate);
        let found: Vec<f64> = names.iter().filter_map(estimate).collect();
        (found.len() == names.len()).then(|| found.iter().sum::<f64>() / names.len() as f64)
    };
    let sections: Vec<&str> = rewardbench::SECTIONS.iter().map(|(name, _)| *name).collect();
    all("section", &sections).or_else(|| all("subset", &rewardbench::SECOND))
}

impl Compared {
    fn longest(&self) -> usize {
        self.tokens.context.len() + self.tokens.choices.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Log-probabilities of all responses, each with the z of its prompt.
fn scored(
    work: &Work<'_>,
    title: &str,
    model: &ForInference,
    compared: &[Compared],
    latents: &[PromptLatent],
) -> Result<Vec<Vec<ChoiceScore>>> {
    let shift = |at: usize| latents.get(at).and_then(|latent| latent.shift.clone());
    let given: Vec<(QuestionTokens, Option<LogitShift>)> =
        compared.iter().enumerate().map(|(at, c)| (c.tokens.clone(), shift(at))).collect();
    work.progress.begin(title, Some(given.len() as u64));
    let found = score(&model.model, &given, &mut |n| Ok(go_on(work.progress, n)));
    work.progress.end();
    let found = found?;
    if found.len() < compared.len() { Err(stopped()) } else { Ok(found) }
}

/// The reward of every response, given the name of the reference, and what it is in words.
fn rewarded(
    work: &Work<'_>,
    name: &str,
    compared: &[Compared],
    logps: Vec<Vec<ChoiceScore>>,
) -> Result<(Vec<Vec<f64>>, String)> {
    let config = work.config;
    let each = |of: &dyn Fn(usize, usize, f64) -> f64| -> Vec<Vec<f64>> {
        let row = |(i, scores): (usize, &Vec<ChoiceScore>)| {
            scores.iter().enumerate().map(|(j, score)| of(i, j, score.logp)).collect()
        };
        logps.iter().enumerate().map(row).collect()
    };
    match config.reward {
        Reward::Sum => Ok((each(&|_, _, logp| logp), "log-probability, summed over tokens".into())),
        Reward::Mean => {
            let length = |i: usize, j: usize| compared[i].tokens.choices[j].len() as f64;
            Ok((each(&|i, j, logp| logp / length(i, j)), "log-probability for each token".into()))
        }
        Reward::Implicit => {
            let model = match work.reference.get() {
                Some(model) => model,
                None => {
                    let source = opened::source(name)?;
                    let longest = work.loaded.model.longest();
                    let policy = saved::open::<f32>(&source, work.opened.tokenizer.vocab_size(), work.seed, longest)?;
                    let model = ForInference::of(policy, longest, config.precision)?;
                    work.reference.get_or_init(|| model)
                }
            };
            // The reference has no z, whatever stands beside it.
            let title = format!("scoring the reference on {}", work.name);
            let reference = scored(work, &title, model, compared, &[])?;
            let rewards = each(&|i, j, logp| logp - reference[i][j].logp);
            Ok((rewards, format!("log-ratio of the model and {name}, summed over tokens")))
        }
    }
}

/// The reference: the one that was named, else the model that the run was trained from.
fn reference(work: &Work<'_>) -> Result<String> {
    if !work.config.reference.is_empty() {
        return Ok(work.config.reference.clone());
    }
    let folder = Path::new(&work.config.model);
    let run = if folder.join(prepared::MANIFEST).is_file() { Some(folder) } else { folder.parent() };
    let manifest = run.and_then(|run| Manifest::read(run).ok()).filter(|manifest| manifest.stage == "train");
    let named = manifest.and_then(|manifest| manifest.config["model"].as_str().map(str::to_string));
    match named {
        Some(name) if !matches!(ModelSource::resolve(&name), Ok(ModelSource::Tiny { .. })) => Ok(name),
        Some(name) => {
            let why = format!("the run was trained from {name}, which is made from its seed");
            Err(Error::config("eval.reference", format!("{why}: give --reference MODEL, or --reward sum")))
        }
        None => Err(Error::config("eval.reference", "missing: give --reference MODEL, or --reward sum or mean")),
    }
}

/// What is compared, the items of the data, and those that are left out by reason.
type Given = (Vec<Compared>, usize, BTreeMap<String, u64>);

/// Pairs of a prepared folder, or of files, which are prepared with the model's tokenizer.
fn pairs(work: &Work<'_>) -> Result<Given> {
    let folder = Path::new(work.data);
    // The output of `synth` holds files of pairs; other folders of ours are refused where they are not prepared ones.
    let ours = folder.join(prepared::MANIFEST).is_file();
    let (splits, left_out) = if ours && Manifest::read(folder)?.stage != "synth" {
        let mut splits = batch::read_splits(folder)?;
        splits.retain(|split| split.name == work.config.split);
        work.opened.require_tokens(folder, &splits)?;
        same_ends(work, folder)?;
        (splits, BTreeMap::new())
    } else {
        prepared_anew(work)?
    };
    let rows: Vec<_> = splits.into_iter().flat_map(|split| split.rows).collect();
    let n = rows.len();
    let most = if work.config.limit > 0 { work.config.limit } else { n };
    let compared = rows.into_iter().take(most).map(|row| Compared {
        id: row.id.to_string(),
        source: row.source.to_string(),
        right: usize::from(!row.flipped),
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

/// Pairs of files, by the same steps as `prepare`: none is flipped, and none is kept for training.
fn prepared_anew(work: &Work<'_>) -> Result<(Vec<batch::Split>, BTreeMap<String, u64>)> {
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let mut config = PrepareConfig {
        input: vec![work.data.to_string()],
        out: folder.path().join("data").display().to_string(),
        tokenizer: work.opened.tokenizer_from(),
        ..PrepareConfig::default()
    };
    config.pairs.test_fraction = 0.0;
    config.sources.exclude = Vec::new();
    config.check()?;
    let summary = prepare::run(&config, work.seed, work.progress)?;
    let mut left_out = summary.rejects.clone();
    for (reason, n) in &summary.totals.pairs_dropped {
        *left_out.entry(reason.clone()).or_default() += n;
    }
    let mut splits = batch::read_splits(Path::new(&config.out))?;
    splits.sort_by_key(|split| SPLITS.iter().position(|name| *name == split.name));
    Ok((splits, left_out))
}

/// Prompts of RewardBench.
fn rankings(work: &Work<'_>) -> Result<Given> {
    let (rows, n_data) = rows(work, work.data, work.config.limit)?;
    let config =
        TokenizeConfig { max_length: MAX_LENGTH, max_prompt_length: MAX_PROMPT_LENGTH, ..TokenizeConfig::default() };
    let (mut compared, mut left_out, mut ties) = (Vec::new(), BTreeMap::new(), HashSet::new());
    for row in &rows {
        let ranking = rewardbench::ranking(row)?;
        judge(row, &ranking)?;
        if ranking.subset == rewardbench::TIES && !ties.insert(ranking.id.clone()) {
            return Err(row.fault("id", format!("{} is there twice", ranking.id)));
        }
        match tokens(&work.opened.tokenizer, &ranking, &config)? {
            Ok(tokens) => {
                let Ranking { id, subset: source, chosen, .. } = ranking;
                compared.push(Compared { id, source, right: chosen.len(), tokens });
            }
            Err(reason) => *left_out.entry(reason).or_default() += 1,
        }
    }
    Ok((compared, n_data, left_out))
}

/// Refuses a prompt whose right responses are not as many as its subset has.
fn judge(row: &BenchmarkRow, ranking: &Ranking) -> Result<()> {
    let n = ranking.chosen.len();
    if ranking.subset != rewardbench::TIES {
        return if n == 1 { Ok(()) } else { Err(row.fault("chosen", format!("{n} right responses, expected one"))) };
    }
    match ties::prompt_of(&ranking.id) {
        Some((TiesKind::Reference, _)) if n != 1 => {
            Err(row.fault("chosen", format!("{n} right responses of {}, expected one", ranking.id)))
        }
        Some((TiesKind::Tied, _)) if n < 2 => {
            Err(row.fault("chosen", format!("one right response of {}, expected several", ranking.id)))
        }
        Some(_) => Ok(()),
        None => Err(row.fault("id", format!("{:?}: expected ref:N or tied:N in the subset Ties", ranking.id))),
    }
}

/// Token ids of a prompt and its responses, or why there are none.
fn tokens(
    tokenizer: &ModelTokenizer,
    ranking: &Ranking,
    config: &TokenizeConfig,
) -> Result<Result<QuestionTokens, String>> {
    let prompt = [Message::user(&ranking.prompt)];
    let mut found = QuestionTokens::default();
    // Every response is in one of these pairs: the right ones each with the first other, then the others.
    let (right, others) = (&ranking.chosen, &ranking.rejected);
    let pairs = right.iter().map(|x| (x, &others[0])).chain(others.iter().skip(1).map(|x| (&right[0], x)));
    let mut last = Vec::new();
    for (at, (chosen, rejected)) in pairs.enumerate() {
        let (chosen, rejected) = ([Message::assistant(chosen)], [Message::assistant(rejected)]);
        let pair = PairText {
            id: &ranking.id,
            prompt: &prompt,
            chosen: &chosen,
            rejected: &rejected,
            flipped: false,
            source: &ranking.subset,
        };
        let row = match tokenizer.encode_pair(&pair, config)? {
            Encoded::Row(row) => row,
            Encoded::Dropped { reason, .. } => return Ok(Err(reason.to_string())),
            Encoded::Refused(refusal) => return Ok(Err(refusal.reason.to_string())),
        };
        if at == 0 {
            found.context = row.prompt_ids.to_vec();
        }
        if at < right.len() {
            found.choices.push(row.chosen_ids.to_vec());
        }
        if at == 0 || at >= right.len() {
            last.push(row.rejected_ids.to_vec());
        }
    }
    found.choices.extend(last);
    Ok(Ok(found))
}

fn items(work: &Work<'_>, compared: &[Compared], rewards: &[Vec<f64>], latents: &[PromptLatent]) -> Vec<Item> {
    let all = compared.iter().zip(rewards).zip(latents).enumerate();
    let one = |(index, ((c, rewards), latent)): (usize, ((&Compared, &Vec<f64>), &PromptLatent))| {
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
            index: index as u32,
            id: c.id.clone(),
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
    let kind = if task == EvalTask::Rewardbench { "subset" } else { "source" };
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
        // The subset's own score takes the place of an accuracy; without prompts of both kinds there is none.
        groups.retain(|group| group.name != rewardbench::TIES);
        if let Some(found) = ties_of(items) {
            let n = by.get(rewardbench::TIES).map_or(0, Vec::len);
            let accuracy = Interval { estimate: found.score, low: f64::NAN, high: f64::NAN, n };
            groups.push(PartAccuracy { by: kind, name: rewardbench::TIES.into(), accuracy });
        }
        let mean = |name: &str| by.get(name).map(|values| values.iter().sum::<f64>() / values.len() as f64);
        let (sections, _) = rewardbench::sections(&mean);
        groups.extend(sections.into_iter().map(|(name, estimate)| {
            let subsets = rewardbench::SECTIONS.iter().find(|(section, _)| *section == name).map_or(&[][..], |s| s.1);
            let n = subsets.iter().filter_map(|(subset, _)| by.get(subset)).map(Vec::len).sum();
            let accuracy = Interval { estimate, low: f64::NAN, high: f64::NAN, n };
            PartAccuracy { by: "section", name: name.to_string(), accuracy }
        }));
    }
    groups
}

/// The score of RewardBench's subset with several right responses.
fn ties_of(items: &[Item]) -> Option<TiesScore> {
    let of = |item: &Item, right: bool| -> Vec<f64> {
        item.scores.iter().zip(&item.right).filter(|(_, own)| **own == right).map(|(score, _)| *score).collect()
    };
    let ties = items.iter().filter(|item| item.source.as_deref() == Some(rewardbench::TIES));
    let prompts =
        ties.filter_map(|item| Some((ties::prompt_of(&item.id)?, ties::margins(&of(item, true), &of(item, false)))));
    ties::ties_score(&prompts.collect())
}
