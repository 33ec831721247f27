//! Hidden states of a frozen backbone, computed once and kept in a file that is named after their content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::Policy;
use super::evaluate::stoppable;
use super::hidden_states::{Bytes, HiddenStates, KNOWN, Packed, Rows, Tokens, kept, rejected_first};
use crate::artifact::{self, Growing};
use crate::batch::Sides;
use crate::error::{Error, Result};
use crate::model::{LlamaConfig, names};
use crate::nn::Real;
use crate::nn::columns::ELSEWHERE;
use crate::nn::real::with_slice;
use crate::progress::Progress;
use crate::token_file::TokenRow;
use crate::weights::fingerprint::{hash_starting, hash_weights};
use crate::weights::safetensors;

/// Names of the tensors in the files.
const STATES: &str = "hidden_states";
const KNOWN_LOGITS: &str = "other_tokens";

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

/// A file of numbers: where it is, and what it holds.
struct File {
    /// Name of its tensor.
    name: &'static str,
    /// What people call it.
    title: &'static str,
    path: PathBuf,
    kind: DType,
    shape: [usize; 2],
}

impl File {
    /// Size of the numbers in bytes.
    fn bytes(&self) -> u64 {
        safetensors::size(self.kind, &self.shape)
    }

    /// The numbers, in memory or mapped; `None` where there is no file, or one of another shape.
    fn read(&self, in_memory: bool) -> Result<Option<Rows>> {
        let Ok(file) = std::fs::File::open(&self.path) else { return Ok(None) };
        // SAFETY: nothing here writes to the map, and this program replaces such files only as a whole; what is read of
        // it is bounded by its length.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&self.path))?;
        let Ok(parsed) = ::safetensors::SafeTensors::deserialize(&map) else { return Ok(None) };
        let Ok(found) = parsed.tensor(self.name) else { return Ok(None) };
        if found.shape() != self.shape || found.data().len() as u64 != self.bytes() {
            return Ok(None);
        }
        if in_memory {
            return Ok(Some(Rows { bytes: Bytes::Memory(found.data().to_vec()), start: 0 }));
        }
        let start = map.len() - found.data().len();
        Ok(Some(Rows { bytes: Bytes::Mapped(map), start }))
    }

