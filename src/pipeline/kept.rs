//! Results of a model that are there already, kept in a hidden file until the command's output is complete: a command
//! that was stopped or killed goes on from them when it is given again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::opened::ForInference;
use crate::artifact::{self, Lock, try_lock};
use crate::error::{Error, Result};
use crate::eval::{ChoiceScore, QuestionTokens, score};
use crate::generate::{Generated, Options, Request, complete};
use crate::model::LogitShift;
use crate::nn::Precision;
use crate::progress::Progress;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Hash of all that the results are a function of.
    results_of: String,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    /// What the result is of.
    place: usize,
    result: T,
}

/// A question in token ids, with what its prompt's z adds to the logits.
pub type QuestionWithShift = (QuestionTokens, Option<LogitShift>);

/// Answers to requests, by the place of the request.
pub type KeptAnswers = KeptResults<Generated>;
/// Scores of the questions of a pass, by the place of its first question: whole passes, because numbers may depend on
/// what shares a pass.
pub type KeptScores = KeptResults<Vec<Vec<ChoiceScore>>>;

/// A file of results.
#[derive(Debug)]
pub struct KeptResults<T> {
    path: PathBuf,
    file: File,
    found: HashMap<usize, T>,
    dropped: bool,
    _lock: Lock,
}

impl<T: Serialize + DeserializeOwned + Clone> KeptResults<T> {
    /// Opens the file; results of another identity are dropped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Artifact`] where another process writes it.
    pub fn open(path: &Path, identity: &str) -> Result<KeptResults<T>> {
        let lock = try_lock(path)?
            .ok_or_else(|| Error::artifact(path, "another process writes it; wait for it, or give another --out"))?;
        let mut file = File::options().read(true).write(true).open(path).map_err(Error::io(path))?;
        let text = std::fs::read(path).map_err(Error::io(path))?;
        let mut lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let (mut found, mut sound) = (HashMap::new(), 0);
        let head = lines
            .next()
            .filter(|line| serde_json::from_slice::<Head>(line).is_ok_and(|head: Head| head.results_of == identity));
        if let Some(head) = head {
            sound = head.len();
            // What was written when the machine stopped may be cut: all that comes before it is sound.
            for line in lines {
                let Ok(Line { place, result }) = serde_json::from_slice(line) else { break };
                found.insert(place, result);
                sound += line.len();
            }
        }
        let io = Error::io(path);
        file.set_len(sound as u64).and_then(|()| file.seek(SeekFrom::Start(sound as u64))).map_err(io)?;
        let dropped = sound == 0 && !text.is_empty();
        let mut kept = KeptResults { path: path.to_path_buf(), file, found, dropped, _lock: lock };
        if sound == 0 {
            kept.write(&Head { results_of: identity.into() })?;
        }
        Ok(kept)
    }

    /// The result at a place, where it is there.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.found.get(&place)
    }

    /// How many results are there.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether results of another identity were dropped.
    pub fn dropped(&self) -> bool {
        self.dropped
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&mut self, place: usize, result: &T) -> Result<()> {
        self.write(&Line { place, result })?;
        self.found.insert(place, result.clone());
        Ok(())
    }

    /// Removes the file, once the output is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        artifact::remove(&self.path)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path))
    }
}

