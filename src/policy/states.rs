//! Hidden states of a frozen backbone: computed once, kept by content, read again for every step.
//!
//! Of a pair only the prompt's last row and the responses' rows are kept: what predicts response tokens, and what the
//! inference networks read. A batch of them is packed as one whose prompts have a single token. Where the latent part
//! reads hidden states of the prompts, what represents them stands in front. Where the head is frozen too and codes are
//! biases of some tokens, every response token has with it the log-sum-exp of the logits of all other tokens, and its
//! own logit: scoring a row then takes the columns of those tokens alone, and not the whole vocabulary.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::examine::stoppable;
use super::{Policy, States};
use crate::artifact::{self, Growing};
use crate::batch::{PairBatch, Sides, TokenRow};
use crate::error::{Error, Result};
use crate::model::decoder::Packed;
use crate::model::decoder::shifted::Reach;
use crate::model::save::{self, Entry};
use crate::model::{Group, hash_weights};
use crate::nn::Real;
use crate::nn::columns::ELSEWHERE;
use crate::nn::real::with_slice;
use crate::progress::Progress;

/// Name of the tensor in a file of hidden states.
const NAME: &str = "hidden_states";

/// Where hidden states are kept, and how much of them may be in memory.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// Folder of the files.
    pub folder: &'a Path,
    /// Most bytes to have in memory; more is mapped from the file.
    pub budget: u64,
    /// What else the numbers depend on, for the key (a precision of the products, say).
    pub about: &'a str,
    /// Whether training leaves the head as it is.
    pub head_frozen: bool,
}

/// Hidden states by pair.
#[derive(Debug)]
pub struct HiddenStates {
    bytes: Bytes,
    /// Where the numbers begin.
    start: usize,
    /// First row and token counts of a pair, by id.
    places: HashMap<String, Place>,
    hidden: usize,
    /// Whether a row for the prompt stands before the others of a pair.
    prompts: bool,
    reach: Option<Tokens>,
}

/// Tokens that take biases, where the rest of the head is known.
#[derive(Debug)]
struct Tokens {
    /// Their weights in the head (C,H).
    weights: Tensor,
    /// Place of each token of the vocabulary among them.
    places: Vec<u32>,
}

/// Numbers behind the hidden state in a row where the rest of the head is known.
const KNOWN: usize = 2;

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    Mapped(memmap2::Mmap),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    first: usize,
    chosen: usize,
    rejected: usize,
}

/// Rows that are kept of a pair.
fn kept(row: &TokenRow) -> usize {
    1 + row.chosen_ids.len() + row.rejected_ids.len()
}

/// The pair as it is packed when its hidden states are known: with the prompt's last token alone.
fn compact(row: &TokenRow) -> TokenRow {
    TokenRow {
        id: row.id.clone(),
        prompt_ids: row.prompt_ids.last().copied().into_iter().collect(),
        chosen_ids: row.chosen_ids.clone(),
        rejected_ids: row.rejected_ids.clone(),
        ..TokenRow::default()
    }
}

impl HiddenStates {
    /// Takes the hidden states of these rows from their file, or computes them with the policy's backbone and writes
    /// it. The file's name is a hash of all that they depend on: shape, weights below the head, tokens. `None` where the
    /// user interrupted it; what was computed by then is kept beside the file's place, and gone on with.
    ///
    /// # Errors
    /// [`Error::Io`] where they are more than the budget and cannot be written; those of the backbone.
    pub fn open<T: Real>(
        policy: &Policy<T>,
        rows: &[&TokenRow],
        keeping: Keeping<'_>,
        progress: &dyn Progress,
    ) -> Result<Option<HiddenStates>> {
        let (mut known, entry, path) = HiddenStates::place(policy, rows, keeping)?;
        let found = |path: &PathBuf| -> Result<Option<(Bytes, usize)>> {
            let found = read(path, &entry, keeping.budget)?;
            if found.is_some() {
                progress.note(&format!("hidden states: taken from {}", path.display()));
            }
            Ok(found)
        };
        if let Some((bytes, start)) = found(&path)? {
            return Ok(Some(HiddenStates { bytes, start, ..known }));
        }
        // A folder that knows no locks has one writer, as far as anybody can tell.
        let lock = artifact::wait_for(&Growing::staged(&path), "hidden states", progress);
        if matches!(lock, Ok(None)) {
            return Ok(None);
        }
        if let Some((bytes, start)) = found(&path)? {
            // What was made to wait for, behind the back of the one who finished.
            artifact::remove(&Growing::staged(&path))?;
            return Ok(Some(HiddenStates { bytes, start, ..known }));
        }
        progress.note(&format!("hidden states: {} MiB to {}", entry.bytes() >> 20, path.display()));
        let written = known.write(policy, rows, &entry, &path, progress);
        let small = entry.bytes() <= keeping.budget;
        let (bytes, start) = match written {
            Ok(false) => return Ok(None),
            Ok(true) => read(&path, &entry, keeping.budget)?
                .ok_or_else(|| Error::artifact(&path, "is not what was written to it"))?,
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
                    memory.extend(known.compute(policy, pass)?);
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

    /// The hidden states of these rows where their file is there.
    ///
    /// # Errors
    /// [`Error::Tensor`]; [`Error::Io`] where the file cannot be read.
    pub fn find<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], keeping: Keeping<'_>) -> Result<Option<HiddenStates>> {
        let (known, entry, path) = HiddenStates::place(policy, rows, keeping)?;
        Ok(read(&path, &entry, keeping.budget)?.map(|(bytes, start)| HiddenStates { bytes, start, ..known }))
    }