    /// Takes the numbers from the file, or computes them pass by pass and writes it. `None` where the user interrupted
    /// it; what was computed by then is kept beside the file's path, and continued by the next call.
    fn open<'a>(
        &self,
        in_memory: bool,
        passes: &[&'a [&'a TokenRow]],
        rows_of: &dyn Fn(&TokenRow) -> usize,
        compute: &dyn Fn(&[&TokenRow]) -> Result<Vec<u8>>,
        progress: &dyn Progress,
    ) -> Result<Option<Rows>> {
        let found = || -> Result<Option<Rows>> {
            let found = self.read(in_memory)?;
            if found.is_some() {
                progress.note(&format!("{}: taken from {}", self.title, self.path.display()));
            }
            Ok(found)
        };
        if let Some(rows) = found()? {
            return Ok(Some(rows));
        }
        // Where the file system knows no locks, this process counts as the only writer.
        let lock = artifact::wait_for(&Growing::staged(&self.path), self.title, progress);
        if matches!(lock, Ok(None)) {
            return Ok(None);
        }
        if let Some(rows) = found()? {
            // Another process finished it while this one waited; taking the lock made the staged file anew.
            artifact::remove(&Growing::staged(&self.path))?;
            return Ok(Some(rows));
        }
        progress.note(&format!("{}: {} MiB to {}", self.title, self.bytes() >> 20, self.path.display()));
        match self.write(passes, rows_of, compute, progress) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let rows = self.read(in_memory)?;
                Ok(Some(rows.ok_or_else(|| Error::artifact(&self.path, "is not what was written to it"))?))
            }
            // What fits into memory needs no file.
            Err(error @ Error::Io { .. }) if in_memory => {
                progress.warn(&format!("{} are kept in memory alone: {error}", self.title));
                let mut memory = Vec::new();
                progress.begin(self.title, Some(passes.iter().map(|pass| pass.len() as u64).sum()));
                for pass in passes {
                    if progress.interrupted() {
                        progress.end();
                        return Ok(None);
                    }
                    memory.extend(compute(pass)?);
                    progress.advance(pass.len() as u64);
                }
                progress.end();
                Ok(Some(Rows { bytes: Bytes::Memory(memory), start: 0 }))
            }
            Err(error) => Err(error),
        }
    }

    /// Computes what is not in the file yet; false where the user interrupted it.
    fn write(
        &self,
        passes: &[&[&TokenRow]],
        rows_of: &dyn Fn(&TokenRow) -> usize,
        compute: &dyn Fn(&[&TokenRow]) -> Result<Vec<u8>>,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let bytes = safetensors::size(self.kind, &self.shape[1..]);
        let sizes: Vec<u64> =
            passes.iter().map(|pass| pass.iter().map(|row| rows_of(row)).sum::<usize>() as u64 * bytes).collect();
        let head = safetensors::head(&[], [(self.name, self.kind, &self.shape[..])])?;
        let mut growing = Growing::open(&self.path, &head, &sizes)?;
        let pairs = |passes: &[&[&TokenRow]]| passes.iter().map(|pass| pass.len()).sum::<usize>();
        let (there, all) = (pairs(&passes[..growing.parts()]), pairs(passes));
        if there > 0 {
            progress.note(&format!("{}: {there} of {all} pairs are kept from before", self.title));
        }
        progress.begin(self.title, Some((all - there) as u64));
        for pass in &passes[growing.parts()..] {
            if progress.interrupted() {
                progress.end();
                return Ok(false);
            }
            if let Err(error) = compute(pass).and_then(|part| growing.append(&part)) {
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
}

/// The files of hidden states, and of what is known of the head where it is frozen.
struct Files {
    states: File,
    known: Option<File>,
}

impl Files {
    /// Whether all of it may be in memory.
    fn fit(&self, budget: u64) -> bool {
        self.states.bytes() + self.known.as_ref().map_or(0, File::bytes) <= budget
    }
}

/// Takes the hidden states of these rows from their file, or computes them with the policy's backbone and writes the
/// file, and then the same for what is known of the head. A file's name is a hash of all that it depends on: shape, weights
/// below the head with the scale of their adapter, tokens; and for the head its weights and the codes' tokens. `None` where the user interrupted it; what
/// was computed by then is kept beside the file's path, and continued by the next call.
///
/// # Errors
/// [`Error::Io`] where they are more than the budget and cannot be written; those of the backbone.
pub fn open<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    keeping: Keeping<'_>,
    progress: &dyn Progress,
) -> Result<Option<HiddenStates>> {
    let (states, files) = planned_files(policy, rows, keeping)?;
    read_or_compute(states, &files, policy, rows, keeping.budget, progress)
}

/// Fills what is planned from its files, or computes it.
fn read_or_compute<T: Real>(
    mut states: HiddenStates,
    files: &Files,
    policy: &Policy<T>,
    rows: &[&TokenRow],
    budget: u64,
    progress: &dyn Progress,
) -> Result<Option<HiddenStates>> {
    let (in_memory, passes) = (files.fit(budget), stoppable(policy, rows));
    let lines = |row: &TokenRow| kept(row) + usize::from(states.prompts);
    let compute = |pass: &[&TokenRow]| states_of(&states, policy, pass);
    let Some(found) = files.states.open(in_memory, &passes, &lines, &compute, progress)? else { return Ok(None) };
    states.states = found;
    if let (Some(file), Some(tokens)) = (&files.known, &states.reach) {
        let lines = |row: &TokenRow| kept(row) + usize::from(states.prompts);
        let compute = |pass: &[&TokenRow]| known_of(&states, policy, &tokens.column_of, pass);
        let Some(found) = file.open(in_memory, &passes, &lines, &compute, progress)? else { return Ok(None) };
        if let Some(tokens) = &mut states.reach {
            tokens.known = found;
        }
    }
    Ok(Some(states))
}

/// The hidden states of these rows where their file exists.
///
/// # Errors
/// As [`open`].
pub fn find<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    keeping: Keeping<'_>,
    progress: &dyn Progress,
) -> Result<Option<HiddenStates>> {
    let (states, files) = planned_files(policy, rows, keeping)?;
    if files.states.read(false)?.is_none() {
        return Ok(None);
    }
    read_or_compute(states, &files, policy, rows, keeping.budget, progress)
}

/// Bytes that the hidden states of these rows take.
///
/// # Errors
/// [`Error::Tensor`].
pub fn size<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], head_frozen: bool) -> Result<u64> {
    let mut states = planned(policy, head_frozen)?;
    let width = states.hidden + if states.reach.is_some() { KNOWN } else { 0 };
    Ok(safetensors::size(T::KIND, &[states.arrange(rows), width]))
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
            Some(Tokens { weights: policy.decoder.head_rows(tokens)?, column_of, known: Rows::NONE })
        }
    };
    Ok(HiddenStates {
        states: Rows::NONE,
        spans: HashMap::new(),
        hidden: policy.decoder.config.hidden_size,
        prompts: lpc.is_some_and(|lpc| lpc.config.reads_states()),
        reach,
    })
}

