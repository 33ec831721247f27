//! Ceilings: what the most probable preference, and the best bet on an order, reach on a planted corpus.
//!
//! Where a prompt does not ask for a preference, no method can know which one decided; it can only weigh those of the
//! source. Results of a trained model have to be compared with these ceilings.
//!
//! Of accuracy they are the most that any method can expect. Of codes they are the scores of the most probable preference,
//! which is right most often: no codes agree with the true preference more often, but normalised mutual information
//! rewards other codes a little more (seen: 0.55 against 0.54), so that it can exceed its ceiling.
//!
//! # The generator's own posterior
//! Let z be the preference, x the prompt and (a, b) the style bits of an ordered pair, a preferred.
//! - p(z|x) is certain where the prompt shows z, else the source's weights.
//! - All bits but those of z's factor are fair coins, so p(a, b | z) is proportional to q(cell), where the
//!   cell says which of the two has the value that z likes: a only, b only, both, neither.
//! - q is the same for all z by the symmetry of the generator and is counted from the clean pairs at hand
//!   (with 1/2 added to each count), whatever rule made the pairs and whatever the temperature.
//!
//! Hence p(z | x, a > b) is proportional to p(z|x) q(cell), and a is the better bet where
//! sum_z p(z|x) q(cell(a, b)) exceeds sum_z p(z|x) q(cell(b, a)).
//!
//! Where all pairs of a prompt share a code ([`PosteriorScope::Prompt`]), the posterior sees the best response beside n
//! others. By the same symmetry p(z | x, all pairs) is proportional to p(z|x) q(a, m) / binomial(n, m): a says whether
//! the best response has the value that z likes, m how many of the others do, and q(a, m) is counted.

mod scope;

use std::collections::HashMap;

use polars::prelude::*;

use super::emit::truth;
use super::row::text_hash;
use super::world::{self, Preference};
use crate::error::{Error, Result};
use crate::schema::col;
pub use scope::PosteriorScope;
pub(super) use scope::label_codes;

/// The ceiling of one prepared pair.
#[derive(Debug, Clone, PartialEq)]
pub struct CeilingRow {
    /// Pair id.
    pub id: String,
    /// `train` or `test`.
    pub split: String,
    /// Source tag.
    pub source: String,
    /// Whether the prompt shows what decided.
    pub shown: bool,
    /// Whether the observed label is the opposite of the clean one.
    pub flipped: bool,
    /// True deciding factor.
    pub factor: u32,
    /// True preference id.
    pub preference: u32,
    /// Most probable preference id given the prompt.
    pub prior_code: u32,
    /// Most probable preference id given the prompt and the observed [`PosteriorScope`], whose labels may be flipped; `None`
    /// where it was not computed.
    pub posterior_code: Option<u32>,
    /// Most probable preference id given the prompt and the labels of that evidence, its responses taken as given: what
    /// a model of labels, as LPC is, can know. `posterior_code` also uses how the responses came about.
    pub label_code: u32,
    /// 1 where the Bayes-optimal bet on the clean order is right, 0 where it is wrong, 1/2 where both orders are
    /// equally probable.
    pub right: f64,
    /// Probability with which that bet is right.
    pub expected: f64,
}

/// Ceilings of all pairs of a planted corpus: of codes the most probable preferences, whose NMI other codes can exceed a
/// little (see the module).
#[derive(Debug, Clone, PartialEq)]
pub struct Ceilings {
    /// One row per matched pair, in the order of the pairs.
    pub rows: Vec<CeilingRow>,
    /// Shares of clean pairs in which the liked value is in: chosen only, rejected only, both, neither.
    pub cells: [f64; 4],
    /// Pairs whose prompt or responses are not in the truth.
    pub unmatched: u64,
    /// Preference ids that occur, in truth, in the matched pairs.
    pub preferences_used: usize,
}

