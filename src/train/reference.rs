//! Reference log-probabilities: computed once by the starting model or another one, and cached beside the data.
//!
//! The name of a cache file is a hash of what its values depend on (see [`ReferenceOrigin`]). The file holds these, and
//! a hash of its values: it is read only where the same values would be computed, and not where it was changed.
//! Processes and sweep cells that want the same values wait for the first of them. Where a run needs the values of some
//! rows, or was stopped, these are in a separate file until all are computed.

use std::path::Path;

use candle_core::Tensor;
use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::ranks::ALONE;
use crate::artifact;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::model::{LlamaConfig, Lora, Params, names};
use crate::nn::Real;
use crate::nn::real::in_memory;
use crate::policy::Policy;
use crate::progress::Progress;
use crate::schema::{col, posterior};
use crate::token_file::{self, TokenRow};
use crate::weights::fingerprint::hash_starting;

mod needs;
mod other;
pub mod store;

pub use needs::ReferenceNeeds;
pub use other::OtherReference;
pub use store::{ReferenceStore, WantedRows};
use store::{WHAT, all};

/// Key of the metadata of a file with reference log-probabilities.
const MARK: &str = "lpc_pipe.reference";

/// Reference log-probabilities (chosen, rejected) of every row of every split, in nats, summed.
pub type Reference = Vec<Vec<(f64, f64)>>;

/// What reference log-probabilities depend on. The tokenizer and the options of `prepare` change the tokens, and are
/// not named beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceOrigin {
    /// [`fingerprint`] of the model.
    pub model: String,
    /// [`fingerprint_of_tokens`] of all splits.
    pub tokens: String,
    /// [`options`] of the policy.
    pub options: String,
}

impl ReferenceOrigin {
    /// The origin of a policy's values on these splits.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn of<T: Real>(policy: &Policy<T>, splits: &[Split]) -> Result<ReferenceOrigin> {
        Ok(ReferenceOrigin::known(policy, fingerprint(policy)?, splits))
    }

    /// The same where the model's [`fingerprint`] is known.
    pub fn known<T: Real>(policy: &Policy<T>, model: String, splits: &[Split]) -> ReferenceOrigin {
        ReferenceOrigin { model, tokens: fingerprint_of_tokens(splits), options: options(policy) }
    }

    /// Name of the file: 32 hex digits.
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 reference cache");
        for part in [&self.model, &self.tokens, &self.options] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

/// How a policy computes, as far as its values depend on it: device and number types.
pub fn options<T: Real>(policy: &Policy<T>) -> String {
    match policy.decoder.place() {
        Some(place) => place.to_string(),
        None => format!("{:?} {:?}", T::KIND, policy.decoder.precision.effective()),
    }
}

/// Metadata of a file of reference log-probabilities.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    origin: ReferenceOrigin,
    rows: usize,
    /// BLAKE3 of ids and values.
    content: String,
}

impl Mark {
    fn of(origin: &ReferenceOrigin, ids: &[&str], values: &[(f64, f64)]) -> Mark {
        let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 reference values");
        for (id, (chosen, rejected)) in ids.iter().zip(values) {
            hasher.update(&(id.len() as u64).to_le_bytes());
            hasher.update(id.as_bytes());
            hasher.update(&chosen.to_bits().to_le_bytes());
            hasher.update(&rejected.to_bits().to_le_bytes());
        }
        Mark { origin: origin.clone(), rows: ids.len(), content: hasher.finalize().to_hex().to_string() }
    }
}

/// The reference of all rows, computed and not cached; `None` where the user interrupted it.
///
/// # Errors
/// As [`ReferenceStore::provide`].
pub fn compute<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    origin: &ReferenceOrigin,
    progress: &dyn Progress,
) -> Result<Option<Reference>> {
    let mut store = ReferenceStore::open(splits, origin.clone(), Path::new(""));
    let whole = store.compute(policy, &all(splits), WHAT, &ALONE, progress)?;
    Ok(whole.then(|| store.into_values()))
}

fn is_finite((chosen, rejected): &(f64, f64)) -> bool {
    chosen.is_finite() && rejected.is_finite()
}

/// BLAKE3 over a model's shape, its weights without its latent part, and the scale of an adapter that adds something
/// already, lower-case hex. It does not depend on where the model lies, on how it is cut into files, or on whether a head that is the embedding is a copy of it.
///
/// # Errors
/// [`Error::Tensor`].
pub fn fingerprint<T: Real>(policy: &Policy<T>) -> Result<String> {
    fingerprint_of::<T>(&policy.decoder.config, &policy.params, policy.adapter.as_ref())
}

