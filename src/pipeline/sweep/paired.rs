//! Paired comparisons of cells: the same test examples, the same seeds.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::*;

use super::tables::{ResultRow, STATUS_OK, ends};
use crate::analysis;
use crate::analysis::tables::{clean_correct, texts};
use crate::error::{Error, Result};
use crate::schema::{self, SPLITS, col};
use crate::seed::Seed;

/// Least resamples of the paired bootstrap.
const RESAMPLES: usize = 10_000;
/// Least resamples for each comparison of a sweep: the smallest p-value, 2 / (resamples + 1), then stays below 0.05 after
/// the correction for all of them.
const RESAMPLES_EACH: usize = 100;

/// Correctness of each test example (1 or 0) by id.
pub(super) type Correct = BTreeMap<String, f64>;

/// Correctness by cell, each read once.
pub(super) struct Correctness {
    cells: PathBuf,
    read: BTreeMap<String, Option<Correct>>,
}

impl Correctness {
    /// That of the cells of a sweep folder.
    pub fn of(out: &Path) -> Correctness {
        Correctness { cells: out.join(schema::sweep::CELLS), read: BTreeMap::new() }
    }

    fn pair(&mut self, a: &str, b: &str) -> Result<Option<(&Correct, &Correct)>> {
        for name in [a, b] {
            if !self.read.contains_key(name) {
                let path = self.cells.join(name).join(schema::run::POSTERIORS);
                self.read.insert(name.to_string(), correctness(&path)?);
            }
        }
        Ok(self.read[a].as_ref().zip(self.read[b].as_ref()))
    }
}

/// A cell against its baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Comparison {
    /// Difference in accuracy.
    pub mean: f64,
    /// Lower end of its bootstrap interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Examples.
    pub n: u64,
    /// p-value of no difference.
    pub p: f64,
    /// The same after Holm's correction.
    pub p_holm: f64,
}

/// Compares cells with baselines, each given as the rows of its seeds, and corrects for all comparisons. One that is
/// asked for several times, as those without flips are for several noise kinds, is made and counted once. `lacking` is
/// called with the name of a cell that cannot be compared.
pub(super) fn compare<'a>(
    pairs: impl Iterator<Item = Option<(&'a [&'a ResultRow], &'a [&'a ResultRow])>>,
    correctness: &mut Correctness,
    seed: u64,
    lacking: &dyn Fn(&str),
) -> Result<Vec<Option<Comparison>>> {
    let (mut asked, mut differences) = (Vec::new(), BTreeMap::new());
    for pair in pairs {
        let key = pair.map(|(ours, theirs)| (ours[0].cell.group(), theirs[0].cell.group()));
        if let (Some(key), Some((ours, theirs))) = (&key, pair)
            && !differences.contains_key(key)
        {
            let found = per_example(ours, theirs, correctness)?;
            if found.is_empty() {
                lacking(&key.0);
            }
            differences.insert(key.clone(), found);
        }
        asked.push(key);
    }
    differences.retain(|_, found| !found.is_empty());
    let resamples = RESAMPLES.max(RESAMPLES_EACH * differences.len());
    let made: Vec<(f64, Comparison)> = differences
        .iter()
        .map(|((name, other), found)| {
            // Each comparison resamples on its own stream.
            let seed = Seed(Seed(seed).word("sweep-bootstrap", &format!("{name} {other}")));
            let found = analysis::bootstrap_paired(found, resamples, seed);
            let ((low, high), mean) = (ends(found.interval), found.interval.estimate);
            (found.p, Comparison { mean, low, high, n: found.interval.n as u64, p: found.p, p_holm: f64::NAN })
        })
        .collect();
    let adjusted = analysis::holm(&made.iter().map(|(p, _)| *p).collect::<Vec<_>>());
    let made = made.into_iter().zip(adjusted).map(|((_, comparison), p_holm)| Comparison { p_holm, ..comparison });
    let made: BTreeMap<(String, String), Comparison> = differences.into_keys().zip(made).collect();
    Ok(asked.into_iter().map(|key| made.get(&key?).copied()).collect())
}

/// Differences in correctness of each example, averaged over the seeds that both cells finished: the training seed and
/// that of the flips are the same on both sides.
fn per_example(ours: &[&ResultRow], theirs: &[&ResultRow], correctness: &mut Correctness) -> Result<Vec<f64>> {
    let mut totals: BTreeMap<String, (f64, u32)> = BTreeMap::new();
    let mut seeds = 0;
    for row in ours.iter().filter(|r| r.status == STATUS_OK) {
        let same = |b: &&&ResultRow| (b.seed, b.noise_seed) == (row.seed, row.noise_seed) && b.status == STATUS_OK;
        let Some(base) = theirs.iter().find(same) else { continue };
        let Some((ours, theirs)) = correctness.pair(&row.name, &base.name)? else { continue };
        seeds += 1;
        for (id, correct) in ours {
            if let Some(other) = theirs.get(id) {
                let total = totals.entry(id.clone()).or_default();
                total.0 += correct - other;
                total.1 += 1;
            }
        }
    }
    Ok(totals.into_values().filter(|(_, n)| *n == seeds).map(|(sum, n)| sum / f64::from(n)).collect())
}

/// Whether each test example is ranked as its clean label says; a tie is wrong. None where a
/// finished cell has no posteriors: they are large, and a user may have removed them.
pub(super) fn correctness(path: &Path) -> Result<Option<Correct>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(path))?,
    };
    let wanted = [col::ID, col::SPLIT, col::FLIPPED, col::MARGIN].map(String::from).to_vec();
    let frame = ParquetReader::new(file)
        .with_columns(Some(wanted))
        .finish()
        .map_err(|e| Error::artifact(path, format!("not readable as posteriors: {e}")))?;
    let (ids, splits, correct) = (texts(&frame, col::ID)?, texts(&frame, col::SPLIT)?, clean_correct(&frame)?);
    let test = ids.into_iter().zip(splits).zip(correct).filter(|((_, split), _)| split == SPLITS[1]);
    Ok(Some(test.map(|((id, _), right)| (id, f64::from(u8::from(right)))).collect()))
}