impl Ceilings {
    /// Bayes-optimal preference accuracy, (realised, expected, rows), over the rows that `keep` accepts.
    ///
    /// The realised accuracy counts a coin toss as one half; both are 0 where no row is kept.
    pub fn accuracy(&self, keep: impl Fn(&CeilingRow) -> bool) -> (f64, f64, usize) {
        let kept: Vec<&CeilingRow> = self.rows.iter().filter(|r| keep(r)).collect();
        let mean = |get: fn(&CeilingRow) -> f64| kept.iter().map(|r| get(r)).sum::<f64>() / kept.len().max(1) as f64;
        (mean(|r| r.right), mean(|r| r.expected), kept.len())
    }
}

/// The truth about one prompt.
struct Truth {
    shown: bool,
    factor: u32,
    preference: u32,
    prior: Vec<f64>,
    styles: HashMap<u64, u32>,
}

impl Truth {
    /// All preferences of the corpus, by id.
    fn preferences(&self) -> Vec<Preference> {
        world::preferences(self.prior.len() - world::CONFLICTS)
    }

    /// p(z|x) by preference id: certain where the prompt shows it, else the source's weights.
    fn given_prompt(&self) -> Vec<f64> {
        let certain = |z: usize| f64::from(u8::from(z == self.preference as usize));
        if self.shown { (0..self.prior.len()).map(certain).collect() } else { self.prior.clone() }
    }
}

/// A pair that is in the truth: its row in the pairs frame, and what the truth table says of its responses (their
/// styles, for made-up texts) in the observed order.
pub(super) struct Matched<'a, T, R> {
    pub row: usize,
    pub truth: &'a T,
    pub chosen: R,
    pub rejected: R,
    pub flipped: bool,
}

impl<T, R: Copy> Matched<'_, T, R> {
    /// The truth of the pair's prompt, as the key under which a prompt's pairs are collected.
    pub fn prompt(&self) -> *const T {
        self.truth
    }

    /// Better and worse response by the clean label.
    pub fn clean(&self) -> (R, R) {
        if self.flipped { (self.rejected, self.chosen) } else { (self.chosen, self.rejected) }
    }
}

/// Computes the generator's ceilings for prepared pairs.
///
/// `truth` is `truth.parquet` of the corpus, `pairs` one or both of `pairs/{split}.parquet`. A response is
/// found by the hash of its exact text. `noise_p` of a pair, where given, is taken as known. `evidence` is what the
/// posterior code sees; the bet is always that of the prompt. For a corpus over real texts see `over/ceilings.rs`.
///
/// # Errors
/// [`Error::Frame`] where a column is missing or of another type; [`Error::Run`] where the truth is no
/// table of this generator.
pub fn ceilings(truth: &DataFrame, pairs: &DataFrame, evidence: PosteriorScope) -> Result<Ceilings> {
    let observed = Observed::open(pairs)?;
    if truth.column(truth::UTILITIES).is_ok() {
        return super::over::ceilings::ceilings(truth, &observed, evidence);
    }
    let table = read_truth(truth)?;
    let matched = observed.matched(&table, |truth, hash| truth.styles.get(&hash).copied());
    let cells = count_cells(&matched);
    let grouped = match evidence {
        PosteriorScope::Pair => None,
        PosteriorScope::Prompt => scope::grouped(&matched),
    };
    let likelihood = |m: &Matched<Truth, u32>| -> Vec<f64> {
        let of = |z: &Preference| {
            let (seen, turned) = (cells[cell(*z, m.chosen, m.rejected)], cells[cell(*z, m.rejected, m.chosen)]);
            mixed(observed.noise(m.row), seen, turned) / (seen + turned)
        };
        m.truth.preferences().iter().map(of).collect()
    };
    let label_codes = label_codes(&matched, evidence, Truth::given_prompt, likelihood);
    let rows = matched.iter().zip(label_codes).map(|(m, label_code)| {
        let best = solve(m, &cells, observed.noise(m.row));
        let (shown, factor, preference) = (m.truth.shown, m.truth.factor, m.truth.preference);
        let posterior_code = match evidence {
            PosteriorScope::Pair => best.posterior_code,
            PosteriorScope::Prompt => {
                grouped.as_ref().and_then(|codes| codes.get(&m.prompt()).copied().or(best.posterior_code))
            }
        };
        observed.named(m.row, CeilingRow { shown, factor, preference, posterior_code, label_code, ..best })
    });
    Ok(Ceilings::of(rows.collect(), cells, observed.len()))
}