/// [`fingerprint`] of a model that is no policy yet, with the adapter that is among its parameters if any.
///
/// # Errors
/// [`Error::Tensor`].
pub fn fingerprint_of<T: Real>(config: &LlamaConfig, params: &Params, adapter: Option<&Lora>) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 3 model");
    let named = |name: &str| params.iter().find(|p| p.name == name).map(|p| p.var.as_tensor());
    let copied = match (named(names::HEAD), named(names::EMBEDDING)) {
        (Some(head), Some(embedding)) => equal::<T>(head, embedding)?,
        _ => false,
    };
    let tie_word_embeddings = copied || config.tie_word_embeddings;
    let config = LlamaConfig { tie_word_embeddings, ..config.clone() };
    hasher.update(crate::manifest::hash_json(&serde_json::to_value(&config)?)?.as_bytes());
    hash_starting::<T>(params, adapter, |p| !(copied && p.name == names::HEAD), &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether two tensors hold the same numbers.
fn equal<T: Real>(a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.dims() != b.dims() {
        return Ok(false);
    }
    in_memory::<T, _>(a, |a| in_memory::<T, _>(b, |b| a == b))?
}

/// Refuses a policy whose weights do not have this [`fingerprint`]: the model has changed since training began.
///
/// # Errors
/// [`Error::Model`] where it has; [`Error::Tensor`].
pub fn unchanged<T: Real>(policy: &Policy<T>, weights: &str, model: &str) -> Result<()> {
    if fingerprint(policy)? == weights {
        return Ok(());
    }
    Err(Error::model(model, "its weights have changed since training began")
        .with_hint("the reference of the remaining pairs needs the model that training started from"))
}

/// BLAKE3 over ids and tokens of all rows, lower-case hex.
pub fn fingerprint_of_tokens(splits: &[Split]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 tokens");
    for row in splits.iter().flat_map(|s| &s.rows) {
        hasher.update(row.id.as_bytes());
        for ids in [&row.prompt_ids, &row.chosen_ids, &row.rejected_ids] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
            token_file::visited(ids.len());
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn ids(splits: &[Split]) -> Vec<&str> {
    splits.iter().flat_map(|s| &s.rows).map(|r| r.id.as_str()).collect()
}

/// Key and text of the metadata of a Parquet file that has these values as columns, in the order of the splits' rows.
///
/// # Errors
/// [`Error::Json`].
pub fn mark(origin: &ReferenceOrigin, splits: &[Split], found: &Reference) -> Result<(String, String)> {
    let values: Vec<(f64, f64)> = found.iter().flatten().copied().collect();
    Ok((MARK.to_string(), serde_json::to_string(&Mark::of(origin, &ids(splits), &values))?))
}

/// Writes the values that are known.
fn write(path: &Path, splits: &[Split], origin: &ReferenceOrigin, found: &Reference) -> Result<()> {
    let known = ids(splits).into_iter().zip(found.iter().flatten().copied()).filter(|(_, value)| is_finite(value));
    let (ids, values): (Vec<&str>, Vec<(f64, f64)>) = known.unzip();
    let columns = vec![
        Column::new(col::ID.into(), &ids),
        Column::new(posterior::REF_CHOSEN.into(), values.iter().map(|v| v.0).collect::<Vec<f64>>()),
        Column::new(posterior::REF_REJECTED.into(), values.iter().map(|v| v.1).collect::<Vec<f64>>()),
    ];
    let mut frame = DataFrame::new(ids.len(), columns)?;
    let mark = serde_json::to_string(&Mark::of(origin, &ids, &values))?;
    artifact::write_parquet_marked(path, &mut frame, &[(MARK.to_string(), mark)])
}

/// The values of a file that has all rows, as `score` writes it.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged or changed, or of another model, other data or options.
pub fn read(path: &Path, splits: &[Split], origin: &ReferenceOrigin) -> Result<Reference> {
    let found = read_some(path, splits, origin)?;
    if found.iter().flatten().all(is_finite) {
        return Ok(found);
    }
    Err(Error::artifact(path, "rows are missing"))
}

/// The values of a file that may lack rows, in the order of the splits' rows; NaN for those that it lacks.
///
/// # Errors
/// As [`read`].
fn read_some(path: &Path, splits: &[Split], origin: &ReferenceOrigin) -> Result<Reference> {
    let bad = |what: &str| Error::artifact(path, what);
    let text = artifact::read_mark(path, MARK)?;
    let text = text.ok_or_else(|| bad("holds no reference log-probabilities of ours"))?;
    let told: Mark = serde_json::from_str(&text).map_err(|e| bad(&format!("damaged metadata: {e}")))?;
    for (what, found, wanted) in [
        ("model", &told.origin.model, &origin.model),
        ("prepared data", &told.origin.tokens, &origin.tokens),
        ("options", &told.origin.options, &origin.options),
    ] {
        if found != wanted {
            return Err(bad(&format!("reference log-probabilities of another {what}: {found}, not {wanted}")));
        }
    }
    let frame = artifact::read_parquet(path)?;
    let column = |name: &str| frame.column(name).map_err(|_| bad(&format!("no column `{name}`")));
    let numbers = |name: &str| -> Result<Vec<f64>> {
        let values: Option<Vec<f64>> = column(name)?.f64()?.iter().collect();
        values.ok_or_else(|| bad(&format!("column `{name}`: a value is missing")))
    };
    let found: Option<Vec<&str>> = column(col::ID)?.str()?.iter().collect();
    let found = found.ok_or_else(|| bad("column `id`: a value is missing"))?;
    let values: Vec<(f64, f64)> =
        numbers(posterior::REF_CHOSEN)?.into_iter().zip(numbers(posterior::REF_REJECTED)?).collect();
    if Mark::of(origin, &found, &values) != told {
        return Err(bad("content changed since it was written"));
    }
    if !values.iter().all(is_finite) {
        return Err(bad("a value is not finite"));
    }
    let mut rest = found.iter().zip(values).peekable();
    let mut take = |row: &TokenRow| match rest.next_if(|(id, _)| row.id == **id) {
        Some((_, value)) => value,
        None => (f64::NAN, f64::NAN),
    };
    let out = splits.iter().map(|split| split.rows.iter().map(&mut take).collect()).collect();
    if rest.next().is_some() {
        return Err(bad("rows are missing, or in another order"));
    }
    Ok(out)
}

/// A reference of zeros, for objectives that need none.
pub fn none(splits: &[Split]) -> Reference {
    splits.iter().map(|s| vec![(0.0, 0.0); s.rows.len()]).collect()
}
