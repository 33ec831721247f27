//! Reference log-probabilities: computed once by the starting model, kept beside the data, found again by content.
//!
//! A file is named after what its values depend on (see [`Origin`]), and carries that and a hash of its
//! values, so that it is only ever used by those who would compute the same numbers, and a changed one by
//! nobody. Processes and sweep cells that want the same values wait for the first of them. Values of some rows, where a
//! run needs no more or was stopped, are in a file of their own until all are there.

use std::path::Path;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::peers::Peers;
use crate::artifact;
use crate::batch::{Split, TokenRow};
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::policy::Policy;
use crate::progress::Progress;
use crate::schema::col;

mod book;

pub use book::{Book, Found, WHAT, Wanted, all, companions};

/// Columns as TRL reads them.
pub const REF_CHOSEN: &str = "ref_chosen_logps";
/// See [`REF_CHOSEN`].
pub const REF_REJECTED: &str = "ref_rejected_logps";
/// Key of the metadata of a file with these columns.
const MARK: &str = "lpc_pipe.reference";

/// Reference log-probabilities (chosen, rejected) of every row of every split, in nats, summed.
pub type Reference = Vec<Vec<(f64, f64)>>;

/// What reference log-probabilities depend on, each by its content. The tokenizer and every option of
/// `prepare` are in the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// [`fingerprint`] of the model.
    pub model: String,
    /// [`fingerprint_of_tokens`] of all splits.
    pub tokens: String,
    /// Whatever else changes the values: the precision in which they are computed.
    pub options: String,
}

impl Origin {
    /// The origin of a policy's values on these splits.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn of<T: Real>(policy: &Policy<T>, splits: &[Split]) -> Result<Origin> {
        Ok(Origin::known(policy, fingerprint(policy)?, splits))
    }

    /// The same where the model's [`fingerprint`] is known.
    pub fn known<T: Real>(policy: &Policy<T>, model: String, splits: &[Split]) -> Origin {
        Origin { model, tokens: fingerprint_of_tokens(splits), options: options(policy) }
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

/// How a policy computes, as far as its values depend on it: the one place to name it.
pub fn options<T: Real>(policy: &Policy<T>) -> String {
    match policy.decoder.place() {
        Some(place) => place.to_string(),
        None => format!("{:?} {:?}", T::KIND, policy.decoder.precision.effective()),
    }
}

/// What a file says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    origin: Origin,
    rows: usize,
    /// BLAKE3 of ids and values.
    content: String,
}

impl Mark {
    fn of(origin: &Origin, ids: &[&str], values: &[(f64, f64)]) -> Mark {
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

/// The reference of all rows of these splits, from a cache folder or computed with the policy as it stands; `None` where
/// the user interrupted it.
///
/// # Errors
/// As [`Book::compute`].
pub fn reference<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    origin: &Origin,
    cache: &Path,
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<Option<Reference>> {
    let (mut book, wanted) = (Book::open(splits, origin.clone(), cache), all(splits));
    let there = match book.look(&wanted, peers, progress)? {
        Found::All => true,
        Found::Interrupted => false,
        Found::Less => book.compute(policy, &wanted, WHAT, peers, progress)?,
    };
    Ok(there.then(|| book.into_values()))
}

/// The reference of all rows, computed and kept nowhere; `None` where the user interrupted it.
///
/// # Errors
/// As [`Book::compute`].
pub fn compute<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    origin: &Origin,
    progress: &dyn Progress,
) -> Result<Option<Reference>> {
    let mut book = Book::open(splits, origin.clone(), Path::new(""));
    let whole = book.compute(policy, &all(splits), WHAT, &super::peers::ALONE, progress)?;
    Ok(whole.then(|| book.into_values()))
}

fn is_finite((chosen, rejected): &(f64, f64)) -> bool {
    chosen.is_finite() && rejected.is_finite()
}

/// BLAKE3 over a model's shape and weights, the latent part left out, lower-case hex: the content of a model, whatever
/// its place is called and however it is cut into files.
///
/// # Errors
/// [`Error::Tensor`].
pub fn fingerprint<T: Real>(policy: &Policy<T>) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 3 model");
    hasher.update(crate::manifest::hash_json(&serde_json::to_value(&policy.decoder.config)?)?.as_bytes());
    crate::weights::fingerprint::hash_weights::<T>(policy.params.starting(), &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
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
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn ids(splits: &[Split]) -> Vec<&str> {
    splits.iter().flat_map(|s| &s.rows).map(|r| r.id.as_str()).collect()
}

/// What marks a Parquet file with these values, in the order of the splits' rows, as theirs: for its metadata.
///
/// # Errors
/// [`Error::Json`].
pub fn mark(origin: &Origin, splits: &[Split], found: &Reference) -> Result<(String, String)> {
    let values: Vec<(f64, f64)> = found.iter().flatten().copied().collect();
    Ok((MARK.to_string(), serde_json::to_string(&Mark::of(origin, &ids(splits), &values))?))
}

/// Writes the values that are known.
fn write(path: &Path, splits: &[Split], origin: &Origin, found: &Reference) -> Result<()> {
    let known = ids(splits).into_iter().zip(found.iter().flatten().copied()).filter(|(_, value)| is_finite(value));
    let (ids, values): (Vec<&str>, Vec<(f64, f64)>) = known.unzip();
    let columns = vec![
        Column::new(col::ID.into(), &ids),
        Column::new(REF_CHOSEN.into(), values.iter().map(|v| v.0).collect::<Vec<f64>>()),
        Column::new(REF_REJECTED.into(), values.iter().map(|v| v.1).collect::<Vec<f64>>()),
    ];
    let mut frame = DataFrame::new(ids.len(), columns)?;
    let mark = serde_json::to_string(&Mark::of(origin, &ids, &values))?;
    artifact::write_parquet_marked(path, &mut frame, &[(MARK.to_string(), mark)])
}

/// The values of a file of all rows: one that `score` wrote.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged or changed, or of another model, other data or options.
pub fn read(path: &Path, splits: &[Split], origin: &Origin) -> Result<Reference> {
    let found = read_some(path, splits, origin)?;
    if found.iter().flatten().all(is_finite) {
        return Ok(found);
    }
    Err(Error::artifact(path, "rows are missing"))
}

/// The values of a file of some or all rows, in their order; NaN for rows that are not in it.
///
/// # Errors
/// As [`read`].
fn read_some(path: &Path, splits: &[Split], origin: &Origin) -> Result<Reference> {
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
    let values: Vec<(f64, f64)> = numbers(REF_CHOSEN)?.into_iter().zip(numbers(REF_REJECTED)?).collect();
    if Mark::of(origin, &found, &values) != told {
        return Err(bad("content changed since it was written"));
    }
    if !values.iter().all(is_finite) {
        return Err(bad("a value is not finite"));
    }
    let mut rest = found.iter().zip(values).peekable();
    let mut take = |row: &TokenRow| match rest.next_if(|(id, _)| **id == row.id) {
        Some((_, value)) => value,
        None => (f64::NAN, f64::NAN),
    };
    let out = splits.iter().map(|split| split.rows.iter().map(&mut take).collect()).collect();
    if rest.next().is_some() {
        return Err(bad("rows are missing, or in another order"));
    }
    Ok(out)
}

/// A reference of zeros, for objectives that have none.
pub fn none(splits: &[Split]) -> Reference {
    splits.iter().map(|s| vec![(0.0, 0.0); s.rows.len()]).collect()
}