/// Which rows are which pair's, and the files that hold them.
fn planned_files<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    keeping: Keeping<'_>,
) -> Result<(HiddenStates, Files)> {
    let mut states = planned(policy, keeping.head_frozen)?;
    let n = states.arrange(rows);
    let key = key_of_states(&states, policy, rows, keeping.about)?;
    let file = |name, title, key: &str, width| {
        let path = keeping.folder.join(format!("{key}.safetensors"));
        File { name, title, path, kind: T::KIND, shape: [n, width] }
    };
    let known = match &states.reach {
        None => None,
        Some(tokens) => {
            let key = key_of_known(&key, policy, tokens)?;
            Some(file(KNOWN_LOGITS, "logits of the tokens without codes", &key, KNOWN))
        }
    };
    let files = Files { states: file(STATES, "hidden states", &key, states.hidden), known };
    Ok((states, files))
}

/// The kept rows of a pass' pairs, in their order, as bytes.
fn states_of<T: Real>(known: &HiddenStates, policy: &Policy<T>, pass: &[&TokenRow]) -> Result<Vec<u8>> {
    let states = policy.computed(pass, Sides::Both, None)?;
    let prompts = states.prompt.as_ref().map(|p| with_slice::<T, _>(&p.contiguous()?, <[T]>::to_vec)).transpose()?;
    let h = with_slice::<T, _>(&states.h.contiguous()?, <[T]>::to_vec)?;
    let mut out: Vec<T> = Vec::new();
    for (i, (pair, row)) in states.batch.pairs.iter().zip(pass).enumerate() {
        if let Some(prompts) = prompts.as_ref().filter(|_| known.prompts) {
            out.extend_from_slice(&prompts[i * known.hidden..][..known.hidden]);
        }
        let mut sides = [pair.chosen.clone(), pair.rejected.clone()];
        if rejected_first(row) {
            sides.reverse();
        }
        for at in (pair.prompt.end - 1..pair.prompt.end).chain(sides.into_iter().flatten()) {
            out.extend_from_slice(&h[at * known.hidden..][..known.hidden]);
        }
    }
    Ok(bytemuck::cast_slice(&out).to_vec())
}

/// What is known of the head at the kept rows of a pass' pairs, in their order, as bytes; zeros at rows of prompts.
fn known_of<T: Real>(
    states: &HiddenStates,
    policy: &Policy<T>,
    column_of: &[u32],
    pass: &[&TokenRow],
) -> Result<Vec<u8>> {
    let packed = states.packed::<T>(pass, Sides::Both)?;
    let Packed { batch, h, .. } = packed.ok_or_else(|| Error::run("hidden states of a pair are missing"))?;
    let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
    let (others, targets) = policy.decoder.others(&h.index_select(&index, 0)?, &batch.targets, column_of)?;
    let mut out: Vec<T> = Vec::new();
    for (i, row) in pass.iter().enumerate() {
        out.extend(vec![T::zero(); KNOWN * (1 + usize::from(states.prompts))]);
        let mut sides = [i, batch.len() + i];
        if rejected_first(row) {
            sides.reverse();
        }
        for at in sides.into_iter().flat_map(|side| batch.responses[side].clone()) {
            out.extend([others[at], targets[at]]);
        }
    }
    Ok(bytemuck::cast_slice(&out).to_vec())
}

/// BLAKE3 over all that hidden states depend on.
fn key_of_states<T: Real>(known: &HiddenStates, policy: &Policy<T>, rows: &[&TokenRow], about: &str) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 3 hidden states");
    // Whether the head is the embedding makes no difference below it.
    let config = LlamaConfig { tie_word_embeddings: false, ..policy.decoder.config.clone() };
    let prompts = policy.lpc.as_ref().filter(|_| known.prompts);
    let prompts = prompts.map(|lpc| (lpc.config.prompt_layer, lpc.config.prompt_pooling));
    for text in [about, &config.to_json().to_string(), &format!("{:?} {prompts:?}", T::KIND)] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    // Adapters that add nothing yet have random numbers, which no hidden state depends on.
    hash_starting::<T>(&policy.params, policy.adapter.as_ref(), |p| p.name != names::HEAD, &mut hasher)?;
    for row in rows {
        hasher.update(row.id.as_bytes());
        let mut sides = [&row.chosen_ids, &row.rejected_ids];
        if rejected_first(row) {
            sides.reverse();
        }
        for ids in [&row.prompt_ids, sides[0], sides[1]] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

/// BLAKE3 over all that the known logits depend on: the hidden states, the head, and the tokens that are left out.
fn key_of_known<T: Real>(states: &str, policy: &Policy<T>, tokens: &Tokens) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 logits of the tokens without codes");
    hasher.update(states.as_bytes());
    // A head that is the embedding is among the weights that the states depend on.
    hash_weights::<T>(policy.params.iter().filter(|p| p.name == names::HEAD), &mut hasher)?;
    for column in &tokens.column_of {
        hasher.update(&column.to_le_bytes());
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}