/// BLAKE3 over all that answers are a function of, lower-case hex: shape and weights, prompts with what z adds, and how tokens are
/// chosen. Batch and threads are not among it.
///
/// # Errors
/// [`Error::Tensor`].
pub fn of_answers(model: &ForInference, requests: &[Request<'_>], options: &Options<'_>) -> Result<String> {
    let mut hash = ResultsHash::begin("lpc-pipe 2 answers", model)?;
    let sampling = &options.sampling;
    hash.numbers(&[
        options.seed.0,
        options.max_new_tokens as u64,
        sampling.temperature.to_bits(),
        sampling.top_p.to_bits(),
    ]);
    hash.tokens(options.stop_ids);
    for request in requests {
        hash.list(request.key.as_bytes());
        hash.tokens(request.prompt);
        hash.shift(request.shift);
    }
    Ok(hash.hex())
}

/// BLAKE3 over all that scores are a function of, lower-case hex: shape and weights, the longest sequence, questions and choices
/// with what z adds.
///
/// # Errors
/// [`Error::Tensor`].
pub fn of_scores(model: &ForInference, questions: &[QuestionWithShift]) -> Result<String> {
    let mut hash = ResultsHash::begin("lpc-pipe 1 scores", model)?;
    hash.numbers(&[model.model.longest() as u64]);
    for (question, shift) in questions {
        hash.numbers(&[question.choices.len() as u64]);
        hash.tokens(&question.context);
        question.choices.iter().for_each(|choice| hash.tokens(choice));
        hash.shift(shift.as_ref());
    }
    Ok(hash.hex())
}

/// A hash in the making.
struct ResultsHash(blake3::Hasher);

impl ResultsHash {
    fn begin(context: &str, model: &ForInference) -> Result<ResultsHash> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        let weights =
            model.fingerprint.as_ref().ok_or_else(|| Error::run("results of a model without a fingerprint"))?;
        hasher.update(weights.as_bytes());
        hasher.update(&[if model.model.precision() == Precision::F32 { 32 } else { 16 }]);
        Ok(ResultsHash(hasher))
    }

    fn numbers(&mut self, numbers: &[u64]) {
        self.0.update(bytemuck::cast_slice(numbers));
    }

    fn list(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    fn tokens(&mut self, ids: &[u32]) {
        self.list(bytemuck::cast_slice(ids));
    }

    fn shift(&mut self, shift: Option<&LogitShift>) {
        match shift {
            None => self.list(&[]),
            Some(LogitShift::Hidden(z)) => self.list(bytemuck::cast_slice(z)),
            Some(LogitShift::Biases { tokens, values }) => {
                self.tokens(tokens);
                self.list(bytemuck::cast_slice(values));
            }
        }
    }

    fn hex(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// Why a command ended before its results were there: the user stopped it.
fn stopped(kept: bool, found: usize, n: usize, what: &str) -> Error {
    if !kept {
        return Error::interrupted("interrupted; nothing was written")
            .with_hint("the same command begins anew; with --out it goes on");
    }
    let message = format!("interrupted; {found} of {n} {what} are kept");
    Error::Interrupted { message, hint: Some("the same command goes on with the others".into()) }
}

/// The answers to all requests, and the tokens of those that were made now: the others are among what was kept. `title`
/// is shown with the progress.
///
/// # Errors
/// As [`complete`]; [`Error::Interrupted`] where the user stopped it.
pub fn completed(
    model: &ForInference,
    requests: &[Request<'_>],
    options: &Options<'_>,
    mut kept: Option<&mut KeptAnswers>,
    title: &str,
    progress: &dyn Progress,
) -> Result<(Vec<Generated>, usize)> {
    let earlier = |i: usize| kept.as_ref().and_then(|kept| kept.get(i)).cloned();
    let mut all: Vec<Option<Generated>> = (0..requests.len()).map(earlier).collect();
    let missing: Vec<usize> = (0..all.len()).filter(|&i| all[i].is_none()).collect();
    if missing.len() < all.len() {
        progress.note(&format!("{} of {} answers are there already", all.len() - missing.len(), all.len()));
    }
    let wanted: Vec<Request<'_>> = missing.iter().map(|&i| requests[i]).collect();
    let (start, mut tokens) = (Instant::now(), 0);
    progress.begin(title, Some(wanted.len() as u64));
    let found = complete(&model.model, &wanted, options, &mut |i, completion| {
        tokens += completion.ids.len();
        progress.status(&format!("{:.0} tokens/s", tokens as f64 / start.elapsed().as_secs_f64()));
        progress.advance(1);
        if let Some(kept) = kept.as_deref_mut() {
            kept.keep(missing[i], completion)?;
        }
        Ok(!progress.interrupted())
    });
    progress.end();
    for (&i, completion) in missing.iter().zip(found?) {
        all[i] = completion;
    }
    let (n, there) = (all.len(), kept.as_ref().map_or(0, |kept| kept.count()));
    match all.into_iter().collect::<Option<Vec<_>>>() {
        Some(all) => Ok((all, tokens)),
        None => Err(stopped(kept.is_some(), there, n, "answers")),
    }
}

/// The scores of all questions, of which those that were kept are not computed again. `title` is shown with the progress.
///
/// # Errors
/// As [`score`]; [`Error::Interrupted`] where the user stopped it.
pub fn scored(
    model: &ForInference,
    questions: &[QuestionWithShift],
    mut kept: Option<&mut KeptScores>,
    title: &str,
    progress: &dyn Progress,
) -> Result<Vec<Vec<ChoiceScore>>> {
    let mut all = Vec::with_capacity(questions.len());
    while let Some(pass) = kept.as_ref().and_then(|kept| kept.get(all.len())) {
        all.extend_from_slice(pass);
    }
    if !all.is_empty() {
        progress.note(&format!("{} of {} scores are there already", all.len(), questions.len()));
    }
    progress.begin(title, Some((questions.len() - all.len()) as u64));
    let mut place = all.len();
    let found = score(&model.model, &questions[place..], &mut |pass| {
        if let Some(kept) = kept.as_deref_mut() {
            kept.keep(place, &pass.to_vec())?;
        }
        place += pass.len();
        progress.advance(pass.len() as u64);
        Ok(!progress.interrupted())
    });
    progress.end();
    all.extend(found?);
    if all.len() < questions.len() {
        return Err(stopped(kept.is_some(), all.len(), questions.len(), "scores"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Growing;
    use crate::generate::Finish;

    fn answer(ids: &[u32]) -> Generated {
        Generated { ids: ids.to_vec(), finish: Finish::Stop }
    }

    #[test]
    fn what_was_kept_is_there_again_up_to_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let staged = Growing::staged(&out);
        let mut kept = KeptAnswers::open(&staged, "one").unwrap();
        kept.keep(3, &answer(&[1, 2])).unwrap();
        kept.keep(0, &answer(&[])).unwrap();
        assert!(KeptAnswers::open(&staged, "one").unwrap_err().to_string().contains("another process writes it"));
        drop(kept);
        // A process that was killed while it wrote a line.
        let whole = std::fs::read(&staged).unwrap();
        std::fs::write(&staged, [&whole[..], b"{\"place\":1,\"result\":{\"ids\":[4"].concat()).unwrap();
        let mut kept = KeptAnswers::open(&staged, "one").unwrap();
        assert_eq!((kept.count(), kept.get(3), kept.get(1)), (2, Some(&answer(&[1, 2])), None));
        assert_eq!(std::fs::read(&staged).unwrap(), whole);
        kept.keep(1, &answer(&[4, 5])).unwrap();
        drop(kept);
        assert_eq!(KeptAnswers::open(&staged, "one").unwrap().get(1), Some(&answer(&[4, 5])));
        // Answers of other settings are not taken for these.
        let kept = KeptAnswers::open(&staged, "two").unwrap();
        assert_eq!(kept.count(), 0);
        kept.remove().unwrap();
        assert!(!staged.exists());
    }
}
