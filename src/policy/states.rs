//! Hidden states of a frozen backbone: computed once, kept by content, read again for every step.
//!
//! Of a pair only the prompt's last row and the responses' rows are kept: what predicts response tokens, and what the
//! inference networks read. A batch of them is packed as one whose prompts have a single token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::Policy;
use super::examine::passes;
use crate::batch::{PairBatch, Sides, TokenRow};
use crate::error::{Error, Result};
use crate::model::save::{self, Entry};
use crate::model::{Group, hash_weights};
use crate::nn::Real;
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
}

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
    /// it. The file's name is a hash of all that they depend on: shape, weights below the head, tokens.
    ///
    /// # Errors
    /// [`Error::Io`] where they are more than the budget and cannot be written; those of the backbone.
    pub fn open<T: Real>(
        policy: &Policy<T>,
        rows: &[&TokenRow],
        keeping: Keeping<'_>,
        progress: &dyn Progress,
    ) -> Result<HiddenStates> {
        let hidden = policy.decoder.config.hidden_size;
        let (mut places, mut total) = (HashMap::new(), 0);
        for row in rows {
            let place = Place { first: total, chosen: row.chosen_ids.len(), rejected: row.rejected_ids.len() };
            places.insert(row.id.clone(), place);
            total += kept(row);
        }
        let entry = Entry { name: NAME.into(), kind: T::KIND, shape: vec![total, hidden] };
        let path = keeping.folder.join(format!("{}.safetensors", key(policy, rows, keeping.about)?));
        if let Some((bytes, start)) = read(&path, &entry, keeping.budget)? {
            progress.note(&format!("hidden states: taken from {}", path.display()));
            return Ok(HiddenStates { bytes, start, places, hidden });
        }
        progress.note(&format!("hidden states: {} MiB to {}", entry.bytes() >> 20, path.display()));
        progress.begin("hidden states", Some(rows.len() as u64));
        let mut memory = Vec::new();
        let small = entry.bytes() <= keeping.budget;
        let written = save::stream(&path, &[], std::slice::from_ref(&entry), |_, w| {
            compute(policy, rows, progress, &mut |part| {
                if small {
                    memory.extend_from_slice(part);
                }
                w.write_all(part).map_err(Error::io(&path))
            })
        });
        let bytes = match written {
            Ok(()) if small => Ok((Bytes::Memory(memory), 0)),
            Ok(()) => read(&path, &entry, keeping.budget)?
                .ok_or_else(|| Error::artifact(&path, "is not what was written to it")),
            // What fits into memory needs no file.
            Err(error @ Error::Io { .. }) if small => {
                progress.warn(&format!("hidden states are kept in memory alone: {error}"));
                memory.clear();
                compute(policy, rows, &crate::progress::Silent, &mut |part| {
                    memory.extend_from_slice(part);
                    Ok(())
                })?;
                Ok((Bytes::Memory(memory), 0))
            }
            Err(error) => Err(error),
        };
        progress.end();
        let (bytes, start) = bytes?;
        Ok(HiddenStates { bytes, start, places, hidden })
    }

    /// Hidden states of a batch, packed as [`compact`] pairs; `None` where a pair is not among those kept.
    fn rows<T: Real>(&self, rows: &[&TokenRow], sides: Sides) -> Result<Option<Tensor>> {
        let all = match &self.bytes {
            Bytes::Memory(bytes) => bytes.as_slice(),
            Bytes::Mapped(map) => map,
        };
        let width = self.hidden * T::KIND.size_in_bytes();
        let (mut bytes, mut total) = (Vec::new(), 0);
        for row in rows {
            let Some(place) = self.places.get(&row.id) else { return Ok(None) };
            if (place.chosen, place.rejected) != (row.chosen_ids.len(), row.rejected_ids.len()) {
                return Ok(None);
            }
            let n = 1 + place.chosen + if sides == Sides::Both { place.rejected } else { 0 };
            let at = self.start + place.first * width;
            let part = all.get(at..at + n * width);
            bytes.extend_from_slice(part.ok_or_else(|| Error::run("the file of hidden states is too short"))?);
            total += n;
        }
        Ok(Some(Tensor::from_raw_buffer(&bytes, T::KIND, &[total, self.hidden], &Device::Cpu)?))
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
    ) -> Result<(PairBatch, Tensor)> {
        if let Some(states) = &self.states
            && let Some(h) = states.rows::<T>(rows, sides)?
        {
            let compact: Vec<TokenRow> = rows.iter().map(|row| compact(row)).collect();
            return Ok((PairBatch::pack(&compact, sides)?, h));
        }
        let batch = PairBatch::pack(rows.iter().copied(), sides)?;
        let h = self.hidden(&batch, gradients)?;
        Ok((batch, h))
    }
}

/// Computes the rows that are kept, in the order of the pairs.
fn compute<T: Real>(
    policy: &Policy<T>,
    rows: &[&TokenRow],
    progress: &dyn Progress,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let hidden = policy.decoder.config.hidden_size;
    for pass in passes(rows) {
        if progress.interrupted() {
            return Err(Error::run("interrupted; the hidden states that were computed are not kept"));
        }
        let batch = PairBatch::pack(pass.iter().copied(), Sides::Both)?;
        let h = policy.hidden(&batch, None)?;
        with_slice::<T, _>(&h, |h| -> Result<()> {
            // SAFETY: plain numbers without padding, read as bytes.
            let bytes = unsafe { std::slice::from_raw_parts(h.as_ptr().cast::<u8>(), std::mem::size_of_val(h)) };
            let width = hidden * size_of::<T>();
            for pair in &batch.pairs {
                for range in [pair.prompt.end - 1..pair.prompt.end, pair.chosen.clone(), pair.rejected.clone()] {
                    sink(&bytes[range.start * width..range.end * width])?;
                }
            }
            Ok(())
        })??;
        progress.advance(pass.len() as u64);
    }
    Ok(())
}

/// BLAKE3 over all that hidden states depend on.
fn key<T: Real>(policy: &Policy<T>, rows: &[&TokenRow], about: &str) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 hidden states");
    // Whether the head is the embedding makes no difference below it.
    let config = crate::model::LlamaConfig { tie_word_embeddings: false, ..policy.decoder.config.clone() };
    for text in [about, &config.to_json().to_string(), &format!("{:?}", T::KIND)] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let below = policy.params.iter().filter(|p| p.name != crate::model::decoder::names::HEAD);
    hash_weights::<T>(below.filter(|p| p.group != Group::Latent), &mut hasher)?;
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
