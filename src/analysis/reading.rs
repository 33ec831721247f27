//! All statistics of a run's codes: their use, the agreement of prior and posterior, each code's accuracy, and codes
//! that say the same.

use std::cmp::Ordering;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::agreement::nmi;
use super::codes::{CodeAccuracy, CodeMargins, DUPLICATE_CORRELATION, Duplicate, LabelAccuracy, Labels};
use super::tables::{code_usage, codes, numbers, texts, weights};
use crate::error::{Error, Result};
use crate::information::{entropy, perplexity};
use crate::schema::codes::{ACCURACY, DUPLICATE_OF, USAGE_POSTERIOR, USAGE_PRIOR, by_source};
use crate::schema::{SPLITS, accuracy, col, posterior};

/// Share of the examples from which on a code counts as used.
pub const USED_SHARE: f64 = 0.01;

/// The split that is read: nothing was fitted to it.
pub const SPLIT: &str = SPLITS[1];

/// How far the codes of prior and posterior agree, and how much each distribution differs between examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeAgreement {
    /// Split of the rows.
    pub split: String,
    /// Rows.
    pub n: u64,
    /// Normalised mutual information of the prior's and the posterior's most probable codes. `None` where each is
    /// constant over the rows: there is then no information that could agree.
    pub nmi: Option<f64>,
    /// Share of the rows in which both are the same code.
    pub same: f64,
    /// Effective codes of the prior: e to the mutual information between example and code, which is
    /// H(mean prior) - mean H(prior). 1 where the prior is the same for all examples, K where it is sure of one of
    /// K equally used codes.
    pub effective_prior: f64,
    /// The same of the posterior.
    pub effective_posterior: f64,
    /// Perplexity of the mean prior, e to its entropy: also high where every single prior is spread over all codes.
    pub perplexity_prior: f64,
    /// The same of the posterior.
    pub perplexity_posterior: f64,
}

/// All that [`read_codes`] reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeReading {
    /// Split on which accuracy, agreement and duplicates were measured.
    pub split: String,
    /// Rows in that split.
    pub n: u64,
    /// K.
    pub codes: usize,
    /// Codes that are the most probable one, of prior or posterior, for at least [`USED_SHARE`] of all examples:
    /// the most used by the prior first, then by the posterior.
    pub used: Vec<u32>,
    /// Share of all examples whose most probable code this is, by the prior.
    pub usage_prior: Vec<f64>,
    /// The same by the posterior.
    pub usage_posterior: Vec<f64>,
    /// Prior against posterior; `None` without rows in the split.
    pub agreement: Option<CodeAgreement>,
    /// Each code alone on all pairs of the split. `None` where the file has no margins of single codes.
    pub all: Option<LabelAccuracy>,
    /// Each code alone by source. `None` where the file has no margins of single codes.
    pub sources: Option<CodeAccuracy>,
    /// Codes in use that say the same as a lower one.
    pub duplicates: Vec<Duplicate>,
    /// Correlation above which codes count as duplicates.
    pub duplicate_correlation: f64,
}

impl CodeReading {
    /// Whether every code in use says the same as the lowest of them: the codes then hardly change what is preferred.
    pub fn all_say_the_same(&self) -> bool {
        let Some(lowest) = self.used.iter().min() else { return false };
        let same = self.duplicates.iter().filter(|d| d.duplicate_of == *lowest).count();
        self.used.len() > 1 && same + 1 == self.used.len()
    }
}

/// A column of distributions over codes on some rows: their mean, and their mean entropy in nats.
fn distributions(posteriors: &DataFrame, name: &str, rows: &[usize]) -> Result<(Vec<f64>, f64)> {
    let Some((all, k)) = weights(posteriors, name)? else { return Ok((Vec::new(), 0.0)) };
    let (mut mean, mut mean_entropy) = (vec![0.0; k], 0.0);
    for &row in rows {
        let weights = &all[row * k..(row + 1) * k];
        let total: f64 = weights.iter().sum();
        mean.iter_mut().zip(weights).for_each(|(m, w)| *m += w / total);
        mean_entropy += entropy(weights);
    }
    let n = rows.len().max(1) as f64;
    mean.iter_mut().for_each(|m| *m /= n);
    Ok((mean, mean_entropy / n))
}

