//! Answers from a decoder: prompts in token ids -> completions in token ids.
//!
//! Sequences of a batch advance together, one token a step; when one ends, the next prompt takes its place. A
//! completion is a function of the model, its prompt, its z and, where it is sampled, of (seed, key): never of the batch.

mod sampling;

use crate::error::{Error, Result};
use crate::model::{InferenceDecoder, LogitShift, SequenceCache};
use crate::seed::Seed;

pub use sampling::Sampling;

/// Most prompt tokens that are read at once.
const READ_ROWS: usize = 2048;

/// One prompt.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What its random numbers are drawn for.
    pub key: &'a str,
    /// Token ids of the prompt.
    pub prompt: &'a [u32],
    /// What z adds to the logits.
    pub shift: Option<&'a LogitShift>,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// With a token or a text that ends generation.
    Stop,
    /// It reached the most tokens that it may have.
    Length,
}

impl Finish {
    /// Its name in outputs.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generated {
    /// Token ids; a token that ends generation is not among them.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Whether a completion ends with what it has so far.
pub type Stops<'a> = dyn Fn(&[u32]) -> Result<bool> + Sync + 'a;

/// How completions are made.
pub struct Options<'a> {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Tokens that end a completion, ascending.
    pub stop_ids: &'a [u32],
    /// Whether a completion ends with what it has so far, its last token among it: for texts that end generation.
    pub stops: Option<&'a Stops<'a>>,
    /// Sequences that advance together.
    pub batch: usize,
    /// The run's seed.
    pub seed: Seed,
}

/// A sequence in the making.
struct Running<'a> {
    index: usize,
    request: Request<'a>,
    cache: SequenceCache,
    ids: Vec<u32>,
    draws: sampling::Draws,
}

/// Completes prompts, in their order; `done` is called with each completion as it ends, and tells whether to go on.
/// Where it says no, the completions that have not ended are `None`.
///
/// # Errors
/// [`Error::Run`] for an empty prompt, for one that leaves the model no room for an answer, and where a logit is not a
/// number; those of `stops` and of `done`.
pub fn complete<'a>(
    model: &InferenceDecoder,
    requests: &[Request<'a>],
    options: &Options<'_>,
    done: &mut dyn FnMut(usize, &Generated) -> Result<bool>,
) -> Result<Vec<Option<Generated>>> {
    for request in requests {
        let needed = request.prompt.len() + options.max_new_tokens;
        if needed > model.longest() {
            return Err(Error::run(format!(
                "prompt {}: {} tokens, and up to {} new ones, are more than the {} that were provided for",
                request.key,
                request.prompt.len(),
                options.max_new_tokens,
                model.longest()
            )));
        }
    }
    let mut finished: Vec<Option<Generated>> = vec![None; requests.len()];
    if options.max_new_tokens == 0 {
        return Ok(requests.iter().map(|_| Some(Generated { ids: Vec::new(), finish: Finish::Length })).collect());
    }
    let mut waiting = requests.iter().copied().enumerate().peekable();
    let mut running: Vec<Running<'a>> = Vec::new();
    loop {
        // Hidden states from which the next token of each running sequence is chosen.
        let mut h = Vec::new();
        if !running.is_empty() {
            let last: Vec<u32> = running.iter().filter_map(|r| r.ids.last().copied()).collect();
            let mut caches: Vec<&mut SequenceCache> = running.iter_mut().map(|r| &mut r.cache).collect();
            h = model.step(&last, &mut caches)?;
        }
        let (mut new, mut rows) = (Vec::new(), 0);
        while running.len() + new.len() < options.batch.max(1)
            && let Some((_, request)) = waiting.peek()
            && (rows == 0 || rows + request.prompt.len() <= READ_ROWS)
        {
            rows += request.prompt.len();
            new.extend(waiting.next());
        }
        if !new.is_empty() {
            let (first, caches) = model.read(&new.iter().map(|(_, r)| r.prompt).collect::<Vec<_>>())?;
            h.extend(first);
            running.extend(new.into_iter().zip(caches).map(|((index, request), cache)| {
                let draws = sampling::Draws::of(options.seed, request.key);
                Running { index, request, cache, ids: Vec::new(), draws }
            }));
        }
        if running.is_empty() {
            return Ok(finished);
        }
        let shifts: Vec<Option<&LogitShift>> = running.iter().map(|r| r.request.shift).collect();
        let logits = model.logits(&h, &shifts);
        let vocabulary = model.config().vocab_size;
        let mut ended = Vec::new();
        for (at, (sequence, logits)) in running.iter_mut().zip(logits.chunks_exact(vocabulary)).enumerate() {
            let token = options.sampling.choose(logits, &mut sequence.draws).ok_or_else(|| Error::Run {
                message: format!("prompt {}: the model's logits are not finite", sequence.request.key),
                hint: Some("its weights are damaged, or too large for this precision".into()),
            })?;
            if options.stop_ids.contains(&token) {
                ended.push((at, Finish::Stop));
                continue;
            }
            sequence.ids.push(token);
            if let Some(stops) = options.stops
                && stops(&sequence.ids)?
            {
                ended.push((at, Finish::Stop));
            } else if sequence.ids.len() == options.max_new_tokens {
                ended.push((at, Finish::Length));
            }
        }
        let mut go_on = true;
        for &(at, finish) in ended.iter().rev() {
            let Running { index, ids, .. } = running.remove(at);
            let completion = Generated { ids, finish };
            go_on &= done(index, &completion)?;
            finished[index] = Some(completion);
        }
        if !go_on {
            return Ok(finished);
        }
    }
}

#[cfg(test)]
mod tests;
