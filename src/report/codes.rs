//! Blocks on single codes: their accuracies by source and by planted preference, and duplicates.

use super::page::{Block, Column, Heat, Table};
use super::text::{interval, number, percent};
use crate::analysis::{CodeAccuracy, CodeAgreement, CodeReading, Interval, LabelAccuracy};

/// Codes shown at most, the most used first.
pub(super) const CODES_SHOWN: usize = 64;
/// Duplicates named at most.
const DUPLICATES_NAMED: usize = 12;

/// Prior against posterior, for the section of the latent.
pub(super) fn agreement(found: &CodeAgreement) -> Block {
    let row = |name: &str, prior: String, posterior: String| vec![name.to_string(), prior, posterior];
    let figure = |x: f64| number(Some(x), 2);
    Block::Table(Table {
        caption: format!(
            "the codes on the {} pairs of the {} split; both name the same code in {} of them; normalised mutual \
             information of the two codes: {}",
            found.n,
            found.split,
            percent(found.same, 1),
            number(found.nmi, 3)
        ),
        header: ["", "prior", "posterior"].map(String::from).to_vec(),
        rows: vec![
            row("effective codes", figure(found.effective_prior), figure(found.effective_posterior)),
            row("perplexity", figure(found.perplexity_prior), figure(found.perplexity_posterior)),
        ],
        text_columns: 1,
    })
}

/// Accuracies of single codes, and codes that say the same. Nothing where the run's posteriors hold no such margins.
pub(super) fn meaning(reading: &CodeReading, preferences: Option<&CodeAccuracy>, parts: &mut Vec<Block>) {
    let Some(sources) = reading.sources.as_ref().filter(|_| reading.n > 0) else { return };
    parts.push(Block::Heading("What each code prefers".into()));
    parts.push(Block::Text(format!(
        "Each code alone, without prior or posterior, on the {} pairs of the {} split: the share of pairs that it \
         orders as their clean label does; a tie is wrong. Codes in use are shown, the most used first. A code that \
         stands for a preference is high where that preference decides, and near one half or lower elsewhere.",
        reading.n, reading.split
    )));
    if reading.used.len() > CODES_SHOWN {
        let (shown, all) = (CODES_SHOWN, reading.used.len());
        parts.push(Block::Text(format!("The {shown} most used of {all} codes in use are shown.")));
    }
    for (what, table) in preferences.map(|p| ("planted preference", p)).into_iter().chain([("source", sources)]) {
        matrix(reading, what, table, parts);
    }
    duplicates(reading, parts);
}

/// A heat map of codes by labels, and a table with the best code of each label.
fn matrix(reading: &CodeReading, what: &str, table: &CodeAccuracy, parts: &mut Vec<Block>) {
    let labels: Vec<&LabelAccuracy> = table.labels.iter().filter(|l| l.n > 0).collect();
    let share = |label: &LabelAccuracy, code: u32| label.codes.get(code as usize).map_or(f64::NAN, |i| i.estimate);
    let row = |&code: &u32| (code.to_string(), labels.iter().map(|l| share(l, code)).collect());
    parts.push(Block::Heat(Heat {
        caption: format!("accuracy of each code alone, by {what}; the best shown code of each column stands out"),
        corner: "code".into(),
        columns: labels.iter().map(|l| l.label.clone()).collect(),
        rows: reading.used.iter().take(CODES_SHOWN).map(row).collect(),
        base: 0.5,
        peaks: true,
    }));
    let best = |l: &LabelAccuracy| l.best.and_then(|code| l.codes.get(code as usize)).copied();
    let share = |found: Option<Interval>| found.map_or("–".into(), |i| percent(i.estimate, 1));
    let ends = |found: Option<Interval>| interval(found.map(|i| i.low), found.map(|i| i.high));
    let columns: [Column<'_, &LabelAccuracy>; 7] = [
        (what, &|l| l.label.clone()),
        ("pairs", &|l| l.n.to_string()),
        ("prior's choice", &|l| share(l.prior)),
        ("95 %", &|l| ends(l.prior)),
        ("best code", &|l| l.best.map_or("–".into(), |code| code.to_string())),
        ("its accuracy", &|l| share(best(l))),
        ("95 %", &|l| ends(best(l))),
    ];
    let codes = reading.codes;
    let caption =
        format!("the best of {codes} codes was chosen on the same pairs: with few pairs its accuracy is too high");
    parts.push(Block::Table(Table::of(caption, 1, labels, &columns)));
}

fn duplicates(reading: &CodeReading, parts: &mut Vec<Block>) {
    if reading.duplicates.is_empty() {
        return;
    }
    if reading.all_say_the_same() {
        let lowest = reading.duplicates.iter().map(|d| d.correlation).fold(1.0, f64::min);
        return parts.push(Block::Text(format!(
            "All {} codes in use say nearly the same of every pair (correlation of their margins with the lowest \
             code's: {lowest:.2} or more): what is preferred hardly depends on the code.",
            reading.used.len()
        )));
    }
    let named: Vec<String> = reading.duplicates.iter().take(DUPLICATES_NAMED).map(ToString::to_string).collect();
    let more = reading.duplicates.len().saturating_sub(DUPLICATES_NAMED);
    let more = if more > 0 { format!("; and {more} more (duplicate_of in codes.parquet)") } else { String::new() };
    parts.push(Block::Text(format!(
        "Duplicates, by the correlation of their margins (above {:.2}): {}{more}.",
        reading.duplicate_correlation,
        named.join("; ")
    )));
}