/// Agreement of prior and posterior on one split; `None` where it has no rows, or there are fewer than two codes.
///
/// # Errors
/// [`Error::Frame`] where a column is missing or of another type, [`Error::Run`] where a value is missing or a
/// row holds no distribution.
///
/// # Source
/// NMI: as [`nmi`]. The exponential of a mutual information as a number of effective classes: L. Jost, "Partitioning
/// diversity into independent alpha and beta components", Ecology 88 (2007), where it is the beta diversity.
pub fn code_agreement(posteriors: &DataFrame, split: &str) -> Result<Option<CodeAgreement>> {
    let splits = texts(posteriors, col::SPLIT)?;
    let rows: Vec<usize> = (0..splits.len()).filter(|&row| splits[row] == split).collect();
    let (prior, prior_entropy) = distributions(posteriors, posterior::PRIOR, &rows)?;
    let (post, post_entropy) = distributions(posteriors, posterior::POSTERIOR, &rows)?;
    if rows.is_empty() || prior.len() < 2 {
        return Ok(None);
    }
    let hard = |name: &str| -> Result<Vec<u32>> {
        let all = codes(posteriors, name)?;
        Ok(rows.iter().map(|&row| all[row]).collect())
    };
    let (a, b) = (hard(posterior::PRIOR_CODE)?, hard(posterior::POSTERIOR_CODE)?);
    let constant = |codes: &[u32]| codes.windows(2).all(|w| w[0] == w[1]);
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    // Rounding can leave -1e-17 where all distributions are the same.
    let effective = |mean: &[f64], mean_entropy: f64| (entropy(mean) - mean_entropy).max(0.0).exp();
    Ok(Some(CodeAgreement {
        split: split.into(),
        n: rows.len() as u64,
        nmi: (!constant(&a) || !constant(&b)).then(|| nmi(&a, &b)),
        same: same as f64 / rows.len() as f64,
        effective_prior: effective(&prior, prior_entropy),
        effective_posterior: effective(&post, post_entropy),
        perplexity_prior: perplexity(&prior),
        perplexity_posterior: perplexity(&post),
    }))
}

/// Which codes are used, by their shares of all examples.
fn used(usage_prior: &[f64], usage_posterior: &[f64]) -> Vec<bool> {
    usage_prior.iter().zip(usage_posterior).map(|(a, b)| a.max(*b) >= USED_SHARE).collect()
}

/// Reads the frame of a `posteriors.parquet`: usage over all examples, the rest on the test split.
///
/// `None` where there are fewer than two codes. A file without margins of single codes (of an older version) gives the
/// other statistics.
///
/// # Errors
/// As [`code_usage`], [`code_agreement`] and [`CodeMargins::read`].
pub fn read_codes(posteriors: &DataFrame) -> Result<Option<CodeReading>> {
    let usage = code_usage(posteriors)?;
    if usage.height() < 2 {
        return Ok(None);
    }
    let (prior, post) = (numbers(&usage, USAGE_PRIOR)?, numbers(&usage, USAGE_POSTERIOR)?);
    let used = used(&prior, &post);
    let mut order: Vec<usize> = (0..used.len()).filter(|&k| used[k]).collect();
    let falling = |values: &[f64], a: usize, b: usize| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal);
    order.sort_by(|&a, &b| falling(&prior, a, b).then(falling(&post, a, b)));
    let n = texts(posteriors, col::SPLIT)?.iter().filter(|s| *s == SPLIT).count() as u64;
    let mut reading = CodeReading {
        split: SPLIT.into(),
        n,
        codes: used.len(),
        used: order.into_iter().map(|k| k as u32).collect(),
        usage_prior: prior,
        usage_posterior: post,
        agreement: code_agreement(posteriors, SPLIT)?,
        all: None,
        sources: None,
        duplicates: Vec::new(),
        duplicate_correlation: DUPLICATE_CORRELATION,
    };
    if let Some(margins) = margins(posteriors, used.len())? {
        reading.all = margins.accuracy(&Labels::one(accuracy::ALL, posteriors.height()))?.labels.pop();
        reading.sources = Some(margins.accuracy(&Labels::of_texts(&texts(posteriors, col::SOURCE)?))?);
        reading.duplicates = margins.duplicates(&used, DUPLICATE_CORRELATION);
    }
    Ok(Some(reading))
}

