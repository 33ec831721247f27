//! A checkpoint's tensors: listed first, checked against what the model wants, then converted one at a time.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::names::{self, shapes};
use crate::model::{LlamaConfig, Param};
use crate::nn::Real;
use crate::nn::real::with_slice;

/// Faults that one error names.
const SHOWN: usize = 8;

/// Numbers that one task converts.
pub(super) const PER_TASK: usize = 1 << 16;

/// A checkpoint's tensors, under the names of Hugging Face.
pub(super) trait Checkpoint {
    /// Names and shapes of all tensors.
    fn tensors(&self) -> BTreeMap<String, Vec<usize>>;

    /// The numbers of one of them.
    fn read<T: Real>(&self, name: &str) -> Result<Vec<T>>;
}

/// Turns a checkpoint's tensors into parameters: every expected one, and no others.
///
/// # Errors
/// [`Error::Model`] listing what is missing, unexpected, or of another shape, before anything is converted.
pub(super) fn assemble<T: Real>(
    config: &LlamaConfig,
    checkpoint: &impl Checkpoint,
    origin: &str,
) -> Result<Vec<Param>> {
    let mut found = checkpoint.tensors();
    let wanted = shapes(config);
    if let Some(error) = wrapped(&wanted, &found, origin) {
        return Err(error);
    }
    // Of two tied matrices some programs store the head alone.
    let under_head = config.tie_word_embeddings && !found.contains_key(names::EMBEDDING);
    if under_head && let Some(head) = found.remove(names::HEAD) {
        found.insert(names::EMBEDDING.into(), head);
    }
    let mut faults = Vec::new();
    for (name, shape) in &wanted {
        match found.remove(name) {
            None => faults.push(format!("missing tensor {name}")),
            Some(dims) if dims != *shape => {
                faults.push(format!("tensor {name}: expected shape {shape:?}, got {dims:?}"));
            }
            Some(_) => (),
        }
    }
    // Rotary tables that old checkpoints carry follow from the configuration.
    found.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    let copy_of_head = config.tie_word_embeddings && found.remove(names::HEAD).is_some();
    faults.extend(found.into_keys().map(|name| format!("unexpected tensor {name}")));
    if !faults.is_empty() {
        return Err(refusal(faults, config, origin));
    }
    let params = wanted
        .into_iter()
        .map(|(name, shape)| {
            let stored = if under_head && name == names::EMBEDDING { names::HEAD } else { &name };
            let values = checkpoint.read::<T>(stored)?;
            finite(origin, stored, &values)?;
            Param::backbone(name, values, shape)
        })
        .collect::<Result<Vec<Param>>>()?;
    if copy_of_head {
        same_head::<T>(&params, checkpoint, origin)?;
    }
    Ok(params)
}

fn refusal(mut faults: Vec<String>, config: &LlamaConfig, origin: &str) -> Error {
    let headless = !config.tie_word_embeddings && faults.iter().any(|f| f.ends_with(names::HEAD));
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    let error = Error::model(origin, faults.join("; ") + &tail);
    if headless {
        return error.with_hint("where the head is the embedding, config.json says \"tie_word_embeddings\": true");
    }
    error
}

/// A wrapper around a model adds a part of its own to the tensors' names: the part, the wrapper, and how Python reaches
/// the model inside.
const WRAPPERS: [(&str, &str, &str); 3] = [
    ("_orig_mod", "torch.compile", "model._orig_mod"),
    ("module", "DistributedDataParallel", "model.module"),
    (
        "_fsdp_wrapped_module",
        "FullyShardedDataParallel",
        "the state dict that FSDP gathers; for one process: model.module",
    ),
];

/// The refusal of a checkpoint that was saved from such a wrapper.
fn wrapped(wanted: &[(String, Vec<usize>)], found: &BTreeMap<String, Vec<usize>>, origin: &str) -> Option<Error> {
    let own = |part: &&str| WRAPPERS.iter().all(|(wrapper, ..)| wrapper != part);
    let (name, bare) = found.keys().find_map(|name| {
        let bare = name.split('.').filter(own).collect::<Vec<_>>().join(".");
        (bare != *name && wanted.iter().any(|(wanted, _)| *wanted == bare)).then_some((name, bare))
    })?;
    let there: Vec<_> = WRAPPERS.iter().filter(|(part, ..)| name.split('.').any(|p| p == *part)).collect();
    let parts: Vec<String> = there.iter().map(|(part, by, _)| format!("`{part}.` of {by}")).collect();
    let inside = there.first().map_or("model", |(.., inside)| inside);
    let message = format!("tensor names carry {}: {name} is {bare} in a model saved by itself", parts.join(" and "));
    let file = Path::new(origin).join("model.safetensors");
    let mut hint = format!("save the model inside: {inside}.save_pretrained(DIR)");
    if file.is_file() {
        let strip: String = there.iter().map(|(part, ..)| format!(".replace('{part}.', '')")).collect();
        hint += &format!(
            "; or rename the tensors in the file:\n  python -c \"from safetensors.torch import load_file, save_file; \
             f = '{}'; save_file({{k{strip}: v for k, v in load_file(f).items()}}, f, {{'format': 'pt'}})\"",
            file.display()
        );
    }
    Some(Error::model(origin, message).with_hint(hint))
}

/// Refuses NaN and infinity before anything is computed with them: one parallel pass over what was just read.
///
/// # Errors
/// [`Error::Model`] naming the tensor.
fn finite<T: Real>(origin: &str, name: &str, values: &[T]) -> Result<()> {
    let count = |part: &[T]| part.iter().filter(|x| !x.is_finite()).count();
    let faulty: usize = values.par_chunks(PER_TASK).map(count).sum();
    if faulty == 0 {
        return Ok(());
    }
    let bits = 8 * size_of::<T>();
    let what = format!("not finite: NaN, infinite, or too large for {bits} bits");
    Err(Error::model(origin, format!("tensor {name}: {faulty} of {} numbers are {what}", values.len()))
        .with_hint("its file is damaged, or its training diverged: fetch it again, or take an earlier checkpoint"))
}

/// Refuses a tensor in memory that holds NaN or infinity.
///
/// # Errors
/// [`Error::Model`] naming the tensor.
pub fn finite_tensor(origin: &str, name: &str, tensor: &Tensor) -> Result<()> {
    let wide = tensor.to_dtype(DType::F32)?.flatten_all()?;
    with_slice::<f32, _>(&wide.contiguous()?, |values| finite(origin, name, values))?
}

/// Some checkpoints store the tied head a second time. Refuses one that differs from the embedding: that is another
/// model than config.json says.
fn same_head<T: Real>(params: &[Param], checkpoint: &impl Checkpoint, origin: &str) -> Result<()> {
    let head = checkpoint.read::<T>(names::HEAD)?;
    let embedding = params.iter().find(|p| p.name == names::EMBEDDING);
    let same = match embedding {
        Some(p) => with_slice::<T, _>(p.var.as_tensor(), |e| e == head.as_slice())?,
        None => false,
    };
    if same {
        return Ok(());
    }
    Err(Error::model(origin, format!("{} differs from the embedding, but the configuration ties them", names::HEAD))
        .with_hint(
            "set \"tie_word_embeddings\": false in config.json to use both, or remove the one that is not meant",
        ))
}

#[cfg(test)]
mod tests;
