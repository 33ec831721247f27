//! Hidden states of a frozen backbone, computed once and kept in a file that is named after their content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::Policy;
use super::evaluate::stoppable;
use super::hidden_states::{Bytes, HiddenStates, KNOWN, Tokens, kept};
use crate::artifact::{self, Growing};
use crate::batch::Sides;
use crate::error::{Error, Result};
use crate::model::{Group, LlamaConfig, Param, names};
use crate::nn::Real;
use crate::nn::columns::ELSEWHERE;
use crate::nn::real::with_slice;
use crate::progress::Progress;
use crate::token_file::TokenRow;
use crate::weights::fingerprint::hash_weights;
use crate::weights::safetensors;

/// Name of the tensor in a file of hidden states.
const NAME: &str = "hidden_states";

/// Where hidden states are kept, and how much of them may be in memory.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// Folder of the files.
    pub folder: &'a Path,
    /// Most bytes to hold in memory; more are mapped from the file.
    pub budget: u64,
    /// What else the numbers depend on, for the key: for example the precision of the products.
    pub about: &'a str,
    /// Whether the head is frozen.
    pub head_frozen: bool,
}

/// A file of hidden states: where it is, and what it holds.
struct File {
    path: PathBuf,
    kind: DType,
    shape: [usize; 2],
}

impl File {
    /// Size of the numbers in bytes.
    fn bytes(&self) -> u64 {
        safetensors::size(self.kind, &self.shape)
    }

    /// The bytes and the offset of the numbers in them; `None` where there is no file, or one of another shape.
    fn read(&self, budget: u64) -> Result<Option<(Bytes, usize)>> {
        let Ok(file) = std::fs::File::open(&self.path) else { return Ok(None) };
        // SAFETY: nothing here writes to the map, and this program replaces such files only as a whole; what is read of
        // it is bounded by its length.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&self.path))?;
        let Ok(parsed) = ::safetensors::SafeTensors::deserialize(&map) else { return Ok(None) };
        let Ok(found) = parsed.tensor(NAME) else { return Ok(None) };
        if found.shape() != self.shape || found.data().len() as u64 != self.bytes() {
            return Ok(None);
        }
        if self.bytes() <= budget {
            return Ok(Some((Bytes::Memory(found.data().to_vec()), 0)));
        }
        let start = map.len() - found.data().len();
        Ok(Some((Bytes::Mapped(map), start)))
    }
}

/// Takes the hidden states of these rows from their file, or computes them with the policy's backbone and writes the
/// file. Its name is a hash of all that they depend on: shape, weights below the head, tokens. `None` where the user
/// interrupted it; what was computed by then is kept beside the file's path, and continued by the next call.
///
/// # Errors
/// [`Error::Io`] where they are more than the budget and cannot be written; those of the backbone.
pub fn open<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    keeping: Keeping<'_>,
    progress: &dyn Progress,
) -> Result<Option<HiddenStates>> {
    let (mut known, file) = planned_file(policy, rows, keeping)?;
    let found = || -> Result<Option<(Bytes, usize)>> {
        let found = file.read(keeping.budget)?;
        if found.is_some() {
            progress.note(&format!("hidden states: taken from {}", file.path.display()));
        }
        Ok(found)
    };
    if let Some((bytes, start)) = found()? {
        return Ok(Some(HiddenStates { bytes, start, ..known }));
    }
    // Where the file system knows no locks, this process counts as the only writer.
    let lock = artifact::wait_for(&Growing::staged(&file.path), "hidden states", progress);
    if matches!(lock, Ok(None)) {
        return Ok(None);
    }
    if let Some((bytes, start)) = found()? {
        // Another process finished it while this one waited; taking the lock made the staged file anew.
        artifact::remove(&Growing::staged(&file.path))?;
        return Ok(Some(HiddenStates { bytes, start, ..known }));
    }
    progress.note(&format!("hidden states: {} MiB to {}", file.bytes() >> 20, file.path.display()));
    let small = file.bytes() <= keeping.budget;
    let (bytes, start) = match write(&known, policy, rows, &file, progress) {
        Ok(false) => return Ok(None),
        Ok(true) => {
            file.read(keeping.budget)?.ok_or_else(|| Error::artifact(&file.path, "is not what was written to it"))?
        }
        // What fits into memory needs no file.
        Err(error @ Error::Io { .. }) if small => {
            progress.warn(&format!("hidden states are kept in memory alone: {error}"));
            let mut memory = Vec::new();
            progress.begin("hidden states", Some(rows.len() as u64));
            for pass in stoppable(policy, rows) {
                if progress.interrupted() {
                    progress.end();
                    return Ok(None);
                }
                memory.extend(compute(&known, policy, pass)?);
                progress.advance(pass.len() as u64);
            }
            progress.end();
            (Bytes::Memory(memory), 0)
        }
        Err(error) => return Err(error),
    };
    (known.bytes, known.start) = (bytes, start);
    Ok(Some(known))
}

