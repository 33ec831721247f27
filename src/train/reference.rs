//! Reference log-probabilities: computed once by the starting model, kept beside the data, found again by content.
//!
//! A file is named after what its values depend on (see [`Origin`]), and carries that and a hash of its
//! values, so that it is only ever used by those who would compute the same numbers, and a changed one by
//! nobody. Processes and sweep cells that want the same values wait for the first of them.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::peers::Peers;
use super::shares;
use crate::artifact;
use crate::batch::Split;
use crate::error::{Error, Result};
use crate::nn::Real;
use crate::policy::Policy;
use crate::policy::examine::passes;
use crate::progress::Progress;
use crate::schema::col;

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

/// Takes the reference of these splits from a cache folder, or computes it with the policy as it stands and stores
/// it there. `None` where the user interrupted it. A folder that cannot be written is passed over. Several ranks compute
/// it in shares; the first one reads and writes the cache.
///
/// # Errors
/// [`Error::Tensor`], and those of packing; [`Error::Run`] where a value is not finite.
pub fn reference<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    origin: &Origin,
    cache: &Path,
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<Option<Reference>> {
    let path = cache.join(format!("{}.parquet", origin.key()));
    // Whoever comes second waits and then reads; the lock is held until the values are there.
    let mut held = None;
    let found = peers.from_first(|| {
        if let Some(found) = cached(&path, splits, origin, progress) {
            return Ok(Some(found));
        }
        let lock = lock(cache, &origin.key(), progress);
        let waited = matches!(lock, Ok(Some(_)));
        held = Some(lock);
        // What was unsound before the wait has been told of.
        let found = if waited { cached(&path, splits, origin, &crate::progress::Silent) } else { None };
        if found.is_some() {
            progress.note("reference log-probabilities: taken from the cache");
        }
        Ok(found)
    })?;
    if found.is_some() {
        return Ok(found);
    }
    if peers.any(progress.interrupted())? {
        return Ok(None);
    }
    let Some(found) = compute(policy, splits, peers, progress)? else { return Ok(None) };
    if let Some(lock) = held
        && let Err(error) = lock.and_then(|_lock| write(&path, splits, origin, &found))
    {
        progress.warn(&format!("reference log-probabilities are not cached: {error}"));
    }
    Ok(Some(found))
}

/// The values of a file that is there and sound; one that is there and not sound is told of.
fn cached(path: &Path, splits: &[Split], origin: &Origin, progress: &dyn Progress) -> Option<Reference> {
    if !path.exists() {
        return None;
    }
    match read(path, splits, origin) {
        Ok(found) => {
            progress.note("reference log-probabilities: taken from the cache");
            Some(found)
        }
        Err(error) => {
            progress.warn(&format!("{error}; the reference log-probabilities are computed again"));
            None
        }
    }
}

/// Waits until no other process or thread computes the same values; nothing where the user interrupts it.
fn lock(cache: &Path, key: &str, progress: &dyn Progress) -> Result<Option<File>> {
    std::fs::create_dir_all(cache).map_err(Error::io(cache))?;
    let path = cache.join(format!(".{key}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(e)) => return Err(Error::Io { path, source: e }),
            Err(TryLockError::WouldBlock) if progress.interrupted() => return Ok(None),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    progress.note("reference log-probabilities: waiting for another run that computes them");
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Computes the reference with the policy as it stands, codes left out; `None` where the user interrupted it.
///
/// # Errors
/// As [`reference`].
pub fn compute<T: Real>(
    policy: &Policy<T>,
    splits: &[Split],
    peers: &Peers,
    progress: &dyn Progress,
) -> Result<Option<Reference>> {
    let total: usize = splits.iter().map(|s| s.rows.len()).sum();
    progress.begin("reference log-probabilities", Some(total as u64));
    let mut out = Reference::new();
    for split in splits {
        let mut values = Vec::with_capacity(split.rows.len());
        // A pass for every rank, then a look at the user.
        for passes in passes(&split.rows).chunks(peers.size()) {
            if peers.any(progress.interrupted())? {
                progress.end();
                return Ok(None);
            }
            let next = values.len() + passes.iter().map(|pass| pass.len()).sum::<usize>();
            let rows = &split.rows[values.len()..next];
            values.extend(shares::plain_logps(policy, rows, peers, |n| progress.advance(n as u64))?);
        }
        out.push(values);
    }
    progress.end();
    let rows = splits.iter().flat_map(|s| &s.rows).zip(out.iter().flatten());
    let faulty: Vec<&str> = rows.filter(|(_, v)| !is_finite(v)).map(|(row, _)| row.id.as_str()).collect();
    if faulty.is_empty() {
        return Ok(Some(out));
    }
    let shown = faulty[..faulty.len().min(5)].join(" ");
    Err(Error::Run {
        message: format!("the starting model's log-probability is not finite for {} pairs: {shown}", faulty.len()),
        hint: Some("its weights are damaged, or too large for this precision".into()),
    })
}

fn is_finite((chosen, rejected): &(f64, f64)) -> bool {
    chosen.is_finite() && rejected.is_finite()
}

/// BLAKE3 over a model's shape and weights, the latent part left out, lower-case hex: the content of a model, whatever
/// its place is called and however it is cut into files. Hashed in parallel, so that it takes less than loading did.
///
/// # Errors
/// [`Error::Tensor`].
pub fn fingerprint<T: Real>(policy: &Policy<T>) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 2 model");
    hasher.update(crate::manifest::hash_json(&serde_json::to_value(&policy.decoder.config)?)?.as_bytes());
    for param in policy.params.starting() {
        super::raw::hash_tensor(&mut hasher, &param.name, param.var.as_tensor())?;
    }
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

fn write(path: &PathBuf, splits: &[Split], origin: &Origin, found: &Reference) -> Result<()> {
    let ids = ids(splits);
    let side = |get: fn(&(f64, f64)) -> f64| -> Vec<f64> { found.iter().flatten().map(get).collect() };
    let columns = vec![
        Column::new(col::ID.into(), &ids),
        Column::new(REF_CHOSEN.into(), side(|r| r.0)),
        Column::new(REF_REJECTED.into(), side(|r| r.1)),
    ];
    let mut frame = DataFrame::new(ids.len(), columns)?;
    artifact::write_parquet_marked(path, &mut frame, &[mark(origin, splits, found)?])
}

/// The values of a file: of a cache, or one that `score` wrote.
///
/// # Errors
/// [`Error::Artifact`] where it is damaged or changed, or of another model, other data or options.
pub fn read(path: &Path, splits: &[Split], origin: &Origin) -> Result<Reference> {
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
    let found: Vec<Option<&str>> = column(col::ID)?.str()?.iter().collect();
    let wanted = ids(splits);
    if found.len() != wanted.len() || found.iter().zip(&wanted).any(|(found, wanted)| *found != Some(*wanted)) {
        return Err(bad("rows are missing, or in another order"));
    }
    let values: Vec<(f64, f64)> = numbers(REF_CHOSEN)?.into_iter().zip(numbers(REF_REJECTED)?).collect();
    if Mark::of(origin, &wanted, &values) != told {
        return Err(bad("content changed since it was written"));
    }
    if !values.iter().all(is_finite) {
        return Err(bad("a value is not finite"));
    }
    let mut values = values.into_iter();
    Ok(splits.iter().map(|split| values.by_ref().take(split.rows.len()).collect()).collect())
}

/// A reference of zeros, for objectives that have none.
pub fn none(splits: &[Split]) -> Reference {
    splits.iter().map(|s| vec![(0.0, 0.0); s.rows.len()]).collect()
}
