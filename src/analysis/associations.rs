//! What the codes go with: labels of the pairs (sources, flips, models, planted preferences) and quantities (lengths,
//! margins), with tests of independence.

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::agreement::dependence;
use super::codes::Labels;
use super::intervals::quantile;
use super::prepared_pairs::PairFacts;
use super::ranks::{KruskalWallis, holm, kruskal_wallis};
use super::reading::SPLIT;
use super::tables::{codes, flags, numbers, texts};
use crate::error::Result;
use crate::schema::{accuracy, attribute, col, posterior};
use crate::seed::Seed;

/// Permutations of a test.
pub const PERMUTATIONS: usize = 999;

/// Labels above which a labelling is left out: there are then few pairs of each.
pub const MOST_LABELS: usize = 512;

/// Whose codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeBy {
    /// The most probable code given the prompt.
    Prior,
    /// The most probable code given the prompt and the observed pair.
    Posterior,
}

impl CodeBy {
    /// Both.
    pub const BOTH: [CodeBy; 2] = [CodeBy::Prior, CodeBy::Posterior];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            CodeBy::Prior => posterior::PRIOR,
            CodeBy::Posterior => posterior::POSTERIOR,
        }
    }

    /// Column of the distributions over codes.
    pub fn weights(self) -> &'static str {
        self.name()
    }

    /// Column of the most probable codes.
    pub fn code(self) -> &'static str {
        match self {
            CodeBy::Prior => posterior::PRIOR_CODE,
            CodeBy::Posterior => posterior::POSTERIOR_CODE,
        }
    }
}

/// Codes against labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelAssociation {
    /// What the labels are, of [`attribute`].
    pub attribute: String,
    /// Whose codes.
    pub by: CodeBy,
    /// Pairs with a label.
    pub n: u64,
    /// The labels.
    pub labels: Vec<String>,
    /// Pairs of each code with each label: `counts[code][label]`.
    pub counts: Vec<Vec<u64>>,
    /// Normalised mutual information; with the next three `None` where code or label is constant.
    pub nmi: Option<f64>,
    /// Mutual information adjusted for chance.
    pub ami: Option<f64>,
    /// p-value of a permutation test of independence.
    pub p: Option<f64>,
    /// The same, adjusted by Holm's procedure for all labellings and both kinds of codes on this split.
    pub p_holm: Option<f64>,
}

/// A quantity on the pairs of one code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeNumbers {
    /// The code.
    pub code: u32,
    /// Its pairs for which the quantity is known.
    pub n: u64,
    /// Mean; of flips their share.
    pub mean: f64,
    /// First quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub q3: f64,
}

/// Codes against a quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberAssociation {
    /// What is measured, of [`attribute`].
    pub attribute: String,
    /// Whose codes.
    pub by: CodeBy,
    /// Pairs for which it is known.
    pub n: u64,
    /// By code, those with a pair.
    pub codes: Vec<CodeNumbers>,
    /// Test of whether codes differ in it; `None` where one code has all pairs, or all values are equal.
    pub test: Option<KruskalWallis>,
    /// Its p-value, adjusted by Holm's procedure for all quantities and both kinds of codes on this split.
    pub p_holm: Option<f64>,
}

/// Associations on the pairs of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitAssociations {
    /// Split, or `all`.
    pub split: String,
    /// Pairs.
    pub n: u64,
    /// With labels.
    pub labels: Vec<LabelAssociation>,
    /// With quantities.
    pub numbers: Vec<NumberAssociation>,
}

/// What the codes of a run go with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Associations {
    /// Permutations of each test of a labelling.
    pub permutations: usize,
    /// The test split, then all pairs; one of them where they are the same, or there is no test split.
    pub splits: Vec<SplitAssociations>,
    /// Labellings that were left out because they have too many labels, with that number.
    pub left_out: Vec<(String, usize)>,
}

