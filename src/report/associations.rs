//! Blocks on what the codes go with, and on the pairs that represent each code.

use super::codes::CODES_SHOWN;
use super::load::Code;
use super::meaning::{CodeMeaning, PreparedFolder};
use super::page::{Block, Column, Heat, Table};
use super::text::{count, joined, number, p_value, percent};
use crate::analysis::{
    Associations, CodeBy, CodeNumbers, CodeReading, LabelAssociation, NumberAssociation, RepresentativePair,
    Representatives, SplitAssociations,
};
use crate::schema::{accuracy, attribute};

/// Codes whose pairs are shown, the most used first: six texts of a few lines each.
const CODES_WITH_PAIRS: usize = 16;

/// What an attribute is, in words.
fn words(name: &str) -> &str {
    match name {
        attribute::MODELS => "models (chosen over rejected)",
        attribute::PREFERENCE => "planted preference",
        attribute::FACTOR => "planted factor",
        attribute::LENGTH_DIFFERENCE => "length difference (tokens)",
        attribute::PROMPT_LENGTH => "prompt length (characters)",
        attribute::SCORE_MARGIN => "score margin",
        attribute::IMPLICIT_MARGIN => "implicit margin (nats)",
        name => name,
    }
}

/// The section on associations.
pub(super) fn associations(meaning: &CodeMeaning, reading: &CodeReading, parts: &mut Vec<Block>) {
    let found = &meaning.associations;
    let Some(first) = found.splits.first() else { return };
    parts.push(Block::Heading("What the codes go with".into()));
    parts.push(Block::Text(format!(
        "The most probable code of each pair against what else is known of it. AMI is mutual information adjusted for \
         chance: about 0 where code and label are independent, 1 where they are the same. p is from {} permutations \
         of the labels, and is at least {}. Holm's procedure adjusts it for all tests of the table that are on the same \
         pairs. The posterior has seen the label; on training pairs the prior may know single prompts by heart.",
        found.permutations,
        number(Some(1.0 / (found.permutations + 1) as f64), 3)
    )));
    note(&meaning.prepared, parts);
    labels(found, parts);
    for labels in first.labels.iter().filter(|l| l.by == CodeBy::Posterior && l.nmi.is_some()) {
        if [attribute::SOURCE, attribute::PREFERENCE].contains(&labels.attribute.as_str()) {
            parts.push(Block::Heat(shares(labels, &first.split, reading)));
        }
    }
    numbers(first, reading, parts);
}

fn note(prepared: &PreparedFolder, parts: &mut Vec<Block>) {
    parts.extend(prepared.note.clone().map(Block::Warning));
}

fn of_pairs(split: &str) -> String {
    if split == accuracy::ALL { "all pairs".into() } else { format!("{split} pairs") }
}

/// The table of labellings, for every split.
fn labels(found: &Associations, parts: &mut Vec<Block>) {
    type Row<'a> = (&'a SplitAssociations, &'a LabelAssociation);
    let rows = found.splits.iter().flat_map(|split| split.labels.iter().map(move |labels| (split, labels)));
    // A labelling with one label, and codes that are all the same, have nothing to agree on.
    let rows: Vec<Row<'_>> = rows.filter(|(_, labels)| labels.nmi.is_some()).collect();
    let figure = |x: Option<f64>| number(x, 3);
    let occurring = |l: &LabelAssociation| {
        (0..l.labels.len()).filter(|&label| l.counts.iter().any(|of_code| of_code[label] > 0)).count()
    };
    let columns: [Column<'_, &Row<'_>>; 9] = [
        ("codes against", &|(_, l)| words(&l.attribute).to_string()),
        ("codes of the", &|(_, l)| l.by.name().to_string()),
        ("on", &|(split, _)| of_pairs(&split.split)),
        ("pairs", &|(_, l)| count(l.n)),
        ("labels", &|(_, l)| occurring(l).to_string()),
        ("NMI", &|(_, l)| figure(l.nmi)),
        ("AMI", &|(_, l)| figure(l.ami)),
        ("p", &|(_, l)| p_value(l.p)),
        ("p, Holm", &|(_, l)| p_value(l.p_holm)),
    ];
    if rows.is_empty() {
        let nothing =
            "Either all pairs have the same code, or the same labels: there is nothing that could go together.";
        parts.push(Block::Text(nothing.into()));
    } else {
        parts.push(Block::Table(Table::of("codes against labels of the pairs", 3, &rows, &columns)));
    }
    for (name, labels) in &found.left_out {
        parts.push(Block::Text(format!("Left out: {} has {labels} labels.", words(name))));
    }
}

