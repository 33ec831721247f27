//! Answers that have ended, kept in a hidden file beside the output until all have: a command that was stopped or killed
//! goes on from them when it is given again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact::{self, Growing, Lock, try_lock};
use crate::error::{Error, Result};
use crate::generate::{Finish, Generated, Options, Request};
use crate::model::LogitShift;
use crate::policy::Policy;
use crate::weights;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    /// [`identity`] of the command.
    answers_of: String,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Place of the request.
    request: usize,
    ids: Vec<u32>,
    finish: Finish,
}

/// The file of answers that have ended.
#[derive(Debug)]
pub struct KeptAnswers {
    path: PathBuf,
    file: File,
    found: HashMap<usize, Generated>,
    dropped: bool,
    _lock: Lock,
}

impl KeptAnswers {
    /// Opens the file that belongs to `out`; answers of another identity are dropped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Artifact`] where another process writes it.
    pub fn open(out: &Path, identity: &str) -> Result<KeptAnswers> {
        let path = Growing::staged(out);
        let lock = try_lock(&path)?
            .ok_or_else(|| Error::artifact(out, "another process writes it; wait for it, or give another --out"))?;
        let mut file = File::options().read(true).write(true).open(&path).map_err(Error::io(&path))?;
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        let mut lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let (mut found, mut sound) = (HashMap::new(), 0);
        let head = lines
            .next()
            .filter(|line| serde_json::from_slice::<Head>(line).is_ok_and(|head: Head| head.answers_of == identity));
        if let Some(head) = head {
            sound = head.len();
            // What was written when the machine stopped may be cut: all that comes before it is sound.
            for line in lines {
                let Ok(Line { request, ids, finish }) = serde_json::from_slice(line) else { break };
                found.insert(request, Generated { ids, finish });
                sound += line.len();
            }
        }
        let io = Error::io(&path);
        file.set_len(sound as u64).and_then(|()| file.seek(SeekFrom::Start(sound as u64))).map_err(io)?;
        let mut kept = KeptAnswers { path, file, found, dropped: sound == 0 && !text.is_empty(), _lock: lock };
        if sound == 0 {
            kept.write(&Head { answers_of: identity.into() })?;
        }
        Ok(kept)
    }

    /// The answer to a request, where it has ended.
    pub fn answer(&self, request: usize) -> Option<&Generated> {
        self.found.get(&request)
    }

    /// How many answers have ended.
    pub fn ended(&self) -> usize {
        self.found.len()
    }

    /// Whether answers of another command were dropped.
    pub fn dropped(&self) -> bool {
        self.dropped
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&mut self, request: usize, answer: &Generated) -> Result<()> {
        self.write(&Line { request, ids: answer.ids.clone(), finish: answer.finish })?;
        self.found.insert(request, answer.clone());
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

/// BLAKE3 over all that answers are a function of, lower-case hex: weights, prompts with what z adds, and how tokens are
/// chosen. Batch and threads are not among it.
///
/// # Errors
/// [`Error::Tensor`].
pub fn identity(policy: &Policy<f32>, requests: &[Request<'_>], options: &Options<'_>, bits: u8) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 answers");
    weights::fingerprint::hash_weights::<f32>(policy.params.iter(), &mut hasher)?;
    let sampling = &options.sampling;
    let numbers =
        [options.seed.0, options.max_new_tokens as u64, sampling.temperature.to_bits(), sampling.top_p.to_bits()];
    hasher.update(bytemuck::cast_slice(&numbers)).update(&[bits]);
    let mut list = |numbers: &[u8]| {
        hasher.update(&(numbers.len() as u64).to_le_bytes()).update(numbers);
    };
    list(bytemuck::cast_slice(options.stop_ids));
    for request in requests {
        list(request.key.as_bytes());
        list(bytemuck::cast_slice(request.prompt));
        match request.shift {
            None => list(&[]),
            Some(LogitShift::Hidden(z)) => list(bytemuck::cast_slice(z)),
            Some(LogitShift::Biases { tokens, values }) => {
                list(bytemuck::cast_slice(tokens));
                list(bytemuck::cast_slice(values));
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ids: &[u32]) -> Generated {
        Generated { ids: ids.to_vec(), finish: Finish::Stop }
    }

    #[test]
    fn what_was_kept_is_there_again_up_to_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let mut kept = KeptAnswers::open(&out, "one").unwrap();
        kept.keep(3, &answer(&[1, 2])).unwrap();
        kept.keep(0, &answer(&[])).unwrap();
        assert!(KeptAnswers::open(&out, "one").unwrap_err().to_string().contains("another process writes it"));
        drop(kept);
        // A process that was killed while it wrote a line.
        let staged = Growing::staged(&out);
        let whole = std::fs::read(&staged).unwrap();
        std::fs::write(&staged, [&whole[..], b"{\"request\":1,\"ids\":[4"].concat()).unwrap();
        let mut kept = KeptAnswers::open(&out, "one").unwrap();
        assert_eq!((kept.ended(), kept.answer(3), kept.answer(1)), (2, Some(&answer(&[1, 2])), None));
        assert_eq!(std::fs::read(&staged).unwrap(), whole);
        kept.keep(1, &answer(&[4, 5])).unwrap();
        drop(kept);
        assert_eq!(KeptAnswers::open(&out, "one").unwrap().answer(1), Some(&answer(&[4, 5])));
        // Answers of other settings are not taken for these.
        let kept = KeptAnswers::open(&out, "two").unwrap();
        assert_eq!(kept.ended(), 0);
        kept.remove().unwrap();
        assert!(!staged.exists());
    }
}