/// Labels that every run's pairs have: sources and flips.
///
/// # Errors
/// As [`texts`] and [`flags`].
pub fn pair_labels(posteriors: &DataFrame) -> Result<Vec<(String, Labels)>> {
    let sources = texts(posteriors, col::SOURCE)?;
    let known: Vec<String> = sources.iter().filter(|source| !source.is_empty()).cloned().collect();
    let names = Labels::of_texts(&known).names;
    let rows = sources.iter().map(|source| names.binary_search(source).ok()).collect();
    let flipped = Labels {
        names: ["not flipped", "flipped"].map(String::from).to_vec(),
        rows: flags(posteriors, col::FLIPPED)?.into_iter().map(|flipped| Some(usize::from(flipped))).collect(),
    };
    Ok(vec![(attribute::SOURCE.into(), Labels { names, rows }), (attribute::FLIPPED.into(), flipped)])
}

/// Labels by who wrote the two responses.
fn model_labels(facts: &PairFacts) -> Labels {
    let name = |(chosen, rejected): &(String, String)| format!("{chosen} over {rejected}");
    let known: Vec<String> = facts.models.iter().flatten().map(name).collect();
    let names = Labels::of_texts(&known).names;
    let rows = facts.models.iter().map(|both| names.binary_search(&name(both.as_ref()?)).ok()).collect();
    Labels { names, rows }
}

/// Quantities of the pairs, as far as they are known.
fn quantities(posteriors: &DataFrame, facts: Option<&PairFacts>) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let mut known = Vec::new();
    if posteriors.column(col::N_CHOSEN).is_ok() {
        let (chosen, rejected) = (numbers(posteriors, col::N_CHOSEN)?, numbers(posteriors, col::N_REJECTED)?);
        known.push((attribute::LENGTH_DIFFERENCE, chosen.iter().zip(&rejected).map(|(c, r)| c - r).collect()));
    }
    if let Some(facts) = facts {
        known.push((attribute::PROMPT_LENGTH, facts.prompt_length.clone()));
        known.push((attribute::SCORE_MARGIN, facts.score_margin.clone()));
    }
    known.push((attribute::IMPLICIT_MARGIN, numbers(posteriors, col::MARGIN)?));
    let flipped = flags(posteriors, col::FLIPPED)?;
    known.push((attribute::FLIPPED, flipped.into_iter().map(|flipped| f64::from(u8::from(flipped))).collect()));
    Ok(known)
}

