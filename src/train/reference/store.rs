//! The reference log-probabilities of one run: read from the cache, and computed where they are wanted and not in it.

use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Reference, ReferenceOrigin, is_finite, read_some, write};
use crate::artifact;
use crate::batch::Split;
use crate::error::Result;
use crate::nn::Real;
use crate::policy::Policy;
use crate::policy::evaluate::{LEAST_ROWS, not_finite, packed, passes, stoppable};
use crate::progress::Progress;
use crate::token_file::TokenRow;
use crate::train::ranks::{Ranks, work};

/// Which rows of every split a run needs the values of.
pub type WantedRows = Vec<Vec<bool>>;

/// All rows of all splits.
pub fn all(splits: &[Split]) -> WantedRows {
    splits.iter().map(|s| vec![true; s.rows.len()]).collect()
}

/// Time after which what was computed is written, in case the process is killed.
const SAVED_EVERY: Duration = Duration::from_secs(60);

/// The values that a run has, and the cache that it takes them from and adds to. A value that is not known is NaN, so
/// that a loss that was computed with it is not finite.
#[derive(Debug)]
pub struct ReferenceStore<'a> {
    splits: &'a [Split],
    origin: ReferenceOrigin,
    cache: PathBuf,
    known: Reference,
    /// Whether the cache holds all that is known.
    kept: bool,
    /// Whether the user has been told what the cache holds.
    told: bool,
    /// While it is held, other processes do not compute the same values; or why nothing can be cached.
    lock: Option<Result<Option<artifact::Lock>>>,
}

