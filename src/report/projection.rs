//! Blocks on the posteriors in the plane.

use super::page::{Block, Column, Figure, Table};
use super::scatter::Scatter;
use super::text::{count, number, percent};
use crate::analysis::{Colour, Method, Projection};
use crate::schema::attribute;

/// What an attribute is, in words.
fn words(colour: &Colour) -> &str {
    match colour.label.as_str() {
        attribute::PREFERENCE => "planted preference",
        attribute::FACTOR => "planted factor",
        name => name,
    }
}

/// The section on the projection; a sentence where there is none although it was asked for.
pub(super) fn projection(found: Option<&Projection>, method: Method, parts: &mut Vec<Block>) {
    if method == Method::None {
        return;
    }
    parts.push(Block::Heading("The posteriors in the plane".into()));
    let Some(found) = found else {
        let nothing = "There is nothing to show: the run has too few pairs, or all posteriors are the same.";
        return parts.push(Block::Text(nothing.into()));
    };
    let sampled = if found.n < found.pairs {
        format!("{} of the run's {} pairs, drawn by their ids", count(found.n), count(found.pairs))
    } else {
        format!("All {} pairs", count(found.n))
    };
    let [first, second] = found.explained.map(|share| percent(share, 1));
    let layout = match (found.perplexity, found.kl) {
        (Some(perplexity), Some(kl)) => format!(
            " t-SNE (perplexity {}) keeps near pairs near; distances between groups, and their sizes, mean nothing. Its \
             divergence is {} nats.",
            number(Some(perplexity), 1),
            number(Some(kl), 3)
        ),
        _ => String::new(),
    };
    parts.push(Block::Text(format!(
        "{sampled}, by their posterior probabilities, which have seen the label. The two principal components have \
         {first} and {second} of the variance.{layout} The silhouette is measured between the posteriors themselves, \
         not in the plane: 1 where the labels are far apart, about 0 where they overlap, negative where pairs lie nearer \
         to another label than to their own. NMI and AMI are those of label and posterior code. All figures are of the \
         same pairs, whose coordinates are in projection.parquet."
    )));
    let figure = |x: Option<f64>| number(x, 3);
    let columns: [Column<'_, &Colour>; 6] = [
        ("label", &|c| words(c).to_string()),
        ("pairs", &|c| count(c.n)),
        ("labels", &|c| c.labels.to_string()),
        ("silhouette", &|c| figure(c.silhouette)),
        ("NMI", &|c| figure(c.nmi)),
        ("AMI", &|c| figure(c.ami)),
    ];
    parts.push(Block::Table(Table::of("how far labels separate the posteriors", 1, &found.colours, &columns)));
    let mut figures = Vec::new();
    // Points of one colour are drawn once only, where no label tells them apart.
    let mut colours: Vec<&Colour> = found.colours.iter().filter(|colour| colour.labels > 1).collect();
    if colours.is_empty() {
        colours.extend(found.colours.first());
    }
    for colour in colours {
        for (name, points) in [("t-SNE", &found.tsne), ("Principal components", &found.pca)] {
            if points.is_empty() {
                continue;
            }
            figures.push(Figure {
                title: format!("{name}, by {}", words(colour)),
                caption: String::new(),
                chart: Scatter::of(points, &colour.points.names, &colour.points.rows).into(),
            });
        }
    }
    parts.push(Block::Figures(figures));
}