    /// Where every row's hidden states are in their file, what that holds, and where it is.
    fn place<T: Real>(
        policy: &Policy<T>,
        rows: &[&TokenRow],
        keeping: Keeping<'_>,
    ) -> Result<(HiddenStates, Entry, PathBuf)> {
        let mut known = HiddenStates::plan(policy, keeping.head_frozen)?;
        let total = known.arrange(rows);
        let entry = Entry { name: NAME.into(), kind: T::KIND, shape: vec![total, known.width()] };
        let path = keeping.folder.join(format!("{}.safetensors", known.key(policy, rows, keeping.about)?));
        Ok((known, entry, path))
    }

    /// Computes what is not in the file yet; false where the user interrupted it.
    fn write<T: Real>(
        &self,
        policy: &Policy<T>,
        rows: &[&TokenRow],
        entry: &Entry,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let passes = stoppable(policy, rows);
        let lines = |row: &&TokenRow| kept(row) + usize::from(self.prompts);
        let bytes = (self.width() * T::KIND.size_in_bytes()) as u64;
        let sizes: Vec<u64> = passes.iter().map(|p| p.iter().map(lines).sum::<usize>() as u64 * bytes).collect();
        let mut file = Growing::open(path, &save::head(&[], std::slice::from_ref(entry))?, &sizes)?;
        let there: usize = passes[..file.parts()].iter().map(|p| p.len()).sum();
        if there > 0 {
            progress.note(&format!("hidden states: {there} of {} pairs are kept from before", rows.len()));
        }
        progress.begin("hidden states", Some((rows.len() - there) as u64));
        for pass in &passes[file.parts()..] {
            if progress.interrupted() {
                progress.end();
                return Ok(false);
            }
            let part = self.compute(policy, pass).and_then(|part| file.append(&part));
            if let Err(error) = part {
                progress.end();
                // A full disk stays full while it lies there.
                file.abandon();
                return Err(error);
            }
            progress.advance(pass.len() as u64);
        }
        progress.end();
        file.finish()?;
        Ok(true)
    }