/// Which labels the pairs of each code in use have.
fn shares(labels: &LabelAssociation, split: &str, reading: &CodeReading) -> Heat {
    let shown: Vec<usize> =
        (0..labels.labels.len()).filter(|&l| labels.counts.iter().any(|of_code| of_code[l] > 0)).collect();
    let row = |&code: &u32| {
        let counts = labels.counts.get(code as usize).map_or(&[] as &[u64], Vec::as_slice);
        let total: u64 = counts.iter().sum();
        let share = |&l: &usize| if total > 0 { counts[l] as f64 / total as f64 } else { f64::NAN };
        (format!("{code} ({total})"), shown.iter().map(share).collect())
    };
    Heat {
        caption: format!(
            "share of each {} among the {} whose most probable code by the {} is the row's; their number stands behind \
             the code",
            words(&labels.attribute),
            of_pairs(split),
            labels.by.name()
        ),
        corner: "code".into(),
        columns: shown.iter().map(|&l| labels.labels[l].clone()).collect(),
        rows: reading.used.iter().take(CODES_SHOWN).map(row).collect(),
        base: 0.0,
        peaks: false,
    }
}

/// The tests of quantities, and the quantities by code.
fn numbers(found: &SplitAssociations, reading: &CodeReading, parts: &mut Vec<Block>) {
    let tested: Vec<&NumberAssociation> = found.numbers.iter().filter(|n| n.test.is_some()).collect();
    if tested.is_empty() {
        return;
    }
    let test = |n: &NumberAssociation, get: fn(&crate::analysis::KruskalWallis) -> f64| n.test.as_ref().map(get);
    let columns: [Column<'_, &&NumberAssociation>; 7] = [
        ("quantity", &|n| words(&n.attribute).to_string()),
        ("codes of the", &|n| n.by.name().to_string()),
        ("pairs", &|n| count(n.n)),
        ("H", &|n| number(test(n, |t| t.h), 1)),
        ("epsilon squared", &|n| number(test(n, |t| t.epsilon_squared), 3)),
        ("p", &|n| p_value(test(n, |t| t.p))),
        ("p, Holm", &|n| p_value(n.p_holm)),
    ];
    let caption = format!(
        "whether codes differ in a quantity, on the {}: Kruskal and Wallis' test; epsilon squared is 0 where all codes \
         have the same mean rank, and 1 where the code tells the rank",
        of_pairs(&found.split)
    );
    parts.push(Block::Table(Table::of(caption, 2, &tested, &columns)));
    for by in CodeBy::BOTH {
        let own: Vec<&NumberAssociation> = tested.iter().copied().filter(|n| n.by == by).collect();
        if !own.is_empty() {
            parts.push(Block::Table(by_code(&own, by, found, reading)));
        }
    }
}

/// Median and quartiles of each quantity for each code in use; of flips the share.
fn by_code(quantities: &[&NumberAssociation], by: CodeBy, found: &SplitAssociations, reading: &CodeReading) -> Table {
    let of_code = |n: &NumberAssociation, code: u32| n.codes.iter().find(|c| c.code == code).cloned();
    let cell = |n: &NumberAssociation, code: u32| match of_code(n, code) {
        None => "–".into(),
        Some(found) if n.attribute == attribute::FLIPPED => percent(found.mean, 1),
        Some(CodeNumbers { q1, median, q3, .. }) => {
            let counted = [attribute::LENGTH_DIFFERENCE, attribute::PROMPT_LENGTH].contains(&n.attribute.as_str());
            let decimals = if counted { 1 } else { 2 };
            let [q1, median, q3] = [q1, median, q3].map(|x| number(Some(x), decimals));
            format!("{median} ({q1} to {q3})")
        }
    };
    let shown = || reading.used.iter().take(CODES_SHOWN);
    let pairs = |code: u32| quantities.iter().filter_map(|n| of_code(n, code)).map(|c| c.n).max().unwrap_or(0);
    let row = |&code: &u32| {
        let cells = quantities.iter().map(|n| cell(n, code));
        [code.to_string(), count(pairs(code))].into_iter().chain(cells).collect()
    };
    let heads = quantities.iter().map(|n| words(&n.attribute).to_string());
    Table {
        caption: format!(
            "median and quartiles by the {}'s code, on the {}; of flips the share",
            by.name(),
            of_pairs(&found.split)
        ),
        header: ["code", "pairs"].into_iter().map(String::from).chain(heads).collect(),
        rows: shown().map(row).collect(),
        text_columns: 1,
    }
}