/// The hidden states of these rows where their file exists.
///
/// # Errors
/// [`Error::Tensor`]; [`Error::Io`] where the file cannot be read.
pub fn find<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], keeping: Keeping<'_>) -> Result<Option<HiddenStates>> {
    let (known, file) = planned_file(policy, rows, keeping)?;
    Ok(file.read(keeping.budget)?.map(|(bytes, start)| HiddenStates { bytes, start, ..known }))
}

/// Bytes that the hidden states of these rows take.
///
/// # Errors
/// [`Error::Tensor`].
pub fn size<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], head_frozen: bool) -> Result<u64> {
    let mut known = planned(policy, head_frozen)?;
    Ok(safetensors::size(T::KIND, &[known.arrange(rows), known.width()]))
}

/// What is kept for this policy, no rows yet.
fn planned<T: Real>(policy: &Policy<T>, head_frozen: bool) -> Result<HiddenStates> {
    let lpc = policy.lpc.as_ref();
    // Composed operations score the whole vocabulary.
    let tokens = lpc.and_then(|lpc| lpc.basis.code_tokens.as_ref());
    let tokens = tokens.filter(|_| head_frozen && policy.decoder.place().is_none());
    let reach = match tokens {
        None => None,
        Some(tokens) => {
            let mut column_of = vec![ELSEWHERE; policy.decoder.config.vocab_size];
            tokens.iter().enumerate().for_each(|(column, &token)| column_of[token as usize] = column as u32);
            Some(Tokens { weights: policy.decoder.head_rows(tokens)?, column_of })
        }
    };
    Ok(HiddenStates {
        bytes: Bytes::Memory(Vec::new()),
        start: 0,
        spans: HashMap::new(),
        hidden: policy.decoder.config.hidden_size,
        prompts: lpc.is_some_and(|lpc| lpc.config.reads_states()),
        reach,
    })
}

/// Which rows are which pair's, and the file that holds them.
fn planned_file<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], keeping: Keeping<'_>) -> Result<(HiddenStates, File)> {
    let mut known = planned(policy, keeping.head_frozen)?;
    let shape = [known.arrange(rows), known.width()];
    let path = keeping.folder.join(format!("{}.safetensors", key(&known, policy, rows, keeping.about)?));
    Ok((known, File { path, kind: T::KIND, shape }))
}

