//! A run's codes as text: agreement, accuracies and duplicates.

use std::fmt::Write;

use super::{columns, p_value};
use crate::analysis::{Associations, CodeAccuracy, CodeReading};

/// Codes listed at most.
const CODES_LISTED: usize = 16;
/// Duplicates named at most.
const DUPLICATES_NAMED: usize = 4;

/// Agreement of prior and posterior, accuracy of each code alone on the pairs of each planted preference, duplicates.
pub fn codes(reading: &CodeReading, preferences: Option<&CodeAccuracy>) -> String {
    let mut text = String::new();
    if let Some(a) = &reading.agreement {
        let _ = writeln!(
            text,
            "\nprior and posterior: the same code in {}, NMI {}\neffective codes: {:.2} by the prior, {:.2} by the \
             posterior; perplexity {:.2} and {:.2}",
            super::percent(a.same),
            a.nmi.map_or("-".into(), |nmi| format!("{nmi:.2}")),
            a.effective_prior,
            a.effective_posterior,
            a.perplexity_prior,
            a.perplexity_posterior,
        );
    }
    if let Some(table) = preferences {
        let _ = writeln!(text, "\nwhat each code alone orders rightly, in % of the {} pairs of:", table.split);
        text += &matrix(reading, table);
    }
    for duplicate in reading.duplicates.iter().take(DUPLICATES_NAMED) {
        let _ = writeln!(text, "{duplicate}");
    }
    let more = reading.duplicates.len().saturating_sub(DUPLICATES_NAMED);
    if more > 0 {
        let _ = writeln!(text, "{more} more codes say what another one says");
    }
    if text.is_empty() { text } else { text + "\n" }
}

/// How far the codes go with labels of the pairs, on the first split; nothing where they cannot.
pub fn associations(found: &Associations) -> String {
    let Some(split) = found.splits.first() else { return String::new() };
    let figure = |x: Option<f64>, decimals: usize| x.map_or("-".into(), |x| format!("{x:.decimals$}"));
    let row = |l: &crate::analysis::LabelAssociation| {
        vec![
            l.attribute.clone(),
            l.by.name().to_string(),
            l.n.to_string(),
            figure(l.nmi, 2),
            figure(l.ami, 2),
            p_value(l.p_holm, 3),
        ]
    };
    let rows: Vec<Vec<String>> = split.labels.iter().filter(|l| l.nmi.is_some()).map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let table = columns(&["codes against", "by the", "pairs", "NMI", "AMI", "p (Holm)"], &rows);
    format!("\nwhat the codes go with, {} pairs of {}:\n{table}\n", split.n, split.split)
}

/// Codes in use by preference, the most used first; below them the prior's choice and the counts.
fn matrix(reading: &CodeReading, table: &CodeAccuracy) -> String {
    let labels: Vec<_> = table.labels.iter().filter(|l| l.n > 0).collect();
    // The value alone is short, and distinguishes the planted preferences.
    let short = |label: &str| label.rsplit_once('=').map_or(label, |(_, value)| value).to_string();
    let heads: Vec<String> = labels.iter().map(|l| short(&l.label)).collect();
    let head: Vec<&str> = ["code", "use"].into_iter().chain(heads.iter().map(String::as_str)).collect();
    let share = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.0}", 100.0 * x));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for &code in reading.used.iter().take(CODES_LISTED) {
        let k = code as usize;
        let mut row = vec![code.to_string(), share(reading.usage_prior.get(k).copied())];
        row.extend(labels.iter().map(|l| share(l.codes.get(k).map(|i| i.estimate))));
        rows.push(row);
    }
    let mut prior = vec!["prior".to_string(), String::new()];
    prior.extend(labels.iter().map(|l| share(l.prior.map(|i| i.estimate))));
    let mut pairs = vec!["pairs".to_string(), String::new()];
    pairs.extend(labels.iter().map(|l| l.n.to_string()));
    rows.extend([prior, pairs]);
    let mut text = columns(&head, &rows);
    let left = reading.used.len().saturating_sub(CODES_LISTED);
    if left > 0 {
        let _ = writeln!(text, "{left} more codes in use are in report.html");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{
        CodeAgreement, CodeBy, Duplicate, LabelAccuracy, LabelAssociation, SplitAssociations, wilson,
    };

    #[test]
    fn the_matrix_in_a_terminal() {
        let label = |name: &str, hits: [u64; 3], n: u64| LabelAccuracy {
            label: name.into(),
            n,
            prior: Some(wilson(n, n)),
            best: Some(0),
            codes: hits.map(|h| wilson(h, n)).to_vec(),
        };
        let none =
            LabelAccuracy { n: 0, prior: None, best: None, codes: Vec::new(), ..label("risk=direct", [0; 3], 1) };
        let table = CodeAccuracy {
            split: "test".into(),
            labels: vec![label("length=short", [4, 1, 2], 4), none, label("length=thorough", [2, 9, 5], 10)],
        };
        let reading = CodeReading {
            split: "test".into(),
            n: 14,
            codes: 3,
            used: vec![1, 0],
            usage_prior: vec![0.25, 0.75, 0.0],
            usage_posterior: vec![0.25, 0.75, 0.0],
            agreement: Some(CodeAgreement {
                split: "test".into(),
                n: 14,
                nmi: Some(0.5),
                same: 0.75,
                effective_prior: 1.5,
                effective_posterior: 1.8,
                perplexity_prior: 1.75,
                perplexity_posterior: 2.0,
            }),
            all: None,
            sources: None,
            duplicates: vec![Duplicate { code: 1, duplicate_of: 0, correlation: 0.976 }],
            duplicate_correlation: 0.95,
        };
        insta::assert_snapshot!(codes(&reading, Some(&table)).trim(), @"
        prior and posterior: the same code in 75.0 %, NMI 0.50
        effective codes: 1.50 by the prior, 1.80 by the posterior; perplexity 1.75 and 2.00

        what each code alone orders rightly, in % of the test pairs of:
        code   use  short  thorough
        1       75     25        90
        0       25    100        20
        prior         100       100
        pairs           4        10
        codes 0 and 1 say the same: correlation 0.98
        ");
        let labels = |attribute: &str, ami: Option<f64>| LabelAssociation {
            attribute: attribute.into(),
            by: CodeBy::Posterior,
            n: 14,
            labels: vec!["a".into(), "b".into()],
            counts: vec![vec![7, 0], vec![0, 7]],
            nmi: ami,
            ami,
            p: ami.map(|_| 0.001),
            p_holm: ami.map(|_| 0.002),
        };
        let labels = vec![labels("source", Some(0.876)), labels("flipped", None)];
        let split = SplitAssociations { split: "test".into(), n: 14, labels, numbers: Vec::new() };
        let mut found = Associations { permutations: 999, splits: vec![split], left_out: Vec::new() };
        insta::assert_snapshot!(associations(&found).trim(), @"
        what the codes go with, 14 pairs of test:
        codes against     by the  pairs   NMI   AMI  p (Holm)
        source         posterior     14  0.88  0.88     0.002
        ");
        found.splits[0].labels.remove(0);
        assert_eq!(associations(&found), "");
        assert!(!codes(&reading, None).contains("code  use"));
        let bare = CodeReading { agreement: None, duplicates: Vec::new(), ..reading };
        assert_eq!(codes(&bare, None), "");
    }
}