/// The section on the pairs of each code, beside the tokens that it raises and lowers.
pub(super) fn pairs(meaning: &CodeMeaning, reading: &CodeReading, codes: &[Code], parts: &mut Vec<Block>) {
    if meaning.representatives.iter().all(|of| of.pairs.is_empty()) {
        return;
    }
    parts.push(Block::Heading("Pairs that represent each code".into()));
    let splits: Vec<&str> = meaning.associations.splits.iter().map(|s| s.split.as_str()).take(1).collect();
    parts.push(Block::Text(format!(
        "Of the {}, those to which the prior, and those to which the posterior gives the code the most weight; one pair \
         of a prompt. Texts are cut; the chosen response is the one observed as preferred.",
        of_pairs(splits.first().unwrap_or(&accuracy::ALL))
    )));
    let with_texts = meaning.representatives.iter().flat_map(|of| &of.pairs).any(|pair| pair.texts.is_some());
    if !with_texts {
        let why = meaning.prepared.note.clone().unwrap_or_else(|| "The texts of these pairs are not available.".into());
        parts.push(Block::Warning(why));
    }
    for &code in reading.used.iter().take(CODES_WITH_PAIRS) {
        let own: Vec<&Representatives> = meaning.representatives.iter().filter(|of| of.code == code).collect();
        parts.push(Block::Table(pairs_of(code, &own, codes, reading, with_texts)));
    }
    let more = reading.used.len().saturating_sub(CODES_WITH_PAIRS);
    if more > 0 {
        parts.push(Block::Text(format!("The pairs of {more} more codes in use are in the output of report --json.")));
    }
}

fn pairs_of(code: u32, own: &[&Representatives], codes: &[Code], reading: &CodeReading, with_texts: bool) -> Table {
    let row = |by: CodeBy, pair: &RepresentativePair| -> Vec<String> {
        let label = if pair.flipped { "flipped" } else { "as given" };
        let mut row = vec![by.name().to_string(), pair.source.clone(), label.to_string()];
        match &pair.texts {
            Some(texts) => row.extend([texts.prompt.clone(), texts.chosen.clone(), texts.rejected.clone()]),
            None if with_texts => row.extend(["–"; 3].map(String::from)),
            None => row.push(pair.id.clone()),
        }
        row.push(number(Some(pair.weight), 3));
        row
    };
    let heads: &[&str] = if with_texts { &["prompt", "chosen", "rejected"] } else { &["id"] };
    let header = ["by the", "source", "label"].iter().chain(heads).chain(&["weight"]).map(ToString::to_string);
    let header: Vec<String> = header.collect();
    let share = |shares: &[f64]| percent(shares.get(code as usize).copied().unwrap_or(f64::NAN), 1);
    let tokens = codes.iter().find(|c| c.code == i64::from(code)).filter(|c| !c.top.is_empty());
    let tokens =
        tokens.map_or_else(String::new, |c| format!("; raises {}; lowers {}", joined(&c.top), joined(&c.bottom)));
    Table {
        caption: format!(
            "code {code}: {} of all pairs by the prior, {} by the posterior{tokens}",
            share(&reading.usage_prior),
            share(&reading.usage_posterior)
        ),
        text_columns: header.len() - 1,
        header,
        rows: own.iter().flat_map(|of| of.pairs.iter().map(|pair| row(of.by, pair))).collect(),
    }
}