/// Computes what is not in the file yet; false where the user interrupted it.
fn write<T: Real>(
    known: &HiddenStates,
    policy: &Policy<T>,
    rows: &[&TokenRow],
    file: &File,
    progress: &dyn Progress,
) -> Result<bool> {
    let passes = stoppable(policy, rows);
    let lines = |row: &&TokenRow| kept(row) + usize::from(known.prompts);
    let bytes = safetensors::size(file.kind, &file.shape[1..]);
    let sizes: Vec<u64> = passes.iter().map(|p| p.iter().map(lines).sum::<usize>() as u64 * bytes).collect();
    let head = safetensors::head(&[], [(NAME, file.kind, &file.shape[..])])?;
    let mut growing = Growing::open(&file.path, &head, &sizes)?;
    let there: usize = passes[..growing.parts()].iter().map(|p| p.len()).sum();
    if there > 0 {
        progress.note(&format!("hidden states: {there} of {} pairs are kept from before", rows.len()));
    }
    progress.begin("hidden states", Some((rows.len() - there) as u64));
    for pass in &passes[growing.parts()..] {
        if progress.interrupted() {
            progress.end();
            return Ok(false);
        }
        if let Err(error) = compute(known, policy, pass).and_then(|part| growing.append(&part)) {
            progress.end();
            // What fills the disk must not stay there.
            growing.abandon();
            return Err(error);
        }
        progress.advance(pass.len() as u64);
    }
    progress.end();
    growing.finish()?;
    Ok(true)
}

/// The kept rows of a pass' pairs, in their order, as bytes.
fn compute<T: Real>(known: &HiddenStates, policy: &Policy<T>, pass: &[&TokenRow]) -> Result<Vec<u8>> {
    let states = policy.computed(pass, Sides::Both, None)?;
    let batch = &states.batch;
    let numbers = match &known.reach {
        None => None,
        Some(tokens) => {
            let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
            let h = states.h.index_select(&index, 0)?;
            Some(policy.decoder.others(&h, &batch.targets, &tokens.column_of)?)
        }
    };
    let prompts = states.prompt.as_ref().map(|p| with_slice::<T, _>(&p.contiguous()?, <[T]>::to_vec)).transpose()?;
    let h = with_slice::<T, _>(&states.h.contiguous()?, <[T]>::to_vec)?;
    let mut out: Vec<T> = Vec::new();
    for (i, pair) in batch.pairs.iter().enumerate() {
        let mut line = |state: &[T], rest: Option<usize>| {
            out.extend_from_slice(state);
            if let Some((lse, logit)) = &numbers {
                out.extend(rest.map_or([T::zero(); KNOWN], |at| [lse[at], logit[at]]));
            }
        };
        if let Some(prompts) = prompts.as_ref().filter(|_| known.prompts) {
            line(&prompts[i * known.hidden..][..known.hidden], None);
        }
        let state = |row: usize| &h[row * known.hidden..][..known.hidden];
        line(state(pair.prompt.end - 1), None);
        for (side, rows) in [(i, pair.chosen.clone()), (batch.len() + i, pair.rejected.clone())] {
            let first = batch.responses[side].start;
            rows.enumerate().for_each(|(j, row)| line(state(row), Some(first + j)));
        }
    }
    Ok(bytemuck::cast_slice(&out).to_vec())
}

/// BLAKE3 over all that hidden states depend on.
fn key<T: Real>(known: &HiddenStates, policy: &Policy<T>, rows: &[&TokenRow], about: &str) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 hidden states");
    // Whether the head is the embedding makes no difference below it.
    let config = LlamaConfig { tie_word_embeddings: false, ..policy.decoder.config.clone() };
    let prompts = policy.lpc.as_ref().filter(|_| known.prompts);
    let prompts = prompts.map(|lpc| (lpc.config.prompt_layer, lpc.config.prompt_pooling));
    for text in [about, &config.to_json().to_string(), &format!("{:?} {prompts:?}", T::KIND)] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let head = |p: &&Param| p.name != names::HEAD;
    match &known.reach {
        None => hash_weights::<T>(policy.params.iter().filter(head).filter(|p| p.group != Group::Latent), &mut hasher)?,
        // What is known of the head depends on its weights and on the tokens that are left out.
        Some(tokens) => {
            hash_weights::<T>(policy.params.iter().filter(|p| p.group != Group::Latent), &mut hasher)?;
            tokens.column_of.iter().for_each(|column| {
                hasher.update(&column.to_le_bytes());
            });
        }
    }
    for row in rows {
        hasher.update(row.id.as_bytes());
        for ids in [&row.prompt_ids, &row.chosen_ids, &row.rejected_ids] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}