impl Ceilings {
    /// Ceilings from the matched rows; `pairs` is the number of all pairs.
    pub(super) fn of(rows: Vec<CeilingRow>, cells: [f64; 4], pairs: usize) -> Ceilings {
        let used: std::collections::BTreeSet<u32> = rows.iter().map(|r| r.preference).collect();
        let unmatched = (pairs - rows.len()) as u64;
        Ceilings { rows, cells, unmatched, preferences_used: used.len() }
    }
}

/// The columns of prepared pairs that ceilings are computed from.
pub(super) struct Observed {
    ids: StringChunked,
    prompts: StringChunked,
    splits: StringChunked,
    sources: StringChunked,
    chosen: ListChunked,
    rejected: ListChunked,
    flipped: BooleanChunked,
    noise: Float64Chunked,
}

impl Observed {
    fn open(pairs: &DataFrame) -> Result<Observed> {
        let texts = |name: &str| -> Result<StringChunked> { Ok(pairs.column(name)?.str()?.clone()) };
        let noise = match pairs.column(col::NOISE_P) {
            Ok(column) => column.cast(&DataType::Float64)?.f64()?.clone(),
            Err(_) => Float64Chunked::full_null(col::NOISE_P.into(), pairs.height()),
        };
        Ok(Observed {
            ids: texts(col::ID)?,
            prompts: texts(col::PROMPT_ID)?,
            splits: texts(col::SPLIT)?,
            sources: texts(col::SOURCE)?,
            chosen: pairs.column(col::CHOSEN)?.list()?.clone(),
            rejected: pairs.column(col::REJECTED)?.list()?.clone(),
            flipped: pairs.column(col::FLIPPED)?.bool()?.clone(),
            noise,
        })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The pairs whose prompt is in the truth's table, and whose responses `find` knows by their hashes.
    pub fn matched<'a, T, R>(
        &self,
        table: &'a HashMap<String, T>,
        find: impl Fn(&T, u64) -> Option<R>,
    ) -> Vec<Matched<'a, T, R>> {
        let hash = |list, row| last_content(list, row).map(|text| text_hash(&text));
        let matched = |row| {
            let truth = table.get(self.prompts.get(row)?)?;
            let (chosen, rejected) = (hash(&self.chosen, row)?, hash(&self.rejected, row)?);
            let (chosen, rejected) = (find(truth, chosen)?, find(truth, rejected)?);
            Some(Matched { row, truth, chosen, rejected, flipped: self.flipped(row) })
        };
        (0..self.len()).filter_map(matched).collect()
    }

    /// Whether the observed label is the opposite of the clean one.
    fn flipped(&self, row: usize) -> bool {
        self.flipped.get(row).unwrap_or(false)
    }

    /// Probability with which the label was to be flipped; 0 where it is not known.
    pub fn noise(&self, row: usize) -> f64 {
        let noise = self.noise.get(row).unwrap_or(0.0);
        if noise.is_finite() { noise.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// A solved pair with its id, split, source and flip.
    pub fn named(&self, row: usize, best: CeilingRow) -> CeilingRow {
        let text = |column: &StringChunked| column.get(row).unwrap_or_default().to_string();
        let (id, split, source) = (text(&self.ids), text(&self.splits), text(&self.sources));
        CeilingRow { id, split, source, flipped: self.flipped(row), ..best }
    }
}

/// Which of two styles has the value that a preference likes: first only, second only, both, neither.
fn cell(liked: Preference, first: u32, second: u32) -> usize {
    match (liked.likes(first), liked.likes(second)) {
        (true, false) => 0,
        (false, true) => 1,
        (true, true) => 2,
        (false, false) => 3,
    }
}

fn count_cells(matched: &[Matched<Truth, u32>]) -> [f64; 4] {
    let mut counts = [0.5; 4];
    for m in matched {
        let (best, other) = m.clean();
        counts[cell(m.truth.preferences()[m.truth.preference as usize], best, other)] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    counts.map(|c| c / total)
}

/// Codes and bet of one pair; the other fields are left empty.
fn solve(m: &Matched<Truth, u32>, cells: &[f64; 4], noise: f64) -> CeilingRow {
    let (preferences, prior) = (m.truth.preferences(), m.truth.given_prompt());
    let weigh = |first: u32, second: u32| -> Vec<f64> {
        prior.iter().zip(&preferences).map(|(p, &z)| p * cells[cell(z, first, second)]).collect()
    };
    let best = bet(&weigh(m.chosen, m.rejected), &weigh(m.rejected, m.chosen), m.flipped, noise);
    CeilingRow { prior_code: argmax(&prior), ..best }
}

/// The probability of what was seen, under a label that is flipped with probability `noise`.
pub(super) fn mixed(noise: f64, as_seen: f64, reversed: f64) -> f64 {
    (1.0 - noise) * as_seen + noise * reversed
}

/// The best code and the best bet, given p(z|x) p(pair|z) for the pair as it was seen and for the reversed one;
/// the other fields are left empty.
pub(super) fn bet(as_seen: &[f64], reversed: &[f64], flipped: bool, noise: f64) -> CeilingRow {
    let posterior: Vec<f64> = as_seen.iter().zip(reversed).map(|(a, b)| mixed(noise, *a, *b)).collect();
    let (seen, turned): (f64, f64) = (as_seen.iter().sum(), reversed.iter().sum());
    let (clean, wrong) = if flipped { (turned, seen) } else { (seen, turned) };
    // Sums of the same terms in another order may differ in the last bits.
    let right = if (clean - wrong).abs() <= 1e-12 * (clean + wrong) { 0.5 } else { f64::from(u8::from(clean > wrong)) };
    CeilingRow {
        id: String::new(),
        split: String::new(),
        source: String::new(),
        shown: false,
        flipped: false,
        factor: 0,
        preference: 0,
        prior_code: 0,
        posterior_code: Some(argmax(&posterior)),
        label_code: 0,
        right,
        // Where both underflowed to zero, either order is as probable.
        expected: if clean + wrong > 0.0 { clean.max(wrong) / (clean + wrong) } else { 0.5 },
    }
}

/// Index of the largest value, the first of equals.
pub(super) fn argmax(values: &[f64]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

/// The text of the last message of a row.
fn last_content(messages: &ListChunked, row: usize) -> Option<String> {
    let messages = messages.get_as_series(row)?;
    let contents = messages.struct_().ok()?.field_by_name(col::CONTENT).ok()?;
    let contents = contents.str().ok()?;
    contents.get(contents.len().checked_sub(1)?).map(str::to_string)
}

fn read_truth(frame: &DataFrame) -> Result<HashMap<String, Truth>> {
    let prompts = frame.column(col::PROMPT_ID)?.str()?;
    let shown = frame.column(truth::SHOWN)?.bool()?;
    let (factors, preferences) = (frame.column(truth::FACTOR)?.u32()?, frame.column(truth::PREFERENCE)?.u32()?);
    let (styles, hashes) = (frame.column(truth::STYLES)?.list()?, frame.column(truth::HASHES)?.list()?);
    let priors = frame.column(truth::PRIOR)?.list()?;
    let bad = |row: usize, what: &str| Error::run(format!("truth table, row {}: {what}", row + 1));
    let mut table = HashMap::with_capacity(frame.height());
    for row in 0..frame.height() {
        let get = || -> Option<(String, Truth)> {
            let (styles, hashes, prior) =
                (styles.get_as_series(row)?, hashes.get_as_series(row)?, priors.get_as_series(row)?);
            let hashes = hashes.u64().ok()?;
            let styles = hashes.iter().flatten().zip(styles.u32().ok()?.iter().flatten()).collect();
            let prior = prior.f64().ok()?.iter().flatten().collect();
            let truth = Truth {
                shown: shown.get(row)?,
                factor: factors.get(row)?,
                preference: preferences.get(row)?,
                prior,
                styles,
            };
            Some((prompts.get(row)?.to_string(), truth))
        };
        let (prompt, truth) = get().ok_or_else(|| bad(row, "a value is missing or of another type"))?;
        let known = truth.prior.len().checked_sub(world::CONFLICTS).is_some_and(|f| {
            (world::CONFLICTS..=super::grammar::MAX_FACTORS).contains(&f)
                && (truth.preference as usize) < truth.prior.len()
        });
        if !known {
            return Err(bad(row, "preferences that this generator does not have"));
        }
        table.insert(prompt, truth);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn truth(shown: bool, preference: u32, prior: &[f64]) -> Truth {
        Truth { shown, factor: preference / 2, preference, prior: prior.to_vec(), styles: HashMap::new() }
    }

    #[test]
    fn bets_and_codes_by_hand() {
        // Two factors, preferences 0 short, 1 thorough, 2 hedged, 3 assertive. The source likes short in
        // 3 of 4 rows, assertive in 1 of 4. q = (0.8, 0.1, 0.05, 0.05).
        let cells = [0.8, 0.1, 0.05, 0.05];
        let hidden = truth(false, 3, &[0.75, 0.0, 0.0, 0.25]);
        // Observed a > b with a = long and assertive (bits 11), b = short and hedged (bits 00):
        // short: rejected only: 0.75 * 0.1 = 0.075; assertive: chosen only: 0.25 * 0.8 = 0.2; sum 0.275.
        // Reversed: 0.75 * 0.8 + 0.25 * 0.1 = 0.625. The bet is b, which is wrong: expected 0.625 / 0.9.
        let m = Matched { row: 0, truth: &hidden, chosen: 0b11, rejected: 0b00, flipped: false };
        let best = solve(&m, &cells, 0.0);
        assert_eq!((best.prior_code, best.posterior_code, best.right), (0, Some(3), 0.0));
        assert!((best.expected - 0.625 / 0.9).abs() < 1e-12);
        // With labels flipped half the time the pair's order says nothing: short 0.75 * 0.45 = 0.3375
        // against assertive 0.25 * 0.45 = 0.1125.
        assert_eq!(solve(&m, &cells, 0.5).posterior_code, Some(0));
        // The same pair, known to be flipped: the clean order is b > a and the bet is right.
        let turned = Matched { flipped: true, ..m };
        assert_eq!(solve(&turned, &cells, 0.0).right, 1.0);
        // Where the prompt shows the preference it is certain: 0.8 against 0.1.
        let told = truth(true, 3, &[0.75, 0.0, 0.0, 0.25]);
        let best = solve(&Matched { row: 0, truth: &told, chosen: 0b11, rejected: 0b00, flipped: false }, &cells, 0.0);
        assert_eq!((best.prior_code, best.posterior_code, best.right), (3, Some(3), 1.0));
        assert!((best.expected - 0.8 / 0.9).abs() < 1e-12);
        // Equal styles are a coin.
        let coin = solve(&Matched { row: 0, truth: &told, chosen: 0b11, rejected: 0b11, flipped: false }, &cells, 0.0);
        assert_eq!((coin.right, coin.expected), (0.5, 0.5));
    }

    #[test]
    fn cells_are_counted_on_clean_orders() {
        let shown = truth(true, 0, &[1.0, 0.0, 0.0, 0.0]);
        let pair = |chosen, rejected, flipped| Matched { row: 0, truth: &shown, chosen, rejected, flipped };
        // Short is bit 0 = 0. Clean orders: right, right (flipped), wrong, neither: (2.5, 1.5, 0.5, 1.5) / 6.
        let pairs = [pair(0, 1, false), pair(1, 0, true), pair(1, 0, false), pair(1, 1, false)];
        assert_eq!(count_cells(&pairs), [2.5, 1.5, 0.5, 1.5].map(|c: f64| c / 6.0));
    }
}
