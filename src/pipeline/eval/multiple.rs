//! Multiple choice: ARC and TruthfulQA.

use std::time::Instant;

use super::items::{Item, column, key};
use super::{EvalTask, Found, Work, rows, since};
use crate::error::Result;
use crate::eval::{BenchmarkRow, Question, arc, mean, truthfulqa};
use crate::lpc::usage::hard_code;

/// The task's definition: its version, and the question of a row.
fn definition(task: EvalTask) -> (f64, fn(&BenchmarkRow) -> Result<Question>) {
    match task {
        EvalTask::TruthfulqaMc1 => (truthfulqa::VERSIONS[0], |row| truthfulqa::question(row, truthfulqa::MC1)),
        EvalTask::TruthfulqaMc2 => (truthfulqa::VERSIONS[1], |row| truthfulqa::question(row, truthfulqa::MC2)),
        _ => (arc::VERSION, arc::question),
    }
}

/// Evaluates one task.
pub fn run(work: &Work<'_>) -> Result<Found> {
    let (version, question) = definition(work.task);
    let (rows, n_data) = rows(work.data, work.inputs, work.config.limit)?;
    let questions = rows.iter().map(question).collect::<Result<Vec<_>>>()?;
    let tokenizer = &work.opened.tokenizer;
    let encode = |text: &str| Ok(tokenizer.with_bos(tokenizer.encode_text(text)?));
    let encoded = questions.iter().map(|q| q.encode(&encode)).collect::<Result<Vec<_>>>()?;
    let (loaded, start) = (work.loaded, Instant::now());
    let latents = encoded.iter().map(|q| loaded.prior.prompt_latent(&q.context)).collect::<Result<Vec<_>>>()?;
    let given: Vec<_> = encoded.into_iter().zip(latents.iter().map(|latent| latent.shift.clone())).collect();
    let scored = work.scored(loaded, &given, &format!("evaluating {}", work.name))?;
    let seconds = since(start);
    let mut items = Vec::with_capacity(questions.len());
    for (index, ((question, scores), latent)) in questions.iter().zip(&scored).zip(&latents).enumerate() {
        let found = question.answered(scores);
        let metrics = match work.task {
            EvalTask::TruthfulqaMc1 => vec![("acc", found.acc)],
            EvalTask::TruthfulqaMc2 => vec![("acc", found.mass)],
            _ => vec![("acc", found.acc), ("acc_norm", found.acc_norm)],
        };
        items.push(Item {
            task: work.name.into(),
            index: index as u32,
            key: key(&question.id, [&question.context].into_iter().chain(&question.choices).map(String::as_str)),
            id: question.id.clone(),
            metrics: metrics.into_iter().map(|(name, value)| (column(name, "none"), value)).collect(),
            scores: scores.iter().map(|s| s.logp).collect(),
            chosen: Some(found.chosen as u32),
            right: question.right.clone(),
            prior_code: hard_code(&latent.prior).map(|code| code as u32),
            ..Item::default()
        });
    }
    let of = |at: usize| items.iter().map(|item| item.metrics[at].1).collect::<Vec<f64>>();
    let names = items.first().map(|item| item.metrics.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let metrics = names.unwrap_or_default().iter().enumerate().map(|(at, name)| mean(name, "none", &of(at))).collect();
    Ok(Found { version: Some(version), shots: 0, n_data, metrics, items, seconds, ..Found::default() })
}