    /// Bytes that the hidden states of these rows take.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn size<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], head_frozen: bool) -> Result<u64> {
        let mut known = HiddenStates::plan(policy, head_frozen)?;
        Ok((known.arrange(rows) * known.width() * T::KIND.size_in_bytes()) as u64)
    }

    /// What is kept for this policy, no rows yet.
    fn plan<T: Real>(policy: &Policy<T>, head_frozen: bool) -> Result<HiddenStates> {
        let lpc = policy.lpc.as_ref();
        // Composed operations score the whole vocabulary.
        let tokens = lpc.and_then(|lpc| lpc.basis.code_tokens.as_ref());
        let tokens = tokens.filter(|_| head_frozen && policy.decoder.place().is_none());
        let reach = match tokens {
            None => None,
            Some(tokens) => {
                let mut places = vec![ELSEWHERE; policy.decoder.config.vocab_size];
                tokens.iter().enumerate().for_each(|(place, &token)| places[token as usize] = place as u32);
                Some(Tokens { weights: policy.decoder.head_rows(tokens)?, places })
            }
        };
        Ok(HiddenStates {
            bytes: Bytes::Memory(Vec::new()),
            start: 0,
            places: HashMap::new(),
            hidden: policy.decoder.config.hidden_size,
            prompts: lpc.is_some_and(|lpc| lpc.config.reads_states()),
            reach,
        })
    }

    /// Gives every pair its place; rows in all.
    fn arrange(&mut self, rows: &[&TokenRow]) -> usize {
        let mut total = 0;
        for row in rows {
            let place = Place { first: total, chosen: row.chosen_ids.len(), rejected: row.rejected_ids.len() };
            self.places.insert(row.id.clone(), place);
            total += kept(row) + usize::from(self.prompts);
        }
        total
    }

    /// Numbers in a row.
    fn width(&self) -> usize {
        self.hidden + if self.reach.is_some() { KNOWN } else { 0 }
    }

    /// A batch of pairs as it is packed when its hidden states are known; `None` where a pair is not among those kept.
    fn of<T: Real>(&self, rows: &[&TokenRow], sides: Sides) -> Result<Option<States>> {
        let all = match &self.bytes {
            Bytes::Memory(bytes) => bytes.as_slice(),
            Bytes::Mapped(map) => map,
        };
        let (width, size) = (self.width(), T::KIND.size_in_bytes());
        let (mut h, mut prompts, mut total) = (Vec::new(), Vec::new(), 0);
        // Of chosen and rejected tokens: log-sum-exp of the others, logit of the target.
        let mut known = [Vec::new(), Vec::new()];
        for row in rows {
            let Some(place) = self.places.get(&row.id) else { return Ok(None) };
            if (place.chosen, place.rejected) != (row.chosen_ids.len(), row.rejected_ids.len()) {
                return Ok(None);
            }
            let rejected = if sides == Sides::Both { place.rejected } else { 0 };
            let n = usize::from(self.prompts) + 1 + place.chosen + rejected;
            let at = self.start + place.first * width * size;
            let part = all.get(at..at + n * width * size);
            let part = part.ok_or_else(|| Error::run("the file of hidden states is too short"))?;
            let mut lines = part.chunks_exact(width * size);
            if self.prompts {
                prompts.extend_from_slice(&lines.next().unwrap_or_default()[..self.hidden * size]);
            }
            for (i, line) in lines.enumerate() {
                let (state, rest) = line.split_at(self.hidden * size);
                h.extend_from_slice(state);
                if i > 0 && self.reach.is_some() {
                    known[usize::from(i > place.chosen)].extend_from_slice(rest);
                }
            }
            total += n - usize::from(self.prompts);
        }
        let tensor = |bytes: &[u8], rows: usize, width: usize| {
            Tensor::from_raw_buffer(bytes, T::KIND, &[rows, width], &Device::Cpu)
        };
        let compact: Vec<TokenRow> = rows.iter().map(|row| compact(row)).collect();
        let batch = PairBatch::pack(&compact, sides)?;
        let reach = match &self.reach {
            None => None,
            Some(tokens) => {
                let known = tensor(&known.concat(), batch.targets.len(), KNOWN)?;
                let column = |i: usize| known.narrow(1, i, 1)?.squeeze(1)?.contiguous();
                Some(Reach {
                    weights: tokens.weights.clone(),
                    others: column(0)?,
                    known: column(1)?,
                    places: batch.targets.iter().map(|&token| tokens.places[token as usize]).collect(),
                })
            }
        };
        let prompt = if self.prompts { Some(tensor(&prompts, rows.len(), self.hidden)?) } else { None };
        Ok(Some(States { batch, h: tensor(&h, total, self.hidden)?, prompt, tokens: None, reach }))
    }

    /// The rows that are kept of a pass' pairs, in their order, as bytes.
    fn compute<T: Real>(&self, policy: &Policy<T>, pass: &[&TokenRow]) -> Result<Vec<u8>> {
        let states = policy.computed(pass, Sides::Both, None)?;
        let batch = &states.batch;
        let known = match &self.reach {
            None => None,
            Some(tokens) => {
                let index = Tensor::from_slice(&batch.predicting, batch.predicting.len(), &Device::Cpu)?;
                let h = states.h.index_select(&index, 0)?;
                Some(policy.decoder.others(&h, &batch.targets, &tokens.places)?)
            }
        };
        let prompts =
            states.prompt.as_ref().map(|p| with_slice::<T, _>(&p.contiguous()?, <[T]>::to_vec)).transpose()?;
        let h = with_slice::<T, _>(&states.h.contiguous()?, <[T]>::to_vec)?;
        let mut out: Vec<T> = Vec::new();
        for (i, pair) in batch.pairs.iter().enumerate() {
            let mut line = |state: &[T], rest: Option<usize>| {
                out.extend_from_slice(state);
                if let Some((lse, logit)) = &known {
                    out.extend(rest.map_or([T::zero(); KNOWN], |at| [lse[at], logit[at]]));
                }
            };
            if let Some(prompts) = prompts.as_ref().filter(|_| self.prompts) {
                line(&prompts[i * self.hidden..][..self.hidden], None);
            }
            let state = |row: usize| &h[row * self.hidden..][..self.hidden];
            line(state(pair.prompt.end - 1), None);
            for (side, rows) in [(i, pair.chosen.clone()), (batch.len() + i, pair.rejected.clone())] {
                let first = batch.responses[side].start;
                rows.enumerate().for_each(|(j, row)| line(state(row), Some(first + j)));
            }
        }
        // SAFETY: plain numbers without padding, read as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(out.as_ptr().cast::<u8>(), std::mem::size_of_val(&out[..])) };
        Ok(bytes.to_vec())
    }

    /// BLAKE3 over all that hidden states depend on.
    fn key<T: Real>(&self, policy: &Policy<T>, rows: &[&TokenRow], about: &str) -> Result<String> {
        let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 hidden states");
        // Whether the head is the embedding makes no difference below it.
        let config = crate::model::LlamaConfig { tie_word_embeddings: false, ..policy.decoder.config.clone() };
        let prompts = policy.lpc.as_ref().filter(|_| self.prompts);
        let prompts = prompts.map(|lpc| (lpc.config.prompt_layer, lpc.config.prompt_pooling));
        for text in [about, &config.to_json().to_string(), &format!("{:?} {prompts:?}", T::KIND)] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let head = |p: &&crate::model::Param| p.name != crate::model::decoder::names::HEAD;
        match &self.reach {
            None => {
                hash_weights::<T>(policy.params.iter().filter(head).filter(|p| p.group != Group::Latent), &mut hasher)?
            }
            // What is known of the head depends on its weights and on the tokens that are left out.
            Some(tokens) => {
                hash_weights::<T>(policy.params.iter().filter(|p| p.group != Group::Latent), &mut hasher)?;
                tokens.places.iter().for_each(|place| {
                    hasher.update(&place.to_le_bytes());
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

    /// Bytes in memory.
    pub fn memory(&self) -> usize {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes.len(),
            Bytes::Mapped(_) => 0,
        }
    }
}

impl<T: Real> Policy<T> {
    /// A batch and its hidden states, without z: those that are kept, else the backbone's.
    ///
    /// # Errors
    /// Those of packing, and as [`crate::model::Decoder::hidden`].
    pub fn states(
        &self,
        rows: &[&TokenRow],
        sides: Sides,
        gradients: Option<&std::sync::Arc<crate::model::Gradients>>,
    ) -> Result<States> {
        let tokens = self.lpc.as_ref().and_then(|lpc| lpc.tokens(rows.iter().map(|row| row.prompt_ids.as_slice())));
        if let Some(states) = &self.states
            && let Some(kept) = states.of::<T>(rows, sides)?
        {
            return Ok(States { tokens, ..kept });
        }
        Ok(States { tokens, ..self.computed(rows, sides, gradients)? })
    }

    /// A batch and its hidden states from the backbone.
    fn computed(
        &self,
        rows: &[&TokenRow],
        sides: Sides,
        gradients: Option<&std::sync::Arc<crate::model::Gradients>>,
    ) -> Result<States> {
        let batch = PairBatch::pack(rows.iter().copied(), sides)?;
        let packed = Packed { ids: &batch.ids, positions: &batch.positions, segments: &batch.segments };
        let (h, beside) = self.decoder.hidden_at(packed, self.layer_beside(), gradients)?;
        let prompt = self.pooled_prompts(&h, beside.as_ref(), &batch)?;
        Ok(States { batch, h, prompt, tokens: None, reach: None })
    }
}

/// A file of hidden states and where its numbers begin; `None` where there is none, or not of this shape.
fn read(path: &PathBuf, entry: &Entry, budget: u64) -> Result<Option<(Bytes, usize)>> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(None) };
    // SAFETY: files of this folder are only ever replaced whole; offsets are checked against the length.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    let Ok(parsed) = safetensors::SafeTensors::deserialize(&map) else { return Ok(None) };
    let Ok(found) = parsed.tensor(NAME) else { return Ok(None) };
    if found.shape() != entry.shape || found.data().len() as u64 != entry.bytes() {
        return Ok(None);
    }
    let start = map.len() - found.data().len();
    if entry.bytes() <= budget {
        return Ok(Some((Bytes::Memory(found.data().to_vec()), 0)));
    }
    Ok(Some((Bytes::Mapped(map), start)))
}
