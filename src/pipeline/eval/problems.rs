//! GSM8K: answers are generated, and the number in them is compared.

use std::time::Instant;

use super::items::{Item, column, key};
use super::splits::of_split;
use super::{Found, Work, rows, since};
use crate::artifact;
use crate::error::{Error, Result};
use crate::eval::gsm8k::{self, MAX_NEW_TOKENS, Problem};
use crate::eval::mean;
use crate::generate::{Options, Request, Sampling};
use crate::lpc::usage::hard_code;
use crate::pipeline::recipe::EvalConfig;
use crate::progress::{Progress, Silent};
use crate::schema::SPLITS;

/// Metric and its filters.
const METRIC: &str = "exact_match";
const FILTERS: [&str; 2] = ["strict-match", "flexible-extract"];
/// Tokens at an answer's end among which a text that ends it is looked for after each token.
const TAIL: usize = 24;

/// A hash of the files of examples; none where the examples are other problems of the data.
///
/// # Errors
/// As [`of_split`]; [`crate::error::Error::Io`].
pub fn content_of_examples(config: &EvalConfig, progress: &dyn Progress) -> Result<Option<String>> {
    if config.examples.is_empty() {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 examples of problems");
    for input in of_split(&config.examples, SPLITS[0], progress)?.0 {
        hasher.update(artifact::hash_file(&input.path)?.1.as_bytes());
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

/// Evaluates the task.
pub fn run(work: &Work<'_>) -> Result<Found> {
    let (config, tokenizer) = (work.config, &work.opened.tokenizer);
    let (data, n_data) = rows(work.data, work.inputs, 0)?;
    let all = data.iter().map(gsm8k::problem).collect::<Result<Vec<Problem>>>()?;
    let examples = match config.examples.as_str() {
        "" => None,
        path => Some(
            // Which files these are was told when they were hashed.
            rows(path, &of_split(path, SPLITS[0], &Silent)?.0, 0)?
                .0
                .iter()
                .map(gsm8k::problem)
                .collect::<Result<Vec<Problem>>>()?,
        ),
    };
    let pool = examples.as_ref().map_or(all.len().saturating_sub(1), Vec::len);
    if pool < config.shots {
        let message = format!("{} examples of a problem are wanted, and there are {pool}", config.shots);
        return Err(Error::config("eval.shots", message));
    }
    let n = if config.limit > 0 { config.limit.min(all.len()) } else { all.len() };
    let prompts = gsm8k::prompts(&all, examples.as_deref(), config.shots);
    let most = work.opened.most_tokens;
    let room = most.checked_sub(MAX_NEW_TOKENS).filter(|room| *room > 0).ok_or_else(|| {
        Error::config(
            "eval.model",
            format!("the model reads {most} tokens: there is no room for {MAX_NEW_TOKENS} new ones"),
        )
    })?;
    let ids = prompts[..n]
        .iter()
        .map(|prompt| {
            // A prompt that is too long loses its beginning, as in the harness.
            let ids = tokenizer.with_bos(tokenizer.encode_text(prompt)?);
            Ok(ids[ids.len().saturating_sub(room)..].to_vec())
        })
        .collect::<Result<Vec<_>>>()?;
    let (loaded, start) = (work.loaded, Instant::now());
    let latents = ids.iter().map(|ids| loaded.prior.prompt_latent(ids)).collect::<Result<Vec<_>>>()?;
    let requests: Vec<Request<'_>> = ids
        .iter()
        .zip(&latents)
        .map(|(prompt, latent)| Request { key: "", prompt, shift: latent.shift.as_ref() })
        .collect();
    let stops = |ids: &[u32]| -> Result<bool> {
        let text = tokenizer.decode(&ids[ids.len().saturating_sub(TAIL)..], true)?;
        Ok(gsm8k::STOPS.iter().any(|stop| text.contains(stop)))
    };
    let options = Options {
        sampling: Sampling::GREEDY,
        max_new_tokens: MAX_NEW_TOKENS,
        stop_ids: &tokenizer.stop_ids(),
        stops: Some(&stops),
        batch: config.batch,
        seed: work.seed,
    };
    let completed = work.completed(loaded, &requests, &options)?;
    let seconds = since(start);
    let mut items = Vec::with_capacity(n);
    for (index, ((problem, completion), latent)) in all.iter().zip(&completed).zip(&latents).enumerate() {
        let text = tokenizer.decode(&completion.ids, true)?;
        let text = gsm8k::cut(&text);
        let found = [gsm8k::strict(text), gsm8k::flexible(text)];
        let values = FILTERS
            .iter()
            .zip(found)
            .map(|(filter, found)| (column(METRIC, filter), gsm8k::exact_match(found, &problem.answer)));
        items.push(Item {
            task: work.name.into(),
            index: index as u32,
            key: key("", [problem.question.as_str()]),
            metrics: values.collect(),
            output: Some(text.to_string()),
            prior_code: hard_code(&latent.prior).map(|code| code as u32),
            ..Item::default()
        });
    }
    let of = |at: usize| items.iter().map(|item| item.metrics[at].1).collect::<Vec<f64>>();
    let metrics = FILTERS.iter().enumerate().map(|(at, filter)| mean(METRIC, filter, &of(at))).collect();
    let version = Some(gsm8k::VERSION);
    Ok(Found { version, shots: config.shots, n_data, metrics, items, seconds, ..Found::default() })
}
