//! A run's codes as text: agreement, accuracies and duplicates.

use std::fmt::Write;

use super::columns;
use crate::analysis::{CodeAccuracy, CodeReading};

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
    use crate::analysis::{CodeAgreement, Duplicate, LabelAccuracy, wilson};

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
        assert!(!codes(&reading, None).contains("code  use"));
        let bare = CodeReading { agreement: None, duplicates: Vec::new(), ..reading };
        assert_eq!(codes(&bare, None), "");
    }
}