impl<'a> ReferenceStore<'a> {
    /// A store without values, over a cache folder.
    pub fn open(splits: &'a [Split], origin: ReferenceOrigin, cache: &Path) -> ReferenceStore<'a> {
        let known = splits.iter().map(|s| vec![(f64::NAN, f64::NAN); s.rows.len()]).collect();
        ReferenceStore { cache: cache.to_path_buf(), ..ReferenceStore::full(splits, origin, known) }
    }

    /// A store that has all values, and no cache.
    pub fn full(splits: &'a [Split], origin: ReferenceOrigin, known: Reference) -> ReferenceStore<'a> {
        ReferenceStore { splits, origin, cache: PathBuf::new(), known, kept: true, told: false, lock: None }
    }

    /// The values, by split.
    pub fn values(&self) -> &Reference {
        &self.known
    }

    /// The values alone.
    pub fn into_values(self) -> Reference {
        self.known
    }

    /// Where the user stops the run: how many of the wanted values are cached, in words.
    pub fn stopped(&self, wanted: &WantedRows) -> String {
        let (known, all) = self.counts(wanted);
        match (known, self.kept) {
            (0, _) => format!("the {WHAT} begin anew"),
            (_, true) => format!("{known} of {all} {WHAT} are kept in {}", self.cache.display()),
            (_, false) => format!("the {WHAT} could not be kept and begin anew"),
        }
    }

    /// Number of wanted values that are known, and of all that are wanted.
    fn counts(&self, wanted: &WantedRows) -> (usize, usize) {
        let each = self.known.iter().flatten().zip(wanted.iter().flatten()).filter(|(_, wanted)| **wanted);
        each.fold((0, 0), |(known, all), (value, _)| (known + usize::from(is_finite(value)), all + 1))
    }

    /// Whether a wanted value is not known.
    pub fn lacks(&self, wanted: &WantedRows) -> bool {
        let (known, all) = self.counts(wanted);
        known < all
    }

    /// Makes sure that all wanted values are known: reads the cache, and computes what it lacks with the policy that
    /// `policy` gives. False where the user interrupted it. `what` is shown with the progress. Other processes that want
    /// the same values wait until they are computed. The first of several ranks reads.
    ///
    /// # Errors
    /// As [`ReferenceStore::compute`] and [`Ranks::meet`]; those of `policy`.
    pub fn provide<T: Real, P: Borrow<Policy<T>>>(
        &mut self,
        wanted: &WantedRows,
        what: &str,
        policy: impl FnOnce() -> Result<P>,
        ranks: &Ranks,
        progress: &dyn Progress,
    ) -> Result<bool> {
        if !self.lacks(wanted) {
            return Ok(true);
        }
        let known = ranks.from_first(|| {
            let told = std::mem::replace(&mut self.told, true);
            self.read_cache(if told { &crate::progress::Silent } else { progress });
            if self.lacks(wanted) {
                let lock = artifact::wait_for(&self.cache.join(format!(".{}.lock", self.origin.key())), WHAT, progress);
                // Damaged files were warned of before the wait.
                if matches!(lock, Ok(Some(_))) {
                    self.read_cache(&crate::progress::Silent);
                }
                self.lock = Some(lock);
            }
            match self.counts(wanted) {
                (known, all) if known == all => {
                    self.lock = None;
                    progress.note(&format!("{WHAT}: taken from the cache"));
                }
                (0, _) => {}
                _ if told => {}
                (known, all) => progress.note(&format!("{WHAT}: {known} of {all} are kept from before")),
            }
            Ok(self
                .known
                .iter()
                .map(|s| s.iter().map(|(c, r)| (c.to_bits(), r.to_bits())).collect())
                .collect::<Vec<Vec<_>>>())
        })?;
        let value = |(c, r): (u64, u64)| (f64::from_bits(c), f64::from_bits(r));
        self.known = known.into_iter().map(|s| s.into_iter().map(value).collect()).collect();
        if !self.lacks(wanted) {
            return Ok(true);
        }
        if ranks.any(progress.interrupted())? {
            self.lock = None;
            return Ok(false);
        }
        self.compute(policy()?.borrow(), wanted, what, ranks, progress)
    }

    /// Computes what is wanted and not known with the policy's present weights, without codes, and adds it to the
    /// cache; a warning says where the cache cannot be written. False where the user interrupted it: what was computed
    /// is then in the cache. Each of several ranks computes a share; the first one writes.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`], and those of packing; [`crate::Error::Run`] where a value is not finite.
    pub fn compute<T: Real>(
        &mut self,
        policy: &Policy<T>,
        wanted: &WantedRows,
        what: &str,
        ranks: &Ranks,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let passes = self.passes(policy, wanted);
        let rows: usize = passes.iter().map(|(_, pass)| pass.len()).sum();
        progress.begin(what, Some(rows as u64));
        let mut saved = Instant::now();
        let mut whole = true;
        // After a pass of every rank, the user may have interrupted the run.
        for passes in passes.chunks(ranks.size()) {
            if ranks.any(progress.interrupted())? {
                whole = false;
                break;
            }
            let picked: Vec<Vec<&TokenRow>> = passes
                .iter()
                .map(|(split, pass)| pass.iter().map(|&i| &self.splits[*split].rows[i]).collect())
                .collect();
            let found = work::plain_logps(policy, &picked, ranks, |n| progress.advance(n as u64))?;
            let faulty = picked.iter().flatten().zip(&found).filter(|(_, value)| !is_finite(value));
            let faulty: Vec<&str> = faulty.map(|(row, _)| row.id.as_str()).collect();
            if !faulty.is_empty() {
                progress.end();
                return Err(not_finite("starting model", &faulty));
            }
            let places = passes.iter().flat_map(|(split, pass)| pass.iter().map(|&i| (*split, i)));
            for ((split, i), value) in places.zip(found) {
                self.known[split][i] = value;
            }
            if saved.elapsed() > SAVED_EVERY {
                self.write_cache(&crate::progress::Silent);
                saved = Instant::now();
            }
        }
        progress.end();
        self.kept = self.write_cache(progress);
        self.lock = None;
        Ok(whole)
    }

    /// The passes that are to be computed: of each, its split and the positions of its rows. On devices whose numbers
    /// depend on the other rows of a pass, passes are those of the whole split.
    fn passes<T: Real>(&self, policy: &Policy<T>, wanted: &WantedRows) -> Vec<(usize, Vec<usize>)> {
        let mut out = Vec::new();
        for (at, (split, wanted)) in self.splits.iter().zip(wanted).enumerate() {
            let rows = &split.rows;
            let missing = |i: usize| wanted[i] && !is_finite(&self.known[at][i]);
            if policy.decoder.place().is_none() {
                let picked = companions(rows, missing);
                let refs: Vec<&TokenRow> = picked.iter().map(|&i| &rows[i]).collect();
                let mut picked = picked.into_iter();
                out.extend(stoppable(policy, &refs).iter().map(|p| (at, picked.by_ref().take(p.len()).collect())));
                continue;
            }
            let mut start = 0;
            for pass in passes(rows) {
                let places = start..start + pass.len();
                start = places.end;
                if places.clone().any(missing) {
                    out.push((at, places.collect()));
                }
            }
        }
        out
    }

    fn part(&self) -> PathBuf {
        self.cache.join(format!(".{}.part", self.origin.key()))
    }

    fn whole(&self) -> PathBuf {
        self.cache.join(format!("{}.parquet", self.origin.key()))
    }

    /// Takes over the values of cache files; a warning says where one is damaged.
    fn read_cache(&mut self, progress: &dyn Progress) {
        for path in [self.whole(), self.part()] {
            if !path.exists() {
                continue;
            }
            match read_some(&path, self.splits, &self.origin) {
                Ok(found) => {
                    let both = self.known.iter_mut().flatten().zip(found.into_iter().flatten());
                    both.filter(|(_, found)| is_finite(found)).for_each(|(known, found)| *known = found);
                }
                Err(error) => progress.warn(&format!("{error}; the {WHAT} are computed again")),
            }
        }
    }

    /// Writes all that is known, where this process holds the lock; whether it is in the cache now.
    fn write_cache(&self, progress: &dyn Progress) -> bool {
        let Some(lock) = &self.lock else { return false };
        let write = || -> Result<()> {
            if self.known.iter().flatten().all(is_finite) {
                write(&self.whole(), self.splits, &self.origin, &self.known)?;
                return artifact::remove(&self.part());
            }
            write(&self.part(), self.splits, &self.origin, &self.known)
        };
        let outcome = match lock {
            Ok(Some(_)) => write().map_err(|e| e.to_string()),
            Ok(None) => return false,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &outcome {
            progress.warn(&format!("{WHAT} are not cached: {error}"));
        }
        outcome.is_ok()
    }
}

/// Name of the values in messages.
pub const WHAT: &str = "reference log-probabilities";

/// The rows that are wanted. Where they are so few that their numbers would depend on the other rows of a pass, rows
/// are added.
pub fn companions(rows: &[TokenRow], wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut picked: Vec<usize> = (0..rows.len()).filter(|&i| wanted(i)).collect();
    if picked.is_empty() {
        return picked;
    }
    let mut size: usize = picked.iter().map(|&i| packed(&rows[i])).sum();
    for i in (0..rows.len()).filter(|&i| !wanted(i)) {
        if size >= LEAST_ROWS {
            break;
        }
        size += packed(&rows[i]);
        picked.push(i);
    }
    picked.sort_unstable();
    picked
}
