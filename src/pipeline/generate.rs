//! `generate`: answers of a model, with the prior's z or one code.

mod prompts;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use super::kept::{self, KeptAnswers};
use super::opened::{OpenedModel, read_for};
use super::recipe::GenerateConfig;
use crate::artifact::{self, Growing};
use crate::error::{Error, Result};
use crate::generate::{Finish, Generated, Options, Request, Sampling};
use crate::model::LogitShift;
use crate::nn::Precision;
use crate::policy::PromptLatent;
use crate::progress::Progress;
use crate::schema::{answer, codes, col};
use crate::seed::Seed;
use crate::settings::Settings;
use prompts::Prompt;

/// Name of the command.
const STAGE: &str = "generate";

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeneratedAnswer {
    /// The prompt as one text.
    pub instruction: String,
    /// The answer.
    pub output: String,
    /// Name of what answered.
    pub generator: String,
    /// Of the prompt, as in prepared folders.
    pub prompt_id: String,
    /// The one code whose z was used; none for the prior's mixture.
    pub code: Option<usize>,
    /// The prior's weights of the codes; empty without codes.
    pub prior: Vec<f32>,
    /// Tokens of the answer, without the token that ended it.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

impl GeneratedAnswer {
    /// Whether it reached the most tokens that it may have.
    pub fn is_cut(&self) -> bool {
        self.finish == Finish::Length
    }
}

/// Results of `generate`.
#[derive(Debug, Clone, Serialize)]
pub struct GenerateSummary {
    /// The file written; "" where there is none.
    pub out: String,
    /// Prompts.
    pub prompts: usize,
    /// Answers.
    pub completions: usize,
    /// Answers that reached the most tokens.
    pub cut: usize,
    /// Tokens of all answers.
    pub tokens: usize,
    /// Seconds of reading prompts and generating, without loading the model.
    pub seconds: f64,
    /// Tokens of answers a second, without those that were kept from an earlier process.
    pub tokens_per_s: f64,
    /// Operands of the products with weights.
    pub precision: Precision,
    /// The answers, where no file was written.
    pub answers: Vec<GeneratedAnswer>,
}

/// Answers prompts.
///
/// # Errors
/// [`Error::Config`] for settings at fault, a code that the model does not have among them; [`Error::Data`] for a file of
/// prompts; [`Error::Model`], [`Error::Artifact`] for the model; [`Error::Run`] where the user stopped it.
pub fn run(config: &GenerateConfig, seed: Seed, progress: &dyn Progress) -> Result<GenerateSummary> {
    config.check()?;
    let mut read = read_for(&config.model, &config.tokenizer);
    read.push(config.prompts.clone().into());
    let out = Path::new(&config.out);
    if !config.out.is_empty() {
        artifact::Claim { stage: STAGE, inputs: &read }.new_file(out)?;
    }
    let prompts = prompts::read(config, progress)?;
    let opened = OpenedModel::new(&config.model, &config.tokenizer, &config.template, progress)?;
    let ids = prompts.iter().map(|p| encoded(p, config.raw, &opened)).collect::<Result<Vec<_>>>()?;
    let longest = fitting(&prompts, &ids, config.max_new_tokens, opened.most_tokens)?;
    let loaded = opened.weights(seed, longest, config.precision, !config.out.is_empty())?;
    let (prior, precision) = (&loaded.prior, loaded.model.precision());
    if precision != config.precision {
        progress.note("this processor does not multiply bfloat16: float32 is used");
    }
    let codes = if config.all_codes { prior.code_shifts()? } else { Vec::new() };
    if config.all_codes && codes.is_empty() {
        return Err(Error::config("generate.all_codes", "the model has no codes"));
    }
    let forced = match usize::try_from(config.code) {
        Ok(code) if !config.all_codes => Some((code, prior.code_shift(code, "generate.code")?)),
        _ => None,
    };
    let start = Instant::now();
    let latents = ids.iter().map(|ids| prior.prompt_latent(ids)).collect::<Result<Vec<_>>>()?;
    // Of each prompt one variant, or the prior's and those of all codes.
    let mut wanted: Vec<(usize, Option<usize>, Option<&LogitShift>)> = Vec::new();
    for (i, latent) in latents.iter().enumerate() {
        match &forced {
            Some((code, shift)) => wanted.push((i, Some(*code), Some(shift))),
            None => wanted.push((i, None, latent.shift.as_ref())),
        }
        wanted.extend(codes.iter().enumerate().map(|(code, shift)| (i, Some(code), Some(shift))));
    }
    let requests: Vec<Request<'_>> =
        wanted.iter().map(|&(i, _, shift)| Request { key: &prompts[i].id, prompt: &ids[i], shift }).collect();
    let options = Options {
        sampling: Sampling { temperature: config.temperature, top_p: config.top_p },
        max_new_tokens: config.max_new_tokens,
        stop_ids: &opened.tokenizer.stop_ids(),
        stops: None,
        batch: config.batch,
        seed,
    };
    let mut kept = None;
    if !config.out.is_empty() {
        let identity = kept::of_answers(&loaded, &requests, &options)?;
        let answers = KeptAnswers::open(&Growing::staged(out), &identity)?;
        if answers.dropped() {
            progress.note("answers of a stopped command with another model, prompts or settings were dropped");
        }
        kept = Some(answers);
    }
    let (completed, made) = kept::completed(&loaded, &requests, &options, kept.as_mut(), "generating", progress)?;
    let seconds = start.elapsed().as_secs_f64();
    let name = if config.generator.is_empty() { &config.model } else { &config.generator };
    let answers = wanted
        .iter()
        .zip(&completed)
        .map(|(&(i, code, _), completion)| {
            let generator = match code {
                Some(code) => format!("{name}#code-{code}"),
                None => name.clone(),
            };
            answered(&prompts[i], completion, generator, code, &latents[i], &opened)
        })
        .collect::<Result<Vec<_>>>()?;
    if let Some(kept) = kept {
        write(out, &answers)?;
        kept.remove()?;
    }
    Ok(GenerateSummary {
        out: config.out.clone(),
        prompts: prompts.len(),
        completions: answers.len(),
        cut: answers.iter().filter(|a| a.is_cut()).count(),
        tokens: completed.iter().map(|c| c.ids.len()).sum(),
        seconds,
        tokens_per_s: made as f64 / seconds.max(f64::MIN_POSITIVE),
        precision,
        answers: if config.out.is_empty() { answers } else { Vec::new() },
    })
}

/// Token ids of a prompt.
fn encoded(prompt: &Prompt, raw: bool, opened: &OpenedModel) -> Result<Vec<u32>> {
    let tokenizer = &opened.tokenizer;
    let ids = match raw {
        true => tokenizer.with_bos(tokenizer.encode_text(&prompt.text())?),
        false => tokenizer.encode_prompt(&prompt.messages)?,
    };
    if ids.is_empty() {
        return Err(prompt.fault("an empty prompt: there is no token to go on from"));
    }
    Ok(ids)
}

/// Tokens of the longest prompt with its answer.
fn fitting(prompts: &[Prompt], ids: &[Vec<u32>], new: usize, most: usize) -> Result<usize> {
    let mut longest = 0;
    for (prompt, ids) in prompts.iter().zip(ids) {
        if ids.len() + new > most {
            let found =
                format!("{} tokens, and an answer of up to {new}: the model was made for {most} together", ids.len());
            return Err(prompt.fault(&found).with_hint("a shorter prompt, or a lower --max-new-tokens, fits"));
        }
        longest = longest.max(ids.len() + new);
    }
    Ok(longest)
}

fn answered(
    prompt: &Prompt,
    completion: &Generated,
    generator: String,
    code: Option<usize>,
    latent: &PromptLatent,
    opened: &OpenedModel,
) -> Result<GeneratedAnswer> {
    Ok(GeneratedAnswer {
        instruction: prompt.text().into_owned(),
        output: opened.tokenizer.decode(&completion.ids, true)?,
        generator,
        prompt_id: prompt.id.clone(),
        code,
        prior: latent.prior.clone(),
        tokens: completion.ids.len(),
        finish: completion.finish,
    })
}

fn write(out: &Path, answers: &[GeneratedAnswer]) -> Result<()> {
    artifact::write(out, |w| {
        for a in answers {
            let mut row = json!({
                answer::INSTRUCTION: a.instruction,
                answer::OUTPUT: a.output,
                answer::GENERATOR: a.generator,
                col::PROMPT_ID: a.prompt_id,
                answer::TOKENS: a.tokens,
                answer::FINISH: a.finish.name(),
            });
            if !a.prior.is_empty() {
                row[codes::CODE] = a.code.into();
                row[crate::schema::posterior::PRIOR] = a.prior.clone().into();
            }
            serde_json::to_writer(&mut *w, &row)?;
            w.write_all(b"\n").map_err(Error::io(out))?;
        }
        Ok(())
    })
}
