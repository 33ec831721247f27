//! Paired comparisons of cells: the same test pairs, the same seeds.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::*;

use super::tables::{ResultRow, STATUS_OK, ends};
use crate::analysis::tables::{clean_correct, texts};
use crate::analysis::{self, ClusterDifference, CopyNumbers, by_cluster, paired_difference};
use crate::error::{Error, Result};
use crate::schema::{self, SPLITS, col};
use crate::seed::Seed;

/// Least resamples of the paired bootstrap, and assignments of signs.
const RESAMPLES: usize = 10_000;
/// Least of them for each comparison of a sweep: the smallest p-value, 1 / (resamples + 1), then stays below 0.05 after the
/// correction for all of them.
const RESAMPLES_EACH: usize = 100;

/// A test pair: its id, and the number of its copies before it.
type PairKey = (String, usize);

/// The prompt of each test pair, by its number in [`Prompts`], and whether the pair is ranked rightly (1 or 0).
pub(super) type Correct = BTreeMap<PairKey, (usize, f64)>;

/// Numbers of prompts by id: those of a sweep's test pairs are the same in every cell.
pub(super) type Prompts = HashMap<String, usize>;

/// Correctness by cell, each read once.
pub(super) struct Correctness {
    cells: PathBuf,
    prompts: Prompts,
    read: BTreeMap<String, Option<Correct>>,
}

impl Correctness {
    /// That of the cells of a sweep folder.
    pub fn of(out: &Path) -> Correctness {
        Correctness { cells: out.join(schema::sweep::CELLS), prompts: Prompts::new(), read: BTreeMap::new() }
    }

    fn pair(&mut self, a: &str, b: &str) -> Result<Option<(&Correct, &Correct)>> {
        for name in [a, b] {
            if !self.read.contains_key(name) {
                let path = self.cells.join(name).join(schema::run::POSTERIORS);
                self.read.insert(name.to_string(), correctness(&path, &mut self.prompts)?);
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
    /// Lower end of its 95 % interval, by a bootstrap over prompts.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Test pairs.
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
            let found = per_prompt(ours, theirs, correctness)?;
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
            let found = paired_difference(found, resamples, seed);
            let ((low, high), mean) = (ends(found.interval), found.interval.estimate);
            (found.p, Comparison { mean, low, high, n: found.interval.n as u64, p: found.p, p_holm: f64::NAN })
        })
        .collect();
    let adjusted = analysis::holm(&made.iter().map(|(p, _)| *p).collect::<Vec<_>>());
    let made = made.into_iter().zip(adjusted).map(|((_, comparison), p_holm)| Comparison { p_holm, ..comparison });
    let made: BTreeMap<(String, String), Comparison> = differences.into_keys().zip(made).collect();
    Ok(asked.into_iter().map(|key| made.get(&key?).copied()).collect())
}

/// Differences in correctness of each test pair, by prompt, averaged over the seeds that both cells finished: the training
/// seed and that of the flips are the same on both sides.
fn per_prompt(
    ours: &[&ResultRow],
    theirs: &[&ResultRow],
    correctness: &mut Correctness,
) -> Result<Vec<ClusterDifference>> {
    let mut totals: BTreeMap<PairKey, (usize, f64, u32)> = BTreeMap::new();
    let mut seeds = 0;
    for row in ours.iter().filter(|r| r.status == STATUS_OK) {
        let same = |b: &&&ResultRow| (b.seed, b.noise_seed) == (row.seed, row.noise_seed) && b.status == STATUS_OK;
        let Some(base) = theirs.iter().find(same) else { continue };
        let Some((ours, theirs)) = correctness.pair(&row.name, &base.name)? else { continue };
        seeds += 1;
        for (pair, (prompt, correct)) in ours {
            if let Some((_, other)) = theirs.get(pair) {
                let (_, sum, n) = totals.entry(pair.clone()).or_insert((*prompt, 0.0, 0));
                *sum += correct - other;
                *n += 1;
            }
        }
    }
    let of_all_seeds = totals.into_values().filter(|(.., n)| *n == seeds);
    Ok(by_cluster(of_all_seeds.map(|(prompt, sum, n)| (prompt, sum / f64::from(n)))))
}

/// Whether each test pair is ranked as its clean label says; a tie is wrong. None where a finished cell has no posteriors:
/// they are large, and a user may have removed them.
pub(super) fn correctness(path: &Path, prompts: &mut Prompts) -> Result<Option<Correct>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(path))?,
    };
    let wanted = [col::ID, col::PROMPT_ID, col::SPLIT, col::FLIPPED, col::MARGIN].map(String::from).to_vec();
    let frame = ParquetReader::new(file)
        .with_columns(Some(wanted))
        .finish()
        .map_err(|e| Error::artifact(path, format!("not readable as posteriors: {e}")))?;
    let (ids, splits, correct) = (texts(&frame, col::ID)?, texts(&frame, col::SPLIT)?, clean_correct(&frame)?);
    let mut copies = CopyNumbers::default();
    let pairs = ids.into_iter().zip(texts(&frame, col::PROMPT_ID)?).zip(splits).zip(correct);
    let test = pairs.filter(|((_, split), _)| split == SPLITS[1]);
    let one = |(((id, prompt), _), right)| {
        let next = prompts.len();
        (copies.next(id), (*prompts.entry(prompt).or_insert(next), f64::from(u8::from(right))))
    };
    Ok(Some(test.map(one).collect()))
}