/// The margins of the test split; an error where they are of more or fewer codes than the other columns have.
fn margins(posteriors: &DataFrame, codes: usize) -> Result<Option<CodeMargins>> {
    let margins = CodeMargins::read(posteriors, SPLIT)?;
    match margins {
        Some(margins) if margins.margins.len() != codes => {
            let (name, found) = (col::CODE_MARGINS, margins.margins.len());
            Err(Error::run(format!("column `{name}` has {found} codes, the others have {codes}")))
        }
        margins => Ok(margins),
    }
}

/// Columns of `codes.parquet` that need the margins of single codes, one row a code: `accuracy` (on all test pairs),
/// `duplicate_of` (null or a lower code in use that says the same), and `accuracy/SOURCE` for every source in
/// alphabetical order. Accuracies are null where there is no test pair.
///
/// No columns where `posteriors` has no margins of single codes; `usage` is [`code_usage`] of the same posteriors.
///
/// # Errors
/// As [`read_codes`].
pub fn code_columns(posteriors: &DataFrame, usage: &DataFrame) -> Result<Vec<Column>> {
    let codes = usage.height();
    let Some(margins) = margins(posteriors, codes)? else { return Ok(Vec::new()) };
    let used = used(&numbers(usage, USAGE_PRIOR)?, &numbers(usage, USAGE_POSTERIOR)?);
    let mut duplicate_of: Vec<Option<u32>> = vec![None; codes];
    for found in margins.duplicates(&used, DUPLICATE_CORRELATION) {
        duplicate_of[found.code as usize] = Some(found.duplicate_of);
    }
    let column = |name: String, label: &LabelAccuracy| {
        let values: Vec<Option<f64>> = (0..codes).map(|k| label.codes.get(k).map(|i| i.estimate)).collect();
        Column::new(name.into(), values)
    };
    let all = margins.accuracy(&Labels::one(accuracy::ALL, posteriors.height()))?;
    let sources = margins.accuracy(&Labels::of_texts(&texts(posteriors, col::SOURCE)?))?;
    let mut columns: Vec<Column> = all.labels.iter().map(|label| column(ACCURACY.into(), label)).collect();
    columns.push(Column::new(DUPLICATE_OF.into(), duplicate_of));
    columns.extend(sources.labels.iter().map(|label| column(by_source(ACCURACY, &label.label), label)));
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::lists;
    use super::*;

    /// Sixteen test pairs and four for training, three codes. Code 2 says what code 0 says and is never the
    /// prior's; code 1 is right on source b alone.
    fn frame() -> DataFrame {
        let n = 20;
        let test = |i: usize| i < 16;
        let b = |i: usize| i % 2 == 1;
        let mut frame = df!(
            "split" => (0..n).map(|i| if test(i) { "test" } else { "train" }).collect::<Vec<_>>(),
            "source" => (0..n).map(|i| if b(i) { "b" } else { "a" }).collect::<Vec<_>>(),
            "flipped" => vec![false; n],
            "margin" => vec![1.0; n],
            "prior_code" => (0..n).map(|i| u32::from(b(i))).collect::<Vec<_>>(),
            "posterior_code" => (0..n).map(|i| if i < 8 { u32::from(b(i)) } else { 2 }).collect::<Vec<_>>(),
        )
        .unwrap();
        let prior: Vec<Vec<f32>> =
            (0..n).map(|i| if b(i) { vec![0.0, 1.0, 0.0] } else { vec![1.0, 0.0, 0.0] }).collect();
        let margins: Vec<Vec<f32>> = (0..n)
            .map(|i| {
                let size = 1.0 + i as f32 / 10.0;
                vec![size, if b(i) { size } else { -size }, 2.0 * size]
            })
            .collect();
        frame.with_column(lists("prior", &prior)).unwrap();
        frame.with_column(lists("posterior", &vec![vec![0.5, 0.25, 0.25]; n])).unwrap();
        frame.with_column(lists(col::CODE_MARGINS, &margins)).unwrap();
        frame
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn agreement_by_hand() {
        let found = code_agreement(&frame(), "test").unwrap().unwrap();
        // Half of the priors are sure of code 0, half of code 1: ln 2 - 0 nats, two effective codes.
        assert!(close(found.effective_prior, 2.0) && close(found.perplexity_prior, 2.0), "{found:?}");
        // All posteriors are 1/2, 1/4, 1/4: spread (1.5 ln 2 nats, 2^1.5), but the same for all.
        assert!(close(found.effective_posterior, 1.0) && close(found.perplexity_posterior, 2f64.powf(1.5)));
        // Codes 0 and 1 on 8 rows, where the posterior's is the same, and 2 on the other 8. H(prior) = ln 2,
        // H(posterior) = 1.5 ln 2, and half of the rows tell the prior's code: I = 0.5 ln 2. 2 * 0.5 / 2.5 = 0.4.
        assert!(close(found.same, 0.5) && close(found.nmi.unwrap(), 0.4), "{found:?}");
        assert_eq!((found.n, found.split.as_str()), (16, "test"));
    }

    #[test]
    fn a_collapsed_run_agrees_with_nothing() {
        let mut frame = frame().head(Some(4));
        frame.with_column(Column::new("prior_code".into(), vec![1u32; 4])).unwrap();
        frame.with_column(Column::new("posterior_code".into(), vec![1u32; 4])).unwrap();
        let found = code_agreement(&frame, "test").unwrap().unwrap();
        assert_eq!((found.nmi, found.same), (None, 1.0));
        assert_eq!(code_agreement(&frame, "train").unwrap(), None);
        frame.with_column(lists("prior", &vec![vec![0.0, 0.0, 0.0]; 4])).unwrap();
        assert!(code_agreement(&frame, "test").is_err(), "weights without mass are no distribution");
    }

    #[test]
    fn codes_are_read_as_far_as_the_file_goes() {
        let frame = frame();
        let reading = read_codes(&frame).unwrap().unwrap();
        // By the prior: code 0 and code 1 have 10 of 20; by the posterior 4, 4 and 12.
        assert_eq!((reading.codes, reading.n, reading.used.as_slice()), (3, 16, [0, 1, 2].as_slice()));
        assert_eq!((reading.usage_prior[2], reading.usage_posterior[2]), (0.0, 0.6));
        let all: Vec<f64> = reading.all.as_ref().unwrap().codes.iter().map(|i| i.estimate).collect();
        assert_eq!(all, [1.0, 0.5, 1.0]);
        let sources = reading.sources.as_ref().unwrap();
        assert_eq!((sources.labels[0].codes[1].estimate, sources.labels[1].codes[1].estimate), (0.0, 1.0));
        // Code 2 has twice the margins of code 0.
        assert_eq!(reading.duplicates.iter().map(|d| (d.code, d.duplicate_of)).collect::<Vec<_>>(), [(2, 0)]);
        assert!(!reading.all_say_the_same());
        let mut old = frame.clone();
        old.drop_in_place(col::CODE_MARGINS).unwrap();
        let before = read_codes(&old).unwrap().unwrap();
        assert_eq!(before, CodeReading { all: None, sources: None, duplicates: Vec::new(), ..reading.clone() });
        let two = CodeReading { used: vec![2, 0], ..reading };
        assert!(two.all_say_the_same());
    }

    #[test]
    fn columns_of_the_table_of_codes() {
        let frame = frame();
        let usage = code_usage(&frame).unwrap();
        let table = DataFrame::new(3, code_columns(&frame, &usage).unwrap()).unwrap();
        assert_eq!(table.get_column_names(), ["accuracy", "duplicate_of", "accuracy/a", "accuracy/b"]);
        assert_eq!(numbers(&table, "accuracy/a").unwrap(), [1.0, 0.0, 1.0]);
        let duplicates: Vec<Option<u32>> = table.column("duplicate_of").unwrap().u32().unwrap().iter().collect();
        assert_eq!(duplicates, [None, None, Some(0)]);
        // Without test pairs nothing is known.
        let train = DataFrame::new(3, code_columns(&frame.tail(Some(4)), &usage).unwrap()).unwrap();
        assert_eq!((train.width(), train.column("accuracy").unwrap().null_count()), (4, 3));
        assert!(code_columns(&frame, &usage.vstack(&usage).unwrap()).is_err(), "of another number of codes");
        let mut old = frame.clone();
        old.drop_in_place(col::CODE_MARGINS).unwrap();
        assert!(code_columns(&old, &usage).unwrap().is_empty());
    }
}