/// Tests the codes of a run against `labels` (one entry for each row of `posteriors`), and with `facts` of the prepared
/// folder also against models, prompt lengths and scores. `codes_of_run` is K.
///
/// # Errors
/// [`crate::Error::Frame`] where a column is missing or of another type, [`crate::Error::Run`] where a value is missing.
pub fn associate(
    posteriors: &DataFrame,
    codes_of_run: usize,
    labels: &[(String, Labels)],
    facts: Option<&PairFacts>,
    seed: Seed,
) -> Result<Associations> {
    let by = CodeBy::BOTH.map(|by| Ok((by, codes(posteriors, by.code())?)));
    let by = by.into_iter().collect::<Result<Vec<(CodeBy, Vec<u32>)>>>()?;
    let models = facts.map(|facts| (attribute::MODELS.to_string(), model_labels(facts)));
    let mut kept: Vec<&(String, Labels)> = labels.iter().chain(&models).collect();
    let many = |labels: &Labels| labels.names.len() > MOST_LABELS;
    let left_out = kept.iter().filter(|(_, l)| many(l)).map(|(name, l)| (name.clone(), l.names.len())).collect();
    kept.retain(|(_, labels)| !many(labels) && labels.rows.iter().any(Option::is_some));
    let mut quantities = quantities(posteriors, facts)?;
    quantities.retain(|(_, values)| values.iter().any(|value| !value.is_nan()));

    let splits = texts(posteriors, col::SPLIT)?;
    let test: Vec<usize> = (0..splits.len()).filter(|&row| splits[row] == SPLIT).collect();
    let all: Vec<usize> = (0..splits.len()).collect();
    let same = test.len() == all.len();
    let parts = [(SPLIT, test), (accuracy::ALL, all)];
    let parts = parts.iter().enumerate().filter(|(at, (_, rows))| !rows.is_empty() && (*at == 0 || !same));
    let associated = parts.map(|(_, (split, rows))| {
        let code = |codes: &[u32]| -> Vec<u32> { rows.iter().map(|&row| codes[row]).collect() };
        let by: Vec<(CodeBy, Vec<u32>)> = by.iter().map(|(by, codes)| (*by, code(codes))).collect();
        let with_labels = kept.iter().flat_map(|labels| by.iter().map(move |by| (*labels, by)));
        let mut labels: Vec<LabelAssociation> = with_labels
            .map(|((name, labels), (by, codes))| {
                let labels = Labels {
                    names: labels.names.clone(),
                    rows: rows.iter().map(|&row| labels.rows.get(row).copied().flatten()).collect(),
                };
                let purpose = format!("permutation of {name}, {}, {split}", by.name());
                of_labels(name, &labels, *by, codes, codes_of_run, seed, &purpose)
            })
            .collect();
        let with_numbers = quantities.iter().flat_map(|values| by.iter().map(move |by| (values, by)));
        let mut numbers: Vec<NumberAssociation> = with_numbers
            .map(|((name, values), (by, codes))| {
                let values: Vec<f64> = rows.iter().map(|&row| values[row]).collect();
                of_numbers(name, &values, *by, codes)
            })
            .collect();
        let adjusted = holm(&labels.iter().map(|l| l.p.unwrap_or(f64::NAN)).collect::<Vec<_>>());
        labels.iter_mut().zip(adjusted).for_each(|(l, p)| l.p_holm = Some(p).filter(|p| !p.is_nan()));
        let adjusted = holm(&numbers.iter().map(|n| n.test.map_or(f64::NAN, |t| t.p)).collect::<Vec<_>>());
        numbers.iter_mut().zip(adjusted).for_each(|(n, p)| n.p_holm = Some(p).filter(|p| !p.is_nan()));
        SplitAssociations { split: (*split).into(), n: rows.len() as u64, labels, numbers }
    });
    Ok(Associations { permutations: PERMUTATIONS, splits: associated.collect(), left_out })
}

fn of_labels(
    name: &str,
    labels: &Labels,
    by: CodeBy,
    codes: &[u32],
    codes_of_run: usize,
    seed: Seed,
    purpose: &str,
) -> LabelAssociation {
    let labelled = codes.iter().zip(&labels.rows).filter_map(|(&code, label)| Some((code, (*label)? as u32)));
    let (a, b): (Vec<u32>, Vec<u32>) = labelled.unzip();
    let k = a.iter().max().map_or(0, |&largest| largest as usize + 1).max(codes_of_run);
    let mut counts = vec![vec![0; labels.names.len()]; k];
    a.iter().zip(&b).for_each(|(&code, &label)| counts[code as usize][label as usize] += 1);
    let found = dependence(&a, &b, PERMUTATIONS, seed, purpose);
    LabelAssociation {
        attribute: name.into(),
        by,
        n: a.len() as u64,
        labels: labels.names.clone(),
        counts,
        nmi: found.map(|d| d.nmi),
        ami: found.map(|d| d.ami),
        p: found.map(|d| d.p),
        p_holm: None,
    }
}

fn of_numbers(name: &str, values: &[f64], by: CodeBy, codes: &[u32]) -> NumberAssociation {
    let mut of_code: std::collections::BTreeMap<u32, Vec<f64>> = std::collections::BTreeMap::new();
    for (&code, &value) in codes.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
        of_code.entry(code).or_default().push(value);
    }
    let summary = |(&code, values): (&u32, &mut Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        CodeNumbers {
            code,
            n: values.len() as u64,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            q1: quantile(values, 0.25),
            median: quantile(values, 0.5),
            q3: quantile(values, 0.75),
        }
    };
    let codes_with: Vec<CodeNumbers> = of_code.iter_mut().map(summary).collect();
    NumberAssociation {
        attribute: name.into(),
        by,
        n: codes_with.iter().map(|c| c.n).sum(),
        codes: codes_with,
        test: kruskal_wallis(codes, values),
        p_holm: None,
    }
}

#[cfg(test)]
mod tests;
